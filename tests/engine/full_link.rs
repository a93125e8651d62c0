//! A guest whose link is full, which is to hear of a SYN or of a reset; and ports of an address to leave from.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

use crate::datagrams::known;
use crate::egress::{enforce, policy};
use crate::namespace::isolated;
use crate::packet::{self, ACK, RST, SYN};
use crate::world::{FAMILIES, Family, Setup, World, mapping};

const TURNS: usize = 64;

fn guest(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), 40000)
}

fn listener(family: Family) -> TcpListener {
    let listener = TcpListener::bind(family.host_at(8000)).expect("a free port");
    listener.set_nonblocking(true).expect("fcntl");
    listener
}

/// Makes room for `frames` frames, and returns what the guest gets.
fn with_room(world: &mut World, frames: usize) -> Vec<Vec<u8>> {
    let events = world.port.set_room(frames);
    assert!(events.room, "the link owes a report");
    world.engine.on_link_room();
    world.settle(TURNS);
    world.received()
}

/// A connection of a guest whose link has no room any more, and the peer's end.
fn connected_and_full(family: Family) -> (World, TcpStream) {
    let listener = listener(family);
    let mut world = known(&Setup::default());
    let to = family.host_at(8000);
    let (ack, peer) = world.open(&listener, (guest(family), to));
    world.send(packet::tcp(guest(family), to, ACK, (1001, ack), &[]));
    world.settle(TURNS);
    world.received();
    world.port.set_room(0);
    (world, peer)
}

fn flags(frame: &[u8], family: Family) -> u8 {
    frame[packet::l4_offset(family.guest()) + 13]
}

#[test]
fn ports_of_an_address_to_leave_from_are_shared_between_destinations() {
    isolated(|| {
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(range, "40000 40009").expect("a sysctl");
        for family in FAMILIES {
            let mut map = mapping();
            match family.host() {
                IpAddr::V4(v4) => map.v4.outbound = Some(v4),
                IpAddr::V6(v6) => map.v6.outbound = Some(v6),
            }
            let mut world = known(&Setup { map, ..Setup::default() });
            let listeners = [7001, 7002, 7003, 7004]
                .map(|port| TcpListener::bind(family.host_at(port)).expect("a free port"));
            let mut peers = Vec::new();
            for listener in &listeners {
                let to = listener.local_addr().expect("bound");
                for _ in 0..8 {
                    let from = SocketAddr::new(family.guest(), 10_000 + peers.len() as u16);
                    peers.push(world.open(listener, (from, to)).1);
                }
            }
            let leaves_from = |peer: &TcpStream| peer.peer_addr().expect("connected").ip();
            assert!(peers.iter().all(|peer| leaves_from(peer) == family.host()));
        }
    });
}

#[test]
fn a_guest_whose_link_is_full_is_told_of_connections_as_soon_as_there_is_room() {
    isolated(|| {
        for family in FAMILIES {
            let listener = listener(family);
            let mut world = known(&Setup::default());
            world.port.set_room(0);
            world.send(packet::tcp(guest(family), family.host_at(8000), SYN, (1000, 0), &[]));
            world.settle(TURNS);
            let (peer, _) = listener.accept().expect("connected");
            assert_eq!(world.received().len(), 0);
            // No time passes: no timer repeats it.
            let frames = with_room(&mut world, 1);
            assert_eq!(frames.len(), 1);
            assert_eq!(flags(&frames[0], family), SYN | ACK);
            drop(peer);
        }
    });
}

#[test]
fn a_guest_whose_link_is_full_is_told_of_resets_as_soon_as_there_is_room() {
    isolated(|| {
        for family in FAMILIES {
            let (mut world, peer) = connected_and_full(family);
            sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("setsockopt");
            drop(peer);
            world.settle(TURNS);
            assert_eq!((world.received().len(), world.engine.flow_count()), (0, 1));
            let frames = with_room(&mut world, 1);
            assert_eq!(frames.len(), 1);
            assert_eq!(flags(&frames[0], family) & RST, RST);
            assert_eq!(world.engine.flow_count(), 0);
        }
    });
}

#[test]
fn a_reset_does_not_wait_for_room_for_ever() {
    isolated(|| {
        let (mut world, peer) = connected_and_full(Family::V4);
        enforce(&mut world, policy(&["drop any"]));
        world.settle(TURNS);
        assert_eq!((world.received().len(), world.engine.flow_count()), (0, 1));
        world.skip(Duration::from_secs(61));
        world.settle(TURNS);
        assert_eq!(world.engine.flow_count(), 0);
        drop(peer);
    });
}
