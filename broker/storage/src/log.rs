//! A partition's log: a row of segments, the leader epochs, and what is remembered of producers.
//!
//! ```text
//! log_start <= last stable offset <= high_watermark <= log_end      recovery_point <= log_end
//! ```
//!
//! Whoever owns a `Log` orders its writers (`&mut self`); readers (`&self`) get file ranges and copy nothing. Decisions
//! that need the cluster (who leads, what is committed, where to truncate) are made elsewhere and handed in. Kafka's
//! `UnifiedLog` and `LocalLog`.

mod append;
mod cleaning;
mod flush;
mod lookup;
pub(crate) mod moving;
mod open;
mod retention;
mod truncate;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::{LeaderEpoch, Offset, TopicId, TopicPartition, VerificationGuard, time::Timestamp};

use crate::config::LogConfig;
use crate::dir::{LogDir, Place};
use crate::error::{LogError, SYNCING, StorageError};
use crate::leader_epochs::{EpochEndOffset, EpochEntry, LeaderEpochs};
use crate::log_dirs::{CheckpointOffsets, PartitionCheckpoint};
use crate::producer_snapshot;
use crate::producer_state::{ActiveProducer, ProducerError, ProducerStates, Unverified};
use crate::recovery::RecoveryReport;
use crate::segment::{Located, Segment};

pub use append::{AppendInfo, AppendOrigin};
pub use flush::{FlushJob, Flushed};
pub use lookup::{Found, ReadSlice, TimestampLookup, TimestampOffset};
pub use moving::{FUTURE_SUFFIX, future_dir_name};
pub use open::LogLocation;
pub use retention::DeferredDelete;

/// The newest batches of the active segment whose places are remembered, so that a reader at the log's end needs no
/// index and no read to find them: 32 bytes each.
const RECENT_BATCHES: usize = 32;

/// One partition on disk.
#[derive(Debug)]
pub struct Log {
    place: Arc<Place>,
    partition: TopicPartition,
    topic_id: TopicId,
    config: Arc<LogConfig>,
    /// Ascending by base offset, never empty; the last one is written to.
    segments: Vec<Segment>,
    recent: VecDeque<Located>,
    epochs: LeaderEpochs,
    producers: ProducerStates,
    log_start: Offset,
    log_end: Offset,
    high_watermark: Offset,
    /// Everything below is on disk.
    recovery_point: Offset,
    last_flush: Timestamp,
    /// The log's end when [`Log::release_idle_memory`] was called last.
    idle_end: Option<Offset>,
    /// Names were made in the partition's directory, or the directory itself, since the last sync.
    names_unsynced: bool,
    dir_unsynced: bool,
    /// Where the last cleaning ended, as the checkpoint has it; `None`: there was none.
    cleaned_to: Option<Offset>,
    /// `None`: nothing was found or done.
    recovery: Option<Box<RecoveryReport>>,
}

