//! ElectLeaders, AlterPartitionReassignments and ListPartitionReassignments, as far as one broker goes. With more of them
//! see `three_brokers`.

use odradek_tests::differential::Pair;
use odradek_wire::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use odradek_wire::elect_leaders_request::TopicPartitions;
use odradek_wire::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use odradek_wire::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ElectLeadersRequest, ElectLeadersResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use super::{prepare, topic};

pub const PREFERRED: i8 = 0;
pub const UNCLEAN: i8 = 1;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("led", 2, 1)])?;
    elect_leaders(pair)?;
    reassign(pair)
}

/// A partition by topic and index.
pub type At = (&'static str, i32);

/// Apache Kafka's order is that of a hash table.
pub fn level_elected(answer: &mut ElectLeadersResponse) {
    answer.replica_election_results.sort_by(|a, b| a.topic.cmp(&b.topic));
    answer.replica_election_results.iter_mut().for_each(|one| one.partition_result.sort_by_key(|one| one.partition_id));
}

/// An election in these partitions. The first version only knows preferred leaders.
pub fn elect(election_type: i8, partitions: &'static [At]) -> impl Fn(i16) -> ElectLeadersRequest {
    move |v| {
        let topic = |(topic, index): &At| TopicPartitions {
            topic: (*topic).into(),
            partitions: vec![*index],
            ..Default::default()
        };
        ElectLeadersRequest {
            election_type: if v >= 1 { election_type } else { PREFERRED },
            topic_partitions: Some(partitions.iter().map(topic).collect()),
            timeout_ms: 10_000,
            ..Default::default()
        }
    }
}

/// An election in all partitions.
pub fn elect_all(election_type: i8) -> impl Fn(i16) -> ElectLeadersRequest {
    move |v| ElectLeadersRequest {
        election_type: if v >= 1 { election_type } else { PREFERRED },
        topic_partitions: None,
        timeout_ms: 10_000,
        ..Default::default()
    }
}

fn elect_leaders(pair: &mut Pair) -> anyhow::Result<()> {
    for election in [PREFERRED, UNCLEAN] {
        let case = |what: &str| format!("{what}, {}", if election == PREFERRED { "preferred" } else { "unclean" });
        pair.same(&case("not needed"), elect(election, &[("led", 0), ("led", 1)]), level_elected)?;
        pair.same(&case("an unknown topic"), elect(election, &[("led-nowhere", 0)]), level_elected)?;
        pair.same(&case("an unknown partition"), elect(election, &[("led", 2)]), level_elected)?;
        pair.same(&case("a negative partition"), elect(election, &[("led", -1)]), level_elected)?;
        pair.same(&case("a wrong name"), elect(election, &[("wrong/name", 0)]), level_elected)?;
        let some: &[At] = &[("led", 0), ("led", 7), ("led-nowhere", 1)];
        pair.same(&case("some of several"), elect(election, some), level_elected)?;
        pair.same(&case("a partition twice"), elect(election, &[("led", 0), ("led", 0)]), level_elected)?;
        pair.same(&case("no partitions"), elect(election, &[]), level_elected)?;
        // Of the topics of other families each side has its own.
        let level = |answer: &mut ElectLeadersResponse| {
            answer.replica_election_results.retain(|one| !one.partition_result.is_empty());
            level_elected(answer);
        };
        pair.same(&case("all"), elect_all(election), level)?;
    }
    pair.same("an unknown kind", elect(2, &[("led", 0)]), level_elected)?;
    pair.same("a negative kind", elect(-1, &[("led", 0)]), level_elected)
}

/// Apache Kafka answers in the order of the request.
pub fn level_reassigned(_answer: &mut AlterPartitionReassignmentsResponse) {}

/// Where a partition shall be; without replicas: a cancellation.
pub type To = (&'static str, i32, Option<&'static [i32]>);

pub fn reassign_to(
    partitions: &'static [To],
    allow_replication_factor_change: bool,
) -> impl Fn(i16) -> AlterPartitionReassignmentsRequest {
    move |v| {
        let topic = |(name, partition_index, replicas): &To| {
            let partition = ReassignablePartition {
                partition_index: *partition_index,
                replicas: replicas.map(<[i32]>::to_vec),
                ..Default::default()
            };
            ReassignableTopic { name: (*name).into(), partitions: vec![partition], ..Default::default() }
        };
        AlterPartitionReassignmentsRequest {
            timeout_ms: 10_000,
            allow_replication_factor_change: v < 1 || allow_replication_factor_change,
            topics: partitions.iter().map(topic).collect(),
            ..Default::default()
        }
    }
}

pub fn level_ongoing(answer: &mut ListPartitionReassignmentsResponse) {
    answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
    answer.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|one| one.partition_index));
}

pub fn list(
    topics: Option<&'static [(&'static str, &'static [i32])]>,
) -> impl Fn(i16) -> ListPartitionReassignmentsRequest {
    move |_| {
        let topic = |(name, indexes): &(&'static str, &'static [i32])| ListPartitionReassignmentsTopics {
            name: (*name).into(),
            partition_indexes: indexes.to_vec(),
            ..Default::default()
        };
        ListPartitionReassignmentsRequest {
            timeout_ms: 10_000,
            topics: topics.map(|topics| topics.iter().map(topic).collect()),
            ..Default::default()
        }
    }
}

fn reassign(pair: &mut Pair) -> anyhow::Result<()> {
    for allowed in [true, false] {
        let case = |what: &str| format!("{what}{}", if allowed { "" } else { ", the replication factor fixed" });
        for (what, partitions) in REASSIGNMENTS {
            pair.same(&case(what), reassign_to(partitions, allowed), level_reassigned)?;
        }
    }
    pair.same("none", list(None), level_ongoing)?;
    pair.same("none of a topic", list(Some(&[("led", &[0, 1])])), level_ongoing)?;
    pair.same("none of an unknown topic", list(Some(&[("led-nowhere", &[0])])), level_ongoing)?;
    pair.same("none of an unknown partition", list(Some(&[("led", &[7])])), level_ongoing)?;
    pair.same("none of no topics", list(Some(&[])), level_ongoing)
}

const REASSIGNMENTS: &[(&str, &[To])] = &[
    ("where it is", &[("led", 0, Some(&[1]))]),
    ("an unknown broker", &[("led", 0, Some(&[2]))]),
    ("an unknown broker among others", &[("led", 0, Some(&[1, 2]))]),
    ("a negative broker", &[("led", 0, Some(&[-1]))]),
    ("a broker twice", &[("led", 0, Some(&[1, 1]))]),
    ("nobody", &[("led", 0, Some(&[]))]),
    ("an unknown topic", &[("led-nowhere", 0, Some(&[1]))]),
    ("a wrong name", &[("wrong/name", 0, Some(&[1]))]),
    ("an unknown partition", &[("led", 2, Some(&[1]))]),
    ("a negative partition", &[("led", -1, Some(&[1]))]),
    ("nothing to cancel", &[("led", 0, None)]),
    ("nothing to cancel in an unknown topic", &[("led-nowhere", 0, None)]),
    ("nothing to cancel in an unknown partition", &[("led", 2, None)]),
    ("some of several", &[("led", 0, Some(&[1])), ("led", 1, Some(&[7])), ("led-nowhere", 0, None)]),
    ("a partition twice", &[("led", 0, Some(&[1])), ("led", 0, Some(&[2]))]),
    ("no partitions", &[]),
];
