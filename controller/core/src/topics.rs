//! Creating and deleting topics (Kafka's `ReplicationControlManager.createTopics` and `deleteTopics`).
//!
//! One request may name many topics. Each has an outcome of its own; the records of all that succeed are one entry of
//! the log.

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::{BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId, Uuid};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{
    DirectoryId, Image, LeaderRecoveryState, PartitionRegistration, Replicas, directory, partition_record,
};

use crate::configs::{check_topic_configs, config_record};
use crate::decider::{Context, Decider, Decision, Draft, RECORDS_PER_REQUEST_MAX};
use crate::error::ApiError;
use crate::placement::{self, Candidate};
use crate::topic_name;

/// Kafka's `MAX_PARTITIONS_PER_BATCH`.
const PARTITIONS_PER_REQUEST_MAX: i64 = 10_000;

/// A topic to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// -1: `num.partitions`, or as many as `assignments` has.
    pub partitions: i32,
    /// -1: `default.replication.factor`, or as `assignments` says.
    pub replication_factor: i16,
    /// Which brokers keep each partition, the preferred leader first. Empty: the controller chooses.
    pub assignments: Vec<(PartitionIndex, Vec<BrokerId>)>,
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic that is (or, if only validated, could be).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// One topic's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOutcome<T> {
    pub name: String,
    pub result: Result<T, ApiError>,
}

/// How a request names a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

/// A topic that was deleted, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// What is known of it beside the way it was named.
    pub name: Option<String>,
    pub id: TopicId,
    pub result: Result<(), ApiError>,
}

