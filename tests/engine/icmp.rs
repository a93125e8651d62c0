//! ICMP errors for the guest, and what of its IP headers gets to the network: the engine's host is in front of two
//! routers, and what the guest sees is what a program of the host would.
//!
//!     host 192.0.2.129 -- 192.0.2.130 near 192.0.2.141 -- 192.0.2.142 far, which has 203.0.113.7

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use passt::limits;
use passt::wire::DropReason;
use passt_frame::{FrameMeta, MemPort};
use passt_support::namespace::Netns;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::datagrams::{bound, guest_at, known, one_message};
use crate::fragments::{cut_l4, send_all, whole};
use crate::namespace::{isolated, run};
use crate::packet::{self, SYN, TCP, UDP};
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, mapping};

/// Turns in which a few packets are done with.
const TURNS: usize = 64;
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The protocols whose errors the guest is told.
const PROTOCOLS: [Protocol; 3] = [Protocol::Udp, Protocol::Echo, Protocol::Tcp];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Udp,
    Echo,
    Tcp,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses by family.
fn of(family: Family, v4: &str, v6: &str) -> IpAddr {
    ip(if family == Family::V4 { v4 } else { v6 })
}

/// Whom the guest talks to: two hops away.
fn server(family: Family) -> IpAddr {
    of(family, "203.0.113.7", "2001:db8:3::7")
}

/// The first router.
fn near(family: Family) -> IpAddr {
    of(family, "192.0.2.130", "2001:db8:8::2")
}

/// A packet of the guest with `size` bytes of payload.
fn packet_to(protocol: Protocol, to: IpAddr, size: usize) -> Vec<u8> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let (from, at) = (guest_at(family), SocketAddr::new(to, 9));
    let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
    match protocol {
        Protocol::Udp => packet::udp(from, at, &payload),
        Protocol::Echo => packet::echo(from.ip(), to, 0x1234, 7, &payload),
        Protocol::Tcp => packet::tcp(from, at, SYN, (0x0102_0304, 0), &[]),
    }
}

/// The same with this hop limit, this class of traffic, and "don't fragment" or not.
fn marked(mut frame: Vec<u8>, hop_limit: u8, class: u8, may_be_cut: bool) -> Vec<u8> {
    if frame[12] == 8 {
        (frame[15], frame[22]) = (class, hop_limit);
        frame[20] = if may_be_cut { 0 } else { 0x40 };
    } else {
        (frame[14], frame[15]) = (0x60 | class >> 4, class << 4);
        frame[21] = hop_limit;
    }
    frame
}

/// Type, code, the field behind the checksum, source, and what is quoted.
#[derive(Debug)]
struct IcmpError {
    kind: u8,
    code: u8,
    mtu: u32,
    source: IpAddr,
    quoted: Vec<u8>,
}

/// An ICMP error in a frame for the guest.
fn error_in(frame: &[u8]) -> Option<IcmpError> {
    let v4 = frame[12..14] == [8, 0];
    let (l4, end) = if v4 {
        (34, 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])))
    } else {
        (54, 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])))
    };
    let is_error = if v4 {
        frame[23] == 1 && matches!(frame[l4], 3 | 11)
    } else {
        frame[20] == 58 && frame[l4] < 128
    };
    let source = if v4 {
        <[u8; 4]>::try_from(&frame[26..30]).expect("four").into()
    } else {
        <[u8; 16]>::try_from(&frame[22..38]).expect("sixteen").into()
    };
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four"));
    is_error.then(|| IcmpError {
        kind: frame[l4],
        code: frame[l4 + 1],
        mtu: number(l4 + 4),
        source,
        quoted: frame[l4 + 8..end].to_vec(),
    })
}

/// The one error that the guest gets.
fn the_error(world: &mut World) -> IcmpError {
    let end = Instant::now() + PATIENCE;
    loop {
        world.turn(Duration::from_millis(2));
        let frames = world.received();
        if let Some(frame) = frames.first() {
            assert_eq!(frames.len(), 1);
            return error_in(frame).unwrap_or_else(|| panic!("{frame:x?}"));
        }
        assert!(Instant::now() < end, "no error");
    }
}

