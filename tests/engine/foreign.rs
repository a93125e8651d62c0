//! Datagrams of strangers: what anybody sends to a port of the guest, what reaches a flow's socket before it is
//! connected to its peer, and who else answers an echo request. None of it is ever the peer's to the guest.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use passt::flow::fwd::{Proto, Rule};
use passt::sys::process;
use passt::wire::DropReason;
use passt_support::flood::Flood;

use crate::datagrams::{awaited, bound, guest_at, known};
use crate::namespace::{isolated, run};
use crate::packet;
use crate::world::{FAMILIES, Family, OFFLOADS, PLAIN, Setup, World, forward};

/// The peer, and somebody else.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 60);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

/// Flows that the guest opens.
const FLOWS: u16 = 1400;
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first port of the peer.
const FIRST: u16 = 10_000;

fn addresses() {
    for address in [PEER, STRANGER] {
        run(&format!("ip addr add {address}/32 dev lo"));
    }
    process::raise_descriptor_limit();
}

/// Source and payload of the UDP datagrams over IPv4 among `frames`, which are no longer than one frame
/// each.
fn datagrams(frames: &[Vec<u8>]) -> Vec<(SocketAddr, Vec<u8>)> {
    let udp = frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 17);
    let parsed = udp.map(|frame| {
        let source: [u8; 4] = frame[26..30].try_into().expect("four bytes");
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let len = usize::from(number(38));
        (SocketAddr::new(source.into(), number(34)), frame[42..34 + len].to_vec())
    });
    parsed.collect()
}

/// What a socket sends to say who it is.
fn signature(socket: &UdpSocket) -> Vec<u8> {
    socket.local_addr().expect("an address").to_string().into_bytes()
}

/// Turns in which a datagram is done with, however many others come meanwhile.
fn some_turns(world: &mut World) {
    for _ in 0..4 {
        world.turn(Duration::ZERO);
    }
}

fn assert_genuine(frames: &[Vec<u8>]) -> usize {
    let got = datagrams(frames);
    for (source, payload) in &got {
        let text = String::from_utf8_lossy(payload);
        // A frame may be several datagrams.
        let name = source.to_string();
        let repeated = name.repeat(text.len() / name.len());
        assert_eq!(text, repeated, "the sender and whom the guest takes for it");
    }
    got.len()
}

#[test]
fn a_flood_of_the_source_port_is_never_taken_for_the_peer() {
    isolated(|| {
        addresses();
        for caps in [PLAIN, OFFLOADS] {
            let mut world = known(&Setup { caps, max_descriptors: 16384, ..Setup::default() });
            let stranger = bound((STRANGER, 0).into());
            let flood = Flood::new(move || {
                let _ = stranger.send_to(&signature(&stranger), (PEER, 5000));
                // All share the queue of the port, and it is not to overflow.
                std::thread::sleep(Duration::from_micros(50));
            });
            let (mut frames, mut peers) = (Vec::new(), Vec::new());
            for port in FIRST..FIRST + FLOWS {
                let peer = bound((PEER, port).into());
                world.send(packet::udp(guest_at(Family::V4), (PEER, port).into(), b"?"));
                some_turns(&mut world);
                peer.send_to(&signature(&peer), (PEER, 5000)).expect("sent");
                some_turns(&mut world);
                frames.extend(world.received());
                peers.push(peer);
            }
            drop(flood);
            world.quiet(1000);
            frames.extend(world.received());
            let all = assert_genuine(&frames);
            let of_peer = datagrams(&frames).iter().filter(|(from, _)| from.ip() == PEER).count();
            assert_eq!(of_peer, usize::from(FLOWS), "answers of the peer");
            assert!(all > of_peer, "the flood has met no socket");
            let dropped: Vec<_> = world.engine.drops().filter(|(_, count)| *count > 0).collect();
            assert_eq!(dropped, []);
        }
    });
}

