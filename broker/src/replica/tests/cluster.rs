//! A cluster of replica managers in one process: real files and sockets, a controller made of an image, and no more of
//! a broker's network than Fetch and ListOffsets by followers.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::fetch_session::{
    AnswerFacts, FetchSessionCache, PartitionKey, RequestedPartition, SessionRequest, TopicKey,
};
use odradek_broker_storage::{LogDirs, LogDirsConfig};
use odradek_common::config::BrokerConfig;
use odradek_common::fs::Fs;
use odradek_common::mem_fs::MemFs;
use odradek_common::meta_properties::format_all;
use odradek_common::time::Timestamp;
use odradek_common::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch, PartitionIndex, ProducerEpoch, ProducerId,
    TopicId, TopicIdPartition,
};
use odradek_metadata::{Delta, DeltaTracker, Image, proto};
use odradek_node::World;
use odradek_node::world::{BoxFuture, Socket, TaskHandle, send_vectored};
use odradek_records::RecordBatchBuilder;
use odradek_wire::fetch_request::FetchRequest;
use odradek_wire::fetch_response::{EpochEndOffset, FetchResponse, FetchableTopicResponse, PartitionData};
use odradek_wire::frame::{LENGTH_BYTES, RequestFrame, check_length, encode_response};
use odradek_wire::list_offsets_request::ListOffsetsRequest;
use odradek_wire::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use odradek_wire::{ApiKey, Message, Part, Records};
use proto::record::Kind;
use tokio::io::AsyncReadExt;

use super::super::{
    AppendEntry, AppendResult, ControllerClient, FetchEntry, FetchParams, FetchResult, Isolation, IsrChange,
    IsrChangeResult, IsrCommitted, Outcome, Reader, ReplicaManager, SessionWatch,
};

/// All that a test waits for is there within this, even where a disk or another program holds the machine up.
pub const LIMIT: Duration = Duration::from_secs(30);

pub type Managers = Arc<Mutex<BTreeMap<i32, Arc<ReplicaManager>>>>;

/// Decides as the real one does, as far as these tests go, and tells every live broker at once.
pub struct Controller {
    tracker: Mutex<DeltaTracker>,
    managers: Managers,
    /// Whether ISR changes get through.
    pub is_reachable: std::sync::atomic::AtomicBool,
}

impl Controller {
    pub fn image(&self) -> Image {
        self.tracker.lock().expect("no test panicked").image().clone()
    }

    pub fn apply(&self, kinds: Vec<Kind>) {
        let records: Vec<_> = kinds.into_iter().map(|kind| proto::Record { kind: Some(kind) }).collect();
        let mut tracker = self.tracker.lock().expect("no test panicked");
        let offset = tracker.image().offset() + 1;
        tracker.apply_records(&records, offset).expect("the records fit");
        let delta = tracker.publish();
        // Under the lock, so that every broker sees the deltas in their order.
        let image = Arc::new(delta.after.clone());
        let managers: Vec<_> = self.managers.lock().expect("no test panicked").values().cloned().collect();
        for manager in managers {
            manager.publish(&image, &delta);
        }
    }

    fn alter(&self, change: &IsrChange) -> Result<IsrCommitted, ErrorCode> {
        let image = self.image();
        let partition = image.partition(change.partition.topic_id, change.partition.partition);
        let partition = partition.ok_or(ErrorCode::UnknownTopicId)?;
        let proposal = &change.proposal;
        if proposal.leader_epoch != partition.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if proposal.partition_epoch != partition.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        for member in &proposal.isr {
            let broker = image.broker(member.broker).filter(|broker| broker.is_active());
            if broker.is_none_or(|broker| member.epoch != BrokerEpoch::NONE && member.epoch != broker.epoch) {
                return Err(ErrorCode::IneligibleReplica);
            }
        }
        let isr: Vec<i32> = proposal.isr.iter().map(|member| member.broker.0).collect();
        self.apply(vec![Kind::PartitionChange(proto::PartitionChangeRecord {
            topic_id: change.partition.topic_id.0.to_vec(),
            partition: change.partition.partition.0,
            isr: Some(proto::Ids { ids: isr }),
            ..proto::PartitionChangeRecord::default()
        })]);
        Ok(IsrCommitted {
            leader_epoch: proposal.leader_epoch,
            partition_epoch: PartitionEpoch(proposal.partition_epoch.0 + 1),
            isr: proposal.isr.iter().map(|member| member.broker).collect(),
        })
    }
}

