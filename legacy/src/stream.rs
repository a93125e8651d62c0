//! The stream socket as the loop sees it: a [`FramePort`] whose client comes and goes.
//!
//! The socket is watched by level: data that one turn leaves there is reported again with the next,
//! and so is a hang-up. The end of a connection therefore takes two events: the first lets the engine
//! take what the client sent before it left, the second ends the connection.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use passt_frame::{
    Errno, FramePort, FromGuest, LinkChange, PortEvents, Registrar, ToGuest, Trigger,
};
use rustix::net::sockopt;
use thiserror::Error;

use crate::incoming::Incoming;
use crate::outgoing::Outgoing;

/// Token of the client's socket.
const TOKEN_SOCKET: u16 = 0;

/// Bytes asked for each of the socket's buffers; the kernel grants what it allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Why a client could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// A system call failed.
    #[error("client socket: {what}: {errno}")]
    System {
        /// Which.
        what: &'static str,
        /// How it failed.
        errno: Errno,
    },
    /// There is a client already.
    #[error("client socket: a client is connected already")]
    Occupied,
}

/// A link over a stream socket.
pub struct Stream {
    incoming: Incoming,
    outgoing: Outgoing,
    socket: Option<Rc<UnixStream>>,
    registrar: Registrar,
    /// The loop knows that the link is up.
    announced: bool,
    /// Writability is reported.
    watching: bool,
}

impl Stream {
    /// A link without a client, whose descriptor is reported to the loop through `registrar`.
    pub fn new(registrar: Registrar) -> Self {
        let (incoming, outgoing) = (Incoming::new(), Outgoing::new());
        Self { incoming, outgoing, socket: None, registrar, announced: false, watching: false }
    }

    /// Takes over the connection of a client. The next turn reports that the link is up.
    ///
    /// # Errors
    /// [`AttachError`]; the connection is closed then.
    pub fn attach(&mut self, socket: UnixStream) -> Result<(), AttachError> {
        if self.socket.is_some() {
            return Err(AttachError::Occupied);
        }
        let failed = |errno| AttachError::System { what: "epoll", errno };
        // Smaller buffers work as well, only slower.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        self.registrar.add(&socket, TOKEN_SOCKET, Trigger::Level).map_err(failed)?;
        self.registrar.watch_writable(&socket, TOKEN_SOCKET, true).map_err(failed)?;
        let socket = Rc::new(socket);
        self.incoming.set_socket(Some(socket.clone()));
        self.outgoing.set_socket(Some(socket.clone()));
        self.socket = Some(socket);
        (self.announced, self.watching) = (false, true);
        Ok(())
    }

    /// Whether a client is connected.
    pub fn is_attached(&self) -> bool {
        self.socket.is_some()
    }

    /// The client's socket: for asking about it, not for what goes through it.
    pub fn client(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| socket.as_fd())
    }

    /// Whether all was read that the client has sent, or it is to go: the next event ends the connection.
    pub fn is_leaving(&self) -> bool {
        self.socket.is_some() && self.incoming.has_ended()
    }

    fn detach(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        self.registrar.remove(&*socket);
        self.incoming.set_socket(None);
        self.outgoing.set_socket(None);
    }

    /// Has writability reported exactly while something waits to be written.
    fn watch(&mut self) {
        let wanted = self.outgoing.is_blocked();
        let Some(socket) = self.socket.as_ref().filter(|_| wanted != self.watching) else { return };
        match self.registrar.watch_writable(&**socket, TOKEN_SOCKET, wanted) {
            Ok(()) => self.watching = wanted,
            // Tried again in the next turn.
            Err(errno) => log::debug!("client socket: epoll: {errno}"),
        }
    }
}

impl FramePort for Stream {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        (&mut self.incoming, &mut self.outgoing)
    }

    fn on_event(&mut self, _token: u16) -> PortEvents {
        if self.socket.is_none() {
            return PortEvents::default();
        }
        if self.is_leaving() {
            self.detach();
            return PortEvents { link: Some(LinkChange::Closed), ..PortEvents::default() };
        }
        self.incoming.on_readable();
        self.outgoing.write();
        self.watch();
        let known = std::mem::replace(&mut self.announced, true);
        let link = if known { None } else { Some(LinkChange::Up) };
        PortEvents { frames: true, room: self.outgoing.take_room(), link }
    }

    fn flush(&mut self) {
        if !self.outgoing.is_blocked() {
            self.outgoing.write();
        }
        self.watch();
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("stream.from_guest.frames", self.incoming.frames);
        visit("stream.from_guest.bad_length", self.incoming.bad_lengths);
        visit("stream.to_guest.frames", self.outgoing.frames);
        visit("stream.to_guest.no_room", self.outgoing.no_room);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.detach();
    }
}
