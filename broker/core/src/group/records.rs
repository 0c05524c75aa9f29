//! The records of `__consumer_offsets` that groups and offsets are made of, in Kafka's format.
//!
//! Those of consumer groups have a module of their own. Other kinds (of newer groups) are named and left out; a kind that is
//! not known at all is, too. Strings are copied out of
//! the batch they came in, as state outlives it.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::Uuid;
use odradek_wire as wire;
use odradek_wire::{DecodeError, Decoder, EncodeError, Message, Str, TypedRecord, decode_versioned, encode_versioned};

use super::consumer::records::{self as consumer, ConsumerRecord};
use crate::coordinator::EncodedRecord;

/// One committed position.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OffsetKey {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
}

/// What was committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedOffset {
    pub offset: i64,
    /// -1: unknown.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    pub commit_timestamp: i64,
    /// With old clients' own retention; -1: the broker's counts.
    pub expire_timestamp: i64,
    /// Zero: unknown.
    pub topic_id: Uuid,
}

/// What is kept of a classic group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupMetadata {
    /// Empty: a group that only commits offsets.
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// -1: unknown.
    pub state_timestamp: i64,
    pub members: Vec<MemberRecord>,
}

/// What is kept of a member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberRecord {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    /// -1: as the session's.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A record. Without a value it takes back what was said under its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupRecord {
    Offset(OffsetKey, Option<CommittedOffset>),
    Group(Arc<str>, Option<GroupMetadata>),
    Consumer(Arc<str>, ConsumerRecord),
}

/// The versions that Kafka 4.3 writes. A client's own expiry is only in the oldest.
const OFFSET_VALUE: i16 = 4;
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE: i16 = 3;

fn text(string: &Str) -> Arc<str> {
    string.as_str().into()
}

pub fn encode(record: &GroupRecord) -> Result<EncodedRecord, EncodeError> {
    match record {
        GroupRecord::Offset(key, value) => {
            let encoded = wire::OffsetCommitKey {
                group: Str::from(&*key.group),
                topic: Str::from(&*key.topic),
                partition: key.partition,
            };
            let encoded = odradek_wire::encode_with_prefix(&encoded, wire::OffsetCommitKey::RECORD_TYPE, 0)?;
            Ok((encoded, value.as_ref().map(encode_offset).transpose()?))
        }
        GroupRecord::Group(group, value) => {
            let key = wire::GroupMetadataKey { group: Str::from(&**group) };
            let key = odradek_wire::encode_with_prefix(&key, wire::GroupMetadataKey::RECORD_TYPE, 0)?;
            Ok((key, value.as_ref().map(encode_group).transpose()?))
        }
        GroupRecord::Consumer(group, record) => consumer::encode(group, record),
    }
}

fn encode_offset(offset: &CommittedOffset) -> Result<Bytes, EncodeError> {
    let version = if offset.expire_timestamp >= 0 { OFFSET_VALUE_WITH_EXPIRY } else { OFFSET_VALUE };
    let value = wire::OffsetCommitValue {
        offset: offset.offset,
        leader_epoch: offset.leader_epoch,
        metadata: Str::from(&*offset.metadata),
        commit_timestamp: offset.commit_timestamp,
        expire_timestamp: offset.expire_timestamp,
        topic_id: offset.topic_id,
        ..Default::default()
    };
    encode_versioned(&value, version)
}

fn encode_group(group: &GroupMetadata) -> Result<Bytes, EncodeError> {
    let members = group.members.iter().map(|member| wire::group_metadata_value::MemberMetadata {
        member_id: Str::from(&member.id),
        group_instance_id: member.instance_id.as_ref().map(Str::from),
        client_id: Str::from(&member.client_id),
        client_host: Str::from(&member.client_host),
        rebalance_timeout: member.rebalance_timeout_ms,
        session_timeout: member.session_timeout_ms,
        subscription: member.subscription.clone(),
        assignment: member.assignment.clone(),
        ..Default::default()
    });
    let value = wire::GroupMetadataValue {
        protocol_type: Str::from(&group.protocol_type),
        generation: group.generation,
        protocol: group.protocol.as_ref().map(Str::from),
        leader: group.leader.as_ref().map(Str::from),
        current_state_timestamp: group.state_timestamp,
        members: members.collect(),
        ..Default::default()
    };
    encode_versioned(&value, GROUP_VALUE)
}

