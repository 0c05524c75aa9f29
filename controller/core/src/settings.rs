//! What a controller's configuration tells its decisions. The shell reads the file; names in backticks are Kafka's.

use std::time::Duration;

use odradek_common::config::{ControllerConfig, GroupLimits, TopicDefaults};

/// Static settings. What a topic or the cluster may override is read through [`crate::effective::TopicSettings`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// `num.partitions`: for a topic that leaves the choice to the cluster.
    pub num_partitions: i32,
    /// `default.replication.factor`
    pub default_replication_factor: i16,
    /// What topics leave unset: `min.insync.replicas`, `unclean.leader.election.enable` and the rest.
    pub topics: TopicDefaults,
    /// What groups may be configured with.
    pub groups: GroupLimits,
    /// `delete.topic.enable`
    pub delete_topic_enable: bool,
    /// `broker.session.timeout.ms`: the longest silence.
    pub session_timeout: Duration,
    /// `odradek.fence.silent.min.ms`: no silence below this is held against anybody.
    pub silence_min: Duration,
    /// `odradek.fence.disconnected.ms`: for how long a broker whose connection broke may stay away.
    pub disconnect_grace: Duration,
    /// `auto.leader.rebalance.enable`
    pub leader_rebalance_enable: bool,
    /// `leader.imbalance.check.interval.seconds`
    pub leader_imbalance_check_interval: Duration,
}

impl Default for Settings {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self {
            num_partitions: 1,
            default_replication_factor: 1,
            topics: TopicDefaults::default(),
            groups: GroupLimits::default(),
            delete_topic_enable: true,
            session_timeout: Duration::from_secs(9),
            silence_min: Duration::from_secs(3),
            disconnect_grace: Duration::from_millis(500),
            leader_rebalance_enable: true,
            leader_imbalance_check_interval: Duration::from_secs(300),
        }
    }
}

impl From<&ControllerConfig> for Settings {
    fn from(config: &ControllerConfig) -> Self {
        Self {
            num_partitions: config.topic_creation.partitions_default,
            default_replication_factor: config.topic_creation.replication_factor_default,
            topics: config.topics.clone(),
            groups: config.groups.clone(),
            delete_topic_enable: config.topic_creation.delete_enable,
            session_timeout: config.brokers.session_timeout,
            silence_min: config.brokers.silence_min,
            disconnect_grace: config.brokers.disconnect_grace,
            leader_rebalance_enable: config.brokers.leader_rebalance_enable,
            leader_imbalance_check_interval: config.brokers.leader_imbalance_check_interval,
        }
    }
}
