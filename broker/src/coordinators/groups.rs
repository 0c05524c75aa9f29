//! The group coordinators of this broker, one for each partition of `__consumer_offsets` that it leads.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use odradek_broker_core::coordinator::{RuntimeConfig, partition_for};
use odradek_broker_core::group::{GroupConfig, GroupQuery, GroupRequest, GroupResponse, GroupShard, OFFSETS_TOPIC};
use odradek_common::config::BrokerConfig;
use odradek_common::{ErrorCode, PartitionIndex, TopicId, TopicIdPartition};
use odradek_metadata::{Delta, Image};
use odradek_node::World;
use odradek_records::{Codec, Compression};

use super::driver::{Answer, Driver, Place};
use crate::replica::{Outcome, ReplicaManager};

/// A batch of a coordinator stays below this, which topics take by default (`message.max.bytes`).
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What is led here.
#[derive(Default)]
struct Led {
    topic: Option<TopicId>,
    /// Of the topic, once it is there.
    partition_count: Option<i32>,
    drivers: BTreeMap<PartitionIndex, Arc<Driver<GroupShard>>>,
}

/// Finds a group's coordinator. Every method may be called from any task.
pub struct GroupCoordinators {
    world: World,
    config: Arc<BrokerConfig>,
    replicas: Arc<ReplicaManager>,
    groups: Arc<GroupConfig>,
    led: RwLock<Led>,
}

impl GroupCoordinators {
    pub fn new(world: World, config: Arc<BrokerConfig>, replicas: Arc<ReplicaManager>) -> Self {
        let groups = Arc::new(group_config(&config));
        Self { world, config, replicas, groups, led: RwLock::default() }
    }

    /// The partition of `__consumer_offsets` that a group belongs to.
    pub fn partition_for(&self, group: &str) -> PartitionIndex {
        let partitions = self.led.read().unwrap_or_else(PoisonError::into_inner).partition_count;
        PartitionIndex(partition_for(group, partitions.unwrap_or(self.config.offsets.topic_partitions)))
    }

    fn driver(&self, group: &str) -> Result<Arc<Driver<GroupShard>>, ErrorCode> {
        let led = self.led.read().unwrap_or_else(PoisonError::into_inner);
        let partitions = led.partition_count.ok_or(ErrorCode::NotCoordinator)?;
        let index = PartitionIndex(partition_for(group, partitions));
        led.drivers.get(&index).cloned().ok_or(ErrorCode::NotCoordinator)
    }

    fn drivers(&self) -> Vec<Arc<Driver<GroupShard>>> {
        self.led.read().unwrap_or_else(PoisonError::into_inner).drivers.values().cloned().collect()
    }

    // ---- requests ----

    /// Asks a group's coordinator, if it is here. What no coordinator would take is refused here.
    pub fn request(&self, group: &str, request: GroupRequest) -> Outcome<Answer<GroupShard>> {
        if let Some(refusal) = request.refusal(&self.groups) {
            return Outcome::Done(Ok(refusal));
        }
        match self.driver(group) {
            Ok(driver) => driver.request(request),
            Err(error) => Outcome::Done(Err(error)),
        }
    }

    /// Reads what is committed of a group.
    pub fn query(&self, group: &str, query: GroupQuery) -> Answer<GroupShard> {
        self.driver(group)?.query(query)
    }

    /// Asks every coordinator that is here. One that ends meanwhile has nothing to say; one that is not loaded is an error.
    pub fn query_all(&self, query: &GroupQuery) -> Result<Vec<GroupResponse>, ErrorCode> {
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

    // ---- metadata ----

    /// Takes up and gives up leaderships. Called by the metadata publisher only, after the replicas.
    pub fn publish(&self, delta: &Delta) {
        let image = &delta.after;
        let topic = image.topic_by_name(OFFSETS_TOPIC);
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
                    ended.extend(self.follow(&mut led, image, topic.id, *index));
                }
            }
            ended
        };
        for driver in ended {
            driver.stop();
        }
        self.forget_deleted(delta);
    }

    /// Leads a partition, or not, as the metadata has it. Answers the driver whose leadership is over.
    fn follow(
        &self,
        led: &mut Led,
        image: &Image,
        topic_id: TopicId,
        index: PartitionIndex,
    ) -> Option<Arc<Driver<GroupShard>>> {
        let registration = image.partition(topic_id, index)?;
        if registration.leader != self.config.node_id {
            return led.drivers.remove(&index);
        }
        let epoch = registration.leader_epoch;
        if let Some(driver) = led.drivers.get(&index)
            && (driver.epoch() == epoch && !driver.has_ended() || driver.carry_on(epoch))
        {
            return None;
        }
        let place = Place {
            name: format!("{OFFSETS_TOPIC}-{index}"),
            partition: TopicIdPartition { topic_id, partition: index },
            runtime: RuntimeConfig {
                write_timeout: self.config.offsets.commit_timeout,
                batch_bytes_max: BATCH_BYTES_MAX,
                compression: compression(self.config.offsets.topic_compression_codec),
            },
            load_bytes: self.config.offsets.load_buffer_bytes,
        };
        let shard = GroupShard::new(self.groups.clone(), self.world.timestamp().0);
        let driver = Driver::start(self.world.clone(), self.replicas.clone(), place, epoch, shard);
        led.drivers.insert(index, driver)
    }

    /// Offsets in topics that were deleted go with them.
    fn forget_deleted(&self, delta: &Delta) {
        let deleted: Vec<(Arc<str>, i32)> = (delta.removed_topics.iter())
            .flat_map(|topic| topic.partitions().map(|(index, _)| (Arc::from(&*topic.name), index.0)))
            .collect();
        if deleted.is_empty() {
            return;
        }
        for driver in self.drivers().into_iter().filter(|driver| driver.is_active()) {
            // Nobody waits for it: what is not written now outlives its topic until its retention.
            drop(driver.request(GroupRequest::PartitionsDeleted(deleted.clone())));
        }
    }

    /// Ends all of them, at the end of the broker.
    pub fn stop(&self) {
        let drivers = std::mem::take(&mut self.led.write().unwrap_or_else(PoisonError::into_inner).drivers);
        for driver in drivers.into_values() {
            driver.stop();
        }
    }
}

/// `offsets.topic.compression.codec`: the number of a codec.
fn compression(codec: i32) -> Compression {
    let codec = u8::try_from(codec).ok().and_then(Codec::from_id).unwrap_or(Codec::None);
    Compression { codec, level: None }
}

fn group_config(config: &BrokerConfig) -> GroupConfig {
    let millis = |duration: std::time::Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    let groups = &config.groups;
    GroupConfig {
        initial_rebalance_delay_ms: millis(groups.initial_rebalance_delay),
        session_timeout_min_ms: millis(groups.session_timeout_min),
        session_timeout_max_ms: millis(groups.session_timeout_max),
        size_max: groups.size_max,
        metadata_max: config.offsets.metadata_bytes_max,
        retention_ms: i64::try_from(config.offsets.retention.as_millis()).unwrap_or(i64::MAX),
        retention_check_interval: config.offsets.retention_check_interval,
    }
}
