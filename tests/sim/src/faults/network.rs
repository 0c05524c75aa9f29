//! Messages that are lost, late, held back, or go one way only. A lost message leaves its connection silent, as there is
//! no retransmission here: harder than TCP, which a product that gives up silent connections bears as well. Messages of
//! different connections overtake each other all the time; a client that got no answer sends its request again.

use std::time::Duration;

use odradek_common::rng::Rng;

use super::crash::everybody_but;
use super::{Fault, Ongoing, pick, pick_other};
use crate::cluster::Cluster;

/// Of a thousand messages.
const LOSS_MAX: u64 = 20;

pub(super) fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    match fault {
        Fault::LoseMessages => {
            let rate = (1 + cluster.rng.below(LOSS_MAX)) as f64 / 1000.0;
            cluster.note(format_args!("{rate} of the messages between nodes are lost"));
            let pairs = pairs(&cluster.node_names(""));
            pairs.iter().for_each(|(a, b)| cluster.set_loss(a, b, rate));
            Some(Ongoing::new(Vec::new(), move |cluster| {
                pairs.iter().for_each(|(a, b)| cluster.set_loss(a, b, 0.0));
                cluster.note("no message is lost any more");
            }))
        }
        Fault::LongDelays => {
            let most = Duration::from_millis(50 + cluster.rng.below(1_500));
            cluster.note(format_args!("messages between nodes take up to {most:?}"));
            let pairs = pairs(&cluster.node_names(""));
            delay(cluster, pairs, Duration::from_millis(1), most)
        }
        Fault::SlowLink => {
            let node = pick(cluster, "", victim)?;
            let least = Duration::from_millis(20 + cluster.rng.below(400));
            cluster.note(format_args!("messages of {node} take {least:?} and more"));
            let pairs = everybody_but(cluster, &node).into_iter().map(|other| (node.clone(), other)).collect();
            delay(cluster, pairs, least, least * 2)
        }
        Fault::PartBrokerAndController => {
            let broker = pick(cluster, "broker-", victim)?;
            let controller = pick_other(cluster, "controller-", "")?;
            part(cluster, vec![(broker, controller)])
        }
        Fault::PartBrokers => among(cluster, "broker-", victim),
        Fault::PartControllers => among(cluster, "controller-", victim),
        Fault::PartOneWay => {
            let from = pick(cluster, "", victim)?;
            let to = pick_other(cluster, "", &from)?;
            cluster.part_one_way(&from, &to);
            Some(Ongoing::new(Vec::new(), move |cluster| cluster.heal(&from, &to)))
        }
        Fault::IsolateNode => {
            let node = pick(cluster, "", victim)?;
            let pairs = everybody_but(cluster, &node).into_iter().map(|other| (node.clone(), other)).collect();
            part(cluster, pairs)
        }
        Fault::PartHalves => {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for node in cluster.node_names("") {
                if cluster.rng.below(2) == 0 { left.push(node) } else { right.push(node) }
            }
            let across = left.iter().flat_map(|a| right.iter().map(|b| (a.clone(), b.clone())));
            let across = across.collect();
            part(cluster, across)
        }
        Fault::HoldMessages => {
            let a = pick(cluster, "", victim)?;
            let b = pick_other(cluster, "", &a)?;
            cluster.hold(&a, &b);
            Some(Ongoing::new(Vec::new(), move |cluster| cluster.release(&a, &b)))
        }
        _ => None,
    }
}

fn pairs(names: &[String]) -> Vec<(String, String)> {
    let behind = |at: usize| names.iter().skip(at + 1);
    names.iter().enumerate().flat_map(|(at, a)| behind(at).map(|b| (a.clone(), b.clone()))).collect()
}

fn delay(cluster: &mut Cluster<'_>, pairs: Vec<(String, String)>, min: Duration, max: Duration) -> Option<Ongoing> {
    pairs.iter().for_each(|(a, b)| cluster.set_latency(a, b, Some((min, max))));
    Some(Ongoing::new(Vec::new(), move |cluster| {
        pairs.iter().for_each(|(a, b)| cluster.set_latency(a, b, None));
        cluster.note("messages are as quick as ever");
    }))
}

fn among(cluster: &mut Cluster<'_>, prefix: &str, victim: Option<&str>) -> Option<Ongoing> {
    let a = pick(cluster, prefix, victim)?;
    let b = pick_other(cluster, prefix, &a)?;
    part(cluster, vec![(a, b)])
}

fn part(cluster: &mut Cluster<'_>, pairs: Vec<(String, String)>) -> Option<Ongoing> {
    pairs.iter().for_each(|(a, b)| cluster.part(a, b));
    Some(Ongoing::new(Vec::new(), move |cluster| pairs.iter().for_each(|(a, b)| cluster.heal(a, b))))
}
