//! ListGroups: the groups that this broker coordinates.

use std::sync::Arc;

use odradek_broker_core::group::{GroupQuery, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::{ListGroupsRequest, ListGroupsResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn list_groups(self: &Arc<Self>, asked: Asked<ListGroupsRequest>) -> Outcome<ListGroupsResponse> {
        let Asked { context, body: request, .. } = asked;
        let query = GroupQuery::List { states: request.states_filter, types: request.types_filter };
        let answers = match self.groups.query_all(&query) {
            Ok(answers) => answers,
            Err(error) => {
                let error_code = error.code();
                return Outcome::Done(ListGroupsResponse { error_code, ..ListGroupsResponse::default() });
            }
        };
        // Whoever may see the cluster may see every group in it.
        let is_all = self.allows(&context, Operation::Describe, Resource::Cluster);
        let mut groups = Vec::new();
        for answer in answers {
            let GroupResponse::List(listed) = answer else {
                let error_code = ErrorCode::UnknownServerError.code();
                return Outcome::Done(ListGroupsResponse { error_code, ..ListGroupsResponse::default() });
            };
            let may_see = |id: &str| is_all || self.allows(&context, Operation::Describe, Resource::Group(id));
            groups.extend(listed.into_iter().filter(|group| may_see(&group.group_id)));
        }
        Outcome::Done(ListGroupsResponse { groups, ..ListGroupsResponse::default() })
    }
}
