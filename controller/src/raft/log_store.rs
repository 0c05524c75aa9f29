//! The durable half of Raft: votes and log entries (rule 11).
//!
//! [`RaftLog`] is what openraft sees. It keeps the tail of the log in memory, so that an appended entry is readable at
//! once and replication rarely touches the disk, and hands every change to one writer, which gathers what has queued up
//! into a group and makes the whole group durable at once. A [`LogStore`] is the disk below: on sled, or on segments of
//! our own.
//!
//! **Invariant:** changes reach the store in the order in which openraft made them, and nothing is acknowledged (a vote
//! answered, an append reported) before the store has said that it is durable. After one error nothing is written any
//! more: openraft stops with it and the process ends (rule 13).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use odradek_node::World;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use super::types::{Entry, IoFlushed, LogId, LogState, TypeConfig, Vote};

/// Entries kept in memory once they are durable; enough for followers that keep up.
const CACHE_BYTES_MAX: usize = 1024 * 1024;
/// What one read for replication or application takes at most, so that a message stays below gRPC's 4 MiB. A single
/// larger entry is read alone.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Changes that may wait for the writer; openraft waits when there are more.
const QUEUE_MAX: usize = 1024;
/// Changes in one group.
const GROUP_MAX: usize = 256;

/// One change of the durable state.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Vote(Vote),
    /// Not empty; the first follows the last entry that is there.
    Append(Vec<Entry>),
    /// Removes this index and all behind it.
    Truncate {
        from: u64,
    },
    /// Removes all up to this one.
    Purge {
        upto: LogId,
    },
    /// How far the log is known to be committed. Need not be durable on its own.
    Committed(LogId),
}

/// What a store holds when it is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The index of the first entry.
    pub first: Option<u64>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
}

/// A disk that holds votes and entries. Calls block.
pub trait LogStore: Send + Sync + 'static {
    /// Makes the changes, in order. All of them are durable when this returns `Ok`; after an error, which of them are is
    /// unknown and the store must not be used any more. Called by one writer at a time.
    fn write(&self, changes: &[Change]) -> io::Result<()>;
    /// The entries of a range that lies within the log. May run beside a `write`.
    fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>>;
}

/// Whom to tell that a change is durable.
enum Done {
    Nobody,
    Appended(IoFlushed),
    Voted(oneshot::Sender<io::Result<()>>),
}

struct Job {
    change: Change,
    done: Done,
    /// How often the log had been truncated when this was submitted.
    truncations: u64,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Of the first entry; means nothing while there is none.
    first: u64,
    last: Option<LogId>,
    /// The entries up to `last`, without a gap; what is missing at the front is in the store.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// The index behind the last entry that the store has; those before may leave the cache.
    stored_next: u64,
    truncations: u64,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl State {
    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    fn cached_from(&self) -> u64 {
        self.next() - self.cache.len() as u64
    }

    fn push(&mut self, entry: Entry) {
        if self.last == self.purged {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id());
        self.cache_bytes += cost(&entry);
        self.cache.push_back(entry);
    }

    /// Lets go of what is durable and beyond the cache's budget.
    fn trim(&mut self) {
        while self.cache_bytes > CACHE_BYTES_MAX && self.cached_from() < self.stored_next {
            let Some(entry) = self.cache.pop_front() else { break };
            self.cache_bytes -= cost(&entry);
        }
    }

    fn cut_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |last| last.index + 1);
        while self.cache.back().is_some_and(|entry| entry.log_id.index >= keep) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= cost(&entry);
            }
        }
        self.last = self.last.min(last).max(self.purged);
        self.stored_next = self.stored_next.min(keep);
        self.truncations += 1;
    }

    fn purge(&mut self, upto: LogId) {
        while self.cache.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            if let Some(entry) = self.cache.pop_front() {
                self.cache_bytes -= cost(&entry);
            }
        }
        self.purged = self.purged.max(Some(upto));
        self.first = self.first.max(upto.index + 1);
        if self.next() <= upto.index {
            // A snapshot reaches further than the log.
            self.last = Some(upto);
            self.stored_next = upto.index + 1;
        }
    }
}

fn cost(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        _ => 0,
    };
    payload + std::mem::size_of::<Entry>()
}

/// The log as openraft uses it. A clone is another handle on the same log.
#[derive(Clone)]
pub struct RaftLog {
    world: World,
    store: Arc<dyn LogStore>,
    state: Arc<Mutex<State>>,
    jobs: mpsc::Sender<Job>,
}

