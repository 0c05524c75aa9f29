//! Stories of transactions (rule 7): of one producer, request by request, so that it is known at each moment what a reader of
//! committed records may see.

use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_node::World;
use odradek_wire::describe_producers_request::TopicRequest;
use odradek_wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use odradek_wire::{DescribeProducersRequest, Str, WriteTxnMarkersRequest, own};

use super::plain::{create_assigned, send};
use super::{Script, Watcher, ask};
use crate::client::{Client, Failure, Outgoing, Producer, ReadFrom, Sending, Transactional};
use crate::cluster::Cluster;
use crate::workload::RETRY_PAUSE;

pub(super) const SCRIPTS: &[Script] = &[
    Script {
        name: "open-transactions",
        about: "a reader of committed records, while transactions are open, committed and aborted",
        controllers: 1,
        brokers: 3,
        settings: SETTINGS,
        play: open_transactions,
    },
    Script {
        name: "hanging-transactions",
        about: "KIP-890: a transaction's batch comes when the transaction has ended",
        controllers: 1,
        brokers: 3,
        settings: SETTINGS,
        play: hanging_transactions,
    },
    Script {
        name: "late-markers",
        about: "KIP-890: a transaction's marker comes again when the next transaction is open",
        controllers: 1,
        brokers: 3,
        settings: SETTINGS,
        play: late_markers,
    },
    Script {
        name: "late-markers-of-one-epoch",
        about: "a marker of the first protocol comes again when the next transaction, in the same epoch, is open",
        controllers: 1,
        brokers: 3,
        settings: SETTINGS,
        play: late_markers_of_one_epoch,
    },
    Script {
        name: "delayed-ends",
        about: "Jepsen on Bufstream 0.1.0: the end of a transaction comes once more when the next one is open",
        controllers: 1,
        brokers: 3,
        settings: SETTINGS,
        play: delayed_ends,
    },
];

const SETTINGS: &[&str] = &["transaction.state.log.num.partitions=1"];
const TOPIC: &str = "transacted";
const ID: &str = "transactional";
/// When a transaction has ended, its markers are written by then.
const STABLE_MAX: Duration = Duration::from_secs(30);

/// A transactional producer, in either version of the protocol.
struct Transactions {
    client: Client,
    world: World,
    who: Transactional,
    sequence: i32,
}

/// What a reader of committed records sees.
struct Committed {
    values: Vec<String>,
    last_stable: i64,
    high_watermark: i64,
}

impl Transactions {
    async fn open(world: World, hosts: Vec<(String, u16)>) -> Self {
        let nobody = Producer { id: -1, epoch: -1 };
        let who = Transactional { id: ID.to_owned(), producer: nobody, is_second_version: true };
        let mut new = Self { client: Client::new(world.clone(), hosts), world, who, sequence: 0 };
        new.init().await;
        new
    }

    /// Begins another life.
    async fn init(&mut self) {
        self.who.producer = loop {
            match self.client.init_transactional(ID).await {
                Ok(producer) => break producer,
                Err(_) => self.look_again().await,
            }
        };
        self.sequence = 0;
    }

    async fn look_again(&mut self) {
        self.world.sleep(RETRY_PAUSE).await;
        let _ = self.client.refresh(TOPIC).await;
    }

    /// One batch of the open transaction; in the second version it adds its partition.
    async fn try_send(&mut self, value: &str) -> Result<i64, Failure> {
        let sending = Sending {
            acks: -1,
            producer: Some((self.who.producer, self.sequence)),
            transactional_id: Some(ID.to_owned()),
            joins: self.who.is_second_version,
            records: vec![Outgoing::of_value(value)],
            ..Default::default()
        };
        let offset = self.client.send(TOPIC, 0, &sending).await?;
        self.sequence += 1;
        Ok(offset)
    }

    /// Sends it again until it is taken.
    async fn send(&mut self, value: &str) {
        while self.try_send(value).await.is_err() {
            self.look_again().await;
        }
    }

