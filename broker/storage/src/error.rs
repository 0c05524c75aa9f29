//! What can go wrong with a log, one type per failure, with the facts a person needs.

use std::io;
use std::path::PathBuf;

use odradek_common::{ErrorCode, LeaderEpoch, Offset};
use odradek_records::{BatchError, RecordError};

use crate::producer_state::ProducerError;

/// The disk failed an operation. Unless there was no room for it ([`StorageError::is_full`]), the log directory is
/// offline from here on: what was written is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log directory {} is {}: {operation} {} failed: {message}", dir.display(), self.state(), path.display())]
pub struct StorageError {
    /// One of `log.dirs`.
    pub dir: PathBuf,
    pub path: PathBuf,
    pub operation: &'static str,
    pub kind: io::ErrorKind,
    pub message: String,
}

/// A sync that fails tells of bytes that were taken already, and are lost.
pub(crate) const SYNCING: &str = "syncing";

impl StorageError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::KafkaStorageError
    }

    /// There was no room, and nothing else is wrong: what was there is there still, and the operation can be repeated
    /// when something has been deleted.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) && self.operation != SYNCING
    }

    fn state(&self) -> &'static str {
        if self.is_full() { "full" } else { "offline" }
    }
}

/// Bytes on disk are not what was written there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} is damaged at byte {position} (offset {offset}): {reason}", file.display())]
pub struct Corruption {
    pub file: PathBuf,
    /// Of the first damaged batch in the file, in bytes.
    pub position: u64,
    /// The offset that the damaged batch should have begun at.
    pub offset: Offset,
    pub reason: String,
}

/// A log operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    #[error("offset {requested} is out of range: the log goes from {log_start} to {bound}")]
    OffsetOutOfRange { requested: Offset, log_start: Offset, bound: Offset },
    /// The directory belongs to another topic of the same name.
    #[error("{} belongs to topic id {found}, not {expected}", dir.display())]
    TopicId { dir: PathBuf, found: odradek_common::TopicId, expected: odradek_common::TopicId },
}

impl LogError {
    /// There was no room; see [`StorageError::is_full`].
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_full())
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Storage(error) => error.code(),
            // Kafka has no better code for a log that cannot be read: clients retry and may reach another replica.
            Self::Corrupt(_) => ErrorCode::KafkaStorageError,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::TopicId { .. } => ErrorCode::InconsistentTopicId,
        }
    }
}

/// A read failed; the same as any other operation on a log.
pub type ReadError = LogError;

/// One record that was refused, by its place in the batch (`RecordError` of a produce response, KIP-467).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFault {
    pub batch_index: i32,
    pub message: String,
}

/// Records were not appended. Nothing of them is stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// CRC, length or format byte: the bytes were damaged on their way.
    #[error("{0}")]
    Corrupt(BatchError),
    #[error("{0}")]
    InvalidRecord(String),
    /// The records are not exactly one batch of the format that is stored.
    #[error("{0}")]
    NotOneBatch(String),
    /// Single records break a rule of the topic.
    #[error("{message}")]
    RecordFaults { message: String, faults: Vec<RecordFault> },
    #[error("One or more records have been rejected due to invalid timestamp")]
    InvalidTimestamp { faults: Vec<RecordFault> },
    #[error("the record batch has {size} bytes, more than the {max} that max.message.bytes allows")]
    MessageTooLarge { size: usize, max: usize },
    #[error("the record batch has {size} bytes, more than the {max} that segment.bytes allows")]
    RecordListTooLarge { size: usize, max: usize },
    #[error("{0}")]
    UnsupportedForMessageFormat(String),
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// A follower was handed offsets that do not continue its log.
    #[error("the records begin at offset {first} and end at {last}, but the log ends at {log_end}")]
    UnexpectedOffset { first: Offset, last: Offset, log_start: Offset, log_end: Offset },
    /// The log's last record is of a later leader: these come from one that has been replaced, or the log has to be
    /// truncated first.
    #[error("records of leader epoch {epoch} cannot follow those of epoch {last}")]
    StaleLeaderEpoch { epoch: LeaderEpoch, last: LeaderEpoch },
    /// The leader's log was replaced, by that of the next leader, while it answered.
    #[error("records of leader epoch {epoch} came from the leader of epoch {following}")]
    FutureLeaderEpoch { epoch: LeaderEpoch, following: LeaderEpoch },
    /// What another leadership has taken is not known to this one.
    #[error("the marker was sent to the leader of epoch {asked}; this is the one of epoch {leader_epoch}")]
    MarkerForAnotherLeader { asked: LeaderEpoch, leader_epoch: LeaderEpoch },
    #[error(transparent)]
    Log(#[from] LogError),
}

impl AppendError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Corrupt(_) => ErrorCode::CorruptMessage,
            Self::InvalidRecord(_) | Self::NotOneBatch(_) | Self::RecordFaults { .. } => ErrorCode::InvalidRecord,
            Self::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
            Self::UnsupportedForMessageFormat(_) => ErrorCode::UnsupportedForMessageFormat,
            Self::Producer(error) => error.code(),
            Self::UnexpectedOffset { .. } => ErrorCode::UnknownServerError,
            Self::StaleLeaderEpoch { .. } | Self::FutureLeaderEpoch { .. } => ErrorCode::NotLeaderOrFollower,
            Self::MarkerForAnotherLeader { asked, leader_epoch } if asked < leader_epoch => {
                ErrorCode::FencedLeaderEpoch
            }
            Self::MarkerForAnotherLeader { .. } => ErrorCode::UnknownLeaderEpoch,
            Self::Log(error) => error.code(),
        }
    }

    /// Whether the log looked at the records themselves: Kafka's answer tells the log's start with such an error alone.
    pub fn is_of_single_records(&self) -> bool {
        !matches!(
            self,
            Self::Corrupt(_)
                | Self::NotOneBatch(_)
                | Self::MessageTooLarge { .. }
                | Self::RecordListTooLarge { .. }
                | Self::Log(_)
        )
    }

    /// The records at fault, for the response's `record_errors`.
    pub fn faults(&self) -> &[RecordFault] {
        match self {
            Self::RecordFaults { faults, .. } | Self::InvalidTimestamp { faults } => faults,
            _ => &[],
        }
    }
}

impl From<StorageError> for AppendError {
    fn from(error: StorageError) -> Self {
        Self::Log(error.into())
    }
}

impl From<BatchError> for AppendError {
    fn from(error: BatchError) -> Self {
        match error {
            // Kafka refuses these in the produce request already, whatever their CRC.
            BatchError::OldMagic(_) | BatchError::Incomplete { .. } | BatchError::OffsetRange { .. } => {
                Self::NotOneBatch(error.to_string())
            }
            BatchError::RecordCount(_) => Self::InvalidRecord(error.to_string()),
            BatchError::LengthTooSmall(_) | BatchError::UnknownMagic(_) | BatchError::Crc { .. } => {
                Self::Corrupt(error)
            }
        }
    }
}

impl From<RecordError> for AppendError {
    fn from(error: RecordError) -> Self {
        Self::InvalidRecord(error.to_string())
    }
}
