//! DescribeGroups: state, protocol and members of classic groups.

use std::sync::Arc;

use odradek_broker_core::group::{GroupQuery, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::describe_groups_response::DescribedGroup;
use odradek_wire::{DescribeGroupsRequest, DescribeGroupsResponse, Str};

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
        let groups = request.groups.into_iter().map(|id| self.describe_group(&context, version, id, tells_operations));
        let groups = groups.collect();
        Outcome::Done(DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() })
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

fn failed(group_id: Str, error: ErrorCode) -> DescribedGroup {
    DescribedGroup { group_id, error_code: error.code(), error_message: None, ..DescribedGroup::default() }
}
