//! Storms: more questions, pings and new peers than there are places. Whoever was silent for long gives way, and
//! those that were there do not notice.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::wire::DropReason;

use crate::datagrams::{awaited, bound, known, received};
use crate::guest::{Guest, until};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World, forward};

const TURNS: usize = 64;
/// A limit of descriptors that is soon reached.
const FEW: u64 = 512;

fn from(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.guest(), port)
}

/// Where the UDP ports of a frame are.
fn ports_at(family: Family) -> usize {
    packet::l4_offset(family.guest())
}

/// The guest sends from `port` to the server, which answers; the guest must get that.
fn ask(world: &mut World, family: Family, server: &UdpSocket, port: u16) {
    let to = server.local_addr().expect("bound");
    world.send(packet::udp(from(family, port), to, &port.to_be_bytes()));
    world.settle(TURNS);
    let (question, at) = awaited(server);
    assert_eq!(question, port.to_be_bytes());
    server.send_to(&question, at).expect("sent");
    let frame = world.frames(1).remove(0);
    let ports = ports_at(family);
    assert_eq!(frame[ports + 2..ports + 4], port.to_be_bytes(), "the answer is for who has asked");
}

/// Questions, `rate` a second for `seconds` of the world's time, each from a port of its own and answered `after`
/// so many others were asked. Returns how many were answered.
fn storm(
    world: &mut World,
    family: Family,
    to_port: u16,
    (rate, seconds): (u32, u32),
    after: usize,
) -> u32 {
    let server = bound(family.host_at(to_port));
    let to = server.local_addr().expect("bound");
    let mut waiting = std::collections::VecDeque::new();
    let (mut asked, mut answered) = (0u32, 0u32);
    let ports = ports_at(family);
    while asked < rate * seconds || !waiting.is_empty() {
        if asked < rate * seconds {
            let port = 10_000 + (asked % 50_000) as u16;
            world.send(packet::udp(from(family, port), to, &asked.to_be_bytes()));
            asked += 1;
            world.skip(Duration::from_secs(1) / rate);
        }
        world.turn(Duration::ZERO);
        waiting.extend(std::iter::from_fn(|| received(&server)));
        if waiting.len() > after || asked == rate * seconds {
            let Some((question, at)) = waiting.pop_front() else { continue };
            server.send_to(&question, at).expect("sent");
            world.turn(Duration::ZERO);
        }
        for frame in world.received() {
            let number: [u8; 4] = frame[ports + 8..ports + 12].try_into().expect("four bytes");
            let port = 10_000 + (u32::from_be_bytes(number) % 50_000) as u16;
            assert_eq!(frame[ports + 2..ports + 4], port.to_be_bytes());
            answered += 1;
        }
    }
    world.quiet(1000);
    answered + world.received().len() as u32
}

#[test]
fn five_thousand_questions_a_second_are_all_answered() {
    isolated(|| {
        // The longer one takes half a minute in a build without optimisation.
        for (family, seconds) in [(Family::V4, 60), (Family::V6, 6)] {
            let mut world = known(&Setup { max_descriptors: 4096, ..Setup::default() });
            let asked = 5000 * seconds;
            assert_eq!(storm(&mut world, family, 53, (5000, seconds), 100), asked);
            assert_eq!(world.all_drops(), 0);
            world.skip(Duration::from_secs(3));
            world.settle(4000);
            assert_eq!(world.engine.flow_count(), 0, "what was answered ends soon");
        }
    });
}

