//! Who breaks things: nodes, links, disks, in an order and for times that a seed says. Each kind of fault comes once before
//! any comes again. After a few of them all is healed, and then all must be well within a bound.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::Connection;
use odradek_tests::cluster::{Node, bin_dir};
use odradek_tests::disk::SmallDisk;
use odradek_tests::faults::End;
use odradek_tests::{Client, Cluster};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::admin::wait_well;
use crate::consumers::check_committed;
use crate::history::History;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL to one node or two.
    Kill,
    /// SIGSTOP to one node or two.
    Pause,
    /// Two nodes do not reach each other.
    Part,
    /// One node does not reach another, and is reached by it.
    PartOneWay,
    /// Nobody reaches a node, and it reaches nobody.
    Isolate,
    /// Every link is slow.
    Slow,
    /// A log directory without a byte of room.
    FullDisk,
    /// One node after the other is stopped and started, in order.
    Roll,
    KillAll,
    /// Two of three controllers are gone.
    Majority,
    /// A node is stopped, and starts with the other version.
    Exchange,
}

const ALL_KINDS: [Fault; 11] = [
    Fault::Kill,
    Fault::Pause,
    Fault::Part,
    Fault::PartOneWay,
    Fault::Isolate,
    Fault::Slow,
    Fault::FullDisk,
    Fault::Roll,
    Fault::KillAll,
    Fault::Majority,
    Fault::Exchange,
];
/// These may come on top of another one.
const SMALL_KINDS: [Fault; 4] = [Fault::Kill, Fault::Pause, Fault::PartOneWay, Fault::Slow];
/// Faults between two times when all must be well.
const ROUND: usize = 3;
/// Longer than the sessions of brokers and members, and than the time after which a follower is out of sync.
const SILENCE_MS: std::ops::Range<u64> = 8_000..12_000;

pub struct Nemesis<'a> {
    pub cluster: &'a Cluster,
    pub history: &'a History,
    /// The disk of one broker, where mounting is permitted.
    pub disk: Option<&'a SmallDisk>,
    /// The programs of the two versions, the one under test first.
    pub bins: [PathBuf; 2],
    random: SmallRng,
    deck: Vec<Fault>,
}

impl<'a> Nemesis<'a> {
    pub fn new(
        cluster: &'a Cluster,
        history: &'a History,
        disk: Option<&'a SmallDisk>,
        other_bin: Option<PathBuf>,
        seed: u64,
    ) -> Self {
        let bins = [bin_dir(), other_bin.unwrap_or_else(bin_dir)];
        Self { cluster, history, disk, bins, random: SmallRng::seed_from_u64(seed), deck: Vec::new() }
    }

    /// Breaks and heals until the time is over, or a rule was broken.
    pub fn run(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut client = self.cluster.client();
        while Instant::now() < until && !self.history.is_broken() {
            for _ in 0..ROUND {
                if Instant::now() < until {
                    self.one()?;
                }
            }
            let healed = Instant::now();
            wait_well(self.cluster, &mut client)?;
            self.history
                .note(format_args!("all is well, {:.1} s after the last fault", healed.elapsed().as_secs_f64()));
            check_committed(self.cluster, self.history)?;
            check_progress(self.cluster, &mut client)?;
        }
        Ok(())
    }

    fn one(&mut self) -> anyhow::Result<()> {
        if self.deck.is_empty() {
            self.deck = ALL_KINDS.to_vec();
            self.deck.shuffle(&mut self.random);
        }
        let fault = self.deck.pop().context("the deck was filled")?;
        self.apply(fault)?;
        let mut silence = self.random.random_range(500..6_000);
        if matches!(fault, Fault::Pause | Fault::Part | Fault::PartOneWay | Fault::Isolate) {
            silence = self.random.random_range(SILENCE_MS);
        }
        if self.random.random_bool(0.3) {
            sleep(self.random.random_range(0..2_000));
            let more = *SMALL_KINDS.choose(&mut self.random).context("some kinds")?;
            self.apply(more)?;
        }
        sleep(silence);
        self.heal()?;
        sleep(self.random.random_range(200..3_000));
        // What was killed runs again: so whoever does not run has ended by itself.
        for node in self.cluster.nodes() {
            ensure!(node.is_running(), "liveness: {} ended by itself", node.name);
        }
        Ok(())
    }

