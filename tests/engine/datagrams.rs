//! UDP and echo through the engine, the errors that come back, and how long flows live.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use passt::engine::UdpTimeouts;
use passt::flow::fwd::Proto;
use passt_frame::{FrameMeta, Gso, GsoKind};

use crate::guest::{Guest, completed, until};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward, mapping};

/// The guest's port.
const PORT: u16 = 5000;
/// Turns in which a few datagrams are done with.
const TURNS: usize = 64;

/// A socket that does not wait.
pub fn bound(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at).expect("a free port");
    socket.set_nonblocking(true).expect("fcntl");
    socket
}

/// The datagram that has come, if one has.
pub fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut bytes = vec![0; 65536];
    match socket.recv_from(&mut bytes) {
        Ok((len, from)) => {
            bytes.truncate(len);
            Some((bytes, from))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("recv: {error}"),
    }
}

/// The guest's end of a flow.
pub fn guest_at(family: Family) -> SocketAddr {
    SocketAddr::new(family.guest(), PORT)
}

/// A world in which the guest has made itself known.
pub fn known(setup: &Setup) -> World {
    let mut world = World::new(setup);
    world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
    world.settle(TURNS);
    world.received();
    world
}

/// The datagram that comes next.
pub fn awaited(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    socket.set_nonblocking(false).expect("fcntl");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
    let mut bytes = vec![0; 65536];
    let (len, from) = socket.recv_from(&mut bytes).expect("a datagram");
    bytes.truncate(len);
    (bytes, from)
}

/// The L4 part of the one frame that the guest has got, checksums completed.
pub fn one_message(world: &mut World, family: Family) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..1000 {
        let busy = world.turn(Duration::from_millis(2));
        frames.extend(std::iter::from_fn(|| world.port.recv()));
        if !busy && !frames.is_empty() {
            break;
        }
    }
    assert_eq!(frames.len(), 1, "frames for the guest");
    let (frame, meta) = frames.remove(0);
    let frame = completed(frame, meta);
    let at = packet::l4_offset(family.guest());
    let len = match family {
        Family::V4 => usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20,
        Family::V6 => usize::from(u16::from_be_bytes([frame[18], frame[19]])),
    };
    frame[at..at + len].to_vec()
}

