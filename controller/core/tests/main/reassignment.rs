//! Reassignments: each step, under failures, undone and replaced.

use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicPartition, Uuid};
use odradek_controller_core::Event;
use odradek_controller_core::configs::{ConfigChange, ConfigOperation};
use odradek_controller_core::reassignment::{Reassignment, ongoing};
use odradek_controller_core::topics::NewTopic;
use odradek_metadata::{ConfigResource, PartitionRegistration};
use odradek_wire::{
    ApiKey, alter_partition_reassignments_request as alter, elect_leaders_request as elect,
    list_partition_reassignments_request as list,
};

use crate::alter_partition::set_isr;
use crate::api::forward;
use crate::cluster::{Broker, Cluster, describe};

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

/// `target` empty: undo.
fn ask(cluster: &mut Cluster, topic: &str, target: &[i32], allow: bool) -> Result<(), ErrorCode> {
    let replicas = (!target.is_empty()).then(|| ids(target));
    let wanted = [Reassignment { partition: TopicPartition::new(topic, 0), replicas }];
    let outcomes = cluster.run(|decider, context| decider.alter_partition_reassignments(context, &wanted, allow));
    outcomes.into_iter().next().expect("one").result.map_err(|error| error.code)
}

fn begin(cluster: &mut Cluster, target: &[i32]) {
    ask(cluster, "t", target, true).expect("begun");
}

fn state(cluster: &Cluster) -> String {
    show(cluster.partition("t"))
}

fn show(partition: &PartitionRegistration) -> String {
    let list = |ids: &[BrokerId]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let mut text = format!("[{}]", list(&partition.replicas));
    if partition.is_reassigning() {
        text += &format!(" +[{}] -[{}]", list(&partition.adding), list(&partition.removing));
    }
    format!("{text} {}", describe(partition))
}

fn four() -> (Cluster, Vec<Broker>) {
    let (mut cluster, brokers) = Cluster::with_brokers(5);
    cluster.create_on("t", &[1, 2, 3]);
    (cluster, brokers)
}

#[test]
fn a_partition_moves_when_its_new_replicas_are_in_sync() {
    let (mut cluster, brokers) = four();
    begin(&mut cluster, &[2, 3, 4]);
    assert_eq!(state(&cluster), "[2,3,4,1] +[4] -[1] leader 1 isr [1,2,3]");
    assert_eq!(cluster.partition("t").directory(BrokerId(4)), Some(Uuid([104; 16])), "its only directory");
    // Nobody is thrown out of the ISR for it, and shrinking and growing go on.
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2]).expect("valid");
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2, 3]).expect("valid");
    assert_eq!(state(&cluster), "[2,3,4,1] +[4] -[1] leader 1 isr [1,2,3]");
    let led = cluster.partition("t").leader_epoch;
    // The leader is told that it leads no more.
    assert_eq!(set_isr(&mut cluster, &brokers[0], "t", &[1, 2, 3, 4]), Err(ErrorCode::NewLeaderElected));
    assert_eq!(state(&cluster), "[2,3,4] leader 2 isr [2,3,4]");
    assert!(cluster.partition("t").leader_epoch > led, "whoever was removed must not go on fetching");
}

#[test]
fn what_needs_no_data_is_done_at_once() {
    let (mut cluster, brokers) = four();
    begin(&mut cluster, &[3, 1, 2]);
    assert_eq!(state(&cluster), "[3,1,2] leader 1 isr [1,2,3]");
    begin(&mut cluster, &[3, 1]);
    assert_eq!(state(&cluster), "[3,1] leader 1 isr [1,3]");
    begin(&mut cluster, &[3, 1]);
    assert!(cluster.records.is_empty(), "as it is");
    // More replicas: the ones that are there stay, and lead.
    begin(&mut cluster, &[3, 1, 5]);
    assert_eq!(state(&cluster), "[3,1,5] +[5] -[] leader 1 isr [1,3]");
    set_isr(&mut cluster, &brokers[0], "t", &[1, 3, 5]).expect("valid");
    assert_eq!(state(&cluster), "[3,1,5] leader 1 isr [1,3,5]");
}

