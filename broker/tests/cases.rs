//! The cases.

use bytes::Bytes;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::{ErrorCode, Offset, ProducerEpoch, ProducerId, Uuid, time::Timestamp};
use odradek_node::{Connection, World};
use odradek_records::RecordBatchBuilder;
use odradek_wire::Records;
use odradek_wire::api_versions_request::ApiVersionsRequest;
use odradek_wire::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use odradek_wire::describe_cluster_request::DescribeClusterRequest;
use odradek_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek_wire::describe_topic_partitions_request::{DescribeTopicPartitionsRequest, TopicRequest};
use odradek_wire::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use odradek_wire::fetch_response::PartitionData;
use odradek_wire::init_producer_id_request::InitProducerIdRequest;
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use odradek_wire::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use odradek_wire::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek_wire::produce_response::{PartitionProduceResponse, ProduceResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{self, CLUSTER, Node, PATIENCE, create_topic, metadata};
use crate::solo::Solo;

fn batch(values: &[&str]) -> Bytes {
    let mut builder = RecordBatchBuilder::new();
    for (at, value) in values.iter().enumerate() {
        builder.append(Timestamp(1_000 + at as i64), None, Some(value.as_bytes()));
    }
    builder.build().expect("a batch")
}

pub fn produce_request(topic: &str, id: Uuid, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index: partition, records: Some(Records::Bytes(records)), ..Default::default() };
    let topic = TopicProduceData { name: topic.into(), topic_id: id, partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 5000, topic_data: vec![topic], ..Default::default() }
}

pub async fn produce(
    connection: &mut Connection,
    version: i16,
    topic: &str,
    id: Uuid,
    acks: i16,
    records: Bytes,
) -> PartitionProduceResponse {
    let (topic, id) = if version >= 13 { ("", id) } else { (topic, Uuid::ZERO) };
    let request = produce_request(topic, id, 0, acks, records);
    let answered = async {
        loop {
            let mut response = connection.call(version, &request).await.expect("an answer");
            let response = response.responses.remove(0).partition_responses.remove(0);
            // A new log is still being made: the client asks again.
            if code(response.error_code) != ErrorCode::NotLeaderOrFollower {
                return response;
            }
        }
    };
    World::real().timeout(PATIENCE, answered).await.expect("a leader")
}

