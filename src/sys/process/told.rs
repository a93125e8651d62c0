//! What a helper makes of signals that end the program, when somebody sends them to the helper itself.
//!
//! Whoever stops a service sends them to all of its processes at once, and waits for each one's end: systemd with
//! `KillMode=control-group`, its default. The program ends by them, and may need its helpers for that, so that these go on
//! until it is gone. But it may be another's by then: rootless Podman moves the one process whose number stands in the PID
//! file to a unit of its own, and leaves the helpers behind in the one that has started the first container. There a signal
//! tells the helpers alone, and who stayed until the program has ended would hold up that unit's stop until systemd loses
//! its patience. So a helper ends [`GRACE`] after the signal, if the program has not.
//!
//! It is a timer of the kernel's that ends it, not the helper's own loop, so that it ends also where it stands still at a
//! file that a server far away does not give.
//!
//! # What was looked at in place of that
//! A program whose helpers are gone goes on with less ([`helpers`](crate::helpers)). It would be better if they went along.
//! - They could follow the program to its new cgroup. Nothing tells of a move: the helper would have to ask again and again,
//!   since `KillMode=mixed`, Quadlet's, sends SIGKILL without a word before. And it would have to open, for writing, files of
//!   `/sys/fs/cgroup` whose names are not known before, which nothing in a sandbox here may do.
//! - The program could start others. It would need fork(2), setns(2) and a file system, the very things that it gives up.
//! - They could be threads of the program, which move along. Then whoever takes the program over has all of their rights.
//!
//! What helps is to have the program started in a unit that outlives its users: `contrib/guides/podman.md`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use super::ENDING_SIGNALS;
use super::alarm::set_timer;
use super::inherited::{block_all_but, set_action, set_handler};

/// How long a helper goes on that was told to end: what the program takes at most that was told at the same time
/// (`LINGER` and `REST_AT_MOST` of [`limits`](crate::limits)).
const GRACE: Duration = Duration::from_secs(1);

static TOLD: AtomicBool = AtomicBool::new(false);

/// What a helper does when it gets one of [`ENDING_SIGNALS`]. All others but SIGKILL do nothing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenTold {
    /// It ends after a second, if the program, which ends by the same signals, has not ended before.
    Ends,
    /// Nothing. The program passes such signals on to a command, and goes on for as long as that does.
    Stays,
}

impl WhenTold {
    /// Has signals do this in the calling process. Allocates nothing.
    ///
    /// # Errors
    /// What sigaction(2) or sigprocmask(2) report.
    pub(super) fn settle(self) -> Result<(), Errno> {
        block_all_but(&[])?;
        if self == Self::Stays {
            return Ok(());
        }
        let handler = on_told as extern "C" fn(libc::c_int) as libc::sighandler_t;
        let [term, quit] = ENDING_SIGNALS;
        for signal in [term, quit] {
            set_action(signal, handler, libc::SA_RESTART)?;
        }
        set_handler(libc::SIGALRM, libc::SIG_DFL)?;
        block_all_but(&[term, quit, libc::SIGALRM])
    }
}

/// A second signal gives no more time.
extern "C" fn on_told(_: libc::c_int) {
    if !TOLD.swap(true, Ordering::Relaxed) {
        set_timer(GRACE);
    }
}
