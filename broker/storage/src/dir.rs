//! A log directory, its health and its room.
//!
//! The first failed operation takes the directory offline, for good: after a failed write or sync nobody knows what is
//! on the disk (rule 13 of the architecture), so nothing is tried again until the process starts anew and recovers.
//!
//! A full disk is no failure: whoever wrote puts back what was there before, and the directory serves on. How much of it
//! serves is its [`Room`], by the marks that the broker's config sets.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use odradek_common::Uuid;
use odradek_common::fs::{Fs, WholeFs, is_full, is_out_of_descriptors};

use crate::error::{SYNCING, StorageError};
use crate::log_file::OpenFiles;

/// How much may still be written to a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Room {
    Enough = 0,
    /// Below the soft mark: clients' records are refused; replication and what the broker itself has to write go on.
    Little = 1,
    /// Below the hard mark, or a write has just failed for want of room: no records at all.
    None = 2,
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// One of `log.dirs`.
pub struct LogDir {
    pub path: PathBuf,
    /// `directory.id` (KIP-858).
    pub id: Uuid,
    failure: OnceLock<StorageError>,
    room: AtomicU8,
    /// Bytes that may be written before the soft mark is passed, and how far below it the hard one lies, as of the last
    /// look at the disk. Logs count down what they write, for a fast writer passes both marks between two looks.
    left: AtomicI64,
    gap: AtomicI64,
    on_failure: OnceLock<Hook>,
    /// What logs have open, here and in the other directories.
    pub(crate) files: Arc<OpenFiles>,
    /// `None`: not to be synced as a whole.
    whole: Option<Arc<dyn WholeFs>>,
    /// Bytes that recoveries have read and checked.
    scanned: AtomicU64,
}

impl fmt::Debug for LogDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogDir")
            .field("path", &self.path)
            .field("id", &self.id)
            .field("failed", &self.failure())
            .finish()
    }
}

impl LogDir {
    /// A directory that shares nothing with others.
    pub fn new(path: impl Into<PathBuf>, id: Uuid) -> Arc<Self> {
        Self::sharing(path, id, OpenFiles::new(OpenFiles::COUNT_DEFAULT), None)
    }

    pub(crate) fn sharing(
        path: impl Into<PathBuf>,
        id: Uuid,
        files: Arc<OpenFiles>,
        whole: Option<Arc<dyn WholeFs>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            id,
            failure: OnceLock::new(),
            room: AtomicU8::new(Room::Enough as u8),
            left: AtomicI64::new(i64::MAX),
            gap: AtomicI64::new(0),
            on_failure: OnceLock::new(),
            files,
            whole,
            scanned: AtomicU64::new(0),
        })
    }

    /// The files that logs have open.
    pub fn open_files(&self) -> &Arc<OpenFiles> {
        &self.files
    }

    /// Bytes that the recovery of logs has read and checked so far.
    pub fn scanned_bytes(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed)
    }

    pub(crate) fn count_scanned(&self, bytes: u64) {
        self.scanned.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Syncs the file system that the directory is on, with all that logs have written to it. `false`: that cannot be
    /// done here, and each file is to be synced by itself.
    pub fn sync_whole(&self) -> Result<bool, StorageError> {
        self.check()?;
        let Some(whole) = &self.whole else { return Ok(false) };
        self.guard(SYNCING, || self.path.clone(), whole.sync()).map(|()| true)
    }

    /// Calls this once, on the thread that comes upon the failure, when the directory goes offline. Only the first hook
    /// counts.
    pub fn on_failure(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_failure.set(Box::new(hook));
    }

    pub fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Enough,
            1 => Room::Little,
            _ => Room::None,
        }
    }

    /// Takes down what the disk was found to have, and how many bytes may be written before it is below the soft mark and
    /// before it is below the hard one. Answers what was known before.
    pub fn set_room(&self, room: Room, left_to_soft: u64, left_to_hard: u64) -> Room {
        let clamped = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.left.store(clamped(left_to_soft), Ordering::Relaxed);
        self.gap.store(clamped(left_to_hard.saturating_sub(left_to_soft)), Ordering::Relaxed);
        self.lower_or_raise(room)
    }

    fn lower_or_raise(&self, room: Room) -> Room {
        let before = self.room();
        self.room.store(room as u8, Ordering::Relaxed);
        before
    }

    /// A log has written so many bytes.
    pub(crate) fn count_written(&self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let left = self.left.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        if left >= 0 {
            return;
        }
        let room = if left.saturating_add(self.gap.load(Ordering::Relaxed)) < 0 { Room::None } else { Room::Little };
        if self.room() < room {
            self.lower_or_raise(room);
            tracing::warn!("the log directory {} is filling up: its room is {room:?} now", self.path.display());
        }
    }

    /// What took the directory offline, if anything has.
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.get()
    }

    /// Fails when the directory is offline.
    pub fn check(&self) -> Result<(), StorageError> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Takes the directory offline. Only the first failure is kept and logged. That a read would have to wait is none
    /// ([`Patience`](crate::patience::Patience)).
    pub fn fail(&self, operation: &'static str, path: PathBuf, error: &io::Error) -> StorageError {
        let failure = self.error(operation, path, error);
        if error.kind() == io::ErrorKind::WouldBlock {
            return failure;
        }
        if self.failure.set(failure.clone()).is_ok() {
            tracing::error!("{failure}");
            if let Some(hook) = self.on_failure.get() {
                hook();
            }
        }
        failure
    }

    fn error(&self, operation: &'static str, path: PathBuf, error: &io::Error) -> StorageError {
        // A descriptor is room of another kind, and missed as much: the directory is as good as full for a moment.
        let kind = if is_out_of_descriptors(error) { io::ErrorKind::StorageFull } else { error.kind() };
        StorageError { dir: self.path.clone(), path, operation, kind, message: error.to_string() }
    }

    /// Turns a failed operation into the end of this directory, unless it failed for want of room.
    pub(crate) fn guard<T>(
        &self,
        operation: &'static str,
        path: impl FnOnce() -> PathBuf,
        result: io::Result<T>,
    ) -> Result<T, StorageError> {
        result.map_err(|error| {
            if !is_full(&error) || operation == SYNCING {
                return self.fail(operation, path(), &error);
            }
            let full = self.error(operation, path(), &error);
            if self.lower_or_raise(Room::None) != Room::None {
                tracing::warn!("{full}");
            }
            full
        })
    }
}

