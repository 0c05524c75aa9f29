//! What a broker does with the bytes of a batch that comes from a client: its head, its CRC, and the walk over its records,
//! which unpacks them.
//!
//! `cargo bench -p odradek-records`. The sketch it is held against: CRC-32C by the processor's instruction is some 10 GB/s, so
//! 64 KiB take 7 us; a record that is walked over costs some 5 ns; what is packed costs what its codec takes to unpack it
//! (lz4 2 GB/s, snappy 1, zstd 1, gzip 0.3), and that is nearly all.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use odradek_common::time::Timestamp;
use odradek_records::{Batch, BatchHeader, Codec, HEADER_BYTES, RecordBatchBuilder, summarize_records};

const RECORDS: usize = 600;
const BYTES_MAX: usize = 1 << 20;

/// 64 KiB before they are packed.
fn batch(codec: Codec) -> Bytes {
    let mut builder = RecordBatchBuilder::new().compression(codec);
    for number in 0..RECORDS {
        let value = format!(
            "{{\"customer\": {number}, \"city\": \"Lisbon\", \"status\": \"shipped\", \"carrier\": \"tram 28\"}} {number:>24}"
        );
        builder.append(Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    }
    builder.build().expect("a batch")
}

fn head_and_crc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head and CRC");
    let bytes = batch(Codec::None);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("64 KiB", |bencher| {
        bencher.iter(|| Batch::parse(&bytes).and_then(|batch| batch.check_crc()).expect("sound"));
    });
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk over 600 records");
    for codec in Codec::ALL {
        let bytes = batch(codec);
        let header = BatchHeader::parse(&bytes).expect("sound");
        group.bench_function(codec.name(), |bencher| {
            bencher.iter(|| {
                let summary = summarize_records(&header, &bytes[HEADER_BYTES..], BYTES_MAX).expect("sound");
                assert!(summary.offsets_are_sequential);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, head_and_crc, records);
criterion_main!(benches);
