//! Bringing a log directory's files back to a sound log: after a clean shutdown by trusting them, after a crash by
//! reading every batch from the recovery point on.
//!
//! 1. Leftovers of interrupted deletions and cleanings are removed or completed.
//! 2. After a crash each batch from the segment of the recovery point on is read and its CRC checked. At the first one
//!    that is not sound the log is cut, and later segments are dropped, as Kafka does; the report names the place.
//! 3. Missing or damaged indexes, the leader epochs, and the producer state are rebuilt from the batches.
//!
//! Kafka's `LogLoader` and `LogSegment.recover`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use odradek_common::fs::{Advice, OpenMode};
use odradek_common::{LeaderEpoch, Offset, time::Timestamp};
use odradek_records::{Batch, BatchHeader, EndTxnMarker};

use crate::cleaner::{CLEANED_SUFFIX, SWAP_SUFFIX};
use crate::config::{LogConfig, ProducerStateConfig};
use crate::dir::Place;
use crate::error::{LogError, StorageError};
use crate::leader_epochs::LeaderEpochs;
use crate::producer_snapshot;
use crate::producer_state::ProducerStates;
use crate::scan::{RECOVERY_BUFFER_BYTES, Scan, ScanError, is_unwritten};
use crate::segment::{LOG_SUFFIX, Segment};
use crate::{leader_epochs, offset_index, time_index, txn_index};

pub(crate) const DELETED_SUFFIX: &str = ".deleted";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// A transaction marker takes 78 bytes; a control batch that claims more than this is not read.
pub(crate) const CONTROL_BATCH_BYTES_MAX: usize = 64 * 1024;
/// How often a recovery says how far it is.
const PROGRESS_BYTES: u64 = 8 << 20;

/// What the checkpoints of the log directory say of a log that is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Below this everything is on disk.
    pub recovery_point: Offset,
    /// From DeleteRecords or retention; the first segment's base offset when that is later.
    pub log_start: Offset,
    /// The last process marked its shutdown as clean.
    pub clean: bool,
    /// How far the log was compacted, ever.
    pub cleaned_to: Option<Offset>,
}

impl Recovery {
    /// For a log that is made anew.
    pub const NEW: Self = Self { recovery_point: Offset::ZERO, log_start: Offset::ZERO, clean: true, cleaned_to: None };
}

/// Where recovery found a batch that was not sound, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: PathBuf,
    /// Of the damaged batch, in bytes.
    pub position: u64,
    /// The offset that the log was cut to.
    pub offset: Offset,
    pub reason: String,
    /// Bytes cut from this file.
    pub bytes_cut: u64,
    /// Later segments that were dropped. Above 0, or with a sync behind it, this is not a torn tail but a failing disk.
    pub segments_dropped: usize,
}

/// What opening a log did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments whose batches were all read.
    pub segments_scanned: usize,
    /// Bytes that were read for it.
    pub bytes_scanned: u64,
    pub indexes_rebuilt: usize,
    pub damage: Option<Damage>,
}

impl RecoveryReport {
    /// Of a log that was opened as it was found: nearly all are.
    pub const NOTHING: Self = Self { segments_scanned: 0, bytes_scanned: 0, indexes_rebuilt: 0, damage: None };
}

/// A log on its way to be opened.
pub(crate) struct Loader {
    pub place: Arc<Place>,
    pub config: Arc<LogConfig>,
    pub now: Timestamp,
    pub segments: Vec<Segment>,
    pub epochs: LeaderEpochs,
    pub producers: ProducerStates,
    pub report: RecoveryReport,
    /// Files were made, renamed or removed on the way.
    pub has_changed: bool,
    /// The offsets of the producer snapshots on disk.
    snapshots: BTreeSet<i64>,
    cleaned_to: i64,
    /// The segments that a cleaning has replaced a moment before the crash, perhaps before it wrote its checkpoint: what
    /// they replaced is still there, as `.deleted`.
    replaced: BTreeSet<i64>,
}

/// `{base:020}` in front of a suffix.
pub(crate) fn base_of(name: &str, suffix: &str) -> Option<i64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// The base offset of any file of a segment, whatever its suffix.
fn base_of_any(name: &str) -> Option<i64> {
    name.get(..20)?.parse().ok()
}

