//! What takes several brokers, one of them stopped: elections, reassignments that go on, brokers that are unregistered,
//! requests to a broker that does not lead.

use std::time::Duration;

use odradek_tests::differential::Pair;
use odradek_tests::kafka::{Node, Tools};
use odradek_tests::{Cluster, Spec, wait_for};
use odradek_wire::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use odradek_wire::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use odradek_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use odradek_wire::describe_producers_request::TopicRequest as ProducersOf;
use odradek_wire::describe_topic_partitions_request::TopicRequest;
use odradek_wire::{
    CreatePartitionsRequest, DeleteRecordsRequest, DescribeClusterRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, ListPartitionReassignmentsRequest,
    MetadataRequest, UnregisterBrokerRequest,
};

use super::leaders::{
    PREFERRED, To, UNCLEAN, elect, elect_all, level_elected, level_ongoing, level_reassigned, list, reassign_to,
};
use super::{create, finish, level_created, topic};

const STATE_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn answers_are_kafkas_with_three_brokers() {
    let Some(tools) = Tools::new() else { return };
    Spec::new(1, 3).run(|cluster| {
        let kafka = Node::start(&tools, &[])?;
        let mut others = [kafka.join(&tools, 2)?, kafka.join(&tools, 3)?];
        let mut pair = Pair::open(&kafka, cluster)?;
        let result = compare(&mut pair, &mut others, cluster);
        if let Err(error) = result {
            pair.fail("three brokers", &error);
        }
        finish(pair, &kafka)
    });
}

fn compare(pair: &mut Pair, others: &mut [Node; 2], cluster: &Cluster) -> anyhow::Result<()> {
    wait_alive(pair, &[1, 2, 3])?;
    let topics: [(&str, &[&[i32]]); 6] = [
        ("ordered", &[&[1, 2], &[2, 1]]),
        ("moved", &[&[1]]),
        ("moving", &[&[1, 2]]),
        ("preferring", &[&[3, 1]]),
        ("offline", &[&[3], &[3]]),
        ("elsewhere", &[&[2]]),
    ];
    let topics: Vec<CreatableTopic> = topics.iter().map(|(name, assignments)| assigned(name, assignments)).collect();
    let versions = pair.versions::<odradek_wire::CreateTopicsRequest>()?;
    pair.same_at("assigned", *versions.end(), &create(topics.clone(), false), &create(topics, false), level_created)?;
    settled(pair, "three brokers", |partition| partition.leader_id >= 0)?;
    elections(pair)?;
    moves(pair)?;
    of_another_leader(pair)?;
    others[1].stop()?;
    cluster.broker(3).stop()?;
    wait_alive(pair, &[1, 2])?;
    settled(pair, "two brokers", |partition| !partition.isr_nodes.contains(&3) && partition.leader_id != 3)?;
    without_a_broker(pair)?;
    ongoing(pair)?;
    unclean(pair)?;
    unregister(pair)
}

fn assigned(name: &str, assignments: &[&[i32]]) -> CreatableTopic {
    let assignment = |(partition_index, brokers): (i32, &&[i32])| CreatableReplicaAssignment {
        partition_index,
        broker_ids: brokers.to_vec(),
        ..Default::default()
    };
    CreatableTopic { assignments: (0..).zip(assignments).map(assignment).collect(), ..topic(name, -1, -1) }
}

/// Waits until both name these brokers.
fn wait_alive(pair: &mut Pair, brokers: &[i32]) -> anyhow::Result<()> {
    let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    wait_for(&format!("the brokers are {brokers:?}"), STATE_LIMIT, || {
        let (theirs, ours) = pair.both(9, &request)?;
        let of = |answer: odradek_wire::MetadataResponse| {
            let mut ids: Vec<i32> = answer.brokers.iter().map(|broker| broker.node_id).collect();
            ids.sort_unstable();
            ids
        };
        let (theirs, ours) = (of(theirs), of(ours));
        anyhow::ensure!(theirs == brokers && ours == brokers, "{theirs:?}, {ours:?}");
        Ok(Some(()))
    })
}

type Partition = odradek_wire::describe_topic_partitions_response::DescribeTopicPartitionsResponsePartition;

fn describe() -> DescribeTopicPartitionsRequest {
    let names = ["ordered", "moved", "moving", "preferring", "offline", "elsewhere"];
    let topic = |name: &&str| TopicRequest { name: (*name).into(), ..Default::default() };
    DescribeTopicPartitionsRequest {
        topics: names.iter().map(topic).collect(),
        response_partition_limit: 2000,
        ..Default::default()
    }
}

/// Ids and epochs are each side's own: how often a leader's epoch grows while a broker stops is a matter of timing.
fn level_described(answer: &mut DescribeTopicPartitionsResponse) {
    for topic in &mut answer.topics {
        topic.topic_id = Default::default();
        topic.partitions.iter_mut().for_each(|partition| {
            partition.leader_epoch = 0;
            partition.isr_nodes.sort_unstable();
        });
    }
}

