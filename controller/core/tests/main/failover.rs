//! Scripts of failures: who leads afterwards, and who would have been allowed to.

use std::time::Duration;

use odradek_common::{BrokerEpoch, BrokerId, PartitionIndex, TopicIdPartition};
use odradek_controller_core::Event;
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::directories::AssignDirectories;
use odradek_controller_core::heartbeat::{Heartbeat, HeartbeatReply};
use odradek_metadata::LeaderRecoveryState;

use crate::cluster::{Broker, Cluster};

const SECOND: Duration = Duration::from_secs(1);

fn three() -> (Cluster, [Broker; 3]) {
    let (cluster, brokers) = Cluster::with_brokers(3);
    (cluster, brokers.try_into().expect("three"))
}

#[test]
fn a_killed_leader_is_replaced_within_a_second() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    assert_eq!(cluster.state("t"), "leader 1 isr [1,2,3]");
    cluster.kill(&one);
    cluster.pass(Duration::from_millis(400), &mut [&mut two, &mut three]);
    assert_eq!(cluster.state("t"), "leader 1 isr [1,2,3]");
    cluster.pass(Duration::from_millis(200), &mut [&mut two, &mut three]);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
    assert_eq!(cluster.fenced(), [1]);
    assert_eq!(cluster.partition("t").leader_epoch.0, 1);

    // It comes back, catches up and gets its place again only when the leader says so.
    cluster.start(1);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
}

#[test]
fn members_that_leave_an_isr_at_its_minimum_stay_eligible() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    cluster.kill(&one);
    cluster.pass(SECOND, &mut [&mut two, &mut three]);
    cluster.kill(&two);
    cluster.pass(SECOND, &mut [&mut three]);
    // 2 left when the ISR fell below two; 1 had left before, and records were acknowledged without it.
    assert_eq!(cluster.state("t"), "leader 3 isr [3] elr [2]");
    cluster.kill(&three);
    cluster.pass(SECOND, &mut []);
    assert_eq!(cluster.state("t"), "leader -1 isr [] elr [2,3] last 3");
    assert!(cluster.events.iter().any(|event| matches!(event, Event::PartitionOffline { .. })));

    // 2 was stopped cleanly after all: its epoch is in its directory. 1 may not lead.
    cluster.start_after(1, one.epoch);
    assert_eq!(cluster.state("t"), "leader -1 isr [] elr [2,3] last 3");
    cluster.start_after(2, two.epoch);
    assert_eq!(cluster.state("t"), "leader 2 isr [2] elr [3]");
    assert_eq!(cluster.partition("t").leader_recovery_state, LeaderRecoveryState::Recovered);
}

#[test]
fn a_cluster_whose_brokers_were_all_killed_comes_back_by_itself() {
    // One after the other, as the controller sees them go.
    let (mut cluster, brokers) = three();
    cluster.create_on("t", &[1, 2, 3]);
    for broker in &brokers {
        cluster.kill(broker);
        cluster.pass(SECOND, &mut []);
    }
    assert_eq!(cluster.state("t"), "leader -1 isr [] elr [2,3] last 3");
    for (id, expected) in [
        (1, "leader -1 isr [] elr [2,3] last 3"),
        (2, "leader -1 isr [] elr [3] last 3"),
        (3, "leader 3 isr [3] recovering"),
    ] {
        cluster.start(id);
        assert_eq!(cluster.state("t"), expected);
    }
    assert!(
        cluster.events.iter().any(|event| matches!(event, Event::LastKnownLeaderElected { leader: BrokerId(3), .. }))
    );
    assert!(!cluster.events.iter().any(|event| matches!(event, Event::UncleanElection { .. })));
}

#[test]
fn controllers_and_brokers_killed_together_come_back() {
    // Nobody was there to fence anybody. The new processes have the old ones' directories, so they need not wait.
    let (mut cluster, _) = three();
    cluster.create_on("t", &[1, 2, 3]);
    cluster.create_on("single", &[2]);
    cluster.change_leader(crate::cluster::settings(&["min.insync.replicas=2"]));
    let mut last = String::new();
    for id in [2, 3, 1] {
        cluster.start(id);
        last = cluster.state("t");
    }
    assert_eq!(last, "leader 1 isr [1] recovering");
    assert_eq!(cluster.state("single"), "leader 2 isr [2] recovering");
}

