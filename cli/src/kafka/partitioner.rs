//! Which partition a key belongs to: as Kafka's own clients choose, so that all writers of a topic agree.

/// The 32-bit MurmurHash2 with the seed of Kafka's clients (`Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition of a key among `count`.
pub fn partition_of(key: &[u8], count: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % count.max(1)
}

/// Where records without a key go: some stay together for the sake of large batches, then the next partition has its turn
/// (KIP-480).
pub struct Sticky {
    partitions: Vec<i32>,
    turn: usize,
    bytes: usize,
}

impl Sticky {
    /// Begins anywhere, so that many short-lived producers do not all write to the first partition.
    pub fn new(partitions: Vec<i32>, random: u64) -> Self {
        Self { partitions, turn: random as u32 as usize, bytes: 0 }
    }

    pub fn current(&self) -> i32 {
        self.partitions.get(self.turn % self.partitions.len().max(1)).copied().unwrap_or(0)
    }

    pub fn next(&mut self) {
        (self.turn, self.bytes) = (self.turn.wrapping_add(1), 0);
    }

    /// The place of a record of so many bytes; the turn passes on after `batch_bytes`.
    pub fn place(&mut self, bytes: usize, batch_bytes: usize) -> i32 {
        if self.bytes > 0 && self.bytes + bytes > batch_bytes {
            self.next();
        }
        self.bytes += bytes;
        self.current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_kafkas() {
        // From Kafka's own test of this function.
        for (text, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
        assert_eq!(partition_of(b"anything", 1), 0);
    }

    #[test]
    fn partitions_have_their_turns() {
        let mut sticky = Sticky::new(vec![4, 7], 1);
        let places: Vec<i32> = (0..5).map(|_| sticky.place(40, 100)).collect();
        assert_eq!(places, [7, 7, 4, 4, 7]);
    }
}
