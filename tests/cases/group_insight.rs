//! What operators are told of groups beside their offsets, on live clusters: lag in seconds (by the command line and as
//! metrics of bounded number), and why groups of both protocols have rebalanced.

use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_common::time::Timestamp;
use odradek_records::RecordBatchBuilder;
use odradek_tests::client::NewTopic;
use odradek_tests::wire::now_ms;
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::group_cli::{json, text};
use crate::metrics::scraped;
use crate::values;

const LIMIT: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// Between a record's timestamp and a look at its age, at most.
const SLACK_S: f64 = 120.0;

/// One batch, with a record for each timestamp.
fn batch(times_ms: &[i64]) -> anyhow::Result<bytes::Bytes> {
    let mut builder = RecordBatchBuilder::new();
    for time_ms in times_ms {
        builder.append(Timestamp(*time_ms), None, Some(b"value"));
    }
    Ok(builder.build()?)
}

fn partition(described: &Value, partition: i64) -> anyhow::Result<Value> {
    let rows = described["partitions"].as_array().context("partitions")?;
    rows.iter().find(|row| row["partition"] == partition).cloned().with_context(|| described.to_string())
}

fn check_age(described: &Value, index: i64, lag: i64, hours: f64) -> anyhow::Result<()> {
    let row = partition(described, index)?;
    let age = row["lag_seconds"].as_f64().with_context(|| described.to_string())?;
    let least = hours * 3_600.0;
    ensure!(row["lag"] == lag && age >= least && age < least + SLACK_S, "{index}: {lag} since {hours} h: {described}");
    Ok(())
}

fn set(cluster: &Cluster, partition: i64, offset: i64) -> anyhow::Result<()> {
    text(cluster, &format!("group reset-offsets readers --topic orders:{partition} --to-offset {offset} --execute"))
        .map(drop)
}

#[test]
fn lag_is_told_in_records_and_in_seconds() {
    let spec = Spec::new(1, 2)
        .set("odradek.metrics.listener", "127.0.0.1:0")
        .set("offsets.topic.num.partitions", 1)
        .set("offsets.topic.replication.factor", 1)
        .set("odradek.group.lag.interval.ms", 200)
        .set("odradek.group.lag.metrics.max", 2);
    spec.run(|cluster| {
        let mut client = cluster.client();
        // Leaders on both brokers: one of them does not coordinate the group.
        let topic = NewTopic::assigned("orders", &[&[1], &[2], &[1], &[2]]).config("retention.ms", -1);
        client.create_topic(&topic)?;
        let now = now_ms();
        let old = [now - 3 * HOUR_MS, now - 2 * HOUR_MS, now - HOUR_MS];
        client.produce_batch("orders", 0, &batch(&old)?)?;
        client.produce_batch("orders", 1, &batch(&old)?)?;
        client.produce_batch("orders", 1, &batch(&[now - HOUR_MS / 2])?)?;
        // Clocks that are ahead, and records without a timestamp.
        client.produce_batch("orders", 2, &batch(&[now + HOUR_MS / 4])?)?;
        client.produce_batch("orders", 3, &batch(&[-1])?)?;
        text(cluster, "group reset-offsets readers --topic orders --to-earliest --execute")?;
        let described = json(cluster, "group describe readers")?;
        check_age(&described, 0, 3, 3.0)?;
        check_age(&described, 1, 4, 3.0)?;
        check_age(&described, 2, 1, 0.0)?;
        ensure!(partition(&described, 2)?["lag_seconds"] == 0.0, "never less than nothing: {described}");
        let row = partition(&described, 3)?;
        ensure!(row["lag"] == 1 && row["lag_seconds"].is_null() && described["lag_seconds"].is_null(), "{described}");

        // In the middle of a batch it is that record's own age; behind all of them, none.
        set(cluster, 1, 2)?;
        check_age(&json(cluster, "group describe readers")?, 1, 2, 1.0)?;
        set(cluster, 1, 3)?;
        check_age(&json(cluster, "group describe readers")?, 1, 1, 0.5)?;
        set(cluster, 0, 3)?;
        set(cluster, 3, 1)?;
        let described = json(cluster, "group describe readers")?;
        check_age(&described, 0, 0, 0.0)?;
        ensure!(described["lag"] == 2 && described["lag_seconds"].as_f64() > Some(1_800.0), "{described}");
        let said = text(cluster, "group describe readers")?;
        ensure!(said.contains("SECONDS") && said.contains("behind       18"), "{said}");

        // As metrics of the coordinator, and of nobody else: two series, the others in sum.
        let coordinator = i32::try_from(described["coordinator"].as_i64().context("a coordinator")?)?;
        set(cluster, 0, 0)?;
        let seen = |name: &str, index: i64| {
            format!("odradek_group_lag_{name}{{group=\"readers\",topic=\"orders\",partition=\"{index}\"}} ")
        };
        wait_for("metrics", LIMIT, || {
            let told = scraped(cluster.broker(coordinator))?;
            let value = |name: &str, index| {
                let line = told.lines().find_map(|line| line.strip_prefix(&seen(name, index)));
                line.and_then(|value| value.parse::<f64>().ok())
            };
            let is_old = value("seconds", 0).is_some_and(|age| (10_800.0..10_800.0 + SLACK_S).contains(&age));
            let is_all = value("records", 0) == Some(3.0) && value("records", 1) == Some(1.0) && is_old;
            let beyond = ["odradek_group_lag_beyond_partitions 2.0", "odradek_group_lag_beyond_records 1.0"];
            let has_beyond = beyond.iter().all(|line| told.lines().any(|told| told == *line));
            let has_no_more = value("records", 2).is_none() && value("records", 3).is_none();
            Ok((is_all && has_beyond && has_no_more).then_some(()))
        })?;
        let other = scraped(cluster.broker(3 - coordinator))?;
        ensure!(!other.contains("group=\"readers\""), "{other}");
        Ok(())
    });
}

