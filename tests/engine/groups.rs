//! What is for many: groups that the guest joins and leaves, what it sends to them and what comes of it, broadcasts.
//! The network of the host is a link to a neighbour in a namespace of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use passt::engine::NetView;
use passt::flow::fwd::{ListenAddr, Proto, Rule, RuleTable};
use passt::sys::socket::set_int;
use passt::wire::DropReason;
use passt_frame::FramePort;
use passt_support::namespace::Netns;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::anybody::{at_guest, nothing_arrives, shared};
use crate::datagrams::{awaited, bound, known, received};
use crate::egress::{enforce, policy};
use crate::icmp::{seen, tap_on};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, Setup, World, forward, mapping};

const TURNS: usize = 64;
/// The host's end of the link to its neighbour, and the neighbour's.
const HOST: (Ipv4Addr, &str) = (Ipv4Addr::new(203, 0, 113, 1), "2001:db8:3::1");
const NEIGHBOUR: (Ipv4Addr, &str) = (Ipv4Addr::new(203, 0, 113, 2), "2001:db8:3::2");
/// Index of the host's interface.
const LINK: u32 = 77;
const MDNS: u16 = 5353;

/// The neighbour, on a new link.
pub fn neighbour() -> Netns {
    let netns = Netns::new("ip link set lo up");
    let place = format!("/proc/{}/fd/{}", std::process::id(), netns.file().as_raw_fd());
    let (host, there) = (HOST, NEIGHBOUR);
    run(&format!(
        "ip link add d0 index {LINK} type veth peer name d1 index {LINK} netns {place}
        ip link set d0 up
        ip addr add {}/24 brd + dev d0; ip addr add {}/64 dev d0 nodad
        nsenter --net={place} sh -ec '
            ip link set d1 up
            ip addr add {}/24 brd + dev d1; ip addr add {}/64 dev d1 nodad'
        until [ -z \"$(ip -6 addr show tentative)\" ]; do sleep 0.02; done
        until ip link show dev d0 | grep -q 'state UP'; do sleep 0.02; done",
        host.0, host.1, there.0, there.1
    ));
    netns
}

/// What the operator has: groups are on the link.
pub fn setup() -> Setup {
    let mut map = mapping();
    (map.v4.group_interface, map.v6.group_interface) = (LINK, LINK);
    Setup { map, ..Setup::default() }
}

/// A world in which the guest has made itself known, and link-local addresses are on the link, too.
pub fn linked(setup: &Setup) -> World {
    let mut world = known(setup);
    let mut view = world.engine.view();
    view.network.v6.as_mut().expect("IPv6").scope_id = LINK;
    world.engine.replace_net(view).expect("nothing to open");
    world
}

/// Tests over both families, each in a world on the link to the neighbour.
fn each(test: impl Fn(Family, &Netns, &mut World)) {
    let there = neighbour();
    for family in FAMILIES {
        test(family, &there, &mut linked(&setup()));
    }
}

pub fn host_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(HOST.0, HOST.1), port)
}

pub fn neighbour_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(NEIGHBOUR.0, NEIGHBOUR.1), port)
}

fn mdns(family: Family) -> SocketAddr {
    mdns_at(family, MDNS)
}

/// The group of mDNS, at any port.
fn mdns_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(Ipv4Addr::new(224, 0, 0, 251), "ff02::fb"), port)
}

/// A group that no service is known by.
fn plain_group(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(Ipv4Addr::new(239, 1, 2, 3), "ff05::1:2345"), port)
}

fn scoped(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V6(v6) if v6.ip().segments()[0] == 0xff02 => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, LINK).into()
        }
        other => other,
    }
}

pub fn guest(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.guest(), port)
}

/// A program that is a member of `group` on the interface that has the IPv4 address `link`, and shares its port.
fn program(group: SocketAddr, link: Ipv4Addr) -> UdpSocket {
    let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::DGRAM, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("setsockopt");
    let any: IpAddr = match group {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    if group.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).expect("setsockopt");
    }
    bind(&socket, &SocketAddr::new(any, group.port())).expect("a shared port");
    let socket = UdpSocket::from(socket);
    match group.ip() {
        IpAddr::V4(v4) => {
            socket.join_multicast_v4(&v4, &link).expect("joined");
            let address = i32::from_ne_bytes(link.octets());
            set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF, address)
                .expect("setsockopt");
        }
        IpAddr::V6(v6) => {
            socket.join_multicast_v6(&v6, LINK).expect("joined");
            let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF);
            set_int(socket.as_fd(), level, name, LINK as i32).expect("setsockopt");
        }
    }
    socket.set_nonblocking(true).expect("fcntl");
    socket
}

/// The same on the neighbour.
fn program_of(netns: &Netns, group: SocketAddr) -> UdpSocket {
    netns.run(move || program(group, NEIGHBOUR.0))
}

