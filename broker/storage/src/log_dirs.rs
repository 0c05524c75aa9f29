//! A broker's `log.dirs`: whose they are, who may use them, what was written down about each partition, and where a new
//! partition goes.
//!
//! A directory that cannot be used costs its partitions, not the broker, as long as another one can. A directory of
//! another cluster or node, or of a newer version, refuses the start. Kafka's `LogManager`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use odradek_common::fs::{DiskSpace, Fs, write_file_atomically};
use odradek_common::meta_properties::{FILE_NAME as META_PROPERTIES, MetaProperties, MetaPropertiesError, format_all};
use odradek_common::rng::Rng;
use odradek_common::{BrokerId, Offset, TopicId, TopicPartition, Uuid, time::Timestamp};

use crate::checkpoints::{self, CLEANED_TO, HIGH_WATERMARKS, LOG_STARTS, RECOVERY_POINTS};
use crate::config::{LogConfig, ProducerStateConfig};
use crate::dir::LogDir;
use crate::error::{LogError, StorageError};
use crate::log::{Log, LogLocation, moving};
use crate::log_file::OpenFiles;
use crate::recovery::Recovery;

/// Where a node of Kafka keeps the log and the snapshots of its metadata.
pub const KAFKAS_METADATA_DIR: &str = "__cluster_metadata-0";
/// Locked by the process that uses the directory; Kafka has the same.
pub const LOCK: &str = ".lock";
pub(crate) const DELETE_SUFFIX: &str = "-delete";
pub(crate) const STRAY_SUFFIX: &str = "-stray";

/// A log directory is not this broker's. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Of another cluster, another node, a newer version, damaged, or not formatted.
    #[error(transparent)]
    MetaProperties(#[from] MetaPropertiesError),
    #[error("{}: there are logs but no {META_PROPERTIES}: restore the file, or move the logs away and format the directory", dir.display())]
    Unidentified { dir: PathBuf },
    #[error("{}: another process holds the lock {LOCK} of this directory", dir.display())]
    InUse { dir: PathBuf },
    #[error("log.dirs names {} twice", dir.display())]
    Twice { dir: PathBuf },
    #[error("no log directory can be used; the first failure: {0}")]
    NoneUsable(DirFailure),
}

/// A directory that cannot be used; the others are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log directory {}: {message}", dir.display())]
pub struct DirFailure {
    pub dir: PathBuf,
    pub message: String,
}

/// Makes a directory this node's, as `odradek storage format` does. Refuses one that is formatted already.
pub fn format_directory(
    fs: &dyn Fs,
    dir: &Path,
    cluster_id: &str,
    node_id: BrokerId,
    rng: &mut dyn Rng,
) -> Result<(), MetaPropertiesError> {
    format_all(fs, &[dir.to_owned()], cluster_id, node_id.0, false, rng).map(drop)
}

/// Kafka reserves the ids below 100 (KIP-858).
fn new_directory_id(rng: &mut dyn Rng) -> Uuid {
    Uuid::from_random(rng.bytes16())
}

/// What a broker knows of its directories before it opens them.
#[derive(Clone, Debug)]
pub struct LogDirsConfig {
    /// `log.dirs`
    pub dirs: Vec<PathBuf>,
    pub node_id: BrokerId,
    /// When the broker has been told; else the directories say.
    pub cluster_id: Option<String>,
    /// Files that logs may have open, all together.
    pub open_files_max: usize,
}

/// What the checkpoints say of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    pub partition: TopicPartition,
    pub recovery_point: Offset,
    pub high_watermark: Offset,
    /// Only when it lies behind the first segment's base offset.
    pub log_start: Option<Offset>,
    /// Only when it was compacted.
    pub cleaned_to: Option<Offset>,
}

/// As [`PartitionCheckpoint`], without the partition's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckpointOffsets {
    pub recovery_point: Offset,
    pub high_watermark: Offset,
    pub log_start: Option<Offset>,
    pub cleaned_to: Option<Offset>,
}

impl PartitionCheckpoint {
    pub fn of(partition: TopicPartition, offsets: CheckpointOffsets) -> Self {
        let CheckpointOffsets { recovery_point, high_watermark, log_start, cleaned_to } = offsets;
        Self { partition, recovery_point, high_watermark, log_start, cleaned_to }
    }
}

