//! The latest offset of each key of the part of a log that is to be cleaned, in memory of a fixed bound.
//!
//! A slot has 24 bytes: a keyed hash of 128 bits instead of the key, and the offset. Two keys with one hash would cost
//! the older one's record, so the hash is keyed at random: nobody can look for such keys. Kafka's `SkimpyOffsetMap`.
//!
//! Every lookup misses the caches of the processor, and that is what cleaning costs most. So the map grows with its keys,
//! part by part, and `prefetch` loads the slots of many keys side by side before they are asked for one after the other.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use siphasher::sip128::SipHasher13;

const SLOT_BYTES: usize = 24;

/// A part has at most so many slots, so that one that grows needs little memory for its old and its new slots at once.
const PART_SLOTS_MAX: usize = 64 * 1024;
const PART_SLOTS_MIN: usize = 64;

/// A part of which more is used than this grows, as long as it may: longer searches cost more than memory.
const PART_LOAD: f64 = 0.7;

/// The hash in two halves, and the offset + 1; all zero: free.
type Slot = [u64; 3];

/// What stands for a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyHash {
    high: u64,
    low: u64,
}

#[derive(Debug, Default)]
struct Part {
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Debug)]
pub(super) struct OffsetMap {
    parts: Vec<Part>,
    part_slots_max: usize,
    used: usize,
    used_max: usize,
    hash_keys: (u64, u64),
}

impl OffsetMap {
    /// For at most `keys_max` keys, within `bytes_max` bytes.
    pub fn new(bytes_max: usize, load_factor: f64, keys_max: u64, hash_keys: (u64, u64)) -> Self {
        let load_factor = load_factor.clamp(0.01, 0.99);
        let wanted = (keys_max as f64 / load_factor) as usize + 2;
        let slots = (bytes_max / SLOT_BYTES).min(wanted);
        let used_max = ((slots as f64 * load_factor) as usize).min(slots.saturating_sub(1));
        let parts = slots.div_ceil(PART_SLOTS_MAX).max(1);
        Self {
            parts: (0..parts).map(|_| Part::default()).collect(),
            part_slots_max: slots / parts,
            used: 0,
            used_max,
            hash_keys,
        }
    }

    pub fn len(&self) -> usize {
        self.used
    }

    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let hash = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1).hash(key);
        KeyHash { high: hash.h1, low: hash.h2 }
    }

    /// Brings the slots of keys near. The loads depend on nothing but the hashes, so they overlap.
    pub fn prefetch(&self, hashes: impl Iterator<Item = KeyHash>) {
        let touch = |hash: KeyHash| {
            let part = self.parts.get(scaled(hash.low, self.parts.len()))?;
            // A slot may lie in two lines of the cache.
            part.slots.get(scaled(hash.high, part.slots.len())).map(|slot| slot[0] ^ slot[2])
        };
        std::hint::black_box(hashes.fold(0, |sum, hash| sum ^ touch(hash).unwrap_or(0)));
    }

    /// Notes a later offset of a key. `false`: the map is full.
    #[inline]
    pub fn put(&mut self, hash: KeyHash, offset: i64) -> bool {
        let is_full = self.used >= self.used_max;
        let at = scaled(hash.low, self.parts.len());
        let Some(part) = self.parts.get_mut(at) else { return false };
        if part.is_loaded() && part.slots.len() < self.part_slots_max {
            part.grow(self.part_slots_max);
        }
        let Some(slot) = part.slot(hash).and_then(|at| part.slots.get_mut(at)) else { return false };
        if slot[2] == 0 {
            if is_full {
                return false;
            }
            self.used += 1;
            part.used += 1;
        }
        *slot = [hash.high, hash.low, offset as u64 + 1];
        true
    }

    /// The latest offset of a key.
    #[inline]
    pub fn get(&self, hash: KeyHash) -> Option<i64> {
        let part = self.parts.get(scaled(hash.low, self.parts.len()))?;
        let offset = part.slots.get(part.slot(hash)?)?[2];
        offset.checked_sub(1).map(|offset| offset as i64)
    }
}

impl Part {
    fn is_loaded(&self) -> bool {
        self.used as f64 >= self.slots.len() as f64 * PART_LOAD
    }

    /// Where the key is, or the free slot that it would take.
    #[inline]
    fn slot(&self, hash: KeyHash) -> Option<usize> {
        let count = self.slots.len();
        let mut at = scaled(hash.high, count);
        for _ in 0..count {
            let slot = self.slots.get(at)?;
            if slot[2] == 0 || (slot[0] == hash.high && slot[1] == hash.low) {
                return Some(at);
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        None
    }

    fn grow(&mut self, slots_max: usize) {
        let count = (self.slots.len() * 2).clamp(PART_SLOTS_MIN.min(slots_max), slots_max);
        let old = std::mem::replace(&mut self.slots, vec![[0; 3]; count]);
        for slot in old.into_iter().filter(|slot| slot[2] != 0) {
            let free = self.slot(KeyHash { high: slot[0], low: slot[1] });
            if let Some(place) = free.and_then(|at| self.slots.get_mut(at)) {
                *place = slot;
            }
        }
    }
}

/// A hash as a place among `count`, evenly spread.
#[inline]
fn scaled(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn put(map: &mut OffsetMap, key: &str, offset: i64) -> bool {
        map.put(map.hash(key.as_bytes()), offset)
    }

    fn get(map: &OffsetMap, key: &str) -> Option<i64> {
        map.prefetch([map.hash(key.as_bytes())].into_iter());
        map.get(map.hash(key.as_bytes()))
    }

    fn slots(map: &OffsetMap) -> usize {
        map.parts.iter().map(|part| part.slots.len()).sum()
    }

    #[test]
    fn a_map_holds_what_its_bytes_allow_and_no_more() {
        let mut map = OffsetMap::new(24 * 100, 0.9, 1 << 40, (1, 2));
        let keys: Vec<String> = (0..91).map(|number| format!("key-{number}")).collect();
        for (offset, key) in keys.iter().enumerate() {
            assert_eq!(put(&mut map, key, offset as i64), offset < 90, "{key}");
        }
        assert_eq!(slots(&map), 100);
        assert!(put(&mut map, "key-3", 1000), "a known key has its place");
        assert_eq!(get(&map, "key-3"), Some(1000));
        assert_eq!(get(&map, "key-0"), Some(0));
        assert_eq!(get(&map, "key-90"), None);
        let mut tiny = OffsetMap::new(10, 0.9, 5, (1, 2));
        assert_eq!((map.len(), put(&mut tiny, "k", 1)), (90, false));
        let mut few = OffsetMap::new(1 << 30, 0.9, 5, (1, 2));
        assert!((0..5).all(|key| put(&mut few, &key.to_string(), key)) && slots(&few) < 10, "no more than is needed");
    }

    #[test]
    fn a_map_of_many_parts_grows_with_its_keys_and_is_filled_to_its_load() {
        let count = 300_000;
        let mut map = OffsetMap::new(24 * count, 0.9, 1 << 40, (3, 4));
        assert_eq!((map.parts.len(), slots(&map)), (5, 0));
        let held = (0..count as i64).take_while(|key| put(&mut map, &format!("key {key}"), *key)).count();
        assert_eq!((held, map.len()), (270_000, 270_000));
        assert!(slots(&map) <= count);
        assert!((0..held as i64).all(|key| get(&map, &format!("key {key}")) == Some(key)));
        let mut few = OffsetMap::new(24 * count, 0.9, 1 << 40, (3, 4));
        assert!((0..1000).all(|key| put(&mut few, &format!("key {key}"), key)) && slots(&few) < 3_000);
    }
}
