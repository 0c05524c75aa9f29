//! Opening and closing a log.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::fs::{Fs, write_temporary};
use odradek_common::{Offset, TopicId, TopicPartition, time::Timestamp};

use crate::checkpoints::{self, PARTITION_METADATA, encode_topic_id, write_file_unsynced};
use crate::config::{LogConfig, ProducerStateConfig};
use crate::dir::{LogDir, Place};
use crate::error::LogError;
use crate::log::{FlushJob, Log};
use crate::recovery::{Loader, Recovery, RecoveryReport};
use crate::segment::Segment;

/// Where a log is: a partition in a log directory.
#[derive(Clone, Debug)]
pub struct LogLocation {
    pub fs: Arc<dyn Fs>,
    pub log_dir: Arc<LogDir>,
    pub partition: TopicPartition,
}

impl LogLocation {
    /// `<log dir>/<topic>-<partition>`
    pub fn dir(&self) -> PathBuf {
        self.log_dir.path.join(self.partition.to_string())
    }
}

impl Log {
    /// Opens a partition's log, or makes it. The high watermark begins at the log's start; whoever knows it from the
    /// checkpoint sets it. `recovery()` tells what was found.
    pub fn open(
        location: LogLocation,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        recovery: Recovery,
        now: Timestamp,
    ) -> Result<Self, LogError> {
        Self::open_in(location.dir(), location, topic_id, None, config, producers, recovery, now)
    }

    /// As [`Log::open`], for a log whose directory has another name, or in whose directory a topic id was `found`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn open_in(
        dir: PathBuf,
        location: LogLocation,
        topic_id: TopicId,
        found: Option<TopicId>,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        mut recovery: Recovery,
        now: Timestamp,
    ) -> Result<Self, LogError> {
        let LogLocation { fs, log_dir, partition } = location;
        log_dir.check()?;
        let place = Arc::new(Place::new(fs, dir, log_dir));
        let path = || place.dir.clone();
        let is_new = found.is_none() && !place.guard("opening", path, place.fs.exists(&place.dir))?;
        if is_new {
            place.guard("creating", path, place.fs.create_dir_all(&place.dir))?;
        }
        let found = match found {
            None if !is_new => place.guard("reading", path, checkpoints::read_topic_id(&*place.fs, &place.dir))?,
            found => found,
        };
        match found {
            Some(found) if found != topic_id => {
                return Err(LogError::TopicId { dir: place.dir.clone(), found, expected: topic_id });
            }
            Some(_) => {}
            None => {
                // A directory whose power failed before its first sync: nothing in it is to be trusted.
                recovery.clean &= is_new;
                let (path, text) = (place.dir.join(PARTITION_METADATA), encode_topic_id(topic_id));
                let result = if is_new {
                    write_temporary(&*place.fs, &path, text.as_bytes(), false)
                } else {
                    write_file_unsynced(&*place.fs, &path, text.as_bytes())
                };
                place.guard("writing", || path, result)?;
            }
        }
        let (loader, log_end) = Loader::load(place, config, producers, recovery, is_new, now)?;
        let Loader { place, config, mut segments, mut epochs, mut producers, report, has_changed, .. } = loader;
        // A log that nobody uses yet has nothing open.
        segments.iter_mut().for_each(Segment::release);
        segments.shrink_to_fit();
        let first = segments.first().map_or(log_end, |segment| Offset(segment.base));
        let log_start = recovery.log_start.max(first);
        epochs.truncate_start(log_start);
        producers.on_log_start(log_start.0);
        let recovery_point =
            if recovery.clean && report.damage.is_none() { log_end } else { recovery.recovery_point.min(log_end) };
        Ok(Self {
            place,
            partition,
            topic_id,
            config,
            segments,
            recent: VecDeque::new(),
            epochs,
            producers,
            log_start,
            log_end,
            high_watermark: log_start,
            recovery_point,
            last_flush: now,
            idle_end: None,
            names_unsynced: has_changed || is_new || !recovery.clean,
            dir_unsynced: is_new || !recovery.clean,
            cleaned_to: recovery.cleaned_to,
            recovery: (report != RecoveryReport::NOTHING).then(|| Box::new(report)),
        })
    }

    /// Makes everything durable for a clean shutdown: log, indexes, a producer snapshot; a cleaning that is under way
    /// ends. The checkpoints and the marker of the log directory come after all logs are closed.
    pub fn close(&mut self, now: Timestamp) -> Result<(), LogError> {
        if let Some(job) = self.begin_close(now)? {
            let flushed = job.run()?;
            self.complete_flush(flushed);
        }
        Ok(())
    }

    /// As [`Log::close`], but for the sync: whoever closes thousands of logs syncs them together. `None`: everything is
    /// durable.
    pub fn begin_close(&mut self, now: Timestamp) -> Result<Option<FlushJob>, LogError> {
        self.check_online()?;
        let place = self.place.clone();
        drop(place.end_cleaning());
        let active = self.active_mut();
        active.close_indexes(&place)?;
        active.trim(&place)?;
        self.take_snapshot()?;
        self.flush_job_of_all(now)
    }
}
