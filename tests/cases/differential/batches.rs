//! What is inside of batches: damaged and odd ones in every codec, on topics that keep what they get, that pack it anew,
//! that stamp it and that want keys. Both must answer alike, and what they took must be the same records in batches of the
//! same codec.
//!
//! Where Apache Kafka takes what its own consumers, or librdkafka's, cannot read, ours refuses: those cases are named
//! ([`stricter`]) and both answers asserted.

use anyhow::{Context, ensure};
use odradek_common::time::Timestamp;
use odradek_records::compression::compress;
use odradek_records::{Batches, Codec, Compression, RecordBatchBuilder};
use odradek_tests::differential::Pair;
use odradek_tests::wire::{error, now_ms, varint};
use odradek_wire::fetch_request::{FetchPartition, FetchTopic};
use odradek_wire::{FetchRequest, FetchResponse, ProduceResponse};

use super::{prepare, produce_to, topic, with_configs};

/// The last version of Produce, and the last of Fetch, that name topics.
const PRODUCE: i16 = 12;
const FETCH: i16 = 12;

/// Where a batch's fields lie.
const LENGTH: usize = 8;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const COUNT: usize = 57;
const RECORDS: usize = 61;

const UNKNOWN_SERVER_ERROR: i16 = -1;

/// What a topic does with what it gets.
const TOPICS: &[(&str, &[(&str, &str)])] = &[
    ("batches-kept", &[]),
    ("batches-none", &[("compression.type", "uncompressed")]),
    ("batches-gzip", &[("compression.type", "gzip"), ("compression.gzip.level", "9")]),
    ("batches-snappy", &[("compression.type", "snappy")]),
    ("batches-lz4", &[("compression.type", "lz4"), ("compression.lz4.level", "17")]),
    ("batches-zstd", &[("compression.type", "zstd"), ("compression.zstd.level", "-3")]),
    ("batches-stamped", &[("message.timestamp.type", "LogAppendTime")]),
    (
        "batches-keyed",
        &[
            ("cleanup.policy", "compact"),
            ("message.timestamp.before.max.ms", "3600000"),
            ("message.timestamp.after.max.ms", "60000"),
        ],
    ),
];

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, TOPICS.iter().map(|(name, configs)| with_configs(topic(name, 1, 1), configs)).collect())?;
    for (topic, _) in TOPICS {
        for codec in Codec::ALL {
            structure(pair, topic, codec)?;
            faults(pair, topic, codec)?;
            streams(pair, topic, codec)?;
        }
        content(pair, topic)?;
    }
    stricter(pair)
}

fn same(pair: &mut Pair, topic: &str, codec: Codec, what: &str, batch: Vec<u8>) -> anyhow::Result<()> {
    let request = produce_to(topic, 0, batch, -1);
    pair.same_at(&format!("{topic}, {}: {what}", codec.name()), PRODUCE, &request, &request, level)
}

/// Apache Kafka calls a codec that fails an unknown server error, and knows the log's start or not by the part of it that
/// failed. Its texts name partitions, times of its clock and Java objects, and tell a bad length in other words.
fn level(answer: &mut ProduceResponse) {
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        partition.log_append_time_ms = partition.log_append_time_ms.signum();
        if partition.error_code == UNKNOWN_SERVER_ERROR {
            partition.error_code = error::INVALID_RECORD;
        }
        if partition.error_code != error::NONE {
            partition.log_start_offset = -1;
        }
        for error in &mut partition.record_errors {
            if let Some(text) = &mut error.batch_index_error_message {
                *text = level_text(text).as_str().into();
            }
        }
        match &mut partition.error_message {
            Some(message) if !partition.record_errors.is_empty() => {
                let facts = message.split_once(" in total").map_or(message.as_str(), |(facts, _)| facts).to_owned();
                *message = facts.as_str().into();
            }
            message => *message = None,
        }
    }
}

/// Of the texts of single records, what is the same on both sides.
fn level_text(text: &str) -> String {
    const STAMPED: &str = "LogAppendTime";
    if text.contains(STAMPED) {
        return STAMPED.to_owned();
    }
    let text = text.split(" in topic partition").next().unwrap_or_default();
    // The bounds that a time is held against are those of two clocks.
    text.split(" is out of range").next().unwrap_or_default().to_owned()
}

/// A record's bytes behind its length.
#[derive(Clone)]
struct Body(Vec<u8>);

