//! Rings that a driver broke: that ring stops with its error descriptor signalled, the connection
//! and the other ring live, and a restart by the front-end mends it.

mod rig;

use passt_frame::{FrameMeta, MAX_FRAME_BYTES};
use passt_guest::{Guest, NetHeader, Options, RX, TX, bit};
use rig::{Host, connected, frame};

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Raw = (u64, u32, u16, u16);

/// Somewhere in guest memory that nothing else uses.
const AT: u64 = 0x1000;

fn no_buffers() -> Options {
    Options { rx_buffers: 0, ..Options::default() }
}

/// Makes chain `head` of hand-written descriptors available on ring `index`.
fn inject(guest: &mut Guest, index: usize, descriptors: &[(u16, Raw)], head: u16) {
    for &(at, raw) in descriptors {
        guest.rings[index].put_descriptor(&guest.memory, at, raw);
    }
    guest.rings[index].put_available(&guest.memory, head);
    guest.publish(index);
    guest.kick(index);
}

/// Lets the device look at both rings.
fn poke(host: &mut Host) -> usize {
    host.turn();
    let taken = host.take_all().len();
    host.give(&frame(60, 1), FrameMeta::default());
    host.turn();
    taken
}

/// Checks that ring `index` stopped, once, and nothing else did.
fn assert_broken(host: &mut Host, guest: &mut Guest, index: usize, what: &str) {
    assert_eq!(poke(host), 0, "{what}");
    assert_eq!(guest.errors(index), 1, "{what}: error descriptor");
    assert_eq!(guest.errors(1 - index), 0, "{what}: the other ring");
    assert_eq!(host.counters()["vhost.rings_broken"], 1, "{what}");
    assert!(host.device.is_attached(), "{what}: connection");
    guest.kick(index);
    poke(host);
    assert_eq!(host.counters()["vhost.rings_broken"], 1, "{what}: only once");
}