/// A socket of the neighbour.
pub fn bound_on(netns: &Netns, at: SocketAddr) -> UdpSocket {
    netns.run(move || bound(at))
}

/// How a guest says what it wants: by which version of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// IGMPv2, MLDv1.
    Older,
    /// IGMPv3, MLDv2.
    Newer,
}

/// The guest's word that it wants `group`, or not any more.
fn report(group: IpAddr, version: Version, wanted: bool) -> Vec<u8> {
    let octets = match group {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let record = |kind: u8, octets: &[u8]| [&[kind, 0, 0, 0][..], octets].concat();
    let change = if wanted { 4 } else { 3 };
    let single = |kind: u8, octets: &[u8]| [&[kind, 0, 0, 0][..], octets].concat();
    let many = |kind: u8, octets: &[u8]| {
        [&[kind, 0, 0, 0, 0, 0, 0, 1][..], &record(change, octets)].concat()
    };
    match (group, version) {
        (IpAddr::V4(_), Version::Older) => {
            let message = single(if wanted { 0x16 } else { 0x17 }, &octets);
            igmp(group, &message)
        }
        (IpAddr::V4(_), Version::Newer) => {
            igmp(Ipv4Addr::new(224, 0, 0, 22).into(), &many(0x22, &octets))
        }
        (IpAddr::V6(_), Version::Older) => {
            let kind = if wanted { 131 } else { 132 };
            let octets = [&[0; 4][..], &octets].concat();
            mld(group, &single(kind, &octets))
        }
        (IpAddr::V6(_), Version::Newer) => {
            let routers = "ff02::16".parse().expect("an address");
            mld(routers, &many(143, &octets))
        }
    }
}

/// RFC 3376, section 4: with the option "router alert".
fn igmp(to: IpAddr, message: &[u8]) -> Vec<u8> {
    let mut frame = packet::ip(Family::V4.guest(), to, 2, 1, &[&[148, 4, 0, 0], message].concat());
    frame[14] = 0x46;
    frame
}

/// RFC 3810, section 5: behind a hop-by-hop header.
fn mld(to: IpAddr, message: &[u8]) -> Vec<u8> {
    let from = "fe80::5".parse().expect("an address");
    packet::ip(from, to, 0, 1, &[&[58, 0, 5, 2, 0, 0, 1, 0], message].concat())
}

fn join(world: &mut World, group: IpAddr) {
    world.send(report(group, Version::Newer, true));
    world.settle(TURNS);
}

/// Groups of this host's link, as the kernel lists them.
fn is_member(group: IpAddr) -> bool {
    let listed = Command::new("ip").args(["maddr", "show", "dev", "d0"]).output().expect("ip(8)");
    let listed = String::from_utf8(listed.stdout).expect("text");
    listed.split_whitespace().any(|word| word == group.to_string())
}

pub fn say(world: &mut World, from: SocketAddr, to: SocketAddr, what: &[u8]) {
    world.send(packet::udp(from, to, what));
    world.settle(TURNS);
}

#[test]
fn what_is_for_a_group_arrives_while_the_guest_is_a_member() {
    isolated(|| {
        let there = neighbour();
        for (family, version) in
            FAMILIES.into_iter().flat_map(|f| [Version::Older, Version::Newer].map(|v| (f, v)))
        {
            let group = mdns(family);
            let mut world = linked(&setup());
            let device = bound_on(&there, neighbour_at(family, 0));
            let place = device.local_addr().expect("bound");
            device.send_to(b"too early", scoped(group)).expect("sent");
            nothing_arrives(&mut world);
            assert!(!is_member(group.ip()));

            world.send(report(group.ip(), version, true));
            world.settle(TURNS);
            assert!(is_member(group.ip()), "{group}");
            device.send_to(b"announcement", scoped(group)).expect("sent");
            assert_eq!(at_guest(&mut world), (place, group, b"announcement".to_vec()));
            device.send_to(&[], scoped(group)).expect("sent");
            assert_eq!(at_guest(&mut world), (place, group, Vec::new()));
            // Longer than a frame of the guest's link.
            device.send_to(&[7; 4000], scoped(group)).expect("sent");
            assert_eq!(world.frames(3).len(), 3, "fragments");

            world.send(report(group.ip(), version, false));
            world.settle(TURNS);
            world.skip(Duration::from_millis(1010));
            world.settle(TURNS);
            // They are asked twice whether somebody else wants it.
            assert_eq!(world.received().len(), 2, "queries");
            assert!(is_member(group.ip()));
            world.skip(Duration::from_millis(1010));
            world.settle(TURNS);
            assert!(!is_member(group.ip()));
            assert_eq!((world.engine.flow_count(), world.all_drops()), (0, 0));
        }
    });
}

/// A station with many addresses has a group for each of them, and Linux reports them together.
#[test]
fn a_report_of_many_groups_is_read_to_its_end() {
    isolated(|| {
        let _there = neighbour();
        for records in [150, 1000] {
            let mut world = linked(&setup());
            let wanted = mdns(Family::V6).ip();
            let IpAddr::V6(last) = wanted else { unreachable!("IPv6") };
            let own = |n: u16| Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, n).octets();
            let mut groups: Vec<_> = (0..records - 1).map(own).collect();
            // What is longer than anybody's report is read as far as that.
            groups.insert(if records == 150 { groups.len() } else { 100 }, last.octets());
            let mut message = vec![143, 0, 0, 0, 0, 0];
            message.extend(records.to_be_bytes());
            groups.iter().for_each(|group| message.extend([&[4, 0, 0, 0], &group[..]].concat()));
            world.send(mld("ff02::16".parse().expect("an address"), &message));
            world.settle(TURNS);
            say(&mut world, guest(Family::V6, 5353), mdns(Family::V6), b"?");
            world.settle(TURNS);
            assert!(is_member(wanted), "{records} records");
            assert_eq!(world.drops(DropReason::TooLarge), u64::from(records > 150));
        }
    });
}

