//! The fields of a batch that a broker assigns, written in place.
//!
//! The base offset and the leader epoch lie outside the CRC, so that a leader can stamp them without touching the rest;
//! timestamps and attributes lie under it, so changing them costs a new CRC.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::{LeaderEpoch, Offset, time::Timestamp};

use crate::header::{Attributes, BatchError, BatchHeader, CRC_START, HEADER_BYTES};

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

/// Stamps the base offset. `batch` begins with the batch's header.
pub fn set_base_offset(batch: &mut [u8], offset: Offset) {
    put(batch, 0, &offset.0.to_be_bytes());
}

/// Stamps the partition leader epoch. `batch` begins with the batch's header.
pub fn set_leader_epoch(batch: &mut [u8], epoch: LeaderEpoch) {
    put(batch, 12, &epoch.0.to_be_bytes());
}

/// A header stamped with offset and epoch, and with another timestamp type and max timestamp when those differ; `rest`
/// are the batch's bytes behind the header, which the new CRC covers and which stay as they are.
pub fn restamped(
    header: &BatchHeader,
    rest: &[u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    attributes: Attributes,
    max_timestamp: Timestamp,
) -> (BatchHeader, [u8; HEADER_BYTES]) {
    let mut stamped = BatchHeader { base_offset, leader_epoch, attributes, max_timestamp, ..*header };
    if attributes != header.attributes || max_timestamp != header.max_timestamp {
        let head = stamped.encode();
        stamped.crc = crc32c::crc32c_append(crc32c::crc32c(head.get(CRC_START..).unwrap_or_default()), rest);
    }
    let bytes = stamped.encode();
    (stamped, bytes)
}

/// Sets the timestamp type and max timestamp of a whole batch in place and renews its CRC.
pub fn set_max_timestamp(batch: &mut [u8], log_append_time: bool, max: Timestamp) -> Result<BatchHeader, BatchError> {
    let mut header = BatchHeader::parse(batch)?;
    if batch.len() < header.size {
        return Err(BatchError::Incomplete { have: batch.len(), need: header.size });
    }
    let cleared = header.attributes.0 & !Attributes::LOG_APPEND_TIME;
    header.attributes = Attributes(if log_append_time { cleared | Attributes::LOG_APPEND_TIME } else { cleared });
    header.max_timestamp = max;
    put(batch, 0, &header.encode());
    header.crc = crc32c::crc32c(batch.get(CRC_START..header.size).unwrap_or_default());
    put(batch, 17, &header.crc.to_be_bytes());
    Ok(header)
}
