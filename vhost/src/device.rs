//! The device as the loop sees it: a [`FramePort`] whose front-end comes and goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use log::{info, warn};
use passt_frame::{
    Errno, FramePort, FromGuest, FrontEndRequest, LinkChange, PortEvents, Registrar, ToGuest,
    Trigger,
};
use rustix::event::EventfdFlags;
use thiserror::Error;

use crate::config::Config;
use crate::control::{Control, ControlError};
use crate::mem::install_guard;
use crate::queue::Flushed;
use crate::session::{Kicked, RINGS, Session, TOKEN_KICK};

/// Token of the control socket.
const TOKEN_CONTROL: u16 = 0;

/// Token of the device's own wake-up.
const TOKEN_WAKE: u16 = 1;

/// Control messages handled in one turn of the loop; traffic goes on in between.
const MESSAGES_PER_TURN: usize = 32;

/// Why a device could not be made, or a front-end not be attached.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A system call failed.
    #[error("vhost-user: {what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        error: std::io::Error,
    },
    /// The queue types refused the ring size.
    #[error("vhost-user: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// There is a front-end already.
    #[error("vhost-user: a front-end is connected already")]
    Occupied,
}

fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> SetupError {
    move |error| SetupError::System { what, error: error.into() }
}

/// A virtio network device served over vhost-user.
pub struct Device {
    session: Session,
    control: Option<Control>,
    registrar: Registrar,
    config: Config,
    /// Written by ourselves when the next turn has work that no descriptor announces.
    wake: OwnedFd,
    /// Link state as last reported.
    up: bool,
    /// MTU as last reported.
    mtu: u16,
    /// Messages are left in the control socket.
    unread: bool,
    /// Connections that ended with a violation of the protocol.
    violations: u64,
}

impl Device {
    /// A device without a front-end. Its descriptors are reported to the loop through `registrar`.
    /// Installs a SIGBUS handler for the process: guest memory may go away under us.
    ///
    /// # Errors
    /// [`SetupError`] when the wake-up cannot be made.
    pub fn new(registrar: Registrar, config: Config) -> Result<Self, SetupError> {
        install_guard();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags).map_err(system("eventfd"))?;
        registrar.add(&wake, TOKEN_WAKE, Trigger::Edge).map_err(system("epoll"))?;
        let session = Session::new(registrar.clone(), config)?;
        Ok(Self {
            session,
            control: None,
            registrar,
            config,
            wake,
            up: false,
            mtu: config.mtu,
            unread: false,
            violations: 0,
        })
    }

    /// Takes over the connection of a front-end. One at a time: see [`is_attached`](Self::is_attached).
    ///
    /// # Errors
    /// [`SetupError`]; the connection is closed then.
    pub fn attach(&mut self, stream: UnixStream) -> Result<(), SetupError> {
        if self.control.is_some() {
            return Err(SetupError::Occupied);
        }
        let vacant = Session::new(self.registrar.clone(), self.config)?;
        let control = Control::new(stream, vacant)
            .map_err(|error| SetupError::System { what: "socketpair", error })?;
        self.registrar
            .add(control.socket(), TOKEN_CONTROL, Trigger::Edge)
            .map_err(system("epoll"))?;
        self.control = Some(control);
        info!("vhost-user: front-end connected");
        Ok(())
    }

    /// Whether a front-end is connected.
    pub fn is_attached(&self) -> bool {
        self.control.is_some()
    }

    /// The front-end's socket: for asking about it, not for what goes through it.
    pub fn front_end(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(|control| control.socket().as_fd())
    }

    /// Whether `token` is that of a ring: the driver has put something into it.
    pub fn is_kick(token: u16) -> bool {
        kicked_ring(token).is_some()
    }

    /// Makes the loop come back in the next turn.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Handles what is in the control socket; true when the front-end is gone after it.
    fn on_control(&mut self) -> bool {
        self.unread = false;
        for _ in 0..MESSAGES_PER_TURN {
            let Some(control) = &mut self.control else { return false };
            match control.handle_next(&mut self.session) {
                Ok(true) => self.session.sharing.note_message(),
                Ok(false) => return false,
                Err(error) => {
                    self.detach(&error);
                    return true;
                }
            }
        }
        self.unread = true;
        self.wake();
        false
    }

    /// Ends the connection, with one line that says why.
    fn detach(&mut self, error: &ControlError) {
        let Some(control) = self.control.take() else { return };
        if error.is_disconnect() {
            info!("vhost-user: front-end disconnected");
        } else {
            warn!("vhost-user: front-end dropped at {}: {error}", control.current());
            self.violations += 1;
        }
        self.close(&control);
    }

    fn close(&mut self, control: &Control) {
        self.registrar.remove(control.socket().as_fd());
        self.session.disconnect();
        self.unread = false;
    }

    /// Ends the connection of a front-end whose memory, or log, went away; true when it did.
    fn check_shared(&mut self) -> bool {
        let Some(what) = self.session.lost() else { return false };
        let Some(control) = self.control.take() else { return false };
        warn!("vhost-user: front-end dropped: {what}");
        self.violations += 1;
        self.close(&control);
        true
    }

    /// Comes back in the next turn if something is left that no descriptor announces.
    fn after_flush(&mut self, flushed: Flushed) {
        let lost = self.control.is_some() && self.session.lost().is_some();
        if flushed.unannounced || lost {
            self.wake();
        }
    }

    /// The change of the link since the last report.
    fn link_change(&mut self, closed: bool) -> Option<LinkChange> {
        let mut up = self.session.is_up();
        if std::mem::take(&mut self.session.left) && self.up && up {
            // Who was refused meanwhile waits for it to come up: in the next turn.
            up = false;
            self.wake();
        }
        let before = std::mem::replace(&mut self.up, up);
        match (closed, before, up) {
            (true, ..) => Some(LinkChange::Closed),
            (false, false, true) => Some(LinkChange::Up),
            (false, true, false) => Some(LinkChange::Down),
            _ => None,
        }
    }
}

