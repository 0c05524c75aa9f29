//! `odradek perf consume`: what kafka-consumer-perf-test measures.

use serde::Serialize;

use super::{Progress, Volume, milliseconds, rounded};
use crate::args::PerfConsume;
use crate::commands::Context;
use crate::error::CliError;
use crate::kafka::Cluster;
use crate::kafka::consumer::{Consumer, FetchLimits};
use crate::output;

#[derive(Serialize)]
struct Summary {
    topic: String,
    records: u64,
    /// Of keys and values.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    /// From the beginning to the first record; absent when none came.
    first_record_ms: Option<f64>,
}

pub async fn execute(context: &Context, command: PerfConsume) -> Result<(), CliError> {
    let (world, timeout) = (&context.world, context.global.timeout);
    let begin = world.instant();
    let mut progress = Progress::new(world, command.report_interval);
    let cluster = Cluster::open(world, context.bootstrap()?, &command.topic, timeout, false).await?;
    let mut consumer =
        Consumer::new(cluster, &command.partition, command.from, command.records.is_none(), timeout).await?;
    consumer.limit(FetchLimits { bytes_max: command.fetch_bytes, partition_bytes_max: command.partition_bytes });
    let wanted = command.records.unwrap_or(u64::MAX);
    let (mut volume, mut first, mut last) = (Volume::default(), None, world.instant());
    while volume.records < wanted {
        let Some(found) = consumer.next().await? else { break };
        let now = world.instant();
        progress.show_if_due(now);
        if found.is_empty() && now.saturating_since(last) >= timeout {
            break;
        }
        for (_, records) in found {
            (first, last) = (first.or(Some(now)), now);
            for record in records.iter().take(usize::try_from(wanted - volume.records).unwrap_or(usize::MAX)) {
                let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let bytes = len(&record.key) + len(&record.value);
                volume.add(1, bytes);
                progress.volume.add(1, bytes);
            }
        }
    }
    // Time in which nothing came at the end is not the cluster's.
    let elapsed = if volume.records == 0 { world.instant() } else { last }.saturating_since(begin);
    let (records_per_second, megabytes_per_second) = volume.rates(elapsed);
    let summary = Summary {
        topic: command.topic,
        records: volume.records,
        bytes: volume.bytes,
        seconds: rounded(elapsed.as_secs_f64()),
        records_per_second: rounded(records_per_second),
        megabytes_per_second: rounded(megabytes_per_second),
        first_record_ms: first.map(|first| milliseconds(first.saturating_since(begin))),
    };
    output::print(context.global.output, &summary, text)?;
    match command.records {
        Some(wanted) if volume.records < wanted => Err(CliError::failed(format!(
            "only {} of {wanted} records came, and then none for {} s; without --records it ends with what is there",
            volume.records,
            timeout.as_secs_f64()
        ))),
        _ => Ok(()),
    }
}

fn text(summary: &Summary) -> String {
    let first = summary.first_record_ms.map_or_else(String::new, |ms| format!("; the first after {ms:.2} ms"));
    format!(
        "{} records in {:.2} s: {:.1} records/s, {:.2} MB/s{first}",
        summary.records, summary.seconds, summary.records_per_second, summary.megabytes_per_second
    )
}
