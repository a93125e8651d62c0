//! Clients of the link: one at a time is let in, the next one when it has left.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use passt_frame::Errno;
use rustix::event::epoll;
use rustix::net::{SocketFlags, accept_with};

use super::Link;
use crate::engine::token::Token;
use crate::limits::ACCEPT_RETRY;
use crate::sys::socket;

/// Where clients of the link come from.
pub struct Clients {
    /// The socket on which they connect; `None` when the one connection was handed over.
    pub listener: Option<OwnedFd>,
    /// End when the client is gone.
    pub one_off: bool,
}

/// Lets clients in.
pub(in crate::engine) struct Door {
    clients: Clients,
    epoll: Rc<OwnedFd>,
    /// A client wants to connect.
    knocking: bool,
    /// A client waits that cannot be accepted for want of descriptors.
    waiting: bool,
}

impl Door {
    /// Watches the socket on which clients connect with `epoll`.
    ///
    /// # Errors
    /// What fcntl(2) or epoll_ctl(2) report.
    pub(crate) fn new(epoll: Rc<OwnedFd>, clients: Clients) -> Result<Self, Errno> {
        if let Some(listener) = &clients.listener {
            rustix::io::ioctl_fionbio(listener, true)?;
            let data = epoll::EventData::new_u64(Token::Clients.to_bits());
            epoll::add(&*epoll, listener, data, epoll::EventFlags::IN)?;
        }
        Ok(Self { clients, epoll, knocking: false, waiting: false })
    }

    /// Whether the end of a client is the end of the program.
    pub(crate) fn is_one_off(&self) -> bool {
        self.clients.one_off
    }

    /// The socket is readable.
    pub(crate) fn knock(&mut self) {
        self.knocking = true;
    }

    /// After how long to call [`open`](Self::open) even though nobody knocks.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.waiting.then_some(ACCEPT_RETRY)
    }

    /// Lets a client in that has knocked, unless there is one.
    pub(crate) fn open(&mut self, link: &mut impl Link) {
        if !std::mem::take(&mut self.knocking) && !self.waiting {
            return;
        }
        let Some(listener) = &self.clients.listener else { return };
        if link.is_leaving() {
            // The one before comes first. The listening socket is reported again in the next turn.
            return;
        }
        let accepted = accept_with(listener, SocketFlags::CLOEXEC);
        self.note_exhaustion(accepted.as_ref().err().copied());
        let Ok(client) = accepted else { return };
        let peer = match socket::peer_process(client.as_fd()) {
            Some(pid) => format!("PID {pid}"),
            None => "another PID namespace".to_owned(),
        };
        if link.is_attached() {
            log::info!("discarding connection from {peer}");
            return;
        }
        log::info!("accepted connection from {peer}");
        if let Err(error) = link.attach(client) {
            log::error!("{error}");
        }
    }

    /// A client that cannot be accepted stays in the queue and would be reported without end: the
    /// socket is not watched then, and looked at again in later turns.
    fn note_exhaustion(&mut self, error: Option<Errno>) {
        let wait = error.is_some_and(socket::is_exhaustion);
        let Some(listener) = &self.clients.listener else { return };
        if wait == std::mem::replace(&mut self.waiting, wait) {
            return;
        }
        if let (true, Some(error)) = (wait, error) {
            log::warn!("Cannot accept a client: {error}: it has to wait");
        }
        let events = if wait { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(Token::Clients.to_bits());
        if let Err(errno) = epoll::modify(&*self.epoll, listener, data, events) {
            log::error!("cannot watch the clients' socket: {errno}");
        }
    }
}
