//! Single files of a log, read without a log: what a tool needs that looks into a directory while no broker runs.
//!
//! The readers are those of the log itself. They never write, take no lock, and answer damage with `InvalidData` (or, in a
//! file of batches, with [`FileDamage`]), whatever the bytes are. A file that is being written to may look cut off at its
//! end.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_common::fs::{File, Fs, OpenMode, read_file};
use odradek_common::{Offset, ProducerEpoch, ProducerId, time::Timestamp};
use odradek_records::{Batch, BatchError, BatchHeader};

use crate::leader_epochs::{EpochEntry, LeaderEpochs};
use crate::offset_index::OffsetPosition;
use crate::recovery::base_of;
use crate::scan::{RECOVERY_BUFFER_BYTES, Scan, ScanError, is_unwritten};
use crate::segment::LOG_SUFFIX;
use crate::txn_index::AbortedTxn;
use crate::{checkpoints, leader_epochs, offset_index, producer_snapshot, time_index, txn_index};

/// A snapshot of the metadata that a Kafka controller or broker wrote: batches, as a segment has them.
pub const METADATA_SNAPSHOT_SUFFIX: &str = ".checkpoint";
/// An index is held to `segment.index.bytes`, an `int`.
const INDEX_BYTES_MAX: u64 = i32::MAX as u64;

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A segment's batches.
    Log {
        base: Offset,
    },
    OffsetIndex {
        base: Offset,
    },
    TimeIndex {
        base: Offset,
    },
    TxnIndex {
        base: Offset,
    },
    /// The producer state before `offset`.
    ProducerSnapshot {
        offset: Offset,
    },
    LeaderEpochs,
    PartitionMetadata,
    /// A directory's recovery points, high watermarks or log starts, or how far its logs are clean.
    Offsets,
    CleanShutdown,
    MetaProperties,
    /// Kafka's metadata as of `end`, in batches.
    MetadataSnapshot {
        end: Offset,
    },
}

impl FileKind {
    /// `None`: no file of a log or a log directory has this name. What cleaning and deleting put behind a name does not
    /// count.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let name = [".deleted", ".cleaned", ".swap"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let base = |suffix: &str| base_of(name, suffix).map(Offset);
        Some(match name {
            leader_epochs::FILE => Self::LeaderEpochs,
            checkpoints::PARTITION_METADATA => Self::PartitionMetadata,
            checkpoints::RECOVERY_POINTS
            | checkpoints::HIGH_WATERMARKS
            | checkpoints::LOG_STARTS
            | checkpoints::CLEANED_TO => Self::Offsets,
            checkpoints::CLEAN_SHUTDOWN => Self::CleanShutdown,
            odradek_common::meta_properties::FILE_NAME => Self::MetaProperties,
            _ => {
                let log = base(LOG_SUFFIX).map(|base| Self::Log { base });
                log.or_else(|| base(offset_index::SUFFIX).map(|base| Self::OffsetIndex { base }))
                    .or_else(|| base(time_index::SUFFIX).map(|base| Self::TimeIndex { base }))
                    .or_else(|| base(txn_index::SUFFIX).map(|base| Self::TxnIndex { base }))
                    .or_else(|| base(producer_snapshot::SUFFIX).map(|offset| Self::ProducerSnapshot { offset }))
                    .or_else(|| metadata_snapshot_end(name).map(|end| Self::MetadataSnapshot { end }))?
            }
        })
    }
}

/// `{end offset:020}-{epoch:010}.checkpoint`
fn metadata_snapshot_end(name: &str) -> Option<Offset> {
    let (end, epoch) = name.strip_suffix(METADATA_SNAPSHOT_SUFFIX)?.split_once('-')?;
    let is_number = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(end, 20) && is_number(epoch, 10)).then(|| end.parse().ok().map(Offset))?
}

