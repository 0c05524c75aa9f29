//! Produce: checks each partition's records, appends them, and answers when `acks` is met.
//!
//! A batch that begins a transaction in its partition waits until the transaction's coordinator knows of it (`enlist`). What
//! waits for followers holds nothing of the request: neither its records nor its memory.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::transaction::{NamedPartition, Producer};
use odradek_common::{ErrorCode, PartitionIndex, TopicIdPartition};
use odradek_metadata::{Image, Topic};
use odradek_records::{BatchHeader, MAGIC_V2};
use odradek_wire::Str;
use odradek_wire::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek_wire::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceResponse,
    TopicProduceResponse,
};

use super::dispatch::Asked;
use super::enlist::Enlisting;
use super::leaders::Leaders;
use super::{Api, Operation, Outcome, RequestContext, Resource};
use crate::memory::MemoryPermit;
use crate::replica::{AppendEntry, AppendResult, PartitionError, Unverified};

/// The client id of Kafka's own admin tools, which alone may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// The first version whose clients know zstd (KIP-110), and that codec's number.
const ZSTD_VERSION_MIN: i16 = 7;
const ZSTD: u8 = 4;

/// The first version whose clients know TRANSACTION_ABORTABLE; those of the next one leave it to the broker to add
/// partitions to their transactions.
const TRANSACTION_ABORTABLE: i16 = 11;

/// A verification is begun anew as often as a marker ends it; a transaction has one marker in each partition.
const VERIFICATIONS_MAX: usize = 4;

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

/// A request on its way into the logs.
struct Appending {
    draft: Draft,
    entries: Vec<AppendEntry>,
    /// By their places in `entries`.
    refused: BTreeMap<usize, AppendResult>,
    context: Arc<RequestContext>,
    acks: i16,
    timeout: Duration,
}

impl Appending {
    fn new(
        draft: Draft,
        entries: Vec<AppendEntry>,
        context: Arc<RequestContext>,
        acks: i16,
        timeout: Duration,
    ) -> Self {
        Self { draft, entries, refused: BTreeMap::new(), context, acks, timeout }
    }

