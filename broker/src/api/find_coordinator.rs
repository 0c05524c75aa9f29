//! FindCoordinator: which broker coordinates a group or a transactional id. Their topics are made when the first of them is
//! looked for.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::group::OFFSETS_TOPIC;
use odradek_broker_core::transaction::TRANSACTIONS_TOPIC;
use odradek_common::ErrorCode;
use odradek_metadata::Image;
use odradek_wire::find_coordinator_response::Coordinator;
use odradek_wire::{FindCoordinatorRequest, FindCoordinatorResponse, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// The first version that asks for many at once.
const MANY_KEYS: i16 = 4;

/// What a key is the name of (Kafka's `CoordinatorType`).
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

/// Where a coordinator is.
struct Found {
    node_id: i32,
    host: Str,
    port: i32,
}

/// An error with what to do about it.
type Refusal = (ErrorCode, &'static str);

impl Api {
    pub(super) fn find_coordinator(
        self: &Arc<Self>,
        asked: Asked<FindCoordinatorRequest>,
    ) -> Outcome<FindCoordinatorResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let image = self.cache.image();
        let mut answer = FindCoordinatorResponse { error_message: None, ..FindCoordinatorResponse::default() };
        if version >= MANY_KEYS {
            let coordinators = request.coordinator_keys.into_iter().map(|key| {
                let found = self.coordinator(&context, &image, request.key_type, &key);
                let (error, message) = found.as_ref().err().copied().unwrap_or((ErrorCode::None, ""));
                let (node_id, host, port) = address(found);
                Coordinator {
                    key,
                    node_id,
                    host,
                    port,
                    error_code: error.code(),
                    error_message: Some(Str::from_static(message)),
                    ..Coordinator::default()
                }
            });
            answer.coordinators = coordinators.collect();
        } else {
            let found = self.coordinator(&context, &image, request.key_type, &request.key);
            // As Kafka says it: success is called NONE.
            let (error, message) = found.as_ref().err().copied().unwrap_or((ErrorCode::None, "NONE"));
            (answer.node_id, answer.host, answer.port) = address(found);
            answer.error_code = error.code();
            answer.error_message = Some(Str::from_static(message));
        }
        Outcome::Done(answer)
    }

    fn coordinator(
        self: &Arc<Self>,
        context: &Arc<RequestContext>,
        image: &Image,
        key_type: i8,
        key: &str,
    ) -> Result<Found, Refusal> {
        let (topic_name, partition) = match key_type {
            GROUP if !self.allows(context, Operation::Describe, Resource::Group(key)) => {
                return Err((ErrorCode::GroupAuthorizationFailed, "describing this group is not allowed"));
            }
            GROUP => (OFFSETS_TOPIC, self.groups.partition_for(key)),
            TRANSACTION if !self.allows(context, Operation::Describe, Resource::TransactionalId(key)) => {
                let message = "describing this transactional id is not allowed";
                return Err((ErrorCode::TransactionalIdAuthorizationFailed, message));
            }
            TRANSACTION => (TRANSACTIONS_TOPIC, self.transactions.partition_for(key)),
            // An error that no client repeats: whoever waits for such a coordinator would wait for ever.
            SHARE => return Err((ErrorCode::InvalidRequest, "share groups are not served by this broker")),
            _ => return Err((ErrorCode::InvalidRequest, "the key type is 0 (group), 1 (transaction) or 2 (share)")),
        };
        let Some(topic) = image.topic_by_name(topic_name) else {
            self.create_automatically(context, &Str::from_static(topic_name));
            return Err((ErrorCode::CoordinatorNotAvailable, "the coordinators' topic is being made"));
        };
        let (leader, endpoint) = image
            .leader_endpoint(topic.id, partition, &context.listener)
            .filter(|(leader, _)| image.is_alive(*leader))
            .ok_or((ErrorCode::CoordinatorNotAvailable, "the coordinator's partition has no leader at the moment"))?;
        Ok(Found { node_id: leader.0, host: endpoint.host.as_str().into(), port: endpoint.port.into() })
    }
}

fn address(found: Result<Found, Refusal>) -> (i32, Str, i32) {
    match found {
        Ok(Found { node_id, host, port }) => (node_id, host, port),
        Err(_) => (-1, Str::default(), -1),
    }
}