/// Waits until every partition on both sides is as wanted, and compares what they are then.
fn settled(pair: &mut Pair, case: &str, wanted: impl Fn(&Partition) -> bool) -> anyhow::Result<()> {
    wait_for(&format!("{case}: all partitions are as they should be"), STATE_LIMIT, || {
        let (theirs, ours) = pair.both(0, &describe())?;
        for (side, answer) in [("Apache Kafka", theirs), ("Odradek", ours)] {
            for topic in &answer.topics {
                for partition in &topic.partitions {
                    let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
                    anyhow::ensure!(wanted(partition), "{side}: {name} {partition:?}");
                }
            }
        }
        Ok(Some(()))
    })?;
    seen(pair, case)
}

fn seen(pair: &mut Pair, case: &str) -> anyhow::Result<()> {
    pair.same_soon(&format!("{case}, seen"), |_| describe(), level_described)
}

fn elections(pair: &mut Pair) -> anyhow::Result<()> {
    pair.same("an order that it has", reassign_to(&[("ordered", 0, Some(&[1, 2]))], true), level_reassigned)?;
    for version in pair.versions::<odradek_wire::ElectLeadersRequest>()? {
        // Another order is there at once, and the leader stays until there is an election.
        let order: &[To] =
            if version % 2 == 0 { &[("ordered", 0, Some(&[2, 1]))] } else { &[("ordered", 0, Some(&[1, 2]))] };
        let order = reassign_to(order, version % 2 == 0)(1);
        pair.same_at("another order", 1, &order, &order, level_reassigned)?;
        seen(pair, "another order")?;
        let all = elect_all(PREFERRED)(version);
        let these = elect(PREFERRED, &[("ordered", 0), ("ordered", 1)])(version);
        let request = if version == 0 { all } else { these };
        pair.same_at("elected", version, &request, &request, level_elected)?;
        seen(pair, "elected")?;
    }
    Ok(())
}

fn moves(pair: &mut Pair) -> anyhow::Result<()> {
    let steps: [(i16, &[To]); 2] = [(0, &[("moved", 0, Some(&[2]))]), (1, &[("moved", 0, Some(&[3, 1]))])];
    for (version, to) in steps {
        let request = reassign_to(to, true)(version);
        pair.same_at("moved", version, &request, &request, level_reassigned)?;
        none_goes_on(pair)?;
        seen(pair, "moved")?;
    }
    let request = reassign_to(&[("moved", 0, Some(&[2]))], false)(1);
    pair.same_at("the replication factor would change", 1, &request, &request, level_reassigned)?;
    pair.same("fewer", reassign_to(&[("moved", 0, Some(&[3]))], true), level_reassigned)?;
    none_goes_on(pair)?;
    seen(pair, "fewer")
}

fn none_goes_on(pair: &mut Pair) -> anyhow::Result<()> {
    let request = ListPartitionReassignmentsRequest { topics: None, ..Default::default() };
    wait_for("no reassignment goes on", STATE_LIMIT, || {
        let (theirs, ours) = pair.both(0, &request)?;
        Ok((theirs.topics.is_empty() && ours.topics.is_empty()).then_some(()))
    })
}

/// Broker 1 is asked for what broker 2 leads.
fn of_another_leader(pair: &mut Pair) -> anyhow::Result<()> {
    let delete = |_| {
        let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 0, ..Default::default() }];
        let topic = DeleteRecordsTopic { name: "elsewhere".into(), partitions, ..Default::default() };
        DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() }
    };
    pair.same("another broker leads", delete, |_| ())?;
    let producers = |_| {
        let topic = ProducersOf { name: "elsewhere".into(), partition_indexes: vec![0], ..Default::default() };
        DescribeProducersRequest { topics: vec![topic], ..Default::default() }
    };
    pair.same("another broker leads", producers, |_| ())
}

