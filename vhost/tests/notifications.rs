//! Notifications are sent when they are wanted, once for a turn, and not otherwise (virtio 1.2,
//! sections 2.7.7 and 2.7.10).

mod rig;

use std::os::fd::AsFd;
use std::time::Duration;

use passt_frame::{FrameMeta, FramePort, LinkChange};
use passt_guest::{Guest, NetHeader, Options, RX, TX, bit, request};
use rig::{Host, connected, frame};
use rustix::event::{EventfdFlags, eventfd};

const F_NEXT: u16 = 1;

fn without_event_idx() -> Options {
    Options { features: !(bit::MAC | bit::EVENT_IDX), ..Options::default() }
}

/// A connected pair whose first notifications, which are always sent, are out of the way.
fn warm(options: Options) -> (Host, Guest) {
    let (mut host, mut guest) = connected(options);
    guest.send_frame(&frame(60, 0), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert!(host.give(&frame(60, 0), FrameMeta::default()));
    assert!(guest.recv_frame().is_some());
    guest.reclaim();
    guest.interrupts(RX);
    guest.interrupts(TX);
    (host, guest)
}

#[test]
fn virtio_2_7_10_the_device_calls_at_the_index_asked_for() {
    let (mut host, guest) = warm(Options::default());
    let used = guest.rings[RX].used_index(&guest.memory);
    guest.rings[RX].set_used_event(&guest.memory, used.wrapping_add(2));
    for called in [0, 0, 1, 0, 0] {
        assert!(host.give(&frame(60, 1), FrameMeta::default()));
        assert_eq!(guest.interrupts(RX), called);
    }
}

#[test]
fn virtio_2_7_10_one_call_for_a_burst() {
    let (mut host, guest) = warm(Options::default());
    let used = guest.rings[RX].used_index(&guest.memory);
    guest.rings[RX].set_used_event(&guest.memory, used);
    for i in 0..20 {
        assert!(host.give_unflushed(&frame(60, i), FrameMeta::default()));
    }
    host.device.flush();
    assert_eq!(guest.interrupts(RX), 1);
    host.device.flush();
    assert_eq!(guest.interrupts(RX), 0);
}

/// The guest sends `frames` frames of 1,000 bytes, of which it wants to be told, and gets as many that it is told of.
fn both_ways(host: &mut Host, guest: &mut Guest, frames: usize) {
    for ring in [RX, TX] {
        let used = guest.rings[ring].used_index(&guest.memory);
        guest.rings[ring].set_used_event(&guest.memory, used);
    }
    for _ in 0..frames {
        guest.send_frame(&frame(1000, 1), NetHeader::default());
    }
    host.turn();
    assert_eq!(host.take_unflushed().len(), frames);
    for _ in 0..frames {
        assert!(host.give_unflushed(&frame(1000, 1), FrameMeta::default()));
    }
}

/// Frames of which so many are bulk.
const BULK: usize = 20;

#[test]
fn virtio_2_7_7_2_in_bulk_a_call_of_the_transmit_ring_waits_for_a_while() {
    let (mut host, mut guest) = warm(Options::default());
    let start = Duration::from_secs(1);
    for (seen, called) in [(false, 1), (true, 0)] {
        both_ways(&mut host, &mut guest, BULK);
        let until = host.device.flush_lazily(start).expect("it waits");
        assert_eq!([RX, TX].map(|ring| guest.interrupts(ring)), [1, 0]);
        if seen {
            let used = guest.rings[TX].used_index(&guest.memory);
            guest.rings[TX].set_used_event(&guest.memory, used);
        }
        assert_eq!(host.device.flush_lazily(until), None);
        assert_eq!(guest.interrupts(TX), called, "seen: {seen}");
    }
}

/// What waits is another call, and some guests answer with that one only.
#[test]
fn in_an_exchange_no_call_waits() {
    let (mut host, mut guest) = warm(Options::default());
    for _ in 0..3 {
        both_ways(&mut host, &mut guest, 1);
        assert_eq!(host.device.flush_lazily(Duration::from_secs(1)), None);
        assert_eq!([RX, TX].map(|ring| guest.interrupts(ring)), [1, 1]);
    }
}

/// A front-end that comes back goes on with the same rings, and nobody would say it then.
#[test]
fn a_call_that_waits_is_made_when_the_front_end_leaves() {
    let (mut host, mut guest) = warm(Options::default());
    both_ways(&mut host, &mut guest, BULK);
    assert!(host.device.flush_lazily(Duration::from_secs(1)).is_some());
    assert_eq!(guest.interrupts(TX), 0);
    guest.client.socket().shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(host.turn().link, Some(LinkChange::Closed));
    assert_eq!(guest.interrupts(TX), 1);
}

#[test]
fn virtio_2_7_7_the_no_interrupt_flag_is_honoured() {
    let (mut host, guest) = warm(without_event_idx());
    for no_interrupt in [false, true, false] {
        guest.rings[RX].set_no_interrupt(&guest.memory, no_interrupt);
        assert!(host.give(&frame(60, 1), FrameMeta::default()));
        assert_eq!(guest.interrupts(RX), u64::from(!no_interrupt));
    }
}

#[test]
fn virtio_2_7_10_kicks_of_an_idle_transmit_ring_are_wanted_once() {
    let (mut host, mut guest) = warm(Options::default());
    host.take_all();
    assert!(guest.send_frame(&frame(60, 1), NetHeader::default()), "idle: a kick");
    assert!(!guest.send_frame(&frame(60, 2), NetHeader::default()), "kicked already");
    assert_eq!(host.take_all().len(), 2);
    assert!(guest.send_frame(&frame(60, 3), NetHeader::default()), "idle again");
    assert_eq!(host.take_all().len(), 1);
}

#[test]
fn kicks_of_the_receive_ring_are_wanted_only_without_room() {
    for options in [Options::default(), without_event_idx()] {
        let (mut host, mut guest) = warm(Options { rx_buffers: 2, ..options });
        guest.recv_frame();
        for _ in 0..10 {
            assert!(host.give(&frame(60, 1), FrameMeta::default()));
            guest.recv_frame_keep().unwrap();
            guest.rings[RX].publish(&guest.memory);
            guest.post_buffer();
            assert!(!guest.publish(RX), "there is room");
        }
        while host.give(&frame(60, 1), FrameMeta::default()) {
            guest.recv_frame_keep().unwrap();
        }
        guest.post_buffer();
        assert!(guest.publish(RX), "there was none");
        assert!(host.turn().room);
    }
}

#[test]
fn no_frame_is_lost_between_the_last_look_and_the_kick() {
    for options in [Options::default(), without_event_idx()] {
        let (mut host, mut guest) = warm(options);
        let mut taken = 0;
        for i in 0..1000u32 {
            for _ in 0..i % 5 {
                guest.send_frame(&frame(60, i as u8), NetHeader::default());
            }
            if host.turn().frames {
                taken += host.take_all().len() as u32;
            }
        }
        assert_eq!(taken, 2000);
        assert_eq!(guest.interrupts(TX).min(1), u64::from(guest.features & bit::EVENT_IDX == 0));
    }
}

#[test]
fn a_full_batch_is_followed_by_one_more_event() {
    let options = Options { ring_size: 512, indirect: true, ..Options::default() };
    let (mut host, mut guest) = warm(options);
    let mut sent = 0;
    while guest.can_send() {
        guest.queue_pieces(&frame(60, 1), NetHeader::default(), &[]);
        sent += 1;
    }
    // The same frames again, until the ring holds more than a batch.
    for _ in 0..200 {
        let (head, _) = guest.first_sent();
        guest.rings[TX].put_available(&guest.memory, head);
        sent += 1;
    }
    guest.publish(TX);
    let mut taken = 0;
    let mut turns = 0;
    while let Some(seen) = host.turn_once() {
        taken += if seen.frames { host.take().len() } else { 0 };
        turns += 1;
    }
    assert_eq!((taken, turns), (sent, 3), "128, 128 and the rest");
    guest.rings[TX].put_available(&guest.memory, 0);
    guest.publish(TX);
    assert!(host.turn_once().is_some_and(|seen| seen.frames));
    assert!(host.turn_once().is_none(), "who leaves frames in the ring is not told again");
}

/// Nobody comes back for the next batch when all that there was is of no use.
#[test]
fn a_full_ring_of_discarded_frames_is_followed_by_a_kick() {
    for options in [Options::default(), without_event_idx()] {
        let (mut host, mut guest) = warm(Options { ring_size: 4, rx_buffers: 4, ..options });
        for round in 0..3 {
            for _ in 0..4 {
                guest.queue_pieces(&frame(13, 1), NetHeader::default(), &[]);
            }
            assert!(guest.publish(TX), "round {round}: a kick is wanted");
            assert!(host.turn_once().is_some_and(|seen| seen.frames));
            assert!(host.take().is_empty());
            assert_eq!(guest.reclaim(), 4);
        }
        assert!(guest.send_frame(&frame(60, 1), NetHeader::default()), "still wanted");
        assert_eq!(host.take_all().len(), 1);
    }
}

/// The same when the limit of descriptors ends the look at the ring and not its last entry.
#[test]
fn the_last_discarded_frame_that_a_look_reaches_is_followed_by_a_kick() {
    let options = Options { ring_size: 32768, rx_buffers: 0, ..Options::default() };
    let (mut host, mut guest) = connected(options);
    for i in 0..32767u16 {
        guest.rings[TX].put_descriptor(&guest.memory, i, (0x1000, 0, F_NEXT, i + 1));
    }
    guest.rings[TX].put_descriptor(&guest.memory, 32767, (0x1000, 0, 0, 0));
    for round in 0..2 {
        for _ in 0..2 {
            guest.rings[TX].put_available(&guest.memory, 0);
        }
        assert!(guest.publish(TX), "round {round}: a kick is wanted");
        assert!(host.turn_once().is_some_and(|seen| seen.frames));
        assert!(host.take().is_empty());
    }
}

#[test]
fn a_new_call_descriptor_is_signalled_at_once() {
    let (mut host, mut guest) = warm(Options::default());
    let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    guest.send(request::SET_VRING_CALL, &0u64.to_ne_bytes(), &[call.as_fd()]);
    host.turn();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&call, &mut bytes), Ok(8));
    let used = guest.rings[RX].used_index(&guest.memory);
    guest.rings[RX].set_used_event(&guest.memory, used);
    assert!(host.give(&frame(60, 1), FrameMeta::default()));
    assert_eq!(rustix::io::read(&call, &mut bytes), Ok(8));
    assert_eq!(guest.interrupts(RX), 0, "the old one is out of use");
    assert!(guest.recv_frame().is_some());
}

