//! `odradek produce`: lines of standard input become records.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Context;
use crate::args::{Codec, Produce, ProduceFormat};
use crate::error::CliError;
use crate::format::json;
use crate::kafka::partitioner::{Sticky, partition_of};
use crate::kafka::producer::{IDEMPOTENT_IN_FLIGHT_MAX, Producer, Record, Settings, Written};
use crate::kafka::{Cluster, no_partition};
use crate::output;

/// A round of batches holds at most so many bytes of lines: below `message.max.bytes` with room for what a record takes
/// besides its text.
const ROUND_BYTES_MAX: usize = 512 << 10;
/// A line longer than this could be in no batch.
const LINE_BYTES_MAX: usize = 64 << 20;

#[derive(Serialize)]
struct Summary {
    topic: String,
    records: i64,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    records: i64,
    /// Absent with acks=0, when nobody says where a record went.
    first_offset: Option<i64>,
    last_offset: Option<i64>,
}

pub async fn execute(context: &Context, command: Produce) -> Result<(), CliError> {
    if command.format == ProduceFormat::Json && (command.key_separator.is_some() || command.null_value.is_some()) {
        let problem = "with --format json a line says itself what is key and what is null: leave out --key-separator and \
                       --null-value";
        return Err(CliError::usage(problem));
    }
    let timeout = context.global.timeout;
    let cluster = Cluster::open(&context.world, context.bootstrap()?, &command.topic, timeout, true).await?;
    if let Some(wanted) = command.partition.filter(|wanted| !cluster.partitions.contains_key(wanted)) {
        return Err(no_partition(&command.topic, cluster.partitions.len(), wanted));
    }
    let settings = Settings {
        acks: command.acks.code(),
        codec: command.compression.into(),
        batch_bytes: ROUND_BYTES_MAX,
        linger: Duration::ZERO,
        in_flight: IDEMPOTENT_IN_FLIGHT_MAX,
        timeout,
    };
    let mut producer = Producer::new(cluster, settings).await?;
    let mut summary = BTreeMap::new();
    let outcome = write_all(context, &command, &mut producer, &mut summary).await;
    note(&mut summary, producer.take_written());
    let partitions: Vec<Partition> = summary.into_values().collect();
    let records = partitions.iter().map(|partition| partition.records).sum();
    let summary = Summary { topic: command.topic, records, partitions };
    match outcome {
        Ok(()) => output::print(context.global.output, &summary, text),
        Err(error) => {
            if summary.records > 0 {
                eprintln!("odradek: {} records were written before it failed", summary.records);
            }
            Err(error)
        }
    }
}

/// Reads and writes until the end of standard input. What was read before a line that is wrong is written.
async fn write_all(
    context: &Context,
    command: &Produce,
    producer: &mut Producer,
    summary: &mut BTreeMap<i32, Partition>,
) -> Result<(), CliError> {
    let partitions = producer.partitions();
    // Records without a key stay together, a round on each partition in turn.
    let mut turns = Sticky::new(partitions.clone(), context.world.entropy.next_u64());
    let mut rounds = read_lines(context);
    let mut line_number = 0;
    loop {
        note(summary, producer.take_written());
        if !producer.has_room() {
            producer.step(None).await?;
            continue;
        }
        // Lines that keep coming would interrupt it for ever.
        if producer.is_refresh_due() {
            producer.step(Some(context.world.instant())).await?;
            continue;
        }
        let lines = tokio::select! {
            biased;
            lines = rounds.recv() => lines,
            stepped = producer.step(None) => {
                stepped?;
                continue;
            }
        };
        let lines = match lines {
            None => return producer.flush().await,
            Some(Ok(lines)) => lines,
            Some(Err(error)) => {
                producer.flush().await?;
                return Err(CliError::failed(format!("standard input: {error}")));
            }
        };
        turns.next();
        for line in lines {
            line_number += 1;
            let (record, named) = match record(line, command) {
                Ok(read) => read,
                Err(problem) => {
                    producer.flush().await?;
                    return Err(CliError::failed(format!("standard input, line {line_number}: {problem}")));
                }
            };
            let of_key = || {
                let index = partition_of(record.key.as_ref()?, partitions.len());
                partitions.get(index).copied()
            };
            let partition = command.partition.or(named).or_else(of_key).unwrap_or_else(|| turns.current());
            if let Err(error) = producer.append(partition, &record) {
                producer.flush().await?;
                return Err(CliError::failed(format!("standard input, line {line_number}: {error}")));
            }
        }
    }
}

