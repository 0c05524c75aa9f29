//! What happens to logs by itself: flushes, checkpoints, retention, lagging members of ISRs; and the start and the clean
//! end of it all.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{
    CheckpointOffsets, DeferredDelete, FlushJob, LogDir, LogDirs, PartitionCheckpoint, StorageError,
};
use odradek_common::config::BrokerConfig;
use odradek_common::time::Timestamp;
use odradek_common::{BrokerEpoch, Uuid};
use odradek_node::World;

use super::ReplicaManager;
use super::directories;
use super::isr::{self, ControllerClient};
use super::partition::Partition;
use super::publish::remove_later;

/// Files that nobody has used for so long are closed, memory that waits for appends is given back, forgotten producers are
/// dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// A transaction that is open for so much longer than any may last hangs: nobody will end it (KIP-664).
const LATE_TRANSACTION_MS: i64 = 5 * 60 * 1000;

/// Jobs into which the closing of all logs is split.
const CLOSING_JOBS: usize = 4;

/// Files that are synced one by one at a clean shutdown. The sync of a whole file system takes what others have written to
/// it along, and is worth it for many.
const SYNCED_ALONE_MAX: usize = 64;

/// Partitions that are looked at in one go on the disk pool.
const LOOKED_AT_ONCE: usize = 64;

/// A log that was closed, and what is to be synced of it.
struct Closing {
    partition: Arc<Partition>,
    dir: Option<Uuid>,
    job: Result<Option<FlushJob>, ()>,
}

impl ReplicaManager {
    /// Opens the logs of `dirs` and starts what runs by itself. Then metadata may be published.
    pub async fn start(
        world: World,
        config: Arc<BrokerConfig>,
        dirs: Arc<LogDirs>,
        controller: Arc<dyn ControllerClient>,
    ) -> Arc<Self> {
        let manager = Arc::new(Self::new(world, config, dirs));
        manager.load().await;
        let tasks = [
            manager.world.spawn("isr changes", isr::run(manager.clone(), controller.clone())),
            manager.world.spawn("directories", directories::run(manager.clone(), controller)),
            manager.world.spawn("isr lag", manager.clone().watch_lag()),
            manager.world.spawn("high watermark checkpoint", manager.clone().checkpoint_high_watermarks()),
            manager.world.spawn("log checkpoint", manager.clone().checkpoint_logs()),
            manager.world.spawn("log retention", manager.clone().retain()),
            manager.world.spawn("log flush", manager.clone().flush_by_time()),
            manager.world.spawn("log tidying", manager.clone().tidy()),
            manager.world.spawn("log directory failures", manager.clone().watch_failures()),
            manager.world.spawn("log directory room", manager.clone().watch_room()),
            manager.world.spawn("log moves", manager.clone().run_moves()),
        ];
        manager.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        manager.adjust_cleaner();
        manager
    }

    /// Ends replication, flushes and closes every log, writes the checkpoints and, with a broker epoch, the marker of a
    /// clean shutdown (KIP-966).
    pub async fn shut_down(self: &Arc<Self>, broker_epoch: Option<BrokerEpoch>) {
        self.fetchers.stop();
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        // A log that is closed takes all for synced that it has handed out to be.
        self.flushes.stop().await;
        let partitions = self.all_partitions();
        let jobs = partitions.chunks(partitions.len().div_ceil(CLOSING_JOBS).max(1)).map(|batch| {
            let (manager, batch) = (self.clone(), batch.to_vec());
            self.world.on_disk(move || batch.into_iter().map(|partition| manager.close_log(partition)).collect())
        });
        let jobs: Vec<Vec<Closing>> = futures::future::join_all(jobs).await;
        let manager = self.clone();
        self.world.on_disk(move || manager.sync_closed(jobs.into_iter().flatten().collect(), broker_epoch)).await;
    }

