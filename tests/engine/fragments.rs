//! UDP datagrams that come in fragments: what reaches the host, and what does not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::limits::{REASSEMBLY_SLOTS, REASSEMBLY_TIMEOUT};
use passt::wire::DropReason;
use passt_frame::FrameMeta;

use crate::namespace::isolated;
use crate::packet::{self, UDP};
use crate::world::{FAMILIES, Family, Setup, World};

/// Turns in which a datagram is done with.
const TURNS: usize = 64;
/// Bytes of a fragment at MTU 1500.
const PIECE: usize = 1448;
/// The longest wait for a datagram that must come.
const PATIENCE: Duration = Duration::from_secs(5);

fn guest_at(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), 5000)
}

fn bound(at: SocketAddr) -> UdpSocket {
    UdpSocket::bind(at).expect("a free port")
}

/// The next `count` datagrams; a loaded host takes its time to deliver them. None may follow.
fn received(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 65536];
    let mut next = || socket.recv(&mut bytes).map(|len| bytes[..len].to_vec());
    socket.set_read_timeout(Some(PATIENCE)).expect("setsockopt");
    let datagrams = (0..count).map(|_| next().expect("a datagram")).collect();
    socket.set_nonblocking(true).expect("fcntl");
    assert_eq!(next().map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    socket.set_nonblocking(false).expect("fcntl");
    datagrams
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The ones' complement sum of a packet's L4 part, with the pseudo header if there is one.
pub fn sum(protocol: u8, from: IpAddr, to: IpAddr, l4: &[u8]) -> u16 {
    let len = (l4.len() as u32).to_be_bytes();
    let mut summed = Vec::new();
    if protocol != 1 {
        summed = [&octets(from)[..], &octets(to), &len, &[0, protocol]].concat();
    }
    summed.extend(l4);
    let pair = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u64 = summed.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP header and its payload, with the checksum of RFC 768.
pub fn message(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut message = packet::udp_message(from.port(), to.port(), payload);
    let sum = sum(UDP, from.ip(), to.ip(), &message);
    let checksum = if sum == 0xffff { 0xffff } else { !sum };
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The frame with bytes `start..end` of what is behind the IP header of packet number `id`.
fn fragment_of(
    (from, to): (IpAddr, IpAddr),
    (protocol, id): (u8, u16),
    l4: &[u8],
    start: usize,
    end: usize,
) -> Vec<u8> {
    let (piece, more) = (&l4[start..end], end < l4.len());
    if from.is_ipv4() {
        let mut frame = packet::ip(from, to, protocol, 64, piece);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (start / 8) as u16 | u16::from(more) << 13;
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        return frame;
    }
    let mut packet = vec![protocol, 0];
    packet.extend((start as u16 | u16::from(more)).to_be_bytes());
    packet.extend(u32::from(id).to_be_bytes());
    packet.extend(piece);
    packet::ip(from, to, 44, 64, &packet)
}

/// The frame with bytes `start..end` of datagram number `id`.
fn fragment(
    (from, to): (SocketAddr, SocketAddr),
    id: u16,
    datagram: &[u8],
    start: usize,
    end: usize,
) -> Vec<u8> {
    fragment_of((from.ip(), to.ip()), (UDP, id), datagram, start, end)
}

/// The frames of a packet number `id` cut every `piece` bytes behind its IP header, with the checksum that it must
/// have. It has ICMP's or TCP's.
pub fn cut_l4(
    ends: (IpAddr, IpAddr),
    protocol: u8,
    id: u16,
    l4: &[u8],
    piece: usize,
) -> Vec<Vec<u8>> {
    let at = if protocol == packet::TCP { 16 } else { 2 };
    let mut l4 = l4.to_vec();
    l4[at..at + 2].fill(0);
    let checksum = !sum(protocol, ends.0, ends.1, &l4);
    l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    let starts = (0..l4.len()).step_by(piece);
    let end = |start: usize| (start + piece).min(l4.len());
    starts.map(|start| fragment_of(ends, (protocol, id), &l4, start, end(start))).collect()
}

/// The frames of a datagram cut every `piece` bytes.
pub fn cut(ends: (SocketAddr, SocketAddr), id: u16, datagram: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let starts = (0..datagram.len()).step_by(piece);
    let end = |start: usize| (start + piece).min(datagram.len());
    starts.map(|start| fragment(ends, id, datagram, start, end(start))).collect()
}

/// A frame for the guest as it would be if it had not been cut, with what is left to do to it.
pub type Frame = (Vec<u8>, FrameMeta);

/// Where a fragment for the guest belongs: number, offset, whether others follow; and where its payload is.
fn place(frame: &[u8]) -> Option<(u32, usize, bool, std::ops::Range<usize>)> {
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..14] == [8, 0] {
        let field = number(20);
        let end = 14 + usize::from(number(16));
        let cut = field & 0x3fff != 0;
        assert!(!cut || field & 0x4000 == 0, "a fragment that may not be cut");
        let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
        return cut.then(|| (number(18).into(), offset, more, 34..end));
    }
    let is_fragment = frame[12..14] == [0x86, 0xdd] && frame[20] == 44;
    is_fragment.then(|| {
        let id = u32::from(number(58)) << 16 | u32::from(number(60));
        let end = 54 + usize::from(number(18));
        (id, usize::from(number(56) & !7), number(56) & 1 != 0, 62..end)
    })
}

/// Puts fragments for the guest together, which come in order; `mtu` is what no packet exceeds. The header of a packet
/// that was cut is that of one that was not.
pub fn whole(frames: Vec<Frame>, mtu: usize) -> Vec<Frame> {
    let mut all = Vec::new();
    let mut open: Option<(u32, Vec<u8>, usize)> = None;
    for (frame, meta) in frames {
        let Some((id, offset, more, payload)) = place(&frame) else {
            assert!(open.is_none(), "a datagram without its last fragment");
            all.push((frame, meta));
            continue;
        };
        assert!(payload.end - 14 <= mtu, "{} bytes in a packet", payload.end - 14);
        let (known, mut bytes, done) = open.take().unwrap_or_else(|| {
            let l3 =
                packet::l4_offset(if frame[12] == 8 { FAMILIES[0] } else { FAMILIES[1] }.guest());
            let mut header = frame[..l3].to_vec();
            if l3 == 34 {
                header[20] = 0x40;
            } else {
                header[20] = frame[54];
            }
            (id, header, 0)
        });
        assert_eq!((known, done), (id, offset), "the fragment that comes next");
        bytes.extend(&frame[payload.clone()]);
        if more {
            open = Some((id, bytes, done + payload.len()));
            continue;
        }
        let (l3, at) = if bytes[12] == 8 { (34, 16) } else { (54, 18) };
        let length = bytes.len() - if l3 == 34 { 14 } else { 54 };
        bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        all.push((bytes, meta));
    }
    assert!(open.is_none(), "a datagram without its last fragment");
    all
}

/// The guest sends frames.
pub fn send_all(world: &mut World, frames: impl IntoIterator<Item = Vec<u8>>) {
    for frame in frames {
        world.send(frame);
    }
    world.settle(TURNS);
}

#[test]
fn datagrams_in_fragments_reach_the_host_whole() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            let largest = if family == Family::V4 { 65507 } else { 65527 };
            for (id, len) in [1473, 2888, 9001, largest - 1, largest].into_iter().enumerate() {
                let datagram = message(ends.0, ends.1, &payload(len));
                let mut frames = cut(ends, id as u16, &datagram, PIECE);
                assert!(frames.len() > 1);
                if id % 2 == 1 {
                    frames.reverse();
                }
                send_all(&mut world, frames);
                let got = received(&host, 1);
                assert!(got == [payload(len)], "{} datagrams for {len} bytes", got.len());
            }
            assert_eq!(world.engine.flow_count(), 1);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn fragments_and_whole_datagrams_are_one_flow() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            send_all(&mut world, [packet::udp(ends.0, ends.1, b"whole")]);
            send_all(&mut world, cut(ends, 1, &message(ends.0, ends.1, b"in pieces"), 8));
            assert_eq!(received(&host, 2), [&b"whole"[..], b"in pieces"]);
            assert_eq!(world.engine.flow_count(), 1);
        }
    });
}

