//! Guest memory that the front-end has mapped for itself alone, so that nothing of what the driver writes is seen; and
//! drivers and front-ends that kick empty rings although it is shared.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use passt_frame::FramePort;
use passt_guest::{Guest, NetHeader, Options, RX, TX, USER_BASE, bit, request};
use rig::{Host, connected, frame};
use rustix::fs::{MemfdFlags, memfd_create};

/// The features of drivers that ask for each kick, and of those that do not know of indexes of events.
const FEATURES: [u64; 2] = [!bit::MAC, !bit::MAC & !bit::EVENT_IDX];

const NO_BUFFERS: Options = Options {
    features: FEATURES[0],
    protocol: u64::MAX,
    pairs: 1,
    control: false,
    ring_size: 256,
    rx_buffer_bytes: 1536,
    rx_buffers: 0,
    indirect: false,
    call: true,
    first_index: 0,
};

/// A guest whose memory is not that which its front-end has sent the file of.
fn connected_apart(features: u64) -> (Host, Guest, OwnedFd) {
    let (mut host, guest) = connected(Options { features, ..NO_BUFFERS });
    let file = memfd_create("apart", MemfdFlags::CLOEXEC).unwrap();
    let len = guest.memory.len();
    rustix::fs::ftruncate(&file, len).unwrap();
    let words = [1, 0, len, USER_BASE, 0u64];
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    guest.send(request::SET_MEM_TABLE, &body, &[file.as_fd()]);
    host.turn();
    (host, guest, file)
}

/// Lets the device handle what has come, at `seconds`; how often it has complained so far, and when it wants to look again.
fn told(host: &mut Host, seconds: f64) -> (u64, Option<f64>) {
    host.turn();
    while !host.take().is_empty() {}
    let again = host.device.flush_lazily(Duration::from_secs_f64(seconds));
    (host.counters()["vhost.memory_not_shared"], again.map(|at| at.as_secs_f64()))
}

#[test]
fn memory_that_is_not_shared_is_told_once_for_each_front_end() {
    for features in FEATURES {
        let (mut host, mut guest, _file) = connected_apart(features);
        assert_eq!(told(&mut host, 1.0), (0, None));
        guest.post_buffers(200);
        assert_eq!(told(&mut host, 2.0), (0, None));
        // With indexes of events it is the only kick, whatever is sent behind it.
        assert!(guest.send_frame(&frame(100, 1), NetHeader::default()));
        assert_eq!(told(&mut host, 2.1), (0, Some(4.1)));
        guest.send_frame(&frame(100, 1), NetHeader::default());
        assert_eq!(told(&mut host, 3.0), (0, Some(4.1)), "not yet");
        assert_eq!(told(&mut host, 4.1), (1, None));
        for later in 5..20 {
            guest.kick(TX);
            assert_eq!(told(&mut host, later.into()), (1, None), "only once");
        }
    }
}

#[test]
fn each_front_end_is_told_of() {
    let (mut host, guest, _file) = connected_apart(FEATURES[0]);
    told(&mut host, 1.0);
    guest.kick(TX);
    told(&mut host, 2.0);
    assert_eq!(told(&mut host, 4.0), (1, None));
    drop(guest);
    host.turn();
    let stream = host.attach();
    let guest = Guest::connect(stream, NO_BUFFERS, &mut || {
        host.turn();
    });
    assert_eq!(told(&mut host, 5.0), (1, None));
    guest.kick(TX);
    assert_eq!(told(&mut host, 6.0), (1, Some(8.0)));
    assert_eq!(told(&mut host, 8.5), (2, None));
}

/// QEMU writes a kick behind the messages that start a ring, Cloud Hypervisor and crosvm when they resume a guest, whose
/// interface may be down for ever.
#[test]
fn kicks_of_a_front_end_say_nothing() {
    let (mut host, guest) = connected(NO_BUFFERS);
    for i in 0..100 {
        for index in [RX, TX] {
            guest.set_enable(index, false);
            guest.set_enable(index, true);
            guest.kick(index);
        }
        assert_eq!(told(&mut host, f64::from(10 * i)), (0, None), "with the messages");
        guest.kick(TX);
        assert_eq!(told(&mut host, f64::from(10 * i) + 0.09), (0, None), "behind them");
        assert_eq!(told(&mut host, f64::from(10 * i) + 9.0), (0, None));
    }
}

#[test]
fn kicks_of_an_empty_receive_ring_say_nothing() {
    // Linux kicks it twice a second when it has no memory for buffers.
    let (mut host, guest) = connected(NO_BUFFERS);
    told(&mut host, 1.0);
    for i in 2..100 {
        guest.kick(RX);
        assert_eq!(told(&mut host, i.into()), (0, None));
    }
}

#[test]
fn a_driver_that_has_put_something_into_any_ring_shares_its_memory() {
    for later in [false, true] {
        let (mut host, mut guest) = connected(NO_BUFFERS);
        told(&mut host, 1.0);
        if !later {
            guest.post_buffers(1);
            told(&mut host, 2.0);
        }
        guest.kick(TX);
        let until = later.then_some(5.0);
        assert_eq!(told(&mut host, 3.0), (0, until), "a front-end that was late");
        if later {
            guest.post_buffers(1);
        }
        for i in 5..100 {
            guest.kick(TX);
            assert_eq!(told(&mut host, i.into()), (0, None));
        }
    }
}

#[test]
fn rings_that_go_on_where_they_were_have_been_seen_full() {
    let (mut host, guest) = connected(Options { first_index: 77, ..NO_BUFFERS });
    told(&mut host, 1.0);
    guest.kick(TX);
    assert_eq!(told(&mut host, 2.0), (0, None));
}

#[test]
fn a_driver_that_has_left_meanwhile_is_not_spoken_of() {
    let (mut host, mut guest) = connected(NO_BUFFERS);
    told(&mut host, 1.0);
    guest.kick(TX);
    assert_eq!(told(&mut host, 2.0), (0, Some(4.0)));
    for index in [RX, TX] {
        guest.stop_ring(index, &mut || {
            host.turn();
        });
    }
    assert_eq!(told(&mut host, 4.0), (0, None));
}
