//! Consume, transform, produce: each record of one topic goes once into another one, with the offsets of the input committed
//! in the same transaction. Below what is committed, committed readers of the output find each input once, in order.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::transactions::{begin, persist, settled};
use super::{Job, Part, Place, Topic};
use crate::client::{Client, Failure, Outgoing, ReadFrom, Sending, Transactional};
use crate::oracle::visible::Visible;

/// One worker, which reads all partitions of `input` and writes each into the same partition of `output`.
pub struct Pipeline {
    pub input: Topic,
    pub output: Topic,
    visible: Visible,
}

const GROUP: &str = "pipeline";
/// Records of one transaction.
const RECORDS_MAX: usize = 20;
const PACE: Duration = Duration::from_millis(100);

impl Pipeline {
    pub fn new(input: Topic, output: Topic) -> Rc<Self> {
        Rc::new(Self { input, output, visible: Visible::new(output.name, true) })
    }

    async fn live(self: Rc<Self>, place: Place) {
        let (mut reader, mut writer) = (place.client(), place.client());
        while !place.history.stops() {
            let Some(mut who) = begin(&place, &mut writer, "pipeline", place.below(2) == 0).await else { return };
            let outcome = self.one_life(&place, &mut reader, &mut writer, &mut who).await;
            tracing::debug!(?outcome, "the pipeline begins anew");
            place.pause().await;
        }
    }

    async fn one_life(
        &self,
        place: &Place,
        reader: &mut Client,
        writer: &mut Client,
        who: &mut Transactional,
    ) -> Result<(), Failure> {
        let all: Vec<i32> = (0..self.input.partitions).collect();
        let (input, output) = (self.input.name, self.output.name);
        let committed =
            persist(place, writer, output, async |client| client.committed(GROUP, input, &all, true).await).await?;
        let mut positions: BTreeMap<i32, i64> =
            committed.into_iter().map(|(partition, committed)| (partition, committed.offset.max(0))).collect();
        let mut sequences: BTreeMap<i32, i32> = BTreeMap::new();
        while !place.history.stops() {
            let before = who.producer;
            for partition in &all {
                let offset = positions.get(partition).copied().unwrap_or(0);
                let Ok(reading) = reader.read(input, *partition, ReadFrom::offset(offset)).await else {
                    let _ = reader.refresh(input).await;
                    continue;
                };
                let offsets: Vec<i64> = reading.records.iter().take(RECORDS_MAX).map(|record| record.offset).collect();
                let Some(last) = offsets.last() else { continue };
                positions.insert(*partition, last + 1);
                let transaction = (*partition, offsets.as_slice());
                self.transfer(place, writer, who, transaction, &mut sequences).await?;
                place.history.count_work("records taken from topic to topic in a transaction");
                if (before.id, before.epoch) != (who.producer.id, who.producer.epoch) {
                    sequences.clear();
                }
            }
            place.world.sleep(PACE).await;
        }
        Ok(())
    }

    /// One transaction: the offsets of one partition.
    async fn transfer(
        &self,
        place: &Place,
        writer: &mut Client,
        who: &mut Transactional,
        (partition, offsets): (i32, &[i64]),
        sequences: &mut BTreeMap<i32, i32>,
    ) -> Result<(), Failure> {
        let (input, output) = (self.input.name, self.output.name);
        let who_now = who.clone();
        persist(place, writer, output, async |client| client.add_partitions(&who_now, output, &[partition]).await)
            .await?;
        let sequence = sequences.entry(partition).or_insert(0);
        let sending = Sending {
            acks: -1,
            producer: Some((who.producer, *sequence)),
            transactional_id: Some(who.id.clone()),
            joins: who.is_second_version,
            records: offsets.iter().map(|offset| Outgoing::of_value(offset.to_string())).collect(),
            ..Default::default()
        };
        *sequence += offsets.len() as i32;
        persist(place, writer, output, async |client| client.send(output, partition, &sending).await).await?;
        let positions = offsets.last().map(|last| (partition, last + 1)).into_iter().collect();
        persist(place, writer, output, async |client| {
            client.commit_in_transaction(&who_now, GROUP, input, &positions).await
        })
        .await?;
        let commits = place.below(8) != 0;
        let ended = persist(place, writer, output, async |client| client.end_transaction(&who_now, commits).await);
        who.producer = ended.await?;
        // What was read goes again, from what is committed.
        if commits { Ok(()) } else { Err(Failure::Kafka(odradek_common::ErrorCode::ConcurrentTransactions)) }
    }

    async fn check(self: Rc<Self>, place: Place) {
        let (mut client, history) = (place.client(), &place.history);
        let (input, output) = (self.input.name, self.output.name);
        let all: Vec<i32> = (0..self.input.partitions).collect();
        for partition in &all {
            if !settled(&place, &mut client, output, *partition).await {
                return history.broken(format!("liveness: {output}-{partition} has a transaction that nobody ends"));
            }
        }
        let committed =
            persist(&place, &mut client, output, async |client| client.committed(GROUP, input, &all, true).await).await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(failure) => return history.broken(format!("liveness: group {GROUP}: {failure:?}")),
        };
        for partition in all {
            let patience = Duration::from_secs(60);
            let (mut from, mut to) = (place.client(), place.client());
            let inputs = from.read_to_end(input, partition, ReadFrom::offset(0), patience).await;
            let outputs = to.read_to_end(output, partition, ReadFrom::committed(0), patience).await;
            let (Some(inputs), Some(outputs)) = (inputs, outputs) else {
                return history.broken(format!("liveness: partition {partition} cannot be read in the end"));
            };
            self.visible.compare(partition, &outputs, history);
            let until = committed.get(&partition).map_or(-1, |committed| committed.offset);
            let due: Vec<i64> = inputs.iter().map(|record| record.offset).filter(|offset| *offset < until).collect();
            let done: Vec<i64> = outputs.iter().filter_map(|record| parse(record.value.as_deref())).collect();
            history.count_checked(due.len() as u64);
            if due != done {
                let at = due.iter().zip(&done).position(|(due, done)| due != done);
                history.broken(format!(
                    "rule 7: {output}-{partition}: {} inputs below {until} became {} outputs; the first difference is at {at:?}",
                    due.len(),
                    done.len()
                ));
            }
        }
    }
}

fn parse(value: Option<&[u8]>) -> Option<i64> {
    std::str::from_utf8(value?).ok()?.parse().ok()
}

impl Part for Pipeline {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let mut jobs: Vec<Job> = vec![Box::pin(self.clone().live(place.clone()))];
        for partition in 0..self.output.partitions {
            let (this, place) = (self.clone(), place.clone());
            jobs.push(Box::pin(async move { this.visible.follow(place, partition).await }));
        }
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
