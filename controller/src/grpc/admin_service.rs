//! What operators and tools ask: the same decisions that clients reach through the Kafka protocol, and questions about
//! the image and the quorum.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::config::{Type, dynamic_definition};
use odradek_common::{BrokerId, ErrorCode, PartitionIndex};
use odradek_controller_core::configs::{ConfigChange, ConfigOperation};
use odradek_controller_core::create_partitions::NewPartitions;
use odradek_controller_core::topics::{NewTopic, TopicRef};
use odradek_controller_core::update_features::{FeatureUpdate, UpgradeType};
use odradek_controller_core::{ApiError, features, queries};
use odradek_metadata::{ConfigResource, Image, PartitionRegistration, ResourceType};
use odradek_node::World;
use odradek_proto::admin as proto;
use odradek_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::groups::{self, Relay};
use super::partitions;
use crate::decider::DeciderHandle;
use crate::quorum;
use crate::raft::RaftNode;

/// Names Kafka's error in the trailers of a failure.
pub const ERROR_TRAILER: &str = "kafka-error";

/// Serves operators on one controller.
pub struct Service {
    world: World,
    node: RaftNode,
    decider: DeciderHandle,
}

impl Service {
    pub fn new(world: World, node: RaftNode, decider: DeciderHandle) -> AdminServiceServer<Self> {
        AdminServiceServer::new(Self { world, node, decider })
    }

    /// For one question about groups.
    fn relay(&self) -> Relay<'_> {
        Relay::new(&self.world, &self.node.view)
    }
}

/// Kafka's error as a gRPC status: the nearest code, the message, and the name in a trailer.
pub(super) fn status(error: &ApiError) -> Status {
    let mut status = match error.code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::BrokerIdNotRegistered
        | ErrorCode::GroupIdNotFound => Status::not_found(&error.message),
        ErrorCode::TopicAlreadyExists => Status::already_exists(&error.message),
        ErrorCode::NotController => Status::unavailable(&error.message),
        code if code.is_retriable() => Status::unavailable(&error.message),
        ErrorCode::UnknownServerError => Status::internal(&error.message),
        _ => Status::invalid_argument(&error.message),
    };
    if let Ok(name) = MetadataValue::try_from(error.code.name()) {
        status.metadata_mut().insert(ERROR_TRAILER, name);
    }
    status
}

fn unknown_topic(name: &str) -> Status {
    status(&ApiError::new(
        ErrorCode::UnknownTopicOrPartition,
        format!("There is no topic `{name}`; `odradek topic list` names those that are."),
    ))
}

fn new_topic(request: proto::CreateTopicRequest) -> Result<NewTopic, Status> {
    let replication_factor = i16::try_from(request.replication_factor).map_err(|_| {
        status(&ApiError::new(
            ErrorCode::InvalidReplicationFactor,
            format!("The replication factor {} is out of range.", request.replication_factor),
        ))
    })?;
    let assignments = request.assignments.into_iter().map(|assignment| {
        (PartitionIndex(assignment.partition), assignment.brokers.into_iter().map(BrokerId).collect())
    });
    let mut configs: Vec<(String, Option<String>)> =
        request.configs.into_iter().map(|(name, value)| (name, Some(value))).collect();
    // A map of the message has no order; the log shall not depend on that.
    configs.sort();
    Ok(NewTopic {
        name: request.name,
        partitions: request.partitions,
        replication_factor,
        assignments: assignments.collect(),
        configs,
    })
}

/// A request that names partitions for its assignments has to name the new ones in their order. That is checked from the
/// last one back: how many there are is for the decision to say, as the image here may be behind.
fn new_partitions(request: proto::CreatePartitionsRequest) -> Result<NewPartitions, Status> {
    let named = request.assignments.iter().rev().map(|assignment| i64::from(assignment.partition));
    let last = i64::from(request.partitions) - 1;
    if !named.eq((0..).map(|back| last - back).take(request.assignments.len())) {
        let message =
            format!("The assignments must be those of the new partitions, in their order, up to that of {last}.");
        return Err(status(&ApiError::new(ErrorCode::InvalidReplicaAssignment, message)));
    }
    let brokers = |assignment: proto::ReplicaAssignment| assignment.brokers.into_iter().map(BrokerId).collect();
    let assignments: Vec<Vec<BrokerId>> = request.assignments.into_iter().map(brokers).collect();
    let assignments = (!assignments.is_empty()).then_some(assignments);
    Ok(NewPartitions { topic: request.name, count: request.partitions, assignments })
}

