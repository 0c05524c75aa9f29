//! All brokers lose power at once, again and again. With `flush.messages=1` nothing acknowledged is lost, by acks=all with
//! three replicas and by acks=1 with one; without a flush policy some of it is, as Kafka's users know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;
use odradek_sim::cluster::Cluster;
use odradek_sim::entropy::on_seeded_thread;
use odradek_sim::workload::{self, History, Topic};

const PARTITIONS: i32 = 2;

const REPLICATED: Topic = Topic {
    name: "replicated",
    partitions: PARTITIONS,
    replicas: 3,
    acks: -1,
    configs: &[("min.insync.replicas", "2"), ("flush.messages", "1")],
};

const ALONE: Topic =
    Topic { name: "alone", partitions: PARTITIONS, replicas: 1, acks: 1, configs: &[("flush.messages", "1")] };

/// By the page cache, as is the default.
const CACHED: Topic =
    Topic { name: "cached", partitions: PARTITIONS, replicas: 3, acks: -1, configs: &[("min.insync.replicas", "2")] };

struct Run {
    topic: Topic,
    history: Arc<History>,
}

impl Run {
    fn start(cluster: &mut Cluster<'_>, topic: Topic) -> Self {
        let history = Arc::new(History::default());
        let (hosts, shared) = (cluster.bootstrap(), history.clone());
        cluster.client(move |world| workload::create_topic(world, hosts, topic, shared));
        for producer in 0..4 {
            let (hosts, shared) = (cluster.bootstrap(), history.clone());
            let partition = producer as i32 % PARTITIONS;
            cluster.client(move |world| workload::produce(world, hosts, topic, partition, producer, shared));
        }
        Self { topic, history }
    }

    /// Waits until so many more records are acknowledged.
    fn until_acknowledged(&self, cluster: &mut Cluster<'_>, more: usize) {
        let before = self.history.acknowledged_count();
        let what = format!("{more} more records of {} are acknowledged", self.topic.name);
        cluster.run_until(&what, Duration::from_secs(90), |_| self.history.acknowledged_count() >= before + more);
    }

    /// What each partition holds in the end.
    fn read_all(&self, cluster: &mut Cluster<'_>) -> Vec<Vec<(i64, Vec<u8>)>> {
        (0..PARTITIONS)
            .map(|partition| {
                let (hosts, name) = (cluster.bootstrap(), self.topic.name);
                let (found, done) = (Arc::new(std::sync::Mutex::new(None)), Arc::new(AtomicBool::new(false)));
                let (slot, finished) = (found.clone(), done.clone());
                cluster.client(move |world| async move {
                    let read = workload::read_all(&world, hosts, name, partition, Duration::from_secs(60)).await;
                    *slot.lock().expect("no holder panics") = read;
                    finished.store(true, Ordering::Relaxed);
                });
                cluster.run_until("the partition is read to its end", Duration::from_secs(90), |_| {
                    done.load(Ordering::Relaxed)
                });
                let records = found.lock().expect("no holder panics").take();
                records.unwrap_or_else(|| panic!("{name}-{partition} cannot be read in the end"))
            })
            .collect()
    }

    fn lost(&self, read: &[Vec<(i64, Vec<u8>)>]) -> usize {
        read.iter().enumerate().map(|(at, records)| workload::lost(at as i32, records, &self.history)).sum()
    }
}

/// How many acknowledged records of `CACHED` were lost.
fn lose_power(seed: u64) -> usize {
    if std::env::var_os("RUST_LOG").is_some() {
        odradek_node::telemetry::init();
    }
    on_seeded_thread(seed, move || {
        let mut cluster = Cluster::start(seed, 3, 3, &[]);
        let durable = [Run::start(&mut cluster, REPLICATED), Run::start(&mut cluster, ALONE)];
        let cached = Run::start(&mut cluster, CACHED);
        for run in durable.iter().chain([&cached]) {
            run.until_acknowledged(&mut cluster, 50);
        }
        for round in 0..3 {
            let moment = Duration::from_micros(cluster.rng.below(300_000));
            cluster.run_for(moment);
            let crash = if round == 0 { Crash::PowerLosesAll } else { Crash::PowerTears };
            let brokers = cluster.node_names("broker-");
            brokers.iter().for_each(|broker| cluster.kill(broker, crash));
            let pause = Duration::from_millis(100 + cluster.rng.below(3_000));
            cluster.run_for(pause);
            brokers.iter().for_each(|broker| cluster.restart(broker));
            for run in &durable {
                run.until_acknowledged(&mut cluster, 20);
            }
        }
        for run in durable.iter().chain([&cached]) {
            run.history.stop.store(true, Ordering::Relaxed);
        }
        cluster.run_for(Duration::from_secs(10));
        for run in &durable {
            let read = run.read_all(&mut cluster);
            for (partition, records) in read.iter().enumerate() {
                workload::check(partition as i32, records, &run.history);
            }
            let broken = run.history.broken.lock().expect("no holder panics").clone();
            assert!(broken.is_empty(), "seed {seed}, topic {}: {broken:#?}", run.topic.name);
            assert_eq!(run.lost(&read), 0);
            println!("seed {seed}, {}: {} acknowledged", run.topic.name, run.history.acknowledged_count());
        }
        let read = cached.read_all(&mut cluster);
        cached.lost(&read)
    })
}

#[test]
fn with_a_flush_policy_nothing_acknowledged_is_lost_when_all_lose_power() {
    let seeds = if std::env::var_os("ODRADEK_LONG").is_some() { 0..30 } else { 0..4u64 };
    let lost: usize = seeds.map(lose_power).sum();
    println!("{lost} acknowledged records of the topic without a policy are gone");
    assert!(lost > 0, "without a policy the page cache is all there is: the power cut must have cost something");
}