    /// Adds the partition as the first version wants it.
    async fn add_partition(&mut self) {
        while self.client.add_partitions(&self.who, TOPIC, &[0]).await.is_err() {
            self.look_again().await;
        }
    }

    /// Ends the transaction; in the second version the next one has another epoch.
    async fn end(&mut self, is_commit: bool) {
        loop {
            match self.client.end_transaction(&self.who, is_commit).await {
                Ok(next) => {
                    if self.who.is_second_version {
                        self.who.producer = next;
                        self.sequence = 0;
                    }
                    return;
                }
                Err(_) => self.look_again().await,
            }
        }
    }

    /// Asks once for the end of the transaction of that producer, which is none that is open.
    async fn end_again(&mut self, producer: Producer, is_commit: bool) -> Result<(), Failure> {
        let who = Transactional { producer, ..self.who.clone() };
        self.client.end_transaction(&who, is_commit).await.map(drop)
    }

    /// The marker of a transaction, once more, as one of the second version.
    async fn mark_again(&mut self, producer: Producer, is_commit: bool) -> Result<(), Failure> {
        let topic = WritableTxnMarkerTopic { name: Str::from(TOPIC), partition_indexes: vec![0], ..Default::default() };
        self.mark(WritableTxnMarker {
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            transaction_result: is_commit,
            topics: vec![topic],
            coordinator_epoch: i32::MAX,
            transaction_version: 2,
            ..Default::default()
        })
        .await
    }

    /// The marker of a transaction of the first version, once more, for the leader of an epoch.
    async fn mark_as_decided(&mut self, coordinator_epoch: i32, leader_epoch: i32) -> Result<(), Failure> {
        let topic = WritableTxnMarkerTopic {
            name: Str::from(TOPIC),
            partition_indexes: vec![0],
            unknown_tagged_fields: vec![own::numbers_field(own::MARKER_LEADER_EPOCHS, [i64::from(leader_epoch)])],
        };
        self.mark(WritableTxnMarker {
            producer_id: self.who.producer.id,
            producer_epoch: self.who.producer.epoch,
            transaction_result: true,
            topics: vec![topic],
            coordinator_epoch,
            // Every decision of the coordinator is at or above its log's start.
            unknown_tagged_fields: vec![own::numbers_field(own::MARKER_DECISION, [0])],
            ..Default::default()
        })
        .await
    }

    async fn mark(&mut self, marker: WritableTxnMarker) -> Result<(), Failure> {
        let request = WriteTxnMarkersRequest { markers: vec![marker], ..Default::default() };
        let leader = self.client.leaders.get(&0).map_or(-1, |leader| leader.broker);
        let answer = self.client.ask(leader, 2, &request).await?;
        let topics = answer.markers.iter().flat_map(|marker| &marker.topics);
        let mut codes = topics.flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        codes.next().map_or(Err(Failure::Kafka(ErrorCode::UnknownServerError)), Failure::check)
    }

    /// Of the coordinator whose marker was the last one of the producer in its partition.
    async fn coordinator_epoch(&mut self) -> i32 {
        loop {
            let topic = TopicRequest { name: Str::from(TOPIC), partition_indexes: vec![0], ..Default::default() };
            let request = DescribeProducersRequest { topics: vec![topic], ..Default::default() };
            let leader = self.client.leaders.get(&0).map_or(-1, |leader| leader.broker);
            if let Ok(answer) = self.client.ask(leader, 0, &request).await {
                let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
                let mut producers = partitions.flat_map(|partition| &partition.active_producers);
                if let Some(found) = producers.find(|found| found.producer_id == self.who.producer.id) {
                    return found.coordinator_epoch;
                }
            }
            self.look_again().await;
        }
    }

    async fn committed(&mut self) -> Committed {
        loop {
            match self.try_committed().await {
                Ok(read) => return read,
                Err(_) => self.look_again().await,
            }
        }
    }

