//! Processes that end without notice: one, several, all; with and without the page cache; and a restart of all in turn.

use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;

use super::{Fault, Ongoing, free, pick, revive};
use crate::cluster::Cluster;

/// How long a process that is told to stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::KillBroker => one(cluster, "broker-", Crash::Process, victim),
        Fault::LoseUnsyncedOfBroker => one(cluster, "broker-", Crash::PowerLosesAll, victim),
        Fault::PowerOffBroker => one(cluster, "broker-", Crash::PowerTears, victim),
        Fault::KillController => one(cluster, "controller-", Crash::Process, victim),
        Fault::LoseUnsyncedOfController => one(cluster, "controller-", Crash::PowerLosesAll, victim),
        Fault::PowerOffController => one(cluster, "controller-", Crash::PowerTears, victim),
        Fault::KillAllBrokers => all(cluster, &["broker-"], Crash::Process),
        Fault::PowerOffAllBrokers => all(cluster, &["broker-"], Crash::PowerTears),
        Fault::KillAllNodes => all(cluster, &["broker-", "controller-"], Crash::Process),
        Fault::PowerOffAllNodes => all(cluster, &["broker-", "controller-"], Crash::PowerTears),
        Fault::LoseMinorityOfControllers => controllers(cluster, false),
        Fault::LoseMajorityOfControllers => controllers(cluster, true),
        Fault::RestartAllInTurn => in_turn(),
        _ => None,
    }
}

fn one(cluster: &mut Cluster<'_>, prefix: &str, crash: Crash, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, prefix, victim)?;
    // A machine that loses power says nothing: no connection of it is closed.
    let is_silent = crash != Crash::Process && cluster.rng.below(2) == 0;
    let others = if is_silent { everybody_but(cluster, &node) } else { Vec::new() };
    others.iter().for_each(|other| cluster.part(&node, other));
    cluster.kill(&node, crash);
    Some(Ongoing::new(vec![node.clone()], move |cluster| {
        others.iter().for_each(|other| cluster.heal(&node, other));
        cluster.restart(&node);
    }))
}

pub(super) fn everybody_but(cluster: &Cluster<'_>, node: &str) -> Vec<String> {
    let mut others = cluster.node_names("");
    others.extend(cluster.client_names());
    others.retain(|other| other != node);
    others
}

fn kill_all(cluster: &mut Cluster<'_>, victims: Vec<String>, crash: Crash) -> Option<Ongoing> {
    victims.iter().for_each(|victim| cluster.kill(victim, crash));
    Some(Ongoing::new(victims.clone(), move |cluster| {
        // Each when it has booted.
        for victim in victims {
            let pause = cluster.rng.below(1_000);
            cluster.run_for(Duration::from_millis(pause));
            cluster.restart(&victim);
        }
    }))
}

fn all(cluster: &mut Cluster<'_>, prefixes: &[&str], crash: Crash) -> Option<Ongoing> {
    let victims: Vec<String> = prefixes.iter().flat_map(|prefix| free(cluster, prefix)).collect();
    kill_all(cluster, victims, crash)
}

/// A majority leaves no quorum until the end of the fault; a minority must not be felt.
fn controllers(cluster: &mut Cluster<'_>, is_majority: bool) -> Option<Ongoing> {
    let mut victims = free(cluster, "controller-");
    let minority = (cluster.node_names("controller-").len() - 1) / 2;
    let count = if is_majority { minority + 1 } else { minority };
    if victims.len() < count {
        return None;
    }
    while victims.len() > count {
        let spared = cluster.rng.below(victims.len() as u64) as usize;
        victims.remove(spared);
    }
    let crash = if cluster.rng.below(2) == 0 { Crash::Process } else { Crash::PowerTears };
    kill_all(cluster, victims, crash)
}

/// As for a new version: each node is told to stop, and started again; the next one when all replicas are in sync.
fn in_turn() -> Option<Ongoing> {
    Some(Ongoing::new(Vec::new(), |cluster| {
        let mut nodes = cluster.node_names("controller-");
        nodes.extend(cluster.node_names("broker-"));
        for node in nodes {
            cluster.shut_down(&node, STOP_PATIENCE);
            let pause = cluster.rng.below(2_000);
            cluster.run_for(Duration::from_millis(pause));
            revive(cluster, &node);
            cluster.await_full_isr(super::HEALING_MAX);
        }
    }))
}
