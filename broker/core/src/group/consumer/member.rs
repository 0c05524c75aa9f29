//! A member of a consumer group: what it has said of itself, and how far its assignment has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odradek_common::TopicId;

use super::super::classic::Protocols;
use super::super::journal::{Cause, Why};

/// Partitions by topic. No topic is without partitions.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// Partitions with the epoch in which each was assigned. No topic is without partitions.
pub type Assigned = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// Of a member that has left.
pub const LEFT_EPOCH: i32 = -1;

/// Of a static member that has left and is expected back.
pub const AWAY_EPOCH: i32 = -2;

/// How far a member has come on its way to the target assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemberState {
    /// It has all that the target of its epoch gives it.
    #[default]
    Stable,
    /// It has to give partitions up, and has not said yet that it did.
    Unrevoked,
    /// It waits for partitions that others have not given up yet.
    Unreleased,
    /// What a later version has written.
    Unknown,
}

impl MemberState {
    pub fn number(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::Unrevoked => 1,
            Self::Unreleased => 2,
            Self::Unknown => 127,
        }
    }

    pub fn from_number(number: i8) -> Self {
        match number {
            0 => Self::Stable,
            1 => Self::Unrevoked,
            2 => Self::Unreleased,
            _ => Self::Unknown,
        }
    }
}

/// What a member that speaks the classic protocol has said beside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassicInfo {
    pub session_timeout_ms: i32,
    pub protocols: Protocols,
}

/// What a member has said of itself: ConsumerGroupMemberMetadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberInfo {
    /// Of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    pub rack_id: Option<Arc<str>>,
    pub client_id: String,
    /// As Java prints an address: `/10.0.0.1`.
    pub client_host: String,
    /// The topics that it is subscribed to by name.
    pub topics: BTreeSet<Arc<str>>,
    /// Empty: it is subscribed by name only.
    pub regex: Arc<str>,
    pub rebalance_timeout_ms: i32,
    /// The assignor that it would like.
    pub assignor: Option<Arc<str>>,
    /// While it speaks the classic protocol.
    pub classic: Option<ClassicInfo>,
}

/// What a member is assigned: ConsumerGroupCurrentMemberAssignment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CurrentAssignment {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Assigned,
    /// What it has to give up. Invariant: disjoint from `assigned`.
    pub revoking: Assigned,
}

impl CurrentAssignment {
    /// Of a member that nothing was decided for yet.
    pub fn new() -> Self {
        Self { previous_epoch: -1, ..Self::default() }
    }

    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }

    pub fn has_to_revoke(&self) -> bool {
        self.state == MemberState::Unrevoked && self.epoch >= 0
    }

    /// The next step: whatever the epoch becomes, the present one is the one before.
    pub fn enter(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    /// The epoch in which a partition was assigned that the member has, be it to be given up.
    pub fn assignment_epoch(&self, topic: TopicId, partition: i32) -> Option<i32> {
        let of = |partitions: &Assigned| partitions.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    /// All that nobody else may have.
    pub fn held(&self) -> impl Iterator<Item = (TopicId, i32)> {
        let all = self.assigned.iter().chain(&self.revoking);
        all.flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
    }
}

/// A member of a consumer group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerMember {
    pub id: Arc<str>,
    pub info: MemberInfo,
    pub current: CurrentAssignment,
}

impl ConsumerMember {
    pub fn new(id: Arc<str>) -> Self {
        let info = MemberInfo { rebalance_timeout_ms: -1, ..MemberInfo::default() };
        Self { id, info, current: CurrentAssignment::new() }
    }

    /// For the journal.
    pub fn cause(&self, why: Why, detail: &str) -> Cause {
        Cause::of_member(why, &self.id, detail).with(self.info.instance_id.as_ref(), &self.info.client_id)
    }

    pub fn is_classic(&self) -> bool {
        self.info.classic.is_some()
    }

    pub fn has_regex(&self) -> bool {
        !self.info.regex.is_empty()
    }
}
