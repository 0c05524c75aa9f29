//! What a standard client sees of a healthy cluster: topics, offsets, acknowledgements, long polls, error codes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use odradek_tests::client::{Connection, FetchOptions, NewTopic};
use odradek_tests::wire::{Batch, error, now_ms};
use odradek_tests::{Spec, wait_for};

use crate::values;

#[test]
fn one_node_serves_the_basics() {
    Spec::new(1, 1).run(|cluster| {
        records_come_back_in_order(cluster)?;
        acks_are_honoured(cluster)?;
        fetch_waits_for_data_and_no_longer(cluster)?;
        answers_keep_the_order_of_requests(cluster)?;
        offsets_are_found_by_time(cluster)?;
        topics_are_refused_with_kafkas_codes(cluster)?;
        topics_are_created_on_demand(cluster)?;
        deleted_topics_are_gone(cluster)
    });
}

fn records_come_back_in_order(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("order", 2, 1))?;
    let sent = values("order", 1_000, 300);
    for (index, chunk) in sent.chunks(10).enumerate() {
        let base = client.produce("order", 0, chunk)?;
        ensure!(base == index as i64 * 10, "batch {index} got offset {base}");
    }
    let read = client.read_all("order", 0, 0)?;
    ensure!(read.iter().map(|record| &record.value).eq(&sent), "what is read is what was sent");
    ensure!(read.iter().map(|record| record.offset).eq(0..1_000), "offsets have no gaps");
    // From the middle of a batch, and of another partition nothing.
    let from_middle = client.read_all("order", 0, 555)?;
    ensure!(from_middle.len() == 445 && from_middle[0].value == sent[555], "reading starts in the middle of a batch");
    ensure!(client.read_all("order", 1, 0)?.is_empty(), "the other partition is empty");
    let (_, address) = client.leader("order", 0)?;
    let beyond = client.connection(&address)?.fetch("order", 0, 1_001, FetchOptions::default())?;
    ensure!(beyond.error == error::OFFSET_OUT_OF_RANGE, "beyond the end: error {}", beyond.error);
    let at_end = FetchOptions { wait_ms: 0, ..FetchOptions::default() };
    let at_end = client.connection(&address)?.fetch("order", 0, 1_000, at_end)?;
    ensure!(at_end.error == 0 && at_end.data.is_empty(), "at the end there is nothing, and no error");
    // A batch larger than what was asked for comes anyway, so that a consumer moves on.
    let small = FetchOptions { max_bytes: 1, ..FetchOptions::default() };
    let small = client.connection(&address)?.fetch("order", 0, 0, small)?;
    ensure!(small.records(0)?.len() == 10, "the first batch comes whole");
    Ok(())
}

fn acks_are_honoured(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("acks", 1, 1))?;
    let (_, address) = client.leader("acks", 0)?;
    let connection = client.connection(&address)?;
    let batch = Batch::of(&values("acks", 3, 50)).encode();
    // acks=0 has no answer: the next answer on the connection belongs to the next request.
    connection.send_produce("acks", 0, &batch, 0)?;
    let one = connection.produce("acks", 0, &batch, 1)?;
    ensure!(one.error == 0 && one.base_offset == 3, "acks=1: {one:?}");
    let all = connection.produce("acks", 0, &batch, -1)?;
    ensure!(all.error == 0 && all.base_offset == 6, "acks=all: {all:?}");
    let nonsense = connection.produce("acks", 0, &batch, 7)?;
    ensure!(nonsense.error == error::INVALID_REQUIRED_ACKS, "acks=7: {nonsense:?}");
    let unknown = connection.produce("acks", 9, &batch, -1)?;
    ensure!(unknown.error == error::UNKNOWN_TOPIC_OR_PARTITION, "unknown partition: {unknown:?}");
    let unknown = connection.produce("nowhere", 0, &batch, -1)?;
    ensure!(unknown.error == error::UNKNOWN_TOPIC_OR_PARTITION, "unknown topic: {unknown:?}");
    let end = client.end_offset("acks", 0)?;
    ensure!(end == 9, "nothing else was stored: {end}");
    Ok(())
}

