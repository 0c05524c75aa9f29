//! The header of a record batch, version 2:
//!
//! ```text
//!  0 base offset            i64   assigned by the leader, not under the CRC
//!  8 batch length           i32   bytes that follow this field
//! 12 partition leader epoch i32   assigned by the leader, not under the CRC
//! 16 magic                  i8    2
//! 17 CRC-32C                u32   of everything from the attributes on
//! 21 attributes             i16   bits 0-2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon
//! 23 last offset delta      i32
//! 27 base timestamp         i64   or the delete horizon of a cleaned batch (KIP-534)
//! 35 max timestamp          i64
//! 43 producer id            i64
//! 51 producer epoch         i16
//! 53 base sequence          i32
//! 57 record count           i32
//! 61 records
//! ```

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, time::Timestamp};

use crate::compression::Codec;

/// The size of a batch without records.
pub const HEADER_BYTES: usize = 61;
/// Base offset and batch length, which every format of a batch opens with.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The one format that is stored.
pub const MAGIC_V2: i8 = 2;
/// Where the bytes under the CRC begin.
pub const CRC_START: usize = 21;
pub(crate) const MAGIC_AT: usize = 16;
/// The least length a batch of any format announces: Kafka's `LegacyRecord.RECORD_OVERHEAD_V0`.
const BATCH_LENGTH_MIN_V0: i32 = 14;

/// Bytes are not a whole, sound record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end inside a batch. Not damage in itself: a fetch may end so.
    #[error("the bytes end inside a record batch: {have} are there, {need} are needed")]
    Incomplete { have: usize, need: usize },
    #[error("a record batch announces {0} bytes, fewer than its header has")]
    LengthTooSmall(i32),
    /// Formats 0 and 1, which Kafka 4 does not store either.
    #[error("the record batch has the old message format {0}; only format 2 (Kafka 0.11 and later) is stored")]
    OldMagic(i8),
    #[error("the record batch has the unknown message format {0}")]
    UnknownMagic(i8),
    #[error("the record batch is corrupt: stored CRC {stored:#010x}, computed {computed:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("the record batch has the offset range {base} + {delta}")]
    OffsetRange { base: i64, delta: i32 },
    #[error("the record batch has a negative record count, {0}")]
    RecordCount(i32),
}

/// The `attributes` of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    pub const LOG_APPEND_TIME: i16 = 1 << 3;
    pub const TRANSACTIONAL: i16 = 1 << 4;
    pub const CONTROL: i16 = 1 << 5;
    pub const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec, or `None` for a number that no codec has.
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id((self.0 & 7) as u8)
    }

    pub fn is_compressed(self) -> bool {
        self.0 & 7 != 0
    }

    /// The batch's `max_timestamp` is that of all its records.
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// A batch's header, decoded. Invariants: `size >= HEADER_BYTES`, `last_offset_delta >= 0`, `record_count >= 0`,
/// `base_offset >= 0` and the last offset does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included (the length field and 12).
    pub size: usize,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    /// `-1`: none.
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// `-1`: none.
    pub base_sequence: i32,
    pub record_count: i32,
}

