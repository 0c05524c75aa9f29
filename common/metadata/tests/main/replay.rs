//! What single records do, what does not fit, and the questions that a broker asks.

use odradek_common::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, PartitionIndex, Uuid};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{ConfigResource, Delta, DeltaTracker, Image, ReplayError, batch};

use crate::generator::{broker, config, id, partition, record, topic};

fn uuid(number: u32) -> Uuid {
    Uuid(id(number).try_into().expect("16 bytes"))
}

fn image() -> Image {
    let records = [
        broker(1, 10),
        broker(3, 11),
        topic(1),
        partition(1, 0, &[1, 3]),
        partition(1, 1, &[3, 1]),
        config(2, "topic-1", "retention.ms", Some("7")),
        config(4, "", "log.cleaner.threads", Some("2")),
        config(4, "1", "num.io.threads", Some("4")),
    ];
    let mut image = Image::new();
    image.apply_records(&records, 12).expect("valid");
    image
}

#[test]
fn a_change_raises_the_epochs_that_it_concerns() {
    let mut image = image();
    let change = |leader, isr: Option<Vec<i32>>| {
        record(Kind::PartitionChange(proto::PartitionChangeRecord {
            topic_id: id(1),
            partition: 0,
            leader,
            isr: isr.map(|ids| proto::Ids { ids }),
            ..Default::default()
        }))
    };
    for (record, leader_epoch, partition_epoch) in
        [(change(None, Some(vec![1])), 0, 1), (change(Some(1), None), 1, 2), (change(Some(-1), Some(vec![])), 2, 3)]
    {
        image.apply_records(&[record], 13).expect("valid");
        let partition = image.partition(uuid(1), PartitionIndex(0)).expect("there");
        assert_eq!(partition.leader_epoch, LeaderEpoch(leader_epoch));
        assert_eq!(partition.partition_epoch, PartitionEpoch(partition_epoch));
    }
    let partition = image.partition_by_name("topic-1", PartitionIndex(0)).expect("there");
    assert!(!partition.has_leader() && partition.isr.is_empty());
}

#[test]
fn a_registration_without_epoch_gets_its_offset() {
    let mut image = Image::new();
    image.apply_records(&[broker(1, 0)], 77).expect("valid");
    assert_eq!(image.broker(BrokerId(1)).map(|broker| broker.epoch), Some(BrokerEpoch(77)));
}

#[test]
fn records_that_do_not_fit_change_nothing() {
    let before = image();
    let unknown = proto::Record { kind: None };
    let stale = record(Kind::UnregisterBroker(proto::UnregisterBrokerRecord { broker_id: 1, broker_epoch: 9 }));
    let short_id = record(Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: vec![1, 2] }));
    let bad_port = record(Kind::RegisterController(proto::RegisterControllerRecord {
        controller_id: 1,
        host: String::new(),
        port: 70_000,
    }));
    let at = |partition| odradek_common::TopicIdPartition { topic_id: uuid(1), partition: PartitionIndex(partition) };
    for (bad, expected) in [
        (unknown, ReplayError::UnknownKind),
        (topic(1), ReplayError::TopicExists { name: "topic-1".to_owned(), id: uuid(1) }),
        (partition(2, 0, &[1]), ReplayError::UnknownTopic(uuid(2))),
        (partition(1, 3, &[1]), ReplayError::PartitionGap { partition: at(3), count: 2 }),
        (partition(1, -1, &[1]), ReplayError::UnknownPartition(at(-1))),
        (stale, ReplayError::BrokerEpoch { broker: BrokerId(1), expected: BrokerEpoch(10), found: BrokerEpoch(9) }),
        (short_id, ReplayError::IdLength { field: "topic_id", length: 2 }),
        (bad_port, ReplayError::OutOfRange { field: "port", value: 70_000 }),
        (config(3, "x", "y", None), ReplayError::OutOfRange { field: "resource_type", value: 3 }),
    ] {
        let mut image = before.clone();
        assert_eq!(image.apply_records(&[topic(9), bad], 13), Err(expected));
        assert_eq!(image, before);
    }
}