#[test]
fn a_group_ends_when_it_is_not_reported_any_more() {
    isolated(|| {
        each(|family, _there, world| {
            let group = mdns(family).ip();
            join(world, group);
            world.skip(Duration::from_secs(259));
            world.settle(TURNS);
            assert!(is_member(group));
            join(world, group);
            world.skip(Duration::from_secs(259));
            world.settle(TURNS);
            assert!(is_member(group), "it was reported again");
            world.skip(Duration::from_millis(1010));
            world.settle(TURNS);
            assert!(!is_member(group));
            assert_eq!(world.engine.flow_count(), 0);
        });
    });
}

#[test]
fn the_guest_is_asked_what_it_wants() {
    isolated(|| {
        let _there = neighbour();
        let mut world = linked(&setup());
        let queries = |world: &mut World| -> Vec<Vec<u8>> {
            world.settle(TURNS);
            let is_query = |frame: &Vec<u8>| match frame[12] {
                8 => frame[13] == 0 && frame[23] == 2,
                _ => frame[20] == 0,
            };
            world.received().into_iter().filter(is_query).collect()
        };
        let (_, out) = world.port.halves();
        world.engine.on_link_up(out);
        let first = queries(&mut world);
        assert_eq!(first.len(), 2, "one for each family");
        assert_eq!((first[0][38], &first[0][30..34]), (0x11, &[224, 0, 0, 1][..]));
        assert_eq!((first[1][62], first[1][21]), (130, 1));
        // RFC 3376, section 8: again after a quarter of the interval, then once in each.
        for seconds in [31, 125, 125] {
            world.skip(Duration::from_millis(seconds * 1000 - 500));
            assert_eq!(queries(&mut world).len(), 0);
            world.skip(Duration::from_millis(1010));
            assert_eq!(queries(&mut world).len(), 2);
        }
        join(&mut world, mdns(Family::V4).ip());
        world.engine.on_link_closed();
        assert!(!is_member(mdns(Family::V4).ip()), "who comes next has joined nothing");
        world.skip(Duration::from_secs(300));
        assert_eq!(queries(&mut world).len(), 0);
    });
}

#[test]
fn the_guest_speaks_to_a_group_from_its_port_and_does_not_hear_itself() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            // A program of the host has the port, too, and shares it.
            let (here, device) = (program(group, HOST.0), program_of(there, group));
            join(world, group.ip());
            say(world, guest(family, MDNS), group, b"question");
            let (question, from) = awaited(&device);
            assert_eq!((&question[..], from.port()), (&b"question"[..], MDNS));
            assert_eq!(awaited(&here).0, b"question", "the host's own programs hear it");
            nothing_arrives(world);
            assert_eq!(world.drops(DropReason::OwnDatagram), 1);
            // Answers come to the group, from the neighbour and from the host.
            device.send_to(b"answer", scoped(group)).expect("sent");
            let (source, to, data) = at_guest(world);
            assert_eq!((source.port(), to, &data[..]), (MDNS, group, &b"answer"[..]));
            assert!(received(&here).is_some());
            here.send_to(b"question", scoped(group)).expect("sent");
            assert_eq!(at_guest(world).2, b"question", "what another one says in the same words");
            // What is for the host's program alone stays its.
            let alone = bound_on(there, neighbour_at(family, 0));
            alone.send_to(b"unicast", host_at(family, MDNS)).expect("sent");
            while awaited(&here).0 != b"unicast" {}
            nothing_arrives(world);
        });
    });
}

