//! ListOffsets: the offset at a time, or one of the special ones (earliest, latest, of the largest timestamp, ...).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_broker_core::partition::{Isolation, Reader};
use odradek_common::{ErrorCode, LeaderEpoch, PartitionIndex, TopicIdPartition};
use odradek_metadata::Topic;
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use odradek_wire::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use odradek_wire::{RawTaggedField, own};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};
use crate::replica::ListedOffset;

/// Special timestamps that came with a later version, and with which.
const NEWER_TIMESTAMPS: &[(i64, i16)] = &[(-3, 7), (-4, 8), (-5, 9), (-6, 11)];

/// The first version whose answers carry a leader epoch.
const LEADER_EPOCH: i16 = 4;

/// Where the first segment lies that is not in tiered storage yet (KIP-1023): nowhere, without such storage.
const EARLIEST_PENDING_UPLOAD: i64 = -6;

impl Api {
    pub(super) fn list_offsets(self: &Arc<Self>, asked: Asked<ListOffsetsRequest>) -> Outcome<ListOffsetsResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let api = self.clone();
        // A lookup by time reads indexes and a batch: on the disk pool, lest a cold page hold up a socket's thread.
        let has_lookup = request.topics.iter().flat_map(|topic| &topic.partitions).any(|partition| {
            let asks_ages = own::field(&partition.unknown_tagged_fields, own::OLDEST_UNREAD).is_some();
            partition.timestamp >= 0 || partition.timestamp == -3 || asks_ages
        });
        let answer = move || api.listed(&context, version, &request);
        if has_lookup {
            let world = self.world.clone();
            Outcome::waiting(async move { world.on_disk(answer).await })
        } else {
            Outcome::Done(answer())
        }
    }

    fn listed(
        &self,
        context: &super::RequestContext,
        version: i16,
        request: &ListOffsetsRequest,
    ) -> ListOffsetsResponse {
        let image = self.cache.image();
        let reader = match (request.replica_id, request.isolation_level) {
            (0.., _) => Reader::Follower,
            (_, 0) => Reader::Client(Isolation::ReadUncommitted),
            _ => Reader::Client(Isolation::ReadCommitted),
        };
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        for topic in &request.topics {
            for partition in &topic.partitions {
                let key = (topic.name.as_str(), partition.partition_index);
                if !seen.insert(key) {
                    twice.insert(key);
                }
            }
        }
        let mut unread_left = own::OLDEST_UNREAD_OFFSETS_MAX;
        let mut topics = Vec::with_capacity(request.topics.len());
        for asked in &request.topics {
            let topic = match self.allows(context, Operation::Describe, Resource::Topic(&asked.name)) {
                false => Err(ErrorCode::TopicAuthorizationFailed),
                true => image.topic_by_name(&asked.name).ok_or(ErrorCode::UnknownTopicOrPartition),
            };
            // A partition that is asked for twice is refused, once.
            let once = asked
                .partitions
                .iter()
                .filter(|partition| seen.remove(&(asked.name.as_str(), partition.partition_index)));
            let partitions = once.map(|partition| {
                let listed = match topic {
                    Ok(_) if twice.contains(&(asked.name.as_str(), partition.partition_index)) => {
                        Err(ErrorCode::InvalidRequest)
                    }
                    Ok(topic) => self.list_offset(version, reader, topic, partition),
                    Err(error) => Err(error),
                };
                let mut answer = response(version, partition.partition_index, listed);
                if let (Ok(topic), true) = (topic, listed.is_ok()) {
                    answer.unknown_tagged_fields.extend(self.oldest_unread(topic, partition, &mut unread_left));
                }
                answer
            });
            let partitions = partitions.collect();
            topics.push(ListOffsetsTopicResponse {
                name: asked.name.clone(),
                partitions,
                ..ListOffsetsTopicResponse::default()
            });
        }
        ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
    }

    /// What a node asks for that tells lag in time.
    fn oldest_unread(&self, topic: &Topic, asked: &ListOffsetsPartition, left: &mut usize) -> Option<RawTaggedField> {
        let offsets = own::numbers(own::field(&asked.unknown_tagged_fields, own::OLDEST_UNREAD)?);
        let id = TopicIdPartition { topic_id: topic.id, partition: PartitionIndex(asked.partition_index) };
        let epoch = LeaderEpoch(asked.current_leader_epoch);
        let answers = offsets.map(|offset| {
            if *left == 0 {
                return own::NOT_KNOWN;
            }
            *left -= 1;
            self.replicas.tell_oldest_unread(id, epoch, offset)
        });
        Some(own::numbers_field(own::OLDEST_UNREAD, answers))
    }

    fn list_offset(
        &self,
        version: i16,
        reader: Reader,
        topic: &Topic,
        asked: &ListOffsetsPartition,
    ) -> Result<ListedOffset, ErrorCode> {
        let too_new = |(timestamp, since): &(i64, i16)| *timestamp == asked.timestamp && version < *since;
        if NEWER_TIMESTAMPS.iter().any(too_new) || asked.timestamp < EARLIEST_PENDING_UPLOAD {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let partition = PartitionIndex(asked.partition_index);
        if topic.partition(partition).is_none() {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        if asked.timestamp == EARLIEST_PENDING_UPLOAD {
            return Ok(ListedOffset::NONE);
        }
        let partition = TopicIdPartition { topic_id: topic.id, partition };
        let epoch = LeaderEpoch(asked.current_leader_epoch);
        self.replicas.list_offset(partition, reader, epoch, asked.timestamp).map_err(|error| error.code)
    }
}

fn response(
    version: i16,
    partition_index: i32,
    listed: Result<ListedOffset, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let (error, listed) = match listed {
        Ok(listed) => (ErrorCode::None, listed),
        Err(error) => (error, ListedOffset::NONE),
    };
    ListOffsetsPartitionResponse {
        partition_index,
        error_code: error.code(),
        timestamp: listed.timestamp.0,
        offset: listed.offset.0,
        leader_epoch: if version >= LEADER_EPOCH { listed.leader_epoch.0 } else { -1 },
        ..ListOffsetsPartitionResponse::default()
    }
}
