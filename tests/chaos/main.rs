//! A cluster of real processes, with clients of every kind, while somebody kills, stops, parts and starves its nodes; and a
//! checker that compares what the clients were promised with what is there.
//!
//! Three controllers and four brokers, each behind a proxy that knows who comes. From one seed: which faults come, to whom,
//! for how long; and what administrators do. What the processes make of it is not determined by the seed.
//!
//! `tests/chaos/run` has parameters; a test run does the same for some minutes. From the environment:
//! `ODRADEK_CHAOS_SECONDS` (how long nodes are broken), `ODRADEK_CHAOS_SEED`, `ODRADEK_BIN_DIR` and `ODRADEK_OTHER_BIN_DIR`, the
//! programs of a second version that half of the nodes run.

mod admin;
mod consumers;
mod history;
mod java;
mod nemesis;
mod producers;
mod requests;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::disk::SmallDisk;
use odradek_tests::history::{Ledger, compare_replicas};
use odradek_tests::writer::Writer;
use odradek_tests::{Client, Cluster, Spec, is_long, seconds_from_env};

use crate::consumers::{Delivered, Seen};
use crate::history::History;
use crate::nemesis::Nemesis;
use crate::producers::Transactions;

/// The topic of all who are promised that nothing is lost.
const ALL: &str = "acks-all";
const ALL_PARTITIONS: i32 = 6;
/// The topic of those who are promised less.
const ONE: &str = "acks-one";
const ONE_PARTITIONS: i32 = 3;
const TRANSACTIONS: &str = "transactions";

/// When all faults are over, everything works again within this.
const LIVE_LIMIT: Duration = Duration::from_secs(90);

/// One broker's disk, most of it never used: it is in memory.
const DISK_MEBIBYTES: u32 = 1024;

fn spec() -> Spec {
    Spec::new(3, 4)
        .proxied()
        .set("min.insync.replicas", 2)
        // On a busy machine controllers may not run for a second.
        .set("odradek.quorum.heartbeat.interval.ms", 500)
        .set("controller.quorum.election.timeout.ms", 3_000)
        .set("broker.session.timeout.ms", 6_000)
        .set("replica.lag.time.max.ms", 6_000)
        .set("offsets.topic.num.partitions", 4)
        .set("transaction.state.log.num.partitions", 4)
        .set("transaction.abort.timed.out.transaction.cleanup.interval.ms", 500)
        .set("group.initial.rebalance.delay.ms", 0)
        .set("log.segment.bytes", 1 << 20)
}

#[test]
fn promises_are_kept_whatever_happens_to_the_nodes() {
    let seed = std::env::var("ODRADEK_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| odradek_tests::wire::now_ms() as u64);
    let during = seconds_from_env("ODRADEK_CHAOS_SECONDS", if is_long() { 1_800 } else { 180 });
    let other_bin = std::env::var_os("ODRADEK_OTHER_BIN_DIR").map(PathBuf::from);
    eprintln!("ODRADEK_CHAOS_SEED={seed}, {during:?}");
    let disk = OnceLock::new();
    let history = History::new();
    let prepare = |cluster: &Cluster| {
        let data = cluster.broker(1).data();
        std::fs::create_dir_all(&data)?;
        let mounted = SmallDisk::mount(data, DISK_MEBIBYTES)?;
        disk.get_or_init(|| Mutex::new(mounted));
        // By the older of two versions, if there are two: it cannot read what the newer one writes.
        for (place, node) in cluster.nodes().iter().enumerate() {
            if let Some(bin) = &other_bin
                && place % 2 == 1
            {
                node.set_bin(bin);
            }
            odradek_tests::cluster::format_storage_by(other_bin.as_deref(), &cluster.cluster_id, &node.config())?;
        }
        Ok(())
    };
    spec().run_prepared(prepare, |cluster| {
        // Gone before the directory that it is in.
        let disk = disk.get().and_then(|disk| disk.lock().ok()?.take());
        let outcome = run(cluster, &history, disk.as_ref(), other_bin.clone(), seed, during);
        history.must("the run", outcome);
        // Past the capture of the test runner: what was done is to be seen of a run that passed, too.
        let figures = format!("chaos, ODRADEK_CHAOS_SEED={seed}, {during:?}:\n{}", history.figures());
        let _ = std::io::stderr().write_all(figures.as_bytes());
        let Some(verdict) = history.verdict() else { return Ok(()) };
        if let Some(disk) = disk {
            cluster.broker(1).kill()?;
            disk.copy_to(&cluster.broker(1).dir.join("data-of-the-small-disk"))?;
        }
        anyhow::bail!("ODRADEK_CHAOS_SEED={seed}: {verdict}")
    });
}

/// Runs a worker whose failure breaks a rule.
fn worker<'scope>(
    scope: &'scope Scope<'scope, '_>,
    history: &'scope History,
    name: &'static str,
    work: impl FnOnce() -> anyhow::Result<()> + Send + 'scope,
) -> ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || history.must(name, work()))
}

