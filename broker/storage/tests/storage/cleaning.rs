//! Compaction: what stays of a log, what goes and when, and that a crash at any operation leaves it sound.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use odradek_broker_storage::{
    AppendOrigin, CleanError, CleanProgress, CleanerConfig, Log, LogConfig, LogDirs, LogDirsConfig,
    ProducerStateConfig, Recovery,
};
use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use odradek_records::{Batches, Codec, EndTxnMarker, Record, RecordBatchBuilder};

use crate::support::{Home, NOW, TOPIC_ID, append, offsets, read_all};

pub const CLEANER: CleanerConfig =
    CleanerConfig { map_bytes_max: 1 << 20, load_factor: 0.9, io_bytes: 4096, hash_keys: (1, 2) };
const RETENTION_MS: i64 = 1000;

fn compacted() -> LogConfig {
    LogConfig {
        cleanup_compact: true,
        cleanup_delete: false,
        delete_retention_ms: RETENTION_MS,
        index_interval_bytes: 100,
        ..LogConfig::default()
    }
}

fn records(records: &[(&str, Option<&str>)]) -> Bytes {
    build(RecordBatchBuilder::new(), records)
}

fn build(mut builder: RecordBatchBuilder, records: &[(&str, Option<&str>)]) -> Bytes {
    for (key, value) in records {
        builder.append(NOW, Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build().expect("built")
}

fn transactional(producer: i64, sequence: i32, key: &str, value: &str) -> Bytes {
    let builder = RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), sequence);
    build(builder.transactional(true), &[(key, Some(value))])
}

fn marker(log: &mut Log, producer: i64, is_commit: bool) {
    let marker = EndTxnMarker { is_commit, coordinator_epoch: 0 };
    let batch = marker.batch(ProducerId(producer), ProducerEpoch(0), NOW);
    log.append_as_leader(&batch, LeaderEpoch(0), AppendOrigin::Coordinator, NOW).expect("a marker");
}

/// All that was appended is on disk and committed.
fn commit(log: &mut Log) {
    log.flush(NOW).expect("flushed");
    log.set_high_watermark(log.log_end());
}

/// Rolls, commits and cleans. Returns how far the log is clean now.
fn clean(log: &mut Log, cleaned_to: Option<Offset>, now: Timestamp) -> Offset {
    log.roll(None, now).expect("rolled");
    commit(log);
    try_clean(log, cleaned_to, CLEANER, now).expect("cleaned").expect("something to clean")
}

pub fn try_clean(
    log: &mut Log,
    cleaned_to: Option<Offset>,
    config: CleanerConfig,
    now: Timestamp,
) -> Result<Option<Offset>, CleanError> {
    let Some(cleanable) = log.cleanable(cleaned_to, now)? else { return Ok(None) };
    let mut cleaning = log.begin_cleaning(&cleanable, config, now)?;
    loop {
        match cleaning.step()? {
            CleanProgress::Bytes(_) => {}
            CleanProgress::Segment(replacement) => {
                log.replace_segments(*replacement)?.run().map_err(odradek_broker_storage::LogError::from)?;
            }
            CleanProgress::Done(offset) => return Ok(Some(offset)),
        }
    }
}

/// Offset, key and value of each data record, as text.
pub fn content(log: &Log) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let line = |record: &Record| {
        (record.offset.0, record.key.as_ref().map_or_else(String::new, text), record.value.as_ref().map(text))
    };
    read_all_sparse(log).iter().map(line).collect()
}

/// All records; the log may have batches without any, and may end in one.
fn read_all_sparse(log: &Log) -> Vec<Record> {
    let (mut found, mut next) = (Vec::new(), log.log_start());
    loop {
        let slice = log.read(next, 1000, log.log_end(), true).expect("readable");
        if slice.is_empty() {
            assert_eq!(next, log.log_end(), "nothing to read before the log's end");
            return found;
        }
        for batch in Batches::new(log.load(&slice).expect("loaded")) {
            let Ok(batch) = batch else { break };
            batch.check_crc().expect("a sound batch");
            for record in batch.records(1 << 20).expect("readable records") {
                let record = record.expect("a record");
                if record.offset >= next {
                    found.push(record);
                }
            }
            next = batch.header.next_offset();
        }
    }
}

