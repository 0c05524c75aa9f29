//! Dynamic configs of topics, brokers and groups (Kafka's `ConfigurationControlManager`, KIP-339).

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::config::{
    Type, check_dynamic, client_metrics_definitions, dynamic_definition, edit_list, topic_definition,
};
use odradek_common::{BrokerId, ControllerId, ErrorCode};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{ConfigResource, Image, ResourceType};

use crate::decider::{Context, Decider, Decision, Draft, RECORDS_PER_REQUEST_MAX};
use crate::effective::{MIN_INSYNC_REPLICAS, UNCLEAN_LEADER_ELECTION_ENABLE};
use crate::error::ApiError;
use crate::features::ELIGIBLE_LEADER_REPLICAS;
use crate::settings::Settings;
use crate::topic_name;
use crate::topics::too_large;

/// What a subscription to clients' metrics may match clients by (KIP-714).
const CLIENT_MATCHES: &[&str] = &[
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];
/// Milliseconds between two pushes of a client's metrics.
const PUSH_INTERVALS_MS: std::ops::RangeInclusive<i64> = 100..=3_600_000;

/// What is to be done to one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    Set(String),
    /// Back to the default.
    Delete,
    /// Adds to a list what is not in it.
    Append(String),
    /// Takes out of a list.
    Subtract(String),
}

/// The changes of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    pub resource: ConfigResource,
    pub operations: Vec<(String, ConfigOperation)>,
}

/// All configs that a resource shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigReplacement {
    pub resource: ConfigResource,
    pub configs: Vec<(String, Option<String>)>,
}

/// One resource's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigOutcome {
    pub resource: ConfigResource,
    pub result: Result<(), ApiError>,
}

impl Decider {
    /// Changes some configs of each resource and leaves the others (IncrementalAlterConfigs).
    ///
    /// # Errors
    /// By resource: INVALID_CONFIG, UNKNOWN_TOPIC_OR_PARTITION, INVALID_REQUEST.
    pub fn incremental_alter_configs(
        &mut self,
        context: &mut Context<'_>,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Decision<Vec<ConfigOutcome>> {
        let mut draft = self.draft(context);
        let outcomes = changes.iter().map(|change| {
            let result = self.alter_incrementally(&mut draft, change);
            ConfigOutcome { resource: change.resource.clone(), result }
        });
        let outcomes = outcomes.collect();
        self.decide_configs(draft, outcomes, validate_only)
    }

    /// Replaces all configs of each resource (AlterConfigs). A name without value is refused, as in Kafka.
    ///
    /// # Errors
    /// As [`Decider::incremental_alter_configs`].
    pub fn replace_configs(
        &mut self,
        context: &mut Context<'_>,
        resources: &[ConfigReplacement],
        validate_only: bool,
    ) -> Decision<Vec<ConfigOutcome>> {
        let mut draft = self.draft(context);
        let outcomes = resources.iter().map(|replacement| {
            let result = self.replace(&mut draft, &replacement.resource, &replacement.configs);
            ConfigOutcome { resource: replacement.resource.clone(), result }
        });
        let outcomes = outcomes.collect();
        self.decide_configs(draft, outcomes, validate_only)
    }

    fn decide_configs(
        &mut self,
        mut draft: Draft,
        outcomes: Vec<ConfigOutcome>,
        validate_only: bool,
    ) -> Decision<Vec<ConfigOutcome>> {
        if validate_only {
            return self.answer(outcomes);
        }
        let changes = |name: &str| {
            draft.records.iter().any(|record| matches!(&record.kind, Some(Kind::Config(config)) if config.name == name))
        };
        let (min_insync, unclean) = (changes(MIN_INSYNC_REPLICAS), changes(UNCLEAN_LEADER_ELECTION_ENABLE));
        if min_insync {
            draft.review_elr(&self.settings);
        }
        if unclean {
            draft.elect_for_leaderless(&self.settings);
        }
        self.decide(draft, outcomes)
    }

