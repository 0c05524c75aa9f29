//! Whole clusters of real processes in a directory of their own.
//!
//! `Spec::new(3, 3).run(|cluster| ...)` formats storage, starts every node, waits until all brokers are known and
//! answer, runs the body, and stops everything. When the body fails or panics, the last lines of each node's log are
//! printed and the directory is kept. Nodes are named as `deploy/cluster` names them: `controller-1` has node id 101,
//! `broker-1` node id 1.
//!
//! With `ODRADEK_TEST_ATTACH=HOST:PORT,...` the body runs against that cluster instead, of whatever make; with
//! `ODRADEK_TEST_ATTACH_DIR` (holding `<node>/pid`) its nodes can be killed too. So the tests themselves can be tested
//! against another implementation of the protocol.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::client::{Client, Connection};
use crate::faults::Network;
use crate::process::{self, Process};
use crate::wait_for;

/// A cluster serves within this, on a machine that builds something else at the same time.
const START_LIMIT: Duration = Duration::from_secs(30);
/// An orderly stop is done within this.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Lines of each log that are shown when a test fails.
const LOG_LINES: usize = 40;

/// The directory with the binaries under test.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("ODRADEK_BIN_DIR").map_or_else(|| repository().join("target/release"), PathBuf::from)
}

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository").to_owned()
}

/// One of the product's programs.
pub fn program(name: &str) -> Command {
    program_in(&bin_dir(), name)
}

fn program_in(bin: &Path, name: &str) -> Command {
    let path = bin.join(name);
    assert!(path.is_file(), "{} is missing: build it (cargo build --release) or set ODRADEK_BIN_DIR", path.display());
    let mut command = Command::new(path);
    command.env("RUST_BACKTRACE", "1");
    command
}

/// A port of the loopback interface that nobody listens on. Below the range from which the kernel takes ports for
/// outgoing connections, so that a node that is down does not lose its port to one.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() as u16).wrapping_mul(97);
    for _ in 0..COUNT {
        let port = FIRST + spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The first of `count` (100 at most) neighbouring free ports that also has `count` free ones 100, 200 and 300 above. None is
/// one that [`free_port`] gives.
pub fn free_port_range(count: u16) -> u16 {
    const FIRST: u16 = 28_000;
    const RANGES: u16 = 11;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() as u16).wrapping_mul(7);
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..RANGES {
        let first = FIRST + spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % RANGES * 400;
        // Brokers, controllers, and the metrics of both.
        if (0..count).all(|i| (0..4).all(|kind| is_free(first + kind * 100 + i))) {
            return first;
        }
    }
    panic!("no {count} neighbouring free ports from {FIRST}");
}

// ---------------------------------------------------------------- how many at once

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a cluster. As many as `ODRADEK_TEST_CLUSTERS` says (1 when unset) run at a time.
#[derive(Debug)]
pub struct Permit(());

