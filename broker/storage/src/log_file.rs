//! The open files of logs: a bounded number of descriptors, however many segments there are.
//!
//! A segment names its files and holds no descriptor. Who needs one asks its [`FileSlot`], which opens the file when it is
//! not open; [`OpenFiles`] keeps what was opened last, and closes others when there are too many. A reader that has a
//! file in hand keeps it until it is done, closed here or not.
//!
//! ```text
//! FileSlot (in a segment) --weak--> LogFile <--strong-- OpenFiles (one of the process)
//!                                      ^-----strong---- readers, for as long as they read
//! ```
//!
//! A hit costs the slot's own lock and no other. The choice of what to close is the clock's: a file that was used since
//! the hand passed it stays. Files with bytes that were not synced go last: the kernel tells of a failed write to a
//! descriptor that is opened later, too, but only as long as it remembers the file.
//!
//! Readers read when no lock is held and long after the look-up, and what they come upon is the directory's end all the
//! same.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use odradek_common::fs::{Advice, File, is_out_of_descriptors};
use odradek_common::time::Timestamp;

use crate::dir::LogDir;

/// So many files are looked at, at most, to find one to close.
const LOOKS_MAX: usize = 64;
/// When the process has no descriptor left, so many are given back.
const CLOSED_AT_ONCE: usize = 16;

/// An open file of a log, as its users get it.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: Arc<dyn File>,
    path: PathBuf,
    log_dir: Arc<LogDir>,
    /// Its place in [`OpenFiles`].
    number: AtomicUsize,
    is_used: AtomicBool,
    /// Written to since the last sync.
    is_unsynced: AtomicBool,
}

/// Where a segment has a file open, if it has.
#[derive(Debug, Default)]
pub(crate) struct FileSlot(Mutex<Weak<LogFile>>);

impl FileSlot {
    /// The file, opened by `open` when it is not.
    pub fn get(
        &self,
        log_dir: &Arc<LogDir>,
        open: impl Fn() -> io::Result<(Arc<dyn File>, PathBuf)>,
    ) -> io::Result<Arc<dyn File>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = slot.upgrade() {
            file.is_used.store(true, Ordering::Relaxed);
            return Ok(file);
        }
        let (file, path) = match open() {
            // Connections may have taken all that others left: there are some to give back here.
            Err(error) if is_out_of_descriptors(&error) && log_dir.files.close_some() => open()?,
            result => result?,
        };
        let file = Arc::new(LogFile {
            file,
            path,
            log_dir: log_dir.clone(),
            number: AtomicUsize::new(usize::MAX),
            is_used: AtomicBool::new(true),
            is_unsynced: AtomicBool::new(false),
        });
        *slot = Arc::downgrade(&file);
        log_dir.files.insert(&file);
        Ok(file)
    }

    /// Closes the file, or leaves that to its last reader.
    pub fn release(&self) {
        let file = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).upgrade();
        if let Some(file) = file {
            file.log_dir.files.remove(&file);
        }
    }
}

impl Drop for FileSlot {
    /// The segment is gone, and its file perhaps deleted: the room comes back when the descriptor is closed.
    fn drop(&mut self) {
        self.release();
    }
}

/// What is open, of all logs that share it.
#[derive(Debug)]
pub struct OpenFiles {
    count_max: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    files: Vec<Option<Arc<LogFile>>>,
    /// Numbers in `files` that are free.
    free: Vec<usize>,
    hand: usize,
}

impl OpenFiles {
    /// For a tool or a test, which opens few.
    pub const COUNT_DEFAULT: usize = 512;

    pub fn new(count_max: usize) -> Arc<Self> {
        Arc::new(Self { count_max: count_max.max(1), ring: Mutex::default() })
    }

    /// How many are open now. Those that only readers still hold are not counted.
    pub fn count(&self) -> usize {
        let ring = self.lock();
        ring.files.len() - ring.free.len()
    }

    /// Closes what was not used since the last call, and holds nothing that is still to be synced.
    pub fn close_idle(&self) {
        let mut ring = self.lock();
        let mut closed = Vec::new();
        for number in 0..ring.files.len() {
            let is_idle = ring.files.get(number).and_then(Option::as_ref).is_some_and(|file| {
                !file.is_used.swap(false, Ordering::Relaxed) && !file.is_unsynced.load(Ordering::Relaxed)
            });
            if is_idle {
                closed.extend(ring.take(number));
            }
        }
        // A close may have to wait for the disk.
        drop(ring);
        drop(closed);
    }

    /// Whether some could be closed.
    fn close_some(&self) -> bool {
        let mut ring = self.lock();
        let mut closed = Vec::new();
        for _ in 0..CLOSED_AT_ONCE {
            closed.extend(ring.choose().and_then(|number| ring.take(number)));
        }
        drop(ring);
        !closed.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, file: &Arc<LogFile>) {
        let mut ring = self.lock();
        let is_full = ring.files.len() - ring.free.len() >= self.count_max;
        let closed = if is_full { ring.choose().and_then(|number| ring.take(number)) } else { None };
        ring.put(file);
        drop(ring);
        drop(closed);
    }

    fn remove(&self, file: &Arc<LogFile>) {
        let mut ring = self.lock();
        let number = file.number.load(Ordering::Relaxed);
        let is_there = ring.files.get(number).and_then(Option::as_ref).is_some_and(|there| Arc::ptr_eq(there, file));
        let closed = if is_there { ring.take(number) } else { None };
        drop(ring);
        drop(closed);
    }
}

impl Ring {
    fn put(&mut self, file: &Arc<LogFile>) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        file.number.store(number, Ordering::Relaxed);
        if let Some(place) = self.files.get_mut(number) {
            *place = Some(file.clone());
        }
    }

    fn take(&mut self, number: usize) -> Option<Arc<LogFile>> {
        let file = self.files.get_mut(number)?.take()?;
        self.free.push(number);
        Some(file)
    }

    /// What to close. `None`: all that was looked at is being read, and closing it would free nothing.
    fn choose(&mut self) -> Option<usize> {
        let mut second_best = None;
        for _ in 0..LOOKS_MAX.min(2 * self.files.len()) {
            let number = self.hand;
            self.hand = (self.hand + 1) % self.files.len().max(1);
            let Some(file) = self.files.get(number).and_then(Option::as_ref) else { continue };
            if Arc::strong_count(file) > 1 {
                continue;
            }
            if file.is_used.swap(false, Ordering::Relaxed) || file.is_unsynced.load(Ordering::Relaxed) {
                second_best = second_best.or(Some(number));
                continue;
            }
            return Some(number);
        }
        second_best
    }
}

impl File for LogFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.log_dir.fail("reading", self.path.clone(), error);
            }
        })
    }

    fn read_at_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at_now(buffer, offset).inspect_err(|error| {
            if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) {
                self.log_dir.fail("reading", self.path.clone(), error);
            }
        })
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.is_unsynced.store(true, Ordering::Relaxed);
        self.file.write_all_at(buffers, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.is_unsynced.store(true, Ordering::Relaxed);
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // What is written meanwhile may miss this sync.
        self.is_unsynced.store(false, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        self.file.advise(offset, len, advice)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn is_cached(&self, offset: u64, len: usize) -> bool {
        self.file.is_cached(offset, len)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }

    fn modified(&self) -> Option<Timestamp> {
        self.file.modified()
    }
}
