//! DescribeLogDirs (KIP-113, KIP-827): what each directory of this broker holds, and how much room it has.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_wire::Str;
use odradek_wire::describe_log_dirs_request::DescribeLogDirsRequest;
use odradek_wire::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};
use crate::replica::LogDirDescription;

impl Api {
    pub(super) fn describe_log_dirs(
        self: &Arc<Self>,
        asked: Asked<DescribeLogDirsRequest>,
    ) -> Outcome<DescribeLogDirsResponse> {
        let Asked { context, body: request, .. } = asked;
        if !self.allows(&context, Operation::Describe, Resource::Cluster) {
            let error_code = ErrorCode::ClusterAuthorizationFailed.code();
            return Outcome::Done(DescribeLogDirsResponse { error_code, ..DescribeLogDirsResponse::default() });
        }
        let wanted: Option<BTreeSet<(Str, i32)>> = request.topics.map(|topics| {
            let named =
                topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic.clone(), *index)));
            named.collect()
        });
        // The room of a file system is the disk's to tell.
        let (world, replicas) = (self.world.clone(), self.replicas.clone());
        Outcome::waiting(async move {
            let directories = world.on_disk(move || replicas.describe_log_dirs()).await;
            let results = directories.into_iter().map(|directory| result(directory, wanted.as_ref()));
            DescribeLogDirsResponse { results: results.collect(), ..DescribeLogDirsResponse::default() }
        })
    }
}

fn result(directory: LogDirDescription, wanted: Option<&BTreeSet<(Str, i32)>>) -> DescribeLogDirsResult {
    let log_dir = Str::from(absolute(&directory.path));
    let Some(space) = directory.space else {
        return DescribeLogDirsResult {
            error_code: ErrorCode::KafkaStorageError.code(),
            log_dir,
            ..DescribeLogDirsResult::default()
        };
    };
    let current = directory.replicas.into_iter().map(|replica| {
        let offset_lag = (replica.high_watermark.0 - replica.log_end.0).max(0);
        (replica.topic, replica.index, replica.size_bytes, offset_lag, false)
    });
    let futures = directory.futures.into_iter();
    let futures = futures.map(|copy| (copy.topic, copy.index, copy.size_bytes, copy.offset_lag, true));
    let mut topics: BTreeMap<Str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for (topic, partition_index, size_bytes, offset_lag, is_future_key) in current.chain(futures) {
        let name = Str::from(topic);
        if wanted.is_some_and(|wanted| !wanted.contains(&(name.clone(), partition_index))) {
            continue;
        }
        topics.entry(name).or_default().push(DescribeLogDirsPartition {
            partition_index,
            partition_size: number(size_bytes),
            offset_lag,
            is_future_key,
            ..DescribeLogDirsPartition::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| DescribeLogDirsTopic {
        name,
        partitions,
        ..DescribeLogDirsTopic::default()
    });
    DescribeLogDirsResult {
        log_dir,
        topics: topics.collect(),
        total_bytes: number(space.total),
        usable_bytes: number(space.available),
        ..DescribeLogDirsResult::default()
    }
}

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
