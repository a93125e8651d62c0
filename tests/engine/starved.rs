//! Many flows that wait for room in the guest's buffers: what the link reports is shared out in turn, and a
//! guest without room costs what it takes to find that out, not once for each flow.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use passt_frame::FramePort;

use crate::datagrams::{bound, known, received};
use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, Setup, World};

/// Flows that wait.
const FLOWS: u16 = 400;
/// Turns in which a few hundred datagrams are done with.
const TURNS: usize = 1000;

/// A world with flows of which each has `datagrams` datagrams for a guest without room.
fn starving(datagrams: u8) -> World {
    let mut world = known(&Setup::default());
    let host: UdpSocket = bound(Family::V4.host_at(9000));
    let peers: Vec<SocketAddr> = (0..FLOWS)
        .map(|flow| {
            let from = SocketAddr::new(Family::V4.guest(), 10_000 + flow);
            world.send(packet::udp(from, Family::V4.host_at(9000), b"hello"));
            world.settle(TURNS);
            received(&host).expect("the guest's datagram").1
        })
        .collect();
    world.port.set_room(0);
    for number in 0..datagrams {
        for peer in &peers {
            host.send_to(&[number], peer).expect("sent");
        }
        world.quiet(TURNS);
    }
    assert_eq!(world.received().len(), 0);
    world
}

/// Makes room for `frames` frames; returns the flow and the payload of each frame that the guest gets for it.
fn with_room(world: &mut World, frames: usize) -> Vec<(u16, u8)> {
    let events = world.port.set_room(frames);
    assert!(events.room, "the link owes a report");
    world.engine.on_link_room();
    world.settle(TURNS);
    let flow = |frame: &Vec<u8>| u16::from_be_bytes([frame[36], frame[37]]) - 10_000;
    world.received().iter().map(|frame| (flow(frame), frame[42])).collect()
}

fn reservations(world: &World) -> u64 {
    let mut count = 0;
    world.port.counters(&mut |name, value| count += if name == "reservations" { value } else { 0 });
    count
}

#[test]
fn room_for_one_frame_costs_the_same_whoever_waits() {
    isolated(|| {
        let mut world = starving(1);
        for turn in 0..20 {
            let before = reservations(&world);
            let got = with_room(&mut world, 1);
            assert_eq!(got.len(), 1, "turn {turn}");
            let asked = reservations(&world) - before;
            assert!(asked < 12, "turn {turn}: room was asked for {asked} times");
        }
    });
}

#[test]
fn room_is_given_in_turn_and_nothing_is_lost() {
    isolated(|| {
        let mut world = starving(2);
        let half = usize::from(FLOWS / 2);
        let mut got = with_room(&mut world, half);
        assert_eq!(got.len(), half);
        got.extend(with_room(&mut world, 10 * usize::from(FLOWS)));
        assert_eq!(got.len(), 2 * usize::from(FLOWS));
        for flow in 0..FLOWS {
            let of_flow = got.iter().filter(|(number, _)| *number == flow);
            let payloads: Vec<u8> = of_flow.map(|(_, payload)| *payload).collect();
            assert_eq!(payloads, [0, 1], "flow {flow}");
        }
        assert_eq!(world.all_drops(), 0);
    });
}

/// Who has more than a turn takes goes on after those of which something is new.
#[test]
fn a_question_does_not_wait_for_what_has_not_finished() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let host: UdpSocket = bound(Family::V4.host_at(9000));
        let [much, little] = [1, 2].map(|flow| {
            let from = SocketAddr::new(Family::V4.guest(), 10_000 + flow);
            world.send(packet::udp(from, Family::V4.host_at(9000), b"hello"));
            world.settle(TURNS);
            received(&host).expect("the guest's datagram").1
        });
        for _ in 0..100 {
            host.send_to(b"a stream's", much).expect("sent");
        }
        world.turn(Duration::ZERO);
        let flows = |frames: Vec<Vec<u8>>| -> Vec<u8> { frames.iter().map(|f| f[37]).collect() };
        let [first, second] = [1, 2].map(|flow| (10_000u16 + flow).to_be_bytes()[1]);
        let got = flows(world.received());
        assert!(!got.is_empty() && got.len() < 100, "{got:?}");
        assert!(got.iter().all(|flow| *flow == first));
        host.send_to(b"a question", little).expect("sent");
        world.turn(Duration::ZERO);
        let got = flows(world.received());
        assert_eq!(got[..2], [second, first], "{got:?}");
    });
}
