//! A member of a classic group: what it says to its coordinator, one request each.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use odradek_wire::sync_group_request::SyncGroupRequestAssignment;
use odradek_wire::{
    ConsumerGroupHeartbeatRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, Request, Str, SyncGroupRequest,
};

use super::{Client, Failure};

/// Which coordinator: FindCoordinator's key types.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Group = 0,
    Transaction = 1,
}

/// Who a member is to its group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    pub group: String,
    pub member_id: String,
    /// Or the member's epoch, in a consumer group.
    pub generation: i32,
    /// It speaks the newer protocol (KIP-848).
    pub is_consumer: bool,
}

/// What a member of a consumer group hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beat {
    pub epoch: i32,
    /// The partitions that it is to have; absent: the same as before.
    pub assigned: Option<Vec<i32>>,
}

/// What a group has committed of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommittedOffset {
    /// -1: nothing.
    pub offset: i64,
    /// Of what is before it; -1: not known.
    pub leader_epoch: i32,
}

/// Of a member that leaves.
const LEAVES: i32 = -1;

const SESSION_TIMEOUT_MS: i32 = 6_000;
const REBALANCE_TIMEOUT_MS: i32 = 10_000;

/// Kafka's ConsumerProtocolSubscription of version 0, of one topic.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(topic.len() as i16);
    bytes.put_slice(topic.as_bytes());
    bytes.put_i32(-1);
    bytes.freeze()
}