/// A batch and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundBatch {
    /// In bytes, from the start of the file.
    pub position: u64,
    pub header: BatchHeader,
    /// What its checksum says.
    pub crc: Result<(), BatchError>,
}

/// From here on the file has no sound batch.
#[derive(Debug, thiserror::Error)]
pub enum FileDamage {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("at byte {position}: {error}")]
    Batch { position: u64, error: BatchError },
}

/// A file of batches: a segment's `.log`, or a metadata snapshot.
#[derive(Debug)]
pub struct BatchFile {
    file: Arc<dyn File>,
    len: u64,
}

impl BatchFile {
    pub fn open(fs: &dyn Fs, path: &Path) -> io::Result<Self> {
        let file = fs.open(path, OpenMode::Read)?;
        let len = file.len()?;
        Ok(Self { file, len })
    }

    /// Bytes, when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The batches from the one at `position` on, each with its checksum computed. Ends after the first damage to a header,
    /// since nothing says where the next batch would be.
    pub fn batches(&self, position: u64) -> impl Iterator<Item = Result<FoundBatch, FileDamage>> + '_ {
        let mut scan = Scan::new(&*self.file, position, self.len, RECOVERY_BUFFER_BYTES);
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let found = next_batch(&mut scan).transpose();
            ended = !matches!(found, Some(Ok(_)));
            found
        })
    }

    /// Whether there is nothing but zeros from `position` on: room that was allocated and not written.
    pub fn is_unwritten_from(&self, position: u64) -> io::Result<bool> {
        is_unwritten(&*self.file, position, self.len)
    }

    /// The batch that was found, with its bytes.
    pub fn read(&self, found: &FoundBatch) -> io::Result<Batch> {
        let mut bytes = vec![0; found.header.size];
        self.file.read_exact_at(&mut bytes, found.position)?;
        Ok(Batch { header: found.header, bytes: bytes.into() })
    }
}

fn next_batch(scan: &mut Scan<'_>) -> Result<Option<FoundBatch>, FileDamage> {
    let Some((position, header)) = scan.next()? else { return Ok(None) };
    let crc = match scan.check_crc(position, &header) {
        Ok(()) => Ok(()),
        Err(ScanError::Batch(_, error @ BatchError::Crc { .. })) => Err(error),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(FoundBatch { position, header, crc }))
}

impl From<ScanError> for FileDamage {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Io(error) => Self::Io(error),
            ScanError::Batch(position, error) => Self::Batch { position, error },
        }
    }
}

/// The entries of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries<T> {
    pub entries: Vec<T>,
    /// Entries of zeros at the end: Kafka makes the files of an active segment larger than they need to be.
    pub padding: usize,
    /// Bytes behind the last whole entry.
    pub torn_bytes: usize,
}

fn entries<const N: usize, T>(fs: &dyn Fs, path: &Path, decode: impl Fn([u8; N]) -> T) -> io::Result<Entries<T>> {
    let bytes = read_file(fs, path, INDEX_BYTES_MAX)?;
    let (chunks, torn) = bytes.as_chunks::<N>();
    let used = chunks.iter().rposition(|entry| *entry != [0; N]).map_or(0, |last| last + 1);
    // The first entry of a segment may be all zeros and mean it, were it not that no entry is made for a first batch.
    let entries = chunks.iter().take(used).map(|entry| decode(*entry)).collect();
    Ok(Entries { entries, padding: chunks.len() - used, torn_bytes: torn.len() })
}

/// The offset index of the segment that begins at `base`.
pub fn read_offset_index(fs: &dyn Fs, path: &Path, base: Offset) -> io::Result<Entries<OffsetPosition>> {
    entries(fs, path, |entry| offset_index::decode(base.0, entry))
}

/// An entry of a time index: no record up to the batch of `offset` has a larger timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    pub timestamp: Timestamp,
    pub offset: Offset,
}