#[test]
fn whoever_asks_is_answered_from_the_port_of_the_group() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            join(world, group.ip());
            // A legacy question of mDNS is answered to its sender alone (RFC 6762, section 6.7).
            let asker = bound_on(there, neighbour_at(family, 0));
            asker.send_to(b"question", scoped(group)).expect("sent");
            let (source, _, _) = at_guest(world);
            say(world, guest(family, MDNS), source, b"answer");
            assert_eq!(awaited(&asker), (b"answer".to_vec(), host_at(family, MDNS)));
            // And who was told of the port may write there.
            asker.send_to(b"thanks", host_at(family, MDNS)).expect("sent");
            assert_eq!(at_guest(world), (source, guest(family, MDNS), b"thanks".to_vec()));
            assert_eq!(world.all_drops(), 0);
        });
    });
}

#[test]
fn rfc6762_5_4_who_answers_the_guest_alone_is_heard() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            let device = program_of(there, group);
            join(world, group.ip());
            for _ in 0..2 {
                say(world, guest(family, MDNS), group, b"question");
                let (_, from) = awaited(&device);
                device.send_to(b"answer", from).expect("sent");
                let (source, to, data) = at_guest(world);
                let expected = (MDNS, guest(family, MDNS), &b"answer"[..]);
                assert_eq!((source.port(), to, &data[..]), expected);
            }
            // A program of the host that shares the port may begin, which needs the same of everybody that has it.
            drop(program(group, HOST.0));
            // What the guest says to somebody beyond the link comes from an address that leads beyond it.
            let asker = bound_on(there, neighbour_at(family, 0));
            asker.send_to(b"question", scoped(group)).expect("sent");
            let (source, _, _) = at_guest(world);
            say(world, guest(family, MDNS), source, b"answer");
            assert_eq!(awaited(&asker), (b"answer".to_vec(), host_at(family, MDNS)));
            // The port closes when the guest asks no more.
            world.skip(Duration::from_secs(200));
            world.settle(4000);
            asker.send_to(b"late", host_at(family, MDNS)).expect("sent");
            nothing_arrives(world);
            assert_eq!(world.all_drops(), world.drops(DropReason::OwnDatagram));
        });
    });
}

#[test]
fn a_port_that_was_talked_from_before_is_shared_with_the_group() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            let device = program_of(there, group);
            // As a resolver does that starts before its reports have gone out.
            say(world, guest(family, MDNS), group, b"question");
            assert_eq!(awaited(&device).1.port(), MDNS);
            join(world, group.ip());
            device.send_to(b"answer", scoped(group)).expect("sent");
            assert_eq!(at_guest(world).1, group);
            let (_, from) = (say(world, guest(family, MDNS), group, b"again"), awaited(&device).1);
            assert_eq!(from.port(), MDNS);
        });
    });
}

#[test]
fn groups_are_received_on_the_ports_that_the_guest_sends_to_and_that_are_named() {
    isolated(|| {
        let there = neighbour();
        for family in FAMILIES {
            let mut setup = setup();
            setup.map.group_ports.push(7001);
            let mut world = linked(&setup);
            let device = bound_on(&there, neighbour_at(family, 0));
            let place = device.local_addr().expect("bound");
            let [sent_to, named, other] = [7000, 7001, 7002].map(|port| plain_group(family, port));
            join(&mut world, sent_to.ip());
            for group in [sent_to, other] {
                device.send_to(b"nobody listens", group).expect("sent");
            }
            nothing_arrives(&mut world);
            say(&mut world, guest(family, 7000), sent_to, b"heartbeat");
            for group in [sent_to, named] {
                device.send_to(b"heartbeat", group).expect("sent");
                assert_eq!(at_guest(&mut world), (place, group, b"heartbeat".to_vec()));
            }
            nothing_arrives(&mut world);
            // The other way round: joined after it was sent to.
            let mut world = linked(&setup);
            say(&mut world, guest(family, 7000), sent_to, b"heartbeat");
            join(&mut world, sent_to.ip());
            device.send_to(b"heartbeat", sent_to).expect("sent");
            assert_eq!(at_guest(&mut world).1, sent_to);
        }
    });
}

