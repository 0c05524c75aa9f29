//! What makes a log's front go away: retention by time and size, DeleteRecords, and the deletion of a whole partition.
//!
//! Files are renamed at once and removed by a [`DeferredDelete`], because removing a large file takes its time. A reader
//! that has a file open keeps it until it is done.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use odradek_common::fs::is_full;
use odradek_common::{Offset, Uuid, time::Timestamp};

use crate::dir::Place;
use crate::error::{LogError, StorageError};
use crate::log::Log;
use crate::log::moving::{NAME_BYTES_MAX, hex};
use crate::segment::LOG_SUFFIX;
use crate::{offset_index, time_index, txn_index};

/// Files or a directory out of sight, still to be removed, `file.delete.delay.ms` from now. Dropping it leaves them to
/// the next start.
#[must_use = "the files stay until it is run"]
#[derive(Debug)]
pub struct DeferredDelete {
    place: Arc<Place>,
    files: Vec<PathBuf>,
    dir: Option<PathBuf>,
    pub delay_ms: i64,
}

impl DeferredDelete {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dir.is_none()
    }

    pub fn run(self) -> Result<(), StorageError> {
        for file in &self.files {
            self.place.remove(file)?;
        }
        if let Some(dir) = self.dir {
            let result = match self.place.fs.remove_dir_all(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result,
            };
            self.place.guard("removing", || dir, result)?;
        }
        Ok(())
    }
}

impl Log {
    /// Drops whole segments that retention no longer keeps: below the high watermark, older than `retention.ms`, beyond
    /// `retention.bytes`, or below the log's start. Moves the log's start accordingly.
    pub fn delete_old_segments(&mut self, now: Timestamp) -> Result<DeferredDelete, LogError> {
        self.check_online()?;
        self.rebuild_damaged_indexes()?;
        let count = self.count_deletable(now)?;
        self.delete_first(count, now)
    }

