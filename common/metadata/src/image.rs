//! What the metadata log says, and the questions that controllers and brokers ask of it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use odradek_common::{BrokerId, ControllerId, PartitionIndex, TopicId};

use crate::types::{
    BrokerRegistration, ConfigResource, ControllerRegistration, Endpoint, PartitionRegistration, Topic,
};

/// The configs that were set on one resource.
pub type Configs = BTreeMap<Arc<str>, Arc<str>>;

/// The state of the metadata after some offset. A clone shares everything with its original and costs a few pointers.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    pub(crate) offset: i64,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) topics: OrdMap<TopicId, Arc<Topic>>,
    pub(crate) topics_by_name: OrdMap<Arc<str>, TopicId>,
    pub(crate) brokers: OrdMap<BrokerId, Arc<BrokerRegistration>>,
    pub(crate) configs: OrdMap<ConfigResource, Arc<Configs>>,
    pub(crate) features: Arc<BTreeMap<String, i16>>,
    pub(crate) controllers: Arc<BTreeMap<ControllerId, ControllerRegistration>>,
    pub(crate) next_producer_id: i64,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            offset: -1,
            cluster_id: "".into(),
            topics: OrdMap::new(),
            topics_by_name: OrdMap::new(),
            brokers: OrdMap::new(),
            configs: OrdMap::new(),
            features: Arc::default(),
            controllers: Arc::default(),
            next_producer_id: 0,
        }
    }
}

impl Image {
    /// Of a log without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The offset of the last entry that was replayed; -1 if none was.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Moves on over an entry without records (a change of the Raft membership, a leader's blank one).
    pub fn set_offset(&mut self, offset: i64) {
        self.offset = offset;
    }

    /// Empty until the cluster's first record is there.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Ordered by id.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Ordered by name.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics_by_name.values().filter_map(|id| self.topics.get(id))
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.topics_by_name.get(name)?)
    }

    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics_by_name.get(name).copied()
    }

    pub fn partition(&self, id: TopicId, index: PartitionIndex) -> Option<&Arc<PartitionRegistration>> {
        self.topics.get(&id)?.partition(index)
    }

    pub fn partition_by_name(&self, topic: &str, index: PartitionIndex) -> Option<&Arc<PartitionRegistration>> {
        self.topic_by_name(topic)?.partition(index)
    }

    /// The names that start with `prefix`, ascending.
    pub fn topic_names_with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let from = self.topics_by_name.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name).take_while(move |name| name.starts_with(prefix))
    }

    /// Every partition of the cluster, by topic id and index.
    pub fn partitions(&self) -> impl Iterator<Item = (&Arc<Topic>, PartitionIndex, &Arc<PartitionRegistration>)> {
        self.topics
            .values()
            .flat_map(|topic| topic.partitions().map(move |(index, partition)| (topic, index, partition)))
    }

    /// All that registered, ordered by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values()
    }

    /// Those that are not fenced: the ones clients are told of.
    pub fn alive_brokers(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    /// Whether clients can be sent to it.
    pub fn is_alive(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|broker| !broker.fenced)
    }

    /// Whether it may join an ISR or lead.
    pub fn is_active(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_active())
    }

    /// Where an alive broker serves `listener`.
    pub fn endpoint(&self, id: BrokerId, listener: &str) -> Option<&Endpoint> {
        self.brokers.get(&id).filter(|broker| !broker.fenced)?.endpoint(listener)
    }

    /// The leader of a partition and where it serves `listener`; `None` without an alive leader that has such a listener.
    pub fn leader_endpoint(&self, id: TopicId, index: PartitionIndex, listener: &str) -> Option<(BrokerId, &Endpoint)> {
        let leader = self.partition(id, index)?.leader;
        Some((leader, self.endpoint(leader, listener)?))
    }

    /// Everything that was configured, by resource.
    pub fn configs(&self) -> impl Iterator<Item = (&ConfigResource, &Arc<Configs>)> {
        self.configs.iter()
    }

    /// What was set on the resource itself, without the defaults beneath it.
    pub fn resource_configs(&self, resource: &ConfigResource) -> Option<&Arc<Configs>> {
        self.configs.get(resource)
    }

    pub fn config(&self, resource: &ConfigResource, name: &str) -> Option<&str> {
        self.configs.get(resource)?.get(name).map(|value| &**value)
    }

    /// What was set on the topic itself.
    pub fn topic_config(&self, topic: &str, name: &str) -> Option<&str> {
        self.config(&ConfigResource::topic(topic), name)
    }

    /// A broker's dynamic config: its own, else the cluster-wide default of brokers.
    pub fn broker_config(&self, broker: BrokerId, name: &str) -> Option<&str> {
        self.config(&ConfigResource::broker(broker), name).or_else(|| self.config(&ConfigResource::cluster(), name))
    }

    /// Finalized levels by feature; an absent one is at 0, disabled.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    pub fn feature_level(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    pub fn controllers(&self) -> impl Iterator<Item = &ControllerRegistration> {
        self.controllers.values()
    }

    pub fn controller(&self, id: ControllerId) -> Option<&ControllerRegistration> {
        self.controllers.get(&id)
    }

    /// The first producer id that was not handed out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }
}
