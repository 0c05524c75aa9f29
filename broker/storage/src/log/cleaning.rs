//! What a compacted log does for its cleaner: says what is to be cleaned, and takes cleaned segments in.

use crate::cleaner::{
    CLEANED_SUFFIX, CleanError, Cleanable, CleanerConfig, Cleaning, LastBatch, Material, Replacement, SWAP_SUFFIX,
    Source,
};
use crate::error::{LogError, StorageError};
use crate::log::{DeferredDelete, Log};
use crate::segment::LOG_SUFFIX;
use crate::{offset_index, time_index, txn_index};
use odradek_common::{Offset, time::Timestamp};
use std::sync::Arc;

/// Every file of a segment, the log last: once its name is final, so are the others'.
const SUFFIXES: [&str; 4] = [offset_index::SUFFIX, time_index::SUFFIX, txn_index::SUFFIX, LOG_SUFFIX];

impl Log {
    /// Where the last cleaning ended. `None`: there was none.
    pub fn cleaned_to(&self) -> Option<Offset> {
        self.cleaned_to
    }

    /// A checkpoint that is not within the log (retention, DeleteRecords or a damaged end have passed it by) is set to
    /// the log's start, as in Kafka. Returns what it was.
    pub fn reset_cleaned_to(&mut self) -> Option<Offset> {
        let invalid = self.cleaned_to.filter(|offset| !(self.log_start..=self.log_end).contains(offset))?;
        self.cleaned_to = Some(self.log_start);
        Some(invalid)
    }

    /// Notes that a cleaning is done up to this offset. The checkpoint is yet to be written.
    pub fn complete_cleaning(&mut self, cleaning: &Cleaning, cleaned_to: Offset) -> Result<(), CleanError> {
        if !cleaning.is_of(&self.place) {
            return Err(CleanError::Superseded);
        }
        self.cleaned_to = Some(cleaned_to);
        Ok(())
    }

    /// What there is to clean, where `cleaned_to` is how far the last cleaning came. `None`: nothing. Only what is on disk
    /// is cleaned: flush the log before, so that its producers' last batches are, too.
    pub fn cleanable(&self, cleaned_to: Option<Offset>, now: Timestamp) -> Result<Option<Cleanable>, LogError> {
        self.check_online()?;
        let is_known = |offset: &Offset| (self.log_start..=self.log_end).contains(offset);
        let first_dirty = cleaned_to.filter(is_known).unwrap_or(self.log_start);
        let first = self.segment_index(first_dirty);
        // What replaces a record must be on disk before the record goes.
        let bound = self.last_stable_offset().min(self.recovery_point);
        let mut end = self.segment_index(bound).min(self.segments.len() - 1);
        let lag = self.config.min_compaction_lag_ms;
        if lag > 0 {
            for (index, segment) in self.segments.iter().enumerate().take(end).skip(first) {
                if segment.max_timestamp(&self.place)?.0 > now.0.saturating_sub(lag) {
                    end = index;
                    break;
                }
            }
        }
        let Some(uncleanable) = self.segments.get(end).filter(|next| next.base > first_dirty.0) else {
            return Ok(None);
        };
        let bytes = |from: usize, to: usize| self.segments.iter().take(to).skip(from).map(|segment| segment.size).sum();
        let mut is_overdue = false;
        let lag_max = self.config.max_compaction_lag_ms;
        if lag_max < i64::MAX {
            for segment in self.segments.iter().take(end).skip(first) {
                let time = segment.first_batch_time(&self.place)?;
                is_overdue |= time.is_some_and(|time| now.0.saturating_sub(time) > lag_max);
            }
        }
        let (clean_bytes, dirty_bytes) = (bytes(0, first), bytes(first, end));
        Ok(Some(Cleanable { first_dirty, end: Offset(uncleanable.base), clean_bytes, dirty_bytes, is_overdue }))
    }

