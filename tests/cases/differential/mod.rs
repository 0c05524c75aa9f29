//! The same requests to Apache Kafka and to a cluster of ours, a file for each family of APIs.
//!
//! One node of each serves all families, one family after the other in the order of [`FAMILIES`], since a start of Apache
//! Kafka costs more than all the questions. Each family makes topics of its own name. Every case is asked at every
//! version that both serve, and its answers are compared field by field; what a case levels first is what may differ,
//! and says why. `ODRADEK_DIFFERENTIAL=topics,metadata` runs these families alone; those of groups need `groups` before
//! them, which finds them a coordinator.

mod administration;
mod alter_configs;
mod batches;
mod cluster;
mod configs;
mod consumer_groups;
mod fetch;
mod group_admin;
mod group_members;
mod group_offsets;
mod groups;
mod leaders;
mod metadata;
mod offsets;
mod produce;
mod records;
mod three_brokers;
mod topics;
mod transactions;

use std::time::Duration;

use odradek_tests::differential::Pair;
use odradek_tests::kafka::{Node, Tools};
use odradek_tests::{Spec, wait_for};
use odradek_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use odradek_wire::create_topics_response::CreatableTopicResult;
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{CreateTopicsRequest, ListOffsetsRequest, ProduceRequest, Records};
use topics::level_created;

/// What runs the cases of one file.
type Family = fn(&mut Pair) -> anyhow::Result<()>;

const FAMILIES: &[(&str, Family)] = &[
    ("cluster", cluster::compare),
    ("topics", topics::compare),
    ("metadata", metadata::compare),
    ("configs", configs::compare),
    ("produce", produce::compare),
    ("batches", batches::compare),
    ("fetch", fetch::compare),
    ("offsets", offsets::compare),
    ("groups", groups::compare),
    ("group-members", group_members::compare),
    ("group-offsets", group_offsets::compare),
    ("group-admin", group_admin::compare),
    ("consumer-groups", consumer_groups::compare),
    ("transactions", transactions::compare),
    ("alter-configs", alter_configs::compare),
    ("administration", administration::compare),
    ("records", records::compare),
    ("leaders", leaders::compare),
];

/// What both are told of groups, so that none is waited for long.
fn group_properties() -> [(&'static str, String); 4] {
    [
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("group.min.session.timeout.ms", groups::SESSION_MS_MIN.to_string()),
        ("group.max.size", groups::SIZE_MAX.to_string()),
        ("group.consumer.assignment.interval.ms", "0".to_owned()),
    ]
}

/// As many of Apache Kafka's last words are shown when its answers were others.
const KAFKA_LOG_LINES: usize = 40;

#[test]
fn answers_are_kafkas() {
    let Some(tools) = Tools::new() else { return };
    let wanted = std::env::var("ODRADEK_DIFFERENTIAL").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    let groups = group_properties();
    let spec = Spec::new(1, 1)
        .set("offsets.topic.replication.factor", 1)
        .set("transaction.state.log.replication.factor", 1)
        .set("transaction.state.log.min.isr", 1);
    let spec = groups.iter().fold(spec, |spec, (name, value)| spec.set(name, value));
    spec.run(|cluster| {
        let properties = groups.each_ref().map(|(name, value)| (*name, value.as_str()));
        let kafka = Node::start(&tools, &properties)?;
        let mut pair = Pair::open(&kafka, cluster)?;
        for (name, family) in FAMILIES.iter().filter(|(name, _)| is_wanted(name)) {
            let before = (pair.compared, pair.different());
            if let Err(error) = family(&mut pair) {
                pair.fail(name, &error);
            }
            let (compared, different) = (pair.compared - before.0, pair.different() - before.1);
            eprintln!("{name}: {compared} answers compared, {different} differ");
        }
        finish(pair, &kafka)
    });
}

/// What differed; then Apache Kafka's last words are shown, too.
fn finish(pair: Pair, kafka: &Node) -> anyhow::Result<()> {
    let told = std::fs::read_to_string(kafka.log()).unwrap_or_default();
    let result = pair.finish();
    if result.is_err() {
        let lines: Vec<&str> = told.lines().collect();
        eprintln!("---- Apache Kafka\n{}", lines[lines.len().saturating_sub(KAFKA_LOG_LINES)..].join("\n"));
    }
    result
}

fn topic(name: &str, partitions: i32, replication: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replication,
        ..Default::default()
    }
}

fn with_configs(topic: CreatableTopic, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    };
    CreatableTopic { configs: configs.iter().map(config).collect(), ..topic }
}

fn create(topics: Vec<CreatableTopic>, validate_only: bool) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 10_000, validate_only, ..Default::default() }
}

/// Makes topics on both sides.
fn prepare(pair: &mut Pair, topics: Vec<CreatableTopic>) -> anyhow::Result<()> {
    let (theirs, ours) = pair.both(7, &create(topics, false))?;
    for topic in theirs.topics.iter().chain(&ours.topics) {
        let name = topic.name.as_str();
        anyhow::ensure!(topic.error_code == 0, "{name}: {} {:?}", topic.error_code, topic.error_message);
    }
    // Apache Kafka answers before its broker leads the new partitions.
    let last = |topic: &CreatableTopicResult| ListOffsetsTopic {
        name: topic.name.clone(),
        partitions: (0..topic.num_partitions)
            .map(|partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() })
            .collect(),
        ..Default::default()
    };
    let request =
        ListOffsetsRequest { replica_id: -1, topics: theirs.topics.iter().map(last).collect(), ..Default::default() };
    wait_for("the topics are led", Duration::from_secs(60), || {
        let answers = pair.both(5, &request)?;
        let mut all = answers.0.topics.iter().chain(&answers.1.topics).flat_map(|topic| &topic.partitions);
        Ok(all.all(|partition| partition.error_code == 0).then_some(()))
    })
}

/// A Produce of one partition's records by the topic's name, as it was up to version 12.
fn produce_to(topic: &str, partition: i32, records: Vec<u8>, acks: i16) -> ProduceRequest {
    let data =
        PartitionProduceData { index: partition, records: Some(Records::Bytes(records.into())), ..Default::default() };
    ProduceRequest {
        acks,
        timeout_ms: 5_000,
        topic_data: vec![TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() }],
        transactional_id: None,
        ..Default::default()
    }
}

/// Where a config's value comes from, as CreateTopics and DescribeConfigs number it.
const DYNAMIC_DEFAULT: i8 = 3;
const DEFAULT: i8 = 5;

/// Apache Kafka writes `min.insync.replicas` down as a dynamic default when a cluster is formatted with eligible leader
/// replicas; here the default stays one of the program.
fn level_min_insync_replicas<'a>(configs: impl Iterator<Item = (&'a str, &'a mut i8)>) {
    for (_, source) in configs.filter(|(name, source)| *name == "min.insync.replicas" && **source == DYNAMIC_DEFAULT) {
        *source = DEFAULT;
    }
}
