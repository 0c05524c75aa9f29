//! AddPartitionsToTxn and AddOffsetsToTxn, from clients and, in their name, from brokers (KIP-890).

use std::sync::Arc;
use std::time::Duration;

use odradek_common::ErrorCode;

use super::state::{NamedPartition, State, Transaction};
use super::{Producer, TransactionResponse, TransactionShard, TransactionTimer, TransactionTurn, WAITING_MAX, Waiting};
use crate::coordinator::Ticket;

impl TransactionShard {
    pub(super) fn add_partitions(
        &mut self,
        id: Arc<str>,
        asked: Waiting,
        patience: Duration,
        turn: &mut TransactionTurn<'_>,
    ) {
        let Some(current) = self.transactions.get(&*id) else {
            return turn.refuse(asked.ticket, ErrorCode::InvalidProducerIdMapping);
        };
        if current.state.is_prepared() && !patience.is_zero() {
            let waiting = self.waiting.entry(id.clone()).or_default();
            if waiting.len() < WAITING_MAX {
                if waiting.is_empty() {
                    turn.schedule(TransactionTimer::Waited(id), patience);
                }
                return waiting.push(asked);
            }
        }
        let current = current.clone();
        self.add_partitions_to(&id, &current, asked, turn);
    }

    /// Adds to a transaction in the state that this turn has brought it to, and answers that state.
    fn add_partitions_to(
        &self,
        id: &Arc<str>,
        current: &Transaction,
        asked: Waiting,
        turn: &mut TransactionTurn<'_>,
    ) -> Option<Transaction> {
        let Waiting { ticket, producer, partitions, version } = asked;
        // What is under way comes first: its end may bring another producer id, and this may be the client that has it.
        let refusal = if current.state.is_prepared() {
            Some(ErrorCode::ConcurrentTransactions)
        } else {
            check_producer(current, producer).err()
        };
        if let Some(error) = refusal {
            turn.refuse(ticket, error);
            return None;
        }
        turn.reply(ticket, TransactionResponse::Done);
        let is_known = |partition: &NamedPartition| current.partitions.contains(partition);
        if current.state == State::Ongoing && partitions.iter().all(is_known) {
            return None;
        }
        let next = current.with_partitions(partitions, version, turn.wall().0);
        self.write(id.clone(), Some(next.clone()), turn);
        Some(next)
    }

    /// The former transaction is complete in this turn: those who waited for that go on from there.
    pub(super) fn end_waiting(&mut self, id: &Arc<str>, completed: Transaction, turn: &mut TransactionTurn<'_>) {
        let Some(waiting) = self.waiting.remove(id) else { return };
        turn.cancel(TransactionTimer::Waited(id.clone()));
        let mut current = completed;
        for asked in waiting {
            if let Some(next) = self.add_partitions_to(id, &current, asked, turn) {
                current = next;
            }
        }
    }

    pub(super) fn give_up_waiting(&mut self, id: &Arc<str>, turn: &mut TransactionTurn<'_>) {
        for asked in self.waiting.remove(id).unwrap_or_default() {
            turn.refuse(asked.ticket, ErrorCode::ConcurrentTransactions);
        }
    }

    /// Answers when all that the answer rests on is committed: a partition that a new leader would not know of must not
    /// be written to.
    pub(super) fn verify(
        &mut self,
        ticket: Ticket,
        id: &Arc<str>,
        producer: Producer,
        partitions: Vec<NamedPartition>,
        turn: &mut TransactionTurn<'_>,
    ) {
        let checked = match self.transactions.get(id) {
            None => Err(ErrorCode::InvalidProducerIdMapping),
            Some(current) => check_producer(current, producer).map(|()| current),
        };
        let current = match checked {
            Ok(current) if current.state.is_prepared() => {
                return turn.refuse(ticket, ErrorCode::ConcurrentTransactions);
            }
            Ok(current) => current,
            Err(error) => return turn.refuse(ticket, error),
        };
        let verified = partitions.into_iter().map(|partition| {
            let is_known = current.partitions.contains(&partition);
            (partition, if is_known { ErrorCode::None } else { ErrorCode::TransactionAbortable })
        });
        turn.reply(ticket, TransactionResponse::Verified(verified.collect()));
    }
}

fn check_producer(current: &Transaction, producer: Producer) -> Result<(), ErrorCode> {
    let owner = current.owner();
    if owner.id != producer.id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if owner.epoch != producer.epoch {
        return Err(ErrorCode::ProducerFenced);
    }
    // What was taken over is only ended (KIP-939): it has its records, and they are another producer's.
    if current.heir().is_some() { Err(ErrorCode::InvalidTxnState) } else { Ok(()) }
}
