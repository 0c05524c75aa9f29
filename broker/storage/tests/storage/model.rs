//! One log under everything that a broker does with it, in any order, against a simple model: appends of plain, idempotent
//! and transactional producers, markers, reads, rolls, flushes, truncations, DeleteRecords, retention, cleaning, clean and
//! other restarts. At every operation on the disk something may go wrong: the power fails (and what was not synced is lost,
//! torn or kept), a call fails with EIO once or from then on, or the disk is full for a while.
//!
//! Whatever happens: what is there was appended at its offset, unchanged; nothing that was flushed is lost; offsets have no
//! gaps but those of cleaning, which leaves the latest value of every key; the indexes, checkpoints and snapshots agree with
//! the log; and what is known of producers is what their batches in the log say.
//!
//! Every case is one seed. `CRASH_SEED=n` runs that one alone; `CRASH_SEEDS=n` runs as many.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use odradek_broker_storage::{
    ActiveProducer, AppendOrigin, CleanerConfig, Log, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig, verify,
};
use odradek_common::fs::Fs;
use odradek_common::mem_fs::{Crash, MemFs, Operation};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use odradek_records::{Batches, Codec, EndTxnMarker, RecordBatchBuilder};

use crate::cleaning::{CLEANER, try_clean};
use crate::support::{NOW, TOPIC_ID};

const SEEDS: u64 = 80;
const STEPS: u64 = 60;
const KEYS: u64 = 6;
/// Of these the first two are idempotent and the others transactional.
const PRODUCERS: i64 = 4;
const DIR: &str = "/logs";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Idempotent(i64),
    Transactional(i64),
    Marker { producer: i64, commits: bool },
}

/// What was appended in one batch: keys and values; a marker has one record that does not count.
#[derive(Clone, Debug)]
struct Appended {
    base: i64,
    kind: Kind,
    epoch: i32,
    /// Where there is a producer; the sequence is that of the first record.
    producer_epoch: i16,
    sequence: i32,
    records: Vec<(String, Option<String>)>,
}

impl Appended {
    fn end(&self) -> i64 {
        self.base + self.records.len().max(1) as i64
    }

    /// The producer whose data it is.
    fn data_of(&self) -> Option<i64> {
        match self.kind {
            Kind::Idempotent(producer) | Kind::Transactional(producer) => Some(producer),
            Kind::Plain | Kind::Marker { .. } => None,
        }
    }
}

/// A record as it was appended or read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    key: String,
    value: Option<String>,
}

