//! Single records inside a batch:
//!
//! ```text
//! length          varint   bytes that follow
//! attributes      i8       unused
//! timestamp delta varlong  to the batch's base timestamp
//! offset delta    varint   to the batch's base offset
//! key             varint length (-1: null) and bytes
//! value           varint length (-1: null) and bytes
//! headers         varint count, each: key (varint length, UTF-8), value (varint length, -1: null)
//! ```
//!
//! [`Records`] hands records out, [`raw_records`] lends them; [`scan_records`] walks over them without keeping anything.
//! What a broker does with every batch it accepts is [`summarize_records`](crate::summary::summarize_records).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

use bytes::Bytes;
use odradek_common::{Offset, time::Timestamp};

use crate::batches::Batch;
use crate::compression::{self, Codec, CompressionError};
use crate::header::{BatchHeader, HEADER_BYTES};
use crate::varint::{Input, read_varint, read_varlong};

/// What a batch may decompress to when the caller has no narrower bound. A batch of the default `max.message.bytes`
/// would have to shrink 256-fold to reach it.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The buffer between a decompressor and the record parser.
const STREAM_BUFFER_BYTES: usize = 16 * 1024;
/// The least a record takes: length, attributes, two deltas, key, value and header count of one byte each.
const RECORD_BYTES_MIN: usize = 7;

/// The records in a batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the batch ends inside a record")]
    Truncated,
    #[error("a variable-length number has too many bytes")]
    VarintTooLong,
    #[error("a record claims {claimed} bytes and has {consumed}")]
    Size { claimed: i64, consumed: i64 },
    #[error("a record has the invalid length {0} in a field")]
    Length(i32),
    #[error("the batch claims {claimed} records and has {found}")]
    Count { claimed: i32, found: i32 },
    #[error("bytes follow the last of the {0} records that the batch claims")]
    TrailingBytes(i32),
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// A header of a record (KIP-82).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by the protocol; not checked here.
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// One record, sharing the buffer of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    /// The record's own, or the batch's when that has log append time.
    pub timestamp: Timestamp,
    /// `-1`: none.
    pub sequence: i32,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// The records of one batch, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    payload: Bytes,
    position: usize,
    read: i32,
    failed: bool,
}

impl Records {
    pub(crate) fn new(batch: &Batch, decompressed_bytes_max: usize) -> Result<Self, RecordError> {
        let header = batch.header;
        let payload = batch.bytes.slice(HEADER_BYTES.min(batch.bytes.len())..);
        let payload = match codec(&header)? {
            Codec::None => payload,
            codec => compression::decompress(codec, &payload, decompressed_bytes_max)?.into(),
        };
        Ok(Self { header, payload, position: 0, read: 0, failed: false })
    }

    fn take(&mut self) -> Result<Record, RecordError> {
        let mut cursor = Cursor { bytes: &self.payload, position: self.position };
        let claimed = read_varint(&mut cursor)?;
        let length = usize::try_from(claimed).map_err(|_| RecordError::Length(claimed))?;
        let end = cursor.position.checked_add(length).filter(|end| *end <= self.payload.len());
        let end = end.ok_or(RecordError::Truncated)?;
        let start = cursor.position;
        cursor.skip(1)?;
        let timestamp_delta = read_varlong(&mut cursor)?;
        let offset_delta = read_varint(&mut cursor)?;
        let key = cursor.nullable_bytes()?;
        let value = cursor.nullable_bytes()?;
        let count = read_varint(&mut cursor)?;
        let count = usize::try_from(count).map_err(|_| RecordError::Length(count))?;
        // Each header takes two bytes at least, so a count cannot reserve more than the record has.
        let mut headers = Vec::with_capacity(count.min(end.saturating_sub(cursor.position) / 2));
        for _ in 0..count {
            let length = read_varint(&mut cursor)?;
            let key = cursor.bytes(length)?;
            headers.push(Header { key, value: cursor.nullable_bytes()? });
        }
        if cursor.position != end {
            let consumed = (cursor.position - start) as i64;
            return Err(RecordError::Size { claimed: i64::from(claimed), consumed });
        }
        self.position = end;
        let header = &self.header;
        let timestamp = if header.attributes.is_log_append_time() {
            header.max_timestamp
        } else {
            Timestamp(header.base_timestamp.0.wrapping_add(timestamp_delta))
        };
        let sequence = match header.base_sequence {
            ..0 => -1,
            base => crate::header::sequence_plus(base, offset_delta),
        };
        let offset = Offset(header.base_offset.0.saturating_add(i64::from(offset_delta)));
        Ok(Record { offset, timestamp, sequence, key, value, headers })
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = if self.read < self.header.record_count {
            self.read += 1;
            self.take()
        } else if self.position == self.payload.len() {
            return None;
        } else {
            Err(RecordError::TrailingBytes(self.header.record_count))
        };
        self.failed = result.is_err();
        Some(result)
    }
}

