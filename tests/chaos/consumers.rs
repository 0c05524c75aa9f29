//! Who reads: members of a group by librdkafka, somebody who commits offsets by hand, and a watcher who remembers what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::FetchOptions;
use odradek_tests::history::parse_value;
use odradek_tests::wire::error;
use odradek_tests::{Client, Cluster, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::history::History;
use crate::{ALL, ALL_PARTITIONS, LIVE_LIMIT, requests};

/// What the members of a group were given, by partition.
#[derive(Default)]
pub struct Delivered(Mutex<BTreeMap<i32, BTreeSet<i64>>>);

impl Delivered {
    pub fn add(&self, partition: i32, offset: i64) {
        self.0.lock().expect("no panic under this lock").entry(partition).or_default().insert(offset);
    }

    fn has_all(&self, ends: &BTreeMap<i32, i64>) -> bool {
        let delivered = self.0.lock().expect("no panic under this lock");
        ends.iter()
            .all(|(partition, end)| *end == 0 || delivered.get(partition).is_some_and(|set| set.contains(&(end - 1))))
    }

    /// Every record was given to somebody.
    pub fn check(&self, group: &str, history: &History, ends: &BTreeMap<i32, i64>) {
        let delivered = self.0.lock().expect("no panic under this lock");
        for (partition, end) in ends {
            let none = BTreeSet::new();
            let given = delivered.get(partition).unwrap_or(&none);
            if let Some(missing) = (0..*end).find(|offset| !given.contains(offset)) {
                history.broken(format!(
                    "group {group}: {ALL}-{partition}: offset {missing} of {end} was never delivered ({} were)",
                    given.len()
                ));
            }
            history.count("records delivered to groups", given.len() as u64);
        }
    }
}

/// A commit takes no longer, whatever is broken; a client that says nothing for so long says nothing any more (librdkafka may come
/// to where it connects to nobody).
const COMMIT_LIMIT: Duration = Duration::from_secs(45);

/// A member of a group: reads, and commits what it has read.
pub fn member(cluster: &Cluster, history: &History, group: &str, delivered: &Delivered) -> anyhow::Result<()> {
    let join = || -> anyhow::Result<Arc<BaseConsumer>> {
        let mut config = real::config(cluster.bootstrap());
        config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "1000").set("fetch.wait.max.ms", "100");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[ALL])?;
        Ok(Arc::new(consumer))
    };
    let mut consumer = join()?;
    let mut drains = None;
    loop {
        let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            // Errors tell of brokers that are away; the client goes on by itself.
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                delivered.add(message.partition(), message.offset());
                positions.insert(message.partition(), message.offset() + 1);
            }
        }
        if !commit(&consumer, history, group, &positions)? {
            history.note("a member's client hangs and is replaced");
            history.count("clients of librdkafka that hung and were replaced", 1);
            // To close it would take as long: the thread that commits keeps it.
            consumer = join()?;
        }
        let ends = history.ends.lock().expect("no panic under this lock").clone();
        if let Some(ends) = ends {
            let since = *drains.get_or_insert_with(Instant::now);
            if delivered.has_all(&ends) {
                return Ok(());
            }
            ensure!(since.elapsed() < LIVE_LIMIT, "liveness: group {group} has not read all after {LIVE_LIMIT:?}");
        }
    }
}

/// Commits what is this member's to commit; whether the client came to an end with it. The call has no limit of its own.
fn commit(
    consumer: &Arc<BaseConsumer>,
    history: &History,
    group: &str,
    positions: &BTreeMap<i32, i64>,
) -> anyhow::Result<bool> {
    // What was taken from this member meanwhile is another one's to commit.
    let held = consumer.assignment()?;
    let mut list = TopicPartitionList::new();
    let mut writes = Vec::new();
    for (partition, offset) in positions {
        if held.find_partition(ALL, *partition).is_some() {
            list.add_partition_offset(ALL, *partition, Offset::Offset(*offset))?;
            let key = (group.to_owned(), *partition);
            writes.push((history.committed.begin(&key, *offset), key));
        }
    }
    if writes.is_empty() {
        return Ok(true);
    }
    let (done, result) = channel();
    let consumer = Arc::clone(consumer);
    std::thread::spawn(move || done.send(consumer.commit(&list, CommitMode::Sync).is_ok()));
    let Ok(is_done) = result.recv_timeout(COMMIT_LIMIT) else { return Ok(false) };
    if is_done {
        history.count("offsets committed by groups", writes.len() as u64);
        writes.iter().for_each(|(number, key)| history.committed.acknowledge(key, *number));
    }
    Ok(true)
}

pub const BY_HAND: &str = "by-hand";