impl Loader {
    pub fn load(
        place: Arc<Place>,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        recovery: Recovery,
        is_new: bool,
        now: Timestamp,
    ) -> Result<(Self, Offset), LogError> {
        let producers = ProducerStates::new(producers, recovery.log_start.0);
        let (segments, epochs, report) = (Vec::new(), LeaderEpochs::default(), RecoveryReport::default());
        let cleaned_to = recovery.cleaned_to.unwrap_or(Offset::ZERO).0;
        let mut loader = Self {
            place,
            config,
            now,
            segments,
            epochs,
            producers,
            report,
            has_changed: is_new,
            snapshots: BTreeSet::new(),
            cleaned_to,
            replaced: BTreeSet::new(),
        };
        let names = if is_new { Vec::new() } else { loader.names()? };
        let names = loader.finish_interrupted_cleaning(names)?;
        loader.open_segments(&names)?;
        let has_epochs_file = names.iter().any(|name| name == leader_epochs::FILE);
        let stored_epochs = if has_epochs_file { LeaderEpochs::load(&loader.place)? } else { None };
        let has_epochs = stored_epochs.is_some();
        loader.epochs = stored_epochs.unwrap_or_default();
        let stored = has_epochs.then(|| loader.epochs.entries().to_vec());
        let mut scan_from = None;
        if !recovery.clean && !loader.segments.is_empty() {
            scan_from = Some(loader.segment_index(recovery.recovery_point.0));
        }
        let mut log_end = match loader.clean_end() {
            Ok(end) => end,
            Err(LogError::Corrupt(damage)) => {
                // A clean shutdown was announced, and yet: fall back to reading the last segment.
                tracing::error!("{damage}; reading the segment anew");
                scan_from = scan_from.or(Some(loader.segments.len().saturating_sub(1)));
                recovery.log_start.0
            }
            Err(error) => return Err(error),
        };
        if scan_from.is_none() {
            loader.rebuild_missing_indexes()?;
        }
        let scan_base = scan_from.and_then(|index| loader.segments.get(index)).map(|segment| segment.base);
        let replay_to = scan_base.unwrap_or(log_end);
        let from = loader.load_snapshot(replay_to, recovery.log_start.0)?;
        loader.replay(from, replay_to, !has_epochs)?;
        if let Some(first) = scan_from {
            loader.epochs.truncate_end(Offset(replay_to));
            log_end = loader.scan_segments(first)?;
        }
        let log_end = loader.ensure_segment(log_end, recovery.log_start.0, is_new)?;
        loader.remove_stray_snapshots(log_end)?;
        loader.epochs.truncate_end(Offset(log_end));
        if stored.as_deref() == Some(loader.epochs.entries()) {
            // What a scan dropped it has found again: to replace thousands of files by the same takes longer than the scans.
            loader.epochs.is_as_stored();
        }
        loader.epochs.save_or_put_off(&loader.place)?;
        Ok((loader, Offset(log_end)))
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let entries =
            self.place.guard("listing", || self.place.dir.clone(), self.place.fs.read_dir(&self.place.dir))?;
        Ok(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect())
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.place.guard("syncing", || self.place.dir.clone(), self.place.fs.sync_dir(&self.place.dir))
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.has_changed = true;
        self.place.remove(&self.place.dir.join(name))
    }

    /// Removes what was being deleted or written, and completes the swap of cleaned segments (KAFKA-6264's order: a swap
    /// beside unfinished cleaned files of lower offsets is dropped).
    /// Answers with the names of the files that are there then.
    fn finish_interrupted_cleaning(&mut self, names: Vec<String>) -> Result<Vec<String>, LogError> {
        let leftovers = [DELETED_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX, TEMPORARY_SUFFIX];
        if !names.iter().any(|name| leftovers.iter().any(|end| name.ends_with(end))) {
            return Ok(names);
        }
        self.clear_leftovers(&names)?;
        Ok(self.names()?)
    }

