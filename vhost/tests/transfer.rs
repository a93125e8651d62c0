//! The transfer of device state: what the front-end is answered, and when.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use passt_frame::{Errno, FrameMeta, FramePort, FrontEndRequest, LinkChange};
use passt_guest::{Guest, NetHeader, Options, RX, TX, request};
use rig::{Host, connected, frame};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::pipe::pipe;

const SAVE: u32 = 0;
const LOAD: u32 = 1;
const STOPPED: u32 = 0;

/// The answer to SET_DEVICE_STATE_FD: the device has no descriptor of its own, and perhaps an error.
const TAKEN: u64 = 0x100;
const REFUSED: u64 = 0x101;

/// A connected guest whose rings have stopped, as before a transfer.
fn at_rest() -> (Host, Guest) {
    let (mut host, mut guest) = connected(Options::default());
    stop(&mut host, &mut guest);
    (host, guest)
}

fn stop(host: &mut Host, guest: &mut Guest) -> [u32; 2] {
    [RX, TX].map(|index| {
        guest.stop_ring(index, &mut || {
            host.turn();
        })
    })
}

fn start(host: &mut Host, guest: &mut Guest, bases: [u32; 2]) {
    guest.start_ring_at(RX, bases[0]);
    guest.start_ring_at(TX, bases[1]);
    host.turn();
}

fn send_state_fd(guest: &Guest, direction: u32, fd: impl AsFd) {
    let body = [direction, STOPPED].map(u32::to_ne_bytes).concat();
    guest.send(request::SET_DEVICE_STATE_FD, &body, &[fd.as_fd()]);
}

/// SET_DEVICE_STATE_FD; returns the answer.
fn begin(host: &mut Host, guest: &mut Guest, direction: u32, fd: impl AsFd) -> u64 {
    send_state_fd(guest, direction, fd);
    host.turn();
    guest.client.reply_u64().expect("the connection lives")
}

fn check(host: &mut Host, guest: &Guest) {
    guest.send(request::CHECK_DEVICE_STATE, &[], &[]);
    host.turn();
}

/// The words for a request that are compared.
fn next(host: &mut Host) -> &'static str {
    match host.device.take_request() {
        None => "nothing",
        Some(FrontEndRequest::MtuChanged(_)) => "MTU",
        Some(FrontEndRequest::SaveState(_)) => "save",
        Some(FrontEndRequest::LoadState(_)) => "load",
        Some(FrontEndRequest::CheckState) => "check",
        Some(FrontEndRequest::Rewound) => "rewound",
    }
}

fn assert_traffic(host: &mut Host, guest: &mut Guest) {
    guest.send_frame(&frame(100, 1), NetHeader::default());
    assert_eq!(host.take_all().len(), 1);
    assert!(host.give(&frame(100, 2), FrameMeta::default()));
    assert_eq!(guest.recv_frame().unwrap().0, frame(100, 2));
}

#[test]
fn state_goes_through_the_front_ends_pipe_without_blocking() {
    let (mut host, mut guest) = at_rest();
    let (reader, writer) = pipe().unwrap();
    assert_eq!(begin(&mut host, &mut guest, SAVE, &writer), TAKEN);
    drop(writer);
    let Some(FrontEndRequest::SaveState(fd)) = host.device.take_request() else { panic!() };
    assert!(rustix::fs::fcntl_getfl(&fd).unwrap().contains(OFlags::NONBLOCK));
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    File::from(fd).write_all(b"state").unwrap();
    let mut bytes = String::new();
    File::from(reader).read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "state", "and the end, since no copy is left open");

    let (reader, writer) = pipe().unwrap();
    assert_eq!(begin(&mut host, &mut guest, LOAD, &reader), TAKEN);
    File::from(writer).write_all(b"state").unwrap();
    let Some(FrontEndRequest::LoadState(fd)) = host.device.take_request() else { panic!() };
    let mut bytes = String::new();
    File::from(fd).read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "state");
    assert_eq!(next(&mut host), "nothing");
}

#[test]
fn check_is_answered_when_the_transfer_has_ended_and_not_before() {
    let ends = [(Ok(()), 0), (Err(Errno::NODATA), 61)];
    for ((ended, wanted), (next_ended, next_wanted)) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let (mut host, mut guest) = at_rest();
        let (_reader, writer) = pipe().unwrap();
        begin(&mut host, &mut guest, SAVE, &writer);
        check(&mut host, &guest);
        assert_eq!(
            [next(&mut host), next(&mut host), next(&mut host)],
            ["save", "check", "nothing"]
        );
        assert!(guest.client.received().is_empty(), "nothing is known yet");
        host.device.answer_check(ended);
        assert_eq!(guest.client.reply(), Some((43, 5, u64::to_ne_bytes(wanted).to_vec())));
        // Once more: the answer is known.
        check(&mut host, &guest);
        assert_eq!(guest.client.reply_u64(), Some(wanted));
        assert_eq!(next(&mut host), "nothing");
        // Another transfer is another question.
        assert_eq!(begin(&mut host, &mut guest, SAVE, &writer), TAKEN);
        check(&mut host, &guest);
        assert!(guest.client.received().is_empty());
        host.device.answer_check(next_ended);
        assert_eq!(guest.client.reply_u64(), Some(next_wanted));
        assert_eq!(host.counters()["vhost.violations"], 0);
    }
}

