//! TxnOffsetCommit: offsets that count from the commit of a transaction on (KIP-98, KIP-447).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse, OFFSETS_TOPIC};
use odradek_broker_core::transaction::Producer;
use odradek_common::{ErrorCode, PartitionIndex, ProducerEpoch, ProducerId, TopicIdPartition, VerificationGuard};
use odradek_metadata::{Image, Topic};
use odradek_wire::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use odradek_wire::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use odradek_wire::{Str, TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::dispatch::Asked;
use super::enlist::Enlisting;
use super::{Api, Operation, Outcome, RequestContext, Resource};
use crate::replica::Unverified;

/// The first version whose clients know COORDINATOR_LOAD_IN_PROGRESS.
const LOAD_IN_PROGRESS: i16 = 2;

/// The first version whose clients know TRANSACTION_ABORTABLE; those of the next one leave it to the broker to add the
/// group's partition to their transactions.
const TRANSACTION_ABORTABLE: i16 = 4;

/// A verification is begun anew as often as a marker ends it.
const VERIFICATIONS_MAX: usize = 4;

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 6;

/// The answer, with the places of what is committed: a topic's, and its partitions' in that.
struct Draft {
    version: i16,
    topics: Vec<TxnOffsetCommitResponseTopic>,
    places: Vec<(usize, Vec<usize>)>,
}

impl Api {
    pub(super) fn txn_offset_commit(
        self: &Arc<Self>,
        asked: Asked<TxnOffsetCommitRequest>,
    ) -> Outcome<TxnOffsetCommitResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        let refusal = if !self.allows(&context, Operation::Write, Resource::TransactionalId(&request.transactional_id))
        {
            Some(ErrorCode::TransactionalIdAuthorizationFailed)
        } else if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            Some(ErrorCode::GroupAuthorizationFailed)
        } else {
            None
        };
        if let Some(error) = refusal {
            let topics = request.topics.iter().map(|topic| refused(topic, error)).collect();
            return Outcome::Done(TxnOffsetCommitResponse { topics, ..TxnOffsetCommitResponse::default() });
        }
        let draft = self.draft(&context, version, &mut request);
        if request.topics.is_empty() {
            return Outcome::Done(draft.into_response());
        }
        if request.group_id.is_empty() {
            return Outcome::Done(draft.filled(Err(ErrorCode::InvalidGroupId)));
        }
        let api = self.clone();
        Outcome::waiting(async move {
            let committed = api.commit_in_transaction(version, request).await;
            drop(permit);
            draft.filled(committed)
        })
    }

    /// What cannot be committed is answered here; what can stays in the request.
    fn draft(&self, context: &RequestContext, version: i16, request: &mut TxnOffsetCommitRequest) -> Draft {
        let image = self.cache.image();
        let mut draft = Draft { version, topics: Vec::with_capacity(request.topics.len()), places: Vec::new() };
        for mut topic in std::mem::take(&mut request.topics).into_iter().filter(|topic| !topic.partitions.is_empty()) {
            let found = match self.topic_of_transaction(context, version, &topic, &image) {
                Ok(found) => found,
                Err(error) => {
                    draft.topics.push(refused(&topic, error));
                    continue;
                }
            };
            let mut answer = TxnOffsetCommitResponseTopic {
                name: topic.name.detached(),
                topic_id: topic.topic_id,
                ..TxnOffsetCommitResponseTopic::default()
            };
            let mut places = Vec::new();
            topic.partitions.retain(|partition| {
                let exists = found.partition(PartitionIndex(partition.partition_index)).is_some();
                let error = if exists { ErrorCode::UnknownServerError } else { ErrorCode::UnknownTopicOrPartition };
                if exists {
                    places.push(answer.partitions.len());
                }
                answer.partitions.push(partition_answer(partition.partition_index, error));
                exists
            });
            if !topic.partitions.is_empty() {
                topic.name = Str::from(&*found.name);
                topic.topic_id = found.id;
                draft.places.push((draft.topics.len(), places));
                request.topics.push(topic);
            }
            draft.topics.push(answer);
        }
        draft
    }

    fn topic_of_transaction<'a>(
        &self,
        context: &RequestContext,
        version: i16,
        asked: &TxnOffsetCommitRequestTopic,
        image: &'a Image,
    ) -> Result<&'a Arc<Topic>, ErrorCode> {
        let found = match version >= TOPIC_IDS {
            true => Some(image.topic(asked.topic_id).ok_or(ErrorCode::UnknownTopicId)?),
            false => image.topic_by_name(&asked.name),
        };
        let name = found.map_or(asked.name.as_str(), |topic| &topic.name);
        if !self.allows(context, Operation::Read, Resource::Topic(name)) {
            return Err(ErrorCode::TopicAuthorizationFailed);
        }
        found.ok_or(ErrorCode::UnknownTopicOrPartition)
    }

    async fn commit_in_transaction(
        self: &Arc<Self>,
        version: i16,
        request: TxnOffsetCommitRequest,
    ) -> Result<TxnOffsetCommitResponse, ErrorCode> {
        let guard = self.enlist_offsets(version, &request).await?;
        let group_id = request.group_id.clone();
        match self.groups.request(&group_id, GroupRequest::CommitInTransaction(request, guard)).wait().await? {
            GroupResponse::CommitInTransaction(response) => Ok(response),
            _ => Err(ErrorCode::UnknownServerError),
        }
    }

    /// The partition of the group has to be part of the transaction.
    async fn enlist_offsets(
        self: &Arc<Self>,
        version: i16,
        request: &TxnOffsetCommitRequest,
    ) -> Result<Option<VerificationGuard>, ErrorCode> {
        let index = self.groups.partition_for(&request.group_id);
        let topic_id = self.cache.image().topic_id(OFFSETS_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let enlisting = Enlisting::of_version(version, TRANSACTION_ABORTABLE);
        let producer = Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
        let batch = Unverified {
            producer: producer.id,
            epoch: producer.epoch,
            sequence: -1,
            bumps_epoch: enlisting.bumps_epoch(),
        };
        let begin = || {
            let begun = self.replicas.begin_verification(TopicIdPartition { topic_id, partition: index }, batch);
            begun.map_err(|error| of_coordinator(error.code))
        };
        let mut guard = begin()?;
        for _ in 0..VERIFICATIONS_MAX {
            if guard.is_none() {
                break;
            }
            let partition = (Arc::from(OFFSETS_TOPIC), index.0);
            let errors = self.enlist(&request.transactional_id, producer, vec![partition], enlisting).await;
            match errors.first() {
                Some(ErrorCode::None) => {}
                Some(error) => return Err(of_coordinator(*error)),
                None => return Err(ErrorCode::UnknownServerError),
            }
            // The marker of the transaction before may have come meanwhile, and has ended what was begun.
            let now = begin()?;
            if now == guard {
                break;
            }
            guard = now;
        }
        Ok(guard)
    }
}

