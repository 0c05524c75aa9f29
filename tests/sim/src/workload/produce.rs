//! Idempotent producers that remember what was acknowledged, a reader that watches the high watermark, and
//! the check at the end: rules 1 to 4 of `docs/ARCHITECTURE.md`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_node::World;

use super::{Acknowledged, History, Job, Part, Place, RETRY_PAUSE, Topic};
use crate::client::{Client, Failure, Outgoing, Producer, ReadFrom, Sending};

/// Producers of one topic, and a reader of each partition.
pub struct Produce {
    pub topic: Topic,
    pub producers: usize,
    /// Between two batches of a producer.
    pub pace: Duration,
}

impl Part for Produce {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let Topic { name, partitions, .. } = self.topic;
        let mut jobs: Vec<Job> = Vec::new();
        for producer in 0..self.producers {
            let Place { world, bootstrap, history } = place.clone();
            let partition = producer as i32 % partitions;
            jobs.push(Box::pin(produce_at(world, bootstrap, self.topic, partition, producer, history, self.pace)));
        }
        for partition in 0..partitions {
            let Place { world, bootstrap, history } = place.clone();
            jobs.push(Box::pin(watch(world, bootstrap, name, partition, history)));
        }
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(async move {
            for partition in 0..self.topic.partitions {
                let Place { world, bootstrap, history } = place.clone();
                match read_all(&world, bootstrap, self.topic.name, partition, Duration::from_secs(60)).await {
                    Some(records) => check(partition, &records, &history),
                    None => history.broken(format!("liveness: partition {partition} cannot be read in the end")),
                }
            }
        })
    }
}

/// Between two batches of a producer, unless something else is said.
const PACE: Duration = Duration::from_millis(5);

/// The value of one record, unique in a run.
pub(super) fn value(producer: usize, number: u64) -> Vec<u8> {
    format!("producer {producer} record {number} {}", "x".repeat((number % 50) as usize)).into_bytes()
}

pub(crate) fn parse(value: &[u8]) -> Option<(usize, u64)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(' ');
    let producer = words.nth(1)?.parse().ok()?;
    Some((producer, words.nth(1)?.parse().ok()?))
}

/// Creates the topic, however often the cluster has to be asked.
pub async fn create_topic(world: World, bootstrap: Vec<(String, u16)>, topic: Topic, history: Arc<History>) {
    let Topic { name, partitions, replicas, configs, .. } = topic;
    let mut client = Client::new(world.clone(), bootstrap);
    loop {
        match client.create(name, partitions, replicas, configs).await {
            Ok(_) | Err(Failure::Kafka(ErrorCode::TopicAlreadyExists)) => break,
            Err(_) => world.sleep(RETRY_PAUSE).await,
        }
    }
    history.note(format_args!("topic {name} is there"));
}

/// Produces batches to one partition until the history says stop. A batch is sent again, with its sequence, until it is
/// acknowledged: so its records may be there once without an acknowledgement, never twice.
pub async fn produce(
    world: World,
    bootstrap: Vec<(String, u16)>,
    topic: Topic,
    partition: i32,
    producer: usize,
    history: Arc<History>,
) {
    produce_at(world, bootstrap, topic, partition, producer, history, PACE).await;
}

/// As `produce`, with `pace` between two batches.
async fn produce_at(
    world: World,
    bootstrap: Vec<(String, u16)>,
    topic: Topic,
    partition: i32,
    producer: usize,
    history: Arc<History>,
    pace: Duration,
) {
    let mut client = Client::new(world.clone(), bootstrap);
    let mut identity: Option<Producer> = None;
    let mut number = 0u64;
    while !history.stops() {
        let Some(known) = identity else {
            match client.init_producer().await {
                Ok(new) => identity = Some(new),
                Err(failure) => {
                    tracing::debug!(producer, ?failure, "no producer id");
                    world.sleep(RETRY_PAUSE).await;
                }
            }
            continue;
        };
        let count = 1 + number % 3;
        let sending = Sending {
            acks: topic.acks,
            producer: Some((known, number as i32)),
            records: (number..number + count).map(|number| Outgoing::of_value(value(producer, number))).collect(),
            ..Default::default()
        };
        match client.send(topic.name, partition, &sending).await {
            Ok(base) => {
                let mut acknowledged = history.acknowledged.lock().expect("no holder panics");
                acknowledged.extend((0..count).map(|n| Acknowledged {
                    producer,
                    number: number + n,
                    partition,
                    offset: base + n as i64,
                }));
                drop(acknowledged);
                history.note(format_args!("producer {producer}: {count} from {number} at {partition}/{base}"));
                number += count;
            }
            Err(Failure::Kafka(code)) if !code.is_retriable() => {
                history.broken(format!("rules 1 and 6: producer {producer}, record {number}: {code} is final"));
                return;
            }
            Err(failure) => {
                tracing::debug!(producer, number, ?failure, "not acknowledged");
                world.sleep(RETRY_PAUSE).await;
                let _ = client.refresh(topic.name).await;
            }
        }
        world.sleep(pace).await;
    }
}

