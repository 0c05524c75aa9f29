//! What happens to a log besides appends: rolling, truncation, replication, retention, deletion, flushing.

use std::sync::{Arc, Mutex};

use odradek_broker_storage::{AppendError, AppendOrigin, Log, LogConfig, LogError, Recovery};
use odradek_common::fs::{Fs, RealFs};
use odradek_common::mem_fs::{Crash, MemFs, Operation};
use odradek_common::rng::SplitMix64;
use odradek_common::time::Timestamp;
use odradek_common::{ErrorCode, LeaderEpoch, Offset, Uuid};
use odradek_records::RecordBatchBuilder;

use crate::support::{EVER, Home, NOW, append, batch, fill, offsets, read_all};

fn small() -> LogConfig {
    LogConfig { segment_bytes: 1500, index_interval_bytes: 100, ..LogConfig::default() }
}

fn filled(home: &Home, config: &LogConfig, batches: i64) -> Log {
    let mut log = home.open(config, Recovery::NEW);
    for n in 0..batches {
        let epoch = LeaderEpoch((n / 10) as i32);
        let batch = batch(2, 20, Timestamp(NOW.0 + n));
        log.append_as_leader(&batch, epoch, AppendOrigin::Client, Timestamp(NOW.0 + n)).expect("appended");
    }
    log.set_high_watermark(log.log_end());
    log
}

