//! A log moves to another directory, and the power fails at every step.

use std::path::PathBuf;
use std::sync::Arc;

use odradek_broker_storage::{
    AppendOrigin, Log, LogConfig, LogDirs, LogDirsConfig, LogLocation, ProducerStateConfig, future_dir_name,
};
use odradek_common::fs::Fs;
use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerId, Decision, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition, Uuid};
use odradek_records::EndTxnMarker;

use crate::support::{EVER, NOW, TOPIC_ID, append, batch, offsets, read_all};

const RECORDS: i64 = 20;

fn config() -> Arc<LogConfig> {
    Arc::new(LogConfig { segment_bytes: 600, ..LogConfig::default() })
}

fn open(fs: &MemFs) -> LogDirs {
    let dirs = vec![PathBuf::from("/a"), PathBuf::from("/b")];
    let config = LogDirsConfig { dirs, node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
    LogDirs::open(Arc::new(fs.clone()), &config, &mut SplitMix64::new(2)).expect("opened")
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// A log in `/a`, and a complete copy of it in `/b`.
fn copied(fs: &MemFs) -> (LogDirs, Log, Log) {
    format_all(fs, &["/a", "/b"].map(PathBuf::from), "cluster", 1, false, &mut SplitMix64::new(1)).expect("formatted");
    let dirs = open(fs);
    let producers = ProducerStateConfig::default();
    let mut log = dirs.create(partition(), TOPIC_ID, None, config(), producers, NOW).expect("usable").expect("made");
    for _ in 0..RECORDS {
        append(&mut log, &batch(1, 40, NOW)).expect("appended");
    }
    log.set_high_watermark(Offset(RECORDS));
    log.delete_records_before(Offset(3)).expect("deleted");
    log.flush(NOW).expect("flushed");
    let a = log.log_dir().clone();
    dirs.write_checkpoints(&a, &[log.checkpoint()]).expect("written");
    let to = dirs.dirs().nth(1).expect("two").clone();
    let path = to.path.join(future_dir_name(&partition(), Uuid([9; 16])).expect("short"));
    let location = LogLocation { fs: Arc::new(fs.clone()), log_dir: to, partition: partition() };
    let mut copy = dirs.open_future(location, path, TOPIC_ID, config(), producers, NOW).expect("made");
    copy.truncate_fully_and_start_at(Offset(3), NOW).expect("begun");
    while copy.log_end() < log.log_end() {
        let slice = log.read(copy.log_end(), 300, log.log_end(), true).expect("read");
        copy.append_as_follower(&log.load(&slice).expect("loaded"), EVER, NOW).expect("copied");
    }
    copy.follow_bounds(log.log_start(), log.high_watermark()).expect("taken over");
    (dirs, log, copy)
}

/// All steps of the swap; what fails is what the power took.
fn swap(dirs: &LogDirs, current: Log, copy: &mut Log) -> Option<()> {
    copy.prepare_to_replace(current.log_dir().id, NOW).ok()?;
    dirs.write_checkpoints(&copy.log_dir().clone(), &[copy.checkpoint()]).ok()?;
    let deleted = copy.replace(current, Uuid([8; 16])).ok()?;
    deleted.ok()?.run().ok()
}

#[test]
fn a_copy_takes_the_logs_place() {
    let fs = MemFs::new();
    let (dirs, log, mut copy) = copied(&fs);
    swap(&dirs, log, &mut copy).expect("swapped");
    assert_eq!(copy.dir(), PathBuf::from("/b/t-0"));
    let kept: Vec<i64> = (3..RECORDS).collect();
    assert_eq!(offsets(&read_all(&copy, Offset(3))), kept);
    append(&mut copy, &batch(1, 40, NOW)).expect("appended");
    copy.flush(NOW).expect("flushed");
    assert!(!fs.files().iter().any(|file| file.starts_with("/a") && file.to_string_lossy().contains("t-0")));
    drop((copy, dirs));
    fs.crash(Crash::PowerLosesAll, &mut SplitMix64::new(1));
    let report = open(&fs).load_all(|_, _| config(), ProducerStateConfig::default(), NOW);
    assert_eq!(report.logs.len(), 1);
    assert_eq!(offsets(&read_all(&report.logs[0], Offset(3))).last(), Some(&RECORDS));
}

/// In one leadership, a marker is known by the log that took it and by the one that takes that log's place.
#[test]
fn a_copy_knows_the_markers_that_the_log_has_taken() {
    let fs = MemFs::new();
    let (dirs, mut log, mut copy) = copied(&fs);
    let decision = Some(Decision { offset: Offset(10), leader_epoch: LeaderEpoch(0) });
    let marker = EndTxnMarker { is_commit: true, coordinator_epoch: 0 };
    let batch = marker.batch(ProducerId(1), ProducerEpoch(0), NOW);
    let mark = |log: &mut Log| {
        let origin = AppendOrigin::Marker { bumped: false, decision };
        let appended = log.append_as_leader(&batch, LeaderEpoch(0), origin, NOW).expect("taken");
        (appended.first_offset, appended.duplicate)
    };
    assert_eq!(mark(&mut log), (Offset(RECORDS), false));
    let slice = log.read(copy.log_end(), 300, log.log_end(), true).expect("read");
    copy.append_as_follower(&log.load(&slice).expect("loaded"), EVER, NOW).expect("copied");
    swap(&dirs, log, &mut copy).expect("swapped");
    assert_eq!(mark(&mut copy), (Offset(RECORDS), true));
}

#[test]
fn a_power_failure_at_any_step_leaves_one_complete_log() {
    let mut places = [0, 0];
    let mut steps = 0;
    loop {
        for (crash, seed) in
            [(Crash::Process, 0), (Crash::PowerLosesAll, 0), (Crash::PowerTears, 1), (Crash::PowerTears, 2)]
        {
            let fs = MemFs::new();
            let (dirs, log, mut copy) = copied(&fs);
            fs.power_off_after(steps);
            let done = swap(&dirs, log, &mut copy).is_some();
            drop((copy, dirs));
            fs.crash(crash, &mut SplitMix64::new(seed));
            let dirs = open(&fs);
            let report = dirs.load_all(|_, _| config(), ProducerStateConfig::default(), NOW);
            let why = format!("{crash:?} after {steps} steps");
            assert!(report.failed.is_empty(), "{why}: {:?}", report.failed);
            let [log] = report.logs.as_slice() else { panic!("{why}: {} logs", report.logs.len()) };
            assert_eq!((log.log_start(), log.log_end()), (Offset(3), Offset(RECORDS)), "{why}");
            assert_eq!(offsets(&read_all(log, Offset(3))), (3..RECORDS).collect::<Vec<_>>(), "{why}");
            assert!(!fs.exists(&log.dir().join("moved-from")).expect("asked"), "{why}: the mark stays");
            // A copy that has not taken the place yet is found, to go on with.
            let is_in_a = log.log_dir().path.as_os_str() == "/a";
            places[usize::from(!is_in_a)] += 1;
            assert!(dirs.future_logs().len() <= usize::from(is_in_a), "{why}");
            if done && crash == Crash::Process && seed == 0 {
                assert!(!is_in_a, "{why}");
                assert!(places[0] > 0 && places[1] > 0, "the power failed before and after: {places:?}");
                return;
            }
        }
        steps += 1;
    }
}
