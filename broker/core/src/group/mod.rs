//! The group coordinator: groups of both protocols and committed offsets, over one partition of `__consumer_offsets`.
//!
//! [`GroupShard`] is the [`Shard`] that Kafka calls `GroupCoordinatorShard`:
//! - `classic` is a group's state, `join`, `rebalance` and `session` what happens to it (KIP-62, 134, 345, 394, 814);
//! - `consumer` is the groups of the newer protocol (KIP-848);
//! - `offsets` is what was committed and how long it stays (KIP-211, 447, 496);
//! - `admin` lists, describes and deletes groups; `records` is what of it all lies in the log;
//! - `journal` remembers rebalances: why they were, and what moved.
//!
//! **Invariant:** offsets change only by replay. A classic group is soft state ahead of its record, which is written when a
//! generation gets its assignment or the group becomes empty; it is taken from the record only while the log is loaded. A
//! consumer group is never ahead of its records. A name is that of a group of one kind, or of none.

mod admin;
mod classic;
pub mod consumer;
mod join;
mod journal;
mod offsets;
mod rebalance;
mod records;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::time::Now;
use odradek_common::{ErrorCode, Offset, ProducerId};
use odradek_metadata::Image;
use odradek_wire::consumer_group_describe_response;
use odradek_wire::delete_groups_response::DeletableGroupResult;
use odradek_wire::describe_groups_response::DescribedGroup;
use odradek_wire::list_groups_response::ListedGroup;
use odradek_wire::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_wire::offset_fetch_response::OffsetFetchResponseGroup;
use odradek_wire::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, EncodeError, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, Str, SyncGroupRequest, SyncGroupResponse,
};

pub use self::classic::{ClassicGroup, Member, State};
use self::consumer::{ConsumerConfig, ConsumerGroup, ConsumerRecord, Topics};
pub use self::journal::{Cause, Entry, History, Move, Outcome, Why};
use self::journal::{Journals, Standing};
use self::offsets::Offsets;
pub use self::records::{CommittedOffset, GroupMetadata, GroupRecord, MemberRecord, OffsetKey};
use crate::coordinator::{EncodedRecord, InTransaction, Origin, Shard, Ticket, Turn};

/// The topic of groups and offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// A member that was just added cannot send heartbeats until it is answered. It is dropped after so long, and joins again
/// if it is still there (Kafka's `NewMemberJoinTimeoutMs`).
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(300);

/// What the broker's configs say to groups.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.max.size`.
    pub size_max: usize,
    /// `offset.metadata.max.bytes`; counts characters, as Kafka does.
    pub metadata_max: usize,
    /// `offsets.retention.minutes`.
    pub retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check_interval: Duration,
    pub consumer: ConsumerConfig,
    /// `odradek.group.journal.entries.max`: rebalances that are remembered of each group; 0: none.
    pub journal_entries_max: usize,
    /// `odradek.group.journal.bytes.max`: what the journal of a group may take.
    pub journal_bytes_max: usize,
}

/// Who asks, as groups keep it.
#[derive(Clone, Debug, Default)]
pub struct GroupClient {
    pub client_id: String,
    /// As Java prints an address: `/10.0.0.1`.
    pub host: String,
    pub api_version: i16,
}

/// What may change a group. Topics are named in every request that comes here, and versions without `members` or a
/// rebalance timeout are brought to the newer form.
#[derive(Clone, Debug)]
pub enum GroupRequest {
    Join(GroupClient, JoinGroupRequest),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    Commit(GroupClient, OffsetCommitRequest),
    /// Counts when its transaction is committed (TxnOffsetCommit).
    CommitInTransaction(InTransaction, OffsetCommitRequest),
    /// With `require_stable`: waits for what is written.
    FetchStable(OffsetFetchRequestGroup),
    DeleteOffsets(OffsetDeleteRequest),
    Delete(Vec<Str>),
    /// These partitions of a topic are no more.
    PartitionsDeleted(Vec<(Arc<str>, i32)>),
    /// A member of a consumer group joins, lives or leaves.
    ConsumerHeartbeat(GroupClient, Arc<Image>, ConsumerGroupHeartbeatRequest),
    /// Answered when all that is told is committed.
    ConsumerDescribe(Vec<Str>),
    /// The rebalances of a group.
    History(Str),
    /// The metadata has a new image, in which these topics were made, changed or deleted.
    TopicsChanged {
        image: Arc<Image>,
        names: Arc<BTreeSet<Arc<str>>>,
        has_new: bool,
    },
}

