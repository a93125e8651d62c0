//! The process itself: signals as a descriptor, forks, descriptors with a place of their own, and
//! what it inherits and passes on.

pub(crate) mod alarm;
mod inherited;
mod signals;
mod told;
mod unready;

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};

pub use inherited::{
    DescriptorLimit, ENDING_SIGNALS, close_descriptors, raise_descriptor_limit, restore_for_command,
};

pub(crate) use inherited::{OpenDescriptors, close_all_but};
pub(crate) use signals::{
    Arrived, BY_SIGNAL, PASSED_SIGNALS, end, next_signal, send_signal, shares_group,
    signal_descriptor,
};
pub use told::WhenTold;
pub use unready::settle_signals;
pub(crate) use unready::{
    allow_signals, end_if_unready, end_program, hold_signals, keep_all, keep_ended_children,
    leave_start, reap_program, release_signals, remove_if_unready,
};

use super::socket::last_errno;

/// No page is larger.
const LARGEST_PAGE_BYTES: usize = 64 * 1024;
/// Most pages are as small.
const PAGE_BYTES: usize = 4096;
/// How much of the stack below its pointer is given back: more than starting takes, and less than the kernel keeps free of
/// other mappings below a stack (`stack_guard_gap`, 1 MiB), so that nothing else is within it.
const TRIMMED_STACK_BYTES: usize = 8 * LARGEST_PAGE_BYTES;

/// Whether somebody traced the process when it started.
static WAS_TRACED: AtomicBool = AtomicBool::new(false);

/// Sees whether a debugger has the process, for [`trim_memory`], which is called where there is no `/proc` any more. Whoever
/// is forked later is told, too.
pub(crate) fn look_for_tracer() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    WAS_TRACED.store(tracer.is_some_and(|pid| pid.trim() != "0"), Ordering::Relaxed);
}

/// Gives memory back that only something rare has needed, such as starting: free blocks of the allocator, the stack below
/// the caller, and the pages of the program's own code and constants. Those that are needed again are mapped again when
/// they are touched, most of them a few at a time; they are the file's pages, which the kernel keeps. What a debugger has
/// written into the code would go with them, its breakpoints, so that one that has started the program has it keep its code.
/// Who comes later is not seen, nor are probes of the kernel (uprobes): to ask for those takes a file that policies refuse
/// (`/proc/self/smaps`). Only for the first thread of a process, and no other.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back what nobody uses.
    let _ = unsafe { libc::malloc_trim(0) };
    let code = Some(code()).filter(|_| !WAS_TRACED.load(Ordering::Relaxed));
    for (start, bytes) in code.into_iter().chain([unused_stack()]) {
        // SAFETY: the program never writes its code, so that what is dropped reads the same again, from the program's
        // file. What is below the stack pointer belongs to nobody, and this range begins further below it than the calls
        // that are made from here reach.
        let _ = unsafe { libc::madvise(start.cast_mut().cast(), bytes, libc::MADV_DONTNEED) };
    }
}

/// Where the program's file is mapped that the loader does not write: it changes only what stands behind the code.
fn code() -> (*const u8, usize) {
    unsafe extern "C" {
        /// Where the program begins, and where its code ends (ld(1), PROVIDE).
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start, (&raw const etext).addr());
    (start, (end - start.addr()) / LARGEST_PAGE_BYTES * LARGEST_PAGE_BYTES)
}

/// The stack from a page below this function's frame on, where the callers' frames are not. Where pages are larger
/// than most, the range may begin in the middle of one, so that the kernel refuses it.
#[inline(never)]
fn unused_stack() -> (*const u8, usize) {
    let here = 0_u8;
    let here = &raw const here;
    let top = here.addr() / PAGE_BYTES * PAGE_BYTES - PAGE_BYTES;
    (here.with_addr(top - TRIMMED_STACK_BYTES), TRIMMED_STACK_BYTES)
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

/// Takes over a descriptor that the program was started with, whichever it is: in place of standard
/// input, output or error there is `/dev/null` afterwards. It does not survive exec. Only for one
/// that nothing else in the process owns, and only once.
///
/// # Errors
/// `BADF` when it is not open, or was opened here or taken before: what comes from outside has survived exec.
pub(crate) fn take_descriptor(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: `fd` is not -1; the calls on a closed descriptor fail, which is what is asked here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if fd > libc::STDERR_FILENO {
        if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
            return Err(Errno::BADF);
        }
        rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is open, and the caller hands over its ownership.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let taken = rustix::io::fcntl_dupfd_cloexec(borrowed, libc::STDERR_FILENO + 1)?;
    let null = null_device()?;
    match fd {
        libc::STDIN_FILENO => rustix::stdio::dup2_stdin(&null)?,
        libc::STDOUT_FILENO => rustix::stdio::dup2_stdout(&null)?,
        _ => rustix::stdio::dup2_stderr(&null)?,
    }
    Ok(taken)
}

/// Opens `/dev/null`.
///
/// # Errors
/// What open(2) reports.
pub(crate) fn null_device() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open("/dev/null", flags, Mode::empty())
}

/// Makes `file` standard input, output and error.
///
/// # Errors
/// What dup2(2) reports.
pub(crate) fn replace_standard_descriptors(file: &OwnedFd) -> Result<(), Errno> {
    rustix::stdio::dup2_stdin(file)?;
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)
}

/// Leaves the session and process group, and the folder that the program was started in, which may be unmounted: for a
/// fork that helps the program, and to which signals are what `when_told` says. Allocates nothing.
///
/// # Errors
/// What the calls report.
pub(crate) fn leave_starter(when_told: WhenTold) -> Result<(), Errno> {
    when_told.settle()?;
    // A leader of a group has left it for good; a fork is none.
    rustix::process::setsid()?;
    rustix::process::chdir(c"/")
}

/// The same for one that has the file system: it closes all descriptors but those in `keep`, too. Standard input, output
/// and error are `/dev/null`.
///
/// # Errors
/// What the calls report.
pub(crate) fn become_helper(when_told: WhenTold, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    leave_starter(when_told)?;
    replace_standard_descriptors(&null_device()?)?;
    close_all_but(keep)
}

/// Random bytes from the kernel.
///
/// # Errors
/// What getrandom(2) reports.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
