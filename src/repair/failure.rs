//! What ends passt-repair.

use passt_frame::Errno;

use crate::sys::errno_text;

/// What ends the program, with its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(crate) message: String,
    pub(crate) code: u8,
}

impl Failure {
    /// Something failed, and the cure.
    pub(crate) fn new(message: String) -> Self {
        Self { message, code: 1 }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: String) -> Self {
        Self { message, code: 2 }
    }

    /// A system call failed.
    pub(crate) fn system(what: &str, errno: Errno) -> Self {
        Self::new(format!("{what}: {}", errno_text(errno)))
    }
}
