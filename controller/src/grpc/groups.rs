//! Consumer groups for operators. Groups live in their coordinators, which are brokers, and a Kafka client reaches them
//! there; this is the other door to the same implementation: questions are passed on to the brokers over the Kafka
//! protocol, and answers are put together. Nothing is decided and nothing is remembered here.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod offsets;
mod relay;
mod reset;

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use odradek_common::{ErrorCode, TopicPartition};
use odradek_controller_core::ApiError;
use odradek_metadata::Image;
use odradek_proto::admin as proto;
use odradek_wire::consumer_group_describe_response::{self as consumer, Assignment};
use odradek_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use odradek_wire::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_wire::{
    ConsumerGroupDescribeRequest, ConsumerProtocolAssignment, DeleteGroupsRequest, DescribeGroupsRequest,
    ListGroupsRequest, OffsetFetchRequest, Str, decode_versioned_up_to, own,
};
use prost::Message as _;
use tonic::Status;

pub use self::offsets::{delete_offsets, reset_offsets};
pub use self::relay::Relay;
use self::relay::{Answer, Peer, Unanswered};
use super::admin_service::status;

/// The versions that are spoken to brokers.
const LIST_GROUPS: i16 = 5;
const DESCRIBE_GROUPS: i16 = 6;
const CONSUMER_GROUP_DESCRIBE: i16 = 1;
const DELETE_GROUPS: i16 = 2;
const OFFSET_FETCH: i16 = 9;

/// Whose assignments can be read.
const CONSUMERS: &str = "consumer";
/// Where groups are kept.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Every live broker is asked; if one does not answer, all are asked again while there is time, for its groups may be
/// with another by then.
pub async fn list_groups(
    relay: &Relay<'_>,
    request: proto::ListGroupsRequest,
) -> Result<proto::ListGroupsResponse, Status> {
    let texts = |texts: Vec<String>| texts.into_iter().map(Str::from).collect();
    let request = ListGroupsRequest {
        states_filter: texts(request.states),
        types_filter: texts(request.types),
        ..ListGroupsRequest::default()
    };
    loop {
        let peers = relay.brokers();
        let answers = join_all(peers.iter().map(|peer| relay.ask(peer, LIST_GROUPS, &request))).await;
        let (mut groups, mut failures) = (BTreeMap::new(), Vec::new());
        for (peer, answer) in peers.iter().zip(answers) {
            let answer = match answer {
                Ok(answer) => answer,
                Err(unanswered) => {
                    failures.push(failure(&unanswered));
                    continue;
                }
            };
            let code = ErrorCode::from_code(answer.error_code);
            if code.is_error() {
                let message = format!("broker {} at {} cannot list its groups: {code}", peer.id, peer.address());
                failures.push(proto::BrokerFailure { broker_id: peer.id.0, message });
            }
            groups.extend(answer.groups.into_iter().map(|group| {
                let listing = proto::GroupListing {
                    group: group.group_id.to_string(),
                    r#type: group.group_type.to_string(),
                    state: group.group_state.to_string(),
                    protocol_type: group.protocol_type.to_string(),
                    coordinator: peer.id.0,
                };
                (listing.group.clone(), listing)
            }));
        }
        failures.extend(without_coordinator(&relay.image()));
        if failures.is_empty() && !peers.is_empty() || !relay.has_time() {
            if peers.is_empty() {
                let message = "no broker serves; `odradek broker list` shows all";
                return Err(status(&ApiError::new(ErrorCode::CoordinatorNotAvailable, message)));
            }
            return Ok(proto::ListGroupsResponse { groups: groups.into_values().collect(), failures });
        }
        relay.pause().await;
    }
}

/// Groups that nobody could tell of.
fn without_coordinator(image: &Image) -> Option<proto::BrokerFailure> {
    let topic = image.topic_by_name(OFFSETS_TOPIC)?;
    let offline = topic.partitions().filter(|(_, partition)| !image.is_alive(partition.leader)).count();
    (offline > 0).then(|| proto::BrokerFailure {
        broker_id: -1,
        message: format!(
            "{offline} partitions of {OFFSETS_TOPIC} have no leader, and the groups in them no coordinator"
        ),
    })
}

