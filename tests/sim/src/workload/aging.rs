//! A topic whose records grow too old. The log begins later and later, but never behind a record that is younger than
//! `retention.ms`; its end never falls in the eyes of the same or a newer leader; and what is not deleted is there as it was acknowledged.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use super::{Job, Part, Place, Topic, held, leading_number};
use crate::client::{EARLIEST, LATEST, Outgoing, ReadFrom, Sending};

/// One acknowledged record: its number, and when it was surely not yet sent.
#[derive(Clone, Copy, Debug)]
struct Record {
    number: u64,
    sent_ms: i64,
}

/// An idempotent producer for each partition of a topic with retention.
pub struct Aging {
    pub topic: Topic,
    retention_ms: i64,
    pace: Duration,
    acknowledged: Mutex<BTreeMap<(i32, i64), Record>>,
}

impl Aging {
    pub fn new(topic: Topic, retention_ms: i64, pace: Duration) -> Rc<Self> {
        Rc::new(Self { topic, retention_ms, pace, acknowledged: Mutex::default() })
    }

    async fn produce(self: Rc<Self>, place: Place, partition: i32) {
        let (mut client, name) = (place.client(), self.topic.name);
        let Some(producer) = place.producer(&mut client).await else { return };
        let mut number = 0u64;
        // Of the first attempt: what is acknowledged may be that one.
        let mut sent_ms = place.world.timestamp().0;
        while !place.history.stops() {
            let sending = Sending {
                acks: -1,
                producer: Some((producer, number as i32)),
                records: vec![Outgoing::of_value(format!("{number} {}", "x".repeat(80)))],
                ..Default::default()
            };
            match client.send(name, partition, &sending).await {
                Ok(offset) => {
                    place.history.count_work("record that grows old");
                    held(&self.acknowledged).insert((partition, offset), Record { number, sent_ms });
                    number += 1;
                    sent_ms = place.world.timestamp().0;
                }
                Err(crate::client::Failure::Kafka(code)) if !code.is_retriable() => {
                    return place.history.broken(format!("{name}-{partition}, record {number}: {code} is final"));
                }
                Err(_) => {
                    place.pause().await;
                    let _ = client.refresh(name).await;
                }
            }
            place.world.sleep(self.pace).await;
        }
    }

    async fn watch(self: Rc<Self>, place: Place) {
        let (mut client, name) = (place.client(), self.topic.name);
        let mut starts: BTreeMap<i32, i64> = BTreeMap::new();
        // The highest end of each partition that a leader of this epoch or an older one has told.
        let mut ends: BTreeMap<(i32, i32), i64> = BTreeMap::new();
        while !place.history.stops() {
            for partition in 0..self.topic.partitions {
                let Some(epoch) = client.leaders.get(&partition).map(|leader| leader.epoch) else {
                    let _ = client.refresh(name).await;
                    continue;
                };
                let start = client.offset_of(name, partition, EARLIEST).await;
                let end = client.offset_of(name, partition, LATEST).await;
                let (Ok(start), Ok(end)) = (start, end) else {
                    let _ = client.refresh(name).await;
                    continue;
                };
                // A leader that was cut off answers, as Kafka's does, with the end that it knows, in the epoch that it
                // knows: both are checked before the answer. So ends only grow from epoch to epoch.
                let older = ends.range((partition, 0)..=(partition, epoch)).map(|(_, end)| *end).max();
                if let Some(before) = older.filter(|before| end < *before) {
                    place.history.broken(format!("rule 1: {name}-{partition} ends at {end}, after {before}"));
                }
                ends.insert((partition, epoch), end);
                let known = starts.entry(partition).or_default();
                if start > *known {
                    place.history.count_work_by("record deleted for its age", (start - *known) as u64);
                    *known = start;
                    self.check_start(&place, partition, start);
                }
            }
            place.world.sleep(Duration::from_millis(600)).await;
        }
    }

    fn check_start(&self, place: &Place, partition: i32, start: i64) {
        let now_ms = place.world.timestamp().0;
        let gone = held(&self.acknowledged);
        for ((_, offset), record) in gone.range((partition, 0)..(partition, start)) {
            place.history.count_checked(1);
            if now_ms - record.sent_ms < self.retention_ms {
                place.history.broken(format!(
                    "retention: {}-{partition}/{offset}, {} ms old, is gone",
                    self.topic.name,
                    now_ms - record.sent_ms
                ));
            }
        }
    }

    async fn check(self: Rc<Self>, place: Place) {
        let (mut client, name, history) = (place.client(), self.topic.name, &place.history);
        for partition in 0..self.topic.partitions {
            let read = place.read_in_the_end(&mut client, name, partition, ReadFrom::offset(0)).await;
            let Some(records) = read else { return };
            let found: BTreeMap<i64, u64> = (records.iter())
                .filter_map(|record| Some((record.offset, leading_number(record.value.as_deref())?)))
                .collect();
            let now_ms = place.world.timestamp().0;
            for ((_, offset), record) in held(&self.acknowledged).range((partition, 0)..=(partition, i64::MAX)) {
                history.count_checked(1);
                let is_young = now_ms - record.sent_ms < self.retention_ms;
                match found.get(offset) {
                    Some(number) if *number == record.number => {}
                    None if !is_young => {}
                    other => history.broken(format!(
                        "rule 1: {name}-{partition}/{offset}: {record:?} was acknowledged, and there is {other:?}"
                    )),
                }
            }
        }
    }
}

impl Part for Aging {
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
