//! ISR changes that a partition's leader asks for: a compare-and-set on the partition epoch (KIP-497, KIP-841, KIP-903;
//! Kafka's `ReplicationControlManager.alterPartition`).

use odradek_common::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId, TopicIdPartition,
};
use odradek_metadata::{Image, LeaderRecoveryState, PartitionRegistration, Replicas};

use crate::decider::{Context, Decider, Decision, Draft};
use crate::effective::TopicSettings;
use crate::error::ApiError;
use crate::partition_change::Election;
use crate::settings::Settings;

/// What a broker asks for the partitions that it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterPartition {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub partitions: Vec<IsrChange>,
}

/// The ISR that a leader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IsrChange {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub leader_epoch: LeaderEpoch,
    /// With the epoch at which the leader knows each member; [`BrokerEpoch::NONE`] is not checked.
    pub new_isr: Vec<(BrokerId, BrokerEpoch)>,
    pub leader_recovery_state: LeaderRecoveryState,
    pub partition_epoch: PartitionEpoch,
}

/// One partition's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrResult {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    /// The state after the change.
    pub result: Result<IsrState, ErrorCode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrState {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub isr: Replicas,
    pub leader_recovery_state: LeaderRecoveryState,
    pub partition_epoch: PartitionEpoch,
}

impl Decider {
    /// Changes ISRs. The partitions of a request do not depend on one another.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH for the whole request. By partition: UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION;
    /// FENCED_LEADER_EPOCH, INVALID_UPDATE_VERSION: the leader has to learn newer metadata first; NOT_CONTROLLER: it
    /// knows newer metadata than this controller; INELIGIBLE_REPLICA: a member is not registered at that epoch, fenced
    /// or shutting down; INVALID_REQUEST; NEW_LEADER_ELECTED: done, and it leads no more.
    pub fn alter_partition(
        &mut self,
        context: &mut Context<'_>,
        request: &AlterPartition,
    ) -> Decision<Result<Vec<IsrResult>, ApiError>> {
        if let Err(error) = self.check_broker_epoch(request.broker_id, request.broker_epoch) {
            return self.answer(Err(error));
        }
        let mut draft = self.draft(context);
        let results = request
            .partitions
            .iter()
            .map(|change| IsrResult {
                topic_id: change.topic_id,
                partition: change.partition,
                result: change_isr(&mut draft, request.broker_id, change, &self.settings),
            })
            .collect();
        self.decommission_on(&mut draft);
        self.decide(draft, Ok(results))
    }
}

fn change_isr(
    draft: &mut Draft,
    broker: BrokerId,
    change: &IsrChange,
    settings: &Settings,
) -> Result<IsrState, ErrorCode> {
    let at = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
    let topic = draft.image.topic(at.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let partition = topic.partition(at.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    check(&draft.image, broker, partition, change)?;
    let topic_settings = TopicSettings::of(topic, &draft.image, settings);
    let election = if topic_settings.unclean_leader_election { Election::Unclean } else { Election::Online };
    let isr: Replicas = change.new_isr.iter().map(|(id, _)| *id).collect();
    draft.change_partition(at, topic_settings, |builder| {
        builder.election(election).isr(isr).leader_recovery_state(change.leader_recovery_state)
    });
    let partition = draft.image.partition(at.topic_id, at.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if partition.leader != broker {
        // The change completed a reassignment away from its leader. It is made all the same.
        return Err(ErrorCode::NewLeaderElected);
    }
    Ok(IsrState {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        isr: partition.isr.clone(),
        leader_recovery_state: partition.leader_recovery_state,
        partition_epoch: partition.partition_epoch,
    })
}

fn check(
    image: &Image,
    broker: BrokerId,
    partition: &PartitionRegistration,
    change: &IsrChange,
) -> Result<(), ErrorCode> {
    // A leader that knows more than this controller has learnt it from the next one.
    if change.leader_epoch > partition.leader_epoch || change.partition_epoch > partition.partition_epoch {
        return Err(ErrorCode::NotController);
    }
    if change.leader_epoch < partition.leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if broker != partition.leader {
        return Err(ErrorCode::InvalidRequest);
    }
    if change.partition_epoch < partition.partition_epoch {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    let members: std::collections::BTreeSet<BrokerId> = change.new_isr.iter().map(|(id, _)| *id).collect();
    let are_replicas = members.iter().all(|id| partition.replicas.contains(id));
    if members.len() != change.new_isr.len() || !are_replicas || !members.contains(&broker) {
        return Err(ErrorCode::InvalidRequest);
    }
    if change.leader_recovery_state == LeaderRecoveryState::Recovering
        && (members.len() > 1 || partition.leader_recovery_state == LeaderRecoveryState::Recovered)
    {
        return Err(ErrorCode::InvalidRequest);
    }
    let eligible = |(id, epoch): &(BrokerId, BrokerEpoch)| {
        image
            .broker(*id)
            .is_some_and(|member| member.is_active() && (*epoch == BrokerEpoch::NONE || *epoch == member.epoch))
    };
    if change.new_isr.iter().all(eligible) { Ok(()) } else { Err(ErrorCode::IneligibleReplica) }
}
