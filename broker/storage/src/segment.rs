//! One segment: a `.log` file of batches and its three indexes.
//!
//! Only the last segment of a log is written to. A segment that is not used holds no descriptor and no index: what it
//! opens is one of [`OpenFiles`](crate::log_file::OpenFiles), which closes it again.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use odradek_common::fs::{File, OpenMode};
use odradek_common::{Offset, time::Timestamp};
use odradek_records::BatchHeader;

use crate::dir::Place;
use crate::error::{Corruption, LogError, StorageError};
use crate::log_file::FileSlot;
use crate::offset_index::OffsetIndex;
use crate::patience::{Kind, Patience};
use crate::scan::{LOOKUP_BUFFER_BYTES, RECOVERY_BUFFER_BYTES, Scan, ScanError};
use crate::time_index::TimeIndex;
use crate::txn_index::{self, AbortedTxn, TxnIndex};

pub(crate) const LOG_SUFFIX: &str = ".log";

/// A batch's place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub position: u64,
    pub size: usize,
    pub base_offset: i64,
    pub last_offset: i64,
}

impl Located {
    pub fn new(position: u64, header: &BatchHeader) -> Self {
        let (base_offset, last_offset) = (header.base_offset.0, header.last_offset().0);
        Self { position, size: header.size, base_offset, last_offset }
    }
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub base: i64,
    /// Bytes in the log file.
    pub size: u64,
    log: FileSlot,
    pub offset_index: OffsetIndex,
    pub time_index: TimeIndex,
    pub txn_index: TxnIndex,
    /// The largest timestamp and the last offset of its batch; `None`: not looked at yet. `-1`: no timestamps.
    max_timestamp: Mutex<Option<(i64, i64)>>,
    /// The max timestamp of the first batch, which time-based rolling counts from.
    first_timestamp: Option<i64>,
    /// When this process made or opened the segment.
    pub created: Timestamp,
    bytes_since_index_entry: u64,
    /// Written to since the last sync.
    dirty: bool,
    /// The file is longer than `size`.
    is_preallocated: bool,
    /// A look-up found the index to be wrong.
    pub index_is_damaged: AtomicBool,
}

impl Segment {
    fn with(base: i64, size: u64, created: Timestamp, offset_index: OffsetIndex, time_index: TimeIndex) -> Self {
        Self {
            base,
            size,
            log: FileSlot::default(),
            offset_index,
            time_index,
            txn_index: TxnIndex::new(base),
            max_timestamp: Mutex::default(),
            first_timestamp: None,
            created,
            bytes_since_index_entry: 0,
            dirty: false,
            is_preallocated: false,
            index_is_damaged: AtomicBool::new(false),
        }
    }

    /// Makes a segment. Whatever files of this name held is dropped.
    pub fn create(place: &Place, base: i64, preallocated: u64, now: Timestamp) -> Result<Self, StorageError> {
        for suffix in [crate::offset_index::SUFFIX, crate::time_index::SUFFIX, txn_index::SUFFIX] {
            place.remove(&place.file(base, suffix))?;
        }
        Self::create_first(place, base, preallocated, now)
    }

    /// As [`Segment::create`], where no index of this name can be. The file gets `preallocated` bytes of zeros, which no
    /// batch begins with.
    pub fn create_first(place: &Place, base: i64, preallocated: u64, now: Timestamp) -> Result<Self, StorageError> {
        let mut segment = Self::with(base, 0, now, OffsetIndex::new(base), TimeIndex::new(base));
        let path = || segment.path(place);
        let file = segment.open(place, OpenMode::Create)?;
        let len = place.guard("reading", path, file.len())?;
        if len > 0 {
            place.guard("truncating", path, file.set_len(0))?;
        }
        if preallocated > 0 {
            place.guard("preallocating", path, file.set_len(preallocated))?;
        }
        // The name is its directory's; in an empty file there is nothing to sync.
        segment.dirty = len > 0 || preallocated > 0;
        segment.is_preallocated = preallocated > 0;
        *segment.max_timestamp.get_mut().unwrap_or_else(PoisonError::into_inner) = Some((-1, base));
        Ok(segment)
    }

