//! A token bucket: how many of something may be done at once, and how many in the long run.

use std::time::Duration;

use super::Timestamp;

/// What may still be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    left: u32,
    burst: u32,
    /// Time after which there is one more.
    pause: Duration,
    /// When `left` was last raised.
    raised: Timestamp,
}

impl TokenBucket {
    /// One for `burst` at once, and for one each `pause` in the long run.
    pub(crate) fn new(burst: u32, pause: Duration) -> Self {
        Self { left: burst, burst, pause, raised: Timestamp::ZERO }
    }

    /// Whether one more may be done `now`; if so, it is done.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let pauses = now.since(self.raised).as_micros() / self.pause.as_micros();
        let more = u32::try_from(pauses).unwrap_or(self.burst).min(self.burst);
        self.left = (self.left + more).min(self.burst);
        self.raised = if more == self.burst { now } else { self.raised + self.pause * more };
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1);

    fn taken(bucket: &mut TokenBucket, at: Timestamp) -> usize {
        (0..1000).filter(|_| bucket.take(at)).count()
    }

    #[test]
    fn rfc4443_2_4_f_a_burst_at_once_and_a_rate_in_the_long_run() {
        let mut bucket = TokenBucket::new(100, PAUSE);
        let begin = Timestamp::ZERO + Duration::from_secs(7);
        assert_eq!(taken(&mut bucket, begin), 100);
        assert_eq!(taken(&mut bucket, begin), 0);
        assert_eq!(taken(&mut bucket, begin + PAUSE), 1);
        assert_eq!(taken(&mut bucket, begin + PAUSE * 21 / 2), 9);
        assert_eq!(taken(&mut bucket, begin + PAUSE * 11), 1);
        for hours in [1, 3_000_000] {
            assert_eq!(taken(&mut bucket, begin + Duration::from_secs(3600 * hours)), 100);
        }
    }
}