impl Permit {
    pub fn take() -> Self {
        let most = std::env::var("ODRADEK_TEST_CLUSTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1);
        let mut running = RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= most {
            running = RUNNING.1.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Self(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.1.notify_one();
    }
}

// ---------------------------------------------------------------- what to start

#[derive(Clone, Debug)]
pub struct Spec {
    controllers: u16,
    brokers: u16,
    properties: Vec<(String, String)>,
    broker_properties: Vec<(i32, String, String)>,
    proxied: bool,
}

impl Spec {
    pub fn new(controllers: u16, brokers: u16) -> Self {
        Self { controllers, brokers, properties: Vec::new(), broker_properties: Vec::new(), proxied: false }
    }

    /// A property of every node.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.properties.push((name.to_owned(), value.to_string()));
        self
    }

    /// A property of one broker.
    pub fn set_broker(mut self, id: i32, name: &str, value: impl ToString) -> Self {
        self.broker_properties.push((id, name.to_owned(), value.to_string()));
        self
    }

    /// Puts a proxy in front of each node, for `Cluster::isolate` and `Cluster::network`.
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Starts the cluster, runs `body`, checks that no node panicked, and stops it all.
    pub fn run(self, body: impl FnOnce(&Cluster) -> anyhow::Result<()>) {
        let permit = Permit::take();
        let cluster = self.start(permit).unwrap_or_else(|error| panic!("the cluster did not start: {error:#}"));
        let outcome = body(&cluster).and_then(|()| cluster.check_logs());
        if let Err(error) = outcome {
            cluster.keep_evidence();
            panic!("{error:#}");
        }
    }

    /// As [`Spec::run`], of a cluster whose storage `prepare` makes ready, from the files of the nodes that are laid out.
    pub fn run_prepared(
        self,
        prepare: impl FnOnce(&Cluster) -> anyhow::Result<()>,
        body: impl FnOnce(&Cluster) -> anyhow::Result<()>,
    ) {
        let permit = Permit::take();
        let cluster = Cluster::lay_out(&self, permit).unwrap_or_else(|error| panic!("{error:#}"));
        let started = prepare(&cluster).and_then(|()| cluster.start_all()).and_then(|()| cluster.wait_served());
        let outcome = started.and_then(|()| body(&cluster)).and_then(|()| cluster.check_logs());
        if let Err(error) = outcome {
            cluster.keep_evidence();
            panic!("{error:#}");
        }
    }

    fn start(self, permit: Permit) -> anyhow::Result<Cluster> {
        if let Ok(bootstrap) = std::env::var("ODRADEK_TEST_ATTACH") {
            return Cluster::attach(bootstrap, &self, permit);
        }
        let mut cluster = Cluster::lay_out(&self, permit)?;
        cluster.format()?;
        let started = cluster.start_all().and_then(|()| cluster.wait_served());
        if let Err(error) = started {
            cluster.keep_evidence();
            return Err(error);
        }
        cluster.spec = self;
        Ok(cluster)
    }
}

// ---------------------------------------------------------------- nodes

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Controller,
    Broker,
}

/// One node: its files, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub id: i32,
    pub role: Role,
    /// Where it listens itself (a proxy may stand before it).
    pub address: String,
    /// Holds `server.properties`, `log`, `data/`.
    pub dir: PathBuf,
    /// Where its program is, if not in `bin_dir()`.
    bin: Mutex<Option<PathBuf>>,
    /// The network that it is in, and its place there.
    seat: Option<(Arc<Network>, usize)>,
    process: Mutex<Option<Process>>,
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where others reach it.
    pub fn advertised(&self) -> &str {
        self.seat.as_ref().map_or(&self.address, |(network, place)| network.address(*place))
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// Its `log.dirs`.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    pub fn is_running(&self) -> bool {
        match self.process().as_mut() {
            Some(process) => process.exited().is_none(),
            None => self.stranger().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        match self.process().as_ref() {
            Some(process) => Some(process.pid()),
            None => self.stranger(),
        }
    }

    /// The process of a node of a cluster that was not started here.
    fn stranger(&self) -> Option<u32> {
        fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()
    }

    /// The command that runs this node.
    pub fn command(&self) -> Command {
        let name = match self.role {
            Role::Controller => "odradek-controller",
            Role::Broker => "odradek-broker",
        };
        let bin = self.bin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut command = program_in(&bin.unwrap_or_else(bin_dir), name);
        command.arg("--config").arg(self.config());
        command
    }

    /// Has it run the program of this directory from its next start on.
    pub fn set_bin(&self, bin: &Path) {
        *self.bin.lock().unwrap_or_else(PoisonError::into_inner) = Some(bin.to_owned());
    }

    /// Starts it; does nothing when it runs.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut process = self.process();
        if process.as_mut().is_none_or(|process| process.exited().is_some()) {
            let started = Process::start(self.command(), &self.dir.join("log"))?;
            if let Some((network, place)) = &self.seat {
                network.set_pid(*place, started.pid());
            }
            *process = Some(started);
        }
        Ok(())
    }

    /// SIGKILL: gone at once.
    pub fn kill(&self) -> anyhow::Result<()> {
        match self.process().take() {
            Some(mut process) => process.kill(),
            None => self.signal_stranger(Signal::KILL)?,
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) -> anyhow::Result<ExitStatus> {
        let mut process = self.process().take().with_context(|| format!("{} does not run", self.name))?;
        process.signal(Signal::TERM)?;
        process.wait(STOP_LIMIT).with_context(|| format!("stop {}", self.name))
    }

    /// SIGSTOP: alive, and silent.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until the process has exited by itself.
    pub fn wait_exit(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let mut process = self.process().take().with_context(|| format!("{} does not run", self.name))?;
        process.wait(limit).with_context(|| self.name.clone())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        match self.process().as_mut() {
            Some(process) => process.signal(signal),
            None => self.signal_stranger(signal),
        }
    }

    fn signal_stranger(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.stranger().with_context(|| format!("{} does not run", self.name))?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? << 10)
    }
}

