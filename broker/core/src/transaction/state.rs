//! One transactional id: who produces under it, in which epoch, and how far its transaction is. Every step is a function
//! from what is to what will be, and changes nothing by itself (Kafka's `TransactionMetadata`).

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};

use super::Producer;

pub(super) const NO_PRODUCER: ProducerId = ProducerId(-1);
pub(super) const NO_EPOCH: ProducerEpoch = ProducerEpoch(-1);

/// The last epoch that a client may have: the one above is kept, so that its producer can always be fenced.
const CLIENT_EPOCH_MAX: i16 = i16::MAX - 1;

/// A transaction without a timeout, as one that takes part in a two-phase commit has it (KIP-939).
pub(super) const NO_TIMEOUT: i32 = i32::MAX;

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// A producer is there and has not begun anything.
    Empty,
    Ongoing,
    /// Decided; the partitions are being told.
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
    /// Being forgotten. Kafka has it in memory alone; here it is never, and its name is known.
    Dead,
    /// A producer is being fenced. Kafka has it in memory alone; here it is never, and its name is known.
    PrepareEpochFence,
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// As tools show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// As records have it.
    pub(super) fn id(self) -> i8 {
        self as i8
    }

    /// Only what Kafka writes.
    pub(super) fn from_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().take(6).find(|state| state.id() == id)
    }

    /// Decided, and not told to all partitions yet.
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// Nothing is under way: the id may be forgotten one day.
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }

    pub(super) fn prepared(is_commit: bool) -> Self {
        if is_commit { Self::PrepareCommit } else { Self::PrepareAbort }
    }
}

/// The protocol of a transaction, as levels of `transaction.version`. Clients speak 0 or 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TransactionVersion(pub i16);

impl TransactionVersion {
    pub const V0: Self = Self(0);
    pub const V2: Self = Self(2);

    /// KIP-890's second part: the end of each transaction takes the next epoch.
    pub fn bumps_epoch(self) -> bool {
        self.0 >= 2
    }
}

/// A partition by name, as the transaction log has it.
pub type NamedPartition = (Arc<str>, i32);

/// What is known of a transactional id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub producer: ProducerId,
    /// Of the record before. After an epoch overflow it is the id that the client may still know.
    pub previous_producer: ProducerId,
    /// Of an open transaction: the producer that took it over and is to end it (KIP-939). Of a decided one: the id that
    /// follows when it is complete, as epochs are exhausted or somebody took it over. -1: none.
    pub next_producer: ProducerId,
    /// The epoch that goes with it; -1: the first.
    pub next_epoch: ProducerEpoch,
    pub epoch: ProducerEpoch,
    /// The epoch before, for a client that asks again; -1: another producer was fenced. It is not in the log.
    pub last_epoch: ProducerEpoch,
    pub timeout_ms: i32,
    pub state: State,
    /// Empty in the idle states.
    pub partitions: Arc<BTreeSet<NamedPartition>>,
    /// When the transaction began; -1: none has.
    pub started_ms: i64,
    pub updated_ms: i64,
    pub version: TransactionVersion,
}

