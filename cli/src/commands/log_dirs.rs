//! `odradek broker log-dirs`.

use odradek_common::ErrorCode;
use odradek_wire::describe_log_dirs_response::DescribeLogDirsResult;
use serde::Serialize;

use super::Context;
use crate::error::{CliError, Exit};
use crate::kafka::{Cluster, Trouble, log_dirs};
use crate::output::{self, table};

#[derive(Serialize)]
struct Listing {
    directories: Vec<Directory>,
}

#[derive(Serialize)]
struct Directory {
    broker_id: i32,
    directory: String,
    error: Option<&'static str>,
    /// Of all replicas in it.
    bytes: u64,
    /// Of its file system; absent when it is not known.
    total_bytes: Option<u64>,
    usable_bytes: Option<u64>,
    replicas: Vec<Replica>,
}

#[derive(Serialize)]
struct Replica {
    topic: String,
    partition: i32,
    bytes: u64,
    /// What it lacks of the high watermark.
    offset_lag: i64,
    /// It is on its way into this directory.
    future: bool,
}

impl Directory {
    fn new(broker_id: i32, result: DescribeLogDirsResult) -> Self {
        let replicas = result.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| Replica {
                topic: topic.name.to_string(),
                partition: partition.partition_index,
                bytes: u64::try_from(partition.partition_size).unwrap_or(0),
                offset_lag: partition.offset_lag,
                future: partition.is_future_key,
            })
        });
        let replicas: Vec<Replica> = replicas.collect();
        let error = ErrorCode::from_code(result.error_code);
        Self {
            broker_id,
            directory: result.log_dir.to_string(),
            error: error.is_error().then(|| error.name()),
            bytes: replicas.iter().map(|replica| replica.bytes).sum(),
            total_bytes: u64::try_from(result.total_bytes).ok(),
            usable_bytes: u64::try_from(result.usable_bytes).ok(),
            replicas,
        }
    }
}

pub async fn execute(context: &Context, ids: &[i32], topics: &[String]) -> Result<(), CliError> {
    let mut cluster = Cluster::open_brokers(&context.world, context.bootstrap()?, context.global.timeout).await?;
    let serving = cluster.broker_ids();
    if let Some(missing) = ids.iter().find(|id| !serving.contains(id)) {
        let message = format!("broker {missing} is not serving; `odradek broker list` shows all");
        return Err(CliError::new(Exit::NotFound, message));
    }
    let mut directories = Vec::new();
    for id in serving.into_iter().filter(|id| ids.is_empty() || ids.contains(id)) {
        let results = log_dirs::describe(&mut cluster, id).await.map_err(|trouble| match trouble {
            Trouble::Topic(code) => CliError::failed(format!("broker {id}: {}", code.name())),
            Trouble::Nobody(reason) => CliError::unreachable(reason),
        })?;
        directories.extend(results.into_iter().map(|result| Directory::new(id, result)));
    }
    if !topics.is_empty() {
        directories.iter_mut().for_each(|one| one.replicas.retain(|replica| topics.contains(&replica.topic)));
        let is_there =
            |topic: &&String| !directories.iter().flat_map(|one| &one.replicas).any(|replica| replica.topic == **topic);
        if let Some(missing) = topics.iter().find(is_there) {
            let message = format!(
                "no replica of {missing} is on these brokers; `odradek topic describe {missing}` shows where they are"
            );
            return Err(CliError::new(Exit::NotFound, message));
        }
    }
    let listing = Listing { directories };
    output::print(context.global.output, &listing, |listing| match topics {
        [] => text_of_directories(listing),
        _ => text_of_replicas(listing),
    })
}

fn text_of_directories(listing: &Listing) -> String {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), output::bytes);
    let row = |one: &Directory| {
        vec![
            one.broker_id.to_string(),
            one.directory.clone(),
            one.error.unwrap_or("online").to_owned(),
            one.replicas.len().to_string(),
            output::bytes(one.bytes),
            size(one.usable_bytes),
            size(one.total_bytes),
        ]
    };
    let rows: Vec<Vec<String>> = listing.directories.iter().map(row).collect();
    table(&["BROKER", "DIRECTORY", "STATE", "REPLICAS", "SIZE", "FREE", "OF"], &rows)
}

fn text_of_replicas(listing: &Listing) -> String {
    let mut rows = Vec::new();
    for one in &listing.directories {
        rows.extend(one.replicas.iter().map(|replica| {
            vec![
                replica.topic.clone(),
                replica.partition.to_string(),
                one.broker_id.to_string(),
                output::bytes(replica.bytes),
                replica.offset_lag.to_string(),
                one.directory.clone(),
            ]
        }));
    }
    rows.sort_by_cached_key(|row| {
        let number = |column: usize| row.get(column).and_then(|cell| cell.parse::<i32>().ok());
        (row.first().cloned(), number(1), number(2))
    });
    table(&["TOPIC", "PARTITION", "BROKER", "SIZE", "LAG", "DIRECTORY"], &rows)
}
