//! A link's access to the loop's epoll instance. The link registers and removes descriptors itself
//! because it must remove them *before* it closes them: the front-end holds the same eventfd, and an
//! open file description leaves epoll only when its last descriptor is closed.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll;

use crate::Errno;

/// When an event is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As long as the descriptor is readable.
    Level,
    /// Once for each change. Suits an eventfd that is never read.
    Edge,
}

/// Registers a link's descriptors; the loop gives the token back to
/// [`FramePort::on_event`](crate::FramePort::on_event).
#[derive(Clone, Debug)]
pub struct Registrar {
    epoll: Rc<OwnedFd>,
    base: u64,
}

impl Registrar {
    /// A registrar whose tokens are reported by `epoll` as `base | token`.
    pub fn new(epoll: Rc<OwnedFd>, base: u64) -> Self {
        Self { epoll, base }
    }

    /// Starts to report readability and hang-up of `fd` under `token`.
    ///
    /// # Errors
    /// Whatever epoll_ctl(2) reports; `EPERM` for a descriptor that cannot be polled.
    pub fn add(&self, fd: impl AsFd, token: u16, trigger: Trigger) -> Result<(), Errno> {
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if trigger == Trigger::Edge {
            flags |= epoll::EventFlags::ET;
        }
        let data = epoll::EventData::new_u64(self.base | u64::from(token));
        epoll::add(&*self.epoll, fd, data, flags)
    }

    /// Reports writability of `fd` as well, or no longer. For descriptors added with
    /// [`Trigger::Level`]: the link asks while it has something to write, and no longer.
    ///
    /// # Errors
    /// Whatever epoll_ctl(2) reports.
    pub fn watch_writable(&self, fd: impl AsFd, token: u16, wanted: bool) -> Result<(), Errno> {
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        flags.set(epoll::EventFlags::OUT, wanted);
        let data = epoll::EventData::new_u64(self.base | u64::from(token));
        epoll::modify(&*self.epoll, fd, data, flags)
    }

    /// Stops reporting `fd`. A descriptor that was not registered is ignored.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&*self.epoll, fd);
    }
}
