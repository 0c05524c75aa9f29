//! `odradek txn`: transactions, as their coordinators and the partitions that they write to know them.

use std::time::Duration;

use odradek_wire::describe_transactions_response::TransactionState;
use serde::Serialize;

use super::Context;
use crate::args::{Txn, TxnAbort, TxnFindHanging, TxnList};
use crate::error::{CliError, Exit};
use crate::kafka::Cluster;
use crate::kafka::transactions::{Wanted, Writer, by_topic};
use crate::output::{self, ids, table};

pub async fn execute(context: &Context, command: Txn) -> Result<(), CliError> {
    match command {
        Txn::List(command) => list(context, command).await,
        Txn::Describe { ids } => describe(context, &ids).await,
        Txn::FindHanging(command) => find_hanging(context, command).await,
        Txn::Abort(command) => abort(context, command).await,
    }
}

async fn brokers(context: &Context) -> Result<Cluster, CliError> {
    Cluster::open_brokers(&context.world, context.bootstrap()?, context.global.timeout).await
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

// ---------------------------------------------------------------- list

#[derive(Serialize)]
struct Listing {
    transactions: Vec<Transaction>,
}

#[derive(Serialize)]
struct Transaction {
    transactional_id: String,
    coordinator: i32,
    producer_id: i64,
    state: String,
}

async fn list(context: &Context, command: TxnList) -> Result<(), CliError> {
    let wanted = Wanted {
        states: command.state,
        producers: command.producer_id,
        longer_than: command.longer_than.map(millis),
        pattern: command.pattern,
    };
    let found = brokers(context).await?.transactions(&wanted).await?;
    let transactions = found.into_iter().map(|(coordinator, state)| Transaction {
        transactional_id: state.transactional_id.to_string(),
        coordinator,
        producer_id: state.producer_id,
        state: state.transaction_state.to_string(),
    });
    let listing = Listing { transactions: transactions.collect() };
    output::print(context.global.output, &listing, |listing| {
        if listing.transactions.is_empty() {
            return "no transactions".to_owned();
        }
        let row = |one: &Transaction| {
            vec![
                one.transactional_id.clone(),
                one.coordinator.to_string(),
                one.producer_id.to_string(),
                one.state.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = listing.transactions.iter().map(row).collect();
        table(&["TRANSACTIONAL ID", "COORDINATOR", "PRODUCER", "STATE"], &rows)
    })
}

// ---------------------------------------------------------------- describe

#[derive(Serialize)]
struct Described {
    transactional_id: String,
    coordinator: i32,
    state: String,
    producer_id: i64,
    producer_epoch: i16,
    timeout_ms: i32,
    /// Absent when none has begun.
    started_ms: Option<i64>,
    partitions: Vec<TopicPartitions>,
}

#[derive(Serialize)]
struct TopicPartitions {
    topic: String,
    partitions: Vec<i32>,
}

impl Described {
    fn new(coordinator: i32, state: &TransactionState) -> Self {
        let partitions = by_topic(state).into_iter().map(|(topic, mut partitions)| {
            partitions.sort_unstable();
            TopicPartitions { topic: topic.to_owned(), partitions }
        });
        Self {
            transactional_id: state.transactional_id.to_string(),
            coordinator,
            state: state.transaction_state.to_string(),
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            timeout_ms: state.transaction_timeout_ms,
            started_ms: Some(state.transaction_start_time_ms).filter(|started| *started >= 0),
            partitions: partitions.collect(),
        }
    }

    fn text(&self) -> String {
        let started = self.started_ms.map_or_else(|| "-".to_owned(), crate::time::format);
        let mut text = format!(
            "{}: {}, producer {} in epoch {}, coordinated by broker {}, timeout {} ms, began {started}\n",
            self.transactional_id, self.state, self.producer_id, self.producer_epoch, self.coordinator, self.timeout_ms
        );
        for topic in &self.partitions {
            text.push_str(&format!("  {}: {}\n", topic.topic, ids(&topic.partitions)));
        }
        text
    }
}

/// One line each as JSON. An id that is not there says nothing of the others.
async fn describe(context: &Context, wanted: &[String]) -> Result<(), CliError> {
    let mut cluster = brokers(context).await?;
    let mut missing = Vec::new();
    for id in wanted {
        match cluster.transaction(id).await? {
            Some((coordinator, state)) => {
                output::print(context.global.output, &Described::new(coordinator, &state), Described::text)?;
            }
            None => missing.push(id.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("no such transactional id: {}; `odradek txn list` shows all", missing.join(", "));
    Err(CliError::new(Exit::NotFound, message))
}

// ---------------------------------------------------------------- find-hanging

#[derive(Serialize)]
struct Hanging {
    hanging: Vec<Open>,
}

/// A transaction that is open in a partition.
#[derive(Serialize)]
struct Open {
    topic: String,
    partition: i32,
    producer_id: i64,
    producer_epoch: i32,
    coordinator_epoch: i32,
    start_offset: i64,
    last_write_ms: i64,
}

async fn find_hanging(context: &Context, command: TxnFindHanging) -> Result<(), CliError> {
    let mut cluster = brokers(context).await?;
    let topics = match &command.topic {
        Some(topic) => vec![topic.clone()],
        None => cluster.topics().await?,
    };
    let now_ms = context.world.timestamp().0;
    let mut suspects = Vec::new();
    for topic in topics {
        cluster.turn_to(&topic).await?;
        let partitions = cluster.chosen(command.partition.as_slice())?;
        for (partition, producers) in cluster.producers(&partitions).await? {
            let open = producers.iter().filter(|producer| producer.current_txn_start_offset >= 0);
            let silent = open.filter(|producer| now_ms - producer.last_timestamp > millis(command.longer_than));
            suspects.extend(silent.map(|producer| Open {
                topic: topic.clone(),
                partition,
                producer_id: producer.producer_id,
                producer_epoch: producer.producer_epoch,
                coordinator_epoch: producer.coordinator_epoch,
                start_offset: producer.current_txn_start_offset,
                last_write_ms: producer.last_timestamp,
            }));
        }
    }
    let mut hanging = Vec::new();
    for suspect in suspects {
        if !is_known(&mut cluster, &suspect).await? {
            hanging.push(suspect);
        }
    }
    output::print(context.global.output, &Hanging { hanging }, |found| {
        if found.hanging.is_empty() {
            return "no transaction hangs".to_owned();
        }
        let row = |one: &Open| {
            vec![
                one.topic.clone(),
                one.partition.to_string(),
                one.producer_id.to_string(),
                one.producer_epoch.to_string(),
                one.coordinator_epoch.to_string(),
                one.start_offset.to_string(),
                crate::time::format(one.last_write_ms),
            ]
        };
        let rows: Vec<Vec<String>> = found.hanging.iter().map(row).collect();
        table(&["TOPIC", "PARTITION", "PRODUCER", "EPOCH", "COORDINATOR EPOCH", "FROM", "LAST WRITE"], &rows)
    })
}

/// Whether a coordinator will end it: it has a transaction of this producer with this partition.
async fn is_known(cluster: &mut Cluster, open: &Open) -> Result<bool, CliError> {
    let wanted = Wanted { producers: vec![open.producer_id], ..Wanted::default() };
    for (_, listed) in cluster.transactions(&wanted).await? {
        let Some((_, state)) = cluster.transaction(&listed.transactional_id).await? else { continue };
        let has_partition =
            state.topics.iter().any(|topic| *topic.topic == *open.topic && topic.partitions.contains(&open.partition));
        if state.producer_id == open.producer_id && has_partition {
            return Ok(true);
        }
    }
    Ok(false)
}

// ---------------------------------------------------------------- abort

#[derive(Serialize)]
struct Aborted {
    topic: String,
    partition: i32,
    producer_id: i64,
    producer_epoch: i16,
}

async fn abort(context: &Context, command: TxnAbort) -> Result<(), CliError> {
    let TxnAbort { topic, partition, start_offset, producer_id, producer_epoch, coordinator_epoch } = command;
    let mut cluster =
        Cluster::open(&context.world, context.bootstrap()?, &topic, context.global.timeout, false).await?;
    let chosen = cluster.chosen(&[partition])?;
    let writer = match (start_offset, producer_id, producer_epoch) {
        (None, Some(producer_id), Some(producer_epoch)) => {
            Writer { producer_id, producer_epoch, coordinator_epoch: coordinator_epoch.unwrap_or(0) }
        }
        (Some(offset), ..) => {
            let producers = cluster.producers(&chosen).await?.remove(&partition).unwrap_or_default();
            let open = producers.iter().find(|producer| producer.current_txn_start_offset == offset);
            let open = open.ok_or_else(|| {
                let message = format!(
                    "{topic}-{partition} has no open transaction from offset {offset}; `odradek topic producers {topic} \
                     --partition {partition}` shows those that are open"
                );
                CliError::new(Exit::NotFound, message)
            })?;
            Writer {
                producer_id: open.producer_id,
                producer_epoch: i16::try_from(open.producer_epoch).unwrap_or(i16::MAX),
                coordinator_epoch: open.coordinator_epoch.max(0),
            }
        }
        _ => return Err(CliError::failed("say --start-offset, or --producer-id and --producer-epoch".to_owned())),
    };
    cluster.abort_transaction(partition, writer).await?;
    let aborted = Aborted { topic, partition, producer_id: writer.producer_id, producer_epoch: writer.producer_epoch };
    output::print(context.global.output, &aborted, |aborted| {
        format!(
            "aborted the transaction of producer {} in {}-{}",
            aborted.producer_id, aborted.topic, aborted.partition
        )
    })
}