/// Kafka's ConsumerProtocolAssignment of version 0, of partitions of one topic.
fn assignment(topic: &str, partitions: &[i32]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(topic.len() as i16);
    bytes.put_slice(topic.as_bytes());
    bytes.put_i32(partitions.len() as i32);
    partitions.iter().for_each(|partition| bytes.put_i32(*partition));
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The partitions of such an assignment; none when it is empty.
fn assigned(mut bytes: Bytes, topic: &str) -> Vec<i32> {
    let head = 2 + 4 + 2 + topic.len();
    if bytes.len() < head + 4 {
        return Vec::new();
    }
    bytes.advance(head);
    let count = bytes.get_i32().max(0) as usize;
    (0..count.min(bytes.len() / 4)).map(|_| bytes.get_i32()).collect()
}

impl Client {
    /// One request to the coordinator of `key`, which is looked for first if it is not known. A failure forgets it.
    pub(super) async fn ask_coordinator<R: Request>(
        &mut self,
        kind: Kind,
        key: &str,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Failure> {
        let at = (kind, key.to_owned());
        let broker = match self.coordinators.remove(&at) {
            Some(broker) => broker,
            None => {
                let (broker, address) = self.find_coordinator(kind, key).await?;
                self.brokers.insert(broker, address);
                broker
            }
        };
        let answer = self.ask(broker, version, request).await?;
        self.coordinators.insert(at, broker);
        Ok(answer)
    }

    /// Who it is and where, as the next of the brokers knows.
    async fn find_coordinator(&mut self, kind: Kind, key: &str) -> Result<(i32, (String, u16)), Failure> {
        let request = FindCoordinatorRequest {
            key_type: kind as i8,
            coordinator_keys: vec![Str::from(key)],
            ..Default::default()
        };
        let answer = self.ask_any(4, &request).await?;
        let found = answer.coordinators.first().ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(found.error_code)?;
        Ok((found.node_id, (found.host.to_string(), found.port as u16)))
    }

    /// Whether some broker names another coordinator of the group than the one that was asked last: that one may not have heard
    /// yet that it is none any more, and answers by what it knew.
    pub async fn asked_a_former_coordinator(&mut self, group: &str) -> bool {
        let Some(asked) = self.coordinators.get(&(Kind::Group, group.to_owned())).copied() else { return false };
        let at = self.brokers.get(&asked).cloned();
        for _ in 0..self.bootstrap.len() {
            if let Ok((broker, address)) = self.find_coordinator(Kind::Group, group).await
                && (broker != asked || at.as_ref() != Some(&address))
            {
                return true;
            }
        }
        false
    }

    /// Looks for the coordinator again before the next request to it.
    pub fn forget_coordinators(&mut self) {
        self.coordinators.clear();
    }

    /// Joins or joins again. A longer patience than others': the coordinator waits for the other members.
    pub async fn join(&mut self, member: &Membership, topic: &str) -> Result<JoinGroupResponse, Failure> {
        let protocol =
            JoinGroupRequestProtocol { name: "range".into(), metadata: subscription(topic), ..Default::default() };
        let request = JoinGroupRequest {
            group_id: Str::from(&member.group),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: Str::from(&member.member_id),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        self.patience = std::time::Duration::from_millis(2 * REBALANCE_TIMEOUT_MS as u64);
        let answer = self.ask_coordinator(Kind::Group, &member.group, 9, &request).await;
        self.patience = super::PATIENCE;
        answer
    }

    /// Hands in the leader's assignments (nobody else's) and answers the partitions of this member.
    pub async fn sync(
        &mut self,
        member: &Membership,
        topic: &str,
        assignments: &BTreeMap<String, Vec<i32>>,
    ) -> Result<Vec<i32>, Failure> {
        let assignments = assignments.iter().map(|(member, partitions)| SyncGroupRequestAssignment {
            member_id: Str::from(member),
            assignment: assignment(topic, partitions),
            ..Default::default()
        });
        let request = SyncGroupRequest {
            group_id: Str::from(&member.group),
            generation_id: member.generation,
            member_id: Str::from(&member.member_id),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect(),
            ..Default::default()
        };
        self.patience = std::time::Duration::from_millis(2 * REBALANCE_TIMEOUT_MS as u64);
        let answer = self.ask_coordinator(Kind::Group, &member.group, 5, &request).await;
        self.patience = super::PATIENCE;
        let answer = answer?;
        Failure::check(answer.error_code)?;
        Ok(assigned(answer.assignment, topic))
    }

    pub async fn heartbeat(&mut self, member: &Membership) -> Result<(), Failure> {
        let request = HeartbeatRequest {
            group_id: Str::from(&member.group),
            generation_id: member.generation,
            member_id: Str::from(&member.member_id),
            ..Default::default()
        };
        Failure::check(self.ask_coordinator(Kind::Group, &member.group, 4, &request).await?.error_code)
    }

    /// A member of a consumer group says that it lives, and what it has; in the epoch 0 it joins. `is_full`: it says all of
    /// itself, and so is told all.
    pub async fn consumer_heartbeat(
        &mut self,
        member: &Membership,
        topic: &str,
        owned: &[i32],
        is_full: bool,
    ) -> Result<Beat, Failure> {
        let topics = TopicPartitions { topic_id: self.topic_id, partitions: owned.to_vec(), ..Default::default() };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: Str::from(&member.group),
            member_id: Str::from(&member.member_id),
            member_epoch: member.generation,
            rebalance_timeout_ms: if is_full { REBALANCE_TIMEOUT_MS } else { -1 },
            subscribed_topic_names: is_full.then(|| vec![Str::from(topic)]),
            topic_partitions: Some(if owned.is_empty() { Vec::new() } else { vec![topics] }),
            ..Default::default()
        };
        let answer = self.ask_coordinator(Kind::Group, &member.group, 1, &request).await?;
        Failure::check(answer.error_code)?;
        let assigned = answer.assignment.map(|assignment| {
            assignment.topic_partitions.into_iter().flat_map(|topic| topic.partitions).collect::<Vec<i32>>()
        });
        Ok(Beat { epoch: answer.member_epoch, assigned })
    }

    /// A member of a consumer group leaves.
    pub async fn consumer_leave(&mut self, member: &Membership) -> Result<(), Failure> {
        let request = ConsumerGroupHeartbeatRequest {
            group_id: Str::from(&member.group),
            member_id: Str::from(&member.member_id),
            member_epoch: LEAVES,
            ..Default::default()
        };
        Failure::check(self.ask_coordinator(Kind::Group, &member.group, 1, &request).await?.error_code)
    }

    pub async fn leave(&mut self, member: &Membership) -> Result<(), Failure> {
        let identity = MemberIdentity { member_id: Str::from(&member.member_id), ..Default::default() };
        let request =
            LeaveGroupRequest { group_id: Str::from(&member.group), members: vec![identity], ..Default::default() };
        Failure::check(self.ask_coordinator(Kind::Group, &member.group, 5, &request).await?.error_code)
    }

    pub async fn commit(
        &mut self,
        member: &Membership,
        topic: &str,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        let partitions = positions.iter().map(|(partition, offset)| OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_leader_epoch: self.read_epochs.get(partition).copied().unwrap_or(-1),
            ..Default::default()
        });
        let topic =
            OffsetCommitRequestTopic { name: Str::from(topic), partitions: partitions.collect(), ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: Str::from(&member.group),
            generation_id_or_member_epoch: member.generation,
            member_id: Str::from(&member.member_id),
            topics: vec![topic],
            ..Default::default()
        };
        // The first version that knows of member epochs is 9.
        let version = if member.is_consumer { 9 } else { 8 };
        let answer = self.ask_coordinator(Kind::Group, &member.group, version, &request).await?;
        let results = answer.topics.iter().flat_map(|topic| &topic.partitions);
        results.map(|result| result.error_code).try_for_each(Failure::check)
    }

    /// What a group has committed of these partitions. `stable`: not while a transaction may change it.
    pub async fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[i32],
        stable: bool,
    ) -> Result<BTreeMap<i32, CommittedOffset>, Failure> {
        let topics = OffsetFetchRequestTopics {
            name: Str::from(topic),
            partition_indexes: partitions.to_vec(),
            ..Default::default()
        };
        let asked = OffsetFetchRequestGroup {
            group_id: Str::from(group),
            member_id: None,
            member_epoch: -1,
            topics: Some(vec![topics]),
            ..Default::default()
        };
        let request = OffsetFetchRequest { groups: vec![asked], require_stable: stable, ..Default::default() };
        let answer = self.ask_coordinator(Kind::Group, group, 8, &request).await?;
        let found = answer.groups.first().ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(found.error_code)?;
        let results = found.topics.iter().flat_map(|topic| &topic.partitions);
        results
            .map(|result| {
                Failure::check(result.error_code)?;
                let (offset, leader_epoch) = (result.committed_offset, result.committed_leader_epoch);
                Ok((result.partition_index, CommittedOffset { offset, leader_epoch }))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{assigned, assignment};

    #[test]
    fn an_assignment_is_read_as_it_was_written() {
        assert_eq!(assigned(assignment("topic", &[2, 0]), "topic"), [2, 0]);
        assert_eq!(assigned(bytes::Bytes::new(), "topic"), [0; 0]);
    }
}