#[test]
fn a_lagging_replica_that_stays_holds_the_move_back() {
    let (mut cluster, brokers) = four();
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2]).expect("valid");
    begin(&mut cluster, &[3, 2]);
    assert_eq!(state(&cluster), "[3,2,1] +[] -[1] leader 1 isr [1,2]");
    assert_eq!(set_isr(&mut cluster, &brokers[0], "t", &[1, 2, 3]), Err(ErrorCode::NewLeaderElected));
    assert_eq!(state(&cluster), "[3,2] leader 3 isr [2,3]");
}

#[test]
fn it_is_undone_as_it_began() {
    let (mut cluster, brokers) = four();
    begin(&mut cluster, &[4, 5, 3]);
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2, 3, 4]).expect("valid");
    assert_eq!(state(&cluster), "[4,5,3,1,2] +[4,5] -[1,2] leader 1 isr [1,2,3,4]");
    ask(&mut cluster, "t", &[], true).expect("undone");
    assert_eq!(state(&cluster), "[3,1,2] leader 1 isr [1,2,3]");
    assert_eq!(ask(&mut cluster, "t", &[], true), Err(ErrorCode::NoReassignmentInProgress));
    // One after another: back to before the first.
    begin(&mut cluster, &[3, 1, 4]);
    begin(&mut cluster, &[3, 4, 5]);
    assert_eq!(state(&cluster), "[3,4,5,1,2] +[4,5] -[1,2] leader 1 isr [1,2,3]");
    begin(&mut cluster, &[3, 4, 5]);
    assert!(cluster.records.is_empty(), "the same again");
    ask(&mut cluster, "t", &[], true).expect("undone");
    assert_eq!(state(&cluster), "[3,1,2] leader 1 isr [1,2,3]");
    // Asked for in the words of a plan.
    begin(&mut cluster, &[4, 1, 2]);
    begin(&mut cluster, &[3, 1, 2]);
    assert_eq!(state(&cluster), "[3,1,2] leader 1 isr [1,2,3]");
    begin(&mut cluster, &[4, 1, 2]);
    begin(&mut cluster, &[4, 1, 2, 3]);
    assert_eq!(state(&cluster), "[4,1,2,3] +[4] -[] leader 1 isr [1,2,3]");
}

#[test]
fn a_leader_that_was_added_steps_back_when_it_is_undone() {
    let (mut cluster, brokers) = four();
    begin(&mut cluster, &[4, 5, 3]);
    set_isr(&mut cluster, &brokers[0], "t", &[1, 2, 3, 4]).expect("valid");
    for dead in [0, 1, 2] {
        cluster.kill(&brokers[dead]);
    }
    let [_, _, _, four, five] = &mut brokers.clone()[..] else { panic!("five") };
    cluster.pass(std::time::Duration::from_secs(1), &mut [four, five]);
    assert_eq!(state(&cluster), "[4,5,3,1,2] +[4,5] -[1,2] leader 4 isr [4] elr [3]");
    // What was acknowledged since then would be lost.
    assert_eq!(ask(&mut cluster, "t", &[], true), Err(ErrorCode::InvalidReplicaAssignment));
    let change = ConfigChange {
        resource: ConfigResource::topic("t"),
        operations: vec![("unclean.leader.election.enable".to_owned(), ConfigOperation::Set("true".to_owned()))],
    };
    cluster.run(|decider, context| decider.incremental_alter_configs(context, &[change], false));
    assert_eq!(ask(&mut cluster, "t", &[], true), Err(ErrorCode::InvalidReplicaAssignment), "nobody of those is there");
    cluster.start_after(2, brokers[1].epoch);
    ask(&mut cluster, "t", &[], true).expect("an unclean election is allowed");
    assert!(cluster.partition("t").replicas.as_slice() == ids(&[3, 1, 2]), "{}", state(&cluster));
    assert_eq!(cluster.partition("t").leader, BrokerId(2));
    assert!(cluster.events.iter().any(|event| matches!(event, Event::UncleanElection { leader: BrokerId(2), .. })));
}