impl GroupRequest {
    /// The answer to what is refused whatever the group: every broker gives it, and not only the group's coordinator.
    /// Members need a group with a name, and so does whoever takes offsets back; commits and fetches do not, as consumers
    /// without a group have an empty one.
    pub fn refusal(&self, config: &GroupConfig) -> Option<GroupResponse> {
        let error = ErrorCode::InvalidGroupId;
        let error_code = error.code();
        let response = match self {
            Self::Join(_, request) if request.group_id.is_empty() => rebalance::join_failed(&request.member_id, error),
            Self::Join(_, request) => {
                let session = config.session_timeout_min_ms..=config.session_timeout_max_ms;
                if session.contains(&request.session_timeout_ms) {
                    return None;
                }
                rebalance::join_failed(&request.member_id, ErrorCode::InvalidSessionTimeout)
            }
            Self::Sync(request) if request.group_id.is_empty() => rebalance::sync_failed(error),
            Self::Heartbeat(request) if request.group_id.is_empty() => session::heartbeat(error),
            Self::Leave(request) if request.group_id.is_empty() => {
                GroupResponse::Leave(LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() })
            }
            Self::DeleteOffsets(request) if request.group_id.is_empty() => {
                GroupResponse::DeleteOffsets(OffsetDeleteResponse { error_code, ..OffsetDeleteResponse::default() })
            }
            Self::ConsumerHeartbeat(client, _, request) => {
                let refusal = consumer::check_heartbeat(client, request, &config.consumer).err()?;
                GroupResponse::ConsumerHeartbeat(consumer::heartbeat_failed(refusal))
            }
            _ => return None,
        };
        Some(response)
    }
}

/// What reads groups.
#[derive(Clone, Debug)]
pub enum GroupQuery {
    /// All that is committed.
    Committed,
    Fetch(OffsetFetchRequestGroup),
    /// By state and type; empty: all.
    List {
        states: Vec<Str>,
        types: Vec<Str>,
    },
    Describe {
        groups: Vec<Str>,
        api_version: i16,
    },
}

/// The answers, one for each kind of question.
#[derive(Clone, PartialEq, Debug)]
pub enum GroupResponse {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    Fetch(OffsetFetchResponseGroup),
    DeleteOffsets(OffsetDeleteResponse),
    Delete(Vec<DeletableGroupResult>),
    List(Vec<ListedGroup>),
    Describe(Vec<DescribedGroup>),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    ConsumerDescribe(Vec<consumer_group_describe_response::DescribedGroup>),
    /// `None`: there is no such group.
    History(Option<Box<History>>),
    /// What groups have committed, by group, topic and partition.
    Committed(Vec<(OffsetKey, i64)>),
    Done,
}

/// Names a timer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GroupTimer {
    /// A member's session.
    Session { group: Arc<str>, member: Arc<str> },
    /// Members have had their time to join.
    Join(Arc<str>),
    /// Members have had their time to ask for their assignment.
    Sync(Arc<str>),
    /// A member of a consumer group has had its time to give partitions up.
    Revocation { group: Arc<str>, member: Arc<str> },
    /// A member of a consumer group that speaks the classic protocol has had its time to join again.
    MemberJoin { group: Arc<str>, member: Arc<str> },
    /// Such a member has had its time to ask for its assignment.
    MemberSync { group: Arc<str>, member: Arc<str> },
    /// The regular expressions of a consumer group are to be resolved.
    Regexes(Arc<str>),
    /// Offsets and groups are looked through for what has outlived its retention.
    Expiry,
}