/// What is wrong, the descriptors to write, and the head to make available.
type Case = (&'static str, Vec<(u16, Raw)>, u16);

/// Descriptors that break either ring; `flags` are those of a good buffer.
fn chains(flags: u16) -> Vec<Case> {
    let indirect = F_INDIRECT;
    vec![
        ("head beyond the table", vec![], 256),
        ("head far beyond the table", vec![], 0xffff),
        ("next beyond the table", vec![(0, (AT, 64, flags | F_NEXT, 256))], 0),
        ("loop onto itself", vec![(0, (AT, 64, flags | F_NEXT, 0))], 0),
        (
            "loop of two without bytes",
            vec![(0, (AT, 0, flags | F_NEXT, 1)), (1, (AT, 0, flags | F_NEXT, 0))],
            0,
        ),
        ("wrong direction", vec![(0, (AT, 64, flags ^ F_WRITE, 0))], 0),
        ("beyond memory", vec![(0, (1 << 40, 64, flags, 0))], 0),
        ("at the end of the address space", vec![(0, (u64::MAX - 10, 64, flags, 0))], 0),
        ("over the end of the address space", vec![(0, (u64::MAX, u32::MAX, flags, 0))], 0),
        ("longer than memory", vec![(0, (AT, u32::MAX, flags, 0))], 0),
        ("table of no entries", vec![(0, (AT, 0, indirect, 0))], 0),
        ("table of half an entry", vec![(0, (AT, 24, indirect, 0))], 0),
        ("table beyond memory", vec![(0, (1 << 40, 16, indirect, 0))], 0),
        ("table over the end of the address space", vec![(0, (u64::MAX - 7, 16, indirect, 0))], 0),
        ("huge table", vec![(0, (AT, 0xffff_fff0, indirect, 0))], 0),
        ("table chained on", vec![(0, (AT, 16, indirect | F_NEXT, 1))], 0),
    ]
}

fn flags_of(index: usize) -> u16 {
    if index == RX { F_WRITE } else { 0 }
}

#[test]
fn virtio_2_7_broken_chains_stop_the_ring_alone() {
    for index in [RX, TX] {
        for (what, descriptors, head) in chains(flags_of(index)) {
            let (mut host, mut guest) = connected(no_buffers());
            inject(&mut guest, index, &descriptors, head);
            assert_broken(&mut host, &mut guest, index, what);
        }
    }
}

#[test]
fn virtio_2_7_5_3_broken_indirect_tables_stop_the_ring_alone() {
    for index in [RX, TX] {
        let flags = flags_of(index);
        let tables: [(&str, Vec<Raw>); 4] = [
            ("nested", vec![(AT, 16, F_INDIRECT, 0)]),
            ("next beyond the table", vec![(AT, 64, flags | F_NEXT, 2), (AT, 64, flags, 0)]),
            ("loop", vec![(AT, 64, flags | F_NEXT, 0), (AT, 64, flags, 0)]),
            ("wrong direction", vec![(AT, 64, flags ^ F_WRITE, 0)]),
        ];
        for (what, table) in tables {
            let (mut host, mut guest) = connected(no_buffers());
            for (i, &(guest_address, len, flags, next)) in table.iter().enumerate() {
                let mut bytes = guest_address.to_le_bytes().to_vec();
                bytes.extend_from_slice(&len.to_le_bytes());
                bytes.extend_from_slice(&flags.to_le_bytes());
                bytes.extend_from_slice(&next.to_le_bytes());
                guest.memory.write(AT + 16 * i as u64, &bytes);
            }
            let entry = (AT, 16 * table.len() as u32, F_INDIRECT, 0);
            inject(&mut guest, index, &[(0, entry)], 0);
            assert_broken(&mut host, &mut guest, index, what);
        }
    }
}

#[test]
fn virtio_2_7_5_3_indirect_tables_must_be_negotiated() {
    let options = Options { features: !(bit::MAC | bit::INDIRECT_DESC), ..no_buffers() };
    let (mut host, mut guest) = connected(options);
    inject(&mut guest, TX, &[(0, (AT, 16, F_INDIRECT, 0))], 0);
    assert_broken(&mut host, &mut guest, TX, "not negotiated");
}

#[test]
fn the_available_index_may_not_jump() {
    for index in [RX, TX] {
        for by in [257, 0x8000, 0xffff] {
            let (mut host, mut guest) = connected(no_buffers());
            guest.rings[index].jump_available(&guest.memory, by);
            guest.kick(index);
            assert_broken(&mut host, &mut guest, index, &format!("jump by {by}"));
        }
    }
}

#[test]
fn receive_buffers_without_bytes_stop_the_ring() {
    let (mut host, mut guest) = connected(no_buffers());
    inject(&mut guest, RX, &[(0, (AT, 0, F_WRITE, 0))], 0);
    assert_broken(&mut host, &mut guest, RX, "no bytes");
    let features = !(bit::MAC | bit::MRG_RXBUF);
    let (mut host, mut guest) = connected(Options { features, ..no_buffers() });
    inject(&mut guest, RX, &[(0, (AT, 71, F_WRITE, 0))], 0);
    assert_broken(&mut host, &mut guest, RX, "too small, not mergeable");
}

#[test]
fn a_broken_ring_can_be_restarted() {
    for index in [RX, TX] {
        let (mut host, mut guest) = connected(no_buffers());
        inject(&mut guest, index, &[(0, (AT, 64, flags_of(index) ^ F_WRITE, 0))], 0);
        assert_broken(&mut host, &mut guest, index, "direction");
        let base = guest.stop_ring(index, &mut || {
            host.turn();
        });
        assert_eq!(base, 0, "the broken chain is still to be taken");
        guest.rings[index].put_descriptor(&guest.memory, 0, (AT, 100, flags_of(index), 0));
        guest.start_ring(index);
        host.turn();
        if index == RX {
            assert!(host.give(&frame(60, 1), FrameMeta::default()));
        } else {
            assert_eq!(host.take_all().len(), 1);
        }
        assert_eq!(host.counters()["vhost.rings_broken"], 1);
    }
}

#[test]
fn frames_that_are_none_are_dropped_and_counted() {
    let (mut host, mut guest) = connected(Options::default());
    let bad = NetHeader { gso_type: 3, ..NetHeader::default() };
    guest.send_frame(&frame(13, 1), NetHeader::default());
    guest.send_frame(&frame(MAX_FRAME_BYTES as usize + 1, 1), NetHeader::default());
    guest.send_frame(&frame(100, 1), bad);
    guest.send_frame(&frame(14, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert_eq!(guest.reclaim(), 4, "each buffer goes back");
    let counters = host.counters();
    assert_eq!(counters["vhost.from_guest.too_short"], 1);
    assert_eq!(counters["vhost.from_guest.too_long"], 1);
    assert_eq!(counters["vhost.from_guest.bad_header"], 1);
    assert_eq!(counters["vhost.from_guest.frames"], 1);
    assert_eq!(counters["vhost.rings_broken"], 0);
}

#[test]
fn descriptors_without_bytes_are_skipped() {
    let (mut host, mut guest) = connected(Options::default());
    guest.send_pieces(&frame(100, 1), NetHeader::default(), &[0, 5, 5, 12, 12, 40, 112]);
    let taken = host.take_all();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].0, frame(100, 1));
}

#[test]
fn chains_of_no_use_cannot_hold_the_loop() {
    let options = Options { ring_size: 32768, ..no_buffers() };
    let (mut host, mut guest) = connected(options);
    // Every chain is the whole table, without a byte.
    for i in 0..32767u16 {
        guest.rings[TX].put_descriptor(&guest.memory, i, (AT, 0, F_NEXT, i + 1));
    }
    guest.rings[TX].put_descriptor(&guest.memory, 32767, (AT, 0, 0, 0));
    for _ in 0..200 {
        guest.rings[TX].put_available(&guest.memory, 0);
    }
    guest.rings[TX].publish(&guest.memory);
    host.turn();
    assert!(host.take().is_empty());
    let first = host.counters()["vhost.from_guest.too_short"];
    assert!((1..=4).contains(&first), "{first} chains in one take");
    while host.turn_once().is_some_and(|seen| seen.frames) {
        host.take();
    }
    assert_eq!(host.counters()["vhost.from_guest.too_short"], 200, "the rest is announced");
}

#[test]
fn a_disabled_transmit_ring_is_consumed_and_dropped() {
    let (mut host, mut guest) = connected(Options::default());
    guest.set_enable(TX, false);
    host.turn();
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert!(!host.turn().frames);
    assert!(host.take().is_empty());
    assert_eq!(guest.reclaim(), 1);
    assert_eq!(host.counters()["vhost.from_guest.ring_disabled"], 1);
    guest.set_enable(TX, true);
    host.turn();
    guest.send_frame(&frame(100, 2), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
}

#[test]
fn a_disabled_receive_ring_takes_nothing_and_reports_nothing() {
    let (mut host, mut guest) = connected(Options::default());
    guest.set_enable(RX, false);
    assert_eq!(host.turn().link, Some(passt_frame::LinkChange::Down));
    assert!(!host.give(&frame(100, 1), FrameMeta::default()));
    guest.kick(RX);
    assert!(!host.turn().room);
    assert!(guest.recv_frame().is_none());
    guest.set_enable(RX, true);
    assert_eq!(host.turn().link, Some(passt_frame::LinkChange::Up));
    assert!(host.give(&frame(100, 1), FrameMeta::default()));
}
