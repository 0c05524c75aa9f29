//! Compaction, as clients and the files show it: what stays, on leaders and followers, through restarts; and the same
//! topics compacted by Apache Kafka (`kafka`).
//!
//! Batches carry times of the past, each so much later than the one before that it begins a segment of its own. So it does
//! not depend on the clock what is closed, and with `min.cleanable.dirty.ratio=0` what stays does not depend on when the
//! cleaner looked.

mod kafka;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_records::{Batch, Batches, RecordBatchBuilder};
use odradek_tests::client::{Client, FetchOptions, NewTopic};
use odradek_tests::wire::{Reader, error, now_ms};
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

/// A compacted log is as it should be within this, on a machine that builds something else at the same time.
const LIMIT: Duration = Duration::from_secs(30);
const HOUR_MS: i64 = 3_600_000;
/// Between two batches; [`SEGMENT_MS`] is less, so that each closes the segment of the one before.
const STEP_MS: i64 = 2_000;
const SEGMENT_MS: i64 = 1_000;
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;

/// Offset, key, value.
type Line = (i64, Option<String>, Option<String>);

/// Long ones by their beginning, length and checksum.
fn text(bytes: &Bytes) -> String {
    match bytes.len() {
        0..=40 => String::from_utf8_lossy(bytes).into_owned(),
        len => format!("{}... {len} {:08x}", String::from_utf8_lossy(&bytes[..20]), crc32c::crc32c(bytes)),
    }
}

fn lines(batch: &Batch) -> anyhow::Result<Vec<Line>> {
    batch.check_crc()?;
    if batch.header.attributes.is_control() {
        return Ok(Vec::new());
    }
    let records = batch.records(DECOMPRESSED_BYTES_MAX)?;
    records
        .map(|record| {
            let record = record?;
            Ok((record.offset.0, record.key.as_ref().map(text), record.value.as_ref().map(text)))
        })
        .collect()
}

/// What a consumer finds from the log's start on.
fn consumed(client: &mut Client, topic: &str) -> anyhow::Result<Vec<Line>> {
    let (mut next, end) = (log_start(client, topic)?, client.end_offset(topic, 0)?);
    let mut found = Vec::new();
    while next < end {
        let (code, fetched) = client.at_leader(topic, 0, |connection| {
            let fetched = connection.fetch(topic, 0, next, FetchOptions::default())?;
            Ok((fetched.error, fetched))
        })?;
        ensure!(code == error::NONE, "fetch {topic} from {next}: error {code}");
        let before = next;
        for batch in Batches::new(fetched.data.into()).map_while(Result::ok) {
            found.extend(lines(&batch)?.into_iter().filter(|line| line.0 >= next));
            next = batch.header.next_offset().0;
        }
        ensure!(next > before, "{topic}: nothing to read from {before} to {end}");
    }
    Ok(found)
}

fn log_start(client: &mut Client, topic: &str) -> anyhow::Result<i64> {
    let (code, offset) = client.at_leader(topic, 0, |connection| {
        let (code, _, offset, _) = connection.list_offset(topic, 0, -2)?;
        Ok((code, offset))
    })?;
    ensure!(code == error::NONE, "ListOffsets of {topic}: error {code}");
    Ok(offset)
}

/// The batches in a replica's files; an error when a file has just been replaced.
fn stored(data: &Path, topic: &str) -> anyhow::Result<Vec<Batch>> {
    let dir = data.join(format!("{topic}-0"));
    let mut files: Vec<_> = fs::read_dir(&dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    let mut batches = Vec::new();
    for file in files {
        let bytes: Bytes = fs::read(&file)?.into();
        batches.extend(Batches::new(bytes).collect::<Result<Vec<_>, _>>().with_context(|| file.display().to_string())?);
    }
    Ok(batches)
}

fn stored_lines(data: &Path, topic: &str) -> anyhow::Result<Vec<Line>> {
    let mut found = Vec::new();
    for batch in stored(data, topic)? {
        found.extend(lines(&batch)?);
    }
    Ok(found)
}

/// The line of `topic` in a broker's `cleaner-offset-checkpoint`.
fn cleaned_to(data: &Path, topic: &str) -> Option<i64> {
    let text = fs::read_to_string(data.join("cleaner-offset-checkpoint")).ok()?;
    let mut lines = text.lines().skip(2).map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|words| words.first() == Some(&topic))?.get(2)?.parse().ok()
}

