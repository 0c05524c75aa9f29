//! What an entry of each kind of file is shown as: the fields that JSON has, and the cells of a table.

use bytes::Bytes;
use odradek_broker_storage::files::{FileKind, FoundBatch, SnapshotProducer, TimeEntry};
use odradek_broker_storage::{AbortedTxn, EpochEntry, OffsetPosition};
use odradek_common::config::Properties;
use odradek_records::{ControlType, Record, control};
use serde::Serialize;
use serde_json::Value;

use super::decoders::{self, Kind};
use super::printer::{Printer, Row};
use crate::error::CliError;
use crate::format::json::{Field, HeaderField};

fn time(milliseconds: i64) -> String {
    if milliseconds < 0 { "-".to_owned() } else { crate::time::format(milliseconds) }
}

fn or_dash(number: i64) -> String {
    if number < 0 { "-".to_owned() } else { number.to_string() }
}

// ---------------------------------------------------------------- batches and records

#[derive(Serialize)]
pub struct Batch {
    base_offset: i64,
    last_offset: i64,
    count: i32,
    position: u64,
    bytes: usize,
    leader_epoch: i32,
    codec: &'static str,
    timestamp_type: &'static str,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    /// -1: none; so are those of the next two.
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    last_sequence: i32,
    transactional: bool,
    control: bool,
    delete_horizon_ms: Option<i64>,
    crc: u32,
    valid: bool,
}

impl Batch {
    pub fn new(found: &FoundBatch) -> Self {
        let header = &found.header;
        let attributes = header.attributes;
        Self {
            base_offset: header.base_offset.0,
            last_offset: header.last_offset().0,
            count: header.record_count,
            position: found.position,
            bytes: header.size,
            leader_epoch: header.leader_epoch.0,
            codec: attributes.codec().map_or("unknown", |codec| codec.name()),
            timestamp_type: if attributes.is_log_append_time() { "LogAppendTime" } else { "CreateTime" },
            base_timestamp_ms: header.base_timestamp.0,
            max_timestamp_ms: header.max_timestamp.0,
            producer_id: header.producer_id.0,
            producer_epoch: header.producer_epoch.0,
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            transactional: attributes.is_transactional(),
            control: attributes.is_control(),
            delete_horizon_ms: attributes.has_delete_horizon().then_some(header.base_timestamp.0),
            crc: header.crc,
            valid: found.crc.is_ok(),
        }
    }
}

impl Row for Batch {
    const KIND: &'static str = "batch";
    const HEAD: &'static [&'static str] =
        &["OFFSETS", "COUNT", "POSITION", "BYTES", "EPOCH", "CODEC", "LATEST", "PRODUCER", "SEQUENCES", "CRC", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let producer = match self.producer_id {
            ..0 => "-".to_owned(),
            id => format!("{id}/{}", self.producer_epoch),
        };
        let sequences = match self.base_sequence {
            ..0 => "-".to_owned(),
            first => format!("{first}-{}", self.last_sequence),
        };
        let flags = [
            (self.transactional, "transactional"),
            (self.control, "control"),
            (self.timestamp_type == "LogAppendTime", "log-append-time"),
            (self.delete_horizon_ms.is_some(), "delete-horizon"),
        ];
        let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        vec![
            format!("{}-{}", self.base_offset, self.last_offset),
            self.count.to_string(),
            self.position.to_string(),
            self.bytes.to_string(),
            or_dash(self.leader_epoch.into()),
            self.codec.to_owned(),
            time(self.max_timestamp_ms),
            producer,
            sequences,
            if self.valid { format!("{:08x}", self.crc) } else { "WRONG".to_owned() },
            if flags.is_empty() { "-".to_owned() } else { flags.join(",") },
        ]
    }
}

#[derive(Serialize)]
pub struct Damaged {
    pub position: Option<u64>,
    pub damage: String,
}

impl Row for Damaged {
    const KIND: &'static str = "damage";
    const HEAD: &'static [&'static str] = &["DAMAGED AT", "WHAT"];

    fn cells(&self) -> Vec<String> {
        vec![self.position.map_or_else(|| "-".to_owned(), |at| at.to_string()), self.damage.clone()]
    }
}

/// A record, with what a decoder makes of it.
#[derive(Serialize)]
pub struct Shown {
    offset: i64,
    timestamp_ms: i64,
    /// -1: none.
    sequence: i32,
    #[serde(flatten)]
    key: Field,
    #[serde(flatten)]
    value: Field,
    headers: Vec<HeaderField>,
    /// What the decoder reads out of key and value.
    #[serde(skip_serializing_if = "Option::is_none")]
    decoded: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_error: Option<String>,
}

impl Shown {
    pub fn new(record: &Record, decoder: Option<Kind>) -> Self {
        let decoded = decoder.map(|kind| decoders::decode(kind, record.key.clone(), record.value.clone()));
        let (decoded, decoder_error) = match decoded {
            None => (None, None),
            Some(Ok(decoded)) => (Some(decoded), None),
            Some(Err(error)) => (None, Some(error)),
        };
        Self {
            offset: record.offset.0,
            timestamp_ms: record.timestamp.0,
            sequence: record.sequence,
            key: Field::key(record.key.clone()),
            value: Field::value(record.value.clone()),
            headers: record.headers.iter().map(HeaderField::new).collect(),
            decoded,
            decoder_error,
        }
    }
}

