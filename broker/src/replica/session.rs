//! Fetch sessions on the leader's side: which of a session's partitions have news, so that a fetch reads those and no
//! others.
//!
//! A partition that was read and has no more for the session is *armed*: the first event there (an append, another high
//! watermark or log start, a change of role or ISR) rings the session's [`Bell`] with the partition's slot, and disarms
//! it. A partition that may have more (records beyond the limits of an answer, a follower outside of the ISR, whose every
//! fetch counts) stays on the session's agenda instead. So whatever is neither armed nor on the agenda has just been
//! answered with an error, and the next request looks it up anew (`fetch_session`).
//!
//! **No wake-up is lost.**
//! 1. A partition is read and armed under one hold of its lock, and events ring under that lock: an event comes before
//!    the read, which sees it, or finds the partition armed, and rings.
//! 2. A ring changes the bell under the bell's lock, and a fetch begins to wait under it, after a look at what has rung
//!    since the round began: the ring comes first, and the fetch reads again, or the fetch does, and the ring wakes it.
//! 3. A round takes what has rung and reads it before anything is awaited; what it cannot read without waiting for the disk
//!    goes back on the agenda, and another round reads it once that is in memory. A fetch that ends without its answer (its
//!    connection is gone) has read it in vain; the next request of that session then reads all partitions.
//!
//! Locks: the session's table, then one partition's, then a bell. Nothing takes them in another order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use odradek_broker_core::fetch_session::{Agenda, Slot};
use odradek_broker_storage::ColdRange;
use odradek_common::TopicIdPartition;
use tokio::sync::Notify;

use super::ReplicaManager;
use super::manager::{COLD_ROUNDS_MAX, warm};
use super::partition::Partition;
use super::types::{FetchEntry, FetchParams, FetchResult, Outcome};

/// What the partitions of a session ring.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Rung>);

#[derive(Debug, Default)]
struct Rung {
    /// At most once each, as a partition is disarmed when it rings.
    slots: Vec<Slot>,
    bytes: u64,
    is_urgent: bool,
    waiting: Option<(u64, Arc<Notify>)>,
}

