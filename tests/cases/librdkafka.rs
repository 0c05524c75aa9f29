//! librdkafka, the client under most languages' clients: create, produce with every codec, assign and consume, seek by
//! time, survive the kill of a leader.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::history::{Ledger, compare_replicas};
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(30);
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn consumer(cluster: &Cluster) -> anyhow::Result<BaseConsumer> {
    // The group is only a name that librdkafka asks for: partitions are assigned by hand and nothing is committed.
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", "by-hand").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    config.set("check.crcs", "true").set("fetch.wait.max.ms", "100");
    Ok(config.create()?)
}

/// Reads partition 0 from `from` until `count` records are there: (offset, key, value, timestamp).
type Read = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64);

fn read(consumer: &BaseConsumer, topic: &str, from: Offset, count: usize) -> anyhow::Result<Vec<Read>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, from)?;
    consumer.assign(&list)?;
    let (mut out, deadline) = (Vec::with_capacity(count), Instant::now() + LIMIT);
    while out.len() < count {
        ensure!(Instant::now() < deadline, "{} of {count} records read in {LIMIT:?}", out.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message?;
            let timestamp = message.timestamp().to_millis().unwrap_or(-1);
            out.push((
                message.offset(),
                message.key().map(<[u8]>::to_vec),
                message.payload().map(<[u8]>::to_vec),
                timestamp,
            ));
        }
    }
    Ok(out)
}

#[test]
fn every_codec_round_trips() {
    Spec::new(1, 1).run(|cluster| {
        for codec in CODECS {
            codec_round_trips(cluster, codec).with_context(|| codec.to_owned())?;
        }
        topics_come_and_go(cluster)
    });
}

fn codec_round_trips(cluster: &Cluster, codec: &str) -> anyhow::Result<()> {
    let topic = format!("rdkafka-{codec}");
    real::create_topic(cluster.bootstrap(), &topic, 1, 1, &[])?;
    let mut config = real::config(cluster.bootstrap());
    config.set("compression.codec", codec).set("linger.ms", "5").set("acks", "all");
    let producer: ThreadedProducer<_> = config.create()?;
    let start = 1_700_000_000_000i64;
    for index in 0..1_000i64 {
        let (key, value) = (format!("key-{index}"), format!("value-{index}-").repeat(20));
        let record = BaseRecord::to(&topic).partition(0).key(&key).payload(&value).timestamp(start + index * 10);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    let consumer = consumer(cluster)?;
    let found = read(&consumer, &topic, Offset::Beginning, 1_000)?;
    for (index, (offset, key, value, timestamp)) in found.iter().enumerate() {
        ensure!(*offset == index as i64, "offset {offset} at place {index}");
        ensure!(key.as_deref() == Some(format!("key-{index}").as_bytes()), "key {index}: {key:?}");
        ensure!(value.as_deref() == Some(format!("value-{index}-").repeat(20).as_bytes()), "value {index}");
        ensure!(*timestamp == start + index as i64 * 10, "timestamp {index}: {timestamp}");
    }
    // By time: the first record at or after it, then read on from there.
    for (time, expected) in [(start + 5_000, 500), (start + 5_001, 501), (start - 1, 0), (start + 9_990, 999)] {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(time))?;
        let answer = consumer.offsets_for_times(list, LIMIT)?;
        let offset = answer.find_partition(&topic, 0).context("the partition is answered")?.offset();
        ensure!(offset == Offset::Offset(expected), "time {time}: {offset:?}, not {expected}");
        let found = read(&consumer, &topic, offset, 1)?;
        ensure!(found[0].0 == expected, "the read starts at {expected}");
    }
    let (low, high) = consumer.fetch_watermarks(&topic, 0, LIMIT)?;
    ensure!((low, high) == (0, 1_000), "watermarks {low}, {high}");
    let tail = read(&consumer, &topic, Offset::OffsetTail(10), 10)?;
    ensure!(tail[0].0 == 990, "the last ten start at {}", tail[0].0);
    Ok(())
}

fn topics_come_and_go(cluster: &Cluster) -> anyhow::Result<()> {
    real::create_topic(cluster.bootstrap(), "rdkafka-gone", 4, 1, &[("retention.ms", "3600000")])?;
    let consumer = consumer(cluster)?;
    let known = |consumer: &BaseConsumer| -> anyhow::Result<Option<usize>> {
        let metadata = consumer.fetch_metadata(None, LIMIT)?;
        Ok(metadata.topics().iter().find(|t| t.name() == "rdkafka-gone").map(|t| t.partitions().len()))
    };
    wait_for("the topic is known", LIMIT, || Ok(known(&consumer)?.filter(|count| *count == 4).map(|_| ())))?;
    real::delete_topic(cluster.bootstrap(), "rdkafka-gone")?;
    wait_for("the topic is gone", LIMIT, || Ok(known(&consumer)?.is_none().then_some(())))
}

#[test]
fn an_idempotent_producer_survives_the_kill_of_a_leader() {
    Spec::new(3, 3).run(|cluster| {
        let configs = [("min.insync.replicas", "2")];
        real::create_topic(cluster.bootstrap(), "survive", 3, 3, &configs)?;
        let mut client = cluster.client();
        for partition in 0..3 {
            client.wait_isr("survive", partition, &[1, 2, 3])?;
        }
        let ledger = std::sync::Arc::new(Ledger::default());
        let writer = odradek_tests::writer::Writer::new(cluster.bootstrap(), 1, 3, "survive", &ledger)?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let writing = scope.spawn(|| writer.run(&stop));
            let acknowledged = |more: u64| {
                let from = ledger.count();
                wait_for("acknowledgements", LIMIT, || Ok((ledger.count() >= from + more).then_some(())))
            };
            let outcome = (|| {
                acknowledged(2_000)?;
                let (leader, _) = client.leader("survive", 0)?;
                cluster.broker(leader).kill()?;
                acknowledged(2_000)?;
                if !cluster.is_attached() {
                    cluster.broker(leader).start()?;
                }
                acknowledged(2_000)
            })();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let written = writing.join().expect("the producer does not panic");
            outcome.and(written)
        })?;
        let seen = ledger.check(&mut client, "survive", 3)?;
        ensure!(seen.acknowledged >= 6_000, "{seen:?}");
        if !cluster.is_attached() {
            for partition in 0..3 {
                client.wait_isr("survive", partition, &[1, 2, 3])?;
            }
            compare_replicas(cluster, &mut client, "survive", 3)?;
        }
        Ok(())
    });
}
