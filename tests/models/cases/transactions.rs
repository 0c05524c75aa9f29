//! One transactional id: its coordinator, two partitions that it writes to, and the producers that come under its name. The
//! coordinator is the real one (`TransactionShard` in its `Runtime`), and so is what a leader knows of producers
//! (`ProducerStates`); clients, the broker's path of a batch (`api/produce`, `api/enlist`) and the sending of markers
//! (`coordinators/markers`) are told here in a few lines each.
//!
//! What may go wrong: answers that nobody hears, messages that come again when all is over, coordinators and leaders that die, a
//! producer that gives up a batch, one that takes another's place, transactions that take too long. That a request is lost is
//! the same as that it has not come yet.
//!
//! 1. What is visible to a read-committed reader was decided to be committed.
//! 2. When all is quiet, a transaction that was committed is in all of its partitions, once.
//! 3. When all is quiet, no transaction holds back a last stable offset, and its coordinator knows of none that is open.
//! 4. Who was told that a transaction is committed was told the truth.
//! 5. No two producers have one id and epoch: who begins gets an epoch that nobody had.
//!
//! With the first protocol a request of one transaction cannot be told from one of the next, as the epoch is the same: its scopes
//! leave out requests to the coordinator that come late. A marker can be told, as its coordinator says which decision it is of and
//! which leadership it is for; what becomes of one that does not say so (Kafka's, or an operator's) is shown in `orders` by
//! `a_late_marker_that_does_not_tell_its_decision_ends_the_next_transaction`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordinator::{Append, CoordinatorLog, Runtime, RuntimeConfig, Ticket};
use odradek_broker_core::transaction::{
    NamedPartition, Producer, State as Stage, Transaction, TransactionConfig, TransactionEffect, TransactionQuery,
    TransactionRequest, TransactionResponse, TransactionShard, TransactionVersion, TwoPhase,
};
use odradek_broker_storage::{AbortedTxn, AppendOrigin, ProducerStateConfig, ProducerStates, Unverified};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{Decision, ErrorCode, LeaderEpoch, Offset, ProducerId, VerificationGuard};
use odradek_models::Model;
use odradek_records::{Attributes, BatchHeader, Compression, EndTxnMarker};

mod orders;

const PARTITIONS: usize = 2;
const ID: &str = "model";
const TIMEOUT_MS: i32 = 60_000;
const RECORDS_BYTES_MAX: usize = 1 << 20;
const FIRST_PRODUCER_ID: i64 = 1000;

/// All happens at one time, but for the end of what takes too long.
const NOW: Now = Now { instant: Instant(1_000_000_000), wall: Timestamp(1_000_000) };
const LATE: Now = Now { instant: Instant(1_000_000_000), wall: Timestamp(1_000_000 + 2 * TIMEOUT_MS as i64) };

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
struct Scope {
    /// What clients speak.
    version: TransactionVersion,
    /// In all.
    transactions: u8,
    producers: usize,
    /// Answers that nobody hears.
    unheard: u8,
    /// Requests of clients that come once more, at any time.
    late_requests: u8,
    /// Markers that come once more, at any time.
    late_markers: u8,
    /// Whether markers say what they are of.
    tells_decision: bool,
    coordinators_lost: u8,
    leaders_lost: u8,
    /// Batches that their producer waits for no more.
    given_up: u8,
    timeouts: u8,
    states_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    unheard: u8,
    late_requests: u8,
    late_markers: u8,
    coordinators_lost: u8,
    leaders_lost: u8,
    given_up: u8,
    timeouts: u8,
}

/// The coordinator's log. A record supersedes the one before, so the last batch is enough.
#[derive(Clone, Debug, Default)]
struct Log {
    last: Option<Bytes>,
    end: i64,
}