#[test]
fn a_single_replica_leads_again_after_a_clean_stop() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1]);
    assert!(cluster.ask_to_shut_down(&one) == HeartbeatReply { is_caught_up: true, ..HeartbeatReply::default() });
    assert_eq!(cluster.state("t"), "leader -1 isr [] elr [1] last 1");
    cluster.beat(&mut two).expect("alive");
    cluster.beat(&mut three).expect("alive");
    assert!(cluster.ask_to_shut_down(&one).should_shut_down);
    cluster.kill(&one);
    cluster.start_after(1, one.epoch);
    assert_eq!(cluster.state("t"), "leader 1 isr [1]");
    assert_eq!(cluster.partition("t").leader_recovery_state, LeaderRecoveryState::Recovered);
}

#[test]
fn controlled_shutdown_moves_leaders_first() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    let reply = cluster.ask_to_shut_down(&one);
    assert!(!reply.should_shut_down && !reply.is_fenced);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
    assert_eq!(cluster.record_kinds(), ["broker change", "partition change"]);
    // Only when both others have seen the new leader may it go.
    assert!(!cluster.ask_to_shut_down(&one).should_shut_down);
    cluster.beat(&mut two).expect("alive");
    assert!(!cluster.ask_to_shut_down(&one).should_shut_down);
    cluster.beat(&mut three).expect("alive");
    let reply = cluster.ask_to_shut_down(&one);
    assert!(reply.should_shut_down && reply.is_fenced);
    assert_eq!(cluster.fenced(), [1]);
    // The answer may have been lost.
    assert!(cluster.ask_to_shut_down(&one).should_shut_down);
    // A topic that is made meanwhile does not begin with it in sync.
    cluster.create_on("u", &[1, 2]);
    assert_eq!(cluster.state("u"), "leader 2 isr [2]");
}

#[test]
fn controlled_shutdown_survives_a_change_of_controller() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    cluster.ask_to_shut_down(&one);
    cluster.change_leader(crate::cluster::settings(&["min.insync.replicas=2"]));
    assert!(!cluster.ask_to_shut_down(&one).should_shut_down);
    cluster.beat(&mut two).expect("alive");
    cluster.beat(&mut three).expect("alive");
    assert!(cluster.ask_to_shut_down(&one).should_shut_down);
}

#[test]
fn unclean_election_only_where_it_is_configured() {
    let (mut cluster, [one, mut two, mut three]) = three();
    for (name, unclean) in [("safe", None), ("unsafe", Some("true"))] {
        let mut topic = odradek_controller_core::topics::NewTopic {
            name: name.to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments: vec![(0.into(), vec![BrokerId(1), BrokerId(2)])],
            configs: vec![("min.insync.replicas".to_owned(), Some("1".to_owned()))],
        };
        topic
            .configs
            .extend(unclean.map(|value| ("unclean.leader.election.enable".to_owned(), Some(value.to_owned()))));
        cluster.create(topic).expect("created");
    }
    cluster.kill(&two);
    cluster.pass(SECOND, &mut [&mut three]);
    cluster.kill(&one);
    cluster.pass(SECOND, &mut [&mut three]);
    for name in ["safe", "unsafe"] {
        assert_eq!(cluster.state(name), "leader -1 isr [] elr [1] last 1");
    }
    two = cluster.start_after(2, two.epoch);
    assert_eq!(cluster.state("safe"), "leader -1 isr [] elr [1] last 1");
    assert_eq!(cluster.state("unsafe"), "leader 2 isr [2] recovering");
    assert_eq!(cluster.events.iter().filter(|event| matches!(event, Event::UncleanElection { .. })).count(), 1);
    cluster.beat(&mut two).expect("alive");
}

#[test]
fn leadership_returns_to_preferred_replicas() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    cluster.kill(&one);
    cluster.pass(SECOND, &mut [&mut two, &mut three]);
    let mut one = cluster.start(1);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
    // Not in sync yet: it waits for the next check after it is.
    cluster.pass(Duration::from_secs(301), &mut [&mut one, &mut two, &mut three]);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
    crate::alter_partition::set_isr(&mut cluster, &two, "t", &[2, 3, 1]).expect("eligible");
    cluster.pass(Duration::from_secs(301), &mut [&mut one, &mut two, &mut three]);
    assert_eq!(cluster.state("t"), "leader 1 isr [2,3,1]");
}

