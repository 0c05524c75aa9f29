//! What clients do in each scenario, and how a run goes: they work while faults come and go, they stop, the cluster heals, and
//! each workload and each oracle gives its verdict.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use odradek_common::rng::Rng;

use crate::cluster::Cluster;
use crate::faults::{self, Cost, Fault};
use crate::oracle::{metadata::Metadata, replicas};
use crate::workload::admin::Admin;
use crate::workload::aging::Aging;
use crate::workload::consumers::Consumers;
use crate::workload::groups::Groups;
use crate::workload::keyed::Keyed;
use crate::workload::moves::Moves;
use crate::workload::pipeline::Pipeline;
use crate::workload::plain::Plain;
use crate::workload::produce::Produce;
use crate::workload::recreated::Recreated;
use crate::workload::transactions::Transactions;
use crate::workload::{self, Job, Part, Place, Topic};

const fn topic(name: &'static str, acks: i16, configs: &'static [(&'static str, &'static str)]) -> Topic {
    Topic { name, partitions: 2, replicas: 3, acks, configs }
}

const TWO_IN_SYNC: &[(&str, &str)] = &[("min.insync.replicas", "2")];
const SIMULATED: Topic = Topic { partitions: 3, ..topic("simulated", -1, TWO_IN_SYNC) };
const PLAIN_ALL: Topic = topic("plain-all", -1, TWO_IN_SYNC);
const PLAIN_ONE: Topic = topic("plain-one", 1, TWO_IN_SYNC);
const PLAIN_NONE: Topic = topic("plain-none", 0, TWO_IN_SYNC);
const WHOLE: Topic = Topic { partitions: 3, ..topic("whole", -1, TWO_IN_SYNC) };
const TRANSFORMED: Topic = Topic { partitions: 3, ..topic("transformed", -1, TWO_IN_SYNC) };
const KEYED: Topic = topic(
    "keyed",
    -1,
    &[
        ("min.insync.replicas", "2"),
        ("cleanup.policy", "compact"),
        ("internal.segment.bytes", "6000"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("delete.retention.ms", "3000"),
    ],
);
const RETENTION_MS: i64 = 12_000;
const AGING: Topic = topic(
    "aging",
    -1,
    &[
        ("min.insync.replicas", "2"),
        ("retention.ms", "12000"),
        ("internal.segment.bytes", "6000"),
        ("file.delete.delay.ms", "1000"),
    ],
);
const UNRELIABLE: Topic = topic("unreliable", 1, &[("unclean.leader.election.enable", "true")]);
/// Made and deleted by administrators.
const CHANGING: &[&str] = &["changing-1", "changing-2", "changing-3"];

/// What the nodes of all runs are told.
pub const SETTINGS: &[&str] = &[
    "min.insync.replicas=2",
    "offsets.topic.num.partitions=2",
    "transaction.state.log.num.partitions=2",
    "group.initial.rebalance.delay.ms=200",
    "group.consumer.min.session.timeout.ms=6000",
    "group.consumer.session.timeout.ms=6000",
    "group.consumer.min.heartbeat.interval.ms=1000",
    "group.consumer.heartbeat.interval.ms=1000",
    "log.retention.check.interval.ms=2000",
    "log.cleaner.backoff.ms=1000",
];

pub fn produce(cluster: &mut Cluster<'_>) {
    play(cluster, mix_produce);
}

pub fn admin(cluster: &mut Cluster<'_>) {
    play(cluster, mix_admin);
}

pub fn groups(cluster: &mut Cluster<'_>) {
    play(cluster, mix_groups);
}

pub fn transactions(cluster: &mut Cluster<'_>) {
    play(cluster, mix_transactions);
}

pub fn storage(cluster: &mut Cluster<'_>) {
    play(cluster, mix_storage);
}

pub fn moves(cluster: &mut Cluster<'_>) {
    play(cluster, mix_moves);
}

pub fn all(cluster: &mut Cluster<'_>) {
    play(cluster, mix_all);
}

fn mix_produce(mix: &mut Mix<'_, '_>) {
    mix.produce(4, 5);
    for (topic, pace_ms) in [(PLAIN_ALL, 30), (PLAIN_ONE, 20), (PLAIN_NONE, 20)] {
        if mix.draws(2) {
            mix.with(&[topic], Plain::new(topic, Duration::from_millis(pace_ms)));
        }
    }
}

fn mix_admin(mix: &mut Mix<'_, '_>) {
    mix.produce(1, 40);
    let pace = Duration::from_millis(100 + mix.cluster.rng.below(400));
    mix.with(&[], Admin::new(CHANGING, 3, pace));
    mix.with(&[], Recreated::new(CHANGING));
}

fn mix_groups(mix: &mut Mix<'_, '_>) {
    mix.produce(3, 30);
    let members = 2 + mix.cluster.rng.below(3) as usize;
    mix.with(&[], Groups::new(SIMULATED, "readers", members));
    mix.with(&[], Consumers::new(SIMULATED, "consumers", members));
}

fn mix_transactions(mix: &mut Mix<'_, '_>) {
    mix.produce(3, 60);
    mix.with(&[WHOLE], Transactions::new(WHOLE, 3));
    mix.with(&[TRANSFORMED], Pipeline::new(SIMULATED, TRANSFORMED));
}

fn mix_storage(mix: &mut Mix<'_, '_>) {
    mix.produce(1, 60);
    mix.with(&[KEYED], Keyed::new(KEYED, 12, Duration::from_millis(25)));
    mix.with(&[AGING], Aging::new(AGING, RETENTION_MS, Duration::from_millis(35)));
}

fn mix_moves(mix: &mut Mix<'_, '_>) {
    mix.produce(3, 20);
    let pace = Duration::from_millis(500 + mix.cluster.rng.below(3_000));
    mix.operate(vec![SIMULATED], Some(UNRELIABLE), pace);
}

fn mix_all(mix: &mut Mix<'_, '_>) {
    mix.produce(2, 60);
    // One of each pair, so that a run stays small, and in many runs everything meets everything.
    if mix.draws(2) {
        mix.with(&[WHOLE], Transactions::new(WHOLE, 2));
    } else {
        mix.with(&[TRANSFORMED], Pipeline::new(SIMULATED, TRANSFORMED));
    }
    if mix.draws(2) {
        mix.with(&[KEYED], Keyed::new(KEYED, 12, Duration::from_millis(60)));
    } else {
        mix.with(&[AGING], Aging::new(AGING, RETENTION_MS, Duration::from_millis(80)));
    }
    if mix.draws(2) {
        mix.with(&[], Admin::new(CHANGING, 2, Duration::from_millis(700)));
    } else {
        mix.with(&[], Groups::new(SIMULATED, "readers", 2));
        mix.with(&[], Consumers::new(SIMULATED, "consumers", 2));
    }
    let topics = mix.topics.clone();
    mix.operate(topics, None, Duration::from_secs(3));
}

/// What the clients of one run do.
struct Mix<'m, 'c> {
    cluster: &'m mut Cluster<'c>,
    topics: Vec<Topic>,
    parts: Vec<Rc<dyn Part>>,
}

impl Mix<'_, '_> {
    fn with(&mut self, topics: &[Topic], part: Rc<dyn Part>) {
        self.topics.extend(topics);
        self.parts.push(part);
    }

    /// True once in `times`.
    fn draws(&mut self, times: u64) -> bool {
        self.cluster.rng.below(times) == 0
    }

    /// Of four brokers, the last one goes in half of the runs.
    fn operate(&mut self, topics: Vec<Topic>, expendable: Option<Topic>, pace: Duration) {
        let retires = self.draws(2);
        let moves = Moves {
            topics,
            expendable,
            brokers: self.cluster.node_names("broker-").len() as i32,
            pace,
            controllers: self.cluster.node_names("controller-").len(),
            retires,
        };
        let expendable: Vec<Topic> = expendable.into_iter().collect();
        self.with(&expendable, Rc::new(moves));
    }

    fn produce(&mut self, producers: usize, pace_ms: u64) {
        let produce = Produce { topic: SIMULATED, producers, pace: Duration::from_millis(pace_ms) };
        self.with(&[SIMULATED], Rc::new(produce));
    }
}

/// Clients work, faults come and go, clients stop, the cluster heals, everyone gives a verdict.
fn play(cluster: &mut Cluster<'_>, draw: fn(&mut Mix<'_, '_>)) {
    let controllers = cluster.node_names("controller-").len();
    let metadata = Metadata::new(controllers);
    let mut mix = Mix { cluster, topics: Vec::new(), parts: vec![metadata.clone()] };
    draw(&mut mix);
    let Mix { topics, parts, .. } = mix;
    let made = topics.clone();
    let done = ask(cluster, move |place| {
        vec![Box::pin(async move {
            for topic in made {
                let Place { world, bootstrap, history } = place.clone();
                workload::create_topic(world, bootstrap, topic, history).await;
            }
        })]
    });
    cluster.run_until("the topics are there", Duration::from_secs(60), |_| done.load(Ordering::Relaxed));
    let working = parts.clone();
    let ended = ask(cluster, move |place| working.into_iter().flat_map(|part| part.jobs(&place)).collect());
    cluster.run_until("50 records are acknowledged", Duration::from_secs(60), |history| {
        history.acknowledged_count() >= 50
    });
    let faults = admissible(&topics);
    for _ in 0..ROUNDS {
        match cluster.rng.below(4) {
            0 | 1 => drop(faults::inject(cluster, &Fault::BRIEF)),
            2 => drop(faults::inject(cluster, &faults)),
            _ => drop(faults::overlap(cluster, &faults, 2)),
        }
        // Rule: when the fault is over, everything is served again.
        let before = cluster.history.acknowledged_count();
        cluster.run_until("records are acknowledged again after a fault", SERVED_AGAIN_MAX, |history| {
            history.acknowledged_count() > before + 10
        });
        // And in sync, before another broker may lose what it had.
        let oracle = metadata.clone();
        let done = ask(cluster, move |place| vec![Box::pin(oracle.in_sync(place))]);
        cluster.run_until("all replicas are in sync", Duration::from_secs(200), |_| done.load(Ordering::Relaxed));
        let rest = Duration::from_millis(cluster.rng.below(3_000));
        cluster.run_for(rest);
    }
    cluster.run_for(Duration::from_secs(3));
    cluster.history.stop.store(true, Ordering::Relaxed);
    cluster.run_until("the clients end", Duration::from_secs(120), |_| ended.load(Ordering::Relaxed));
    // One after the other: the first one waits until everything is in sync.
    for part in parts {
        let done = ask(cluster, move |place| vec![part.verdict(place)]);
        cluster.run_until("a verdict", Duration::from_secs(400), |_| done.load(Ordering::Relaxed));
        // A broken rule is seen by one more step.
        cluster.run_for(Duration::from_millis(10));
    }
    compare_replicas(cluster, &topics);
}

/// Rounds of faults in one run.
const ROUNDS: usize = 3;
/// Sessions, connections that lost a message, and elections behind one another.
const SERVED_AGAIN_MAX: Duration = Duration::from_secs(90);

/// Nothing here is flushed, so not all may lose power. And what is too old is too old by the brokers' clocks.
fn admissible(topics: &[Topic]) -> Vec<Fault> {
    let has_retention = topics.contains(&AGING);
    let is_clock = |fault: &Fault| matches!(fault, Fault::ClockForward | Fault::ClockBackward | Fault::ClockDrift);
    let all = Fault::ALL.iter().copied().filter(|fault| fault.cost() != Cost::AllUnsynced);
    all.filter(|fault| !(has_retention && is_clock(fault))).collect()
}

/// Runs jobs in one client; true when all have ended.
pub(crate) fn ask(cluster: &mut Cluster<'_>, jobs: impl FnOnce(Place) -> Vec<Job> + 'static) -> Arc<AtomicBool> {
    let (bootstrap, history) = (cluster.bootstrap(), cluster.history.clone());
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    cluster.client(move |world| async move {
        join_all(jobs(Place { world, bootstrap, history })).await;
        finished.store(true, Ordering::Relaxed);
    });
    done
}

/// Rule 2, within a bound: a connection that lost a message is given up after `replica.socket.timeout.ms`.
fn compare_replicas(cluster: &mut Cluster<'_>, topics: &[Topic]) {
    for topic in topics {
        let is_compacted = topic.configs.contains(&("cleanup.policy", "compact"));
        for partition in 0..topic.partitions {
            let mut seconds = 0;
            while let Some(difference) = replicas::difference(cluster, topic.name, partition, is_compacted) {
                assert!(seconds < 60, "{difference}");
                cluster.run_for(Duration::from_secs(1));
                seconds += 1;
            }
            cluster.history.count_work("partition compared on all disks");
        }
    }
}
