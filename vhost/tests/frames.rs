//! Frames both ways, however their descriptors cut them (virtio 1.2, sections 2.7 and 5.1.6).

mod rig;

use passt_frame::{Checksum, FrameDone, FrameMeta, Gso, GsoKind, LinkChange, Payload, Reserve};
use passt_guest::{Buffer, NetHeader, Options, RX, TX, bit};
use rig::{connected, frame};

#[test]
fn frames_move_both_ways() {
    let (mut host, mut guest) = connected(Options::default());
    assert_eq!(host.links, [LinkChange::Up]);
    for len in [14, 60, 1514, 9000, 65549] {
        guest.send_frame(&frame(len, 1), NetHeader::default());
        assert!(host.turn().frames);
        let taken = host.take();
        assert_eq!(taken.len(), 1, "{len}");
        assert_eq!(taken[0].0, frame(len, 1));
        assert_eq!(guest.reclaim(), 1);
        if len >= 60 {
            assert!(host.give(&frame(len, 2), FrameMeta::default()));
            let (bytes, header) = guest.recv_frame().unwrap();
            assert_eq!(bytes, frame(len, 2));
            assert_eq!(usize::from(header.num_buffers), (len + 12).div_ceil(1536));
        }
    }
}

#[test]
fn a_frame_may_be_cut_at_every_byte() {
    for indirect in [false, true] {
        let (mut host, mut guest) = connected(Options { indirect, ..Options::default() });
        let bytes = frame(200, 7);
        let header =
            NetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..NetHeader::default() };
        let meta = FrameMeta { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        for cut in 1..212 {
            guest.send_pieces(&bytes, header, &[cut]);
            assert_eq!(host.take_all(), [(bytes.clone(), meta)], "cut at {cut}");
        }
        let every: Vec<usize> = (1..212).collect();
        guest.send_pieces(&bytes, header, &every);
        assert_eq!(host.take_all(), [(bytes.clone(), meta)], "cut everywhere");
    }
}

#[test]
fn indirect_tables_may_lie_at_any_byte() {
    let (mut host, mut guest) = connected(Options::default());
    for at in 0x1000..0x1010u64 {
        let mut bytes = NetHeader::default().to_bytes().to_vec();
        bytes.extend_from_slice(&frame(100, at as u8));
        guest.memory.write(0x2000, &bytes);
        let half = |guest, len| Buffer { guest, len, writable: false };
        let halves = [half(0x2000, 50), half(0x2000 + 50, 62)];
        guest.rings[TX].add(&guest.memory, &halves, Some(at));
        guest.publish(TX);
        assert_eq!(host.take_all()[0].0, frame(100, at as u8), "{at:#x}");
        guest.reclaim();
    }
}

#[test]
fn receive_buffers_may_be_of_any_size() {
    for rx_buffer_bytes in (1..40).chain([60, 71, 72, 100, 1536, 65562]) {
        let options =
            Options { rx_buffer_bytes, ring_size: 1024, rx_buffers: 1024, ..Options::default() };
        let (mut host, mut guest) = connected(options);
        for len in [60, 61, 300] {
            assert!(host.give(&frame(len, 3), FrameMeta::default()), "{rx_buffer_bytes} {len}");
            let (bytes, header) = guest.recv_frame().unwrap();
            assert_eq!(bytes, frame(len, 3), "{rx_buffer_bytes}");
            let buffers = (len + 12).div_ceil(rx_buffer_bytes as usize);
            assert_eq!(usize::from(header.num_buffers), buffers);
        }
    }
}

#[test]
fn virtio_5_1_6_4_merged_buffers_become_visible_together() {
    let (mut host, mut guest) = connected(Options::default());
    assert!(host.give_unflushed(&frame(9000, 1), FrameMeta::default()));
    assert!(host.give_unflushed(&frame(60, 2), FrameMeta::default()));
    assert_eq!(guest.rings[RX].waiting(&guest.memory), 0, "nothing before the flush");
    passt_frame::FramePort::flush(&mut host.device);
    assert_eq!(guest.rings[RX].waiting(&guest.memory), 7);
    assert_eq!(guest.recv_frame().unwrap().0, frame(9000, 1));
    assert_eq!(guest.recv_frame().unwrap().0, frame(60, 2));
}

#[test]
fn offloads_are_carried_both_ways() {
    let (mut host, mut guest) = connected(Options::default());
    let meta = FrameMeta {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::TcpV4, size: 1448, header_len: 66 }),
    };
    assert!(host.give(&frame(4000, 1), meta));
    let (_, header) = guest.recv_frame().unwrap();
    let wanted = NetHeader {
        flags: 1,
        gso_type: 1,
        hdr_len: 66,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 3,
    };
    assert_eq!(header, wanted);
    guest.send_frame(&frame(4000, 2), NetHeader { num_buffers: 0, ..wanted });
    assert_eq!(host.take_all(), [(frame(4000, 2), meta)]);
}

