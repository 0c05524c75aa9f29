//! Wall clocks that jump, clocks that run too fast or too slow, and nodes that stand still.

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;

use super::{Fault, Ongoing, pick};
use crate::cluster::Cluster;

const HOUR_MS: u64 = 3_600_000;

/// Producers' records are from the future for a broker whose clock goes back, and from an hour on
/// (`log.message.timestamp.after.max.ms`) they are refused for good, as by Kafka.
const BACKWARD_MS_MAX: u64 = HOUR_MS - 300_000;

/// Far more than any quartz: five in a hundred.
const DRIFT_PPM_MAX: u64 = 50_000;

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::ClockForward | Fault::ClockBackward => {
            let node = pick(cluster, "", victim)?;
            let by = match fault {
                Fault::ClockForward => (1 + cluster.rng.below(5 * HOUR_MS)) as i64,
                _ => -((1 + cluster.rng.below(BACKWARD_MS_MAX)) as i64),
            };
            cluster.skew(&node, by);
            // Back again at the end: that is the jump in the other direction.
            Some(Ongoing::new(Vec::new(), move |cluster| cluster.skew(&node, 0)))
        }
        Fault::ClockDrift => {
            let node = pick(cluster, "", victim)?;
            let ppm = cluster.rng.below(2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64;
            cluster.set_drift(&node, ppm);
            // It counts from the node's next start on, and stays until the one after the fault.
            cluster.kill(&node, Crash::Process);
            cluster.restart(&node);
            Some(Ongoing::new(Vec::new(), move |cluster| cluster.set_drift(&node, 0)))
        }
        Fault::PauseBroker => pause(cluster, "broker-", victim),
        Fault::PauseController => pause(cluster, "controller-", victim),
        _ => None,
    }
}

fn pause(cluster: &mut Cluster<'_>, prefix: &str, victim: Option<&str>) -> Option<Ongoing> {
    let node = pick(cluster, prefix, victim)?;
    cluster.pause(&node);
    Some(Ongoing::new(vec![node.clone()], move |cluster| cluster.resume(&node)))
}
