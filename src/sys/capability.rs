//! Capabilities of the calling thread (capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};

/// A set of capabilities.
pub(crate) type Capabilities = CapabilitySet;

/// Keeps those of the thread's capabilities that are in `wanted`, permitted and effective, and lets
/// none be inherited.
///
/// # Errors
/// What capget(2) or capset(2) report.
pub(crate) fn keep(wanted: Capabilities) -> Result<(), Errno> {
    let kept = capabilities(None)?.permitted & wanted;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

/// Whether the thread may become another user and another group.
pub(crate) fn may_change_user() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Whether the thread may make and enter namespaces of its user namespace.
pub(crate) fn may_change_namespaces() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Of what the thread is permitted, has only `wanted` in effect. What a socket may be used for is decided by what
/// was in effect when it was made, and by what is when it is used.
///
/// # Errors
/// What capget(2) or capset(2) report.
pub(crate) fn put_in_effect(wanted: Capabilities) -> Result<(), Errno> {
    let CapabilitySets { permitted, inheritable, .. } = capabilities(None)?;
    let effective = permitted & wanted;
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
}

/// Empties the bounding set: no program that is executed gains anything. Without `SETPCAP` the set
/// stays as it is.
///
/// # Errors
/// What prctl(2) reports, but not that it is not permitted or that the kernel knows no more
/// capabilities.
pub(crate) fn empty_bounding_set() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::PERM) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
