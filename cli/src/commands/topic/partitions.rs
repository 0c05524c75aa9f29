//! What the leaders of a topic's partitions know: `odradek topic offsets` and `producers`.

use odradek_wire::describe_producers_response::ProducerState;
use serde::Serialize;

use crate::args::Start;
use crate::commands::Context;
use crate::error::CliError;
use crate::kafka::Cluster;
use crate::kafka::leaders::{EARLIEST, LATEST};
use crate::output::{self, table};

#[derive(Serialize)]
struct Offsets {
    topic: String,
    partitions: Vec<PartitionOffsets>,
}

#[derive(Serialize)]
struct PartitionOffsets {
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<i64>,
    /// Where it was at the time that was asked for; absent when nothing is that new, or no time was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
}

pub async fn offsets(context: &Context, topic: &str, at: Option<Start>, partitions: &[i32]) -> Result<(), CliError> {
    let mut cluster = Cluster::open(&context.world, context.bootstrap()?, topic, context.global.timeout, false).await?;
    let chosen = cluster.chosen(partitions)?;
    let special = match at {
        None => None,
        Some(Start::Latest) => Some(LATEST),
        Some(Start::Earliest | Start::Offset(_)) => Some(EARLIEST),
        Some(Start::Time(time)) => Some(time),
    };
    let mut found: Vec<PartitionOffsets> = Vec::new();
    if let Some(timestamp) = special {
        let offsets = cluster.offsets(&chosen, timestamp).await?.into_iter();
        found.extend(offsets.map(|(partition, offset)| PartitionOffsets {
            partition,
            earliest: None,
            latest: None,
            offset: (offset >= 0).then_some(offset),
        }));
    } else {
        let latest = cluster.offsets(&chosen, LATEST).await?;
        let earliest = cluster.offsets(&chosen, EARLIEST).await?.into_iter();
        found.extend(earliest.map(|(partition, earliest)| PartitionOffsets {
            partition,
            earliest: Some(earliest),
            latest: latest.get(&partition).copied(),
            offset: None,
        }));
    }
    let offsets = Offsets { topic: topic.to_owned(), partitions: found };
    output::print(context.global.output, &offsets, |offsets| {
        let shown = |offset: Option<i64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let row = |one: &PartitionOffsets| match (one.earliest, one.latest) {
            (Some(earliest), Some(latest)) => {
                vec![
                    one.partition.to_string(),
                    earliest.to_string(),
                    latest.to_string(),
                    (latest - earliest).to_string(),
                ]
            }
            _ => vec![one.partition.to_string(), shown(one.offset)],
        };
        let rows: Vec<Vec<String>> = offsets.partitions.iter().map(row).collect();
        let head: &[&str] = match at {
            None => &["PARTITION", "EARLIEST", "LATEST", "OFFSETS"],
            Some(_) => &["PARTITION", "OFFSET"],
        };
        table(head, &rows)
    })
}

#[derive(Serialize)]
struct Producers {
    topic: String,
    producers: Vec<Producer>,
}

#[derive(Serialize)]
struct Producer {
    partition: i32,
    producer_id: i64,
    producer_epoch: i32,
    last_sequence: Option<i32>,
    last_timestamp_ms: Option<i64>,
    /// Absent without a transaction.
    transaction_start_offset: Option<i64>,
    coordinator_epoch: Option<i32>,
}

impl Producer {
    fn new(partition: i32, state: &ProducerState) -> Self {
        Self {
            partition,
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            last_sequence: Some(state.last_sequence).filter(|sequence| *sequence >= 0),
            last_timestamp_ms: Some(state.last_timestamp).filter(|timestamp| *timestamp >= 0),
            transaction_start_offset: Some(state.current_txn_start_offset).filter(|offset| *offset >= 0),
            coordinator_epoch: Some(state.coordinator_epoch).filter(|epoch| *epoch >= 0),
        }
    }
}

pub async fn producers(context: &Context, topic: &str, partitions: &[i32]) -> Result<(), CliError> {
    let mut cluster = Cluster::open(&context.world, context.bootstrap()?, topic, context.global.timeout, false).await?;
    let chosen = cluster.chosen(partitions)?;
    let found = cluster.producers(&chosen).await?;
    let producers = found
        .iter()
        .flat_map(|(partition, states)| states.iter().map(|state| Producer::new(*partition, state)))
        .collect();
    let producers = Producers { topic: topic.to_owned(), producers };
    output::print(context.global.output, &producers, |producers| {
        if producers.producers.is_empty() {
            return format!("no idempotent or transactional producer has written to {} lately", producers.topic);
        }
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let row = |one: &Producer| {
            vec![
                one.partition.to_string(),
                one.producer_id.to_string(),
                one.producer_epoch.to_string(),
                number(one.last_sequence.map(i64::from)),
                one.last_timestamp_ms.map_or_else(|| "-".to_owned(), crate::time::format),
                number(one.transaction_start_offset),
            ]
        };
        let rows: Vec<Vec<String>> = producers.producers.iter().map(row).collect();
        table(&["PARTITION", "PRODUCER", "EPOCH", "SEQUENCE", "LAST WRITE", "TRANSACTION FROM"], &rows)
    })
}
