//! All partitions of this broker: produce and fetch over many of them, lookups, and what must happen after each change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use odradek_broker_core::partition::{EpochEnd, Reader};
use odradek_broker_storage::{
    AppendOrigin, ColdRange, Log, LogConfig, LogDir, LogDirs, PartitionCheckpoint, StorageError,
};
use odradek_common::config::BrokerConfig;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, TopicIdPartition, TopicPartition, Uuid};
use odradek_metadata::{ConfigResource, Image};
use odradek_node::World;
use odradek_node::world::TaskHandle;
use odradek_wire::own;

use super::catch_up::Load;
use super::cleaner::Cleaner;
use super::config::log_config;
use super::directories::DirectoryQueue;
use super::disks::Disks;
use super::fetcher::Fetchers;
use super::flushes::Flushes;
use super::isr::IsrQueue;
use super::lost_leaders::LostLeaders;
use super::moves::Moves;
use super::partition::{After, Context, MovedBack, OldestUnread, Partition, PartitionConfig, Registered};
use super::session::Watching;
use super::throttle::{Quotas, Side, Throttled};
use super::types::{
    AppendEntry, AppendResult, CurrentLeader, FetchEntry, FetchParams, FetchResult, ListedOffset, Outcome,
    PartitionError, ReplicaDescription,
};
use super::waiting::{FetchGuard, FetchRow, FetchWait, LazyJoin, ProduceGuard};

/// The partitions that this broker is a replica of. Cheap to share; every method may be called from any task.
pub struct ReplicaManager {
    pub(super) world: World,
    pub(super) config: Arc<BrokerConfig>,
    pub(super) dirs: Arc<LogDirs>,
    pub(super) isr: IsrQueue,
    pub(super) directories: DirectoryQueue,
    pub(super) disks: Disks,
    pub(super) moves: Moves,
    pub(super) fetchers: Fetchers,
    pub(super) load: Load,
    pub(super) flushes: Flushes,
    pub(super) lost_leaders: LostLeaders,
    pub(super) quotas: Quotas,
    pub(super) cleaner: Cleaner,
    /// As `config`, with what is dynamic.
    live: RwLock<Arc<BrokerConfig>>,
    /// What topics without configs of their own go by, and the broker's configs that it comes from.
    default_config: Mutex<Option<(Arc<BrokerConfig>, PartitionConfig)>>,
    local_epoch: AtomicI64,
    image: RwLock<Arc<Image>>,
    partitions: RwLock<HashMap<TopicIdPartition, Arc<Partition>>>,
    /// Logs that were found at the start and that metadata has not claimed yet.
    pub(super) unclaimed: Mutex<HashMap<TopicIdPartition, Log>>,
    /// Where logs are that were found at the start and could not be opened: they are tried again there, and not made anew
    /// elsewhere.
    pub(super) unopened: Mutex<HashMap<TopicPartition, Uuid>>,
    /// How many logs of a partition are on their way out: while there is one, its directory's name is taken. A replica
    /// that is moved away and comes back must not be opened in what is about to be deleted.
    pub(super) leaving: Mutex<HashMap<TopicIdPartition, usize>>,
    pub(super) is_published: AtomicBool,
    /// Held while a checkpoint file is written, so that an older state never replaces a newer one.
    checkpoints: Mutex<()>,
    pub(super) tasks: Mutex<Vec<TaskHandle>>,
}

impl std::fmt::Debug for ReplicaManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplicaManager of broker {}", self.config.node_id)
    }
}

