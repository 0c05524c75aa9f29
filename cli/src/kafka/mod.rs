//! A small Kafka client: enough to write and read topics and to follow their leaders.
//!
//! `Cluster` holds one connection a broker, each with the versions that this broker and we both know, and what metadata
//! said last. `producer` and `consumer` stand on it. Topics are named, not numbered, so the versions that only know
//! topic ids are not used.

pub mod consumer;
pub mod leaders;
mod link;
pub mod log_dirs;
pub mod partitioner;
pub mod producer;
pub mod transactions;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_common::config::HostPort;
use odradek_common::time::Instant;
use odradek_node::{Connection, World};
use odradek_wire::api_versions_request::ApiVersionsRequest;
use odradek_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use odradek_wire::metadata_response::{MetadataResponse, MetadataResponseBroker};
use odradek_wire::{ApiKey, Request, Str};

use crate::error::{CliError, Exit};

const CLIENT_ID: &str = "odradek-cli";
/// A broker that does not take a connection in this time is passed over.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection and what its broker can do.
pub struct Broker {
    connection: Connection,
    versions: HashMap<i16, (i16, i16)>,
}

impl Broker {
    async fn open(world: &World, address: &HostPort) -> io::Result<Self> {
        let mut connection = Connection::open(world, &address.host, address.port, CLIENT_ID, CONNECT_MAX).await?;
        // Version 0 is the one that every broker answers.
        let answer = world.timeout(CONNECT_MAX, connection.call(0, &ApiVersionsRequest::default())).await??;
        if answer.error_code != 0 {
            return Err(io::Error::other(ErrorCode::from_code(answer.error_code).name()));
        }
        let versions = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(Self { connection, versions })
    }

    /// The highest version up to `max` of ours that the broker knows too, not below `min`.
    fn version(&self, key: ApiKey, min: i16, max: i16) -> io::Result<i16> {
        let common = self.versions.get(&key.code()).map(|(low, high)| (min.max(*low), max.min(*high)));
        match common {
            Some((low, high)) if low <= high => Ok(high),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the broker does not serve {key:?} in a version from {min} to {max}"),
            )),
        }
    }

    fn serves(&self, key: ApiKey) -> bool {
        self.versions.contains_key(&key.code())
    }

    async fn call<R: Request>(
        &mut self,
        world: &World,
        within: Duration,
        min: i16,
        max: i16,
        request: &R,
    ) -> io::Result<R::Response> {
        let version = self.version(R::API_KEY, min, max)?;
        world.timeout(within, self.connection.call(version, request)).await?
    }
}

/// One partition as metadata shows it.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// -1: none.
    pub leader: i32,
}

/// The brokers, reached by way of any of the bootstrap addresses.
pub struct Cluster {
    pub world: World,
    bootstrap: Vec<HostPort>,
    timeout: Duration,
    addresses: HashMap<i32, HostPort>,
    brokers: HashMap<i32, Broker>,
    /// A connection to one of the bootstrap addresses, whose id nobody knows.
    any: Option<Broker>,
    pub topic: String,
    pub partitions: BTreeMap<i32, Partition>,
}

impl Cluster {
    /// Connects to a bootstrap address and asks for the topic's partitions; `create` lets the cluster create it.
    pub async fn open(
        world: &World,
        bootstrap: Vec<HostPort>,
        topic: &str,
        timeout: Duration,
        create: bool,
    ) -> Result<Self, CliError> {
        let mut cluster = Self {
            world: world.clone(),
            bootstrap,
            timeout,
            addresses: HashMap::new(),
            brokers: HashMap::new(),
            any: None,
            topic: topic.to_owned(),
            partitions: BTreeMap::new(),
        };
        let deadline = cluster.deadline();
        loop {
            match cluster.refresh(create).await {
                Err(Trouble::Topic(code))
                    if !code.is_retriable() || !create && code == ErrorCode::UnknownTopicOrPartition =>
                {
                    return Err(CliError::kafka(code, topic, None));
                }
                Ok(()) => return Ok(cluster),
                Err(trouble) if world.instant() >= deadline => return Err(cluster.give_up(&trouble)),
                Err(_) => world.sleep(PAUSE).await,
            }
        }
    }

    /// Connects to a bootstrap address and asks where the brokers are.
    pub async fn open_brokers(world: &World, bootstrap: Vec<HostPort>, timeout: Duration) -> Result<Self, CliError> {
        let mut cluster = Self {
            world: world.clone(),
            bootstrap,
            timeout,
            addresses: HashMap::new(),
            brokers: HashMap::new(),
            any: None,
            topic: String::new(),
            partitions: BTreeMap::new(),
        };
        let deadline = cluster.deadline();
        loop {
            match cluster.refresh_brokers().await {
                Ok(()) => return Ok(cluster),
                Err(trouble) if world.instant() >= deadline => return Err(cluster.give_up(&trouble)),
                Err(_) => world.sleep(PAUSE).await,
            }
        }
    }

