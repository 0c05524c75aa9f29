//! Drives one [`Shard`]: appends what it decides, replays what was appended, and answers when that is committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use odradek_common::rng::Rng;
use odradek_common::time::{Instant, Now};
use odradek_common::{Decision, ErrorCode, Offset, ProducerEpoch, ProducerId};
use odradek_records::{Batches, Compression, EndTxnMarker, RecordBatchBuilder};

use super::shard::{Append, AppendKind, CoordinatorLog, InTransaction, Origin, Shard, Ticket, Turn, response_error};
use super::survey::Survey;
use super::timers::Timers;

/// An answer on its way out.
pub type Completion<S> = (Ticket, Result<<S as Shard>::Response, ErrorCode>);

/// What a coordinator's log is written by.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeConfig {
    /// How long records may take to be committed before whoever waits is refused.
    pub write_timeout: Duration,
    /// The most that one batch may take, before compression.
    pub batch_bytes_max: usize,
    pub compression: Compression,
}

/// The end of a transaction that has written to a coordinator's log.
#[derive(Clone, Copy, Debug)]
pub struct TransactionEnd {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    pub marker: EndTxnMarker,
    /// The epoch is above that of the transaction's records (KIP-890).
    pub bumped: bool,
    /// What it is of, if its sender tells.
    pub decision: Option<Decision>,
}

/// The log holds what no coordinator has written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("a batch cannot be read: {0}")]
    Batch(#[from] odradek_records::BatchError),
    #[error("the records of the batch at {offset} cannot be read: {error}")]
    Records { offset: Offset, error: odradek_records::RecordError },
}

/// What waits for the high watermark.
#[derive(Clone, Debug)]
struct Parked<R, P> {
    /// The high watermark has to reach it.
    required: Offset,
    deadline: Instant,
    replies: Vec<(Ticket, Result<R, ErrorCode>)>,
    pending: Option<P>,
}

/// A shard with its timers and with what waits for its log. It can be cloned for those who try what may become of it.
#[derive(Clone, Debug)]
pub struct Runtime<S: Shard> {
    shard: S,
    config: RuntimeConfig,
    timers: Timers<S::Timer>,
    /// By `required`, and so by `deadline`.
    parked: VecDeque<Parked<S::Response, S::Pending>>,
    /// Requests that are not answered.
    open: BTreeSet<Ticket>,
    /// Behind the last record that was replayed.
    written: Offset,
    /// The high watermark, as far as it is known here.
    committed: Offset,
    notes: Vec<String>,
    /// Records that were left out of the load: why, and how many.
    skipped: BTreeMap<String, u64>,
    /// During a load that was preceded by a look at the whole log.
    survey: Option<Survey>,
}

impl<S: Shard> Runtime<S> {
    /// A shard that is to be loaded.
    pub fn new(shard: S, config: RuntimeConfig) -> Self {
        Self {
            shard,
            config,
            timers: Timers::default(),
            parked: VecDeque::new(),
            open: BTreeSet::new(),
            written: Offset::ZERO,
            committed: Offset::ZERO,
            notes: Vec::new(),
            skipped: BTreeMap::new(),
            survey: None,
        }
    }

    pub fn shard(&self) -> &S {
        &self.shard
    }

    /// Behind the last record that is part of the state.
    pub fn written(&self) -> Offset {
        self.written
    }

    /// Requests that are not answered.
    pub fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// What the shard has to say to the operator since it was asked last.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What the rest of the broker is to do since this was asked last.
    pub fn take_effects(&mut self) -> Vec<S::Effect> {
        self.shard.take_effects()
    }

