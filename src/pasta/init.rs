//! The first process of the command's namespaces, and the command's parent. It does what everybody expects of
//! a process 1, and a command does not do:
//!
//! - it reaps whoever loses its parent;
//! - it has no signal's default action spared: the command is an ordinary process, and what is meant for it
//!   reaches it, from the program by the gate, from others by a signal to this process;
//! - it ends with the command, and with the program, and leaves nobody behind. In a process id namespace the
//!   kernel sees to that; without one ([`Children::Adopted`]) whoever loses its parent becomes a child of this
//!   process, to be ended by it.
//!
//! A key of the terminal reaches a whole process group: the program, this process, and the command unless it
//! has a group of its own. Then, and only then, it is passed on.
//!
//! It runs the program's code without a sandbox, as the command could, and reads nothing but bytes from the gate.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};

use crate::sys::process::{self, Arrived, BY_SIGNAL, PASSED_SIGNALS};

/// Exit code when the program has gone before the command.
const ABANDONED: u8 = 1;

/// The name of the process in `ps`.
const NAME: &std::ffi::CStr = c"pasta-init";

/// What becomes of the processes that outlive the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    /// The kernel ends them with this process, the first of their process id namespace.
    EndWithUs,
    /// They become children of this process, which ends them.
    Adopted,
}

/// A process that is about to have the command as a child.
pub(super) struct Init {
    signals: OwnedFd,
    children: Children,
}

impl Init {
    /// Prepares the calling process. What it forks has signals blocked.
    ///
    /// # Errors
    /// What signalfd(2) or prctl(2) report.
    pub(super) fn prepare(children: Children) -> Result<Self, Errno> {
        let mut signals = PASSED_SIGNALS.to_vec();
        signals.push(libc::SIGCHLD);
        let signals = process::signal_descriptor(&signals)?;
        if children == Children::Adopted {
            rustix::process::set_child_subreaper(Some(getpid()))?;
        }
        Ok(Self { signals, children })
    }

    /// Stays until the command or the program has ended, and ends as the command did. Closes all descriptors of
    /// the process but its own and `alive`, whoever owns them.
    pub(super) fn serve(&self, command: i32, gate: BorrowedFd<'_>, alive: BorrowedFd<'_>) -> ! {
        let _shown_only = rustix::thread::set_name(NAME);
        if let Err(errno) = process::close_all_but(&[gate, alive, self.signals.as_fd()]) {
            log::debug!("Couldn't close descriptors: {errno}");
        }
        process::trim_memory();
        let code = loop {
            if let Some(code) = self.turn(command, gate) {
                break code;
            }
        };
        if self.children == Children::Adopted {
            end_children();
        }
        process::end(code)
    }

    /// Waits for something to do, and does it. Some exit code is the end.
    fn turn(&self, command: i32, gate: BorrowedFd<'_>) -> Option<u8> {
        let mut ready = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(gate, PollFlags::IN),
        ];
        while poll(&mut ready, None) == Err(Errno::INTR) {}
        let [_, told] = ready.map(|one| !one.revents().is_empty());
        while let Some(signal) = process::next_signal(self.signals.as_fd()) {
            let code = match signal.number {
                libc::SIGCHLD => reap(command),
                _ if signal.by_kernel && process::shares_group(command) => None,
                _ => self.pass_on(command, signal.number),
            };
            if code.is_some() {
                return code;
            }
        }
        if !told {
            return None;
        }
        let mut byte = [0];
        match rustix::io::read(gate, &mut byte) {
            Ok(1) if PASSED_SIGNALS.contains(&byte[0].into()) => {
                self.pass_on(command, byte[0].into())
            }
            Ok(1) | Err(Errno::INTR | Errno::AGAIN) => None,
            Ok(_) | Err(_) => {
                let _ended_already = process::send_signal(command, libc::SIGKILL);
                Some(ABANDONED)
            }
        }
    }

    /// Sends the command a signal. Where a policy does not allow that, the end of this process does what
    /// whoever sent it is most likely to want.
    fn pass_on(&self, command: i32, signal: libc::c_int) -> Option<u8> {
        match process::send_signal(command, signal) {
            Err(Errno::PERM | Errno::ACCESS) if self.children == Children::EndWithUs => {
                Some(BY_SIGNAL + signal as u8)
            }
            _ => None,
        }
    }
}

/// Reaps all children that have ended. The exit code that stands for the command's end, once that is among them.
fn reap(command: i32) -> Option<u8> {
    let mut code = None;
    while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
        if process.as_raw_nonzero().get() == command {
            code = Some(exit_code(status));
        }
    }
    code
}

fn exit_code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => BY_SIGNAL + signal as u8,
        (None, None) => ABANDONED,
    }
}

/// Ends all children, and who becomes one by that, as far as that is allowed.
fn end_children() {
    while !matches!(wait(WaitOptions::NOHANG), Err(Errno::CHILD)) {
        let ended =
            children().into_iter().filter(|&child| kill_process(child, Signal::KILL).is_ok());
        if ended.count() == 0 {
            return;
        }
        let _one_of_them = wait(WaitOptions::empty());
    }
}

/// The children of this process, which has one thread. None where the kernel does not list them.
fn children() -> Vec<Pid> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Whether the command does not know yet of a signal that the program got.
pub(super) fn is_for_command(signal: Arrived) -> bool {
    // The end of a terminal is told to the first process of its session alone, and to who is in front.
    !signal.by_kernel || signal.number == libc::SIGHUP
}
