//! Changes of an ISR as a leader proposes them and the controller answers (AlterPartition, KIP-497).
//!
//! A proposal is a compare-and-set on the partition epoch. While one is out, its fate is unknown, so the leader counts
//! with the *maximal* ISR: the committed one and whoever the proposal would add.

use odradek_common::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};
use odradek_metadata::Replicas;

/// A member of a proposed ISR with the epoch in which it was seen caught up; -1 when it was in the ISR before this
/// leader heard of it (KIP-903).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IsrMember {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
}

/// What is asked of the controller for one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrProposal {
    pub leader_epoch: LeaderEpoch,
    /// Compare and set: valid only while this is the partition's epoch.
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<IsrMember>,
}

impl IsrProposal {
    pub fn contains(&self, broker: BrokerId) -> bool {
        self.isr.iter().any(|member| member.broker == broker)
    }
}

/// The controller's answer when the change was made, or when the state already was as proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrCommitted {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Replicas,
}
