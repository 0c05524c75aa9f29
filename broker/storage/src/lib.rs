//! Partition logs on disk, in Kafka's own layout and file formats, so that Kafka's `DumpLogSegments` reads them and a
//! Kafka data directory can be adopted.
//!
//! - [`Log`] is one partition: append, read, look up, truncate, flush, retain, recover. One writer at a time (`&mut`),
//!   any number of readers (`&`).
//! - [`Cleaning`] compacts a log in steps, beside its readers and its writer.
//! - [`LogDirs`] are a broker's `log.dirs`: identity, locks, checkpoints, loading and placement.
//!
//! - [`files`] are single files of a log, read without a log, and [`verify`] checks directories that no broker uses: for
//!   the tools of operators. Neither writes.
//!
//! Everything is synchronous and goes through [`odradek_common::fs::Fs`]: no async runtime, no `std::fs`, no clock, no
//! threads. A failed write or sync takes its log directory offline ([`LogDir`]) and is never retried, but for a write
//! that found no room: it is undone, and the log goes on ([`StorageError::is_full`]). Damaged bytes are a typed error
//! that names file, position and offset.
//!
//! **Invariant:** no index is mapped into memory; a segment that is not read costs a few hundred bytes and no descriptor;
//! a log in which nothing happens costs less than 2 KiB.

pub mod checkpoints;
mod cleaner;
mod config;
mod dir;
mod error;
pub mod files;
mod index_file;
mod leader_epochs;
mod log;
mod log_dirs;
mod log_file;
mod offset_index;
mod patience;
mod producer_snapshot;
mod producer_state;
mod recovery;
mod scan;
mod segment;
mod time_index;
mod txn_index;
mod validate;
pub mod verify;

pub use cleaner::{CleanError, CleanProgress, CleanStats, Cleanable, CleanerConfig, Cleaning, Replacement};
pub use config::{LogConfig, ProducerStateConfig, Recompression};
pub use dir::{LogDir, Room};
pub use error::{AppendError, Corruption, LogError, ReadError, RecordFault, StorageError};
pub use leader_epochs::{EpochEndOffset, EpochEntry};
pub use log::{
    AppendInfo, AppendOrigin, DeferredDelete, FUTURE_SUFFIX, FlushJob, Flushed, Found, Log, LogLocation, ReadSlice,
    TimestampLookup, TimestampOffset, future_dir_name,
};
pub use log_dirs::{
    CheckpointOffsets, DirFailure, FoundFuture, IdentityError, KAFKAS_METADATA_DIR, LOCK, LoadReport, LoadRequest,
    LogDirs, LogDirsConfig, PartitionCheckpoint, format_directory, parse_partition,
};
pub use log_file::OpenFiles;
pub use offset_index::OffsetPosition;
pub use patience::ColdRange;
pub use producer_state::{ActiveProducer, BatchMetadata, CompletedTxn, ProducerError, ProducerStates, Unverified};
pub use recovery::{Damage, Recovery, RecoveryReport};
pub use txn_index::AbortedTxn;
