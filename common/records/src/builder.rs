//! Making record batches: what coordinators, the command line, tests, and a broker that has to write a batch anew use.

use bytes::Bytes;
use odradek_common::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, time::Timestamp};

use crate::compression::{self, Compression, CompressionError};
use crate::header::{Attributes, BatchHeader, CRC_START, HEADER_BYTES};
use crate::varint::{varlong_bytes, write_varint, write_varlong};

/// Whose clock a batch's timestamps are (KIP-32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The leader's, at the append.
    LogAppendTime,
}

impl TimestampType {
    /// The name in `message.timestamp.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::CreateTime, Self::LogAppendTime].into_iter().find(|kind| kind.name() == name)
    }
}

/// A batch cannot be made of these records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("a record batch of {0} bytes is larger than its length field can say")]
    TooLarge(usize),
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Collects records and makes one batch of them. The first record's timestamp becomes the base timestamp.
#[derive(Clone, Debug)]
pub struct RecordBatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    compression: Compression,
    timestamp_type: TimestampType,
    /// Of the batch, with log append time.
    log_append_time: Timestamp,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    flags: i16,
    base_timestamp: Option<Timestamp>,
    max_timestamp: Timestamp,
    count: i32,
    payload: Vec<u8>,
}

impl Default for RecordBatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordBatchBuilder {
    /// Base offset 0, no leader epoch, no producer, uncompressed, the producer's timestamps: as a client sends it.
    pub fn new() -> Self {
        Self {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            compression: Compression::default(),
            timestamp_type: TimestampType::CreateTime,
            log_append_time: Timestamp::NONE,
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            flags: 0,
            base_timestamp: None,
            max_timestamp: Timestamp::NONE,
            count: 0,
            payload: Vec::new(),
        }
    }

    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.base_offset = offset;
        self
    }

    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }

    #[must_use]
    pub fn compression(mut self, compression: impl Into<Compression>) -> Self {
        self.compression = compression.into();
        self
    }

    /// Gives the whole batch the time of its append.
    #[must_use]
    pub fn log_append_time(mut self, time: Timestamp) -> Self {
        self.timestamp_type = TimestampType::LogAppendTime;
        self.log_append_time = time;
        self
    }

    /// `base_sequence` is -1 for markers and coordinators' transactional writes.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    #[must_use]
    pub fn transactional(mut self, transactional: bool) -> Self {
        self.set_flag(Attributes::TRANSACTIONAL, transactional);
        self
    }

    #[must_use]
    pub fn control(mut self, control: bool) -> Self {
        self.set_flag(Attributes::CONTROL, control);
        self
    }

    fn set_flag(&mut self, flag: i16, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    /// Adds a record without headers.
    pub fn append(&mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.append_with_headers(timestamp, key, value, &[]);
    }

    /// Adds a record.
    pub fn append_with_headers(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.0.wrapping_sub(base.0);
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(i64::from(self.count))
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varlong_bytes(headers.len() as i64)
            + headers.iter().map(|(key, value)| nullable_bytes(Some(key)) + nullable_bytes(*value)).sum::<usize>();
        let out = &mut self.payload;
        write_varlong(out, length as i64);
        out.push(0);
        write_varlong(out, timestamp_delta);
        write_varint(out, self.count);
        write_nullable(out, key);
        write_nullable(out, value);
        write_varlong(out, headers.len() as i64);
        for (key, value) in headers {
            write_nullable(out, Some(key));
            write_nullable(out, *value);
        }
        self.count += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Bytes so far, before compression.
    pub fn size(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The batch. One without records is legal and has one offset.
    pub fn build(self) -> Result<Bytes, BuildError> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        out.resize(HEADER_BYTES, 0);
        compression::compress(self.compression, &self.payload, &mut out)?;
        let size = out.len();
        if size > i32::MAX as usize {
            return Err(BuildError::TooLarge(size));
        }
        let mut attributes = self.flags | i16::from(self.compression.codec.id());
        let max_timestamp = match self.timestamp_type {
            TimestampType::CreateTime => self.max_timestamp,
            TimestampType::LogAppendTime => {
                attributes |= Attributes::LOG_APPEND_TIME;
                self.log_append_time
            }
        };
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            size,
            leader_epoch: self.leader_epoch,
            crc: 0,
            attributes: Attributes(attributes),
            last_offset_delta: (self.count - 1).max(0),
            base_timestamp: self.base_timestamp.unwrap_or(Timestamp::NONE),
            max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        header.crc = crc32c::crc32c(&out[CRC_START..]);
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        Ok(out.into())
    }
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varlong_bytes(bytes.len() as i64) + bytes.len())
}

pub(crate) fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => write_varint(out, -1),
        Some(bytes) => {
            write_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
