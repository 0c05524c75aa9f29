//! Consumer groups of the new protocol (KIP-848): members send one kind of request, and the coordinator assigns.
//!
//! - `member` is what is known of a member, `records` what of it all lies in the log;
//! - `heartbeat` decides upon ConsumerGroupHeartbeat: who may join, what has changed, and so which epoch the group is in;
//! - `target` makes the assignment that the group is to reach, by an assignor of `assign`;
//! - `reconcile` brings one member a step nearer to it: a partition is revoked before it is assigned;
//! - `classic` is members that speak the classic protocol in such a group, `migrate` how groups change their kind;
//! - `leave` is how members go; `commit` which epochs may commit; `describe` what operators see.
//! - `topics` is the cluster's metadata as groups see it, `regex` the expressions that stand for topics.
//!
//! **Invariant:** a [`ConsumerGroup`] changes only by [`ConsumerGroup::replay`], record by record: whoever wants to know of
//! every change (the journal) finds them all there; why is told it by the decisions, before. Three epochs tell how far a
//! change has come: the group's is raised when anything changes that the assignment depends on, the target's follows when
//! the assignment for it is made, and each member's when it has given up what it had to.
//!
//! **Invariant:** at no time do two members hold a partition, be it to be revoked: `owners` says who does.

pub mod assign;
mod classic;
mod commit;
mod describe;
mod heartbeat;
mod leave;
mod member;
mod migrate;
mod reconcile;
pub mod records;
mod regex;
mod target;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use odradek_common::{ErrorCode, TopicId};

pub use self::assign::Assignor;
pub(super) use self::describe::CONSUMER;
pub(super) use self::heartbeat::{check as check_heartbeat, failed as heartbeat_failed};
pub use self::member::{
    AWAY_EPOCH, Assigned, ClassicInfo, ConsumerMember, CurrentAssignment, LEFT_EPOCH, MemberInfo, MemberState,
    Partitions,
};
pub use self::records::{ConsumerRecord, GroupEpoch, ResolvedRegex, TargetEpoch};
pub(super) use self::topics::Topics;

/// `group.consumer.migration.policy`: which groups change their protocol while members come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MigrationPolicy {
    #[default]
    Bidirectional,
    /// From classic to consumer.
    Upgrade,
    /// From consumer to classic.
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    pub fn upgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub fn downgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

/// A number of milliseconds that a group may have its own of, between bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounded {
    pub value_ms: i32,
    pub min_ms: i32,
    pub max_ms: i32,
}

impl Bounded {
    /// A group's own, as it is configured, if it is.
    fn of(self, own: Option<&str>) -> i32 {
        let own: Option<i32> = own.and_then(|own| own.trim().parse().ok());
        own.map_or(self.value_ms, |own| own.max(self.min_ms).min(self.max_ms))
    }
}

/// What the broker's configs say to consumer groups: `group.consumer.*`.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// `group.consumer.assignors`; the first is the default. Not empty.
    pub assignors: Vec<Assignor>,
    pub session_timeout: Bounded,
    pub heartbeat_interval: Bounded,
    pub assignment_interval: Bounded,
    pub size_max: usize,
    pub migration: MigrationPolicy,
    /// Regular expressions are resolved anew after so long, though nothing is known to have changed.
    pub regex_refresh_interval_ms: i64,
}

impl ConsumerConfig {
    pub fn default_assignor(&self) -> Assignor {
        self.assignors.first().copied().unwrap_or_default()
    }
}

/// An error with the words that the client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Kafka's states of a consumer group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsumerState {
    Empty,
    /// The target assignment is of an earlier epoch than the group.
    Assigning,
    /// Members are on their way to it.
    Reconciling,
    Stable,
}

impl ConsumerState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// Of a group that no record gives another: the first change raises it.
const FIRST_EPOCH: i32 = 1;

