//! The leader epoch cache (KIP-101, KIP-279): which epoch began at which offset, kept in `leader-epoch-checkpoint`.
//!
//! The file is replaced by rename when an epoch has its first record, or is dropped, and synced with the log: what a power cut may take from it is rebuilt
//! from the batches, which carry their epochs. A torn file cannot pass for a whole one: it announces its number of lines
//! and ends with a line feed.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;
use std::sync::Arc;

use odradek_common::fs::{File, OpenMode, read_file};
use odradek_common::{LeaderEpoch, Offset};

use crate::checkpoints::{parse_lines, write_file_unsynced};
use crate::dir::Place;
use crate::error::StorageError;

pub(crate) const FILE: &str = "leader-epoch-checkpoint";
/// Thousands of leader changes fit; a larger file is damaged.
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 20;

/// An epoch and the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

/// The answer to OffsetForLeaderEpoch. `(-1, -1)`: unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch not above the requested one.
    pub epoch: LeaderEpoch,
    /// Where the next larger epoch begins, or the log end.
    pub end: Offset,
}

impl EpochEndOffset {
    pub const UNKNOWN: Self = Self { epoch: LeaderEpoch::NONE, end: Offset::NONE };
}

/// Invariant: epochs and start offsets ascend strictly.
#[derive(Debug, Default)]
pub(crate) struct LeaderEpochs {
    entries: Vec<EpochEntry>,
    /// The file differs from what is in memory, or was written and not synced.
    unsaved: bool,
    unsynced: bool,
    /// The last entry was announced, has no record, and is not in the file.
    is_unborn: bool,
}

