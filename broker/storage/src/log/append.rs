//! Appending, as a leader (assigning offsets) and as a follower (keeping them).
//!
//! A leader's append copies nothing: it patches the 61 bytes of the header on the stack and hands `[header, rest]` to
//! one vectored write.

use std::io::IoSlice;

use bytes::Bytes;
use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::{Decision, LeaderEpoch, Offset, VerificationGuard, time::Timestamp};
use odradek_records::{Batch, BatchError, BatchHeader, EndTxnMarker, HEADER_BYTES, TimestampType, slices};

use crate::error::{AppendError, SYNCING, StorageError};
use crate::log::{Log, RECENT_BATCHES};
use crate::segment::Located;
use crate::validate;

/// Who hands in the records, which says what has to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A produce request: everything is checked.
    Client,
    /// As `Client`, in a transaction that was verified under this guard.
    Verified(VerificationGuard),
    /// A group or transaction coordinator of this broker: no sequences, control records allowed.
    Coordinator,
    /// As `Coordinator`, in a transaction that was verified under this guard.
    VerifiedCoordinator(VerificationGuard),
    /// The end of a transaction. `bumped`: in an epoch above that of its records, so that one that comes late cannot end
    /// the next transaction (KIP-890, KIP-1228). `decision`: so that one that comes again is known, with any protocol; only
    /// coordinators of our own tell it.
    Marker { bumped: bool, decision: Option<Decision> },
}

impl AppendOrigin {
    pub fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::Verified(_))
    }

    /// What the batch's transaction was verified under.
    pub(crate) fn guard(self) -> Option<VerificationGuard> {
        match self {
            Self::Verified(guard) | Self::VerifiedCoordinator(guard) => Some(guard),
            Self::Client | Self::Coordinator | Self::Marker { .. } => None,
        }
    }

    /// What the marker is of, if that is told.
    pub fn decision(self) -> Option<Decision> {
        match self {
            Self::Marker { decision, .. } => decision,
            _ => None,
        }
    }
}

/// A successful append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    /// Of the first record. For a duplicate, what it got the first time.
    pub first_offset: Offset,
    pub last_offset: Offset,
    /// The leader's time when the topic has log append time, else `NONE`.
    pub log_append_time: Timestamp,
    pub max_timestamp: Timestamp,
    pub log_start: Offset,
    /// After the append.
    pub log_end: Offset,
    /// Bytes written; 0 for a duplicate.
    pub bytes: usize,
    pub record_count: i32,
    /// The batch had been appended before and was not again.
    pub duplicate: bool,
    /// A segment was closed: flush it when convenient, off the path of requests (`Log::flush_job`).
    pub rolled: bool,
    /// `flush.messages` or `flush.ms` asks for a flush now.
    pub flush_due: bool,
}

impl Log {
    /// Appends one batch, assigning offsets and leader epoch. Nothing is written unless every check passes; bytes are
    /// in the page cache when it returns.
    pub fn append_as_leader(
        &mut self,
        records: &[u8],
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now: Timestamp,
    ) -> Result<AppendInfo, AppendError> {
        self.check_online()?;
        self.check_epoch(leader_epoch, self.log_end)?;
        let decision = origin.decision();
        if let Some(asked) = decision.map(|decision| decision.leader_epoch)
            && asked != leader_epoch
        {
            return Err(AppendError::MarkerForAnotherLeader { asked, leader_epoch });
        }
        let header = validate::parse(records)?;
        let records = only_batch(&header, records)?;
        validate::check_size(&header, origin, &self.config)?;
        header.check_crc(records)?;
        validate::check_header(&header, origin)?;
        if let Some(info) = self.find_duplicate(&header, origin) {
            return Ok(info);
        }
        let stamped = validate::stamp(&header, records, &self.config, self.log_end, leader_epoch, now)?;
        if stamped.header.size > self.config.segment_bytes as usize {
            let max = self.config.segment_bytes as usize;
            return Err(AppendError::RecordListTooLarge { size: stamped.header.size, max });
        }
        // Last, as in Kafka: what is wrong with the records themselves counts more than what came before them.
        let marker = self.check_producer(&header, records, origin)?;
        let decided = decision.zip(marker.map(|(marker, _)| marker));
        if let Some((decision, marker)) = decided
            && let Some(at) = self.producers.find_marker(header.producer_id, marker, decision)
        {
            return Ok(self.appended_before(&header, (at, at), Timestamp::NONE));
        }
        let header = stamped.header;
        let rolled = self.maybe_roll(&header, now)?;
        self.save_epoch(leader_epoch, header.base_offset)?;
        match &stamped.rebuilt {
            Some(batch) => self.write(&[IoSlice::new(batch)], &[header])?,
            None => {
                let rest = records.get(HEADER_BYTES..).unwrap_or_default();
                self.write(&[IoSlice::new(&stamped.header_bytes), IoSlice::new(rest)], &[header])?;
            }
        }
        self.apply(&header, marker).or_else(|error| self.take_back(header.base_offset, error, now))?;
        if let Some((decision, marker)) = decided {
            self.producers.remember_marker(header.producer_id, marker, decision, header.base_offset);
        }
        let log_append_time =
            if self.config.timestamp_type == TimestampType::LogAppendTime { now } else { Timestamp::NONE };
        Ok(AppendInfo {
            first_offset: header.base_offset,
            last_offset: header.last_offset(),
            log_append_time,
            max_timestamp: header.max_timestamp,
            log_start: self.log_start,
            log_end: self.log_end,
            bytes: header.size,
            record_count: header.record_count,
            duplicate: false,
            rolled,
            flush_due: self.is_flush_due(now),
        })
    }

