//! Produce.

use odradek_common::time::Timestamp;
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_records::{Codec, RecordBatchBuilder};
use odradek_tests::differential::Pair;
use odradek_tests::wire::{error, now_ms};
use odradek_wire::produce_request::TopicProduceData;
use odradek_wire::{InitProducerIdRequest, ProduceRequest, ProduceResponse, Uuid};

use super::{prepare, produce_to, topic, with_configs};

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 13;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(
        pair,
        vec![
            topic("written", 1, 1),
            with_configs(topic("compacted", 1, 1), &[("cleanup.policy", "compact")]),
            with_configs(topic("small", 1, 1), &[("max.message.bytes", "200")]),
            with_configs(topic("two-in-sync", 1, 1), &[("min.insync.replicas", "2")]),
            with_configs(topic("stamped", 1, 1), &[("message.timestamp.type", "LogAppendTime")]),
        ],
    )?;
    refusals(pair)?;
    records(pair)?;
    idempotence(pair)?;
    ids(pair)
}

/// The time of a duplicate is that of the batch, which each side was sent at a time of its own.
fn level(answer: &mut ProduceResponse) {
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        partition.log_append_time_ms = partition.log_append_time_ms.signum();
    }
}

/// Records that cannot be read. Apache Kafka calls that an unknown server error where the codec fails, and knows the
/// log's start or not by the part of it that failed. Of a bad length the texts have the same facts in other words.
fn level_unreadable(answer: &mut ProduceResponse) {
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        if partition.error_code == UNKNOWN_SERVER_ERROR {
            partition.error_code = error::INVALID_RECORD;
        }
        if partition.error_code != error::NONE {
            partition.log_start_offset = -1;
            partition.error_message = None;
        }
    }
}

/// The text has times in it, which two nodes read from the clock one after the other; of several faulty records Apache
/// Kafka prints its Java objects, and in which partition they are, which the answer says anyway.
fn level_faults(answer: &mut ProduceResponse) {
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        for error in &mut partition.record_errors {
            if let Some(text) = &mut error.batch_index_error_message {
                *text = level_digits(text).replace(" in topic partition compacted-0", "").as_str().into();
            }
        }
        if let Some(message) = &mut partition.error_message
            && let Some((start, _)) = message.split_once(" in total")
        {
            *message = start.into();
        }
    }
}

const UNKNOWN_SERVER_ERROR: i16 = -1;

/// The same to both: by name, and by id as well where a version wants ids.
fn same(
    pair: &mut Pair,
    case: &str,
    request: impl Fn(i16) -> ProduceRequest,
    level: impl Fn(&mut ProduceResponse),
) -> anyhow::Result<()> {
    for version in pair.versions::<ProduceRequest>()? {
        let request = request(version);
        let (mut kafka, mut ours) = (request.clone(), request);
        if version >= TOPIC_IDS {
            for at in 0..kafka.topic_data.len() {
                let ids = pair.topic_ids(&kafka.topic_data[at].name)?;
                let by_id = |data: &mut TopicProduceData, id: Uuid| {
                    data.name = "".into();
                    data.topic_id = id;
                };
                by_id(&mut kafka.topic_data[at], ids.0);
                by_id(&mut ours.topic_data[at], ids.1);
            }
        }
        pair.same_at(case, version, &kafka, &ours, &level)?;
    }
    Ok(())
}

fn builder() -> RecordBatchBuilder {
    RecordBatchBuilder::new()
}

/// One record of now.
fn batch(key: Option<&[u8]>, value: &[u8]) -> Vec<u8> {
    filled(builder(), &[(key, value)])
}

fn filled(mut builder: RecordBatchBuilder, records: &[(Option<&[u8]>, &[u8])]) -> Vec<u8> {
    for (key, value) in records {
        builder.append(Timestamp(now_ms()), *key, Some(value));
    }
    builder.build().expect("a batch").to_vec()
}

