//! The process itself: signals as a descriptor, going to the background, limits.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::socket::last_errno;

/// A descriptor that becomes readable when one of `signals` arrives; they are blocked otherwise.
///
/// # Errors
/// What signalfd(2) reports.
pub fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd, Errno> {
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

/// Which process returned from [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The calling process, with the child's process id.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks. Only for a process with a single thread.
///
/// # Errors
/// What fork(2) reports.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: the program has one thread, so the child may go on with all of its memory.
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Raises the limit of open descriptors to the hard limit; returns it.
///
/// # Errors
/// What setrlimit(2) reports.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Takes over a descriptor that the program was started with. Only for one that nothing else in
/// the process owns, and only once.
///
/// # Errors
/// `BADF` when it is not open, or is one of standard input, output and error.
pub fn take_descriptor(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd <= libc::STDERR_FILENO {
        return Err(Errno::BADF);
    }
    // SAFETY: `fd` is not -1; fcntl on a closed descriptor fails, which is what is asked here.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: the descriptor is open, and the caller hands over its ownership.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Random bytes from the kernel.
///
/// # Errors
/// What getrandom(2) reports.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