    /// Appends what a leader sent: offsets and epochs stay. Bytes behind the last whole batch are left out, as a fetch
    /// may end inside a batch. `None`: there was no whole batch.
    ///
    /// `following` is the leader epoch in which they were asked for. Records of a later one are refused: the bytes of an answer
    /// are read while it is sent, and a leader that was deposed meanwhile, and truncated, may have those of its successor there.
    /// They would hide that the histories part before them (KAFKA-18723).
    pub fn append_as_follower(
        &mut self,
        records: &[u8],
        following: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Option<AppendInfo>, AppendError> {
        self.check_online()?;
        let (headers, valid) = self.check_replicated(records)?;
        // Ascending, so the last is the latest.
        if let Some(last) = headers.last()
            && last.leader_epoch > following
            && !active(Bug::AppendWithoutEpochCheck)
        {
            return Err(AppendError::FutureLeaderEpoch { epoch: last.leader_epoch, following });
        }
        let (Some(first), Some(last)) = (headers.first().copied(), headers.last().copied()) else {
            return Ok(None);
        };
        self.check_epoch(first.leader_epoch, first.base_offset)?;
        let mut log_start = None;
        if first.base_offset < self.log_end {
            // An empty log may start anew inside a batch: the leader's log start need not be the start of one.
            if self.log_start == self.log_end && last.last_offset() >= self.log_end {
                log_start = Some(self.log_start);
                self.truncate_fully_and_start_at(first.base_offset, now)?;
            } else {
                let (first, last) = (first.base_offset, last.last_offset());
                let (log_start, log_end) = (self.log_start, self.log_end);
                return Err(AppendError::UnexpectedOffset { first, last, log_start, log_end });
            }
        }
        let mut rolled = false;
        let mut rest = records.get(..valid).unwrap_or_default();
        let mut pending = headers.as_slice();
        while let Some(next) = pending.first() {
            rolled |= self.maybe_roll(next, now)?;
            // As many batches as still fit into the segment go out in one write.
            let (mut count, mut bytes) = (0, 0u64);
            for header in pending {
                let fits = self.active().size + bytes + header.size as u64 <= u64::from(self.config.segment_bytes)
                    && self.active().offset_index.can_hold(header.last_offset().0);
                if count > 0 && !fits {
                    break;
                }
                count += 1;
                bytes += header.size as u64;
            }
            let (group, later) = pending.split_at(count);
            let (group_bytes, rest_later) = rest.split_at(bytes as usize);
            for header in group {
                self.epochs.assign(header.leader_epoch, header.base_offset);
            }
            self.epochs.confirm();
            self.epochs.save(&self.place)?;
            self.write(&[IoSlice::new(group_bytes)], group)?;
            let mut batches = group_bytes;
            for header in group {
                let (batch, following) = batches.split_at(header.size);
                batches = following;
                let marker = if header.attributes.is_control() { read_marker(header, batch)? } else { None };
                self.apply(header, marker).or_else(|error| self.take_back(header.base_offset, error, now))?;
            }
            (pending, rest) = (later, rest_later);
        }
        if let Some(log_start) = log_start {
            self.log_start = log_start;
            self.high_watermark = self.high_watermark.max(log_start);
        }
        Ok(Some(AppendInfo {
            first_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time: Timestamp::NONE,
            max_timestamp: headers.iter().map(|header| header.max_timestamp).max().unwrap_or(Timestamp::NONE),
            log_start: self.log_start,
            log_end: self.log_end,
            bytes: valid,
            record_count: headers.iter().fold(0, |sum: i32, header| sum.saturating_add(header.record_count)),
            duplicate: false,
            rolled,
            flush_due: self.is_flush_due(now),
        }))
    }

    /// An epoch is on the disk before its first record.
    fn save_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), StorageError> {
        self.epochs.assign(epoch, start);
        self.epochs.confirm();
        self.epochs.save(&self.place)
    }