/// Where a port is forwarded of all addresses: of one family, and of both.
fn everywhere(family: Family) -> [ListenAddr; 2] {
    let one = match family {
        Family::V4 => ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => ListenAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    [one, ListenAddr::Dual]
}

/// Tests over both families, each in worlds that forward UDP ports `port` to the guest.
fn each_forwarding(port: u16, test: impl Fn(Family, &mut World)) {
    for (family, listen) in FAMILIES.into_iter().flat_map(|f| everywhere(f).map(|l| (f, l))) {
        let rule = Rule { listen, ..forward(Proto::Udp, family, port) };
        test(family, &mut linked(&Setup { rules: vec![rule], ..setup() }));
    }
}

#[test]
fn forwarded_ports_receive_for_groups_that_the_guest_has_joined() {
    isolated(|| {
        let there = neighbour();
        each_forwarding(7100, |family, world| {
            let group = plain_group(family, 7100);
            let device = bound_on(&there, neighbour_at(family, 0));
            let place = device.local_addr().expect("bound");
            device.send_to(b"too early", group).expect("sent");
            nothing_arrives(world);
            join(world, group.ip());
            device.send_to(b"for the group", group).expect("sent");
            assert_eq!(at_guest(world), (place, group, b"for the group".to_vec()));
            nothing_arrives(world);
            say(world, guest(family, 7100), group, b"by the guest");
            nothing_arrives(world);
            // Once, though a socket of its own receives for the group now, too.
            device.send_to(b"again", group).expect("sent");
            assert_eq!(at_guest(world), (place, group, b"again".to_vec()));
            nothing_arrives(world);
            assert_eq!(world.drops(DropReason::SocketFailed), 0, "the socket of its own");
            let any = SocketAddr::new(family.of(Ipv4Addr::UNSPECIFIED, "::"), 7100);
            assert_eq!(shared(any).err(), Some(rustix::io::Errno::ADDRINUSE));
        });
    });
}

#[test]
fn groups_of_programs_of_the_host_are_not_heard_on_a_port_of_both_families() {
    isolated(|| {
        let there = neighbour();
        let rule = Rule { listen: ListenAddr::Dual, ..forward(Proto::Udp, Family::V4, 7100) };
        let mut world = linked(&Setup { rules: vec![rule], ..setup() });
        let group = plain_group(Family::V4, 7100);
        let program = UdpSocket::bind("0.0.0.0:0").expect("a free port");
        let (IpAddr::V4(of), IpAddr::V4(at)) = (group.ip(), host_at(Family::V4, 0).ip()) else {
            panic!("IPv4")
        };
        program.join_multicast_v4(&of, &at).expect("joined");
        let device = bound_on(&there, neighbour_at(Family::V4, 0));
        let place = device.local_addr().expect("bound");
        device.send_to(b"for the host", group).expect("sent");
        nothing_arrives(&mut world);
        join(&mut world, group.ip());
        device.send_to(b"for both", group).expect("sent");
        assert_eq!(at_guest(&mut world), (place, group, b"for both".to_vec()));
    });
}

/// A group of a service has a socket of its own from the start.
#[test]
fn a_forwarded_port_of_a_service_receives_once() {
    isolated(|| {
        let there = neighbour();
        each_forwarding(MDNS, |family, world| {
            let group = mdns(family);
            join(world, group.ip());
            let device = bound_on(&there, neighbour_at(family, 0));
            let place = device.local_addr().expect("bound");
            device.send_to(b"announcement", scoped(group)).expect("sent");
            assert_eq!(at_guest(world), (place, group, b"announcement".to_vec()));
            nothing_arrives(world);
        });
    });
}

#[test]
fn who_asks_a_group_is_answered_from_the_forwarded_port() {
    isolated(|| {
        let there = neighbour();
        for port in [7100, MDNS] {
            each_forwarding(port, |family, world| {
                for group in [plain_group(family, port), mdns_at(family, port)] {
                    join(world, group.ip());
                    let asker = bound_on(&there, neighbour_at(family, 0));
                    asker.send_to(b"question", scoped(group)).expect("sent");
                    let (source, _, _) = at_guest(world);
                    say(world, guest(family, port), source, b"answer");
                    assert_eq!(awaited(&asker), (b"answer".to_vec(), host_at(family, port)));
                    // Who goes on with the guest alone, and who asks all again.
                    asker.send_to(b"thanks", host_at(family, port)).expect("sent");
                    assert_eq!(at_guest(world), (source, guest(family, port), b"thanks".to_vec()));
                    asker.send_to(b"again", scoped(group)).expect("sent");
                    assert_eq!(at_guest(world), (source, group, b"again".to_vec()));
                    say(world, guest(family, port), source, b"and again");
                    assert_eq!(awaited(&asker), (b"and again".to_vec(), host_at(family, port)));
                    nothing_arrives(world);
                    assert_eq!(world.all_drops(), 0);
                }
            });
        }
    });
}

/// Whichever was there first: the listening socket, or the one that receives for the group.
#[test]
fn a_forwarded_port_of_a_group_is_shared_with_its_receiver_only() {
    isolated(|| {
        each(|family, there, world| {
            let group = plain_group(family, 7100);
            let any = SocketAddr::new(family.of(Ipv4Addr::UNSPECIFIED, "::"), 7100);
            let device = bound_on(there, neighbour_at(family, 0));
            join(world, group.ip());
            let rule = Rule { listen: ListenAddr::Dual, ..forward(Proto::Udp, family, 7100) };
            for (order, is_forwarded) in
                [("not forwarded", false), ("receiver first", true), ("alone", false)]
            {
                let mut view = world.engine.view();
                view.inbound = RuleTable::default();
                if is_forwarded {
                    view.inbound.add(rule, &view.network).expect("a valid rule");
                }
                world.engine.replace_net(view).expect("no conflict");
                say(world, guest(family, 7100), group, b"by the guest");
                nothing_arrives(world);
                device.send_to(b"for the group", group).expect("sent");
                assert_eq!(at_guest(world).1, group, "{order}");
                nothing_arrives(world);
                assert_eq!(shared(any).is_err(), is_forwarded, "{order}");
            }
        });
    });
}

#[test]
fn hop_limits_of_what_is_for_a_group_are_the_guest_s() {
    isolated(|| {
        each(|family, there, world| {
            let group = plain_group(family, 7200);
            let packets = tap_on(there);
            for joined in [false, true] {
                if joined {
                    join(world, group.ip());
                }
                for hops in [1, 255, 4, 1] {
                    let message = packet::udp_message(7200, group.port(), &[hops]);
                    world.send(packet::ip(family.guest(), group.ip(), packet::UDP, hops, &message));
                    world.settle(TURNS);
                    let frame = seen(world, &packets, packet::UDP);
                    let at = if family == Family::V4 { 22 } else { 21 };
                    assert_eq!(frame[at], hops, "{group}, joined: {joined}");
                }
            }
        });
    });
}

#[test]
fn broadcasts_leave_the_host_and_anybody_may_answer() {
    isolated(|| {
        let there = neighbour();
        run("ip route add default via 203.0.113.2");
        let everybody = bound_on(&there, "0.0.0.0:9".parse().expect("an address"));
        for to in ["255.255.255.255:9", "203.0.113.255:9"] {
            let mut world = linked(&setup());
            say(&mut world, guest(Family::V4, 5000), to.parse().expect("one"), b"wake up");
            let (data, from) = awaited(&everybody);
            assert_eq!((&data[..], from), (&b"wake up"[..], host_at(Family::V4, 5000)), "{to}");
            let device = bound_on(&there, neighbour_at(Family::V4, 0));
            device.send_to(b"I am", from).expect("sent");
            let place = device.local_addr().expect("bound");
            assert_eq!(at_guest(&mut world), (place, guest(Family::V4, 5000), b"I am".to_vec()));
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// More neighbours on the same network; all answer pings to everybody.
fn crowd() -> Vec<Netns> {
    run(&format!(
        "ip link add b0 index {LINK} type bridge; ip link set b0 up
        ip addr add {}/24 brd + dev b0; ip addr add {}/64 dev b0 nodad
        ip route add default via {}",
        HOST.0, HOST.1, NEIGHBOUR.0
    ));
    let crowd = [2, 3, 4].map(|number| {
        let netns = Netns::new("ip link set lo up");
        let place = format!("/proc/{}/fd/{}", std::process::id(), netns.file().as_raw_fd());
        run(&format!(
            "ip link add v{number} master b0 type veth peer name d1 netns {place}; ip link set v{number} up
            nsenter --net={place} sh -ec '
                echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts
                echo 0 > /proc/sys/net/ipv6/conf/d1/accept_dad
                ip link set d1 up
                ip addr add 203.0.113.{number}/24 brd + dev d1; ip addr add 2001:db8:3::{number}/64 dev d1 nodad'
            until ip link show dev v{number} | grep -q 'state UP'; do sleep 0.02; done"
        ));
        netns
    });
    crowd.into()
}

/// Who answers a ping to many, as the guest sees it.
fn pinged(world: &mut World, to: IpAddr, replies: usize) -> BTreeSet<IpAddr> {
    let from = if to.is_ipv4() { Family::V4 } else { Family::V6 }.guest();
    let request = packet::echo(from, to, 0x1234, 7, b"who is there?");
    world.send(request.clone());
    let l4 = packet::l4_offset(to);
    let frames = world.frames(replies);
    let sources = frames.iter().map(|frame| {
        assert_eq!(frame[l4], if l4 == 34 { 0 } else { 129 });
        assert_eq!(frame[l4 + 4..request.len()], request[l4 + 4..]);
        match l4 {
            34 => <[u8; 4]>::try_from(&frame[26..30]).expect("four").into(),
            _ => <[u8; 16]>::try_from(&frame[22..38]).expect("sixteen").into(),
        }
    });
    sources.collect()
}

#[test]
fn everybody_answers_a_ping_to_many() {
    isolated(|| {
        let _crowd = crowd();
        let all = [2, 3, 4].map(|number| IpAddr::from([203, 0, 113, number]));
        let mut world = linked(&setup());
        for to in ["224.0.0.1", "203.0.113.255", "255.255.255.255"] {
            for _ in 0..2 {
                let found = pinged(&mut world, to.parse().expect("an address"), 3);
                assert_eq!(found, BTreeSet::from(all), "{to}");
            }
        }
        // This host is a member, too.
        let found = pinged(&mut world, "ff02::1".parse().expect("an address"), 4);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!((world.engine.flow_count(), world.all_drops()), (4, 0));

        // Replies of those that the guest may not talk to do not come, and no request leaves if groups are forbidden.
        enforce(&mut world, policy(&["drop icmp 203.0.113.3", "allow any"]));
        let found = pinged(&mut world, "224.0.0.1".parse().expect("an address"), 2);
        assert_eq!(found, BTreeSet::from([all[0], all[2]]));
        assert_eq!(world.drops(DropReason::ForbiddenAddress), 1);
        // Where it may not talk to the host, that is not asked.
        enforce(&mut world, policy(&["reject @host", "allow any"]));
        for (to, replies) in [("ff02::1", 3), ("224.0.0.1", 3), ("255.255.255.255", 0)] {
            let found = pinged(&mut world, to.parse().expect("an address"), replies);
            world.settle(TURNS);
            assert_eq!((found.len(), world.received().len()), (replies, 0), "{to}: {found:?}");
        }
        assert_eq!(world.drops(DropReason::EgressRejected), 1);
        enforce(&mut world, policy(&["drop @multicast", "allow any"]));
        for to in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            pinged(&mut world, to.parse().expect("an address"), 0);
        }
        assert_eq!(world.drops(DropReason::EgressDropped), 3);
    });
}

#[test]
fn nobody_answers_a_ping_to_many_if_that_is_off() {
    isolated(|| {
        let _crowd = crowd();
        let mut world = linked(&setup());
        let mut view = world.engine.view();
        view.network.services.multicast = false;
        world.engine.replace_net(view).expect("nothing to open");
        for to in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            pinged(&mut world, to.parse().expect("an address"), 0);
        }
        assert_eq!(world.drops(DropReason::MulticastDisabled), 3);
        let request = packet::echo(Family::V4.guest(), [203, 0, 113, 255].into(), 1, 1, b"");
        world.send(request);
        world.settle(TURNS);
        assert_eq!(world.drops(DropReason::Prohibited), 1, "the kernel refuses it");
        assert_eq!(world.engine.flow_count(), 0);
    });
}

#[test]
fn nothing_for_many_passes_if_that_is_off() {
    isolated(|| {
        let there = neighbour();
        run("ip route add default via 203.0.113.2");
        for family in FAMILIES {
            let group = mdns(family);
            let device = program_of(&there, group);
            let mut world = linked(&setup());
            join(&mut world, group.ip());
            assert!(is_member(group.ip()));
            let mut view = world.engine.view();
            view.network.services.multicast = false;
            world.engine.replace_net(view).expect("nothing to open");
            assert!(!is_member(group.ip()));
            join(&mut world, group.ip());
            assert!(!is_member(group.ip()));
            say(&mut world, guest(family, MDNS), group, b"question");
            if family == Family::V4 {
                let everybody = bound_on(&there, "0.0.0.0:9".parse().expect("an address"));
                for to in ["255.255.255.255:9", "203.0.113.255:9"] {
                    say(&mut world, guest(family, 5000), to.parse().expect("one"), b"wake up");
                }
                assert_eq!(received(&everybody), None);
                assert_eq!(world.drops(DropReason::Prohibited), 1, "the kernel refuses it");
            }
            assert_eq!(received(&device), None);
            let expected = if family == Family::V4 { 3 } else { 2 };
            assert_eq!(world.drops(DropReason::MulticastDisabled), expected);
        }
    });
}

#[test]
fn the_policy_decides_about_groups_and_broadcasts() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            let device = program_of(there, group);
            enforce(world, policy(&["drop @multicast", "allow any"]));
            join(world, group.ip());
            assert!(!is_member(group.ip()));
            assert_eq!(world.drops(DropReason::EgressDropped), 1);
            say(world, guest(family, MDNS), group, b"question");
            if family == Family::V4 {
                let to = "255.255.255.255:9".parse().expect("an address");
                say(world, guest(family, 5000), to, b"wake up");
                assert_eq!(world.drops(DropReason::EgressDropped), 3);
            }
            assert_eq!(received(&device), None);
            // What is allowed by a later policy begins with the next report, and ends with the next policy.
            enforce(world, policy(&["allow udp @multicast:5353", "reject any"]));
            join(world, group.ip());
            device.send_to(b"announcement", scoped(group)).expect("sent");
            assert_eq!(at_guest(world).2, b"announcement");
            enforce(world, policy(&["drop @multicast", "allow any"]));
            assert!(!is_member(group.ip()));
            device.send_to(b"announcement", scoped(group)).expect("sent");
            nothing_arrives(world);
            assert_eq!(world.engine.flow_count(), 0);
        });
    });
}

