//! Clients' administrative requests in Kafka's encoding: brokers pass the bytes on, and here they become decisions and
//! the decisions' outcomes become answers.
//!
//! Only translation: what is checked here is what only the encoding can get wrong.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod features;
mod partitions;

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek_common::config::topic_definitions;
use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicId, TopicPartition};
use odradek_metadata::{ConfigResource, Image, ResourceType};
use odradek_wire::{
    ApiKey, DecodeError, Decoder, EncodeError, Encoder, Message, Request, Str,
    alter_configs_request as replace_request, alter_configs_response as replace_response, create_partitions_request,
    create_partitions_response, create_topics_request, create_topics_response, delete_topics_request,
    delete_topics_response, elect_leaders_request, elect_leaders_response,
    incremental_alter_configs_request as alter_request, incremental_alter_configs_response as alter_response,
    unregister_broker_request, unregister_broker_response,
};

use crate::configs::{ConfigChange, ConfigOperation, ConfigOutcome, ConfigReplacement};
use crate::create_partitions::NewPartitions;
use crate::decider::{Context, Decider, Decision};
use crate::elect_leaders::ElectionType;
use crate::error::ApiError;
use crate::settings::Settings;
use crate::topics::{CreatedTopic, NewTopic, TopicOutcome, TopicRef};

/// What [`Decider::forward`] takes.
pub const FORWARDED: &[ApiKey] = &[
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::CreatePartitions,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AlterConfigs,
    ApiKey::ElectLeaders,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::UnregisterBroker,
    ApiKey::UpdateFeatures,
];

