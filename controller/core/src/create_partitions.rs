//! Adding partitions to topics (Kafka's `ReplicationControlManager.createPartitions`, KIP-195).

use odradek_common::{BrokerId, ErrorCode, PartitionIndex};
use odradek_metadata::partition_record;
use odradek_metadata::proto::record::Kind;

use crate::decider::{Context, Decider, Decision, Draft, RECORDS_PER_REQUEST_MAX};
use crate::error::ApiError;
use crate::topics::{TopicOutcome, by_times, check_assignment, manual_partition, place, too_large};

/// How many partitions a topic shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewPartitions {
    pub topic: String,
    /// All of them, those that exist included.
    pub count: i32,
    /// One list of brokers for each partition that is new. `None`: the controller chooses.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

impl Decider {
    /// Adds partitions, or only says whether it would.
    ///
    /// # Errors
    /// By topic: UNKNOWN_TOPIC_OR_PARTITION, INVALID_PARTITIONS, INVALID_REPLICA_ASSIGNMENT,
    /// INVALID_REPLICATION_FACTOR, INVALID_REQUEST for one that is named twice, POLICY_VIOLATION for too many.
    pub fn create_partitions(
        &mut self,
        context: &mut Context<'_>,
        topics: &[NewPartitions],
        validate_only: bool,
    ) -> Decision<Vec<TopicOutcome<()>>> {
        let mut draft = self.draft(context);
        let (mut told, named_twice) = by_times(topics.iter().map(|topic| topic.topic.as_str()));
        let outcomes = topics
            .iter()
            .filter(|topic| told.remove(topic.topic.as_str()))
            .map(|topic| {
                let result = if named_twice.contains(topic.topic.as_str()) {
                    Err(ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
                } else {
                    add_partitions(&mut draft, context, topic)
                };
                TopicOutcome { name: topic.topic.clone(), result }
            })
            .collect();
        if validate_only { self.answer(outcomes) } else { self.decide(draft, outcomes) }
    }
}

fn add_partitions(draft: &mut Draft, context: &mut Context<'_>, wanted: &NewPartitions) -> Result<(), ApiError> {
    let Some(topic) = draft.image.topic_by_name(&wanted.topic).cloned() else {
        let message = "This server does not host this topic-partition.";
        return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message));
    };
    let existing = topic.partition_count();
    let refused = |message: String| Err(ApiError::new(ErrorCode::InvalidPartitions, message));
    if wanted.count == existing {
        return refused(format!("Topic already has {existing} partition(s)."));
    }
    if wanted.count < existing {
        return refused(format!(
            "The topic {} currently has {existing} partition(s); {} would not be an increase.",
            wanted.topic, wanted.count
        ));
    }
    let additional = wanted.count - existing;
    if draft.records.len() + additional as usize > RECORDS_PER_REQUEST_MAX {
        return Err(too_large());
    }
    let replication_factor = topic.partition(PartitionIndex(0)).map_or(1, |first| first.replicas.len());
    let partitions = match &wanted.assignments {
        None => place(&draft.image, additional, replication_factor as i16, context)?,
        Some(assignments) if assignments.len() != additional as usize => {
            let message = format!(
                "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            );
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        Some(assignments) => {
            let numbered = assignments.iter().enumerate();
            let partitions = numbered.map(|(position, brokers)| {
                check_assignment(&draft.image, brokers, Some(replication_factor))?;
                manual_partition(&draft.image, PartitionIndex(existing + position as i32), brokers)
            });
            partitions.collect::<Result<Vec<_>, ApiError>>()?
        }
    };
    for (position, partition) in partitions.iter().enumerate() {
        let index = PartitionIndex(existing + position as i32);
        draft.push(Kind::Partition(partition_record(topic.id, index, partition)));
    }
    Ok(())
}