/// That `quoted` is what the guest sent, as far as the other end knows it: all but hop limit, checksums, number and DF.
fn assert_quoted(protocol: Protocol, error: &IcmpError, sent: &[u8]) {
    let sent = &sent[14..];
    let v4 = sent[0] == 0x45;
    let (addresses, l4) = if v4 { (12..20, 20) } else { (8..40, 40) };
    assert_eq!(error.quoted[addresses.clone()], sent[addresses], "addresses");
    // Ports; type and code.
    let known = if protocol == Protocol::Echo { 0..2 } else { 0..4 };
    let behind = 4..8;
    let l4_quoted = &error.quoted[l4..];
    assert_eq!(l4_quoted[known.clone()], sent[l4..][known], "ports, or type and code");
    let both = l4_quoted.len() >= 8 && (protocol != Protocol::Udp);
    if both {
        assert_eq!(l4_quoted[behind.clone()], sent[l4..][behind], "identifier and sequence");
    }
}

#[test]
fn destinations_without_a_way_are_unreachable_at_once() {
    isolated(|| {
        run("ip addr add 192.0.2.129/30 dev lo; ip -6 addr add 2001:db8:8::1/64 dev lo nodad
            ip route add unreachable 203.0.113.64/26; ip -6 route add unreachable 2001:db8:64::/48
            ip route add prohibit 203.0.113.128/26; ip -6 route add prohibit 2001:db8:128::/48");
        for (v4, v6, v4_code, v6_code) in [
            ("203.0.113.1", "2001:db8:3::1", 0, 0),
            ("203.0.113.65", "2001:db8:64::1", 1, 3),
            ("203.0.113.129", "2001:db8:128::1", 13, 1),
        ] {
            for family in FAMILIES {
                for protocol in PROTOCOLS {
                    let mut world = known(&Setup::default());
                    let sent = packet_to(protocol, of(family, v4, v6), 100);
                    world.send(sent.clone());
                    let error = the_error(&mut world);
                    let expected = of2(family, (3, v4_code), (1, v6_code));
                    let found = (error.kind, error.code);
                    assert_eq!(found, expected, "{protocol:?} to {v4} or {v6}");
                    assert_eq!(error.source, family.gateway());
                    assert_eq!(error.quoted, sent[14..], "{protocol:?} {family:?}: all of it");
                    // A port of the guest has its socket, wherever it sends to.
                    let flows = usize::from(protocol == Protocol::Udp);
                    assert_eq!((world.engine.flow_count(), world.all_drops()), (flows, 1));
                }
            }
        }
    });
}

/// As booted with `ipv6.disable_ipv6=1`: the kernel finds no address to send from, whatever the routes are.
#[test]
fn without_an_address_of_ipv6_there_is_no_route() {
    isolated(|| {
        run("for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > \"$file\"; done");
        for protocol in PROTOCOLS {
            let mut world = known(&Setup::default());
            for _ in 0..2 {
                let sent = packet_to(protocol, "2001:db8:3::1".parse().expect("an address"), 100);
                world.send(sent.clone());
                let error = the_error(&mut world);
                assert_eq!((error.kind, error.code), (1, 0), "{protocol:?}");
                assert_eq!(error.source, Family::V6.gateway());
                assert_eq!(error.quoted, sent[14..], "{protocol:?}: all of it");
            }
            assert_eq!((world.drops(DropReason::NoRoute), world.all_drops()), (2, 2));
        }
    });
}

/// The same error, for another reason.
#[test]
fn a_connection_without_a_local_port_is_refused() {
    isolated(|| {
        run("echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range");
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let to = family.host_at(9000);
            let _listener = TcpListener::bind(to).expect("a free port");
            for (port, flags) in [(5000, SYN | packet::ACK), (5001, packet::RST | packet::ACK)] {
                let from = SocketAddr::new(family.guest(), port);
                world.send(packet::tcp(from, to, SYN, (1000, 0), &[]));
                let answer = world.frames(1).remove(0);
                assert_eq!(answer[packet::l4_offset(to.ip()) + 13], flags, "{family:?} {port}");
            }
            assert_eq!((world.drops(DropReason::NoLocalPort), world.all_drops()), (1, 1));
        }
    });
}

