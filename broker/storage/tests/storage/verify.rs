//! What a check of a log directory finds: nothing in one that is sound, and each kind of damage by file and place. Nothing is
//! written by it.

use std::path::{Path, PathBuf};

use odradek_broker_storage::files::{self, BatchFile, FileKind};
use odradek_broker_storage::verify::{self, Finding, Options, Problem};
use odradek_broker_storage::{
    AppendOrigin, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig, Recovery, format_directory,
};
use odradek_common::fs::RealFs;
use odradek_common::rng::SplitMix64;
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use odradek_records::{EndTxnMarker, RecordBatchBuilder};

use crate::support::{Home, NOW, TOPIC_ID, batch, fill, idempotent};

/// A log directory with one partition of several segments, closed as a broker closes it.
struct Dir {
    home: Home,
    clean: bool,
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 3000, index_interval_bytes: 200, ..LogConfig::default() }
}

impl Dir {
    /// `clean`: the broker shut down in order.
    fn new(clean: bool) -> Self {
        let home = Home::real();
        let mut rng = SplitMix64::new(1);
        format_directory(&RealFs, &home.path, "MkU3OEVBNTcwNTJENDM2Qg", BrokerId(1), &mut rng).expect("formatted");
        let wanted =
            LogDirsConfig { dirs: vec![home.path.clone()], node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
        let dirs = LogDirs::open(home.fs.clone(), &wanted, &mut rng).expect("opened");
        let (partition, producers) = (TopicPartition::new("topic", 0), ProducerStateConfig::default());
        let log = dirs.create(partition, TOPIC_ID, None, std::sync::Arc::new(config()), producers, NOW);
        let mut log = log.expect("a directory").expect("a log");
        let mut append = |bytes: &[u8], epoch: i32| {
            let origin = AppendOrigin::Client;
            log.append_as_leader(bytes, LeaderEpoch(epoch), origin, NOW).expect("appended");
        };
        // Of different sizes, so that no two segments have the same index.
        for n in 0..60 {
            append(&batch(2, 20 + n as usize % 7, Timestamp(NOW.0 + n)), 0);
        }
        append(&idempotent(7, 0, 0, 3), 2);
        let transactional = RecordBatchBuilder::new().producer(ProducerId(8), ProducerEpoch(0), 0).transactional(true);
        append(&fill(transactional, 2, 20, NOW), 2);
        let marker = EndTxnMarker { is_commit: false, coordinator_epoch: 0 };
        let marker = marker.batch(ProducerId(8), ProducerEpoch(0), NOW);
        log.append_as_leader(&marker, LeaderEpoch(2), AppendOrigin::Coordinator, NOW).expect("appended");
        log.close(NOW).expect("closed");
        log.set_high_watermark(log.log_end());
        let dir = dirs.dirs().next().expect("one").clone();
        dirs.write_checkpoints(&dir, &[log.checkpoint()]).expect("written");
        if clean {
            dirs.write_clean_shutdown(&dir, 5).expect("written");
        }
        Self { home, clean }
    }

    fn check(&self) -> (verify::Checked, Vec<Problem>, usize) {
        check(&self.home.path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.file(name)
    }

    /// The base offsets of the segments.
    fn bases(&self) -> Vec<i64> {
        let files = files::list(&RealFs, &self.home.path.join("topic-0")).expect("listed");
        let base = |(_, kind): &(PathBuf, FileKind)| match kind {
            FileKind::Log { base } => Some(base.0),
            _ => None,
        };
        files.iter().filter_map(base).collect()
    }

    fn segment(&self, number: usize, suffix: &str) -> PathBuf {
        self.path(&format!("{:020}{suffix}", self.bases()[number]))
    }

    /// The only problem there is.
    fn only(&self) -> Problem {
        let (_, problems, _) = self.check();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.into_iter().next().expect("one")
    }

    /// What the start itself does, to hold the prediction against.
    fn opened(&self, recovery_point: i64) -> odradek_broker_storage::Log {
        let recovery = Recovery {
            recovery_point: Offset(recovery_point),
            log_start: Offset::ZERO,
            clean: self.clean,
            cleaned_to: None,
        };
        self.home.open(&config(), recovery)
    }
}

fn check(path: &Path) -> (verify::Checked, Vec<Problem>, usize) {
    let (mut problems, mut notes) = (Vec::new(), 0);
    let before = contents(path);
    let mut sink = |finding| match finding {
        Finding::Problem(problem) => problems.push(problem),
        Finding::Note { .. } => notes += 1,
    };
    let checked = verify::log_dir(&RealFs, path, Options { records: true }, &mut sink).expect("readable");
    assert_eq!(contents(path), before, "nothing is written");
    (checked, problems, notes)
}

fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(path).expect("listed") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => out.extend(contents(&path)),
            false => out.push((path.clone(), std::fs::read(&path).expect("read"))),
        }
    }
    out.sort();
    out
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("there");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("written");
}

