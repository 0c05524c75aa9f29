//! Takes new metadata into the replicas: logs are made, roles change, what is gone is deleted.
//!
//! Called by the metadata publisher only, one delta after another. Roles of open logs change before it returns; opening
//! logs takes disk work, which goes to the disk pool in a few batches, and each partition takes up whatever role
//! metadata has given it by the time its log is open.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{DeferredDelete, LoadRequest, Log, LogDir, LogDirs, LogError, ProducerStateConfig};
use odradek_common::{TopicIdPartition, TopicPartition, Uuid};
use odradek_metadata::{Delta, Image, ResourceType, directory};
use odradek_node::World;

use super::ReplicaManager;
use super::partition::Partition;

/// Jobs into which the opening of many logs is split.
const OPENING_JOBS: usize = 4;

/// How often the opening of all logs says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A log's directory may still be taken by a deleted topic of the same name, whose log another job is moving away.
const RETRY_AFTER: Duration = Duration::from_millis(20);
const RETRIES_MAX: usize = 250;

impl ReplicaManager {
    /// Applies one change of metadata. `image` is the state after `delta`.
    pub fn publish(self: &Arc<Self>, image: &Arc<Image>, delta: &Delta) {
        self.set_image(image.clone());
        let local = self.local();
        let mut closed = Vec::new();
        for topic in &delta.removed_topics {
            for (partition, _) in topic.partitions() {
                closed.extend(self.remove(TopicIdPartition { topic_id: topic.id, partition }));
            }
        }
        self.publish_configs(image, delta);
        if delta.configs.iter().any(|resource| resource.kind == ResourceType::Broker) {
            self.quotas.publish(local, image, self.world.instant());
        }
        let mut to_open = Vec::new();
        for (topic_id, changed) in &delta.topics {
            let Some(topic) = image.topic(*topic_id) else { continue };
            let mut config = None;
            for index in &changed.partitions {
                let Some(registration) = topic.partition(*index) else { continue };
                let id = TopicIdPartition { topic_id: *topic_id, partition: *index };
                if !registration.replicas.contains(&local) {
                    closed.extend(self.remove(id));
                } else if let Some(partition) = self.partition(id) {
                    let after = partition.on_metadata(registration, self.context(image));
                    self.finish(&partition, after);
                    self.fetchers.refetch(self, &partition);
                    if let Some(directory) = partition.saved_dir() {
                        self.tell_directory(id, directory.id);
                    }
                } else {
                    let config = config.get_or_insert_with(|| self.partition_config(&topic.name, image));
                    let name = TopicPartition::new(&*topic.name, index.0);
                    let partition = Arc::new(Partition::new(id, name, registration.clone(), config.clone()));
                    self.insert(partition.clone());
                    to_open.push(partition);
                }
            }
        }
        if !delta.brokers.is_empty() {
            self.publish_brokers(image, delta);
        }
        self.open_all(to_open);
        if !self.is_published.swap(true, Ordering::AcqRel) {
            self.set_strays_aside();
        }
        self.delete_logs(closed);
    }

    fn publish_configs(self: &Arc<Self>, image: &Arc<Image>, delta: &Delta) {
        for resource in delta.configs.iter().filter(|resource| resource.kind == ResourceType::Topic) {
            let Some(topic) = image.topic_by_name(&resource.name) else { continue };
            let config = self.partition_config(&topic.name, image);
            for (index, _) in topic.partitions() {
                let id = TopicIdPartition { topic_id: topic.id, partition: index };
                if let Some(partition) = self.partition(id) {
                    let after = partition.set_config(config.clone(), self.context(image));
                    self.finish(&partition, after);
                    // A follower says no more that it has what it has not flushed.
                    self.fetchers.refetch(self, &partition);
                }
            }
        }
    }

    fn publish_brokers(self: &Arc<Self>, image: &Arc<Image>, delta: &Delta) {
        for partition in self.all_partitions() {
            let after = partition.on_brokers_changed(self.context(image));
            self.finish(&partition, after);
        }
        for broker in &delta.brokers {
            self.fetchers.on_broker_changed(*broker);
        }
    }

