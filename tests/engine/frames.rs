//! Frames that no honest guest sends: cut short, with lengths that lie, from and to addresses that
//! mean something else, and random ones. Each is dropped under a name; none makes a flow.

use std::net::{IpAddr, SocketAddr};

use passt::wire::DropReason;
use passt_frame::{FrameMeta, Gso, GsoKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::namespace::isolated;
use crate::packet::{self, ACK, SYN};
use crate::world::{FAMILIES, Family, Setup, World};

/// Turns after which one frame must have had all its effects.
const TURNS: usize = 64;

/// Random frames, and mutated ones.
const CASES: u32 = 4000;

fn guest_at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.guest(), port)
}

/// One valid frame of each protocol and family.
fn valid() -> Vec<(String, Vec<u8>)> {
    let mut frames = vec![
        ("ARP".to_owned(), packet::arp([192, 0, 2, 2], [192, 0, 2, 1])),
        ("DHCP".to_owned(), packet::discover()),
        ("DHCPv6".to_owned(), packet::solicit()),
        (
            "NS".to_owned(),
            packet::solicitation(Family::V6.guest(), "2001:db8::1".parse().expect("an address")),
        ),
    ];
    for family in FAMILIES {
        let (from, to) = (guest_at(family, 40000), family.host_at(9));
        let named = |name: &str, frame| (format!("{name} {family:?}"), frame);
        frames.extend([
            named("SYN", packet::tcp(from, to, SYN, (1000, 0), &[])),
            named("segment", packet::tcp(from, to, ACK, (1000, 1), b"payload")),
            named("UDP", packet::udp(from, to, b"payload")),
            named("echo", packet::echo(from.ip(), to.ip(), 7, 1, b"payload")),
        ]);
    }
    frames
}

/// Sends one frame; returns the names of all drops it caused, each as often as it was counted.
fn drops_of(world: &mut World, frame: Vec<u8>) -> Vec<DropReason> {
    let count = |world: &World| DropReason::ALL.iter().map(|&r| world.drops(r)).collect::<Vec<_>>();
    let before = count(world);
    world.send(frame);
    world.settle(TURNS);
    let after = count(world);
    let new = DropReason::ALL.iter().zip(after.iter().zip(before));
    new.flat_map(|(&reason, (after, before))| vec![reason; (after - before) as usize]).collect()
}

#[test]
fn a_frame_cut_at_any_byte_is_dropped_once() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        for (name, frame) in valid() {
            for len in 0..frame.len() {
                let drops = drops_of(&mut world, frame[..len].to_vec());
                assert_eq!(drops.len(), 1, "{name} cut to {len} bytes: {drops:?}");
                assert_eq!(world.received(), Vec::<Vec<u8>>::new(), "{name} cut to {len} bytes");
            }
        }
        assert_eq!(world.engine.flow_count(), 0);
    });
}

#[test]
fn the_uncut_frames_are_not_dropped() {
    isolated(|| {
        for (name, frame) in valid() {
            let mut world = World::new(&Setup::default());
            let drops = drops_of(&mut world, frame);
            let expected: &[_] =
                if name.starts_with("segment") { &[DropReason::NoFlow] } else { &[] };
            assert_eq!(drops, expected, "{name}");
        }
    });
}

/// The frame with a tag (IEEE 802.1Q) of these bits.
fn tagged(frame: &[u8], bits: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &bits.to_be_bytes(), &frame[12..]].concat()
}

/// What a frame causes: drops, flows, and answers but for their contents where those depend on the time.
fn effects(frame: Vec<u8>, fixed: bool) -> (Vec<DropReason>, usize, Vec<Vec<u8>>) {
    let mut world = World::new(&Setup::default());
    let drops = drops_of(&mut world, frame);
    let answers = if fixed { world.received() } else { Vec::new() };
    (drops, world.engine.flow_count(), answers)
}

