//! Signals for a command behind pasta, sent by processes and by a terminal: the command gets them as if pasta
//! were not there, and when it has ended nobody is left.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use passt_support::wait::until;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{NETWORK, unshare};

/// With process ids of its own, and without.
const WAYS: [&[&str]; 2] = [&[], &["--no-pidns"]];

/// What is passed on.
pub const SIGNALS: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Seconds to sleep for ever that no other process does.
fn for_ever() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("1000.{}{number:03}", std::process::id())
}

/// The words that run `words` behind pasta.
fn pasta_words(options: &[&str], words: &[&str]) -> Vec<String> {
    let none = ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--"];
    let program = [env!("CARGO_BIN_EXE_pasta")];
    let parts = [&program[..], &NETWORK, options, &none, words];
    parts.concat().into_iter().map(str::to_owned).collect()
}

/// Processes that have `mark` in their command line: pasta, what it has forked, and the command.
pub fn marked(mark: &str) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let has_mark = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(mark)
    };
    pids.filter(has_mark).filter_map(Pid::from_raw).collect()
}

/// Waits until `sleep MARK` runs.
fn until_it_sleeps(mark: &str) -> Pid {
    until("the command", || {
        marked(mark).into_iter().find(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim_end() == "sleep")
        })
    })
}

fn until_none_is_left(mark: &str) {
    until("no process left", || marked(mark).is_empty().then_some(()));
}

/// A command that is run in a new network namespace, with signals that do what they do by default: who runs tests in
/// the background of a shell has some ignored.
fn inside() -> Command {
    let mut command = unshare("n");
    // SAFETY: system calls only, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in SIGNALS {
                libc::signal(signal.as_raw(), libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

fn spawned(options: &[&str], words: &[&str]) -> Child {
    let mut command = inside();
    command.args(pasta_words(options, words)).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// pasta with `sleep MARK` somewhere in its words.
fn started(options: &[&str], words: &[&str], mark: &str) -> Child {
    let child = spawned(options, words);
    until_it_sleeps(mark);
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_ends_the_command_and_its_number_is_told() {
    for way in WAYS {
        for number in SIGNALS {
            let mark = for_ever();
            let mut child = started(way, &["sleep", &mark], &mark);
            signal(&child, number);
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(128 + number.as_raw()), "{way:?} {number:?}");
            assert_eq!(marked(&mark), [], "{way:?} {number:?}");
        }
    }
}

#[test]
fn a_command_may_treat_signals_as_it_likes() {
    for way in WAYS {
        let mark = for_ever();
        let script = format!(
            "trap 'echo hup' HUP; trap 'echo term; exit 5' TERM; trap '' INT
             (sleep {mark} & )
             while :; do sleep 0.01; done"
        );
        let mut child = started(way, &["sh", "-c", &script], &mark);
        let mut output = child.stdout.take().unwrap();
        let mut line = [0; 4];
        signal(&child, Signal::INT);
        signal(&child, Signal::HUP);
        output.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hup\n");
        signal(&child, Signal::TERM);
        assert_eq!(child.wait().unwrap().code(), Some(5), "{way:?}");
        assert_eq!(marked(&mark), [], "what it left behind ended with it, {way:?}");
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "term\n", "once");
    }
}

/// Waits until the shell with `mark` that is a command of pasta's stands still.
fn until_it_stands_still(mark: &str) -> Pid {
    until("the command to stand still", || {
        marked(mark).into_iter().find(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(" (sh) T ")
        })
    })
}

/// What pasta ends with.
fn end_of(child: &mut Child) -> Option<i32> {
    until("its end", || child.try_wait().unwrap()).code()
}

#[test]
fn a_command_that_stops_itself_is_resumed_and_ended_through_pasta() {
    for way in WAYS {
        let mark = for_ever();
        let stopped = |script| {
            let child = spawned(way, &["sh", "-c", script, &mark]);
            (child, until_it_stands_still(&mark))
        };
        for ending in [Signal::TERM, Signal::QUIT] {
            let (mut child, _) = stopped("kill -STOP $$; exit 3");
            signal(&child, ending);
            assert_eq!(end_of(&mut child), Some(128 + ending.as_raw()), "{way:?} {ending:?}");
        }
        // What may be a wish to reload has time.
        let script = "trap 'exit 4' HUP; trap 'exit 5' INT; kill -STOP $$; exit 3";
        for (number, code) in [(Signal::HUP, 4), (Signal::INT, 5)] {
            let (mut child, command) = stopped(script);
            signal(&child, number);
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(until_it_stands_still(&mark), command, "{way:?} {number:?}");
            signal(&child, Signal::CONT);
            assert_eq!(end_of(&mut child), Some(code), "{way:?} {number:?}");
        }
        until_none_is_left(&mark);
    }
}

/// pasta that leads a process group, as a job of a shell or of a supervisor.
fn job(way: &[&str], script: &str, mark: &str) -> Child {
    let mut command = inside();
    command.args(pasta_words(way, &["sh", "-c", script, mark])).process_group(0);
    command.stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_command_that_somebody_else_resumes_has_a_pasta_that_runs() {
    for way in WAYS {
        let mark = for_ever();
        let script = "trap 'exit 6' TERM; kill -STOP $$; while :; do sleep 0.01; done";
        let mut child = job(way, script, &mark);
        let command = until_it_stands_still(&mark);
        std::thread::sleep(Duration::from_millis(100));
        kill_process(command, Signal::CONT).unwrap();
        signal(&child, Signal::TERM);
        assert_eq!(end_of(&mut child), Some(6), "{way:?}");
    }
}

#[test]
fn a_job_that_stands_still_goes_on_with_pasta() {
    for way in WAYS {
        let mark = for_ever();
        let mut child = job(way, "kill -TSTP 0; exit 7", &mark);
        until_it_stands_still(&mark);
        signal(&child, Signal::CONT);
        assert_eq!(end_of(&mut child), Some(7), "{way:?}");
    }
}

#[test]
fn a_command_that_stands_still_ends_with_its_terminal() {
    for way in WAYS {
        let mark = for_ever();
        // A group of its own is not told by the kernel.
        let words = pasta_words(way, &["setsid", "sh", "-c", "kill -STOP $$; exit 3", &mark]);
        let mut terminal = Terminal::run(&words);
        until_it_stands_still(&mark);
        terminal.hang_up();
        assert_eq!(terminal.code(), Some(128 + libc::SIGHUP), "{way:?}");
        until_none_is_left(&mark);
    }
}

#[test]
fn what_was_ignored_before_pasta_still_is() {
    for way in WAYS {
        let mark = for_ever();
        let mut command = inside();
        command.args(pasta_words(way, &["sleep", &mark])).stderr(Stdio::null());
        // SAFETY: a system call only, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        let sleeper = until_it_sleeps(&mark);
        signal(&child, Signal::HUP);
        std::thread::sleep(Duration::from_millis(200));
        kill_process(sleeper, Signal::USR1).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGUSR1), "{way:?}");
    }
}

