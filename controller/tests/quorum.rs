//! Quorums on loopback sockets and real files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use odradek_common::time::Timestamp;
use odradek_controller::grpc::raft_service::Service;
use odradek_controller::raft::types::{EncodedBatch, Peer};
use odradek_controller::raft::{LogStoreKind, RaftNode, RaftOptions, start};
use odradek_metadata::{Image, batch};
use odradek_node::{Shutdown, World};
use odradek_proto::metadata::{FeatureLevelRecord, Record, record::Kind};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(20);

/// One controller's Raft and its port, on a thread of its own as in production.
struct Node {
    node: RaftNode,
    stop: Shutdown,
    stopped: oneshot::Receiver<()>,
}

struct Quorum {
    world: World,
    dir: tempfile::TempDir,
    voters: BTreeMap<u64, Peer>,
    nodes: BTreeMap<u64, Node>,
    snapshot_interval: u64,
    store: LogStoreKind,
}

/// Below the range from which the kernel takes ports for outgoing connections, so that a restarted node gets its own back.
fn free_port() -> u16 {
    static NEXT: std::sync::OnceLock<std::sync::atomic::AtomicU32> = std::sync::OnceLock::new();
    let next = NEXT.get_or_init(|| (std::process::id() * 64).into());
    loop {
        let port = 10_000 + (next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 20_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Quorum {
    async fn new(count: u64, store: LogStoreKind, snapshot_interval: u64) -> Self {
        let voters = (1..=count).map(|id| (id, Peer { host: "127.0.0.1".to_owned(), port: free_port() })).collect();
        let dir = tempfile::tempdir().expect("a directory");
        let mut quorum = Self { world: World::real(), dir, voters, nodes: BTreeMap::new(), snapshot_interval, store };
        for id in 1..=count {
            quorum.start(id).await;
        }
        quorum
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    async fn start(&mut self, id: u64) {
        let options = RaftOptions {
            node_id: id,
            cluster_id: "test-cluster".into(),
            voters: self.voters.clone(),
            dir: self.path(id),
            store: self.store,
            cache_bytes: 1 << 20,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1000,
            snapshot_interval_entries: self.snapshot_interval,
        };
        let node = serve(&self.world, options, self.voters[&id].port).await;
        self.nodes.insert(id, node);
    }

    async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("running");
        node.stop.trigger();
        let _ = node.stopped.await;
    }

    /// Who leads, once one of the running nodes does.
    async fn leader(&self) -> u64 {
        let found = self.world.timeout(PATIENCE, async {
            loop {
                if let Some((id, _)) = self.nodes.iter().find(|(_, node)| node.node.raft.is_leader()) {
                    return *id;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        found.await.expect("a leader in time")
    }

    /// Writes through whoever leads until it is acknowledged; answers its offset.
    async fn write(&self, level: i32) -> i64 {
        self.write_for(level, 0).await
    }

    /// As `write`, an entry that was decided for this offset; 0: for any.
    async fn write_for(&self, level: i32, offset: i64) -> i64 {
        let record = FeatureLevelRecord { name: format!("test.{level}"), level };
        let record = Record { kind: Some(Kind::FeatureLevel(record)) };
        let mut batch = batch::new(vec![record], Timestamp(1));
        batch.offset = offset;
        let bytes = batch::encode(&batch);
        let written = self.world.timeout(PATIENCE, async {
            loop {
                let leader = self.leader().await;
                let written = self.nodes[&leader].node.raft.client_write(EncodedBatch(bytes.clone().into())).await;
                if let Ok(written) = written {
                    return written.data.offset;
                }
            }
        });
        written.await.expect("acknowledged in time")
    }

    async fn image_at(&self, id: u64, offset: i64) -> Image {
        let view = self.nodes[&id].node.view.clone();
        let mut progress = view.subscribe();
        let reached = self.world.timeout(PATIENCE, progress.wait_for(|progress| progress.offset >= offset)).await;
        reached
            .unwrap_or_else(|_| panic!("node {id} does not reach {offset}, is at {:?}", view.progress()))
            .expect("open");
        view.image()
    }
}

async fn serve(world: &World, options: RaftOptions, port: u16) -> Node {
    let (started, running) = oneshot::channel();
    let (ended, stopped) = oneshot::channel();
    let stop = Shutdown::new();
    let (inner, signal) = (world.clone(), stop.clone());
    world.spawn_isolated("raft", async move {
        // Within one process, sled's own threads may hold its file a moment longer than its last handle lives.
        let node = loop {
            match start(inner.clone(), options.clone()).await {
                Ok(node) => break node,
                Err(error) if format!("{error:#}").contains("acquire lock") => tokio::task::yield_now().await,
                Err(error) => panic!("{error:#}"),
            }
        };
        let listener = inner.net.bind("127.0.0.1", port).await.expect("bound");
        let service = Service::new(
            inner.clone(),
            &node,
            options.node_id,
            options.cluster_id.clone(),
            options.dir.join("snapshots"),
        );
        let incoming = odradek_node::grpc::incoming(inner, Arc::from(listener));
        let _ = started.send(node.clone());
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        tokio::select! {
            served = serving => served.expect("served"),
            () = signal.wait() => {}
        }
        node.raft.shutdown().await.expect("stopped");
        drop(node);
        let _ = ended.send(());
    });
    Node { node: running.await.expect("started"), stop, stopped }
}

fn snapshots(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("snapshots")).expect("listed");
    entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned()).collect()
}

fn level(image: &Image, level: i32) -> i16 {
    image.feature_level(&format!("test.{level}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_controller_restarts_from_snapshot_and_log() {
    for store in [LogStoreKind::Sled, LogStoreKind::Segments] {
        let mut quorum = Quorum::new(1, store, 20).await;
        for n in 1..=50 {
            quorum.write(n).await;
        }
        quorum.stop(1).await;
        assert_eq!(snapshots(&quorum.path(1)).len(), 1, "the older ones are removed");
        quorum.start(1).await;
        let last = quorum.write(51).await;
        let image = quorum.image_at(1, last).await;
        assert!((1..=51).all(|n| level(&image, n) == n as i16));
        quorum.stop(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_got_another_offset_than_it_was_decided_for_is_void() {
    let mut quorum = Quorum::new(1, LogStoreKind::Segments, 1000).await;
    let first = quorum.write(1).await;
    assert_eq!(quorum.write_for(2, first + 1).await, first + 1);
    // The one for `first + 2` was refused, and this one was decided after it.
    assert_eq!(quorum.write_for(3, first + 3).await, first + 2);
    quorum.stop(1).await;
    quorum.start(1).await;
    let last = quorum.write(4).await;
    let image = quorum.image_at(1, last).await;
    assert_eq!([1, 2, 3, 4].map(|n| level(&image, n)), [1, 2, 0, 4]);
    quorum.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_change_loses_nothing_acknowledged() {
    let mut quorum = Quorum::new(3, LogStoreKind::Sled, 1000).await;
    for round in 0..3 {
        let mut last = 0;
        for n in 1..=10 {
            last = quorum.write(round * 10 + n).await;
        }
        let leader = quorum.leader().await;
        quorum.stop(leader).await;
        let after = quorum.write(1000 + round).await;
        assert!(after > last);
        quorum.start(leader).await;
        for id in 1..=3 {
            let image = quorum.image_at(id, after).await;
            assert!((1..=round * 10 + 10).all(|n| level(&image, n) == n as i16), "node {id} after round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_follower_catches_up_by_snapshot() {
    for store in [LogStoreKind::Sled, LogStoreKind::Segments] {
        let mut quorum = Quorum::new(3, store, 20).await;
        quorum.write(1).await;
        let leader = quorum.leader().await;
        let slow = if leader == 1 { 2 } else { 1 };
        quorum.stop(slow).await;
        let mut last = 0;
        for n in 2..=100 {
            last = quorum.write(n).await;
        }
        let leader = quorum.leader().await;
        // Snapshots are taken, and the log behind them dropped, beside the writes.
        let metrics = quorum.nodes[&leader].node.raft.metrics();
        let too_little = quorum.world.timeout(PATIENCE, async {
            while metrics.borrow_watched().purged.is_none_or(|purged| purged.index <= 20) {
                quorum.world.sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(too_little.await.is_ok(), "the log alone would do: {:?}", metrics.borrow_watched().purged);
        quorum.start(slow).await;
        let image = quorum.image_at(slow, last).await;
        assert!((1..=100).all(|n| level(&image, n) == n as i16));
        assert!(snapshots(&quorum.path(slow)).iter().all(|name| name.ends_with(".snapshot")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_cluster_is_refused() {
    let quorum = Quorum::new(1, LogStoreKind::Segments, 100).await;
    quorum.write(1).await;
    let channel = odradek_node::grpc::channel(&quorum.world, "127.0.0.1", quorum.voters[&1].port);
    let mut client = odradek_proto::raft::raft_service_client::RaftServiceClient::new(channel);
    let vote = odradek_proto::raft::Vote { term: 99, node_id: Some(2), committed: false };
    let request = odradek_proto::raft::VoteRequest {
        cluster_id: "another".to_owned(),
        vote: Some(vote),
        last_log_id: None,
        leadership_transfer: false,
    };
    let refused = client.vote(request).await.expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("another"), "{}", refused.message());
    assert!(quorum.nodes[&1].node.raft.is_leader());
}
