//! A link that has no room for what is to be said.

#[cfg(doc)]
use super::boundary::{Action, DataResult};
use super::conn::{Conn, State};
use crate::time::Timestamp;
use crate::wire::tcp::{Flags, Header};

impl Conn {
    /// The link has buffers again after [`DataResult::NoRoom`].
    pub fn on_port_room(&mut self, now: Timestamp) {
        self.send.no_room = false;
        self.ask(now, false);
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
