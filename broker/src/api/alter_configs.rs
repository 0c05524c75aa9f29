//! AlterConfigs and IncrementalAlterConfigs (KIP-133, KIP-226, KIP-339, KIP-412).
//!
//! Configs are decided on by the active controller. This broker looks at a request first (Kafka's `ConfigAdminManager`):
//! it refuses what is malformed, changes its own log levels itself, and checks changes of its own configs against its
//! file, which no controller knows. What is left goes to the controller in one request, and the answers are put together
//! in the order of the questions.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_common::config::{Type, dynamic_definition, edit_list};
use odradek_metadata::ConfigResource;
use odradek_node::telemetry::{self, LevelChange};
use odradek_wire::alter_configs_request::AlterConfigsRequest;
use odradek_wire::alter_configs_response::{AlterConfigsResourceResponse as Replaced, AlterConfigsResponse};
use odradek_wire::incremental_alter_configs_request::IncrementalAlterConfigsRequest;
use odradek_wire::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as Altered, IncrementalAlterConfigsResponse,
};
use odradek_wire::{Decoder, Encoder, Message, Request, Str};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};
use crate::metadata::overrides;

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

type Refusal = (ErrorCode, String);

/// One resource of either request. In the older one every operation is a `SET`, and what is not named is unset.
struct Change {
    kind: i8,
    name: Str,
    /// Name, operation, value.
    configs: Vec<(Str, i8, Option<Str>)>,
    is_incremental: bool,
}

/// What became of a resource: `None` waits for the controller.
type Verdict = Option<Result<(), Refusal>>;

