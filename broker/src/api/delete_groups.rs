//! DeleteGroups: groups without members, with all that they have committed (KIP-229).

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::delete_groups_response::DeletableGroupResult;
use odradek_wire::{DeleteGroupsRequest, DeleteGroupsResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn delete_groups(self: &Arc<Self>, asked: Asked<DeleteGroupsRequest>) -> Outcome<DeleteGroupsResponse> {
        let Asked { context, body: request, .. } = asked;
        let mut seen = BTreeSet::new();
        let mut results: Vec<Outcome<DeletableGroupResult>> = Vec::with_capacity(request.groups_names.len());
        for id in request.groups_names.iter().map(Str::detached) {
            if !seen.insert(id.clone()) {
                continue;
            }
            if !self.allows(&context, Operation::Delete, Resource::Group(&id)) {
                results.push(Outcome::Done(result(id, ErrorCode::GroupAuthorizationFailed)));
                continue;
            }
            let asked: Outcome<_> = self.groups.request(&id, GroupRequest::Delete(vec![id.clone()])).into();
            results.push(asked.map(move |answer| match answer {
                Ok(GroupResponse::Delete(results)) => {
                    results.into_iter().next().unwrap_or_else(|| result(id, ErrorCode::UnknownServerError))
                }
                Ok(_) => result(id, ErrorCode::UnknownServerError),
                Err(error) => result(id, error),
            }));
        }
        Outcome::waiting(async move {
            let mut done = Vec::with_capacity(results.len());
            for result in results {
                done.push(result.wait().await);
            }
            DeleteGroupsResponse { results: done, ..DeleteGroupsResponse::default() }
        })
    }
}

fn result(group_id: Str, error: ErrorCode) -> DeletableGroupResult {
    DeletableGroupResult { group_id, error_code: error.code(), error_message: None, ..DeletableGroupResult::default() }
}
