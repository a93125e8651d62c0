//! When the driver hears of the frames that were taken from its transmit ring.
//!
//! All it has to do then is to free their buffers. Linux also does that when it is notified of the
//! receive ring, and before it sends the next frame, and then says by the event index that there is
//! nothing left to tell. So the notification waits a little: it is due (virtio 1.2, section 2.7.7.2), but
//! nothing says how soon, and network cards have such a delay, too. An exchange of one frame each way
//! then interrupts the guest once and not twice.
//!
//! What could wait for the notification are senders that may not queue more: a socket with a small
//! buffer. That is why a burst is told of at once, and why the delay is short until the driver was
//! notified of the receive ring.

use std::time::Duration;

/// Longest delay. Below what a timer of a guest can notice, and above the time that an answer takes
/// which was sent by the next machine.
const DELAY: Duration = Duration::from_micros(100);

/// The same once the driver was notified of the receive ring: drivers that free transmit buffers then
/// have done it well before, and others have it done within the usual delay of a network card.
const DELAY_WOKEN: Duration = Duration::from_millis(1);

/// Frames of which the driver is told at once: a tenth of what Linux lets a socket of datagrams have in
/// the ring with its default buffer.
const BURST: u16 = 8;

/// A notification that waits.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Duration,
    /// The driver was notified of the receive ring meanwhile.
    woken: bool,
}

/// Decides for one transmit ring.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    held: Option<Held>,
}

impl Moderation {
    /// The driver was notified, or wants no notification.
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }

    /// Until when the notification of `frames` frames, which the driver wants, may wait; `None` if it may
    /// not. `woken` says that the driver was notified of the receive ring just now.
    pub(crate) fn hold(&mut self, now: Duration, frames: u16, woken: bool) -> Option<Duration> {
        let held = self.held.get_or_insert(Held { since: now, woken: false });
        held.woken |= woken;
        let delay = if held.woken { DELAY_WOKEN } else { DELAY };
        let until = held.since + delay;
        let waits = now < until && (held.woken || frames < BURST);
        if !waits {
            self.held = None;
        }
        waits.then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(5);

    #[test]
    fn a_few_frames_wait_for_a_short_time() {
        let mut moderation = Moderation::default();
        let until = START + DELAY;
        assert_eq!(moderation.hold(START, 1, false), Some(until));
        assert_eq!(moderation.hold(START + DELAY / 2, 2, false), Some(until), "since the first");
        assert_eq!(moderation.hold(until, 2, false), None);
        assert_eq!(moderation.hold(until, 1, false), Some(until + DELAY), "starts anew");
    }

    #[test]
    fn a_burst_does_not_wait_unless_the_driver_was_woken() {
        let mut moderation = Moderation::default();
        assert_eq!(moderation.hold(START, BURST, false), None);
        let until = START + DELAY_WOKEN;
        assert_eq!(moderation.hold(START, BURST, true), Some(until));
        assert_eq!(moderation.hold(until - DELAY, 100, true), Some(until), "not prolonged");
        assert_eq!(moderation.hold(until, 100, true), None);
    }

    #[test]
    fn a_driver_that_is_woken_later_gets_the_longer_time() {
        let mut moderation = Moderation::default();
        moderation.hold(START, 1, false);
        assert_eq!(moderation.hold(START + DELAY, 1, true), Some(START + DELAY_WOKEN));
        moderation.clear();
        assert_eq!(moderation.hold(START, 1, false), Some(START + DELAY));
    }
}
