//! What goes into and comes out of the [`ReplicaManager`](super::ReplicaManager).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::partition::{EpochEnd, Reader};
use odradek_broker_storage::{AbortedTxn, ColdRange};
use odradek_common::fs::File;
use odradek_common::time::Timestamp;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, TopicIdPartition, VerificationGuard};
use odradek_node::world::BoxFuture;

use super::cold_readers::ColdStream;

/// An answer that is here, or comes later. Either way the request has been *done* when this is handed out (records are
/// appended, a fetch is registered): the connection's next request may start.
pub enum Outcome<T> {
    Done(T),
    Waiting(BoxFuture<T>),
}

impl<T> Outcome<T> {
    /// Waits for it.
    pub async fn wait(self) -> T {
        match self {
            Self::Done(value) => value,
            Self::Waiting(future) => future.await,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

impl<T: Send + 'static> Outcome<T> {
    pub fn map<U: Send + 'static>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(change(value)),
            Self::Waiting(future) => Outcome::Waiting(Box::pin(async move { change(future.await) })),
        }
    }
}

/// Who leads, as far as this broker knows, for a client that asked the wrong one (KIP-951).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CurrentLeader {
    pub leader: BrokerId,
    pub epoch: LeaderEpoch,
}

/// One partition of a produce request: one batch.
#[derive(Clone, Debug)]
pub struct AppendEntry {
    pub partition: TopicIdPartition,
    pub records: Bytes,
    /// What the transaction that begins here was verified under.
    pub guard: Option<VerificationGuard>,
}

impl AppendEntry {
    pub fn new(partition: TopicIdPartition, records: Bytes) -> Self {
        Self { partition, records, guard: None }
    }
}

/// What became of an [`AppendEntry`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendResult {
    pub error: ErrorCode,
    pub message: Option<String>,
    /// Of the first record; for a duplicate what it got the first time; -1 with an error.
    pub base_offset: Offset,
    /// Behind the last record: what the high watermark has to reach. -1 with an error.
    pub next_offset: Offset,
    /// The leader's time if the topic has log append time, else -1.
    pub log_append_time: Timestamp,
    pub log_start: Offset,
    /// Place in the batch and what is wrong with that record (KIP-467).
    pub record_errors: Vec<(i32, String)>,
    /// With NOT_LEADER_OR_FOLLOWER.
    pub current_leader: Option<CurrentLeader>,
}

impl AppendResult {
    pub fn failed(error: ErrorCode) -> Self {
        Self {
            error,
            message: None,
            base_offset: Offset::NONE,
            next_offset: Offset::NONE,
            log_append_time: Timestamp::NONE,
            log_start: Offset::NONE,
            record_errors: Vec::new(),
            current_leader: None,
        }
    }
}

/// What became of a deletion of records in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeletedRecords {
    pub error: ErrorCode,
    /// The least log start of the living replicas; -1 when unknown.
    pub low_watermark: Offset,
}

impl DeletedRecords {
    pub fn failed(error: ErrorCode) -> Self {
        Self { error, low_watermark: Offset::NONE }
    }
}

/// A fetch over all of its partitions.
#[derive(Clone, Debug)]
pub struct FetchParams {
    /// The follower that asks, with its broker epoch; `None`: a client.
    pub replica: Option<(BrokerId, BrokerEpoch)>,
    /// How far it may read.
    pub reader: Reader,
    pub wait_max: Duration,
    pub bytes_min: u64,
    pub bytes_max: usize,
    /// Versions up to 2 hold `bytes_max` even if the first batch is larger.
    pub is_bytes_max_hard: bool,
    /// The far end of the connection that asks, by which a reader is known again; `None`: the broker itself.
    pub peer: Option<SocketAddr>,
    /// Whether look-ups may wait for the disk: only on a thread of the disk pool.
    pub waits_for_disk: bool,
}

/// One partition of a fetch.
#[derive(Clone, Debug)]
pub struct FetchEntry {
    pub partition: TopicIdPartition,
    pub fetch_offset: Offset,
    /// A follower's log start; -1 from a client.
    pub log_start: Offset,
    /// -1: not checked.
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch of the last record that the reader has; -1: unknown, or none.
    pub last_fetched_epoch: LeaderEpoch,
    pub bytes_max: usize,
}

/// Records in a log's file.
#[derive(Clone, Debug)]
pub struct FileRange {
    pub file: Arc<dyn File>,
    pub position: u64,
    pub len: usize,
    /// Of a reader that is far behind the log's end.
    pub stream: Option<Arc<ColdStream>>,
}

/// What a fetch found in one partition.
#[derive(Clone, Debug)]
pub struct FetchResult {
    pub error: ErrorCode,
    /// -1 with an error.
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start: Offset,
    /// The reader's history parts from the leader's here (KIP-595).
    pub diverging_epoch: Option<EpochEnd>,
    /// With NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH (KIP-951).
    pub current_leader: Option<CurrentLeader>,
    /// For a read-committed reader: what to skip, as far as the records reach.
    pub aborted: Option<Vec<AbortedTxn>>,
    pub records: Option<FileRange>,
    /// What the look-up needs and did not find in memory: nothing is known of the records before it is warmed.
    pub(super) cold: Option<ColdRange>,
    /// How far this reader might have read: when it moves, there is more.
    pub(super) bound: Offset,
    /// The session that reads will be told of whatever comes next.
    pub(super) is_armed: bool,
}

impl FetchResult {
    pub fn failed(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: Offset::NONE,
            last_stable_offset: Offset::NONE,
            log_start: Offset::NONE,
            diverging_epoch: None,
            current_leader: None,
            aborted: None,
            records: None,
            cold: None,
            bound: Offset::NONE,
            is_armed: false,
        }
    }

    /// Bytes of records.
    pub fn len(&self) -> usize {
        self.records.as_ref().map_or(0, |range| range.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// ListOffsets' special timestamps.
pub mod timestamp {
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    pub const MAX: i64 = -3;
    pub const EARLIEST_LOCAL: i64 = -4;
    pub const LATEST_TIERED: i64 = -5;
}

/// An offset that was looked up; all -1 when there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedOffset {
    pub timestamp: Timestamp,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

impl ListedOffset {
    pub const NONE: Self = Self { timestamp: Timestamp::NONE, offset: Offset::NONE, leader_epoch: LeaderEpoch::NONE };
}

/// A request about one partition failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PartitionError {
    pub code: ErrorCode,
    pub message: String,
    pub current_leader: Option<CurrentLeader>,
}

impl PartitionError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), current_leader: None }
    }
}

impl From<ErrorCode> for PartitionError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.name())
    }
}

/// What this broker's replica of a partition is at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaDescription {
    pub partition: TopicIdPartition,
    pub topic: String,
    pub index: i32,
    pub is_leader: bool,
    pub leader_epoch: LeaderEpoch,
    pub log_start: Offset,
    pub log_end: Offset,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub size_bytes: u64,
    /// The one of `log.dirs` that it is in.
    pub log_dir: std::path::PathBuf,
    /// The committed ISR as the leader has it; empty on a follower.
    pub isr: Vec<BrokerId>,
}
