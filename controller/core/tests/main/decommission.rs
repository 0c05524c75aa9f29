//! Brokers that are retired, and the plans that say what goes where.

use odradek_common::{BrokerId, ErrorCode, PartitionIndex};
use odradek_controller_core::Event;
use odradek_controller_core::decommission::{MOVES_AT_ONCE, Progress, progress};
use odradek_controller_core::plan::{PlanRequest, plan};
use odradek_controller_core::reassignment::Reassignment;
use odradek_controller_core::topics::NewTopic;
use odradek_metadata::Image;

use crate::alter_partition::set_isr;
use crate::cluster::{Broker, Cluster, code};

fn topic(cluster: &mut Cluster, name: &str, partitions: i32, replication_factor: i16) {
    let topic = NewTopic { name: name.to_owned(), partitions, replication_factor, ..NewTopic::default() };
    cluster.create(topic).expect("created");
}

fn decommission(cluster: &mut Cluster, id: i32) -> Result<Progress, ErrorCode> {
    let decided = cluster.run(|decider, context| decider.decommission_broker(context, BrokerId(id), false));
    decided.map_err(|error| error.code)
}

/// Every replica that is being fetched has caught up: leaders say so, one partition after another.
fn catch_up(cluster: &mut Cluster, brokers: &[Broker]) {
    use odradek_controller_core::alter_partition::{AlterPartition, IsrChange};
    let moving: Vec<_> = cluster
        .image
        .partitions()
        .filter(|(_, _, partition)| partition.is_reassigning())
        .map(|(topic, index, partition)| (topic.id, index, partition.clone()))
        .collect();
    for (topic_id, partition, registration) in moving {
        let leader = brokers.iter().find(|broker| broker.id == registration.leader).expect("led");
        let epoch = |id: &BrokerId| cluster.image.broker(*id).expect("registered").epoch;
        let change = IsrChange {
            topic_id,
            partition,
            leader_epoch: registration.leader_epoch,
            new_isr: registration.replicas.iter().map(|id| (*id, epoch(id))).collect(),
            leader_recovery_state: registration.leader_recovery_state,
            partition_epoch: registration.partition_epoch,
        };
        let request = AlterPartition { broker_id: leader.id, broker_epoch: leader.epoch, partitions: vec![change] };
        cluster.run(|decider, context| decider.alter_partition(context, &request)).expect("current epoch");
    }
}

fn replicas_on(image: &Image, id: i32) -> usize {
    image.partitions().filter(|(_, _, partition)| partition.replicas.contains(&BrokerId(id))).count()
}

#[test]
fn a_broker_is_emptied_bit_by_bit_and_then_unregistered() {
    let (mut cluster, brokers) = Cluster::with_brokers(4);
    topic(&mut cluster, "t", 60, 3);
    let held = replicas_on(&cluster.image, 4);
    assert!(held > 2 * MOVES_AT_ONCE, "{held}");
    let first = decommission(&mut cluster, 4).expect("there is room");
    assert!(first.is_decommissioning && first.left.len() == held);
    let moving = |progress: &Progress| progress.left.iter().filter(|left| left.is_moving).count();
    assert_eq!(moving(&first), MOVES_AT_ONCE);
    // Asked again it goes on; and new topics keep away.
    assert_eq!(decommission(&mut cluster, 4).as_ref(), Ok(&first));
    topic(&mut cluster, "u", 6, 3);
    assert_eq!(replicas_on(&cluster.image, 4), held);
    // Another controller, and a restart of the broker, change nothing.
    cluster.change_leader(crate::cluster::settings(&["min.insync.replicas=2"]));
    let four = cluster.start_after(4, brokers[3].epoch);
    let brokers = [&brokers[..3], &[four]].concat();
    let mut rounds = 0;
    while replicas_on(&cluster.image, 4) > 0 {
        let progress = progress(&cluster.image, BrokerId(4)).expect("registered");
        assert!(moving(&progress) <= MOVES_AT_ONCE);
        catch_up(&mut cluster, &brokers);
        rounds += 1;
        assert!(rounds < 20, "no end");
    }
    assert!(cluster.image.broker(BrokerId(4)).is_none());
    assert!(cluster.events.contains(&Event::BrokerDecommissioned { broker: BrokerId(4) }));
    assert_eq!(code(progress(&cluster.image, BrokerId(4))), ErrorCode::BrokerIdNotRegistered);
    for (_, _, partition) in cluster.image.partitions() {
        assert!(partition.replicas.len() == 3 && !partition.is_reassigning());
    }
    // It may come back as a new one.
    cluster.start(4);
    assert!(!cluster.image.broker(BrokerId(4)).expect("registered").decommissioning);
}