    fn clear_leftovers(&mut self, names: &[String]) -> Result<(), LogError> {
        let replaced = names.iter().filter_map(|name| base_of(name.strip_suffix(DELETED_SUFFIX)?, LOG_SUFFIX));
        self.replaced = replaced.collect();
        let min_cleaned =
            names.iter().filter(|name| name.ends_with(CLEANED_SUFFIX)).filter_map(|name| base_of_any(name)).min();
        let mut swaps = Vec::new();
        for name in names {
            if name.ends_with(SWAP_SUFFIX)
                && base_of_any(name).is_some_and(|base| min_cleaned.is_none_or(|min| base < min))
            {
                swaps.push(name.clone());
            } else if [DELETED_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX, TEMPORARY_SUFFIX]
                .iter()
                .any(|end| name.ends_with(end))
            {
                self.remove(name)?;
            }
        }
        let swapped_log = |name: &String| base_of(name.strip_suffix(SWAP_SUFFIX)?, LOG_SUFFIX);
        let Some(first) = swaps.iter().filter_map(swapped_log).min() else {
            return swaps.iter().try_for_each(|name| Ok(self.remove(name)?));
        };
        let mut end = first;
        for name in swaps.iter().filter(|name| swapped_log(name).is_some()) {
            end = end.max(self.end_of(name)?);
        }
        // What has the name of a new file already is new; a log is renamed over the old one.
        let is_new = |base| swaps.iter().any(|name| swapped_log(name) == Some(base));
        for name in names.iter().filter(|name| !swaps.contains(name)) {
            if base_of_any(name).is_some_and(|base| base >= first && base < end && !is_new(base)) {
                self.remove(name)?;
            }
        }
        // The logs last, as in the swap itself, so that it can be completed again.
        let (logs, indexes): (Vec<_>, Vec<_>) = swaps.iter().partition(|name| swapped_log(name).is_some());
        for names in [indexes, logs] {
            for name in names {
                let to = self.place.dir.join(name.strip_suffix(SWAP_SUFFIX).unwrap_or(name));
                self.has_changed = true;
                let result = self.place.fs.rename(&self.place.dir.join(name), &to);
                self.place.guard("renaming", || self.place.dir.join(name), result)?;
            }
            self.sync_dir()?;
        }
        Ok(())
    }

    /// The offset behind the last batch of a file that is not a segment yet.
    fn end_of(&self, name: &str) -> Result<i64, StorageError> {
        let path = self.place.dir.join(name);
        let file = self.place.guard("opening", || path.clone(), self.place.fs.open(&path, OpenMode::Read))?;
        let len = self.place.guard("reading", || path.clone(), file.len())?;
        let mut scan = Scan::new(&*file, 0, len, RECOVERY_BUFFER_BYTES);
        let mut end = base_of_any(name).unwrap_or(0);
        while let Ok(Some((_, header))) = scan.next() {
            end = header.next_offset().0;
        }
        Ok(end)
    }

    /// Opens the segments in order, and notes the snapshots. Indexes without a log are removed.
    fn open_segments(&mut self, names: &[String]) -> Result<(), LogError> {
        let present: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        for name in names {
            if let Some(base) = base_of(name, LOG_SUFFIX) {
                let has = |suffix: &str| present.contains(format!("{base:020}{suffix}").as_str());
                self.segments.push(Segment::existing(&self.place, base, has, self.now)?);
            } else if let Some(offset) = base_of(name, producer_snapshot::SUFFIX) {
                self.snapshots.insert(offset);
            } else {
                let suffixes = [offset_index::SUFFIX, time_index::SUFFIX, txn_index::SUFFIX];
                let base = suffixes.iter().find_map(|suffix| base_of(name, suffix));
                if base.is_some_and(|base| !present.contains(format!("{base:020}{LOG_SUFFIX}").as_str())) {
                    tracing::warn!("removing the index {name} in {}, which has no log", self.place.dir.display());
                    self.remove(name)?;
                }
            }
        }
        self.segments.sort_by_key(|segment| segment.base);
        Ok(())
    }