    /// One or two, as far as they run: a fault may come while others are dead.
    fn some_nodes(&mut self) -> Vec<&'a Node> {
        let count = if self.random.random_bool(0.3) { 2 } else { 1 };
        let mut some: Vec<&Node> = self.cluster.nodes().choose_multiple(&mut self.random, count).collect();
        some.retain(|node| node.is_running());
        some
    }

    fn apply(&mut self, fault: Fault) -> anyhow::Result<()> {
        let cluster = self.cluster;
        let on = match fault {
            Fault::Kill => {
                let victims = self.some_nodes();
                victims.iter().try_for_each(|node| node.kill())?;
                names(&victims)
            }
            Fault::Pause => {
                let victims = self.some_nodes();
                victims.iter().try_for_each(|node| node.pause())?;
                names(&victims)
            }
            Fault::Part | Fault::PartOneWay => {
                let places: Vec<usize> = (0..cluster.nodes().len()).collect();
                let pair: Vec<usize> = places.choose_multiple(&mut self.random, 2).copied().collect();
                let [one, other] = pair[..] else { return Ok(()) };
                cluster.network().block(End::Node(one), End::Node(other));
                if fault == Fault::Part {
                    cluster.network().block(End::Node(other), End::Node(one));
                }
                names(&[&cluster.nodes()[one], &cluster.nodes()[other]])
            }
            Fault::Isolate => {
                let place = self.random.random_range(0..cluster.nodes().len());
                cluster.network().isolate(place);
                cluster.nodes()[place].name.clone()
            }
            Fault::Slow => {
                let delay = self.random.random_range(5..80);
                cluster.network().delay(Duration::from_millis(delay));
                format!("by {delay} ms")
            }
            Fault::FullDisk => {
                // Said once, when there is none.
                let Some(disk) = self.disk else { return Ok(()) };
                disk.fill()?;
                "of broker-1".to_owned()
            }
            Fault::Roll => {
                let mut order: Vec<&Node> = cluster.nodes().iter().collect();
                order.shuffle(&mut self.random);
                for node in &order {
                    stop(node, self.history);
                    node.start()?;
                    sleep(self.random.random_range(300..2_500));
                }
                names(&order)
            }
            Fault::KillAll => {
                cluster.kill_all()?;
                String::new()
            }
            Fault::Majority => {
                let all: Vec<&Node> = cluster.controllers().collect();
                let victims: Vec<&Node> = all.choose_multiple(&mut self.random, all.len() / 2 + 1).copied().collect();
                victims.iter().try_for_each(|node| node.kill())?;
                names(&victims)
            }
            Fault::Exchange => {
                let node = cluster.nodes().choose(&mut self.random).context("a node")?;
                stop(node, self.history);
                node.set_bin(self.bins.choose(&mut self.random).context("two versions")?);
                node.start()?;
                node.name.clone()
            }
        };
        self.history.note(format_args!("{fault:?} {on}"));
        self.history.count(&format!("fault: {fault:?}"), 1);
        Ok(())
    }

    /// Undoes everything that `apply` can do.
    fn heal(&mut self) -> anyhow::Result<()> {
        let reset = self.random.random_bool(0.5);
        self.cluster.network().heal(reset);
        if let Some(disk) = self.disk {
            disk.clear()?;
        }
        for node in self.cluster.nodes() {
            if node.pid().is_some() {
                node.resume()?;
            } else {
                node.start()?;
            }
        }
        self.history.note(format_args!("healed{}", if reset { ", what hung is reset" } else { "" }));
        Ok(())
    }
}

/// In order; one that cannot, as its controllers are away, is killed after a while, as an operator's tools do.
fn stop(node: &Node, history: &History) {
    if node.is_running()
        && let Err(error) = node.stop()
    {
        history.note(format_args!("{}: {error:#}", node.name));
        history.count("nodes that did not stop in time", 1);
    }
}

fn names(nodes: &[&Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Every partition that clients write to takes another record.
fn check_progress(cluster: &Cluster, client: &mut Client) -> anyhow::Result<()> {
    for broker in cluster.brokers() {
        Connection::open(broker.advertised())?.api_versions().context("liveness: a broker answers")?;
    }
    for partition in 0..crate::ALL_PARTITIONS {
        let before = client.end_offset(crate::ALL, partition)?;
        odradek_tests::wait_for(&format!("liveness: records to partition {partition}"), crate::LIVE_LIMIT, || {
            Ok((client.end_offset(crate::ALL, partition)? > before).then_some(()))
        })?;
    }
    Ok(())
}
