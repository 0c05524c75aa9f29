//! Stories of controllers, and of what they know of brokers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::mem_fs::{Crash, MemFs};
use odradek_common::rng::Rng;
use odradek_controller::raft::segment_store::SegmentStore;
use odradek_node::World;

use super::plain::{create_assigned, elect};
use super::{Load, Script, Table, Watcher, ask};
use crate::client::{Client, Failure};
use crate::cluster::Cluster;
use crate::workload::{RETRY_PAUSE, Topic, create_topic};

pub(super) const SCRIPTS: &[Script] = &[
    Script {
        name: "votes",
        about: "all controllers lose power at the moment in which one of them is elected",
        controllers: 3,
        brokers: 0,
        settings: &[],
        play: votes,
    },
    Script {
        name: "twins",
        about: "a broker is cut off, another one with its id takes its place, and then it is back",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: twins,
    },
    Script {
        name: "snapshots",
        about: "everything is started again from snapshots of the metadata",
        controllers: 3,
        brokers: 3,
        settings: &["metadata.log.max.record.bytes.between.snapshots=1"],
        play: snapshots,
    },
];

/// The term that a controller's disk votes for, and whether that vote has won.
fn vote_on(disk: &MemFs) -> Option<(u64, bool)> {
    // On a copy, as opening mends what is torn.
    let (copy, dir) = (disk.copy(), PathBuf::from("/data/raft-segments"));
    let (_, recovered) = SegmentStore::open(Arc::new(copy), &dir).expect("a sound log");
    recovered.vote.map(|vote| (vote.leader_id.term, vote.committed))
}

/// Rule 11: a vote is durable before it is answered. So whoever is elected has a majority of disks behind it, whatever happens.
fn votes(cluster: &mut Cluster<'_>) {
    let controllers = cluster.node_names("controller-");
    let majority = controllers.len() / 2 + 1;
    let mut elected_before = 0;
    for round in 0..8 {
        let mut elected = 0;
        for _ in 0..60_000 {
            let votes = controllers.iter().filter_map(|name| vote_on(&cluster.disk(name)));
            elected = votes.filter(|(_, has_won)| *has_won).map(|(term, _)| term).max().unwrap_or(0);
            if elected > elected_before {
                break;
            }
            cluster.run_for(Duration::from_millis(1));
        }
        assert!(elected > elected_before, "liveness: no controller is elected in round {round}");
        controllers.iter().for_each(|name| cluster.kill(name, Crash::PowerLosesAll));
        let durable = controllers.iter().filter_map(|name| vote_on(&cluster.disk(name)));
        let durable = durable.filter(|(term, _)| *term >= elected).count();
        assert!(
            durable >= majority,
            "rule 11: the power went when a controller had been elected in term {elected}; only {durable} of {} disks know of \
             that vote, so that another one could be elected in the same term",
            controllers.len()
        );
        elected_before = elected;
        controllers.iter().for_each(|name| cluster.restart(name));
        let pause = Duration::from_millis(cluster.rng.below(20));
        cluster.run_for(pause);
    }
}

/// Rule 5: one live incarnation of an id; an old one is refused, and ends.
fn twins(cluster: &mut Cluster<'_>) {
    const DURABLE: &[(&str, &str)] = &[("min.insync.replicas", "2")];
    let topic = Topic { name: "story", partitions: 1, replicas: 3, acks: -1, configs: DURABLE };
    create_assigned(cluster, topic.name, &[2, 3, 1], DURABLE);
    let load = Load::start(cluster, topic, 3);
    let watcher = Watcher::start(cluster, topic.name);
    watcher.until_in_sync(cluster, 3);
    elect(cluster, topic.name, false);
    watcher.until_led_by(cluster, 2);
    watcher.until_in_sync(cluster, 3);
    load.until_acknowledged(cluster, 50);
    for controller in cluster.node_names("controller-") {
        cluster.part("broker-1", &controller);
    }
    let pause = Duration::from_millis(cluster.rng.below(3_000));
    watcher.until(cluster, "the broker that is cut off is out of sync", |view| !view.isr.contains(&1));
    cluster.run_for(pause);
    cluster.let_stop("broker-1", true);
    cluster.start_twin("broker-1", None);
    watcher.until_in_sync(cluster, 3);
    for controller in cluster.node_names("controller-") {
        cluster.heal("broker-1", &controller);
    }
    // It is told when its stream is open again, which is tried several times a second.
    let is_refused = cluster.wait_for(Duration::from_secs(20), |cluster| cluster.stopped("broker-1").is_some());
    assert!(is_refused, "rule 5: two incarnations of broker 1 live");
    load.until_acknowledged(cluster, 20);
    watcher.until_in_sync(cluster, 3);
    // What is on the disk of the old one is not a replica any more.
    cluster.mark_damaged("broker-1");
    load.finish(cluster);
}

