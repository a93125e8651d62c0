//! A front-end that makes its own descriptors block, which it shares with passt: the loop goes on, ends when it is told
//! to, and serves the next front-end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use passt_guest::{Guest, NetHeader, Options, RX, TX, bit, request};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

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
        Self { child: command.spawn().unwrap(), folder }
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
        send(&mut guest);
        while guest.reclaim() == 0 {
            assert!(begin.elapsed() < PATIENCE, "a frame is not used");
            pause();
        }
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

/// Has the next signal to either ring wait.
fn block(guest: &Guest) {
    for ring in [RX, TX] {
        let call = guest.call_fd(ring);
        guest.interrupts(ring);
        rustix::io::write(call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let flags = fcntl_getfl(call).unwrap();
        fcntl_setfl(call.as_fd(), flags - OFlags::NONBLOCK).unwrap();
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
