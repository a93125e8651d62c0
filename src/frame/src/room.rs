//! The law of room, which all links keep in the same way.
//!
//! A reservation ([`ToGuestLease::reserve`](crate::ToGuestLease::reserve)) asks for frames, and the answer
//! ([`Reservation`](crate::Reservation)) says how the link stands to them:
//!
//! * *all*: nothing is lacking. If the request was for more than one reservation holds, the lease is
//!   smaller than the request, and the next reservation goes on with the rest.
//! * *some*: the guest has room for the first frames and not for all.
//! * *none*: the guest has no room for the first frame now.
//! * *never*: the first frame does not fit, and waiting does not help. It is larger than all that the guest
//!   could make available, with the driver and the features that it has now.
//!
//! After *some* and *none* the link owes a report: [`PortEvents::room`](crate::PortEvents) follows once there
//! is more room than there was, however soon the guest makes it, and not before: who was refused may sleep.
//! If others use what came before it is reported, the debt stays, and what comes next settles it. What came
//! may be less than what is wanted; the next reservation then says so. A link that is down answers *none*,
//! and its report is [`LinkChange::Up`](crate::LinkChange).
//!
//! What a frame with fewer bytes than wanted is worth says the request ([`Payload`]): bytes of a stream can
//! be sent in smaller frames, a datagram cannot.
//!
//! A link does not answer in these words. It adds frames to the list and says why it stopped
//! ([`Stopped`]); the list knows what was covered. And it can say that it is short only with a proof that it
//! has noted its debt ([`RoomDebt`]). `tests/room` holds every link to all of this.

/// What the payload of a request is, which decides about frames that cannot have all their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes of a stream: a frame may carry fewer than it wanted, at least one.
    Stream,
    /// Datagrams, or anything else that has to be whole: a frame has room for all its bytes or none.
    Datagrams,
}

/// Why a link adds no further frame to a reservation.
#[derive(Debug)]
#[must_use]
pub enum Stopped {
    /// The reservation is complete, or takes no more, and time does not change that: all frames of the
    /// list are open, the link's own limits are reached, or the next frame can never fit. The first frame
    /// is never refused for what *earlier* frames took, so that the next reservation can go on.
    Ended,
    /// The guest has no room for the next frame now.
    Short(Owed),
    /// Frames cannot reach the guest.
    Down,
}

/// Proof that a link has noted that it owes a report of room.
#[derive(Debug)]
pub struct Owed(());

/// Whether a link owes a report of room.
#[derive(Debug, Default)]
pub struct RoomDebt(bool);

impl RoomDebt {
    /// Notes the debt. Whatever reports room to the link (a kick, a socket that becomes writable) has
    /// been asked for before, or will be before the link's next `flush` is over.
    pub fn owe(&mut self) -> Owed {
        self.0 = true;
        Owed(())
    }

    /// Whether a report is owed.
    pub fn is_owed(&self) -> bool {
        self.0
    }

    /// There is more room: whether that is to be reported. Says so once.
    pub fn settle(&mut self) -> bool {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_settled_once() {
        let mut debt = RoomDebt::default();
        assert!(!debt.is_owed() && !debt.settle());
        let _ = (debt.owe(), debt.owe());
        assert!(debt.is_owed() && debt.settle());
        assert!(!debt.is_owed() && !debt.settle());
    }
}
