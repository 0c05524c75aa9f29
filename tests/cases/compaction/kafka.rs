//! The same batches to Apache Kafka and to a broker of ours; both compact; what a consumer finds then is the same.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_records::{Codec, RecordBatchBuilder};
use odradek_tests::client::{Client, NewTopic};
use odradek_tests::kafka::{Node, Tools};
use odradek_tests::wire::{error, now_ms};
use odradek_tests::{Cluster, Spec, wait_for};

use super::{
    HOUR_MS, LIMIT, Line, SEGMENT_MS, STEP_MS, alter_topic, batch, cleaned_to, consumed, describe, log_start, stored,
    wait_cleaned,
};

/// As many of Apache Kafka's last words are shown when something went wrong.
const KAFKA_LOG_LINES: usize = 60;

/// Apache Kafka asks for more than 1 MiB a thread.
const PROPERTIES: &[(&str, &str)] = &[("log.cleaner.backoff.ms", "100"), ("log.cleaner.dedupe.buffer.size", "2000000")];

type Records = Vec<(String, Option<String>)>;

/// What is sent to a topic.
struct Script {
    topic: &'static str,
    configs: &'static [(&'static str, &'static str)],
    /// What is sent, part by part, and what is waited for before the next part.
    parts: Vec<(Vec<Step>, Until)>,
}

#[derive(Clone, Copy)]
enum Until {
    /// Clean up to this offset.
    Clean(i64),
    /// Everything before this offset is deleted.
    Deleted(i64),
}

/// A batch.
struct Step {
    age_ms: i64,
    records: Records,
    codec: Codec,
    /// The sequence, of an idempotent producer.
    sequence: Option<i32>,
}

fn owned(records: &[(&str, Option<&str>)]) -> Records {
    records.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect()
}

/// Batches `STEP_MS` apart, the first one `age_ms` ago.
fn plain(age_ms: i64, all: Vec<Records>) -> Vec<Step> {
    let step = |(at, records)| Step { age_ms: age_ms - at * STEP_MS, records, codec: Codec::None, sequence: None };
    (0..).zip(all).map(step).collect()
}

const OLD_MS: i64 = 2 * HOUR_MS;

