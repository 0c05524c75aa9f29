//! The latest offset of each key of the part of a log that is to be cleaned, in memory of a fixed bound.
//!
//! A slot has 24 bytes: a keyed hash of 128 bits instead of the key, and the offset. Two keys with one hash would cost
//! the older one's record, so the hash is keyed at random: nobody can look for such keys. Kafka's `SkimpyOffsetMap`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use siphasher::sip128::SipHasher13;

const SLOT_BYTES: usize = 24;

/// The hash in two halves, and the offset + 1; all zero: free.
type Slot = [u64; 3];

#[derive(Debug)]
pub(super) struct OffsetMap {
    /// Zeroed memory, which the system hands out page by page as it is used.
    slots: Vec<Slot>,
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
        Self { slots: vec![[0; 3]; slots], used: 0, used_max, hash_keys }
    }

    pub fn len(&self) -> usize {
        self.used
    }

    /// Where the key is, or the free slot that it would take.
    fn slot(&self, key: &[u8]) -> Option<(usize, u64, u64)> {
        let hash = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1).hash(key);
        let count = self.slots.len();
        let mut at = ((u128::from(hash.h1) * count as u128) >> 64) as usize;
        for _ in 0..count {
            let slot = self.slots.get(at)?;
            if slot[2] == 0 || (slot[0] == hash.h1 && slot[1] == hash.h2) {
                return Some((at, hash.h1, hash.h2));
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        None
    }

    /// Notes a later offset of a key. `false`: the map is full.
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let Some((at, high, low)) = self.slot(key) else { return false };
        let full = self.used >= self.used_max;
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot[2] == 0 {
            if full {
                return false;
            }
            self.used += 1;
        }
        *slot = [high, low, offset as u64 + 1];
        true
    }

    /// The latest offset of a key.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let (at, ..) = self.slot(key)?;
        let offset = self.slots.get(at)?[2];
        offset.checked_sub(1).map(|offset| offset as i64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_what_its_bytes_allow_and_no_more() {
        let mut map = OffsetMap::new(24 * 100, 0.9, 1 << 40, (1, 2));
        assert_eq!(map.slots.len(), 100);
        let keys: Vec<String> = (0..91).map(|number| format!("key-{number}")).collect();
        for (offset, key) in keys.iter().enumerate() {
            assert_eq!(map.put(key.as_bytes(), offset as i64), offset < 90, "{key}");
        }
        assert!(map.put(b"key-3", 1000), "a known key has its place");
        assert_eq!(map.get(b"key-3"), Some(1000));
        assert_eq!(map.get(b"key-0"), Some(0));
        assert_eq!(map.get(b"key-90"), None);
        assert_eq!((map.len(), OffsetMap::new(10, 0.9, 5, (1, 2)).put(b"k", 1)), (90, false));
        assert!(OffsetMap::new(1 << 30, 0.9, 5, (1, 2)).slots.len() < 10, "no more than is needed");
    }
}
