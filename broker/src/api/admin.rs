//! Requests that the active controller answers: passed on as they came, with who asked, and answered once this broker
//! itself has seen the change.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use odradek_common::ErrorCode;
use odradek_proto::broker::{ForwardRequest, ForwardResponse, RequestContext as ForwardedContext};
use odradek_wire::create_partitions_request::CreatePartitionsRequest;
use odradek_wire::create_partitions_response::{CreatePartitionsResponse, CreatePartitionsTopicResult};
use odradek_wire::create_topics_request::CreateTopicsRequest;
use odradek_wire::create_topics_response::{CreatableTopicResult, CreateTopicsResponse};
use odradek_wire::delete_topics_request::DeleteTopicsRequest;
use odradek_wire::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use odradek_wire::describe_quorum_request::DescribeQuorumRequest;
use odradek_wire::describe_quorum_response::DescribeQuorumResponse;
use odradek_wire::unregister_broker_request::UnregisterBrokerRequest;
use odradek_wire::unregister_broker_response::UnregisterBrokerResponse;
use odradek_wire::update_features_request::UpdateFeaturesRequest;
use odradek_wire::update_features_response::UpdateFeaturesResponse;
use odradek_wire::{ApiKey, Encoder, Message, Request, ResponseHeader};

use super::dispatch::{Asked, Envelope, encode};
use super::{Api, Operation, Outcome, Part, Reply, RequestContext, Resource, Response};
use crate::metadata::ControllerError;

/// After the controller has answered, this broker's own metadata is waited for, at least so long.
const PUBLISH_PATIENCE_MIN: Duration = Duration::from_millis(500);

/// A forwarded request is never tried for longer, whatever its client says.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

impl Api {
    pub(super) fn create_topics(
        self: &Arc<Self>,
        asked: Asked<CreateTopicsRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded(asked, body, envelope, timeout_ms, |request, error, message| CreateTopicsResponse {
            topics: (request.topics.iter())
                .map(|topic| CreatableTopicResult {
                    name: topic.name.clone(),
                    error_code: error.code(),
                    error_message: Some(message.into()),
                    ..CreatableTopicResult::default()
                })
                .collect(),
            ..CreateTopicsResponse::default()
        })
    }

    pub(super) fn delete_topics(
        self: &Arc<Self>,
        asked: Asked<DeleteTopicsRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded(asked, body, envelope, timeout_ms, |request, error, message| {
            let by_name = request.topic_names.iter().map(|name| (Some(name.clone()), Default::default()));
            let by_either = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
            let failed = by_name.chain(by_either).map(|(name, topic_id)| DeletableTopicResult {
                name,
                topic_id,
                error_code: error.code(),
                error_message: Some(message.into()),
                ..DeletableTopicResult::default()
            });
            DeleteTopicsResponse { responses: failed.collect(), ..DeleteTopicsResponse::default() }
        })
    }

    pub(super) fn create_partitions(
        self: &Arc<Self>,
        asked: Asked<CreatePartitionsRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded(asked, body, envelope, timeout_ms, |request, error, message| CreatePartitionsResponse {
            results: (request.topics.iter())
                .map(|topic| CreatePartitionsTopicResult {
                    name: topic.name.clone(),
                    error_code: error.code(),
                    error_message: Some(message.into()),
                    ..CreatePartitionsTopicResult::default()
                })
                .collect(),
            ..CreatePartitionsResponse::default()
        })
    }

    pub(super) fn unregister_broker(
        self: &Arc<Self>,
        asked: Asked<UnregisterBrokerRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        self.forwarded_if(Operation::Alter, asked, body, envelope, 0, |_, error, message| UnregisterBrokerResponse {
            error_code: error.code(),
            error_message: Some(message.into()),
            ..UnregisterBrokerResponse::default()
        })
    }

    pub(super) fn update_features(
        self: &Arc<Self>,
        asked: Asked<UpdateFeaturesRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded_if(Operation::Alter, asked, body, envelope, timeout_ms, |_, error, message| {
            UpdateFeaturesResponse {
                error_code: error.code(),
                error_message: Some(message.into()),
                ..UpdateFeaturesResponse::default()
            }
        })
    }

