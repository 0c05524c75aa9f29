//! SyncGroup, Heartbeat and LeaveGroup: what members do within a generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::leave_group_response::MemberResponse;
use odradek_wire::{HeartbeatRequest, HeartbeatResponse, LeaveGroupRequest, LeaveGroupResponse, Str, SyncGroupRequest};

use super::classic::{ClassicGroup, State};
use super::journal::Why;
use super::rebalance::{join_failed, sync_failed};
use super::records::GroupRecord;
use super::{GroupPending, GroupResponse, GroupShard, GroupTurn};
use crate::coordinator::Ticket;

pub(super) fn heartbeat(error: ErrorCode) -> GroupResponse {
    GroupResponse::Heartbeat(HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() })
}

impl GroupShard {
    pub(super) fn sync(&mut self, ticket: Ticket, request: &SyncGroupRequest, turn: &mut GroupTurn<'_>) {
        match self.open(&request.group_id) {
            Some((group, _)) => group.sync(ticket, request, turn),
            None => turn.reply_now(ticket, sync_failed(ErrorCode::UnknownMemberId)),
        }
        self.tell_journal(&request.group_id, false);
    }

    pub(super) fn heartbeat(&mut self, ticket: Ticket, request: &HeartbeatRequest, turn: &mut GroupTurn<'_>) {
        let error = match self.open(&request.group_id) {
            Some((group, _)) => group.heartbeat(request, turn),
            None => ErrorCode::UnknownMemberId,
        };
        turn.reply_now(ticket, heartbeat(error));
    }

    pub(super) fn leave(&mut self, ticket: Ticket, request: &LeaveGroupRequest, turn: &mut GroupTurn<'_>) {
        let members = match self.open(&request.group_id) {
            None => request.members.iter().map(|member| left(member, Err(ErrorCode::UnknownMemberId))).collect(),
            Some((group, config)) => {
                let members: Vec<_> =
                    request.members.iter().map(|member| left(member, group.leave(member, turn))).collect();
                let gone = members.iter().filter(|member| member.error_code == 0).count();
                if gone > 0 {
                    match group.state() {
                        State::Stable | State::CompletingRebalance => {
                            group.rebalance_or_complete(&format!("{gone} members have left"), turn, config);
                        }
                        State::PreparingRebalance => group.complete_join_if_due(turn),
                        State::Empty | State::Dead => {}
                    }
                }
                members
            }
        };
        self.tell_journal(&request.group_id, false);
        turn.reply(ticket, GroupResponse::Leave(LeaveGroupResponse { members, ..LeaveGroupResponse::default() }));
    }
}

fn left(member: &MemberIdentity, result: Result<(), ErrorCode>) -> MemberResponse {
    MemberResponse {
        member_id: member.member_id.clone(),
        group_instance_id: member.group_instance_id.clone(),
        error_code: result.err().map_or(0, ErrorCode::code),
        ..MemberResponse::default()
    }
}

impl ClassicGroup {
    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        if self.is(State::Empty) {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |named: &Option<Str>, own: &Option<Arc<str>>| match (named, own) {
            (Some(named), Some(own)) => *named != **own,
            _ => false,
        };
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn sync(&mut self, ticket: Ticket, request: &SyncGroupRequest, turn: &mut GroupTurn<'_>) {
        if let Err(error) = self.check_sync(request) {
            return turn.reply_now(ticket, sync_failed(error));
        }
        let id = request.member_id.as_str();
        match self.state() {
            State::CompletingRebalance => {
                if let Some(before) = self.take_sync(id) {
                    turn.reply_now(before, sync_failed(ErrorCode::RebalanceInProgress));
                }
                if let Some(member) = self.member_mut(id) {
                    member.awaiting_sync = Some(ticket);
                }
                self.on_synced(id, turn);
                if self.is_leader(id) {
                    self.store_assignment(request, turn);
                }
            }
            State::Stable => {
                self.on_synced(id, turn);
                let assignment = self.member(id).map(|member| member.assignment.clone()).unwrap_or_default();
                turn.reply_now(ticket, self.synced(assignment));
            }
            State::PreparingRebalance | State::Empty | State::Dead => {
                turn.reply_now(ticket, sync_failed(ErrorCode::RebalanceInProgress));
            }
        }
    }

    /// The leader has spoken. Members get their part once it is committed.
    fn store_assignment(&mut self, request: &SyncGroupRequest, turn: &mut GroupTurn<'_>) {
        let mut assignment: BTreeMap<Arc<str>, Bytes> = BTreeMap::new();
        for assigned in &request.assignments {
            assignment.insert(assigned.member_id.as_str().into(), Bytes::copy_from_slice(&assigned.assignment));
        }
        assignment.retain(|id, _| self.member(id).is_some());
        for member in self.members() {
            assignment.entry(member.id.clone()).or_default();
        }
        turn.note(format!(
            "group {}: the leader has assigned generation {} of {} members, {} of them static",
            self.id,
            self.generation,
            self.member_count(),
            self.static_count()
        ));
        turn.record(GroupRecord::Group(self.id.clone(), Some(self.to_record(&assignment))));
        turn.then(GroupPending::Assigned { group: self.id.clone(), generation: self.generation, assignment });
    }

    fn heartbeat(&mut self, request: &HeartbeatRequest, turn: &mut GroupTurn<'_>) -> ErrorCode {
        if let Err(error) = self.check_member(&request.member_id, request.group_instance_id.as_deref()) {
            return error;
        }
        if request.generation_id != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        match self.state() {
            State::Empty | State::Dead => ErrorCode::UnknownMemberId,
            State::PreparingRebalance => {
                self.start_session(&request.member_id, turn);
                ErrorCode::RebalanceInProgress
            }
            State::CompletingRebalance | State::Stable => {
                self.start_session(&request.member_id, turn);
                ErrorCode::None
            }
        }
    }

    /// A member goes, or is made to go by its instance id alone (KIP-345).
    fn leave(&mut self, member: &MemberIdentity, turn: &mut GroupTurn<'_>) -> Result<(), ErrorCode> {
        let instance_id = member.group_instance_id.as_deref();
        let id: Arc<str> = if member.member_id.is_empty() {
            let known = instance_id.and_then(|instance_id| self.static_member(instance_id));
            known.cloned().ok_or(ErrorCode::UnknownMemberId)?
        } else {
            member.member_id.as_str().into()
        };
        if !self.is_pending(&id) {
            self.check_member(&id, instance_id)?;
        }
        let why = if member.member_id.is_empty() { Why::Removed } else { Why::Left };
        self.trace_member(why, &id, member.reason.as_deref().unwrap_or_default());
        let reason = member.reason.as_deref().unwrap_or("not provided");
        turn.note(format!("group {}: {id} leaves; client reason: {reason}", self.id));
        self.end_session(&id, turn);
        if let Some(join) = self.take_join(&id) {
            turn.reply_now(join, join_failed("", ErrorCode::UnknownMemberId));
        }
        if let Some(sync) = self.take_sync(&id) {
            turn.reply_now(sync, sync_failed(ErrorCode::UnknownMemberId));
        }
        self.remove(&id);
        Ok(())
    }

    /// Who may commit offsets to the group.
    pub(super) fn check_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        is_transactional: bool,
    ) -> Result<(), ErrorCode> {
        // Consumers without a group, and tools, name no generation: they may while nobody is in the group.
        if generation < 0 && self.is(State::Empty) {
            return Ok(());
        }
        if generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
            self.check_member(member_id, instance_id)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !is_transactional {
            return Err(ErrorCode::UnknownMemberId);
        }
        if !is_transactional && self.is(State::CompletingRebalance) {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }
}