fn fetch_request(version: i16, topic: &str, id: Uuid, offset: i64, wait_ms: i32) -> FetchRequest {
    let (topic, topic_id) = if version >= 13 { ("", id) } else { (topic, Uuid::ZERO) };
    let partition = FetchPartition {
        partition: 0,
        fetch_offset: offset,
        current_leader_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic = FetchTopic { topic: topic.into(), topic_id, partitions: vec![partition], ..Default::default() };
    FetchRequest {
        replica_id: -1,
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

pub async fn fetch(connection: &mut Connection, version: i16, topic: &str, id: Uuid, offset: i64) -> PartitionData {
    let request = fetch_request(version, topic, id, offset, 0);
    let mut response = connection.call(version, &request).await.expect("an answer");
    assert_eq!(response.error_code, 0);
    response.responses.remove(0).partitions.remove(0)
}

fn values(data: &PartitionData) -> Vec<String> {
    let bytes = data.records.as_ref().and_then(Records::as_bytes).cloned().unwrap_or_default();
    let mut values = Vec::new();
    for batch in odradek_records::Batches::new(bytes) {
        let batch = batch.expect("a batch");
        for record in batch.records(1 << 20).expect("records") {
            let record = record.expect("a record");
            values.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
        }
    }
    values
}

fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_go_in_and_come_out() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "").await;
    let mut connection = node.connect().await;

    let request = ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    let versions = connection.call(4, &request).await.expect("an answer");
    assert_eq!(versions.error_code, 0);
    assert!(versions.api_keys.iter().any(|api| api.api_key == 0 && api.min_version == 0 && api.max_version == 13));
    assert!(versions.finalized_features.iter().any(|feature| &*feature.name == "metadata.version"));

    let id = create_topic(&mut connection, "t", 1, 1).await;
    let described = metadata(&mut connection, "t").await;
    assert_eq!(described.brokers.len(), 1);
    assert_eq!(described.brokers[0].port, i32::from(node.port));
    assert_eq!((described.topics[0].topic_id, described.topics[0].partitions[0].leader_id), (id, 1));

    let mut expected = Vec::new();
    for (n, version) in (3..=13).enumerate() {
        let value = format!("v{version}");
        for acks in [1, -1] {
            let result = produce(&mut connection, version, "t", id, acks, batch(&[&value, "x"])).await;
            assert_eq!((code(result.error_code), result.base_offset), (ErrorCode::None, expected.len() as i64), "{n}");
            expected.extend([value.clone(), "x".to_owned()]);
        }
    }
    // acks=0: no answer, and the connection goes on.
    connection.send(9, &produce_request("t", id, 0, 0, batch(&["silent"]))).await.expect("sent");
    expected.push("silent".to_owned());
    for version in 4..=18 {
        let data = fetch(&mut connection, version, "t", id, 0).await;
        assert_eq!(code(data.error_code), ErrorCode::None, "{version}");
        assert_eq!(values(&data), expected, "{version}");
        assert_eq!(data.high_watermark, expected.len() as i64);
    }
    let beyond = fetch(&mut connection, 12, "t", id, 1_000).await;
    assert_eq!(code(beyond.error_code), ErrorCode::OffsetOutOfRange);

    for (timestamp, offset) in [(-1, expected.len() as i64), (-2, 0), (1_001, 1), (5_000, -1)] {
        let partition = ListOffsetsPartition { timestamp, current_leader_epoch: -1, ..Default::default() };
        let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let listed = connection.call(8, &request).await.expect("an answer");
        let listed = &listed.topics[0].partitions[0];
        assert_eq!((code(listed.error_code), listed.offset), (ErrorCode::None, offset), "{timestamp}");
    }
    let partition = OffsetForLeaderPartition { leader_epoch: 0, current_leader_epoch: -1, ..Default::default() };
    let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetForLeaderEpochRequest { replica_id: -2, topics: vec![topic], ..Default::default() };
    let end = connection.call(4, &request).await.expect("an answer");
    assert_eq!(end.topics[0].partitions[0].end_offset, expected.len() as i64);

    // A clean stop and a second start find it all again.
    let config = node.config.clone();
    let dir = node.stop().await;
    let node = Node::start_in(&world, &solo, dir, config).await;
    let mut connection = node.connect().await;
    let data = loop {
        let data = fetch(&mut connection, 12, "t", id, 0).await;
        if data.error_code == 0 && data.high_watermark == expected.len() as i64 {
            break data;
        }
    };
    assert_eq!(values(&data), expected);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_answered_as_kafka_does() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "auto.create.topics.enable=true").await;
    let mut connection = node.connect().await;
    let id = create_topic(&mut connection, "t", 1, 1).await;

    let result = produce(&mut connection, 9, "t", id, 2, batch(&["x"])).await;
    assert_eq!(code(result.error_code), ErrorCode::InvalidRequiredAcks);
    let result = produce(&mut connection, 9, "absent", id, 1, batch(&["x"])).await;
    assert_eq!(code(result.error_code), ErrorCode::UnknownTopicOrPartition);
    let result = produce(&mut connection, 13, "", Uuid([9; 16]), 1, batch(&["x"])).await;
    assert_eq!(code(result.error_code), ErrorCode::UnknownTopicId);
    let mut damaged = batch(&["hello"]).to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let result = produce(&mut connection, 9, "t", id, 1, damaged.into()).await;
    assert_eq!(code(result.error_code), ErrorCode::CorruptMessage);
    let result = produce(&mut connection, 9, "t", id, 1, Bytes::new()).await;
    assert_eq!(code(result.error_code), ErrorCode::InvalidRecord);
    let data = fetch(&mut connection, 12, "t", id, 0).await;
    assert_eq!((data.high_watermark, values(&data).len()), (0, 0));
    let data = fetch(&mut connection, 13, "", Uuid([9; 16]), 0).await;
    assert_eq!(code(data.error_code), ErrorCode::UnknownTopicId);
    let mut session = fetch_request(12, "t", id, 0, 0);
    (session.session_id, session.session_epoch) = (77, 3);
    let answer = connection.call(12, &session).await.expect("an answer");
    assert_eq!(code(answer.error_code), ErrorCode::FetchSessionIdNotFound);

    // Metadata: by id, invalid names, and creation on demand.
    let by_id = MetadataRequestTopic { topic_id: id, name: None, ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![by_id]), ..Default::default() };
    let answer = connection.call(12, &request).await.expect("an answer");
    assert_eq!(answer.topics[0].name.as_deref(), Some("t"));
    let answer = metadata(&mut connection, "not a name").await;
    assert_eq!(code(answer.topics[0].error_code), ErrorCode::InvalidTopicException);
    let by_name = MetadataRequestTopic { name: Some("made".into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![by_name]), allow_auto_topic_creation: true, ..Default::default() };
    let made = async {
        loop {
            let answer = connection.call(9, &request).await.expect("an answer");
            match code(answer.topics[0].error_code) {
                ErrorCode::None => break,
                error => assert!(
                    matches!(error, ErrorCode::UnknownTopicOrPartition | ErrorCode::LeaderNotAvailable),
                    "{error}"
                ),
            }
        }
    };
    world.timeout(PATIENCE, made).await.expect("created");

    // The others.
    let request = DescribeClusterRequest { endpoint_type: 1, ..Default::default() };
    let cluster = connection.call(1, &request).await.expect("an answer");
    assert_eq!((&*cluster.cluster_id, cluster.brokers.len()), (CLUSTER, 1));
    let topic = TopicRequest { name: "t".into(), ..Default::default() };
    let request =
        DescribeTopicPartitionsRequest { topics: vec![topic], response_partition_limit: 10, ..Default::default() };
    let described = connection.call(0, &request).await.expect("an answer");
    assert_eq!(described.topics[0].partitions[0].isr_nodes, [1]);
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: "t".into(),
        configuration_keys: None,
        ..Default::default()
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let configs = connection.call(4, &request).await.expect("an answer");
    let retention = configs.results[0].configs.iter().find(|config| &*config.name == "retention.ms");
    assert_eq!(retention.and_then(|config| config.value.as_deref()), Some("604800000"));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 1000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let answer = connection.call(4, &request).await.expect("an answer");
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        ids.push(answer.producer_id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);

    // An idempotent producer's duplicate gets its first offset.
    let idempotent = |sequence| {
        let mut builder = RecordBatchBuilder::new().producer(ProducerId(ids[0]), ProducerEpoch(0), sequence);
        builder.append(Timestamp(1), None, Some(b"once"));
        builder.build().expect("a batch")
    };
    for _ in 0..2 {
        let result = produce(&mut connection, 9, "t", id, -1, idempotent(0)).await;
        assert_eq!((code(result.error_code), result.base_offset), (ErrorCode::None, 0));
    }
    let result = produce(&mut connection, 9, "t", id, -1, idempotent(5)).await;
    assert_eq!(code(result.error_code), ErrorCode::OutOfOrderSequenceNumber);

    // Deletion.
    let state = DeleteTopicState { name: Some("t".into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![state], timeout_ms: 5000, ..Default::default() };
    let deleted = connection.call(6, &request).await.expect("an answer");
    assert_eq!(deleted.responses[0].error_code, 0);
    let answer = metadata(&mut connection, "t").await;
    assert_eq!(code(answer.topics[0].error_code), ErrorCode::UnknownTopicOrPartition);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_is_woken_by_a_produce_and_does_not_hold_up_other_connections() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "").await;
    let (mut reader, mut writer) = (node.connect().await, node.connect().await);
    let id = create_topic(&mut writer, "t", 1, 1).await;
    // Once the first record is there, the log is made and led.
    let first = produce(&mut writer, 9, "t", id, -1, batch(&["first"])).await;
    let request = fetch_request(12, "t", id, first.base_offset + 1, 60_000);
    let fetched = async { reader.call(12, &request).await.expect("an answer") };
    let produced = async { produce(&mut writer, 9, "t", id, -1, batch(&["news"])).await };
    let both = world.timeout(PATIENCE, async { tokio::join!(fetched, produced) }).await;
    let (fetched, produced) = both.expect("woken");
    assert_eq!(produced.error_code, 0);
    assert_eq!(values(&fetched.responses[0].partitions[0]), ["news"]);
    node.stop().await;
}

