//! Which compacted log is cleaned next, what becomes of one that cannot be, and how fast all of it may go.
//!
//! A log is worth a pass when the part of it that is dirty is larger than `min.cleanable.dirty.ratio`, or a record waits
//! for longer than `max.compaction.lag.ms`. Those that are overdue come first, then the dirtiest: a log that keeps a promise
//! about time must not wait for busier ones for ever. (Kafka orders by the dirty part alone.)
//!
//! A log whose cleaning failed is left alone for a time that doubles with each failure, and its other life goes on. (Kafka
//! never tries again before a restart.) Kafka's `LogCleanerManager`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use odradek_common::TopicIdPartition;
use odradek_common::time::Instant;

/// The pause after the first failure, at least. `log.cleaner.backoff.ms` when that is longer.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Nobody who repairs a log, or raises a limit, waits for longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How dirty a log is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dirt {
    pub dirty_bytes: u64,
    /// The part of the bytes that is dirty, 0 to 1.
    pub ratio: f64,
    /// `min.cleanable.dirty.ratio`
    pub ratio_min: f64,
    /// `max.compaction.lag.ms` is over.
    pub is_overdue: bool,
}

impl Dirt {
    pub fn is_due(&self) -> bool {
        (self.is_overdue && self.dirty_bytes > 0) || self.ratio > self.ratio_min
    }

    pub fn is_dirtier_than(&self, other: &Self) -> bool {
        let order = self.is_overdue.cmp(&other.is_overdue);
        order.then(self.ratio.total_cmp(&other.ratio)) == Ordering::Greater
    }
}

/// A log that could not be cleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncleanable {
    pub cause: String,
    /// Failures in a row.
    pub failures: u32,
    pub retry_after: Duration,
    retry_at: Instant,
}

/// Who is at work on which log.
#[derive(Debug, Default)]
pub struct Schedule {
    workers: usize,
    busy: BTreeSet<TopicIdPartition>,
    uncleanable: BTreeMap<TopicIdPartition, Uncleanable>,
}

impl Schedule {
    /// How many workers are to be started so that there are `wanted`.
    pub fn hire(&mut self, wanted: usize) -> usize {
        let new = wanted.saturating_sub(self.workers);
        self.workers += new;
        new
    }

    /// Whether a worker that has nothing in hand goes, as there are more than `wanted`.
    pub fn dismiss(&mut self, wanted: usize) -> bool {
        let leaves = self.workers > wanted;
        self.workers -= usize::from(leaves);
        leaves
    }

    /// Whether a log may be cleaned: nobody is at work on it, and it is not left alone after a failure.
    pub fn is_free(&self, id: TopicIdPartition, now: Instant) -> bool {
        !self.busy.contains(&id) && self.uncleanable.get(&id).is_none_or(|log| log.retry_at <= now)
    }

    /// `false`: somebody is at work on it. Every claim is released once.
    pub fn claim(&mut self, id: TopicIdPartition) -> bool {
        self.busy.insert(id)
    }

    pub fn release(&mut self, id: TopicIdPartition) {
        self.busy.remove(&id);
    }

    /// A cleaning has failed. What is known of the log now.
    pub fn fail(&mut self, id: TopicIdPartition, cause: String, backoff: Duration, now: Instant) -> &Uncleanable {
        let failures = self.uncleanable.get(&id).map_or(1, |log| log.failures.saturating_add(1));
        let doubled = backoff.max(RETRY_AFTER_MIN).saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        let retry_after = doubled.min(RETRY_AFTER_MAX);
        let log = Uncleanable { cause, failures, retry_after, retry_at: now + retry_after };
        self.uncleanable.entry(id).insert_entry(log).into_mut()
    }

    /// A cleaning has succeeded. The failures before it, if there were any.
    pub fn succeed(&mut self, id: TopicIdPartition) -> Option<Uncleanable> {
        self.uncleanable.remove(&id)
    }

    /// Forgets what failed and is not there any more.
    pub fn keep(&mut self, is_there: impl Fn(TopicIdPartition) -> bool) {
        self.uncleanable.retain(|id, _| is_there(*id));
    }

    /// The logs that could not be cleaned.
    pub fn uncleanable(&self) -> impl Iterator<Item = (TopicIdPartition, &Uncleanable)> {
        self.uncleanable.iter().map(|(id, log)| (*id, log))
    }
}

/// `log.cleaner.io.max.bytes.per.second` over all workers: what was read and written is owed, and paid off at that rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    owed: f64,
    at: Instant,
}

