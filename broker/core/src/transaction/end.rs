//! The end of transactions: EndTxn by either protocol, the markers that follow from it, and what takes too long.
//!
//! 1. A decision is written (`PrepareCommit`, `PrepareAbort`). The client is answered when it is committed.
//! 2. With the same news the markers go out, and each partition's answer comes back as [`TransactionShard::marked`].
//! 3. With the last of them the transaction is complete, which is written, too.

use std::sync::Arc;

use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};

use super::state::{NamedPartition, State, Transaction, TransactionVersion};
use super::{Markers, Producer, TransactionEffect, TransactionResponse, TransactionShard, TransactionTurn};
use crate::coordinator::Ticket;

/// What an EndTxn comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Prepare,
    /// It was done before.
    Repeated,
    Refused(ErrorCode),
}

impl TransactionShard {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn end(
        &mut self,
        ticket: Ticket,
        id: Arc<str>,
        producer: Producer,
        is_commit: bool,
        version: TransactionVersion,
        fresh: Option<ProducerId>,
        turn: &mut TransactionTurn<'_>,
    ) {
        let Some(current) = self.transactions.get(&*id) else {
            return turn.refuse(ticket, ErrorCode::InvalidProducerIdMapping);
        };
        let verdict = match version.bumps_epoch() {
            true => judge(current, producer, is_commit),
            false => judge_first_protocol(current, producer, is_commit),
        };
        match verdict {
            Verdict::Refused(error) => turn.refuse(ticket, error),
            Verdict::Repeated => {
                let producer = Producer { id: current.producer, epoch: current.epoch };
                turn.reply(ticket, TransactionResponse::Producer(producer));
            }
            Verdict::Prepare => {
                let wants_id = version.bumps_epoch() && current.is_exhausted();
                if wants_id && fresh.is_none() {
                    return turn.reply_now(ticket, TransactionResponse::WantProducerId);
                }
                let version = if version.bumps_epoch() { version } else { TransactionVersion::V0 };
                let next = current.prepared(is_commit, version, fresh.filter(|_| wants_id), turn.wall().0);
                let after = next.completed(turn.wall().0);
                self.write(id, Some(next), turn);
                let producer = Producer { id: after.producer, epoch: after.epoch };
                turn.reply(ticket, TransactionResponse::Producer(producer));
            }
        }
    }

    // ---- markers ----

    /// Hands out the markers of all decisions that are committed.
    pub(super) fn send_markers(&mut self) {
        while let Some(first) = self.decided.first_entry()
            && *first.key() < self.committed
        {
            let (decided, id) = first.remove_entry();
            let (Some(transaction), Some(unmarked)) = (self.transactions.get(&*id), self.unmarked.get(&id)) else {
                continue;
            };
            self.effects.push(TransactionEffect::SendMarkers(Markers {
                producer: Producer { id: transaction.producer, epoch: transaction.epoch },
                is_commit: transaction.state == State::PrepareCommit,
                version: transaction.version,
                decided,
                partitions: Arc::new(unmarked.partitions.clone()),
                id,
            }));
        }
    }

    /// Partitions have taken their markers. An answer about another producer or epoch is late, and says nothing.
    pub(super) fn marked(
        &mut self,
        ticket: Ticket,
        id: Arc<str>,
        producer: Producer,
        partitions: &[NamedPartition],
        turn: &mut TransactionTurn<'_>,
    ) {
        let current = self.transactions.get(&*id);
        let current = current.filter(|current| {
            current.state.is_prepared() && (current.producer, current.epoch) == (producer.id, producer.epoch)
        });
        let (Some(current), Some(unmarked)) = (current, self.unmarked.get_mut(&id)) else {
            return turn.reply_now(ticket, TransactionResponse::Done);
        };
        for partition in partitions {
            unmarked.partitions.remove(partition);
        }
        if !unmarked.partitions.is_empty() {
            return turn.reply_now(ticket, TransactionResponse::Done);
        }
        let next = current.completed(turn.wall().0);
        self.write(id.clone(), Some(next.clone()), turn);
        turn.reply(ticket, TransactionResponse::Done);
        self.end_waiting(&id, next, turn);
    }

    // ---- timeouts ----

