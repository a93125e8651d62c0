//! Several stations, or several addresses, on the guest's side of the link: frames go to the station that has the
//! address, and forwarded ports stay with the assigned address as long as it is in use.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::flow::fwd::Proto;
use passt::wire::Mac;

use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family, GUEST_MAC, Setup, World, forward};

/// A machine behind the guest, and its addresses.
const OTHER_MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x99]);
/// Turns in which news are done with, many of them too.
const TURNS: usize = 4096;
/// A host port that leads to the guest.
const PORT: u16 = 8000;

fn other(family: Family) -> IpAddr {
    family.of([192, 0, 2, 77].into(), "2001:db8::77")
}

/// `frame` as the other station sends it.
fn from_other(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&OTHER_MAC.0);
    frame
}

/// The Ethernet address that a frame goes to.
fn destination(frame: &[u8]) -> Mac {
    Mac(frame[..6].try_into().expect("six bytes"))
}

/// A frame that shows an address of the guest in use, and goes nowhere.
fn spoken(address: IpAddr, family: Family) -> Vec<u8> {
    packet::udp(SocketAddr::new(address, 9), SocketAddr::new(family.gateway(), 9), b"?")
}

fn world() -> World {
    let rules = FAMILIES.map(|family| forward(Proto::Udp, family, PORT)).to_vec();
    World::new(&Setup { rules, ..Setup::default() })
}

/// The address that a datagram for the forwarded port is sent to, on the guest's side.
fn forwarded_to(world: &mut World, family: Family) -> IpAddr {
    let peer = UdpSocket::bind((family.host(), 0)).expect("a free port");
    world.settle(TURNS);
    world.received();
    peer.send_to(b"!", family.host_at(PORT)).expect("sent");
    let frames = world.frames(1);
    match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(&frames[0][30..34]).expect("four bytes")),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(&frames[0][38..54]).expect("sixteen")),
    }
}

/// The address that the guest is asked for in `frame`, if it is.
fn asked_for(frame: &[u8]) -> Option<IpAddr> {
    match ([frame[12], frame[13]], frame[14..].get(40)) {
        ([8, 6], _) => Some(IpAddr::from(<[u8; 4]>::try_from(&frame[38..42]).ok()?)),
        ([0x86, 0xdd], Some(135)) => Some(IpAddr::from(<[u8; 16]>::try_from(&frame[62..78]).ok()?)),
        _ => None,
    }
}

#[test]
fn each_frame_goes_to_the_station_that_has_the_address() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world();
            let host = UdpSocket::bind(family.host_at(9000)).expect("a free port");
            let pairs = [(family.guest(), GUEST_MAC), (other(family), OTHER_MAC)];
            let peers = pairs.map(|(address, mac)| {
                let from = SocketAddr::new(address, 5000);
                let frame = packet::udp(from, family.host_at(9000), b"?");
                world.send(if mac == OTHER_MAC { from_other(frame) } else { frame });
                world.settle(TURNS);
                host.recv_from(&mut [0; 16]).expect("a datagram").1
            });
            world.received();
            let mut right = 0;
            for round in 0..20 {
                // Whoever speaks last: answers go where they belong.
                let frame = spoken(pairs[round % 2].0, family);
                world.send(if round % 2 == 1 { from_other(frame) } else { frame });
                world.settle(TURNS);
                world.received();
                let which = (round / 2) % 2;
                host.send_to(b"!", peers[which]).expect("sent");
                let frames = world.frames(1);
                right += usize::from(destination(&frames[0]) == pairs[which].1);
            }
            assert_eq!(right, 20, "{family:?}");
        }
    });
}

#[test]
fn a_station_that_speaks_arp_or_nothing_else_is_found_too() {
    isolated(|| {
        let mut world = world();
        let mut question = from_other(packet::arp([192, 0, 2, 77], [192, 0, 2, 1]));
        question[22..28].copy_from_slice(&OTHER_MAC.0);
        world.send(question);
        world.send(spoken(Family::V4.guest(), Family::V4));
        world.settle(TURNS);
        world.received();
        // Asked by the one, we do not speak for the other.
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 77]));
        world.settle(TURNS);
        assert_eq!(world.received().len(), 0);
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 78]));
        assert_eq!(destination(&world.frames(1)[0]), GUEST_MAC);
    });
}

/// A machine behind the guest has moved away, and another one on the host's side of the link has its address.
#[test]
fn who_asks_for_a_station_that_is_gone_is_answered() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world();
            world.send(from_other(spoken(other(family), family)));
            world.send(spoken(family.guest(), family));
            world.settle(TURNS);
            world.received();
            let question = match family {
                Family::V4 => packet::arp([192, 0, 2, 2], [192, 0, 2, 77]),
                Family::V6 => packet::solicitation(family.guest(), other(family)),
            };
            // The station would answer; before it is given up, it is asked by us.
            for asked in [None, Some(other(family))] {
                world.send(question.clone());
                world.settle(TURNS);
                let frames = world.received();
                assert_eq!(frames.first().and_then(|frame| asked_for(frame)), asked, "{family:?}");
                assert_eq!(frames.len(), usize::from(asked.is_some()));
                world.skip(Duration::from_secs(1));
            }
            world.send(question);
            assert_eq!(destination(&world.frames(1)[0]), GUEST_MAC, "{family:?}");
        }
    });
}