impl Draft {
    fn filled(mut self, committed: Result<TxnOffsetCommitResponse, ErrorCode>) -> TxnOffsetCommitResponse {
        let committed = committed.as_ref().map(|response| &response.topics);
        for (n, (topic, partitions)) in std::mem::take(&mut self.places).into_iter().enumerate() {
            let result = committed.map(|topics| topics.get(n));
            let Some(answers) = self.topics.get_mut(topic) else { continue };
            for (m, partition) in partitions.into_iter().enumerate() {
                let Some(answer) = answers.partitions.get_mut(partition) else { continue };
                answer.error_code = match result {
                    Err(error) => error.code(),
                    Ok(result) => result
                        .and_then(|topic| topic.partitions.get(m))
                        .map_or(ErrorCode::UnknownServerError.code(), |partition| partition.error_code),
                };
            }
        }
        self.into_response()
    }

    fn into_response(mut self) -> TxnOffsetCommitResponse {
        if self.version < LOAD_IN_PROGRESS {
            for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                if partition.error_code == ErrorCode::CoordinatorLoadInProgress.code() {
                    partition.error_code = ErrorCode::CoordinatorNotAvailable.code();
                }
            }
        }
        TxnOffsetCommitResponse { topics: self.topics, ..TxnOffsetCommitResponse::default() }
    }
}

/// A partition's error as one of the group's coordinator.
fn of_coordinator(error: ErrorCode) -> ErrorCode {
    match error {
        // Older clients do not send again after this one.
        ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
        error => odradek_broker_core::coordinator::response_error(error),
    }
}

fn partition_answer(partition_index: i32, error: ErrorCode) -> TxnOffsetCommitResponsePartition {
    let error_code = error.code();
    TxnOffsetCommitResponsePartition { partition_index, error_code, ..TxnOffsetCommitResponsePartition::default() }
}

fn refused(topic: &TxnOffsetCommitRequestTopic, error: ErrorCode) -> TxnOffsetCommitResponseTopic {
    TxnOffsetCommitResponseTopic {
        name: topic.name.detached(),
        topic_id: topic.topic_id,
        partitions: (topic.partitions.iter())
            .map(|partition| partition_answer(partition.partition_index, error))
            .collect(),
        ..TxnOffsetCommitResponseTopic::default()
    }
}
