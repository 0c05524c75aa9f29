//! What a group has committed of one topic: it never goes back by itself, and nothing is skipped, as everything acknowledged
//! below it was handed to some member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;

use crate::client::{Client, Failure, ReadFrom};
use crate::workload::{History, Place, Topic, held};

#[derive(Default)]
struct State {
    /// The highest acknowledged commit of each partition.
    acknowledged: BTreeMap<i32, i64>,
    /// Commits without an answer: each may still come to be at any time.
    uncertain: BTreeSet<(i32, i64)>,
    processed: BTreeSet<(i32, i64)>,
}

/// Of one group, whose members tell what they do.
pub struct Committed {
    group: &'static str,
    topic: Topic,
    state: Mutex<State>,
}

impl Committed {
    pub fn new(topic: Topic, group: &'static str) -> Self {
        Self { group, topic, state: Mutex::default() }
    }

    /// Where to go on, and whether what was committed is still there.
    pub async fn resume(
        &self,
        place: &Place,
        client: &mut Client,
        mine: &[i32],
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let found = self.fetch(place, client, mine).await?;
        Ok(found.into_iter().map(|(partition, offset)| (partition, offset.max(0))).collect())
    }

    async fn fetch(&self, place: &Place, client: &mut Client, mine: &[i32]) -> Result<BTreeMap<i32, i64>, Failure> {
        // What was acknowledged before it is asked for.
        let floor = held(&self.state).acknowledged.clone();
        let found = client.committed(self.group, self.topic.name, mine, false).await?;
        for (partition, committed) in &found {
            client.know_read_epoch(*partition, committed.leader_epoch);
        }
        let found = found.into_iter().map(|(partition, committed)| (partition, committed.offset)).collect();
        let gone_back = self.compare(&place.history, &floor, &found);
        if gone_back.is_empty() {
            return Ok(found);
        }
        // A read from who was the coordinator until now is old, in Kafka too; what was committed is still there.
        if client.asked_a_former_coordinator(self.group).await {
            place.history.count_work("a former coordinator told of old offsets");
            client.forget_coordinators();
            return Err(Failure::Kafka(ErrorCode::NotCoordinator));
        }
        gone_back.into_iter().for_each(|broken| place.history.broken(broken));
        Ok(found)
    }

    /// What of it is less than was committed for sure.
    fn compare(&self, history: &History, floor: &BTreeMap<i32, i64>, found: &BTreeMap<i32, i64>) -> Vec<String> {
        let mut gone_back = Vec::new();
        for (partition, offset) in found {
            history.count_work("committed offset compared");
            let least = floor.get(partition).copied().unwrap_or(-1);
            if *offset < least && !held(&self.state).uncertain.contains(&(*partition, *offset)) {
                let group = self.group;
                gone_back.push(format!(
                    "group {group}: partition {partition}: {least} was committed, and now it is {offset}"
                ));
            }
        }
        gone_back
    }

    /// A member reads a little further in its partitions.
    pub async fn read_on(&self, place: &Place, client: &mut Client, positions: &mut BTreeMap<i32, i64>) {
        let topic = self.topic.name;
        for (partition, position) in positions {
            match client.read(topic, *partition, ReadFrom::offset(*position)).await {
                Ok(reading) => {
                    *position = reading.next_offset;
                    let offsets = reading.records.iter().map(|record| (*partition, record.offset));
                    held(&self.state).processed.extend(offsets);
                }
                Err(Failure::Kafka(ErrorCode::OffsetOutOfRange)) => {
                    let message = format!("group {}: {topic}-{partition}/{position} is gone", self.group);
                    place.history.broken(message);
                }
                Err(_) => {
                    let _ = client.refresh(topic).await;
                }
            }
        }
    }

    /// A member has committed, or cannot know whether it has.
    pub fn note(&self, history: &History, positions: &BTreeMap<i32, i64>, outcome: &Result<(), Failure>) {
        let mut state = held(&self.state);
        match outcome {
            Ok(()) => {
                history.count_work("offsets committed");
                for (partition, offset) in positions {
                    let highest = state.acknowledged.entry(*partition).or_insert(*offset);
                    *highest = (*highest).max(*offset);
                }
            }
            Err(_) => state.uncertain.extend(positions.iter().map(|(partition, offset)| (*partition, *offset))),
        }
    }

    fn all(&self) -> Vec<i32> {
        (0..self.topic.partitions).collect()
    }

    /// Somebody else asks what is committed.
    pub async fn observe(&self, place: &Place) {
        let mut client = place.client();
        while !place.history.stops() {
            if self.fetch(place, &mut client, &self.all()).await.is_err() {
                client.forget_coordinators();
            }
            place.world.sleep(Duration::from_millis(700)).await;
        }
    }

    /// In the end.
    pub async fn check(&self, place: &Place) {
        let mut client = place.client();
        let limit = place.world.instant() + Duration::from_secs(60);
        let committed = loop {
            match self.fetch(place, &mut client, &self.all()).await {
                Ok(found) => break found,
                Err(failure) if place.world.instant() > limit => {
                    return place.history.broken(format!("liveness: group {}: {failure:?}", self.group));
                }
                Err(_) => {
                    client.forget_coordinators();
                    place.pause().await;
                }
            }
        };
        let state = held(&self.state);
        for record in held(&place.history.acknowledged).iter() {
            let below = committed.get(&record.partition).is_some_and(|committed| record.offset < *committed);
            if below && !state.processed.contains(&(record.partition, record.offset)) {
                let at = (record.partition, record.offset);
                held(&place.history.broken)
                    .push(format!("group {}: {at:?} was committed past, and no member had it", self.group));
            }
        }
        place.history.count_checked(state.processed.len() as u64);
    }
}
