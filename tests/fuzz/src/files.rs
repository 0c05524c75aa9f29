//! The files of a broker.

use std::path::Path;
use std::sync::Arc;

use odradek_broker_storage::{
    Log, LogConfig, LogDir, LogLocation, ProducerStateConfig, Recovery, checkpoints, files, verify,
};
use odradek_common::fs::{Fs, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::meta_properties::MetaProperties;
use odradek_common::time::Timestamp;
use odradek_common::{Offset, TopicPartition, Uuid};
use odradek_records::Batches;

use crate::wire;

const FILES: [&str; 12] = [
    "topic-0/00000000000000000000.log",
    "topic-0/00000000000000000000.index",
    "topic-0/00000000000000000000.timeindex",
    "topic-0/00000000000000000000.txnindex",
    "topic-0/00000000000000000007.snapshot",
    "topic-0/leader-epoch-checkpoint",
    "topic-0/partition.metadata",
    "recovery-point-offset-checkpoint",
    "cleaner-offset-checkpoint",
    "log-start-offset-checkpoint",
    ".kafka_cleanshutdown",
    "meta.properties",
];

/// Every file of a log and of a log directory: its reader answers or refuses.
///
/// The first byte chooses the file; the rest is what it holds.
pub fn broker_files(data: &[u8]) {
    let [first, bytes @ ..] = data else { return };
    let fs = MemFs::new();
    let dir = Path::new("/logs");
    let path = dir.join(FILES[usize::from(*first) % FILES.len()]);
    fs.create_dir_all(&dir.join("topic-0")).expect("made");
    write_file_atomically(&fs, &path, bytes).expect("written");
    if let Ok(file) = files::BatchFile::open(&fs, &path) {
        for found in file.batches(0) {
            let Ok(found) = found else { break };
            let batch = file.read(&found).expect("what was found is there");
            assert!(batch.bytes.len() <= bytes.len());
        }
    }
    let _ = files::read_offset_index(&fs, &path, Offset(0));
    let _ = files::read_time_index(&fs, &path, Offset(0));
    let _ = files::read_txn_index(&fs, &path);
    let _ = files::read_producer_snapshot(&fs, &path);
    let _ = files::read_leader_epochs(&fs, &path);
    let _ = checkpoints::read_offsets(&fs, &path);
    let _ = checkpoints::read_topic_id(&fs, &dir.join("topic-0"));
    let _ = checkpoints::read_clean_shutdown(&fs, dir);
    let _ = MetaProperties::read(&fs, dir);
    let _ = verify::log_dir(&fs, dir, verify::Options::default(), &mut |_| ());
}

pub fn broker_files_seeds() -> Vec<Vec<u8>> {
    let holds: [&[u8]; 12] = [
        &[],
        &[0, 0, 0, 5, 0, 0, 1, 0],
        &[0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0, 0, 0, 0, 5],
        &[0; 34],
        &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        b"0\n2\n0 0\n3 17\n",
        b"version: 0\ntopic_id: qRbGDWVzTzi3YMI0aEWhLg",
        b"0\n1\ntopic 0 7\n",
        b"0\n1\ntopic 0 7\n",
        b"0\n1\ntopic 0 7\n",
        b"{\"version\":0,\"brokerEpoch\":7}",
        b"version=1\nnode.id=1\ncluster.id=0pDMC_mfS-CIpvhF_wATcg\n",
    ];
    let with = |place: usize, bytes: &[u8]| [&[place as u8], bytes].concat();
    let plain = holds.iter().enumerate().map(|(place, bytes)| with(place, bytes));
    plain.chain(wire::record_batches_seeds().iter().map(|bytes| with(0, bytes))).collect()
}

const LOG_FILES: [&str; 7] = [
    "00000000000000000000.log",
    "00000000000000000000.index",
    "00000000000000000000.timeindex",
    "00000000000000000000.txnindex",
    "00000000000000000009.log",
    "00000000000000000009.snapshot",
    "leader-epoch-checkpoint",
];

/// A log is opened on any files, read from end to end, looked up and written to.
///
/// The files lie in the input one behind the other, each with its length (16 bits) in front.
pub fn log(data: &[u8]) {
    let fs = MemFs::new();
    let dir = Path::new("/logs/topic-0");
    fs.create_dir_all(dir).expect("made");
    let Some((flags, mut rest)) = data.split_first() else { return };
    for name in LOG_FILES {
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
    let recovery = Recovery { clean: flags & 1 == 1, ..Recovery::NEW };
    let now = Timestamp(1_700_000_000_000);
    let config = Arc::new(LogConfig { cleanup_compact: flags & 2 == 2, ..LogConfig::default() });
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
}

pub fn log_seeds() -> Vec<Vec<u8>> {
    let files = |flags: u8, files: &[&[u8]]| {
        let mut out = vec![flags];
        for bytes in files {
            out.extend((bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        out
    };
    let index: &[u8] = &[0, 0, 0, 5, 0, 0, 0, 0];
    let mut out = Vec::new();
    for batches in wire::record_batches_seeds() {
        for flags in 0..4 {
            out.push(files(flags, &[&batches]));
            out.push(files(flags, &[&batches, index, &[0; 12], &[], &batches, &[0, 1], b"0\n1\n0 0\n"]));
        }
    }
    out
}
