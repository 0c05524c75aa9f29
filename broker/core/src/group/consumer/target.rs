//! What the group's assignment depends on, and the assignment that it is to reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odradek_common::TopicId;

use super::assign::{Assignor, Spec, SpecMember};
use super::member::{ConsumerMember, MemberInfo, Partitions};
use super::records::{ConsumerRecord, TargetEpoch};
use super::topics::Topics;
use super::{ConsumerConfig, ConsumerGroup};

/// What a decision changes of the members, before its records are replayed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change<'a> {
    /// New, or other than in the group.
    pub updated: Option<&'a ConsumerMember>,
    /// They go; or the one in whose place the updated one comes.
    pub gone: &'a [Arc<str>],
}

/// A new target assignment.
pub(super) struct Retargeted {
    pub records: Vec<ConsumerRecord>,
    pub assignor: Assignor,
    by_member: BTreeMap<Arc<str>, Partitions>,
}

impl Retargeted {
    pub fn of(mut self, member: &str) -> Partitions {
        self.by_member.remove(member).unwrap_or_default()
    }
}

impl ConsumerGroup {
    /// The members as they will be.
    pub(super) fn members_after<'a>(&'a self, change: Change<'a>) -> impl Iterator<Item = &'a ConsumerMember> {
        let is_other = move |member: &&ConsumerMember| {
            change.updated.is_none_or(|updated| updated.id != member.id) && !change.gone.contains(&member.id)
        };
        self.members.values().filter(is_other).chain(change.updated)
    }

    /// The regular expressions that members will be subscribed to.
    pub(super) fn regexes_after(&self, change: Change<'_>) -> BTreeSet<Arc<str>> {
        if self.by_regex.is_empty() && change.updated.is_none_or(|updated| !updated.has_regex()) {
            return BTreeSet::new();
        }
        let regexes = self.members_after(change).map(|member| &member.info.regex);
        regexes.filter(|regex| !regex.is_empty()).cloned().collect()
    }

    /// A hash of all topics that members will be subscribed to.
    pub(super) fn hash_after(&self, change: Change<'_>, topics: &Topics) -> i64 {
        let names: BTreeSet<&Arc<str>> = self.members_after(change).flat_map(|member| &member.info.topics).collect();
        let regexes = self.regexes_after(change);
        let resolved = regexes.iter().filter_map(|regex| self.resolved.get(regex)).flat_map(|regex| &regex.topics);
        topics.hash(names.into_iter().chain(resolved).collect::<BTreeSet<_>>())
    }

    /// The topics that a member reads and that exist.
    pub(super) fn subscribed(&self, info: &MemberInfo, topics: &Topics) -> BTreeSet<TopicId> {
        let resolved = self.resolved.get(&info.regex).filter(|_| !info.regex.is_empty());
        let names = info.topics.iter().chain(resolved.into_iter().flat_map(|resolved| &resolved.topics));
        names.filter_map(|name| topics.id(name)).collect()
    }

    /// The assignor that most members would like; the default when none has a wish.
    fn assignor_after(&self, change: Change<'_>, config: &ConsumerConfig) -> Assignor {
        if self.assignors.is_empty() && change.updated.is_none_or(|updated| updated.info.assignor.is_none()) {
            return config.default_assignor();
        }
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for assignor in self.members_after(change).filter_map(|member| member.info.assignor.as_deref()) {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.values().copied().max();
        let preferred = votes.iter().find(|(_, n)| Some(**n) == most).and_then(|(name, _)| Assignor::by_name(name));
        preferred.filter(|assignor| config.assignors.contains(assignor)).unwrap_or_else(|| config.default_assignor())
    }

    /// Assigns all partitions anew for `epoch`.
    pub(super) fn retarget(
        &self,
        epoch: TargetEpoch,
        change: Change<'_>,
        topics: &Topics,
        config: &ConsumerConfig,
    ) -> Retargeted {
        let assignor = self.assignor_after(change, config);
        let mut members: Vec<&ConsumerMember> = self.members_after(change).collect();
        members.sort_by(|one, other| one.id.cmp(&other.id));
        // Members mostly read the same: what was found for one is right for the next.
        let mut last: Option<(&MemberInfo, Arc<BTreeSet<TopicId>>)> = None;
        let mut spec = Spec::default();
        static NOTHING: Partitions = Partitions::new();
        for member in &members {
            let info = &member.info;
            let known = last.as_ref().filter(|(before, _)| before.topics == info.topics && before.regex == info.regex);
            let subscribed = match known {
                Some((_, subscribed)) => subscribed.clone(),
                None => Arc::new(self.subscribed(info, topics)),
            };
            for topic in subscribed.iter().filter(|_| known.is_none()) {
                spec.partitions.entry(*topic).or_insert_with(|| topics.partition_count(*topic));
            }
            let before = || self.target.get(self.static_members.get(info.instance_id.as_ref()?)?);
            spec.members.push(SpecMember {
                id: &member.id,
                instance_id: info.instance_id.as_deref(),
                topics: subscribed.clone(),
                target: self.target.get(&member.id).or_else(before).unwrap_or(&NOTHING),
            });
            last = Some((info, subscribed));
        }
        let assigned = assignor.assign(&spec);
        let by_member: BTreeMap<Arc<str>, Partitions> =
            members.iter().map(|member| member.id.clone()).zip(assigned).collect();
        let changed = by_member.iter().filter(|(id, partitions)| self.target.get(*id) != Some(partitions));
        let mut records: Vec<_> = changed
            .map(|(id, partitions)| ConsumerRecord::TargetMember(id.clone(), Some(partitions.clone())))
            .collect();
        records.push(ConsumerRecord::Target(Some(epoch)));
        Retargeted { records, assignor, by_member }
    }
}
