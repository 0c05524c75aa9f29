//! Brokers that an operator takes out of service and lets back in.

use std::time::Duration;

use odradek_common::{BrokerId, ErrorCode};
use odradek_controller_core::{ApiError, Event, FenceReason};

use crate::cluster::{Cluster, code, settings};

fn fence(cluster: &mut Cluster, id: i32, force: bool) -> Result<(), ApiError> {
    cluster.run(|decider, context| decider.fence_broker(context, BrokerId(id), force))
}

fn unfence(cluster: &mut Cluster, id: i32) -> Result<(), ApiError> {
    cluster.run(|decider, context| decider.unfence_broker(context, BrokerId(id)))
}

#[test]
fn a_broker_fenced_by_hand_loses_its_leaders_and_stays_fenced_though_it_is_heard() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    cluster.create_on("t", &[1, 2, 3]);
    assert_eq!(fence(&mut cluster, 1, false), Ok(()));
    assert_eq!(cluster.record_kinds(), ["broker change", "broker change", "partition change"]);
    assert!(cluster.events.contains(&Event::BrokerFenced { broker: BrokerId(1), reason: FenceReason::Operator }));
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
    assert_eq!(fence(&mut cluster, 1, false), Ok(()));
    assert!(cluster.records.is_empty(), "asked again, as after a lost answer");
    let [one, two, three] = &mut brokers[..] else { panic!("three") };
    assert!(cluster.beat(one).expect("registered").is_fenced);
    cluster.pass(Duration::from_secs(10), &mut [one, two, three]);
    assert_eq!((cluster.fenced(), cluster.state("t").as_str()), (vec![1], "leader 2 isr [2,3]"));

    assert_eq!(unfence(&mut cluster, 1), Ok(()));
    assert_eq!(cluster.record_kinds(), ["broker change"]);
    // Its own heartbeat lets it in, as after a start.
    assert_eq!(cluster.fenced(), [1]);
    assert!(!cluster.beat(one).expect("registered").is_fenced);
    assert!(cluster.fenced().is_empty());
    assert_eq!(unfence(&mut cluster, 1), Ok(()));
    assert!(cluster.records.is_empty());
}

#[test]
fn it_outlives_another_controller_and_restarts_of_the_broker() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    cluster.create_on("t", &[1, 2, 3]);
    fence(&mut cluster, 1, false).expect("others are in sync");
    cluster.change_leader(settings(&["min.insync.replicas=2"]));
    assert!(cluster.beat(&mut brokers[0]).expect("registered").is_fenced);
    // It is told to go when it wants to, and may not come back as another incarnation either.
    assert!(cluster.ask_to_shut_down(&brokers[0]).should_shut_down);
    cluster.kill(&brokers[0]);
    let mut one = cluster.join(1, brokers[0].epoch);
    assert!(cluster.beat(&mut one).expect("registered").is_fenced);
    // A snapshot holds it, too.
    let mut rebuilt = odradek_metadata::Image::new();
    rebuilt.apply_records(&cluster.image.to_records().collect::<Vec<_>>(), cluster.image.offset()).expect("its own");
    assert!(rebuilt.broker(BrokerId(1)).is_some_and(|broker| broker.fenced_by_operator && broker.fenced));
    unfence(&mut cluster, 1).expect("registered");
    assert!(!cluster.beat(&mut one).expect("registered").is_fenced);
    // An unregistered broker is forgotten, and this with it.
    fence(&mut cluster, 1, false).expect("registered");
    cluster.run(|decider, context| decider.unregister_broker(context, BrokerId(1))).expect("registered");
    cluster.start(1);
}

#[test]
fn a_broker_that_is_down_is_not_let_in_when_it_is_back() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(Duration::from_secs(5), &mut [one, two]);
    cluster.kill(one);
    cluster.pass(Duration::from_secs(1), &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
    fence(&mut cluster, 1, false).expect("registered");
    assert_eq!(cluster.record_kinds(), ["broker change"]);
    let mut back = cluster.join(1, one.epoch);
    assert!(cluster.beat(&mut back).expect("registered").is_fenced);
}

#[test]
fn the_last_in_sync_replica_is_fenced_only_by_force() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    cluster.create_on("alone", &[2]);
    cluster.create_on("shared", &[2, 3]);
    let refused = fence(&mut cluster, 2, false).expect_err("nobody else has it");
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    assert!(refused.message.contains("of alone-0, which"), "{refused:?}");
    assert!(cluster.records.is_empty() && cluster.fenced().is_empty());
    fence(&mut cluster, 2, true).expect("by force");
    assert_eq!(cluster.state("shared"), "leader 3 isr [3] elr [2]");
    assert!(!cluster.partition("alone").has_leader());
    // Nothing was lost: it leads again as soon as it is let in.
    unfence(&mut cluster, 2).expect("registered");
    cluster.beat(&mut brokers[1]).expect("registered");
    assert_eq!(cluster.partition("alone").leader, BrokerId(2));
    for refused in [fence(&mut cluster, 9, true), unfence(&mut cluster, 9)] {
        assert_eq!(code(refused), ErrorCode::BrokerIdNotRegistered);
    }
}