#[test]
fn segments_roll_by_time_index_and_distance() {
    let home = Home::real();
    let mut log = home.open(&LogConfig { segment_ms: 1000, ..LogConfig::default() }, Recovery::NEW);
    for (time, segments) in [(0, 1), (1000, 1), (1001, 2), (1500, 2), (2002, 3)] {
        let batch = batch(1, 1, Timestamp(NOW.0 + time));
        let info = log.append_as_leader(&batch, LeaderEpoch(0), AppendOrigin::Client, NOW).expect("appended");
        assert_eq!(log.segment_count(), segments, "at {time}");
        assert_eq!(info.rolled, [1001, 2002].contains(&time));
    }

    let home = Home::real();
    let config = LogConfig { segment_index_bytes: 48, index_interval_bytes: 0, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    for _ in 0..40 {
        append(&mut log, &batch(1, 1, NOW)).expect("appended");
    }
    assert!(log.segment_count() > 5, "{} segments", log.segment_count());
    assert_eq!(offsets(&read_all(&log, Offset(0))), (0..40).collect::<Vec<_>>());

    // Offsets of a segment are stored as distances of 31 bits.
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    for base in [0, i64::from(i32::MAX), i64::from(i32::MAX) + 1, 1 << 40] {
        let replicated =
            fill(RecordBatchBuilder::new().base_offset(Offset(base)).leader_epoch(LeaderEpoch(1)), 1, 1, NOW);
        log.append_as_follower(&replicated, EVER, NOW).expect("appended");
    }
    assert_eq!(log.segment_count(), 3);
    assert_eq!(offsets(&read_all(&log, Offset(0))), [0, (1 << 31) - 1, 1 << 31, 1 << 40]);
}

#[test]
fn a_truncated_log_goes_on_from_there() {
    for to in [0, 1, 2, 59, 60, 61, 119, 120, 500] {
        let home = Home::real();
        let mut log = filled(&home, &small(), 60);
        let changed = log.truncate_to(Offset(to), NOW).expect("truncated");
        // A batch has two records and goes as a whole.
        let end = if to >= 120 { 120 } else { to / 2 * 2 };
        assert_eq!((changed, log.log_end()), (to < 120, Offset(end)), "to {to}");
        assert!(log.high_watermark() <= log.log_end());
        assert_eq!(offsets(&read_all(&log, Offset(0))), (0..end).collect::<Vec<_>>());
        let last = log.latest_epoch().map(|epoch| epoch.0);
        assert_eq!(last, if end == 0 { None } else { Some(((end - 1) / 20) as i32) }, "to {to}");
        if end > 20 {
            let stale = append(&mut log, &batch(2, 20, NOW)).expect_err("the log has records of a later epoch");
            assert_eq!(stale.code(), ErrorCode::NotLeaderOrFollower);
        }
        log.append_as_leader(&batch(2, 20, NOW), LeaderEpoch(9), AppendOrigin::Client, NOW).expect("appended");
        let all = offsets(&read_all(&log, Offset(0)));
        drop(log);
        assert_eq!(offsets(&read_all(&home.reopen_after_crash(&small()), Offset(0))), all);
    }
}

#[test]
fn a_follower_copies_its_leader_byte_for_byte() {
    let (leader_home, follower_home) = (Home::real(), Home::real());
    let leader = filled(&leader_home, &LogConfig { segment_bytes: 3000, ..LogConfig::default() }, 60);
    let mut follower = follower_home.open(&small(), Recovery::NEW);
    while follower.log_end() < leader.log_end() {
        // A limit that cuts batches, as a fetch does.
        let slice = leader.read(follower.log_end(), 777, leader.log_end(), true).expect("readable");
        follower.append_as_follower(&leader.load(&slice).expect("loaded"), EVER, NOW).expect("replicated");
    }
    assert_eq!(read_all(&follower, Offset(0)), read_all(&leader, Offset(0)));
    assert_eq!(follower.epoch_entries(), leader.epoch_entries());
    follower.verify().expect("sound");

    let slice = leader.read(Offset(0), 500, leader.log_end(), true).expect("readable");
    let old = leader.load(&slice).expect("loaded");
    let again = follower.append_as_follower(&old, EVER, NOW).expect_err("these are there already");
    assert!(matches!(again, AppendError::UnexpectedOffset { first: Offset(0), .. }), "{again}");
    let mut damaged = old.to_vec();
    damaged[70] ^= 1;
    let error = follower.append_as_follower(&damaged, EVER, NOW).expect_err("damaged");
    assert_eq!(error.code(), ErrorCode::CorruptMessage);
    assert_eq!(follower.append_as_follower(&old[..40], EVER, NOW).expect("less than a batch"), None);
}

#[test]
fn a_follower_takes_no_records_of_a_later_epoch_than_it_asked_in() {
    let home = Home::real();
    let mut log = home.open(&small(), Recovery::NEW);
    let batch = |base: i64, epoch| {
        fill(RecordBatchBuilder::new().base_offset(Offset(base)).leader_epoch(LeaderEpoch(epoch)), 2, 5, NOW)
    };
    log.append_as_follower(&batch(0, 1), LeaderEpoch(1), NOW).expect("of this epoch");
    // With one of its own epoch before it, too: nothing of the answer counts.
    let answer = [&batch(2, 1)[..], &batch(4, 2)[..]].concat();
    let error = log.append_as_follower(&answer, LeaderEpoch(1), NOW).expect_err("of the next leader");
    assert!(matches!(error, AppendError::FutureLeaderEpoch { epoch: LeaderEpoch(2), .. }), "{error}");
    assert_eq!((log.log_end(), log.latest_epoch()), (Offset(2), Some(LeaderEpoch(1))));
    log.append_as_follower(&batch(2, 1), LeaderEpoch(2), NOW).expect("of an older one");
    log.append_as_follower(&batch(4, 2), LeaderEpoch(2), NOW).expect("of this one");
    assert_eq!(log.log_end(), Offset(6));
}

#[test]
fn an_empty_follower_may_begin_inside_a_batch_of_its_leader() {
    let home = Home::real();
    let mut log = home.open(&small(), Recovery::NEW);
    log.truncate_fully_and_start_at(Offset(105), NOW).expect("begun anew");
    let batch = fill(RecordBatchBuilder::new().base_offset(Offset(100)).leader_epoch(LeaderEpoch(1)), 10, 5, NOW);
    log.append_as_follower(&batch, EVER, NOW).expect("replicated");
    assert_eq!((log.log_start(), log.log_end()), (Offset(105), Offset(110)));
    assert!(log.high_watermark() >= log.log_start());
    assert!(matches!(log.read(Offset(104), 1, Offset(110), true), Err(LogError::OffsetOutOfRange { .. })));
    assert_eq!(offsets(&read_all(&log, Offset(105))), [105, 106, 107, 108, 109]);
}

#[test]
fn retention_drops_whole_segments_below_the_high_watermark() {
    let by_size = LogConfig { retention_bytes: 4000, retention_ms: -1, ..small() };
    let by_time = LogConfig { retention_ms: 30, ..small() };
    for config in [by_size, by_time] {
        let home = Home::real();
        let mut log = filled(&home, &config, 60);
        let now = Timestamp(NOW.0 + 60);
        log.set_high_watermark(Offset(0));
        assert!(log.delete_old_segments(now).expect("nothing").is_empty());
        log.set_high_watermark(Offset(120));
        let (before, size) = (log.segment_count(), log.size_bytes());
        let deferred = log.delete_old_segments(now).expect("deleted");
        assert!(log.segment_count() < before && log.size_bytes() < size);
        assert!(log.size_bytes() >= 4000 || config.retention_ms >= 0);
        let start = log.log_start().0;
        assert!(start > 20 && start < 100, "starts at {start}");
        assert_eq!(offsets(&read_all(&log, Offset(start))), (start..120).collect::<Vec<_>>());
        assert_eq!(log.epoch_entries()[0].start, Offset(start));
        deferred.run().expect("removed");
        let names = RealFs.read_dir(log.dir()).expect("listed");
        assert!(names.iter().all(|entry| !entry.name.ends_with(".deleted")));
        drop(log);
        let log = home.reopen_after_crash(&config);
        assert_eq!((log.log_start(), log.log_end()), (Offset(start), Offset(120)));
    }
}

#[test]
fn when_everything_is_old_an_empty_segment_stays() {
    let home = Home::real();
    let mut log = filled(&home, &small(), 60);
    let later = Timestamp(NOW.0 + LogConfig::default().retention_ms + 1000);
    log.delete_old_segments(later).expect("deleted").run().expect("removed");
    assert_eq!((log.log_start(), log.log_end(), log.segment_count()), (Offset(120), Offset(120), 1));
    assert_eq!(log.size_bytes(), 0);
    assert!(log.delete_old_segments(later).expect("nothing").is_empty());
    append(&mut log, &batch(1, 1, NOW)).expect("appended");
    drop(log);
    assert_eq!(home.reopen_after_crash(&small()).log_end(), Offset(121));
}

#[test]
fn deleted_records_cannot_be_read_and_their_segments_go() {
    let home = Home::real();
    let mut log = filled(&home, &small(), 60);
    log.set_high_watermark(Offset(80));
    assert!(matches!(log.delete_records_before(Offset(81)), Err(LogError::OffsetOutOfRange { .. })));
    assert!(log.delete_records_before(Offset(77)).expect("moved"));
    assert!(!log.delete_records_before(Offset(50)).expect("already"));
    assert_eq!((log.log_start(), log.checkpoint().log_start), (Offset(77), Some(Offset(77))));
    let before = log.segment_count();
    log.delete_old_segments(NOW).expect("deleted").run().expect("removed");
    assert!(log.segment_count() < before);
    assert_eq!(log.log_start(), Offset(77));
    assert_eq!(offsets(&read_all(&log, Offset(77))), (77..120).collect::<Vec<_>>());
}

#[test]
fn a_deleted_partition_is_out_of_sight_at_once() {
    let home = Home::real();
    let log = filled(&home, &small(), 10);
    let slice = log.read(Offset(0), 100, Offset(20), true).expect("readable");
    let deferred = log.delete(Uuid([0xab; 16])).expect("renamed");
    let names: Vec<_> = RealFs.read_dir(&home.path).expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [format!("topic-0.{}-delete", "ab".repeat(16))]);
    // A reader that has the file keeps it.
    let mut bytes = vec![0; slice.len];
    slice.file.expect("a file").read_exact_at(&mut bytes, slice.position).expect("readable");
    deferred.run().expect("removed");
    assert!(RealFs.read_dir(&home.path).expect("listed").is_empty());
}

