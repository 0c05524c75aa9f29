//! Consume, transform, produce by librdkafka, under both group protocols and each assignor: what is read from one topic is
//! written to another, and the offsets with it, a transaction for each few records. A second worker joins while the first one
//! copies, and a coordinator is killed meanwhile: that of the transactions, or that of the group. Each record is copied once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaError};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::transactions::{LIMIT, json, producer, read, send};
use crate::values;

const PARTITIONS: i32 = 4;
const EACH: usize = 250;
const RECORDS: usize = PARTITIONS as usize * EACH;
/// Of one transaction, at most.
const LOT: usize = 20;
const POLL: Duration = Duration::from_millis(50);

/// A group protocol with an assignor, as settings of librdkafka.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
}

const WAYS: [Way; 5] = [
    Way { name: "range", settings: &[("partition.assignment.strategy", "range")] },
    Way { name: "roundrobin", settings: &[("partition.assignment.strategy", "roundrobin")] },
    Way { name: "cooperative-sticky", settings: &[("partition.assignment.strategy", "cooperative-sticky")] },
    Way { name: "uniform", settings: &[("group.protocol", "consumer"), ("group.remote.assignor", "uniform")] },
    Way { name: "remote-range", settings: &[("group.protocol", "consumer"), ("group.remote.assignor", "range")] },
];

#[test]
fn copies_of_librdkafka_are_made_once_while_coordinators_are_killed() {
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 1).set("transaction.state.log.num.partitions", 3);
    let spec = spec.set("group.initial.rebalance.delay.ms", 0).set("group.consumer.min.heartbeat.interval.ms", 100);
    spec.set("group.consumer.heartbeat.interval.ms", 200).run(|cluster| {
        for (number, way) in WAYS.into_iter().enumerate() {
            copy_all(cluster, way, number % 2 == 0).context(way.name)?;
        }
        Ok(())
    });
}

fn topics(way: Way) -> [String; 2] {
    [format!("from-{}", way.name), format!("to-{}", way.name)]
}

fn copy_all(cluster: &Cluster, way: Way, kills_that_of_transactions: bool) -> anyhow::Result<()> {
    let [from, to] = topics(way);
    let mut client = cluster.client();
    for topic in [&from, &to] {
        client.create_topic(&NewTopic::new(topic, PARTITIONS, 3))?;
    }
    for partition in 0..PARTITIONS {
        client.produce(&from, partition, &values(&format!("{partition}"), EACH, 20))?;
    }
    let (copied, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let worker = |number: usize| {
            let (copied, stop) = (&copied, &stop);
            scope.spawn(move || Worker::new(cluster, way, number)?.run(copied, stop))
        };
        let mut workers = vec![worker(0)];
        let outcome = (|| {
            let reached = |count: usize| {
                let holds = || Ok((copied.load(Ordering::Relaxed) >= count).then_some(()));
                wait_for(&format!("{count} copies"), LIMIT, holds)
            };
            reached(RECORDS / 6)?;
            workers.push(worker(1));
            reached(RECORDS / 3)?;
            let coordinator = match kills_that_of_transactions {
                true => json(cluster, &format!("txn describe {}-0", way.name))?["coordinator"]
                    .as_i64()
                    .context("one")? as i32,
                false => client.leader("__consumer_offsets", 0)?.0,
            };
            if !cluster.is_attached() {
                cluster.broker(coordinator).kill()?;
                reached(2 * RECORDS / 3)?;
                cluster.broker(coordinator).start()?;
            }
            all_committed(cluster, way)
        })();
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("a worker does not panic")?;
        }
        outcome
    })?;
    for partition in 0..PARTITIONS {
        let (found, read_from) =
            (read(cluster, &to, partition, "read_committed")?, read(cluster, &from, partition, "read_committed")?);
        ensure!(found == read_from, "partition {partition}: {} copies of {}", found.len(), read_from.len());
    }
    Ok(())
}

