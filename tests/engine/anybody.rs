//! One socket for a port of the guest, whomever it talks to: who reaches the guest through it and who does not, and
//! whose the port is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::{ListenAddr, Proto, Rule, RuleTable};
use passt::wire::DropReason;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::datagrams::{awaited, bound, known, received};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World, forward, mapping, network, view};

/// The guest's port.
const PORT: u16 = 5000;
const TURNS: usize = 64;
/// Others on the network, none of them an address of the host as the guest knows it.
const OTHERS: [(Ipv4Addr, &str); 2] = [
    (Ipv4Addr::new(198, 51, 100, 61), "2001:db8:1::61"),
    (Ipv4Addr::new(198, 51, 100, 62), "2001:db8:1::62"),
];

/// One of the others.
fn other(family: Family, which: usize, port: u16) -> SocketAddr {
    let (v4, v6) = OTHERS[which];
    SocketAddr::new(family.of(v4, v6), port)
}

fn addresses() {
    for (v4, v6) in OTHERS {
        run(&format!("ip addr add {v4}/32 dev lo; ip addr add {v6}/128 dev lo nodad"));
    }
}

/// Tests over both families, each in a world in which the guest has made itself known, beside others.
fn each(test: impl Fn(Family, &mut World)) {
    addresses();
    for family in FAMILIES {
        test(family, &mut known(&Setup::default()));
    }
}

fn guest(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), PORT)
}

/// Source, destination and payload of the datagram that the guest gets now.
pub fn at_guest(world: &mut World) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let frame = world.frames(1).remove(0);
    let v4 = frame[12..14] == [8, 0];
    let address = |index: usize| -> IpAddr {
        match v4 {
            true => <[u8; 4]>::try_from(&frame[26 + 4 * index..][..4]).expect("four").into(),
            false => <[u8; 16]>::try_from(&frame[22 + 16 * index..][..16]).expect("sixteen").into(),
        }
    };
    let l4 = if v4 { 34 } else { 54 };
    let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let ends = [0, 1].map(|index| SocketAddr::new(address(index), number(l4 + 2 * index)));
    (ends[0], ends[1], frame[l4 + 8..l4 + usize::from(number(l4 + 4))].to_vec())
}

pub fn nothing_arrives(world: &mut World) {
    world.quiet(TURNS);
    assert_eq!(world.received().len(), 0);
}

fn say(world: &mut World, family: Family, to: SocketAddr, what: &[u8]) {
    world.send(packet::udp(guest(family), to, what));
    world.settle(TURNS);
}

