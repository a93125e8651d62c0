//! Frames whose tail the link keeps until it is asked for: what the host gets, what the guest hears and
//! what is dropped is the same as without, wherever the tail begins.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use passt::wire::DropReason;
use passt_frame::Faults;

use crate::namespace::isolated;
use crate::packet::{self, ACK, FIN, RST, SYN};
use crate::tcp::{Pair, noise, read_some};
use crate::world::{FAMILIES, Family, Setup, World};

/// Turns after which one frame must have had all its effects.
const TURNS: usize = 64;

/// Where tails begin: inside of every header, behind it, inside of the payload, and nowhere.
const CUTS: [Option<usize>; 12] = [
    None,
    Some(1),
    Some(14),
    Some(33),
    Some(50),
    Some(54),
    Some(66),
    Some(74),
    Some(100),
    Some(127),
    Some(1000),
    Some(60_000),
];

const ISN: u32 = 1000;
const URG: u8 = 32;

fn guest_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.guest(), port)
}

fn world(setup: &Setup, cut: Option<usize>) -> World {
    let mut world = World::new(setup);
    if let Some(cut) = cut {
        world.port.keep_tails(cut);
    }
    world
}

/// A connection that frames are made for one by one, and a UDP socket of the host's.
struct Scene {
    world: World,
    peer: TcpStream,
    host: UdpSocket,
    guest: SocketAddr,
    server: SocketAddr,
    isn: u32,
}

/// What came of a scene.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    stream: Vec<u8>,
    ended: bool,
    datagrams: Vec<Vec<u8>>,
    /// Flags and acknowledgement of each segment for the guest.
    answers: Vec<(u8, u32)>,
    drops: Vec<u64>,
}

impl Scene {
    fn new(family: Family, cut: Option<usize>) -> Self {
        let mut world = world(&Setup::default(), cut);
        let (guest, server) = (guest_at(family, 40000), family.host_at(8000));
        let listener = TcpListener::bind(server).expect("a free port");
        world.send(packet::tcp(guest, server, SYN, (ISN, 0), &[]));
        let answer = world.frames(1).remove(0);
        let (peer, _) = listener.accept().expect("connected");
        peer.set_nonblocking(true).expect("fcntl");
        let at = packet::l4_offset(guest.ip()) + 4;
        let isn = u32::from_be_bytes(answer[at..at + 4].try_into().expect("four bytes"));
        let host = UdpSocket::bind(family.host_at(9000)).expect("a free port");
        host.set_nonblocking(true).expect("fcntl");
        Self { world, peer, host, guest, server, isn }
    }

    /// A segment at `offset` of the guest's stream.
    fn segment(&self, flags: u8, offset: u32, payload: &[u8]) -> Vec<u8> {
        let seq = ISN.wrapping_add(1).wrapping_add(offset);
        packet::tcp(self.guest, self.server, ACK | flags, (seq, self.isn.wrapping_add(1)), payload)
    }

    fn outcome(mut self, frames: Vec<Vec<u8>>) -> Outcome {
        let mut outcome = Outcome::default();
        let at = packet::l4_offset(self.guest.ip());
        let tcp = if self.guest.is_ipv4() { 23 } else { 20 };
        let mut part = vec![0; 70_000];
        for frame in frames {
            self.world.send(frame);
            self.world.quiet(TURNS);
            loop {
                match self.peer.read(&mut part) {
                    Ok(0) => break outcome.ended = true,
                    Ok(len) => outcome.stream.extend_from_slice(&part[..len]),
                    Err(_) => break,
                }
                self.world.quiet(TURNS);
            }
            while let Ok(len) = self.host.recv(&mut part) {
                outcome.datagrams.push(part[..len].to_vec());
            }
        }
        // An acknowledgement of a FIN waits for the peer's, for a while.
        self.world.skip(Duration::from_millis(50));
        self.world.quiet(TURNS);
        for answer in self.world.received().iter().filter(|frame| frame[tcp] == 6) {
            let ack = answer[at + 8..at + 12].try_into().expect("four bytes");
            outcome.answers.push((answer[at + 13], u32::from_be_bytes(ack)));
        }
        outcome.drops = DropReason::ALL.iter().map(|&reason| self.world.drops(reason)).collect();
        outcome
    }
}

/// The outcome of the frames that `frames` makes for a scene: the same wherever tails begin.
fn same_outcome(family: Family, frames: impl Fn(&Scene) -> Vec<Vec<u8>>) -> Outcome {
    let outcomes = CUTS.map(|cut| {
        let scene = Scene::new(family, cut);
        let frames = frames(&scene);
        scene.outcome(frames)
    });
    for (outcome, cut) in outcomes.iter().zip(CUTS).skip(1) {
        let answers = (&outcome.answers, &outcomes[0].answers);
        assert!(*outcome == outcomes[0], "{family:?}, tails at {cut:?}: answers {answers:?}");
    }
    outcomes.into_iter().next().expect("more than none")
}