/// What brokers say of topics (id, partitions, replicas) and of their configs.
async fn describe(world: World, hosts: Vec<(String, u16)>) -> Table {
    let mut client = Client::new(world.clone(), hosts.clone());
    loop {
        match try_describe(&mut client, &hosts).await {
            Ok(table) => return table,
            Err(_) => world.sleep(RETRY_PAUSE).await,
        }
    }
}

async fn try_describe(client: &mut Client, hosts: &[(String, u16)]) -> Result<Table, Failure> {
    let mut table = Table::new();
    for topic in client.metadata_of(&hosts[0].0, hosts[0].1).await?.topics {
        Failure::check(topic.error_code)?;
        let partitions = topic.partitions.iter().map(|partition| (partition.partition_index, &partition.replica_nodes));
        let partitions: Vec<_> = partitions.collect();
        let name = topic.name.clone().unwrap_or_default().to_string();
        for (config, _) in CONFIGS {
            table.insert(format!("{config} of {name}"), format!("{:?}", client.config(&name, config).await?));
        }
        table.insert(format!("topic {name}"), format!("{} {partitions:?}", topic.topic_id));
    }
    Ok(table)
}

const CONFIGS: &[(&str, &str)] = &[("retention.ms", "123456789"), ("min.insync.replicas", "2")];

/// Snapshot and deltas are the whole log: what was acknowledged is there after everything was started from a snapshot, and a
/// producer id that was given is not given again.
fn snapshots(cluster: &mut Cluster<'_>) {
    const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];
    for name in NAMES {
        let topic = Topic { name, partitions: 2, replicas: 3, acks: -1, configs: CONFIGS };
        let (hosts, history) = (cluster.bootstrap(), cluster.history.clone());
        ask(cluster, "a topic is created", move |world| create_topic(world, hosts, topic, history));
    }
    let look = |cluster: &mut Cluster<'_>| {
        let hosts = cluster.bootstrap();
        ask(cluster, "topics are described", move |world| describe(world, hosts))
    };
    let mut producers = Vec::new();
    for _ in 0..2 {
        cluster.run_for(Duration::from_millis(100));
        let before = look(cluster);
        let is_told = |name: &str, (config, value): &(&str, &str)| {
            before.get(&format!("{config} of {name}")).is_some_and(|told| told.contains(value))
        };
        let told = NAMES.iter().all(|name| CONFIGS.iter().all(|config| is_told(name, config)));
        assert!(told, "metadata: not every topic and config that was acknowledged is told: {before:#?}");
        // A snapshot is made within 5 seconds.
        let pause = Duration::from_millis(6_000 + cluster.rng.below(6_000));
        cluster.run_for(pause);
        let nodes = [cluster.node_names("controller-"), cluster.node_names("broker-")].concat();
        nodes.iter().for_each(|name| cluster.kill(name, Crash::Process));
        nodes.iter().for_each(|name| cluster.restart(name));
        let after = look(cluster);
        assert_eq!(before, after, "metadata: snapshot and deltas are not the whole log");
        let hosts = cluster.bootstrap();
        let id = ask(cluster, "a producer id is given", move |world| async move {
            let mut client = Client::new(world.clone(), hosts);
            loop {
                match client.init_producer().await {
                    Ok(producer) => return producer.id,
                    Err(_) => world.sleep(RETRY_PAUSE).await,
                }
            }
        });
        assert!(
            !producers.contains(&id),
            "metadata: snapshot and deltas are not the whole log: producer id {id} came twice"
        );
        producers.push(id);
    }
}
