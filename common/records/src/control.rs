//! Control records: the commit and abort markers that end a transaction on a partition (KIP-98).
//!
//! The key is `version: i16, type: i16`, the value `version: i16, coordinator epoch: i32`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use odradek_common::{ProducerEpoch, ProducerId, time::Timestamp};

use crate::batches::Batch;
use crate::builder::RecordBatchBuilder;
use crate::header::field;
use crate::record::{Record, RecordError};

/// The kind of a control record that a partition's log may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    Abort,
    Commit,
    /// A kind of a later version, or of Kafka's Raft logs: readers step over it.
    Other(i16),
}

/// The end of a transaction on this partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// Commit or abort.
    pub is_commit: bool,
    /// Fences older transaction coordinators.
    pub coordinator_epoch: i32,
}

/// A control record that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("the control record has a {what} of {len} bytes, {need} are needed")]
    TooShort { what: &'static str, len: usize, need: usize },
    #[error("the control record has the negative version {0}")]
    Version(i16),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A marker's batch has one record of fixed size; whatever claims more is not decompressed.
const CONTROL_BATCH_BYTES_MAX: usize = 64 * 1024;

impl EndTxnMarker {
    /// The batch that ends the transaction of this producer. Offset and leader epoch are stamped when it is appended.
    pub fn batch(self, producer_id: ProducerId, producer_epoch: ProducerEpoch, timestamp: Timestamp) -> Bytes {
        let kind: i16 = if self.is_commit { 1 } else { 0 };
        let mut key = [0; 4];
        key.copy_from_slice(&[[0; 2], kind.to_be_bytes()].concat());
        let mut value = [0; 6];
        value.copy_from_slice(&[&[0; 2][..], &self.coordinator_epoch.to_be_bytes()[..]].concat());
        let mut builder =
            RecordBatchBuilder::new().producer(producer_id, producer_epoch, -1).transactional(true).control(true);
        builder.append(timestamp, Some(&key), Some(&value));
        builder.build().unwrap_or_default()
    }

    /// The marker in a control batch; `None` for an empty batch (cleaned) or another kind of control record.
    pub fn of_batch(batch: &Batch) -> Result<Option<(Self, Timestamp)>, ControlError> {
        let Some(record) = batch.records(CONTROL_BATCH_BYTES_MAX)?.next().transpose()? else {
            return Ok(None);
        };
        let is_commit = match control_type(&record)? {
            ControlType::Commit => true,
            ControlType::Abort => false,
            ControlType::Other(_) => return Ok(None),
        };
        let value = record.value.as_deref().unwrap_or_default();
        let too_short = ControlError::TooShort { what: "value", len: value.len(), need: 6 };
        let version = field(value, 0).map(i16::from_be_bytes).ok_or_else(|| too_short.clone())?;
        if version < 0 {
            return Err(ControlError::Version(version));
        }
        let coordinator_epoch = field(value, 2).map(i32::from_be_bytes).ok_or(too_short)?;
        Ok(Some((Self { is_commit, coordinator_epoch }, record.timestamp)))
    }
}

/// The kind of a control record.
pub fn control_type(record: &Record) -> Result<ControlType, ControlError> {
    let key = record.key.as_deref().unwrap_or_default();
    let too_short = ControlError::TooShort { what: "key", len: key.len(), need: 4 };
    let version = field(key, 0).map(i16::from_be_bytes).ok_or_else(|| too_short.clone())?;
    if version < 0 {
        return Err(ControlError::Version(version));
    }
    Ok(match field(key, 2).map(i16::from_be_bytes).ok_or(too_short)? {
        0 => ControlType::Abort,
        1 => ControlType::Commit,
        other => ControlType::Other(other),
    })
}
