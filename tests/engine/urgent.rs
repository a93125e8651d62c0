//! Urgent data of a peer on the host: one byte of the stream like the others, at its place and at once.

use std::net::TcpStream;
use std::time::Duration;

use rustix::net::{SendFlags, send};

use crate::guest::until;
use crate::namespace::isolated;
use crate::tcp::{Pair, noise, write_some};
use crate::world::{FAMILIES, OFFLOADS, PLAIN, Setup};

/// What the peer sends, and whether it says that the last byte is urgent.
type Piece<'a> = (&'a [u8], bool);

/// Sends as much of a piece as there is room for.
fn send_some(peer: &mut TcpStream, (bytes, urgent): Piece<'_>) -> usize {
    if urgent { send(&*peer, bytes, SendFlags::OOB).unwrap_or(0) } else { write_some(peer, bytes) }
}

/// Moves `pieces` from the host to the guest, with at least so many turns after each, and checks every
/// byte. Returns how long the world took it to be.
fn download(pair: &mut Pair, pieces: &[Piece<'_>], turns: usize) -> Duration {
    let Pair { world, guest, handle, peer } = pair;
    let expected: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
    let (mut sent, mut next, mut pause, mut got) = (0, 0, 0, Vec::new());
    let mut chunk = vec![0; 65536];
    let start = world.now();
    until(world, guest, "download", |_, guest| {
        if pause > 0 {
            pause -= 1;
        } else if let Some(&(bytes, urgent)) = pieces.get(next) {
            sent += send_some(peer, (&bytes[sent..], urgent));
            if sent == bytes.len() {
                (next, sent, pause) = (next + 1, 0, turns);
            }
        }
        let socket = guest.tcp_mut(*handle);
        while socket.can_recv() {
            let len = socket.recv_slice(&mut chunk).expect("the connection is up");
            got.extend_from_slice(&chunk[..len]);
        }
        got.len() >= expected.len()
    });
    assert!(got == expected, "the guest got other bytes than the host sent");
    world.now().since(start)
}

/// Runs `body` with a connection of each kind.
fn each_connection(mut body: impl FnMut(&mut Pair)) {
    for family in FAMILIES {
        for (caps, peek_offset) in [(PLAIN, true), (PLAIN, false), (OFFLOADS, true)] {
            let setup = Setup { caps, mtu: 1500, peek_offset, ..Setup::default() };
            for mut pair in [Pair::outbound(&setup, family, None), Pair::inbound(&setup, family)] {
                body(&mut pair);
                assert_eq!(pair.finish().all_drops(), 0);
            }
        }
    }
}

#[test]
fn a_few_bytes_with_an_urgent_one_among_them_arrive_at_once() {
    isolated(|| {
        each_connection(|pair| {
            let pieces: [Piece<'_>; 5] =
                [(b"abc", false), (b"!", true), (b"def", false), (b"yz?", true), (b"!", true)];
            for turns in [0, 1, 2] {
                let took = download(pair, &pieces, turns);
                assert!(took < Duration::from_secs(1), "{took:?} with {turns} turns after each");
            }
        });
    });
}

#[test]
fn bulk_goes_on_behind_an_urgent_byte() {
    isolated(|| {
        let bulk = noise(1 << 20);
        each_connection(|pair| {
            let pieces = [(&bulk[..], false), (b"!", true), (&bulk[..], false)];
            download(pair, &pieces, 0);
        });
    });
}

#[test]
fn an_urgent_byte_that_is_seen_does_not_keep_the_loop_busy() {
    isolated(|| {
        each_connection(|pair| {
            download(pair, &[(b"abc", false), (b"!", true)], 0);
            // The guest is not polled: nothing is acknowledged, and the byte stays in the queue.
            send(&pair.peer, b"?!", SendFlags::OOB).expect("sent");
            let turns = pair.world.quiet(20);
            assert!(turns < 10, "{turns} turns");
            let Pair { world, guest, handle, .. } = pair;
            let mut got = Vec::new();
            until(world, guest, "the rest", |_, guest| {
                let socket = guest.tcp_mut(*handle);
                let read = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
                got.extend(read.expect("the connection is up"));
                got.len() >= 2
            });
            assert_eq!(got, b"?!");
        });
    });
}