pub fn lines(expected: &[(i64, &str, Option<&str>)]) -> Vec<(i64, String, Option<String>)> {
    expected.iter().map(|(at, key, value)| (*at, (*key).to_owned(), value.map(str::to_owned))).collect()
}

#[test]
fn the_latest_value_of_each_key_stays_at_its_offset() {
    for codec in Codec::ALL {
        let home = Home::real();
        let mut log = home.open(&compacted(), Recovery::NEW);
        let batch = |list: &[(&str, Option<&str>)]| build(RecordBatchBuilder::new().compression(codec), list);
        append(&mut log, &batch(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))])).expect("appended");
        append(&mut log, &batch(&[("b", Some("2"))])).expect("appended");
        log.roll(None, NOW).expect("rolled");
        append(&mut log, &batch(&[("a", Some("3")), ("d", Some("3"))])).expect("appended");
        log.roll(None, NOW).expect("rolled");
        append(&mut log, &batch(&[("d", Some("active"))])).expect("appended");
        commit(&mut log);
        let cleanable = log.cleanable(None, NOW).expect("online").expect("two segments");
        assert_eq!((cleanable.first_dirty, cleanable.end, cleanable.clean_bytes), (Offset(0), Offset(6), 0));
        let held = log.read(Offset(0), 1 << 20, log.log_end(), true).expect("readable");
        let cleaned_to = try_clean(&mut log, None, CLEANER, NOW).expect("cleaned");
        assert_eq!(cleaned_to, Some(Offset(6)));
        let expected = [
            (2, "c", Some("1")),
            (3, "b", Some("2")),
            (4, "a", Some("3")),
            (5, "d", Some("3")),
            (6, "d", Some("active")),
        ];
        assert_eq!(content(&log), lines(&expected), "{codec:?}");
        assert_eq!(log.segment_count(), 2, "two small segments have become one");
        assert!(log.load(&held).is_ok(), "a reader that has an old segment goes on");
        assert_eq!(log.cleanable(cleaned_to, NOW).expect("online"), None);
        log.verify().expect("sound");
        // A fetch inside of a gap finds the next record, and one of the time does, too.
        let slice = log.read(Offset(1), 1 << 20, log.log_end(), true).expect("readable");
        assert_eq!(slice.base_offset, Offset(0), "the batch still begins where it began");
        let found = log.offset_for_timestamp(NOW).expect("readable").expect("a record");
        assert_eq!(found.offset, Offset(2));
        drop(log);
        let again = home.reopen_after_crash(&LogConfig::default());
        assert_eq!(content(&again), lines(&expected), "a crash, and a start that does not know of the policy");
        assert!(again.recovery().damage.is_none());
    }
}

#[test]
fn whole_segments_may_vanish_without_a_hole_between_the_others() {
    let home = Home::real();
    let config = LogConfig { segment_bytes: 300, ..compacted() };
    let mut log = home.open(&config, Recovery::NEW);
    for round in 0..40 {
        let value = format!("{round:03} and some more bytes, so that few batches fit a segment");
        append(&mut log, &records(&[(&format!("key-{}", round % 3), Some(&value))])).expect("appended");
    }
    let before = log.segment_count();
    let cleaned = clean(&mut log, None, NOW);
    // Segments are joined by the sizes that they have when a cleaning begins.
    append(&mut log, &records(&[("other", Some("1"))])).expect("appended");
    clean(&mut log, Some(cleaned), NOW);
    assert!(log.segment_count() < before / 2, "{} of {before} segments", log.segment_count());
    assert_eq!(offsets(&read_all_sparse(&log)), [37, 38, 39, 40]);
    let end = log.log_end();
    drop(log);
    let log = home.reopen_after_crash(&LogConfig::default());
    assert_eq!((offsets(&read_all_sparse(&log)), log.log_end()), (vec![37, 38, 39, 40], end));
    assert!(log.recovery().damage.is_none());
}

