//! How long a reader's oldest unread record has been there: the timestamp of the first record at or above an offset and
//! below the high watermark, by which the lag of groups is told in seconds.
//!
//! Mostly the head of one batch says it, which is read without the partition's lock. A batch is taken apart only where its
//! records were written further apart than matters, or where compaction may have taken the first of them.

use odradek_broker_storage::{Found, ReadSlice};
use odradek_records::{Batch, BatchError, BatchHeader, DECOMPRESSED_BYTES_MAX, HEADER_BYTES, RecordError};
use odradek_wire::own;

use super::*;

/// Transaction markers that are passed over in a row: no reader is given them.
const MARKERS_MAX: usize = 64;
/// A batch whose records were written within this is taken for written at once.
const SPREAD_MS_MAX: i64 = 1_000;
/// What is not in memory is read without the lock so often; then with it, as something else uses up the memory.
const WARMED_MAX: usize = 4;

/// The first record that a reader has not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OldestUnread {
    AllRead,
    /// Negative: it has none.
    At(Timestamp),
}

impl OldestUnread {
    /// As nodes tell it each other.
    pub fn number(self) -> i64 {
        match self {
            Self::AllRead => own::ALL_READ,
            Self::At(Timestamp(at)) if at >= 0 => at,
            Self::At(_) => own::NO_TIMESTAMP,
        }
    }
}

impl Partition {
    /// Looks for it from `offset` on; below the log's start, from there. It reads from disks.
    pub fn oldest_unread(
        &self,
        current_leader_epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<OldestUnread, PartitionError> {
        let mut from = offset;
        for _ in 0..MARKERS_MAX {
            let Some(slice) = self.first_batch(current_leader_epoch, from)? else { return Ok(OldestUnread::AllRead) };
            from = from.max(slice.from);
            let found = timestamp_in(&slice, from);
            let failed = |error: Unreadable| {
                let message = format!("the batch at offset {} cannot be read: {error}", slice.base_offset);
                PartitionError::new(ErrorCode::KafkaStorageError, message)
            };
            match found.map_err(failed)? {
                InBatch::At(timestamp) => return Ok(OldestUnread::At(timestamp)),
                InBatch::Behind(next) => from = next,
            }
        }
        // Nothing but markers for a long stretch: as good as read.
        Ok(OldestUnread::AllRead)
    }

    /// Where the batch lies that has the first record at or above `from`. `None`: there is none below the high watermark.
    fn first_batch(&self, epoch: LeaderEpoch, from: Offset) -> Result<Option<ReadSlice>, PartitionError> {
        let failed = |error: LogError| PartitionError::new(error.code(), error.to_string());
        let mut warmed = 0;
        loop {
            let cold = {
                let inner = self.lock();
                let (leader, log) = inner.leader(epoch)?;
                let bound = inner.bound(leader, log, Reader::Client(Isolation::ReadUncommitted));
                let from = from.max(log.log_start());
                if from >= bound {
                    return Ok(None);
                }
                let found = match warmed < WARMED_MAX {
                    true => log.read_now(from, 1, bound, true),
                    false => log.read(from, 1, bound, true).map(Found::Slice),
                };
                match found.map_err(failed)? {
                    Found::Slice(slice) => return Ok((!slice.is_empty()).then_some(slice)),
                    Found::Cold(range) => range,
                }
            };
            cold.warm();
            warmed += 1;
        }
    }
}

enum InBatch {
    At(Timestamp),
    /// No record that counts; look from here.
    Behind(Offset),
}

/// Why a batch could not be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn timestamp_in(slice: &ReadSlice, from: Offset) -> Result<InBatch, Unreadable> {
    let Some(file) = &slice.file else { return Ok(InBatch::Behind(from.plus(1))) };
    let mut head = [0; HEADER_BYTES];
    file.read_exact_at(&mut head, slice.position)?;
    let header = BatchHeader::parse(&head)?;
    if header.attributes.is_control() {
        return Ok(InBatch::Behind(header.next_offset()));
    }
    if header.attributes.is_log_append_time() {
        return Ok(InBatch::At(header.max_timestamp));
    }
    let is_whole = header.record_count == header.last_offset_delta.saturating_add(1);
    let has_base = is_whole && !header.attributes.has_delete_horizon();
    let spread_ms = header.max_timestamp.0.saturating_sub(header.base_timestamp.0);
    if has_base && (from <= header.base_offset || (0..SPREAD_MS_MAX).contains(&spread_ms)) {
        return Ok(InBatch::At(header.base_timestamp));
    }
    if header.size > slice.len {
        // It was cut off meanwhile, and something else lies there.
        return Err(BatchError::Incomplete { have: slice.len, need: header.size }.into());
    }
    let mut bytes = vec![0; header.size];
    file.read_exact_at(&mut bytes, slice.position)?;
    let batch = Batch { header, bytes: bytes.into() };
    for record in batch.records(DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        if record.offset >= from {
            return Ok(InBatch::At(record.timestamp));
        }
    }
    Ok(InBatch::Behind(header.next_offset()))
}
