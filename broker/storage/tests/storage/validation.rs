//! What a leader refuses, with Kafka's error code, and what it stamps.

use odradek_broker_storage::{AppendError, AppendOrigin, LogConfig, Recompression, Recovery};
use odradek_common::time::Timestamp;
use odradek_common::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use odradek_records::header::CRC_START;
use odradek_records::{Batch, BatchHeader, Codec, EndTxnMarker, RecordBatchBuilder, TimestampType};

use crate::support::{Home, NOW, append, batch, fill, read_all};

/// Changes bytes of a batch and makes its CRC right again.
fn tampered(batch: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn bad_batches_are_refused_and_nothing_of_them_is_stored() {
    use ErrorCode::{CorruptMessage, InvalidRecord, InvalidTimestamp, MessageTooLarge, RecordListTooLarge};
    let good = batch(3, 20, NOW).to_vec();
    let compressed = |codec: Codec| fill(RecordBatchBuilder::new().compression(codec), 50, 20, NOW).to_vec();
    let marker = EndTxnMarker { is_commit: true, coordinator_epoch: 0 };
    let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("empty", vec![], InvalidRecord),
        ("cut in the header", good[..30].to_vec(), InvalidRecord),
        ("cut in a record", good[..good.len() - 1].to_vec(), InvalidRecord),
        ("two batches", [good.clone(), good.clone()].concat(), InvalidRecord),
        (
            "a flipped bit",
            {
                let mut b = good.clone();
                b[90] ^= 4;
                b
            },
            CorruptMessage,
        ),
        (
            "a flipped bit in the CRC",
            {
                let mut b = good.clone();
                b[18] ^= 4;
                b
            },
            CorruptMessage,
        ),
        (
            "a length below the header's",
            {
                let mut b = good.clone();
                b[8..12].copy_from_slice(&20i32.to_be_bytes());
                b
            },
            CorruptMessage,
        ),
        (
            "a negative length",
            {
                let mut b = good.clone();
                b[8] = 0xff;
                b
            },
            CorruptMessage,
        ),
        (
            "magic 1",
            {
                let mut b = good.clone();
                b[16] = 1;
                b
            },
            InvalidRecord,
        ),
        (
            "magic 3",
            {
                let mut b = good.clone();
                b[16] = 3;
                b
            },
            CorruptMessage,
        ),
        (
            "a base offset",
            {
                let mut b = good.clone();
                b[7] = 1;
                b
            },
            InvalidRecord,
        ),
        (
            "a negative base offset",
            {
                let mut b = good.clone();
                b[0] = 0x80;
                b
            },
            InvalidRecord,
        ),
        ("too many records announced", tampered(&good, |b| b[60] = 4), InvalidRecord),
        ("count and offsets disagree", tampered(&good, |b| b[26] = 7), InvalidRecord),
        (
            "both too large",
            tampered(&good, |b| {
                b[26] = 3;
                b[60] = 4;
            }),
            InvalidRecord,
        ),
        (
            "both too small",
            tampered(&good, |b| {
                b[26] = 1;
                b[60] = 2;
            }),
            InvalidRecord,
        ),
        ("a negative count", tampered(&good, |b| b[57] = 0x80), InvalidRecord),
        ("a negative delta", tampered(&good, |b| b[23] = 0x80), InvalidRecord),
        ("a record's length", tampered(&good, |b| b[61] = b[61].wrapping_add(2)), InvalidRecord),
        ("an unknown codec", tampered(&good, |b| b[22] = 6), InvalidRecord),
        ("not compressed as it says", tampered(&good, |b| b[22] = 4), InvalidRecord),
        ("gzip damaged", tampered(&compressed(Codec::Gzip), |b| b[80] ^= 0xff), InvalidRecord),
        ("snappy damaged", tampered(&compressed(Codec::Snappy), |b| b[79] ^= 0xff), InvalidRecord),
        (
            "zstd cut",
            tampered(&compressed(Codec::Zstd), |b| {
                b.truncate(100);
                let n = b.len() as i32 - 12;
                b[8..12].copy_from_slice(&n.to_be_bytes());
            }),
            InvalidRecord,
        ),
        (
            "compressed with a wrong count",
            tampered(&compressed(Codec::Lz4), |b| {
                b[26] -= 1;
                b[60] -= 1;
            }),
            InvalidRecord,
        ),
        ("a control batch", marker.batch(ProducerId(1), ProducerEpoch(0), NOW).to_vec(), InvalidRecord),
        (
            "a producer without sequence",
            fill(RecordBatchBuilder::new().producer(ProducerId(5), ProducerEpoch(0), -1), 1, 1, NOW).to_vec(),
            InvalidRecord,
        ),
        ("too new", batch(1, 1, Timestamp(NOW.0 + 3_600_001)).to_vec(), InvalidTimestamp),
        ("too large", batch(1, 6000, NOW).to_vec(), MessageTooLarge),
        ("larger than a segment", batch(1, 4500, NOW).to_vec(), RecordListTooLarge),
        ("without records", RecordBatchBuilder::new().build().expect("a batch").to_vec(), InvalidRecord),
    ];
    let home = Home::real();
    let config = LogConfig { max_message_bytes: 5000, segment_bytes: 4400, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &good).expect("good");
    let size = log.size_bytes();
    for (name, bytes, expected) in cases {
        let error = append(&mut log, &bytes).expect_err(name);
        assert_eq!(error.code(), expected, "{name}: {error}");
        assert_eq!((log.log_end(), log.size_bytes()), (Offset(3), size), "{name}");
    }
    append(&mut log, &good).expect("the log serves on");
}

