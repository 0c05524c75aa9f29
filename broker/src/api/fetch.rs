//! Fetch, by consumers and by followers: sessions (KIP-227), topic ids (KIP-516), the long poll, and answers whose records
//! go from the log's file to the socket.
//!
//! A request without a session, or that opens one, reads all that it names. One of a session reads what it names, what
//! failed last, and what the session's watch has news of (`replica::session`): it costs by those, not by the session.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::fetch_session::{
    AnswerFacts, FetchContext, PartitionKey, RequestedPartition, SESSION_NONE, SessionRequest, Slot, TopicKey,
};
use odradek_broker_core::partition::{Isolation, Reader};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicIdPartition, Uuid};
use odradek_metadata::Image;
use odradek_wire::fetch_request::{FetchRequest, FetchTopic, ForgottenTopic};
use odradek_wire::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
    PartitionData,
};
use odradek_wire::{Records, Str};

use super::dispatch::{Answer, Asked};
use super::leaders::Leaders;
use super::{Api, FilePart, Operation, Outcome, RequestContext, Resource};
use crate::replica::{FetchEntry, FetchParams, FetchResult, SessionResult, SessionWatch};

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 13;

/// The first version whose requests carry the follower's broker epoch (KIP-903).
const REPLICA_STATE: i16 = 15;

/// The first version whose answers tell of diverging epochs, and the first with current leaders and their addresses (which
/// have a place since version 12, but Kafka leaves it empty before).
const DIVERGING_EPOCHS: i16 = 12;
const LEADER_HINTS: i16 = 16;

/// What is needed to answer once the records are found.
struct Pending {
    version: i16,
    context: Arc<RequestContext>,
    session: FetchContext<SessionWatch>,
    /// Brokers know where each other are.
    is_follower: bool,
    /// What is known at once of partitions that the request is about.
    failed: Vec<Found>,
}

/// A partition, as far as it is known, and what was found in it.
struct Found {
    slot: Slot,
    partition: Option<TopicIdPartition>,
    result: FetchResult,
}

impl Api {
    pub(super) fn fetch(self: &Arc<Self>, asked: Asked<FetchRequest>) -> Outcome<Answer<FetchResponse>> {
        let Asked { context, version, body: request, .. } = asked;
        let (replica_id, replica_epoch) = match version {
            REPLICA_STATE.. => (request.replica_state.replica_id, request.replica_state.replica_epoch),
            _ => (request.replica_id, BrokerEpoch::NONE.0),
        };
        let replica = (replica_id >= 0).then_some((BrokerId(replica_id), BrokerEpoch(replica_epoch)));
        if replica.is_some() && !self.allows(&context, Operation::ClusterAction, Resource::Cluster) {
            return Outcome::Done(failed_as_a_whole(ErrorCode::ClusterAuthorizationFailed).into());
        }
        let params = self.params(&context, &request, replica);
        let session = session_request(version, request, replica.is_some());
        let resolved = self.fetch_sessions().resolve(session, self.world.instant());
        let session = match resolved {
            Ok(session) => session,
            Err(error) => return Outcome::Done(failed_as_a_whole(error).into()),
        };
        let image = self.cache.image();
        let mut entries = Vec::with_capacity(session.partitions.len());
        let mut failed = Vec::new();
        for (slot, requested) in &session.partitions {
            match self.find_partition(&context, &image, &requested.key, replica.is_some()) {
                Ok(partition) => entries.push((*slot, fetch_entry(partition, requested))),
                Err(error) => {
                    failed.push(Found { slot: *slot, partition: None, result: FetchResult::failed(error) });
                }
            }
        }
        let fetched = match &session.watch {
            Some(watch) => {
                // What cannot be found now is not in the watch until it can.
                let gone: Vec<Slot> =
                    session.forgotten.iter().copied().chain(failed.iter().map(|found| found.slot)).collect();
                self.replicas.fetch_session(params, watch.clone(), entries, &gone).into()
            }
            None if entries.is_empty() => Outcome::Done(Vec::new()),
            None => self.fetch_all(params, entries),
        };
        let pending = Pending { version, context, session, is_follower: replica.is_some(), failed };
        let api = self.clone();
        fetched.map(move |results| api.answer(pending, results))
    }

    fn fetch_all(&self, params: FetchParams, entries: Vec<(Slot, FetchEntry)>) -> Outcome<Vec<SessionResult>> {
        let asked: Vec<_> = entries.iter().map(|(slot, entry)| (*slot, entry.partition)).collect();
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        let fetched: Outcome<Vec<FetchResult>> = self.replicas.fetch(params, entries).into();
        fetched.map(move |results| {
            asked.into_iter().zip(results).map(|((slot, partition), result)| (slot, partition, result)).collect()
        })
    }

