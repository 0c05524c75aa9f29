//! A classic group's way from one generation to the next: everybody joins, one of them assigns, all get their part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_wire::{JoinGroupResponse, Str, SyncGroupResponse};

use super::classic::{ClassicGroup, JoinTimer, State};
use super::journal::{Cause, Why};
use super::records::GroupRecord;
use super::{GroupConfig, GroupResponse, GroupTimer, GroupTurn};
use crate::coordinator::Ticket;

pub(super) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The answer to a JoinGroup that failed.
pub(super) fn join_failed(member_id: &str, error: ErrorCode) -> GroupResponse {
    GroupResponse::Join(JoinGroupResponse {
        error_code: error.code(),
        member_id: Str::from(member_id),
        protocol_name: None,
        ..JoinGroupResponse::default()
    })
}

pub(super) fn sync_failed(error: ErrorCode) -> GroupResponse {
    GroupResponse::Sync(SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() })
}

impl ClassicGroup {
    /// The answer to a JoinGroup of a member of this generation.
    pub(super) fn joined(&self, member_id: &str, with_members: bool) -> JoinGroupResponse {
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.as_deref().map(Str::from),
            protocol_name: self.protocol_name.as_deref().map(Str::from),
            leader: self.leader.as_deref().map(Str::from).unwrap_or_default(),
            member_id: Str::from(member_id),
            members: if with_members { self.joined_members() } else { Vec::new() },
            ..JoinGroupResponse::default()
        }
    }

    pub(super) fn synced(&self, assignment: Bytes) -> GroupResponse {
        GroupResponse::Sync(SyncGroupResponse {
            protocol_type: self.protocol_type.as_deref().map(Str::from),
            protocol_name: self.protocol_name.as_deref().map(Str::from),
            assignment,
            ..SyncGroupResponse::default()
        })
    }

    // ---- sessions ----

    pub(super) fn start_session(&self, member_id: &str, turn: &mut GroupTurn<'_>) {
        if let Some(member) = self.member(member_id) {
            self.schedule_session(&member.id, millis(member.session_timeout_ms), turn);
        }
    }

    pub(super) fn schedule_session(&self, member: &Arc<str>, after: Duration, turn: &mut GroupTurn<'_>) {
        turn.schedule(GroupTimer::Session { group: self.id.clone(), member: member.clone() }, after);
    }

    pub(super) fn end_session(&self, member: &Arc<str>, turn: &mut GroupTurn<'_>) {
        turn.cancel(GroupTimer::Session { group: self.id.clone(), member: member.clone() });
    }

    /// After a load nobody is late.
    pub(super) fn start_sessions(&self, turn: &mut GroupTurn<'_>) {
        for member in self.members() {
            self.schedule_session(&member.id, millis(member.session_timeout_ms), turn);
        }
    }

    pub(super) fn on_session_timeout(&mut self, member_id: &str, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        if self.is_pending(member_id) {
            turn.note(format!("group {}: {member_id} did not join within its session timeout", self.id));
            self.remove(member_id);
            if self.is(State::PreparingRebalance) && self.have_all_joined() {
                self.complete_join(turn);
            }
            return;
        }
        let Some(member) = self.member(member_id) else { return };
        if member.is_excused() {
            return;
        }
        let reason = format!("the session of {member_id} has ended");
        self.trace_member(Why::SessionTimeout, member_id, "");
        // A new member may still wait with its JoinGroup; if it is there after all, it joins anew.
        if let Some(ticket) = self.take_join(member_id) {
            turn.reply_now(ticket, join_failed("", ErrorCode::UnknownMemberId));
        }
        if let Some(ticket) = self.take_sync(member_id) {
            turn.reply_now(ticket, sync_failed(ErrorCode::UnknownMemberId));
        }
        self.remove(member_id);
        match self.state() {
            State::Stable | State::CompletingRebalance => self.rebalance_or_complete(&reason, turn, config),
            State::PreparingRebalance if self.have_all_joined() => self.complete_join(turn),
            _ => {}
        }
    }

    // ---- joining ----

    pub(super) fn rebalance_or_complete(&mut self, reason: &str, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        if self.can_rebalance() {
            self.prepare_rebalance(reason, turn, config);
        } else {
            self.complete_join_if_due(turn);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, reason: &str, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        // Whoever waits for the assignment of this generation is to join the next one.
        if self.is(State::CompletingRebalance) {
            self.reset_assignment(ErrorCode::RebalanceInProgress, turn);
        }
        self.pending_sync.clear();
        turn.cancel(GroupTimer::Sync(self.id.clone()));
        let is_initial = self.is(State::Empty);
        turn.note(format!(
            "group {}: rebalancing from {} in generation {}: {reason}",
            self.id,
            self.state(),
            self.generation
        ));
        self.transition(State::PreparingRebalance, turn.wall().0);
        if is_initial {
            // More members are likely about to start: wait for them.
            let delay_ms = config.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            self.join_timer = JoinTimer::Initial { delay_ms, remaining_ms };
            turn.schedule(GroupTimer::Join(self.id.clone()), millis(delay_ms));
        } else if self.have_all_joined() {
            self.complete_join(turn);
        } else {
            self.schedule_join(turn);
        }
    }

    fn schedule_join(&mut self, turn: &mut GroupTurn<'_>) {
        self.join_timer = JoinTimer::Rebalance;
        turn.schedule(GroupTimer::Join(self.id.clone()), millis(self.rebalance_timeout_ms()));
    }

    /// Who waited for a rebalance was sent away, and the rebalance goes on.
    pub(super) fn resume_rebalance(&mut self, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        match self.state() {
            State::PreparingRebalance => self.schedule_join(turn),
            State::CompletingRebalance => {
                self.trace(Cause::of_group(Why::NotStored, "it could not change its protocol"));
                self.prepare_rebalance("it could not change its protocol", turn, config);
            }
            State::Empty | State::Stable | State::Dead => {}
        }
    }

    /// All have joined before the time was up. The first rebalance of a group waits for its time nevertheless.
    pub(super) fn complete_join_if_due(&mut self, turn: &mut GroupTurn<'_>) {
        let is_initial = self.previous_state() == State::Empty;
        if self.is(State::PreparingRebalance) && !is_initial && self.have_all_joined() {
            self.complete_join(turn);
        }
    }

    pub(super) fn on_join_timeout(&mut self, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        if !self.is(State::PreparingRebalance) {
            return;
        }
        match self.join_timer {
            JoinTimer::Initial { delay_ms, remaining_ms } if self.has_new_member && remaining_ms > 0 => {
                self.has_new_member = false;
                let next_ms = config.initial_rebalance_delay_ms.min(remaining_ms);
                let remaining_ms = remaining_ms.saturating_sub(delay_ms).max(0);
                self.join_timer = JoinTimer::Initial { delay_ms: next_ms, remaining_ms };
                turn.schedule(GroupTimer::Join(self.id.clone()), millis(next_ms));
            }
            _ => self.complete_join(turn),
        }
    }

    /// Ends the wait: whoever has not joined again is out, unless it is a static member.
    pub(super) fn complete_join(&mut self, turn: &mut GroupTurn<'_>) {
        turn.cancel(GroupTimer::Join(self.id.clone()));
        let late = self.members().filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none());
        let late: Vec<_> = late.map(|member| member.id.clone()).collect();
        for member in &late {
            self.trace_member(Why::RebalanceTimeout, member, "did not join again in time");
            self.remove(member);
            self.end_session(member, turn);
        }
        if !late.is_empty() {
            turn.note(format!("group {}: {} members did not join again: {}", self.id, late.len(), late.join(", ")));
        }
        if self.member_count() > 0 && !self.elect_joined_leader() {
            // Only static members are left, and none of them is here: until their sessions end.
            self.schedule_join(turn);
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        self.pending_sync.clear();
        if self.member_count() == 0 {
            self.protocol_name = None;
            self.compute_subscribed();
            self.transition(State::Empty, turn.wall().0);
            turn.note(format!("group {}: empty in generation {}", self.id, self.generation));
            self.trace_end();
            turn.record(GroupRecord::Group(self.id.clone(), Some(self.to_record(&BTreeMap::new()))));
            return;
        }
        self.protocol_name = self.select_protocol();
        self.compute_subscribed();
        self.transition(State::CompletingRebalance, turn.wall().0);
        turn.note(format!("group {}: generation {} has {} members", self.id, self.generation, self.member_count()));
        let members: Vec<_> = self.members().map(|member| member.id.clone()).collect();
        for id in members {
            if let Some(ticket) = self.take_join(&id) {
                turn.reply_now(ticket, GroupResponse::Join(self.joined(&id, self.is_leader(&id))));
            }
            self.start_session(&id, turn);
            if let Some(member) = self.member_mut(&id) {
                member.is_new = false;
            }
            self.pending_sync.insert(id);
        }
        turn.schedule(GroupTimer::Sync(self.id.clone()), millis(self.rebalance_timeout_ms()));
    }

    // ---- assignment ----

    /// Members that never asked for their assignment hold the group up.
    pub(super) fn on_sync_timeout(&mut self, turn: &mut GroupTurn<'_>, config: &GroupConfig) {
        if !matches!(self.state(), State::CompletingRebalance | State::Stable) || self.pending_sync.is_empty() {
            return;
        }
        let late = std::mem::take(&mut self.pending_sync);
        for member in &late {
            self.trace_member(Why::RebalanceTimeout, member, "did not ask for its assignment in time");
            self.remove(member);
            self.end_session(member, turn);
        }
        let reason = format!("{} members did not ask for their assignment", late.len());
        self.prepare_rebalance(&reason, turn, config);
    }

    pub(super) fn on_synced(&mut self, member_id: &str, turn: &mut GroupTurn<'_>) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            turn.cancel(GroupTimer::Sync(self.id.clone()));
        }
    }

    pub(super) fn on_assignment_stored(
        &mut self,
        generation: i32,
        mut assignment: BTreeMap<Arc<str>, Bytes>,
        result: Result<(), ErrorCode>,
        turn: &mut GroupTurn<'_>,
        config: &GroupConfig,
    ) {
        // Another rebalance may have begun meanwhile.
        if !self.is(State::CompletingRebalance) || self.generation != generation {
            return;
        }
        match result {
            Ok(()) => {
                for member in self.members_mut() {
                    member.assignment = assignment.remove(&member.id).unwrap_or_default();
                }
                self.transition(State::Stable, turn.wall().0);
                self.trace_end();
                self.answer_syncs(ErrorCode::None, turn);
            }
            Err(error) => {
                self.trace(Cause::of_group(Why::NotStored, &error.to_string()));
                self.reset_assignment(error, turn);
                self.rebalance_or_complete(&format!("the assignment could not be stored: {error}"), turn, config);
            }
        }
    }

    fn reset_assignment(&mut self, error: ErrorCode, turn: &mut GroupTurn<'_>) {
        for member in self.members_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(error, turn);
    }

    fn answer_syncs(&mut self, error: ErrorCode, turn: &mut GroupTurn<'_>) {
        let waiting = self.members_mut().filter_map(|member| {
            let ticket = member.awaiting_sync.take()?;
            Some((ticket, member.id.clone(), member.assignment.clone()))
        });
        let waiting: Vec<(Ticket, Arc<str>, Bytes)> = waiting.collect();
        for (ticket, id, assignment) in waiting {
            let response = if error.is_error() { sync_failed(error) } else { self.synced(assignment) };
            turn.reply_now(ticket, response);
            // A session that ended while its member waited was let pass.
            self.start_session(&id, turn);
        }
    }
}
