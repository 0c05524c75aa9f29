//! What Kafka's documentation says of retention and compaction, one example each: which segments go, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use odradek_broker_storage::{Log, LogConfig, Recovery};
use odradek_common::time::Timestamp;
use odradek_common::{LeaderEpoch, Offset};
use odradek_records::RecordBatchBuilder;

use crate::cleaning::{CLEANER, content, lines, try_clean};
use crate::support::{Home, NOW, append, fill};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Any timestamp is taken and ends no segment, and nothing is deleted for its size or age.
fn kept() -> LogConfig {
    LogConfig {
        timestamp_after_max_ms: i64::MAX,
        segment_ms: i64::MAX,
        retention_ms: -1,
        retention_bytes: -1,
        ..LogConfig::default()
    }
}

/// A log with a segment for each of these lists, which has a batch of one record for each timestamp, and an empty active
/// segment.
fn log_of(home: &Home, config: &LogConfig, segments: &[&[i64]], bytes: usize) -> Log {
    let mut log = home.open(config, Recovery::NEW);
    for times in segments {
        for time in *times {
            append(&mut log, &fill(RecordBatchBuilder::new(), 1, bytes, Timestamp(*time))).expect("appended");
        }
        log.roll(None, NOW).expect("rolled");
    }
    log.flush(NOW).expect("flushed");
    log.set_high_watermark(log.log_end());
    log
}

/// Where the log starts after retention at a time.
fn start_at(log: &mut Log, now: i64) -> i64 {
    log.delete_old_segments(Timestamp(now)).expect("deleted").run().expect("removed");
    log.log_start().0
}

/// `retention.ms`: a segment goes when its *largest* timestamp is older, and never before the segments in front of it.
#[test]
fn age_is_that_of_the_newest_record_of_a_segment() {
    let config = LogConfig { retention_ms: DAY_MS, ..kept() };
    let day = |days: i64| NOW.0 + days * DAY_MS;
    let cases: &[(&str, &[&[i64]], i64, i64)] = &[
        ("exactly as old is not older", &[&[day(0)], &[day(1)]], day(1), 0),
        ("older", &[&[day(0)], &[day(1)]], day(1) + 1, 1),
        ("one young record keeps the old ones of its segment", &[&[day(0), day(3), day(0)]], day(3), 0),
        ("and lets them go with itself", &[&[day(0), day(3), day(0)]], day(4) + 1, 3),
        ("what is old stays behind what is young", &[&[day(5)], &[day(0)]], day(4), 0),
        ("a record from the future keeps its segment until then", &[&[day(0), day(400)], &[day(0)]], day(300), 0),
        ("and goes in its time", &[&[day(0), day(400)], &[day(0)]], day(401) + 1, 3),
        ("the beginning of time is a time", &[&[0]], DAY_MS, 0),
        ("and is long ago", &[&[0]], DAY_MS + 1, 1),
        ("a record without a time beside one with", &[&[-1, day(0)]], day(1) + 1, 2),
    ];
    for (what, segments, now, start) in cases {
        let home = Home::real();
        let mut log = log_of(&home, &config, segments, 10);
        assert_eq!(start_at(&mut log, *now), *start, "{what}");
        drop(log);
        // What the time index says after a restart is the same.
        let home = Home::real();
        drop(log_of(&home, &config, segments, 10));
        let mut log = home.reopen_after_crash(&config);
        log.set_high_watermark(log.log_end());
        assert_eq!(start_at(&mut log, *now), *start, "{what}, after a restart");
    }
}

/// Records without timestamps (`-1`) are as old as the file.
#[test]
fn without_timestamps_the_time_of_the_file_counts() {
    let config = LogConfig { retention_ms: DAY_MS, ..kept() };
    let home = Home::real();
    drop(log_of(&home, &config, &[&[-1, -1], &[-1]], 10));
    let written = SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 60 * 60);
    let file = std::fs::File::options().write(true).open(home.file("00000000000000000000.log")).expect("opened");
    file.set_modified(written).expect("set");
    let mut log = home.reopen_after_crash(&config);
    log.set_high_watermark(log.log_end());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    assert_eq!(start_at(&mut log, now), 2, "the file of the second segment is young");
    assert_eq!(start_at(&mut log, now + 2 * DAY_MS), 3);
}