#[test]
fn what_is_for_a_group_is_kept_from_a_host_that_the_policy_forbids() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            let (here, device) = (program(group, HOST.0), program_of(there, group));
            let from = [(guest(family, 7200), false), (guest(family, MDNS), false)];
            let mut number = 0;
            for (from, joined) in from.into_iter().chain([(guest(family, MDNS), true)]) {
                if joined {
                    enforce(world, policy(&["allow any"]));
                    join(world, group.ip());
                }
                for (rules, is_heard) in [
                    (&["allow any"][..], true),
                    (&["reject udp @host", "allow any"], false),
                    (&["drop @host:5353", "allow any"], false),
                    (&["reject tcp @host", "reject @host:53", "allow any"], true),
                    (&["allow @internet", "allow @multicast", "reject any"], true),
                    (&["reject @host", "allow @multicast"], false),
                    (&[], true),
                ] {
                    enforce(world, policy(rules));
                    number += 1;
                    say(world, from, group, &[number]);
                    assert_eq!(awaited(&device).0, [number], "{rules:?}");
                    // What was kept from it is not what comes next.
                    if is_heard {
                        assert_eq!(awaited(&here).0, [number], "{rules:?}, joined: {joined}");
                    }
                }
                nothing_arrives(world);
            }
        });
    });
}