fn scripts() -> Vec<Script> {
    let many = |rounds: usize, keys: usize| -> Vec<Records> {
        let record = |round: usize, key: usize| (format!("key-{key}"), Some(format!("{round}-{key}")));
        (0..rounds).map(|round| (0..=round % keys).map(|key| record(round, key)).collect()).collect()
    };
    let count = |all: &[Records]| all.iter().map(|records| records.len() as i64).sum::<i64>();
    let closed = |all: &[Records]| count(&all[..all.len() - 1]);

    let mut overwrites = many(30, 7);
    // The same key several times in a batch, an empty key and empty values.
    overwrites
        .insert(9, owned(&[("twice", Some("1")), ("", Some("empty key")), ("twice", Some("2")), ("e", Some(""))]));
    let marked = vec![
        owned(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]),
        owned(&[("a", None), ("never-there", None)]),
        owned(&[("b", None), ("a", Some("2"))]),
        owned(&[("c", None)]),
        owned(&[("d", Some("1"))]),
    ];
    let more = vec![owned(&[("d", Some("2"))]), owned(&[("e", Some("1"))])];
    let large = |round: usize| -> Records {
        let record =
            |key: usize| (format!("{key}-{}", "k".repeat(50_000)), Some(format!("{round}-{}", "v".repeat(70_000))));
        (0..3).map(record).collect()
    };
    let mut compressed = Vec::new();
    for (at, records) in (0..).zip(many(20, 5)) {
        let codec = Codec::ALL[at as usize % Codec::ALL.len()];
        compressed.push(Step { age_ms: OLD_MS - at * STEP_MS, records, codec, sequence: None });
    }
    // Of the producer's batches all records are overwritten by another's; the last batch stays for its sequence.
    let mut sequences = Vec::new();
    for at in 0..6 {
        let records = owned(&[("p", Some("producer")), ("q", Some("producer"))]);
        let sequence = Some(at * 2);
        sequences.push(Step { age_ms: OLD_MS - i64::from(at) * STEP_MS, records, codec: Codec::None, sequence });
    }
    let others = vec![owned(&[("p", Some("other")), ("q", Some("other"))]), owned(&[("r", Some("1"))])];
    sequences.extend(plain(OLD_MS - 6 * STEP_MS, others));

    let marked = || {
        let later = plain(OLD_MS - marked.len() as i64 * STEP_MS, more.clone());
        let clean = [closed(&marked), count(&marked) + closed(&more)].map(Until::Clean);
        vec![(plain(OLD_MS, marked.clone()), clean[0]), (later, clean[1])]
    };
    let six = |prefix: &str| -> Vec<Records> {
        (0..6).map(|at| owned(&[(&format!("{prefix}-{}", at % 2), Some(&format!("{at}")))])).collect()
    };
    let (old, young) = (|| plain(OLD_MS, six("old")), || plain(HOUR_MS / 6, six("young")));
    let compressed_clean = compressed.iter().map(|step| step.records.len() as i64).sum::<i64>() - 5;
    let script = |topic, configs, parts| Script { topic, configs, parts };
    vec![
        script("overwrites", &[], vec![(plain(OLD_MS, overwrites.clone()), Until::Clean(closed(&overwrites)))]),
        script("marks-stay", &[("delete.retention.ms", "3600000")], marked()),
        script("marks-go", &[("delete.retention.ms", "0")], marked()),
        script("large", &[], vec![(plain(OLD_MS, (0..5).map(large).collect()), Until::Clean(12))]),
        script("compressed", &[], vec![(compressed, Until::Clean(compressed_clean))]),
        script("sequences", &[], vec![(sequences, Until::Clean(14))]),
        script(
            "young-stay",
            &[("min.compaction.lag.ms", "3600000")],
            vec![(old().into_iter().chain(young()).collect(), Until::Clean(6))],
        ),
        script(
            "overdue",
            &[("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "3600000")],
            vec![(old(), Until::Clean(5))],
        ),
        // One after the other, or old ones might come to share a segment with young ones and stay with them.
        script(
            "old-go",
            &[("cleanup.policy", "compact,delete"), ("retention.ms", "3600000")],
            vec![(old(), Until::Deleted(6)), (young(), Until::Clean(11))],
        ),
    ]
}

/// One of the two.
struct Side {
    name: &'static str,
    client: Client,
    address: String,
    data: PathBuf,
    producer: (i64, i16),
}

impl Side {
    fn open(name: &'static str, address: &str, data: PathBuf) -> anyhow::Result<Self> {
        let mut client = Client::new(address);
        let producer = wait_for("a producer id", LIMIT, || {
            let (code, id, epoch) = client.connection(address)?.init_producer_id()?;
            ensure!(code == error::NONE, "error {code}");
            Ok(Some((id, epoch)))
        })?;
        Ok(Self { name, client, address: address.to_owned(), data, producer })
    }

    fn create(&mut self, script: &Script) -> anyhow::Result<()> {
        let mut topic = NewTopic::new(script.topic, 1, 1);
        // Not `file.delete.delay.ms=0`: Apache Kafka loses its log directory when it flushes a segment that is replaced
        // and closed at that moment.
        let common = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")];
        for (name, value) in common {
            if script.configs.iter().all(|(other, _)| *other != name) {
                topic = topic.config(name, value);
            }
        }
        topic = topic.config("segment.ms", SEGMENT_MS);
        topic = script.configs.iter().fold(topic, |topic, (name, value)| topic.config(name, value));
        self.client.create_topic(&topic)
    }

    fn encode(&self, step: &Step, now_ms: i64) -> anyhow::Result<Vec<u8>> {
        let mut builder = RecordBatchBuilder::new().compression(step.codec);
        if let Some(sequence) = step.sequence {
            builder = builder.producer(ProducerId(self.producer.0), ProducerEpoch(self.producer.1), sequence);
        }
        let records: Vec<(&str, Option<&str>)> =
            step.records.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        batch(builder, now_ms - step.age_ms, &records)
    }

    fn send(&mut self, script: &Script, at: usize, now_ms: i64) -> anyhow::Result<()> {
        for step in script.parts.get(at).into_iter().flat_map(|(steps, _)| steps) {
            let bytes = self.encode(step, now_ms)?;
            self.client.produce_batch(script.topic, 0, &bytes)?;
        }
        Ok(())
    }

    fn wait(&mut self, script: &Script, at: usize) -> anyhow::Result<()> {
        let waited = match script.parts.get(at) {
            None => Ok(()),
            Some((_, Until::Clean(offset))) => wait_cleaned(&self.data, script.topic, *offset),
            Some((_, Until::Deleted(offset))) => wait_for(script.topic, LIMIT, || {
                let start = log_start(&mut self.client, script.topic)?;
                ensure!(start == *offset, "the log starts at {start}, {offset} is due");
                Ok(Some(()))
            }),
        };
        waited.with_context(|| self.name)
    }

    /// Whether the producer's batch with this sequence is in the files.
    fn has_sequence(&self, topic: &str, sequence: i32) -> anyhow::Result<bool> {
        let batches = stored(&self.data, topic)?;
        let is_it = |producer: i64, base: i32| producer == self.producer.0 && base == sequence;
        Ok(batches.iter().any(|batch| is_it(batch.header.producer_id.0, batch.header.base_sequence)))
    }
}

/// The log's start and what a consumer finds.
fn found(side: &mut Side, topic: &str) -> anyhow::Result<(i64, Vec<Line>)> {
    Ok((log_start(&mut side.client, topic)?, consumed(&mut side.client, topic)?))
}

#[test]
fn what_stays_is_what_apache_kafka_keeps() {
    let Some(tools) = Tools::new() else { return };
    let spec = PROPERTIES.iter().fold(Spec::new(1, 1), |spec, (name, value)| spec.set(name, value));
    spec.run(|cluster| {
        let kafka = Node::start(&tools, PROPERTIES)?;
        compare(&kafka, cluster).with_context(|| {
            let told = std::fs::read_to_string(kafka.log()).unwrap_or_default();
            let lines: Vec<&str> = told.lines().collect();
            format!("Apache Kafka said:\n{}", lines[lines.len().saturating_sub(KAFKA_LOG_LINES)..].join("\n"))
        })
    });
}

fn compare(kafka: &Node, cluster: &Cluster) -> anyhow::Result<()> {
    let mut sides = [
        Side::open("Apache Kafka", &kafka.bootstrap, kafka.data())?,
        Side::open("Odradek", cluster.bootstrap(), cluster.broker(1).data())?,
    ];
    let (scripts, now_ms) = (scripts(), now_ms());
    for side in &mut sides {
        scripts.iter().try_for_each(|script| side.create(script))?;
    }
    for at in 0..2 {
        for side in &mut sides {
            scripts.iter().try_for_each(|script| side.send(script, at, now_ms))?;
        }
        for side in &mut sides {
            scripts.iter().try_for_each(|script| side.wait(script, at))?;
        }
    }
    let mut differences = String::new();
    for script in &scripts {
        let [kafka, ours] = &mut sides;
        // Retention may come a moment after the cleaning.
        let same = wait_for(script.topic, LIMIT, || {
            let (theirs, mine) = (found(kafka, script.topic)?, found(ours, script.topic)?);
            ensure!(
                theirs == mine,
                "Apache Kafka starts at {} and keeps {:?}, Odradek starts at {} and keeps {:?}",
                theirs.0,
                describe(&theirs.1),
                mine.0,
                describe(&mine.1)
            );
            Ok(Some(theirs.1.len()))
        });
        match same {
            Ok(kept) => {
                let steps = script.parts.iter().flat_map(|(steps, _)| steps);
                let sent: usize = steps.map(|step| step.records.len()).sum();
                ensure!(kept > 0 && kept < sent, "{}: {kept} of {sent} records are left", script.topic);
            }
            Err(error) => differences.push_str(&format!("{error:#}\n")),
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    for side in &mut sides {
        ensure!(side.has_sequence("sequences", 10)?, "{}: the producer's last batch stays", side.name);
        ensure!(!side.has_sequence("sequences", 0)?, "{}: its first batch is gone", side.name);
        keyless(side)?;
    }
    Ok(())
}

/// Records without keys from before a topic was compacted are dropped.
fn keyless(side: &mut Side) -> anyhow::Result<()> {
    let topic = NewTopic::new("keyless", 1, 1).config("segment.ms", SEGMENT_MS);
    let topic = topic.config("min.cleanable.dirty.ratio", 0).config("retention.ms", -1);
    side.client.create_topic(&topic)?;
    for at in 0..4 {
        let mut builder = RecordBatchBuilder::new();
        let time = odradek_common::time::Timestamp(now_ms() - OLD_MS + at * STEP_MS);
        builder.append(time, (at % 2 == 1).then_some(&b"key"[..]), Some(b"value"));
        side.client.produce_batch("keyless", 0, &builder.build()?)?;
    }
    let address = side.address.clone();
    alter_topic(&mut side.client, &address, "keyless", "cleanup.policy", "compact")?;
    wait_cleaned(&side.data, "keyless", 3).with_context(|| side.name)?;
    let offsets: Vec<i64> = consumed(&mut side.client, "keyless")?.iter().map(|line| line.0).collect();
    ensure!(offsets == [1, 3], "{}: {offsets:?} are left", side.name);
    ensure!(cleaned_to(&side.data, "no-such-topic").is_none(), "a topic without a line");
    Ok(())
}
