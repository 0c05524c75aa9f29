//! Kafka's wire format in its older, non-flexible encoding, written out by hand for the few requests that the tests
//! need, and record batches of magic 2.
//!
//! Deliberately not the product's codec: what both sides get wrong together, a test would never see.

use anyhow::ensure;

/// Kafka's error codes that the tests name.
pub mod error {
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const LEADER_NOT_AVAILABLE: i16 = 5;
    pub const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub const REQUEST_TIMED_OUT: i16 = 7;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub const NOT_COORDINATOR: i16 = 16;
    pub const INVALID_TOPIC: i16 = 17;
    pub const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub const INVALID_CONFIG: i16 = 40;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    pub const FENCED_LEADER_EPOCH: i16 = 74;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const INVALID_RECORD: i16 = 87;
}

/// Bytes being written, big-endian.
#[derive(Clone, Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// The start of a request with header version 1.
    pub fn request(api_key: i16, version: i16, correlation: i32) -> Self {
        let mut out = Self(vec![0; 4]);
        out.i16(api_key).i16(version).i32(correlation).string("odradek-tests");
        out
    }

    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn string(&mut self, value: &str) -> &mut Self {
        self.i16(i16::try_from(value.len()).expect("a short string")).raw(value.as_bytes())
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.i32(i32::try_from(value.len()).expect("less than 2 GiB")).raw(value)
    }

    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    /// The whole frame, its length filled in.
    pub fn frame(mut self) -> Vec<u8> {
        let length = i32::try_from(self.0.len() - 4).expect("less than 2 GiB");
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// Bytes being read; too few of them are an error.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        ensure!(self.0.len() >= count, "the answer is short: {count} bytes wanted, {} left", self.0.len());
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    pub fn i8(&mut self) -> anyhow::Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> anyhow::Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> anyhow::Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> anyhow::Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Empty when null.
    pub fn string(&mut self) -> anyhow::Result<String> {
        let length = self.i16()?;
        Ok(if length < 0 { String::new() } else { String::from_utf8(self.take(length as usize)?.to_vec())? })
    }

    /// Empty when null.
    pub fn bytes(&mut self) -> anyhow::Result<&'a [u8]> {
        let length = self.i32()?;
        if length < 0 { Ok(&[]) } else { self.take(length as usize) }
    }

    /// An array, null as empty.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let count = self.i32()?;
        (0..count.max(0)).map(|_| item(self)).collect()
    }
}

/// A number as records have it: zigzag, seven bits to a byte.
pub fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn read_varint(data: &mut &[u8]) -> anyhow::Result<i64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, rest) = data.split_first().ok_or_else(|| anyhow::anyhow!("a varint is cut"))?;
        *data = rest;
        ensure!(shift < 64, "a varint of more than ten bytes");
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(((value >> 1) as i64) ^ -((value & 1) as i64));
        }
        shift += 7;
    }
}

/// What to write into a batch. Uncompressed, without keys or headers.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    pub values: &'a [Vec<u8>],
    /// Milliseconds since 1970 of the first record; each further one is a millisecond later.
    pub timestamp_ms: i64,
    /// -1, -1, -1 without idempotence.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

impl<'a> Batch<'a> {
    pub fn of(values: &'a [Vec<u8>]) -> Self {
        Self { values, timestamp_ms: now_ms(), producer_id: -1, producer_epoch: -1, base_sequence: -1 }
    }

    pub fn encode(&self) -> Vec<u8> {
        let count = self.values.len() as i32;
        let last_ms = self.timestamp_ms + i64::from(count) - 1;
        let mut covered = Writer::default(); // by the CRC
        covered.i16(0).i32(count - 1).i64(self.timestamp_ms).i64(last_ms);
        covered.i64(self.producer_id).i16(self.producer_epoch).i32(self.base_sequence).i32(count);
        for (index, value) in self.values.iter().enumerate() {
            let mut record = vec![0u8];
            varint(&mut record, index as i64); // timestamp delta
            varint(&mut record, index as i64); // offset delta
            varint(&mut record, -1); // no key
            varint(&mut record, value.len() as i64);
            record.extend_from_slice(value);
            varint(&mut record, 0); // no headers
            varint(&mut covered.0, record.len() as i64);
            covered.raw(&record);
        }
        let mut out = Writer::default();
        out.i64(0).i32(covered.0.len() as i32 + 9).i32(-1).i8(2).i32(crc32c::crc32c(&covered.0) as i32).raw(&covered.0);
        out.0
    }
}

pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A batch found in a log or an answer.
#[derive(Clone, Copy, Debug)]
pub struct StoredBatch<'a> {
    pub base_offset: i64,
    pub last_offset: i64,
    pub leader_epoch: i32,
    /// All of it, header included.
    pub bytes: &'a [u8],
}

/// One record of an uncompressed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub value: Vec<u8>,
}

impl StoredBatch<'_> {
    pub fn is_control(&self) -> bool {
        self.bytes[22] & 0x20 != 0
    }

    /// The records; an error when they are compressed or malformed.
    pub fn records(&self) -> anyhow::Result<Vec<StoredRecord>> {
        let mut head = Reader(&self.bytes[21..]);
        let attributes = head.i16()?;
        ensure!(attributes & 7 == 0, "compressed batches are for real clients");
        let _last_delta = head.i32()?;
        let first_ms = head.i64()?;
        head.take(8 + 8 + 2 + 4)?;
        let count = head.i32()?;
        let mut data = head.0;
        let mut out = Vec::new();
        for _ in 0..count {
            let length = read_varint(&mut data)? as usize;
            ensure!(length <= data.len(), "a record runs over its batch");
            let (mut record, rest) = data.split_at(length);
            data = rest;
            record = &record[1..];
            let timestamp_ms = first_ms + read_varint(&mut record)?;
            let offset = self.base_offset + read_varint(&mut record)?;
            let key = read_varint(&mut record)?.max(0) as usize;
            record = record.get(key..).ok_or_else(|| anyhow::anyhow!("a key runs over its record"))?;
            let size = read_varint(&mut record)?.max(0) as usize;
            let value = record.get(..size).ok_or_else(|| anyhow::anyhow!("a value runs over its record"))?.to_vec();
            out.push(StoredRecord { offset, timestamp_ms, value });
        }
        Ok(out)
    }
}

/// The whole batches at the start of `data`, each with its CRC checked. A last one that is cut is left out, as a
/// consumer must do.
pub fn batches(mut data: &[u8]) -> anyhow::Result<Vec<StoredBatch<'_>>> {
    let mut out = Vec::new();
    while data.len() >= 61 {
        let mut head = Reader(data);
        let base_offset = head.i64()?;
        let length = head.i32()?;
        ensure!(length >= 49, "batch at offset {base_offset}: length {length}");
        let total = 12 + length as usize;
        if data.len() < total {
            break;
        }
        let leader_epoch = head.i32()?;
        let magic = head.i8()?;
        ensure!(magic == 2, "batch at offset {base_offset}: magic {magic}");
        let crc = head.i32()? as u32;
        ensure!(crc == crc32c::crc32c(&data[21..total]), "batch at offset {base_offset}: wrong CRC");
        head.i16()?;
        let last_offset = base_offset + i64::from(head.i32()?);
        out.push(StoredBatch { base_offset, last_offset, leader_epoch, bytes: &data[..total] });
        data = &data[total..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_reads_back_as_written() {
        let values = vec![b"one".to_vec(), Vec::new(), vec![7; 300]];
        let bytes = Batch { timestamp_ms: 1_000, ..Batch::of(&values) }.encode();
        let found = batches(&bytes).expect("valid");
        assert_eq!((found.len(), found[0].last_offset), (1, 2));
        let records = found[0].records().expect("valid");
        assert_eq!(records.iter().map(|record| record.value.clone()).collect::<Vec<_>>(), values);
        assert_eq!(records[2].timestamp_ms, 1_002);
    }
}
