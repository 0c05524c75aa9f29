//! A map that remembers what was committed while newer values wait for the high watermark.
//!
//! The newest values lie in one map; beside it stands, for the few keys with uncommitted changes, what they were before
//! each. Reading the newest state costs nothing extra, reading the committed one a look at the small map first.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;

use odradek_common::Offset;

/// Every change carries the offset of the record that made it; offsets only grow.
#[derive(Clone, Debug)]
pub struct TimelineMap<K, V> {
    latest: BTreeMap<K, V>,
    /// What a key was before each of its uncommitted changes, oldest first.
    before: BTreeMap<K, VecDeque<Option<V>>>,
    /// The uncommitted changes, oldest first. Invariant: every key is here as often as `before` has values for it.
    changes: VecDeque<(Offset, K)>,
    /// Records below it are committed.
    committed: Offset,
}

impl<K, V> Default for TimelineMap<K, V> {
    fn default() -> Self {
        Self { latest: BTreeMap::new(), before: BTreeMap::new(), changes: VecDeque::new(), committed: Offset::ZERO }
    }
}

impl<K: Ord + Clone, V> TimelineMap<K, V> {
    /// Answers the value that was the newest before.
    pub fn insert(&mut self, at: Offset, key: K, value: V) -> Option<V>
    where
        V: Clone,
    {
        let old = self.latest.insert(key.clone(), value);
        self.remember(at, key, old.clone());
        old
    }

    pub fn remove(&mut self, at: Offset, key: &K) -> Option<V>
    where
        V: Clone,
    {
        let old = self.latest.remove(key)?;
        self.remember(at, key.clone(), Some(old.clone()));
        Some(old)
    }

    fn remember(&mut self, at: Offset, key: K, old: Option<V>) {
        if at >= self.committed {
            self.before.entry(key.clone()).or_default().push_back(old);
            self.changes.push_back((at, key));
        }
    }

    /// All records below `to` are committed.
    pub fn commit(&mut self, to: Offset) {
        self.committed = self.committed.max(to);
        while let Some((at, _)) = self.changes.front()
            && *at < to
            && let Some((_, key)) = self.changes.pop_front()
        {
            let values = self.before.get_mut(&key);
            let is_settled = values.is_none_or(|values| {
                values.pop_front();
                values.is_empty()
            });
            if is_settled {
                self.before.remove(&key);
            }
        }
    }

    /// The newest value.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.latest.get(key)
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.latest.contains_key(key)
    }

    /// The committed value.
    pub fn get_committed<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self.before.get(key).and_then(|values| values.front()) {
            Some(committed) => committed.as_ref(),
            None => self.latest.get(key),
        }
    }

    /// The newest values of a range of keys.
    pub fn range<R: RangeBounds<K>>(&self, range: R) -> impl Iterator<Item = (&K, &V)> {
        self.latest.range(range)
    }

    /// The committed values of a range of keys, in no particular order.
    pub fn range_committed<R: RangeBounds<K> + Clone>(&self, range: R) -> impl Iterator<Item = (&K, &V)> {
        let settled = self.latest.range(range.clone()).filter(|(key, _)| !self.before.contains_key(*key));
        let changed = self.before.range(range).filter_map(|(key, values)| Some((key, values.front()?.as_ref()?)));
        settled.chain(changed)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.latest.iter()
    }

    pub fn len(&self) -> usize {
        self.latest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Changes that are not committed.
    pub fn uncommitted(&self) -> usize {
        self.changes.len()
    }
}
