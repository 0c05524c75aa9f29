//! The contract between a coordinator's decisions and the [`Runtime`](super::Runtime).

use std::time::Duration;

use bytes::Bytes;
use odradek_common::rng::Rng;
use odradek_common::time::{Now, Timestamp};
use odradek_common::{Decision, ErrorCode, Offset, ProducerEpoch, ProducerId, VerificationGuard};
use odradek_wire::EncodeError;

/// Names a request until it is answered; chosen by whoever asks, once each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Key and value as they lie in the log. Without a value it is a tombstone.
pub type EncodedRecord = (Bytes, Option<Bytes>);

/// Where a record stands that is replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    pub offset: Offset,
    /// Of a transaction: the record counts only when that is committed.
    pub producer: Option<ProducerId>,
}

/// The state and the decisions of one partition of a coordinator's topic.
pub trait Shard {
    /// A record of the topic, decoded.
    type Record;
    /// What may change state.
    type Request;
    /// What reads committed state.
    type Query;
    type Response;
    /// Names a timer.
    type Timer: Ord + Clone;
    /// What the shard wants to know the outcome of.
    type Pending;
    /// What the rest of the broker is to do, beside answering.
    type Effect;

    fn encode(record: &Self::Record) -> Result<EncodedRecord, EncodeError>;

    /// An error says why a record is left out: its kind is not kept here, or it cannot be read.
    fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<Self::Record, String>;

    /// Decides upon a request. Its ticket is answered in this turn, or kept and answered in a later one.
    fn handle(&mut self, ticket: Ticket, request: Self::Request, turn: &mut Turn<'_, Self>);

    /// Answers from committed state.
    fn query(&self, query: Self::Query, now: Now) -> Self::Response;

    /// Takes in a record that is in the log. Whatever it says, it cannot fail.
    fn replay(&mut self, origin: Origin, record: Self::Record);

    /// A transaction has ended: its records count from here on, or never.
    fn replay_marker(&mut self, offset: Offset, producer: ProducerId, is_commit: bool);

    /// The whole log was replayed: sessions start, as no request came in before.
    fn on_loaded(&mut self, turn: &mut Turn<'_, Self>);

    fn on_timer(&mut self, timer: Self::Timer, turn: &mut Turn<'_, Self>);

    /// The records of the turn that said [`Turn::then`] are committed, or will never be known to be.
    fn on_appended(&mut self, pending: Self::Pending, result: Result<(), ErrorCode>, turn: &mut Turn<'_, Self>);

    /// Records below `offset` are committed.
    fn on_committed(&mut self, offset: Offset);

    /// What is to be done since this was asked last; asked after every step. An effect must rest on committed state.
    fn take_effects(&mut self) -> Vec<Self::Effect>;
}

/// A batch for the log.
#[derive(Clone, Debug)]
pub struct Append {
    pub batch: Bytes,
    pub records: usize,
    pub kind: AppendKind,
}

/// What the log has to check of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendKind {
    Records,
    /// Of a transaction that was verified under this guard (KIP-890).
    Verified(VerificationGuard),
    /// The end of a transaction; `bumped`: in an epoch above that of its records. With a `decision`, one that was appended before
    /// is not again: its offset is answered.
    Marker {
        bumped: bool,
        decision: Option<Decision>,
    },
}

/// In which transaction a turn's records are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InTransaction {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    /// Absent: it is open in this log.
    pub guard: Option<VerificationGuard>,
}

/// The log under a shard: appends as the leader of the shard's epoch, in place.
pub trait CoordinatorLog {
    /// Answers the offset of the batch's first record. With an error nothing was appended.
    fn append(&mut self, append: Append) -> Result<Offset, ErrorCode>;
}

/// One decision of a shard: what it is made from and what it leads to.
pub struct Turn<'a, S: Shard + ?Sized> {
    pub now: Now,
    pub rng: &'a mut dyn Rng,
    pub(super) records: Vec<S::Record>,
    pub(super) is_divisible: bool,
    pub(super) producer: Option<InTransaction>,
    pub(super) replies: Vec<(Ticket, Result<S::Response, ErrorCode>)>,
    pub(super) immediate: Vec<(Ticket, Result<S::Response, ErrorCode>)>,
    pub(super) timers: Vec<(S::Timer, Option<Duration>)>,
    pub(super) pending: Option<S::Pending>,
    pub(super) notes: Vec<String>,
}

impl<'a, S: Shard + ?Sized> Turn<'a, S> {
    pub(super) fn new(now: Now, rng: &'a mut dyn Rng) -> Self {
        Self {
            now,
            rng,
            records: Vec::new(),
            is_divisible: false,
            producer: None,
            replies: Vec::new(),
            immediate: Vec::new(),
            timers: Vec::new(),
            pending: None,
            notes: Vec::new(),
        }
    }

    /// A line for the operator: what was done and why.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    pub fn wall(&self) -> Timestamp {
        self.now.wall
    }

    /// Appends a record. All of a turn are one batch: all are there, or none.
    pub fn record(&mut self, record: S::Record) {
        self.records.push(record);
    }

    /// The turn's records need not be one batch: there may be more than fit into one.
    pub fn divisible(&mut self) {
        self.is_divisible = true;
    }

    /// The turn's records belong to a transaction.
    pub fn transactional(&mut self, transaction: InTransaction) {
        self.producer = Some(transaction);
    }

    /// Answers once all that was written until now, this turn's records included, is committed.
    pub fn reply(&mut self, ticket: Ticket, response: S::Response) {
        self.replies.push((ticket, Ok(response)));
    }

    /// Refuses, once all that the refusal may be due to is committed.
    pub fn refuse(&mut self, ticket: Ticket, error: ErrorCode) {
        self.replies.push((ticket, Err(error)));
    }

    /// Answers at once: for answers that rest on soft state alone.
    pub fn reply_now(&mut self, ticket: Ticket, response: S::Response) {
        self.immediate.push((ticket, Ok(response)));
    }

    pub fn schedule(&mut self, timer: S::Timer, after: Duration) {
        self.timers.push((timer, Some(after)));
    }

    pub fn cancel(&mut self, timer: S::Timer) {
        self.timers.push((timer, None));
    }

    /// Hands `pending` to [`Shard::on_appended`] when the turn's records are committed. Once a turn.
    pub fn then(&mut self, pending: S::Pending) {
        debug_assert!(self.pending.is_none(), "a turn has one outcome");
        self.pending = Some(pending);
    }
}

/// What a client of a coordinator is told when its records could not be appended (Kafka's
/// `CoordinatorOperationExceptionHelper`).
pub fn response_error(append: ErrorCode) -> ErrorCode {
    match append {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownLeaderEpoch
        | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}
