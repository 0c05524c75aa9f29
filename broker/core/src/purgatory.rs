//! Who waits for what in one partition, and the join of a request that waits for several.
//!
//! Kafka's purgatory, turned inside out: a waiter is kept with the thing it waits for. [`OffsetWaiters`] are produces
//! that need the high watermark to reach an offset; [`ByteWaiters`] are fetches that need enough new bytes; a request
//! over many partitions holds one [`Gather`], which completes once however many events, timeouts and disconnects race.
//!
//! The rule against lost wake-ups (*register, then check again*) is the shell's: it registers under the same lock under
//! which it saw that there is nothing yet. All are bounded; who does not fit is answered at once.

use std::collections::BTreeMap;

use odradek_common::Offset;

/// Names a waiter, to take it back when it has timed out or its connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WaiterId {
    required: Offset,
    sequence: u64,
}

/// There are as many waiters as there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} requests wait on this partition already")]
pub struct Full(pub usize);

/// Waiters for an offset that only grows, least first.
#[derive(Debug)]
pub struct OffsetWaiters<W> {
    waiters: BTreeMap<WaiterId, W>,
    sequence: u64,
    count_max: usize,
}

impl<W> OffsetWaiters<W> {
    pub fn new(count_max: usize) -> Self {
        Self { waiters: BTreeMap::new(), sequence: 0, count_max }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Waits until [`OffsetWaiters::reached`] is told `required` or more.
    pub fn register(&mut self, required: Offset, waiter: W) -> Result<WaiterId, Full> {
        if self.waiters.len() >= self.count_max {
            return Err(Full(self.count_max));
        }
        self.sequence += 1;
        let id = WaiterId { required, sequence: self.sequence };
        self.waiters.insert(id, waiter);
        Ok(id)
    }

    /// Takes all whose offset is reached, in the order of their offsets, then of their registration.
    pub fn reached(&mut self, offset: Offset) -> Vec<W> {
        let mut done = Vec::new();
        while let Some(entry) = self.waiters.first_entry() {
            if entry.key().required > offset {
                break;
            }
            done.push(entry.remove());
        }
        done
    }

    /// Takes one back. `None` when it was taken already.
    pub fn remove(&mut self, id: WaiterId) -> Option<W> {
        self.waiters.remove(&id)
    }

    /// Takes all: the leadership has ended, or the partition is gone.
    pub fn drain(&mut self) -> Vec<W> {
        std::mem::take(&mut self.waiters).into_values().collect()
    }
}

/// One fetch among the [`ByteWaiters`] of a partition.
#[derive(Debug)]
struct ByteWaiter<W> {
    id: u64,
    /// The partition's byte count up to which this waiter has been told.
    counted: u64,
    waiter: W,
}

/// Fetches that wait for new bytes. They are told how many came; whoever has enough in sum over its partitions leaves.
#[derive(Debug)]
pub struct ByteWaiters<W> {
    waiters: Vec<ByteWaiter<W>>,
    next_id: u64,
    count_max: usize,
}

impl<W> ByteWaiters<W> {
    pub fn new(count_max: usize) -> Self {
        Self { waiters: Vec::new(), next_id: 0, count_max }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// `counted` is the partition's count of appended bytes at this moment.
    pub fn register(&mut self, counted: u64, waiter: W) -> Result<u64, Full> {
        if self.waiters.len() >= self.count_max {
            return Err(Full(self.count_max));
        }
        self.next_id += 1;
        self.waiters.push(ByteWaiter { id: self.next_id, counted, waiter });
        Ok(self.next_id)
    }

    /// The count has grown to `total`: each waiter is told how many bytes are new to it, and is taken out if
    /// `has_enough` says so.
    pub fn grown(&mut self, total: u64, mut has_enough: impl FnMut(&W, u64) -> bool) -> Vec<W> {
        let is_done = |entry: &mut ByteWaiter<W>| {
            let new = total.saturating_sub(entry.counted);
            entry.counted = total;
            has_enough(&entry.waiter, new)
        };
        self.waiters.extract_if(.., is_done).map(|entry| entry.waiter).collect()
    }

    pub fn remove(&mut self, id: u64) -> Option<W> {
        let position = self.waiters.iter().position(|entry| entry.id == id)?;
        Some(self.waiters.swap_remove(position).waiter)
    }

    pub fn drain(&mut self) -> Vec<W> {
        std::mem::take(&mut self.waiters).into_iter().map(|entry| entry.waiter).collect()
    }
}

/// Joins the parts of one request. Each part is settled once; when the last one is, the whole is handed out, once.
#[derive(Debug)]
pub struct Gather<T> {
    parts: Vec<T>,
    settled: Vec<bool>,
    open: usize,
    is_handed_out: bool,
}

impl<T> Gather<T> {
    /// `parts` are preset, to be changed when they settle; all are open.
    pub fn new(parts: Vec<T>) -> Self {
        Self { settled: vec![false; parts.len()], open: parts.len(), parts, is_handed_out: false }
    }

