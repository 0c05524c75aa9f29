//! Nodes die, fall silent, or are cut off: what was acknowledged stays, and service goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use odradek_tests::client::{Connection, FetchOptions, NewTopic};
use odradek_tests::history::compare_replicas;
use odradek_tests::wire::{Batch, error};
use odradek_tests::{Cluster, Spec, wait_for};

use crate::values;

/// Produces single records with acks=all until told to stop; the longest time between two acknowledgements.
fn longest_gap(
    cluster: &Cluster,
    topic: &str,
    during: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| -> anyhow::Result<Duration> {
            let (mut client, mut longest, mut index) = (cluster.client(), Duration::ZERO, 0u64);
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                client.produce(topic, 0, &[index.to_string().into_bytes()])?;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                index += 1;
            }
            Ok(longest)
        });
        let outcome = during();
        stop.store(true, Ordering::Relaxed);
        let longest = producer.join().expect("the producer does not panic");
        outcome.and(longest)
    })
}

fn replicated(cluster: &Cluster, topic: &str) -> anyhow::Result<odradek_tests::Client> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::assigned(topic, &[&[1, 2, 3]]).config("min.insync.replicas", 2))?;
    client.wait_isr(topic, 0, &[1, 2, 3])?;
    Ok(client)
}

/// A new leader that acknowledges, other than `old`.
fn wait_other_leader(cluster: &Cluster, topic: &str, old: i32) -> anyhow::Result<i32> {
    let mut client = cluster.client();
    wait_for("another leader", Duration::from_secs(20), || {
        let (leader, _) = client.leader(topic, 0)?;
        Ok((leader != old).then_some(leader))
    })
}

#[test]
fn a_killed_leader_is_replaced_comes_back_and_leads_again() {
    Spec::new(3, 3).set("leader.imbalance.check.interval.seconds", 1).run(|cluster| {
        let mut client = replicated(cluster, "killed")?;
        client.produce("killed", 0, &values("before", 100, 100))?;
        let gap = longest_gap(cluster, "killed", || {
            cluster.broker(1).kill()?;
            wait_other_leader(cluster, "killed", 1)?;
            cluster.client().produce("killed", 0, &values("after", 10, 100))?;
            Ok(())
        })?;
        // Measured exactly elsewhere; here only that nobody waited for the session timeout of 9 s.
        ensure!(gap < Duration::from_secs(8), "the gap was {gap:?}");
        let metadata = client.wait_isr("killed", 0, &[2, 3])?;
        ensure!(metadata.leader_epoch > 0, "a new leader has a new epoch: {metadata:?}");
        cluster.broker(1).start()?;
        client.wait_isr("killed", 0, &[1, 2, 3])?;
        wait_for("the first replica leads again, by itself", Duration::from_secs(30), || {
            Ok((client.leader("killed", 0)?.0 == 1).then_some(()))
        })?;
        let read = client.read_all("killed", 0, 0)?;
        ensure!(read.iter().filter(|r| r.value.starts_with(b"before")).count() == 100, "nothing was lost");
        compare_replicas(cluster, &mut client, "killed", 1)?;
        Ok(())
    });
}

#[test]
fn the_death_of_the_active_controller_is_hardly_felt() {
    Spec::new(3, 3).run(|cluster| {
        let mut client = replicated(cluster, "headless")?;
        let gap = longest_gap(cluster, "headless", || {
            let old = cluster.active_controller()?;
            old.kill()?;
            let new = cluster.active_controller()?;
            ensure!(new.id != old.id, "another controller is active");
            // The new one decides.
            cluster.client().create_topic(&NewTopic::new("made-by-the-new-one", 3, 3))?;
            old.start()?;
            Ok(())
        })?;
        ensure!(gap < Duration::from_secs(8), "the gap was {gap:?}");
        client.wait_isr("headless", 0, &[1, 2, 3])?;
        let known = client.metadata(Some(&["made-by-the-new-one"]))?;
        ensure!(known.topics["made-by-the-new-one"].partitions.len() == 3, "the topic is known");
        Ok(())
    });
}

#[test]
fn a_stopped_active_controller_hands_over() {
    Spec::new(3, 1).run(|cluster| {
        for round in 0..3 {
            let active = cluster.active_controller()?;
            ensure!(active.stop()?.success(), "{} stops cleanly", active.name);
            let said = active.log_text();
            ensure!(said.contains("handed the leadership over"), "{}: {said}", active.name);
            // Whoever took it decides at once.
            cluster.client().create_topic(&NewTopic::new(&format!("after-{round}"), 1, 1))?;
            active.start()?;
            cluster.wait_served()?;
        }
        Ok(())
    });
}