/// The same error, for a third reason.
#[test]
fn what_is_to_leave_from_an_address_that_nobody_has_is_counted_as_that() {
    isolated(|| {
        for family in FAMILIES {
            let mut map = mapping();
            map.v4.outbound = Some([192, 0, 2, 77].into());
            map.v6.outbound = Some("2001:db8::77".parse().expect("an address"));
            let mut world = known(&Setup { map, ..Setup::default() });
            let (from, to) = (SocketAddr::new(family.guest(), 5000), family.host_at(9000));
            world.send(packet::udp(from, to, b"?"));
            world.send(packet::echo(from.ip(), to.ip(), 1, 1, b"ping"));
            world.send(packet::tcp(from, to, SYN, (1000, 0), &[]));
            let answer = world.frames(1).remove(0);
            let refused = packet::RST | packet::ACK;
            assert_eq!(answer[packet::l4_offset(to.ip()) + 13], refused, "{family:?}");
            assert_eq!((world.drops(DropReason::NoOutboundAddress), world.all_drops()), (3, 3));
        }
    });
}

#[test]
fn a_protocol_that_is_not_translated_is_unreachable_at_once() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let mut dropped = 0;
        for family in FAMILIES {
            // IPv4 in IP, GRE, ESP, SCTP, UDP-Lite.
            for protocol in [4, 47, 50, 132, 136] {
                let sent = packet::ip(family.guest(), server(family), protocol, 64, &[7; 32]);
                world.send(sent.clone());
                let error = the_error(&mut world);
                let expected = of2(family, (3, 2, 0), (4, 1, 6));
                assert_eq!((error.kind, error.code, error.mtu), expected, "{protocol} {family:?}");
                assert_eq!((error.source, &error.quoted[..]), (family.gateway(), &sent[14..]));
                dropped += 1;
            }
        }
        // RFC 4443, section 3.4: the pointer is to what names it, here the second header.
        let (guest, to) = (Family::V6.guest(), server(Family::V6));
        let behind = [&[47, 0, 1, 4, 0, 0, 0, 0][..], &[7; 32]].concat();
        world.send(packet::ip(guest, to, 0, 64, &behind));
        assert_eq!(the_error(&mut world).mtu, 40);
        assert_eq!(world.drops(DropReason::UnknownProtocol), dropped + 1);
        // None is about what is for many, what has no next header, or a later fragment.
        let groups = [("192.0.2.2", "239.1.2.3"), ("2001:db8::2", "ff05::1:2345")];
        for (guest, group) in groups {
            world.send(packet::ip(ip(guest), ip(group), 47, 64, &[7; 32]));
        }
        world.send(packet::ip(guest, to, 59, 64, &[7; 32]));
        let mut later = packet::ip(Family::V4.guest(), server(Family::V4), 47, 64, &[7; 32]);
        later[20..22].copy_from_slice(&[0, 4]);
        world.send(later);
        world.settle(TURNS);
        assert_eq!(world.received().len(), 0);
        assert_eq!(world.drops(DropReason::UnknownProtocol), dropped + 5);
    });
}

fn of2<T>(family: Family, v4: T, v6: T) -> T {
    if family == Family::V4 { v4 } else { v6 }
}

#[test]
fn rfc1812_4_3_2_8_errors_are_limited_by_rate() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            for _ in 0..1000 {
                world.send(packet_to(Protocol::Udp, of(family, "203.0.113.1", "2001:db8:3::1"), 3));
            }
            let before = world.now();
            world.settle(TURNS);
            let errors = world.received().len();
            let passed = world.now().since(before).as_millis() as usize;
            let burst = limits::ICMP_ERROR_BURST as usize;
            assert!((burst..=burst + passed + 1).contains(&errors), "{errors} in {passed} ms");
            let limited = world.drops(DropReason::ErrorLimited) as usize;
            assert_eq!(errors + limited, 1000);
        }
    });
}

