//! A log is opened on files of any bytes, read from end to end, looked up and written to.
//!
//! The files lie in the input one behind the other, each with its length (16 bits) in front.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use odradek_broker_storage::{Log, LogConfig, LogDir, LogLocation, ProducerStateConfig, Recovery};
use odradek_common::fs::{Fs, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::time::Timestamp;
use odradek_common::{Offset, TopicPartition, Uuid};
use odradek_records::Batches;

const FILES: [&str; 7] = [
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000000.txnindex",
    "00000000000000000009.log",
    "00000000000000000009.snapshot",
    "leader-epoch-checkpoint",
];

fuzz_target!(|data: &[u8]| {
    let fs = MemFs::new();
    let dir = Path::new("/logs/topic-0");
    fs.create_dir_all(dir).expect("made");
    let mut rest = data;
    let Some((is_clean, after)) = rest.split_first() else { return };
    rest = after;
    for name in FILES {
        let Some((length, after)) = rest.split_first_chunk() else { break };
        let (bytes, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        write_file_atomically(&fs, &dir.join(name), bytes).expect("written");
        rest = after;
    }
    let location = LogLocation {
        fs: Arc::new(fs),
        log_dir: LogDir::new(Path::new("/logs"), Uuid([1; 16])),
        partition: TopicPartition::new("topic", 0),
    };
    let recovery = Recovery { clean: is_clean & 1 == 1, ..Recovery::NEW };
    let now = Timestamp(1_700_000_000_000);
    let config = Arc::new(LogConfig { cleanup_compact: is_clean & 2 == 2, ..LogConfig::default() });
    let log = Log::open(location, Uuid([7; 16]), config, ProducerStateConfig::default(), recovery, now);
    let Ok(mut log) = log else { return };
    log.set_high_watermark(log.log_end());
    let mut next = log.log_start();
    while let Ok(slice) = log.read(next, 4096, log.log_end(), true) {
        let Ok(bytes) = log.load(&slice) else { break };
        let _ = log.aborted_transactions(&slice);
        let last = Batches::new(bytes).map_while(Result::ok).last();
        match last.map(|batch| batch.header.next_offset()) {
            Some(after) if after > next => next = after,
            _ => break,
        }
    }
    let _ = log.offset_for_timestamp(Timestamp(5));
    let _ = log.offset_of_max_timestamp();
    let _ = log.rebuild_damaged_indexes();
    let _ = log.truncate_to(Offset(3), now);
    let _ = log.roll(None, now);
    let _ = log.delete_old_segments(now);
    let _ = log.close(now);
});
