//! Disks that fail, at every kind of operation, and disks that are full, at every byte.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_broker_storage::{
    AppendError, Log, LogConfig, LogDir, LogDirs, LogDirsConfig, LogError, ProducerStateConfig, Recovery, Room,
    StorageError,
};
use odradek_common::fs::Fs;
use odradek_common::mem_fs::{Crash, MemFs, Operation};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicPartition};

use crate::support::{EVER, Home, NOW, TOPIC_ID, append, batch, idempotent, offsets, read_all};

type IsKind = fn(Operation) -> bool;

const DIRS: [&str; 2] = ["/a", "/b"];

fn small() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 1, ..LogConfig::default() }
}

fn formatted() -> MemFs {
    let fs = MemFs::new();
    format_all(&fs, &DIRS.map(PathBuf::from), "cluster", 1, false, &mut SplitMix64::new(1)).expect("formatted");
    fs
}

fn open_dirs(fs: &MemFs) -> LogDirs {
    let dirs = DIRS.iter().map(PathBuf::from).collect();
    let config = LogDirsConfig { dirs, node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
    LogDirs::open(Arc::new(fs.clone()), &config, &mut SplitMix64::new(2)).expect("opened")
}

#[derive(Debug)]
struct Failed(String, ErrorCode);

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self(error.to_string(), error.code())
    }
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        Self(error.to_string(), error.code())
    }
}

impl From<AppendError> for Failed {
    fn from(error: AppendError) -> Self {
        Self(error.to_string(), error.code())
    }
}

/// All that a broker does with a log and its directory, one after another.
fn use_all(dirs: &LogDirs, log: &mut Log) -> Result<(), Failed> {
    let dir = log.log_dir().clone();
    for _ in 0..12 {
        append(log, &batch(2, 40, NOW))?;
    }
    log.flush(NOW)?;
    log.release_idle_memory()?;
    log.log_dir().open_files().close_idle();
    log.log_dir().open_files().close_idle();
    let slice = log.read(Offset(0), 1000, log.log_end(), true)?;
    log.load(&slice)?;
    log.truncate_to(Offset(13), NOW)?;
    log.set_high_watermark(log.log_end());
    log.delete_records_before(Offset(8))?;
    log.delete_old_segments(NOW)?.run()?;
    dirs.write_checkpoints(&dir, &[log.checkpoint()])?;
    dirs.check_presence(&dir)?;
    dirs.space(&dir)?;
    Ok(())
}

#[test]
fn each_kind_of_operation_that_fails_costs_the_directory_and_no_other() {
    let kinds: [(&str, IsKind); 11] = [
        ("open", |operation| operation == Operation::Open),
        ("create", |operation| operation == Operation::Create),
        ("read", |operation| operation == Operation::Read),
        ("write", |operation| matches!(operation, Operation::Write { .. })),
        ("set the length", |operation| operation == Operation::SetLen),
        ("sync", |operation| operation == Operation::Sync),
        ("sync the directory", |operation| operation == Operation::SyncDir),
        ("rename", |operation| operation == Operation::Rename),
        ("remove", |operation| operation == Operation::Remove),
        ("list", |operation| operation == Operation::List),
        ("look", |operation| operation == Operation::Look),
    ];
    for (name, is_kind) in kinds {
        for kind in [ErrorKind::Other, ErrorKind::ReadOnlyFilesystem, ErrorKind::NotADirectory] {
            let fs = formatted();
            let dirs = open_dirs(&fs);
            let topic = Arc::new(small());
            let mut logs: Vec<Log> = (0..2)
                .map(|partition| {
                    let partition = TopicPartition::new("t", partition);
                    let producers = ProducerStateConfig::default();
                    dirs.create(partition, TOPIC_ID, None, topic.clone(), producers, NOW)
                        .expect("usable")
                        .expect("made")
                })
                .collect();
            let failures = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            for dir in dirs.dirs() {
                let failures = failures.clone();
                dir.on_failure(move || {
                    failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                });
            }
            let [sick, well] = logs.as_mut_slice() else { panic!("two logs") };
            let bad = sick.log_dir().path.clone();
            let fault = bad.clone();
            fs.set_fault(Some(Box::new(move |operation, path| {
                (is_kind(operation) && path.starts_with(&fault)).then(|| Error::from(kind))
            })));
            let Failed(message, code) = use_all(&dirs, sick).expect_err(name);
            assert_eq!(code, ErrorCode::KafkaStorageError, "{name}: {message}");
            assert!(sick.log_dir().failure().is_some(), "{name}: {message}");
            assert!(message.contains("is offline: "), "{name}: {message}");
            use_all(&dirs, well).unwrap_or_else(|failed| panic!("{name}: the other directory: {failed:?}"));
            assert_eq!(failures.load(std::sync::atomic::Ordering::Relaxed), 1, "{name}");
            assert_eq!(dirs.online().map(|dir| &*dir.path).collect::<Vec<&Path>>(), [well.log_dir().path.as_path()]);
            // Nothing is tried again, though the disk would do it now.
            fs.set_fault(None);
            assert!(append(sick, &batch(1, 10, NOW)).is_err() && sick.flush(NOW).is_err(), "{name}");
            assert!(sick.read(Offset(0), 100, Offset(1), true).is_err(), "{name}");
        }
    }
}

