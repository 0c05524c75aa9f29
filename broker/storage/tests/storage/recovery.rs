//! What is found again after a crash, and after bytes went bad.

use odradek_broker_storage::{LogConfig, LogError, Recovery};
use odradek_common::fs::{Fs, OpenMode, RealFs};
use odradek_common::{LeaderEpoch, Offset, TopicId, Uuid};

use crate::support::{Home, NOW, TOPIC_ID, append, batch, idempotent, offsets, read_all};

fn small() -> LogConfig {
    LogConfig { segment_bytes: 2000, index_interval_bytes: 100, ..LogConfig::default() }
}

/// A log of `batches` batches of two records, closed.
fn closed(home: &Home, config: &LogConfig, batches: i64) {
    let mut log = home.open(config, Recovery::NEW);
    for _ in 0..batches {
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
    }
    log.close(NOW).expect("closed");
}

fn change(home: &Home, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = home.file(file);
    let mut bytes = std::fs::read(&path).expect("there");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("written");
}

fn segments(home: &Home) -> Vec<String> {
    let entries = home.fs.read_dir(&home.path.join("topic-0")).expect("listed");
    entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn a_torn_tail_is_cut_to_the_last_whole_batch() {
    let batch_bytes = batch(2, 20, NOW).len();
    for lost in [1, batch_bytes / 2, batch_bytes - 1] {
        let home = Home::real();
        closed(&home, &LogConfig::default(), 10);
        change(&home, "00000000000000000000.log", |bytes| bytes.truncate(bytes.len() - lost));
        let mut log = home.reopen_after_crash(&LogConfig::default());
        assert_eq!(log.log_end(), Offset(18));
        let damage = log.recovery().damage.clone().expect("reported");
        assert_eq!((damage.position, damage.offset), (9 * batch_bytes as u64, Offset(18)));
        assert_eq!((damage.bytes_cut, damage.segments_dropped), ((batch_bytes - lost) as u64, 0));
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
        assert_eq!(offsets(&read_all(&log, Offset(0))), (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn a_flipped_offset_or_epoch_that_no_checksum_covers_cuts_the_log_before_its_batch() {
    let batch_bytes = batch(2, 20, NOW).len();
    // Bytes of the base offset, and of the leader epoch.
    for (byte, bit) in [(7, 6), (6, 0), (15, 0), (12, 2)] {
        let home = Home::real();
        closed(&home, &LogConfig::default(), 10);
        change(&home, "00000000000000000000.log", |bytes| bytes[4 * batch_bytes + byte] ^= 1 << bit);
        let mut log = home.reopen_after_crash(&LogConfig::default());
        let damage = log.recovery().damage.clone().expect("reported");
        assert_eq!((damage.position, damage.offset), (4 * batch_bytes as u64, Offset(8)), "{}", damage.reason);
        assert_eq!(log.log_end(), Offset(8));
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
        assert_eq!(offsets(&read_all(&log, Offset(0))), (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn zeros_behind_the_last_batch_are_cut() {
    let home = Home::real();
    closed(&home, &LogConfig::default(), 3);
    change(&home, "00000000000000000000.log", |bytes| bytes.resize(bytes.len() + 5000, 0));
    let log = home.reopen_after_crash(&LogConfig::default());
    assert_eq!(log.log_end(), Offset(6));
    assert_eq!(log.recovery().damage, None, "preallocated or never written: nothing is missing");
    assert_eq!(std::fs::metadata(home.file("00000000000000000000.log")).expect("there").len(), log.size_bytes());
}

#[test]
fn a_damaged_batch_in_a_closed_segment_is_reported_with_its_place_and_cuts_the_log_there() {
    let home = Home::real();
    closed(&home, &small(), 60);
    let second = segments(&home)[1].clone();
    let count = segments(&home).len();
    let base: i64 = second[..20].parse().expect("a base offset");
    let batch_bytes = batch(2, 20, NOW).len();
    change(&home, &second, |bytes| bytes[2 * batch_bytes + 80] ^= 1);

    // Below the recovery point nothing is scanned; whoever verifies is told.
    let flushed = Recovery { recovery_point: Offset(120), clean: false, ..Recovery::NEW };
    let log = home.open(&small(), flushed);
    assert_eq!(log.log_end(), Offset(120));
    let Err(LogError::Corrupt(found)) = log.verify() else { panic!("the damage is found") };
    assert_eq!((found.file, found.position), (home.file(&second), 2 * batch_bytes as u64));
    assert_eq!(found.offset, Offset(base + 4));
    assert!(found.reason.contains("CRC"), "{}", found.reason);
    drop(log);

    let log = home.reopen_after_crash(&small());
    let damage = log.recovery().damage.clone().expect("reported");
    assert_eq!((damage.file, damage.position), (home.file(&second), 2 * batch_bytes as u64));
    assert_eq!((damage.offset, log.log_end()), (Offset(base + 4), Offset(base + 4)));
    assert_eq!(damage.segments_dropped, count - 2);
    assert_eq!(segments(&home).len(), 2);
    assert_eq!(offsets(&read_all(&log, Offset(0))), (0..base + 4).collect::<Vec<_>>());
}

#[test]
fn damaged_and_missing_indexes_are_rebuilt() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Option<Damage>); 5] = [
        ("missing", None),
        ("empty", Some(Vec::clear)),
        ("cut inside an entry", Some(|bytes| bytes.truncate(bytes.len().saturating_sub(3)))),
        ("random", Some(|bytes| bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 89 + 7) as u8))),
        ("pointing inside batches", Some(|bytes| bytes.iter_mut().skip(7).step_by(8).for_each(|byte| *byte ^= 5))),
    ];
    for (name, damage) in damages {
        for clean in [true, false] {
            let home = Home::real();
            closed(&home, &small(), 60);
            for segment in segments(&home) {
                for suffix in [".index", ".timeindex"] {
                    let file = segment.replace(".log", suffix);
                    match damage {
                        None => std::fs::remove_file(home.file(&file)).expect("removed"),
                        Some(damage) => change(&home, &file, damage),
                    }
                }
            }
            let recovery = Recovery { recovery_point: Offset(120), clean, ..Recovery::NEW };
            let mut log = home.open(&small(), recovery);
            for from in [0, 17, 60, 119] {
                assert_eq!(offsets(&read_all(&log, Offset(from))), (from..120).collect::<Vec<_>>(), "{name} {clean}");
            }
            log.rebuild_damaged_indexes().expect("rebuilt");
            append(&mut log, &batch(2, 20, NOW)).expect("appended");
            assert_eq!(offsets(&read_all(&log, Offset(100))), (100..122).collect::<Vec<_>>(), "{name} {clean}");
        }
    }
}

#[test]
fn an_index_without_a_log_and_leftovers_are_removed() {
    let home = Home::real();
    closed(&home, &small(), 60);
    let names =
        ["00000000000000099999.index", "00000000000000000000.log.deleted", "x.tmp", "00000000000000000000.log.cleaned"];
    for name in names {
        RealFs.open(&home.file(name), OpenMode::CreateNew).expect("made");
    }
    let log = home.reopen_after_crash(&small());
    assert_eq!(log.log_end(), Offset(120));
    for name in names {
        assert!(!RealFs.exists(&home.file(name)).expect("known"), "{name}");
    }
}

#[test]
fn an_interrupted_swap_of_cleaned_segments_is_completed() {
    let home = Home::real();
    closed(&home, &small(), 60);
    let names = segments(&home);
    // A cleaned first segment takes the place of the first two, which were still there when the process died.
    let first = std::fs::read(home.file(&names[0])).expect("there");
    let second = std::fs::read(home.file(&names[1])).expect("there");
    let last_of_second = second[second.len() - batch(2, 20, NOW).len()..].to_vec();
    std::fs::write(home.file("00000000000000000000.log.swap"), [first, last_of_second].concat()).expect("written");
    let third: i64 = names[2][..20].parse().expect("a base offset");
    let second_base: i64 = names[1][..20].parse().expect("a base offset");
    let log = home.open(&small(), Recovery { recovery_point: Offset(120), clean: false, ..Recovery::NEW });
    assert_eq!(log.segment_count(), names.len() - 1);
    let expected: Vec<i64> = (0..second_base).chain(third - 2..120).collect();
    assert_eq!(offsets(&read_all(&log, Offset(0))), expected);
}

/// What Kafka's compaction leaves when all that a segment ended in was overwritten later: offsets that nobody has between
/// its last batch and the next segment.
fn leave_holes_behind_segments(home: &Home) -> Vec<i64> {
    closed(home, &small(), 60);
    let size = batch(2, 20, NOW).len();
    let names = segments(home);
    let mut gone = Vec::new();
    for name in names.iter().take(2) {
        change(home, name, |bytes| bytes.truncate(bytes.len() - size));
    }
    for name in names.iter().skip(1).take(2) {
        let next: i64 = name[..20].parse().expect("a base offset");
        gone.extend([next - 2, next - 1]);
    }
    (0..120).filter(|offset| !gone.contains(offset)).collect()
}

#[test]
fn the_holes_of_a_compacted_log_are_no_damage() {
    let crash = Recovery { clean: false, ..Recovery::NEW };
    type Prepare = fn(&Home);
    let cases: [(&str, Recovery, Prepare); 3] = [
        ("the cleaner's checkpoint", Recovery { cleaned_to: Some(Offset(100)), ..crash }, |_| {}),
        // The process died before the checkpoint was written.
        ("what was replaced is still there", crash, |home| {
            for name in segments(home).iter().take(2) {
                std::fs::write(home.file(&format!("{name}.deleted")), b"what was there before").expect("written");
            }
        }),
        ("an orderly stop", Recovery::NEW, |_| {}),
    ];
    for (name, recovery, prepare) in cases {
        let home = Home::real();
        let expected = leave_holes_behind_segments(&home);
        prepare(&home);
        let mut log = home.open(&small(), recovery);
        assert_eq!((log.recovery().damage.clone(), log.log_end()), (None, Offset(120)), "{name}");
        assert_eq!(offsets(&read_all(&log, Offset(0))), expected, "{name}");
        let hole = (0..120).find(|offset| !expected.contains(offset)).expect("a hole");
        let slice = log.read(Offset(hole), 1 << 20, log.log_end(), true).expect("readable");
        assert_eq!(slice.base_offset, Offset(hole + 2), "a reader in the hole goes on behind it");
        append(&mut log, &batch(2, 20, NOW)).expect("appended");
    }
}

/// A power failure lost what was not flushed, and the file behind it was quicker: were that taken for compaction, the
/// replica would never fetch what it lacks.
#[test]
fn a_hole_behind_what_was_never_cleaned_is_damage_in_a_compacted_log_too() {
    let home = Home::real();
    let expected = leave_holes_behind_segments(&home);
    let second: i64 = segments(&home)[1][..20].parse().expect("a base offset");
    let third: i64 = segments(&home)[2][..20].parse().expect("a base offset");
    let compacted = LogConfig { cleanup_compact: true, ..small() };
    // The first hole is within what is clean.
    let recovery = Recovery { clean: false, cleaned_to: Some(Offset(second)), ..Recovery::NEW };
    let log = home.open(&compacted, recovery);
    let damage = log.recovery().damage.clone().expect("reported");
    assert!(damage.reason.contains("are missing"), "{}", damage.reason);
    assert_eq!((damage.offset, log.log_end()), (Offset(third - 2), Offset(third - 2)));
    let kept: Vec<i64> = expected.into_iter().filter(|offset| *offset < third).collect();
    assert_eq!(offsets(&read_all(&log, Offset(0))), kept);
}

#[test]
fn epochs_are_rebuilt_from_the_batches() {
    for name in ["removed", "cut", "stale"] {
        let home = Home::real();
        let mut log = home.open(&small(), Recovery::NEW);
        for epoch in 0..6 {
            for _ in 0..10 {
                let batch = batch(1, 20, NOW);
                let origin = odradek_broker_storage::AppendOrigin::Client;
                log.append_as_leader(&batch, LeaderEpoch(epoch), origin, NOW).expect("appended");
            }
        }
        let expected = log.epoch_entries().to_vec();
        assert_eq!(expected.len(), 6);
        drop(log);
        match name {
            "removed" => std::fs::remove_file(home.file("leader-epoch-checkpoint")).expect("removed"),
            "cut" => change(&home, "leader-epoch-checkpoint", |bytes| bytes.truncate(9)),
            _ => change(&home, "leader-epoch-checkpoint", |bytes| *bytes = b"0\n2\n0 0\n9 1000\n".to_vec()),
        }
        let log = home.reopen_after_crash(&small());
        assert_eq!(log.epoch_entries(), expected, "{name}");
        assert_eq!(log.leader_epoch_end_offset(LeaderEpoch(2)).end, Offset(30));
    }
}

#[test]
fn a_log_that_ends_before_its_start_begins_anew() {
    let home = Home::real();
    closed(&home, &small(), 5);
    let log = home.open(&small(), Recovery { log_start: Offset(500), clean: false, ..Recovery::NEW });
    assert_eq!((log.log_start(), log.log_end(), log.segment_count()), (Offset(500), Offset(500), 1));
}

#[test]
fn another_topic_of_the_same_name_does_not_get_the_log() {
    let home = Home::real();
    closed(&home, &small(), 5);
    let other: TopicId = Uuid([9; 16]);
    let config = std::sync::Arc::new(small());
    let producers = odradek_broker_storage::ProducerStateConfig::default();
    let opened = odradek_broker_storage::Log::open(home.location(), other, config, producers, Recovery::NEW, NOW);
    assert!(matches!(opened, Err(LogError::TopicId { found: TOPIC_ID, .. })));
}

#[test]
fn duplicates_are_recognised_after_any_restart() {
    for clean in [true, false] {
        let home = Home::real();
        let mut log = home.open(&small(), Recovery::NEW);
        let mut expected = Vec::new();
        for n in 0..40 {
            append(&mut log, &batch(1, 50, NOW)).expect("appended");
            expected.push(append(&mut log, &idempotent(77, 0, n * 3, 3)).expect("appended"));
        }
        if clean {
            log.close(NOW).expect("closed");
        }
        drop(log);
        let mut log = home.open(&small(), Recovery { clean, ..Recovery::NEW });
        let end = log.log_end();
        for n in 35..40 {
            let again = append(&mut log, &idempotent(77, 0, n * 3, 3)).expect("answered");
            let first = &expected[n as usize];
            assert!(again.duplicate);
            assert_eq!((again.first_offset, again.last_offset), (first.first_offset, first.last_offset));
        }
        let error = append(&mut log, &idempotent(77, 0, 34 * 3, 3)).expect_err("too old to be known");
        assert_eq!(error.code(), odradek_common::ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(log.log_end(), end);
        append(&mut log, &idempotent(77, 0, 120, 1)).expect("the next one");
    }
}
