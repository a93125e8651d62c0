//! When the driver hears of the frames that were taken from its transmit ring.
//!
//! All it has to do then is to free their buffers. Linux also does that when it is notified of the
//! receive ring, and before it sends the next frame, and then says by the event index that there is
//! nothing left to tell. So in bulk, where the next notification of the receive ring is never far, that of the
//! transmit ring waits for it: it is due (virtio 1.2, section 2.7.7.2), but nothing says how soon, and network
//! cards have such a delay, too. A guest is then interrupted a fraction as often.
//!
//! Nothing waits in an exchange of a few frames. It would be interrupted once and not twice for each question and
//! answer, but what it waits for then is one interrupt alone. With a User-Mode Linux guest one exchange of ten took as
//! long as the delay. Probably, for it was not traced, the guest goes to sleep at the very moment at which the
//! interrupt comes, and hears of it only with the next.
//!
//! What could wait for the notification are senders that may not queue more: a socket with a small
//! buffer. That is why nothing waits unless the driver was notified of the receive ring just now.

use std::time::Duration;

/// Longest delay, from the first frame that the driver was not told of. Drivers that free transmit buffers when they
/// are notified of the receive ring have done it well before; others have it done within the usual delay of
/// a network card.
const DELAY: Duration = Duration::from_millis(1);

/// Bytes of either ring, given back and not told of, from which on it is bulk: more than an exchange has.
const BULK_BYTES: u64 = 16 * 1024;

/// Decides for one transmit ring.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    /// When the driver should have been told.
    held: Option<Duration>,
}

/// Bytes of frames whose buffers were given back to the driver, and that it was not told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untold {
    /// Those of the transmit ring.
    pub(crate) transmitted: u64,
    /// Those of the receive ring, of which the driver is notified just now; `None` if it is not notified.
    pub(crate) received: Option<u64>,
}

impl Moderation {
    /// The driver was notified, or wants no notification.
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }

    /// Until when the notification of the transmit ring, which the driver wants, may wait; `None` if it may not.
    pub(crate) fn hold(&mut self, now: Duration, untold: Untold) -> Option<Duration> {
        let bulk = untold.received.is_some_and(|bytes| bytes.max(untold.transmitted) >= BULK_BYTES);
        if self.held.is_none() && !bulk {
            return None;
        }
        let until = *self.held.get_or_insert(now) + DELAY;
        if now >= until {
            self.held = None;
            return None;
        }
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(5);

    const BULK: u64 = BULK_BYTES;

    fn untold(transmitted: u64, received: impl Into<Option<u64>>) -> Untold {
        Untold { transmitted, received: received.into() }
    }

    #[test]
    fn an_exchange_does_not_wait() {
        let mut moderation = Moderation::default();
        for few in [untold(1, None), untold(1, 1), untold(BULK - 1, BULK - 1)] {
            assert_eq!(moderation.hold(START, few), None, "{few:?}");
        }
    }

    #[test]
    fn bulk_waits_where_the_driver_was_woken_and_not_for_long() {
        let mut moderation = Moderation::default();
        assert_eq!(moderation.hold(START, untold(BULK, None)), None, "nothing else tells it");
        for bulk in [untold(1, BULK), untold(BULK, 1)] {
            let until = START + DELAY;
            assert_eq!(moderation.hold(START, bulk), Some(until), "{bulk:?}");
            assert_eq!(
                moderation.hold(until - DELAY / 10, untold(1, None)),
                Some(until),
                "not prolonged"
            );
            assert_eq!(moderation.hold(until, bulk), None);
            assert_eq!(moderation.hold(until, bulk), Some(until + DELAY), "starts anew");
            moderation.clear();
        }
    }
}
