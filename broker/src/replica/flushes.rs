//! Flushes: what was written to logs is synced in rounds, one at a time in each log directory (group commit).
//!
//! 1. Whoever wants a log flushed puts its partition into the next round of its directory, once, however many want it.
//! 2. A round takes all that wait, collects what each has to sync (under the partition's lock), and syncs it on a few
//!    threads of the disk pool at once. What is appended meanwhile waits for the next round.
//! 3. As soon as a log is synced its recovery point moves, and with it, in a durable topic, the leader's share in the high
//!    watermark: all produces that wait for it are answered at once, by one sync.
//!
//! So the busier a disk is, the more records share a sync, and one that is idle starts at once. A partition is in one
//! round at most, as two syncs of a log at a time could not tell which records are on disk, nor which of them has seen a
//! failure. A sync that fails takes the directory offline (rule 13): what is left of the round then fails too, and
//! whoever waits for it is told.
//!
//! `docs/decisions/0004-flush-policy.md` says which records wait for the disk, and why a round is not one `syncfs`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_broker_storage::{FlushJob, LogDirs};
use odradek_common::Uuid;
use tokio::sync::{Notify, oneshot};

use super::ReplicaManager;
use super::partition::Partition;

/// Threads on which one round syncs. More than a disk has queues they need not be: a journal commits for all who wait for it
/// at once.
const LANES: usize = 8;

/// A log whose flush found no room (the index of a closed segment is written by it) is flushed again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells that what was asked for is over; dropped without a word when the broker stops.
type Done = oneshot::Sender<()>;

/// How a partition takes part in rounds.
#[derive(Debug, Default)]
pub(super) struct FlushState(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    phase: Phase,
    /// Who waits for a round that begins after they asked.
    waiting: Vec<Done>,
    has_timer: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Idle,
    /// In the next round.
    Queued,
    /// In the round that runs.
    Syncing,
    /// In the round that runs, and wanted in the next one.
    Again,
}

impl FlushState {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is to put the partition into a round.
    fn request(&self, done: Option<Done>) -> bool {
        let mut slot = self.lock();
        slot.waiting.extend(done);
        let before = slot.phase;
        slot.phase = match before {
            Phase::Idle | Phase::Queued => Phase::Queued,
            Phase::Syncing | Phase::Again => Phase::Again,
        };
        before == Phase::Idle
    }

    /// The round has begun. What is asked for from here on is not in it.
    fn begin(&self) -> Vec<Done> {
        let mut slot = self.lock();
        slot.phase = Phase::Syncing;
        std::mem::take(&mut slot.waiting)
    }

    /// Whether the caller is to put the partition into the next round.
    fn end(&self) -> bool {
        let mut slot = self.lock();
        let again = slot.phase == Phase::Again;
        slot.phase = if again { Phase::Queued } else { Phase::Idle };
        again
    }

    /// There is no round to be in.
    fn give_up(&self) {
        *self.lock() = Slot::default();
    }

    /// Whether the caller is to set the timer.
    fn arm(&self) -> bool {
        !std::mem::replace(&mut self.lock().has_timer, true)
    }

    fn disarm(&self) {
        self.lock().has_timer = false;
    }
}

/// The rounds of all log directories.
#[derive(Debug)]
pub(super) struct Flushes(Vec<(Uuid, Arc<Rounds>)>);

/// One directory's.
#[derive(Debug, Default)]
struct Rounds {
    state: Mutex<RoundsState>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct RoundsState {
    /// At most once each. Bounded by the number of replicas.
    waiting: Vec<Arc<Partition>>,
    is_running: bool,
    is_stopped: bool,
}

/// One log in a round.
struct Sync {
    partition: Arc<Partition>,
    job: FlushJob,
    waiting: Vec<Done>,
}

struct Round {
    rounds: Arc<Rounds>,
    syncs: Mutex<Vec<Sync>>,
    /// Those that are not done.
    left: AtomicUsize,
}

impl Flushes {
    pub fn new(dirs: &LogDirs) -> Self {
        Self(dirs.dirs().map(|dir| (dir.id, Arc::default())).collect())
    }

    fn of(&self, dir: Uuid) -> Option<&Arc<Rounds>> {
        self.0.iter().find(|(id, _)| *id == dir).map(|(_, rounds)| rounds)
    }

    /// Begins no more rounds, and waits for those that run.
    pub async fn stop(&self) {
        for (_, rounds) in &self.0 {
            rounds.stop().await;
        }
    }
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, RoundsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is to begin a round.
    fn add(&self, partition: Arc<Partition>) -> bool {
        let mut state = self.lock();
        if state.is_stopped {
            partition.flushing.give_up();
            return false;
        }
        state.waiting.push(partition);
        !std::mem::replace(&mut state.is_running, true)
    }

    /// What the next round is about; `None`: there is none, and whoever comes next begins it.
    fn take(&self) -> Option<Vec<Arc<Partition>>> {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        if waiting.is_empty() || state.is_stopped {
            state.is_running = false;
            drop(state);
            waiting.iter().for_each(|partition| partition.flushing.give_up());
            self.ended.notify_waiters();
            return None;
        }
        Some(waiting)
    }

    async fn stop(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            {
                let mut state = self.lock();
                state.is_stopped = true;
                if !state.is_running {
                    return;
                }
            }
            ended.await;
        }
    }
}

