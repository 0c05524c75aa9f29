//! Groups that change their protocol while their members go on (KIP-848): to the consumer protocol when the first member
//! that speaks it joins, back when the last one leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::{ErrorCode, TopicId};
use odradek_wire::consumer_protocol_assignment::TopicPartition;
use odradek_wire::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, DecodeError, Message, Str, decode_versioned_up_to,
    encode_versioned,
};

use super::heartbeat::not_a_consumer_group;
use super::leave::timers;
use super::member::{Assigned, ClassicInfo, ConsumerMember, CurrentAssignment, MemberInfo, MemberState, Partitions};
use super::records::{ConsumerRecord, GroupEpoch, TargetEpoch};
use super::target::Change;
use super::topics::Topics;
use super::{ConsumerGroup, Refusal, millis};
use crate::group::classic::CONSUMER;
use crate::group::rebalance::{join_failed, sync_failed};
use crate::group::{
    Cause, ClassicGroup, GroupPending, GroupRecord, GroupShard, GroupTimer, GroupTurn, Member, State, Why,
};

/// What a member of the classic kind says of itself in the metadata of a protocol.
pub(super) fn subscription(metadata: &Bytes) -> Result<(i16, ConsumerProtocolSubscription), DecodeError> {
    decode_versioned_up_to(metadata.clone())
}

/// What that says of a member; the rest is empty.
pub(super) fn subscribed_by_name(said: &ConsumerProtocolSubscription) -> MemberInfo {
    MemberInfo {
        rack_id: said.rack_id.as_deref().filter(|rack| !rack.is_empty()).map(Arc::from),
        topics: said.topics.iter().map(|topic| Arc::from(topic.as_str())).collect(),
        ..MemberInfo::default()
    }
}

/// An assignment as members of the classic kind are given it, in the version of what they offered.
pub(super) fn classic_assignment(
    partitions: impl IntoIterator<Item = (TopicId, Vec<i32>)>,
    version: i16,
    topics: &Topics,
) -> Bytes {
    let assigned_partitions = partitions.into_iter().filter_map(|(topic, partitions)| {
        let topic = Str::from(&*topics.topic(topic)?.name);
        Some(TopicPartition { topic, partitions })
    });
    let assignment = ConsumerProtocolAssignment { assigned_partitions: assigned_partitions.collect(), user_data: None };
    let version = version.clamp(0, ConsumerProtocolAssignment::MAX_VERSION);
    encode_versioned(&assignment, version).unwrap_or_default()
}

/// What a classic member is said to have been assigned.
fn assigned(assignment: &Bytes, topics: &Topics) -> Result<Partitions, DecodeError> {
    if assignment.is_empty() {
        return Ok(Partitions::new());
    }
    let (_, assignment) = decode_versioned_up_to::<ConsumerProtocolAssignment>(assignment.clone())?;
    Ok(topics.by_id(assignment.assigned_partitions.iter().map(|topic| (&*topic.topic, &*topic.partitions))))
}

impl GroupShard {
    // ---- from classic to consumer ----

    /// A classic group as a consumer group, with the records that make it one. All its members are stable in the epoch that
    /// its generation becomes; who joins raises it.
    pub(super) fn upgrade(
        &self,
        classic: &ClassicGroup,
        records: &mut Vec<GroupRecord>,
    ) -> Result<ConsumerGroup, Refusal> {
        let config = &self.config.consumer;
        let may =
            config.migration.upgrades() && classic.is_consumer_group() && classic.member_count() <= config.size_max;
        if !may {
            return Err(not_a_consumer_group(&classic.id));
        }
        let mut group = ConsumerGroup::new(classic.id.clone());
        records.push(GroupRecord::Group(classic.id.clone(), None));
        for record in upgrade_records(classic, &self.topics).ok_or_else(|| malformed(&classic.id))? {
            if let ConsumerRecord::Current(_, Some(current)) = &record
                && current.held().any(|(topic, partition)| group.owner(topic, partition).is_some())
            {
                return Err(malformed(&classic.id));
            }
            records.push(GroupRecord::Consumer(classic.id.clone(), record.clone()));
            group.replay(record);
        }
        Ok(group)
    }

    /// The members of a classic group that becomes a consumer group are not kept waiting: they join again.
    pub(super) fn upgraded(&mut self, id: &str, turn: &mut GroupTurn<'_>) {
        let Some(classic) = self.groups.get_mut(id) else { return };
        let members: Vec<Arc<str>> = classic.members().map(|member| member.id.clone()).collect();
        if !members.is_empty() {
            self.journals.because(Cause::of_group(Why::ToConsumer, ""));
            turn.note(format!("group {id}: of the consumer protocol from now on, with {} members", members.len()));
        }
        for member in members {
            if let Some(join) = classic.take_join(&member) {
                turn.reply_now(join, join_failed(&member, ErrorCode::RebalanceInProgress));
            }
            if let Some(sync) = classic.take_sync(&member) {
                turn.reply_now(sync, sync_failed(ErrorCode::RebalanceInProgress));
            }
            classic.start_session(&member, turn);
        }
        turn.cancel(GroupTimer::Join(classic.id.clone()));
        turn.cancel(GroupTimer::Sync(classic.id.clone()));
        turn.then(GroupPending::Upgraded(classic.id.clone()));
    }

    // ---- from consumer to classic ----

