//! The Raft log, snapshots and messages, and the metadata that they hold.

use std::path::Path;
use std::sync::Arc;

use odradek_common::fs::{Fs, OpenMode, write_file_atomically};
use odradek_common::mem_fs::MemFs;
use odradek_common::time::Timestamp;
use odradek_controller::raft::segment_store::SegmentStore;
use odradek_controller::raft::snapshot::SnapshotFile;
use odradek_controller::raft::{convert, snapshot};
use odradek_metadata::snapshot::Position;
use odradek_metadata::{Image, batch};
use odradek_proto::metadata::{Batch, Record, TopicRecord, record};
use odradek_proto::raft as proto;
use prost::Message;

const FILE_BYTES_MAX: u64 = 32 << 10;

/// Two files of a Raft log, the first one's length (16 bits) in front.
pub fn raft_log(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk() else { return };
    let (first, second) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    let fs = MemFs::new();
    let dir = Path::new("/raft/log");
    fs.create_dir_all(dir).expect("made");
    for (number, bytes) in [(0, first), (1, second)] {
        if number == 0 || !bytes.is_empty() {
            write_file_atomically(&fs, &dir.join(format!("{number:020}.raftlog")), bytes).expect("written");
        }
    }
    let fs: Arc<dyn Fs> = Arc::new(fs);
    if let Ok((store, _)) = SegmentStore::open(fs.clone(), dir) {
        drop(store);
        // What was mended is whole.
        SegmentStore::open(fs, dir).expect("what was opened opens again");
    }
}

pub fn raft_log_seeds() -> Vec<Vec<u8>> {
    // A new log, as the store itself begins it.
    let fs = MemFs::new();
    let dir = Path::new("/raft/log");
    fs.create_dir_all(dir).expect("made");
    let fs: Arc<dyn Fs> = Arc::new(fs);
    drop(SegmentStore::open(fs.clone(), dir).expect("opened"));
    let path = dir.join(format!("{:020}.raftlog", 0));
    let bytes = odradek_common::fs::read_file(&*fs, &path, FILE_BYTES_MAX).expect("read");
    let length = (bytes.len() as u16).to_be_bytes();
    vec![[length.as_slice(), &bytes].concat(), [length.as_slice(), &bytes, &bytes].concat(), vec![0, 0]]
}

fn topic(index: u8) -> Record {
    let topic = TopicRecord { name: format!("topic-{index}"), topic_id: vec![index + 1; 16] };
    Record { kind: Some(record::Kind::Topic(topic)) }
}

fn a_batch() -> Batch {
    batch::new((0..3).map(topic).collect(), Timestamp(1_700_000_000_000))
}

/// A batch of metadata records, applied to an empty image twice.
pub fn metadata_batch(data: &[u8]) {
    let Ok(batch) = batch::decode(data) else { return };
    let mut image = Image::new();
    for offset in 0..2 {
        for record in &batch.records {
            let _ = image.replay(record, offset);
        }
    }
    image.to_records().for_each(drop);
}

pub fn metadata_batch_seeds() -> Vec<Vec<u8>> {
    vec![a_batch().encode_to_vec(), batch::new(Vec::new(), Timestamp(0)).encode_to_vec()]
}

pub fn metadata_snapshot(mut data: &[u8]) {
    if let Ok((_, image)) = odradek_metadata::snapshot::read(&mut data) {
        image.to_records().for_each(drop);
    }
}

const POSITION: Position = Position { last_offset: 5, last_term: 2, timestamp_ms: 1_700_000_000_000 };

fn an_image() -> Image {
    let mut image = Image::new();
    for index in 0..3 {
        image.replay(&topic(index), 5).expect("they fit together");
    }
    image
}

pub fn metadata_snapshot_seeds() -> Vec<Vec<u8>> {
    let images = [Image::new(), an_image()];
    let written = images.iter().map(|image| {
        let mut out = Vec::new();
        odradek_metadata::snapshot::write(image, POSITION, &mut out).expect("written");
        out
    });
    written.collect()
}

fn snapshot_file(fs: &MemFs, bytes: &[u8]) -> SnapshotFile {
    let path = Path::new("/raft/5-2.snapshot").to_owned();
    fs.create_dir_all(Path::new("/raft")).expect("made");
    write_file_atomically(fs, &path, bytes).expect("written");
    let file = fs.open(&path, OpenMode::Read).expect("opened");
    SnapshotFile { path, file, length: bytes.len() as u64 }
}

pub fn raft_snapshot(data: &[u8]) {
    let _ = snapshot::read(&snapshot_file(&MemFs::new(), data));
}

pub fn raft_snapshot_seeds() -> Vec<Vec<u8>> {
    let fs = MemFs::new();
    let dir = Path::new("/raft");
    fs.create_dir_all(dir).expect("made");
    let meta = convert::meta_from_proto(&a_meta()).expect("well formed");
    let stored = snapshot::write(&fs, dir, &meta, &an_image(), POSITION.timestamp_ms).expect("written");
    vec![odradek_common::fs::read_file(&fs, &stored.snapshot.path, FILE_BYTES_MAX).expect("read")]
}

fn a_meta() -> proto::SnapshotMeta {
    let node = |id| proto::Node { node_id: id, host: "a".to_owned(), port: 9093 };
    proto::SnapshotMeta {
        last_log_id: Some(proto::LogId { term: 2, index: 5 }),
        membership: Some(proto::Membership {
            configs: vec![proto::NodeIds { ids: vec![101, 102] }],
            nodes: vec![node(101), node(102)],
        }),
        ..Default::default()
    }
}

/// What controllers send to each other, as far as it is ours to read.
pub fn raft_messages(data: &[u8]) {
    if let Ok(vote) = proto::Vote::decode(data) {
        let _ = convert::vote_from_proto(Some(&vote));
    }
    if let Ok(entry) = proto::Entry::decode(data)
        && let Ok(entry) = convert::entry_from_proto(entry)
    {
        let written = convert::entry_to_proto(&entry);
        convert::entry_from_proto(written).expect("what was read can be written and read");
    }
    if let Ok(membership) = proto::Membership::decode(data) {
        let _ = convert::membership_from_proto(Some(&membership));
    }
    if let Ok(meta) = proto::SnapshotMeta::decode(data) {
        let _ = convert::meta_from_proto(&meta);
    }
}

pub fn raft_messages_seeds() -> Vec<Vec<u8>> {
    let meta = a_meta();
    let entry = |payload| proto::Entry { log_id: meta.last_log_id, payload: Some(payload) }.encode_to_vec();
    vec![
        meta.encode_to_vec(),
        meta.membership.clone().expect("there is one").encode_to_vec(),
        proto::Vote { term: 2, node_id: Some(101), committed: true }.encode_to_vec(),
        entry(proto::entry::Payload::Blank(proto::Blank {})),
        entry(proto::entry::Payload::Batch(a_batch().encode_to_vec().into())),
    ]
}