/// What every file of one log needs to know.
#[derive(Debug)]
pub(crate) struct Place {
    pub fs: Arc<dyn Fs>,
    /// The partition's directory.
    pub dir: PathBuf,
    pub log_dir: Arc<LogDir>,
    /// Behind every file's name: nothing, but for a segment that is being cleaned.
    pub tail: &'static str,
    state: Arc<PlaceState>,
}

/// What a log's place has in common with that of the files that are cleaned beside it.
#[derive(Debug, Default)]
struct PlaceState {
    /// The log was deleted, and with it the directory's name, or closed: nothing is cleaned any more.
    gone: AtomicBool,
    /// Grows with each truncation, so that a flush or a cleaning that began before comes to nothing.
    truncations: AtomicU64,
    /// Held by each step of a cleaning, which works without the partition's lock: while it is held, the directory keeps
    /// its name, and its files their bytes.
    cleaning: Mutex<()>,
}

impl Place {
    pub fn new(fs: Arc<dyn Fs>, dir: PathBuf, log_dir: Arc<LogDir>) -> Self {
        Self { fs, dir, log_dir, tail: "", state: Arc::default() }
    }

    /// The same directory, for files that are not the log's yet.
    pub fn with_tail(&self, tail: &'static str) -> Self {
        let Self { fs, dir, log_dir, state, .. } = self;
        Self { fs: fs.clone(), dir: dir.clone(), log_dir: log_dir.clone(), tail, state: state.clone() }
    }

    /// How often the log was truncated.
    pub fn truncations(&self) -> u64 {
        self.state.truncations.load(Ordering::Acquire)
    }

    /// In the place of another log, of which flushes may be under way.
    pub fn start_truncations_at(&self, count: u64) {
        self.state.truncations.store(count, Ordering::Release);
    }

    /// The log is about to be cut: a cleaning that is under way ends, and makes no step while the guard is held. What it
    /// reads would be gone, and a read behind a file's end would look like a failing disk.
    pub fn begin_truncation(&self) -> MutexGuard<'_, ()> {
        let guard = self.hold_cleaning();
        self.state.truncations.fetch_add(1, Ordering::AcqRel);
        guard
    }

    /// The log is deleted or closed: a cleaning makes no more files, which might land in the directory of another topic
    /// of this name. Waits for the step that is under way.
    pub fn end_cleaning(&self) -> MutexGuard<'_, ()> {
        self.state.gone.store(true, Ordering::Release);
        self.hold_cleaning()
    }

    pub fn is_gone(&self) -> bool {
        self.state.gone.load(Ordering::Acquire)
    }

    pub fn hold_cleaning(&self) -> MutexGuard<'_, ()> {
        self.state.cleaning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `{base:020}{suffix}`, as `00000000000000000042.log`.
    pub fn file(&self, base: i64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{base:020}{suffix}{}", self.tail))
    }

    pub fn sync_dir(&self) -> Result<(), StorageError> {
        self.guard("syncing", || self.dir.clone(), self.fs.sync_dir(&self.dir))
    }

    pub fn guard<T>(
        &self,
        operation: &'static str,
        path: impl FnOnce() -> PathBuf,
        result: io::Result<T>,
    ) -> Result<T, StorageError> {
        self.log_dir.guard(operation, path, result)
    }

    /// Removes a file; one that is not there is as good as removed.
    pub fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match self.fs.remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => self.guard("removing", || path.to_owned(), result),
        }
    }
}