impl Api {
    pub(super) fn incremental_alter_configs(
        self: &Arc<Self>,
        asked: Asked<IncrementalAlterConfigsRequest>,
    ) -> Outcome<IncrementalAlterConfigsResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        let changes: Vec<Change> = (request.resources.iter())
            .map(|resource| Change {
                kind: resource.resource_type,
                name: resource.resource_name.clone(),
                configs: (resource.configs.iter())
                    .map(|config| (config.name.clone(), config.config_operation, config.value.clone()))
                    .collect(),
                is_incremental: true,
            })
            .collect();
        let verdicts = self.preprocess(&context, &changes, request.validate_only);
        let mut waits = verdicts.iter().map(Option::is_none);
        request.resources.retain(|_| waits.next().unwrap_or(false));
        let api = self.clone();
        Outcome::waiting(async move {
            let _permit = permit;
            let decided = match request.resources.is_empty() {
                true => Ok(Vec::new()),
                false => api.ask::<IncrementalAlterConfigsRequest>(&context, version, &request).await.map(|answer| {
                    (answer.responses.into_iter())
                        .map(|one| (one.resource_type, one.resource_name, one.error_code, one.error_message))
                        .collect()
                }),
            };
            let responses =
                assemble(&changes, verdicts, decided).into_iter().map(|(kind, name, code, message)| Altered {
                    error_code: code,
                    error_message: message,
                    resource_type: kind,
                    resource_name: name,
                    ..Altered::default()
                });
            IncrementalAlterConfigsResponse {
                responses: responses.collect(),
                ..IncrementalAlterConfigsResponse::default()
            }
        })
    }

    pub(super) fn alter_configs(self: &Arc<Self>, asked: Asked<AlterConfigsRequest>) -> Outcome<AlterConfigsResponse> {
        let Asked { context, version, body: mut request, permit } = asked;
        let changes: Vec<Change> = (request.resources.iter())
            .map(|resource| Change {
                kind: resource.resource_type,
                name: resource.resource_name.clone(),
                configs: (resource.configs.iter())
                    .map(|config| (config.name.clone(), SET, config.value.clone()))
                    .collect(),
                is_incremental: false,
            })
            .collect();
        let verdicts = self.preprocess(&context, &changes, request.validate_only);
        let mut waits = verdicts.iter().map(Option::is_none);
        request.resources.retain(|_| waits.next().unwrap_or(false));
        let api = self.clone();
        Outcome::waiting(async move {
            let _permit = permit;
            let decided = match request.resources.is_empty() {
                true => Ok(Vec::new()),
                false => api.ask::<AlterConfigsRequest>(&context, version, &request).await.map(|answer| {
                    (answer.responses.into_iter())
                        .map(|one| (one.resource_type, one.resource_name, one.error_code, one.error_message))
                        .collect()
                }),
            };
            let responses =
                assemble(&changes, verdicts, decided).into_iter().map(|(kind, name, code, message)| Replaced {
                    error_code: code,
                    error_message: message,
                    resource_type: kind,
                    resource_name: name,
                    ..Replaced::default()
                });
            AlterConfigsResponse { responses: responses.collect(), ..AlterConfigsResponse::default() }
        })
    }

    /// Asks the active controller.
    async fn ask<R: Request>(
        &self,
        context: &RequestContext,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Refusal> {
        let broken = |problem: String| (ErrorCode::UnknownServerError, problem);
        let mut body = Encoder::new();
        request.encode(&mut body, version).map_err(|error| broken(error.to_string()))?;
        let body = body.into_bytes().ok_or_else(|| broken("the request has no bytes".to_owned()))?;
        let key = R::API_KEY;
        let patience = self.config.network.request_timeout;
        match self.forward(context, key, version, body, patience).await {
            Ok(answer) => R::Response::decode(&mut Decoder::new(answer.body), version)
                .map_err(|error| broken(format!("the controller's answer cannot be read: {error}"))),
            Err(error) => {
                tracing::warn!(api = %key, %error, "a request could not be passed on");
                Err((error.code(), error.to_string()))
            }
        }
    }

    fn preprocess(&self, context: &RequestContext, changes: &[Change], validate_only: bool) -> Vec<Verdict> {
        let is_twice = |change: &Change| {
            changes.iter().filter(|other| other.kind == change.kind && other.name == change.name).count() > 1
        };
        let verdict = |change: &Change| {
            if is_twice(change) {
                let message = "Each resource must appear at most once.".to_owned();
                return Some(Err((ErrorCode::InvalidRequest, message)));
            }
            match self.preprocess_one(context, change, validate_only) {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(refusal) => Some(Err(refusal)),
            }
        };
        changes.iter().map(verdict).collect()
    }

    /// `true`: it is done.
    fn preprocess_one(&self, context: &RequestContext, change: &Change, validate_only: bool) -> Result<bool, Refusal> {
        check_shape(change)?;
        self.authorize(context, change)?;
        match change.kind {
            BROKER_LOGGER if change.is_incremental => {
                self.check_own_loggers(&change.name)?;
                alter_levels(change, validate_only).map(|()| true)
            }
            BROKER => {
                if !change.name.is_empty() {
                    self.check_own(&change.name)?;
                }
                self.check_broker_change(change).map(|()| false)
            }
            TOPIC | CLIENT_METRICS | GROUP => Ok(false),
            other => Err((ErrorCode::InvalidRequest, format!("Unknown resource type {other}"))),
        }
    }

    fn authorize(&self, context: &RequestContext, change: &Change) -> Result<(), Refusal> {
        let (resource, refusal) = match change.kind {
            TOPIC => (Resource::Topic(&change.name), ErrorCode::TopicAuthorizationFailed),
            _ => (Resource::Cluster, ErrorCode::ClusterAuthorizationFailed),
        };
        if self.allows(context, Operation::AlterConfigs, resource) {
            Ok(())
        } else {
            Err((refusal, "Altering these configs is not allowed.".to_owned()))
        }
    }

    fn check_own(&self, name: &str) -> Result<(), Refusal> {
        let problem = match name.parse::<i32>() {
            Ok(id) if id == self.broker_id.0 => return Ok(()),
            Ok(_) => format!("Unexpected broker id, expected {}, but received {name}", self.broker_id),
            Err(_) => format!("Node id must be an integer, but it is: {name}"),
        };
        Err((ErrorCode::InvalidRequest, problem))
    }

    fn check_own_loggers(&self, name: &str) -> Result<(), Refusal> {
        match name.parse::<i32>() {
            Ok(id) if id != self.broker_id.0 => {
                let problem = format!("Unexpected node id. Expected {}, but received {name}", self.broker_id);
                Err((ErrorCode::InvalidRequest, problem))
            }
            _ => self.check_own(name),
        }
    }

    /// Checks what the change makes of this broker's configs.
    fn check_broker_change(&self, change: &Change) -> Result<(), Refusal> {
        let image = self.cache.image();
        let (own, cluster) = (ConfigResource::broker(self.broker_id), ConfigResource::cluster());
        let is_cluster = change.name.is_empty();
        let (resource, other) = if is_cluster { (cluster, own) } else { (own, cluster) };
        let mut proposed = if change.is_incremental { overrides(&image, &resource) } else { Default::default() };
        for (name, operation, value) in &change.configs {
            let value = value.as_ref().map(Str::as_str).unwrap_or_default();
            match *operation {
                SET => drop(proposed.insert(name.to_string(), value.to_owned())),
                DELETE => drop(proposed.remove(name.as_str())),
                operation @ (APPEND | SUBTRACT) => {
                    let Some(definition) = dynamic_definition(name) else {
                        return Err((ErrorCode::InvalidConfig, format!("Unknown config name: {name}")));
                    };
                    if definition.kind != Type::List {
                        let operation = if operation == APPEND { "append" } else { "subtract" };
                        let message = format!("Config value {operation} is not allowed for config key: {name}");
                        return Err((ErrorCode::InvalidConfig, message));
                    }
                    let current = proposed.get(name.as_str()).map(String::as_str).or(definition.default);
                    let edited = edit_list(current.unwrap_or_default(), value, operation == APPEND);
                    proposed.insert(name.to_string(), edited);
                }
                other => return Err((ErrorCode::InvalidRequest, format!("Unknown operations type {other}"))),
            }
        }
        let other = overrides(&image, &other);
        let checked = self.live.file().check_change(&proposed, &other, is_cluster, &self.live.current());
        checked.map_err(|problem| (ErrorCode::InvalidRequest, problem))
    }
}