#[test]
fn tombstones_stay_until_the_delete_horizon_of_their_batch() {
    let home = Home::real();
    let mut log = home.open(&compacted(), Recovery::NEW);
    append(&mut log, &records(&[("a", Some("1")), ("b", Some("1"))])).expect("appended");
    append(&mut log, &records(&[("a", None), ("c", Some("1"))])).expect("appended");
    let cleaned = clean(&mut log, None, NOW);
    let with_tombstone = [(1, "b", Some("1")), (2, "a", None), (3, "c", Some("1"))];
    assert_eq!(content(&log), lines(&with_tombstone));
    let times: Vec<Timestamp> = read_all_sparse(&log).iter().map(|record| record.timestamp).collect();
    assert_eq!(times, [NOW; 3], "records keep their time beside the horizon");

    append(&mut log, &records(&[("x", Some("1"))])).expect("appended");
    let early = Timestamp(NOW.0 + RETENTION_MS - 1);
    let cleaned = clean(&mut log, Some(cleaned), early);
    assert_eq!(content(&log).len(), 4, "before the horizon");

    append(&mut log, &records(&[("y", Some("1"))])).expect("appended");
    clean(&mut log, Some(cleaned), Timestamp(NOW.0 + RETENTION_MS));
    let expected = [(1, "b", Some("1")), (3, "c", Some("1")), (4, "x", Some("1")), (5, "y", Some("1"))];
    assert_eq!(content(&log), lines(&expected));
}

#[test]
fn aborted_records_go_and_markers_follow_after_their_horizon() {
    let home = Home::real();
    let mut log = home.open(&compacted(), Recovery::NEW);
    append(&mut log, &records(&[("a", Some("kept")), ("b", Some("old"))])).expect("appended");
    append(&mut log, &transactional(1, 0, "a", "aborted")).expect("appended");
    append(&mut log, &transactional(2, 0, "b", "committed")).expect("appended");
    marker(&mut log, 1, false);
    marker(&mut log, 2, true);
    append(&mut log, &transactional(2, 1, "b", "newer")).expect("appended");
    marker(&mut log, 2, true);
    let cleaned = clean(&mut log, None, NOW);
    let data = |log: &Log| {
        let is_data = |line: &(i64, String, Option<String>)| line.1 == "a" || line.1 == "b";
        content(log).into_iter().filter(is_data).collect::<Vec<_>>()
    };
    let expected = lines(&[(0, "a", Some("kept")), (6, "b", Some("newer"))]);
    assert_eq!(data(&log), expected);
    let slice = log.read(Offset(0), 1 << 20, log.log_end(), true).expect("readable");
    // The aborted producer's last batch stays, emptied, and so does what tells of it.
    assert_eq!(log.aborted_transactions(&slice).expect("readable").len(), 1);

    // An open transaction bounds what is cleaned.
    append(&mut log, &transactional(1, 1, "a", "open")).expect("appended");
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    assert_eq!(log.cleanable(Some(cleaned), NOW).expect("online"), None);
    marker(&mut log, 1, false);
    let cleaned = clean(&mut log, Some(cleaned), NOW);
    assert_eq!(data(&log), expected);
    // The first markers have lost their data by now and got a horizon; when it has passed they go.
    append(&mut log, &records(&[("z", Some("1"))])).expect("appended");
    let markers = |log: &Log| content(log).len() - data(log).len();
    let cleaned = clean(&mut log, Some(cleaned), Timestamp(NOW.0 + 1));
    let before = markers(&log);
    append(&mut log, &records(&[("z", Some("2"))])).expect("appended");
    clean(&mut log, Some(cleaned), Timestamp(NOW.0 + 10 * RETENTION_MS));
    assert!(markers(&log) < before, "{} of {before} markers", markers(&log));
    assert_eq!(data(&log), expected);
}

