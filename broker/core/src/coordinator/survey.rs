//! Which records of a log are superseded by later ones of their keys, and so need not be loaded.
//!
//! A coordinator's topic is compacted: what a log says is what the last record of each key says. A log that was not
//! compacted lately may hold many records of a key, and to look at its hash is much cheaper than to decode and replay it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use odradek_common::Offset;
use odradek_records::Batch;
use siphasher::sip128::SipHasher13;

use super::LoadError;

/// More keys are not remembered; all records of the others are loaded. At 40 bytes each.
const KEYS_MAX: usize = 1 << 20;

/// Filled by a first look at the log, asked by the second.
///
/// A key is known by its hash of 128 bits. Two keys with one hash would cost the older one's record, so the hash is keyed
/// at random: nobody can look for such keys.
#[derive(Debug)]
pub(super) struct Survey {
    hash_keys: (u64, u64),
    latest: HashMap<(u64, u64), Offset, BuildHasherDefault<DefaultHasher>>,
}

impl Survey {
    pub fn new(hash_keys: (u64, u64)) -> Self {
        Self { hash_keys, latest: HashMap::default() }
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        let hash = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1).hash(key);
        (hash.h1, hash.h2)
    }

    /// Takes note of a batch's keys, as far as their records lie below `committed`: before what may yet be taken back,
    /// the last committed record has to be known, too. What a transaction holds may be aborted, and supersedes nothing.
    pub fn note(&mut self, batch: &Batch, committed: Offset, decompressed_bytes_max: usize) -> Result<(), LoadError> {
        let header = &batch.header;
        if header.attributes.is_control() || header.attributes.is_transactional() {
            return Ok(());
        }
        let unreadable = |error| LoadError::Records { offset: header.base_offset, error };
        for record in batch.records(decompressed_bytes_max).map_err(unreadable)? {
            let record = record.map_err(unreadable)?;
            let Some(key) = record.key.filter(|_| record.offset < committed) else { continue };
            let hash = self.hash(&key);
            if let Some(latest) = self.latest.get_mut(&hash) {
                *latest = record.offset;
            } else if self.latest.len() < KEYS_MAX {
                self.latest.insert(hash, record.offset);
            }
        }
        Ok(())
    }

    /// Whether a later committed record of the key was seen.
    pub fn is_superseded(&self, key: Option<&Bytes>, offset: Offset) -> bool {
        key.and_then(|key| self.latest.get(&self.hash(key))).is_some_and(|latest| offset < *latest)
    }
}