/// One record, borrowed from what its batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    pub offset: Offset,
    /// The record's own, whatever the batch's timestamp type.
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub has_value: bool,
    /// All of it, its length included.
    pub bytes: &'a [u8],
    /// What follows the timestamp delta: offset delta, key, value and headers.
    pub behind_timestamp: &'a [u8],
}

/// The encoded records of a batch (`bytes`: all of the batch), decompressed, at most `decompressed_bytes_max` bytes.
pub fn payload<'a>(
    header: &BatchHeader,
    bytes: &'a [u8],
    decompressed_bytes_max: usize,
) -> Result<Cow<'a, [u8]>, RecordError> {
    let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
    Ok(match codec(header)? {
        Codec::None => payload.into(),
        codec => compression::decompress(codec, payload, decompressed_bytes_max)?.into(),
    })
}

/// The records in a [`payload`], in order. Ends after the first error.
#[inline]
pub fn raw_records<'a>(
    header: &BatchHeader,
    payload: &'a [u8],
) -> impl Iterator<Item = Result<RawRecord<'a>, RecordError>> + use<'a> {
    let header = *header;
    let (mut rest, mut left, mut failed) = (payload, header.record_count, false);
    std::iter::from_fn(move || {
        if failed || (left <= 0 && rest.is_empty()) {
            return None;
        }
        let result = match left {
            ..=0 => Err(RecordError::TrailingBytes(header.record_count)),
            _ => take_raw(&header, &mut rest),
        };
        left -= 1;
        failed = result.is_err();
        Some(result)
    })
}

#[inline]
fn take_raw<'a>(header: &BatchHeader, rest: &mut &'a [u8]) -> Result<RawRecord<'a>, RecordError> {
    let all = *rest;
    let mut input = all;
    let claimed = read_varint(&mut input)?;
    let length = usize::try_from(claimed).map_err(|_| RecordError::Length(claimed))?;
    let (mut record, after) = input.split_at_checked(length).ok_or(RecordError::Truncated)?;
    let bytes = all.get(..all.len() - after.len()).unwrap_or_default();
    record.skip(1)?;
    let timestamp_delta = read_varlong(&mut record)?;
    let behind_timestamp = record;
    let offset_delta = read_varint(&mut record)?;
    let key = match read_varint(&mut record)? {
        -1 => None,
        length => {
            let length = usize::try_from(length).map_err(|_| RecordError::Length(length))?;
            let (key, behind) = record.split_at_checked(length).ok_or(RecordError::Truncated)?;
            record = behind;
            Some(key)
        }
    };
    let has_value = skip_nullable(&mut record)?;
    skip_headers(&mut record)?;
    if !record.is_empty() {
        return Err(RecordError::Size { claimed: i64::from(claimed), consumed: (length - record.len()) as i64 });
    }
    *rest = after;
    Ok(RawRecord {
        offset: Offset(header.base_offset.0.saturating_add(i64::from(offset_delta))),
        timestamp: Timestamp(header.base_timestamp.0.wrapping_add(timestamp_delta)),
        key,
        has_value,
        bytes,
        behind_timestamp,
    })
}