#[test]
fn each_producers_last_batch_stays_for_its_sequence() {
    let home = Home::real();
    let mut log = home.open(&compacted(), Recovery::NEW);
    let send = |log: &mut Log, sequence| {
        let builder = RecordBatchBuilder::new().producer(ProducerId(9), ProducerEpoch(3), sequence);
        append(log, &build(builder, &[("k", Some("producer"))]))
    };
    send(&mut log, 0).expect("appended");
    send(&mut log, 1).expect("appended");
    append(&mut log, &records(&[("k", Some("other"))])).expect("appended");
    clean(&mut log, None, NOW);
    assert_eq!(content(&log), lines(&[(2, "k", Some("other"))]));
    drop(log);
    for name in std::fs::read_dir(home.path.join("topic-0")).expect("listed") {
        let path = name.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "snapshot") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    let mut log = home.reopen_after_crash(&compacted());
    commit(&mut log);
    assert!(send(&mut log, 1).expect("known").duplicate);
    assert!(send(&mut log, 3).is_err(), "a gap is seen");
    assert!(!send(&mut log, 2).expect("appended").duplicate);
}

#[test]
fn a_map_that_is_too_small_takes_several_passes() {
    let home = Home::real();
    let config = LogConfig { segment_bytes: 2000, ..compacted() };
    let mut log = home.open(&config, Recovery::NEW);
    for round in 0..200 {
        append(&mut log, &records(&[(&format!("{}", round % 50), Some("some value"))])).expect("appended");
    }
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    let small = CleanerConfig { map_bytes_max: 24 * 13, ..CLEANER };
    let (mut cleaned, mut passes) = (None, 0);
    while let Some(next) = try_clean(&mut log, cleaned, small, NOW).expect("cleaned") {
        assert!(cleaned.is_none_or(|cleaned| next > cleaned), "each pass comes further");
        (cleaned, passes) = (Some(next), passes + 1);
    }
    assert!(passes > 5, "{passes} passes");
    assert_eq!(offsets(&read_all_sparse(&log)), (150..200).collect::<Vec<_>>());

    let one = records(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]);
    append(&mut log, &one).expect("appended");
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    let tiny = CleanerConfig { map_bytes_max: 24 * 3, ..CLEANER };
    assert!(matches!(try_clean(&mut log, cleaned, tiny, NOW), Err(CleanError::MapTooSmall(Offset(200)))));
}

#[test]
fn a_log_that_is_cut_closed_or_deleted_ends_its_cleaning() {
    type End = fn(Log, Offset) -> Option<Log>;
    let ends: [(&str, End); 4] = [
        ("cut inside of what is cleaned", |mut log, at| {
            log.truncate_to(at, NOW).expect("cut");
            Some(log)
        }),
        ("begun anew", |mut log, at| {
            log.truncate_fully_and_start_at(at, NOW).expect("begun anew");
            Some(log)
        }),
        ("closed", |mut log, _| {
            log.close(NOW).expect("closed");
            Some(log)
        }),
        ("deleted", |log, _| {
            log.delete(odradek_common::Uuid([3; 16])).expect("deleted").run().expect("removed");
            None
        }),
    ];
    for (name, end) in ends {
        // Before each of the cleaning's steps in turn.
        for steps in 0.. {
            let home = Home::real();
            let mut log = home.open(&LogConfig { segment_bytes: 500, ..compacted() }, Recovery::NEW);
            for round in 0..40 {
                append(&mut log, &records(&[(&format!("{}", round % 4), Some("value"))])).expect("appended");
            }
            log.roll(None, NOW).expect("rolled");
            commit(&mut log);
            let cleanable = log.cleanable(None, NOW).expect("online").expect("something to clean");
            let config = CleanerConfig { io_bytes: 200, ..CLEANER };
            let mut cleaning = log.begin_cleaning(&cleanable, config, NOW).expect("begun");
            let (mut taken, mut is_done) = (0, false);
            while taken < steps && !is_done {
                match cleaning.step().expect("a step") {
                    CleanProgress::Bytes(_) => {}
                    CleanProgress::Segment(replacement) => {
                        log.replace_segments(*replacement).expect("replaced").run().expect("removed");
                    }
                    CleanProgress::Done(_) => is_done = true,
                }
                taken += 1;
            }
            if is_done {
                assert!(taken > 10, "{taken} steps");
                break;
            }
            let dir = log.log_dir().clone();
            let mut left = end(log, Offset(7));
            let step = cleaning.step();
            assert!(matches!(step, Err(CleanError::Superseded)), "{name} before step {steps}: {step:?}");
            assert!(dir.failure().is_none(), "{name}: {:?}", dir.failure());
            if let Some(log) = &mut left {
                let completed = log.complete_cleaning(&cleaning, Offset(40));
                assert!(name == "closed" || matches!(completed, Err(CleanError::Superseded)), "{name}");
                log.verify().expect("sound");
            }
        }
    }
}