#[test]
fn ieee802_1q_a_tag_of_vlan_0_gives_a_priority_and_changes_nothing() {
    isolated(|| {
        let mut frames = valid();
        for (family, nowhere) in [(Family::V4, "203.0.113.1:9"), (Family::V6, "[2001:db8:3::1]:9")]
        {
            let to = nowhere.parse().expect("an address");
            frames.push(("unreachable".to_owned(), packet::udp(guest_at(family, 9), to, b"?")));
        }
        for (name, frame) in frames {
            let fixed = !["SYN", "segment", "echo"].iter().any(|kind| name.starts_with(kind));
            let plain = effects(frame.clone(), fixed);
            assert!(plain.1 + plain.2.len() > 0 || !fixed, "{name} has an effect");
            for bits in [0, 1 << 12, 5 << 13, 0xf000] {
                assert_eq!(effects(tagged(&frame, bits), fixed), plain, "{name}, {bits:x}");
            }
            for (bits, twice) in [(1, false), (0xffff, false), (0, true)] {
                let inner = if twice { tagged(&frame, 0) } else { frame.clone() };
                let (drops, flows, _) = effects(tagged(&inner, bits), fixed);
                assert_eq!((&drops[..], flows), (&[DropReason::UnknownEtherType][..], 0), "{name}");
            }
            let frame = tagged(&frame, 0);
            for len in 0..frame.len() {
                assert_eq!(effects(frame[..len].to_vec(), fixed).0.len(), 1, "{name} cut to {len}");
            }
        }
    });
}

/// The frame with the bytes from `at` replaced.
fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn lengths_that_lie_are_dropped_by_name() {
    use DropReason::{HeadersTooLong, Malformed, Truncated, UnknownProtocol};
    isolated(|| {
        let mut world = World::new(&Setup::default());
        for family in FAMILIES {
            let (from, to) = (guest_at(family, 40000), family.host_at(9));
            let l4 = packet::l4_offset(from.ip());
            let udp = packet::udp(from, to, b"payload");
            let syn = packet::tcp(from, to, SYN, (1000, 0), &[]);
            let segment = packet::tcp(from, to, ACK, (1000, 1), b"payload");
            let mut cases = vec![
                ("UDP length 0", patched(udp.clone(), l4 + 4, &[0, 0]), Malformed),
                ("UDP length 7", patched(udp.clone(), l4 + 4, &[0, 7]), Malformed),
                ("UDP length beyond the packet", patched(udp.clone(), l4 + 4, &[0, 16]), Truncated),
                ("UDP length 65535", patched(udp.clone(), l4 + 4, &[0xff, 0xff]), Truncated),
                ("TCP data offset 0", patched(syn.clone(), l4 + 12, &[0]), Malformed),
                ("TCP data offset 4", patched(segment.clone(), l4 + 12, &[0x40]), Malformed),
                ("TCP data offset 15", patched(segment, l4 + 12, &[0xf0]), Truncated),
            ];
            cases.extend(match family {
                Family::V4 => vec![
                    ("header length 4", patched(udp.clone(), 14, &[0x44]), Malformed),
                    ("header length 15", patched(udp.clone(), 14, &[0x4f]), Truncated),
                    ("version 6", patched(udp.clone(), 14, &[0x65]), Malformed),
                    ("total length 0", patched(udp.clone(), 16, &[0, 0]), Malformed),
                    ("total length 19", patched(udp.clone(), 16, &[0, 19]), Malformed),
                    ("total length 20", patched(udp.clone(), 16, &[0, 20]), Truncated),
                    ("total length 65535", patched(udp.clone(), 16, &[0xff, 0xff]), Truncated),
                    ("uneven fragment of TCP", patched(syn, 20, &[0x20]), Malformed),
                    ("uneven fragment", patched(udp.clone(), 20, &[0x20]), Malformed),
                    ("protocol 255", patched(udp, 23, &[255]), UnknownProtocol),
                ],
                Family::V6 => vec![
                    ("version 4", patched(udp.clone(), 14, &[0x40]), Malformed),
                    ("payload length 0", patched(udp.clone(), 18, &[0, 0]), Truncated),
                    ("payload length 65535", patched(udp.clone(), 18, &[0xff, 0xff]), Truncated),
                    ("fragment header", patched(udp.clone(), 20, &[44]), DropReason::Fragment),
                    ("no next header", patched(udp.clone(), 20, &[59]), UnknownProtocol),
                    // Its length is the UDP source port's second byte: 65 units.
                    ("extension beyond the packet", patched(udp, 20, &[60]), Truncated),
                    ("100 extensions", chain(&[60; 100], from, to), HeadersTooLong),
                ],
            });
            for (name, frame, reason) in cases {
                assert_eq!(drops_of(&mut world, frame), [reason], "{name} {family:?}");
            }
        }
        assert_eq!(world.engine.flow_count(), 0);
    });
}