/// What waits for its record.
#[derive(Clone, Debug)]
pub enum GroupPending {
    /// A group has been made for a JoinGroup; without its record it is none.
    Created { group: Arc<str>, join: Ticket },
    /// The leader's assignment is stored: members may have it.
    Assigned { group: Arc<str>, generation: i32, assignment: BTreeMap<Arc<str>, Bytes> },
    /// A static member has a new id.
    Replaced(Box<join::Replaced>),
    /// A consumer group has become a classic one, whose members are to join again.
    Downgraded(Arc<str>),
    /// A classic group has become a consumer group.
    Upgraded(Arc<str>),
}

pub(crate) type GroupTurn<'a> = Turn<'a, GroupShard>;

/// Groups and offsets of one partition.
#[derive(Clone, Debug)]
pub struct GroupShard {
    config: Arc<GroupConfig>,
    groups: BTreeMap<Arc<str>, ClassicGroup>,
    /// Invariant: no name is in both maps.
    consumers: BTreeMap<Arc<str>, ConsumerGroup>,
    /// Soft: what the group is that becomes a classic one by the records at hand.
    downgraded: Option<ClassicGroup>,
    topics: Topics,
    offsets: Offsets,
    journals: Journals,
    /// From then on classic groups are ahead of their records.
    is_loaded: bool,
    now_ms: i64,
}

impl GroupShard {
    /// `now_ms` is the wall clock at the load, for groups that no record tells the age of; `image` the metadata.
    pub fn new(config: Arc<GroupConfig>, now_ms: i64, image: Arc<Image>) -> Self {
        Self {
            journals: Journals::new(config.journal_entries_max, config.journal_bytes_max),
            config,
            groups: BTreeMap::new(),
            consumers: BTreeMap::new(),
            downgraded: None,
            topics: Topics::new(image),
            offsets: Offsets::default(),
            is_loaded: false,
            now_ms,
        }
    }

    pub fn consumer_group(&self, id: &str) -> Option<&ConsumerGroup> {
        self.consumers.get(id)
    }

    /// One with members: without any it may become a classic one.
    fn is_consumer_group(&self, id: &str) -> bool {
        self.consumers.get(id).is_some_and(|group| !group.is_empty())
    }

    fn has_group(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.consumers.contains_key(id)
    }

    /// Takes in a record of a consumer group. What is taken back of a group that is not there was taken back before.
    fn replay_consumer(&mut self, id: Arc<str>, record: ConsumerRecord) {
        if record == ConsumerRecord::Group(None) {
            self.consumers.remove(&id);
            self.journals.on_gone(&id);
            return;
        }
        let is_new = !self.consumers.contains_key(&id);
        if is_new {
            if record.is_tombstone() {
                return;
            }
            // Where there are offsets only, and a group of members' own was not taken back, offsets came first.
            match self.groups.get(&id) {
                Some(classic) if !classic.is_simple() => return,
                _ => self.groups.remove(&id),
            };
            self.consumers.insert(id.clone(), ConsumerGroup::new(id.clone()));
        }
        let Some(group) = self.consumers.get_mut(&id) else { return };
        match self.journals.watches(&id) {
            true => self.journals.replay(group, record, is_new),
            false => group.replay(record),
        }
    }

    // ---- journal ----

    /// A turn begins: what the one before has led to is known by now.
    fn begin(&mut self, now: Now) {
        for id in self.journals.take_touched() {
            if let Some(standing) = self.standing(&id) {
                self.journals.settle(&id, standing, self.consumers.get(&id), &self.topics);
            }
        }
        let Self { journals, groups, consumers, .. } = self;
        journals.begin(now, |id| standing(groups, consumers, id));
    }

