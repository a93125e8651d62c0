//! Guests that keep their connections alive: their peers are to hear of it.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::net::sockopt;

use crate::datagrams::known;
use crate::fragments::{cut_l4, send_all};
use crate::namespace::isolated;
use crate::packet::{self, ACK};
use crate::sockets::connected_to;
use crate::world::{FAMILIES, Setup};

const TURNS: usize = 64;

#[test]
fn the_host_s_socket_asks_as_often_as_the_guest_does() {
    isolated(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_keepalive_time", "200").expect("a sysctl");
        for family in FAMILIES {
            let to = family.host_at(8000);
            let listener = TcpListener::bind(to).expect("a free port");
            let mut world = known(&Setup::default());
            let guest = SocketAddr::new(family.guest(), 40000);
            let (ack, _peer) = world.open(&listener, (guest, to));
            world.send(packet::tcp(guest, to, ACK, (1001, ack), b"data"));
            world.settle(TURNS);
            let socket = connected_to(to).pop().expect("the engine's socket");
            assert_eq!(sockopt::socket_keepalive(&socket), Ok(false));
            let kernels = sockopt::tcp_keepidle(&socket).expect("getsockopt");
            // What the host's administrator has chosen is not lengthened.
            assert_eq!(kernels, Duration::from_secs(200));
            // How long the guest was silent; how long the host's socket is to be, at most.
            let often = Duration::from_secs(10);
            let pauses = [
                (1000, kernels),
                (1000, kernels),
                (90, Duration::from_secs(90)),
                (300, Duration::from_secs(90)),
            ];
            for (pause, idle) in
                pauses.into_iter().chain([(45, Duration::from_secs(45)), (1, often)])
            {
                world.skip(Duration::from_secs(pause));
                world.received();
                world.send(packet::tcp(guest, to, ACK, (1004, ack), &[]));
                world.settle(TURNS);
                assert!(!world.received().is_empty(), "the guest is answered");
                assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
                assert_eq!(sockopt::tcp_keepidle(&socket), Ok(idle), "after {pause} s");
            }
        }
    });
}

#[test]
fn a_probe_in_fragments_is_one() {
    isolated(|| {
        for family in FAMILIES {
            let to = family.host_at(8000);
            let listener = TcpListener::bind(to).expect("a free port");
            let mut world = known(&Setup::default());
            let guest = SocketAddr::new(family.guest(), 40000);
            let (ack, _peer) = world.open(&listener, (guest, to));
            world.send(packet::tcp(guest, to, ACK, (1001, ack), b"data"));
            world.settle(TURNS);
            let probe = packet::tcp(guest, to, ACK, (1004, ack), &[]);
            let l4 = &probe[packet::l4_offset(guest.ip())..];
            send_all(&mut world, cut_l4((guest.ip(), to.ip()), packet::TCP, 1, l4, 16));
            let socket = connected_to(to).pop().expect("the engine's socket");
            assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
        }
    });
}
