//! What operators ask about the cluster: summaries of an image. Any controller can answer them from what it has applied.

use odradek_common::time::Instant;
use odradek_common::{BrokerId, Uuid};
use odradek_metadata::{BrokerRegistration, Image, PartitionRegistration, Topic};

use crate::decider::{Decider, Decision};

/// One line of a list of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary<'a> {
    pub topic: &'a Topic,
    pub partitions: i32,
    /// Of the first partition.
    pub replication_factor: i32,
    /// Partitions whose ISR is smaller than their replicas.
    pub under_replicated: i32,
    /// Partitions without a leader.
    pub offline: i32,
}

/// One line of a list of brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSummary<'a> {
    pub broker: &'a BrokerRegistration,
    pub leaders: i32,
    pub replicas: i32,
}

/// Topics by name.
pub fn topics(image: &Image, include_internal: bool) -> impl Iterator<Item = TopicSummary<'_>> {
    image
        .topics_by_name()
        .filter(move |topic| include_internal || !topic.is_internal())
        .map(|topic| topic_summary(topic))
}

pub fn topic_summary(topic: &Topic) -> TopicSummary<'_> {
    let count = |wanted: &dyn Fn(&PartitionRegistration) -> bool| {
        topic.partitions().filter(|(_, partition)| wanted(partition)).count() as i32
    };
    TopicSummary {
        topic,
        partitions: topic.partition_count(),
        replication_factor: topic.partitions().next().map_or(0, |(_, first)| first.replicas.len() as i32),
        under_replicated: count(&|partition| partition.isr.len() < partition.replicas.len()),
        offline: count(&|partition| !partition.has_leader()),
    }
}

/// Brokers by id.
pub fn brokers(image: &Image) -> Vec<BrokerSummary<'_>> {
    let mut counts = std::collections::BTreeMap::<BrokerId, (i32, i32)>::new();
    for (_, _, partition) in image.partitions() {
        counts.entry(partition.leader).or_default().0 += 1;
        for replica in &partition.replicas {
            counts.entry(*replica).or_default().1 += 1;
        }
    }
    let mut summaries = Vec::new();
    for broker in image.brokers() {
        let (leaders, replicas) = counts.get(&broker.id).copied().unwrap_or_default();
        summaries.push(BrokerSummary { broker, leaders, replicas });
    }
    summaries
}

/// How far a broker has followed the metadata, as it last told the active controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerProgress {
    pub broker: BrokerId,
    /// Of its first log directory; zero when it told of none.
    pub directory: Uuid,
    /// The last offset that it has published to its parts.
    pub metadata_offset: i64,
    pub last_heard: Instant,
}

impl Decider {
    /// Of every registered broker that this controller has heard since it leads.
    pub fn broker_progress(&self) -> Decision<Vec<BrokerProgress>> {
        let heard = self.liveness.pulses.iter().filter(|(_, pulse)| pulse.heard);
        let progress = heard.filter_map(|(id, pulse)| {
            let registration = self.overlay.broker(*id)?;
            Some(BrokerProgress {
                broker: *id,
                directory: registration.log_dirs.first().copied().unwrap_or(Uuid::ZERO),
                metadata_offset: pulse.metadata_offset,
                last_heard: pulse.last_heard,
            })
        });
        self.answer(progress.collect())
    }
}