#[test]
fn a_reader_that_comes_upon_a_bad_sector_later_takes_the_directory_offline() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&small(), Recovery::NEW);
    append(&mut log, &batch(1, 10, NOW)).expect("appended");
    let slice = log.read(Offset(0), 1000, log.log_end(), true).expect("found");
    fs.set_fault(Some(Box::new(|operation, _| (operation == Operation::Read).then(|| Error::other("bad sector")))));
    let file = slice.file.expect("a range");
    assert!(file.read_at(&mut [0; 10], slice.position).is_err());
    assert!(log.log_dir().failure().is_some_and(|failure| failure.message == "bad sector"));
}

#[test]
fn a_start_goes_on_without_a_bad_directory_and_says_so() {
    for bad_operation in [Operation::Open, Operation::Read, Operation::List] {
        let fs = formatted();
        fs.set_fault(Some(Box::new(move |operation, path| {
            (operation == bad_operation && path.starts_with("/b")).then(|| Error::other("the disk is dead"))
        })));
        let dirs = open_dirs(&fs);
        assert!(dirs.partitions().is_empty());
        assert_eq!(dirs.online().map(|dir| &*dir.path).collect::<Vec<_>>(), [Path::new("/a")], "{bad_operation:?}");
        assert!(dirs.has_failed());
    }
}

#[test]
fn a_directory_that_is_not_there_any_more_is_offline() {
    let fs = formatted();
    let dirs = open_dirs(&fs);
    let (a, b) = (dirs.dirs().next().expect("two"), dirs.dirs().nth(1).expect("two"));
    dirs.check_presence(a).expect("there");
    fs.rename("/a".as_ref(), "/elsewhere".as_ref()).expect("renamed");
    let error = dirs.check_presence(a).expect_err("gone").to_string();
    assert!(error.contains("/a is offline") && error.contains("removed, replaced or unmounted"), "{error}");
    dirs.check_presence(b).expect("there");
    assert_eq!(dirs.online().count(), 1);
}

// ---- full disks ----

fn used(fs: &MemFs) -> u64 {
    fs.files().iter().map(|file| fs.content(file).expect("there").len() as u64).sum()
}

/// What the log acknowledged is there, and nothing else, after each way to end the process.
fn check_after_every_end(fs: &MemFs, home: &Home, log: Log, expected: &[i64], why: &str) {
    let dir: Arc<LogDir> = log.log_dir().clone();
    assert!(dir.failure().is_none(), "{why}: {:?}", dir.failure());
    assert_eq!(offsets(&read_all(&log, Offset(0))), expected, "{why}: live");
    drop(log);
    fs.crash(Crash::Process, &mut SplitMix64::new(1));
    let mut log = home.reopen_after_crash(&small());
    assert_eq!(offsets(&read_all(&log, Offset(0))), expected, "{why}: after a crash");
    assert_eq!(log.recovery().damage, None, "{why}: no torn end was left");
    log.close(NOW).expect("closed");
    drop(log);
    let log = home.open(&small(), Recovery::NEW);
    assert_eq!(offsets(&read_all(&log, Offset(0))), expected, "{why}: after a clean end");
    fs.crash(Crash::PowerLosesAll, &mut SplitMix64::new(1));
    let log = home.open(&small(), Recovery { recovery_point: log.log_end(), ..Recovery::NEW });
    assert_eq!(offsets(&read_all(&log, Offset(0))), expected, "{why}: after a power failure");
}