impl RaftLog {
    /// Starts the writer, which ends when the last handle is gone.
    pub fn new(world: World, store: Arc<dyn LogStore>, recovered: Recovered) -> Self {
        let stored_next = recovered.last.map_or(0, |last| last.index + 1);
        let state = Arc::new(Mutex::new(State {
            vote: recovered.vote,
            committed: recovered.committed,
            purged: recovered.purged,
            first: recovered.first.unwrap_or(stored_next),
            last: recovered.last,
            stored_next,
            ..State::default()
        }));
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        world.spawn("raft-log", write_groups(world.clone(), store.clone(), state.clone(), queue));
        Self { world, store, state, jobs }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    async fn submit(&self, change: Change, done: Done) -> io::Result<()> {
        let truncations = {
            let state = self.state();
            if let Some(failed) = &state.failed {
                return Err(io::Error::other(failed.clone()));
            }
            state.truncations
        };
        self.jobs
            .send(Job { change, done, truncations })
            .await
            .map_err(|_| io::Error::other("the Raft log's writer has stopped"))
    }

    /// All of a range that the log has, from memory or the store.
    async fn entries(&self, range: Range<u64>, bytes_max: Option<usize>) -> io::Result<Vec<Entry>> {
        let (cold, mut cached) = {
            let state = self.state();
            let (start, end) = (range.start.max(state.first), range.end.min(state.next()));
            if start >= end {
                return Ok(Vec::new());
            }
            let from = state.cached_from();
            let hot = (start.max(from) - from) as usize..(end.max(from) - from) as usize;
            let cached: Vec<Entry> = state.cache.range(hot).cloned().collect();
            (start..end.min(from), cached)
        };
        if cold.start >= cold.end {
            limit(&mut cached, bytes_max);
            return Ok(cached);
        }
        // Entries that are not in memory are read a piece at a time, for they may be many.
        let mut entries = Vec::new();
        let mut next = cold.start;
        while next < cold.end {
            let (store, piece) = (self.store.clone(), next..cold.end.min(next + READ_PIECE));
            next = piece.end;
            let read = self.world.on_disk(move || store.read(piece)).await;
            match read {
                Ok(read) => entries.extend(read),
                // Purged since: such entries may be missing, at the beginning only.
                Err(_) if next <= self.state().first => entries.clear(),
                Err(error) => return Err(error),
            }
            if bytes_max.is_some_and(|max| entries.iter().map(cost).sum::<usize>() >= max) {
                break;
            }
        }
        if next >= cold.end {
            entries.append(&mut cached);
        }
        limit(&mut entries, bytes_max);
        Ok(entries)
    }
}

/// Entries in one read of the store.
const READ_PIECE: u64 = 64;

/// Keeps the first entries up to a number of bytes, and one in any case.
fn limit(entries: &mut Vec<Entry>, bytes_max: Option<usize>) {
    let Some(max) = bytes_max else { return };
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += cost(entry);
        bytes <= max
    });
    let keep = fitting.count().max(1);
    entries.truncate(keep);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic ends the process, so nobody sees a state that one left behind.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The writer: one group after another, each durable before its changes are reported.
async fn write_groups(
    world: World,
    store: Arc<dyn LogStore>,
    state: Arc<Mutex<State>>,
    mut queue: mpsc::Receiver<Job>,
) {
    let mut jobs = Vec::new();
    while queue.recv_many(&mut jobs, GROUP_MAX).await > 0 {
        let truncations = jobs.iter().map(|job| job.truncations).collect::<Vec<_>>();
        let (changes, done): (Vec<Change>, Vec<Done>) = jobs.drain(..).map(|job| (job.change, job.done)).unzip();
        let failed = lock(&state).failed.clone();
        let written = match failed {
            Some(failed) => Err(io::Error::other(failed)),
            None => {
                let store = store.clone();
                let (changes, written) = world
                    .on_disk(move || {
                        let written = store.write(&changes);
                        (changes, written)
                    })
                    .await;
                let mut state = lock(&state);
                match &written {
                    Ok(()) => note_stored(&mut state, changes.iter().zip(truncations)),
                    Err(error) => {
                        tracing::error!(%error, "the Raft log cannot be written; this controller stops");
                        state.failed = Some(format!("the Raft log could not be written: {error}"));
                    }
                }
                written
            }
        };
        for done in done {
            let result = written.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()));
            match done {
                Done::Nobody => {}
                Done::Appended(flushed) => flushed.io_completed(result),
                Done::Voted(sender) => drop(sender.send(result)),
            }
        }
    }
}

fn note_stored<'a>(state: &mut State, changes: impl Iterator<Item = (&'a Change, u64)>) {
    for (change, truncations) in changes {
        // What was appended before the last truncation may be gone from the log, and says nothing of what took its place.
        if let (Change::Append(entries), true) = (change, truncations == state.truncations)
            && let Some(last) = entries.last()
        {
            state.stored_next = state.stored_next.max(last.log_id.index + 1);
        }
    }
    state.trim();
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(half_open(&range), None).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.state().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.entries(start..end, Some(READ_BYTES_MAX)).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = half_open(&range);
        let pieces = futures::stream::unfold(Some((self.clone(), range)), |state| async move {
            let (log, range) = state?;
            match log.entries(range.clone(), Some(READ_BYTES_MAX)).await {
                Err(error) => Some((vec![Err(error)], None)),
                Ok(entries) => {
                    let next = entries.last()?.log_id.index + 1;
                    Some((entries.into_iter().map(Ok).collect(), Some((log, next..range.end))))
                }
            }
        });
        Box::pin(futures::StreamExt::flat_map(pieces, futures::stream::iter))
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState, io::Error> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, saved) = oneshot::channel();
        self.submit(Change::Vote(*vote), Done::Voted(sender)).await?;
        saved.await.map_err(|_| io::Error::other("the Raft log's writer has stopped"))??;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.state().committed = Some(committed);
        // Only written along with what comes next: an older marker means a little more to learn from the leader.
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if entries.is_empty() {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let committed = {
            let mut state = self.state();
            for entry in &entries {
                state.push(entry.clone());
            }
            state.committed
        };
        if let Some(committed) = committed {
            self.submit(Change::Committed(committed), Done::Nobody).await?;
        }
        self.submit(Change::Append(entries), Done::Appended(callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.state().cut_after(last_log_id);
        let from = last_log_id.map_or(0, |last| last.index + 1);
        self.submit(Change::Truncate { from }, Done::Nobody).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.state().purge(log_id);
        self.submit(Change::Purge { upto: log_id }, Done::Nobody).await
    }
}