struct Client(Arc<Controller>);

impl ControllerClient for Client {
    fn alter_partition(&self, changes: Vec<IsrChange>) -> BoxFuture<Result<Vec<IsrChangeResult>, ErrorCode>> {
        let controller = self.0.clone();
        Box::pin(async move {
            if !controller.is_reachable.load(std::sync::atomic::Ordering::Acquire) {
                return Err(ErrorCode::NetworkException);
            }
            let result =
                |change: &IsrChange| IsrChangeResult { partition: change.partition, result: controller.alter(change) };
            Ok(changes.iter().map(result).collect())
        })
    }

    fn assign_directories(
        &self,
        replicas: Vec<(TopicIdPartition, odradek_common::Uuid)>,
    ) -> BoxFuture<Result<Vec<ErrorCode>, ErrorCode>> {
        Box::pin(async move { Ok(vec![ErrorCode::None; replicas.len()]) })
    }
}

struct Node {
    /// Removed at the end; `None`: the files are in memory.
    _dir: Option<tempfile::TempDir>,
    dirs: Vec<PathBuf>,
    port: u16,
    server: Option<TaskHandle>,
    connections: Arc<Mutex<Vec<TaskHandle>>>,
}

pub struct Cluster {
    pub world: World,
    pub controller: Arc<Controller>,
    managers: Managers,
    nodes: BTreeMap<i32, Node>,
    config: String,
    next_id: u8,
}

impl Cluster {
    /// `config`: lines for every broker's properties.
    pub async fn start(brokers: i32, config: &str) -> Self {
        Self::start_in(World::real(), false, brokers, config).await
    }

    /// As [`Cluster::start`], each broker with two log directories, `/1/a` and `/1/b` for broker 1, in memory.
    pub async fn start_in_memory(fs: &MemFs, brokers: i32, config: &str) -> Self {
        Self::start_on(Arc::new(fs.clone()), brokers, config).await
    }

    /// As [`Cluster::start_in_memory`], on a file system that has one of those below.
    pub async fn start_on(fs: Arc<dyn Fs>, brokers: i32, config: &str) -> Self {
        Self::start_in(World { fs, ..World::real() }, true, brokers, config).await
    }

    async fn start_in(world: World, is_in_memory: bool, brokers: i32, config: &str) -> Self {
        let managers = Managers::default();
        let controller = Arc::new(Controller {
            tracker: Mutex::default(),
            managers: managers.clone(),
            is_reachable: std::sync::atomic::AtomicBool::new(true),
        });
        let mut cluster =
            Self { world, controller, managers, nodes: BTreeMap::new(), config: config.to_owned(), next_id: 1 };
        for id in 1..=brokers {
            let dir = (!is_in_memory).then(|| tempfile::tempdir().expect("a directory"));
            let dirs = match &dir {
                Some(dir) => vec![dir.path().to_owned()],
                None => ["a", "b"].map(|name| PathBuf::from(format!("/{id}/{name}"))).to_vec(),
            };
            let mut rng = cluster.world.rng();
            format_all(&*cluster.world.fs, &dirs, "cluster", id, false, &mut rng).expect("formatted");
            let node = Node { _dir: dir, dirs, port: 0, server: None, connections: Arc::default() };
            cluster.nodes.insert(id, node);
            cluster.start_broker(id).await;
        }
        cluster
    }

