//! Cutting the log's end, which a follower does to agree with its leader (KIP-101, KIP-279).

use odradek_common::{Offset, time::Timestamp};

use crate::error::LogError;
use crate::log::Log;
use crate::patience::Patience;
use crate::producer_snapshot;
use crate::recovery::{remove_segment, replay_batch};
use crate::segment::Segment;

impl Log {
    /// Drops the records of `offset` and above, and with them the batch that `offset` lies in. Returns whether anything
    /// was dropped.
    ///
    /// When the recovery point or `cleaned_to` moved back (compare before and after), write its checkpoint before
    /// anything is appended: a crash would otherwise trust what was written since, or take it for clean.
    pub fn truncate_to(&mut self, offset: Offset, now: Timestamp) -> Result<bool, LogError> {
        self.check_online()?;
        let offset = offset.max(Offset::ZERO);
        if offset >= self.log_end {
            return Ok(false);
        }
        if self.segments.first().is_none_or(|first| first.base > offset.0) {
            self.truncate_fully_and_start_at(offset, now)?;
            return Ok(true);
        }
        let place = self.place.clone();
        let _no_cleaning = place.begin_truncation();
        self.recent.clear();
        let index = self.segment_index(offset);
        // The last first, so that a crash in between leaves a log without a gap; and on disk before the file in front of
        // them is cut, or they might come back behind the cut, below a recovery point that nobody scans.
        if self.segments.len() > index + 1 {
            for segment in self.segments.split_off(index + 1).iter().rev() {
                remove_segment(&place, segment.base)?;
            }
            place.guard("syncing", || place.dir.clone(), place.fs.sync_dir(&place.dir))?;
        }
        let active = self.active_mut();
        let mut end = offset;
        if let Some(located) = active.locate(&place, Patience::Waits, offset.0)? {
            end = end.min(Offset(located.base_offset));
            active.truncate(&place, end.0, located.position)?;
        }
        self.log_end = end;
        self.log_start = self.log_start.min(end);
        self.recovery_point = self.recovery_point.min(end);
        self.cleaned_to = self.cleaned_to.map(|cleaned_to| cleaned_to.min(end));
        self.high_watermark = self.high_watermark.clamp(self.log_start, end);
        self.epochs.truncate_end(end);
        self.epochs.save_or_put_off(&place)?;
        self.reload_producers(now)?;
        self.names_unsynced = true;
        Ok(true)
    }

    /// Drops everything and begins anew at `offset`: what a follower does whose leader has none of its records left.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset, now: Timestamp) -> Result<(), LogError> {
        self.check_online()?;
        let place = self.place.clone();
        let _no_cleaning = place.begin_truncation();
        self.recent.clear();
        while let Some(segment) = self.segments.last() {
            remove_segment(&place, segment.base)?;
            self.segments.pop();
        }
        place.guard("syncing", || place.dir.clone(), place.fs.sync_dir(&place.dir))?;
        self.segments.push(Segment::create(&place, offset.0, self.config.preallocated_bytes(), now)?);
        self.log_start = offset;
        self.log_end = offset;
        self.high_watermark = offset;
        self.recovery_point = self.recovery_point.min(offset);
        self.cleaned_to = self.cleaned_to.map(|cleaned_to| cleaned_to.min(offset));
        self.epochs.clear();
        self.epochs.save_or_put_off(&place)?;
        self.producers.clear(offset.0);
        self.remove_snapshots(|_| true)?;
        self.names_unsynced = true;
        Ok(())
    }

    /// The producer state as of the log's end, from the newest snapshot below it and the batches behind that.
    fn reload_producers(&mut self, now: Timestamp) -> Result<(), LogError> {
        let place = self.place.clone();
        let (start, end) = (self.log_start.0, self.log_end.0);
        self.remove_snapshots(|offset| offset > end)?;
        let mut from = self.segments.first().map_or(start, |segment| segment.base.max(start));
        self.producers.clear(from);
        for offset in self.snapshot_offsets()?.into_iter().rev().filter(|offset| *offset >= start) {
            let path = || place.file(offset, producer_snapshot::SUFFIX);
            if let Some(producers) = place.guard("reading", path, producer_snapshot::read(&place, offset))? {
                self.producers.load(producers, offset, now);
                from = offset;
                break;
            }
            place.remove(&path())?;
        }
        let Self { segments, producers, .. } = self;
        for (index, segment) in segments.iter().enumerate() {
            if segments.get(index + 1).is_some_and(|next| next.base <= from) {
                continue;
            }
            segment.visit_from(&place, from.max(segment.base), |position, header| {
                replay_batch(producers, from, &place, segment, position, header)?;
                Ok(None::<()>)
            })?;
        }
        producers.end = end;
        // What the batches told is below the high watermark again once that is set.
        producers.on_high_watermark(self.high_watermark.0);
        Ok(())
    }

    /// The offsets of the producer snapshots on disk, ascending.
    pub(crate) fn snapshot_offsets(&self) -> Result<Vec<i64>, LogError> {
        let entries =
            self.place.guard("listing", || self.place.dir.clone(), self.place.fs.read_dir(&self.place.dir))?;
        let suffix = producer_snapshot::SUFFIX;
        Ok(entries.iter().filter_map(|entry| entry.name.strip_suffix(suffix)?.parse().ok()).collect())
    }

    pub(crate) fn remove_snapshots(&mut self, which: impl Fn(i64) -> bool) -> Result<(), LogError> {
        for offset in self.snapshot_offsets()?.into_iter().filter(|offset| which(*offset)) {
            self.place.remove(&self.place.file(offset, producer_snapshot::SUFFIX))?;
        }
        Ok(())
    }
}
