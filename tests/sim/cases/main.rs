//! Simulated clusters: fixed seeds, each run is a whole cluster with faults. `ODRADEK_SIM_SEEDS=FROM..TO` runs others,
//! `ODRADEK_LONG` more.

use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;
use odradek_sim::cluster::Cluster;
use odradek_sim::entropy::on_seeded_thread;
use odradek_sim::workload::{self, Topic};

mod power;

const TOPIC: &str = "simulated";
const PARTITIONS: i32 = 3;
const SIMULATED: Topic =
    Topic { name: TOPIC, partitions: PARTITIONS, replicas: 3, acks: -1, configs: &[("min.insync.replicas", "2")] };

/// Boots 3 + 3, creates, produces, kills brokers and controllers, parts and heals, and checks rules 1 to 4. Answers the
/// trace and the number of acknowledged records.
fn produce_through_faults(seed: u64) -> (Vec<String>, usize) {
    // RUST_LOG=debug shows what the nodes say; by default only the trace speaks.
    if std::env::var_os("RUST_LOG").is_some() {
        odradek_node::telemetry::init();
    }
    on_seeded_thread(seed, move || {
        let mut cluster = Cluster::start(seed, 3, 3, &[]);
        let history = cluster.history.clone();
        let bootstrap = cluster.bootstrap();

        let (hosts, shared) = (bootstrap.clone(), history.clone());
        cluster.client(move |world| workload::create_topic(world, hosts, SIMULATED, shared));
        for producer in 0..4 {
            let (hosts, shared) = (bootstrap.clone(), history.clone());
            let partition = producer as i32 % PARTITIONS;
            cluster.client(move |world| workload::produce(world, hosts, SIMULATED, partition, producer, shared));
        }
        for partition in 0..PARTITIONS {
            let (hosts, shared) = (bootstrap.clone(), history.clone());
            cluster.client(move |world| workload::watch(world, hosts, TOPIC, partition, shared));
        }
        cluster.run_until("50 records are acknowledged", Duration::from_secs(30), |history| {
            history.acknowledged_count() >= 50
        });

        for _ in 0..4 {
            one_fault(&mut cluster);
            // Rule: when the fault is over, everything is served again.
            let before = history.acknowledged_count();
            cluster.run_until("records are acknowledged again after a fault", Duration::from_secs(60), |history| {
                history.acknowledged_count() > before + 20
            });
        }
        cluster.run_for(Duration::from_secs(5));
        history.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        cluster.run_for(Duration::from_secs(10));

        for partition in 0..PARTITIONS {
            let (hosts, shared) = (bootstrap.clone(), history.clone());
            let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let finished = done.clone();
            cluster.client(move |world| async move {
                match workload::read_all(&world, hosts, TOPIC, partition, Duration::from_secs(60)).await {
                    Some(records) => workload::check(partition, &records, &shared),
                    None => shared.broken(format!("liveness: partition {partition} cannot be read in the end")),
                }
                finished.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            cluster.run_until("the partition is read to its end", Duration::from_secs(90), |_| {
                done.load(std::sync::atomic::Ordering::Relaxed)
            });
        }
        // A broken rule of the last check is seen by one more step.
        cluster.run_for(Duration::from_millis(10));
        // Rule 2, within a bound: a connection that lost a message is given up after `replica.socket.timeout.ms`.
        let same = |cluster: &Cluster<'_>, partition| {
            let brokers = cluster.node_names("broker-");
            let logs: Vec<Vec<u8>> = brokers.iter().map(|broker| cluster.log_bytes(broker, TOPIC, partition)).collect();
            assert!(!logs[0].is_empty(), "seed {seed}: partition {partition} has no log");
            logs.iter().all(|log| *log == logs[0])
        };
        for partition in 0..PARTITIONS {
            let mut seconds = 0;
            while !same(&cluster, partition) {
                assert!(seconds < 60, "seed {seed}: rule 2: the replicas of partition {partition} differ");
                cluster.run_for(Duration::from_secs(1));
                seconds += 1;
            }
        }
        let trace = history.trace.lock().expect("no holder panics").clone();
        (trace, history.acknowledged_count())
    })
}

/// One fault, and its end.
fn one_fault(cluster: &mut Cluster<'_>) {
    let brokers = cluster.node_names("broker-");
    let controllers = cluster.node_names("controller-");
    let pick =
        |cluster: &mut Cluster<'_>, names: &[String]| names[cluster.rng.below(names.len() as u64) as usize].clone();
    let pause = Duration::from_millis(200 + cluster.rng.below(8_000));
    match cluster.rng.below(5) {
        0 => {
            let broker = pick(cluster, &brokers);
            cluster.kill(&broker, Crash::Process);
            cluster.run_for(pause);
            cluster.restart(&broker);
        }
        1 => {
            // With its page cache: what the broker alone had not synced is on the other two.
            let broker = pick(cluster, &brokers);
            cluster.kill(&broker, Crash::PowerTears);
            cluster.run_for(pause);
            cluster.restart(&broker);
        }
        2 => {
            let controller = pick(cluster, &controllers);
            cluster.kill(&controller, Crash::PowerTears);
            cluster.run_for(pause);
            cluster.restart(&controller);
        }
        3 => {
            let (a, b) = (pick(cluster, &brokers), pick(cluster, &controllers));
            cluster.part(&a, &b);
            cluster.run_for(pause);
            cluster.heal(&a, &b);
        }
        _ => {
            let (a, b) = (pick(cluster, &brokers), pick(cluster, &brokers));
            if a != b {
                cluster.part(&a, &b);
                cluster.run_for(pause);
                cluster.heal(&a, &b);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, _) = produce_through_faults(1);
    let (second, _) = produce_through_faults(1);
    for (line, (a, b)) in first.iter().zip(&second).enumerate() {
        assert_eq!(a, b, "line {line}");
    }
    assert_eq!(first.len(), second.len());
}

#[test]
fn nothing_acknowledged_is_lost_in_any_seed() {
    let seeds = match std::env::var("ODRADEK_SIM_SEEDS") {
        Ok(range) => {
            let bounds = range.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
            let Some((from, to)) = bounds else { panic!("ODRADEK_SIM_SEEDS takes FROM..TO, not {range}") };
            from..to
        }
        Err(_) if std::env::var_os("ODRADEK_LONG").is_some() => 2..60,
        Err(_) => 2..8u64,
    };
    for seed in seeds {
        let (trace, acknowledged) = produce_through_faults(seed);
        println!("seed {seed}: {acknowledged} records acknowledged, {} events", trace.len());
    }
}
