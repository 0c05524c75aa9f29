//! ConsumerGroupHeartbeat (KIP-848): a member of a consumer group joins, lives, leaves, and hears what it is to have.

use std::sync::Arc;

use odradek_broker_core::group::{GroupRequest, GroupResponse};
use odradek_common::ErrorCode;
use odradek_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

use super::dispatch::Asked;
use super::join_group::group_client;
use super::{Api, Operation, Outcome, Resource};

/// The feature behind which the newer groups are.
const GROUP_VERSION: &str = "group.version";

/// The name of their protocol in `group.coordinator.rebalance.protocols`.
const PROTOCOL: &str = "consumer";

impl Api {
    /// Whether the cluster, and this broker, are to serve groups of the consumer protocol.
    pub(super) fn serves_consumer_groups(&self) -> bool {
        let is_named = self.config.groups.protocols.iter().any(|name| name.trim().eq_ignore_ascii_case(PROTOCOL));
        is_named && self.cache.image().feature_level(GROUP_VERSION) >= 1
    }

    pub(super) fn consumer_group_heartbeat(
        self: &Arc<Self>,
        asked: Asked<ConsumerGroupHeartbeatRequest>,
    ) -> Outcome<ConsumerGroupHeartbeatResponse> {
        let Asked { context, version, body: request, permit } = asked;
        if !self.serves_consumer_groups() {
            return Outcome::Done(answer(ErrorCode::UnsupportedVersion));
        }
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(answer(ErrorCode::GroupAuthorizationFailed));
        }
        let mut names = request.subscribed_topic_names.iter().flatten();
        if !names.all(|name| self.allows(&context, Operation::Describe, Resource::Topic(name))) {
            return Outcome::Done(answer(ErrorCode::TopicAuthorizationFailed));
        }
        let group_id = request.group_id.clone();
        let request = GroupRequest::ConsumerHeartbeat(group_client(&context, version), self.cache.image(), request);
        let asked: Outcome<_> = self.groups.request(&group_id, request).into();
        drop((permit, group_id));
        asked.map(|answered| match answered {
            Ok(GroupResponse::ConsumerHeartbeat(response)) => response,
            Ok(_) => answer(ErrorCode::UnknownServerError),
            Err(error) => answer(error),
        })
    }
}

fn answer(error: ErrorCode) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse { error_code: error.code(), ..ConsumerGroupHeartbeatResponse::default() }
}