#[test]
fn what_is_wrong_as_a_whole_is_dropped_by_name() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            let right = message(ends.0, ends.1, &payload(3000));
            let patched = |at: usize, bytes: &[u8]| {
                let mut datagram = right.clone();
                datagram[at..at + bytes.len()].copy_from_slice(bytes);
                datagram
            };
            let responder: u16 = if family == Family::V4 { 67 } else { 547 };
            for (id, (datagram, reason)) in [
                (patched(2000, &[right[2000] ^ 1]), DropReason::BadChecksum),
                (patched(4, &3009_u16.to_be_bytes()), DropReason::Truncated),
                (patched(4, &[0, 7]), DropReason::Malformed),
                (patched(2, &[0, 0]), DropReason::PortZero),
                (patched(2, &responder.to_be_bytes()), DropReason::Fragment),
            ]
            .into_iter()
            .enumerate()
            {
                send_all(&mut world, cut(ends, id as u16, &datagram, PIECE));
                assert_eq!(world.drops(reason), 1, "{reason:?}");
                assert_eq!(world.all_drops(), id as u64 + 1, "{reason:?}");
            }
            assert_eq!(received(&host, 0), Vec::<Vec<u8>>::new());
            assert_eq!(world.engine.flow_count(), 0);
        }
    });
}

