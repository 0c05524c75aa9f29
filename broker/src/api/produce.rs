//! Produce: checks each partition's records, appends them, and answers when `acks` is met.
//!
//! What waits for followers holds nothing of the request: neither its records nor its memory.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::{ErrorCode, PartitionIndex, TopicIdPartition};
use odradek_metadata::{Image, Topic};
use odradek_records::MAGIC_V2;
use odradek_wire::Str;
use odradek_wire::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek_wire::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceResponse,
    TopicProduceResponse,
};

use super::dispatch::Asked;
use super::leaders::Leaders;
use super::{Api, Operation, Outcome, RequestContext, Resource};
use crate::replica::{AppendEntry, AppendResult};

/// The client id of Kafka's own admin tools, which alone may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// The first version whose clients know zstd (KIP-110), and that codec's number.
const ZSTD_VERSION_MIN: i16 = 7;
const ZSTD: u8 = 4;

/// Where a batch says which format it has.
const MAGIC: usize = 16;

/// Where the low byte of a batch's attributes lies (record batch v2).
const ATTRIBUTES_LOW_BYTE: usize = 22;

/// The bit of a batch that is part of a transaction.
const TRANSACTIONAL: u8 = 0x10;

/// The answer, or what stands for it when the client wants none.
pub enum Answered {
    Answer(ProduceResponse),
    Nothing,
    /// With acks=0 a closed connection is the only way to tell of an error.
    Close,
}

/// An answer with places for what is being appended.
struct Draft {
    version: i16,
    topics: Vec<TopicProduceResponse>,
    /// For each entry that is appended: its partition, and the place of its answer in `topics`.
    places: Vec<(TopicIdPartition, usize, usize)>,
    node_endpoints: Vec<NodeEndpoint>,
}

impl Api {
    pub(super) fn produce(self: &Arc<Self>, asked: Asked<ProduceRequest>) -> Outcome<Answered> {
        let Asked { context, version, body: request, permit } = asked;
        let (acks, timeout_ms) = (request.acks, request.timeout_ms);
        let (mut draft, entries) = self.check(&context, version, request);
        if entries.is_empty() {
            return Outcome::Done(draft.answered(acks));
        }
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        let appended: Outcome<Vec<AppendResult>> = self.replicas.append(entries, acks, timeout).into();
        drop(permit);
        let api = self.clone();
        appended.map(move |results| {
            let image = api.cache.image();
            draft.fill(results, Leaders::new(&image, &context.listener));
            draft.answered(acks)
        })
    }

    /// Sorts the partitions of a request into those to append and those that are answered already.
    fn check(&self, context: &RequestContext, version: i16, request: ProduceRequest) -> (Draft, Vec<AppendEntry>) {
        let image = self.cache.image();
        let refused = match request.acks {
            _ if request.transactional_id.is_some() => {
                Some((ErrorCode::InvalidTxnState, "transactions are not served by this broker"))
            }
            // Only a producer that names its transaction can be known to be allowed to.
            _ if has_transactional_records(&request) => {
                let message = "transactional records take a transactional id in the request";
                Some((ErrorCode::TransactionalIdAuthorizationFailed, message))
            }
            -1..=1 => None,
            _ => Some((ErrorCode::InvalidRequiredAcks, "acks must be -1 (all), 0 or 1")),
        };
        let mut draft = Draft {
            version,
            topics: Vec::with_capacity(request.topic_data.len()),
            places: Vec::new(),
            node_endpoints: Vec::new(),
        };
        let mut entries = Vec::new();
        for topic_data in request.topic_data {
            let found = match refused {
                Some(refused) => Err(refused),
                None => self.find(context, version, &topic_data, &image),
            };
            let topic_index = draft.topics.len();
            let mut partition_responses = Vec::with_capacity(topic_data.partition_data.len());
            for data in topic_data.partition_data {
                let partition_index = partition_responses.len();
                partition_responses.push(PartitionProduceResponse { index: data.index, ..unanswered() });
                match found.and_then(|topic| entry(topic, version, data)) {
                    Ok(entry) => {
                        draft.places.push((entry.partition, topic_index, partition_index));
                        entries.push(entry);
                    }
                    Err((error, message)) => {
                        if let Some(response) = partition_responses.last_mut() {
                            response.error_code = error.code();
                            response.error_message = Some(Str::from_static(message));
                        }
                    }
                }
            }
            draft.topics.push(TopicProduceResponse {
                // A slice of the frame would keep the records in memory as long as the answer waits.
                name: topic_data.name.detached(),
                topic_id: topic_data.topic_id,
                partition_responses,
                ..TopicProduceResponse::default()
            });
        }
        (draft, entries)
    }

