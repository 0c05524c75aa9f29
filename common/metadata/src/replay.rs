//! How each record changes an image: the only place where one changes.
//!
//! A decision validates before it writes, so in a healthy cluster no replay fails. One that does means a damaged log or
//! a peer of another kind; the image then stays as it was before the batch, and whoever replays must stop and say so.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_common::{
    BrokerEpoch, BrokerId, ControllerId, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId, TopicIdPartition, Uuid,
};
use odradek_proto::metadata::{self as proto, Batch, Record, record::Kind};
use smallvec::SmallVec;

use crate::Image;
use crate::types::{
    BrokerRegistration, ConfigResource, ControllerRegistration, Endpoint, FeatureRange, LeaderRecoveryState,
    PartitionRegistration, Replicas, ResourceType, Topic,
};

/// A record that does not fit the image before it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReplayError {
    #[error("a metadata record of a kind that this version does not know")]
    UnknownKind,
    #[error("{field} has {length} bytes where an id has 16")]
    IdLength { field: &'static str, length: usize },
    #[error("topic id {0} is not known")]
    UnknownTopic(TopicId),
    #[error("topic {name} exists already, with id {id}")]
    TopicExists { name: String, id: TopicId },
    #[error("partition {0} is not known")]
    UnknownPartition(TopicIdPartition),
    #[error("partition {partition} follows on {count} partitions: one is missing between")]
    PartitionGap { partition: TopicIdPartition, count: usize },
    #[error("partition {partition} has {replicas} replicas and {directories} directories")]
    DirectoryCount { partition: TopicIdPartition, replicas: usize, directories: usize },
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    #[error("the record is for epoch {found} of broker {broker}, which is at {expected}")]
    BrokerEpoch { broker: BrokerId, expected: BrokerEpoch, found: BrokerEpoch },
    #[error("{field} {value} is out of its range")]
    OutOfRange { field: &'static str, value: i64 },
    #[error("`{0}` is no security protocol")]
    UnknownSecurityProtocol(String),
}

impl Image {
    /// Applies one record of the entry at `offset`.
    ///
    /// # Errors
    /// [`ReplayError`] when the record does not fit; the image is then unchanged by it.
    pub fn replay(&mut self, record: &Record, offset: i64) -> Result<(), ReplayError> {
        match record.kind.as_ref().ok_or(ReplayError::UnknownKind)? {
            Kind::Topic(record) => self.replay_topic(record)?,
            Kind::RemoveTopic(record) => self.replay_remove_topic(record)?,
            Kind::Partition(record) => self.replay_partition(record)?,
            Kind::PartitionChange(record) => self.replay_partition_change(record)?,
            Kind::RegisterBroker(record) => self.replay_register_broker(record, offset)?,
            Kind::UnregisterBroker(record) => self.replay_unregister_broker(record)?,
            Kind::BrokerRegistrationChange(record) => self.replay_broker_registration_change(record)?,
            Kind::Config(record) => self.replay_config(record)?,
            Kind::FeatureLevel(record) => self.replay_feature_level(record)?,
            Kind::ProducerIds(record) => self.next_producer_id = record.next_producer_id,
            Kind::Cluster(record) => self.cluster_id = record.cluster_id.as_str().into(),
            Kind::RegisterController(record) => self.replay_register_controller(record)?,
        }
        self.offset = offset;
        Ok(())
    }

    /// Applies a whole entry, all or nothing.
    ///
    /// # Errors
    /// The first record's [`ReplayError`]; the image is then as it was.
    pub fn apply(&mut self, batch: &Batch, offset: i64) -> Result<(), ReplayError> {
        self.apply_records(&batch.records, offset)
    }

    /// As [`Image::apply`], for records that have left their batch.
    ///
    /// # Errors
    /// The first record's [`ReplayError`]; the image is then as it was.
    pub fn apply_records(&mut self, records: &[Record], offset: i64) -> Result<(), ReplayError> {
        let mut next = self.clone();
        for record in records {
            next.replay(record, offset)?;
        }
        next.offset = offset;
        *self = next;
        Ok(())
    }

    fn replay_topic(&mut self, record: &proto::TopicRecord) -> Result<(), ReplayError> {
        let id = uuid("topic_id", &record.topic_id)?;
        if let Some(other) = self.topics_by_name.get(record.name.as_str()) {
            return Err(ReplayError::TopicExists { name: record.name.clone(), id: *other });
        }
        if self.topics.contains_key(&id) {
            return Err(ReplayError::TopicExists { name: record.name.clone(), id });
        }
        let name: Arc<str> = record.name.as_str().into();
        self.topics_by_name.insert(name.clone(), id);
        self.topics.insert(id, Arc::new(Topic { name, id, partitions: imbl::Vector::new() }));
        Ok(())
    }

    fn replay_remove_topic(&mut self, record: &proto::RemoveTopicRecord) -> Result<(), ReplayError> {
        let id = uuid("topic_id", &record.topic_id)?;
        let topic = self.topics.remove(&id).ok_or(ReplayError::UnknownTopic(id))?;
        self.topics_by_name.remove(&*topic.name);
        self.configs.remove(&ConfigResource::topic(topic.name.clone()));
        Ok(())
    }

    fn replay_partition(&mut self, record: &proto::PartitionRecord) -> Result<(), ReplayError> {
        let id = uuid("topic_id", &record.topic_id)?;
        let partition = TopicIdPartition { topic_id: id, partition: PartitionIndex(record.partition) };
        let registration = Arc::new(PartitionRegistration {
            replicas: replicas(&record.replicas),
            directories: directories(partition, &record.directories, record.replicas.len())?,
            isr: replicas(&record.isr),
            elr: replicas(&record.elr),
            last_known_elr: replicas(&record.last_known_elr),
            removing: replicas(&record.removing_replicas),
            adding: replicas(&record.adding_replicas),
            leader: BrokerId(record.leader),
            leader_recovery_state: recovery_state(record.leader_recovery_state)?,
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: PartitionEpoch(record.partition_epoch),
        });
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(ReplayError::UnknownTopic(id))?);
        let index = usize::try_from(record.partition).map_err(|_| ReplayError::UnknownPartition(partition))?;
        let count = topic.partitions.len();
        match index.cmp(&count) {
            std::cmp::Ordering::Less => drop(topic.partitions.set(index, registration)),
            std::cmp::Ordering::Equal => topic.partitions.push_back(registration),
            std::cmp::Ordering::Greater => return Err(ReplayError::PartitionGap { partition, count }),
        }
        Ok(())
    }

    fn replay_partition_change(&mut self, record: &proto::PartitionChangeRecord) -> Result<(), ReplayError> {
        let id = uuid("topic_id", &record.topic_id)?;
        let partition = TopicIdPartition { topic_id: id, partition: PartitionIndex(record.partition) };
        let unknown = ReplayError::UnknownPartition(partition);
        let old = self.partition(id, partition.partition).ok_or(unknown)?;
        let new = Arc::new(old.merge(partition, record)?);
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(ReplayError::UnknownTopic(id))?);
        // In range: `partition` found it above.
        topic.partitions.set(record.partition as usize, new);
        Ok(())
    }

    fn replay_register_broker(&mut self, record: &proto::RegisterBrokerRecord, offset: i64) -> Result<(), ReplayError> {
        let mut log_dirs =
            record.log_dirs.iter().map(|id| uuid("log_dirs", id)).collect::<Result<Vec<Uuid>, ReplayError>>()?;
        log_dirs.sort_unstable();
        let registration = BrokerRegistration {
            id: BrokerId(record.broker_id),
            epoch: BrokerEpoch(if record.broker_epoch == 0 { offset } else { record.broker_epoch }),
            incarnation: uuid("incarnation_id", &record.incarnation_id)?,
            endpoints: record.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
            rack: record.rack.clone(),
            features: record.features.iter().map(feature).collect::<Result<_, _>>()?,
            fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
            decommissioning: record.decommissioning,
            fenced_by_operator: record.fenced_by_operator,
            log_dirs,
        };
        self.brokers.insert(registration.id, Arc::new(registration));
        Ok(())
    }

    fn replay_unregister_broker(&mut self, record: &proto::UnregisterBrokerRecord) -> Result<(), ReplayError> {
        let id = BrokerId(record.broker_id);
        self.broker_at_epoch(id, BrokerEpoch(record.broker_epoch))?;
        self.brokers.remove(&id);
        Ok(())
    }

    fn replay_broker_registration_change(
        &mut self,
        record: &proto::BrokerRegistrationChangeRecord,
    ) -> Result<(), ReplayError> {
        let log_dirs = match &record.log_dirs {
            None => None,
            Some(list) => {
                let mut ids = list.ids.iter().map(|id| uuid("log_dirs", id)).collect::<Result<Vec<_>, _>>()?;
                ids.sort_unstable();
                Some(ids)
            }
        };
        let broker = self.broker_at_epoch(BrokerId(record.broker_id), BrokerEpoch(record.broker_epoch))?;
        let broker = Arc::make_mut(broker);
        broker.fenced = record.fenced.unwrap_or(broker.fenced);
        broker.in_controlled_shutdown = record.in_controlled_shutdown.unwrap_or(broker.in_controlled_shutdown);
        broker.decommissioning = record.decommissioning.unwrap_or(broker.decommissioning);
        broker.fenced_by_operator = record.fenced_by_operator.unwrap_or(broker.fenced_by_operator);
        if let Some(log_dirs) = log_dirs {
            broker.log_dirs = log_dirs;
        }
        Ok(())
    }

    fn broker_at_epoch(
        &mut self,
        id: BrokerId,
        epoch: BrokerEpoch,
    ) -> Result<&mut Arc<BrokerRegistration>, ReplayError> {
        let broker = self.brokers.get_mut(&id).ok_or(ReplayError::UnknownBroker(id))?;
        if broker.epoch != epoch {
            return Err(ReplayError::BrokerEpoch { broker: id, expected: broker.epoch, found: epoch });
        }
        Ok(broker)
    }

    fn replay_config(&mut self, record: &proto::ConfigRecord) -> Result<(), ReplayError> {
        let kind = ResourceType::from_code(record.resource_type)
            .ok_or(ReplayError::OutOfRange { field: "resource_type", value: record.resource_type.into() })?;
        let resource = ConfigResource { kind, name: record.resource_name.as_str().into() };
        let mut configs = self.configs.get(&resource).cloned().unwrap_or_default();
        let map = Arc::make_mut(&mut configs);
        match &record.value {
            Some(value) => drop(map.insert(record.name.as_str().into(), value.as_str().into())),
            None => drop(map.remove(record.name.as_str())),
        }
        if configs.is_empty() {
            self.configs.remove(&resource);
        } else {
            self.configs.insert(resource, configs);
        }
        Ok(())
    }

    fn replay_feature_level(&mut self, record: &proto::FeatureLevelRecord) -> Result<(), ReplayError> {
        let level = level(record.level)?;
        let features = Arc::make_mut(&mut self.features);
        if level == 0 {
            features.remove(&record.name);
        } else {
            features.insert(record.name.clone(), level);
        }
        Ok(())
    }

    fn replay_register_controller(&mut self, record: &proto::RegisterControllerRecord) -> Result<(), ReplayError> {
        let id = ControllerId(record.controller_id);
        let registration = ControllerRegistration { id, host: record.host.clone(), port: port(record.port)? };
        Arc::make_mut(&mut self.controllers).insert(id, registration);
        Ok(())
    }
}