/// Every version of every API that is served has an answer, for what is there and for what is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_answered() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let settings = "auto.create.topics.enable=false";
    let nodes = [Node::start(&world, &solo, 1, settings).await, Node::start(&world, &solo, 2, settings).await];
    let mut connections = [nodes[0].connect().await, nodes[1].connect().await];
    let id = create_topic(&mut connections[0], "t", 1, 1).await;
    let leader = metadata(&mut connections[0], "t").await.topics[0].partitions[0].leader_id;
    let (right, wrong) = if leader == 1 { (0, 1) } else { (1, 0) };
    produce(&mut connections[right], 9, "t", id, -1, batch(&["x"])).await;

    // The wrong broker names the right one, with its address where the version can say it (KIP-951).
    for version in 3..=13 {
        let (topic, topic_id) = if version >= 13 { ("", id) } else { ("t", Uuid::ZERO) };
        let request = produce_request(topic, topic_id, 0, -1, batch(&["x"]));
        let answered = connections[wrong].call(version, &request).await.expect("an answer");
        let partition = &answered.responses[0].partition_responses[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower, "{version}");
        if version >= 10 {
            assert_eq!(partition.current_leader.leader_id, leader);
            assert_eq!(answered.node_endpoints[0].port, i32::from(nodes[right].port));
        }
    }
    for version in 4..=18 {
        let request = fetch_request(version, "t", id, 0, 0);
        let answered = connections[wrong].call(version, &request).await.expect("an answer");
        let partition = &answered.responses[0].partitions[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower, "{version}");
        if version >= 16 {
            assert_eq!(partition.current_leader.leader_id, leader);
            assert_eq!(answered.node_endpoints[0].port, i32::from(nodes[right].port));
        }
    }
    let [_, connection] = &mut connections;
    for version in 0..=5 {
        let request = ApiVersionsRequest {
            client_software_name: "x".into(),
            client_software_version: "1".into(),
            ..Default::default()
        };
        assert_eq!(connection.call(version, &request).await.expect("an answer").error_code, 0);
    }
    for version in 0..=13 {
        let all = MetadataRequest { topics: (version == 0).then(Vec::new), ..Default::default() };
        assert_eq!(connection.call(version, &all).await.expect("an answer").topics.len(), 1, "{version}");
        let topics = ["t", "absent", "no name"]
            .map(|name| MetadataRequestTopic { name: Some(name.into()), ..Default::default() });
        let named = MetadataRequest { topics: Some(topics.to_vec()), ..Default::default() };
        assert_eq!(connection.call(version, &named).await.expect("an answer").topics.len(), 3, "{version}");
    }
    for (topic, error) in [("t", ErrorCode::None), ("absent", ErrorCode::UnknownTopicOrPartition)] {
        for version in 1..=11 {
            let partition = ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
            let topic = ListOffsetsTopic { name: topic.into(), partitions: vec![partition], ..Default::default() };
            let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
            let listed = connections[right].call(version, &request).await.expect("an answer");
            assert_eq!(code(listed.topics[0].partitions[0].error_code), error, "{version}");
        }
        for version in 2..=4 {
            let partition = OffsetForLeaderPartition { current_leader_epoch: -1, ..Default::default() };
            let topic = OffsetForLeaderTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
            let request = OffsetForLeaderEpochRequest { replica_id: -2, topics: vec![topic], ..Default::default() };
            let end = connections[right].call(version, &request).await.expect("an answer");
            assert_eq!(code(end.topics[0].partitions[0].error_code), error, "{version}");
        }
        for version in 1..=4 {
            let resources = [(2, topic), (4, ""), (4, "1"), (4, "9"), (77, "")];
            let resources = resources.map(|(resource_type, name)| DescribeConfigsResource {
                resource_type,
                resource_name: name.into(),
                ..Default::default()
            });
            let request =
                DescribeConfigsRequest { resources: resources.to_vec(), include_synonyms: true, ..Default::default() };
            let described = connections[right].call(version, &request).await.expect("an answer");
            assert_eq!(described.results.len(), 5);
            assert_eq!(code(described.results[0].error_code), error, "{version}");
        }
    }
    let [connection, _] = &mut connections;
    for version in 0..=5 {
        let request =
            InitProducerIdRequest { transactional_id: None, producer_id: -1, producer_epoch: -1, ..Default::default() };
        assert_eq!(connection.call(version, &request).await.expect("an answer").error_code, 0);
    }
    for version in 0..=2 {
        let request = DescribeClusterRequest { endpoint_type: 1, ..Default::default() };
        assert_eq!(connection.call(version, &request).await.expect("an answer").brokers.len(), 2);
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Bytes that are no request, and requests that are damaged, close their own connection at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_harm_nobody_else() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "odradek.memory.request.bytes=2097152").await;
    let mut honest = node.connect().await;
    let id = create_topic(&mut honest, "t", 1, 1).await;
    let mut rng = SplitMix64::new(7);
    let mut frames: Vec<Vec<u8>> = vec![
        vec![0xff; 4],
        vec![0x7f, 0xff, 0xff, 0xff],
        vec![0x80, 0, 0, 0],
        vec![0, 0, 0, 0],
        vec![0, 0, 0, 1, 9],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    ];
    let valid: Vec<Vec<u8>> = vec![
        encoded(9, &produce_request("t", id, 0, -1, batch(&["a", "b"]))),
        encoded(13, &produce_request("", id, 0, 1, batch(&["a", "b"]))),
        encoded(12, &fetch_request(12, "t", id, 0, 0)),
        encoded(12, &MetadataRequest::default()),
        encoded(7, &odradek_wire::create_topics_request::CreateTopicsRequest::default()),
        encoded(4, &DescribeConfigsRequest::default()),
    ];
    for frame in &valid {
        for _ in 0..60 {
            let mut damaged = frame.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.below(damaged.len() as u64 - 4) as usize + 4;
                damaged[at] = rng.next_u64() as u8;
            }
            frames.push(damaged);
        }
        frames.push(frame[..frame.len() - 3].to_vec());
    }
    for key in -1..110i16 {
        for version in [-1i16, 0, 3, 12, 99] {
            let mut body = vec![0u8; 4];
            body.extend(key.to_be_bytes());
            body.extend(version.to_be_bytes());
            body.extend((0..rng.below(60)).map(|_| rng.next_u64() as u8));
            let length = (body.len() as u32 - 4).to_be_bytes();
            body[..4].copy_from_slice(&length);
            frames.push(body);
        }
    }
    for frame in frames {
        let mut socket = world.net.connect("127.0.0.1", node.port).await.expect("connected");
        socket.write_all(&frame).await.expect("sent");
        socket.writer.shutdown().await.expect("shut");
        let mut answer = Vec::new();
        let ended = world.timeout(PATIENCE, socket.reader.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the broker neither answers nor closes: {frame:?}");
    }
    // One that claims a large frame and never sends it must not take the memory from others for ever; meanwhile small
    // requests and other connections go on.
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut socket = world.net.connect("127.0.0.1", node.port).await.expect("connected");
        socket.write_all(&[0, 0x40, 0, 0, 0, 0, 0, 9]).await.expect("sent");
        stalled.push(socket);
    }
    let result = produce(&mut honest, 9, "t", id, -1, batch(&["still here"])).await;
    assert_eq!(code(result.error_code), ErrorCode::None);
    let data = fetch(&mut honest, 12, "t", id, result.base_offset).await;
    assert_eq!(values(&data), ["still here"]);
    drop(stalled);
    // A version of ApiVersions that nobody knows is answered in version 0.
    let mut socket = world.net.connect("127.0.0.1", node.port).await.expect("connected");
    socket.write_all(&[0, 0, 0, 12, 0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 0]).await.expect("sent");
    let mut head = [0; 10];
    socket.read_exact(&mut head).await.expect("an answer");
    assert_eq!(head[4..], [0, 0, 0, 5, 0, 35]);
    let _ = Offset::ZERO;
    node.stop().await;
}

