//! One controller, from its directory to its port.
//!
//! Raft and the gRPC front run on a thread and a runtime of their own (`World::spawn_isolated`), so that nothing else in
//! this process delays a heartbeat; the decider runs beside them on the world's ordinary tasks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use odradek_common::config::ControllerConfig;
use odradek_common::meta_properties;
use odradek_controller_core::Settings;
use odradek_metadata::{Image, bootstrap};
use odradek_node::{Shutdown, World};
use tokio::sync::oneshot;
use tonic::transport::Server;

use crate::decider::{DeciderHandle, DeciderOptions, DeciderTask, decider};
use crate::grpc::{admin_service, broker_service, raft_service};
use crate::raft::types::{NodeId, Peer, WatchReceiver};
use crate::raft::{LogStoreKind, RaftNode, RaftOptions};

/// Taken by the process that uses a directory.
const LOCK_FILE: &str = ".lock";
/// A dead peer's connection is closed after the two of them. Brokers' liveness does not wait for this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a leader that is told to stop waits for another one to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked at whether a snapshot is due.
const SNAPSHOT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What a test or a simulation chooses beside the configuration.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// `None`: what the configuration says.
    pub log_store: Option<LogStoreKind>,
    /// A snapshot is taken after this many entries, whatever their size, so that a restart stays quick.
    pub snapshot_interval_entries: u64,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self { log_store: None, snapshot_interval_entries: 20_000 }
    }
}

/// Checks the directory, takes its lock, joins the quorum and serves until `shutdown`. A leader hands over first.
///
/// # Errors
/// When the directory is not this node's, is in use or damaged; when the port is taken; when Raft or its disk fails.
pub async fn run(
    world: World,
    config: ControllerConfig,
    options: ControllerOptions,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let dir = config.metadata_log_dir.clone();
    let (cluster_id, bootstrap, lock) = world
        .on_disk({
            let (fs, node_id) = (world.fs.clone(), config.node_id.0);
            move || open_dir(&*fs, &dir, node_id)
        })
        .await?;
    let raft_options = raft_options(&config, &options, cluster_id.into())?;
    let (ended, end) = oneshot::channel();
    let front = Front { world: world.clone(), config, options: raft_options, bootstrap, shutdown };
    world.spawn_isolated("controller", async move {
        let _ = ended.send(front.run().await);
    });
    let result = end.await.context("the controller's thread ended")?;
    drop(lock);
    result
}