pub(crate) fn codec(header: &BatchHeader) -> Result<Codec, CompressionError> {
    header.attributes.codec().ok_or(CompressionError::UnknownCodec((header.attributes.0 & 7) as u8))
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    position: usize,
}

impl Input for Cursor<'_> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = self.bytes.get(self.position).ok_or(RecordError::Truncated)?;
        self.position += 1;
        Ok(*byte)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), RecordError> {
        self.position = self.position.checked_add(bytes).ok_or(RecordError::Truncated)?;
        if self.position > self.bytes.len() { Err(RecordError::Truncated) } else { Ok(()) }
    }
}

impl BatchHeader {
    /// Whether a payload that is not packed can hold so many records at all.
    pub(crate) fn check_record_count(&self, payload: &[u8]) -> Result<(), RecordError> {
        if (self.record_count as usize).saturating_mul(RECORD_BYTES_MIN) > payload.len() {
            let found = (payload.len() / RECORD_BYTES_MIN) as i32;
            return Err(RecordError::Count { claimed: self.record_count, found });
        }
        Ok(())
    }
}

impl Cursor<'_> {
    fn bytes(&mut self, length: i32) -> Result<Bytes, RecordError> {
        let start = self.position;
        self.skip(usize::try_from(length).map_err(|_| RecordError::Length(length))?)?;
        Ok(self.bytes.slice(start..self.position))
    }

    fn nullable_bytes(&mut self) -> Result<Option<Bytes>, RecordError> {
        match read_varint(self)? {
            -1 => Ok(None),
            length => self.bytes(length).map(Some),
        }
    }
}

/// What [`scan_records`] tells of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSummary {
    pub offset_delta: i32,
    /// The record's own timestamp, whatever the batch's timestamp type.
    pub timestamp: Timestamp,
    pub has_key: bool,
}

/// Walks over the records of a batch (`payload`: its bytes behind the header), decompressing as a stream, at most
/// `decompressed_bytes_max` bytes. Every length and the record count are checked against the bytes that are there.
/// `visit` may stop the walk with an error of its own.
pub fn scan_records<E: From<RecordError>>(
    header: &BatchHeader,
    payload: &[u8],
    decompressed_bytes_max: usize,
    mut visit: impl FnMut(RecordSummary) -> Result<(), E>,
) -> Result<(), E> {
    let codec = codec(header).map_err(RecordError::from)?;
    if codec == Codec::None {
        header.check_record_count(payload)?;
        let mut input = payload;
        for _ in 0..header.record_count {
            visit(take_summary(header, &mut input)?)?;
        }
        return if input.is_empty() { Ok(()) } else { Err(RecordError::TrailingBytes(header.record_count).into()) };
    }
    let stream = compression::reader(codec, payload).map_err(RecordError::from)?;
    let mut input = StreamInput {
        stream: BufReader::with_capacity(STREAM_BUFFER_BYTES, stream.take(decompressed_bytes_max as u64 + 1)),
        codec,
        left: 0,
        consumed: 0,
        bytes_max: decompressed_bytes_max,
    };
    for found in 0..header.record_count {
        input.left = usize::MAX;
        let claimed = match read_varint(&mut input) {
            Err(RecordError::Truncated) => {
                return Err(RecordError::Count { claimed: header.record_count, found }.into());
            }
            length => length?,
        };
        input.left = usize::try_from(claimed).map_err(|_| RecordError::Length(claimed))?;
        let summary = summarize(header, &mut input)?;
        if input.left > 0 {
            let consumed = i64::from(claimed) - input.left as i64;
            return Err(RecordError::Size { claimed: i64::from(claimed), consumed }.into());
        }
        visit(summary)?;
    }
    input.left = 1;
    match input.byte() {
        Err(RecordError::Truncated) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(RecordError::TrailingBytes(header.record_count).into()),
    }
}

