//! Dynamic configs.

use odradek_common::{BrokerId, ErrorCode};
use odradek_controller_core::ApiError;
use odradek_controller_core::configs::{ConfigChange, ConfigOperation, ConfigReplacement};
use odradek_metadata::{ConfigResource, ResourceType};

use crate::cluster::Cluster;

pub fn alter(
    cluster: &mut Cluster,
    resource: &ConfigResource,
    operations: &[(&str, ConfigOperation)],
) -> Result<(), ApiError> {
    let operations = operations.iter().map(|(name, operation)| ((*name).to_owned(), operation.clone())).collect();
    let changes = [ConfigChange { resource: resource.clone(), operations }];
    cluster.run(|decider, context| decider.incremental_alter_configs(context, &changes, false)).remove(0).result
}

fn named(kind: ResourceType, name: &str) -> ConfigResource {
    ConfigResource { kind, name: name.into() }
}

pub fn set(value: &str) -> ConfigOperation {
    ConfigOperation::Set(value.to_owned())
}

#[test]
fn configs_change_one_by_one() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    cluster.create_on("t", &[1]);
    let topic = ConfigResource::topic("t");
    let append = |items: &str| ConfigOperation::Append(items.to_owned());
    let subtract = |items: &str| ConfigOperation::Subtract(items.to_owned());
    for (name, operation, expected) in [
        ("retention.ms", set("5"), Some("5")),
        ("retention.ms", ConfigOperation::Delete, None),
        // The list starts from the default.
        ("cleanup.policy", append("compact"), Some("delete,compact")),
        ("cleanup.policy", subtract("delete"), Some("compact")),
    ] {
        alter(&mut cluster, &topic, &[(name, operation)]).expect("valid");
        assert_eq!(cluster.image.topic_config("t", name), expected);
        assert_eq!(cluster.record_kinds(), ["config"]);
    }
    alter(&mut cluster, &topic, &[("cleanup.policy", set("compact"))]).expect("valid");
    assert!(cluster.records.is_empty(), "the same value again");
    let broker = ConfigResource::broker(BrokerId(1));
    for _ in 0..2 {
        alter(&mut cluster, &broker, &[("log.cleaner.threads", set("2"))]).expect("valid");
        assert_eq!(cluster.record_kinds(), ["config"], "a broker reloads");
    }
    alter(&mut cluster, &ConfigResource::cluster(), &[("log.cleaner.threads", set("3"))]).expect("valid");
    assert_eq!(cluster.image.broker_config(BrokerId(1), "log.cleaner.threads"), Some("2"));
    assert_eq!(cluster.image.broker_config(BrokerId(2), "log.cleaner.threads"), Some("3"));
}

#[test]
fn wrong_configs_change_nothing() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    cluster.create_on("t", &[1]);
    let topic = ConfigResource::topic("t");
    for (resource, operations, expected) in [
        (&topic, vec![("retention.ms", set("5")), ("no.such", set("1"))], ErrorCode::InvalidConfig),
        (&topic, vec![("retention.ms", set("x"))], ErrorCode::InvalidConfig),
        (&topic, vec![("retention.ms", ConfigOperation::Append("5".to_owned()))], ErrorCode::InvalidConfig),
        (&topic, vec![("retention.ms", set("5")), ("retention.ms", set("6"))], ErrorCode::InvalidRequest),
        (&ConfigResource::topic("u"), vec![("retention.ms", set("5"))], ErrorCode::UnknownTopicOrPartition),
        (&ConfigResource::topic("u"), vec![("no.such", set("1"))], ErrorCode::InvalidConfig),
        (&ConfigResource::topic(""), vec![("retention.ms", set("5"))], ErrorCode::InvalidRequest),
        (&ConfigResource::topic("a b"), vec![("retention.ms", set("5"))], ErrorCode::InvalidTopicException),
        (&ConfigResource::broker(BrokerId(9)), vec![], ErrorCode::BrokerIdNotRegistered),
        (&ConfigResource::broker(BrokerId(-1)), vec![], ErrorCode::InvalidRequest),
        (&named(ResourceType::Broker, "one"), vec![], ErrorCode::InvalidRequest),
        (&ConfigResource::cluster(), vec![("num.io.threads", set("x"))], ErrorCode::InvalidRequest),
        (&ConfigResource::cluster(), vec![("log.dirs", set("/x"))], ErrorCode::InvalidRequest),
        (&ConfigResource::cluster(), vec![("sasl.enabled.mechanisms", set("X"))], ErrorCode::InvalidRequest),
        (
            &ConfigResource::cluster(),
            vec![("log.retention.ms", ConfigOperation::Append("5".to_owned()))],
            ErrorCode::InvalidConfig,
        ),
        (&ConfigResource::cluster(), vec![("min.insync.replicas", ConfigOperation::Delete)], ErrorCode::InvalidConfig),
        (&ConfigResource::broker(BrokerId(1)), vec![("min.insync.replicas", set("2"))], ErrorCode::InvalidConfig),
        (&named(ResourceType::Group, ""), vec![], ErrorCode::InvalidRequest),
        (&named(ResourceType::Group, "g"), vec![("consumer.session.timeout.ms", set("1"))], ErrorCode::InvalidConfig),
        (&named(ResourceType::Group, "g"), vec![("no.such", set("1"))], ErrorCode::InvalidConfig),
        (&named(ResourceType::ClientMetrics, ""), vec![], ErrorCode::InvalidRequest),
        (&named(ResourceType::ClientMetrics, "m"), vec![("no.such", set("1"))], ErrorCode::InvalidRequest),
        (&named(ResourceType::ClientMetrics, "m"), vec![("interval.ms", set("1"))], ErrorCode::InvalidRequest),
        (&named(ResourceType::ClientMetrics, "m"), vec![("interval.ms", set("x"))], ErrorCode::InvalidConfig),
        (&named(ResourceType::ClientMetrics, "m"), vec![("match", set("foo=bar"))], ErrorCode::InvalidConfig),
    ] {
        let error = alter(&mut cluster, resource, &operations).expect_err("wrong");
        assert_eq!(error.code, expected, "{error}");
        assert!(cluster.records.is_empty());
    }
}

