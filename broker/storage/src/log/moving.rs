//! Moving a log to another log directory (KIP-113). A copy is made under the name of a future replica,
//! `<topic>-<partition>.<32 hex digits>-future`, and takes the log's place when it has caught up. Kafka's
//! `LogManager.replaceCurrentWithFutureLog`.
//!
//! The two directories may be on two disks, so that there is no one rename that does it. At each moment either the log or
//! a complete copy has the partition's name:
//!
//! 1. The copy is on disk, with a mark in it that says which directory it replaces ([`Log::prepare_to_replace`]).
//! 2. It gets the partition's name.
//! 3. The log that it replaces becomes `-delete`.
//! 4. The mark goes.
//!
//! A start that finds the partition in both directories goes by the mark.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use odradek_common::fs::{Fs, read_file, write_file_atomically};
use odradek_common::{Offset, TopicPartition, Uuid, time::Timestamp};

use crate::dir::Place;
use crate::error::{LogError, StorageError};
use crate::log::{DeferredDelete, Log, LogLocation};
use crate::log_dirs::parse_partition;

pub const FUTURE_SUFFIX: &str = "-future";
/// In a partition's directory while it takes the place of another: the `directory.id` of that one's log directory.
const MARK: &str = "moved-from";
const MARK_BYTES_MAX: u64 = 1024;
const HEX_DIGITS: usize = 32;
/// What a file name may have on every file system of note.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// The name of a future replica's directory; `None`: the topic's name leaves no room for it.
pub fn future_dir_name(partition: &TopicPartition, unique: Uuid) -> Option<String> {
    let name = format!("{partition}.{}{FUTURE_SUFFIX}", hex(unique));
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

pub(super) fn hex(unique: Uuid) -> String {
    unique.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The partition of a future replica's directory.
pub(crate) fn parse_future(name: &str) -> Option<TopicPartition> {
    let (partition, unique) = name.strip_suffix(FUTURE_SUFFIX)?.rsplit_once('.')?;
    let is_hex = unique.len() == HEX_DIGITS && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { parse_partition(partition) } else { None }
}

/// Which log directory the log in `dir` was moved from, if that may not be complete.
pub(crate) fn read_mark(fs: &dyn Fs, dir: &Path) -> Option<Uuid> {
    let bytes = read_file(fs, &dir.join(MARK), MARK_BYTES_MAX).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

/// The move is complete. A failure costs nothing: the mark is looked at again at the next start.
pub(crate) fn remove_mark(fs: &dyn Fs, location: &LogLocation) {
    let dir = location.dir();
    match fs.remove_file(&dir.join(MARK)).and_then(|()| fs.sync_dir(&dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "the mark of a move stays in {}", dir.display()),
        Ok(()) => {}
    }
}

impl Log {
    /// Makes everything that was copied so far durable, and says what it is about to replace: a log in the log directory
    /// of that id.
    pub fn prepare_to_replace(&mut self, replaced: Uuid, now: Timestamp) -> Result<(), LogError> {
        self.flush(now)?;
        let path = self.place.dir.join(MARK);
        let written = write_file_atomically(&*self.place.fs, &path, replaced.to_string().as_bytes());
        Ok(self.place.guard("writing", || path, written)?)
    }

    /// Takes the partition's name from `current`, which was moved here. When that fails, `current` comes back as it was.
    /// The deletion's failure is that of the directory that is left.
    pub fn replace(
        &mut self,
        current: Log,
        unique: Uuid,
    ) -> Result<Result<DeferredDelete, LogError>, (Box<Log>, StorageError)> {
        self.producers.take_over_markers(&current.producers);
        let place = self.place.clone();
        let (from, root) = (place.dir.clone(), place.log_dir.path.clone());
        let to = root.join(self.partition.to_string());
        let renamed = match place.fs.exists(&to) {
            // A log that was found at the start and set aside by no one; never write over it.
            Ok(true) => Err(io::Error::from(ErrorKind::AlreadyExists)),
            Ok(false) => place.fs.rename(&from, &to),
            Err(error) => Err(error),
        };
        if let Err(error) = place.guard("renaming", || from.clone(), renamed) {
            return Err((Box::new(current), error));
        }
        let moved = Place::new(place.fs.clone(), to.clone(), place.log_dir.clone());
        // Syncs of the other log that are still under way say nothing of this one.
        moved.start_truncations_at(place.truncations().max(current.place.truncations()) + 1);
        self.place = Arc::new(moved);
        self.names_unsynced = true;
        self.dir_unsynced = true;
        if let Err(error) = place.guard(crate::error::SYNCING, || root.clone(), place.fs.sync_dir(&root)) {
            return Err((Box::new(current), error));
        }
        let deleted = current.delete(unique);
        if deleted.is_ok() {
            let location =
                LogLocation { fs: place.fs.clone(), log_dir: place.log_dir.clone(), partition: self.partition.clone() };
            remove_mark(&*place.fs, &location);
        }
        Ok(deleted)
    }

    /// A copy takes over what is known of the log it is made from: how far it is committed, and where it begins.
    pub fn follow_bounds(&mut self, log_start: Offset, high_watermark: Offset) -> Result<(), LogError> {
        if high_watermark > self.high_watermark {
            self.set_high_watermark(high_watermark);
        }
        if log_start > self.log_start && log_start <= self.high_watermark {
            self.delete_records_before(log_start)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_future_replica_is_kafkas() {
        let partition = TopicPartition::new("a.b-c", 12);
        let name = future_dir_name(&partition, Uuid([0xab; 16])).expect("short");
        assert_eq!(name, format!("a.b-c-12.{}-future", "ab".repeat(16)));
        assert_eq!(parse_future(&name), Some(partition));
        for wrong in ["a-0-future", "a-0.12-future", "a-0", &format!("a.{}-future", "ab".repeat(16))] {
            assert_eq!(parse_future(wrong), None, "{wrong}");
        }
        let long = TopicPartition::new(&*"x".repeat(249), 0);
        assert_eq!(future_dir_name(&long, Uuid([1; 16])), None);
    }
}
