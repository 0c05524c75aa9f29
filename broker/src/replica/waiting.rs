//! Requests that wait on partitions: produces for the high watermark, fetches for new bytes.
//!
//! A partition's lock is held while a waiter is registered or taken out; it is completed after the lock is released, by
//! [`Wake::fire`]. Whoever waits holds a guard that takes its waiters back when it times out or its connection goes.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_core::purgatory::{Gather, WaiterId};
use odradek_common::ErrorCode;
use odradek_node::World;
use tokio::sync::{Notify, oneshot};

use super::deletion::DeleteWaiter;
use super::partition::Partition;
use super::types::{AppendResult, DeletedRecords, Outcome};

/// Produces that may wait on one partition. Connections and their requests in flight bound it long before; this is what
/// remains if that fails.
pub(super) const PRODUCES_WAITING_MAX: usize = 100_000;
/// Fetches that may wait on one partition: one for each consumer and follower of it.
pub(super) const FETCHES_WAITING_MAX: usize = 20_000;

/// A request over several partitions that has to wait on some.
#[derive(Debug)]
pub(super) struct Join<T> {
    state: Mutex<JoinState<T>>,
}

/// A produce with acks=all.
pub(super) type ProduceJoin = Join<AppendResult>;

#[derive(Debug)]
struct JoinState<T> {
    gather: Gather<T>,
    sender: Option<oneshot::Sender<Vec<T>>>,
}

impl<T: Clone> Join<T> {
    /// `unsettled` is the result of what is not settled in time.
    pub fn new(parts: usize, unsettled: T) -> (Arc<Self>, oneshot::Receiver<Vec<T>>) {
        let (sender, receiver) = oneshot::channel();
        let gather = Gather::new(vec![unsettled; parts]);
        (Arc::new(Self { state: Mutex::new(JoinState { gather, sender: Some(sender) }) }), receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, JoinState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles one partition's part.
    pub fn settle(&self, part: usize, result: T) {
        let mut state = self.lock();
        let whole = state.gather.settle(part, |slot| *slot = result);
        if let Some(whole) = whole
            && let Some(sender) = state.sender.take()
        {
            let _ = sender.send(whole);
        }
    }

    /// The time is up. `None` when the answer is on its way already.
    fn expire(&self) -> Option<Vec<T>> {
        self.lock().gather.settle_rest(|_| ())
    }
}

impl<T: Clone + Send + 'static> Join<T> {
    /// All results once every part is settled, or what there is after `timeout`. `guard` lives as long as the wait.
    pub fn outcome(
        self: Arc<Self>,
        mut receiver: oneshot::Receiver<Vec<T>>,
        guard: impl Send + 'static,
        world: World,
        timeout: Duration,
    ) -> Outcome<Vec<T>> {
        if let Ok(results) = receiver.try_recv() {
            return Outcome::Done(results);
        }
        Outcome::Waiting(Box::pin(async move {
            let _guard = guard;
            let expired = tokio::select! {
                biased;
                Ok(results) = &mut receiver => return results,
                () = world.sleep(timeout) => self.expire(),
            };
            match expired {
                Some(results) => results,
                // The last part was settled in this very moment.
                None => receiver.await.unwrap_or_default(),
            }
        }))
    }
}

/// The join of a produce, made when its first partition has to wait: most with one replica never do.
#[derive(Debug)]
pub(super) struct LazyJoin {
    parts: usize,
    made: Option<(Arc<ProduceJoin>, oneshot::Receiver<Vec<AppendResult>>)>,
}

impl LazyJoin {
    pub fn new(parts: usize) -> Self {
        Self { parts, made: None }
    }

    pub fn get(&mut self) -> Arc<ProduceJoin> {
        let unsettled = || AppendResult::failed(ErrorCode::RequestTimedOut);
        self.made.get_or_insert_with(|| ProduceJoin::new(self.parts, unsettled())).0.clone()
    }

    pub fn into_made(self) -> Option<(Arc<ProduceJoin>, oneshot::Receiver<Vec<AppendResult>>)> {
        self.made
    }
}

/// One partition's part of a [`ProduceJoin`], with the answer it gets if all goes well.
#[derive(Debug)]
pub(super) struct ProduceWaiter {
    pub join: Arc<ProduceJoin>,
    pub part: usize,
    pub result: AppendResult,
}

impl ProduceWaiter {
    fn settle(self, error: ErrorCode) {
        let result = if error.is_error() {
            AppendResult { log_start: self.result.log_start, ..AppendResult::failed(error) }
        } else {
            self.result
        };
        self.join.settle(self.part, result);
    }
}

/// What a produce waits for in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProduceWaiterId {
    /// With acks=all: the high watermark.
    Commit(WaiterId),
    /// With acks=1 in a durable topic: the leader's disk.
    Flush(WaiterId),
}

/// Takes the waiters of a produce back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct ProduceGuard {
    pub waiters: Vec<(Arc<Partition>, ProduceWaiterId)>,
}

impl Drop for ProduceGuard {
    fn drop(&mut self) {
        for (partition, id) in &self.waiters {
            partition.forget_produce(*id);
        }
    }
}

/// A fetch without a session that waits for `missing` more bytes on any of its partitions.
#[derive(Debug)]
pub(super) struct FetchWait {
    missing: AtomicI64,
    notify: Notify,
}

impl FetchWait {
    pub fn new(missing: u64) -> Arc<Self> {
        let missing = AtomicI64::new(i64::try_from(missing).unwrap_or(i64::MAX));
        Arc::new(Self { missing, notify: Notify::new() })
    }

    /// Counts new bytes; whether they are enough.
    pub fn count(&self, bytes: u64) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.missing.fetch_sub(bytes, Ordering::AcqRel).saturating_sub(bytes) <= 0
    }

    pub fn wake(&self) {
        self.notify.notify_one();
    }

    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

/// Which of a partition's two rows a fetch waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FetchRow {
    /// Followers read to the log's end.
    Followers,
    /// Clients read to the high watermark.
    Clients,
}

/// Takes the waiters of a fetch back when it is dropped.
#[derive(Debug)]
pub(super) struct FetchGuard {
    pub row: FetchRow,
    pub waiters: Vec<(Arc<Partition>, u64)>,
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        for (partition, id) in &self.waiters {
            partition.forget_fetch(self.row, *id);
        }
    }
}

/// Who is to be completed once the partition's lock is released.
#[derive(Debug, Default)]
#[must_use = "whoever waits is completed only by `fire`"]
pub(super) struct Wake {
    pub produces: Vec<(ProduceWaiter, ErrorCode)>,
    pub fetches: Vec<Arc<FetchWait>>,
    pub deletions: Vec<(DeleteWaiter, DeletedRecords)>,
    /// Of fetch sessions.
    pub sessions: Vec<Arc<Notify>>,
}

impl Wake {
    pub fn fire(self) {
        for (waiter, error) in self.produces {
            waiter.settle(error);
        }
        for fetch in self.fetches {
            fetch.wake();
        }
        for (waiter, result) in self.deletions {
            waiter.settle(result);
        }
        for session in self.sessions {
            session.notify_one();
        }
    }
}
