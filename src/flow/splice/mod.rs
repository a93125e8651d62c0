//! A TCP connection that is passed from socket to socket: what to do next, as a function of what
//! the two sockets reported. No frame of it ever exists; the kernel speaks TCP on both ends.
//!
//! The connection has two [`End`]s and thereby two *directions*, each named after the end its bytes come
//! from. A direction moves bytes while its source is readable and its destination is writable:
//! - short: the shell reads, and writes what it read to the destination. What the destination does not
//!   take is held in a pipe from the pool, and the direction goes on from there. While the pool has no pipe to
//!   fall back on, the shell reads without consuming instead, and then consumes what was taken: a third
//!   system call, for which nothing is held on the way;
//! - after [`PROMOTE_BYTES`] bytes in large pieces: through a pipe (splice(2)), if the pool has one. The
//!   pipe goes back when it is empty and either end has to be waited for. Small pieces are cheaper to
//!   copy, and several of them end what the large ones began; one does not, since every bulk stream has
//!   some.
//!
//! So what is held for stalled receivers is bounded by the pool, whatever the number of connections.
//!
//! TCP's half-close (RFC 9293, 3.6) is mirrored: the end of one source is passed on as a shutdown
//! once all its bytes were written, and the other direction goes on. When both are at their end the connection
//! is over, and closing the sockets passes on what is left to be passed on. Any error on either end, a refused connection among them, resets both (linger 0).
//!
//! What an end has said before it failed is still the other end's, who is reset once all of that is in its receive queue: a
//! reset throws away what its socket here was not rid of. Nobody waits for ever for one that takes nothing:
//! [`READER_PATIENCE`], and [`WRITER_PATIENCE`] where it has sent something that nobody takes any more, since it may be
//! waiting for just that. Each byte that its socket takes begins the time anew. Without us its kernel would tell it at once,
//! and all that had no room in its receive buffer would be lost.
//!
//! All events are edges. The machine remembers what they told until a call reports the contrary: a
//! read that finds nothing or less than it could take, a write that was not complete. The kernel
//! announces the next change exactly then, so nothing is polled and no edge is lost. The end of a
//! stream is an edge of its own, after which short reads prove nothing. While a destination is full, each
//! segment that arrives at its source would be an edge that nothing can be done about: the source is not
//! watched for bytes from then on, until it is empty.
//!
//! A byte that the peer calls urgent (RFC 9293, 3.8.5) stays in the stream, but it ends each read before it,
//! and splice(2) never goes past it. So a direction with such a byte copies, and its short reads prove nothing,
//! until a read finds nothing.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::limits::{READER_PATIENCE, WRITER_PATIENCE};
use crate::time::Timestamp;

/// Bytes after which a direction gets a pipe: setting one up costs as much as copying so many.
pub(crate) const PROMOTE_BYTES: u32 = 256 * 1024;

/// A read of fewer bytes is one of questions and answers: copying them costs less than what splice(2)
/// takes to say that there are no more.
pub(crate) const LARGE_BYTES: u32 = 16 * 1024;

/// How many bytes of large pieces a small one outweighs.
const SMALL_WEIGHT: u32 = PROMOTE_BYTES / 4;

/// Most that large pieces can count: five small ones in a row, and the direction is no longer one of bulk.
const BULK_MAX: u32 = 2 * PROMOTE_BYTES;

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The accepted one.
    Initiator,
    /// The one that was connected for it.
    Target,
}

impl End {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Initiator, Self::Target];

    /// 0 or 1.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Target,
            Self::Target => Self::Initiator,
        }
    }
}

/// What an end reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// There may be bytes to read.
    pub(crate) readable: bool,
    /// There may be room to write; on the target for the first time: it is connected.
    pub(crate) writable: bool,
    /// The peer has sent its last byte.
    pub(crate) ended: bool,
    /// The connection has failed.
    pub(crate) failed: bool,
}

/// What the shell is to do next. `from` names the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read and write; hold what was not taken in a pipe, or leave it where it is. Answer with
    /// [`on_copied`](Splice::on_copied).
    Copy(End),
    /// Take a pipe out of the pool, or say that there is none: [`on_pipe`](Splice::on_pipe).
    TakePipe(End),
    /// Splice from the source into the pipe: [`on_filled`](Splice::on_filled).
    Fill(End),
    /// Splice this many bytes from the pipe to the destination: [`on_drained`](Splice::on_drained).
    Drain(End, u32),
    /// Give the empty pipe back.
    GivePipe(End),
    /// Have this end report bytes to read, or no longer. What waits when that begins is an event.
    Watch {
        /// Whose.
        end: End,
        /// Whether to report.
        readable: bool,
    },
    /// Have this end report room to write once all that was written to it has left its socket.
    Flush(End),
    /// Shut down writing on the socket of this end.
    ShutdownWrite(End),
    /// Close both sockets, with a reset or as they are.
    Close {
        /// Linger 0 on both.
        reset: bool,
    },
}