#[derive(Default)]
struct Model {
    /// All that may be there, in order.
    batches: Vec<Appended>,
    /// The log ends here or later after any crash.
    safe: i64,
    /// The log starts here or earlier.
    start: i64,
    high_watermark: i64,
    /// Below this records may be missing that others have replaced.
    cleaned: i64,
    epoch: i32,
    /// Where a log without batches goes on, and each producer with it.
    floor: i64,
    floor_sequences: BTreeMap<i64, i32>,
    /// The epoch that each producer has reached.
    producer_epochs: BTreeMap<i64, i16>,
    /// A truncation was cut short: until the next flush a crash may bring back what it dropped.
    truncating: bool,
    /// The log's end at the last cleaning, which went by what producers had written until then.
    cleaned_by: i64,
    /// Producers whose last batch was cut off after cleaning had gone by it, and perhaps dropped the one before: a rebuild
    /// may find an older one for their last, as in Kafka, and then they begin a new epoch.
    set_back: BTreeSet<i64>,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches.last().map_or(self.floor, Appended::end)
    }

    fn cut(&mut self, end: i64) {
        let dropped = self.batches.iter().filter(|batch| batch.end() > end && batch.base < self.cleaned_by);
        for producer in dropped.filter_map(Appended::data_of) {
            let mut left = self.batches.iter().rev().filter(|batch| batch.end() <= end);
            if left.find(|batch| batch.data_of() == Some(producer)).is_some_and(|last| last.base < self.cleaned) {
                self.set_back.insert(producer);
            }
        }
        self.cleaned_by = self.cleaned_by.min(end);
        self.batches.retain(|batch| batch.end() <= end);
        self.safe = self.safe.min(self.end());
        self.high_watermark = self.high_watermark.min(end);
    }

    /// What a producer goes on with, whether or not the log still has what came before.
    fn next_sequence(&self, producer: i64) -> i32 {
        let epoch = self.producer_epoch(producer);
        let is_of_it = |batch: &&Appended| batch.data_of() == Some(producer) && batch.producer_epoch == epoch;
        let last = self.batches.iter().rev().find(is_of_it);
        let floor = || self.floor_sequences.get(&producer).copied().unwrap_or(0);
        last.map_or_else(floor, |batch| batch.sequence + batch.records.len() as i32)
    }

    fn producer_epoch(&self, producer: i64) -> i16 {
        self.producer_epochs.get(&producer).copied().unwrap_or(0)
    }

    /// What a producer does whose sequence is refused (KIP-360).
    fn begin_producer_epoch(&mut self, producer: i64) {
        self.producer_epochs.insert(producer, self.producer_epoch(producer) + 1);
        self.floor_sequences.remove(&producer);
        self.set_back.remove(&producer);
    }

    /// Everything readable is gone.
    fn clear(&mut self, end: i64) {
        self.floor_sequences = (0..PRODUCERS).map(|producer| (producer, self.next_sequence(producer))).collect();
        self.batches.clear();
        self.floor = end;
    }

    fn has_open_transaction(&self, producer: i64) -> bool {
        let of_it = self.batches.iter().rev().find_map(|batch| match batch.kind {
            Kind::Transactional(id) if id == producer => Some(true),
            Kind::Marker { producer: id, .. } if id == producer => Some(false),
            _ => None,
        });
        of_it.unwrap_or(false)
    }

    /// Of its batches from `from` on.
    fn first_of_open_transaction(&self, producer: i64, from: i64) -> Option<i64> {
        let of_it = |batch: &&Appended| match batch.kind {
            Kind::Transactional(id) | Kind::Marker { producer: id, .. } => id == producer,
            Kind::Plain | Kind::Idempotent(_) => false,
        };
        let open = self.batches.iter().rev().filter(of_it).take_while(|batch| batch.data_of().is_some());
        open.filter(|batch| batch.base >= from).last().map(|batch| batch.base)
    }

    /// The batches of transactions, by base offset: whether they were committed. Those of open ones are not in it.
    fn outcomes(&self) -> BTreeMap<i64, bool> {
        let (mut open, mut outcomes) = (BTreeMap::<i64, Vec<i64>>::new(), BTreeMap::new());
        for batch in &self.batches {
            match batch.kind {
                Kind::Transactional(producer) => open.entry(producer).or_default().push(batch.base),
                Kind::Marker { producer, commits } => {
                    outcomes.extend(open.remove(&producer).unwrap_or_default().into_iter().map(|base| (base, commits)));
                }
                Kind::Plain | Kind::Idempotent(_) => {}
            }
        }
        outcomes
    }

    /// Every data record by offset, and whether it counts: it is part of no transaction, or of a committed one.
    fn lines(&self) -> BTreeMap<i64, (Line, bool)> {
        let outcomes = self.outcomes();
        let mut lines = BTreeMap::new();
        for batch in &self.batches {
            let counts = match batch.kind {
                Kind::Transactional(_) => outcomes.get(&batch.base) == Some(&true),
                _ => true,
            };
            for ((key, value), at) in batch.records.iter().zip(batch.base..) {
                lines.insert(at, (Line { key: key.clone(), value: value.clone() }, counts));
            }
        }
        lines
    }
}

/// The latest record of each key.
fn latest(lines: impl Iterator<Item = (i64, Line)>) -> BTreeMap<String, (i64, Option<String>)> {
    lines.map(|(at, line)| (line.key, (at, line.value))).collect()
}

