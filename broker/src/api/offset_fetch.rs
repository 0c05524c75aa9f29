//! OffsetFetch: how far groups have come, of named partitions or of all that a group has committed.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::group::{GroupQuery, GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_metadata::Image;
use odradek_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use odradek_wire::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use odradek_wire::{OffsetFetchRequest, OffsetFetchResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// The first version that has an error of its own and may ask for all topics.
const TOP_LEVEL_ERROR: i16 = 2;

/// The first version that asks for many groups.
const MANY_GROUPS: i16 = 8;

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 10;

impl Api {
    pub(super) fn offset_fetch(self: &Arc<Self>, asked: Asked<OffsetFetchRequest>) -> Outcome<OffsetFetchResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let image = self.cache.image();
        let require_stable = request.require_stable;
        let groups = if version >= MANY_GROUPS { request.groups } else { vec![single(request)] };
        let fetched: Vec<_> = groups
            .into_iter()
            .map(|group| self.fetch_group(&context, version, &image, group, require_stable))
            .collect();
        if fetched.iter().all(|group| matches!(group, Outcome::Done(_))) {
            let done = fetched.into_iter().filter_map(|group| match group {
                Outcome::Done(group) => Some(group),
                Outcome::Waiting(_) | Outcome::Ordered(_) => None,
            });
            return Outcome::Done(answer(version, done.collect()));
        }
        Outcome::waiting(async move {
            let mut groups = Vec::with_capacity(fetched.len());
            for group in fetched {
                groups.push(group.wait().await);
            }
            answer(version, groups)
        })
    }

    fn fetch_group(
        self: &Arc<Self>,
        context: &Arc<RequestContext>,
        version: i16,
        image: &Image,
        mut group: OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> Outcome<OffsetFetchResponseGroup> {
        let group_id = group.group_id.detached();
        let names = group.topics.clone();
        if !self.allows(context, Operation::Describe, Resource::Group(&group_id)) {
            let error = ErrorCode::GroupAuthorizationFailed;
            return Outcome::Done(failed(version, group_id, names.as_deref(), error));
        }
        // Topics that are not there, or not for this client, are answered here.
        let mut refused = Vec::new();
        if let Some(topics) = &mut group.topics {
            topics.retain_mut(|topic| match self.name_topic(context, version, image, topic) {
                Ok(()) => true,
                Err(error) => {
                    refused.push(refused_topic(topic, error));
                    false
                }
            });
        }
        let is_all = group.topics.is_none();
        let asked: Outcome<Result<GroupResponse, ErrorCode>> = match require_stable {
            true => self.groups.request(&group_id, GroupRequest::FetchStable(group)).into(),
            false => Outcome::Done(self.groups.query(&group_id, GroupQuery::Fetch(group))),
        };
        let (api, context) = (self.clone(), context.clone());
        asked.map(move |answered| {
            let mut fetched = match answered {
                Ok(GroupResponse::Fetch(fetched)) => fetched,
                Ok(_) => return failed(version, group_id, names.as_deref(), ErrorCode::UnknownServerError),
                // Consumers before 3.9 know this one as a reason to look for the coordinator again.
                Err(ErrorCode::CoordinatorNotAvailable) => {
                    return failed(version, group_id, names.as_deref(), ErrorCode::NotCoordinator);
                }
                Err(error) => return failed(version, group_id, names.as_deref(), error),
            };
            fetched.group_id = group_id;
            if is_all {
                let image = api.cache.image();
                fetched.topics.retain_mut(|topic| {
                    topic.topic_id = image.topic_id(&topic.name).unwrap_or_default();
                    // By id, only topics that are there can be named.
                    api.allows(&context, Operation::Describe, Resource::Topic(&topic.name))
                        && (version < TOPIC_IDS || !topic.topic_id.is_zero())
                });
            }
            fetched.topics.extend(refused);
            fetched
        })
    }

    fn name_topic(
        &self,
        context: &RequestContext,
        version: i16,
        image: &Image,
        topic: &mut OffsetFetchRequestTopics,
    ) -> Result<(), ErrorCode> {
        if version >= TOPIC_IDS {
            let found = image.topic(topic.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
            topic.name = Str::from(&*found.name);
        } else {
            topic.topic_id = image.topic_id(&topic.name).unwrap_or_default();
        }
        match self.allows(context, Operation::Describe, Resource::Topic(&topic.name)) {
            true => Ok(()),
            false => Err(ErrorCode::TopicAuthorizationFailed),
        }
    }
}

/// The one group of an older request, in the newer form.
fn single(request: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..OffsetFetchRequestTopics::default()
        });
        topics.collect()
    });
    OffsetFetchRequestGroup { group_id: request.group_id, topics, ..OffsetFetchRequestGroup::default() }
}

fn refused_topic(topic: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|index| OffsetFetchResponsePartitions {
        partition_index: *index,
        committed_offset: -1,
        error_code: error.code(),
        ..OffsetFetchResponsePartitions::default()
    });
    OffsetFetchResponseTopics {
        name: topic.name.detached(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
        ..OffsetFetchResponseTopics::default()
    }
}

fn failed(
    version: i16,
    group_id: Str,
    topics: Option<&[OffsetFetchRequestTopics]>,
    error: ErrorCode,
) -> OffsetFetchResponseGroup {
    // Without an error of their own, the oldest versions have it in each partition.
    let topics = match topics {
        Some(topics) if version < TOP_LEVEL_ERROR => topics.iter().map(|topic| refused_topic(topic, error)).collect(),
        _ => Vec::new(),
    };
    OffsetFetchResponseGroup { group_id, topics, error_code: error.code(), ..OffsetFetchResponseGroup::default() }
}

fn answer(version: i16, groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
    if version >= MANY_GROUPS {
        return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
    }
    let group = groups.into_iter().next().unwrap_or_default();
    let topics = group.topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: (topic.partitions.into_iter())
            .map(|partition| OffsetFetchResponsePartition {
                partition_index: partition.partition_index,
                committed_offset: partition.committed_offset,
                committed_leader_epoch: partition.committed_leader_epoch,
                metadata: partition.metadata,
                error_code: partition.error_code,
                ..OffsetFetchResponsePartition::default()
            })
            .collect(),
        ..OffsetFetchResponseTopic::default()
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: if version >= TOP_LEVEL_ERROR { group.error_code } else { 0 },
        ..OffsetFetchResponse::default()
    }
}
