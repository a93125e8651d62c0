//! How many lines are logged. Guests and front-ends must not be able to fill the host's disk with log lines, and they can
//! cause ten thousand a second: a guest with an Ethernet address of its own for each frame, a front-end that connects and
//! breaks the protocol. So lines have a budget.

use std::time::Duration;

use crate::time::{Timestamp, TokenBucket};

/// Lines that may come at once: more than a start and a guest's boot have.
const BURST: u32 = 200;

/// Time after which one line more is allowed: 86,400 a day, a few megabytes.
const PAUSE: Duration = Duration::from_secs(1);

/// After such a silence what was withheld is told of by itself: in less, the flood's next line may follow, which gets what
/// each [`PAUSE`] allows.
const QUIET: Duration = PAUSE.saturating_mul(2);

/// Which lines are printed: at most [`BURST`] at once, and one for each [`PAUSE`] in the long run.
pub(super) struct LineRate {
    lines: TokenBucket,
    withheld: u64,
    /// When a line was withheld last.
    withheld_at: Duration,
}

impl LineRate {
    pub(super) fn new() -> Self {
        let lines = TokenBucket::new(BURST, PAUSE);
        Self { lines, withheld: 0, withheld_at: Duration::ZERO }
    }

    /// Whether a line may be printed `at` this time since start; if so, how many were withheld before.
    pub(super) fn take(&mut self, at: Duration) -> Option<u64> {
        if self.lines.take(Timestamp::ZERO + at) {
            return Some(self.take_withheld());
        }
        self.withheld += 1;
        self.withheld_at = at;
        None
    }

    /// How long to wait until what was withheld is told of though no line follows: those of a flood that goes on tell it.
    pub(super) fn quiet_in(&self, at: Duration) -> Duration {
        (self.withheld_at + QUIET).saturating_sub(at)
    }

    /// How many lines were withheld; they count as told of.
    pub(super) fn take_withheld(&mut self) -> u64 {
        std::mem::take(&mut self.withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_withheld_and_counted() {
        let mut rate = LineRate::new();
        let begin = Duration::from_millis(1500);
        let printed = (0..10_000).filter(|_| rate.take(begin).is_some()).count();
        assert_eq!(printed, BURST as usize);
        assert_eq!(rate.take(begin + PAUSE), Some(10_000 - u64::from(BURST)));
        assert_eq!(rate.take(begin + PAUSE), None);
        assert_eq!(rate.take(begin + PAUSE * 2), Some(1));
    }

    #[test]
    fn what_was_withheld_is_told_once_the_flood_is_over() {
        let mut rate = LineRate::new();
        let end = Duration::from_secs(7);
        assert_eq!((0..=BURST).filter(|_| rate.take(end).is_none()).count(), 1);
        assert_eq!(rate.quiet_in(end), QUIET);
        assert_eq!(rate.quiet_in(end + PAUSE), QUIET - PAUSE);
        assert_eq!(rate.quiet_in(end + QUIET), Duration::ZERO);
        assert_eq!((rate.take_withheld(), rate.take_withheld()), (1, 0));
    }

    #[test]
    fn silence_restores_the_budget_and_no_more() {
        let mut rate = LineRate::new();
        for at in [0, 1_000_000, 10_000_000_000] {
            let at = Duration::from_secs(at);
            let printed = (0..1000).filter(|_| rate.take(at).is_some()).count();
            assert_eq!(printed, BURST as usize, "after {at:?}");
        }
    }
}