    pub fn manager(&self, id: i32) -> Arc<ReplicaManager> {
        self.managers.lock().expect("no test panicked").get(&id).cloned().expect("the broker is up")
    }

    /// Starts a broker on what its directory holds, registers it and lets it lead and follow.
    pub async fn start_broker(&mut self, id: i32) {
        let node = self.nodes.get_mut(&id).expect("a broker of the cluster");
        let listener = self.world.net.bind("127.0.0.1", node.port).await.expect("bound");
        node.port = listener.local_addr().expect("bound").port();
        let text = format!(
            "node.id={id}\nlog.dirs={}\nlisteners=PLAINTEXT://127.0.0.1:{}\ncontroller.quorum.bootstrap.servers=127.0.0.1:1\n{}",
            node.dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(","),
            node.port,
            self.config
        );
        let (config, _) = BrokerConfig::load(&text, "test", &[]).expect("a valid config");
        let dirs = LogDirsConfig {
            dirs: config.log_dirs.clone(),
            node_id: BrokerId(id),
            cluster_id: None,
            open_files_max: 64,
        };
        let dirs = LogDirs::open(self.world.fs.clone(), &dirs, &mut self.world.rng()).expect("opened");
        let client = Arc::new(Client(self.controller.clone()));
        let manager = ReplicaManager::start(self.world.clone(), Arc::new(config), Arc::new(dirs), client).await;
        let connections = node.connections.clone();
        let (world, serving) = (self.world.clone(), manager.clone());
        node.server = Some(self.world.spawn("test server", async move {
            let sessions = Arc::new(Mutex::new(FetchSessionCache::new(100)));
            while let Ok(socket) = listener.accept().await {
                let (world, manager, sessions) = (world.clone(), serving.clone(), sessions.clone());
                let task = world.clone().spawn("test connection", async move {
                    let _ = serve(&world, &manager, &sessions, socket).await;
                });
                connections.lock().expect("no test panicked").push(task);
            }
        }));
        let port = u32::from(node.port);
        let registration = proto::RegisterBrokerRecord {
            broker_id: id,
            incarnation_id: self.world.random_uuid().0.to_vec(),
            endpoints: vec![proto::Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "127.0.0.1".to_owned(),
                port,
                security_protocol: "PLAINTEXT".to_owned(),
            }],
            fenced: true,
            ..proto::RegisterBrokerRecord::default()
        };
        self.controller.apply(vec![Kind::RegisterBroker(registration)]);
        let image = self.controller.image();
        manager.set_broker_epoch(image.broker(BrokerId(id)).expect("registered").epoch);
        manager.publish(&Arc::new(image.clone()), &Delta::between(&Image::new(), &image));
        self.managers.lock().expect("no test panicked").insert(id, manager);
        self.set_fenced(id, false);
    }

    pub fn set_fenced(&self, id: i32, fenced: bool) {
        let image = self.controller.image();
        let epoch = image.broker(BrokerId(id)).expect("registered").epoch;
        self.controller.apply(vec![Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            broker_id: id,
            broker_epoch: epoch.0,
            fenced: Some(fenced),
            ..proto::BrokerRegistrationChangeRecord::default()
        })]);
    }

    /// Ends a broker's tasks and sockets. With `clean` as a shutdown does it, else its logs stay as they are.
    pub async fn stop_broker(&mut self, id: i32, clean: bool) {
        let manager = self.managers.lock().expect("no test panicked").remove(&id).expect("the broker is up");
        self.set_fenced(id, true);
        let node = self.nodes.get_mut(&id).expect("a broker of the cluster");
        if let Some(server) = node.server.take() {
            server.abort();
        }
        for task in node.connections.lock().expect("no test panicked").drain(..) {
            task.abort();
        }
        if clean {
            let epoch = self.controller.image().broker(BrokerId(id)).map(|broker| broker.epoch);
            manager.shut_down(epoch).await;
        } else {
            manager.abandon();
        }
        // The directory's lock goes with the last task that holds the manager.
        let gone = async {
            while Arc::strong_count(&manager) > 1 {
                tokio::task::yield_now().await;
            }
        };
        self.world.timeout(LIMIT, gone).await.expect("all tasks of the broker end");
    }

    pub fn create_topic(&mut self, name: &str, partitions: &[&[i32]], configs: &[(&str, &str)]) -> TopicId {
        let id = TopicId::from_random([self.next_id; 16]);
        self.next_id += 1;
        let mut kinds: Vec<_> = configs
            .iter()
            .map(|(key, value)| {
                Kind::Config(proto::ConfigRecord {
                    resource_type: 2,
                    resource_name: name.to_owned(),
                    name: (*key).to_owned(),
                    value: Some((*value).to_owned()),
                })
            })
            .collect();
        kinds.push(Kind::Topic(proto::TopicRecord { name: name.to_owned(), topic_id: id.0.to_vec() }));
        for (index, replicas) in partitions.iter().enumerate() {
            kinds.push(Kind::Partition(proto::PartitionRecord {
                topic_id: id.0.to_vec(),
                partition: index as i32,
                replicas: replicas.to_vec(),
                directories: vec![vec![0; 16]; replicas.len()],
                isr: replicas.to_vec(),
                leader: replicas[0],
                ..proto::PartitionRecord::default()
            }));
        }
        self.controller.apply(kinds);
        id
    }

    pub fn delete_topic(&self, id: TopicId) {
        self.controller.apply(vec![Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: id.0.to_vec() })]);
    }

    pub fn elect(&self, partition: TopicIdPartition, leader: i32, isr: &[i32]) {
        self.controller.apply(vec![Kind::PartitionChange(proto::PartitionChangeRecord {
            topic_id: partition.topic_id.0.to_vec(),
            partition: partition.partition.0,
            leader: Some(leader),
            isr: Some(proto::Ids { ids: isr.to_vec() }),
            ..proto::PartitionChangeRecord::default()
        })]);
    }

    /// In which directory the partition's only replica is, as its broker told.
    pub fn set_directory(&self, partition: TopicIdPartition, dir: odradek_common::Uuid) {
        self.controller.apply(vec![Kind::PartitionChange(proto::PartitionChangeRecord {
            topic_id: partition.topic_id.0.to_vec(),
            partition: partition.partition.0,
            directories: Some(proto::Directories { ids: vec![dir.0.to_vec()] }),
            ..proto::PartitionChangeRecord::default()
        })]);
    }

    /// A dynamic config of a topic; `None` takes it away.
    pub fn set_topic_config(&self, topic: &str, name: &str, value: Option<&str>) {
        self.controller.apply(vec![Kind::Config(proto::ConfigRecord {
            resource_type: 2,
            resource_name: topic.to_owned(),
            name: name.to_owned(),
            value: value.map(str::to_owned),
        })]);
    }

    /// A dynamic config of one broker.
    pub fn set_broker_config(&self, broker: i32, name: &str, value: &str) {
        self.controller.apply(vec![Kind::Config(proto::ConfigRecord {
            resource_type: 4,
            resource_name: broker.to_string(),
            name: name.to_owned(),
            value: Some(value.to_owned()),
        })]);
    }

    /// Gives a partition other replicas; the leader leads on in a new epoch.
    pub fn assign(&self, partition: TopicIdPartition, replicas: &[i32], isr: &[i32]) {
        let image = self.controller.image();
        let leader = image.partition(partition.topic_id, partition.partition).map(|partition| partition.leader.0);
        self.controller.apply(vec![Kind::PartitionChange(proto::PartitionChangeRecord {
            topic_id: partition.topic_id.0.to_vec(),
            partition: partition.partition.0,
            leader,
            replicas: Some(proto::Ids { ids: replicas.to_vec() }),
            isr: Some(proto::Ids { ids: isr.to_vec() }),
            ..proto::PartitionChangeRecord::default()
        })]);
    }

    pub fn isr(&self, partition: TopicIdPartition) -> Vec<i32> {
        let image = self.controller.image();
        let partition = image.partition(partition.topic_id, partition.partition).expect("the partition exists");
        let mut isr: Vec<i32> = partition.isr.iter().map(|id| id.0).collect();
        isr.sort_unstable();
        isr
    }

    /// Waits, for at most [`LIMIT`], until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let holds = async {
            while !condition() {
                self.world.sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(self.world.timeout(LIMIT, holds).await.is_ok(), "not within {LIMIT:?}: {what}");
    }

    /// Waits until a broker leads the partition.
    pub async fn until_leads(&self, id: i32, partition: TopicIdPartition) {
        let manager = self.manager(id);
        let what = format!("broker {id} leads {partition}");
        self.until(&what, || manager.describe_partition(partition).is_some_and(|found| found.is_leader)).await;
    }

    /// Waits until the logs of these brokers end at `log_end` and are committed so far.
    pub async fn until_equal(&self, brokers: &[i32], partition: TopicIdPartition, log_end: i64) {
        for id in brokers {
            let manager = self.manager(*id);
            self.until(&format!("broker {id} has {log_end} records of {partition}"), || {
                manager
                    .describe_partition(partition)
                    .is_some_and(|found| found.log_end.0 == log_end && found.high_watermark.0 == log_end)
            })
            .await;
        }
        let logs: Vec<Vec<u8>> = brokers.iter().map(|id| self.log_bytes(*id, partition)).collect();
        assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "the logs of {brokers:?} differ");
    }

    /// All segments of a replica, one after another.
    pub fn log_bytes(&self, id: i32, partition: TopicIdPartition) -> Vec<u8> {
        let found = self.manager(id).describe_partition(partition).expect("the replica is open");
        let dir = found.log_dir.join(format!("{}-{}", found.topic, found.index));
        let entries = self.world.fs.read_dir(&dir).expect("readable");
        let logs = entries.iter().filter(|entry| entry.name.ends_with(".log"));
        logs.flat_map(|entry| odradek_common::fs::read_file(&*self.world.fs, &dir.join(&entry.name), 1 << 30))
            .flatten()
            .collect()
    }

    pub fn produce(
        &self,
        id: i32,
        partition: TopicIdPartition,
        records: Bytes,
        acks: i16,
    ) -> Outcome<Vec<AppendResult>> {
        let entries = vec![AppendEntry::new(partition, records)];
        self.manager(id).append(entries, acks, LIMIT)
    }

    pub async fn produced(&self, id: i32, partition: TopicIdPartition, records: Bytes, acks: i16) -> AppendResult {
        self.produce(id, partition, records, acks).wait().await.remove(0)
    }

    pub fn fetch(&self, id: i32, entries: Vec<FetchEntry>, wait_ms: u64, bytes_min: u64) -> Outcome<Vec<FetchResult>> {
        self.manager(id).fetch(params(wait_ms, bytes_min), entries)
    }
}