fn check_shape(change: &Change) -> Result<(), Refusal> {
    let mut names = BTreeSet::new();
    if change.configs.iter().any(|(name, ..)| !names.insert(name.as_str())) {
        return Err((ErrorCode::InvalidRequest, "Error due to duplicate config keys".to_owned()));
    }
    let nulls = change.configs.iter().filter(|(_, operation, value)| *operation != DELETE && value.is_none());
    let nulls: Vec<&str> = nulls.map(|(name, ..)| name.as_str()).collect();
    if nulls.is_empty() {
        Ok(())
    } else {
        Err((ErrorCode::InvalidRequest, format!("Null value not supported for : {}", nulls.join(", "))))
    }
}

/// Log levels hold until the process ends (KIP-412).
fn alter_levels(change: &Change, validate_only: bool) -> Result<(), Refusal> {
    let mut levels = Vec::with_capacity(change.configs.len());
    for (logger, operation, value) in &change.configs {
        if matches!(*operation, SET | DELETE) && !telemetry::is_logger(logger) {
            return Err((ErrorCode::InvalidConfig, format!("Logger {logger} does not exist!")));
        }
        let level = match *operation {
            SET => match telemetry::level(value.as_ref().map(Str::as_str).unwrap_or_default()) {
                Some(level) => Some(level),
                None => {
                    let message = format!(
                        "Cannot set the log level of {logger} to {} as it is not a supported log level. Valid log levels \
                         are DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
                        value.as_ref().map(Str::as_str).unwrap_or_default()
                    );
                    return Err((ErrorCode::InvalidConfig, message));
                }
            },
            DELETE if logger.as_str() == telemetry::ROOT => {
                let message = "Removing the log level of the root logger is not allowed".to_owned();
                return Err((ErrorCode::InvalidRequest, message));
            }
            DELETE => None,
            APPEND | SUBTRACT => {
                let operation = if *operation == APPEND { "APPEND" } else { "SUBTRACT" };
                let message = format!("{operation} operation is not allowed for the BROKER_LOGGER resource");
                return Err((ErrorCode::InvalidRequest, message));
            }
            other => {
                let message = format!("Unknown operation type {other} is not allowed for the BROKER_LOGGER resource");
                return Err((ErrorCode::InvalidRequest, message));
            }
        };
        levels.push(LevelChange { logger: logger.to_string(), level });
    }
    if validate_only {
        return Ok(());
    }
    telemetry::set_levels(levels).map_err(|problem| (ErrorCode::UnknownServerError, problem))
}

type Answered = (i8, Str, i16, Option<Str>);

/// One answer a resource, in the order of the request.
fn assemble(changes: &[Change], verdicts: Vec<Verdict>, decided: Result<Vec<Answered>, Refusal>) -> Vec<Answered> {
    let answer = |(change, verdict): (&Change, Verdict)| {
        let refuse = |(code, message): Refusal| (change.kind, change.name.clone(), code.code(), Some(message.into()));
        match (verdict, &decided) {
            (Some(Ok(())), _) => (change.kind, change.name.clone(), 0, None),
            (Some(Err(refusal)), _) => refuse(refusal),
            (None, Err(refusal)) => refuse(refusal.clone()),
            (None, Ok(answers)) => {
                let found = answers.iter().find(|(kind, name, ..)| *kind == change.kind && *name == change.name);
                let missing = || (ErrorCode::UnknownServerError, "the controller did not answer for it".to_owned());
                found.cloned().unwrap_or_else(|| refuse(missing()))
            }
        }
    };
    changes.iter().zip(verdicts).map(answer).collect()
}
