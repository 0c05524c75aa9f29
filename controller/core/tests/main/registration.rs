//! Which processes may join.

use std::time::Duration;

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, PartitionIndex, TopicIdPartition, Uuid};
use odradek_controller_core::Event;
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::directories::AssignDirectories;
use odradek_controller_core::heartbeat::Heartbeat;
use odradek_metadata::FeatureRange;

use crate::cluster::{Cluster, code, settings};

#[test]
fn a_registration_is_fenced_and_has_its_offset_as_epoch() {
    let mut cluster = Cluster::new(settings(&[]));
    let request = cluster.registration(1);
    let epoch = cluster.register(&request).expect("registered");
    assert_eq!(epoch.0, cluster.image.offset());
    assert_eq!(cluster.record_kinds(), ["register broker"]);
    assert_eq!(cluster.fenced(), [1]);
    // Asked again, as after a lost answer.
    assert_eq!(cluster.register(&request), Ok(epoch));
    assert!(cluster.records.is_empty());
    // The same process may amend what it said.
    let amended = RegisterBroker { rack: Some("b".to_owned()), ..request };
    assert_eq!(cluster.register(&amended), Ok(epoch));
    assert_eq!(cluster.image.broker(1.into()).and_then(|broker| broker.rack.clone()).as_deref(), Some("b"));
}

#[test]
fn wrong_registrations_are_refused_by_name() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let valid = cluster.registration(2);
    let endpoint = valid.endpoints[0].clone();
    let range = |name: &str, min_level, max_level| FeatureRange { name: name.to_owned(), min_level, max_level };
    for (request, expected, told) in [
        (
            RegisterBroker { cluster_id: "other".to_owned(), ..valid.clone() },
            ErrorCode::InconsistentClusterId,
            "got cluster ID other",
        ),
        (RegisterBroker { broker_id: (-1).into(), ..valid.clone() }, ErrorCode::InvalidRegistration, "broker id -1"),
        (
            RegisterBroker { incarnation: Uuid::ZERO, ..valid.clone() },
            ErrorCode::InvalidRegistration,
            "No incarnation id",
        ),
        (RegisterBroker { endpoints: vec![], ..valid.clone() }, ErrorCode::InvalidRegistration, "No listeners"),
        (
            RegisterBroker { endpoints: vec![endpoint.clone(), endpoint], ..valid.clone() },
            ErrorCode::InvalidRegistration,
            "Duplicate listener PLAINTEXT",
        ),
        (RegisterBroker { log_dirs: vec![], ..valid.clone() }, ErrorCode::InvalidRegistration, "No directories"),
        (
            RegisterBroker { log_dirs: vec![Uuid::ONE], ..valid.clone() },
            ErrorCode::InvalidRegistration,
            "Reserved directory",
        ),
        (
            RegisterBroker { log_dirs: vec![Uuid([9; 16]); 2], ..valid.clone() },
            ErrorCode::InvalidRegistration,
            "Duplicate directory",
        ),
        (
            RegisterBroker { log_dirs: vec![Uuid([101; 16])], ..valid.clone() },
            ErrorCode::InvalidRegistration,
            "Broker 1 is already registered with directory",
        ),
        (
            RegisterBroker { features: vec![range("metadata.version", 1, 29)], ..valid.clone() },
            ErrorCode::UnsupportedVersion,
            "does not support finalized version 30 of metadata.version",
        ),
        (
            RegisterBroker { features: vec![range("metadata.version", 1, 31)], ..valid.clone() },
            ErrorCode::UnsupportedVersion,
            "eligible.leader.replicas.version",
        ),
        (
            RegisterBroker {
                features: [valid.features.clone(), vec![range("share.version", 1, 2)]].concat(),
                ..valid.clone()
            },
            ErrorCode::UnsupportedVersion,
            "version 0 of share.version",
        ),
    ] {
        let error = cluster.register(&request).expect_err(told);
        assert_eq!(error.code, expected, "{told}");
        assert!(error.message.contains(told), "{error}");
        assert!(cluster.records.is_empty());
    }
    cluster.register(&valid).expect("valid");
}

