//! What ends with a reset: a socket that has failed, and a link that has no room to say so.

#[cfg(doc)]
use super::boundary::{Action, DataResult};
use super::conn::{Conn, State};
#[cfg(doc)]
use super::limits::RESET_PATIENCE;
use crate::time::Timestamp;
use crate::wire::tcp::{Flags, Header};

impl Conn {
    /// The socket has failed. What its peer has sent before is the guest's, as it is a direct client's: servers answer, and
    /// reset because they have not read all of the question. The queue of the socket ends with the error, or as that of a
    /// stream does if somebody was told of it before. The guest gets it within [`RESET_PATIENCE`] of the
    /// failure, while what it sends is not taken; a guest that waits for a handshake with nobody is told at once.
    pub(super) fn fail(&mut self) {
        if matches!(self.state, State::Established | State::SynAckSent) {
            self.failed = true;
            self.send.readable = true;
            self.send.closing = true;
        } else {
            self.abort();
        }
    }

    /// Whether the socket has failed, and the guest may not have been told.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The link has buffers again after [`DataResult::NoRoom`].
    pub fn on_port_room(&mut self, now: Timestamp) {
        self.send.no_room = false;
        self.keep_time(now);
    }

    /// The link had no buffer for the last [`Action::Emit`], which had this `header`: the segment is lost. What it said of
    /// the guest's stream, a SYN and the reset with which the connection ends are said again once there is room
    /// ([`Conn::on_port_room`]): a guest that reads bulk has hardly any left for others, and would wait for a second
    /// each time, or for ever. FIN and probes are repeated by their timers.
    pub(crate) fn on_emit_lost(&mut self, now: Timestamp, header: &Header) {
        match self.state {
            State::Established => self.acks = self.acks.max(1),
            State::SynAckSent | State::SynSent if header.flags.contains(Flags::SYN) => {
                self.syn_due = true;
            }
            State::Closing { .. } if header.flags.contains(Flags::RST) => {
                (self.rst_due, self.active_at) = (header.flags, now);
            }
            _ => return,
        }
        self.send.no_room = true;
    }
}
