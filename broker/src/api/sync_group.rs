//! SyncGroup: the leader hands in the assignment, and every member waits for its part of it.

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::{SyncGroupRequest, SyncGroupResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

/// The first version that has to name the protocol (KIP-559).
const PROTOCOL: i16 = 5;

impl Api {
    pub(super) fn sync_group(self: &Arc<Self>, asked: Asked<SyncGroupRequest>) -> Outcome<SyncGroupResponse> {
        let Asked { context, version, body: request, permit } = asked;
        if version >= PROTOCOL && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
            return Outcome::Done(failed(ErrorCode::InconsistentGroupProtocol));
        }
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(failed(ErrorCode::GroupAuthorizationFailed));
        }
        let group_id = request.group_id.clone();
        let asked: Outcome<_> = self.groups.request(&group_id, GroupRequest::Sync(request)).into();
        drop((permit, group_id));
        asked.map(|answer| match answer {
            Ok(GroupResponse::Sync(response)) => response,
            Ok(_) => failed(ErrorCode::UnknownServerError),
            Err(error) => failed(error),
        })
    }
}

fn failed(error: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() }
}
