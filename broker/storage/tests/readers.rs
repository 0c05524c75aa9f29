//! Every reader of a file of a log or a log directory, fed with files that are damaged in any way: bits flipped, bytes
//! cut off, put in, made the least and largest numbers, or all of them drawn at random. None panics, and none takes more
//! memory than the bound below, whatever lengths and counts a file claims.
//!
//! One test alone, since the memory is that of the whole process. Every case is one seed, which a failure prints.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use odradek_broker_storage::{
    AppendOrigin, CleanerConfig, Log, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig, checkpoints, files,
    verify,
};
use odradek_common::fs::{Fs, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::meta_properties::{MetaProperties, format_all};
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition, Uuid};
use odradek_records::{Batches, Codec, EndTxnMarker, RecordBatchBuilder};

/// Bytes in use, and the most there were since it was set.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIR: &str = "/logs";
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const TOPIC_ID: Uuid = Uuid([7; 16]);
/// For each file, unless `READER_ROUNDS` says more; on every eighth of them a log is opened, too, which costs many times as much.
const ROUNDS: u64 = 40;
const ROUNDS_TO_OPENING: u64 = 8;
/// The files have some KiB; a scan has a buffer of 1 MiB, a log open a few.
const READER_BYTES_MAX: usize = 3 << 20;
const LOG_BYTES_MAX: usize = 16 << 20;

fn open(fs: &MemFs) -> Result<LogDirs, odradek_broker_storage::IdentityError> {
    let settings = LogDirsConfig { dirs: vec![DIR.into()], node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
    LogDirs::open(Arc::new(fs.clone()), &settings, &mut SplitMix64::new(1))
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 2500, index_interval_bytes: 100, cleanup_compact: true, ..LogConfig::default() }
}

/// A directory with a log that has one of everything: segments with all indexes, producers, an aborted transaction, epochs,
/// each codec; and all checkpoints.
fn sound_files() -> BTreeMap<PathBuf, Vec<u8>> {
    let fs = MemFs::new();
    format_all(&fs, &[PathBuf::from(DIR)], "cluster", 1, false, &mut SplitMix64::new(1)).expect("formatted");
    let dirs = open(&fs).expect("opened");
    let partition = TopicPartition::new("topic", 0);
    let producers = ProducerStateConfig::default();
    let mut log =
        dirs.create(partition, TOPIC_ID, None, Arc::new(config()), producers, NOW).expect("usable").expect("made");
    let put = |log: &mut Log, epoch: i32, builder: RecordBatchBuilder| {
        let mut builder = builder;
        for at in 0..3 {
            builder.append_with_headers(NOW, Some(&[b'k', at]), Some(&[at; 60]), &[(b"header", Some(b"value"))]);
        }
        let batch = builder.build().expect("a batch");
        log.append_as_leader(&batch, LeaderEpoch(epoch), AppendOrigin::Client, NOW).expect("appended");
    };
    for round in 0..10 {
        for codec in Codec::ALL {
            put(&mut log, round / 4, RecordBatchBuilder::new().compression(codec));
        }
        let idempotent = RecordBatchBuilder::new().producer(ProducerId(3), ProducerEpoch(0), round * 3);
        put(&mut log, round / 4, idempotent);
        let transactional = RecordBatchBuilder::new().producer(ProducerId(4), ProducerEpoch(0), round * 3);
        put(&mut log, round / 4, transactional.transactional(true));
        let marker = EndTxnMarker { is_commit: round % 2 == 0, coordinator_epoch: 0 };
        let marker = marker.batch(ProducerId(4), ProducerEpoch(0), NOW);
        log.append_as_leader(&marker, LeaderEpoch(round / 4), AppendOrigin::Coordinator, NOW).expect("a marker");
    }
    log.set_high_watermark(log.log_end());
    log.delete_records_before(Offset(5)).expect("deleted");
    log.close(NOW).expect("closed");
    let checkpoint = log.checkpoint();
    dirs.write_checkpoints(log.log_dir(), std::slice::from_ref(&checkpoint)).expect("written");
    let cleaned_to = checkpoints::CLEANED_TO;
    let line = [(TopicPartition::new("topic", 0), Offset(20))];
    let lines = line.iter().map(|(partition, offset)| (partition, *offset));
    checkpoints::write_offsets(&fs, &Path::new(DIR).join(cleaned_to), lines).expect("written");
    dirs.write_clean_shutdown(log.log_dir(), 7).expect("written");
    drop((log, dirs));
    let content = |path: PathBuf| {
        let bytes = fs.content(&path).expect("there");
        (path, bytes)
    };
    fs.files().into_iter().map(content).filter(|(path, _)| !path.ends_with(".lock")).collect()
}

