//! Configs that change while the cluster runs: they take effect on every broker without a restart, outlast one, and what
//! is refused changes nothing.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::process::{Finished, run};
use odradek_tests::wire::{Batch, Reader, error};
use odradek_tests::{Cluster, Spec, wait_for};

const LIMIT: Duration = Duration::from_secs(20);
const INVALID_REQUEST: i16 = 42;

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn cli(cluster: &Cluster, line: &str) -> anyhow::Result<Finished> {
    let admin: Vec<&str> = cluster.controllers().map(|controller| controller.address.as_str()).collect();
    let mut command: Command = program("odradek");
    command.args(line.split(' ')).args(["--admin", &admin.join(","), "--bootstrap", cluster.bootstrap()]);
    run(command, LIMIT)
}

fn cli_ok(cluster: &Cluster, line: &str) -> anyhow::Result<String> {
    let finished = cli(cluster, line)?;
    ensure!(finished.status.success(), "{line}: {}\n{}", finished.status, finished.output);
    Ok(finished.output)
}

/// Waits until a batch of 4 KiB gets this answer; a change through the controllers reaches brokers a moment later.
fn wait_produced(cluster: &Cluster, topic: &str, expected: i16) -> anyhow::Result<()> {
    let mut client = cluster.client();
    let batch = Batch::of(&[vec![b'x'; 4096]]).encode();
    wait_for(&format!("{topic}: error {expected}"), LIMIT, || {
        let (code, ()) =
            client.at_leader(topic, 0, |connection| Ok((connection.produce(topic, 0, &batch, -1)?.error, ())))?;
        Ok((code == expected).then_some(()))
    })
}

/// IncrementalAlterConfigs v0 with one SET, sent to a broker; its error and message.
fn alter(
    cluster: &Cluster,
    broker: i32,
    (kind, name): (i8, &str),
    (config, value): (&str, &str),
    validate_only: bool,
) -> anyhow::Result<(i16, String)> {
    let mut client = cluster.client();
    let connection = client.connection(&cluster.broker(broker).address)?;
    let mut request = connection.request(44, 0);
    request.i32(1).i8(kind).string(name).i32(1).string(config).i8(0).string(value).i8(i8::from(validate_only));
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    answer.i32()?;
    ensure!(answer.i32()? == 1, "one resource");
    Ok((answer.i16()?, answer.string()?))
}

#[test]
fn configs_take_effect_while_the_cluster_runs_and_outlast_it() {
    Spec::new(1, 2).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("one", &[&[1]]))?;
        client.create_topic(&NewTopic::assigned("two", &[&[2]]))?;
        // Of a topic.
        wait_produced(cluster, "one", error::NONE)?;
        cli_ok(cluster, "config set topic/one max.message.bytes=1000")?;
        wait_produced(cluster, "one", error::MESSAGE_TOO_LARGE)?;
        cli_ok(cluster, "config unset topic/one max.message.bytes")?;
        wait_produced(cluster, "one", error::NONE)?;
        // Of all brokers, and of one; the broker that is asked has seen the change before it answers.
        ensure!(alter(cluster, 1, (BROKER, ""), ("message.max.bytes", "1000"), false)?.0 == error::NONE, "all brokers");
        wait_produced(cluster, "one", error::MESSAGE_TOO_LARGE)?;
        wait_produced(cluster, "two", error::MESSAGE_TOO_LARGE)?;
        cli_ok(cluster, "config set broker/2 message.max.bytes=10000")?;
        wait_produced(cluster, "two", error::NONE)?;
        wait_produced(cluster, "one", error::MESSAGE_TOO_LARGE)?;
        let described = cli_ok(cluster, "config get topic/two max.message.bytes")?;
        ensure!(described.contains("1000") && described.contains("broker"), "{described}");
        let listed = cli_ok(cluster, "config list --type broker")?;
        ensure!(listed.contains("broker/2") && listed.contains("message.max.bytes"), "{listed}");
        refusals(cluster)?;
        for broker in cluster.brokers() {
            ensure!(broker.stop()?.success(), "a clean stop");
            broker.start()?;
        }
        cluster.wait_served()?;
        wait_produced(cluster, "two", error::NONE)?;
        wait_produced(cluster, "one", error::MESSAGE_TOO_LARGE)
    });
}

fn refusals(cluster: &Cluster) -> anyhow::Result<()> {
    let set = ("retention.ms", "5");
    for (resource, config, expected, words) in [
        ((TOPIC, "none"), set, error::UNKNOWN_TOPIC_OR_PARTITION, "'none' does not exist"),
        ((TOPIC, "one"), ("retention.ms", "soon"), error::INVALID_CONFIG, "retention.ms"),
        ((TOPIC, "one"), ("no.such", "1"), error::INVALID_CONFIG, "no.such"),
        ((BROKER, "2"), ("log.retention.ms", "5"), INVALID_REQUEST, "expected 1"),
        ((BROKER, ""), ("log.dirs", "/x"), INVALID_REQUEST, "log.dirs"),
        ((BROKER, "1"), ("num.replica.fetchers", "100"), INVALID_REQUEST, "num.replica.fetchers"),
        ((77, "x"), set, INVALID_REQUEST, "77"),
    ] {
        let (code, message) = alter(cluster, 1, resource, config, false)?;
        ensure!(code == expected && message.contains(words), "{resource:?} {config:?}: {code} {message}");
    }
    ensure!(alter(cluster, 1, (TOPIC, "one"), set, true)?.0 == error::NONE, "only checked");
    let described = cli_ok(cluster, "config get topic/one retention.ms --output json")?;
    ensure!(described.contains("604800000"), "nothing was changed: {described}");
    for (line, exit, words) in [
        ("config set topic/none retention.ms=5", 4, "no topic none"),
        ("config set topic/one retention.ms=soon", 1, "retention.ms"),
        ("config get topic/none", 4, "no topic none"),
        ("config get broker/9", 4, "broker 9"),
        ("config set planet/mars gravity=0", 2, "topic/NAME"),
        ("broker describe 9", 4, "broker 9"),
        ("broker unregister 1", 1, "serving"),
        ("quorum features --set no.version=1", 1, "no.version"),
    ] {
        let finished = cli(cluster, line)?;
        let code = finished.status.code().context("an exit code")?;
        ensure!(code == exit && finished.output.contains(words), "{line}: {code}\n{}", finished.output);
    }
    let quorum = cli_ok(cluster, "quorum status --output json")?;
    ensure!(quorum.contains("\"observers\":[{\"broker_id\":1"), "{quorum}");
    Ok(())
}
