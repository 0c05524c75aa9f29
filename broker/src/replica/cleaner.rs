//! Compacts logs in the background: `log.cleaner.threads` workers, each of which takes the log that needs it most, cleans
//! it step by step on the disk pool, and pauses for `log.cleaner.backoff.ms` when there is none. Whatever changes in the
//! configs counts from the next step, or the next log, on.
//!
//! A cleaning needs the partition's lock only to begin, to put a segment in and to end. Between two of its steps the
//! partition may be cut, deleted, moved away, or no longer compacted: then the next step says so, and nothing is lost but
//! work. What cannot be cleaned is told in the log each time it fails, and is tried again; see
//! [`Schedule`](odradek_broker_core::cleaning::Schedule), which decides all of this.
//!
//! Retention of compacted logs happens here as well, between cleanings, as in Kafka.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_broker_core::cleaning::{Dirt, Schedule, Throttle, Uncleanable};
use odradek_broker_storage::{CleanError, CleanProgress, CleanStats, CleanerConfig, Cleaning, DeferredDelete};
use odradek_common::config::BrokerConfig;
use odradek_common::rng::Rng;
use odradek_common::time::Instant;
use odradek_common::{Offset, TopicIdPartition};
use tokio::sync::Notify;

use super::ReplicaManager;
use super::partition::Partition;

/// A worker that has nothing to do pauses at least so long, whatever `log.cleaner.backoff.ms` says.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// While it waits for the rate, a worker looks so often whether the rate is another one by now.
const RATE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Shared by the workers.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// No partition's lock is taken under it.
    schedule: Mutex<Schedule>,
    /// Held over a whole look at all logs, so that workers look one after the other.
    choosing: Mutex<()>,
    throttle: Mutex<Throttle>,
    /// When logs were looked at last, and how dirty the dirtiest was then.
    looked: Mutex<(Instant, f64)>,
    /// The configs have changed.
    changed: Notify,
}

