//! DescribeConfigs: the configs of a topic, this broker, its log levels, a group or a subscription to clients' metrics,
//! each with where its value comes from (KIP-133, KIP-226, KIP-569).
//!
//! A value is looked for in Kafka's order: what was set on the resource; then, under the broker's names for it, what was
//! set on this broker, on all brokers, in its file; then the default. All that were found are the synonyms, the strongest
//! first.

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_common::config::{
    Definition, Type, UpdateMode, broker_definition, broker_definitions, client_metrics_definitions,
    dynamic_definition, group_definitions, topic_definitions, unit_synonyms, update_mode,
};
use odradek_metadata::{ConfigResource, Image, ResourceType};
use odradek_node::telemetry;
use odradek_wire::Str;
use odradek_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek_wire::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};

use super::config_docs::{self, Described};
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource, topic_name};

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Kafka's `ConfigSource`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    BrokerLogger = 6,
    ClientMetrics = 7,
    Group = 8,
}

/// A value and where it was set.
struct Synonym {
    name: String,
    value: String,
    source: Source,
}

/// One config as it is found, before it is put into the answer.
struct Found<'a> {
    name: &'a str,
    /// Of an unknown name: a plugin's.
    kind: Option<Type>,
    value: Option<String>,
    /// The strongest first.
    synonyms: Vec<Synonym>,
    read_only: bool,
    documentation: Option<String>,
}

type Refusal = (ErrorCode, String);

/// What is asked of every resource.
struct Wish<'a> {
    keys: Option<&'a [Str]>,
    synonyms: bool,
    documentation: bool,
}

impl Wish<'_> {
    fn wants(&self, config: &str) -> bool {
        match self.keys {
            None | Some([]) => true,
            Some(keys) => keys.iter().any(|key| *key == *config),
        }
    }

    fn answer(&self, found: Found<'_>) -> DescribeConfigsResourceResult {
        // Nobody knows what a plugin's config holds.
        let is_sensitive = matches!(found.kind, None | Some(Type::Password));
        let shown = |value: &str| if is_sensitive { None } else { Some(Str::from(value)) };
        let source = found.synonyms.first().map_or(Source::Default, |synonym| synonym.source);
        let synonyms = found.synonyms.iter().filter(|_| self.synonyms).map(|synonym| DescribeConfigsSynonym {
            name: synonym.name.as_str().into(),
            value: shown(&synonym.value),
            source: synonym.source as i8,
            ..DescribeConfigsSynonym::default()
        });
        DescribeConfigsResourceResult {
            name: found.name.into(),
            value: found.value.as_deref().and_then(shown),
            read_only: found.read_only,
            config_source: source as i8,
            is_sensitive,
            synonyms: synonyms.collect(),
            config_type: found.kind.map_or(0, config_type),
            documentation: found.documentation.filter(|_| self.documentation).map(Str::from),
            ..DescribeConfigsResourceResult::default()
        }
    }
}

impl Api {
    pub(super) fn describe_configs(
        self: &Arc<Self>,
        asked: Asked<DescribeConfigsRequest>,
    ) -> Outcome<DescribeConfigsResponse> {
        let Asked { context, body: request, .. } = asked;
        let image = self.cache.image();
        let results = request.resources.iter().map(|resource| {
            let wish = Wish {
                keys: resource.configuration_keys.as_deref(),
                synonyms: request.include_synonyms,
                documentation: request.include_documentation,
            };
            let mut result = match self.describe(&context, &image, resource, &wish) {
                Ok(configs) => {
                    DescribeConfigsResult { configs, error_message: None, ..DescribeConfigsResult::default() }
                }
                Err((error, message)) => DescribeConfigsResult {
                    error_code: error.code(),
                    error_message: Some(message.into()),
                    ..DescribeConfigsResult::default()
                },
            };
            result.resource_type = resource.resource_type;
            result.resource_name = resource.resource_name.clone();
            result
        });
        Outcome::Done(DescribeConfigsResponse { results: results.collect(), ..DescribeConfigsResponse::default() })
    }