/// What came of [`Action::Copy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Bytes were read.
    Bytes {
        /// Bytes that were read, at least 1.
        read: u32,
        /// How many of them the destination has taken.
        taken: u32,
        /// How many of them a pipe of this direction holds now. The rest, if any, can be read again.
        held: u32,
        /// Bytes that could have been read.
        room: u32,
    },
    /// Nothing waits.
    Empty,
    /// The end of the stream.
    Ended,
    /// Reading failed.
    Failed,
    /// The destination failed.
    Refused,
}

/// What came of [`Action::Fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes are in the pipe, at least 1.
    Bytes(u32),
    /// Nothing waits.
    Empty,
    /// An urgent byte waits.
    Urgent,
    /// The end of the stream.
    Ended,
    /// The source failed.
    Failed,
}

/// What came of [`Action::Drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// The destination has taken so many bytes; fewer than asked for if it is full.
    Bytes(u32),
    /// The destination failed.
    Failed,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    /// The source may have bytes, or its end.
    readable: bool,
    /// The destination may have room.
    writable: bool,
    /// The source's end was announced; it stands behind its last byte.
    ended: bool,
    /// The source may have an urgent byte to read.
    urgent: bool,
    /// The source's end was read.
    finished: bool,
    /// The source has failed, as its event told, or a write to it did first: what has come before can be read, and nothing
    /// else is worth doing.
    broken: bool,
    /// Nothing more can be read, since it has.
    lost: bool,
    /// There is room at the destination when all that came from the source, which has failed, has left its socket.
    flushing: bool,
    /// The destination was shut down.
    shut: bool,
    /// The direction has a pipe.
    piped: bool,
    /// The source does not report bytes to read.
    muted: bool,
    /// Bytes in the pipe.
    held: u32,
    /// Bytes read in large pieces, without what small ones outweigh, since the last try for a pipe.
    in_bulk: u32,
}

/// The machine of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Splice {
    directions: [Direction; 2],
    connecting: bool,
    failed: bool,
    closed: bool,
    /// The direction to look at first: they take turns.
    first: End,
    /// When both ends are reset, if what one has said before it failed is not taken by the other until then.
    gives_up_at: Option<Timestamp>,
}

impl Splice {
    /// A connection that was accepted; its target is being connected unless `connected`. What waits in
    /// either socket is still to be told.
    pub(crate) fn new(connected: bool) -> Self {
        let direction = Direction { writable: true, ..Direction::default() };
        Self {
            directions: [direction; 2],
            connecting: !connected,
            failed: false,
            closed: false,
            first: End::Initiator,
            gives_up_at: None,
        }
    }

    /// Whether the target's handshake has not finished.
    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// Bytes in the pipe of a direction: an empty one can be used again.
    pub(crate) fn held(&self, from: End) -> u32 {
        self.directions[from.index()].held
    }

    /// Whether a direction has had more large pieces than small ones of late.
    pub(crate) fn moves_bulk(&self) -> bool {
        self.directions.iter().any(|direction| direction.in_bulk > 0)
    }

    /// An end has reported something.
    pub(crate) fn on_event(&mut self, end: End, event: Event) {
        self.failed |= event.failed && self.connecting;
        if self.connecting && end == End::Target && (event.writable || event.ended) {
            self.connecting = false;
        }
        let source = &mut self.directions[end.index()];
        source.readable |= event.readable || event.ended;
        source.ended |= event.ended;
        if event.failed {
            self.on_broken(end);
        }
        self.directions[end.other().index()].writable |= event.writable;
    }

    /// This end has failed. Servers answer, and reset because they have not read all: the answer is the other end's.
    pub(crate) fn on_broken(&mut self, end: End) {
        let source = &mut self.directions[end.index()];
        (source.broken, source.readable) = (true, true);
    }

    /// A byte that the peer of this end calls urgent has come.
    pub(crate) fn on_urgent(&mut self, end: End) {
        self.directions[end.index()].urgent = true;
    }

    /// Something failed that the machine does not know of.
    pub(crate) fn on_failure(&mut self) {
        self.failed = true;
    }

