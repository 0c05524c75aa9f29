//! What a leader checks in a batch before it appends it, and how it stamps it: Kafka's `LogValidator`.
//!
//! A batch is written as it came, with another header, whenever that is possible. It is written anew only when the
//! topic wants another codec, or when a client numbered records wrongly that are not compressed.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use odradek_common::{LeaderEpoch, Offset, time::Timestamp};
use odradek_records::header::{CRC_START, LENGTH_PREFIX_BYTES};
use odradek_records::patch::restamped;
use odradek_records::{
    Attributes, Batch, BatchError, BatchHeader, Codec, Compression, DECOMPRESSED_BYTES_MAX, HEADER_BYTES,
    RecordBatchBuilder, RecordError, TimestampType, scan_records, summarize_records,
};

use crate::config::{LogConfig, Recompression};
use crate::error::{AppendError, RecordFault};
use crate::log::AppendOrigin;

/// Faulty records that are named in an answer; the others are only counted.
const FAULTS_MAX: usize = 64;

/// A batch ready to be written.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub header: BatchHeader,
    pub header_bytes: [u8; HEADER_BYTES],
    /// The batch made anew, when the bytes behind the header are not those that came.
    pub rebuilt: Option<Bytes>,
}

/// Reads the header of what a client sent. As in Kafka, a batch that was damaged on its way is called that before it is
/// asked what is wrong with its fields.
pub(crate) fn parse(records: &[u8]) -> Result<BatchHeader, AppendError> {
    BatchHeader::parse(records).map_err(|error| match error {
        BatchError::OffsetRange { base: 0, .. } | BatchError::RecordCount(_) => {
            crc_error(records).unwrap_or(error).into()
        }
        error => error.into(),
    })
}

fn crc_error(records: &[u8]) -> Option<BatchError> {
    let length = i32::from_be_bytes(*records.get(LENGTH_PREFIX_BYTES - 4..)?.first_chunk()?);
    let size = usize::try_from(length).ok()? + LENGTH_PREFIX_BYTES;
    let stored = u32::from_be_bytes(*records.get(CRC_START - 4..CRC_START)?.first_chunk()?);
    let computed = crc32c::crc32c(records.get(CRC_START..size)?);
    (stored != computed).then_some(BatchError::Crc { stored, computed })
}

/// The checks before that of the CRC: Kafka's `analyzeAndValidateRecords`.
pub(crate) fn check_size(header: &BatchHeader, origin: AppendOrigin, config: &LogConfig) -> Result<(), AppendError> {
    if origin.is_client() && header.base_offset != Offset::ZERO {
        let base = header.base_offset;
        let message = format!("the base offset of a produced batch should be 0, but it is {base}");
        return Err(AppendError::InvalidRecord(message));
    }
    if header.size > config.max_message_bytes {
        return Err(AppendError::MessageTooLarge { size: header.size, max: config.max_message_bytes });
    }
    Ok(())
}

/// The checks on the header that need nothing else: Kafka's `validateBatch`.
pub(crate) fn check_header(header: &BatchHeader, origin: AppendOrigin) -> Result<(), AppendError> {
    let invalid = |message: String| Err(AppendError::InvalidRecord(message));
    if !origin.is_client() {
        return Ok(());
    }
    if i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        let (count, delta) = (header.record_count, header.last_offset_delta);
        return invalid(format!("the batch has a last offset delta of {delta} and {count} records"));
    }
    if header.attributes.is_control() {
        return invalid("clients may not write control records".to_owned());
    }
    if header.has_producer() && header.base_sequence < 0 {
        let (sequence, producer) = (header.base_sequence, header.producer_id);
        return invalid(format!("the batch of producer {producer} has the invalid sequence number {sequence}"));
    }
    Ok(())
}

/// What is to be known of the records, and which of them are at fault.
struct Findings {
    max_timestamp: Timestamp,
    offsets_are_sequential: bool,
    faults: Vec<RecordFault>,
    faults_in_total: usize,
    has_invalid_timestamp: bool,
}

