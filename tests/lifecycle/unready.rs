//! A start that a signal ends leaves nothing: no process, no socket, no PID file. Whichever moment it comes at, the caller
//! is told of a program that serves, or there is none.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use passt_support::wait::until;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Place, contains, status_field};
use crate::signals::{SIGNALS, marked};

/// passt on the way to the background, with signals that do what they do by default.
fn starting(place: &Place) -> Child {
    by_default(&mut place.passt(&["--quiet"])).stderr(Stdio::piped()).spawn().unwrap()
}

/// A command with signals that do what they do by default.
fn by_default(command: &mut Command) -> &mut Command {
    // SAFETY: system calls only, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in SIGNALS {
                libc::signal(signal.as_raw(), libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command.stdin(Stdio::null())
}

/// passt, stopped once it has a second process and before its caller is told of that. On a busy machine nobody may look in
/// time: then it starts anew.
fn stopped_on_the_way(place: &Place) -> Child {
    until("a start that was seen to fork", || {
        let mut child = starting(place);
        while !has_forked(&child) {
            if child.try_wait().unwrap().is_some() {
                end(place);
                return None;
            }
        }
        send(&child, &[Signal::STOP]);
        std::thread::sleep(Duration::from_millis(300));
        // The caller is as good as told: nothing that comes now takes that back.
        let is_told = place.pid().is_some();
        if is_told {
            send(&child, &[Signal::CONT]);
            assert!(child.wait().unwrap().success());
        }
        if is_told || child.try_wait().unwrap().is_some() {
            end(place);
            return None;
        }
        Some(child)
    })
}

fn has_forked(child: &Child) -> bool {
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    std::fs::read_to_string(path).is_ok_and(|children| !children.is_empty())
}

/// Ends the program that the caller was told of. Its files, which nobody else would remove, go with it.
fn end(place: &Place) {
    kill_process(place.pid().unwrap(), Signal::KILL).unwrap();
    until("its end", || survivors(place).is_empty().then_some(()));
    for file in ["socket", "pid"] {
        std::fs::remove_file(place.path(file)).unwrap();
    }
}

fn send(child: &Child, signals: &[Signal]) {
    for signal in signals {
        kill_process(Pid::from_child(child), *signal).unwrap();
    }
}

/// All that has the place's socket among its arguments.
fn survivors(place: &Place) -> Vec<Pid> {
    marked(place.path("socket").to_str().unwrap())
}

#[test]
fn a_start_that_a_signal_ends_has_no_program_in_the_background() {
    for signal in SIGNALS {
        let place = Place::new();
        let child = stopped_on_the_way(&place);
        send(&child, &[signal, Signal::CONT]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal:?} {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.ends_with("Ended by a signal before it was ready\n"), "{signal:?} {said}");
        assert_eq!(survivors(&place), [], "{signal:?}");
        assert!(!place.path("socket").exists() && !place.path("pid").exists(), "{signal:?}");
    }
}

#[test]
fn a_start_that_is_killed_has_no_program_in_the_background() {
    let place = Place::new();
    let mut child = stopped_on_the_way(&place);
    send(&child, &[Signal::KILL]);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    until("no process left", || survivors(&place).is_empty().then_some(()));
}

#[test]
fn at_any_moment_a_program_is_told_of_or_there_is_none() {
    for round in 0..60_u32 {
        let place = Place::new();
        let mut child = starting(&place);
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        let signal = SIGNALS[round as usize % SIGNALS.len()];
        if child.try_wait().unwrap().is_none() {
            send(&child, &[signal]);
        }
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            end(&place);
            continue;
        }
        assert_eq!(survivors(&place), [], "{round} {output:?}");
        let left = [place.path("socket"), place.path("pid")].map(|path| path.exists());
        assert_eq!(left, [false; 2], "{round} {output:?}");
    }
}

/// The command does not run yet, and its caller is told as if it did.
#[test]
fn a_signal_before_the_command_has_started_is_told_as_one_after() {
    for signal in SIGNALS {
        let mut command = Command::new("unshare");
        command.args([
            "-rn",
            env!("CARGO_BIN_EXE_pasta"),
            "--wait-for-network",
            "60",
            "--",
            "true",
        ]);
        let child = by_default(&mut command).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        until("a program that has its own way with SIGTERM", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            contains(&status_field(&status, "SigCgt"), Signal::USR2).then_some(())
        });
        // It has set all of them, and waits for the network.
        std::thread::sleep(Duration::from_millis(50));
        send(&child, &[signal]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{output:?}");
    }
}
