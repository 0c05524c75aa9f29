//! A classic group: its members and its state, without the decisions (KIP-62, KIP-345).
//!
//! What is here is soft: only what the leader's assignment and the membership of a generation are lies in a record, made by
//! [`ClassicGroup::to_record`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_common::rng::Rng;
use odradek_wire::Str;
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::join_group_response::JoinGroupResponseMember;

use super::journal::{Assignments, Cause, Event, Why};
use super::records::{GroupMetadata, MemberRecord};
use crate::coordinator::Ticket;

/// The protocol type of consumers, whose metadata the coordinator may read.
pub const CONSUMER: &str = "consumer";

/// Kafka's states of a classic group. `Dead` is said of groups that do not exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    Empty,
    /// Members are asked to join again.
    PreparingRebalance,
    /// The leader's assignment is awaited.
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A protocol that a member offers, with the member's metadata for it.
pub type Protocols = Vec<(Arc<str>, Bytes)>;

/// The protocols of a request, in copies of their own: a group outlives the frame.
pub fn protocols(requested: &[JoinGroupRequestProtocol]) -> Protocols {
    let copied = |protocol: &JoinGroupRequestProtocol| {
        (Arc::from(protocol.name.as_str()), Bytes::copy_from_slice(&protocol.metadata))
    };
    requested.iter().map(copied).collect()
}

/// A member of a classic group.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: Arc<str>,
    /// Of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocols: Protocols,
    pub assignment: Bytes,
    /// Its JoinGroup that is not answered.
    pub awaiting_join: Option<Ticket>,
    /// Its SyncGroup that is not answered.
    pub awaiting_sync: Option<Ticket>,
    /// It has not got its first answer yet.
    pub is_new: bool,
}

impl Member {
    pub fn matches(&self, requested: &[JoinGroupRequestProtocol]) -> bool {
        self.protocols.len() == requested.len()
            && (self.protocols.iter().zip(requested))
                .all(|((name, metadata), other)| other.name == **name && *metadata == other.metadata)
    }

    /// The metadata for a protocol; empty when it does not offer it.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let offered = self.protocols.iter().find(|(name, _)| &**name == protocol);
        offered.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// A new member cannot send heartbeats yet and must not stay for ever; one that waits for an answer need not send any.
    pub fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}

/// What the group's join timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinTimer {
    /// The first members of a group are waited for: this wait, and how much longer waits may become.
    Initial {
        delay_ms: i32,
        remaining_ms: i32,
    },
    Rebalance,
}

/// A group of the classic protocol.
#[derive(Clone, Debug)]
pub struct ClassicGroup {
    pub id: Arc<str>,
    state: State,
    previous_state: State,
    /// When the state was entered; -1: unknown (old records).
    pub state_timestamp: i64,
    pub generation: i32,
    pub protocol_type: Option<Arc<str>>,
    pub protocol_name: Option<Arc<str>>,
    pub leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were handed out and have not joined yet (KIP-394).
    pending_join: BTreeSet<Arc<str>>,
    /// Members that have joined the generation and not yet asked for their assignment.
    pub pending_sync: BTreeSet<Arc<str>>,
    /// How many members offer each protocol.
    supported: BTreeMap<Arc<str>, usize>,
    awaiting_joins: usize,
    /// What its consumers read, where that is known.
    pub subscribed: Option<BTreeSet<String>>,
    pub has_new_member: bool,
    pub join_timer: JoinTimer,
    /// For the journal, since it was told last.
    pub events: Vec<Event>,
    /// What members had before the rebalance that is under way.
    before: Option<Assignments>,
}