#[test]
fn nobody_outlives_a_program_that_is_killed() {
    for way in WAYS {
        let mark = for_ever();
        // One of them has a session of its own, and no parent any more.
        let script = format!("(setsid sleep {mark} & ) ; sleep {mark}");
        let mut child = started(way, &["sh", "-c", &script], &mark);
        until("both", || (marked(&mark).len() >= 5).then_some(()));
        signal(&child, Signal::KILL);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        until_none_is_left(&mark);
    }
}

#[test]
fn who_loses_its_parent_is_reaped() {
    for way in WAYS {
        let script = "for i in 1 2 3; do (sleep 0.05 & echo $!) ; done";
        let wait = "sleep 0.3; for p in $pids; do test ! -e /proc/$p || cat /proc/$p/status; done";
        let mut command = unshare("n");
        let script = format!("pids=$({script} 2>/dev/null </dev/null); {wait}; exit 9");
        command.args(pasta_words(way, &["sh", "-c", &script]));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        assert!(output.stdout.is_empty(), "{way:?} {output:?}");
    }
}

/// A terminal, and who has it as the one that controls it.
struct Terminal {
    keys: Option<File>,
    shown: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    hung_up: Arc<AtomicBool>,
    child: Child,
}

impl Terminal {
    /// Runs `words` as the first process of a session that has a terminal.
    fn run(words: &[String]) -> Self {
        let (mut ours, mut theirs) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: writes two descriptors, which nobody else owns; the rest may be null.
        let (ours, theirs) = unsafe {
            let rc = libc::openpty(&raw mut ours, &raw mut theirs, null, null.cast(), null.cast());
            assert_eq!(rc, 0);
            (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).unwrap();
        let mut command = inside();
        command.args(words).env("PS1", "$ ").env("ENV", "/dev/null").env("TERM", "dumb");
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap());
        command.stderr(theirs);
        // SAFETY: system calls only, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let mut screen = File::from(ours.try_clone().unwrap());
        rustix::io::ioctl_fionbio(&screen, true).unwrap();
        let (shown, hung_up) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let (text, stop) = (shown.clone(), hung_up.clone());
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                match screen.read(&mut bytes) {
                    Ok(count) => {
                        text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { keys: Some(File::from(ours)), shown, reader: Some(reader), hung_up, child }
    }

    fn hang_up(&mut self) {
        self.hung_up.store(true, Ordering::Relaxed);
        self.reader.take().into_iter().for_each(|reader| reader.join().unwrap());
        self.keys = None;
    }

    fn press(&mut self, keys: &str) {
        self.keys.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` has appeared, and forgets what was before.
    fn until_shown(&self, text: &str) {
        let what = format!("{text:?} on the screen");
        until(&what, || {
            let mut shown = self.shown.lock().unwrap();
            let end = shown.find(text)? + text.len();
            shown.drain(..end);
            Some(())
        });
    }

    fn code(&mut self) -> Option<i32> {
        until("its end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.shown.lock().unwrap());
        }
        self.hang_up();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INTERRUPT: &str = "\u{3}";
const SUSPEND: &str = "\u{1a}";
const QUIT: &str = "\u{1c}";

#[test]
fn keys_of_a_terminal_end_a_plain_command() {
    for way in WAYS {
        for (key, number) in [(INTERRUPT, libc::SIGINT), (QUIT, libc::SIGQUIT)] {
            let mark = for_ever();
            let mut terminal = Terminal::run(&pasta_words(way, &["sleep", &mark]));
            until_it_sleeps(&mark);
            terminal.press(key);
            assert_eq!(terminal.code(), Some(128 + number), "{way:?}");
            assert_eq!(marked(&mark), []);
        }
    }
}

#[test]
fn a_key_is_one_signal_also_for_a_group_of_its_own() {
    for way in WAYS {
        let script = "n=0; trap 'n=$((n + 1))' INT; trap 'echo had $n; exit 3' TERM
            echo ready; while :; do sleep 0.01; done";
        let mut terminal = Terminal::run(&pasta_words(way, &["bash", "-c", script]));
        terminal.until_shown("ready");
        terminal.press(INTERRUPT);
        std::thread::sleep(Duration::from_millis(200));
        signal(&terminal.child, Signal::TERM);
        terminal.until_shown("had 1");
        assert_eq!(terminal.code(), Some(3));
        // timeout(1) makes a group of its own.
        let mark = for_ever();
        let mut terminal = Terminal::run(&pasta_words(way, &["timeout", "500", "sleep", &mark]));
        until_it_sleeps(&mark);
        terminal.press(INTERRUPT);
        assert_eq!(terminal.code(), Some(128 + libc::SIGINT), "{way:?}");
    }
}

#[test]
fn a_shell_inside_has_job_control() {
    for way in WAYS {
        let mark = for_ever();
        let mut terminal = Terminal::run(&pasta_words(way, &["bash", "--norc", "-i"]));
        terminal.until_shown("$ ");
        terminal.press(&format!("sleep {mark}\n"));
        until_it_sleeps(&mark);
        terminal.press(SUSPEND);
        terminal.until_shown("Stopped");
        terminal.press("fg\n");
        terminal.until_shown(&format!("sleep {mark}"));
        std::thread::sleep(Duration::from_millis(100));
        terminal.press(INTERRUPT);
        until_none_is_left(&mark);
        terminal.press("echo code $?\n");
        terminal.until_shown("code 130");
        terminal.press("exit 7\n");
        assert_eq!(terminal.code(), Some(7), "{way:?}");
    }
}

#[test]
fn a_shell_outside_has_job_control() {
    for way in WAYS {
        let mark = for_ever();
        let shell = ["bash", "--norc", "-i"].map(str::to_owned);
        let mut terminal = Terminal::run(&shell);
        terminal.until_shown("$ ");
        terminal.press(&format!("{}\n", pasta_words(way, &["sleep", &mark]).join(" ")));
        until_it_sleeps(&mark);
        terminal.press(SUSPEND);
        terminal.until_shown("Stopped");
        terminal.press("fg\n");
        terminal.until_shown(&mark);
        std::thread::sleep(Duration::from_millis(100));
        terminal.press(INTERRUPT);
        until_none_is_left(&mark);
        terminal.press("echo code $?\n");
        terminal.until_shown("code 130");
        // The terminal is the outer shell's again after one inside has had it.
        terminal.press(&format!("{}\n", pasta_words(way, &["bash", "--norc", "-i"]).join(" ")));
        terminal.until_shown("$ ");
        terminal.press("echo in$((1 + 1))side; exit 4\n");
        terminal.until_shown("in2side");
        terminal.press("echo code $?\n");
        terminal.until_shown("code 4");
        terminal.press("exit 0\n");
        assert_eq!(terminal.code(), Some(0), "{way:?}");
    }
}

#[test]
fn a_terminal_that_goes_away_takes_everything_with_it() {
    for way in WAYS {
        let mark = for_ever();
        let words = pasta_words(way, &["sleep", &mark]);
        let mut terminal = Terminal::run(&words);
        until_it_sleeps(&mark);
        terminal.hang_up();
        assert_eq!(terminal.code(), Some(128 + libc::SIGHUP), "{way:?}");
        until_none_is_left(&mark);
    }
}