#[inline]
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end anywhere behind it. The CRC is not checked.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        match bytes.first_chunk::<HEADER_BYTES>() {
            Some(header) => Self::parse_whole(header),
            None => Err(Self::too_short(bytes)),
        }
    }

    /// What is wrong with fewer bytes than a header has: the length or magic when those are there, else incomplete.
    fn too_short(bytes: &[u8]) -> BatchError {
        if let Some(length) = field(bytes, 8).map(i32::from_be_bytes)
            && length < BATCH_LENGTH_MIN_V0
        {
            return BatchError::LengthTooSmall(length);
        }
        match bytes.get(MAGIC_AT).map(|magic| *magic as i8) {
            Some(magic @ (0 | 1)) => BatchError::OldMagic(magic),
            Some(magic) if magic != MAGIC_V2 => BatchError::UnknownMagic(magic),
            _ => BatchError::Incomplete { have: bytes.len(), need: HEADER_BYTES },
        }
    }

    fn parse_whole(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BatchError> {
        // The positions are constants within the array, so these reads cannot fail and compile to plain loads.
        fn at<const N: usize>(bytes: &[u8; HEADER_BYTES], position: usize) -> [u8; N] {
            field(bytes, position).unwrap_or([0; N])
        }
        let length = i32::from_be_bytes(at(bytes, 8));
        if length < BATCH_LENGTH_MIN_V0 {
            return Err(BatchError::LengthTooSmall(length));
        }
        match i8::from_be_bytes(at(bytes, MAGIC_AT)) {
            MAGIC_V2 => {}
            magic @ (0 | 1) => return Err(BatchError::OldMagic(magic)),
            magic => return Err(BatchError::UnknownMagic(magic)),
        }
        let size = length as usize + LENGTH_PREFIX_BYTES;
        if size < HEADER_BYTES {
            return Err(BatchError::LengthTooSmall(length));
        }
        let base = i64::from_be_bytes(at(bytes, 0));
        let delta = i32::from_be_bytes(at(bytes, 23));
        if base < 0 || delta < 0 || base.checked_add(i64::from(delta)).is_none_or(|last| last == i64::MAX) {
            return Err(BatchError::OffsetRange { base, delta });
        }
        let record_count = i32::from_be_bytes(at(bytes, 57));
        if record_count < 0 {
            return Err(BatchError::RecordCount(record_count));
        }
        Ok(Self {
            base_offset: Offset(base),
            size,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(at(bytes, 12))),
            crc: u32::from_be_bytes(at(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(at(bytes, 21))),
            last_offset_delta: delta,
            base_timestamp: Timestamp(i64::from_be_bytes(at(bytes, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(at(bytes, 35))),
            producer_id: ProducerId(i64::from_be_bytes(at(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(at(bytes, 51))),
            base_sequence: i32::from_be_bytes(at(bytes, 53)),
            record_count,
        })
    }

    /// The header's 61 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut rest = out.as_mut_slice();
        let mut put = |bytes: &[u8]| {
            let (target, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            target.copy_from_slice(bytes);
            rest = tail;
        };
        put(&self.base_offset.0.to_be_bytes());
        put(&((self.size - LENGTH_PREFIX_BYTES) as i32).to_be_bytes());
        put(&self.leader_epoch.0.to_be_bytes());
        put(&MAGIC_V2.to_be_bytes());
        put(&self.crc.to_be_bytes());
        put(&self.attributes.0.to_be_bytes());
        put(&self.last_offset_delta.to_be_bytes());
        put(&self.base_timestamp.0.to_be_bytes());
        put(&self.max_timestamp.0.to_be_bytes());
        put(&self.producer_id.0.to_be_bytes());
        put(&self.producer_epoch.0.to_be_bytes());
        put(&self.base_sequence.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        out
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta) + 1)
    }

    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// The sequence of the last record; sequences wrap from `i32::MAX` to 0. `-1` when the batch has none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { -1 } else { sequence_plus(self.base_sequence, self.last_offset_delta) }
    }

    /// Checks the CRC of a whole batch, `self.size` bytes.
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let covered =
            batch.get(CRC_START..self.size).ok_or(BatchError::Incomplete { have: batch.len(), need: self.size })?;
        let computed = crc32c::crc32c(covered);
        if computed == self.crc { Ok(()) } else { Err(BatchError::Crc { stored: self.crc, computed }) }
    }
}

/// A sequence `n` later; 0 follows `i32::MAX`.
pub fn sequence_plus(sequence: i32, n: i32) -> i32 {
    ((i64::from(sequence) + i64::from(n)) & i64::from(i32::MAX)) as i32
}

/// A sequence `n` earlier; `i32::MAX` precedes 0.
pub fn sequence_minus(sequence: i32, n: i32) -> i32 {
    ((i64::from(sequence) - i64::from(n)) & i64::from(i32::MAX)) as i32
}