impl CoordinatorLog for Log {
    fn append(&mut self, append: Append) -> Result<Offset, ErrorCode> {
        let mut batch = append.batch.to_vec();
        batch[..8].copy_from_slice(&self.end.to_be_bytes());
        self.last = Some(batch.into());
        self.end += append.records as i64;
        Ok(Offset(self.end - append.records as i64))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Data { producer: Producer, sequence: i32, transaction: u8 },
    Marker { producer: Producer, marker: EndTxnMarker },
}

/// A partition at its leader. What is appended is committed at once.
#[derive(Clone, Debug)]
struct Partition {
    leader_epoch: LeaderEpoch,
    producers: ProducerStates,
    log: Vec<Entry>,
    aborted: Vec<AbortedTxn>,
}

/// Of a client: what it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It has not started.
    Absent,
    Init,
    Add,
    Produce(usize),
    /// Both partitions have their record.
    Decide,
    End(bool),
    /// It has done what it was to do, or is of no more use.
    Over,
}

#[derive(Clone, Debug)]
struct Client {
    producer: Option<Producer>,
    sequences: [i32; PARTITIONS],
    phase: Phase,
    transaction: u8,
    /// A batch is under way.
    waits: bool,
    /// First protocol: what became of a batch is not known, so its sequence may be taken. A new epoch starts anew.
    wants_epoch: bool,
}

/// A batch on its way into a partition.
#[derive(Clone, Copy, Debug)]
struct Batch {
    partition: usize,
    producer: Producer,
    sequence: i32,
    transaction: u8,
    /// Who waits for the answer.
    client: Option<usize>,
    guard: Option<VerificationGuard>,
    /// The coordinator has said yes under the guard.
    is_enlisted: bool,
}

/// What a client asks the coordinator.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Init { expected: Option<Producer> },
    Add { producer: Producer },
    End { producer: Producer, is_commit: bool, transaction: u8 },
}

/// A marker on its way to a partition.
#[derive(Clone, Copy, Debug)]
struct Marker {
    partition: usize,
    producer: Producer,
    is_commit: bool,
    version: TransactionVersion,
    coordinator_epoch: i32,
    decided: Offset,
    /// Which leader it was sent to; `None`: it has not been.
    leader_epoch: Option<LeaderEpoch>,
    /// It is another copy: nobody waits for its answer.
    is_late: bool,
}

#[derive(Clone, Debug)]
struct World {
    scope: Scope,
    used: Used,
    coordinator: Runtime<TransactionShard>,
    coordinator_epoch: i32,
    log: Log,
    next_producer_id: i64,
    partitions: Vec<Partition>,
    clients: Vec<Client>,
    batches: Vec<Batch>,
    late_requests: Vec<Ask>,
    markers: Vec<Marker>,
    begun: u8,
    /// Ids and epochs that producers have had.
    given: BTreeSet<(i64, i16)>,
    /// What was decided upon a client's request, and whether it was told.
    decided: BTreeMap<u8, (bool, bool)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    /// A client's request to the coordinator.
    Ask {
        client: usize,
        is_heard: bool,
        comes_again: bool,
    },
    LateRequest(usize),
    Decide {
        client: usize,
        is_commit: bool,
    },
    /// A batch arrives at its partition.
    Produce {
        client: usize,
        comes_again: bool,
    },
    GiveUp(usize),
    Enlist {
        batch: usize,
        is_heard: bool,
    },
    Append {
        batch: usize,
        is_heard: bool,
    },
    Mark {
        marker: usize,
        is_heard: bool,
        comes_again: bool,
    },
    LoseCoordinator,
    LoseLeader(usize),
    TimeOut,
}

fn named(partition: usize) -> NamedPartition {
    ("data".into(), partition as i32)
}

fn all_partitions() -> Vec<NamedPartition> {
    (0..PARTITIONS).map(named).collect()
}

fn coordinator() -> Runtime<TransactionShard> {
    let config = TransactionConfig {
        timeout_max_ms: 900_000,
        id_expiration_ms: 7_000_000,
        abort_timed_out_interval: Duration::from_secs(10),
        remove_expired_interval: Duration::from_secs(3600),
    };
    let runtime = RuntimeConfig {
        write_timeout: Duration::from_secs(5),
        batch_bytes_max: 1 << 20,
        compression: Compression::default(),
    };
    Runtime::new(TransactionShard::new(Arc::new(config), TransactionVersion::V2), runtime)
}

impl Partition {
    fn new() -> Self {
        Self { leader_epoch: LeaderEpoch(0), producers: Self::nothing_known(), log: Vec::new(), aborted: Vec::new() }
    }

