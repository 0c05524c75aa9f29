//! Bytes a second for replication that moves data (KIP-73): what a reassignment brings to new replicas may be held to a
//! rate, so that clients keep their share of disks and network.
//!
//! A bucket that fills at the rate, up to a second's worth. A transfer may begin while there is anything in it, and takes
//! out all that it moved, below zero if need be; the next one waits until that is paid back. So the mean is the rate,
//! and a batch larger than the bucket gets through. (Kafka measures over eleven samples of a second; the mean is the
//! same.)

use std::time::Duration;

use odradek_common::time::Instant;

/// One direction of a broker.
#[derive(Clone, Debug, Default)]
pub struct ReplicationQuota {
    /// Bytes a second; `None`: no limit.
    rate: Option<u64>,
    /// Invariant: at most `rate`.
    balance: i64,
    refilled: Instant,
}

impl ReplicationQuota {
    /// Takes up another rate; what was moved beyond the old one is forgotten.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        if self.rate != rate {
            *self = Self { rate, balance: rate.map_or(0, clamped), refilled: now };
        }
    }

    pub fn record(&mut self, bytes: u64, now: Instant) {
        if self.rate.is_some() {
            self.refill(now);
            self.balance = self.balance.saturating_sub(clamped(bytes));
        }
    }

    /// How long the next transfer has to wait; zero: not at all.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        self.refill(now);
        if self.balance > 0 {
            return Duration::ZERO;
        }
        let debt = u128::from(self.balance.unsigned_abs()) + 1;
        let nanos = debt.saturating_mul(1_000_000_000).div_ceil(u128::from(rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub fn is_exceeded(&mut self, now: Instant) -> bool {
        !self.wait(now).is_zero()
    }

    fn refill(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        let elapsed = now.saturating_since(self.refilled).as_nanos();
        let earned = elapsed.saturating_mul(u128::from(rate)) / 1_000_000_000;
        // Fractions of a byte are not lost: time goes on only when something was earned.
        if earned > 0 {
            self.balance = self.balance.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(clamped(rate));
            self.refilled = now;
        }
    }
}

fn clamped(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(0) + Duration::from_millis(millis)
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut quota = ReplicationQuota::default();
        quota.record(u64::MAX, at(0));
        assert!(!quota.is_exceeded(at(0)));
    }

    #[test]
    fn the_mean_is_the_rate_whatever_the_size_of_transfers() {
        for transfer in [1, 300, 1_000, 5_000] {
            let mut quota = ReplicationQuota::default();
            quota.set_rate(Some(1_000), at(0));
            let (mut now, mut moved) = (at(0), 0);
            while now < at(100_000) {
                if quota.is_exceeded(now) {
                    let wait = quota.wait(now);
                    assert!(!wait.is_zero());
                    now = now + wait;
                } else {
                    quota.record(transfer, now);
                    moved += transfer;
                }
            }
            assert!((99_000..=107_000).contains(&moved), "{moved} bytes in 100 s, {transfer} at a time");
        }
    }

    #[test]
    fn what_was_saved_up_is_a_second_at_most_and_a_new_rate_starts_anew() {
        let mut quota = ReplicationQuota::default();
        quota.set_rate(Some(1_000), at(0));
        quota.record(1_000, at(3_600_000));
        assert!(quota.is_exceeded(at(3_600_000)));
        assert_eq!(quota.wait(at(3_600_000)), Duration::from_millis(1));
        quota.record(1_000_000_000, at(3_600_000));
        quota.set_rate(Some(1_000), at(3_600_000));
        assert!(quota.is_exceeded(at(3_600_000)), "the same rate is no news");
        quota.set_rate(Some(2_000), at(3_600_000));
        assert!(!quota.is_exceeded(at(3_600_000)));
        quota.set_rate(None, at(3_600_000));
        assert!(!quota.is_exceeded(at(3_600_000)));
    }
}
