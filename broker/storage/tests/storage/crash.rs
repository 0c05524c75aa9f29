//! A log under random operations, with kills and power failures in the middle of any of them, against a model: what was
//! flushed is there, what is there was appended, in order and unchanged, and producers go on where the log ends.
//!
//! Every case is one seed. A seed that fails prints itself.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use odradek_broker_storage::{AppendOrigin, Log, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig};
use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::meta_properties::format_all;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, TopicPartition};

use crate::support::{NOW, TOPIC_ID, idempotent, read_all};

const SEEDS: u64 = 150;
const STEPS: u64 = 60;
const PRODUCERS: u64 = 3;

/// One appended batch.
#[derive(Clone)]
struct Appended {
    base: i64,
    count: i64,
    producer: i64,
    sequence: i32,
    epoch: i32,
}

#[derive(Default)]
struct Model {
    batches: Vec<Appended>,
    /// The log ends here or later after any crash.
    safe: i64,
    /// A DeleteRecords that may or may not have reached the checkpoint.
    start: i64,
    epoch: i32,
    /// Where an emptied log goes on.
    floor: i64,
    /// The power failed in a truncation: until the next flush another failure may bring back what it dropped.
    truncating: bool,
}

impl Model {
    fn next_sequence(&self, producer: i64) -> i32 {
        self.batches
            .iter()
            .rev()
            .find(|batch| batch.producer == producer)
            .map_or(0, |batch| batch.sequence + batch.count as i32)
    }

    fn end(&self) -> i64 {
        self.batches.last().map_or(self.floor, |batch| batch.base + batch.count)
    }

    fn cut(&mut self, end: i64) {
        self.batches.retain(|batch| batch.base + batch.count <= end);
        self.safe = self.safe.min(self.end());
    }
}

