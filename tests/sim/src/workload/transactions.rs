//! Transactional producers, in both versions of the protocol. Some transactions are committed, some aborted, some left by a
//! producer whose place another one takes. Committed readers find each committed one whole, once and in order, nothing of an
//! aborted one, and of one whose end nobody heard of all or nothing; and no transaction hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;

use super::{Job, Part, Place, Topic, held};
use crate::client::{Client, Failure, Outgoing, ReadFrom, Sending, Transactional};
use crate::oracle::visible::Visible;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Committed,
    Aborted,
    /// A commit without an answer, or with one that says nothing of it.
    Unknown,
}

#[derive(Clone, Debug)]
struct Transaction {
    /// Where its records are: partition, offset if it was acknowledged.
    partitions: Vec<(i32, Option<i64>)>,
    end: End,
}

/// Producers of one topic, each with a transactional id.
pub struct Transactions {
    pub topic: Topic,
    producers: usize,
    visible: Visible,
    /// By producer and number.
    ended: Mutex<BTreeMap<(usize, u64), Transaction>>,
}

/// Between two transactions.
const PACE: Duration = Duration::from_millis(150);

/// Whether the coordinator or a log says that this producer's life is over, or its transaction.
pub(super) fn is_fatal(failure: &Failure) -> bool {
    matches!(failure, Failure::Kafka(code) if !code.is_retriable())
}

impl Transactions {
    pub fn new(topic: Topic, producers: usize) -> Rc<Self> {
        let visible = Visible::new(topic.name, true);
        Rc::new(Self { topic, producers, visible, ended: Mutex::default() })
    }

    async fn live(self: Rc<Self>, place: Place, producer: usize) {
        let mut client = place.client();
        let mut number = 0;
        while !place.history.stops() {
            let id = format!("transactional-{producer}");
            let Some(mut who) = begin(&place, &mut client, &id, place.below(2) == 0).await else { return };
            let mut sequences = BTreeMap::new();
            while !place.history.stops() {
                let mut transaction = Transaction { partitions: Vec::new(), end: End::Aborted };
                let before = who.producer;
                let outcome =
                    self.one(&place, &mut client, &mut who, number, producer, &mut sequences, &mut transaction).await;
                place.history.note(format_args!("{id} transaction {number}: {:?}", transaction.end));
                place.history.count_work(&format!("transaction {:?}", transaction.end).to_lowercase());
                held(&self.ended).insert((producer, number), transaction);
                number += 1;
                if (who.producer.id, who.producer.epoch) != (before.id, before.epoch) {
                    sequences.clear();
                }
                if let Err(failure) = outcome {
                    tracing::debug!(?failure, "this producer begins anew");
                    place.history.count_work("transactional producer begins anew");
                    break;
                }
                place.world.sleep(PACE).await;
            }
        }
    }

    /// One transaction to its end. Fails when this life of the producer is over.
    #[allow(clippy::too_many_arguments)]
    async fn one(
        &self,
        place: &Place,
        client: &mut Client,
        who: &mut Transactional,
        number: u64,
        producer: usize,
        sequences: &mut BTreeMap<i32, i32>,
        transaction: &mut Transaction,
    ) -> Result<(), Failure> {
        let topic = self.topic.name;
        let first = place.below(self.topic.partitions as u64) as i32;
        let count = 1 + place.below(self.topic.partitions as u64) as i32;
        let partitions: Vec<i32> = (0..count).map(|n| (first + n) % self.topic.partitions).collect();
        transaction.partitions = partitions.iter().map(|partition| (*partition, None)).collect();
        let who_now = who.clone();
        persist(place, client, topic, async |client| client.add_partitions(&who_now, topic, &partitions).await).await?;
        for (partition, acknowledged) in &mut transaction.partitions {
            let sequence = sequences.entry(*partition).or_insert(0);
            let sending = Sending {
                acks: -1,
                producer: Some((who.producer, *sequence)),
                transactional_id: Some(who.id.clone()),
                joins: who.is_second_version,
                records: vec![Outgoing::of_value(format!("{producer} {number}"))],
                ..Default::default()
            };
            *sequence += 1;
            let partition = *partition;
            let sent = persist(place, client, topic, async |client| client.send(topic, partition, &sending).await);
            *acknowledged = Some(sent.await?);
        }
        if place.below(12) == 0 {
            return self.be_replaced(place, client, who).await;
        }
        let commits = place.below(4) != 0;
        transaction.end = if commits { End::Unknown } else { End::Aborted };
        let who_now = who.clone();
        let ended = persist(place, client, topic, async |client| client.end_transaction(&who_now, commits).await).await;
        who.producer = ended?;
        if commits {
            transaction.end = End::Committed;
        }
        Ok(())
    }

    /// Another producer takes this one's id while its transaction is open: this one must not end it any more.
    async fn be_replaced(&self, place: &Place, client: &mut Client, who: &Transactional) -> Result<(), Failure> {
        let mut other = place.client();
        begin(place, &mut other, &who.id, true).await;
        place.history.count_work("transactional id taken by another");
        if client.end_transaction(who, true).await.is_ok() {
            place.history.broken(format!("rule 7: {} committed after another producer had taken its id", who.id));
        }
        Err(Failure::Kafka(ErrorCode::ProducerFenced))
    }

