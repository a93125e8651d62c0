//! Congestion control toward the guest (RFC 5681). A guest is one link away as a rule, which loses nothing, and then all
//! that there is to heed is its window. But it may be a router itself, to a container with a limited rate or through a tunnel,
//! with a queue that holds less than the window: what is sent at once then is lost there, again and again. So the window of
//! congestion is open until something is lost, and counted from then on until it is as large as any window.

use crate::wire::seq::SeqNr;

use super::limits::WINDOW_MAX;

/// No loss is known.
const OPEN: u16 = u16::MAX;

/// What is in flight after a timeout, in segments: guests acknowledge two at once.
const RESTART: u16 = 2;

/// What stays after losses that others have shown, in segments: enough for them to show the next one, too.
const LEAST: u16 = 16;

/// What a lost segment takes from the window, in segments. A queue that is too short by one gets no more than one too many
/// in each round trip then; and of a way that loses some whatever is sent, much stays in use, where half of the window each
/// time would leave next to nothing.
const FOR_EACH: u16 = 2;

/// What spreads numbers that follow each other evenly: 2^32 by the golden ratio.
const GOLDEN: u32 = 0x9e37_79b1;

/// The window of congestion, in segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    window: u16,
    /// Below this the window grows by what is acknowledged (slow start), above it by a segment for each window.
    threshold: u16,
}

impl Congestion {
    /// Nothing was lost yet.
    pub(crate) fn new() -> Self {
        Self { window: OPEN, threshold: OPEN }
    }

    /// Bytes that may be in flight, in segments of so many.
    pub(crate) fn bytes(&self, segment: u32) -> u32 {
        if self.window == OPEN { u32::MAX } else { u32::from(self.window) * segment }
    }

    /// The guest has acknowledged what is between `from` and `to`, while `flight` bytes were on the way.
    pub(crate) fn on_acknowledged(&mut self, from: SeqNr, to: SeqNr, flight: u32, segment: u32) {
        // What is not made use of says nothing (RFC 7661).
        if self.window == OPEN || flight < self.bytes(segment) / 2 {
            return;
        }
        let acked = to.offset_from(from).max(0).unsigned_abs().div_ceil(segment);
        let more = if self.window < self.threshold {
            acked.min(u32::from(self.threshold - self.window))
        } else {
            // One for each window on average: a count of what was acknowledged would want room in each connection.
            let dice = to.0.wrapping_mul(GOLDEN) >> 16;
            u32::from(u64::from(dice) * u64::from(self.window) < u64::from(acked) << 16)
        };
        let window = u32::from(self.window).saturating_add(more).min(u32::from(OPEN) - 1);
        let is_any = window * segment >= WINDOW_MAX;
        self.window = if is_any { OPEN } else { window as u16 };
    }

    /// A segment of `flight` bytes was lost, and what came behind it was not.
    pub(crate) fn on_loss(&mut self, flight: u32, segment: u32) {
        self.window = if self.window == OPEN {
            // All that the guest had room for may have been sent at once.
            half(flight, segment).max(LEAST)
        } else {
            self.window.saturating_sub(FOR_EACH).max(self.window.min(LEAST))
        };
        self.threshold = self.window;
    }

    /// Perhaps all of `flight` bytes was.
    pub(crate) fn on_timeout(&mut self, flight: u32, segment: u32) {
        self.threshold = half(flight.min(self.bytes(segment)), segment).max(RESTART);
        self.window = RESTART;
    }
}

/// Half of so many bytes, in segments.
fn half(bytes: u32, segment: u32) -> u16 {
    u16::try_from(bytes / 2 / segment).unwrap_or(OPEN).min(OPEN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u32 = 1000;

    /// Acknowledges whole windows, and returns how the window grows, in segments.
    fn grown(congestion: &mut Congestion, rounds: usize) -> Vec<u32> {
        let mut at = SeqNr(u32::MAX - 5000);
        let mut windows = Vec::new();
        for _ in 0..rounds {
            let window = congestion.bytes(SEGMENT);
            let end = at + window;
            while at.before(end) {
                let to = at + (2 * SEGMENT).min(end.offset_from(at).unsigned_abs());
                congestion.on_acknowledged(at, to, window, SEGMENT);
                at = to;
            }
            windows.push(congestion.bytes(SEGMENT) / SEGMENT);
        }
        windows
    }

    #[test]
    fn rfc5681_3_1_the_window_doubles_up_to_the_threshold_and_grows_by_a_segment_from_there() {
        let mut congestion = Congestion::new();
        assert_eq!(congestion.bytes(SEGMENT), u32::MAX);
        congestion.on_timeout(32 * SEGMENT, SEGMENT);
        assert_eq!(congestion.bytes(SEGMENT), 2 * SEGMENT);
        let windows = grown(&mut congestion, 63);
        assert_eq!(windows[..3], [4, 8, 16], "{windows:?}");
        assert!(windows[3..].windows(2).all(|pair| pair[1] - pair[0] <= 3), "{windows:?}");
        assert!((66..=86).contains(windows.last().unwrap()), "{windows:?}");
        // Half of what was on the way, and no more than was allowed.
        congestion.on_timeout(1000 * SEGMENT, SEGMENT);
        let threshold = congestion.threshold;
        assert_eq!(u32::from(threshold), windows.last().unwrap() / 2);
        congestion.on_timeout(0, SEGMENT);
        assert_eq!((congestion.window, congestion.threshold), (2, 2));
    }

    #[test]
    fn what_is_lost_takes_a_little_and_the_first_loss_half() {
        let mut congestion = Congestion::new();
        congestion.on_loss(1000 * SEGMENT, SEGMENT);
        assert_eq!(congestion.window, 500);
        congestion.on_loss(1000 * SEGMENT, SEGMENT);
        assert_eq!((congestion.window, congestion.threshold), (498, 498));
        for _ in 0..1000 {
            congestion.on_loss(0, SEGMENT);
        }
        assert_eq!(congestion.window, LEAST);
        congestion.on_timeout(4 * SEGMENT, SEGMENT);
        congestion.on_loss(2 * SEGMENT, SEGMENT);
        assert_eq!(congestion.window, RESTART);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow_and_one_as_large_as_any_is_open_again() {
        let mut congestion = Congestion::new();
        congestion.on_loss(WINDOW_MAX, SEGMENT);
        let window = congestion.bytes(SEGMENT);
        congestion.on_acknowledged(SeqNr(0), SeqNr(0) + window, window / 2 - 1, SEGMENT);
        assert_eq!(congestion.bytes(SEGMENT), window);
        congestion.on_timeout(u32::MAX, SEGMENT);
        grown(&mut congestion, 20_000);
        assert_eq!(congestion.bytes(SEGMENT), u32::MAX);
        // The largest segments.
        congestion.on_loss(WINDOW_MAX, 65_495);
        assert!(congestion.bytes(65_495) <= WINDOW_MAX / 2);
    }
}