/// `retention.bytes`: the oldest segments go as long as the log is not smaller than that without them.
#[test]
fn size_takes_whole_segments_and_never_more_than_is_too_much() {
    let home = Home::real();
    let all: &[&[i64]] = &[&[NOW.0], &[NOW.0], &[NOW.0], &[NOW.0]];
    let segment = log_of(&home, &kept(), all, 1000).size_bytes() as i64 / 4;
    for (limit, start) in [
        (-1, 0),
        (4 * segment, 0),
        (4 * segment - 1, 0),
        (3 * segment + 1, 0),
        (3 * segment, 1),
        (2 * segment + 1, 1),
        (segment, 3),
        (segment - 1, 3),
        (0, 4),
    ] {
        let home = Home::real();
        let config = LogConfig { retention_bytes: limit, ..kept() };
        assert_eq!(start_at(&mut log_of(&home, &config, all, 1000), NOW.0), start, "{limit} bytes");
    }
    // What goes for its age counts: no segment goes for the sake of bytes that are gone already.
    let home = Home::real();
    let config = LogConfig { retention_ms: DAY_MS, retention_bytes: 3 * segment - 5, ..kept() };
    let old = NOW.0 - 2 * DAY_MS;
    let mut log = log_of(&home, &config, &[&[old, old], &[NOW.0], &[NOW.0]], 1000);
    assert_eq!(start_at(&mut log, NOW.0), 2);
}

/// The last segment goes, too, when it is too old: an empty one takes its place.
#[test]
fn the_active_segment_is_replaced_when_it_is_old() {
    let home = Home::real();
    let config = LogConfig { retention_ms: DAY_MS, ..kept() };
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &fill(RecordBatchBuilder::new(), 3, 10, NOW)).expect("appended");
    log.set_high_watermark(Offset(2));
    assert_eq!(start_at(&mut log, NOW.0 + 9 * DAY_MS), 0, "not all of it is committed");
    log.set_high_watermark(Offset(3));
    assert_eq!(start_at(&mut log, NOW.0 + 9 * DAY_MS), 3);
    assert_eq!((log.segment_count(), log.size_bytes(), log.log_end()), (1, 0, Offset(3)));
}

// ---- compaction ----

fn keyed(builder: RecordBatchBuilder, time: i64, records: &[(&str, Option<&str>)]) -> bytes::Bytes {
    let mut builder = builder;
    for (key, value) in records {
        builder.append(Timestamp(time), Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build().expect("a batch")
}

fn put(log: &mut Log, time: i64, records: &[(&str, Option<&str>)]) {
    append(log, &keyed(RecordBatchBuilder::new(), time, records)).expect("appended");
}

fn end_segment(log: &mut Log) {
    log.roll(None, NOW).expect("rolled");
    log.flush(NOW).expect("flushed");
    log.set_high_watermark(log.log_end());
}

/// The example of the documentation's chapter on compaction: for each key at least the last value is kept, at its offset,
/// and the order never changes.
#[test]
fn the_log_of_the_documentation() {
    let home = Home::real();
    let config = LogConfig { cleanup_compact: true, cleanup_delete: false, ..kept() };
    let mut log = home.open(&config, Recovery::NEW);
    for (key, value) in [
        ("K1", "V1"),
        ("K2", "V2"),
        ("K1", "V3"),
        ("K1", "V4"),
        ("K3", "V5"),
        ("K4", "V6"),
        ("K5", "V7"),
        ("K5", "V8"),
        ("K2", "V9"),
        ("K6", "V10"),
        ("K2", "V11"),
    ] {
        put(&mut log, NOW.0, &[(key, Some(value))]);
    }
    end_segment(&mut log);
    try_clean(&mut log, None, CLEANER, NOW).expect("cleaned").expect("something to clean");
    let expected = [
        (3, "K1", Some("V4")),
        (4, "K3", Some("V5")),
        (5, "K4", Some("V6")),
        (7, "K5", Some("V8")),
        (9, "K6", Some("V10")),
        (10, "K2", Some("V11")),
    ];
    assert_eq!(content(&log), lines(&expected));
    // Every offset is still valid: a read of one that is gone begins at the next one.
    let slice = log.read(Offset(6), 1, log.log_end(), true).expect("readable");
    let first = odradek_records::Batches::new(log.load(&slice).expect("loaded")).next().expect("one").expect("sound");
    assert!((6..=7).contains(&first.header.last_offset().0), "{:?}", first.header);
}

/// `cleanup.policy=compact,delete`: both, and retention takes what compaction has kept.
#[test]
fn both_policies_at_once() {
    let home = Home::real();
    let config = LogConfig { cleanup_compact: true, cleanup_delete: true, retention_ms: DAY_MS, ..kept() };
    let mut log = home.open(&config, Recovery::NEW);
    put(&mut log, NOW.0, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))]);
    end_segment(&mut log);
    put(&mut log, NOW.0 + DAY_MS, &[("b", Some("2")), ("c", Some("1"))]);
    end_segment(&mut log);
    try_clean(&mut log, None, CLEANER, NOW).expect("cleaned").expect("something to clean");
    assert_eq!(content(&log), lines(&[(2, "a", Some("2")), (3, "b", Some("2")), (4, "c", Some("1"))]));
    // Cleaning has put both segments into one, which is as old as its newest record.
    assert_eq!(start_at(&mut log, NOW.0 + DAY_MS + 1), 0);
    assert_eq!(start_at(&mut log, NOW.0 + 2 * DAY_MS + 1), 5);
    assert_eq!(content(&log), []);
    assert_eq!(log.epoch_at(Offset(5)), Some(LeaderEpoch(0)));
}

