//! Builds a broker from its config, runs it, and takes it down.
//!
//! Start: identity of the log directories -> logs recovered -> ports bound -> registered -> metadata followed -> caught up
//! with the registration -> serving. Stop: leaders moved away -> connections closed -> logs flushed, marked clean.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use odradek_broker_storage::{LogDirs, LogDirsConfig, OpenFiles};
use odradek_common::config::{BrokerConfig, Listener};
use odradek_common::fs::OpenMode;
use odradek_common::{BrokerEpoch, Uuid};
use odradek_node::metrics::{self, Metrics, MetricsListener};
use odradek_node::world::TaskHandle;
use odradek_node::{Shutdown, World};
use odradek_proto::metadata::Endpoint;
use tokio::sync::Notify;

use crate::api::{AllowAll, Api, Parts};
use crate::coordinators::{
    GroupCoordinators, LagBoard, LagWatch, MarkerSender, MarkerWriter, Peers, ProducerIds, TransactionCoordinators,
};
use crate::life::{self, CurrentBrokerEpoch, Incarnation, Liveness};
use crate::metadata::{
    ActiveController, ControllerClient, Follower, IsrChanges, LiveConfig, MetadataCache, ProducerIdBlocks, Publisher,
};
use crate::network::{self, BoundListener, Network};
use crate::replica::ReplicaManager;

/// When all is stopped, what still holds the log directories is waited for, for so long and so often.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// Runs a broker until `shutdown` is triggered and it has stopped cleanly.
///
/// # Errors
/// What keeps it from starting or from going on: a log directory of another node or cluster, a taken port, an id that
/// another live process has, controllers of another cluster.
pub async fn run(world: World, config: BrokerConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let broker_epoch = CurrentBrokerEpoch::default();
    let start = usize::try_from(config.node_id.0).unwrap_or(0);
    let active = ActiveController::new(config.controllers.clone(), &config.voters, start);
    let controller = ControllerClient::new(world.clone(), active);
    let metrics = metrics::bind(&world, config.metrics_listener.as_ref()).await?;
    let opened = open_logs(&world, &config, &controller, &broker_epoch).await?;
    let (replicas, dirs) = (opened.replicas.clone(), Arc::downgrade(&opened.dirs));
    // Whoever has nobody to tell does not look.
    let lag = metrics.is_some().then(LagBoard::default);
    let metrics = metrics.map(|listener| serve_metrics(&world, listener, &replicas, lag.clone().unwrap_or_default()));
    let previous_broker_epoch = opened.previous_broker_epoch;
    let joined = join(&world, &config, controller, opened, broker_epoch, lag, &shutdown).await;
    let (epoch, ended) = match joined {
        Ok(Some((running, listeners))) => (Some(running.epoch), running.until_stopped(listeners, &shutdown).await),
        Ok(None) => (previous_broker_epoch, Ok(())),
        Err(error) => (previous_broker_epoch, Err(error)),
    };
    // A log that is closed properly needs no recovery; the marker with the epoch says that nothing is missing.
    replicas.shut_down(epoch).await;
    if let Some(task) = metrics {
        task.abort();
    }
    drop(replicas);
    // Tasks that were ended drop what they hold a little later, and with the last of it the locks of the directories.
    let deadline = world.instant() + RELEASE_PATIENCE;
    while dirs.strong_count() > 0 && world.instant() < deadline {
        world.sleep(RELEASE_PAUSE).await;
    }
    if ended.is_ok() {
        tracing::info!(broker = %config.node_id, "stopped");
    }
    ended
}

/// Serves what the broker has to tell in numbers, from before it is a member of the cluster until its end.
fn serve_metrics(
    world: &World,
    listener: MetricsListener,
    replicas: &Arc<ReplicaManager>,
    lag: LagBoard,
) -> TaskHandle {
    // Who is still asking when the broker stops must not keep its directories.
    let replicas = Arc::downgrade(replicas);
    let mut metrics = Metrics::default();
    metrics.register(move || replicas.upgrade().map_or_else(Vec::new, |replicas| replicas.metrics()));
    let clock = world.clone();
    metrics.register(move || lag.metrics(clock.instant()));
    listener.serve(world, metrics)
}

