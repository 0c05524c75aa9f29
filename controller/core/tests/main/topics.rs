//! Creating, growing and deleting topics.

use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicPartition, Uuid};
use odradek_controller_core::create_partitions::NewPartitions;
use odradek_controller_core::elect_leaders::ElectionType;
use odradek_controller_core::queries;
use odradek_controller_core::topics::{NewTopic, TopicRef};

use crate::cluster::{Cluster, code, settings};

fn topic(name: &str, partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor, assignments: vec![], configs: vec![] }
}

fn assigned(name: &str, assignments: &[&[i32]]) -> NewTopic {
    let brokers = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
    let assignments = assignments.iter().enumerate().map(|(n, ids)| (PartitionIndex(n as i32), brokers(ids)));
    NewTopic { assignments: assignments.collect(), ..topic(name, -1, -1) }
}

#[test]
fn a_topic_is_placed_with_all_its_active_replicas_in_sync() {
    let (mut cluster, _) = Cluster::with_brokers(3);
    let mut wanted = topic("t", 4, 3);
    wanted.configs = vec![("retention.ms".to_owned(), Some("1000".to_owned()))];
    let created = cluster.create(wanted).expect("created");
    assert_eq!((created.partitions, created.replication_factor), (4, 3));
    assert_eq!(cluster.record_kinds(), ["topic", "config", "partition", "partition", "partition", "partition"]);
    assert_eq!(cluster.image.topic_config("t", "retention.ms"), Some("1000"));
    for (_, _, partition) in cluster.image.partitions() {
        assert_eq!(partition.isr, partition.replicas);
        assert!(partition.has_preferred_leader());
        assert_eq!((partition.leader_epoch.0, partition.partition_epoch.0), (0, 0));
    }
    // The cluster's defaults.
    let created = cluster.create(topic("defaults", -1, -1)).expect("created");
    assert_eq!((created.partitions, created.replication_factor), (1, 1));
}

#[test]
fn fenced_brokers_are_used_last_and_never_in_sync() {
    let (mut cluster, _) = Cluster::with_brokers(2);
    cluster.join(3, odradek_common::BrokerEpoch::NONE);
    cluster.create(topic("two", 8, 2)).expect("created");
    assert!(cluster.image.partitions().all(|(_, _, partition)| !partition.replicas.contains(&BrokerId(3))));
    cluster.create(topic("three", 8, 3)).expect("created");
    for (_, partition) in cluster.image.topic_by_name("three").expect("there").partitions() {
        assert_eq!(partition.replicas.len(), 3);
        assert_eq!(partition.isr.len(), 2);
        assert_ne!(partition.leader, BrokerId(3));
    }
}

#[test]
fn a_broker_that_has_stopped_counts_among_the_replicas_and_one_that_is_stopping_does_not() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    let mut three = brokers.pop().expect("three");
    cluster.create_on("led", &[3, 1]);
    cluster.ask_to_shut_down(&three);
    let refused = cluster.create(topic("while-it-stops", 1, 3));
    assert_eq!(code(refused), ErrorCode::InvalidReplicationFactor);
    cluster.kill(&three);
    let (one, two) = brokers.split_at_mut(1);
    cluster.pass(std::time::Duration::from_secs(20), &mut [&mut one[0], &mut two[0]]);
    assert_eq!(cluster.fenced(), [3]);
    cluster.create(topic("when-it-has-stopped", 1, 3)).expect("created");
    let partition = cluster.partition("when-it-has-stopped");
    assert!(partition.replicas.len() == 3 && !partition.isr.contains(&BrokerId(3)), "{partition:?}");
    assert_ne!(partition.leader, BrokerId(3));
    three = cluster.start_after(3, three.epoch);
    assert!(three.epoch > brokers[0].epoch);
}