#[test]
fn a_flood_of_the_source_port_reaches_no_flow_of_two() {
    isolated(|| {
        addresses();
        for caps in [PLAIN, OFFLOADS] {
            let mut world = known(&Setup { caps, max_descriptors: 16384, ..Setup::default() });
            let stranger = bound((STRANGER, 0).into());
            let flood = Flood::new(move || {
                let _ = stranger.send_to(&signature(&stranger), (PEER, 5000));
            });
            let gateway = Family::V4.gateway();
            let mut frames = Vec::new();
            // More than that only until the flood has met a socket: it needs a processor for that.
            for port in FIRST..FIRST + 4 * FLOWS {
                if port >= FIRST + FLOWS && world.drops(DropReason::ForeignDatagram) > 0 {
                    break;
                }
                world.send(packet::udp(guest_at(Family::V4), (gateway, port).into(), b"?"));
                some_turns(&mut world);
                frames.extend(world.received());
            }
            drop(flood);
            world.quiet(1000);
            frames.extend(world.received());
            assert_eq!(datagrams(&frames), []);
            assert!(world.drops(DropReason::ForeignDatagram) > 0, "the flood has met no socket");
            // Nobody listens, and the guest is told so only so often.
            let known = [DropReason::ForeignDatagram, DropReason::ErrorLimited];
            let known: u64 = known.into_iter().map(|reason| world.drops(reason)).sum();
            assert_eq!(world.all_drops(), known);
        }
    });
}

/// Turns until `enough`, and then until nothing is left to do; what the guest has got.
fn collect(world: &mut World, enough: impl Fn(&World, &[Vec<u8>]) -> bool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let end = Instant::now() + PATIENCE;
    while !enough(world, &frames) {
        assert!(Instant::now() < end, "{} frames and no more", frames.len());
        world.turn(Duration::from_millis(2));
        frames.extend(world.received());
    }
    frames
}

#[test]
fn who_comes_while_a_flow_is_opened_for_another_is_not_taken_for_it_and_gets_its_own() {
    isolated(|| {
        addresses();
        let rules = vec![forward(Proto::Udp, Family::V4, 5000)];
        let to = Family::V4.host_at(5000);
        // A round in which something else has the processor for long shows nothing.
        let mut lost = Vec::new();
        while lost.len() < 5 {
            match begin_together(&rules, to) {
                // A few may have joined a queue late.
                few if few <= 60 => return,
                many => lost.push(many),
            }
        }
        panic!("{lost:?} of 3000 were taken for strangers");
    });
}

/// Has 3,000 begin within some 400 ms, of which hundreds meet the socket of another one; how many are lost.
fn begin_together(rules: &[Rule], to: SocketAddr) -> u64 {
    let rules = rules.to_vec();
    let mut world = known(&Setup { rules, max_descriptors: 18000, ..Setup::default() });
    // Each datagram comes from a port of its own, and several at a time.
    let floods = [PEER, STRANGER].map(|address| {
        Flood::new(move || {
            let sockets: Vec<_> = (0..8).map(|_| bound((address, 0).into())).collect();
            for socket in &sockets {
                let _ = socket.send_to(&signature(socket), to);
            }
            std::thread::sleep(Duration::from_micros(2000));
        })
    });
    let frames = collect(&mut world, |world, _| world.engine.flow_count() >= 3000);
    drop(floods);
    assert!(assert_genuine(&frames) >= 2900, "{} frames", frames.len());
    world.drops(DropReason::ForeignDatagram)
}

#[test]
fn what_the_peer_sends_while_its_flow_is_opened_arrives_in_order() {
    isolated(|| {
        addresses();
        let rules = vec![forward(Proto::Udp, Family::V4, 5000)];
        let to = Family::V4.host_at(5000);
        for caps in [PLAIN, OFFLOADS] {
            let setup = Setup { rules: rules.clone(), caps, ..Setup::default() };
            let mut world = known(&setup);
            for round in 0..200 {
                let peer = bound((PEER, 0).into());
                let sender = peer.try_clone().expect("dup");
                let burst = std::thread::spawn(move || {
                    for number in 0..32u8 {
                        sender.send_to(&[number], to).expect("sent");
                    }
                });
                // A frame may be several datagrams.
                let numbers = |frames: &[Vec<u8>]| -> Vec<u8> {
                    datagrams(frames).into_iter().flat_map(|(_, data)| data).collect()
                };
                let frames = collect(&mut world, |_, frames| numbers(frames).len() >= 32);
                burst.join().expect("the burst was sent");
                assert_eq!(numbers(&frames), (0..32).collect::<Vec<u8>>(), "round {round}");
            }
            assert_eq!(world.all_drops(), 0);
        }
    });
}