#[test]
fn datagrams_of_every_size_arrive_whole_both_ways() {
    isolated(|| {
        for (family, caps) in FAMILIES.into_iter().flat_map(|f| [(f, PLAIN), (f, OFFLOADS)]) {
            let setup = Setup { caps, mtu: 65535, ..Setup::default() };
            let mut world = World::new(&setup);
            let mut guest = Guest::new(&mut world, 65535);
            let handle = guest.udp(PORT);
            let host = bound(family.host_at(9000));
            let largest = if family == Family::V4 { 65507 } else { 65487 };
            for size in [0, 1, 2, 1472, 1473, 9000, largest] {
                let data: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
                let to = (smoltcp::wire::IpAddress::from(family.host()), 9000);
                guest.udp_mut(handle).send_slice(&data, to).expect("room");
                let mut at_host = None;
                until(&mut world, &mut guest, "datagram to the host", |_, _| {
                    at_host = received(&host);
                    at_host.is_some()
                });
                let (got, from) = at_host.expect("a datagram");
                assert!(got == data, "{size} bytes became {} others", got.len());
                host.send_to(&data, from).expect("sent");
                let mut back = vec![0; 65536];
                until(&mut world, &mut guest, "datagram to the guest", |_, guest| {
                    let Ok((len, meta)) = guest.udp_mut(handle).recv_slice(&mut back) else {
                        return false;
                    };
                    assert_eq!(IpAddr::from(meta.endpoint.addr), family.host());
                    assert!(back[..len] == data, "{size} bytes became {len} others");
                    true
                });
            }
            assert_eq!(world.engine.flow_count(), 1);
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn what_is_longer_than_any_link_takes_may_be_cut_behind_the_guest() {
    isolated(|| {
        for caps in [PLAIN, OFFLOADS] {
            let mut world = known(&Setup { caps, mtu: 65535, ..Setup::default() });
            let host = bound(Family::V4.host_at(9000));
            world.send(packet::udp(guest_at(Family::V4), host.local_addr().expect("bound"), b"?"));
            world.settle(TURNS);
            let (_, from) = awaited(&host);
            let mut numbers = Vec::new();
            for size in [1472, 1473, 3000, 9000, 9001] {
                host.send_to(&vec![7; size], from).expect("sent");
                let frame = world.frames(1).remove(0);
                let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                // "Don't fragment" (RFC 791), by which a number means nothing (RFC 6864).
                let may_be_cut = size > 1472;
                assert_eq!(word(20), if may_be_cut { 0 } else { 0x4000 }, "{size}");
                numbers.extend(Some(word(18)).filter(|_| may_be_cut));
            }
            // A ping, too.
            world.send(packet::echo(Family::V4.guest(), Family::V4.host(), 1, 1, &[7; 2000]));
            let frame = world.frames(1).remove(0);
            assert_eq!(frame[20..22], [0, 0]);
            numbers.push(u16::from_be_bytes([frame[18], frame[19]]));
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "each has a number of its own");
        }
    });
}

#[test]
fn the_guest_s_source_port_is_kept_and_each_flow_has_its_own() {
    isolated(|| {
        let mut world = known(&Setup::default());
        let host = bound(Family::V4.host_at(9000));
        for port in 20000..20500 {
            let from = SocketAddr::new(Family::V4.guest(), port);
            world.send(packet::udp(from, Family::V4.host_at(9000), &port.to_be_bytes()));
            world.settle(TURNS);
            let (data, source) = awaited(&host);
            assert_eq!((data, source.port()), (port.to_be_bytes().to_vec(), port));
            host.send_to(&port.to_be_bytes(), source).expect("sent");
        }
        assert_eq!(world.engine.flow_count(), 500);
        for frame in world.frames(500) {
            assert_eq!(frame[36..38], frame[42..44], "payload and destination port agree");
        }
    });
}

#[test]
fn a_uso_frame_becomes_datagrams() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup { caps: OFFLOADS, ..Setup::default() });
            let host = bound(family.host_at(9000));
            let data: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
            let frame = packet::udp(guest_at(family), family.host_at(9000), &data);
            let header_len = packet::l4_offset(family.guest()) as u16 + 8;
            let gso = Some(Gso { kind: GsoKind::Udp, size: 1000, header_len });
            world.port.send(frame, FrameMeta { gso, ..FrameMeta::default() });
            world.settle(TURNS);
            // A loaded host takes its time to deliver them.
            host.set_nonblocking(false).expect("fcntl");
            host.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("setsockopt");
            let got: Vec<_> =
                (0..3).filter_map(|_| received(&host)).map(|(data, _)| data).collect();
            assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
            assert!(got.concat() == data);
        }
    });
}

#[test]
fn a_datagram_to_a_forwarded_port_reaches_the_guest_and_its_answer_returns() {
    isolated(|| {
        for family in FAMILIES {
            let rules = vec![forward(Proto::Udp, family, PORT)];
            let mut world = known(&Setup { rules, ..Setup::default() });
            let host = bound(family.host_at(9001));
            for text in [b"first", b"again"] {
                host.send_to(text, family.host_at(PORT)).expect("sent");
                let message = one_message(&mut world, family);
                assert_eq!(message[..4], [9001u16.to_be_bytes(), PORT.to_be_bytes()].concat());
                assert_eq!(message[8..], *text);
            }
            world.send(packet::udp(guest_at(family), family.host_at(9001), b"answer"));
            world.settle(TURNS);
            assert_eq!(awaited(&host), (b"answer".to_vec(), family.host_at(PORT)));
            assert_eq!(world.engine.flow_count(), 1, "both directions are one flow");
        }
    });
}