    /// Opens a segment that is there; nothing but its sizes is read, and no file stays open. `has` says which of its files
    /// there are, by suffix.
    pub fn existing(
        place: &Place,
        base: i64,
        has: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Result<Self, StorageError> {
        let has_offsets = has(crate::offset_index::SUFFIX);
        let offsets = if has_offsets { OffsetIndex::existing(base) } else { OffsetIndex::new(base) };
        let has_times = has(crate::time_index::SUFFIX);
        let times = if has_times { TimeIndex::existing(base) } else { TimeIndex::new(base) };
        let mut segment = Self::with(base, 0, now, offsets, times);
        segment.size = place.guard("opening", || segment.path(place), place.fs.len(&segment.path(place)))?;
        segment.index_is_damaged.store(segment.size > 0 && !(has_offsets && has_times), Ordering::Relaxed);
        if has(txn_index::SUFFIX) {
            let path = place.file(base, txn_index::SUFFIX);
            let len = place.fs.len(&path);
            segment.txn_index = TxnIndex::existing(base, place.guard("opening", || path, len)?);
        }
        Ok(segment)
    }

    pub fn path(&self, place: &Place) -> PathBuf {
        place.file(self.base, LOG_SUFFIX)
    }

    pub fn file(&self, place: &Place) -> Result<Arc<dyn File>, StorageError> {
        self.open(place, OpenMode::ReadWrite)
    }

    fn open(&self, place: &Place, mode: OpenMode) -> Result<Arc<dyn File>, StorageError> {
        let opened = self.log.get(&place.log_dir, || {
            let path = self.path(place);
            Ok((place.fs.open(&path, mode)?, path))
        });
        let operation = if mode == OpenMode::Create { "creating" } else { "opening" };
        place.guard(operation, || self.path(place), opened)
    }

    /// Closes the files, and gives back memory that waits for entries.
    pub fn release(&mut self) {
        self.log.release();
        self.offset_index.file.release();
        self.time_index.file.release();
        self.offset_index.file.shrink();
        self.time_index.file.shrink();
    }

    /// Writes the index entries that wait in memory, and gives that back.
    pub fn release_idle_memory(&mut self, place: &Place) -> Result<(), StorageError> {
        let result = self.offset_index.file.spill(place);
        place.guard("writing", || self.offset_index.file.path(place), result)?;
        let result = self.time_index.file.spill(place);
        place.guard("writing", || self.time_index.file.path(place), result)?;
        self.offset_index.file.shrink();
        self.time_index.file.shrink();
        Ok(())
    }

    /// Cuts what was preallocated and is not used.
    pub fn trim(&mut self, place: &Place) -> Result<(), StorageError> {
        if std::mem::take(&mut self.is_preallocated) {
            let cut = self.file(place)?.set_len(self.size);
            place.guard("truncating", || self.path(place), cut)?;
            self.dirty = true;
        }
        Ok(())
    }

    /// Appends whole batches, described by `headers`, in one write.
    pub fn append(
        &mut self,
        place: &Place,
        buffers: &[IoSlice<'_>],
        headers: &[BatchHeader],
        index_interval_bytes: u32,
    ) -> Result<(), StorageError> {
        let file = self.file(place)?;
        place.guard("writing", || self.path(place), file.write_all_at(buffers, self.size))?;
        self.dirty = true;
        for header in headers {
            let result = self.note_batch(place, header, index_interval_bytes);
            place.guard("writing", || self.offset_index.file.path(place), result)?;
        }
        Ok(())
    }

    /// Accounts for a batch at the end of the log file: size, timestamps, index entries.
    pub fn note_batch(&mut self, place: &Place, header: &BatchHeader, index_interval_bytes: u32) -> io::Result<()> {
        let last_offset = header.last_offset().0;
        self.first_timestamp.get_or_insert(header.max_timestamp.0);
        let max = self.max_timestamp.get_mut().unwrap_or_else(PoisonError::into_inner);
        let max = match *max {
            Some(max) if max.0 >= header.max_timestamp.0 => max,
            None if self.size > 0 => {
                let known = self.time_index.last(place)?.unwrap_or((-1, self.base));
                let larger =
                    if known.0 >= header.max_timestamp.0 { known } else { (header.max_timestamp.0, last_offset) };
                *max.insert(larger)
            }
            _ => *max.insert((header.max_timestamp.0, last_offset)),
        };
        if self.bytes_since_index_entry > u64::from(index_interval_bytes) {
            self.offset_index.append(place, last_offset, self.size)?;
            self.time_index.maybe_append(place, max.0, max.1)?;
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry += header.size as u64;
        self.size += header.size as u64;
        Ok(())
    }

    /// The largest timestamp and the last offset of its batch; `(-1, base)` when there is none.
    pub fn max_timestamp(&self, place: &Place) -> Result<(i64, i64), StorageError> {
        let mut slot = self.max_timestamp.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(max) = *slot {
            return Ok(max);
        }
        let last = place.guard("reading", || self.time_index.file.path(place), self.time_index.last(place))?;
        Ok(*slot.insert(last.unwrap_or((-1, self.base))))
    }

    /// The largest timestamp of the first batch.
    pub fn first_batch_time(&self, place: &Place) -> Result<Option<i64>, StorageError> {
        if self.first_timestamp.is_some() || self.size == 0 {
            return Ok(self.first_timestamp.filter(|time| *time >= 0));
        }
        let file = self.file(place)?;
        match Scan::new(&*file, 0, self.size, LOOKUP_BUFFER_BYTES).next() {
            Ok(first) => Ok(first.map(|(_, header)| header.max_timestamp.0).filter(|time| *time >= 0)),
            Err(ScanError::Io(error)) => Err(place.log_dir.fail("reading", self.path(place), &error)),
            Err(ScanError::Batch(..)) => Ok(None),
        }
    }

    /// How long the segment has been collecting, for `segment.ms`: by record time where there is one.
    pub fn waited_ms(&mut self, place: &Place, now: Timestamp, timestamp: Timestamp) -> Result<i64, StorageError> {
        if self.first_timestamp.is_none() && self.size > 0 {
            let file = self.file(place)?;
            self.first_timestamp = match Scan::new(&*file, 0, self.size, LOOKUP_BUFFER_BYTES).next() {
                Ok(first) => first.map(|(_, header)| header.max_timestamp.0),
                Err(ScanError::Io(error)) => return Err(place.log_dir.fail("reading", self.path(place), &error)),
                Err(ScanError::Batch(..)) => None,
            };
        }
        Ok(match self.first_timestamp {
            Some(first) if first >= 0 => timestamp.0.saturating_sub(first),
            _ => now.0.saturating_sub(self.created.0),
        })
    }

    /// Whether an index has no room for another entry within `segment.index.bytes`.
    pub fn is_index_full(&self, place: &Place, segment_index_bytes: u32) -> Result<bool, StorageError> {
        let (offsets, times) = (&self.offset_index.file, &self.time_index.file);
        let offset_entries = place.guard("reading", || offsets.path(place), offsets.count(place))?;
        let time_entries = place.guard("reading", || times.path(place), times.count(place))?;
        let room = segment_index_bytes as usize;
        // The time index keeps one entry free for the one that closing the segment adds.
        Ok(offset_entries >= (room / crate::offset_index::ENTRY_BYTES).max(1)
            || time_entries >= (room / crate::time_index::ENTRY_BYTES).saturating_sub(1).max(1))
    }

    pub(crate) fn corruption(&self, place: &Place, position: u64, offset: i64, reason: String) -> LogError {
        Corruption { file: self.path(place), position, offset: Offset(offset), reason }.into()
    }

    /// Where to start looking for `target`; the segment's start when the index cannot tell.
    fn index_position(&self, place: &Place, patience: Patience<'_>, target: i64) -> Result<u64, StorageError> {
        match self.offset_index.lookup(place, patience, target) {
            Ok(entry) if entry.position < self.size => Ok(entry.position),
            Ok(_) => Ok(self.distrust_index(place)),
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) => {
                Ok(self.distrust_index(place))
            }
            Err(error) => Err(place.log_dir.fail("reading", self.offset_index.file.path(place), &error)),
        }
    }

    fn distrust_index(&self, place: &Place) -> u64 {
        if self.size > 0 && !self.index_is_damaged.swap(true, Ordering::Relaxed) {
            let path = self.offset_index.file.path(place);
            tracing::warn!(
                "the index {} is damaged: reading from the start of its segment, it will be rebuilt",
                path.display()
            );
        }
        0
    }

    /// Visits the batches from the one that holds `target` on, until `visit` returns something.
    pub fn visit_from<T>(
        &self,
        place: &Place,
        target: i64,
        visit: impl FnMut(u64, &BatchHeader) -> Result<Option<T>, LogError>,
    ) -> Result<Option<T>, LogError> {
        self.visit_from_with(place, Patience::Waits, target, visit)
    }

    fn visit_from_with<T>(
        &self,
        place: &Place,
        patience: Patience<'_>,
        target: i64,
        mut visit: impl FnMut(u64, &BatchHeader) -> Result<Option<T>, LogError>,
    ) -> Result<Option<T>, LogError> {
        let start = self.index_position(place, patience, target)?;
        self.visit_from_position(place, patience, start, target, |position, header| {
            if header.last_offset().0 >= target { visit(position, header) } else { Ok(None) }
        })
    }

    /// Visits the batches from `start` on, where a batch at or below `target` should begin; all of them when none does.
    fn visit_from_position<T>(
        &self,
        place: &Place,
        patience: Patience<'_>,
        mut start: u64,
        target: i64,
        mut visit: impl FnMut(u64, &BatchHeader) -> Result<Option<T>, LogError>,
    ) -> Result<Option<T>, LogError> {
        let file = self.file(place)?;
        let file = patience.reader(&file, Kind::Log);
        'again: loop {
            let mut scan = Scan::new(&file, start, self.size, LOOKUP_BUFFER_BYTES);
            let mut expected = self.base;
            loop {
                match scan.next() {
                    Ok(None) => return Ok(None),
                    // Where an index entry points, a batch must begin that is not behind the offset looked for.
                    Ok(Some((position, header))) => {
                        let at_start = position == start && start > 0;
                        let in_order =
                            header.base_offset.0 >= expected || (at_start && header.base_offset.0 >= self.base);
                        if at_start && (!in_order || header.base_offset.0 > target) {
                            start = self.distrust_index(place);
                            continue 'again;
                        }
                        if !in_order {
                            let reason = format!("the batch begins at offset {}", header.base_offset);
                            return Err(self.corruption(place, position, expected, reason));
                        }
                        expected = header.next_offset().0;
                        if let Some(found) = visit(position, &header)? {
                            return Ok(Some(found));
                        }
                    }
                    Err(ScanError::Batch(position, _)) if position == start && start > 0 => {
                        start = self.distrust_index(place);
                        continue 'again;
                    }
                    Err(ScanError::Batch(position, error)) => {
                        return Err(self.corruption(place, position, expected, error.to_string()));
                    }
                    Err(ScanError::Io(error)) => {
                        return Err(place.log_dir.fail("reading", self.path(place), &error).into());
                    }
                }
            }
        }
    }

    /// The first batch whose last offset is not below `target`.
    pub fn locate(&self, place: &Place, patience: Patience<'_>, target: i64) -> Result<Option<Located>, LogError> {
        self.visit_from_with(place, patience, target, |position, header| Ok(Some(Located::new(position, header))))
    }

    /// The offset behind the last batch.
    pub fn next_offset(&self, place: &Place) -> Result<i64, LogError> {
        if self.size == 0 {
            return Ok(self.base);
        }
        let path = || self.offset_index.file.path(place);
        let last = match self.offset_index.last(place) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            result => place.guard("reading", path, result)?,
        };
        let (start, target) = match last {
            Some(entry) if entry.position < self.size => (entry.position, entry.offset),
            Some(_) => (self.distrust_index(place), self.base),
            None => (0, self.base),
        };
        let mut next = self.base;
        self.visit_from_position(place, Patience::Waits, start, target, |_, header| {
            next = header.next_offset().0;
            Ok(None::<()>)
        })?;
        Ok(next)
    }

