//! The program in the background: it is ready when the command returns, its PID file says who it is,
//! it serves, and it ends when it is told to. No port is opened, and nothing leaves the machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that is not ours to wait for; killed when a test fails.
struct Background(Pid);

impl Background {
    /// Starts the program with `arguments` and returns when the command has.
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let pid_file = folder.join("pid");
        let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
        command.args(["--vhost-user", "--quiet", "--pid"]).arg(&pid_file).args(arguments);
        assert_eq!(command.status().unwrap().code(), Some(0));
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        Self(Pid::from_raw(pid.trim().parse().unwrap()).unwrap())
    }

    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // Who has become its parent may not have noticed yet.
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }

    fn assert_ends(&self) {
        let begin = Instant::now();
        while !self.has_ended() {
            assert!(begin.elapsed() < PATIENCE, "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}

/// Asks for the device's features, as every front-end does first.
fn assert_serves(front_end: &mut UnixStream) {
    let get_features = [1u32, 1, 0].map(u32::to_le_bytes).concat();
    front_end.set_read_timeout(Some(PATIENCE)).unwrap();
    front_end.write_all(&get_features).unwrap();
    let mut reply = [0; 20];
    front_end.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], [1u32, 5, 8].map(u32::to_le_bytes).concat());
}

/// The process that watches the host for `program`, as a child of it. It is there when the program is ready.
fn watcher(program: &Background) -> String {
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    let parent = program.0.to_string();
    let found = processes.find(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let watches = stat.contains("(host-watch)");
        watches && stat.rsplit(") ").next().unwrap().split(' ').nth(1) == Some(&parent)
    });
    found.expect("a child that watches").path().display().to_string()
}

/// It is a child of the program that goes on, not of the one that has gone, so that it is nobody else's to reap: with the
/// program it is gone, however that ends.
#[test]
fn who_watches_the_host_goes_with_the_program_and_leaves_nothing_to_reap() {
    for signal in [Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let program = Background::start(folder.path(), &["--socket", socket.to_str().unwrap()]);
        let watcher = watcher(&program);
        kill_process(program.0, signal).unwrap();
        program.assert_ends();
        assert!(!Path::new(&watcher).exists(), "{signal:?}: not even a zombie");
    }
}

/// As one does at a file that a server far away does not give.
#[test]
fn who_watches_the_host_and_stands_still_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let program = Background::start(folder.path(), &["--socket", socket.to_str().unwrap()]);
    let watcher = watcher(&program);
    let pid = watcher.rsplit('/').next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    kill_process(program.0, Signal::TERM).unwrap();
    program.assert_ends();
    let begin = Instant::now();
    while std::fs::read_to_string(format!("{watcher}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
    {
        assert!(begin.elapsed() < PATIENCE, "it stays behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn listening_in_the_background_until_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let program = Background::start(folder.path(), &["--socket", socket.to_str().unwrap()]);
    for _ in 0..2 {
        assert_serves(&mut UnixStream::connect(&socket).unwrap());
    }
    assert!(!program.has_ended());
    kill_process(program.0, Signal::TERM).unwrap();
    program.assert_ends();
}

#[test]
fn one_client_by_descriptor_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let fd = theirs.as_raw_fd().to_string();
    let program = Background::start(folder.path(), &["--fd", &fd]);
    drop(theirs);
    assert_serves(&mut ours);
    assert!(!program.has_ended());
    drop(ours);
    program.assert_ends();
}

/// Kibibytes of a process that `name` counts in proc_pid_status(5).
fn memory(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
}

/// Hosts have one program, and who watches, for each guest, and most of them do nothing most of the time.
#[test]
fn what_only_starting_needed_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let program = Background::start(folder.path(), &["--socket", socket.to_str().unwrap()]);
    for process in [format!("/proc/{}", program.0), watcher(&program)] {
        let begin = Instant::now();
        loop {
            let (most, now) = (memory(&process, "VmHWM"), memory(&process, "VmRSS"));
            if most.saturating_sub(now) >= 512 {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{process}: {now} of {most} KiB are left");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // It goes on where it was.
    assert_serves(&mut UnixStream::connect(&socket).unwrap());
    kill_process(program.0, Signal::TERM).unwrap();
    program.assert_ends();
}
