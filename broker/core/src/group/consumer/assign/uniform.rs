//! As many partitions for everyone, moving as few as that takes (Kafka's `UniformAssignor`).

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::TopicId;

use super::{Partitions, Spec};

/// Rounds over all topics until nothing is moved any more. One does where subscribers of a topic are subscribed to the same
/// topics; where they are not, each about halves what is uneven.
const ROUNDS_MAX: usize = 16;

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    if spec.members.is_empty() {
        Vec::new()
    } else if spec.is_homogeneous() {
        homogeneous(spec)
    } else {
        heterogeneous(spec)
    }
}

fn add(partitions: &mut Partitions, topic: TopicId, partition: i32) {
    partitions.entry(topic).or_default().insert(partition);
}

fn remove(partitions: &mut Partitions, topic: TopicId, partition: i32) {
    if let Some(of_topic) = partitions.get_mut(&topic) {
        of_topic.remove(&partition);
        if of_topic.is_empty() {
            partitions.remove(&topic);
        }
    }
}

/// The partitions of the target so far that members may keep: of topics that they read and that have them, each once.
/// Answers who keeps each partition, too.
fn kept(spec: &Spec<'_>) -> (Vec<Partitions>, BTreeMap<(TopicId, i32), usize>) {
    let mut owners = BTreeMap::new();
    let mut assigned = vec![Partitions::new(); spec.members.len()];
    for (n, member) in spec.members.iter().enumerate() {
        for (topic, partitions) in member.target.iter().filter(|(topic, _)| member.topics.contains(*topic)) {
            for partition in partitions.range(0..spec.partition_count(*topic)) {
                if let std::collections::btree_map::Entry::Vacant(vacant) = owners.entry((*topic, *partition)) {
                    vacant.insert(n);
                    add(&mut assigned[n], *topic, *partition);
                }
            }
        }
    }
    (assigned, owners)
}

fn size(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

/// All read the same topics: everyone keeps what it has up to its quota, and the rest fills the others up.
fn homogeneous(spec: &Spec<'_>) -> Vec<Partitions> {
    let (mut assigned, owners) = kept(spec);
    let topics = spec.members.first().map(|member| member.topics.clone()).unwrap_or_default();
    let all = || topics.iter().flat_map(|topic| (0..spec.partition_count(*topic)).map(|partition| (*topic, partition)));
    let mut free: Vec<(TopicId, i32)> = all().filter(|partition| !owners.contains_key(partition)).collect();
    let (total, members) = (all().count(), spec.members.len());
    let (least, mut extra) = (total / members, total % members);
    let sizes: Vec<usize> = assigned.iter().map(size).collect();
    let mut quotas = vec![least; members];
    // Who has more than the least is among those that get one more: it would move otherwise.
    let having_more = (0..members).filter(|n| sizes[*n] > least);
    let others = (0..members).filter(|n| sizes[*n] <= least);
    for n in having_more.chain(others) {
        if extra == 0 {
            break;
        }
        quotas[n] += 1;
        extra -= 1;
    }
    for (n, partitions) in assigned.iter_mut().enumerate() {
        let surplus = sizes[n].saturating_sub(quotas[n]);
        let has = partitions.iter().rev().flat_map(|(topic, of_topic)| of_topic.iter().rev().map(|p| (*topic, *p)));
        let surplus: Vec<_> = has.take(surplus).collect();
        for (topic, partition) in surplus {
            remove(partitions, topic, partition);
            free.push((topic, partition));
        }
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    for (n, partitions) in assigned.iter_mut().enumerate() {
        let missing = quotas[n].saturating_sub(sizes[n]);
        for (topic, partition) in free.by_ref().take(missing) {
            add(partitions, topic, partition);
        }
    }
    assigned
}

/// Members read different topics: what is free goes to whoever has the least of those that may have it, then partitions move
/// from who has the most to who has the least, topic by topic.
fn heterogeneous(spec: &Spec<'_>) -> Vec<Partitions> {
    let (mut assigned, mut owners) = kept(spec);
    let mut sizes: Vec<usize> = assigned.iter().map(size).collect();
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (n, member) in spec.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(n);
        }
    }
    // The topics that give each of their subscribers the most come first, as the others can then even out.
    let mut topics: Vec<(TopicId, Vec<usize>)> = subscribers.into_iter().collect();
    topics.sort_by(|(one, of_one), (other, of_other)| {
        let weight = |topic: &TopicId, members: usize| spec.partition_count(*topic) as u64 * members as u64;
        (weight(other, of_one.len()).cmp(&weight(one, of_other.len())))
            .then(of_one.len().cmp(&of_other.len()))
            .then(one.cmp(other))
    });
    for (topic, members) in &topics {
        let mut by_size: BTreeSet<(usize, usize)> = members.iter().map(|n| (sizes[*n], *n)).collect();
        for partition in 0..spec.partition_count(*topic) {
            if owners.contains_key(&(*topic, partition)) {
                continue;
            }
            let Some((had, n)) = by_size.pop_first() else { break };
            add(&mut assigned[n], *topic, partition);
            owners.insert((*topic, partition), n);
            sizes[n] = had + 1;
            by_size.insert((had + 1, n));
        }
    }
    for _ in 0..ROUNDS_MAX {
        let moved: usize =
            topics.iter().map(|(topic, members)| even_out(*topic, members, &mut assigned, &mut sizes)).sum();
        if moved == 0 {
            break;
        }
    }
    assigned
}

/// Moves partitions of one topic until its subscribers are even, as far as this topic can make them. Answers how many.
fn even_out(topic: TopicId, members: &[usize], assigned: &mut [Partitions], sizes: &mut [usize]) -> usize {
    let mut all: BTreeSet<(usize, usize)> = members.iter().map(|n| (sizes[*n], *n)).collect();
    let has = |assigned: &[Partitions], n: usize| assigned[n].contains_key(&topic);
    let mut givers: BTreeSet<(usize, usize)> = all.iter().filter(|(_, n)| has(assigned, *n)).copied().collect();
    let mut moved = 0;
    while let (Some((most, giver)), Some((least, taker))) = (givers.last().copied(), all.first().copied())
        && most - least.min(most) > 1
        && let Some(partition) = assigned[giver].get(&topic).and_then(BTreeSet::last).copied()
    {
        remove(&mut assigned[giver], topic, partition);
        add(&mut assigned[taker], topic, partition);
        for (n, before, after) in [(giver, most, most - 1), (taker, least, least + 1)] {
            sizes[n] = after;
            all.remove(&(before, n));
            all.insert((after, n));
            givers.remove(&(before, n));
            if has(assigned, n) {
                givers.insert((after, n));
            }
        }
        moved += 1;
    }
    moved
}
