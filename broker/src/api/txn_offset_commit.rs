//! TxnOffsetCommit: offsets that count from the commit of a transaction on (KIP-98, KIP-447).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::coordinator::InTransaction;
use odradek_broker_core::group::{GroupRequest, OFFSETS_TOPIC};
use odradek_broker_core::transaction::Producer;
use odradek_common::{ErrorCode, ProducerEpoch, ProducerId, TopicIdPartition, VerificationGuard};
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_commit_response::OffsetCommitResponseTopic;
use odradek_wire::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use odradek_wire::txn_offset_commit_response::{TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic};
use odradek_wire::{OffsetCommitRequest, TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::dispatch::Asked;
use super::enlist::Enlisting;
use super::offset_commit::{committed, refused};
use super::{Api, Operation, Outcome, Resource};
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

impl Api {
    pub(super) fn txn_offset_commit(
        self: &Arc<Self>,
        asked: Asked<TxnOffsetCommitRequest>,
    ) -> Outcome<TxnOffsetCommitResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        let mut topics: Vec<_> = std::mem::take(&mut request.topics).into_iter().map(to_commit).collect();
        let refusal = if !self.allows(&context, Operation::Write, Resource::TransactionalId(&request.transactional_id))
        {
            Some(ErrorCode::TransactionalIdAuthorizationFailed)
        } else if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            Some(ErrorCode::GroupAuthorizationFailed)
        } else {
            None
        };
        if let Some(error) = refusal {
            return Outcome::Done(response(version, topics.iter().map(|topic| refused(topic, error)).collect()));
        }
        let draft = self.draft_commit(&context, version >= TOPIC_IDS, &mut topics);
        if topics.is_empty() {
            return Outcome::Done(response(version, draft.topics));
        }
        if request.group_id.is_empty() {
            return Outcome::Done(response(version, draft.filled(Err(ErrorCode::InvalidGroupId))));
        }
        let api = self.clone();
        Outcome::waiting(async move {
            let committed = api.commit_in_transaction(version, &request, topics).await;
            drop(permit);
            response(version, draft.filled(committed))
        })
    }

    async fn commit_in_transaction(
        self: &Arc<Self>,
        version: i16,
        request: &TxnOffsetCommitRequest,
        topics: Vec<OffsetCommitRequestTopic>,
    ) -> Result<Vec<OffsetCommitResponseTopic>, ErrorCode> {
        let transaction = InTransaction {
            producer: ProducerId(request.producer_id),
            epoch: ProducerEpoch(request.producer_epoch),
            guard: self.enlist_offsets(version, request).await?,
        };
        let commit = OffsetCommitRequest {
            group_id: request.group_id.clone(),
            generation_id_or_member_epoch: request.generation_id_or_member_epoch,
            member_id: request.member_id.clone(),
            group_instance_id: request.group_instance_id.clone(),
            retention_time_ms: -1,
            topics,
            ..OffsetCommitRequest::default()
        };
        let commit = GroupRequest::CommitInTransaction(transaction, commit);
        self.groups.request(&request.group_id, commit).wait().await.and_then(committed)
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

/// A partition's error as one of the group's coordinator.
fn of_coordinator(error: ErrorCode) -> ErrorCode {
    match error {
        // Older clients do not send again after this one.
        ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
        error => odradek_broker_core::coordinator::response_error(error),
    }
}

/// As OffsetCommit has it.
fn to_commit(topic: TxnOffsetCommitRequestTopic) -> OffsetCommitRequestTopic {
    let partitions = topic.partitions.into_iter().map(|partition| OffsetCommitRequestPartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        committed_metadata: partition.committed_metadata,
        ..OffsetCommitRequestPartition::default()
    });
    OffsetCommitRequestTopic {
        name: topic.name,
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
        ..OffsetCommitRequestTopic::default()
    }
}

fn response(version: i16, topics: Vec<OffsetCommitResponseTopic>) -> TxnOffsetCommitResponse {
    let known = |error_code: i16| match error_code == ErrorCode::CoordinatorLoadInProgress.code() {
        true if version < LOAD_IN_PROGRESS => ErrorCode::CoordinatorNotAvailable.code(),
        _ => error_code,
    };
    let topics = topics.into_iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name,
        topic_id: topic.topic_id,
        partitions: (topic.partitions.into_iter())
            .map(|partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: known(partition.error_code),
                ..TxnOffsetCommitResponsePartition::default()
            })
            .collect(),
        ..TxnOffsetCommitResponseTopic::default()
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..TxnOffsetCommitResponse::default() }
}