fn failure(unanswered: &Unanswered) -> proto::BrokerFailure {
    proto::BrokerFailure { broker_id: unanswered.broker.0, message: unanswered.message.clone() }
}

// ---------------------------------------------------------------- describe

pub async fn describe_group(
    relay: &Relay<'_>,
    request: proto::DescribeGroupRequest,
) -> Result<proto::DescribeGroupResponse, Status> {
    let proto::DescribeGroupRequest { group, history: with_history } = request;
    let Answer { coordinator, response: described, .. } =
        ask_description(relay, &group, with_history).await.map_err(|error| status(&error))?;
    if described.code.is_error() {
        return Err(status(&group_error(&group, described.code)));
    }
    let committed = committed(relay, &group).await.map_err(|error| status(&error))?;
    let Described { state, protocol_type, protocol, members, history, .. } = described;
    let mut holders = BTreeMap::new();
    for member in &members {
        for topic in &member.assigned {
            let partitions = topic.partitions.iter().map(|index| TopicPartition::new(topic.topic.as_str(), *index));
            holders.extend(partitions.map(|partition| (partition, member.member_id.clone())));
        }
    }
    let all: BTreeSet<&TopicPartition> = committed.keys().chain(holders.keys()).collect();
    let asked = |at: &TopicPartition| (at.clone(), committed.get(at).map(|(offset, _)| *offset));
    let ends = relay.ends(all.iter().map(|at| asked(at)).collect()).await;
    let now_ms = relay.now_ms();
    let unanswered: BTreeMap<i32, proto::BrokerFailure> = ends
        .values()
        .filter_map(|end| end.as_ref().err()?.unanswered.as_ref())
        .map(|unanswered| (unanswered.broker.0, failure(unanswered)))
        .collect();
    let offsets = all.into_iter().map(|at| {
        let (offset, metadata) = committed.get(at).cloned().unzip();
        let end = ends.get(at);
        let found = end.and_then(|end| end.as_ref().ok());
        let log_end = found.map(|found| found.offset);
        let oldest = found.and_then(|found| found.oldest_unread);
        proto::GroupOffset {
            topic: at.topic.clone(),
            partition: at.partition.0,
            committed: offset,
            metadata: metadata.unwrap_or_default(),
            log_end,
            lag: log_end.zip(offset).map(|(end, committed)| end.saturating_sub(committed)),
            lag_ms: offset.and(oldest).and_then(|oldest| own::age_ms(oldest, now_ms)),
            member_id: holders.get(at).cloned().unwrap_or_default(),
            error: end
                .and_then(|end| end.as_ref().err())
                .map(|unknown| unknown.code.name().to_owned())
                .unwrap_or_default(),
        }
    });
    let offsets = offsets.collect();
    Ok(proto::DescribeGroupResponse {
        group,
        state,
        protocol_type,
        protocol,
        coordinator: coordinator.id.0,
        coordinator_address: coordinator.address(),
        members,
        offsets,
        failures: unanswered.into_values().collect(),
        history,
    })
}

/// What a coordinator says of a group, of whichever kind.
struct Described {
    code: ErrorCode,
    state: String,
    protocol_type: String,
    protocol: String,
    members: Vec<proto::GroupMember>,
    history: Option<proto::GroupHistory>,
}

/// Whatever the coordinator says of the group, GROUP_ID_NOT_FOUND included.
async fn ask_description(relay: &Relay<'_>, group: &str, with_history: bool) -> Result<Answer<Described>, ApiError> {
    let Answer { coordinator, response, in_doubt } = ask_classic_description(relay, group, with_history).await?;
    let history = own::field(&response.unknown_tagged_fields, own::HISTORY);
    let history = history.and_then(|history| proto::GroupHistory::decode(history.clone()).ok());
    let response = match ErrorCode::from_code(response.error_code) {
        ErrorCode::GroupIdNotFound => Described { history, ..ask_consumer_description(relay, group).await? },
        code => Described {
            code,
            state: response.group_state.to_string(),
            protocol_type: response.protocol_type.to_string(),
            protocol: response.protocol_data.to_string(),
            members: response.members.iter().map(|one| member(&response, one)).collect(),
            history,
        },
    };
    Ok(Answer { coordinator, response, in_doubt })
}