    fn segment_index(&self, offset: i64) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }

    /// The end of the last segment by its index and headers.
    fn clean_end(&self) -> Result<i64, LogError> {
        self.segments.last().map_or(Ok(0), |segment| segment.next_offset(&self.place))
    }

    fn rebuild_missing_indexes(&mut self) -> Result<(), LogError> {
        let active = self.segments.len().saturating_sub(1);
        for (index, segment) in self.segments.iter_mut().enumerate() {
            let damaged = segment.index_is_damaged.load(Ordering::Relaxed)
                || (index == active && segment.size > 0 && !segment.indexes_look_sound(&self.place)?);
            if damaged {
                tracing::warn!("rebuilding the indexes of {}", segment.path(&self.place).display());
                match segment.rebuild_indexes(&self.place, self.config.index_interval_bytes) {
                    // A damaged batch costs its readers, not the whole log: offsets before it are served.
                    Err(LogError::Corrupt(damage)) => tracing::error!("{damage}"),
                    result => result?,
                }
                self.report.indexes_rebuilt += 1;
                self.has_changed = true;
            }
        }
        Ok(())
    }

    /// Loads the newest sound snapshot at or below `end` into the producer state. Returns the offset it stands for. One below
    /// the log's start is none: batches between them, which would have to be added to it, may be deleted.
    fn load_snapshot(&mut self, end: i64, log_start: i64) -> Result<i64, LogError> {
        let start = self.segments.first().map_or(log_start, |segment| segment.base.max(log_start));
        let newest = |snapshots: &BTreeSet<i64>| snapshots.range(..=end).next_back().copied();
        while let Some(offset) = newest(&self.snapshots).filter(|offset| *offset >= start) {
            let path = self.place.file(offset, producer_snapshot::SUFFIX);
            match self.place.guard("reading", || path.clone(), producer_snapshot::read(&self.place, offset))? {
                Some(producers) => {
                    self.producers.load(producers, offset, self.now);
                    return Ok(offset);
                }
                None => {
                    tracing::warn!("the producer snapshot {} is damaged: removing it", path.display());
                    self.remove_snapshot(offset)?;
                }
            }
        }
        self.producers.clear(start);
        Ok(start)
    }

    fn remove_snapshot(&mut self, offset: i64) -> Result<(), StorageError> {
        self.has_changed = true;
        self.snapshots.remove(&offset);
        self.place.remove(&self.place.file(offset, producer_snapshot::SUFFIX))
    }

    /// Takes the batches of `from..to` into the producer state, and all batches below `to` into the leader epochs when
    /// `epochs` asks for it. Reads headers, and the content of control batches.
    fn replay(&mut self, from: i64, to: i64, epochs: bool) -> Result<(), LogError> {
        let Self { place, segments, producers, epochs: leader_epochs, .. } = self;
        for (index, segment) in segments.iter().enumerate() {
            let next = segments.get(index + 1).map_or(i64::MAX, |next| next.base);
            if segment.base >= to || (next <= from && !epochs) {
                continue;
            }
            let start = if epochs { segment.base } else { from.max(segment.base) };
            let visited = segment.visit_from(place, start, |position, header| {
                if header.base_offset.0 >= to {
                    return Ok(Some(()));
                }
                if epochs {
                    assign_epoch(leader_epochs, header);
                }
                replay_batch(producers, from, place, segment, position, header)?;
                Ok(None)
            });
            match visited {
                // What cannot be read tells nothing; the batches themselves are guarded by whoever reads them.
                Err(LogError::Corrupt(damage)) => tracing::error!("{damage}"),
                result => drop(result?),
            }
        }
        producers.end = producers.end.max(to);
        Ok(())
    }

    /// Reads every batch from segment number `first` on, and cuts the log where one is not sound. Returns the log end.
    fn scan_segments(&mut self, first: usize) -> Result<i64, LogError> {
        let mut expected = self.segments.get(first).map_or(0, |segment| segment.base);
        let mut index = first;
        while index < self.segments.len() {
            let is_last = index + 1 == self.segments.len();
            let damage = self.scan_segment(index, &mut expected)?.or_else(|| self.hole_behind(index, expected));
            self.report.segments_scanned += 1;
            if let Some(mut damage) = damage {
                damage.segments_dropped = self.segments.len() - index - 1;
                if is_last {
                    tracing::warn!(
                        "cut {} bytes from {} at byte {} (offset {}): {}",
                        damage.bytes_cut,
                        damage.file.display(),
                        damage.position,
                        damage.offset,
                        damage.reason
                    );
                } else {
                    tracing::error!(
                        "{} is damaged at byte {} (offset {}): {}; cut the log there and dropped {} later segments",
                        damage.file.display(),
                        damage.position,
                        damage.offset,
                        damage.reason,
                        damage.segments_dropped
                    );
                }
                let dropped = self.segments.split_off(index + 1);
                for segment in &dropped {
                    self.snapshots.remove(&segment.base);
                    remove_segment(&self.place, segment.base)?;
                }
                self.sync_dir()?;
                self.report.damage = Some(damage);
            }
            // The state at the end of a segment, so that the next start need not read it again.
            if let Some(next) = self.segments.get(index + 1).map(|segment| segment.base) {
                let result = producer_snapshot::write(&self.place, next, &self.producers.producers);
                self.place.guard("writing", || self.place.file(next, producer_snapshot::SUFFIX), result)?;
                self.snapshots.insert(next);
                self.producers.snapshot = next;
                self.producers.end = self.producers.end.max(next);
            }
            index += 1;
        }
        Ok(expected)
    }

    /// Records that are missing between a segment and the next one: the power failed after the later file had reached the
    /// disk and before the end of the earlier had. Kafka's compaction leaves such holes on purpose (the one here keeps the
    /// last batch of each segment), but only behind segments that it has written anew, and synced. The topic's configs
    /// would not tell: what a compacted log has not cleaned yet can be lost like any other.
    fn hole_behind(&self, index: usize, end: i64) -> Option<Damage> {
        let (segment, next) = (self.segments.get(index)?, self.segments.get(index + 1)?);
        let is_clean = next.base <= self.cleaned_to || self.replaced.contains(&segment.base);
        let is_hole = next.base > end && !is_clean;
        is_hole.then(|| Damage {
            file: segment.path(&self.place),
            position: segment.size,
            offset: Offset(end),
            reason: format!("the records from offset {end} to {} are missing", next.base),
            bytes_cut: 0,
            segments_dropped: 0,
        })
    }

    fn scan_segment(&mut self, index: usize, expected: &mut i64) -> Result<Option<Damage>, LogError> {
        let Self { place, config, segments, producers, epochs, report, .. } = self;
        let is_last = index + 1 == segments.len();
        let Some(segment) = segments.get_mut(index) else {
            return Ok(None);
        };
        *expected = (*expected).max(segment.base);
        let size = segment.size;
        if size == 0 {
            segment.begin_rebuild(place)?;
            let result = segment.txn_index.reset(place);
            return segment.guard_txn_index(place, result).map(|()| None);
        }
        let file = segment.file(place)?;
        if size > RECOVERY_BUFFER_BYTES as u64 {
            // Only speed depends on it.
            let _ = file.advise(0, size, Advice::Sequential);
        }
        let mut counted = 0;
        segment.begin_rebuild(place)?;
        let result = segment.txn_index.reset(place);
        segment.guard_txn_index(place, result)?;
        let mut scan = Scan::new(&*file, 0, size, RECOVERY_BUFFER_BYTES);
        let failure = loop {
            let (position, header) = match scan.next() {
                Ok(None) => break None,
                Ok(Some(next)) => next,
                Err(ScanError::Batch(position, error)) => break Some((position, error.to_string())),
                Err(ScanError::Io(error)) => return Err(read_failed(place, segment, &error)),
            };
            match scan.check_crc(position, &header) {
                Ok(()) => {}
                Err(ScanError::Batch(position, error)) => break Some((position, error.to_string())),
                Err(ScanError::Io(error)) => return Err(read_failed(place, segment, &error)),
            }
            if header.base_offset.0 < *expected || !segment.offset_index.can_hold(header.last_offset().0) {
                break Some((position, format!("the batch begins at offset {}", header.base_offset)));
            }
            // Bytes that a truncation dropped can come back when it was not synced, behind batches of a later leader.
            if let Some(last) =
                epochs.latest().filter(|last| header.leader_epoch.0 >= 0 && header.leader_epoch < last.epoch)
            {
                let (epoch, last) = (header.leader_epoch, last.epoch);
                break Some((position, format!("the batch of leader epoch {epoch} follows one of epoch {last}")));
            }
            // No CRC covers a batch's offset and epoch. Where one of them jumps, the next batch tells whether it should have.
            let before = epochs.latest().map_or(LeaderEpoch::NONE, |last| last.epoch);
            if header.base_offset.0 > *expected || header.leader_epoch > before {
                let next = scan.peek().map_err(|error| read_failed(place, segment, &error))?;
                if let Some(reason) = next.and_then(|next| false_jump(&header, &next, *expected, before)) {
                    break Some((position, reason));
                }
            }
            let marker = match marker_at(place, segment, position, &header) {
                Err(LogError::Corrupt(damage)) => break Some((position, damage.reason)),
                result => result?,
            };
            let result = segment.note_batch(place, &header, config.index_interval_bytes);
            place.guard("writing", || segment.offset_index.file.path(place), result)?;
            assign_epoch(epochs, &header);
            if let Some(completed) = producers.apply(&header, marker)
                && let Some(aborted) = producers.complete(completed)
            {
                segment.append_aborted(place, &aborted)?;
            }
            *expected = header.next_offset().0;
            if segment.size - counted >= PROGRESS_BYTES {
                place.log_dir.count_scanned(segment.size - counted);
                counted = segment.size;
            }
        };
        place.log_dir.count_scanned(segment.size - counted);
        report.bytes_scanned += segment.size;
        let is_unwritten = match &failure {
            Some((position, _)) => match is_unwritten(&*file, *position, size) {
                Ok(is_unwritten) => is_unwritten,
                Err(error) => return Err(read_failed(place, segment, &error)),
            },
            None => false,
        };
        if is_unwritten {
            // Preallocated, or grown by a write that never reached the disk: nothing that was there is missing.
            let (path, cut) = (segment.path(place), size - segment.size);
            tracing::debug!("cutting {cut} bytes of zeros from the end of {}", path.display());
            place.guard("truncating", || path, file.set_len(segment.size))?;
            if !is_last {
                segment.close_indexes(place)?;
            }
            return Ok(None);
        }
        let damage = failure.map(|(position, reason)| Damage {
            file: segment.path(place),
            position,
            offset: Offset(*expected),
            reason,
            bytes_cut: size - position,
            segments_dropped: 0,
        });
        if let Some(damage) = &damage {
            // At once on disk: what is appended in its place must never be followed by what was cut.
            let result = file.set_len(damage.position).and_then(|()| file.sync_data());
            place.guard("truncating", || damage.file.clone(), result)?;
        }
        // The last one is written to again: its newest entries wait in memory, as they did before.
        if !is_last {
            segment.close_indexes(place)?;
        }
        Ok(damage)
    }

    /// A log has a segment, and does not end before it starts: what lies wholly below `log_start` is dropped.
    fn ensure_segment(&mut self, log_end: i64, log_start: i64, is_new: bool) -> Result<i64, LogError> {
        if self.segments.last().is_some_and(|_| log_end >= log_start) {
            return Ok(log_end);
        }
        if !self.segments.is_empty() {
            let dir = self.place.dir.display();
            tracing::warn!("{dir}: the log ends at {log_end}, before its start {log_start}: dropping its segments");
            let size = self.segments.iter().map(|segment| segment.size).sum();
            self.report.damage.get_or_insert_with(|| Damage {
                file: self.place.dir.clone(),
                position: 0,
                offset: Offset(log_start),
                reason: format!("the log ends at offset {log_end}, before its start {log_start}"),
                bytes_cut: size,
                segments_dropped: self.segments.len(),
            });
            for segment in std::mem::take(&mut self.segments) {
                remove_segment(&self.place, segment.base)?;
            }
            self.has_changed = true;
        }
        self.epochs.clear();
        self.producers.clear(log_start);
        while let Some(offset) = self.snapshots.first().copied() {
            self.remove_snapshot(offset)?;
        }
        // Of what was removed nothing may come back beside the new segment. Thousands of new logs have nothing to sync.
        if std::mem::replace(&mut self.has_changed, true) && !is_new {
            self.sync_dir()?;
        }
        let preallocated = self.config.preallocated_bytes();
        self.segments.reserve_exact(1);
        self.segments.push(if is_new {
            Segment::create_first(&self.place, log_start, preallocated, self.now)?
        } else {
            Segment::create(&self.place, log_start, preallocated, self.now)?
        });
        Ok(log_start)
    }

    /// Keeps the snapshots at segment starts and the newest one, within the log.
    fn remove_stray_snapshots(&mut self, log_end: i64) -> Result<(), StorageError> {
        let within = self.segments.first().map_or(log_end, |segment| segment.base)..=log_end;
        let newest = self.snapshots.range(..=log_end).next_back().copied();
        for offset in self.snapshots.clone() {
            let at_segment = self.segments.binary_search_by_key(&offset, |segment| segment.base).is_ok();
            if !within.contains(&offset) || (!at_segment && Some(offset) != newest) {
                self.remove_snapshot(offset)?;
            }
        }
        Ok(())
    }
}