#[test]
fn without_a_transfer_the_answer_is_that_there_was_none() {
    let (mut host, mut guest) = at_rest();
    host.device.answer_check(Ok(()));
    check(&mut host, &guest);
    assert_eq!(guest.client.reply_u64(), Some(u64::MAX));
    assert_eq!(next(&mut host), "nothing");
    // Nor is one remembered for the next front-end.
    let (_reader, writer) = pipe().unwrap();
    begin(&mut host, &mut guest, SAVE, &writer);
    drop(guest);
    host.turn();
    assert_eq!(next(&mut host), "nothing", "nor its descriptor");
    let stream = host.attach();
    let mut guest = Guest::new(stream, Options::default());
    check(&mut host, &guest);
    assert_eq!(guest.client.reply_u64(), Some(u64::MAX));
}

#[test]
fn messages_behind_a_check_wait_for_its_answer() {
    let (mut host, mut guest) = at_rest();
    let (reader, _writer) = pipe().unwrap();
    begin(&mut host, &mut guest, LOAD, &reader);
    guest.send(request::CHECK_DEVICE_STATE, &[], &[]);
    guest.start_ring_at(RX, 0);
    guest.start_ring_at(TX, 0);
    guest.send(request::GET_QUEUE_NUM, &[], &[]);
    host.links.clear();
    host.turn();
    assert!(guest.client.received().is_empty(), "replies keep the order of requests");
    assert_eq!(host.links, [], "and the guest does not run yet");
    assert_eq!([next(&mut host), next(&mut host)], ["load", "check"]);
    // The front-end says more meanwhile, and the loop comes to rest.
    guest.send(request::GET_MAX_MEM_SLOTS, &[], &[]);
    host.turn();
    assert!(guest.client.received().is_empty());
    host.device.answer_check(Ok(()));
    host.turn();
    let mut reply = || guest.client.reply().map(|(request, ..)| request);
    let order =
        [request::CHECK_DEVICE_STATE, request::GET_QUEUE_NUM, request::GET_MAX_MEM_SLOTS].map(Some);
    assert_eq!([reply(), reply(), reply()], order);
    assert_eq!(host.links, [LinkChange::Up]);
    assert_traffic(&mut host, &mut guest);
}

#[test]
fn a_front_end_that_leaves_while_a_reply_is_owed_is_gone() {
    for more in [false, true] {
        let (mut host, mut guest) = at_rest();
        let (_reader, writer) = pipe().unwrap();
        begin(&mut host, &mut guest, SAVE, &writer);
        check(&mut host, &guest);
        if more {
            guest.send(request::GET_QUEUE_NUM, &[], &[]);
        }
        drop(guest);
        host.turn();
        assert!(!host.device.is_attached(), "more: {more}");
        assert_eq!(host.links.last(), Some(&LinkChange::Closed));
        assert_eq!(host.counters()["vhost.violations"], 0);
        host.device.answer_check(Ok(()));
        let stream = host.attach();
        let mut guest = Guest::connect(stream, Options::default(), &mut || {
            host.turn();
        });
        host.device.answer_check(Ok(()));
        host.turn();
        assert!(guest.client.received().is_empty(), "the answer was not for this one");
        assert_traffic(&mut host, &mut guest);
    }
}

#[test]
fn a_front_end_that_does_not_take_the_late_answer_is_dropped() {
    let (_reader, writer) = pipe().unwrap();
    let transferring = || {
        let (mut host, mut guest) = at_rest();
        begin(&mut host, &mut guest, SAVE, &writer);
        (host, guest)
    };
    // How many replies that nobody reads the socket takes.
    let ask = |host: &mut Host, guest: &Guest| {
        guest.client.send(request::GET_QUEUE_NUM, &[], &[]);
        host.turn();
        host.device.is_attached()
    };
    let (mut host, guest) = transferring();
    let room = (0..100_000).take_while(|_| ask(&mut host, &guest)).count();
    assert!((1..100_000).contains(&room), "{room}");

    let (mut host, guest) = transferring();
    assert_eq!((0..room).filter(|_| ask(&mut host, &guest)).count(), room);
    check(&mut host, &guest);
    assert!(host.device.is_attached());
    host.device.answer_check(Ok(()));
    host.turn();
    assert!(!host.device.is_attached());
    assert_eq!(host.links.last(), Some(&LinkChange::Closed));
    assert_eq!(host.counters()["vhost.violations"], 1);
}

#[test]
fn state_of_a_device_that_runs_is_not_transferred() {
    let (mut host, mut guest) = connected(Options::default());
    let (_reader, writer) = pipe().unwrap();
    for index in [RX, TX] {
        assert_eq!(begin(&mut host, &mut guest, SAVE, &writer), REFUSED);
        assert_eq!(next(&mut host), "nothing");
        guest.stop_ring(index, &mut || {
            host.turn();
        });
    }
    assert_eq!(begin(&mut host, &mut guest, SAVE, &writer), TAKEN);
}