    fn count_deletable(&mut self, now: Timestamp) -> Result<usize, LogError> {
        let config = self.config.clone();
        let mut excess = match config.retention_bytes {
            limit @ 0.. if config.cleanup_delete => self.size_bytes().saturating_sub(limit as u64),
            _ => 0,
        };
        let mut count = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let is_active = index + 1 == self.segments.len();
            let end = self.segments.get(index + 1).map_or(self.log_end.0, |next| next.base);
            if end > self.high_watermark.0 || (is_active && segment.size == 0) {
                break;
            }
            let by_size = excess > 0 && excess >= segment.size;
            let by_time = config.cleanup_delete && config.retention_ms >= 0 && {
                let (max, _) = segment.max_timestamp(&self.place)?;
                let newest = match max {
                    0.. => max,
                    // No record has a time: as in Kafka, that of the file counts.
                    _ => segment.file(&self.place)?.modified().unwrap_or(segment.created).0,
                };
                now.0.saturating_sub(newest) > config.retention_ms
            };
            let below_start = !is_active && end <= self.log_start.0;
            if !(by_size || by_time || below_start) {
                break;
            }
            // Whatever takes a segment, the log has become smaller by it.
            excess = excess.saturating_sub(segment.size);
            count += 1;
        }
        Ok(count)
    }

    fn delete_first(&mut self, mut count: usize, now: Timestamp) -> Result<DeferredDelete, LogError> {
        // There is always a segment to write to, at the offset that comes next. On a full disk it is the last one still,
        // which goes when those before it have made room.
        if count > 0 && count == self.segments.len() {
            match self.roll(None, now) {
                Err(error) if error.is_full() => count -= 1,
                result => result?,
            }
        }
        if count == 0 {
            return Ok(self.rename_deleted(&[])?);
        }
        let start = self.segments.get(count).map_or(self.log_end, |segment| Offset(segment.base));
        self.move_log_start(self.log_start.max(start))?;
        // The oldest first and each one's log first, so that a crash leaves a log without a gap.
        let bases: Vec<i64> = self.segments.drain(..count).map(|segment| segment.base).collect();
        let deferred = self.rename_deleted(&bases)?;
        self.remove_snapshots(|offset| offset < start.0)?;
        self.names_unsynced = true;
        Ok(deferred)
    }

    /// Takes the files of segments out of sight.
    pub(super) fn rename_deleted(&self, bases: &[i64]) -> Result<DeferredDelete, StorageError> {
        let place = self.place.clone();
        let mut files = Vec::new();
        for base in bases {
            for suffix in [LOG_SUFFIX, offset_index::SUFFIX, time_index::SUFFIX, txn_index::SUFFIX] {
                let from = place.file(*base, suffix);
                let to = place.file(*base, &format!("{suffix}.deleted"));
                match place.fs.rename(&from, &to) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    // A longer name may need room; a removal makes some.
                    Err(error) if is_full(&error) => place.remove(&from)?,
                    result => {
                        place.guard("renaming", || from, result)?;
                        files.push(to);
                    }
                }
            }
        }
        Ok(DeferredDelete { place, files, dir: None, delay_ms: self.config.file_delete_delay_ms })
    }

    /// DeleteRecords, and a follower's answer to its leader's: nothing below `offset` can be read any more. Segments
    /// wholly below go with the next `delete_old_segments`. Returns whether the start moved.
    pub fn delete_records_before(&mut self, offset: Offset) -> Result<bool, LogError> {
        self.check_online()?;
        if offset > self.high_watermark {
            let (log_start, bound) = (self.log_start, self.high_watermark);
            return Err(LogError::OffsetOutOfRange { requested: offset, log_start, bound });
        }
        if offset <= self.log_start {
            return Ok(false);
        }
        self.move_log_start(offset)?;
        Ok(true)
    }

    fn move_log_start(&mut self, offset: Offset) -> Result<(), LogError> {
        if offset > self.log_start {
            self.log_start = offset;
            self.high_watermark = self.high_watermark.max(offset);
            self.epochs.truncate_start(offset);
            self.epochs.save_or_put_off(&self.place)?;
            self.producers.on_log_start(offset.0);
        }
        Ok(())
    }

    /// Rebuilds the indexes that a look-up found to be wrong.
    pub fn rebuild_damaged_indexes(&mut self) -> Result<(), LogError> {
        let place = self.place.clone();
        let interval = self.config.index_interval_bytes;
        for segment in self.segments.iter_mut().filter(|segment| segment.index_is_damaged.load(Ordering::Relaxed)) {
            match segment.rebuild_indexes(&place, interval) {
                Err(LogError::Corrupt(damage)) => tracing::error!("{damage}"),
                result => result?,
            }
        }
        Ok(())
    }

    /// Takes a deleted partition out of sight, as `<topic>-<partition>.<unique>-delete`; running what is returned removes
    /// it. The log is gone.
    pub fn delete(self, unique: Uuid) -> Result<DeferredDelete, LogError> {
        self.check_online()?;
        let suffix = format!("-{}.{}-delete", self.partition.partition, hex(unique));
        let mut topic = self.partition.topic.as_str();
        while topic.len() + suffix.len() > NAME_BYTES_MAX {
            topic = topic.split_at(topic.len() - 1).0;
        }
        let place = self.place.clone();
        let _no_step = place.end_cleaning();
        let to = place.log_dir.path.join(format!("{topic}{suffix}"));
        place.guard("renaming", || place.dir.clone(), place.fs.rename(&place.dir, &to))?;
        let result = place.fs.sync_dir(&place.log_dir.path);
        place.guard("syncing", || place.log_dir.path.clone(), result)?;
        let delay_ms = self.config.file_delete_delay_ms;
        Ok(DeferredDelete { place: place.clone(), files: Vec::new(), dir: Some(to), delay_ms })
    }
}