    /// Opens what is to be cleaned. One cleaning of a log at a time.
    pub fn begin_cleaning(
        &self,
        cleanable: &Cleanable,
        config: CleanerConfig,
        now: Timestamp,
    ) -> Result<Cleaning, LogError> {
        self.check_online()?;
        self.remove_leftovers()?;
        let place = &self.place;
        let (mut sources, mut aborted) = (Vec::new(), Vec::new());
        for (index, segment) in self.segments.iter().enumerate() {
            aborted.extend(segment.guard_txn_index(place, segment.txn_index.entries(place))?);
            let Some(next) = self.segments.get(index + 1) else { break };
            if segment.base >= cleanable.end.0 {
                continue;
            }
            let (offsets, times) = (&segment.offset_index.file, &segment.time_index.file);
            let offsets = place.guard("reading", || offsets.path(place), offsets.count(place))?;
            let times = place.guard("reading", || times.path(place), times.count(place))?;
            sources.push(Source {
                base: segment.base,
                next_base: next.base,
                size: segment.size,
                index_bytes: (offsets * offset_index::ENTRY_BYTES) as u64,
                time_index_bytes: (times * time_index::ENTRY_BYTES) as u64,
                created: segment.created,
                file: segment.file(place)?,
            });
        }
        let last = |entry: &crate::producer_state::ProducerEntry| LastBatch {
            last_offset: entry.batches.back().map(|batch| batch.last_offset),
            epoch: entry.epoch,
        };
        let producers = self.producers.producers.iter().map(|(id, entry)| (*id, last(entry))).collect();
        let material = Material {
            place: place.clone(),
            log_config: self.config.clone(),
            first_dirty: cleanable.first_dirty.0,
            sources,
            aborted,
            producers,
            truncations: place.truncations(),
        };
        Ok(Cleaning::new(material, config, now))
    }

    /// A cleaning that was given up leaves files behind, which a start after a crash would take for one that was under
    /// way at that time.
    pub fn remove_leftovers(&self) -> Result<(), StorageError> {
        let place = &self.place;
        for entry in place.guard("listing", || place.dir.clone(), place.fs.read_dir(&place.dir))? {
            if entry.name.ends_with(CLEANED_SUFFIX) {
                place.remove(&place.dir.join(&entry.name))?;
            }
        }
        Ok(())
    }

    /// Puts a cleaned segment in the place of its sources. Readers that have those open go on with them; their files go
    /// when what is returned is run.
    ///
    /// 1. Every `.cleaned` file is renamed to `.swap`; the directory is synced. From here on a start completes the swap;
    ///    before, it drops it.
    /// 2. The sources become `.deleted`, the new indexes get their names; the directory is synced.
    /// 3. The new log gets its name. A `.swap` log says, as long as it is there, that what has its final name already is
    ///    new, and that other files of its range are old.
    ///
    /// A failure takes the directory offline, as any other does.
    pub fn replace_segments(&mut self, replacement: Replacement) -> Result<DeferredDelete, CleanError> {
        self.check_online()?;
        let place = self.place.clone();
        let Replacement { segment, sources, .. } = &replacement;
        let (base, count) = (segment.base, sources.len());
        let first = self.segments.partition_point(|segment| segment.base < base);
        let current = self.segments.iter().skip(first).take(count).map(|segment| (segment.base, segment.size));
        let is_current = Arc::ptr_eq(&replacement.place, &place)
            && replacement.truncations == place.truncations()
            && first + count < self.segments.len()
            && current.eq(sources.iter().copied());
        if !is_current {
            return Err(CleanError::Superseded);
        }
        let rename = |from: String, to: String| {
            let (from, to) = (place.file(base, &from), place.file(base, &to));
            place.guard("renaming", || from.clone(), place.fs.rename(&from, &to))
        };
        for suffix in SUFFIXES {
            rename(format!("{suffix}{CLEANED_SUFFIX}"), format!("{suffix}{SWAP_SUFFIX}"))?;
        }
        place.sync_dir()?;
        let deferred = self.rename_deleted(&sources.iter().map(|(base, _)| *base).collect::<Vec<_>>())?;
        for suffix in SUFFIXES.iter().filter(|suffix| **suffix != LOG_SUFFIX) {
            rename(format!("{suffix}{SWAP_SUFFIX}"), (*suffix).to_owned())?;
        }
        place.sync_dir()?;
        rename(format!("{LOG_SUFFIX}{SWAP_SUFFIX}"), LOG_SUFFIX.to_owned())?;
        self.names_unsynced = true;
        let merged: Vec<i64> = sources.iter().map(|(base, _)| *base).filter(|source| *source != base).collect();
        self.segments.splice(first..first + count, [replacement.segment]);
        if !merged.is_empty() {
            self.remove_snapshots(|offset| merged.contains(&offset))?;
        }
        Ok(deferred)
    }
}