impl Transaction {
    /// An id that nobody has used, before its first epoch.
    pub(super) fn new(producer: ProducerId, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer,
            previous_producer: NO_PRODUCER,
            next_producer: NO_PRODUCER,
            next_epoch: NO_EPOCH,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: Arc::default(),
            started_ms: -1,
            updated_ms: now_ms,
            version: TransactionVersion::V0,
        }
    }

    /// The producer that took over the open transaction of another (KIP-939).
    pub(super) fn heir(&self) -> Option<Producer> {
        let is_taken_over = self.state == State::Ongoing && self.next_epoch != NO_EPOCH;
        is_taken_over.then_some(Producer { id: self.next_producer, epoch: self.next_epoch })
    }

    /// The producer that may go on.
    pub(super) fn owner(&self) -> Producer {
        self.heir().unwrap_or(Producer { id: self.producer, epoch: self.epoch })
    }

    /// No client may have a later epoch of the owner's id.
    pub(super) fn is_exhausted(&self) -> bool {
        self.owner().epoch.0 >= CLIENT_EPOCH_MAX
    }

    fn epoch_above(&self) -> ProducerEpoch {
        ProducerEpoch(self.epoch.0.saturating_add(1))
    }

    /// Whether the transaction has been open for longer than it may be.
    pub(super) fn is_timed_out(&self, now_ms: i64) -> bool {
        self.state == State::Ongoing
            && self.timeout_ms != NO_TIMEOUT
            && self.started_ms.saturating_add(i64::from(self.timeout_ms)) < now_ms
    }

    /// Whether a producer that names its id and epoch may go on (KIP-360): the metadata was just made; or the id is the
    /// current one, and then the epoch is checked when it is bumped; or it is the one before, which ran out of epochs.
    pub(super) fn knows(&self, producer: ProducerId, epoch: ProducerEpoch) -> bool {
        self.epoch == NO_EPOCH
            || producer == self.producer
            || (producer == self.previous_producer && epoch.0 >= CLIENT_EPOCH_MAX)
    }

    fn idle(&self, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            previous_producer: self.producer,
            next_producer: NO_PRODUCER,
            next_epoch: NO_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: Arc::default(),
            started_ms: -1,
            updated_ms: now_ms,
            ..self.clone()
        }
    }

    /// A producer takes up the id in the next epoch. `expected`: it has been here before, with that epoch.
    pub(super) fn initialised(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerEpoch>,
        now_ms: i64,
    ) -> Result<Self, ErrorCode> {
        let (epoch, last_epoch) = match expected {
            None => (self.epoch_above(), NO_EPOCH),
            Some(_) if self.epoch == NO_EPOCH => (self.epoch_above(), NO_EPOCH),
            Some(expected) if expected == self.epoch => (self.epoch_above(), self.epoch),
            // It has not heard the answer to what it asked before. Nobody else can have come meanwhile, or there would
            // be no last epoch.
            Some(expected) if expected == self.last_epoch => (self.epoch, self.last_epoch),
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(Self { epoch, last_epoch, ..self.idle(timeout_ms, now_ms) })
    }

    /// A producer takes up the id under another producer id, as the epochs of the old one have run out.
    pub(super) fn rotated(&self, producer: ProducerId, timeout_ms: i32, is_expected: bool, now_ms: i64) -> Self {
        let last_epoch = if is_expected { self.epoch } else { NO_EPOCH };
        Self { producer, epoch: ProducerEpoch(0), last_epoch, ..self.idle(timeout_ms, now_ms) }
    }

    /// Another producer takes over the open transaction, to end it (KIP-939). `fresh`: its id, where the owner's epochs have
    /// run out. What the former owner wrote stays its own, so that the partitions know the transaction.
    pub(super) fn taken_over(&self, timeout_ms: i32, fresh: Option<ProducerId>, now_ms: i64) -> Self {
        let heir = fresh.map_or_else(|| self.owner().above(), |id| Producer { id, epoch: ProducerEpoch(0) });
        Self {
            previous_producer: self.producer,
            next_producer: heir.id,
            next_epoch: heir.epoch,
            timeout_ms,
            updated_ms: now_ms,
            ..self.clone()
        }
    }

    /// With more partitions; begins a transaction if none is open.
    pub(super) fn with_partitions(
        &self,
        added: impl IntoIterator<Item = NamedPartition>,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Self {
        let mut partitions = BTreeSet::clone(&self.partitions);
        partitions.extend(added);
        Self {
            previous_producer: self.producer,
            state: State::Ongoing,
            partitions: Arc::new(partitions),
            started_ms: if self.state.is_idle() { now_ms } else { self.started_ms },
            updated_ms: now_ms,
            version,
            ..self.clone()
        }
    }

    /// The decision. With the second protocol the epoch is bumped, and `next_producer` says who follows if epochs ran out.
    /// Who took the transaction over follows in the next epoch of its own.
    pub(super) fn prepared(
        &self,
        is_commit: bool,
        version: TransactionVersion,
        next_producer: Option<ProducerId>,
        now_ms: i64,
    ) -> Self {
        let (epoch, last_epoch) = match version.bumps_epoch() {
            true => (self.epoch_above(), self.epoch),
            false => (self.epoch, self.last_epoch),
        };
        let (next_producer, next_epoch) = match (next_producer, self.heir().map(Producer::above)) {
            (Some(fresh), _) => (fresh, NO_EPOCH),
            (None, Some(heir)) => (heir.id, heir.epoch),
            (None, None) => (NO_PRODUCER, NO_EPOCH),
        };
        Self {
            previous_producer: self.producer,
            next_producer,
            next_epoch,
            epoch,
            last_epoch,
            state: State::prepared(is_commit),
            // An abort may be the first that is heard of a transaction; it has to have begun some time.
            started_ms: if self.state == State::Ongoing { self.started_ms } else { now_ms },
            updated_ms: now_ms,
            version,
            ..self.clone()
        }
    }

    /// The abort of a transaction whose producer must not go on.
    pub(super) fn fenced(&self, level: TransactionVersion, next_producer: Option<ProducerId>, now_ms: i64) -> Self {
        if level.bumps_epoch() {
            return self.prepared(false, level, next_producer, now_ms);
        }
        // Without the second protocol nobody follows but the id itself, in an epoch that no heir has had either.
        let last = self.heir().filter(|heir| heir.id == self.producer).map_or(self.epoch, |heir| heir.epoch);
        let epoch = ProducerEpoch(last.0.saturating_add(1));
        let fenced =
            Self { epoch, last_epoch: NO_EPOCH, next_producer: NO_PRODUCER, next_epoch: NO_EPOCH, ..self.clone() };
        fenced.prepared(false, TransactionVersion::V0, None, now_ms)
    }

    /// All partitions have been told. Only of a prepared transaction.
    pub(super) fn completed(&self, now_ms: i64) -> Self {
        let is_followed = self.version.bumps_epoch() && self.next_producer != NO_PRODUCER;
        let (producer, epoch) = match is_followed {
            true => (self.next_producer, self.next_epoch.max(ProducerEpoch(0))),
            false => (self.producer, self.epoch),
        };
        let state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        };
        Self {
            producer,
            previous_producer: self.producer,
            next_producer: NO_PRODUCER,
            next_epoch: NO_EPOCH,
            epoch,
            state,
            partitions: Arc::default(),
            updated_ms: now_ms,
            ..self.clone()
        }
    }
}
