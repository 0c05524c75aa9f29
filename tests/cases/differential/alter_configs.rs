//! AlterConfigs and IncrementalAlterConfigs, and what DescribeConfigs tells afterwards.
//!
//! Whatever is set here is taken back at the end, as the other families find a broker that nobody has configured.

use odradek_tests::differential::Pair;
use odradek_wire::incremental_alter_configs_request::AlterableConfig;
use odradek_wire::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    alter_configs_request, incremental_alter_configs_request,
};

use super::configs::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC, ask, level as level_described};
use super::{prepare, topic, with_configs};

pub(super) const SET: i8 = 0;
pub(super) const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    let kept = [("retention.ms", "1000"), ("cleanup.policy", "compact")];
    prepare(
        pair,
        vec![
            topic("altered", 1, 1),
            with_configs(topic("altered-whole", 1, 1), &kept),
            with_configs(topic("altered-list", 1, 1), &kept),
        ],
    )?;
    topics(pair)?;
    lists(pair)?;
    malformed(pair)?;
    brokers(pair)?;
    loggers(pair)?;
    groups(pair)?;
    client_metrics(pair)?;
    replaced(pair)
}

/// Apache Kafka answers in the order of a hash table, and sends an empty text with success.
fn level(answer: &mut IncrementalAlterConfigsResponse) {
    answer.responses.sort_by_key(|one| (one.resource_type, one.resource_name.clone()));
    for one in &mut answer.responses {
        one.error_message = one.error_message.take().filter(|message| !message.is_empty());
    }
}

/// Apache Kafka's texts have traces of the Java and Scala in which it refuses: what is required, what is thrown, how a list
/// is printed.
fn level_traces(answer: &mut IncrementalAlterConfigsResponse) {
    level(answer);
    for message in answer.responses.iter_mut().filter_map(|one| one.error_message.as_mut()) {
        let told = message.replace("requirement failed: ", "").replace("[nonsense]", "nonsense");
        let told = told.replace("Invalid value org.apache.kafka.common.config.ConfigException: ", "");
        *message = told.replace(" for configuration Invalid dynamic configuration", "").as_str().into();
    }
}

/// An operation that nobody knows is an unknown server error in Apache Kafka (of a null pointer), and the text says so.
fn level_operation(answer: &mut IncrementalAlterConfigsResponse) {
    level_texts(answer);
    for one in answer.responses.iter_mut().filter(|one| one.error_code == UNKNOWN_SERVER_ERROR) {
        one.error_code = INVALID_REQUEST;
    }
}

const UNKNOWN_SERVER_ERROR: i16 = -1;
const INVALID_REQUEST: i16 = 42;

/// Where the texts say the same in other words.
fn level_texts(answer: &mut IncrementalAlterConfigsResponse) {
    level(answer);
    answer.responses.iter_mut().for_each(|one| one.error_message = None);
}

fn level_replaced(answer: &mut AlterConfigsResponse) {
    answer.responses.sort_by_key(|one| (one.resource_type, one.resource_name.clone()));
    for one in &mut answer.responses {
        one.error_message = one.error_message.take().filter(|message| !message.is_empty());
    }
}

fn level_replaced_texts(answer: &mut AlterConfigsResponse) {
    level_replaced(answer);
    answer.responses.iter_mut().for_each(|one| one.error_message = None);
}

/// Operation, name, value.
pub(super) type Operation = (i8, &'static str, Option<&'static str>);

pub(super) fn resource(
    kind: i8,
    name: &str,
    operations: &[Operation],
) -> incremental_alter_configs_request::AlterConfigsResource {
    let config = |(operation, name, value): &Operation| AlterableConfig {
        name: (*name).into(),
        config_operation: *operation,
        value: value.map(Into::into),
        ..Default::default()
    };
    incremental_alter_configs_request::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: operations.iter().map(config).collect(),
        ..Default::default()
    }
}

pub(super) fn change(
    resources: Vec<incremental_alter_configs_request::AlterConfigsResource>,
    validate_only: bool,
) -> IncrementalAlterConfigsRequest {
    IncrementalAlterConfigsRequest { resources, validate_only, ..Default::default() }
}

/// One resource's change.
fn one(
    kind: i8,
    name: &'static str,
    operations: &'static [Operation],
) -> impl Fn(i16) -> IncrementalAlterConfigsRequest {
    move |_| change(vec![resource(kind, name, operations)], false)
}

