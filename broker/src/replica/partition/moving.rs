//! A partition whose log is copied into another log directory (KIP-113): what the copy lacks, and the swap.
//!
//! The copy is a follower of the log beside it: it appends whole batches, truncates where the histories part, and takes
//! over high watermark and log start. Reading and writing happen without the partition's lock, but for the last piece.

use odradek_broker_storage::{AppendError, DeferredDelete};
use odradek_common::Uuid;

use super::*;

/// Read from the log and written to the copy in one step.
const PIECE_BYTES: usize = 1 << 20;

/// Pieces that may be copied with the partition's lock held, so that a log that is written to without pause is caught up
/// with at last.
const LAST_PIECES_MAX: usize = 2;

/// Why a copy does not go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::replica) enum CopyError {
    /// There is no copy any more, or another one.
    #[error("the move was given up")]
    Superseded,
    /// For now, or until the next start.
    #[error("the log is not open")]
    NotOpen,
    #[error("the copy's end cannot be written: {0}")]
    Append(#[from] AppendError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the log cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

impl CopyError {
    pub fn is_full(&self) -> bool {
        match self {
            Self::Append(AppendError::Log(error)) | Self::Log(error) => error.is_full(),
            _ => false,
        }
    }
}

impl From<StorageError> for CopyError {
    fn from(error: StorageError) -> Self {
        Self::Log(error.into())
    }
}

/// What came of an attempt to put the copy in the log's place.
pub(in crate::replica) enum Swap {
    /// The log has moved on.
    NotYet,
    /// The partition is in `to`. The log that was in `from` is out of sight; its failure to go is that directory's.
    Done { from: Arc<LogDir>, to: Arc<LogDir>, deleted: Result<DeferredDelete, LogError> },
}

/// What the copy needs next.
enum Next {
    Append(FileRange),
    /// Its history parts from the log's.
    Truncate(EpochEnd),
    /// What comes next was deleted.
    StartAt(Offset),
    CaughtUp,
}

struct Bounds {
    log_start: Offset,
    high_watermark: Offset,
}

impl Partition {
    pub(in crate::replica) fn lock_future(&self) -> MutexGuard<'_, Option<Box<Log>>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the log is; KAFKA_STORAGE_ERROR when it is offline.
    pub fn current_dir(&self) -> Result<Arc<LogDir>, PartitionError> {
        let inner = self.lock();
        match (&inner.role, &inner.log) {
            (Role::Leader(_) | Role::Follower { .. }, Some(log)) => Ok(log.log_dir().clone()),
            _ => Err(inner.refusal()),
        }
    }

    /// Where a copy of the log is being made.
    pub fn future_dir(&self) -> Option<Arc<LogDir>> {
        self.lock_future().as_ref().map(|log| log.log_dir().clone())
    }

    /// Takes a copy that is to be completed, unless the partition is gone or there is one.
    pub fn set_future(&self, log: Log) -> Result<(), Box<Log>> {
        let inner = self.lock();
        let mut future = self.lock_future();
        if matches!(inner.role, Role::Gone) || future.is_some() {
            return Err(Box::new(log));
        }
        *future = Some(Box::new(log));
        Ok(())
    }

    pub fn take_future(&self) -> Option<Log> {
        self.lock_future().take().map(|log| *log)
    }

    /// Size and log end of the copy, and how much it lacks.
    pub fn describe_future(&self) -> Option<(Arc<LogDir>, u64, i64)> {
        let (dir, size, log_end) = {
            let future = self.lock_future();
            let log = future.as_ref()?;
            (log.log_dir().clone(), log.size_bytes(), log.log_end())
        };
        let current = self.lock().log.as_ref().map_or(log_end, Log::log_end);
        Some((dir, size, current.0 - log_end.0))
    }

    /// Copies the next piece: its bytes, and whether there was nothing left.
    pub fn copy_piece(&self, now: Timestamp) -> Result<(usize, bool), CopyError> {
        let (dir, position) = {
            let future = self.lock_future();
            let log = future.as_ref().ok_or(CopyError::Superseded)?;
            (log.dir().to_owned(), position(log, false))
        };
        let (next, bounds) = self.lock().next_of_copy(position)?;
        let records = match &next {
            Next::Append(range) => Some(range.load()?),
            _ => None,
        };
        let mut future = self.lock_future();
        let log = future.as_mut().filter(|log| log.dir() == dir).ok_or(CopyError::Superseded)?;
        let is_caught_up = matches!(next, Next::CaughtUp);
        let rolled = advance(log, next, records.as_deref().unwrap_or_default(), now)?;
        log.follow_bounds(bounds.log_start, bounds.high_watermark)?;
        if rolled {
            // A move of many gigabytes must not end in one sync of them all.
            log.flush(now)?;
        }
        Ok((records.map_or(0, |records| records.len()), is_caught_up))
    }

    /// Makes the copy durable and ready to replace the log: where it is, and what the checkpoints have to say of it.
    pub fn prepare_swap(&self, now: Timestamp) -> Result<(Arc<LogDir>, PartitionCheckpoint), CopyError> {
        let replaced = self.lock().log.as_ref().ok_or(CopyError::NotOpen)?.log_dir().id;
        let mut future = self.lock_future();
        let log = future.as_mut().ok_or(CopyError::Superseded)?;
        log.prepare_to_replace(replaced, now)?;
        Ok((log.log_dir().clone(), log.checkpoint()))
    }

    /// Puts the copy, which [`Partition::prepare_swap`] has made ready, in the log's place, if it is complete.
    pub fn swap(&self, unique: Uuid, now: Timestamp) -> Result<Swap, CopyError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let mut slot = self.lock_future();
        let future = slot.as_mut().ok_or(CopyError::Superseded)?;
        let mut is_caught_up = false;
        for _ in 0..=LAST_PIECES_MAX {
            let (next, bounds) = inner.next_of_copy(position(future, false))?;
            is_caught_up = matches!(next, Next::CaughtUp);
            match next {
                Next::Append(range) => {
                    let records = range.load()?;
                    advance(future, Next::Append(range), &records, now)?;
                }
                Next::CaughtUp => {}
                Next::Truncate(_) | Next::StartAt(_) => break,
            }
            future.follow_bounds(bounds.log_start, bounds.high_watermark)?;
            if is_caught_up {
                break;
            }
        }
        if !is_caught_up {
            return Ok(Swap::NotYet);
        }
        if inner.config.is_durable() {
            future.flush(now)?;
        }
        let (Some(current), Some(mut future)) = (inner.log.take(), slot.take()) else { return Err(CopyError::NotOpen) };
        let from = current.log_dir().clone();
        match future.replace(current, unique) {
            Ok(deleted) => {
                future.set_config(inner.config.log.clone());
                let to = future.log_dir().clone();
                self.save(&future);
                inner.log = Some(*future);
                Ok(Swap::Done { from, to, deleted })
            }
            Err((current, error)) => {
                inner.log = Some(*current);
                *slot = Some(future);
                Err(error.into())
            }
        }
    }
}