    pub(super) fn abort_timed_out(&mut self, turn: &mut TransactionTurn<'_>) {
        turn.divisible();
        let now_ms = turn.wall().0;
        let timed_out = self.transactions.iter().filter(|(_, transaction)| transaction.is_timed_out(now_ms));
        let timed_out: Vec<_> = timed_out.map(|(id, _)| id.clone()).collect();
        for id in timed_out {
            self.abort_if_timed_out(&id, None, turn);
        }
    }

    pub(super) fn abort_if_timed_out(
        &mut self,
        id: &Arc<str>,
        fresh: Option<ProducerId>,
        turn: &mut TransactionTurn<'_>,
    ) {
        let now_ms = turn.wall().0;
        let Some(current) = self.transactions.get(id).filter(|current| current.is_timed_out(now_ms)) else { return };
        let wants_id = self.level.bumps_epoch() && current.is_exhausted();
        if wants_id && fresh.is_none() {
            return self.effects.push(TransactionEffect::WantProducerId(id.clone()));
        }
        let (producer, epoch, timeout_ms) = (current.producer, current.epoch, current.timeout_ms);
        turn.note(format!(
            "the transaction of {id:?} (producer {producer}, epoch {epoch}) is aborted: it is open for longer than its \
             {timeout_ms} ms"
        ));
        let fenced = current.fenced(self.level, fresh.filter(|_| wants_id), now_ms);
        self.write(id.clone(), Some(fenced), turn);
    }
}

/// EndTxn without a bump of the epoch. A repeated request cannot be told from the next one but by the state.
fn judge_first_protocol(current: &Transaction, producer: Producer, is_commit: bool) -> Verdict {
    let owner = current.owner();
    if owner.id != producer.id {
        return Verdict::Refused(ErrorCode::InvalidProducerIdMapping);
    }
    if owner.epoch != producer.epoch {
        return Verdict::Refused(ErrorCode::ProducerFenced);
    }
    match (current.state, is_commit) {
        // It has to go on as another producer than the one whose records these are.
        _ if current.heir().is_some() => Verdict::Refused(ErrorCode::UnsupportedVersion),
        (State::PrepareCommit | State::PrepareAbort, _) => Verdict::Refused(ErrorCode::ConcurrentTransactions),
        (State::Ongoing, _) => Verdict::Prepare,
        (State::CompleteCommit, true) | (State::CompleteAbort, false) => Verdict::Repeated,
        _ => Verdict::Refused(ErrorCode::InvalidTxnState),
    }
}

/// EndTxn with a bump of the epoch: a repeated request comes with the epoch before, or with the last epoch of the producer
/// id before. An abort needs no open transaction, as the coordinator may not have heard of it.
fn judge(current: &Transaction, producer: Producer, is_commit: bool) -> Verdict {
    let is_before = i32::from(current.epoch.0) == i32::from(producer.epoch.0) + 1;
    let is_before_overflow = current.previous_producer == producer.id
        && producer.epoch == ProducerEpoch(i16::MAX - 1)
        && current.epoch == ProducerEpoch(0);
    let owner = current.owner();
    let is_current = owner.epoch == producer.epoch;
    let is_valid_epoch = match current.state {
        State::CompleteCommit | State::CompleteAbort => is_before || is_before_overflow || is_current,
        _ => is_current,
    };
    if current.state.is_prepared() {
        return Verdict::Refused(ErrorCode::ConcurrentTransactions);
    }
    if owner.id != producer.id && !is_before_overflow {
        return Verdict::Refused(ErrorCode::InvalidProducerIdMapping);
    }
    if !is_valid_epoch {
        return Verdict::Refused(ErrorCode::ProducerFenced);
    }
    let is_repeated = is_before || is_before_overflow;
    match (current.state, is_commit) {
        (State::Ongoing, _) => Verdict::Prepare,
        (State::CompleteCommit, true) | (State::CompleteAbort, false) if is_repeated => Verdict::Repeated,
        (State::Empty | State::CompleteCommit | State::CompleteAbort, false) if !is_repeated => Verdict::Prepare,
        _ => Verdict::Refused(ErrorCode::InvalidTxnState),
    }
}
