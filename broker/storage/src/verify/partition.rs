//! One partition's directory: the chain of its segments, and what is kept beside them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use odradek_common::Offset;

use super::segment::{Scanned, SegmentPlace};
use super::{Checkpoints, Problem, Verifier};
use crate::checkpoints::{HIGH_WATERMARKS, LOG_STARTS, PARTITION_METADATA, RECOVERY_POINTS, read_topic_id};
use crate::files::{self, FileKind};
use crate::leader_epochs::{EpochEntry, FILE as LEADER_EPOCHS};
use crate::log_dirs::parse_partition;
use crate::recovery::DELETED_SUFFIX;

/// What stays with the whole walk over a partition's segments.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Behind the last batch so far.
    pub end: i64,
    /// Of the last batch that has one.
    pub leader_epoch: i32,
    /// Records are missing inside of segments or batches, as compaction leaves it.
    pub compacted: bool,
    pub epochs: Option<Vec<EpochEntry>>,
}

/// What the start does with the segments of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub clean: bool,
    pub recovery_point: i64,
}

impl Verifier<'_> {
    pub(super) fn partition(&mut self, dir: &Path, checkpoints: &Checkpoints) -> io::Result<()> {
        self.checked.partitions += 1;
        let partition = dir.file_name().and_then(|name| name.to_str()).and_then(parse_partition);
        let known = |map: &std::collections::BTreeMap<_, Offset>| Some(map.get(partition.as_ref()?)?.0);
        let recovery_point = known(&checkpoints.recovery_points);
        let start = Start { clean: checkpoints.clean, recovery_point: recovery_point.unwrap_or(0) };
        if read_topic_id(self.fs, dir)?.is_none() {
            let what = "is missing, or has no topic id";
            let then = "the broker does not know whose records these are and leaves the directory alone";
            self.file_problem(&dir.join(PARTITION_METADATA), what, then);
        }
        let files = self.files(dir)?;
        let bases: Vec<i64> = files.iter().filter_map(|(_, kind)| log_base(kind)).collect();
        let mut chain = Chain { end: bases.first().copied().unwrap_or(0), leader_epoch: -1, ..Chain::default() };
        chain.epochs = self.epochs(dir)?;
        // The segment of the recovery point and all behind it are read at a start after a crash.
        let read_from = bases.partition_point(|base| *base <= start.recovery_point).saturating_sub(1);
        let mut holes = Vec::new();
        let mut last = None;
        for (index, base) in bases.iter().enumerate() {
            let place = SegmentPlace {
                dir,
                base: *base,
                next: bases.get(index + 1).copied(),
                is_read: !start.clean && index >= read_from,
                later: bases.len() - index - 1,
                clean: start.clean,
            };
            if index > 0 && *base > chain.end && !last.as_ref().is_some_and(|last: &Scanned| last.is_cut_short) {
                holes.push((index, chain.end, *base));
            }
            let scanned = self.segment(&place, &mut chain)?;
            last = Some(scanned);
        }
        self.holes(dir, &bases, &chain, &holes, start, read_from);
        let end = chain.end;
        if let Some(epochs) = &chain.epochs
            && let Some(beyond) = epochs.iter().find(|entry| entry.start.0 > end)
        {
            let what = format!("epoch {} begins at {}, behind the log's end {end}", beyond.epoch, beyond.start);
            self.file_problem(&dir.join(LEADER_EPOCHS), what, "the entries behind the end are dropped");
        }
        if chain.epochs.is_none() && chain.leader_epoch >= 0 && !self.fs.exists(&dir.join(LEADER_EPOCHS))? {
            self.file_problem(&dir.join(LEADER_EPOCHS), "is missing", "it is made anew from the batches");
        }
        self.snapshots(&files, end)?;
        let log_dir = dir.parent().unwrap_or(dir);
        let mut outside = |name: &str, what: &str, offset: Option<i64>, then: &str| {
            if let (Some(partition), Some(offset)) = (&partition, offset.filter(|offset| *offset > end)) {
                let what = format!("{what} of {partition} is {offset}, behind the log's end {end}: records were lost");
                self.problem(Problem {
                    file: log_dir.join(name),
                    position: None,
                    offset: Some(Offset(offset)),
                    what,
                    at_next_start: then.to_owned(),
                });
            }
        };
        outside(
            RECOVERY_POINTS,
            "the recovery point",
            recovery_point,
            "the log goes on from its end; a replica fetches what it lacks from the leader",
        );
        outside(
            HIGH_WATERMARKS,
            "the high watermark",
            known(&checkpoints.high_watermarks),
            "the high watermark is the log's end; a replica fetches what it lacks from the leader",
        );
        let empties = "all segments are dropped, and the log is empty from there on";
        outside(LOG_STARTS, "the log start", known(&checkpoints.log_starts), empties);
        Ok(())
    }

    /// The files of the partition that count; the others are noted.
    fn files(&mut self, dir: &Path) -> io::Result<Vec<(PathBuf, FileKind)>> {
        let mut out = Vec::new();
        let mut logs = BTreeSet::new();
        for entry in self.fs.read_dir(dir)?.into_iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            let leftover = [DELETED_SUFFIX, ".cleaned", ".swap", ".tmp"].iter().find(|end| entry.name.ends_with(**end));
            if let Some(leftover) = leftover {
                let what = match *leftover {
                    ".swap" => "is of a cleaning that was interrupted; the next start completes it",
                    _ => "was being written or deleted when the broker ended; the next start removes it",
                };
                self.note(&path, what.to_owned());
            } else if let Some(kind) = FileKind::of(&path) {
                logs.extend(log_base(&kind));
                out.push((path, kind));
            } else {
                self.note(&path, "is no file of a log".to_owned());
            }
        }
        for (path, kind) in &out {
            let base = match kind {
                FileKind::OffsetIndex { base } | FileKind::TimeIndex { base } | FileKind::TxnIndex { base } => base,
                _ => continue,
            };
            if !logs.contains(&base.0) {
                self.file_problem(path, "is the index of a segment whose .log is missing", "it is removed");
            }
        }
        Ok(out)
    }

    fn epochs(&mut self, dir: &Path) -> io::Result<Option<Vec<EpochEntry>>> {
        let path = dir.join(LEADER_EPOCHS);
        match files::read_leader_epochs(self.fs, &path) {
            Ok(epochs) => Ok(Some(epochs)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.file_problem(&path, error.to_string(), "it is made anew from the batches");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Records that are missing between two segments. Of a log that is compacted nothing can be said.
    fn holes(
        &mut self,
        dir: &Path,
        bases: &[i64],
        chain: &Chain,
        holes: &[(usize, i64, i64)],
        start: Start,
        read_from: usize,
    ) {
        if chain.compacted {
            self.note(dir, "has records missing inside of its segments, as compaction leaves it".to_owned());
            return;
        }
        for (index, end, base) in holes {
            let is_read = !start.clean && *index > read_from;
            let at_next_start = match is_read {
                true => format!(
                    "the log is cut at offset {end}, and {} later segments are dropped, unless the topic is compacted",
                    bases.len() - index
                ),
                false => "it is not noticed; consumers go on behind the hole".to_owned(),
            };
            self.problem(Problem {
                file: dir.join(format!("{base:020}.log")),
                position: Some(0),
                offset: Some(Offset(*end)),
                what: format!("the records from offset {end} to {base} are missing before this segment"),
                at_next_start,
            });
        }
    }

    fn snapshots(&mut self, files: &[(PathBuf, FileKind)], end: i64) -> io::Result<()> {
        for (path, kind) in files {
            let FileKind::ProducerSnapshot { offset } = kind else { continue };
            self.checked.producer_snapshots += 1;
            match files::read_producer_snapshot(self.fs, path) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let then =
                        "it is not used: the producers are taken from an older snapshot and the batches behind it";
                    self.file_problem(path, error.to_string(), then);
                }
                Err(error) => return Err(error),
                Ok(_) if offset.0 > end => {
                    let what = format!("is of offset {offset}, behind the log's end {end}");
                    self.file_problem(path, what, "it is removed");
                }
                Ok(producers) => {
                    let of = |producer: &&files::SnapshotProducer| {
                        producer.batches.iter().any(|batch| batch.last_offset >= *offset)
                    };
                    if let Some(producer) = producers.iter().find(of) {
                        let id = producer.producer_id;
                        let what = format!("producer {id} has a batch at or behind the snapshot's own offset {offset}");
                        let then = "it is used as it is, and may refuse that producer; remove the file while the broker \
                                    is stopped, and the state is rebuilt";
                        self.file_problem(path, what, then);
                    }
                }
            }
        }
        Ok(())
    }
}

fn log_base(kind: &FileKind) -> Option<i64> {
    match kind {
        FileKind::Log { base } => Some(base.0),
        _ => None,
    }
}
