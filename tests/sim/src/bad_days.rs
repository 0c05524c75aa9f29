//! Faults of all kinds, one at a time and overlapping, under idempotent producers of acks=all, readers, and a group of the newer
//! protocol (KIP-848) whose members come and go. After each bad day everything heals: each partition takes records again, and each
//! replica is in sync.
//!
//! Which faults are admissible follows from what they cost (`faults::Cost`): with three replicas and
//! `min.insync.replicas=2` an acknowledged record is in two page caches at least, so one broker may lose what it had, and the
//! next one when the replicas are in sync again. That all lose power at once is borne only by a topic that is flushed, and by
//! what a group has committed if the topic of the offsets is.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use odradek_common::rng::Rng;

use crate::cluster::Cluster;
use crate::faults::{self, Cost, Fault};
use crate::mixes;
use crate::workload::consumers::Consumers;
use crate::workload::{self, Part, Topic};

const PARTITIONS: i32 = 3;
const PRODUCERS: usize = 3;
const MEMBERS: usize = 2;

/// Segments are closed every few seconds, so that there are closed ones to be damaged; indexes have an entry for every few
/// batches.
const CACHED: Topic = Topic {
    name: "cached",
    partitions: PARTITIONS,
    replicas: 3,
    acks: -1,
    configs: &[("min.insync.replicas", "2"), ("segment.ms", "3000"), ("index.interval.bytes", "300")],
};

const FLUSHED: Topic = Topic {
    name: "flushed",
    configs: &[
        ("min.insync.replicas", "2"),
        ("segment.ms", "3000"),
        ("index.interval.bytes", "300"),
        ("flush.messages", "1"),
    ],
    ..CACHED
};

/// Made before the first member comes, so that it may be flushed too; as many partitions as the brokers are told of.
const OFFSETS: Topic = Topic {
    name: "__consumer_offsets",
    partitions: 2,
    configs: &[("min.insync.replicas", "2"), ("cleanup.policy", "compact")],
    ..CACHED
};

const FLUSHED_OFFSETS: Topic = Topic {
    configs: &[("min.insync.replicas", "2"), ("cleanup.policy", "compact"), ("flush.messages", "1")],
    ..OFFSETS
};

/// Sessions, connections that lost a message, and elections behind one another.
const SERVED_AGAIN_MAX: Duration = Duration::from_secs(90);

pub fn run(cluster: &mut Cluster<'_>) {
    // The first fault goes by turns, so that as many seeds in a row as there are kinds have each of them.
    let in_turn = Fault::ALL[(cluster.seed() % Fault::ALL.len() as u64) as usize];
    let is_flushed = in_turn.cost() == Cost::AllUnsynced || cluster.rng.below(2) == 0;
    let (topic, offsets) = if is_flushed { (FLUSHED, FLUSHED_OFFSETS) } else { (CACHED, OFFSETS) };
    start_work(cluster, topic);
    until_served(cluster, Duration::from_secs(30));
    let group = Consumers::new(topic, "consumers", MEMBERS);
    let work = group.clone();
    let consumed = mixes::ask(cluster, move |place| {
        let jobs = work.jobs(&place);
        vec![Box::pin(async move {
            workload::create_topic(place.world, place.bootstrap, offsets, place.history).await;
            join_all(jobs).await;
        })]
    });
    let admissible: Vec<Fault> =
        Fault::ALL.iter().copied().filter(|fault| is_flushed || fault.cost() != Cost::AllUnsynced).collect();
    faults::inject(cluster, &[in_turn]);
    heal(cluster);
    for _ in 0..2 {
        if cluster.rng.below(2) == 0 {
            faults::inject(cluster, &admissible);
        } else {
            let count = 2 + cluster.rng.below(2) as usize;
            faults::overlap(cluster, &admissible, count);
        }
        heal(cluster);
    }
    finish(cluster, topic, (group, consumed));
}

/// Liveness: when faults are over, everything serves and every ISR is full.
fn heal(cluster: &mut Cluster<'_>) {
    until_served(cluster, SERVED_AGAIN_MAX);
    cluster.await_full_isr(faults::HEALING_MAX);
}

fn start_work(cluster: &mut Cluster<'_>, topic: Topic) {
    let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
    cluster.client(move |world| workload::create_topic(world, hosts, topic, shared));
    for producer in 0..PRODUCERS {
        let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
        let partition = producer as i32 % PARTITIONS;
        cluster.client(move |world| workload::produce(world, hosts, topic, partition, producer, shared));
    }
    for partition in 0..PARTITIONS {
        let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
        cluster.client(move |world| workload::watch(world, hosts, topic.name, partition, shared));
    }
}

/// Liveness: each producer is served again.
fn until_served(cluster: &mut Cluster<'_>, limit: Duration) {
    let mut seen = cluster.history.acknowledged_count();
    let mut served = BTreeSet::new();
    cluster.run_until("every producer is served", limit, |history| {
        let acknowledged = history.acknowledged.lock().expect("no holder panics");
        served.extend(acknowledged.iter().skip(seen).map(|record| record.producer));
        seen = acknowledged.len();
        served.len() == PRODUCERS
    });
}

/// The end of the faults and of the work, and what must be there then.
fn finish(cluster: &mut Cluster<'_>, topic: Topic, (group, consumed): (Rc<Consumers>, Arc<AtomicBool>)) {
    cluster.run_for(Duration::from_secs(5));
    let history = cluster.history.clone();
    history.stop.store(true, Ordering::Relaxed);
    cluster.run_for(Duration::from_secs(10));
    cluster.run_until("the members end", Duration::from_secs(120), |_| consumed.load(Ordering::Relaxed));
    let done = mixes::ask(cluster, move |place| vec![group.verdict(place)]);
    cluster.run_until("the group's verdict", Duration::from_secs(200), |_| done.load(Ordering::Relaxed));
    for partition in 0..PARTITIONS {
        let (hosts, shared) = (cluster.bootstrap(), history.clone());
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        cluster.client(move |world| async move {
            match workload::read_all(&world, hosts, topic.name, partition, Duration::from_secs(60)).await {
                Some(records) => workload::check(partition, &records, &shared),
                None => shared.broken(format!("liveness: partition {partition} cannot be read in the end")),
            }
            finished.store(true, Ordering::Relaxed);
        });
        cluster
            .run_until("the partition is read to its end", Duration::from_secs(90), |_| done.load(Ordering::Relaxed));
    }
    // A broken rule of the last check is seen by one more step.
    cluster.run_for(Duration::from_millis(10));
    for partition in 0..PARTITIONS {
        let agree = cluster.wait_for(Duration::from_secs(60), |cluster| cluster.replicas_agree(topic.name, partition));
        assert!(agree, "rule 2: the replicas of partition {partition} differ");
    }
}