#[test]
fn short_exchanges_of_any_kind_make_room_for_each_other() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { max_descriptors: FEW, ..Setup::default() });
            assert_eq!(storm(&mut world, family, 9000, (2000, 2), 20), 4000);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn whoever_the_guest_has_answered_makes_room_for_the_next() {
    isolated(|| {
        for (family, port) in [(Family::V4, 8000), (Family::V6, 8000), (Family::V4, 53)] {
            let rules = vec![forward(Proto::Udp, family, port)];
            let mut world = known(&Setup { max_descriptors: FEW, rules, ..Setup::default() });
            let at = packet::l4_offset(family.guest());
            for number in 0..1000_u32 {
                let client = bound(family.host_at(0));
                client.send_to(&number.to_be_bytes(), family.host_at(port)).expect("sent");
                let question = world.frames(1).remove(0);
                assert_eq!(question[at + 8..at + 12], number.to_be_bytes());
                let from = client.local_addr().expect("bound");
                let guest = SocketAddr::new(family.guest(), port);
                world.send(packet::udp(guest, from, b"answer"));
                world.settle(TURNS);
                assert_eq!(received(&client).expect("an answer").0, b"answer");
            }
            assert_eq!(world.all_drops(), 0);
            if port == 53 {
                world.skip(Duration::from_secs(3));
                world.settle(4000);
                assert_eq!(world.engine.flow_count(), 0, "answered questions end soon");
            }
        }
    });
}

#[test]
fn tcp_does_not_notice_a_storm_of_questions() {
    isolated(|| {
        let mut world = World::new(&Setup { max_descriptors: FEW, ..Setup::default() });
        let mut guest = Guest::new(&mut world, 1500);
        let listener = std::net::TcpListener::bind(Family::V4.host_at(8080)).expect("a free port");
        let handle = guest.tcp(4096);
        guest.connect(handle, Family::V4.host_at(8080), 40_000);
        until(&mut world, &mut guest, "connect", |_, guest| guest.tcp_mut(handle).may_send());
        let (mut peer, _) = listener.accept().expect("a connection");
        let server = bound(Family::V4.host_at(53));
        let to = server.local_addr().expect("bound");
        for round in 0..20u16 {
            for number in 0..100 {
                let port = 10_000 + round * 100 + number;
                world.send(packet::udp(from(Family::V4, port), to, b"?"));
                world.turn(Duration::ZERO);
                while let Some((question, at)) = received(&server) {
                    server.send_to(&question, at).expect("sent");
                }
            }
            guest.tcp_mut(handle).send_slice(&[round as u8]).expect("room");
            until(&mut world, &mut guest, "a byte each way", |_, guest| {
                let mut byte = [0];
                use std::io::{Read, Write};
                peer.set_nonblocking(true).expect("fcntl");
                if peer.read(&mut byte).is_ok_and(|read| read == 1) {
                    peer.write_all(&byte).expect("room");
                }
                guest.tcp_mut(handle).recv_slice(&mut byte).is_ok_and(|read| read == 1)
            });
        }
    });
}

/// The guest pings the host, which replies.
fn ping(world: &mut World, family: Family, identifier: u16, number: u16) {
    request(world, family, identifier, number);
    let reply = world.frames(1).remove(0);
    let at = ports_at(family) + 4;
    assert_eq!(reply[at..at + 4], [identifier.to_be_bytes(), number.to_be_bytes()].concat());
}

fn request(world: &mut World, family: Family, identifier: u16, number: u16) {
    world.send(packet::echo(family.guest(), family.host(), identifier, number, b"ping"));
}