#[test]
fn wrong_topics_are_refused() {
    let (mut cluster, _) = Cluster::with_brokers(2);
    cluster.join(3, odradek_common::BrokerEpoch::NONE);
    cluster.create(topic("exists", 1, 1)).expect("created");
    cluster.create(topic("a.b_c", 1, 1)).expect("created");
    let long = "x".repeat(250);
    let config = |name: &str, value: Option<&str>| NewTopic {
        configs: vec![(name.to_owned(), value.map(str::to_owned))],
        ..topic("t", 1, 1)
    };
    for (wanted, expected, told) in [
        (topic("", 1, 1), ErrorCode::InvalidTopicException, "the empty string is not allowed"),
        (topic(".", 1, 1), ErrorCode::InvalidTopicException, "'.' is not allowed"),
        (topic("..", 1, 1), ErrorCode::InvalidTopicException, "'..' is not allowed"),
        (topic(&long, 1, 1), ErrorCode::InvalidTopicException, "longer than the max allowed length 249"),
        (topic("ä", 1, 1), ErrorCode::InvalidTopicException, "other than ASCII alphanumerics"),
        (topic("a_b.c", 1, 1), ErrorCode::InvalidTopicException, "collides with existing topic: a.b_c"),
        (topic("exists", 1, 1), ErrorCode::TopicAlreadyExists, "Topic 'exists' already exists."),
        (topic("__cluster_metadata", 1, 1), ErrorCode::InvalidRequest, "prohibited"),
        (topic("t", 0, 1), ErrorCode::InvalidPartitions, "non-positive"),
        (topic("t", -2, 1), ErrorCode::InvalidPartitions, "non-positive"),
        (topic("t", 1, 0), ErrorCode::InvalidReplicationFactor, "larger than 0"),
        (
            topic("t", 1, 4),
            ErrorCode::InvalidReplicationFactor,
            "Unable to replicate the partition 4 time(s): The target replication factor of 4 cannot be reached because \
             only 3 broker(s) are registered.",
        ),
        (topic("t", 20_000, 1), ErrorCode::PolicyViolation, "Excessively large"),
        (config("no.such", Some("1")), ErrorCode::InvalidConfig, "Unknown topic config name: no.such"),
        (config("retention.ms", Some("x")), ErrorCode::InvalidConfig, "retention.ms"),
        (config("retention.ms", None), ErrorCode::InvalidConfig, "Null value not supported"),
        (assigned("t", &[&[]]), ErrorCode::InvalidReplicaAssignment, "empty replica list"),
        (assigned("t", &[&[1, 9]]), ErrorCode::InvalidReplicaAssignment, "broker 9, but no such broker"),
        (assigned("t", &[&[1, 1]]), ErrorCode::InvalidReplicaAssignment, "broker 1 more than once"),
        (assigned("t", &[&[1], &[1, 2]]), ErrorCode::InvalidReplicaAssignment, "2 replica(s), but this is not"),
        (assigned("t", &[&[3]]), ErrorCode::InvalidReplicaAssignment, "partition 0 are fenced or in controlled"),
        (
            NewTopic { partitions: 1, ..assigned("t", &[&[1]]) },
            ErrorCode::InvalidRequest,
            "numPartitions was not set to -1",
        ),
        (
            NewTopic { replication_factor: 1, ..assigned("t", &[&[1]]) },
            ErrorCode::InvalidRequest,
            "replication factor was not set to -1",
        ),
        (
            NewTopic { assignments: vec![(PartitionIndex(1), vec![BrokerId(1)])], ..topic("t", -1, -1) },
            ErrorCode::InvalidReplicaAssignment,
            "consecutive 0-based",
        ),
        (
            NewTopic { assignments: vec![(PartitionIndex(0), vec![BrokerId(1)]); 2], ..topic("t", -1, -1) },
            ErrorCode::InvalidReplicaAssignment,
            "multiple manual partition assignments for partition 0",
        ),
    ] {
        let error = cluster.create(wanted).expect_err(told);
        assert_eq!(error.code, expected, "{told}");
        assert!(error.message.contains(told), "{error} / {told}");
        assert!(cluster.records.is_empty());
    }
}