fn refusals(pair: &mut Pair) -> anyhow::Result<()> {
    same(pair, "a record", |_| produce_to("written", 0, batch(None, b"one"), 1), level)?;
    same(pair, "acks=all", |_| produce_to("written", 0, batch(None, b"one"), -1), level)?;
    same(pair, "acks=2", |_| produce_to("written", 0, batch(None, b"one"), 2), level)?;
    same(pair, "no such partition", |_| produce_to("written", 1, batch(None, b"one"), 1), level)?;
    same(pair, "a negative partition", |_| produce_to("written", -1, batch(None, b"one"), 1), level)?;
    for version in pair.versions::<ProduceRequest>()?.filter(|version| *version < TOPIC_IDS) {
        let request = produce_to("never-written", 0, batch(None, b"one"), 1);
        pair.same_at("an unknown topic", version, &request, &request, level)?;
        let request = produce_to("wrong/name", 0, batch(None, b"one"), 1);
        pair.same_at("a wrong name", version, &request, &request, level)?;
    }
    same(pair, "too few in sync", |_| produce_to("two-in-sync", 0, batch(None, b"one"), -1), level)?;
    same(pair, "too few in sync, acks=1", |_| produce_to("two-in-sync", 0, batch(None, b"one"), 1), level)?;
    same(pair, "too large for the topic", |_| produce_to("small", 0, batch(None, &[b'x'; 200]), 1), level)?;
    same(pair, "too large for anyone", |_| produce_to("written", 0, batch(None, &[b'x'; 1 << 20]), 1), level)?;
    // Apache Kafka never answers a partition whose records are null.
    same(pair, "no bytes", |_| produce_to("written", 0, Vec::new(), 1), level)?;
    same(pair, "no topics", |_| ProduceRequest { acks: 1, transactional_id: None, ..Default::default() }, level)?;
    let several = |_| {
        let mut request = produce_to("written", 0, batch(None, b"one"), 1);
        let further = [produce_to("written", 7, batch(None, b"one"), 1), produce_to("small", 0, batch(None, b"s"), 1)];
        request.topic_data[0].partition_data.extend(further[0].topic_data[0].partition_data.clone());
        request.topic_data.extend(further[1].topic_data.clone());
        request
    };
    same(pair, "some of several", several, |answer| {
        answer
            .responses
            .sort_by(|a, b| (&a.name, a.partition_responses.len()).cmp(&(&b.name, b.partition_responses.len())));
        for topic in &mut answer.responses {
            topic.partition_responses.sort_by_key(|partition| partition.index);
        }
    })
}

/// Where a batch's fields lie.
const LENGTH: usize = 8;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const MAX_TIMESTAMP: usize = 35;
const COUNT: usize = 57;

/// A batch with some bytes changed, and the CRC to them.
fn changed(mut batch: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// What is wrong with the records themselves.
fn records(pair: &mut Pair) -> anyhow::Result<()> {
    let one = || batch(Some(b"k"), b"one");
    let wrong: &[(&str, Vec<u8>)] = &[
        ("a wrong CRC", {
            let mut batch = one();
            batch[CRC] ^= 1;
            batch
        }),
        ("magic 1", changed(one(), MAGIC, &[1])),
        ("magic 3", changed(one(), MAGIC, &[3])),
        ("two batches", [one(), one()].concat()),
        ("half a batch", one()[..40].to_vec()),
        ("a batch and a half", [one(), one()[..40].to_vec()].concat()),
        ("garbage", vec![0xff; 100]),
        ("a length that is too small", changed(one(), LENGTH, &10i32.to_be_bytes())),
        ("too many records counted", changed(one(), COUNT, &5i32.to_be_bytes())),
        ("no records counted", changed(one(), COUNT, &0i32.to_be_bytes())),
        ("a wrong last offset", changed(one(), LAST_OFFSET_DELTA, &5i32.to_be_bytes())),
        ("an unknown codec", changed(one(), ATTRIBUTES, &7i16.to_be_bytes())),
        ("a codec that was not used", changed(one(), ATTRIBUTES, &1i16.to_be_bytes())),
        ("a control batch", changed(one(), ATTRIBUTES, &0x20i16.to_be_bytes())),
        ("log append time by the client", changed(one(), ATTRIBUTES, &8i16.to_be_bytes())),
        ("a transaction without a producer", changed(one(), ATTRIBUTES, &0x10i16.to_be_bytes())),
        ("a wrong largest timestamp", changed(one(), MAX_TIMESTAMP, &5i64.to_be_bytes())),
        ("a base offset", {
            let mut batch = one();
            batch[..8].copy_from_slice(&77i64.to_be_bytes());
            batch
        }),
    ];
    for (case, records) in wrong {
        same(pair, case, |_| produce_to("written", 0, records.clone(), 1), level_unreadable)?;
    }
    let far = |ahead_ms: i64| {
        let mut builder = builder();
        builder.append(Timestamp(now_ms()), None, Some(b"now"));
        builder.append(Timestamp(now_ms() + ahead_ms), None, Some(b"then"));
        builder.build().expect("a batch").to_vec()
    };
    same(pair, "a time far ahead", |_| produce_to("written", 0, far(7_200_000), 1), level_faults)?;
    same(pair, "a key is due", |_| produce_to("compacted", 0, batch(None, b"v"), 1), level_faults)?;
    let mixed: &[(Option<&[u8]>, &[u8])] = &[(Some(b"k"), b"1"), (None, b"2"), (None, b"3")];
    same(pair, "a key is due in some", |_| produce_to("compacted", 0, filled(builder(), mixed), 1), level_faults)?;
    same(pair, "log append time", |_| produce_to("stamped", 0, batch(None, b"v"), 1), level)?;
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let records = || filled(builder().compression(codec), &[(None, &[b'c'; 1000])]);
        same(pair, codec.name(), |_| produce_to("written", 0, records(), 1), level)?;
        let broken = || {
            let batch = records();
            let end = batch.len();
            changed(batch, end - 8, &[0x55; 8])
        };
        same(pair, &format!("broken {}", codec.name()), |_| produce_to("written", 0, broken(), 1), level_unreadable)?;
    }
    Ok(())
}

