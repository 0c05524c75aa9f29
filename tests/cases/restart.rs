//! Nodes stop and start again: what was there is there.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::{FetchOptions, NewTopic};
use odradek_tests::{Spec, wait_for};

use crate::values;

#[test]
fn an_orderly_stop_moves_leaders_away_first() {
    Spec::new(1, 3).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("moved", &[&[1, 2, 3]]).config("min.insync.replicas", 2))?;
        client.wait_isr("moved", 0, &[1, 2, 3])?;
        client.produce("moved", 0, &values("moved", 100, 100))?;
        let status = cluster.broker(1).stop()?;
        ensure!(status.success(), "SIGTERM ends with {status}");
        let (leader, _) = client.leader("moved", 0)?;
        ensure!(leader != 1, "the leader moved before the process ended");
        client.produce("moved", 0, &values("more", 10, 100))?;
        cluster.broker(1).start()?;
        client.wait_isr("moved", 0, &[1, 2, 3])?;
        ensure!(client.read_all("moved", 0, 0)?.len() == 110, "everything is there");
        Ok(())
    });
}

#[test]
fn all_killed_at_once_come_back_by_themselves() {
    Spec::new(3, 3).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("all", 6, 3).config("min.insync.replicas", 2))?;
        for partition in 0..6 {
            client.produce("all", partition, &values("all", 100, 100))?;
        }
        for round in 1..=2 {
            cluster.kill_all()?;
            cluster.start_all()?;
            cluster.wait_served()?;
            let mut client = cluster.client();
            client.limit = Duration::from_secs(40);
            for partition in 0..6 {
                client.wait_isr("all", partition, &[1, 2, 3])?;
                let found = client.read_all("all", partition, 0)?.len();
                ensure!(found == 100 + (round - 1), "partition {partition}, round {round}: {found} records");
                client.produce("all", partition, &values("again", 1, 100))?;
            }
        }
        Ok(())
    });
}

#[test]
fn an_orderly_stop_of_all_loses_nothing_even_alone() {
    Spec::new(1, 1).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("alone", 1, 1).config("segment.bytes", 1 << 20))?;
        for _ in 0..40 {
            client.produce("alone", 0, &values("alone", 100, 1_000))?;
        }
        let broker = cluster.broker(1);
        ensure!(broker.stop()?.success(), "the broker stops in order");
        ensure!(cluster.node("controller-1").stop()?.success(), "the controller stops in order");
        cluster.start_all()?;
        cluster.wait_served()?;
        let mut client = cluster.client();
        ensure!(client.read_all("alone", 0, 0)?.len() == 4_000, "all records are there");
        damaged_indexes_are_rebuilt(cluster)?;
        a_torn_tail_is_cut(cluster)
    });
}

/// The files of partition 0 of `topic` with this extension, sorted.
fn files(cluster: &odradek_tests::Cluster, topic: &str, extension: &str) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let dir = cluster.broker(1).data().join(format!("{topic}-0"));
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    Ok(found)
}

fn damaged_indexes_are_rebuilt(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    cluster.broker(1).kill()?;
    let indexes = files(cluster, "alone", "index")?;
    ensure!(indexes.len() >= 3, "several segments: {indexes:?}");
    fs::write(&indexes[0], vec![0xff; 800])?;
    fs::remove_file(&indexes[1])?;
    fs::write(&indexes[2], b"odd")?;
    for index in files(cluster, "alone", "timeindex")?.iter().take(2) {
        fs::write(index, vec![0x7f; 1_201])?;
    }
    cluster.broker(1).start()?;
    cluster.wait_served()?;
    let mut client = cluster.client();
    for from in [0, 500, 999, 1_500, 2_500, 3_999] {
        let found = client.read_all("alone", 0, from)?;
        ensure!(found.len() as i64 == 4_000 - from && found[0].offset == from, "from {from}: {} records", found.len());
    }
    let (_, address) = client.leader("alone", 0)?;
    let (code, _, offset, _) = client.connection(&address)?.list_offset("alone", 0, 1)?;
    ensure!((code, offset) == (0, 0), "by time: error {code}, offset {offset}");
    Ok(())
}

fn a_torn_tail_is_cut(cluster: &odradek_tests::Cluster) -> anyhow::Result<()> {
    cluster.broker(1).kill()?;
    let last = files(cluster, "alone", "log")?.pop().context("a segment")?;
    let mut bytes = fs::read(&last)?;
    let whole = bytes.len();
    // The first half of one more batch, as a crash in the middle of a write leaves it.
    let half = bytes[..whole.min(700)].to_vec();
    bytes.extend_from_slice(&half);
    fs::write(&last, &bytes)?;
    cluster.broker(1).start()?;
    cluster.wait_served()?;
    let mut client = cluster.client();
    ensure!(client.end_offset("alone", 0)? == 4_000, "the torn batch is gone");
    ensure!(client.produce("alone", 0, &values("next", 1, 100))? == 4_000, "the next record takes its place");
    ensure!(client.read_all("alone", 0, 3_990)?.len() == 11, "and is read");
    Ok(())
}

#[test]
fn a_damaged_batch_in_a_closed_segment_harms_only_its_partition() {
    Spec::new(1, 1).run(|cluster| {
        let mut client = cluster.client();
        for topic in ["alone", "neighbour"] {
            client.create_topic(&NewTopic::new(topic, 1, 1).config("segment.bytes", 1 << 20))?;
            for _ in 0..30 {
                client.produce(topic, 0, &values("alone", 100, 1_000))?;
            }
        }
        cluster.broker(1).kill()?;
        let first = files(cluster, "alone", "log")?.into_iter().next().context("a segment")?;
        let mut bytes = fs::read(&first)?;
        // Somewhere in the middle, far from the ends of batches that matter; the length field of a batch is hit too.
        let middle = bytes.len() / 2;
        bytes[middle..middle + 120_000].fill(0x55);
        fs::write(&first, &bytes)?;
        cluster.broker(1).start()?;
        cluster.wait_served()?;
        let mut client = cluster.client();
        ensure!(client.read_all("neighbour", 0, 0)?.len() == 3_000, "the other partition is whole");
        ensure!(client.produce("neighbour", 0, &values("more", 1, 10))? == 3_000, "and takes records");
        // Reading what is damaged fails by an error or by bytes whose CRC is wrong; it never hangs nor kills.
        let (_, address) = client.leader("neighbour", 0)?;
        let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut offset = 0;
        for _ in 0..60 {
            let options = FetchOptions { wait_ms: 0, ..FetchOptions::default() };
            let Ok(fetched) = client.connection(&address)?.fetch("alone", 0, offset, options) else { break };
            let Ok(records) = fetched.records(offset) else { break };
            match records.last() {
                Some(last) if fetched.error == 0 => offset = last.offset + 1,
                _ => break,
            }
        }
        ensure!(offset < 1_100, "the damage is noticed, not skipped: read up to {offset}");
        wait_for("a report in the log", Duration::from_secs(30), || {
            Ok(cluster.broker(1).log_text().contains(&name).then_some(()))
        })?;
        ensure!(client.read_all("neighbour", 0, 0)?.len() == 3_001, "the other partition serves on");
        Ok(())
    });
}