    /// Takes a partition out of service; its log, if there is one, is to be deleted.
    fn remove(self: &Arc<Self>, id: TopicIdPartition) -> Option<Log> {
        let partition = self.take(id)?;
        self.fetchers.remove(id);
        let (log, was_opening, wake) = partition.close();
        wake.fire();
        self.cancel_move(&partition);
        if log.is_some() || was_opening {
            *self.lock_leaving().entry(id).or_default() += 1;
        }
        log
    }

    fn lock_leaving(&self) -> std::sync::MutexGuard<'_, HashMap<TopicIdPartition, usize>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log that was on its way out has gone from its directory.
    fn left(&self, id: TopicIdPartition) {
        let mut leaving = self.lock_leaving();
        match leaving.get_mut(&id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(leaving.remove(&id)),
        }
    }

    /// Opens the logs of new partitions on the disk pool.
    pub(super) fn open_all(self: &Arc<Self>, partitions: Vec<Arc<Partition>>) {
        if partitions.is_empty() {
            return;
        }
        let batch = partitions.len().div_ceil(OPENING_JOBS);
        for batch in partitions.chunks(batch) {
            let (manager, batch) = (self.clone(), batch.to_vec());
            self.world.disk.execute(Box::new(move || {
                for partition in batch {
                    manager.open(&partition, 0);
                }
            }));
        }
    }

    fn open(self: &Arc<Self>, partition: &Arc<Partition>, attempt: usize) {
        // Only what was removed while it was being opened is gone by now; its place is free again.
        if partition.is_gone() {
            return self.left(partition.id);
        }
        let is_taken = self.lock_leaving().contains_key(&partition.id);
        let made = if is_taken { Err(OpenError::Leaving) } else { self.make_log(partition) };
        let log = match made {
            Ok(log) => log,
            Err(OpenError::Leaving | OpenError::Log(LogError::TopicId { .. })) if attempt < RETRIES_MAX => {
                let (manager, partition) = (self.clone(), partition.clone());
                self.world.spawn("log opening, again", async move {
                    manager.world.sleep(RETRY_AFTER).await;
                    let again = manager.clone();
                    manager.world.on_disk(move || again.open(&partition, attempt + 1)).await;
                });
                return;
            }
            Err(error) => {
                tracing::error!(partition = %partition.name, %error, "a log cannot be opened");
                match partition.failed(error.to_string()) {
                    Some(after) => {
                        self.finish(partition, after);
                        if matches!(&error, OpenError::Log(error) if error.is_full()) {
                            self.disks.wait_for_room(partition);
                        }
                    }
                    None => self.left(partition.id),
                }
                return;
            }
        };
        let image = self.image();
        let directory = log.log_dir().id;
        match partition.opened(log, self.context(&image)) {
            Ok(after) => {
                self.finish(partition, after);
                self.fetchers.refetch(self, partition);
                self.tell_directory(partition.id, directory);
                self.take_up_move(partition);
            }
            // Deleted while it was being opened.
            Err(log) => self.delete_logs(vec![*log]),
        }
    }

    fn make_log(&self, partition: &Partition) -> Result<Log, OpenError> {
        let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = unclaimed.remove(&partition.id);
        if unclaimed.is_empty() {
            // Its table has had room for every log.
            unclaimed.shrink_to_fit();
        }
        drop(unclaimed);
        if let Some(log) = claimed {
            return Ok(log);
        }
        let image = self.image();
        let registration = image.partition(partition.id.topic_id, partition.id.partition);
        let wanted = registration.and_then(|registration| registration.directory(self.local()));
        let wanted = wanted.filter(|id| ![directory::UNASSIGNED, directory::MIGRATING].contains(id));
        let found = self.unopened.lock().unwrap_or_else(PoisonError::into_inner).get(&partition.name).copied();
        if found.is_some_and(|id| self.dirs.online_dir(id).is_none()) {
            return Err(OpenError::Offline);
        }
        // The log may be in a directory that cannot be looked into. An empty one elsewhere would take its place in the
        // cluster, as if nothing had ever been acknowledged.
        if wanted.is_some_and(|id| self.dirs.online_dir(id).is_none()) && self.dirs.has_failed() {
            return Err(OpenError::Offline);
        }
        let wanted = found.or_else(|| self.moves.take_preferred(&partition.name)).or(wanted);
        let made = self.dirs.create(
            partition.name.clone(),
            partition.id.topic_id,
            wanted,
            partition.log_config(),
            self.producer_config(),
            self.world.timestamp(),
        );
        Ok(made.ok_or(OpenError::NoDirectory)??)
    }

