//! Moving partitions to other brokers (KIP-455, KIP-860; Kafka's `alterPartitionReassignments`,
//! `PartitionReassignmentReplicas` and `PartitionReassignmentRevert`).
//!
//! 1. A reassignment adds its new replicas to the partition at once; those that are to leave stay, behind them.
//! 2. The new ones fetch, catch up and join the ISR.
//! 3. The ISR change that brings in the last of them completes the reassignment in the same record: who leaves is
//!    removed, and another one leads if the leader left ([`crate::partition_change`], step 1).
//!
//! One that needs no new data (another order, fewer replicas) completes at once. Another reassignment may be asked for
//! meanwhile, and takes the place of the one before.

use std::collections::BTreeSet;

use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicIdPartition, TopicPartition};
use odradek_metadata::{Image, PartitionRegistration, Replicas, Topic};

use crate::decider::{Context, Decider, Decision, Draft, RECORDS_PER_REQUEST_MAX};
use crate::effective::TopicSettings;
use crate::elections::can_lead;
use crate::error::ApiError;
use crate::partition_change::Election;
use crate::settings::Settings;
use crate::topics::{check_assignment, too_large};

/// What one partition is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub partition: TopicPartition,
    /// The preferred leader first. `None`: what is under way is to be undone.
    pub replicas: Option<Vec<BrokerId>>,
}

/// One partition's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReassignmentOutcome {
    pub partition: TopicPartition,
    pub result: Result<(), ApiError>,
}

/// The lists of a partition that is being reassigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReassignmentReplicas {
    /// The target, then those that leave.
    pub replicas: Replicas,
    pub removing: Replicas,
    pub adding: Replicas,
}

impl ReassignmentReplicas {
    /// From what a partition has to `target`.
    ///
    /// While another reassignment is under way, what *it* adds still counts as added, so that a cancellation goes back
    /// to where the first one began. Kafka counts only what the last one adds, and its cancellation leaves the rest.
    pub fn new(partition: &PartitionRegistration, target: &[BrokerId]) -> Self {
        let leaving: BTreeSet<BrokerId> =
            partition.replicas.iter().copied().filter(|id| !target.contains(id)).collect();
        let mut replicas = Replicas::from_slice(target);
        replicas.extend(leaving.iter().copied());
        let original = original_replicas(partition);
        let added: BTreeSet<BrokerId> = replicas.iter().copied().filter(|id| !original.contains(id)).collect();
        Self { replicas, removing: leaving.into_iter().collect(), adding: added.into_iter().collect() }
    }
}

/// What a cancellation goes back to.
pub fn original_replicas(partition: &PartitionRegistration) -> Replicas {
    partition.replicas.iter().copied().filter(|id| !partition.adding.contains(id)).collect()
}

/// What the partition has once its reassignment, if there is one, is done.
pub fn target_replicas(partition: &PartitionRegistration) -> Replicas {
    partition.replicas.iter().copied().filter(|id| !partition.removing.contains(id)).collect()
}

/// Partitions that are being reassigned: all of them (`None`), or those of these topics and indexes. What does not exist
/// is left out.
pub fn ongoing<'a>(
    image: &'a Image,
    wanted: Option<&[(String, Vec<PartitionIndex>)]>,
) -> Vec<(&'a Topic, Vec<(PartitionIndex, &'a PartitionRegistration)>)> {
    let mut topics = Vec::new();
    let mut add = |topic: &'a Topic, indexes: &mut dyn Iterator<Item = PartitionIndex>| {
        let partitions: Vec<_> = indexes
            .filter_map(|index| Some((index, &**topic.partition(index)?)))
            .filter(|(_, partition)| partition.is_reassigning())
            .collect();
        if !partitions.is_empty() {
            topics.push((topic, partitions));
        }
    };
    match wanted {
        None => {
            for topic in image.topics_by_name() {
                add(topic, &mut topic.partitions().map(|(index, _)| index));
            }
        }
        Some(wanted) => {
            for (name, indexes) in wanted {
                if let Some(topic) = image.topic_by_name(name) {
                    add(topic, &mut indexes.iter().copied());
                }
            }
        }
    }
    topics
}

