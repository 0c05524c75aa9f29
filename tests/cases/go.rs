//! Go's clients, unmodified, through the program in `interop/go`: franz-go (with kadm), sarama, segmentio's kafka-go.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::go::program;
use odradek_tests::history::compare_replicas;
use odradek_tests::process::{Process, run_ok};
use odradek_tests::{Cluster, Spec, wait_for};

use crate::java::obey;

const RUN_LIMIT: Duration = Duration::from_secs(180);
const PARTITIONS: i32 = 3;

/// Runs all that the program does with one client, on one cluster; with `older` versions of its protocol not all.
fn everything(client: &str, older: Option<&str>) {
    let Some(program) = program("go") else { return };
    // With one partition of `__consumer_offsets`, whose leader is the coordinator of every group.
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 1).set("offsets.topic.replication.factor", 3);
    spec.set("group.initial.rebalance.delay.ms", 0).run(|cluster| {
        let all = ["roundtrip", "groups", "admin"].map(|scenario| (client, scenario));
        let older = older.into_iter().flat_map(|older| [(older, "roundtrip"), (older, "groups")]);
        for (client, scenario) in all.into_iter().chain(older) {
            let mut command = Command::new(&program);
            command.args([client, scenario, cluster.bootstrap()]);
            let said = run_ok(command, RUN_LIMIT).context(scenario)?;
            ensure!(said.lines().any(|line| line == "OK"), "{scenario}: {said}");
        }
        survives(cluster, &program, client).context("survive")
    });
}

/// Produces and consumes while the broker that coordinates the group, and leads a partition of the topic, is killed.
fn survives(cluster: &Cluster, program: &Path, client: &str) -> anyhow::Result<()> {
    let files = tempfile::tempdir()?;
    let (log, end) = (files.path().join("log"), files.path().join("end"));
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let mut command = Command::new(program);
    command.args([client, "survive", cluster.bootstrap()]).arg(&end);
    let mut program = Process::start(command, &log)?;
    let mut wait_said = |what: &str, holds: &dyn Fn(&str) -> bool| {
        wait_for(what, RUN_LIMIT, || {
            let text = said();
            if let Some(status) = program.exited() {
                return Ok(Some(Err(anyhow::anyhow!("the program ended ({status}):\n{text}"))));
            }
            Ok(holds(&text).then_some(Ok(())))
        })?
    };
    // Each tells of some hundreds of acknowledged records.
    let steps = |text: &str| text.lines().filter(|line| line.starts_with("ACKED ")).count();
    wait_said("the program runs", &|text| text.lines().any(|line| line == "STARTED"))?;

    let topic = format!("{client}-survive");
    let mut kafka = cluster.client();
    kafka.wait_isr("__consumer_offsets", 0, &[1, 2, 3])?;
    for partition in 0..PARTITIONS {
        kafka.wait_isr(&topic, partition, &[1, 2, 3])?;
    }
    let (coordinator, _) = kafka.leader("__consumer_offsets", 0)?;
    if !cluster.is_attached() {
        cluster.broker(coordinator).kill()?;
        for (topic, partition) in
            (0..PARTITIONS).map(|partition| (topic.as_str(), partition)).chain([("__consumer_offsets", 0)])
        {
            wait_for("another leader", RUN_LIMIT, || {
                Ok((kafka.leader(topic, partition)?.0 != coordinator).then_some(()))
            })?;
        }
        let before = steps(&said());
        wait_said("records are acknowledged without it", &|text| steps(text) > before + 2)?;
        cluster.broker(coordinator).start()?;
        for partition in 0..PARTITIONS {
            kafka.wait_isr(&topic, partition, &[1, 2, 3])?;
        }
    }
    let before = steps(&said());
    wait_said("records are acknowledged with it", &|text| steps(text) > before + 2)?;
    std::fs::write(&end, "")?;
    let status = program.wait(RUN_LIMIT).with_context(said)?;
    let text = said();
    ensure!(status.success() && text.lines().any(|line| line == "OK"), "{text}");
    eprintln!("{}", text.lines().find(|line| line.starts_with('{')).unwrap_or_default());
    if !cluster.is_attached() {
        compare_replicas(cluster, &mut kafka, &topic, PARTITIONS)?;
    }
    Ok(())
}

#[test]
fn franz_go_does_everything_and_survives_a_kill() {
    everything("franz-go", None);
}

#[test]
fn sarama_does_everything_and_survives_a_kill() {
    everything("sarama", Some("sarama-2.1"));
}

#[test]
fn kafka_go_does_everything_and_survives_a_kill() {
    everything("kafka-go", None);
}

#[test]
fn sessions_of_franz_go_copy_exactly_once_while_a_coordinator_is_killed() {
    let Some(program) = program("go") else { return };
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 3).set("transaction.state.log.num.partitions", 3);
    let spec = spec.set("group.initial.rebalance.delay.ms", 0).set("group.consumer.min.heartbeat.interval.ms", 100);
    spec.set("group.consumer.heartbeat.interval.ms", 200).run(|cluster| {
        let mut command = Command::new(&program);
        command.args(["franz-go", "exactly-once", cluster.bootstrap()]);
        obey(cluster, command)
    });
}
