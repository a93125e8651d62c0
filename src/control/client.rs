//! One client of a control socket: its connection, what is said on it, and how long it is waited for.

use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, ToGuest};
use rustix::event::epoll::EventFlags;

use super::channel::Channel;
use super::protocol::{Next, Protocol};
use crate::engine::Engine;
use crate::limits::{CONTROL_GRACE, CONTROL_READS_WITHIN, CONTROL_STEPS_PER_TURN};
use crate::time::Timestamp;

/// A place for a client: its protocol and its buffers last, clients come and go.
pub(super) struct Client<P> {
    pub(super) protocol: P,
    channel: Channel,
    connection: Option<Connection>,
}

/// A client that is there.
struct Connection {
    socket: OwnedFd,
    /// Who it is, for messages.
    who: String,
    /// When it came.
    came: Timestamp,
    /// Since when its next request is awaited.
    asked: Timestamp,
    /// It has asked something before.
    has_asked: bool,
    /// Since when it has something to read.
    told: Timestamp,
    /// What its protocol has said last.
    next: Next,
    /// What it is watched for.
    watched: EventFlags,
}

/// Why a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// All has been said.
    #[error("done")]
    Done,
    /// It has closed the connection.
    #[error("it has left")]
    Left,
    /// It has sent more than a request can have.
    #[error("its request is too long")]
    TooMuch,
    /// It has sent no whole request for too long.
    #[error("it has sent no request in time")]
    Silent,
    /// It does not read.
    #[error("it does not read what it is told")]
    Deaf,
    /// The connection is broken, or cannot be watched.
    #[error("{}", crate::sys::errno_text(*.0))]
    Broken(Errno),
}

impl<P: Protocol> Client<P> {
    /// A place for clients of `protocol`, with buffers of so many bytes from them and to them.
    pub(super) fn new(protocol: P, (input_bytes, output_bytes): (usize, usize)) -> Self {
        Self { protocol, channel: Channel::new(input_bytes, output_bytes), connection: None }
    }

    /// Whether nobody is here.
    pub(super) fn is_free(&self) -> bool {
        self.connection.is_none()
    }

    /// A client has come, at `now`.
    pub(super) fn begin(&mut self, socket: OwnedFd, who: String, now: Timestamp) {
        self.channel.clear();
        self.protocol.begin();
        let (came, asked, told) = (now, now, now);
        let (next, watched) = (Next::Wait, EventFlags::empty());
        let has_asked = false;
        self.connection =
            Some(Connection { socket, who, came, asked, has_asked, told, next, watched });
    }

    /// The client is gone. Returns its connection, and who it was.
    pub(super) fn end(&mut self) -> Option<(OwnedFd, String)> {
        self.protocol.end();
        self.connection.take().map(|connection| (connection.socket, connection.who))
    }

    /// Goes on: reads, lets the protocol act, writes; a few times, as long as that gets on.
    ///
    /// # Errors
    /// Why the client is to go.
    pub(super) fn go_on(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Result<(), End> {
        let Self { protocol, channel, connection } = self;
        let Some(connection) = connection else { return Ok(()) };
        let now = engine.now();
        for _ in 0..CONTROL_STEPS_PER_TURN {
            let mut moves = channel.receive(connection.socket.as_fd()).map_err(broken)?;
            if connection.next != Next::Close {
                let had_output = channel.has_output();
                connection.next = protocol.go_on(engine, out, channel);
                if channel.was_used() {
                    moves = true;
                    (connection.asked, connection.has_asked) = (now, true);
                }
                if !had_output {
                    connection.told = now;
                }
            }
            moves |= channel.send(connection.socket.as_fd()).map_err(broken)?;
            if !channel.has_output() {
                connection.told = now;
            }
            match connection.next {
                Next::Close if !channel.has_output() => return Err(End::Done),
                Next::Wait if channel.has_output() => {}
                Next::Wait if channel.input_has_ended() => return Err(End::Left),
                Next::Wait if channel.input_is_full() => return Err(End::TooMuch),
                _ => {}
            }
            if !moves {
                break;
            }
        }
        Ok(())
    }

    /// Whether the client is to be gone on with at the end of each turn.
    pub(super) fn wants_turns(&self) -> bool {
        let busy = self.connection.as_ref().map(|connection| connection.next == Next::Busy);
        busy.is_some_and(|busy| busy || self.protocol.watches())
    }

    /// What to watch the connection for, if that is something else than before.
    pub(super) fn rewatch(&mut self) -> Option<(&OwnedFd, EventFlags)> {
        let connection = self.connection.as_mut()?;
        let mut wanted = EventFlags::empty();
        let reads = !self.channel.input_is_full() && !self.channel.input_has_ended();
        wanted.set(EventFlags::IN, reads && connection.next != Next::Close);
        wanted.set(EventFlags::OUT, self.channel.has_output() || connection.next == Next::More);
        let before = std::mem::replace(&mut connection.watched, wanted);
        (before != wanted).then_some((&connection.socket, wanted))
    }

    /// Whether nothing is awaited from the client.
    pub(super) fn only_listens(&self) -> bool {
        self.protocol.patience().is_none()
    }

    /// When the client has to go, and why, if nothing comes of it until then. If others wait for its place, that is
    /// soon.
    pub(super) fn deadline(&self, crowd: Crowd) -> Option<(Timestamp, End)> {
        let connection = self.connection.as_ref()?;
        let soon = connection.came + CONTROL_GRACE;
        if crowd == Crowd::Listeners {
            return Some((soon, End::Silent));
        }
        // A first request that is whole waits for us: it is answered, however many others are there.
        let waits = connection.next == Next::More && !connection.has_asked;
        if (connection.next == Next::Busy || waits) && !self.channel.has_output() {
            return None;
        }
        let (at, end) = if self.channel.has_output() || connection.next != Next::Wait {
            (connection.told + CONTROL_READS_WITHIN, End::Deaf)
        } else {
            (connection.asked + self.protocol.patience()?, End::Silent)
        };
        Some((if crowd == Crowd::Askers { at.min(soon) } else { at }, end))
    }
}

/// Who has to make room where others wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowd {
    /// Nobody waits.
    None,
    /// Those from whom something is awaited.
    Askers,
    /// There are only clients that listen: the first of them.
    Listeners,
}

/// A client that has closed its end, whatever was on its way, has left.
fn broken(errno: Errno) -> End {
    match errno {
        Errno::PIPE | Errno::CONNRESET => End::Left,
        _ => End::Broken(errno),
    }
}
