//! What administrators ask of a cluster, each by one request to any broker, and Metadata of one broker in full.

use std::io;

use odradek_common::{ErrorCode, Uuid};
use odradek_node::{Connection, grpc};
use odradek_proto::admin::admin_service_client::AdminServiceClient;
use odradek_proto::admin::{DecommissionBrokerRequest, DescribeDecommissionRequest, RecommissionBrokerRequest};
use odradek_wire::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use odradek_wire::create_partitions_request::CreatePartitionsTopic;
use odradek_wire::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use odradek_wire::delete_topics_request::DeleteTopicState;
use odradek_wire::describe_configs_request::DescribeConfigsResource;
use odradek_wire::elect_leaders_request::TopicPartitions;
use odradek_wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use odradek_wire::{
    AlterPartitionReassignmentsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse,
    Str,
};

use super::{Client, Failure, PATIENCE};

/// Kafka's number of topics among config resources.
const TOPIC: i8 = 2;
const TIMEOUT_MS: i32 = 4_000;

const CONTROLLER_PORT: u16 = 9192;

/// Whether another controller has to be asked.
fn is_elsewhere(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unavailable || status.metadata().contains_key("odradek-leader")
}

fn missing() -> Failure {
    Failure::Io(io::Error::from(io::ErrorKind::InvalidData))
}

/// A topic whose partitions and replicas are not said yet.
fn creatable(name: &str, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
        name: Str::from(*name),
        value: Some(Str::from(*value)),
        ..Default::default()
    });
    CreatableTopic {
        name: Str::from(name),
        num_partitions: -1,
        replication_factor: -1,
        configs: configs.collect(),
        ..Default::default()
    }
}

impl Client {
    /// Makes a topic and answers its id.
    pub async fn create(
        &mut self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
        configs: &[(&str, &str)],
    ) -> Result<Uuid, Failure> {
        let topic = CreatableTopic { num_partitions: partitions, replication_factor, ..creatable(name, configs) };
        self.create_as(topic).await
    }

    /// As `create`, of one partition with these replicas, of which the first one is preferred.
    pub async fn create_assigned(
        &mut self,
        name: &str,
        replicas: &[i32],
        configs: &[(&str, &str)],
    ) -> Result<Uuid, Failure> {
        let assignment =
            CreatableReplicaAssignment { partition_index: 0, broker_ids: replicas.to_vec(), ..Default::default() };
        self.create_as(CreatableTopic { assignments: vec![assignment], ..creatable(name, configs) }).await
    }

