//! What a coordinator needs of the partition under it: to append, to see what is committed, and to read all of it.

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::AppendKind;
use odradek_broker_core::partition::Reader;
use odradek_broker_storage::Unverified;
use odradek_common::{ErrorCode, LeaderEpoch, Offset, TopicIdPartition, VerificationGuard};
use tokio::sync::watch;

use super::ReplicaManager;
use super::types::{FetchEntry, FetchParams, FetchResult, Outcome, PartitionError};

impl ReplicaManager {
    /// Appends one batch as the leader of `epoch` and answers its first offset. With an error nothing was appended.
    pub fn append_as_coordinator(
        self: &Arc<Self>,
        id: TopicIdPartition,
        epoch: LeaderEpoch,
        records: &[u8],
        kind: AppendKind,
    ) -> Result<Offset, PartitionError> {
        let partition = self.required(id)?;
        let image = self.image();
        let (result, after) = partition.append_as_coordinator(epoch, records, kind, self.context(&image));
        self.finish(&partition, after);
        result
    }

    /// Begins the verification of a transaction's first batch in a partition that is led here (KIP-890); the batch is then
    /// appended under the guard. `None`: the transaction is open there.
    pub fn begin_verification(
        &self,
        id: TopicIdPartition,
        batch: Unverified,
    ) -> Result<Option<VerificationGuard>, PartitionError> {
        let image = self.image();
        self.required(id)?.begin_verification(batch, self.context(&image))
    }

    /// The high watermark of a partition that this broker leads in `epoch`. It ends with the leadership.
    pub fn watch_commits(
        &self,
        id: TopicIdPartition,
        epoch: LeaderEpoch,
    ) -> Result<watch::Receiver<Offset>, PartitionError> {
        self.required(id)?.watch_commits(epoch)
    }

    /// Reads as the leader of `epoch`, up to the log's end. It may wait for the disk.
    pub fn read_as_coordinator(
        self: &Arc<Self>,
        id: TopicIdPartition,
        epoch: LeaderEpoch,
        fetch_offset: Offset,
        bytes_max: usize,
    ) -> Result<FetchResult, ErrorCode> {
        let params = FetchParams {
            replica: None,
            reader: Reader::Follower,
            wait_max: Duration::ZERO,
            bytes_min: 0,
            bytes_max,
            is_bytes_max_hard: false,
            peer: None,
            waits_for_disk: true,
        };
        let entry = FetchEntry {
            partition: id,
            fetch_offset,
            log_start: Offset::NONE,
            current_leader_epoch: epoch,
            last_fetched_epoch: LeaderEpoch::NONE,
            bytes_max,
        };
        let Outcome::Done(results) = self.fetch(params, vec![entry]) else { return Err(ErrorCode::RequestTimedOut) };
        let result = results.into_iter().next().ok_or(ErrorCode::UnknownServerError)?;
        if result.error.is_error() { Err(result.error) } else { Ok(result) }
    }
}
