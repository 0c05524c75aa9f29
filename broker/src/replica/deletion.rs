//! DeleteRecords over many partitions, and what is told of the directories.
//!
//! A deletion waits, in its partition, for the least log start of the leader and of every living follower (the low
//! watermark). It moves with the followers' fetches, which say where their logs begin, and with brokers that go.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::purgatory::WaiterId;
use odradek_broker_storage::ActiveProducer;
use odradek_common::fs::DiskSpace;
use odradek_common::{ErrorCode, Offset, TopicIdPartition};

use super::ReplicaManager;
use super::partition::Partition;
use super::types::{DeletedRecords, Outcome, PartitionError, ReplicaDescription};
use super::waiting::Join;

/// Deletions that may wait on one partition.
pub(super) const DELETIONS_WAITING_MAX: usize = 1_000;

/// One partition's part of a DeleteRecords that waits.
#[derive(Debug)]
pub(super) struct DeleteWaiter {
    pub join: Arc<Join<DeletedRecords>>,
    pub part: usize,
}

impl DeleteWaiter {
    pub fn settle(self, result: DeletedRecords) {
        self.join.settle(self.part, result);
    }
}

/// Takes the waiters of a deletion back when it is dropped.
#[derive(Debug, Default)]
struct DeleteGuard {
    waiters: Vec<(Arc<Partition>, WaiterId)>,
}

impl Drop for DeleteGuard {
    fn drop(&mut self) {
        for (partition, id) in &self.waiters {
            partition.forget_deletion(*id);
        }
    }
}

/// One of `log.dirs`, with the replicas in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDirDescription {
    pub path: PathBuf,
    /// `None`: the directory is offline.
    pub space: Option<DiskSpace>,
    pub replicas: Vec<ReplicaDescription>,
    /// Copies that are on their way into it.
    pub futures: Vec<FutureDescription>,
}

/// A copy of a log that is moved to another directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FutureDescription {
    pub topic: String,
    pub index: i32,
    pub size_bytes: u64,
    /// What it lacks of the log's end.
    pub offset_lag: i64,
}

impl ReplicaManager {
    /// Moves the log start of each partition to its offset (-1: the high watermark). Answers when all living replicas
    /// have followed, or after `timeout`. Results are in the order of the entries.
    pub fn delete_records(
        self: &Arc<Self>,
        entries: Vec<(TopicIdPartition, Offset)>,
        timeout: Duration,
    ) -> Outcome<Vec<DeletedRecords>> {
        let image = self.image();
        let (join, receiver) = Join::new(entries.len(), DeletedRecords::failed(ErrorCode::RequestTimedOut));
        let mut guard = DeleteGuard::default();
        if entries.is_empty() {
            return Outcome::Done(Vec::new());
        }
        for (part, (id, offset)) in entries.into_iter().enumerate() {
            let waiter = DeleteWaiter { join: join.clone(), part };
            let deleted = match self.required(id) {
                Ok(partition) => {
                    let deleted = partition.delete_records(offset, waiter, self.context(&image));
                    if let Ok(Some(id)) = deleted {
                        guard.waiters.push((partition, id));
                    }
                    deleted
                }
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                tracing::debug!(partition = %id, %error, "records are not deleted");
                join.settle(part, DeletedRecords::failed(error.code));
            }
        }
        join.outcome(receiver, guard, self.world.clone(), timeout)
    }

    /// The producers that a replica remembers, whether it leads or not.
    pub fn active_producers(&self, id: TopicIdPartition) -> Result<Vec<ActiveProducer>, PartitionError> {
        self.required(id)?.active_producers()
    }

    /// Every directory with what is in it. Asks the disk.
    pub fn describe_log_dirs(&self) -> Vec<LogDirDescription> {
        let mut replicas: HashMap<PathBuf, Vec<ReplicaDescription>> = HashMap::new();
        for replica in self.describe() {
            replicas.entry(replica.log_dir.clone()).or_default().push(replica);
        }
        let mut futures: HashMap<PathBuf, Vec<FutureDescription>> = HashMap::new();
        for partition in self.all_partitions() {
            let Some((dir, size_bytes, offset_lag)) = partition.describe_future() else { continue };
            let (topic, index) = (partition.name.topic.clone(), partition.name.partition.0);
            let described = FutureDescription { topic, index, size_bytes, offset_lag };
            futures.entry(dir.path.clone()).or_default().push(described);
        }
        let opened = self.dirs.dirs().map(|dir| {
            let space = match dir.failure() {
                None => self.world.fs.space(&dir.path).ok(),
                Some(_) => None,
            };
            let replicas = replicas.remove(&dir.path).unwrap_or_default();
            let futures = futures.remove(&dir.path).unwrap_or_default();
            LogDirDescription { path: dir.path.clone(), space, replicas, futures }
        });
        let mut all: Vec<LogDirDescription> = opened.collect();
        let failed = self.dirs.failures().iter();
        all.extend(failed.map(|failure| LogDirDescription {
            path: failure.dir.clone(),
            space: None,
            replicas: Vec::new(),
            futures: Vec::new(),
        }));
        all
    }
}
