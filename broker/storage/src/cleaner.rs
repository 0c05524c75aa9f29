//! Cleaning a compacted log: of each key only the latest value stays (`cleanup.policy=compact`).
//!
//! 1. [`crate::Log::cleanable`] says what there is to clean: from where the last cleaning ended to the active segment,
//!    the last stable offset, or what `min.compaction.lag.ms` protects. [`crate::Log::begin_cleaning`] opens those files.
//! 2. [`Cleaning::step`] reads the dirty part into a map of key -> latest offset, until that is full; then it writes
//!    the segments anew, several small ones into one, as `.cleaned` files. Each step reads one buffer, so that whoever
//!    drives it can pace it, and needs no lock of the partition.
//! 3. [`crate::Log::replace_segments`] puts a finished segment in the place of its sources, by renames that a crash at
//!    any point leaves completed or undone.
//!
//! What stays, besides the latest values: tombstones and transaction markers until the delete horizon, which is written
//! into their batch when they are first met (KIP-534); each active producer's last batch, emptied, which remembers its
//! sequence; the last batch of each segment, emptied, so that segments follow each other without a hole. Offsets never
//! change. Kafka's `Cleaner`, `LogCleaner`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod offset_map;
mod transactions;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use odradek_common::fs::{File, OpenMode};
use odradek_common::{Offset, time::Timestamp};
use odradek_records::{
    BatchError, BatchHeader, BatchSlice, BuildError, Codec, Compression, DECOMPRESSED_BYTES_MAX, HEADER_BYTES,
    RawRecord, RecordError, payload, raw_records, rewrite, slices,
};

use crate::config::LogConfig;
use crate::dir::Place;
use crate::error::{Corruption, LogError, StorageError};
use crate::segment::{LOG_SUFFIX, Segment};
use crate::txn_index::{self, AbortedTxn};
use offset_map::{KeyHash, OffsetMap};
use transactions::Transactions;

pub(crate) const CLEANED_SUFFIX: &str = ".cleaned";
pub(crate) const SWAP_SUFFIX: &str = ".swap";

/// The bounds of one cleaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanerConfig {
    /// For the map of keys: a thread's share of `log.cleaner.dedupe.buffer.size`.
    pub map_bytes_max: usize,
    /// `log.cleaner.io.buffer.load.factor`
    pub load_factor: f64,
    /// Read at once: a thread's share of `log.cleaner.io.buffer.size`. A larger batch is read whole.
    pub io_bytes: usize,
    /// Random, for the hashes of the map.
    pub hash_keys: (u64, u64),
}

/// What there is to clean in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanable {
    /// Where the last cleaning ended, or the log's start.
    pub first_dirty: Offset,
    /// The start of the first segment that stays as it is.
    pub end: Offset,
    /// Of the segments below `first_dirty`.
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// `max.compaction.lag.ms` is over.
    pub is_overdue: bool,
}

impl Cleanable {
    /// The part of the bytes that is dirty, 0 to 1.
    pub fn dirty_ratio(&self) -> f64 {
        let total = self.clean_bytes + self.dirty_bytes;
        if total == 0 { 0.0 } else { self.dirty_bytes as f64 / total as f64 }
    }
}

/// A cleaning ended early. The log is as it was, or partly cleaned; either way it is sound.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CleanError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log was closed, deleted, truncated, or lost segments to retention meanwhile.
    #[error("the log has changed meanwhile")]
    Superseded,
    #[error(
        "the keys of one batch at offset {0} do not fit the memory of the cleaner: raise log.cleaner.dedupe.buffer.size"
    )]
    MapTooSmall(Offset),
    #[error("a batch at offset {0} cannot be written anew: {1}")]
    Rewrite(Offset, BuildError),
}

impl From<StorageError> for CleanError {
    fn from(error: StorageError) -> Self {
        Self::Log(error.into())
    }
}

/// What a cleaning has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanStats {
    pub keys: usize,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub records_read: u64,
    pub records_kept: u64,
    /// Records without a key, which are dropped.
    pub records_invalid: u64,
}

/// How far a step got.
#[derive(Debug)]
pub enum CleanProgress {
    /// So many bytes were read and written.
    Bytes(u64),
    /// A segment is ready for [`crate::Log::replace_segments`].
    Segment(Box<Replacement>),
    /// All is clean below this offset; less than was wanted when the map was too small for all keys at once.
    Done(Offset),
}

/// A segment as it was when the cleaning began.
#[derive(Debug)]
pub(crate) struct Source {
    pub base: i64,
    /// Of the next segment.
    pub next_base: i64,
    pub size: u64,
    pub index_bytes: u64,
    pub time_index_bytes: u64,
    pub created: Timestamp,
    pub file: Arc<dyn File>,
}

