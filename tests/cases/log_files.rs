//! `odradek log` on the directories of real brokers, and side by side with Kafka's own reader of log files.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::kafka::Tools;
use odradek_tests::process::{run, run_ok};
use odradek_tests::{Cluster, Spec, real};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::values;

const DUMP_LOG_SEGMENTS: &str = "org.apache.kafka.tools.DumpLogSegments";
const LIMIT: Duration = Duration::from_secs(60);

fn log(arguments: &[&str]) -> Command {
    let mut command = program("odradek");
    command.arg("log").args(arguments);
    command
}

/// The lines of `log dump`, each an object.
fn dump(arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let text = run_ok(log(&[&["dump", "--output", "json"], arguments].concat()), LIMIT)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn fill(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    let topic = NewTopic::new("filed", 1, 1).config("segment.bytes", 1_048_576).config("index.interval.bytes", 1_000);
    client.create_topic(&topic)?;
    for index in 0..60 {
        client.produce("filed", 0, &values(&index.to_string(), 30, 1_000))?;
    }
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", "filing").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("filed", 0, Offset::Offset(77))?;
    odradek_tests::wait_for("a commit", LIMIT, || {
        drop(consumer.poll(Duration::from_millis(20)));
        Ok(Some(consumer.commit(&list, CommitMode::Sync)?))
    })
}

#[test]
fn what_a_broker_leaves_is_sound_and_is_told_as_kafka_tells_it() {
    let spec = Spec::new(1, 1).set("offsets.topic.num.partitions", 1).set("offsets.topic.replication.factor", 1);
    spec.run(|cluster| {
        fill(cluster)?;
        let broker = cluster.broker(1);
        let data = broker.data();
        let dir = data.to_str().context("a path of UTF-8")?;
        let said = run(log(&["verify", dir]), LIMIT)?;
        ensure!(!said.status.success() && said.output.contains("a broker uses this directory"), "{}", said.output);
        run_ok(log(&["verify", dir, "--in-use"]), LIMIT)?;

        // Killed: what it has written is sound, though nothing was closed.
        broker.kill()?;
        let said = run_ok(log(&["verify", dir, "--records"]), LIMIT)?;
        ensure!(said.contains("problems: 0") && said.contains(".kafka_cleanshutdown is missing"), "{said}");
        broker.start()?;
        cluster.wait_served()?;
        broker.stop()?;
        let said = run_ok(log(&["verify", dir, "--records", "--output", "json"]), LIMIT)?;
        let report: Value = serde_json::from_str(&said)?;
        ensure!(report["sound"] == true && report["notes"].as_array().is_some_and(Vec::is_empty), "{report:#}");
        ensure!(report["checked"]["records"].as_i64() > Some(1_800), "{report:#}");

        let filed = data.join("filed-0");
        let segment = filed.join("00000000000000000000.log");
        let segment = segment.to_str().context("a path of UTF-8")?;
        let batches = dump(&[segment])?;
        ensure!(
            batches.iter().all(|batch| batch["kind"] == "batch" && batch["valid"] == true),
            "{:#?}",
            batches.first()
        );
        let some = dump(&[segment, "--records", "--from", "100", "--to", "103"])?;
        let offsets: Vec<i64> =
            some.iter().filter(|row| row["kind"] == "record").filter_map(|row| row["offset"].as_i64()).collect();
        ensure!(offsets == [100, 101, 102], "{offsets:?}");
        let groups = dump(&[data.join("__consumer_offsets-0").to_str().context("a path")?, "--records"])?;
        let is_ours = |row: &&Value| {
            let decoded = &row["decoded"];
            decoded["type"] == "OffsetCommit" && decoded["key"]["group"] == "filing"
        };
        let committed = groups.iter().find(is_ours).context("the commit is told")?;
        ensure!(committed["decoded"]["value"]["data"]["offset"] == 77, "{committed:#}");
        let own = dump(&[dir])?;
        for kind in ["property", "checkpoint"] {
            ensure!(own.iter().any(|row| row["kind"] == kind), "{kind} among {own:#?}");
        }
        let text = run_ok(log(&["dump", filed.to_str().context("a path")?]), LIMIT)?;
        ensure!(
            text.contains("OFFSETS") && text.contains("partition.metadata") && text.contains("EPOCH  FROM"),
            "{text}"
        );
        damage_is_told(&filed)?;
        if let Some(tools) = Tools::new() {
            as_kafka_tells_it(&tools, &filed, &data)?;
        }
        broker.start()
    });
}

/// A copy of the partition with one bit changed.
fn damage_is_told(from: &Path) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let copy = home.path().join("filed-0");
    std::fs::create_dir(&copy)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    let segment = copy.join("00000000000000000000.log");
    let mut bytes = std::fs::read(&segment)?;
    bytes[100_000] ^= 4;
    std::fs::write(&segment, bytes)?;
    let said = run(log(&["verify", copy.to_str().context("a path")?]), LIMIT)?;
    let words =
        ["00000000000000000000.log at byte", "the record batch is corrupt", "at the next start: ", "one problem"];
    for word in words {
        ensure!(said.status.code() == Some(1) && said.output.contains(word), "`{word}` is missing:\n{}", said.output);
    }
    let said = run(log(&["dump", segment.to_str().context("a path")?]), LIMIT)?;
    ensure!(said.status.code() == Some(1) && said.output.contains("WRONG"), "{}", said.output);
    Ok(())
}

