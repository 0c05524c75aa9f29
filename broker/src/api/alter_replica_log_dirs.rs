//! AlterReplicaLogDirs (KIP-113): moves replicas of this broker to other directories of its `log.dirs`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::{ErrorCode, TopicPartition};
use odradek_wire::Str;
use odradek_wire::alter_replica_log_dirs_request::AlterReplicaLogDirsRequest;
use odradek_wire::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn alter_replica_log_dirs(
        self: &Arc<Self>,
        asked: Asked<AlterReplicaLogDirsRequest>,
    ) -> Outcome<AlterReplicaLogDirsResponse> {
        let Asked { context, body: request, .. } = asked;
        // A partition that is named twice goes where it is named last, as in Kafka's map.
        let mut wishes: BTreeMap<(Str, i32), Str> = BTreeMap::new();
        for dir in request.dirs {
            for topic in dir.topics {
                wishes.extend(topic.partitions.iter().map(|index| ((topic.name.clone(), *index), dir.path.clone())));
            }
        }
        if !self.allows(&context, Operation::Alter, Resource::Cluster) {
            let refused = wishes.into_keys().map(|key| (key, ErrorCode::ClusterAuthorizationFailed));
            return Outcome::Done(response(refused));
        }
        let replicas = self.replicas.clone();
        let world = self.world.clone();
        Outcome::waiting(async move {
            let (keys, paths): (Vec<_>, Vec<_>) = wishes.into_iter().unzip();
            let named = keys.iter().map(|(topic, index): &(Str, i32)| TopicPartition::new(topic.as_str(), *index));
            let named = named.zip(paths.into_iter().map(|path: Str| PathBuf::from(path.as_str()))).collect();
            let results = world.on_disk(move || replicas.alter_log_dirs(named)).await;
            let codes = results.into_iter().map(|result| match result {
                Ok(()) => ErrorCode::None,
                Err(error) => {
                    tracing::warn!(code = %error.code, %error, "a replica is not moved to another log directory");
                    error.code
                }
            });
            response(keys.into_iter().zip(codes))
        })
    }
}

fn response(codes: impl Iterator<Item = ((Str, i32), ErrorCode)>) -> AlterReplicaLogDirsResponse {
    let mut results: Vec<AlterReplicaLogDirTopicResult> = Vec::new();
    for ((topic_name, partition_index), code) in codes {
        let error_code = code.code();
        let partition = AlterReplicaLogDirPartitionResult {
            partition_index,
            error_code,
            ..AlterReplicaLogDirPartitionResult::default()
        };
        match results.last_mut() {
            Some(last) if last.topic_name == topic_name => last.partitions.push(partition),
            _ => results.push(AlterReplicaLogDirTopicResult {
                topic_name,
                partitions: vec![partition],
                ..AlterReplicaLogDirTopicResult::default()
            }),
        }
    }
    AlterReplicaLogDirsResponse { results, ..AlterReplicaLogDirsResponse::default() }
}
