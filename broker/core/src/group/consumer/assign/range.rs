//! Contiguous ranges of every topic (Kafka's `RangeAssignor`).

use std::collections::BTreeMap;

use odradek_common::TopicId;

use super::{Partitions, Spec};

/// How far a topic is dealt out.
struct Dealt {
    quota: i32,
    /// So many members still get one more.
    extra: i32,
    next: i32,
}

/// Static members come first, by their instance id, so that a restart of all leaves everyone what it had.
pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut order: Vec<usize> = (0..spec.members.len()).collect();
    order.sort_by_key(|n| {
        let member = &spec.members[*n];
        (member.instance_id.is_none(), member.instance_id, member.id)
    });
    let mut subscribers: BTreeMap<TopicId, i32> = BTreeMap::new();
    for topic in spec.members.iter().flat_map(|member| member.topics.iter()) {
        *subscribers.entry(*topic).or_default() += 1;
    }
    let dealt = subscribers.into_iter().map(|(topic, members)| {
        let partitions = spec.partition_count(topic);
        (topic, Dealt { quota: partitions / members, extra: partitions % members, next: 0 })
    });
    let mut dealt: BTreeMap<TopicId, Dealt> = dealt.collect();
    let mut assigned = vec![Partitions::new(); spec.members.len()];
    for n in order {
        for topic in spec.members[n].topics.iter() {
            let Some(dealt) = dealt.get_mut(topic) else { continue };
            let size = dealt.quota + i32::from(dealt.extra > 0);
            dealt.extra = (dealt.extra - 1).max(0);
            let range = dealt.next..dealt.next + size;
            dealt.next = range.end;
            if !range.is_empty() {
                assigned[n].insert(*topic, range.collect());
            }
        }
    }
    assigned
}