    fn describe(
        &self,
        context: &RequestContext,
        image: &Image,
        resource: &DescribeConfigsResource,
        wish: &Wish<'_>,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let name = resource.resource_name.as_str();
        let refuse = |message: &str| Err((ErrorCode::InvalidRequest, message.to_owned()));
        self.authorize_describe(context, resource.resource_type, name)?;
        match resource.resource_type {
            TOPIC => {
                if !topic_name::is_valid(name) {
                    let message = format!("Topic name is invalid: `{name}` cannot be a topic's name");
                    return Err((ErrorCode::InvalidTopicException, message));
                }
                if image.topic_by_name(name).is_none() {
                    return Err((ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist.")));
                }
                let definitions = topic_definitions().iter().filter(|definition| wish.wants(definition.name));
                // Kafka's own tests know this one; clients are not told of it unless it is set.
                let definitions = definitions.filter(|definition| {
                    definition.default.is_some() || image.topic_config(name, definition.name).is_some()
                });
                Ok(definitions.map(|definition| wish.answer(self.topic_config(image, name, definition))).collect())
            }
            BROKER if name.is_empty() => {
                let set = image.resource_configs(&ConfigResource::cluster());
                let names = set.into_iter().flat_map(|configs| configs.keys()).filter(|config| wish.wants(config));
                Ok(names.map(|config| wish.answer(self.cluster_config(image, config))).collect())
            }
            BROKER => {
                self.check_described(name, " or empty string")?;
                let own = image.resource_configs(&ConfigResource::broker(self.broker_id));
                let cluster = image.resource_configs(&ConfigResource::cluster());
                let dynamic = own.into_iter().chain(cluster).flat_map(|configs| configs.keys()).map(|name| &**name);
                let written = self.config.written.keys().map(String::as_str);
                let known = broker_definitions().iter().map(|definition| definition.name);
                let names: BTreeSet<&str> = known.chain(written).chain(dynamic).collect();
                let names = names.into_iter().filter(|config| wish.wants(config));
                Ok(names.map(|config| wish.answer(self.broker_config(image, config))).collect())
            }
            BROKER_LOGGER if name.is_empty() => refuse("Broker id must not be empty"),
            BROKER_LOGGER => {
                self.check_described(name, "")?;
                let loggers = telemetry::loggers().into_iter().filter(|(logger, _)| wish.wants(logger));
                Ok(loggers.map(|(logger, level)| logger_level(&logger, level)).collect())
            }
            CLIENT_METRICS if name.is_empty() => refuse("Client metrics subscription name must not be empty"),
            CLIENT_METRICS => {
                let definitions = client_metrics_definitions().iter().filter(|definition| wish.wants(definition.name));
                Ok(definitions.map(|definition| wish.answer(client_metrics_config(image, name, definition))).collect())
            }
            GROUP if name.is_empty() => refuse("Group name must not be empty"),
            GROUP => {
                let definitions = group_definitions().iter().filter(|definition| wish.wants(definition.name));
                Ok(definitions.map(|definition| wish.answer(self.group_config(image, name, definition))).collect())
            }
            other => Err((ErrorCode::InvalidRequest, format!("Unsupported resource type: {other}"))),
        }
    }

    fn authorize_describe(&self, context: &RequestContext, kind: i8, name: &str) -> Result<(), Refusal> {
        let (resource, refusal, message) = match kind {
            TOPIC => (Resource::Topic(name), ErrorCode::TopicAuthorizationFailed, "Topic authorization failed."),
            _ => (Resource::Cluster, ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed."),
        };
        if self.allows(context, Operation::DescribeConfigs, resource) {
            Ok(())
        } else {
            Err((refusal, message.to_owned()))
        }
    }

    /// A broker knows its own configs only.
    fn check_described(&self, name: &str, or: &str) -> Result<(), Refusal> {
        let problem = match name.parse::<i32>() {
            Ok(id) if id == self.broker_id.0 => return Ok(()),
            Ok(_) => format!("Unexpected broker id, expected {}{or}, but received {name}", self.broker_id),
            Err(_) => format!("Broker id must be an integer, but it is: {name}"),
        };
        Err((ErrorCode::InvalidRequest, problem))
    }

    /// All places that say something about a broker's config, the strongest first. What stands before the first that
    /// bears the name itself is left out, as a synonym in another unit is no value of this one.
    fn broker_synonyms(&self, image: &Image, name: &str) -> Vec<Synonym> {
        let names = unit_synonyms(name);
        let own = ConfigResource::broker(self.broker_id);
        let place = |source: Source, value: &dyn Fn(&str) -> Option<String>| -> Vec<Synonym> {
            let found =
                names.iter().filter_map(|name| Some(Synonym { name: (*name).to_owned(), value: value(name)?, source }));
            found.collect()
        };
        let mut synonyms = place(Source::DynamicBroker, &|name| image.config(&own, name).map(str::to_owned));
        synonyms.extend(place(Source::DynamicDefaultBroker, &|name| {
            image.config(&ConfigResource::cluster(), name).map(str::to_owned)
        }));
        synonyms.extend(place(Source::StaticBroker, &|name| match name {
            // The older name of node.id.
            "broker.id" => Some(self.broker_id.to_string()),
            name => self.config.written.get(name).cloned(),
        }));
        synonyms.extend(place(Source::Default, &|name| {
            broker_definition(name).and_then(|definition| definition.default).map(str::to_owned)
        }));
        synonyms.into_iter().skip_while(|synonym| synonym.name != name).collect()
    }

    fn topic_config<'a>(&self, image: &Image, topic: &str, definition: &'a Definition) -> Found<'a> {
        let own = image.topic_config(topic, definition.name).map(|value| definition.printed(value));
        let broker = odradek_common::config::broker_synonym(definition.name).next();
        let beneath = broker.map(|name| self.broker_synonyms(image, name)).unwrap_or_default();
        let live = self.live.current();
        let value = own.clone().or_else(|| live.topics.get(definition.name).map(|(value, _)| value.to_owned()));
        let own = own.map(|value| Synonym { name: definition.name.to_owned(), value, source: Source::Topic });
        Found {
            name: definition.name,
            kind: Some(definition.kind),
            value,
            synonyms: own.into_iter().chain(beneath).collect(),
            read_only: false,
            documentation: Some(config_docs::text(Described::Topic, definition.name)),
        }
    }

    fn broker_config<'a>(&self, image: &Image, name: &'a str) -> Found<'a> {
        let definition = dynamic_definition(name);
        let synonyms = self.broker_synonyms(image, name);
        // A weaker unit is in force where the strongest is not set, and has its own row.
        let printed = |value: &str| definition.map_or_else(|| value.to_owned(), |definition| definition.printed(value));
        let value = synonyms.first().map(|synonym| printed(&synonym.value));
        Found {
            name,
            kind: definition.map(|definition| definition.kind),
            value,
            synonyms,
            read_only: is_read_only(name),
            documentation: definition.map(|_| config_docs::text(Described::Broker, name)),
        }
    }

    fn cluster_config<'a>(&self, image: &Image, name: &'a str) -> Found<'a> {
        let mut found = self.broker_config(image, name);
        found.synonyms.retain(|synonym| synonym.source == Source::DynamicDefaultBroker);
        found.value = found.synonyms.first().map(|synonym| synonym.value.clone());
        found
    }

    fn group_config<'a>(&self, image: &Image, group: &str, definition: &'a Definition) -> Found<'a> {
        let resource = ConfigResource { kind: ResourceType::Group, name: group.into() };
        let own = image.config(&resource, definition.name).map(|value| Synonym {
            name: definition.name.to_owned(),
            value: value.to_owned(),
            source: Source::Group,
        });
        let broker = format!("group.{}", definition.name);
        let mut beneath = match broker_definition(&broker) {
            Some(_) => self.broker_synonyms(image, &broker),
            None => Vec::new(),
        };
        if beneath.is_empty()
            && let Some(default) = definition.default
        {
            let name = definition.name.to_owned();
            beneath.push(Synonym { name, value: default.to_owned(), source: Source::Default });
        }
        let synonyms: Vec<Synonym> = own.into_iter().chain(beneath).collect();
        Found {
            name: definition.name,
            kind: Some(definition.kind),
            value: synonyms.first().map(|synonym| synonym.value.clone()),
            synonyms,
            read_only: false,
            documentation: Some(config_docs::text(Described::Group, definition.name)),
        }
    }
}

