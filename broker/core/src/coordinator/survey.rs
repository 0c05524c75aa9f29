//! Which records of a log are superseded by later ones of their keys, and so need not be loaded.
//!
//! A coordinator's topic is compacted: what a log says is what the last record of each key says. A log that was not
//! compacted lately may hold many records of a key, and to look at its hash is much cheaper than to decode and replay it.
//! Most batches of such a log hold nothing else, and are passed over as a whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

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
#[derive(Clone, Debug)]
pub(super) struct Survey {
    hash_keys: (u64, u64),
    latest: HashMap<u128, Offset, BuildHasherDefault<LowBits>>,
    /// First and last offsets, growing: batches with a record of which nothing is remembered here.
    unknown: Vec<(Offset, Offset)>,
    /// After [`Survey::complete`]: what has to be loaded, growing, of which the first `passed` lie behind.
    wanted: Vec<(Offset, Offset)>,
    passed: usize,
}

/// Takes a hash for what it is.
#[derive(Clone, Debug, Default)]
struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

impl Survey {
    pub fn new(hash_keys: (u64, u64)) -> Self {
        Self { hash_keys, latest: HashMap::default(), unknown: Vec::new(), wanted: Vec::new(), passed: 0 }
    }

    fn hash(&self, key: &[u8]) -> u128 {
        SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1).hash(key).as_u128()
    }

    /// Takes note of a batch's keys, as far as their records lie below `committed`: before what may yet be taken back,
    /// the last committed record has to be known, too. What a transaction holds may be aborted, and supersedes nothing.
    pub fn note(&mut self, batch: &Batch, committed: Offset, decompressed_bytes_max: usize) -> Result<(), LoadError> {
        let header = &batch.header;
        if header.attributes.is_control() || header.attributes.is_transactional() {
            self.note_unknown(batch);
            return Ok(());
        }
        let unreadable = |error| LoadError::Records { offset: header.base_offset, error };
        let mut is_known = true;
        for record in batch.records(decompressed_bytes_max).map_err(unreadable)? {
            let record = record.map_err(unreadable)?;
            let Some(key) = record.key.filter(|_| record.offset < committed) else {
                is_known = false;
                continue;
            };
            let hash = self.hash(&key);
            if let Some(latest) = self.latest.get_mut(&hash) {
                *latest = record.offset;
            } else if self.latest.len() < KEYS_MAX {
                self.latest.insert(hash, record.offset);
            } else {
                is_known = false;
            }
        }
        if !is_known {
            self.note_unknown(batch);
        }
        Ok(())
    }

    fn note_unknown(&mut self, batch: &Batch) {
        let (first, last) = (batch.header.base_offset, batch.header.last_offset());
        match self.unknown.last_mut() {
            Some((_, before)) if before.plus(1) == first => *before = last,
            _ => self.unknown.push((first, last)),
        }
    }

    /// The whole log was looked at.
    #[expect(clippy::disallowed_methods, reason = "sorted right below")]
    pub fn complete(&mut self) {
        self.wanted = std::mem::take(&mut self.unknown);
        self.wanted.extend(self.latest.values().map(|offset| (*offset, *offset)));
        self.wanted.sort_unstable();
    }

    /// Whether all of a batch is superseded. Asked once of each batch, in the order of the log.
    pub fn is_batch_superseded(&mut self, batch: &Batch) -> bool {
        let header = &batch.header;
        while self.wanted.get(self.passed).is_some_and(|(_, last)| *last < header.base_offset) {
            self.passed += 1;
        }
        // What came after the look is wanted.
        self.wanted.get(self.passed).is_some_and(|(first, _)| *first > header.last_offset())
    }

    /// Whether a later committed record of the key was seen.
    pub fn is_superseded(&self, key: Option<&Bytes>, offset: Offset) -> bool {
        key.and_then(|key| self.latest.get(&self.hash(key))).is_some_and(|latest| offset < *latest)
    }
}
