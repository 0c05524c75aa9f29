//! Arbitrary histories of a cluster, with a model of who holds what was acknowledged.
//!
//! The harness checks the metadata's own invariants at each step. Here, in addition, each partition carries the set of
//! replicas that hold every acknowledged record:
//! - while the ISR has at least `min.insync.replicas` members, records are acknowledged, and only the ISR holds them;
//! - below that none are, so nobody falls behind; whoever joins the ISR holds them too;
//! - a broker that stops uncleanly may hold nothing any more.
//!
//! Whoever is elected, other than uncleanly or as the last known leader, must be in that set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, PartitionIndex, TopicPartition};
use odradek_controller_core::Event;
use odradek_controller_core::alter_partition::{AlterPartition, IsrChange, IsrResult};
use odradek_controller_core::elect_leaders::ElectionType;
use odradek_controller_core::reassignment::Reassignment;
use odradek_controller_core::topics::{NewTopic, TopicRef};
use odradek_metadata::LeaderRecoveryState;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::cluster::{Broker, Cluster, settings};

const BROKERS: i32 = 5;
const MIN_INSYNC: usize = 2;

#[derive(Default)]
struct Model {
    holders: BTreeMap<(String, PartitionIndex), BTreeSet<BrokerId>>,
    seen_events: usize,
}

impl Model {
    /// What was written by this broker after its last flush may be gone.
    fn lose(&mut self, broker: BrokerId) {
        for holders in self.holders.values_mut() {
            holders.remove(&broker);
        }
    }

    fn follow(&mut self, cluster: &Cluster) {
        let unclean: BTreeSet<(String, PartitionIndex)> = cluster.events[self.seen_events..]
            .iter()
            .filter_map(|event| match event {
                Event::UncleanElection { topic, partition, .. }
                | Event::LastKnownLeaderElected { topic, partition, .. } => Some((topic.clone(), *partition)),
                _ => None,
            })
            .collect();
        self.seen_events = cluster.events.len();
        let mut next = BTreeMap::new();
        for (topic, index, partition) in cluster.image.partitions() {
            let key = (topic.name.to_string(), index);
            let isr: BTreeSet<BrokerId> = partition.isr.iter().copied().collect();
            let holders = match self.holders.remove(&key) {
                Some(holders) if !unclean.contains(&key) => holders,
                // New, or what was acknowledged may be lost and a new history begins.
                _ => isr.clone(),
            };
            if partition.has_leader() {
                assert!(holders.contains(&partition.leader), "{key:?} lost records: {holders:?} {partition:?}");
            }
            assert!(partition.elr.iter().all(|id| holders.contains(id)), "{key:?} elr: {holders:?} {partition:?}");
            let minimum = MIN_INSYNC.min(partition.replicas.len());
            let holders = if isr.len() >= minimum { isr } else { &holders | &isr };
            next.insert(key, holders);
        }
        self.holders = next;
    }
}

/// A change of the ISR to whoever of `chosen` may join.
fn alter(cluster: &mut Cluster, model: &mut Model, brokers: &BTreeMap<i32, Broker>, number: u32) {
    let partitions: Vec<_> = cluster
        .image
        .partitions()
        .filter(|(_, _, partition)| partition.has_leader())
        .map(|(topic, index, partition)| (topic.id, index, partition.clone()))
        .collect();
    let Some((topic_id, partition, registration)) = partitions.get(number as usize % partitions.len().max(1)) else {
        return;
    };
    let Some(leader) = brokers.get(&registration.leader.0) else { return };
    let chosen = |id: &&BrokerId| **id == registration.leader || number >> (8 + id.0) & 1 == 1;
    let new_isr = registration.replicas.iter().filter(chosen);
    let new_isr = new_isr.map(|id| (*id, cluster.image.broker(*id).map_or(BrokerEpoch::NONE, |broker| broker.epoch)));
    let change = IsrChange {
        topic_id: *topic_id,
        partition: *partition,
        leader_epoch: registration.leader_epoch,
        new_isr: new_isr.collect(),
        leader_recovery_state: LeaderRecoveryState::Recovered,
        partition_epoch: registration.partition_epoch,
    };
    let request = AlterPartition { broker_id: leader.id, broker_epoch: leader.epoch, partitions: vec![change] };
    let results = cluster.run(|decider, context| decider.alter_partition(context, &request)).unwrap_or_default();
    let name = cluster.image.topic(*topic_id).map(|topic| topic.name.to_string());
    // Whoever joins has caught up, and may lead at once: the change may complete a reassignment away from the leader.
    if let Some(IsrResult { result: Ok(_) | Err(ErrorCode::NewLeaderElected), .. }) = results.first()
        && let Some(holders) = name.and_then(|name| model.holders.get_mut(&(name, *partition)))
    {
        holders.extend(request.partitions[0].new_isr.iter().map(|(id, _)| *id));
    }
}

