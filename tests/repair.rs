//! passt-repair as a process: how it finds passt, by name or in a folder, what ends it, and with what exit code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
    drop(UnixListener::bind(folder.path().join("a.repair")).unwrap());
    drop(UnixListener::bind(folder.path().join("z.repair")).unwrap());
    let listener = UnixListener::bind(folder.path().join("m.repair")).unwrap();
    comes_and_goes(start(folder.path()), &listener);
    assert!(accepted(&other, MOMENT).is_none(), "that is not for helpers");
}

#[test]
fn a_folder_in_which_the_socket_appears_later() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(folder.path().join("old.repair")).unwrap());
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
    drop(UnixListener::bind(&old).unwrap());
    let output = end_of(start(&old));
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("is passt running?"), "{words}");
}
