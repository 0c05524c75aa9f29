//! A file of fixed-size entries in ascending order, as Kafka's offset and time indexes are.
//!
//! Nothing is mapped. The newest entries of an active segment wait in memory and are written in groups, when the
//! segment is flushed, rolled or closed: after a crash the index of whatever was not flushed is rebuilt anyway. Older
//! entries are searched by `pread`. A segment without a record has no index files: thousands of partitions that were
//! just made would have two more files each.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use odradek_common::fs::{File, OpenMode, is_full};

use crate::dir::Place;
use crate::log_file::FileSlot;
use crate::patience::{Kind, Patience};

/// Entries that wait in memory: 64 of 12 bytes are 768 bytes for each active segment.
const PENDING_ENTRIES_MAX: usize = 64;
/// The last steps of a binary search are made in one read of so many entries.
const BLOCK_ENTRIES: usize = 128;

/// `N`: bytes of an entry.
#[derive(Debug)]
pub(crate) struct IndexFile<const N: usize> {
    pub base: i64,
    suffix: &'static str,
    file: FileSlot,
    /// Entries in the file; `None`: not looked at yet.
    stored: Mutex<Option<u32>>,
    pending: Vec<[u8; N]>,
    dirty: bool,
    /// There is no file.
    is_unborn: bool,
}

impl<const N: usize> IndexFile<N> {
    /// An index whose file is there, to be looked at when it is needed.
    pub fn existing(base: i64, suffix: &'static str) -> Self {
        Self::with(base, suffix, None)
    }

    /// The index of a new segment. No file is made before there is something to store.
    pub fn new(base: i64, suffix: &'static str) -> Self {
        Self::with(base, suffix, Some(0))
    }

    fn with(base: i64, suffix: &'static str, stored: Option<u32>) -> Self {
        let (file, pending, is_unborn) = (FileSlot::default(), Vec::new(), stored.is_some());
        Self { base, suffix, file, stored: Mutex::new(stored), pending, dirty: is_unborn, is_unborn }
    }

    pub fn path(&self, place: &Place) -> std::path::PathBuf {
        place.file(self.base, self.suffix)
    }

    fn open(&self, place: &Place, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.file.get(&place.log_dir, || {
            let path = self.path(place);
            Ok((place.fs.open(&path, mode)?, path))
        })
    }

    /// Lets go of the descriptor, which the next look-up opens again.
    pub fn release(&self) {
        self.file.release();
    }

    /// Gives back the memory that entries have waited in.
    pub fn shrink(&mut self) {
        self.pending.shrink_to_fit();
    }

    fn stored(&self, place: &Place) -> io::Result<u32> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = *stored {
            return Ok(stored);
        }
        let count = match self.open(place, OpenMode::ReadWrite) {
            Ok(file) => u32::try_from(file.len()? / N as u64).unwrap_or(u32::MAX),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        *stored = Some(count);
        Ok(count)
    }

