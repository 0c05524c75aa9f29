//! ElectLeaders, AlterPartitionReassignments and ListPartitionReassignments: passed on to the active controller, as
//! `admin` does with topics.

use std::sync::Arc;

use bytes::Bytes;
use odradek_wire::Str;
use odradek_wire::alter_partition_reassignments_request::AlterPartitionReassignmentsRequest;
use odradek_wire::alter_partition_reassignments_response::AlterPartitionReassignmentsResponse;
use odradek_wire::elect_leaders_request::ElectLeadersRequest;
use odradek_wire::elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
use odradek_wire::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use odradek_wire::list_partition_reassignments_response::ListPartitionReassignmentsResponse;

use super::dispatch::{Asked, Envelope};
use super::{Api, Operation, Outcome, Reply};

impl Api {
    pub(super) fn elect_leaders(
        self: &Arc<Self>,
        asked: Asked<ElectLeadersRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded_if(Operation::Alter, asked, body, envelope, timeout_ms, |request, error, message| {
            // Version 0 has no error of its own; all versions tell it by partition.
            let topics = request.topic_partitions.iter().flatten().map(|topic| ReplicaElectionResult {
                topic: topic.topic.clone(),
                partition_result: (topic.partitions.iter())
                    .map(|partition| PartitionResult {
                        partition_id: *partition,
                        error_code: error.code(),
                        error_message: Some(Str::from(message)),
                        ..PartitionResult::default()
                    })
                    .collect(),
                ..ReplicaElectionResult::default()
            });
            ElectLeadersResponse {
                error_code: error.code(),
                replica_election_results: topics.collect(),
                ..ElectLeadersResponse::default()
            }
        })
    }

    pub(super) fn alter_partition_reassignments(
        self: &Arc<Self>,
        asked: Asked<AlterPartitionReassignmentsRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded_if(Operation::Alter, asked, body, envelope, timeout_ms, |request, error, message| {
            AlterPartitionReassignmentsResponse {
                allow_replication_factor_change: request.allow_replication_factor_change,
                error_code: error.code(),
                error_message: Some(Str::from(message)),
                ..AlterPartitionReassignmentsResponse::default()
            }
        })
    }

    pub(super) fn list_partition_reassignments(
        self: &Arc<Self>,
        asked: Asked<ListPartitionReassignmentsRequest>,
        body: Bytes,
        envelope: Envelope,
    ) -> Outcome<Reply> {
        let timeout_ms = asked.body.timeout_ms;
        self.forwarded_if(Operation::Describe, asked, body, envelope, timeout_ms, |_, error, message| {
            ListPartitionReassignmentsResponse {
                error_code: error.code(),
                error_message: Some(Str::from(message)),
                ..ListPartitionReassignmentsResponse::default()
            }
        })
    }
}