fn only_validated(
    kind: i8,
    name: &'static str,
    operations: &'static [Operation],
) -> impl Fn(i16) -> IncrementalAlterConfigsRequest {
    move |_| change(vec![resource(kind, name, operations)], true)
}

/// All configs that a resource shall have.
fn whole(
    kind: i8,
    name: &'static str,
    configs: &'static [(&'static str, Option<&'static str>)],
    validate_only: bool,
) -> impl Fn(i16) -> AlterConfigsRequest {
    move |_| {
        let config = |(name, value): &(&str, Option<&'static str>)| alter_configs_request::AlterableConfig {
            name: (*name).into(),
            value: value.map(Into::into),
            ..Default::default()
        };
        let resource = alter_configs_request::AlterConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        AlterConfigsRequest { resources: vec![resource], validate_only, ..Default::default() }
    }
}

fn topics(pair: &mut Pair) -> anyhow::Result<()> {
    let described = ask(&[(TOPIC, "altered")], None, true);
    pair.same("set", one(TOPIC, "altered", &[(SET, "retention.ms", Some("5000"))]), level)?;
    pair.same_soon("set, seen", &described, level_described)?;
    pair.same("set again", one(TOPIC, "altered", &[(SET, "retention.ms", Some("5000"))]), level)?;
    let several: &[Operation] =
        &[(SET, "retention.ms", Some(" 7000 ")), (SET, "segment.bytes", Some("2097152")), (DELETE, "flush.ms", None)];
    pair.same("several", one(TOPIC, "altered", several), level)?;
    pair.same_soon("several, seen", &described, level_described)?;
    let spelt: &[Operation] = &[
        (SET, "preallocate", Some("TRUE")),
        (SET, "min.cleanable.dirty.ratio", Some(" 0.250")),
        (SET, "cleanup.policy", Some(" compact , delete ")),
        (SET, "compression.type", Some(" zstd ")),
        (SET, "max.message.bytes", Some("+5000")),
    ];
    pair.same("spelt in another way", one(TOPIC, "altered", spelt), level)?;
    pair.same_soon("spelt in another way, seen", &described, level_described)?;
    pair.same("only validated", only_validated(TOPIC, "altered", &[(SET, "retention.ms", Some("9"))]), level)?;
    pair.same("only validated, wrong", only_validated(TOPIC, "altered", &[(SET, "retention.ms", Some("x"))]), level)?;
    pair.same_soon("only validated, seen", &described, level_described)?;
    pair.same("nothing of a topic", one(TOPIC, "altered", &[]), level)?;
    pair.same("unset", one(TOPIC, "altered", &[(DELETE, "retention.ms", None)]), level)?;
    pair.same("unset with a value", one(TOPIC, "altered", &[(DELETE, "segment.bytes", Some("1"))]), level)?;
    pair.same_soon("unset, seen", &described, level_described)?;
    for (at, (name, value)) in WRONG_OF_TOPICS.iter().enumerate() {
        let request = |_| {
            let mut request = change(vec![resource(TOPIC, "altered", &[])], false);
            let config = AlterableConfig { name: (*name).into(), value: Some((*value).into()), ..Default::default() };
            request.resources[0].configs.push(config);
            request
        };
        pair.same(&format!("wrong {at}, {name}={value}"), request, level_traces)?;
    }
    let partly: &[Operation] = &[(SET, "retention.ms", Some("100")), (SET, "segment.bytes", Some("x"))];
    pair.same("a right one and a wrong one", one(TOPIC, "altered", partly), level)?;
    pair.same("unset what is unknown", one(TOPIC, "altered", &[(DELETE, "no.such.config", None)]), level)?;
    pair.same_soon("nothing of what was refused", &described, level_described)?;
    pair.same("an unknown topic", one(TOPIC, "not-altered", &[(SET, "retention.ms", Some("1"))]), level)?;
    pair.same("an unknown topic, wrong", one(TOPIC, "not-altered", &[(SET, "retention.ms", Some("x"))]), level)?;
    pair.same("no name", one(TOPIC, "", &[(SET, "retention.ms", Some("1"))]), level)?;
    pair.same("a wrong name", one(TOPIC, "wrong/name", &[(SET, "retention.ms", Some("1"))]), level)
}

const WRONG_OF_TOPICS: &[(&str, &str)] = &[
    ("no.such.config", "1"),
    ("retention.ms", "soon"),
    ("retention.ms", "-2"),
    ("segment.bytes", "3"),
    ("cleanup.policy", "forget"),
    ("cleanup.policy", "delete,forget"),
    ("cleanup.policy", "delete,,compact"),
    ("cleanup.policy", "delete,delete"),
    ("compression.type", "brotli"),
    ("min.insync.replicas", "0"),
    ("leader.replication.throttled.replicas", "nonsense"),
    ("remote.storage.enable", "true"),
    ("unclean.leader.election.enable", "yes"),
];