fn fetch_waits_for_data_and_no_longer(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("poll", 1, 1))?;
    let (_, address) = client.leader("poll", 0)?;
    let mut reader = Connection::open(&address)?;
    let started = Instant::now();
    let nothing = reader.fetch("poll", 0, 0, FetchOptions { wait_ms: 300, ..FetchOptions::default() })?;
    let waited = started.elapsed();
    ensure!(nothing.data.is_empty(), "there is nothing");
    ensure!(waited >= Duration::from_millis(290), "an empty fetch waits: {waited:?}");
    // A record that comes ends the wait.
    let waiting = std::thread::spawn(move || {
        let options = FetchOptions { wait_ms: 10_000, ..FetchOptions::default() };
        let started = Instant::now();
        reader.fetch("poll", 0, 0, options).map(|fetched| (fetched, started.elapsed(), reader))
    });
    std::thread::sleep(Duration::from_millis(100)); // not to wait for a state: so that the fetch is likely parked
    client.produce("poll", 0, &values("poll", 1, 10))?;
    let (fetched, waited, mut reader) = waiting.join().expect("the reader ends")?;
    ensure!(fetched.records(0)?.len() == 1, "the record is there");
    ensure!(waited < Duration::from_secs(5), "the record ended the wait: {waited:?}");
    // min_bytes holds it back until the time is over.
    let options = FetchOptions { wait_ms: 300, min_bytes: 100_000, ..FetchOptions::default() };
    let started = Instant::now();
    let fetched = reader.fetch("poll", 0, 0, options)?;
    ensure!(started.elapsed() >= Duration::from_millis(290), "min_bytes waits");
    ensure!(fetched.records(0)?.len() == 1, "after the wait, what there is comes");
    Ok(())
}

fn answers_keep_the_order_of_requests(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("pipeline", 1, 1))?;
    let (_, address) = client.leader("pipeline", 0)?;
    let mut connection = Connection::open(&address)?;
    for index in 0..50 {
        let acks = if index % 2 == 0 { -1 } else { 1 };
        connection.send_produce("pipeline", 0, &Batch::of(&values(&index.to_string(), 1, 20)).encode(), acks)?;
    }
    for index in 0..50 {
        let answer = connection.receive_produced()?;
        ensure!(answer.error == 0 && answer.base_offset == index, "answer {index}: {answer:?}");
    }
    let read = client.read_all("pipeline", 0, 0)?;
    let in_order = read.iter().enumerate().all(|(i, record)| record.value.starts_with(format!("{i}-").as_bytes()));
    ensure!(in_order, "appended in the order sent");
    Ok(())
}

fn offsets_are_found_by_time(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("time", 1, 1))?;
    let start = now_ms() - 100_000;
    for index in 0..100 {
        let sent = values("time", 10, 100);
        let batch = Batch { timestamp_ms: start + index * 1_000, ..Batch::of(&sent) };
        client.produce_batch("time", 0, &batch.encode())?;
    }
    let (_, address) = client.leader("time", 0)?;
    let connection = client.connection(&address)?;
    // Exactly, between two batches, inside one, before all, after all.
    let table = [
        (start, (0, start, 0)),
        (start + 50_000, (0, start + 50_000, 500)),
        (start + 50_005, (0, start + 50_005, 505)),
        (start + 50_500, (0, start + 51_000, 510)),
        (0, (0, start, 0)),
        (start + 100_000, (0, -1, -1)),
        (-1, (0, -1, 1_000)),
        (-2, (0, -1, 0)),
    ];
    for (timestamp, expected) in table {
        let (code, found, offset, _) = connection.list_offset("time", 0, timestamp)?;
        ensure!((code, found, offset) == expected, "time {timestamp}: {:?}, not {expected:?}", (code, found, offset));
    }
    let (code, _, _) = connection.epoch_end("time", 0, 0)?;
    ensure!(code == error::NONE, "OffsetForLeaderEpoch: error {code}");
    Ok(())
}

