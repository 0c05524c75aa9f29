//! A compacted topic: each key has one producer, so its last value is known. However much was cleaned away, the last
//! acknowledged value of each key survives (or a later one that was sent and not answered), and offsets only grow.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;

use super::{Job, Part, Place, Topic, held, leading_number};
use crate::client::{Outgoing, ReadFrom, Sending};

/// What is known of a key: the numbers of the last record that was acknowledged and of the last one that was sent.
#[derive(Clone, Copy, Default, Debug)]
struct Key {
    acknowledged: u64,
    sent: u64,
}

/// An idempotent producer for each partition of a compacted topic.
pub struct Keyed {
    pub topic: Topic,
    keys: u64,
    pace: Duration,
    known: Mutex<BTreeMap<(i32, u64), Key>>,
}

/// Every so many records of a key one has no value: a tombstone.
const TOMBSTONE_EVERY: u64 = 7;

impl Keyed {
    pub fn new(topic: Topic, keys: u64, pace: Duration) -> Rc<Self> {
        Rc::new(Self { topic, keys, pace, known: Mutex::default() })
    }

    async fn produce(self: Rc<Self>, place: Place, partition: i32) {
        let (mut client, name) = (place.client(), self.topic.name);
        let Some(producer) = place.producer(&mut client).await else { return };
        let (mut number, mut sequence) = (0u64, 0);
        while !place.history.stops() {
            number += 1;
            let key = place.below(self.keys);
            held(&self.known).entry((partition, key)).or_default().sent = number;
            let value = format!("{number} {}", "x".repeat(60)).into_bytes();
            let sending = Sending {
                acks: -1,
                producer: Some((producer, sequence)),
                records: vec![Outgoing {
                    key: Some(key.to_string().into_bytes()),
                    value: (number % TOMBSTONE_EVERY != 0).then_some(value),
                }],
                ..Default::default()
            };
            sequence += 1;
            // Nothing overtakes it: until it is acknowledged, it is the last one of its key.
            loop {
                match client.send(name, partition, &sending).await {
                    Ok(_) => {
                        held(&self.known).entry((partition, key)).or_default().acknowledged = number;
                        place.history.count_work("record of a key");
                        break;
                    }
                    Err(crate::client::Failure::Kafka(code)) if !code.is_retriable() => {
                        return place.history.broken(format!("{name}-{partition}, record {number}: {code} is final"));
                    }
                    Err(_) if place.history.stops() => break,
                    Err(_) => {
                        place.pause().await;
                        let _ = client.refresh(name).await;
                    }
                }
            }
            place.world.sleep(self.pace).await;
        }
    }

    async fn check(self: Rc<Self>, place: Place) {
        let (mut client, name, history) = (place.client(), self.topic.name, &place.history);
        for partition in 0..self.topic.partitions {
            let read = place.read_in_the_end(&mut client, name, partition, ReadFrom::offset(0)).await;
            let Some(records) = read else { return };
            let (mut last, mut previous) = (BTreeMap::new(), -1);
            for record in &records {
                if record.offset <= previous {
                    history.broken(format!("rule 1: {name}-{partition}: {} follows {previous}", record.offset));
                }
                previous = record.offset;
                let key = leading_number(record.key.as_deref()).unwrap_or(u64::MAX);
                last.insert(key, leading_number(record.value.as_deref()));
            }
            let cleaned = (previous + 1 - records.len() as i64).max(0);
            history.count_work_by("record cleaned away", cleaned as u64);
            for ((_, key), known) in held(&self.known).range((partition, 0)..=(partition, u64::MAX)) {
                history.count_checked(1);
                let is_right = match last.get(key) {
                    Some(Some(number)) => (known.acknowledged..=known.sent).contains(number),
                    // A tombstone, which may be gone: it has to be one that was sent.
                    _ => known.acknowledged == 0 || (known.acknowledged..=known.sent).any(|n| n % TOMBSTONE_EVERY == 0),
                };
                if !is_right {
                    history.broken(format!(
                        "rule 10: {name}-{partition}, key {key}: {known:?}, and the log has {:?}",
                        last.get(key)
                    ));
                }
            }
        }
    }

    /// Whoever makes a compacted topic sees it compacted.
    async fn watch(self: Rc<Self>, place: Place) {
        let (mut client, name) = (place.client(), self.topic.name);
        while !place.history.stops() {
            for partition in 0..self.topic.partitions {
                match client.offset_of(name, partition, crate::client::EARLIEST).await {
                    Ok(0) => {}
                    Ok(start) => place.history.broken(format!("rule 10: {name}-{partition} begins at {start}")),
                    Err(crate::client::Failure::Kafka(ErrorCode::OffsetNotAvailable)) => {}
                    Err(_) => drop(client.refresh(name).await),
                }
            }
            place.world.sleep(Duration::from_secs(2)).await;
        }
    }
}

impl Part for Keyed {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let mut jobs: Vec<Job> = vec![Box::pin(self.clone().watch(place.clone()))];
        for partition in 0..self.topic.partitions {
            jobs.push(Box::pin(self.clone().produce(place.clone(), partition)));
        }
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
