//! ISR changes: who may ask, and for what.

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, PartitionIndex};
use odradek_controller_core::alter_partition::{AlterPartition, IsrChange, IsrState};
use odradek_metadata::LeaderRecoveryState;

use crate::cluster::{Broker, Cluster, code};

/// The change that the leader would ask for.
fn change(cluster: &Cluster, topic: &str, isr: &[i32]) -> IsrChange {
    let partition = cluster.partition(topic);
    let epoch = |id: i32| cluster.image.broker(BrokerId(id)).map_or(BrokerEpoch::NONE, |broker| broker.epoch);
    IsrChange {
        topic_id: cluster.image.topic_id(topic).expect("the topic"),
        partition: PartitionIndex(0),
        leader_epoch: partition.leader_epoch,
        new_isr: isr.iter().map(|id| (BrokerId(*id), epoch(*id))).collect(),
        leader_recovery_state: LeaderRecoveryState::Recovered,
        partition_epoch: partition.partition_epoch,
    }
}

fn alter(cluster: &mut Cluster, broker: &Broker, change: IsrChange) -> Result<IsrState, ErrorCode> {
    let request = AlterPartition { broker_id: broker.id, broker_epoch: broker.epoch, partitions: vec![change] };
    let results = cluster.run(|decider, context| decider.alter_partition(context, &request)).expect("current epoch");
    results.into_iter().next().expect("one partition").result
}

pub fn set_isr(cluster: &mut Cluster, broker: &Broker, topic: &str, isr: &[i32]) -> Result<IsrState, ErrorCode> {
    let change = change(cluster, topic, isr);
    alter(cluster, broker, change)
}

#[test]
fn a_change_is_answered_with_the_state_after_it() {
    let (mut cluster, brokers) = Cluster::with_brokers(3);
    cluster.create_on("t", &[1, 2, 3]);
    let state = set_isr(&mut cluster, &brokers[0], "t", &[1, 3]).expect("valid");
    assert_eq!((state.leader.0, state.leader_epoch.0, state.partition_epoch.0), (1, 0, 1));
    assert_eq!(state.isr.as_slice(), [BrokerId(1), BrokerId(3)]);
    assert_eq!(cluster.record_kinds(), ["partition change"]);
    // Below the minimum, who leaves stays eligible; back at it, nobody is.
    set_isr(&mut cluster, &brokers[0], "t", &[1]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1] elr [3]");
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1,2]");
    assert_eq!(cluster.partition("t").leader_epoch.0, 0);
    // The same again changes nothing and is right.
    let state = set_isr(&mut cluster, &brokers[0], "t", &[1, 2]).expect("valid");
    assert_eq!(state.partition_epoch.0, 3);
    assert!(cluster.records.is_empty());
}

#[test]
fn wrong_changes_are_refused() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(4);
    let four = brokers.pop().expect("four");
    let [one, two, three] = &mut brokers[..] else { panic!("three") };
    cluster.create_on("t", &[1, 2, 3]);
    cluster.kill(three);
    cluster.pass(std::time::Duration::from_secs(1), &mut [one, two, &mut four.clone()]);
    let valid = change(&cluster, "t", &[1, 2]);
    let with = |edit: &dyn Fn(&mut IsrChange)| {
        let mut change = valid.clone();
        edit(&mut change);
        change
    };
    let isr =
        |cluster: &Cluster, ids: &[i32]| IsrChange { new_isr: change(cluster, "t", ids).new_isr, ..valid.clone() };
    let cases = [
        (one.clone(), with(&|c| c.topic_id = odradek_common::Uuid([3; 16])), ErrorCode::UnknownTopicId),
        (one.clone(), with(&|c| c.partition = PartitionIndex(1)), ErrorCode::UnknownTopicOrPartition),
        (one.clone(), with(&|c| c.leader_epoch.0 += 1), ErrorCode::NotController),
        (one.clone(), with(&|c| c.partition_epoch.0 += 1), ErrorCode::NotController),
        (one.clone(), with(&|c| c.leader_epoch.0 -= 1), ErrorCode::FencedLeaderEpoch),
        (two.clone(), valid.clone(), ErrorCode::InvalidRequest),
        (one.clone(), with(&|c| c.partition_epoch.0 -= 1), ErrorCode::InvalidUpdateVersion),
        (one.clone(), isr(&cluster, &[1, 4]), ErrorCode::InvalidRequest),
        (one.clone(), isr(&cluster, &[1, 1]), ErrorCode::InvalidRequest),
        (one.clone(), isr(&cluster, &[2]), ErrorCode::InvalidRequest),
        (one.clone(), isr(&cluster, &[]), ErrorCode::InvalidRequest),
        (one.clone(), with(&|c| c.leader_recovery_state = LeaderRecoveryState::Recovering), ErrorCode::InvalidRequest),
        // Fenced; at another epoch than it is registered with.
        (one.clone(), isr(&cluster, &[1, 2, 3]), ErrorCode::IneligibleReplica),
        (one.clone(), with(&|c| c.new_isr[1].1.0 -= 1), ErrorCode::IneligibleReplica),
    ];
    for (number, (broker, change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(alter(&mut cluster, &broker, change), Err(expected), "case {number}");
        assert!(cluster.records.is_empty());
    }
    let request = AlterPartition { broker_id: one.id, broker_epoch: BrokerEpoch(0), partitions: vec![] };
    let stale = cluster.run(|decider, context| decider.alter_partition(context, &request));
    assert_eq!(code(stale), ErrorCode::StaleBrokerEpoch);
    // One that shuts down is not taken back.
    cluster.ask_to_shut_down(two);
    assert_eq!(set_isr(&mut cluster, one, "t", &[1, 2]), Err(ErrorCode::IneligibleReplica));
}

#[test]
fn a_recovering_leader_confirms_with_its_first_change() {
    let (mut cluster, brokers) = Cluster::with_brokers(2);
    cluster.create_on("t", &[1]);
    cluster.kill(&brokers[0]);
    let one = cluster.start(1);
    assert_eq!(cluster.state("t"), "leader 1 isr [1] recovering");
    set_isr(&mut cluster, &one, "t", &[1]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1]");
}
