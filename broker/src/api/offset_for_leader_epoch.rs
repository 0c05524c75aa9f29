//! OffsetForLeaderEpoch (KIP-101, KIP-320): where a leader epoch ended, for whoever must find out how far its own view of
//! a log agrees with the leader's.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_common::{ErrorCode, LeaderEpoch, PartitionIndex, TopicIdPartition};
use odradek_metadata::Topic;
use odradek_wire::offset_for_leader_epoch_request::{OffsetForLeaderEpochRequest, OffsetForLeaderPartition};
use odradek_wire::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn offset_for_leader_epoch(
        self: &Arc<Self>,
        asked: Asked<OffsetForLeaderEpochRequest>,
    ) -> Outcome<OffsetForLeaderEpochResponse> {
        let Asked { context, body: request, .. } = asked;
        let image = self.cache.image();
        let topics = request.topics.into_iter().map(|asked| {
            let topic = match self.allows(&context, Operation::Describe, Resource::Topic(&asked.topic)) {
                false => Err(ErrorCode::TopicAuthorizationFailed),
                true => image.topic_by_name(&asked.topic).ok_or(ErrorCode::UnknownTopicOrPartition),
            };
            let partitions = asked.partitions.iter().map(|partition| match topic {
                Ok(topic) => self.epoch_end(topic, partition),
                Err(error) => failed(partition.partition, error),
            });
            let partitions = partitions.collect();
            OffsetForLeaderTopicResult { topic: asked.topic, partitions, ..OffsetForLeaderTopicResult::default() }
        });
        Outcome::Done(OffsetForLeaderEpochResponse {
            topics: topics.collect(),
            ..OffsetForLeaderEpochResponse::default()
        })
    }

    fn epoch_end(&self, topic: &Topic, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
        let partition = PartitionIndex(asked.partition);
        if topic.partition(partition).is_none() {
            return failed(asked.partition, ErrorCode::UnknownTopicOrPartition);
        }
        let found = self.replicas.epoch_end_offset(
            TopicIdPartition { topic_id: topic.id, partition },
            LeaderEpoch(asked.current_leader_epoch),
            LeaderEpoch(asked.leader_epoch),
        );
        match found {
            Err(error) => failed(asked.partition, error.code),
            Ok(end) => EpochEndOffset {
                partition: asked.partition,
                leader_epoch: end.epoch.0,
                end_offset: end.end.0,
                ..EpochEndOffset::default()
            },
        }
    }
}

fn failed(partition: i32, error: ErrorCode) -> EpochEndOffset {
    EpochEndOffset { partition, error_code: error.code(), leader_epoch: -1, end_offset: -1, ..Default::default() }
}