/// A producer's last batch, which has to stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastBatch {
    /// `None`: it has only written markers.
    pub last_offset: Option<i64>,
    pub epoch: i16,
}

/// A finished segment with the ones that it stands for.
#[must_use = "hand it to `Log::replace_segments`"]
#[derive(Debug)]
pub struct Replacement {
    pub(crate) place: Arc<Place>,
    pub(crate) segment: Segment,
    /// Base and size of each source.
    pub(crate) sources: Vec<(i64, u64)>,
    pub(crate) truncations: u64,
}

#[derive(Debug)]
enum Phase {
    /// Reading keys, at this byte of this source.
    Map { source: usize, position: u64, transactions: Transactions },
    /// Writing the groups anew.
    Write { groups: Vec<Range<usize>>, group: usize, output: Option<Box<Output>>, transactions: Transactions },
}

/// The segment that is being written.
#[derive(Debug)]
struct Output {
    segment: Segment,
    source: usize,
    position: u64,
    /// The source that has the group's last batch.
    last_source: usize,
}

/// A cleaning under way. Dropped before its end, it leaves `.cleaned` files for the next one, or the next start.
#[derive(Debug)]
pub struct Cleaning {
    place: Arc<Place>,
    /// Names `.cleaned` files.
    cleaned_place: Place,
    log_config: Arc<LogConfig>,
    config: CleanerConfig,
    now: Timestamp,
    first_dirty: i64,
    sources: Vec<Source>,
    aborted: Vec<AbortedTxn>,
    producers: BTreeMap<i64, LastBatch>,
    truncations: u64,
    map: OffsetMap,
    /// Everything up to this offset is in the map.
    latest: i64,
    /// What is read, and hashes of the keys of a batch; kept for the next step.
    buffer: Vec<u8>,
    hashes: Vec<(KeyHash, i64)>,
    phase: Phase,
    stats: CleanStats,
}

/// What a log hands to its cleaning.
pub(crate) struct Material {
    pub place: Arc<Place>,
    pub log_config: Arc<LogConfig>,
    pub first_dirty: i64,
    pub sources: Vec<Source>,
    pub aborted: Vec<AbortedTxn>,
    pub producers: BTreeMap<i64, LastBatch>,
    pub truncations: u64,
}

impl Cleaning {
    pub(crate) fn new(material: Material, config: CleanerConfig, now: Timestamp) -> Self {
        let Material { place, log_config, first_dirty, sources, aborted, producers, truncations } = material;
        let end = sources.last().map_or(first_dirty, |source| source.next_base);
        let keys_max = u64::try_from(end - first_dirty).unwrap_or(0);
        let map = OffsetMap::new(config.map_bytes_max, config.load_factor, keys_max, config.hash_keys);
        let source = sources.partition_point(|source| source.next_base <= first_dirty);
        let start = sources.get(source).map_or(first_dirty, |source| source.base);
        let transactions = Transactions::new(&aborted, start);
        Self {
            cleaned_place: place.with_tail(CLEANED_SUFFIX),
            place,
            log_config,
            config,
            now,
            first_dirty,
            sources,
            aborted,
            producers,
            truncations,
            map,
            latest: first_dirty - 1,
            buffer: Vec::new(),
            hashes: Vec::new(),
            phase: Phase::Map { source, position: 0, transactions },
            stats: CleanStats::default(),
        }
    }

    pub fn stats(&self) -> CleanStats {
        CleanStats { keys: self.map.len(), ..self.stats }
    }

    /// Whether this is a cleaning of the log at that place, as it still is.
    pub(crate) fn is_of(&self, place: &Arc<Place>) -> bool {
        Arc::ptr_eq(&self.place, place) && self.truncations == place.truncations()
    }

    /// Where the part begins that is read for keys.
    pub fn first_dirty(&self) -> Offset {
        Offset(self.first_dirty)
    }

    /// Goes on by one read. Not to be called again after an error, or after `Done`.
    pub fn step(&mut self) -> Result<CleanProgress, CleanError> {
        let place = self.place.clone();
        let _step = place.hold_cleaning();
        if place.is_gone() || place.truncations() != self.truncations {
            return Err(CleanError::Superseded);
        }
        place.log_dir.check()?;
        let before = self.stats.bytes_read + self.stats.bytes_written;
        let done = match &self.phase {
            Phase::Map { .. } => self.map_step()?,
            Phase::Write { .. } => self.write_step()?,
        };
        Ok(done.unwrap_or(CleanProgress::Bytes(self.stats.bytes_read + self.stats.bytes_written - before)))
    }

