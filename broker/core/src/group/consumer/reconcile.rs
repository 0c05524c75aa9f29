//! One member's next step towards the target assignment (Kafka's `CurrentAssignmentBuilder`).
//!
//! ```text
//!             has to give up, and does not say it did          has given up
//!   Stable ──────────────────────────────────────► Unrevoked ───────────────┐
//!     ▲  │  something is still held by others                               │
//!     │  └────────────────────────────────────────► Unreleased ◄────────────┤
//!     │                                                  │ all is free      │
//!     └──────────────────────────────────────────────────┴──────────────────┘
//! ```
//! A member enters the target's epoch when it has nothing to give up any more: its partitions are then free for others.

use std::collections::BTreeSet;

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::{ErrorCode, TopicId};

use super::Refusal;
use super::member::{Assigned, CurrentAssignment, MemberState, Partitions};

/// What a member is to come to, and what is known of it.
pub(super) struct Step<'a> {
    /// The epoch of the target assignment.
    pub epoch: i32,
    pub target: &'a Partitions,
    pub subscribed: &'a BTreeSet<TopicId>,
    /// By the request at hand: what is not read any more is taken away at once.
    pub has_new_subscription: bool,
    /// What the member says that it has; absent: it has not said.
    pub owned: Option<&'a Partitions>,
}

/// The member's assignment after the step, the same if there is none to make. `is_free` tells of a partition whether no
/// other member holds it.
pub(super) fn reconcile(
    current: &CurrentAssignment,
    step: &Step<'_>,
    is_free: impl Fn(TopicId, i32) -> bool,
) -> Result<CurrentAssignment, Refusal> {
    let next = match current.state {
        MemberState::Stable if current.epoch == step.epoch => step.strip(current),
        MemberState::Unrevoked if step.owns(&current.revoking) => step.strip(current),
        MemberState::Stable | MemberState::Unrevoked | MemberState::Unreleased => {
            step.next(current, current.epoch, is_free)
        }
        // A later version has written the state. The member starts over once it has nothing.
        MemberState::Unknown if step.owned.is_none_or(|owned| !owned.is_empty()) => {
            let message = "The consumer group member is in a unknown state. The member must abandon all its \
                           partitions and rejoin.";
            return Err(Refusal::new(ErrorCode::FencedMemberEpoch, message));
        }
        MemberState::Unknown => step.next(current, step.epoch, is_free),
    };
    Ok(next)
}

impl Step<'_> {
    /// Whether the member has, or may have, any of these.
    fn owns(&self, partitions: &Assigned) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|(topic, indexes)| {
            partitions.get(topic).is_some_and(|held| indexes.iter().any(|index| held.contains_key(index)))
        })
    }

    /// Takes away the topics that the member does not read any more, and leaves the rest as it is.
    fn strip(&self, current: &CurrentAssignment) -> CurrentAssignment {
        let mut next = current.clone();
        if !self.has_new_subscription {
            return next;
        }
        let gone: Vec<TopicId> =
            current.assigned.keys().filter(|topic| !self.subscribed.contains(*topic)).copied().collect();
        if gone.is_empty() {
            return next;
        }
        for topic in gone {
            let partitions = next.assigned.remove(&topic).unwrap_or_default();
            next.revoking.entry(topic).or_default().extend(partitions);
        }
        next.enter(current.epoch);
        if self.owns(&next.revoking) {
            next.state = MemberState::Unrevoked;
        } else {
            next.revoking = current.revoking.clone();
        }
        next
    }

    fn next(
        &self,
        current: &CurrentAssignment,
        epoch: i32,
        is_free: impl Fn(TopicId, i32) -> bool,
    ) -> CurrentAssignment {
        let (mut kept, mut revoked, mut added) = (Assigned::new(), Assigned::new(), Assigned::new());
        for (topic, partitions) in &current.assigned {
            let wanted = self.target.get(topic).filter(|_| self.subscribed.contains(topic));
            for (partition, since) in partitions {
                let is_kept = wanted.is_some_and(|wanted| wanted.contains(partition));
                let side = if is_kept { &mut kept } else { &mut revoked };
                side.entry(*topic).or_default().insert(*partition, *since);
            }
        }
        let mut is_waiting = false;
        for (topic, wanted) in self.target.iter().filter(|(topic, _)| self.subscribed.contains(*topic)) {
            let has = |partition: &i32| kept.get(topic).is_some_and(|kept| kept.contains_key(partition));
            for partition in wanted.iter().filter(|partition| !has(partition)) {
                if is_free(*topic, *partition) || active(Bug::PartitionHandedOverTooEarly) {
                    added.entry(*topic).or_default().insert(*partition, self.epoch);
                } else {
                    is_waiting = true;
                }
            }
        }
        let mut next = CurrentAssignment { assigned: kept, revoking: Assigned::new(), ..current.clone() };
        if !revoked.is_empty() && self.owns(&revoked) {
            next.state = MemberState::Unrevoked;
            next.revoking = revoked;
            next.enter(epoch);
        } else {
            for (topic, partitions) in added {
                next.assigned.entry(topic).or_default().extend(partitions);
            }
            next.state = if is_waiting { MemberState::Unreleased } else { MemberState::Stable };
            next.enter(self.epoch);
        }
        let is_same = next.epoch == current.epoch
            && next.state == current.state
            && next.assigned == current.assigned
            && next.revoking == current.revoking;
        // The epoch before stays good for a member that has missed the answer.
        if is_same { current.clone() } else { next }
    }
}
