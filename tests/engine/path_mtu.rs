//! Paths behind the guest that are narrower than its link: what a router there says of them, and what follows for
//! connections and datagrams.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use passt::wire::DropReason;

use crate::datagrams::known;
use crate::namespace::isolated;
use crate::packet::{self, ACK};
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
            for frame in &frames {
                world.send(too_big(frame, NARROW, 1200));
            }
            world.settle(TURNS);
            let again = world.received();
            let narrow = |frame: &&Vec<u8>| frame.len() <= 14 + NARROW as usize;
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