#[test]
fn a_replacement_takes_the_others_back() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    cluster.create_on("t", &[1]);
    let topic = ConfigResource::topic("t");
    alter(&mut cluster, &topic, &[("retention.ms", set("5")), ("segment.ms", set("6"))]).expect("valid");
    let configs = vec![("retention.ms".to_owned(), Some("5".to_owned()))];
    let wanted = [ConfigReplacement { resource: topic.clone(), configs }];
    cluster.run(|decider, context| decider.replace_configs(context, &wanted, false)).remove(0).result.expect("valid");
    assert_eq!(cluster.record_kinds(), ["config"]);
    let left = cluster.image.resource_configs(&topic).expect("one is left");
    assert_eq!(left.keys().map(|name| &**name).collect::<Vec<_>>(), ["retention.ms"]);
}

#[test]
fn allowing_unclean_elections_takes_effect_at_once() {
    let (mut cluster, brokers) = Cluster::with_brokers(2);
    cluster.create_on("t", &[1, 2]);
    let [one, mut two]: [_; 2] = brokers.try_into().expect("two");
    crate::alter_partition::set_isr(&mut cluster, &one, "t", &[1]).expect("valid");
    // 2 restarts uncleanly and is eligible no more; then the leader goes.
    cluster.kill(&two);
    two = cluster.start(2);
    cluster.kill(&one);
    cluster.pass(std::time::Duration::from_secs(1), &mut [&mut two]);
    assert_eq!(cluster.state("t"), "leader -1 isr [] elr [1] last 1");
    alter(&mut cluster, &ConfigResource::topic("t"), &[("unclean.leader.election.enable", set("true"))])
        .expect("valid");
    assert_eq!(cluster.state("t"), "leader 2 isr [2] recovering");
}

#[test]
fn groups_and_subscriptions_keep_what_was_set() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let group = named(ResourceType::Group, "g");
    alter(&mut cluster, &group, &[("consumer.session.timeout.ms", set("50000"))]).expect("valid");
    assert_eq!(cluster.image.config(&group, "consumer.session.timeout.ms"), Some("50000"));
    let metrics = named(ResourceType::ClientMetrics, "m");
    alter(&mut cluster, &metrics, &[("interval.ms", set("1000")), ("match", set("client_id=x.*"))]).expect("valid");
    alter(&mut cluster, &metrics, &[("interval.ms", ConfigOperation::Delete), ("match", ConfigOperation::Delete)])
        .expect("valid");
    assert_eq!(cluster.image.resource_configs(&metrics), None);
}

#[test]
fn a_lower_min_insync_replicas_takes_the_eligibility_of_those_that_left() {
    let (mut cluster, brokers) = Cluster::with_brokers(2);
    cluster.create_on("t", &[1, 2]);
    let topic = ConfigResource::topic("t");
    alter(&mut cluster, &topic, &[("min.insync.replicas", set("2"))]).expect("valid");
    crate::alter_partition::set_isr(&mut cluster, &brokers[0], "t", &[1]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1] elr [2]");
    // From here on the leader alone may acknowledge, and 2 does not have it.
    alter(&mut cluster, &topic, &[("min.insync.replicas", set("1"))]).expect("valid");
    assert_eq!(cluster.state("t"), "leader 1 isr [1]");
    assert_eq!(cluster.record_kinds(), ["config", "partition change"]);
}
