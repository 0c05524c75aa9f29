//! A partition as flushes see it: what is to be synced, and what is done when it is.

use super::*;

impl Partition {
    pub fn is_flush_due(&self, now: Timestamp) -> bool {
        self.lock().log.as_ref().is_some_and(|log| log.is_flush_due(now))
    }

    /// How long its records may wait for a flush, by `flush.ms`.
    pub fn flush_within(&self, now: Timestamp) -> Option<Duration> {
        self.lock().log.as_ref().and_then(|log| flush_within(log, now))
    }

    /// Whether produces wait for a flush of this log.
    pub fn owes_flush(&self) -> bool {
        let inner = self.lock();
        let has_unflushed = inner.log.as_ref().is_some_and(|log| log.recovery_point() < log.log_end());
        let serves = matches!(inner.role, Role::Leader(_) | Role::Follower { .. });
        serves && inner.config.is_durable() && has_unflushed
    }

    /// What has to be synced now.
    pub fn flush_job(&self, now: Now) -> Option<FlushJob> {
        self.with_log(|log| log.flush_job(now.wall)).flatten()
    }

    /// A flush has succeeded. In a durable topic this is when the leader's own position moves, and when a produce with
    /// acks=1 is answered.
    pub fn flushed(&self, flushed: odradek_broker_storage::Flushed, context: Context<'_>) -> After {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(log) = &mut inner.log else { return After::default() };
        log.complete_flush(flushed);
        self.save(log);
        let (position, flush_within) = (log.recovery_point(), flush_within(log, context.now.wall));
        let mut after = if inner.config.is_durable() {
            inner.lead(|leader| leader.on_appended(position, context.image, context.now.instant))
        } else {
            After::default()
        };
        let done = inner.flushes.reached(position).into_iter();
        after.wake.produces.extend(done.map(|waiter| (waiter, ErrorCode::None)));
        after.flush_within = flush_within;
        after
    }
}

/// How long records that are not flushed may wait yet, by `flush.ms`.
pub(super) fn flush_within(log: &Log, now: Timestamp) -> Option<Duration> {
    let wait = log.flush_wait_ms(now)?;
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
}