impl PartitionRegistration {
    /// What becomes of this partition by `change` (Kafka's `PartitionRegistration.merge`): the partition epoch grows by
    /// one, and so does the leader epoch if the change names a leader.
    ///
    /// # Errors
    /// [`ReplayError`] when a field is out of its range.
    pub fn merge(&self, at: TopicIdPartition, change: &proto::PartitionChangeRecord) -> Result<Self, ReplayError> {
        let pick = |new: &Option<proto::Ids>, old: &Replicas| match new {
            Some(list) => replicas(&list.ids),
            None => old.clone(),
        };
        let new_replicas = pick(&change.replicas, &self.replicas);
        let new_directories = match &change.directories {
            Some(list) => directories(at, &list.ids, new_replicas.len())?,
            None if new_replicas == self.replicas => self.directories.clone(),
            None => {
                let directory = |id: &BrokerId| self.directory(*id).unwrap_or(crate::directory::UNASSIGNED);
                new_replicas.iter().map(directory).collect()
            }
        };
        Ok(Self {
            directories: new_directories,
            isr: pick(&change.isr, &self.isr),
            elr: pick(&change.elr, &self.elr),
            last_known_elr: pick(&change.last_known_elr, &self.last_known_elr),
            removing: pick(&change.removing_replicas, &self.removing),
            adding: pick(&change.adding_replicas, &self.adding),
            replicas: new_replicas,
            leader: change.leader.map_or(self.leader, BrokerId),
            leader_recovery_state: match change.leader_recovery_state {
                Some(state) => recovery_state(state)?,
                None => self.leader_recovery_state,
            },
            leader_epoch: LeaderEpoch(raised(self.leader_epoch.0, change.leader.is_some())?),
            partition_epoch: PartitionEpoch(raised(self.partition_epoch.0, true)?),
        })
    }
}