#[test]
fn a_broker_is_kept_after_all() {
    let (mut cluster, _) = Cluster::with_brokers(4);
    topic(&mut cluster, "t", 8, 3);
    let before = cluster.image.clone();
    let held = decommission(&mut cluster, 3).expect("there is room").left.len();
    let undone = cluster.run(|decider, context| decider.recommission_broker(context, BrokerId(3)));
    assert_eq!(undone, Ok(held));
    for ((_, _, was), (_, _, is)) in before.partitions().zip(cluster.image.partitions()) {
        let sorted = |ids: &[BrokerId]| ids.iter().copied().collect::<std::collections::BTreeSet<_>>();
        assert_eq!((sorted(&was.replicas), &was.isr), (sorted(&is.replicas), &is.isr));
    }
    assert_eq!(cluster.run(|decider, context| decider.recommission_broker(context, BrokerId(3))), Ok(0));
    let gone = cluster.run(|decider, context| decider.recommission_broker(context, BrokerId(9)));
    assert_eq!(code(gone), ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn a_dead_broker_can_be_retired_too() {
    let (mut cluster, brokers) = Cluster::with_brokers(4);
    topic(&mut cluster, "t", 4, 3);
    cluster.kill(&brokers[1]);
    let mut rest: Vec<Broker> = [&brokers[..1], &brokers[2..]].concat();
    cluster.pass(std::time::Duration::from_secs(1), &mut rest.iter_mut().collect::<Vec<_>>());
    decommission(&mut cluster, 2).expect("there is room");
    let moving: Vec<_> = (cluster.image.partitions())
        .filter(|(_, _, partition)| partition.is_reassigning())
        .map(|(topic, index, partition)| (topic.name.to_string(), index, partition.clone()))
        .collect();
    assert!(!moving.is_empty());
    for (_, _, partition) in &moving {
        assert!(!partition.isr.contains(&BrokerId(2)) && partition.leader != BrokerId(2));
    }
    // Only the living report.
    for (name, index, partition) in moving {
        let leader = rest.iter().find(|broker| broker.id == partition.leader).expect("led").clone();
        let isr: Vec<i32> = partition.replicas.iter().map(|id| id.0).filter(|id| *id != 2).collect();
        if index == PartitionIndex(0) {
            let _ = set_isr(&mut cluster, &leader, &name, &isr);
        }
    }
    assert!(replicas_on(&cluster.image, 2) < 4);
}

#[test]
fn a_broker_without_room_elsewhere_stays() {
    let (mut cluster, _) = Cluster::with_brokers(3);
    topic(&mut cluster, "t", 2, 3);
    assert_eq!(decommission(&mut cluster, 3), Err(ErrorCode::InvalidReplicationFactor));
    assert!(cluster.records.is_empty());
    assert_eq!(decommission(&mut cluster, 9), Err(ErrorCode::BrokerIdNotRegistered));
    let dry = cluster.run(|decider, context| decider.decommission_broker(context, BrokerId(3), true));
    assert_eq!(code(dry), ErrorCode::InvalidReplicationFactor);
    let (mut alone, _) = Cluster::with_brokers(1);
    assert_eq!(decommission(&mut alone, 1), Err(ErrorCode::InvalidRequest));
    // Without anything on it, it goes at once.
    let (mut cluster, _) = Cluster::with_brokers(2);
    assert_eq!(decommission(&mut cluster, 2).map(|progress| progress.left.len()), Ok(0));
    assert!(cluster.image.broker(BrokerId(2)).is_none());
}

fn check_plan(cluster: &Cluster, request: &PlanRequest) -> Vec<(i32, Vec<i32>, Vec<i32>)> {
    let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let moves = plan(&cluster.image, request).expect("a plan");
    moves.iter().map(|one| (one.partition.partition.0, numbers(&one.current), numbers(&one.target))).collect()
}

#[test]
fn a_plan_moves_no_more_than_it_must() {
    let (mut cluster, _) = Cluster::with_brokers(4);
    cluster.create_on("t", &[1, 2, 3]);
    assert_eq!(check_plan(&cluster, &PlanRequest::default()), [], "one partition cannot be evened out");
    let brokers =
        |ids: &[i32]| PlanRequest { brokers: ids.iter().map(|id| BrokerId(*id)).collect(), ..Default::default() };
    assert_eq!(check_plan(&cluster, &brokers(&[2, 3, 4])), [(0, vec![1, 2, 3], vec![4, 2, 3])]);
    let factor =
        |replication_factor| PlanRequest { replication_factor: Some(replication_factor), ..Default::default() };
    assert_eq!(check_plan(&cluster, &factor(4)), [(0, vec![1, 2, 3], vec![1, 2, 3, 4])]);
    assert_eq!(check_plan(&cluster, &factor(2)), [(0, vec![1, 2, 3], vec![1, 2])]);
    for (request, expected) in [
        (factor(5), ErrorCode::InvalidReplicationFactor),
        (brokers(&[1, 2]), ErrorCode::InvalidReplicationFactor),
        (brokers(&[1, 2, 9]), ErrorCode::BrokerIdNotRegistered),
        (PlanRequest { topics: vec!["u".to_owned()], ..Default::default() }, ErrorCode::UnknownTopicOrPartition),
    ] {
        assert_eq!(code(plan(&cluster.image, &request)), expected, "{request:?}");
    }
}

#[test]
fn a_new_broker_gets_its_share() {
    let (mut cluster, brokers) = Cluster::with_brokers(3);
    topic(&mut cluster, "t", 30, 2);
    let four = cluster.start(4);
    let moves = plan(&cluster.image, &PlanRequest::default()).expect("a plan");
    let moved: usize = moves.iter().map(|one| one.adding().count()).sum();
    assert!((14..=16).contains(&moved), "{moved} of 60 replicas");
    let wanted: Vec<Reassignment> = moves
        .iter()
        .map(|one| Reassignment { partition: one.partition.clone(), replicas: Some(one.target.clone()) })
        .collect();
    let outcomes = cluster.run(|decider, context| decider.alter_partition_reassignments(context, &wanted, false));
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    catch_up(&mut cluster, &[&brokers[..], &[four]].concat());
    for id in 1..=4 {
        let held = replicas_on(&cluster.image, id);
        assert!((14..=16).contains(&held), "broker {id} has {held}");
        let preferred =
            cluster.image.partitions().filter(|(_, _, one)| one.preferred_replica() == BrokerId(id)).count();
        assert!((6..=9).contains(&preferred), "broker {id} leads {preferred}");
    }
    assert_eq!(plan(&cluster.image, &PlanRequest::default()), Ok(vec![]), "it is even");
}

#[test]
fn a_plan_keeps_racks_apart() {
    let mut cluster = Cluster::new(crate::cluster::settings(&[]));
    for (id, rack) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let request = odradek_controller_core::brokers::RegisterBroker {
            rack: Some(rack.to_owned()),
            ..cluster.registration(id)
        };
        let epoch = cluster.register(&request).expect("registered");
        let mut broker = Broker { id: BrokerId(id), epoch, incarnation: request.incarnation, stream: 100 + id as u64 };
        cluster.beat(&mut broker).expect("registered");
    }
    cluster.create_on("t", &[1, 2]);
    // Broker 3 is as empty as broker 4, and on the rack of broker 1.
    let request = PlanRequest { brokers: [1, 3, 4].map(BrokerId).to_vec(), ..Default::default() };
    assert_eq!(check_plan(&cluster, &request), [(0, vec![1, 2], vec![1, 4])]);
    let decided = cluster.run(|decider, context| decider.decommission_broker(context, BrokerId(1), false));
    assert!(decided.is_ok());
    assert_eq!(cluster.partition("t").adding.as_slice(), [BrokerId(3)]);
}