/// Moves a partition to some brokers, or undoes what is under way.
fn reassign(cluster: &mut Cluster, number: u32) {
    let partitions: Vec<TopicPartition> =
        cluster.image.partitions().map(|(topic, index, _)| TopicPartition::new(&*topic.name, index.0)).collect();
    let Some(partition) = partitions.get(number as usize % partitions.len().max(1)) else { return };
    let ids = (0..BROKERS).map(|at| (at + (number >> 5) as i32) % BROKERS + 1);
    let target: Vec<BrokerId> = ids.filter(|id| number >> (8 + id) & 1 == 1).map(BrokerId).collect();
    let replicas = (!target.is_empty() && number & 12 != 0).then_some(target);
    let wanted = [Reassignment { partition: partition.clone(), replicas }];
    cluster.run(|decider, context| decider.alter_partition_reassignments(context, &wanted, number & 16 == 0));
}

fn step(cluster: &mut Cluster, model: &mut Model, brokers: &mut BTreeMap<i32, Broker>, number: u32) {
    let id = (number >> 4) as i32 % BROKERS + 1;
    match number % 16 {
        // A process that was killed starts again, its last writes lost; or one that stopped, with all it had.
        0..=2 => {
            let clean = number % 16 == 2;
            if brokers.contains_key(&id) {
                return;
            }
            let registered = cluster.image.broker(BrokerId(id)).map_or(BrokerEpoch::NONE, |broker| broker.epoch);
            let request = cluster.registration(id);
            let previous_broker_epoch = if clean { registered } else { BrokerEpoch::NONE };
            if !clean {
                model.lose(BrokerId(id));
            }
            let request = odradek_controller_core::brokers::RegisterBroker { previous_broker_epoch, ..request };
            if let Ok(epoch) = cluster.register(&request) {
                let stream = u64::from(number) + 1000;
                let broker = Broker { id: BrokerId(id), epoch, incarnation: request.incarnation, stream };
                brokers.insert(id, broker);
            }
        }
        3..=5 => {
            if let Some(broker) = brokers.get_mut(&id) {
                let _ = cluster.beat(broker);
            }
        }
        6 => {
            if let Some(broker) = brokers.remove(&id) {
                cluster.kill(&broker);
            }
        }
        7 => {
            if let Some(broker) = brokers.get(&id)
                && cluster.ask_to_shut_down(&broker.clone()).should_shut_down
            {
                let broker = brokers.remove(&id).expect("it was there");
                cluster.kill(&broker);
            }
        }
        8 | 9 => {
            cluster.now = cluster.now + Duration::from_millis(u64::from(number >> 8) % 240);
            cluster.tick();
        }
        10..=12 => alter(cluster, model, brokers, number >> 4),
        13 => {
            let name = format!("topic-{}", number >> 8 & 7);
            let topic = NewTopic { name, partitions: 2, replication_factor: id.min(3) as i16, ..NewTopic::default() };
            let _ = cluster.create(topic);
        }
        14 if number >> 8 & 7 == 0 => {
            let name = TopicRef::Name(format!("topic-{}", number >> 12 & 7));
            cluster.run(|decider, context| decider.delete_topics(context, &[name]));
        }
        14 if number >> 8 & 7 <= 4 => reassign(cluster, number >> 11),
        // An operator, who now and then insists.
        14 if number >> 8 & 7 == 5 => {
            let _ = match number >> 11 & 3 {
                0 => cluster.run(|decider, context| decider.unfence_broker(context, BrokerId(id))),
                insists => cluster.run(|decider, context| decider.fence_broker(context, BrokerId(id), insists == 1)),
            };
        }
        14 => {
            cluster.run(|decider, context| decider.elect_leaders(context, ElectionType::Preferred, None));
        }
        _ => cluster.change_leader(settings(&["min.insync.replicas=2"])),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, rng_seed: RngSeed::Fixed(11), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_elects_a_leader_that_lacks_acknowledged_records(
        numbers in proptest::collection::vec(any::<u32>(), 1..200),
    ) {
        let mut cluster = Cluster::new(settings(&["min.insync.replicas=2"]));
        let mut model = Model::default();
        let mut brokers: BTreeMap<i32, Broker> = (1..=BROKERS).map(|id| (id, cluster.start(id))).collect();
        for number in numbers {
            step(&mut cluster, &mut model, &mut brokers, number);
            model.follow(&cluster);
        }
        // Faults stop, everybody is there: every partition is led again, and by someone who may.
        for id in 1..=BROKERS {
            if !brokers.contains_key(&id) {
                cluster.pass(Duration::from_secs(10), &mut brokers.values_mut().collect::<Vec<_>>());
                model.follow(&cluster);
                model.lose(BrokerId(id));
                let broker = cluster.join(id, BrokerEpoch::NONE);
                model.follow(&cluster);
                brokers.insert(id, broker);
            }
        }
        for id in 1..=BROKERS {
            prop_assert!(cluster.run(|decider, context| decider.unfence_broker(context, BrokerId(id))).is_ok());
        }
        for broker in brokers.values_mut() {
            let refused = cluster.beat(broker).is_err();
            model.follow(&cluster);
            prop_assert!(!refused);
        }
        let shutting_down: Vec<i32> = cluster
            .image
            .brokers()
            .filter(|broker| broker.in_controlled_shutdown)
            .map(|broker| broker.id.0)
            .collect();
        for (topic, index, partition) in cluster.image.partitions() {
            let may_wait = partition.replicas.iter().any(|id| shutting_down.contains(&id.0));
            prop_assert!(partition.has_leader() || may_wait, "{}-{}: {:?}", topic.name, index, partition);
        }
    }
}