fn replicas(ids: &[i32]) -> Replicas {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

pub(crate) fn uuid(field: &'static str, bytes: &[u8]) -> Result<Uuid, ReplayError> {
    bytes.try_into().map(Uuid).map_err(|_| ReplayError::IdLength { field, length: bytes.len() })
}

/// No directories at all stands for unassigned ones.
fn directories(
    partition: TopicIdPartition,
    ids: &[Vec<u8>],
    replicas: usize,
) -> Result<SmallVec<[Uuid; 1]>, ReplayError> {
    if ids.is_empty() {
        return Ok(SmallVec::from_elem(crate::directory::UNASSIGNED, replicas));
    }
    if ids.len() != replicas {
        return Err(ReplayError::DirectoryCount { partition, replicas, directories: ids.len() });
    }
    ids.iter().map(|id| uuid("directories", id)).collect()
}

/// An epoch of 2^31 changes is no real partition's, but a peer may claim it.
fn raised(epoch: i32, by_one: bool) -> Result<i32, ReplayError> {
    let raised = epoch.checked_add(i32::from(by_one));
    raised.ok_or(ReplayError::OutOfRange { field: "epoch", value: epoch.into() })
}

fn recovery_state(code: i32) -> Result<LeaderRecoveryState, ReplayError> {
    LeaderRecoveryState::from_code(code)
        .ok_or(ReplayError::OutOfRange { field: "leader_recovery_state", value: code.into() })
}

fn endpoint(record: &proto::Endpoint) -> Result<Endpoint, ReplayError> {
    Ok(Endpoint {
        listener: record.listener.clone(),
        host: record.host.clone(),
        port: port(record.port)?,
        security_protocol: record
            .security_protocol
            .parse()
            .map_err(|_| ReplayError::UnknownSecurityProtocol(record.security_protocol.clone()))?,
    })
}

fn feature(record: &proto::FeatureRange) -> Result<FeatureRange, ReplayError> {
    Ok(FeatureRange {
        name: record.name.clone(),
        min_level: level(record.min_level)?,
        max_level: level(record.max_level)?,
    })
}

fn level(value: i32) -> Result<i16, ReplayError> {
    i16::try_from(value).map_err(|_| ReplayError::OutOfRange { field: "level", value: value.into() })
}

fn port(value: u32) -> Result<u16, ReplayError> {
    u16::try_from(value).map_err(|_| ReplayError::OutOfRange { field: "port", value: value.into() })
}
