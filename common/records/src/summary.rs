//! What a broker has to know of the records in a batch that it accepts, found by one walk over them.
//!
//! The walk over records that are not packed is a good part of what an append costs, so it reads a record's numbers by whole words:
//! one for all that stands before its key, or before its value where it has none. A record that does not fit into this
//! (with headers, with large numbers, the last few bytes of a batch) is read field by field, and so is every damaged one.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use odradek_common::time::Timestamp;

use crate::compression::Codec;
use crate::header::BatchHeader;
use crate::record::{RecordError, RecordSummary, codec, scan_records, take_summary};

/// What the records of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    /// Their offset deltas are 0, 1, 2, and so on.
    pub offsets_are_sequential: bool,
    pub all_have_keys: bool,
    /// The smallest and the largest of their own timestamps, whatever the batch's timestamp type; `min > max` when there is no
    /// record.
    pub min_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
}

impl BatchSummary {
    const EMPTY: Self = Self {
        offsets_are_sequential: true,
        all_have_keys: true,
        min_timestamp: Timestamp(i64::MAX),
        max_timestamp: Timestamp(i64::MIN),
    };

    #[inline(always)]
    fn add(&mut self, index: i32, record: RecordSummary) {
        self.offsets_are_sequential &= record.offset_delta == index;
        self.all_have_keys &= record.has_key;
        self.min_timestamp = self.min_timestamp.min(record.timestamp);
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
    }
}

/// Walks over the records of a batch as [`scan_records`] does, with the same errors.
pub fn summarize_records(
    header: &BatchHeader,
    payload: &[u8],
    decompressed_bytes_max: usize,
) -> Result<BatchSummary, RecordError> {
    let mut found = BatchSummary::EMPTY;
    if codec(header)? != Codec::None {
        let mut index = 0;
        scan_records(header, payload, decompressed_bytes_max, |record| {
            found.add(index, record);
            index += 1;
            Ok::<_, RecordError>(())
        })?;
        return Ok(found);
    }
    header.check_record_count(payload)?;
    let mut rest = payload;
    for index in 0..header.record_count {
        match take_plain(header, &mut rest) {
            Some(record) => found.add(index, record),
            None => found.add(index, take_summary(header, &mut rest)?),
        }
    }
    if rest.is_empty() { Ok(found) } else { Err(RecordError::TrailingBytes(header.record_count)) }
}

/// A zigzag number that stands for null where a length is due.
const NULL: u32 = 1;

/// Takes off a record as nearly all are: its numbers take few bytes, and it has no headers. `None`: another one, sound or not.
#[inline(always)]
fn take_plain(header: &BatchHeader, rest: &mut &[u8]) -> Option<RecordSummary> {
    let bytes = *rest;
    let head = u128::from_le_bytes(*bytes.first_chunk()?);
    let (length, length_bits) = number(head as u32)?;
    // The attributes are skipped.
    let mut at = length_bits + 8;
    let fields = (head >> at) as u64;
    let (timestamp_delta, bits) = number(fields as u32)?;
    let (offset_delta, more) = number((fields >> bits) as u32)?;
    let bits = bits + more;
    let (key, more) = number((fields >> bits) as u32)?;
    at += bits + more;
    let key_bytes = key as usize >> 1;
    let word = match key {
        NULL => (head >> at) as u32,
        _ => u32::from_le_bytes(*bytes.get(at as usize / 8 + key_bytes..)?.first_chunk()?),
    };
    let (value, value_bits) = number(word)?;
    let headers_at = (at + value_bits) as usize / 8 + key_bytes + (value as usize >> 1);
    let end = length_bits as usize / 8 + (length as usize >> 1);
    let is_length = |number: u32| number & 1 == 0 || number == NULL;
    let is_plain = bits + more <= u64::BITS
        && length & 1 == 0
        && is_length(key)
        && is_length(value)
        && headers_at + 1 == end
        && bytes.get(headers_at) == Some(&0);
    if !is_plain {
        return None;
    }
    *rest = bytes.get(end..)?;
    let timestamp = Timestamp(header.base_timestamp.0.wrapping_add(i64::from(signed(timestamp_delta))));
    Some(RecordSummary { offset_delta: signed(offset_delta), timestamp, has_key: key != NULL })
}

/// Undoes zigzag.
#[inline(always)]
fn signed(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

/// A number of one to three bytes at the low end of a word, before zigzag is undone, and its bits there.
#[inline(always)]
fn number(word: u32) -> Option<(u32, u32)> {
    if word & 0x80 == 0 {
        Some((word & 0x7f, 8))
    } else if word & 0x8000 == 0 {
        Some((word & 0x7f | word >> 1 & 0x3f80, 16))
    } else if word & 0x80_0000 == 0 {
        Some((word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000, 24))
    } else {
        None
    }
}
