//! Thousands of partitions: a bounded number of open files, few files on the disk, and one sync for all.

use std::path::Path;
use std::sync::Arc;

use odradek_broker_storage::{Log, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig, Recovery, format_directory};
use odradek_common::fs::{Fs, RealFs};
use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerId, Offset, TopicPartition};

use crate::support::{Home, NOW, TOPIC_ID, append, batch, offsets, read_all};

fn open(fs: &Arc<dyn Fs>, dir: &Path, open_files_max: usize) -> LogDirs {
    let mut rng = SplitMix64::new(1);
    if !fs.exists(&dir.join("meta.properties")).expect("looked at") {
        format_directory(&**fs, dir, "cluster", BrokerId(1), &mut rng).expect("formatted");
    }
    let config = LogDirsConfig { dirs: vec![dir.to_owned()], node_id: BrokerId(1), cluster_id: None, open_files_max };
    LogDirs::open(fs.clone(), &config, &mut rng).expect("opened")
}

fn create(dirs: &LogDirs, partition: i32, config: &LogConfig) -> Log {
    let name = TopicPartition::new("many", partition);
    let made = dirs.create(name, TOPIC_ID, None, Arc::new(config.clone()), ProducerStateConfig::default(), NOW);
    made.expect("a usable directory").expect("made")
}

fn load(dirs: &LogDirs, config: &LogConfig) -> Vec<Log> {
    let config = Arc::new(config.clone());
    let report = dirs.load_all(|_, _| config.clone(), ProducerStateConfig::default(), NOW);
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    report.logs
}

/// The files below a directory that this process has open, but for its lock and itself.
fn open_files(dir: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("listed").filter_map(Result::ok);
    links.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(|path| is_of_a_log(path, dir)).count()
}

fn is_of_a_log(path: &Path, dir: &Path) -> bool {
    path.parent().is_some_and(|parent| parent != dir && parent.starts_with(dir))
}

fn files(fs: &MemFs) -> Vec<String> {
    let mut names: Vec<String> =
        fs.files().iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn many_logs_are_written_and_read_with_a_few_open_files() {
    const OPEN_MAX: usize = 10;
    let home = tempfile::tempdir().expect("a directory");
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let config = LogConfig { segment_bytes: 400, index_interval_bytes: 0, ..LogConfig::default() };
    let dirs = open(&fs, home.path(), OPEN_MAX);
    let mut logs: Vec<Log> = (0..40).map(|partition| create(&dirs, partition, &config)).collect();
    assert_eq!(open_files(home.path()), 0, "a log that nobody uses has nothing open");
    for round in 0..12 {
        for log in &mut logs {
            append(log, &batch(1, 20, NOW)).expect("appended");
        }
        assert!(open_files(home.path()) <= OPEN_MAX, "{} files in round {round}", open_files(home.path()));
    }
    for log in &logs {
        assert!(log.segment_count() > 2);
        assert_eq!(offsets(&read_all(log, Offset(0))), (0..12).collect::<Vec<_>>());
        log.offset_for_timestamp(NOW).expect("looked up").expect("found");
        assert!(open_files(home.path()) <= OPEN_MAX);
    }
    assert!(dirs.open_files().expect("a directory").count() <= OPEN_MAX);
    // A reader keeps what it has in hand, and what is dropped is closed at once.
    let slice = logs[0].read(Offset(0), 1000, Offset(12), true).expect("readable");
    for log in &logs {
        read_all(log, Offset(0));
    }
    assert_eq!(logs[0].load(&slice).expect("read").len(), slice.len);
    drop((slice, logs));
    assert_eq!(open_files(home.path()), 0);
}

#[test]
fn an_empty_log_has_two_files_and_a_clean_stop_adds_none() {
    let memory = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let config = LogConfig::default();
    let dirs = open(&fs, Path::new("/logs"), 10);
    let mut log = create(&dirs, 0, &config);
    log.assign_epoch_start(odradek_common::LeaderEpoch(3), Offset(0));
    let expected = ["00000000000000000000.log", "meta.properties", "partition.metadata"];
    assert_eq!(files(&memory), expected);
    log.close(NOW).expect("closed");
    assert_eq!(files(&memory), expected);
    dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).expect("written");
    dirs.write_clean_shutdown(log.log_dir(), 1).expect("written");
    drop((log, dirs));
    // Missing indexes of an empty segment are no damage, after a clean stop and after a crash.
    for _ in 0..2 {
        let dirs = open(&fs, Path::new("/logs"), 10);
        let mut logs = load(&dirs, &config);
        let log = &mut logs[0];
        assert_eq!((log.log_end(), log.recovery().indexes_rebuilt), (Offset(0), 0));
        assert!(log.recovery().damage.is_none());
    }
    // The epoch is on the disk with its first record.
    let dirs = open(&fs, Path::new("/logs"), 10);
    let mut logs = load(&dirs, &config);
    append(&mut logs[0], &batch(1, 10, NOW)).expect("appended");
    assert!(files(&memory).contains(&"leader-epoch-checkpoint".to_owned()));
}

