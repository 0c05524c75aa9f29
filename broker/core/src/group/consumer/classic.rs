//! Members of a consumer group that speak the classic protocol: JoinGroup brings them a step further as a heartbeat does
//! others, SyncGroup tells them what they have, and Heartbeat tells them when to join again.

use std::sync::Arc;

use bytes::Bytes;
use odradek_common::{ErrorCode, Uuid};
use odradek_wire::leave_group_response::MemberResponse;
use odradek_wire::{
    ConsumerProtocolSubscription, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, Str, SyncGroupRequest, SyncGroupResponse,
};

use super::heartbeat::{Advance, Found};
use super::member::{ClassicInfo, ConsumerMember, MemberInfo, MemberState, Partitions};
use super::migrate::{classic_assignment, subscribed_by_name, subscription};
use super::target::Change;
use super::{ConsumerGroup, millis};
use crate::coordinator::Ticket;
use crate::group::classic::{CONSUMER, protocols};
use crate::group::rebalance::{join_failed, sync_failed};
use crate::group::session::heartbeat;
use crate::group::{GroupClient, GroupRecord, GroupResponse, GroupShard, GroupTimer, GroupTurn, Why};

/// The first version whose members get their id before they are let in (KIP-394).
const KNOWN_MEMBER_ID: i16 = 4;

/// What JoinGroup comes to: the member that has joined, or why not, and who.
type Joined = Result<JoinGroupResponse, (ErrorCode, Arc<str>)>;

impl GroupShard {
    /// A classic JoinGroup to a consumer group with members.
    pub(in crate::group) fn join_as_classic(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &JoinGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        match self.try_join_as_classic(client, request, turn) {
            Ok(response) => turn.reply(ticket, GroupResponse::Join(response)),
            Err((error, member)) => turn.reply(ticket, join_failed(&member, error)),
        }
    }

    fn try_join_as_classic(
        &mut self,
        client: &GroupClient,
        request: &JoinGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) -> Joined {
        let id = request.group_id.as_str();
        let Some(group) = self.consumers.get(id) else { return Err((ErrorCode::UnknownMemberId, "".into())) };
        let is_unknown = request.member_id.is_empty();
        let member_id: Arc<str> = match is_unknown {
            true => Uuid::from_random(turn.rng.bytes16()).to_string().into(),
            false => request.member_id.as_str().into(),
        };
        let told: Arc<str> = request.member_id.as_str().into();
        let refused = |error: ErrorCode| (error, told.clone());
        if self.config.consumer.migration == super::MigrationPolicy::Disabled {
            return Err(refused(ErrorCode::InconsistentGroupProtocol));
        }
        group.check_room(&member_id, &self.config.consumer).map_err(|refusal| refused(refusal.code))?;
        let said = group.check_protocols(request).ok_or_else(|| refused(ErrorCode::InconsistentGroupProtocol))?;
        if is_unknown && request.group_instance_id.is_none() && client.api_version >= KNOWN_MEMBER_ID {
            return Err((ErrorCode::MemberIdRequired, member_id));
        }
        let found = group.find_classic(&member_id, request).map_err(refused)?;
        let replaced = found.replaced.clone();
        let info = told_by_classic(client, request, &said);
        let is_downgrade = {
            let member = ConsumerMember { info: info.clone(), ..found.member.clone() };
            replaced.as_ref().is_some_and(|gone| {
                let change = Change { updated: Some(&member), gone: std::slice::from_ref(gone) };
                self.may_downgrade(group, change)
            })
        };
        let owned = self.owned_by_classic(&said);
        let advance = Advance { group, found, info, owned: Some(owned), joins: true, may_retarget: !is_downgrade };
        let mut records: Vec<GroupRecord> = Vec::new();
        let advanced = self.advance(&advance, turn, &mut records).map_err(|refusal| refused(refusal.code))?;
        let member = &advanced.member;
        let response = JoinGroupResponse {
            member_id: Str::from(&*member.id),
            generation_id: member.current.epoch,
            protocol_type: Some(Str::from_static(CONSUMER)),
            protocol_name: member.first_protocol().map(|(name, _)| Str::from(&**name)),
            ..JoinGroupResponse::default()
        };
        if is_downgrade {
            let gone: Vec<Arc<str>> = replaced.into_iter().collect();
            let member = member.clone();
            self.tell_why(&advanced);
            self.downgrade(id, &gone, Some(&member), advanced.is_raised, turn);
            return Ok(response);
        }
        let timer = |kind: fn(Arc<str>, Arc<str>) -> GroupTimer| kind(group.id.clone(), member.id.clone());
        turn.cancel(timer(|group, member| GroupTimer::MemberJoin { group, member }));
        let session = timer(|group, member| GroupTimer::Session { group, member });
        turn.schedule(session, millis(request.session_timeout_ms));
        let sync = timer(|group, member| GroupTimer::MemberSync { group, member });
        turn.schedule(sync, millis(request.rebalance_timeout_ms));
        if let Some(group) = self.consumers.get_mut(id) {
            group.awaited.remove(&advanced.member.id);
        }
        self.advanced(id, &advanced, records, turn);
        Ok(response)
    }

