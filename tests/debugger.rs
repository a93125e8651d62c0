//! The program under a debugger, which writes into its code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use passt_support::skipped::needs_root;

/// What the program gives back goes a second after its start.
const LATER: Duration = Duration::from_millis(1500);
/// When to give up on something that does not happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where an ELF file tells where its code begins (elf(5), `e_entry`).
const ENTRY: usize = 24;

/// A process that this thread traces; killed at the end.
struct Traced(i32);

impl Traced {
    fn start(mut command: Command) -> Self {
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let traced = Self(command.spawn().unwrap().id().cast_signed());
        assert_eq!(traced.stopped(0), Some(libc::SIGTRAP), "by execve(2)");
        traced
    }

    /// The signal by which it has stopped, if it has.
    fn stopped(&self, how: i32) -> Option<i32> {
        let mut status = 0;
        // SAFETY: the kernel writes one number.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL | how) };
        assert!(waited == 0 || libc::WIFSTOPPED(status), "it has ended: {status:#x}");
        (waited == self.0).then(|| libc::WSTOPSIG(status))
    }

    fn go_on(&self, signal: i32) {
        // SAFETY: plain numbers.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_CONT, self.0, 0, signal) }, 0);
    }

    /// Lets it run until `done`; it gets its signals.
    fn run_until(&self, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < PATIENCE, "it does not get so far");
            match self.stopped(libc::WNOHANG) {
                Some(signal) => self.go_on(signal),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn stop(&self) {
        // SAFETY: plain numbers.
        unsafe { libc::kill(self.0, libc::SIGSTOP) };
        while let Some(signal) = self.stopped(0).filter(|signal| *signal != libc::SIGSTOP) {
            self.go_on(signal);
        }
    }

    fn word(&self, at: usize) -> libc::c_long {
        // SAFETY: memory of the other process.
        unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.0, at, 0) }
    }

    fn write(&self, at: usize, word: libc::c_long) {
        // SAFETY: memory of the other process.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_POKETEXT, self.0, at, word) }, 0);
    }

    /// Where its first instruction is, which nobody needs again.
    fn entry(&self) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap();
        let base = maps.lines().find(|line| line.contains("/passt")).unwrap();
        let base = usize::from_str_radix(base.split('-').next().unwrap(), 16).unwrap();
        let mut head = [0; ENTRY + size_of::<usize>()];
        std::fs::File::open(env!("CARGO_BIN_EXE_passt")).unwrap().read_exact(&mut head).unwrap();
        base + usize::from_ne_bytes(*head.last_chunk().unwrap())
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // SAFETY: plain numbers, of a child that nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

#[test]
fn breakpoints_stay_where_a_debugger_started_the_program() {
    if !rustix::process::geteuid().is_root() {
        return needs_root("looking into a program that cannot be dumped");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
    command.args(["--foreground", "--quiet", "--runas", "0", "--socket"]);
    command.arg(folder.path().join("socket")).arg("--pid").arg(folder.path().join("pid"));
    let program = Traced::start(command);
    program.go_on(0);
    program.run_until(|| {
        std::fs::metadata(folder.path().join("pid")).is_ok_and(|file| file.len() > 0)
    });
    program.stop();
    let entry = program.entry();
    let written = !program.word(entry);
    program.write(entry, written);
    program.go_on(0);
    let begin = Instant::now();
    program.run_until(|| begin.elapsed() > LATER);
    program.stop();
    assert_eq!(program.word(entry), written);
}
