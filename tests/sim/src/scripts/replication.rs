//! Stories of one partition and its replicas.

use std::time::Duration;

use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;

use super::plain::{create_assigned, elect, send};
use super::{Load, Script, Watcher, broker, others, replicas_agree};
use crate::cluster::Cluster;
use crate::workload::Topic;

pub(super) const SCRIPTS: &[Script] = &[
    Script {
        name: "fast-failovers",
        about: "KIP-101: the leader dies, and so does its successor before the third replica could follow it",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: fast_failovers,
    },
    Script {
        name: "rejoin",
        about: "a replica catches up in small pieces, and leads as soon as it is counted as in sync",
        controllers: 1,
        brokers: 2,
        settings: &["replica.fetch.max.bytes=300"],
        play: rejoin,
    },
    Script {
        name: "unheard-leader",
        about: "each leader dies after a while in which it could send its followers nothing",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: unheard_leader,
    },
    Script {
        name: "replaced-log",
        about: "KAFKA-18723: a leader is deposed, and its log replaced, while it answers a follower",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: replaced_log,
    },
];

const REPLICATED: Topic = Topic { name: "story", partitions: 1, replicas: 3, acks: -1, configs: &[] };

/// KIP-101, scenario 1: whoever begins to follow has records above its high watermark that are acknowledged. Cut off there, and
/// made the leader, it would have lost them. (Rules 1 and 4.)
fn fast_failovers(cluster: &mut Cluster<'_>) {
    let load = Load::start(cluster, REPLICATED, 3);
    let watcher = Watcher::start(cluster, REPLICATED.name);
    for _ in 0..3 {
        let first = watcher.until_in_sync(cluster, 3).leader;
        load.until_acknowledged(cluster, 50);
        let rest = others(1..=3, &[first]);
        let (a, b) = (broker(rest[0]), broker(rest[1]));
        let pause = Duration::from_micros(cluster.rng.below(40_000));
        cluster.run_for(pause);
        cluster.part(&a, &b);
        cluster.kill(&broker(first), Crash::Process);
        let second = watcher.until_led_by_another(cluster, &[first]).leader;
        let pause = Duration::from_millis(20 + cluster.rng.below(200));
        cluster.run_for(pause);
        cluster.kill(&broker(second), Crash::Process);
        watcher.until_led_by_another(cluster, &[first, second]);
        cluster.heal(&a, &b);
        cluster.restart(&broker(first));
        cluster.restart(&broker(second));
        load.until_acknowledged(cluster, 20);
    }
    watcher.until_in_sync(cluster, 3);
    load.finish(cluster);
}

/// A replica that is far behind is in sync when it has reached the high watermark, and not before: from then on it may be the
/// only one there is. (Rules 1 and 4.)
fn rejoin(cluster: &mut Cluster<'_>) {
    let topic = Topic { replicas: 2, ..REPLICATED };
    let load = Load::start(cluster, topic, 4);
    let watcher = Watcher::start(cluster, topic.name);
    for _ in 0..2 {
        let leader = watcher.until_in_sync(cluster, 2).leader;
        let follower = others(1..=2, &[leader])[0];
        load.until_acknowledged(cluster, 20);
        cluster.kill(&broker(follower), Crash::Process);
        load.until_acknowledged(cluster, 300);
        cluster.restart(&broker(follower));
        watcher.until_in_sync(cluster, 2);
        cluster.kill(&broker(leader), Crash::Process);
        watcher.until_led_by_another(cluster, &[leader]);
        cluster.restart(&broker(leader));
        load.until_acknowledged(cluster, 20);
    }
    watcher.until_in_sync(cluster, 2);
    load.finish(cluster);
}

/// What is acknowledged is on every member of the ISR, and not only about to be. (Rules 1 and 3.)
fn unheard_leader(cluster: &mut Cluster<'_>) {
    let load = Load::start(cluster, REPLICATED, 2);
    let watcher = Watcher::start(cluster, REPLICATED.name);
    for _ in 0..6 {
        let leader = watcher.until_in_sync(cluster, 3).leader;
        load.until_acknowledged(cluster, 10);
        let followers = others(1..=3, &[leader]);
        followers.iter().for_each(|follower| cluster.hold_sending(&broker(leader), &broker(*follower)));
        let pause = Duration::from_millis(20 + cluster.rng.below(300));
        cluster.run_for(pause);
        cluster.kill(&broker(leader), Crash::Process);
        followers.iter().for_each(|follower| cluster.go_on(&broker(leader), &broker(*follower)));
        watcher.until_led_by_another(cluster, &[leader]);
        cluster.restart(&broker(leader));
        load.until_acknowledged(cluster, 10);
    }
    watcher.until_in_sync(cluster, 3);
    load.finish(cluster);
}

/// KAFKA-18723 (the answer to a fetch is read from the log while it is sent): leader 2 has a tail that 3 has a part of, and 1
/// nothing. It answers 3; before the bytes are sent, 1 leads, and 2 has replaced its tail by what 1 has written. So 3 is sent
/// records of an epoch that it has not heard of, at offsets behind the tail that it must give up. Did it take them, the last
/// epoch of its log would be the new leader's, and nobody would find that the histories part before. (Rules 2 and 4.)
fn replaced_log(cluster: &mut Cluster<'_>) {
    const TOPIC: &str = "story";
    let (one, two, three) = (broker(1), broker(2), broker(3));
    create_assigned(cluster, TOPIC, &[1, 2, 3], &[]);
    let watcher = Watcher::start(cluster, TOPIC);
    watcher.until_in_sync(cluster, 3);
    elect(cluster, TOPIC, false);
    watcher.until_led_by(cluster, 1);
    cluster.kill(&one, Crash::Process);
    watcher.until_led_by(cluster, 2);
    cluster.restart(&one);
    watcher.until_in_sync(cluster, 3);
    send(cluster, TOPIC, -1, 10);
    cluster.part(&one, &two);
    send(cluster, TOPIC, 1, 6);
    let has_all = |cluster: &Cluster<'_>, broker: &str, of: &str| {
        cluster.log_bytes(broker, TOPIC, 0) == cluster.log_bytes(of, TOPIC, 0)
    };
    cluster.run_until_so("3 has the tail", |cluster| has_all(cluster, &three, &two));
    cluster.hold_sending(&two, &three);
    send(cluster, TOPIC, 1, 4);
    cluster.run_until_so("2 answers 3", |cluster| cluster.is_held(&two, &three));
    for controller in cluster.node_names("controller-") {
        cluster.part(&three, &controller);
    }
    elect(cluster, TOPIC, false);
    watcher.until_led_by(cluster, 1);
    cluster.heal(&one, &two);
    send(cluster, TOPIC, 1, 12);
    cluster.run_until_so("2 has the log of 1", |cluster| has_all(cluster, &two, &one));
    cluster.go_on(&two, &three);
    let pause = Duration::from_millis(100 + cluster.rng.below(500));
    cluster.run_for(pause);
    for controller in cluster.node_names("controller-") {
        cluster.heal(&three, &controller);
    }
    watcher.until_in_sync(cluster, 3);
    send(cluster, TOPIC, -1, 5);
    replicas_agree(cluster, TOPIC);
    cluster.history.stop.store(true, std::sync::atomic::Ordering::Relaxed);
}