fn wait_cleaned(data: &Path, topic: &str, offset: i64) -> anyhow::Result<()> {
    wait_for(&format!("{topic} in {} is clean to {offset}", data.display()), LIMIT, || {
        let found = cleaned_to(data, topic);
        ensure!(found == Some(offset), "it is clean to {found:?}");
        Ok(Some(()))
    })
}

/// A batch of keys and values.
fn batch(builder: RecordBatchBuilder, time_ms: i64, records: &[(&str, Option<&str>)]) -> anyhow::Result<Vec<u8>> {
    let mut builder = builder;
    for (key, value) in records {
        builder.append(Timestamp(time_ms), Some(key.as_bytes()), value.map(str::as_bytes));
    }
    Ok(builder.build()?.to_vec())
}

/// IncrementalAlterConfigs v0 with one SET.
pub fn alter_topic(client: &mut Client, address: &str, topic: &str, config: &str, value: &str) -> anyhow::Result<()> {
    let connection = client.connection(address)?;
    let mut request = connection.request(44, 0);
    request.i32(1).i8(TOPIC).string(topic).i32(1).string(config).i8(0).string(value).i8(0);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    answer.i32()?;
    ensure!(answer.i32()? == 1, "one resource");
    let (code, message) = (answer.i16()?, answer.string()?);
    ensure!(code == error::NONE, "{topic} {config}={value}: error {code} {message}");
    Ok(())
}

fn compacted(name: &str, policy: &str) -> NewTopic {
    let topic = NewTopic::new(name, 1, 3).config("cleanup.policy", policy).config("segment.ms", SEGMENT_MS);
    topic.config("min.cleanable.dirty.ratio", 0).config("file.delete.delay.ms", 0)
}

/// The bytes of a replica's segments.
fn size(data: &Path, topic: &str) -> anyhow::Result<usize> {
    Ok(stored(data, topic)?.iter().map(|batch| batch.header.size).sum())
}

/// Waits until each broker's replica holds exactly these lines, and a consumer finds them.
fn wait_lines(cluster: &Cluster, topic: &str, expected: &[Line]) -> anyhow::Result<()> {
    for broker in cluster.brokers() {
        wait_for(&format!("{topic} on {}", broker.name), LIMIT, || {
            let found = stored_lines(&broker.data(), topic)?;
            let difference = found.iter().zip(expected).find(|(found, expected)| found != expected);
            ensure!(found == expected, "{} lines, {} are due: {difference:?}", found.len(), expected.len());
            Ok(Some(()))
        })?;
    }
    let found = consumed(&mut cluster.client(), topic)?;
    ensure!(found == expected, "{topic} as it is consumed: {found:?}");
    Ok(())
}

const ROUNDS: i64 = 40;
const KEYS: i64 = 20;
const VALUE_BYTES: usize = 500;

/// Overwrites each key in each round, one segment a round. What stays when the last round is in the active segment.
fn overwrite(client: &mut Client, topic: &str, base_ms: i64, from: i64) -> anyhow::Result<Vec<Line>> {
    let mut expected: Vec<Line> = Vec::new();
    for round in from..from + ROUNDS {
        let values: Vec<(String, String)> =
            (0..KEYS).map(|key| (format!("key-{key}"), format!("{round}-{key}-{}", "x".repeat(VALUE_BYTES)))).collect();
        let records: Vec<(&str, Option<&str>)> =
            values.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect();
        let bytes = batch(RecordBatchBuilder::new(), base_ms + round * STEP_MS, &records)?;
        let base = client.produce_batch(topic, 0, &bytes)?;
        if round >= from + ROUNDS - 2 {
            let line = |(at, (key, value)): (i64, &(String, String))| {
                (base + at, Some(key.clone()), Some(text(&Bytes::from(value.clone()))))
            };
            expected.extend((0..).zip(&values).map(line));
        }
    }
    Ok(expected)
}