#[test]
fn how_far_a_log_is_clean_follows_its_cuts_and_its_start() {
    let home = Home::real();
    let mut log = home.open(&compacted(), Recovery { cleaned_to: Some(Offset(90)), ..Recovery::NEW });
    assert_eq!((log.reset_cleaned_to(), log.cleaned_to()), (Some(Offset(90)), Some(Offset(0))), "behind the end");
    for _ in 0..10 {
        append(&mut log, &records(&[("a", Some("1")), ("b", Some("1"))])).expect("appended");
    }
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    let cleanable = log.cleanable(log.cleaned_to(), NOW).expect("online").expect("something to clean");
    let cleaning = log.begin_cleaning(&cleanable, CLEANER, NOW).expect("begun");
    log.complete_cleaning(&cleaning, Offset(20)).expect("the same log");
    assert_eq!((log.reset_cleaned_to(), log.checkpoint().cleaned_to), (None, Some(Offset(20))));
    log.truncate_to(Offset(13), NOW).expect("cut");
    assert_eq!(log.cleaned_to(), Some(Offset(12)), "where the batch of the cut begins");
    append(&mut log, &records(&[("c", Some("1"))])).expect("appended");
    commit(&mut log);
    log.delete_records_before(Offset(13)).expect("deleted");
    assert_eq!((log.reset_cleaned_to(), log.cleaned_to()), (Some(Offset(12)), Some(Offset(13))), "before the start");
    log.truncate_fully_and_start_at(Offset(5), NOW).expect("begun anew");
    assert_eq!(log.cleaned_to(), Some(Offset(5)));
}

#[test]
fn lags_and_ratios_say_what_is_cleaned_when() {
    let home = Home::real();
    let config = LogConfig { min_compaction_lag_ms: 500, max_compaction_lag_ms: 5000, ..compacted() };
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &records(&[("a", Some("1"))])).expect("appended");
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    assert_eq!(log.cleanable(None, Timestamp(NOW.0 + 499)).expect("online"), None);
    let due = log.cleanable(None, Timestamp(NOW.0 + 500)).expect("online").expect("due");
    assert!(!due.is_overdue && due.dirty_ratio() == 1.0, "{due:?}");
    assert!(log.cleanable(None, Timestamp(NOW.0 + 5001)).expect("online").expect("due").is_overdue);
    log.set_high_watermark(Offset(0));
    assert_eq!(log.cleanable(None, Timestamp(NOW.0 + 500)).expect("online"), None, "only what is committed");
}