impl Rung {
    fn is_enough(&self, missing: u64) -> bool {
        self.is_urgent || (self.bytes > 0 && self.bytes >= missing)
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition has news: `slot` if it was armed, new bytes, or something that is told at once. Answers with whom to
    /// wake.
    pub fn ring(&self, slot: Option<Slot>, bytes: u64, is_urgent: bool) -> Option<Arc<Notify>> {
        let mut rung = self.lock();
        rung.slots.extend(slot);
        rung.bytes = rung.bytes.saturating_add(bytes);
        rung.is_urgent |= is_urgent;
        let missing = rung.waiting.as_ref()?.0;
        if rung.is_enough(missing) { rung.waiting.take().map(|(_, notify)| notify) } else { None }
    }

    /// What has rung since the last call. Whoever waited does no longer.
    fn take(&self) -> Vec<Slot> {
        std::mem::take(&mut *self.lock()).slots
    }

    /// Waits for `missing` bytes; `None` when they have rung already.
    fn wait(&self, missing: u64) -> Option<Arc<Notify>> {
        let mut rung = self.lock();
        if rung.is_enough(missing) {
            return None;
        }
        let notify = Arc::new(Notify::new());
        // A request that came after its successor is told so when it looks at the table.
        if let Some((_, former)) = rung.waiting.replace((missing, notify.clone())) {
            former.notify_one();
        }
        Some(notify)
    }
}

/// The partitions of one session, as the broker reads them. Lives as long as the session.
#[derive(Clone, Debug, Default)]
pub struct SessionWatch(Arc<Watch>);

#[derive(Debug, Default)]
struct Watch {
    bell: Arc<Bell>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    watched: HashMap<Slot, Watched>,
    agenda: Agenda,
    /// Grows with each request; an older one reads no more.
    request: u64,
}

#[derive(Debug)]
struct Watched {
    entry: FetchEntry,
    partition: Option<Arc<Partition>>,
    /// Names this session in the partition.
    watcher: Option<u64>,
}

impl Watched {
    fn forget(&mut self) {
        if let (Some(partition), Some(watcher)) = (&self.partition, self.watcher.take()) {
            partition.unwatch(watcher);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let table = self.table.get_mut().unwrap_or_else(PoisonError::into_inner);
        for watched in table.watched.values_mut() {
            watched.forget();
        }
    }
}

/// Who reads a partition, for [`Partition::read`].
pub(super) struct Watching<'a> {
    pub bell: &'a Arc<Bell>,
    pub slot: Slot,
    /// Set when the partition knows the session.
    pub watcher: &'a mut Option<u64>,
}

/// A partition of a session, what was found in it, and which partition it is.
pub type SessionResult = (Slot, TopicIdPartition, FetchResult);

impl ReplicaManager {
    /// As [`ReplicaManager::fetch`], for a session: reads what the request names (`changed`) and what has news, and
    /// answers with what was read.
    pub fn fetch_session(
        self: &Arc<Self>,
        params: FetchParams,
        watch: SessionWatch,
        changed: Vec<(Slot, FetchEntry)>,
        forgotten: &[Slot],
    ) -> Outcome<Vec<SessionResult>> {
        let request = {
            let mut table = watch.lock();
            for slot in forgotten {
                if let Some(mut watched) = table.watched.remove(slot) {
                    watched.forget();
                }
            }
            for (slot, entry) in changed {
                let partition = self.partition(entry.partition);
                table.agenda.add(slot);
                match table.watched.get_mut(&slot) {
                    Some(watched) if same(&watched.partition, &partition) => watched.entry = entry,
                    _ => {
                        let watched = Watched { entry, partition, watcher: None };
                        if let Some(mut former) = table.watched.insert(slot, watched) {
                            former.forget();
                        }
                    }
                }
            }
            table.request += 1;
            table.request
        };
        let mut fetch = SessionFetch {
            manager: self.clone(),
            params,
            watch,
            request,
            results: Vec::new(),
            places: HashMap::new(),
            cold: Vec::new(),
            has_no_room: false,
        };
        fetch.round(true);
        if fetch.cold.is_empty() && fetch.is_answered() {
            return Outcome::Done(fetch.results);
        }
        Outcome::Waiting(Box::pin(async move {
            if !fetch.warmed().await || fetch.is_answered() {
                return fetch.results;
            }
            fetch.wait().await
        }))
    }
}

fn same(a: &Option<Arc<Partition>>, b: &Option<Arc<Partition>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl SessionWatch {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a session.
struct SessionFetch {
    manager: Arc<ReplicaManager>,
    params: FetchParams,
    watch: SessionWatch,
    request: u64,
    results: Vec<SessionResult>,
    /// Among the results.
    places: HashMap<Slot, usize>,
    /// What has to be in memory before the rest is known. The partitions that need it are on the agenda.
    cold: Vec<ColdRange>,
    has_no_room: bool,
}

impl SessionFetch {
    /// Reads all that is on the agenda and all that has rung. A follower's position counts when `counts`. `false`: the
    /// session has gone on to another request.
    fn round(&mut self, counts: bool) -> bool {
        let watch = self.watch.clone();
        let mut guard = watch.lock();
        let table = &mut *guard;
        if table.request != self.request {
            return false;
        }
        for slot in watch.0.bell.take() {
            table.agenda.add(slot);
        }
        let due = table.agenda.take();
        for slot in &due {
            // What is read again is not there twice.
            if let Some(result) = self.places.get(slot).and_then(|place| self.results.get_mut(*place)) {
                result.2 = FetchResult::failed(odradek_common::ErrorCode::None);
            }
        }
        let image = self.manager.image();
        let mut bytes_left = self.params.bytes_max.saturating_sub(self.bytes());
        let mut min_one = !self.params.is_bytes_max_hard && self.bytes() == 0;
        let (mut without_records, mut with_records) = (Vec::new(), Vec::new());
        for slot in due {
            let Some(Watched { entry, partition, watcher }) = table.watched.get_mut(&slot) else { continue };
            let mut result = match partition {
                Some(partition) => {
                    let watching = Watching { bell: &watch.0.bell, slot, watcher };
                    let manager = &self.manager;
                    let read = manager.read(
                        partition,
                        entry,
                        &self.params,
                        bytes_left,
                        min_one,
                        counts,
                        Some(watching),
                        &image,
                    );
                    self.has_no_room |= !read.error.is_error() && watcher.is_none();
                    read
                }
                None => self.manager.absent_result(entry.partition, &image),
            };
            self.cold.extend(result.cold.take());
            let len = result.len();
            bytes_left = bytes_left.saturating_sub(len);
            min_one &= len == 0;
            if !result.error.is_error() && !result.is_armed {
                if len == 0 { without_records.push(slot) } else { with_records.push(slot) }
            }
            self.put(slot, entry.partition, result);
        }
        table.agenda.put_back(without_records, with_records);
        true
    }

    fn put(&mut self, slot: Slot, partition: TopicIdPartition, result: FetchResult) {
        match self.places.get(&slot).and_then(|place| self.results.get_mut(*place)) {
            Some(known) => *known = (slot, partition, result),
            None => {
                self.places.insert(slot, self.results.len());
                self.results.push((slot, partition, result));
            }
        }
    }

    fn bytes(&self) -> usize {
        self.results.iter().map(|(_, _, result)| result.len()).sum()
    }

    fn is_enough(&self) -> bool {
        let is_urgent = |result: &FetchResult| result.error.is_error() || result.diverging_epoch.is_some();
        self.bytes() as u64 >= self.params.bytes_min
            || self.results.iter().any(|(_, _, result)| is_urgent(result))
            || self.watch.lock().watched.is_empty()
    }

    fn is_answered(&self) -> bool {
        self.is_enough() || self.params.wait_max.is_zero()
    }

    /// Reads anew when what the look-ups missed is in memory. `false`: the session has gone on to another request.
    async fn warmed(&mut self) -> bool {
        for _ in 0..COLD_ROUNDS_MAX {
            if self.cold.is_empty() {
                break;
            }
            warm(&self.manager.world, std::mem::take(&mut self.cold)).await;
            if !self.round(false) {
                return false;
            }
        }
        self.cold.clear();
        true
    }

    async fn wait(mut self) -> Vec<SessionResult> {
        let world = self.manager.world.clone();
        let mut timer = world.clock.sleep_until(world.instant() + self.params.wait_max);
        loop {
            let missing = self.params.bytes_min.saturating_sub(self.bytes() as u64);
            // A partition without room for another session would ring nobody.
            let is_over = match self.watch.0.bell.wait(missing) {
                _ if self.has_no_room => true,
                Some(notify) => tokio::select! {
                    biased;
                    () = notify.notified() => false,
                    () = &mut timer => true,
                },
                None => false,
            };
            if !self.round(false) || !self.warmed().await || is_over || self.is_enough() {
                return self.results;
            }
        }
    }
}
