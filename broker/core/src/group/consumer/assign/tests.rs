//! Assignors by examples and by properties over many random groups.

use odradek_common::Uuid;
use odradek_common::rng::{Rng, SplitMix64};

use super::*;

fn topic(n: u8) -> TopicId {
    Uuid([n; 16])
}

/// Id, rack, subscription and what it has.
type Member = (String, Option<String>, Arc<BTreeSet<TopicId>>, Partitions);

struct Group {
    members: Vec<Member>,
    partitions: BTreeMap<TopicId, i32>,
}

impl Group {
    fn spec(&self) -> Spec<'_> {
        let members = self.members.iter().map(|(id, instance_id, topics, target)| SpecMember {
            id,
            instance_id: instance_id.as_deref(),
            topics: topics.clone(),
            target,
        });
        Spec { members: members.collect(), partitions: self.partitions.clone() }
    }

    fn run(&mut self, assignor: Assignor) -> usize {
        let assigned = assignor.assign(&self.spec());
        self.check(&assigned);
        let mut moved = 0;
        for ((_, _, _, target), new) in self.members.iter_mut().zip(assigned) {
            let gained = |(topic, partitions): (&TopicId, &BTreeSet<i32>)| {
                partitions.iter().filter(|p| !target.get(topic).is_some_and(|old| old.contains(p))).count()
            };
            moved += new.iter().map(gained).sum::<usize>();
            *target = new;
        }
        moved
    }

    /// Every partition of a topic that somebody reads is given to one who reads it.
    fn check(&self, assigned: &[Partitions]) {
        let mut seen = BTreeSet::new();
        for ((id, _, topics, _), partitions) in self.members.iter().zip(assigned) {
            for (topic, of_topic) in partitions {
                assert!(topics.contains(topic), "{id} does not read it");
                assert!(!of_topic.is_empty());
                for partition in of_topic {
                    assert!((0..self.partitions[topic]).contains(partition));
                    assert!(seen.insert((*topic, *partition)), "{partition} has two owners");
                }
            }
        }
        let read: BTreeSet<TopicId> =
            self.members.iter().flat_map(|(_, _, topics, _)| topics.iter().copied()).collect();
        assert_eq!(seen.len(), read.iter().map(|topic| self.partitions[topic] as usize).sum::<usize>());
    }

    fn sizes(&self) -> Vec<usize> {
        self.members.iter().map(|(_, _, _, target)| target.values().map(BTreeSet::len).sum()).collect()
    }
}

fn group(members: usize, topics: &[u8], counts: &[(u8, i32)]) -> Group {
    let topics: Arc<BTreeSet<TopicId>> = Arc::new(topics.iter().map(|n| topic(*n)).collect());
    Group {
        members: (0..members).map(|n| (format!("m{n:03}"), None, topics.clone(), Partitions::new())).collect(),
        partitions: counts.iter().map(|(n, count)| (topic(*n), *count)).collect(),
    }
}

#[test]
fn uniform_moves_only_what_must_move() {
    let mut group = group(3, &[1, 2], &[(1, 5), (2, 4)]);
    assert_eq!(group.run(Assignor::Uniform), 9);
    assert_eq!(group.sizes(), [3, 3, 3]);
    assert_eq!(group.run(Assignor::Uniform), 0, "nothing has changed");
    // One more member takes from each what it must get, and no more.
    group.members.push(("m003".into(), None, group.members[0].2.clone(), Partitions::new()));
    assert_eq!(group.run(Assignor::Uniform), 2);
    assert_eq!(group.sizes(), [3, 2, 2, 2]);
    // A member goes: its partitions alone move.
    group.members.remove(1);
    assert_eq!(group.run(Assignor::Uniform), 2);
    // A topic grows.
    group.partitions.insert(topic(1), 8);
    assert_eq!(group.run(Assignor::Uniform), 3);
    assert_eq!(group.sizes(), [4, 4, 4]);
}

#[test]
fn a_member_more_in_a_large_group_moves_its_share_only() {
    let mut group = group(1_000, &[1], &[(1, 1_000)]);
    group.run(Assignor::Uniform);
    group.members.insert(500, ("m499x".into(), None, group.members[0].2.clone(), Partitions::new()));
    assert_eq!(group.run(Assignor::Uniform), 0, "1,001 members of which one has nothing: nobody has to give");
    group.members.remove(0);
    assert_eq!(group.run(Assignor::Uniform), 1);
}

#[test]
fn range_gives_the_same_partitions_of_equal_topics() {
    let mut group = group(2, &[1, 2], &[(1, 3), (2, 3)]);
    group.run(Assignor::Range);
    for (_, _, _, target) in &group.members {
        assert_eq!(target.get(&topic(1)), target.get(&topic(2)));
    }
    assert_eq!(group.members[0].3[&topic(1)], BTreeSet::from([0, 1]));
    // Static members come first, by instance id, whatever their member ids are.
    group.members[0].1 = Some("b".into());
    group.members[1].1 = Some("a".into());
    group.run(Assignor::Range);
    assert_eq!(group.members[1].3[&topic(1)], BTreeSet::from([0, 1]));
    assert_eq!(group.members[0].3[&topic(1)], BTreeSet::from([2]));
}

#[test]
fn uniform_evens_out_different_subscriptions() {
    let mut group = group(2, &[1], &[(1, 6), (2, 6)]);
    group.members[1].2 = Arc::new(BTreeSet::from([topic(1), topic(2)]));
    group.run(Assignor::Uniform);
    assert_eq!(group.sizes(), [6, 6], "who reads both leaves the one topic to the other");
    assert_eq!(group.run(Assignor::Uniform), 0);
}

#[test]
fn random_groups_are_assigned_evenly_and_keep_what_they_can() {
    for seed in 0..300 {
        let mut rng = SplitMix64::new(seed);
        let counts: Vec<(u8, i32)> = (0..5).map(|n| (n, rng.below(12) as i32)).collect();
        let mut group = group(1 + rng.below(7) as usize, &[0, 1, 2, 3, 4], &counts);
        let is_homogeneous = seed % 2 == 0;
        for _ in 0..6 {
            if !is_homogeneous {
                let n = rng.below(group.members.len() as u64) as usize;
                let topics = (0..5).filter(|_| rng.below(2) == 0).map(topic).collect();
                group.members[n].2 = Arc::new(topics);
            }
            match rng.below(3) {
                0 if group.members.len() > 1 => {
                    group.members.remove(rng.below(group.members.len() as u64) as usize);
                }
                1 => {
                    let id = format!("n{}", rng.next_u64());
                    let topics = group.members[0].2.clone();
                    group.members.push((id, None, topics, Partitions::new()));
                    group.members.sort_by(|one, other| one.0.cmp(&other.0));
                }
                _ => *group.partitions.get_mut(&topic(rng.below(5) as u8)).expect("a topic") += 2,
            }
            let mut ranged = Group { members: group.members.clone(), partitions: group.partitions.clone() };
            ranged.run(Assignor::Range);
            group.run(Assignor::Uniform);
            let sizes = group.sizes();
            if is_homogeneous {
                let (least, most) = (sizes.iter().min(), sizes.iter().max());
                assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{seed}: {sizes:?}");
            }
            assert_eq!(group.run(Assignor::Uniform), 0, "{seed}: what is even stays");
        }
    }
}