/// A client that sends everything at once and then ends its half, or sends what is no request, has its answers first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_connection_ends_is_answered() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "").await;
    let mut client = node.connect().await;
    let id = create_topic(&mut client, "t", 1, 1).await;
    const REQUESTS: usize = 40;
    let mut first = 0;
    for garbage in [&[] as &[u8], &[0xff; 8], &[0x7f, 0xff, 0xff, 0xff]] {
        let mut sent = Vec::new();
        for number in 0..REQUESTS {
            // Small ones are received together, large ones into memory of their own.
            let value = "v".repeat(if number % 3 == 0 { 20_000 } else { 10 });
            sent.extend(encoded(9, &produce_request("t", id, 0, 1, batch(&[value.as_str()]))));
        }
        sent.extend(garbage);
        let mut socket = world.net.connect("127.0.0.1", node.port).await.expect("connected");
        socket.write_all(&sent).await.expect("sent");
        socket.writer.shutdown().await.expect("shut");
        let mut answers = Vec::new();
        let ended = world.timeout(PATIENCE, socket.reader.read_to_end(&mut answers)).await;
        ended.expect("in time").expect("no reset before the answers");
        let mut offsets = Vec::new();
        while let Some(length) = answers.first_chunk::<4>() {
            let frame: Vec<u8> = answers.drain(..4 + u32::from_be_bytes(*length) as usize).skip(4).collect();
            // Correlation id and tags stand before the message.
            let mut decoder = odradek_wire::Decoder::new(frame[5..].to_vec().into());
            let answer = <ProduceResponse as odradek_wire::Message>::decode(&mut decoder, 9).expect("an answer");
            let partition = &answer.responses[0].partition_responses[0];
            assert_eq!(code(partition.error_code), ErrorCode::None);
            offsets.push(partition.base_offset);
        }
        assert_eq!(offsets, (first..first + REQUESTS as i64).collect::<Vec<_>>(), "before {garbage:?}");
        first += REQUESTS as i64;
    }
    node.stop().await;
}