fn lists(pair: &mut Pair) -> anyhow::Result<()> {
    let described = ask(&[(TOPIC, "altered-list")], Some(&["cleanup.policy", THROTTLED, "retention.ms"]), true);
    for (case, operations) in [
        ("append", &[(APPEND, "cleanup.policy", Some("delete"))] as &[Operation]),
        ("append what is there", &[(APPEND, "cleanup.policy", Some("compact"))]),
        ("subtract", &[(SUBTRACT, "cleanup.policy", Some("compact"))]),
        ("subtract what is not there", &[(SUBTRACT, "cleanup.policy", Some("compact"))]),
        ("append to an empty list", &[(APPEND, THROTTLED, Some("0:1"))]),
        ("append two", &[(APPEND, THROTTLED, Some("1:1,2:1"))]),
        ("subtract two", &[(SUBTRACT, THROTTLED, Some("0:1,2:1"))]),
        ("subtract the last", &[(SUBTRACT, THROTTLED, Some("1:1"))]),
        ("subtract from what is not set", &[(DELETE, "cleanup.policy", None)]),
        ("append to the default", &[(APPEND, "cleanup.policy", Some("compact"))]),
        ("append nonsense", &[(APPEND, "cleanup.policy", Some("forget"))]),
        ("append to a number", &[(APPEND, "retention.ms", Some("1"))]),
        ("subtract from a number", &[(SUBTRACT, "retention.ms", Some("1"))]),
        ("append to an unknown config", &[(APPEND, "no.such.config", Some("1"))]),
        ("append nothing", &[(APPEND, "cleanup.policy", Some(""))]),
    ] {
        pair.same(case, one(TOPIC, "altered-list", operations), level)?;
        pair.same_soon(&format!("{case}, seen"), &described, level_described)?;
    }
    Ok(())
}

const THROTTLED: &str = "leader.replication.throttled.replicas";

fn malformed(pair: &mut Pair) -> anyhow::Result<()> {
    pair.same("no resources", |_| change(Vec::new(), false), level)?;
    let twice: &[Operation] = &[(SET, "retention.ms", Some("1")), (DELETE, "retention.ms", None)];
    pair.same("a config twice", one(TOPIC, "altered", twice), level)?;
    pair.same("no value", one(TOPIC, "altered", &[(SET, "retention.ms", None)]), level)?;
    pair.same("appended no value", one(TOPIC, "altered", &[(APPEND, "cleanup.policy", None)]), level)?;
    pair.same("an unknown operation", one(TOPIC, "altered", &[(4, "retention.ms", Some("1"))]), level_operation)?;
    pair.same("a negative operation", one(TOPIC, "altered", &[(-1, "retention.ms", Some("1"))]), level_operation)?;
    let set: &[Operation] = &[(SET, "retention.ms", Some("1"))];
    for kind in [0, 1, 3, 64, -1] {
        pair.same(&format!("resource {kind}"), |_| change(vec![resource(kind, "x", set)], false), level_texts)?;
    }
    let repeated = |_| change(vec![resource(TOPIC, "altered", set), resource(TOPIC, "altered", set)], false);
    pair.same("a resource twice", repeated, level)?;
    let mixed = |_| {
        let resources = vec![
            resource(TOPIC, "altered", &[(SET, "retention.ms", Some("2000"))]),
            resource(TOPIC, "not-altered", set),
            resource(TOPIC, "altered-whole", &[(SET, "retention.ms", Some("x"))]),
            resource(BROKER, "7", set),
            resource(GROUP, "", set),
        ];
        change(resources, false)
    };
    pair.same("some of several", mixed, level)?;
    pair.same_soon("some of several, seen", ask(&[(TOPIC, "altered")], Some(&["retention.ms"]), true), level_described)
}