#[test]
fn without_mergeable_buffers_a_frame_takes_one() {
    let features = !(bit::MRG_RXBUF | bit::MAC);
    let options = Options { features, rx_buffer_bytes: 1526, ..Options::default() };
    let (mut host, mut guest) = connected(options);
    assert!(host.give(&frame(1514, 1), FrameMeta::default()));
    assert!(!host.give(&frame(1515, 1), FrameMeta::default()), "larger than a buffer");
    let (bytes, header) = guest.recv_frame().unwrap();
    assert_eq!((bytes, header.num_buffers), (frame(1514, 1), 1));
    assert!(host.give(&frame(60, 2), FrameMeta::default()), "the buffer came back");
}

#[test]
fn short_frames_are_padded() {
    let (mut host, mut guest) = connected(Options::default());
    assert!(host.give(&frame(20, 1), FrameMeta::default()));
    let (bytes, _) = guest.recv_frame().unwrap();
    assert_eq!(bytes.len(), 60);
    assert_eq!(bytes[..20], frame(20, 1));
    assert!(bytes[20..].iter().all(|&b| b == 0));
}

#[test]
fn buffers_not_needed_serve_later_frames() {
    let (mut host, mut guest) = connected(Options { rx_buffers: 60, ..Options::default() });
    let request =
        Reserve { header_len: 14, payload_len: 8000, bytes: 80_000, payload: Payload::Datagrams };
    let lens = [100u32, 8000, 1, 3000];
    for round in 0..50u8 {
        let done = host.reserve(request, |lease| {
            assert_eq!(lease.frames(), 10, "round {round}");
            let mut done = Vec::new();
            for (i, &len) in lens.iter().enumerate() {
                let bytes = frame(14 + len as usize, round ^ i as u8);
                lease.put_header(i, &bytes[..14]);
                lease.put_payload(i, &bytes[14..]);
                done.push(FrameDone { payload_len: len, meta: FrameMeta::default() });
            }
            (done, ())
        });
        assert!(done.is_some());
        for (i, &len) in lens.iter().enumerate() {
            let (bytes, _) = guest.recv_frame().unwrap();
            let wanted = frame(14 + len as usize, round ^ i as u8);
            assert_eq!(bytes[..wanted.len()], wanted, "round {round} frame {i}");
        }
        assert!(guest.recv_frame().is_none());
    }
    // Buffers that wait for a later frame go back empty when the ring stops.
    let base = guest.stop_ring(RX, &mut || {
        host.turn();
    });
    let used = guest.rings[RX].used_index(&guest.memory);
    assert_eq!(base as u16, used, "no buffer is lost");
}

#[test]
fn a_dropped_reservation_gives_its_buffers_back() {
    let (mut host, mut guest) = connected(Options { rx_buffers: 4, ..Options::default() });
    let request =
        Reserve { header_len: 14, payload_len: 6000, bytes: 6000, payload: Payload::Datagrams };
    for _ in 0..20 {
        assert!(host.reserve(request, |_| (Vec::new(), ())).is_some());
        assert!(!host.give(&frame(9000, 1), FrameMeta::default()));
    }
    assert!(host.give(&frame(6100, 1), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(6100, 1));
}

#[test]
fn room_is_reported_after_there_was_none() {
    for event_idx in [true, false] {
        let features = if event_idx { !bit::MAC } else { !(bit::MAC | bit::EVENT_IDX) };
        let options = Options { features, rx_buffers: 1, ..Options::default() };
        let (mut host, mut guest) = connected(options);
        assert!(host.give(&frame(60, 1), FrameMeta::default()));
        guest.recv_frame_keep().unwrap();
        assert!(!host.give(&frame(60, 2), FrameMeta::default()));
        assert!(!host.turn().room);
        guest.post_buffers(1);
        assert!(host.turn().room, "event_idx {event_idx}");
        assert!(host.give(&frame(60, 2), FrameMeta::default()));
        assert_eq!(guest.recv_frame_keep().unwrap().0, frame(60, 2));
    }
}

#[test]
fn a_ring_of_32768_entries_works() {
    let options = Options { ring_size: 32768, rx_buffers: 32768, ..Options::default() };
    let (mut host, mut guest) = connected(options);
    for i in 0..40_000u32 {
        assert!(host.give(&frame(60, i as u8), FrameMeta::default()));
        assert_eq!(guest.recv_frame().unwrap().0, frame(60, i as u8));
        guest.send_frame(&frame(64, i as u8), NetHeader::default());
        host.turn();
        assert_eq!(host.take()[0].0, frame(64, i as u8));
    }
    assert_eq!(guest.rings[TX].used_index(&guest.memory), 40_000);
}