#[test]
fn datagrams_that_never_become_whole_are_given_up_by_name() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            let datagram = message(ends.0, ends.1, &payload(2000));
            let count = REASSEMBLY_SLOTS as u16;
            // All in one turn, which has one time: the oldest are the first of them.
            let begun = (0..count + 3).map(|id| fragment(ends, id, &datagram, 0, PIECE));
            send_all(&mut world, begun);
            assert_eq!(world.drops(DropReason::FragmentEvicted), 3);
            world.skip(REASSEMBLY_TIMEOUT / 2);
            send_all(&mut world, [fragment(ends, count, &datagram, PIECE, datagram.len())]);
            assert_eq!(received(&host, 1), [payload(2000)]);
            world.skip(REASSEMBLY_TIMEOUT / 2);
            send_all(&mut world, cut(ends, count + 3, &datagram, PIECE));
            assert_eq!(received(&host, 1), [payload(2000)]);
            assert_eq!(world.drops(DropReason::FragmentTimeout), u64::from(count) - 1);
            assert_eq!(world.all_drops(), u64::from(count) + 2);
        }
    });
}

#[test]
fn what_one_guest_has_begun_the_next_one_does_not_complete() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            let datagram = message(ends.0, ends.1, &payload(2000));
            let [first, second] = cut(ends, 7, &datagram, 1480).try_into().expect("two");
            send_all(&mut world, [first]);
            world.engine.on_link_closed();
            assert_eq!(world.drops(DropReason::LinkDown), 1);
            send_all(&mut world, [second.clone()]);
            assert_eq!(received(&host, 0), Vec::<Vec<u8>>::new());
            send_all(&mut world, cut(ends, 8, &datagram, PIECE));
            assert_eq!(received(&host, 1), [payload(2000)]);
        }
    });
}

#[test]
fn overlapping_fragments_send_nothing() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, host) = (World::new(&Setup::default()), bound(family.host_at(9000)));
            let ends = (guest_at(family), family.host_at(9000));
            let datagram = message(ends.0, ends.1, &payload(3000));
            let pieces = [(0, 1600), (1448, 2896), (2896, datagram.len()), (1600, 2896)];
            let frames = pieces.map(|(start, end)| fragment(ends, 1, &datagram, start, end));
            send_all(&mut world, frames);
            assert_eq!(received(&host, 0), Vec::<Vec<u8>>::new());
            assert_eq!(world.drops(DropReason::FragmentOverlap), 3);
        }
    });
}