    /// Walks over all headers and writes offset and time index anew.
    pub fn rebuild_indexes(&mut self, place: &Place, index_interval_bytes: u32) -> Result<(), LogError> {
        let file = self.file(place)?;
        let size = self.size;
        self.begin_rebuild(place)?;
        let mut scan = Scan::new(&*file, 0, size, RECOVERY_BUFFER_BYTES);
        let result = loop {
            match scan.next() {
                Ok(None) => break Ok(()),
                Ok(Some((_, header))) => {
                    if !self.offset_index.can_hold(header.last_offset().0) {
                        let reason = format!("offset {} does not belong into this segment", header.last_offset());
                        break Err(self.corruption(place, self.size, self.base, reason));
                    }
                    let result = self.note_batch(place, &header, index_interval_bytes);
                    place.guard("writing", || self.offset_index.file.path(place), result)?;
                }
                Err(ScanError::Io(error)) => {
                    break Err(place.log_dir.fail("reading", self.path(place), &error).into());
                }
                Err(ScanError::Batch(position, error)) => {
                    break Err(self.corruption(place, position, self.base, error.to_string()));
                }
            }
        };
        self.size = size;
        let closed = self.close_indexes(place);
        if closed.is_err() || result.as_ref().is_err_and(LogError::is_full) {
            self.index_is_damaged.store(true, Ordering::Relaxed);
        }
        closed?;
        result
    }