/// The two routers. `mtu` is that of the link between them.
fn routers(mtu: u32) -> [Netns; 2] {
    const FORWARDING: &str = "cd /proc/sys/net; ip link set lo up
        echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding
        echo 0 > ipv4/icmp_ratelimit; echo 0 > ipv6/icmp/ratelimit";
    let [near, far] = [(); 2].map(|()| Netns::new(FORWARDING));
    let [near_at, far_at] = [&near, &far]
        .map(|netns| format!("/proc/{}/fd/{}", std::process::id(), netns.file().as_raw_fd()));
    run(&format!(
        "ip link add outer type veth peer name inner netns {near_at}
        ip link add n0 netns {near_at} mtu {mtu} type veth peer name f0 mtu {mtu} netns {far_at}
        ip addr add 192.0.2.129/29 dev outer; ip addr add 2001:db8:8::1/64 dev outer nodad
        ip link set outer up"
    ));
    near.run(|| {
        run(
            "ip addr add 192.0.2.130/29 dev inner; ip addr add 2001:db8:8::2/64 dev inner nodad
            ip addr add 192.0.2.141/30 dev n0; ip addr add 2001:db8:9::1/64 dev n0 nodad
            ip link set inner up; ip link set n0 up
            ip route add 203.0.113.7 via 192.0.2.142; ip route add 2001:db8:3::7 via 2001:db8:9::2",
        );
    });
    far.run(|| {
        run("ip addr add 192.0.2.142/30 dev f0; ip addr add 2001:db8:9::2/64 dev f0 nodad
            ip addr add 203.0.113.7/32 dev lo; ip addr add 2001:db8:3::7/128 dev lo nodad
            ip link set f0 up
            ip route add default via 192.0.2.141; ip -6 route add default via 2001:db8:9::1");
    });
    run("ip route add 203.0.113.0/24 via 192.0.2.130
        ip -6 route add 2001:db8:3::/48 via 2001:db8:8::2
        for host in 203.0.113.7 2001:db8:3::7; do
            end=$(($(date +%s) + 10))
            until ip route get $host > /dev/null 2>&1; do [ $(date +%s) -lt $end ]; sleep 0.01; done
        done");
    [near, far]
}

/// A socket that sees every packet of a namespace, first where it comes in.
pub fn tap_on(netns: &Netns) -> OwnedFd {
    netns.run(|| {
        let kind = SocketType::from_raw(libc::SOCK_RAW as u32);
        let flags = SocketFlags::NONBLOCK;
        let all = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(0x0300).expect("3"));
        let socket = rustix::net::socket_with(AddressFamily::PACKET, kind, flags, Some(all));
        socket.expect("a packet socket")
    })
}

/// The first packet of the protocol with this number in what a packet socket has seen and will see.
pub fn seen(world: &mut World, tap: &OwnedFd, protocol: u8) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    let mut bytes = vec![0; 70_000];
    loop {
        world.turn(Duration::from_millis(1));
        while let Ok((len, _)) = rustix::net::recv(tap, &mut bytes, RecvFlags::empty()) {
            let frame = &bytes[..len];
            let v4 = frame[12..14] == [8, 0] && frame[23] == protocol;
            // Neighbour discovery is none of the guest's.
            let v6 = frame[12..14] == [0x86, 0xdd]
                && (frame[20] == protocol || frame[20] == 44)
                && !(frame[20] == 58 && frame[54] > 129);
            if v4 || v6 {
                return frame.to_vec();
            }
        }
        assert!(Instant::now() < end, "no packet of protocol {protocol}");
    }
}

fn number(protocol: Protocol, family: Family) -> u8 {
    match protocol {
        Protocol::Udp => UDP,
        Protocol::Tcp => TCP,
        Protocol::Echo => of2(family, 1, 58),
    }
}

