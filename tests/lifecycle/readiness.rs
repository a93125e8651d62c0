//! When the program is ready, and who is told: the caller by an exit code, the PID file, the service
//! manager. A start that fails says so in words, and leaves nothing behind.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};

use passt_support::refusal::{deny, meet};
use passt_support::skipped::needs_root;
use passt_support::wait::{PATIENCE, until};
use rustix::process::{Signal, geteuid};

use crate::rig::{Place, Program, contains, refusal, status_field, unshare};

/// A user that nothing else is about.
const STRANGER: u32 = 54_321;

fn mode(place: &Place, name: &str) -> u32 {
    std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777
}

#[test]
fn background_is_ready_when_the_command_returns() {
    let place = Place::new();
    let mut program = place.returned(&mut place.visible_passt(&["--one-off"]));
    assert_eq!(mode(&place, "pid"), 0o600);
    for (number, link) in program.descriptors().into_iter().take(3) {
        assert_eq!(link.to_str(), Some("/dev/null"), "descriptor {number}");
    }
    let session = rustix::process::getsid(Some(program.pid)).unwrap();
    assert_eq!(session, program.pid, "a session of its own");
    program.end(Signal::TERM);
    assert!(place.path("pid").exists() && place.path("socket").exists(), "both stay behind");
}

#[test]
fn foreground_is_ready_when_the_pid_file_is_written() {
    let place = Place::new();
    let mut program = place.foreground::<&str>(&[]);
    assert_eq!(mode(&place, "pid"), 0o600);
    assert!(place.serves());
    assert_eq!(program.end(Signal::TERM), Some(0));
    assert!(place.text("stdout").is_empty());
    assert!(place.text("stderr").contains("UNIX domain socket bound at"));
}

#[test]
fn a_pid_file_that_the_caller_reserved_is_used() {
    let place = Place::new();
    let path = place.path("pid");
    std::fs::write(&path, "").unwrap();
    // As a monitor does it in a folder for everyone, whose user root is to become.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o1777)).unwrap();
    let mut passt = place.passt::<&str>(&[]);
    if geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
        passt = place.passt(&["--runas", &STRANGER.to_string()]);
    }
    let before = std::fs::metadata(&path).unwrap();
    let _program = place.returned(&mut passt);
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((before.ino(), before.uid()), (after.ino(), after.uid()), "it is the same file");
    assert_eq!(mode(&place, "pid"), 0o666);
}

/// Whoever made it could write another number, which somebody ends; the kernel looks only at who asks for a file to be made.
#[test]
fn no_file_of_a_stranger_is_written_in_a_folder_for_everyone() {
    if !geteuid().is_root() {
        return needs_root("whether files of others are left alone");
    }
    let place = Place::new();
    let path = place.path("theirs");
    std::os::unix::fs::symlink(&path, place.path("link")).unwrap();
    std::fs::write(&path, "what was there\n").unwrap();
    std::os::unix::fs::chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let folder = path.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o1777)).unwrap();
    for option in ["--pid", "--log-file"] {
        for name in ["theirs", "link"] {
            let theirs = place.path(name);
            let message = refusal(&mut place.passt(&[option, theirs.to_str().unwrap()]));
            let why = format!(
                "{name}: it is a file of user {STRANGER} in a folder for everybody: choose another {option}"
            );
            assert!(message.contains(&why), "{message}");
            assert_eq!(place.text("theirs"), "what was there\n");
        }
    }
    // What root was given is who started it to answer for.
    let given = || std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    drop(place.returned(place.passt(&["--log-file", "/dev/stderr"]).stderr(given())));
    let mut passt = place.passt(&["--pid", "/proc/self/fd/1"]);
    assert!(passt.stdout(given()).stderr(Stdio::null()).status().unwrap().success());
    // It is to be gone before the next one takes its socket's path.
    Program::started(place.text("theirs").trim().parse().unwrap()).end(Signal::KILL);
    // A folder of the stranger's own is another matter.
    std::os::unix::fs::chown(folder, Some(STRANGER), Some(STRANGER)).unwrap();
    let _program = place.returned(&mut place.passt(&["--log-file", path.to_str().unwrap()]));
}