    fn alter_incrementally(&self, draft: &mut Draft, change: &ConfigChange) -> Result<(), ApiError> {
        let resource = &change.resource;
        let mut names = BTreeSet::new();
        if let Some((twice, _)) = change.operations.iter().find(|(name, _)| !names.insert(name.as_str())) {
            let message = format!("Error due to duplicate config keys: {twice}");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        let current = draft.image.resource_configs(resource).cloned().unwrap_or_default();
        let mut wanted = BTreeMap::new();
        for (name, operation) in &change.operations {
            let current = current.get(name.as_str()).map(|value| &**value);
            let value = match operation {
                ConfigOperation::Set(value) => Some(value.clone()),
                ConfigOperation::Delete => None,
                ConfigOperation::Append(items) => Some(edited(resource.kind, name, current, true, items)?),
                ConfigOperation::Subtract(items) => Some(edited(resource.kind, name, current, false, items)?),
            };
            wanted.insert(name.clone(), value);
        }
        self.write(draft, resource, wanted)
    }

    fn replace(
        &self,
        draft: &mut Draft,
        resource: &ConfigResource,
        configs: &[(String, Option<String>)],
    ) -> Result<(), ApiError> {
        let mut wanted = BTreeMap::new();
        for (name, value) in configs {
            let value = value.clone().ok_or_else(|| {
                let message = format!("Null value not supported for : {name}");
                ApiError::new(ErrorCode::InvalidRequest, message)
            })?;
            if wanted.insert(name.clone(), Some(value)).is_some() {
                let message = format!("Error due to duplicate config keys: {name}");
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
        }
        if let Some(current) = draft.image.resource_configs(resource) {
            for name in current.keys() {
                wanted.entry(name.to_string()).or_insert(None);
            }
        }
        self.write(draft, resource, wanted)
    }

    /// Validates what the resource will have, then writes what differs; all or nothing.
    fn write(
        &self,
        draft: &mut Draft,
        resource: &ConfigResource,
        wanted: BTreeMap<String, Option<String>>,
    ) -> Result<(), ApiError> {
        let current = draft.image.resource_configs(resource).cloned().unwrap_or_default();
        let mut after: BTreeMap<&str, &str> = current.iter().map(|(name, value)| (&**name, &**value)).collect();
        for (name, value) in &wanted {
            match value {
                Some(value) => after.insert(name, value),
                None => after.remove(name.as_str()),
            };
        }
        let set = wanted.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        match resource.kind {
            ResourceType::Topic => {
                check_topic_resource(&resource.name)?;
                // Some values only make sense together. What another version left here does not stand in the way.
                let kept = after
                    .into_iter()
                    .filter(|(name, _)| wanted.contains_key(*name) || topic_definition(name).is_some());
                self.settings.topics.resolve(kept).map_err(invalid_config)?;
            }
            ResourceType::Broker => {
                check_broker_resource(&resource.name)?;
                check_dynamic(set, resource.name.is_empty())
                    .map_err(|problem| ApiError::new(ErrorCode::InvalidRequest, problem))?;
                check_min_insync_of_brokers(&draft.image, resource, &wanted)?;
            }
            ResourceType::Group if resource.name.is_empty() => {
                return Err(ApiError::new(ErrorCode::InvalidRequest, "Default group resources are not allowed."));
            }
            ResourceType::Group => self.settings.groups.check(after).map_err(invalid_config)?,
            ResourceType::ClientMetrics => check_client_metrics(&resource.name, &after)?,
        }
        check_exists(&draft.image, resource)?;
        if draft.records.len() + wanted.len() > RECORDS_PER_REQUEST_MAX {
            return Err(too_large());
        }
        for (name, value) in wanted {
            // A broker reloads (keys, say) even when the text is the same.
            if resource.kind == ResourceType::Broker || current.get(name.as_str()).map(|v| &**v) != value.as_deref() {
                draft.push(config_record(resource, &name, value.as_deref()));
            }
        }
        Ok(())
    }
}

/// The record that sets one config, or takes it back to its default.
pub(crate) fn config_record(resource: &ConfigResource, name: &str, value: Option<&str>) -> Kind {
    Kind::Config(proto::ConfigRecord {
        resource_type: i32::from(resource.kind.code()),
        resource_name: resource.name.to_string(),
        name: name.to_owned(),
        value: value.map(str::to_owned),
    })
}

/// Checks what a new topic is given; the result is what to write.
pub(crate) fn check_topic_configs(
    settings: &Settings,
    configs: &[(String, Option<String>)],
) -> Result<BTreeMap<String, String>, ApiError> {
    let nulls: Vec<&str> = configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        return Err(invalid_config(format!("Null value not supported for topic configs: {}", nulls.join(","))));
    }
    let configs: BTreeMap<String, String> =
        configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    let pairs = configs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    settings.topics.resolve(pairs).map_err(invalid_config)?;
    Ok(configs)
}

fn check_topic_resource(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "Default topic resources are not allowed."));
    }
    topic_name::check(name)
}