#[test]
fn a_log_that_changes_meanwhile_is_left_as_it_is() {
    let home = Home::real();
    let mut log = home.open(&compacted(), Recovery::NEW);
    for _ in 0..3 {
        append(&mut log, &records(&[("a", Some("1"))])).expect("appended");
        log.roll(None, NOW).expect("rolled");
    }
    commit(&mut log);
    let cleanable = log.cleanable(None, NOW).expect("online").expect("dirty");
    let ready = |log: &Log| {
        let mut cleaning = log.begin_cleaning(&cleanable, CLEANER, NOW).expect("begun");
        loop {
            if let CleanProgress::Segment(replacement) = cleaning.step().expect("sound") {
                return (cleaning, *replacement);
            }
        }
    };
    let (_, replacement) = ready(&log);
    log.truncate_to(Offset(2), NOW).expect("cut");
    assert!(matches!(log.replace_segments(replacement), Err(CleanError::Superseded)));
    assert_eq!(offsets(&read_all(&log, Offset(0))), [0, 1]);
    append(&mut log, &records(&[("a", Some("1"))])).expect("appended");
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    let (mut cleaning, _) = ready(&log);
    let deleted = log.delete(TOPIC_ID).expect("renamed");
    assert!(matches!(cleaning.step(), Err(CleanError::Superseded)));
    deleted.run().expect("removed");
    assert!(home.location().log_dir.failure().is_none());
}

#[test]
fn damage_is_neither_believed_nor_written_anew() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let mut log = home.open(&compacted(), Recovery::NEW);
    append(&mut log, &records(&[("a", Some("1"))])).expect("appended");
    append(&mut log, &records(&[("a", Some("2"))])).expect("appended");
    log.roll(None, NOW).expect("rolled");
    commit(&mut log);
    let path = home.file("00000000000000000000.log");
    fs.corrupt(&path, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("changed");
    let before = fs.content(&path).expect("there");
    let error = try_clean(&mut log, None, CLEANER, NOW).expect_err("damaged");
    assert!(error.to_string().contains("00000000000000000000.log"), "{error}");
    assert_eq!(fs.content(&path).expect("there"), before);
}

// ---- crashes ----

const SEEDS: u64 = 200;
const STEPS: u64 = 50;
const KEYS: u64 = 8;
const PRODUCERS: u64 = 2;

/// One record as it was appended: offset, key, and the number that its value is, or none for a tombstone.
type Line = (i64, String, Option<String>);

