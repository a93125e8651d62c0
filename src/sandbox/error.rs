//! Why a stage of the sandbox could not be reached, and what to do about it.

use rustix::io::Errno;

use crate::error::StartError;
use crate::sys::errno_text;

/// A stage that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("Failed to sandbox process, exiting: {what}: {why}{cure}")]
pub struct SandboxError {
    pub(super) what: &'static str,
    pub(super) why: String,
    pub(super) cure: &'static str,
}

impl SandboxError {
    pub(super) fn new(what: &'static str, errno: Errno, cure: &'static str) -> Self {
        Self { what, why: errno_text(errno), cure }
    }
}

impl From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Names what failed, where there is nothing that the operator could do.
pub(super) fn failed(what: &'static str) -> impl FnOnce(Errno) -> SandboxError {
    move |errno| SandboxError::new(what, errno, "")
}

/// What to do where namespaces cannot be made.
pub(crate) fn namespace_cure(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            ": allow user namespaces (kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile)"
        }
        Errno::NOSPC | Errno::USERS => {
            ": raise user.max_user_namespaces and its siblings, or nest fewer containers"
        }
        Errno::INVAL | Errno::NOSYS => ": use a kernel with namespaces",
        _ => "",
    }
}
