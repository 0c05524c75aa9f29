//! DescribeConfigs.

use odradek_tests::differential::Pair;
use odradek_wire::describe_configs_request::DescribeConfigsResource;
use odradek_wire::describe_configs_response::DescribeConfigsSynonym;
use odradek_wire::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::{DYNAMIC_DEFAULT, level_min_insync_replicas, prepare, topic, with_configs};

pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const BROKER_LOGGER: i8 = 8;
pub(super) const CLIENT_METRICS: i8 = 16;
pub(super) const GROUP: i8 = 32;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    let changed = [("retention.ms", "1000"), ("cleanup.policy", "compact"), ("min.insync.replicas", "2")];
    prepare(pair, vec![topic("set-by-default", 1, 1), with_configs(topic("set", 1, 1), &changed)])?;
    describe_topics(pair)?;
    describe_others(pair)
}

/// Apache Kafka's order is that of a hash table. Its documentation is its own.
pub(super) fn level(answer: &mut DescribeConfigsResponse) {
    answer.results.sort_by_key(|result| (result.resource_type, result.resource_name.clone()));
    for result in &mut answer.results {
        // Apache Kafka sends an empty text with success.
        result.error_message = result.error_message.take().filter(|message| !message.is_empty());
        if result.resource_type == BROKER && result.resource_name.is_empty() {
            // See `level_min_insync_replicas`.
            result.configs.retain(|config| config.name != *"min.insync.replicas");
        }
        result.configs.sort_by(|a, b| a.name.cmp(&b.name));
        for config in &mut result.configs {
            config.documentation = None;
            let dynamic = |synonym: &DescribeConfigsSynonym| {
                synonym.name == *"min.insync.replicas" && synonym.source == DYNAMIC_DEFAULT
            };
            config.synonyms.retain(|synonym| !dynamic(synonym));
        }
        level_min_insync_replicas(
            result.configs.iter_mut().map(|config| (config.name.as_str(), &mut config.config_source)),
        );
    }
}

/// Where the texts say the same in other words: Apache Kafka's of an unknown kind of resource is the general one of a bad
/// request.
fn level_texts(answer: &mut DescribeConfigsResponse) {
    level(answer);
    answer.results.iter_mut().for_each(|result| result.error_message = None);
}

pub(super) fn ask(
    resources: &'static [(i8, &'static str)],
    keys: Option<&'static [&'static str]>,
    include_synonyms: bool,
) -> impl Fn(i16) -> DescribeConfigsRequest {
    move |_| {
        let resource = |(resource_type, name): &(i8, &str)| DescribeConfigsResource {
            resource_type: *resource_type,
            resource_name: (*name).into(),
            configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).into()).collect()),
            ..Default::default()
        };
        DescribeConfigsRequest {
            resources: resources.iter().map(resource).collect(),
            include_synonyms,
            ..Default::default()
        }
    }
}

fn describe_topics(pair: &mut Pair) -> anyhow::Result<()> {
    pair.same("a topic", ask(&[(TOPIC, "set-by-default")], None, false), level)?;
    pair.same("its synonyms", ask(&[(TOPIC, "set-by-default")], None, true), level)?;
    pair.same("a topic with configs", ask(&[(TOPIC, "set")], None, true), level)?;
    let keys: &[&str] = &["retention.ms", "min.insync.replicas", "no.such.config"];
    pair.same("some configs", ask(&[(TOPIC, "set")], Some(keys), true), level)?;
    pair.same("no configs", ask(&[(TOPIC, "set")], Some(&[]), true), level)?;
    pair.same("two topics", ask(&[(TOPIC, "set"), (TOPIC, "set-by-default")], Some(keys), false), level)?;
    pair.same("a topic twice", ask(&[(TOPIC, "set"), (TOPIC, "set")], Some(keys), false), level)?;
    pair.same("an unknown topic", ask(&[(TOPIC, "not-set")], None, true), level)?;
    pair.same("a wrong name", ask(&[(TOPIC, "wrong/name")], None, true), level_texts)?;
    pair.same("an empty name", ask(&[(TOPIC, "")], None, true), level_texts)?;
    pair.same("nothing", ask(&[], None, true), level)
}

fn describe_others(pair: &mut Pair) -> anyhow::Result<()> {
    pair.same("a broker", ask(&[(BROKER, "1")], Some(BROKER_CONFIGS), true), level)?;
    pair.same("a broker by default", ask(&[(BROKER, "")], None, true), level)?;
    pair.same("another broker", ask(&[(BROKER, "2")], None, true), level)?;
    pair.same("a broker without number", ask(&[(BROKER, "one")], None, true), level)?;
    pair.same("another broker's loggers", ask(&[(BROKER_LOGGER, "2")], None, true), level_texts)?;
    pair.same("loggers without a broker", ask(&[(BROKER_LOGGER, "")], None, true), level)?;
    pair.same("loggers without number", ask(&[(BROKER_LOGGER, "one")], None, true), level)?;
    pair.same("an unknown resource", ask(&[(3, "1")], None, true), level_texts)?;
    pair.same("a resource without a kind", ask(&[(0, "")], None, true), level_texts)?;
    pair.same("client metrics without name", ask(&[(CLIENT_METRICS, "")], None, true), level)?;
    pair.same("a group", ask(&[(GROUP, "some-group")], None, true), level)?;
    pair.same("a group without name", ask(&[(GROUP, "")], None, true), level)
}

/// Those that neither the machine nor the way a node is started decides.
const BROKER_CONFIGS: &[&str] = &[
    "auto.create.topics.enable",
    "background.threads",
    "broker.rack",
    "compression.type",
    "default.replication.factor",
    "delete.topic.enable",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.retention.bytes",
    "log.retention.hours",
    "log.retention.minutes",
    "log.retention.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "message.max.bytes",
    "min.insync.replicas",
    "node.id",
    "no.such.config",
    "num.io.threads",
    "num.partitions",
    "replica.lag.time.max.ms",
    "socket.request.max.bytes",
    "unclean.leader.election.enable",
];
