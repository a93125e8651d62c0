//! Whose a port of the host is: a forwarded UDP port is ours alone, whoever would share it, but for one that a program of the
//! host has and shares and that is forwarded by its number; and of the ports that all programs send from, the guest gets half.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use passt::flow::fwd::{ListenAddr, Proto, Rule, RuleTable};
use passt::wire::DropReason;
use rustix::io::Errno;

use crate::anybody::{at_guest, nothing_arrives, shared};
use crate::datagrams::{awaited, bound, known};
use crate::groups::{guest, say};
use crate::namespace::isolated;
use crate::world::{FAMILIES, Family, Setup, World, forward, mapping, network, view};

/// The port that is forwarded.
const PORT: u16 = 7000;

/// A rule for it on all addresses of both families.
fn everywhere() -> Rule {
    Rule { listen: ListenAddr::Dual, ..Rule::plain(Proto::Udp, (PORT, PORT), PORT) }
}

/// A world with these rules.
fn with(rules: &[Rule]) -> World {
    known(&Setup { rules: rules.to_vec(), ..Setup::default() })
}

/// All addresses of a family.
fn any(family: Family) -> SocketAddr {
    SocketAddr::new(family.of(Ipv4Addr::UNSPECIFIED, "::"), PORT)
}

/// Nobody gets the port by sharing it, on all addresses or on one of the host's.
fn assert_is_ours(family: Family, when: &str) {
    for at in [any(family), family.host_at(PORT)] {
        assert_eq!(shared(at).err(), Some(Errno::ADDRINUSE), "{family:?}: {at}: {when}");
    }
}

/// A client writes to the port, and is answered from it.
fn serve(world: &mut World, family: Family) -> UdpSocket {
    let client = bound(SocketAddr::new(family.host(), 0));
    let place = client.local_addr().expect("bound");
    client.send_to(b"?", family.host_at(PORT)).expect("sent");
    let (from, to, data) = at_guest(world);
    assert_eq!((to, &data[..]), (guest(family, PORT), &b"?"[..]));
    say(world, to, from, b"!");
    assert_eq!(awaited(&client), (b"!".to_vec(), family.host_at(PORT)), "{place}");
    client
}

#[test]
fn a_forwarded_port_is_shared_with_no_program_of_the_host() {
    isolated(|| {
        for rules in [&[everywhere()][..], &FAMILIES.map(|one| forward(Proto::Udp, one, PORT))] {
            for family in FAMILIES {
                let mut world = with(rules);
                assert_is_ours(family, "at first");
                let clients = [(); 3].map(|()| serve(&mut world, family));
                assert_is_ours(family, "with flows");
                // What the guest begins leaves from the port, too.
                let gateway = SocketAddr::new(family.gateway(), 9000);
                let server = bound(SocketAddr::new(family.of(Ipv4Addr::LOCALHOST, "::1"), 9000));
                say(&mut world, guest(family, PORT), gateway, b"and I?");
                assert_eq!(awaited(&server).1.port(), PORT);
                assert_is_ours(family, "with the guest's own");
                for client in &clients {
                    client.send_to(b"??", family.host_at(PORT)).expect("sent");
                    assert_eq!(at_guest(&mut world).2, b"??");
                }
                drop(world);
                // Who starts next has it at once, with the same clients.
                let mut world = with(rules);
                clients[0].send_to(b"again", family.host_at(PORT)).expect("sent");
                assert_eq!(at_guest(&mut world).2, b"again");
                assert_is_ours(family, "once more");
            }
        }
    });
}

#[test]
fn several_addresses_have_the_same_port_each() {
    isolated(|| {
        let on = |address: IpAddr| Rule { listen: address.into(), ..everywhere() };
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let mut world =
            with(&[on(loopback[0]), on(loopback[1]), on(Family::V4.host()), on(Family::V6.host())]);
        for family in FAMILIES {
            serve(&mut world, family);
            let local = loopback[usize::from(family == Family::V6)];
            let client = bound(SocketAddr::new(local, 0));
            client.send_to(b"here", (local, PORT)).expect("sent");
            assert_eq!(at_guest(&mut world).2, b"here");
            assert_is_ours(family, "on two addresses");
        }
    });
}

#[test]
fn a_port_that_a_program_shares_is_forwarded_if_it_is_named() {
    isolated(|| {
        for family in FAMILIES {
            let program = shared(any(family)).expect("a free port");
            let rule = forward(Proto::Udp, family, PORT);
            // Of many ports, none is taken away from who has it.
            let mut world = with(&[Rule { last: PORT + 1, weak: true, ..rule }]);
            let client = bound(SocketAddr::new(family.host(), 0));
            client.send_to(b"program", family.host_at(PORT)).expect("sent");
            assert_eq!(awaited(&program).0, b"program");
            nothing_arrives(&mut world);
            drop(world);
            // The more precise address has what is for one.
            serve(&mut with(&[rule]), family);
        }
    });
}

