//! Broadcasts and ports that are forwarded: the guest sends from one, somebody sends to one, and the guest is no stranger
//! to itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::{ListenAddr, Policy, Proto, Rule, Surroundings};
use passt::wire::DropReason;
use passt_support::namespace::Netns;

use crate::anybody::{at_guest, nothing_arrives};
use crate::datagrams::{awaited, bound, known, received};
use crate::egress::{enforce, policy};
use crate::groups::{bound_on, guest, host_at, linked, neighbour, neighbour_at, say, setup};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{Family, Setup, World, forward};

const PORT: u16 = 5000;
/// All of the network, by both names.
const EVERYBODY: [Ipv4Addr; 2] = [Ipv4Addr::BROADCAST, Ipv4Addr::new(203, 0, 113, 255)];
const V4: Family = Family::V4;

/// A rule for the port on all addresses of the host, of one family or of both.
fn wildcard(listen: ListenAddr) -> Rule {
    Rule { listen, ..forward(Proto::Udp, V4, PORT) }
}

/// For each kind of listening socket: a world on the link to the neighbour in which it leads to the guest.
fn each(test: impl Fn(&Netns, &mut World)) {
    let there = neighbour();
    run("ip route add default via 203.0.113.2");
    for listen in [ListenAddr::V4(Ipv4Addr::UNSPECIFIED), ListenAddr::Dual] {
        test(&there, &mut linked(&Setup { rules: vec![wildcard(listen)], ..setup() }));
    }
}

fn device_on(there: &Netns, port: u16) -> (UdpSocket, SocketAddr) {
    let device = bound_on(there, neighbour_at(V4, port));
    device.set_broadcast(true).expect("setsockopt");
    let place = device.local_addr().expect("bound");
    (device, place)
}

#[test]
fn broadcasts_leave_from_a_port_that_is_forwarded() {
    isolated(|| {
        each(|there, world| {
            let everybody = bound_on(there, "0.0.0.0:9".parse().expect("an address"));
            let (device, place) = device_on(there, 0);
            for to in EVERYBODY {
                say(world, guest(V4, PORT), (to, 9).into(), b"who is there?");
                let heard = awaited(&everybody);
                assert_eq!(heard, (b"who is there?".to_vec(), host_at(V4, PORT)), "{to}");
                device.send_to(b"I am", heard.1).expect("sent");
                assert_eq!(at_guest(world), (place, guest(V4, PORT), b"I am".to_vec()));
            }
            nothing_arrives(world);
            assert_eq!(world.all_drops(), 0);
        });
    });
}

#[test]
fn no_broadcast_leaves_from_a_forwarded_port_if_that_is_off() {
    isolated(|| {
        each(|_, world| {
            let mut view = world.engine.view();
            view.network.services.multicast = false;
            world.engine.replace_net(view).expect("nothing to open");
            say(world, guest(V4, PORT), (EVERYBODY[1], 9).into(), b"who is there?");
            assert_eq!(world.drops(DropReason::Prohibited), 1, "the kernel refuses it");
        });
    });
}

#[test]
fn broadcasts_are_for_this_host_too_where_the_policy_forbids_it() {
    isolated(|| {
        each(|there, world| {
            let (here, everybody) = (at_nine(), there.run(at_nine));
            let host = Surroundings::of_addresses(vec![(host_at(V4, 0).ip(), 24)]);
            for to in EVERYBODY {
                for (rules, goes) in [
                    (&["reject @host", "allow any"][..], false),
                    (&["drop udp @host:9", "allow @multicast"], false),
                    (&["allow @host", "reject any"], false),
                    (&["reject tcp @host", "reject @host:10", "allow any"], true),
                    (&["allow @multicast", "reject @host"], true),
                ] {
                    enforce(world, Policy { host: host.clone(), ..policy(rules) });
                    say(world, guest(V4, PORT), (to, 9).into(), rules[0].as_bytes());
                    for socket in [&here, &everybody].into_iter().filter(|_| goes) {
                        assert_eq!(awaited(socket).0, rules[0].as_bytes(), "{to} {rules:?}");
                    }
                }
            }
            assert_eq!(world.drops(DropReason::EgressRejected), 4);
            assert_eq!(world.drops(DropReason::EgressDropped), 2);
            assert_eq!((received(&here), received(&everybody)), (None, None));
        });
    });
}

fn at_nine() -> UdpSocket {
    bound("0.0.0.0:9".parse().expect("an address"))
}