    /// Whether the file ends with an entry, and not inside one.
    pub fn is_whole(&self, place: &Place) -> io::Result<bool> {
        match self.open(place, OpenMode::ReadWrite) {
            Ok(file) => Ok(file.len()? == u64::from(self.stored(place)?) * N as u64),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.stored(place)? == 0),
            Err(error) => Err(error),
        }
    }

    pub fn count(&self, place: &Place) -> io::Result<usize> {
        Ok(self.stored(place)? as usize + self.pending.len())
    }

    pub fn entry(&self, place: &Place, index: usize) -> io::Result<Option<[u8; N]>> {
        let stored = self.stored(place)? as usize;
        if let Some(pending) = index.checked_sub(stored) {
            return Ok(self.pending.get(pending).copied());
        }
        let mut entry = [0; N];
        self.open(place, OpenMode::ReadWrite)?.read_exact_at(&mut entry, (index * N) as u64)?;
        Ok(Some(entry))
    }

    pub fn last(&self, place: &Place) -> io::Result<Option<[u8; N]>> {
        match self.count(place)? {
            0 => Ok(None),
            count => self.entry(place, count - 1),
        }
    }

    pub fn append(&mut self, place: &Place, entry: [u8; N]) -> io::Result<()> {
        self.pending.push(entry);
        if self.pending.len() >= PENDING_ENTRIES_MAX { self.spill(place) } else { Ok(()) }
    }

    /// Writes what waits in memory.
    pub fn spill(&mut self, place: &Place) -> io::Result<()> {
        let stored = self.stored(place)?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = self.open(place, OpenMode::Create)?;
        // Also when they do not fit: what was written of them and cut off again must not come back.
        (self.dirty, self.is_unborn) = (true, false);
        let end = u64::from(stored) * N as u64;
        if let Err(error) = file.write_all_at(&[IoSlice::new(self.pending.as_flattened())], end) {
            // What fitted on a full disk must not pass for entries later.
            if is_full(&error) {
                file.set_len(end)?;
            }
            return Err(error);
        }
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored + self.pending.len() as u32);
        self.pending.clear();
        Ok(())
    }

    /// Writes what waits and hands the file out when it has to be synced. With `make` it is made when there is none.
    pub fn take_unsynced(&mut self, place: &Place, make: bool) -> io::Result<Option<Arc<dyn File>>> {
        self.spill(place)?;
        if !self.dirty || (self.is_unborn && !make) {
            return Ok(None);
        }
        (self.dirty, self.is_unborn) = (false, false);
        self.open(place, OpenMode::Create).map(Some)
    }

    pub fn mark_unsynced(&mut self) {
        self.dirty = true;
    }

    /// Keeps the first `count` entries.
    pub fn truncate(&mut self, place: &Place, count: usize) -> io::Result<()> {
        let stored = self.stored(place)? as usize;
        if let Some(pending) = count.checked_sub(stored) {
            self.pending.truncate(pending);
            return Ok(());
        }
        self.pending.clear();
        self.open(place, OpenMode::Create)?.set_len((count * N) as u64)?;
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(count as u32);
        (self.dirty, self.is_unborn) = (true, false);
        Ok(())
    }

    /// Drops all entries, and whatever the file holds.
    pub fn reset(&mut self, place: &Place) -> io::Result<()> {
        self.pending.clear();
        if self.is_unborn {
            return Ok(());
        }
        match self.open(place, OpenMode::ReadWrite) {
            Ok(file) => {
                file.set_len(0)?;
                self.is_unborn = false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.is_unborn = true,
            Err(error) => return Err(error),
        }
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(0);
        self.dirty = true;
        Ok(())
    }

    /// The last entry for which `holds` is true, and its number, when `holds` is true for a prefix of the entries.
    pub fn last_where(
        &self,
        place: &Place,
        patience: Patience<'_>,
        holds: impl Fn(&[u8; N]) -> bool,
    ) -> io::Result<Option<(usize, [u8; N])>> {
        if self.pending.first().is_some_and(&holds) {
            let within = self.pending.partition_point(&holds);
            let index = within.saturating_sub(1);
            return Ok(self.pending.get(index).map(|entry| (self.stored(place).unwrap_or(0) as usize + index, *entry)));
        }
        let stored = self.stored(place)? as usize;
        if stored == 0 {
            return Ok(None);
        }
        let file = self.open(place, OpenMode::ReadWrite)?;
        let file = patience.reader(&file, Kind::Index);
        // Invariant: `holds` is true below `low` and false from `high` on.
        let (mut low, mut high) = (0, stored);
        let mut entry = [0; N];
        while high - low > BLOCK_ENTRIES {
            let middle = low + (high - low) / 2;
            file.read_exact_at(&mut entry, (middle * N) as u64)?;
            if holds(&entry) { low = middle + 1 } else { high = middle }
        }
        // From one before, because the entry looked for may be the last that was found to hold.
        let start = low.saturating_sub(1);
        let mut block = [[0; N]; BLOCK_ENTRIES + 1];
        let (block, _) = block.split_at_mut(high - start);
        file.read_exact_at(block.as_flattened_mut(), (start * N) as u64)?;
        let within = block.partition_point(&holds);
        Ok(within.checked_sub(1).and_then(|within| block.get(within).map(|entry| (start + within, *entry))))
    }
}
