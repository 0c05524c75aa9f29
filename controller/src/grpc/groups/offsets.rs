//! What a group has committed, changed on its behalf: reset to where it shall go on, or forgotten.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use odradek_common::{ErrorCode, PartitionIndex, TopicPartition};
use odradek_controller_core::ApiError;
use odradek_metadata::Image;
use odradek_proto::admin as proto;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use odradek_wire::{OffsetCommitRequest, OffsetDeleteRequest, Str};
use tonic::Status;

use super::relay::{EARLIEST, LATEST, Relay, UnknownOffset, partitions_of};
use super::reset::{self, Aim, Known};
use super::{ask_description, committed, first_code, group_error};
use crate::grpc::admin_service::status;

/// The versions that are spoken to brokers.
const OFFSET_COMMIT: i16 = 9;
const OFFSET_DELETE: i16 = 0;

/// One partition of a request, or why it is none.
type Chosen = BTreeMap<TopicPartition, Result<Aim, ApiError>>;

pub async fn reset_offsets(
    relay: &Relay<'_>,
    request: proto::ResetOffsetsRequest,
) -> Result<proto::ResetOffsetsResponse, Status> {
    let group = request.group.as_str();
    let described = ask_description(relay, group, false).await.map_err(|error| status(&error))?.response;
    let is_new = match described.code {
        ErrorCode::None if matches!(described.state.as_str(), "Empty" | "Dead") => false,
        ErrorCode::None => {
            return Err(status(&has_members(group, Some(described.state.as_str()))));
        }
        // It is made by the commit.
        ErrorCode::GroupIdNotFound => true,
        code => return Err(status(&group_error(group, code))),
    };
    let committed = committed(relay, group).await.map_err(|error| status(&error))?;
    let chosen = choose(&relay.image(), committed.keys(), &request.resets)?;
    let mut offsets = plan(relay, chosen, &committed).await;
    let is_whole = offsets.iter().all(|offset| offset.error.is_empty());
    if !request.validate_only && is_whole && !offsets.is_empty() {
        commit(relay, group, &mut offsets).await.map_err(|error| status(&error))?;
    }
    Ok(proto::ResetOffsetsResponse { offsets, is_new })
}

fn choose<'a>(
    image: &Image,
    committed: impl Iterator<Item = &'a TopicPartition> + Clone,
    resets: &[proto::OffsetReset],
) -> Result<Chosen, Status> {
    let mut chosen = Chosen::new();
    for reset in resets {
        let aim = Aim::new(reset.kind, reset.value)
            .ok_or_else(|| Status::invalid_argument(format!("{} is no kind of reset", reset.kind)))?;
        if reset.topic.is_empty() {
            chosen.extend(committed.clone().map(|partition| (partition.clone(), Ok(aim))));
            continue;
        }
        for partition in partitions(image, &reset.topic, &reset.partitions) {
            match partition {
                Ok(partition) => chosen.insert(partition, Ok(aim)),
                Err((partition, error)) => chosen.insert(partition, Err(error)),
            };
        }
    }
    Ok(chosen)
}

/// The partitions of a topic that are named, or all. A topic that is not there has the partition -1.
fn partitions(image: &Image, topic: &str, named: &[i32]) -> Vec<Result<TopicPartition, (TopicPartition, ApiError)>> {
    let at = |index| TopicPartition::new(topic, index);
    let unknown = |index, message| Err((at(index), ApiError::new(ErrorCode::UnknownTopicOrPartition, message)));
    let Some(all) = partitions_of(image, topic) else {
        return vec![unknown(-1, format!("there is no topic {topic}; `odradek topic list` shows all"))];
    };
    let all: Vec<PartitionIndex> = all.collect();
    if named.is_empty() {
        return all.into_iter().map(|index| Ok(at(index.0))).collect();
    }
    let named = named.iter().map(|index| match all.contains(&PartitionIndex(*index)) {
        true => Ok(at(*index)),
        false => unknown(*index, format!("topic {topic} has {} partitions, and no partition {index}", all.len())),
    });
    named.collect()
}

async fn plan(
    relay: &Relay<'_>,
    chosen: Chosen,
    committed: &BTreeMap<TopicPartition, (i64, String)>,
) -> Vec<proto::ResetOffset> {
    let wanted = |timestamp: &dyn Fn(Aim) -> Option<i64>| {
        let wanted = chosen.iter().filter_map(|(at, aim)| Some((at.clone(), timestamp(*aim.as_ref().ok()?)?)));
        relay.offsets(wanted.collect())
    };
    let (starts, ends, found) = futures::join!(
        wanted(&|_| Some(EARLIEST)),
        wanted(&|_| Some(LATEST)),
        wanted(&|aim| match aim {
            Aim::Timestamp(at) => Some(at),
            _ => None,
        })
    );
    let planned = chosen.iter().map(|(at, aim)| {
        let committed = committed.get(at).map(|(offset, _)| *offset);
        let row = proto::ResetOffset {
            topic: at.topic.clone(),
            partition: at.partition.0,
            old_offset: committed,
            new_offset: -1,
            ..proto::ResetOffset::default()
        };
        let planned = aim.clone().and_then(|aim| {
            let known = Known {
                committed,
                log_start: offset(&starts, at)?,
                log_end: offset(&ends, at)?,
                at_timestamp: match aim {
                    Aim::Timestamp(_) => Some(offset(&found, at)?).filter(|offset| *offset >= 0),
                    _ => None,
                },
            };
            reset::plan(aim, known).map_err(|error| ApiError::new(ErrorCode::InvalidRequest, format!("{at}: {error}")))
        });
        match planned {
            Ok(planned) => proto::ResetOffset { new_offset: planned.offset, asked_offset: planned.asked, ..row },
            Err(error) => proto::ResetOffset { error: error.code.name().to_owned(), message: error.message, ..row },
        }
    });
    planned.collect()
}