impl ReplicaManager {
    pub(super) fn new(world: World, config: Arc<BrokerConfig>, dirs: Arc<LogDirs>) -> Self {
        Self {
            fetchers: Fetchers::new(config.replication.fetchers),
            load: Load::default(),
            disks: Disks::new(&dirs),
            flushes: Flushes::new(&dirs),
            moves: Moves::default(),
            lost_leaders: LostLeaders::default(),
            live: RwLock::new(config.clone()),
            world,
            config,
            dirs,
            isr: IsrQueue::default(),
            directories: DirectoryQueue::default(),
            quotas: Quotas::default(),
            cleaner: Cleaner::default(),
            default_config: Mutex::default(),
            local_epoch: AtomicI64::new(BrokerEpoch::NONE.0),
            image: RwLock::new(Arc::new(Image::new())),
            partitions: RwLock::default(),
            unclaimed: Mutex::default(),
            unopened: Mutex::default(),
            leaving: Mutex::default(),
            is_published: AtomicBool::new(false),
            checkpoints: Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Leaders that died a moment ago, as far as the fetchers see.
    pub fn lost_leaders(&self) -> &LostLeaders {
        &self.lost_leaders
    }

    /// This broker has registered: its epoch goes into fetches and ISR changes. Nothing is fetched before, because a
    /// leader could not tell the fetch from one of this broker's last life (KIP-903).
    pub fn set_broker_epoch(self: &Arc<Self>, epoch: BrokerEpoch) {
        self.local_epoch.store(epoch.0, Ordering::Release);
        let image = self.image();
        for partition in self.all_partitions() {
            let after = partition.on_brokers_changed(self.context(&image));
            self.finish(&partition, after);
        }
        self.fetchers.wake_all();
    }

    pub(super) fn local_epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.local_epoch.load(Ordering::Acquire))
    }

    pub(super) fn local(&self) -> BrokerId {
        self.config.node_id
    }