/// A request that cannot be answered in its own terms. The broker that passed it on should not have.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("API key {0} is not served by a controller")]
    UnknownApi(i16),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Decider {
    /// Decides on a request that a broker has passed on. `body` is the request without header, at `version`; so is the
    /// response.
    ///
    /// # Errors
    /// [`ForwardError`]. Nothing was decided, except with `Encode`.
    pub fn forward(
        &mut self,
        context: &mut Context<'_>,
        api_key: i16,
        version: i16,
        body: Bytes,
    ) -> Decision<Result<Bytes, ForwardError>> {
        match ApiKey::from_code(api_key) {
            Some(ApiKey::CreateTopics) => self.translate(context, version, body, Self::answer_create_topics),
            Some(ApiKey::DeleteTopics) => self.translate(context, version, body, Self::answer_delete_topics),
            Some(ApiKey::CreatePartitions) => self.translate(context, version, body, Self::answer_create_partitions),
            Some(ApiKey::IncrementalAlterConfigs) => self.translate(context, version, body, Self::answer_alter_configs),
            Some(ApiKey::AlterConfigs) => self.translate(context, version, body, Self::answer_replace_configs),
            Some(ApiKey::ElectLeaders) => self.translate(context, version, body, Self::answer_elect_leaders),
            Some(ApiKey::AlterPartitionReassignments) => {
                self.translate(context, version, body, Self::answer_alter_reassignments)
            }
            Some(ApiKey::ListPartitionReassignments) => {
                self.translate(context, version, body, Self::answer_list_reassignments)
            }
            Some(ApiKey::UpdateFeatures) => self.translate(context, version, body, Self::answer_update_features),
            Some(ApiKey::UnregisterBroker) => self.translate(context, version, body, Self::answer_unregister_broker),
            _ => self.answer(Err(ForwardError::UnknownApi(api_key))),
        }
    }

    fn translate<Q: Request>(
        &mut self,
        context: &mut Context<'_>,
        version: i16,
        body: Bytes,
        handle: impl FnOnce(&mut Self, &mut Context<'_>, i16, Q) -> Decision<Q::Response>,
    ) -> Decision<Result<Bytes, ForwardError>> {
        match decode::<Q>(version, body) {
            Ok(request) => handle(self, context, version, request).map(|response| encode(version, &response)),
            Err(error) => self.answer(Err(error.into())),
        }
    }

    fn answer_create_topics(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: create_topics_request::CreateTopicsRequest,
    ) -> Decision<create_topics_response::CreateTopicsResponse> {
        let topics: Vec<NewTopic> = request.topics.into_iter().map(new_topic).collect();
        let decision = self.create_topics(context, &topics, request.validate_only);
        let (image, settings) = (&self.overlay, &self.settings);
        let by_name: BTreeMap<&str, &NewTopic> = topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        decision.map(|outcomes| create_topics_response::CreateTopicsResponse {
            topics: (outcomes.into_iter())
                .filter_map(|outcome| {
                    Some(created_topic(image, settings, by_name.get(outcome.name.as_str())?, outcome))
                })
                .collect(),
            ..Default::default()
        })
    }

    fn answer_delete_topics(
        &mut self,
        context: &mut Context<'_>,
        version: i16,
        request: delete_topics_request::DeleteTopicsRequest,
    ) -> Decision<delete_topics_response::DeleteTopicsResponse> {
        use delete_topics_response::DeletableTopicResult;
        let mut refused = Vec::new();
        let mut topics: Vec<TopicRef> =
            request.topic_names.iter().map(|name| TopicRef::Name(name.to_string())).collect();
        for state in request.topics {
            match (state.name, state.topic_id) {
                (Some(name), TopicId::ZERO) => topics.push(TopicRef::Name(name.to_string())),
                (None, id) if !id.is_zero() => topics.push(TopicRef::Id(id)),
                (name, topic_id) => {
                    let problem = match name {
                        Some(_) => "You may not specify both topic name and topic id.",
                        None => "Neither topic name nor id were specified.",
                    };
                    refused.push(DeletableTopicResult {
                        name,
                        topic_id,
                        error_code: ErrorCode::InvalidRequest.code(),
                        error_message: Some(Str::from_static(problem)),
                        ..Default::default()
                    });
                }
            }
        }
        self.delete_topics(context, &topics).map(|outcomes| {
            let deleted = outcomes.into_iter().map(|outcome| {
                let (mut error_code, error_message) = error_fields(outcome.result);
                // Clients before version 3 do not know this code.
                if version < 3 && error_code == ErrorCode::TopicDeletionDisabled.code() {
                    error_code = ErrorCode::InvalidRequest.code();
                }
                DeletableTopicResult {
                    name: outcome.name.map(Str::from),
                    topic_id: outcome.id,
                    error_code,
                    error_message,
                    ..Default::default()
                }
            });
            let responses = refused.into_iter().chain(deleted).collect();
            delete_topics_response::DeleteTopicsResponse { responses, ..Default::default() }
        })
    }

    fn answer_create_partitions(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: create_partitions_request::CreatePartitionsRequest,
    ) -> Decision<create_partitions_response::CreatePartitionsResponse> {
        let wanted = request.topics.into_iter().map(|topic| NewPartitions {
            topic: topic.name.to_string(),
            count: topic.count,
            assignments: topic
                .assignments
                .map(|assignments| assignments.iter().map(|one| broker_ids(&one.broker_ids)).collect()),
        });
        let wanted: Vec<NewPartitions> = wanted.collect();
        self.create_partitions(context, &wanted, request.validate_only).map(|outcomes| {
            let results = outcomes.into_iter().map(|outcome| {
                let (error_code, error_message) = error_fields(outcome.result);
                create_partitions_response::CreatePartitionsTopicResult {
                    name: outcome.name.into(),
                    error_code,
                    error_message,
                    ..Default::default()
                }
            });
            create_partitions_response::CreatePartitionsResponse { results: results.collect(), ..Default::default() }
        })
    }

    fn answer_alter_configs(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: alter_request::IncrementalAlterConfigsRequest,
    ) -> Decision<alter_response::IncrementalAlterConfigsResponse> {
        let (mut changes, mut named, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for resource in request.resources {
            let named_so = (resource.resource_type, resource.resource_name.clone());
            match config_change(&resource) {
                Ok(change) => {
                    changes.push(change);
                    named.push(named_so);
                }
                Err(error) => refused.push((named_so, Err(error))),
            }
        }
        self.incremental_alter_configs(context, &changes, request.validate_only).map(|outcomes| {
            let responses = config_results(refused, named, outcomes).map(|(kind, name, code, message)| {
                alter_response::AlterConfigsResourceResponse {
                    error_code: code,
                    error_message: message,
                    resource_type: kind,
                    resource_name: name,
                    ..Default::default()
                }
            });
            alter_response::IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() }
        })
    }

    fn answer_replace_configs(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: replace_request::AlterConfigsRequest,
    ) -> Decision<replace_response::AlterConfigsResponse> {
        let (mut replacements, mut named, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for resource in request.resources {
            let named_so = (resource.resource_type, resource.resource_name.clone());
            match config_resource(resource.resource_type, &resource.resource_name) {
                Ok(found) => {
                    let configs = resource.configs.iter();
                    let configs = configs
                        .map(|config| (config.name.to_string(), config.value.as_ref().map(|value| value.to_string())));
                    replacements.push(ConfigReplacement { resource: found, configs: configs.collect() });
                    named.push(named_so);
                }
                Err(error) => refused.push((named_so, Err(error))),
            }
        }
        self.replace_configs(context, &replacements, request.validate_only).map(|outcomes| {
            let responses = config_results(refused, named, outcomes).map(|(kind, name, code, message)| {
                replace_response::AlterConfigsResourceResponse {
                    error_code: code,
                    error_message: message,
                    resource_type: kind,
                    resource_name: name,
                    ..Default::default()
                }
            });
            replace_response::AlterConfigsResponse { responses: responses.collect(), ..Default::default() }
        })
    }

    fn answer_elect_leaders(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: elect_leaders_request::ElectLeadersRequest,
    ) -> Decision<elect_leaders_response::ElectLeadersResponse> {
        use elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
        let election = match request.election_type {
            0 => ElectionType::Preferred,
            1 => ElectionType::Unclean,
            unknown => return self.answer(unknown_election(unknown, request)),
        };
        let result = |partition_id: i32, outcome: Result<(), ApiError>| {
            let (error_code, error_message) = error_fields(outcome);
            PartitionResult { partition_id, error_code, error_message, ..Default::default() }
        };
        let Some(wanted) = request.topic_partitions else {
            // Of all topics Kafka names each, though there may be nothing to tell of its partitions.
            let topics: Vec<Str> = self.overlay.topics_by_name().map(|topic| Str::from(&*topic.name)).collect();
            return self.elect_leaders(context, election, None).map(|outcomes| {
                let mut by_topic: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
                for outcome in outcomes {
                    let told = result(outcome.partition.partition.0, outcome.result);
                    by_topic.entry(outcome.partition.topic).or_default().push(told);
                }
                let results = topics.into_iter().map(|topic| ReplicaElectionResult {
                    partition_result: by_topic.remove(topic.as_str()).unwrap_or_default(),
                    topic,
                    ..Default::default()
                });
                ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() }
            });
        };
        let partitions = wanted
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| TopicPartition::new(&*topic.topic, *partition)));
        let partitions: Vec<TopicPartition> = partitions.collect();
        // One outcome a partition, in the order of the request.
        self.elect_leaders(context, election, Some(&partitions)).map(|outcomes| {
            let mut outcomes = outcomes.into_iter();
            let results = wanted.into_iter().map(|topic| {
                let outcomes = outcomes.by_ref().take(topic.partitions.len());
                ReplicaElectionResult {
                    partition_result: outcomes
                        .map(|outcome| result(outcome.partition.partition.0, outcome.result))
                        .collect(),
                    topic: topic.topic,
                    ..Default::default()
                }
            });
            ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() }
        })
    }

    fn answer_unregister_broker(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: unregister_broker_request::UnregisterBrokerRequest,
    ) -> Decision<unregister_broker_response::UnregisterBrokerResponse> {
        self.unregister_broker(context, BrokerId(request.broker_id)).map(|result| {
            // Kafka's message of success is the empty one that stands there by default.
            result.map_or_else(
                |error| unregister_broker_response::UnregisterBrokerResponse {
                    error_code: error.code.code(),
                    error_message: Some(error.message.into()),
                    ..Default::default()
                },
                |()| Default::default(),
            )
        })
    }
}