pub fn params(wait_ms: u64, bytes_min: u64) -> FetchParams {
    FetchParams {
        replica: None,
        reader: Reader::Client(Isolation::ReadUncommitted),
        wait_max: Duration::from_millis(wait_ms),
        bytes_min,
        bytes_max: 1 << 20,
        is_bytes_max_hard: false,
        peer: None,
        waits_for_disk: false,
    }
}

pub fn entry(partition: TopicIdPartition, offset: i64) -> FetchEntry {
    FetchEntry {
        partition,
        fetch_offset: Offset(offset),
        log_start: Offset::NONE,
        current_leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        bytes_max: 1 << 20,
    }
}

pub fn tp(topic_id: TopicId, partition: i32) -> TopicIdPartition {
    TopicIdPartition { topic_id, partition: PartitionIndex(partition) }
}

/// A batch of one record for each value.
pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = RecordBatchBuilder::new();
    for value in values {
        builder.append(Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    }
    builder.build().expect("a small batch")
}

pub fn idempotent_batch(value: &str, producer: i64, sequence: i32) -> Bytes {
    let mut builder = RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), sequence);
    builder.append(Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    builder.build().expect("a small batch")
}

pub fn read(result: &FetchResult) -> Vec<u8> {
    let Some(range) = &result.records else { return Vec::new() };
    let mut bytes = vec![0; range.len];
    range.file.read_exact_at(&mut bytes, range.position).expect("the range is there");
    bytes
}