#[test]
fn a_topic_shrinks_to_its_latest_values_on_every_replica() {
    Spec::new(1, 3).set("log.cleaner.backoff.ms", 50).run(|cluster| {
        let mut client = cluster.client();
        let base_ms = now_ms() - 2 * HOUR_MS;
        client.create_topic(&compacted("latest", "compact"))?;
        client.wait_isr("latest", 0, &[1, 2, 3])?;
        let expected = overwrite(&mut client, "latest", base_ms, 0)?;
        wait_lines(cluster, "latest", &expected)?;
        let whole = ROUNDS as usize * KEYS as usize * VALUE_BYTES;
        for broker in cluster.brokers() {
            let size = size(&broker.data(), "latest")?;
            ensure!(size < whole / 10, "{} keeps {size} of {whole} bytes", broker.name);
            wait_cleaned(&broker.data(), "latest", (ROUNDS - 1) * KEYS)?;
        }
        tombstones(&mut client, cluster, base_ms)?;
        both_policies(&mut client, cluster)?;

        // An orderly restart, and a loss of all at once.
        for broker in cluster.brokers() {
            ensure!(broker.stop()?.success(), "{} stops in order", broker.name);
            broker.start()?;
            cluster.wait_served()?;
        }
        wait_lines(cluster, "latest", &expected)?;
        cluster.kill_all()?;
        cluster.start_all()?;
        cluster.wait_served()?;
        wait_lines(cluster, "latest", &expected)?;
        // And on.
        let mut client = cluster.client();
        client.wait_isr("latest", 0, &[1, 2, 3])?;
        let expected = overwrite(&mut client, "latest", base_ms, ROUNDS)?;
        wait_lines(cluster, "latest", &expected)
    });
}

/// A deleted key's mark goes, too, once `delete.retention.ms` has passed and there is something new to clean.
fn tombstones(client: &mut Client, cluster: &Cluster, base_ms: i64) -> anyhow::Result<()> {
    const RETENTION: Duration = Duration::from_millis(300);
    client.create_topic(&compacted("deleted", "compact").config("delete.retention.ms", RETENTION.as_millis()))?;
    client.wait_isr("deleted", 0, &[1, 2, 3])?;
    let steps: [&[(&str, Option<&str>)]; 4] = [
        &[("a", Some("1")), ("b", Some("1"))],
        &[("a", None), ("c", Some("1"))],
        &[("d", Some("1"))],
        &[("d", Some("2"))],
    ];
    let mut send = |step: i64, records: &[(&str, Option<&str>)]| {
        client.produce_batch("deleted", 0, &batch(RecordBatchBuilder::new(), base_ms + step * STEP_MS, records)?)
    };
    for (step, records) in steps.iter().enumerate().take(3) {
        send(step as i64, records)?;
    }
    for broker in cluster.brokers() {
        wait_cleaned(&broker.data(), "deleted", 4)?;
        let found = stored_lines(&broker.data(), "deleted")?;
        ensure!(found.iter().any(|line| line.0 == 2 && line.2.is_none()), "the mark is there at first: {found:?}");
    }
    // The horizon is what must pass: there is nothing to see of it.
    std::thread::sleep(RETENTION);
    send(3, steps[3])?;
    let some = |text: &str| Some(text.to_owned());
    let expected =
        [(1, some("b"), some("1")), (3, some("c"), some("1")), (4, some("d"), some("1")), (5, some("d"), some("2"))];
    wait_lines(cluster, "deleted", &expected)
}