    fn params(
        &self,
        context: &RequestContext,
        request: &FetchRequest,
        replica: Option<(BrokerId, BrokerEpoch)>,
    ) -> FetchParams {
        let bytes_max = request.max_bytes.min(i32::try_from(self.config.network.fetch_bytes_max).unwrap_or(i32::MAX));
        let bytes_max = usize::try_from(bytes_max).unwrap_or(0);
        let reader = match replica {
            Some(_) => Reader::Follower,
            None if request.isolation_level == 0 => Reader::Client(Isolation::ReadUncommitted),
            None => Reader::Client(Isolation::ReadCommitted),
        };
        FetchParams {
            replica,
            reader,
            wait_max: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
            bytes_min: u64::try_from(request.min_bytes).unwrap_or(0).min(bytes_max as u64),
            bytes_max,
            is_bytes_max_hard: false,
            peer: Some(context.peer),
            waits_for_disk: false,
        }
    }

    /// The partition behind a name or id, if this reader may read it.
    fn find_partition(
        &self,
        context: &RequestContext,
        image: &Image,
        key: &PartitionKey,
        is_follower: bool,
    ) -> Result<TopicIdPartition, ErrorCode> {
        let may_read = |name: &str| is_follower || self.allows(context, Operation::Read, Resource::Topic(name));
        let topic = match &key.topic {
            TopicKey::Id(id) => {
                let topic = image.topic(*id).ok_or(ErrorCode::UnknownTopicId)?;
                if !may_read(&topic.name) {
                    return Err(ErrorCode::TopicAuthorizationFailed);
                }
                topic
            }
            TopicKey::Name(name) => {
                if !may_read(name) {
                    return Err(ErrorCode::TopicAuthorizationFailed);
                }
                image.topic_by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)?
            }
        };
        let partition = PartitionIndex(key.partition);
        match topic.partition(partition) {
            None => Err(ErrorCode::UnknownTopicOrPartition),
            Some(_) => Ok(TopicIdPartition { topic_id: topic.id, partition }),
        }
    }

    fn answer(&self, pending: Pending, results: Vec<SessionResult>) -> Answer<FetchResponse> {
        let Pending { version, context, session, is_follower, failed } = pending;
        let mut found = failed;
        found.extend(results.into_iter().map(|(slot, partition, result)| Found {
            slot,
            partition: Some(partition),
            result,
        }));
        if session.watch.is_none() {
            // Without a session in the order of the request.
            found.sort_by_key(|found| found.slot);
        }
        let facts: Vec<(Slot, AnswerFacts)> = found.iter().map(|found| (found.slot, facts(&found.result))).collect();
        let answer = self.fetch_sessions().answer(&session, &facts, &mut self.world.rng(), self.world.instant());
        if answer.error.is_error() {
            return failed_as_a_whole(answer.error).into();
        }
        let image = self.cache.image();
        let mut leaders = Leaders::new(&image, &context.listener);
        let mut topics: Vec<FetchableTopicResponse> = Vec::new();
        let mut files = Vec::new();
        let mut found = found.into_iter().enumerate();
        for (at, key) in answer.include {
            // In the same order.
            let Some((_, Found { partition, result, .. })) = found.find(|(place, _)| *place == at) else { break };
            if let Some(range) = &result.records
                && range.len > 0
            {
                let (file, stream) = (range.file.clone(), range.stream.clone());
                files.push(FilePart { file, offset: range.position, len: range.len, stream });
            }
            let data = partition_data(version, key.partition, partition, result, &mut leaders);
            let (topic, topic_id) = match &key.topic {
                TopicKey::Id(id) => (Str::default(), *id),
                TopicKey::Name(name) => (Str::from(&**name), Uuid::ZERO),
            };
            match topics.last_mut() {
                Some(last) if last.topic_id == topic_id && last.topic == topic => last.partitions.push(data),
                _ => topics.push(FetchableTopicResponse {
                    topic,
                    topic_id,
                    partitions: vec![data],
                    ..FetchableTopicResponse::default()
                }),
            }
        }
        let endpoints = leaders.into_endpoints().map(|(node_id, endpoint)| NodeEndpoint {
            node_id,
            host: endpoint.host,
            port: endpoint.port,
            rack: endpoint.rack,
            ..NodeEndpoint::default()
        });
        let message = FetchResponse {
            session_id: answer.session_id,
            responses: topics,
            node_endpoints: if version >= LEADER_HINTS && !is_follower { endpoints.collect() } else { Vec::new() },
            ..FetchResponse::default()
        };
        Answer { message, files }
    }
}