fn offset(
    offsets: &BTreeMap<TopicPartition, Result<i64, UnknownOffset>>,
    at: &TopicPartition,
) -> Result<i64, ApiError> {
    match offsets.get(at) {
        Some(Ok(offset)) => Ok(*offset),
        Some(Err(unknown)) => Err(ApiError::new(unknown.code, format!("{at}: {}", unknown.message))),
        None => Err(ApiError::new(ErrorCode::UnknownServerError, format!("{at}: its leader does not speak of it"))),
    }
}

async fn commit(relay: &Relay<'_>, group: &str, offsets: &mut [proto::ResetOffset]) -> Result<(), ApiError> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for offset in offsets.iter() {
        topics.entry(&offset.topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: offset.partition,
            committed_offset: offset.new_offset,
            committed_metadata: Some(Str::from_static("")),
            ..OffsetCommitRequestPartition::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| OffsetCommitRequestTopic {
        name: Str::from(name),
        partitions,
        ..OffsetCommitRequestTopic::default()
    });
    let request = OffsetCommitRequest {
        group_id: Str::from(group),
        generation_id_or_member_epoch: -1,
        topics: topics.collect(),
        ..OffsetCommitRequest::default()
    };
    let answer = relay.ask_coordinator(group, OFFSET_COMMIT, &request, |response| {
        first_code(response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code))
    });
    let response = answer.await?.response;
    let outcomes = response.topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(|one| (TopicPartition::new(&*topic.name, one.partition_index), ErrorCode::from_code(one.error_code)))
    });
    let outcomes: BTreeMap<TopicPartition, ErrorCode> = outcomes.collect();
    // A member has joined since the group was looked at: its commits alone count.
    if outcomes.values().any(|code| matches!(code, ErrorCode::UnknownMemberId | ErrorCode::RebalanceInProgress)) {
        return Err(has_members(group, None));
    }
    for offset in offsets {
        let at = TopicPartition::new(offset.topic.as_str(), offset.partition);
        let code = outcomes.get(&at).copied().unwrap_or(ErrorCode::UnknownServerError);
        if code.is_error() {
            offset.error = code.name().to_owned();
            offset.message = format!("{at}: the coordinator did not take the commit");
        }
    }
    Ok(())
}

pub async fn delete_offsets(
    relay: &Relay<'_>,
    request: proto::DeleteOffsetsRequest,
) -> Result<proto::DeleteOffsetsResponse, Status> {
    let group = request.group.as_str();
    let image = relay.image();
    let (mut topics, mut rows) = (BTreeMap::<String, Vec<OffsetDeleteRequestPartition>>::new(), BTreeMap::new());
    let row = |at: &TopicPartition, error: &str, message: String| proto::PartitionOutcome {
        topic: at.topic.clone(),
        partition: at.partition.0,
        error: error.to_owned(),
        message,
    };
    for topic in &request.topics {
        for partition in partitions(&image, &topic.topic, &topic.partitions) {
            match partition {
                Err((at, error)) => {
                    rows.insert(at.clone(), row(&at, error.code.name(), error.message));
                }
                Ok(at) if !rows.contains_key(&at) => {
                    rows.insert(at.clone(), row(&at, ErrorCode::UnknownServerError.name(), String::new()));
                    topics
                        .entry(at.topic)
                        .or_default()
                        .push(OffsetDeleteRequestPartition { partition_index: at.partition.0 });
                }
                Ok(_) => {}
            }
        }
    }
    // Asked even when nothing is left to ask for, as the group may not be there.
    let topics =
        topics.into_iter().map(|(name, partitions)| OffsetDeleteRequestTopic { name: Str::from(name), partitions });
    let request = OffsetDeleteRequest { group_id: Str::from(group), topics: topics.collect() };
    let answer =
        relay.ask_coordinator(group, OFFSET_DELETE, &request, |response| ErrorCode::from_code(response.error_code));
    let response = answer.await.map_err(|error| status(&error))?.response;
    let code = ErrorCode::from_code(response.error_code);
    if code.is_error() {
        return Err(status(&group_error(group, code)));
    }
    for topic in &response.topics {
        for one in &topic.partitions {
            let (at, code) =
                (TopicPartition::new(&*topic.name, one.partition_index), ErrorCode::from_code(one.error_code));
            let (error, message) = match code {
                ErrorCode::None => ("", String::new()),
                ErrorCode::GroupSubscribedToTopic => {
                    (code.name(), format!("members of group {group} read topic {}: stop them first", at.topic))
                }
                code => (code.name(), String::new()),
            };
            rows.insert(at.clone(), row(&at, error, message));
        }
    }
    Ok(proto::DeleteOffsetsResponse { partitions: rows.into_values().collect() })
}

fn has_members(group: &str, state: Option<&str>) -> ApiError {
    let state = state.map(|state| format!(" (state {state})")).unwrap_or_default();
    let message = format!(
        "group {group} has active members{state}, and its offsets can only be reset while it has none: stop its consumers, \
         or wait until their sessions are over, then try again"
    );
    ApiError::new(ErrorCode::NonEmptyGroup, message)
}
