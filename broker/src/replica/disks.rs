//! The log directories as the broker runs: one that fails takes its partitions offline at once, and how much room each has
//! says what is still written there.
//!
//! A directory fails when an operation on it does ([`LogDir`]), or when a look shows that it is not there any more. Room
//! is a matter of marks: below the soft one clients' records are refused, below the hard one all records. A write that
//! finds no room counts as below the hard one until the next look. Between two looks logs count what they write. When there is room again, everything goes on by
//! itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{LogDir, LogDirs, Room};
use odradek_common::Uuid;
use odradek_common::config::LogConfig;
use odradek_common::fs::DiskSpace;
use tokio::sync::watch;

use super::ReplicaManager;
use super::partition::{MovedBack, Partition};

/// How often each directory is looked at; and when one of them may soon be full.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_CLOSE: Duration = Duration::from_millis(100);

/// A disk is close to its soft mark with less than so many times its bytes.
const CLOSE_FACTOR: u64 = 4;

/// A mark that was passed is left behind only with so many percent more, so that the two states do not alternate.
const RETURN_PERCENT: u64 = 110;

#[derive(Debug)]
pub(super) struct Disks {
    /// Counts failures.
    failures: Arc<watch::Sender<u64>>,
    /// Partitions whose logs could not be opened for want of room. Bounded by the number of replicas.
    waiting: Mutex<Vec<Arc<Partition>>>,
    /// Some partition may owe a checkpoint: only then are all of them asked.
    is_owed: AtomicBool,
}

impl Disks {
    pub fn new(dirs: &LogDirs) -> Self {
        let failures = Arc::new(watch::Sender::new(0));
        for dir in dirs.dirs() {
            let failures = failures.clone();
            dir.on_failure(move || failures.send_modify(|count| *count += 1));
        }
        Self { failures, waiting: Mutex::default(), is_owed: AtomicBool::new(false) }
    }

    /// A truncation could not write its checkpoint on a full disk.
    pub fn owe_checkpoint(&self) {
        self.is_owed.store(true, Ordering::Release);
    }

    /// The partition's log is opened when there is room.
    pub fn wait_for_room(&self, partition: &Arc<Partition>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(partition.clone());
    }

    fn take_waiting(&self) -> Vec<Arc<Partition>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The bytes that have to be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    soft: u64,
    hard: u64,
}

impl Marks {
    /// A percentage keeps the marks in proportion on a small disk, the bytes on a large one.
    fn of(config: &LogConfig, total: u64) -> Self {
        let mark = |bytes: u64, percent: u32| {
            bytes.min(u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX))
        };
        Self {
            soft: mark(config.free_soft_bytes, config.free_soft_percent),
            hard: mark(config.free_hard_bytes, config.free_hard_percent),
        }
    }

    fn room(self, available: u64, before: Room) -> Room {
        let is_below = |mark: u64, room: Room| {
            // 0 is no mark.
            let mark = if before >= room { mark.saturating_mul(RETURN_PERCENT) / 100 } else { mark };
            available < mark
        };
        if is_below(self.hard, Room::None) {
            Room::None
        } else if is_below(self.soft, Room::Little) {
            Room::Little
        } else {
            Room::Enough
        }
    }
}

impl ReplicaManager {
    /// Counts the failures of log directories.
    pub fn directory_failures(&self) -> watch::Receiver<u64> {
        self.disks.failures.subscribe()
    }