    async fn check(self: Rc<Self>, place: Place) {
        let (mut client, topic, history) = (place.client(), self.topic.name, &place.history);
        // By producer, number and partition, where it is.
        let mut found: BTreeMap<(usize, u64), BTreeMap<i32, i64>> = BTreeMap::new();
        for partition in 0..self.topic.partitions {
            if !settled(&place, &mut client, topic, partition).await {
                return history.broken(format!("liveness: {topic}-{partition} has a transaction that nobody ends"));
            }
            let read = place.read_in_the_end(&mut client, topic, partition, ReadFrom::committed(0)).await;
            let Some(records) = read else { return };
            self.visible.compare(partition, &records, history);
            let mut last: BTreeMap<usize, u64> = BTreeMap::new();
            for record in records {
                let Some((producer, number)) = parse(record.value.as_deref()) else {
                    history.broken(format!("rule 1: {topic}-{partition}/{}: nobody sent this", record.offset));
                    continue;
                };
                if last.insert(producer, number).is_some_and(|last| last >= number) {
                    history.broken(format!(
                        "rule 1: {topic}-{partition}/{}: transaction {number} of {producer} is twice or late",
                        record.offset
                    ));
                }
                found.entry((producer, number)).or_default().insert(partition, record.offset);
            }
        }
        let ended = held(&self.ended);
        for ((producer, number), transaction) in ended.iter() {
            let seen = found.remove(&(*producer, *number)).unwrap_or_default();
            let all: BTreeSet<i32> = transaction.partitions.iter().map(|(partition, _)| *partition).collect();
            let is_whole = seen.keys().copied().collect::<BTreeSet<i32>>() == all;
            let is_right = match transaction.end {
                End::Committed => is_whole,
                End::Aborted => seen.is_empty(),
                End::Unknown => is_whole || seen.is_empty(),
            };
            let in_place = (transaction.partitions.iter()).all(|(partition, acknowledged)| {
                seen.get(partition).is_none_or(|seen| acknowledged.is_none_or(|acknowledged| acknowledged == *seen))
            });
            history.count_checked(all.len() as u64);
            if !is_right || !in_place {
                history.broken(format!(
                    "rule 7: {topic}: transaction {number} of {producer}: {transaction:?} is {seen:?}"
                ));
            }
        }
        for unknown in found.keys() {
            history.broken(format!("rule 7: {topic}: {unknown:?} is no transaction of this run"));
        }
    }
}

fn parse(value: Option<&[u8]>) -> Option<(usize, u64)> {
    let (producer, number) = std::str::from_utf8(value?).ok()?.split_once(' ')?;
    Some((producer.parse().ok()?, number.parse().ok()?))
}

/// Begins a producer's life, however often it has to be asked for. `None`: the run is over.
pub(super) async fn begin(
    place: &Place,
    client: &mut Client,
    id: &str,
    is_second_version: bool,
) -> Option<Transactional> {
    loop {
        match client.init_transactional(id).await {
            Ok(producer) => return Some(Transactional { id: id.to_owned(), producer, is_second_version }),
            Err(failure) if is_fatal(&failure) && !is_fenced(&failure) => {
                place.history.broken(format!("{id} cannot begin: {failure:?}"));
                return None;
            }
            Err(_) if place.history.stops() => return None,
            Err(_) => {
                client.forget_coordinators();
                place.pause().await;
            }
        }
    }
}

/// Somebody else began at the same time.
fn is_fenced(failure: &Failure) -> bool {
    matches!(failure, Failure::Kafka(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch))
}

/// Asks again until there is an answer that stands.
pub(super) async fn persist<T>(
    place: &Place,
    client: &mut Client,
    topic: &str,
    mut ask: impl AsyncFnMut(&mut Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let limit = place.world.instant() + Duration::from_secs(60);
    loop {
        match ask(client).await {
            Ok(answer) => return Ok(answer),
            Err(failure) if is_fatal(&failure) || place.world.instant() > limit => return Err(failure),
            Err(_) => {
                client.forget_coordinators();
                place.pause().await;
                let _ = client.refresh(topic).await;
            }
        }
    }
}

/// Waits until no transaction is open in the partition: at most as long as they may be open, and some more.
pub(super) async fn settled(place: &Place, client: &mut Client, topic: &str, partition: i32) -> bool {
    let limit = place.world.instant() + Duration::from_secs(60);
    while place.world.instant() < limit {
        let end = client.offset_of(topic, partition, crate::client::LATEST).await;
        if let Ok(end) = end
            && let Ok(reading) = client.read(topic, partition, ReadFrom::committed(end)).await
            && reading.last_stable == reading.high_watermark
        {
            return true;
        }
        place.world.sleep(Duration::from_millis(200)).await;
        let _ = client.refresh(topic).await;
    }
    false
}

impl Part for Transactions {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        for producer in 0..self.producers {
            jobs.push(Box::pin(self.clone().live(place.clone(), producer)));
        }
        for partition in 0..self.topic.partitions {
            let (this, place) = (self.clone(), place.clone());
            jobs.push(Box::pin(async move { this.visible.follow(place, partition).await }));
        }
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
