//! LeaveGroup: members leave a classic group, one of itself or several by an operator's hand (KIP-345).

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::{LeaveGroupRequest, LeaveGroupResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

/// The first version that names several.
const MANY_MEMBERS: i16 = 3;

impl Api {
    pub(super) fn leave_group(self: &Arc<Self>, asked: Asked<LeaveGroupRequest>) -> Outcome<LeaveGroupResponse> {
        let Asked { context, version, body: mut request, .. } = asked;
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(failed(ErrorCode::GroupAuthorizationFailed));
        }
        if version < MANY_MEMBERS {
            let member_id = std::mem::take(&mut request.member_id);
            request.members = vec![MemberIdentity { member_id, ..MemberIdentity::default() }];
        }
        let group_id = request.group_id.clone();
        let asked: Outcome<_> = self.groups.request(&group_id, GroupRequest::Leave(request)).into();
        asked.map(move |answer| match answer {
            Ok(GroupResponse::Leave(response)) => suited(version, response),
            Ok(_) => failed(ErrorCode::UnknownServerError),
            Err(error) => failed(error),
        })
    }
}

fn failed(error: ErrorCode) -> LeaveGroupResponse {
    LeaveGroupResponse { error_code: error.code(), ..LeaveGroupResponse::default() }
}

/// Older versions have one error for their one member.
fn suited(version: i16, mut response: LeaveGroupResponse) -> LeaveGroupResponse {
    if version < MANY_MEMBERS {
        let members = std::mem::take(&mut response.members);
        if let Some(member) = members.first()
            && response.error_code == 0
        {
            response.error_code = member.error_code;
        }
    }
    response
}