    fn nothing_known() -> ProducerStates {
        ProducerStates::new(ProducerStateConfig { verify_transactions: true, ..ProducerStateConfig::default() }, 0)
    }

    fn header(offset: usize, entry: Entry) -> BatchHeader {
        let (producer, base_sequence, control) = match entry {
            Entry::Data { producer, sequence, .. } => (producer, sequence, 0),
            Entry::Marker { producer, .. } => (producer, -1, Attributes::CONTROL),
        };
        BatchHeader {
            base_offset: Offset(offset as i64),
            size: 0,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: Attributes(Attributes::TRANSACTIONAL | control),
            last_offset_delta: 0,
            base_timestamp: NOW.wall,
            max_timestamp: NOW.wall,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence,
            record_count: 1,
        }
    }

    /// As `Log::append_as_leader`: a duplicate is answered as what it repeats, and so is a marker.
    fn append(&mut self, entry: Entry, origin: AppendOrigin) -> Result<(), ErrorCode> {
        let decision = origin.decision();
        if decision.is_some_and(|decision| decision.leader_epoch != self.leader_epoch) {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        let header = Self::header(self.log.len(), entry);
        if origin.is_client() && self.producers.find_duplicate(&header).is_some() {
            return Ok(());
        }
        let marker = match &entry {
            Entry::Marker { marker, .. } => Some(marker),
            Entry::Data { .. } => None,
        };
        self.producers.check(&header, marker, origin).map_err(|error| error.code())?;
        let decided = decision.zip(marker.copied());
        if decided.is_some_and(|(decision, marker)| {
            self.producers.find_marker(header.producer_id, marker, decision).is_some()
        }) {
            return Ok(());
        }
        self.log.push(entry);
        self.take_in(header, entry);
        if let Some((decision, marker)) = decided {
            self.producers.remember_marker(header.producer_id, marker, decision, header.base_offset);
        }
        Ok(())
    }

    fn take_in(&mut self, header: BatchHeader, entry: Entry) {
        let marker = match entry {
            Entry::Marker { marker, .. } => Some((marker, NOW.wall)),
            Entry::Data { .. } => None,
        };
        if let Some(completed) = self.producers.apply(&header, marker) {
            self.aborted.extend(self.producers.complete(completed));
        }
        self.producers.on_high_watermark(header.base_offset.0 + 1);
    }

    /// Another replica leads, which knows what is in the log.
    fn change_leader(&mut self) {
        self.leader_epoch.0 += 1;
        self.producers = Self::nothing_known();
        self.aborted.clear();
        for (offset, entry) in self.log.clone().into_iter().enumerate() {
            self.take_in(Self::header(offset, entry), entry);
        }
    }

    fn last_stable_offset(&self) -> usize {
        self.producers.first_unstable_offset().map_or(self.log.len(), |first| first as usize)
    }

    /// The transactions of what a read-committed reader sees.
    fn visible(&self) -> Vec<u8> {
        let below = self.log.iter().take(self.last_stable_offset()).zip(0..);
        let seen = below.filter_map(|(entry, offset)| {
            let Entry::Data { producer, transaction, .. } = entry else { return None };
            let is_aborted = self.aborted.iter().any(|aborted| {
                aborted.producer_id == producer.id && (aborted.first_offset.0..=aborted.last_offset.0).contains(&offset)
            });
            (!is_aborted).then_some(*transaction)
        });
        seen.collect()
    }
}

impl World {
    fn new(scope: Scope) -> Self {
        let client = Client {
            producer: None,
            sequences: [0; PARTITIONS],
            phase: Phase::Absent,
            transaction: 0,
            waits: false,
            wants_epoch: false,
        };
        let mut world = Self {
            scope,
            used: Used::default(),
            coordinator: coordinator(),
            coordinator_epoch: 0,
            log: Log::default(),
            next_producer_id: FIRST_PRODUCER_ID,
            partitions: vec![Partition::new(); PARTITIONS],
            clients: vec![client; scope.producers],
            batches: Vec::new(),
            late_requests: Vec::new(),
            markers: Vec::new(),
            begun: 0,
            given: BTreeSet::new(),
            decided: BTreeMap::new(),
        };
        world.load();
        world.clients[0].phase = Phase::Init;
        world
    }