/// The place of the batch with this number in a segment's file.
fn position(path: &Path, number: usize) -> usize {
    let file = BatchFile::open(&RealFs, path).expect("opened");
    let found = file.batches(0).nth(number).expect("that many").expect("sound");
    found.position as usize
}

#[test]
fn a_sound_directory_has_no_problem() {
    for clean in [true, false] {
        let dir = Dir::new(clean);
        let (checked, problems, notes) = dir.check();
        assert_eq!(problems, [], "clean: {clean}");
        assert_eq!(notes, usize::from(!clean), "a shutdown that was not clean is noted");
        assert_eq!((checked.directories, checked.partitions), (1, 1));
        assert_eq!(checked.segments as usize, dir.bases().len());
        assert_eq!((checked.batches, checked.records), (63, 126));
        assert!(checked.segments > 2 && checked.index_entries > 10 && checked.producer_snapshots > 0, "{checked:?}");
    }
}

#[test]
fn a_flipped_bit_of_a_batch_is_found_and_its_end_foretold() {
    for clean in [true, false] {
        let dir = Dir::new(clean);
        let path = dir.segment(1, ".log");
        let at = position(&path, 2);
        change(&path, |bytes| bytes[at + 80] ^= 1);
        let problem = dir.only();
        let offset = dir.bases()[1] + 4;
        assert_eq!(
            (problem.file.clone(), problem.position, problem.offset),
            (path, Some(at as u64), Some(Offset(offset)))
        );
        assert!(problem.what.contains("CRC"), "{}", problem.what);
        // The recovery point is the log's end: an earlier segment is not read, after a crash either.
        assert!(problem.at_next_start.contains("not looked at"), "{}", problem.at_next_start);
        std::fs::remove_file(dir.home.path.join("recovery-point-offset-checkpoint")).expect("removed");
        let problem = dir.only();
        let log = dir.opened(0);
        if clean {
            assert!(problem.at_next_start.contains("not looked at"), "{}", problem.at_next_start);
            assert_eq!(log.recovery().damage, None);
        } else {
            assert!(problem.at_next_start.contains(&format!("cut at offset {offset}")), "{}", problem.at_next_start);
            let damage = log.recovery().damage.clone().expect("found by the start, too");
            assert_eq!((damage.offset, damage.position), (Offset(offset), at as u64));
            assert!(
                problem.at_next_start.contains(&format!("{} later segments", damage.segments_dropped)),
                "{problem:?}"
            );
        }
    }
}

