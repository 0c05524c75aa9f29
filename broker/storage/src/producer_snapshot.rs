//! Producer snapshots (`{offset:020}.snapshot`): the producer state before `offset`, in Kafka's format, version 1:
//!
//! ```text
//! version i16 | CRC-32C u32 (of all that follows) | count i32 | entries of 46 bytes:
//! producer id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32 | timestamp i64 |
//! coordinator epoch i32 | current txn first offset i64 (-1: none)
//! ```
//!
//! Kafka writes one entry for each producer, with its last batch. Here a producer has an entry for each remembered
//! batch, oldest first: Kafka reads that too and keeps the last, while we still recognise five duplicates after a
//! restart.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use odradek_common::fs::{File, OpenMode, is_full, read_file};

use crate::dir::Place;
use crate::producer_state::{BatchMetadata, ProducerEntry};

pub(crate) const SUFFIX: &str = ".snapshot";
const VERSION: i16 = 1;
const HEAD_BYTES: usize = 6;
const ENTRY_BYTES: usize = 46;
/// Five million producers; larger is damaged.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;

pub(crate) fn encode(producers: &BTreeMap<i64, ProducerEntry>) -> Vec<u8> {
    let count: usize = producers.values().map(|entry| entry.batches.len().max(1)).sum();
    let mut body = Vec::with_capacity(4 + count * ENTRY_BYTES);
    body.extend_from_slice(&(count as i32).to_be_bytes());
    // What Kafka stores for a producer without a batch, as one known from a marker only.
    let none = BatchMetadata { last_sequence: -1, last_offset: -1, offset_delta: 0, timestamp: -1 };
    for (producer, entry) in producers {
        let last = entry.batches.len().saturating_sub(1);
        let batches = entry.batches.iter().chain(entry.batches.is_empty().then_some(&none));
        for (index, batch) in batches.enumerate() {
            let timestamp = if index == last { entry.last_timestamp } else { batch.timestamp };
            body.extend_from_slice(&producer.to_be_bytes());
            body.extend_from_slice(&entry.epoch.to_be_bytes());
            body.extend_from_slice(&batch.last_sequence.to_be_bytes());
            body.extend_from_slice(&batch.last_offset.to_be_bytes());
            body.extend_from_slice(&batch.offset_delta.to_be_bytes());
            body.extend_from_slice(&timestamp.to_be_bytes());
            body.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
            body.extend_from_slice(&entry.txn_first_offset.unwrap_or(-1).to_be_bytes());
        }
    }
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// `None` for bytes that are not a sound snapshot.
pub(crate) fn decode(bytes: &[u8]) -> Option<BTreeMap<i64, ProducerEntry>> {
    let (version, rest) = bytes.split_first_chunk()?;
    let (crc, body) = rest.split_first_chunk()?;
    if i16::from_be_bytes(*version) != VERSION || u32::from_be_bytes(*crc) != crc32c::crc32c(body) {
        return None;
    }
    let (count, entries) = body.split_first_chunk()?;
    if usize::try_from(i32::from_be_bytes(*count)).ok()?.checked_mul(ENTRY_BYTES)? != entries.len() {
        return None;
    }
    let mut producers: BTreeMap<i64, ProducerEntry> = BTreeMap::new();
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let (producer, rest) = entry.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (last_sequence, rest) = rest.split_first_chunk()?;
        let (last_offset, rest) = rest.split_first_chunk()?;
        let (offset_delta, rest) = rest.split_first_chunk()?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let (coordinator_epoch, rest) = rest.split_first_chunk()?;
        let (txn_first_offset, _) = rest.split_first_chunk()?;
        let (last_offset, timestamp) = (i64::from_be_bytes(*last_offset), i64::from_be_bytes(*timestamp));
        let target = producers.entry(i64::from_be_bytes(*producer)).or_default();
        target.epoch = i16::from_be_bytes(*epoch);
        target.coordinator_epoch = i32::from_be_bytes(*coordinator_epoch);
        target.last_timestamp = timestamp;
        target.txn_first_offset = Some(i64::from_be_bytes(*txn_first_offset)).filter(|first| *first >= 0);
        if last_offset >= 0 {
            let (last_sequence, offset_delta) = (i32::from_be_bytes(*last_sequence), i32::from_be_bytes(*offset_delta));
            target.push_batch(BatchMetadata { last_sequence, last_offset, offset_delta, timestamp });
        }
    }
    Some(producers)
}

/// Writes the snapshot of `offset`. Not durable before the file is synced.
pub(crate) fn write(place: &Place, offset: i64, producers: &BTreeMap<i64, ProducerEntry>) -> io::Result<Arc<dyn File>> {
    let file = place.fs.open(&place.file(offset, SUFFIX), OpenMode::Create)?;
    let bytes = encode(producers);
    if let Err(error) = file.write_all_at(&[IoSlice::new(&bytes)], 0) {
        if is_full(&error) {
            let _ = place.fs.remove_file(&place.file(offset, SUFFIX));
        }
        return Err(error);
    }
    file.set_len(bytes.len() as u64)?;
    Ok(file)
}

/// `None` when the file is damaged.
pub(crate) fn read(place: &Place, offset: i64) -> io::Result<Option<BTreeMap<i64, ProducerEntry>>> {
    match read_file(&*place.fs, &place.file(offset, SUFFIX), FILE_BYTES_MAX) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        result => result.map(|bytes| decode(&bytes)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_kafkas_and_keeps_five_batches() {
        let batch =
            |n: i64| BatchMetadata { last_sequence: n as i32, last_offset: 100 + n, offset_delta: 0, timestamp: n };
        let full = ProducerEntry {
            epoch: 3,
            coordinator_epoch: 8,
            last_timestamp: 4,
            txn_first_offset: Some(101),
            batches: (0..5).map(batch).collect(),
            marker_taken: None,
        };
        let marker_only = ProducerEntry { epoch: 1, coordinator_epoch: 2, last_timestamp: 77, ..Default::default() };
        let producers = BTreeMap::from([(1000, full), (2000, marker_only)]);
        let bytes = encode(&producers);
        assert_eq!(&bytes[..2], [0, 1]);
        assert_eq!(bytes[6..10], 6i32.to_be_bytes());
        assert_eq!(bytes.len(), 10 + 6 * ENTRY_BYTES);
        assert_eq!(decode(&bytes), Some(producers));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {position}");
            assert_eq!(decode(&bytes[..position]), None, "{position} bytes");
        }
    }
}