    // ---- the coordinator ----

    fn load(&mut self) {
        self.coordinator = coordinator();
        if let Some(batch) = self.log.last.clone() {
            self.coordinator.load(batch, RECORDS_BYTES_MAX).expect("a good log");
        }
        let end = Offset(self.log.end);
        self.coordinator.loaded(end, end, NOW, &mut SplitMix64::new(1), &mut self.log);
        self.take_effects();
    }

    fn transaction(&self) -> Option<&Transaction> {
        self.coordinator.shard().transaction(ID)
    }

    /// What is written is committed at once: what is lost before that is the same as a request that has not come.
    fn request(
        &mut self,
        now: Now,
        request: impl Fn(Option<ProducerId>) -> TransactionRequest,
    ) -> Result<TransactionResponse, ErrorCode> {
        let mut rng = SplitMix64::new(1);
        let mut fresh = None;
        loop {
            let ticket = Ticket(0);
            let mut done = self.coordinator.request(ticket, request(fresh), now, &mut rng, &mut self.log);
            done.extend(self.coordinator.on_high_watermark(Offset(self.log.end), now, &mut rng, &mut self.log));
            let (_, answer) = done.into_iter().next().expect("what is committed is answered");
            if fresh.is_none() && answer == Ok(TransactionResponse::WantProducerId) {
                fresh = Some(ProducerId(self.next_producer_id));
                self.next_producer_id += 1;
                continue;
            }
            self.take_effects();
            return answer;
        }
    }