impl Body {
    /// Lengths are what is written, whatever bytes follow.
    fn new(offset: i64, key: (i64, &[u8]), value: (i64, &[u8]), headers: i64) -> Self {
        let mut body = vec![0];
        varint(&mut body, 0);
        varint(&mut body, offset);
        for (length, bytes) in [key, value] {
            varint(&mut body, length);
            body.extend_from_slice(bytes);
        }
        varint(&mut body, headers);
        Self(body)
    }

    fn plain(offset: i64) -> Self {
        Self::new(offset, (1, b"k"), (5, b"value"), 0)
    }

    fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// With its length in front of it, and `more` added to that.
    fn sized(&self, more: i64) -> Vec<u8> {
        let mut record = Vec::new();
        varint(&mut record, self.0.len() as i64 + more);
        record.extend_from_slice(&self.0);
        record
    }
}

/// A batch of now around these records, which it says are `count`.
fn batch(codec: Codec, records: &[u8], count: i32) -> Vec<u8> {
    let mut payload = Vec::new();
    compress(codec.into(), records, &mut payload).expect("compressed");
    around(codec, &payload, count)
}

/// A batch around bytes that are compressed already, or ought to be.
fn around(codec: Codec, payload: &[u8], count: i32) -> Vec<u8> {
    let mut one = RecordBatchBuilder::new();
    one.append(Timestamp(now_ms()), None, None);
    let mut batch = one.build().expect("a batch")[..RECORDS].to_vec();
    batch.extend_from_slice(payload);
    let length = (batch.len() - LENGTH - 4) as i32;
    for (at, bytes) in [
        (LENGTH, &length.to_be_bytes()[..]),
        (ATTRIBUTES, &i16::from(codec.id()).to_be_bytes()),
        (LAST_OFFSET_DELTA, &(count - 1).to_be_bytes()),
        (COUNT, &count.to_be_bytes()),
    ] {
        batch[at..at + bytes.len()].copy_from_slice(bytes);
    }
    sealed(batch)
}

