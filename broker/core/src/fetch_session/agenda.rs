//! The order in which a session's partitions are read, so that none starves when an answer is full.
//!
//! A partition is on the agenda while it has, or may have, something to tell. Each reading takes all of it; what is left
//! to tell is put back: first who got nothing, in the old order, then who got records. So a partition that fills every
//! answer cannot keep the others out of it, as Kafka has it (who got records goes to the end of its session).

use std::collections::{HashSet, VecDeque};

/// Names a partition within its session, for as long as it is there. Without a session: its place in the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u64);

/// See the module. Bounded by the partitions of the session, as each is there once.
#[derive(Clone, Debug, Default)]
pub struct Agenda {
    order: VecDeque<Slot>,
    members: HashSet<Slot>,
}

impl Agenda {
    /// The partition is to be read; it keeps its place if it has one.
    pub fn add(&mut self, slot: Slot) {
        if self.members.insert(slot) {
            self.order.push_back(slot);
        }
    }

    /// All that are to be read now.
    pub fn take(&mut self) -> Vec<Slot> {
        self.members.clear();
        self.order.drain(..).collect()
    }

    /// Has more to tell and got nothing this time, or got records: called in the order in which they were read, for
    /// those without records first.
    pub fn put_back(&mut self, without_records: Vec<Slot>, with_records: Vec<Slot>) {
        for slot in without_records.into_iter().chain(with_records) {
            self.add(slot);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_got_records_is_read_last_the_next_time() {
        let mut agenda = Agenda::default();
        for slot in [0, 1, 2, 1] {
            agenda.add(Slot(slot));
        }
        assert_eq!(agenda.take(), [Slot(0), Slot(1), Slot(2)]);
        assert!(agenda.is_empty());
        agenda.put_back(vec![Slot(1), Slot(2)], vec![Slot(0)]);
        // Named again, it keeps its place; a newcomer goes last.
        agenda.add(Slot(2));
        agenda.add(Slot(3));
        assert_eq!(agenda.take(), [Slot(1), Slot(2), Slot(0), Slot(3)]);
    }
}