struct World {
    fs: MemFs,
    rng: SplitMix64,
    config: Arc<LogConfig>,
    model: Model,
    now: i64,
    cleaned_to: Option<Offset>,
    /// Any call on the disk may fail: what is there is looked at later.
    in_trouble: bool,
    log: Option<(LogDirs, Log)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let fs = MemFs::new();
        let mut rng = SplitMix64::new(seed);
        format_all(&fs, &[PathBuf::from(DIR)], "cluster", 1, false, &mut rng).expect("formatted");
        let policy = rng.below(4);
        let config = LogConfig {
            segment_bytes: 500 + rng.below(2500) as u32,
            index_interval_bytes: rng.below(500) as u32,
            retention_bytes: if rng.below(3) == 0 { 6000 } else { -1 },
            retention_ms: if rng.below(3) == 0 { 4000 } else { -1 },
            delete_retention_ms: 1000,
            cleanup_compact: policy < 2,
            cleanup_delete: policy != 0,
            min_cleanable_dirty_ratio: 0.0,
            ..LogConfig::default()
        };
        let config = Arc::new(config);
        Self { fs, rng, config, model: Model::default(), now: NOW.0, cleaned_to: None, in_trouble: false, log: None }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    fn open(&mut self) {
        let settings =
            LogDirsConfig { dirs: vec![DIR.into()], node_id: BrokerId(1), cluster_id: None, open_files_max: 4 };
        let dirs = LogDirs::open(Arc::new(self.fs.clone()), &settings, &mut self.rng).expect("the directory opens");
        let (producers, now) = (ProducerStateConfig::default(), self.now());
        // As a broker starts: the topic's configs come with the metadata, later.
        let mut report = dirs.load_all(|_, _| Arc::new(LogConfig::default()), producers, now);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let mut log = report.logs.pop().unwrap_or_else(|| {
            let partition = TopicPartition::new("topic", 0);
            dirs.create(partition, TOPIC_ID, None, self.config.clone(), producers, now).expect("usable").expect("made")
        });
        log.set_config(self.config.clone());
        if std::mem::take(&mut self.model.truncating) {
            log.flush(now).expect("flushed");
        }
        self.model.high_watermark = self.model.high_watermark.min(log.log_end().0).max(log.log_start().0);
        log.set_high_watermark(Offset(self.model.high_watermark));
        self.cleaned_to = self.cleaned_to.filter(|to| *to <= log.log_end());
        dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).expect("written");
        self.log = Some((dirs, log));
        self.check();
        self.check_files();
        self.check_producers();
    }

    /// The log against the model, which forgets what is lost.
    fn check(&mut self) {
        let (_, log) = self.log.as_ref().expect("open");
        log.verify().expect("sound");
        let model = &mut self.model;
        let (start, end) = (log.log_start().0, log.log_end().0);
        assert!(end >= model.safe, "the log ends at {end}, {} was flushed", model.safe);
        assert!(end <= model.end().max(start), "the log ends at {end}, the model at {}", model.end());
        assert!(start <= model.start, "the log starts at {start}, the model at {}", model.start);
        model.cut(end);
        if start == end && model.end() != end {
            // Everything readable is gone, and what was deleted may have ended inside a batch.
            model.clear(end);
        }
        assert!(model.end() == end || start == end, "the log ends at {end}, inside a batch");
        let found = found(log);
        let lines = model.lines();
        let epochs: BTreeMap<i64, i32> =
            model.batches.iter().flat_map(|batch| (batch.base..batch.end()).map(|at| (at, batch.epoch))).collect();
        for (at, line) in &found {
            assert_eq!(lines.get(at).map(|(line, _)| line), Some(line), "what is at {at} was appended there");
            // Epochs below a deletion are forgotten, also when the deletion itself did not reach the checkpoint.
            if *at >= model.start {
                assert_eq!(
                    log.epoch_at(Offset(*at)).map(|epoch| epoch.0),
                    epochs.get(at).copied(),
                    "the epoch at {at}"
                );
            }
        }
        for at in lines.keys().filter(|at| **at >= start.max(model.cleaned)) {
            assert!(found.contains_key(at), "the record at {at} is there");
        }
        if self.config.cleanup_compact {
            let counts = |at: &i64| lines.get(at).is_some_and(|(_, counts)| *counts);
            let have = latest(found.into_iter().filter(|(at, _)| counts(at)));
            let due = lines.iter().filter(|(at, (_, counts))| **at >= start && *counts);
            for (key, want) in latest(due.map(|(at, (line, _))| (*at, line.clone()))) {
                // A tombstone may be gone, and with it everything before.
                let is_gone = want.1.is_none() && !have.contains_key(&key);
                assert!(have.get(&key) == Some(&want) || is_gone, "the latest of {key} is {want:?}: {have:?}");
            }
        }
        // What was deleted counts no more, also when the deletion itself did not reach the checkpoint.
        if log.high_watermark().0 == end && model.start == start {
            // What is left of a transaction whose beginning was deleted may hold it back from there, or from before.
            let first = |from: i64| {
                let open = (0..PRODUCERS).filter_map(|producer| model.first_of_open_transaction(producer, from));
                open.min().map_or(end, |first| first.max(start))
            };
            let stable = log.last_stable_offset().0;
            assert!((first(0)..=first(start)).contains(&stable), "the last stable offset: {stable}");
        }
        self.check_aborted();
    }

    /// Each record of an aborted transaction is known for one to whoever reads it.
    fn check_aborted(&self) {
        let (_, log) = self.log.as_ref().expect("open");
        let outcomes = self.model.outcomes();
        // A crash may bring back what was deleted, and what a rebuild meanwhile did not know of its transactions.
        let mut next = log.log_start().max(Offset(self.model.start)).min(log.log_end());
        while next < log.log_end() {
            let slice = log.read(next, 700, log.log_end(), true).expect("readable");
            if slice.is_empty() {
                break;
            }
            let aborted = log.aborted_transactions(&slice).expect("readable");
            for batch in Batches::new(log.load(&slice).expect("loaded")).map_while(Result::ok) {
                next = batch.header.next_offset();
                let header = batch.header;
                let is_data = header.attributes.is_transactional() && !header.attributes.is_control();
                if is_data && header.record_count > 0 && outcomes.get(&header.base_offset.0) == Some(&false) {
                    let is_told = |entry: &odradek_broker_storage::AbortedTxn| {
                        entry.producer_id == header.producer_id
                            && (entry.first_offset..=entry.last_offset).contains(&header.base_offset)
                    };
                    assert!(aborted.iter().any(is_told), "{header:?} was aborted: {aborted:?}");
                }
            }
        }
    }

    /// Indexes, snapshots and checkpoints against the batches, as `odradek log verify` does it.
    fn check_files(&self) {
        let mut problems = Vec::new();
        // Epochs below a deletion are forgotten, also when the deletion itself did not reach the checkpoint.
        // A snapshot that a power failure has torn lies there until its turn comes, and is not used.
        let is_known = |problem: &verify::Problem| {
            let is_epoch = problem.file.ends_with("leader-epoch-checkpoint");
            let is_torn = problem.file.extension().is_some_and(|end| end == "snapshot") && problem.offset.is_none();
            is_torn || (is_epoch && problem.offset.is_none_or(|offset| offset.0 < self.model.start))
        };
        let mut sink = |finding| match finding {
            verify::Finding::Problem(problem) if !is_known(&problem) => problems.push(problem),
            _ => {}
        };
        verify::log_dir(&self.fs, Path::new(DIR), verify::Options { records: true }, &mut sink).expect("readable");
        assert_eq!(problems, []);
    }

    /// What is known of producers is what a log knows that has nothing but the batches.
    fn check_producers(&self) {
        let (_, log) = self.log.as_ref().expect("open");
        let copy = MemFs::new();
        for path in self.fs.files() {
            let is_own =
                |name: &str| name.ends_with(".log") || name == "partition.metadata" || name == "meta.properties";
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_own) {
                copy.create_dir_all(path.parent().expect("a directory")).expect("made");
                let bytes = self.fs.content(&path).expect("there");
                odradek_common::fs::write_file_atomically(&copy, &path, &bytes).expect("written");
            }
        }
        let settings =
            LogDirsConfig { dirs: vec![DIR.into()], node_id: BrokerId(1), cluster_id: None, open_files_max: 4 };
        let dirs = LogDirs::open(Arc::new(copy), &settings, &mut SplitMix64::new(1)).expect("the directory opens");
        let mut report = dirs.load_all(|_, _| self.config.clone(), ProducerStateConfig::default(), self.now());
        let rebuilt = report.logs.pop().unwrap_or_else(|| panic!("{:?}", report.failed));
        // Cleaning and retention take markers along, and the beginnings of transactions.
        let has_all = !self.config.cleanup_compact && log.log_start() == Offset(0) && self.model.start == 0;
        let known = |log: &Log| -> BTreeMap<i64, ActiveProducer> {
            let of = |mut producer: ActiveProducer| {
                if !has_all {
                    (producer.last_timestamp, producer.coordinator_epoch) = (Timestamp::NONE, -1);
                    producer.txn_start_offset = None;
                }
                (producer.producer_id.0, producer)
            };
            log.active_producers().map(of).collect()
        };
        let (live, rebuilt) = (known(log), known(&rebuilt));
        let start = log.log_start().0.max(self.model.start);
        for producer in 0..PRODUCERS {
            let last = self.model.batches.iter().rev().find(|batch| batch.data_of() == Some(producer));
            // What retention has taken with it, one may have forgotten and the other may not.
            if last.is_some_and(|batch| batch.base >= start) {
                assert!(live.contains_key(&producer), "producer {producer} is known: {live:?}");
                // The last batch that cleaning has kept may have been cut off since, together with what was not committed.
                if !self.config.cleanup_compact {
                    assert_eq!(live.get(&producer), rebuilt.get(&producer), "producer {producer}");
                }
            }
        }
    }

    /// One operation. `Err` when it failed.
    fn step(&mut self) -> Result<(), String> {
        self.now += self.rng.below(300) as i64;
        let now = self.now();
        let (dirs, log) = self.log.as_mut().expect("open");
        let model = &mut self.model;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        match self.rng.below(24) {
            0..=11 => {
                let producer = self.rng.below(PRODUCERS as u64 + 1) as i64;
                let kind = match producer {
                    0 | 1 => Kind::Idempotent(producer),
                    PRODUCERS => Kind::Plain,
                    _ if model.has_open_transaction(producer) && self.rng.below(2) == 0 => {
                        Kind::Marker { producer, commits: self.rng.below(2) == 0 }
                    }
                    _ => Kind::Transactional(producer),
                };
                let count = if matches!(kind, Kind::Marker { .. }) { 0 } else { 1 + self.rng.below(4) };
                let (base, epoch) = (model.end(), model.epoch);
                let records = (0..count).map(|at| {
                    let value = (self.rng.below(4) > 0).then(|| format!("{}-{epoch}", base + at as i64));
                    (format!("key-{}", self.rng.below(KEYS)), value)
                });
                // A rebuild may find a producer's markers alone: retention has taken its records, or the last batch that cleaning
                // has kept was cut off since, together with what was not committed. Or it finds an older batch for the last.
                let may_lack_records = self.config.cleanup_compact || model.start > 0;
                let known = log.active_producers().find(|of| of.producer_id.0 == producer);
                let is_unknown = may_lack_records && known.is_some_and(|of| of.last_sequence < 0);
                if is_unknown || (known.is_some() && model.set_back.contains(&producer)) {
                    model.begin_producer_epoch(producer);
                }
                let (producer_epoch, sequence) = (model.producer_epoch(producer), model.next_sequence(producer));
                let batch = Appended { base, kind, epoch, producer_epoch, sequence, records: records.collect() };
                // It may be on disk even when the append fails.
                model.batches.push(batch.clone());
                let codec = Codec::ALL[self.rng.below(5) as usize];
                let appended = append(log, &batch, codec, now);
                if appended.as_ref().is_err_and(|error| is_full(error)) {
                    model.batches.pop();
                }
                appended?;
                if self.rng.below(2) == 0 {
                    model.high_watermark = log.log_end().0;
                    log.set_high_watermark(log.log_end());
                }
            }
            12 | 13 => {
                let flushed = log.flush(now);
                model.safe = model.safe.max(log.recovery_point().0);
                flushed.map_err(|error| text(&error))?;
                if self.rng.below(2) == 0 {
                    dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                }
            }
            14 => {
                let least = model.high_watermark.max(log.log_start().0);
                let to = least + self.rng.below((log.log_end().0 - least) as u64 + 1) as i64;
                let ends = model.batches.iter().map(Appended::end).filter(|end| *end <= to);
                model.safe = model.safe.min(ends.max().unwrap_or(0));
                model.truncating = true;
                log.truncate_to(Offset(to), now).map_err(|error| text(&error))?;
                dirs.write_recovery_points(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                // Without this the dropped batches may come back, which the epochs must then tell.
                log.flush(now).map_err(|error| text(&error))?;
                model.cut(log.log_end().0);
                model.safe = model.end();
                model.epoch += 1;
                model.truncating = false;
            }
            15 => {
                let to = self.rng.below(model.high_watermark as u64 + 1) as i64;
                model.start = model.start.max(to);
                log.delete_records_before(Offset(to)).map_err(|error| text(&error))?;
            }
            16 | 17 => {
                let deferred = log.delete_old_segments(now);
                model.start = model.start.max(log.log_start().0);
                let deferred = deferred.map_err(|error| text(&error))?;
                if self.rng.below(2) == 0 {
                    deferred.run().map_err(|error| text(&error))?;
                }
            }
            18 => log.roll(None, now).map_err(|error| text(&error))?,
            19 => log.release_idle_memory().map_err(|error| text(&error))?,
            20 if self.in_trouble => {}
            20 => return self.restart(),
            _ => {
                self.now += self.rng.below(800) as i64;
                let bytes = if self.rng.below(3) == 0 { 24 * 12 } else { 1 << 20 };
                let config = CleanerConfig { map_bytes_max: bytes, io_bytes: 200, ..CLEANER };
                log.flush(now).map_err(|error| text(&error))?;
                model.safe = model.safe.max(log.recovery_point().0);
                if !self.config.cleanup_compact {
                    return Ok(());
                }
                model.cleaned = model.cleaned.max(log.last_stable_offset().0);
                model.cleaned_by = log.log_end().0;
                match try_clean(log, self.cleaned_to, config, Timestamp(self.now)) {
                    // A crash may lose the checkpoint, never the cleaning before it.
                    Ok(Some(to)) => self.cleaned_to = (self.rng.below(4) > 0).then_some(to),
                    Ok(None) => {}
                    Err(error) => {
                        let _ = log.remove_leftovers();
                        return Err(text(&error));
                    }
                }
                if !self.in_trouble {
                    self.check();
                }
            }
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        let now = self.now();
        let (dirs, log) = self.log.as_mut().expect("open");
        log.close(now).map_err(|error| error.to_string())?;
        self.model.safe = log.log_end().0;
        dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| error.to_string())?;
        dirs.write_clean_shutdown(log.log_dir(), 7).map_err(|error| error.to_string())?;
        self.log = None;
        self.open();
        Ok(())
    }

    fn crash(&mut self) {
        let crash = [Crash::Process, Crash::PowerLosesAll, Crash::PowerTears][self.rng.below(3) as usize];
        self.crash_so(crash);
    }

    fn crash_so(&mut self, crash: Crash) {
        self.log = None;
        self.in_trouble = false;
        self.fs.set_fault(None);
        self.fs.set_capacity(None);
        self.fs.crash(crash, &mut self.rng);
        self.open();
    }

    /// Steps until one fails, at most some.
    fn steps_until_failure(&mut self) -> Option<String> {
        (0..20).find_map(|_| self.step().err())
    }

    fn without_power(&mut self) {
        let mutations = self.rng.below(25);
        self.fs.power_off_after(mutations);
        self.in_trouble = true;
        self.steps_until_failure();
        self.crash();
    }

    /// A call on the disk fails, the next one of its kind or each from then on. That costs the directory; the process ends.
    fn with_bad_disk(&mut self) {
        let calls = AtomicU64::new(self.rng.below(30));
        let (once, mutations_only) = (self.rng.below(2) == 0, self.rng.below(2) == 0);
        let mut failed = false;
        let has_failed_to_sync = Arc::new(AtomicBool::new(false));
        let syncs = has_failed_to_sync.clone();
        self.fs.set_fault(Some(Box::new(move |operation, path| {
            let concerns = path.starts_with(DIR) && (operation.is_mutation() || !mutations_only);
            if !concerns || (failed && once) {
                return None;
            }
            let left = calls.load(Ordering::Relaxed);
            calls.store(left.saturating_sub(1), Ordering::Relaxed);
            failed |= left == 0;
            syncs.fetch_or(failed && operation == Operation::Sync, Ordering::Relaxed);
            failed.then(|| io::Error::other("input/output error"))
        })));
        self.in_trouble = true;
        if let Some(error) = self.steps_until_failure() {
            assert!(error.contains("is offline: "), "{error}");
            let (_, log) = self.log.as_ref().expect("open");
            assert!(log.log_dir().failure().is_some(), "{error}");
        }
        // The page cache then holds what the disk will never get, and nobody can tell: the machine has to start anew.
        match has_failed_to_sync.load(Ordering::Relaxed) {
            true => self.crash_so(Crash::PowerTears),
            false => self.crash(),
        }
    }

    /// The disk is full for a while. What finds no room is undone; the log goes on, and nothing fails for any other reason.
    fn with_full_disk(&mut self) {
        let used: usize = self.fs.files().iter().map(|path| self.fs.content(path).expect("there").len()).sum();
        self.fs.set_capacity(Some(used as u64 + self.rng.below(900)));
        self.in_trouble = true;
        for _ in 0..6 {
            let Err(error) = self.step() else { continue };
            assert!(is_full(&error), "{error}");
            if self.model.truncating || self.rng.below(4) == 0 {
                return self.crash();
            }
            self.check();
        }
        self.fs.set_capacity(None);
        self.in_trouble = false;
        self.check();
        let (_, log) = self.log.as_ref().expect("open");
        assert!(log.log_dir().failure().is_none(), "{:?}", log.log_dir().failure());
    }
}

