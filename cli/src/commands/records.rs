//! `odradek records`.

use std::collections::BTreeMap;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_wire::Str;
use odradek_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use serde::Serialize;

use super::Context;
use crate::args::{Records, RecordsDelete};
use crate::error::CliError;
use crate::kafka::{Cluster, Trouble};
use crate::output::{self, table};

/// Between two attempts at a leader that is not one.
const PAUSE: Duration = Duration::from_millis(50);

pub async fn execute(context: &Context, command: Records) -> Result<(), CliError> {
    match command {
        Records::Delete(command) => delete(context, command).await,
    }
}

#[derive(Serialize)]
struct Deleted {
    topic: String,
    partitions: Vec<DeletedPartition>,
}

#[derive(Serialize)]
struct DeletedPartition {
    partition: i32,
    /// The first offset that is left on every replica.
    log_start: Option<i64>,
    error: Option<&'static str>,
}

async fn delete(context: &Context, command: RecordsDelete) -> Result<(), CliError> {
    let timeout = context.global.timeout;
    let mut cluster = Cluster::open(&context.world, context.bootstrap()?, &command.topic, timeout, false).await?;
    let wanted = cluster.chosen(&command.partition)?;
    let deadline = cluster.deadline();
    let mut done = BTreeMap::new();
    loop {
        let left = deadline.saturating_since(context.world.instant());
        let trouble = match delete_once(&mut cluster, &command, &wanted, left, &mut done).await {
            Ok(()) if done.len() == wanted.len() => break,
            Ok(()) => Trouble::Topic(ErrorCode::NotLeaderOrFollower),
            Err(trouble) => trouble,
        };
        if context.world.instant() >= deadline {
            return Err(cluster.give_up(&trouble));
        }
        context.world.sleep(PAUSE).await;
        // The leaders may have changed.
        let _ = cluster.refresh(false).await;
    }
    let deleted = Deleted {
        topic: command.topic,
        partitions: done
            .into_iter()
            .map(|(partition, (error, low_watermark))| DeletedPartition {
                partition,
                log_start: (!error.is_error()).then_some(low_watermark),
                error: error.is_error().then(|| error.name()),
            })
            .collect(),
    };
    output::print(context.global.output, &deleted, text)?;
    match deleted.partitions.iter().filter(|partition| partition.error.is_some()).count() {
        0 => Ok(()),
        failed => Err(CliError::failed(format!("{failed} of {} partitions failed", deleted.partitions.len()))),
    }
}

/// Asks the leaders of the partitions that are not done.
async fn delete_once(
    cluster: &mut Cluster,
    command: &RecordsDelete,
    wanted: &[i32],
    within: Duration,
    done: &mut BTreeMap<i32, (ErrorCode, i64)>,
) -> Result<(), Trouble> {
    let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for partition in wanted.iter().filter(|partition| !done.contains_key(partition)) {
        let leader = cluster.partitions.get(partition).map_or(-1, |found| found.leader);
        if leader < 0 {
            return Err(Trouble::Topic(ErrorCode::LeaderNotAvailable));
        }
        by_leader.entry(leader).or_default().push(*partition);
    }
    for (leader, partitions) in by_leader {
        let partitions = partitions.into_iter().map(|partition_index| DeleteRecordsPartition {
            partition_index,
            offset: command.before.offset(),
            ..Default::default()
        });
        let topic = DeleteRecordsTopic {
            name: Str::from(command.topic.as_str()),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms, ..Default::default() };
        let answer = cluster.ask(leader, within.saturating_add(PAUSE), (0, 2), &request).await?;
        for result in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            let error = ErrorCode::from_code(result.error_code);
            if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::LeaderNotAvailable) {
                done.insert(result.partition_index, (error, result.low_watermark));
            }
        }
    }
    Ok(())
}

fn text(deleted: &Deleted) -> String {
    let row = |partition: &DeletedPartition| {
        let (start, result) = match (partition.log_start, partition.error) {
            (Some(start), _) => (start.to_string(), "deleted before".to_owned()),
            (None, error) => ("-".to_owned(), error.unwrap_or("").to_owned()),
        };
        vec![partition.partition.to_string(), start, result]
    };
    let rows: Vec<Vec<String>> = deleted.partitions.iter().map(row).collect();
    format!("topic {}\n{}", deleted.topic, table(&["PARTITION", "LOG START", "RESULT"], &rows))
}