#[test]
fn what_was_closed_and_synced_together_survives_a_power_failure() {
    let memory = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let config = LogConfig { segment_bytes: 1000, ..LogConfig::default() };
    let dirs = open(&fs, Path::new("/logs"), 10);
    let mut logs: Vec<Log> = (0..30).map(|partition| create(&dirs, partition, &config)).collect();
    for log in logs.iter_mut().take(20) {
        for _ in 0..9 {
            append(log, &batch(2, 40, NOW)).expect("appended");
        }
    }
    let jobs: Vec<_> = logs.iter_mut().map(|log| log.begin_close(NOW).expect("closed").expect("a job")).collect();
    let dir = logs[0].log_dir().clone();
    assert!(jobs.iter().map(|job| job.count()).sum::<usize>() > 100);
    assert!(dir.sync_whole().expect("synced"), "it can be synced whole");
    for (log, job) in logs.iter_mut().zip(jobs) {
        log.complete_flush(job.was_synced_whole());
        assert_eq!(log.recovery_point(), log.log_end());
    }
    dirs.write_checkpoints(&dir, &logs.iter().map(Log::checkpoint).collect::<Vec<_>>()).expect("written");
    dirs.write_clean_shutdown(&dir, 1).expect("written");
    drop((logs, dirs, dir));
    memory.crash(Crash::PowerLosesAll, &mut SplitMix64::new(7));
    let logs = load(&open(&fs, Path::new("/logs"), 10), &config);
    assert_eq!(logs.len(), 30);
    for log in &logs {
        let count = if log.partition().partition.0 < 20 { 18 } else { 0 };
        assert_eq!(offsets(&read_all(log, Offset(0))), (0..count).collect::<Vec<_>>());
        assert_eq!((log.recovery().segments_scanned, log.recovery().indexes_rebuilt), (0, 0));
    }
}

#[test]
fn a_failed_sync_of_all_takes_the_directory_offline() {
    let memory = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(memory.clone());
    let dirs = open(&fs, Path::new("/logs"), 10);
    let dir = dirs.dirs().next().expect("one").clone();
    memory.set_fault(Some(Box::new(|operation, _| {
        (operation == odradek_common::mem_fs::Operation::Sync).then(|| std::io::Error::other("the disk is dying"))
    })));
    dir.sync_whole().expect_err("it fails");
    assert!(dir.failure().is_some());
}

fn preallocated() -> LogConfig {
    LogConfig { segment_bytes: 4096, preallocate: true, ..LogConfig::default() }
}