/// One usable directory.
struct Slot {
    dir: Arc<LogDir>,
    /// Logs in it, for placement.
    logs: AtomicUsize,
    clean: bool,
    /// From the marker of a clean shutdown (KIP-966).
    previous_broker_epoch: Option<i64>,
    /// Held as long as the directories are open.
    _lock: Box<dyn Send + Sync>,
}

/// A partition directory that was found and is to be opened.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    pub location: LogLocation,
    /// `None`: the directory has no (sound) `partition.metadata`.
    pub topic_id: Option<TopicId>,
    pub recovery: Recovery,
    pub high_watermark: Offset,
}

/// A directory that an unfinished move has left.
#[derive(Clone, Debug)]
pub struct FoundFuture {
    pub dir: Arc<LogDir>,
    pub path: PathBuf,
    /// As far as the name tells: a very long one is cut off in it.
    pub partition: TopicPartition,
}

/// What opening all partitions came to.
#[derive(Debug, Default)]
pub struct LoadReport {
    pub logs: Vec<Log>,
    /// Partitions that could not be opened; the others serve.
    pub failed: Vec<(TopicPartition, LogError)>,
}

/// The directories, locked and checked.
pub struct LogDirs {
    fs: Arc<dyn Fs>,
    slots: Vec<Slot>,
    cluster_id: String,
    failures: Vec<DirFailure>,
    /// Held while a directory is chosen and its new log counted.
    placing: Mutex<()>,
    /// A log was found without records that it had.
    has_lost: AtomicBool,
}

