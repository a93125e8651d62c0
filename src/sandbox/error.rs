//! Why a stage of the sandbox could not be reached, and what to do about it.

use rustix::io::Errno;

use crate::error::{StartError, process_cure};
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

    /// What failed with why, and what follows them: the cure, if there is one.
    pub(crate) fn parts(&self) -> (String, &'static str) {
        (format!("{}: {}", self.what, self.why), self.cure)
    }
}

impl From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Names what failed, where a container that refuses it is all that the operator could change.
pub(super) fn failed(what: &'static str) -> impl FnOnce(Errno) -> SandboxError {
    move |errno| SandboxError::new(what, errno, container_cure(errno))
}

/// All that containers refuse and a start needs: who allows one call after the other starts in vain many times.
macro_rules! container_policy {
    () => {
        "allow clone, clone3, unshare, setns, mount, umount2, pivot_root, capset and seccomp in the container's seccomp \
         profile, and mount in its AppArmor profile"
    };
}

/// What to do where a call is refused that everybody may make who has come so far.
pub(crate) fn container_cure(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => concat!(": ", container_policy!()),
        _ => "",
    }
}

/// What to do where namespaces, or processes and threads in them, cannot be made.
pub(crate) fn namespace_cure(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => concat!(
            ": allow user namespaces (kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns); in a container, ",
            container_policy!()
        ),
        Errno::NOSPC | Errno::USERS => {
            ": raise user.max_user_namespaces and its siblings, or nest fewer containers"
        }
        Errno::INVAL | Errno::NOSYS => ": use a kernel with namespaces",
        _ => process_cure(errno),
    }
}

/// Names a process that could not be started in a namespace, with what to do about it. The user namespace is entered, so
/// that nothing but a container's policy refuses what follows.
pub(crate) fn not_in_namespace(what: &'static str) -> impl FnOnce(Errno) -> StartError {
    move |errno| {
        let why = errno_text(errno);
        let cure = match errno {
            Errno::PERM | Errno::ACCESS | Errno::NOSYS => container_cure(errno),
            _ => namespace_cure(errno),
        };
        StartError::Other(format!("{what}: {why}{cure}"))
    }
}
