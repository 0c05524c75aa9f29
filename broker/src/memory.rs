//! The memory that requests may hold, all connections together: taken before the body of a frame is read, given back
//! when its handler no longer needs it.
//!
//! There are two budgets. Produce requests, and whatever is unusually large, share the configured one. Everything else
//! (a follower's Fetch, Metadata, admin) has a small one of its own, so that a flood of records cannot hold up
//! replication or the questions that end the flood. Liveness and metadata travel over other connections altogether.
//!
//! Answers that wait for their reader are counted too (`AnswerMemory`). Records leave from their file and hold none; but a
//! client that asks for all metadata and does not read holds the answer here.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use odradek_node::world::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// What requests without records may hold: room for eight of the largest.
const CONTROL_BYTES: usize = 8 * CONTROL_FRAME_BYTES_MAX;

/// A request without records that is larger than this waits with those that have some.
const CONTROL_FRAME_BYTES_MAX: usize = 1024 * 1024;

/// One permit of a semaphore stands for so many bytes, so that a whole budget fits the 32 bits of a permit count.
const UNIT_BYTES: usize = 64;

/// Which budget a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryClass {
    Records,
    Control,
}

impl MemoryClass {
    pub fn of(carries_records: bool, frame_bytes: usize) -> Self {
        if carries_records || frame_bytes > CONTROL_FRAME_BYTES_MAX { Self::Records } else { Self::Control }
    }
}

/// Both budgets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    records: Budget,
    control: Budget,
}

#[derive(Clone, Debug)]
struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
    /// Frames that wait for their memory.
    waiting: Arc<AtomicU64>,
}

/// One more waits, while it lives.
struct Waiting(Arc<AtomicU64>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory that is taken. Given back when dropped.
#[derive(Debug, Default)]
pub struct MemoryPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl RequestMemory {
    /// `records_bytes`: `odradek.memory.request.bytes`, or `queued.max.request.bytes` when it is set.
    pub fn new(records_bytes: u64) -> Self {
        Self {
            records: Budget::new(usize::try_from(records_bytes).unwrap_or(usize::MAX)),
            control: Budget::new(CONTROL_BYTES),
        }
    }

    /// The memory for a frame, if it is free now.
    pub fn try_take(&self, class: MemoryClass, bytes: usize) -> Option<MemoryPermit> {
        let budget = self.budget(class);
        let permit = budget.permits.clone().try_acquire_many_owned(budget.units_of(bytes)).ok()?;
        Some(MemoryPermit { _permit: Some(permit) })
    }

    /// The memory for a frame, in the order of asking. A frame larger than the budget takes all of it and goes alone.
    pub fn take(&self, class: MemoryClass, bytes: usize) -> BoxFuture<MemoryPermit> {
        let budget = self.budget(class).clone();
        budget.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(budget.waiting.clone());
        Box::pin(async move {
            let _waiting = waiting;
            // The semaphore is never closed, so this cannot fail.
            MemoryPermit { _permit: budget.permits.clone().acquire_many_owned(budget.units_of(bytes)).await.ok() }
        })
    }

    /// Whether a frame waits for memory that others hold.
    pub fn is_waited_for(&self, class: MemoryClass) -> bool {
        self.budget(class).waiting.load(Ordering::Relaxed) > 0
    }

    fn budget(&self, class: MemoryClass) -> &Budget {
        match class {
            MemoryClass::Records => &self.records,
            MemoryClass::Control => &self.control,
        }
    }
}

impl Budget {
    fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { permits: Arc::new(Semaphore::new(units as usize)), units, waiting: Arc::default() }
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

/// What is smaller is not counted: so many connections as there may be hold little with it.
const ANSWER_BYTES_MIN: usize = 2 * 1024;

/// The answers that their readers did not take at once, all connections together.
///
/// When they hold more than the budget there is pressure: then nothing is begun that may have a large answer, and the readers
/// that take nothing are given up sooner. What is held can go over the budget by the answers that are made at that moment.
#[derive(Clone, Debug)]
pub struct AnswerMemory {
    shared: Arc<Answers>,
}

#[derive(Debug)]
struct Answers {
    budget: u64,
    held: AtomicU64,
    pressure: watch::Sender<bool>,
}

/// Counts an answer while it lives.
#[derive(Debug)]
pub struct HeldAnswer {
    shared: Arc<Answers>,
    bytes: u64,
}

impl AnswerMemory {
    pub fn new(budget: u64) -> Self {
        let pressure = watch::Sender::new(false);
        Self { shared: Arc::new(Answers { budget, held: AtomicU64::new(0), pressure }) }
    }

    /// An answer waits. `None`: it is too small to count.
    pub fn hold(&self, bytes: usize) -> Option<HeldAnswer> {
        if bytes < ANSWER_BYTES_MIN {
            return None;
        }
        let held = HeldAnswer { shared: self.shared.clone(), bytes: bytes as u64 };
        self.shared.held.fetch_add(held.bytes, Ordering::Relaxed);
        self.shared.tell();
        Some(held)
    }

    pub fn is_pressed(&self) -> bool {
        *self.shared.pressure.borrow()
    }

    /// When pressure begins and ends.
    pub fn pressure(&self) -> watch::Receiver<bool> {
        self.shared.pressure.subscribe()
    }
}

impl Answers {
    fn tell(&self) {
        self.pressure.send_if_modified(|pressed| {
            // Read under the lock of the channel, so that what is told last is what holds.
            let now = self.held.load(Ordering::Relaxed) > self.budget;
            std::mem::replace(pressed, now) != now
        });
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_press_while_they_hold_more_than_the_budget() {
        let memory = AnswerMemory::new(10_000);
        let first = memory.hold(8_000);
        assert!(first.is_some() && memory.hold(100).is_none() && !memory.is_pressed());
        let second = memory.hold(4_000);
        assert!(memory.is_pressed());
        drop(first);
        assert!(!memory.is_pressed());
        drop(second);
    }

    #[tokio::test]
    async fn a_full_budget_makes_the_next_frame_wait_and_others_pass() {
        let memory = RequestMemory::new(1024);
        let first = memory.try_take(MemoryClass::Records, 1000).expect("free");
        assert!(memory.try_take(MemoryClass::Records, 100).is_none());
        assert!(memory.try_take(MemoryClass::Control, 100_000).is_some());
        let mut waiting = memory.take(MemoryClass::Records, 1 << 30);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(memory.is_waited_for(MemoryClass::Records) && !memory.is_waited_for(MemoryClass::Control));
        drop(first);
        assert!(futures::poll!(&mut waiting).is_ready());
        assert!(!memory.is_waited_for(MemoryClass::Records));
    }
}