/// A guest that was restored, or a driver that begins before the device does: nobody kicks for what is in the ring.
#[test]
fn frames_in_the_ring_when_it_starts_are_looked_at_without_a_kick() {
    for (features, enabled_last) in
        [(u64::MAX, false), (u64::MAX, true), (!bit::EVENT_IDX, false), (!bit::EVENT_IDX, true)]
    {
        let mut host = Host::new();
        let stream = host.attach();
        let features = features & !bit::MAC;
        let mut guest = Guest::new(stream, Options { features, ..Options::default() });
        guest.negotiate(&mut || {
            host.turn();
        });
        if enabled_last {
            guest.set_enable(TX, false);
        }
        for n in 0..3 {
            guest.queue_pieces(&frame(100, n), NetHeader::default(), &[]);
        }
        let _ = guest.rings[TX].publish(&guest.memory);
        guest.start(&mut || {});
        if enabled_last {
            guest.set_enable(TX, true);
        }
        assert!(host.turn().frames);
        assert_eq!(host.take_all().len(), 3);
        assert_eq!(guest.reclaim(), 3);
    }
}

/// The same for each pair, and for a driver from before virtio 1.0.
#[test]
fn frames_in_the_rings_of_all_pairs_are_looked_at_without_a_kick() {
    let older = !(bit::VERSION_1 | bit::MRG_RXBUF);
    for (features, pairs) in [(u64::MAX, 4), (!bit::EVENT_IDX, 4), (older, 1), (older, 2)] {
        let mut host = Host::new();
        let stream = host.attach();
        let features = features & !bit::MAC;
        let mut guest = Guest::new(stream, Options { features, pairs, ..Options::default() });
        guest.negotiate(&mut || {
            host.turn();
        });
        for pair in 0..pairs {
            guest.pair = pair;
            guest.queue_pieces(&frame(100, pair as u8), NetHeader::default(), &[]);
            let _ = guest.rings[2 * pair + TX].publish(&guest.memory);
        }
        guest.start(&mut || {});
        let taken = host.take_all();
        let mut from: Vec<u8> = taken.iter().map(|(frame, _)| frame[20]).collect();
        from.sort_unstable();
        let mut wanted: Vec<u8> = (0..pairs).map(|pair| frame(100, pair as u8)[20]).collect();
        wanted.sort_unstable();
        assert_eq!(from, wanted, "{features:x} {pairs}");
    }
}
