//! The records of `__consumer_offsets` that consumer groups are made of, in Kafka's format.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::TopicId;
use odradek_wire as wire;
use odradek_wire::consumer_group_current_member_assignment_value::TopicPartitions;
use odradek_wire::consumer_group_member_metadata_value::{ClassicMemberMetadata, ClassicProtocol};
use odradek_wire::consumer_group_target_assignment_member_value::TopicPartition;
use odradek_wire::{DecodeError, Decoder, EncodeError, Message, Str, TypedRecord, decode_versioned, encode_versioned};

use super::member::{Assigned, ClassicInfo, CurrentAssignment, MemberInfo, MemberState, Partitions};
use crate::coordinator::EncodedRecord;

/// A record of one group. Without a value it takes back what was said under its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConsumerRecord {
    Group(Option<GroupEpoch>),
    /// What coordinators before Kafka 4.1 kept of the topics: only taken back here.
    PartitionMetadata {
        is_gone: bool,
    },
    Member(Arc<str>, Option<MemberInfo>),
    Target(Option<TargetEpoch>),
    TargetMember(Arc<str>, Option<Partitions>),
    Current(Arc<str>, Option<CurrentAssignment>),
    Regex(Arc<str>, Option<ResolvedRegex>),
}

impl ConsumerRecord {
    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Group(value) => value.is_none(),
            Self::PartitionMetadata { is_gone } => *is_gone,
            Self::Member(_, value) => value.is_none(),
            Self::Target(value) => value.is_none(),
            Self::TargetMember(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Regex(_, value) => value.is_none(),
        }
    }
}

/// The group's epoch, and a hash of the topics as they were then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupEpoch {
    pub epoch: i32,
    pub metadata_hash: i64,
}

/// The epoch that the target assignment was made for, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TargetEpoch {
    pub epoch: i32,
    /// 0: unknown.
    pub timestamp: i64,
}

/// The topics that a regular expression stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvedRegex {
    pub topics: BTreeSet<Arc<str>>,
    /// The metadata offset at which it was resolved.
    pub version: i64,
    pub timestamp: i64,
}

/// All values are of the one version that there is.
const VERSION: i16 = 0;

fn text(string: &Str) -> Arc<str> {
    string.as_str().into()
}

fn key<K: Message + TypedRecord>(key: &K) -> Result<Bytes, EncodeError> {
    odradek_wire::encode_with_prefix(key, K::RECORD_TYPE, VERSION)
}

fn value<T, M: Message>(value: Option<&T>, message: impl Fn(&T) -> M) -> Result<Option<Bytes>, EncodeError> {
    value.map(|value| encode_versioned(&message(value), VERSION)).transpose()
}

pub fn encode(group: &str, record: &ConsumerRecord) -> Result<EncodedRecord, EncodeError> {
    let group_id = Str::from(group);
    let member_id = |id: &Arc<str>| Str::from(&**id);
    Ok(match record {
        ConsumerRecord::Group(epoch) => {
            let message = |epoch: &GroupEpoch| wire::ConsumerGroupMetadataValue {
                epoch: epoch.epoch,
                metadata_hash: epoch.metadata_hash,
                ..Default::default()
            };
            (key(&wire::ConsumerGroupMetadataKey { group_id })?, value(epoch.as_ref(), message)?)
        }
        ConsumerRecord::PartitionMetadata { .. } => (key(&wire::ConsumerGroupPartitionMetadataKey { group_id })?, None),
        ConsumerRecord::Member(id, info) => {
            let key = key(&wire::ConsumerGroupMemberMetadataKey { group_id, member_id: member_id(id) })?;
            (key, value(info.as_ref(), member_message)?)
        }
        ConsumerRecord::Target(epoch) => {
            let message = |epoch: &TargetEpoch| wire::ConsumerGroupTargetAssignmentMetadataValue {
                assignment_epoch: epoch.epoch,
                assignment_timestamp: epoch.timestamp,
                ..Default::default()
            };
            (key(&wire::ConsumerGroupTargetAssignmentMetadataKey { group_id })?, value(epoch.as_ref(), message)?)
        }
        ConsumerRecord::TargetMember(id, partitions) => {
            let key = key(&wire::ConsumerGroupTargetAssignmentMemberKey { group_id, member_id: member_id(id) })?;
            (key, value(partitions.as_ref(), target_message)?)
        }
        ConsumerRecord::Current(id, current) => {
            let key = key(&wire::ConsumerGroupCurrentMemberAssignmentKey { group_id, member_id: member_id(id) })?;
            (key, value(current.as_ref(), current_message)?)
        }
        ConsumerRecord::Regex(regex, resolved) => {
            let regular_expression = Str::from(&**regex);
            let message = |resolved: &ResolvedRegex| wire::ConsumerGroupRegularExpressionValue {
                topics: resolved.topics.iter().map(|topic| Str::from(&**topic)).collect(),
                version: resolved.version,
                timestamp: resolved.timestamp,
                ..Default::default()
            };
            let key = key(&wire::ConsumerGroupRegularExpressionKey { group_id, regular_expression })?;
            (key, value(resolved.as_ref(), message)?)
        }
    })
}