#[test]
fn a_server_may_answer_from_another_port_as_tftp_does() {
    isolated(|| {
        each(|family, world| {
            let server = bound(other(family, 0, 69));
            say(world, family, other(family, 0, 69), b"read request");
            let (_, from) = awaited(&server);
            assert_eq!(from.port(), PORT);
            // RFC 1350, section 4: the server's end of the transfer is a port of its own.
            let transfer = bound(other(family, 0, 0));
            let place = transfer.local_addr().expect("bound");
            for block in 0..20u8 {
                transfer.send_to(&[block], from).expect("sent");
                assert_eq!(at_guest(world), (place, guest(family), vec![block]));
                say(world, family, place, &[b'a', block]);
                assert_eq!(awaited(&transfer), (vec![b'a', block], from));
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
        });
    });
}

#[test]
fn anybody_may_answer_a_question_to_a_group() {
    isolated(|| {
        addresses();
        run("ip route add 239.0.0.0/8 dev lo
            ip link add d0 index 77 type veth peer name d1
            ip link set d0 up; ip link set d1 up
            ip addr add 2001:db8:2::1/64 dev d0 nodad
            ip -6 route add multicast ff05::/16 dev d0 table local");
        let groups = [(Family::V4, "239.255.255.250:1900"), (Family::V6, "[ff05::c]:1900")];
        for (family, group) in groups {
            let group: SocketAddr = group.parse().expect("an address");
            let any: SocketAddr =
                if group.is_ipv4() { "0.0.0.0:1900" } else { "[::]:1900" }.parse().expect("one");
            let listener = bound(any);
            match group.ip() {
                IpAddr::V4(v4) => listener.join_multicast_v4(&v4, &Ipv4Addr::LOCALHOST),
                IpAddr::V6(v6) => listener.join_multicast_v6(&v6, 77),
            }
            .expect("joined");
            let mut world = known(&Setup::default());
            say(&mut world, family, group, b"M-SEARCH");
            let (question, from) = awaited(&listener);
            assert_eq!((&question[..], from.port()), (&b"M-SEARCH"[..], PORT));
            for which in [0, 1] {
                let device = bound(other(family, which, 0));
                let place = device.local_addr().expect("bound");
                let to = SocketAddr::new(family.host(), from.port());
                device.send_to(b"here", to).expect("sent");
                assert_eq!(at_guest(&mut world), (place, guest(family), b"here".to_vec()));
            }
        }
    });
}

#[test]
fn a_third_party_may_write_to_a_port_that_the_guest_talks_from() {
    isolated(|| {
        each(|family, world| {
            let server = bound(other(family, 0, 3478));
            let third = bound(other(family, 1, 4000));
            let place = third.local_addr().expect("bound");
            let outside = SocketAddr::new(family.host(), PORT);
            third.send_to(b"too early", outside).expect("sent");
            nothing_arrives(world);

            say(world, family, other(family, 0, 3478), b"who am I?");
            let (_, seen) = awaited(&server);
            assert_eq!(seen.port(), outside.port(), "the mapping is the same for everybody");
            third.send_to(b"hello", outside).expect("sent");
            assert_eq!(at_guest(world), (place, guest(family), b"hello".to_vec()));
            say(world, family, place, b"hello to you");
            assert_eq!(awaited(&third).0, b"hello to you");

            // The port is open as long as the flow lives.
            world.skip(Duration::from_secs(200));
            world.settle(TURNS);
            assert_eq!(world.engine.flow_count(), 0);
            let _ = third.send_to(b"too late", outside);
            nothing_arrives(world);
        });
    });
}

#[test]
fn a_stranger_keeps_no_port_open_and_makes_no_flow_a_stream() {
    isolated(|| {
        each(|family, world| {
            let server = bound(other(family, 0, 3478));
            let (same, third) = (bound(other(family, 0, 4001)), bound(other(family, 1, 4000)));
            let outside = SocketAddr::new(family.host(), PORT);
            say(world, family, other(family, 0, 3478), b"who am I?");
            awaited(&server);
            // Who is talked to keeps it open, from whatever port.
            for _ in 0..4 {
                world.skip(Duration::from_secs(25));
                same.send_to(b"block", outside).expect("sent");
                assert_eq!(at_guest(world).0, other(family, 0, 4001));
            }
            for _ in 0..5 {
                world.skip(Duration::from_secs(23));
                let _ = third.send_to(b"hello", outside);
                world.settle(TURNS);
                if world.engine.flow_count() > 0 {
                    assert_eq!(at_guest(world).0, other(family, 1, 4000));
                }
            }
            world.skip(Duration::from_secs(10));
            world.settle(TURNS);
            assert_eq!(world.engine.flow_count(), 0, "{family:?}");
            let _past = world.received();
        });
    });
}

#[test]
fn whoever_an_address_stands_for_is_not_let_in() {
    isolated(|| {
        addresses();
        // Loopback, the host's copy of the guest's address, and the host behind a mapped one.
        let lines = "ip addr add 192.0.2.2/32 dev lo; ip addr add 2001:db8::2/128 dev lo nodad";
        run(lines);
        for family in FAMILIES {
            let mut setup = Setup::default();
            setup.map.v4.dns_match = Some(OTHERS[1].0);
            setup.map.v4.dns_host = Some(Ipv4Addr::LOCALHOST);
            setup.map.v6.dns_match = OTHERS[1].1.parse().ok();
            setup.map.v6.dns_host = "::1".parse().ok();
            let mut world = known(&setup);
            let peer = bound(other(family, 0, 9000));
            say(&mut world, family, other(family, 0, 9000), b"?");
            let (_, from) = awaited(&peer);
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let strangers = [
                (loopback, 0, loopback),
                (family.guest(), 0, from.ip()),
                (other(family, 1, 0).ip(), 53, from.ip()),
            ];
            for (count, (address, port, to)) in (1..).zip(strangers) {
                let stranger = bound(SocketAddr::new(address, port));
                stranger.send_to(b"let me in", (to, PORT)).expect("sent");
                nothing_arrives(&mut world);
                assert_eq!(world.drops(DropReason::ForeignDatagram), count, "{address}");
            }
            // From another port that address is nobody but itself.
            let same = bound(other(family, 1, 54));
            same.send_to(b"as myself", (from.ip(), PORT)).expect("sent");
            assert_eq!(at_guest(&mut world).0, other(family, 1, 54));
        }
    });
}

#[test]
fn a_port_that_talks_to_the_gateway_alone_is_open_to_nobody_else() {
    isolated(|| {
        each(|family, world| {
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let server = bound(SocketAddr::new(loopback, 7000));
            let gateway = SocketAddr::new(family.gateway(), 7000);
            say(world, family, gateway, b"?");
            let (_, from) = awaited(&server);
            assert_eq!(from, SocketAddr::new(loopback, PORT));
            let strangers = [other(family, 0, 4000), SocketAddr::new(loopback, 7001)];
            for stranger in strangers.map(bound) {
                for to in [family.host(), loopback] {
                    let _ = stranger.send_to(b"let me in", (to, PORT));
                }
            }
            nothing_arrives(world);
            server.send_to(b"!", from).expect("sent");
            assert_eq!(at_guest(world), (gateway, guest(family), b"!".to_vec()));
        });
    });
}

#[test]
fn the_gateway_and_everybody_else_are_talked_to_from_one_port() {
    isolated(|| {
        each(|family, world| {
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let local = bound(SocketAddr::new(loopback, 7000));
            let peer = bound(other(family, 0, 7000));
            let gateway = SocketAddr::new(family.gateway(), 7000);
            for (number, to) in
                [other(family, 0, 7000), gateway].into_iter().cycle().take(6).enumerate()
            {
                say(world, family, to, &[number as u8]);
                let (socket, seen) = if to == gateway { (&local, gateway) } else { (&peer, to) };
                let (data, from) = awaited(socket);
                assert_eq!((data, from.port()), (vec![number as u8], PORT));
                socket.send_to(b"!", from).expect("sent");
                assert_eq!(at_guest(world), (seen, guest(family), b"!".to_vec()));
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (2, 0));
        });
    });
}

/// Beside a flow with a socket of its own, the guest still talks to `third` from its port; when nobody talks, both flows end.
fn both_go_on_and_end(world: &mut World, family: Family, third: &UdpSocket) {
    say(world, family, other(family, 1, 4000), b"hello to you");
    assert_eq!(awaited(third).1.port(), PORT);
    assert_eq!((world.engine.flow_count(), world.all_drops()), (2, 0));
    world.skip(Duration::from_secs(121));
    world.settle(TURNS);
    assert_eq!(world.engine.flow_count(), 0);
}

#[test]
fn who_is_talked_to_for_long_has_a_socket_of_its_own_and_nobody_notices() {
    isolated(|| {
        each(|family, world| {
            let to = other(family, 0, 9000);
            let (peer, third) = (bound(to), bound(other(family, 1, 4000)));
            let outside = SocketAddr::new(family.host(), PORT);
            for number in 0..200u8 {
                say(world, family, to, &[number]);
                let (data, from) = awaited(&peer);
                assert_eq!((data, from.port()), (vec![number], PORT));
                peer.send_to(&[number], from).expect("sent");
                assert_eq!(at_guest(world), (to, guest(family), vec![number]));
            }
            assert_eq!(world.engine.flow_count(), 2);
            // As long as the guest talks to the peer, its port is open.
            for _ in 0..5 {
                world.skip(Duration::from_secs(100));
                say(world, family, to, b"still here");
                awaited(&peer);
                third.send_to(b"hello", outside).expect("sent");
                assert_eq!(at_guest(world).0, other(family, 1, 4000));
            }
            both_go_on_and_end(world, family, &third);
        });
    });
}

#[test]
fn who_is_listened_to_for_long_has_a_socket_of_its_own_and_nobody_notices() {
    isolated(|| {
        each(|family, world| {
            let to = other(family, 0, 9000);
            let (peer, third) = (bound(to), bound(other(family, 1, 4000)));
            say(world, family, to, b"tell me");
            let (_, from) = awaited(&peer);
            for number in 0..200u8 {
                peer.send_to(&[number], from).expect("sent");
                assert_eq!(at_guest(world), (to, guest(family), vec![number]));
            }
            assert_eq!(world.engine.flow_count(), 2);
            // As long as the peer talks to the guest, the port is open, and the guest's datagrams come from it.
            for _ in 0..5 {
                world.skip(Duration::from_secs(100));
                peer.send_to(b"still here", from).expect("sent");
                assert_eq!(at_guest(world).2, b"still here");
                third.send_to(b"hello", from).expect("sent");
                assert_eq!(at_guest(world).0, other(family, 1, 4000));
            }
            say(world, family, to, b"thank you");
            assert_eq!(awaited(&peer), (b"thank you".to_vec(), from));
            both_go_on_and_end(world, family, &third);
        });
    });
}

#[test]
fn what_others_send_meanwhile_gives_nobody_a_socket_of_its_own() {
    isolated(|| {
        each(|family, world| {
            let to = other(family, 0, 9000);
            let (peer, third) = (bound(to), bound(other(family, 1, 4000)));
            say(world, family, to, b"tell me");
            let (_, from) = awaited(&peer);
            for number in 0..200u8 {
                // One that is not talked to, and one that is talked to but is never alone for long.
                let sender = if number % 50 == 0 { &peer } else { &third };
                sender.send_to(&[number], from).expect("sent");
                assert_eq!(at_guest(world).2, [number]);
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
            // Nor does it matter how much of theirs has come when we look: one turn's worth, or a little more.
            for count in 60..80u8 {
                third.send_to(b"one alone", from).expect("sent");
                assert_eq!(at_guest(world).2, b"one alone");
                for number in 1..count {
                    third.send_to(&[number], from).expect("sent");
                }
                peer.send_to(b"and one more", from).expect("sent");
                world.quiet(1000);
                assert!(!world.received().is_empty());
                assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
            }
        });
    });
}

/// A socket that shares its port with whoever else does.
pub fn shared(at: SocketAddr) -> Result<UdpSocket, rustix::io::Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true).expect("fcntl");
    Ok(socket)
}

#[test]
fn no_port_is_shared_with_a_program_of_the_host() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let any = SocketAddr::new(family.of(Ipv4Addr::UNSPECIFIED, "::"), PORT);
            let peer = bound(other(family, 0, 9000));
            let to = other(family, 0, 9000);
            let program = shared(any).expect("a free port");
            let mut world = known(&Setup::default());
            say(&mut world, family, to, b"?");
            let (_, from) = awaited(&peer);
            assert_ne!(from.port(), PORT, "the port is taken");
            peer.send_to(b"for the program", (family.host(), PORT)).expect("sent");
            assert_eq!(awaited(&program).0, b"for the program");
            nothing_arrives(&mut world);
            peer.send_to(b"!", from).expect("sent");
            assert_eq!(at_guest(&mut world), (to, guest(family), b"!".to_vec()));
            drop((program, world));

            // And the guest's is not shared with one that comes later, whatever else the guest does.
            let mut world = known(&Setup::default());
            say(&mut world, family, to, b"?");
            assert_eq!(awaited(&peer).1.port(), PORT);
            say(&mut world, family, SocketAddr::new(family.gateway(), 7000), b"?");
            assert_eq!(shared(any).err(), Some(rustix::io::Errno::ADDRINUSE));
        }
    });
}

