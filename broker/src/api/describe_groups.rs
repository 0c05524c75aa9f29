//! DescribeGroups: state, protocol and members of classic groups; for who asks in a field of Odradek's own, the history of groups.

use std::sync::Arc;

use odradek_broker_core::group::{Cause, GroupQuery, GroupRequest, GroupResponse, History, Move};
use odradek_common::ErrorCode;
use odradek_proto::admin as proto;
use odradek_wire::describe_groups_response::DescribedGroup;
use odradek_wire::{DescribeGroupsRequest, DescribeGroupsResponse, RawTaggedField, Str, own};
use prost::Message as _;

use super::authorizer::authorized_operations;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

impl Api {
    pub(super) fn describe_groups(
        self: &Arc<Self>,
        asked: Asked<DescribeGroupsRequest>,
    ) -> Outcome<DescribeGroupsResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let tells_operations = request.include_authorized_operations;
        let tells_history = own::field(&request.unknown_tagged_fields, own::HISTORY).is_some();
        let groups = request.groups.into_iter().map(|id| {
            let mut group = self.describe_group(&context, version, id, tells_operations);
            if tells_history && group.error_code != ErrorCode::GroupAuthorizationFailed.code() {
                group.unknown_tagged_fields.extend(self.history(&group.group_id));
            }
            group
        });
        let groups = groups.collect();
        Outcome::Done(DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() })
    }

    /// What the journal has of a group, of whichever kind. It is told from the coordinator's memory, so at once.
    fn history(&self, id: &Str) -> Option<RawTaggedField> {
        match self.groups.request(id, GroupRequest::History(id.detached())).into() {
            Outcome::Done(Ok(GroupResponse::History(Some(history)))) => {
                Some(RawTaggedField { tag: own::HISTORY, data: to_proto(*history).encode_to_vec().into() })
            }
            _ => None,
        }
    }

    fn describe_group(
        &self,
        context: &RequestContext,
        version: i16,
        id: Str,
        tells_operations: bool,
    ) -> DescribedGroup {
        if !self.allows(context, Operation::Describe, Resource::Group(&id)) {
            return failed(id, ErrorCode::GroupAuthorizationFailed);
        }
        let query = GroupQuery::Describe { groups: vec![id.clone()], api_version: version };
        let described = match self.groups.query(&id, query) {
            Ok(GroupResponse::Describe(groups)) => groups.into_iter().next(),
            Ok(_) => None,
            Err(error) => return failed(id, error),
        };
        let Some(mut group) = described else { return failed(id, ErrorCode::UnknownServerError) };
        if tells_operations && group.error_code == 0 {
            group.authorized_operations = authorized_operations(&*self.authorizer, context, Resource::Group(&id));
        }
        group
    }
}

fn to_proto(history: History) -> proto::GroupHistory {
    let text = |text: Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let cause = |cause: Cause| proto::RebalanceCause {
        why: cause.why.name().to_owned(),
        member_id: text(cause.member),
        instance_id: cause.instance_id.map(|instance_id| instance_id.to_string()),
        client_id: cause.client_id.to_string(),
        detail: cause.detail.to_string(),
    };
    let one_move = |moved: Move| proto::PartitionMove {
        topic: moved.topic.to_string(),
        partitions: moved.partitions,
        from_member_id: text(moved.from),
        to_member_id: text(moved.to),
    };
    let rebalances = history.entries.into_iter().map(|entry| proto::Rebalance {
        at_ms: entry.at_ms,
        from_epoch: entry.from_epoch,
        to_epoch: entry.to_epoch,
        outcome: entry.outcome.name().to_owned(),
        took_ms: entry.took_ms,
        causes: entry.causes.into_iter().map(cause).collect(),
        causes_left_out: count(entry.causes_left_out),
        moves: entry.moves.into_iter().map(one_move).collect(),
        moved: count(entry.moved),
    });
    proto::GroupHistory { since_ms: history.since_ms, dropped: history.dropped, rebalances: rebalances.collect() }
}

fn failed(group_id: Str, error: ErrorCode) -> DescribedGroup {
    DescribedGroup { group_id, error_code: error.code(), error_message: None, ..DescribedGroup::default() }
}