/// A group of the consumer protocol, as its records have it.
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    pub id: Arc<str>,
    epoch: GroupEpoch,
    target_epoch: TargetEpoch,
    members: BTreeMap<Arc<str>, ConsumerMember>,
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// What each member is to have.
    target: BTreeMap<Arc<str>, Partitions>,
    /// Who holds a partition, be it to be revoked.
    owners: BTreeMap<(TopicId, i32), Arc<str>>,
    /// How many members are subscribed to a topic by name.
    by_name: BTreeMap<Arc<str>, usize>,
    /// How many members are subscribed to a regular expression.
    by_regex: BTreeMap<Arc<str>, usize>,
    resolved: BTreeMap<Arc<str>, ResolvedRegex>,
    /// How many members would like an assignor.
    assignors: BTreeMap<Arc<str>, usize>,
    classic_count: usize,
    /// How many members offer each protocol of the classic kind.
    classic_protocols: BTreeMap<Arc<str>, usize>,
    /// There is a record of a kind that is not written any more.
    has_partition_metadata: bool,
    /// Soft: members of the classic kind that were told to join again.
    awaited: BTreeSet<Arc<str>>,
    /// Soft: the topics may have changed since the hash in `epoch`.
    is_outdated: bool,
    /// Soft: the epoch for which that was looked at last. Should that epoch never come to be, the look was for nothing.
    looked_at_epoch: i32,
}