impl LeaderEpochs {
    /// The stored entries; `None` when there is no sound file.
    pub fn load(place: &Place) -> Result<Option<Self>, StorageError> {
        let path = place.dir.join(FILE);
        let bytes = match read_file(&*place.fs, &path, FILE_BYTES_MAX) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                return Ok(None);
            }
            result => place.guard("reading", || path, result)?,
        };
        Ok(Self::parse(&bytes))
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut epochs = Self::default();
        let lines = parse_lines(bytes).ok()?;
        epochs.entries.reserve_exact(lines.len());
        for line in lines {
            let (epoch, start) = line.split_once(' ')?;
            let entry = EpochEntry { epoch: LeaderEpoch(epoch.parse().ok()?), start: Offset(start.parse().ok()?) };
            let ascends = epochs.latest().is_none_or(|last| last.epoch < entry.epoch && last.start < entry.start);
            if !ascends || entry.epoch.0 < 0 || entry.start.0 < 0 {
                return None;
            }
            epochs.entries.push(entry);
        }
        Some(epochs)
    }

    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Notes that `epoch` begins at `start`. Entries that contradict it are dropped. Returns whether anything changed.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if epoch.0 < 0 {
            return false;
        }
        let before = self.entries.len();
        while let Some(last) = self.latest() {
            if last.epoch == epoch && start >= last.start {
                self.unsaved |= self.entries.len() < before;
                return self.entries.len() < before;
            }
            if last.epoch < epoch && last.start < start {
                break;
            }
            self.entries.pop();
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
        }
        self.entries.push(EpochEntry { epoch, start });
        self.unsaved = true;
        true
    }

    /// As [`LeaderEpochs::assign`], for an epoch that has no record yet. It is not worth a file before it has one: a start
    /// drops it again, and nobody can have a record of it.
    pub fn announce(&mut self, epoch: LeaderEpoch, start: Offset) {
        let (was_unsaved, in_file) = (self.unsaved, self.entries.len() - usize::from(self.is_unborn));
        if self.assign(epoch, start) && !was_unsaved {
            self.is_unborn = self.entries.len() == in_file + 1;
            self.unsaved = !self.is_unborn;
        }
    }

    /// Records of the last epoch are about to be written: now it is to be saved.
    pub fn confirm(&mut self) {
        self.unsaved |= std::mem::take(&mut self.is_unborn);
    }

    /// Where `requested` ended, as far as this log knows.
    pub fn end_offset(&self, requested: LeaderEpoch, log_end: Offset) -> EpochEndOffset {
        if requested.0 < 0 {
            return EpochEndOffset::UNKNOWN;
        }
        if self.latest().is_some_and(|last| last.epoch == requested) {
            return EpochEndOffset { epoch: requested, end: log_end };
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= requested);
        let Some(next) = self.entries.get(higher) else {
            return EpochEndOffset::UNKNOWN;
        };
        let floor = higher.checked_sub(1).and_then(|index| self.entries.get(index));
        EpochEndOffset { epoch: floor.map_or(requested, |entry| entry.epoch), end: next.start }
    }

    /// The epoch of a record at this offset.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let index = self.entries.partition_point(|entry| entry.start <= offset).checked_sub(1)?;
        self.entries.get(index).map(|entry| entry.epoch)
    }

    /// Forgets the epochs that begin at or behind `end`.
    pub fn truncate_end(&mut self, end: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        if kept < self.entries.len() {
            let is_unborn_alone = std::mem::take(&mut self.is_unborn) && kept + 1 == self.entries.len();
            self.unsaved |= !is_unborn_alone;
            self.entries.truncate(kept);
        }
    }

    /// Forgets the epochs that ended before `start`; the one that `start` lies in now begins there.
    pub fn truncate_start(&mut self, start: Offset) {
        let kept = self.entries.partition_point(|entry| entry.start <= start).saturating_sub(1);
        self.entries.drain(..kept);
        self.unsaved |= kept > 0;
        if let Some(first) = self.entries.first_mut()
            && first.start < start
        {
            first.start = start;
            self.unsaved = true;
        }
    }

    pub fn clear(&mut self) {
        self.unsaved |= self.entries.len() > usize::from(std::mem::take(&mut self.is_unborn));
        self.entries.clear();
    }

    fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            text.push_str(&format!("{} {}\n", entry.epoch, entry.start));
        }
        text
    }

    /// Writes the file when it differs from memory. Not durable before what [`LeaderEpochs::take_unsynced`] gives is synced.
    pub fn save(&mut self, place: &Place) -> Result<(), StorageError> {
        if self.unsaved {
            let path = place.dir.join(FILE);
            let result = write_file_unsynced(&*place.fs, &path, self.encode().as_bytes());
            place.guard("writing", || path, result)?;
            (self.unsaved, self.is_unborn) = (false, false);
            self.unsynced = true;
        }
        Ok(())
    }

    /// As [`LeaderEpochs::save`]; on a full disk the file stays behind until the next save. For what only drops epochs:
    /// a start drops them again, and an append saves before it writes.
    pub fn save_or_put_off(&mut self, place: &Place) -> Result<(), StorageError> {
        match self.save(place) {
            Err(error) if error.is_full() => Ok(()),
            result => result,
        }
    }

    /// The file has these entries already.
    pub fn is_as_stored(&mut self) {
        self.unsaved = false;
    }

    /// What was handed out to be synced was not.
    pub fn mark_unsynced(&mut self) {
        self.unsynced = true;
    }

    /// The file, written and still to be synced (with its directory); `None` when it is durable.
    pub fn take_unsynced(&mut self, place: &Place) -> Result<Option<Arc<dyn File>>, StorageError> {
        self.save(place)?;
        if !std::mem::take(&mut self.unsynced) {
            return Ok(None);
        }
        let path = place.dir.join(FILE);
        let file = place.fs.open(&path, OpenMode::ReadWrite);
        place.guard("opening", || path, file).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs.entries.iter().map(|entry| (entry.epoch.0, entry.start.0)).collect()
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next_one_known() {
        let known = epochs(&[(2, 10), (4, 20), (7, 30)]);
        let cases = [
            (-1, -1, -1),
            (0, 0, 10),
            (1, 1, 10),
            (2, 2, 20),
            (3, 2, 20),
            (4, 4, 30),
            (6, 4, 30),
            (7, 7, 99),
            (8, -1, -1),
        ];
        for (requested, epoch, end) in cases {
            let expected = EpochEndOffset { epoch: LeaderEpoch(epoch), end: Offset(end) };
            assert_eq!(known.end_offset(LeaderEpoch(requested), Offset(99)), expected, "epoch {requested}");
        }
        assert_eq!(known.epoch_at(Offset(9)), None);
        assert_eq!(known.epoch_at(Offset(25)), Some(LeaderEpoch(4)));
    }

    #[test]
    fn a_new_epoch_drops_those_it_contradicts() {
        assert_eq!(pairs(&epochs(&[(1, 0), (2, 10), (3, 20), (4, 10)])), [(1, 0), (4, 10)]);
        assert_eq!(pairs(&epochs(&[(1, 0), (3, 10), (2, 20)])), [(1, 0), (2, 20)]);
        assert_eq!(pairs(&epochs(&[(1, 5), (1, 9)])), [(1, 5)]);
        assert_eq!(pairs(&epochs(&[(1, 5), (1, 3)])), [(1, 3)]);
        // An epoch without a record gives way to one that was there before.
        assert_eq!(pairs(&epochs(&[(1, 5), (2, 9), (1, 9)])), [(1, 5)]);
    }

    #[test]
    fn an_epoch_without_a_record_is_not_saved() {
        let mut known = LeaderEpochs::default();
        known.announce(LeaderEpoch(1), Offset(0));
        known.announce(LeaderEpoch(3), Offset(0));
        assert_eq!((pairs(&known), known.unsaved), (vec![(3, 0)], false));
        known.confirm();
        assert!(known.unsaved);
        known.unsaved = false;
        known.announce(LeaderEpoch(4), Offset(10));
        known.announce(LeaderEpoch(5), Offset(10));
        assert_eq!((pairs(&known), known.unsaved), (vec![(3, 0), (5, 10)], false));
        known.truncate_end(Offset(10));
        assert_eq!((pairs(&known), known.unsaved), (vec![(3, 0)], false));
        // It takes the place of one that is in the file.
        known.announce(LeaderEpoch(6), Offset(0));
        assert_eq!((pairs(&known), known.unsaved), (vec![(6, 0)], true));
    }

    #[test]
    fn truncation_cuts_either_end() {
        let mut known = epochs(&[(1, 0), (2, 10), (3, 20)]);
        known.truncate_start(Offset(15));
        assert_eq!(pairs(&known), [(2, 15), (3, 20)]);
        known.truncate_end(Offset(20));
        assert_eq!(pairs(&known), [(2, 15)]);
    }

    #[test]
    fn a_torn_file_is_not_taken_for_a_whole_one() {
        let text = epochs(&[(1, 0), (2, 10), (3, 2000)]).encode();
        assert_eq!(
            LeaderEpochs::parse(text.as_bytes()).map(|epochs| pairs(&epochs)),
            Some(vec![(1, 0), (2, 10), (3, 2000)])
        );
        for len in 0..text.len() {
            assert!(LeaderEpochs::parse(&text.as_bytes()[..len]).is_none(), "{len} bytes");
        }
    }
}