#[test]
fn rfc792_port_unreachable_quotes_what_the_guest_sent() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let sent = packet::udp(guest_at(family), family.host_at(9), b"twelve bytes");
            world.send(sent.clone());
            let message = one_message(&mut world, family);
            let expected: [u8; 2] = if family == Family::V4 { [3, 3] } else { [1, 4] };
            assert_eq!(message[..2], expected, "{family:?}");
            let quote = &message[8..];
            let (at, header) = (packet::l4_offset(family.guest()) - 14, &sent[14..]);
            let addresses = if family == Family::V4 { 12..20 } else { 8..40 };
            assert_eq!(quote[addresses.clone()], header[addresses]);
            assert_eq!(quote[at..at + 4], header[at..at + 4], "ports");
            assert_eq!(quote[at + 4..at + 6], header[at + 4..at + 6], "length");
            assert_eq!(quote[at + 8..], header[at + 8..], "payload");
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn a_guest_that_sends_to_its_own_port_of_this_host_does_not_hear_itself() {
    isolated(|| {
        for family in FAMILIES {
            // Addresses that stand for the host, and one of its own, with a socket for anybody.
            for to in [family.gateway(), family.host()] {
                let mut world = known(&Setup::default());
                let to = SocketAddr::new(to, PORT);
                for _ in 0..2 {
                    world.send(packet::udp(guest_at(family), to, b"hello"));
                    let message = one_message(&mut world, family);
                    let expected = if family == Family::V4 { [3, 3] } else { [1, 4] };
                    assert_eq!(message[..2], expected, "to {to}: port unreachable");
                    world.quiet(TURNS);
                    assert_eq!(world.received().len(), 0);
                }
                // Who has the port there gets it, from another one.
                drop(world);
                let mut world = known(&Setup::default());
                let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
                let at = if to.ip() == family.host() { to.ip() } else { loopback.parse().unwrap() };
                let service = bound(SocketAddr::new(at, PORT));
                world.send(packet::udp(guest_at(family), to, b"hello"));
                world.settle(TURNS);
                let (data, from) = awaited(&service);
                assert_eq!(data, b"hello");
                assert_ne!(from.port(), PORT);
                service.send_to(b"answer", from).expect("sent");
                let message = one_message(&mut world, family);
                assert_eq!(message[..4], [PORT.to_be_bytes(), PORT.to_be_bytes()].concat());
                assert_eq!(message[8..], *b"answer");
            }
        }
    });
}

#[test]
fn a_guest_reaches_its_own_port_at_another_address_of_the_host_than_that_it_leaves_from() {
    isolated(|| {
        run("ip address add 192.0.2.66/32 dev lo; ip address add 2001:db8::66/128 dev lo nodad");
        for family in FAMILIES {
            let mut map = mapping();
            match family.host() {
                IpAddr::V4(v4) => map.v4.outbound = Some(v4),
                IpAddr::V6(v6) => map.v6.outbound = Some(v6),
            }
            let other = if family == Family::V4 { "192.0.2.66" } else { "2001:db8::66" };
            let service = bound(SocketAddr::new(other.parse().unwrap(), PORT));
            let mut world = known(&Setup { map, ..Setup::default() });
            let to = service.local_addr().expect("bound");
            for _ in 0..2 {
                world.send(packet::udp(guest_at(family), to, b"hello"));
                world.settle(TURNS);
                assert_eq!(awaited(&service), (b"hello".to_vec(), family.host_at(PORT)));
            }
        }
    });
}

#[test]
fn errors_that_come_together_are_relayed_all() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            // Each longer than the one before: no two are sent together.
            for len in 1..=50 {
                world.send(packet::udp(guest_at(family), family.host_at(9), &vec![0; len]));
            }
            let errors = world.frames(50);
            let at = packet::l4_offset(family.guest());
            let kind: [u8; 2] = if family == Family::V4 { [3, 3] } else { [1, 4] };
            assert!(errors.iter().all(|error| error[at..at + 2] == kind));
            assert_eq!(world.all_drops(), 0);
        }
    });
}

/// How many UDP datagrams over IPv4 a raw socket has got, whoever they are for.
fn seen(raw: &UdpSocket) -> usize {
    std::iter::from_fn(|| received(raw)).count()
}

#[test]
fn the_pieces_of_a_uso_frame_are_sent_once() {
    isolated(|| {
        use rustix::net::{AddressFamily, SocketType, ipproto, socket};
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP));
        let raw = UdpSocket::from(raw.expect("a raw socket"));
        raw.set_nonblocking(true).expect("fcntl");
        // The kernel does not cut what does not fit the MTU, and nobody listens: an error comes back for
        // each piece.
        let mut smaller = std::process::Command::new("ip");
        smaller.args(["link", "set", "lo", "mtu", "1500"]);
        assert!(smaller.status().expect("ip(8)").success());
        let mut world = known(&Setup { caps: OFFLOADS, ..Setup::default() });
        let frame = packet::udp(guest_at(Family::V4), Family::V4.host_at(9), &[7; 19_000]);
        let gso = Some(Gso { kind: GsoKind::Udp, size: 2000, header_len: 28 });
        world.port.send(frame, FrameMeta { gso, ..FrameMeta::default() });
        world.quiet(64);
        assert_eq!(seen(&raw), 10);
        assert_eq!(world.all_drops(), 0);
    });
}