    async fn try_committed(&mut self) -> Result<Committed, Failure> {
        let (mut values, mut from) = (Vec::new(), ReadFrom::committed(0));
        loop {
            let reading = self.client.read(TOPIC, 0, from).await?;
            from.offset = reading.next_offset;
            let texts = reading.records.into_iter().map(|record| record.value.unwrap_or_default());
            values.extend(texts.map(|value| String::from_utf8_lossy(&value).into_owned()));
            let (last_stable, high_watermark) = (reading.last_stable, reading.high_watermark);
            if from.offset >= last_stable {
                return Ok(Committed { values, last_stable, high_watermark });
            }
        }
    }

    /// Waits until a reader of committed records reaches the end.
    async fn until_stable(&mut self) -> Result<Vec<String>, String> {
        let limit = self.world.instant() + STABLE_MAX;
        loop {
            let Committed { values, last_stable, high_watermark } = self.committed().await;
            if last_stable == high_watermark {
                return Ok(values);
            }
            if self.world.instant() > limit {
                return Err(format!(
                    "the last stable offset stays at {last_stable}, below the high watermark {high_watermark}, and no \
                     transaction is open"
                ));
            }
            self.world.sleep(RETRY_PAUSE).await;
        }
    }
}

/// Plays with a producer, in a cluster that is ready for it; what it answers is a broken rule.
fn play<F>(cluster: &mut Cluster<'_>, story: impl FnOnce(Transactions) -> F + 'static)
where
    F: Future<Output = Result<(), String>> + 'static,
{
    create_assigned(cluster, TOPIC, &[1, 2, 3], &[("min.insync.replicas", "2")]);
    let watcher = Watcher::start(cluster, TOPIC);
    watcher.until_in_sync(cluster, 3);
    let hosts = cluster.bootstrap();
    let told =
        ask(
            cluster,
            "the story is told",
            move |world| async move { story(Transactions::open(world, hosts).await).await },
        );
    if let Err(broken) = told {
        panic!("rule 7: {broken}");
    }
    send(cluster, TOPIC, -1, 1);
    cluster.history.stop.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// No reader of committed records sees one of a transaction that is open, or was aborted, and all of one that was committed.
fn open_transactions(cluster: &mut Cluster<'_>) {
    play(cluster, |mut producer| async move {
        let mut expected = Vec::new();
        for is_second_version in [true, false] {
            producer.who.is_second_version = is_second_version;
            for round in 0..6 {
                producer.add_partition().await;
                let mut sent = Vec::new();
                for number in 0..3 {
                    let value = format!("second version {is_second_version} round {round} record {number}");
                    producer.send(&value).await;
                    sent.push(value);
                    compare("in an open transaction,", &producer.committed().await.values, &expected)?;
                }
                let is_commit = round % 2 == 0;
                producer.end(is_commit).await;
                if is_commit {
                    expected.extend(sent);
                }
                compare("all ended,", &producer.until_stable().await?, &expected)?;
            }
        }
        Ok(())
    });
}

/// A reader of committed records has seen what is committed, and nothing else.
fn compare(when: &str, seen: &[String], expected: &[String]) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{when} {seen:?} was read where {expected:?} is committed")) }
}

/// KIP-890: a batch of a transaction that has ended (a request that was long under way) would open one that nobody ends: no
/// reader of committed records would ever get past it.
fn hanging_transactions(cluster: &mut Cluster<'_>) {
    play(cluster, |mut producer| async move {
        producer.who.is_second_version = false;
        for is_commit in [true, false] {
            producer.add_partition().await;
            producer.send("in time").await;
            producer.end(is_commit).await;
            producer.until_stable().await?;
            // Taken or not: nothing may hang by it.
            let _ = producer.try_send("too late").await;
            let values = producer.until_stable().await?;
            if values.iter().any(|value| value == "too late") {
                return Err("a record that came when its transaction had ended was read as committed".to_owned());
            }
            producer.init().await;
        }
        Ok(())
    });
}

