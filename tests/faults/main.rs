//! A fault at every system call: the program runs under a tracer, which has one call after the other go wrong in each
//! way that is plausible (`calls.rs`), while a guest talks (`guest.rs`). Nobody panics, no byte is wrong, and the next
//! conversation is as good as any; no descriptor is left. Before the program is ready, a call that fails is told and
//! ends it, or does no harm. Nothing leaves the machine. `tests/faults/run` runs it alone.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod calls;
mod guest;
mod tracer;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest::{ECHO, converse};
use passt_support::namespace::isolated;
use tracer::{Outcome, Traced};

/// What a conversation without faults takes at most, and one with a fault may take.
const PATIENCE: Duration = Duration::from_secs(20);
const FAULTY: Duration = Duration::from_millis(400);

const SETUP: &str = "ip link set lo up\necho '0 0' > /proc/sys/net/ipv4/ping_group_range";

/// Descriptors that conversations may leave for a while: flows of datagrams, and streams that were given up.
const FEW_DESCRIPTORS: usize = 12;

/// passt in the foreground.
fn passt(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
    command.args(["--foreground", "-4", "-a", "192.0.2.2/24", "-g", "192.0.2.1", "-m", "1500"]);
    command.args(["-t", "127.0.0.1/7000", "-u", "127.0.0.1/7001", "--runas=0:0"]);
    command.arg("--socket").arg(folder.join("socket")).arg("--pid").arg(folder.join("pid"));
    if std::env::var_os("FAULTS_TRACE").is_some() {
        command.arg("--trace");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(folder.join("stderr")).unwrap());
    command
}

/// Echoes on the loopback device.
fn serve() {
    let listener = TcpListener::bind(("127.0.0.1", ECHO)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 16_384];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let socket = UdpSocket::bind(("127.0.0.1", ECHO)).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
}

/// Says it in the file that `FAULTS_LOG` names: what a test in a namespace of its own prints is seen only if it fails.
fn tell(line: &str) {
    let Some(path) = std::env::var_os("FAULTS_LOG") else { return };
    let mut log = std::fs::File::options().append(true).create(true).open(path).unwrap();
    writeln!(log, "{line}").unwrap();
}

/// Whether it is ready before it ends.
fn gets_ready(program: &mut Traced, folder: &Path) -> bool {
    let begin = Instant::now();
    let has_id = || std::fs::read_to_string(folder.join("pid")).is_ok_and(|id| !id.is_empty());
    while !has_id() {
        if program.end(Duration::from_millis(2)).is_some() {
            return false;
        }
        assert!(begin.elapsed() < PATIENCE, "it neither gets ready nor ends");
    }
    true
}

fn said(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("stderr")).unwrap()
}

fn descriptors(program: &Traced) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.pid)).unwrap().count()
}

#[test]
fn a_call_that_fails_takes_nobody_else_along() {
    isolated(SETUP, || {
        serve();
        let folder = tempfile::tempdir().unwrap();
        let mut program = Traced::start(passt(folder.path()), None);
        assert!(gets_ready(&mut program, folder.path()), "{}", said(folder.path()));
        let socket = folder.path().join("socket");
        let mut port = 40_000;
        let mut talk = |patience| {
            port = if port == 60_000 { 40_000 } else { port + 1 };
            converse(&socket, port, patience)
        };
        assert!(talk(PATIENCE).is_all(), "without a fault");
        program.calls();
        assert!(talk(PATIENCE).is_all(), "without a fault");
        let calls = program.calls();
        let before = descriptors(&program);
        let all = std::env::var_os("FAULTS_ALL").is_some();
        let each = if all { usize::MAX } else { EACH };
        let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
        let mut faults = 0;
        for (place, call) in calls.iter().enumerate() {
            let times = seen.entry(*call).or_default();
            *times += 1;
            if *times > each {
                continue;
            }
            for outcome in calls::at_work(*call) {
                faults += 1;
                let begin = Instant::now();
                program.arm((place, *call), *outcome);
                let heard = talk(FAULTY);
                let hit = program.disarm();
                let what = format!("call {hit:?} at {place}: {outcome:?}, {heard:?}");
                if let Some(status) = program.end(Duration::ZERO) {
                    panic!("{what}: {status}, {}", said(folder.path()));
                }
                assert!(talk(PATIENCE).is_all(), "{what}: the next one hears nothing");
                tell(&format!("{what}, {:?}", begin.elapsed()));
            }
        }
        let (calls, after) = (calls.len(), descriptors(&program));
        tell(&format!(
            "{calls} calls, {faults} faults, {before} descriptors before and {after} after"
        ));
        assert!(after <= before + FEW_DESCRIPTORS, "{before} descriptors before, {after} after");
        assert!(!said(folder.path()).contains("panicked"), "{}", said(folder.path()));
    });
}

/// How often a kind of call fails for certain; with `FAULTS_ALL`, each time.
const EACH: usize = 6;

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    isolated(SETUP, || {
        serve();
        let folder = tempfile::tempdir().unwrap();
        let mut program = Traced::start(passt(folder.path()), None);
        assert!(gets_ready(&mut program, folder.path()), "{}", said(folder.path()));
        let calls = program.calls();
        drop(program);
        // What comes before the first look at the descriptors is the loader's.
        let first = calls.iter().position(|call| *call == libc::SYS_poll).unwrap();
        let waits = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
        let ready = calls.iter().position(|call| waits.contains(call)).unwrap_or(calls.len());
        // One place alone, if `FAULTS_PLACE` names it. With `FAULTS_TRACE` the program says all it can.
        let only: Option<usize> =
            std::env::var("FAULTS_PLACE").ok().map(|place| place.parse().unwrap());
        let (mut told, mut borne) = (0, 0);
        for (place, call) in calls.iter().enumerate().take(ready).skip(first) {
            let Some(outcome) = calls::at_start(*call) else { continue };
            if only.is_some_and(|only| only != place) {
                continue;
            }
            // The second mount is the empty file system.
            let mounts = calls[..place].iter().filter(|other| **other == libc::SYS_mount);
            let sandboxed = mounts.count() >= 2;
            let before = calls[..place].iter().filter(|other| *other == call).count();
            tell(&format!("call {call} at {place}, after {before} of its kind: {outcome:?}"));
            if start((place, *call), outcome, sandboxed) {
                borne += 1;
            } else {
                told += 1;
            }
        }
        tell(&format!(
            "{ready} calls before it is ready: {told} faults end it, {borne} do no harm"
        ));
        assert!(told > 20 || only.is_some(), "only {told} faults were noticed");
    });
}

/// Starts the program with a fault. Whether it serves all the same.
fn start((place, call): (usize, i64), outcome: Outcome, sandboxed: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Traced::start(passt(folder.path()), Some(((place, call), outcome)));
    let what = format!("call {call} at {place}: {outcome:?}");
    if gets_ready(&mut program, folder.path()) {
        let heard = converse(&folder.path().join("socket"), 40_000, PATIENCE);
        assert!(heard.is_all(), "{what}: {heard:?}, {}", said(folder.path()));
        return true;
    }
    let status = program.end(PATIENCE).unwrap();
    let text = said(folder.path());
    assert_eq!(status.code(), Some(1), "{what}: {status}, {text}");
    assert!(!text.trim().is_empty(), "{what}: not one word");
    assert!(!text.contains("panicked"), "{what}: {text}");
    // Behind the door of the sandbox there are no files that could be removed.
    let left = std::fs::read_dir(folder.path()).unwrap().count() - 1;
    assert!(left == 0 || sandboxed, "{what}: {left} files are left");
    false
}