#[test]
fn segments_of_a_stream() {
    isolated(|| {
        for family in FAMILIES {
            let data = noise(90_000);
            let outcome = same_outcome(family, |scene| {
                let frame = |range: std::ops::Range<usize>, flags| {
                    scene.segment(flags, range.start as u32, &data[range])
                };
                vec![
                    frame(0..20_000, 0),
                    // All of it again, then what overlaps at the front, then a gap, then the end.
                    frame(0..20_000, 0),
                    frame(15_000..30_000, 0),
                    frame(19_999..30_001, 0),
                    frame(60_000..90_000, 0),
                    frame(30_001..60_000, URG),
                    frame(60_000..60_001, 0),
                    frame(60_001..90_000, FIN),
                ]
            });
            assert!(outcome.stream == data, "{family:?}");
            assert!(outcome.ended, "{family:?}");
        }
    });
}

#[test]
fn what_is_behind_the_packet_is_not_sent() {
    isolated(|| {
        for family in FAMILIES {
            let data = noise(30_000);
            let outcome = same_outcome(family, |scene| {
                let padded = |range: std::ops::Range<usize>, padding: usize| {
                    let frame = scene.segment(0, range.start as u32, &data[range]);
                    [frame, vec![0xee; padding]].concat()
                };
                vec![
                    padded(0..10_000, 1),
                    padded(10_000..10_010, 20_000),
                    padded(10_010..30_000, 80),
                ]
            });
            assert!(outcome.stream == data, "{family:?}");
        }
    });
}

#[test]
fn datagrams_and_what_no_flow_takes() {
    isolated(|| {
        for family in FAMILIES {
            let data = noise(60_000);
            let outcome = same_outcome(family, |scene| {
                let (from, to) = (guest_at(family, 5000), family.host_at(9000));
                let mut stranger = scene.segment(0, 0, &data[..30_000]);
                // The guest's port.
                stranger[packet::l4_offset(family.guest())] ^= 1;
                vec![
                    packet::udp(from, to, &data),
                    stranger,
                    scene.segment(0, 1 << 30, &data[..30_000]),
                    packet::udp(from, to, &data[..100]),
                    packet::ethernet(0x1234, &data[..30_000]),
                    scene.segment(0, 0, &data[..30_000])[..29_000].to_vec(),
                    scene.segment(0, 0, &data[..50]),
                ]
            });
            assert_eq!(outcome.datagrams, [&data[..], &data[..100]]);
            assert_eq!(outcome.stream, data[..50], "{family:?}");
        }
    });
}

#[test]
fn a_connection_that_was_reset_takes_nothing() {
    isolated(|| {
        let data = noise(30_000);
        let outcome = same_outcome(Family::V4, |scene| {
            vec![scene.segment(RST, 0, &[]), scene.segment(0, 0, &data)]
        });
        assert_eq!(outcome.stream, [0_u8; 0]);
    });
}

#[test]
fn a_server_that_does_not_read_for_a_while_gets_every_byte_once() {
    isolated(|| {
        let data = noise(12_000_000);
        for cut in [None, Some(54), Some(100)] {
            let mut scene = Scene::new(Family::V4, cut);
            let (mut acked, mut stalls, mut got) = (0, 0, Vec::new());
            while acked < data.len() {
                let end = data.len().min(acked + 60_000);
                let frame = scene.segment(0, acked as u32, &data[acked..end]);
                scene.world.send(frame);
                scene.world.quiet(TURNS);
                let before = acked;
                for answer in scene.world.received() {
                    let ack = u32::from_be_bytes(answer[42..46].try_into().expect("four bytes"));
                    acked = acked.max(ack.wrapping_sub(ISN + 1) as usize);
                }
                if acked == before {
                    stalls += 1;
                    assert!(stalls < 100, "tails at {cut:?}");
                    read_some(&mut scene.peer, &mut got);
                }
            }
            assert!(stalls > 0, "the server was never full");
            while got.len() < data.len() && read_some(&mut scene.peer, &mut got) {
                scene.world.quiet(TURNS);
            }
            assert!(got == data, "tails at {cut:?}");
        }
    });
}

#[test]
fn a_whole_connection_over_a_link_that_loses_doubles_and_reorders() {
    isolated(|| {
        for (family, cut, seed) in [(Family::V4, 54, 1), (Family::V6, 74, 2), (Family::V4, 128, 3)]
        {
            let setup = Setup { mtu: 65_520, ..Setup::default() };
            let mut world = world(&setup, Some(cut));
            world.port.set_faults(Faults { lose: 3, duplicate: 5, reorder: 8 }, seed);
            let mut pair = Pair::connect(world, setup.mtu, family);
            pair.upload(&noise(3_000_000));
            pair.download(&noise(300_000));
            pair.finish();
        }
    });
}