pub(super) fn ids(ids: &[BrokerId]) -> Vec<i32> {
    ids.iter().map(|id| id.0).collect()
}

fn partition(index: PartitionIndex, partition: &PartitionRegistration) -> proto::PartitionDescription {
    proto::PartitionDescription {
        partition: index.0,
        leader: partition.leader.0,
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch.0,
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        elr: ids(&partition.elr),
        last_known_elr: ids(&partition.last_known_elr),
        adding_replicas: ids(&partition.adding),
        removing_replicas: ids(&partition.removing),
    }
}

fn describe(image: &Image, name: &str) -> Result<proto::DescribeTopicResponse, Status> {
    let topic = image.topic_by_name(name).ok_or_else(|| unknown_topic(name))?;
    let resource = ConfigResource::topic(name);
    let configs = image.resource_configs(&resource);
    Ok(proto::DescribeTopicResponse {
        name: name.to_owned(),
        topic_id: topic.id.to_string(),
        internal: topic.is_internal(),
        partitions: topic.partitions().map(|(index, registration)| partition(index, registration)).collect(),
        configs: configs
            .into_iter()
            .flat_map(|configs| configs.iter())
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    })
}

/// What was set, without secrets.
fn shown(kind: ResourceType, configs: &odradek_metadata::Configs) -> std::collections::HashMap<String, String> {
    let is_secret = |name: &str| {
        let name = name.rsplit_once("listener.name.").map_or(name, |(_, rest)| rest);
        kind == ResourceType::Broker && dynamic_definition(name).is_none_or(|found| found.kind == Type::Password)
    };
    let shown = |(name, value): (&std::sync::Arc<str>, &std::sync::Arc<str>)| {
        let value = if is_secret(name) { "[hidden]".to_owned() } else { value.to_string() };
        (name.to_string(), value)
    };
    configs.iter().map(shown).collect()
}

fn config_change(request: &proto::AlterConfigsRequest) -> Result<ConfigChange, Status> {
    let named = request.resource.as_ref().ok_or_else(|| Status::invalid_argument("the request names no resource"))?;
    let kind = ResourceType::from_code(named.r#type).ok_or_else(|| {
        let message = format!("Unknown config resource type {}", named.r#type);
        status(&ApiError::new(ErrorCode::InvalidRequest, message))
    })?;
    let operations = request.changes.iter().map(|change| {
        let value = change.value.clone();
        let operation = match proto::ConfigOperation::try_from(change.operation) {
            Ok(proto::ConfigOperation::Set) => ConfigOperation::Set(value),
            Ok(proto::ConfigOperation::Delete) => ConfigOperation::Delete,
            Ok(proto::ConfigOperation::Append) => ConfigOperation::Append(value),
            Ok(proto::ConfigOperation::Subtract) => ConfigOperation::Subtract(value),
            Err(_) => return Err(Status::invalid_argument(format!("unknown operation {}", change.operation))),
        };
        Ok((change.name.clone(), operation))
    });
    let resource = ConfigResource { kind, name: named.name.as_str().into() };
    Ok(ConfigChange { resource, operations: operations.collect::<Result<_, _>>()? })
}

