//! DescribeTransactions and ListTransactions (KIP-664, KIP-994), and the end of ids that nobody uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_common::time::Now;
use odradek_common::{ErrorCode, ProducerId};
use odradek_wire::Str;
use odradek_wire::describe_transactions_response::{TopicData, TransactionState as Described};
use odradek_wire::list_transactions_response::TransactionState as Listed;

use super::state::State;
use super::{TransactionShard, TransactionTurn};

impl TransactionShard {
    pub(super) fn describe(&self, id: &Arc<str>) -> Described {
        let transactional_id = Str::from(&**id);
        let Some(transaction) = self.transactions.get_committed(id) else {
            let error_code = ErrorCode::TransactionalIdNotFound.code();
            return Described { transactional_id, error_code, ..Described::default() };
        };
        // Those who have their marker are not part of it any more.
        let is_prepared = transaction.state.is_prepared();
        let partitions = match self.unmarked.get(id).filter(|_| is_prepared) {
            Some(unmarked) => &unmarked.partitions,
            None => &transaction.partitions,
        };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| TopicData {
            topic: Str::from(topic),
            partitions,
            ..TopicData::default()
        });
        Described {
            transactional_id,
            transaction_state: Str::from_static(transaction.state.name()),
            transaction_timeout_ms: transaction.timeout_ms,
            transaction_start_time_ms: transaction.started_ms,
            producer_id: transaction.producer.0,
            producer_epoch: transaction.epoch.0,
            topics: topics.collect(),
            ..Described::default()
        }
    }

    pub(super) fn list(
        &self,
        states: &[State],
        producers: &[ProducerId],
        longer_than_ms: i64,
        now: Now,
    ) -> Vec<Listed> {
        let all = self.transactions.range_committed::<std::ops::RangeFull>(..);
        let wanted = all.filter(|(_, transaction)| {
            let age_ms = now.wall.0.saturating_sub(transaction.started_ms);
            (states.is_empty() || states.contains(&transaction.state))
                && (producers.is_empty() || producers.contains(&transaction.producer))
                && (longer_than_ms < 0 || age_ms > longer_than_ms)
        });
        let listed = wanted.map(|(id, transaction)| Listed {
            transactional_id: Str::from(&**id),
            producer_id: transaction.producer.0,
            transaction_state: Str::from_static(transaction.state.name()),
            ..Listed::default()
        });
        listed.collect()
    }

    /// Tombstones for ids that nobody has used for `transactional.id.expiration.ms`.
    pub(super) fn expire(&mut self, turn: &mut TransactionTurn<'_>) {
        turn.divisible();
        let before = turn.wall().0.saturating_sub(self.config.id_expiration_ms);
        let expired = self
            .transactions
            .iter()
            .filter(|(_, transaction)| transaction.state.is_idle() && transaction.updated_ms <= before);
        let expired: Vec<_> = expired.map(|(id, _)| id.clone()).collect();
        if !expired.is_empty() {
            turn.note(format!("{} transactional ids have not been used for longer than they are kept", expired.len()));
        }
        for id in expired {
            self.write(id, None, turn);
        }
    }
}
