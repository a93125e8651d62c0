//! A stream in bulk goes to the guest in large pieces, and has a large window, and both are smaller for as long as somebody
//! exchanges little.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::namespace::isolated;
use crate::packet::{self, ACK};
use crate::world::{FAMILIES, Family, Setup, World};

/// The host's port.
const PORT: u16 = 8000;
/// One large frame.
const SMALL_PIECE: usize = 64 * 1024;
/// As long as an exchange counts.
const SOON: Duration = Duration::from_millis(10);
/// Turns until something happens, at most: the kernel widens buffers as they are used.
const PATIENCE: usize = 5000;

/// A connection of the guest that is made of frames, of which the host's end writes.
struct Download {
    from: SocketAddr,
    to: SocketAddr,
    ack: u32,
    peer: TcpStream,
}

impl Download {
    fn open(world: &mut World, listener: &TcpListener, family: Family, port: u16) -> Self {
        let (from, to) = (SocketAddr::new(family.guest(), port), family.host_at(PORT));
        let (ack, peer) = world.open(listener, (from, to));
        world.send(packet::tcp(from, to, ACK, (1001, ack), &[]));
        peer.set_nonblocking(true).expect("fcntl");
        peer.set_nodelay(true).expect("setsockopt");
        Self { from, to, ack, peer }
    }

    /// As much as goes, of `bytes`.
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.peer.write(bytes) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }

    /// Payload bytes of this connection among `frames`, which the guest acknowledges.
    fn take(&mut self, world: &mut World, frames: &[Vec<u8>]) -> usize {
        let l4 = packet::l4_offset(self.from.ip());
        let ours =
            frames.iter().filter(|frame| frame[l4 + 2..l4 + 4] == self.from.port().to_be_bytes());
        let bytes = ours.map(|frame| frame.len() - l4 - 4 * usize::from(frame[l4 + 12] >> 4)).sum();
        if bytes > 0 {
            self.ack += bytes as u32;
            world.send(packet::tcp(self.from, self.to, ACK, (1001, self.ack), &[]));
        }
        bytes
    }
}

/// The largest piece of `bulk` in many turns, or until there was one of more than [`SMALL_PIECE`]. `beside` has
/// answers meanwhile, and only turns count that follow one of them soon enough.
fn largest(world: &mut World, bulk: &mut Download, mut beside: Option<&mut Download>) -> usize {
    let (mut largest, mut moved) = (0, 0);
    let mut answered = None;
    for _ in 0..PATIENCE {
        bulk.write(&[0; 512 * 1024]);
        if let Some(beside) = &mut beside {
            beside.write(b"answer");
        }
        let began = world.now();
        world.turn(Duration::from_millis(1));
        let soon = answered.is_some_and(|at| world.now().since(at) < SOON);
        let frames = world.received();
        let piece = bulk.take(world, &frames);
        if let Some(beside) = &mut beside
            && beside.take(world, &frames) > 0
        {
            answered = Some(began);
        }
        if beside.is_none() || soon {
            largest = largest.max(piece);
            moved += piece;
        }
        if largest > SMALL_PIECE || moved > 64 * SMALL_PIECE {
            break;
        }
    }
    assert!(moved > SMALL_PIECE, "it goes on");
    largest
}

#[test]
fn a_stream_goes_in_smaller_pieces_beside_an_exchange() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut bulk = Download::open(&mut world, &listener, family, 40000);
            let mut exchange = Download::open(&mut world, &listener, family, 40001);
            assert!(largest(&mut world, &mut bulk, None) > SMALL_PIECE, "{family:?}: alone");
            let beside = largest(&mut world, &mut bulk, Some(&mut exchange));
            assert!(beside <= SMALL_PIECE, "{family:?}: {beside} bytes beside an exchange");
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// The window of the last frame of `upload` among `frames`, in bytes.
fn window(upload: &Download, frames: &[Vec<u8>]) -> Option<u32> {
    let l4 = packet::l4_offset(upload.from.ip());
    let port = upload.from.port().to_be_bytes();
    let last = frames.iter().rfind(|frame| frame[l4 + 2..l4 + 4] == port)?;
    Some(u32::from(u16::from_be_bytes([last[l4 + 14], last[l4 + 15]])) << 8)
}

#[test]
fn the_guest_may_have_less_under_way_beside_an_exchange() {
    const MOST: u32 = 64 * 1024;
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup { window_max: MOST, ..Setup::default() });
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut upload = Download::open(&mut world, &listener, family, 40000);
            let mut exchange = Download::open(&mut world, &listener, family, 40001);
            let mut seq = 1001;
            let mut least = MOST;
            for turns in 0.. {
                let alone = turns < 100;
                let ends = (upload.from, upload.to);
                world.send(packet::tcp(ends.0, ends.1, ACK, (seq, upload.ack), &[0; 1000]));
                seq += 1000;
                if !alone {
                    exchange.write(b"answer");
                }
                world.turn(Duration::from_millis(1));
                let frames = world.received();
                exchange.take(&mut world, &frames);
                let window = window(&upload, &frames).unwrap_or(MOST);
                let _read = upload.peer.read(&mut [0; 4096]);
                assert!(!alone || window > MOST / 4 * 3, "{family:?}: {window} bytes alone");
                assert!(window >= MOST / 4 - 1000, "{family:?}: {window} bytes");
                least = least.min(window);
                if least <= MOST / 4 {
                    break;
                }
                assert!(turns < PATIENCE, "{family:?}: at least {least} bytes beside an exchange");
            }
            assert_eq!(world.all_drops(), 0);
        }
    });
}