    fn standing(&self, id: &str) -> Option<Standing> {
        standing(&self.groups, &self.consumers, id)
    }

    /// Writes down what has happened to a classic group.
    fn tell_journal(&mut self, id: &str, is_new: bool) {
        if let Some(group) = self.groups.get_mut(id)
            && !group.events.is_empty()
        {
            let events = std::mem::take(&mut group.events);
            self.journals.on_events(&group.id, events, is_new);
        }
    }

    fn history(&self, id: &str) -> Option<Box<History>> {
        Some(Box::new(self.journals.history(id, self.standing(id)?)))
    }

    /// How many groups have a journal.
    pub fn journal_count(&self) -> usize {
        self.journals.len()
    }

    pub fn group(&self, id: &str) -> Option<&ClassicGroup> {
        self.groups.get(id)
    }

    pub fn group_count(&self) -> usize {
        self.groups.len() + self.consumers.len()
    }

    pub fn offset_count(&self) -> usize {
        self.offsets.len()
    }

    /// The committed position of a partition.
    pub fn committed_offset(&self, group: &str, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        let key = OffsetKey { group: group.into(), topic: topic.into(), partition };
        self.offsets.get(&key)
    }

    /// A group to work on, with what is needed for that.
    fn open(&mut self, id: &str) -> Option<(&mut ClassicGroup, &GroupConfig)> {
        Some((self.groups.get_mut(id)?, &self.config))
    }
}

impl Shard for GroupShard {
    type Record = GroupRecord;
    type Request = GroupRequest;
    type Query = GroupQuery;
    type Response = GroupResponse;
    type Timer = GroupTimer;
    type Pending = GroupPending;
    type Effect = std::convert::Infallible;

    fn encode(record: &GroupRecord) -> Result<EncodedRecord, EncodeError> {
        records::encode(record)
    }

    fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<GroupRecord, String> {
        records::decode(key, value)
    }

    fn handle(&mut self, ticket: Ticket, request: GroupRequest, turn: &mut GroupTurn<'_>) {
        self.begin(turn.now);
        if let Some(refusal) = request.refusal(&self.config) {
            return turn.reply_now(ticket, refusal);
        }
        match request {
            GroupRequest::Join(client, request) => match self.is_consumer_group(&request.group_id) {
                true => self.join_as_classic(ticket, &client, &request, turn),
                false => self.join(ticket, &client, &request, turn),
            },
            GroupRequest::Sync(request) => match self.consumers.contains_key(request.group_id.as_str()) {
                true => self.sync_as_classic(ticket, &request, turn),
                false => self.sync(ticket, &request, turn),
            },
            GroupRequest::Heartbeat(request) => match self.consumers.contains_key(request.group_id.as_str()) {
                true => self.heartbeat_as_classic(ticket, &request, turn),
                false => self.heartbeat(ticket, &request, turn),
            },
            GroupRequest::Leave(request) => match self.consumers.contains_key(request.group_id.as_str()) {
                true => self.leave_as_classic(ticket, &request, turn),
                false => self.leave(ticket, &request, turn),
            },
            GroupRequest::Commit(client, request) => self.commit(ticket, &client, &request, turn),
            GroupRequest::CommitInTransaction(transaction, request) => {
                self.commit_in_transaction(ticket, transaction, &request, turn);
            }
            GroupRequest::FetchStable(request) => {
                let response = self.fetch_offsets(&request, offsets::View::Latest);
                turn.reply(ticket, GroupResponse::Fetch(response));
            }
            GroupRequest::DeleteOffsets(request) => self.delete_offsets(ticket, &request, turn),
            GroupRequest::Delete(groups) => self.delete_groups(ticket, groups, turn),
            GroupRequest::PartitionsDeleted(partitions) => self.partitions_deleted(ticket, &partitions, turn),
            GroupRequest::ConsumerHeartbeat(client, image, request) => {
                self.topics.see(image);
                self.consumer_heartbeat(ticket, &client, &request, turn);
            }
            GroupRequest::ConsumerDescribe(groups) => {
                let described = groups.iter().map(|id| self.describe_consumer_group(id)).collect();
                turn.reply(ticket, GroupResponse::ConsumerDescribe(described));
            }
            GroupRequest::History(group) => {
                turn.reply_now(ticket, GroupResponse::History(self.history(&group)));
            }
            GroupRequest::TopicsChanged { image, names, has_new } => {
                self.topics.see(image);
                if has_new {
                    self.topics.on_created();
                }
                self.consumers.values_mut().for_each(|group| group.on_topics_changed(&names));
                turn.reply_now(ticket, GroupResponse::Done);
            }
        }
    }