#[test]
fn addresses_of_the_guest_with_one_port_have_each_their_own() {
    isolated(|| {
        addresses();
        let peers = [0, 1].map(|which| bound(other(Family::V4, which, 9000)));
        let mut world = known(&Setup::default());
        let guests = [2, 3].map(|last| SocketAddr::new([192, 0, 2, last].into(), PORT));
        let mut ports = Vec::new();
        for from in guests {
            for which in [0, 1] {
                world.send(packet::udp(from, other(Family::V4, which, 9000), b"?"));
                world.settle(TURNS);
                ports.push(awaited(&peers[which]).1.port());
            }
        }
        // The guest is asked whether it still has the other address.
        world.received();
        assert_eq!((ports[0], ports[1], ports[2]), (PORT, PORT, ports[3]));
        assert_ne!(ports[2], PORT);
        for (guest, port) in [(guests[0], PORT), (guests[1], ports[2])] {
            for which in [0, 1] {
                peers[which].send_to(b"!", (Family::V4.host(), port)).expect("sent");
                let from = other(Family::V4, which, 9000);
                assert_eq!(at_guest(&mut world), (from, guest, b"!".to_vec()));
            }
        }
        assert_eq!(world.engine.flow_count(), 2);
    });
}

#[test]
fn a_server_that_an_address_stands_for_may_answer_from_another_port() {
    isolated(|| {
        run("ip addr add 127.0.0.2/8 dev lo");
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let loopback = |port| SocketAddr::new(family.of(Ipv4Addr::LOCALHOST, "::1"), port);
            let gateway = |port| SocketAddr::new(family.gateway(), port);
            let server = bound(loopback(69));
            for file in [b"a", b"b"] {
                say(&mut world, family, gateway(69), file);
                let (asked, from) = awaited(&server);
                assert_eq!((&asked[..], from.ip()), (&file[..], loopback(0).ip()));
                // Both files from ports of their own, and the guest answers there.
                let transfer = bound(loopback(0));
                let place = gateway(transfer.local_addr().expect("bound").port());
                for block in 0..3u8 {
                    transfer.send_to(&[block], from).expect("sent");
                    assert_eq!(at_guest(&mut world), (place, guest(family), vec![block]));
                    say(&mut world, family, place, &[block]);
                    assert_eq!(awaited(&transfer), (vec![block], from));
                }
                // Nobody else may: not another host that is known under no address, nor anybody under the guest's.
                if family == Family::V4 {
                    let other = bound("127.0.0.2:0".parse().expect("an address"));
                    other.send_to(b"and me?", from).expect("sent");
                    nothing_arrives(&mut world);
                    assert_eq!(
                        world.drops(DropReason::ForeignDatagram),
                        1 + u64::from(file == b"b")
                    );
                }
            }
            assert_eq!(world.engine.flow_count(), 1);
        }
    });
}

