//! Requests in Kafka's encoding.

use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_controller_core::{FORWARDED, ForwardError};
use odradek_wire::{
    ApiKey, Decoder, Encoder, Request, create_topics_request as create, delete_topics_request as delete,
    incremental_alter_configs_request as alter,
};

use crate::cluster::Cluster;

pub fn forward<Q: Request>(cluster: &mut Cluster, version: i16, request: &Q) -> Q::Response {
    use odradek_wire::Message;
    let mut out = Encoder::new();
    request.encode(&mut out, version).expect("encodable");
    let body = out.into_bytes().expect("no holes");
    let key = Q::API_KEY.code();
    let bytes = cluster.run(|decider, context| decider.forward(context, key, version, body)).expect("answered");
    let mut input = Decoder::new(bytes);
    let response = Q::Response::decode(&mut input, version).expect("decodable");
    input.finish().expect("nothing follows");
    response
}

fn create_request(name: &str, replication_factor: i16) -> create::CreateTopicsRequest {
    let config =
        create::CreatableTopicConfig { name: "retention.ms".into(), value: Some("5".into()), ..Default::default() };
    create::CreateTopicsRequest {
        topics: vec![create::CreatableTopic {
            name: name.into(),
            num_partitions: 2,
            replication_factor,
            configs: vec![config],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn topics_are_created_at_every_version() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    for version in ApiKey::CreateTopics.versions() {
        let name = format!("t{version}");
        let response = forward(&mut cluster, version, &create_request(&name, 1));
        let topic = &response.topics[0];
        assert_eq!((topic.name.as_str(), topic.error_code), (name.as_str(), 0));
        assert_eq!(cluster.image.topic_by_name(&name).map(|topic| topic.partition_count()), Some(2));
        if version >= 5 {
            assert_eq!((topic.num_partitions, topic.replication_factor), (2, 1));
            let configs = topic.configs.as_ref().expect("told");
            let of = |name: &str| {
                configs.iter().find(|config| config.name == name).map(|c| (c.value.as_deref(), c.config_source))
            };
            assert_eq!(of("retention.ms"), Some((Some("5"), 1)));
            assert_eq!(of("min.insync.replicas"), Some((Some("2"), 3)));
            assert_eq!(of("cleanup.policy"), Some((Some("delete"), 5)));
        }
        if version >= 7 {
            assert_eq!(Some(topic.topic_id), cluster.image.topic_id(&name));
        }
        let refused = forward(&mut cluster, version, &create_request(&format!("u{version}"), 5));
        assert_eq!(refused.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());
    }
}

#[test]
fn topics_are_deleted_at_every_version() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    for version in ApiKey::DeleteTopics.versions() {
        let id = cluster.create_on("t", &[1]).id;
        let mut request = delete::DeleteTopicsRequest::default();
        if version < 6 {
            request.topic_names = vec!["t".into(), "none".into()];
        } else {
            let both = delete::DeleteTopicState { name: Some("t".into()), topic_id: id, ..Default::default() };
            let by_id = delete::DeleteTopicState { name: None, topic_id: id, ..Default::default() };
            request.topics = vec![both, by_id];
        }
        let mut codes: Vec<_> =
            forward(&mut cluster, version, &request).responses.iter().map(|response| response.error_code).collect();
        codes.sort_unstable();
        let other = if version < 6 { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidRequest };
        assert_eq!(codes, [0, other.code()]);
        assert_eq!(cluster.image.topic_count(), 0);
    }
}

#[test]
fn config_changes_answer_by_resource() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    cluster.create_on("t", &[1]);
    let resource = |kind, name: &str, operation, value: Option<&str>| alter::AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: vec![alter::AlterableConfig {
            name: "retention.ms".into(),
            config_operation: operation,
            value: value.map(Into::into),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = alter::IncrementalAlterConfigsRequest {
        resources: vec![
            resource(2, "t", 0, Some("7")),
            resource(2, "none", 0, Some("7")),
            resource(2, "t", 0, None),
            resource(2, "t", 9, Some("7")),
            resource(77, "t", 0, Some("7")),
        ],
        ..Default::default()
    };
    for version in ApiKey::IncrementalAlterConfigs.versions() {
        let response = forward(&mut cluster, version, &request);
        let mut codes: Vec<_> = response.responses.iter().map(|response| response.error_code).collect();
        codes.sort_unstable();
        let [unknown, invalid] = [ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidRequest].map(ErrorCode::code);
        assert_eq!(codes, [0, unknown, invalid, invalid, invalid]);
        assert_eq!(cluster.image.topic_config("t", "retention.ms"), Some("7"));
    }
}

#[test]
fn elections_answer_by_the_topics_of_the_request() {
    use odradek_wire::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
    let (mut cluster, _) = Cluster::with_brokers(2);
    cluster.create_on("t", &[1, 2]);
    let topic = |name: &str, partitions: &[i32]| TopicPartitions {
        topic: name.into(),
        partitions: partitions.to_vec(),
        ..Default::default()
    };
    let (needless, unknown) = (ErrorCode::ElectionNotNeeded.code(), ErrorCode::UnknownTopicOrPartition.code());
    for version in ApiKey::ElectLeaders.versions() {
        let topics = vec![topic("t", &[0, 1]), topic("none", &[0]), topic("t", &[0])];
        let mut request = ElectLeadersRequest { topic_partitions: Some(topics), ..Default::default() };
        let told = |answer: odradek_wire::ElectLeadersResponse| -> Vec<(String, Vec<i16>)> {
            let results = answer.replica_election_results.iter();
            let codes = results.map(|one| {
                (one.topic.to_string(), one.partition_result.iter().map(|partition| partition.error_code).collect())
            });
            codes.collect()
        };
        let expected = [("t", vec![needless, unknown]), ("none", vec![unknown]), ("t", vec![needless])];
        let expected = expected.map(|(name, codes)| (name.to_owned(), codes));
        assert_eq!(told(forward(&mut cluster, version, &request)), expected);
        if version >= 1 {
            request.election_type = 2;
            let refused = forward(&mut cluster, version, &request);
            assert_eq!(refused.error_code, ErrorCode::InvalidRequest.code());
            assert!(told(refused).iter().all(|(_, codes)| codes.iter().all(|code| *code == 42)));
            request.election_type = 0;
        }
        request.topic_partitions = None;
        assert_eq!(told(forward(&mut cluster, version, &request)), [("t".to_owned(), vec![])]);
    }
}

#[test]
fn other_requests_and_damaged_ones_are_errors() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let mut forward = |key: ApiKey, version, body: &'static [u8]| {
        let body = Bytes::from_static(body);
        cluster.run(|decider, context| decider.forward(context, key.code(), version, body))
    };
    assert!(matches!(forward(ApiKey::Produce, 9, &[]), Err(ForwardError::UnknownApi(0))));
    for key in FORWARDED {
        let version = *key.versions().end();
        assert!(matches!(forward(*key, version, &[0xff; 3]), Err(ForwardError::Decode(_))), "{key}");
        assert!(matches!(forward(*key, version + 1, &[]), Err(ForwardError::Decode(_))), "{key}");
    }
}