#[test]
fn an_echo_reply_of_another_host_is_no_reply() {
    isolated(|| {
        addresses();
        // The host does not answer by itself: what comes is what is sent here.
        let quiet = "echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all";
        assert!(Command::new("sh").args(["-c", quiet]).status().expect("sh(1)").success());
        let mut world = known(&Setup::default());
        let raw = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::RAW,
            Some(rustix::net::ipproto::ICMP),
        );
        let raw = UdpSocket::from(raw.expect("a raw socket"));
        raw.set_read_timeout(Some(Duration::from_secs(5))).expect("setsockopt");
        world.send(packet::echo(Family::V4.guest(), PEER.into(), 0x1234, 7, b"who?"));
        world.settle(64);
        let mut request = [0; 64];
        let len = raw.recv(&mut request).expect("the request");
        let mut reply = request[20..len].to_vec();
        // The type of a request becomes that of a reply, and the checksum follows.
        reply[0] = 0;
        let sum = u16::from_be_bytes([reply[2], reply[3]]);
        let sum = if sum >= 0xf800 { sum - 0xf7ff } else { sum + 0x800 };
        reply[2..4].copy_from_slice(&sum.to_be_bytes());
        for (address, arrives) in [(STRANGER, false), (PEER, true)] {
            let answers: IpAddr = address.into();
            let from = rustix::net::SocketAddrAny::from(SocketAddr::new(answers, 0));
            let one = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::RAW,
                Some(rustix::net::ipproto::ICMP),
            );
            let one = one.expect("a raw socket");
            rustix::net::bind(&one, &from).expect("bind");
            let flags = rustix::net::SendFlags::empty();
            let to = SocketAddr::new(PEER.into(), 0);
            rustix::net::sendto(&one, &reply, flags, &to).expect("sent");
            world.quiet(64);
            assert_eq!(world.received().len(), usize::from(arrives), "a reply of {address}");
        }
        assert_eq!(world.drops(DropReason::ForeignDatagram), 1);
    });
}

/// The one's-complement sum of RFC 1071 over `bytes`, complemented.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | two.get(1).map_or(0, |&b| b.into()));
    let sum = words.sum::<u32>();
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + sum) as u16
}

/// Tells the host that a port was unreachable at which something came that it would have sent from `from` to `to`.
fn forge_unreachable(from: SocketAddr, to: SocketAddr) {
    let quoted = &packet::udp(from, to, b"made up")[14..];
    let v4 = from.is_ipv4();
    let kind: [u8; 2] = if v4 { [3, 3] } else { [1, 4] };
    let mut error = [&kind[..], &[0; 6], quoted].concat();
    let (family, protocol) = match v4 {
        true => (rustix::net::AddressFamily::INET, rustix::net::ipproto::ICMP),
        // The kernel writes the checksum here.
        false => (rustix::net::AddressFamily::INET6, rustix::net::ipproto::ICMPV6),
    };
    let sum = checksum(&error);
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    let raw = rustix::net::socket(family, rustix::net::SocketType::RAW, Some(protocol));
    let to = SocketAddr::new(from.ip(), 0);
    let sent = rustix::net::sendto(
        raw.expect("a raw socket"),
        &error,
        rustix::net::SendFlags::empty(),
        &to,
    );
    sent.expect("sent");
}

#[test]
fn an_error_about_somebody_to_whom_nothing_was_sent_is_not_passed_on() {
    isolated(|| {
        for family in FAMILIES {
            let mut world = known(&Setup::default());
            let peer = bound(family.host_at(9000));
            let own = SocketAddr::new(family.guest(), 4000);
            let say = |world: &mut World, to: SocketAddr| {
                world.send(packet::udp(own, to, b"?"));
                world.settle(64);
            };
            say(&mut world, family.host_at(9000));
            let (_, from) = awaited(&peer);
            let unknown =
                SocketAddr::new(family.of(Ipv4Addr::new(198, 18, 9, 9), "2001:db8:9::9"), 53);
            for (to, arrives) in
                [(unknown, false), (family.host_at(9001), false), (family.host_at(9000), true)]
            {
                forge_unreachable(from, to);
                world.quiet(64);
                assert_eq!(world.received().len(), usize::from(arrives), "{to}");
            }
            assert_eq!(world.drops(DropReason::ForeignDatagram), 2);
            // Nobody knows what is on its way to several.
            let other = bound(family.host_at(9002));
            say(&mut world, family.host_at(9002));
            awaited(&other);
            forge_unreachable(from, family.host_at(9000));
            world.quiet(64);
            assert_eq!(world.received().len(), 1);
        }
    });
}