/// Takes one record off a payload that is not packed.
pub(crate) fn take_summary(header: &BatchHeader, input: &mut &[u8]) -> Result<RecordSummary, RecordError> {
    let claimed = read_varint(input)?;
    let length = usize::try_from(claimed).map_err(|_| RecordError::Length(claimed))?;
    let (mut record, rest) = input.split_at_checked(length).ok_or(RecordError::Truncated)?;
    let summary = summarize(header, &mut record)?;
    if !record.is_empty() {
        let consumed = (length - record.len()) as i64;
        return Err(RecordError::Size { claimed: i64::from(claimed), consumed });
    }
    *input = rest;
    Ok(summary)
}

fn summarize(header: &BatchHeader, input: &mut impl Input) -> Result<RecordSummary, RecordError> {
    input.skip(1)?;
    let timestamp_delta = read_varlong(input)?;
    let offset_delta = read_varint(input)?;
    let has_key = skip_nullable(input)?;
    skip_nullable(input)?;
    skip_headers(input)?;
    let timestamp = Timestamp(header.base_timestamp.0.wrapping_add(timestamp_delta));
    Ok(RecordSummary { offset_delta, timestamp, has_key })
}

#[inline]
fn skip_headers(input: &mut impl Input) -> Result<(), RecordError> {
    let headers = read_varint(input)?;
    if headers < 0 {
        return Err(RecordError::Length(headers));
    }
    for _ in 0..headers {
        let key = read_varint(input)?;
        input.skip(usize::try_from(key).map_err(|_| RecordError::Length(key))?)?;
        skip_nullable(input)?;
    }
    Ok(())
}

#[inline]
fn skip_nullable(input: &mut impl Input) -> Result<bool, RecordError> {
    match read_varint(input)? {
        -1 => Ok(false),
        length => {
            input.skip(usize::try_from(length).map_err(|_| RecordError::Length(length))?)?;
            Ok(true)
        }
    }
}

/// A decompressor's output, bounded by the record that is being read (`left`) and by the batch (`bytes_max`).
struct StreamInput<R> {
    stream: BufReader<R>,
    codec: Codec,
    left: usize,
    consumed: usize,
    bytes_max: usize,
}

impl<R: Read> Input for StreamInput<R> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let first = if let Some(byte) = self.stream.buffer().first() {
            *byte
        } else {
            let buffer = self.stream.fill_buf().map_err(|error| compression::damaged(self.codec, &error))?;
            *buffer.first().ok_or(RecordError::Truncated)?
        };
        self.take(1)?;
        Ok(first)
    }

    fn skip(&mut self, mut bytes: usize) -> Result<(), RecordError> {
        if bytes > self.left {
            return Err(RecordError::Truncated);
        }
        while bytes > 0 {
            let buffer = self.stream.fill_buf().map_err(|error| compression::damaged(self.codec, &error))?;
            let step = buffer.len().min(bytes);
            if step == 0 {
                return Err(RecordError::Truncated);
            }
            self.take(step)?;
            bytes -= step;
        }
        Ok(())
    }
}

