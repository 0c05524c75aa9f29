//! The Kafka protocol's requests: what each means and how it is answered, one file an API.
//!
//! `dispatch` finds the handler of a frame and encodes its answer. A handler is called on the connection's task; it does
//! at once what can be done at once (a Produce appends) and returns the rest as a future. It authorises first, reads the
//! metadata from the cache, and reaches partitions through `replica`.

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod admin;
mod alter_configs;
mod alter_replica_log_dirs;
mod api_versions;
mod authorizer;
mod config_docs;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_topics_automatically;
mod delete_groups;
mod delete_records;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod describe_transactions;
mod dispatch;
mod end_txn;
mod enlist;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leaders;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod reassignments;
mod sync_group;
mod topic_name;
mod txn_offset_commit;
mod write_txn_markers;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::fetch_session::FetchSessionCache;
use odradek_common::BrokerId;
use odradek_common::config::BrokerConfig;
use odradek_common::fs::File;
use odradek_node::World;
use odradek_node::world::BoxFuture;
use odradek_wire::Str;

pub use self::authorizer::{AllowAll, Authorizer, Operation, Resource};
use self::create_topics_automatically::AutomaticTopics;
use crate::coordinators::{GroupCoordinators, MarkerWriter, Peers, ProducerIds, TransactionCoordinators};
use crate::metadata::{ControllerClient, LiveConfig, MetadataCache};
use crate::replica::{ColdStream, ReplicaManager, SessionWatch};

/// What a handler has, or will have.
pub enum Outcome<T> {
    Done(T),
    Waiting(BoxFuture<T>),
    /// The request is not done before this is: no other of its connection starts meanwhile.
    Ordered(BoxFuture<Outcome<T>>),
}

impl<T: Send + 'static> Outcome<T> {
    pub fn map<U: Send + 'static>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(change(value)),
            Self::Waiting(future) => Outcome::Waiting(Box::pin(async move { change(future.await) })),
            Self::Ordered(future) => Outcome::Ordered(Box::pin(async move { future.await.map(change) })),
        }
    }

    /// Waits for it.
    pub async fn wait(mut self) -> T {
        loop {
            self = match self {
                Self::Done(value) => return value,
                Self::Waiting(future) => return future.await,
                Self::Ordered(future) => future.await,
            };
        }
    }

    pub fn waiting(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Waiting(Box::pin(future))
    }
}

impl<T> From<crate::replica::Outcome<T>> for Outcome<T> {
    fn from(outcome: crate::replica::Outcome<T>) -> Self {
        match outcome {
            crate::replica::Outcome::Done(value) => Self::Done(value),
            crate::replica::Outcome::Waiting(future) => Self::Waiting(future),
        }
    }
}

/// What a connection does when a request is done.
pub enum Reply {
    Send(Response),
    /// A Produce with acks=0.
    Nothing,
    /// The request cannot be answered, or its failure can be told in no other way.
    Close,
}

impl Reply {
    /// What it holds in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Send(response) => response.parts.iter().filter_map(Part::as_bytes).map(Bytes::len).sum(),
            Self::Nothing | Self::Close => 0,
        }
    }
}

/// A whole frame, its length included.
pub struct Response {
    pub parts: Vec<Part>,
    /// The client's further requests are not read for so long (KIP-219).
    pub throttle: Duration,
}

/// A stretch of a response.
pub enum Part {
    Bytes(Bytes),
    File(FilePart),
}

impl Part {
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::File(_) => None,
        }
    }
}

/// Records that go from a log file to the socket.
#[derive(Clone, Debug)]
pub struct FilePart {
    pub file: Arc<dyn File>,
    pub offset: u64,
    pub len: usize,
    /// Of a reader that is far behind the log's end.
    pub stream: Option<Arc<ColdStream>>,
}

/// Who asks. Travels with a request wherever it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestContext {
    /// As `User:alice`.
    pub principal: Arc<str>,
    /// The name of the listener that was asked.
    pub listener: Arc<str>,
    pub peer: SocketAddr,
    /// Empty when the client gave none.
    pub client_id: Str,
    /// From ApiVersions (KIP-511), once the client has sent it.
    pub software_name: Option<Str>,
    pub software_version: Option<Str>,
}

/// The principal of a connection without authentication.
const ANONYMOUS: &str = "User:ANONYMOUS";

/// The far end of one connection, as far as its requests have told.
pub struct Client {
    pub(crate) context: Arc<RequestContext>,
}

impl Client {
    pub fn new(listener: Arc<str>, peer: SocketAddr) -> Self {
        let context = RequestContext {
            principal: ANONYMOUS.into(),
            listener,
            peer,
            client_id: Str::default(),
            software_name: None,
            software_version: None,
        };
        Self { context: Arc::new(context) }
    }

    /// The context of a request with this client id. It is made anew only when the id changes.
    fn context(&mut self, client_id: Option<&Str>) -> Arc<RequestContext> {
        let client_id = client_id.map_or("", |id| id.as_str());
        if self.context.client_id != *client_id {
            Arc::make_mut(&mut self.context).client_id = Str::from(client_id);
        }
        self.context.clone()
    }
}

/// Everything that handlers work with.
pub struct Api {
    pub world: World,
    /// As the file has it; what may change while the broker runs is in `live`.
    pub config: Arc<BrokerConfig>,
    pub live: LiveConfig,
    pub broker_id: BrokerId,
    pub cluster_id: Str,
    pub cache: MetadataCache,
    pub controller: ControllerClient,
    pub replicas: Arc<ReplicaManager>,
    pub groups: Arc<GroupCoordinators>,
    pub transactions: Arc<TransactionCoordinators>,
    markers: Arc<MarkerWriter>,
    peers: Arc<Peers>,
    pub authorizer: Arc<dyn Authorizer>,
    fetch_sessions: Mutex<FetchSessionCache<SessionWatch>>,
    producer_ids: Arc<ProducerIds>,
    automatic_topics: AutomaticTopics,
}

/// What `Api::new` is made from.
pub struct Parts {
    pub world: World,
    pub config: Arc<BrokerConfig>,
    pub live: LiveConfig,
    pub cluster_id: String,
    pub cache: MetadataCache,
    pub controller: ControllerClient,
    pub replicas: Arc<ReplicaManager>,
    pub groups: Arc<GroupCoordinators>,
    pub transactions: Arc<TransactionCoordinators>,
    pub markers: Arc<MarkerWriter>,
    pub peers: Arc<Peers>,
    pub producer_ids: Arc<ProducerIds>,
    pub authorizer: Arc<dyn Authorizer>,
}

impl Api {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            broker_id: parts.config.node_id,
            fetch_sessions: Mutex::new(FetchSessionCache::new(parts.config.network.fetch_session_slots)),
            automatic_topics: AutomaticTopics::default(),
            cluster_id: parts.cluster_id.into(),
            world: parts.world,
            config: parts.config,
            live: parts.live,
            cache: parts.cache,
            controller: parts.controller,
            replicas: parts.replicas,
            groups: parts.groups,
            transactions: parts.transactions,
            markers: parts.markers,
            peers: parts.peers,
            producer_ids: parts.producer_ids,
            authorizer: parts.authorizer,
        })
    }

    fn fetch_sessions(&self) -> MutexGuard<'_, FetchSessionCache<SessionWatch>> {
        self.fetch_sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, context: &RequestContext, operation: Operation, resource: Resource<'_>) -> bool {
        self.authorizer.allows(context, operation, resource)
    }
}
