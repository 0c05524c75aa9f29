//! What changed between two published images, gathered from the records as they are replayed.
//!
//! A broker's publisher replays as batches arrive and publishes when it chooses; a delta then names everything that was
//! touched since the last time, so that no part has to compare whole images. After a snapshot there are no records
//! between, and [`Delta::between`] compares instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odradek_common::{BrokerId, PartitionIndex, TopicId};
use odradek_proto::metadata::{Batch, Record, record::Kind};

use crate::replay::uuid;
use crate::types::{ConfigResource, ResourceType, Topic};
use crate::{Image, ReplayError};

/// What happened to one topic that exists afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicDelta {
    pub created: bool,
    /// Those that are new or have a new state, ascending.
    pub partitions: BTreeSet<PartitionIndex>,
}

/// From one published image to the next. It names what was touched: a thing may be named though it ended as it began.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Delta {
    pub before: Image,
    pub after: Image,
    /// Created or changed, by id. All of them are in `after`.
    pub topics: BTreeMap<TopicId, TopicDelta>,
    /// They were in `before` and are not in `after`. A topic that was created again has another id, in `topics`.
    pub removed_topics: Vec<Arc<Topic>>,
    /// Registered, changed or gone.
    pub brokers: BTreeSet<BrokerId>,
    pub configs: BTreeSet<ConfigResource>,
    pub features: bool,
    pub controllers: bool,
    pub producer_ids: bool,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
            && self.removed_topics.is_empty()
            && self.brokers.is_empty()
            && self.configs.is_empty()
            && !self.features
            && !self.controllers
            && !self.producer_ids
    }

    /// The difference of two images, however they came about. Shared parts are skipped, the rest is compared.
    pub fn between(before: &Image, after: &Image) -> Self {
        let mut delta = Delta {
            features: before.features != after.features,
            controllers: before.controllers != after.controllers,
            producer_ids: before.next_producer_id != after.next_producer_id,
            ..Delta::default()
        };
        for topic in after.topics.values() {
            let old = before.topics.get(&topic.id);
            if old.is_some_and(|old| Arc::ptr_eq(old, topic)) {
                continue;
            }
            let changed = topic.partitions().filter(|(index, partition)| {
                old.and_then(|old| old.partition(*index)).is_none_or(|old| old != *partition)
            });
            let partitions: BTreeSet<_> = changed.map(|(index, _)| index).collect();
            if old.is_none() || !partitions.is_empty() {
                delta.topics.insert(topic.id, TopicDelta { created: old.is_none(), partitions });
            }
        }
        let gone = before.topics.values().filter(|topic| !after.topics.contains_key(&topic.id));
        delta.removed_topics = gone.cloned().collect();
        let brokers = before.brokers.keys().chain(after.brokers.keys());
        delta.brokers = brokers.filter(|id| before.brokers.get(*id) != after.brokers.get(*id)).copied().collect();
        let configs = before.configs.keys().chain(after.configs.keys());
        delta.configs = configs.filter(|name| before.configs.get(*name) != after.configs.get(*name)).cloned().collect();
        delta.before = before.clone();
        delta.after = after.clone();
        delta
    }
}

/// Replays records and gathers the delta since the last [`DeltaTracker::publish`].
#[derive(Clone, Debug, Default)]
pub struct DeltaTracker {
    published: Image,
    image: Image,
    topics: BTreeMap<TopicId, TopicDelta>,
    removed: BTreeSet<TopicId>,
    brokers: BTreeSet<BrokerId>,
    configs: BTreeSet<ConfigResource>,
    features: bool,
    controllers: bool,
    producer_ids: bool,
}

impl DeltaTracker {
    /// Starts after `published`, which everybody knows already.
    pub fn new(published: Image) -> Self {
        Self { image: published.clone(), published, ..Self::default() }
    }

    /// The image with all that was replayed, published or not.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Replays one entry, all or nothing.
    ///
    /// # Errors
    /// As [`Image::apply`]; nothing changes then.
    pub fn apply(&mut self, batch: &Batch, offset: i64) -> Result<(), ReplayError> {
        self.apply_records(&batch.records, offset)
    }

    /// As [`DeltaTracker::apply`], for records that have left their batch.
    ///
    /// # Errors
    /// As [`Image::apply`]; nothing changes then.
    pub fn apply_records(&mut self, records: &[Record], offset: i64) -> Result<(), ReplayError> {
        let before = self.image.clone();
        self.image.apply_records(records, offset)?;
        for record in records {
            self.note(record, &before);
        }
        Ok(())
    }

    /// Everything since the last time, or since the start.
    pub fn publish(&mut self) -> Delta {
        let before = std::mem::replace(&mut self.published, self.image.clone());
        let (after, removed) = (self.image.clone(), std::mem::take(&mut self.removed));
        let removed_topics = removed.iter().filter_map(|id| before.topics.get(id).cloned()).collect();
        Delta {
            removed_topics,
            topics: std::mem::take(&mut self.topics),
            brokers: std::mem::take(&mut self.brokers),
            configs: std::mem::take(&mut self.configs),
            features: std::mem::take(&mut self.features),
            controllers: std::mem::take(&mut self.controllers),
            producer_ids: std::mem::take(&mut self.producer_ids),
            before,
            after,
        }
    }

    /// Starts over from a snapshot, and publishes the difference to what was published last.
    pub fn reset(&mut self, image: Image) -> Delta {
        let delta = Delta::between(&self.published, &image);
        *self = Self::new(image);
        delta
    }

    /// `before` is the image before the batch: a removed topic's name, and with it its configs, is found there or, if it
    /// was created in the same batch, was never published.
    fn note(&mut self, record: &Record, before: &Image) {
        let Some(kind) = &record.kind else { return };
        match kind {
            Kind::Topic(record) => self.touch(&record.topic_id, |topic| topic.created = true),
            Kind::Partition(record) => self.touch(&record.topic_id, |topic| {
                topic.partitions.insert(PartitionIndex(record.partition));
            }),
            Kind::PartitionChange(record) => self.touch(&record.topic_id, |topic| {
                topic.partitions.insert(PartitionIndex(record.partition));
            }),
            Kind::RemoveTopic(record) => {
                let Ok(id) = uuid("topic_id", &record.topic_id) else { return };
                self.topics.remove(&id);
                if self.published.topics.contains_key(&id) {
                    self.removed.insert(id);
                }
                if let Some(topic) = before.topics.get(&id) {
                    let resource = ConfigResource::topic(topic.name.clone());
                    if before.configs.contains_key(&resource) {
                        self.configs.insert(resource);
                    }
                }
            }
            Kind::RegisterBroker(record) => drop(self.brokers.insert(BrokerId(record.broker_id))),
            Kind::UnregisterBroker(record) => drop(self.brokers.insert(BrokerId(record.broker_id))),
            Kind::BrokerRegistrationChange(record) => drop(self.brokers.insert(BrokerId(record.broker_id))),
            Kind::Config(record) => {
                if let Some(kind) = ResourceType::from_code(record.resource_type) {
                    self.configs.insert(ConfigResource { kind, name: record.resource_name.as_str().into() });
                }
            }
            Kind::FeatureLevel(_) => self.features = true,
            Kind::ProducerIds(_) => self.producer_ids = true,
            Kind::RegisterController(_) => self.controllers = true,
            Kind::Cluster(_) => {}
        }
    }

    fn touch(&mut self, topic_id: &[u8], change: impl FnOnce(&mut TopicDelta)) {
        if let Ok(id) = uuid("topic_id", topic_id) {
            change(self.topics.entry(id).or_default());
        }
    }
}
