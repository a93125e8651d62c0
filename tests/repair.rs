//! passt-repair as a process: how it finds passt, by name or in a folder, what ends it, and with what exit code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use passt_support::wait::leave_socket;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What does not happen within this time does not happen.
const MOMENT: Duration = Duration::from_millis(300);

fn start(path: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt-repair"));
    command.arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The helper's connection, or nothing within `time`.
fn accepted(listener: &UnixListener, time: Duration) -> Option<UnixStream> {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Ok((connection, _)) = listener.accept() {
            connection.set_nonblocking(false).unwrap();
            return Some(connection);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// How it ends by itself.
fn end_of(mut helper: Child) -> Output {
    let end = Instant::now() + PATIENCE;
    while helper.try_wait().unwrap().is_none() {
        if Instant::now() >= end {
            helper.kill().unwrap();
            panic!("the helper does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    helper.wait_with_output().unwrap()
}

/// Begins or ends the repair of `count` sockets, which are one.
fn command(passt: &UnixStream, value: u8, socket: &TcpStream, count: usize) {
    let sockets = vec![socket.as_fd(); count];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)));
    let byte = [value];
    assert_eq!(sendmsg(passt, &[IoSlice::new(&byte)], &mut control, SendFlags::NOSIGNAL), Ok(1));
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn is_stopped(helper: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.id())).unwrap();
    stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
}

/// passt is at `listener`, to which the helper comes; it ends well when passt has had enough.
fn comes_and_goes(helper: Child, listener: &UnixListener) {
    let connection = accepted(listener, PATIENCE).unwrap();
    drop(connection);
    let output = end_of(helper);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_socket_of_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let listener = UnixListener::bind(&path).unwrap();
    comes_and_goes(start(&path), &listener);
}

#[test]
fn a_folder_with_the_socket_in_it_beside_old_ones_and_others() {
    let folder = tempfile::tempdir().unwrap();
    let other = UnixListener::bind(folder.path().join("passt.sock")).unwrap();
    leave_socket(&folder.path().join("a.repair"));
    leave_socket(&folder.path().join("z.repair"));
    let listener = UnixListener::bind(folder.path().join("m.repair")).unwrap();
    comes_and_goes(start(folder.path()), &listener);
    assert!(accepted(&other, MOMENT).is_none(), "that is not for helpers");
}

#[test]
fn a_folder_in_which_the_socket_appears_later() {
    let folder = tempfile::tempdir().unwrap();
    leave_socket(&folder.path().join("old.repair"));
    let mut helper = start(folder.path());
    std::thread::sleep(MOMENT);
    let other = UnixListener::bind(folder.path().join("passt.sock")).unwrap();
    std::fs::write(folder.path().join("repair"), "").unwrap();
    std::thread::sleep(MOMENT);
    assert_eq!(helper.try_wait().unwrap(), None, "it waits");
    let listener = UnixListener::bind(folder.path().join("passt.sock.repair")).unwrap();
    comes_and_goes(helper, &listener);
    assert!(accepted(&other, MOMENT).is_none(), "that is not for helpers");
}

#[test]
fn a_folder_into_which_the_socket_is_moved() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let helper = start(folder.path());
    std::thread::sleep(MOMENT);
    let listener = UnixListener::bind(elsewhere.path().join("new")).unwrap();
    let name = folder.path().join("passt.repair");
    std::fs::rename(elsewhere.path().join("new"), name).unwrap();
    comes_and_goes(helper, &listener);
}

#[test]
fn what_is_no_command_ends_it_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let listener = UnixListener::bind(&path).unwrap();
    let helper = start(&path);
    let mut connection = accepted(&listener, PATIENCE).unwrap();
    connection.write_all(&[1]).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "it does not answer");
    let output = end_of(helper);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("is it passt?"), "{words}");
}

#[test]
fn exit_codes_tell_a_wrong_path_from_one_at_which_nobody_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(end_of(start(&file)).status.code(), Some(2));
    assert_eq!(end_of(start(&folder.path().join("nowhere"))).status.code(), Some(1));
    let old = folder.path().join("old.repair");
    leave_socket(&old);
    let output = end_of(start(&old));
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("is passt running?"), "{words}");
}

/// What was told a helper that sleeps, by a passt that has given up on it.
fn wakes_up_late(value: u8) -> (Output, TcpStream, TcpStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let listener = UnixListener::bind(&path).unwrap();
    let helper = start(&path);
    let passt = accepted(&listener, PATIENCE).unwrap();
    let pid = Pid::from_child(&helper);
    kill_process(pid, Signal::STOP).unwrap();
    let begin = Instant::now();
    while !is_stopped(&helper) {
        assert!(begin.elapsed() < PATIENCE, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (ours, peer) = connection();
    command(&passt, value, &ours, 3);
    drop(passt);
    kill_process(pid, Signal::CONT).unwrap();
    (end_of(helper), ours, peer)
}

#[test]
fn a_command_of_a_passt_that_has_left_begins_no_repair() {
    let (output, mut ours, mut peer) = wakes_up_late(1);
    // Without the privilege it would fail, and with it the bytes would go nowhere.
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    ours.write_all(b"on").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn and_ends_one() {
    // Without the privilege the kernel refuses, which is told.
    let code = wakes_up_late(0).0.status.code();
    assert_eq!(code, Some(i32::from(!is_privileged())));
}

/// Whether a process may switch `TCP_REPAIR` here.
fn is_privileged() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 12 != 0
}

/// A helper that starts with these limits of open descriptors, and is sent 253 sockets at once.
fn with_limits(current: u64, maximum: u64) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let mut words = Command::new("sh");
    words.args(["-c", "ulimit -Sn $1 && ulimit -Hn $2 && exec $3 $4", "sh"]);
    words.args([current.to_string(), maximum.to_string()]);
    words.arg(env!("CARGO_BIN_EXE_passt-repair")).arg(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let helper = words.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut passt = accepted(&listener, PATIENCE).unwrap();
    let (ours, _peer) = connection();
    command(&passt, 1, &ours, 253);
    let answered = passt.read(&mut [0]).unwrap();
    assert_eq!(answered == 1, maximum > 253 && is_privileged());
    drop(passt);
    end_of(helper)
}

#[test]
fn a_limit_that_was_lowered_is_raised() {
    let output = with_limits(64, 512);
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(!words.contains("limit"), "{words}");
    assert_eq!(output.status.code(), Some(i32::from(!is_privileged())), "{words}");
}

#[test]
fn a_limit_that_is_too_low_is_named() {
    let output = with_limits(64, 100);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("limit of open descriptors, 100: raise it"), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
}