    /// Whether all members that stay speak the classic protocol, and the group may follow them.
    pub(super) fn may_downgrade(&self, group: &ConsumerGroup, change: Change<'_>) -> bool {
        let is_last = change.gone.iter().any(|id| group.member(id).is_some_and(|member| !member.is_classic()));
        let mut staying = group.members_after(change).peekable();
        is_last
            && staying.peek().is_some()
            && self.config.consumer.migration.downgrades()
            && staying.all(ConsumerMember::is_classic)
            && group.members_after(change).count() <= self.config.size_max
    }

    /// Makes a classic group of what is left of a consumer group: stable, with what members are to have as what they have.
    pub(super) fn downgrade(
        &mut self,
        id: &str,
        gone: &[Arc<str>],
        joining: Option<&ConsumerMember>,
        rebalances: bool,
        turn: &mut GroupTurn<'_>,
    ) {
        let Some(group) = self.consumers.get(id) else { return };
        self.journals.because(Cause::of_group(Why::ToClassic, ""));
        for record in group.tombstones() {
            turn.record(GroupRecord::Consumer(group.id.clone(), record));
        }
        let change = Change { updated: joining, gone };
        let mut classic = ClassicGroup::new(group.id.clone(), turn.wall().0);
        classic.generation = group.epoch();
        classic.protocol_type = Some(CONSUMER.into());
        for member in group.members_after(change) {
            classic.add(classic_member(member));
        }
        classic.protocol_name = classic.select_protocol();
        classic.compute_subscribed();
        classic.transition(State::Stable, turn.wall().0);
        let protocol = classic.protocol_name.clone().unwrap_or_default();
        let mut assignment = BTreeMap::new();
        for member in group.members_after(change) {
            let offered = classic.member(&member.id).map(|member| member.metadata(&protocol)).unwrap_or_default();
            let version = subscription(&offered).map_or(0, |(version, _)| version);
            let target = group.target_of(member).into_iter();
            let target = target.map(|(topic, partitions)| (topic, partitions.into_iter().collect()));
            assignment.insert(member.id.clone(), classic_assignment(target, version, &self.topics));
        }
        for member in classic.members_mut() {
            member.assignment = assignment.get(&member.id).cloned().unwrap_or_default();
        }
        turn.note(format!("group {id}: of the classic protocol from now on, with {} members", classic.member_count()));
        turn.record(GroupRecord::Group(group.id.clone(), Some(classic.to_record(&BTreeMap::new()))));
        for member in classic.members() {
            for timer in timers(&group.id, &member.id) {
                turn.cancel(timer);
            }
            classic.schedule_session(&member.id, millis(member.session_timeout_ms), turn);
        }
        turn.cancel(GroupTimer::Regexes(group.id.clone()));
        if rebalances {
            turn.then(GroupPending::Downgraded(group.id.clone()));
        }
        self.downgraded = Some(classic);
    }
}

fn malformed(id: &str) -> Refusal {
    let message = format!(
        "Cannot upgrade the classic group {id} to consumer group because the embedded consumer protocol is malformed."
    );
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

/// `None`: what a member says is not what consumers say.
fn upgrade_records(classic: &ClassicGroup, topics: &Topics) -> Option<Vec<ConsumerRecord>> {
    let epoch = classic.generation;
    let (mut infos, mut targets, mut currents) = (Vec::new(), Vec::new(), Vec::new());
    for member in classic.members() {
        // Before the first generation is complete, none was chosen.
        let metadata = match &classic.protocol_name {
            Some(protocol) => member.metadata(protocol),
            None => member.protocols.first().map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
        };
        let (_, subscription) = subscription(&metadata).ok()?;
        let target = assigned(&member.assignment, topics).ok()?;
        let with_epoch = |partition: &i32| (*partition, epoch);
        let assigned: Assigned =
            target.iter().map(|(topic, partitions)| (*topic, partitions.iter().map(with_epoch).collect())).collect();
        let info = MemberInfo {
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            classic: Some(ClassicInfo {
                session_timeout_ms: member.session_timeout_ms,
                protocols: member.protocols.clone(),
            }),
            ..subscribed_by_name(&subscription)
        };
        let current = CurrentAssignment {
            epoch,
            previous_epoch: epoch,
            state: MemberState::Stable,
            assigned,
            revoking: Assigned::new(),
        };
        infos.push(ConsumerRecord::Member(member.id.clone(), Some(info)));
        targets.push(ConsumerRecord::TargetMember(member.id.clone(), Some(target)));
        currents.push(ConsumerRecord::Current(member.id.clone(), Some(current)));
    }
    let mut records = infos;
    records.push(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash: 0 })));
    records.append(&mut targets);
    records.push(ConsumerRecord::Target(Some(TargetEpoch { epoch, timestamp: 0 })));
    records.append(&mut currents);
    Some(records)
}

fn classic_member(member: &ConsumerMember) -> Member {
    let info = &member.info;
    let (session_timeout_ms, protocols) = match &info.classic {
        Some(classic) => (classic.session_timeout_ms, classic.protocols.clone()),
        None => (info.rebalance_timeout_ms, Vec::new()),
    };
    Member {
        id: member.id.clone(),
        instance_id: info.instance_id.clone(),
        client_id: info.client_id.clone(),
        client_host: info.client_host.clone(),
        rebalance_timeout_ms: info.rebalance_timeout_ms,
        session_timeout_ms,
        protocols,
        assignment: Bytes::new(),
        awaiting_join: None,
        awaiting_sync: None,
        is_new: false,
    }
}
