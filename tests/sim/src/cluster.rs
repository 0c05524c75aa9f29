//! Controllers and brokers as hosts of one simulation, and what can be done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
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

/// The bounds of how long a message is under way, when nothing is wrong.
const LATENCY_MIN: Duration = Duration::from_micros(100);
const LATENCY_MAX: Duration = Duration::from_millis(2);

/// Of how many and how large parts a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub controllers: usize,
    pub brokers: usize,
    /// How many `log.dirs` each broker has.
    pub log_dirs: usize,
    /// A controller writes a snapshot after so many entries.
    pub snapshot_interval_entries: u64,
}

impl Shape {
    /// Three or five controllers, three brokers of one or two log directories.
    pub fn drawn(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed ^ 0x7368_6170_6521);
        Self {
            controllers: if rng.below(4) == 0 { 5 } else { 3 },
            brokers: 3,
            log_dirs: 1 + rng.below(2) as usize,
            snapshot_interval_entries: 20 + rng.below(100),
        }
    }
}

/// How a node runs.
#[derive(Default)]
struct Process {
    /// It may stop by itself: a fault is under way after which that is right.
    may_stop: AtomicBool,
    /// Why it did, until it is started again.
    stopped: Mutex<Option<String>>,
    /// Asks the present life to stop properly.
    shutdown: Mutex<Shutdown>,
}

/// One node and what of it outlives a crash.
struct Node {
    id: i32,
    fs: MemFs,
    world: Arc<NodeWorld>,
    process: Arc<Process>,
    dirs: Vec<PathBuf>,
    is_up: bool,
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
    /// Nodes whose records may be damaged: they may differ from the others, but never spread or serve it.
    damaged: BTreeSet<String>,
    /// Nodes that a fault is at work on.
    busy: BTreeSet<String>,
    clients: usize,
    twins: usize,
    shape: Shape,
    /// The lines that all nodes' configurations have.
    common: String,
    settings: Vec<String>,
    seed: u64,
}

impl<'a> Cluster<'a> {
    /// Formats and starts the nodes, of one log directory each. `settings` (`name=value`) go to every node.
    pub fn start(seed: u64, controllers: usize, brokers: usize, settings: &[&str]) -> Self {
        let shape = Shape { controllers, brokers, log_dirs: 1, snapshot_interval_entries: 20_000 };
        Self::of_shape(seed, shape, settings)
    }