    fn query(&self, query: GroupQuery, _: Now) -> GroupResponse {
        match query {
            GroupQuery::Committed => GroupResponse::Committed(self.offsets.all_committed()),
            GroupQuery::Fetch(request) => GroupResponse::Fetch(self.fetch_offsets(&request, offsets::View::Committed)),
            GroupQuery::List { states, types } => GroupResponse::List(self.list(&states, &types)),
            GroupQuery::Describe { groups, api_version } => {
                GroupResponse::Describe(groups.iter().map(|id| self.describe(id, api_version)).collect())
            }
        }
    }

    fn replay(&mut self, origin: Origin, record: GroupRecord) {
        match record {
            GroupRecord::Offset(key, value) => {
                if value.is_some() && !self.has_group(&key.group) {
                    let group = ClassicGroup::new(key.group.clone(), self.now_ms);
                    self.groups.insert(key.group.clone(), group);
                }
                self.offsets.replay(origin, key, value);
            }
            GroupRecord::Group(id, None) => {
                if let Some(group) = self.groups.remove(&id) {
                    self.journals.carry(group.members().map(|member| &member.id));
                    self.journals.on_gone(&id);
                }
            }
            GroupRecord::Group(id, Some(metadata)) => {
                let downgraded = self.downgraded.take().filter(|group| group.id == id);
                if !self.is_loaded || !self.groups.contains_key(&id) {
                    let group = downgraded.unwrap_or_else(|| ClassicGroup::from_record(id.clone(), metadata));
                    self.groups.insert(id, group);
                }
            }
            GroupRecord::Consumer(id, record) => self.replay_consumer(id, record),
        }
    }

    fn replay_marker(&mut self, offset: Offset, producer: ProducerId, is_commit: bool) {
        self.offsets.end_transaction(offset, producer, is_commit);
    }

    fn on_loaded(&mut self, turn: &mut GroupTurn<'_>) {
        self.is_loaded = true;
        self.journals.on_loaded(turn.now);
        turn.schedule(GroupTimer::Expiry, self.config.retention_check_interval);
        for group in self.groups.values_mut() {
            group.start_sessions(turn);
            if group.member_count() > self.config.size_max {
                group.trace(Cause::of_group(Why::TooLarge, "it was loaded with more members than group.max.size"));
                group.prepare_rebalance("it was loaded with more members than group.max.size", turn, &self.config);
            }
        }
        let told: Vec<Arc<str>> =
            self.groups.values().filter(|group| !group.events.is_empty()).map(|group| group.id.clone()).collect();
        told.iter().for_each(|id| self.tell_journal(id, false));
        self.start_consumer_sessions(turn);
    }