    /// Epochs never go back along a log: recovery cuts it where they do.
    fn check_epoch(&self, epoch: LeaderEpoch, base: Offset) -> Result<(), AppendError> {
        match self.epochs.epoch_at(Offset(base.0 - 1)) {
            Some(last) if epoch < last && epoch != LeaderEpoch::NONE => {
                Err(AppendError::StaleLeaderEpoch { epoch, last })
            }
            _ => Ok(()),
        }
    }

    /// The headers of the whole batches and their bytes: CRC and ascending offsets checked.
    fn check_replicated(&self, records: &[u8]) -> Result<(Vec<BatchHeader>, usize), AppendError> {
        let mut headers: Vec<BatchHeader> = Vec::new();
        let mut valid = 0;
        for batch in slices(records) {
            let batch = match batch {
                Err(BatchError::Incomplete { .. }) => break,
                // What a leader has in its log cannot be refused as a client's mistake: it was damaged on its way.
                Err(error) => return Err(AppendError::Corrupt(error)),
                Ok(batch) => batch,
            };
            batch.header.check_crc(batch.bytes)?;
            if let Some(last) = headers.last() {
                if batch.header.base_offset <= last.last_offset() {
                    let message = format!("offset {} follows offset {}", batch.header.base_offset, last.last_offset());
                    return Err(AppendError::InvalidRecord(message));
                }
                if batch.header.leader_epoch < last.leader_epoch {
                    let (epoch, last) = (batch.header.leader_epoch, last.leader_epoch);
                    return Err(AppendError::StaleLeaderEpoch { epoch, last });
                }
            }
            valid += batch.header.size;
            headers.push(batch.header);
        }
        Ok((headers, valid))
    }

    /// What a batch got when it was appended the first time, if it is remembered. Its records are not looked at again.
    fn find_duplicate(&self, header: &BatchHeader, origin: AppendOrigin) -> Option<AppendInfo> {
        if !header.has_producer() || !origin.is_client() {
            return None;
        }
        let duplicate = self.producers.find_duplicate(header)?;
        let offsets = (Offset(duplicate.first_offset()), Offset(duplicate.last_offset));
        Some(self.appended_before(header, offsets, Timestamp(duplicate.timestamp)))
    }

    fn appended_before(
        &self,
        header: &BatchHeader,
        (first, last): (Offset, Offset),
        timestamp: Timestamp,
    ) -> AppendInfo {
        AppendInfo {
            first_offset: first,
            last_offset: last,
            // As in Kafka, whatever the topic's type of timestamp.
            log_append_time: timestamp,
            max_timestamp: timestamp,
            log_start: self.log_start,
            log_end: self.log_end,
            bytes: 0,
            record_count: header.record_count,
            duplicate: true,
            rolled: false,
            flush_due: false,
        }
    }

    /// The marker that the batch is, if it is one.
    fn check_producer(
        &self,
        header: &BatchHeader,
        records: &[u8],
        origin: AppendOrigin,
    ) -> Result<Option<(EndTxnMarker, Timestamp)>, AppendError> {
        if !header.has_producer() {
            return Ok(None);
        }
        let marker = if header.attributes.is_control() { read_marker(header, records)? } else { None };
        self.producers.check(header, marker.as_ref().map(|(marker, _)| marker), origin)?;
        Ok(marker)
    }

