//! The host's network changes while the program runs: what the guest is told, which flows end, and what rules about
//! the host's own addresses mean then.

use std::net::{IpAddr, Ipv6Addr, TcpListener};

use passt::engine::HostChange;
use passt::wire::DropReason;

use crate::datagrams::{bound, guest_at, known, received};
use crate::egress::{enforce, policy};
use crate::namespace::isolated;
use crate::packet::{self, ACK, RST, SYN};
use crate::world::{FAMILIES, Family, Setup, World};

const TURNS: usize = 64;

/// A change in nothing.
fn unchanged(world: &World) -> HostChange {
    let view = world.engine.view();
    let own = FAMILIES.map(|family| (family.host(), 24)).to_vec();
    HostChange { network: view.network, map: view.map, own, gone: Vec::new(), configured: false }
}

/// The bodies of router advertisements among the frames that the guest has got.
fn advertisements(world: &mut World) -> Vec<Vec<u8>> {
    world.settle(TURNS);
    let frames = world.received();
    let is_ra =
        |frame: &&Vec<u8>| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 134;
    frames.iter().filter(is_ra).map(|frame| frame[54..].to_vec()).collect()
}

#[test]
fn what_is_new_is_told_and_what_is_gone_is_taken_back() {
    isolated(|| {
        let mut world = known(&Setup::default());
        world.received();
        let mut change = unchanged(&world);
        assert!(!world.follow(change.clone()), "nothing is new");
        assert_eq!(advertisements(&mut world), Vec::<Vec<u8>>::new());

        let v6 = change.network.v6.as_mut().expect("IPv6 is on");
        v6.addr = Some("2001:db8:7::2".parse().expect("an address"));
        v6.our_link_local = "fe80::77".parse().expect("an address");
        assert!(world.follow(change));
        let told = advertisements(&mut world);
        let prefix = |lifetime: [u8; 4], text: &str| {
            let address: Ipv6Addr = text.parse().expect("an address");
            [&[3, 4, 64, 0xc0][..], &lifetime, &lifetime, &[0; 4], &address.octets()].concat()
        };
        let holds =
            |body: &Vec<u8>, part: &[u8]| body.windows(part.len()).any(|bytes| bytes == part);
        let [withdrawal, farewell, new] = &told[..] else { panic!("{told:x?}") };
        assert!(holds(withdrawal, &prefix([0; 4], "2001:db8::")), "{withdrawal:x?}");
        assert!(holds(new, &prefix([0xff; 4], "2001:db8:7::")), "{new:x?}");
        assert_eq!(farewell[6..8], [0, 0], "a lifetime of none, from where the router was");
        assert_eq!(new[6..8], [0xff, 0xff]);
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
            let own = Vec::new();
            world.follow(HostChange { gone: vec![family.host()], own, ..change });
            let frame = world.frames(1).remove(0);
            assert_ne!(frame[packet::l4_offset(family.guest()) + 13] & RST, 0);
            assert_eq!(world.engine.flow_count(), 0);
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
        world.follow(HostChange { gone: vec![family.host()], own: Vec::new(), ..change.clone() });
        world.follow(change);
        world.settle(TURNS);
        assert_eq!(world.engine.flow_count(), 1, "the first was not looked for yet");
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