/// Answers followers on one connection.
async fn serve(
    world: &World,
    manager: &Arc<ReplicaManager>,
    sessions: &Mutex<FetchSessionCache<SessionWatch>>,
    mut socket: Socket,
) -> io::Result<()> {
    loop {
        let mut prefix = [0; LENGTH_BYTES];
        socket.read_exact(&mut prefix).await?;
        let mut bytes = vec![0; check_length(prefix, 1 << 24).map_err(io::Error::other)?];
        socket.read_exact(&mut bytes).await?;
        let frame = RequestFrame::parse(Bytes::from(bytes)).map_err(io::Error::other)?;
        let (key, version, correlation) = (frame.api_key, frame.api_version, frame.correlation_id);
        match key {
            ApiKey::Fetch => {
                let request = frame.decode().map_err(io::Error::other)?;
                let answer = serve_fetch(world, manager, sessions, request).await;
                send(&mut socket, key, version, correlation, &answer).await?;
            }
            ApiKey::ListOffsets => {
                let request = frame.decode().map_err(io::Error::other)?;
                let answer = serve_list_offsets(manager, &request);
                send(&mut socket, key, version, correlation, &answer).await?;
            }
            key => panic!("a follower asks for {key:?}"),
        }
    }
}

async fn send<M: Message>(socket: &mut Socket, key: ApiKey, version: i16, id: i32, answer: &M) -> io::Result<()> {
    let parts = encode_response(key, version, id, answer).map_err(io::Error::other)?;
    let buffers: Vec<&[u8]> = parts
        .iter()
        .map(|part| match part {
            Part::Bytes(bytes) => bytes.as_ref(),
            Part::Outside(_) => panic!("records are read into memory here"),
        })
        .collect();
    send_vectored(&mut *socket.writer, &buffers).await
}