/// Becomes a member of the cluster. `None`: told to stop before that.
async fn join(
    world: &World,
    config: &Arc<BrokerConfig>,
    controller: ControllerClient,
    opened: Opened,
    broker_epoch: CurrentBrokerEpoch,
    lag: Option<LagBoard>,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<(Running, Vec<BoundListener>)>> {
    let Opened { dirs, replicas, cluster_id, directory_ids, previous_broker_epoch } = opened;
    let listeners = bind_all(world, config).await?;
    let endpoints = endpoints(world, config, &listeners)?;
    let incarnation = world.random_uuid();
    let previous = previous_broker_epoch.unwrap_or(BrokerEpoch::NONE);
    let request = life::request(config, &cluster_id, incarnation, endpoints, &directory_ids, previous);
    let epoch = tokio::select! {
        biased;
        registered = life::register(world, &controller, config, request) => registered?,
        () = shutdown.wait() => return Ok(None),
    };
    broker_epoch.set(epoch);
    replicas.set_broker_epoch(epoch);
    tracing::info!(broker = %config.node_id, %epoch, cluster = cluster_id, "registered");

    let live = LiveConfig::new(config.clone());
    let (cache, stale) = (MetadataCache::default(), Arc::new(Notify::new()));
    let groups = Arc::new(GroupCoordinators::new(world.clone(), config, replicas.clone()));
    let timeout = config.network.request_timeout;
    let markers = Arc::new(MarkerWriter::new(
        world.clone(),
        config.node_id,
        cache.clone(),
        replicas.clone(),
        groups.clone(),
        timeout,
    ));
    let listener = config.inter_broker_listener.clone();
    let peers = Arc::new(Peers::new(world.clone(), cache.clone(), listener, config.node_id));
    let sender =
        MarkerSender::new(world.clone(), config.node_id, cache.clone(), markers.clone(), peers.clone(), timeout);
    let blocks = ProducerIdBlocks::new(controller.clone(), config.node_id, broker_epoch.clone());
    let producer_ids = Arc::new(ProducerIds::new(world.clone(), Arc::new(blocks)));
    let transactions =
        TransactionCoordinators::new(world.clone(), config, replicas.clone(), producer_ids.clone(), Arc::new(sender));
    let publisher =
        Arc::new(Publisher::new(cache.clone(), live.clone(), replicas.clone(), groups.clone(), transactions.clone()));
    let follower = Follower::new(
        world.clone(),
        controller.clone(),
        publisher,
        config.node_id,
        epoch,
        cluster_id.clone(),
        stale.clone(),
    );
    let follower = world.spawn("metadata follower", follower.run());
    let incarnation = Incarnation { broker_id: config.node_id, broker_epoch: epoch, incarnation };
    let active = controller.active().clone();
    let liveness = Liveness::start(world, active, incarnation, config.life.heartbeat_interval, &cache, stale);
    let lag_interval = config.groups.lag_interval;
    let lag = lag.filter(|_| !lag_interval.is_zero()).map(|board| {
        let watch = LagWatch {
            world: world.clone(),
            local: config.node_id,
            cache: cache.clone(),
            replicas: replicas.clone(),
            groups: groups.clone(),
            peers: peers.clone(),
            board,
            series_max: config.groups.lag_metrics_max,
        };
        world.spawn("lag of groups", watch.run(lag_interval))
    });
    let api = Api::new(Parts {
        world: world.clone(),
        config: config.clone(),
        live,
        cluster_id,
        cache: cache.clone(),
        controller,
        replicas: replicas.clone(),
        groups: groups.clone(),
        transactions: transactions.clone(),
        markers,
        peers,
        producer_ids,
        authorizer: Arc::new(AllowAll),
    });
    let (world, config) = (world.clone(), config.clone());
    let running =
        Running { world, config, epoch, cache, follower, liveness, api, groups, transactions, replicas, dirs, lag };
    Ok(Some((running, listeners)))
}

/// The log directories with their logs, and what they say of this node.
struct Opened {
    dirs: Arc<LogDirs>,
    replicas: Arc<ReplicaManager>,
    cluster_id: String,
    directory_ids: Vec<Uuid>,
    /// Of the last run, if it stopped cleanly and no log has lost anything since.
    previous_broker_epoch: Option<BrokerEpoch>,
}

async fn open_logs(
    world: &World,
    config: &Arc<BrokerConfig>,
    controller: &ControllerClient,
    broker_epoch: &CurrentBrokerEpoch,
) -> anyhow::Result<Opened> {
    let open_files_max = match config.log.open_files_max {
        0 => OpenFiles::COUNT_DEFAULT,
        count => count,
    };
    let dirs = config.log_dirs.clone();
    let wanted = LogDirsConfig { dirs, node_id: config.node_id, cluster_id: None, open_files_max };
    let (fs, mut rng) = (world.fs.clone(), world.rng());
    let dirs = world.on_disk(move || LogDirs::open(fs, &wanted, &mut rng)).await?;
    let cluster_id = dirs.cluster_id().to_owned();
    let directory_ids = dirs.online().map(|dir| dir.id).collect();
    let isr_changes = IsrChanges::new(controller.clone(), config.node_id, broker_epoch.clone());
    let dirs = Arc::new(dirs);
    let replicas = ReplicaManager::start(world.clone(), config.clone(), dirs.clone(), Arc::new(isr_changes)).await;
    let previous_broker_epoch = dirs.previous_broker_epoch().map(BrokerEpoch);
    Ok(Opened { dirs, replicas, cluster_id, directory_ids, previous_broker_epoch })
}

struct Running {
    world: World,
    config: Arc<BrokerConfig>,
    epoch: BrokerEpoch,
    cache: MetadataCache,
    follower: TaskHandle,
    liveness: Liveness,
    api: Arc<Api>,
    groups: Arc<GroupCoordinators>,
    transactions: Arc<TransactionCoordinators>,
    replicas: Arc<ReplicaManager>,
    dirs: Arc<LogDirs>,
    /// The task that looks at the lag of groups.
    lag: Option<TaskHandle>,
}

impl Running {
    async fn until_stopped(self, listeners: Vec<BoundListener>, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut status = self.liveness.status();
        let mut published = self.cache.subscribe_published();
        // Clients are let in once this broker knows its own registration, so that its first answers are not empty.
        tokio::select! {
            biased;
            _ = published.wait_for(|offset| *offset >= self.epoch.0) => {}
            () = shutdown.wait() => {}
        }
        let network = Network::serve(&self.world, &self.api, listeners);
        tracing::info!(broker = %self.config.node_id, "serving");
        let replaced = tokio::select! {
            biased;
            () = shutdown.wait() => None,
            status = status.wait_for(|status| status.replaced.is_some()) => {
                status.ok().and_then(|status| status.replaced.clone())
            }
            never = self.report_offline_dirs() => match never {},
            first = self.replicas.failed() => Some(format!("no log directory is usable any more; {first}")),
        };
        if replaced.is_none() {
            self.move_leaders_away().await;
        }
        network.stop();
        self.follower.abort();
        self.lag.iter().for_each(TaskHandle::abort);
        self.transactions.stop();
        self.groups.stop();
        self.liveness.stop();
        match replaced {
            None => Ok(()),
            Some(why) => anyhow::bail!("broker {} cannot go on: {why}", self.config.node_id),
        }
    }

    /// Tells the controller of log directories that fail, so that others lead what they held (KIP-858).
    async fn report_offline_dirs(&self) -> std::convert::Infallible {
        let mut failures = self.replicas.directory_failures();
        loop {
            let offline = self.dirs.dirs().filter(|dir| dir.failure().is_some()).map(|dir| dir.id).collect();
            self.liveness.set_offline_log_dirs(offline);
            if failures.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Asks the controller for leave, for at most `odradek.controlled.shutdown.timeout.ms`.
    async fn move_leaders_away(&self) {
        if !self.config.life.controlled_shutdown_enable {
            return;
        }
        tracing::info!(broker = %self.config.node_id, "controlled shutdown");
        self.liveness.ask_for_shutdown();
        let mut status = self.liveness.status();
        let may_go = status.wait_for(|status| status.should_shut_down || status.replaced.is_some());
        if self.world.timeout(self.config.life.controlled_shutdown_timeout, may_go).await.is_err() {
            tracing::warn!("the controller did not move every leader away in time; stopping all the same");
        }
    }
}

async fn bind_all(world: &World, config: &BrokerConfig) -> anyhow::Result<Vec<BoundListener>> {
    let backlog = config.network.listen_backlog;
    let mut bound = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        let address = &listener.address;
        let socket = network::bind(world, &listener.name, &address.host, address.port, backlog).await;
        bound.push(socket.with_context(|| format!("cannot listen on {listener}"))?);
    }
    Ok(bound)
}

/// What the broker tells the controller of its listeners: `advertised.listeners` with gaps filled in.
fn endpoints(world: &World, config: &BrokerConfig, bound: &[BoundListener]) -> anyhow::Result<Vec<Endpoint>> {
    let endpoint = |listener: &Listener| {
        let own = bound.iter().find(|bound| *bound.name == listener.name);
        let port = match listener.address.port {
            0 => {
                own.map(|bound| bound.port).with_context(|| format!("{listener} is advertised and not listened on"))?
            }
            port => port,
        };
        let host = match listener.address.host.as_str() {
            "" => host_name(world),
            host => host.to_owned(),
        };
        let security_protocol = listener.protocol.name().to_owned();
        Ok(Endpoint { listener: listener.name.clone(), host, port: port.into(), security_protocol })
    };
    config.advertised_listeners.iter().map(endpoint).collect()
}

/// This machine's name, as the kernel has it.
fn host_name(world: &World) -> String {
    let mut buffer = [0; 256];
    let name = world
        .fs
        .open(std::path::Path::new("/proc/sys/kernel/hostname"), OpenMode::Read)
        .and_then(|file| file.read_at(&mut buffer, 0))
        .ok()
        .and_then(|len| std::str::from_utf8(buffer.get(..len)?).ok());
    match name.map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}
