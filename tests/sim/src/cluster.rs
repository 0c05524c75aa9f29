//! Controllers and brokers as hosts of one simulation, and what can be done to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use odradek_common::config::{BrokerConfig, ControllerConfig};
use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_node::{Shutdown, World};

use crate::workload::History;
use crate::world::NodeWorld;

const CONTROLLER_PORT: u16 = 9192;
const BROKER_PORT: u16 = 9092;
const CLUSTER_ID: &str = "c2ltdWxhdGVkLWNsdXN0ZQ";

/// One node and what of it outlives a crash.
struct Node {
    fs: MemFs,
    world: Arc<NodeWorld>,
}

/// A simulated cluster and its clients. Times are simulated unless they say otherwise.
pub struct Cluster<'a> {
    sim: turmoil::Sim<'a>,
    nodes: BTreeMap<String, Node>,
    failure: Arc<Mutex<Option<String>>>,
    pub history: Arc<History>,
    pub rng: SplitMix64,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<String, u64>,
    clients: usize,
    brokers: usize,
    seed: u64,
}

impl<'a> Cluster<'a> {
    /// Formats and starts the nodes. `settings` (`name=value`) go to every node.
    pub fn start(seed: u64, controllers: usize, brokers: usize, settings: &[&str]) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(100_000))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(2))
            .tcp_capacity(4096)
            .enable_random_order();
        let mut cluster = Self {
            sim: builder.build(),
            nodes: BTreeMap::new(),
            failure: Arc::default(),
            history: Arc::default(),
            rng: SplitMix64::new(seed),
            faults: BTreeMap::new(),
            clients: 0,
            brokers,
            seed,
        };
        let voters: Vec<String> =
            (1..=controllers).map(|n| format!("{}@controller-{n}:{CONTROLLER_PORT}", 100 + n)).collect();
        let common = format!("controller.quorum.voters={}\n", voters.join(","));
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        for n in 1..=controllers {
            let text = format!(
                "{common}process.roles=controller\nnode.id={}\nlisteners=CONTROLLER://controller-{n}:{CONTROLLER_PORT}\n\
                 controller.listener.names=CONTROLLER\nmetadata.log.dir=/data\nlog.dirs=/data\n\
                 odradek.quorum.log.store=segments\n",
                100 + n
            );
            let settings = settings.clone();
            cluster.add_node(format!("controller-{n}"), 100 + n as i32, move |world| {
                let loaded = ControllerConfig::load(&text, "simulated", &settings);
                async move {
                    let (config, _) = loaded?;
                    odradek_controller::run(
                        world,
                        config,
                        odradek_controller::ControllerOptions::default(),
                        Shutdown::new(),
                    )
                    .await
                }
            });
        }
        for n in 1..=brokers {
            let text = format!(
                "{common}process.roles=broker\nnode.id={n}\nlisteners=PLAINTEXT://broker-{n}:{BROKER_PORT}\n\
                 controller.listener.names=CONTROLLER\nlog.dirs=/data\n"
            );
            let settings = settings.clone();
            cluster.add_node(format!("broker-{n}"), n as i32, move |world| {
                let loaded = BrokerConfig::load(&text, "simulated", &settings);
                async move {
                    let (config, _) = loaded?;
                    odradek_broker::run(world, config, Shutdown::new()).await
                }
            });
        }
        cluster
    }

    fn add_node<F>(&mut self, name: String, id: i32, software: impl Fn(World) -> F + 'a)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let fs = MemFs::new();
        let seed = self.rng.next_u64();
        let dirs = [PathBuf::from("/data")];
        format_all(&fs, &dirs, CLUSTER_ID, id, false, &mut SplitMix64::new(seed)).expect("an empty disk is formatted");
        let world = NodeWorld::new(Arc::new(fs.clone()), seed, self.failure.clone());
        let (node, failure, history) = (world.clone(), self.failure.clone(), self.history.clone());
        let host = name.clone();
        self.sim.host(name.as_str(), move || {
            let running = software(node.boot());
            let (failure, history, host) = (failure.clone(), history.clone(), host.clone());
            async move {
                history.note(format_args!("{host} starts"));
                if let Err(error) = running.await {
                    let text = format!("{host} stopped: {error:#}");
                    history.note(&text);
                    failure.lock().expect("no holder panics").get_or_insert(text);
                }
                Ok(())
            }
        });
        self.nodes.insert(name, Node { fs, world });
    }

    pub fn count_fault(&mut self, name: &str) {
        *self.faults.entry(name.to_owned()).or_default() += 1;
    }

    /// How much time has passed.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// The brokers' addresses.
    pub fn bootstrap(&self) -> Vec<(String, u16)> {
        (1..=self.brokers).map(|n| (format!("broker-{n}"), BROKER_PORT)).collect()
    }

    pub fn node_names(&self, prefix: &str) -> Vec<String> {
        self.nodes.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Runs a client to its end, at the same time as all the others.
    pub fn client<F>(&mut self, client: impl FnOnce(World) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        self.clients += 1;
        let node = NodeWorld::new(Arc::new(MemFs::new()), self.seed ^ self.clients as u64, self.failure.clone());
        self.sim.client(format!("client-{}", self.clients), async move {
            // Polled inside the host, whose clock the world then has.
            client(node.boot()).await;
            Ok(())
        });
    }

    /// Lets `duration` pass. Panics with the seed and the end of the trace when a rule is broken or a node fails.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.sim.elapsed() + duration;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Lets time pass until `done`, at most `limit`. Panics as `run_for`, and when the limit is reached.
    pub fn run_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&History) -> bool) {
        let end = self.sim.elapsed() + limit;
        while !done(&self.history) {
            if self.sim.elapsed() >= end {
                self.fail(&format!("liveness: not within {limit:?}: {what}"));
            }
            self.step();
        }
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            self.fail(&format!("a host failed: {error}"));
        }
        let failure = self.failure.lock().expect("no holder panics").clone();
        let broken = self.history.broken.lock().expect("no holder panics").first().cloned();
        if let Some(text) = failure.or(broken) {
            self.fail(&text);
        }
    }

    fn fail(&self, what: &str) -> ! {
        let trace = self.history.trace.lock().expect("no holder panics");
        let tail = trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
        panic!("seed {}: {what}\nthe end of the trace:\n{tail}", self.seed);
    }

    /// Ends a node's processes at once. What was written survives as `crash` says.
    pub fn kill(&mut self, name: &str, crash: Crash) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is killed ({crash:?})"));
        self.sim.crash(name);
        if let Some(node) = self.nodes.get(name) {
            node.fs.crash(crash, &mut self.rng);
        }
    }

    pub fn restart(&mut self, name: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is started again"));
        self.sim.bounce(name);
    }

    /// No message passes between the two until `heal`.
    pub fn part(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{a} and {b} are parted"));
        self.sim.partition(a, b);
    }

    pub fn heal(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{a} and {b} are healed"));
        self.sim.repair(a, b);
    }

    /// Moves a node's wall clock.
    pub fn skew(&mut self, name: &str, milliseconds: i64) {
        if let Some(node) = self.nodes.get(name) {
            node.world.wall_skew_ms.store(milliseconds, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The bytes of a partition's log on one broker, all segments in order.
    pub fn log_bytes(&self, broker: &str, topic: &str, partition: i32) -> Vec<u8> {
        let Some(node) = self.nodes.get(broker) else { return Vec::new() };
        let dir = PathBuf::from(format!("/data/{topic}-{partition}"));
        let segments =
            node.fs.files().into_iter().filter(|path| {
                path.parent() == Some(&dir) && path.extension().is_some_and(|extension| extension == "log")
            });
        segments.flat_map(|path| node.fs.content(&path).unwrap_or_default()).collect()
    }
    /// Whether all brokers hold the same bytes of a partition that each of them replicates. Panics when there are none.
    pub fn replicas_agree(&self, topic: &str, partition: i32) -> bool {
        let brokers = self.node_names("broker-");
        let logs: Vec<Vec<u8>> = brokers.iter().map(|broker| self.log_bytes(broker, topic, partition)).collect();
        assert!(logs.iter().any(|log| !log.is_empty()), "{topic}-{partition} has no log");
        logs.windows(2).all(|pair| pair[0] == pair[1])
    }
}