/// Refuses a kind of election that does not exist, for every partition that was named.
fn unknown_election(
    kind: i8,
    request: elect_leaders_request::ElectLeadersRequest,
) -> elect_leaders_response::ElectLeadersResponse {
    use elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
    let error_code = ErrorCode::InvalidRequest.code();
    let refused = |partition_id: i32| PartitionResult {
        partition_id,
        error_code,
        error_message: Some(format!("Unknown election type {kind}").into()),
        ..Default::default()
    };
    let results = request.topic_partitions.into_iter().flatten().map(|topic| ReplicaElectionResult {
        partition_result: topic.partitions.iter().map(|partition| refused(*partition)).collect(),
        topic: topic.topic,
        ..Default::default()
    });
    ElectLeadersResponse { error_code, replica_election_results: results.collect(), ..Default::default() }
}

pub(crate) fn decode<Q: Request>(version: i16, body: Bytes) -> Result<Q, DecodeError> {
    let mut input = Decoder::new(body);
    let request = Q::decode(&mut input, version)?;
    input.finish()?;
    Ok(request)
}

pub(crate) fn encode<R: Message>(version: i16, response: &R) -> Result<Bytes, ForwardError> {
    let mut out = Encoder::new();
    response.encode(&mut out, version)?;
    // Only references into a log leave a hole, and none of these responses has records.
    Ok(out.into_bytes().unwrap_or_default())
}

fn error_fields<T>(result: Result<T, ApiError>) -> (i16, Option<Str>) {
    match result {
        Ok(_) => (ErrorCode::None.code(), None),
        Err(error) => (error.code.code(), Some(error.message.into())),
    }
}

fn broker_ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

fn new_topic(topic: create_topics_request::CreatableTopic) -> NewTopic {
    let assignments = topic.assignments.iter();
    let configs = topic.configs.iter();
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments
            .map(|one| (PartitionIndex(one.partition_index), broker_ids(&one.broker_ids)))
            .collect(),
        configs: configs
            .map(|config| (config.name.to_string(), config.value.as_ref().map(|value| value.to_string())))
            .collect(),
    }
}

