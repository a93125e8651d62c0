//! A histogram of durations with relative precision: buckets are linear within each power of
//! two (the scheme of HdrHistogram), so that every value is known to better than 1 %.

use crate::report::Latency;

/// Buckets for each power of two: the precision is one part in this.
const SUB_BUCKETS: u64 = 128;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();
/// Powers of two that are told apart; the last holds 2^40 ns, 18 minutes.
const POWERS: usize = 41 - SUB_BITS as usize;

/// Counts of durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = vec![0; SUB_BUCKETS as usize * (POWERS + 1)];
        Self { counts, total: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, ns: u64) {
        let last = self.counts.len() - 1;
        self.counts[bucket(ns).min(last)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The duration in ns that `part` (0 to 1) of all do not exceed; 0 if there are none.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let wanted = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The usual quantiles, in microseconds.
    pub fn summary(&self) -> Latency {
        let us = |ns: u64| ns as f64 / 1000.0;
        let mean = self.sum_ns as f64 / self.total.max(1) as f64 / 1000.0;
        Latency {
            mean_us: mean,
            p50_us: us(self.quantile_ns(0.5)),
            p90_us: us(self.quantile_ns(0.9)),
            p99_us: us(self.quantile_ns(0.99)),
            p999_us: us(self.quantile_ns(0.999)),
            max_us: us(self.max_ns),
        }
    }
}

/// Values below two times [`SUB_BUCKETS`] have a bucket each; then each power of two has
/// [`SUB_BUCKETS`].
fn bucket(ns: u64) -> usize {
    let power = (u64::BITS - ns.leading_zeros()).saturating_sub(SUB_BITS + 1);
    (u64::from(power) * SUB_BUCKETS + (ns >> power)) as usize
}

/// The largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB_BUCKETS {
        return bucket;
    }
    let power = bucket / SUB_BUCKETS - 1;
    ((bucket - power * SUB_BUCKETS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_kept_to_one_percent() {
        for ns in (0..2_000_000_u64).step_by(37).chain([u64::from(u32::MAX), 1 << 39]) {
            let high = highest(bucket(ns));
            assert!(high >= ns && (high - ns) * 100 <= ns, "{ns} is kept as {high}");
            assert!(ns == 0 || bucket(ns) >= bucket(ns - 1));
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut all = Histogram::default();
        (1..=1000).for_each(|us| all.record(us * 1000));
        let summary = all.summary();
        for (found, wanted) in [
            (summary.p50_us, 500.0),
            (summary.p90_us, 900.0),
            (summary.p99_us, 990.0),
            (summary.mean_us, 500.5),
        ] {
            assert!((found - wanted).abs() <= wanted / 100.0, "{found} instead of {wanted}");
        }
        assert!((summary.max_us - 1000.0).abs() < 0.001);
    }

    #[test]
    fn what_is_too_long_is_still_counted() {
        let mut all = Histogram::default();
        all.record(u64::MAX);
        assert_eq!((all.count(), all.quantile_ns(0.5)), (1, highest(all.counts.len() - 1)));
    }
}