#[test]
fn a_guest_that_joins_all_groups_joins_few() {
    isolated(|| {
        let _there = neighbour();
        let mut world = linked(&setup());
        let groups = || (0..200_u8).map(|n| IpAddr::from([239, 7, 0, n]));
        for group in groups() {
            join(&mut world, group);
        }
        let refused = world.drops(DropReason::TooManyGroups);
        assert_eq!(refused, 200 - 32);
        // Nothing of the host's is taken: nobody would receive anything.
        assert!(groups().all(|group| !is_member(group)));
        for group in groups().take(32) {
            say(&mut world, guest(Family::V4, 7000), SocketAddr::new(group, 7000), b"x");
            say(&mut world, guest(Family::V4, 7000), SocketAddr::new(group, 7001), b"x");
            say(&mut world, guest(Family::V4, 7000), SocketAddr::new(group, 7002), b"x");
        }
        assert_eq!(world.engine.flow_count(), 64 + 1, "sockets of groups, and the port's own");
        assert_eq!(world.drops(DropReason::TooManyGroups), refused + 32);
        // Those that come and go cost no more than their time.
        for _ in 0..100 {
            for wanted in [false, true] {
                world.send(report(IpAddr::from([239, 7, 1, 1]), Version::Older, wanted));
            }
            world.settle(TURNS);
        }
        assert_eq!(world.drops(DropReason::TooManyGroups), refused + 32 + 100);
    });
}

