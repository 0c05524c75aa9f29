//! `odradek.metrics.listener`: the numbers that real processes tell, and that they say what is wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_common::time::Timestamp;
use odradek_records::RecordBatchBuilder;
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::Node;
use odradek_tests::wire::now_ms;
use odradek_tests::{Spec, wait_for};

use crate::compaction::alter_topic;

const LIMIT: Duration = Duration::from_secs(30);
/// Between two batches; `segment.ms` is less, so that each closes the segment of the one before.
const STEP_MS: i64 = 2_000;

/// Where a node says that it serves its metrics.
fn address(node: &Node) -> anyhow::Result<String> {
    let text = node.log_text();
    let line = text.lines().find(|line| line.contains("metrics are served")).context("a line of the log")?;
    let address = line.split("address=").nth(1).context("an address")?;
    Ok(address.split_whitespace().next().unwrap_or_default().to_owned())
}

pub(crate) fn scraped(node: &Node) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address(node)?)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head and a body")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ensure!(head.contains("application/openmetrics-text"), "{head}");
    ensure!(body.ends_with("# EOF\n"), "{body}");
    Ok(body.to_owned())
}

/// The value of a metric, whatever its labels.
fn value(node: &Node, name: &str) -> anyhow::Result<f64> {
    let text = scraped(node)?;
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let line = text.lines().find(is_it).with_context(|| format!("no {name} in\n{text}"))?;
    line.rsplit(' ').next().context("a value")?.parse().with_context(|| line.to_owned())
}

pub(crate) fn wait_value(node: &Node, name: &str, expected: f64) -> anyhow::Result<()> {
    wait_for(&format!("{name} of {} is {expected}", node.name), LIMIT, || {
        let found = value(node, name)?;
        Ok((found == expected).then_some(()))
    })
}

#[test]
fn nodes_tell_what_they_have_and_what_is_missing() {
    Spec::new(1, 2).set("odradek.metrics.listener", "127.0.0.1:0").set("min.insync.replicas", 2).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("told", &[&[1, 2], &[2, 1], &[1, 2]]))?;
        let (first, second) = (cluster.broker(1), cluster.broker(2));
        wait_value(first, "kafka_server_replicamanager_leadercount", 2.0)?;
        wait_value(second, "kafka_server_replicamanager_leadercount", 1.0)?;
        for (name, expected) in [
            ("kafka_server_replicamanager_partitioncount", 3.0),
            ("kafka_server_replicamanager_underreplicatedpartitions", 0.0),
            ("kafka_server_replicamanager_underminisrpartitioncount", 0.0),
            ("kafka_server_replicamanager_offlinereplicacount", 0.0),
            ("kafka_log_logmanager_offlinelogdirectorycount", 0.0),
            ("kafka_log_logcleanermanager_uncleanable_partitions_count", 0.0),
        ] {
            wait_value(first, name, expected)?;
        }
        let controller = cluster.active_controller()?;
        for (name, expected) in [
            ("kafka_controller_kafkacontroller_activecontrollercount", 1.0),
            ("kafka_controller_kafkacontroller_globaltopiccount", 1.0),
            ("kafka_controller_kafkacontroller_globalpartitioncount", 3.0),
            ("kafka_controller_kafkacontroller_activebrokercount", 2.0),
            ("kafka_controller_kafkacontroller_offlinepartitionscount", 0.0),
        ] {
            wait_value(controller, name, expected)?;
        }
        second.kill()?;
        wait_value(controller, "kafka_controller_kafkacontroller_fencedbrokercount", 1.0)?;
        wait_value(controller, "kafka_controller_kafkacontroller_preferredreplicaimbalancecount", 1.0)?;
        wait_value(first, "kafka_server_replicamanager_underreplicatedpartitions", 3.0)?;
        wait_value(first, "kafka_server_replicamanager_underminisrpartitioncount", 3.0)
    });
}

#[test]
fn a_partition_that_cannot_be_cleaned_is_told_until_it_can() {
    let spec = Spec::new(1, 1).set("odradek.metrics.listener", "127.0.0.1:0").set("log.cleaner.backoff.ms", 100);
    spec.run(|cluster| {
        let (broker, mut client) = (cluster.broker(1), cluster.client());
        let topic = NewTopic::new("sick", 1, 1).config("cleanup.policy", "compact").config("segment.ms", STEP_MS / 2);
        client.create_topic(&topic.config("min.cleanable.dirty.ratio", 1))?;
        for round in 0..4 {
            let mut builder = RecordBatchBuilder::new();
            let time = Timestamp(now_ms() - 600_000 + round * STEP_MS);
            builder.append(time, Some(b"key"), Some(format!("value {round}").as_bytes()));
            client.produce_batch("sick", 0, &builder.build()?)?;
        }
        let path = broker.data().join("sick-0/00000000000000000001.log");
        let sound = std::fs::read(&path).context("the second segment")?;
        let mut damaged = sound.clone();
        *damaged.last_mut().context("a batch")? ^= 1;
        std::fs::write(&path, &damaged)?;
        alter_topic(&mut client, &broker.address, "sick", "min.cleanable.dirty.ratio", "0")?;

        wait_value(broker, "kafka_log_logcleanermanager_uncleanable_partitions_count", 1.0)?;
        let directory = format!("logDirectory=\"{}\"", broker.data().display());
        let text = scraped(broker)?;
        ensure!(text.contains(&directory), "{directory}\n{text}");
        ensure!(value(broker, "kafka_log_logcleanermanager_uncleanable_bytes")? > 0.0, "{text}");
        let told = broker.log_text();
        let line = told.lines().find(|line| line.contains("cannot be compacted")).context("a line of the log")?;
        ensure!(
            line.contains("ERROR") && line.contains("sick-0") && line.contains("00000000000000000001.log"),
            "{line}"
        );
        // It serves on, and nobody had to start it anew for another attempt.
        let mut builder = RecordBatchBuilder::new();
        builder.append(Timestamp(now_ms()), Some(b"key"), Some(b"another"));
        client.produce_batch("sick", 0, &builder.build()?)?;

        std::fs::write(&path, &sound)?;
        wait_value(broker, "kafka_log_logcleanermanager_uncleanable_partitions_count", 0.0)?;
        wait_value(broker, "kafka_log_logcleanermanager_uncleanable_bytes", 0.0)?;
        ensure!(broker.log_text().contains("can be compacted again"), "the log tells of it");
        Ok(())
    });
}
