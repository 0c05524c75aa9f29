//! DescribeProducers (KIP-664): the producers that a partition remembers, with their open transactions.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_common::{ErrorCode, PartitionIndex, TopicIdPartition};
use odradek_wire::Str;
use odradek_wire::describe_producers_request::DescribeProducersRequest;
use odradek_wire::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource, topic_name};
use crate::replica::ActiveProducer;

impl Api {
    pub(super) fn describe_producers(
        self: &Arc<Self>,
        asked: Asked<DescribeProducersRequest>,
    ) -> Outcome<DescribeProducersResponse> {
        let Asked { context, body: request, .. } = asked;
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                let producers = self.producers(&context, &topic.name, *index);
                partition_response(*index, producers)
            });
            let partitions = partitions.collect();
            TopicResponse { name: topic.name, partitions, ..TopicResponse::default() }
        });
        Outcome::Done(DescribeProducersResponse { topics: topics.collect(), ..DescribeProducersResponse::default() })
    }

    fn producers(
        &self,
        context: &RequestContext,
        name: &str,
        index: i32,
    ) -> Result<Vec<ActiveProducer>, (ErrorCode, Option<Str>)> {
        let refused = |code: ErrorCode, message: &str| (code, Some(Str::from(message)));
        if let Some(problem) = topic_name::problem(name) {
            return Err(refused(ErrorCode::InvalidTopicException, &problem));
        }
        if !self.allows(context, Operation::Read, Resource::Topic(name)) {
            return Err(refused(ErrorCode::TopicAuthorizationFailed, "Topic authorization failed."));
        }
        let image = self.cache.image();
        let Some(topic) = image.topic_by_name(name) else {
            let message = "This server does not host this topic-partition.";
            return Err(refused(ErrorCode::UnknownTopicOrPartition, message));
        };
        let partition = PartitionIndex(index);
        if topic.partition(partition).is_none() {
            return Err((ErrorCode::UnknownTopicOrPartition, None));
        }
        let id = TopicIdPartition { topic_id: topic.id, partition };
        self.replicas.active_producers(id).map_err(|error| (error.code, None))
    }
}

fn partition_response(
    partition_index: i32,
    producers: Result<Vec<ActiveProducer>, (ErrorCode, Option<Str>)>,
) -> PartitionResponse {
    match producers {
        Ok(producers) => PartitionResponse {
            partition_index,
            active_producers: producers.iter().map(producer_state).collect(),
            ..PartitionResponse::default()
        },
        Err((error, error_message)) => PartitionResponse {
            partition_index,
            error_code: error.code(),
            error_message,
            ..PartitionResponse::default()
        },
    }
}

fn producer_state(producer: &ActiveProducer) -> ProducerState {
    ProducerState {
        producer_id: producer.producer_id.0,
        producer_epoch: i32::from(producer.epoch.0),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_timestamp.0,
        coordinator_epoch: producer.coordinator_epoch,
        current_txn_start_offset: producer.txn_start_offset.map_or(-1, |offset| offset.0),
        ..ProducerState::default()
    }
}
