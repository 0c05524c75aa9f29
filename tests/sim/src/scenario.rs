//! Whole runs: a cluster, what is asked of it, what is done to it, and what is checked. A run is its scenario and its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use crate::bad_days;
use crate::cluster::{Cluster, Shape};
use crate::entropy::on_seeded_thread;
use crate::mixes;
use crate::report::{Report, hash_lines};

/// A kind of run.
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    brokers: usize,
    run: fn(&mut Cluster<'_>),
}

/// All that can be run by name.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "produce",
        about: "producers of every acks, with and without identity",
        brokers: 3,
        run: mixes::produce,
    },
    Scenario {
        name: "admin",
        about: "topics made, grown, configured, deleted, made again",
        brokers: 3,
        run: mixes::admin,
    },
    Scenario { name: "groups", about: "members of a group come, go and vanish", brokers: 3, run: mixes::groups },
    Scenario {
        name: "transactions",
        about: "transactional producers, and from topic to topic exactly once",
        brokers: 3,
        run: mixes::transactions,
    },
    Scenario { name: "storage", about: "compaction and retention of small segments", brokers: 3, run: mixes::storage },
    Scenario { name: "moves", about: "reassignments, elections, a decommission", brokers: 4, run: mixes::moves },
    Scenario { name: "all", about: "some of everything, as the seed draws it", brokers: 4, run: mixes::all },
    Scenario {
        name: "bad-days",
        about: "faults of all kinds, up to three at once, with and without a flush policy",
        brokers: 3,
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
        let shape = Shape { brokers: self.brokers, ..Shape::drawn(seed) };
        run(self.name, seed, move || Cluster::of_shape(seed, shape, mixes::SETTINGS), self.run)
    }
}

/// As [`Scenario::run`], of a cluster that is to be started so.
pub(crate) fn run(
    name: &'static str,
    seed: u64,
    start: impl FnOnce() -> Cluster<'static> + Send + 'static,
    play: fn(&mut Cluster<'_>),
) -> (Report, Vec<String>) {
    // RUST_LOG=debug shows what the nodes say; by default only the trace speaks.
    if std::env::var_os("RUST_LOG").is_some() {
        odradek_node::telemetry::init();
    }
    on_seeded_thread(seed, move || {
        let mut cluster = start();
        let history = cluster.history.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| play(&mut cluster)));
        let broken = outcome.err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        });
        let trace = history.trace.lock().expect("no holder panics").clone();
        let report = Report {
            scenario: name.to_owned(),
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