fn is_full(error: &str) -> bool {
    error.contains(" is full: ")
}

/// The data records, in slices as a consumer reads them.
fn found(log: &Log) -> BTreeMap<i64, Line> {
    let (mut found, mut next, mut seen) = (BTreeMap::new(), log.log_start(), BTreeSet::new());
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    loop {
        let slice = log.read(next, 1000, log.log_end(), true).expect("readable");
        if slice.is_empty() {
            assert_eq!(next, log.log_end(), "nothing to read before the log's end");
            return found;
        }
        for batch in Batches::new(log.load(&slice).expect("loaded")).map_while(Result::ok) {
            batch.check_crc().expect("a sound batch");
            if !batch.header.attributes.is_control() {
                for record in batch.records(1 << 20).expect("readable records") {
                    let record = record.expect("a record");
                    if record.offset >= next {
                        assert!(seen.insert(record.offset), "{} comes twice", record.offset);
                        let key = record.key.as_ref().map_or_else(String::new, text);
                        found.insert(record.offset.0, Line { key, value: record.value.as_ref().map(text) });
                    }
                }
            }
            next = batch.header.next_offset();
        }
    }
}

fn append(log: &mut Log, batch: &Appended, codec: Codec, now: Timestamp) -> Result<(), String> {
    let epoch = LeaderEpoch(batch.epoch);
    let (bytes, origin) = match batch.kind {
        Kind::Marker { producer, commits } => {
            let marker = EndTxnMarker { is_commit: commits, coordinator_epoch: 0 };
            (marker.batch(ProducerId(producer), ProducerEpoch(batch.producer_epoch), now), AppendOrigin::Coordinator)
        }
        kind => {
            let mut builder = RecordBatchBuilder::new().compression(codec);
            if let Kind::Idempotent(producer) | Kind::Transactional(producer) = kind {
                builder = builder.producer(ProducerId(producer), ProducerEpoch(batch.producer_epoch), batch.sequence);
                builder = builder.transactional(matches!(kind, Kind::Transactional(_)));
            }
            for (key, value) in &batch.records {
                builder.append(now, Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
            }
            (builder.build().expect("built"), AppendOrigin::Client)
        }
    };
    let info = log.append_as_leader(&bytes, epoch, origin, now).map_err(|error| error.to_string())?;
    assert_eq!((info.first_offset.0, info.duplicate), (batch.base, false), "{batch:?}");
    Ok(())
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..STEPS {
        match world.rng.below(20) {
            0 | 1 => world.without_power(),
            2 => world.with_bad_disk(),
            3 => world.with_full_disk(),
            _ => world.step().expect("nothing fails while all is well"),
        }
    }
    world.check();
    world.restart().expect("closed");
}

#[test]
fn a_log_keeps_its_promises_whatever_the_disk_does() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match (number("CRASH_SEED"), number("CRASH_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(SEEDS),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "CRASH_SEED={seed} fails");
    }
}