#[test]
fn brokers_that_die_meanwhile_are_waited_for() {
    let (mut cluster, brokers) = four();
    begin(&mut cluster, &[4, 5, 3]);
    cluster.kill(&brokers[3]);
    cluster.kill(&brokers[0]);
    let [_, two, three, _, five] = &mut brokers.clone()[..] else { panic!("five") };
    cluster.pass(std::time::Duration::from_secs(1), &mut [two, three, five]);
    assert_eq!(state(&cluster), "[4,5,3,1,2] +[4,5] -[1,2] leader 3 isr [2,3]", "the leader and a target died");
    set_isr(&mut cluster, three, "t", &[2, 3, 5]).expect("valid");
    assert!(cluster.partition("t").is_reassigning());
    cluster.start(4);
    set_isr(&mut cluster, three, "t", &[2, 3, 4, 5]).expect("valid: it leads on");
    assert_eq!(state(&cluster), "[4,5,3] leader 3 isr [3,4,5]");
    // Another controller takes it from where it is.
    begin(&mut cluster, &[1, 2, 3]);
    cluster.change_leader(crate::cluster::settings(&["min.insync.replicas=2"]));
    assert_eq!(ongoing(&cluster.image, None).len(), 1);
    ask(&mut cluster, "t", &[], true).expect("undone");
    assert_eq!(state(&cluster), "[3,4,5] leader 3 isr [3,4,5]");
}

#[test]
fn refusals_name_their_causes() {
    let (mut cluster, _) = four();
    for (target, allow, expected) in [
        (&[1, 1][..], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, 9], true, ErrorCode::InvalidReplicaAssignment),
        (&[-1], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, 2], false, ErrorCode::InvalidReplicationFactor),
        (&[1, 2, 3, 4], false, ErrorCode::InvalidReplicationFactor),
        (&[], true, ErrorCode::NoReassignmentInProgress),
    ] {
        assert_eq!(ask(&mut cluster, "t", target, allow), Err(expected), "{target:?}");
        assert!(cluster.records.is_empty());
    }
    assert_eq!(ask(&mut cluster, "u", &[1], true), Err(ErrorCode::UnknownTopicOrPartition));
    // What counts is what the partition is about to have.
    begin(&mut cluster, &[4, 5]);
    assert_eq!(ask(&mut cluster, "t", &[4, 1], false), Ok(()));
    assert_eq!(ask(&mut cluster, "t", &[4, 1, 2], false), Err(ErrorCode::InvalidReplicationFactor));
}