impl ConsumerGroup {
    pub fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: GroupEpoch { epoch: FIRST_EPOCH, metadata_hash: 0 },
            target_epoch: TargetEpoch::default(),
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            target: BTreeMap::new(),
            owners: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_regex: BTreeMap::new(),
            resolved: BTreeMap::new(),
            assignors: BTreeMap::new(),
            classic_count: 0,
            classic_protocols: BTreeMap::new(),
            has_partition_metadata: false,
            awaited: BTreeSet::new(),
            is_outdated: true,
            looked_at_epoch: 0,
        }
    }

    // ---- questions ----

    pub fn epoch(&self) -> i32 {
        self.epoch.epoch
    }

    pub fn target_epoch(&self) -> i32 {
        self.target_epoch.epoch
    }

    pub fn state(&self) -> ConsumerState {
        if self.members.is_empty() {
            ConsumerState::Empty
        } else if self.epoch.epoch > self.target_epoch.epoch {
            ConsumerState::Assigning
        } else if self.members.values().all(|member| member.current.is_reconciled_to(self.target_epoch.epoch)) {
            ConsumerState::Stable
        } else {
            ConsumerState::Reconciling
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn member(&self, id: &str) -> Option<&ConsumerMember> {
        self.members.get(id)
    }

    pub fn members(&self) -> impl Iterator<Item = &ConsumerMember> {
        self.members.values()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    fn static_member(&self, instance_id: &str) -> Option<&ConsumerMember> {
        self.members.get(self.static_members.get(instance_id)?)
    }

    fn expect_member(&self, id: &str) -> Result<&ConsumerMember, Refusal> {
        self.members.get(id).ok_or_else(|| {
            let message = format!("Member {id} is not a member of group {}.", self.id);
            Refusal::new(ErrorCode::UnknownMemberId, message)
        })
    }

    /// What a member is to have; a static member that has come back under a new id, what it had under the old one.
    fn target_of(&self, member: &ConsumerMember) -> Partitions {
        let own = self.target.get(&member.id);
        let before = || {
            let instance_id = member.info.instance_id.as_ref()?;
            self.target.get(self.static_members.get(instance_id)?)
        };
        own.or_else(before).cloned().unwrap_or_default()
    }

    /// What a member is to have, as operators are told.
    pub fn target(&self, member: &str) -> Option<&Partitions> {
        self.target.get(member)
    }

    pub fn owner(&self, topic: TopicId, partition: i32) -> Option<&Arc<str>> {
        self.owners.get(&(topic, partition))
    }

    /// Whether any member reads a topic, by its name or by a regular expression.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.by_name.contains_key(topic) || self.resolved.values().any(|resolved| resolved.topics.contains(topic))
    }

    /// The topics' hash has to be looked at again.
    fn needs_look(&self) -> bool {
        self.is_outdated || self.epoch.epoch < self.looked_at_epoch
    }

    /// When the regular expressions were resolved last.
    fn resolved_at(&self) -> Option<i64> {
        self.resolved.values().map(|resolved| resolved.timestamp).max()
    }

    /// The metadata that the regular expressions were resolved for.
    fn resolved_version(&self) -> i64 {
        self.resolved.values().map(|resolved| resolved.version).max().unwrap_or(0)
    }

    // ---- records ----

    /// Takes in a record of this group. The group itself is made and dropped by whoever keeps it.
    pub fn replay(&mut self, record: ConsumerRecord) {
        match record {
            ConsumerRecord::Group(epoch) => self.epoch = epoch.unwrap_or_default(),
            ConsumerRecord::PartitionMetadata { is_gone } => self.has_partition_metadata = !is_gone,
            ConsumerRecord::Member(id, Some(info)) => {
                let mut member = self.take(&id).unwrap_or_else(|| ConsumerMember::new(id));
                member.info = info;
                self.put(member);
            }
            ConsumerRecord::Member(id, None) => {
                self.awaited.remove(&id);
                self.take(&id);
            }
            ConsumerRecord::Target(epoch) => self.target_epoch = epoch.unwrap_or_default(),
            ConsumerRecord::TargetMember(id, Some(partitions)) => {
                self.target.insert(id, partitions);
            }
            ConsumerRecord::TargetMember(id, None) => {
                self.target.remove(&id);
            }
            ConsumerRecord::Current(id, Some(current)) => {
                let mut member = self.take(&id).unwrap_or_else(|| ConsumerMember::new(id));
                member.current = current;
                self.put(member);
            }
            ConsumerRecord::Current(id, None) => {
                if let Some(mut member) = self.take(&id) {
                    member.current = CurrentAssignment { epoch: LEFT_EPOCH, ..CurrentAssignment::new() };
                    self.put(member);
                }
            }
            ConsumerRecord::Regex(regex, Some(resolved)) => {
                self.resolved.insert(regex, resolved);
            }
            ConsumerRecord::Regex(regex, None) => {
                self.resolved.remove(&regex);
            }
        }
    }

    fn take(&mut self, id: &str) -> Option<ConsumerMember> {
        let member = self.members.remove(id)?;
        let info = &member.info;
        if let Some(instance_id) = &info.instance_id
            && self.static_members.get(instance_id).is_some_and(|current| **current == *id)
        {
            self.static_members.remove(instance_id);
        }
        self.count(&member, false);
        for partition in member.current.held() {
            // While a log is loaded, another member may have it already.
            if self.owners.get(&partition).is_some_and(|owner| **owner == *id) {
                self.owners.remove(&partition);
            }
        }
        Some(member)
    }

    fn put(&mut self, member: ConsumerMember) {
        if let Some(instance_id) = &member.info.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        self.count(&member, true);
        for partition in member.current.held() {
            self.owners.insert(partition, member.id.clone());
        }
        self.members.insert(member.id.clone(), member);
    }

    fn count(&mut self, member: &ConsumerMember, more: bool) {
        let info = &member.info;
        for topic in &info.topics {
            count(&mut self.by_name, topic, more);
        }
        if member.has_regex() {
            count(&mut self.by_regex, &info.regex, more);
        }
        if let Some(assignor) = &info.assignor {
            count(&mut self.assignors, assignor, more);
        }
        if let Some(classic) = &info.classic {
            self.classic_count = if more { self.classic_count + 1 } else { self.classic_count.saturating_sub(1) };
            for (name, _) in &classic.protocols {
                count(&mut self.classic_protocols, name, more);
            }
        }
    }

    /// What takes back the whole group.
    pub(super) fn tombstones(&self) -> Vec<ConsumerRecord> {
        let ids = || self.members.keys().cloned();
        let mut records: Vec<_> = ids().map(|id| ConsumerRecord::Current(id, None)).collect();
        records.extend(self.target.keys().cloned().map(|id| ConsumerRecord::TargetMember(id, None)));
        records.push(ConsumerRecord::Target(None));
        records.extend(ids().map(|id| ConsumerRecord::Member(id, None)));
        if self.has_partition_metadata {
            records.push(ConsumerRecord::PartitionMetadata { is_gone: true });
        }
        records.extend(self.resolved.keys().cloned().map(|regex| ConsumerRecord::Regex(regex, None)));
        records.push(ConsumerRecord::Group(None));
        records
    }

    // ---- what changes without a record ----

    /// Topics that the group reads have changed.
    pub(super) fn on_topics_changed(&mut self, names: &BTreeSet<Arc<str>>) {
        let by_regex = || self.resolved.values().flat_map(|resolved| &resolved.topics);
        let own = self.by_name.len() + by_regex().count();
        let is_touched = match own < names.len() {
            true => self.by_name.keys().chain(by_regex()).any(|name| names.contains(name)),
            false => names.iter().any(|name| self.is_subscribed(name)),
        };
        self.is_outdated |= is_touched;
    }

    fn looked_at(&mut self, epoch: i32) {
        self.is_outdated = false;
        self.looked_at_epoch = epoch;
    }
}

fn count(counts: &mut BTreeMap<Arc<str>, usize>, key: &Arc<str>, more: bool) {
    if more {
        *counts.entry(key.clone()).or_default() += 1;
    } else if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

fn millis(ms: i32) -> Duration {
    super::rebalance::millis(ms)
}