/// Broker 3 is stopped, but still registered.
fn without_a_broker(pair: &mut Pair) -> anyhow::Result<()> {
    let fenced = |include_fenced_brokers| {
        move |v: i16| DescribeClusterRequest {
            include_fenced_brokers: v >= 2 && include_fenced_brokers,
            endpoint_type: 1,
            ..Default::default()
        }
    };
    let level = |answer: &mut odradek_wire::DescribeClusterResponse| {
        answer.controller_id = 0;
        answer.brokers.sort_by_key(|broker| broker.broker_id);
        answer.brokers.iter_mut().for_each(|broker| broker.port = 0);
    };
    pair.same_soon("with a stopped broker", fenced(true), level)?;
    pair.same_soon("without a stopped broker", fenced(false), level)?;
    // Which one leads is a matter of chance.
    let wide = |v| create(vec![topic(&format!("wide-{v}"), 1, 3)], true);
    pair.same("as many replicas as are registered", wide, level_created)?;
    let wider = |v| create(vec![topic(&format!("wider-{v}"), 1, 4)], false);
    pair.same("too few brokers", wider, level_created)?;
    let on_stopped = |v| create(vec![assigned(&format!("stopped-{v}"), &[&[3]])], false);
    pair.same("assigned to a stopped broker", on_stopped, level_created)?;
    let on_both = |v| create(vec![assigned(&format!("half-stopped-{v}"), &[&[3, 1]])], false);
    pair.same("assigned to a stopped broker and another", on_both, level_created)?;
    let grow = |brokers: &'static [i32]| {
        move |_| {
            let assignment = CreatePartitionsAssignment { broker_ids: brokers.to_vec(), ..Default::default() };
            let topic = CreatePartitionsTopic {
                name: "elsewhere".into(),
                count: 2,
                assignments: Some(vec![assignment]),
                ..Default::default()
            };
            CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() }
        }
    };
    pair.same("a partition on a stopped broker", grow(&[3]), |_| ())?;
    pair.same("another replication factor", grow(&[1, 2]), |_| ())?;
    for (case, election, partitions) in [
        ("the preferred leader is stopped", PREFERRED, &[("preferring", 0)] as &[_]),
        ("nobody is left, preferred", PREFERRED, &[("offline", 0), ("offline", 1)]),
        ("nobody is left, unclean", UNCLEAN, &[("offline", 0), ("offline", 1)]),
        ("there is a leader", UNCLEAN, &[("preferring", 0)]),
    ] {
        pair.same(case, elect(election, partitions), level_elected)?;
    }
    pair.same("all, preferred", elect_all(PREFERRED), level_elected)?;
    pair.same("all, unclean", elect_all(UNCLEAN), level_elected)
}

/// Reassignments to a stopped broker wait for it.
fn ongoing(pair: &mut Pair) -> anyhow::Result<()> {
    for version in pair.versions::<odradek_wire::AlterPartitionReassignmentsRequest>()? {
        let alter = |pair: &mut Pair, case: &str, to: &'static [To]| {
            let request = reassign_to(to, true)(version);
            pair.same_at(case, version, &request, &request, level_reassigned)?;
            pair.same(&format!("{case}, all"), list(None), level_ongoing)?;
            seen(pair, case)
        };
        alter(pair, "goes on", &[("moving", 0, Some(&[1, 3]))])?;
        let some: &[(&str, &[i32])] = &[("moving", &[0, 1]), ("ordered", &[0]), ("nowhere", &[0])];
        pair.same("goes on, some", list(Some(some)), level_ongoing)?;
        pair.same("goes on, others", list(Some(&[("ordered", &[0, 1])])), level_ongoing)?;
        alter(pair, "asked again", &[("moving", 0, Some(&[1, 3]))])?;
        alter(pair, "cancelled", &[("moving", 0, None)])?;
        alter(pair, "cancelled again", &[("moving", 0, None)])?;
        alter(pair, "one more", &[("moving", 0, Some(&[2, 1, 3]))])?;
        // Back by another reassignment is an end here; Apache Kafka then still adds and removes the stopped broker.
        alter(pair, "one more cancelled", &[("moving", 0, None)])?;
    }
    let request = reassign_to(&[("moving", 0, Some(&[1, 2, 3]))], false)(1);
    pair.same_at("one more is not allowed", 1, &request, &request, level_reassigned)
}

/// A partition whose only replica is stopped is to have another one, which has nothing yet.
fn unclean(pair: &mut Pair) -> anyhow::Result<()> {
    let request = reassign_to(&[("offline", 0, Some(&[3, 2])), ("offline", 1, Some(&[2]))], true)(1);
    pair.same_at("from nobody", 1, &request, &request, level_reassigned)?;
    seen(pair, "from nobody")?;
    pair.same("from nobody, all", list(None), level_ongoing)?;
    pair.same("preferred", elect(PREFERRED, &[("offline", 0), ("offline", 1)]), level_elected)?;
    pair.same("unclean", elect(UNCLEAN, &[("offline", 0), ("offline", 1)]), level_elected)?;
    seen(pair, "unclean")?;
    pair.same("unclean, all", list(None), level_ongoing)
}

fn unregister(pair: &mut Pair) -> anyhow::Result<()> {
    let request = |broker_id| UnregisterBrokerRequest { broker_id, ..Default::default() };
    pair.same("a stopped broker", |_| request(3), |_| ())?;
    pair.same("it is gone", |_| request(3), |_| ())?;
    let all =
        |v: i16| DescribeClusterRequest { include_fenced_brokers: v >= 2, endpoint_type: 1, ..Default::default() };
    let level = |answer: &mut odradek_wire::DescribeClusterResponse| {
        answer.controller_id = 0;
        answer.brokers.sort_by_key(|broker| broker.broker_id);
        answer.brokers.iter_mut().for_each(|broker| broker.port = 0);
    };
    pair.same_soon("without it", all, level)?;
    // Here it is eligible to lead no more, as what comes back under its number is another broker.
    let level = |answer: &mut DescribeTopicPartitionsResponse| {
        level_described(answer);
        for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.eligible_leader_replicas = None;
            partition.last_known_elr = None;
        }
    };
    pair.same_soon("without it, seen", |_| describe(), level)?;
    pair.same("to a broker that is gone", reassign_to(&[("moving", 0, Some(&[1, 3]))], true), level_reassigned)
}