impl Decider {
    /// Begins, replaces or cancels reassignments. `allow_replication_factor_change` is what the client says (KIP-860).
    ///
    /// # Errors
    /// By partition: UNKNOWN_TOPIC_OR_PARTITION, INVALID_REPLICA_ASSIGNMENT, NO_REASSIGNMENT_IN_PROGRESS,
    /// INVALID_REPLICATION_FACTOR, and POLICY_VIOLATION for more than one entry of the log takes.
    pub fn alter_partition_reassignments(
        &mut self,
        context: &mut Context<'_>,
        wanted: &[Reassignment],
        allow_replication_factor_change: bool,
    ) -> Decision<Vec<ReassignmentOutcome>> {
        let mut draft = self.draft(context);
        let mut outcomes = Vec::with_capacity(wanted.len());
        for Reassignment { partition, replicas } in wanted {
            let result = match replicas {
                _ if draft.records.len() >= RECORDS_PER_REQUEST_MAX => Err(too_large()),
                None => draft.undo(partition, &self.settings),
                Some(target) => {
                    reassign(&mut draft, partition, target, allow_replication_factor_change, &self.settings)
                }
            };
            outcomes.push(ReassignmentOutcome { partition: partition.clone(), result });
        }
        self.decide(draft, outcomes)
    }
}

fn find<'a>(image: &'a Image, partition: &TopicPartition) -> Result<(&'a Topic, &'a PartitionRegistration), ApiError> {
    let unknown = |message| ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
    let topic = image
        .topic_by_name(&partition.topic)
        .ok_or_else(|| unknown(format!("Unable to find a topic named {}.", partition.topic)))?;
    let registration = topic
        .partition(partition.partition)
        .ok_or_else(|| unknown(format!("Unable to find partition {}:{}.", partition.topic, partition.partition)))?;
    Ok((topic, registration))
}

fn reassign(
    draft: &mut Draft,
    partition: &TopicPartition,
    target: &[BrokerId],
    allow_replication_factor_change: bool,
    settings: &Settings,
) -> Result<(), ApiError> {
    let (_, registration) = find(&draft.image, partition)?;
    check_assignment(&draft.image, target, None)?;
    let replication_factor = target_replicas(registration).len();
    if !allow_replication_factor_change && replication_factor != target.len() {
        let message = format!("The replication factor is changed from {replication_factor} to {}", target.len());
        return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message));
    }
    draft.reassign(partition, target, settings);
    Ok(())
}

impl Draft {
    /// Begins a reassignment that has been checked: the partition exists, `target` is not empty and names registered
    /// brokers once each.
    pub(crate) fn reassign(&mut self, partition: &TopicPartition, target: &[BrokerId], settings: &Settings) {
        let Ok((topic, registration)) = find(&self.image, partition) else { return };
        let at = TopicIdPartition { topic_id: topic.id, partition: partition.partition };
        let topic_settings = TopicSettings::of(topic, &self.image, settings);
        let ReassignmentReplicas { replicas, removing, adding } = ReassignmentReplicas::new(registration, target);
        self.change_partition(at, topic_settings, |change| change.reassign(replicas, removing, adding));
    }

    /// Undoes what is under way.
    pub(crate) fn undo(&mut self, partition: &TopicPartition, settings: &Settings) -> Result<(), ApiError> {
        let (topic, registration) = find(&self.image, partition)?;
        if !registration.is_reassigning() {
            return Err(ApiError::new(
                ErrorCode::NoReassignmentInProgress,
                "No partition reassignment is in progress.",
            ));
        }
        let topic_settings = TopicSettings::of(topic, &self.image, settings);
        let replicas = original_replicas(registration);
        let isr: Replicas = registration.isr.iter().copied().filter(|id| replicas.contains(id)).collect();
        // Everything that was acknowledged may be on the new replicas alone by now.
        let holders = [&registration.isr, &registration.elr, &registration.last_known_elr];
        let holders = holders.into_iter().find(|holders| !holders.is_empty());
        if holders.is_some_and(|holders| !holders.iter().any(|id| replicas.contains(id))) {
            let refused = |why: &str| {
                let TopicPartition { topic, partition } = partition;
                let message = format!("Unable to revert partition assignment for {topic}:{partition} because {why}");
                Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message))
            };
            if !topic_settings.unclean_leader_election {
                return refused("it would require an unclean leader election.");
            }
            if !replicas.iter().any(|id| can_lead(&self.image, registration, *id)) {
                return refused("none of the replicas that it had before is available.");
            }
        }
        let at = TopicIdPartition { topic_id: topic.id, partition: partition.partition };
        let election = if topic_settings.unclean_leader_election { Election::Unclean } else { Election::Online };
        self.change_partition(at, topic_settings, |change| {
            change.election(election).isr(isr).reassign(replicas, Replicas::new(), Replicas::new())
        });
        Ok(())
    }
}
