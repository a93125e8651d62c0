//! One vring's life cycle: what the front-end's SET_VRING_* messages leave behind.
//!
//! Size, addresses, base and call descriptor live in `vhost-user-backend`'s [`VringMutex`], which is
//! built for that; its lock is taken by control messages and for a notification, never for a frame.
//! The kick and error descriptors are kept here: that type gives neither out in a form that can be
//! taken out of epoll again, and the error descriptor not at all.
//!
//! # Descriptors from outside
//! All are made non-blocking, so that neither a full call counter nor a spurious kick can stop the
//! loop. The flag belongs to the open file, which the front-end shares; one that takes it away again
//! and fills the counter stops its own guest's network, nobody else's. A kick eventfd is registered
//! edge-triggered and not read: each write is an edge. Other descriptors (pipes, sockets) are read
//! until they are empty.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, Registrar, Trigger};
use rustix::fs::FileType;
use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::mem::{Memory, RingAddresses};

/// Largest ring: the limit of the specification, which crosvm uses.
pub const MAX_RING: u16 = 32_768;

/// Addresses of a ring in the front-end's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAddresses {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

impl UserAddresses {
    /// The same as guest physical addresses, unless one is not mapped.
    pub fn in_guest(&self, memory: &Memory) -> Option<RingAddresses> {
        Some(RingAddresses {
            descriptors: memory.guest_of_user(self.descriptors)?,
            available: memory.guest_of_user(self.available)?,
            used: memory.guest_of_user(self.used)?,
        })
    }
}

/// A kick descriptor that epoll watches.
struct Kick {
    fd: OwnedFd,
    /// An eventfd: its writes are edges even when nobody reads.
    counter: bool,
}

/// What is known of one vring.
pub struct Vring {
    state: VringMutex,
    kick: Option<Kick>,
    err: Option<OwnedFd>,
    /// Where SET_VRING_ADDR put the ring.
    pub addresses: Option<UserAddresses>,
}

impl Vring {
    /// A vring that nothing was said about. `None` cannot happen for [`MAX_RING`].
    pub fn new(memory: GuestMemoryAtomic<GuestMemoryMmap>) -> Result<Self, virtio_queue::Error> {
        let state = VringMutex::new(memory, MAX_RING)?;
        Ok(Self { state, kick: None, err: None, addresses: None })
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.state.get_ref().get_queue().size()
    }

    /// Sets the number of entries; false when it is not a power of two up to [`MAX_RING`].
    pub fn set_size(&self, size: u32) -> bool {
        let size = u16::try_from(size).unwrap_or(0);
        self.state.get_mut().get_queue_mut().try_set_size(size).is_ok()
    }

    /// Available index at which the ring goes on.
    pub fn base(&self) -> u16 {
        self.state.queue_next_avail()
    }

    /// Sets the available index at which the ring goes on.
    pub fn set_base(&self, base: u16) {
        self.state.set_queue_next_avail(base);
    }

    /// Records where the ring is; false when a part is not aligned.
    pub fn set_addresses(&self, at: &RingAddresses) -> bool {
        self.state.set_queue_info(at.descriptors, at.available, at.used).is_ok()
    }

    /// Whether kicks are watched: the ring is to run.
    pub fn has_kick(&self) -> bool {
        self.kick.is_some()
    }

    /// Watches `fd` for kicks under `token` from now on.
    ///
    /// # Errors
    /// What fcntl(2) or epoll_ctl(2) report, `EPERM` for a file that has no events.
    pub fn set_kick(&mut self, fd: File, registrar: &Registrar, token: u16) -> Result<(), Errno> {
        self.drop_kick(registrar);
        adopt(&fd)?;
        registrar.add(&fd, token, Trigger::Edge)?;
        let mode = rustix::fs::fstat(&fd)?.st_mode;
        let counter = FileType::from_raw_mode(mode) == FileType::Unknown;
        self.kick = Some(Kick { fd: fd.into(), counter });
        Ok(())
    }

    /// Stops watching for kicks.
    pub fn drop_kick(&mut self, registrar: &Registrar) {
        if let Some(kick) = self.kick.take() {
            registrar.remove(&kick.fd);
        }
    }

    /// Makes room for the next kick where that takes reading.
    pub fn acknowledge_kick(&self) {
        let Some(kick) = self.kick.as_ref().filter(|kick| !kick.counter) else { return };
        let mut bytes = [0u8; 4096];
        // Bounded: a writer that is faster than this gets another edge.
        for _ in 0..16 {
            if !matches!(rustix::io::read(&kick.fd, &mut bytes), Ok(n) if n > 0) {
                return;
            }
        }
    }

    /// Sets or takes away the descriptor that tells the driver of used buffers.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn set_call(&self, fd: Option<File>) -> Result<(), Errno> {
        if let Some(fd) = &fd {
            adopt(fd)?;
        }
        self.state.set_call(fd);
        Ok(())
    }

    /// Tells the driver of used buffers. A full counter means that it was told already.
    pub fn call(&self) {
        let _ = self.state.signal_used_queue();
    }

    /// Sets or takes away the descriptor that tells the front-end of a broken ring.
    ///
    /// # Errors
    /// What fcntl(2) reports.
    pub fn set_err(&mut self, fd: Option<File>) -> Result<(), Errno> {
        if let Some(fd) = &fd {
            adopt(fd)?;
        }
        self.err = fd.map(OwnedFd::from);
        Ok(())
    }

    /// Tells the front-end that the ring is broken.
    pub fn signal_err(&self) {
        if let Some(err) = &self.err {
            let _ = rustix::io::write(err.as_fd(), &1u64.to_ne_bytes());
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self, registrar: &Registrar) {
        self.drop_kick(registrar);
        self.state.set_call(None);
        self.state.get_mut().get_queue_mut().reset();
        self.err = None;
        self.addresses = None;
    }
}

/// Prepares a notification descriptor from outside: O_NONBLOCK, as neither a full counter nor a
/// spurious event may stop the loop, and close-on-exec, which the vhost crate leaves out.
fn adopt(fd: impl AsFd) -> rustix::io::Result<()> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)
}
