//! What was promised, against what is there.
//!
//! A `Ledger` remembers every acknowledgement: which record of which producer got which offset. `Ledger::check` reads
//! the partitions from start to end and asserts the first rule of the architecture: every acknowledged record is there,
//! at its offset, once, in the order in which its producer sent it. Records that were never acknowledged may be there
//! too, but in order and at most once. `compare_replicas` asserts the second rule: below the high watermark the
//! replicas hold the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, bail, ensure};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::wire::batches;

/// The text of a record: who sent it, and as which of its records to this partition.
pub fn value(producer: u32, sequence: u64, bytes: usize) -> Vec<u8> {
    let mut text = format!("{producer}:{sequence}:").into_bytes();
    text.resize(text.len().max(bytes), b'.');
    text
}

/// The reverse of `value`.
pub fn parse_value(value: &[u8]) -> anyhow::Result<(u32, u64)> {
    let text = std::str::from_utf8(value)?;
    let mut parts = text.splitn(3, ':');
    let mut next = || parts.next().context("producer:sequence:");
    Ok((next()?.parse()?, next()?.parse()?))
}

/// Of one partition: by producer, (sequence, offset) in the order of acknowledgement.
type Promises = HashMap<u32, Vec<(u64, i64)>>;

/// Acknowledgements by partition. Shared by the producers' threads.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: Mutex<BTreeMap<i32, Promises>>,
}

/// What a check has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub records: u64,
    pub acknowledged: u64,
}

impl Ledger {
    /// The broker said that the record has this offset.
    pub fn acknowledge(&self, partition: i32, producer: u32, sequence: u64, offset: i64) {
        let mut partitions = self.partitions.lock().expect("no panic under this lock");
        partitions.entry(partition).or_default().entry(producer).or_default().push((sequence, offset));
    }

    pub fn count(&self) -> u64 {
        let partitions = self.partitions.lock().expect("no panic under this lock");
        partitions.values().flat_map(HashMap::values).map(|records| records.len() as u64).sum()
    }

    /// Reads every partition of `topic` and compares.
    pub fn check(&self, client: &mut Client, topic: &str, partitions: i32) -> anyhow::Result<Seen> {
        let promises = self.partitions.lock().expect("no panic under this lock");
        let mut seen = Seen::default();
        for partition in 0..partitions {
            let none = Promises::default();
            let found = check_partition(client, topic, partition, promises.get(&partition).unwrap_or(&none));
            let found = found.with_context(|| format!("{topic}-{partition}"))?;
            seen.records += found.records;
            seen.acknowledged += found.acknowledged;
        }
        Ok(seen)
    }
}

fn check_partition(client: &mut Client, topic: &str, partition: i32, promised: &Promises) -> anyhow::Result<Seen> {
    let mut problems = Vec::new();
    let mut found = Promises::new();
    let (mut expected_offset, mut seen) = (0, Seen::default());
    client.read_each(topic, partition, 0, |record| {
        if record.offset != expected_offset {
            problems.push(format!("offset {expected_offset} is followed by {}", record.offset));
        }
        expected_offset = record.offset + 1;
        let (producer, sequence) = parse_value(&record.value)?;
        let before = found.entry(producer).or_default();
        match before.last() {
            Some((last, at)) if *last >= sequence => problems.push(format!(
                "{producer}:{sequence} at {} comes after {producer}:{last} at {at}: twice, or out of order",
                record.offset
            )),
            _ => before.push((sequence, record.offset)),
        }
        seen.records += 1;
        Ok(())
    })?;
    for (producer, records) in promised {
        let stored = found.get(producer).map_or(&[][..], Vec::as_slice);
        seen.acknowledged += records.len() as u64;
        for (sequence, offset) in records {
            match stored.binary_search_by_key(sequence, |(sequence, _)| *sequence) {
                Err(_) => problems.push(format!("{producer}:{sequence}, acknowledged at {offset}, is lost")),
                // -1: librdkafka does not know the offset of a batch that was answered as a duplicate.
                Ok(place) if stored[place].1 != *offset && *offset >= 0 => {
                    problems
                        .push(format!("{producer}:{sequence}, acknowledged at {offset}, is at {}", stored[place].1));
                }
                Ok(_) => {}
            }
        }
    }
    if !problems.is_empty() {
        let shown = problems.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        bail!("{} problems in {} records:\n  {shown}", problems.len(), seen.records);
    }
    Ok(seen)
}

/// The length and a 64-bit hash of all the bytes of a batch.
type Fingerprint = (usize, u64);

/// Base offset to the fingerprint of every batch in a partition's directory. A torn last batch is left out.
pub fn stored_batches(partition_dir: &Path) -> anyhow::Result<BTreeMap<i64, Fingerprint>> {
    let mut out = BTreeMap::new();
    let entries = fs::read_dir(partition_dir).with_context(|| format!("read {}", partition_dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let data = fs::read(&path)?;
            for batch in batches(&data).with_context(|| path.display().to_string())? {
                let mut hasher = DefaultHasher::new();
                hasher.write(batch.bytes);
                let before = out.insert(batch.base_offset, (batch.bytes.len(), hasher.finish()));
                ensure!(before.is_none(), "{}: two batches at offset {}", path.display(), batch.base_offset);
            }
        }
    }
    Ok(out)
}

/// Compares every replica's segments below the high watermark. Best when nothing is being produced and every ISR is
/// full. Returns the number of batches compared.
pub fn compare_replicas(cluster: &Cluster, client: &mut Client, topic: &str, partitions: i32) -> anyhow::Result<u64> {
    let mut compared = 0;
    for partition in 0..partitions {
        let high_watermark = client.end_offset(topic, partition)?;
        let metadata = client.metadata(Some(&[topic]))?;
        let replicas = metadata.partition(topic, partition).context("the partition is known")?.replicas.clone();
        let below = |broker: i32| -> anyhow::Result<BTreeMap<i64, Fingerprint>> {
            let mut stored = stored_batches(&cluster.broker(broker).data().join(format!("{topic}-{partition}")))?;
            stored.retain(|base, _| *base < high_watermark);
            Ok(stored)
        };
        let first = below(replicas[0])?;
        for other in &replicas[1..] {
            let other_batches = below(*other)?;
            for (base, print) in &first {
                let theirs = other_batches.get(base).with_context(|| {
                    format!("{topic}-{partition}: broker {other} lacks the batch at {base} (high watermark {high_watermark})")
                })?;
                ensure!(theirs == print, "{topic}-{partition}: brokers {} and {other} differ at {base}", replicas[0]);
            }
            ensure!(
                first.len() == other_batches.len(),
                "{topic}-{partition}: broker {} has {} batches, broker {other} has {}",
                replicas[0],
                first.len(),
                other_batches.len()
            );
        }
        compared += first.len() as u64;
    }
    Ok(compared)
}