    async fn refresh_brokers(&mut self) -> Result<(), Trouble> {
        let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        let answer = self.ask_any(4, 12, &request).await?;
        self.note_addresses(&answer);
        Ok(())
    }

    fn note_addresses(&mut self, answer: &MetadataResponse) {
        let address = |broker: &MetadataResponseBroker| {
            let port = u16::try_from(broker.port).ok()?;
            Some((broker.node_id, HostPort { host: broker.host.to_string(), port }))
        };
        self.addresses = answer.brokers.iter().filter_map(address).collect();
    }

    /// The brokers that serve, ascending.
    pub fn broker_ids(&self) -> Vec<i32> {
        let mut ids: Vec<i32> = self.addresses.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub fn deadline(&self) -> Instant {
        self.world.instant() + self.timeout
    }

    /// Asks for the topic's leaders anew.
    pub async fn refresh(&mut self, create: bool) -> Result<(), Trouble> {
        let topic = MetadataRequestTopic { name: Some(Str::from(self.topic.as_str())), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: create, ..Default::default() };
        let answer = self.ask_any(4, 12, &request).await?;
        self.note_addresses(&answer);
        let Some(topic) = answer.topics.into_iter().next() else {
            return Err(Trouble::Topic(ErrorCode::UnknownTopicOrPartition));
        };
        if topic.error_code != 0 {
            return Err(Trouble::Topic(ErrorCode::from_code(topic.error_code)));
        }
        self.partitions = topic
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, Partition { leader: partition.leader_id }))
            .collect();
        if self.partitions.is_empty() {
            return Err(Trouble::Topic(ErrorCode::LeaderNotAvailable));
        }
        Ok(())
    }

    /// Asks any broker: the bootstrap connection, one that is open, or a new one.
    async fn ask_any<R: Request>(&mut self, min: i16, max: i16, request: &R) -> Result<R::Response, Trouble> {
        let within = self.timeout.min(Duration::from_secs(5));
        if let Some(mut broker) = self.any.take()
            && let Ok(answer) = broker.call(&self.world, within, min, max, request).await
        {
            self.any = Some(broker);
            return Ok(answer);
        }
        let known = self.addresses.values().filter(|address| !self.bootstrap.contains(address)).cloned();
        let candidates: Vec<HostPort> = self.bootstrap.iter().cloned().chain(known).collect();
        let mut reason = Trouble::Nobody(String::from("no address"));
        for address in candidates {
            let asked = async {
                let mut broker = Broker::open(&self.world, &address).await?;
                let answer = broker.call(&self.world, within, min, max, request).await?;
                Ok::<_, io::Error>((broker, answer))
            };
            match asked.await {
                Ok((broker, answer)) => {
                    self.any = Some(broker);
                    return Ok(answer);
                }
                Err(error) => reason = Trouble::Nobody(format!("{address}: {error}")),
            }
        }
        Err(reason)
    }

    /// A connection to this broker, taken out of the pool; `give_back` it unless it failed.
    pub async fn take(&mut self, id: i32) -> Result<Broker, Trouble> {
        if let Some(broker) = self.brokers.remove(&id) {
            return Ok(broker);
        }
        let address = self.addresses.get(&id).ok_or(Trouble::Topic(ErrorCode::LeaderNotAvailable))?;
        Broker::open(&self.world, address).await.map_err(|error| Trouble::Nobody(format!("{address}: {error}")))
    }

    pub fn give_back(&mut self, id: i32, broker: Broker) {
        self.brokers.insert(id, broker);
    }

    /// Asks one broker; a connection that failed is not used again.
    pub async fn ask<R: Request>(
        &mut self,
        id: i32,
        within: Duration,
        (min, max): (i16, i16),
        request: &R,
    ) -> Result<R::Response, Trouble> {
        let mut broker = self.take(id).await?;
        match broker.call(&self.world, within, min, max, request).await {
            Ok(answer) => {
                self.give_back(id, broker);
                Ok(answer)
            }
            Err(error) => Err(Trouble::Nobody(format!("broker {id}: {error}"))),
        }
    }

    /// The error to end with when no attempt has helped.
    pub fn give_up(&self, trouble: &Trouble) -> CliError {
        match trouble {
            Trouble::Topic(code) => CliError::kafka(*code, &self.topic, None),
            Trouble::Nobody(reason) => {
                let asked: Vec<String> = self.bootstrap.iter().map(HostPort::to_string).collect();
                CliError::unreachable(format!(
                    "no broker at {} could answer within {} s ({reason}); is the cluster up (`deploy/cluster status`), \
                     and are these its brokers (--bootstrap)?",
                    asked.join(","),
                    self.timeout.as_secs_f64()
                ))
            }
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// A broker answered with this error.
    Topic(ErrorCode),
    /// No broker answered.
    Nobody(String),
}

/// The topic is there, and this partition is not.
pub fn no_partition(topic: &str, count: usize, partition: i32) -> CliError {
    let message =
        format!("{topic} has {count} partitions, and no {partition}; `odradek topic describe {topic}` shows them");
    CliError::new(Exit::NotFound, message)
}
