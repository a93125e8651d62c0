//! Time as the pure core sees it: a number that the shell reads once a turn and passes in.

mod once_per;
mod token_bucket;

use std::time::Duration;

pub(crate) use once_per::OncePer;
pub(crate) use token_bucket::TokenBucket;

/// A point in time: microseconds since an arbitrary start, monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// A point `us` microseconds after the start.
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The earliest of those that there are. Asked several times in each turn: adapters of iterators over so few are not unrolled.
    #[inline]
    pub(crate) fn earliest<const N: usize>(times: [Option<Self>; N]) -> Option<Self> {
        let mut first = u64::MAX;
        for time in times {
            first = first.min(time.map_or(u64::MAX, |time| time.0));
        }
        (first != u64::MAX).then_some(Self(first))
    }

    /// `duration` before this, not before the clock's own start.
    pub fn earlier_by(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(micros))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(us))
    }
}