    fn owned_by_classic(&self, said: &ConsumerProtocolSubscription) -> Partitions {
        self.topics.by_id(said.owned_partitions.iter().map(|topic| (&*topic.topic, &*topic.partitions)))
    }

    pub(in crate::group) fn sync_as_classic(
        &mut self,
        ticket: Ticket,
        request: &SyncGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        let answer = match self.try_sync_as_classic(request, turn) {
            Ok(assignment) => GroupResponse::Sync(SyncGroupResponse {
                protocol_type: request.protocol_type.clone(),
                protocol_name: request.protocol_name.clone(),
                assignment,
                ..SyncGroupResponse::default()
            }),
            Err(error) => sync_failed(error),
        };
        turn.reply(ticket, answer);
    }

    fn try_sync_as_classic(
        &mut self,
        request: &SyncGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) -> Result<Bytes, ErrorCode> {
        let id = request.group_id.as_str();
        let group = self.consumers.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        let (member, classic) = group.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if member.current.epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        let protocol = classic.protocols.first().map(|(name, _)| &**name).unwrap_or_default();
        let differs = |named: &Option<Str>, own: &str| named.as_deref().is_some_and(|named| named != own);
        if differs(&request.protocol_type, CONSUMER) || differs(&request.protocol_name, protocol) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if group.target_epoch() > member.current.epoch && member.current.state != MemberState::Unrevoked {
            let member = member.id.clone();
            self.await_join(id, &member, turn);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let of = || (group.id.clone(), member.id.clone());
        let ((sync, synced), (session, whose)) = (of(), of());
        turn.cancel(GroupTimer::MemberSync { group: sync, member: synced });
        turn.schedule(GroupTimer::Session { group: session, member: whose }, millis(classic.session_timeout_ms));
        let version = member.first_protocol().and_then(|(_, metadata)| Some(subscription(metadata).ok()?.0));
        let assigned = member.current.assigned.iter();
        let assigned = assigned.map(|(topic, partitions)| (*topic, partitions.keys().copied().collect()));
        Ok(classic_assignment(assigned, version.unwrap_or(0), &self.topics))
    }

    pub(in crate::group) fn heartbeat_as_classic(
        &mut self,
        ticket: Ticket,
        request: &HeartbeatRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        let error = self.try_heartbeat_as_classic(request, turn).err().unwrap_or(ErrorCode::None);
        turn.reply(ticket, heartbeat(error));
    }

    fn try_heartbeat_as_classic(
        &mut self,
        request: &HeartbeatRequest,
        turn: &mut GroupTurn<'_>,
    ) -> Result<(), ErrorCode> {
        let id = request.group_id.as_str();
        let group = self.consumers.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        let (member, classic) = group.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        if member.current.epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        let session = GroupTimer::Session { group: group.id.clone(), member: member.id.clone() };
        turn.schedule(session, millis(classic.session_timeout_ms));
        let must_rejoin = member.current.epoch < group.target_epoch()
            || match member.current.state {
                MemberState::Unrevoked => true,
                MemberState::Unreleased => !group.waits(member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        if !must_rejoin {
            return Ok(());
        }
        let member = member.id.clone();
        self.await_join(id, &member, turn);
        Err(ErrorCode::RebalanceInProgress)
    }

    /// A member is told to join again. Its time to do so begins once.
    fn await_join(&mut self, id: &str, member: &Arc<str>, turn: &mut GroupTurn<'_>) {
        let Some(group) = self.consumers.get_mut(id) else { return };
        if group.awaited.insert(member.clone()) {
            let timeout_ms = group.member(member).map_or(0, |member| member.info.rebalance_timeout_ms);
            let timer = GroupTimer::MemberJoin { group: group.id.clone(), member: member.clone() };
            turn.schedule(timer, millis(timeout_ms));
        }
    }

    /// A member that was to join again, or to ask for its assignment, has not.
    pub(in crate::group) fn on_classic_member_timeout(
        &mut self,
        group: &str,
        member: &Arc<str>,
        what: &str,
        turn: &mut GroupTurn<'_>,
    ) {
        let found = self.consumers.get(group).and_then(|group| group.member(member));
        if found.is_some_and(ConsumerMember::is_classic) {
            self.fence(group, std::slice::from_ref(member), (Why::RebalanceTimeout, what), turn);
        }
    }

    pub(in crate::group) fn leave_as_classic(
        &mut self,
        ticket: Ticket,
        request: &LeaveGroupRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        let id = request.group_id.as_str();
        let mut leaving: Vec<Arc<str>> = Vec::new();
        let mut members = Vec::with_capacity(request.members.len());
        if let Some(group) = self.consumers.get(id) {
            for member in &request.members {
                let instance_id = member.group_instance_id.as_deref();
                let found = match instance_id {
                    // By its instance id alone an operator takes a member out (KIP-345).
                    Some(instance_id) if member.member_id.is_empty() => {
                        let found = group.static_member(instance_id).ok_or(ErrorCode::UnknownMemberId);
                        found.and_then(|member| group.classic_member(&member.id, None))
                    }
                    _ => group.classic_member(&member.member_id, instance_id),
                };
                let mut response = MemberResponse {
                    member_id: member.member_id.clone(),
                    group_instance_id: member.group_instance_id.clone(),
                    ..MemberResponse::default()
                };
                match found {
                    Ok((found, _)) => {
                        response.member_id = Str::from(&*found.id);
                        if !leaving.contains(&found.id) {
                            leaving.push(found.id.clone());
                        }
                    }
                    Err(error) => response.error_code = error.code(),
                }
                members.push(response);
            }
        }
        if !leaving.is_empty() {
            let is_removal = request.members.iter().all(|member| member.member_id.is_empty());
            let why = if is_removal { Why::Removed } else { Why::Left };
            self.fence(id, &leaving, (why, "have left"), turn);
        }
        turn.reply(ticket, GroupResponse::Leave(LeaveGroupResponse { members, ..LeaveGroupResponse::default() }));
    }
}

/// What is known of a member from its JoinGroup.
fn told_by_classic(
    client: &GroupClient,
    request: &JoinGroupRequest,
    said: &ConsumerProtocolSubscription,
) -> MemberInfo {
    MemberInfo {
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        client_id: client.client_id.clone(),
        client_host: client.host.clone(),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        classic: Some(ClassicInfo {
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols(&request.protocols),
        }),
        ..subscribed_by_name(said)
    }
}

impl ConsumerMember {
    /// The one that it is answered in.
    fn first_protocol(&self) -> Option<&(Arc<str>, Bytes)> {
        self.info.classic.as_ref()?.protocols.first()
    }
}

impl ConsumerGroup {
    /// What a member says in the first protocol that it offers; `None` if that is nothing that consumers say, or if members
    /// of the classic kind have no protocol in common with it.
    fn check_protocols(&self, request: &JoinGroupRequest) -> Option<ConsumerProtocolSubscription> {
        let is_common = |name: &str| {
            let count = self.classic_protocols.get(name).copied().unwrap_or(0);
            self.members.is_empty() || count == self.classic_count
        };
        let fits = request.protocol_type == CONSUMER && request.protocols.iter().any(|offer| is_common(&offer.name));
        let first = request.protocols.first().filter(|_| fits)?;
        Some(subscription(&first.metadata).ok()?.1)
    }

    fn find_classic(&self, id: &Arc<str>, request: &JoinGroupRequest) -> Result<Found, ErrorCode> {
        let known = || self.members.get(id).cloned().unwrap_or_else(|| ConsumerMember::new(id.clone()));
        let Some(instance_id) = request.group_instance_id.as_deref() else { return Ok(Found::known(known())) };
        match self.static_member(instance_id) {
            None if request.member_id.is_empty() => Ok(Found::known(known())),
            // It comes back without its id, or from the other protocol.
            Some(existing) if request.member_id.is_empty() => Ok(self.replace(existing, id.clone())),
            _ => {
                let member = self.expect_static(instance_id, id).map_err(|refusal| refusal.code)?;
                Ok(Found::known(member.clone()))
            }
        }
    }

    /// The member with this id, and this instance id, if it speaks the classic protocol.
    fn classic_member(
        &self,
        id: &str,
        instance_id: Option<&str>,
    ) -> Result<(&ConsumerMember, &ClassicInfo), ErrorCode> {
        let member = match instance_id {
            Some(instance_id) => self.expect_static(instance_id, id).map_err(|refusal| refusal.code)?,
            None => self.member(id).ok_or(ErrorCode::UnknownMemberId)?,
        };
        Ok((member, member.info.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?))
    }

    /// Whether all that a member still is to get is held by others.
    fn waits(&self, member: &ConsumerMember) -> bool {
        let target = self.target.get(&member.id).into_iter().flatten();
        let mut missing = target.flat_map(|(topic, partitions)| partitions.iter().map(|p| (*topic, *p)));
        missing.any(|(topic, partition)| {
            let has = member.current.assigned.get(&topic).is_some_and(|of_topic| of_topic.contains_key(&partition));
            !has && self.owners.contains_key(&(topic, partition))
        })
    }
}