pub fn facts(result: &FetchResult) -> AnswerFacts {
    AnswerFacts {
        error: result.error,
        has_records: !result.is_empty(),
        high_watermark: result.high_watermark,
        log_start: result.log_start,
        has_diverging_epoch: result.diverging_epoch.is_some(),
        has_preferred_replica: false,
    }
}

async fn serve_fetch(
    world: &World,
    manager: &Arc<ReplicaManager>,
    sessions: &Mutex<FetchSessionCache<SessionWatch>>,
    request: FetchRequest,
) -> FetchResponse {
    let key = |topic_id, partition| PartitionKey { topic: TopicKey::Id(topic_id), partition };
    let session = SessionRequest {
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        uses_topic_ids: true,
        is_follower: true,
        partitions: request
            .topics
            .iter()
            .flat_map(|topic| {
                topic.partitions.iter().map(|partition| RequestedPartition {
                    key: key(topic.topic_id, partition.partition),
                    fetch_offset: Offset(partition.fetch_offset),
                    log_start: Offset(partition.log_start_offset),
                    current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                    last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
                    bytes_max: partition.partition_max_bytes,
                })
            })
            .collect(),
        forgotten: request
            .forgotten_topics_data
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| key(topic.topic_id, *partition)))
            .collect(),
    };
    let resolved = sessions.lock().expect("no test panicked").resolve(session, world.instant());
    let context = match resolved {
        Ok(context) => context,
        Err(error) => return FetchResponse { error_code: error.code(), ..FetchResponse::default() },
    };
    let entries: Vec<_> = context
        .partitions
        .iter()
        .map(|(slot, requested)| {
            let TopicKey::Id(topic_id) = requested.key.topic else { panic!("followers use ids") };
            let entry = FetchEntry {
                partition: tp(topic_id, requested.key.partition),
                fetch_offset: requested.fetch_offset,
                log_start: requested.log_start,
                current_leader_epoch: requested.current_leader_epoch,
                last_fetched_epoch: requested.last_fetched_epoch,
                bytes_max: requested.bytes_max as usize,
            };
            (*slot, entry)
        })
        .collect();
    let state = &request.replica_state;
    let params = FetchParams {
        replica: Some((BrokerId(state.replica_id), BrokerEpoch(state.replica_epoch))),
        reader: Reader::Follower,
        wait_max: Duration::from_millis(request.max_wait_ms as u64),
        bytes_min: request.min_bytes as u64,
        bytes_max: request.max_bytes as usize,
        is_bytes_max_hard: false,
        peer: None,
        waits_for_disk: false,
    };
    let results = match &context.watch {
        Some(watch) => manager.fetch_session(params, watch.clone(), entries, &context.forgotten).wait().await,
        None => {
            let (slots, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
            let asked: Vec<_> = entries.iter().map(|entry| entry.partition).collect();
            let results = manager.fetch(params, entries).wait().await;
            let results = slots.into_iter().zip(asked).zip(results);
            results.map(|((slot, partition), result)| (slot, partition, result)).collect()
        }
    };
    let facts: Vec<_> = results.iter().map(|(slot, _, result)| (*slot, facts(result))).collect();
    let answer = sessions.lock().expect("no test panicked").answer(&context, &facts, &mut world.rng(), world.instant());
    let mut response =
        FetchResponse { error_code: answer.error.code(), session_id: answer.session_id, ..FetchResponse::default() };
    for (at, key) in answer.include {
        let TopicKey::Id(topic_id) = key.topic else { panic!("followers use ids") };
        let result = &results[at].2;
        let diverging = result.diverging_epoch.map(|end| EpochEndOffset {
            epoch: end.epoch.0,
            end_offset: end.end.0,
            ..EpochEndOffset::default()
        });
        response.responses.push(FetchableTopicResponse {
            topic_id,
            partitions: vec![PartitionData {
                partition_index: key.partition,
                error_code: result.error.code(),
                high_watermark: result.high_watermark.0,
                log_start_offset: result.log_start.0,
                diverging_epoch: diverging.unwrap_or_default(),
                records: Some(Records::Bytes(read(result).into())),
                ..PartitionData::default()
            }],
            ..FetchableTopicResponse::default()
        });
    }
    response
}

fn serve_list_offsets(manager: &Arc<ReplicaManager>, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let image = manager.image();
    let topics = request.topics.iter().map(|topic| {
        let topic_id = image.topic_id(&topic.name).unwrap_or_default();
        let partitions = topic.partitions.iter().map(|partition| {
            let listed = manager.list_offset(
                tp(topic_id, partition.partition_index),
                Reader::Follower,
                LeaderEpoch(partition.current_leader_epoch),
                partition.timestamp,
            );
            let (error, offset) = match listed {
                Ok(listed) => (ErrorCode::None, listed.offset),
                Err(error) => (error.code, Offset::NONE),
            };
            ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                error_code: error.code(),
                offset: offset.0,
                ..ListOffsetsPartitionResponse::default()
            }
        });
        ListOffsetsTopicResponse {
            name: topic.name.clone(),
            partitions: partitions.collect(),
            ..ListOffsetsTopicResponse::default()
        }
    });
    ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
}