    pub(super) fn describe_quorum(
        self: &Arc<Self>,
        asked: Asked<DescribeQuorumRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        self.forwarded_if(Operation::Describe, asked, body, envelope, 0, |_, error, message| DescribeQuorumResponse {
            error_code: error.code(),
            error_message: Some(message.into()),
            ..DescribeQuorumResponse::default()
        })
    }

    /// Passes a request on whose principal may do `operation` to the cluster.
    pub(super) fn forwarded_if<R: Request + Send + Sync + 'static>(
        self: &Arc<Self>,
        operation: Operation,
        asked: Asked<R>,
        body: Bytes,
        envelope: Envelope,
        timeout_ms: i32,
        failed: impl FnOnce(&R, ErrorCode, &str) -> R::Response + Send + 'static,
    ) -> Outcome<Reply> {
        if !self.allows(&asked.context, operation, Resource::Cluster) {
            let error = ErrorCode::ClusterAuthorizationFailed;
            return Outcome::Done(encode(
                envelope,
                &failed(&asked.body, error, "Cluster authorization failed.").into(),
            ));
        }
        self.forwarded(asked, body, envelope, timeout_ms, failed)
    }

    /// Passes a request on. `failed` makes the answer when the controller gave none.
    pub(super) fn forwarded<R: Request + Send + Sync + 'static>(
        self: &Arc<Self>,
        asked: Asked<R>,
        body: Bytes,
        envelope: Envelope,
        timeout_ms: i32,
        failed: impl FnOnce(&R, ErrorCode, &str) -> R::Response + Send + 'static,
    ) -> Outcome<Reply> {
        let api = self.clone();
        let wanted = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        let patience = api.config.network.request_timeout.max(wanted).min(PATIENCE_MAX);
        Outcome::waiting(async move {
            match api.forward(&asked.context, envelope.api_key, envelope.version, body, patience).await {
                Ok(answer) => match encode_forwarded(envelope, answer.body) {
                    Some(reply) => reply,
                    None => Reply::Close,
                },
                Err(error) => {
                    tracing::warn!(api = %envelope.api_key, %error, "a request could not be passed on");
                    encode(envelope, &failed(&asked.body, error.code(), &error.to_string()).into())
                }
            }
        })
    }

    /// The controller's answer, once this broker has seen what it did (or after a bounded wait: then the client finds out
    /// with its next Metadata).
    pub(super) async fn forward(
        &self,
        context: &RequestContext,
        api_key: ApiKey,
        version: i16,
        body: Bytes,
        patience: Duration,
    ) -> Result<ForwardResponse, ControllerError> {
        let request = ForwardRequest {
            context: Some(ForwardedContext {
                principal: context.principal.to_string(),
                client_id: context.client_id.to_string(),
                client_address: context.peer.ip().to_string(),
                listener: context.listener.to_string(),
            }),
            broker_id: self.broker_id.0,
            api_key: api_key.code().into(),
            api_version: version.into(),
            body,
        };
        let deadline = self.world.instant() + patience;
        let answer = self.controller.forward(request, patience).await?;
        let left = deadline.saturating_since(self.world.instant()).max(PUBLISH_PATIENCE_MIN);
        if !self.cache.wait_for_offset(&self.world, answer.metadata_offset, left).await {
            tracing::warn!(offset = answer.metadata_offset, "a change did not reach this broker in time");
        }
        Ok(answer)
    }
}

/// The frame around a body that is encoded already.
fn encode_forwarded(envelope: Envelope, body: Bytes) -> Option<Reply> {
    let mut header = Encoder::new();
    let message = ResponseHeader { correlation_id: envelope.correlation_id, ..ResponseHeader::default() };
    message.encode(&mut header, envelope.api_key.response_header_version(envelope.version)).ok()?;
    let header = header.into_bytes()?;
    let mut start = BytesMut::with_capacity(4 + header.len());
    start.put_i32(i32::try_from(header.len() + body.len()).ok()?);
    start.put_slice(&header);
    let parts = vec![Part::Bytes(start.freeze()), Part::Bytes(body)];
    Some(Reply::Send(Response { parts, throttle: Duration::ZERO }))
}