/// KIP-890: a marker that comes again (its answer was lost, or it was long under way) ends no other transaction than its own.
fn late_markers(cluster: &mut Cluster<'_>) {
    play(cluster, |mut producer| async move {
        let mut expected = Vec::new();
        for round in 0..4 {
            let value = format!("first of round {round}");
            producer.send(&value).await;
            producer.end(true).await;
            expected.push(value);
            // The marker's epoch is that of the next transaction (KIP-890).
            let marked = producer.who.producer;
            producer.until_stable().await?;
            producer.send(&format!("second of round {round}")).await;
            let answer = producer.mark_again(marked, true).await;
            compare(
                &format!("after a marker came again ({answer:?}),"),
                &producer.committed().await.values,
                &expected,
            )?;
            producer.end(false).await;
            compare("an aborted transaction:", &producer.until_stable().await?, &expected)?;
        }
        Ok(())
    });
}

/// In the first version of the protocol a marker that comes again has the epoch of the transaction that is open then, and of the same
/// coordinator. It is known by its decision, and one for another leadership is sent back.
fn late_markers_of_one_epoch(cluster: &mut Cluster<'_>) {
    play(cluster, |mut producer| async move {
        producer.who.is_second_version = false;
        producer.init().await;
        let mut expected = Vec::new();
        for round in 0..4 {
            producer.add_partition().await;
            let value = format!("first of round {round}");
            producer.send(&value).await;
            producer.end(true).await;
            expected.push(value);
            producer.until_stable().await?;
            producer.add_partition().await;
            producer.send(&format!("second of round {round}")).await;
            let coordinator = producer.coordinator_epoch().await;
            let epoch = producer.client.leaders.get(&0).map_or(-1, |leader| leader.epoch);
            let again = producer.mark_as_decided(coordinator, epoch).await;
            let other = producer.mark_as_decided(coordinator, epoch + 1).await;
            compare(&format!("after a marker came again ({again:?}),"), &producer.committed().await.values, &expected)?;
            if !matches!((&again, &other), (Ok(()), Err(Failure::Kafka(ErrorCode::UnknownLeaderEpoch)))) {
                return Err(format!(
                    "a marker that came again was answered {again:?}, and one for the next leader {other:?}"
                ));
            }
            producer.end(false).await;
            compare("an aborted transaction:", &producer.until_stable().await?, &expected)?;
        }
        Ok(())
    });
}

/// Jepsen on Bufstream 0.1.0 and Kafka: an EndTxn that was long under way ended a later transaction of its producer: an aborted one
/// was committed, a committed one lost. Each transaction has an epoch of its own since KIP-890, and an old one ends nothing.
fn delayed_ends(cluster: &mut Cluster<'_>) {
    play(cluster, |mut producer| async move {
        let mut expected = Vec::new();
        for (round, is_commit) in [true, false, true, false].into_iter().enumerate() {
            let first = producer.who.producer;
            let value = format!("first of round {round}");
            producer.send(&value).await;
            producer.end(is_commit).await;
            if is_commit {
                expected.push(value);
            }
            producer.until_stable().await?;
            let value = format!("second of round {round}");
            producer.send(&value).await;
            let answer = producer.end_again(first, is_commit).await;
            producer.world.sleep(Duration::from_millis(500)).await;
            let Committed { values: seen, last_stable, high_watermark } = producer.committed().await;
            if seen != expected || last_stable == high_watermark {
                return Err(format!(
                    "an old end came again ({answer:?}): {seen:?} was read where {expected:?} is committed, up to {last_stable} of \
                     {high_watermark}, and a transaction is open"
                ));
            }
            producer.end(!is_commit).await;
            if !is_commit {
                expected.push(value);
            }
            compare("all ended,", &producer.until_stable().await?, &expected)?;
        }
        Ok(())
    });
}