fn brokers(pair: &mut Pair) -> anyhow::Result<()> {
    let seen: &[&str] = &[
        "log.retention.ms",
        "log.retention.minutes",
        "log.retention.hours",
        "message.max.bytes",
        "max.connections",
        "log.cleanup.policy",
        "leader.replication.throttled.rate",
        "log.segment.bytes",
        "compression.type",
    ];
    let own = ask(&[(BROKER, "1")], Some(seen), true);
    let all = ask(&[(BROKER, "")], None, true);
    let beneath = ask(&[(TOPIC, "altered")], Some(&["retention.ms", "max.message.bytes", "cleanup.policy"]), true);
    for (case, name, operations) in [
        ("set for all", "", &[(SET, "log.retention.ms", Some("50000"))] as &[Operation]),
        ("set on one", "1", &[(SET, "log.retention.ms", Some(" 60000 ")), (SET, "message.max.bytes", Some("2000000"))]),
        ("set more for all", "", &[(SET, "message.max.bytes", Some("3000000")), (SET, "max.connections", Some("900"))]),
        ("set a throttle", "1", &[(SET, "leader.replication.throttled.rate", Some("1000000"))]),
        ("append to the default", "", &[(APPEND, "log.cleanup.policy", Some("compact"))]),
        ("subtract", "", &[(SUBTRACT, "log.cleanup.policy", Some("delete"))]),
        ("unset on one", "1", &[(DELETE, "log.retention.ms", None), (DELETE, "message.max.bytes", None)]),
        ("unset a throttle", "1", &[(DELETE, "leader.replication.throttled.rate", None)]),
        ("unset for all", "", &[(DELETE, "log.retention.ms", None), (DELETE, "log.cleanup.policy", None)]),
        ("unset more for all", "", &[(DELETE, "message.max.bytes", None), (DELETE, "max.connections", None)]),
        ("unset what is not set", "1", &[(DELETE, "log.retention.ms", None)]),
    ] {
        pair.same(case, one(BROKER, name, operations), level)?;
        pair.same_soon(&format!("{case}, one seen"), &own, level_described)?;
        pair.same_soon(&format!("{case}, all seen"), &all, level_described)?;
        pair.same_soon(&format!("{case}, a topic's synonyms"), &beneath, level_described)?;
    }
    for (name, operations) in WRONG_OF_BROKERS {
        let request = |_| change(vec![resource(BROKER, name, operations)], false);
        pair.same(&format!("wrong of {name:?}: {operations:?}"), request, level_traces)?;
        let request = |_| change(vec![resource(BROKER, name, operations)], true);
        pair.same(&format!("wrong of {name:?}, only validated: {operations:?}"), request, level_traces)?;
    }
    // A plugin's config, as far as a broker knows.
    pair.same("an unknown config", one(BROKER, "1", &[(SET, "no.such.config", Some("1"))]), level)?;
    pair.same_soon("an unknown config, seen", ask(&[(BROKER, "1")], Some(&["no.such.config"]), true), level_described)?;
    pair.same("the unknown config unset", one(BROKER, "1", &[(DELETE, "no.such.config", None)]), level)?;
    pair.same("only validated", only_validated(BROKER, "", &[(SET, "max.connections", Some("800"))]), level)?;
    pair.same_soon("nothing of what was refused", &own, level_described)?;
    pair.same_soon("nothing of what was refused for all", &all, level_described)
}

const WRONG_OF_BROKERS: &[(&str, &[Operation])] = &[
    ("1", &[(SET, "log.dirs", Some("/elsewhere"))]),
    ("1", &[(SET, "node.id", Some("2"))]),
    ("", &[(SET, "log.retention.hours", Some("1"))]),
    ("", &[(SET, "num.partitions", Some("3"))]),
    ("1", &[(DELETE, "num.partitions", None)]),
    ("1", &[(SET, "log.retention.ms", Some("soon"))]),
    ("1", &[(SET, "log.retention.ms", Some("0"))]),
    ("1", &[(SET, "log.segment.bytes", Some("5"))]),
    ("1", &[(SET, "message.max.bytes", Some("-1"))]),
    ("", &[(SET, "compression.type", Some("brotli"))]),
    ("", &[(SET, "log.cleanup.policy", Some("forget"))]),
    ("", &[(SET, "sasl.enabled.mechanisms", Some("PLAIN"))]),
    ("1", &[(SET, "ssl.keystore.location", Some("/elsewhere"))]),
    ("1", &[(SET, "num.io.threads", Some("100"))]),
    ("1", &[(SET, "num.io.threads", Some("1"))]),
    ("1", &[(SET, "leader.replication.throttled.rate", Some("-1"))]),
    ("1", &[(SET, "max.connections.per.ip", Some("x"))]),
    ("1", &[(SET, "min.insync.replicas", Some("2"))]),
    ("", &[(DELETE, "min.insync.replicas", None)]),
    ("1", &[(APPEND, "message.max.bytes", Some("1"))]),
    ("1", &[(SUBTRACT, "no.such.config", Some("1"))]),
    ("1", &[(SET, "message.max.bytes", None)]),
    ("1", &[(SET, "message.max.bytes", Some("1")), (DELETE, "message.max.bytes", None)]),
    ("2", &[(SET, "message.max.bytes", Some("1"))]),
    ("-1", &[(SET, "message.max.bytes", Some("1"))]),
    ("one", &[(SET, "message.max.bytes", Some("1"))]),
];