    /// Reads whole batches of a source from `position` on, and answers them with their bytes; none at its end. Every CRC is
    /// checked: what is damaged must be neither believed nor written anew with a sound checksum.
    fn read<'a>(
        &mut self,
        buffer: &'a mut Vec<u8>,
        source: usize,
        position: u64,
    ) -> Result<Vec<BatchSlice<'a>>, CleanError> {
        let Some(Source { base, size, file, .. }) = self.sources.get(source) else { return Ok(Vec::new()) };
        let left = size.saturating_sub(position);
        if left == 0 {
            return Ok(Vec::new());
        }
        let damaged = |at: u64, error: &BatchError| {
            let file = self.place.file(*base, LOG_SUFFIX);
            LogError::from(Corruption { file, position: at, offset: Offset(*base), reason: error.to_string() })
        };
        let load = |buffer: &mut Vec<u8>, len: u64| {
            buffer.resize(len as usize, 0);
            let result = file.read_exact_at(buffer, position);
            self.place.guard("reading", || self.place.file(*base, LOG_SUFFIX), result)
        };
        load(buffer, left.min(self.config.io_bytes.max(HEADER_BYTES) as u64))?;
        let first = BatchHeader::parse(buffer).map_err(|error| damaged(position, &error))?;
        if first.size > buffer.len() {
            if first.size as u64 > left {
                let error = BatchError::Incomplete { have: left as usize, need: first.size };
                return Err(damaged(position, &error).into());
            }
            load(buffer, first.size as u64)?;
        }
        let (mut batches, mut at) = (Vec::new(), position);
        for batch in slices(buffer) {
            match batch.and_then(|batch| batch.header.check_crc(batch.bytes).map(|()| batch)) {
                Ok(batch) => {
                    at += batch.header.size as u64;
                    batches.push(batch);
                }
                Err(BatchError::Incomplete { .. }) if at > position => break,
                Err(error) => return Err(damaged(at, &error).into()),
            }
        }
        self.stats.bytes_read += at - position;
        Ok(batches)
    }

    fn unreadable(&self, header: &BatchHeader, error: &dyn std::fmt::Display) -> CleanError {
        let source = self.sources.iter().rfind(|source| source.base <= header.base_offset.0);
        let base = source.map_or(0, |source| source.base);
        let (file, offset) = (self.place.file(base, LOG_SUFFIX), header.base_offset);
        LogError::from(Corruption { file, position: 0, offset, reason: error.to_string() }).into()
    }

    // ---- the map ----

    fn map_step(&mut self) -> Result<Option<CleanProgress>, CleanError> {
        let Phase::Map { source, position, .. } = &self.phase else { return Ok(None) };
        let (source, position) = (*source, *position);
        let mut buffer = std::mem::take(&mut self.buffer);
        let batches = self.read(&mut buffer, source, position)?;
        let mut read = 0;
        for batch in &batches {
            read += batch.header.size as u64;
            if !self.map_batch(batch)? {
                if self.latest < self.first_dirty {
                    return Err(CleanError::MapTooSmall(batch.header.base_offset));
                }
                return self.begin_writing();
            }
        }
        let is_end = batches.is_empty();
        self.buffer = buffer;
        if is_end && source + 1 >= self.sources.len() {
            let end = self.sources.last().map_or(self.first_dirty, |source| source.next_base);
            self.latest = self.latest.max(end - 1);
            return self.begin_writing();
        }
        if let Phase::Map { source, position, .. } = &mut self.phase {
            (*source, *position) = if is_end { (*source + 1, 0) } else { (*source, *position + read) };
        }
        Ok(None)
    }

    /// Takes the keys of a batch. `false`: there is no room for all of them.
    fn map_batch(&mut self, batch: &BatchSlice<'_>) -> Result<bool, CleanError> {
        let header = &batch.header;
        let Phase::Map { transactions, .. } = &mut self.phase else { return Ok(true) };
        let seen = transactions.on_batch(batch);
        let seen = seen.map_err(|error| self.unreadable(header, &error))?;
        if !header.attributes.is_control() && !seen.is_obsolete && header.last_offset().0 >= self.first_dirty {
            let unreadable = |error: RecordError| self.unreadable(header, &error);
            let payload = payload(header, batch.bytes, DECOMPRESSED_BYTES_MAX).map_err(unreadable)?;
            let mut hashes = std::mem::take(&mut self.hashes);
            hashes.clear();
            for record in raw_records(header, &payload) {
                let record = record.map_err(|error| self.unreadable(header, &error))?;
                let Some(key) = record.key.filter(|_| record.offset.0 >= self.first_dirty) else { continue };
                hashes.push((self.map.hash(key), record.offset.0));
            }
            self.map.prefetch(hashes.iter().map(|(hash, _)| *hash));
            let all = hashes.iter().all(|(hash, offset)| self.map.put(*hash, *offset));
            self.hashes = hashes;
            if !all {
                return Ok(false);
            }
        }
        self.latest = self.latest.max(header.last_offset().0);
        Ok(true)
    }

    fn begin_writing(&mut self) -> Result<Option<CleanProgress>, CleanError> {
        let count = self.sources.partition_point(|source| source.base <= self.latest);
        let start = self.sources.first().map_or(0, |source| source.base);
        let transactions = Transactions::new(&self.aborted, start);
        self.phase = Phase::Write { groups: self.groups(count), group: 0, output: None, transactions };
        Ok(None)
    }

    /// The segments that become one: neither log nor indexes outgrow a segment's limits, and offsets stay within reach
    /// of its base.
    fn groups(&self, count: usize) -> Vec<Range<usize>> {
        let config = &self.log_config;
        let mut groups: Vec<Range<usize>> = Vec::new();
        let (mut bytes, mut index_bytes, mut time_index_bytes, mut base) = (0, 0, 0, 0);
        for (at, source) in self.sources.iter().enumerate().take(count) {
            bytes += source.size;
            index_bytes += source.index_bytes;
            time_index_bytes += source.time_index_bytes;
            let fits = bytes <= u64::from(config.segment_bytes)
                && index_bytes <= u64::from(config.segment_index_bytes)
                && time_index_bytes <= u64::from(config.segment_index_bytes)
                && source.next_base - 1 - base <= i64::from(i32::MAX);
            match groups.last_mut() {
                Some(group) if fits => group.end = at + 1,
                _ => {
                    groups.push(at..at + 1);
                    (bytes, index_bytes, time_index_bytes) = (source.size, source.index_bytes, source.time_index_bytes);
                    base = source.base;
                }
            }
        }
        groups
    }

    // ---- the segments ----

    fn write_step(&mut self) -> Result<Option<CleanProgress>, CleanError> {
        let Phase::Write { groups, group, output, .. } = &mut self.phase else { return Ok(None) };
        let Some(range) = groups.get(*group).cloned() else {
            return Ok(Some(CleanProgress::Done(Offset(self.latest + 1))));
        };
        let mut output = match output.take() {
            Some(output) => output,
            None => Box::new(self.open_output(&range)?),
        };
        if output.source >= range.end {
            if let Phase::Write { group, .. } = &mut self.phase {
                *group += 1;
            }
            let replacement = self.finish(*output, range)?;
            return Ok(Some(CleanProgress::Segment(Box::new(replacement))));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let batches = self.read(&mut buffer, output.source, output.position)?;
        let size = self.sources.get(output.source).map_or(0, |source| source.size);
        let (mut bytes, mut headers) = (Vec::new(), Vec::new());
        for batch in &batches {
            output.position += batch.header.size as u64;
            let is_last = output.source == output.last_source && output.position >= size;
            let Phase::Write { transactions, .. } = &mut self.phase else { return Ok(None) };
            let seen = transactions.on_batch(batch);
            let seen = seen.map_err(|error| self.unreadable(&batch.header, &error))?;
            if let Some(aborted) = seen.aborted {
                output.segment.append_aborted(&self.cleaned_place, &aborted)?;
            }
            if let Some(cleaned) = self.clean_batch(batch, seen.is_obsolete, is_last)? {
                headers.push(BatchHeader::parse(&cleaned).map_err(|error| self.unreadable(&batch.header, &error))?);
                bytes.push(cleaned);
            }
        }
        if !bytes.is_empty() {
            let slices: Vec<IoSlice<'_>> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
            output.segment.append(&self.cleaned_place, &slices, &headers, self.log_config.index_interval_bytes)?;
            self.stats.bytes_written += bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        }
        if batches.is_empty() {
            (output.source, output.position) = (output.source + 1, 0);
        }
        drop(bytes);
        self.buffer = buffer;
        if let Phase::Write { output: slot, .. } = &mut self.phase {
            *slot = Some(output);
        }
        Ok(None)
    }

    fn open_output(&self, range: &Range<usize>) -> Result<Output, CleanError> {
        let sources = self.sources.get(range.clone()).unwrap_or_default();
        let base = sources.first().map_or(0, |source| source.base);
        let segment = Segment::create(&self.cleaned_place, base, 0, self.now)?;
        let last_source = range.start + sources.iter().rposition(|source| source.size > 0).unwrap_or(0);
        Ok(Output { segment, source: range.start, position: 0, last_source })
    }

    /// Makes the segment durable under its `.cleaned` names. All three indexes exist, so that a start after a crash can
    /// tell the new from the old ones.
    fn finish(&mut self, output: Output, range: Range<usize>) -> Result<Replacement, CleanError> {
        let place = &self.cleaned_place;
        let mut segment = output.segment;
        segment.close_indexes(place)?;
        let mut files = Vec::new();
        segment.take_unsynced(place, true, &mut files)?;
        let path = || place.file(segment.base, txn_index::SUFFIX);
        files.push(place.guard("creating", path, place.fs.open(&path(), OpenMode::Create))?);
        for file in files {
            place.guard("syncing", || segment.path(place), file.sync_data())?;
        }
        place.sync_dir()?;
        let sources = self.sources.get(range).unwrap_or_default();
        segment.created = sources.last().map_or(self.now, |source| source.created);
        let sources = sources.iter().map(|source| (source.base, source.size)).collect();
        Ok(Replacement { place: self.place.clone(), segment, sources, truncations: self.truncations })
    }

    /// What stays of a batch: itself, less, an empty one, or nothing.
    fn clean_batch<'a>(
        &mut self,
        batch: &BatchSlice<'a>,
        is_obsolete: bool,
        is_last: bool,
    ) -> Result<Option<Cow<'a, [u8]>>, CleanError> {
        let header = &batch.header;
        let is_control = header.attributes.is_control();
        let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp);
        let is_expired = horizon.is_some_and(|horizon| horizon <= self.now);
        let keep_empty = is_last || self.is_last_of_producer(header);
        self.stats.records_read += header.record_count as u64;
        let unreadable = |error: RecordError| self.unreadable(header, &error);
        let payload = match !is_obsolete || (is_control && !is_expired) {
            true => Some(payload(header, batch.bytes, DECOMPRESSED_BYTES_MAX).map_err(unreadable)?),
            false => None,
        };
        let mut kept: Vec<RawRecord<'_>> = Vec::new();
        if let Some(payload) = &payload {
            // What a header claims is no reason to take memory; this is about a usual batch.
            kept.reserve(payload.len() / 64);
            for record in raw_records(header, payload) {
                kept.push(record.map_err(unreadable)?);
            }
        }
        if !is_control {
            self.drop_superseded(&mut kept, is_expired);
        }
        self.stats.records_kept += kept.len() as u64;
        if kept.is_empty() {
            return Ok(keep_empty.then(|| Vec::from(rewrite::without_records(header)).into()));
        }
        let has_deletes = (is_control && is_obsolete) || (!is_control && kept.iter().any(|kept| !kept.has_value));
        let needs_horizon = has_deletes && horizon.is_none();
        if kept.len() == header.record_count as usize && !needs_horizon {
            return Ok(Some(batch.bytes.into()));
        }
        let until = Timestamp(self.now.0.saturating_add(self.log_config.delete_retention_ms));
        let horizon = if needs_horizon { Some(until) } else { horizon };
        let codec = header.attributes.codec().unwrap_or(Codec::None);
        let rewritten = rewrite::with_records(header, &kept, horizon, Compression { codec, level: None });
        let rewritten = rewritten.map_err(|error| CleanError::Rewrite(header.base_offset, error))?;
        Ok(Some(Vec::from(rewritten).into()))
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let last = self.producers.get(&header.producer_id.0).filter(|_| header.has_producer());
        last.is_some_and(|last| match last.last_offset {
            Some(offset) => header.last_offset().0 == offset,
            None => header.attributes.is_control() && header.producer_epoch.0 == last.epoch,
        })
    }

    /// Leaves those data records that stay. `is_expired`: the delete horizon of their batch has passed.
    fn drop_superseded(&mut self, records: &mut Vec<RawRecord<'_>>, is_expired: bool) {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        // What is not looked up has a hash, too, so that the two go together.
        hashes.extend(records.iter().map(|record| (self.map.hash(record.key.unwrap_or_default()), record.offset.0)));
        self.map.prefetch(hashes.iter().map(|(hash, _)| *hash));
        let mut places = hashes.iter();
        records.retain(|record| {
            let Some((hash, offset)) = places.next().filter(|(_, offset)| *offset <= self.latest) else { return true };
            if record.key.is_none() {
                self.stats.records_invalid += 1;
                return false;
            }
            let is_latest = self.map.get(*hash).is_none_or(|latest| *offset >= latest);
            is_latest && (record.has_value || !is_expired)
        });
        self.hashes = hashes;
    }
}
