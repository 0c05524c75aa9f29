//! Who writes: idempotent and plain producers on the raw wire, and transactions of librdkafka.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::ensure;
use odradek_tests::history::{Ledger, parse_value, value};
use odradek_tests::wire::{Batch, error};
use odradek_tests::{Client, Cluster, real, wait_for};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::history::History;
use crate::{ALL, ALL_PARTITIONS, LIVE_LIMIT, ONE, ONE_PARTITIONS, TRANSACTIONS, requests};

const RECORD_BYTES: usize = 150;
/// Between two batches of a producer: what is written has to be read and compared in the end.
const PAUSE: Duration = Duration::from_millis(15);

/// An idempotent producer: sends a batch with its sequence until it is acknowledged, and only then the next one.
pub fn idempotent(cluster: &Cluster, history: &History, ledger: &Ledger, id: u32) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.limit = LIVE_LIMIT;
    let (producer_id, producer_epoch) = identity(&mut client, cluster)?;
    let mut next = [0u64; ALL_PARTITIONS as usize];
    for turn in 0u64.. {
        if history.stops() {
            break;
        }
        let partition = (turn % ALL_PARTITIONS as u64) as i32;
        let first = next[partition as usize];
        let count = 1 + turn % 4;
        let values: Vec<Vec<u8>> = (first..first + count).map(|number| value(id, number, RECORD_BYTES)).collect();
        let batch =
            Batch { producer_id, producer_epoch, base_sequence: i32::try_from(first)?, ..Batch::of(&values) }.encode();
        let (code, base) = client.at_leader(ALL, partition, |connection| {
            let answer = connection.produce(ALL, partition, &batch, -1)?;
            Ok((answer.error, answer.base_offset))
        })?;
        // A batch that is older than the last five has no offset to tell any more.
        ensure!(
            matches!(code, error::NONE | error::DUPLICATE_SEQUENCE_NUMBER),
            "rule 6: {ALL}-{partition}: record {first} in its turn is refused with error {code}"
        );
        for number in 0..count {
            let offset = if base >= 0 { base + number as i64 } else { -1 };
            ledger.acknowledge(partition, id, first + number, offset);
        }
        next[partition as usize] += count;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn identity(client: &mut Client, cluster: &Cluster) -> anyhow::Result<(i64, i16)> {
    wait_for("a producer id", LIVE_LIMIT, || {
        for broker in cluster.brokers() {
            let address = broker.advertised().to_owned();
            match client.connection(&address).and_then(|connection| connection.init_producer_id()) {
                Ok((error::NONE, id, epoch)) => return Ok(Some((id, epoch))),
                Ok(_) => {}
                Err(_) => client.forget(&address),
            }
        }
        Ok(None)
    })
}

/// A producer that waits for the leader alone and sends nothing twice: what it is promised may be lost, but nothing is made up
/// or doubled.
pub fn plain(cluster: &Cluster, history: &History, ledger: &Ledger, id: u32) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.limit = Duration::from_secs(2);
    for number in 0u64.. {
        if history.stops() {
            break;
        }
        let partition = (number % ONE_PARTITIONS as u64) as i32;
        let batch = Batch::of(&[value(id, number, RECORD_BYTES)]).encode();
        if let Ok((_, address)) = client.leader(ONE, partition) {
            match client.connection(&address).and_then(|connection| connection.produce(ONE, partition, &batch, 1)) {
                Ok(answer) if answer.error == error::NONE => {
                    ledger.acknowledge(partition, id, number, answer.base_offset);
                }
                Ok(_) => {}
                Err(_) => client.forget(&address),
            }
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// What `plain` wrote: offsets without a gap, nothing twice, in the order it was sent.
pub fn check_plain(history: &History, client: &mut Client, ledger: &Ledger) -> anyhow::Result<()> {
    let acknowledged = ledger.count();
    let mut stored = 0;
    for partition in 0..ONE_PARTITIONS {
        let (mut last, mut next) = (None, 0);
        client.read_each(ONE, partition, 0, |record| {
            let (_, number) = parse_value(&record.value)?;
            ensure!(record.offset == next, "rule 1: {ONE}-{partition}: offset {} follows {next} - 1", record.offset);
            ensure!(last < Some(number), "rule 1: {ONE}-{partition}: {number} comes after {last:?}");
            (last, next) = (Some(number), record.offset + 1);
            stored += 1;
            Ok(())
        })?;
    }
    history.count("records acknowledged with acks=1", acknowledged);
    history.count("records stored of those with acks=1", stored);
    Ok(())
}

// ---------------------------------------------------------------- transactions

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

/// Every transaction writes its number to both partitions.
#[derive(Default)]
pub struct Transactions(Mutex<Vec<Outcome>>);

const TRANSACTION_LIMIT: Duration = Duration::from_secs(10);

impl Transactions {
    pub fn run(&self, cluster: &Cluster, history: &History) -> anyhow::Result<()> {
        let mut failing_since = Instant::now();
        while !history.stops() {
            let mut config = real::config(cluster.bootstrap());
            config.set("transactional.id", "chaos").set("transaction.timeout.ms", "10000");
            let producer: BaseProducer = config.create()?;
            if let Err(error) = producer.init_transactions(TRANSACTION_LIMIT) {
                ensure!(failing_since.elapsed() < LIVE_LIMIT, "liveness: no transactional producer: {error}");
                continue;
            }
            while !history.stops() {
                let number = self.0.lock().expect("no panic under this lock").len();
                let outcome = one(&producer, number).unwrap_or_else(|error| {
                    history.note(format_args!("transaction {number}: {error:#}"));
                    Outcome::Unknown
                });
                self.0.lock().expect("no panic under this lock").push(outcome);
                if outcome == Outcome::Unknown {
                    break;
                }
                failing_since = Instant::now();
                std::thread::sleep(PAUSE);
            }
        }
        // Whatever is still open is ended by whoever comes next with the same name.
        let mut config = real::config(cluster.bootstrap());
        config.set("transactional.id", "chaos");
        let producer: BaseProducer = config.create()?;
        wait_for("rule 7: the last transaction is ended", LIVE_LIMIT, || {
            producer.init_transactions(TRANSACTION_LIMIT)?;
            Ok(Some(()))
        })
    }

    /// Every transaction is there whole, or not at all, as its producer was told.
    pub fn check(&self, cluster: &Cluster, history: &History, client: &mut Client) -> anyhow::Result<()> {
        let outcomes = self.0.lock().expect("no panic under this lock");
        let mut found = Vec::new();
        for partition in 0..2 {
            let end = wait_for("rule 7: no transaction holds back the end", LIVE_LIMIT, || {
                let end = client.end_offset(TRANSACTIONS, partition)?;
                let (_, stable) = client.at_leader(TRANSACTIONS, partition, |connection| {
                    requests::stable_end(connection, TRANSACTIONS, partition)
                })?;
                ensure!(stable == end, "{TRANSACTIONS}-{partition}: stable up to {stable}, the end is {end}");
                Ok(Some(end))
            })?;
            found.push(read_committed(cluster, partition, end)?);
        }
        ensure!(found[0] == found[1], "rule 7: a transaction is in one partition only: {:?}", differences(&found));
        let sorted = found[0].is_sorted_by(|one, next| one < next);
        ensure!(sorted, "rule 7: transactions are there twice, or out of order: {:?}", found[0]);
        for (number, outcome) in outcomes.iter().enumerate() {
            let is_there = found[0].binary_search(&number).is_ok();
            match outcome {
                Outcome::Committed => ensure!(is_there, "rule 7: transaction {number} was committed and is not there"),
                Outcome::Aborted => ensure!(!is_there, "rule 7: transaction {number} was aborted and is there"),
                Outcome::Unknown => {}
            }
        }
        for (outcome, what) in [(Outcome::Committed, "committed"), (Outcome::Aborted, "aborted")] {
            let count = outcomes.iter().filter(|one| **one == outcome).count();
            history.count(&format!("transactions {what}"), count as u64);
        }
        Ok(())
    }
}

fn differences(found: &[Vec<usize>]) -> Vec<usize> {
    let only = |one: &[usize], other: &[usize]| one.iter().filter(|n| !other.contains(n)).copied().collect::<Vec<_>>();
    [only(&found[0], &found[1]), only(&found[1], &found[0])].concat()
}

/// One transaction; an error when it is not known how it ended, or the producer is of no more use.
fn one(producer: &BaseProducer, number: usize) -> anyhow::Result<Outcome> {
    producer.begin_transaction()?;
    for partition in 0..2 {
        let text = number.to_string();
        let record = BaseRecord::<(), str>::to(TRANSACTIONS).partition(partition).payload(&text);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    if number % 5 == 4 {
        return abort(producer);
    }
    let deadline = Instant::now() + LIVE_LIMIT;
    loop {
        // Serves the reports of what was delivered, or not: without that neither call comes to its end.
        let _ = producer.flush(TRANSACTION_LIMIT);
        match producer.commit_transaction(TRANSACTION_LIMIT) {
            Ok(()) => return Ok(Outcome::Committed),
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => return abort(producer),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn abort(producer: &BaseProducer) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + LIVE_LIMIT;
    loop {
        let _ = producer.flush(Duration::from_millis(200));
        match producer.abort_transaction(TRANSACTION_LIMIT) {
            Ok(()) => return Ok(Outcome::Aborted),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_committed(cluster: &Cluster, partition: i32, end: i64) -> anyhow::Result<Vec<usize>> {
    let mut config = real::config(cluster.bootstrap());
    config.set("group.id", "reads-transactions").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TRANSACTIONS, partition, Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut found, deadline) = (Vec::new(), Instant::now() + LIVE_LIMIT);
    loop {
        ensure!(Instant::now() < deadline, "{TRANSACTIONS}-{partition} is not read up to {end}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                found.push(std::str::from_utf8(message.payload().unwrap_or_default())?.parse()?);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            Some(Err(_)) | None => {}
        }
    }
}