impl FramePort for Device {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        self.session.halves()
    }

    fn on_event(&mut self, token: u16) -> PortEvents {
        let ring = kicked_ring(token);
        let mut closed = false;
        if token == TOKEN_CONTROL || (token == TOKEN_WAKE && self.unread) {
            closed = self.on_control();
        }
        closed |= self.check_shared();
        let kicked = match ring {
            Some(ring) => self.session.on_kick(ring),
            None => self.session.look_at_all(),
        };
        if kicked.commands {
            self.wake();
        }
        let Kicked { frames, room, .. } = kicked;
        PortEvents { frames, room, link: self.link_change(closed) }
    }

    fn take_request(&mut self) -> Option<FrontEndRequest> {
        let mtu = self.session.mtu();
        if mtu != std::mem::replace(&mut self.mtu, mtu) {
            return Some(FrontEndRequest::MtuChanged(mtu));
        }
        self.session.transfer.take_request()
    }

    fn answer_check(&mut self, ended: Result<(), Errno>) {
        let Some(control) = &mut self.control else { return };
        if control.answer_check(&mut self.session, ended) {
            // Messages behind it, or that it could not be sent.
            self.unread = true;
            self.wake();
        }
    }

    fn flush(&mut self) {
        let flushed = self.session.flush(None);
        self.after_flush(flushed);
    }

    fn flush_lazily(&mut self, now: Duration) -> Option<Duration> {
        let flushed = self.session.flush(Some(now));
        self.after_flush(flushed);
        let doubt = self.session.check_sharing(now);
        [flushed.again, doubt].into_iter().flatten().min()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let (tx, rx, commands) = self.session.counters();
        visit("vhost.from_guest.frames", tx.frames);
        visit("vhost.from_guest.too_short", tx.too_short);
        visit("vhost.from_guest.too_long", tx.too_long);
        visit("vhost.from_guest.too_scattered", tx.too_scattered);
        visit("vhost.from_guest.bad_header", tx.bad_header);
        visit("vhost.from_guest.ring_disabled", tx.disabled);
        visit("vhost.to_guest.frames", rx.frames);
        visit("vhost.to_guest.no_buffers", rx.starved);
        visit("vhost.to_guest.ring_broken", rx.lost);
        visit("vhost.commands.done", commands.done);
        visit("vhost.commands.refused", commands.refused);
        visit("vhost.commands.malformed", commands.malformed);
        visit("vhost.rings_broken", self.session.faults);
        visit("vhost.memory_not_shared", self.session.unshared);
        visit("vhost.violations", self.violations);
    }
}

/// The ring whose kicks are reported under `token`.
fn kicked_ring(token: u16) -> Option<usize> {
    token.checked_sub(TOKEN_KICK).map(usize::from).filter(|&ring| ring < RINGS)
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            self.close(&control);
        }
        self.registrar.remove(&self.wake);
    }
}
