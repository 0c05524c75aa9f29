//! Writing a batch anew with some of its records left out, as the cleaning of a compacted log does (KIP-534).
//!
//! Base offset, last offset, leader epoch and the producer's fields stay, so that offsets and sequences mean what they
//! meant; each record keeps its offset and its own time.

use bytes::Bytes;
use odradek_common::time::Timestamp;

use crate::builder::BuildError;
use crate::compression::{self, Compression};
use crate::header::{Attributes, BatchHeader, CRC_START, HEADER_BYTES};
use crate::record::RawRecord;
use crate::varint::{varlong_bytes, write_varlong};

/// The batch of `header` with only `records`, which are some of its own, in order. With a delete horizon the base
/// timestamp is that (attribute bit 6); `compression` has the codec of the batch. A record whose time is told as before is
/// copied as it is.
pub fn with_records(
    header: &BatchHeader,
    records: &[RawRecord<'_>],
    delete_horizon: Option<Timestamp>,
    compression: Compression,
) -> Result<Bytes, BuildError> {
    let base = delete_horizon.unwrap_or(header.base_timestamp);
    let is_append_time = header.attributes.is_log_append_time();
    let mut payload = Vec::with_capacity(records.iter().map(|record| record.bytes.len()).sum());
    let mut max_timestamp = Timestamp::NONE;
    for record in records {
        let timestamp = if is_append_time { header.max_timestamp } else { record.timestamp };
        if base == header.base_timestamp && timestamp == record.timestamp {
            payload.extend_from_slice(record.bytes);
        } else {
            let delta = timestamp.0.wrapping_sub(base.0);
            write_varlong(&mut payload, (1 + varlong_bytes(delta) + record.behind_timestamp.len()) as i64);
            payload.push(0);
            write_varlong(&mut payload, delta);
            payload.extend_from_slice(record.behind_timestamp);
        }
        max_timestamp = max_timestamp.max(timestamp);
    }
    let mut out = vec![0; HEADER_BYTES];
    compression::compress(compression, &payload, &mut out)?;
    if out.len() > i32::MAX as usize {
        return Err(BuildError::TooLarge(out.len()));
    }
    let flag = if delete_horizon.is_some() { Attributes::DELETE_HORIZON } else { 0 };
    let new = BatchHeader {
        attributes: Attributes(header.attributes.0 & !Attributes::DELETE_HORIZON | flag),
        base_timestamp: base,
        max_timestamp: if is_append_time { header.max_timestamp } else { max_timestamp },
        record_count: records.len() as i32,
        ..*header
    };
    Ok(sealed(new, out))
}

/// The batch of `header` without any record: what stays of a producer's last batch.
pub fn without_records(header: &BatchHeader) -> Bytes {
    let kept = Attributes::LOG_APPEND_TIME | Attributes::TRANSACTIONAL | Attributes::CONTROL;
    let attributes = Attributes(header.attributes.0 & kept);
    let new = BatchHeader { attributes, base_timestamp: Timestamp::NONE, record_count: 0, ..*header };
    sealed(new, vec![0; HEADER_BYTES])
}

fn sealed(mut header: BatchHeader, mut out: Vec<u8>) -> Bytes {
    header.size = out.len();
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    header.crc = crc32c::crc32c(&out[CRC_START..]);
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Codec, DECOMPRESSED_BYTES_MAX, Record, RecordBatchBuilder, payload, raw_records};
    use odradek_common::{Offset, ProducerEpoch, ProducerId};

    #[test]
    fn a_batch_written_anew_keeps_offsets_times_and_sequences() {
        for codec in Codec::ALL {
            let mut builder = RecordBatchBuilder::new()
                .base_offset(Offset(40))
                .producer(ProducerId(7), ProducerEpoch(1), 12)
                .compression(codec);
            for (at, key) in [b"a", b"b", b"c"].iter().enumerate() {
                let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", None)];
                builder.append_with_headers(Timestamp(1000 + at as i64), Some(*key), Some(b"value"), &headers);
            }
            let batch = Batch::parse(&builder.build().expect("built")).expect("sound");
            let records: Vec<Record> =
                batch.records(DECOMPRESSED_BYTES_MAX).expect("readable").map(|record| record.expect("sound")).collect();
            let lent = payload(&batch.header, &batch.bytes, DECOMPRESSED_BYTES_MAX).expect("readable");
            let lent: Vec<RawRecord<'_>> = raw_records(&batch.header, &lent).map(|one| one.expect("sound")).collect();
            for horizon in [None, Some(Timestamp(5000))] {
                let kept = &records[1..2];
                let bytes = with_records(&batch.header, &lent[1..2], horizon, codec.into()).expect("rewritten");
                let new = Batch::parse(&bytes).expect("sound");
                new.check_crc().expect("sealed");
                assert_eq!((new.header.base_offset, new.header.last_offset()), (Offset(40), Offset(42)));
                assert_eq!((new.header.base_sequence, new.header.last_sequence()), (12, 14));
                assert_eq!(new.header.max_timestamp, Timestamp(1001));
                assert_eq!(new.header.attributes.codec(), Some(codec));
                assert_eq!(new.header.attributes.has_delete_horizon(), horizon.is_some());
                let again: Vec<Record> = new
                    .records(DECOMPRESSED_BYTES_MAX)
                    .expect("readable")
                    .map(|record| record.expect("sound"))
                    .collect();
                assert_eq!(again, kept);
            }
            let empty = Batch::parse(&without_records(&batch.header)).expect("sound");
            empty.check_crc().expect("sealed");
            assert_eq!((empty.header.last_offset(), empty.header.last_sequence()), (Offset(42), 14));
            assert_eq!((empty.header.record_count, empty.header.size), (0, HEADER_BYTES));
            assert_eq!(empty.records(DECOMPRESSED_BYTES_MAX).expect("readable").count(), 0);
        }
    }
}