#[test]
fn questions_of_a_broker() {
    let image = image();
    // Broker 3 registered fenced.
    assert_eq!(image.alive_brokers().map(|broker| broker.id.0).collect::<Vec<_>>(), [1]);
    let (leader, endpoint) = image.leader_endpoint(uuid(1), PartitionIndex(0), "PLAINTEXT").expect("led by 1");
    assert_eq!((leader, endpoint.to_string().as_str()), (BrokerId(1), "PLAINTEXT://localhost:9092"));
    assert_eq!(image.leader_endpoint(uuid(1), PartitionIndex(0), "SSL"), None);
    assert_eq!(image.leader_endpoint(uuid(1), PartitionIndex(1), "PLAINTEXT"), None);
    assert_eq!(image.topic_config("topic-1", "retention.ms"), Some("7"));
    assert_eq!(image.broker_config(BrokerId(1), "num.io.threads"), Some("4"));
    assert_eq!(image.broker_config(BrokerId(1), "log.cleaner.threads"), Some("2"));
    assert_eq!(image.broker_config(BrokerId(3), "num.io.threads"), None);
    assert_eq!(image.topic_names_with_prefix("topic-").count(), 1);
    assert_eq!(image.topic_names_with_prefix("u").count(), 0);
}

#[test]
fn deleting_a_topic_takes_its_configs_along() {
    let mut tracker = DeltaTracker::new(image());
    let remove = record(Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: id(1) }));
    let again = record(Kind::Topic(proto::TopicRecord { name: "topic-1".to_owned(), topic_id: id(2) }));
    tracker.apply_records(&[remove, again], 13).expect("valid");
    let delta = tracker.publish();
    assert_eq!(delta.removed_topics.iter().map(|topic| topic.id).collect::<Vec<_>>(), [uuid(1)]);
    assert!(delta.topics[&uuid(2)].created);
    assert!(delta.configs.contains(&ConfigResource::topic("topic-1")));
    assert_eq!(delta.after.topic_config("topic-1", "retention.ms"), None);
    assert!(tracker.publish().is_empty());
}

#[test]
fn a_topic_that_came_and_went_was_never_there() {
    let mut tracker = DeltaTracker::default();
    let remove = record(Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: id(1) }));
    tracker.apply_records(&[topic(1), partition(1, 0, &[1])], 0).expect("valid");
    tracker.apply_records(&[remove], 1).expect("valid");
    assert!(tracker.publish().is_empty());
}

#[test]
fn a_snapshot_in_between_is_published_as_a_difference() {
    let mut tracker = DeltaTracker::new(image());
    let mut other = image();
    other.apply_records(&[topic(2), partition(2, 0, &[1])], 20).expect("valid");
    let delta = tracker.reset(other.clone());
    assert_eq!(delta.topics.keys().copied().collect::<Vec<_>>(), [uuid(2)]);
    assert_eq!(Delta::between(&other, &other), Delta { before: other.clone(), after: other, ..Delta::default() });
}

#[test]
fn a_batch_of_another_format_is_refused_by_its_number() {
    let good = batch::new(vec![topic(1)], odradek_common::time::Timestamp(3));
    assert_eq!(batch::decode(&batch::encode(&good)), Ok(good.clone()));
    let newer = proto::Batch { format_version: 2, ..good.clone() };
    let error = batch::decode(&batch::encode(&newer)).expect_err("unknown");
    assert_eq!(error, batch::BatchError::UnknownFormat { found: 2 });
    assert!(error.to_string().contains("format 2 is unknown"));
    // A record of a kind that is added later decodes as none.
    let unknown = proto::Batch { records: vec![topic(1), proto::Record { kind: None }], ..good };
    assert_eq!(batch::decode(&batch::encode(&unknown)), Err(batch::BatchError::UnknownRecord { index: 1 }));
}
