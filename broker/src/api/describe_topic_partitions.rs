//! DescribeTopicPartitions (KIP-966): partitions with their ELR, a page at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_common::{BrokerId, ErrorCode, PartitionIndex, Uuid};
use odradek_metadata::{Image, PartitionRegistration};
use odradek_wire::Str;
use odradek_wire::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use odradek_wire::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};

use super::authorizer::authorized_operations;
use super::dispatch::Asked;
use super::metadata::{is_internal, offline_replicas};
use super::{Api, Operation, Outcome, RequestContext, Resource, topic_name};

impl Api {
    pub(super) fn describe_topic_partitions(
        self: &Arc<Self>,
        asked: Asked<DescribeTopicPartitionsRequest>,
    ) -> Outcome<DescribeTopicPartitionsResponse> {
        let Asked { context, body: request, .. } = asked;
        let from = request.cursor.as_ref().map_or("", |cursor| cursor.topic_name.as_str());
        let from_partition = request.cursor.as_ref().map_or(0, |cursor| cursor.partition_index);
        let named = request.topics.iter().map(|topic| topic.name.as_str());
        if from_partition < 0
            || (!from.is_empty() && !request.topics.is_empty() && named.clone().all(|name| name != from))
        {
            let topics = named.map(|name| failed(ErrorCode::InvalidRequest, name)).collect();
            return Outcome::Done(DescribeTopicPartitionsResponse { topics, ..Default::default() });
        }
        let image = self.cache.image();
        let all = request.topics.is_empty();
        let names: BTreeSet<&str> = match all {
            true => image.topics_by_name().map(|topic| &*topic.name).filter(|name| *name >= from).collect(),
            false => named.filter(|name| *name >= from).collect(),
        };
        let limit = self.config.topic_creation.describe_partitions_max.min(request.response_partition_limit).max(1);
        let mut page = Page { image: &image, listener: &context.listener, left: limit, response: Default::default() };
        let mut refused = Vec::new();
        for name in names {
            if !self.allows(&context, Operation::Describe, Resource::Topic(name)) {
                if !all {
                    refused.push(failed(ErrorCode::TopicAuthorizationFailed, name));
                }
                continue;
            }
            if !page.add(name, if name == from { from_partition } else { 0 }) {
                break;
            }
        }
        let mut response = page.response;
        self.add_operations(&context, &mut response);
        response.topics.extend(refused);
        Outcome::Done(response)
    }

    fn add_operations(&self, context: &RequestContext, response: &mut DescribeTopicPartitionsResponse) {
        for topic in &mut response.topics {
            let name = topic.name.as_deref().unwrap_or_default();
            topic.topic_authorized_operations =
                authorized_operations(&*self.authorizer, context, Resource::Topic(name));
        }
    }
}

fn failed(error: ErrorCode, name: &str) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(Str::from(name)),
        topic_id: Uuid::ZERO,
        is_internal: is_internal(name),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

struct Page<'a> {
    image: &'a Image,
    listener: &'a str,
    /// Partitions that the page still has room for.
    left: i32,
    response: DescribeTopicPartitionsResponse,
}

impl Page<'_> {
    /// Adds a topic from a partition on. False when the page is full; then the cursor says where the next one starts.
    fn add(&mut self, name: &str, from: i32) -> bool {
        if self.left == 0 {
            self.response.next_cursor = Some(cursor(name, 0));
            return false;
        }
        let Some(topic) = self.image.topic_by_name(name) else {
            let valid = topic_name::is_valid(name);
            let error = if valid { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
            self.response.topics.push(failed(error, name));
            return true;
        };
        let end = topic.partition_count().min(from.saturating_add(self.left));
        let partitions: Vec<_> = (from..end)
            .filter_map(|index| Some(self.partition(index, topic.partition(PartitionIndex(index))?)))
            .collect();
        self.left -= i32::try_from(partitions.len()).unwrap_or(self.left).min(self.left);
        self.response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(Str::from(name)),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions,
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        if end < topic.partition_count() {
            self.response.next_cursor = Some(cursor(name, end));
            return false;
        }
        true
    }

    fn partition(&self, index: i32, partition: &PartitionRegistration) -> DescribeTopicPartitionsResponsePartition {
        let reachable = self.image.endpoint(partition.leader, self.listener).is_some();
        DescribeTopicPartitionsResponsePartition {
            partition_index: index,
            leader_id: if reachable { partition.leader.0 } else { -1 },
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: numbers(&partition.replicas),
            isr_nodes: numbers(&partition.isr),
            eligible_leader_replicas: Some(numbers(&partition.elr)),
            last_known_elr: Some(numbers(&partition.last_known_elr)),
            offline_replicas: offline_replicas(self.image, partition, self.listener),
            ..DescribeTopicPartitionsResponsePartition::default()
        }
    }
}

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.0).collect()
}

fn cursor(topic: &str, partition_index: i32) -> Cursor {
    Cursor { topic_name: topic.into(), partition_index, ..Cursor::default() }
}