impl<R: Read> StreamInput<R> {
    fn take(&mut self, bytes: usize) -> Result<(), RecordError> {
        self.left = self.left.checked_sub(bytes).ok_or(RecordError::Truncated)?;
        self.consumed += bytes;
        if self.consumed > self.bytes_max {
            return Err(CompressionError::TooLarge { bytes_max: self.bytes_max }.into());
        }
        self.stream.consume(bytes);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use odradek_common::rng::{Rng, SplitMix64};

    use super::*;
    use crate::{BatchSummary, RecordBatchBuilder, summarize_records};

    /// By either way through the records: offset, time and whether there is a key of each, or that they are damaged.
    type Seen = Result<Vec<(i64, Timestamp, bool)>, RecordError>;

    fn scanned(header: &BatchHeader, payload: &[u8]) -> Seen {
        let mut seen = Vec::new();
        scan_records(header, payload, DECOMPRESSED_BYTES_MAX, |record| {
            seen.push((header.base_offset.0 + i64::from(record.offset_delta), record.timestamp, record.has_key));
            Ok::<_, RecordError>(())
        })?;
        Ok(seen)
    }

    /// What `summarize_records` has to say of them.
    fn folded(seen: &Seen) -> Result<BatchSummary, RecordError> {
        let seen = seen.clone()?;
        let times = || seen.iter().map(|(_, timestamp, _)| *timestamp);
        Ok(BatchSummary {
            offsets_are_sequential: seen.iter().enumerate().all(|(index, (offset, ..))| *offset == index as i64),
            all_have_keys: seen.iter().all(|(.., has_key)| *has_key),
            min_timestamp: times().min().unwrap_or(Timestamp(i64::MAX)),
            max_timestamp: times().max().unwrap_or(Timestamp(i64::MIN)),
        })
    }

    fn lent(header: &BatchHeader, payload: &[u8]) -> Seen {
        raw_records(header, payload)
            .map(|record| record.map(|record| (record.offset.0, record.timestamp, record.key.is_some())))
            .collect()
    }

    #[test]
    fn the_quick_way_through_records_sees_what_the_thorough_one_sees_of_sound_and_of_damaged_ones() {
        let mut rng = SplitMix64::new(7);
        let (mut sound, mut damaged) = (0, 0);
        for _ in 0..400 {
            let mut builder = RecordBatchBuilder::new();
            for _ in 0..1 + rng.below(20) {
                let sizes = if rng.below(50) == 0 { 7 } else { 6 };
                let size = [0, 1, 63, 64, 300, 9_000, 1_100_000][rng.below(sizes) as usize];
                let (key, value) = (vec![1; size / 2], vec![2; size]);
                let time = Timestamp([0, 1, 70, 5_000, 3_000_000, 1 << 40][rng.below(6) as usize]);
                let headers: &[(&[u8], Option<&[u8]>)] = if rng.below(8) == 0 { &[(b"h", None)] } else { &[] };
                let key = (rng.below(3) > 0).then_some(key.as_slice());
                let value = (rng.below(5) > 0).then_some(value.as_slice());
                builder.append_with_headers(time, key, value, headers);
            }
            let bytes = builder.build().expect("built");
            let header = BatchHeader::parse(&bytes).expect("sound");
            let mut payload = bytes[HEADER_BYTES..].to_vec();
            let scan = scanned(&header, &payload);
            assert_eq!(summarize_records(&header, &payload, DECOMPRESSED_BYTES_MAX), folded(&scan));
            let seen = scan.expect("sound");
            assert_eq!(seen.len(), header.record_count as usize);
            assert_eq!(lent(&header, &payload).expect("sound"), seen);
            for _ in 0..20 {
                let at = rng.below(payload.len() as u64) as usize;
                let before = std::mem::replace(&mut payload[at], rng.next_u64() as u8);
                let scan = scanned(&header, &payload);
                assert_eq!(summarize_records(&header, &payload, DECOMPRESSED_BYTES_MAX), folded(&scan));
                match (scan, lent(&header, &payload)) {
                    (Ok(scanned), Ok(lent)) => {
                        assert_eq!(scanned, lent);
                        sound += 1;
                    }
                    (Err(_), Err(_)) => damaged += 1,
                    (scanned, lent) => panic!("{scanned:?}, and {lent:?}"),
                }
                payload[at] = before;
            }
        }
        assert!(sound > 100 && damaged > 100, "{sound} sound, {damaged} damaged");
    }
}