#[test]
fn an_offline_directory_takes_its_partitions_along() {
    let (mut cluster, _) = three();
    let mut request = cluster.registration(4);
    let [bad, good] = [[40; 16], [41; 16]].map(odradek_common::Uuid);
    request.log_dirs = vec![bad, good];
    let epoch = cluster.register(&request).expect("registered");
    let mut four = Broker { id: BrokerId(4), epoch, incarnation: request.incarnation, stream: 99 };
    cluster.beat(&mut four).expect("caught up");
    let metadata_offset = cluster.image.offset();
    let message =
        |offline: &[_]| Heartbeat { metadata_offset, offline_log_dirs: offline.to_vec(), ..Heartbeat::default() };
    let reply = cluster.heartbeat(&four, message(&[bad])).expect("registered");
    assert!(!reply.is_fenced);
    assert_eq!(cluster.image.broker(four.id).expect("there").log_dirs, [good]);
    let reply = cluster.heartbeat(&four, message(&[bad, good])).expect("registered");
    assert!(reply.is_fenced);
    // Without a directory it is not unfenced again.
    assert!(cluster.heartbeat(&four, message(&[bad, good])).expect("registered").is_fenced);
}

#[test]
fn a_disk_that_fails_at_the_start_does_not_lose_what_it_holds_to_the_one_that_is_left() {
    let (mut cluster, _) = three();
    let [bad, good] = [[40; 16], [41; 16]].map(odradek_common::Uuid);
    let both = RegisterBroker { log_dirs: vec![bad, good], ..cluster.registration(4) };
    let epoch = cluster.register(&both).expect("registered");
    let mut four = Broker { id: BrokerId(4), epoch, incarnation: both.incarnation, stream: 99 };
    cluster.beat(&mut four).expect("caught up");
    cluster.create_on("t", &[4]);
    let topic_id = cluster.image.topic_id("t").expect("the topic");
    let replicas = vec![(TopicIdPartition { topic_id, partition: PartitionIndex(0) }, bad)];
    let request = AssignDirectories { broker_id: BrokerId(4), broker_epoch: epoch, replicas };
    cluster.run(|decider, context| decider.assign_directories(context, &request)).expect("current epoch");
    cluster.kill(&four);
    let register = |cluster: &mut Cluster, log_dirs: Vec<odradek_common::Uuid>, previous_broker_epoch, stream| {
        let request = RegisterBroker { log_dirs, previous_broker_epoch, ..cluster.registration(4) };
        let epoch = cluster.register(&request).expect("registered");
        let mut four = Broker { id: BrokerId(4), epoch, incarnation: request.incarnation, stream };
        cluster.beat(&mut four).expect("caught up");
        four
    };
    let four = register(&mut cluster, vec![good], epoch, 100);
    assert_eq!(cluster.partition("t").directory(BrokerId(4)), Some(bad));
    assert!(!cluster.partition("t").has_leader(), "nobody has its records");
    cluster.kill(&four);
    register(&mut cluster, vec![bad, good], four.epoch, 101);
    assert_eq!(cluster.partition("t").leader, BrokerId(4), "the disk is back");
}

#[test]
fn a_replaced_disk_does_not_keep_a_broker_from_leading() {
    let (mut cluster, [one, mut two, mut three]) = three();
    cluster.create_on("t", &[1, 2, 3]);
    cluster.kill(&one);
    cluster.pass(SECOND, &mut [&mut two, &mut three]);
    let mut request = cluster.registration(1);
    request.log_dirs = vec![odradek_common::Uuid([77; 16])];
    cluster.register(&request).expect("registered");
    let directory = cluster.partition("t").directory(BrokerId(1));
    assert_eq!(directory, Some(request.log_dirs[0]));
}

#[test]
fn unregistering_removes_a_broker_from_isr_and_elr() {
    let (mut cluster, [one, two, three]) = three();
    cluster.create_on("t", &[1, 2]);
    let unregister = |cluster: &mut Cluster, id| cluster.run(|d, context| d.unregister_broker(context, id));
    unregister(&mut cluster, one.id).expect("registered");
    assert_eq!(cluster.state("t"), "leader 2 isr [2]");
    unregister(&mut cluster, two.id).expect("registered");
    assert_eq!(cluster.state("t"), "leader -1 isr [] last 2");
    assert_eq!(
        crate::cluster::code(unregister(&mut cluster, two.id)),
        odradek_common::ErrorCode::BrokerIdNotRegistered
    );
    assert_ne!(three.epoch, BrokerEpoch::NONE);
}