/// An address that was only announced so far: temporary ones are what a station speaks from.
#[test]
fn a_station_answers_for_the_address_that_it_has_tried() {
    isolated(|| {
        let mut world = world();
        let (guest, other) = (Family::V6.guest(), other(Family::V6));
        world.send(spoken(guest, Family::V6));
        world.send(from_other(packet::solicitation(Ipv6Addr::UNSPECIFIED.into(), other)));
        world.settle(TURNS);
        world.received();
        world.send(packet::solicitation(guest, other));
        world.settle(TURNS);
        assert_eq!(world.received().len(), 0);
    });
}

/// One that the guest has made of the prefix, and waits at to be talked to (RFC 4862, section 5.5).
#[test]
fn an_address_that_was_only_tried_has_the_ports_once_it_alone_answers() {
    isolated(|| {
        for in_use in [true, false] {
            let mut world = world();
            let (guest, other) = (Family::V6.guest(), other(Family::V6));
            world.send(packet::solicitation(Ipv6Addr::UNSPECIFIED.into(), other));
            world.settle(TURNS);
            assert_eq!(world.received().len(), 0, "it is free, and not in use yet");
            world.skip(Duration::from_millis(1010));
            world.settle(TURNS);
            let questions: Vec<_> = world.received().iter().filter_map(|f| asked_for(f)).collect();
            assert_eq!(questions, [other]);
            if in_use {
                world.send(packet::advertisement(other));
                world.settle(TURNS);
                let questions: Vec<_> =
                    world.received().iter().filter_map(|f| asked_for(f)).collect();
                assert_eq!(questions, [guest], "which was assigned, and may be silent");
                world.skip(Duration::from_millis(110));
                world.settle(TURNS);
            }
            let led_to = if in_use { other } else { guest };
            assert_eq!(forwarded_to(&mut world, Family::V6), led_to);
            world.send(spoken(guest, Family::V6));
            assert_eq!(forwarded_to(&mut world, Family::V6), guest, "the one that was assigned");
        }
    });
}

#[test]
fn groups_have_their_own_ethernet_address_only_among_several_stations() {
    isolated(|| {
        let mut world = world();
        let all_nodes = Mac([0x33, 0x33, 0, 0, 0, 1]);
        let unspecified = "::".parse().expect("an address");
        for (several, wanted) in [(false, GUEST_MAC), (true, all_nodes)] {
            world.send(spoken(Family::V6.guest(), Family::V6));
            if several {
                world.send(from_other(spoken(other(Family::V6), Family::V6)));
                world.send(spoken(Family::V6.guest(), Family::V6));
            }
            world.settle(TURNS);
            world.received();
            world.send(packet::router_solicitation(unspecified));
            assert_eq!(destination(&world.frames(1)[0]), wanted, "{several}");
        }
    });
}

#[test]
fn ports_stay_with_the_assigned_address_while_it_answers() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world();
            world.send(spoken(family.guest(), family));
            world.settle(TURNS);
            world.received();
            world.send(spoken(other(family), family));
            world.settle(TURNS);
            let questions: Vec<_> = world.received().iter().filter_map(|f| asked_for(f)).collect();
            assert_eq!(questions, [family.guest()], "it is asked for");
            let answer = match family {
                Family::V4 => packet::arp([192, 0, 2, 2], [192, 0, 2, 1]),
                Family::V6 => packet::advertisement(family.guest()),
            };
            world.send(answer);
            world.settle(TURNS);
            world.received();
            world.skip(Duration::from_millis(500));
            assert_eq!(forwarded_to(&mut world, family), family.guest());
            world.send(spoken(other(family), family));
            world.settle(TURNS);
            assert_eq!(
                world.received().iter().filter_map(|f| asked_for(f)).count(),
                0,
                "not again"
            );
        }
    });
}

#[test]
fn ports_follow_an_address_that_has_changed() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world();
            world.send(spoken(family.guest(), family));
            world.send(spoken(other(family), family));
            world.settle(TURNS);
            assert_eq!(forwarded_to(&mut world, family), family.guest());
            world.skip(Duration::from_millis(200));
            assert_eq!(forwarded_to(&mut world, family), other(family));
            world.send(spoken(family.guest(), family));
            world.settle(TURNS);
            assert_eq!(forwarded_to(&mut world, family), family.guest(), "it is back");
        }
    });
}

#[test]
fn an_address_of_the_guests_own_has_the_ports_at_once() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world();
            world.send(spoken(other(family), family));
            world.settle(TURNS);
            assert_eq!(forwarded_to(&mut world, family), other(family));
        }
    });
}
