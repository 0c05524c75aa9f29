//! What a partition remembers of its idempotent and transactional producers (KIP-98): the last five batches of each, to
//! recognise duplicates and gaps, and open transactions, which hold the last stable offset back.
//!
//! All of it is derived from the batches in the log: leaders check a batch before they append it, followers and recovery
//! replay. In memory alone, since nothing in the log tells it, is what a leader knows of the last marker of each producer
//! ([`MarkerTaken`]): it serves one leadership, and a marker says which it was sent to. Kafka's `ProducerStateManager`, `ProducerAppendInfo` and `ProducerStateEntry`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::{Decision, ErrorCode, Offset, ProducerEpoch, ProducerId, VerificationGuard, time::Timestamp};
use odradek_records::header::sequence_minus;
use odradek_records::{BatchHeader, EndTxnMarker};

use crate::config::ProducerStateConfig;
use crate::log::AppendOrigin;
use crate::txn_index::AbortedTxn;

/// Batches remembered for each producer: as many as a client may have in flight.
pub(crate) const BATCHES_KEPT: usize = 5;

/// A producer's batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    #[error("the epoch {epoch} of producer {producer} is smaller than the last seen epoch {current}")]
    InvalidEpoch { producer: ProducerId, epoch: ProducerEpoch, current: ProducerEpoch },
    #[error(
        "out of order sequence number of producer {producer}: {sequence} came, {last} was the last one (epoch {epoch})"
    )]
    OutOfOrderSequence { producer: ProducerId, epoch: ProducerEpoch, sequence: i32, last: i32 },
    #[error("producer {producer} began epoch {epoch} with sequence {sequence}; a new epoch begins with 0")]
    EpochBeginsLate { producer: ProducerId, epoch: ProducerEpoch, sequence: i32 },
    #[error("producer {producer} has an open transaction and sent a batch outside of it")]
    OutsideTransaction { producer: ProducerId },
    #[error("the batch of producer {producer} is not part of a transaction that is known to be open")]
    NotVerified { producer: ProducerId },
    #[error("the marker for producer {producer} comes from coordinator epoch {epoch}; {current} is known")]
    CoordinatorFenced { producer: ProducerId, epoch: i32, current: i32 },
}

impl ProducerError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::OutOfOrderSequence { .. } | Self::EpochBeginsLate { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::OutsideTransaction { .. } | Self::NotVerified { .. } => ErrorCode::InvalidTxnState,
            Self::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        }
    }
}

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    pub last_sequence: i32,
    pub last_offset: i64,
    pub offset_delta: i32,
    pub timestamp: i64,
}

impl BatchMetadata {
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }

    pub fn first_sequence(&self) -> i32 {
        if self.last_sequence < 0 { -1 } else { sequence_minus(self.last_sequence, self.offset_delta) }
    }
}

/// What is known of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    /// `-1`: none yet.
    pub epoch: i16,
    /// `-1`: none yet.
    pub coordinator_epoch: i32,
    pub last_timestamp: i64,
    /// The first offset of its open transaction.
    pub txn_first_offset: Option<i64>,
    /// Oldest first, at most [`BATCHES_KEPT`], all of `epoch`.
    pub batches: VecDeque<BatchMetadata>,
    /// By this leader.
    pub marker_taken: Option<MarkerTaken>,
}

impl Default for ProducerEntry {
    fn default() -> Self {
        Self {
            epoch: -1,
            coordinator_epoch: -1,
            last_timestamp: -1,
            txn_first_offset: None,
            batches: VecDeque::new(),
            marker_taken: None,
        }
    }
}

/// The newest marker of a producer that a leader has appended. One that is not newer is another copy of it, or of one before: in
/// the first protocol it has the epoch of the next transaction, and must not end that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkerTaken {
    pub coordinator_epoch: i32,
    /// [`Decision::offset`].
    pub decided: Offset,
    /// Where the marker is.
    pub at: Offset,
}