#[test]
fn a_longer_old_pid_is_not_left_in_the_file() {
    let place = Place::new();
    std::fs::write(place.path("pid"), "123456789012\nand more\n").unwrap();
    let program = place.background::<&str>(&[]);
    assert_eq!(place.text("pid"), format!("{}\n", program.pid));
}

#[test]
fn a_pid_file_is_made_where_a_link_leads() {
    let place = Place::new();
    std::os::unix::fs::symlink("target", place.path("pid")).unwrap();
    let program = place.background::<&str>(&[]);
    assert_eq!(place.text("target"), format!("{}\n", program.pid));
    drop(program);
    std::fs::remove_file(place.path("target")).unwrap();
    std::fs::remove_file(place.path("socket")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("127.0.0.1/{}", taken.local_addr().unwrap().port());
    refusal(&mut place.passt(&["-t", &port]));
    assert!(!place.path("target").exists(), "it was made by this start");
    assert!(place.path("pid").is_symlink(), "this was not");
}

#[test]
fn a_pipe_without_a_reader_is_an_error_and_no_wait() {
    let place = Place::new();
    let pipe = place.path("pid");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let message = refusal(&mut place.passt::<&str>(&[]));
    assert!(message.contains("Couldn't open PID file"), "{message}");
    assert!(pipe.exists(), "it was not ours");
    assert!(!place.path("socket").exists());
}

#[test]
fn a_start_that_fails_removes_what_it_made() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("127.0.0.1/{}", taken.local_addr().unwrap().port());
    let message = refusal(&mut place.passt(&["-t", &port]));
    assert!(message.contains("Address already in use"), "{message}");
    assert!(!place.path("socket").exists() && !place.path("pid").exists());

    std::fs::write(place.path("pid"), "").unwrap();
    refusal(&mut place.passt(&["-t", &port]));
    assert!(place.path("pid").exists(), "it was there before");
}

#[test]
fn a_pid_that_cannot_be_written_ends_the_process_in_the_background() {
    let place = Place::new();
    let mut command = place.passt(&["--pid", "/dev/full"]);
    let message = refusal(&mut command);
    assert!(message.contains("Couldn't write PID file /dev/full: No space left"), "{message}");
    let socket = place.path("socket");
    until("its end", || std::os::unix::net::UnixStream::connect(&socket).is_err().then_some(()));
}

/// What `command` has said when it returns, which fails in the background: without pivot_root(2).
fn said_on_return(place: &Place, command: Command) -> String {
    let mut command = deny(command, libc::SYS_pivot_root, None, libc::EPERM);
    let stderr = std::fs::File::create(place.path("stderr")).unwrap();
    let status = command.stdin(Stdio::null()).stderr(stderr).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!place.path("socket").exists() && !place.path("pid").exists(), "nothing is left");
    place.text("stderr")
}

#[test]
fn what_fails_in_the_background_is_said_before_the_command_returns() {
    let place = Place::new();
    let said = said_on_return(&place, place.passt(&["--quiet"]));
    let mut lines = said.lines().filter(|line| !line.starts_with("--runas 0: "));
    let line = lines.next().unwrap();
    assert!(line.contains("couldn't change the root with pivot_root"), "{line}");
    assert_eq!(lines.next(), None);
    let log = place.path("log");
    let logged = place.passt(&["--quiet", "--log-file", log.to_str().unwrap()]);
    assert_eq!(said_on_return(&place, logged), said);
    assert_eq!(place.text("log").matches("ERROR: ").count(), 1, "{}", place.text("log"));
}

/// With the first process of a container end all others.
#[test]
fn what_fails_in_the_background_is_said_in_a_container_too() {
    for _ in 0..5 {
        let place = Place::new();
        let passt = place.passt(&["--quiet", "--runas=0:0"]);
        let mut container = unshare("pf");
        container.arg(passt.get_program()).args(passt.get_args());
        let said = said_on_return(&place, container);
        assert!(said.contains("couldn't change the root with pivot_root"), "{said}");
    }
}

