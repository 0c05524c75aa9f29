//! `odradek perf e2e`: what kafka-e2e-latency measures, from handing a record in to having consumed it.

use std::time::Duration;

use bytes::Bytes;
use odradek_records::Codec;
use serde::Serialize;

use super::{Latency, Progress};
use crate::args::{PerfE2e, Start};
use crate::commands::Context;
use crate::error::CliError;
use crate::histogram::Histogram;
use crate::kafka::consumer::Consumer;
use crate::kafka::producer::{Producer, Record, Settings};
use crate::kafka::{Cluster, no_partition};
use crate::output;

#[derive(Serialize)]
struct Summary {
    topic: String,
    partition: i32,
    records: u64,
    latency_ms: Latency,
}

pub async fn execute(context: &Context, command: PerfE2e) -> Result<(), CliError> {
    let (world, timeout) = (&context.world, context.global.timeout);
    let bootstrap = context.bootstrap()?;
    let open = |create| Cluster::open(world, bootstrap.clone(), &command.topic, timeout, create);
    let bytes = command.record_bytes as usize;
    let settings = Settings {
        acks: command.acks.code(),
        codec: Codec::None,
        batch_bytes: bytes,
        linger: Duration::ZERO,
        in_flight: 1,
        timeout,
    };
    let mut producer = Producer::new(open(true).await?, settings).await?;
    let partitions = producer.partitions();
    let partition = command.partition.or(partitions.first().copied()).unwrap_or(0);
    if !partitions.contains(&partition) {
        return Err(no_partition(&command.topic, partitions.len(), partition));
    }
    let mut consumer = Consumer::new(open(false).await?, &[partition], Start::Latest, false, timeout).await?;
    let (mut latencies, mut progress) = (Histogram::new(), Progress::new(world, command.report_interval));
    // Others may write to the partition meanwhile; ours are known by a number that nobody else has.
    let (mut mark, begin) = (world.entropy.next_u64(), world.instant());
    for count in 0..command.records {
        if let Some(rate) = command.rate {
            world.clock.sleep_until(begin + Duration::from_secs_f64(count as f64 / rate)).await;
        }
        mark = mark.wrapping_add(1);
        let value = Bytes::from(format!("{mark:016x}{}", "x".repeat(bytes - 16)));
        let sent = world.instant();
        producer.append(partition, &Record { value: Some(value.clone()), ..Record::default() })?;
        // The consumer has asked before the record is there, as one that follows a topic does.
        let consumed = consumed(context, &mut consumer, &value);
        tokio::try_join!(producer.flush(), consumed)?;
        let now = world.instant();
        let latency = now.saturating_since(sent);
        latencies.record(latency);
        progress.latencies.record(latency);
        progress.volume.add(1, bytes as u64);
        progress.show_if_due(now);
        producer.take_written();
    }
    let summary = Summary {
        topic: command.topic.clone(),
        partition,
        records: latencies.count(),
        latency_ms: Latency::from(&latencies),
    };
    output::print(context.global.output, &summary, |summary| {
        format!("{} records, produced and consumed; {}", summary.records, summary.latency_ms.text())
    })
}

async fn consumed(context: &Context, consumer: &mut Consumer, value: &Bytes) -> Result<(), CliError> {
    let deadline = context.world.instant() + context.global.timeout;
    loop {
        let found = consumer.next().await?.unwrap_or_default();
        if found.iter().flat_map(|(_, records)| records).any(|record| record.value.as_ref() == Some(value)) {
            return Ok(());
        }
        if context.world.instant() >= deadline {
            return Err(CliError::failed(format!(
                "a record was not consumed within {} s; does the partition have all its in-sync replicas (`odradek topic \
                 describe`)?",
                context.global.timeout.as_secs_f64()
            )));
        }
    }
}