fn restored(files: &BTreeMap<PathBuf, Vec<u8>>) -> MemFs {
    let fs = MemFs::new();
    for (path, bytes) in files {
        fs.create_dir_all(path.parent().expect("a directory")).expect("made");
        write_file_atomically(&fs, path, bytes).expect("written");
    }
    fs
}

fn damaged(bytes: &[u8], rng: &mut SplitMix64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let at = |rng: &mut SplitMix64, length: usize| rng.below(length as u64 + 1) as usize;
    match rng.below(6) {
        0 => {
            let kept = at(rng, out.len());
            out.truncate(kept);
        }
        1 => out = (0..at(rng, 3000)).map(|_| rng.next_u64() as u8).collect(),
        2 => {
            let (position, more) = (at(rng, out.len()), at(rng, 100));
            let more: Vec<u8> = (0..more).map(|_| rng.next_u64() as u8).collect();
            out.splice(position..position, more);
        }
        3 => {
            // Lengths and counts that lie.
            for _ in 0..=rng.below(3) {
                let position = at(rng, out.len());
                let number: i64 = [0, -1, i64::MIN, i64::MAX, i64::from(i32::MAX), 1 << 24][rng.below(6) as usize];
                let number = if rng.below(2) == 0 { &number.to_be_bytes()[..] } else { &number.to_be_bytes()[4..] };
                for (to, from) in out.iter_mut().skip(position).zip(number) {
                    *to = *from;
                }
            }
        }
        4 => {
            // The same for files of text.
            let position = at(rng, out.len());
            let words: [&[u8]; 5] = [b"99999999999999999999", b"-1", b"\n", b"\0", "\u{1F9F5} ".as_bytes()];
            let word = words[rng.below(5) as usize];
            out.splice(position..position, word.iter().copied());
        }
        _ => {
            for _ in 0..=rng.below(4) {
                let position = at(rng, out.len().saturating_sub(1));
                if let Some(byte) = out.get_mut(position) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    out
}

/// Each reader, whatever the file is meant for.
fn read_alone(fs: &MemFs, path: &Path) {
    let partition = Path::new(DIR).join("topic-0");
    if let Ok(file) = files::BatchFile::open(fs, path) {
        for found in file.batches(0) {
            let Ok(found) = found else { break };
            assert!(file.read(&found).expect("what was found is there").bytes.len() as u64 <= file.len());
        }
    }
    let _ = files::read_offset_index(fs, path, Offset(0));
    let _ = files::read_time_index(fs, path, Offset(0));
    let _ = files::read_txn_index(fs, path);
    let _ = files::read_producer_snapshot(fs, path);
    let _ = files::read_leader_epochs(fs, path);
    let _ = checkpoints::read_offsets(fs, path);
    let _ = checkpoints::read_topic_id(fs, &partition);
    let _ = checkpoints::read_clean_shutdown(fs, Path::new(DIR));
    let _ = MetaProperties::read(fs, Path::new(DIR));
    verify::log_dir(fs, Path::new(DIR), verify::Options { records: true }, &mut |_| ()).expect("readable");
}

/// A broker's start on the directory, and everything that it may do with the log.
fn use_log(fs: &MemFs) {
    let Ok(dirs) = open(fs) else { return };
    let mut report = dirs.load_all(|_, _| Arc::new(config()), ProducerStateConfig::default(), NOW);
    let Some(mut log) = report.logs.pop() else { return };
    log.set_high_watermark(log.log_end());
    let mut next = log.log_start();
    while let Ok(slice) = log.read(next, 2000, log.log_end(), true) {
        let Ok(bytes) = log.load(&slice) else { break };
        let _ = log.aborted_transactions(&slice);
        match Batches::new(bytes).map_while(Result::ok).last().map(|batch| batch.header.next_offset()) {
            Some(after) if after > next => next = after,
            _ => break,
        }
    }
    for offset in [0, 1, 50, 100, 239, 100_000] {
        let _ = log.read(Offset(offset), 1, log.log_end(), true);
    }
    let _ = log.offset_for_timestamp(Timestamp(5));
    let _ = log.offset_of_max_timestamp();
    let _ = log.verify();
    let _ = log.rebuild_damaged_indexes();
    let _ = log.flush(NOW);
    let cleaner = CleanerConfig { map_bytes_max: 1 << 16, load_factor: 0.9, io_bytes: 4096, hash_keys: (1, 2) };
    if let Ok(Some(cleanable)) = log.cleanable(None, NOW)
        && let Ok(mut cleaning) = log.begin_cleaning(&cleanable, cleaner, NOW)
    {
        use odradek_broker_storage::CleanProgress;
        loop {
            match cleaning.step() {
                Ok(CleanProgress::Bytes(_)) => {}
                Ok(CleanProgress::Segment(replacement)) => {
                    let Ok(deferred) = log.replace_segments(*replacement) else { break };
                    let _ = deferred.run();
                }
                Ok(CleanProgress::Done(_)) | Err(_) => break,
            }
        }
    }
    let _ = log.truncate_to(Offset(log.log_end().0 / 2), NOW);
    let mut builder = RecordBatchBuilder::new();
    builder.append(NOW, Some(b"key"), None);
    let batch = builder.build().expect("a batch");
    let _ = log.append_as_leader(&batch, LeaderEpoch(9), AppendOrigin::Client, NOW);
    let _ = log.roll(None, NOW);
    let _ = log.delete_old_segments(NOW).map(|deferred| deferred.run());
    let _ = log.close(NOW);
}

/// The most memory that is in use in `run` beyond what was before.
fn peak(run: impl FnOnce()) -> usize {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    run();
    PEAK.load(Relaxed).saturating_sub(before)
}

#[test]
fn damaged_files_cost_neither_a_panic_nor_memory() {
    let files = sound_files();
    let names: Vec<String> = files.keys().map(|path| path.to_string_lossy().into_owned()).collect();
    let wanted =
        [".log", ".index", ".timeindex", ".txnindex", ".snapshot", "leader-epoch-checkpoint", "partition.metadata"];
    let wanted = wanted.iter().chain(&["meta.properties", "cleaner-offset-checkpoint", ".kafka_cleanshutdown"]);
    let wanted = wanted.chain(&["recovery-point-offset-checkpoint", "log-start-offset-checkpoint"]);
    for end in wanted {
        assert!(names.iter().any(|name| name.ends_with(end)), "no {end} among {names:?}");
    }
    let rounds = std::env::var("READER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    for (number, (path, bytes)) in files.iter().enumerate() {
        for round in 0..rounds {
            let seed = (number as u64) << 32 | round;
            let mut rng = SplitMix64::new(seed);
            let fs = restored(&files);
            let changed = damaged(bytes, &mut rng);
            write_file_atomically(&fs, path, &changed).expect("written");
            let case = format!("{} with seed {seed}", path.display());
            let check = |what: &str, bytes_max: usize, run: &dyn Fn()| {
                let mut result = Ok(());
                let used = peak(|| result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)));
                assert!(result.is_ok(), "{case}: {what} panics");
                assert!(used <= bytes_max, "{case}: {what} takes {used} bytes");
            };
            check("a reader", READER_BYTES_MAX, &|| read_alone(&fs, path));
            if round % ROUNDS_TO_OPENING == 0 {
                check("a log", LOG_BYTES_MAX, &|| use_log(&fs));
            }
        }
    }
}