    /// Whether the ends of the indexes fit the log file.
    pub fn indexes_look_sound(&self, place: &Place) -> Result<bool, StorageError> {
        let reading = || self.offset_index.file.path(place);
        let offsets = place.guard("reading", reading, self.offset_index.last(place))?;
        let times = place.guard("reading", reading, self.time_index.last(place))?;
        let whole = place.guard("reading", reading, self.offset_index.file.is_whole(place))?
            && place.guard("reading", reading, self.time_index.file.is_whole(place))?;
        Ok(whole
            && offsets.is_none_or(|last| last.position < self.size && self.offset_index.can_hold(last.offset))
            && times.is_none_or(|last| last.0 >= 0 && self.offset_index.can_hold(last.1)))
    }

    /// Empties offset and time index, and everything that is known from the batches.
    pub fn begin_rebuild(&mut self, place: &Place) -> Result<(), StorageError> {
        let result = self.offset_index.file.reset(place);
        place.guard("truncating", || self.offset_index.file.path(place), result)?;
        let result = self.time_index.reset(place);
        place.guard("truncating", || self.time_index.file.path(place), result)?;
        self.size = 0;
        // A process that was killed may have left what it wrote in the page cache only.
        self.dirty = true;
        self.first_timestamp = None;
        self.bytes_since_index_entry = 0;
        *self.max_timestamp.get_mut().unwrap_or_else(PoisonError::into_inner) = Some((-1, self.base));
        self.index_is_damaged.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Writes what the indexes hold in memory, with a last entry in the time index, as a segment that is no longer
    /// written to has it.
    pub fn close_indexes(&mut self, place: &Place) -> Result<(), StorageError> {
        // What nobody has appended to has been closed before.
        if self.size == 0 || self.max_timestamp.get_mut().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Ok(());
        }
        let max = self.max_timestamp(place)?;
        let result = self.time_index.maybe_append(place, max.0, max.1).and_then(|()| self.time_index.file.spill(place));
        place.guard("writing", || self.time_index.file.path(place), result)?;
        let result = self.offset_index.file.spill(place);
        place.guard("writing", || self.offset_index.file.path(place), result)
    }

