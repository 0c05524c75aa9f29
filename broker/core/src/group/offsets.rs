//! Committed offsets: commit, fetch, delete, expire; those of open transactions wait apart until a marker ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use odradek_common::{ErrorCode, Offset, ProducerId, Uuid};
use odradek_wire::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use odradek_wire::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use odradek_wire::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_wire::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use odradek_wire::{OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, Str};

use super::classic::{ClassicGroup, State};
use super::consumer::ConsumerGroup;
use super::records::{CommittedOffset, GroupRecord, OffsetKey};
use super::{GroupClient, GroupResponse, GroupShard, GroupTurn};
use crate::coordinator::{InTransaction, Origin, Ticket, TimelineMap};

/// The first version that is told of a missing group as such.
const GROUP_ID_NOT_FOUND: i16 = 9;

/// Offsets by group, topic and partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Offsets {
    /// With the offset of the record that said so.
    committed: TimelineMap<OffsetKey, (Offset, CommittedOffset)>,
    /// Of open transactions.
    pending: BTreeMap<ProducerId, BTreeMap<OffsetKey, (Offset, CommittedOffset)>>,
}

/// Which state is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// What a new leader would know too.
    Committed,
    /// All that is written; what an open transaction may yet change is unstable.
    Latest,
}

impl Offsets {
    pub fn len(&self) -> usize {
        self.committed.len()
    }

    pub fn get(&self, key: &OffsetKey) -> Option<&CommittedOffset> {
        self.committed.get(key).map(|(_, offset)| offset)
    }

    fn view(&self, key: &OffsetKey, view: View) -> Option<&CommittedOffset> {
        match view {
            View::Latest => self.committed.get(key),
            View::Committed => self.committed.get_committed(key),
        }
        .map(|(_, offset)| offset)
    }

    fn is_pending(&self, key: &OffsetKey) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(key))
    }

    fn has_pending(&self, group: &Arc<str>) -> bool {
        self.pending.values().any(|offsets| offsets.range(of_group(group)).next().is_some())
    }

    /// All that is committed and that a new leader would know too.
    pub fn all_committed(&self) -> Vec<(OffsetKey, i64)> {
        let all = self.committed.range_committed(..);
        all.map(|(key, (_, offset))| (key.clone(), offset.offset)).collect()
    }

    pub fn of_group(&self, group: &Arc<str>) -> impl Iterator<Item = (&OffsetKey, &CommittedOffset)> {
        self.committed.range(of_group(group)).map(|(key, (_, offset))| (key, offset))
    }

    pub fn replay(&mut self, origin: Origin, key: OffsetKey, value: Option<CommittedOffset>) {
        match (value, origin.producer) {
            (Some(value), None) => {
                self.committed.insert(origin.offset, key, (origin.offset, value));
            }
            (Some(value), Some(producer)) => {
                self.pending.entry(producer).or_default().insert(key, (origin.offset, value));
            }
            (None, _) => {
                self.committed.remove(origin.offset, &key);
                for offsets in self.pending.values_mut() {
                    offsets.remove(&key);
                }
            }
        }
    }

    pub fn end_transaction(&mut self, at: Offset, producer: ProducerId, is_commit: bool) {
        let Some(pending) = self.pending.remove(&producer) else { return };
        if !is_commit {
            return;
        }
        for (key, value) in pending {
            // Whichever record is later in the log counts: compaction keeps that one.
            let is_newer = self.committed.get(&key).is_none_or(|(written, _)| *written < value.0);
            if is_newer {
                self.committed.insert(at, key, value);
            }
        }
    }

    pub fn commit(&mut self, offset: Offset) {
        self.committed.commit(offset);
    }
}

fn of_group(group: &Arc<str>) -> (Bound<OffsetKey>, Bound<OffsetKey>) {
    let first = OffsetKey { group: group.clone(), topic: "".into(), partition: i32::MIN };
    // The least text that is greater than the group's name.
    let mut next = group.to_string();
    next.push('\0');
    let end = OffsetKey { group: next.into(), topic: "".into(), partition: i32::MIN };
    (Bound::Included(first), Bound::Excluded(end))
}

impl GroupShard {
    // ---- commit ----

