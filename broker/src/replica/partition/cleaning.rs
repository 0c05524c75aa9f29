//! A partition as the cleaner sees it: how dirty its log is, and what is done to the log under the lock.

use odradek_broker_core::cleaning::Dirt;
use odradek_broker_storage::{CleanError, CleanerConfig, Cleaning, DeferredDelete, Replacement};

use super::*;

/// What a look at a compacted log has shown.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(in crate::replica) struct Dirtiness {
    /// `None`: nothing can be cleaned.
    pub dirt: Option<Dirt>,
    /// The checkpoint was not within the log: it is to be written anew.
    pub was_reset: bool,
    /// There are closed segments that are not known to be on disk, as after a crash. They can be cleaned once they are.
    pub needs_flush: bool,
}

impl Partition {
    /// Whether `cleanup.policy` has `compact`.
    pub fn is_compacted(&self) -> bool {
        self.lock().config.log.cleanup_compact
    }

    pub fn dirtiness(&self, now: Timestamp) -> Result<Dirtiness, CleanError> {
        self.with_compacted_log(|log| {
            let reset = log.reset_cleaned_to();
            // With both policies retention takes the front away, clean or not.
            if let Some(from) = reset.filter(|from| *from > log.log_end() || !log.config().cleanup_delete) {
                let (start, end) = (log.log_start(), log.log_end());
                tracing::warn!(
                    partition = %self.name, %from, %start, %end,
                    "the cleaner's checkpoint is not within the log: it is set to the log's start"
                );
            }
            let dirt = dirt(log, now)?;
            let needs_flush = log.recovery_point() < log.active_segment_base();
            Ok(Dirtiness { dirt, was_reset: reset.is_some(), needs_flush })
        })
    }

    /// How dirty the log is, if anybody can tell.
    pub fn dirt(&self, now: Timestamp) -> Option<Dirt> {
        self.with_compacted_log(|log| Ok(dirt(log, now)?)).ok().flatten()
    }

    /// Opens what is to be cleaned. `None`: nothing, by now. Flush the log before.
    pub fn begin_cleaning(&self, config: CleanerConfig, now: Timestamp) -> Result<Option<Cleaning>, CleanError> {
        self.with_compacted_log(|log| {
            let Some(cleanable) = log.cleanable(log.cleaned_to(), now)? else { return Ok(None) };
            Ok(Some(log.begin_cleaning(&cleanable, config, now)?))
        })
    }

    /// Puts a cleaned segment in the place of its sources.
    pub fn replace_segments(&self, replacement: Replacement) -> Result<DeferredDelete, CleanError> {
        self.with_compacted_log(|log| log.replace_segments(replacement))
    }

    /// The log is clean up to this offset. The checkpoint is yet to be written.
    pub fn complete_cleaning(&self, cleaning: &Cleaning, cleaned_to: Offset) -> Result<(), CleanError> {
        self.with_compacted_log(|log| log.complete_cleaning(cleaning, cleaned_to))
    }

    /// Removes what a cleaning that was given up has written.
    pub fn abandon_cleaning(&self) -> Result<(), CleanError> {
        self.with_compacted_log(|log| Ok(log.remove_leftovers().map_err(LogError::from)?))
    }

    /// Works on the log while it serves and is compacted; an error of the disk takes the partition offline.
    fn with_compacted_log<T>(&self, work: impl FnOnce(&mut Log) -> Result<T, CleanError>) -> Result<T, CleanError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let serves = matches!(inner.role, Role::Leader(_) | Role::Follower { .. }) && inner.config.log.cleanup_compact;
        let Some(log) = inner.log.as_mut().filter(|_| serves) else { return Err(CleanError::Superseded) };
        let result = work(log);
        self.save(log);
        if let (Err(error), Some(_)) = (&result, log.log_dir().failure()) {
            let after = inner.go_offline(error.to_string());
            drop(guard);
            after.wake.fire();
        }
        result
    }
}

fn dirt(log: &Log, now: Timestamp) -> Result<Option<Dirt>, LogError> {
    let cleanable = log.cleanable(log.cleaned_to(), now)?;
    Ok(cleanable.map(|cleanable| Dirt {
        dirty_bytes: cleanable.dirty_bytes,
        ratio: cleanable.dirty_ratio(),
        ratio_min: log.config().min_cleanable_dirty_ratio,
        is_overdue: cleanable.is_overdue,
    }))
}
