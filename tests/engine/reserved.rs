//! Source ports that only the privileged of a host may have: what comes from one leaves from one, where the host lets
//! the program have it.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use smoltcp::wire::IpAddress;

use crate::datagrams::known;
use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World};

/// From which port on everybody may open them.
fn set_unprivileged_from(port: u16) {
    let file = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    std::fs::write(file, port.to_string()).expect("the namespace is ours");
}

/// Gives up the right to open others.
fn be_unprivileged() {
    let mut sets = capabilities(None).expect("capget");
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(CapabilitySet::NET_BIND_SERVICE);
    }
    let CapabilitySets { effective, permitted, inheritable } = sets;
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable }).expect("capset");
}

/// The port that a server of the host sees of a connection from this port of the guest.
fn tcp_from(family: Family, port: u16) -> u16 {
    let mut world = World::new(&Setup::default());
    let mut guest = Guest::new(&mut world, 1500);
    let server = TcpListener::bind(SocketAddr::new(family.host(), 0)).expect("a free port");
    server.set_nonblocking(true).expect("fcntl");
    let handle = guest.tcp(4096);
    guest.connect(handle, server.local_addr().expect("bound"), port);
    let mut peer = None;
    until(&mut world, &mut guest, "connect", |_, _| {
        peer = peer.or_else(|| server.accept().ok().map(|(_, peer)| peer));
        peer.is_some()
    });
    peer.expect("accepted").port()
}

/// The same of a datagram.
fn udp_from(family: Family, port: u16) -> u16 {
    let mut world = World::new(&Setup::default());
    let mut guest = Guest::new(&mut world, 1500);
    let server = UdpSocket::bind(SocketAddr::new(family.host(), 0)).expect("a free port");
    server.set_nonblocking(true).expect("fcntl");
    let to = server.local_addr().expect("bound");
    let handle = guest.udp(port);
    let remote = (IpAddress::from(to.ip()), to.port());
    guest.udp_mut(handle).send_slice(b"mount", remote).expect("room");
    let mut peer = None;
    until(&mut world, &mut guest, "datagram", |_, _| {
        peer = peer.or_else(|| server.recv_from(&mut [0; 8]).ok().map(|(_, peer)| peer));
        peer.is_some()
    });
    peer.expect("received").port()
}

#[test]
fn reserved_ports_are_kept_where_they_may_be() {
    isolated(|| {
        set_unprivileged_from(512);
        be_unprivileged();
        for family in FAMILIES {
            assert_eq!((tcp_from(family, 700), udp_from(family, 700)), (700, 700));
            // Where the host does not let us.
            assert!(tcp_from(family, 111) >= 1024);
            assert!(udp_from(family, 111) >= 1024);
            let ordinary = tcp_from(family, 40000);
            assert!(ordinary >= 1024 && ordinary != 40000, "the kernel's choice");
        }
        set_unprivileged_from(1024);
        for family in FAMILIES {
            assert!(tcp_from(family, 700) >= 1024);
            assert!(udp_from(family, 700) >= 1024);
        }
    });
}

#[test]
fn the_right_to_low_ports_is_used() {
    isolated(|| {
        set_unprivileged_from(1024);
        for family in FAMILIES {
            assert_eq!((tcp_from(family, 800), udp_from(family, 111)), (800, 111));
        }
    });
}

#[test]
fn a_connection_from_the_port_that_it_leads_to_is_none_with_itself() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            for to in [family.gateway(), family.host()] {
                let (from, to) = (SocketAddr::new(family.guest(), 700), SocketAddr::new(to, 700));
                world.send(packet::tcp(from, to, packet::SYN, (1, 0), &[]));
                let answer = &world.frames(1)[0];
                let flags = answer[packet::l4_offset(from.ip()) + 13];
                assert_eq!(flags, packet::RST | packet::ACK, "nobody listens");
            }
        }
    });
}

#[test]
fn another_reserved_port_is_as_good() {
    isolated(|| {
        set_unprivileged_from(512);
        for family in FAMILIES {
            let at = |port| SocketAddr::new(family.host(), port);
            let _listening = [700, 699].map(|port| TcpListener::bind(at(port)).expect("free"));
            assert_eq!(tcp_from(family, 700), 698);
            let _bound = [700, 699].map(|port| UdpSocket::bind(at(port)).expect("free"));
            let other = udp_from(family, 700);
            assert!((512..699).contains(&other), "{other}");
        }
    });
}

#[test]
fn one_port_serves_several_destinations() {
    isolated(|| {
        set_unprivileged_from(512);
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let mut guest = Guest::new(&mut world, 1500);
            let any = SocketAddr::new(family.host(), 0);
            let servers = [0, 1].map(|_| TcpListener::bind(any).expect("a free port"));
            let mut open = Vec::new();
            for server in &servers {
                server.set_nonblocking(true).expect("fcntl");
                let handle = guest.tcp(4096);
                guest.connect(handle, server.local_addr().expect("bound"), 900);
                let mut accepted = None;
                until(&mut world, &mut guest, "connect", |_, _| {
                    accepted = accepted.take().or_else(|| server.accept().ok());
                    accepted.is_some()
                });
                open.extend(accepted);
            }
            let seen: Vec<u16> = open.iter().map(|(_, peer)| peer.port()).collect();
            assert_eq!(seen, [900, 900]);
        }
    });
}