#[test]
fn without_a_majority_of_controllers_data_still_flows() {
    Spec::new(3, 3).run(|cluster| {
        let mut client = replicated(cluster, "orphaned")?;
        cluster.node("controller-1").kill()?;
        cluster.node("controller-2").kill()?;
        for index in 0..20 {
            client.produce("orphaned", 0, &values(&index.to_string(), 10, 100))?;
        }
        ensure!(client.read_all("orphaned", 0, 0)?.len() == 200, "produce and fetch need no controller");
        cluster.node("controller-1").start()?;
        cluster.node("controller-2").start()?;
        client.create_topic(&NewTopic::new("again", 1, 3))
    });
}

#[test]
fn a_silent_leader_is_replaced_and_what_it_holds_alone_is_cut() {
    Spec::new(3, 3).run(|cluster| {
        let mut client = replicated(cluster, "silent")?;
        client.produce("silent", 0, &values("before", 10, 100))?;
        let gap = longest_gap(cluster, "silent", || {
            cluster.broker(1).pause()?;
            wait_other_leader(cluster, "silent", 1)?;
            cluster.client().produce("silent", 0, &values("meanwhile", 10, 100))?;
            Ok(())
        })?;
        ensure!(gap < Duration::from_secs(20), "the gap was {gap:?}");
        cluster.broker(1).resume()?;
        client.wait_isr("silent", 0, &[1, 2, 3])?;
        compare_replicas(cluster, &mut client, "silent", 1)?;
        Ok(())
    });
}

#[test]
fn an_isolated_leader_acknowledges_nothing_and_is_truncated() {
    Spec::new(3, 3).proxied().run(|cluster| {
        let mut client = replicated(cluster, "isolated")?;
        client.produce("isolated", 0, &values("before", 10, 100))?;
        cluster.isolate(1);
        // The test still reaches it, past the proxy: it appends, and must not acknowledge.
        let mut direct = Connection::open(&cluster.broker(1).address)?;
        let lonely = Batch::of(&values("lonely", 1, 100)).encode();
        let answer = direct.produce("isolated", 0, &lonely, -1)?;
        ensure!(answer.error != error::NONE, "acknowledged without any follower: {answer:?}");
        let mut others = odradek_tests::Client::new(&format!(
            "{},{}",
            cluster.bootstrap().split(',').nth(1).unwrap_or_default(),
            cluster.bootstrap().split(',').nth(2).unwrap_or_default()
        ));
        others.limit = Duration::from_secs(30);
        // Not to hang in the old leader's black hole.
        wait_for("another leader", Duration::from_secs(30), || {
            Ok((others.leader("isolated", 0)?.0 != 1).then_some(()))
        })?;
        let base = others.produce("isolated", 0, &values("after", 10, 100))?;
        ensure!(base == 10, "the new leader continues at the high watermark: {base}");
        // The old leader's tail is not shown to consumers, neither now nor later.
        let seen = direct.fetch("isolated", 0, 0, FetchOptions { wait_ms: 0, ..FetchOptions::default() })?;
        ensure!(seen.high_watermark <= 10, "the old leader's high watermark stood still: {}", seen.high_watermark);
        // What hung is reset, as after a long partition.
        cluster.network().heal(true);
        others.wait_isr("isolated", 0, &[1, 2, 3])?;
        let read = others.read_all("isolated", 0, 0)?;
        ensure!(read.len() == 20 && read.iter().all(|r| !r.value.starts_with(b"lonely")), "{} records", read.len());
        compare_replicas(cluster, &mut others, "isolated", 1)?;
        Ok(())
    });
}

#[test]
fn too_few_in_sync_replicas_refuse_acks_all() {
    Spec::new(1, 3).run(|cluster| {
        let mut client = replicated(cluster, "few")?;
        client.produce("few", 0, &values("before", 10, 100))?;
        cluster.broker(2).kill()?;
        cluster.broker(3).kill()?;
        client.wait_isr("few", 0, &[1])?;
        let mut connection = Connection::open(&cluster.broker(1).address)?;
        let batch = Batch::of(&values("refused", 1, 100)).encode();
        let answer = connection.produce("few", 0, &batch, -1)?;
        ensure!(answer.error == error::NOT_ENOUGH_REPLICAS, "acks=all with one replica: {answer:?}");
        let answer = connection.produce("few", 0, &batch, 1)?;
        ensure!(answer.error == error::NONE, "acks=1 is accepted: {answer:?}");
        // Not enough replicas: the high watermark stands still (KIP-966).
        let seen = connection.fetch("few", 0, 0, FetchOptions { wait_ms: 0, ..FetchOptions::default() })?;
        ensure!(seen.high_watermark == 10, "the high watermark stands: {}", seen.high_watermark);
        cluster.broker(2).start()?;
        cluster.broker(3).start()?;
        client.wait_isr("few", 0, &[1, 2, 3])?;
        wait_for("the record is committed", Duration::from_secs(10), || {
            Ok((client.end_offset("few", 0)? == 11).then_some(()))
        })
    });
}