fn client_metrics_config<'a>(image: &Image, subscription: &str, definition: &'a Definition) -> Found<'a> {
    let resource = ConfigResource { kind: ResourceType::ClientMetrics, name: subscription.into() };
    let own = image.config(&resource, definition.name).map(str::to_owned);
    let synonyms = own.iter().map(|value| Synonym {
        name: definition.name.to_owned(),
        value: value.clone(),
        source: Source::ClientMetrics,
    });
    Found {
        name: definition.name,
        kind: Some(definition.kind),
        synonyms: synonyms.collect(),
        value: own.or_else(|| definition.default.map(str::to_owned)),
        read_only: false,
        documentation: Some(config_docs::text(Described::ClientMetrics, definition.name)),
    }
}

fn logger_level(logger: &str, level: &str) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: logger.into(),
        value: Some(level.into()),
        config_source: Source::BrokerLogger as i8,
        documentation: None,
        ..DescribeConfigsResourceResult::default()
    }
}

fn is_read_only(name: &str) -> bool {
    !matches!(update_mode(name), Some(UpdateMode::PerBroker | UpdateMode::ClusterWide))
}

/// Kafka's `ConfigType`.
fn config_type(kind: Type) -> i8 {
    match kind {
        Type::Boolean => 1,
        Type::String => 2,
        Type::Int => 3,
        Type::Short => 4,
        Type::Long => 5,
        Type::Double => 6,
        Type::List => 7,
        Type::Class => 8,
        Type::Password => 9,
    }
}