fn encoded<R: odradek_wire::Request>(version: i16, request: &R) -> Vec<u8> {
    let parts = odradek_wire::frame::encode_request(version, 1, Some("x".into()), request).expect("encoded");
    let bytes = parts.into_iter().flat_map(|part| match part {
        odradek_wire::Part::Bytes(bytes) => bytes.to_vec(),
        odradek_wire::Part::Outside(_) => Vec::new(),
    });
    bytes.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_belong_is_refused() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "").await;
    let refused = async |config: odradek_common::config::BrokerConfig| {
        let (_stop, ended) = node::launch(&world, &config);
        let ended = world.timeout(PATIENCE, ended).await.expect("in time").expect("not lost");
        format!("{:#}", ended.expect_err("refused"))
    };
    // The same directory: its lock is held.
    let error = refused(node.config.clone()).await;
    assert!(error.contains("in use") || error.contains("lock"), "{error}");
    // The same id in another directory.
    let dir = tempfile::tempdir().expect("a directory");
    node::format(&world, dir.path(), 1);
    let error = refused(node::config(&solo, 1, dir.path(), "")).await;
    assert!(error.contains("registered by another process"), "{error}");
    // Another node's directory.
    let error = refused(node::config(&solo, 2, dir.path(), "")).await;
    assert!(error.contains("belongs to node 1"), "{error}");
    // A directory that is not formatted.
    let empty = tempfile::tempdir().expect("a directory");
    let error = refused(node::config(&solo, 2, empty.path(), "")).await;
    assert!(error.contains("storage format"), "{error}");
    // Another cluster.
    let other = tempfile::tempdir().expect("a directory");
    let dirs = [other.path().to_owned()];
    let cluster = "AAAAAAAAAAAAAAAAAAAAAQ";
    odradek_common::meta_properties::format_all(&*world.fs, &dirs, cluster, 3, false, &mut world.rng())
        .expect("formatted");
    let error = refused(node::config(&solo, 3, other.path(), "")).await;
    assert!(error.contains("another cluster"), "{error}");
    // A newer format.
    std::fs::write(empty.path().join("meta.properties"), "version=2\nnode.id=2\ncluster.id=x\n").expect("written");
    let error = refused(node::config(&solo, 2, empty.path(), "")).await;
    assert!(error.contains("version 2") || error.contains("version=2"), "{error}");
    node.stop().await;
}
