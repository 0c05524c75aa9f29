//! `odradek perf produce`: what kafka-producer-perf-test measures.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use odradek_common::fs::read_file;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Instant;
use serde::Serialize;

use super::{Latency, Progress, Volume, rounded};
use crate::args::PerfProduce;
use crate::commands::Context;
use crate::error::CliError;
use crate::histogram::Histogram;
use crate::kafka::partitioner::Sticky;
use crate::kafka::producer::{Producer, Record, Settings, Written};
use crate::kafka::{Cluster, no_partition};
use crate::output;

const PAYLOAD_FILE_BYTES_MAX: u64 = 1 << 30;
/// Random letters that payloads are cut from, beside the length of one.
const LETTERS_BYTES: usize = 256 << 10;
/// So much is handed in between two looks at what has been answered.
const TURN_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Summary {
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    latency_ms: Latency,
}

pub async fn execute(context: &Context, command: PerfProduce) -> Result<(), CliError> {
    let timeout = context.global.timeout;
    let mut payloads = match &command.payload_file {
        Some(path) => Payloads::from_file(context, path)?,
        None => Payloads::random(command.record_bytes.unwrap_or(1) as usize, context.world.rng()),
    };
    let cluster = Cluster::open(&context.world, context.bootstrap()?, &command.topic, timeout, true).await?;
    if let Some(wanted) = command.partition.filter(|wanted| !cluster.partitions.contains_key(wanted)) {
        return Err(no_partition(&command.topic, cluster.partitions.len(), wanted));
    }
    let settings = Settings {
        acks: command.acks.code(),
        codec: command.compression.into(),
        batch_bytes: command.batch_bytes as usize,
        linger: Duration::from_millis(command.linger_ms),
        in_flight: command.in_flight.into(),
        timeout,
    };
    let mut producer = Producer::new(cluster, settings).await?;
    let mut run = Run {
        begin: context.world.instant(),
        volume: Volume::default(),
        latencies: Histogram::new(),
        progress: Progress::new(&context.world, command.report_interval),
    };
    if let Err(error) = write_all(context, &command, &mut producer, &mut payloads, &mut run).await {
        run.note(producer.take_written());
        eprintln!("odradek: {} of {} records were acknowledged before it failed", run.volume.records, command.records);
        return Err(error);
    }
    let elapsed = context.world.instant().saturating_since(run.begin);
    let (records_per_second, megabytes_per_second) = run.volume.rates(elapsed);
    let summary = Summary {
        topic: command.topic,
        records: run.volume.records,
        bytes: run.volume.bytes,
        seconds: rounded(elapsed.as_secs_f64()),
        records_per_second: rounded(records_per_second),
        megabytes_per_second: rounded(megabytes_per_second),
        latency_ms: Latency::from(&run.latencies),
    };
    output::print(context.global.output, &summary, text)
}

fn text(summary: &Summary) -> String {
    format!(
        "{} records in {:.2} s: {:.1} records/s, {:.2} MB/s; {}",
        summary.records,
        summary.seconds,
        summary.records_per_second,
        summary.megabytes_per_second,
        summary.latency_ms.text()
    )
}

struct Run {
    begin: Instant,
    volume: Volume,
    latencies: Histogram,
    progress: Progress,
}

impl Run {
    fn note(&mut self, written: Vec<Written>) {
        for batch in written {
            for volume in [&mut self.volume, &mut self.progress.volume] {
                volume.add(batch.records as u64, batch.bytes as u64);
            }
            for appended in batch.appended {
                let latency = batch.acknowledged.saturating_since(appended);
                self.latencies.record(latency);
                self.progress.latencies.record(latency);
            }
        }
    }
}

async fn write_all(
    context: &Context,
    command: &PerfProduce,
    producer: &mut Producer,
    payloads: &mut Payloads,
    run: &mut Run,
) -> Result<(), CliError> {
    let mut places = Sticky::new(producer.partitions(), context.world.entropy.next_u64());
    let batch_bytes = command.batch_bytes as usize;
    let mut sent = 0;
    loop {
        let now = context.world.instant();
        run.note(producer.take_written());
        run.progress.show_if_due(now);
        if sent == command.records && producer.is_idle() {
            return Ok(());
        }
        // How many may have been handed in by now.
        let allowed = match command.throughput.0 {
            None => command.records,
            Some(rate) => {
                let allowed = 1 + (now.saturating_since(run.begin).as_secs_f64() * rate) as u64;
                allowed.min(command.records)
            }
        };
        let mut turn = 0;
        while sent < allowed && turn < TURN_BYTES && producer.has_room() {
            let record = Record { value: Some(payloads.next()), ..Record::default() };
            let partition = command.partition.unwrap_or_else(|| places.place(record.size(), batch_bytes));
            producer.append(partition, &record)?;
            turn += record.size().max(1);
            sent += 1;
        }
        if sent == command.records {
            producer.stop_lingering();
        }
        let next = match command.throughput.0 {
            _ if !producer.has_room() || sent == command.records => run.progress.due(),
            Some(rate) if sent == allowed => run.begin + Duration::from_secs_f64(sent as f64 / rate),
            _ => now,
        };
        producer.step(Some(next.min(run.progress.due()))).await?;
    }
}

/// Values to write.
enum Payloads {
    Random { letters: Bytes, size: usize, rng: SplitMix64 },
    Lines { lines: Vec<Bytes>, next: usize },
}

impl Payloads {
    fn random(size: usize, mut rng: SplitMix64) -> Self {
        let mut letters = Vec::with_capacity(LETTERS_BYTES + size);
        while letters.len() < LETTERS_BYTES + size {
            let word = rng.next_u64().to_le_bytes();
            letters.extend(word.map(|byte| b'A' + byte % 26));
        }
        Self::Random { letters: letters.into(), size, rng }
    }

    fn from_file(context: &Context, path: &Path) -> Result<Self, CliError> {
        let failed = |problem: String| CliError::failed(format!("{}: {problem}", path.display()));
        let text =
            read_file(&*context.world.fs, path, PAYLOAD_FILE_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
        let text = Bytes::from(text);
        let lines: Vec<Bytes> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| text.slice_ref(line))
            .collect();
        match lines.is_empty() {
            true => Err(failed("there is no line in it; each becomes a record's value".to_owned())),
            false => Ok(Self::Lines { lines, next: 0 }),
        }
    }

    fn next(&mut self) -> Bytes {
        match self {
            Self::Random { letters, size, rng } => {
                let at = rng.next_u64() as usize % LETTERS_BYTES;
                letters.slice(at..at + *size)
            }
            Self::Lines { lines, next } => {
                *next += 1;
                lines.get((*next - 1) % lines.len()).cloned().unwrap_or_default()
            }
        }
    }
}
