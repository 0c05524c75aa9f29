//! Every file of a log and of a log directory, of any bytes: its reader answers or refuses.
//!
//! The first byte chooses the file; the rest is what it holds.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use odradek_broker_storage::{checkpoints, files, verify};
use odradek_common::Offset;
use odradek_common::fs::{Fs, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::meta_properties::MetaProperties;

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

fuzz_target!(|data: &[u8]| {
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
});
