//! One entry of the metadata log as bytes: an encoded `Batch`, which opens with its format version.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::time::Timestamp;
use odradek_proto::metadata::{Batch, Record};
use prost::Message;

/// The only version so far. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

/// The bytes are no batch that this version can read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    #[error("the batch is damaged: {0}")]
    Damaged(String),
    #[error("metadata batch format {found} is unknown; this version reads {FORMAT_VERSION}: upgrade this node first")]
    UnknownFormat { found: u32 },
    #[error("the batch holds a record (number {index}) of a kind that this version does not know: upgrade this node")]
    UnknownRecord { index: usize },
}

/// The batch of one decision, ready to be proposed.
pub fn new(records: Vec<Record>, timestamp: Timestamp) -> Batch {
    Batch { format_version: FORMAT_VERSION, records, timestamp_ms: timestamp.0, offset: 0 }
}

pub fn encode(batch: &Batch) -> Vec<u8> {
    batch.encode_to_vec()
}

/// Reads and checks that every record is of a known kind.
///
/// # Errors
/// [`BatchError`], with the version by its number when that is the cause.
pub fn decode(bytes: &[u8]) -> Result<Batch, BatchError> {
    let batch = Batch::decode(bytes).map_err(|error| BatchError::Damaged(error.to_string()))?;
    if batch.format_version != FORMAT_VERSION {
        return Err(BatchError::UnknownFormat { found: batch.format_version });
    }
    match batch.records.iter().position(|record| record.kind.is_none()) {
        Some(index) => Err(BatchError::UnknownRecord { index }),
        None => Ok(batch),
    }
}