/// A worker does not know what became of a commit whose answer was lost: the group's offsets tell.
fn all_committed(cluster: &Cluster, way: Way) -> anyhow::Result<()> {
    let mut config = real::config(cluster.bootstrap());
    let consumer: BaseConsumer = config.set("group.id", way.name).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&topics(way)[0], 0, PARTITIONS - 1);
    wait_for("all to be copied", LIMIT * 2, || {
        let Ok(found) = consumer.committed_offsets(list.clone(), LIMIT) else { return Ok(None) };
        let end = Offset::Offset(EACH as i64);
        Ok(found.elements().iter().all(|partition| partition.offset() == end).then_some(()))
    })
}

struct Worker<'a> {
    cluster: &'a Cluster,
    way: Way,
    id: String,
    producer: BaseProducer,
    consumer: BaseConsumer,
}

impl<'a> Worker<'a> {
    fn new(cluster: &'a Cluster, way: Way, number: usize) -> anyhow::Result<Self> {
        let id = format!("{}-{number}", way.name);
        let (producer, consumer) = (producer(cluster, &id)?, Self::join(cluster, way)?);
        Ok(Self { cluster, way, id, producer, consumer })
    }

    fn join(cluster: &Cluster, way: Way) -> anyhow::Result<BaseConsumer> {
        let mut config = real::config(cluster.bootstrap());
        config.set("group.id", way.name).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "50");
        way.settings.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[&topics(way)[0]])?;
        Ok(consumer)
    }

    fn run(mut self, copied: &AtomicUsize, stop: &AtomicBool) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let (mut lot, mut offsets) = (Vec::new(), TopicPartitionList::new());
            while lot.len() < LOT {
                match self.consumer.poll(POLL) {
                    Some(Ok(message)) => {
                        let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
                        lot.push((message.partition(), message.offset(), text));
                    }
                    // Of a broker that was killed the client tells as of an error; it goes on by itself.
                    Some(Err(_)) => {}
                    None => break,
                }
            }
            for (partition, offset, _) in &lot {
                let [from, _] = topics(self.way);
                let next = Offset::Offset(offset + 1);
                if offsets.set_partition_offset(&from, *partition, next).is_err() {
                    offsets.add_partition_offset(&from, *partition, next)?;
                }
            }
            if lot.is_empty() {
                continue;
            }
            match self.copy(&lot, &offsets) {
                Ok(()) => _ = copied.fetch_add(lot.len(), Ordering::Relaxed),
                Err(error) => self.begin_again(&error)?,
            }
        }
        Ok(())
    }

    fn copy(&self, lot: &[(i32, i64, String)], offsets: &TopicPartitionList) -> anyhow::Result<()> {
        let [_, to] = topics(self.way);
        self.producer.begin_transaction()?;
        for (partition, _, text) in lot {
            send(&self.producer, &to, *partition, text)?;
        }
        let group = self.consumer.group_metadata().context("a member's metadata")?;
        again(|| self.producer.send_offsets_to_transaction(offsets, &group, LIMIT))?;
        again(|| self.producer.commit_transaction(LIMIT))?;
        Ok(())
    }

    /// With what is committed: a producer that cannot go on is replaced, and a consumer that joins anew reads from there.
    fn begin_again(&mut self, error: &anyhow::Error) -> anyhow::Result<()> {
        eprintln!("{} begins again: {error:#}", self.id);
        // An abort waits until what became of each record has been told, and that takes a call of its own.
        self.producer.flush(LIMIT)?;
        if again(|| self.producer.abort_transaction(LIMIT)).is_err() {
            self.producer = producer(self.cluster, &self.id)?;
        }
        self.consumer = Self::join(self.cluster, self.way)?;
        Ok(())
    }
}

/// Calls it until it is not an error that a client is to try again.
fn again(call: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if may_try_again(&error) && begun.elapsed() < LIMIT => {}
            outcome => return outcome,
        }
    }
}

fn may_try_again(error: &RDKafkaError) -> bool {
    error.is_retriable() && !error.txn_requires_abort() && !error.is_fatal()
}