#[test]
fn a_transfer_does_not_keep_a_port_from_being_forwarded() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let loopback = SocketAddr::new(family.of(Ipv4Addr::LOCALHOST, "::1"), 69);
            let server = bound(loopback);
            let gateway = SocketAddr::new(family.gateway(), 69);
            say(&mut world, family, gateway, b"a file");
            assert_eq!(awaited(&server).1.port(), PORT);
            let net = network(1500);
            let mut rules = RuleTable::default();
            let listen = match family {
                Family::V4 => ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => ListenAddr::Dual,
            };
            let rule = Rule { listen, ..forward(Proto::Udp, family, PORT) };
            rules.add(rule, &net).expect("a valid rule");
            world.engine.replace_net(view(net, mapping(), rules)).expect("no conflict");
            assert_eq!(world.engine.flow_count(), 0, "the transfer has ended");
        }
    });
}

#[test]
fn a_port_that_is_forwarded_later_is_the_rule_s() {
    isolated(|| {
        each(|family, world| {
            let peer = bound(other(family, 0, 9000));
            let to = other(family, 0, 9000);
            say(world, family, to, b"?");
            assert_eq!(awaited(&peer).1.port(), PORT);
            let net = network(1500);
            let mut rules = RuleTable::default();
            rules.add(forward(Proto::Udp, family, PORT), &net).expect("a valid rule");
            world
                .engine
                .replace_net(view(net, mapping(), rules))
                .expect("the guest's port gives way");
            assert_eq!(world.engine.flow_count(), 0);
            // The rule is for one address of the host.
            let third = bound(other(family, 1, 4000));
            let _ = third.send_to(b"by another way", (other(family, 0, 0).ip(), PORT));
            nothing_arrives(world);
            third.send_to(b"by the rule", family.host_at(PORT)).expect("sent");
            assert_eq!(at_guest(world).0, other(family, 1, 4000));
            say(world, family, other(family, 1, 4000), b"answer");
            assert_eq!(awaited(&third), (b"answer".to_vec(), family.host_at(PORT)));
            say(world, family, to, b"??");
            assert_eq!(awaited(&peer).1.port(), PORT, "what the guest begins keeps its port");
        });
    });
}