#[test]
fn hop_limit_and_class_of_traffic_are_those_of_the_guest() {
    isolated(|| {
        let [near, _far] = routers(1500);
        for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
            let tap = tap_on(&near);
            // A TCP connection has one of each: that of its SYN.
            let mut world = known(&Setup::default());
            for (hop_limit, class, may_be_cut) in
                [(64, 0, false), (255, 0xb8, true), (7, 0x29, false), (64, 0, false), (0, 0, true)]
            {
                if protocol == Protocol::Tcp {
                    world = known(&Setup::default());
                }
                let sent = packet_to(protocol, server(family), 600);
                while rustix::net::recv(&tap, &mut [0; 4], RecvFlags::empty()).is_ok() {}
                world.send(marked(sent, hop_limit, class, may_be_cut));
                let got = seen(&mut world, &tap, number(protocol, family));
                let (hops, found) = match family {
                    Family::V4 => (got[22], got[15]),
                    Family::V6 => (got[21], got[14] << 4 | got[15] >> 4),
                };
                let expected = if protocol == Protocol::Tcp { class & 0xfc } else { class };
                let what = format!("{family:?} {protocol:?}");
                assert_eq!((hops, found), (hop_limit.max(1), expected), "{what}");
                if family == Family::V4 && protocol != Protocol::Tcp {
                    assert_eq!(got[20] & 0x40 == 0, may_be_cut, "{what}: DF");
                }
                world.quiet(TURNS);
            }
        }
    });
}