    async fn create_as(&mut self, topic: CreatableTopic) -> Result<Uuid, Failure> {
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: TIMEOUT_MS, ..Default::default() };
        let answer = self.ask_any(7, &request).await?;
        let topic = answer.topics.first().ok_or_else(missing)?;
        Failure::check(topic.error_code)?;
        Ok(topic.topic_id)
    }

    pub async fn delete(&mut self, name: &str) -> Result<(), Failure> {
        let topic = DeleteTopicState { name: Some(Str::from(name)), ..Default::default() };
        let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: TIMEOUT_MS, ..Default::default() };
        let answer = self.ask_any(6, &request).await?;
        Failure::check(answer.responses.first().ok_or_else(missing)?.error_code)
    }

    /// Lets a topic have `count` partitions.
    pub async fn grow(&mut self, name: &str, count: i32) -> Result<(), Failure> {
        let topic = CreatePartitionsTopic { name: Str::from(name), count, assignments: None, ..Default::default() };
        let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: TIMEOUT_MS, ..Default::default() };
        let answer = self.ask_any(3, &request).await?;
        Failure::check(answer.results.first().ok_or_else(missing)?.error_code)
    }

    pub async fn set_config(&mut self, topic: &str, name: &str, value: &str) -> Result<(), Failure> {
        let config = AlterableConfig { name: Str::from(name), value: Some(Str::from(value)), ..Default::default() };
        let resource = AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: Str::from(topic),
            configs: vec![config],
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        let answer = self.ask_any(1, &request).await?;
        Failure::check(answer.responses.first().ok_or_else(missing)?.error_code)
    }

    /// A topic's config as some broker has it.
    pub async fn config(&mut self, topic: &str, name: &str) -> Result<Option<String>, Failure> {
        let resource = DescribeConfigsResource {
            resource_type: TOPIC,
            resource_name: Str::from(topic),
            configuration_keys: Some(vec![Str::from(name)]),
            ..Default::default()
        };
        let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
        let answer = self.ask_any(4, &request).await?;
        let result = answer.results.first().ok_or_else(missing)?;
        Failure::check(result.error_code)?;
        Ok(result.configs.first().and_then(|config| config.value.as_ref()).map(ToString::to_string))
    }

    /// Moves a partition to other brokers; `None` undoes what is under way.
    pub async fn reassign(&mut self, topic: &str, partition: i32, replicas: Option<Vec<i32>>) -> Result<(), Failure> {
        let partition = ReassignablePartition { partition_index: partition, replicas, ..Default::default() };
        let topic = ReassignableTopic { name: Str::from(topic), partitions: vec![partition], ..Default::default() };
        let request =
            AlterPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics: vec![topic], ..Default::default() };
        let answer = self.ask_any(0, &request).await?;
        Failure::check(answer.error_code)?;
        let result = answer.responses.first().and_then(|topic| topic.partitions.first());
        Failure::check(result.ok_or_else(missing)?.error_code)
    }

    /// A preferred election, or an unclean one.
    pub async fn elect(&mut self, topic: &str, partition: i32, is_unclean: bool) -> Result<(), Failure> {
        let partitions = TopicPartitions { topic: Str::from(topic), partitions: vec![partition], ..Default::default() };
        let request = ElectLeadersRequest {
            election_type: i8::from(is_unclean),
            topic_partitions: Some(vec![partitions]),
            timeout_ms: TIMEOUT_MS,
            ..Default::default()
        };
        let answer = self.ask_any(2, &request).await?;
        Failure::check(answer.error_code)?;
        let result = answer.replica_election_results.first().and_then(|topic| topic.partition_result.first());
        match result.map_or(Ok(()), |result| Failure::check(result.error_code)) {
            Err(Failure::Kafka(ErrorCode::ElectionNotNeeded)) => Ok(()),
            other => other,
        }
    }

    /// One request to the active controller: of `controllers`, the first one that does not send us on.
    async fn ask_controller<T, F: Future<Output = Result<T, tonic::Status>>>(
        &mut self,
        controllers: usize,
        request: impl Fn(AdminServiceClient<tonic::transport::Channel>) -> F,
    ) -> Result<T, tonic::Status> {
        let mut last = tonic::Status::unavailable("there are no controllers");
        for n in 1..=controllers {
            let channel = grpc::channel(&self.world, &format!("controller-{n}"), CONTROLLER_PORT);
            match self.world.timeout(PATIENCE, request(AdminServiceClient::new(channel))).await {
                Ok(Err(status)) if is_elsewhere(&status) => last = status,
                Ok(answer) => return answer,
                Err(_) => last = tonic::Status::deadline_exceeded("no answer"),
            }
        }
        Err(last)
    }

    /// Has a broker's replicas moved away, and the broker unregistered when none is left.
    pub async fn decommission(&mut self, controllers: usize, broker_id: i32) -> Result<(), tonic::Status> {
        let request = DecommissionBrokerRequest { broker_id, validate_only: false };
        let ask = |mut client: AdminServiceClient<_>| async move { client.decommission_broker(request).await };
        self.ask_controller(controllers, ask).await.map(drop)
    }

    /// Keeps a broker after all.
    pub async fn recommission(&mut self, controllers: usize, broker_id: i32) -> Result<(), tonic::Status> {
        let request = RecommissionBrokerRequest { broker_id };
        let ask = |mut client: AdminServiceClient<_>| async move { client.recommission_broker(request).await };
        self.ask_controller(controllers, ask).await.map(drop)
    }

    /// Whether the broker is gone.
    pub async fn is_decommissioned(&mut self, controllers: usize, broker_id: i32) -> Result<bool, tonic::Status> {
        let request = DescribeDecommissionRequest { broker_id };
        let ask = |mut client: AdminServiceClient<_>| async move { client.describe_decommission(request).await };
        match self.ask_controller(controllers, ask).await {
            Ok(_) => Ok(false),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(true),
            Err(status) => Err(status),
        }
    }

    /// All that one broker says of the cluster.
    pub async fn metadata_of(&mut self, host: &str, port: u16) -> Result<MetadataResponse, Failure> {
        let mut connection = Connection::open(&self.world, host, port, "sim", PATIENCE).await?;
        let request = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        Ok(self.world.timeout(PATIENCE, connection.call(12, &request)).await.map_err(io::Error::from)??)
    }
}
