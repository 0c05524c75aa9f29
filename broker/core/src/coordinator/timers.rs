//! Timers of a shard: at most one for each key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use odradek_common::time::Instant;

/// What is due when. Scheduling a key again moves its timer.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    by_key: BTreeMap<K, Instant>,
    by_deadline: BTreeSet<(Instant, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_deadline: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    pub fn schedule(&mut self, key: K, now: Instant, after: Duration) {
        let deadline = now + after;
        if let Some(before) = self.by_key.insert(key.clone(), deadline) {
            let moved = self.by_deadline.take(&(before, key));
            if let Some((_, key)) = moved {
                self.by_deadline.insert((deadline, key));
            }
        } else {
            self.by_deadline.insert((deadline, key));
        }
    }

    pub fn cancel(&mut self, key: &K) {
        if let Some(deadline) = self.by_key.remove(key) {
            self.by_deadline.remove(&(deadline, key.clone()));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the timer that is due first, if one is.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, key) = self.by_deadline.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    pub fn is_scheduled(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}