fn check_broker_resource(name: &str) -> Result<(), ApiError> {
    let problem = match name.parse::<i32>() {
        _ if name.is_empty() => return Ok(()),
        Ok(0..) => return Ok(()),
        Ok(_) => "Invalid negative broker ID.",
        Err(_) => "Unable to parse broker name as a base 10 number.",
    };
    Err(ApiError::new(ErrorCode::InvalidRequest, problem))
}

/// With eligible leader replicas all nodes must agree on `min.insync.replicas`, so it is the cluster's, and always set
/// (KIP-966).
fn check_min_insync_of_brokers(
    image: &Image,
    resource: &ConfigResource,
    wanted: &BTreeMap<String, Option<String>>,
) -> Result<(), ApiError> {
    if image.feature_level(ELIGIBLE_LEADER_REPLICAS) < 1 {
        return Ok(());
    }
    match wanted.get(MIN_INSYNC_REPLICAS) {
        Some(_) if !resource.name.is_empty() => {
            Err(invalid_config("Broker-level min.insync.replicas cannot be altered while ELR is enabled."))
        }
        Some(None) => Err(invalid_config("Cluster-level min.insync.replicas cannot be removed while ELR is enabled.")),
        _ => Ok(()),
    }
}

fn check_client_metrics(subscription: &str, configs: &BTreeMap<&str, &str>) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    if subscription.is_empty() {
        return refuse("Subscription name can't be empty".to_owned());
    }
    for (name, value) in configs {
        let definition = client_metrics_definitions().iter().find(|definition| definition.name == *name);
        let Some(definition) = definition else {
            return refuse(format!("Unknown client metrics configuration: {name}"));
        };
        definition.check(value).map_err(|problem| invalid_config(definition.invalid(value, &problem)))?;
        match *name {
            "interval.ms" if value.trim().parse().is_ok_and(|ms: i64| !PUSH_INTERVALS_MS.contains(&ms)) => {
                return refuse(format!(
                    "Invalid value {value} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
                ));
            }
            "match" => {
                let patterns = value.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
                let is_legal = |pattern: &&str| {
                    pattern
                        .split_once('=')
                        .is_some_and(|(key, regex)| CLIENT_MATCHES.contains(&key.trim()) && !regex.trim().is_empty())
                };
                if let Some(pattern) = patterns.into_iter().find(|pattern| !is_legal(pattern)) {
                    return Err(invalid_config(format!("Illegal client matching pattern: {pattern}")));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_exists(image: &Image, resource: &ConfigResource) -> Result<(), ApiError> {
    match resource.kind {
        ResourceType::Topic if image.topic_id(&resource.name).is_none() => Err(ApiError::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("The topic '{}' does not exist.", resource.name),
        )),
        ResourceType::Broker if !resource.name.is_empty() => {
            let is_node = |id| image.broker(BrokerId(id)).is_some() || image.controller(ControllerId(id)).is_some();
            if resource.name.parse().is_ok_and(is_node) {
                return Ok(());
            }
            Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("No node with id {} found.", resource.name)))
        }
        _ => Ok(()),
    }
}

/// A list with items added or taken out; it starts from the default when it was not set.
fn edited(kind: ResourceType, name: &str, current: Option<&str>, adds: bool, items: &str) -> Result<String, ApiError> {
    let definition = match kind {
        ResourceType::Topic => topic_definition(name),
        ResourceType::Broker => dynamic_definition(name),
        ResourceType::Group | ResourceType::ClientMetrics => None,
    };
    match definition {
        Some(definition) if definition.kind == Type::List => {
            Ok(edit_list(current.or(definition.default).unwrap_or_default(), items, adds))
        }
        _ if kind == ResourceType::Broker => {
            let operation = if adds { "append" } else { "subtract" };
            Err(invalid_config(format!("Config value {operation} is not allowed for config key: {name}")))
        }
        _ => {
            let operation = if adds { "APPEND" } else { "SUBTRACT" };
            Err(invalid_config(format!("Can't {operation} to key {name} because its type is not LIST.")))
        }
    }
}

fn invalid_config(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidConfig, message)
}