/// What is no classic group may be one of the newer consumer protocol (KIP-848).
async fn ask_consumer_description(relay: &Relay<'_>, group: &str) -> Result<Described, ApiError> {
    let request = ConsumerGroupDescribeRequest { group_ids: vec![Str::from(group)], ..Default::default() };
    let answer = relay.ask_coordinator(group, CONSUMER_GROUP_DESCRIBE, &request, |response| {
        first_code(response.groups.iter().map(|group| group.error_code))
    });
    let Answer { coordinator, response, .. } = answer.await?;
    let Some(described) = response.groups.into_iter().next() else {
        return Err(unanswered_group(&coordinator, group));
    };
    let code = match ErrorCode::from_code(described.error_code) {
        // Where there are no such groups.
        ErrorCode::UnsupportedVersion => ErrorCode::GroupIdNotFound,
        code => code,
    };
    Ok(Described {
        code,
        state: described.group_state.to_string(),
        protocol_type: CONSUMERS.to_owned(),
        protocol: described.assignor_name.to_string(),
        members: described.members.iter().map(consumer_member).collect(),
        history: None,
    })
}

fn consumer_member(member: &consumer::Member) -> proto::GroupMember {
    let Assignment { topic_partitions, .. } = &member.assignment;
    let topics = topic_partitions.iter().map(|topic| (topic.topic_name.to_string(), topic.partitions.clone()));
    proto::GroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.instance_id.as_ref().map(String::from),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assigned: in_order(topics),
    }
}

/// By topic and partition.
fn in_order(topics: impl Iterator<Item = (String, Vec<i32>)>) -> Vec<proto::TopicPartitions> {
    let mut assigned: Vec<proto::TopicPartitions> = topics
        .map(|(topic, mut partitions)| {
            partitions.sort_unstable();
            proto::TopicPartitions { topic, partitions }
        })
        .collect();
    assigned.sort_by(|a, b| a.topic.cmp(&b.topic));
    assigned
}

async fn ask_classic_description(
    relay: &Relay<'_>,
    group: &str,
    with_history: bool,
) -> Result<Answer<DescribedGroup>, ApiError> {
    let history = with_history.then(|| own::numbers_field(own::HISTORY, []));
    let request = DescribeGroupsRequest {
        groups: vec![Str::from(group)],
        unknown_tagged_fields: history.into_iter().collect(),
        ..DescribeGroupsRequest::default()
    };
    let answer = relay.ask_coordinator(group, DESCRIBE_GROUPS, &request, |response| {
        first_code(response.groups.iter().map(|group| group.error_code))
    });
    let Answer { coordinator, response, in_doubt } = answer.await?;
    match response.groups.into_iter().next() {
        Some(response) => Ok(Answer { coordinator, response, in_doubt }),
        None => Err(unanswered_group(&coordinator, group)),
    }
}

fn member(group: &DescribedGroup, member: &DescribedGroupMember) -> proto::GroupMember {
    // What members of other kinds of groups have is their own affair.
    let assigned = match group.protocol_type == CONSUMERS && !member.member_assignment.is_empty() {
        true => decode_versioned_up_to::<ConsumerProtocolAssignment>(member.member_assignment.clone()),
        false => Ok(Default::default()),
    };
    let assigned = assigned.map(|(_, assignment)| assignment.assigned_partitions).unwrap_or_default();
    let topics = assigned.into_iter().map(|topic| (topic.topic.to_string(), topic.partitions));
    proto::GroupMember {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.as_ref().map(String::from),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assigned: in_order(topics),
    }
}

