//! The host's network changes while the program runs: what the guest is told, which flows end, and what rules about
//! the host's own addresses mean then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use passt::engine::HostChange;
use passt::flow::fwd::Surroundings;
use passt::limits::ADDRESS_AWAY;
use passt::wire::DropReason;

use crate::datagrams::{awaited, bound, guest_at, known, received};
use crate::egress::{enforce, policy};
use crate::groups::{bound_on, neighbour, neighbour_at};
use crate::namespace::{isolated, run};
use crate::packet::{self, ACK, RST, SYN};
use crate::world::{FAMILIES, Family, Setup, World};

const TURNS: usize = 64;

/// A change in nothing.
pub fn unchanged(world: &World) -> HostChange {
    let view = world.engine.view();
    let own = Surroundings::of_addresses(FAMILIES.map(|family| (family.host(), 24)).to_vec());
    let (mut map, gone) = (view.map, Vec::new());
    let held = std::mem::take(&mut map.held);
    HostChange { network: view.network, map, own, gone, configured: false, held }
}

/// The bodies of router advertisements among the frames that the guest has got.
fn advertisements(world: &mut World) -> Vec<Vec<u8>> {
    world.settle(TURNS);
    let frames = world.received();
    let is_ra =
        |frame: &&Vec<u8>| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 134;
    frames.iter().filter(is_ra).map(|frame| frame[54..].to_vec()).collect()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// Whether `part` is in a message.
fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|bytes| bytes == part)
}

/// The option with a prefix (RFC 4861, section 4.6.2), and that with a name server (RFC 8106, section 5.1).
fn prefix(lifetime: [u8; 4], address: &str) -> Vec<u8> {
    [&[3, 4, 64, 0xc0][..], &lifetime, &lifetime, &[0; 4], &v6(address).octets()].concat()
}

fn rdnss(lifetime: [u8; 4], address: &str) -> Vec<u8> {
    [&[25, 3, 0, 0][..], &lifetime, &v6(address).octets()].concat()
}

const FOR_EVER: [u8; 4] = [0xff; 4];
const OVER: [u8; 4] = [0; 4];
/// An MTU of 1,500 (RFC 4861, section 4.6.4).
const MTU: [u8; 8] = [5, 1, 0, 0, 0, 0, 0x05, 0xdc];

#[test]
fn what_is_new_is_told_and_what_is_gone_is_taken_back() {
    isolated(|| {
        let mut world = known(&Setup::default());
        world.received();
        let mut change = unchanged(&world);
        assert!(!world.follow(change.clone()), "nothing is new");
        assert_eq!(advertisements(&mut world), Vec::<Vec<u8>>::new());

        let told = change.network.v6.as_mut().expect("IPv6 is on");
        told.dns = [v6("2001:db8::53")].into_iter().collect();
        assert!(world.follow(change.clone()));
        let [first] = &advertisements(&mut world)[..] else { panic!("one that is new") };
        assert!(holds(first, &rdnss(FOR_EVER, "2001:db8::53")) && holds(first, &MTU), "{first:x?}");

        let told = change.network.v6.as_mut().expect("IPv6 is on");
        told.addr = Some(v6("2001:db8:7::2"));
        told.our_link_local = v6("fe80::77");
        told.dns = [v6("2001:db8:7::53")].into_iter().collect();
        assert!(world.follow(change));
        let told = advertisements(&mut world);
        let [withdrawal, farewell, new] = &told[..] else { panic!("{told:x?}") };
        for gone in [prefix(OVER, "2001:db8::"), rdnss(OVER, "2001:db8::53")] {
            assert!(holds(withdrawal, &gone), "{withdrawal:x?}");
        }
        for there in
            [&prefix(FOR_EVER, "2001:db8:7::"), &rdnss(FOR_EVER, "2001:db8:7::53"), &MTU[..]]
        {
            assert!(holds(new, there), "{new:x?}");
        }
        assert_eq!(farewell[6..8], [0, 0], "a lifetime of none, from where the router was");
        assert_eq!(new[6..8], [0xff, 0xff]);
    });
}

