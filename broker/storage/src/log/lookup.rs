//! Reading: ranges of a segment's file, and offsets by time.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use odradek_common::fs::File;
use odradek_common::{LeaderEpoch, Offset, time::Timestamp};
use odradek_records::{Batch, BatchHeader, DECOMPRESSED_BYTES_MAX};

use crate::error::{LogError, ReadError};
use crate::log::Log;
use crate::patience::{ColdRange, Patience};
use crate::segment::{Located, Segment};
use crate::txn_index::AbortedTxn;

/// A range of a segment's file that holds the records asked for. It begins with a whole batch, the one that holds
/// `from`, and may end inside one.
#[derive(Clone, Debug)]
pub struct ReadSlice {
    /// `None` when there is nothing to read.
    pub file: Option<Arc<dyn File>>,
    pub position: u64,
    pub len: usize,
    /// What was asked for.
    pub from: Offset,
    /// Of the first batch; at or below `from`.
    pub base_offset: Offset,
    /// Of the segment.
    pub segment_base: Offset,
    /// The first batch is larger than the limit, and `min_one` was not set.
    pub first_batch_incomplete: bool,
}

impl ReadSlice {
    fn empty(from: Offset, segment_base: i64) -> Self {
        let segment_base = Offset(segment_base);
        Self { file: None, position: 0, len: 0, from, base_offset: from, segment_base, first_batch_incomplete: false }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What came of a read that may not wait.
#[derive(Clone, Debug)]
pub enum Found {
    Slice(ReadSlice),
    Cold(ColdRange),
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: Timestamp,
    pub offset: Offset,
    /// Of the batch that the record is in.
    pub leader_epoch: LeaderEpoch,
}

/// The answer to a look-up by time; `None`: no such record.
pub type TimestampLookup = Option<TimestampOffset>;

impl Log {
    /// The batches from the one that holds `from` on, below `upper` (high watermark, last stable offset, or log end),
    /// in one segment, at most `bytes_max` bytes. With `min_one` at least the first batch, however large.
    pub fn read(&self, from: Offset, bytes_max: usize, upper: Offset, min_one: bool) -> Result<ReadSlice, ReadError> {
        self.read_with(Patience::Waits, from, bytes_max, upper, min_one)
    }

    /// As [`Log::read`], without waiting for the disk: what the look-up needs and does not find in memory comes back, to be
    /// warmed before the next attempt.
    pub fn read_now(&self, from: Offset, bytes_max: usize, upper: Offset, min_one: bool) -> Result<Found, ReadError> {
        let missed = Mutex::new(None);
        match self.read_with(Patience::Refuses(&missed), from, bytes_max, upper, min_one) {
            Ok(slice) => Ok(Found::Slice(slice)),
            Err(error) => match missed.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(range) => Ok(Found::Cold(range)),
                None => Err(error),
            },
        }
    }

    fn read_with(
        &self,
        patience: Patience<'_>,
        from: Offset,
        bytes_max: usize,
        upper: Offset,
        min_one: bool,
    ) -> Result<ReadSlice, ReadError> {
        self.check_online()?;
        if from < self.log_start || from > self.log_end {
            let (log_start, bound) = (self.log_start, self.log_end);
            return Err(LogError::OffsetOutOfRange { requested: from, log_start, bound });
        }
        let upper = upper.min(self.log_end);
        let first = self.segment_index(from);
        if from >= upper {
            return Ok(ReadSlice::empty(from, self.segments.get(first).map_or(from.0, |segment| segment.base)));
        }
        for (index, segment) in self.segments.iter().enumerate().skip(first) {
            // Compaction may leave a segment without the batch asked for; it is in a later one then.
            let Some(located) = self.locate(patience, index, from)? else { continue };
            if located.base_offset >= upper.0 {
                return Ok(ReadSlice::empty(from, segment.base));
            }
            let end = self.end_position(patience, index, upper, located)?;
            let available = usize::try_from(end - located.position).unwrap_or(usize::MAX);
            let first_batch_incomplete = located.size > bytes_max && !min_one;
            let limit = if min_one { bytes_max.max(located.size) } else { bytes_max };
            let len = if first_batch_incomplete { 0 } else { available.min(limit) };
            return Ok(ReadSlice {
                file: Some(segment.file(&self.place)?),
                position: located.position,
                len,
                from,
                base_offset: Offset(located.base_offset),
                segment_base: Offset(segment.base),
                first_batch_incomplete,
            });
        }
        Ok(ReadSlice::empty(from, self.active().base))
    }

    /// The batch that holds `offset`, or the next one of this segment.
    fn locate(&self, patience: Patience<'_>, index: usize, offset: Offset) -> Result<Option<Located>, LogError> {
        let Some(segment) = self.segments.get(index) else { return Ok(None) };
        if index + 1 == self.segments.len() && self.recent.front().is_some_and(|oldest| oldest.base_offset <= offset.0)
        {
            let at = self.recent.partition_point(|batch| batch.last_offset < offset.0);
            return Ok(self.recent.get(at).copied());
        }
        segment.locate(&self.place, patience, offset.0)
    }

    /// Where in the segment the records below `upper` end.
    fn end_position(
        &self,
        patience: Patience<'_>,
        index: usize,
        upper: Offset,
        first: Located,
    ) -> Result<u64, LogError> {
        let Some(segment) = self.segments.get(index) else { return Ok(first.position) };
        let ends_here = match self.segments.get(index + 1) {
            Some(next) => next.base > upper.0,
            None => upper < self.log_end,
        };
        if !ends_here {
            return Ok(segment.size);
        }
        Ok(self.locate(patience, index, upper)?.map_or(segment.size, |located| located.position.max(first.position)))
    }

    /// Bytes of the slice's segment, and of all that come after it; of those no more are counted than `enough`.
    pub fn beyond(&self, slice: &ReadSlice, enough: u64) -> (u64, u64) {
        let index = self.segment_index(slice.segment_base);
        let segment_bytes = self.segments.get(index).map_or(0, |segment| segment.size);
        let mut later = 0;
        for segment in self.segments.iter().skip(index + 1) {
            if later >= enough {
                break;
            }
            later += segment.size;
        }
        (segment_bytes, later.min(enough))
    }

    /// Reads a range into memory.
    pub fn load(&self, slice: &ReadSlice) -> Result<Bytes, ReadError> {
        let Some(file) = &slice.file else { return Ok(Bytes::new()) };
        let mut bytes = vec![0; slice.len];
        let result = file.read_exact_at(&mut bytes, slice.position);
        self.place.guard("reading", || self.place.file(slice.segment_base.0, crate::segment::LOG_SUFFIX), result)?;
        Ok(bytes.into())
    }

    /// The aborted transactions that a read-committed reader of this range has to skip.
    pub fn aborted_transactions(&self, slice: &ReadSlice) -> Result<Vec<AbortedTxn>, ReadError> {
        if slice.is_empty() {
            return Ok(Vec::new());
        }
        let index = self.segment_index(slice.segment_base);
        let upper = self.upper_bound(index, slice)?;
        let mut aborted = Vec::new();
        for segment in self.segments.iter().skip(index) {
            for txn in segment.guard_txn_index(&self.place, segment.txn_index.entries(&self.place))? {
                if txn.last_offset >= slice.from && txn.first_offset < upper {
                    aborted.push(txn);
                }
                // Whatever ends behind this marker began behind the range.
                if txn.last_stable_offset >= upper {
                    return Ok(aborted);
                }
            }
        }
        Ok(aborted)
    }

    /// An offset that the range's records do not reach, as low as the index can tell.
    fn upper_bound(&self, index: usize, slice: &ReadSlice) -> Result<Offset, LogError> {
        let next = self.segments.get(index + 1).map_or(self.log_end, |next| Offset(next.base));
        let Some(segment) = self.segments.get(index) else { return Ok(next) };
        let end = slice.position + slice.len as u64;
        let entry = segment.offset_index.first_at_or_behind(&self.place, end);
        let path = || segment.offset_index.file.path(&self.place);
        Ok(self.place.guard("reading", path, entry)?.map_or(next, |entry| Offset(entry.offset).min(next)))
    }

    /// The first record at or behind the log's start whose timestamp is not before `timestamp` (ListOffsets).
    pub fn offset_for_timestamp(&self, timestamp: Timestamp) -> Result<TimestampLookup, ReadError> {
        self.check_online()?;
        for (index, segment) in self.segments.iter().enumerate() {
            let is_below_start = self.segments.get(index + 1).is_some_and(|next| next.base <= self.log_start.0);
            if is_below_start || segment.max_timestamp(&self.place)?.0 < timestamp.0 {
                continue;
            }
            let entry = segment.time_index.lookup(&self.place, timestamp.0);
            let entry = self.place.guard("reading", || segment.time_index.file.path(&self.place), entry)?;
            let start = entry.map_or(segment.base, |entry| entry.1).max(self.log_start.0);
            let found = segment.visit_from(&self.place, start, |position, header| {
                if header.max_timestamp < timestamp {
                    return Ok(None);
                }
                self.first_record(segment, position, header, |record_time, offset| {
                    record_time >= timestamp && offset >= self.log_start
                })
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp of the log (KIP-734).
    pub fn offset_of_max_timestamp(&self) -> Result<TimestampLookup, ReadError> {
        self.check_online()?;
        let mut latest: Option<(&Segment, (i64, i64))> = None;
        for segment in &self.segments {
            let max = segment.max_timestamp(&self.place)?;
            if max.0 >= 0 && latest.is_none_or(|(_, known)| max.0 > known.0) {
                latest = Some((segment, max));
            }
        }
        let Some((segment, (timestamp, offset))) = latest else { return Ok(None) };
        segment.visit_from(&self.place, offset, |position, header| {
            self.first_record(segment, position, header, |record_time, _| record_time.0 >= timestamp)
        })
    }

    /// The first record of a batch that is `wanted`. What cannot be decompressed counts as one record with the batch's
    /// largest timestamp.
    fn first_record(
        &self,
        segment: &Segment,
        position: u64,
        header: &BatchHeader,
        wanted: impl Fn(Timestamp, Offset) -> bool,
    ) -> Result<TimestampLookup, LogError> {
        let leader_epoch = header.leader_epoch;
        let batch = Batch { header: *header, bytes: segment.read_batch(&self.place, position, header)? };
        let damaged = |reason: String| segment.corruption(&self.place, position, header.base_offset.0, reason);
        for record in batch.records(DECOMPRESSED_BYTES_MAX).map_err(|error| damaged(error.to_string()))? {
            let record = record.map_err(|error| damaged(error.to_string()))?;
            if wanted(record.timestamp, record.offset) {
                return Ok(Some(TimestampOffset { timestamp: record.timestamp, offset: record.offset, leader_epoch }));
            }
        }
        Ok(None)
    }

    /// Reads every batch and checks its CRC; the first that is not sound is the error, with file, position and offset.
    /// For operators and tests: it reads the whole log.
    pub fn verify(&self) -> Result<(), LogError> {
        use crate::scan::{RECOVERY_BUFFER_BYTES, Scan, ScanError};
        self.check_online()?;
        for segment in &self.segments {
            let file = segment.file(&self.place)?;
            let mut scan = Scan::new(&*file, 0, segment.size, RECOVERY_BUFFER_BYTES);
            let mut expected = segment.base;
            loop {
                let checked = match scan.next() {
                    Ok(None) => break,
                    Ok(Some((position, header))) => scan.check_crc(position, &header).map(|()| (position, header)),
                    Err(error) => Err(error),
                };
                match checked {
                    Ok((position, header)) if header.base_offset.0 < expected => {
                        let reason = format!("the batch begins at offset {}", header.base_offset);
                        return Err(segment.corruption(&self.place, position, expected, reason));
                    }
                    Ok((_, header)) => expected = header.next_offset().0,
                    Err(ScanError::Batch(position, error)) => {
                        return Err(segment.corruption(&self.place, position, expected, error.to_string()));
                    }
                    Err(ScanError::Io(error)) => {
                        return Err(self.place.log_dir.fail("reading", segment.path(&self.place), &error).into());
                    }
                }
            }
        }
        Ok(())
    }
}