    fn check_commit(&mut self, client: &GroupClient, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        if let Some(group) = self.consumers.get(request.group_id.as_str()) {
            return group.check_commit(request, false, client.api_version);
        }
        let generation = request.generation_id_or_member_epoch;
        match self.groups.get(request.group_id.as_str()) {
            Some(group) => {
                group.check_commit(&request.member_id, request.group_instance_id.as_deref(), generation, false)
            }
            // Whoever names no generation manages its partitions itself: a group that only keeps offsets.
            None if generation < 0 => Ok(()),
            None if client.api_version >= GROUP_ID_NOT_FOUND => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    pub(super) fn commit(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &OffsetCommitRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        if let Err(error) = self.check_commit(client, request) {
            return turn.refuse(ticket, error);
        }
        self.now_ms = turn.wall().0;
        if let Some((group, _)) = self.open(&request.group_id)
            && matches!(group.state(), State::Stable | State::PreparingRebalance)
        {
            group.start_session(&request.member_id, turn);
        }
        let response = self.record_offsets(request, turn);
        turn.reply(ticket, GroupResponse::Commit(response));
    }

    /// What a request asks to be kept, as far as it can be.
    fn record_offsets(&self, request: &OffsetCommitRequest, turn: &mut GroupTurn<'_>) -> OffsetCommitResponse {
        let group: Arc<str> = request.group_id.as_str().into();
        let expire_timestamp = match request.retention_time_ms {
            -1 => -1,
            retention => self.now_ms.saturating_add(retention),
        };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name: Arc<str> = topic.name.as_str().into();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
                let error = self.check_metadata(metadata);
                partitions.push(OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.code(),
                    ..OffsetCommitResponsePartition::default()
                });
                if error.is_error() {
                    continue;
                }
                let key = OffsetKey { group: group.clone(), topic: name.clone(), partition: partition.partition_index };
                let offset = CommittedOffset {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.into(),
                    commit_timestamp: self.now_ms,
                    expire_timestamp,
                    topic_id: topic.topic_id,
                };
                turn.record(GroupRecord::Offset(key, Some(offset)));
            }
            topics.push(OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions,
                ..OffsetCommitResponseTopic::default()
            });
        }
        OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }
    }

    fn check_metadata(&self, metadata: &str) -> ErrorCode {
        let max = self.config.metadata_max;
        match metadata.len() > max && metadata.encode_utf16().count() > max {
            true => ErrorCode::OffsetMetadataTooLarge,
            false => ErrorCode::None,
        }
    }

    fn check_commit_in_transaction(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        if let Some(group) = self.consumers.get(request.group_id.as_str()) {
            return group.check_commit(request, true, 0);
        }
        let generation = request.generation_id_or_member_epoch;
        match self.groups.get(request.group_id.as_str()) {
            Some(group) => {
                group.check_commit(&request.member_id, request.group_instance_id.as_deref(), generation, true)
            }
            None if generation < 0 => Ok(()),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    /// Offsets that count from the commit of the transaction that they are in (KIP-98, KIP-447).
    pub(super) fn commit_in_transaction(
        &mut self,
        ticket: Ticket,
        transaction: InTransaction,
        request: &OffsetCommitRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        if let Err(error) = self.check_commit_in_transaction(request) {
            return turn.refuse(ticket, error);
        }
        self.now_ms = turn.wall().0;
        let response = self.record_offsets(request, turn);
        turn.transactional(transaction);
        turn.reply(ticket, GroupResponse::Commit(response));
    }

    // ---- fetch ----

    pub(super) fn fetch_offsets(&self, request: &OffsetFetchRequestGroup, view: View) -> OffsetFetchResponseGroup {
        let group: Arc<str> = request.group_id.as_str().into();
        let consumer = self.consumers.get(&group);
        let checked = consumer.map(|group| group.check_fetch(request.member_id.as_deref(), request.member_epoch));
        if let Some(Err(error)) = checked {
            let group_id = request.group_id.clone();
            return OffsetFetchResponseGroup { group_id, error_code: error.code(), ..Default::default() };
        }
        let exists = self.has_group(&group);
        let partition = |key: &OffsetKey, topic_id: Uuid| {
            let found = if exists { self.offsets.view(key, view) } else { None };
            // An offset in a topic that was deleted says nothing of the one that has its name now.
            let found =
                found.filter(|offset| topic_id.is_zero() || offset.topic_id.is_zero() || offset.topic_id == topic_id);
            if view == View::Latest && self.offsets.is_pending(key) {
                fetched(key.partition, ErrorCode::UnstableOffsetCommit, None)
            } else {
                fetched(key.partition, ErrorCode::None, found)
            }
        };
        let topics = match &request.topics {
            Some(topics) => {
                let topics = topics.iter().map(|topic| {
                    let name: Arc<str> = topic.name.as_str().into();
                    let key = |partition| OffsetKey { group: group.clone(), topic: name.clone(), partition };
                    OffsetFetchResponseTopics {
                        name: topic.name.clone(),
                        topic_id: topic.topic_id,
                        partitions: (topic.partition_indexes.iter())
                            .map(|index| partition(&key(*index), topic.topic_id))
                            .collect(),
                        ..OffsetFetchResponseTopics::default()
                    }
                });
                topics.collect()
            }
            None if exists => {
                let keys: BTreeSet<&OffsetKey> = match view {
                    View::Latest => self.offsets.committed.range(of_group(&group)).map(|(key, _)| key).collect(),
                    View::Committed => {
                        self.offsets.committed.range_committed(of_group(&group)).map(|(key, _)| key).collect()
                    }
                };
                let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
                for key in keys {
                    if topics.last().is_none_or(|topic| topic.name != *key.topic) {
                        let name = Str::from(&*key.topic);
                        topics.push(OffsetFetchResponseTopics { name, ..OffsetFetchResponseTopics::default() });
                    }
                    if let Some(topic) = topics.last_mut() {
                        topic.partitions.push(partition(key, Uuid::ZERO));
                    }
                }
                topics
            }
            None => Vec::new(),
        };
        OffsetFetchResponseGroup { group_id: request.group_id.clone(), topics, ..OffsetFetchResponseGroup::default() }
    }

    // ---- delete ----

    fn check_delete(&self, group: &str) -> Result<(), ErrorCode> {
        if self.consumers.contains_key(group) {
            return Ok(());
        }
        let group = self.groups.get(group).ok_or(ErrorCode::GroupIdNotFound)?;
        match group.state() {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Empty => Ok(()),
            _ if group.is_consumer_group() => Ok(()),
            // It is not known what the members of other kinds of groups work on.
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    pub(super) fn delete_offsets(&mut self, ticket: Ticket, request: &OffsetDeleteRequest, turn: &mut GroupTurn<'_>) {
        if let Err(error) = self.check_delete(&request.group_id) {
            return turn.refuse(ticket, error);
        }
        let group: Arc<str> = request.group_id.as_str().into();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name: Arc<str> = topic.name.as_str().into();
            let error = match self.is_subscribed(&group, &name) {
                true => ErrorCode::GroupSubscribedToTopic,
                false => ErrorCode::None,
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                partitions.push(OffsetDeleteResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.code(),
                });
                let key = OffsetKey { group: group.clone(), topic: name.clone(), partition: partition.partition_index };
                if !error.is_error() && (self.offsets.get(&key).is_some() || self.offsets.is_pending(&key)) {
                    turn.record(GroupRecord::Offset(key, None));
                }
            }
            topics.push(OffsetDeleteResponseTopic { name: topic.name.clone(), partitions });
        }
        let response = OffsetDeleteResponse { topics, ..OffsetDeleteResponse::default() };
        turn.reply(ticket, GroupResponse::DeleteOffsets(response));
    }

    fn is_subscribed(&self, group: &Arc<str>, topic: &str) -> bool {
        self.groups.get(group).is_some_and(|group| group.is_subscribed(topic))
            || self.consumers.get(group).is_some_and(|group| group.is_subscribed(topic))
    }

    /// Tombstones for all that a group has committed or is about to.
    pub(super) fn forget_offsets(&self, group: &Arc<str>, turn: &mut GroupTurn<'_>) {
        let pending = self.offsets.pending.values().flat_map(|offsets| offsets.range(of_group(group)));
        let keys: BTreeSet<_> =
            self.offsets.of_group(group).map(|(key, _)| key).chain(pending.map(|(key, _)| key)).collect();
        for key in keys {
            turn.record(GroupRecord::Offset(key.clone(), None));
        }
    }

    pub(super) fn partitions_deleted(
        &mut self,
        ticket: Ticket,
        partitions: &[(Arc<str>, i32)],
        turn: &mut GroupTurn<'_>,
    ) {
        turn.divisible();
        let gone: BTreeSet<(&str, i32)> = partitions.iter().map(|(topic, index)| (&**topic, *index)).collect();
        let committed = self.offsets.committed.iter().map(|(key, _)| key);
        let pending = self.offsets.pending.values().flat_map(BTreeMap::keys);
        let keys: BTreeSet<_> =
            committed.chain(pending).filter(|key| gone.contains(&(&*key.topic, key.partition))).collect();
        for key in keys {
            turn.record(GroupRecord::Offset(key.clone(), None));
        }
        turn.reply(ticket, GroupResponse::Done);
    }

    // ---- expiry ----

    fn is_expired(&self, group: &Arc<str>, offset: &CommittedOffset, now_ms: i64) -> bool {
        let retention_ms = self.config.retention_ms;
        match self.groups.get(group) {
            Some(group) => group.is_expired(offset, now_ms, retention_ms),
            // Of a consumer group: in a topic that it does not read, since the commit.
            None => offset.is_expired(offset.commit_timestamp, now_ms, retention_ms),
        }
    }

    /// Tombstones for what has outlived its retention, and for groups that are left with nothing.
    pub(super) fn expire(&mut self, turn: &mut GroupTurn<'_>) {
        turn.divisible();
        let now_ms = turn.wall().0;
        let (mut expired, mut groups) = (0, 0);
        for id in self.groups.keys().chain(self.consumers.keys()) {
            let mut is_all = true;
            for (key, offset) in self.offsets.of_group(id) {
                let is_expired = !self.is_subscribed(id, &key.topic)
                    && self.is_expired(id, offset, now_ms)
                    && !self.offsets.is_pending(key);
                if is_expired {
                    expired += 1;
                    turn.record(GroupRecord::Offset(key.clone(), None));
                } else {
                    is_all = false;
                }
            }
            let is_unused = self.groups.get(id).is_some_and(ClassicGroup::is_unused)
                || self.consumers.get(id).is_some_and(ConsumerGroup::is_empty);
            if is_all && is_unused && !self.offsets.has_pending(id) {
                groups += 1;
                self.forget_group(id, turn);
            }
        }
        if expired + groups > 0 {
            turn.note(format!("{expired} offsets and {groups} groups have outlived their retention"));
        }
    }
}

impl ClassicGroup {
    /// Since when an offset is not needed (KIP-211): since the group is empty, or, for a group that only keeps offsets and
    /// for topics that its consumers have left, since the commit.
    fn is_expired(&self, offset: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
        let since = match (&self.protocol_type, self.state()) {
            (None, _) => offset.commit_timestamp,
            (Some(_), State::Empty) if self.state_timestamp >= 0 => self.state_timestamp,
            (Some(_), State::Empty) => offset.commit_timestamp,
            (Some(_), State::Stable) if self.is_consumer_group() && self.subscribed.is_some() => {
                offset.commit_timestamp
            }
            _ => return false,
        };
        offset.is_expired(since, now_ms, retention_ms)
    }
}

impl CommittedOffset {
    fn is_expired(&self, since: i64, now_ms: i64, retention_ms: i64) -> bool {
        match self.expire_timestamp {
            0.. => now_ms >= self.expire_timestamp,
            _ => now_ms.saturating_sub(since) >= retention_ms,
        }
    }
}

fn fetched(partition_index: i32, error: ErrorCode, found: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: found.map_or(-1, |found| found.offset),
        committed_leader_epoch: found.map_or(-1, |found| found.leader_epoch),
        metadata: Some(found.map(|found| Str::from(&*found.metadata)).unwrap_or_default()),
        error_code: error.code(),
        ..OffsetFetchResponsePartitions::default()
    }
}