/// Text in quotes, other bytes in hexadecimal.
fn quoted(bytes: Option<&Bytes>) -> String {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => "null".to_owned(),
        Some((_, Ok(text))) => format!("{text:?}"),
        Some((bytes, Err(_))) => format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

impl Row for Shown {
    const KIND: &'static str = "record";
    const HEAD: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.offset.to_string(), time(self.timestamp_ms)];
        match (&self.decoded, &self.decoder_error) {
            (Some(decoded), _) => cells.push(decoded.to_string()),
            (None, error) => {
                cells.push(format!("key {}", quoted(self.key.bytes())));
                cells.push(format!("value {}", quoted(self.value.bytes())));
                cells.extend(error.as_ref().map(|error| format!("(not decoded: {error})")));
            }
        }
        if !self.headers.is_empty() {
            let each = self.headers.iter().map(|header| format!("{:?}={}", header.name, quoted(header.value.bytes())));
            cells.push(format!("headers {}", each.collect::<Vec<_>>().join(",")));
        }
        cells
    }
}

/// A control record: the end of a transaction, or something of Kafka's Raft.
#[derive(Serialize)]
pub struct Control {
    offset: i64,
    timestamp_ms: i64,
    control: String,
    coordinator_epoch: Option<i32>,
}

impl Control {
    pub fn new(record: &Record) -> Self {
        let kind = control::control_type(record);
        let is_end = matches!(kind, Ok(ControlType::Commit | ControlType::Abort));
        let epoch = record.value.as_deref().and_then(|value| value.get(2..6)?.try_into().ok());
        let control = match kind {
            Ok(ControlType::Commit) => "COMMIT".to_owned(),
            Ok(ControlType::Abort) => "ABORT".to_owned(),
            // Kafka's `ControlRecordType`.
            Ok(ControlType::Other(2)) => "LEADER_CHANGE".to_owned(),
            Ok(ControlType::Other(3)) => "SNAPSHOT_HEADER".to_owned(),
            Ok(ControlType::Other(4)) => "SNAPSHOT_FOOTER".to_owned(),
            Ok(ControlType::Other(5)) => "KRAFT_VERSION".to_owned(),
            Ok(ControlType::Other(6)) => "KRAFT_VOTERS".to_owned(),
            Ok(ControlType::Other(other)) => format!("UNKNOWN ({other})"),
            Err(error) => format!("UNREADABLE ({error})"),
        };
        Self {
            offset: record.offset.0,
            timestamp_ms: record.timestamp.0,
            control,
            coordinator_epoch: epoch.filter(|_| is_end).map(i32::from_be_bytes),
        }
    }
}

impl Row for Control {
    const KIND: &'static str = "control";
    const HEAD: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.offset.to_string(), time(self.timestamp_ms), self.control.clone()];
        cells.extend(self.coordinator_epoch.map(|epoch| format!("coordinator epoch {epoch}")));
        cells
    }
}

// ---------------------------------------------------------------- the other files

pub enum Entry {
    Offset(OffsetPosition),
    Time(TimeEntry),
    Aborted(AbortedTxn),
    Producer(SnapshotProducer),
    Epoch(EpochEntry),
    Checkpoint(Checkpoint),
    Pair(Pair),
}

impl Entry {
    pub fn print(&self, printer: &mut Printer) -> Result<(), CliError> {
        match self {
            Self::Offset(entry) => printer.row(&IndexRow { offset: entry.offset, position: entry.position }),
            Self::Time(entry) => printer.row(&TimeRow { timestamp_ms: entry.timestamp.0, offset: entry.offset.0 }),
            Self::Aborted(txn) => printer.row(&TxnRow {
                producer_id: txn.producer_id.0,
                first_offset: txn.first_offset.0,
                last_offset: txn.last_offset.0,
                last_stable_offset: txn.last_stable_offset.0,
            }),
            Self::Producer(producer) => printer.row(&ProducerRow::new(producer)),
            Self::Epoch(entry) => printer.row(&EpochRow { epoch: entry.epoch.0, start_offset: entry.start.0 }),
            Self::Checkpoint(row) => printer.row(row),
            Self::Pair(row) => printer.row(row),
        }
    }
}

#[derive(Serialize)]
struct IndexRow {
    offset: i64,
    position: u64,
}

impl Row for IndexRow {
    const KIND: &'static str = "offset_index_entry";
    const HEAD: &'static [&'static str] = &["OFFSET", "POSITION"];

    fn cells(&self) -> Vec<String> {
        vec![self.offset.to_string(), self.position.to_string()]
    }
}

#[derive(Serialize)]
struct TimeRow {
    timestamp_ms: i64,
    offset: i64,
}

