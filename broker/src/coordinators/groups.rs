//! The group coordinators of this broker, one for each partition of `__consumer_offsets` that it leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::{RuntimeConfig, TransactionEnd};
use odradek_broker_core::group::consumer::{Assignor, Bounded, ConsumerConfig, MigrationPolicy};
use odradek_broker_core::group::{
    GroupConfig, GroupQuery, GroupRequest, GroupResponse, GroupShard, OFFSETS_TOPIC, OffsetKey,
};
use odradek_common::config::BrokerConfig;
use odradek_common::{ErrorCode, PartitionIndex};
use odradek_metadata::{Delta, Image};
use odradek_node::World;
use odradek_records::{Codec, Compression};

use super::BATCH_BYTES_MAX;
use super::driver::{Answer, EffectSink};
use super::led::{Leaderships, TopicSettings};
use crate::replica::{Outcome, ReplicaManager};

/// Finds a group's coordinator. Every method may be called from any task.
pub struct GroupCoordinators {
    world: World,
    groups: Arc<GroupConfig>,
    led: Leaderships<GroupShard>,
    sink: EffectSink<GroupShard>,
}

impl GroupCoordinators {
    pub fn new(world: World, config: &BrokerConfig, replicas: Arc<ReplicaManager>) -> Self {
        let offsets = &config.offsets;
        let settings = TopicSettings {
            topic: OFFSETS_TOPIC,
            partitions_default: offsets.topic_partitions,
            runtime: RuntimeConfig {
                write_timeout: offsets.commit_timeout,
                batch_bytes_max: BATCH_BYTES_MAX,
                compression: compression(offsets.topic_compression_codec),
            },
            load_bytes: offsets.load_buffer_bytes,
        };
        Self {
            groups: Arc::new(group_config(config)),
            led: Leaderships::new(world.clone(), config.node_id, replicas, settings),
            // Groups ask for nothing: there is no value that could be an effect of theirs.
            sink: Arc::new(|_, _, _| {}),
            world,
        }
    }

    /// The partition of `__consumer_offsets` that a group belongs to.
    pub fn partition_for(&self, group: &str) -> PartitionIndex {
        self.led.partition_for(group)
    }

    // ---- requests ----

    /// Asks a group's coordinator, if it is here. What no coordinator would take is refused here.
    pub fn request(&self, group: &str, request: GroupRequest) -> Outcome<Answer<GroupShard>> {
        if let Some(refusal) = request.refusal(&self.groups) {
            return Outcome::Done(Ok(refusal));
        }
        self.led.request(group, request)
    }

    /// Reads what is committed of a group.
    pub fn query(&self, group: &str, query: GroupQuery) -> Answer<GroupShard> {
        self.led.driver(group)?.query(query)
    }

    /// What the groups that are coordinated here have committed. Those that are being loaded are left out.
    pub fn committed(&self) -> Vec<(OffsetKey, i64)> {
        let answers = self.led.drivers().into_iter().filter_map(|driver| driver.query(GroupQuery::Committed).ok());
        let offsets = answers.filter_map(|answer| match answer {
            GroupResponse::Committed(offsets) => Some(offsets),
            _ => None,
        });
        offsets.flatten().collect()
    }

    /// As [`Leaderships::query_all`].
    pub fn query_all(&self, query: &GroupQuery) -> Result<Vec<GroupResponse>, ErrorCode> {
        self.led.query_all(query)
    }

    /// Appends the end of a transaction to a partition of `__consumer_offsets` and takes it in; answered when it is
    /// committed. Errors are those of a partition's leader, as whoever sends markers expects them.
    pub fn end_transaction(&self, index: PartitionIndex, end: TransactionEnd) -> Outcome<Result<(), ErrorCode>> {
        let Some(driver) = self.led.driver_of(index) else {
            return Outcome::Done(Err(ErrorCode::NotLeaderOrFollower));
        };
        driver.end_transaction(end, GroupResponse::Done).map(|answer| match answer {
            Ok(_) => Ok(()),
            Err(
                ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator,
            ) => Err(ErrorCode::NotLeaderOrFollower),
            Err(error) => Err(error),
        })
    }

    // ---- metadata ----