#[test]
fn a_tail_that_is_cut_off_is_found() {
    let dir = Dir::new(false);
    let last = dir.bases().len() - 1;
    let path = dir.segment(last, ".log");
    change(&path, |bytes| bytes.truncate(bytes.len() - 3));
    let (_, problems, _) = dir.check();
    let torn = problems.iter().find(|problem| problem.file == path).expect("the log file");
    let end = dir.opened(0).log_end();
    assert!(torn.at_next_start.contains(&format!("cut at offset {end}")), "{torn:?}");
    // And that the checkpoints lie behind what is left of the log.
    let names: Vec<_> = problems.iter().filter_map(|problem| problem.file.file_name()?.to_str()).collect();
    for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn a_segment_that_is_missing_leaves_a_hole() {
    let dir = Dir::new(true);
    let [first, second, third] = dir.bases()[..3] else { panic!("three segments") };
    assert!(first < second);
    std::fs::remove_file(dir.segment(1, ".log")).expect("removed");
    let (_, problems, _) = dir.check();
    let hole = problems.iter().find(|problem| problem.what.contains("are missing before this segment")).expect("found");
    assert_eq!((hole.offset, &hole.file), (Some(Offset(second)), &dir.path(&format!("{third:020}.log"))));
    let orphan = |suffix: &str| dir.path(&format!("{second:020}{suffix}"));
    for suffix in [".index", ".timeindex"] {
        assert!(
            problems.iter().any(|problem| problem.file == orphan(suffix) && problem.at_next_start == "it is removed")
        );
    }
}

#[test]
fn indexes_of_other_segments_are_found_out() {
    for suffix in [".index", ".timeindex"] {
        let dir = Dir::new(true);
        let (one, other) = (dir.segment(0, suffix), dir.segment(1, suffix));
        let (a, b) = (std::fs::read(&one).expect("read"), std::fs::read(&other).expect("read"));
        assert_ne!(a, b, "{suffix}");
        std::fs::write(&one, &b).expect("written");
        let (_, problems, _) = dir.check();
        assert!(!problems.is_empty() && problems.iter().all(|problem| problem.file == one), "{suffix}: {problems:#?}");
    }
}

#[test]
fn damage_to_an_index_is_found_at_its_place() {
    for (suffix, bytes) in [(".index", 8), (".timeindex", 12)] {
        for clean in [true, false] {
            let dir = Dir::new(clean);
            let path = dir.segment(0, suffix);
            // The last byte of the second entry: the position there, the offset here.
            change(&path, |index| index[2 * bytes - 1] ^= 0x20);
            let (_, problems, _) = dir.check();
            assert!(problems.iter().all(|problem| problem.file == path), "{problems:#?}");
            assert!(problems.iter().any(|problem| problem.position == Some(bytes as u64)), "{suffix}: {problems:#?}");
        }
        let dir = Dir::new(true);
        let path = dir.segment(0, suffix);
        change(&path, |index| index.truncate(index.len() - 5));
        let (_, problems, _) = dir.check();
        assert!(
            problems.iter().any(|problem| problem.what.contains("bytes follow the last whole entry")),
            "{problems:#?}"
        );
        std::fs::remove_file(&path).expect("removed");
        let problem = dir.only();
        assert_eq!((problem.file, problem.at_next_start.as_str()), (path, "it is made anew"));
        assert!(dir.opened(0).recovery().indexes_rebuilt > 0);
    }
}

#[test]
fn what_is_kept_beside_the_segments_is_checked() {
    type Spoil = fn(&mut Vec<u8>);
    let spoil: [(&str, &str, Spoil); 6] = [
        ("topic-0/leader-epoch-checkpoint", "made anew", |bytes| bytes.truncate(bytes.len() - 2)),
        ("topic-0/leader-epoch-checkpoint", "used as it is", |bytes| *bytes = b"0\n2\n0 0\n1 120\n".to_vec()),
        ("topic-0/partition.metadata", "leaves the directory alone", |bytes| bytes.clear()),
        ("recovery-point-offset-checkpoint", "ignored", |bytes| bytes[0] = b'9'),
        ("log-start-offset-checkpoint", "empty from there on", |bytes| *bytes = b"0\n1\ntopic 0 900\n".to_vec()),
        ("meta.properties", "refuses the directory", |bytes| bytes.clear()),
    ];
    for (name, then, spoil) in spoil {
        let dir = Dir::new(true);
        let path = dir.home.path.join(name);
        change(&path, spoil);
        let (_, problems, _) = dir.check();
        assert!(!problems.is_empty(), "{name}");
        for problem in problems {
            assert_eq!(problem.file, path);
            assert!(problem.at_next_start.contains(then), "{name}: {problem:?}");
        }
    }
    let dir = Dir::new(true);
    let files = files::list(&RealFs, &dir.home.path.join("topic-0")).expect("listed");
    let snapshot = files.iter().rfind(|(_, kind)| matches!(kind, FileKind::ProducerSnapshot { .. })).expect("one");
    change(&snapshot.0, |bytes| bytes[9] ^= 1);
    let problem = dir.only();
    assert!(problem.file == snapshot.0 && problem.at_next_start.starts_with("it is not used"), "{problem:?}");
}

#[test]
fn an_aborted_transaction_without_its_marker_is_found() {
    let dir = Dir::new(true);
    let last = dir.bases().len() - 1;
    let path = dir.segment(last, ".txnindex");
    let index = files::read_txn_index(&RealFs, &path).expect("readable");
    assert_eq!(index.entries.len(), 1);
    // The low byte of its last offset.
    change(&path, |bytes| bytes[2 + 3 * 8 - 1] ^= 1);
    let problem = dir.only();
    assert!(problem.file == path && problem.what.contains("no abort marker"), "{problem:?}");
}

#[test]
fn whatever_the_bytes_are_a_check_ends() {
    let dir = Dir::new(false);
    let mut rng = SplitMix64::new(3);
    for (path, bytes) in contents(&dir.home.path) {
        for _ in 0..20 {
            let mut damaged = bytes.clone();
            for _ in 0..3 {
                use odradek_common::rng::Rng;
                let at = rng.next_u64() as usize % damaged.len().max(1);
                match damaged.get_mut(at) {
                    Some(byte) => *byte = rng.next_u64() as u8,
                    None => damaged.push(1),
                }
            }
            std::fs::write(&path, &damaged).expect("written");
            let _ = check(&dir.home.path);
        }
        std::fs::write(&path, &bytes).expect("restored");
    }
    assert_eq!(dir.check().1, []);
}

#[test]
fn a_partition_is_checked_by_itself_and_a_lock_is_seen() {
    let dir = Dir::new(true);
    let partition = dir.home.path.join("topic-0");
    assert!(verify::is_partition_dir(&RealFs, &partition).expect("looked at"));
    assert!(!verify::is_partition_dir(&RealFs, &dir.home.path).expect("looked at"));
    let mut problems = 0;
    let mut sink = |finding| problems += usize::from(matches!(finding, Finding::Problem(_)));
    let checked = verify::partition(&RealFs, &partition, Options::default(), &mut sink).expect("readable");
    assert_eq!((problems, checked.batches, checked.records), (0, 63, 126));
    assert!(!verify::is_in_use(&RealFs, &dir.home.path).expect("looked at"));
    let wanted =
        LogDirsConfig { dirs: vec![dir.home.path.clone()], node_id: BrokerId(1), cluster_id: None, open_files_max: 64 };
    let _held = LogDirs::open(dir.home.fs.clone(), &wanted, &mut SplitMix64::new(1)).expect("opened");
    assert!(verify::is_in_use(&RealFs, &dir.home.path).expect("looked at"));
}
