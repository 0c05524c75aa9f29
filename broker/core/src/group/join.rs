//! JoinGroup: new members, members that join again, and static members that come back under a new id.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_wire::JoinGroupRequest;

use super::classic::{ClassicGroup, Member, Protocols, State, new_member_id, protocols};
use super::journal::Why;
use super::rebalance::{join_failed, millis, sync_failed};
use super::records::GroupRecord;
use super::{
    GroupClient, GroupConfig, GroupPending, GroupResponse, GroupShard, GroupTimer, GroupTurn, NEW_MEMBER_PATIENCE,
};
use crate::coordinator::Ticket;

/// The first version whose members get their id before they are let in (KIP-394).
const KNOWN_MEMBER_ID: i16 = 4;

/// The first version whose leader can be told not to assign anew (KIP-814).
const SKIP_ASSIGNMENT: i16 = 9;

/// A static member's new id that waits for its record, with what to go back to.
#[derive(Clone, Debug)]
pub struct Replaced {
    pub(super) group: Arc<str>,
    join: Ticket,
    old_id: Arc<str>,
    new_id: Arc<str>,
    old_leader: Option<Arc<str>>,
    old_protocols: Protocols,
    old_rebalance_timeout_ms: i32,
    old_session_timeout_ms: i32,
    skips_assignment: bool,
}

fn reason(request: &JoinGroupRequest) -> &str {
    request.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or("not provided")
}

impl GroupShard {
    pub(super) fn join(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        let (id, member_id) = (request.group_id.as_str(), request.member_id.as_str());
        if let Some(consumer) = self.consumers.get(id).filter(|_| member_id.is_empty()) {
            // Nobody is in it: it begins anew as a classic one.
            for record in consumer.tombstones() {
                turn.record(GroupRecord::Consumer(consumer.id.clone(), record));
            }
        }
        let is_new_group = !self.groups.contains_key(id);
        if is_new_group {
            if !member_id.is_empty() {
                return turn.reply_now(ticket, join_failed(member_id, ErrorCode::UnknownMemberId));
            }
            let id: Arc<str> = id.into();
            self.groups.insert(id.clone(), ClassicGroup::new(id, turn.wall().0));
        }
        let Some((group, config)) = self.open(id) else { return };
        if !group.accepts(member_id, config) {
            group.trace_member(Why::TooLarge, member_id, "did not find room when it joined again");
            group.remove(member_id);
            turn.reply_now(ticket, join_failed("", ErrorCode::GroupMaxSizeReached));
        } else if member_id.is_empty() {
            group.join_new(ticket, client, request, turn, config);
        } else {
            group.join_again(ticket, client, request, turn, config);
        }
        if is_new_group {
            // A record makes the group last though it has no generation yet.
            let record = GroupRecord::Group(group.id.clone(), Some(group.to_empty_record()));
            turn.record(record);
            turn.then(GroupPending::Created { group: group.id.clone(), join: ticket });
        }
        self.tell_journal(id, is_new_group);
    }
}

impl ClassicGroup {
    fn to_empty_record(&self) -> super::GroupMetadata {
        super::GroupMetadata {
            generation: self.generation,
            state_timestamp: self.state_timestamp,
            ..super::GroupMetadata::default()
        }
    }

    /// Whether there is room. While a group rebalances those who have joined count, so that of a group that became too
    /// large the last to join again are out.
    fn accepts(&self, member_id: &str, config: &GroupConfig) -> bool {
        match self.state() {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                self.member(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_joins() < config.size_max
            }
            State::CompletingRebalance | State::Stable => {
                self.member(member_id).is_some() || self.member_count() < config.size_max
            }
        }
    }

