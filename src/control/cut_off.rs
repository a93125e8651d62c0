//! What is said of clients that are cut off: a line for the first, and in the minute behind that only their number, for
//! whoever may connect could fill the log otherwise.

use crate::limits::CUT_OFF_PAUSE;
use crate::time::{OncePer, Timestamp};

/// Clients that were cut off.
#[derive(Debug)]
pub(super) struct CutOff {
    /// When a line about some was written.
    told: OncePer,
    /// How many there were since.
    untold: u64,
}

impl Default for CutOff {
    fn default() -> Self {
        Self { told: OncePer::new(CUT_OFF_PAUSE), untold: 0 }
    }
}

impl CutOff {
    /// One more, at `now`. True if there is to be a line about it.
    pub(super) fn note(&mut self, now: Timestamp) -> bool {
        let told = self.told.take(now);
        self.untold += u64::from(!told);
        told
    }

    /// When there is to be a line about those without one, if there are any.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.told.next().filter(|_| self.untold > 0)
    }

    /// How many there were without a line, if there is to be one by `now`.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<u64> {
        (self.untold > 0 && self.told.take(now)).then(|| std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn there_is_a_line_a_minute() {
        let mut cut_off = CutOff::default();
        let begin = Timestamp::ZERO + Duration::from_secs(1000);
        assert_eq!((cut_off.due(), cut_off.take(begin)), (None, None));
        assert!(cut_off.note(begin));
        assert_eq!(cut_off.due(), None, "it has its line");
        for second in 1..8 {
            assert!(!cut_off.note(begin + Duration::from_secs(second)));
        }
        assert_eq!(cut_off.due(), Some(begin + CUT_OFF_PAUSE));
        assert_eq!(cut_off.take(begin + Duration::from_secs(59)), None);
        assert_eq!(cut_off.take(begin + CUT_OFF_PAUSE), Some(7));
        assert!(!cut_off.note(begin + CUT_OFF_PAUSE + Duration::from_secs(1)));
        assert_eq!(cut_off.take(begin + 2 * CUT_OFF_PAUSE), Some(1));
        assert!(cut_off.note(begin + 3 * CUT_OFF_PAUSE));
    }
}
