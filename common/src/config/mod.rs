//! Kafka's configuration: `.properties` files and Kafka's names, types, bounds and defaults.
//!
//! Text comes in, typed structs, warnings and errors come out; nothing here touches a file. The facts about each name
//! (type, default, valid values) are Kafka's own, kept in `common/schema/*.json`; `support` says what Odradek does with
//! each. A wrong value refuses to start and names itself, its place and what is allowed; an unknown name only warns, so
//! that a file written for another version of Kafka still starts.
//!
//! A process calls `BrokerConfig::load` or `ControllerConfig::load`. Topics resolve theirs through `TopicDefaults`:
//! the topic's own value, else the broker's synonym (`log.segment.bytes` for `segment.bytes`), else Kafka's default.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

mod broker;
mod controller;
mod definition;
mod dynamic;
mod group;
mod listener;
mod properties;
mod reader;
mod support;
mod topic;

#[cfg(test)]
mod compatibility;

pub use broker::{
    BrokerConfig, CleanerConfig, GroupConfig, IpOverride, LifeConfig, ListenerLimits, LogConfig, NetworkConfig,
    OffsetsConfig, ReplicationConfig, TopicCreationConfig, TransactionConfig,
};
pub use controller::{BrokersConfig, ControllerConfig, QuorumConfig};
pub use definition::{
    Definition, Type, broker_definition, broker_definitions, client_metrics_definitions, edit_list, group_definition,
    group_definitions, topic_definition, topic_definitions,
};
pub use dynamic::{
    Overrides, UpdateMode, check_dynamic, dynamic_definition, listener_config, unit_synonyms, update_mode,
};
pub use group::GroupLimits;
pub use listener::{HostPort, Listener, SecurityProtocol, Voter};
pub use properties::{Place, Properties, Property};
pub use reader::{ConfigError, ConfigErrors, Warning};
pub use support::{Support, broker_support, topic_support};
pub use topic::{
    CleanupPolicy, Compression, TimestampType, TopicConfig, TopicDefaults, broker_synonym, is_known_topic_config,
    validate_topic_config,
};