    /// The metadata that was published last.
    pub(super) fn image(&self) -> Arc<Image> {
        self.image.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_image(&self, image: Arc<Image>) {
        *self.image.write().unwrap_or_else(PoisonError::into_inner) = image;
    }

    pub(super) fn context<'a>(&self, image: &'a Image) -> Context<'a> {
        Context {
            local: self.local(),
            local_epoch: self.local_epoch(),
            image,
            now: self.world.now(),
            lag_max: self.config.replication.lag_time_max,
        }
    }

    pub(super) fn partition(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn insert(&self, partition: Arc<Partition>) {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner).insert(partition.id, partition);
    }

    pub(super) fn take(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    pub(super) fn all_partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What the topic's configs say; what is not valid there (from another version) counts as not set.
    pub(super) fn partition_config(&self, topic: &str, image: &Image) -> PartitionConfig {
        let live = self.live();
        let Some(overrides) = image.resource_configs(&ConfigResource::topic(topic)).filter(|set| !set.is_empty())
        else {
            return self.default_config(&live);
        };
        let resolved = live.topics.resolve(overrides.iter().map(|(name, value)| (&**name, &**value)));
        let resolved = resolved.unwrap_or_else(|error| {
            tracing::warn!(topic, %error, "the topic's configs are not valid here; going by the broker's");
            live.topics.config().clone()
        });
        PartitionConfig {
            min_insync_replicas: usize::try_from(resolved.min_insync_replicas).unwrap_or(1),
            log: Arc::new(log_config(&resolved)),
            leader_throttled: Throttled::of(topic, Side::Leader, self.local(), image),
            follower_throttled: Throttled::of(topic, Side::Follower, self.local(), image),
        }
    }

    /// Of topics that set nothing, which share it: they may be thousands.
    fn default_config(&self, live: &Arc<BrokerConfig>) -> PartitionConfig {
        let mut known = self.default_config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*known
            && Arc::ptr_eq(of, live)
        {
            return config.clone();
        }
        let resolved = live.topics.config();
        let config = PartitionConfig {
            min_insync_replicas: usize::try_from(resolved.min_insync_replicas).unwrap_or(1),
            log: Arc::new(log_config(resolved)),
            leader_throttled: Throttled::None,
            follower_throttled: Throttled::None,
        };
        *known = Some((live.clone(), config.clone()));
        config
    }

    pub(super) fn default_log_config(&self) -> Arc<LogConfig> {
        self.default_config(&self.live()).log
    }

    /// What may change while the broker runs.
    pub(super) fn live(&self) -> Arc<BrokerConfig> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The broker's configs have changed: logs go by the new defaults at once, partitions are spread over the new number
    /// of fetchers, and the cleaner has the new number of workers.
    pub fn set_dynamic_config(self: &Arc<Self>, config: &Arc<BrokerConfig>) {
        let before = self.live();
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = config.clone();
        if before.topics != config.topics {
            let image = self.image();
            for partition in self.all_partitions() {
                let resolved = self.partition_config(&partition.name.topic, &image);
                let after = partition.set_config(resolved, self.context(&image));
                self.finish(&partition, after);
                self.fetchers.refetch(self, &partition);
            }
        }
        if before.cleaner != config.cleaner {
            self.adjust_cleaner();
        }
        if self.fetchers.set_count(config.replication.fetchers) {
            for partition in self.all_partitions() {
                self.fetchers.refetch(self, &partition);
            }
        }
    }

    /// Does what a change of a partition asks for, outside of its lock.
    pub(super) fn finish(self: &Arc<Self>, partition: &Arc<Partition>, after: After) {
        after.wake.fire();
        if let Some(proposal) = after.proposal {
            self.isr.push(partition.id, proposal);
        }
        if after.flush {
            self.flush_later(partition);
        } else if let Some(wait) = after.flush_within {
            self.flush_within(partition, wait);
        }
    }

    /// Why there is no such partition here.
    fn absent(&self, id: TopicIdPartition, image: &Image) -> PartitionError {
        match (image.topic(id.topic_id), image.partition(id.topic_id, id.partition)) {
            (_, Some(registration)) => PartitionError {
                current_leader: Some(CurrentLeader { leader: registration.leader, epoch: registration.leader_epoch }),
                ..PartitionError::new(ErrorCode::NotLeaderOrFollower, "this broker is no replica of the partition")
            },
            (Some(_), None) => ErrorCode::UnknownTopicOrPartition.into(),
            (None, None) => ErrorCode::UnknownTopicId.into(),
        }
    }

    pub(super) fn absent_result(&self, id: TopicIdPartition, image: &Image) -> FetchResult {
        let error = self.absent(id, image);
        FetchResult { current_leader: error.current_leader, ..FetchResult::failed(error.code) }
    }

    pub(super) fn required(&self, id: TopicIdPartition) -> Result<Arc<Partition>, PartitionError> {
        self.partition(id).ok_or_else(|| self.absent(id, &self.image()))
    }

    // ---- produce ----

    /// Appends each entry as its partition's leader. With acks=-1 the answer comes when all of it is committed, or
    /// after `timeout`; else at once. Results are in the order of the entries.
    pub fn append(
        self: &Arc<Self>,
        entries: Vec<AppendEntry>,
        acks: i16,
        timeout: Duration,
    ) -> Outcome<Vec<AppendResult>> {
        self.append_as(AppendOrigin::Client, entries, acks, timeout)
    }

    /// As [`ReplicaManager::append`], for records that a coordinator of this broker has made too.
    pub fn append_as(
        self: &Arc<Self>,
        origin: AppendOrigin,
        entries: Vec<AppendEntry>,
        acks: i16,
        timeout: Duration,
    ) -> Outcome<Vec<AppendResult>> {
        if !(-1..=1).contains(&acks) {
            let refused = AppendResult::failed(ErrorCode::InvalidRequiredAcks);
            return Outcome::Done(vec![refused; entries.len()]);
        }
        let image = self.image();
        self.load.note(self.world.instant());
        let mut join = LazyJoin::new(entries.len());
        let mut guard = ProduceGuard::default();
        let mut results = Vec::with_capacity(entries.len());
        for (part, entry) in entries.into_iter().enumerate() {
            let Some(partition) = self.partition(entry.partition) else {
                let error = self.absent(entry.partition, &image);
                results.push(Some(AppendResult {
                    message: Some(error.message),
                    current_leader: error.current_leader,
                    ..AppendResult::failed(error.code)
                }));
                continue;
            };
            let context = self.context(&image);
            let origin = match (origin, entry.guard) {
                (AppendOrigin::Client, Some(guard)) => AppendOrigin::Verified(guard),
                (origin, _) => origin,
            };
            let (result, after) = partition.append(acks, &entry.records, origin, part, &mut join, context);
            self.finish(&partition, after);
            match result {
                Ok(result) => results.push(Some(result)),
                Err(waiter) => {
                    guard.waiters.push((partition, waiter));
                    results.push(None);
                }
            }
        }
        let Some((join, receiver)) = join.into_made() else {
            return Outcome::Done(results.into_iter().flatten().collect());
        };
        for (part, result) in results.into_iter().enumerate() {
            if let Some(result) = result {
                join.settle(part, result);
            }
        }
        join.outcome(receiver, guard, self.world.clone(), timeout)
    }

    // ---- fetch ----

    /// Reads all entries. When there are fewer than `bytes_min` bytes and no errors the answer waits for more, up to
    /// `wait_max`. Results are in the order of the entries.
    pub fn fetch(self: &Arc<Self>, params: FetchParams, entries: Vec<FetchEntry>) -> Outcome<Vec<FetchResult>> {
        let fetch = Fetch {
            partitions: {
                let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
                entries.iter().map(|entry| partitions.get(&entry.partition).cloned()).collect()
            },
            manager: self.clone(),
            params,
            entries,
        };
        let read = fetch.read(true);
        if read.cold.is_empty() && fetch.is_answered(&read) {
            return Outcome::Done(read.results);
        }
        Outcome::Waiting(Box::pin(async move {
            let read = fetch.warmed(read).await;
            if fetch.is_answered(&read) { read.results } else { fetch.wait(read).await }
        }))
    }

    /// Reads one of a fetch's partitions. What is held back by the leader's throttle is read as if it were not there.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn read(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        entry: &FetchEntry,
        params: &FetchParams,
        bytes_left: usize,
        min_one: bool,
        counts: bool,
        watching: Option<Watching<'_>>,
        image: &Image,
    ) -> FetchResult {
        let context = self.context(image);
        let now = context.now.instant;
        let throttle = params.replica.and_then(|(replica, _)| partition.leader_throttle(replica));
        let is_held =
            throttle.is_some_and(|throttle| !throttle.is_in_sync && self.quotas.lock(Side::Leader).is_exceeded(now));
        let bytes_max = if is_held { 0 } else { bytes_left.min(entry.bytes_max) };
        let (result, after) = partition.read(entry, params, bytes_max, min_one && !is_held, counts, watching, context);
        self.finish(partition, after);
        if throttle.is_some() && !result.is_empty() {
            self.quotas.lock(Side::Leader).record(result.len() as u64, now);
        }
        result
    }

    // ---- lookups ----

    /// ListOffsets of one partition; `reader` is who asks. `wanted` is a timestamp or one of
    /// [`timestamp`](super::types::timestamp).
    pub fn list_offset(
        &self,
        id: TopicIdPartition,
        reader: Reader,
        current_leader_epoch: LeaderEpoch,
        wanted: i64,
    ) -> Result<ListedOffset, PartitionError> {
        self.required(id)?.list_offset(current_leader_epoch, wanted, reader)
    }

    /// The first record at or above an offset that a client may be given. It reads from disks.
    pub fn oldest_unread(
        &self,
        id: TopicIdPartition,
        current_leader_epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<OldestUnread, PartitionError> {
        self.required(id)?.oldest_unread(current_leader_epoch, offset)
    }

    /// As [`ReplicaManager::oldest_unread`], in the numbers that nodes tell each other ([`own::OLDEST_UNREAD`]).
    pub fn tell_oldest_unread(&self, id: TopicIdPartition, current_leader_epoch: LeaderEpoch, offset: i64) -> i64 {
        let found = self.oldest_unread(id, current_leader_epoch, Offset(offset.max(0)));
        found.map_or(own::NOT_KNOWN, OldestUnread::number)
    }

    /// The end of the largest leader epoch not above `epoch`; -1 and -1 when there is none.
    pub fn epoch_end_offset(
        &self,
        id: TopicIdPartition,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<EpochEnd, PartitionError> {
        self.required(id)?.offset_for_leader_epoch(current_leader_epoch, epoch)
    }

    /// Every replica here whose log is open.
    pub fn describe(&self) -> Vec<ReplicaDescription> {
        let mut all: Vec<_> = self.all_partitions().iter().filter_map(|partition| partition.describe()).collect();
        all.sort_by(|a, b| (&a.topic, a.index).cmp(&(&b.topic, b.index)));
        all
    }

    pub fn describe_partition(&self, id: TopicIdPartition) -> Option<ReplicaDescription> {
        self.partition(id)?.describe()
    }

    #[cfg(test)]
    pub(super) fn log_dir_id(&self, id: TopicIdPartition) -> Uuid {
        self.partition(id).and_then(|partition| partition.saved_dir()).expect("an open log").id
    }

    /// Whether logs are still being opened.
    pub fn is_opening(&self) -> bool {
        self.all_partitions().iter().any(|partition| partition.is_opening())
    }

    /// How many partitions this broker leads: a controlled shutdown waits until there are none.
    pub fn leader_count(&self) -> usize {
        let local = self.local();
        let image = self.image();
        let leads = |id: &TopicIdPartition| {
            image.partition(id.topic_id, id.partition).is_some_and(|registration| registration.leader == local)
        };
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).keys().filter(|id| leads(id)).count()
    }

    // ---- checkpoints ----

    /// Writes one of a directory's checkpoints from what all of its partitions have saved.
    pub(super) fn write_checkpoint(
        &self,
        dir: &LogDir,
        write: impl FnOnce(&LogDirs, &LogDir, &[PartitionCheckpoint]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _order = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut saved = Vec::new();
        for partition in self.all_partitions() {
            saved.extend(partition.saved_checkpoint(dir));
        }
        saved.extend(self.unclaimed_checkpoints(dir));
        saved.sort_by(|a, b| a.partition.cmp(&b.partition));
        write(&self.dirs, dir, &saved)
    }

    /// As [`ReplicaManager::write_checkpoint`], all three of a directory's, with one line more: of a log that is about to
    /// be in it.
    pub(super) fn write_checkpoints_with(&self, dir: &LogDir, more: PartitionCheckpoint) -> Result<(), StorageError> {
        self.write_checkpoint(dir, |dirs, dir, saved| {
            let mut saved: Vec<_> = saved.iter().filter(|log| log.partition != more.partition).cloned().collect();
            saved.push(more);
            dirs.write_checkpoints(dir, &saved)
        })
    }

    /// As a truncation asks for it, with its partition locked.
    pub(super) fn write_truncated(&self, dir: &LogDir, moved: MovedBack) -> Result<(), StorageError> {
        let written = self.write_checkpoint(dir, |dirs, dir, saved| {
            if moved.recovery_point {
                dirs.write_recovery_points(dir, saved)?;
            }
            if moved.cleaned_to {
                dirs.write_cleaned_to(dir, saved)?;
            }
            Ok(())
        });
        if written.as_ref().is_err_and(StorageError::is_full) {
            self.disks.owe_checkpoint();
        }
        written
    }

    fn unclaimed_checkpoints(&self, dir: &LogDir) -> Vec<PartitionCheckpoint> {
        let unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        unclaimed.values().filter(|log| log.log_dir().id == dir.id).map(Log::checkpoint).collect()
    }
}

/// How often a look-up is made again after what it missed was brought in: an index, the batches that it points to, and the
/// same of where the range ends. Who has not found its records by then gets none, and asks again: in a memory so short
/// that all is gone at once nobody waits for ever.
pub(super) const COLD_ROUNDS_MAX: usize = 8;

/// Brings into memory what look-ups missed, on the disk pool.
pub(super) async fn warm(world: &World, ranges: Vec<ColdRange>) {
    world.on_disk(move || ranges.iter().for_each(ColdRange::warm)).await;
}

/// A fetch with its partitions looked up.
struct Fetch {
    manager: Arc<ReplicaManager>,
    params: FetchParams,
    entries: Vec<FetchEntry>,
    /// Aligned with `entries`.
    partitions: Vec<Option<Arc<Partition>>>,
}

struct Read {
    results: Vec<FetchResult>,
    bytes: u64,
    /// An error or a divergence is told at once.
    is_urgent: bool,
    /// What has to be in memory before the rest is known.
    cold: Vec<ColdRange>,
}

impl Fetch {
    fn read(&self, counts: bool) -> Read {
        let image = self.manager.image();
        let results = Vec::with_capacity(self.entries.len());
        let mut read = Read { results, bytes: 0, is_urgent: false, cold: Vec::new() };
        let mut bytes_left = self.params.bytes_max;
        let mut min_one = !self.params.is_bytes_max_hard;
        for (entry, partition) in self.entries.iter().zip(&self.partitions) {
            let mut result = match partition {
                Some(partition) => {
                    self.manager.read(partition, entry, &self.params, bytes_left, min_one, counts, None, &image)
                }
                None => self.manager.absent_result(entry.partition, &image),
            };
            read.cold.extend(result.cold.take());
            read.is_urgent |= result.error.is_error() || result.diverging_epoch.is_some();
            let len = result.len();
            read.bytes += len as u64;
            bytes_left = bytes_left.saturating_sub(len);
            min_one &= len == 0;
            read.results.push(result);
        }
        read
    }

    fn is_enough(&self, read: &Read) -> bool {
        read.is_urgent || self.entries.is_empty() || read.bytes >= self.params.bytes_min
    }

    fn is_answered(&self, read: &Read) -> bool {
        self.is_enough(read) || self.params.wait_max.is_zero()
    }

    /// Reads anew when what the look-ups missed is in memory.
    async fn warmed(&self, mut read: Read) -> Read {
        for _ in 0..COLD_ROUNDS_MAX {
            if read.cold.is_empty() {
                break;
            }
            warm(&self.manager.world, std::mem::take(&mut read.cold)).await;
            read = self.read(false);
        }
        read
    }

    async fn wait(self, mut read: Read) -> Vec<FetchResult> {
        let world = self.manager.world.clone();
        let mut timer = world.clock.sleep_until(world.instant() + self.params.wait_max);
        loop {
            let wait = FetchWait::new(self.params.bytes_min.saturating_sub(read.bytes));
            let is_over = match self.register(&read, &wait) {
                Ok(Some(guard)) => {
                    let is_over = tokio::select! {
                        biased;
                        () = wait.woken() => false,
                        () = &mut timer => true,
                    };
                    drop(guard);
                    is_over
                }
                // Something moved between the read and now.
                Ok(None) => false,
                Err(NoRoom) => true,
            };
            read = self.warmed(self.read(false)).await;
            if is_over || self.is_enough(&read) {
                return read.results;
            }
        }
    }

    fn register(&self, read: &Read, wait: &Arc<FetchWait>) -> Result<Option<FetchGuard>, NoRoom> {
        let row = if self.params.replica.is_some() { FetchRow::Followers } else { FetchRow::Clients };
        let mut guard = FetchGuard { row, waiters: Vec::with_capacity(self.partitions.len()) };
        for (partition, result) in self.partitions.iter().zip(&read.results) {
            let Some(partition) = partition else { continue };
            match partition.register_fetch(row, result.bound, self.params.reader, wait) {
                Registered::Waiting(id) => guard.waiters.push((partition.clone(), id)),
                Registered::Moved => return Ok(None),
                Registered::NoRoom => return Err(NoRoom),
            }
        }
        Ok(Some(guard))
    }
}

struct NoRoom;
