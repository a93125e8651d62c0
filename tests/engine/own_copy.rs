//! UDP to the host's copy of the address that the guest was assigned, by a guest that has taken another one, as one with
//! SLAAC does; and to whoever else the guest does not see, or not as it is. Each is answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use passt::wire::DropReason;

use crate::anybody::{at_guest, nothing_arrives};
use crate::datagrams::{awaited, bound};
use crate::host_change::unchanged;
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World};

/// The guest's port, and that of the host's service.
const PORT: u16 = 5000;
const SERVICE: u16 = 7000;
const TURNS: usize = 64;
/// Longer than the guest goes on with a peer until that gets a socket of its own.
const LONG: usize = 130;

/// Addresses that the guest takes, none of them the one that it was assigned.
fn taken(family: Family, which: usize) -> SocketAddr {
    let texts = [([192, 0, 2, 77], "2001:db8::77"), ([192, 0, 2, 78], "2001:db8::78")];
    let (v4, v6) = texts[which];
    SocketAddr::new(family.of(v4.into(), v6), PORT)
}

/// An address that the host has beside its first one.
fn second(family: Family) -> IpAddr {
    family.of(Ipv4Addr::new(198, 51, 100, 61), "2001:db8:1::61")
}

/// The host has the guest's address, as the one whose network is copied has, and others.
fn addresses() {
    run("ip addr add 192.0.2.2/32 dev lo; ip addr add 2001:db8::2/128 dev lo nodad
         ip addr add 198.51.100.61/32 dev lo; ip addr add 2001:db8:1::61/128 dev lo nodad
         ip addr add 192.0.2.78/32 dev lo; ip addr add 2001:db8::78/128 dev lo nodad
         ip addr add 192.0.2.53/32 dev lo; ip addr add 2001:db8::53/128 dev lo nodad
         ip addr add 169.254.0.61/32 dev lo; ip addr add fe80::61/64 dev lo nodad");
}

fn say(world: &mut World, from: SocketAddr, to: SocketAddr, what: &[u8]) {
    world.send(packet::udp(from, to, what));
    world.settle(TURNS);
}

/// The guest asks `to` from `guest`, and `server` answers: the port that has asked. The guest may be asked whether it has the
/// address that it was assigned.
fn is_answered(world: &mut World, guest: SocketAddr, to: SocketAddr, server: &UdpSocket) -> u16 {
    say(world, guest, to, b"?");
    world.received();
    let (question, from) = awaited(server);
    assert_eq!(question, b"?", "{to}");
    server.send_to(b"!", from).expect("sent");
    assert_eq!(at_guest(world), (to, guest, b"!".to_vec()));
    from.port()
}

#[test]
fn a_guest_that_has_taken_another_address_talks_to_the_host_s_copy_of_the_assigned_one() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let (guest, copy) = (taken(family, 0), SocketAddr::new(family.guest(), SERVICE));
            let server = bound(copy);
            for _ in 0..LONG {
                assert_eq!(is_answered(&mut world, guest, copy, &server), PORT);
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
            let stranger = bound(SocketAddr::new(family.guest(), 0));
            let _ = stranger.send_to(b"let me in", (family.guest(), PORT));
            nothing_arrives(&mut world);
        }
    });
}

#[test]
fn the_host_s_copy_is_talked_to_from_a_port_that_others_were_talked_to_from() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let at = [second(family), family.guest()].map(|ip| SocketAddr::new(ip, SERVICE));
            let servers = at.map(bound);
            for which in [0, 1, 0, 1, 1, 0] {
                let port = is_answered(&mut world, taken(family, 0), at[which], &servers[which]);
                assert_eq!(port, PORT, "one for all");
            }
            // Nobody else of that address is let in, though the port is open to others.
            let stranger = bound(SocketAddr::new(family.guest(), 0));
            for (count, to) in (1..).zip([family.guest(), family.host()]) {
                stranger.send_to(b"let me in", (to, PORT)).expect("sent");
                nothing_arrives(&mut world);
                assert_eq!(world.drops(DropReason::ForeignDatagram), count);
            }
            // The other way round, from another address of the guest.
            let guest = SocketAddr::new(taken(family, 1).ip(), PORT + 1);
            for which in [1, 0] {
                is_answered(&mut world, guest, at[which], &servers[which]);
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (4, 2));
        }
    });
}