    /// Ends all tasks and leaves the logs as they are, as a crash does.
    #[cfg(test)]
    pub(super) fn abandon(&self) {
        self.fetchers.stop();
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    fn close_log(&self, partition: Arc<Partition>) -> Closing {
        let job = partition.shut_down(self.world.now());
        if let Err(error) = &job {
            tracing::error!(partition = %partition.name, %error, "a log was not closed cleanly");
        }
        Closing { dir: partition.saved_dir().map(|dir| dir.id), partition, job: job.map_err(drop) }
    }

    /// Makes all that was closed durable, and says so in each directory that it holds for.
    fn sync_closed(&self, closed: Vec<Closing>, broker_epoch: Option<BrokerEpoch>) {
        let now = self.world.now();
        let mut failed: Vec<Uuid> = closed.iter().filter(|log| log.job.is_err()).filter_map(|log| log.dir).collect();
        let mut jobs: HashMap<Uuid, Vec<(Arc<Partition>, FlushJob)>> = HashMap::new();
        for log in closed {
            if let (Some(dir), Ok(Some(job))) = (log.dir, log.job) {
                jobs.entry(dir).or_default().push((log.partition, job));
            }
        }
        // What metadata never claimed; there are none but in a broker that is stopped as it starts.
        for log in self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            if let Err(error) = log.close(now.wall) {
                tracing::error!(partition = %log.partition(), %error, "a log was not closed cleanly");
                failed.push(log.log_dir().id);
            }
        }
        for dir in self.dirs.online() {
            let is_synced = self.sync_logs(dir, jobs.remove(&dir.id).unwrap_or_default());
            let written = self.write_checkpoint(dir, |dirs, dir, saved| dirs.write_checkpoints(dir, saved));
            if !is_synced || written.is_err() || failed.contains(&dir.id) {
                continue;
            }
            let epoch = broker_epoch.unwrap_or(BrokerEpoch::NONE);
            if let Err(error) = self.dirs.write_clean_shutdown(dir, epoch.0) {
                tracing::error!(%error, "the next start recovers the logs of this directory");
            }
        }
    }

    /// Syncs closed logs: a few one by one, many with the whole file system. Whether all are durable.
    fn sync_logs(&self, dir: &LogDir, jobs: Vec<(Arc<Partition>, FlushJob)>) -> bool {
        let count: usize = jobs.iter().map(|(_, job)| job.count()).sum();
        let is_whole = count > SYNCED_ALONE_MAX && dir.sync_whole().unwrap_or(false);
        let image = self.image();
        let mut all = true;
        for (partition, job) in jobs {
            let flushed = if is_whole { Ok(job.was_synced_whole()) } else { job.run() };
            match flushed {
                // The partition serves no more, and nobody waits on it.
                Ok(flushed) => partition.flushed(flushed, self.context(&image)).wake.fire(),
                Err(error) => {
                    tracing::error!(partition = %partition.name, %error, "a log was not closed cleanly");
                    all = false;
                }
            }
        }
        all
    }

    async fn flush_by_time(self: Arc<Self>) {
        let Ok(interval) = u64::try_from(self.config.log.flush_check_interval_ms) else { return };
        if interval >= i64::MAX as u64 {
            return;
        }
        loop {
            self.world.sleep(Duration::from_millis(interval.max(1))).await;
            let now = self.world.timestamp();
            for partition in self.all_partitions() {
                if partition.is_flush_due(now) {
                    self.flush_later(&partition);
                }
            }
        }
    }

    // ---- by the clock ----

    async fn watch_lag(self: Arc<Self>) {
        loop {
            self.world.sleep(self.config.replication.lag_time_max / 2).await;
            let image = self.image();
            for partition in self.all_partitions() {
                let after = partition.tick(self.context(&image));
                if let Some(proposal) = &after.proposal {
                    let isr: Vec<_> = proposal.isr.iter().map(|member| member.broker.0).collect();
                    tracing::info!(partition = %partition.name, ?isr, "the ISR is to shrink: its other members lag");
                }
                self.finish(&partition, after);
            }
        }
    }

    async fn checkpoint_high_watermarks(self: Arc<Self>) {
        let mut written = HashMap::new();
        loop {
            self.world.sleep(self.config.replication.high_watermark_checkpoint_interval).await;
            let manager = self.clone();
            let work = move || manager.checkpoint(written, LogDirs::write_high_watermarks, |log| log.high_watermark.0);
            written = self.world.on_disk(work).await;
        }
    }

    async fn checkpoint_logs(self: Arc<Self>) {
        let log = &self.config.log;
        let interval = log.recovery_point_checkpoint_interval.min(log.start_offset_checkpoint_interval);
        let mut written = HashMap::new();
        loop {
            self.world.sleep(interval).await;
            let manager = self.clone();
            let key = |log: &CheckpointOffsets| (log.recovery_point.0, log.log_start.map_or(-1, |start| start.0));
            let work = move || manager.checkpoint(written, LogDirs::write_checkpoints, key);
            written = self.world.on_disk(work).await;
        }
    }