#[test]
fn clients_ask_at_every_version() {
    for version in ApiKey::AlterPartitionReassignments.versions() {
        let (mut cluster, _) = four();
        let partition = |index: i32, replicas: Option<&[i32]>| alter::ReassignablePartition {
            partition_index: index,
            replicas: replicas.map(<[i32]>::to_vec),
            ..Default::default()
        };
        let topic =
            |name: &str, partitions| alter::ReassignableTopic { name: name.into(), partitions, ..Default::default() };
        let request = alter::AlterPartitionReassignmentsRequest {
            allow_replication_factor_change: false,
            topics: vec![
                topic("t", vec![partition(0, Some(&[4, 2, 3])), partition(1, None)]),
                topic("u", vec![partition(0, Some(&[]))]),
            ],
            ..Default::default()
        };
        let request = alter::AlterPartitionReassignmentsRequest {
            allow_replication_factor_change: version == 0 || request.allow_replication_factor_change,
            ..request
        };
        let response = forward(&mut cluster, version, &request);
        let codes: Vec<Vec<i16>> = (response.responses.iter())
            .map(|topic| topic.partitions.iter().map(|partition| partition.error_code).collect())
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(codes, [vec![0, unknown], vec![unknown]]);
        assert_eq!((response.error_code, response.error_message), (0, None));
        assert_eq!(response.responses[0].partitions[0].error_message, None);
        let wanted = |name: &str, indexes: &[i32]| list::ListPartitionReassignmentsTopics {
            name: name.into(),
            partition_indexes: indexes.to_vec(),
            ..Default::default()
        };
        for (topics, found) in [
            (None, 1),
            (Some(vec![wanted("t", &[0, 7]), wanted("u", &[0])]), 1),
            (Some(vec![wanted("t", &[7])]), 0),
            (Some(vec![]), 0),
        ] {
            let request = list::ListPartitionReassignmentsRequest { topics, ..Default::default() };
            let listed = forward(&mut cluster, 0, &request);
            assert_eq!(listed.topics.len(), found);
            for topic in &listed.topics {
                let partition = &topic.partitions[0];
                assert_eq!((topic.name.as_str(), partition.partition_index), ("t", 0));
                assert_eq!(partition.replicas, [4, 2, 3, 1]);
                assert_eq!((&partition.adding_replicas[..], &partition.removing_replicas[..]), (&[4][..], &[1][..]));
            }
        }
    }
}

#[test]
fn elections_are_told_by_topic() {
    let (mut cluster, brokers) = four();
    let topic = NewTopic { name: "u".to_owned(), partitions: 2, replication_factor: 1, ..NewTopic::default() };
    cluster.create(topic).expect("created");
    begin(&mut cluster, &[2, 1, 3]);
    for version in ApiKey::ElectLeaders.versions() {
        let all = elect::ElectLeadersRequest { topic_partitions: None, ..Default::default() };
        let response = forward(&mut cluster, version, &all);
        let told: Vec<(String, Vec<(i32, i16)>)> = (response.replica_election_results.iter())
            .map(|topic| {
                let partitions = topic.partition_result.iter();
                (topic.topic.to_string(), partitions.map(|one| (one.partition_id, one.error_code)).collect())
            })
            .collect();
        let first = version == *ApiKey::ElectLeaders.versions().start();
        let elected = if first { vec![(0, 0)] } else { vec![] };
        assert_eq!(told, [("t".to_owned(), elected), ("u".to_owned(), vec![])]);
    }
    assert_eq!(cluster.partition("t").leader, BrokerId(2));
    // A leader that is not there.
    begin(&mut cluster, &[1, 2, 3]);
    cluster.kill(&brokers[0]);
    let mut rest = brokers[1..].to_vec();
    cluster.pass(std::time::Duration::from_secs(1), &mut rest.iter_mut().collect::<Vec<_>>());
    let named = |topic: &str, partitions: &[i32]| elect::TopicPartitions {
        topic: topic.into(),
        partitions: partitions.to_vec(),
        ..Default::default()
    };
    let wanted = elect::ElectLeadersRequest {
        topic_partitions: Some(vec![named("t", &[0, 4]), named("v", &[0])]),
        ..Default::default()
    };
    let response = forward(&mut cluster, 2, &wanted);
    let codes: Vec<i16> = (response.replica_election_results.iter())
        .flat_map(|topic| topic.partition_result.iter().map(|one| one.error_code))
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(codes, [ErrorCode::PreferredLeaderNotAvailable.code(), unknown, unknown]);
    let unclean = elect::ElectLeadersRequest { election_type: 1, ..wanted };
    let response = forward(&mut cluster, 2, &unclean);
    assert_eq!(
        response.replica_election_results[0].partition_result[0].error_code,
        ErrorCode::ElectionNotNeeded.code()
    );
    assert_eq!(cluster.image.partition_by_name("t", PartitionIndex(0)).map(|one| one.leader), Some(BrokerId(2)));
}