#[test]
fn routers_say_that_the_hops_are_used_up() {
    isolated(|| {
        let _routers = routers(1500);
        for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
            let mut world = known(&Setup::default());
            for (hops, router) in
                [(1, near(family)), (2, of(family, "192.0.2.142", "2001:db8:9::2"))]
            {
                // Two hops reach the server, which has no such port; an echo reply is no error.
                let sent = marked(packet_to(protocol, server(family), 20), hops, 0, false);
                world.send(sent.clone());
                if hops == 2 {
                    if protocol == Protocol::Udp {
                        let error = the_error(&mut world);
                        assert_eq!((error.kind, error.code), of2(family, (3, 3), (1, 4)));
                        assert_eq!(error.source, server(family), "not {router}");
                    } else {
                        one_message(&mut world, family);
                    }
                    continue;
                }
                let error = the_error(&mut world);
                let what = format!("{protocol:?} {family:?}");
                assert_eq!((error.kind, error.code), of2(family, (11, 0), (3, 0)), "{what}");
                assert_eq!(error.source, router, "{what}");
                assert_quoted(protocol, &error, &sent);
                world.settle(TURNS);
                assert_eq!(world.engine.flow_count(), usize::from(protocol != Protocol::Tcp));
            }
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn a_neighbour_that_is_not_there_is_unreachable() {
    isolated(|| {
        let _routers = routers(1500);
        run("echo 100 > /proc/sys/net/ipv4/neigh/outer/retrans_time_ms
            echo 100 > /proc/sys/net/ipv6/neigh/outer/retrans_time_ms");
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                let mut world = known(&Setup::default());
                let nobody = of(family, "192.0.2.131", "2001:db8:8::9");
                let sent = packet_to(protocol, nobody, 20);
                world.send(sent.clone());
                let error = the_error(&mut world);
                let what = format!("{protocol:?} {family:?}");
                assert_eq!((error.kind, error.code), of2(family, (3, 1), (1, 3)), "{what}");
                assert_quoted(protocol, &error, &sent);
            }
        }
    });
}

#[test]
fn a_narrow_path_is_told_and_what_may_be_cut_is_cut() {
    isolated(|| {
        let [_near, far] = routers(1400);
        for family in FAMILIES {
            let at = SocketAddr::new(server(family), 9);
            let host = far.run(move || UdpSocket::bind(at).expect("a free port"));
            host.set_nonblocking(true).expect("fcntl");
            let mut world = known(&Setup::default());
            let sent = packet_to(Protocol::Udp, server(family), 1420);
            // Before anybody knows how narrow the path is.
            if family == Family::V4 {
                world.send(marked(sent.clone(), 64, 0, true));
                world.quiet(TURNS);
                assert_eq!(crate::datagrams::awaited(&host).0.len(), 1420, "cut on its way");
                host.set_nonblocking(true).expect("fcntl");
            }
            for by in [near(family), family.gateway()] {
                world.send(sent.clone());
                let error = the_error(&mut world);
                assert_eq!((error.kind, error.code), of2(family, (3, 4), (2, 0)), "{family:?}");
                assert_eq!((error.mtu, error.source), (1400, by), "{family:?}");
                assert_quoted(Protocol::Udp, &error, &sent);
            }
            assert_eq!(crate::datagrams::received(&host), None);
            // The guest cuts it now.
            let ends = (guest_at(family), at);
            let message = crate::fragments::message(ends.0, ends.1, &[7; 1420]);
            send_all(&mut world, crate::fragments::cut(ends, 1, &message, 1344));
            assert_eq!(crate::datagrams::awaited(&host).0, [7; 1420]);
        }
    });
}

#[test]
fn echo_and_tcp_in_fragments_reach_the_host_whole() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { mtu: 65520, ..Setup::default() });
            let (from, to) = (family.guest(), family.host());
            let payload: Vec<u8> = (0..3000).map(|byte| byte as u8).collect();
            let request = packet::echo(from, to, 0x1234, 7, &payload);
            let l4 = packet::l4_offset(from);
            let protocol = number(Protocol::Echo, family);
            send_all(&mut world, cut_l4((from, to), protocol, 1, &request[l4..], 1448));
            let reply = one_message(&mut world, family);
            assert_eq!(reply[4..8], [0x12, 0x34, 0, 7]);
            assert!(reply[8..] == payload);

            let listener = std::net::TcpListener::bind(family.host_at(8000)).expect("a free port");
            let (from_at, to_at) = (guest_at(family), family.host_at(8000));
            let segment = |flags, numbers, payload: &[u8]| {
                packet::tcp(from_at, to_at, flags, numbers, payload)[l4..].to_vec()
            };
            let syn = segment(SYN, (1000, 0), &[]);
            send_all(&mut world, cut_l4((from, to), TCP, 2, &syn, 16));
            let answer = one_message(&mut world, family);
            assert_eq!(answer[13], 0x12, "SYN and ACK");
            let next = u32::from_be_bytes(answer[4..8].try_into().expect("four")) + 1;
            let data = segment(packet::ACK, (1001, next), &payload);
            send_all(&mut world, cut_l4((from, to), TCP, 3, &data, 1448));
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut got = vec![0; 3000];
            stream.read_exact(&mut got).expect("all of it");
            assert!(got == payload);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn rfc6980_5_neighbour_discovery_in_fragments_is_ignored() {
    isolated(|| {
        let family = Family::V6;
        let mut world = known(&Setup::default());
        let (from, to) = (family.guest(), ip("ff02::1"));
        let solicitation = packet::solicitation(from, family.gateway());
        send_all(&mut world, cut_l4((from, to), 58, 1, &solicitation[54..], 16));
        let mut atomic = vec![58, 0, 0, 0, 0, 0, 0, 9];
        atomic.extend(&solicitation[54..]);
        send_all(&mut world, [packet::ip(from, to, 44, 255, &atomic)]);
        assert_eq!(world.drops(DropReason::Fragment), 2);
        assert_eq!(world.received().len(), 0);
    });
}

#[test]
fn answers_larger_than_the_link_go_in_fragments() {
    isolated(|| {
        for (family, caps, mtu) in FAMILIES.into_iter().flat_map(|f| {
            [(f, PLAIN, 1500), (f, OFFLOADS, 1500), (f, OFFLOADS, 1280), (f, PLAIN, 0)]
        }) {
            let setup = Setup { caps, mtu, ..Setup::default() };
            let mtu = if mtu == 0 { 1500 } else { usize::from(mtu) };
            for port in [MemPort::new(caps, 4096), MemPort::new(caps, 1526).plain()] {
                let mut world = World::on(port, &setup);
                let host = bound(family.host_at(9000));
                world.send(packet::udp(guest_at(family), family.host_at(9000), b"?"));
                world.settle(TURNS);
                let (_, from) = crate::datagrams::awaited(&host);
                for size in [4000, mtu - 47, mtu - 48, 60_000, 5] {
                    let data: Vec<u8> = (0..size).map(|byte| (byte * 7) as u8).collect();
                    host.send_to(&data, from).expect("sent");
                    let got = all_messages(&mut world, family, mtu);
                    assert_eq!(got.len(), 1);
                    assert!(got[0][8..] == data, "{family:?} {size} of {}", got[0].len());
                }
                // `ping -s 3000`: what the guest cuts comes back in fragments.
                let (guest, to) = (family.guest(), family.host());
                for size in [3000, 100] {
                    let payload: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
                    let request = packet::echo(guest, to, 0x1234, 7, &payload);
                    let l4 = &request[packet::l4_offset(guest)..];
                    let protocol = number(Protocol::Echo, family);
                    send_all(&mut world, cut_l4((guest, to), protocol, 1, l4, mtu / 8 * 8 - 48));
                    let got = all_messages(&mut world, family, mtu);
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0][4..8], [0x12, 0x34, 0, 7]);
                    assert!(got[0][8..] == payload, "{family:?} {size} of {}", got[0].len());
                }
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}

/// The L4 parts of what the guest gets, put together, with right checksums.
fn all_messages(world: &mut World, family: Family, mtu: usize) -> Vec<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let mut frames: Vec<(Vec<u8>, FrameMeta)> = Vec::new();
    loop {
        let busy = world.turn(Duration::from_millis(2));
        frames.extend(std::iter::from_fn(|| world.port.recv()));
        if !busy && !frames.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "nothing for the guest");
    }
    let l4 = packet::l4_offset(family.guest());
    let frames = whole(frames, mtu).into_iter().map(|(frame, meta)| {
        let frame = crate::guest::completed(frame, meta);
        let len = match family {
            Family::V4 => usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20,
            Family::V6 => usize::from(u16::from_be_bytes([frame[18], frame[19]])),
        };
        let protocol = if family == Family::V4 { frame[23] } else { frame[20] };
        let message = frame[l4..l4 + len].to_vec();
        let from = match family {
            Family::V4 => IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).expect("four")),
            Family::V6 => IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).expect("sixteen")),
        };
        let sum = crate::fragments::sum(protocol, from, family.guest(), &message);
        assert_eq!(sum, 0xffff, "checksum");
        message
    });
    frames.collect()
}