#[test]
fn whose_address_the_guest_is_assigned_meanwhile_is_still_talked_to() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let (guest, now) = (taken(family, 0), SocketAddr::new(second(family), SERVICE));
            let before = SocketAddr::new(family.guest(), SERVICE);
            let servers = [now, before].map(bound);
            is_answered(&mut world, guest, now, &servers[0]);
            let mut change = unchanged(&world);
            match now.ip() {
                IpAddr::V4(v4) => change.network.v4.as_mut().expect("IPv4 is on").addr = v4,
                IpAddr::V6(v6) => change.network.v6.as_mut().expect("IPv6 is on").addr = Some(v6),
            }
            assert!(world.follow(change));
            world.settle(TURNS);
            for (server, at) in servers.iter().zip([now, before]).cycle().take(4) {
                is_answered(&mut world, guest, at, server);
            }
            assert_eq!(world.drops(DropReason::ForeignDatagram), 0);
        }
    });
}

#[test]
fn a_transfer_of_the_host_s_copy_comes_from_another_port() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let mut world = World::new(&Setup::default());
            let (guest, asked) = (taken(family, 0), SocketAddr::new(family.guest(), 69));
            let server = bound(asked);
            say(&mut world, guest, asked, b"a file");
            world.received();
            let (_, from) = awaited(&server);
            let transfer = bound(SocketAddr::new(family.guest(), 0));
            let place = transfer.local_addr().expect("bound");
            for block in 0..3u8 {
                transfer.send_to(&[block], from).expect("sent");
                assert_eq!(at_guest(&mut world), (place, guest, vec![block]));
                say(&mut world, guest, place, &[block]);
                assert_eq!(awaited(&transfer), (vec![block], from));
            }
            assert_eq!((world.engine.flow_count(), world.all_drops()), (1, 0));
        }
    });
}

/// Mappings beside those of all worlds: of the host's copy of the guest's address, and of a name server.
fn mapped() -> Setup {
    let mut setup = Setup::default();
    let (v4, v6) = (&mut setup.map.v4, &mut setup.map.v6);
    (v4.dns_match, v4.dns_host) = (Some(Ipv4Addr::new(192, 0, 2, 53)), Some(Ipv4Addr::LOCALHOST));
    (v6.dns_match, v6.dns_host) = ("2001:db8::53".parse().ok(), "::1".parse().ok());
    (v4.guest_addr, v6.guest_addr) =
        (Some(Ipv4Addr::new(192, 0, 2, 9)), "2001:db8::9".parse().ok());
    setup
}

/// What leads somewhere leads back: there is no destination whose answers are refused. Groups and broadcasts have tests of
/// their own (`anybody`, `broadcasts`).
#[test]
fn every_kind_of_destination_may_answer() {
    isolated(|| {
        addresses();
        for family in FAMILIES {
            let mut world = World::new(&mapped());
            // Another address of the guest's side is the one that ports lead to: the assigned one does not answer.
            let [guest, station] = [0, 1].map(|which| taken(family, which));
            say(&mut world, station, family.host_at(9), b"here I am");
            world.skip(Duration::from_secs(10));
            world.settle(TURNS);
            let of =
                |last: u8| family.of(Ipv4Addr::new(192, 0, 2, last), &format!("2001:db8::{last}"));
            let loopback = family.of(Ipv4Addr::LOCALHOST, "::1");
            let link_local = family.of(Ipv4Addr::new(169, 254, 0, 61), "fe80::61");
            for (seen, port, real) in [
                (family.gateway(), SERVICE, loopback),
                (of(53), 53, loopback),
                (of(53), SERVICE, of(53)),
                (of(9), SERVICE + 1, family.guest()),
                (family.guest(), SERVICE, family.guest()),
                (station.ip(), SERVICE, station.ip()),
                (family.host(), SERVICE, family.host()),
                (second(family), SERVICE, second(family)),
                (link_local, SERVICE, link_local),
            ] {
                let server = bound(scoped(real, port));
                for number in 0..4 {
                    let guest = SocketAddr::new(guest.ip(), PORT + number % 2);
                    is_answered(&mut world, guest, SocketAddr::new(seen, port), &server);
                }
            }
            assert_eq!(world.drops(DropReason::ForeignDatagram), 0);
        }
    });
}

/// An address on the interface that the guest's network is a copy of.
fn scoped(address: IpAddr, port: u16) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, 1).into(),
        _ => SocketAddr::new(address, port),
    }
}
