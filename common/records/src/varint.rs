//! Zigzag variable-length integers as protocol buffers and Kafka's records have them.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use crate::record::RecordError;

/// A source of bytes for the record parser: a slice, or a decompressor that must not be read ahead of its bound.
pub(crate) trait Input {
    fn byte(&mut self) -> Result<u8, RecordError>;
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError>;
}

impl Input for &[u8] {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (first, rest) = self.split_first().ok_or(RecordError::Truncated)?;
        *self = rest;
        Ok(*first)
    }

    #[inline]
    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        *self = self.get(bytes..).ok_or(RecordError::Truncated)?;
        Ok(())
    }
}

#[inline]
pub(crate) fn read_varint(input: &mut impl Input) -> Result<i32, RecordError> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = input.byte()?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i32 ^ -((value & 1) as i32));
        }
    }
    Err(RecordError::VarintTooLong)
}

#[inline]
pub(crate) fn read_varlong(input: &mut impl Input) -> Result<i64, RecordError> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28, 35, 42, 49, 56, 63] {
        let byte = input.byte()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(RecordError::VarintTooLong)
}

pub(crate) fn write_varint(out: &mut Vec<u8>, value: i32) {
    write_varlong(out, i64::from(value));
}

pub(crate) fn write_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The number of bytes that `write_varint` and `write_varlong` take.
pub(crate) fn varlong_bytes(value: i64) -> usize {
    let rest = (value << 1 ^ value >> 63) as u64;
    (64 - rest.leading_zeros() as usize).div_ceil(7).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_in_the_announced_length() {
        for shift in 0..64 {
            for value in [1i64 << shift, -(1i64 << shift.min(62)), (1i64 << shift).wrapping_sub(1), 0, i64::MIN] {
                let mut out = Vec::new();
                write_varlong(&mut out, value);
                assert_eq!(out.len(), varlong_bytes(value));
                assert_eq!(read_varlong(&mut out.as_slice()), Ok(value));
                if let Ok(small) = i32::try_from(value) {
                    assert_eq!(read_varint(&mut out.as_slice()), Ok(small));
                }
            }
        }
        assert_eq!(read_varint(&mut [0x80u8; 6].as_slice()), Err(RecordError::VarintTooLong));
        assert_eq!(read_varlong(&mut [0x80u8; 11].as_slice()), Err(RecordError::VarintTooLong));
        assert_eq!(read_varint(&mut [0x80u8; 2].as_slice()), Err(RecordError::Truncated));
    }
}