    /// Rolls when the batch does not belong into the active segment any more.
    fn maybe_roll(&mut self, header: &BatchHeader, now: Timestamp) -> Result<bool, StorageError> {
        let place = self.place.clone();
        let config = self.config.clone();
        let active = self.active_mut();
        let full = active.size > 0 && active.size + header.size as u64 > u64::from(config.segment_bytes);
        let overflows = !active.offset_index.can_hold(header.last_offset().0);
        let roll = full
            || overflows
            || active.is_index_full(&place, config.segment_index_bytes)?
            || (active.size > 0
                && active.waited_ms(&place, now, header.max_timestamp)?
                    > config.segment_ms_max().saturating_sub(config.segment_jitter_ms));
        if roll {
            // At the log's end, so that segments leave no hole between them: a follower of a cleaned log skips offsets,
            // and recovery takes a hole for lost records. Only offsets too far away need a base of their own.
            let near = header.last_offset().0 - self.log_end.0 <= i64::from(i32::MAX);
            self.roll(if near { None } else { Some(header.base_offset) }, now)?;
        }
        Ok(roll)
    }

    /// On a full disk: drops what was appended from `base` on, since not all that belongs to it could be written. Always
    /// fails.
    fn take_back(&mut self, base: Offset, error: StorageError, now: Timestamp) -> Result<(), StorageError> {
        if error.is_full() {
            if let Err(failed) = self.truncate_to(base, now) {
                return Err(self.fail_to_cut(&failed.to_string()));
            }
            self.sync_cut()?;
        }
        Err(error)
    }

    /// What was taken back must not return after a power failure, in the place of what was appended there since, with the
    /// same leader epoch.
    fn sync_cut(&mut self) -> Result<(), StorageError> {
        let place = self.place.clone();
        let mut files = Vec::new();
        self.active_mut().take_unsynced_log(&place, &mut files)?;
        files.iter().try_for_each(|file| place.guard(SYNCING, || self.active().path(&place), file.sync_data()))
    }

    /// A log whose end is not what it was cannot be written to.
    fn fail_to_cut(&self, reason: &str) -> StorageError {
        let path = self.active().path(&self.place);
        self.place.log_dir.fail("cutting the torn end of", path, &std::io::Error::other(reason.to_owned()))
    }

    /// Writes batches at the log's end and moves it. On a full disk nothing of them stays.
    fn write(&mut self, buffers: &[IoSlice<'_>], headers: &[BatchHeader]) -> Result<(), StorageError> {
        let place = self.place.clone();
        let interval = self.config.index_interval_bytes;
        let end = self.log_end.0;
        let active = self.active_mut();
        let mut position = active.size;
        if let Err(error) = active.append(&place, buffers, headers, interval) {
            if error.is_full() {
                if let Err(failed) = active.truncate(&place, end, position) {
                    return Err(self.fail_to_cut(&failed.to_string()));
                }
                self.sync_cut()?;
            }
            return Err(error);
        }
        place.log_dir.count_written(buffers.iter().map(|buffer| buffer.len()).sum());
        for header in headers {
            if self.recent.len() == RECENT_BATCHES {
                self.recent.pop_front();
            }
            self.recent.push_back(Located::new(position, header));
            position += header.size as u64;
            self.log_end = header.next_offset();
        }
        Ok(())
    }

    /// Takes an appended batch into the producer state, and an aborted transaction into the index.
    pub(crate) fn apply(
        &mut self,
        header: &BatchHeader,
        marker: Option<(EndTxnMarker, Timestamp)>,
    ) -> Result<(), StorageError> {
        if let Some(completed) = self.producers.apply(header, marker)
            && let Some(aborted) = self.producers.complete(completed)
        {
            let place = self.place.clone();
            self.active_mut().append_aborted(&place, &aborted)?;
        }
        Ok(())
    }
}

fn read_marker(header: &BatchHeader, batch: &[u8]) -> Result<Option<(EndTxnMarker, Timestamp)>, AppendError> {
    let batch = Batch { header: *header, bytes: Bytes::copy_from_slice(batch) };
    EndTxnMarker::of_batch(&batch).map_err(|error| AppendError::InvalidRecord(error.to_string()))
}

/// The bytes of the batch, which has to be the only one; the beginning of another, without its end, is left out.
fn only_batch<'a>(header: &BatchHeader, records: &'a [u8]) -> Result<&'a [u8], AppendError> {
    let Some((batch, rest)) = records.split_at_checked(header.size) else {
        return Err(AppendError::NotOneBatch("the records are less than one batch".to_owned()));
    };
    match BatchHeader::parse(rest) {
        Err(BatchError::Incomplete { .. }) => Ok(batch),
        Err(error) => Err(error.into()),
        Ok(next) if next.size > rest.len() => Ok(batch),
        Ok(_) => Err(AppendError::NotOneBatch("the records are more than one batch".to_owned())),
    }
}
