//! DeleteRecords (KIP-107): moves the beginning of logs, and answers when every living replica has followed.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::{ErrorCode, Offset, PartitionIndex, TopicIdPartition};
use odradek_metadata::Topic;
use odradek_wire::Str;
use odradek_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use odradek_wire::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// Each partition once, with the last of the offsets that are asked for, and no topic without partitions: what is left
/// when Kafka has put the request into a map.
fn once_each(topics: Vec<DeleteRecordsTopic>) -> Vec<DeleteRecordsTopic> {
    let mut by_name: BTreeMap<Str, BTreeMap<i32, DeleteRecordsPartition>> = BTreeMap::new();
    let mut order = Vec::new();
    for topic in topics.into_iter().filter(|topic| !topic.partitions.is_empty()) {
        if !by_name.contains_key(&topic.name) {
            order.push(topic.name.clone());
        }
        let partitions = by_name.entry(topic.name).or_default();
        partitions.extend(topic.partitions.into_iter().map(|partition| (partition.partition_index, partition)));
    }
    let once = order.into_iter().map(|name| {
        let partitions = by_name.remove(&name).unwrap_or_default().into_values().collect();
        DeleteRecordsTopic { name, partitions, ..DeleteRecordsTopic::default() }
    });
    once.collect()
}

impl Api {
    pub(super) fn delete_records(
        self: &Arc<Self>,
        asked: Asked<DeleteRecordsRequest>,
    ) -> Outcome<DeleteRecordsResponse> {
        let Asked { context, body: request, .. } = asked;
        let image = self.cache.image();
        // One result a partition; those that are to be tried are filled in afterwards.
        let (mut response, mut entries, mut places) = (DeleteRecordsResponse::default(), Vec::new(), Vec::new());
        for (topic_at, asked) in once_each(request.topics).into_iter().enumerate() {
            let topic = image.topic_by_name(&asked.name).map(|topic| &**topic);
            let mut results = Vec::with_capacity(asked.partitions.len());
            for (partition_at, partition) in asked.partitions.iter().enumerate() {
                let mut result = DeleteRecordsPartitionResult {
                    partition_index: partition.partition_index,
                    low_watermark: -1,
                    ..DeleteRecordsPartitionResult::default()
                };
                match self.deletable(&context, &asked.name, topic, partition.partition_index) {
                    Ok(id) => {
                        entries.push((id, Offset(partition.offset)));
                        places.push((topic_at, partition_at));
                    }
                    Err(error) => result.error_code = error.code(),
                }
                results.push(result);
            }
            response.topics.push(DeleteRecordsTopicResult {
                name: asked.name,
                partitions: results,
                ..DeleteRecordsTopicResult::default()
            });
        }
        let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
        Outcome::from(self.replicas.delete_records(entries, timeout)).map(move |deleted| {
            for ((topic_at, partition_at), deleted) in places.into_iter().zip(deleted) {
                let topic = response.topics.get_mut(topic_at);
                if let Some(result) = topic.and_then(|topic| topic.partitions.get_mut(partition_at)) {
                    result.error_code = deleted.error.code();
                    result.low_watermark = deleted.low_watermark.0;
                }
            }
            response
        })
    }

    fn deletable(
        &self,
        context: &RequestContext,
        name: &str,
        topic: Option<&Topic>,
        index: i32,
    ) -> Result<TopicIdPartition, ErrorCode> {
        if !self.allows(context, Operation::Delete, Resource::Topic(name)) {
            return Err(ErrorCode::TopicAuthorizationFailed);
        }
        let partition = PartitionIndex(index);
        let topic = topic.filter(|topic| topic.partition(partition).is_some());
        let topic = topic.ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if topic.is_internal() {
            return Err(ErrorCode::InvalidTopicException);
        }
        Ok(TopicIdPartition { topic_id: topic.id, partition })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_asked_for_twice_is_cut_once() {
        let topic = |name: &str, partitions: &[(i32, i64)]| DeleteRecordsTopic {
            name: name.into(),
            partitions: partitions
                .iter()
                .map(|(partition_index, offset)| DeleteRecordsPartition {
                    partition_index: *partition_index,
                    offset: *offset,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let asked =
            vec![topic("b", &[(1, 5), (0, 2)]), topic("none", &[]), topic("a", &[(0, 1)]), topic("b", &[(1, 7)])];
        assert_eq!(once_each(asked), [topic("b", &[(0, 2), (1, 7)]), topic("a", &[(0, 1)])]);
    }
}
