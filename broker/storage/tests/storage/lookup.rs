//! Reading up to a bound, and finding offsets by time.

use odradek_broker_storage::{LogConfig, LogError, Recovery};
use odradek_common::Offset;
use odradek_common::time::Timestamp;
use odradek_records::{Batches, Codec, RecordBatchBuilder};

use crate::support::{Home, NOW, append, batch, fill};

fn small() -> LogConfig {
    LogConfig { segment_bytes: 1500, index_interval_bytes: 100, ..LogConfig::default() }
}

#[test]
fn a_read_keeps_its_bounds() {
    let home = Home::real();
    let mut log = home.open(&LogConfig { index_interval_bytes: 100, ..LogConfig::default() }, Recovery::NEW);
    let size = batch(5, 10, NOW).len();
    for _ in 0..50 {
        append(&mut log, &batch(5, 10, NOW)).expect("appended");
    }
    let end = log.log_end();
    // From, bytes at most, upper bound, at least one; then the base offset and bytes of what is read.
    let script = [
        (0, 10, end, true, 0, size),
        (0, 10, end, false, 0, 0),
        (0, 3 * size + 1, end, true, 0, 3 * size + 1),
        (7, 2 * size, end, true, 5, 2 * size),
        (7, 1 << 20, Offset(20), true, 5, 3 * size),
        (7, 1 << 20, Offset(17), true, 5, 2 * size),
        (7, 1 << 20, Offset(8), true, 5, 0),
        (7, 1 << 20, Offset(7), true, 7, 0),
        (240, 1 << 20, end, true, 240, 2 * size),
        (245, 1 << 20, Offset(1000), true, 245, size),
        (250, 1 << 20, end, true, 250, 0),
    ];
    for (step, (from, bytes_max, upper, min_one, base, bytes)) in script.into_iter().enumerate() {
        let slice = log.read(Offset(from), bytes_max, upper, min_one).expect("readable");
        assert_eq!((slice.base_offset, slice.len), (Offset(base), bytes), "step {step}");
        assert_eq!(slice.first_batch_incomplete, step == 1, "step {step}");
        assert_eq!(log.load(&slice).expect("loaded").len(), bytes);
    }
    for from in [-1, 251] {
        assert!(matches!(log.read(Offset(from), 1, end, true), Err(LogError::OffsetOutOfRange { .. })));
    }
}

#[test]
fn reads_below_a_bound_in_an_older_segment_stop_there() {
    let home = Home::real();
    let mut log = home.open(&small(), Recovery::NEW);
    for _ in 0..60 {
        append(&mut log, &batch(2, 10, NOW)).expect("appended");
    }
    for upper in (0..=120).step_by(2) {
        let mut next = Offset(0);
        loop {
            let slice = log.read(next, 1 << 20, Offset(upper), true).expect("readable");
            if slice.is_empty() {
                break;
            }
            let last = Batches::new(log.load(&slice).expect("loaded")).map(|batch| batch.expect("whole")).last();
            next = last.expect("a batch").header.next_offset();
        }
        assert_eq!(next, Offset(upper));
    }
}

#[test]
fn records_are_found_by_their_time() {
    for codec in [Codec::None, Codec::Zstd] {
        for restart in ["none", "clean", "crash"] {
            let home = Home::real();
            let mut log = home.open(&small(), Recovery::NEW);
            // Batch n has records of the times 100 n + 0, 20, 10; every tenth batch is out of order, far in the past.
            for n in 0..100i64 {
                let start = if n % 10 == 9 { 1 } else { 1000 + 100 * n };
                let mut builder = RecordBatchBuilder::new().compression(codec);
                for delta in [0, 20, 10] {
                    builder.append(Timestamp(start + delta), None, Some(&[0; 30]));
                }
                append(&mut log, &builder.build().expect("a batch")).expect("appended");
            }
            if restart != "none" {
                if restart == "clean" {
                    log.close(NOW).expect("closed");
                }
                drop(log);
                log = home.open(&small(), Recovery { clean: restart == "clean", ..Recovery::NEW });
            }
            let find = |time| {
                log.offset_for_timestamp(Timestamp(time))
                    .expect("readable")
                    .map(|found| (found.timestamp.0, found.offset.0))
            };
            for n in (0..99i64).filter(|n| n % 10 < 8) {
                let start = 1000 + 100 * n;
                assert_eq!(find(start), Some((start, 3 * n)), "batch {n}");
                assert_eq!(find(start + 5), Some((start + 20, 3 * n + 1)), "batch {n}");
                assert_eq!(find(start + 21), Some((start + 100, 3 * n + 3)), "batch {n}");
            }
            assert_eq!(find(0), Some((1000, 0)));
            assert_eq!(find(1000 + 100 * 98 + 21), None);
            let latest = log.offset_of_max_timestamp().expect("readable").expect("there is one");
            assert_eq!((latest.timestamp.0, latest.offset.0), (1000 + 100 * 98 + 20, 3 * 98 + 1));
        }
    }
}

#[test]
fn an_empty_log_has_no_times_and_one_without_timestamps_neither() {
    let home = Home::real();
    let mut log = home.open(&small(), Recovery::NEW);
    assert_eq!(log.offset_for_timestamp(Timestamp(0)).expect("readable"), None);
    assert_eq!(log.offset_of_max_timestamp().expect("readable"), None);
    append(&mut log, &fill(RecordBatchBuilder::new(), 3, 5, Timestamp::NONE)).expect("appended");
    assert_eq!(log.offset_for_timestamp(Timestamp(0)).expect("readable"), None);
    assert_eq!(log.offset_of_max_timestamp().expect("readable"), None);
}

#[test]
fn times_below_the_log_start_are_not_found() {
    let home = Home::real();
    let mut log = home.open(&small(), Recovery::NEW);
    for n in 0..100 {
        append(&mut log, &batch(2, 10, Timestamp(NOW.0 + n))).expect("appended");
    }
    log.set_high_watermark(log.log_end());
    log.delete_records_before(Offset(101)).expect("moved");
    let found = log.offset_for_timestamp(Timestamp(NOW.0 + 3)).expect("readable").expect("there is one");
    assert_eq!((found.offset, found.timestamp), (Offset(101), Timestamp(NOW.0 + 50)));
}
