//! The time index (`.timeindex`): entries of `timestamp: i64, relative offset: u32`. An entry says that no record at
//! or below its offset has a larger timestamp; both grow from entry to entry.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;

use crate::dir::Place;
use crate::index_file::IndexFile;
use crate::patience::Patience;

pub(crate) const SUFFIX: &str = ".timeindex";
pub(crate) const ENTRY_BYTES: usize = 12;

#[derive(Debug)]
pub(crate) struct TimeIndex {
    pub file: IndexFile<ENTRY_BYTES>,
    /// The last entry, to keep entries ascending without a read for each append.
    last: Option<Option<(i64, i64)>>,
}

/// Timestamp and offset of an entry of the index of the segment that begins at `base`.
pub(crate) fn decode(base: i64, entry: &[u8; ENTRY_BYTES]) -> (i64, i64) {
    (timestamp(entry), base.saturating_add(i64::from(relative(entry))))
}

fn timestamp(entry: &[u8; ENTRY_BYTES]) -> i64 {
    entry.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn relative(entry: &[u8; ENTRY_BYTES]) -> u32 {
    entry.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

impl TimeIndex {
    pub fn existing(base: i64) -> Self {
        Self { file: IndexFile::existing(base, SUFFIX), last: None }
    }

    pub fn new(base: i64) -> Self {
        Self { file: IndexFile::new(base, SUFFIX), last: Some(None) }
    }

    fn decode(&self, entry: &[u8; ENTRY_BYTES]) -> (i64, i64) {
        decode(self.file.base, entry)
    }

    /// The last entry: timestamp and offset.
    pub fn last(&self, place: &Place) -> io::Result<Option<(i64, i64)>> {
        match self.last {
            Some(last) => Ok(last),
            None => Ok(self.file.last(place)?.map(|entry| self.decode(&entry))),
        }
    }

    /// Adds an entry when it is later than the last one.
    pub fn maybe_append(&mut self, place: &Place, timestamp: i64, offset: i64) -> io::Result<()> {
        let last = self.last(place)?;
        self.last = Some(last);
        if timestamp < 0 || last.is_some_and(|last| timestamp <= last.0 || offset < last.1) {
            return Ok(());
        }
        let mut entry = [0; ENTRY_BYTES];
        let (head, tail) = entry.split_at_mut(8);
        head.copy_from_slice(&timestamp.to_be_bytes());
        tail.copy_from_slice(&((offset - self.file.base) as u32).to_be_bytes());
        self.last = Some(Some((timestamp, offset)));
        self.file.append(place, entry)
    }

    /// The entry with the largest timestamp that is not above `target`.
    pub fn lookup(&self, place: &Place, target: i64) -> io::Result<Option<(i64, i64)>> {
        Ok(self
            .file
            .last_where(place, Patience::Waits, |entry| timestamp(entry) <= target)?
            .map(|(_, entry)| self.decode(&entry)))
    }

    /// Drops the entries of `offset` and above.
    pub fn truncate_to(&mut self, place: &Place, offset: i64) -> io::Result<()> {
        let wanted = offset.saturating_sub(self.file.base);
        let kept = self
            .file
            .last_where(place, Patience::Waits, |entry| i64::from(relative(entry)) < wanted)?
            .map_or(0, |(at, _)| at + 1);
        self.last = None;
        if kept < self.file.count(place)? { self.file.truncate(place, kept) } else { Ok(()) }
    }

    pub fn reset(&mut self, place: &Place) -> io::Result<()> {
        self.last = Some(None);
        self.file.reset(place)
    }
}
