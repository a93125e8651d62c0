//! Paths behind the guest that are narrower than its link: what a router there says of them, and what follows for
//! connections and datagrams.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use passt::wire::DropReason;
use passt_frame::FrameMeta;

use crate::datagrams::{awaited, bound, guest_at, known};
use crate::fragments::{cut_l4, send_all, whole};
use crate::namespace::isolated;
use crate::packet::{self, ACK, SYN};
use crate::world::{FAMILIES, Family, Setup, World};

/// Turns in which a few packets are done with.
const TURNS: usize = 256;
/// The MTU behind the guest.
const NARROW: u32 = 1300;

/// What a router in front of the guest's addresses says of `frame`, which it has got and does not pass on.
fn too_big(frame: &[u8], mtu: u32, quoted: usize) -> Vec<u8> {
    let family = if frame[12] == 8 { Family::V4 } else { Family::V6 };
    let (protocol, kind) = if family == Family::V4 { (1, [3, 4]) } else { (58, [2, 0]) };
    let mut message = [kind[0], kind[1], 0, 0].to_vec();
    message.extend(mtu.to_be_bytes());
    message.extend(&frame[14..][..quoted.min(frame.len() - 14)]);
    packet::ip(family.guest(), address(frame, family), protocol, 64, &message)
}

/// Who has sent a frame for the guest.
fn address(frame: &[u8], family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).expect("four bytes")),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).expect("sixteen")),
    }
}

/// A connection on which the guest has acknowledged nothing but the SYN, the peer's end, and 5,000 bytes under way.
fn connection(world: &mut World, family: Family) -> (SocketAddr, TcpStream, Vec<Vec<u8>>) {
    let (from, to) = (SocketAddr::new(family.guest(), 40000), family.host_at(8000));
    let listener = TcpListener::bind(to).expect("a free port");
    let (isn, mut peer) = world.open(&listener, (from, to));
    world.send(packet::tcp(from, to, ACK, (1001, isn), &[]));
    world.settle(TURNS);
    world.received();
    peer.write_all(&[7; 5000]).expect("sent");
    let frames = world.frames(4);
    assert!(frames.iter().any(|frame| frame.len() > 14 + NARROW as usize));
    (to, peer, frames)
}

/// Payload bytes of a segment for the guest.
fn payload(frame: &[u8]) -> usize {
    frame.len()
        - packet::l4_offset(if frame[12] == 8 { Family::V4 } else { Family::V6 }.guest())
        - 20
}

#[test]
fn rfc1191_6_4_a_segment_too_big_goes_again_at_once_in_smaller_ones() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let (_, _peer, frames) = connection(&mut world, family);
            let narrow = |frame: &&Vec<u8>| frame.len() <= 14 + NARROW as usize;
            for frame in frames.iter().filter(|frame| !narrow(frame)) {
                world.send(too_big(frame, NARROW, 1200));
            }
            world.settle(TURNS);
            let again = world.received();
            assert!(again.iter().all(|frame| narrow(&frame)), "{family:?}");
            assert_eq!(again.iter().map(|frame| payload(frame)).sum::<usize>(), 5000, "{family:?}");
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn rfc792_eight_bytes_behind_the_quoted_header_are_enough() {
    isolated(|| {
        for (family, quoted) in [(Family::V4, 28), (Family::V6, 48)] {
            let mut world = known(&Setup::default());
            let (_, _peer, frames) = connection(&mut world, family);
            world.send(too_big(&frames[0], NARROW, quoted - 1));
            world.settle(TURNS);
            assert_eq!((world.received().len(), world.drops(DropReason::Truncated)), (0, 1));
            world.send(too_big(&frames[0], NARROW, quoted));
            world.settle(TURNS);
            let again: usize = world.received().iter().map(|frame| payload(frame)).sum();
            assert_eq!((again, world.all_drops()), (5000, 1));
        }
    });
}

#[test]
fn rfc5927_4_1_errors_about_what_is_not_under_way_do_nothing() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let (_, mut peer, frames) = connection(&mut world, family);
            let l4 = packet::l4_offset(family.guest());
            for at in [l4 + 1, l4 + 3, l4 + 4] {
                let mut other = frames[0].clone();
                other[at] ^= 0x40;
                world.send(too_big(&other, NARROW, 1200));
            }
            world.settle(TURNS);
            assert_eq!(world.received().len(), 0);
            assert_eq!(world.drops(DropReason::NoFlow), 3);
            peer.write_all(&[8; 1460]).expect("sent");
            assert_eq!(payload(&world.frames(1)[0]), 1460, "as large as before");
        }
    });
}