    /// As `start`, of a shape.
    pub fn of_shape(seed: u64, shape: Shape, settings: &[&str]) -> Self {
        crate::stall::clear();
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(100_000))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(4096)
            .enable_random_order();
        let voters: Vec<String> =
            (1..=shape.controllers).map(|n| format!("{}@controller-{n}:{CONTROLLER_PORT}", 100 + n)).collect();
        let mut cluster = Self {
            sim: builder.build(),
            nodes: BTreeMap::new(),
            failure: Arc::default(),
            history: Arc::default(),
            rng: SplitMix64::new(seed),
            faults: BTreeMap::new(),
            damaged: BTreeSet::new(),
            busy: BTreeSet::new(),
            clients: 0,
            twins: 0,
            shape,
            common: format!("controller.quorum.voters={}\n", voters.join(",")),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            seed,
        };
        for n in 1..=shape.controllers {
            let fs = MemFs::new();
            cluster.format(&fs, 100 + n as i32, &[PathBuf::from("/data")]);
            cluster.add_controller(&format!("controller-{n}"), 100 + n as i32, fs);
        }
        for n in 1..=shape.brokers {
            let (fs, dirs) = (MemFs::new(), cluster.log_dirs());
            cluster.format(&fs, n as i32, &dirs);
            cluster.add_broker(&format!("broker-{n}"), n as i32, fs);
        }
        cluster
    }

    fn log_dirs(&self) -> Vec<PathBuf> {
        let name = |n| if n == 1 { PathBuf::from("/data") } else { PathBuf::from(format!("/data-{n}")) };
        (1..=self.shape.log_dirs).map(name).collect()
    }

    fn format(&mut self, fs: &MemFs, id: i32, dirs: &[PathBuf]) {
        let mut rng = SplitMix64::new(self.rng.next_u64());
        format_all(fs, dirs, CLUSTER_ID, id, false, &mut rng).expect("an empty disk is formatted");
    }

    fn add_controller(&mut self, name: &str, id: i32, fs: MemFs) {
        let text = format!(
            "{}process.roles=controller\nnode.id={id}\nlisteners=CONTROLLER://{name}:{CONTROLLER_PORT}\n\
             controller.listener.names=CONTROLLER\nmetadata.log.dir=/data\nlog.dirs=/data\n\
             odradek.quorum.log.store=segments\n",
            self.common
        );
        let (settings, snapshot_interval_entries) = (self.settings.clone(), self.shape.snapshot_interval_entries);
        self.add_node(name, id, fs, vec![PathBuf::from("/data")], move |world, shutdown| {
            let loaded = ControllerConfig::load(&text, "simulated", &settings);
            let options = odradek_controller::ControllerOptions { log_store: None, snapshot_interval_entries };
            async move {
                let (config, _) = loaded?;
                odradek_controller::run(world, config, options, shutdown).await
            }
        });
    }

    fn add_broker(&mut self, name: &str, id: i32, fs: MemFs) {
        let dirs = self.log_dirs();
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let text = format!(
            "{}process.roles=broker\nnode.id={id}\nlisteners=PLAINTEXT://{name}:{BROKER_PORT}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n",
            self.common,
            names.join(",")
        );
        let settings = self.settings.clone();
        self.add_node(name, id, fs, dirs, move |world, shutdown| {
            let loaded = BrokerConfig::load(&text, "simulated", &settings);
            async move {
                let (config, _) = loaded?;
                odradek_broker::run(world, config, shutdown).await
            }
        });
    }

    fn add_node<F>(
        &mut self,
        name: &str,
        id: i32,
        fs: MemFs,
        dirs: Vec<PathBuf>,
        software: impl Fn(World, Shutdown) -> F + 'a,
    ) where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let seed = self.rng.next_u64();
        let world = NodeWorld::new(Arc::new(fs.clone()), seed, self.failure.clone());
        let process = Arc::new(Process::default());
        let (node, failure, history) = (world.clone(), self.failure.clone(), self.history.clone());
        let (host, life) = (name.to_owned(), process.clone());
        self.sim.host(name, move || {
            let shutdown = Shutdown::new();
            *life.shutdown.lock().expect("no holder panics") = shutdown.clone();
            let running = node.gate.clone().pass(software(node.boot(), shutdown.clone()));
            let (failure, history, host, life) = (failure.clone(), history.clone(), host.clone(), life.clone());
            async move {
                history.note(format_args!("{host} starts"));
                let outcome = running.await;
                let text = match &outcome {
                    Ok(()) => format!("{host} has stopped as it was told"),
                    Err(error) => format!("{host} stopped: {error:#}"),
                };
                history.note(&text);
                let leaves = history.leaving.lock().expect("no holder panics").contains(&host);
                if leaves {
                    history.left.lock().expect("no holder panics").insert(host);
                }
                let is_right = leaves || shutdown.is_triggered() || life.may_stop.load(Ordering::Relaxed);
                if outcome.is_err() && !is_right {
                    failure.lock().expect("no holder panics").get_or_insert(text.clone());
                }
                *life.stopped.lock().expect("no holder panics") = Some(text);
                // The rest of the process ends from outside, at the next step.
                std::future::pending().await
            }
        });
        self.nodes.insert(name.to_owned(), Node { id, fs, world, process, dirs, is_up: true });
    }

    pub fn count_fault(&mut self, name: &str) {
        *self.faults.entry(name.to_owned()).or_default() += 1;
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How much time has passed.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// The brokers' addresses.
    pub fn bootstrap(&self) -> Vec<(String, u16)> {
        (1..=self.shape.brokers).map(|n| (format!("broker-{n}"), BROKER_PORT)).collect()
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
        self.end_stopped();
        let failure = self.failure.lock().expect("no holder panics").clone();
        let broken = self.history.broken.lock().expect("no holder panics").first().cloned();
        if let Some(text) = failure.or(broken) {
            self.fail(&text);
        }
    }

    /// Ends the run: a rule is broken. Panics with the seed and the end of the trace.
    pub fn fail(&self, what: &str) -> ! {
        // The lock is free again when this panics: the trace is still to be reported.
        let trace = self.history.trace.lock().expect("no holder panics").clone();
        let tail = trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
        panic!("seed {}: {what}\nthe end of the trace:\n{tail}", self.seed);
    }

    /// Ends what is left of the processes that have stopped by themselves: their sockets are closed, their memory is gone.
    fn end_stopped(&mut self) {
        for (name, node) in &mut self.nodes {
            if node.is_up && node.process.stopped.lock().expect("no holder panics").is_some() {
                node.is_up = false;
                self.sim.crash(name.as_str());
                node.fs.crash(Crash::Process, &mut self.rng);
            }
        }
    }

    /// Ends a node's processes at once. What was written survives as `crash` says.
    pub fn kill(&mut self, name: &str, crash: Crash) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is killed ({crash:?})"));
        self.sim.crash(name);
        if let Some(node) = self.nodes.get_mut(name) {
            node.is_up = false;
            node.fs.crash(crash, &mut self.rng);
        }
    }

    /// Starts a node that is down.
    pub fn restart(&mut self, name: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is started again"));
        self.history.left.lock().expect("no holder panics").remove(name);
        if let Some(node) = self.nodes.get_mut(name) {
            node.is_up = true;
            node.world.gate.open();
            *node.process.stopped.lock().expect("no holder panics") = None;
        }
        self.sim.bounce(name);
    }

    /// Tells a node to stop properly, as by SIGTERM, and waits until it has; after `patience` it is killed.
    pub fn shut_down(&mut self, name: &str, patience: Duration) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is told to stop"));
        let Some(node) = self.nodes.get(name) else { return };
        node.process.shutdown.lock().expect("no holder panics").trigger();
        let end = self.sim.elapsed() + patience;
        while self.is_up(name) && self.sim.elapsed() < end {
            self.step();
        }
        if self.is_up(name) {
            self.kill(name, Crash::Process);
        }
    }

    /// Whether the node's process runs.
    pub fn is_up(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.is_up)
    }

    /// Whether the node may stop by itself from now on, or whether that is a failure of the run.
    pub fn let_stop(&self, name: &str, may: bool) {
        if let Some(node) = self.nodes.get(name) {
            node.process.may_stop.store(may, Ordering::Relaxed);
        }
    }

    /// Why a node stopped by itself, if it has and was not started again.
    pub fn stopped(&self, name: &str) -> Option<String> {
        self.nodes.get(name)?.process.stopped.lock().expect("no holder panics").clone()
    }

    /// Everything of the node stands still until `resume`.
    pub fn pause(&self, name: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} is paused"));
        if let Some(node) = self.nodes.get(name) {
            node.world.gate.shut();
        }
    }

    pub fn resume(&self, name: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} goes on"));
        if let Some(node) = self.nodes.get(name) {
            node.world.gate.open();
        }
    }

    /// No message passes between the two until `heal`.
    pub fn part(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{a} and {b} are parted"));
        self.sim.partition(a, b);
    }

    /// No message passes from one to the other until `heal`; the other way all is well.
    pub fn part_one_way(&mut self, from: &str, to: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{from} is not heard by {to}"));
        self.sim.partition_oneway(from, to);
    }

    pub fn heal(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{a} and {b} are healed"));
        self.sim.repair(a, b);
    }

    /// Messages between the two are kept back until `release`, which delivers them at once.
    pub fn hold(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("messages between {a} and {b} are held"));
        self.sim.hold(a, b);
    }

    pub fn release(&mut self, a: &str, b: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("messages between {a} and {b} are released"));
        self.sim.release(a, b);
    }

    /// How long messages between the two are under way: between so long and so long; `None`: as ever.
    pub fn set_latency(&mut self, a: &str, b: &str, bounds: Option<(Duration, Duration)>) {
        let (min, max) = bounds.unwrap_or((LATENCY_MIN, LATENCY_MAX));
        self.sim.set_link_latency(a, b, min);
        self.sim.set_link_max_message_latency(a, b, max);
    }

    /// How many of the messages between the two are lost, each with all that is under way beside it. A connection that
    /// lost one is silent from then on.
    pub fn set_loss(&mut self, a: &str, b: &str, rate: f64) {
        self.sim.set_link_fail_rate(a, b, rate);
        if rate == 0.0 {
            self.sim.repair(a, b);
        }
    }

    /// The hosts that are clients.
    pub fn client_names(&self) -> Vec<String> {
        (1..=self.clients).map(|n| format!("client-{n}")).collect()
    }

    /// Starts another process of a node's id on a disk of its own: a copy of the node's as it is now, or of `old`. It may
    /// stop by itself. Answers its name.
    pub fn start_twin(&mut self, name: &str, old: Option<MemFs>) -> String {
        let node = self.nodes.get(name).expect("a node of the cluster");
        let (id, fs) = (node.id, old.unwrap_or_else(|| node.fs.copy()));
        self.twins += 1;
        let twin = format!("twin-{}-of-{name}", self.twins);
        self.history.note_at(self.sim.elapsed(), format_args!("{twin} is started"));
        match name.starts_with("controller-") {
            true => self.add_controller(&twin, id, fs),
            false => self.add_broker(&twin, id, fs),
        }
        self.let_stop(&twin, true);
        twin
    }

    /// `from` finds its sockets to `to` full until `go_on`.
    pub fn hold_sending(&self, from: &str, to: &str) {
        self.note(format_args!("{from} sends nothing to {to}"));
        crate::stall::hold(self.sim.lookup(from), self.sim.lookup(to));
    }

    pub fn go_on(&self, from: &str, to: &str) {
        self.note(format_args!("{from} sends to {to} again"));
        crate::stall::release(self.sim.lookup(from), self.sim.lookup(to));
    }

    /// Whether something waits to be sent that `hold_sending` holds back.
    pub fn is_held(&self, from: &str, to: &str) -> bool {
        crate::stall::is_waiting(self.sim.lookup(from), self.sim.lookup(to))
    }

    /// As `run_until`, of the cluster itself, within a minute.
    pub fn run_until_so(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        if !self.wait_for(Duration::from_secs(60), |cluster| is_so(cluster)) {
            self.fail(&format!("liveness: not within a minute: {what}"));
        }
    }

    /// The disk of a node that is down is replaced by an empty, formatted one.
    pub fn replace_disk(&mut self, name: &str) {
        self.history.note_at(self.sim.elapsed(), format_args!("{name} gets an empty disk"));
        let Some(node) = self.nodes.get(name) else { return };
        let (fs, id, dirs) = (node.fs.clone(), node.id, node.dirs.clone());
        fs.wipe();
        fs.set_fault(None);
        fs.set_capacity(None);
        self.format(&fs, id, &dirs);
        self.damaged.remove(name);
    }

    /// The disk of a node.
    pub fn disk(&self, name: &str) -> MemFs {
        self.nodes.get(name).map(|node| node.fs.clone()).unwrap_or_default()
    }

    /// The `log.dirs` of a node.
    pub fn dirs_of(&self, name: &str) -> Vec<PathBuf> {
        self.nodes.get(name).map(|node| node.dirs.clone()).unwrap_or_default()
    }

    /// Makes disk work of a node take longer.
    pub fn slow_disk(&self, name: &str, delay: Duration) {
        self.history.note_at(self.sim.elapsed(), format_args!("the disk of {name} takes {delay:?} more"));
        if let Some(node) = self.nodes.get(name) {
            node.world.disk_delay_micros.store(delay.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// The clocks of a node run too fast by so many millionths, from its next start on.
    pub fn set_drift(&self, name: &str, ppm: i64) {
        self.history.note_at(self.sim.elapsed(), format_args!("the clock of {name} drifts by {ppm} ppm"));
        if let Some(node) = self.nodes.get(name) {
            node.world.drift_ppm.store(ppm, Ordering::Relaxed);
        }
    }

    /// Says that what a node has stored may be wrong.
    pub fn mark_damaged(&mut self, name: &str) {
        self.damaged.insert(name.to_owned());
    }

    /// Whether what the node has stored may be wrong: it may differ from the other replicas then, and may be unable to
    /// serve some of it, until `replace_disk`.
    pub fn damaged(&self, name: &str) -> bool {
        self.damaged.contains(name)
    }

    /// Takes a node for a fault alone, or gives it back.
    pub fn set_busy(&mut self, name: &str, is_busy: bool) {
        match is_busy {
            true => drop(self.busy.insert(name.to_owned())),
            false => drop(self.busy.remove(name)),
        }
    }

    /// Whether a fault has the node.
    pub fn is_busy(&self, name: &str) -> bool {
        self.busy.contains(name)
    }

    pub fn note(&self, event: impl std::fmt::Display) {
        self.history.note_at(self.sim.elapsed(), event);
    }

    /// Lets time pass until `done` says so, at most `limit`; whether it did.
    pub fn wait_for(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.sim.elapsed() + limit;
        while !done(self) {
            if self.sim.elapsed() >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// Waits until each partition has all its replicas in sync, as the brokers tell it. Liveness: at most `limit`.
    pub fn await_full_isr(&mut self, limit: Duration) {
        let (hosts, done) = (self.bootstrap(), Arc::new(AtomicBool::new(false)));
        let (finished, history) = (done.clone(), self.history.clone());
        self.client(move |world| async move {
            let has_left = |host: &str| history.left.lock().expect("no holder panics").contains(host);
            crate::client::until_in_sync(&world, &hosts, has_left).await;
            finished.store(true, Ordering::Relaxed);
        });
        self.run_until("every replica is in sync", limit, |_| done.load(Ordering::Relaxed));
    }

    /// Moves a node's wall clock.
    pub fn skew(&mut self, name: &str, milliseconds: i64) {
        self.history.note_at(self.sim.elapsed(), format_args!("the clock of {name} is {milliseconds} ms off"));
        if let Some(node) = self.nodes.get(name) {
            node.world.wall_skew_ms.store(milliseconds, Ordering::Relaxed);
        }
    }

    /// The bytes of a partition's log on one broker, all segments in order.
    pub fn log_bytes(&self, broker: &str, topic: &str, partition: i32) -> Vec<u8> {
        let Some(node) = self.nodes.get(broker) else { return Vec::new() };
        let name = format!("{topic}-{partition}");
        // Without its topic's id a log is left alone: it may be of another topic, and nobody reads it.
        let has_id = |dir: &PathBuf| node.fs.content(&dir.join("partition.metadata")).is_ok_and(|id| !id.is_empty());
        let dirs: Vec<PathBuf> = node.dirs.iter().map(|dir| dir.join(&name)).filter(has_id).collect();
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        let segments = node
            .fs
            .files()
            .into_iter()
            .filter(|path| dirs.iter().any(|dir| path.parent() == Some(dir)) && is_log(path));
        segments.flat_map(|path| node.fs.content(&path).unwrap_or_default()).collect()
    }

    /// Whether all brokers hold the same bytes of a partition that each of them replicates; those whose disk is damaged
    /// are left out. Panics when there are none.
    pub fn replicas_agree(&self, topic: &str, partition: i32) -> bool {
        let mut brokers = self.node_names("broker-");
        brokers.retain(|broker| !self.damaged(broker));
        let logs: Vec<Vec<u8>> = brokers.iter().map(|broker| self.log_bytes(broker, topic, partition)).collect();
        assert!(logs.iter().any(|log| !log.is_empty()), "{topic}-{partition} has no log");
        logs.windows(2).all(|pair| pair[0] == pair[1])
    }
}
