//! A front-end that makes its own descriptors block, which it shares with passt: the loop goes on, ends when it is told
//! to, and serves the next front-end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use passt_guest::{DirtyLog, Guest, NetHeader, Options, RX, TX, bit, request};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who waits for the alarm has waited longer than this.
const WAITS: Duration = Duration::from_millis(400);

struct Program {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
        command.args(["--quiet", "--foreground", "--vhost-user", "-4", "-a", "192.0.2.2/24"]);
        command.args(["-g", "192.0.2.1", "--socket"]).arg(folder.path().join("socket"));
        command.stderr(File::create(folder.path().join("log")).unwrap());
        Self { child: command.spawn().unwrap(), folder }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// It ends when it is told to.
    fn ends(&mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "SIGTERM does not end it");
            pause();
        }
    }

    /// A front-end whose guest has sent a frame and heard that it was used.
    fn guest(&self) -> Guest {
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(self.folder.path().join("socket")) {
                Ok(stream) => break stream,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "nobody is there: {error}"),
            }
            pause();
        };
        // Without event indexes a driver is told of each frame.
        let features = !(bit::MAC | bit::EVENT_IDX);
        let options = Options { features, ..Options::default() };
        let mut guest = Guest::connect(stream, options, &mut pause);
        exchange(&mut guest);
        guest
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// An ARP request, which gets an answer.
fn send(guest: &mut Guest) {
    let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let head = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
    let rest = [192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1];
    guest.send_frame(&[&head[..], &rest].concat(), NetHeader::default());
}

/// A frame is sent and used.
fn exchange(guest: &mut Guest) {
    send(guest);
    let begin = Instant::now();
    while guest.reclaim() == 0 {
        assert!(begin.elapsed() < PATIENCE, "a frame is not used");
        pause();
    }
}

/// Has the next signal to either ring wait.
fn block(guest: &Guest) {
    for ring in [RX, TX] {
        fill(guest.call_fd(ring));
    }
}

/// Has the next signal by this counter wait.
fn fill(counter: BorrowedFd<'_>) {
    drain(counter);
    rustix::io::write(counter, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let flags = fcntl_getfl(counter).unwrap();
    fcntl_setfl(counter, flags - OFlags::NONBLOCK).unwrap();
}

/// What was counted: who waits can go on.
fn drain(counter: BorrowedFd<'_>) -> u64 {
    let flags = fcntl_getfl(counter).unwrap();
    fcntl_setfl(counter, flags | OFlags::NONBLOCK).unwrap();
    let mut count = [0; 8];
    rustix::io::read(counter, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

/// A chain that is none ends the ring to the network for the `time`th time, which is logged; then both rings are
/// stopped, which has an answer.
fn break_ring(program: &Program, guest: &mut Guest, time: usize) {
    guest.rings[TX].put_available(&guest.memory, u16::MAX);
    guest.publish(TX);
    let begin = Instant::now();
    while program.log().matches("transmit ring stopped").count() < time {
        assert!(begin.elapsed() < PATIENCE, "the ring does not break");
        pause();
    }
    for ring in [RX, TX] {
        guest.stop_ring(ring, &mut pause);
    }
}

/// Sends until passt takes nothing any more: before, a driver may not have wanted a signal.
fn stop(guest: &mut Guest) {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "it never waits");
        send(guest);
        let sent = Instant::now();
        while guest.reclaim() == 0 {
            if sent.elapsed() > Duration::from_millis(200) {
                return;
            }
            pause();
        }
    }
}

/// Has passt wait for more of a guest's state: SET_DEVICE_STATE_FD of the vhost-user specification, to load while stopped.
fn block_state(guest: &mut Guest) -> OwnedFd {
    const LOAD_STOPPED: [u32; 2] = [1, 0];
    const TAKEN: u64 = 0x100;
    for ring in [RX, TX] {
        guest.stop_ring(ring, &mut pause);
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let body = LOAD_STOPPED.map(u32::to_ne_bytes).concat();
    guest.send(request::SET_DEVICE_STATE_FD, &body, &[reader.as_fd()]);
    assert_eq!(guest.client.reply_u64(), Some(TAKEN));
    pause();
    let flags = fcntl_getfl(&reader).unwrap();
    fcntl_setfl(&reader, flags - OFlags::NONBLOCK).unwrap();
    rustix::io::write(&writer, &[0]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    writer
}

#[test]
fn a_front_end_that_blocks_a_guest_s_state_cannot_keep_the_program() {
    let mut program = Program::start();
    let mut guest = program.guest();
    let _writer = block_state(&mut guest);
    program.ends();
}

#[test]
fn a_front_end_that_blocks_its_counter_cannot_keep_the_program() {
    let mut program = Program::start();
    let mut guest = program.guest();
    block(&guest);
    stop(&mut guest);
    program.ends();
}

#[test]
fn and_not_from_the_next_front_end() {
    let program = Program::start();
    let mut guest = program.guest();
    block(&guest);
    stop(&mut guest);
    let before = Instant::now();
    drop(guest);
    program.guest();
    assert!(before.elapsed() < PATIENCE);
}

#[test]
fn a_counter_of_the_dirty_log_that_blocks_is_signalled_no_more() {
    let program = Program::start();
    let mut guest = program.guest();
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let log = DirtyLog::new(guest.memory.len());
    guest.send(request::SET_LOG_FD, &[], &[counter.as_fd()]);
    guest.start_log(&log, &mut pause);
    exchange(&mut guest);
    exchange(&mut guest);
    assert_ne!(drain(counter.as_fd()), 0, "it is told");
    fill(counter.as_fd());
    let begin = Instant::now();
    // The first is used before the front-end is told, the second when that has been given up.
    exchange(&mut guest);
    exchange(&mut guest);
    assert!(begin.elapsed() > WAITS, "it has waited");
    exchange(&mut guest);
    drain(counter.as_fd());
    exchange(&mut guest);
    exchange(&mut guest);
    assert_eq!(drain(counter.as_fd()), 0, "each frame would wait anew");
}

#[test]
fn a_counter_of_errors_that_blocks_is_signalled_no_more() {
    let program = Program::start();
    let mut guest = program.guest();
    break_ring(&program, &mut guest, 1);
    assert_eq!(drain(guest.err_fd(TX)), 1, "it is told");
    guest.restart(&mut pause);
    exchange(&mut guest);
    fill(guest.err_fd(TX));
    let begin = Instant::now();
    break_ring(&program, &mut guest, 2);
    assert!(begin.elapsed() > WAITS, "it has waited");
    drain(guest.err_fd(TX));
    guest.restart(&mut pause);
    exchange(&mut guest);
    break_ring(&program, &mut guest, 3);
    assert_eq!(drain(guest.err_fd(TX)), 0, "each fault would wait anew");
}