impl fmt::Debug for LogDirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogDirs").field("dirs", &self.dirs().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl LogDirs {
    /// Checks whose the directories are and takes their locks. Directories that are empty beside formatted ones are
    /// formatted on the way, as Kafka does.
    pub fn open(fs: Arc<dyn Fs>, config: &LogDirsConfig, rng: &mut dyn Rng) -> Result<Self, IdentityError> {
        let mut metas = Vec::new();
        let mut failures = Vec::new();
        for (index, dir) in config.dirs.iter().enumerate() {
            if config.dirs[..index].contains(dir) {
                return Err(IdentityError::Twice { dir: dir.clone() });
            }
            match MetaProperties::read(&*fs, dir) {
                Ok(meta) => metas.push((dir.clone(), meta)),
                Err(MetaPropertiesError::Io { source, .. }) => {
                    let failure = DirFailure { dir: dir.clone(), message: source.to_string() };
                    tracing::error!("{failure}");
                    failures.push(failure);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let known = metas.iter().find_map(|(_, meta)| meta.as_ref()).cloned();
        let Some(known) = known else {
            return Err(match (metas.into_iter().next(), failures.into_iter().next()) {
                (Some((dir, _)), _) => MetaPropertiesError::NotFormatted { dir }.into(),
                (None, Some(failure)) => IdentityError::NoneUsable(failure),
                (None, None) => MetaPropertiesError::NotFormatted { dir: PathBuf::new() }.into(),
            });
        };
        let cluster_id = config.cluster_id.clone().unwrap_or(known.cluster_id);
        for (dir, meta) in metas.iter().filter_map(|(dir, meta)| Some((dir, meta.as_ref()?))) {
            meta.check(dir, config.node_id.0, Some(&cluster_id))?;
        }
        let mut slots = Vec::new();
        let files = OpenFiles::new(config.open_files_max);
        for (dir, meta) in metas {
            let meta = meta.unwrap_or(MetaProperties {
                cluster_id: cluster_id.clone(),
                node_id: config.node_id.0,
                directory_id: None,
            });
            match open_slot(&*fs, &dir, meta, &files, rng) {
                Ok(slot) => slots.push(slot),
                Err(SlotError::Fatal(error)) => return Err(error),
                Err(SlotError::Io(error)) => {
                    let failure = DirFailure { dir, message: error.to_string() };
                    tracing::error!("{failure}");
                    failures.push(failure);
                }
            }
        }
        match (slots.is_empty(), failures.first()) {
            (true, Some(first)) => Err(IdentityError::NoneUsable(first.clone())),
            _ => Ok(Self {
                fs,
                slots,
                cluster_id,
                failures,
                placing: Mutex::default(),
                has_lost: AtomicBool::new(false),
            }),
        }
    }

    /// Bytes that recoveries have read and checked.
    pub fn scanned_bytes(&self) -> u64 {
        self.dirs().map(|dir| dir.scanned_bytes()).sum()
    }

    /// What logs have open.
    pub fn open_files(&self) -> Option<&Arc<OpenFiles>> {
        self.dirs().next().map(|dir| dir.open_files())
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Every directory that could be opened, those that went offline since included.
    pub fn dirs(&self) -> impl Iterator<Item = &Arc<LogDir>> {
        self.slots.iter().map(|slot| &slot.dir)
    }

    /// The directories that can be used, for registrations and heartbeats (KIP-858).
    pub fn online(&self) -> impl Iterator<Item = &Arc<LogDir>> {
        self.dirs().filter(|dir| dir.failure().is_none())
    }

    /// Directories that could not be opened at the start.
    pub fn failures(&self) -> &[DirFailure] {
        &self.failures
    }

    /// Whether logs may be in a directory that cannot be looked into.
    pub fn has_failed(&self) -> bool {
        !self.failures.is_empty() || self.dirs().any(|dir| dir.failure().is_some())
    }

    /// The directory of this id, if it can be used.
    pub fn online_dir(&self, id: Uuid) -> Option<&Arc<LogDir>> {
        self.online().find(|dir| dir.id == id)
    }

    /// Takes a directory offline that is not what it was: removed, replaced by another, unmounted, or on a disk that
    /// does not answer. A directory in which only nothing is written would go on as if nothing had happened.
    pub fn check_presence(&self, dir: &LogDir) -> Result<(), StorageError> {
        dir.check()?;
        let path = || dir.path.join(META_PROPERTIES);
        if dir.guard("looking at", path, self.fs.exists(&path()))? {
            return Ok(());
        }
        let gone =
            std::io::Error::new(std::io::ErrorKind::NotFound, "the directory was removed, replaced or unmounted");
        Err(dir.fail("looking at", path(), &gone))
    }

    /// The room of a directory's file system.
    pub fn space(&self, dir: &LogDir) -> Result<DiskSpace, StorageError> {
        dir.check()?;
        dir.guard("looking at", || dir.path.clone(), self.fs.space(&dir.path))
    }

    /// Takes down that a log was found without records that it had: whoever counts on this broker's replicas has to be
    /// told that it did not come back as it went, whatever the marks of its directories say.
    pub fn note_loss(&self) {
        self.has_lost.store(true, Ordering::Release);
    }

    pub fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Acquire)
    }

    /// The broker epoch of the last run when it shut down cleanly in every directory and all records are still there, for the
    /// registration (KIP-966). Ask when the logs are open.
    pub fn previous_broker_epoch(&self) -> Option<i64> {
        if self.has_lost() {
            return None;
        }
        let mut epochs = self.slots.iter().map(|slot| slot.previous_broker_epoch.filter(|_| slot.clean));
        let first = epochs.next()??;
        epochs.all(|epoch| epoch == Some(first)).then_some(first)
    }

    /// Whether every directory was shut down cleanly.
    pub fn was_clean(&self) -> bool {
        self.slots.iter().all(|slot| slot.clean)
    }

    /// The partitions that the directories hold. Directories of deleted partitions are removed on the way. A damaged
    /// checkpoint costs time (everything is scanned) and not data.
    pub fn partitions(&self) -> Vec<LoadRequest> {
        let mut requests = Vec::new();
        for slot in &self.slots {
            match self.partitions_of(slot) {
                Ok(found) => {
                    slot.logs.store(found.len(), Ordering::Relaxed);
                    requests.extend(found);
                }
                Err(error) => drop(slot.dir.fail("listing", slot.dir.path.clone(), &error)),
            }
        }
        self.finish_moves(requests)
    }

    /// A crash between the two renames of a move leaves a partition in two directories: the one that was moved to says
    /// so in a mark, and the other's copy goes.
    fn finish_moves(&self, requests: Vec<LoadRequest>) -> Vec<LoadRequest> {
        let mut kept: Vec<LoadRequest> = Vec::with_capacity(requests.len());
        let mut places: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        let moved_from = |request: &LoadRequest| moving::read_mark(&*self.fs, &request.location.dir());
        for request in requests {
            let Some(other) = places.get(&request.location.partition).and_then(|index| kept.get_mut(*index)) else {
                places.insert(request.location.partition.clone(), kept.len());
                kept.push(request);
                continue;
            };
            let is_newer = moved_from(&request) == Some(other.location.log_dir.id);
            if !is_newer && moved_from(&*other) != Some(request.location.log_dir.id) {
                let (first, second) = (other.location.dir(), request.location.dir());
                tracing::error!(
                    "{} and {} are the same partition, and neither says that it replaces the other; going on with the \
                     first: move the one that is not to be used out of its log directory",
                    first.display(),
                    second.display()
                );
                continue;
            }
            let old = if is_newer { std::mem::replace(other, request) } else { request };
            let (path, dir) = (old.location.dir(), &old.location.log_dir);
            tracing::info!("removing {}, which was moved to another log directory", path.display());
            let removed = self.fs.remove_dir_all(&path).and_then(|()| self.fs.sync_dir(&dir.path));
            let _ = dir.guard("removing", || path.clone(), removed);
            self.count(dir, -1);
        }
        for request in &kept {
            moving::remove_mark(&*self.fs, &request.location);
        }
        kept
    }

    /// Copies that were on their way into another directory when the last process ended.
    pub fn future_logs(&self) -> Vec<FoundFuture> {
        let mut found = Vec::new();
        for dir in self.online() {
            let listed = dir.guard("listing", || dir.path.clone(), self.fs.read_dir(&dir.path));
            for entry in listed.unwrap_or_default() {
                if let Some(partition) = moving::parse_future(&entry.name).filter(|_| entry.is_dir) {
                    found.push(FoundFuture { dir: dir.clone(), path: dir.path.join(&entry.name), partition });
                }
            }
        }
        found
    }

    fn partitions_of(&self, slot: &Slot) -> std::io::Result<Vec<LoadRequest>> {
        let dir = &slot.dir.path;
        let read = |name: &str| match checkpoints::read_offsets(&*self.fs, &dir.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                tracing::error!("{error}; going on without it");
                Ok(BTreeMap::new())
            }
            result => result,
        };
        let (recovery_points, high_watermarks, log_starts, cleaned_to) =
            (read(RECOVERY_POINTS)?, read(HIGH_WATERMARKS)?, read(LOG_STARTS)?, read(CLEANED_TO)?);
        let mut requests = Vec::new();
        for entry in self.fs.read_dir(dir)?.into_iter().filter(|entry| entry.is_dir) {
            let path = dir.join(&entry.name);
            if entry.name.ends_with(DELETE_SUFFIX) && entry.name.contains('.') {
                self.fs.remove_dir_all(&path)?;
                continue;
            }
            if moving::parse_future(&entry.name).is_some() {
                continue;
            }
            if entry.name.ends_with(STRAY_SUFFIX) {
                tracing::warn!("leaving {} alone", path.display());
                continue;
            }
            if is_kafkas_metadata(&entry.name) {
                continue;
            }
            let Some(partition) = parse_partition(&entry.name) else {
                if !entry.name.starts_with('.') && entry.name != "lost+found" {
                    tracing::warn!("{} is not a partition's directory: leaving it alone", path.display());
                }
                continue;
            };
            let offset = |map: &BTreeMap<TopicPartition, Offset>| map.get(&partition).copied().unwrap_or_default();
            requests.push(LoadRequest {
                topic_id: checkpoints::read_topic_id(&*self.fs, &path)?,
                recovery: Recovery {
                    recovery_point: offset(&recovery_points),
                    log_start: offset(&log_starts),
                    clean: slot.clean,
                    cleaned_to: cleaned_to.get(&partition).copied(),
                },
                high_watermark: offset(&high_watermarks),
                location: LogLocation { fs: self.fs.clone(), log_dir: slot.dir.clone(), partition },
            });
        }
        Ok(requests)
    }

    /// Opens one partition that was found, with the topic id it is known by.
    ///
    /// When all are open, write the recovery points before anything is appended: a log may have been cut below the one
    /// on disk, and a later crash would otherwise trust what was written since.
    pub fn load(
        request: LoadRequest,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        now: Timestamp,
    ) -> Result<Log, LogError> {
        let LoadRequest { location, recovery, .. } = request;
        let found = request.topic_id;
        let mut log = Log::open_in(location.dir(), location, topic_id, found, config, producers, recovery, now)?;
        log.set_high_watermark(request.high_watermark);
        Ok(log)
    }

    /// Opens all partitions, one after another. A shell with a disk pool maps [`LogDirs::load`] over
    /// [`LogDirs::partitions`] itself. A directory without a topic id is left out, with a warning.
    pub fn load_all(
        &self,
        config: impl Fn(&TopicPartition, TopicId) -> Arc<LogConfig>,
        producers: ProducerStateConfig,
        now: Timestamp,
    ) -> LoadReport {
        let mut report = LoadReport::default();
        for request in self.partitions() {
            let partition = request.location.partition.clone();
            let Some(topic_id) = request.topic_id else {
                tracing::warn!("{} has no topic id: leaving it alone", request.location.dir().display());
                continue;
            };
            match Self::load(request, topic_id, config(&partition, topic_id), producers, now) {
                Ok(log) => report.logs.push(log),
                Err(error) => report.failed.push((partition, error)),
            }
        }
        for dir in self.online() {
            let of_dir = report.logs.iter().filter(|log| log.log_dir().id == dir.id);
            // A failure takes the directory offline, which whoever appends learns.
            let _ = self.write_recovery_points(dir, &of_dir.map(Log::checkpoint).collect::<Vec<_>>());
        }
        report
    }

    /// Where a new partition goes: the usable directory with the fewest logs, one that is full last. It counts as there
    /// from now on.
    fn place(&self, wanted: Option<Uuid>) -> Option<Arc<LogDir>> {
        let _one_at_a_time = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = || self.slots.iter().filter(|slot| slot.dir.failure().is_none());
        let named = wanted.and_then(|id| usable().find(|slot| slot.dir.id == id));
        let slot =
            named.or_else(|| usable().min_by_key(|slot| (slot.dir.room(), slot.logs.load(Ordering::Relaxed))))?;
        slot.logs.fetch_add(1, Ordering::Relaxed);
        Some(slot.dir.clone())
    }

    /// Makes a partition's log, in the directory of this id or, without one or when that cannot be used, in the usable
    /// directory with the fewest logs. `None`: no directory is usable.
    pub fn create(
        &self,
        partition: TopicPartition,
        topic_id: TopicId,
        dir: Option<Uuid>,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        now: Timestamp,
    ) -> Option<Result<Log, LogError>> {
        let log_dir = self.place(dir)?;
        let location = LogLocation { fs: self.fs.clone(), log_dir: log_dir.clone(), partition };
        // One that is there already was not found by `partitions`, so nothing is known of it.
        let exists = log_dir.guard("opening", || location.dir(), self.fs.exists(&location.dir()));
        let log = exists.map_err(LogError::from).and_then(|exists| {
            let recovery = Recovery { clean: !exists, ..Recovery::NEW };
            Log::open(location, topic_id, config, producers, recovery, now)
        });
        if log.is_err() {
            self.count(&log_dir, -1);
        }
        Some(log)
    }

    /// Makes a copy's log in a directory, or opens the one that is there: a replica is moved to it. It counts as one of
    /// the directory's until [`LogDirs::on_deleted`].
    pub fn open_future(
        &self,
        location: LogLocation,
        path: PathBuf,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        producers: ProducerStateConfig,
        now: Timestamp,
    ) -> Result<Log, LogError> {
        let log_dir = location.log_dir.clone();
        let exists = log_dir.guard("opening", || path.clone(), self.fs.exists(&path))?;
        // Nothing is known of what the last process had synced.
        let recovery = Recovery { clean: !exists, ..Recovery::NEW };
        let log = Log::open_in(path, location, topic_id, None, config, producers, recovery, now)?;
        self.count(&log_dir, 1);
        Ok(log)
    }

    /// Removes a copy that is of no use any more.
    pub fn remove_future(&self, found: &FoundFuture) {
        tracing::info!("removing {}, which is not needed", found.path.display());
        let _ = found.dir.guard("removing", || found.path.clone(), self.fs.remove_dir_all(&found.path));
    }

    /// A log of this directory was deleted.
    pub fn on_deleted(&self, dir: &LogDir) {
        self.count(dir, -1);
    }

    fn count(&self, dir: &LogDir, change: isize) {
        if let Some(slot) = self.slots.iter().find(|slot| slot.dir.id == dir.id) {
            slot.logs.fetch_add(change as usize, Ordering::Relaxed);
        }
    }

    /// Writes the three checkpoints of a directory from all of its logs.
    pub fn write_checkpoints(&self, dir: &LogDir, logs: &[PartitionCheckpoint]) -> Result<(), StorageError> {
        self.write_checkpoint(dir, RECOVERY_POINTS, logs, |log| Some(log.recovery_point))?;
        self.write_checkpoint(dir, HIGH_WATERMARKS, logs, |log| Some(log.high_watermark))?;
        self.write_checkpoint(dir, LOG_STARTS, logs, |log| log.log_start)
    }

    /// Writes only the recovery points, as a truncation needs it.
    pub fn write_recovery_points(&self, dir: &LogDir, logs: &[PartitionCheckpoint]) -> Result<(), StorageError> {
        self.write_checkpoint(dir, RECOVERY_POINTS, logs, |log| Some(log.recovery_point))
    }

    /// Writes only the high watermarks, which `replica.high.watermark.checkpoint.interval.ms` asks for.
    pub fn write_high_watermarks(&self, dir: &LogDir, logs: &[PartitionCheckpoint]) -> Result<(), StorageError> {
        self.write_checkpoint(dir, HIGH_WATERMARKS, logs, |log| Some(log.high_watermark))
    }

    /// Writes how far logs are compacted: after each cleaning, and when one is cut below that or goes away.
    pub fn write_cleaned_to(&self, dir: &LogDir, logs: &[PartitionCheckpoint]) -> Result<(), StorageError> {
        self.write_checkpoint(dir, CLEANED_TO, logs, |log| log.cleaned_to)
    }

    fn write_checkpoint(
        &self,
        dir: &LogDir,
        name: &str,
        logs: &[PartitionCheckpoint],
        offset: impl Fn(&PartitionCheckpoint) -> Option<Offset>,
    ) -> Result<(), StorageError> {
        dir.check()?;
        let path = dir.path.join(name);
        let lines: Vec<_> = logs.iter().filter_map(|log| Some((&log.partition, offset(log)?))).collect();
        dir.guard("writing", || path.clone(), checkpoints::write_offsets(&*self.fs, &path, lines.into_iter()))
    }

    /// Marks a directory's shutdown as clean. Close all of its logs and write its checkpoints before.
    pub fn write_clean_shutdown(&self, dir: &LogDir, broker_epoch: i64) -> Result<(), StorageError> {
        dir.check()?;
        let path = || dir.path.join(checkpoints::CLEAN_SHUTDOWN);
        dir.guard("writing", path, checkpoints::write_clean_shutdown(&*self.fs, &dir.path, broker_epoch))
    }
}

