//! Fast streams of datagrams to the guest, whose sockets are looked at by time: nothing is lost, nothing overtakes, and
//! what comes when they have ended comes, too.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::datagrams::{awaited, bound, known};
use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World};

/// The guest's port.
const PORT: u16 = 5000;
/// Bytes of each datagram.
const BYTES: usize = 64;
/// Datagrams at once: enough to make a stream fast.
const BURST: u32 = 100;
const BURSTS: u32 = 20;
const TURNS: usize = 400;

fn sends(peer: &UdpSocket, to: SocketAddr, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        peer.send_to(&bytes, to).expect("sent");
    }
}

/// The numbers of the datagrams that the guest has got.
fn numbers(world: &mut World, family: Family) -> Vec<u32> {
    let payload = if family == Family::V4 { 14 + 20 + 8 } else { 14 + 40 + 8 };
    let mut all = Vec::new();
    for frame in world.received() {
        for datagram in frame[payload..].chunks_exact(BYTES) {
            all.push(u32::from_be_bytes(*datagram.first_chunk().expect("a number")));
        }
    }
    all
}

/// Turns until the guest has got so many datagrams, and says which.
fn next(world: &mut World, family: Family, count: usize) -> Vec<u32> {
    let mut all = Vec::new();
    for _ in 0..TURNS {
        world.turn(Duration::from_millis(2));
        all.extend(numbers(world, family));
        if all.len() >= count {
            break;
        }
    }
    all
}

#[test]
fn a_fast_stream_arrives_whole_and_in_order_with_what_comes_behind_it() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let guest = SocketAddr::new(family.guest(), PORT);
            let peer = bound(SocketAddr::new(family.of([127, 0, 0, 1].into(), "::1"), 9000));
            let mut from = None;
            for round in 0..3 {
                world.send(packet::udp(guest, SocketAddr::new(family.gateway(), 9000), b"go on"));
                world.settle(TURNS);
                let (_, at) = awaited(&peer);
                assert_eq!(*from.get_or_insert(at), at);
                let first = round * BURSTS * BURST;
                for burst in 0..BURSTS {
                    let numbers = first + burst * BURST..first + (burst + 1) * BURST;
                    sends(&peer, at, numbers.clone());
                    let got = next(&mut world, family, BURST as usize);
                    assert_eq!(got, numbers.collect::<Vec<u32>>(), "{family:?} {burst}");
                }
                // One that is alone, and an answer.
                sends(&peer, at, 7..8);
                assert_eq!(next(&mut world, family, 1), [7]);
                world.skip(Duration::from_secs(1));
                sends(&peer, at, 8..9);
                assert_eq!(next(&mut world, family, 1), [8]);
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}
