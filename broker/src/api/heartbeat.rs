//! Heartbeat: a member of a classic group lives, and hears of rebalances.

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::{HeartbeatRequest, HeartbeatResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn heartbeat(self: &Arc<Self>, asked: Asked<HeartbeatRequest>) -> Outcome<HeartbeatResponse> {
        let Asked { context, body: request, .. } = asked;
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(answer(ErrorCode::GroupAuthorizationFailed));
        }
        let group_id = request.group_id.clone();
        let asked: Outcome<_> = self.groups.request(&group_id, GroupRequest::Heartbeat(request)).into();
        asked.map(|answered| match answered {
            Ok(GroupResponse::Heartbeat(response)) => response,
            Ok(_) => answer(ErrorCode::UnknownServerError),
            // Sessions start when the load is over: the member is as well as it can be.
            Err(ErrorCode::CoordinatorLoadInProgress) => answer(ErrorCode::None),
            Err(error) => answer(error),
        })
    }
}

fn answer(error: ErrorCode) -> HeartbeatResponse {
    HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() }
}