/// The frames that make the next message for the guest; put together, it has `bytes` behind its L4 header, and no
/// packet is larger than `mtu`.
fn message(world: &mut World, family: Family, bytes: usize, mtu: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for _ in 0..TURNS {
        let busy = world.turn(Duration::from_millis(2));
        frames.extend(world.received());
        if !busy && !frames.is_empty() {
            break;
        }
    }
    for frame in &frames {
        assert!(frame.len() <= 14 + mtu, "{family:?}: {} bytes in a frame", frame.len());
    }
    let made =
        whole(frames.iter().map(|frame| (frame.clone(), FrameMeta::default())).collect(), mtu);
    assert_eq!(made.len(), 1, "{family:?}");
    assert_eq!(made[0].0.len(), packet::l4_offset(family.guest()) + 8 + bytes, "{family:?}");
    frames
}

/// A datagram of the host's, and the reply to a ping of the guest's.
fn both(world: &mut World, family: Family, bytes: usize, mtu: usize) -> [Vec<Vec<u8>>; 2] {
    let host = bound(family.host_at(9000));
    world.send(packet::udp(guest_at(family), family.host_at(9000), b"?"));
    world.settle(TURNS);
    let (_, from) = awaited(&host);
    host.send_to(&vec![7; bytes], from).expect("sent");
    let datagram = message(world, family, bytes, mtu);
    world.send(packet::echo(family.guest(), family.host(), 0x1234, 7, &vec![7; bytes]));
    [datagram, message(world, family, bytes, mtu)]
}

/// Windows takes no MTU from DHCP, and cards that QEMU emulates drop larger frames.
#[test]
fn a_guest_whose_syns_show_a_smaller_mtu_gets_no_larger_packets() {
    isolated(|| {
        let families = [(Family::V4, 1500), (Family::V6, 1520)];
        for ((family, mtu), cut) in families.into_iter().flat_map(|f| [(f, false), (f, true)]) {
            let mut world = known(&Setup { mtu: 65520, ..Setup::default() });
            for frames in both(&mut world, family, 3000, 65520) {
                assert_eq!(frames.len(), 1, "nothing is known yet");
            }
            let (from, to) = (SocketAddr::new(family.guest(), 40000), family.host_at(8000));
            let syn = packet::tcp(from, to, SYN, (1000, 0), &[]);
            if cut {
                let l4 = &syn[packet::l4_offset(family.guest())..];
                send_all(&mut world, cut_l4((from.ip(), to.ip()), packet::TCP, 1, l4, 16));
                world.received();
            } else {
                world.send(syn);
                world.frames(1);
            }
            for frames in both(&mut world, family, 3000, mtu) {
                assert_eq!(frames.len(), 3);
            }
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn datagrams_larger_than_a_router_says_go_in_fragments() {
    isolated(|| {
        for family in FAMILIES {
            for which in 0..2 {
                let mut world = known(&Setup::default());
                let frames = both(&mut world, family, 1400, 1500);
                assert_eq!(frames.each_ref().map(Vec::len), [1, 1]);
                world.send(too_big(&frames[which][0], NARROW, 1200));
                world.settle(TURNS);
                assert_eq!((world.received().len(), world.all_drops()), (0, 0));
                let frames = both(&mut world, family, 1400, NARROW as usize);
                assert_eq!(frames.each_ref().map(Vec::len), [2, 2]);
            }
            // Of no flow.
            let mut world = known(&Setup::default());
            let mut frames = both(&mut world, family, 1400, 1500);
            let port = packet::l4_offset(family.guest()) + 3;
            frames[0][0][port] ^= 1;
            world.send(too_big(&frames[0][0], NARROW, 1200));
            world.settle(TURNS);
            assert_eq!(world.drops(DropReason::NoFlow), 1);
            assert_eq!(both(&mut world, family, 1400, 1500).map(|frames| frames.len()), [1, 1]);
            // A connection tells of its address as a whole.
            let (_, _peer, frames) = connection(&mut world, family);
            world.send(too_big(&frames[0], NARROW, 1200));
            world.settle(TURNS);
            world.received();
            let frames = both(&mut world, family, 1400, NARROW as usize);
            assert_eq!(frames.map(|frames| frames.len()), [2, 2]);
        }
    });
}