fn level_digits(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive(|character: char| !character.is_ascii_digit()) {
        let digits = part.trim_end_matches(|character: char| !character.is_ascii_digit());
        out.push_str(if digits.len() >= 13 { "TIME" } else { digits });
        out.push_str(&part[digits.len()..]);
    }
    out
}

/// The same batches of idempotent producers, each side with an id that it gave itself.
fn idempotence(pair: &mut Pair) -> anyhow::Result<()> {
    for version in pair.versions::<ProduceRequest>()? {
        let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
        let (kafka, ours) = pair.both(4, &request)?;
        let ids = (kafka.producer_id, ours.producer_id);
        let name = format!("idempotent-{version}");
        prepare(pair, vec![topic(&name, 2, 1)])?;
        let topics = pair.topic_ids(&name)?;
        let request = |id: i64, topic_id: Uuid, epoch: i16, sequence: i32, records: usize, partition: i32| {
            let builder = builder().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
            let records: Vec<(Option<&[u8]>, &[u8])> = vec![(None, b"value"); records];
            let mut request = produce_to(&name, partition, filled(builder, &records), -1);
            if version >= TOPIC_IDS {
                request.topic_data[0].name = "".into();
                request.topic_data[0].topic_id = topic_id;
            }
            request
        };
        let (kafka, ours) = (request(ids.0, topics.0, 0, 3, 1, 1), request(ids.1, topics.1, 0, 3, 1, 1));
        pair.same_at("the first sequence is not 0", version, &kafka, &ours, level)?;
        for (case, epoch, sequence, records) in [
            ("the first", 0, 0, 2),
            ("the first again", 0, 0, 2),
            ("the next", 0, 2, 1),
            ("one is missing", 0, 5, 1),
            ("overlapping", 0, 1, 2),
            ("a new epoch in the middle", 1, 4, 1),
            ("a new epoch", 1, 0, 1),
            ("the former epoch", 0, 3, 1),
            ("1", 1, 1, 1),
            ("2", 1, 2, 1),
            ("3", 1, 3, 1),
            ("4", 1, 4, 1),
            ("5", 1, 5, 1),
            ("a duplicate that is remembered", 1, 3, 1),
            ("a duplicate that is forgotten", 1, 0, 1),
            ("a negative sequence", 1, -5, 1),
        ] {
            let (kafka, ours) = (
                request(ids.0, topics.0, epoch, sequence, records, 0),
                request(ids.1, topics.1, epoch, sequence, records, 0),
            );
            pair.same_at(case, version, &kafka, &ours, level)?;
        }
    }
    Ok(())
}

fn ids(pair: &mut Pair) -> anyhow::Result<()> {
    let mut request = produce_to("", 0, batch(None, b"one"), 1);
    for (case, id) in [("an unknown id", Uuid([7; 16])), ("no id", Uuid::ZERO)] {
        request.topic_data[0].topic_id = id;
        pair.same_at(case, TOPIC_IDS, &request, &request, level)?;
    }
    Ok(())
}
