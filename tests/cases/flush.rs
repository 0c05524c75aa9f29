//! Durable topics (`flush.messages=1`) on real disks: the policy is set and taken away while librdkafka produces, by config of
//! the topic and of the brokers, and brokers are killed meanwhile. (What a power cut leaves is shown where disks can be
//! simulated: `tests/sim`, `broker/src/replica/tests/flushes`.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::history::{Ledger, compare_replicas};
use odradek_tests::process::run_ok;
use odradek_tests::wire::Batch;
use odradek_tests::{Cluster, Spec, wait_for};

use crate::values;
use odradek_tests::writer::Writer;

const PARTITIONS: i32 = 4;
const LIMIT: Duration = Duration::from_secs(60);

fn config(cluster: &Cluster, line: &str) -> anyhow::Result<()> {
    let admin: Vec<&str> = cluster.controllers().map(|controller| controller.address.as_str()).collect();
    let mut command = program("odradek");
    command.args(line.split(' ')).args(["--admin", &admin.join(","), "--bootstrap", cluster.bootstrap()]);
    run_ok(command, LIMIT).map(drop)
}

#[test]
fn durable_topics_outlive_kills_and_changes_of_policy() {
    Spec::new(1, 3).run(|cluster| {
        let mut client = cluster.client();
        client.limit = LIMIT;
        let topic = NewTopic::new("vault", PARTITIONS, 3).config("min.insync.replicas", 2).config("flush.messages", 1);
        client.create_topic(&topic)?;
        let (ledger, stop) = (Arc::new(Ledger::default()), AtomicBool::new(false));
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let writers: Vec<_> = (0..2)
                .map(|id| {
                    let (ledger, stop) = (ledger.clone(), &stop);
                    scope.spawn(move || Writer::new(cluster.bootstrap(), id, PARTITIONS, "vault", &ledger)?.run(stop))
                })
                .collect();
            let outcome = disturb(cluster, &ledger);
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                writer.join().expect("a producer does not panic")?;
            }
            outcome
        })?;
        for partition in 0..PARTITIONS {
            client.wait_isr("vault", partition, &[1, 2, 3])?;
        }
        let seen = ledger.check(&mut client, "vault", PARTITIONS)?;
        let compared = compare_replicas(cluster, &mut client, "vault", PARTITIONS)?;
        eprintln!("{} records acknowledged; {compared} batches equal on 3 replicas", seen.acknowledged);
        acks_of_one(cluster)
    });
}

fn disturb(cluster: &Cluster, ledger: &Ledger) -> anyhow::Result<()> {
    let progress = |what: &str| {
        let from = ledger.count();
        wait_for(&format!("acknowledgements {what}"), LIMIT, || Ok((ledger.count() >= from + 500).then_some(())))
    };
    progress("under the policy")?;
    config(cluster, "config unset topic/vault flush.messages")?;
    progress("without it")?;
    config(cluster, "config set brokers log.flush.interval.messages=1")?;
    progress("under that of the brokers")?;
    cluster.broker(2).kill()?;
    progress("without one broker")?;
    cluster.broker(2).start()?;
    config(cluster, "config set topic/vault flush.messages=1000 flush.ms=100")?;
    progress("flushed in the background")?;
    config(cluster, "config set topic/vault flush.messages=1")?;
    progress("under the policy again")?;
    cluster.kill_all()?;
    cluster.start_all()?;
    progress("after all were killed together")
}

/// acks=0 and 1 under the policy.
fn acks_of_one(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("single", 1, 1).config("flush.messages", 1))?;
    let batch = Batch::of(&values("single", 3, 100)).encode();
    for n in 0..20 {
        let (error, offset) = client.at_leader("single", 0, |connection| {
            let produced = connection.produce("single", 0, &batch, 1)?;
            Ok((produced.error, produced.base_offset))
        })?;
        ensure!((error, offset) == (0, n * 3), "error {error} at {offset}");
    }
    ensure!(client.read_all("single", 0, 0)?.len() == 60, "what is acknowledged can be read");
    Ok(())
}