struct World {
    fs: MemFs,
    rng: SplitMix64,
    config: Arc<LogConfig>,
    /// Every record ever appended that may still be there.
    appended: Vec<Line>,
    sequences: BTreeMap<i64, Vec<(i64, i32, i32)>>,
    safe: i64,
    now: i64,
    cleaned_to: Option<Offset>,
    log: Option<(LogDirs, Log)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let fs = MemFs::new();
        let mut rng = SplitMix64::new(seed);
        format_all(&fs, &[PathBuf::from("/logs")], "cluster", 1, false, &mut rng).expect("formatted");
        let config = LogConfig {
            segment_bytes: 400 + rng.below(2000) as u32,
            index_interval_bytes: rng.below(400) as u32,
            min_cleanable_dirty_ratio: 0.0,
            ..compacted()
        };
        Self {
            fs,
            rng,
            config: Arc::new(config),
            appended: Vec::new(),
            sequences: BTreeMap::new(),
            safe: 0,
            now: NOW.0,
            cleaned_to: None,
            log: None,
        }
    }

    fn open(&mut self) {
        let settings =
            LogDirsConfig { dirs: vec!["/logs".into()], node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
        let dirs = LogDirs::open(Arc::new(self.fs.clone()), &settings, &mut self.rng).expect("the directory opens");
        let producers = ProducerStateConfig::default();
        // As a broker starts: the topic's configs come with the metadata, later.
        let mut report = dirs.load_all(|_, _| Arc::new(LogConfig::default()), producers, NOW);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let mut log = report.logs.pop().unwrap_or_else(|| {
            let partition = TopicPartition::new("topic", 0);
            dirs.create(partition, TOPIC_ID, None, self.config.clone(), producers, NOW).expect("usable").expect("made")
        });
        log.set_config(self.config.clone());
        log.set_high_watermark(log.log_end());
        if self.cleaned_to.is_some_and(|to| to > log.log_end()) {
            self.cleaned_to = None;
        }
        self.log = Some((dirs, log));
        self.check();
    }

    /// What is there was appended, unchanged and in order; the latest value of each key is there; producers go on.
    fn check(&mut self) {
        let (_, log) = self.log.as_mut().expect("open");
        log.verify().expect("sound");
        let end = log.log_end().0;
        assert!(end >= self.safe, "the log ends at {end}, {} was flushed", self.safe);
        self.appended.retain(|line| line.0 < end);
        self.sequences.values_mut().for_each(|batches| batches.retain(|batch| batch.0 < end));
        let found = content(log);
        assert!(found.is_sorted_by_key(|line| line.0));
        let known: BTreeMap<i64, &Line> = self.appended.iter().map(|line| (line.0, line)).collect();
        for line in &found {
            assert_eq!(known.get(&line.0), Some(&line), "what is at {} was appended there", line.0);
        }
        let latest = |lines: &[Line]| -> BTreeMap<String, (i64, Option<String>)> {
            lines.iter().map(|(at, key, value)| (key.clone(), (*at, value.clone()))).collect()
        };
        let (have, want) = (latest(&found), latest(&self.appended));
        for (key, (at, value)) in &want {
            match value {
                Some(_) => assert_eq!(have.get(key), Some(&(*at, value.clone())), "the latest value of {key}"),
                // A tombstone may be gone, and with it everything before.
                None => assert!(have.get(key).is_none_or(|found| found == &(*at, None)), "{key} is deleted: {have:?}"),
            }
        }
        for (producer, batches) in &self.sequences {
            let Some((at, sequence, count)) = batches.last().copied() else { continue };
            let again = send(log, *producer, sequence, &vec![("dup".to_owned(), None); count as usize]);
            let again = again.expect("a duplicate");
            assert!(again.duplicate, "the last batch of {producer} at {at} is known");
            let beyond = send(log, *producer, sequence + count + 1, &[("gap".to_owned(), None)]);
            assert!(beyond.is_err(), "a gap is seen");
        }
        assert_eq!(log.log_end().0, end);
    }

    fn step(&mut self) -> Result<(), String> {
        let (dirs, log) = self.log.as_mut().expect("open");
        let text = |error: &dyn std::fmt::Display| error.to_string();
        match self.rng.below(20) {
            0..=11 => {
                let producer = self.rng.below(PRODUCERS) as i64;
                let batches = self.sequences.entry(producer).or_default();
                let sequence = batches.last().map_or(0, |(_, sequence, count)| sequence + count);
                let base = log.log_end().0;
                let lines: Vec<(String, Option<String>)> = (0..=self.rng.below(4))
                    .map(|at| {
                        let value = (self.rng.below(4) > 0).then(|| format!("{}", base + at as i64));
                        (format!("key-{}", self.rng.below(KEYS)), value)
                    })
                    .collect();
                batches.push((base, sequence, lines.len() as i32));
                let appended = lines.iter().zip(base..).map(|((key, value), at)| (at, key.clone(), value.clone()));
                self.appended.extend(appended);
                send(log, producer, sequence, &lines).map_err(|error| text(&error))?;
                log.set_high_watermark(log.log_end());
            }
            12 => log.roll(None, NOW).map_err(|error| text(&error))?,
            13 | 14 => {
                log.flush(NOW).map_err(|error| text(&error))?;
                self.safe = log.recovery_point().0;
                if self.rng.below(2) == 0 {
                    dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                }
            }
            15 => {
                log.close(NOW).map_err(|error| text(&error))?;
                self.safe = log.log_end().0;
                dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                dirs.write_clean_shutdown(log.log_dir(), 7).map_err(|error| text(&error))?;
                self.log = None;
                self.open();
            }
            _ => {
                self.now += self.rng.below(800) as i64;
                let bytes = if self.rng.below(3) == 0 { 24 * 12 } else { 1 << 20 };
                let config = CleanerConfig { map_bytes_max: bytes, io_bytes: 200, ..CLEANER };
                log.flush(NOW).map_err(|error| text(&error))?;
                self.safe = log.recovery_point().0;
                let cleaned = try_clean(log, self.cleaned_to, config, Timestamp(self.now));
                if let Some(to) = cleaned.map_err(|error| text(&error))? {
                    // A crash may lose the checkpoint, never the cleaning before it.
                    self.cleaned_to = if self.rng.below(4) == 0 { None } else { Some(to) };
                }
                self.check();
            }
        }
        Ok(())
    }
}

