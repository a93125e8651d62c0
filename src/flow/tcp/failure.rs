//! How a connection ends before both streams have: at once, or, where its socket has failed, when the guest has got what is
//! left in the queue, as a direct client does.

use crate::time::Timestamp;
use crate::wire::tcp::Flags;

use super::boundary::DataResult;
use super::conn::{Conn, State};
use super::limits::{IN_VAIN_PATIENCE, RESET_PATIENCE};

/// What a socket that has failed still has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It has not failed.
    None,
    /// What is in its queue.
    Queue,
    /// That, and the end of the peer's stream.
    QueueAndEnd,
    /// Nothing.
    Nothing,
}

impl Conn {
    /// Ends the flow from outside, for example at shutdown: the guest and the peer get a reset.
    pub fn abort(&mut self) {
        if !self.is_over() {
            // Before the guest's SYN there is nothing to acknowledge.
            let ack = if self.state == State::SynSent { Flags::default() } else { Flags::ACK };
            self.rst_due = Flags::RST | ack;
            self.state = State::Closing { reset: true };
            // There may be room for a reset where there is none for data.
            self.send.no_room = false;
        }
    }

    /// Ends a connection of the guest that the host could not make, without a reset: the guest is told in another way,
    /// or not at all.
    pub fn give_up(&mut self) {
        if self.state == State::Connecting {
            self.state = State::Closing { reset: false };
        }
    }

    /// The queue of the socket, which has failed, holds `bytes`, those that were peeked at included. A guest that has got
    /// them all and whose window is closed is told at once, and so is one that the peer had nothing for and that knows nothing
    /// of the connection yet.
    pub fn on_queue(&mut self, bytes: u32) {
        match self.state {
            State::Established if self.has_failed() => self.send.ends_after(bytes),
            State::SynSent if self.has_failed() && bytes == 0 => self.abort(),
            // Its SYN has a number, too.
            State::SynSent | State::SynAckSent if self.has_failed() => {
                self.send.ends_after(bytes.saturating_add(1));
            }
            _ => {}
        }
    }

    /// The socket has failed, and what is `left` is the guest's, as it is a direct client's: servers answer, and reset because
    /// they have not read all of the question. Then the guest is told, once it has acknowledged all of that or has
    /// acknowledged nothing for [`RESET_PATIENCE`]; nothing that it sends meanwhile is taken. A guest that waits for a
    /// handshake with nobody is told at once.
    pub(super) fn fail(&mut self, left: Failure) {
        if self.state == State::Connecting {
            return self.abort();
        }
        if !self.has_failed() {
            // An end that was told before counts, whatever the error: after a FIN of the guest's it is that of any reset.
            let ended = self.send.closing && left == Failure::Queue;
            self.failure = if ended { Failure::QueueAndEnd } else { left };
            if self.state == State::Established {
                self.send.forget_end();
            }
            self.send.readable = true;
            self.send.closing = true;
        }
    }

    /// The guest sends what nobody takes any more. If its window is closed meanwhile, it does not read until it has sent all, as
    /// far as can be seen, and each would wait for the other: it has a second more.
    pub(super) fn on_sent_in_vain(&mut self, now: Timestamp) {
        if self.send.window_bytes() == 0 {
            self.active_at = self.active_at.min(now.earlier_by(RESET_PATIENCE - IN_VAIN_PATIENCE));
        }
    }

    /// The queue of a socket that has failed ends here: with the error, or as that of a stream does if somebody was told of
    /// the error before.
    pub(super) fn on_end_of_failed(&mut self, result: DataResult) {
        match result {
            DataResult::Eof if self.failure == Failure::QueueAndEnd => _ = self.send.end(),
            // Without a peek offset, the end shows when all was acknowledged.
            DataResult::Empty if self.send.is_outstanding() => self.send.readable = false,
            _ => (self.failure, self.send.readable) = (Failure::Nothing, false),
        }
    }
}