    /// Settles a part; the first to do so decides. Answers with all parts when that was the last one.
    pub fn settle(&mut self, part: usize, change: impl FnOnce(&mut T)) -> Option<Vec<T>> {
        let (Some(settled), Some(value)) = (self.settled.get_mut(part), self.parts.get_mut(part)) else { return None };
        if self.is_handed_out || std::mem::replace(settled, true) {
            return None;
        }
        change(value);
        self.open -= 1;
        self.take_if_complete()
    }

    /// Settles all that are open, as on a timeout. `None` when the whole was handed out before.
    pub fn settle_rest(&mut self, mut change: impl FnMut(&mut T)) -> Option<Vec<T>> {
        if self.is_handed_out {
            return None;
        }
        for (part, settled) in self.parts.iter_mut().zip(&mut self.settled) {
            if !std::mem::replace(settled, true) {
                change(part);
            }
        }
        self.open = 0;
        self.take_if_complete()
    }

    pub fn is_open(&self) -> bool {
        self.open > 0 && !self.is_handed_out
    }

    fn take_if_complete(&mut self) -> Option<Vec<T>> {
        if self.open > 0 || self.is_handed_out {
            return None;
        }
        self.is_handed_out = true;
        Some(std::mem::take(&mut self.parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_complete_in_order_and_once() {
        let mut waiters = OffsetWaiters::new(4);
        let a = waiters.register(Offset(10), "a").expect("fits");
        waiters.register(Offset(5), "b").expect("fits");
        waiters.register(Offset(10), "c").expect("fits");
        waiters.register(Offset(11), "d").expect("fits");
        assert_eq!(waiters.register(Offset(1), "e"), Err(Full(4)));
        assert!(waiters.reached(Offset(4)).is_empty());
        assert_eq!(waiters.reached(Offset(10)), ["b", "a", "c"]);
        assert_eq!(waiters.remove(a), None);
        assert_eq!(waiters.drain(), ["d"]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_removed_waiter_is_not_completed() {
        let mut waiters = OffsetWaiters::new(4);
        let a = waiters.register(Offset(1), "a").expect("fits");
        assert_eq!(waiters.remove(a), Some("a"));
        assert!(waiters.reached(Offset(1)).is_empty());
    }

    #[test]
    fn byte_waiters_are_told_of_each_byte_once() {
        let mut waiters = ByteWaiters::new(2);
        waiters.register(100, "a").expect("fits");
        let b = waiters.register(150, "b").expect("fits");
        assert_eq!(waiters.register(150, "c"), Err(Full(2)));
        let mut told = Vec::new();
        let done = waiters.grown(160, |waiter, new| {
            told.push((*waiter, new));
            *waiter == "a"
        });
        assert_eq!(done, ["a"]);
        assert_eq!(told, [("a", 60), ("b", 10)]);
        assert!(waiters.grown(165, |_, new| new != 5).is_empty());
        assert_eq!(waiters.remove(b), Some("b"));
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_gather_is_handed_out_once() {
        let mut gather = Gather::new(vec![0, 0]);
        assert_eq!(gather.settle(0, |part| *part = 1), None);
        assert_eq!(gather.settle(0, |part| *part = 9), None, "the first to settle decides");
        assert!(gather.is_open());
        assert_eq!(gather.settle(1, |part| *part = 2), Some(vec![1, 2]));
        assert_eq!(gather.settle_rest(|part| *part = 7), None);
        assert!(!gather.is_open());

        let mut gather = Gather::new(vec![0, 0]);
        assert_eq!(gather.settle(1, |part| *part = 2), None);
        assert_eq!(gather.settle_rest(|part| *part = 7), Some(vec![7, 2]));
        assert_eq!(gather.settle(0, |part| *part = 1), None);
        assert_eq!(gather.settle(5, |part| *part = 1), None);
    }
}