    pub(super) fn producer_config(&self) -> ProducerStateConfig {
        let expiration = self.live().log.producer_id_expiration.as_millis();
        ProducerStateConfig {
            producer_id_expiration_ms: i64::try_from(expiration).unwrap_or(i64::MAX),
            producer_ids_max: self.live().log.producer_ids_max,
            verify_transactions: self.live().transactions.partition_verification_enable,
        }
    }

    /// Moves deleted logs out of sight at once and removes them after `file.delete.delay.ms`.
    fn delete_logs(self: &Arc<Self>, logs: Vec<Log>) {
        if logs.is_empty() {
            return;
        }
        let manager = self.clone();
        self.world.spawn("log deletion", async move {
            let world = manager.world.clone();
            let named: Vec<_> = logs.into_iter().map(|log| (log, world.random_uuid())).collect();
            let deferred = world.on_disk(move || manager.rename_deleted(named)).await;
            remove_later(world, deferred).await;
        });
    }

    fn rename_deleted(&self, logs: Vec<(Log, Uuid)>) -> Vec<DeferredDelete> {
        self.forget_cleaned(&logs.iter().filter_map(|(log, _)| dir_of_cleaned(log)).collect());
        let mut deferred = Vec::with_capacity(logs.len());
        for (log, unique) in logs {
            let (name, dir) = (log.partition().clone(), log.log_dir().clone());
            let id = TopicIdPartition { topic_id: log.topic_id(), partition: name.partition };
            let deleted = log.delete(unique);
            self.left(id);
            match deleted {
                Ok(deletion) => {
                    tracing::info!(partition = %name, "deleted");
                    self.dirs.on_deleted(&dir);
                    deferred.push(deletion);
                }
                Err(error) => tracing::error!(partition = %name, %error, "a log cannot be deleted"),
            }
        }
        deferred
    }

    /// Takes logs that go away out of the cleaner's checkpoints, before another topic of the same name has their place.
    /// They are no partition's any more.
    fn forget_cleaned(&self, dirs: &BTreeMap<Uuid, Arc<LogDir>>) {
        for dir in dirs.values() {
            let written = self.write_checkpoint(dir, |dirs, dir, saved| dirs.write_cleaned_to(dir, saved));
            if let Err(error) = written {
                tracing::error!(%error, "the cleaner's checkpoint was not written");
            }
        }
    }

    /// Logs that the first metadata does not give to this broker: their topics were deleted, or moved away, while it
    /// was down. They are kept under another name, as Kafka does, for a person to look at.
    fn set_strays_aside(self: &Arc<Self>) {
        let image = self.image();
        let local = self.local();
        self.drop_moves_of_others();
        let mut unclaimed = self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |id: &TopicIdPartition| {
            image.partition(id.topic_id, id.partition).is_some_and(|found| found.replicas.contains(&local))
        };
        let mut dirs = BTreeMap::new();
        for (_, log) in unclaimed.extract_if(|id, _| !is_ours(id)) {
            dirs.extend(dir_of_cleaned(&log));
            let from = log.dir().to_owned();
            let mut to = from.as_os_str().to_owned();
            to.push(format!(".{}-stray", log.topic_id()));
            drop(log);
            match self.world.fs.rename(&from, to.as_ref()) {
                Ok(()) => tracing::warn!(
                    "no topic of this broker has the log {}: it is kept as {}",
                    from.display(),
                    to.display()
                ),
                Err(error) => tracing::error!(%error, "the stray log {} cannot be set aside", from.display()),
            }
        }
        drop(unclaimed);
        self.forget_cleaned(&dirs);
    }

