//! Heads of frames: what our parser says is what smoltcp's says, and what it refuses has a reason. IPv6 extension headers
//! are walked over once more, by a loop that was written for this.

use std::net::IpAddr;

use passt::fuzzing::{Head, Ip, L4, head, l4};
use passt::wire::DropReason;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet, TcpOption, TcpPacket, UdpPacket,
};

/// Bytes of a frame that the program copies to look at.
const COPIED: usize = 128;

/// Ethernet's two types come often enough if half of all inputs have one.
pub fn run(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let mut frame = rest.to_vec();
    match kind {
        0..96 => insert(&mut frame, 0x0800),
        96..192 => insert(&mut frame, 0x86dd),
        _ => {}
    }
    if frame.len() < 14 {
        return;
    }
    whole(&frame);
    cut(&frame);
}

fn insert(frame: &mut Vec<u8>, kind: u16) {
    frame.splice(0..0, [0; 12].into_iter().chain(kind.to_be_bytes()));
}

/// All of the frame is there to look at.
fn whole(frame: &[u8]) {
    let found = head(frame, frame.len() as u32);
    if frame[12..14] == [0x81, 0] {
        return tagged(found, frame);
    }
    let ethernet = EthernetFrame::new_checked(frame).expect("it has a header");
    match ethernet.ethertype() {
        EthernetProtocol::Arp => assert_eq!(found, Ok(Head::Arp)),
        EthernetProtocol::Ipv4 => v4(found, frame, ethernet.payload()),
        EthernetProtocol::Ipv6 => v6(found, frame, ethernet.payload()),
        EthernetProtocol::Unknown(_) => assert_eq!(found, Err(DropReason::UnknownEtherType)),
    }
}

/// A frame with a tag is what it is without, if that gives it a priority only.
fn tagged(found: Result<Head, DropReason>, frame: &[u8]) {
    let Some(tag) = frame.get(14..18) else {
        assert_eq!(found, Err(DropReason::Truncated));
        return;
    };
    if (tag[0] & 15, tag[1]) != (0, 0) || tag[2..] == [0x81, 0] {
        assert_eq!(found, Err(DropReason::UnknownEtherType));
        return;
    }
    let plain = [&frame[..12], &frame[16..]].concat();
    let moved = match head(&plain, plain.len() as u32) {
        Ok(Head::Igmp(source, at, len)) => Ok(Head::Igmp(source, at + 4, len)),
        Ok(Head::Ip(ip, place)) => Ok(Head::Ip(Ip { l4_offset: ip.l4_offset + 4, ..ip }, place)),
        other => other,
    };
    assert_eq!(found, moved);
}

/// Only the first bytes are: the same, or that it cannot be told.
fn cut(frame: &[u8]) {
    let copied = &frame[..frame.len().min(COPIED)];
    let (all, part) = (head(frame, frame.len() as u32), head(copied, frame.len() as u32));
    assert!(part == all || part == Err(DropReason::HeadersTooLong), "{part:?}, {all:?}");
    let (all, part) = (l4(frame, frame.len() as u32), l4(copied, frame.len() as u32));
    assert!(part == all || part == Err(DropReason::HeadersTooLong), "{part:?}, {all:?}");
}

fn v4(found: Result<Head, DropReason>, frame: &[u8], bytes: &[u8]) {
    let theirs = Ipv4Packet::new_checked(bytes)
        .ok()
        .filter(|packet| packet.version() == 4 && packet.header_len() >= 20);
    let Some(theirs) = theirs else {
        assert!(matches!(found, Err(DropReason::Malformed | DropReason::Truncated)), "{found:?}");
        return;
    };
    let protocol = u8::from(theirs.next_header());
    let (offset, more) = (u32::from(theirs.frag_offset()), theirs.more_frags());
    if bytes[6] & 0x80 != 0 {
        assert_eq!(found, Err(DropReason::Fragment));
        return;
    }
    if protocol == 2 && offset == 0 && !more {
        let len = theirs.total_len() - u16::from(theirs.header_len());
        let at = 14 + usize::from(theirs.header_len());
        assert_eq!(found, Ok(Head::Igmp(theirs.src_addr().into(), at, len.into())));
        return;
    }
    if ![1, 6, 17].contains(&protocol) {
        assert_eq!(found, Err(DropReason::UnknownProtocol));
        return;
    }
    let place = (offset != 0 || more).then_some((offset, more, u32::from(theirs.ident())));
    let ip = Ip {
        source: theirs.src_addr().into(),
        destination: theirs.dst_addr().into(),
        hop_limit: theirs.hop_limit(),
        traffic_class: theirs.dscp() << 2 | theirs.ecn(),
        protocol,
        l4_offset: 14 + usize::from(theirs.header_len()),
        l4_len: u32::from(theirs.total_len()) - u32::from(theirs.header_len()),
    };
    assert_eq!(found, Ok(Head::Ip(ip, place)));
    if place.is_none() {
        above(&ip, frame);
    }
}