#[test]
fn leases_are_those_of_the_network_of_now() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let offers = |world: &mut World| {
            [packet::discover(), packet::solicit()].map(|question| {
                world.send(question);
                world.frames(1).remove(0)
            })
        };
        let (old4, new4) = ([192, 0, 2, 2], [203, 0, 113, 2]);
        let [offer4, offer6] = offers(&mut world);
        assert_eq!(offer4[58..62], old4);
        assert!(holds(&offer6, &v6("2001:db8::2").octets()), "{offer6:x?}");

        let mut change = unchanged(&world);
        let v4 = change.network.v4.as_mut().expect("IPv4 is on");
        (v4.addr, v4.gateway) = (new4.into(), Some([203, 0, 113, 1].into()));
        v4.dns = [Ipv4Addr::new(203, 0, 113, 53)].into_iter().collect();
        let told = change.network.v6.as_mut().expect("IPv6 is on");
        told.addr = Some(v6("2001:db8:7::2"));
        told.dns = [v6("2001:db8:7::53")].into_iter().collect();
        assert!(world.follow(change));
        world.settle(TURNS);
        world.received();
        let [offer4, offer6] = offers(&mut world);
        assert_eq!(offer4[58..62], new4);
        // Router and name server (RFC 2132, sections 3.5 and 3.8).
        for option in [[3, 4, 203, 0, 113, 1], [6, 4, 203, 0, 113, 53]] {
            assert!(holds(&offer4, &option), "{option:?}: {offer4:x?}");
        }
        assert!(!holds(&offer4, &[192, 0, 2]), "{offer4:x?}");
        for there in ["2001:db8:7::2", "2001:db8:7::53"] {
            assert!(holds(&offer6, &v6(there).octets()), "{there}: {offer6:x?}");
        }
        assert!(!holds(&offer6, &v6("2001:db8::2").octets()), "{offer6:x?}");
    });
}

#[test]
fn the_gateway_of_now_stands_for_the_host() {
    isolated(|| {
        for (family, now) in [(Family::V4, "203.0.113.1"), (Family::V6, "2001:db8:7::1")] {
            let mut world = known(&Setup::default());
            let now: IpAddr = now.parse().expect("an address");
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let host = bound(SocketAddr::new(loopback, 9000));
            let heard = |world: &mut World, gateway: IpAddr| {
                let to = SocketAddr::new(gateway, 9000);
                world.send(packet::udp(guest_at(family), to, b"hello"));
                world.settle(TURNS);
                received(&host).is_some()
            };
            assert!(heard(&mut world, family.gateway()) && !heard(&mut world, now), "{family:?}");
            let mut change = unchanged(&world);
            match now {
                IpAddr::V4(v4) => change.map.v4.host_loopback = Some(v4),
                IpAddr::V6(v6) => change.map.v6.host_loopback = Some(v6),
            }
            assert!(world.follow(change));
            assert!(heard(&mut world, now) && !heard(&mut world, family.gateway()), "{family:?}");
        }
    });
}

/// A world with a connection from the guest to the host; the address that the host's end of it has is the host's own.
fn connected(family: Family, listener: &TcpListener) -> World {
    let mut world = known(&Setup::default());
    let (from, to) = (guest_at(family), family.host_at(8001));
    world.send(packet::tcp(from, to, SYN, (7, 0), &[]));
    let answer = world.frames(1).remove(0);
    let l4 = packet::l4_offset(family.guest());
    assert_eq!(answer[l4 + 13] & (SYN | ACK), SYN | ACK);
    listener.accept().expect("it has come");
    world
}

#[test]
fn connections_from_addresses_that_are_gone_are_reset() {
    isolated(|| {
        for family in FAMILIES {
            let listener = TcpListener::bind(family.host_at(8001)).expect("a free port");
            let mut world = connected(family, &listener);
            let other: IpAddr = "203.0.113.9".parse().expect("an address");
            let change = unchanged(&world);
            world.follow(HostChange { gone: vec![other], ..change.clone() });
            world.settle(TURNS);
            assert_eq!(world.engine.flow_count(), 1, "another address");
            let own = Surroundings::default();
            world.follow(HostChange { gone: vec![family.host()], own, ..change });
            world.settle(TURNS);
            assert_eq!(world.engine.flow_count(), 1, "it may come back");
            let due = world.engine.next_deadline().expect("it is looked at again");
            assert!(due <= world.now() + ADDRESS_AWAY);
            world.skip(ADDRESS_AWAY);
            let frame = world.frames(1).remove(0);
            assert_ne!(frame[packet::l4_offset(family.guest()) + 13] & RST, 0);
            assert_eq!(world.engine.flow_count(), 0);
        }
    });
}