#[test]
fn an_error_is_told_of_the_datagram_that_it_is_about() {
    isolated(|| {
        each(|family, world| {
            for (which, port) in [(0, 9), (1, 10), (0, 11)] {
                let to = other(family, which, port);
                say(world, family, to, b"anybody there?");
                let frame = world.frames(1).remove(0);
                let (l4, at) = if family == Family::V4 { (34, 42) } else { (54, 62) };
                let kind: [u8; 2] = if family == Family::V4 { [3, 3] } else { [1, 4] };
                assert_eq!(frame[l4..l4 + 2], kind);
                let quoted = at + l4 - 14;
                assert_eq!(
                    frame[quoted..quoted + 4],
                    [PORT.to_be_bytes(), port.to_be_bytes()].concat()
                );
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
        });
    });
}

#[test]
fn class_e_is_unicast_both_ways() {
    isolated(|| {
        run("ip addr add 240.0.0.9/32 dev lo; ip addr add 250.1.2.3/32 dev lo");
        let mut world = known(&Setup::default());
        let guest = SocketAddr::new([240, 0, 0, 2].into(), PORT);
        let peer = bound(SocketAddr::new([240, 0, 0, 9].into(), 9000));
        let at = peer.local_addr().expect("bound");
        world.send(packet::udp(guest, at, b"?"));
        world.settle(TURNS);
        // The guest is asked whether it still has the address that it was given.
        world.received();
        let (_, from) = awaited(&peer);
        let third = bound(SocketAddr::new([250, 1, 2, 3].into(), 9000));
        for socket in [&peer, &third] {
            socket.send_to(b"!", from).expect("sent");
            let source = socket.local_addr().expect("bound");
            assert_eq!(at_guest(&mut world), (source, guest, b"!".to_vec()));
        }
        let everybody = SocketAddr::new([255, 255, 255, 255].into(), 9000);
        world.send(packet::udp(everybody, at, b"?"));
        world.settle(TURNS);
        assert_eq!(world.drops(DropReason::ForbiddenAddress), 1);
        assert_eq!(received(&peer), None);
    });
}