fn member_message(info: &MemberInfo) -> wire::ConsumerGroupMemberMetadataValue {
    let optional = |text: &Option<Arc<str>>| text.as_deref().map(Str::from);
    let classic = info.classic.as_ref().map(|classic| ClassicMemberMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        supported_protocols: (classic.protocols.iter())
            .map(|(name, metadata)| ClassicProtocol {
                name: Str::from(&**name),
                metadata: metadata.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    wire::ConsumerGroupMemberMetadataValue {
        instance_id: optional(&info.instance_id),
        rack_id: optional(&info.rack_id),
        client_id: Str::from(&info.client_id),
        client_host: Str::from(&info.client_host),
        subscribed_topic_names: info.topics.iter().map(|topic| Str::from(&**topic)).collect(),
        subscribed_topic_regex: Some(Str::from(&*info.regex)),
        rebalance_timeout_ms: info.rebalance_timeout_ms,
        server_assignor: optional(&info.assignor),
        classic_member_metadata: classic,
        ..Default::default()
    }
}

fn target_message(partitions: &Partitions) -> wire::ConsumerGroupTargetAssignmentMemberValue {
    let topics = partitions.iter().map(|(topic_id, partitions)| TopicPartition {
        topic_id: *topic_id,
        partitions: partitions.iter().copied().collect(),
        ..Default::default()
    });
    wire::ConsumerGroupTargetAssignmentMemberValue { topic_partitions: topics.collect(), ..Default::default() }
}

fn current_message(current: &CurrentAssignment) -> wire::ConsumerGroupCurrentMemberAssignmentValue {
    let topics = |assigned: &Assigned| -> Vec<TopicPartitions> {
        let topics = assigned.iter().map(|(topic_id, partitions)| TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.keys().copied().collect(),
            assignment_epochs: Some(partitions.values().copied().collect()),
            ..Default::default()
        });
        topics.collect()
    };
    wire::ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: current.epoch,
        previous_member_epoch: current.previous_epoch,
        state: current.state.number(),
        assigned_partitions: topics(&current.assigned),
        partitions_pending_revocation: topics(&current.revoking),
        ..Default::default()
    }
}

/// Whether records of this type are of consumer groups.
pub fn is_known(kind: i16) -> bool {
    matches!(kind, 3..=8 | 16)
}

/// Reads a record whose key is of a type that [`is_known`], with the group that it is of.
pub fn decode(kind: i16, key: &mut Decoder, value: Option<Bytes>) -> Result<(Arc<str>, ConsumerRecord), DecodeError> {
    fn read<M: Message>(value: Option<Bytes>) -> Result<Option<M>, DecodeError> {
        value.map(|value| Ok(decode_versioned::<M>(value)?.1)).transpose()
    }
    Ok(match kind {
        wire::ConsumerGroupMetadataKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupMetadataKey::decode(key, VERSION)?;
            let epoch = read::<wire::ConsumerGroupMetadataValue>(value)?
                .map(|value| GroupEpoch { epoch: value.epoch, metadata_hash: value.metadata_hash });
            (text(&key.group_id), ConsumerRecord::Group(epoch))
        }
        wire::ConsumerGroupPartitionMetadataKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupPartitionMetadataKey::decode(key, VERSION)?;
            (text(&key.group_id), ConsumerRecord::PartitionMetadata { is_gone: value.is_none() })
        }
        wire::ConsumerGroupMemberMetadataKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupMemberMetadataKey::decode(key, VERSION)?;
            let info = read(value)?.map(|value| member_info(&value));
            (text(&key.group_id), ConsumerRecord::Member(text(&key.member_id), info))
        }
        wire::ConsumerGroupTargetAssignmentMetadataKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupTargetAssignmentMetadataKey::decode(key, VERSION)?;
            let epoch = read::<wire::ConsumerGroupTargetAssignmentMetadataValue>(value)?
                .map(|value| TargetEpoch { epoch: value.assignment_epoch, timestamp: value.assignment_timestamp });
            (text(&key.group_id), ConsumerRecord::Target(epoch))
        }
        wire::ConsumerGroupTargetAssignmentMemberKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupTargetAssignmentMemberKey::decode(key, VERSION)?;
            let value = read::<wire::ConsumerGroupTargetAssignmentMemberValue>(value)?;
            let partitions = value.map(|value| {
                let topics = value.topic_partitions.iter().filter(|topic| !topic.partitions.is_empty());
                topics.map(|topic| (topic.topic_id, topic.partitions.iter().copied().collect())).collect()
            });
            (text(&key.group_id), ConsumerRecord::TargetMember(text(&key.member_id), partitions))
        }
        wire::ConsumerGroupCurrentMemberAssignmentKey::RECORD_TYPE => {
            let key = wire::ConsumerGroupCurrentMemberAssignmentKey::decode(key, VERSION)?;
            let current = read(value)?.map(|value| current_assignment(&value));
            (text(&key.group_id), ConsumerRecord::Current(text(&key.member_id), current))
        }
        _ => {
            let key = wire::ConsumerGroupRegularExpressionKey::decode(key, VERSION)?;
            let resolved = read::<wire::ConsumerGroupRegularExpressionValue>(value)?.map(|value| ResolvedRegex {
                topics: value.topics.iter().map(text).collect(),
                version: value.version,
                timestamp: value.timestamp,
            });
            (text(&key.group_id), ConsumerRecord::Regex(text(&key.regular_expression), resolved))
        }
    })
}