    /// Cuts the log file and everything that tells of what is behind `size`.
    pub fn truncate(&mut self, place: &Place, offset: i64, size: u64) -> Result<(), LogError> {
        let file = self.file(place)?;
        place.guard("truncating", || self.path(place), file.set_len(size))?;
        self.is_preallocated = false;
        self.size = size;
        self.dirty = true;
        self.bytes_since_index_entry = 0;
        let result = self.offset_index.truncate_to(place, offset);
        place.guard("truncating", || self.offset_index.file.path(place), result)?;
        let result = self.time_index.truncate_to(place, offset);
        place.guard("truncating", || self.time_index.file.path(place), result)?;
        let result = self.txn_index.truncate_to(place, offset);
        self.guard_txn_index(place, result)?;
        if size == 0 {
            self.first_timestamp = None;
        }
        *self.max_timestamp.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(self.largest_timestamp(place)?);
        Ok(())
    }

    /// The largest timestamp by time index and the batches behind its last entry.
    fn largest_timestamp(&self, place: &Place) -> Result<(i64, i64), LogError> {
        let last = place.guard("reading", || self.time_index.file.path(place), self.time_index.last(place))?;
        let mut max = last.unwrap_or((-1, self.base));
        if self.size > 0 {
            self.visit_from(place, max.1, |_, header| {
                if header.max_timestamp.0 > max.0 {
                    max = (header.max_timestamp.0, header.last_offset().0);
                }
                Ok(None::<()>)
            })?;
        }
        Ok(max)
    }