/// The cluster's id, what it begins with if it is new, and the guard of the directory's lock.
fn open_dir(
    fs: &dyn odradek_common::fs::Fs,
    dir: &Path,
    node_id: i32,
) -> anyhow::Result<(String, Option<Image>, Box<dyn Send + Sync>)> {
    let found = meta_properties::read_all(fs, &[dir.to_owned()], node_id)?;
    let cluster_id = found.into_iter().next().map(|meta| meta.cluster_id).context("no directory is configured")?;
    match fs.lock(&dir.join(LOCK_FILE)) {
        Ok(lock) => Ok((cluster_id, bootstrap::read(fs, dir)?, lock)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            bail!("{} is in use by another process; stop that one first", dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be locked", dir.display())),
    }
}

fn raft_options(
    config: &ControllerConfig,
    options: &ControllerOptions,
    cluster_id: Arc<str>,
) -> anyhow::Result<RaftOptions> {
    let node_id = |id: i32| NodeId::try_from(id).with_context(|| format!("node.id {id} is negative"));
    let mut voters = BTreeMap::new();
    for voter in &config.voters {
        voters.insert(node_id(voter.id)?, Peer { host: voter.address.host.clone(), port: voter.address.port });
    }
    let store = match config.quorum.log_store.as_str() {
        "segments" => LogStoreKind::Segments,
        _ => LogStoreKind::Sled,
    };
    Ok(RaftOptions {
        node_id: node_id(config.node_id.0)?,
        cluster_id,
        voters,
        dir: config.metadata_log_dir.clone(),
        store: options.log_store.unwrap_or(store),
        cache_bytes: config.quorum.log_cache_bytes,
        heartbeat_interval_ms: millis(config.quorum.heartbeat_interval),
        election_timeout_ms: millis(config.quorum.election_timeout),
        snapshot_interval_entries: options.snapshot_interval_entries,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What runs on the thread of its own.
struct Front {
    world: World,
    config: ControllerConfig,
    options: RaftOptions,
    bootstrap: Option<Image>,
    shutdown: Shutdown,
}

impl Front {
    async fn run(self) -> anyhow::Result<()> {
        let address = &self.config.listener.address;
        let listener = self.world.net.bind(&address.host, address.port).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", self.config.listener))?;
        let metrics = odradek_node::metrics::bind(&self.world, self.config.metrics_listener.as_ref()).await?;
        let node = crate::raft::start(self.world.clone(), self.options.clone()).await?;
        let metrics =
            metrics.map(|listener| listener.serve(&self.world, crate::metrics::of(&node, self.options.node_id)));
        let (handle, task) = self.decider(&node);
        let (failed, failure) = oneshot::channel();
        let stop_decider = Shutdown::new();
        let stop = stop_decider.clone();
        let deciding = self.world.spawn("decider", async move {
            if let Err(fatal) = task.run(stop).await {
                let _ = failed.send(fatal);
            }
        });
        tracing::info!(
            controller = self.options.node_id, cluster = %self.options.cluster_id, listener = %self.config.listener,
            "controller started"
        );
        let incoming = odradek_node::grpc::incoming(self.world.clone(), Arc::from(listener));
        let serving = self.router(&node, &handle)?.serve_with_incoming(incoming);
        let result = tokio::select! {
            biased;
            served = serving => served.context("the gRPC server failed"),
            Ok(fatal) = failure => Err(fatal.into()),
            () = self.take_snapshots(&node) => Ok(()),
            () = async {
                self.shutdown.wait().await;
                self.hand_over(&node).await;
            } => Ok(()),
        };
        stop_decider.trigger();
        // Raft answers what it still can, and ends. Its own errors are in `result` already.
        let _ = node.raft.shutdown().await;
        deciding.abort();
        if let Some(task) = metrics {
            task.abort();
        }
        tracing::info!(controller = self.options.node_id, "controller stopped");
        result
    }

    fn decider(&self, node: &RaftNode) -> (DeciderHandle, DeciderTask) {
        let options = DeciderOptions {
            settings: Settings::from(&self.config),
            cluster_id: self.options.cluster_id.clone(),
            controllers: DeciderOptions::controllers(&self.options.voters),
            bootstrap: self.bootstrap.clone(),
            quorum_silence_max: self.config.quorum.election_timeout * 2,
        };
        decider(self.world.clone(), node.clone(), options)
    }

    fn router(&self, node: &RaftNode, handle: &DeciderHandle) -> anyhow::Result<tonic::transport::server::Router> {
        let (_, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(odradek_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let cluster_id = self.options.cluster_id.clone();
        let raft = raft_service::Service::new(
            self.world.clone(),
            node,
            self.options.node_id,
            cluster_id.clone(),
            self.options.dir.join("snapshots"),
        );
        Ok(Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(raft)
            .add_service(broker_service::Service::new(
                self.world.clone(),
                node.clone(),
                handle.clone(),
                cluster_id,
                &self.config.listener.name,
            ))
            .add_service(admin_service::Service::new(self.world.clone(), node.clone(), handle.clone()))
            .add_service(health)
            .add_service(reflection))
    }

    /// Snapshots by size and by time, as Kafka's configs have it. Ends with Raft.
    async fn take_snapshots(&self, node: &RaftNode) {
        let quorum = &self.config.quorum;
        let (mut last, mut taken_at) = (node.view.progress().offset, self.world.instant());
        let mut bytes = node.view.bytes_applied();
        loop {
            self.world.sleep(SNAPSHOT_CHECK_INTERVAL).await;
            let (offset, applied) = (node.view.progress().offset, node.view.bytes_applied());
            let elapsed = self.world.instant().saturating_since(taken_at);
            let by_time = !quorum.snapshot_interval_max.is_zero() && elapsed >= quorum.snapshot_interval_max;
            if applied - bytes < quorum.snapshot_bytes_between_max && !(by_time && offset > last) {
                continue;
            }
            if node.raft.trigger().snapshot().await.is_err() {
                // Raft has stopped, which the decider sees and reports.
                return std::future::pending().await;
            }
            (last, taken_at, bytes) = (offset, self.world.instant(), applied);
        }
    }

    /// Lets the voter that has most of the log lead, so that nobody has to notice this one's absence first.
    async fn hand_over(&self, node: &RaftNode) {
        let heir = {
            let metrics = node.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
            let progress = metrics.replication.iter().flatten();
            let others = progress.filter(|(id, _)| **id != metrics.id && voters.contains(id));
            others.filter_map(|(id, matched)| Some((matched.as_ref()?.index, *id))).max().map(|(_, id)| id)
        };
        let Some(heir) = heir else { return };
        if node.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let mut leadership = node.raft.server_metrics();
        let own = self.options.node_id;
        let handed_over = async {
            while leadership.borrow_watched().current_leader.is_none_or(|leader| leader == own) {
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        };
        match self.world.timeout(HANDOVER_TIMEOUT, handed_over).await {
            Ok(()) => tracing::info!(heir, "handed the leadership over"),
            Err(_) => tracing::warn!(heir, "nobody took the leadership over in time; the others will elect a leader"),
        }
    }
}
