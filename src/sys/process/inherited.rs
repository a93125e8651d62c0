//! What a process gets from whoever starts it, and passes on: descriptors, signals, limits.
//!
//! A parent may have blocked or ignored signals, leaked descriptors, lowered a limit. None of it may
//! change what the program does. The command that pasta starts is to find what pasta found, where
//! the program had to change it.
//!
//! Two things are there before `main`: Rust's runtime ignores SIGPIPE, and opens standard input,
//! output and error on `/dev/null` where they are closed, so that no file of ours becomes one of
//! them (`tests/lifecycle/inherited.rs` checks both).

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys::socket::last_errno;

/// Signals that end the program as asked, with exit code 0.
pub const ENDING_SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGQUIT];

/// The limit of open descriptors.
#[derive(Clone, Debug)]
pub struct DescriptorLimit {
    /// What it is now.
    pub maximum: u64,
    original: Rlimit,
}

/// Raises the limit of open descriptors to the hard limit. Where that is refused, it stays what it is.
pub fn raise_descriptor_limit() -> DescriptorLimit {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, ..original };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { original };
    DescriptorLimit { maximum: now.current.unwrap_or(u64::MAX), original }
}

/// Closes all descriptors behind standard error but those in `keep`. Only at start, while nothing in the process
/// owns any of them.
///
/// # Errors
/// `NOSYS` where there is no close_range(2) and `/proc` cannot be read, either.
pub fn close_descriptors(keep: &[RawFd]) -> Result<(), Errno> {
    close_between(keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect())
}

/// Closes all descriptors behind standard error but those in `keep`, whoever owns them: for a fork that ends
/// without a word to their owners.
///
/// # Errors
/// As [`close_descriptors`].
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    close_between(keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect())
}

/// Closes all descriptors behind standard error that are not among the `kept`.
fn close_between(mut kept: Vec<u32>) -> Result<(), Errno> {
    let open = OpenDescriptors::find()?;
    let mut first = libc::STDERR_FILENO.unsigned_abs() + 1;
    kept.sort_unstable();
    kept.dedup();
    for fd in kept.into_iter().filter(|fd| *fd > libc::STDERR_FILENO.unsigned_abs()) {
        if fd > first {
            open.close(first, fd - 1);
        }
        first = fd + 1;
    }
    open.close(first, u32::MAX);
    Ok(())
}

/// What has to be known to close descriptors. A fork that may not allocate finds it out before it is forked.
pub(crate) enum OpenDescriptors {
    /// Nothing: the kernel closes all of a range.
    Any,
    /// Before Linux 5.9, and where a filter does not let the call pass: those that are open. The limit is no bound to try them
    /// up to, it is a thousand million in many containers.
    Listed(Vec<u32>),
}

impl OpenDescriptors {
    /// # Errors
    /// As [`close_descriptors`].
    pub(crate) fn find() -> Result<Self, Errno> {
        match close_range(u32::MAX, u32::MAX, 0) {
            Ok(()) => Ok(Self::Any),
            Err(_) => Self::list(),
        }
    }

    /// Those that `/proc` lists, and the list's own, which is closed when all have been read.
    pub(crate) fn list() -> Result<Self, Errno> {
        let listed = std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::NOSYS)?;
        let numbers = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(Self::Listed(numbers.collect()))
    }

    /// Closes those from `first` to `last`. Allocates nothing.
    pub(crate) fn close(&self, first: u32, last: u32) {
        match self {
            Self::Any => {
                let _was_tried = close_range(first, last, 0);
            }
            Self::Listed(all) => {
                for fd in all.iter().filter(|fd| (first..=last).contains(*fd)) {
                    // SAFETY: what is closed, nobody owns (see the callers).
                    let _that_of_the_list_is_closed = unsafe { libc::close(fd.cast_signed()) };
                }
            }
        }
    }
}

/// close_range(2), for descriptors that nobody owns, or whose owners get no word any more.
///
/// # Errors
/// What it reports; `NOSYS` before Linux 5.9.
fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: plain numbers; what is closed, nobody owns (see the callers).
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Has a signal do this, and says what it has done.
pub(super) fn set_handler(
    signal: libc::c_int,
    handler: libc::sighandler_t,
) -> Result<libc::sighandler_t, Errno> {
    set_action(signal, handler, 0)
}

/// The same with `flags` of sigaction(2), but for `SA_SIGINFO`.
pub(super) fn set_action(
    signal: libc::c_int,
    handler: libc::sighandler_t,
    flags: libc::c_int,
) -> Result<libc::sighandler_t, Errno> {
    debug_assert!(flags & libc::SA_SIGINFO == 0, "handlers take the number alone");
    // SAFETY: all-zero is a valid sigaction with an empty mask; the handler is a function of the right type, or one of
    // the kernel's constants.
    let (rc, before) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before = action;
        action.sa_sigaction = handler;
        action.sa_flags = flags as _;
        (libc::sigaction(signal, &raw const action, &raw mut before), before)
    };
    if rc == 0 { Ok(before.sa_sigaction) } else { Err(last_errno()) }
}

/// Changes which signals are blocked, as sigprocmask(2) has it.
pub(super) fn change_mask(how: libc::c_int, signals: &[libc::c_int]) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid sigset_t, and sigemptyset initialises it anyway.
    let rc = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(how, &raw const set, std::ptr::null_mut())
    };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Blocks all signals that can be blocked, but for `others`.
///
/// # Errors
/// What sigprocmask(2) reports.
pub(super) fn block_all_but(others: &[libc::c_int]) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid sigset_t, and sigfillset initialises it anyway.
    let rc = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in others {
            libc::sigdelset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Prepares the calling process, a fork of the program, for being replaced by a command: it gets the
/// limit that the program found, none of its descriptors, and no signal that is blocked or treated
/// in the program's own way. Signals that were ignored before the program started still are, as
/// nohup(1) wants it.
///
/// # Errors
/// What the system calls report.
pub fn restore_for_command(limit: &DescriptorLimit) -> Result<(), Errno> {
    if getrlimit(Resource::Nofile) != limit.original {
        setrlimit(Resource::Nofile, limit.original)?;
    }
    let treated = [libc::SIGPIPE, libc::SIGCHLD, libc::SIGXFSZ];
    for signal in ENDING_SIGNALS.into_iter().chain(treated) {
        set_handler(signal, libc::SIG_DFL)?;
    }
    change_mask(libc::SIG_SETMASK, &[])?;
    let first = libc::STDERR_FILENO.unsigned_abs() + 1;
    // All of them are closed on exec anyway, or should be.
    let _since_linux_5_11 = close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    Ok(())
}