impl Decider {
    /// Creates topics, or only says whether it would.
    ///
    /// # Errors
    /// By topic (one outcome each, however often it is named): INVALID_TOPIC_EXCEPTION, TOPIC_ALREADY_EXISTS, INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR,
    /// INVALID_REPLICA_ASSIGNMENT, INVALID_CONFIG, INVALID_REQUEST, and POLICY_VIOLATION for more partitions than one
    /// entry of the log takes.
    pub fn create_topics(
        &mut self,
        context: &mut Context<'_>,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Decision<Vec<TopicOutcome<CreatedTopic>>> {
        let mut draft = self.draft(context);
        let (mut told, named_twice) = by_times(topics.iter().map(|topic| topic.name.as_str()));
        if let Err(error) = self.check_partitions_in_total(topics) {
            let refused =
                told.into_iter().map(|name| TopicOutcome { name: name.to_owned(), result: Err(error.clone()) });
            let outcomes = refused.collect();
            return self.answer(outcomes);
        }
        let outcomes = topics
            .iter()
            .filter(|topic| told.remove(topic.name.as_str()))
            .map(|topic| {
                let result = if named_twice.contains(topic.name.as_str()) {
                    Err(ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
                } else {
                    self.create_topic(&mut draft, context, topic)
                };
                TopicOutcome { name: topic.name.clone(), result }
            })
            .collect();
        if validate_only { self.answer(outcomes) } else { self.decide(draft, outcomes) }
    }

    /// Kafka's `validateTotalNumberOfPartitions`: of all topics of a request together.
    fn check_partitions_in_total(&self, topics: &[NewTopic]) -> Result<(), ApiError> {
        let partitions = topics.iter().map(|topic| match (topic.assignments.len(), topic.partitions) {
            (0, -1) => i64::from(self.settings.num_partitions),
            (0, wanted) => i64::from(wanted),
            (assigned, _) => assigned as i64,
        });
        if partitions.sum::<i64>() > PARTITIONS_PER_REQUEST_MAX {
            let message = "Excessively large number of partitions per request.";
            return Err(ApiError::new(ErrorCode::PolicyViolation, message));
        }
        Ok(())
    }

    /// Pushes either all records of the topic or none.
    fn create_topic(
        &self,
        draft: &mut Draft,
        context: &mut Context<'_>,
        topic: &NewTopic,
    ) -> Result<CreatedTopic, ApiError> {
        topic_name::check(&topic.name)?;
        if topic.name == topic_name::CLUSTER_METADATA {
            let message = format!("Creation of internal topic {} is prohibited.", topic_name::CLUSTER_METADATA);
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        if draft.image.topic_id(&topic.name).is_some() {
            let message = format!("Topic '{}' already exists.", topic.name);
            return Err(ApiError::new(ErrorCode::TopicAlreadyExists, message));
        }
        topic_name::check_collision(&draft.image, &topic.name)?;
        let configs = check_topic_configs(&self.settings, &topic.configs)?;
        let assignments = if topic.assignments.is_empty() {
            self.place_topic(&draft.image, context, topic)?
        } else {
            manual_assignments(&draft.image, topic)?
        };
        let records = draft.records.len() + 1 + configs.len() + assignments.len();
        if records > RECORDS_PER_REQUEST_MAX {
            return Err(too_large());
        }
        let id = self.new_topic_id(context);
        draft.push(Kind::Topic(proto::TopicRecord { name: topic.name.clone(), topic_id: id.0.to_vec() }));
        for (name, value) in &configs {
            draft.push(config_record(&odradek_metadata::ConfigResource::topic(&*topic.name), name, Some(value)));
        }
        let created = CreatedTopic {
            id,
            partitions: assignments.len() as i32,
            replication_factor: assignments.first().map_or(0, |assignment| assignment.replicas.len() as i16),
        };
        for (index, partition) in assignments.iter().enumerate() {
            draft.push(Kind::Partition(partition_record(id, PartitionIndex(index as i32), partition)));
        }
        Ok(created)
    }

    fn place_topic(
        &self,
        image: &Image,
        context: &mut Context<'_>,
        topic: &NewTopic,
    ) -> Result<Vec<PartitionRegistration>, ApiError> {
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            return Err(ApiError::new(
                ErrorCode::InvalidReplicationFactor,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            ));
        }
        if topic.partitions < -1 || topic.partitions == 0 {
            return Err(ApiError::new(
                ErrorCode::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            ));
        }
        let partitions = if topic.partitions == -1 { self.settings.num_partitions } else { topic.partitions };
        let replication_factor = match topic.replication_factor {
            -1 => self.settings.default_replication_factor,
            chosen => chosen,
        };
        place(image, partitions, replication_factor, context)
    }

    fn new_topic_id(&self, context: &mut Context<'_>) -> TopicId {
        loop {
            let id = Uuid::from_random(context.rng.bytes16());
            if self.overlay.topic(id).is_none() {
                return id;
            }
        }
    }

    /// Deletes topics. The brokers drop the data when they see the record.
    ///
    /// # Errors
    /// By topic: UNKNOWN_TOPIC_OR_PARTITION by name, UNKNOWN_TOPIC_ID by id, TOPIC_DELETION_DISABLED, INVALID_REQUEST
    /// for one that is named twice, which then has one outcome.
    pub fn delete_topics(&mut self, context: &mut Context<'_>, topics: &[TopicRef]) -> Decision<Vec<DeletedTopic>> {
        let mut draft = self.draft(context);
        let mut times = BTreeMap::<&TopicRef, usize>::new();
        for topic in topics {
            *times.entry(topic).or_default() += 1;
        }
        let by_name = |topic: &&TopicRef| match topic {
            TopicRef::Name(name) => self.overlay.topic_id(name),
            TopicRef::Id(_) => None,
        };
        let named: BTreeSet<TopicId> = times.keys().filter_map(by_name).collect();
        let refused = |name: Option<&str>, id: TopicId, message: &str| DeletedTopic {
            name: name.map(str::to_owned),
            id,
            result: Err(ApiError::new(ErrorCode::InvalidRequest, message)),
        };
        let outcomes = times.iter().filter_map(|(topic, count)| match topic {
            TopicRef::Name(name) if *count > 1 => Some(refused(Some(name), TopicId::ZERO, "Duplicate topic name.")),
            TopicRef::Id(id) if *count > 1 => Some(refused(None, *id, "Duplicate topic id.")),
            TopicRef::Name(name) => match self.overlay.topic_id(name) {
                Some(id) if times.contains_key(&TopicRef::Id(id)) => {
                    let message = "The provided topic name maps to an ID that was already supplied.";
                    Some(refused(Some(name), id, message))
                }
                _ => Some(self.delete_topic(&mut draft, topic)),
            },
            // Answered with the name.
            TopicRef::Id(id) if named.contains(id) => None,
            TopicRef::Id(_) => Some(self.delete_topic(&mut draft, topic)),
        });
        let outcomes = outcomes.collect();
        self.decide(draft, outcomes)
    }

    fn delete_topic(&self, draft: &mut Draft, topic: &TopicRef) -> DeletedTopic {
        let found = match topic {
            TopicRef::Name(name) => self.overlay.topic_by_name(name),
            TopicRef::Id(id) => self.overlay.topic(*id),
        };
        let (name, id) = match (found, topic) {
            (Some(found), _) => (Some(found.name.to_string()), found.id),
            (None, TopicRef::Name(name)) => (Some(name.clone()), TopicId::ZERO),
            (None, TopicRef::Id(id)) => (None, *id),
        };
        let refused = |code: ErrorCode, message: &str| Err(ApiError::new(code, message));
        let result = match (found, topic) {
            _ if !self.settings.delete_topic_enable => {
                refused(ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled: delete.topic.enable is false.")
            }
            (None, TopicRef::Name(_)) => {
                refused(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.")
            }
            (None, TopicRef::Id(_)) => refused(ErrorCode::UnknownTopicId, "This server does not host this topic ID."),
            (Some(found), _) => {
                draft.push(Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: found.id.0.to_vec() }));
                Ok(())
            }
        };
        DeletedTopic { name, id, result }
    }
}

fn manual_assignments(image: &Image, topic: &NewTopic) -> Result<Vec<PartitionRegistration>, ApiError> {
    for (given, what) in
        [(i32::from(topic.replication_factor), "replication factor"), (topic.partitions, "numPartitions")]
    {
        if given != -1 {
            let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
    }
    let mut partitions: Vec<Option<PartitionRegistration>> = vec![None; topic.assignments.len()];
    let mut replication_factor = None;
    for (index, brokers) in &topic.assignments {
        let slot = usize::try_from(index.0).ok().and_then(|index| partitions.get_mut(index)).ok_or_else(|| {
            let message = "partitions should be a consecutive 0-based integer sequence";
            ApiError::new(ErrorCode::InvalidReplicaAssignment, message)
        })?;
        if slot.is_some() {
            let message = format!("Found multiple manual partition assignments for partition {index}");
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        check_assignment(image, brokers, replication_factor)?;
        replication_factor = Some(brokers.len());
        *slot = Some(manual_partition(image, *index, brokers)?);
    }
    // As many slots as assignments, each filled once.
    Ok(partitions.into_iter().flatten().collect())
}

/// One partition as its creator wants it; the assignment has been checked.
pub(crate) fn manual_partition(
    image: &Image,
    index: PartitionIndex,
    brokers: &[BrokerId],
) -> Result<PartitionRegistration, ApiError> {
    new_partition(image, Replicas::from_slice(brokers)).ok_or_else(|| {
        let message = format!(
            "All brokers specified in the manual partition assignment for partition {index} are fenced or in controlled \
             shutdown."
        );
        ApiError::new(ErrorCode::InvalidReplicaAssignment, message)
    })
}

/// Checks one partition's manual assignment against the registered brokers and the partitions before it.
pub(crate) fn check_assignment(
    image: &Image,
    brokers: &[BrokerId],
    replication_factor: Option<usize>,
) -> Result<(), ApiError> {
    let refused = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    if brokers.is_empty() {
        return refused("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let mut seen = BTreeSet::new();
    for id in brokers {
        if image.broker(*id).is_none() {
            return refused(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if !seen.insert(*id) {
            return refused(format!("The manual partition assignment includes the broker {id} more than once."));
        }
    }
    match replication_factor {
        Some(expected) if expected != brokers.len() => refused(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {expected} replica(s).",
            brokers.len()
        )),
        _ => Ok(()),
    }
}

/// Chooses brokers for `count` new partitions.
pub(crate) fn place(
    image: &Image,
    count: i32,
    replication_factor: i16,
    context: &mut Context<'_>,
) -> Result<Vec<PartitionRegistration>, ApiError> {
    let count = usize::try_from(count).unwrap_or(0);
    if count > RECORDS_PER_REQUEST_MAX {
        return Err(too_large());
    }
    // One that is about to stop gets nothing; one that has stopped is expected back, as any that is fenced.
    let leaves = |broker: &odradek_metadata::BrokerRegistration| broker.in_controlled_shutdown && !broker.fenced;
    let usable = image.brokers().filter(|broker| !leaves(broker) && !broker.decommissioning);
    let candidates =
        usable.map(|broker| Candidate { id: broker.id, rack: broker.rack.as_deref(), fenced: broker.fenced });
    let placed = placement::place(candidates, count, replication_factor, context.rng)?;
    let partitions = placed.into_iter().map(|replicas| new_partition(image, replicas)).collect::<Option<Vec<_>>>();
    partitions.ok_or_else(|| {
        let message = format!(
            "Unable to replicate the partition {replication_factor} time(s): All brokers are currently fenced or in \
             controlled shutdown."
        );
        ApiError::new(ErrorCode::InvalidReplicationFactor, message)
    })
}

/// The active ones of its replicas are in sync, as there is nothing to be behind of; `None` if there is none.
fn new_partition(image: &Image, replicas: Replicas) -> Option<PartitionRegistration> {
    let isr: Replicas = replicas.iter().copied().filter(|id| image.is_active(*id)).collect();
    Some(PartitionRegistration {
        leader: *isr.first()?,
        directories: replicas.iter().map(|id| default_directory(image, *id)).collect(),
        isr,
        replicas,
        leader_recovery_state: LeaderRecoveryState::Recovered,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        ..PartitionRegistration::default()
    })
}

/// A broker with a single directory has no choice where to put a replica (KIP-858).
pub(crate) fn default_directory(image: &Image, id: BrokerId) -> DirectoryId {
    match image.broker(id).map(|broker| broker.log_dirs.as_slice()) {
        Some([only]) => *only,
        _ => directory::UNASSIGNED,
    }
}

pub(crate) fn too_large() -> ApiError {
    let message = "Unable to perform excessively large batch operation.";
    ApiError::new(ErrorCode::PolicyViolation, message)
}

/// The names, each once, and those of them that came more than once.
pub(crate) fn by_times<'a>(names: impl Iterator<Item = &'a str>) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let mut seen = BTreeSet::new();
    let twice = names.filter(|name| !seen.insert(*name)).collect();
    (seen, twice)
}
