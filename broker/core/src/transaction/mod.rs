//! The transaction coordinator, over one partition of `__transaction_state` (KIP-98, 360, 447, 664, 890).
//!
//! [`TransactionShard`] is the [`Shard`] that Kafka calls `TransactionCoordinator` with its `TransactionStateManager`:
//! - `state` is what is known of a transactional id, and its steps; `records` is how that lies in the log;
//! - `init` gives producers their id and epoch, `partitions` adds partitions to transactions and verifies them, `end`
//!   commits and aborts, sees to it that every partition is told, and ends what takes too long;
//! - `admin` describes, lists and forgets.
//!
//! **Invariants:**
//! - Transactions change by replay alone. Beside them, in memory, are only the partitions that have not taken their marker
//!   yet, which a new leader starts with anew: markers may be written twice.
//! - Markers go out ([`TransactionEffect::SendMarkers`]) when the decision is committed, never before, as a new leader
//!   might know nothing of it.
//! - A transaction is complete when each of its partitions has its marker; until then its id takes no new one.

mod admin;
mod end;
mod init;
mod partitions;
mod records;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::time::Now;
use odradek_common::{ErrorCode, Offset, ProducerEpoch, ProducerId};
use odradek_wire::{EncodeError, describe_transactions_response, list_transactions_response};

pub use self::records::TransactionRecord;
pub use self::state::{NamedPartition, State, Transaction, TransactionVersion};
use crate::coordinator::{EncodedRecord, Origin, Shard, Ticket, TimelineMap, Turn};

/// The topic of transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Requests that wait for the end of one transaction; a producer has few under way.
const WAITING_MAX: usize = 64;