#[test]
fn a_port_that_a_program_has_alone_is_not_forwarded() {
    isolated(|| {
        let _program = bound(any(Family::V4));
        let mut rules = RuleTable::default();
        rules.add(everywhere(), &network(1500)).expect("a valid rule");
        let refused = with(&[]).engine.replace_net(view(network(1500), mapping(), rules));
        let why = refused.expect_err("a port that is taken").to_string();
        assert!(why.contains("Address already in use"), "{why}");
    });
}

#[test]
fn a_port_that_flows_of_ours_have_is_ours_alone_once_it_is_forwarded() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = with(&[]);
            let gateway = SocketAddr::new(family.gateway(), 9000);
            let server = bound(SocketAddr::new(family.of(Ipv4Addr::LOCALHOST, "::1"), 9000));
            say(&mut world, guest(family, PORT), gateway, b"?");
            let (_, from) = awaited(&server);
            assert_eq!((from.port(), world.engine.flow_count()), (PORT, 1));
            let mut rules = RuleTable::default();
            rules.add(everywhere(), &network(1500)).expect("a valid rule");
            world.engine.replace_net(view(network(1500), mapping(), rules)).expect("no conflict");
            assert_is_ours(family, "forwarded later");
            server.send_to(b"!", from).expect("sent");
            assert_eq!(at_guest(&mut world).0, gateway, "the flow goes on");
            serve(&mut world, family);
        }
    });
}

/// First and last of few ports that the host gives to sockets that do not choose.
const FEW: (u16, u16) = (40_000, 40_099);

/// A world on a host that has only these.
fn with_few_ports() -> World {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{} {}", FEW.0, FEW.1))
        .expect("a network namespace of our own");
    known(&Setup { ephemeral: FEW, ..Setup::default() })
}

/// How many of them programs of the host can have.
fn left(family: Family) -> usize {
    let at = SocketAddr::new(any(family).ip(), 0);
    let sockets = std::iter::from_fn(|| UdpSocket::bind(at).ok());
    sockets.collect::<Vec<_>>().len()
}

#[test]
fn a_guest_that_talks_from_all_ports_leaves_half_of_them_to_the_host() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = with_few_ports();
            let peer = bound(SocketAddr::new(family.host(), 9000));
            let to = peer.local_addr().expect("bound");
            let mut from = Vec::new();
            for port in FEW.0..=FEW.1 {
                say(&mut world, guest(family, port), to, b"?");
                from.push(awaited(&peer).1);
            }
            assert_eq!((world.engine.flow_count(), left(family)), (50, 50));
            // The oldest have given way, before they were answered.
            assert_eq!(world.drops(DropReason::NoLocalPort), 50);
            peer.send_to(b"!", from[49]).expect("sent");
            nothing_arrives(&mut world);
            for (from, port) in from[50..].iter().zip(FEW.0 + 50..) {
                peer.send_to(b"!", from).expect("sent");
                assert_eq!(at_guest(&mut world), (to, guest(family, port), b"!".to_vec()));
            }
            // Ports that are not among them are had by whoever asks.
            for port in 3000..3020 {
                say(&mut world, guest(family, port), to, b"?");
                assert_eq!(awaited(&peer).1.port(), port);
            }
            assert_eq!((world.engine.flow_count(), left(family)), (70, 50));
            assert_eq!(world.all_drops(), 50);
        }
    });
}

#[test]
fn flows_without_one_of_these_ports_do_not_give_way_for_one() {
    isolated(|| {
        let family = Family::V4;
        let mut world = with_few_ports();
        let peer = bound(SocketAddr::new(family.host(), 9000));
        let to = peer.local_addr().expect("bound");
        let others = 3000..3020;
        for port in others.clone().chain(FEW.0..=FEW.1) {
            say(&mut world, guest(family, port), to, b"?");
            let (_, from) = awaited(&peer);
            if others.contains(&port) {
                peer.send_to(b"!", from).expect("sent");
                assert_eq!(at_guest(&mut world).1, guest(family, port));
            }
        }
        assert_eq!((world.engine.flow_count(), left(family)), (20 + 50, 50));
        for port in others {
            peer.send_to(b"news", family.host_at(port)).expect("sent");
            assert_eq!(at_guest(&mut world), (to, guest(family, port), b"news".to_vec()));
        }
    });
}

#[test]
fn where_all_of_the_guest_s_ports_have_streams_a_new_one_is_refused() {
    isolated(|| {
        let family = Family::V4;
        let mut world = with_few_ports();
        let peer = bound(SocketAddr::new(family.host(), 9000));
        let to = peer.local_addr().expect("bound");
        for port in FEW.0..FEW.0 + 50 {
            for _ in 0..2 {
                say(&mut world, guest(family, port), to, b"?");
                peer.send_to(b"!", awaited(&peer).1).expect("sent");
                assert_eq!(at_guest(&mut world).1, guest(family, port));
            }
        }
        say(&mut world, guest(family, FEW.1), to, b"and I?");
        assert_eq!(world.drops(DropReason::NoLocalPort), 1);
        assert_eq!((world.engine.flow_count(), left(family)), (50, 50));
        say(&mut world, guest(family, FEW.0), to, b"I am here");
        assert_eq!(awaited(&peer), (b"I am here".to_vec(), family.host_at(FEW.0)));
    });
}
