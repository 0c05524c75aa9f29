//! ConsumerGroupDescribe: what operators see of a consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use odradek_common::TopicId;
use odradek_wire::Str;
use odradek_wire::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
use odradek_wire::list_groups_response::ListedGroup;

use super::topics::Topics;
use super::{ConsumerConfig, ConsumerGroup, ConsumerMember};
use crate::group::GroupShard;

/// The name of these groups (KIP-848), and of their members.
pub(in crate::group) const CONSUMER: &str = "consumer";

/// Of a member: how it speaks (KIP-1099).
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

impl GroupShard {
    pub(in crate::group) fn describe_consumer_group(&self, id: &Str) -> DescribedGroup {
        match self.expect_consumer_group(id) {
            Ok(group) => group.describe(&self.topics, &self.config.consumer),
            Err(refusal) => DescribedGroup {
                group_id: id.clone(),
                error_code: refusal.code.code(),
                error_message: Some(refusal.message.into()),
                ..DescribedGroup::default()
            },
        }
    }
}

impl ConsumerGroup {
    pub(in crate::group) fn listed(&self) -> ListedGroup {
        ListedGroup {
            group_id: Str::from(&*self.id),
            protocol_type: Str::from_static(CONSUMER),
            group_state: Str::from_static(self.state().name()),
            group_type: Str::from_static(CONSUMER),
            ..ListedGroup::default()
        }
    }

    fn describe(&self, topics: &Topics, config: &ConsumerConfig) -> DescribedGroup {
        let assignor = self.assignors.iter().max_by_key(|(_, n)| **n).map(|(name, _)| Str::from(&**name));
        DescribedGroup {
            group_id: Str::from(&*self.id),
            group_state: Str::from_static(self.state().name()),
            group_epoch: self.epoch(),
            assignment_epoch: self.target_epoch(),
            assignor_name: assignor.unwrap_or_else(|| Str::from_static(config.default_assignor().name())),
            members: self.members.values().map(|member| self.describe_member(member, topics)).collect(),
            error_message: None,
            ..DescribedGroup::default()
        }
    }

    fn describe_member(&self, member: &ConsumerMember, topics: &Topics) -> Member {
        let (info, current) = (&member.info, &member.current);
        let optional = |text: &Option<Arc<str>>| text.as_deref().map(Str::from);
        let mut held: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in current.held() {
            held.entry(topic).or_default().push(partition);
        }
        let target = self.target.get(&member.id).into_iter().flatten();
        let target = target.map(|(topic, partitions)| (*topic, partitions.iter().copied().collect()));
        Member {
            member_id: Str::from(&*member.id),
            instance_id: optional(&info.instance_id),
            rack_id: optional(&info.rack_id),
            member_epoch: current.epoch,
            client_id: Str::from(&info.client_id),
            client_host: Str::from(&info.client_host),
            subscribed_topic_names: info.topics.iter().map(|topic| Str::from(&**topic)).collect(),
            subscribed_topic_regex: Some(Str::from(&*info.regex)),
            assignment: named(held, topics),
            target_assignment: named(target, topics),
            member_type: if member.is_classic() { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
            ..Member::default()
        }
    }
}

/// With the names of topics that are still there.
fn named(partitions: impl IntoIterator<Item = (TopicId, Vec<i32>)>, topics: &Topics) -> Assignment {
    let topic_partitions = partitions.into_iter().filter_map(|(topic_id, partitions)| {
        let topic_name = Str::from(&*topics.topic(topic_id)?.name);
        Some(TopicPartitions { topic_id, topic_name, partitions, ..TopicPartitions::default() })
    });
    Assignment { topic_partitions: topic_partitions.collect(), ..Assignment::default() }
}
