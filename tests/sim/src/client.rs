//! What the workloads need of a Kafka client: find leaders, create topics, produce one batch with a sequence, read a
//! partition from its start. Small on purpose: retries and their bookkeeping belong to the workload that is checked.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use odradek_common::{ErrorCode, Uuid};
use odradek_node::{Connection, World};
use odradek_wire::metadata_request::MetadataRequestTopic;
use odradek_wire::{InitProducerIdRequest, MetadataRequest, Request, Str};

mod admin;
mod data;
mod groups;
mod transactions;

pub use data::{EARLIEST, LATEST, Outgoing, ReadFrom, Reading, Seen, Sending};
pub use groups::{CommittedOffset, Kind, Membership};
pub use transactions::Transactional;

/// How long any one request may take before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where one partition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    pub broker: i32,
    pub epoch: i32,
}

/// One partition as a broker describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub partition: i32,
    pub leader: i32,
    pub epoch: i32,
    pub isr: Vec<i32>,
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
    /// The newest leader epoch of each partition that anybody told of. What brokers say of an older one is news of
    /// yesterday (KIP-320).
    epochs: BTreeMap<i32, i32>,
    /// The leader epoch of what was last read of each partition, or committed by whoever read it: it goes with the offset
    /// that is committed next.
    read_epochs: BTreeMap<i32, i32>,
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
            epochs: BTreeMap::new(),
            read_epochs: BTreeMap::new(),
            topic_id: Uuid::ZERO,
        }
    }

    /// One request on a fresh connection to the next bootstrap broker.
    pub async fn ask_any<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        let (host, port) = self.bootstrap[self.next_bootstrap % self.bootstrap.len()].clone();
        self.next_bootstrap += 1;
        let mut connection = Connection::open(&self.world, &host, port, "sim", PATIENCE).await?;
        Ok(self.world.timeout(PATIENCE, connection.call(version, request)).await.map_err(io::Error::from)??)
    }

    /// One request to one broker, on a kept connection. A failure closes it.
    pub async fn ask<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Result<R::Response, Failure> {
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
        self.views(topic).await.map(drop)
    }

    /// As `refresh`, and answers what was learnt of the partitions.
    pub async fn views(&mut self, topic: &str) -> Result<Vec<View>, Failure> {
        let asked = MetadataRequestTopic { name: Some(Str::from(topic)), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: false, ..Default::default() };
        let answer = self.ask_any(12, &request).await?;
        for broker in &answer.brokers {
            self.brokers.insert(broker.node_id, (broker.host.to_string(), broker.port as u16));
        }
        let mut views = Vec::new();
        for topic in answer.topics {
            Failure::check(topic.error_code)?;
            if self.topic_id != topic.topic_id {
                // A first topic may have been committed to before; another one counts its epochs anew.
                if self.topic_id != Uuid::ZERO {
                    self.forget_leaders();
                }
                self.topic_id = topic.topic_id;
            }
            for partition in topic.partitions {
                let leader = Leader { broker: partition.leader_id, epoch: partition.leader_epoch };
                if self.saw_epoch(partition.partition_index, leader.epoch) {
                    self.leaders.insert(partition.partition_index, leader);
                }
                views.push(View {
                    partition: partition.partition_index,
                    leader: leader.broker,
                    epoch: leader.epoch,
                    isr: partition.isr_nodes,
                });
            }
        }
        Ok(views)
    }

    /// Somebody tells of a leader epoch; whether it is the newest one. A leader of an older one is none any more: it may
    /// have slept, and may lack what was read elsewhere.
    fn saw_epoch(&mut self, partition: i32, epoch: i32) -> bool {
        let newest = self.epochs.entry(partition).or_insert(epoch);
        *newest = epoch.max(*newest);
        let newest = *newest;
        if self.leaders.get(&partition).is_some_and(|leader| leader.epoch < newest) {
            self.leaders.remove(&partition);
        }
        epoch == newest
    }

    /// What is before an offset to go on from was written in this leader epoch; negative: not known.
    pub fn know_read_epoch(&mut self, partition: i32, epoch: i32) {
        if epoch >= 0 {
            self.read_epochs.insert(partition, epoch);
            self.saw_epoch(partition, epoch);
        }
    }

    pub fn forget_leaders(&mut self) {
        self.leaders.clear();
        self.epochs.clear();
        self.read_epochs.clear();
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
