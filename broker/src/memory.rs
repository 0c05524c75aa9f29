//! The memory that requests may hold, all connections together: taken before the body of a frame is read, given back
//! when its handler no longer needs it.
//!
//! There are two budgets. Produce requests, and whatever is unusually large, share the configured one. Everything else
//! (a follower's Fetch, Metadata, admin) has a small one of its own, so that a flood of records cannot hold up
//! replication or the questions that end the flood. Liveness and metadata travel over other connections altogether.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_node::world::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
        Box::pin(async move {
            // The semaphore is never closed, so this cannot fail.
            MemoryPermit { _permit: budget.permits.clone().acquire_many_owned(budget.units_of(bytes)).await.ok() }
        })
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
        Self { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_budget_makes_the_next_frame_wait_and_others_pass() {
        let memory = RequestMemory::new(1024);
        let first = memory.try_take(MemoryClass::Records, 1000).expect("free");
        assert!(memory.try_take(MemoryClass::Records, 100).is_none());
        assert!(memory.try_take(MemoryClass::Control, 100_000).is_some());
        let mut waiting = memory.take(MemoryClass::Records, 1 << 30);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        assert!(futures::poll!(&mut waiting).is_ready());
    }
}