    fn take_effects(&mut self) {
        self.coordinator.take_notes();
        for effect in self.coordinator.take_effects() {
            match effect {
                TransactionEffect::SendMarkers(markers) if markers.partitions.is_empty() => {
                    let (id, producer) = (markers.id, markers.producer);
                    let marked = |_| TransactionRequest::Marked { id: id.clone(), producer, partitions: Vec::new() };
                    let _ = self.request(NOW, marked);
                }
                TransactionEffect::SendMarkers(markers) => {
                    self.markers.extend(markers.partitions.iter().map(|(_, partition)| Marker {
                        partition: *partition as usize,
                        producer: markers.producer,
                        is_commit: markers.is_commit,
                        version: markers.version,
                        coordinator_epoch: self.coordinator_epoch,
                        decided: markers.decided,
                        leader_epoch: None,
                        is_late: false,
                    }));
                }
                TransactionEffect::WantProducerId(_) => unreachable!("one is at hand"),
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<TransactionResponse, ErrorCode> {
        let version = self.scope.version;
        let id: Arc<str> = ID.into();
        match ask {
            Ask::Init { expected } => self.request(NOW, |fresh| TransactionRequest::Init {
                id: id.clone(),
                timeout_ms: TIMEOUT_MS,
                expected,
                two_phase: TwoPhase::default(),
                fresh,
            }),
            Ask::Add { producer } => self.request(NOW, |_| TransactionRequest::AddPartitions {
                id: id.clone(),
                producer,
                partitions: all_partitions(),
                version,
                patience: Duration::ZERO,
            }),
            Ask::End { producer, is_commit, transaction } => {
                let was_open = self.transaction().is_some_and(|before| before.state == Stage::Ongoing);
                let answer = self.request(NOW, |fresh| TransactionRequest::End {
                    id: id.clone(),
                    producer,
                    is_commit,
                    version,
                    fresh,
                });
                if was_open && answer.is_ok() {
                    self.decided.entry(transaction).or_insert((is_commit, false));
                }
                answer
            }
        }
    }

    // ---- clients ----

    fn asks(&self, client: usize) -> Option<Ask> {
        let Client { producer, phase, transaction, .. } = self.clients[client];
        match (phase, producer) {
            (Phase::Init, expected) => Some(Ask::Init { expected }),
            (Phase::Add, Some(producer)) => Some(Ask::Add { producer }),
            (Phase::End(is_commit), Some(producer)) => Some(Ask::End { producer, is_commit, transaction }),
            _ => None,
        }
    }

    fn begin_transaction(&mut self, client: usize) {
        let is_last = self.begun == self.scope.transactions;
        let bumps = self.scope.version.bumps_epoch();
        let client = &mut self.clients[client];
        client.phase = match is_last {
            true => Phase::Over,
            false if bumps => Phase::Produce(0),
            false => Phase::Add,
        };
        if !is_last {
            self.begun += 1;
            client.transaction = self.begun;
        }
    }

    fn hear(&mut self, at: usize, answer: Result<TransactionResponse, ErrorCode>) -> Result<(), String> {
        let bumps = self.scope.version.bumps_epoch();
        let client = &mut self.clients[at];
        match (client.phase, answer) {
            (_, Err(ErrorCode::ConcurrentTransactions)) => {}
            (Phase::Init, Ok(TransactionResponse::Producer(producer))) => {
                let is_new = self.given.insert((producer.id.0, producer.epoch.0));
                if !is_new {
                    return Err(format!("rule 5: {producer:?} was another producer before"));
                }
                (client.producer, client.sequences, client.wants_epoch) = (Some(producer), [0; PARTITIONS], false);
                self.begin_transaction(at);
            }
            (Phase::Add, Ok(TransactionResponse::Done)) => client.phase = Phase::Produce(0),
            (Phase::End(is_commit), Ok(TransactionResponse::Producer(producer))) => {
                if bumps {
                    (client.producer, client.sequences) = (Some(producer), [0; PARTITIONS]);
                    self.given.insert((producer.id.0, producer.epoch.0));
                }
                if is_commit {
                    match self.decided.get_mut(&client.transaction) {
                        Some((true, is_told)) => *is_told = true,
                        _ => return Err(format!("rule 4: transaction {} is not committed", client.transaction)),
                    }
                }
                if client.wants_epoch && !bumps {
                    client.phase = Phase::Init;
                } else {
                    self.begin_transaction(at);
                }
            }
            // Fenced, or in a state that a client does not come out of.
            _ => client.phase = Phase::Over,
        }
        Ok(())
    }

    fn produced(&mut self, at: usize, result: Result<(), ErrorCode>) {
        let client = &mut self.clients[at];
        let Phase::Produce(partition) = client.phase else { return };
        client.waits = false;
        match result {
            Ok(()) => {
                client.sequences[partition] += 1;
                client.phase = if partition + 1 < PARTITIONS { Phase::Produce(partition + 1) } else { Phase::Decide };
            }
            Err(ErrorCode::NotEnoughReplicas | ErrorCode::ConcurrentTransactions) => {}
            Err(ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced) => client.phase = Phase::Over,
            Err(_) => (client.phase, client.wants_epoch) = (Phase::End(false), true),
        }
    }

    // ---- batches ----

    fn arrive(&mut self, client: usize) {
        let Client { producer: Some(producer), phase: Phase::Produce(partition), .. } = self.clients[client] else {
            return;
        };
        self.clients[client].waits = true;
        let batch = Batch {
            partition,
            producer,
            sequence: self.clients[client].sequences[partition],
            transaction: self.clients[client].transaction,
            client: Some(client),
            guard: None,
            is_enlisted: false,
        };
        self.receive(batch);
    }

    fn receive(&mut self, mut batch: Batch) {
        match self.verification(&batch) {
            Ok(guard) => {
                batch.guard = guard;
                self.batches.push(batch);
            }
            Err(error) => self.answer(&batch, Err(error), true),
        }
    }

    fn verification(&mut self, batch: &Batch) -> Result<Option<VerificationGuard>, ErrorCode> {
        let Batch { producer, sequence, .. } = *batch;
        let bumps_epoch = self.scope.version.bumps_epoch();
        let unverified = Unverified { producer: producer.id, epoch: producer.epoch, sequence, bumps_epoch };
        let begun = self.partitions[batch.partition].producers.begin_verification(unverified, NOW.wall);
        begun.map_err(|error| error.code())
    }

    fn answer(&mut self, batch: &Batch, result: Result<(), ErrorCode>, is_heard: bool) {
        let Some(client) = batch.client else { return };
        if is_heard {
            self.produced(client, result);
        } else {
            self.clients[client].waits = false;
        }
    }

    fn enlist(&mut self, at: usize, is_heard: bool) {
        let Batch { partition, producer, .. } = self.batches[at];
        let id: Arc<str> = ID.into();
        let answer = match self.scope.version.bumps_epoch() {
            true => self.request(NOW, |_| TransactionRequest::AddPartitions {
                id: id.clone(),
                producer,
                partitions: vec![named(partition)],
                version: TransactionVersion::V2,
                patience: Duration::ZERO,
            }),
            false => self.request(NOW, |_| TransactionRequest::Verify {
                id: id.clone(),
                producer,
                partitions: vec![named(partition)],
            }),
        };
        let error = match answer {
            _ if !is_heard => ErrorCode::NotEnoughReplicas,
            Ok(TransactionResponse::Verified(verified)) => verified[0].1,
            Ok(_) => ErrorCode::None,
            Err(error) => error,
        };
        if error.is_error() {
            let batch = self.batches.remove(at);
            return self.answer(&batch, Err(error), true);
        }
        self.batches[at].is_enlisted = true;
    }

    fn append(&mut self, at: usize, is_heard: bool) {
        let mut batch = self.batches[at];
        match self.verification(&batch) {
            Ok(guard) if guard == batch.guard => {}
            Ok(None) => batch.guard = None,
            Ok(Some(guard)) => {
                let batch = &mut self.batches[at];
                (batch.guard, batch.is_enlisted) = (Some(guard), false);
                return;
            }
            Err(error) => {
                self.batches.remove(at);
                return self.answer(&batch, Err(error), is_heard);
            }
        }
        self.batches.remove(at);
        let Batch { producer, sequence, transaction, .. } = batch;
        let origin = batch.guard.map_or(AppendOrigin::Client, AppendOrigin::Verified);
        let entry = Entry::Data { producer, sequence, transaction };
        let result = self.partitions[batch.partition].append(entry, origin);
        self.answer(&batch, result, is_heard);
    }

    // ---- markers ----

    fn mark(&mut self, at: usize, is_heard: bool) {
        let marker = self.markers[at];
        let Marker { partition, producer, is_commit, version, coordinator_epoch, is_late, .. } = marker;
        let end = EndTxnMarker { is_commit, coordinator_epoch };
        let leader_epoch = marker.leader_epoch.unwrap_or(self.partitions[partition].leader_epoch);
        let decision = Decision { offset: marker.decided, leader_epoch };
        let decision = self.scope.tells_decision.then_some(decision);
        let origin = AppendOrigin::Marker { bumped: version.bumps_epoch(), decision };
        let result = self.partitions[partition].append(Entry::Marker { producer, marker: end }, origin);
        let is_current = coordinator_epoch == self.coordinator_epoch;
        if is_late || !is_current {
            self.markers.remove(at);
            return;
        }
        if !is_heard {
            return;
        }
        match result {
            Ok(()) | Err(ErrorCode::InvalidProducerEpoch) => {
                self.markers.remove(at);
                let _ = self.request(NOW, |_| TransactionRequest::Marked {
                    id: ID.into(),
                    producer,
                    partitions: vec![named(partition)],
                });
            }
            Err(ErrorCode::TransactionCoordinatorFenced) => {
                self.markers.remove(at);
            }
            Err(_) => {}
        }
    }

    fn time_out(&mut self) {
        let fresh = ProducerId(self.next_producer_id);
        self.next_producer_id += 1;
        let _ = self.request(LATE, |_| TransactionRequest::AbortTimedOut { id: ID.into(), fresh });
    }

    // ---- rules ----

    fn check(&self) -> Result<(), String> {
        for (at, partition) in self.partitions.iter().enumerate() {
            for transaction in partition.visible() {
                if !matches!(self.decided.get(&transaction), Some((true, _))) {
                    return Err(format!("rule 1: partition {at} shows transaction {transaction}"));
                }
            }
        }
        Ok(())
    }

    fn check_quiet(&self) -> Result<(), String> {
        for (transaction, (is_commit, _)) in &self.decided {
            for (at, partition) in self.partitions.iter().enumerate() {
                let times = partition.visible().into_iter().filter(|seen| seen == transaction).count();
                if times != usize::from(*is_commit) {
                    return Err(format!("rule 2: transaction {transaction} is in partition {at} {times} times"));
                }
            }
        }
        for (at, partition) in self.partitions.iter().enumerate() {
            if partition.last_stable_offset() < partition.log.len() {
                return Err(format!("rule 3: a transaction hangs in partition {at}"));
            }
        }
        match self.transaction() {
            Some(transaction) if !transaction.state.is_idle() => {
                Err(format!("rule 3: the transaction stays in {:?}", transaction.state))
            }
            _ => Ok(()),
        }
    }
}

impl Model for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let Self { scope, used, .. } = self;
        let mut steps = Vec::new();
        let may_be_unheard = used.unheard < scope.unheard;
        let may_come_again = used.late_requests < scope.late_requests;
        for (client, state) in self.clients.iter().enumerate() {
            match state.phase {
                Phase::Absent => steps.push(Step::Start(client)),
                Phase::Over => {}
                Phase::Decide => {
                    steps.extend([true, false].map(|is_commit| Step::Decide { client, is_commit }));
                }
                Phase::Produce(_) => {
                    if !state.waits {
                        steps.push(Step::Produce { client, comes_again: false });
                        if may_come_again {
                            steps.push(Step::Produce { client, comes_again: true });
                        }
                    }
                    if used.given_up < scope.given_up {
                        steps.push(Step::GiveUp(client));
                    }
                }
                Phase::Init | Phase::Add | Phase::End(_) => {
                    steps.push(Step::Ask { client, is_heard: true, comes_again: false });
                    if may_be_unheard {
                        steps.push(Step::Ask { client, is_heard: false, comes_again: false });
                    }
                    // With the first protocol it cannot be told from the request of the next transaction.
                    if may_come_again && scope.version.bumps_epoch() {
                        steps.push(Step::Ask { client, is_heard: true, comes_again: true });
                    }
                }
            }
        }
        steps.extend((0..self.late_requests.len()).map(Step::LateRequest));
        for (at, batch) in self.batches.iter().enumerate() {
            let heard: &[bool] = if may_be_unheard && batch.client.is_some() { &[true, false] } else { &[true] };
            let is_waiting = batch.guard.is_some() && !batch.is_enlisted;
            steps.extend(heard.iter().map(|is_heard| match is_waiting {
                true => Step::Enlist { batch: at, is_heard: *is_heard },
                false => Step::Append { batch: at, is_heard: *is_heard },
            }));
        }
        for (at, marker) in self.markers.iter().enumerate() {
            steps.push(Step::Mark { marker: at, is_heard: true, comes_again: false });
            let is_awaited = !marker.is_late && marker.coordinator_epoch == self.coordinator_epoch;
            if may_be_unheard && is_awaited {
                steps.push(Step::Mark { marker: at, is_heard: false, comes_again: false });
            }
            if used.late_markers < scope.late_markers && is_awaited {
                steps.push(Step::Mark { marker: at, is_heard: true, comes_again: true });
            }
        }
        if used.coordinators_lost < scope.coordinators_lost {
            steps.push(Step::LoseCoordinator);
        }
        if used.leaders_lost < scope.leaders_lost {
            steps.extend((0..PARTITIONS).map(Step::LoseLeader));
        }
        let is_open = self.transaction().is_some_and(|transaction| transaction.state == Stage::Ongoing);
        if used.timeouts < scope.timeouts && is_open {
            steps.push(Step::TimeOut);
        }
        steps
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Start(client) => self.clients[client].phase = Phase::Init,
            Step::Ask { client, is_heard, comes_again } => {
                let Some(ask) = self.asks(client) else { return Ok(()) };
                let answer = self.ask(ask);
                if comes_again {
                    self.used.late_requests += 1;
                    self.late_requests.push(ask);
                }
                if is_heard {
                    self.hear(client, answer)?;
                } else {
                    self.used.unheard += 1;
                }
            }
            Step::LateRequest(at) => {
                let ask = self.late_requests.remove(at);
                let _ = self.ask(ask);
            }
            Step::Decide { client, is_commit } => self.clients[client].phase = Phase::End(is_commit),
            Step::Produce { client, comes_again } => {
                self.arrive(client);
                let copied = self.batches.last().copied().filter(|batch| batch.client == Some(client));
                if let (true, Some(batch)) = (comes_again, copied) {
                    self.used.late_requests += 1;
                    self.receive(Batch { client: None, guard: None, ..batch });
                }
            }
            Step::GiveUp(client) => {
                self.used.given_up += 1;
                for batch in self.batches.iter_mut().filter(|batch| batch.client == Some(client)) {
                    batch.client = None;
                }
                let client = &mut self.clients[client];
                (client.phase, client.waits, client.wants_epoch) = (Phase::End(false), false, true);
            }
            Step::Enlist { batch, is_heard } => {
                self.used.unheard += u8::from(!is_heard);
                self.enlist(batch, is_heard);
            }
            Step::Append { batch, is_heard } => {
                self.used.unheard += u8::from(!is_heard);
                self.append(batch, is_heard);
            }
            Step::Mark { marker, is_heard, comes_again } => {
                if comes_again {
                    self.used.late_markers += 1;
                    let marker = self.markers[marker];
                    // To whoever leads now. One to a former leader is refused all the more.
                    let leader_epoch = Some(self.partitions[marker.partition].leader_epoch);
                    self.markers.push(Marker { is_late: true, leader_epoch, ..marker });
                }
                self.used.unheard += u8::from(!is_heard);
                self.mark(marker, is_heard);
            }
            Step::LoseCoordinator => {
                self.used.coordinators_lost += 1;
                self.coordinator_epoch += 1;
                self.load();
            }
            Step::LoseLeader(at) => {
                self.used.leaders_lost += 1;
                self.partitions[at].change_leader();
                let (lost, kept) = self.batches.drain(..).partition(|batch| batch.partition == at);
                self.batches = kept;
                let lost: Vec<Batch> = lost;
                for client in lost.iter().filter_map(|batch| batch.client) {
                    self.clients[client].waits = false;
                }
            }
            Step::TimeOut => {
                self.used.timeouts += 1;
                self.time_out();
            }
        }
        self.check()
    }

