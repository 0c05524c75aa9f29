//! The offset index (`.index`): entries of `relative offset: u32, position: u32`, one for about every
//! `index.interval.bytes` of log. An entry's offset is the last one of the batch at its position, so that the position
//! is never behind an offset looked for.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;

use crate::dir::Place;
use crate::index_file::IndexFile;
use crate::patience::Patience;

pub(crate) const SUFFIX: &str = ".index";
pub(crate) const ENTRY_BYTES: usize = 8;

/// An offset and where its batch begins in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetPosition {
    pub offset: i64,
    pub position: u64,
}

#[derive(Debug)]
pub(crate) struct OffsetIndex {
    pub file: IndexFile<ENTRY_BYTES>,
}

/// An entry of the index of the segment that begins at `base`.
pub(crate) fn decode(base: i64, entry: [u8; ENTRY_BYTES]) -> OffsetPosition {
    let word = u64::from_be_bytes(entry);
    OffsetPosition { offset: base.saturating_add((word >> 32) as i64), position: word & u64::from(u32::MAX) }
}

fn relative(entry: &[u8; ENTRY_BYTES]) -> u32 {
    (u64::from_be_bytes(*entry) >> 32) as u32
}

impl OffsetIndex {
    pub fn existing(base: i64) -> Self {
        Self { file: IndexFile::existing(base, SUFFIX) }
    }

    pub fn new(base: i64) -> Self {
        Self { file: IndexFile::new(base, SUFFIX) }
    }

    fn decode(&self, entry: [u8; ENTRY_BYTES]) -> OffsetPosition {
        decode(self.file.base, entry)
    }

    /// Whether an offset can be stored: its distance to the base fits a positive `i32`.
    pub fn can_hold(&self, offset: i64) -> bool {
        (0..=i64::from(i32::MAX)).contains(&offset.wrapping_sub(self.file.base))
    }

    pub fn append(&mut self, place: &Place, offset: i64, position: u64) -> io::Result<()> {
        let entry = ((offset - self.file.base) as u64) << 32 | (position & u64::from(u32::MAX));
        self.file.append(place, entry.to_be_bytes())
    }

    pub fn last(&self, place: &Place) -> io::Result<Option<OffsetPosition>> {
        Ok(self.file.last(place)?.map(|entry| self.decode(entry)))
    }

    /// The entry with the largest offset that is not above `target`; the segment's start when there is none.
    pub fn lookup(&self, place: &Place, patience: Patience<'_>, target: i64) -> io::Result<OffsetPosition> {
        let start = OffsetPosition { offset: self.file.base, position: 0 };
        if target < self.file.base {
            return Ok(start);
        }
        let wanted = (target - self.file.base) as u64;
        let found = self.file.last_where(place, patience, |entry| u64::from(relative(entry)) <= wanted)?;
        Ok(found.map_or(start, |(_, entry)| self.decode(entry)))
    }

    /// The first entry whose position is at least `position`, for an upper bound of a range's offsets.
    pub fn first_at_or_behind(&self, place: &Place, position: u64) -> io::Result<Option<OffsetPosition>> {
        let before = |entry: &[u8; ENTRY_BYTES]| (u64::from_be_bytes(*entry) & u64::from(u32::MAX)) < position;
        let next = self.file.last_where(place, Patience::Waits, before)?.map_or(0, |(index, _)| index + 1);
        if next >= self.file.count(place)? {
            return Ok(None);
        }
        Ok(self.file.entry(place, next)?.map(|entry| self.decode(entry)))
    }

    /// Drops the entries of `offset` and above.
    pub fn truncate_to(&mut self, place: &Place, offset: i64) -> io::Result<()> {
        let kept = if offset <= self.file.base {
            0
        } else {
            let wanted = (offset - self.file.base) as u64;
            let last = self.file.last_where(place, Patience::Waits, |entry| u64::from(relative(entry)) < wanted)?;
            last.map_or(0, |(index, _)| index + 1)
        };
        if kept < self.file.count(place)? { self.file.truncate(place, kept) } else { Ok(()) }
    }
}
