//! What the workloads need of a Kafka client: find leaders, create topics, produce one batch with a sequence, read a
//! partition from its start. Small on purpose: retries and their bookkeeping belong to the workload that is checked.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_common::{ErrorCode, Uuid};
use odradek_node::{Connection, World};
use odradek_records::{Batches, RecordBatchBuilder};
use odradek_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use odradek_wire::fetch_request::{FetchPartition, FetchTopic};
use odradek_wire::metadata_request::MetadataRequestTopic;
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{
    CreateTopicsRequest, FetchRequest, InitProducerIdRequest, MetadataRequest, ProduceRequest, Records, Request, Str,
};

mod admin;
mod data;
mod groups;
mod transactions;

pub use data::{EARLIEST, LATEST, Outgoing, ReadFrom, Reading, Seen, Sending};
pub use groups::{Kind, Membership};
pub use transactions::Transactional;

/// How long any one request may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where one partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    pub broker: i32,
    pub epoch: i32,
}

/// One record as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    pub offset: i64,
    pub value: Bytes,
}

/// What one fetch answered.
#[derive(Clone, Debug)]
pub struct FetchAnswer {
    pub records: Vec<Fetched>,
    pub high_watermark: i64,
    pub next_offset: i64,
}

/// What a request failed with: a broken connection, or Kafka's error.
#[derive(Debug)]
pub enum Failure {
    Io(io::Error),
    Kafka(ErrorCode),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    pub(crate) fn check(code: i16) -> Result<(), Failure> {
        match ErrorCode::from_code(code) {
            ErrorCode::None => Ok(()),
            code => Err(Failure::Kafka(code)),
        }
    }
}

/// A producer's identity.
#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

/// A client with a connection to each broker that it spoke to.
pub struct Client {
    world: World,
    bootstrap: Vec<(String, u16)>,
    brokers: BTreeMap<i32, (String, u16)>,
    connections: BTreeMap<i32, Connection>,
    next_bootstrap: usize,
    coordinators: BTreeMap<(Kind, String), i32>,
    patience: Duration,
    pub leaders: BTreeMap<i32, Leader>,
    pub topic_id: Uuid,
}

impl Client {
    pub fn new(world: World, bootstrap: Vec<(String, u16)>) -> Self {
        Self {
            world,
            bootstrap,
            brokers: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_bootstrap: 0,
            coordinators: BTreeMap::new(),
            patience: PATIENCE,
            leaders: BTreeMap::new(),
            topic_id: Uuid::ZERO,
        }
    }

