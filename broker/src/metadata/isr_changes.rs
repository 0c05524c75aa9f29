//! The way of ISR changes, and of the replicas' directories, to the active controller.

use std::time::Duration;

use odradek_broker_core::partition::IsrCommitted;
use odradek_common::{BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicIdPartition, Uuid};
use odradek_node::world::BoxFuture;
use odradek_proto::broker as proto;

use super::{ControllerClient, ControllerError};
use crate::life::CurrentBrokerEpoch;
use crate::replica::{self, IsrChange, IsrChangeResult};

/// One request is tried for so long; then the replicas ask again with what is true by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks with this broker's id and epoch.
pub struct IsrChanges {
    client: ControllerClient,
    broker_id: BrokerId,
    broker_epoch: CurrentBrokerEpoch,
}

impl IsrChanges {
    pub fn new(client: ControllerClient, broker_id: BrokerId, broker_epoch: CurrentBrokerEpoch) -> Self {
        Self { client, broker_id, broker_epoch }
    }
}

impl replica::ControllerClient for IsrChanges {
    fn alter_partition(&self, changes: Vec<IsrChange>) -> BoxFuture<Result<Vec<IsrChangeResult>, ErrorCode>> {
        let request = proto::AlterPartitionRequest {
            broker_id: self.broker_id.0,
            broker_epoch: self.broker_epoch.get().0,
            partitions: changes.iter().map(change).collect(),
        };
        let client = self.client.clone();
        Box::pin(async move {
            let response = client.alter_partition(request, PATIENCE).await.map_err(|error| {
                tracing::warn!(%error, "an ISR change did not reach the controller");
                match error {
                    ControllerError::TimedOut { .. } => ErrorCode::NetworkException,
                    ControllerError::Refused(_) => ErrorCode::UnknownServerError,
                }
            })?;
            match error_code(response.error_code) {
                ErrorCode::None => Ok(response.partitions.into_iter().filter_map(result).collect()),
                error => Err(error),
            }
        })
    }

    fn assign_directories(
        &self,
        replicas: Vec<(TopicIdPartition, Uuid)>,
    ) -> BoxFuture<Result<Vec<ErrorCode>, ErrorCode>> {
        let request = proto::AssignDirectoriesRequest {
            broker_id: self.broker_id.0,
            broker_epoch: self.broker_epoch.get().0,
            replicas: replicas
                .iter()
                .map(|(partition, directory)| proto::ReplicaDirectory {
                    topic_id: partition.topic_id.0.to_vec(),
                    partition: partition.partition.0,
                    directory_id: directory.0.to_vec(),
                })
                .collect(),
        };
        let client = self.client.clone();
        Box::pin(async move {
            let response = client.assign_directories(request, PATIENCE).await.map_err(|error| match error {
                ControllerError::TimedOut { .. } => ErrorCode::NetworkException,
                ControllerError::Refused(_) => ErrorCode::UnknownServerError,
            })?;
            match error_code(response.error_code) {
                ErrorCode::None => Ok(response.error_codes.into_iter().map(error_code).collect()),
                error => Err(error),
            }
        })
    }
}

fn error_code(code: i32) -> ErrorCode {
    i16::try_from(code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code)
}

fn change(change: &IsrChange) -> proto::PartitionIsrChange {
    let IsrChange { partition, proposal } = change;
    let members =
        proposal.isr.iter().map(|member| proto::IsrMember { broker_id: member.broker.0, broker_epoch: member.epoch.0 });
    proto::PartitionIsrChange {
        topic_id: partition.topic_id.0.to_vec(),
        partition: partition.partition.0,
        leader_epoch: proposal.leader_epoch.0,
        new_isr: members.collect(),
        leader_recovery_state: 0,
        partition_epoch: proposal.partition_epoch.0,
    }
}

/// `None` for a partition id that is none: its proposal is sent again.
fn result(result: proto::PartitionIsrResult) -> Option<IsrChangeResult> {
    let topic_id = Uuid(<[u8; 16]>::try_from(&result.topic_id[..]).ok()?);
    let partition = TopicIdPartition { topic_id, partition: PartitionIndex(result.partition) };
    let result = match error_code(result.error_code) {
        ErrorCode::None => Ok(IsrCommitted {
            leader_epoch: LeaderEpoch(result.leader_epoch),
            partition_epoch: PartitionEpoch(result.partition_epoch),
            isr: result.isr.into_iter().map(BrokerId).collect(),
        }),
        error => Err(error),
    };
    Some(IsrChangeResult { partition, result })
}
