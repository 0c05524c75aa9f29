//! Flushing: what is below the recovery point is on disk.
//!
//! A sync may take long, so it is split: `flush_job` collects what has to be synced (under the partition's lock),
//! `FlushJob::run` syncs it (without), `complete_flush` moves the recovery point (under the lock again). Appends go on
//! meanwhile. One job at a time: one that found less to do, as another has taken the files, would move the recovery point
//! before that other is done.
//!
//! **What is synced.** Of the segment that is written to, the log file alone: after a crash recovery reads the segment that
//! the recovery point lies in from its start, and makes its indexes anew. So a flush of a few records is one sync and not
//! three. Of every other segment all that changed, as nobody reads it again once the recovery point is behind it (a segment that is
//! closed when all of it was flushed syncs its indexes then).

use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::fs::{File, OpenMode};
use odradek_common::{Offset, time::Timestamp};

use crate::checkpoints::PARTITION_METADATA;
use crate::dir::Place;
use crate::error::{LogError, SYNCING, StorageError};
use crate::log::Log;
use crate::producer_snapshot;
use crate::segment::Segment;

type Unsynced = (Vec<Arc<dyn File>>, Option<Arc<dyn File>>);

/// Work that makes the log durable up to an offset.
#[must_use = "nothing is synced before the job is run"]
#[derive(Debug)]
pub struct FlushJob {
    place: Arc<Place>,
    files: Vec<Arc<dyn File>>,
    snapshot: Option<PathBuf>,
    names: bool,
    dir: bool,
    until: Offset,
    active: Offset,
    truncations: u64,
}

/// A job that succeeded.
#[must_use = "hand it to `Log::complete_flush`"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Everything below was synced.
    pub until: Offset,
    /// The base of the segment that was written to then, of which no index was synced.
    active: Offset,
    truncations: u64,
}

impl FlushJob {
    /// How many files and directories are to be synced.
    pub fn count(&self) -> usize {
        let dir = if self.dir { 2 } else { 0 };
        self.files.len() + usize::from(self.snapshot.is_some()) + usize::from(self.names) + dir
    }

    /// In place of [`FlushJob::run`], after the whole file system was synced ([`LogDir::sync_whole`](crate::LogDir)) since
    /// the job was made.
    pub fn was_synced_whole(self) -> Flushed {
        Flushed { until: self.until, active: self.active, truncations: self.truncations }
    }

    /// Syncs. A failure takes the log directory offline.
    pub fn run(self) -> Result<Flushed, StorageError> {
        let place = &self.place;
        place.log_dir.check()?;
        let path = || place.dir.clone();
        for file in &self.files {
            place.guard(SYNCING, path, file.sync_data())?;
        }
        let metadata = self.dir.then(|| place.dir.join(PARTITION_METADATA));
        for path in self.snapshot.into_iter().chain(metadata) {
            let synced = place.fs.open(&path, OpenMode::ReadWrite).and_then(|file| file.sync_data());
            // Retention may have removed a snapshot meanwhile.
            if synced.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
                place.guard(SYNCING, || path, synced)?;
            }
        }
        if self.names {
            match place.fs.sync_dir(&place.dir) {
                // Deleted meanwhile, and its name with it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && place.is_gone() => {}
                result => place.guard(SYNCING, path, result)?,
            }
        }
        if self.dir {
            place.guard(SYNCING, || place.log_dir.path.clone(), place.fs.sync_dir(&place.log_dir.path))?;
        }
        Ok(Flushed { until: self.until, active: self.active, truncations: self.truncations })
    }
}

impl Log {
    /// Whether `flush.messages` or `flush.ms` asks for a flush.
    pub fn is_flush_due(&self, now: Timestamp) -> bool {
        let unflushed = self.log_end.0 - self.recovery_point.0;
        unflushed > 0
            && (unflushed >= self.config.flush_messages
                || now.0.saturating_sub(self.last_flush.0) >= self.config.flush_ms)
    }