fn topics_are_refused_with_kafkas_codes(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut connection = Connection::open(&cluster.broker(1).address)?;
    let table = [
        (NewTopic::new("order", 1, 1), error::TOPIC_ALREADY_EXISTS),
        (NewTopic::new("no spaces", 1, 1), error::INVALID_TOPIC),
        (NewTopic::new("", 1, 1), error::INVALID_TOPIC),
        (NewTopic::new("..", 1, 1), error::INVALID_TOPIC),
        (NewTopic::new(&"x".repeat(250), 1, 1), error::INVALID_TOPIC),
        (NewTopic::new("two-replicas", 1, 2), error::INVALID_REPLICATION_FACTOR),
        (NewTopic::new("no-replicas", 1, 0), error::INVALID_REPLICATION_FACTOR),
        (NewTopic::new("no-partitions", 0, 1), error::INVALID_PARTITIONS),
        (NewTopic::new("bad-config", 1, 1).config("retention.ms", "soon"), error::INVALID_CONFIG),
        (NewTopic::new("unknown-config", 1, 1).config("no.such.config", "1"), error::INVALID_CONFIG),
    ];
    for (topic, expected) in table {
        let (code, message) = connection.create_topic(&topic)?;
        ensure!(code == expected, "{:?}: error {code} ({message}), not {expected}", topic.name);
    }
    Ok(())
}

fn topics_are_created_on_demand(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut connection = Connection::open(&cluster.broker(1).address)?;
    let unknown = connection.metadata(Some(&["not-on-demand"]), false)?;
    let code = unknown.topics.get("not-on-demand").map(|topic| topic.error);
    ensure!(code == Some(error::UNKNOWN_TOPIC_OR_PARTITION), "without permission: {code:?}");
    wait_for("a topic on demand", Duration::from_secs(10), || {
        let answer = connection.metadata(Some(&["on-demand"]), true)?;
        Ok(answer.partition("on-demand", 0).filter(|partition| partition.leader == 1).map(|_| ()))
    })
}

fn deleted_topics_are_gone(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("deleted", 1, 1))?;
    client.produce("deleted", 0, &values("before", 5, 10))?;
    let mut connection = Connection::open(&cluster.broker(1).address)?;
    ensure!(connection.delete_topic("deleted")? == error::NONE, "it is deleted");
    ensure!(connection.delete_topic("never-there")? == error::UNKNOWN_TOPIC_OR_PARTITION, "another is not known");
    wait_for("the topic is gone", Duration::from_secs(10), || {
        let code = connection.metadata(Some(&["deleted"]), false)?.topics.get("deleted").map(|topic| topic.error);
        Ok((code == Some(error::UNKNOWN_TOPIC_OR_PARTITION)).then_some(()))
    })?;
    // A new one with the name has nothing of the old one.
    client.create_topic(&NewTopic::new("deleted", 1, 1))?;
    ensure!(client.end_offset("deleted", 0)? == 0, "the new topic is empty");
    ensure!(client.produce("deleted", 0, &values("after", 1, 10))? == 0, "its offsets start anew");
    Ok(())
}

#[test]
fn three_brokers_replicate_and_spread_leaders() {
    Spec::new(1, 3).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("spread", 6, 3).config("min.insync.replicas", 2))?;
        let metadata = client.metadata(Some(&["spread"]))?;
        let mut leaders = [0; 4];
        for (index, partition) in &metadata.topics["spread"].partitions {
            ensure!(partition.replicas.len() == 3, "partition {index} has 3 replicas: {partition:?}");
            leaders[partition.leader as usize] += 1;
        }
        ensure!(leaders == [0, 2, 2, 2], "leaders are spread evenly: {leaders:?}");
        for partition in 0..6 {
            client.wait_isr("spread", partition, &[1, 2, 3])?;
            client.produce("spread", partition, &values("spread", 100, 100))?;
            ensure!(client.read_all("spread", partition, 0)?.len() == 100, "partition {partition} reads back");
        }
        // Where the operator puts replicas, there they are.
        client.create_topic(&NewTopic::assigned("placed", &[&[3, 1], &[2, 3]]))?;
        let placed = client.metadata(Some(&["placed"]))?;
        let replicas = |index| placed.partition("placed", index).map(|p| (p.leader, p.replicas.clone()));
        ensure!(replicas(0) == Some((3, vec![3, 1])), "manual assignment: {placed:?}");
        ensure!(replicas(1) == Some((2, vec![2, 3])), "manual assignment: {placed:?}");
        // A broker that does not lead says so.
        let follower = cluster.broker(1).address.clone();
        let batch = Batch::of(&values("misdirected", 1, 10)).encode();
        let answer = Connection::open(&follower)?.produce("placed", 0, &batch, -1)?;
        ensure!(answer.error == error::NOT_LEADER_OR_FOLLOWER, "a follower refuses: {answer:?}");
        Ok(())
    });
}