impl ClassicGroup {
    pub fn new(id: Arc<str>, now_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            previous_state: State::Dead,
            state_timestamp: now_ms,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            supported: BTreeMap::new(),
            awaiting_joins: 0,
            subscribed: None,
            has_new_member: false,
            join_timer: JoinTimer::Rebalance,
            events: Vec::new(),
            before: None,
        }
    }

    /// As a record has it: empty or stable.
    pub fn from_record(id: Arc<str>, record: GroupMetadata) -> Self {
        let GroupMetadata { protocol_type, generation, protocol, leader, state_timestamp, members } = record;
        let protocol_name: Option<Arc<str>> = protocol.as_deref().map(Arc::from);
        let mut group = Self::new(id, state_timestamp);
        group.generation = generation;
        group.state = if members.is_empty() { State::Empty } else { State::Stable };
        for member in members {
            let offered = protocol_name.clone().unwrap_or_default();
            let rebalance_timeout_ms = match member.rebalance_timeout_ms {
                -1 => member.session_timeout_ms,
                timeout => timeout,
            };
            group.add(Member {
                id: member.id.into(),
                instance_id: member.instance_id.map(Arc::from),
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![(offered, member.subscription)],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            });
        }
        group.protocol_type = (!protocol_type.is_empty()).then(|| protocol_type.into());
        group.protocol_name = protocol_name;
        group.leader = leader.map(Arc::from).filter(|leader: &Arc<str>| group.members.contains_key(leader));
        group.compute_subscribed();
        group
    }

    /// What is kept of it, with `assignment` in place of the members' own where it has any.
    pub fn to_record(&self, assignment: &BTreeMap<Arc<str>, Bytes>) -> GroupMetadata {
        let protocol = self.protocol_name.as_deref();
        let members = self.members.values().map(|member| MemberRecord {
            id: member.id.to_string(),
            instance_id: member.instance_id.as_deref().map(str::to_owned),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default(),
            assignment: assignment.get(&member.id).cloned().unwrap_or_else(|| member.assignment.clone()),
        });
        GroupMetadata {
            protocol_type: self.protocol_type.as_deref().unwrap_or_default().to_owned(),
            generation: self.generation,
            protocol: protocol.map(str::to_owned),
            leader: self.leader.as_deref().map(str::to_owned),
            state_timestamp: self.state_timestamp,
            members: members.collect(),
        }
    }

    // ---- state ----

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is(&self, state: State) -> bool {
        self.state == state
    }

    pub fn previous_state(&self) -> State {
        self.previous_state
    }

    pub fn transition(&mut self, state: State, now_ms: i64) {
        self.previous_state = self.state;
        self.state = state;
        self.state_timestamp = now_ms;
    }

    pub fn can_rebalance(&self) -> bool {
        matches!(self.state, State::Stable | State::CompletingRebalance | State::Empty)
    }

    pub fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Nobody has joined it and nobody is about to.
    pub fn is_unused(&self) -> bool {
        self.is(State::Empty) && self.members.is_empty() && self.pending_join.is_empty()
    }

    // ---- what the journal is told ----

    /// What makes the group rebalance, before it changes anything.
    pub fn trace(&mut self, cause: Cause) {
        if self.before.is_none() {
            self.before = Some(self.assignments());
        }
        self.events.push(Event::Cause(self.generation, cause));
    }

    /// As [`ClassicGroup::trace`], of a member that is in the group.
    pub fn trace_member(&mut self, why: Why, id: &str, detail: &str) {
        let Some(member) = self.members.get(id) else { return };
        let cause = Cause::of_member(why, &member.id, detail).with(member.instance_id.as_ref(), &member.client_id);
        self.trace(cause);
    }

    /// The rebalance is over.
    pub fn trace_end(&mut self) {
        let (is_empty, before) = (self.members.is_empty(), self.before.take().unwrap_or_default());
        let after = self.assignments();
        self.events.push(Event::Settled { generation: self.generation, is_empty, before, after });
    }

    /// It has not come to a rebalance, or that is over already.
    pub fn trace_end_if_stable(&mut self) {
        if self.is(State::Stable) && self.before.is_some() {
            self.trace_end();
        }
    }

    fn assignments(&self) -> Assignments {
        self.members.values().map(|member| (member.id.clone(), member.assignment.clone())).collect()
    }

    // ---- members ----

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    /// Do not change what it awaits or offers: the group counts those.
    pub fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    pub fn static_member(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.static_members.get(instance_id)
    }

    pub fn static_count(&self) -> usize {
        self.static_members.len()
    }

    pub fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub fn is_pending(&self, id: &str) -> bool {
        self.pending_join.contains(id)
    }

    pub fn add_pending(&mut self, id: Arc<str>) {
        self.pending_join.insert(id);
    }

    pub fn awaiting_joins(&self) -> usize {
        self.awaiting_joins
    }

    pub fn have_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_joins && self.pending_join.is_empty()
    }

    /// Whether this id, and this instance, may speak for a member.
    pub fn check_member(&self, id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if **current != *id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    pub fn add(&mut self, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_join.remove(&member.id);
        self.awaiting_joins += usize::from(member.awaiting_join.is_some());
        count(&mut self.supported, &member.protocols, true);
        self.members.insert(member.id.clone(), member);
    }

    pub fn remove(&mut self, id: &str) -> Option<Member> {
        let removed = self.members.remove(id);
        if let Some(member) = &removed {
            count(&mut self.supported, &member.protocols, false);
            self.awaiting_joins -= usize::from(member.awaiting_join.is_some());
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        removed
    }

    /// A member has joined again.
    pub fn update(
        &mut self,
        id: &str,
        protocols: Protocols,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        join: Option<Ticket>,
    ) {
        let Some(member) = self.members.get_mut(id) else { return };
        count(&mut self.supported, &member.protocols, false);
        count(&mut self.supported, &protocols, true);
        member.protocols = protocols;
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        self.awaiting_joins -= usize::from(member.awaiting_join.is_some());
        self.awaiting_joins += usize::from(join.is_some());
        member.awaiting_join = join;
    }

    /// Takes the JoinGroup that a member waits with.
    pub fn take_join(&mut self, id: &str) -> Option<Ticket> {
        let ticket = self.members.get_mut(id)?.awaiting_join.take()?;
        self.awaiting_joins -= 1;
        Some(ticket)
    }

    pub fn take_sync(&mut self, id: &str) -> Option<Ticket> {
        self.members.get_mut(id)?.awaiting_sync.take()
    }

    /// Gives a static member a new id. Whatever the old one waits with has to be answered before.
    pub fn replace_static(&mut self, old: &str, new: Arc<str>) -> bool {
        let Some(mut member) = self.members.remove(old) else { return false };
        // It keeps what it had: that it has another id moves nothing.
        for (id, _) in self.before.iter_mut().flatten().filter(|(id, _)| **id == *old) {
            *id = new.clone();
        }
        self.awaiting_joins -= usize::from(member.awaiting_join.is_some());
        member.awaiting_join = None;
        member.awaiting_sync = None;
        member.is_new = false;
        member.id = new.clone();
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), new.clone());
        }
        self.pending_sync.remove(old);
        self.members.insert(new, member);
        true
    }

    /// Makes sure that the leader has joined the rebalance; false when nobody has.
    pub fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &Arc<str>| self.members.get(id).is_some_and(|member| member.awaiting_join.is_some());
        match &self.leader {
            None => false,
            Some(leader) if joined(leader) => true,
            Some(_) => {
                let next = self.members.values().find(|member| member.awaiting_join.is_some());
                match next.map(|member| member.id.clone()) {
                    Some(id) => {
                        self.leader = Some(id);
                        true
                    }
                    None => false,
                }
            }
        }
    }

    /// The longest of its members'.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    // ---- protocols ----

    pub fn supports(&self, protocol_type: &str, offered: &[JoinGroupRequestProtocol]) -> bool {
        if self.is(State::Empty) {
            return !protocol_type.is_empty() && !offered.is_empty();
        }
        let by_all = |name: &Str| self.supported.get(name.as_str()).is_some_and(|n| *n == self.members.len());
        self.protocol_type.as_deref() == Some(protocol_type) && offered.iter().any(|offer| by_all(&offer.name))
    }

    /// What most members like best of what all of them support; the first by name among equals.
    pub fn select_protocol(&self) -> Option<Arc<str>> {
        let is_candidate = |name: &Arc<str>| self.supported.get(name).is_some_and(|n| *n == self.members.len());
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| is_candidate(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, n)| *n == most).map(|(name, _)| name.clone())
    }

    /// Reads from the members' metadata what they are subscribed to. Every version of it begins as version 0 does.
    pub fn compute_subscribed(&mut self) {
        self.subscribed = match (&self.protocol_name, self.is_consumer_group()) {
            (_, false) => None,
            _ if self.members.is_empty() => Some(BTreeSet::new()),
            (None, _) => None,
            (Some(protocol), _) => {
                let mut topics = BTreeSet::new();
                let read = self
                    .members
                    .values()
                    .all(|member| super::records::subscribed_topics(member.metadata(protocol), &mut topics).is_ok());
                read.then_some(topics)
            }
        };
    }

    pub fn is_subscribed(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer_group(),
        }
    }

    /// The members with their metadata, for the leader.
    pub fn joined_members(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| JoinGroupResponseMember {
            member_id: Str::from(&*member.id),
            group_instance_id: member.instance_id.as_deref().map(Str::from),
            metadata: member.metadata(protocol),
            ..JoinGroupResponseMember::default()
        });
        members.collect()
    }
}

fn count(supported: &mut BTreeMap<Arc<str>, usize>, protocols: &Protocols, more: bool) {
    for (name, _) in protocols {
        let n = supported.entry(name.clone()).or_default();
        *n = if more { *n + 1 } else { n.saturating_sub(1) };
        if *n == 0 {
            supported.remove(name);
        }
    }
}

/// `prefix-UUID`, as Kafka names members.
pub fn new_member_id(prefix: &str, rng: &mut dyn Rng) -> Arc<str> {
    let mut bytes = rng.bytes16();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{prefix}-{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)).into()
}