    /// Completes when no log directory is usable any more; says what became of the first.
    pub async fn failed(&self) -> String {
        let mut failures = self.directory_failures();
        while self.dirs.online().next().is_some() {
            if failures.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        let first = self.dirs.dirs().find_map(|dir| dir.failure());
        first.map(ToString::to_string).unwrap_or_default()
    }

    /// Takes the partitions of each directory that fails offline. Runs for as long as the broker.
    pub(super) async fn watch_failures(self: Arc<Self>) {
        let mut failures = self.directory_failures();
        let mut known = HashSet::new();
        loop {
            for dir in self.dirs.dirs() {
                if let Some(failure) = dir.failure()
                    && known.insert(dir.id)
                {
                    self.take_offline(dir.id, &failure.to_string());
                }
            }
            if failures.changed().await.is_err() {
                return;
            }
        }
    }

    fn take_offline(self: &Arc<Self>, dir: Uuid, reason: &str) {
        let mut count = 0;
        for partition in self.all_partitions() {
            self.abandon_move_to(&partition, dir);
            if partition.saved_dir().is_none_or(|of| of.id != dir) {
                continue;
            }
            if let Some(after) = partition.failed(reason.to_owned()) {
                count += 1;
                self.finish(&partition, after);
                self.fetchers.refetch(self, &partition);
            }
        }
        tracing::error!(partitions = count, reason, "the partitions of a log directory are offline");
    }

    /// Looks at the directories now and then. Runs for as long as the broker.
    pub(super) async fn watch_room(self: Arc<Self>) {
        loop {
            let manager = self.clone();
            let is_close = self.world.on_disk(move || manager.look_at_disks()).await;
            self.go_on_with_room();
            self.world.sleep(if is_close { LOOK_INTERVAL_CLOSE } else { LOOK_INTERVAL }).await;
        }
    }

    /// Whether one of them may soon be full.
    pub(super) fn look_at_disks(&self) -> bool {
        let mut is_close = false;
        let is_owed = self.disks.is_owed.swap(false, Ordering::AcqRel);
        let mut is_unpaid = false;
        for dir in self.dirs.online() {
            // A failure takes the directory offline, and is told there.
            let Ok(space) = self.dirs.check_presence(dir).and_then(|()| self.dirs.space(dir)) else { continue };
            let marks = Marks::of(&self.config.log, space.total);
            is_close |= space.available < marks.soft.saturating_mul(CLOSE_FACTOR) || dir.room() != Room::Enough;
            take_down(dir, marks, space);
            if is_owed {
                is_unpaid |= dir.room() == Room::None || !self.pay_checkpoints(dir);
            }
        }
        if is_unpaid {
            self.disks.owe_checkpoint();
        }
        is_close
    }

    /// Writes the checkpoints that a truncation on a full disk owes. Whether nothing is owed any more.
    fn pay_checkpoints(&self, dir: &LogDir) -> bool {
        let owing: Vec<_> =
            self.all_partitions().into_iter().filter(|partition| partition.owes_checkpoint(dir)).collect();
        if owing.is_empty() {
            return true;
        }
        let is_paid = self.write_truncated(dir, MovedBack { recovery_point: true, cleaned_to: true }).is_ok();
        if is_paid {
            owing.iter().for_each(|partition| partition.checkpoint_is_paid());
        }
        is_paid
    }

    /// Opens the logs that wait for room.
    fn go_on_with_room(self: &Arc<Self>) {
        if self.dirs.online().all(|dir| dir.room() == Room::None) {
            return;
        }
        let mut waiting = self.disks.take_waiting();
        waiting.retain(|partition| partition.try_again());
        self.open_all(waiting);
    }
}

fn take_down(dir: &LogDir, marks: Marks, space: DiskSpace) {
    let before = dir.room();
    let room = marks.room(space.available, before);
    // 0 is no mark.
    let left_to = |mark: u64| if mark == 0 { u64::MAX } else { space.available.saturating_sub(mark) };
    if dir.set_room(room, left_to(marks.soft), left_to(marks.hard)) == room {
        return;
    }
    let (path, free, Marks { soft, hard }) = (dir.path.display(), space.available, marks);
    match room {
        Room::Enough => tracing::info!("the log directory {path} has room again: {free} bytes are free"),
        Room::Little => tracing::warn!(
            "the log directory {path} has only {free} bytes free: clients' records are refused below {soft}"
        ),
        Room::None => {
            tracing::error!("the log directory {path} has only {free} bytes free: no records are taken below {hard}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_mark_counts_and_a_mark_is_left_behind_with_a_margin() {
        let config = LogConfig::default();
        const GIB: u64 = 1 << 30;
        assert_eq!(Marks::of(&config, 1000 * GIB), Marks { soft: GIB, hard: GIB / 4 });
        assert_eq!(Marks::of(&config, 100), Marks { soft: 5, hard: 1 });
        let off = LogConfig { free_soft_bytes: 0, free_hard_bytes: 0, ..config };
        assert_eq!(Marks::of(&off, GIB).room(0, Room::None), Room::Enough);

        let marks = Marks { soft: 1000, hard: 100 };
        for (available, before, expected) in [
            (1000, Room::Enough, Room::Enough),
            (999, Room::Enough, Room::Little),
            (1000, Room::Little, Room::Little),
            (1100, Room::Little, Room::Enough),
            (100, Room::Little, Room::Little),
            (99, Room::Enough, Room::None),
            (109, Room::None, Room::None),
            (110, Room::None, Room::Little),
            (5000, Room::None, Room::Enough),
        ] {
            assert_eq!(marks.room(available, before), expected, "{available} bytes after {before:?}");
        }
    }
}