/// A UDP datagram behind extension headers of the given kinds, each of 8 bytes.
fn chain(kinds: &[u8], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut l4 = Vec::new();
    for index in 0..kinds.len() {
        let next = kinds.get(index + 1).copied().unwrap_or(packet::UDP);
        l4.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    l4.extend(packet::udp_message(from.port(), to.port(), b"payload"));
    packet::ip(from.ip(), to.ip(), kinds[0], 64, &l4)
}

#[test]
fn extension_headers_of_any_kind_are_walked_or_dropped() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        let (from, to) = (guest_at(Family::V6, 40000), Family::V6.host_at(9));
        for first in 0..=255 {
            for second in [first, 0, 43, 44, 51, 60, 255] {
                let mut drops = drops_of(&mut world, chain(&[first, second], from, to));
                // The guest is told of unknown ones, up to a limit.
                drops.retain(|&reason| reason != DropReason::ErrorLimited);
                assert!(drops.len() <= 1, "{first}, {second}: {drops:?}");
            }
        }
        world.received();
        // Hop-by-hop and destination options: the datagram behind them makes a flow.
        let mut world = World::new(&Setup::default());
        assert_eq!(drops_of(&mut world, chain(&[0, 60], from, to)), []);
        assert_eq!(world.engine.flow_count(), 1);
    });
}

#[test]
fn special_addresses_are_refused_on_every_path() {
    let never = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.0.1",
        "::",
        "::1",
        "::ffff:198.51.100.1",
        "::ffff:127.0.0.1",
        "::198.51.100.1",
        "::127.0.0.1",
        "ff01::1",
        "ff00::1",
    ];
    // Groups, and all of a link, have listeners for datagrams, but are never a source or the end of a connection.
    let groups = ["224.0.0.1", "ff02::1", "255.255.255.255"];
    isolated(move || {
        let mut world = World::new(&Setup::default());
        for text in never.into_iter().chain(groups) {
            let special: IpAddr = text.parse().expect("an address");
            let family = if special.is_ipv4() { Family::V4 } else { Family::V6 };
            let (guest, host) = (family.guest(), family.host());
            for (from, to) in [(guest, special), (special, host), (special, special)] {
                let (a, b) = (SocketAddr::new(from, 40000), SocketAddr::new(to, 9));
                let mut frames = vec![("SYN", packet::tcp(a, b, SYN, (1000, 0), &[]))];
                if from == special || !groups.contains(&text) {
                    frames.push(("UDP", packet::udp(a, b, b"payload")));
                    frames.push(("echo", packet::echo(from, to, 7, 1, b"payload")));
                }
                for (name, frame) in frames {
                    let drops = drops_of(&mut world, frame);
                    assert_eq!(drops, [DropReason::ForbiddenAddress], "{name} {from} -> {to}");
                    assert_eq!(world.received().len(), 0, "an answer to {name} {from} -> {to}");
                }
            }
        }
        assert_eq!(world.engine.flow_count(), 0);
    });
}

/// Metadata that a guest may state, true or not.
fn any_meta() -> impl Strategy<Value = FrameMeta> {
    let kind = prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6), Just(GsoKind::Udp)];
    let gso = (kind, any::<u16>(), any::<u16>()).prop_map(|(kind, size, header_len)| Gso {
        kind,
        size,
        header_len,
    });
    proptest::option::of(gso).prop_map(|gso| FrameMeta { gso, ..FrameMeta::default() })
}

/// Some bytes of a valid frame changed, some lost or added at its end.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<Vec<u8>> = valid().into_iter().map(|(_, frame)| frame).collect();
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5);
    (prop::sample::select(frames), changes, -20..20isize).prop_map(|(mut frame, changes, grow)| {
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.resize(frame.len().saturating_add_signed(grow), 0);
        frame
    })
}

/// Frames of any type with any bytes.
fn random() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0x0800), Just(0x0806), Just(0x86dd), any::<u16>()];
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    (kind, payload).prop_map(|(kind, payload)| packet::ethernet(kind, &payload))
}

#[test]
fn no_frame_disturbs_the_next() {
    isolated(|| {
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let setup = Setup { max_descriptors: 400, ..Setup::default() };
        let world = std::cell::RefCell::new(World::new(&setup));
        let frames = prop_oneof![mutated(), random()];
        let result = runner.run(&(frames, any_meta()), |(frame, meta)| {
            let mut world = world.borrow_mut();
            world.port.send(frame, meta);
            world.settle(10 * TURNS);
            world.received();
            world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
            world.settle(TURNS);
            // An error from the host's network may come late.
            let answers = world.received().into_iter().filter(|frame| frame[12..14] == [8, 6]);
            prop_assert_eq!(answers.count(), 1, "the answer to an ARP request");
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    });
}