    fn join_new(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        turn: &mut GroupTurn<'_>,
        config: &GroupConfig,
    ) {
        if !self.supports(&request.protocol_type, &request.protocols) {
            return turn.reply_now(ticket, join_failed("", ErrorCode::InconsistentGroupProtocol));
        }
        let instance_id = request.group_instance_id.as_deref();
        let new_id = new_member_id(instance_id.unwrap_or(&client.client_id), turn.rng);
        let known = instance_id.and_then(|instance_id| self.static_member(instance_id).cloned());
        match (instance_id, known) {
            (Some(_), Some(old_id)) => self.join_replacing(ticket, client, request, old_id, new_id, turn, config),
            (None, _) if client.api_version >= KNOWN_MEMBER_ID => {
                self.add_pending(new_id.clone());
                self.schedule_session(&new_id, millis(request.session_timeout_ms), turn);
                turn.reply_now(ticket, join_failed(&new_id, ErrorCode::MemberIdRequired));
            }
            _ => self.add_member(ticket, client, request, new_id, turn, config),
        }
    }

    fn add_member(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        id: Arc<str>,
        turn: &mut GroupTurn<'_>,
        config: &GroupConfig,
    ) {
        if self.is(State::PreparingRebalance) && self.previous_state() == State::Empty {
            self.has_new_member = true;
        }
        if self.member_count() == 0 {
            self.protocol_type = Some(request.protocol_type.as_str().into());
        }
        self.add(Member {
            id: id.clone(),
            instance_id: request.group_instance_id.as_deref().map(Arc::from),
            client_id: client.client_id.clone(),
            client_host: client.host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols(&request.protocols),
            assignment: Bytes::new(),
            awaiting_join: Some(ticket),
            awaiting_sync: None,
            is_new: true,
        });
        self.trace_member(Why::Joined, &id, request.reason.as_deref().unwrap_or_default());
        self.schedule_session(&id, NEW_MEMBER_PATIENCE, turn);
        let reason = format!("{id} joins; client reason: {}", reason(request));
        self.rebalance_or_complete(&reason, turn, config);
    }

    fn join_again(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        turn: &mut GroupTurn<'_>,
        config: &GroupConfig,
    ) {
        let (id, instance_id) = (request.member_id.as_str(), request.group_instance_id.as_deref());
        if !self.supports(&request.protocol_type, &request.protocols) {
            return turn.reply_now(ticket, join_failed(id, ErrorCode::InconsistentGroupProtocol));
        }
        if self.is_pending(id) {
            return match instance_id {
                // Ids that wait to join belong to members without an instance id.
                Some(_) => turn.reply_now(ticket, join_failed(id, ErrorCode::UnknownMemberId)),
                None => self.add_member(ticket, client, request, id.into(), turn, config),
            };
        }
        if let Err(error) = self.check_member(id, instance_id) {
            return turn.reply_now(ticket, join_failed(id, error));
        }
        let is_same = self.member(id).is_some_and(|member| member.matches(&request.protocols));
        let (why, what) = match self.state() {
            State::PreparingRebalance => (None, "joins again"),
            // It may not have received the answer to its last JoinGroup: it gets it again.
            State::CompletingRebalance if is_same => {
                return turn.reply_now(ticket, GroupResponse::Join(self.joined(id, self.is_leader(id))));
            }
            // The leader joins when something else has changed that the assignment depends on, as a topic's partitions.
            State::Stable if self.is_leader(id) => {
                let why = if is_same { Why::LeaderRejoined } else { Why::Subscription };
                (Some(why), "leads the group and joins again")
            }
            State::Stable if is_same => {
                return turn.reply_now(ticket, GroupResponse::Join(self.joined(id, false)));
            }
            State::CompletingRebalance | State::Stable => (Some(Why::Subscription), "has changed its metadata"),
            State::Empty | State::Dead => {
                return turn.reply_now(ticket, join_failed(id, ErrorCode::UnknownMemberId));
            }
        };
        let reason = format!("{id} {what}; client reason: {}", reason(request));
        if let Some(why) = why {
            self.trace_member(why, id, request.reason.as_deref().unwrap_or_default());
        }
        // A JoinGroup that is sent again takes the place of the first.
        if let Some(before) = self.take_join(id) {
            turn.reply_now(before, join_failed(id, ErrorCode::RebalanceInProgress));
        }
        let timeouts = (request.rebalance_timeout_ms, request.session_timeout_ms);
        self.update(id, protocols(&request.protocols), timeouts.0, timeouts.1, Some(ticket));
        self.rebalance_or_complete(&reason, turn, config);
    }