    /// Opens every log that the directories hold, before the first metadata is here: in each directory so many at a time
    /// as `num.recovery.threads.per.data.dir` says.
    pub(super) async fn load(self: &Arc<Self>) {
        let begun = self.world.instant();
        let dirs = self.dirs.clone();
        let (requests, futures) = self.world.on_disk(move || (dirs.partitions(), dirs.future_logs())).await;
        self.moves.found(futures);
        let loading = Arc::new(Loading { total: requests.len(), ..Loading::default() });
        let mut queues: BTreeMap<Uuid, Vec<LoadRequest>> = BTreeMap::new();
        for request in requests {
            queues.entry(request.location.log_dir.id).or_default().push(request);
        }
        let mut workers = Vec::new();
        for queue in queues.into_values() {
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..self.config.log.recovery_threads_per_dir.max(1) {
                let (manager, queue, loading) = (self.clone(), queue.clone(), loading.clone());
                workers.push(self.world.on_disk(move || manager.load_from(&queue, &loading)));
            }
        }
        let workers = futures::future::join_all(workers);
        tokio::pin!(workers);
        loop {
            tokio::select! {
                biased;
                _ = &mut workers => break,
                () = self.world.sleep(PROGRESS_INTERVAL) => loading.tell(self.dirs.scanned_bytes(), "opening logs"),
            }
        }
        let took = self.world.instant().saturating_since(begun);
        if loading.total > 0 {
            loading.tell(self.dirs.scanned_bytes(), &format!("opened the logs in {} ms", took.as_millis()));
        }
        let manager = self.clone();
        self.world.on_disk(move || manager.write_loaded()).await;
    }

    /// Opens logs until the queue is empty.
    fn load_from(&self, queue: &Mutex<Vec<LoadRequest>>, loading: &Loading) {
        let config = self.default_log_config();
        let (producers, now) = (self.producer_config(), self.world.timestamp());
        loop {
            let Some(request) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
            let (name, dir) = (request.location.partition.clone(), request.location.log_dir.id);
            let high_watermark = request.high_watermark;
            match request.topic_id {
                None => tracing::warn!(partition = %name, "a log has no topic id: it is left alone"),
                Some(topic_id) => match LogDirs::load(request, topic_id, config.clone(), producers, now) {
                    Ok(log) => {
                        if log.recovery().damage.is_some() || log.log_end() < high_watermark {
                            self.dirs.note_loss();
                        }
                        let id = TopicIdPartition { topic_id, partition: name.partition };
                        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).insert(id, log);
                    }
                    Err(error) => {
                        tracing::error!(partition = %name, %error, "a log cannot be opened");
                        if !error.is_full() {
                            self.dirs.note_loss();
                        }
                        self.unopened.lock().unwrap_or_else(PoisonError::into_inner).insert(name, dir);
                    }
                },
            }
            loading.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// After a crash, or where a disk decays, a log may have been cut below the recovery point on disk. A later crash would
    /// trust what is appended from now on if that stayed.
    fn write_loaded(&self) {
        if self.dirs.was_clean() && !self.dirs.has_lost() {
            return;
        }
        for dir in self.dirs.online() {
            // A failure takes the directory offline, which whoever appends learns; on a full disk nothing is appended.
            let written = self.write_checkpoint(dir, |dirs, dir, saved| dirs.write_recovery_points(dir, saved));
            if let Err(error) = written {
                tracing::error!(%error, "the recovery points were not written");
            }
        }
    }
}

/// How far the opening of all logs is.
#[derive(Debug, Default)]
struct Loading {
    total: usize,
    done: AtomicUsize,
}

impl Loading {
    fn tell(&self, bytes: u64, what: &str) {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total);
        tracing::info!(logs = done, of = total, recovered_mib = bytes >> 20, "{what}");
    }
}

/// The directory whose cleaner's checkpoint names the log, if it does.
fn dir_of_cleaned(log: &Log) -> Option<(Uuid, Arc<LogDir>)> {
    log.cleaned_to().map(|_| (log.log_dir().id, log.log_dir().clone()))
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the partition's former log is still being deleted")]
    Leaving,
    #[error("no log directory is usable")]
    NoDirectory,
    #[error("it is in a log directory that is offline")]
    Offline,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Removes what is out of sight after its delay, for which it does not hold the manager, and with it the directories.
pub(super) async fn remove_later(world: World, deferred: Vec<DeferredDelete>) {
    let delay = deferred.iter().map(|deferred| deferred.delay_ms).max().unwrap_or(0);
    world.sleep(Duration::from_millis(u64::try_from(delay).unwrap_or(0))).await;
    let remove = move || {
        for deferred in deferred {
            if let Err(error) = deferred.run() {
                tracing::error!(%error, "the files of a deleted log or segment stay behind");
            }
        }
    };
    world.on_disk(remove).await;
}