/// An error says why the record is left out.
pub fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<GroupRecord, String> {
    let key = key.ok_or("records without a key")?;
    let mut input = Decoder::new(key);
    let kind = input.i16().map_err(|_| "records whose key is too short")?;
    let damaged = |error: DecodeError| format!("damaged records of type {kind}: {error}");
    match kind {
        // Type 0 is what brokers before 0.8.2 wrote; it has the same fields.
        wire::LegacyOffsetCommitKey::RECORD_TYPE | wire::OffsetCommitKey::RECORD_TYPE => {
            let key = wire::OffsetCommitKey::decode(&mut input, 0).map_err(damaged)?;
            let key = OffsetKey { group: text(&key.group), topic: text(&key.topic), partition: key.partition };
            Ok(GroupRecord::Offset(key, value.map(decode_offset).transpose().map_err(damaged)?))
        }
        wire::GroupMetadataKey::RECORD_TYPE => {
            let key = wire::GroupMetadataKey::decode(&mut input, 0).map_err(damaged)?;
            Ok(GroupRecord::Group(text(&key.group), value.map(decode_group).transpose().map_err(damaged)?))
        }
        kind if consumer::is_known(kind) => {
            let (group, record) = consumer::decode(kind, &mut input, value).map_err(damaged)?;
            Ok(GroupRecord::Consumer(group, record))
        }
        10..=15 => Err(format!("records of share groups (type {kind})")),
        17..=23 => Err(format!("records of streams groups (type {kind})")),
        _ => Err(format!("records of the unknown type {kind}")),
    }
}

fn decode_offset(value: Bytes) -> Result<CommittedOffset, DecodeError> {
    let (_, value) = decode_versioned::<wire::OffsetCommitValue>(value)?;
    Ok(CommittedOffset {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: text(&value.metadata),
        commit_timestamp: value.commit_timestamp,
        expire_timestamp: value.expire_timestamp,
        topic_id: value.topic_id,
    })
}

fn decode_group(value: Bytes) -> Result<GroupMetadata, DecodeError> {
    let (_, value) = decode_versioned::<wire::GroupMetadataValue>(value)?;
    let members = value.members.iter().map(|member| MemberRecord {
        id: String::from(&member.member_id),
        instance_id: member.group_instance_id.as_ref().map(String::from),
        client_id: String::from(&member.client_id),
        client_host: String::from(&member.client_host),
        rebalance_timeout_ms: member.rebalance_timeout,
        session_timeout_ms: member.session_timeout,
        subscription: Bytes::copy_from_slice(&member.subscription),
        assignment: Bytes::copy_from_slice(&member.assignment),
    });
    Ok(GroupMetadata {
        protocol_type: String::from(&value.protocol_type),
        generation: value.generation,
        protocol: value.protocol.as_ref().map(String::from),
        leader: value.leader.as_ref().map(String::from),
        state_timestamp: value.current_state_timestamp,
        members: members.collect(),
    })
}

/// Adds the topics of a consumer's subscription. All its versions begin as version 0 does.
pub fn subscribed_topics(metadata: Bytes, topics: &mut BTreeSet<String>) -> Result<(), DecodeError> {
    let mut input = Decoder::new(metadata);
    input.i16()?;
    let subscription = odradek_wire::ConsumerProtocolSubscription::decode(&mut input, 0)?;
    topics.extend(subscription.topics.iter().map(String::from));
    Ok(())
}
