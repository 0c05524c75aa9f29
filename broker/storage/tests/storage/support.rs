//! A log in a directory of its own, and batches to put into it.

use std::sync::Arc;

use bytes::Bytes;
use odradek_broker_storage::{
    AppendError, AppendInfo, AppendOrigin, Log, LogConfig, LogDir, LogError, LogLocation, ProducerStateConfig, Recovery,
};
use odradek_common::fs::{Fs, RealFs};
use odradek_common::mem_fs::MemFs;
use odradek_common::time::Timestamp;
use odradek_common::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition, Uuid};
use odradek_records::{Batches, Record, RecordBatchBuilder};

pub const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// A leader epoch above all others.
pub const EVER: LeaderEpoch = LeaderEpoch(i32::MAX);
pub const TOPIC_ID: TopicId = Uuid([7; 16]);

/// Where a test's log lives; removed at the end.
pub struct Home {
    pub fs: Arc<dyn Fs>,
    pub path: std::path::PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Home {
    pub fn real() -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        Self { fs: Arc::new(RealFs), path: temporary.path().to_owned(), _temporary: Some(temporary) }
    }

    pub fn memory(fs: &MemFs) -> Self {
        fs.create_dir_all("/logs".as_ref()).expect("made");
        fs.sync_dir("/".as_ref()).expect("synced");
        Self { fs: Arc::new(fs.clone()), path: "/logs".into(), _temporary: None }
    }

    pub fn location(&self) -> LogLocation {
        LogLocation {
            fs: self.fs.clone(),
            log_dir: LogDir::new(&self.path, Uuid([1; 16])),
            partition: TopicPartition::new("topic", 0),
        }
    }

    pub fn try_open(&self, config: &LogConfig, recovery: Recovery) -> Result<Log, LogError> {
        Log::open(self.location(), TOPIC_ID, Arc::new(config.clone()), ProducerStateConfig::default(), recovery, NOW)
    }

    pub fn open(&self, config: &LogConfig, recovery: Recovery) -> Log {
        self.try_open(config, recovery).expect("the log opens")
    }

    /// After a crash with nothing flushed.
    pub fn reopen_after_crash(&self, config: &LogConfig) -> Log {
        self.open(config, Recovery { clean: false, ..Recovery::NEW })
    }

    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.path.join("topic-0").join(name)
    }
}

/// A batch of `count` records with values of `bytes` bytes, all of the time `timestamp`.
pub fn batch(count: usize, bytes: usize, timestamp: Timestamp) -> Bytes {
    fill(RecordBatchBuilder::new(), count, bytes, timestamp)
}

pub fn idempotent(producer: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    fill(RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(epoch), sequence), count, 10, NOW)
}

pub fn fill(mut builder: RecordBatchBuilder, count: usize, bytes: usize, timestamp: Timestamp) -> Bytes {
    for index in 0..count {
        let value = vec![index as u8; bytes];
        builder.append(timestamp, Some(format!("key-{index}").as_bytes()), Some(&value));
    }
    builder.build().expect("a batch")
}

pub fn append(log: &mut Log, batch: &[u8]) -> Result<AppendInfo, AppendError> {
    log.append_as_leader(batch, LeaderEpoch(0), AppendOrigin::Client, NOW)
}

/// Every record from `from` on, read slice by slice as a consumer does.
pub fn read_all(log: &Log, from: Offset) -> Vec<Record> {
    let mut records = Vec::new();
    let mut next = from;
    loop {
        let slice = log.read(next, 1000, log.log_end(), true).expect("readable");
        if slice.is_empty() {
            return records;
        }
        let before = next;
        for batch in Batches::new(log.load(&slice).expect("loaded")) {
            let Ok(batch) = batch else { break };
            batch.check_crc().expect("a sound batch");
            for record in batch.records(1 << 20).expect("readable records") {
                let record = record.expect("a record");
                if record.offset >= next {
                    next = record.offset.plus(1);
                    records.push(record);
                }
            }
        }
        assert!(next > before, "a read of {before} made no progress");
    }
}

pub fn offsets(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.offset.0).collect()
}
