//! The power fails at every moment, and nothing that was acknowledged may be missing.
//!
//! A workload of votes, appends, truncations and purges runs on each log store while every operation on its files is
//! recorded: for sled by standing in for the C library's functions (`interpose`), for the segments by standing in for
//! `Fs` (`recording_fs`). Then, for each prefix of what was recorded, the disk is rebuilt as a power cut may leave it
//! (`disk`), and the store is opened on it: it must hold exactly what had been acknowledged, or that and the beginning
//! of the group that was being written.
//!
//! This is a test binary of its own because it replaces symbols.

mod disk;
mod interpose;
mod recording_fs;
mod workload;

use std::path::Path;
use std::sync::Arc;

use odradek_common::fs::RealFs;
use odradek_controller::raft::log_store::{Change, LogStore, Recovered};
use odradek_controller::raft::segment_store::SegmentStore;
use odradek_controller::raft::sled_store::SledStore;

use disk::{Crash, Recorder};
use workload::{Model, Step};

/// Prefixes that are tried, spread evenly when there are more.
const PREFIXES_MAX: usize = 120;

/// Another workload with another life, for those who want to try more than one: `ODRADEK_SEED=7 cargo test ...`.
fn seed() -> u64 {
    std::env::var("ODRADEK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

type Open = fn(&Path) -> std::io::Result<(Arc<dyn LogStore>, Recovered)>;

fn open_sled(dir: &Path) -> std::io::Result<(Arc<dyn LogStore>, Recovered)> {
    let (store, recovered) = SledStore::open(Arc::new(RealFs), &dir.join("log"), 1 << 20)?;
    Ok((Arc::new(store), recovered))
}

fn open_segments(dir: &Path) -> std::io::Result<(Arc<dyn LogStore>, Recovered)> {
    let (store, recovered) = SegmentStore::open(Arc::new(RealFs), &dir.join("log"))?;
    Ok((Arc::new(store), recovered))
}

/// Runs the workload, opening the store anew now and then; answers the model after each acknowledged group, by the
/// number of operations that had been recorded by then.
fn record(recorder: &Recorder, open: impl Fn() -> Arc<dyn LogStore>, seed: u64) -> Vec<(usize, Model)> {
    let mut acknowledged = vec![(0, Model::default())];
    let mut model = Model::default();
    let mut store = open();
    for step in workload::steps(seed) {
        match step {
            Step::Reopen => {
                drop(store);
                store = open();
            }
            Step::Write(changes) => {
                store.write(&changes).expect("written");
                changes.iter().for_each(|change| model.apply(change));
                acknowledged.push((recorder.len(), model.clone()));
            }
        }
    }
    acknowledged
}

fn check(recorder: &Recorder, acknowledged: &[(usize, Model)], groups: &[Vec<Change>], open: Open, seed: u64) {
    let count = recorder.len();
    let stride = count.div_ceil(PREFIXES_MAX).max(1);
    let mut checked = 0;
    // A prime-like offset for each kind of crash, so that together they see other prefixes too.
    for (kind, crash) in [Crash::Strict, Crash::NamesKept, Crash::Torn { seed }].into_iter().enumerate() {
        for prefix in (kind * stride / 3..=count).step_by(stride) {
            let done = acknowledged.partition_point(|(operations, _)| *operations <= prefix) - 1;
            let dir = tempfile::tempdir().expect("a directory");
            recorder.rebuild(prefix, crash, dir.path());
            let (store, recovered) = open(dir.path()).unwrap_or_else(|error| {
                let before: Vec<String> = (prefix.saturating_sub(8)..=prefix).map(|at| recorder.describe(at)).collect();
                panic!("{crash:?} after operation {prefix} of {count}: {error}; {before:#?}")
            });
            let found = Model::read(&*store, &recovered)
                .unwrap_or_else(|error| panic!("{crash:?} after operation {prefix} of {count}: {error}"));
            // Acknowledged is the least; of the group under way any number of changes may be there.
            let mut model = acknowledged[done].1.clone();
            let mut matches = found == model;
            for change in groups.get(done).into_iter().flatten() {
                model.apply(change);
                matches |= found == model;
            }
            assert!(
                matches,
                "{crash:?} after operation {prefix} of {count} ({:?}): acknowledged {}, found {found}",
                recorder.describe(prefix),
                acknowledged[done].1
            );
            checked += 1;
        }
    }
    println!("{checked} power cuts in {count} operations, {} acknowledged groups", acknowledged.len() - 1);
}

#[test]
fn sled_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::new(dir.path());
    let acknowledged = {
        let _recording = interpose::start(&recorder);
        record(
            &recorder,
            || loop {
                // Within one process, sled's own threads may hold its file a moment longer than its last handle lives.
                match open_sled(dir.path()) {
                    Ok((store, _)) => return store,
                    Err(error) if error.to_string().contains("acquire lock") => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            },
            seed(),
        )
    };
    let groups = workload::groups(seed());
    check(&recorder, &acknowledged, &groups, open_sled, seed());
}

#[test]
fn segments_keep_what_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = Recorder::new(dir.path());
    let fs = recording_fs::RecordingFs::new(recorder.clone());
    let acknowledged = record(
        &recorder,
        || {
            let opened = SegmentStore::open(Arc::new(fs.clone()), &dir.path().join("log"));
            Arc::new(opened.expect("opened").0)
        },
        seed(),
    );
    let groups = workload::groups(seed());
    check(&recorder, &acknowledged, &groups, open_segments, seed());
}