fn send(
    log: &mut Log,
    producer: i64,
    sequence: i32,
    lines: &[(String, Option<String>)],
) -> Result<odradek_broker_storage::AppendInfo, odradek_broker_storage::AppendError> {
    let mut builder = RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), sequence);
    for (key, value) in lines {
        builder.append(NOW, Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
    }
    let batch = builder.build().expect("built");
    log.append_as_leader(&batch, LeaderEpoch(0), AppendOrigin::Client, NOW)
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..STEPS {
        if world.rng.below(6) == 0 {
            let mutations = world.rng.below(25);
            world.fs.power_off_after(mutations);
            let mut steps = 0;
            while world.step().is_ok() && steps < 20 {
                steps += 1;
            }
            let crash = [Crash::Process, Crash::PowerLosesAll, Crash::PowerTears][world.rng.below(3) as usize];
            world.log = None;
            world.fs.crash(crash, &mut world.rng);
            world.open();
        } else {
            world.step().expect("nothing fails while the power is on");
        }
    }
    world.check();
}

#[test]
fn a_cleaned_log_survives_kills_and_power_failures_at_any_point() {
    let seeds =
        std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "CRASH_SEED={seed} fails");
    }
}

/// The swap alone, with a kill and a power failure before each of its operations in turn.
#[test]
fn a_swap_is_completed_or_undone_at_every_operation() {
    for crash in [Crash::Process, Crash::PowerLosesAll, Crash::PowerTears] {
        for mutations in 0..200 {
            let fs = MemFs::new();
            let home = Home::memory(&fs);
            let config = LogConfig { segment_bytes: 300, ..compacted() };
            let mut log = home.open(&config, Recovery::NEW);
            for round in 0..20 {
                append(&mut log, &records(&[(&format!("{}", round % 4), Some("value"))])).expect("appended");
            }
            append(&mut log, &transactional(5, 0, "0", "aborted")).expect("appended");
            marker(&mut log, 5, false);
            log.roll(None, NOW).expect("rolled");
            commit(&mut log);
            fs.power_off_after(mutations);
            let done = try_clean(&mut log, None, CLEANER, NOW).is_ok();
            drop(log);
            fs.crash(crash, &mut SplitMix64::new(mutations));
            let recovery = Recovery { recovery_point: Offset(22), clean: false, ..Recovery::NEW };
            let log = home.open(&LogConfig::default(), recovery);
            log.verify().expect("sound");
            assert!(log.recovery().damage.is_none(), "{:?} at {mutations}", log.recovery());
            assert_eq!(log.log_end(), Offset(22));
            let latest: BTreeMap<String, i64> = content(&log)
                .into_iter()
                .filter(|line| line.2.as_deref() == Some("value"))
                .map(|l| (l.1, l.0))
                .collect();
            let expected = (0..4).map(|key| (format!("{key}"), 16 + key)).collect();
            assert_eq!(latest, expected, "{crash:?} at {mutations}");
            let slice = log.read(Offset(20), 1 << 20, log.log_end(), true).expect("readable");
            assert_eq!(log.aborted_transactions(&slice).expect("readable").len(), 1, "{crash:?} at {mutations}");
            for name in fs.files() {
                let name = name.to_string_lossy().into_owned();
                assert!(![".swap", ".cleaned", ".deleted"].iter().any(|end| name.ends_with(end)), "{name} stays");
            }
            if done {
                break;
            }
            assert!(mutations < 199, "the cleaning ends at last");
        }
    }
}