#[test]
fn a_flush_moves_the_recovery_point_unless_the_log_was_truncated_meanwhile() {
    let home = Home::real();
    let config = LogConfig { flush_messages: 4, flush_ms: 500, ..small() };
    let mut log = home.open(&config, Recovery::NEW);
    assert!(!append(&mut log, &batch(2, 20, NOW)).expect("appended").flush_due);
    assert!(append(&mut log, &batch(2, 20, NOW)).expect("appended").flush_due);
    let job = log.flush_job(NOW).expect("collected").expect("something to do");
    append(&mut log, &batch(2, 20, NOW)).expect("appended meanwhile");
    let flushed = job.run().expect("synced");
    log.complete_flush(flushed);
    assert_eq!(log.recovery_point(), Offset(4));
    assert!(!log.is_flush_due(Timestamp(NOW.0 + 499)) && log.is_flush_due(Timestamp(NOW.0 + 500)));
    let job = log.flush_job(NOW).expect("collected").expect("something to do");
    log.truncate_to(Offset(2), NOW).expect("truncated");
    append(&mut log, &batch(2, 20, NOW)).expect("appended");
    append(&mut log, &batch(2, 20, NOW)).expect("appended");
    let flushed = job.run().expect("synced");
    log.complete_flush(flushed);
    assert_eq!(log.recovery_point(), Offset(2));
    log.flush(NOW).expect("flushed");
    assert_eq!(log.recovery_point(), log.log_end());
    assert!(log.flush_job(NOW).expect("nothing").is_none());
}

