//! AlterReplicaLogDirs (KIP-113): logs move from one log directory of this broker to another while they are served.
//!
//! One task copies, a piece of each move in turn, at most as fast as `replica.alter.log.dirs.io.max.bytes.per.second`
//! says. A copy that has caught up takes the log's place, and the controller is told where the replica is now (KIP-858).
//! What a restart interrupts is taken up again; a copy that nobody needs is removed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{
    DeferredDelete, FoundFuture, Log, LogDir, LogLocation, Room, checkpoints, future_dir_name,
};
use odradek_common::{ErrorCode, TopicIdPartition, TopicPartition, Uuid};
use tokio::sync::Notify;

use super::ReplicaManager;
use super::partition::{CopyError, Partition, Swap};
use super::publish::remove_later;
use super::types::PartitionError;

/// Between two looks at moves of which none can go on.
const PAUSE: Duration = Duration::from_millis(100);

/// Wishes for partitions that are not here yet.
const PREFERRED_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Moves {
    /// In which directory a partition is to be made that is not here yet.
    preferred: Mutex<HashMap<TopicPartition, Uuid>>,
    /// What the last process left, until the partitions are opened.
    found: Mutex<Vec<FoundFuture>>,
    running: Mutex<BTreeMap<TopicIdPartition, Arc<Partition>>>,
    /// One request changes the moves at a time.
    altering: Mutex<()>,
    started: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moves {
    pub fn found(&self, futures: Vec<FoundFuture>) {
        *lock(&self.found) = futures;
    }

    fn take_found(&self, is_wanted: impl Fn(&FoundFuture) -> bool) -> Vec<FoundFuture> {
        lock(&self.found).extract_if(.., |found| is_wanted(found)).collect()
    }

    pub fn take_preferred(&self, partition: &TopicPartition) -> Option<Uuid> {
        lock(&self.preferred).remove(partition)
    }

    fn prefer(&self, partition: TopicPartition, dir: Uuid) {
        let mut preferred = lock(&self.preferred);
        if preferred.len() < PREFERRED_MAX || preferred.contains_key(&partition) {
            preferred.insert(partition, dir);
        } else {
            tracing::warn!(%partition, "too many partitions that are not here were given a log directory");
        }
    }

    fn start(&self, partition: &Arc<Partition>) {
        lock(&self.running).insert(partition.id, partition.clone());
        self.started.notify_one();
    }

    fn end(&self, partition: &Partition) {
        let mut running = lock(&self.running);
        if running.get(&partition.id).is_some_and(|running| std::ptr::eq(&**running, partition)) {
            running.remove(&partition.id);
        }
    }
}

/// What one turn of a move came to.
enum Turn {
    Copied(usize),
    /// Nothing can be done now.
    Waiting,
    Swapped(Arc<LogDir>, Vec<DeferredDelete>),
    Ended,
}

impl ReplicaManager {
    /// Moves each partition's log to a directory, or remembers that for when it is made. Waits for the disk: call it on the
    /// disk pool. Results are in the order of the wishes.
    pub fn alter_log_dirs(self: &Arc<Self>, wishes: Vec<(TopicPartition, PathBuf)>) -> Vec<Result<(), PartitionError>> {
        let _one_at_a_time = lock(&self.moves.altering);
        wishes.into_iter().map(|(partition, path)| self.alter_log_dir(partition, &path)).collect()
    }

    fn alter_log_dir(self: &Arc<Self>, name: TopicPartition, path: &Path) -> Result<(), PartitionError> {
        let Some(future) = future_dir_name(&name, self.world.random_uuid()) else {
            return Err(PartitionError::new(
                ErrorCode::InvalidTopicException,
                "the topic's name is too long to be moved",
            ));
        };
        let dir = self.log_dir_at(path)?;
        let image = self.image();
        let id = image
            .topic_by_name(&name.topic)
            .map(|topic| TopicIdPartition { topic_id: topic.id, partition: name.partition });
        let Some(partition) = id.and_then(|id| self.partition(id)) else {
            self.moves.prefer(name, dir.id);
            let is_known = id.is_some_and(|id| image.partition(id.topic_id, id.partition).is_some());
            return Err(if is_known { not_here() } else { ErrorCode::UnknownTopicOrPartition.into() });
        };
        let current = match partition.current_dir() {
            Ok(current) => current,
            Err(error) if error.code == ErrorCode::KafkaStorageError => return Err(error),
            Err(_) => {
                self.moves.prefer(name, dir.id);
                return Err(not_here());
            }
        };
        match partition.future_dir() {
            Some(to) if to.id == dir.id => return Ok(()),
            Some(_) => self.cancel_move(&partition),
            None => {}
        }
        if current.id == dir.id {
            return Ok(());
        }
        let path = dir.path.join(future);
        self.begin_move(&partition, dir, path).map_err(|error| PartitionError::new(error.code(), error.to_string()))
    }

    /// A directory by the path that DescribeLogDirs tells.
    fn log_dir_at(&self, path: &Path) -> Result<Arc<LogDir>, PartitionError> {
        let is_it = |dir: &Path| std::path::absolute(dir).is_ok_and(|dir| dir == path);
        let offline = || {
            PartitionError::new(ErrorCode::KafkaStorageError, format!("log directory {} is offline", path.display()))
        };
        if let Some(dir) = self.dirs.dirs().find(|dir| is_it(&dir.path)) {
            return if dir.failure().is_none() { Ok(dir.clone()) } else { Err(offline()) };
        }
        if self.dirs.failures().iter().any(|failure| is_it(&failure.dir)) {
            return Err(offline());
        }
        let message = format!("{} is none of log.dirs", path.display());
        Err(PartitionError::new(ErrorCode::LogDirNotFound, message))
    }

    fn begin_move(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        dir: Arc<LogDir>,
        path: PathBuf,
    ) -> Result<(), odradek_broker_storage::LogError> {
        let config = self.partition_config(&partition.name.topic, &self.image()).log;
        let location =
            LogLocation { fs: self.dirs.fs().clone(), log_dir: dir.clone(), partition: partition.name.clone() };
        let (producers, now) = (self.producer_config(), self.world.timestamp());
        let log = self.dirs.open_future(location, path, partition.id.topic_id, config, producers, now)?;
        tracing::info!(partition = %partition.name, to = %dir.path.display(), from_offset = %log.log_end(), "moving the log");
        match partition.set_future(log) {
            Ok(()) => self.moves.start(partition),
            Err(log) => self.remove_copy(*log),
        }
        Ok(())
    }

    /// Gives a move up, if there is one: another directory is wanted, or the partition goes.
    pub(super) fn cancel_move(self: &Arc<Self>, partition: &Partition) {
        self.moves.end(partition);
        if let Some(log) = partition.take_future() {
            tracing::info!(partition = %partition.name, to = %log.log_dir().path.display(), "the move is given up");
            self.remove_copy(log);
        }
    }

    fn remove_copy(self: &Arc<Self>, log: Log) {
        let manager = self.clone();
        let unique = self.world.random_uuid();
        self.world.disk.execute(Box::new(move || {
            let dir = log.log_dir().clone();
            manager.dirs.on_deleted(&dir);
            if let Err(error) = log.delete(unique).and_then(|deferred| Ok(deferred.run()?)) {
                tracing::error!(%error, "the copy of a move that was given up stays behind");
            }
        }));
    }

    /// The directory that a log was moving to has failed: nothing more can be done there.
    pub(super) fn abandon_move_to(&self, partition: &Partition, dir: Uuid) {
        let mut future = partition.lock_future();
        if future.as_ref().is_some_and(|log| log.log_dir().id == dir) {
            *future = None;
            drop(future);
            self.moves.end(partition);
            tracing::error!(partition = %partition.name, "the move is given up: the directory it goes to is offline");
        }
    }

    // ---- over a restart ----

    /// Goes on with what the last process left of a move, now that the log is open.
    pub(super) fn take_up_move(self: &Arc<Self>, partition: &Arc<Partition>) {
        let mut found = self.moves.take_found(|found| found.partition == partition.name);
        while let Some(next) = found.pop() {
            let topic_id = checkpoints::read_topic_id(&**self.dirs.fs(), &next.path).ok().flatten();
            let current = partition.current_dir().map(|dir| dir.id);
            let is_needed = topic_id == Some(partition.id.topic_id)
                && current.is_ok_and(|id| id != next.dir.id)
                && partition.future_dir().is_none();
            if !is_needed {
                self.dirs.remove_future(&next);
                continue;
            }
            if let Err(error) = self.begin_move(partition, next.dir.clone(), next.path) {
                tracing::error!(partition = %partition.name, %error, "a move cannot be taken up again");
            }
        }
    }

    /// Removes copies of partitions that are not this broker's any more.
    pub(super) fn drop_moves_of_others(&self) {
        let (image, local) = (self.image(), self.local());
        let is_ours = |found: &FoundFuture| {
            let topic = image.topic_by_name(&found.partition.topic);
            let registration = topic.and_then(|topic| topic.partition(found.partition.partition));
            registration.is_some_and(|registration| registration.replicas.contains(&local))
        };
        for found in self.moves.take_found(|found| !is_ours(found)) {
            self.dirs.remove_future(&found);
        }
    }

    // ---- copying ----

    /// Runs for as long as the broker.
    pub(super) async fn run_moves(self: Arc<Self>) {
        loop {
            let running: Vec<_> = lock(&self.moves.running).values().cloned().collect();
            if running.is_empty() {
                self.moves.started.notified().await;
                continue;
            }
            let mut has_copied = false;
            for partition in running {
                let wait = self.quotas.moves().wait(self.world.instant());
                if !wait.is_zero() {
                    self.world.sleep(wait.min(PAUSE)).await;
                    has_copied = true;
                    continue;
                }
                let (manager, moving) = (self.clone(), partition.clone());
                match self.world.on_disk(move || manager.take_turn(&moving)).await {
                    Turn::Copied(bytes) => {
                        has_copied = true;
                        self.quotas.moves().record(bytes as u64, self.world.instant());
                    }
                    Turn::Waiting => {}
                    Turn::Swapped(to, deferred) => {
                        self.moves.end(&partition);
                        self.tell_directory(partition.id, to.id);
                        self.world.spawn("moved log deletion", remove_later(self.world.clone(), deferred));
                    }
                    Turn::Ended => self.moves.end(&partition),
                }
            }
            if !has_copied {
                self.world.sleep(PAUSE).await;
            }
        }
    }

    fn take_turn(self: &Arc<Self>, partition: &Arc<Partition>) -> Turn {
        match partition.future_dir() {
            None => return Turn::Ended,
            Some(dir) if dir.room() == Room::None => return Turn::Waiting,
            Some(_) => {}
        }
        let now = self.world.timestamp();
        let turn = match partition.copy_piece(now) {
            Ok((bytes, false)) => Ok(Turn::Copied(bytes)),
            Ok((_, true)) => self.try_swap(partition),
            Err(error) => Err(error),
        };
        turn.unwrap_or_else(|error| match error {
            CopyError::NotOpen => Turn::Waiting,
            CopyError::Superseded => Turn::Ended,
            error if error.is_full() => Turn::Waiting,
            error => {
                tracing::error!(partition = %partition.name, %error, "a log cannot be moved to another directory");
                self.cancel_move(partition);
                Turn::Ended
            }
        })
    }

    fn try_swap(self: &Arc<Self>, partition: &Arc<Partition>) -> Result<Turn, CopyError> {
        let now = self.world.timestamp();
        let (dir, checkpoint) = partition.prepare_swap(now)?;
        // A crash right after the swap finds how far the log is committed, and where it begins.
        self.write_checkpoints_with(&dir, checkpoint)?;
        match partition.swap(self.world.random_uuid(), now)? {
            Swap::NotYet => Ok(Turn::Copied(0)),
            Swap::Done { from, to, deleted } => {
                tracing::info!(
                    partition = %partition.name, from = %from.path.display(), to = %to.path.display(), "the log has moved"
                );
                self.dirs.on_deleted(&from);
                // A failure takes the directory that was left offline, and is told there.
                Ok(Turn::Swapped(to, deleted.into_iter().collect()))
            }
        }
    }
}

fn not_here() -> PartitionError {
    PartitionError::new(ErrorCode::ReplicaNotAvailable, "this broker has no replica of the partition")
}