impl ProducerEntry {
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }

    fn describe(&self, producer: i64) -> ActiveProducer {
        ActiveProducer {
            producer_id: ProducerId(producer),
            epoch: ProducerEpoch(self.epoch),
            last_sequence: self.last_sequence(),
            last_timestamp: Timestamp(self.last_timestamp),
            coordinator_epoch: self.coordinator_epoch,
            txn_start_offset: self.txn_first_offset.map(Offset),
        }
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }

    pub fn push_batch(&mut self, batch: BatchMetadata) {
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }
}

/// A producer, as DescribeProducers lists it (KIP-664).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: ProducerId,
    pub epoch: ProducerEpoch,
    /// `-1`: none.
    pub last_sequence: i32,
    pub last_timestamp: Timestamp,
    /// `-1`: none.
    pub coordinator_epoch: i32,
    pub txn_start_offset: Option<Offset>,
}

/// Distinct within the process, so that a log that takes another's place cannot take its guards for its own.
static NEXT_GUARD: AtomicU64 = AtomicU64::new(0);

/// A verification that was begun. It ends with the first batch of the transaction, or with a marker: whoever comes with
/// the guard of an earlier one comes too late.
#[derive(Clone, Copy, Debug)]
struct Verification {
    guard: VerificationGuard,
    /// The least sequence that waits to be verified: a higher one must not overtake it.
    sequence_min: i32,
    epoch: i16,
    begun: Timestamp,
    /// The producer speaks the second transaction protocol: each transaction begins with sequence 0.
    bumps_epoch: bool,
}

/// A transaction's batch that is to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    /// -1 for the records of a coordinator.
    pub sequence: i32,
    /// The producer speaks the second transaction protocol.
    pub bumps_epoch: bool,
}

/// A transaction that a marker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedTxn {
    pub producer: i64,
    pub first_offset: i64,
    /// Of the marker.
    pub last_offset: i64,
    pub aborted: bool,
}

/// All producers of one partition. Pure: what it is asked and told comes with its time, and it can be cloned, so that models
/// may try every order of events on it.
#[derive(Clone, Debug, Default)]
pub struct ProducerStates {
    config: ProducerStateConfig,
    /// Ordered, so that snapshots and listings are the same on every run.
    pub(crate) producers: BTreeMap<i64, ProducerEntry>,
    /// Open transactions: first offset -> producer.
    ongoing: BTreeMap<i64, i64>,
    /// Ended ones whose marker is not below the high watermark yet: first offset -> offset of the marker.
    unreplicated: BTreeMap<i64, i64>,
    verifications: BTreeMap<i64, Verification>,
    /// Every batch below has been applied.
    pub(crate) end: i64,
    /// The offset of the newest snapshot.
    pub(crate) snapshot: i64,
}

impl ProducerStates {
    pub fn new(config: ProducerStateConfig, start: i64) -> Self {
        Self { config, end: start, snapshot: start, ..Self::default() }
    }