/// `min.compaction.lag.ms`: what is younger stays as it is, and what is older behind it, too.
#[test]
fn the_least_lag_is_held_against_the_newest_record_of_a_segment() {
    let lag = 10_000;
    let config = LogConfig { cleanup_compact: true, cleanup_delete: false, min_compaction_lag_ms: lag, ..kept() };
    let build = |home: &Home| {
        let mut log = home.open(&config, Recovery::NEW);
        for time in [NOW.0, NOW.0 + 5000, NOW.0 - 5000] {
            put(&mut log, time, &[("a", Some("1"))]);
            end_segment(&mut log);
        }
        log
    };
    for (now, end) in
        [(NOW.0 + lag - 1, None), (NOW.0 + lag, Some(1)), (NOW.0 + lag + 4999, Some(1)), (NOW.0 + lag + 5000, Some(3))]
    {
        let home = Home::real();
        let found = build(&home).cleanable(None, Timestamp(now)).expect("online");
        assert_eq!(found.map(|cleanable| cleanable.end.0), end, "at {}", now - NOW.0);
    }
    // A record from the future waits for its time.
    let home = Home::real();
    let mut log = home.open(&config, Recovery::NEW);
    put(&mut log, NOW.0 + DAY_MS, &[("a", Some("1"))]);
    end_segment(&mut log);
    assert_eq!(log.cleanable(None, Timestamp(NOW.0 + DAY_MS)).expect("online"), None);
    assert!(log.cleanable(None, Timestamp(NOW.0 + DAY_MS + lag)).expect("online").is_some());
}

/// `max.compaction.lag.ms`: whatever the dirty ratio, what is older is due; and the active segment ends in time for that.
#[test]
fn the_most_lag_makes_a_log_due_and_ends_its_active_segment() {
    let lag = 10_000;
    let config = LogConfig {
        cleanup_compact: true,
        cleanup_delete: false,
        max_compaction_lag_ms: lag,
        min_cleanable_dirty_ratio: 1.0,
        ..kept()
    };
    let home = Home::real();
    let mut log = home.open(&config, Recovery::NEW);
    put(&mut log, NOW.0, &[("a", Some("1"))]);
    assert_eq!(log.cleanable(None, Timestamp(NOW.0 + DAY_MS)).expect("online"), None, "never the active segment");
    put(&mut log, NOW.0 + lag, &[("a", Some("2"))]);
    assert_eq!(log.segment_count(), 1);
    put(&mut log, NOW.0 + lag + 1, &[("a", Some("3"))]);
    assert_eq!(log.segment_count(), 2, "the segment is older than the most lag, whatever segment.ms says");
    log.flush(NOW).expect("flushed");
    log.set_high_watermark(log.log_end());
    let at = |log: &Log, now: i64| log.cleanable(None, Timestamp(now)).expect("online").expect("something");
    assert!(!at(&log, NOW.0 + lag).is_overdue);
    assert!(at(&log, NOW.0 + lag + 1).is_overdue);
}

/// `delete.retention.ms`: a tombstone stays for that long after the first cleaning that saw it, so that a consumer which
/// began before and is quick enough sees every deletion. With 0 it goes with the next cleaning.
#[test]
fn tombstones_are_seen_for_as_long_as_the_config_says() {
    for (retention, later, is_there) in [(DAY_MS, DAY_MS - 1, true), (DAY_MS, DAY_MS, false), (0, 0, false)] {
        let home = Home::real();
        let config =
            LogConfig { cleanup_compact: true, cleanup_delete: false, delete_retention_ms: retention, ..kept() };
        let mut log = home.open(&config, Recovery::NEW);
        // However old the tombstone itself is: the time of the cleaning counts.
        put(&mut log, NOW.0 - 9 * DAY_MS, &[("a", Some("1")), ("a", None)]);
        end_segment(&mut log);
        let to = try_clean(&mut log, None, CLEANER, NOW).expect("cleaned").expect("something to clean");
        assert_eq!(content(&log), lines(&[(1, "a", None)]), "after the first cleaning");
        put(&mut log, NOW.0, &[("b", Some("1"))]);
        end_segment(&mut log);
        let now = Timestamp(NOW.0 + later);
        try_clean(&mut log, Some(to), CLEANER, now).expect("cleaned").expect("something to clean");
        let tombstone = content(&log).iter().any(|line| line.1 == "a");
        assert_eq!(tombstone, is_there, "{later} ms later, with {retention}");
    }
}