#[test]
fn a_full_disk_refuses_records_at_any_byte_and_goes_on_when_there_is_room() {
    for as_follower in [false, true] {
        for room in (0..1500).step_by(7) {
            let fs = MemFs::new();
            let home = Home::memory(&fs);
            let mut log = home.open(&small(), Recovery::NEW);
            let put = |log: &mut Log, n: i64, epoch: i32| -> Result<(), AppendError> {
                let records = idempotent(7, 0, n as i32, 1);
                if as_follower {
                    // As a leader would have it: with its offset and epoch.
                    let helper = MemFs::new();
                    let mut leader = Home::memory(&helper).open(&LogConfig::default(), Recovery::NEW);
                    leader.truncate_fully_and_start_at(Offset(n), NOW).expect("begun");
                    let origin = odradek_broker_storage::AppendOrigin::Coordinator;
                    let plain = batch(1, 40, NOW);
                    leader.append_as_leader(&plain, LeaderEpoch(epoch), origin, NOW).expect("appended");
                    let slice = leader.read(Offset(n), 10_000, leader.log_end(), true).expect("read");
                    log.append_as_follower(&leader.load(&slice).expect("loaded"), EVER, NOW).map(drop)
                } else {
                    let origin = odradek_broker_storage::AppendOrigin::Client;
                    log.append_as_leader(&records, LeaderEpoch(epoch), origin, NOW).map(drop)
                }
            };
            for n in 0..3 {
                put(&mut log, n, 0).expect("room enough");
            }
            log.flush(NOW).expect("flushed");
            fs.set_capacity(Some(used(&fs) + room));
            let why = format!("{room} bytes left, follower: {as_follower}");
            let mut n = 3;
            let error = loop {
                match put(&mut log, n, n as i32) {
                    Ok(()) => n += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(&error, AppendError::Log(error) if error.is_full()), "{why}: {error}");
            assert_eq!(error.code(), ErrorCode::KafkaStorageError);
            assert_eq!(log.log_dir().room(), Room::None);
            assert_eq!(log.log_end(), Offset(n), "{why}");
            // Reads and deletion go on.
            assert_eq!(offsets(&read_all(&log, Offset(0))), (0..n).collect::<Vec<_>>(), "{why}");
            let _ = log.flush(NOW);
            let _ = put(&mut log, n, n as i32);
            fs.set_capacity(None);
            put(&mut log, n, n as i32).unwrap_or_else(|error| panic!("{why}: {error}"));
            put(&mut log, n + 1, n as i32).unwrap_or_else(|error| panic!("{why}: {error}"));
            log.flush(NOW).expect("flushed");
            check_after_every_end(&fs, &home, log, &(0..n + 2).collect::<Vec<_>>(), &why);
        }
    }
}

#[test]
fn a_fast_writer_passes_the_marks_where_they_are() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    let dir = log.log_dir().clone();
    let records = batch(1, 100, NOW);
    let bytes = records.len() as u64;
    assert_eq!(dir.set_room(Room::Enough, 3 * bytes, 5 * bytes), Room::Enough);
    let rooms: Vec<Room> = (0..6)
        .map(|_| {
            append(&mut log, &records).expect("the file system has room");
            dir.room()
        })
        .collect();
    use Room::{Enough, Little, None};
    assert_eq!(rooms, [Enough, Enough, Enough, Little, Little, None]);
    assert_eq!(dir.set_room(Room::Enough, u64::MAX, u64::MAX), Room::None);
    append(&mut log, &records).expect("room");
    assert_eq!(dir.room(), Room::Enough, "no mark");
}