    fn on_timer(&mut self, timer: GroupTimer, turn: &mut GroupTurn<'_>) {
        self.begin(turn.now);
        self.now_ms = turn.wall().0;
        match timer {
            GroupTimer::Expiry => {
                self.expire(turn);
                turn.schedule(GroupTimer::Expiry, self.config.retention_check_interval);
            }
            GroupTimer::Session { group, member } => {
                self.on_consumer_session_timeout(&group, &member, turn);
                if let Some((group, config)) = self.open(&group) {
                    group.on_session_timeout(&member, turn, config);
                }
                self.tell_journal(&group, false);
            }
            GroupTimer::Join(group) => {
                if let Some((group, config)) = self.open(&group) {
                    group.on_join_timeout(turn, config);
                }
                self.tell_journal(&group, false);
            }
            GroupTimer::Sync(group) => {
                if let Some((group, config)) = self.open(&group) {
                    group.on_sync_timeout(turn, config);
                }
                self.tell_journal(&group, false);
            }
            GroupTimer::Revocation { group, member } => self.on_revocation_timeout(&group, &member, turn),
            GroupTimer::MemberJoin { group, member } => {
                self.on_classic_member_timeout(&group, &member, "did not join again in time", turn);
            }
            GroupTimer::MemberSync { group, member } => {
                self.on_classic_member_timeout(&group, &member, "did not ask for its assignment in time", turn);
            }
            GroupTimer::Regexes(group) => self.resolve_regexes(&group, turn),
        }
    }

    fn on_appended(&mut self, pending: GroupPending, result: Result<(), ErrorCode>, turn: &mut GroupTurn<'_>) {
        self.begin(turn.now);
        match pending {
            GroupPending::Created { group, join } => {
                if let Err(error) = result {
                    // With the member that it was made for, unless others have come since.
                    let is_unused = |group: &ClassicGroup| group.generation == 0 && group.member_count() <= 1;
                    if self.groups.get(&group).is_some_and(is_unused)
                        && let Some(mut unused) = self.groups.remove(&group)
                    {
                        let members: Vec<_> = unused.members().map(|member| member.id.clone()).collect();
                        for member in members {
                            unused.end_session(&member, turn);
                            if let Some(waiting) = unused.take_join(&member) {
                                turn.refuse(waiting, error);
                            }
                        }
                        turn.cancel(GroupTimer::Join(group));
                    }
                    turn.refuse(join, error);
                }
            }
            GroupPending::Assigned { group, generation, assignment } => {
                if let Some((group, config)) = self.open(&group) {
                    group.on_assignment_stored(generation, assignment, result, turn, config);
                }
                self.tell_journal(&group, false);
            }
            // Should it be what it was: whoever waited was told to join again, and has its time for that.
            GroupPending::Upgraded(group) => {
                if let Some((group, config)) = self.open(&group).filter(|_| result.is_err()) {
                    group.resume_rebalance(turn, config);
                }
                self.tell_journal(&group, false);
            }
            // Whether it is committed or not: it is what the log says.
            GroupPending::Downgraded(group) => {
                if let Some((group, config)) = self.open(&group)
                    && group.is(State::Stable)
                {
                    group.trace(Cause::of_group(Why::ToClassic, ""));
                    group.prepare_rebalance("it has changed its protocol", turn, config);
                }
                self.tell_journal(&group, false);
            }
            GroupPending::Replaced(replaced) => {
                let id = replaced.group.clone();
                if let Some((group, _)) = self.open(&id) {
                    group.on_replacement_stored(*replaced, result, turn);
                }
                self.tell_journal(&id, false);
            }
        }
    }

    fn on_committed(&mut self, offset: Offset) {
        self.offsets.commit(offset);
    }

    fn take_effects(&mut self) -> Vec<std::convert::Infallible> {
        Vec::new()
    }
}

/// What a group is to its journal; `None`: there is none.
fn standing(
    groups: &BTreeMap<Arc<str>, ClassicGroup>,
    consumers: &BTreeMap<Arc<str>, ConsumerGroup>,
    id: &str,
) -> Option<Standing> {
    if let Some(group) = consumers.get(id) {
        return Some(journal::standing(group));
    }
    let group = groups.get(id)?;
    let outcome = match group.state() {
        State::Stable => Some(Outcome::Stable),
        State::Empty | State::Dead => Some(Outcome::Empty),
        State::PreparingRebalance | State::CompletingRebalance => None,
    };
    Some(Standing { epoch: group.generation, outcome })
}

#[cfg(test)]
mod tests;