impl Log {
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// The partition's own directory.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The one of `log.dirs` that the log is in.
    pub fn log_dir(&self) -> &Arc<LogDir> {
        &self.place.log_dir
    }

    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// Takes effect with the next operation.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        self.config = config;
    }

    /// What opening the log found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        const NOTHING: &RecoveryReport = &RecoveryReport::NOTHING;
        self.recovery.as_deref().unwrap_or(NOTHING)
    }

    /// The first offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset that the next record gets.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Everything below is on disk and is not scanned after a crash.
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    /// Notes how far the log is committed, within its bounds. Retention, the last stable offset and DeleteRecords go
    /// by it.
    pub fn set_high_watermark(&mut self, offset: Offset) {
        self.high_watermark = offset.clamp(self.log_start, self.log_end);
        self.producers.on_high_watermark(self.high_watermark.0);
    }

    /// The high watermark, or the start of the oldest open transaction below it (KIP-98). An aborted or committed
    /// transaction counts as open until its marker is below the high watermark.
    pub fn last_stable_offset(&self) -> Offset {
        let unstable = self.producers.first_unstable_offset();
        let unstable = if active(Bug::LastStableOffsetTooHigh) { unstable.map(|first| first + 1) } else { unstable };
        unstable.map_or(self.high_watermark, |first| Offset(first).clamp(self.log_start, self.high_watermark))
    }

    /// Bytes of all segments, without indexes.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Base offset of the active segment.
    pub fn active_segment_base(&self) -> Offset {
        self.segments.last().map_or(self.log_end, |segment| Offset(segment.base))
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest().map(|entry| entry.epoch)
    }

    pub fn epoch_entries(&self) -> &[EpochEntry] {
        self.epochs.entries()
    }

    /// Where an epoch ended (OffsetForLeaderEpoch, KIP-279).
    pub fn leader_epoch_end_offset(&self, epoch: LeaderEpoch) -> EpochEndOffset {
        self.epochs.end_offset(epoch, self.log_end)
    }

    /// The epoch of the record at an offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.epoch_at(offset)
    }

    /// A leader notes that its epoch begins at the log's end. The next append writes it down first.
    pub fn assign_epoch_start(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.epochs.announce(epoch, start);
    }

    /// Producers with state, ordered by id.
    pub fn active_producers(&self) -> impl Iterator<Item = ActiveProducer> + '_ {
        self.producers.active()
    }

    /// How many producers have state.
    pub fn producer_count(&self) -> usize {
        self.producers.producers.len()
    }

    /// Open transactions whose producers have been silent for longer than `limit_ms`, oldest first (KIP-664).
    pub fn late_transactions(&self, now: Timestamp, limit_ms: i64) -> impl Iterator<Item = ActiveProducer> + '_ {
        self.producers.late(now, limit_ms)
    }

    /// Whether the producer has an open transaction here.
    pub fn has_ongoing_transaction(&self, producer: odradek_common::ProducerId) -> bool {
        self.producers.producers.get(&producer.0).is_some_and(|entry| entry.txn_first_offset.is_some())
    }

    /// Begins the verification of a transaction, or goes on with one (KIP-890); its batch is then appended under the guard.
    /// `None`: it needs none, as it is open here.
    pub fn begin_verification(
        &mut self,
        batch: Unverified,
        now: Timestamp,
    ) -> Result<Option<VerificationGuard>, ProducerError> {
        self.producers.begin_verification(batch, now)
    }

    /// Forgets producers silent for `producer.id.expiration.ms`. Returns how many.
    pub fn expire_producers(&mut self, now: Timestamp) -> usize {
        self.producers.expire(now)
    }

    /// Gives back the memory that only a log in use needs, when nothing was appended since the last call; call it now and
    /// then. Files are closed by [`OpenFiles::close_idle`](crate::OpenFiles::close_idle).
    pub fn release_idle_memory(&mut self) -> Result<(), LogError> {
        self.check_online()?;
        if self.idle_end.replace(self.log_end) != Some(self.log_end) || self.recent.is_empty() {
            return Ok(());
        }
        self.recent = VecDeque::new();
        let place = self.place.clone();
        Ok(self.active_mut().release_idle_memory(&place)?)
    }

    /// What the checkpoints of the log directory have to say of this log.
    pub fn checkpoint(&self) -> PartitionCheckpoint {
        PartitionCheckpoint::of(self.partition.clone(), self.checkpoint_offsets())
    }

    pub fn checkpoint_offsets(&self) -> CheckpointOffsets {
        let first = self.segments.first().map_or(0, |segment| segment.base);
        CheckpointOffsets {
            recovery_point: self.recovery_point,
            high_watermark: self.high_watermark,
            log_start: (self.log_start.0 > first).then_some(self.log_start),
            cleaned_to: self.cleaned_to,
        }
    }

    fn active(&self) -> &Segment {
        self.segments.last().expect("a log has at least one segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log has at least one segment")
    }

    /// The segment that `offset` lies in or behind.
    fn segment_index(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset.0).saturating_sub(1)
    }

    /// Closes the active segment and begins a new one at the log's end, or at `base` when that is later. An empty
    /// active segment stays.
    pub fn roll(&mut self, base: Option<Offset>, now: Timestamp) -> Result<(), StorageError> {
        self.place.log_dir.check()?;
        let base = base.unwrap_or(self.log_end).max(self.log_end);
        let place = self.place.clone();
        if self.active().base == base.0 {
            return Ok(());
        }
        let preallocated = self.config.preallocated_bytes();
        let active = self.active_mut();
        active.close_indexes(&place)?;
        active.trim(&place)?;
        if self.recovery_point >= base {
            self.sync_indexes_of_active()?;
        }
        self.take_snapshot()?;
        self.segments.push(Segment::create(&place, base.0, preallocated, now)?);
        self.recent.clear();
        self.names_unsynced = true;
        Ok(())
    }

    /// When all records of the active segment are on disk, it is the last time that recovery would read it: once it is closed,
    /// the recovery point lies behind it, and its indexes are not made anew after a crash.
    fn sync_indexes_of_active(&mut self) -> Result<(), StorageError> {
        let place = self.place.clone();
        let mut files = Vec::new();
        self.active_mut().take_unsynced(&place, false, &mut files)?;
        for file in files {
            place.guard(SYNCING, || place.dir.clone(), file.sync_data())?;
        }
        place.guard(SYNCING, || place.dir.clone(), place.fs.sync_dir(&place.dir))
    }

    /// Writes the producer state of the log's end, when it differs from the last snapshot. Not synced: a torn snapshot
    /// fails its CRC, and an older one and the batches replace it.
    fn take_snapshot(&mut self) -> Result<(), StorageError> {
        let offset = self.producers.end;
        if offset > self.producers.snapshot {
            let result = producer_snapshot::write(&self.place, offset, &self.producers.producers);
            self.place.guard("writing", || self.place.file(offset, producer_snapshot::SUFFIX), result)?;
            self.producers.snapshot = offset;
            self.names_unsynced = true;
        }
        Ok(())
    }

    /// Fails when the log directory is offline.
    fn check_online(&self) -> Result<(), LogError> {
        Ok(self.place.log_dir.check()?)
    }
}
