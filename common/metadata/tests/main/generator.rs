//! Makes valid records from arbitrary numbers: each number picks what happens next to the image so far.

use odradek_metadata::Image;
use odradek_metadata::proto::{self, Record, record::Kind};

pub fn record(kind: Kind) -> Record {
    Record { kind: Some(kind) }
}

pub fn id(number: u32) -> Vec<u8> {
    let mut bytes = [7; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    bytes.to_vec()
}

pub fn topic(number: u32) -> Record {
    record(Kind::Topic(proto::TopicRecord { name: format!("topic-{number}"), topic_id: id(number) }))
}

pub fn partition(topic: u32, partition: i32, replicas: &[i32]) -> Record {
    record(Kind::Partition(proto::PartitionRecord {
        topic_id: id(topic),
        partition,
        replicas: replicas.to_vec(),
        isr: replicas.to_vec(),
        leader: replicas[0],
        ..Default::default()
    }))
}

pub fn broker(number: i32, epoch: i64) -> Record {
    record(Kind::RegisterBroker(proto::RegisterBrokerRecord {
        broker_id: number,
        incarnation_id: id(epoch as u32),
        broker_epoch: epoch,
        endpoints: vec![proto::Endpoint {
            listener: "PLAINTEXT".to_owned(),
            host: "localhost".to_owned(),
            port: 9092,
            security_protocol: "PLAINTEXT".to_owned(),
        }],
        features: vec![proto::FeatureRange { name: "metadata.version".to_owned(), min_level: 1, max_level: 30 }],
        rack: (number % 2 == 0).then(|| "a".to_owned()),
        fenced: number % 3 == 0,
        in_controlled_shutdown: false,
        decommissioning: number % 5 == 0,
        fenced_by_operator: number % 6 == 0,
        log_dirs: vec![id(2), id(1)],
    }))
}

pub fn config(kind: i32, resource: &str, name: &str, value: Option<&str>) -> Record {
    record(Kind::Config(proto::ConfigRecord {
        resource_type: kind,
        resource_name: resource.to_owned(),
        name: name.to_owned(),
        value: value.map(str::to_owned),
    }))
}

/// One valid record for `image`, chosen by `number`; `next_topic` counts the topics that were ever made.
pub fn next(image: &Image, number: u32, next_topic: &mut u32) -> Record {
    let small = |modulo: u32| (number >> 8) % modulo;
    let existing = image.topics().nth((number >> 16) as usize % image.topic_count().max(1)).cloned();
    match (number % 12, existing) {
        (0, _) | (_, None) => {
            *next_topic += 1;
            topic(*next_topic)
        }
        (1 | 2, Some(topic)) => {
            let first = small(5) as i32;
            record(Kind::Partition(proto::PartitionRecord {
                topic_id: topic.id.0.to_vec(),
                partition: topic.partition_count(),
                replicas: vec![first, first + 1, first + 2],
                directories: if small(2) == 0 { vec![] } else { vec![id(1), id(2), id(3)] },
                isr: vec![first, first + 2],
                removing_replicas: vec![first; small(2) as usize],
                adding_replicas: vec![first + 2; small(3) as usize],
                leader: first,
                leader_recovery_state: small(2) as i32,
                leader_epoch: small(9) as i32,
                partition_epoch: small(17) as i32,
                elr: vec![first + 1; small(2) as usize],
                last_known_elr: vec![first; small(2) as usize],
            }))
        }
        (3..=5, Some(topic)) if topic.partition_count() > 0 => {
            let ids = |bit: u32, list: &[i32]| (small(32) >> bit & 1 == 1).then(|| proto::Ids { ids: list.to_vec() });
            record(Kind::PartitionChange(proto::PartitionChangeRecord {
                topic_id: topic.id.0.to_vec(),
                partition: small(topic.partition_count() as u32) as i32,
                isr: ids(0, &[1]),
                leader: (small(3) == 0).then_some(small(7) as i32 - 1),
                replicas: ids(1, &[4, 1, 2, 3, 5]),
                elr: ids(2, &[2]),
                last_known_elr: ids(3, &[]),
                leader_recovery_state: (small(4) == 1).then_some(1),
                ..Default::default()
            }))
        }
        (6, Some(topic)) if small(3) == 0 => {
            record(Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: topic.id.0.to_vec() }))
        }
        (7, Some(topic)) => config(2, &topic.name, "retention.ms", (small(3) > 0).then_some("5")),
        (8, _) => config(4, if small(2) == 0 { "" } else { "1" }, "num.io.threads", (small(3) > 0).then_some("9")),
        (9, _) => record(Kind::FeatureLevel(proto::FeatureLevelRecord {
            name: format!("feature-{}", small(4)),
            level: small(3) as i32,
        })),
        (10, _) => record(Kind::ProducerIds(proto::ProducerIdsRecord {
            broker_id: 1,
            broker_epoch: 1,
            next_producer_id: image.next_producer_id() + 1000,
        })),
        _ => broker_record(image, small(6) as i32, i64::from(number >> 4)),
    }
}

fn broker_record(image: &Image, number: i32, arbitrary: i64) -> Record {
    let Some(old) = image.brokers().find(|broker| broker.id.0 == number) else {
        return broker(number, arbitrary + 1);
    };
    let (broker_id, broker_epoch) = (number, old.epoch.0);
    match arbitrary % 3 {
        0 => record(Kind::UnregisterBroker(proto::UnregisterBrokerRecord { broker_id, broker_epoch })),
        1 => record(Kind::RegisterController(proto::RegisterControllerRecord {
            controller_id: number,
            host: "localhost".to_owned(),
            port: 9000 + arbitrary as u32 % 50,
        })),
        _ => record(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            broker_id,
            broker_epoch,
            fenced: Some(!old.fenced),
            in_controlled_shutdown: Some(arbitrary % 2 == 0),
            decommissioning: (arbitrary % 3 == 0).then_some(arbitrary % 2 == 0),
            fenced_by_operator: (arbitrary % 5 == 0).then_some(arbitrary % 2 == 0),
            log_dirs: None,
        })),
    }
}