#[test]
fn a_port_that_a_program_keeps_for_itself_is_not_received() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            let any = SocketAddr::new(family.of(Ipv4Addr::UNSPECIFIED, "::"), MDNS);
            let taken = bound(any);
            join(world, group.ip());
            assert_eq!(world.drops(DropReason::SocketFailed), 1);
            // The guest is heard nevertheless, from another port.
            let device = program_of(there, group);
            say(world, guest(family, MDNS), group, b"question");
            let (question, from) = awaited(&device);
            assert_eq!(question, b"question");
            assert_ne!(from.port(), MDNS);
            device.send_to(b"answer", from).expect("sent");
            assert_eq!(at_guest(world).2, b"answer");
            drop(taken);
            join(world, group.ip());
            device.send_to(b"announcement", scoped(group)).expect("sent");
            assert_eq!(at_guest(world).1, group);
        });
    });
}

#[test]
fn a_view_that_changes_nothing_of_groups_leaves_them_alone() {
    isolated(|| {
        each(|family, there, world| {
            let group = mdns(family);
            join(world, group.ip());
            let device = bound_on(there, neighbour_at(family, 0));
            device.send_to(b"in the queue", scoped(group)).expect("sent");
            let view: NetView = world.engine.view();
            world.engine.replace_net(view).expect("nothing to open");
            assert_eq!(at_guest(world).2, b"in the queue");
            // Another interface: the socket is another one.
            let mut view = world.engine.view();
            (view.map.v4.group_interface, view.map.v6.group_interface) = (1, 1);
            world.engine.replace_net(view).expect("nothing to open");
            assert!(!is_member(group.ip()));
        });
    });
}
