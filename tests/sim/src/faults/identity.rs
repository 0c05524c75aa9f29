//! Nodes that are not what they were: a second process of the same id, an empty disk, files of another version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use odradek_common::fs::Fs as _;
use odradek_common::mem_fs::Crash;
use odradek_common::meta_properties::FILE_NAME as META_PROPERTIES;
use odradek_common::rng::Rng;

use super::{Fault, Ongoing, damage, pick, revive};
use crate::cluster::Cluster;

/// Longer than the session of a broker and what a second one waits beyond it.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(40);

/// Bytes of a Raft log file before the lowest byte of its format's version.
const RAFT_LOG_VERSION_AT: usize = 11;

/// What a broker that was decommissioned meanwhile says in the end.
const UNREGISTERED: &str = "is not registered (any more)";

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::DuplicateBroker => beside(cluster, victim),
        Fault::ReplaceByDuplicate => instead(cluster, victim),
        Fault::WipeBroker => {
            let node = pick(cluster, "broker-", victim)?;
            cluster.kill(&node, Crash::Process);
            Some(Ongoing::new(vec![node.clone()], move |cluster| damage::replace(cluster, &node)))
        }
        Fault::WipeController => damage::wipe_controller(cluster, victim),
        Fault::OlderFiles => older(cluster, victim),
        Fault::NewerFiles => newer(cluster, victim),
        _ => None,
    }
}

/// A second process of the id, on a copy of the disk, while the first one lives: it must be refused, and the first one
/// must not notice.
fn beside(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    // One that was decommissioned has stopped, and its id is free.
    let node = pick(cluster, "broker-", victim).filter(|node| cluster.is_up(node))?;
    let twin = cluster.start_twin(&node, None);
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        if !cluster.wait_for(REFUSAL_PATIENCE, |cluster| !cluster.is_up(&twin)) {
            cluster.fail(&format!("{twin} was not refused, though {node} lives"));
        }
        let is_retired = cluster.stopped(&node).is_some_and(|why| why.contains(UNREGISTERED));
        if !cluster.is_up(&node) && !is_retired {
            cluster.fail(&format!("{node} was driven out by {twin}"));
        }
    }))
}

/// The first process loses sight of the controllers, though not of brokers and clients; a second one of its id takes over,
/// on a copy of its disk. When the first one sees them again it must stop.
fn instead(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "broker-", victim)?;
    let controllers = cluster.node_names("controller-");
    controllers.iter().for_each(|controller| cluster.part(&node, controller));
    let twin = cluster.start_twin(&node, None);
    cluster.let_stop(&node, true);
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        let has_joined = cluster.is_up(&twin);
        controllers.iter().for_each(|controller| cluster.heal(&node, controller));
        if has_joined && !cluster.wait_for(REFUSAL_PATIENCE, |cluster| !cluster.is_up(&node) || !cluster.is_up(&twin)) {
            cluster.fail(&format!("{node} and {twin} both go on"));
        }
        // One of the two disks is given up: the twin's.
        cluster.run_for(Duration::from_secs(5));
        if cluster.is_up(&twin) {
            cluster.kill(&twin, Crash::Process);
        }
        cluster.let_stop(&node, false);
        revive(cluster, &node);
    }))
}

/// What an older Kafka left: no ids of directories, a mark of a clean shutdown that names no epoch, no leader epochs.
fn older(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "broker-", victim)?;
    if cluster.rng.below(2) == 0 {
        cluster.shut_down(&node, Duration::from_secs(30));
    } else {
        cluster.kill(&node, Crash::Process);
    }
    let (disk, without_epochs) = (cluster.disk(&node), cluster.rng.below(2) == 0);
    for path in disk.files() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let changed = match name {
            META_PROPERTIES => disk.corrupt(&path, |bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let lines = text.lines().filter(|line| !line.starts_with("directory.id"));
                *bytes = lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes();
            }),
            ".kafka_cleanshutdown" => disk.corrupt(&path, Vec::clear),
            "leader-epoch-checkpoint" if without_epochs => disk.remove_file(&path),
            _ => continue,
        };
        changed.expect("the file is there");
    }
    cluster.note(format_args!("{node} has the files of an older version"));
    cluster.restart(&node);
    Some(Ongoing::new(vec![node], |_| ()))
}

/// Files that say they are of a newer version: the node must not start, and leave them alone.
fn newer(cluster: &mut Cluster<'_>, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, "", victim)?;
    cluster.kill(&node, Crash::Process);
    let disk = cluster.disk(&node);
    let raft_log = disk.files().into_iter().rfind(|path| path.extension().is_some_and(|end| end == "raftlog"));
    let path = match raft_log {
        Some(path) if cluster.rng.below(2) == 0 => path,
        _ => PathBuf::from("/data").join(META_PROPERTIES),
    };
    let before = disk.content(&path).ok()?;
    set_version(&mut cluster.disk(&node), &path);
    let changed = disk.content(&path).ok()?;
    cluster.note(format_args!("{} of {node} is of a newer version", path.display()));
    cluster.let_stop(&node, true);
    cluster.restart(&node);
    if !cluster.wait_for(REFUSAL_PATIENCE, |cluster| !cluster.is_up(&node)) {
        cluster.fail(&format!("{node} has started on files of a newer version"));
    }
    if disk.content(&path).ok().as_ref() != Some(&changed) {
        cluster.fail(&format!("{node} has changed {} of a newer version", path.display()));
    }
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        let restored = cluster.disk(&node).corrupt(&path, |bytes| *bytes = before);
        restored.expect("the file is there");
        cluster.let_stop(&node, false);
        revive(cluster, &node);
    }))
}

fn set_version(disk: &mut odradek_common::mem_fs::MemFs, path: &Path) {
    let is_raft_log = path.extension().is_some_and(|end| end == "raftlog");
    let changed = disk.corrupt(path, |bytes| match is_raft_log {
        true => bytes[RAFT_LOG_VERSION_AT] = 9,
        false => *bytes = String::from_utf8_lossy(bytes).replace("version=1", "version=9").into_bytes(),
    });
    changed.expect("the file is there");
}