    fn refuse(&mut self, place: usize, result: AppendResult) {
        self.refused.insert(place, result);
    }
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
        let transactional_id = request.transactional_id.as_ref().map(Str::detached);
        let (draft, entries) = self.check(&context, version, request);
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        let mut appending = Appending::new(draft, entries, context, acks, timeout);
        let Some(transactional_id) = transactional_id else { return self.append(appending, permit) };
        let enlisting = Enlisting::of_version(version, TRANSACTION_ABORTABLE);
        let Some(mut unverified) = self.begin_verification(&mut appending, enlisting) else {
            return self.append(appending, permit);
        };
        // What the same client sends after this has to be appended after it.
        let api = self.clone();
        Outcome::Ordered(Box::pin(async move {
            for _ in 0..VERIFICATIONS_MAX {
                let (producer, partitions) = unverified;
                let names = partitions.iter().map(|(_, partition)| partition.clone()).collect();
                let errors = api.enlist(&transactional_id, producer, names, enlisting).await;
                for ((place, _), error) in partitions.into_iter().zip(errors) {
                    if error.is_error() {
                        appending.refuse(place, not_enlisted(error, enlisting));
                    }
                }
                // The marker of the transaction before may have come meanwhile, and has ended what was begun.
                match api.begin_verification(&mut appending, enlisting) {
                    Some(again) => unverified = again,
                    None => break,
                }
            }
            api.append(appending, permit)
        }))
    }

    /// Appends what was not refused, and answers when that is done.
    fn append(self: &Arc<Self>, appending: Appending, permit: MemoryPermit) -> Outcome<Answered> {
        let Appending { mut draft, mut entries, mut refused, context, acks, timeout } = appending;
        let count = entries.len();
        if !refused.is_empty() {
            let mut places = 0..count;
            entries.retain(|_| places.next().is_some_and(|place| !refused.contains_key(&place)));
        }
        let appended: Outcome<Vec<AppendResult>> = match entries.is_empty() {
            true => Outcome::Done(Vec::new()),
            false => self.replicas.append(entries, acks, timeout).into(),
        };
        drop(permit);
        let api = self.clone();
        appended.map(move |mut results| {
            if !refused.is_empty() {
                let mut appended = results.into_iter();
                results = (0..count).filter_map(|place| refused.remove(&place).or_else(|| appended.next())).collect();
            }
            let image = api.cache.image();
            draft.fill(results, Leaders::new(&image, &context.listener));
            draft.answered(acks)
        })
    }

    /// Looks for batches that begin a transaction in their partition: before they are appended, the transaction's
    /// coordinator has to know of them (KIP-890). Answers whose they are, with their places, as far as their guards are new.
    fn begin_verification(
        &self,
        appending: &mut Appending,
        enlisting: Enlisting,
    ) -> Option<(Producer, Vec<(usize, NamedPartition)>)> {
        let image = self.cache.image();
        let batches: Vec<_> =
            appending.entries.iter().map(|entry| transactional_batch(&entry.records, enlisting)).collect();
        let mut producers = batches.iter().flatten().map(|batch| (batch.producer, batch.epoch));
        let (id, epoch) = producers.next()?;
        if producers.any(|other| other != (id, epoch)) {
            let message = "transactional records contain more than one producer id and epoch";
            for place in 0..batches.len() {
                let refused = AppendResult::failed(ErrorCode::InvalidProducerIdMapping);
                appending.refuse(place, AppendResult { message: Some(message.to_owned()), ..refused });
            }
            return None;
        }
        let mut partitions = Vec::new();
        for (place, batch) in batches.into_iter().enumerate() {
            let is_refused = appending.refused.contains_key(&place);
            let (Some(batch), Some(entry), false) = (batch, appending.entries.get_mut(place), is_refused) else {
                continue;
            };
            match self.replicas.begin_verification(entry.partition, batch) {
                Ok(guard) if guard == entry.guard => {}
                Ok(None) => entry.guard = None,
                Ok(Some(guard)) => {
                    entry.guard = Some(guard);
                    let topic = image.topic(entry.partition.topic_id).map(|topic| topic.name.clone());
                    partitions.push((place, (topic.unwrap_or_else(|| "".into()), entry.partition.partition.0)));
                }
                Err(error) => appending.refuse(place, refusal(error)),
            }
        }
        (!partitions.is_empty()).then_some((Producer { id, epoch }, partitions))
    }

    /// Sorts the partitions of a request into those to append and those that are answered already.
    fn check(&self, context: &RequestContext, version: i16, request: ProduceRequest) -> (Draft, Vec<AppendEntry>) {
        let image = self.cache.image();
        let refused = match request.acks {
            // Only a producer that names its transaction can be known to be allowed to.
            _ if !self.may_write_transactionally(context, &request) => {
                let message =
                    "transactional records take a transactional id in the request, and leave to write under it";
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

    fn may_write_transactionally(&self, context: &RequestContext, request: &ProduceRequest) -> bool {
        if !has_transactional_records(request) {
            return true;
        }
        let id = request.transactional_id.as_ref();
        id.is_some_and(|id| self.allows(context, Operation::Write, Resource::TransactionalId(id)))
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
    Ok(AppendEntry::new(TopicIdPartition { topic_id: topic.id, partition }, records))
}

/// What of a batch is to be verified; `None`: it is in no transaction, or no batch.
fn transactional_batch(records: &Bytes, enlisting: Enlisting) -> Option<Unverified> {
    let header = BatchHeader::parse(records).ok()?;
    let is_transactional = header.attributes.is_transactional() && header.has_producer();
    is_transactional.then_some(Unverified {
        producer: header.producer_id,
        epoch: header.producer_epoch,
        sequence: header.base_sequence,
        bumps_epoch: enlisting.bumps_epoch(),
    })
}

fn refusal(error: PartitionError) -> AppendResult {
    AppendResult {
        message: Some(error.message),
        current_leader: error.current_leader,
        ..AppendResult::failed(error.code)
    }
}

/// Why a batch is not appended, as its client can make something of it: what has only to do with the coordinator becomes
/// an error that every client answers by sending the batch again, without looking for another leader.
fn not_enlisted(error: ErrorCode, enlisting: Enlisting) -> AppendResult {
    let again = match error {
        ErrorCode::ConcurrentTransactions => !enlisting.bumps_epoch(),
        ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => true,
        _ => false,
    };
    let message = match error {
        ErrorCode::InvalidTxnState => "the partition was not added to the transaction".to_owned(),
        _ => format!("the transaction's coordinator says {error}"),
    };
    let error = if again { ErrorCode::NotEnoughReplicas } else { error };
    AppendResult { message: Some(message), ..AppendResult::failed(error) }
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
