//! Checks the files of log directories that no broker uses, and says what the next start would make of what is wrong.
//!
//! 1. A directory: whose it is, and whether its checkpoints can be read and lie within the logs.
//! 2. A partition ([`partition`]): its leader epochs, producer snapshots, and the chain of its segments.
//! 3. A segment ([`segment`]): every batch with its checksum, and each entry of its indexes against the batches.
//!
//! Everything is read by the log's own readers and nothing is written. What is wrong is a [`Problem`]; what is only worth
//! knowing, as that the last process was killed, is a [`Finding::Note`]. What the start does stands in
//! [`crate::recovery`]; this module must say the same.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

mod partition;
mod segment;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use odradek_common::fs::Fs;
use odradek_common::meta_properties::{FILE_NAME as META_PROPERTIES, MetaProperties};
use odradek_common::{Offset, TopicPartition};

use crate::checkpoints::{self, CLEAN_SHUTDOWN, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use crate::log::FUTURE_SUFFIX;
use crate::log_dirs::{DELETE_SUFFIX, LOCK, STRAY_SUFFIX, is_kafkas_metadata, parse_partition};

/// Problems of one kind in one file that are told one by one. A wrong index has as many as it has entries.
const TOLD_MAX: usize = 10;

/// Something that is not as it was written, or does not fit the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// In bytes, where it is about a place in the file.
    pub position: Option<u64>,
    pub offset: Option<Offset>,
    pub what: String,
    /// What becomes of it when a broker starts on the directory as it is.
    pub at_next_start: String,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Problem(Problem),
    /// Not wrong, but not what one would expect everywhere.
    Note {
        file: PathBuf,
        what: String,
    },
}

/// How much to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Decompress every batch and look at its records.
    pub records: bool,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub directories: u64,
    pub partitions: u64,
    pub segments: u64,
    pub batches: u64,
    /// By the heads of the batches, or by themselves if [`Options::records`] asks for it.
    pub records: u64,
    /// Of batches.
    pub bytes: u64,
    pub index_entries: u64,
    pub producer_snapshots: u64,
    pub problems: u64,
}

/// Whether a process, Odradek's or Kafka's, uses this log directory.
pub fn is_in_use(fs: &dyn Fs, dir: &Path) -> io::Result<bool> {
    fs.is_locked(&dir.join(LOCK))
}

/// Whether this is a partition's directory, and not one of `log.dirs`.
pub fn is_partition_dir(fs: &dyn Fs, dir: &Path) -> io::Result<bool> {
    let is_named_so = dir.file_name().and_then(|name| name.to_str()).and_then(parse_partition).is_some();
    Ok(is_named_so && !fs.exists(&dir.join(META_PROPERTIES))?)
}

/// Checks one of `log.dirs`, with all partitions in it.
///
/// # Errors
/// When a file or directory cannot be read.
pub fn log_dir(fs: &dyn Fs, dir: &Path, options: Options, sink: &mut dyn FnMut(Finding)) -> io::Result<Checked> {
    let mut verifier = Verifier { fs, options, checked: Checked::default(), sink };
    verifier.log_dir(dir)?;
    Ok(verifier.checked)
}

/// Checks the directory of one partition, with what the checkpoints of the directory around it say.
///
/// # Errors
/// When a file or directory cannot be read.
pub fn partition(fs: &dyn Fs, dir: &Path, options: Options, sink: &mut dyn FnMut(Finding)) -> io::Result<Checked> {
    let mut verifier = Verifier { fs, options, checked: Checked::default(), sink };
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let standing = match fs.exists(&parent.join(META_PROPERTIES))? {
        true => verifier.checkpoints(parent)?,
        false => {
            verifier
                .note(dir, "stands apart from a log directory: there are no checkpoints to compare with".to_owned());
            Checkpoints::default()
        }
    };
    verifier.partition(dir, &standing)?;
    Ok(verifier.checked)
}

/// What a log directory says of its logs.
#[derive(Debug, Default)]
struct Checkpoints {
    clean: bool,
    recovery_points: BTreeMap<TopicPartition, Offset>,
    high_watermarks: BTreeMap<TopicPartition, Offset>,
    log_starts: BTreeMap<TopicPartition, Offset>,
}

