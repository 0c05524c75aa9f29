//! JoinGroup: a member joins a classic group; it is answered when the group has its next generation.

use std::sync::Arc;

use odradek_broker_core::group::{GroupClient, GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::{JoinGroupRequest, JoinGroupResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// The first version whose rebalance timeout is apart from the session's (KIP-62).
const REBALANCE_TIMEOUT: i16 = 1;

/// The first version that may answer without a protocol.
const NULLABLE_PROTOCOL: i16 = 7;

/// Who asks, as a group keeps it.
pub(super) fn group_client(context: &RequestContext, api_version: i16) -> GroupClient {
    GroupClient { client_id: context.client_id.to_string(), host: format!("/{}", context.peer.ip()), api_version }
}

impl Api {
    pub(super) fn join_group(self: &Arc<Self>, asked: Asked<JoinGroupRequest>) -> Outcome<JoinGroupResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(failed(version, ErrorCode::GroupAuthorizationFailed));
        }
        if version < REBALANCE_TIMEOUT {
            request.rebalance_timeout_ms = request.session_timeout_ms;
        }
        let group_id = request.group_id.clone();
        let request = GroupRequest::Join(group_client(&context, version), request);
        let asked: Outcome<_> = self.groups.request(&group_id, request).into();
        // What waits for a rebalance holds nothing of the frame.
        drop((permit, group_id));
        asked.map(move |answer| match answer {
            Ok(GroupResponse::Join(response)) => suited(version, response),
            Ok(_) => failed(version, ErrorCode::UnknownServerError),
            Err(error) => failed(version, error),
        })
    }
}

/// What the coordinator has not answered names no member.
fn failed(version: i16, error: ErrorCode) -> JoinGroupResponse {
    let error_code = error.code();
    suited(version, JoinGroupResponse { error_code, protocol_name: None, ..JoinGroupResponse::default() })
}

fn suited(version: i16, mut response: JoinGroupResponse) -> JoinGroupResponse {
    if version < NULLABLE_PROTOCOL && response.protocol_name.is_none() {
        response.protocol_name = Some(Str::default());
    }
    response
}
