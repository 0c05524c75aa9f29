//! InitProducerId: a producer takes up a transactional id, and whoever had it before is fenced (KIP-98, KIP-360). Its open
//! transaction is aborted, unless the new producer is to end it (KIP-939).

use std::sync::Arc;

use odradek_common::{ErrorCode, ProducerId};

use super::state::{NO_TIMEOUT, State, Transaction};
use super::{Producer, TransactionResponse, TransactionShard, TransactionTurn, TwoPhase};
use crate::coordinator::Ticket;

impl TransactionShard {
    pub(super) fn init(
        &mut self,
        ticket: Ticket,
        id: Arc<str>,
        timeout_ms: i32,
        (expected, two_phase): (Option<Producer>, TwoPhase),
        fresh: Option<ProducerId>,
        turn: &mut TransactionTurn<'_>,
    ) {
        let timeout_max_ms = if two_phase.enable { NO_TIMEOUT } else { self.config.timeout_max_ms };
        if !(1..=timeout_max_ms).contains(&timeout_ms) {
            return turn.refuse(ticket, ErrorCode::InvalidTransactionTimeout);
        }
        if two_phase.keep_prepared && !self.level.bumps_epoch() {
            return turn.refuse(ticket, ErrorCode::UnsupportedVersion);
        }
        let timeout_ms = if two_phase.enable { NO_TIMEOUT } else { timeout_ms };
        let now_ms = turn.wall().0;
        let found = self.transactions.get(&*id);
        let made;
        let current = match (found, fresh) {
            (Some(current), _) => current,
            (None, Some(fresh)) => {
                made = Transaction::new(fresh, timeout_ms, now_ms);
                &made
            }
            (None, None) => return turn.reply_now(ticket, TransactionResponse::WantProducerId),
        };
        if current.state.is_prepared() {
            return turn.refuse(ticket, ErrorCode::ConcurrentTransactions);
        }
        if expected.is_some_and(|expected| !current.knows(expected.id, expected.epoch)) {
            return turn.refuse(ticket, ErrorCode::ProducerFenced);
        }
        let is_rotation_due = current.is_exhausted()
            && (current.state == State::Ongoing || expected.is_none_or(|expected| expected.epoch == current.epoch));
        let wants_id = is_rotation_due && (current.state != State::Ongoing || self.level.bumps_epoch());
        if wants_id && fresh.is_none() {
            return turn.reply_now(ticket, TransactionResponse::WantProducerId);
        }
        let fresh = fresh.filter(|_| wants_id);
        let next = match (current.state, fresh) {
            (State::Ongoing, fresh) if two_phase.keep_prepared => {
                if expected.is_some_and(|expected| expected != current.owner()) {
                    return turn.refuse(ticket, ErrorCode::ProducerFenced);
                }
                let ongoing = Producer { id: current.producer, epoch: current.epoch };
                let next = current.taken_over(timeout_ms, fresh, now_ms);
                let producer = next.owner();
                self.write(id, Some(next), turn);
                return turn.reply(ticket, TransactionResponse::TookOver { producer, ongoing });
            }
            (State::Ongoing, fresh) => {
                // The epoch that fences the former producer is told to nobody: when the abort is complete and this client
                // asks again, it gets the one above.
                let fenced = current.fenced(self.level, fresh, now_ms);
                self.write(id, Some(fenced), turn);
                return turn.refuse(ticket, ErrorCode::ConcurrentTransactions);
            }
            (_, Some(fresh)) => current.rotated(fresh, timeout_ms, expected.is_some(), now_ms),
            // With no epoch left it was seen to above; here is only who asks again, or is fenced.
            (_, None) => match current.initialised(timeout_ms, expected.map(|expected| expected.epoch), now_ms) {
                Ok(next) => next,
                Err(error) => return turn.refuse(ticket, error),
            },
        };
        let producer = Producer { id: next.producer, epoch: next.epoch };
        self.write(id, Some(next), turn);
        turn.reply(ticket, TransactionResponse::Producer(producer));
    }
}