#[test]
fn one_incarnation_lives_per_id() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(1);
    let one = &mut brokers[0];
    // Another directory, or even a copy of the same: while the first holds its stream, it stays.
    let mut request = cluster.registration(1);
    assert_eq!(code(cluster.register(&request)), ErrorCode::DuplicateBrokerRegistration);
    request.log_dirs = vec![Uuid([55; 16])];
    assert_eq!(code(cluster.register(&request)), ErrorCode::DuplicateBrokerRegistration);
    // Its connection is gone, but it has the grace to be back: another directory cannot prove its end.
    cluster.kill(one);
    assert_eq!(code(cluster.register(&request)), ErrorCode::DuplicateBrokerRegistration);
    cluster.pass(Duration::from_secs(1), &mut []);
    let epoch = cluster.register(&request).expect("the old one is fenced");
    // And the old one is refused from then on.
    assert_eq!(code(cluster.beat(one)), ErrorCode::StaleBrokerEpoch);
    assert!(epoch > one.epoch);
}

#[test]
fn who_has_the_directory_need_not_wait_for_the_old_session() {
    let (mut cluster, brokers) = Cluster::with_brokers(1);
    cluster.kill(&brokers[0]);
    let request = cluster.registration(1);
    cluster.register(&request).expect("the directory's lock was free, so its last holder is gone");
}

#[test]
fn a_starting_broker_is_not_pushed_aside() {
    let mut cluster = Cluster::new(settings(&[]));
    let one = cluster.join(1, BrokerEpoch::NONE);
    // Fenced, but on its stream: it is catching up.
    cluster.heartbeat(&one, Heartbeat::default()).expect("registered");
    let second = cluster.registration(1);
    assert_eq!(code(cluster.register(&second)), ErrorCode::DuplicateBrokerRegistration);
}

#[test]
fn an_unclean_restart_leaves_the_isr_at_once() {
    let (mut cluster, brokers) = Cluster::with_brokers(3);
    cluster.create_on("t", &[1, 2, 3]);
    cluster.kill(&brokers[0]);
    let request = cluster.registration(1);
    cluster.register(&request).expect("registered");
    assert_eq!(cluster.record_kinds(), ["register broker", "partition change"]);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
}

