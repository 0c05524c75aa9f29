//! How durations are spread, in memory that does not grow with how many there are.

use std::time::Duration;

/// Each power of two of nanoseconds is divided into so many equal parts: a percentile is off by 1/64 at most.
const PARTS: u64 = 64;
const PARTS_BITS: u32 = PARTS.trailing_zeros();
const BUCKETS: usize = ((u64::BITS - PARTS_BITS + 1) as u64 * PARTS) as usize;

pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    /// Nanoseconds.
    sum: u128,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }

    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket(nanoseconds)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(nanoseconds);
        self.max = self.max.max(nanoseconds);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Zero when there is none.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos((self.sum / u128::from(self.count.max(1))) as u64)
    }

    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// What this share of all (0.99) does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        });
        Duration::from_nanos(found.map_or(0, upper_bound).min(self.max))
    }
}

/// Below 64 each number is its own; above, the leading seven bits count.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PARTS_BITS + 1);
    (u64::from(shift) * PARTS + (value >> shift)) as usize
}

/// The largest number in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PARTS).saturating_sub(1);
    let part = bucket - shift * PARTS;
    ((u128::from(part + 1) << shift) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_bucket_that_is_near_it() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1 << shift) + (1 << shift >> 1), u64::MAX >> shift] {
                let bound = upper_bound(bucket(value));
                assert!(bound >= value && bound - value <= value / PARTS, "{value}: {bound}");
                assert!(bucket(value) < BUCKETS, "{value}");
            }
        }
        assert_eq!((bucket(0), upper_bound(0)), (0, 0));
    }

    #[test]
    fn quantiles_are_those_of_all_that_was_recorded() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (Duration::ZERO, Duration::ZERO));
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (share, expected) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.quantile(share).as_secs_f64() * 1000.0;
            assert!(found >= expected && found <= expected * (1.0 + 1.0 / 64.0), "{share}: {found}");
        }
        let exact = (histogram.count(), histogram.mean(), histogram.max());
        assert_eq!(exact, (1000, Duration::from_micros(500_500), Duration::from_secs(1)));
    }
}