fn sealed(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Records that do not fit together.
fn structure(pair: &mut Pair, topic: &str, codec: Codec) -> anyhow::Result<()> {
    let two = || [Body::plain(0).sized(0), Body::plain(1).sized(0)].concat();
    let with_headers = Body::new(0, (1, b"k"), (-1, b""), 2).then(&[2, b'a', 1, 4, b'b', b'c', 2, b'd']);
    let mut cases: Vec<(&str, Vec<u8>, i32)> = vec![
        ("two records", two(), 2),
        ("headers", with_headers.sized(0), 1),
        ("fewer counted", two(), 1),
        ("more counted", two(), 3),
        ("many more counted", two(), 1 << 30),
        ("a byte follows", [two(), vec![0]].concat(), 2),
        ("cut in the last record", two()[..12].to_vec(), 2),
        ("cut behind a length", two()[..1].to_vec(), 1),
        ("no bytes", Vec::new(), 1),
        ("a negative length", vec![1, 2, 3, 4, 5, 6, 7, 8], 1),
        ("an endless length", vec![0xff; 12], 1),
        ("a huge length", [vec![0xfe, 0xff, 0xff, 0xff, 0x0f], two()].concat(), 1),
        ("a negative number of headers", Body::new(0, (1, b"k"), (1, b"v"), -1).sized(0), 1),
        ("a negative length of a header's key", Body::new(0, (1, b"k"), (1, b"v"), 1).then(&[3, 2, b'v']).sized(0), 1),
        ("more headers than bytes", Body::new(0, (1, b"k"), (1, b"v"), 1000).sized(0), 1),
        ("a record that is longer than what is in it", Body::plain(0).then(&[9]).sized(0), 1),
        ("a value that ends behind the records", Body::new(0, (1, b"k"), (5000, b"v"), 0).sized(0), 1),
    ];
    // Apache Kafka stores wrong offsets as they are where nothing is packed; ours are numbered anew.
    if codec != Codec::None || !matches!(topic, "batches-kept" | "batches-none" | "batches-stamped" | "batches-keyed") {
        cases.push(("offsets that repeat", [Body::plain(0).sized(0), Body::plain(0).sized(0)].concat(), 2));
        cases.push(("offsets that go back", [Body::plain(1).sized(0), Body::plain(0).sized(0)].concat(), 2));
        cases.push(("offsets with a hole", [Body::plain(0).sized(0), Body::plain(7).sized(0)].concat(), 2));
    }
    // Where it only looks into what is packed, Apache Kafka does not say so of every record that ends too early.
    if codec == Codec::None || packs_anew(topic, codec) {
        cases.push(("a record that ends in its value", [Body::plain(0).sized(-3), vec![0; 3]].concat(), 1));
        let over = Body::new(0, (1, b"k"), (12, b"v"), 0);
        cases.push(("a value that ends in the next record", [over.sized(0), two()].concat(), 3));
    }
    for (what, records, count) in cases {
        same(pair, topic, codec, what, batch(codec, &records, count))?;
    }
    Ok(())
}

/// Whether a topic writes batches of this codec with another one.
fn packs_anew(topic: &str, codec: Codec) -> bool {
    match topic.strip_prefix("batches-") {
        Some("kept" | "stamped" | "keyed") | None => false,
        Some(own) => own != codec.name(),
    }
}

/// Records that break a topic's rules.
fn faults(pair: &mut Pair, topic: &str, codec: Codec) -> anyhow::Result<()> {
    let now = now_ms();
    let filled = |records: &[(i64, Option<&[u8]>)]| {
        let mut builder = RecordBatchBuilder::new().compression(codec);
        for (time, key) in records {
            builder.append(Timestamp(*time), *key, Some(b"value"));
        }
        builder.build().expect("a batch").to_vec()
    };
    let key = Some(&b"key"[..]);
    let (hour, day) = (3_600_000, 86_400_000);
    /// Timestamp and key of each record.
    type Shape<'a> = &'a [(i64, Option<&'a [u8]>)];
    let cases: &[(&str, Shape<'_>)] = &[
        ("no key", &[(now, None)]),
        ("an empty key", &[(now, Some(b""))]),
        ("some without a key", &[(now, key), (now, None), (now, key), (now, None)]),
        ("no time", &[(-1, key)]),
        ("no time in one", &[(now, key), (-1, key)]),
        ("a negative time", &[(-2, key)]),
        ("the beginning of time", &[(0, key)]),
        ("the least time", &[(i64::MIN, key)]),
        ("the last time", &[(i64::MAX, key)]),
        ("a day ago", &[(now - day, key)]),
        ("a day ahead", &[(now + day, key)]),
        ("half an hour ahead", &[(now + hour / 2, key)]),
        ("times that are mixed", &[(now, key), (now + day, key), (now - day, key), (now - 5, key)]),
        ("no key and no good time", &[(now + day, None), (now + day, key), (now, None)]),
        ("times that go back", &[(now, key), (now - 50, key), (now - 100, key)]),
    ];
    for (what, records) in cases {
        same(pair, topic, codec, what, filled(records))?;
    }
    let changed = |attributes: i16, time: i64| {
        let mut batch = filled(&[(time, key)]);
        batch[ATTRIBUTES..ATTRIBUTES + 2].copy_from_slice(&(attributes | i16::from(codec.id())).to_be_bytes());
        sealed(batch)
    };
    same(pair, topic, codec, "stamped by the client", changed(8, now))?;
    same(pair, topic, codec, "stamped by the client without a time", changed(8, -1))?;
    same(pair, topic, codec, "a control batch", changed(0x20, now))?;
    same(pair, topic, codec, "a control batch of a time that is not good", changed(0x20, now + day))
}

/// Streams of a codec that are damaged, with a CRC that is right: what a client with a fault sends.
fn streams(pair: &mut Pair, topic: &str, codec: Codec) -> anyhow::Result<()> {
    if codec == Codec::None {
        return Ok(());
    }
    let records: Vec<u8> = (0..40).flat_map(|offset| Body::plain(offset).sized(0)).collect();
    let mut packed = Vec::new();
    compress(codec.into(), &records, &mut packed).expect("compressed");
    let end = packed.len();
    for cut in [0, 1, 4, 10, end / 2, end - 1] {
        same(pair, topic, codec, &format!("cut at {cut}"), around(codec, &packed[..cut], 40))?;
    }
    same(pair, topic, codec, "another codec's stream", around(codec, &other(codec, &records), 40))?;
    same(pair, topic, codec, "records that are not packed", around(codec, &records, 40))?;
    // Each of the first bytes, where the formats have their headers.
    for at in 0..9.min(end) {
        let mut damaged = packed.clone();
        damaged[at] ^= 0xff;
        if is_lenient(codec, at) {
            continue;
        }
        same(pair, topic, codec, &format!("byte {at} damaged"), around(codec, &damaged, 40))?;
    }
    let mut flipped = batch(codec, &records, 40);
    let at = flipped.len() - 3;
    flipped[at] ^= 1;
    same(pair, topic, codec, "damaged on the way", flipped)
}

fn other(codec: Codec, records: &[u8]) -> Vec<u8> {
    let other = if codec == Codec::Gzip { Codec::Zstd } else { Codec::Gzip };
    let mut packed = Vec::new();
    compress(other.into(), records, &mut packed).expect("compressed");
    packed
}

/// Bytes of a codec's header that Java does not look at, and ours may: times and systems in gzip's.
fn is_lenient(codec: Codec, at: usize) -> bool {
    codec == Codec::Gzip && (3..10).contains(&at)
}

/// What both have stored: batches of which codec and time, and their records.
fn content(pair: &mut Pair, topic: &str) -> anyhow::Result<()> {
    let request = FetchRequest {
        replica_id: -1,
        max_bytes: 8 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![FetchPartition { partition_max_bytes: 8 << 20, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let (kafka, ours) = pair.both(FETCH, &request)?;
    let (kafka, ours) = (stored(topic, kafka)?, stored(topic, ours)?);
    ensure!(kafka.len() > 20, "{topic}: only {} lines are stored", kafka.len());
    if let Some(at) = (0..kafka.len().max(ours.len())).find(|at| kafka.get(*at) != ours.get(*at)) {
        let differ = anyhow::anyhow!("Apache Kafka has {:?}, ours {:?}", kafka.get(at), ours.get(at));
        pair.fail(&format!("{topic}: what is stored"), &differ);
    }
    Ok(())
}

fn stored(topic: &str, answer: FetchResponse) -> anyhow::Result<Vec<String>> {
    let partition = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let partition = partition.with_context(|| format!("{topic}: no partition"))?;
    ensure!(partition.error_code == 0, "{topic}: {}", partition.error_code);
    let bytes = partition.records.and_then(odradek_wire::Records::into_bytes).unwrap_or_default();
    let mut lines = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch.with_context(|| format!("{topic}: a batch"))?;
        batch.check_crc()?;
        let header = &batch.header;
        let is_stamped = header.attributes.is_log_append_time();
        let attributes = header.attributes.0;
        // The time of an append is that of a clock.
        let max = if is_stamped { header.max_timestamp.0.signum() } else { header.max_timestamp.0 };
        lines.push(format!(
            "{}-{} attributes {attributes:#x} max {max} epoch {} count {}",
            header.base_offset,
            header.last_offset(),
            header.leader_epoch.0,
            header.record_count
        ));
        for record in batch.records(1 << 20)? {
            let record = record.with_context(|| format!("{topic}: offset {}", header.base_offset))?;
            let time = if is_stamped { 0 } else { record.timestamp.0 };
            lines.push(format!("  {} {time} {:?} {:?} {:?}", record.offset, record.key, record.value, record.headers));
        }
    }
    Ok(lines)
}

/// What Apache Kafka stores and some consumer cannot read, and ours refuses.
fn stricter(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("batches-odd", 1, 1)])?;
    let records: Vec<u8> = (0..40).flat_map(|offset| Body::plain(offset).sized(0)).collect();
    let packed = |codec: Codec, level: Option<i32>| {
        let mut packed = Vec::new();
        compress(Compression { codec, level }, &records, &mut packed).expect("compressed");
        packed
    };
    let length = Body::new(0, (-2, b""), (1, b"v"), 0);
    for (what, batch) in [
        ("a negative length of a key", batch(Codec::None, &length.sized(0), 1)),
        ("bytes behind a gzip stream", around(Codec::Gzip, &[packed(Codec::Gzip, None), vec![0; 9]].concat(), 40)),
    ] {
        let (kafka, ours) = pair.both(PRODUCE, &produce_to("batches-odd", 0, batch, -1))?;
        let code = |answer: &ProduceResponse| answer.responses[0].partition_responses[0].error_code;
        if (code(&kafka), code(&ours)) != (error::NONE, error::INVALID_RECORD) {
            let differ = anyhow::anyhow!("Apache Kafka answers {}, ours {}", code(&kafka), code(&ours));
            pair.fail(&format!("stricter: {what}"), &differ);
        }
    }
    Ok(())
}