#[test]
fn no_bit_flip_passes_and_none_panics() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    for codec in Codec::ALL {
        let good = fill(RecordBatchBuilder::new().compression(codec), 5, 30, NOW).to_vec();
        for position in 0..good.len() {
            for bit in [1, 0x80] {
                let mut bytes = good.clone();
                bytes[position] ^= bit;
                // The leader epoch is not under the CRC; the leader stamps its own.
                assert!(append(&mut log, &bytes).is_err() || (12..16).contains(&position), "{codec:?} byte {position}");
                // With the CRC made right whatever is decided must be decided without a panic.
                if position >= CRC_START {
                    let _ = append(&mut log, &tampered(&good, |b| b[position] ^= bit));
                }
            }
        }
    }
    log.verify().expect("what was accepted is sound");
    read_all(&log, Offset(0));
}

#[test]
fn what_was_damaged_on_its_way_is_called_that_whatever_it_hit() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    let good = fill(RecordBatchBuilder::new().producer(ProducerId(4), ProducerEpoch(0), 0), 3, 20, NOW).to_vec();
    for position in CRC_START..good.len() {
        for bit in [1, 0x80] {
            let mut bytes = good.clone();
            bytes[position] ^= bit;
            let error = append(&mut log, &bytes).expect_err("damaged");
            assert_eq!(error.code(), ErrorCode::CorruptMessage, "byte {position}: {error}");
        }
    }
}

