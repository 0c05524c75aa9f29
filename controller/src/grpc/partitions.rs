//! Elections, reassignments and decommissions for operators: the same decisions that the Kafka protocol reaches, in the
//! admin service's messages. What is asked of a state that changes by the second is asked of the active controller.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::{BrokerId, TopicPartition};
use odradek_controller_core::decommission::{self, Progress};
use odradek_controller_core::elect_leaders::ElectionType;
use odradek_controller_core::plan::{PlanRequest, plan};
use odradek_controller_core::reassignment::{Reassignment, ongoing};
use odradek_controller_core::{ApiError, Context, Decider, Decision};
use odradek_metadata::Image;
use odradek_proto::admin as proto;
use tonic::Status;

use super::admin_service::{ids, status};
use crate::decider::DeciderHandle;

fn outcome(partition: TopicPartition, result: Result<(), ApiError>) -> proto::PartitionOutcome {
    let (error, message) = match result {
        Ok(()) => (String::new(), String::new()),
        Err(error) => (error.code.name().to_owned(), error.message),
    };
    proto::PartitionOutcome { topic: partition.topic, partition: partition.partition.0, error, message }
}

/// A question that the active controller answers from what it has decided, and changes nothing.
fn look<R>(
    ask: impl FnOnce(&Image) -> R + Send + 'static,
) -> impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R> + Send + 'static {
    move |decider, _| Decision {
        records: Vec::new(),
        response: ask(decider.image()),
        offset: decider.image().offset(),
        events: Vec::new(),
    }
}

pub async fn elect_leaders(
    decider: &DeciderHandle,
    request: proto::ElectLeadersRequest,
) -> Result<proto::ElectLeadersResponse, Status> {
    let election = match request.election_type() {
        proto::ElectionType::Preferred => ElectionType::Preferred,
        proto::ElectionType::Unclean => ElectionType::Unclean,
    };
    let named = request.partitions.iter().map(|one| TopicPartition::new(one.topic.as_str(), one.partition));
    let partitions: Option<Vec<TopicPartition>> = (!request.all).then(|| named.collect());
    let decided =
        decider.decide(move |decider, context| decider.elect_leaders(context, election, partitions.as_deref()));
    let outcomes = decided.await?.into_iter().map(|one| outcome(one.partition, one.result));
    Ok(proto::ElectLeadersResponse { partitions: outcomes.collect() })
}

pub fn plan_reassignment(
    image: &Image,
    request: proto::PlanReassignmentRequest,
) -> Result<proto::PlanReassignmentResponse, Status> {
    let replication_factor = usize::try_from(request.replication_factor)
        .map_err(|_| Status::invalid_argument("a replication factor is positive"))?;
    let wanted = PlanRequest {
        topics: request.topics,
        brokers: request.brokers.into_iter().map(BrokerId).collect(),
        replication_factor: (replication_factor > 0).then_some(replication_factor),
    };
    let moves = plan(image, &wanted).map_err(|error| status(&error))?.into_iter();
    let moves = moves.map(|planned| proto::PlannedMove {
        topic: planned.partition.topic,
        partition: planned.partition.partition.0,
        current: ids(&planned.current),
        target: ids(&planned.target),
    });
    Ok(proto::PlanReassignmentResponse { moves: moves.collect() })
}

pub async fn alter_reassignments(
    decider: &DeciderHandle,
    request: proto::AlterReassignmentsRequest,
) -> Result<proto::AlterReassignmentsResponse, Status> {
    let may_change = !request.keep_replication_factor;
    let wanted = request.reassignments.into_iter().map(|one| Reassignment {
        partition: TopicPartition::new(one.topic, one.partition),
        replicas: (!one.cancel).then(|| one.replicas.into_iter().map(BrokerId).collect()),
    });
    let wanted: Vec<Reassignment> = wanted.collect();
    let decided =
        decider.decide(move |decider, context| decider.alter_partition_reassignments(context, &wanted, may_change));
    let outcomes = decided.await?.into_iter().map(|one| outcome(one.partition, one.result));
    Ok(proto::AlterReassignmentsResponse { partitions: outcomes.collect() })
}

pub async fn list_reassignments(
    decider: &DeciderHandle,
    request: proto::ListReassignmentsRequest,
) -> Result<proto::ListReassignmentsResponse, Status> {
    let reassignments = decider.decide(look(move |image| {
        let is_wanted = |name: &str| request.topics.is_empty() || request.topics.iter().any(|topic| topic == name);
        let topics = ongoing(image, None).into_iter().filter(|(topic, _)| is_wanted(&topic.name));
        let all = topics.flat_map(|(topic, partitions)| {
            partitions.into_iter().map(|(index, partition)| proto::OngoingReassignment {
                topic: topic.name.to_string(),
                partition: index.0,
                replicas: ids(&partition.replicas),
                adding: ids(&partition.adding),
                removing: ids(&partition.removing),
                isr: ids(&partition.isr),
                leader: partition.leader.0,
            })
        });
        all.collect()
    }));
    Ok(proto::ListReassignmentsResponse { reassignments: reassignments.await? })
}

fn decommission_status(broker_id: i32, progress: Progress) -> proto::DecommissionStatus {
    let left = progress.left.into_iter().map(|left| proto::PartitionLeft {
        topic: left.partition.topic,
        partition: left.partition.partition.0,
        moving: left.is_moving,
        waits_for: ids(&left.waits_for),
    });
    proto::DecommissionStatus { broker_id, decommissioning: progress.is_decommissioning, partitions: left.collect() }
}

pub async fn decommission_broker(
    decider: &DeciderHandle,
    request: proto::DecommissionBrokerRequest,
) -> Result<proto::DecommissionStatus, Status> {
    let (id, validate_only) = (BrokerId(request.broker_id), request.validate_only);
    let decided =
        decider.decide(move |decider, context| decider.decommission_broker(context, id, validate_only)).await?;
    decided.map(|progress| decommission_status(id.0, progress)).map_err(|error| status(&error))
}

pub async fn recommission_broker(
    decider: &DeciderHandle,
    request: proto::RecommissionBrokerRequest,
) -> Result<proto::RecommissionBrokerResponse, Status> {
    let id = BrokerId(request.broker_id);
    let decided = decider.decide(move |decider, context| decider.recommission_broker(context, id)).await?;
    let undone = decided.map_err(|error| status(&error))?;
    Ok(proto::RecommissionBrokerResponse { undone: i32::try_from(undone).unwrap_or(i32::MAX) })
}

pub async fn describe_decommission(
    decider: &DeciderHandle,
    request: proto::DescribeDecommissionRequest,
) -> Result<proto::DecommissionStatus, Status> {
    let id = BrokerId(request.broker_id);
    let progress = decider.decide(look(move |image| decommission::progress(image, id))).await?;
    progress.map(|progress| decommission_status(id.0, progress)).map_err(|error| status(&error))
}
