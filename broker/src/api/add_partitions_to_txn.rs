//! AddPartitionsToTxn: of a client for one transaction, or of a broker for many (KIP-890).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::transaction::{NamedPartition, Producer, TransactionVersion};
use odradek_common::{ErrorCode, PartitionIndex, ProducerEpoch, ProducerId};
use odradek_wire::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use odradek_wire::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use odradek_wire::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource, metadata};

/// The first version that comes from brokers.
const FROM_BROKERS: i16 = 4;

/// The first version whose clients know PRODUCER_FENCED; here and of AddOffsetsToTxn and EndTxn.
pub const PRODUCER_FENCED: i16 = 2;

impl Api {
    pub(super) fn add_partitions_to_txn(
        self: &Arc<Self>,
        asked: Asked<AddPartitionsToTxnRequest>,
    ) -> Outcome<AddPartitionsToTxnResponse> {
        let Asked { context, version, body: request, .. } = asked;
        if version < FROM_BROKERS {
            let transaction = AddPartitionsToTxnTransaction {
                transactional_id: request.v3_and_below_transactional_id,
                producer_id: request.v3_and_below_producer_id,
                producer_epoch: request.v3_and_below_producer_epoch,
                topics: request.v3_and_below_topics,
                ..AddPartitionsToTxnTransaction::default()
            };
            let added = self.add_to_transaction(&context, version, transaction);
            return added.map(|result| AddPartitionsToTxnResponse {
                results_by_topic_v3_and_below: result.topic_results,
                ..AddPartitionsToTxnResponse::default()
            });
        }
        if !self.allows(&context, Operation::ClusterAction, Resource::Cluster) {
            let error_code = ErrorCode::ClusterAuthorizationFailed.code();
            return Outcome::Done(AddPartitionsToTxnResponse { error_code, ..AddPartitionsToTxnResponse::default() });
        }
        let transactions = request.transactions.into_iter();
        let added: Vec<_> =
            transactions.map(|transaction| self.add_to_transaction(&context, version, transaction)).collect();
        Outcome::waiting(async move {
            let mut results_by_transaction = Vec::with_capacity(added.len());
            for result in added {
                results_by_transaction.push(result.wait().await);
            }
            AddPartitionsToTxnResponse { results_by_transaction, ..AddPartitionsToTxnResponse::default() }
        })
    }

    fn add_to_transaction(
        &self,
        context: &RequestContext,
        version: i16,
        transaction: AddPartitionsToTxnTransaction,
    ) -> Outcome<AddPartitionsToTxnResult> {
        let AddPartitionsToTxnTransaction {
            transactional_id, producer_id, producer_epoch, verify_only, topics, ..
        } = transaction;
        let is_client = version < FROM_BROKERS;
        let id = transactional_id.detached();
        if is_client && !self.allows(context, Operation::Write, Resource::TransactionalId(&id)) {
            return Outcome::Done(same_for_all(id, &topics, ErrorCode::TransactionalIdAuthorizationFailed));
        }
        // One that cannot be added keeps all the others out.
        let errors = self.check_partitions(context, is_client, &topics);
        if errors.iter().flatten().any(|error| error.is_error()) {
            let error_of = |error: &ErrorCode| if error.is_error() { *error } else { ErrorCode::OperationNotAttempted };
            let results = topics.iter().zip(&errors).map(|(topic, errors)| {
                topic_result(&topic.name, topic.partitions.iter().copied().zip(errors.iter().map(error_of)))
            });
            return Outcome::Done(transaction_result(id, results.collect()));
        }
        if id.is_empty() {
            return Outcome::Done(same_for_all(id, &topics, ErrorCode::InvalidRequest));
        }
        let producer = Producer { id: ProducerId(producer_id), epoch: ProducerEpoch(producer_epoch) };
        let mut partitions: Vec<NamedPartition> = Vec::new();
        for topic in &topics {
            let name: Arc<str> = topic.name.as_str().into();
            partitions.extend(topic.partitions.iter().map(|index| (name.clone(), *index)));
        }
        if verify_only {
            let verified: Outcome<_> = self.transactions.verify(&id, producer, partitions).into();
            return verified.map(move |verified| match verified {
                Ok(verified) => transaction_result(id, by_topic(verified)),
                Err(error) => same_for_all(id, &topics, error),
            });
        }
        let (version_of_client, patience) = match is_client {
            true => (TransactionVersion::V0, Duration::ZERO),
            false => (TransactionVersion::V2, self.config.transactions.add_partitions_patience),
        };
        let added: Outcome<_> =
            self.transactions.add_partitions(&id, producer, partitions, version_of_client, patience).into();
        added.map(move |added| match added {
            Ok(()) => same_for_all(id, &topics, ErrorCode::None),
            Err(ErrorCode::ProducerFenced) if version < PRODUCER_FENCED => {
                same_for_all(id, &topics, ErrorCode::InvalidProducerEpoch)
            }
            Err(error) => same_for_all(id, &topics, error),
        })
    }

    /// The errors of all partitions, by topic.
    fn check_partitions(
        &self,
        context: &RequestContext,
        is_client: bool,
        topics: &[AddPartitionsToTxnTopic],
    ) -> Vec<Vec<ErrorCode>> {
        let image = self.cache.image();
        let of_topic = |topic: &AddPartitionsToTxnTopic| {
            let found = image.topic_by_name(&topic.name);
            // Clients have AddOffsetsToTxn for what they write to an internal topic.
            let is_internal = metadata::is_internal(&topic.name);
            let allowed =
                !is_client || (!is_internal && self.allows(context, Operation::Write, Resource::Topic(&topic.name)));
            let error_of = |index: &i32| match found {
                _ if !allowed => ErrorCode::TopicAuthorizationFailed,
                Some(found) if found.partition(PartitionIndex(*index)).is_some() => ErrorCode::None,
                _ => ErrorCode::UnknownTopicOrPartition,
            };
            topic.partitions.iter().map(error_of).collect()
        };
        topics.iter().map(of_topic).collect()
    }
}

fn topic_result(name: &Str, partitions: impl Iterator<Item = (i32, ErrorCode)>) -> AddPartitionsToTxnTopicResult {
    let results = partitions.map(|(partition_index, error)| AddPartitionsToTxnPartitionResult {
        partition_index,
        partition_error_code: error.code(),
        ..AddPartitionsToTxnPartitionResult::default()
    });
    AddPartitionsToTxnTopicResult {
        name: name.detached(),
        results_by_partition: results.collect(),
        ..AddPartitionsToTxnTopicResult::default()
    }
}

fn transaction_result(
    transactional_id: Str,
    topic_results: Vec<AddPartitionsToTxnTopicResult>,
) -> AddPartitionsToTxnResult {
    AddPartitionsToTxnResult { transactional_id, topic_results, ..AddPartitionsToTxnResult::default() }
}

fn same_for_all(id: Str, topics: &[AddPartitionsToTxnTopic], error: ErrorCode) -> AddPartitionsToTxnResult {
    let results =
        topics.iter().map(|topic| topic_result(&topic.name, topic.partitions.iter().map(|index| (*index, error))));
    transaction_result(id, results.collect())
}

fn by_topic(verified: Vec<(NamedPartition, ErrorCode)>) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, ErrorCode)>> = BTreeMap::new();
    for ((topic, index), error) in verified {
        topics.entry(topic).or_default().push((index, error));
    }
    topics.into_iter().map(|(topic, partitions)| topic_result(&Str::from(&*topic), partitions.into_iter())).collect()
}
