//! The transaction index (`.txnindex`): the aborted transactions that end in a segment, which a read-committed consumer
//! needs to know. Entries of `version: i16, producer id: i64, first offset: i64, last offset: i64, last stable offset:
//! i64`; the file is made with its first entry.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, IoSlice};
use std::sync::Arc;

use odradek_common::fs::{File, OpenMode, is_full, read_file};
use odradek_common::{Offset, ProducerId};

use crate::dir::Place;

pub(crate) const SUFFIX: &str = ".txnindex";
pub(crate) const ENTRY_BYTES: usize = 34;
const VERSION: i16 = 0;
/// A segment has at most one aborted transaction per batch of 78 bytes (a marker), so that this is out of reach.
const FILE_BYTES_MAX: u64 = 1 << 31;

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: ProducerId,
    /// Of its first record in this partition.
    pub first_offset: Offset,
    /// Of its abort marker.
    pub last_offset: Offset,
    /// When the marker was written.
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        let (version, numbers) = entry.split_at_mut(2);
        version.copy_from_slice(&VERSION.to_be_bytes());
        let values = [self.producer_id.0, self.first_offset.0, self.last_offset.0, self.last_stable_offset.0];
        for (target, value) in numbers.chunks_exact_mut(8).zip(values) {
            target.copy_from_slice(&value.to_be_bytes());
        }
        entry
    }

    pub(crate) fn decode(entry: &[u8]) -> Option<Self> {
        let (version, numbers) = entry.split_first_chunk()?;
        if i16::from_be_bytes(*version) != VERSION {
            return None;
        }
        let mut values = numbers.chunks_exact(8).filter_map(|bytes| Some(i64::from_be_bytes(bytes.try_into().ok()?)));
        Some(Self {
            producer_id: ProducerId(values.next()?),
            first_offset: Offset(values.next()?),
            last_offset: Offset(values.next()?),
            last_stable_offset: Offset(values.next()?),
        })
    }
}

#[derive(Debug)]
pub(crate) struct TxnIndex {
    base: i64,
    /// Bytes in the file.
    bytes: u64,
    dirty: bool,
    /// There is a file.
    exists: bool,
}

impl TxnIndex {
    /// The index of a new segment. The file is made with its first entry.
    pub fn new(base: i64) -> Self {
        Self { base, bytes: 0, dirty: false, exists: false }
    }

    /// An index whose file is there, and has so many bytes.
    pub fn existing(base: i64, bytes: u64) -> Self {
        Self { base, bytes, dirty: false, exists: true }
    }

    fn path(&self, place: &Place) -> std::path::PathBuf {
        place.file(self.base, SUFFIX)
    }

    pub fn append(&mut self, place: &Place, txn: &AbortedTxn) -> io::Result<()> {
        let file = place.fs.open(&self.path(place), OpenMode::Create)?;
        // Also when no entry fits: what was written of it and cut off again must not come back.
        (self.dirty, self.exists) = (true, true);
        if let Err(error) = file.write_all_at(&[IoSlice::new(&txn.encode())], self.bytes) {
            if is_full(&error) {
                file.set_len(self.bytes)?;
            }
            return Err(error);
        }
        self.bytes += ENTRY_BYTES as u64;
        Ok(())
    }

    /// Every entry, in the order of the markers. An entry that cannot be read is `InvalidData`.
    pub fn entries(&self, place: &Place) -> io::Result<Vec<AbortedTxn>> {
        if self.bytes == 0 {
            return Ok(Vec::new());
        }
        let bytes = read_file(&*place.fs, &self.path(place), FILE_BYTES_MAX)?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an entry of the transaction index is damaged");
        bytes.chunks_exact(ENTRY_BYTES).map(|entry| AbortedTxn::decode(entry).ok_or_else(invalid)).collect()
    }

    pub fn truncate_to(&mut self, place: &Place, offset: i64) -> io::Result<()> {
        let kept = self.entries(place)?.iter().take_while(|txn| txn.last_offset.0 < offset).count();
        self.set_bytes(place, (kept * ENTRY_BYTES) as u64)
    }

    /// Drops all entries. An empty file has to be synced, too: it may have been emptied by a process that was killed before
    /// it was synced, and what the disk has would come back.
    pub fn reset(&mut self, place: &Place) -> io::Result<()> {
        self.mark_unsynced();
        self.set_bytes(place, 0)
    }

    fn set_bytes(&mut self, place: &Place, bytes: u64) -> io::Result<()> {
        if bytes != self.bytes {
            place.fs.open(&self.path(place), OpenMode::ReadWrite)?.set_len(bytes)?;
            self.bytes = bytes;
            self.dirty = true;
        }
        Ok(())
    }

    pub fn mark_unsynced(&mut self) {
        self.dirty |= self.exists;
    }

    pub fn take_unsynced(&mut self, place: &Place) -> io::Result<Option<Arc<dyn File>>> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(None);
        }
        place.fs.open(&self.path(place), OpenMode::Create).map(Some)
    }
}
