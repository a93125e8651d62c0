//! The host's neighbours as the guest sees them, told by a real kernel: two ends of a veth pair, of which
//! `near` is the interface that counts.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use passt::engine::NeighbourWatch;
use passt::flow::neighbours::MAX_NEIGHBOURS;
use passt::wire::Mac;

use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family, GUEST_MAC, Setup, World};

const STATION: &str = "02:00:00:00:00:07";
const STATION_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// Turns in which news are done with, many of them too.
const TURNS: usize = 4096;

/// Lines for ip(8).
fn ip(lines: &str) {
    let mut command = Command::new("ip");
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip(8)");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    assert!(child.wait().expect("a status").success(), "{lines}");
}

/// A world that follows the neighbours on `near`, which knows some from the start.
fn world(before: &str) -> World {
    ip("link add near type veth peer name far\nlink set near up\nlink set far up\n");
    ip(before);
    let index = rustix::net::netdevice::name_to_index(
        UdpSocket::bind("127.0.0.1:0").expect("a socket"),
        "near",
    );
    let index = index.expect("the interface is there");
    let mut world = World::new(&Setup::default());
    let watch = NeighbourWatch::start(&mut world.engine, [Some(index), Some(index)]);
    world.add(Box::new(watch.expect("a subscription")));
    world
}

fn neighbour(action: &str, address: IpAddr, device: &str) -> String {
    match action {
        "del" => format!("neigh del {address} dev {device}\n"),
        _ => format!("neigh {action} {address} lladdr {STATION} dev {device} nud permanent\n"),
    }
}

/// A neighbour of this family.
fn station(family: Family) -> IpAddr {
    family.of("192.0.2.7".parse().expect("an address"), "2001:db8::7")
}

/// The Ethernet address that the guest is answered for `address`.
fn asked(world: &mut World, address: IpAddr) -> Mac {
    let (question, at) = match address {
        IpAddr::V4(v4) => (packet::arp([192, 0, 2, 2], v4.octets()), 22),
        IpAddr::V6(_) => (packet::solicitation(Family::V6.guest(), address), 80),
    };
    world.send(question);
    world.settle(TURNS);
    let frames = world.received();
    let answer = frames.last().expect("an answer");
    Mac(answer[at..at + 6].try_into().expect("six bytes"))
}

#[test]
fn neighbours_are_known_from_the_start() {
    isolated(|| {
        let known = FAMILIES.map(|family| neighbour("add", station(family), "near")).concat();
        let mut world = world(&known);
        for family in FAMILIES {
            assert_eq!(asked(&mut world, station(family)), STATION_MAC);
            assert_eq!(asked(&mut world, family.host()), Mac::OURS);
        }
        assert_eq!(world.received().len(), 0, "nothing is announced");
    });
}

#[test]
fn a_neighbour_that_comes_is_announced_and_one_that_goes_is_forgotten() {
    isolated(|| {
        let mut world = world("");
        for family in FAMILIES {
            assert_eq!(asked(&mut world, station(family)), Mac::OURS);
            ip(&neighbour("add", station(family), "near"));
            world.settle(TURNS);
            let frames = world.received();
            let [frame] = &frames[..] else { panic!("{} frames", frames.len()) };
            assert_eq!(frame[6..12], STATION_MAC.0, "the Ethernet source");
            match station(family) {
                IpAddr::V4(v4) => {
                    assert_eq!(frame[..6], Mac::BROADCAST.0);
                    assert_eq!(frame[20..28], [&[0, 1][..], &STATION_MAC.0].concat());
                    assert_eq!(frame[28..42], [&v4.octets()[..], &[0; 6], &v4.octets()].concat());
                }
                IpAddr::V6(v6) => {
                    assert_eq!(frame[..6], GUEST_MAC.0);
                    assert_eq!(frame[22..38], v6.octets(), "from the neighbour");
                    assert_eq!((frame[54], frame[58]), (136, 0xa0));
                    assert_eq!(frame[62..78], v6.octets());
                    assert_eq!(frame[80..86], STATION_MAC.0);
                }
            }
            assert_eq!(asked(&mut world, station(family)), STATION_MAC);
            ip(&neighbour("replace", station(family), "near"));
            world.settle(TURNS);
            assert_eq!(world.received().len(), 0, "no news");
            ip(&neighbour("del", station(family), "near"));
            assert_eq!(asked(&mut world, station(family)), Mac::OURS);
        }
    });
}

#[test]
fn only_neighbours_of_the_template_interface_count() {
    isolated(|| {
        let mut world = world(&neighbour("add", station(Family::V4), "far"));
        assert_eq!(asked(&mut world, station(Family::V4)), Mac::OURS);
        ip(&neighbour("add", station(Family::V6), "far"));
        assert_eq!(asked(&mut world, station(Family::V6)), Mac::OURS);
    });
}

#[test]
fn an_address_that_stands_for_the_host_is_ours() {
    isolated(|| {
        let known = FAMILIES.map(|family| neighbour("add", family.gateway(), "near")).concat();
        let mut world = world(&known);
        for family in FAMILIES {
            assert_eq!(asked(&mut world, family.gateway()), Mac::OURS);
        }
        let link_local = "fe80::fc".parse().expect("an address");
        ip(&neighbour("add", link_local, "near"));
        assert_eq!(asked(&mut world, link_local), Mac::OURS);
    });
}

#[test]
fn frames_come_from_the_neighbour_that_sent_them() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = world(&neighbour("add", family.host(), "near"));
            let host = UdpSocket::bind(family.host_at(9000)).expect("a free port");
            let from = SocketAddr::new(family.guest(), 5000);
            world.send(packet::udp(from, family.host_at(9000), b"?"));
            world.settle(TURNS);
            let (_, peer) = host.recv_from(&mut [0; 16]).expect("a datagram");
            host.send_to(b"!", peer).expect("sent");
            assert_eq!(world.frames(1)[0][6..12], STATION_MAC.0);

            // An answer to a segment that nobody waits for, and an ICMP error.
            world.send(packet::tcp(from, family.host_at(9000), packet::ACK, (1, 1), b""));
            world.send(packet::udp(from, family.host_at(9001), b"?"));
            for frame in world.frames(2) {
                assert_eq!(frame[6..12], STATION_MAC.0);
            }
            ip("link del near\n");
        }
    });
}

#[test]
fn news_that_are_lost_are_asked_for_again() {
    isolated(|| {
        let mut world = world("");
        let address = |n| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, n));
        let many = |action: &str| -> String {
            (0..1000).map(|n| neighbour(action, address(n), "near")).collect()
        };
        // More than the socket holds: the kernel drops what comes last, among it this one.
        ip(&format!("{}{}", many("add"), neighbour("add", station(Family::V4), "near")));
        world.settle(TURNS);
        let announced = world.received().len();
        assert_eq!(announced, MAX_NEIGHBOURS - 3, "all that have room beside our own");
        ip(&many("del"));
        world.settle(TURNS);
        world.received();
        assert_eq!(asked(&mut world, station(Family::V4)), STATION_MAC, "there is room for it now");
        assert_eq!(asked(&mut world, address(1)), Mac::OURS);
    });
}