#[test]
fn without_echo_sockets_the_host_answers_for_itself_and_forbids_the_rest() {
    isolated(|| {
        // A namespace in which nobody may have any, as each is at first.
        let host = Netns::new(
            "ip link set lo up
            ip addr add 198.51.100.1/24 dev lo; ip addr add 2001:db8:1::1/64 dev lo nodad
            ip route add 203.0.113.0/24 dev lo; ip -6 route add 2001:db8:3::/48 dev lo
            until ip -6 route show table local | grep '^local 2001:db8:1::1 ' > /dev/null; do sleep 0.01; done",
        );
        host.run(|| FAMILIES.map(answers_for_itself));
    });
}

fn answers_for_itself(family: Family) {
    let mut world = known(&Setup::default());
    for (to, size) in [(family.gateway(), 0), (family.host(), 56), (family.gateway(), 1400)] {
        let ping = packet_to(Protocol::Echo, to, size);
        world.send(ping.clone());
        let got = all_messages(&mut world, family, 1500);
        assert_eq!(got[0][..2], of2(family, [0, 0], [129, 0]));
        assert!(got[0][4..] == ping[packet::l4_offset(to) + 4..]);
    }
    let request = packet::echo(family.guest(), family.host(), 1, 2, &[5; 3000]);
    let l4 = &request[packet::l4_offset(family.guest())..];
    let ends = (family.guest(), family.host());
    let pieces = cut_l4(ends, number(Protocol::Echo, family), 1, l4, 1448);
    send_all(&mut world, pieces);
    assert_eq!(all_messages(&mut world, family, 1500)[0][8..], [5; 3000]);
    assert_eq!(world.all_drops(), 0);
    let sent = packet_to(Protocol::Echo, server(family), 56);
    world.send(sent.clone());
    let error = the_error(&mut world);
    assert_eq!((error.kind, error.code), of2(family, (3, 13), (1, 1)));
    assert_eq!(error.quoted, sent[14..]);
    assert_eq!(world.drops(DropReason::Prohibited), 1);
}
