//! A topic's settings as they are in force: its own, else the cluster's dynamic default, else the controller's.

use odradek_common::PartitionIndex;
use odradek_metadata::{ConfigResource, Image, Topic};

use crate::features::ELIGIBLE_LEADER_REPLICAS;
use crate::settings::Settings;

pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub const UNCLEAN_LEADER_ELECTION_ENABLE: &str = "unclean.leader.election.enable";

/// What the elections of a topic's partitions go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// At most the replication factor.
    pub min_insync_replicas: usize,
    pub unclean_leader_election: bool,
    pub elr_enabled: bool,
}

impl TopicSettings {
    pub fn of(topic: &Topic, image: &Image, settings: &Settings) -> Self {
        let lookup = |name| {
            let dynamic =
                image.topic_config(&topic.name, name).or_else(|| image.config(&ConfigResource::cluster(), name));
            dynamic.or_else(|| settings.topics.get(name).map(|(value, _)| value))
        };
        let min_insync = lookup(MIN_INSYNC_REPLICAS).and_then(|value| value.trim().parse::<i64>().ok()).unwrap_or(1);
        let replicas = topic.partition(PartitionIndex(0)).map_or(1, |partition| partition.replicas.len());
        Self {
            min_insync_replicas: usize::try_from(min_insync).unwrap_or(1).clamp(1, replicas.max(1)),
            unclean_leader_election: lookup(UNCLEAN_LEADER_ELECTION_ENABLE)
                .is_some_and(|value| value.trim().eq_ignore_ascii_case("true")),
            elr_enabled: image.feature_level(ELIGIBLE_LEADER_REPLICAS) >= 1,
        }
    }
}
