//! A log directory and its health.
//!
//! The first failed operation takes the directory offline, for good: after a failed write or sync nobody knows what is
//! on the disk (rule 13 of the architecture), so nothing is tried again until the process starts anew and recovers.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use odradek_common::Uuid;
use odradek_common::fs::Fs;

use crate::error::StorageError;

/// One of `log.dirs`.
pub struct LogDir {
    pub path: PathBuf,
    /// `directory.id` (KIP-858).
    pub id: Uuid,
    failure: OnceLock<StorageError>,
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
    pub fn new(path: impl Into<PathBuf>, id: Uuid) -> Arc<Self> {
        Arc::new(Self { path: path.into(), id, failure: OnceLock::new() })
    }

    /// What took the directory offline, if anything has.
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.get()
    }

    /// Fails when the directory is offline.
    pub fn check(&self) -> Result<(), StorageError> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Takes the directory offline. Only the first failure is kept and logged.
    pub fn fail(&self, operation: &'static str, path: PathBuf, error: &io::Error) -> StorageError {
        let failure =
            StorageError { dir: self.path.clone(), path, operation, kind: error.kind(), message: error.to_string() };
        if self.failure.set(failure.clone()).is_ok() {
            tracing::error!("{failure}");
        }
        failure
    }

    /// Turns a failed operation into the end of this directory.
    pub(crate) fn guard<T>(
        &self,
        operation: &'static str,
        path: impl FnOnce() -> PathBuf,
        result: io::Result<T>,
    ) -> Result<T, StorageError> {
        result.map_err(|error| self.fail(operation, path(), &error))
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
    /// The log was deleted, and with it the directory's name, or closed: nothing is cleaned any more.
    gone: Arc<AtomicBool>,
    /// Grows with each truncation, so that a flush or a cleaning that began before comes to nothing.
    truncations: Arc<AtomicU64>,
    /// Held by each step of a cleaning, which works without the partition's lock: while it is held, the directory keeps
    /// its name, and its files their bytes.
    cleaning: Arc<Mutex<()>>,
}

impl Place {
    pub fn new(fs: Arc<dyn Fs>, dir: PathBuf, log_dir: Arc<LogDir>) -> Self {
        let (gone, truncations, cleaning) = (Arc::default(), Arc::default(), Arc::default());
        Self { fs, dir, log_dir, tail: "", gone, truncations, cleaning }
    }

    /// The same directory, for files that are not the log's yet.
    pub fn with_tail(&self, tail: &'static str) -> Self {
        let Self { fs, dir, log_dir, gone, truncations, cleaning, .. } = self;
        let (fs, dir, log_dir) = (fs.clone(), dir.clone(), log_dir.clone());
        Self {
            fs,
            dir,
            log_dir,
            tail,
            gone: gone.clone(),
            truncations: truncations.clone(),
            cleaning: cleaning.clone(),
        }
    }

    /// How often the log was truncated.
    pub fn truncations(&self) -> u64 {
        self.truncations.load(Ordering::Acquire)
    }

    /// The log is about to be cut: a cleaning that is under way ends, and makes no step while the guard is held. What it
    /// reads would be gone, and a read behind a file's end would look like a failing disk.
    pub fn begin_truncation(&self) -> MutexGuard<'_, ()> {
        let guard = self.hold_cleaning();
        self.truncations.fetch_add(1, Ordering::AcqRel);
        guard
    }

    /// The log is deleted or closed: a cleaning makes no more files, which might land in the directory of another topic
    /// of this name. Waits for the step that is under way.
    pub fn end_cleaning(&self) -> MutexGuard<'_, ()> {
        self.gone.store(true, Ordering::Release);
        self.hold_cleaning()
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub fn hold_cleaning(&self) -> MutexGuard<'_, ()> {
        self.cleaning.lock().unwrap_or_else(PoisonError::into_inner)
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