    /// The next thing to do; `None` until the next event.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        if self.closed {
            return None;
        }
        let broken = self.directions.map(|direction| direction.broken);
        if self.failed || broken == [true; 2] || self.directions.iter().any(Direction::is_flushed) {
            self.closed = true;
            return Some(Action::Close { reset: true });
        }
        if self.connecting {
            return None;
        }
        let is_over = |direction: &Direction| {
            direction.finished && !direction.broken && direction.held == 0 && !direction.piped
        };
        if self.directions.iter().all(is_over) {
            // Closing says so, too, to whom it was not said yet.
            self.closed = true;
            return Some(Action::Close { reset: false });
        }
        for from in [self.first, self.first.other()] {
            if broken[from.other().index()] {
                continue;
            }
            if let Some(action) = self.directions[from.index()].next(from) {
                self.first = from.other();
                return Some(action);
            }
        }
        None
    }

    /// When [`on_timer`](Self::on_timer) is to be called, to be asked when there is nothing to do.
    pub(crate) fn deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let at = self.patience().map(|patience| now + patience);
        self.gives_up_at = at.map(|at| self.gives_up_at.map_or(at, |before| before.min(at)));
        self.gives_up_at
    }

    /// How long an end may take nothing of what the other one has said before it failed; `None` if nothing waits for that.
    fn patience(&self) -> Option<Duration> {
        if self.connecting || self.closed {
            return None;
        }
        let broken = End::BOTH.into_iter().find(|end| self.directions[end.index()].broken)?;
        let back = &self.directions[broken.other().index()];
        // Who has ended its stream is not writing any more.
        let writes = back.readable && !back.ended;
        Some(if writes { WRITER_PATIENCE } else { READER_PATIENCE })
    }

    /// Time has passed.
    pub(crate) fn on_timer(&mut self, now: Timestamp) {
        self.failed |= self.gives_up_at.is_some_and(|at| at <= now);
    }

    /// Answer to [`Action::Copy`].
    pub(crate) fn on_copied(&mut self, from: End, copied: Copied) {
        let direction = &mut self.directions[from.index()];
        match copied {
            Copied::Bytes { read, taken, held, room } => {
                direction.count(read);
                if taken > 0 {
                    self.gives_up_at = None;
                }
                direction.writable = taken == read;
                let all_to_come = direction.ended || direction.broken || direction.urgent;
                direction.readable = all_to_come || taken + held < read || read == room;
                direction.held = held;
                direction.piped = held > 0;
            }
            Copied::Empty => {
                (direction.readable, direction.urgent, direction.lost) =
                    (false, false, direction.broken);
            }
            Copied::Ended => direction.finished = true,
            Copied::Failed => {
                (direction.broken, direction.lost, direction.readable) = (true, true, false);
            }
            Copied::Refused => self.on_broken(from.other()),
        }
    }

    /// Answer to [`Action::TakePipe`].
    pub(crate) fn on_pipe(&mut self, from: End, available: bool) {
        let direction = &mut self.directions[from.index()];
        direction.piped = available;
        if !available {
            direction.in_bulk = 0;
        }
    }

    /// Answer to [`Action::Fill`].
    pub(crate) fn on_filled(&mut self, from: End, filled: Filled) {
        let direction = &mut self.directions[from.index()];
        match filled {
            Filled::Bytes(bytes) => {
                direction.held += bytes;
                direction.count(bytes);
            }
            Filled::Empty => (direction.readable, direction.lost) = (false, direction.broken),
            Filled::Urgent => direction.urgent = true,
            Filled::Ended => direction.finished = true,
            Filled::Failed => (direction.lost, direction.readable) = (true, false),
        }
    }

    /// Answer to [`Action::Drain`].
    pub(crate) fn on_drained(&mut self, from: End, drained: Drained) {
        let direction = &mut self.directions[from.index()];
        match drained {
            Drained::Bytes(bytes) => {
                if bytes > 0 {
                    self.gives_up_at = None;
                }
                direction.writable = bytes == direction.held;
                direction.held = direction.held.saturating_sub(bytes);
            }
            Drained::Failed => self.on_broken(from.other()),
        }
    }
}

impl Direction {
    /// Notes the size of a read.
    fn count(&mut self, bytes: u32) {
        self.in_bulk = match bytes {
            ..LARGE_BYTES => self.in_bulk.saturating_sub(SMALL_WEIGHT),
            _ => self.in_bulk.saturating_add(bytes).min(BULK_MAX),
        };
    }

    /// Whether all that its source has said before it failed was passed on.
    fn is_lost(&self) -> bool {
        (self.lost || self.broken && self.finished) && self.held == 0
    }

    /// Whether the destination has that.
    fn is_flushed(&self) -> bool {
        self.flushing && self.writable
    }

    /// The next thing to do on the way from `from`.
    fn next(&mut self, from: End) -> Option<Action> {
        if self.is_lost() {
            let flushing = std::mem::replace(&mut self.flushing, true);
            self.writable &= flushing;
            return (!flushing).then_some(Action::Flush(from.other()));
        }
        let mute = self.readable && (self.muted || !self.writable);
        if std::mem::replace(&mut self.muted, mute) != mute && !self.finished {
            return Some(Action::Watch { end: from, readable: !mute });
        }
        if self.held > 0 {
            return self.writable.then_some(Action::Drain(from, self.held));
        }
        let idle = self.finished || !self.readable || !self.writable;
        if (idle || self.urgent) && std::mem::take(&mut self.piped) {
            return Some(Action::GivePipe(from));
        }
        if self.finished && !std::mem::replace(&mut self.shut, true) {
            return Some(Action::ShutdownWrite(from.other()));
        }
        if idle {
            return None;
        }
        Some(match self.piped {
            true => Action::Fill(from),
            false if self.in_bulk >= PROMOTE_BYTES && !self.urgent => Action::TakePipe(from),
            false => Action::Copy(from),
        })
    }
}
