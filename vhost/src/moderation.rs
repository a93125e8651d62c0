//! When the driver hears of the frames that were taken from its transmit ring.
//!
//! All it has to do then is to free their buffers. Linux also does that when it is notified of the
//! receive ring, and before it sends the next frame, and then says by the event index that there is
//! nothing left to tell. So in bulk, where the next notification of the receive ring is never far, that of the
//! transmit ring waits for it: it is due (virtio 1.2, section 2.7.7.2), but nothing says how soon, and network
//! cards have such a delay, too. A guest is then interrupted a fraction as often.
//!
//! Bulk is a matter of the last moments, not of one turn: what a turn finds in the ring depends on who ran first.
//!
//! Nothing waits in an exchange of a few frames. It would be interrupted once and not twice for each question and
//! answer, but what it waits for then is one interrupt alone, and some of its frames wait for it. Linux counts the bytes
//! that a driver has under way (BQL; virtio_net has it since 6.11), and after a while with little traffic its limit is
//! one small frame (90 bytes were seen): the next one is not put into the ring before the driver has heard that the first
//! was taken. With a User-Mode Linux guest one exchange of ten took as long as the delay; with a
//! limit of a megabyte in the guest it did not. In bulk the limit grows until it covers the delay.
//!
//! What could wait in bulk are senders that may not queue more: a socket with a small
//! buffer. That is why the delay is short until the driver was notified of the receive ring.

use std::time::Duration;

/// Longest delay, from the first frame that the driver was not told of: below what a timer of a guest can notice.
const DELAY: Duration = Duration::from_micros(100);

/// The same once the driver was notified of the receive ring. Drivers that free transmit buffers then
/// have done it well before; others have it done within the usual delay of a network card.
const DELAY_WOKEN: Duration = Duration::from_millis(1);

/// Bytes of either ring, given back and not told of, from which on it is bulk: more than an exchange has.
const BULK_BYTES: u64 = 16 * 1024;

/// How long it goes on to be bulk: as long as the longest delay.
const BULK_LASTS: Duration = DELAY_WOKEN;

/// A notification that waits.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// When the driver should have been told.
    since: Duration,
    /// It was notified of the receive ring meanwhile.
    woken: bool,
}

/// Decides for one transmit ring.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    held: Option<Held>,
    /// Until when it is bulk.
    bulk_until: Duration,
}

/// Bytes of frames whose buffers were given back to the driver, and that it was not told of before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untold {
    /// Those of the transmit ring.
    pub(crate) transmitted: u64,
    /// Those of the receive ring.
    pub(crate) received: u64,
}

impl Moderation {
    /// So much goes through the pair.
    pub(crate) fn observe(&mut self, now: Duration, untold: Untold) {
        if untold.transmitted.max(untold.received) >= BULK_BYTES {
            self.bulk_until = now + BULK_LASTS;
        }
    }

    /// The driver was notified, or wants no notification.
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }

    /// Until when the notification of the transmit ring, which the driver wants, may wait; `None` if it may not.
    /// `woken` says that the driver is notified of the receive ring just now.
    pub(crate) fn hold(&mut self, now: Duration, woken: bool) -> Option<Duration> {
        if self.held.is_none() && now >= self.bulk_until {
            return None;
        }
        let held = self.held.get_or_insert(Held { since: now, woken: false });
        held.woken |= woken;
        let until = held.since + if held.woken { DELAY_WOKEN } else { DELAY };
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

    fn after(transmitted: u64, received: u64) -> Moderation {
        let mut moderation = Moderation::default();
        moderation.observe(START, Untold { transmitted, received });
        moderation
    }

    #[test]
    fn an_exchange_does_not_wait() {
        for woken in [false, true] {
            let mut moderation = after(BULK_BYTES - 1, BULK_BYTES - 1);
            assert_eq!(moderation.hold(START, woken), None, "{woken}");
        }
    }

    #[test]
    fn bulk_in_either_direction_waits_and_not_for_long() {
        for (transmitted, received) in [(BULK_BYTES, 0), (0, BULK_BYTES)] {
            for (woken, delay) in [(false, DELAY), (true, DELAY_WOKEN)] {
                let mut moderation = after(transmitted, received);
                let until = START + delay;
                assert_eq!(moderation.hold(START, woken), Some(until), "{woken}");
                assert_eq!(
                    moderation.hold(until - delay / 10, woken),
                    Some(until),
                    "not prolonged"
                );
                assert_eq!(moderation.hold(until, woken), None, "{woken}");
            }
        }
    }

    #[test]
    fn a_driver_that_is_woken_later_gets_the_longer_time() {
        let mut moderation = after(BULK_BYTES, 0);
        assert_eq!(moderation.hold(START, false), Some(START + DELAY));
        assert_eq!(moderation.hold(START + DELAY, true), Some(START + DELAY_WOKEN));
        moderation.clear();
        assert_eq!(moderation.hold(START + DELAY, false), Some(START + DELAY * 2), "starts anew");
    }

    #[test]
    fn what_is_bulk_ends_a_moment_later() {
        let mut moderation = after(BULK_BYTES, 0);
        let end = START + BULK_LASTS;
        moderation.observe(end, Untold { transmitted: 1, received: 1 });
        assert_eq!(moderation.hold(end, true), None);
    }
}