fn walk(header: &BatchHeader, payload: &[u8], config: &LogConfig, now: Timestamp) -> Result<Findings, RecordError> {
    let summary = summarize_records(header, payload, DECOMPRESSED_BYTES_MAX)?;
    let is_log_append_time = header.attributes.is_log_append_time();
    let max_timestamp = if is_log_append_time { header.max_timestamp } else { summary.max_timestamp };
    let mut found = Findings {
        max_timestamp: max_timestamp.max(Timestamp::NONE),
        offsets_are_sequential: summary.offsets_are_sequential,
        faults: Vec::new(),
        faults_in_total: 0,
        has_invalid_timestamp: false,
    };
    let checks_time = config.timestamp_type == TimestampType::CreateTime;
    let earliest = now.0.saturating_sub(config.timestamp_before_max_ms);
    let latest = now.0.saturating_add(config.timestamp_after_max_ms);
    let are_timely = !checks_time || (earliest <= summary.min_timestamp.0 && summary.max_timestamp.0 <= latest);
    if !is_log_append_time && are_timely && (summary.all_have_keys || !config.cleanup_compact) {
        return Ok(found);
    }
    // Record by record, to name those that are at fault.
    let mut index = 0;
    scan_records(header, payload, DECOMPRESSED_BYTES_MAX, |record| {
        let timestamp = if is_log_append_time { header.max_timestamp } else { record.timestamp };
        let lacks_key = config.cleanup_compact && !record.has_key;
        let is_checked = checks_time && timestamp != Timestamp::NONE;
        let is_untimely = if is_checked { !(earliest..=latest).contains(&timestamp.0) } else { is_log_append_time };
        if lacks_key || is_untimely {
            found.has_invalid_timestamp |= !lacks_key;
            found.faults_in_total += 1;
            if found.faults.len() < FAULTS_MAX {
                let message = match (lacks_key, is_checked) {
                    (true, _) => "Compacted topic cannot accept message without key".to_owned(),
                    (false, true) => out_of_range(timestamp, record.offset_delta, earliest, latest),
                    (false, false) => "a producer may not set the timestamp type LogAppendTime".to_owned(),
                };
                found.faults.push(RecordFault { batch_index: index, message });
            }
        }
        index += 1;
        Ok::<_, RecordError>(())
    })?;
    Ok(found)
}

fn out_of_range(timestamp: Timestamp, offset: i32, earliest: i64, latest: i64) -> String {
    let timestamp = timestamp.0;
    format!(
        "Timestamp {timestamp} of message with offset {offset} is out of range. The timestamp should be within \
         [{earliest}, {latest}]"
    )
}

/// Validates the records of a batch whose header and CRC have been checked, and stamps it. `bytes` is the whole batch.
pub(crate) fn stamp(
    header: &BatchHeader,
    bytes: &[u8],
    config: &LogConfig,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    now: Timestamp,
) -> Result<Stamped, AppendError> {
    let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let found = walk(header, payload, config, now)?;
    if found.faults_in_total > 0 {
        return Err(refuse(found));
    }
    let log_append_time = config.timestamp_type == TimestampType::LogAppendTime;
    let source = header.attributes.codec().unwrap_or_default();
    let target = match config.compression {
        Recompression::Producer => Compression::from(source),
        Recompression::To(target) => target,
    };
    // Control records are not compressed unless they came so.
    let same_codec = source == target.codec || (source == Codec::None && header.attributes.is_control());
    if same_codec && found.offsets_are_sequential {
        let cleared = header.attributes.0 & !Attributes::LOG_APPEND_TIME;
        let (attributes, max_timestamp) =
            if log_append_time { (cleared | Attributes::LOG_APPEND_TIME, now) } else { (cleared, found.max_timestamp) };
        let attributes = Attributes(attributes);
        let (header, header_bytes) = restamped(header, payload, base_offset, leader_epoch, attributes, max_timestamp);
        return Ok(Stamped { header, header_bytes, rebuilt: None });
    }
    if same_codec && source != Codec::None {
        let message = "the records of a compressed batch must have the offsets 0, 1, 2, ... in this order";
        return Err(AppendError::InvalidRecord(message.to_owned()));
    }
    let rebuilt = rebuild(header, bytes, target, log_append_time.then_some(now), base_offset, leader_epoch)?;
    let header = BatchHeader::parse(&rebuilt)?;
    if header.size > config.max_message_bytes {
        return Err(AppendError::MessageTooLarge { size: header.size, max: config.max_message_bytes });
    }
    Ok(Stamped { header_bytes: header.encode(), header, rebuilt: Some(rebuilt) })
}

fn refuse(found: Findings) -> AppendError {
    if found.has_invalid_timestamp {
        return AppendError::InvalidTimestamp { faults: found.faults };
    }
    let first = found.faults.first().map_or("", |fault| fault.message.as_str());
    let total = found.faults_in_total;
    let message =
        format!("One or more records have been rejected due to {total} record errors in total; the first: {first}");
    AppendError::RecordFaults { message, faults: found.faults }
}

fn rebuild(
    header: &BatchHeader,
    bytes: &[u8],
    target: Compression,
    log_append_time: Option<Timestamp>,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
) -> Result<Bytes, AppendError> {
    let mut builder = RecordBatchBuilder::new()
        .base_offset(base_offset)
        .leader_epoch(leader_epoch)
        .compression(target)
        .producer(header.producer_id, header.producer_epoch, header.base_sequence)
        .transactional(header.attributes.is_transactional())
        .control(header.attributes.is_control());
    if let Some(time) = log_append_time {
        builder = builder.log_append_time(time);
    }
    let batch = Batch { header: *header, bytes: Bytes::copy_from_slice(bytes) };
    for record in batch.records(DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        if record.timestamp.0 < 0 && record.timestamp != Timestamp::NONE {
            let (offset, time) = (record.offset, record.timestamp.0);
            return Err(AppendError::InvalidRecord(format!(
                "the record at {offset} has the negative timestamp {time}"
            )));
        }
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|header| (&*header.key, header.value.as_deref())).collect();
        builder.append_with_headers(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build().map_err(|error| AppendError::InvalidRecord(error.to_string()))
}