/// An answer that is an error as a whole.
fn failed_as_a_whole(error: ErrorCode) -> FetchResponse {
    FetchResponse { error_code: error.code(), session_id: SESSION_NONE, ..FetchResponse::default() }
}

fn session_request(version: i16, request: FetchRequest, is_follower: bool) -> SessionRequest {
    let uses_topic_ids = version >= TOPIC_IDS;
    let mut partitions = Vec::new();
    for FetchTopic { topic, topic_id, partitions: asked, .. } in request.topics {
        let topic = topic_key(uses_topic_ids, &topic, topic_id);
        partitions.extend(asked.into_iter().map(|asked| RequestedPartition {
            key: PartitionKey { topic: topic.clone(), partition: asked.partition },
            fetch_offset: Offset(asked.fetch_offset),
            log_start: Offset(asked.log_start_offset),
            current_leader_epoch: LeaderEpoch(asked.current_leader_epoch),
            last_fetched_epoch: LeaderEpoch(asked.last_fetched_epoch),
            bytes_max: asked.partition_max_bytes,
        }));
    }
    let mut forgotten = Vec::new();
    for ForgottenTopic { topic, topic_id, partitions, .. } in request.forgotten_topics_data {
        let topic = topic_key(uses_topic_ids, &topic, topic_id);
        forgotten.extend(partitions.into_iter().map(|partition| PartitionKey { topic: topic.clone(), partition }));
    }
    SessionRequest {
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        uses_topic_ids,
        is_follower,
        partitions,
        forgotten,
    }
}

fn topic_key(uses_topic_ids: bool, name: &Str, id: Uuid) -> TopicKey {
    if uses_topic_ids { TopicKey::Id(id) } else { TopicKey::Name(name.as_str().into()) }
}

fn fetch_entry(partition: TopicIdPartition, requested: &RequestedPartition) -> FetchEntry {
    FetchEntry {
        partition,
        fetch_offset: requested.fetch_offset,
        log_start: requested.log_start,
        current_leader_epoch: requested.current_leader_epoch,
        last_fetched_epoch: requested.last_fetched_epoch,
        bytes_max: usize::try_from(requested.bytes_max).unwrap_or(0),
    }
}

fn facts(result: &FetchResult) -> AnswerFacts {
    AnswerFacts {
        error: result.error,
        has_records: !result.is_empty(),
        high_watermark: result.high_watermark,
        log_start: result.log_start,
        has_diverging_epoch: result.diverging_epoch.is_some(),
        has_preferred_replica: false,
    }
}

fn partition_data(
    version: i16,
    partition_index: i32,
    partition: Option<TopicIdPartition>,
    result: FetchResult,
    leaders: &mut Leaders<'_>,
) -> PartitionData {
    let mut data = PartitionData {
        partition_index,
        error_code: result.error.code(),
        high_watermark: result.high_watermark.0,
        last_stable_offset: result.last_stable_offset.0,
        log_start_offset: result.log_start.0,
        // Never null: clients before KIP-74 took null for a broken answer.
        records: Some(Records::Outside(result.len())),
        // Of what was never read there are none; of what could not be read it is not known.
        aborted_transactions: result.aborted.or_else(|| partition.is_none().then(Vec::new)).map(|aborted| {
            let aborted = aborted.into_iter().map(|aborted| AbortedTransaction {
                producer_id: aborted.producer_id.0,
                first_offset: aborted.first_offset.0,
                ..AbortedTransaction::default()
            });
            aborted.collect()
        }),
        ..PartitionData::default()
    };
    if version < DIVERGING_EPOCHS {
        return data;
    }
    if let Some(diverging) = result.diverging_epoch {
        data.diverging_epoch =
            EpochEndOffset { epoch: diverging.epoch.0, end_offset: diverging.end.0, ..EpochEndOffset::default() };
    }
    let tells_leader = matches!(result.error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
    if version >= LEADER_HINTS
        && tells_leader
        && let Some(partition) = partition
        && let Some(current) = leaders.name(partition, result.current_leader)
    {
        data.current_leader = LeaderIdAndEpoch {
            leader_id: current.leader.0,
            leader_epoch: current.epoch.0,
            ..LeaderIdAndEpoch::default()
        };
    }
    data
}
