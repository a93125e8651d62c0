//! What finds no room at once: segments that a socket does not take though it had room, and a SYN or a reset for a guest
//! whose link is full.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use passt::wire::DropReason;
use rustix::net::sockopt;

use crate::datagrams::known;
use crate::egress::{enforce, policy};
use crate::guest::until;
use crate::namespace::isolated;
use crate::packet::{self, ACK, RST, SYN};
use crate::tcp::{Pair, read_some};
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, mapping};

const TURNS: usize = 64;

fn guest(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), 40000)
}

fn listener(family: Family) -> TcpListener {
    let listener = TcpListener::bind(family.host_at(8000)).expect("a free port");
    listener.set_nonblocking(true).expect("fcntl");
    listener
}

/// The kernel takes this many bytes that are not sent yet, whatever room there is.
fn limit_unsent(bytes: u32) {
    std::fs::write("/proc/sys/net/ipv4/tcp_notsent_lowat", bytes.to_string()).expect("a sysctl");
}

/// Makes room for `frames` frames, and returns what the guest gets.
fn with_room(world: &mut World, frames: usize) -> Vec<Vec<u8>> {
    let events = world.port.set_room(frames);
    assert!(events.room, "the link owes a report");
    world.engine.on_link_room();
    world.settle(TURNS);
    world.received()
}

fn flags(frame: &[u8], family: Family) -> u8 {
    frame[packet::l4_offset(family.guest()) + 13]
}

#[test]
fn what_a_socket_does_not_take_is_not_lost() {
    isolated(|| {
        limit_unsent(4096);
        let data: Vec<u8> = (0..1_000_000).map(|i| (i * 31 / 7) as u8).collect();
        for (family, caps) in FAMILIES.into_iter().flat_map(|f| [(f, PLAIN), (f, OFFLOADS)]) {
            for tail in [None, Some(54), Some(200)] {
                let setup = Setup { caps, mtu: 9000, ..Setup::default() };
                let mut world = World::new(&setup);
                if let Some(bytes) = tail {
                    world.port.keep_tails(bytes);
                }
                let mut pair = Pair::connect(world, setup.mtu, family);
                pair.upload(&data);
                let world = pair.finish();
                assert_eq!(world.drops(DropReason::SocketFull), 0);
            }
        }
    });
}

#[test]
fn a_connection_ends_when_its_peer_has_what_its_socket_did_not_take() {
    isolated(|| {
        limit_unsent(4096);
        let data = vec![7; 300_000];
        for family in FAMILIES {
            let setup = Setup { mtu: 9000, ..Setup::default() };
            let Pair { mut world, mut guest, handle, mut peer } =
                Pair::connect(World::new(&setup), setup.mtu, family);
            sockopt::set_socket_recv_buffer_size(&peer, 4096).expect("setsockopt");
            // The peer says that it has no more to say, and reads nothing until the guest has said all.
            peer.shutdown(std::net::Shutdown::Write).expect("connected");
            let mut sent = 0;
            until(&mut world, &mut guest, "the guest's stream", |_, guest| {
                let socket = guest.tcp_mut(handle);
                if sent < data.len() && socket.can_send() {
                    sent += socket.send_slice(&data[sent..]).expect("the connection is up");
                }
                sent >= data.len() || !socket.can_send()
            });
            let (mut got, mut open, mut closed) = (Vec::new(), true, false);
            let end = Instant::now() + Duration::from_secs(60);
            // The kernel's time has to pass.
            while open || world.engine.flow_count() > 0 {
                assert!(Instant::now() < end, "{} bytes have come", got.len());
                let socket = guest.tcp_mut(handle);
                if sent < data.len() && socket.can_send() {
                    sent += socket.send_slice(&data[sent..]).expect("the connection is up");
                } else if sent >= data.len() && !closed {
                    socket.close();
                    closed = true;
                }
                world.turn(Duration::from_millis(1));
                guest.poll(&mut world);
                open = open && read_some(&mut peer, &mut got);
            }
            assert_eq!(got, data);
        }
    });
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
            let listener = listener(family);
            let mut world = known(&Setup::default());
            let to = family.host_at(8000);
            let (ack, peer) = world.open(&listener, (guest(family), to));
            world.send(packet::tcp(guest(family), to, ACK, (1001, ack), &[]));
            world.settle(TURNS);
            world.received();
            world.port.set_room(0);
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
fn an_answer_before_a_reset_is_the_guest_s() {
    isolated(|| {
        for family in FAMILIES {
            for size in [300, 100_000] {
                let listener = listener(family);
                let mut world = known(&Setup::default());
                let to = family.host_at(8000);
                let (ack, mut peer) = world.open(&listener, (guest(family), to));
                world.send(packet::tcp(guest(family), to, ACK, (1001, ack), b"a long request"));
                world.settle(TURNS);
                world.received();
                // A server that refuses it: it has not read all, so that its kernel resets.
                peer.write_all(&vec![7; size]).expect("room for it");
                drop(peer);
                let l4 = packet::l4_offset(family.guest());
                let (mut got, mut next, mut reset) = (0, ack, false);
                let end = Instant::now() + Duration::from_secs(20);
                while !reset {
                    assert!(Instant::now() < end, "{got} bytes, and no reset");
                    world.turn(Duration::from_millis(1));
                    for frame in world.received() {
                        reset |= flags(&frame, family) & RST != 0;
                        let len = match family {
                            Family::V4 => {
                                usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 40
                            }
                            Family::V6 => {
                                usize::from(u16::from_be_bytes([frame[18], frame[19]])) - 20
                            }
                        };
                        let seq =
                            u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().expect("four"));
                        assert!(len == 0 || seq == next, "in order");
                        got += len;
                        next = next.wrapping_add(len as u32);
                    }
                    world.send(packet::tcp(guest(family), to, ACK, (1015, next), &[]));
                }
                assert_eq!(got, size);
            }
        }
    });
}

#[test]
fn a_reset_does_not_wait_for_room_for_ever() {
    isolated(|| {
        let family = Family::V4;
        let listener = listener(family);
        let mut world = known(&Setup::default());
        let to = family.host_at(8000);
        let (ack, peer) = world.open(&listener, (guest(family), to));
        world.send(packet::tcp(guest(family), to, ACK, (1001, ack), &[]));
        world.settle(TURNS);
        world.received();
        world.port.set_room(0);
        enforce(&mut world, policy(&["drop any"]));
        world.settle(TURNS);
        assert_eq!((world.received().len(), world.engine.flow_count()), (0, 1));
        world.skip(Duration::from_secs(61));
        world.settle(TURNS);
        assert_eq!(world.engine.flow_count(), 0);
        drop(peer);
    });
}
