//! How members go: on their own, for a while, or because nothing is heard of them.

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, Str};

use super::member::{AWAY_EPOCH, Assigned, CurrentAssignment};
use super::records::{ConsumerRecord, GroupEpoch};
use super::target::Change;
use super::{ConsumerGroup, Refusal, millis};
use crate::group::{GroupRecord, GroupShard, GroupTimer, GroupTurn, Why};

impl GroupShard {
    pub(super) fn consumer_leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        turn: &mut GroupTurn<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let id = request.group_id.as_str();
        let group = self.expect_consumer_group(id)?;
        let member = match request.instance_id.as_deref() {
            None => group.expect_member(&request.member_id)?,
            Some(instance_id) => group.expect_static(instance_id, &request.member_id)?,
        };
        let leaving = member.id.clone();
        if request.member_epoch == AWAY_EPOCH {
            turn.note(format!("group {id}: {leaving} has left for a while"));
            let cause = member.cause(Why::Away, "");
            let current = CurrentAssignment { epoch: AWAY_EPOCH, revoking: Assigned::new(), ..member.current.clone() };
            // It has its session to come back in, and nothing to give up meanwhile.
            turn.cancel(GroupTimer::Revocation { group: group.id.clone(), member: leaving.clone() });
            let record = ConsumerRecord::Current(leaving, Some(current));
            turn.record(GroupRecord::Consumer(group.id.clone(), record));
            self.journals.because(cause);
        } else {
            self.fence(id, &[leaving], (Why::Left, "has left"), turn);
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(Str::from(request.member_id.as_str())),
            member_epoch: request.member_epoch,
            ..ConsumerGroupHeartbeatResponse::default()
        })
    }

    pub(super) fn expect_consumer_group(&self, id: &str) -> Result<&ConsumerGroup, Refusal> {
        match self.consumers.get(id) {
            Some(group) => Ok(group),
            None if self.groups.contains_key(id) => Err(super::heartbeat::not_a_consumer_group(id)),
            None => Err(Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found."))),
        }
    }

    /// Takes members out of a group, which is then in a new epoch; or, if none is left that speaks the consumer protocol, and
    /// it may, of the classic protocol again.
    pub(super) fn fence(&mut self, id: &str, members: &[Arc<str>], (why, what): (Why, &str), turn: &mut GroupTurn<'_>) {
        let Some(group) = self.consumers.get(id) else { return };
        for member in members.iter().filter_map(|member| group.member(member)) {
            // That it has left says all.
            self.journals.because(member.cause(why, if why == Why::RebalanceTimeout { what } else { "" }));
        }
        for timer in members.iter().flat_map(|member| timers(&group.id, member)) {
            turn.cancel(timer);
        }
        turn.note(format!("group {id}: {} {what}", members.join(", ")));
        let change = Change { updated: None, gone: members };
        if self.may_downgrade(group, change) {
            return self.downgrade(id, members, None, true, turn);
        }
        let mut log = |record: ConsumerRecord| turn.record(GroupRecord::Consumer(group.id.clone(), record));
        for member in members {
            log(ConsumerRecord::Current(member.clone(), None));
            log(ConsumerRecord::TargetMember(member.clone(), None));
            log(ConsumerRecord::Member(member.clone(), None));
        }
        let left = group.regexes_after(change);
        for regex in group.by_regex.keys().filter(|regex| !left.contains(*regex)) {
            log(ConsumerRecord::Regex(regex.clone(), None));
        }
        let epoch = group.epoch() + 1;
        log(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash: group.hash_after(change, &self.topics) })));
        turn.note(format!("group {id}: epoch {epoch}: members have left"));
    }

    /// Nothing was heard of a member.
    pub(in crate::group) fn on_consumer_session_timeout(
        &mut self,
        group: &str,
        member: &Arc<str>,
        turn: &mut GroupTurn<'_>,
    ) {
        if self.consumers.get(group).is_some_and(|group| group.member(member).is_some()) {
            let why = (Why::SessionTimeout, "was not heard of within the session timeout");
            self.fence(group, std::slice::from_ref(member), why, turn);
        }
    }

    /// A member has not given up what it had to.
    pub(in crate::group) fn on_revocation_timeout(&mut self, group: &str, member: &Arc<str>, turn: &mut GroupTurn<'_>) {
        let found = self.consumers.get(group).and_then(|group| group.member(member));
        if found.is_some_and(|member| member.current.has_to_revoke()) {
            let why = (Why::RebalanceTimeout, "did not give its partitions up in time");
            self.fence(group, std::slice::from_ref(member), why, turn);
        }
    }

    /// After a load nobody is late.
    pub(in crate::group) fn start_consumer_sessions(&self, turn: &mut GroupTurn<'_>) {
        for group in self.consumers.values() {
            let session_timeout_ms = self.session_timeout_ms(&group.id);
            for member in group.members() {
                let (group, id) = (group.id.clone(), member.id.clone());
                let classic = member.info.classic.as_ref().map(|classic| classic.session_timeout_ms);
                let session = GroupTimer::Session { group: group.clone(), member: id.clone() };
                turn.schedule(session, millis(classic.unwrap_or(session_timeout_ms)));
                if member.current.has_to_revoke() && !member.is_classic() {
                    let revocation = GroupTimer::Revocation { group, member: id };
                    turn.schedule(revocation, millis(member.info.rebalance_timeout_ms));
                }
            }
        }
    }
}

/// All that a member may have.
pub(super) fn timers(group: &Arc<str>, member: &Arc<str>) -> [GroupTimer; 2] {
    let (group, member) = (group.clone(), member.clone());
    [GroupTimer::Session { group: group.clone(), member: member.clone() }, GroupTimer::Revocation { group, member }]
}
