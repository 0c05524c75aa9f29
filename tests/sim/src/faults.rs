//! What is done to a cluster while it works: each fault, and the end of it.

use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;

use crate::cluster::Cluster;

/// The longest that a random fault lasts, in milliseconds.
const FAULT_MS_MAX: u64 = 8_200;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A broker's process is killed; its page cache stays.
    KillBroker,
    /// A broker loses power; of what it had not synced, any part is gone.
    PowerOffBroker,
    /// A controller loses power.
    PowerOffController,
    /// No message passes between a broker and a controller.
    PartBrokerAndController,
    /// No message passes between two brokers.
    PartBrokers,
}

impl Fault {
    pub const ALL: [Fault; 5] = [
        Self::KillBroker,
        Self::PowerOffBroker,
        Self::PowerOffController,
        Self::PartBrokerAndController,
        Self::PartBrokers,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillBroker => "kill broker",
            Self::PowerOffBroker => "power off broker",
            Self::PowerOffController => "power off controller",
            Self::PartBrokerAndController => "part broker and controller",
            Self::PartBrokers => "part brokers",
        }
    }
}

/// Draws a fault, does it, lets it last and ends it. Its victims and its length are the seed's.
pub fn inject(cluster: &mut Cluster<'_>, faults: &[Fault]) {
    let Some(fault) = faults.get(cluster.rng.below(faults.len() as u64) as usize) else { return };
    let pause = Duration::from_millis(200 + cluster.rng.below(FAULT_MS_MAX - 200));
    match fault {
        Fault::KillBroker => crash(cluster, "broker-", Crash::Process, pause),
        Fault::PowerOffBroker => crash(cluster, "broker-", Crash::PowerTears, pause),
        Fault::PowerOffController => crash(cluster, "controller-", Crash::PowerTears, pause),
        Fault::PartBrokerAndController => {
            let (broker, controller) = (pick(cluster, "broker-"), pick(cluster, "controller-"));
            part(cluster, &broker, &controller, pause);
        }
        Fault::PartBrokers => {
            let a = pick(cluster, "broker-");
            let b = pick_other(cluster, "broker-", &a);
            part(cluster, &a, &b, pause);
        }
    }
    cluster.count_fault(fault.name());
}

fn crash(cluster: &mut Cluster<'_>, prefix: &str, crash: Crash, pause: Duration) {
    let node = pick(cluster, prefix);
    cluster.kill(&node, crash);
    cluster.run_for(pause);
    cluster.restart(&node);
}

fn part(cluster: &mut Cluster<'_>, a: &str, b: &str, pause: Duration) {
    cluster.part(a, b);
    cluster.run_for(pause);
    cluster.heal(a, b);
}

/// A node whose name begins so.
fn pick(cluster: &mut Cluster<'_>, prefix: &str) -> String {
    let names = cluster.node_names(prefix);
    names[cluster.rng.below(names.len() as u64) as usize].clone()
}

/// As `pick`, another one than `but`, of which there must be one.
fn pick_other(cluster: &mut Cluster<'_>, prefix: &str, but: &str) -> String {
    let mut names = cluster.node_names(prefix);
    names.retain(|name| name != but);
    names[cluster.rng.below(names.len() as u64) as usize].clone()
}