    /// The clients are gone; what is under way arrives, and what takes too long is ended.
    fn settle(mut self) -> Result<(), String> {
        for client in &mut self.clients {
            client.phase = Phase::Over;
        }
        // The second time for what came so late that it opened something.
        for _ in 0..2 {
            while !self.markers.is_empty() {
                self.step(Step::Mark { marker: 0, is_heard: true, comes_again: false })?;
            }
            self.step(Step::TimeOut)?;
            while !self.markers.is_empty() {
                self.step(Step::Mark { marker: 0, is_heard: true, comes_again: false })?;
            }
            while !self.late_requests.is_empty() {
                self.step(Step::LateRequest(0))?;
            }
            while let Some(batch) = self.batches.first() {
                let is_waiting = batch.guard.is_some() && !batch.is_enlisted;
                self.step(match is_waiting {
                    true => Step::Enlist { batch: 0, is_heard: true },
                    false => Step::Append { batch: 0, is_heard: true },
                })?;
            }
        }
        self.step(Step::TimeOut)?;
        while !self.markers.is_empty() {
            self.step(Step::Mark { marker: 0, is_heard: true, comes_again: false })?;
        }
        self.check_quiet()
    }

    fn describe(&self, out: &mut dyn Write) -> fmt::Result {
        let mut text = String::new();
        let unmarked = self.coordinator.query(TransactionQuery::Describe(vec![ID.into()]), NOW);
        write!(text, "{:?}{:?}{unmarked:?}{}", self.used, self.transaction(), self.coordinator_epoch)?;
        write!(text, "{:?}{:?}{:?}", self.partitions, self.clients, self.batches)?;
        write!(text, "{:?}{:?}{}{:?}", self.late_requests, self.markers, self.begun, self.decided)?;
        write!(text, "{:?}", self.given)?;
        out.write_str(&with_numbered_guards(&text))
    }
}

/// Guards are distinct within the process; what counts is which are the same.
fn with_numbered_guards(text: &str) -> String {
    const NAME: &str = "VerificationGuard(";
    let mut known: Vec<&str> = Vec::new();
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split(NAME);
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (guard, rest) = part.split_once(')').unwrap_or((part, ""));
        let number = known.iter().position(|other| *other == guard).unwrap_or_else(|| {
            known.push(guard);
            known.len() - 1
        });
        let _ = write!(out, "{NAME}{number}){rest}");
    }
    out
}
