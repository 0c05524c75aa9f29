//! Server-side assignors: which member is to have which partitions.
//!
//! Pure functions of the members' subscriptions, their target assignment so far, and the number of the topics' partitions.

mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use odradek_common::TopicId;

use super::member::Partitions;

/// The assignors of `group.consumer.assignors`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Assignor {
    /// Every member has as many partitions as the others, give or take one, and keeps those that it has.
    #[default]
    Uniform,
    /// Every topic is cut into ranges, so that members have the same partitions of topics of the same size.
    Range,
}

impl Assignor {
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// What each member is to have, in the order of the members.
    pub fn assign(self, spec: &Spec<'_>) -> Vec<Partitions> {
        match self {
            Self::Uniform => uniform::assign(spec),
            Self::Range => range::assign(spec),
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A member as assignors see it.
#[derive(Clone, Debug)]
pub struct SpecMember<'a> {
    pub id: &'a str,
    pub instance_id: Option<&'a str>,
    /// Those that exist.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// What it was to have so far.
    pub target: &'a Partitions,
}

/// What an assignment is made from.
#[derive(Clone, Debug, Default)]
pub struct Spec<'a> {
    /// Ordered by id.
    pub members: Vec<SpecMember<'a>>,
    /// The number of partitions of every topic that a member is subscribed to.
    pub partitions: BTreeMap<TopicId, i32>,
}

impl Spec<'_> {
    fn partition_count(&self, topic: TopicId) -> i32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }

    /// Whether all members are subscribed to the same topics.
    fn is_homogeneous(&self) -> bool {
        self.members.windows(2).all(|pair| match pair {
            [one, other] => Arc::ptr_eq(&one.topics, &other.topics) || one.topics == other.topics,
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests;