#[test]
fn nothing_is_placed_without_an_active_broker() {
    let mut cluster = Cluster::new(settings(&[]));
    let error = cluster.create(topic("t", 1, 1)).expect_err("no brokers");
    assert_eq!(error.code, ErrorCode::InvalidReplicationFactor);
    assert!(error.message.ends_with("All brokers are currently fenced."));
}

#[test]
fn a_request_of_many_topics_has_many_outcomes() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let wanted = [topic("a", 1, 1), topic("twice", 1, 1), topic("b", 2, 2), topic("twice", 1, 1), topic("c", 2, 1)];
    let outcomes = cluster.run(|decider, context| decider.create_topics(context, &wanted, false));
    let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.result.as_ref().err().map(|error| error.code)).collect();
    let (duplicate, factor) = (Some(ErrorCode::InvalidRequest), Some(ErrorCode::InvalidReplicationFactor));
    assert_eq!(codes, [None, duplicate, factor, None]);
    assert_eq!(cluster.record_kinds(), ["topic", "partition", "topic", "partition", "partition"]);

    let more = [topic("d", 1, 1)];
    let outcomes = cluster.run(|decider, context| decider.create_topics(context, &more, true));
    assert!(outcomes[0].result.is_ok() && cluster.records.is_empty());
    assert_eq!(cluster.image.topic_id("d"), None);
}

#[test]
fn ten_thousand_partitions_fit_into_one_request() {
    let (mut cluster, _) = Cluster::with_brokers(3);
    cluster.create(topic("big", 10_000, 3)).expect("created");
    let batch = odradek_metadata::batch::new(cluster.records.clone(), odradek_common::time::Timestamp(0));
    let bytes = odradek_metadata::batch::encode(&batch).len();
    assert!(bytes < 2 << 20, "{bytes} bytes");
}

#[test]
fn topics_are_deleted_by_name_and_id() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let ids: Vec<Uuid> = ["a", "b", "c"].map(|name| cluster.create(topic(name, 1, 1)).expect("created").id).to_vec();
    let named = |name: &str| TopicRef::Name(name.to_owned());
    let wanted = [
        named("a"),
        TopicRef::Id(ids[1]),
        named("c"),
        TopicRef::Id(ids[2]),
        named("nobody"),
        TopicRef::Id(Uuid([8; 16])),
    ];
    let outcomes = cluster.run(|decider, context| decider.delete_topics(context, &wanted));
    let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.result.as_ref().err().map(|error| error.code)).collect();
    let twice = Some(ErrorCode::InvalidRequest);
    // Names first; what is named both ways is answered once.
    assert_eq!(codes, [None, twice, Some(ErrorCode::UnknownTopicOrPartition), Some(ErrorCode::UnknownTopicId), None]);
    assert_eq!(cluster.record_kinds(), ["remove topic", "remove topic"]);
    assert_eq!(cluster.image.topics_by_name().map(|topic| &*topic.name).collect::<Vec<_>>(), ["c"]);
    assert_eq!(outcomes[4].name.as_deref(), Some("b"));

    let mut strict = Cluster::new(settings(&["delete.topic.enable=false"]));
    strict.start(1);
    strict.create(topic("a", 1, 1)).expect("created");
    let outcomes = strict.run(|decider, context| decider.delete_topics(context, &[named("a")]));
    assert_eq!(code(outcomes[0].result.clone()), ErrorCode::TopicDeletionDisabled);
}

