//! Fails one system call of a program from outside, by ptrace(2). The program's own filter is asked after us: it sees
//! getpid(2) instead of the call, which every list allows.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a call instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It fails.
    Fails(i32),
    /// It is asked for one byte only.
    Short,
}

/// A call that is to go wrong.
#[derive(Clone, Copy, Debug)]
struct Armed {
    at: Place,
    outcome: Outcome,
}

/// Which call is meant, by its number.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The first that comes after so many calls of any kind at least: for what never happens twice in the same order.
    After(usize, i64),
    /// The one that comes after so many of its own kind, whatever others come before it.
    Nth(usize, i64),
}

#[derive(Default)]
struct State {
    armed: Option<Armed>,
    /// Calls since they were asked for last.
    calls: Vec<i64>,
    /// The call that went wrong.
    hit: Option<i64>,
}

/// A program that is traced.
pub struct Traced {
    pub pid: i32,
    state: Arc<Mutex<State>>,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Traced {
    #[expect(clippy::zombie_processes, reason = "the tracer waits for it, by its number")]
    /// Starts `command`; `fault` says which of its calls, counted from the first, goes wrong and how.
    pub fn start(mut command: Command, fault: Option<(Place, Outcome)>) -> Self {
        let armed = fault.map(|(at, outcome)| Armed { at, outcome });
        let state = Arc::new(Mutex::new(State { armed, ..State::default() }));
        let (pid_to, pid_from) = channel();
        let (ended_to, ended) = channel();
        let shared = state.clone();
        // Only the thread that has started it may trace it.
        std::thread::spawn(move || {
            command.process_group(0);
            // SAFETY: one system call, which allocates nothing.
            unsafe {
                command.pre_exec(|| {
                    match libc::ptrace(libc::PTRACE_TRACEME, 0usize, 0usize, 0usize) {
                        0 => Ok(()),
                        _ => Err(io::Error::last_os_error()),
                    }
                });
            }
            let child = command.spawn().expect("it starts");
            let pid = child.id().cast_signed();
            pid_to.send(pid).expect("somebody waits");
            let _ = ended_to.send(follow(pid, &shared));
        });
        let pid = pid_from.recv().expect("it has started");
        Self { pid, state, ended, status: None }
    }

    /// Has the first such call go wrong that comes after so many others from now on, and forgets what was before.
    pub fn arm(&self, at: Place, outcome: Outcome) {
        let mut state = self.state.lock().expect("nobody panics");
        *state = State { armed: Some(Armed { at, outcome }), ..State::default() };
    }

    /// Nothing goes wrong any more. The call that did.
    pub fn disarm(&self) -> Option<i64> {
        let mut state = self.state.lock().expect("nobody panics");
        state.armed = None;
        state.hit.take()
    }

    /// The calls since the last time that they were asked for, or that something was armed.
    pub fn calls(&self) -> Vec<i64> {
        std::mem::take(&mut self.state.lock().expect("nobody panics").calls)
    }

    /// How it has ended, if it has within `patience`.
    pub fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.status = self.status.or_else(|| self.ended.recv_timeout(patience).ok());
        self.status
    }
}

impl Traced {
    /// Processes that it has started, which are in its group and not over.
    pub fn helpers(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").expect("procfs");
        let stats = processes
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        let group = self.pid.to_string();
        stats
            .filter(|stat| {
                let (name, fields) = stat.rsplit_once(") ").unwrap_or_default();
                let mut fields = fields.split(' ');
                let (state, group_of) = (fields.next(), fields.nth(1));
                !name.starts_with(&format!("{group} "))
                    && state != Some("Z")
                    && group_of == Some(group.as_str())
            })
            .collect()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.end(Duration::ZERO).is_none() {
            // SAFETY: plain numbers; the process is ours and was not waited for.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.end(Duration::from_secs(10));
        }
    }
}

/// Follows the calls of `pid` to its end.
fn follow(pid: i32, state: &Mutex<State>) -> ExitStatus {
    let mut instead = None;
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one status.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!(waited, pid, "{}", io::Error::last_os_error());
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            return ExitStatus::from_raw(status);
        }
        let mut signal = 0;
        match libc::WSTOPSIG(status) {
            stop if stop == libc::SIGTRAP | 0x80 => on_call(pid, state, &mut instead),
            // It has become the program.
            libc::SIGTRAP => {
                let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
                request(libc::PTRACE_SETOPTIONS, pid, options as usize);
            }
            other => signal = other,
        }
        request(libc::PTRACE_SYSCALL, pid, signal as usize);
    }
}

/// A request without a place in memory. Who is killed meanwhile has nothing to be asked.
fn request(what: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: plain numbers.
    unsafe { libc::ptrace(what, pid, 0usize, data) };
}

fn registers(pid: i32) -> Option<libc::user_regs_struct> {
    // SAFETY: registers are numbers, which may be 0; the kernel writes one set of them.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        let place = &raw mut registers;
        (libc::ptrace(libc::PTRACE_GETREGS, pid, 0usize, place) == 0).then_some(registers)
    }
}

fn set_registers(pid: i32, registers: &libc::user_regs_struct) {
    // SAFETY: the kernel reads one set of registers.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, 0usize, std::ptr::from_ref(registers)) };
}

/// At the door of the kernel, or on the way out: there `instead` is what the call has come to.
fn on_call(pid: i32, state: &Mutex<State>, instead: &mut Option<i32>) {
    let Some(mut now) = registers(pid) else { return };
    let enters = now.rax.cast_signed() == -i64::from(libc::ENOSYS);
    if let Some(errno) = instead.take_if(|_| !enters) {
        now.rax = i64::from(-errno).cast_unsigned();
        return set_registers(pid, &now);
    }
    if !enters {
        return;
    }
    let call = now.orig_rax.cast_signed();
    let mut state = state.lock().expect("nobody panics");
    let index = state.calls.len();
    state.calls.push(call);
    let due = match state.armed {
        Some(Armed { at: Place::After(calls, kind), .. }) => call == kind && index >= calls,
        Some(Armed { at: Place::Nth(before, kind), .. }) => {
            call == kind
                && state.calls[..index].iter().filter(|other| **other == kind).count() == before
        }
        None => false,
    };
    let Some(Armed { outcome, .. }) = state.armed.take_if(|_| due) else { return };
    state.hit = Some(call);
    match outcome {
        Outcome::Fails(errno) => {
            now.orig_rax = libc::SYS_getpid.cast_unsigned();
            *instead = Some(errno);
        }
        Outcome::Short => now.rdx = now.rdx.min(1),
    }
    set_registers(pid, &now);
}
