//! The loss test: idempotent acks=all producers at full speed while brokers and controllers are killed -9 and started
//! again at random, and at last all of them together. Every acknowledged record must be there once, in order, and the
//! replicas must be equal byte for byte.
//!
//! `ODRADEK_LOSS_SECONDS` sets how long nodes die (one minute when unset, ten with `ODRADEK_LONG`); `ODRADEK_LOSS_SEED` replays which ones and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::Node;
use odradek_tests::history::{Ledger, compare_replicas};
use odradek_tests::writer::Writer;
use odradek_tests::{Cluster, Spec, is_long, seconds_from_env, wait_for};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

const PARTITIONS: i32 = 6;
const PRODUCERS: u32 = 3;
/// After the last fault everything is well again within this.
const HEAL_LIMIT: Duration = Duration::from_secs(60);

/// Kills one or two nodes, waits, starts them again, waits, until `until`. How many were killed.
fn kill_at_random(cluster: &Cluster, seed: u64, until: Instant) -> anyhow::Result<u32> {
    let mut random = SmallRng::seed_from_u64(seed);
    let all: Vec<&Node> = cluster.nodes().iter().collect();
    let mut killed = 0;
    while Instant::now() < until {
        let count = if random.random_bool(0.25) { 2 } else { 1 };
        let victims: Vec<&Node> = all.choose_multiple(&mut random, count).copied().collect();
        for node in &victims {
            node.kill()?;
            killed += 1;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..2_500)));
        for node in &victims {
            node.start()?;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(100..3_000)));
        for node in &all {
            ensure!(node.is_running(), "{} ended by itself", node.name);
        }
    }
    Ok(killed)
}

#[test]
fn nothing_acknowledged_is_lost_while_nodes_are_killed() {
    let seed = std::env::var("ODRADEK_LOSS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| odradek_tests::wire::now_ms() as u64);
    let during = seconds_from_env("ODRADEK_LOSS_SECONDS", if is_long() { 600 } else { 60 });
    eprintln!("ODRADEK_LOSS_SEED={seed}, {during:?}");
    Spec::new(3, 3).run(|cluster| {
        let mut client = cluster.client();
        client.limit = HEAL_LIMIT;
        client.create_topic(&NewTopic::new("loss", PARTITIONS, 3).config("min.insync.replicas", 2))?;
        let (ledger, stop) = (Arc::new(Ledger::default()), AtomicBool::new(false));
        let killed = std::thread::scope(|scope| -> anyhow::Result<u32> {
            let writers: Vec<_> = (0..PRODUCERS)
                .map(|id| {
                    let (ledger, stop) = (ledger.clone(), &stop);
                    scope.spawn(move || Writer::new(cluster.bootstrap(), id, PARTITIONS, "loss", &ledger)?.run(stop))
                })
                .collect();
            let outcome = break_it(cluster, &ledger, seed, during);
            stop.store(true, Ordering::Relaxed);
            let stopped = Instant::now();
            for writer in writers {
                writer.join().expect("a producer does not panic")?;
            }
            eprintln!("what was under way took {:?}", stopped.elapsed());
            outcome
        })?;
        for partition in 0..PARTITIONS {
            client.wait_isr("loss", partition, &[1, 2, 3])?;
        }
        let seen = ledger.check(&mut client, "loss", PARTITIONS)?;
        let compared = compare_replicas(cluster, &mut client, "loss", PARTITIONS)?;
        eprintln!(
            "{killed} kills; {} records acknowledged, {} stored, each once and in order; {compared} batches equal on 3 replicas",
            seen.acknowledged, seen.records
        );
        Ok(())
    });
}

fn break_it(cluster: &Cluster, ledger: &Ledger, seed: u64, during: Duration) -> anyhow::Result<u32> {
    let progress = |what: &str| {
        let from = ledger.count();
        wait_for(&format!("acknowledgements {what}"), HEAL_LIMIT, || Ok((ledger.count() >= from + 1_000).then_some(())))
    };
    progress("at the start")?;
    let killed = kill_at_random(cluster, seed, Instant::now() + during)?;
    progress("after the kills")?;
    cluster.kill_all()?;
    cluster.start_all()?;
    progress("after all were killed together")?;
    Ok(killed + cluster.nodes().len() as u32)
}