#[test]
fn of_several_reasons_kafkas_is_told() {
    let home = Home::real();
    let config = LogConfig { max_message_bytes: 200, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    let moved = |batch: &[u8]| {
        let mut bytes = batch.to_vec();
        bytes[7] = 9;
        bytes
    };
    let producer = |sequence| RecordBatchBuilder::new().producer(ProducerId(4), ProducerEpoch(0), sequence);
    append(&mut log, &fill(producer(0), 1, 10, NOW)).expect("the first");
    let late = fill(producer(7), 1, 10, Timestamp(NOW.0 + 9_000_000));
    let large = batch(1, 500, NOW);
    let mut damaged = large.to_vec();
    damaged[100] ^= 1;
    let wrong_count = |batch: &[u8]| tampered(batch, |bytes| bytes[60] = 9);
    for (what, bytes, expected) in [
        ("a base offset, and too large", moved(&large), ErrorCode::InvalidRecord),
        ("too large, and damaged", damaged, ErrorCode::MessageTooLarge),
        ("too large, and a wrong count", wrong_count(&large), ErrorCode::MessageTooLarge),
        ("a wrong time, and out of order", late.to_vec(), ErrorCode::InvalidTimestamp),
        ("a wrong count, and out of order", wrong_count(&late), ErrorCode::InvalidRecord),
        ("out of order", fill(producer(7), 1, 10, NOW).to_vec(), ErrorCode::OutOfOrderSequenceNumber),
    ] {
        let error = append(&mut log, &bytes).expect_err(what);
        assert_eq!(error.code(), expected, "{what}: {error}");
    }
}

#[test]
fn faulty_records_are_named() {
    let home = Home::real();
    let config = LogConfig { cleanup_compact: true, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    let mut builder = RecordBatchBuilder::new();
    builder.append(NOW, Some(b"k"), Some(b"v"));
    builder.append(NOW, None, Some(b"v"));
    let error = append(&mut log, &builder.build().expect("a batch")).expect_err("a record has no key");
    assert_eq!(error.code(), ErrorCode::InvalidRecord);
    assert_eq!(error.faults().iter().map(|fault| fault.batch_index).collect::<Vec<_>>(), [1]);
    let mut builder = RecordBatchBuilder::new();
    builder.append(NOW, Some(b"k"), None);
    builder.append(Timestamp(NOW.0 + 10_000_000), Some(b"k"), None);
    let error = append(&mut log, &builder.build().expect("a batch")).expect_err("from the future");
    assert!(matches!(&error, AppendError::InvalidTimestamp { faults } if faults[0].batch_index == 1), "{error}");
}

#[test]
fn log_append_time_is_the_leaders_and_the_crc_follows() {
    for codec in Codec::ALL {
        let home = Home::real();
        let config = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..LogConfig::default() };
        let mut log = home.open(&config, Recovery::NEW);
        let old = fill(RecordBatchBuilder::new().compression(codec), 3, 20, Timestamp(5));
        let info = append(&mut log, &old).expect("appended");
        assert_eq!((info.log_append_time, info.max_timestamp), (NOW, NOW));
        assert!(read_all(&log, Offset(0)).iter().all(|record| record.timestamp == NOW));
    }
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    let wrong = tampered(&batch(2, 5, NOW), |b| b[35..43].copy_from_slice(&99i64.to_be_bytes()));
    assert_eq!(append(&mut log, &wrong).expect("appended").max_timestamp, NOW);
    log.verify().expect("sound");
}

#[test]
fn compression_type_writes_batches_anew() {
    for (from, to) in [(Codec::None, Codec::Zstd), (Codec::Gzip, Codec::Lz4), (Codec::Snappy, Codec::None)] {
        let home = Home::real();
        let config = LogConfig { compression: Recompression::To(to.into()), ..LogConfig::default() };
        let mut log = home.open(&config, Recovery::NEW);
        let mut builder = RecordBatchBuilder::new().compression(from).producer(ProducerId(4), ProducerEpoch(1), 0);
        builder.append_with_headers(NOW, None, Some(b"value"), &[(b"h", None), (b"i", Some(b"j"))]);
        builder.append(Timestamp(NOW.0 + 7), Some(b"key"), None);
        let sent = builder.build().expect("a batch");
        append(&mut log, &sent).expect("appended");
        append(&mut log, &batch(1, 10, NOW)).expect("appended");
        let slice = log.read(Offset(0), 1 << 20, log.log_end(), true).expect("readable");
        let stored = Batch::parse(&log.load(&slice).expect("loaded")).expect("a batch");
        assert_eq!(stored.header.attributes.codec(), Some(to));
        assert_eq!(stored.header.leader_epoch, LeaderEpoch(0));
        let records = |batch: &Batch| batch.records(1000).expect("readable").map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(records(&stored), records(&Batch::parse(&sent).expect("a batch")));
    }
}

#[test]
fn wrongly_numbered_records_are_numbered_anew() {
    let mut builder = RecordBatchBuilder::new();
    builder.append(NOW, None, Some(b"a"));
    builder.append(NOW, None, Some(b"b"));
    let good = builder.build().expect("a batch").to_vec();
    // The second record begins 8 bytes behind the first; its offset delta (1, zigzag 2) becomes 0.
    let second = 61 + 1 + (good[61] / 2) as usize;
    let wrong = tampered(&good, |b| b[second + 3] = 0);
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &wrong).expect("appended");
    assert_eq!(crate::support::offsets(&read_all(&log, Offset(0))), [0, 1]);
}

#[test]
fn coordinators_may_write_what_clients_may_not() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    let batch = fill(RecordBatchBuilder::new().producer(ProducerId(5), ProducerEpoch(0), -1), 1, 1, NOW);
    log.append_as_leader(&batch, LeaderEpoch(3), AppendOrigin::Coordinator, NOW).expect("no sequence is needed");
    let slice = log.read(Offset(0), 100, log.log_end(), true).expect("readable");
    let header = BatchHeader::parse(&log.load(&slice).expect("loaded")).expect("a batch");
    assert_eq!(header.leader_epoch, LeaderEpoch(3));
}