struct Verifier<'a> {
    fs: &'a dyn Fs,
    options: Options,
    checked: Checked,
    sink: &'a mut dyn FnMut(Finding),
}

impl Verifier<'_> {
    fn note(&mut self, file: &Path, what: String) {
        (self.sink)(Finding::Note { file: file.to_owned(), what });
    }

    fn problem(&mut self, problem: Problem) {
        self.checked.problems += 1;
        (self.sink)(Finding::Problem(problem));
    }

    /// A problem of a file as a whole.
    fn file_problem(&mut self, file: &Path, what: impl Into<String>, at_next_start: &str) {
        let (what, at_next_start) = (what.into(), at_next_start.to_owned());
        self.problem(Problem { file: file.to_owned(), position: None, offset: None, what, at_next_start });
    }

    fn log_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.checked.directories += 1;
        let meta = dir.join(META_PROPERTIES);
        match MetaProperties::read(self.fs, dir) {
            Ok(Some(_)) => {}
            Ok(None) => self.file_problem(&meta, "is missing", "the broker refuses the directory"),
            // The error names the file already.
            Err(error) => {
                let what = error.to_string();
                let prefix = format!("{}: ", meta.display());
                let what = what.strip_prefix(&prefix).unwrap_or(&what).to_owned();
                self.file_problem(&meta, what, "the broker refuses the directory");
            }
        }
        let checkpoints = self.checkpoints(dir)?;
        let mut found = Vec::new();
        for entry in self.fs.read_dir(dir)?.into_iter().filter(|entry| entry.is_dir) {
            let path = dir.join(&entry.name);
            if entry.name.ends_with(DELETE_SUFFIX) && entry.name.contains('.') {
                self.note(&path, "is a deleted partition's; the next start removes it".to_owned());
            } else if entry.name.ends_with(STRAY_SUFFIX) || entry.name.ends_with(FUTURE_SUFFIX) {
                self.note(&path, "is left alone by a broker, and was not checked".to_owned());
            } else if is_kafkas_metadata(&entry.name) {
                self.note(
                    &path,
                    "is the metadata of a Kafka cluster; brokers leave it alone, and it was not checked".to_owned(),
                );
            } else if let Some(partition) = parse_partition(&entry.name) {
                self.partition(&path, &checkpoints)?;
                found.push(partition);
            }
        }
        for partition in checkpoints.recovery_points.keys().filter(|partition| !found.contains(partition)) {
            let what = format!("names {partition}, which has no directory here");
            self.note(&dir.join(RECOVERY_POINTS), what);
        }
        Ok(())
    }

    fn checkpoints(&mut self, dir: &Path) -> io::Result<Checkpoints> {
        let clean = checkpoints::read_clean_shutdown(self.fs, dir)?.is_some();
        if !clean {
            let what = "is missing: the last broker here was killed, or never ran; the next start reads every log from \
                        its recovery point on";
            self.note(&dir.join(CLEAN_SHUTDOWN), what.to_owned());
        }
        Ok(Checkpoints {
            clean,
            recovery_points: self.offsets(
                &dir.join(RECOVERY_POINTS),
                "every log is read from its start, unless the shutdown was clean",
            )?,
            high_watermarks: self
                .offsets(&dir.join(HIGH_WATERMARKS), "high watermarks begin at 0 and are learnt anew")?,
            log_starts: self
                .offsets(&dir.join(LOG_STARTS), "deleted records that share a segment with others come back")?,
        })
    }

    fn offsets(&mut self, path: &Path, without: &str) -> io::Result<BTreeMap<TopicPartition, Offset>> {
        match checkpoints::read_offsets(self.fs, path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let what = error.to_string();
                let prefix = format!("{} is damaged: ", path.display());
                let what = what.strip_prefix(&prefix).unwrap_or(&what).to_owned();
                self.file_problem(path, what, &format!("it is ignored: {without}"));
                Ok(BTreeMap::new())
            }
            result => result,
        }
    }
}

/// Tells the first few of many problems alike, and counts the rest.
#[derive(Debug, Default)]
struct Told(usize);

impl Told {
    fn may_tell(&mut self) -> bool {
        self.0 += 1;
        self.0 <= TOLD_MAX
    }

    fn untold(&self) -> usize {
        self.0.saturating_sub(TOLD_MAX)
    }
}
