//! The Java client, unmodified, through the small programs in `interop/` that Maven builds: that of 4.3.1 in full, and those of
//! years ago that other software brings along.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::history::compare_replicas;
use odradek_tests::java::{class_path, java};
use odradek_tests::process::{Process, run_ok};
use odradek_tests::{Cluster, Spec, wait_for};

const RUN_LIMIT: Duration = Duration::from_secs(120);

fn program(class_path: &str, arguments: &[&str]) -> Command {
    java(class_path, "interop.Main", arguments)
}

/// Runs a program to its OK, and does with the brokers what it asks for meanwhile: a line is `BROKER kill 2`, or `start`.
pub fn obey(cluster: &Cluster, command: Command) -> anyhow::Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
    let mut program = Process::start(command, log.path())?;
    let mut obeyed = 0;
    let status = wait_for("the program's end", RUN_LIMIT * 2, || {
        let ended = program.exited();
        let text = said();
        // Without its last line, which may be half written.
        let orders: Vec<&str> = text.split_inclusive('\n').filter_map(|line| line.strip_prefix("BROKER ")).collect();
        for order in orders.iter().skip(obeyed).filter(|order| order.ends_with('\n')) {
            let (what, id) = order.trim_end().split_once(' ').context("what and which")?;
            let broker = cluster.broker(id.parse()?);
            match what {
                "kill" => broker.kill()?,
                _ => broker.start()?,
            }
            obeyed += 1;
        }
        Ok(ended)
    });
    let status = status.with_context(said)?;
    let text = said();
    ensure!(status.success() && text.lines().any(|line| line == "OK"), "{text}");
    Ok(())
}

/// Runs a program to its OK, at most `limit` from when it has STARTED; then the brokers meet with `fate`.
fn once_started(
    cluster: &Cluster,
    command: Command,
    limit: Duration,
    fate: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let log = tempfile::NamedTempFile::new()?;
    let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
    let mut program = Process::start(command, log.path())?;
    wait_for("the first group", RUN_LIMIT, || {
        ensure!(program.exited().is_none(), "the program ended:\n{}", said());
        Ok(said().contains("STARTED").then_some(()))
    })?;
    if !cluster.is_attached() {
        fate()?;
    }
    let status = program.wait(limit).with_context(said)?;
    let text = said();
    ensure!(status.success() && text.lines().any(|line| line == "OK"), "{text}");
    Ok(())
}

/// Three brokers whose groups begin at once.
fn of_three() -> Spec {
    Spec::new(1, 3).set("offsets.topic.num.partitions", 3).set("group.initial.rebalance.delay.ms", 0)
}

#[test]
fn a_consumer_does_all_that_consumers_can() {
    let Some(class_path) = class_path("java") else { return };
    of_three().run(|cluster| obey(cluster, program(&class_path, &["consumers", cluster.bootstrap()])));
}

/// The same with consumer groups that hear of changes soon.
fn of_three_with_consumer_groups() -> Spec {
    of_three()
        .set("group.consumer.min.heartbeat.interval.ms", 100)
        .set("group.consumer.heartbeat.interval.ms", 200)
        .set("group.consumer.min.session.timeout.ms", 1_000)
}

#[test]
fn the_consumer_protocol_works_while_a_broker_is_killed() {
    let Some(class_path) = class_path("java") else { return };
    of_three_with_consumer_groups().run(|cluster| {
        let command = program(&class_path, &["consumer-protocol", cluster.bootstrap()]);
        once_started(cluster, command, RUN_LIMIT * 2, || {
            cluster.broker(2).kill()?;
            cluster.broker(2).start()
        })
    });
}

#[test]
fn a_producer_does_all_that_producers_can() {
    let Some(class_path) = class_path("java") else { return };
    Spec::new(1, 1).run(|cluster| obey(cluster, program(&class_path, &["producers", cluster.bootstrap()])));
}

#[test]
fn an_administrator_does_all_that_is_served() {
    let Some(class_path) = class_path("java") else { return };
    of_three().run(|cluster| obey(cluster, program(&class_path, &["admin", cluster.bootstrap()])));
}

#[test]
fn transactions_hold_while_their_coordinator_is_killed() {
    let Some(class_path) = class_path("java") else { return };
    of_three()
        .set("transaction.state.log.num.partitions", 5)
        .set("transaction.abort.timed.out.transaction.cleanup.interval.ms", 500)
        .run(|cluster| obey(cluster, program(&class_path, &["transactions", cluster.bootstrap()])));
}

