//! Faults that broke a rule once, as scripts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_sim::cluster::Cluster;
use odradek_sim::entropy::on_seeded_thread;
use odradek_sim::faults::flip_bit;
use odradek_sim::workload::{self, Topic};

const TOPIC: Topic =
    Topic { name: "topic", partitions: 1, replicas: 3, acks: -1, configs: &[("min.insync.replicas", "2")] };

const PATIENCE: Duration = Duration::from_secs(60);

/// Creates the topic and produces so many records, then stops.
fn produce(cluster: &mut Cluster<'_>, count: usize) {
    let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
    cluster.client(move |world| workload::create_topic(world, hosts, TOPIC, shared));
    for producer in 0..2 {
        let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
        cluster.client(move |world| workload::produce(world, hosts, TOPIC, 0, producer, shared));
    }
    cluster.run_until("records are acknowledged", PATIENCE, |history| history.acknowledged_count() >= count);
    cluster.history.stop.store(true, Ordering::Relaxed);
    cluster.run_for(Duration::from_secs(5));
}

/// Reads everything and checks rule 1.
fn check(cluster: &mut Cluster<'_>) {
    let (hosts, shared) = (cluster.bootstrap(), cluster.history.clone());
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    cluster.client(move |world| async move {
        let records = workload::read_all(&world, hosts, TOPIC.name, 0, PATIENCE).await;
        workload::check(0, &records.expect("the partition is served"), &shared);
        finished.store(true, Ordering::Relaxed);
    });
    cluster.run_until("the partition is read", PATIENCE * 2, |_| done.load(Ordering::Relaxed));
    cluster.run_for(Duration::from_millis(10));
    let broken = cluster.history.broken.lock().expect("no holder panics").clone();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A controller whose disk was replaced is taught everything by the leader that counted on its old entries: after that
/// it makes up a majority with either of the others.
#[test]
fn a_controller_with_an_empty_disk_is_taught_from_the_start() {
    on_seeded_thread(1, || {
        let mut cluster = Cluster::start(1, 3, 3, &[]);
        produce(&mut cluster, 40);
        for emptied in ["controller-1", "controller-2", "controller-3"] {
            cluster.kill(emptied, Crash::Process);
            cluster.run_for(Duration::from_secs(5));
            cluster.replace_disk(emptied);
            cluster.restart(emptied);
            cluster.run_for(Duration::from_secs(10));
        }
        // By now nobody has an entry that it was not taught.
        for down in ["controller-1", "controller-2", "controller-3"] {
            cluster.kill(down, Crash::Process);
            cluster.run_for(Duration::from_secs(5));
            cluster.await_full_isr(PATIENCE);
            check(&mut cluster);
            cluster.restart(down);
            cluster.run_for(Duration::from_secs(5));
        }
    });
}

/// For a second and a half no message between controllers is answered in time, though all arrive: the leader leads on, and
/// Raft refuses what it proposes meanwhile. When messages are quick again it decides again.
#[test]
fn decisions_go_on_after_a_majority_was_too_slow_for_a_while() {
    on_seeded_thread(1, || {
        let mut cluster = Cluster::start(1, 3, 3, &[]);
        produce(&mut cluster, 40);
        let controllers = cluster.node_names("controller-");
        let pairs = || controllers.iter().flat_map(|a| controllers.iter().map(move |b| (a, b))).filter(|(a, b)| a < b);
        for round in 0..5 {
            let latency = (Duration::from_millis(300), Duration::from_millis(350));
            pairs().for_each(|(a, b)| cluster.set_latency(a, b, Some(latency)));
            cluster.run_for(Duration::from_millis(600));
            // The decider has something to write.
            cluster.kill("broker-1", Crash::Process);
            cluster.run_for(Duration::from_millis(900));
            pairs().for_each(|(a, b)| cluster.set_latency(a, b, None));
            cluster.restart("broker-1");
            cluster.await_full_isr(Duration::from_secs(20));
            cluster.note(format_args!("round {round} is over"));
        }
        check(&mut cluster);
    });
}

/// The byte at which the last batch of a segment begins.
fn last_batch(segment: &[u8]) -> u64 {
    let (mut last, mut at) = (0, 0);
    while let Some(length) = segment.get(at + 8..at + 12) {
        last = at;
        at += 12 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    }
    last as u64
}

/// All brokers stop as they should. While they are down, the end of the log of the last one is damaged: its last batch is
/// cut off when it starts. Who comes back with less than it had must not lead on the strength of its clean stop, as the
/// others have it all.
#[test]
fn a_broker_that_finds_its_log_cut_after_a_clean_stop_does_not_lead_by_it() {
    on_seeded_thread(1, || {
        let mut cluster = Cluster::start(1, 3, 3, &[]);
        produce(&mut cluster, 40);
        for broker in ["broker-1", "broker-3", "broker-2"] {
            cluster.shut_down(broker, PATIENCE);
            cluster.run_for(Duration::from_secs(2));
        }
        let segment = PathBuf::from("/data/topic-0/00000000000000000000.log");
        let content = cluster.disk("broker-2").content(&segment).expect("there");
        let at = last_batch(&content);
        // The magic, which says how the rest is to be read.
        flip_bit(&mut cluster, "broker-2", &segment, (at + 16) * 8 + 3);
        cluster.restart("broker-2");
        cluster.run_for(Duration::from_secs(5));
        cluster.restart("broker-3");
        cluster.restart("broker-1");
        cluster.await_full_isr(PATIENCE);
        check(&mut cluster);
        assert!(cluster.replicas_agree(TOPIC.name, 0));
    });
}