struct World {
    fs: MemFs,
    rng: SplitMix64,
    config: Arc<LogConfig>,
    model: Model,
    log: Option<(LogDirs, Log)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let fs = MemFs::new();
        let mut rng = SplitMix64::new(seed);
        let dirs = [PathBuf::from("/logs")];
        format_all(&fs, &dirs, "cluster", 1, false, &mut rng).expect("formatted");
        let config = LogConfig {
            segment_bytes: 600 + rng.below(3000) as u32,
            index_interval_bytes: rng.below(600) as u32,
            retention_bytes: if rng.below(3) == 0 { 5000 } else { -1 },
            preallocate: rng.below(3) == 0,
            ..LogConfig::default()
        };
        Self { fs, rng, config: Arc::new(config), model: Model::default(), log: None }
    }

    fn open(&mut self) {
        let settings =
            LogDirsConfig { dirs: vec!["/logs".into()], node_id: BrokerId(1), cluster_id: None, open_files_max: 2 };
        let dirs = LogDirs::open(Arc::new(self.fs.clone()), &settings, &mut self.rng).expect("the directory opens");
        let producers = ProducerStateConfig::default();
        let mut report = dirs.load_all(|_, _| self.config.clone(), producers, NOW);
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let mut log = report.logs.pop().unwrap_or_else(|| {
            let partition = TopicPartition::new("topic", 0);
            dirs.create(partition, TOPIC_ID, None, self.config.clone(), producers, NOW).expect("usable").expect("made")
        });
        log.set_high_watermark(log.log_end());
        if std::mem::take(&mut self.model.truncating) {
            log.flush(NOW).expect("flushed");
        }
        self.log = Some((dirs, log));
        self.check();
    }

    /// The log is a prefix of what was appended, with all that was flushed, and knows its producers and epochs.
    fn check(&mut self) {
        let (_, log) = self.log.as_mut().expect("open");
        log.verify().expect("sound");
        let (start, end) = (log.log_start().0, log.log_end().0);
        assert!(end >= self.model.safe, "the log ends at {end}, {} was flushed", self.model.safe);
        assert!(end <= self.model.end().max(start), "the log ends at {end}, the model at {}", self.model.end());
        assert!(start <= self.model.start, "the log starts at {start}, the model at {}", self.model.start);
        self.model.cut(end);
        if start == end && self.model.end() != end {
            // Everything readable is gone, and what was deleted may have ended inside a batch.
            self.model.batches.clear();
            self.model.floor = end;
        }
        assert!(self.model.end() == end || start == end, "the log ends at {end}, inside a batch");
        let records = read_all(log, log.log_start());
        let offsets: Vec<i64> = records.iter().map(|record| record.offset.0).collect();
        assert_eq!(offsets, (start..end).collect::<Vec<_>>());
        for batch in self.model.batches.iter().filter(|batch| batch.base >= start) {
            let first = &records[(batch.base - start) as usize];
            assert_eq!(first.sequence, batch.sequence, "the record at {}", batch.base);
            // Epochs below a deletion are forgotten, also when the deletion itself did not reach the checkpoint.
            if batch.base < self.model.start {
                continue;
            }
            assert_eq!(log.epoch_at(first.offset), Some(LeaderEpoch(batch.epoch)), "the epoch at {}", batch.base);
        }
        for producer in 0..PRODUCERS as i64 {
            let mut known = self
                .model
                .batches
                .iter()
                .rev()
                .filter(|batch| batch.producer == producer && batch.base >= start.max(self.model.start));
            let Some(last) = known.next() else { continue };
            for batch in std::iter::once(last).chain(known.take(4)) {
                let again =
                    send(log, batch.producer, batch.sequence, batch.count, self.model.epoch).expect("a duplicate");
                assert!(again.duplicate && again.first_offset.0 == batch.base, "{again:?}");
            }
            let beyond = last.sequence + last.count as i32 + 1;
            assert!(send(log, producer, beyond, 1, self.model.epoch).is_err(), "a gap is seen");
        }
        assert_eq!(log.log_end().0, end);
    }

    /// One operation. `Err` when the power went off in the middle of it.
    fn step(&mut self) -> Result<(), String> {
        let (dirs, log) = self.log.as_mut().expect("open");
        let model = &mut self.model;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        match self.rng.below(20) {
            0..=12 => {
                let producer = self.rng.below(PRODUCERS) as i64;
                let count = 1 + self.rng.below(6) as i64;
                let batch = Appended {
                    base: model.end(),
                    count,
                    producer,
                    sequence: model.next_sequence(producer),
                    epoch: model.epoch,
                };
                // The batch may be on disk even when the append failed.
                model.batches.push(batch.clone());
                let info = send(log, producer, batch.sequence, count, batch.epoch).map_err(|error| text(&error))?;
                assert_eq!((info.first_offset.0, info.duplicate), (batch.base, false));
                log.set_high_watermark(log.log_end());
            }
            13 | 14 => {
                log.flush(NOW).map_err(|error| text(&error))?;
                model.safe = log.recovery_point().0;
                if self.rng.below(2) == 0 {
                    dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                }
            }
            15 => {
                let to = self.rng.below(log.log_end().0 as u64 + 1) as i64;
                let to = to.max(log.log_start().0);
                model.safe = model.safe.min(to);
                model.safe = model
                    .batches
                    .iter()
                    .map(|batch| batch.base + batch.count)
                    .filter(|end| *end <= to)
                    .max()
                    .unwrap_or(0)
                    .min(model.safe);
                model.truncating = true;
                log.truncate_to(Offset(to), NOW).map_err(|error| text(&error))?;
                dirs.write_recovery_points(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                // Without this the dropped batches may come back, which the epochs must then tell.
                log.flush(NOW).map_err(|error| text(&error))?;
                model.cut(log.log_end().0);
                model.safe = model.end();
                model.epoch += 1;
                model.truncating = false;
            }
            16 => {
                let to = self.rng.below(log.log_end().0 as u64 + 1) as i64;
                model.start = model.start.max(to);
                log.delete_records_before(Offset(to)).map_err(|error| text(&error))?;
            }
            17 => {
                let deferred = log.delete_old_segments(Timestamp(NOW.0 + 1)).map_err(|error| text(&error))?;
                model.start = model.start.max(log.log_start().0);
                if self.rng.below(2) == 0 {
                    deferred.run().map_err(|error| text(&error))?;
                }
            }
            18 => log.roll(None, NOW).map_err(|error| text(&error))?,
            _ => {
                if self.rng.below(2) == 0 {
                    log.close(NOW).map_err(|error| text(&error))?;
                } else if let Some(job) = log.begin_close(NOW).map_err(|error| text(&error))? {
                    assert!(log.log_dir().sync_whole().map_err(|error| text(&error))?, "it can be synced whole");
                    log.complete_flush(job.was_synced_whole());
                }
                model.safe = log.log_end().0;
                dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).map_err(|error| text(&error))?;
                dirs.write_clean_shutdown(log.log_dir(), 7).map_err(|error| text(&error))?;
                self.log = None;
                self.open();
            }
        }
        Ok(())
    }

    fn crash(&mut self, crash: Crash) {
        self.log = None;
        self.fs.crash(crash, &mut self.rng);
        self.open();
    }
}

fn send(
    log: &mut Log,
    producer: i64,
    sequence: i32,
    count: i64,
    epoch: i32,
) -> Result<odradek_broker_storage::AppendInfo, odradek_broker_storage::AppendError> {
    let batch: Bytes = idempotent(producer, 0, sequence, count as usize);
    log.append_as_leader(&batch, LeaderEpoch(epoch), AppendOrigin::Client, NOW)
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.open();
    for _ in 0..STEPS {
        if world.rng.below(8) == 0 {
            let mutations = world.rng.below(12);
            world.fs.power_off_after(mutations);
            let mut steps = 0;
            while world.step().is_ok() && steps < 20 {
                steps += 1;
            }
            let crash = [Crash::Process, Crash::PowerLosesAll, Crash::PowerTears][world.rng.below(3) as usize];
            world.crash(crash);
        } else {
            world.step().expect("nothing fails while the power is on");
        }
    }
    world.check();
}

#[test]
fn a_log_survives_kills_and_power_failures_at_any_point() {
    let seeds =
        std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "CRASH_SEED={seed} fails");
    }
}
