//! What happens to logs by itself: flushes, checkpoints, retention, lagging members of ISRs; and the start and the clean
//! end of it all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{DeferredDelete, LogDirs, PartitionCheckpoint};
use odradek_common::config::BrokerConfig;
use odradek_common::{BrokerEpoch, Uuid};
use odradek_node::World;

use super::ReplicaManager;
use super::directories;
use super::isr::{self, ControllerClient};
use super::partition::Partition;
use super::publish::remove_later;

/// Files of closed segments that nobody has read for so long are closed, and forgotten producers dropped.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a partition's flush is running: one at a time, and what comes meanwhile in the next (group commit).
#[derive(Debug, Default)]
pub(super) struct FlushState {
    phase: AtomicU8,
    /// Held from the collection of what is to be synced until the recovery point has moved. A flush that found less to do,
    /// as an earlier one has taken the files, would else say that all is on disk before that one is done.
    order: Mutex<()>,
}

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const AGAIN: u8 = 2;

impl FlushState {
    /// Whether the caller is to run it.
    fn request(&self) -> bool {
        let next = |state| Some(if state == IDLE { RUNNING } else { AGAIN });
        self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) == Ok(IDLE)
    }

    /// Whether it is to run again.
    fn finish(&self) -> bool {
        let next = |state| Some(if state == AGAIN { RUNNING } else { IDLE });
        self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) == Ok(AGAIN)
    }
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
        let manager = self.clone();
        self.world.on_disk(move || manager.close_logs(broker_epoch)).await;
    }

    /// Ends all tasks and leaves the logs as they are, as a crash does.
    #[cfg(test)]
    pub(super) fn abandon(&self) {
        self.fetchers.stop();
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    fn close_logs(&self, broker_epoch: Option<BrokerEpoch>) {
        let now = self.world.now();
        let mut failed: Vec<Uuid> = Vec::new();
        for partition in self.all_partitions() {
            if let Err(error) = partition.shut_down(now) {
                tracing::error!(partition = %partition.name, %error, "a log was not closed cleanly");
                failed.extend(partition.saved_checkpoint().map(|(dir, _)| dir.id));
            }
        }
        for log in self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            if let Err(error) = log.close(now.wall) {
                tracing::error!(partition = %log.partition(), %error, "a log was not closed cleanly");
                failed.push(log.log_dir().id);
            }
        }
        for dir in self.dirs.online() {
            let written = self.write_checkpoint(dir, |dirs, dir, saved| dirs.write_checkpoints(dir, saved));
            if written.is_err() || failed.contains(&dir.id) {
                continue;
            }
            let epoch = broker_epoch.unwrap_or(BrokerEpoch::NONE);
            if let Err(error) = self.dirs.write_clean_shutdown(dir, epoch.0) {
                tracing::error!(%error, "the next start recovers the logs of this directory");
            }
        }
    }

    // ---- flushes ----

    /// Syncs a log on the disk pool.
    pub(super) fn flush_later(self: &Arc<Self>, partition: &Arc<Partition>) {
        if !partition.flushing.request() {
            return;
        }
        let (manager, partition) = (self.clone(), partition.clone());
        self.world.disk.execute(Box::new(move || {
            loop {
                manager.flush_now(&partition);
                if !partition.flushing.finish() {
                    break;
                }
            }
        }));
    }

    /// Syncs a log on this thread, one of the disk pool.
    pub(super) fn flush_now(self: &Arc<Self>, partition: &Arc<Partition>) {
        let order = partition.flushing.order.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(job) = partition.flush_job(self.world.now()) else { return };
        match job.run() {
            Ok(flushed) => {
                let image = self.image();
                let after = partition.flushed(flushed, self.context(&image));
                drop(order);
                self.finish(partition, after);
            }
            // It is logged where the directory was taken offline; whoever waits is told. (No flush fails for want of
            // room: a sync that does is a failure.)
            Err(error) => partition.failed(error.to_string()).unwrap_or_default().wake.fire(),
        }
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
            written = self
                .world
                .on_disk(move || {
                    manager.checkpoint(written, LogDirs::write_high_watermarks, |log| (log.high_watermark.0, 0))
                })
                .await;
        }
    }

    async fn checkpoint_logs(self: Arc<Self>) {
        let log = &self.config.log;
        let interval = log.recovery_point_checkpoint_interval.min(log.start_offset_checkpoint_interval);
        let mut written = HashMap::new();
        loop {
            self.world.sleep(interval).await;
            let manager = self.clone();
            written = self
                .world
                .on_disk(move || {
                    manager.checkpoint(written, LogDirs::write_checkpoints, |log| {
                        (log.recovery_point.0, log.log_start.map_or(-1, |start| start.0))
                    })
                })
                .await;
        }
    }

    /// Writes the checkpoints of the directories in which something has changed since `written`.
    fn checkpoint(
        &self,
        mut written: HashMap<Uuid, Vec<Line>>,
        write: impl Fn(
            &LogDirs,
            &odradek_broker_storage::LogDir,
            &[PartitionCheckpoint],
        ) -> Result<(), odradek_broker_storage::StorageError>,
        key: impl Fn(&PartitionCheckpoint) -> (i64, i64),
    ) -> HashMap<Uuid, Vec<Line>> {
        for partition in self.all_partitions() {
            partition.refresh_checkpoint();
        }
        for dir in self.dirs.online() {
            let result = self.write_checkpoint(dir, |dirs, dir, saved| {
                let lines: Vec<Line> = saved.iter().map(|log| (log.partition.clone(), key(log))).collect();
                if written.get(&dir.id) == Some(&lines) {
                    return Ok(());
                }
                write(dirs, dir, saved)?;
                written.insert(dir.id, lines);
                Ok(())
            });
            if let Err(error) = result {
                tracing::error!(%error, "a checkpoint was not written");
            }
        }
        written
    }

    /// Compacted logs are the cleaner's.
    async fn retain(self: Arc<Self>) {
        loop {
            self.world.sleep(self.config.log.retention_check_interval).await;
            for partition in self.all_partitions().into_iter().filter(|partition| !partition.is_compacted()) {
                let (manager, now) = (self.clone(), self.world.timestamp());
                let deferred = self
                    .world
                    .on_disk(move || {
                        let deferred = partition.with_log(|log| log.delete_old_segments(now));
                        drop(manager);
                        deferred
                    })
                    .await;
                if let Some(deferred) = deferred.filter(|deferred| !deferred.is_empty()) {
                    self.delete_later(deferred);
                }
            }
        }
    }

    /// Removes the files of segments after `file.delete.delay.ms`.
    pub(super) fn delete_later(&self, deferred: DeferredDelete) {
        self.world.spawn("segment deletion", remove_later(self.world.clone(), vec![deferred]));
    }

    async fn tidy(self: Arc<Self>) {
        loop {
            self.world.sleep(TIDY_INTERVAL).await;
            let now = self.world.timestamp();
            for partition in self.all_partitions() {
                let _ = partition.with_log(|log| {
                    log.release_idle_files();
                    log.expire_producers(now);
                    Ok(())
                });
            }
        }
    }
}

type Line = (odradek_common::TopicPartition, (i64, i64));