#[test]
fn copies_are_made_once_by_every_assignor_while_coordinators_are_killed() {
    let Some(class_path) = class_path("java") else { return };
    of_three_with_consumer_groups()
        .set("transaction.state.log.num.partitions", 5)
        .run(|cluster| obey(cluster, program(&class_path, &["copies", cluster.bootstrap()])));
}

#[test]
fn kafka_streams_counts_exactly_once_while_a_broker_and_a_worker_are_killed() {
    let Some(class_path) = class_path("streams") else { return };
    of_three()
        .set("transaction.state.log.num.partitions", 3)
        .run(|cluster| obey(cluster, java(&class_path, "interop.Main", &["count", cluster.bootstrap()])));
}

#[test]
fn transactions_of_spring_are_whole_while_a_coordinator_is_killed() {
    let Some(class_path) = class_path("spring") else { return };
    of_three()
        .set("transaction.state.log.num.partitions", 3)
        .run(|cluster| obey(cluster, java(&class_path, "transfers.Transfers", &[cluster.bootstrap()])));
}

#[test]
fn what_is_not_served_is_refused_and_not_waited_for() {
    let Some(class_path) = class_path("java") else { return };
    Spec::new(1, 1)
        .set("offsets.topic.replication.factor", 1)
        .run(|cluster| obey(cluster, program(&class_path, &["not-served", cluster.bootstrap()])));
}

/// The assignors that both clients of years ago have; `more` are those that only one has.
fn old_client(project: &str, more: &[&str]) {
    let Some(class_path) = class_path(project) else { return };
    of_three().run(|cluster| {
        let of = |name: &&str| format!("org.apache.kafka.clients.consumer.{name}");
        let assignors = ["RangeAssignor", "RoundRobinAssignor", "StickyAssignor"].iter().chain(more).map(of);
        let arguments: Vec<String> = std::iter::once(cluster.bootstrap().to_owned()).chain(assignors).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        obey(cluster, java(&class_path, "interop.Old", &arguments))
    });
}

/// As Spark and Flume bring it.
#[test]
fn the_client_2_1_works_while_a_broker_is_killed() {
    old_client("java-old/2.1", &[]);
}

#[test]
fn the_client_2_8_works_while_a_broker_is_killed() {
    old_client("java-old/2.8", &["CooperativeStickyAssignor"]);
}

#[test]
fn every_codec_round_trips() {
    let Some(class_path) = class_path("java") else { return };
    Spec::new(1, 1).run(|cluster| {
        let said = run_ok(program(&class_path, &["roundtrip", cluster.bootstrap()]), RUN_LIMIT)?;
        ensure!(said.lines().any(|line| line == "OK"), "{said}");
        Ok(())
    });
}

#[test]
fn a_producer_survives_the_kill_of_a_leader() {
    let Some(class_path) = class_path("java") else { return };
    Spec::new(3, 3).run(|cluster| {
        let log = tempfile::NamedTempFile::new()?;
        let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
        let mut program =
            Process::start(program(&class_path, &["survive", cluster.bootstrap(), "java-survive", "12"]), log.path())?;
        let leader = wait_for("the first acknowledgements", RUN_LIMIT, || {
            let text = said();
            ensure!(program.exited().is_none(), "the program ended:\n{text}");
            let leader = text.lines().find_map(|line| line.strip_prefix("LEADER "));
            let leader = leader.and_then(|line| line.split(' ').next()).and_then(|id| id.parse::<i32>().ok());
            Ok(leader.filter(|_| text.contains("STARTED")))
        })?;
        cluster.broker(leader).kill()?;
        let mut client = cluster.client();
        wait_for("another leader", RUN_LIMIT, || Ok((client.leader("java-survive", 0)?.0 != leader).then_some(())))?;
        if !cluster.is_attached() {
            cluster.broker(leader).start()?;
        }
        let status = program.wait(RUN_LIMIT).with_context(said)?;
        let text = said();
        ensure!(status.success() && text.lines().any(|line| line == "OK"), "{text}");
        eprintln!("{}", text.lines().find(|line| line.starts_with('{')).unwrap_or_default());
        if !cluster.is_attached() {
            client.wait_isr("java-survive", 0, &[1, 2, 3])?;
            compare_replicas(cluster, &mut client, "java-survive", 1)?;
        }
        Ok(())
    });
}

#[test]
fn groups_share_and_commit_while_a_broker_is_killed() {
    let Some(class_path) = class_path("java") else { return };
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 3).set("group.initial.rebalance.delay.ms", 0);
    spec.run(|cluster| {
        let command = program(&class_path, &["groups", cluster.bootstrap()]);
        once_started(cluster, command, RUN_LIMIT, || cluster.broker(2).kill())
    });
}