enum SlotError {
    Io(std::io::Error),
    Fatal(IdentityError),
}

impl From<std::io::Error> for SlotError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn open_slot(
    fs: &dyn Fs,
    dir: &Path,
    mut meta: MetaProperties,
    files: &Arc<OpenFiles>,
    rng: &mut dyn Rng,
) -> Result<Slot, SlotError> {
    fs.create_dir_all(dir)?;
    let lock = match fs.lock(&dir.join(LOCK)) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            return Err(SlotError::Fatal(IdentityError::InUse { dir: dir.to_owned() }));
        }
        result => result?,
    };
    let has_file = fs.exists(&dir.join(META_PROPERTIES))?;
    if !has_file && fs.read_dir(dir)?.iter().any(|entry| entry.is_dir && parse_partition(&entry.name).is_some()) {
        return Err(SlotError::Fatal(IdentityError::Unidentified { dir: dir.to_owned() }));
    }
    let id = match meta.directory_id {
        Some(id) if has_file => id,
        // Kafka before 3.7 gave directories no ids.
        _ => {
            let id = new_directory_id(rng);
            meta.directory_id = Some(id);
            let bytes = meta.format();
            write_file_atomically(fs, &dir.join(META_PROPERTIES), bytes.as_bytes())?;
            id
        }
    };
    // Before the first write, so that it tells of each that fails.
    let whole = match fs.whole(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => None,
        result => Some(result?),
    };
    let marker = checkpoints::read_clean_shutdown(fs, dir)?;
    if marker.is_some() {
        // From here on a crash is a crash.
        fs.remove_file(&dir.join(checkpoints::CLEAN_SHUTDOWN))?;
        fs.sync_dir(dir)?;
    }
    Ok(Slot {
        dir: LogDir::sharing(dir, id, files.clone(), whole),
        logs: AtomicUsize::new(0),
        clean: marker.is_some(),
        previous_broker_epoch: marker.flatten(),
        _lock: lock,
    })
}

/// The log of a KRaft quorum, which a node of Kafka keeps among its partitions. It is no topic of ours, and stays where it is
/// in a directory that is taken over.
pub fn is_kafkas_metadata(name: &str) -> bool {
    name == KAFKAS_METADATA_DIR
}

/// The partition whose directory this name is: `<topic>-<partition>`.
pub fn parse_partition(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    let partition: i32 = partition.parse().ok().filter(|partition| *partition >= 0)?;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let legal = !topic.is_empty() && topic != "." && topic != ".." && topic.chars().all(is_legal);
    legal.then(|| TopicPartition::new(topic, partition))
}
