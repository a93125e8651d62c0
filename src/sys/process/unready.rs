//! A start that a signal ends: what it has made goes with it, files and the process in the background.
//!
//! Handlers of signals see to that, until the program [holds](hold_signals) them back. From then on they wait, and are
//! what they are to a program that is ready. Handlers know what to undo by what stands here, and make system calls only.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};

use super::inherited::{change_mask, set_handler};
use super::{ENDING_SIGNALS, PASSED_SIGNALS};

/// The most files that a start makes: sockets for clients, the helper and control (four), and the PID file.
const FILES_MAX: usize = 8;

/// The files that were made, and which of them are to be removed: a bit for each.
static FILES: [OnceLock<CString>; FILES_MAX] = [const { OnceLock::new() }; FILES_MAX];
static UNDONE: AtomicU32 = AtomicU32::new(0);

/// The process that is to be the program in the background; 0 for none.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Makes signals do what they do by default, whatever the parent thought of them. Those of [`ENDING_SIGNALS`], and those
/// of [`PASSED_SIGNALS`] that the parent does not ignore, end the start: in the foreground with 0 or by the signal, as
/// later, and with 1 on the way to the background, where 0 says that it is ready. Who starts a command is told of the
/// signal, as if it had ended that. A file that has reached the limit of
/// its size (`ulimit -f`) is an error of write(2), like a full disk, and no signal.
///
/// # Errors
/// What sigaction(2) reports.
pub fn settle_signals(foreground: bool, has_command: bool) -> Result<(), Errno> {
    keep_ended_children()?;
    set_handler(libc::SIGXFSZ, libc::SIG_IGN)?;
    let end = match (foreground, has_command) {
        (true, true) => end_for_command,
        (true, false) => end_at_once,
        (false, _) => end_unready,
    };
    let end = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
    hold_signals()?;
    set_unless_ignored(end)?;
    change_mask(libc::SIG_SETMASK, &[])
}

/// Has children that end wait to be asked how: where the parent ignores their signal, the kernel would drop them (sigaction(2)).
///
/// # Errors
/// What sigaction(2) reports.
pub(crate) fn keep_ended_children() -> Result<(), Errno> {
    set_handler(libc::SIGCHLD, libc::SIG_DFL).map(drop)
}

/// Has the signals that may end a start do this, but those that are ignored and need not be treated.
fn set_unless_ignored(handler: libc::sighandler_t) -> Result<(), Errno> {
    for signal in PASSED_SIGNALS {
        let before = set_handler(signal, handler)?;
        if before == libc::SIG_IGN && !is_ending(signal) {
            set_handler(signal, before)?;
        }
    }
    Ok(())
}

/// A signal that ends the start removes this file.
pub(crate) fn remove_if_unready(path: &Path) {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return };
    let mut name = Some(name);
    for (at, file) in FILES.iter().enumerate() {
        file.get_or_init(|| name.take().unwrap_or_default());
        if name.is_none() {
            UNDONE.fetch_or(1 << at, Ordering::Relaxed);
            return;
        }
    }
}

/// What was made is to stay, or is another process's to undo.
pub(crate) fn keep_all() {
    UNDONE.store(0, Ordering::Relaxed);
    PROGRAM.store(0, Ordering::Relaxed);
}

/// A signal that ends this process ends `program` first, its child.
pub(crate) fn end_if_unready(program: i32) {
    PROGRAM.store(program, Ordering::Relaxed);
}

/// Has signals that would end the start wait.
///
/// # Errors
/// What sigprocmask(2) reports.
pub(crate) fn hold_signals() -> Result<(), Errno> {
    change_mask(libc::SIG_BLOCK, &PASSED_SIGNALS)
}

/// Lets them end it, again.
///
/// # Errors
/// What sigprocmask(2) reports.
pub(crate) fn allow_signals() -> Result<(), Errno> {
    change_mask(libc::SIG_UNBLOCK, &PASSED_SIGNALS)
}

/// The program is ready: signals do what they do by default, but those of [`ENDING_SIGNALS`], which it reads.
///
/// # Errors
/// What sigaction(2) or sigprocmask(2) report.
pub(crate) fn release_signals() -> Result<(), Errno> {
    set_unless_ignored(libc::SIG_DFL)?;
    let others = PASSED_SIGNALS.into_iter().filter(|signal| !is_ending(*signal));
    change_mask(libc::SIG_UNBLOCK, &others.collect::<Vec<_>>())
}

/// This process is a fork with another task: nothing is its to undo, and signals do what they do by default.
///
/// # Errors
/// What sigaction(2) reports.
pub(crate) fn leave_start() -> Result<(), Errno> {
    keep_all();
    set_unless_ignored(libc::SIG_DFL)
}

fn is_ending(signal: libc::c_int) -> bool {
    ENDING_SIGNALS.contains(&signal)
}

/// Ends the process in the background, if there is one, and waits until its ports are free.
pub(crate) fn end_program() {
    let Some(program) = take_program() else { return };
    let _gone_already = kill_process(program, Signal::KILL);
    let _status = reap(program);
}

/// Waits for the end of the process in the background, which ends by itself. Returns its exit code; `None` if a signal has
/// ended it, or there is none.
pub(crate) fn reap_program() -> Option<u8> {
    reap(take_program()?)?.exit_status()?.try_into().ok()
}

/// The process in the background, with which no signal has anything to do any more.
fn take_program() -> Option<Pid> {
    Pid::from_raw(PROGRAM.swap(0, Ordering::Relaxed))
}

fn reap(program: Pid) -> Option<WaitStatus> {
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(program), WaitOptions::empty()));
    ended.ok().flatten().map(|(_, status)| status)
}

/// Called by handlers of signals: nothing that allocates, locks or panics.
fn undo() {
    end_program();
    let undone = UNDONE.load(Ordering::Relaxed);
    for (at, file) in FILES.iter().enumerate() {
        if let Some(file) = file.get().filter(|_| undone & (1 << at) != 0) {
            let _might_be_out_of_reach = rustix::fs::unlink(file.as_c_str());
        }
    }
}

/// Ends the process; called as a signal handler.
extern "C" fn end_at_once(signal: libc::c_int) {
    undo();
    if is_ending(signal) {
        super::end(0);
    }
    end_by(signal)
}

/// The same, with the exit code that the command's end would have.
extern "C" fn end_for_command(signal: libc::c_int) {
    undo();
    super::end(super::BY_SIGNAL + signal as u8)
}

/// Ends the process by a signal, or as if by it, as the first process of a process id namespace has to.
fn end_by(signal: libc::c_int) -> ! {
    let _default = set_handler(signal, libc::SIG_DFL);
    let _unblocked = change_mask(libc::SIG_UNBLOCK, &[signal]);
    let _sent = super::send_signal(getpid().as_raw_nonzero().get(), signal);
    super::end(super::BY_SIGNAL + signal as u8)
}

/// The same, for whom somebody waits.
extern "C" fn end_unready(_signal: libc::c_int) {
    const WORDS: &[u8] = b"Ended by a signal before it was ready\n";
    undo();
    // Who does not hear it sees the exit code.
    let _written = rustix::io::write(rustix::stdio::stderr(), WORDS);
    super::end(1)
}
