//! In which log directory a broker keeps a replica (KIP-858; Kafka's `handleAssignReplicasToDirs`).
//!
//! A broker with several directories chooses by itself and tells afterwards. Only then is a directory that fails tied to
//! the partitions that fail with it.

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, TopicIdPartition};
use odradek_metadata::DirectoryId;

use crate::decider::{Context, Decider, Decision, Draft};
use crate::effective::TopicSettings;
use crate::error::ApiError;
use crate::settings::Settings;

/// Where a broker keeps its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignDirectories {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub replicas: Vec<(TopicIdPartition, DirectoryId)>,
}

impl Decider {
    /// Takes down where replicas are. One that is in a directory which is offline leaves its ISR at once.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH for the whole request. By replica, in the order of the request: UNKNOWN_TOPIC_ID,
    /// UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER for one that the broker does not have.
    pub fn assign_directories(
        &mut self,
        context: &mut Context<'_>,
        request: &AssignDirectories,
    ) -> Decision<Result<Vec<ErrorCode>, ApiError>> {
        if let Err(error) = self.check_broker_epoch(request.broker_id, request.broker_epoch) {
            return self.answer(Err(error));
        }
        let mut draft = self.draft(context);
        let broker = request.broker_id;
        let mut codes = Vec::with_capacity(request.replicas.len());
        let mut offline = Vec::new();
        for (at, directory) in &request.replicas {
            codes.push(match assign(&mut draft, broker, *at, *directory, &self.settings) {
                Ok(()) => ErrorCode::None,
                Err(error) => error,
            });
            let is_online = draft.image.broker(broker).is_some_and(|broker| broker.has_online_directory(*directory));
            if !is_online && !offline.contains(directory) {
                offline.push(*directory);
            }
        }
        if !offline.is_empty() {
            draft.leave_isrs_in(broker, &offline, &self.settings);
        }
        self.decide(draft, Ok(codes))
    }
}

fn assign(
    draft: &mut Draft,
    broker: BrokerId,
    at: TopicIdPartition,
    directory: DirectoryId,
    settings: &Settings,
) -> Result<(), ErrorCode> {
    let topic = draft.image.topic(at.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let partition = topic.partition(at.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if !partition.replicas.contains(&broker) {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let topic_settings = TopicSettings::of(topic, &draft.image, settings);
    draft.change_partition(at, topic_settings, |change| change.directory(broker, directory));
    Ok(())
}