#[test]
fn partitions_are_added_but_never_taken_away() {
    let (mut cluster, _) = Cluster::with_brokers(3);
    cluster.create(topic("t", 2, 2)).expect("created");
    let mut grow = |count, assignments: Option<Vec<Vec<BrokerId>>>| {
        let wanted = [NewPartitions { topic: "t".to_owned(), count, assignments }];
        let mut outcomes = cluster.run(|decider, context| decider.create_partitions(context, &wanted, false));
        (outcomes.remove(0).result, cluster.record_kinds().len())
    };
    let pair = |a, b| vec![BrokerId(a), BrokerId(b)];
    for (count, assignments, expected) in [
        (2, None, ErrorCode::InvalidPartitions),
        (1, None, ErrorCode::InvalidPartitions),
        (3, Some(vec![]), ErrorCode::InvalidReplicaAssignment),
        (3, Some(vec![vec![BrokerId(1)]]), ErrorCode::InvalidReplicaAssignment),
    ] {
        assert_eq!(code(grow(count, assignments).0), expected);
    }
    assert_eq!(grow(4, None), (Ok(()), 2));
    assert_eq!(grow(5, Some(vec![pair(3, 1)])), (Ok(()), 1));
    let last = cluster.image.partition_by_name("t", PartitionIndex(4)).expect("added");
    assert_eq!(last.replicas.to_vec(), pair(3, 1));
    let unknown = [NewPartitions { topic: "u".to_owned(), count: 3, assignments: None }];
    let outcomes = cluster.run(|decider, context| decider.create_partitions(context, &unknown, false));
    assert_eq!(code(outcomes[0].result.clone()), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn elections_on_request() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let two = brokers.pop().expect("two");
    cluster.create_on("t", &[2, 1]);
    cluster.create_on("u", &[1, 2]);
    cluster.kill(&two);
    cluster.pass(std::time::Duration::from_secs(1), &mut [&mut brokers[0]]);
    assert_eq!(cluster.state("t"), "leader 1 isr [1] elr [2]");
    let elect = |cluster: &mut Cluster, election, names: Option<&[&str]>| {
        let partitions: Option<Vec<_>> =
            names.map(|names| names.iter().map(|name| TopicPartition::new(*name, 0)).collect());
        let outcomes = cluster.run(|decider, context| decider.elect_leaders(context, election, partitions.as_deref()));
        let code = |result: Result<(), odradek_controller_core::ApiError>| result.err().map(|error| error.code);
        outcomes.into_iter().map(|outcome| (outcome.partition.topic, code(outcome.result))).collect::<Vec<_>>()
    };
    let outcomes = elect(&mut cluster, ElectionType::Preferred, Some(&["t", "u", "none"]));
    let expected = [
        ("t", Some(ErrorCode::PreferredLeaderNotAvailable)),
        ("u", Some(ErrorCode::ElectionNotNeeded)),
        ("none", Some(ErrorCode::UnknownTopicOrPartition)),
    ];
    assert_eq!(outcomes, expected.map(|(name, code)| (name.to_owned(), code)));
    let two = cluster.start(2);
    crate::alter_partition::set_isr(&mut cluster, &brokers[0], "t", &[1, 2]).expect("eligible");
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, None), [("t".to_owned(), None)]);
    assert_eq!(cluster.state("t"), "leader 2 isr [1,2]");
    assert!(two.epoch > brokers[0].epoch);
}

#[test]
fn summaries_count_what_is_wrong() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    cluster.create_on("t", &[1, 2, 3]);
    cluster.create_on("lost", &[3]);
    cluster.create_on("__consumer_offsets", &[1]);
    cluster.kill(&brokers.pop().expect("three"));
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(std::time::Duration::from_secs(1), &mut [one, two]);
    let lines: Vec<_> = queries::topics(&cluster.image, false)
        .map(|line| (line.topic.name.to_string(), line.replication_factor, line.under_replicated, line.offline))
        .collect();
    assert_eq!(lines, [("lost".to_owned(), 1, 1, 1), ("t".to_owned(), 3, 1, 0)]);
    assert_eq!(queries::topics(&cluster.image, true).count(), 3);
    let counts: Vec<_> =
        queries::brokers(&cluster.image).iter().map(|line| (line.broker.id.0, line.leaders, line.replicas)).collect();
    assert_eq!(counts, [(1, 2, 2), (2, 0, 1), (3, 0, 2)]);
}