    /// Damage in the transaction index is no failure of the disk.
    pub fn guard_txn_index<T>(&self, place: &Place, result: io::Result<T>) -> Result<T, LogError> {
        let file = place.file(self.base, txn_index::SUFFIX);
        match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Corruption { file, position: 0, offset: Offset(self.base), reason: error.to_string() }.into())
            }
            result => Ok(place.guard("using", || file, result)?),
        }
    }

    pub fn append_aborted(&mut self, place: &Place, txn: &AbortedTxn) -> Result<(), StorageError> {
        let result = self.txn_index.append(place, txn);
        place.guard("writing", || place.file(self.base, txn_index::SUFFIX), result)
    }

    /// Reads a whole batch.
    pub fn read_batch(&self, place: &Place, position: u64, header: &BatchHeader) -> Result<bytes::Bytes, StorageError> {
        let mut bytes = vec![0; header.size];
        let result = self.file(place)?.read_exact_at(&mut bytes, position);
        place.guard("reading", || self.path(place), result)?;
        Ok(bytes.into())
    }

    /// What was handed out to be synced was not.
    pub fn mark_unsynced(&mut self) {
        self.dirty = true;
        self.offset_index.file.mark_unsynced();
        self.time_index.file.mark_unsynced();
        self.txn_index.mark_unsynced();
    }

    /// The log file, if it has to be synced so that its records are durable.
    pub fn take_unsynced_log(&mut self, place: &Place, files: &mut Vec<Arc<dyn File>>) -> Result<(), StorageError> {
        if std::mem::take(&mut self.dirty) {
            files.push(self.file(place)?);
        }
        Ok(())
    }

    /// The files that have to be synced so that the segment is durable, with what was in memory written to them. Index
    /// files are made with the first record, or with `make_all`.
    pub fn take_unsynced(
        &mut self,
        place: &Place,
        make_all: bool,
        files: &mut Vec<Arc<dyn File>>,
    ) -> Result<(), StorageError> {
        let make = make_all || self.size > 0;
        self.take_unsynced_log(place, files)?;
        let result = self.offset_index.file.take_unsynced(place, make);
        files.extend(place.guard("writing", || self.offset_index.file.path(place), result)?);
        let result = self.time_index.file.take_unsynced(place, make);
        files.extend(place.guard("writing", || self.time_index.file.path(place), result)?);
        let result = self.txn_index.take_unsynced(place);
        files.extend(place.guard("writing", || place.file(self.base, txn_index::SUFFIX), result)?);
        Ok(())
    }
}
