//! What operators see of groups and do to them: list, describe, delete.

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_wire::Str;
use odradek_wire::delete_groups_response::DeletableGroupResult;
use odradek_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use odradek_wire::list_groups_response::ListedGroup;

use super::classic::State;
use super::consumer::{CONSUMER, ConsumerGroup};
use super::records::GroupRecord;
use super::{GroupResponse, GroupShard, GroupTurn};
use crate::coordinator::Ticket;

/// The name of the groups that are here (KIP-848).
const CLASSIC: &str = "classic";

/// The first version that is told of a missing group by an error (KIP-1043).
const GROUP_ID_NOT_FOUND: i16 = 6;

impl GroupShard {
    pub(super) fn list(&self, states: &[Str], types: &[Str]) -> Vec<ListedGroup> {
        let is_any = |wanted: &[Str], name: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
        };
        let of_type = |name: &str| is_any(types, name);
        let groups = self.groups.values().filter(|_| of_type(CLASSIC));
        let groups = groups.filter(|group| is_any(states, group.state().name()));
        let consumers = self.consumers.values().filter(|_| of_type(CONSUMER));
        let consumers = consumers.filter(|group| is_any(states, group.state().name()));
        let listed = groups.map(|group| ListedGroup {
            group_id: Str::from(&*group.id),
            protocol_type: group.protocol_type.as_deref().map(Str::from).unwrap_or_default(),
            group_state: Str::from_static(group.state().name()),
            group_type: Str::from_static(CLASSIC),
            ..ListedGroup::default()
        });
        listed.chain(consumers.map(ConsumerGroup::listed)).collect()
    }

    pub(super) fn describe(&self, id: &Str, api_version: i16) -> DescribedGroup {
        let Some(group) = self.groups.get(id.as_str()) else {
            let is_told = api_version >= GROUP_ID_NOT_FOUND;
            return DescribedGroup {
                group_id: id.clone(),
                group_state: Str::from_static(State::Dead.name()),
                error_code: if is_told { ErrorCode::GroupIdNotFound.code() } else { 0 },
                error_message: is_told.then(|| match self.consumers.contains_key(id.as_str()) {
                    true => Str::from(format!("Group {id} is not a classic group.")),
                    false => Str::from(format!("Group {id} not found.")),
                }),
                ..DescribedGroup::default()
            };
        };
        // Before the assignment is stored, neither it nor the protocol is certain.
        let protocol = group.protocol_name.as_deref().filter(|_| group.is(State::Stable));
        let members = group.members().map(|member| DescribedGroupMember {
            member_id: Str::from(&*member.id),
            group_instance_id: member.instance_id.as_deref().map(Str::from),
            client_id: Str::from(&member.client_id),
            client_host: Str::from(&member.client_host),
            member_metadata: protocol.map(|protocol| member.metadata(protocol)).unwrap_or_default(),
            member_assignment: member.assignment.clone(),
            ..DescribedGroupMember::default()
        });
        DescribedGroup {
            error_message: None,
            group_id: id.clone(),
            group_state: Str::from_static(group.state().name()),
            protocol_type: group.protocol_type.as_deref().map(Str::from).unwrap_or_default(),
            protocol_data: protocol.map(Str::from).unwrap_or_default(),
            members: members.collect(),
            ..DescribedGroup::default()
        }
    }

    pub(super) fn delete_groups(&mut self, ticket: Ticket, ids: Vec<Str>, turn: &mut GroupTurn<'_>) {
        let mut results = Vec::with_capacity(ids.len());
        for id in ids {
            let classic = self.groups.get(id.as_str());
            let consumer = self.consumers.get(id.as_str());
            let error = match (classic.map(super::ClassicGroup::state), consumer.map(ConsumerGroup::is_empty)) {
                (None | Some(State::Dead), None) => ErrorCode::GroupIdNotFound,
                (Some(State::Empty), _) | (_, Some(true)) => ErrorCode::None,
                _ => ErrorCode::NonEmptyGroup,
            };
            if !error.is_error() {
                let group: Arc<str> = id.as_str().into();
                self.forget_offsets(&group, turn);
                turn.note(format!("group {group}: deleted on request"));
                self.forget_group(&group, turn);
            }
            results.push(DeletableGroupResult {
                group_id: id,
                error_code: error.code(),
                ..DeletableGroupResult::default()
            });
        }
        turn.reply(ticket, GroupResponse::Delete(results));
    }

    /// Tombstones for all that there is of a group, its offsets apart.
    pub(super) fn forget_group(&self, id: &Arc<str>, turn: &mut GroupTurn<'_>) {
        match self.consumers.get(id) {
            Some(group) => {
                let records = group.tombstones().into_iter();
                records.for_each(|record| turn.record(GroupRecord::Consumer(id.clone(), record)));
            }
            None => turn.record(GroupRecord::Group(id.clone(), None)),
        }
    }
}
