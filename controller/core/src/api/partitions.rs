//! AlterPartitionReassignments and ListPartitionReassignments in Kafka's encoding.

use odradek_common::{PartitionIndex, TopicPartition};
use odradek_metadata::Replicas;
use odradek_wire::{
    alter_partition_reassignments_request as request, alter_partition_reassignments_response as response,
    list_partition_reassignments_request as list_request, list_partition_reassignments_response as list_response,
};

use super::{broker_ids, error_fields};
use crate::decider::{Context, Decider, Decision};
use crate::reassignment::{Reassignment, ongoing};

impl Decider {
    pub(super) fn answer_alter_reassignments(
        &mut self,
        context: &mut Context<'_>,
        _version: i16,
        request: request::AlterPartitionReassignmentsRequest,
    ) -> Decision<response::AlterPartitionReassignmentsResponse> {
        if request.topics.is_empty() {
            return self.answer(response::AlterPartitionReassignmentsResponse::default());
        }
        let wanted = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| Reassignment {
                partition: TopicPartition::new(&*topic.name, partition.partition_index),
                replicas: partition.replicas.as_deref().map(broker_ids),
            })
        });
        let wanted: Vec<Reassignment> = wanted.collect();
        let allowed = request.allow_replication_factor_change;
        self.alter_partition_reassignments(context, &wanted, allowed).map(|outcomes| {
            let mut outcomes = outcomes.into_iter();
            let responses = request.topics.into_iter().map(|topic| {
                let partitions = outcomes.by_ref().take(topic.partitions.len()).map(|outcome| {
                    let (error_code, error_message) = error_fields(outcome.result);
                    response::ReassignablePartitionResponse {
                        partition_index: outcome.partition.partition.0,
                        error_code,
                        error_message,
                        ..Default::default()
                    }
                });
                let partitions = partitions.collect();
                response::ReassignableTopicResponse { name: topic.name, partitions, ..Default::default() }
            });
            response::AlterPartitionReassignmentsResponse {
                allow_replication_factor_change: allowed,
                error_message: None,
                responses: responses.collect(),
                ..Default::default()
            }
        })
    }

    pub(super) fn answer_list_reassignments(
        &mut self,
        _context: &mut Context<'_>,
        _version: i16,
        request: list_request::ListPartitionReassignmentsRequest,
    ) -> Decision<list_response::ListPartitionReassignmentsResponse> {
        let numbers = |replicas: &Replicas| replicas.iter().map(|id| id.0).collect();
        let wanted: Option<Vec<(String, Vec<PartitionIndex>)>> = request.topics.map(|topics| {
            let topics = topics.iter();
            let indexes = |indexes: &[i32]| indexes.iter().map(|index| PartitionIndex(*index)).collect();
            topics.map(|topic| (topic.name.to_string(), indexes(&topic.partition_indexes))).collect()
        });
        let topics = ongoing(&self.overlay, wanted.as_deref()).into_iter().map(|(topic, partitions)| {
            let partitions =
                partitions.into_iter().map(|(index, partition)| list_response::OngoingPartitionReassignment {
                    partition_index: index.0,
                    replicas: numbers(&partition.replicas),
                    adding_replicas: numbers(&partition.adding),
                    removing_replicas: numbers(&partition.removing),
                    ..Default::default()
                });
            list_response::OngoingTopicReassignment {
                name: (&*topic.name).into(),
                partitions: partitions.collect(),
                ..Default::default()
            }
        });
        let topics = topics.collect();
        self.answer(list_response::ListPartitionReassignmentsResponse {
            error_message: None,
            topics,
            ..Default::default()
        })
    }
}
