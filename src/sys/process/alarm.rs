//! An alarm for calls that do not come back. Descriptors of a front-end are shared with it: it can make one block that
//! we have made non-blocking, at any moment, and so have a call of ours wait for ever. No check before the call can
//! rule that out; a signal ends the wait.
//!
//! The timer is set anew by who works, at most each half of its time, so that it never ends while the loop turns; in
//! one that has nothing to do it ends once. Its handler does nothing but set it again if somebody is at work: the
//! signal may have come just before the call that waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::sys::socket::last_errno;

/// How long a call may wait.
pub(crate) const ALARM: Duration = Duration::from_secs(1);
/// When the signal comes again.
const AGAIN: Duration = Duration::from_millis(100);

static AT_WORK: AtomicBool = AtomicBool::new(false);
static RANG: AtomicBool = AtomicBool::new(false);

/// Lets the alarm interrupt system calls of this process.
///
/// # Errors
/// What sigaction(2) or sigprocmask(2) report.
pub(crate) fn prepare() -> Result<(), Errno> {
    let handler: extern "C" fn(libc::c_int) = on_alarm;
    // SAFETY: all-zero is a valid sigaction, without SA_RESTART: calls are to be interrupted. The handler makes one
    // system call and touches atomic variables. The calls read and write locals only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigemptyset(&raw mut action.sa_mask);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGALRM);
        let ok = libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) == 0
            && libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) == 0;
        if ok { Ok(()) } else { Err(last_errno()) }
    }
}

/// Sets the alarm anew.
pub(crate) fn set() {
    set_timer(ALARM);
}

/// Says whether what is called from now on must come back. Waiting for events need not.
pub(crate) fn at_work(is: bool) {
    AT_WORK.store(is, Ordering::Relaxed);
}

/// Whether the signal has come since this was asked last.
pub(crate) fn rang() -> bool {
    RANG.swap(false, Ordering::Relaxed)
}

extern "C" fn on_alarm(_: libc::c_int) {
    RANG.store(true, Ordering::Relaxed);
    if AT_WORK.load(Ordering::Relaxed) {
        set_timer(AGAIN);
    }
}

/// Has SIGALRM come after this `time`, once; for handlers of signals, too.
pub(super) fn set_timer(time: Duration) {
    let at = libc::timeval {
        tv_sec: time.as_secs().cast_signed() as _,
        tv_usec: time.subsec_micros().cast_signed().into(),
    };
    let once =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: at };
    // SAFETY: the kernel reads one timer value, a live local.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const once, 0usize) };
}
