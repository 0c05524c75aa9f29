//! Kafka's protocol and record batches.

use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_records::{Batches, Codec, EndTxnMarker, RecordBatchBuilder, compression};
use odradek_wire::filler::MESSAGES;
use odradek_wire::frame::{RequestFrame, ResponseFrame};
use odradek_wire::{ApiKey, frame};

/// Any message at any version: what decodes also encodes, and its encoding decodes to the same again.
///
/// The first three bytes choose the message and the version; the rest is the message.
pub fn messages(data: &[u8]) {
    let [high, low, version, rest @ ..] = data else { return };
    let message = &MESSAGES[usize::from(u16::from_be_bytes([*high, *low])) % MESSAGES.len()];
    let versions = message.max_version - message.min_version + 1;
    let version = message.min_version + i16::from(*version) % versions;
    // Tags may come in any order; written they must be ascending, so encoding may refuse.
    if let Ok(Ok(first)) = (message.recode)(Bytes::copy_from_slice(rest), version) {
        let second = (message.recode)(first.clone(), version).expect("our own bytes decode").expect("and encode");
        assert_eq!(first, second, "{} v{version}", message.name);
    }
}

pub fn messages_seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (index, message) in (0u16..).zip(MESSAGES) {
        for version in message.min_version..=message.max_version {
            let start = [index.to_be_bytes().as_slice(), &[(version - message.min_version) as u8]].concat();
            let filled = (message.encode_filled)(u64::from(index), version).ok();
            let default = (message.encode_default)(version).ok();
            out.extend(filled.into_iter().chain(default).map(|bytes| [&start, bytes.as_ref()].concat()));
        }
    }
    out
}

/// The header of any request.
pub fn request_frame(data: &[u8]) {
    if let Ok(frame) = RequestFrame::parse(Bytes::copy_from_slice(data)) {
        assert!(frame.body.remaining() <= data.len());
    }
    if let Some(prefix) = data.first_chunk() {
        let _ = frame::check_length(*prefix, 1 << 20);
    }
}

pub fn request_frame_seeds() -> Vec<Vec<u8>> {
    let header = |key: i16, version: i16, flexible: bool| {
        let mut out = [key.to_be_bytes(), version.to_be_bytes()].concat();
        out.extend([0, 0, 0, 7, 0, 4]);
        out.extend(b"test");
        out.extend(flexible.then_some(0));
        out.extend([0; 16]);
        out
    };
    vec![header(3, 7, false), header(18, 4, true), header(0, 8, false), header(0, 12, true), header(1, 17, true)]
}

/// The header of any answer. The first bytes choose what was asked.
pub fn response_frame(data: &[u8]) {
    let [key, version, rest @ ..] = data else { return };
    let Some(key) = ApiKey::from_code(i16::from(*key)) else { return };
    let frame = Bytes::copy_from_slice(rest);
    let _ = ResponseFrame::peek_correlation_id(&frame);
    let _ = ResponseFrame::parse(frame, key, i16::from(*version % 18));
}

pub fn response_frame_seeds() -> Vec<Vec<u8>> {
    vec![vec![3, 7, 0, 0, 0, 1, 0, 0, 0, 0], vec![18, 4, 0, 0, 0, 1, 0, 0], vec![1, 17, 0, 0, 0, 1, 0, 0, 0, 0]]
}

/// Batches one behind the other: their headers, their checksums, and their records whatever the checksum says.
pub fn record_batches(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for batch in Batches::new(bytes).map_while(Result::ok) {
        let _ = batch.check_crc();
        let _ = EndTxnMarker::of_batch(&batch);
        if let Ok(records) = batch.records(DECOMPRESSED_MAX) {
            for record in records.map_while(Result::ok) {
                let _ = odradek_records::control::control_type(&record);
            }
        }
    }
    for slice in odradek_records::slices(data) {
        if slice.is_err() {
            break;
        }
    }
}

const DECOMPRESSED_MAX: usize = 1 << 20;

fn text(round: usize) -> Vec<u8> {
    b"in the house under the stairs ".repeat(round)
}

pub fn record_batches_seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for codec in Codec::ALL {
        let mut builder = RecordBatchBuilder::new().compression(codec);
        for round in 0..20 {
            builder.append(Timestamp(1_700_000_000_000 + round), Some(b"key"), Some(&text(round as usize)));
        }
        out.extend(builder.build().ok().map(|bytes| bytes.to_vec()));
    }
    let mut builder = RecordBatchBuilder::new().producer(ProducerId(7), ProducerEpoch(1), 5).transactional(true);
    builder.append(Timestamp(1_700_000_000_000), None, None);
    out.extend(builder.build().ok().map(|bytes| bytes.to_vec()));
    let marker = EndTxnMarker { is_commit: true, coordinator_epoch: 3 };
    out.push(marker.batch(ProducerId(7), ProducerEpoch(1), Timestamp(1_700_000_000_000)).to_vec());
    out.push(out.concat());
    out
}

/// What is compressed. The first byte chooses the codec.
pub fn compressed(data: &[u8]) {
    let [codec, rest @ ..] = data else { return };
    let Some(codec) = Codec::from_id(codec % 5) else { return };
    if let Ok(bytes) = compression::decompress(codec, rest, DECOMPRESSED_MAX) {
        assert!(bytes.len() <= DECOMPRESSED_MAX);
    }
}

pub fn compressed_seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for codec in Codec::ALL {
        for rounds in [0, 1, 100] {
            let mut bytes = vec![codec.id()];
            if compression::compress(codec.into(), &text(rounds), &mut bytes).is_ok() {
                out.push(bytes);
            }
        }
    }
    out
}
