//! An image written as records: the shortest list that rebuilds it from nothing.

use odradek_common::{PartitionIndex, TopicId};
use odradek_proto::metadata::{self as proto, Record, record::Kind};

use crate::Image;
use crate::types::{BrokerRegistration, DirectoryId, PartitionRegistration, Replicas, directory};

impl Image {
    /// Records that replayed into [`Image::new`] at [`Image::offset`] give an equal image, in an order in which none
    /// refers to what comes later. Lazy: a snapshot of a large cluster is never in memory as a whole.
    pub fn to_records(&self) -> impl Iterator<Item = Record> {
        let cluster = (!self.cluster_id.is_empty())
            .then(|| Kind::Cluster(proto::ClusterRecord { cluster_id: self.cluster_id.to_string() }));
        let features = self.features.iter().map(|(name, level)| {
            Kind::FeatureLevel(proto::FeatureLevelRecord { name: name.clone(), level: i32::from(*level) })
        });
        let controllers = self.controllers.values().map(|controller| {
            Kind::RegisterController(proto::RegisterControllerRecord {
                controller_id: controller.id.0,
                host: controller.host.clone(),
                port: u32::from(controller.port),
            })
        });
        let brokers = self.brokers.values().map(|broker| Kind::RegisterBroker(register_broker_record(broker)));
        let topics = self.topics.values().flat_map(|topic| {
            let head = Kind::Topic(proto::TopicRecord { name: topic.name.to_string(), topic_id: topic.id.0.to_vec() });
            let partitions = topic
                .partitions()
                .map(|(index, partition)| Kind::Partition(partition_record(topic.id, index, partition)));
            std::iter::once(head).chain(partitions)
        });
        let configs = self.configs.iter().flat_map(|(resource, configs)| {
            configs.iter().map(|(name, value)| {
                Kind::Config(proto::ConfigRecord {
                    resource_type: i32::from(resource.kind.code()),
                    resource_name: resource.name.to_string(),
                    name: name.to_string(),
                    value: Some(value.to_string()),
                })
            })
        });
        let producer_ids = (self.next_producer_id != 0).then_some(Kind::ProducerIds(proto::ProducerIdsRecord {
            broker_id: -1,
            broker_epoch: -1,
            next_producer_id: self.next_producer_id,
        }));
        cluster
            .into_iter()
            .chain(features)
            .chain(controllers)
            .chain(brokers)
            .chain(topics)
            .chain(configs)
            .chain(producer_ids)
            .map(|kind| Record { kind: Some(kind) })
    }
}

/// The record that says all of a partition.
pub fn partition_record(
    topic_id: TopicId,
    partition: PartitionIndex,
    registration: &PartitionRegistration,
) -> proto::PartitionRecord {
    let unassigned = registration.directories.iter().all(|id| *id == directory::UNASSIGNED);
    proto::PartitionRecord {
        topic_id: topic_id.0.to_vec(),
        partition: partition.0,
        replicas: ids(&registration.replicas),
        // Sixteen zero bytes a replica would be the larger part of a big topic's creation.
        directories: if unassigned { Vec::new() } else { directory_bytes(&registration.directories) },
        isr: ids(&registration.isr),
        removing_replicas: ids(&registration.removing),
        adding_replicas: ids(&registration.adding),
        leader: registration.leader.0,
        leader_recovery_state: proto::LeaderRecoveryState::from(registration.leader_recovery_state).into(),
        leader_epoch: registration.leader_epoch.0,
        partition_epoch: registration.partition_epoch.0,
        elr: ids(&registration.elr),
        last_known_elr: ids(&registration.last_known_elr),
    }
}

/// The record that says all of a broker.
pub fn register_broker_record(broker: &BrokerRegistration) -> proto::RegisterBrokerRecord {
    proto::RegisterBrokerRecord {
        broker_id: broker.id.0,
        incarnation_id: broker.incarnation.0.to_vec(),
        broker_epoch: broker.epoch.0,
        endpoints: broker
            .endpoints
            .iter()
            .map(|endpoint| proto::Endpoint {
                listener: endpoint.listener.clone(),
                host: endpoint.host.clone(),
                port: u32::from(endpoint.port),
                security_protocol: endpoint.security_protocol.name().to_owned(),
            })
            .collect(),
        features: broker
            .features
            .iter()
            .map(|range| proto::FeatureRange {
                name: range.name.clone(),
                min_level: i32::from(range.min_level),
                max_level: i32::from(range.max_level),
            })
            .collect(),
        rack: broker.rack.clone(),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        decommissioning: broker.decommissioning,
        fenced_by_operator: broker.fenced_by_operator,
        log_dirs: directory_bytes(&broker.log_dirs),
    }
}

fn ids(replicas: &Replicas) -> Vec<i32> {
    replicas.iter().map(|id| id.0).collect()
}

fn directory_bytes(ids: &[DirectoryId]) -> Vec<Vec<u8>> {
    ids.iter().map(|id| id.0.to_vec()).collect()
}