impl ReplicaManager {
    /// Has a log flushed by the next round.
    pub(super) fn flush_later(self: &Arc<Self>, partition: &Arc<Partition>) {
        if partition.flushing.request(None) {
            self.enqueue([partition.clone()]);
        }
    }

    /// Completes when all that these logs have by now is on disk, or that has failed: then the partition is offline, or the
    /// disk is full.
    pub(super) async fn flush_and_wait(self: &Arc<Self>, partitions: &[Arc<Partition>]) {
        let mut requests = Vec::with_capacity(partitions.len());
        let mut new = Vec::new();
        for partition in partitions {
            let (done, request) = oneshot::channel();
            requests.push(request);
            if partition.flushing.request(Some(done)) {
                new.push(partition.clone());
            }
        }
        self.enqueue(new);
        for request in requests {
            // Dropped without a word: the broker stops, or the log is gone.
            let _ = request.await;
        }
    }

    /// Has a log flushed when its records have waited as long as `flush.ms` lets them.
    pub(super) fn flush_within(self: &Arc<Self>, partition: &Arc<Partition>, wait: Duration) {
        if !partition.flushing.arm() {
            return;
        }
        // Neither holds up the end of the manager, which holds the directories.
        let (world, manager, partition) = (self.world.clone(), Arc::downgrade(self), Arc::downgrade(partition));
        self.world.spawn("log flush by flush.ms", async move {
            world.sleep(wait).await;
            let (Some(manager), Some(partition)) = (manager.upgrade(), partition.upgrade()) else { return };
            partition.flushing.disarm();
            let now = manager.world.timestamp();
            if partition.is_flush_due(now) {
                manager.flush_later(&partition);
            } else if let Some(wait) = partition.flush_within(now) {
                manager.flush_within(&partition, wait);
            }
        });
    }

    fn enqueue(self: &Arc<Self>, partitions: impl IntoIterator<Item = Arc<Partition>>) {
        let mut idle = Vec::new();
        for partition in partitions {
            let dir = partition.saved_dir();
            match dir.and_then(|dir| self.flushes.of(dir.id)) {
                Some(rounds) if rounds.add(partition.clone()) => idle.push(rounds.clone()),
                Some(_) => {}
                None => partition.flushing.give_up(),
            }
        }
        for rounds in idle {
            let manager = self.clone();
            self.world.disk.execute(Box::new(move || manager.run_rounds(rounds)));
        }
    }

    /// Runs rounds, on this thread of the disk pool and others, for as long as there is something to do.
    fn run_rounds(self: &Arc<Self>, rounds: Arc<Rounds>) {
        while let Some(partitions) = rounds.take() {
            let syncs: Vec<Sync> =
                partitions.into_iter().filter_map(|partition| self.collect(&rounds, partition)).collect();
            if syncs.is_empty() {
                continue;
            }
            let lanes = syncs.len().min(LANES);
            let left = AtomicUsize::new(syncs.len());
            let round = Arc::new(Round { rounds: rounds.clone(), syncs: Mutex::new(syncs), left });
            for _ in 1..lanes {
                let (manager, round) = (self.clone(), round.clone());
                self.world.disk.execute(Box::new(move || {
                    if manager.run_lane(&round) {
                        manager.run_rounds(round.rounds.clone());
                    }
                }));
            }
            // Whoever syncs the last log of a round goes on with the next.
            if !self.run_lane(&round) {
                return;
            }
        }
    }

    /// What a log has to sync in this round. Nothing, if another flush has done it, or it cannot be done now.
    fn collect(self: &Arc<Self>, rounds: &Rounds, partition: Arc<Partition>) -> Option<Sync> {
        let waiting = partition.flushing.begin();
        let now = self.world.now();
        if let Some(job) = partition.flush_job(now) {
            return Some(Sync { partition, job, waiting });
        }
        if partition.owes_flush() {
            self.flush_within(&partition, RETRY_AFTER);
        }
        rounds.settle(partition, waiting);
        None
    }

    /// Syncs logs of a round until none is left to be begun. Whether the round has ended by that.
    fn run_lane(self: &Arc<Self>, round: &Round) -> bool {
        loop {
            let next = round.syncs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(Sync { partition, job, waiting }) = next else { return false };
            match job.run() {
                Ok(flushed) => {
                    let image = self.image();
                    let after = partition.flushed(flushed, self.context(&image));
                    self.finish(&partition, after);
                }
                // It is logged where the directory was taken offline; whoever waits is told. (No flush fails for want of
                // room: a sync that does is a failure.) A log that was moved away meanwhile is in another one.
                Err(error) if partition.saved_dir().is_some_and(|dir| dir.failure().is_some()) => {
                    partition.failed(error.to_string()).unwrap_or_default().wake.fire();
                }
                Err(error) => {
                    tracing::warn!(partition = %partition.name, %error, "a log that was moved was not synced")
                }
            }
            round.rounds.settle(partition, waiting);
            if round.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                return true;
            }
        }
    }
}

impl Rounds {
    /// A log's part in a round is over. The round itself is not, so that there is no need to begin another.
    fn settle(&self, partition: Arc<Partition>, waiting: Vec<Done>) {
        if partition.flushing.end() {
            let is_to_begin = self.add(partition);
            debug_assert!(!is_to_begin, "a round is running");
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}