fn note(summary: &mut BTreeMap<i32, Partition>, written: Vec<Written>) {
    for written in written {
        let first = (written.base_offset >= 0).then_some(written.base_offset);
        let new = Partition { partition: written.partition, records: 0, first_offset: first, last_offset: None };
        let partition = summary.entry(written.partition).or_insert(new);
        partition.records += written.records;
        partition.last_offset = first.map(|first| first + written.records - 1);
    }
}

fn text(summary: &Summary) -> String {
    let place = |partition: &Partition| match (partition.first_offset, partition.last_offset) {
        (Some(first), Some(last)) if first == last => format!("{} at offset {first}", partition.partition),
        (Some(first), Some(last)) => format!("{} at offsets {first} to {last}", partition.partition),
        _ => format!("{} without acknowledgement", partition.partition),
    };
    let places: Vec<String> = summary.partitions.iter().map(place).collect();
    match summary.records {
        0 => format!("nothing was written to {}", summary.topic),
        1 => format!("1 record is in {}: partition {}", summary.topic, places.join("; partition ")),
        n => format!("{n} records are in {}: partition {}", summary.topic, places.join("; partition ")),
    }
}

impl From<Codec> for odradek_records::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// A line's record, and the partition that it names.
fn record(line: Bytes, command: &Produce) -> Result<(Record, Option<i32>), String> {
    let (mut record, partition) = match command.format {
        ProduceFormat::Json => json::read(&line)?,
        ProduceFormat::Lines => {
            let (key, value) = split(line, command.key_separator.as_deref());
            let null = command.null_value.as_deref().map(str::as_bytes);
            let or_null = |bytes: Bytes| (null != Some(bytes.as_ref())).then_some(bytes);
            (Record { key: key.and_then(or_null), value: or_null(value), ..Record::default() }, None)
        }
    };
    let headers = command.header.iter();
    record.headers.extend(headers.map(|(name, value)| (name.clone().into(), Some(value.clone().into()))));
    Ok((record, partition))
}

/// Splits at the first separator; a line without one has no key.
fn split(line: Bytes, separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let separator = separator.map(str::as_bytes).filter(|separator| !separator.is_empty());
    let found = separator.and_then(|separator| {
        let at = line.windows(separator.len()).position(|window| window == separator)?;
        Some((at, at + separator.len()))
    });
    match found {
        Some((end, start)) => (Some(line.slice(..end)), line.slice(start..)),
        None => (None, line),
    }
}

/// Reads standard input on the pool for blocking work: whatever is there, up to a round, so that a slow writer's lines
/// go out as they come and a file's go out in large batches.
fn read_lines(context: &Context) -> mpsc::Receiver<io::Result<Vec<Bytes>>> {
    let (sender, receiver) = mpsc::channel(2);
    context.world.disk.execute(Box::new(move || {
        let mut input = io::BufReader::with_capacity(ROUND_BYTES_MAX, io::stdin());
        loop {
            match round(&mut input) {
                Ok(lines) if lines.is_empty() => return,
                Ok(lines) => {
                    if sender.blocking_send(Ok(lines)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    }));
    receiver
}

/// The lines that can be had without waiting for more input than the first needs. Empty at the end.
fn round(input: &mut io::BufReader<impl Read>) -> io::Result<Vec<Bytes>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    while lines.is_empty() || bytes < ROUND_BYTES_MAX && input.buffer().contains(&b'\n') {
        let mut line = Vec::new();
        if input.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() == LINE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line is longer than {LINE_BYTES_MAX} bytes"),
            ));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        // With what a record takes besides its text.
        bytes += line.len() + 16;
        lines.push(Bytes::from(line));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_at_the_first_separator() {
        for (line, separator, key, value) in [
            ("a:b:c", Some(":"), Some("a"), "b:c"),
            ("a=>b", Some("=>"), Some("a"), "b"),
            (":b", Some(":"), Some(""), "b"),
            ("b", Some(":"), None, "b"),
            ("a:b", None, None, "a:b"),
            ("a:b", Some(""), None, "a:b"),
            ("", Some(":"), None, ""),
        ] {
            let found = split(Bytes::from(line), separator);
            assert_eq!(found, (key.map(Bytes::from), Bytes::from(value)), "{line}");
        }
    }

    #[test]
    fn rounds_take_what_is_there() {
        let mut input = io::BufReader::new(&b"a\n\nb\nlast"[..]);
        assert_eq!(round(&mut input).expect("read"), ["a", "", "b"]);
        assert_eq!(round(&mut input).expect("read"), ["last"]);
        assert_eq!(round(&mut input).expect("read"), Vec::<Bytes>::new());
    }
}