fn created_topic(
    image: &Image,
    settings: &Settings,
    topic: &NewTopic,
    outcome: TopicOutcome<CreatedTopic>,
) -> create_topics_response::CreatableTopicResult {
    let name = outcome.name.into();
    match outcome.result {
        Err(error) => create_topics_response::CreatableTopicResult {
            name,
            error_code: error.code.code(),
            error_message: Some(error.message.into()),
            num_partitions: -1,
            replication_factor: -1,
            configs: Some(Vec::new()),
            ..Default::default()
        },
        Ok(created) => create_topics_response::CreatableTopicResult {
            name,
            topic_id: created.id,
            error_message: None,
            num_partitions: created.partitions,
            replication_factor: created.replication_factor,
            configs: Some(effective_configs(image, settings, topic)),
            ..Default::default()
        },
    }
}

/// All configs of a topic as they are in force, with where each comes from (KIP-525).
fn effective_configs(
    image: &Image,
    settings: &Settings,
    topic: &NewTopic,
) -> Vec<create_topics_response::CreatableTopicConfigs> {
    // Kafka's `DescribeConfigsResponse.ConfigSource`.
    const TOPIC: i8 = 1;
    const DYNAMIC_DEFAULT: i8 = 3;
    const STATIC: i8 = 4;
    const DEFAULT: i8 = 5;
    let cluster = ConfigResource::cluster();
    // What has neither default nor value is for tests only, and no client is told of it.
    let is_told = |name: &str, default: Option<&str>| {
        default.is_some() || topic.configs.iter().any(|(own, value)| own == name && value.is_some())
    };
    let mut configs: Vec<_> = topic_definitions()
        .iter()
        .filter(|definition| is_told(definition.name, definition.default))
        .map(|definition| {
            let own = topic.configs.iter().find(|(name, _)| name == definition.name);
            let dynamic = || {
                let mut synonyms = odradek_common::config::broker_synonym(definition.name);
                synonyms.find_map(|synonym| image.config(&cluster, synonym))
            };
            let (value, source) = match own.and_then(|(_, value)| value.as_deref()) {
                Some(value) => (Some(value), TOPIC),
                None => match (dynamic(), settings.topics.get(definition.name)) {
                    (Some(value), _) => (Some(value), DYNAMIC_DEFAULT),
                    (None, Some((value, Some(_)))) => (Some(value), STATIC),
                    (None, Some((value, None))) => (Some(value), DEFAULT),
                    (None, None) => (None, DEFAULT),
                },
            };
            create_topics_response::CreatableTopicConfigs {
                name: Str::from_static(definition.name),
                value: value.map(Str::from),
                read_only: false,
                config_source: source,
                is_sensitive: false,
                ..Default::default()
            }
        })
        .collect();
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    configs
}

fn config_resource(kind: i8, name: &Str) -> Result<ConfigResource, ApiError> {
    match ResourceType::from_code(i32::from(kind)) {
        Some(kind) => Ok(ConfigResource { kind, name: name.as_str().into() }),
        None => Err(ApiError::new(ErrorCode::InvalidRequest, format!("Unknown config resource type {kind}"))),
    }
}

fn config_change(resource: &alter_request::AlterConfigsResource) -> Result<ConfigChange, ApiError> {
    let found = config_resource(resource.resource_type, &resource.resource_name)?;
    let operations = resource.configs.iter().map(|config| {
        let value = config.value.as_ref().map(|value| value.to_string());
        let operation = match (config.config_operation, value) {
            (0, Some(value)) => ConfigOperation::Set(value),
            (1, _) => ConfigOperation::Delete,
            (2, Some(value)) => ConfigOperation::Append(value),
            (3, Some(value)) => ConfigOperation::Subtract(value),
            (0 | 2 | 3, None) => {
                let message = format!("Null value not supported for : {}", config.name);
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
            (other, _) => {
                let message = format!("Unknown operation type {other}");
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
        };
        Ok((config.name.to_string(), operation))
    });
    Ok(ConfigChange { resource: found, operations: operations.collect::<Result<_, _>>()? })
}

/// A resource as the client named it.
type Named = (i8, Str);

fn config_results(
    refused: Vec<(Named, Result<(), ApiError>)>,
    named: Vec<Named>,
    outcomes: Vec<ConfigOutcome>,
) -> impl Iterator<Item = (i8, Str, i16, Option<Str>)> {
    let decided = named.into_iter().zip(outcomes).map(|(name, outcome)| (name, outcome.result));
    refused.into_iter().chain(decided).map(|((kind, name), result)| {
        let (code, message) = error_fields(result);
        (kind, name, code, message)
    })
}