impl Throttle {
    pub fn record(&mut self, bytes: u64) {
        self.owed += bytes as f64;
    }

    /// How long all of it takes to pay off; zero: go on. The rate may be another one each time.
    pub fn wait(&mut self, rate: f64, now: Instant) -> Duration {
        let elapsed = now.saturating_since(self.at).as_secs_f64();
        self.at = now;
        self.owed = (self.owed - elapsed * rate).max(0.0);
        // A rate of almost nothing makes for more seconds than a duration holds.
        if self.owed == 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(self.owed / rate).unwrap_or(Duration::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use odradek_common::{PartitionIndex, TopicId};

    use super::*;

    fn id(partition: i32) -> TopicIdPartition {
        TopicIdPartition { topic_id: TopicId::from_random([1; 16]), partition: PartitionIndex(partition) }
    }

    #[test]
    fn the_overdue_come_first_and_then_the_dirtiest() {
        let dirt = |ratio, is_overdue| Dirt { dirty_bytes: 1, ratio, ratio_min: 0.5, is_overdue };
        for (ratio, is_overdue, is_due) in [(0.5, false, false), (0.51, false, true), (0.0, true, true)] {
            assert_eq!(dirt(ratio, is_overdue).is_due(), is_due, "{ratio} {is_overdue}");
        }
        assert!(!Dirt { dirty_bytes: 0, ..dirt(0.0, true) }.is_due(), "nothing that could be cleaned");
        assert!(dirt(0.9, false).is_dirtier_than(&dirt(0.8, false)));
        assert!(dirt(0.1, true).is_dirtier_than(&dirt(0.9, false)));
        assert!(!dirt(0.1, true).is_dirtier_than(&dirt(0.1, true)));
    }

    #[test]
    fn a_log_is_cleaned_by_one_worker_and_left_alone_after_failures() {
        let (mut schedule, start) = (Schedule::default(), Instant::default());
        assert_eq!((schedule.hire(2), schedule.hire(3), schedule.hire(1)), (2, 1, 0));
        assert_eq!([schedule.dismiss(2), schedule.dismiss(2)], [true, false]);
        assert!(schedule.claim(id(1)) && !schedule.claim(id(1)));
        assert!(!schedule.is_free(id(1), start) && schedule.is_free(id(2), start));
        schedule.release(id(1));
        let backoff = Duration::from_secs(15);
        let mut now = start;
        for (failures, seconds) in [(1, 15), (2, 30), (3, 60), (4, 120)] {
            let log = schedule.fail(id(1), "damaged".to_owned(), backoff, now).clone();
            assert_eq!((log.failures, log.retry_after), (failures, Duration::from_secs(seconds)));
            assert!(!schedule.is_free(id(1), now + log.retry_after - Duration::from_millis(1)));
            now = now + log.retry_after;
            assert!(schedule.is_free(id(1), now));
        }
        for _ in 0..40 {
            schedule.fail(id(1), "damaged".to_owned(), backoff, now);
        }
        let longest = schedule.uncleanable().map(|(_, log)| log.retry_after).max();
        assert_eq!(longest, Some(RETRY_AFTER_MAX));
        assert_eq!(schedule.fail(id(2), String::new(), Duration::ZERO, now).retry_after, RETRY_AFTER_MIN);
        assert_eq!(schedule.succeed(id(1)).map(|log| log.failures), Some(44));
        schedule.keep(|known| known != id(2));
        assert_eq!(schedule.uncleanable().count(), 0);
    }

    #[test]
    fn bytes_are_paid_off_at_the_rate_that_is_in_force() {
        let (mut throttle, now) = (Throttle::default(), Instant::default());
        assert_eq!(throttle.wait(1000.0, now), Duration::ZERO);
        throttle.record(3000);
        assert_eq!(throttle.wait(1000.0, now), Duration::from_secs(3));
        let later = now + Duration::from_secs(1);
        assert_eq!(throttle.wait(1000.0, later), Duration::from_secs(2));
        assert_eq!(throttle.wait(500.0, later), Duration::from_secs(4), "the rate was halved");
        assert_eq!(throttle.wait(f64::MAX, later), Duration::from_secs_f64(2000.0 / f64::MAX));
        assert_eq!(throttle.wait(f64::MAX, later + Duration::from_millis(1)), Duration::ZERO);
        throttle.record(1);
        assert_eq!(throttle.wait(0.0, later), Duration::MAX);
    }
}
