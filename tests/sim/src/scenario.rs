//! Whole runs: a cluster, what is asked of it, what is done to it, and what is checked. A run is its scenario and its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bad_days;
use crate::cluster::{Cluster, Shape};
use crate::entropy::on_seeded_thread;
use crate::faults::{self, Fault};
use crate::report::{Report, hash_lines};
use crate::workload::{self, Topic};

const TOPIC: &str = "simulated";
const PARTITIONS: i32 = 3;
const SIMULATED: Topic =
    Topic { name: TOPIC, partitions: PARTITIONS, replicas: 3, acks: -1, configs: &[("min.insync.replicas", "2")] };

/// A kind of run.
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    run: fn(&mut Cluster<'_>),
}

/// All that can be run by name.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "produce",
        about: "idempotent producers of acks=all and readers, while brokers and controllers fail one after the other",
        run: produce_through_faults,
    },
    Scenario {
        name: "bad-days",
        about: "the same under faults of all kinds, up to three at once, with and without a flush policy",
        run: bad_days::run,
    },
];

impl Scenario {
    /// The scenario of that name.
    pub fn named(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Runs it once, in this process, and answers the report and the trace. A broken rule, a panic of any task and a failed
    /// node all end the run and are in the report.
    pub fn run(&'static self, seed: u64) -> (Report, Vec<String>) {
        // RUST_LOG=debug shows what the nodes say; by default only the trace speaks.
        if std::env::var_os("RUST_LOG").is_some() {
            odradek_node::telemetry::init();
        }
        on_seeded_thread(seed, move || {
            let mut cluster = Cluster::of_shape(seed, Shape::drawn(seed), &[]);
            let history = cluster.history.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| (self.run)(&mut cluster)));
            let broken = outcome.err().map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
            });
            let trace = history.trace.lock().expect("no holder panics").clone();
            let report = Report {
                scenario: self.name.to_owned(),
                seed,
                simulated_ms: cluster.elapsed().as_millis() as u64,
                faults: cluster.faults.clone(),
                acknowledged: history.acknowledged_count() as u64,
                checked: history.checked.load(Ordering::Relaxed),
                work: history.work.lock().expect("no holder panics").clone(),
                events: trace.len() as u64,
                trace_hash: hash_lines(&trace),
                broken,
            };
            (report, trace)
        })
    }
}

/// Boots 3 + 3, creates, produces, kills brokers and controllers, parts and heals, and checks rules 1 to 4.
fn produce_through_faults(cluster: &mut Cluster<'_>) {
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
        faults::inject(cluster, &Fault::BRIEF);
        // Rule: when the fault is over, everything is served again.
        let before = history.acknowledged_count();
        cluster.run_until("records are acknowledged again after a fault", Duration::from_secs(60), |history| {
            history.acknowledged_count() > before + 20
        });
    }
    cluster.run_for(Duration::from_secs(5));
    history.stop.store(true, Ordering::Relaxed);
    cluster.run_for(Duration::from_secs(10));

    for partition in 0..PARTITIONS {
        let (hosts, shared) = (bootstrap.clone(), history.clone());
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        cluster.client(move |world| async move {
            match workload::read_all(&world, hosts, TOPIC, partition, Duration::from_secs(60)).await {
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
    // Rule 2, within a bound: a connection that lost a message is given up after `replica.socket.timeout.ms`.
    for partition in 0..PARTITIONS {
        let mut seconds = 0;
        while !cluster.replicas_agree(TOPIC, partition) {
            assert!(seconds < 60, "rule 2: the replicas of partition {partition} differ");
            cluster.run_for(Duration::from_secs(1));
            seconds += 1;
        }
    }
}