#[test]
fn broadcasts_to_a_forwarded_port_arrive_once_and_their_sender_keeps_its_port() {
    isolated(|| {
        each(|there, world| {
            let (device, place) = device_on(there, PORT);
            let ends = (place, guest(V4, PORT));
            let by_guest = b"what is it?";
            for to in EVERYBODY.map(IpAddr::from).into_iter().chain([host_at(V4, 0).ip()]) {
                for number in 0..3u8 {
                    device.send_to(&[number], (to, PORT)).expect("sent");
                    assert_eq!(at_guest(world), (ends.0, ends.1, vec![number]), "{to}");
                    nothing_arrives(world);
                }
                say(world, ends.1, place, by_guest);
                assert_eq!(awaited(&device), (by_guest.to_vec(), host_at(V4, PORT)), "{to}");
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
        });
    });
}

#[test]
fn the_guest_does_not_hear_its_own_broadcasts() {
    isolated(|| {
        let there = neighbour();
        run("ip route add default via 203.0.113.2");
        // The address of the guest is none of the host.
        let mut world = linked(&setup());
        let everybody = bound_on(&there, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
        for to in EVERYBODY {
            say(&mut world, guest(V4, PORT), (to, PORT).into(), b"here I am");
            assert_eq!(awaited(&everybody).1, host_at(V4, PORT), "{to}");
            nothing_arrives(&mut world);
        }
        // Others with the same port are heard.
        everybody.send_to(b"I, too", host_at(V4, PORT)).expect("sent");
        assert_eq!(at_guest(&mut world).0, neighbour_at(V4, PORT));
    });
}

#[test]
fn the_guest_does_not_hear_its_own_broadcasts_on_a_forwarded_port() {
    isolated(|| {
        each(|there, world| {
            let everybody = bound_on(there, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
            // From the port itself, from one that is not forwarded, and from one that leads elsewhere.
            for (from, to) in EVERYBODY.into_iter().flat_map(|to| [(PORT, to), (6000, to)]) {
                say(world, guest(V4, from), (to, PORT).into(), b"here I am");
                assert_eq!(awaited(&everybody).1, host_at(V4, from), "{to}");
                nothing_arrives(world);
            }
            assert_eq!(world.drops(DropReason::OwnDatagram), world.all_drops());
            // A program of this host is somebody else.
            let program = bound(host_at(V4, 0));
            program.set_broadcast(true).expect("setsockopt");
            program.send_to(b"I, too", (EVERYBODY[1], PORT)).expect("sent");
            assert_eq!(at_guest(world).2, b"I, too");
        });
    });
}

#[test]
fn who_wrote_to_an_address_that_the_guest_does_not_use_reaches_it_later() {
    isolated(|| {
        let rules = vec![forward(Proto::Udp, V4, PORT)];
        let mut world = World::new(&Setup { rules, ..Setup::default() });
        let peer = bound((Ipv4Addr::LOCALHOST, 0).into());
        let send = |what: &[u8]| peer.send_to(what, V4.host_at(PORT)).expect("sent");
        // Nobody has been heard yet: it goes to the address that the guest is to have.
        send(b"handshake");
        assert_eq!(at_guest(&mut world).1, guest(V4, PORT));
        send(b"handshake");
        assert_eq!(at_guest(&mut world).1, guest(V4, PORT));
        let other = Ipv4Addr::new(192, 0, 2, 77);
        world.send(packet::arp(other.octets(), [192, 0, 2, 1]));
        world.settle(64);
        world.received();
        send(b"handshake");
        assert_eq!(at_guest(&mut world).1, SocketAddr::new(other.into(), PORT));
    });
}

#[test]
fn who_was_answered_goes_on_with_the_address_that_has_answered() {
    isolated(|| {
        let rules = vec![forward(Proto::Udp, V4, PORT)];
        let mut world = known(&Setup { rules, ..Setup::default() });
        let peer = bound((Ipv4Addr::LOCALHOST, 0).into());
        peer.send_to(b"hello", V4.host_at(PORT)).expect("sent");
        let (seen, at, _) = at_guest(&mut world);
        say(&mut world, at, seen, b"hello");
        awaited(&peer);
        // Another address speaks, and the one before does not answer when it is asked.
        let other = Ipv4Addr::new(192, 0, 2, 77);
        world.send(packet::arp(other.octets(), [192, 0, 2, 1]));
        world.settle(64);
        world.skip(Duration::from_millis(200));
        world.settle(64);
        world.received();
        peer.send_to(b"go on", V4.host_at(PORT)).expect("sent");
        assert_eq!(at_guest(&mut world), (seen, at, b"go on".to_vec()));
        let another = bound((Ipv4Addr::LOCALHOST, 0).into());
        another.send_to(b"hello", V4.host_at(PORT)).expect("sent");
        assert_eq!(at_guest(&mut world).1, SocketAddr::new(other.into(), PORT));
    });
}
