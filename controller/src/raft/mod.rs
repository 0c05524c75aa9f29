//! The quorum: openraft over our own log, state machine and network.
//!
//! [`start`] opens what is on disk and joins the quorum; it must run where the Raft tasks shall live, for openraft
//! spawns them beside it (in production a thread of their own, so that no other load delays a heartbeat). What has been
//! applied is in the [`view::MetadataView`]. Disk work goes to the world's disk pool.

pub mod convert;
pub mod log_store;
pub mod network;
pub mod pulse;
mod runtime;
pub mod segment_store;
pub mod sled_store;
pub mod snapshot;
pub mod state_machine;
pub mod types;
pub mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use odradek_node::World;
use openraft::errors::{InitializeError, RaftError};
use openraft::type_config::TypeConfigExt;
use openraft::{Config, SnapshotPolicy};

use log_store::{LogStore, RaftLog, Recovered};
use state_machine::StateMachine;
use types::{NodeId, Peer, TypeConfig};
use view::MetadataView;

pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Which disk format the log has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogStoreKind {
    #[default]
    Sled,
    Segments,
}

/// What a node of the quorum needs to know.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    pub node_id: NodeId,
    pub cluster_id: Arc<str>,
    pub voters: BTreeMap<NodeId, Peer>,
    /// Holds `raft-log/`, `raft-segments/` and `snapshots/`.
    pub dir: PathBuf,
    pub store: LogStoreKind,
    /// Of sled's page cache.
    pub cache_bytes: u64,
    pub heartbeat_interval_ms: u64,
    /// After about this time (three to nine tenths of it, drawn anew each time, on top of the leader's lease) without a
    /// sign of the leader another one is elected.
    pub election_timeout_ms: u64,
    /// A snapshot is taken after this many entries.
    pub snapshot_interval_entries: u64,
}

/// A running node.
#[derive(Clone)]
pub struct RaftNode {
    pub raft: Raft,
    pub view: Arc<MetadataView>,
    /// To be told of every message of the leader.
    pub sign: Arc<pulse::LeaderSign>,
}

fn config(options: &RaftOptions) -> anyhow::Result<Config> {
    // A follower waits for the leader's lease (`election_timeout_max`) and then for a random time between the two, so
    // the sum lies between 0.75 and 0.9 of what is configured.
    let election_timeout_max = (options.election_timeout_ms * 45 / 100).max(2);
    let election_timeout_min = (options.election_timeout_ms * 30 / 100).max(1);
    #[allow(clippy::needless_update)]
    let config = Config {
        cluster_name: options.cluster_id.to_string(),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min,
        election_timeout_max,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 256,
        max_append_entries: Some(256),
        replication_lag_threshold: options.snapshot_interval_entries * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_interval_entries),
        max_in_snapshot_log_to_keep: options.snapshot_interval_entries / 4,
        purge_batch_size: 1,
        enable_pre_vote: Some(true),
        // A restarted leader would otherwise go on in its old term, whose decisions it has forgotten.
        enable_leader_restore: Some(false),
        // A controller whose disk was replaced comes back empty under its id, as with Kafka's fixed voters. The leader has
        // to teach it from the start; otherwise it would take the follower to have all that it once acknowledged.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    config.validate().context(
        "the election timeout must be at least five times the heartbeat interval \
         (`controller.quorum.election.timeout.ms`, `odradek.quorum.heartbeat.interval.ms`)",
    )
}

fn open_store(
    world: &World,
    dir: &Path,
    kind: LogStoreKind,
    cache_bytes: u64,
) -> std::io::Result<(Arc<dyn LogStore>, Recovered)> {
    Ok(match kind {
        LogStoreKind::Sled => {
            let (store, recovered) = sled_store::SledStore::open(world.fs.clone(), &dir.join("raft-log"), cache_bytes)?;
            (Arc::new(store), recovered)
        }
        LogStoreKind::Segments => {
            let (store, recovered) = segment_store::SegmentStore::open(world.fs.clone(), &dir.join("raft-segments"))?;
            (Arc::new(store), recovered)
        }
    })
}

/// Opens the log and the snapshots, and joins the quorum. A new quorum is formed of the configured voters; each of them
/// proposes the same, so it does not matter who is first.
///
/// # Errors
/// When something on disk is damaged or of an unknown format, or the options contradict each other.
pub async fn start(world: World, options: RaftOptions) -> anyhow::Result<RaftNode> {
    runtime::seed(world.entropy.next_u64() ^ options.node_id);
    let config = Arc::new(config(&options)?);
    let (store, recovered) = world
        .on_disk({
            let (world, dir) = (world.clone(), options.dir.clone());
            let (kind, cache_bytes) = (options.store, options.cache_bytes);
            move || open_store(&world, &dir, kind, cache_bytes)
        })
        .await
        .context("the Raft log cannot be opened")?;
    let log = RaftLog::new(world.clone(), store, recovered);
    let machine = StateMachine::open(world.clone(), options.dir.join("snapshots")).await?;
    let view = machine.view();
    let network = network::Network::new(world.clone(), options.cluster_id.clone());
    let raft = Raft::new(options.node_id, config, network, log, machine).await.context("Raft does not start")?;
    match raft.initialize(options.voters.clone()).await {
        Ok(()) => tracing::info!(voters = ?options.voters.keys().collect::<Vec<_>>(), "formed the controller quorum"),
        // Not the first start, or another voter was faster.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(error).context("the controller quorum cannot be formed"),
    }
    let sign = Arc::new(pulse::LeaderSign::default());
    let pulse = pulse::Pulse {
        world,
        raft: raft.clone(),
        sign: sign.clone(),
        heartbeat_interval: Duration::from_millis(options.heartbeat_interval_ms),
        quiet: Duration::from_millis(options.election_timeout_ms / 2),
    };
    // Beside Raft's own tasks.
    drop(TypeConfig::spawn(pulse.run()));
    Ok(RaftNode { raft, view, sign })
}