#[test]
fn odd_descriptors_are_refused_and_the_guest_keeps_its_network() {
    let (mut host, mut guest) = at_rest();
    let (reader, writer) = pipe().unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut answer = |direction, fd: &dyn Fn() -> OwnedFd| {
        let answer = begin(&mut host, &mut guest, direction, fd());
        (answer, next(&mut host))
    };
    let cases: [(&str, OwnedFd, [bool; 2]); 6] = [
        ("socket", socket.into(), [true, true]),
        ("read end", reader, [false, true]),
        ("write end", writer, [true, false]),
        ("file", file.into(), [false, false]),
        ("eventfd", counter, [false, false]),
        ("folder", File::open("/").unwrap().into(), [false, false]),
    ];
    for (what, fd, taken) in cases {
        for (direction, taken, request) in [(SAVE, taken[0], "save"), (LOAD, taken[1], "load")] {
            let wanted = if taken { (TAKEN, request) } else { (REFUSED, "nothing") };
            let copy = || fd.try_clone().unwrap();
            assert_eq!(answer(direction, &copy), wanted, "{what} {request}");
        }
    }
    start(&mut host, &mut guest, [0, 0]);
    assert_traffic(&mut host, &mut guest);
    assert_eq!(host.counters()["vhost.violations"], 0);
}

#[test]
fn what_is_no_transfer_ends_the_connection() {
    let (_reader, writer) = pipe().unwrap();
    let body = |direction: u32, phase: u32| [direction, phase].map(u32::to_ne_bytes).concat();
    for (what, body, fds) in [
        ("direction", body(2, 0), 1),
        ("phase", body(0, 1), 1),
        ("length", body(0, 0)[..4].to_vec(), 1),
        ("no descriptor", body(0, 0), 0),
        ("two of them", body(0, 0), 2),
    ] {
        let (mut host, guest) = at_rest();
        guest.send(request::SET_DEVICE_STATE_FD, &body, &vec![writer.as_fd(); fds]);
        host.turn();
        assert!(!host.device.is_attached(), "{what}");
        assert_eq!(host.counters()["vhost.violations"], 1, "{what}");
        assert_eq!(next(&mut host), "nothing", "{what}");
    }
}

#[test]
fn a_second_transfer_is_told_of_while_the_first_has_not_ended() {
    let (mut host, mut guest) = at_rest();
    let (reader, writer) = pipe().unwrap();
    assert_eq!(begin(&mut host, &mut guest, SAVE, &writer), TAKEN);
    assert_eq!(begin(&mut host, &mut guest, LOAD, &reader), TAKEN);
    assert_eq!([next(&mut host), next(&mut host), next(&mut host)], ["save", "load", "nothing"]);
}

#[test]
fn a_driver_that_goes_on_from_elsewhere_is_told_of_once() {
    let (mut host, mut guest) = connected(Options { first_index: 300, ..Options::default() });
    assert_eq!(next(&mut host), "nothing", "nothing is known of the time before");
    for _ in 0..5 {
        assert_traffic(&mut host, &mut guest);
    }
    let bases = stop(&mut host, &mut guest);
    assert!(bases[TX] >= 305, "{bases:?}");
    start(&mut host, &mut guest, bases);
    assert_eq!(next(&mut host), "nothing", "it goes on where it was");
    stop(&mut host, &mut guest);
    start(&mut host, &mut guest, [0, 0]);
    assert_eq!(next(&mut host), "nothing", "it begins anew");
    for rewound in [[301, 301], [bases[RX], 302], [303, bases[TX]]] {
        stop(&mut host, &mut guest);
        guest.start_ring_at(RX, bases[RX]);
        guest.start_ring_at(TX, bases[TX]);
        host.turn();
        while host.device.take_request().is_some() {}
        stop(&mut host, &mut guest);
        host.links.clear();
        start(&mut host, &mut guest, rewound);
        assert_eq!([next(&mut host), next(&mut host)], ["rewound", "nothing"], "{rewound:?}");
        assert_eq!(host.links, [LinkChange::Up]);
    }
}

#[test]
fn a_reset_before_a_snapshot_is_loaded_hides_nothing() {
    let (mut host, mut guest) = connected(Options { first_index: 300, ..Options::default() });
    assert_traffic(&mut host, &mut guest);
    stop(&mut host, &mut guest);
    guest.send(request::RESET_DEVICE, &[], &[]);
    guest.send(request::SET_FEATURES, &guest.features.to_ne_bytes(), &[]);
    for index in [RX, TX] {
        guest.set_enable(index, true);
    }
    start(&mut host, &mut guest, [300, 300]);
    assert_eq!([next(&mut host), next(&mut host)], ["rewound", "nothing"]);
    // Another front-end has another guest.
    drop(guest);
    host.turn();
    let stream = host.attach();
    let options = Options { first_index: 200, ..Options::default() };
    let _guest = Guest::connect(stream, options, &mut || {
        host.turn();
    });
    assert_eq!(next(&mut host), "nothing");
}
