//! What is said of clients that are cut off: a line for the first, and in the minute behind that only their number, for
//! whoever may connect could fill the log otherwise.

use crate::limits::CUT_OFF_PAUSE;
use crate::time::Timestamp;

/// Clients that were cut off.
#[derive(Debug, Default)]
pub(super) struct CutOff {
    /// When a line about some was written last.
    told: Option<Timestamp>,
    /// How many there were since.
    untold: u64,
}

impl CutOff {
    /// One more, at `now`. True if there is to be a line about it.
    pub(super) fn note(&mut self, now: Timestamp) -> bool {
        if self.told.is_some_and(|told| now < told + CUT_OFF_PAUSE) {
            self.untold += 1;
            return false;
        }
        self.told = Some(now);
        true
    }

    /// When there is to be a line about those without one, if there are any.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.told.filter(|_| self.untold > 0).map(|told| told + CUT_OFF_PAUSE)
    }

    /// How many there were without a line, if there is to be one by `now`.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<u64> {
        self.due().filter(|due| *due <= now)?;
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
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