/// The time index of the segment that begins at `base`.
pub fn read_time_index(fs: &dyn Fs, path: &Path, base: Offset) -> io::Result<Entries<TimeEntry>> {
    entries(fs, path, |entry| {
        let (timestamp, offset) = time_index::decode(base.0, &entry);
        TimeEntry { timestamp: Timestamp(timestamp), offset: Offset(offset) }
    })
}

/// A transaction index. An entry of an unknown version is `InvalidData`.
pub fn read_txn_index(fs: &dyn Fs, path: &Path) -> io::Result<Entries<AbortedTxn>> {
    let bytes = read_file(fs, path, INDEX_BYTES_MAX)?;
    let chunks = bytes.chunks_exact(txn_index::ENTRY_BYTES);
    let torn_bytes = chunks.remainder().len();
    let decoded = chunks.enumerate().map(|(index, entry)| {
        AbortedTxn::decode(entry).ok_or_else(|| invalid(format!("entry {index} is of an unknown version")))
    });
    Ok(Entries { entries: decoded.collect::<Result<_, _>>()?, padding: 0, torn_bytes })
}

/// A producer in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotProducer {
    pub producer_id: ProducerId,
    pub epoch: ProducerEpoch,
    /// `-1`: none.
    pub coordinator_epoch: i32,
    pub last_timestamp: Timestamp,
    /// Of its open transaction.
    pub txn_first_offset: Option<Offset>,
    /// Oldest first. Kafka keeps the last alone.
    pub batches: Vec<SnapshotBatch>,
}

/// A batch that a snapshot remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotBatch {
    /// `-1`: none.
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub timestamp: Timestamp,
}

/// The producers of a snapshot, by id. One that is not sound is `InvalidData`.
pub fn read_producer_snapshot(fs: &dyn Fs, path: &Path) -> io::Result<Vec<SnapshotProducer>> {
    let bytes = read_file(fs, path, producer_snapshot::FILE_BYTES_MAX)?;
    let producers = producer_snapshot::decode(&bytes)
        .ok_or_else(|| invalid("its version, checksum or length is not that of a producer snapshot".to_owned()))?;
    let each = producers.into_iter().map(|(producer_id, entry)| SnapshotProducer {
        producer_id: ProducerId(producer_id),
        epoch: ProducerEpoch(entry.epoch),
        coordinator_epoch: entry.coordinator_epoch,
        last_timestamp: Timestamp(entry.last_timestamp),
        txn_first_offset: entry.txn_first_offset.map(Offset),
        batches: entry
            .batches
            .iter()
            .map(|batch| SnapshotBatch {
                first_sequence: batch.first_sequence(),
                last_sequence: batch.last_sequence,
                first_offset: Offset(batch.last_offset.saturating_sub(i64::from(batch.offset_delta))),
                last_offset: Offset(batch.last_offset),
                timestamp: Timestamp(batch.timestamp),
            })
            .collect(),
    });
    Ok(each.collect())
}

/// The entries of a `leader-epoch-checkpoint`, ascending. A file that is cut off or not in order is `InvalidData`.
pub fn read_leader_epochs(fs: &dyn Fs, path: &Path) -> io::Result<Vec<EpochEntry>> {
    let bytes = read_file(fs, path, leader_epochs::FILE_BYTES_MAX)?;
    let epochs = LeaderEpochs::parse(&bytes)
        .ok_or_else(|| invalid("it is cut off, or its epochs and offsets do not ascend".to_owned()))?;
    Ok(epochs.entries().to_vec())
}

/// The files of a directory that [`FileKind`] knows, sorted by name.
pub fn list(fs: &dyn Fs, dir: &Path) -> io::Result<Vec<(PathBuf, FileKind)>> {
    let files = fs.read_dir(dir)?.into_iter().filter(|entry| !entry.is_dir).map(|entry| dir.join(entry.name));
    Ok(files.filter_map(|path| FileKind::of(&path).map(|kind| (path, kind))).collect())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
