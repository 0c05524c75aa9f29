//! What one batch costs a log: the append (with all checks of a client's batch), the look-up of a range to read, and of an
//! offset through the index.
//!
//! `cargo bench -p odradek-broker-storage`. The sketch it is held against: an append is a parse of 61 bytes, one pass of
//! CRC-32C over the batch (some 10 GB/s), and one `pwritev` into the page cache (some 3 GB/s), so 64 KiB take 30 us and nearly
//! all of them are the kernel's; a small batch is a system call and the index's bookkeeping, well under 5 us. A read is
//! answered with a range of a file and copies none of it: a binary search in the index and a few batch headers.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use odradek_broker_storage::{AppendOrigin, Log, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig};
use odradek_common::fs::RealFs;
use odradek_common::meta_properties::format_all;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, TopicPartition, Uuid};
use odradek_records::RecordBatchBuilder;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const EPOCH: LeaderEpoch = LeaderEpoch(1);
/// A log that is appended to for long is begun anew, so that it does not fill the disk.
const LOG_BYTES_MAX: u64 = 512 << 20;

struct Home {
    dir: tempfile::TempDir,
    dirs: LogDirs,
    made: i32,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let fs = Arc::new(RealFs);
        let mut rng = SplitMix64::new(1);
        let path = dir.path().to_owned();
        format_all(&*fs, std::slice::from_ref(&path), "cluster", 1, false, &mut rng).expect("formatted");
        let settings = LogDirsConfig { dirs: vec![path], node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
        Self { dirs: LogDirs::open(fs, &settings, &mut rng).expect("opened"), dir, made: 0 }
    }

    fn log(&mut self) -> Log {
        self.made += 1;
        let partition = TopicPartition::new("bench", self.made);
        let config = Arc::new(LogConfig::default());
        let made = self.dirs.create(partition, Uuid([7; 16]), None, config, ProducerStateConfig::default(), NOW);
        made.expect("usable").expect("made")
    }

    /// As an operator's `rm`: nobody reads it again.
    fn discard(&self, log: Log) {
        let path = log.dir().to_owned();
        assert!(path.starts_with(self.dir.path()));
        drop(log);
        std::fs::remove_dir_all(path).expect("removed");
    }
}

fn batch(records: usize, record_bytes: usize) -> Vec<u8> {
    let mut builder = RecordBatchBuilder::new();
    for _ in 0..records {
        builder.append(NOW, None, Some(&vec![7; record_bytes]));
    }
    builder.build().expect("a batch").to_vec()
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (what, records) in [("one record of 100 bytes", 1), ("4 KiB", 37), ("64 KiB", 600)] {
        let batch = batch(records, 100);
        let mut home = Home::new();
        let mut log = home.log();
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                log.append_as_leader(&batch, EPOCH, AppendOrigin::Client, NOW).expect("appended");
                if log.size_bytes() > LOG_BYTES_MAX {
                    let full = std::mem::replace(&mut log, home.log());
                    home.discard(full);
                }
            });
        });
    }
    group.finish();
}

/// A log of 64 MiB in batches of 4 KiB, so with an index of 16,000 entries.
fn filled(home: &mut Home) -> Log {
    let mut log = home.log();
    let batch = batch(37, 100);
    while log.size_bytes() < 64 << 20 {
        log.append_as_leader(&batch, EPOCH, AppendOrigin::Client, NOW).expect("appended");
    }
    log.set_high_watermark(log.log_end());
    log
}

fn read(criterion: &mut Criterion) {
    let mut home = Home::new();
    let log = filled(&mut home);
    let end = log.log_end();
    let mut rng = SplitMix64::new(2);
    let mut anywhere = || Offset((rng.next_u64() % end.0 as u64) as i64);
    let mut group = criterion.benchmark_group("read");
    for (what, bytes) in [("a range of 64 KiB", 65_536), ("a range of 1 MiB", 1 << 20)] {
        group.bench_function(what, |bencher| {
            bencher.iter_batched(
                &mut anywhere,
                |from| log.read(from, bytes, end, true).expect("a range"),
                BatchSize::SmallInput,
            );
        });
    }
    // With room for one batch alone, what is left is the way to it.
    group.bench_function("index look-up", |bencher| {
        bencher.iter_batched(
            &mut anywhere,
            |from| log.read(from, 1, end, true).expect("a batch"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