impl Cleaner {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When logs were looked at last, and the dirty part of the dirtiest.
    pub fn last_look(&self) -> (Instant, f64) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log that nobody else is at work on.
struct Claim {
    manager: Arc<ReplicaManager>,
    partition: Arc<Partition>,
}

impl Claim {
    fn take(manager: &Arc<ReplicaManager>, partition: &Arc<Partition>) -> Option<Self> {
        let is_free = manager.cleaner.schedule().claim(partition.id);
        is_free.then(|| Self { manager: manager.clone(), partition: partition.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.manager.cleaner.schedule().release(self.partition.id);
    }
}

/// What a step of a cleaning came to.
enum Step {
    More,
    Replaced(DeferredDelete),
    Done(Offset),
}

/// One worker's share of what the configs give to all of them.
fn share(config: &BrokerConfig, rng: &mut dyn Rng) -> CleanerConfig {
    let cleaner = &config.cleaner;
    let threads = cleaner.threads.max(1);
    CleanerConfig {
        map_bytes_max: usize::try_from(cleaner.dedupe_buffer_bytes).unwrap_or(usize::MAX) / threads,
        load_factor: cleaner.load_factor,
        // One half is for what is read, the other for what is written.
        io_bytes: cleaner.io_buffer_bytes / threads / 2,
        hash_keys: (rng.next_u64(), rng.next_u64()),
    }
}

fn moved_bytes(stats: CleanStats) -> u64 {
    stats.bytes_read + stats.bytes_written
}

impl ReplicaManager {
    /// Starts workers when there are fewer than the configs ask for; those that are too many go by themselves.
    pub(super) fn adjust_cleaner(self: &Arc<Self>) {
        let config = self.live();
        if !config.cleaner.enable {
            return;
        }
        let new = self.cleaner.schedule().hire(config.cleaner.threads);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.extend((0..new).map(|_| self.world.spawn("log cleaner", self.clone().clean_logs())));
        drop(tasks);
        self.cleaner.changed.notify_waiters();
    }

    /// The logs that could not be cleaned, and why.
    pub fn uncleanable(&self) -> Vec<(TopicIdPartition, Uncleanable)> {
        self.cleaner.schedule().uncleanable().map(|(id, log)| (id, log.clone())).collect()
    }

    /// One worker.
    async fn clean_logs(self: Arc<Self>) {
        loop {
            let changed = self.cleaner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let config = self.live();
            if self.cleaner.schedule().dismiss(config.cleaner.threads) {
                return;
            }
            let has_cleaned = self.clean_dirtiest().await;
            self.retain_compacted().await;
            if !has_cleaned {
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = self.world.sleep(config.cleaner.backoff.max(PAUSE_MIN)) => {}
                }
            }
        }
    }

    /// Cleans one log, if one needs it. Whether it did.
    async fn clean_dirtiest(self: &Arc<Self>) -> bool {
        let manager = self.clone();
        let Some(claim) = self.world.on_disk(move || manager.claim_dirtiest()).await else { return false };
        let result = self.clean(&claim.partition).await;
        let manager = self.clone();
        self.world.on_disk(move || manager.settle(&claim, result)).await
    }

    /// Looks at all compacted logs.
    fn claim_dirtiest(self: &Arc<Self>) -> Option<Claim> {
        let _one_at_a_time = self.cleaner.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        self.cleaner.schedule().keep(|id| self.partition(id).is_some());
        let now = self.world.now();
        let mut dirtiest: Option<(Dirt, Arc<Partition>)> = None;
        let mut ratio_max: f64 = 0.0;
        for partition in self.all_partitions() {
            if !partition.is_compacted() || !self.cleaner.schedule().is_free(partition.id, now.instant) {
                continue;
            }
            match partition.dirtiness(now.wall) {
                Ok(found) => {
                    if found.was_reset {
                        self.write_cleaned_to(&partition);
                    }
                    if found.needs_flush {
                        self.flush_later(&partition);
                    }
                    ratio_max = ratio_max.max(found.dirt.map_or(0.0, |dirt| dirt.ratio));
                    if let Some(dirt) = found.dirt.filter(Dirt::is_due)
                        && dirtiest.as_ref().is_none_or(|(most, _)| dirt.is_dirtier_than(most))
                    {
                        dirtiest = Some((dirt, partition));
                    }
                }
                Err(error) => self.note_failure(&partition, &error, now.instant),
            }
        }
        *self.cleaner.looked.lock().unwrap_or_else(PoisonError::into_inner) = (now.instant, ratio_max);
        Claim::take(self, &dirtiest?.1)
    }

    /// Whether there was something to clean.
    async fn clean(self: &Arc<Self>, partition: &Arc<Partition>) -> Result<bool, CleanError> {
        let begun = self.world.instant();
        // What takes the place of a record, and each producer's last batch, are on disk before anything goes.
        self.flush_and_wait(std::slice::from_ref(partition)).await;
        let (manager, on) = (self.clone(), partition.clone());
        let Some((mut cleaning, from)) = self.world.on_disk(move || manager.begin_cleaning(&on)).await? else {
            return Ok(false);
        };
        loop {
            let before = moved_bytes(cleaning.stats());
            let (manager, on) = (self.clone(), partition.clone());
            let (step, back) = self
                .world
                .on_disk(move || {
                    let step = manager.clean_step(&on, &mut cleaning);
                    (step, cleaning)
                })
                .await;
            cleaning = back;
            match step? {
                Step::More => {}
                Step::Replaced(deferred) => self.delete_later(deferred),
                Step::Done(to) => {
                    let took = self.world.instant().saturating_since(begun);
                    self.tell_done(partition, from, to, cleaning.stats(), took);
                    return Ok(true);
                }
            }
            self.pay(moved_bytes(cleaning.stats()) - before).await;
        }
    }

    fn begin_cleaning(self: &Arc<Self>, partition: &Arc<Partition>) -> Result<Option<(Cleaning, Offset)>, CleanError> {
        let config = share(&self.live(), &mut self.world.rng());
        let begun = partition.begin_cleaning(config, self.world.timestamp())?;
        Ok(begun.map(|cleaning| {
            let from = cleaning.first_dirty();
            (cleaning, from)
        }))
    }

    fn clean_step(&self, partition: &Arc<Partition>, cleaning: &mut Cleaning) -> Result<Step, CleanError> {
        if !partition.is_compacted() {
            return Err(CleanError::Superseded);
        }
        match cleaning.step()? {
            CleanProgress::Bytes(_) => Ok(Step::More),
            CleanProgress::Segment(replacement) => partition.replace_segments(*replacement).map(Step::Replaced),
            CleanProgress::Done(to) => {
                partition.complete_cleaning(cleaning, to)?;
                self.write_cleaned_to(partition);
                Ok(Step::Done(to))
            }
        }
    }

    /// Waits until what was moved is paid off.
    async fn pay(&self, bytes: u64) {
        self.cleaner.throttle().record(bytes);
        loop {
            let rate = self.live().cleaner.bytes_per_second_max;
            let wait = self.cleaner.throttle().wait(rate, self.world.instant());
            if wait.is_zero() {
                return;
            }
            self.world.sleep(wait.min(RATE_CHECK_INTERVAL)).await;
        }
    }

    fn tell_done(&self, partition: &Partition, from: Offset, to: Offset, stats: CleanStats, took: Duration) {
        tracing::info!(
            partition = %partition.name, %from, %to, ?took, keys = stats.keys,
            records = stats.records_read, records_kept = stats.records_kept,
            bytes_read = stats.bytes_read, bytes_written = stats.bytes_written, "compacted"
        );
        if stats.records_invalid > 0 {
            tracing::warn!(
                partition = %partition.name, records = stats.records_invalid,
                "records without a key were dropped from a compacted log"
            );
        }
    }

    // ---- what becomes of a log ----

    /// Whether it was cleaned.
    fn settle(&self, claim: &Claim, result: Result<bool, CleanError>) -> bool {
        let partition = &claim.partition;
        match result {
            Ok(has_cleaned) => {
                if let Some(before) = self.cleaner.schedule().succeed(partition.id) {
                    tracing::info!(partition = %partition.name, failures = before.failures, "can be compacted again");
                }
                has_cleaned
            }
            Err(error) => {
                // What cannot be removed now waits for the next cleaning, or the next start.
                let _ = partition.abandon_cleaning();
                self.note_failure(partition, &error, self.world.instant());
                false
            }
        }
    }

    fn note_failure(&self, partition: &Partition, error: &CleanError, now: Instant) {
        if matches!(error, CleanError::Superseded) || partition.is_offline() || partition.is_gone() {
            tracing::debug!(partition = %partition.name, %error, "not compacted");
            return;
        }
        let backoff = self.live().cleaner.backoff;
        let log = self.cleaner.schedule().fail(partition.id, error.to_string(), backoff, now).clone();
        tracing::error!(
            partition = %partition.name, cause = log.cause, failures = log.failures, retry_after = ?log.retry_after,
            "cannot be compacted, and keeps what it has"
        );
    }

    /// Writes the checkpoint of the partition's directory.
    fn write_cleaned_to(&self, partition: &Partition) {
        let Some(dir) = partition.saved_dir() else { return };
        let written = self.write_checkpoint(&dir, |dirs, dir, saved| dirs.write_cleaned_to(dir, saved));
        if let Err(error) = written {
            tracing::error!(%error, "the cleaner's checkpoint was not written");
        }
    }

    // ---- retention ----

    async fn retain_compacted(self: &Arc<Self>) {
        let manager = self.clone();
        let deferred = self.world.on_disk(move || manager.delete_old_compacted_segments()).await;
        deferred.into_iter().for_each(|deferred| self.delete_later(deferred));
    }

    fn delete_old_compacted_segments(self: &Arc<Self>) -> Vec<DeferredDelete> {
        let now = self.world.timestamp();
        let mut all = Vec::new();
        for partition in self.all_partitions() {
            // One that is being cleaned has its turn after that.
            let Some(claim) = partition.is_compacted().then(|| Claim::take(self, &partition)).flatten() else {
                continue;
            };
            let deferred = claim.partition.with_log(|log| log.delete_old_segments(now));
            all.extend(deferred.filter(|deferred| !deferred.is_empty()));
        }
        all
    }
}
