//! What is done because a guest is silent.

use crate::time::Timestamp;

use super::conn::{Conn, State};
use super::limits::{FIN_ACK_DELAY, KEEPALIVE};

impl Conn {
    /// When a silent guest is asked how far it is.
    pub(super) fn ask_at(&self) -> Option<Timestamp> {
        let waits = self.state == State::Established && self.send.is_outstanding();
        let has_room = !self.send.no_room && self.send.window_bytes() > 0;
        let may_ask = waits && has_room && !self.retry.is_waiting() && !self.has_failed();
        let pause = self.send.asking.pause().filter(|_| may_ask);
        pause.map(|pause| self.active_at + pause)
    }

    /// Has the guest asked, if it has been silent for long enough and its machine does not stand still.
    pub(super) fn ask(&mut self, now: Timestamp, reads: bool) {
        while self.ask_at().is_some_and(|at| at <= now) {
            self.send.asking.ask(reads);
        }
    }

    /// When the acknowledgement of its FIN has waited for the peer's for long enough.
    pub(super) fn fin_ack_at(&self) -> Option<Timestamp> {
        let waits = self.recv.is_ack_due() && self.acks == 0 && self.waits_for_peers_end();
        waits.then(|| self.active_at + FIN_ACK_DELAY)
    }

    /// When a guest is probed that has nothing to say.
    pub(super) fn keepalive_at(&self) -> Timestamp {
        self.active_at + KEEPALIVE * (u32::from(self.probes) + 1)
    }
}
