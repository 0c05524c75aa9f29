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
    /// record. Of times that overflow, all there are.
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

    fn add(&mut self, index: i32, record: RecordSummary) {
        self.offsets_are_sequential &= record.offset_delta == index;
        self.all_have_keys &= record.has_key;
        self.min_timestamp = self.min_timestamp.min(record.timestamp);
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
    }

    fn add_run(&mut self, header: &BatchHeader, run: &Run<'_>) {
        self.offsets_are_sequential &= run.offsets_are_sequential;
        self.all_have_keys &= run.all_have_keys;
        if run.min > run.max {
            return;
        }
        let base = header.base_timestamp.0;
        let (min, max) = (base.wrapping_add(i64::from(run.min)), base.wrapping_add(i64::from(run.max)));
        // Times wrap around, as they do record by record: from the largest to the smallest, if between the two.
        let (min, max) = if min <= max { (min, max) } else { (i64::MIN, i64::MAX) };
        self.min_timestamp = self.min_timestamp.min(Timestamp(min));
        self.max_timestamp = self.max_timestamp.max(Timestamp(max));
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
    let mut run = Run { rest: payload, index: 0, ..Run::default() };
    loop {
        run.take_plain(header.record_count);
        if run.index >= header.record_count {
            break;
        }
        found.add(run.index, take_summary(header, &mut run.rest)?);
        run.index += 1;
    }
    if !run.rest.is_empty() {
        return Err(RecordError::TrailingBytes(header.record_count));
    }
    found.add_run(header, &run);
    Ok(found)
}

/// The way over the records of a batch that is not packed, and what it found of those that are plain.
struct Run<'a> {
    rest: &'a [u8],
    /// Of the next record.
    index: i32,
    offsets_are_sequential: bool,
    all_have_keys: bool,
    /// Of timestamp deltas; `min > max` when there was no plain record.
    min: i32,
    max: i32,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { rest: &[], index: 0, offsets_are_sequential: true, all_have_keys: true, min: i32::MAX, max: i32::MIN }
    }
}

/// A zigzag number that stands for null where a length is due.
const NULL: u32 = 1;

impl Run<'_> {
    /// Goes on to the first record that is not plain: its numbers take more than a few bytes, it has headers, or it is damaged.
    fn take_plain(&mut self, count: i32) {
        let Self { mut rest, mut index, mut offsets_are_sequential, mut all_have_keys, mut min, mut max } = *self;
        while index < count {
            let Some(head) = rest.first_chunk() else { break };
            let head = u128::from_le_bytes(*head);
            let Some((length, length_bits)) = number(head as u32) else { break };
            // The attributes are skipped.
            let mut at = length_bits + 8;
            let fields = (head >> at) as u64;
            let Some((timestamp_delta, bits)) = number(fields as u32) else { break };
            let Some((offset_delta, more)) = number((fields >> bits) as u32) else { break };
            let bits = bits + more;
            let Some((key, more)) = number((fields >> bits) as u32) else { break };
            at += bits + more;
            let key_bytes = key as usize >> 1;
            let word = match key {
                NULL => (head >> at) as u32,
                _ => match rest.get(at as usize / 8 + key_bytes..).and_then(|value| value.first_chunk()) {
                    Some(word) => u32::from_le_bytes(*word),
                    None => break,
                },
            };
            let Some((value, value_bits)) = number(word) else { break };
            let headers_at = (at + value_bits) as usize / 8 + key_bytes + (value as usize >> 1);
            let end = length_bits as usize / 8 + (length as usize >> 1);
            let is_length = |number: u32| number & 1 == 0 || number == NULL;
            let is_plain = bits + more <= u64::BITS
                && length & 1 == 0
                && is_length(key)
                && is_length(value)
                && headers_at + 1 == end
                && rest.get(headers_at) == Some(&0);
            let (true, Some(behind)) = (is_plain, rest.get(end..)) else { break };
            rest = behind;
            offsets_are_sequential &= offset_delta == 2 * index as u32;
            all_have_keys &= key != NULL;
            let delta = (timestamp_delta >> 1) as i32 ^ -((timestamp_delta & 1) as i32);
            (min, max) = (min.min(delta), max.max(delta));
            index += 1;
        }
        *self = Self { rest, index, offsets_are_sequential, all_have_keys, min, max };
    }
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
