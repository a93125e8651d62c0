//! Drivers from before virtio 1.0 (virtio 1.2, sections 2.7.1, 5.1.6.1 and 6.3), and those that come after them.
//! On a big-endian machine such drivers are refused: they would speak its byte order.

#![cfg(target_endian = "little")]

mod rig;

use passt_frame::{Checksum, FrameMeta, Gso, GsoKind};
use passt_guest::{Guest, NetHeader, Options, RX, TX, bit, request};
use rig::{Host, connected, frame};

/// What OVMF's driver acknowledges of a transitional device: hardly anything.
const FIRMWARE: u64 = bit::PROTOCOL_FEATURES | bit::STATUS;

/// A legacy driver's features: none that came with virtio 1.0.
const LEGACY: u64 = !(bit::VERSION_1 | bit::MAC);

fn legacy(without: u64) -> Options {
    Options { features: LEGACY & !without, ..Options::default() }
}

/// Frames of many sizes, both ways.
fn frames_move(host: &mut Host, guest: &mut Guest, largest: usize, what: &str) {
    for len in [60, 61, 1514, 9000, 65549].into_iter().filter(|&len| len <= largest) {
        guest.send_frame(&frame(len, 1), NetHeader::default());
        let taken = host.take_all();
        assert_eq!(taken.len(), 1, "{what}: {len}");
        assert_eq!(taken[0].0, frame(len, 1), "{what}");
        guest.reclaim();
        assert!(host.give(&frame(len, 2), FrameMeta::default()), "{what}: {len}");
        assert_eq!(guest.recv_frame().expect("a frame").0, frame(len, 2), "{what}");
    }
}

#[test]
fn virtio_5_1_6_1_the_header_has_the_length_that_was_negotiated() {
    for event_idx in [0, bit::EVENT_IDX] {
        for indirect in [false, true] {
            let merged = Options { indirect, ..legacy(event_idx) };
            let (mut host, mut guest) = connected(merged);
            frames_move(&mut host, &mut guest, 65549, "12 bytes, merged");

            // Room for an Ethernet frame behind a header of 10 bytes, and for no byte more.
            let single =
                Options { indirect, rx_buffer_bytes: 1524, ..legacy(event_idx | bit::MRG_RXBUF) };
            let (mut host, mut guest) = connected(single);
            frames_move(&mut host, &mut guest, 1514, "10 bytes");
            assert!(!host.give(&frame(1515, 3), FrameMeta::default()));
            assert!(host.give(&frame(60, 3), FrameMeta::default()), "the buffer came back");
        }
    }
}

#[test]
fn a_short_header_may_be_cut_at_every_byte() {
    let (mut host, mut guest) = connected(legacy(bit::MRG_RXBUF));
    let bytes = frame(200, 7);
    let header = NetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..NetHeader::default() };
    let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
    for cut in 1..210 {
        guest.send_pieces(&bytes, header, &[cut]);
        assert_eq!(host.take_all(), [(bytes.clone(), meta)], "cut at {cut}");
    }
    let every: Vec<usize> = (1..210).collect();
    guest.send_pieces(&bytes, header, &every);
    assert_eq!(host.take_all(), [(bytes, meta)], "cut everywhere");
}

#[test]
fn offloads_are_carried_behind_a_short_header() {
    let options = Options { rx_buffer_bytes: 9000, ..legacy(bit::MRG_RXBUF) };
    let (mut host, mut guest) = connected(options);
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::TcpV4, size: 1448, header_len: 66 }),
    };
    assert!(host.give(&frame(4000, 1), meta));
    let (bytes, header) = guest.recv_frame().expect("a frame");
    assert_eq!(bytes, frame(4000, 1));
    assert_eq!((header.flags, header.gso_type, header.csum_offset), (1, 1, 16));
    guest.send_frame(&frame(4000, 2), header);
    assert_eq!(host.take_all(), [(frame(4000, 2), meta)]);
}

#[test]
fn frames_shorter_than_a_short_header_and_ethernet_are_dropped() {
    let (mut host, mut guest) = connected(legacy(bit::MRG_RXBUF));
    guest.send_frame(&frame(13, 1), NetHeader::default());
    assert!(host.take_all().is_empty());
    guest.send_frame(&frame(14, 2), NetHeader::default());
    assert_eq!(host.take_all(), [(frame(14, 2), FrameMeta::default())]);
}

/// The order of a boot: firmware, a boot loader that goes on with it, then the system; and back by a reboot.
#[test]
fn drivers_of_both_kinds_follow_each_other_on_one_connection() {
    let modern = !bit::MAC;
    let mut host = Host::new();
    let stream = host.attach();
    let mut guest =
        Guest::connect(stream, Options { features: FIRMWARE, ..Options::default() }, &mut || {
            host.turn();
        });
    assert_eq!(guest.features, FIRMWARE);
    let offered = guest.ask(request::GET_FEATURES, &[], &mut || {
        host.turn();
    });
    for (name, word) in [
        ("firmware", FIRMWARE),
        ("system", modern),
        ("firmware again", FIRMWARE),
        ("old system", LEGACY),
        ("system", modern),
    ] {
        for index in [RX, TX] {
            guest.stop_ring(index, &mut || {
                host.turn();
            });
        }
        guest.features = word & offered;
        guest.restart(&mut || {
            host.turn();
        });
        frames_move(&mut host, &mut guest, 1514, name);
    }
    assert!(host.device.is_attached());
}