#[tonic::async_trait]
impl AdminService for Service {
    async fn create_topic(
        &self,
        request: Request<proto::CreateTopicRequest>,
    ) -> Result<Response<proto::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let topic = new_topic(request)?;
        let mut outcomes = self
            .decider
            .decide(move |decider, context| decider.create_topics(context, &[topic], validate_only))
            .await?;
        let outcome = outcomes.pop().ok_or_else(|| Status::internal("the decision has no outcome"))?;
        let created = outcome.result.map_err(|error| status(&error))?;
        Ok(Response::new(proto::CreateTopicResponse {
            topic_id: created.id.to_string(),
            partitions: created.partitions,
            replication_factor: i32::from(created.replication_factor),
        }))
    }

    async fn list_topics(
        &self,
        request: Request<proto::ListTopicsRequest>,
    ) -> Result<Response<proto::ListTopicsResponse>, Status> {
        let image = self.node.view.image();
        let topics =
            queries::topics(&image, request.into_inner().include_internal).map(|summary| proto::TopicListing {
                name: summary.topic.name.to_string(),
                topic_id: summary.topic.id.to_string(),
                partitions: summary.partitions,
                replication_factor: summary.replication_factor,
                internal: summary.topic.is_internal(),
                under_replicated: summary.under_replicated,
                offline: summary.offline,
            });
        Ok(Response::new(proto::ListTopicsResponse { topics: topics.collect() }))
    }

    async fn describe_topic(
        &self,
        request: Request<proto::DescribeTopicRequest>,
    ) -> Result<Response<proto::DescribeTopicResponse>, Status> {
        describe(&self.node.view.image(), &request.into_inner().name).map(Response::new)
    }

    async fn delete_topic(
        &self,
        request: Request<proto::DeleteTopicRequest>,
    ) -> Result<Response<proto::DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        let mut outcomes = self
            .decider
            .decide(move |decider, context| decider.delete_topics(context, &[TopicRef::Name(name)]))
            .await?;
        let outcome = outcomes.pop().ok_or_else(|| Status::internal("the decision has no outcome"))?;
        outcome.result.map_err(|error| status(&error))?;
        Ok(Response::new(proto::DeleteTopicResponse { topic_id: outcome.id.to_string() }))
    }

    async fn create_partitions(
        &self,
        request: Request<proto::CreatePartitionsRequest>,
    ) -> Result<Response<proto::CreatePartitionsResponse>, Status> {
        let request = request.into_inner();
        let (name, validate_only) = (request.name.clone(), request.validate_only);
        let wanted = new_partitions(request)?;
        let mut outcomes = self
            .decider
            .decide(move |decider, context| decider.create_partitions(context, &[wanted], validate_only))
            .await?;
        let outcome = outcomes.pop().ok_or_else(|| Status::internal("the decision has no outcome"))?;
        match outcome.result {
            Err(error) if error.code == ErrorCode::UnknownTopicOrPartition => Err(unknown_topic(&name)),
            result => result.map_err(|error| status(&error)),
        }?;
        Ok(Response::new(proto::CreatePartitionsResponse {}))
    }

    async fn list_brokers(
        &self,
        _request: Request<proto::ListBrokersRequest>,
    ) -> Result<Response<proto::ListBrokersResponse>, Status> {
        let image = self.node.view.image();
        let brokers = queries::brokers(&image).into_iter().map(|summary| {
            let broker = summary.broker;
            let endpoints = broker.endpoints.iter().map(ToString::to_string);
            proto::BrokerDescription {
                broker_id: broker.id.0,
                broker_epoch: broker.epoch.0,
                incarnation_id: broker.incarnation.to_string(),
                endpoints: endpoints.collect(),
                rack: broker.rack.clone(),
                fenced: broker.fenced,
                in_controlled_shutdown: broker.in_controlled_shutdown,
                leaders: summary.leaders,
                replicas: summary.replicas,
                decommissioning: broker.decommissioning,
                fenced_by_operator: broker.fenced_by_operator,
            }
        });
        Ok(Response::new(proto::ListBrokersResponse { brokers: brokers.collect() }))
    }

    async fn quorum_status(
        &self,
        _request: Request<proto::QuorumStatusRequest>,
    ) -> Result<Response<proto::QuorumStatusResponse>, Status> {
        // One that does not lead answers all the same, with what it knows.
        let brokers = self.decider.decide(|decider, _| decider.broker_progress()).await.unwrap_or_default();
        let known = quorum::describe(&self.world, &self.node, brokers);
        let lag = |offset: i64| if offset < 0 { -1 } else { (known.committed - offset).max(0) };
        let controllers = known.controllers.iter().map(|controller| proto::ControllerStatus {
            controller_id: controller.id.0,
            host: controller.host.clone(),
            port: u32::from(controller.port),
            voter: controller.is_voter,
            log_end_offset: controller.follower.offset,
            lag: lag(controller.follower.offset),
            last_fetch_timestamp_ms: controller.follower.last_fetch,
            last_caught_up_timestamp_ms: controller.follower.last_caught_up,
        });
        let observers = known.observers.iter().map(|broker| proto::ObserverStatus {
            broker_id: broker.id.0,
            metadata_offset: broker.follower.offset,
            lag: lag(broker.follower.offset),
            last_fetch_timestamp_ms: broker.follower.last_fetch,
            last_caught_up_timestamp_ms: broker.follower.last_caught_up,
        });
        Ok(Response::new(proto::QuorumStatusResponse {
            cluster_id: self.node.view.image().cluster_id().to_owned(),
            leader_id: known.leader.map_or(-1, |id| id.0),
            leader_epoch: i64::try_from(known.term).unwrap_or(i64::MAX),
            high_watermark: known.committed,
            controllers: controllers.collect(),
            observers: observers.collect(),
        }))
    }

    async fn elect_leaders(
        &self,
        request: Request<proto::ElectLeadersRequest>,
    ) -> Result<Response<proto::ElectLeadersResponse>, Status> {
        partitions::elect_leaders(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn plan_reassignment(
        &self,
        request: Request<proto::PlanReassignmentRequest>,
    ) -> Result<Response<proto::PlanReassignmentResponse>, Status> {
        partitions::plan_reassignment(&self.node.view.image(), request.into_inner()).map(Response::new)
    }

    async fn alter_reassignments(
        &self,
        request: Request<proto::AlterReassignmentsRequest>,
    ) -> Result<Response<proto::AlterReassignmentsResponse>, Status> {
        partitions::alter_reassignments(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn list_reassignments(
        &self,
        request: Request<proto::ListReassignmentsRequest>,
    ) -> Result<Response<proto::ListReassignmentsResponse>, Status> {
        partitions::list_reassignments(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn decommission_broker(
        &self,
        request: Request<proto::DecommissionBrokerRequest>,
    ) -> Result<Response<proto::DecommissionStatus>, Status> {
        partitions::decommission_broker(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn recommission_broker(
        &self,
        request: Request<proto::RecommissionBrokerRequest>,
    ) -> Result<Response<proto::RecommissionBrokerResponse>, Status> {
        partitions::recommission_broker(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn describe_decommission(
        &self,
        request: Request<proto::DescribeDecommissionRequest>,
    ) -> Result<Response<proto::DecommissionStatus>, Status> {
        partitions::describe_decommission(&self.decider, request.into_inner()).await.map(Response::new)
    }

    async fn unregister_broker(
        &self,
        request: Request<proto::UnregisterBrokerRequest>,
    ) -> Result<Response<proto::UnregisterBrokerResponse>, Status> {
        let id = BrokerId(request.into_inner().broker_id);
        let done = self.decider.decide(move |decider, context| decider.unregister_broker(context, id)).await?;
        done.map_err(|error| status(&error))?;
        Ok(Response::new(proto::UnregisterBrokerResponse {}))
    }

    async fn fence_broker(
        &self,
        request: Request<proto::FenceBrokerRequest>,
    ) -> Result<Response<proto::FenceBrokerResponse>, Status> {
        let proto::FenceBrokerRequest { broker_id, force } = request.into_inner();
        let id = BrokerId(broker_id);
        let done = self.decider.decide(move |decider, context| decider.fence_broker(context, id, force)).await?;
        done.map_err(|error| status(&error))?;
        Ok(Response::new(proto::FenceBrokerResponse {}))
    }

    async fn unfence_broker(
        &self,
        request: Request<proto::UnfenceBrokerRequest>,
    ) -> Result<Response<proto::UnfenceBrokerResponse>, Status> {
        let id = BrokerId(request.into_inner().broker_id);
        let done = self.decider.decide(move |decider, context| decider.unfence_broker(context, id)).await?;
        done.map_err(|error| status(&error))?;
        Ok(Response::new(proto::UnfenceBrokerResponse {}))
    }

    async fn list_configs(
        &self,
        request: Request<proto::ListConfigsRequest>,
    ) -> Result<Response<proto::ListConfigsResponse>, Status> {
        let wanted = request.into_inner().r#type;
        let image = self.node.view.image();
        let configured =
            image.configs().filter(|(resource, _)| wanted == 0 || i32::from(resource.kind.code()) == wanted);
        let resources = configured.map(|(resource, configs)| proto::ConfiguredResource {
            resource: Some(proto::ConfigResource {
                r#type: i32::from(resource.kind.code()),
                name: resource.name.to_string(),
            }),
            configs: shown(resource.kind, configs),
        });
        Ok(Response::new(proto::ListConfigsResponse { resources: resources.collect() }))
    }

    async fn alter_configs(
        &self,
        request: Request<proto::AlterConfigsRequest>,
    ) -> Result<Response<proto::AlterConfigsResponse>, Status> {
        let request = request.into_inner();
        let change = config_change(&request)?;
        let validate_only = request.validate_only;
        let mut outcomes = self
            .decider
            .decide(move |decider, context| decider.incremental_alter_configs(context, &[change], validate_only))
            .await?;
        let outcome = outcomes.pop().ok_or_else(|| Status::internal("the decision has no outcome"))?;
        outcome.result.map_err(|error| status(&error))?;
        Ok(Response::new(proto::AlterConfigsResponse {}))
    }

    async fn describe_features(
        &self,
        _request: Request<proto::DescribeFeaturesRequest>,
    ) -> Result<Response<proto::DescribeFeaturesResponse>, Status> {
        let image = self.node.view.image();
        let features = features::SUPPORTED.iter().map(|feature| proto::FeatureDescription {
            name: feature.name.to_owned(),
            finalized_level: i32::from(image.feature_level(feature.name)),
            min_level: i32::from(feature.min_level),
            max_level: i32::from(feature.max_level),
        });
        Ok(Response::new(proto::DescribeFeaturesResponse { features: features.collect() }))
    }

    async fn update_feature(
        &self,
        request: Request<proto::UpdateFeatureRequest>,
    ) -> Result<Response<proto::UpdateFeatureResponse>, Status> {
        let request = request.into_inner();
        let level = i16::try_from(request.level).map_err(|_| {
            let message = format!("The level {} of {} is out of range.", request.level, request.name);
            status(&ApiError::new(ErrorCode::InvalidUpdateVersion, message))
        })?;
        let upgrade_type = match request.upgrade_type {
            0 => UpgradeType::Upgrade,
            other => i8::try_from(other).map_or(UpgradeType::Unknown, UpgradeType::from_code),
        };
        let update = FeatureUpdate { name: request.name, level, upgrade_type };
        let validate_only = request.validate_only;
        let done = self
            .decider
            .decide(move |decider, context| decider.update_features(context, &[update], validate_only))
            .await?;
        done.map_err(|error| status(&error))?;
        Ok(Response::new(proto::UpdateFeatureResponse {}))
    }

    async fn list_groups(
        &self,
        request: Request<proto::ListGroupsRequest>,
    ) -> Result<Response<proto::ListGroupsResponse>, Status> {
        groups::list_groups(&self.relay(), request.into_inner()).await.map(Response::new)
    }

    async fn describe_group(
        &self,
        request: Request<proto::DescribeGroupRequest>,
    ) -> Result<Response<proto::DescribeGroupResponse>, Status> {
        groups::describe_group(&self.relay(), request.into_inner()).await.map(Response::new)
    }

    async fn delete_groups(
        &self,
        request: Request<proto::DeleteGroupsRequest>,
    ) -> Result<Response<proto::DeleteGroupsResponse>, Status> {
        groups::delete_groups(&self.relay(), request.into_inner()).await.map(Response::new)
    }

    async fn reset_offsets(
        &self,
        request: Request<proto::ResetOffsetsRequest>,
    ) -> Result<Response<proto::ResetOffsetsResponse>, Status> {
        groups::reset_offsets(&self.relay(), request.into_inner()).await.map(Response::new)
    }

    async fn delete_offsets(
        &self,
        request: Request<proto::DeleteOffsetsRequest>,
    ) -> Result<Response<proto::DeleteOffsetsResponse>, Status> {
        groups::delete_offsets(&self.relay(), request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_name_the_new_partitions_up_to_the_last() {
        let of = |partitions: i32, named: &[i32]| {
            let assigned = |partition: &i32| proto::ReplicaAssignment { partition: *partition, brokers: vec![1] };
            let assignments = named.iter().map(assigned).collect();
            new_partitions(proto::CreatePartitionsRequest {
                name: "t".to_owned(),
                partitions,
                assignments,
                ..Default::default()
            })
        };
        for (partitions, named, count) in [(5, &[3, 4][..], Some(2)), (1, &[0], Some(1)), (5, &[], None)] {
            let wanted = of(partitions, named).expect("in order");
            assert_eq!((wanted.count, wanted.assignments.map(|all| all.len())), (partitions, count), "{named:?}");
        }
        for (partitions, named) in [(5, &[4, 3][..]), (5, &[2, 3]), (5, &[4, 4]), (5, &[4, 5]), (i32::MIN, &[0])] {
            assert!(of(partitions, named).is_err(), "{partitions}: {named:?}");
        }
    }
}