fn join(cluster: &Cluster, group: &str, protocol: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", group).set("group.protocol", protocol).set("client.id", "test-reader");
    config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    if protocol == "classic" {
        config.set("session.timeout.ms", "45000").set("heartbeat.interval.ms", "200");
    }
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&["shared"])?;
    Ok(consumer)
}

/// The newest rebalance is over and is so, while members go on.
fn wait_history(
    cluster: &Cluster,
    group: &str,
    members: &[&BaseConsumer],
    holds: impl Fn(&[Value], &Value) -> bool,
) -> anyhow::Result<Value> {
    wait_for(&format!("the history of {group}"), LIMIT, || {
        for member in members {
            // Of a coordinator that was killed the client tells as of an error; it goes on by itself.
            drop(member.poll(Duration::from_millis(20)));
        }
        let Ok(history) = json(cluster, &format!("group describe {group} --history")) else { return Ok(None) };
        let rebalances = history["rebalances"].as_array().context("rebalances")?;
        Ok(rebalances.last().is_some_and(|last| holds(rebalances, last)).then(|| history.clone()))
    })
}

fn has_cause(rebalance: &Value, why: &str) -> bool {
    let causes = rebalance["causes"].as_array().into_iter().flatten();
    causes.into_iter().any(|cause| cause["why"] == why)
}

#[test]
fn every_rebalance_leaves_a_trace() {
    let spec = Spec::new(1, 3)
        .set("offsets.topic.num.partitions", 1)
        .set("offsets.topic.replication.factor", 3)
        .set("group.initial.rebalance.delay.ms", 0)
        .set("group.consumer.min.heartbeat.interval.ms", 100)
        .set("group.consumer.heartbeat.interval.ms", 200);
    spec.run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("shared", 4, 3))?;
        client.produce("shared", 0, &values("record", 10, 20))?;
        for protocol in ["classic", "consumer"] {
            come_and_go(cluster, protocol).context(protocol)?;
        }
        if cluster.is_attached() {
            return Ok(());
        }
        // Another coordinator begins anew, and says so.
        client.wait_isr("__consumer_offsets", 0, &[1, 2, 3])?;
        let reader = join(cluster, "consumer", "consumer")?;
        wait_history(cluster, "consumer", &[&reader], |_, last| last["outcome"] == "stable" && last["moved"] == 4)?;
        let (coordinator, _) = client.leader("__consumer_offsets", 0)?;
        cluster.broker(coordinator).kill()?;
        let history = wait_history(cluster, "consumer", &[&reader], |_, last| last["outcome"] == "loaded")?;
        ensure!(history["rebalances"].as_array().map(Vec::len) == Some(1), "{history}");
        ensure!(has_cause(&history["rebalances"][0], "coordinator-load"), "{history}");
        ensure!(history["coordinator"] != coordinator && history["dropped"] == 0, "{history}");
        let said = text(cluster, "group describe consumer --history")?;
        ensure!(said.contains("known since") && said.contains("coordinator-load"), "{said}");
        cluster.broker(coordinator).start()
    });
}

fn come_and_go(cluster: &Cluster, group: &str) -> anyhow::Result<()> {
    let first = join(cluster, group, group)?;
    wait_history(cluster, group, &[&first], |_, last| last["outcome"] == "stable" && last["moved"] == 4)?;
    let second = join(cluster, group, group)?;
    let history = wait_history(cluster, group, &[&first, &second], |rebalances, last| {
        rebalances.len() > 1 && last["outcome"] == "stable" && last["moved"] == 2
    })?;
    let rebalances = history["rebalances"].as_array().context("rebalances")?;
    ensure!(has_cause(&rebalances[0], "join") && rebalances[0]["causes"][0]["client_id"] == "test-reader", "{history}");
    ensure!(rebalances.iter().skip(1).any(|one| has_cause(one, "join")), "{history}");
    let given = rebalances.last().context("one")?["moves"].as_array().context("moves")?;
    let is_handed_over =
        |one: &Value| one["topic"] == "shared" && !one["from_member_id"].is_null() && !one["to_member_id"].is_null();
    ensure!(!given.is_empty() && given.iter().all(is_handed_over), "{history}");
    // One follows the other, without a gap.
    let is_next = |pair: &[Value]| pair[0]["to_epoch"] == pair[1]["from_epoch"];
    ensure!(rebalances.windows(2).all(is_next), "{history}");
    drop(second);
    let history = wait_history(cluster, group, &[&first], |_, last| {
        last["outcome"] == "stable" && has_cause(last, "leave") && last["moved"] == 2
    })?;
    let said = text(cluster, &format!("group describe {group} --history"))?;
    for part in ["TIME", "OUTCOME", "WHAT", "join", "leave", "client test-reader", "gets", "shared:"] {
        ensure!(said.contains(part), "{part}: {said}\n{history}");
    }
    drop(first);
    wait_history(cluster, group, &[], |_, last| last["outcome"] == "empty").map(drop)
}