/// What a group has committed, with its metadata. Nothing for a group that is not there.
async fn committed(relay: &Relay<'_>, group: &str) -> Result<BTreeMap<TopicPartition, (i64, String)>, ApiError> {
    let asked = OffsetFetchRequestGroup { group_id: Str::from(group), topics: None, ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![asked], ..OffsetFetchRequest::default() };
    let answer = relay.ask_coordinator(group, OFFSET_FETCH, &request, |response| {
        first_code(response.groups.iter().map(|group| group.error_code))
    });
    let Answer { coordinator, response, .. } = answer.await?;
    let Some(fetched) = response.groups.into_iter().next() else {
        return Err(unanswered_group(&coordinator, group));
    };
    let code = ErrorCode::from_code(fetched.error_code);
    if code.is_error() && code != ErrorCode::GroupIdNotFound {
        return Err(group_error(group, code));
    }
    let offsets = fetched.topics.iter().flat_map(|topic| {
        let known = topic.partitions.iter().filter(|one| one.error_code == 0 && one.committed_offset >= 0);
        known.map(|one| {
            let metadata = one.metadata.as_ref().map(String::from).unwrap_or_default();
            (TopicPartition::new(&*topic.name, one.partition_index), (one.committed_offset, metadata))
        })
    });
    Ok(offsets.collect())
}

// ---------------------------------------------------------------- delete

pub async fn delete_groups(
    relay: &Relay<'_>,
    request: proto::DeleteGroupsRequest,
) -> Result<proto::DeleteGroupsResponse, Status> {
    let names: BTreeSet<String> = request.groups.into_iter().collect();
    let groups = join_all(names.into_iter().map(|group| async move {
        let (error, message) = match delete_group(relay, &group).await {
            Ok(()) => (String::new(), String::new()),
            Err(error) => (error.code.name().to_owned(), error.message),
        };
        proto::GroupOutcome { group, error, message }
    }));
    Ok(proto::DeleteGroupsResponse { groups: groups.await })
}

async fn delete_group(relay: &Relay<'_>, group: &str) -> Result<(), ApiError> {
    let request = DeleteGroupsRequest { groups_names: vec![Str::from(group)], ..DeleteGroupsRequest::default() };
    let answer = relay.ask_coordinator(group, DELETE_GROUPS, &request, |response| {
        first_code(response.results.iter().map(|result| result.error_code))
    });
    let Answer { response, in_doubt, .. } = answer.await?;
    match first_code(response.results.iter().map(|result| result.error_code)) {
        ErrorCode::None => Ok(()),
        // An attempt whose answer was lost may have deleted it.
        ErrorCode::GroupIdNotFound if in_doubt => Ok(()),
        code => Err(group_error(group, code)),
    }
}

// ---------------------------------------------------------------- errors

/// The first error, so that one that passes is seen wherever it stands.
fn first_code(mut codes: impl Iterator<Item = i16>) -> ErrorCode {
    ErrorCode::from_code(codes.find(|code| *code != 0).unwrap_or_default())
}

fn unanswered_group(coordinator: &Peer, group: &str) -> ApiError {
    let message = format!("broker {} at {} did not speak of group {group}", coordinator.id, coordinator.address());
    ApiError::new(ErrorCode::UnknownServerError, message)
}

/// What a coordinator's refusal means for an operator.
fn group_error(group: &str, code: ErrorCode) -> ApiError {
    let message = match code {
        ErrorCode::GroupIdNotFound => format!("there is no group {group}; `odradek group list` shows all"),
        ErrorCode::NonEmptyGroup => format!(
            "group {group} has active members: stop its consumers, or wait until their sessions are over, then try again"
        ),
        ErrorCode::InvalidGroupId => format!("`{group}` is no name of a group"),
        ErrorCode::GroupAuthorizationFailed => format!("the controllers may not work on group {group}"),
        code => format!("the coordinator of group {group} says {code}"),
    };
    ApiError::new(code, message)
}
