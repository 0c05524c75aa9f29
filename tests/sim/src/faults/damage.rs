//! Single bits that flip on a disk while its node is down.
//!
//! What is promised then:
//! - A damaged record of one replica is never acknowledged anew, never passes for another one, and never reaches another
//!   replica: the client's and the follower's checksums refuse it. The broker that has it may be unable to serve it, and its
//!   log may differ from the others' (`Cluster::damaged`): an operator replaces the disk, and the cluster has everything.
//! - Indexes and producer snapshots are derived: they are rebuilt, and nothing is relaxed.
//! - Checkpoints are lines of numbers without a checksum, as Kafka's: a wrong one can cost that replica its log, as a damaged
//!   record does; so the same holds.
//! - A controller whose log or snapshot is damaged refuses to start rather than forget what it has voted or acknowledged.
//!   An operator replaces its disk while all the others are well.

use std::path::{Path, PathBuf};
use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;

use super::{Fault, Ongoing, pick, revive};
use crate::cluster::Cluster;

/// A node that has to refuse its disk does so within this time.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(10);

/// So long all other controllers are well before an empty one joins them: what one of them lacked it has by then.
const QUORUM_REST: Duration = Duration::from_secs(10);

const STOP_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::DamageLog => broker(cluster, victim, &[".log"], true),
        Fault::DamageIndex => broker(cluster, victim, &[".index"], false),
        Fault::DamageTimeIndex => broker(cluster, victim, &[".timeindex"], false),
        Fault::DamageCheckpoint => broker(cluster, victim, &["-checkpoint"], true),
        Fault::DamageProducerSnapshot => broker(cluster, victim, &[".snapshot"], false),
        Fault::DamageControllerSnapshot => controller(cluster, victim, ".snapshot"),
        Fault::DamageRaftLog => controller(cluster, victim, ".raftlog"),
        _ => None,
    }
}

/// The files of a node that end so and have something in them.
fn files(cluster: &Cluster<'_>, node: &str, suffixes: &[&str]) -> Vec<PathBuf> {
    let disk = cluster.disk(node);
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        suffixes.iter().any(|suffix| name.ends_with(suffix))
            && disk.content(path).is_ok_and(|content| !content.is_empty())
    };
    disk.files().into_iter().filter(fits).collect()
}

/// Flips one bit of one of these files. `None`: there is none.
fn flip(cluster: &mut Cluster<'_>, node: &str, suffixes: &[&str]) -> Option<()> {
    let files = files(cluster, node, suffixes);
    let path = files.get(cluster.rng.below(files.len().max(1) as u64) as usize)?.clone();
    let disk = cluster.disk(node);
    let bits = disk.content(&path).ok()?.len() as u64 * 8;
    let bit = cluster.rng.below(bits);
    flip_bit(cluster, node, &path, bit);
    Some(())
}

/// Flips a bit of a file, as a script asks for it.
pub fn flip_bit(cluster: &mut Cluster<'_>, node: &str, path: &Path, bit: u64) {
    cluster.note(format_args!("bit {} of byte {} of {} of {node} flips", bit % 8, bit / 8, path.display()));
    let flipped = cluster.disk(node).corrupt(path, |bytes| {
        if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
            *byte ^= 1 << (bit % 8);
        }
    });
    flipped.expect("the file is there");
}

fn broker(cluster: &mut Cluster<'_>, victim: Option<&str>, suffixes: &[&str], is_lasting: bool) -> Option<Ongoing> {
    let node = pick(cluster, "broker-", victim)?;
    if cluster.rng.below(2) == 0 {
        cluster.shut_down(&node, STOP_PATIENCE);
    } else {
        cluster.kill(&node, Crash::Process);
    }
    let flipped = flip(cluster, &node, suffixes);
    if is_lasting && flipped.is_some() {
        cluster.mark_damaged(&node);
    }
    cluster.restart(&node);
    flipped?;
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        if is_lasting {
            replace(cluster, &node);
        }
    }))
}

/// Takes a node down, gives it an empty disk and starts it.
pub(super) fn replace(cluster: &mut Cluster<'_>, node: &str) {
    if cluster.is_up(node) {
        cluster.kill(node, Crash::Process);
    }
    cluster.replace_disk(node);
    cluster.restart(node);
}

fn controller(cluster: &mut Cluster<'_>, victim: Option<&str>, suffix: &str) -> Option<Ongoing> {
    let node = pick(cluster, "controller-", victim)?;
    if files(cluster, &node, &[suffix]).is_empty() {
        return None;
    }
    cluster.kill(&node, Crash::Process);
    let flipped = flip(cluster, &node, &[suffix]);
    cluster.let_stop(&node, true);
    cluster.restart(&node);
    flipped?;
    let has_refused = cluster.wait_for(REFUSAL_PATIENCE, |cluster| !cluster.is_up(&node));
    if !has_refused {
        cluster.fail(&format!("{node} has started with a damaged {suffix}"));
    }
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        cluster.run_for(QUORUM_REST);
        cluster.let_stop(&node, false);
        cluster.replace_disk(&node);
        revive(cluster, &node);
        cluster.run_for(QUORUM_REST);
    }))
}

/// A controller comes back with an empty disk, while all the others are well.
pub(super) fn wipe_controller(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "controller-", victim)?;
    cluster.kill(&node, Crash::Process);
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        cluster.run_for(QUORUM_REST);
        replace(cluster, &node);
        cluster.run_for(QUORUM_REST);
    }))
}
