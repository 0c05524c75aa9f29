//! Both log stores, and the state machine, before openraft's own suite for them; and what damage does to ours.

use std::path::Path;
use std::sync::Arc;

use odradek_common::fs::RealFs;
use odradek_controller::raft::log_store::{Change, LogStore, RaftLog};
use odradek_controller::raft::segment_store::SegmentStore;
use odradek_controller::raft::sled_store::SledStore;
use odradek_controller::raft::state_machine::StateMachine;
use odradek_controller::raft::types::{EncodedBatch, Entry, TypeConfig, Vote, log_id};
use odradek_node::World;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};

struct Builder {
    sled: bool,
}

fn store_error(error: std::io::Error) -> StorageError<TypeConfig> {
    StorageError::read(openraft::errors::ErrorSource::from_error(&error))
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, RaftLog, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let world = World::real();
        let (store, recovered) = open(dir.path(), self.sled);
        let log = RaftLog::new(world.clone(), store, recovered);
        let machine = StateMachine::open(world, dir.path().join("snapshots")).await.map_err(store_error)?;
        Ok((dir, log, machine))
    }
}

fn open(dir: &Path, sled: bool) -> (Arc<dyn LogStore>, odradek_controller::raft::log_store::Recovered) {
    if sled {
        let (store, recovered) = SledStore::open(Arc::new(RealFs), &dir.join("log"), 1 << 20).expect("opened");
        (Arc::new(store), recovered)
    } else {
        let (store, recovered) = SegmentStore::open(Arc::new(RealFs), &dir.join("log")).expect("opened");
        (Arc::new(store), recovered)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes_on_sled() {
    Suite::test_all(Builder { sled: true }).await.expect("passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes_on_segments() {
    Suite::test_all(Builder { sled: false }).await.expect("passed");
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = EntryPayload::Normal(EncodedBatch(vec![index as u8; bytes].into()));
    Entry { log_id: log_id(term, index), payload }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    for sled in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let entries: Vec<Entry> = (0..40).map(|index| entry(1, index, index as usize * 3000)).collect();
        let vote = Vote::new_committed(7, 2);
        let (store, _) = open(dir.path(), sled);
        store.write(&[Change::Append(entries.clone()), Change::Vote(Vote::new(6, 1))]).expect("written");
        store.write(&[Change::Truncate { from: 30 }, Change::Append(vec![entry(2, 30, 5)])]).expect("written");
        store.write(&[Change::Purge { upto: log_id(1, 9) }, Change::Vote(vote)]).expect("written");
        store.write(&[Change::Committed(log_id(1, 20))]).expect("written");
        drop(store);
        let (store, recovered) = open(dir.path(), sled);
        assert_eq!(recovered.vote, Some(vote));
        assert_eq!(recovered.purged, Some(log_id(1, 9)));
        assert_eq!(recovered.committed, Some(log_id(1, 20)));
        assert_eq!(recovered.last, Some(log_id(2, 30)));
        assert_eq!(store.read(10..30).expect("read"), entries[10..30]);
        assert_eq!(store.read(30..31).expect("read"), [entry(2, 30, 5)]);
        assert!(store.read(9..11).is_err(), "purged");
        assert!(store.read(30..32).is_err(), "not there yet");
        // A snapshot from the leader reaches further than the log.
        store
            .write(&[Change::Purge { upto: log_id(3, 100) }, Change::Append(vec![entry(3, 101, 1)])])
            .expect("written");
        drop(store);
        let (store, recovered) = open(dir.path(), sled);
        assert_eq!((recovered.purged, recovered.last), (Some(log_id(3, 100)), Some(log_id(3, 101))));
        assert_eq!(store.read(101..102).expect("read"), [entry(3, 101, 1)]);
    }
}

#[test]
fn segments_are_dropped_when_all_in_them_is_purged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), false);
    let vote = Vote::new(5, 3);
    store.write(&[Change::Vote(vote)]).expect("written");
    for index in 0..12u64 {
        store.write(&[Change::Append(vec![entry(1, index, 1024 * 1024)])]).expect("written");
    }
    let files = || std::fs::read_dir(dir.path().join("log")).expect("listed").count();
    assert_eq!(files(), 3);
    store.write(&[Change::Purge { upto: log_id(1, 8) }]).expect("written");
    assert_eq!(files(), 2, "entries 9 to 11, and the purge itself");
    drop(store);
    let (store, recovered) = open(dir.path(), false);
    assert_eq!((recovered.vote, recovered.purged), (Some(vote), Some(log_id(1, 8))));
    assert_eq!(store.read(9..12).expect("read").len(), 3);
}

/// Cuts the last file anywhere, and flips any bit of it: whole groups survive, or the store refuses to open.
#[test]
fn a_torn_tail_is_cut_and_damage_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), false);
    for index in 0..4u64 {
        store.write(&[Change::Append(vec![entry(1, index, 10)]), Change::Vote(Vote::new(index, 1))]).expect("written");
    }
    drop(store);
    let path = dir.path().join("log").join(format!("{:020}.raftlog", 0));
    let whole = std::fs::read(&path).expect("read");
    let reopen = |bytes: &[u8]| {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("log")).expect("made");
        std::fs::write(dir.path().join("log").join(format!("{:020}.raftlog", 0)), bytes).expect("written");
        let opened = SegmentStore::open(Arc::new(RealFs), &dir.path().join("log"));
        opened.map(|(store, recovered)| {
            // Whatever is left can be written to.
            let next = recovered.last.map_or(0, |last| last.index + 1);
            store.write(&[Change::Append(vec![entry(9, next, 1)])]).expect("written");
            recovered
        })
    };
    let mut lasts = Vec::new();
    for length in 0..=whole.len() {
        let recovered = reopen(&whole[..length]).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
        assert_eq!(recovered.last.map(|id| id.index), recovered.vote.map(|vote| vote.leader_id.term));
        lasts.push(recovered.last.map_or(-1, |id| id.index as i64));
    }
    assert!(lasts.is_sorted() && lasts.last() == Some(&3));
    // The last group too was acknowledged: to cut it off for a flipped bit would be to forget a vote.
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = reopen(&bytes).err().unwrap_or_else(|| panic!("bit {bit} of {} was not missed", whole.len() * 8));
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "bit {bit}");
    }
    // Sectors that never reached the disk are zeros.
    let mut large = whole.clone();
    let (store, _) = open(dir.path(), false);
    store.write(&[Change::Append(vec![entry(1, 4, 2000)])]).expect("written");
    drop(store);
    let written = std::fs::read(&path).expect("read");
    large.extend(&written[whole.len()..]);
    for sector in large.len().div_ceil(512) - 3..large.len().div_ceil(512) {
        let mut bytes = large.clone();
        bytes[(sector * 512).max(whole.len())..((sector + 1) * 512).min(large.len())].fill(0);
        let recovered = reopen(&bytes).expect("a torn tail is cut");
        assert_eq!(recovered.last, Some(log_id(1, 3)), "sector {sector}");
    }
}