    /// Writes the checkpoints of the directories in which something has changed since `written`, which has a digest of
    /// what was written of each: of thousands of partitions most change nothing, and their lines would be more than they
    /// are.
    fn checkpoint<K: Hash>(
        &self,
        mut written: HashMap<Uuid, u64>,
        write: impl Fn(&LogDirs, &LogDir, &[PartitionCheckpoint]) -> Result<(), StorageError>,
        key: impl Fn(&CheckpointOffsets) -> K,
    ) -> HashMap<Uuid, u64> {
        let mut digests: HashMap<Uuid, u64> = HashMap::new();
        for partition in self.all_partitions() {
            let Some((dir, offsets)) = partition.refresh_checkpoint() else { continue };
            let mut line = DefaultHasher::new();
            (partition.id, key(&offsets)).hash(&mut line);
            // In any order of the lines the same.
            let digest = digests.entry(dir).or_insert(1);
            *digest = digest.wrapping_add(line.finish());
        }
        for dir in self.dirs.online() {
            let digest = digests.get(&dir.id).copied().unwrap_or_default();
            if written.get(&dir.id) == Some(&digest) {
                continue;
            }
            match self.write_checkpoint(dir, &write) {
                Ok(()) => drop(written.insert(dir.id, digest)),
                Err(error) => tracing::error!(%error, "a checkpoint was not written"),
            }
        }
        written
    }

    /// Compacted logs are the cleaner's.
    async fn retain(self: Arc<Self>) {
        loop {
            self.world.sleep(self.config.log.retention_check_interval).await;
            for batch in self.all_partitions().chunks(LOOKED_AT_ONCE) {
                let (batch, now) = (batch.to_vec(), self.world.timestamp());
                let work = move || {
                    let retained = batch.iter().filter(|partition| !partition.is_compacted());
                    let deferred =
                        retained.filter_map(|partition| partition.with_log(|log| log.delete_old_segments(now)));
                    deferred.filter(|deferred| !deferred.is_empty()).collect::<Vec<_>>()
                };
                for deferred in self.world.on_disk(work).await {
                    self.delete_later(deferred);
                }
            }
        }
    }

    /// Removes the files of segments after `file.delete.delay.ms`.
    pub(super) fn delete_later(&self, deferred: DeferredDelete) {
        self.world.spawn("segment deletion", remove_later(self.world.clone(), vec![deferred]));
    }

    /// The silence after which the producer of an open transaction will not come back, in milliseconds.
    pub(super) fn late_after_ms(&self) -> i64 {
        let longest = self.live().transactions.timeout_max.as_millis();
        i64::try_from(longest).unwrap_or(i64::MAX).saturating_add(LATE_TRANSACTION_MS)
    }

    /// Tells of each transaction that hangs, once: when it does so since `before`, the time of the last look.
    fn tell_late_transactions(&self, partition: &Partition, before: Option<Timestamp>, now: Timestamp) {
        let limit_ms = self.late_after_ms();
        for late in partition.late_transactions(now, limit_ms) {
            if before.is_some_and(|before| before.0.saturating_sub(late.last_timestamp.0) > limit_ms) {
                continue;
            }
            tracing::warn!(
                partition = %partition.name,
                producer_id = %late.producer_id,
                epoch = late.epoch.0,
                first_offset = late.txn_start_offset.map(|offset| offset.0),
                silent_ms = now.0.saturating_sub(late.last_timestamp.0),
                "a transaction hangs: nothing after its first offset is readable with read_committed; when its coordinator \
                 does not know it (`odradek txn find-hanging`), end it by `odradek txn abort`"
            );
        }
    }

    async fn tidy(self: Arc<Self>) {
        let mut looked_at: Option<Timestamp> = None;
        loop {
            self.world.sleep(TIDY_INTERVAL).await;
            let now = self.world.now();
            let before = looked_at.replace(now.wall);
            for batch in self.all_partitions().chunks(LOOKED_AT_ONCE) {
                let (manager, batch) = (self.clone(), batch.to_vec());
                let work = move || {
                    for partition in batch {
                        manager.tell_late_transactions(&partition, before, now.wall);
                        let _ = partition.with_log(|log| {
                            log.expire_producers(now.wall);
                            log.release_idle_memory()
                        });
                        partition.forget_cold_readers(now.instant);
                    }
                };
                self.world.on_disk(work).await;
            }
            if let Some(files) = self.dirs.open_files().cloned() {
                self.world.on_disk(move || files.close_idle()).await;
            }
        }
    }
}