#[test]
fn retention_makes_room_on_a_full_disk() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let config = LogConfig { retention_ms: 1, ..small() };
    let mut log = home.open(&config, Recovery::NEW);
    for _ in 0..30 {
        append(&mut log, &batch(1, 40, NOW)).expect("room enough");
    }
    log.set_high_watermark(log.log_end());
    fs.set_capacity(Some(used(&fs)));
    assert!(
        append(&mut log, &batch(1, 400, NOW)).is_err_and(|error| matches!(error, AppendError::Log(e) if e.is_full()))
    );
    let later = odradek_common::time::Timestamp(NOW.0 + 1_000_000);
    log.delete_old_segments(later).expect("dropped").run().expect("removed");
    assert!(log.log_start() > Offset(0));
    append(&mut log, &batch(1, 40, NOW)).expect("there is room again");
    assert!(log.log_dir().failure().is_none());
}

#[test]
fn a_checkpoint_that_finds_no_room_leaves_the_old_one() {
    let fs = formatted();
    let dirs = open_dirs(&fs);
    let topic = Arc::new(small());
    let partition = TopicPartition::new("t", 0);
    let producers = ProducerStateConfig::default();
    let mut log = dirs.create(partition.clone(), TOPIC_ID, None, topic, producers, NOW).expect("usable").expect("made");
    let dir = log.log_dir().clone();
    append(&mut log, &batch(5, 10, NOW)).expect("appended");
    log.flush(NOW).expect("flushed");
    dirs.write_checkpoints(&dir, &[log.checkpoint()]).expect("written");
    let before = fs.files();
    fs.set_capacity(Some(used(&fs) + 3));
    append(&mut log, &batch(1, 10, NOW)).expect_err("full");
    let error = dirs.write_checkpoints(&dir, &[log.checkpoint()]).expect_err("full");
    assert!(error.is_full() && error.to_string().contains("is full: writing"), "{error}");
    assert_eq!(fs.files(), before, "no torn file stays");
    assert!(dir.failure().is_none());
    fs.set_capacity(None);
    drop((log, dirs));
    let dirs = open_dirs(&fs);
    assert_eq!(dirs.partitions()[0].recovery.recovery_point, Offset(5));
}

#[test]
fn a_sync_without_room_is_a_failure() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&small(), Recovery::NEW);
    append(&mut log, &batch(1, 10, NOW)).expect("appended");
    fs.set_fault(Some(Box::new(|operation, _| (operation == Operation::Sync).then(|| ErrorKind::StorageFull.into()))));
    let error = log.flush(NOW).expect_err("what was taken is lost");
    assert!(!error.is_full() && log.log_dir().failure().is_some(), "{error}");
}

/// Entries of batches that are cut off before the index is written again.
#[test]
fn index_entries_that_a_full_disk_has_refused_do_not_come_back() {
    let config = LogConfig { index_interval_bytes: 1, ..LogConfig::default() };
    for seed in 0..40 {
        let fs = MemFs::new();
        let home = Home::memory(&fs);
        let mut log = home.open(&config, Recovery::NEW);
        for _ in 0..3 {
            append(&mut log, &batch(1, 10, NOW)).expect("appended");
        }
        log.close(NOW).expect("closed");
        drop(log);
        let mut log = home.open(&config, Recovery::NEW);
        for _ in 0..3 {
            append(&mut log, &batch(1, 10, NOW)).expect("appended");
        }
        log.release_idle_memory().expect("not idle yet");
        fs.set_capacity(Some(used(&fs) + 8));
        let refused = log.release_idle_memory().expect_err("full");
        assert!(refused.is_full(), "{refused}");
        fs.set_capacity(None);
        log.truncate_to(Offset(3), NOW).expect("truncated");
        log.roll(None, NOW).expect("rolled");
        log.flush(NOW).expect("flushed");
        drop(log);
        let index = home.file("00000000000000000000.index");
        let synced = fs.content(&index).expect("there");
        fs.crash(Crash::PowerTears, &mut SplitMix64::new(seed));
        assert_eq!(fs.content(&index).expect("there"), synced, "seed {seed}");
    }
}