// ---------------------------------------------------------------- clusters

#[derive(Debug)]
pub struct Cluster {
    // Before `dir`, so that processes are gone when their files go.
    nodes: Vec<Node>,
    network: Option<Arc<Network>>,
    bootstrap: String,
    pub cluster_id: String,
    dir: Option<tempfile::TempDir>,
    spec: Spec,
    _permit: Permit,
}

impl Cluster {
    fn lay_out(spec: &Spec, permit: Permit) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("odradek-test-").tempdir()?;
        let node = |role, number: u16| {
            let (word, id) = match role {
                Role::Controller => ("controller", 100 + i32::from(number)),
                Role::Broker => ("broker", i32::from(number)),
            };
            let name = format!("{word}-{number}");
            let (address, dir) = (format!("127.0.0.1:{}", free_port()), dir.path().join(&name));
            Node { name, id, role, address, dir, bin: Mutex::default(), seat: None, process: Mutex::default() }
        };
        let mut nodes: Vec<Node> = (1..=spec.controllers).map(|number| node(Role::Controller, number)).collect();
        nodes.extend((1..=spec.brokers).map(|number| node(Role::Broker, number)));
        let mut cluster = Self {
            nodes,
            network: None,
            bootstrap: String::new(),
            cluster_id: random_uuid()?,
            dir: Some(dir),
            spec: spec.clone(),
            _permit: permit,
        };
        if spec.proxied {
            let target = |node: &Node| (node.name.clone(), free_port(), node.address.clone());
            let network = Arc::new(Network::start(&cluster.nodes.iter().map(target).collect::<Vec<_>>())?);
            for (place, node) in cluster.nodes.iter_mut().enumerate() {
                node.seat = Some((network.clone(), place));
            }
            cluster.network = Some(network);
        }
        let advertised: Vec<String> = cluster.brokers().map(|broker| broker.advertised().to_owned()).collect();
        cluster.bootstrap = advertised.join(",");
        for node in &cluster.nodes {
            fs::create_dir_all(&node.dir)?;
            fs::write(node.config(), cluster.properties(spec, node))?;
        }
        Ok(cluster)
    }

    fn attach(bootstrap: String, spec: &Spec, permit: Permit) -> anyhow::Result<Self> {
        let dir = PathBuf::from(std::env::var_os("ODRADEK_TEST_ATTACH_DIR").unwrap_or_default());
        let nodes = bootstrap.split(',').zip(1..).map(|(address, id)| {
            let (name, address) = (format!("broker-{id}"), address.to_owned());
            let dir = dir.join(&name);
            let (bin, process) = (Mutex::default(), Mutex::default());
            Node { name, id, role: Role::Broker, address, dir, bin, seat: None, process }
        });
        let nodes: Vec<Node> = nodes.collect();
        Ok(Self {
            nodes,
            network: None,
            bootstrap,
            cluster_id: String::new(),
            dir: None,
            spec: spec.clone(),
            _permit: permit,
        })
    }

    /// Whether it was started elsewhere, so that its files and restarts are out of reach.
    pub fn is_attached(&self) -> bool {
        self.dir.is_none()
    }

    /// `id@host:port,...` as all nodes are to reach the controllers.
    pub fn voters(&self) -> String {
        let each = self.controllers().map(|controller| format!("{}@{}", controller.id, controller.advertised()));
        each.collect::<Vec<_>>().join(",")
    }

    fn properties(&self, spec: &Spec, node: &Node) -> String {
        let mut out = format!("node.id={}\ncontroller.quorum.voters={}\n", node.id, self.voters());
        out += "controller.listener.names=CONTROLLER\n";
        out += "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n";
        let _ = match node.role {
            Role::Controller => write!(out, "process.roles=controller\nlisteners=CONTROLLER://{}\n", node.address),
            Role::Broker => write!(
                out,
                "process.roles=broker\nlisteners=PLAINTEXT://{}\nadvertised.listeners=PLAINTEXT://{}\n",
                node.address,
                node.advertised()
            ),
        };
        let _ = writeln!(out, "log.dirs={}", node.data().display());
        let own = spec.broker_properties.iter().filter(|(id, ..)| *id == node.id).map(|(_, name, value)| (name, value));
        for (name, value) in spec.properties.iter().map(|(name, value)| (name, value)).chain(own) {
            let _ = writeln!(out, "{name}={value}");
        }
        out
    }

    fn format(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            format_storage(&self.cluster_id, &node.config())?;
        }
        Ok(())
    }

    pub fn start_all(&self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(Node::start)
    }

    pub fn kill_all(&self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(Node::kill)
    }

    /// Waits until every broker that runs names every broker that runs.
    pub fn wait_served(&self) -> anyhow::Result<()> {
        let expected: Vec<i32> = self.brokers().filter(|b| b.is_running()).map(|b| b.id).collect();
        for broker in self.brokers().filter(|broker| broker.is_running()) {
            let deadline = Instant::now() + START_LIMIT;
            wait_for(&format!("{} serves", broker.name), START_LIMIT, || {
                for node in &self.nodes {
                    let status = node.process().as_mut().and_then(Process::exited);
                    if let Some(status) = status
                        && Instant::now() < deadline
                    {
                        bail!("{} ended by itself: {status}", node.name);
                    }
                }
                let known: Vec<i32> =
                    Connection::open(&broker.address)?.metadata(Some(&[]), false)?.brokers.into_keys().collect();
                ensure!(known == expected, "it knows the brokers {known:?}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn client(&self) -> Client {
        Client::new(&self.bootstrap)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn brokers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Broker)
    }

    pub fn controllers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Controller)
    }

    pub fn broker(&self, id: i32) -> &Node {
        self.brokers().find(|broker| broker.id == id).expect("a broker of this cluster")
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this cluster")
    }

    /// The active controller, as the controllers themselves tell it.
    pub fn active_controller(&self) -> anyhow::Result<&Node> {
        let id = wait_for("an active controller", START_LIMIT, || {
            for controller in self.controllers().filter(|controller| controller.is_running()) {
                if let Ok(status) = crate::real::quorum_status(&controller.address)
                    && status.leader_id >= 0
                    && self.controllers().any(|c| c.id == status.leader_id && c.is_running())
                {
                    return Ok(Some(status.leader_id));
                }
            }
            Ok(None)
        })?;
        self.controllers().find(|controller| controller.id == id).context("the leader is one of the controllers")
    }

    /// What is between the nodes of a `proxied` cluster; a node's place is its place in `nodes`.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was made with Spec::proxied")
    }

    /// Cuts a broker off from everybody. Its own address stays reachable for the test.
    pub fn isolate(&self, broker: i32) {
        let place = self.nodes.iter().position(|node| node.role == Role::Broker && node.id == broker);
        self.network().isolate(place.expect("a broker of this cluster"));
    }

    /// A directory for the test's own files, gone with the cluster.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.as_ref().context("an attached cluster has no directory")?.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// No node may ever panic, whatever was done to it.
    pub fn check_logs(&self) -> anyhow::Result<()> {
        for node in self.nodes.iter().filter(|_| !self.is_attached()) {
            let text = node.log_text();
            if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
                bail!("{} panicked: {line}", node.name);
            }
        }
        Ok(())
    }

    /// Shows the end of each log and keeps the files.
    fn keep_evidence(&self) {
        for node in self.nodes.iter().filter(|_| !self.is_attached()) {
            let text = node.log_text();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- {} (running: {}) ----", node.name, node.is_running());
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
        let Some(dir) = &self.dir else { return };
        let kept = std::env::temp_dir().join("odradek-failed").join(dir.path().file_name().unwrap_or_default());
        let _ = fs::create_dir_all(kept.parent().unwrap_or(&kept));
        if self.kill_all().is_ok() && fs::rename(dir.path(), &kept).is_ok() {
            eprintln!("---- files kept in {}", kept.display());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && self.dir.as_ref().is_some_and(|dir| dir.path().exists()) {
            self.keep_evidence();
        }
    }
}

/// A fresh cluster id from the product's own command.
pub fn random_uuid() -> anyhow::Result<String> {
    let mut command = program("odradek");
    command.args(["storage", "random-uuid"]);
    Ok(process::run_ok(command, Duration::from_secs(10))?.trim().to_owned())
}

pub fn format_storage(cluster_id: &str, config: &Path) -> anyhow::Result<()> {
    format_storage_by(None, cluster_id, config)
}

/// By the command of another directory than `bin_dir()`.
pub fn format_storage_by(bin: Option<&Path>, cluster_id: &str, config: &Path) -> anyhow::Result<()> {
    let mut command = program_in(bin.unwrap_or(&bin_dir()), "odradek");
    command.args(["storage", "format", "--cluster-id", cluster_id, "--config"]).arg(config);
    process::run_ok(command, Duration::from_secs(10))?;
    Ok(())
}
