//! Signals as things that are read and sent.

use std::mem::offset_of;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::sys::socket::last_errno;

/// Signals that whoever runs a command through another program means for the command.
pub(crate) const PASSED_SIGNALS: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGQUIT, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// Added to the number of a signal where an exit code tells of it.
pub(crate) const BY_SIGNAL: u8 = 128;

/// A signal that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Its number.
    pub(crate) number: libc::c_int,
    /// The kernel sent it, as for a key of the terminal, to all of a process group.
    pub(crate) by_kernel: bool,
}

/// `si_code` of signals that no process has sent (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

const INFO_BYTES: usize = size_of::<libc::signalfd_siginfo>();

/// A descriptor that becomes readable when one of `signals` arrives; they are blocked otherwise.
///
/// # Errors
/// What signalfd(2) reports.
pub(crate) fn signal_descriptor(signals: &[libc::c_int]) -> Result<OwnedFd, Errno> {
    // SAFETY: all-zero is a valid sigset_t, and sigemptyset initialises it anyway; the calls read
    // and write `set` only. The descriptor is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(last_errno());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The next signal that a descriptor of [`signal_descriptor`] has.
pub(crate) fn next_signal(descriptor: BorrowedFd<'_>) -> Option<Arrived> {
    let mut info = [0; INFO_BYTES];
    if rustix::io::read(descriptor, &mut info) != Ok(INFO_BYTES) {
        return None;
    }
    let field = |at: usize| info[at..].first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let number = field(offset_of!(libc::signalfd_siginfo, ssi_signo))?;
    let code = field(offset_of!(libc::signalfd_siginfo, ssi_code))?;
    Some(Arrived { number, by_kernel: code == SI_KERNEL })
}

/// Sends a signal to a process.
///
/// # Errors
/// What kill(2) reports; `INVAL` also for signals without a name.
pub(crate) fn send_signal(process: i32, signal: libc::c_int) -> Result<(), Errno> {
    let process = Pid::from_raw(process).ok_or(Errno::SRCH)?;
    kill_process(process, Signal::from_named_raw(signal).ok_or(Errno::INVAL)?)
}

/// Whether `process` is in our process group, which gets the signals of a terminal's keys at once. Seen from
/// a process id namespace, groups of processes outside have the number 0.
pub(crate) fn shares_group(process: i32) -> bool {
    // SAFETY: plain numbers.
    unsafe { libc::getpgid(process) == libc::getpgid(0) }
}

/// Ends the calling process, and runs nothing that the program has registered for its own end.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_sent_a_signal_is_told() {
        let signals = signal_descriptor(&[libc::SIGUSR1]).unwrap();
        assert_eq!(next_signal(signals.as_fd()), None);
        // The test's thread is the only one that blocks it.
        // SAFETY: a plain number.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
        let expected = Arrived { number: libc::SIGUSR1, by_kernel: false };
        assert_eq!(next_signal(signals.as_fd()), Some(expected));
        assert_eq!(next_signal(signals.as_fd()), None);
    }

    #[test]
    fn groups_are_told_apart() {
        assert!(shares_group(0));
        let mut other = Command::new("cat");
        other.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut other = other.spawn().unwrap();
        // Under an emulator the call may return before the group is changed. What answers has its own.
        other.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert!(!shares_group(other.id() as i32));
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}