/// `compact,delete`: what is old goes, key or not; of what is not, the latest stay.
fn both_policies(client: &mut Client, cluster: &Cluster) -> anyhow::Result<()> {
    client.create_topic(&compacted("both", "compact,delete").config("retention.ms", HOUR_MS))?;
    client.wait_isr("both", 0, &[1, 2, 3])?;
    for (base_ms, prefix) in [(now_ms() - 2 * HOUR_MS, "old"), (now_ms() - HOUR_MS / 6, "new")] {
        for step in 0..5 {
            let (key, value) = (format!("{prefix}-{}", step % 2), format!("{step}"));
            let bytes = batch(RecordBatchBuilder::new(), base_ms + step * STEP_MS, &[(&key, Some(&value))])?;
            client.produce_batch("both", 0, &bytes)?;
        }
        if prefix == "old" {
            // Before it could share a segment with what is young.
            wait_lines(cluster, "both", &[])?;
        }
    }
    let line = |at: i64, key: &str, value: &str| (at, Some(key.to_owned()), Some(value.to_owned()));
    wait_lines(cluster, "both", &[line(7, "new-0", "2"), line(8, "new-1", "3"), line(9, "new-0", "4")])?;
    let start = log_start(client, "both")?;
    ensure!(start == 5, "the log starts at {start}");
    Ok(())
}

#[test]
fn committed_offsets_are_compacted_and_stay() {
    const COMMITS: i64 = 200;
    let spec = Spec::new(1, 1).set("log.cleaner.backoff.ms", 50).set("offsets.topic.num.partitions", 1);
    spec.set("offsets.topic.replication.factor", 1).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("read", 1, 1))?;
        let mut config = real::config(cluster.bootstrap());
        let consumer: BaseConsumer = config.set("group.id", "readers").set("enable.auto.commit", "false").create()?;
        let commit = |offset: i64| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset("read", 0, Offset::Offset(offset))?;
            wait_for("a commit", LIMIT, || Ok(Some(consumer.commit(&list, CommitMode::Sync)?)))
        };
        commit(0)?;
        let address = cluster.broker(1).address.clone();
        for (config, value) in [("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0"), ("file.delete.delay.ms", "0")]
        {
            alter_topic(&mut client, &address, "__consumer_offsets", config, value)?;
        }
        for offset in 1..=COMMITS {
            commit(offset)?;
        }
        let data = cluster.broker(1).data();
        let kept = || {
            wait_for("the offsets topic is compacted", LIMIT, || {
                let found = stored_lines(&data, "__consumer_offsets")?;
                ensure!((found.len() as i64) < COMMITS / 4, "{} of {COMMITS} commits are there", found.len());
                Ok(Some(found))
            })
        };
        kept()?;
        let committed = || {
            wait_for("the committed offset", LIMIT, || {
                let mut list = TopicPartitionList::new();
                list.add_partition("read", 0);
                let found = consumer.committed_offsets(list, Duration::from_secs(5))?;
                let offset = found.find_partition("read", 0).map(|found| found.offset());
                ensure!(offset == Some(Offset::Offset(COMMITS)), "{offset:?}");
                Ok(Some(()))
            })
        };
        committed()?;
        // Loaded from what is left of the log.
        for is_clean in [true, false] {
            if is_clean {
                ensure!(cluster.broker(1).stop()?.success(), "the broker stops in order");
            } else {
                cluster.broker(1).kill()?;
            }
            cluster.broker(1).start()?;
            cluster.wait_served()?;
            committed()?;
            kept()?;
        }
        Ok(())
    });
}

/// A sample of what is stored, for a message.
fn describe(lines: &[Line]) -> BTreeMap<i64, String> {
    lines.iter().map(|(at, key, value)| (*at, format!("{key:?}={value:?}"))).collect()
}
