//! OffsetDelete: takes back what a group has committed of topics that it is not subscribed to (KIP-496).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::{ErrorCode, PartitionIndex};
use odradek_wire::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use odradek_wire::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn offset_delete(self: &Arc<Self>, asked: Asked<OffsetDeleteRequest>) -> Outcome<OffsetDeleteResponse> {
        let Asked { context, body: mut request, .. } = asked;
        if !self.allows(&context, Operation::Delete, Resource::Group(&request.group_id)) {
            return Outcome::Done(failed(ErrorCode::GroupAuthorizationFailed));
        }
        let image = self.cache.image();
        let mut refused: Vec<OffsetDeleteResponseTopic> = Vec::new();
        for topic in &mut request.topics {
            let found = image.topic_by_name(&topic.name);
            let is_allowed = self.allows(&context, Operation::Read, Resource::Topic(&topic.name));
            let mut partitions = Vec::new();
            topic.partitions.retain(|partition| {
                let index = PartitionIndex(partition.partition_index);
                let error = match found {
                    _ if !is_allowed => ErrorCode::TopicAuthorizationFailed,
                    Some(topic) if topic.partition(index).is_some() => return true,
                    _ => ErrorCode::UnknownTopicOrPartition,
                };
                partitions.push(OffsetDeleteResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.code(),
                });
                false
            });
            if !partitions.is_empty() {
                let name = topic.name.detached();
                refused.push(OffsetDeleteResponseTopic { name, partitions });
            }
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        let group_id = request.group_id.clone();
        let asked: Outcome<_> = self.groups.request(&group_id, GroupRequest::DeleteOffsets(request)).into();
        asked.map(move |answer| match answer {
            Ok(GroupResponse::DeleteOffsets(mut response)) => {
                for topic in refused {
                    match response.topics.iter_mut().find(|answered| answered.name == topic.name) {
                        Some(answered) => answered.partitions.extend(topic.partitions),
                        None => response.topics.push(topic),
                    }
                }
                response
            }
            Ok(_) => failed(ErrorCode::UnknownServerError),
            Err(error) => failed(error),
        })
    }
}

fn failed(error: ErrorCode) -> OffsetDeleteResponse {
    OffsetDeleteResponse { error_code: error.code(), ..OffsetDeleteResponse::default() }
}
