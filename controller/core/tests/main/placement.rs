//! Placement: spread over racks, then over brokers.

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::BrokerId;
use odradek_common::rng::SplitMix64;
use odradek_controller_core::placement::{Candidate, place};
use odradek_metadata::Replicas;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const RACKS: [&str; 4] = ["a", "b", "c", "d"];

fn candidate(id: i32, rack: Option<usize>, fenced: bool) -> Candidate<'static> {
    Candidate { id: BrokerId(id), rack: rack.map(|rack| RACKS[rack]), fenced }
}

fn placed(brokers: &[Candidate<'_>], partitions: usize, replicas: i16, seed: u64) -> Vec<Replicas> {
    place(brokers.iter().copied(), partitions, replicas, &mut SplitMix64::new(seed)).expect("enough brokers")
}

fn count(ids: impl Iterator<Item = BrokerId>) -> BTreeMap<BrokerId, usize> {
    ids.fold(BTreeMap::new(), |mut counts, id| {
        *counts.entry(id).or_default() += 1;
        counts
    })
}

/// The largest count less the least, of those that could have some.
fn spread(counts: &BTreeMap<BrokerId, usize>, of: usize) -> usize {
    let least = if counts.len() < of { 0 } else { counts.values().copied().min().unwrap_or(0) };
    counts.values().copied().max().unwrap_or(0) - least
}

#[test]
fn every_start_is_used() {
    let brokers: Vec<_> = (1..=5).map(|id| candidate(id, None, false)).collect();
    let firsts: BTreeSet<_> = (0..100).map(|seed| placed(&brokers, 1, 1, seed)[0][0]).collect();
    assert_eq!(firsts.len(), 5);
}

#[test]
fn one_broker_takes_many_partitions() {
    assert_eq!(placed(&[candidate(7, None, false)], 50, 1, 1).len(), 50);
    // A single unfenced one among fenced ones leads them all.
    let brokers = [candidate(1, None, true), candidate(2, None, false), candidate(3, Some(1), true)];
    assert!(placed(&brokers, 50, 3, 1).iter().all(|replicas| replicas[0] == BrokerId(2) && replicas.len() == 3));
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn constraints_hold_in_any_cluster(
        shape in proptest::collection::vec((proptest::option::of(0usize..4), any::<bool>()), 1..12),
        partitions in 1usize..40,
        seed in any::<u64>(),
    ) {
        let brokers: Vec<_> =
            (1..).zip(&shape).map(|(id, (rack, fenced))| candidate(id, *rack, *fenced)).collect();
        let unfenced: BTreeSet<_> = brokers.iter().filter(|broker| !broker.fenced).map(|broker| broker.id).collect();
        prop_assume!(!unfenced.is_empty());
        for replication_factor in 1..=brokers.len() {
            for replicas in placed(&brokers, partitions, replication_factor as i16, seed) {
                let distinct: BTreeSet<_> = replicas.iter().collect();
                prop_assert_eq!(distinct.len(), replication_factor);
                prop_assert!(unfenced.contains(&replicas[0]));
                let racks: BTreeSet<_> = replicas.iter().map(|id| shape[id.0 as usize - 1].0).collect();
                let all: BTreeSet<_> = shape.iter().map(|(rack, _)| rack).collect();
                prop_assert_eq!(racks.len(), replication_factor.min(all.len()), "as many racks as possible");
            }
        }
        let refused = place(brokers.iter().copied(), 1, brokers.len() as i16 + 1, &mut SplitMix64::new(1));
        prop_assert!(refused.is_err());
    }

    #[test]
    fn equal_racks_get_equal_shares(racks in 1usize..4, brokers_each in 1usize..5, rounds in 1usize..6, seed in any::<u64>()) {
        let brokers: Vec<_> =
            (0..racks * brokers_each).map(|n| candidate(n as i32, Some(n % racks), false)).collect();
        let partitions = brokers.len() * rounds;
        let assignments = placed(&brokers, partitions, racks as i16, seed);
        let replicas = count(assignments.iter().flatten().copied());
        prop_assert_eq!(spread(&replicas, brokers.len()), 0, "{:?}", replicas);
        let leaders = count(assignments.iter().map(|replicas| replicas[0]));
        prop_assert_eq!(spread(&leaders, brokers.len()), 0, "{:?}", leaders);
    }

    #[test]
    fn without_racks_leaders_are_spread_exactly(brokers in 1usize..12, rounds in 1usize..6, seed in any::<u64>()) {
        let candidates: Vec<_> = (0..brokers).map(|n| candidate(n as i32, None, false)).collect();
        for replication_factor in 1..=brokers.min(4) {
            let assignments = placed(&candidates, brokers * rounds, replication_factor as i16, seed);
            prop_assert_eq!(spread(&count(assignments.iter().map(|replicas| replicas[0])), brokers), 0);
            prop_assert_eq!(spread(&count(assignments.iter().flatten().copied()), brokers), 0);
        }
    }
}