    /// One request on a fresh connection to the next bootstrap broker.
    async fn ask_any<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        let (host, port) = self.bootstrap[self.next_bootstrap % self.bootstrap.len()].clone();
        self.next_bootstrap += 1;
        let mut connection = Connection::open(&self.world, &host, port, "sim", PATIENCE).await?;
        Ok(self.world.timeout(PATIENCE, connection.call(version, request)).await.map_err(io::Error::from)??)
    }

    /// One request to one broker, on a kept connection. A failure closes it.
    async fn ask<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Result<R::Response, Failure> {
        let mut connection = self.connection(broker).await?;
        let patience = self.patience;
        let answer =
            self.world.timeout(patience, connection.call(version, request)).await.map_err(io::Error::from)??;
        self.connections.insert(broker, connection);
        Ok(answer)
    }

    /// Takes the kept connection to a broker, or a new one.
    async fn connection(&mut self, broker: i32) -> Result<Connection, Failure> {
        if let Some(connection) = self.connections.remove(&broker) {
            return Ok(connection);
        }
        let (host, port) = self.brokers.get(&broker).cloned().ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Connection::open(&self.world, &host, port, "sim", PATIENCE).await?)
    }

    /// Learns brokers and the leaders of a topic.
    pub async fn refresh(&mut self, topic: &str) -> Result<(), Failure> {
        let asked = MetadataRequestTopic { name: Some(Str::from(topic)), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: false, ..Default::default() };
        let answer = self.ask_any(12, &request).await?;
        for broker in &answer.brokers {
            self.brokers.insert(broker.node_id, (broker.host.to_string(), broker.port as u16));
        }
        for topic in answer.topics {
            Failure::check(topic.error_code)?;
            self.topic_id = topic.topic_id;
            for partition in topic.partitions {
                let leader = Leader { broker: partition.leader_id, epoch: partition.leader_epoch };
                self.leaders.insert(partition.partition_index, leader);
            }
        }
        Ok(())
    }

    pub async fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
        configs: &[(&str, &str)],
    ) -> Result<(), Failure> {
        let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: Str::from(*name),
            value: Some(Str::from(*value)),
            ..Default::default()
        });
        let topic = CreatableTopic {
            name: Str::from(name),
            num_partitions: partitions,
            replication_factor,
            configs: configs.collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
        let answer = self.ask_any(7, &request).await?;
        answer.topics.iter().try_for_each(|topic| Failure::check(topic.error_code))
    }

    pub async fn init_producer(&mut self) -> Result<Producer, Failure> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let answer = self.ask_any(4, &request).await?;
        Failure::check(answer.error_code)?;
        Ok(Producer { id: answer.producer_id, epoch: answer.producer_epoch })
    }

    /// Sends one batch to the partition's leader and answers its first offset.
    #[allow(clippy::too_many_arguments)]
    pub async fn produce(
        &mut self,
        topic: &str,
        acks: i16,
        partition: i32,
        producer: Producer,
        first_sequence: i32,
        values: &[Vec<u8>],
        timestamp: Timestamp,
    ) -> Result<i64, Failure> {
        let leader = *self.leaders.get(&partition).ok_or(Failure::Kafka(ErrorCode::LeaderNotAvailable))?;
        let mut batch = RecordBatchBuilder::new().producer(producer.id.into(), producer.epoch.into(), first_sequence);
        for value in values {
            batch.append(timestamp, None, Some(value));
        }
        let records = batch.build().map_err(|error| io::Error::other(error.to_string()))?;
        let data =
            PartitionProduceData { index: partition, records: Some(Records::Bytes(records)), ..Default::default() };
        let topic = TopicProduceData { name: Str::from(topic), partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest {
            transactional_id: None,
            acks,
            timeout_ms: 3_000,
            topic_data: vec![topic],
            ..Default::default()
        };
        let answer = self.ask(leader.broker, 9, &request).await?;
        let result = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let result = result.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(result.error_code)?;
        Ok(result.base_offset)
    }

    /// Reads once from `offset`, waiting up to half a second for something new.
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<FetchAnswer, Failure> {
        let leader = *self.leaders.get(&partition).ok_or(Failure::Kafka(ErrorCode::LeaderNotAvailable))?;
        let asked = FetchPartition {
            partition,
            current_leader_epoch: leader.epoch,
            fetch_offset: offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: Str::from(topic), partitions: vec![asked], ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 8 << 20,
            topics: vec![topic],
            session_id: 0,
            session_epoch: -1,
            ..Default::default()
        };
        let answer = self.ask(leader.broker, 12, &request).await?;
        Failure::check(answer.error_code)?;
        let result = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let result = result.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(result.error_code)?;
        let bytes = result.records.and_then(Records::into_bytes).unwrap_or_default();
        let mut records = Vec::new();
        let mut next_offset = offset;
        for batch in Batches::new(bytes) {
            // The last batch may be cut by the size limit.
            let Ok(batch) = batch else { break };
            batch.check_crc().map_err(|error| io::Error::other(error.to_string()))?;
            next_offset = next_offset.max(batch.header.next_offset().0);
            let all = batch.records(1 << 20).map_err(|error| io::Error::other(error.to_string()))?;
            for record in all {
                let record = record.map_err(|error| io::Error::other(error.to_string()))?;
                if record.offset.0 >= offset {
                    records.push(Fetched { offset: record.offset.0, value: record.value.unwrap_or_default() });
                }
            }
        }
        Ok(FetchAnswer { records, high_watermark: result.high_watermark, next_offset })
    }
}

/// Asks the brokers until each of them that is asked in turn knows all replicas of all partitions in sync, and each
/// partition has a leader. Who has left is not asked.
pub async fn until_in_sync(world: &World, bootstrap: &[(String, u16)], has_left: impl Fn(&str) -> bool) {
    let mut agreed = 0;
    for (host, port) in bootstrap.iter().cycle() {
        agreed = if has_left(host) || all_in_sync(world, host, *port).await { agreed + 1 } else { 0 };
        if agreed == bootstrap.len() {
            return;
        }
        world.sleep(Duration::from_millis(if agreed == 0 { 200 } else { 5 })).await;
    }
}

async fn all_in_sync(world: &World, host: &str, port: u16) -> bool {
    let ask = async {
        let mut connection = Connection::open(world, host, port, "sim", PATIENCE).await?;
        connection.call(12, &MetadataRequest { topics: None, ..Default::default() }).await
    };
    let Ok(Ok(answer)) = world.timeout(PATIENCE, ask).await else { return false };
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.all(|partition| partition.leader_id >= 0 && partition.isr_nodes.len() == partition.replica_nodes.len())
}