/// Loggers are modules, of which each side has its own; `root` is the one that both have.
fn loggers(pair: &mut Pair) -> anyhow::Result<()> {
    let root = ask(&[(BROKER_LOGGER, "1")], Some(&["root"]), true);
    for (case, name, operations) in [
        ("set", "1", &[(SET, "root", Some("ERROR"))] as &[Operation]),
        ("set, only a name", "1", &[(SET, "root", Some("WARN"))]),
        ("an unknown level", "1", &[(SET, "root", Some("LOUD"))]),
        ("a level in small letters", "1", &[(SET, "root", Some("error"))]),
        ("an unknown logger", "1", &[(SET, "no.such.logger", Some("INFO"))]),
        ("unset root", "1", &[(DELETE, "root", None)]),
        ("unset an unknown logger", "1", &[(DELETE, "no.such.logger", None)]),
        ("append", "1", &[(APPEND, "root", Some("INFO"))]),
        ("subtract", "1", &[(SUBTRACT, "root", Some("INFO"))]),
        ("no value", "1", &[(SET, "root", None)]),
        ("another broker", "2", &[(SET, "root", Some("INFO"))]),
        ("no broker", "", &[(SET, "root", Some("INFO"))]),
        ("a broker without number", "one", &[(SET, "root", Some("INFO"))]),
        ("two, one of them wrong", "1", &[(SET, "root", Some("ERROR")), (SET, "no.such.logger", Some("INFO"))]),
    ] {
        pair.same(&format!("logger: {case}"), one(BROKER_LOGGER, name, operations), level)?;
        pair.same(&format!("logger: {case}, only validated"), only_validated(BROKER_LOGGER, name, operations), level)?;
        pair.same_soon(&format!("logger: {case}, seen"), &root, level_described)?;
    }
    pair.same("loggers replaced", whole(BROKER_LOGGER, "1", &[("root", Some("INFO"))], false), level_replaced_texts)
}

fn groups(pair: &mut Pair) -> anyhow::Result<()> {
    let described = ask(&[(GROUP, "altered-group")], None, true);
    for (case, name, operations) in [
        ("set", "altered-group", &[(SET, "consumer.session.timeout.ms", Some("50000"))] as &[Operation]),
        ("too short", "altered-group", &[(SET, "consumer.session.timeout.ms", Some("1"))]),
        ("no number", "altered-group", &[(SET, "consumer.session.timeout.ms", Some("x"))]),
        ("a heartbeat beyond the session", "altered-group", &[(SET, "consumer.heartbeat.interval.ms", Some("60000"))]),
        ("an unknown config", "altered-group", &[(SET, "no.such.config", Some("1"))]),
        ("append", "altered-group", &[(APPEND, "consumer.session.timeout.ms", Some("1"))]),
        ("a share group's", "altered-group", &[(SET, "share.auto.offset.reset", Some("earliest"))]),
        ("a share group's, wrong", "altered-group", &[(SET, "share.auto.offset.reset", Some("somewhere"))]),
        ("no name", "", &[(SET, "consumer.session.timeout.ms", Some("50000"))]),
        ("unset", "altered-group", &[(DELETE, "consumer.session.timeout.ms", None)]),
    ] {
        pair.same(&format!("group: {case}"), one(GROUP, name, operations), level)?;
        pair.same_soon(&format!("group: {case}, seen"), &described, level_described)?;
    }
    pair.same("group: unset all", one(GROUP, "altered-group", &[(DELETE, "share.auto.offset.reset", None)]), level)
}

