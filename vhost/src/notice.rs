//! Descriptors of the front-end by which it is told something: calls, errors, what is new in the dirty log.
//!
//! All are made non-blocking, so that neither a full call counter nor a spurious kick can stop the loop. The flag belongs
//! to the open file, which the front-end shares: one that takes it away again and fills the counter has the loop wait
//! until the program's alarm interrupts it, and then that descriptor is signalled no more.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

/// Signals a descriptor of the front-end. A full counter means that it was signalled already. Who was interrupted has
/// waited: the front-end has made it block, and filled it. That descriptor is signalled no more.
pub(crate) fn signal(place: &mut Option<OwnedFd>) {
    place.take_if(|fd| rustix::io::write(fd, &1u64.to_ne_bytes()) == Err(Errno::INTR));
}

/// Prepares a notification descriptor from outside: O_NONBLOCK, as neither a full counter nor a
/// spurious event may stop the loop, and close-on-exec, which the vhost crate leaves out.
pub(crate) fn adopt(fd: impl AsFd) -> rustix::io::Result<()> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)
}
