//! Which member epochs may commit and fetch offsets.

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::{ErrorCode, TopicId};
use odradek_wire::OffsetCommitRequest;

use super::{ConsumerGroup, ConsumerMember};

/// The first version of OffsetCommit that knows of member epochs.
const MEMBER_EPOCHS: i16 = 9;

impl ConsumerGroup {
    /// Whoever has a partition may commit to it in the epoch in which it was assigned and all since (KIP-1251).
    pub(in crate::group) fn check_commit(
        &self,
        request: &OffsetCommitRequest,
        is_transactional: bool,
        api_version: i16,
    ) -> Result<(), ErrorCode> {
        let (id, epoch) = (request.member_id.as_str(), request.generation_id_or_member_epoch);
        // Tools, and consumers without a group, while nobody is in it.
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        if is_transactional && epoch == -1 && id.is_empty() && request.group_instance_id.is_none() {
            return Ok(());
        }
        let member = self.member(id).ok_or(ErrorCode::UnknownMemberId)?;
        if !is_transactional && !member.is_classic() && api_version < MEMBER_EPOCHS {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let stale = || match member.is_classic() || is_transactional {
            true => ErrorCode::IllegalGeneration,
            false => ErrorCode::StaleMemberEpoch,
        };
        if epoch > member.current.epoch {
            return Err(stale());
        }
        let is_current = epoch == member.current.epoch || active(Bug::StaleMemberEpochAccepted);
        let all = request
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, partition.partition_index)));
        match is_current || all.clone().all(|(topic, partition)| member.may_commit(epoch, topic, partition)) {
            true => Ok(()),
            false => Err(stale()),
        }
    }

    /// Whoever names a member has to be it.
    pub(in crate::group) fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member_id.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = member_id.and_then(|id| self.member(id)).ok_or(ErrorCode::UnknownMemberId)?;
        match member.is_classic() {
            _ if epoch == member.current.epoch => Ok(()),
            true => Err(ErrorCode::IllegalGeneration),
            false => Err(ErrorCode::StaleMemberEpoch),
        }
    }
}

impl ConsumerMember {
    fn may_commit(&self, epoch: i32, topic: TopicId, partition: i32) -> bool {
        self.current.assignment_epoch(topic, partition).is_some_and(|since| epoch >= since)
    }
}