    /// How long records that are not flushed may wait yet by `flush.ms`, in milliseconds; `None`: for ever, or there are
    /// none.
    pub fn flush_wait_ms(&self, now: Timestamp) -> Option<i64> {
        let waits = self.recovery_point < self.log_end && self.config.flush_ms < i64::MAX;
        waits.then(|| (self.last_flush.0.saturating_add(self.config.flush_ms)).saturating_sub(now.0).max(0))
    }

    /// What has to be done so that every record appended so far is durable; `None` when it is.
    pub fn flush_job(&mut self, now: Timestamp) -> Result<Option<FlushJob>, LogError> {
        self.collect(now, false)
    }

    /// As [`Log::flush_job`], with the indexes of the active segment too: a start after a clean shutdown trusts them.
    pub(super) fn flush_job_of_all(&mut self, now: Timestamp) -> Result<Option<FlushJob>, LogError> {
        self.collect(now, true)
    }

    fn collect(&mut self, now: Timestamp, with_all_indexes: bool) -> Result<Option<FlushJob>, LogError> {
        self.check_online()?;
        self.last_flush = now;
        let place = self.place.clone();
        let (mut files, epochs) = match self.take_unsynced(with_all_indexes) {
            Err(error) => {
                // Nothing of it will be synced now, and all of it has to be one day.
                let first = self.segment_index(self.recovery_point);
                self.segments.iter_mut().skip(first).for_each(Segment::mark_unsynced);
                self.epochs.mark_unsynced();
                self.names_unsynced = true;
                return Err(error.into());
            }
            Ok(taken) => taken,
        };
        let names = std::mem::take(&mut self.names_unsynced) | epochs.is_some();
        files.extend(epochs);
        let dir = std::mem::take(&mut self.dir_unsynced);
        if files.is_empty() && !names && !dir && self.recovery_point == self.log_end {
            return Ok(None);
        }
        let snapshot = (names && self.producers.snapshot > self.log_start.0)
            .then(|| place.file(self.producers.snapshot, producer_snapshot::SUFFIX));
        let (until, active, truncations) = (self.log_end, self.active_segment_base(), self.place.truncations());
        Ok(Some(FlushJob { place, files, snapshot, names, dir, until, active, truncations }))
    }

    /// The files of the segments that have to be synced, and that of the epochs.
    fn take_unsynced(&mut self, with_all_indexes: bool) -> Result<Unsynced, StorageError> {
        let mut files = Vec::new();
        if let Some((active, closed)) = self.segments.split_last_mut() {
            for segment in closed {
                segment.take_unsynced(&self.place, false, &mut files)?;
            }
            match with_all_indexes {
                true => active.take_unsynced(&self.place, false, &mut files)?,
                false => active.take_unsynced_log(&self.place, &mut files)?,
            }
        }
        Ok((files, self.epochs.take_unsynced(&self.place)?))
    }

    /// Moves the recovery point to what a job has synced, unless the log was truncated meanwhile; nor when the segment that
    /// was the active one has been closed just there, as recovery would not read it again then, and its indexes are not on
    /// disk: closing it asks for the next flush.
    pub fn complete_flush(&mut self, flushed: Flushed) {
        let begins_there = self
            .segments
            .get(self.segment_index(flushed.until))
            .is_some_and(|segment| segment.base == flushed.until.0 && segment.base > flushed.active.0);
        if flushed.truncations == self.place.truncations() && !begins_there {
            self.recovery_point = self.recovery_point.max(flushed.until);
        }
    }

    /// Makes everything appended so far durable, waiting for the disk.
    pub fn flush(&mut self, now: Timestamp) -> Result<(), LogError> {
        if let Some(job) = self.flush_job(now)? {
            let flushed = job.run()?;
            self.complete_flush(flushed);
        }
        Ok(())
    }
}
