//! The partitions of a coordinator's topic that this broker leads, each with its driver.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use odradek_broker_core::coordinator::{RuntimeConfig, partition_for};
use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicId, TopicIdPartition};
use odradek_metadata::{Delta, Image};
use odradek_node::World;

use super::driver::{Answer, DrivenShard, Driver, EffectSink, Place};
use crate::replica::{Outcome, ReplicaManager};

/// What all partitions of a topic are coordinated by.
pub(super) struct TopicSettings {
    pub topic: &'static str,
    /// Of the topic when it will be made.
    pub partitions_default: i32,
    pub runtime: RuntimeConfig,
    pub load_bytes: usize,
}

struct Led<S: DrivenShard> {
    topic: Option<TopicId>,
    /// Of the topic, once it is there.
    partition_count: Option<i32>,
    drivers: BTreeMap<PartitionIndex, Arc<Driver<S>>>,
}

/// Finds the coordinator of a key. Every method may be called from any task.
pub(super) struct Leaderships<S: DrivenShard> {
    world: World,
    local: BrokerId,
    replicas: Arc<ReplicaManager>,
    settings: TopicSettings,
    led: RwLock<Led<S>>,
}

impl<S: DrivenShard> Leaderships<S> {
    pub fn new(world: World, local: BrokerId, replicas: Arc<ReplicaManager>, settings: TopicSettings) -> Self {
        let led = RwLock::new(Led { topic: None, partition_count: None, drivers: BTreeMap::new() });
        Self { world, local, replicas, settings, led }
    }

    fn read(&self) -> RwLockReadGuard<'_, Led<S>> {
        self.led.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition that a key belongs to.
    pub fn partition_for(&self, key: &str) -> PartitionIndex {
        let partitions = self.read().partition_count;
        PartitionIndex(partition_for(key, partitions.unwrap_or(self.settings.partitions_default)))
    }

    /// The coordinator of a key, if it is here.
    pub fn driver(&self, key: &str) -> Result<Arc<Driver<S>>, ErrorCode> {
        let led = self.read();
        let partitions = led.partition_count.ok_or(ErrorCode::NotCoordinator)?;
        let index = PartitionIndex(partition_for(key, partitions));
        led.drivers.get(&index).cloned().ok_or(ErrorCode::NotCoordinator)
    }

    /// The coordinator of a partition, if it is here.
    pub fn driver_of(&self, index: PartitionIndex) -> Option<Arc<Driver<S>>> {
        self.read().drivers.get(&index).cloned()
    }

    pub fn drivers(&self) -> Vec<Arc<Driver<S>>> {
        self.read().drivers.values().cloned().collect()
    }

    /// Asks the coordinator of a key, if it is here.
    pub fn request(&self, key: &str, request: S::Request) -> Outcome<Answer<S>> {
        match self.driver(key) {
            Ok(driver) => driver.request(request),
            Err(error) => Outcome::Done(Err(error)),
        }
    }

    /// Asks every coordinator that is here. One that ends meanwhile has nothing to say; one that is not loaded is an error.
    pub fn query_all(&self, query: &S::Query) -> Result<Vec<S::Response>, ErrorCode>
    where
        S::Query: Clone,
    {
        let mut answers = Vec::new();
        for driver in self.drivers() {
            match driver.query(query.clone()) {
                Ok(answer) => answers.push(answer),
                Err(ErrorCode::NotCoordinator) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Takes up and gives up leaderships. `make` makes the shard of a partition that is to be loaded.
    pub fn publish(&self, delta: &Delta, make: &dyn Fn() -> S, sink: &EffectSink<S>) {
        let image = &delta.after;
        let topic = image.topic_by_name(self.settings.topic);
        let ended = {
            let mut led = self.led.write().unwrap_or_else(PoisonError::into_inner);
            let mut ended = Vec::new();
            if led.topic != topic.map(|topic| topic.id) {
                ended.extend(std::mem::take(&mut led.drivers).into_values());
                led.topic = topic.map(|topic| topic.id);
            }
            led.partition_count = topic.map(|topic| i32::try_from(topic.partitions().count()).unwrap_or(i32::MAX));
            if let Some(topic) = topic
                && let Some(changed) = delta.topics.get(&topic.id)
            {
                for index in &changed.partitions {
                    ended.extend(self.follow(&mut led, image, topic.id, *index, make, sink));
                }
            }
            ended
        };
        for driver in ended {
            driver.stop();
        }
    }

    /// Leads a partition, or not, as the metadata has it. Answers the driver whose leadership is over.
    fn follow(
        &self,
        led: &mut Led<S>,
        image: &Image,
        topic_id: TopicId,
        index: PartitionIndex,
        make: &dyn Fn() -> S,
        sink: &EffectSink<S>,
    ) -> Option<Arc<Driver<S>>> {
        let registration = image.partition(topic_id, index)?;
        if registration.leader != self.local {
            return led.drivers.remove(&index);
        }
        let epoch = registration.leader_epoch;
        if let Some(driver) = led.drivers.get(&index)
            && (driver.epoch() == epoch && !driver.has_ended() || driver.carry_on(epoch))
        {
            return None;
        }
        let place = Place {
            name: format!("{}-{index}", self.settings.topic),
            partition: TopicIdPartition { topic_id, partition: index },
            runtime: self.settings.runtime,
            load_bytes: self.settings.load_bytes,
        };
        let driver = Driver::start(self.world.clone(), self.replicas.clone(), place, epoch, make(), sink.clone());
        led.drivers.insert(index, driver)
    }

    /// Ends all of them, at the end of the broker.
    pub fn stop(&self) {
        let drivers = std::mem::take(&mut self.led.write().unwrap_or_else(PoisonError::into_inner).drivers);
        for driver in drivers.into_values() {
            driver.stop();
        }
    }
}
