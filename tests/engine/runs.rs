//! Segments of one flow in a batch travel together, whatever stands between them, and bulk comes last.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use passt::wire::DropReason;
use rustix::event::epoll;

use crate::namespace::isolated;
use crate::packet::{self, ACK, SYN};
use crate::tcp::noise;
use crate::world::{FAMILIES, Family, Setup, World};

/// The host's port.
const PORT: u16 = 8000;
/// Turns in which a batch is done with.
const TURNS: usize = 64;
/// Payload of a segment.
const LEN: usize = 1400;

/// A connection of the guest that is made of frames, and its other end.
struct Stream {
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
    sent: Vec<u8>,
    peer: TcpStream,
}

impl Stream {
    fn open(world: &mut World, listener: &TcpListener, family: Family, port: u16) -> Self {
        let (from, to) = (SocketAddr::new(family.guest(), port), family.host_at(PORT));
        let (ack, peer) = world.open(listener, (from, to));
        Self { from, to, seq: 1001, ack, sent: Vec::new(), peer }
    }

    /// The next segment, with so many bytes.
    fn segment(&mut self, len: usize) -> Vec<u8> {
        let bytes = noise(self.sent.len() + len).split_off(self.sent.len());
        let frame = packet::tcp(self.from, self.to, ACK, (self.seq, self.ack), &bytes);
        self.seq += len as u32;
        self.sent.extend(bytes);
        frame
    }

    /// What was sent has come, each byte once.
    fn check(mut self) {
        let mut got = vec![0; self.sent.len()];
        self.peer.read_exact(&mut got).expect("it is there");
        assert!(got == self.sent, "other bytes");
        self.peer.set_nonblocking(true).expect("fcntl");
        assert!(self.peer.read(&mut [0]).is_err(), "more than was sent");
    }
}

/// Tells in which order sockets get something.
struct Order(OwnedFd);

impl Order {
    fn of(sockets: &[&dyn AsFd]) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        for (place, socket) in sockets.iter().enumerate() {
            let data = epoll::EventData::new_u64(place as u64);
            epoll::add(&epoll, socket.as_fd(), data, epoll::EventFlags::IN).expect("epoll_ctl");
        }
        Self(epoll)
    }

    fn told(&self) -> Vec<u64> {
        let mut events = Vec::with_capacity(8);
        let room = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&self.0, room, Some(&rustix::time::Timespec::default())).expect("epoll_wait");
        events.iter().map(|event| event.data.u64()).collect()
    }
}

#[test]
fn a_question_that_stands_between_bulk_is_passed_on_before_it() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let udp = UdpSocket::bind(family.host_at(PORT)).expect("a free port");
            let mut bulk = Stream::open(&mut world, &listener, family, 40000);
            let mut question = Stream::open(&mut world, &listener, family, 40001);
            let order = Order::of(&[&bulk.peer, &question.peer, &udp]);
            for _ in 0..4 {
                world.send(bulk.segment(LEN));
            }
            world.send(question.segment(10));
            world.send(packet::udp(question.from, question.to, b"datagram"));
            for _ in 0..4 {
                world.send(bulk.segment(LEN));
            }
            world.settle(TURNS);
            let told = order.told();
            assert_eq!((told.len(), told.last()), (3, Some(&0)), "{family:?}: {told:?}");
            bulk.check();
            question.check();
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn more_streams_than_are_gathered_at_once_have_their_bytes_in_order() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut streams: Vec<Stream> =
                (0..7).map(|n| Stream::open(&mut world, &listener, family, 40000 + n)).collect();
            for round in 0..12 {
                for (place, stream) in streams.iter_mut().enumerate() {
                    // Some have more than others, and some pause.
                    if (round + place) % 3 != 0 {
                        world.send(stream.segment(1 + place * 200));
                    }
                }
            }
            world.settle(TURNS);
            streams.into_iter().for_each(Stream::check);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// What a segment of ours acknowledges.
fn acknowledged(frame: &[u8], family: Family) -> u32 {
    let at = packet::l4_offset(family.guest()) + 8;
    u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn what_one_batch_brings_in_another_order_is_passed_on_in_that_of_the_stream() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut mixed = Stream::open(&mut world, &listener, family, 40000);
            let mut other = Stream::open(&mut world, &listener, family, 40001);
            let frames: Vec<_> = (0..4).map(|_| mixed.segment(LEN)).collect();
            for place in [2, 1, 3, 0] {
                world.send(frames[place].clone());
                world.send(other.segment(10));
            }
            world.settle(TURNS);
            let told = world.received();
            let told: Vec<u32> = told.iter().map(|frame| acknowledged(frame, family)).collect();
            assert!(told.len() == 2 && told.contains(&mixed.seq), "{told:?}, once each");
            mixed.check();
            other.check();
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// It is told so by duplicates, for what it sends next to be what is missing.
#[test]
fn what_lies_beyond_a_gap_that_a_batch_leaves_is_sent_again() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut stream = Stream::open(&mut world, &listener, family, 40000);
            world.send(stream.segment(0));
            world.settle(TURNS);
            let frames: Vec<_> = (0..4).map(|_| stream.segment(LEN)).collect();
            for place in [3, 2, 0] {
                world.send(frames[place].clone());
            }
            world.settle(TURNS);
            let told = world.received();
            let told: Vec<u32> = told.iter().map(|frame| acknowledged(frame, family)).collect();
            assert_eq!(told, [1001 + LEN as u32; 2], "what is there, and once more");
            frames[1..].iter().for_each(|frame| world.send(frame.clone()));
            world.settle(TURNS);
            stream.check();
        }
    });
}

#[test]
fn a_port_that_is_used_again_in_the_same_batch_is_another_connection() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let listener = TcpListener::bind(family.host_at(PORT)).expect("a free port");
            let mut other = Stream::open(&mut world, &listener, family, 40001);
            let mut old = Stream::open(&mut world, &listener, family, 40000);
            world.send(old.segment(LEN));
            world.send(other.segment(LEN));
            world.send(packet::tcp(old.from, old.to, packet::RST, (old.seq, 0), &[]));
            world.send(packet::tcp(old.from, old.to, SYN, (9000, 0), &[]));
            world.settle(TURNS);
            let (mut new, _) = listener.accept().expect("the new one");
            new.set_nonblocking(true).expect("fcntl");
            assert!(new.read(&mut [0]).is_err(), "bytes of the old one");
            other.check();
            assert_eq!(world.drops(DropReason::NoFlow), 0);
        }
    });
}
