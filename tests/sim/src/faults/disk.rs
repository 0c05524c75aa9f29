//! Disks that are full, slow, read-only, or fail, and one of several log directories that does.
//!
//! A broker whose only directory fails stops, and so does a controller whose disk fails: both are right to, as nobody knows
//! then what is on the disk. A broker on a full disk, and one that has another directory, goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use odradek_common::fs::Fs as _;
use odradek_common::mem_fs::{Crash, Operation};
use odradek_common::rng::{Rng, SplitMix64};

use super::{Fault, Ongoing, pick, revive};
use crate::cluster::Cluster;

/// How much still fits on a disk that fills up, in bytes.
const ROOM_MAX: u64 = 40_000;
const DELAY_MS_MAX: u64 = 3_000;

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::FullDisk => full(cluster, victim),
        Fault::SlowDisk => {
            let node = pick(cluster, "", victim)?;
            let delay = Duration::from_millis(5 + cluster.rng.below(DELAY_MS_MAX));
            cluster.slow_disk(&node, delay);
            Some(Ongoing::new(Vec::new(), move |cluster| cluster.slow_disk(&node, Duration::ZERO)))
        }
        Fault::FailedReads => failing(cluster, victim, |operation| operation == Operation::Read, io::ErrorKind::Other),
        Fault::FailedWrites => {
            let is_write = |operation| matches!(operation, Operation::Write { .. } | Operation::SetLen);
            failing(cluster, victim, is_write, io::ErrorKind::Other)
        }
        Fault::FailedSync => {
            let is_sync = |operation| matches!(operation, Operation::Sync | Operation::SyncDir);
            failing(cluster, victim, is_sync, io::ErrorKind::Other)
        }
        Fault::ReadOnlyDisk => failing(cluster, victim, Operation::is_mutation, io::ErrorKind::ReadOnlyFilesystem),
        Fault::FailedLogDir => one_directory(cluster, victim),
        _ => None,
    }
}

fn full(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "", victim)?;
    let disk = cluster.disk(&node);
    let space = disk.space(Path::new("/data")).ok()?;
    let room = cluster.rng.below(ROOM_MAX);
    cluster.note(format_args!("the disk of {node} has {room} bytes left"));
    disk.set_capacity(Some(space.total - space.available + room));
    cluster.let_stop(&node, node.starts_with("controller-"));
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        cluster.note(format_args!("the disk of {node} has room again"));
        cluster.disk(&node).set_capacity(None);
        cluster.let_stop(&node, false);
        revive(cluster, &node);
    }))
}

/// Some or all of the operations of a kind fail, until the node is started anew on a disk that works.
fn failing(
    cluster: &mut Cluster<'_>,
    victim: Option<&str>,
    kind: impl Fn(Operation) -> bool + Send + 'static,
    error: io::ErrorKind,
) -> Option<Ongoing> {
    let node = pick(cluster, "", victim)?;
    let is_unsynced = kind(Operation::Sync);
    // All, or one in a few, as of a disk that dies slowly.
    let one_in = if cluster.rng.below(2) == 0 { 1 } else { 2 + cluster.rng.below(20) };
    let mut rng = SplitMix64::new(cluster.rng.next_u64());
    cluster.note(format_args!("one in {one_in} operations of {node}'s disk fails ({error})"));
    cluster.let_stop(&node, true);
    cluster.disk(&node).set_fault(Some(Box::new(move |operation, path| {
        let fails = kind(operation) && rng.below(one_in) == 0;
        fails.then(|| io::Error::new(error, format!("{}: input/output error", path.display())))
    })));
    let left = if is_unsynced { Crash::PowerLosesAll } else { Crash::Process };
    Some(Ongoing::new(vec![node.clone()], move |cluster| repair(cluster, &node, left)))
}

fn one_directory(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "broker-", victim)?;
    let dirs = cluster.dirs_of(&node);
    if dirs.len() < 2 {
        return None;
    }
    let dir: PathBuf = dirs[cluster.rng.below(dirs.len() as u64) as usize].clone();
    cluster.note(format_args!("{} of {node} fails", dir.display()));
    cluster.disk(&node).set_fault(Some(Box::new(move |_, path| {
        path.starts_with(&dir).then(|| io::Error::other(format!("{}: input/output error", path.display())))
    })));
    Some(Ongoing::new(vec![node.clone()], move |cluster| repair(cluster, &node, Crash::PowerLosesAll)))
}

/// The disk works again; what a process took offline stays so until the next start. After a sync that failed the machine
/// has to be booted anew: its page cache still shows what the disk does not have, and no later sync writes it.
fn repair(cluster: &mut Cluster<'_>, node: &str, left: Crash) {
    cluster.kill(node, left);
    cluster.note(format_args!("the disk of {node} works again"));
    cluster.disk(node).set_fault(None);
    cluster.let_stop(node, false);
    revive(cluster, node);
}