fn v6(found: Result<Head, DropReason>, frame: &[u8], bytes: &[u8]) {
    let theirs = Ipv6Packet::new_checked(bytes).ok().filter(|packet| packet.version() == 6);
    let Some(theirs) = theirs else {
        assert!(matches!(found, Err(DropReason::Malformed | DropReason::Truncated)), "{found:?}");
        return;
    };
    let Some((protocol, walked, place)) = walk(theirs.next_header().into(), theirs.payload())
    else {
        assert!(found.is_err(), "{found:?}");
        return;
    };
    let ip = Ip {
        source: theirs.src_addr().into(),
        destination: theirs.dst_addr().into(),
        hop_limit: theirs.hop_limit(),
        traffic_class: theirs.traffic_class(),
        protocol,
        l4_offset: 54 + walked,
        l4_len: u32::from(theirs.payload_len()) - walked as u32,
    };
    assert_eq!(found, Ok(Head::Ip(ip, place)));
    if place.is_none() {
        above(&ip, frame);
    }
}

/// Offset, whether there is more, and number of a fragment.
type Place = Option<(u32, bool, u32)>;

/// The protocol that is translated, the bytes in front of it, and the fragment that it is. `None` if there is no such
/// thing.
fn walk(first: u8, payload: &[u8]) -> Option<(u8, usize, Place)> {
    let (mut kind, mut at, mut atomic) = (first, 0, None);
    loop {
        let header = payload.get(at..)?;
        match kind {
            6 | 17 => return Some((kind, at, None)),
            58 => return Some((kind, at, atomic)),
            44 => {
                let word = u16::from_be_bytes([*header.get(2)?, *header.get(3)?]);
                let id = u32::from_be_bytes(header.get(4..8)?.try_into().ok()?);
                let place = (u32::from(word & !7), word & 1 != 0, id);
                (kind, at) = (header[0], at + 8);
                if place.0 != 0 || place.1 {
                    return [6, 17, 58].contains(&kind).then_some((kind, at, Some(place)));
                }
                atomic = Some(place);
            }
            // On its way to somebody else.
            43 if header.get(3).is_some_and(|&left| left != 0) => return None,
            0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
                let len = usize::from(*header.get(7).and(header.get(1))?);
                let bytes = if kind == 51 { (len + 2) * 4 } else { (len + 1) * 8 };
                (kind, at) = (header[0], at + bytes);
                if at > payload.len() {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// What stands above the IP header.
fn above(ip: &Ip, frame: &[u8]) {
    let bytes = &frame[ip.l4_offset..][..ip.l4_len as usize];
    let found = l4(frame, frame.len() as u32);
    match ip.protocol {
        6 => tcp(found, bytes),
        17 => udp(found, bytes),
        _ => {}
    }
}

fn udp(found: Result<L4, DropReason>, bytes: &[u8]) {
    // smoltcp lets nobody send to port 0 either, but tells so only when it reads the whole message.
    let theirs = UdpPacket::new_checked(bytes).ok();
    let Some(theirs) = theirs.filter(|udp| udp.src_port() != 0 && udp.dst_port() != 0) else {
        assert!(found.is_err(), "{found:?}");
        return;
    };
    let (source, destination) = (theirs.src_port(), theirs.dst_port());
    let payload_len = u32::from(theirs.len()) - 8;
    assert_eq!(
        found,
        Ok(L4 { source, destination, payload_len, tcp: None, options: (None, None) })
    );
}

fn tcp(found: Result<L4, DropReason>, bytes: &[u8]) {
    let theirs = TcpPacket::new_checked(bytes).ok();
    let Some(theirs) = theirs.filter(|tcp| tcp.src_port() != 0 && tcp.dst_port() != 0) else {
        assert!(found.is_err(), "{found:?}");
        return;
    };
    let flags = bytes[13];
    let numbers =
        (theirs.seq_number().0 as u32, theirs.ack_number().0 as u32, flags, theirs.window_len());
    let options = if theirs.syn() { syn_options(theirs.options()) } else { (None, None) };
    assert_eq!(
        found,
        Ok(L4 {
            source: theirs.src_port(),
            destination: theirs.dst_port(),
            payload_len: bytes.len() as u32 - u32::from(theirs.header_len()),
            tcp: Some(numbers),
            options,
        })
    );
}

/// Maximum segment size and window scale. Behind what cannot be read, nothing counts; smoltcp limits the scale, as
/// RFC 7323 says, and skips options that it does not know whatever their length.
fn syn_options(mut bytes: &[u8]) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut scale) = (None, None);
    while let [kind, rest @ ..] = bytes {
        match (kind, rest) {
            (0, _) => break,
            (1, _) => bytes = rest,
            (2, [4, a, b, rest @ ..]) => {
                mss = Some(u16::from_be_bytes([*a, *b]));
                bytes = rest;
            }
            (3, [3, value, rest @ ..]) => {
                scale = Some(*value);
                bytes = rest;
            }
            (4, [2, rest @ ..]) => bytes = rest,
            (8, [10, rest @ ..]) if rest.len() >= 8 => bytes = &rest[8..],
            (5, [len @ (10 | 18 | 26 | 34), rest @ ..]) if rest.len() + 2 >= usize::from(*len) => {
                bytes = &rest[usize::from(*len) - 2..];
            }
            _ => break,
        }
        // A third opinion, where it can be had.
        if let Some(value) = mss.filter(|_| *kind == 2) {
            let option = [2, 4, (value >> 8) as u8, value as u8];
            let read = TcpOption::parse(&option).map(|(_, option)| option);
            assert_eq!(read, Ok(TcpOption::MaxSegmentSize(value)));
        }
    }
    (mss, scale)
}

/// So that a wrong family does not go unnoticed.
const _: fn(&Ip) -> bool = |ip| matches!(ip.source, IpAddr::V4(_) | IpAddr::V6(_));
