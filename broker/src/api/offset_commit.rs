//! OffsetCommit: how far a group has come, kept until the next commit or its retention.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::{ErrorCode, PartitionIndex};
use odradek_metadata::{Image, Topic};
use odradek_wire::offset_commit_request::OffsetCommitRequestTopic;
use odradek_wire::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use odradek_wire::{OffsetCommitRequest, OffsetCommitResponse, Str};

use super::dispatch::Asked;
use super::join_group::group_client;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 10;

/// An answer, with the places of what is committed: a topic's, and its partitions' in that.
pub(super) struct CommitDraft {
    pub topics: Vec<OffsetCommitResponseTopic>,
    places: Vec<(usize, Vec<usize>)>,
}

impl Api {
    pub(super) fn offset_commit(self: &Arc<Self>, asked: Asked<OffsetCommitRequest>) -> Outcome<OffsetCommitResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            let error = ErrorCode::GroupAuthorizationFailed;
            let topics = request.topics.iter().map(|topic| refused(topic, error)).collect();
            return Outcome::Done(OffsetCommitResponse { topics, ..OffsetCommitResponse::default() });
        }
        let draft = self.draft_commit(&context, version >= TOPIC_IDS, &mut request.topics);
        if request.topics.is_empty() {
            return Outcome::Done(OffsetCommitResponse { topics: draft.topics, ..OffsetCommitResponse::default() });
        }
        let group_id = request.group_id.clone();
        let request = GroupRequest::Commit(group_client(&context, version), request);
        let asked: Outcome<_> = self.groups.request(&group_id, request).into();
        drop((permit, group_id));
        asked.map(move |answer| {
            let topics = draft.filled(answer.and_then(committed));
            OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }
        })
    }

    /// What cannot be committed is answered here; what can stays in the request, with the names of its topics, and is
    /// answered in its place. A topic without partitions has nothing to be answered.
    pub(super) fn draft_commit(
        &self,
        context: &RequestContext,
        by_id: bool,
        asked: &mut Vec<OffsetCommitRequestTopic>,
    ) -> CommitDraft {
        let image = self.cache.image();
        let mut draft = CommitDraft { topics: Vec::with_capacity(asked.len()), places: Vec::new() };
        for mut topic in std::mem::take(asked).into_iter().filter(|topic| !topic.partitions.is_empty()) {
            let found = match self.topic_to_commit(context, by_id, &topic, &image) {
                Ok(found) => found,
                Err(error) => {
                    draft.topics.push(refused(&topic, error));
                    continue;
                }
            };
            let mut answer = OffsetCommitResponseTopic {
                name: topic.name.detached(),
                topic_id: topic.topic_id,
                partitions: Vec::with_capacity(topic.partitions.len()),
                ..OffsetCommitResponseTopic::default()
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
                asked.push(topic);
            }
            draft.topics.push(answer);
        }
        draft
    }

    fn topic_to_commit<'a>(
        &self,
        context: &RequestContext,
        by_id: bool,
        asked: &OffsetCommitRequestTopic,
        image: &'a Image,
    ) -> Result<&'a Arc<Topic>, ErrorCode> {
        let found = match by_id {
            true => Some(image.topic(asked.topic_id).ok_or(ErrorCode::UnknownTopicId)?),
            false => image.topic_by_name(&asked.name),
        };
        let name = found.map_or(asked.name.as_str(), |topic| &topic.name);
        if !self.allows(context, Operation::Read, Resource::Topic(name)) {
            return Err(ErrorCode::TopicAuthorizationFailed);
        }
        found.ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}

impl CommitDraft {
    /// With what became of the rest, or one error for all of it.
    pub fn filled(
        mut self,
        committed: Result<Vec<OffsetCommitResponseTopic>, ErrorCode>,
    ) -> Vec<OffsetCommitResponseTopic> {
        for (n, (topic, partitions)) in self.places.into_iter().enumerate() {
            let result = committed.as_ref().map(|topics| topics.get(n));
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
        self.topics
    }
}

/// The topics of a coordinator's answer to a commit.
pub(super) fn committed(answer: GroupResponse) -> Result<Vec<OffsetCommitResponseTopic>, ErrorCode> {
    match answer {
        GroupResponse::Commit(response) => Ok(response.topics),
        _ => Err(ErrorCode::UnknownServerError),
    }
}

fn partition_answer(partition_index: i32, error: ErrorCode) -> OffsetCommitResponsePartition {
    let error_code = error.code();
    OffsetCommitResponsePartition { partition_index, error_code, ..OffsetCommitResponsePartition::default() }
}

pub(super) fn refused(topic: &OffsetCommitRequestTopic, error: ErrorCode) -> OffsetCommitResponseTopic {
    OffsetCommitResponseTopic {
        name: topic.name.detached(),
        topic_id: topic.topic_id,
        partitions: (topic.partitions.iter())
            .map(|partition| partition_answer(partition.partition_index, error))
            .collect(),
        ..OffsetCommitResponseTopic::default()
    }
}