    /// A static member has come back without its id. If nothing else has changed, the group need not rebalance.
    #[expect(clippy::too_many_arguments, reason = "a request with its context")]
    fn join_replacing(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        old_id: Arc<str>,
        new_id: Arc<str>,
        turn: &mut GroupTurn<'_>,
        config: &GroupConfig,
    ) {
        let Some(old) = self.member(&old_id) else { return };
        let replaced = Replaced {
            group: self.id.clone(),
            join: ticket,
            old_id: old_id.clone(),
            new_id: new_id.clone(),
            old_leader: self.leader.clone(),
            old_protocols: old.protocols.clone(),
            old_rebalance_timeout_ms: old.rebalance_timeout_ms,
            old_session_timeout_ms: old.session_timeout_ms,
            skips_assignment: client.api_version >= SKIP_ASSIGNMENT,
        };
        self.trace_member(Why::Replaced, &old_id, &format!("is now {new_id}"));
        self.fence(&old_id, turn);
        self.replace_static(&old_id, new_id.clone());
        self.start_session(&new_id, turn);
        let timeouts = (request.rebalance_timeout_ms, request.session_timeout_ms);
        self.update(&new_id, protocols(&request.protocols), timeouts.0, timeouts.1, Some(ticket));
        match self.state() {
            State::Stable if self.select_protocol() == self.protocol_name => {
                turn.note(format!("group {}: static member {old_id} is now {new_id}", self.id));
                turn.record(GroupRecord::Group(self.id.clone(), Some(self.to_record(&BTreeMap::new()))));
                turn.then(GroupPending::Replaced(Box::new(replaced)));
            }
            State::Stable => {
                let reason = format!("static member {new_id} changes the protocol; client reason: {}", reason(request));
                self.rebalance_or_complete(&reason, turn, config);
            }
            // The leader may have the old id already, and would assign to that.
            State::CompletingRebalance => {
                let reason = format!("static member {new_id} has come back; client reason: {}", reason(request));
                self.prepare_rebalance(&reason, turn, config);
            }
            _ => self.complete_join_if_due(turn),
        }
    }

    /// Whoever still waits under a static member's former id is told that it was replaced.
    fn fence(&mut self, old_id: &Arc<str>, turn: &mut GroupTurn<'_>) {
        if let Some(join) = self.take_join(old_id) {
            turn.reply_now(join, join_failed(old_id, ErrorCode::FencedInstanceId));
        }
        if let Some(sync) = self.take_sync(old_id) {
            turn.reply_now(sync, sync_failed(ErrorCode::FencedInstanceId));
        }
        turn.cancel(GroupTimer::Session { group: self.id.clone(), member: old_id.clone() });
    }

    pub(super) fn on_replacement_stored(
        &mut self,
        replaced: Replaced,
        result: Result<(), ErrorCode>,
        turn: &mut GroupTurn<'_>,
    ) {
        let (old_id, new_id) = (&replaced.old_id, &replaced.new_id);
        if let Err(error) = result {
            // Back to the old id, unless the member is gone or has been replaced again.
            if self.take_join(new_id) == Some(replaced.join) {
                let timeouts = (replaced.old_rebalance_timeout_ms, replaced.old_session_timeout_ms);
                self.update(new_id, replaced.old_protocols, timeouts.0, timeouts.1, None);
                self.replace_static(new_id, old_id.clone());
                self.trace_end_if_stable();
                turn.cancel(GroupTimer::Session { group: self.id.clone(), member: new_id.clone() });
                self.start_session(old_id, turn);
            }
            return turn.reply_now(replaced.join, join_failed("", error));
        }
        self.trace_end_if_stable();
        let Some(ticket) = self.take_join(new_id) else { return };
        let is_leader = self.is_leader(new_id);
        let mut response = self.joined(new_id, is_leader && replaced.skips_assignment);
        if replaced.skips_assignment {
            response.skip_assignment = is_leader;
        } else {
            // An old client that read its own id here would assign anew, and nobody else would hear of it.
            response.leader = replaced.old_leader.as_deref().map(Into::into).unwrap_or_default();
        }
        turn.reply_now(ticket, GroupResponse::Join(response));
    }
}