fn client_metrics(pair: &mut Pair) -> anyhow::Result<()> {
    let described = ask(&[(CLIENT_METRICS, "altered-metrics")], None, true);
    for (case, name, operations) in [
        ("set", "altered-metrics", &[(SET, "interval.ms", Some("500"))] as &[Operation]),
        (
            "a list",
            "altered-metrics",
            &[(SET, "metrics", Some("org.apache.kafka.producer.,org.apache.kafka.consumer."))],
        ),
        ("append", "altered-metrics", &[(APPEND, "metrics", Some("org.apache.kafka.admin."))]),
        ("a match", "altered-metrics", &[(SET, "match", Some("client_id=some.*,client_software_name=other"))]),
        ("an illegal match", "altered-metrics", &[(SET, "match", Some("colour=red"))]),
        ("a match without pattern", "altered-metrics", &[(SET, "match", Some("client_id"))]),
        ("too often", "altered-metrics", &[(SET, "interval.ms", Some("99"))]),
        ("too seldom", "altered-metrics", &[(SET, "interval.ms", Some("3600001"))]),
        ("no number", "altered-metrics", &[(SET, "interval.ms", Some("x"))]),
        ("an unknown config", "altered-metrics", &[(SET, "no.such.config", Some("1"))]),
        ("no name", "", &[(SET, "interval.ms", Some("500"))]),
        ("unset", "altered-metrics", &[(DELETE, "interval.ms", None), (DELETE, "match", None)]),
    ] {
        pair.same(&format!("client metrics: {case}"), one(CLIENT_METRICS, name, operations), level)?;
        pair.same_soon(&format!("client metrics: {case}, seen"), &described, level_described)?;
    }
    Ok(())
}

fn replaced(pair: &mut Pair) -> anyhow::Result<()> {
    let topic = "altered-whole";
    let described = ask(&[(TOPIC, "altered-whole")], None, true);
    for (case, configs, validate_only) in [
        ("others", &[("flush.ms", Some("5"))] as &[(&str, Option<&str>)], false),
        ("the same", &[("flush.ms", Some("5"))], false),
        ("only validated", &[("flush.ms", Some("6"))], true),
        ("wrong", &[("flush.ms", Some("x"))], false),
        ("unknown", &[("no.such.config", Some("1"))], false),
        ("no value", &[("flush.ms", None)], false),
        ("twice", &[("flush.ms", Some("1")), ("flush.ms", Some("2"))], false),
        ("two", &[("flush.ms", Some("7")), ("cleanup.policy", Some("compact,delete"))], false),
        ("none", &[], false),
    ] {
        pair.same(case, whole(TOPIC, topic, configs, validate_only), level_replaced)?;
        pair.same_soon(&format!("replaced by {case}, seen"), &described, level_described)?;
    }
    let retention: &[(&str, Option<&str>)] = &[("retention.ms", Some("1"))];
    pair.same("an unknown topic", whole(TOPIC, "not-altered", retention, false), level_replaced)?;
    pair.same("a wrong name", whole(TOPIC, "wrong/name", retention, false), level_replaced)?;
    pair.same("no name", whole(TOPIC, "", retention, false), level_replaced)?;
    pair.same("an unknown resource", whole(3, "x", retention, false), level_replaced_texts)?;
    // Apache Kafka never answers a resource that is named twice.
    let own = ask(&[(BROKER, "1")], Some(&["message.max.bytes", "log.retention.ms"]), true);
    for (case, name, configs) in [
        ("a broker's", "1", &[("message.max.bytes", Some("2000000"))] as &[(&str, Option<&str>)]),
        ("a broker's others", "1", &[("log.retention.ms", Some("70000"))]),
        ("a broker's that are read only", "1", &[("node.id", Some("2"))]),
        ("a broker's wrong", "1", &[("log.retention.ms", Some("x"))]),
        ("a broker's none", "1", &[]),
        ("another broker's", "2", &[("log.retention.ms", Some("1"))]),
        ("a broker's without number", "one", &[("log.retention.ms", Some("1"))]),
    ] {
        pair.same(case, whole(BROKER, name, configs, false), level_replaced)?;
        pair.same_soon(&format!("replaced: {case}, seen"), &own, level_described)?;
    }
    let interval: &[(&str, Option<&str>)] = &[("interval.ms", Some("500"))];
    pair.same("client metrics", whole(CLIENT_METRICS, "altered-metrics", interval, false), level_replaced)?;
    pair.same("client metrics, none", whole(CLIENT_METRICS, "altered-metrics", &[], false), level_replaced)?;
    let timeout: &[(&str, Option<&str>)] = &[("consumer.session.timeout.ms", Some("50000"))];
    pair.same("a group's", whole(GROUP, "altered-group", timeout, false), level_replaced)?;
    pair.same("a group's none", whole(GROUP, "altered-group", &[], false), level_replaced)?;
    pair.same("a group without name", whole(GROUP, "", timeout, false), level_replaced)
}