#[test]
fn a_preallocated_segment_has_its_size_from_the_start_and_is_trimmed_when_it_is_closed() {
    let home = Home::real();
    let len = |name: &str| std::fs::metadata(home.file(name)).expect("there").len();
    let mut log = home.open(&preallocated(), Recovery::NEW);
    assert_eq!((len("00000000000000000000.log"), log.size_bytes()), (4096, 0));
    for _ in 0..3 {
        append(&mut log, &batch(2, 100, NOW)).expect("appended");
    }
    assert_eq!(len("00000000000000000000.log"), 4096);
    let first = log.size_bytes();
    log.roll(None, NOW).expect("rolled");
    assert_eq!((len("00000000000000000000.log"), len("00000000000000000006.log")), (first, 4096));
    append(&mut log, &batch(2, 100, NOW)).expect("appended");
    assert_eq!(offsets(&read_all(&log, Offset(0))), (0..8).collect::<Vec<_>>());
    let size = log.size_bytes();
    log.close(NOW).expect("closed");
    assert_eq!(len("00000000000000000006.log"), size - first);
    drop(log);
    let log = home.open(&preallocated(), Recovery { recovery_point: Offset(8), ..Recovery::NEW });
    assert_eq!((log.log_end(), log.size_bytes(), log.recovery().indexes_rebuilt), (Offset(8), size, 0));
}

#[test]
fn zeros_behind_the_last_batch_are_no_damage_after_a_crash() {
    let home = Home::real();
    let mut log = home.open(&preallocated(), Recovery::NEW);
    for _ in 0..3 {
        append(&mut log, &batch(2, 100, NOW)).expect("appended");
    }
    let size = log.size_bytes();
    drop(log);
    let mut log = home.reopen_after_crash(&preallocated());
    assert_eq!((log.log_end(), log.size_bytes()), (Offset(6), size));
    assert_eq!(log.recovery().damage, None);
    assert_eq!(std::fs::metadata(home.file("00000000000000000000.log")).expect("there").len(), size);
    append(&mut log, &batch(2, 100, NOW)).expect("appended");
    log.verify().expect("sound");
    drop(log);
    // A batch behind zeros is damage: something is missing before it.
    let path = home.file("00000000000000000000.log");
    let file = RealFs.open(&path, odradek_common::fs::OpenMode::ReadWrite).expect("opened");
    file.write_all_at(&[std::io::IoSlice::new(&batch(1, 10, NOW))], 3000).expect("written");
    let log = home.reopen_after_crash(&preallocated());
    assert_eq!(log.log_end(), Offset(8));
    assert!(log.recovery().damage.is_some());
}

#[test]
fn the_trim_of_a_closed_segment_may_be_lost_with_the_power() {
    let home = Home::real();
    let mut log = home.open(&preallocated(), Recovery::NEW);
    for _ in 0..3 {
        append(&mut log, &batch(2, 100, NOW)).expect("appended");
    }
    log.roll(None, NOW).expect("rolled");
    append(&mut log, &batch(2, 100, NOW)).expect("appended");
    drop(log);
    let path = home.file("00000000000000000000.log");
    RealFs.open(&path, odradek_common::fs::OpenMode::ReadWrite).expect("opened").set_len(4096).expect("grown again");
    let log = home.reopen_after_crash(&preallocated());
    assert_eq!((log.log_end(), log.recovery().damage.clone()), (Offset(8), None));
    log.verify().expect("sound");
}

#[test]
fn an_idle_log_gives_its_memory_back_and_goes_on() {
    let home = Home::real();
    let config = LogConfig { index_interval_bytes: 0, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    for _ in 0..20 {
        append(&mut log, &batch(1, 20, NOW)).expect("appended");
    }
    assert!(!home.file("00000000000000000000.index").exists());
    log.release_idle_memory().expect("released");
    assert!(!home.file("00000000000000000000.index").exists(), "it was used since the last call");
    log.release_idle_memory().expect("released");
    assert!(home.file("00000000000000000000.index").exists());
    append(&mut log, &batch(1, 20, NOW)).expect("appended");
    assert_eq!(offsets(&read_all(&log, Offset(0))), (0..21).collect::<Vec<_>>());
}