/// Whether a message has its checksum. No kernel completes one for a program that sees it, as it does for TCP and UDP.
fn is_summed(family: Family, reply: &[u8]) -> bool {
    use etherparse::{Icmpv4Header, Icmpv6Header};
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (family.host(), family.guest()) {
        let (header, rest) = Icmpv6Header::from_slice(reply).expect("a message");
        let sum = header.icmp_type.calc_checksum(from.octets(), to.octets(), rest);
        return header.checksum == sum.expect("fits");
    }
    let (header, rest) = Icmpv4Header::from_slice(reply).expect("a message");
    header.checksum == header.icmp_type.calc_checksum(rest)
}

#[test]
fn an_echo_reply_has_the_identifier_of_its_request() {
    isolated(|| {
        for family in FAMILIES {
            for caps in [PLAIN, OFFLOADS] {
                let mut world = known(&Setup { caps, mtu: 65520, ..Setup::default() });
                for (id, size) in [(0x1234u16, 56usize), (0, 0), (0xffff, 1400), (0x1234, 9000)] {
                    let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
                    let ping = packet::echo(family.guest(), family.host(), id, 3, &data);
                    world.send(ping);
                    let reply = one_message(&mut world, family);
                    assert_eq!(reply[..2], if family == Family::V4 { [0, 0] } else { [129, 0] });
                    assert_eq!(reply[4..8], [id.to_be_bytes(), [0, 3]].concat());
                    assert!(reply[8..] == data, "{} bytes for {size}", reply.len() - 8);
                    assert!(is_summed(family, &reply), "{size} bytes, {caps:?}");
                }
                assert_eq!(world.engine.flow_count(), 3, "one flow for each identifier");
                assert_eq!(world.all_drops(), 0);
            }
        }
    });
}

/// Seconds of silence after which the one flow of `world` is gone.
fn lifetime(world: &mut World) -> u64 {
    assert_eq!(world.engine.flow_count(), 1);
    for seconds in 0..600 {
        world.settle(TURNS);
        if world.engine.flow_count() == 0 {
            return seconds;
        }
        world.skip(Duration::from_secs(1));
    }
    panic!("the flow lives for ever");
}

#[test]
fn flows_end_after_their_silence() {
    isolated(|| {
        let host = bound(Family::V4.host_at(9000));
        let question = || packet::udp(guest_at(Family::V4), Family::V4.host_at(9000), b"?");
        let ask = |world: &mut World| {
            world.send(question());
            world.settle(TURNS);
            awaited(&host).1
        };
        let mut one_way = known(&Setup::default());
        ask(&mut one_way);
        assert!((30..=31).contains(&lifetime(&mut one_way)));
        let mut answered = known(&Setup::default());
        host.send_to(b"!", ask(&mut answered)).expect("sent");
        answered.frames(1);
        assert!((30..=31).contains(&lifetime(&mut answered)));
        let mut stream = known(&Setup::default());
        host.send_to(b"!", ask(&mut stream)).expect("sent");
        stream.frames(1);
        ask(&mut stream);
        assert!((120..=121).contains(&lifetime(&mut stream)));
        let mut ping = known(&Setup::default());
        ping.send(packet::echo(Family::V4.guest(), Family::V4.host(), 1, 1, b""));
        ping.frames(1);
        assert!((60..=61).contains(&lifetime(&mut ping)));
    });
}

#[test]
fn flows_end_after_the_silence_that_the_host_allows() {
    isolated(|| {
        let udp = UdpTimeouts { once: Duration::from_secs(5), stream: Duration::from_secs(600) };
        for family in FAMILIES {
            let mut world = known(&Setup { udp, ..Setup::default() });
            let peer = bound(family.host_at(0));
            let place = peer.local_addr().expect("bound");
            let send = |world: &mut World| {
                world.send(packet::udp(guest_at(family), place, b"?"));
                world.settle(TURNS);
            };
            send(&mut world);
            assert_eq!(world.engine.flow_count(), 1);
            world.skip(Duration::from_secs(6));
            world.settle(TURNS);
            assert_eq!(world.engine.flow_count(), 0, "nobody has answered");
            for _ in 0..2 {
                send(&mut world);
                let (_, from) = awaited(&peer);
                peer.send_to(b"!", from).expect("sent");
                world.settle(TURNS);
            }
            for (wait, left) in [(500, 1), (101, 0)] {
                world.skip(Duration::from_secs(wait));
                world.settle(TURNS);
                assert_eq!(world.engine.flow_count(), left, "both have talked");
            }
        }
    });
}