impl Row for TimeRow {
    const KIND: &'static str = "time_index_entry";
    const HEAD: &'static [&'static str] = &["MILLISECONDS", "TIME", "OFFSET"];

    fn cells(&self) -> Vec<String> {
        vec![self.timestamp_ms.to_string(), time(self.timestamp_ms), self.offset.to_string()]
    }
}

#[derive(Serialize)]
struct TxnRow {
    producer_id: i64,
    first_offset: i64,
    last_offset: i64,
    last_stable_offset: i64,
}

impl Row for TxnRow {
    const KIND: &'static str = "aborted_transaction";
    const HEAD: &'static [&'static str] = &["PRODUCER", "FIRST", "LAST", "LAST STABLE"];

    fn cells(&self) -> Vec<String> {
        [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset].map(|n| n.to_string()).to_vec()
    }
}

#[derive(Serialize)]
struct ProducerRow {
    producer_id: i64,
    epoch: i16,
    coordinator_epoch: i32,
    last_timestamp_ms: i64,
    open_transaction_from: Option<i64>,
    /// Oldest first; Kafka keeps the last alone.
    batches: Vec<ProducerBatch>,
}

#[derive(Serialize)]
struct ProducerBatch {
    first_sequence: i32,
    last_sequence: i32,
    first_offset: i64,
    last_offset: i64,
    timestamp_ms: i64,
}

impl ProducerRow {
    pub fn new(producer: &SnapshotProducer) -> Self {
        let batches = producer.batches.iter().map(|batch| ProducerBatch {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            first_offset: batch.first_offset.0,
            last_offset: batch.last_offset.0,
            timestamp_ms: batch.timestamp.0,
        });
        Self {
            producer_id: producer.producer_id.0,
            epoch: producer.epoch.0,
            coordinator_epoch: producer.coordinator_epoch,
            last_timestamp_ms: producer.last_timestamp.0,
            open_transaction_from: producer.txn_first_offset.map(|offset| offset.0),
            batches: batches.collect(),
        }
    }
}

impl Row for ProducerRow {
    const KIND: &'static str = "producer";
    const HEAD: &'static [&'static str] =
        &["PRODUCER", "EPOCH", "COORDINATOR EPOCH", "LAST", "TRANSACTION FROM", "SEQUENCES @ OFFSETS"];

    fn cells(&self) -> Vec<String> {
        let batches = self.batches.iter().map(|batch| {
            let ProducerBatch { first_sequence, last_sequence, first_offset, last_offset, .. } = batch;
            format!("{first_sequence}-{last_sequence}@{first_offset}-{last_offset}")
        });
        let batches: Vec<String> = batches.collect();
        vec![
            self.producer_id.to_string(),
            self.epoch.to_string(),
            or_dash(self.coordinator_epoch.into()),
            time(self.last_timestamp_ms),
            or_dash(self.open_transaction_from.unwrap_or(-1)),
            if batches.is_empty() { "-".to_owned() } else { batches.join(" ") },
        ]
    }
}

#[derive(Serialize)]
struct EpochRow {
    epoch: i32,
    start_offset: i64,
}

impl Row for EpochRow {
    const KIND: &'static str = "leader_epoch";
    const HEAD: &'static [&'static str] = &["EPOCH", "FROM"];

    fn cells(&self) -> Vec<String> {
        vec![self.epoch.to_string(), self.start_offset.to_string()]
    }
}

#[derive(Serialize)]
pub struct Checkpoint {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl Row for Checkpoint {
    const KIND: &'static str = "checkpoint";
    const HEAD: &'static [&'static str] = &["TOPIC", "PARTITION", "OFFSET"];

    fn cells(&self) -> Vec<String> {
        vec![self.topic.clone(), self.partition.to_string(), self.offset.to_string()]
    }
}

#[derive(Serialize)]
pub struct Pair {
    name: String,
    value: String,
}

impl Row for Pair {
    const KIND: &'static str = "property";
    const HEAD: &'static [&'static str] = &["NAME", "VALUE"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.value.clone()]
    }
}

/// The small files that are not of the log itself: whatever names and values they have, right or wrong.
pub fn pairs(kind: FileKind, bytes: &[u8]) -> Vec<Entry> {
    let text = String::from_utf8_lossy(bytes);
    let pair = |name: &str, value: &str| Entry::Pair(Pair { name: name.to_owned(), value: value.to_owned() });
    match kind {
        FileKind::CleanShutdown => match serde_json::from_str::<serde_json::Map<String, Value>>(&text) {
            Ok(map) => map.iter().map(|(name, value)| pair(name, &value.to_string())).collect(),
            Err(_) => vec![pair("text", text.trim())],
        },
        FileKind::MetaProperties => match Properties::parse(&text, "meta.properties") {
            Ok(properties) => properties.entries().iter().map(|entry| pair(&entry.name, &entry.value)).collect(),
            Err(_) => vec![pair("text", text.trim())],
        },
        _ => {
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| pair(name, value.trim())).collect()
        }
    }
}