/// More connections than are looked at in one turn, half of which have another address.
#[test]
fn all_connections_of_an_address_that_is_gone_are_reset_and_no_others() {
    isolated(|| {
        const CONNECTIONS: u16 = 600;
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let listeners = [family.host(), loopback]
                .map(|at| TcpListener::bind(SocketAddr::new(at, 8001)).expect("a free port"));
            let mut peers = Vec::new();
            for number in 0..CONNECTIONS {
                let which = usize::from(number % 2);
                let to = SocketAddr::new([family.host(), family.gateway()][which], 8001);
                let from = SocketAddr::new(family.guest(), 20_000 + number);
                world.send(packet::tcp(from, to, SYN, (7, 0), &[]));
                let answer = world.frames(1).remove(0);
                let at = packet::l4_offset(from.ip()) + 4;
                let theirs = [0, 1, 2, 3].map(|byte| answer[at + byte]);
                let ack = u32::from_be_bytes(theirs).wrapping_add(1);
                world.send(packet::tcp(from, to, ACK, (8, ack), &[]));
                peers.push(listeners[which].accept().expect("it has come"));
            }
            let change = unchanged(&world);
            let (gone, own) = (vec![family.host()], Surroundings::default());
            world.follow(HostChange { gone, own, ..change });
            world.skip(ADDRESS_AWAY);
            let flags = packet::l4_offset(family.guest()) + 13;
            world.quiet(TURNS);
            let frames = world.received();
            let resets = frames.iter().filter(|frame| frame[flags] & RST != 0).count();
            assert_eq!(resets, usize::from(CONNECTIONS) / 2, "{family:?}");
            assert_eq!(world.engine.flow_count(), usize::from(CONNECTIONS) / 2, "{family:?}");
        }
    });
}

/// Longer than the guest goes on with a peer until that gets a connected socket.
const LONG: usize = 100;

/// What a guest says next leaves from the address of now: from the socket that its port has for anybody, which chooses
/// anew each time, and in place of those that are connected, which have one address for ever.
#[test]
fn datagrams_and_pings_go_on_from_the_address_of_now() {
    isolated(|| {
        let there = neighbour();
        for (family, gone, now, changes) in [
            (
                Family::V4,
                "203.0.113.1",
                "203.0.113.9",
                "ip addr del 203.0.113.1/24 dev d0; ip addr add 203.0.113.9/24 dev d0",
            ),
            (
                Family::V6,
                "2001:db8:3::1",
                "2001:db8:3::9",
                "ip addr del 2001:db8:3::1/64 dev d0; ip addr add 2001:db8:3::9/64 dev d0 nodad",
            ),
        ] {
            let mut world = known(&Setup::default());
            let (ping, gone) = (neighbour_at(family, 0).ip(), gone.parse().expect("an address"));
            let peers = [9000, 9001].map(|port| neighbour_at(family, port));
            let servers = peers.map(|at| bound_on(&there, at));
            let ask = |world: &mut World, which: usize| {
                let guest = SocketAddr::new(family.guest(), 5000 + which as u16);
                world.send(packet::udp(guest, peers[which], b"question"));
                world.settle(TURNS);
                let (_, from) = awaited(&servers[which]);
                servers[which].send_to(b"answer", from).expect("sent");
                world.frames(1);
                world.send(packet::echo(family.guest(), ping, 3, 4, b"ping"));
                world.frames(1);
                from.ip()
            };
            // The first one goes on for long.
            for _ in 0..LONG {
                assert_eq!(ask(&mut world, 0), gone);
            }
            assert_eq!(ask(&mut world, 1), gone);
            run(changes);
            let change = unchanged(&world);
            world.follow(HostChange { gone: vec![gone], ..change });
            world.settle(TURNS);
            for which in [0, 1, 0, 1] {
                assert_eq!(ask(&mut world, which).to_string(), now, "{family:?} {which}");
            }
        }
    });
}

#[test]
fn an_address_that_is_there_again_is_not_gone() {
    isolated(|| {
        let family = Family::V4;
        let listener = TcpListener::bind(family.host_at(8001)).expect("a free port");
        let mut world = connected(family, &listener);
        let change = unchanged(&world);
        world.follow(HostChange {
            gone: vec![family.host()],
            own: Surroundings::default(),
            ..change.clone()
        });
        world.settle(TURNS);
        world.skip(ADDRESS_AWAY / 2);
        world.follow(change.clone());
        world.skip(ADDRESS_AWAY);
        world.settle(TURNS);
        assert_eq!(world.engine.flow_count(), 1, "it was back in time");
        world.follow(HostChange {
            gone: vec![family.host()],
            own: Surroundings::default(),
            ..change
        });
        world.skip(ADDRESS_AWAY);
        world.quiet(TURNS);
        assert_eq!(world.engine.flow_count(), 0, "and is gone for good");
    });
}

#[test]
fn rules_about_the_host_mean_its_addresses_of_now() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            enforce(&mut world, policy(&["reject @host", "allow any"]));
            let host = bound(family.host_at(9000));
            let datagram = packet::udp(guest_at(family), family.host_at(9000), b"hello");
            world.send(datagram.clone());
            world.settle(TURNS);
            let heard = received(&host).map(|(bytes, _)| bytes);
            assert_eq!(heard.as_deref(), Some(&b"hello"[..]), "nobody knows that it is the host");
            let change = unchanged(&world);
            world.follow(change);
            world.settle(TURNS);
            world.send(datagram);
            world.settle(TURNS);
            assert_eq!(received(&host), None);
            assert_eq!(world.drops(DropReason::EgressRejected), 1);
        }
    });
}