/// What the broker's configs say to transactions.
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`.
    pub timeout_max_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub abort_timed_out_interval: Duration,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub remove_expired_interval: Duration,
}

/// A producer names itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

impl Producer {
    fn above(self) -> Self {
        Self { epoch: ProducerEpoch(self.epoch.0.saturating_add(1)), ..self }
    }
}

/// What a producer asks of a two-phase commit, in which somebody else decides how transactions end (KIP-939).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TwoPhase {
    /// Transactions have no timeout.
    pub enable: bool,
    /// An open transaction is taken over instead of aborted.
    pub keep_prepared: bool,
}

/// What may change a transaction. Ids are not empty.
#[derive(Clone, Debug)]
pub enum TransactionRequest {
    /// A producer asks for its id and epoch. `fresh` is an unused producer id, if one is at hand.
    Init {
        id: Arc<str>,
        timeout_ms: i32,
        expected: Option<Producer>,
        two_phase: TwoPhase,
        fresh: Option<ProducerId>,
    },
    /// `patience`: how long the end of the former transaction is waited for.
    AddPartitions {
        id: Arc<str>,
        producer: Producer,
        partitions: Vec<NamedPartition>,
        version: TransactionVersion,
        patience: Duration,
    },
    /// Are these partitions in the open transaction?
    Verify {
        id: Arc<str>,
        producer: Producer,
        partitions: Vec<NamedPartition>,
    },
    End {
        id: Arc<str>,
        producer: Producer,
        is_commit: bool,
        version: TransactionVersion,
        fresh: Option<ProducerId>,
    },
    /// These partitions have taken the marker of this producer.
    Marked {
        id: Arc<str>,
        producer: Producer,
        partitions: Vec<NamedPartition>,
    },
    /// The answer to [`TransactionEffect::WantProducerId`].
    AbortTimedOut {
        id: Arc<str>,
        fresh: ProducerId,
    },
    /// The finalized level of `transaction.version`.
    SetLevel(TransactionVersion),
}

/// What reads transactions.
#[derive(Clone, Debug)]
pub enum TransactionQuery {
    Describe(Vec<Arc<str>>),
    /// Each empty: all. States by name; `longer_than_ms` is -1 for all.
    List {
        states: Vec<State>,
        producers: Vec<ProducerId>,
        longer_than_ms: i64,
    },
}

/// The answers.
#[derive(Clone, PartialEq, Debug)]
pub enum TransactionResponse {
    /// The producer as it is to go on.
    Producer(Producer),
    /// The same, with the open transaction that it has taken over.
    TookOver {
        producer: Producer,
        ongoing: Producer,
    },
    /// Ask again with an unused producer id.
    WantProducerId,
    Verified(Vec<(NamedPartition, ErrorCode)>),
    Described(Vec<describe_transactions_response::TransactionState>),
    Listed(Vec<list_transactions_response::TransactionState>),
    Done,
}

/// What the rest of the broker is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum TransactionEffect {
    /// Tell these partitions, and then this shard ([`TransactionRequest::Marked`]).
    SendMarkers(Markers),
    /// A transaction has timed out, and its producer has no epoch left.
    WantProducerId(Arc<str>),
}

/// The markers that a decision asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Markers {
    pub id: Arc<str>,
    pub producer: Producer,
    pub is_commit: bool,
    pub version: TransactionVersion,
    /// Where the decision is in the log.
    pub decided: Offset,
    pub partitions: Arc<BTreeSet<NamedPartition>>,
}

/// Names a timer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TransactionTimer {
    /// Transactions are looked through for what has timed out.
    Abort,
    /// Ids are looked through for what has outlived its time.
    Expire,
    /// Somebody has waited long enough for the end of this id's transaction.
    Waited(Arc<str>),
}

pub(crate) type TransactionTurn<'a> = Turn<'a, TransactionShard>;

/// An AddPartitions that waits for the former transaction's end.
#[derive(Clone, Debug)]
struct Waiting {
    ticket: Ticket,
    producer: Producer,
    partitions: Vec<NamedPartition>,
    version: TransactionVersion,
}

/// Partitions that have not taken their marker.
#[derive(Clone, Debug)]
struct Unmarked {
    /// Of the decision.
    decided: Offset,
    partitions: BTreeSet<NamedPartition>,
}

/// Transactions of one partition.
#[derive(Clone, Debug)]
pub struct TransactionShard {
    config: Arc<TransactionConfig>,
    level: TransactionVersion,
    transactions: TimelineMap<Arc<str>, Transaction>,
    /// Decisions that are written and not known to be committed: no marker has gone out.
    decided: BTreeMap<Offset, Arc<str>>,
    /// Of every decided transaction that is not complete.
    unmarked: BTreeMap<Arc<str>, Unmarked>,
    waiting: BTreeMap<Arc<str>, Vec<Waiting>>,
    effects: Vec<TransactionEffect>,
    committed: Offset,
    /// From then on markers go out.
    is_loaded: bool,
}

impl TransactionShard {
    pub fn new(config: Arc<TransactionConfig>, level: TransactionVersion) -> Self {
        Self {
            config,
            level,
            transactions: TimelineMap::default(),
            decided: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            effects: Vec::new(),
            committed: Offset::ZERO,
            is_loaded: false,
        }
    }

    /// What is known of an id, committed or not.
    pub fn transaction(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id)
    }

    pub fn transaction_count(&self) -> usize {
        self.transactions.len()
    }

    fn write(&self, id: Arc<str>, transaction: Option<Transaction>, turn: &mut TransactionTurn<'_>) {
        turn.record(TransactionRecord { id, transaction, format: records::format(self.level) });
    }
}

impl Shard for TransactionShard {
    type Record = TransactionRecord;
    type Request = TransactionRequest;
    type Query = TransactionQuery;
    type Response = TransactionResponse;
    type Timer = TransactionTimer;
    type Pending = std::convert::Infallible;
    type Effect = TransactionEffect;

    fn encode(record: &TransactionRecord) -> Result<EncodedRecord, EncodeError> {
        records::encode(record)
    }

    fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<TransactionRecord, String> {
        records::decode(key, value)
    }

    fn handle(&mut self, ticket: Ticket, request: TransactionRequest, turn: &mut TransactionTurn<'_>) {
        match request {
            TransactionRequest::Init { id, timeout_ms, expected, two_phase, fresh } => {
                self.init(ticket, id, timeout_ms, (expected, two_phase), fresh, turn);
            }
            TransactionRequest::AddPartitions { id, producer, partitions, version, patience } => {
                let asked = Waiting { ticket, producer, partitions, version };
                self.add_partitions(id, asked, patience, turn);
            }
            TransactionRequest::Verify { id, producer, partitions } => {
                self.verify(ticket, &id, producer, partitions, turn);
            }
            TransactionRequest::End { id, producer, is_commit, version, fresh } => {
                self.end(ticket, id, producer, is_commit, version, fresh, turn);
            }
            TransactionRequest::Marked { id, producer, partitions } => {
                self.marked(ticket, id, producer, &partitions, turn);
            }
            TransactionRequest::AbortTimedOut { id, fresh } => {
                self.abort_if_timed_out(&id, Some(fresh), turn);
                turn.reply_now(ticket, TransactionResponse::Done);
            }
            TransactionRequest::SetLevel(level) => {
                self.level = level;
                turn.reply_now(ticket, TransactionResponse::Done);
            }
        }
    }

    fn query(&self, query: TransactionQuery, now: Now) -> TransactionResponse {
        match query {
            TransactionQuery::Describe(ids) => {
                TransactionResponse::Described(ids.iter().map(|id| self.describe(id)).collect())
            }
            TransactionQuery::List { states, producers, longer_than_ms } => {
                TransactionResponse::Listed(self.list(&states, &producers, longer_than_ms, now))
            }
        }
    }

    fn replay(&mut self, origin: Origin, record: TransactionRecord) {
        let TransactionRecord { id, transaction, .. } = record;
        if let Some(before) = self.unmarked.remove(&id) {
            self.decided.remove(&before.decided);
        }
        match transaction {
            None => {
                self.transactions.remove(origin.offset, &id);
            }
            Some(transaction) => {
                if transaction.state.is_prepared() {
                    self.decided.insert(origin.offset, id.clone());
                    let partitions = BTreeSet::clone(&transaction.partitions);
                    self.unmarked.insert(id.clone(), Unmarked { decided: origin.offset, partitions });
                }
                self.transactions.insert(origin.offset, id, transaction);
            }
        }
    }

    /// Nobody writes transactionally to this topic.
    fn replay_marker(&mut self, _: Offset, _: ProducerId, _: bool) {}

    fn on_loaded(&mut self, turn: &mut TransactionTurn<'_>) {
        self.is_loaded = true;
        turn.schedule(TransactionTimer::Abort, self.config.abort_timed_out_interval);
        turn.schedule(TransactionTimer::Expire, self.config.remove_expired_interval);
        let unfinished = self.unmarked.len();
        if unfinished > 0 {
            turn.note(format!(
                "{unfinished} transactions were decided and are not complete: their markers are sent again"
            ));
        }
        self.send_markers();
    }

    fn on_timer(&mut self, timer: TransactionTimer, turn: &mut TransactionTurn<'_>) {
        match timer {
            TransactionTimer::Abort => {
                self.abort_timed_out(turn);
                turn.schedule(TransactionTimer::Abort, self.config.abort_timed_out_interval);
            }
            TransactionTimer::Expire => {
                self.expire(turn);
                turn.schedule(TransactionTimer::Expire, self.config.remove_expired_interval);
            }
            TransactionTimer::Waited(id) => self.give_up_waiting(&id, turn),
        }
    }

    fn on_appended(
        &mut self,
        pending: std::convert::Infallible,
        _: Result<(), ErrorCode>,
        _: &mut TransactionTurn<'_>,
    ) {
        match pending {}
    }

    fn on_committed(&mut self, offset: Offset) {
        self.committed = self.committed.max(offset);
        self.transactions.commit(offset);
        if self.is_loaded {
            self.send_markers();
        }
    }

    fn take_effects(&mut self) -> Vec<TransactionEffect> {
        std::mem::take(&mut self.effects)
    }
}