    /// Why records were left out of the load, with their number.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, u64)> {
        self.skipped.iter().map(|(why, count)| (why.as_str(), *count))
    }

    // ---- load ----

    /// What lies below is committed already when the load begins, and need not be remembered as if it could be taken back.
    pub fn load_committed(&mut self, high_watermark: Offset) {
        self.committed = self.committed.max(high_watermark);
        self.shard.on_committed(self.committed);
    }

    /// Begins a first look at the log, which spares the load all records that later ones supersede. Worth it where the log
    /// is long. `hash_keys` are random.
    pub fn begin_survey(&mut self, hash_keys: (u64, u64)) {
        self.survey = Some(Survey::new(hash_keys));
    }

    /// Looks at a stretch of the log and tells where the next one begins. An empty stretch is the log's end.
    pub fn survey(&mut self, batches: Bytes, decompressed_bytes_max: usize) -> Result<Option<Offset>, LoadError> {
        let mut next = None;
        for batch in Batches::new(batches) {
            let batch = batch?;
            if let Some(survey) = &mut self.survey {
                survey.note(&batch, self.committed, decompressed_bytes_max)?;
            }
            next = Some(batch.header.last_offset().plus(1));
        }
        if next.is_none()
            && let Some(survey) = &mut self.survey
        {
            survey.complete();
        }
        Ok(next)
    }

    /// Takes in a stretch of the log, before anything else happens. Kinds of records that the shard does not know are left
    /// out; a batch that cannot be read at all is an error.
    pub fn load(&mut self, batches: Bytes, decompressed_bytes_max: usize) -> Result<(), LoadError> {
        for batch in Batches::new(batches) {
            let batch = batch?;
            let header = batch.header;
            let unreadable = |error| LoadError::Records { offset: header.base_offset, error };
            if self.survey.as_mut().is_some_and(|survey| survey.is_batch_superseded(&batch)) {
                // Nothing of it counts.
            } else if header.attributes.is_control() {
                // A control record of a kind that is not known ends no transaction.
                if let Ok(Some((marker, _))) = EndTxnMarker::of_batch(&batch) {
                    self.shard.replay_marker(header.base_offset, header.producer_id, marker.is_commit);
                }
            } else {
                let producer = header.attributes.is_transactional().then_some(header.producer_id);
                let survey = self.survey.as_ref().filter(|_| producer.is_none());
                for record in batch.records(decompressed_bytes_max).map_err(unreadable)? {
                    let record = record.map_err(unreadable)?;
                    if survey.is_some_and(|survey| survey.is_superseded(record.key.as_ref(), record.offset)) {
                        continue;
                    }
                    let origin = Origin { offset: record.offset, producer };
                    match S::decode(record.key, record.value) {
                        Ok(decoded) => self.shard.replay(origin, decoded),
                        Err(why) if self.skipped.len() < SKIPPED_MAX => *self.skipped.entry(why).or_default() += 1,
                        Err(_) => {}
                    }
                }
            }
            self.written = header.last_offset().plus(1);
        }
        Ok(())
    }

    /// The log was taken in up to `log_end`, of which `high_watermark` is committed.
    pub fn loaded(
        &mut self,
        log_end: Offset,
        high_watermark: Offset,
        now: Now,
        rng: &mut dyn Rng,
        log: &mut dyn CoordinatorLog,
    ) -> Vec<Completion<S>> {
        self.written = log_end;
        self.survey = None;
        let mut done = self.on_high_watermark(high_watermark, now, rng, log);
        let mut turn = Turn::new(now, rng);
        self.shard.on_loaded(&mut turn);
        let work = Work::of(turn);
        self.finish(work, now, rng, log, &mut done);
        done
    }

    // ---- operation ----

    /// Takes a request. Answers whatever is complete by then, this request or others.
    pub fn request(
        &mut self,
        ticket: Ticket,
        request: S::Request,
        now: Now,
        rng: &mut dyn Rng,
        log: &mut dyn CoordinatorLog,
    ) -> Vec<Completion<S>> {
        self.open.insert(ticket);
        let mut turn = Turn::new(now, rng);
        self.shard.handle(ticket, request, &mut turn);
        let work = Work::of(turn);
        let mut done = Vec::new();
        self.finish(work, now, rng, log, &mut done);
        done
    }

    /// Answers from committed state.
    pub fn query(&self, query: S::Query, now: Now) -> S::Response {
        self.shard.query(query, now)
    }

    /// The high watermark has moved.
    pub fn on_high_watermark(
        &mut self,
        high_watermark: Offset,
        now: Now,
        rng: &mut dyn Rng,
        log: &mut dyn CoordinatorLog,
    ) -> Vec<Completion<S>> {
        let mut done = Vec::new();
        self.committed = self.committed.max(high_watermark);
        self.shard.on_committed(self.committed);
        while let Some(parked) = self.parked.pop_front_if(|parked| parked.required <= self.committed) {
            self.complete(&mut done, parked.replies);
            self.settle(parked.pending, Ok(()), now, rng, log, &mut done);
        }
        done
    }

    /// When [`Runtime::on_time`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let parked = self.parked.front().map(|parked| parked.deadline);
        [parked, self.timers.next_deadline()].into_iter().flatten().min()
    }

    /// Fires what is due.
    pub fn on_time(&mut self, now: Now, rng: &mut dyn Rng, log: &mut dyn CoordinatorLog) -> Vec<Completion<S>> {
        let mut done = Vec::new();
        while let Some(parked) = self.parked.pop_front_if(|parked| parked.deadline <= now.instant) {
            let error = response_error(ErrorCode::RequestTimedOut);
            self.complete(&mut done, parked.replies.into_iter().map(|(ticket, _)| (ticket, Err(error))));
            self.settle(parked.pending, Err(error), now, rng, log, &mut done);
        }
        while let Some(timer) = self.timers.pop_due(now.instant) {
            let mut turn = Turn::new(now, rng);
            self.shard.on_timer(timer, &mut turn);
            let work = Work::of(turn);
            self.finish(work, now, rng, log, &mut done);
        }
        done
    }

    /// Appends the end of a transaction and takes it in, unless that was done before.
    pub fn end_transaction(
        &mut self,
        ticket: Ticket,
        end: TransactionEnd,
        response: S::Response,
        now: Now,
        log: &mut dyn CoordinatorLog,
    ) -> Vec<Completion<S>> {
        let TransactionEnd { producer, epoch, marker, bumped, decision } = end;
        let batch = marker.batch(producer, epoch, now.wall);
        let offset = match log.append(Append { batch, records: 1, kind: AppendKind::Marker { bumped, decision } }) {
            Ok(offset) => offset,
            Err(error) => return vec![(ticket, Err(response_error(error)))],
        };
        if offset >= self.written {
            self.shard.replay_marker(offset, producer, marker.is_commit);
            self.written = offset.plus(1);
        } else if self.written <= self.committed {
            return vec![(ticket, Ok(response))];
        }
        self.open.insert(ticket);
        self.park(now, vec![(ticket, Ok(response))], None);
        Vec::new()
    }

    /// The leadership is lost: whoever waits is refused.
    pub fn unload(self, error: ErrorCode) -> Vec<Completion<S>> {
        self.open.into_iter().map(|ticket| (ticket, Err(error))).collect()
    }

    // ---- one turn ----

    fn finish(
        &mut self,
        work: Work<S>,
        now: Now,
        rng: &mut dyn Rng,
        log: &mut dyn CoordinatorLog,
        done: &mut Vec<Completion<S>>,
    ) {
        self.notes.extend(work.notes);
        for (timer, after) in work.timers {
            match after {
                Some(after) => self.timers.schedule(timer, now.instant, after),
                None => self.timers.cancel(&timer),
            }
        }
        self.complete(done, work.immediate);
        let appended = self.append(work.records, work.is_divisible, work.producer, now, log);
        match appended {
            Ok(()) if self.written > self.committed => {
                if !work.replies.is_empty() || work.pending.is_some() {
                    self.park(now, work.replies, work.pending);
                }
            }
            Ok(()) => {
                self.complete(done, work.replies);
                self.settle(work.pending, Ok(()), now, rng, log, done);
            }
            Err(error) => {
                let error = response_error(error);
                self.complete(done, work.replies.into_iter().map(|(ticket, _)| (ticket, Err(error))));
                self.settle(work.pending, Err(error), now, rng, log, done);
            }
        }
    }

    fn settle(
        &mut self,
        pending: Option<S::Pending>,
        result: Result<(), ErrorCode>,
        now: Now,
        rng: &mut dyn Rng,
        log: &mut dyn CoordinatorLog,
        done: &mut Vec<Completion<S>>,
    ) {
        let Some(pending) = pending else { return };
        let mut turn = Turn::new(now, rng);
        self.shard.on_appended(pending, result, &mut turn);
        let work = Work::of(turn);
        self.finish(work, now, rng, log, done);
    }

    fn complete(&mut self, done: &mut Vec<Completion<S>>, completions: impl IntoIterator<Item = Completion<S>>) {
        done.extend(completions.into_iter().filter(|(ticket, _)| self.open.remove(ticket)));
    }

    fn park(&mut self, now: Now, replies: Vec<Completion<S>>, pending: Option<S::Pending>) {
        let deadline = now.instant + self.config.write_timeout;
        self.parked.push_back(Parked { required: self.written, deadline, replies, pending });
    }

    /// Appends and replays. With an error, what could not be appended has changed nothing.
    fn append(
        &mut self,
        records: Vec<S::Record>,
        is_divisible: bool,
        transaction: Option<InTransaction>,
        now: Now,
        log: &mut dyn CoordinatorLog,
    ) -> Result<(), ErrorCode> {
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let mut builder = RecordBatchBuilder::new().compression(self.config.compression);
            let mut kind = AppendKind::Records;
            if let Some(InTransaction { producer, epoch, guard }) = transaction {
                builder = builder.producer(producer, epoch, -1).transactional(true);
                kind = guard.map_or(kind, AppendKind::Verified);
            }
            let mut batched = Vec::new();
            while let Some(record) = records.peek() {
                let Ok((key, value)) = S::encode(record) else { return Err(ErrorCode::UnknownServerError) };
                let size = key.len() + value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD_BYTES;
                if is_divisible && !builder.is_empty() && builder.size() + size > self.config.batch_bytes_max {
                    break;
                }
                builder.append(now.wall, Some(&key), value.as_deref());
                batched.extend(records.next());
            }
            let batch = builder.build().map_err(|_| ErrorCode::RecordListTooLarge)?;
            let first = log.append(Append { batch, records: batched.len(), kind })?;
            for (record, n) in batched.into_iter().zip(0..) {
                let origin =
                    Origin { offset: first.plus(n), producer: transaction.map(|transaction| transaction.producer) };
                self.shard.replay(origin, record);
                self.written = first.plus(n + 1);
            }
        }
        Ok(())
    }
}

/// Different reasons to leave a record out that are counted.
const SKIPPED_MAX: usize = 100;

/// Lengths, deltas and attributes of a record, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// What a turn has led to.
struct Work<S: Shard> {
    records: Vec<S::Record>,
    is_divisible: bool,
    producer: Option<InTransaction>,
    replies: Vec<Completion<S>>,
    immediate: Vec<Completion<S>>,
    timers: Vec<(S::Timer, Option<Duration>)>,
    pending: Option<S::Pending>,
    notes: Vec<String>,
}

impl<S: Shard> Work<S> {
    fn of(turn: Turn<'_, S>) -> Self {
        let Turn { records, is_divisible, producer, replies, immediate, timers, pending, notes, .. } = turn;
        Self { records, is_divisible, producer, replies, immediate, timers, pending, notes }
    }
}
