//! Once the rings run and their driver has kicked them, moving frames allocates nothing, whether written pages are
//! marked or not.

mod rig;

use passt_frame::{
    FrameDone, FrameMeta, FramePort, FromGuestBatch, FromGuestLease, Payload, Reserve,
};
use passt_frame::{ToGuestLease, ToGuestList};
use passt_guest::{DirtyLog, NetHeader, Options};
use passt_support::heap::{Counting, allocations, assert_counting};
use rig::{connected, frame};

#[global_allocator]
static HEAP: Counting = Counting;

#[test]
fn the_data_path_allocates_nothing() {
    assert_counting();
    for (indirect, pairs, logged) in
        [(false, 1, false), (true, 1, false), (false, 4, false), (false, 1, true), (true, 4, true)]
    {
        let (mut host, mut guest) = connected(Options { indirect, pairs, ..Options::default() });
        let log = DirtyLog::new(guest.memory.len());
        if logged {
            guest.start_log(&log, &mut || {
                host.turn();
            });
        }
        let (mut batch, mut list) = (FromGuestBatch::new(), ToGuestList::new());
        let payload = frame(8000, 1);
        for pair in 0..pairs {
            host.device.on_event(3 + 2 * pair as u16);
        }
        let mut counted = 0;
        for round in 0..200 {
            guest.pair = round % pairs;
            for i in 0..20 {
                let cuts: Vec<usize> = (1..10).map(|cut| cut * 7 + i).collect();
                guest.queue_pieces(&payload[..1400], NetHeader::default(), &cuts);
            }
            guest.publish(2 * guest.pair + 1);
            let before = allocations();
            host.device.on_event(3 + 2 * guest.pair as u16);
            let (from_guest, to_guest) = host.device.halves();
            while let Some(lease) = FromGuestLease::take(from_guest, &mut batch) {
                counted += lease.frames().len();
                to_guest.select(lease.queue());
                let request = Reserve {
                    header_len: 54,
                    payload_len: 3000,
                    bytes: 8000,
                    payload: Payload::Datagrams,
                };
                let mut to = ToGuestLease::reserve(to_guest, &mut list, request).lease().unwrap();
                to.put_header(0, &payload[..54]);
                to.put_payload(0, &payload);
                to.put_header(1, &payload[..54]);
                let done = [10, 3000]
                    .map(|len| FrameDone { payload_len: len, meta: FrameMeta::default() });
                to.commit(&done);
            }
            host.device.flush();
            let after = allocations();
            assert_eq!(after, before, "round {round}");
            assert!(guest.recv_frame().is_some(), "round {round}");
            while guest.recv_frame().is_some() {}
            assert_eq!(guest.reclaim(), 20);
            assert_eq!(log.take().is_empty(), !logged, "round {round}");
        }
        assert_eq!(counted, 4000);
    }
}