impl Inner {
    fn next_of_copy(&self, copy: FetchPosition) -> Result<(Next, Bounds), CopyError> {
        let (Role::Leader(_) | Role::Follower { .. }, Some(log)) = (&self.role, &self.log) else {
            return Err(CopyError::NotOpen);
        };
        let bounds = Bounds { log_start: log.log_start(), high_watermark: log.high_watermark() };
        let own = log.leader_epoch_end_offset(copy.last_epoch);
        let own = (own != EpochEndOffset::UNKNOWN).then_some(EpochEnd { epoch: own.epoch, end: own.end });
        let next = match follower::divergence(copy.last_epoch, copy.log_end, own, log.log_start()) {
            Divergence::At(end) => Next::Truncate(end),
            Divergence::OutOfRange => Next::StartAt(log.log_start()),
            Divergence::None if copy.log_end < log.log_start() || copy.log_end > log.log_end() => {
                Next::StartAt(log.log_start())
            }
            Divergence::None if copy.log_end == log.log_end() => Next::CaughtUp,
            Divergence::None => {
                let slice = log.read(copy.log_end, PIECE_BYTES, log.log_end(), true)?;
                let file = slice.file.filter(|_| slice.len > 0);
                // Nothing there below the end: compaction has taken all of it. It goes on with the next record.
                let file = file.ok_or(CopyError::NotOpen)?;
                Next::Append(FileRange { file, position: slice.position, len: slice.len, stream: None })
            }
        };
        Ok((next, bounds))
    }
}

/// Whether a segment of the copy was closed.
fn advance(copy: &mut Log, next: Next, records: &[u8], now: Timestamp) -> Result<bool, CopyError> {
    match next {
        Next::Append(_) => {
            Ok(copy.append_as_follower(records, LeaderEpoch(i32::MAX), now)?.is_some_and(|info| info.rolled))
        }
        Next::Truncate(end) => {
            let own = copy.leader_epoch_end_offset(end.epoch);
            let own = (own != EpochEndOffset::UNKNOWN).then_some(EpochEnd { epoch: own.epoch, end: own.end });
            let to = follower::truncation(end, own, copy.log_end());
            copy.truncate_to(to, now)?;
            Ok(false)
        }
        Next::StartAt(offset) => {
            copy.truncate_fully_and_start_at(offset, now)?;
            Ok(false)
        }
        Next::CaughtUp => Ok(false),
    }
}

impl FileRange {
    fn load(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes)
    }
}