/// Commits ever larger offsets, each by one request that is not sent again.
pub fn commits(cluster: &Cluster, history: &History) -> anyhow::Result<()> {
    let mut client = cluster.client();
    for offset in 1.. {
        if history.stops() {
            break;
        }
        for partition in 0..ALL_PARTITIONS {
            let key = (BY_HAND.to_owned(), partition);
            if let Ok(address) = coordinator(&mut client, cluster, BY_HAND) {
                let number = history.committed.begin(&key, offset);
                let answer = client.connection(&address);
                match answer.and_then(|one| requests::commit(one, BY_HAND, ALL, partition, offset)) {
                    Ok(error::NONE) => {
                        history.committed.acknowledge(&key, number);
                        history.count("offsets committed by hand", 1);
                    }
                    Ok(_) => {}
                    Err(_) => client.forget(&address),
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn coordinator(client: &mut Client, cluster: &Cluster, group: &str) -> anyhow::Result<String> {
    let mut last = anyhow::anyhow!("no broker");
    for broker in cluster.brokers() {
        let asked = broker.advertised();
        match client.connection(asked).and_then(|connection| requests::coordinator(connection, group)) {
            Ok((error::NONE, address)) => return Ok(address),
            Ok((code, _)) => last = anyhow::anyhow!("error {code}"),
            Err(error) => {
                client.forget(asked);
                last = error;
            }
        }
    }
    Err(last)
}

/// Asks for every committed offset while nothing is broken: none may have gone back.
pub fn check_committed(cluster: &Cluster, history: &History) -> anyhow::Result<()> {
    let mut client = cluster.client();
    for key in history.committed.keys() {
        let (group, partition) = (&key.0, key.1);
        let began = Instant::now();
        let offset = wait_for(&format!("liveness: the offsets of {group}"), LIVE_LIMIT, || {
            let address = coordinator(&mut client, cluster, group)?;
            let answer = client.connection(&address);
            match answer.and_then(|one| requests::committed(one, group, ALL, partition)) {
                Ok((error::NONE, offset)) => Ok(Some(offset)),
                Ok((code, _)) => anyhow::bail!("error {code}"),
                Err(error) => {
                    client.forget(&address);
                    Err(error)
                }
            }
        })?;
        let read = (offset >= 0).then_some(offset);
        if let Err(problem) = history.committed.check(&key, read, began) {
            history.broken(format!("group {group}: the committed offset of {ALL}-{partition}: {problem}"));
        }
        history.count("committed offsets checked", 1);
    }
    Ok(())
}

/// What was read at each offset of each partition.
#[derive(Default)]
pub struct Seen(Mutex<BTreeMap<i32, Vec<(u32, u64)>>>);

impl Seen {
    /// Reads on and on. Whatever it sees must be there in the end.
    pub fn watch(&self, cluster: &Cluster, history: &History) -> anyhow::Result<()> {
        let mut client = cluster.client();
        client.limit = Duration::from_secs(2);
        while !history.stops() {
            for partition in 0..ALL_PARTITIONS {
                let from = self.0.lock().expect("no panic under this lock").entry(partition).or_default().len() as i64;
                let Ok((_, address)) = client.leader(ALL, partition) else { continue };
                let options = FetchOptions { wait_ms: 20, ..FetchOptions::default() };
                let answer = client.connection(&address).and_then(|one| one.fetch(ALL, partition, from, options));
                let Ok(answer) = answer else {
                    client.forget(&address);
                    continue;
                };
                // Whoever led before and does not know yet may have less than was read elsewhere.
                if answer.error != error::NONE {
                    continue;
                }
                for record in answer.records(from)? {
                    if record.offset >= answer.high_watermark {
                        history.broken(format!(
                            "rule 3: {ALL}-{partition}: offset {} was served at a high watermark of {}",
                            record.offset, answer.high_watermark
                        ));
                    }
                    let mut seen = self.0.lock().expect("no panic under this lock");
                    let of_partition = seen.entry(partition).or_default();
                    ensure!(
                        of_partition.len() as i64 == record.offset,
                        "rule 1: {ALL}-{partition}: a gap before {}",
                        record.offset
                    );
                    of_partition.push(parse_value(&record.value)?);
                }
            }
        }
        Ok(())
    }

    pub fn check(&self, client: &mut Client, history: &History) -> anyhow::Result<()> {
        let seen = self.0.lock().expect("no panic under this lock");
        for (partition, records) in seen.iter() {
            let mut left = records.iter();
            client.read_each(ALL, *partition, 0, |record| {
                if let Some(before) = left.next() {
                    let now = parse_value(&record.value)?;
                    ensure!(
                        *before == now,
                        "rule 1: {ALL}-{partition}: {before:?} was read at {}, where now is {now:?}",
                        record.offset
                    );
                }
                Ok(())
            })?;
            ensure!(left.len() == 0, "rule 1: {ALL}-{partition}: {} records that were read are gone", left.len());
            history.count("records watched", records.len() as u64);
        }
        Ok(())
    }
}

/// The end of each partition, when nobody writes any more.
pub fn ends(client: &mut Client) -> anyhow::Result<BTreeMap<i32, i64>> {
    (0..ALL_PARTITIONS).map(|partition| Ok((partition, client.end_offset(ALL, partition).context("an end")?))).collect()
}
