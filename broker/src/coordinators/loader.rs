//! Replays a coordinator's partition from its log, on the disk pool, until the log's end.

use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordinator::{LoadError, Runtime, Shard};
use odradek_common::rng::Rng;
use odradek_common::{ErrorCode, LeaderEpoch, Offset};
use odradek_records::{BatchError, DECOMPRESSED_BYTES_MAX, slices};
use tokio::sync::watch;

use super::driver::{DrivenShard, Driver};
use crate::replica::{FileRange, PartitionError};

/// The log of a new leader may still be being opened, and metadata may run ahead of it.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// A log of so many offsets is looked at as a whole before it is loaded. A record costs some 0.2 µs to look at and 1 to 2 µs
/// to load, and most of a log that long are superseded, unless it was just compacted.
const SURVEYED_OFFSETS: i64 = 200_000;

/// A shard that is ready.
pub(super) struct Loaded<S: Shard> {
    pub runtime: Box<Runtime<S>>,
    pub commits: watch::Receiver<Offset>,
    pub log_end: Offset,
}

/// The log could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("its file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("its log cannot be read: {0}")]
    Log(ErrorCode),
}

/// Reads everything. It goes on trying while the partition is not led here yet; whoever ends the leadership ends the task.
pub(super) async fn load<S: DrivenShard>(
    driver: &Driver<S>,
    epoch: LeaderEpoch,
    runtime: Runtime<S>,
) -> Result<Loaded<S>, Failed> {
    let (world, replicas, place) = (&driver.world, &driver.replicas, &driver.place);
    let started = world.instant();
    let commits = loop {
        match replicas.watch_commits(place.partition, epoch) {
            Ok(commits) => break commits,
            Err(error) if is_early(&error) => world.sleep(RETRY_AFTER).await,
            Err(error) => return Err(Failed::Log(error.code)),
        }
    };
    let mut runtime = Box::new(runtime);
    runtime.load_committed(*commits.borrow());
    let described = replicas.describe_partition(place.partition);
    let start = described.map_or(Offset::ZERO, |replica| replica.log_start);
    let read = |next| {
        let (reader, id, bytes_max) = (replicas.clone(), place.partition, place.load_bytes);
        move || {
            let found = reader.read_as_coordinator(id, epoch, next, bytes_max).map_err(Failed::Log)?;
            match found.records {
                Some(range) => Ok::<_, Failed>(whole_batches(&range)?),
                None => Ok(Bytes::new()),
            }
        }
    };
    if commits.borrow().0 - start.0 >= SURVEYED_OFFSETS {
        let mut rng = world.rng();
        runtime.begin_survey((rng.next_u64(), rng.next_u64()));
        let mut next = Some(start);
        while let Some(from) = next {
            let read = read(from);
            let surveyed = world.on_disk(move || {
                let next = runtime.survey(read()?, DECOMPRESSED_BYTES_MAX)?;
                Ok::<_, Failed>((runtime, next))
            });
            (runtime, next) = surveyed.await?;
        }
    }
    let mut next = start;
    loop {
        let read = read(next);
        let read = world.on_disk(move || {
            let batches = read()?;
            let is_end = batches.is_empty();
            runtime.load(batches, DECOMPRESSED_BYTES_MAX)?;
            Ok::<_, Failed>((runtime, is_end))
        });
        let is_end;
        (runtime, is_end) = read.await?;
        if is_end {
            break;
        }
        next = runtime.written();
    }
    for (why, count) in runtime.skipped() {
        tracing::warn!(partition = place.name, "left out {count} {why}");
    }
    let took_ms = world.instant().saturating_since(started).as_millis();
    tracing::info!(partition = place.name, %epoch, log_end = %next, took_ms, "a coordinator is loaded");
    Ok(Loaded { runtime, commits, log_end: next })
}

/// The batches of a range, without one that the range ends in.
fn whole_batches(range: &FileRange) -> Result<Bytes, std::io::Error> {
    let mut bytes = vec![0; range.len];
    range.file.read_exact_at(&mut bytes, range.position)?;
    let mut whole = 0;
    for batch in slices(&bytes) {
        match batch {
            Ok(batch) => whole += batch.bytes.len(),
            // What cannot be parsed stays, for the load to name it.
            Err(BatchError::Incomplete { .. }) if whole > 0 => break,
            Err(_) => whole = range.len,
        }
    }
    bytes.truncate(whole);
    Ok(bytes.into())
}

/// What comes to be by itself.
fn is_early(error: &PartitionError) -> bool {
    matches!(error.code, ErrorCode::NotLeaderOrFollower | ErrorCode::UnknownLeaderEpoch)
}