    /// Takes up and gives up leaderships. Called by the metadata publisher only, after the replicas.
    pub fn publish(&self, delta: &Delta) {
        let image = Arc::new(delta.after.clone());
        let make = || GroupShard::new(self.groups.clone(), self.world.timestamp().0, image.clone());
        self.led.publish(delta, &make, &self.sink);
        self.tell_topics(delta, &image);
        self.forget_deleted(delta);
    }

    /// Consumer groups look again at topics that have changed. Those that are being loaded do so anyway.
    fn tell_topics(&self, delta: &Delta, image: &Arc<Image>) {
        let changed = delta.topics.keys().filter_map(|id| image.topic(*id));
        let names: BTreeSet<Arc<str>> = changed.chain(&delta.removed_topics).map(|topic| topic.name.clone()).collect();
        let has_new = delta.topics.values().any(|topic| topic.created);
        if names.is_empty() && delta.configs.is_empty() {
            return;
        }
        let names = Arc::new(names);
        for driver in self.led.drivers().into_iter().filter(|driver| driver.is_active()) {
            let (image, names) = (image.clone(), names.clone());
            drop(driver.request(GroupRequest::TopicsChanged { image, names, has_new }));
        }
    }

    /// Offsets in topics that were deleted go with them.
    fn forget_deleted(&self, delta: &Delta) {
        let deleted: Vec<(Arc<str>, i32)> = (delta.removed_topics.iter())
            .flat_map(|topic| topic.partitions().map(|(index, _)| (Arc::from(&*topic.name), index.0)))
            .collect();
        if deleted.is_empty() {
            return;
        }
        for driver in self.led.drivers().into_iter().filter(|driver| driver.is_active()) {
            // Nobody waits for it: what is not written now outlives its topic until its retention.
            drop(driver.request(GroupRequest::PartitionsDeleted(deleted.clone())));
        }
    }

    /// Ends all of them, at the end of the broker.
    pub fn stop(&self) {
        self.led.stop();
    }
}

/// `offsets.topic.compression.codec`: the number of a codec.
fn compression(codec: i32) -> Compression {
    let codec = u8::try_from(codec).ok().and_then(Codec::from_id).unwrap_or(Codec::None);
    Compression { codec, level: None }
}

fn group_config(config: &BrokerConfig) -> GroupConfig {
    let groups = &config.groups;
    GroupConfig {
        initial_rebalance_delay_ms: millis(groups.initial_rebalance_delay),
        session_timeout_min_ms: millis(groups.session_timeout_min),
        session_timeout_max_ms: millis(groups.session_timeout_max),
        size_max: groups.size_max,
        metadata_max: config.offsets.metadata_bytes_max,
        retention_ms: i64::try_from(config.offsets.retention.as_millis()).unwrap_or(i64::MAX),
        retention_check_interval: config.offsets.retention_check_interval,
        consumer: consumer_config(groups),
        journal_entries_max: groups.journal_entries_max,
        journal_bytes_max: groups.journal_bytes_max,
    }
}

/// As long as Kafka waits before it resolves regular expressions anew without a reason.
const REGEX_REFRESH_INTERVAL_MS: i64 = 10 * 60 * 1_000;

fn consumer_config(groups: &odradek_common::config::GroupConfig) -> ConsumerConfig {
    let bounded = |value, min, max| Bounded { value_ms: millis(value), min_ms: millis(min), max_ms: millis(max) };
    ConsumerConfig {
        assignors: groups.consumer_assignors.iter().filter_map(|name| Assignor::by_name(name.trim())).collect(),
        session_timeout: bounded(
            groups.consumer_session_timeout,
            groups.consumer_session_timeout_min,
            groups.consumer_session_timeout_max,
        ),
        heartbeat_interval: bounded(
            groups.consumer_heartbeat_interval,
            groups.consumer_heartbeat_interval_min,
            groups.consumer_heartbeat_interval_max,
        ),
        assignment_interval: bounded(
            groups.consumer_assignment_interval,
            groups.consumer_assignment_interval_min,
            groups.consumer_assignment_interval_max,
        ),
        size_max: groups.consumer_size_max,
        migration: match groups.consumer_migration_policy.to_ascii_lowercase().as_str() {
            "upgrade" => MigrationPolicy::Upgrade,
            "downgrade" => MigrationPolicy::Downgrade,
            "disabled" => MigrationPolicy::Disabled,
            _ => MigrationPolicy::Bidirectional,
        },
        regex_refresh_interval_ms: REGEX_REFRESH_INTERVAL_MS,
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
