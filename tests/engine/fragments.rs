//! UDP datagrams that come in fragments: what reaches the host, and what does not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::limits::{REASSEMBLY_SLOTS, REASSEMBLY_TIMEOUT};
use passt::wire::DropReason;

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

/// A UDP header and its payload, with the checksum of RFC 768.
pub fn message(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut message = packet::udp_message(from.port(), to.port(), payload);
    let len = (message.len() as u32).to_be_bytes();
    let summed = [&octets(from.ip())[..], &octets(to.ip()), &len, &[0, UDP], &message].concat();
    let pair = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u64 = summed.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = if sum == 0xffff { 0xffff } else { !(sum as u16) };
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The frame with bytes `start..end` of datagram number `id`.
fn fragment(
    (from, to): (SocketAddr, SocketAddr),
    id: u16,
    datagram: &[u8],
    start: usize,
    end: usize,
) -> Vec<u8> {
    let (piece, more) = (&datagram[start..end], end < datagram.len());
    if from.is_ipv4() {
        let mut frame = packet::ip(from.ip(), to.ip(), UDP, 64, piece);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (start / 8) as u16 | u16::from(more) << 13;
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        return frame;
    }
    let mut packet = vec![UDP, 0];
    packet.extend((start as u16 | u16::from(more)).to_be_bytes());
    packet.extend(u32::from(id).to_be_bytes());
    packet.extend(piece);
    packet::ip(from.ip(), to.ip(), 44, 64, &packet)
}

/// The frames of a datagram cut every `piece` bytes.
pub fn cut(ends: (SocketAddr, SocketAddr), id: u16, datagram: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let starts = (0..datagram.len()).step_by(piece);
    let end = |start: usize| (start + piece).min(datagram.len());
    starts.map(|start| fragment(ends, id, datagram, start, end(start))).collect()
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
            for id in 0..count + 3 {
                send_all(&mut world, [fragment(ends, id, &datagram, 0, PIECE)]);
            }
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