#[test]
fn a_flush_of_a_few_records_is_one_sync() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&small(), Recovery::NEW);
    append(&mut log, &batch(2, 20, NOW)).expect("appended");
    log.flush(NOW).expect("flushed");
    let synced = Arc::new(Mutex::new(Vec::new()));
    let seen = synced.clone();
    fs.set_fault(Some(Box::new(move |operation, path| {
        if matches!(operation, Operation::Sync | Operation::SyncDir) {
            seen.lock().expect("no test panicked").push(path.to_owned());
        }
        None
    })));
    for _ in 0..3 {
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
        log.flush(NOW).expect("flushed");
        let synced = std::mem::take(&mut *synced.lock().expect("no test panicked"));
        assert_eq!(synced, [log.dir().join("00000000000000000000.log")]);
    }
    // Closed, its indexes are read again by nobody else.
    log.roll(None, NOW).expect("rolled");
    log.flush(NOW).expect("flushed");
    let synced = synced.lock().expect("no test panicked").clone();
    for name in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
        assert!(synced.contains(&log.dir().join(name)), "{synced:?}");
    }
}

#[test]
fn a_segment_that_is_closed_where_a_flush_ended_is_read_again_until_its_indexes_are_on_disk() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&small(), Recovery::NEW);
    for _ in 0..3 {
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
    }
    let job = log.flush_job(NOW).expect("collected").expect("something to do");
    log.roll(None, NOW).expect("rolled");
    let flushed = job.run().expect("synced");
    log.complete_flush(flushed);
    assert_eq!(log.recovery_point(), Offset(0));
    log.flush(NOW).expect("flushed");
    assert_eq!(log.recovery_point(), Offset(6));
    drop(log);
    fs.crash(Crash::PowerLosesAll, &mut SplitMix64::new(3));
    let recovery = Recovery { recovery_point: Offset(6), clean: false, ..Recovery::NEW };
    let log = home.open(&small(), recovery);
    assert_eq!((log.log_end(), log.recovery().indexes_rebuilt), (Offset(6), 0));
}

#[test]
fn what_was_flushed_survives_a_power_failure() {
    for crash in [Crash::PowerLosesAll, Crash::PowerTears] {
        let fs = MemFs::new();
        let home = Home::memory(&fs);
        let mut log = home.open(&small(), Recovery::NEW);
        for _ in 0..30 {
            append(&mut log, &batch(2, 20, NOW)).expect("appended");
        }
        log.flush(NOW).expect("flushed");
        for _ in 0..30 {
            append(&mut log, &batch(2, 20, NOW)).expect("appended");
        }
        drop(log);
        fs.crash(crash, &mut SplitMix64::new(3));
        let log = home.open(&small(), Recovery { recovery_point: Offset(60), clean: false, ..Recovery::NEW });
        assert!(log.log_end() >= Offset(60), "{crash:?} ends at {}", log.log_end());
        log.verify().expect("sound");
    }
}

#[test]
fn idle_files_are_let_go_and_opened_again() {
    let home = Home::real();
    let mut log = filled(&home, &small(), 60);
    let open_files = || {
        std::fs::read_dir("/proc/self/fd")
            .expect("listed")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.starts_with(&home.path))
            .count()
    };
    read_all(&log, Offset(0));
    let busy = open_files();
    log.log_dir().open_files().close_idle();
    log.log_dir().open_files().close_idle();
    assert!(busy > 3 && open_files() > 0, "what is to be synced stays open: {busy} files, then {}", open_files());
    log.flush(NOW).expect("flushed");
    log.log_dir().open_files().close_idle();
    log.log_dir().open_files().close_idle();
    assert_eq!(open_files(), 0);
    assert_eq!(read_all(&log, Offset(0)).len(), 120);
}
