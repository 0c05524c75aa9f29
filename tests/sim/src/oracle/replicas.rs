//! What is on the brokers' disks when all is quiet: replicas are the same byte for byte (rule 2), those of a compacted topic, which
//! each broker cleans for itself, in the last value of every key.

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek_records::Batches;

use crate::cluster::Cluster;

/// The batches of one replica by their base offset.
fn batches(log: Vec<u8>) -> BTreeMap<i64, Bytes> {
    let mut found = BTreeMap::new();
    for slice in odradek_records::slices(&log).flatten() {
        found.insert(slice.header.base_offset.0, Bytes::copy_from_slice(slice.bytes));
    }
    found
}

/// The last value of each key; keys whose last record is a tombstone are left out.
fn last_values(log: Vec<u8>) -> BTreeMap<Bytes, Bytes> {
    let mut last = BTreeMap::new();
    for batch in Batches::new(Bytes::from(log)).flatten() {
        let Ok(records) = batch.records(1 << 20) else { continue };
        for record in records.flatten() {
            let key = record.key.unwrap_or_default();
            match record.value {
                Some(value) => drop(last.insert(key, value)),
                None => drop(last.remove(&key)),
            }
        }
    }
    last
}

/// How the replicas of a partition differ; brokers without a log of it are no replicas.
pub fn difference(cluster: &Cluster<'_>, topic: &str, partition: i32, is_compacted: bool) -> Option<String> {
    let logs: Vec<(String, Vec<u8>)> = (cluster.node_names("broker-").into_iter())
        .map(|broker| (broker.clone(), cluster.log_bytes(&broker, topic, partition)))
        // One whose records may be damaged has its disk replaced, or is left out; so is one that was decommissioned.
        .filter(|(broker, log)| !log.is_empty() && !cluster.damaged(broker) && cluster.is_up(broker))
        .collect();
    let difference = if is_compacted { by_keys(logs) } else { by_batches(logs) };
    difference.map(|what| format!("rule 2: {topic}-{partition}: {what}"))
}

fn by_keys(logs: Vec<(String, Vec<u8>)>) -> Option<String> {
    let mut replicas = logs.into_iter().map(|(broker, log)| (broker, last_values(log)));
    let (first, values) = replicas.next()?;
    replicas.find(|(_, others)| *others != values).map(|(broker, _)| format!("{broker} has other values than {first}"))
}

/// Retention may have gone further on one than on the other: what both have is the same, and so is the end.
fn by_batches(logs: Vec<(String, Vec<u8>)>) -> Option<String> {
    let mut replicas = logs.into_iter().map(|(broker, log)| (broker, batches(log)));
    let (first, expected) = replicas.next()?;
    replicas.find_map(|(broker, found)| {
        let start = [expected.keys().next(), found.keys().next()].into_iter().flatten().max().copied()?;
        let (mut a, mut b) = (expected.range(start..), found.range(start..));
        loop {
            match (a.next(), b.next()) {
                (None, None) => return None,
                (a, b) if a == b => {}
                (a, b) => {
                    let at = |batch: Option<(&i64, &Bytes)>| batch.map(|(offset, bytes)| (*offset, bytes.len()));
                    return Some(format!("{first} has {:?} where {broker} has {:?}", at(a), at(b)));
                }
            }
        }
    })
}
