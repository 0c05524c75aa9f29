//! Spring Boot, Flume, Flink and Spark as producers and consumers, by the examples in `interop/` that users run, too.
//!
//! Each example places orders in one topic, answers each of them with a receipt in another, and ends well only when all
//! receipts are there, at least once, and nothing else is. Half-way it loses the broker that coordinates its groups and
//! leads a third of its partitions, for good. The frameworks bring clients of their own: 4.1, 2.7, 4.2 and 3.9.
//!
//! Flink's sink writes exactly once, too, by a job of its own (that of Spring's transactions is among the cases of `java`).

use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::process::Process;
use odradek_tests::{Spec, is_long_or_say, java, wait_for};

use crate::java::obey;

/// More than the example itself allows before it gives up.
const RUN_LIMIT: Duration = Duration::from_secs(360);
const ORDERS: u64 = 5_000;

/// Runs an example that spreads its orders over `seconds`, so that a broker can be killed before the last one.
fn check(framework: &str, seconds: &str) {
    let Some(mut example) = java::example(framework) else { return };
    // One partition of `__consumer_offsets`: its leader is the coordinator of every group.
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 1).set("group.initial.rebalance.delay.ms", 0);
    spec.run(|cluster| {
        let log = tempfile::NamedTempFile::new()?;
        let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
        example.args(["--bootstrap-server", cluster.bootstrap(), "--seconds", seconds]);
        let mut example = Process::start(example, log.path())?;
        let placed = wait_for("the first receipts", RUN_LIMIT, || {
            ensure!(example.exited().is_none(), "the example ended:\n{}", said());
            let text = said();
            let placed = text.lines().find_map(|line| line.strip_prefix("STARTED: "));
            Ok(placed.and_then(|line| line.split(' ').next()).and_then(|count| count.parse::<u64>().ok()))
        })?;
        ensure!(
            placed < ORDERS,
            "all orders were placed before a broker could be killed; spread them over more seconds"
        );
        let mut client = cluster.client();
        // Spark keeps its offsets in its own checkpoint and joins no group.
        let topic = if framework == "spark" { orders(&said())? } else { "__consumer_offsets".to_owned() };
        let (victim, _) = client.leader(&topic, 0)?;
        cluster.broker(victim).kill()?;
        let status = example.wait(RUN_LIMIT).with_context(said)?;
        let text = said();
        eprintln!("{text}");
        ensure!(status.success() && text.lines().last() == Some("OK"), "{text}");
        Ok(())
    });
}

/// The topic of orders, from what an example has said: `topic spark-orders-mx0w7l7l: 6 partitions, ...`.
fn orders(said: &str) -> anyhow::Result<String> {
    let mut topics = said.lines().filter_map(|line| line.strip_prefix("topic ")?.split_once(": "));
    let found = topics.find(|(topic, _)| topic.contains("-orders-"));
    found.map(|(topic, _)| topic.to_owned()).with_context(|| format!("a topic of orders in\n{said}"))
}

#[test]
fn a_spring_boot_application_outlives_a_broker() {
    check("spring", "4");
}

#[test]
fn a_flume_agent_outlives_a_broker() {
    if is_long_or_say("Flume outlives a broker") {
        check("flume", "4");
    }
}

#[test]
fn a_flink_job_outlives_a_broker() {
    if is_long_or_say("Flink outlives a broker") {
        check("flink", "30");
    }
}

/// As `interop/flink/java.args` has them.
const OPENED_TO_FLINK: &str = "--add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED \
                               --add-opens=java.base/java.util.concurrent=ALL-UNNAMED";

#[test]
fn a_flink_job_that_fails_writes_exactly_once() {
    if !is_long_or_say("Flink writes exactly once") {
        return;
    }
    let Some(class_path) = java::class_path("flink") else { return };
    Spec::new(1, 3).set("transaction.state.log.num.partitions", 3).run(|cluster| {
        let mut job = java::java(&class_path, "interop.ExactlyOnce", &[cluster.bootstrap()]);
        job.env("JDK_JAVA_OPTIONS", OPENED_TO_FLINK);
        obey(cluster, job)
    });
}

#[test]
fn spark_queries_outlive_a_broker() {
    if is_long_or_say("Spark outlives a broker") {
        check("spark", "60");
    }
}
