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
//! A command that stands still (`kill -STOP $$`) goes on with SIGCONT for the program, and behind a signal that is to end
//! it, of which it would not hear otherwise. The program itself does not stand still with it: whoever wakes the command
//! would have to wake the program, too.
//!
//! It runs the program's code without a sandbox, as the command could, and reads nothing but bytes from the gate.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process, wait, waitid,
};

use crate::sys::process::{self, Arrived, BY_SIGNAL, PASSED_SIGNALS};

/// Exit code when the program has gone before the command.
const ABANDONED: u8 = 1;

/// The name of the process in `ps`.
const NAME: &std::ffi::CStr = c"pasta-init";

/// Signals to the program that are about the command.
pub(super) const ABOUT_COMMAND: [libc::c_int; PASSED_SIGNALS.len() + 1] = {
    let [term, quit, int, hup, usr1, usr2] = PASSED_SIGNALS;
    [term, quit, int, hup, usr1, usr2, libc::SIGCONT]
};

/// Signals of a terminal that have a process stand still.
const STOPPING: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

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
        // It goes on while its group stands still: it is to hear of SIGCONT for the program alone.
        let signals = [&ABOUT_COMMAND[..], &STOPPING, &[libc::SIGCHLD]].concat();
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
            if let Some(code) = self.on_signal(command, signal) {
                return Some(code);
            }
        }
        if told { self.on_gate(command, gate) } else { None }
    }

    fn on_signal(&self, command: i32, signal: Arrived) -> Option<u8> {
        match signal.number {
            libc::SIGCHLD => reap(command),
            number if STOPPING.contains(&number) => None,
            number if signal.by_kernel && process::shares_group(command) => {
                go_on_after(command, number);
                None
            }
            number => self.pass_on(command, number),
        }
    }

    /// Does what the program says.
    fn on_gate(&self, command: i32, gate: BorrowedFd<'_>) -> Option<u8> {
        let mut byte = [0];
        match rustix::io::read(gate, &mut byte) {
            Ok(1) if ABOUT_COMMAND.contains(&byte[0].into()) => {
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
        if signal == libc::SIGCONT {
            go_on(command);
            return None;
        }
        match process::send_signal(command, signal) {
            Err(Errno::PERM | Errno::ACCESS) if self.children == Children::EndWithUs => {
                Some(BY_SIGNAL + signal as u8)
            }
            _ => {
                go_on_after(command, signal);
                None
            }
        }
    }
}

/// Has a command go on that stands still. One that does not may treat the signal in its own way, and has had it with its
/// group.
fn go_on(command: i32) {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let state = Pid::from_raw(command).map(|pid| waitid(WaitId::Pid(pid), options));
    if let Some(Ok(Some(_))) = state {
        let _ended_meanwhile = process::send_signal(command, libc::SIGCONT);
    }
}

/// Has a command go on that has got a signal which is to end it: it would hear of that later only. Others are often
/// trapped for something else, for which it has time.
fn go_on_after(command: i32, signal: libc::c_int) {
    if [libc::SIGTERM, libc::SIGQUIT].contains(&signal) {
        go_on(command);
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
    // The end of a terminal is told to the first process of its session alone, and to who is in front, by both.
    !signal.by_kernel || [libc::SIGHUP, libc::SIGCONT].contains(&signal.number)
}