#[test]
fn a_flood_of_echo_requests_ends_no_ping() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { max_descriptors: FEW, ..Setup::default() });
            let server = bound(family.host_at(9000));
            for number in 0..2 {
                ping(&mut world, family, 1, number);
                ask(&mut world, family, &server, 5000);
            }
            // More than one of each: none is a stream that would keep others out.
            for identifier in 1000..3000 {
                ping(&mut world, family, identifier, 0);
                ping(&mut world, family, identifier, 1);
                if identifier % 100 == 0 {
                    ping(&mut world, family, 1, identifier);
                    ask(&mut world, family, &server, 5000);
                }
            }
            ping(&mut world, family, 3000, 0);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn a_flood_of_unanswered_echo_requests_keeps_pings_out_for_no_longer_than_a_reply_takes() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { max_descriptors: FEW, ..Setup::default() });
            let answers = |answers: bool| {
                run(&format!(
                    "echo {0} > /proc/sys/net/ipv4/icmp_echo_ignore_all
                    echo {0} > /proc/sys/net/ipv6/icmp/echo_ignore_all",
                    u8::from(!answers)
                ));
            };
            // As many as there is room for, each with a reply, waiting for the next one.
            let (mut end, mut flows) = (1000, 0);
            while world.engine.flow_count() == flows {
                ping(&mut world, family, end, 0);
                (end, flows) = (end + 1, flows + 1);
            }
            let flows = world.engine.flow_count() as u16;
            answers(false);
            for identifier in end - flows..end {
                request(&mut world, family, identifier, 1);
                world.settle(TURNS);
            }
            answers(true);
            assert_eq!((world.engine.flow_count(), world.all_drops()), (flows.into(), 0));
            request(&mut world, family, end, 0);
            world.settle(TURNS);
            assert_eq!(
                (world.received().len(), world.drops(DropReason::DatagramFlowsFull)),
                (0, 1)
            );
            for identifier in end - flows..end {
                ping(&mut world, family, identifier, 2);
            }
            answers(false);
            for identifier in end - flows..end {
                request(&mut world, family, identifier, 3);
                world.settle(TURNS);
            }
            answers(true);
            world.skip(Duration::from_secs(10));
            for identifier in end..end + 3 * flows {
                ping(&mut world, family, identifier, 0);
            }
            assert_eq!(world.drops(DropReason::DatagramFlowsFull), 1);
        }
    });
}

#[test]
fn a_flood_of_new_flows_ends_no_stream_and_keeps_no_question_out() {
    isolated(|| {
        for family in FAMILIES {
            let rules = vec![forward(Proto::Udp, family, 7000)];
            let mut world = known(&Setup { max_descriptors: FEW, rules, ..Setup::default() });
            let server = bound(family.host_at(9000));
            let peer = bound(family.host_at(9001));
            let talk = |world: &mut World| {
                ask(world, family, &server, 5000);
                peer.send_to(b"?", family.host_at(7000)).expect("sent");
                world.frames(1);
                let to = peer.local_addr().expect("bound");
                world.send(packet::udp(from(family, 7000), to, b"!"));
                world.settle(TURNS);
                assert_eq!(awaited(&peer), (b"!".to_vec(), family.host_at(7000)));
            };
            talk(&mut world);
            talk(&mut world);
            // Nobody answers, and each comes from another port.
            let silent = bound(family.host_at(9999));
            let to = silent.local_addr().expect("bound");
            for port in 10_000..13_000 {
                world.send(packet::udp(from(family, port), to, b"x"));
                world.settle(TURNS);
                while received(&silent).is_some() {}
                if port % 100 == 0 {
                    talk(&mut world);
                    ask(&mut world, family, &server, port + 20_000);
                }
            }
            // The network's side.
            for _ in 0..500 {
                bound(family.host_at(0)).send_to(b"x", family.host_at(7000)).expect("sent");
                world.frames(1);
            }
            talk(&mut world);
            let evicted = world.drops(DropReason::DatagramFlowEvicted);
            assert!(evicted > 3000, "{evicted}");
            assert_eq!(world.all_drops(), evicted);
        }
    });
}

#[test]
fn new_peers_of_one_port_cost_nothing() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { max_descriptors: FEW, ..Setup::default() });
            let server = bound(family.host_at(9000));
            ask(&mut world, family, &server, 5000);
            let silent: Vec<UdpSocket> = (0..200).map(|_| bound(family.host_at(0))).collect();
            for peer in silent.iter().cycle().take(2000) {
                let to = peer.local_addr().expect("bound");
                world.send(packet::udp(from(family, 5000), to, b"find_node"));
                world.settle(TURNS);
            }
            ask(&mut world, family, &server, 5000);
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
        }
    });
}