/// Why `header`, whose offset or leader epoch jumps, is damaged: the batch behind it goes on as if there had been no jump.
/// `expected` is the offset and `epoch` the leader epoch before it.
fn false_jump(header: &BatchHeader, next: &BatchHeader, expected: i64, epoch: LeaderEpoch) -> Option<String> {
    let (base, behind) = (header.base_offset, next.base_offset);
    if base.0 > expected && (expected..header.next_offset().0).contains(&behind.0) {
        return Some(format!("the batch begins at offset {base}, the one behind it at {behind}"));
    }
    let (own, later) = (header.leader_epoch, next.leader_epoch);
    (own > epoch && (epoch..own).contains(&later))
        .then(|| format!("the batch has leader epoch {own}, the one behind it {later}"))
}

fn assign_epoch(epochs: &mut LeaderEpochs, header: &BatchHeader) {
    if header.leader_epoch.0 >= 0 && epochs.latest().is_none_or(|last| header.leader_epoch > last.epoch) {
        epochs.assign(header.leader_epoch, header.base_offset);
    }
}

fn read_failed(place: &Place, segment: &Segment, error: &io::Error) -> LogError {
    place.log_dir.fail("reading", segment.path(place), error).into()
}

/// The marker in a control batch.
fn marker_at(
    place: &Place,
    segment: &Segment,
    position: u64,
    header: &BatchHeader,
) -> Result<Option<(EndTxnMarker, Timestamp)>, LogError> {
    if !header.attributes.is_control() || !header.has_producer() || header.size > CONTROL_BATCH_BYTES_MAX {
        return Ok(None);
    }
    let batch = Batch { header: *header, bytes: segment.read_batch(place, position, header)? };
    EndTxnMarker::of_batch(&batch)
        .map_err(|error| segment.corruption(place, position, header.base_offset.0, error.to_string()))
}

/// Takes a stored batch into the state of producers, unless all of it lies below `from`: the log start may lie inside a
/// batch, of which the rest can be read.
pub(crate) fn replay_batch(
    producers: &mut ProducerStates,
    from: i64,
    place: &Place,
    segment: &Segment,
    position: u64,
    header: &BatchHeader,
) -> Result<(), LogError> {
    if header.next_offset().0 > from {
        let marker = marker_at(place, segment, position, header)?;
        // Aborted transactions are in the transaction index already.
        if let Some(completed) = producers.apply(header, marker) {
            producers.complete(completed);
        }
    }
    Ok(())
}

/// Removes a segment's files, the log first: what is left without one is removed at the next start.
pub(crate) fn remove_segment(place: &Place, base: i64) -> Result<(), StorageError> {
    let suffixes = [LOG_SUFFIX, offset_index::SUFFIX, time_index::SUFFIX, txn_index::SUFFIX, producer_snapshot::SUFFIX];
    suffixes.iter().try_for_each(|suffix| place.remove(&place.file(base, suffix)))
}