#[test]
fn producer_ids_come_in_blocks() {
    let (mut cluster, brokers) = Cluster::with_brokers(1);
    let one = &brokers[0];
    for first in [0, 1000, 2000] {
        let block = cluster.run(|d, context| d.allocate_producer_ids(context, one.id, one.epoch)).expect("a block");
        assert_eq!((block.first.0, block.count), (first, 1000));
        assert_eq!(cluster.record_kinds(), ["producer ids"]);
    }
    let stale = cluster.run(|d, context| d.allocate_producer_ids(context, one.id, BrokerEpoch(0)));
    assert_eq!(code(stale), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_cluster_is_born_once() {
    let mut cluster = Cluster::new(settings(&[]));
    assert_eq!(cluster.image.cluster_id(), crate::cluster::CLUSTER_ID);
    assert_eq!(cluster.image.feature_level("metadata.version"), 30);
    assert_eq!(cluster.image.feature_level("transaction.version"), 2);
    assert_eq!(cluster.image.feature_level("group.version"), 1);
    let controller =
        odradek_metadata::ControllerRegistration { id: 1.into(), host: "localhost".to_owned(), port: 9192 };
    let controllers = [controller];
    cluster.run(|d, context| d.begin(context, crate::cluster::CLUSTER_ID, &controllers, None)).expect("the same");
    assert_eq!(cluster.record_kinds(), ["register controller"]);
    cluster.run(|d, context| d.begin(context, crate::cluster::CLUSTER_ID, &controllers, None)).expect("the same");
    assert!(cluster.records.is_empty());
    let error = cluster.run(|d, context| d.begin(context, "other", &[], None)).expect_err("another cluster");
    assert!(error.to_string().contains(crate::cluster::CLUSTER_ID));
}

#[test]
fn a_cluster_that_was_something_else_goes_on_with_what_it_had() {
    let (mut former, brokers) = Cluster::with_brokers(2);
    let id = former.create_on("t", &[1, 2]).id;
    let [one, two] = [&brokers[0], &brokers[1]].map(|broker| broker.epoch);
    let image = former.image.clone();
    let before = image.partition(id, 0.into()).expect("a partition").as_ref().clone();
    let mut cluster = Cluster::born_of(settings(&[]), Some(&image));
    assert_eq!(cluster.image.cluster_id(), crate::cluster::CLUSTER_ID);
    assert_eq!(cluster.image.topic_id("t"), Some(id));
    assert_eq!(cluster.image.next_producer_id(), former.image.next_producer_id());
    assert_eq!(cluster.image.partition(id, 0.into()).map(AsRef::as_ref), Some(&before));
    // The one was stopped in order, as its marker shows, and then the other; each comes back as itself.
    cluster.start_after(1, one);
    cluster.start_after(2, two);
    let partition = cluster.image.partition(id, 0.into()).expect("a partition");
    assert!(partition.has_leader() && partition.leader_epoch > before.leader_epoch, "{partition:?}");
    assert!(!cluster.events.iter().any(|event| matches!(event, Event::BrokerRegistered { unclean: true, .. })));

    // One that was not, or that does not come back, is out of the ISR.
    let mut cluster = Cluster::born_of(settings(&[]), Some(&image));
    cluster.start_after(1, BrokerEpoch(-1));
    let partition = cluster.image.partition(id, 0.into()).expect("a partition");
    assert_eq!((partition.isr.as_slice(), partition.leader), (&[BrokerId(2)][..], BrokerId(2)), "{partition:?}");
    cluster.pass(Duration::from_secs(30), &mut []);
    assert_eq!(cluster.fenced(), [1, 2], "what is silent is fenced");

    // It says nothing to a quorum that has a log.
    let again = cluster.run(|d, context| d.begin(context, crate::cluster::CLUSTER_ID, &[], Some(&image)));
    again.expect("the same cluster");
    assert!(cluster.records.is_empty());
}

#[test]
fn a_failed_directory_takes_its_partitions_out_of_the_isrs() {
    let (mut cluster, _) = Cluster::with_brokers(2);
    let (first, second) = (Uuid([71; 16]), Uuid([72; 16]));
    let request = RegisterBroker { log_dirs: vec![first, second], ..cluster.registration(3) };
    let epoch = cluster.register(&request).expect("registered");
    let mut three = crate::cluster::Broker { id: BrokerId(3), epoch, incarnation: request.incarnation, stream: 90 };
    cluster.beat(&mut three).expect("registered");
    for name in ["a", "b", "c"] {
        cluster.create_on(name, &[3, 1]);
    }
    assert_eq!(cluster.partition("a").directory(BrokerId(3)), Some(Uuid::ZERO), "it chooses by itself");
    let at = |cluster: &Cluster, name: &str| TopicIdPartition {
        topic_id: cluster.image.topic_id(name).expect("the topic"),
        partition: PartitionIndex(0),
    };
    let assign = |cluster: &mut Cluster, id: i32, replicas: Vec<(TopicIdPartition, Uuid)>| {
        let broker_epoch = cluster.image.broker(BrokerId(id)).expect("registered").epoch;
        let request = AssignDirectories { broker_id: BrokerId(id), broker_epoch, replicas };
        cluster.run(|decider, context| decider.assign_directories(context, &request)).expect("current epoch")
    };
    let (a, b, c) = (at(&cluster, "a"), at(&cluster, "b"), at(&cluster, "c"));
    let nowhere = TopicIdPartition { topic_id: Uuid([9; 16]), ..a };
    let beyond = TopicIdPartition { partition: PartitionIndex(7), ..a };
    let codes = assign(&mut cluster, 3, vec![(a, first), (b, second), (nowhere, first), (beyond, first)]);
    let unknown = [ErrorCode::UnknownTopicId, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(codes, [&[ErrorCode::None; 2][..], &unknown].concat());
    assert_eq!(assign(&mut cluster, 2, vec![(a, first)]), [ErrorCode::NotLeaderOrFollower]);
    assert_eq!(cluster.partition("a").directory(BrokerId(3)), Some(first));
    let metadata_offset = cluster.image.offset();
    let message = Heartbeat { metadata_offset, offline_log_dirs: vec![first], ..Heartbeat::default() };
    cluster.heartbeat(&three, message).expect("registered");
    assert_eq!(cluster.state("a"), "leader 1 isr [1] elr [3]");
    assert_eq!(cluster.state("b"), "leader 3 isr [3,1]");
    // What is told only after the failure counts all the same.
    assign(&mut cluster, 3, vec![(c, first)]);
    assert_eq!(cluster.state("c"), "leader 1 isr [1] elr [3]");
}
