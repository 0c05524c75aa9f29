//! Snapshot files: the golden one, and every way to damage it.

use std::path::Path;

use odradek_metadata::snapshot::{self, Position, SnapshotError};
use odradek_metadata::{Image, proto};

use crate::generator::{broker, config, partition, record, topic};

const POSITION: Position = Position { last_offset: 12, last_term: 3, timestamp_ms: 1_700_000_000_000 };

fn image() -> Image {
    let cluster = proto::ClusterRecord { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".to_owned() };
    let records = [
        record(proto::record::Kind::Cluster(cluster)),
        broker(1, 10),
        broker(2, 11),
        topic(1),
        partition(1, 0, &[1, 2]),
        partition(1, 1, &[2, 1]),
        config(2, "topic-1", "retention.ms", Some("7")),
    ];
    let mut image = Image::new();
    image.apply_records(&records, POSITION.last_offset).expect("valid");
    image
}

fn written() -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshot::write(&image(), POSITION, &mut bytes).expect("memory");
    bytes
}

#[test]
fn format_version_1_stays_readable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot-v1.bin");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, written()).expect("written");
    }
    let golden = std::fs::read(&path).expect("the golden file");
    assert_eq!(snapshot::read(&mut golden.as_slice()).expect("readable"), (POSITION, image()));
    assert_eq!(written(), golden, "the format changed: that takes a new version");
}

#[test]
fn every_truncation_is_damage() {
    let whole = written();
    for length in 0..whole.len() {
        let error = snapshot::read(&mut &whole[..length]).expect_err("cut");
        assert!(matches!(error, SnapshotError::Damaged { .. } | SnapshotError::NotASnapshot), "{length}: {error}");
    }
    let longer = [whole, vec![0]].concat();
    assert!(matches!(snapshot::read(&mut longer.as_slice()), Err(SnapshotError::Damaged { .. })));
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = written();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(snapshot::read(&mut damaged.as_slice()).is_err(), "bit {bit}");
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut newer = written();
    newer[19] = 9;
    let error = snapshot::read(&mut newer.as_slice()).expect_err("unknown");
    assert!(matches!(error, SnapshotError::UnknownFormat { found: 9 }));
    assert!(error.to_string().contains("format 9 is unknown"));
}

#[test]
fn a_bootstrap_file_is_written_and_read_and_damage_to_it_refused() {
    use odradek_common::fs::Fs;
    use odradek_metadata::bootstrap;
    let fs = odradek_common::mem_fs::MemFs::new();
    let dir = Path::new("/controller");
    fs.create_dir_all(dir).expect("made");
    assert_eq!(bootstrap::read(&fs, dir).expect("nothing is there"), None);
    let bytes = bootstrap::encode(&image(), 7).expect("encoded");
    bootstrap::write(&fs, dir, &bytes).expect("written");
    let found = bootstrap::read(&fs, dir).expect("readable").expect("there");
    assert!(found.to_records().eq(image().to_records()), "it says the same");
    bootstrap::write(&fs, dir, &bytes[..bytes.len() - 1]).expect("written");
    let error = bootstrap::read(&fs, dir).expect_err("cut off").to_string();
    assert!(error.contains("/controller/bootstrap.metadata cannot be used"), "{error}");
}