/// Who is killed says nothing.
#[test]
fn a_program_that_is_killed_in_the_background_was_not_ready() {
    let place = Place::new();
    let killed = seccompiler::SeccompAction::KillProcess;
    let said = refusal(&mut meet(place.passt(&["--quiet"]), libc::SYS_pivot_root, None, killed));
    assert!(
        said.ends_with("The process in the background has ended before it was ready\n"),
        "{said}"
    );
    assert!(!place.path("socket").exists() && !place.path("pid").exists(), "nothing is left");
}

/// Whoever waits for the command takes 0 for a program that is ready. In the foreground it ends as asked.
#[test]
fn a_signal_on_the_way_to_the_background_is_no_success() {
    for (foreground, code) in [(false, 1), (true, 0)] {
        let place = Place::new();
        let mut command = Command::new("unshare");
        command.args(["-rn", env!("CARGO_BIN_EXE_passt"), "--wait-for-network", "60", "--socket"]);
        command.arg(place.path("socket")).args(foreground.then_some("--foreground"));
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        until("a program that has its own way with SIGTERM", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            contains(&status_field(&status, "SigCgt"), Signal::TERM).then_some(())
        });
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let words = "Ended by a signal before it was ready\n";
        assert_eq!(said.contains(words), !foreground, "{said}");
        assert!(!place.path("socket").exists());
    }
}

/// Waits for what the service manager is told.
fn told(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut message = [0; 256];
    let length = manager.recv(&mut message).unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn the_service_manager_is_told_when_it_asks() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = place.passt(&["--notify"]);
    assert!(command.env("NOTIFY_SOCKET", &path).status().unwrap().success());
    let message = told(&manager);
    let pid = place.pid().unwrap();
    assert_eq!(message, format!("READY=1\nMAINPID={pid}\n"));
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
}

#[test]
fn the_service_manager_may_have_an_abstract_address() {
    let place = Place::new();
    let name = place.path("notify").display().to_string();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    let mut command = place.passt(&["--notify", "--foreground"]);
    let program = place.spawn(command.env("NOTIFY_SOCKET", format!("@{name}")));
    assert_eq!(told(&manager), format!("READY=1\nMAINPID={}\n", program.pid));
}

#[test]
fn a_service_manager_that_cannot_be_reached_is_an_error() {
    let place = Place::new();
    let mut command = place.passt(&["--notify"]);
    let message = refusal(command.env("NOTIFY_SOCKET", place.path("nobody")));
    assert!(message.contains("Couldn't reach the service manager at"), "{message}");
    assert!(
        message.contains("NOTIFY_SOCKET names this socket, which --notify is for"),
        "{message}"
    );
}

#[test]
fn without_the_option_nobody_is_told() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = place.passt(&["--foreground"]);
    let mut program = place.spawn(command.env("NOTIFY_SOCKET", &path));
    assert!(place.serves());
    program.end(Signal::TERM);
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 16]).is_err());
}

/// The words by which a front-end is started are the last: who reads them may do it.
#[test]
fn a_front_end_is_asked_for_when_nothing_can_fail_any_more() {
    let hint = "start qemu";
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("127.0.0.1/{}", taken.local_addr().unwrap().port());
    let place = Place::new();
    let message = refusal(&mut place.passt(&["--foreground", "-t", &port]));
    assert!(message.contains("Inbound forwarding rules") && message.contains("Failed to bind"));
    assert!(!message.contains(hint), "{message}");
    drop(taken);
    let capture = place.path("capture");
    let options = ["-t", &port, "--pcap", capture.to_str().unwrap()];
    let _program = place.foreground(&options);
    let said = place.text("stderr");
    let last = said.lines().rev().nth(1).unwrap_or_default();
    assert!(last.contains(hint), "{said}");
    let place = Place::new();
    let output = place.passt::<&str>(&[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(hint), "in the background, too: {said}");
    let pid = place.pid().unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
}