const RAW_WRITERS: std::ops::Range<u32> = 0..2;
const LIBRDKAFKA_WRITER: u32 = 2;
const JAVA_WRITER: u32 = 3;
const PLAIN_WRITER: u32 = 4;
const MEMBERS: usize = 2;
const GROUP: &str = "readers";
const WRITER_PAUSE: Duration = Duration::from_millis(20);

fn run(
    cluster: &Cluster,
    history: &History,
    disk: Option<&SmallDisk>,
    other_bin: Option<PathBuf>,
    seed: u64,
    during: Duration,
) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.limit = LIVE_LIMIT;
    client.create_topic(&NewTopic::new(ALL, ALL_PARTITIONS, 3))?;
    client.create_topic(&NewTopic::new(ONE, ONE_PARTITIONS, 3))?;
    client.create_topic(&NewTopic::new(TRANSACTIONS, 2, 3))?;
    let (ledger, plain) = (Arc::new(Ledger::default()), Ledger::default());
    let (topics, transactions, seen) = (admin::Topics::default(), Transactions::default(), Seen::default());
    let (delivered, stop_writer) = (Delivered::default(), AtomicBool::new(false));
    let mut java = java::Worker::start(cluster)?;

    std::thread::scope(|scope| -> anyhow::Result<()> {
        let mut writers = Vec::new();
        for id in RAW_WRITERS {
            let ledger = &ledger;
            let work = move || producers::idempotent(cluster, history, ledger, id);
            writers.push(worker(scope, history, "an idempotent producer", work));
        }
        let work = || producers::plain(cluster, history, &plain, PLAIN_WRITER);
        writers.push(worker(scope, history, "acks=1", work));
        writers.push(worker(scope, history, "transactions", || transactions.run(cluster, history)));
        writers.push(worker(scope, history, "commits by hand", || consumers::commits(cluster, history)));
        writers.push(worker(scope, history, "watcher", || seen.watch(cluster, history)));
        writers.push(worker(scope, history, "topics", || topics.run(cluster, history, seed)));
        writers.push(worker(scope, history, "reassignments", || admin::reassigns(cluster, history, seed)));
        let work = || {
            let mut writer = Writer::new(cluster.bootstrap(), LIBRDKAFKA_WRITER, ALL_PARTITIONS, ALL, &ledger)?;
            writer.pause = WRITER_PAUSE;
            writer.run(&stop_writer)
        };
        writers.push(worker(scope, history, "librdkafka", work));
        for _ in 0..MEMBERS {
            worker(scope, history, "a member", || consumers::member(cluster, history, GROUP, &delivered));
        }

        let mut nemesis = Nemesis::new(cluster, history, disk, other_bin, seed);
        history.must("nemesis", nemesis.run(Instant::now() + during));
        history.note("the faults are over");
        history.stop();
        stop_writer.store(true, Ordering::Relaxed);
        java.stop_writing()?;
        writers.into_iter().for_each(|writer| drop(writer.join()));
        history.must("java", java.wait_written(&ledger, JAVA_WRITER));
        // Even when this fails the readers must come to their end.
        let ends = consumers::ends(&mut client);
        *history.ends.lock().expect("no panic under this lock") = Some(ends.as_ref().cloned().unwrap_or_default());
        java.stop_reading()?;
        ends.map(drop)
    })?;
    if history.is_broken() {
        return Ok(());
    }
    check(cluster, history, &mut client, &ledger, &plain)?;
    seen.check(&mut client, history)?;
    transactions.check(cluster, history, &mut client)?;
    topics.check(cluster, history, &mut client)?;
    let ends = history.ends.lock().expect("no panic under this lock").clone().context("the ends are known")?;
    delivered.check(GROUP, history, &ends);
    java.check(history, &ends)
}

fn check(
    cluster: &Cluster,
    history: &History,
    client: &mut Client,
    ledger: &Ledger,
    plain: &Ledger,
) -> anyhow::Result<()> {
    admin::wait_well(cluster, client)?;
    consumers::check_committed(cluster, history)?;
    let found = ledger.check(client, ALL, ALL_PARTITIONS).context("rule 1")?;
    ensure!(found.acknowledged > 0, "nothing was acknowledged");
    history.count("records acknowledged with acks=all, all there, once and in order", found.acknowledged);
    history.count("records stored of those with acks=all", found.records);
    producers::check_plain(history, client, plain)?;
    for (topic, partitions) in [(ALL, ALL_PARTITIONS), (ONE, ONE_PARTITIONS), (TRANSACTIONS, 2)] {
        let compared = compare_replicas(cluster, client, topic, partitions).context("rule 2")?;
        history.count("batches equal on all replicas", compared);
    }
    Ok(())
}
