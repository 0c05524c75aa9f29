//! What brokers ask a transaction's coordinator before they write to the transaction (KIP-890): with the first protocol,
//! whether the client has added the partition; with the second, to add it in the client's name.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::transaction::{NamedPartition, Producer, TRANSACTIONS_TOPIC, TransactionVersion};
use odradek_common::{BrokerId, ErrorCode};
use odradek_wire::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use odradek_wire::{AddPartitionsToTxnRequest, Str};

use super::Api;

const VERSION: i16 = 5;

/// Beyond what the coordinator may wait for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked, which is what the client's version stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enlisting {
    /// The client adds partitions itself. An old one does not know TRANSACTION_ABORTABLE.
    Verify { knows_abortable: bool },
    /// The client leaves it to the broker that it writes to.
    Add,
}

impl Enlisting {
    /// Of a request whose clients know TRANSACTION_ABORTABLE from version `abortable` on, and the second protocol from the
    /// one after it on.
    pub fn of_version(version: i16, abortable: i16) -> Self {
        match version > abortable {
            true => Self::Add,
            false => Self::Verify { knows_abortable: version >= abortable },
        }
    }

    pub fn bumps_epoch(self) -> bool {
        self == Self::Add
    }
}

impl Api {
    /// Asks the coordinator about partitions, and answers the error of each, in their order.
    pub(super) async fn enlist(
        self: &Arc<Self>,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<NamedPartition>,
        enlisting: Enlisting,
    ) -> Vec<ErrorCode> {
        let errors = match self.coordinator_of_transaction(transactional_id) {
            None => vec![ErrorCode::CoordinatorNotAvailable; partitions.len()],
            Some(broker) if broker == self.broker_id => {
                self.enlist_here(transactional_id, producer, partitions, enlisting).await
            }
            Some(broker) => self.enlist_at(broker, transactional_id, producer, &partitions, enlisting).await,
        };
        errors.into_iter().map(|error| for_client(error, enlisting)).collect()
    }

    fn coordinator_of_transaction(&self, transactional_id: &str) -> Option<BrokerId> {
        let image = self.cache.image();
        let topic = image.topic_by_name(TRANSACTIONS_TOPIC)?;
        let leader = topic.partition(self.transactions.partition_for(transactional_id))?.leader;
        (leader == self.broker_id || image.is_alive(leader)).then_some(leader)
    }

    async fn enlist_here(
        &self,
        transactional_id: &str,
        producer: Producer,
        partitions: Vec<NamedPartition>,
        enlisting: Enlisting,
    ) -> Vec<ErrorCode> {
        let count = partitions.len();
        match enlisting {
            Enlisting::Add => {
                let patience = self.config.transactions.add_partitions_patience;
                let version = TransactionVersion::V2;
                let added = self.transactions.add_partitions(transactional_id, producer, partitions, version, patience);
                vec![added.wait().await.err().unwrap_or(ErrorCode::None); count]
            }
            Enlisting::Verify { .. } => {
                match self.transactions.verify(transactional_id, producer, partitions).wait().await {
                    Ok(verified) => verified.into_iter().map(|(_, error)| error).collect(),
                    Err(error) => vec![error; count],
                }
            }
        }
    }

    async fn enlist_at(
        &self,
        broker: BrokerId,
        transactional_id: &str,
        producer: Producer,
        partitions: &[NamedPartition],
        enlisting: Enlisting,
    ) -> Vec<ErrorCode> {
        let mut topics: Vec<AddPartitionsToTxnTopic> = Vec::new();
        for (topic, index) in partitions {
            match topics.iter_mut().find(|known| known.name == **topic) {
                Some(known) => known.partitions.push(*index),
                None => topics.push(AddPartitionsToTxnTopic {
                    name: Str::from(&**topic),
                    partitions: vec![*index],
                    ..AddPartitionsToTxnTopic::default()
                }),
            }
        }
        let request = AddPartitionsToTxnRequest {
            transactions: vec![AddPartitionsToTxnTransaction {
                transactional_id: Str::from(transactional_id),
                producer_id: producer.id.0,
                producer_epoch: producer.epoch.0,
                verify_only: enlisting != Enlisting::Add,
                topics,
                ..AddPartitionsToTxnTransaction::default()
            }],
            ..AddPartitionsToTxnRequest::default()
        };
        let all = |error| vec![error; partitions.len()];
        let response = match self.peers.call(broker, VERSION, &request, PATIENCE).await {
            Ok(response) => response,
            Err(error) => {
                tracing::info!(%broker, %error, "a transaction's coordinator could not be asked");
                return all(ErrorCode::NetworkException);
            }
        };
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::None => {}
            // Between brokers this says nothing to a client.
            ErrorCode::ClusterAuthorizationFailed => return all(ErrorCode::InvalidTxnState),
            error => return all(error),
        }
        let Some(result) = response.results_by_transaction.first() else { return all(ErrorCode::UnknownServerError) };
        let error_of = |(topic, index): &NamedPartition| {
            let found = result.topic_results.iter().find(|result| result.name == **topic)?;
            let found = found.results_by_partition.iter().find(|result| result.partition_index == *index)?;
            Some(ErrorCode::from_code(found.partition_error_code))
        };
        partitions.iter().map(|partition| error_of(partition).unwrap_or(ErrorCode::UnknownServerError)).collect()
    }
}

/// As the client knows it: to a producer, being fenced is a matter of its epoch.
fn for_client(error: ErrorCode, enlisting: Enlisting) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if enlisting == (Enlisting::Verify { knows_abortable: false }) => {
            ErrorCode::InvalidTxnState
        }
        error => error,
    }
}