    /// The offsets of a batch that was appended before with the same epoch and sequences.
    pub fn find_duplicate(&self, header: &BatchHeader) -> Option<BatchMetadata> {
        let entry = self.producers.get(&header.producer_id.0)?;
        if entry.epoch != header.producer_epoch.0 || active(Bug::DuplicateSequenceAccepted) {
            return None;
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        entry.batches.iter().find(|batch| batch.first_sequence() == first && batch.last_sequence == last).copied()
    }

    fn has_ongoing(&self, producer: ProducerId, epoch: ProducerEpoch) -> bool {
        let entry = self.producers.get(&producer.0);
        entry.is_some_and(|entry| entry.epoch == epoch.0 && entry.txn_first_offset.is_some())
    }

    /// Begins the verification of a transaction, or goes on with one. `None`: it needs none, as it is open here.
    pub fn begin_verification(
        &mut self,
        batch: Unverified,
        now: Timestamp,
    ) -> Result<Option<VerificationGuard>, ProducerError> {
        let Unverified { producer, epoch, sequence, bumps_epoch } = batch;
        if let Some(entry) = self.producers.get(&producer.0)
            && epoch.0 < entry.epoch
        {
            return Err(ProducerError::InvalidEpoch { producer, epoch, current: ProducerEpoch(entry.epoch) });
        }
        let is_asked = (self.config.verify_transactions || bumps_epoch) && !active(Bug::PartitionNotVerified);
        if !is_asked || self.has_ongoing(producer, epoch) {
            return Ok(None);
        }
        let verification = self.verifications.entry(producer.0).or_insert_with(|| Verification {
            guard: VerificationGuard(NEXT_GUARD.fetch_add(1, Ordering::Relaxed)),
            sequence_min: sequence,
            epoch: epoch.0,
            begun: now,
            bumps_epoch,
        });
        if epoch.0 > verification.epoch {
            (verification.epoch, verification.sequence_min) = (epoch.0, sequence);
        } else if epoch.0 == verification.epoch {
            verification.sequence_min = verification.sequence_min.min(sequence);
        }
        Ok(Some(verification.guard))
    }

    /// A batch that begins a transaction must have been verified, and be the one that is next.
    fn check_verified(&self, header: &BatchHeader, origin: AppendOrigin) -> Result<(), ProducerError> {
        let producer = header.producer_id;
        let verification = self.verifications.get(&producer.0);
        if !self.has_ongoing(producer, header.producer_epoch)
            && self.config.verify_transactions
            && !active(Bug::PartitionNotVerified)
            && (verification.is_none() || verification.map(|verification| verification.guard) != origin.guard())
        {
            return Err(ProducerError::NotVerified { producer });
        }
        let Some(verification) = verification.filter(|_| origin.is_client()) else { return Ok(()) };
        let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
        let is_empty = self.producers.get(&producer.0).is_none_or(|entry| entry.batches.is_empty());
        if verification.bumps_epoch && sequence != 0 && is_empty {
            return Err(ProducerError::EpochBeginsLate { producer, epoch, sequence });
        }
        if sequence > verification.sequence_min {
            let last = verification.sequence_min;
            return Err(ProducerError::OutOfOrderSequence { producer, epoch, sequence, last });
        }
        Ok(())
    }

    /// Whether a leader may append this batch. `marker` is the content of a control batch.
    pub fn check(
        &self,
        header: &BatchHeader,
        marker: Option<&EndTxnMarker>,
        origin: AppendOrigin,
    ) -> Result<(), ProducerError> {
        let producer = header.producer_id;
        let epoch = header.producer_epoch;
        let is_data = header.attributes.is_transactional() && !header.attributes.is_control();
        let Some(entry) = self.producers.get(&producer.0) else {
            return if is_data { self.check_verified(header, origin) } else { Ok(()) };
        };
        // A marker in the epoch that is known already was written before, or is late: the next transaction is open.
        let is_late = matches!(origin, AppendOrigin::Marker { bumped: true, .. })
            && epoch.0 == entry.epoch
            && entry.txn_first_offset.is_some()
            && epoch.0 != i16::MAX
            && !active(Bug::MarkerAppliedTwice);
        if epoch.0 < entry.epoch || is_late {
            return Err(ProducerError::InvalidEpoch { producer, epoch, current: ProducerEpoch(entry.epoch) });
        }
        if is_data {
            self.check_verified(header, origin)?;
        }
        if let Some(marker) = marker {
            if marker.coordinator_epoch < entry.coordinator_epoch {
                let (epoch, current) = (marker.coordinator_epoch, entry.coordinator_epoch);
                return Err(ProducerError::CoordinatorFenced { producer, epoch, current });
            }
            return Ok(());
        }
        if header.attributes.is_control() {
            return Ok(());
        }
        if origin.is_client() {
            check_sequence(entry, header)?;
        }
        if entry.txn_first_offset.is_some() && !header.attributes.is_transactional() {
            return Err(ProducerError::OutsideTransaction { producer });
        }
        Ok(())
    }

    /// Takes in a batch that is in the log. Returns the transaction that it ends.
    pub fn apply(&mut self, header: &BatchHeader, marker: Option<(EndTxnMarker, Timestamp)>) -> Option<CompletedTxn> {
        let mut completed = None;
        if header.has_producer() {
            self.make_room(header.producer_id.0);
            let producer = header.producer_id.0;
            if header.attributes.is_transactional() {
                self.verifications.remove(&producer);
            }
            match marker {
                Some((marker, timestamp)) => completed = self.apply_marker(header, marker, timestamp.0),
                // An empty control batch is what cleaning leaves of a transaction; it says nothing.
                None if header.attributes.is_control() => {}
                None => {
                    let entry = self.producers.entry(producer).or_default();
                    entry.set_epoch(header.producer_epoch.0);
                    entry.push_batch(BatchMetadata {
                        last_sequence: header.last_sequence(),
                        last_offset: header.last_offset().0,
                        offset_delta: header.last_offset_delta,
                        timestamp: header.max_timestamp.0,
                    });
                    entry.last_timestamp = header.max_timestamp.0;
                    if header.attributes.is_transactional() && entry.txn_first_offset.is_none() {
                        entry.txn_first_offset = Some(header.base_offset.0);
                        self.ongoing.insert(header.base_offset.0, producer);
                    }
                }
            }
        }
        self.end = header.next_offset().0;
        completed
    }

    fn apply_marker(&mut self, header: &BatchHeader, marker: EndTxnMarker, timestamp: i64) -> Option<CompletedTxn> {
        let producer = header.producer_id.0;
        let entry = self.producers.entry(producer).or_default();
        entry.set_epoch(header.producer_epoch.0);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = timestamp;
        // A marker without data before it does not move the last stable offset.
        let first_offset = entry.txn_first_offset.take()?;
        let last_offset = header.base_offset.0;
        Some(CompletedTxn { producer, first_offset, last_offset, aborted: !marker.is_commit })
    }

    /// Where this marker is, or the newer one that came meanwhile, if this leader has taken it before.
    pub fn find_marker(&self, producer: ProducerId, marker: EndTxnMarker, decision: Decision) -> Option<Offset> {
        let taken = self.producers.get(&producer.0)?.marker_taken?;
        let is_newer = (marker.coordinator_epoch, decision.offset) > (taken.coordinator_epoch, taken.decided);
        (!is_newer).then_some(taken.at)
    }

    /// A leader has appended a marker at `at`.
    pub fn remember_marker(&mut self, producer: ProducerId, marker: EndTxnMarker, decision: Decision, at: Offset) {
        if let Some(entry) = self.producers.get_mut(&producer.0) {
            let (coordinator_epoch, decided) = (marker.coordinator_epoch, decision.offset);
            entry.marker_taken = Some(MarkerTaken { coordinator_epoch, decided, at });
        }
    }

    /// The log is another copy of the one whose state that is, and goes on in its place.
    pub(crate) fn take_over_markers(&mut self, former: &Self) {
        for (producer, entry) in &mut self.producers {
            entry.marker_taken = former.producers.get(producer).and_then(|former| former.marker_taken);
        }
    }

    /// Closes a transaction. Returns the entry for the transaction index when it was aborted.
    pub fn complete(&mut self, txn: CompletedTxn) -> Option<AbortedTxn> {
        self.ongoing.remove(&txn.first_offset);
        let last_stable = self.ongoing.first_key_value().map_or(txn.last_offset + 1, |(first, _)| *first);
        self.unreplicated.insert(txn.first_offset, txn.last_offset);
        txn.aborted.then_some(AbortedTxn {
            producer_id: ProducerId(txn.producer),
            first_offset: Offset(txn.first_offset),
            last_offset: Offset(txn.last_offset),
            last_stable_offset: Offset(last_stable),
        })
    }

    /// The first offset of the oldest transaction that is open, or whose marker is not below the high watermark.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let ongoing = self.ongoing.first_key_value().map(|(first, _)| *first);
        let unreplicated = self.unreplicated.first_key_value().map(|(first, _)| *first);
        ongoing.into_iter().chain(unreplicated).min()
    }

    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        if !self.unreplicated.is_empty() {
            self.unreplicated.retain(|_, marker| *marker >= high_watermark);
        }
    }

    pub fn on_log_start(&mut self, log_start: i64) {
        self.on_high_watermark(log_start);
        self.end = self.end.max(log_start);
    }

    fn is_expired(&self, entry: &ProducerEntry, now: Timestamp) -> bool {
        entry.txn_first_offset.is_none()
            && now.0.saturating_sub(entry.last_timestamp) >= self.config.producer_id_expiration_ms
    }

    /// Forgets producers that have been silent for `producer.id.expiration.ms`. Returns how many.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        let before = self.producers.len();
        let mut producers = std::mem::take(&mut self.producers);
        producers.retain(|_, entry| !self.is_expired(entry, now));
        self.producers = producers;
        let expiration_ms = self.config.producer_id_expiration_ms;
        self.verifications.retain(|_, verification| now.0.saturating_sub(verification.begun.0) < expiration_ms);
        before - self.producers.len()
    }

    /// Before a producer that is not known comes to the full number, forgets an eighth of the others (KIP-936 tells what
    /// happens without a bound), the longest silent first. An open transaction is never forgotten.
    fn make_room(&mut self, producer: i64) {
        let max = self.config.producer_ids_max;
        if self.producers.len() < max || self.producers.contains_key(&producer) {
            return;
        }
        let closed = self.producers.iter().filter(|(_, entry)| entry.txn_first_offset.is_none());
        let mut silent: Vec<(i64, i64)> = closed.map(|(id, entry)| (entry.last_timestamp, *id)).collect();
        silent.sort_unstable();
        for (_, id) in silent.into_iter().take(self.producers.len() - max + (max / 8).max(1)) {
            self.producers.remove(&id);
        }
    }

    /// Open transactions whose producers have been silent for longer than `limit_ms`, oldest first.
    pub fn late(&self, now: Timestamp, limit_ms: i64) -> impl Iterator<Item = ActiveProducer> + '_ {
        let open = self.ongoing.values().filter_map(|id| Some((id, self.producers.get(id)?)));
        open.filter(move |(_, entry)| now.0.saturating_sub(entry.last_timestamp) > limit_ms)
            .map(|(id, entry)| entry.describe(*id))
    }

    /// Takes over a snapshot's producers, without those that have expired.
    pub(crate) fn load(&mut self, producers: BTreeMap<i64, ProducerEntry>, offset: i64, now: Timestamp) {
        self.clear(offset);
        self.producers = producers;
        self.expire(now);
        let open = self.producers.iter().filter_map(|(producer, entry)| Some((entry.txn_first_offset?, *producer)));
        self.ongoing = open.collect();
        self.snapshot = offset;
    }

    /// Forgets everything; the log now begins at `offset`.
    pub fn clear(&mut self, offset: i64) {
        *self = Self::new(self.config, offset);
    }

    pub fn active(&self) -> impl Iterator<Item = ActiveProducer> + '_ {
        self.producers.iter().map(|(producer, entry)| entry.describe(*producer))
    }
}

fn check_sequence(entry: &ProducerEntry, header: &BatchHeader) -> Result<(), ProducerError> {
    let (producer, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
    if epoch.0 != entry.epoch {
        // Only an entry that knows no epoch takes any sequence: its records were deleted by retention.
        if sequence != 0 && entry.epoch != -1 {
            return Err(ProducerError::EpochBeginsLate { producer, epoch, sequence });
        }
        return Ok(());
    }
    let last = entry.last_sequence();
    let follows = i64::from(sequence) == i64::from(last) + 1 || (sequence == 0 && last == i32::MAX);
    let follows = follows || (active(Bug::DuplicateSequenceAccepted) && sequence <= last);
    if follows { Ok(()) } else { Err(ProducerError::OutOfOrderSequence { producer, epoch, sequence, last }) }
}