    fn find<'a>(
        &self,
        context: &RequestContext,
        version: i16,
        data: &TopicProduceData,
        image: &'a Image,
    ) -> Result<&'a Topic, (ErrorCode, &'static str)> {
        let topic = match version {
            13.. => image.topic(data.topic_id).ok_or((ErrorCode::UnknownTopicId, "no topic has this id"))?,
            _ => {
                let allowed = self.allows(context, Operation::Write, Resource::Topic(&data.name));
                let topic = image.topic_by_name(&data.name);
                if !allowed {
                    return Err((ErrorCode::TopicAuthorizationFailed, "writing to this topic is not allowed"));
                }
                topic.ok_or((ErrorCode::UnknownTopicOrPartition, "no topic has this name"))?
            }
        };
        if version >= 13 && !self.allows(context, Operation::Write, Resource::Topic(&topic.name)) {
            return Err((ErrorCode::TopicAuthorizationFailed, "writing to this topic is not allowed"));
        }
        if topic.is_internal() && context.client_id != ADMIN_CLIENT_ID {
            return Err((ErrorCode::InvalidTopicException, "clients cannot write to an internal topic"));
        }
        Ok(topic)
    }
}

fn has_transactional_records(request: &ProduceRequest) -> bool {
    let of_topic = |topic: &TopicProduceData| {
        let records = topic.partition_data.iter().filter_map(|data| data.records.as_ref()?.as_bytes());
        // Of another format, or of garbage, that byte means nothing.
        let mut batches = records.filter(|records| records.get(MAGIC).is_some_and(|magic| *magic == MAGIC_V2 as u8));
        batches.any(|batch| batch.get(ATTRIBUTES_LOW_BYTE).is_some_and(|attributes| attributes & TRANSACTIONAL != 0))
    };
    request.topic_data.iter().any(of_topic)
}

/// What stands until the result is there: never taken for success.
fn unanswered() -> PartitionProduceResponse {
    PartitionProduceResponse {
        error_code: ErrorCode::UnknownServerError.code(),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        ..PartitionProduceResponse::default()
    }
}

fn entry(topic: &Topic, version: i16, data: PartitionProduceData) -> Result<AppendEntry, (ErrorCode, &'static str)> {
    let partition = PartitionIndex(data.index);
    if topic.partition(partition).is_none() {
        return Err((ErrorCode::UnknownTopicOrPartition, "the topic has no such partition"));
    }
    let records: Bytes = data.records.and_then(odradek_wire::Records::into_bytes).unwrap_or_default();
    if records.is_empty() {
        return Err((ErrorCode::InvalidRecord, "a partition takes exactly one record batch, and none is here"));
    }
    let codec = records.get(ATTRIBUTES_LOW_BYTE).map(|attributes| attributes & 7);
    if version < ZSTD_VERSION_MIN && codec == Some(ZSTD) {
        return Err((ErrorCode::UnsupportedCompressionType, "zstd takes Produce version 7 or later"));
    }
    Ok(AppendEntry { partition: TopicIdPartition { topic_id: topic.id, partition }, records })
}

impl Draft {
    fn fill(&mut self, results: Vec<AppendResult>, mut leaders: Leaders<'_>) {
        for (result, (partition, topic_index, partition_index)) in results.into_iter().zip(&self.places) {
            let response =
                self.topics.get_mut(*topic_index).and_then(|topic| topic.partition_responses.get_mut(*partition_index));
            let Some(response) = response else { continue };
            response.error_code = result.error.code();
            response.error_message = result.message.map(Str::from);
            response.base_offset = result.base_offset.0;
            response.log_append_time_ms = result.log_append_time.0;
            response.log_start_offset = result.log_start.0;
            let record_errors = result.record_errors.into_iter().map(|(batch_index, message)| {
                let batch_index_error_message = Some(message.into());
                BatchIndexAndErrorMessage { batch_index, batch_index_error_message, ..Default::default() }
            });
            response.record_errors = record_errors.collect();
            if result.error == ErrorCode::NotLeaderOrFollower
                && self.version >= 10
                && let Some(current) = leaders.name(*partition, result.current_leader)
            {
                response.current_leader = LeaderIdAndEpoch {
                    leader_id: current.leader.0,
                    leader_epoch: current.epoch.0,
                    ..LeaderIdAndEpoch::default()
                };
            }
        }
        let endpoints = leaders.into_endpoints().map(|(node_id, endpoint)| NodeEndpoint {
            node_id,
            host: endpoint.host,
            port: endpoint.port,
            rack: endpoint.rack,
            ..NodeEndpoint::default()
        });
        self.node_endpoints = endpoints.collect();
    }

    fn answered(&mut self, acks: i16) -> Answered {
        let topics = std::mem::take(&mut self.topics);
        if acks != 0 {
            let node_endpoints = std::mem::take(&mut self.node_endpoints);
            let response = ProduceResponse { responses: topics, node_endpoints, ..ProduceResponse::default() };
            return Answered::Answer(response);
        }
        let failed =
            topics.iter().flat_map(|topic| &topic.partition_responses).find(|response| response.error_code != 0);
        match failed {
            None => Answered::Nothing,
            Some(response) => {
                let error = ErrorCode::from_code(response.error_code);
                tracing::debug!(%error, "a produce with acks=0 failed; its connection is closed");
                Answered::Close
            }
        }
    }
}