/// Reads one partition from its start to its end and answers its records; `None` when it is not served within `patience`.
pub async fn read_all(
    world: &World,
    bootstrap: Vec<(String, u16)>,
    topic: &'static str,
    partition: i32,
    patience: Duration,
) -> Option<Vec<(i64, Vec<u8>)>> {
    let mut client = Client::new(world.clone(), bootstrap);
    let mut records = Vec::new();
    let mut offset = 0;
    let limit = world.instant() + patience;
    while world.instant() < limit {
        match client.read(topic, partition, ReadFrom::offset(offset)).await {
            Ok(answer) => {
                let values = answer.records.into_iter().map(|record| (record.offset, record.value));
                records.extend(values.map(|(offset, value)| (offset, value.unwrap_or_default().to_vec())));
                offset = answer.next_offset;
                if offset >= answer.high_watermark {
                    return Some(records);
                }
            }
            Err(_) => {
                world.sleep(RETRY_PAUSE).await;
                let _ = client.refresh(topic).await;
            }
        }
    }
    None
}

/// Follows one partition and checks that what was once visible stays: within one leader epoch the high watermark never
/// falls, and a record that was read is never another one later (rule 3).
pub async fn watch(
    world: World,
    bootstrap: Vec<(String, u16)>,
    topic: &'static str,
    partition: i32,
    history: Arc<History>,
) {
    let mut client = Client::new(world.clone(), bootstrap);
    let mut offset = 0;
    let mut highest: BTreeMap<i32, i64> = BTreeMap::new();
    while !history.stops() {
        let epoch = client.leaders.get(&partition).map_or(-1, |leader| leader.epoch);
        match client.read(topic, partition, ReadFrom::offset(offset)).await {
            Ok(answer) => {
                let seen = highest.entry(epoch).or_insert(answer.high_watermark);
                if answer.high_watermark < *seen {
                    history.broken(format!(
                        "rule 3: partition {partition}, leader epoch {epoch}: the high watermark fell from {seen} to {}",
                        answer.high_watermark
                    ));
                }
                *seen = answer.high_watermark.max(*seen);
                for record in &answer.records {
                    if record.offset >= answer.high_watermark {
                        history.broken(format!(
                            "rule 3: partition {partition}: offset {} was served at a high watermark of {}",
                            record.offset, answer.high_watermark
                        ));
                    }
                }
                offset = answer.next_offset;
            }
            Err(Failure::Kafka(ErrorCode::OffsetOutOfRange)) => {
                history.broken(format!("rule 1: partition {partition}: offset {offset} was visible and is gone"));
                return;
            }
            Err(_) => {
                world.sleep(RETRY_PAUSE).await;
                let _ = client.refresh(topic).await;
            }
        }
    }
}

/// Rule 1 over what a partition holds in the end: every acknowledged record once, at its offset, in its producer's order.
pub fn check(partition: i32, records: &[(i64, Vec<u8>)], history: &History) {
    let mut offsets: BTreeMap<(usize, u64), i64> = BTreeMap::new();
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    let mut previous = -1;
    for (offset, value) in records {
        if *offset <= previous {
            history.broken(format!("rule 1: partition {partition}: offset {offset} follows {previous}"));
        }
        previous = *offset;
        let Some((producer, number)) = parse(value) else {
            history.broken(format!("rule 1: partition {partition}: a record at {offset} that nobody sent"));
            continue;
        };
        if offsets.insert((producer, number), *offset).is_some() {
            history
                .broken(format!("rule 1: partition {partition}: producer {producer}, record {number} is there twice"));
        }
        let expected = last.get(&producer).map_or(0, |last| last + 1);
        if number != expected {
            history.broken(format!(
                "rule 1: partition {partition}: producer {producer}, record {number} at {offset} where {expected} was due"
            ));
        }
        last.insert(producer, number);
    }
    for record in history.acknowledged.lock().expect("no holder panics").iter() {
        history.checked.fetch_add(u64::from(record.partition == partition), Ordering::Relaxed);
        if record.partition == partition && offsets.get(&(record.producer, record.number)) != Some(&record.offset) {
            history.broken.lock().expect("no holder panics").push(format!(
                "rule 1: partition {partition}: producer {}, record {} was acknowledged at {} and is {}",
                record.producer,
                record.number,
                record.offset,
                match offsets.get(&(record.producer, record.number)) {
                    Some(offset) => format!("at {offset}"),
                    None => "lost".to_owned(),
                }
            ));
        }
    }
}

/// How many acknowledged records the partition does not hold where they were acknowledged.
pub fn lost(partition: i32, records: &[(i64, Vec<u8>)], history: &History) -> usize {
    let found: BTreeMap<i64, Option<(usize, u64)>> =
        records.iter().map(|(offset, value)| (*offset, parse(value))).collect();
    let acknowledged = history.acknowledged.lock().expect("no holder panics");
    let of_partition = acknowledged.iter().filter(|record| record.partition == partition);
    of_partition.filter(|record| found.get(&record.offset) != Some(&Some((record.producer, record.number)))).count()
}
