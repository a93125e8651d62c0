//! What can be seen of a connection from outside.

#[cfg(doc)]
use super::boundary::Action;
use super::conn::{Conn, State};
use super::failure::Failure;
use crate::time::Timestamp;
use crate::wire::seq::SeqNr;

impl Conn {
    /// Payload bytes of a segment to the guest at most: what it announced, within our bounds.
    pub fn guest_mss(&self) -> u16 {
        self.send.mss
    }

    /// Whether the connection is over: [`Action::Close`] was returned.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the handshake with the guest is not done yet.
    pub fn is_half_open(&self) -> bool {
        matches!(self.state, State::Connecting | State::SynAckSent | State::SynSent)
    }

    /// Whether the guest asks for the connection and has heard nothing of it yet, as the host is not connected or the
    /// SYN-ACK is still to be sent: it will ask again.
    pub(crate) fn is_unanswered(&self) -> bool {
        let asked = matches!(self.state, State::Connecting | State::SynAckSent);
        asked && !self.send.is_outstanding()
    }

    /// Bytes that are kept, and that the guest was not told to have come.
    pub(crate) fn kept(&self) -> u32 {
        self.recv.kept()
    }

    /// The first byte that the guest has not acknowledged, and the next that is expected of it: they move
    /// with each sign that the guest knows of the connection.
    pub(crate) fn progress(&self) -> [SeqNr; 2] {
        [self.send.una, self.recv.nxt]
    }

    /// The sequence number behind the last one that was sent.
    pub(crate) fn end_of_sent(&self) -> SeqNr {
        self.send.max
    }

    /// Whether the guest has all of the peer's stream and has ended its own, so that nothing but its
    /// acknowledgement of our FIN is left to come.
    pub(crate) fn is_all_but_over(&self) -> bool {
        let ended = self.recv.has_fin() && !self.recv.is_behind();
        self.state == State::Established && ended && self.send.is_fin_all_that_waits()
    }

    /// Whether nothing is left to happen but that the connection is closed.
    pub(crate) fn ends_next(&self) -> bool {
        let done = self.state == State::Established && self.both_ended();
        done || self.is_over()
    }

    /// Whether both streams have come to their ends, and both ends know.
    pub(super) fn both_ended(&self) -> bool {
        self.recv.has_fin() && !self.recv.is_behind() && self.send.is_fin_acked()
    }

    /// Where the connection stands, in one word for the operator.
    pub(crate) fn stage(&self) -> &'static str {
        match self.state {
            State::Connecting => "connecting",
            State::SynAckSent | State::SynSent => "handshake",
            State::Established if self.recv.has_fin() || self.send.is_ended() => "half-closed",
            State::Established => "established",
            State::Closing { .. } | State::Closed => "closing",
        }
    }

    /// When the guest or the socket last gave a sign of life.
    pub(crate) fn active_at(&self) -> Timestamp {
        self.active_at
    }

    /// The sequence number of the SYN with which the guest opens the connection.
    pub(crate) fn guest_isn(&self) -> SeqNr {
        self.recv.nxt - 1
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Closing { .. } | State::Closed)
    }

    /// Whether the guest has ended its stream and the peer has not: the acknowledgement of a FIN may wait,
    /// for there is nothing left that the guest could send. In most cases the peer ends its own stream at
    /// once, with a segment that says both.
    pub(super) fn waits_for_peers_end(&self) -> bool {
        self.recv.has_fin() && !self.send.is_ended()
    }

    /// Whether the socket has failed, and the guest may not have been told.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure != Failure::None
    }
}