fn member_info(value: &wire::ConsumerGroupMemberMetadataValue) -> MemberInfo {
    let classic = value.classic_member_metadata.as_ref().map(|classic| ClassicInfo {
        session_timeout_ms: classic.session_timeout_ms,
        protocols: (classic.supported_protocols.iter())
            .map(|protocol| (text(&protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
    });
    MemberInfo {
        instance_id: value.instance_id.as_ref().map(text),
        rack_id: value.rack_id.as_ref().map(text),
        client_id: String::from(&value.client_id),
        client_host: String::from(&value.client_host),
        topics: value.subscribed_topic_names.iter().map(text).collect(),
        regex: value.subscribed_topic_regex.as_ref().map_or_else(|| "".into(), text),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        assignor: value.server_assignor.as_ref().map(text),
        classic,
    }
}

fn current_assignment(value: &wire::ConsumerGroupCurrentMemberAssignmentValue) -> CurrentAssignment {
    // What was written before assignments had epochs counts as assigned in the member's own.
    let epochs = |topics: &[TopicPartitions]| -> Assigned {
        let with_epochs = |topic: &TopicPartitions| -> (TopicId, _) {
            let epochs = topic.assignment_epochs.as_deref().unwrap_or_default();
            let epochs = epochs.iter().copied().chain(std::iter::repeat(value.member_epoch));
            (topic.topic_id, topic.partitions.iter().copied().zip(epochs).collect())
        };
        topics.iter().filter(|topic| !topic.partitions.is_empty()).map(with_epochs).collect()
    };
    CurrentAssignment {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::from_number(value.state),
        assigned: epochs(&value.assigned_partitions),
        revoking: epochs(&value.partitions_pending_revocation),
    }
}