/// Both tools say the same of each batch and index entry.
fn as_kafka_tells_it(tools: &Tools, filed: &Path, data: &Path) -> anyhow::Result<()> {
    let segment = filed.join("00000000000000000000.log");
    let file = segment.to_str().context("a path of UTF-8")?;
    let said = tools.ok(DUMP_LOG_SEGMENTS, &["--files", file])?;
    // `baseOffset: 0 lastOffset: 29 count: 30 ... position: 0 ... size: 31000 ... crc: 123 isvalid: true`
    let field = |line: &str, name: &str| {
        let mut words = line.split(' ').skip_while(|word| *word != name);
        words.nth(1).map(str::to_owned)
    };
    let names = [
        ("baseOffset:", "base_offset"),
        ("lastOffset:", "last_offset"),
        ("count:", "count"),
        ("partitionLeaderEpoch:", "leader_epoch"),
        ("position:", "position"),
        ("size:", "bytes"),
        ("crc:", "crc"),
    ];
    let theirs: Vec<&str> = said.lines().filter(|line| line.starts_with("baseOffset:")).collect();
    let ours = dump(&[file])?;
    ensure!(theirs.len() == ours.len() && ours.len() > 10, "{} and {} batches", theirs.len(), ours.len());
    for (their, our) in theirs.iter().zip(&ours) {
        for (name, own) in names {
            let their_value = field(their, name).with_context(|| format!("{name} in {their}"))?;
            let our_value = our[own].to_string();
            ensure!(our_value == their_value, "{name} {their_value}: {our:#}");
        }
    }
    let index = filed.join("00000000000000000000.index");
    let file = index.to_str().context("a path of UTF-8")?;
    let said = tools.ok(DUMP_LOG_SEGMENTS, &["--files", file])?;
    let theirs: Vec<(String, String)> = said
        .lines()
        .filter(|line| line.starts_with("offset: "))
        .filter_map(|line| Some((field(line, "offset:")?, field(line, "position:")?)))
        .collect();
    let ours: Vec<(String, String)> =
        dump(&[file])?.iter().map(|row| (row["offset"].to_string(), row["position"].to_string())).collect();
    ensure!(theirs == ours && ours.len() > 10, "{theirs:?}\n{ours:?}");
    // Every mode of Kafka's tool that applies to what a broker of ours leaves.
    let group = data.join("__consumer_offsets-0/00000000000000000000.log");
    let group = group.to_str().context("a path of UTF-8")?;
    for more in [&["--offsets-decoder"][..], &["--deep-iteration", "--print-data-log"], &["--skip-record-metadata"]] {
        let arguments = [&["--files", group][..], more].concat();
        let said = tools.ok(DUMP_LOG_SEGMENTS, &arguments)?;
        for complaint in ["Exception", "isvalid: false", "Could not"] {
            ensure!(!said.contains(complaint), "{more:?}: {said}");
        }
        if more == ["--offsets-decoder"] {
            ensure!(said.contains("\"group\":\"filing\"") && said.contains("\"offset\":77"), "{said}");
        }
    }
    let time_index = filed.join("00000000000000000000.timeindex");
    let time_index = time_index.to_str().context("a path of UTF-8")?;
    for mode in ["--index-sanity-check", "--verify-index-only"] {
        let files = format!("{file},{time_index}");
        let said = tools.ok(DUMP_LOG_SEGMENTS, &[mode, "--files", &files])?;
        let sound = said.matches("passed sanity check").count();
        ensure!(!said.contains("Exception") && !said.contains("Mismatches"), "{mode}: {said}");
        ensure!(mode != "--index-sanity-check" || sound == 2, "{mode}: {said}");
    }
    Ok(())
}
