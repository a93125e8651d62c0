//! Something that is done at once, and then not again for a while, as telling of what others can cause at any rate.

use std::time::Duration;

use super::Timestamp;

/// When something was done last that is done at most once in a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OncePer {
    pause: Duration,
    last: Option<Timestamp>,
}

impl OncePer {
    /// Never done yet: the first time is free.
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, last: None }
    }

    /// Whether it may be done at `now`; it counts as done then.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let free = self.next().is_none_or(|next| next <= now);
        if free {
            self.last = Some(now);
        }
        free
    }

    /// From when on it may be done again; `None` if it never was.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.last.map(|last| last + self.pause)
    }

    /// Forgets that it was done.
    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_at_once_and_then_after_each_pause() {
        let at = |second| Timestamp::ZERO + Duration::from_secs(second);
        let mut once = OncePer::new(Duration::from_secs(60));
        assert_eq!(once.next(), None);
        let done = [5, 6, 64, 65, 66, 1000, 1059, 1060].map(|second| once.take(at(second)));
        assert_eq!(done, [true, false, false, true, false, true, false, true]);
        assert_eq!(once.next(), Some(at(1120)));
        once.reset();
        assert!(once.take(at(1061)));
    }
}
