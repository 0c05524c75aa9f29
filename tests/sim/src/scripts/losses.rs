//! How others have lost, or mixed up, what they had acknowledged: each story is played as it was told, with Odradek in the part.

use std::path::PathBuf;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_common::mem_fs::Crash;
use odradek_common::rng::Rng;
use odradek_common::time::Timestamp;
use odradek_node::World;
use odradek_node::world::send_vectored;
use odradek_records::RecordBatchBuilder;
use odradek_wire::fetch_request::{FetchPartition, FetchTopic};
use odradek_wire::fetch_response::PartitionData;
use odradek_wire::frame::encode_request;
use odradek_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{FetchRequest, OffsetForLeaderEpochRequest, Part, ProduceRequest, Records, Str};

use super::plain::{create_assigned, elect, send};
use super::{Load, Script, Watcher, ask, broker, others, read_all, replicas_agree};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::faults::flip_bit;
use crate::workload::Topic;

pub(super) const SCRIPTS: &[Script] = &[
    Script {
        name: "divergent-tails",
        about: "KIP-279: two replicas lead in turn, and each has a tail that the other one never saw",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: divergent_tails,
    },
    Script {
        name: "stale-readers",
        about: "KIP-320: a reader and a follower whose log was truncated, and a leader that is none any more",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: stale_readers,
    },
    Script {
        name: "last-replica",
        about: "KIP-966: the last replica in sync loses power, and those that were in sync before it are back",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: last_replica,
    },
    Script {
        name: "idle-elections",
        about: "KAFKA-10706: leaders come and go, and write nothing",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: idle_elections,
    },
    Script {
        name: "broken-off",
        about: "KAFKA-19012: produce requests that break off, beside those of another topic",
        controllers: 1,
        brokers: 3,
        settings: &[],
        play: broken_off,
    },
    Script {
        name: "flipped-bit",
        about: "NATS 2.12.1: one bit of one replica's log flips while its broker is down",
        controllers: 3,
        brokers: 3,
        settings: &[],
        play: flipped_bit,
    },
];

const TOPIC: &str = "story";
const UNCLEAN: &[(&str, &str)] = &[("unclean.leader.election.enable", "true")];

/// Sends one to five records that only the leader has.
fn send_some(cluster: &mut Cluster<'_>) {
    let count = 1 + cluster.rng.below(5) as usize;
    send(cluster, TOPIC, 1, count);
}

/// The broker is started and led by, whatever it has.
fn have_lead(cluster: &mut Cluster<'_>, watcher: &Watcher, id: i32) {
    for _ in 0..60 {
        if watcher.view().is_some_and(|view| view.leader == id) {
            return;
        }
        elect(cluster, TOPIC, true);
        cluster.run_for(Duration::from_millis(500));
    }
    panic!("liveness: broker {id} is not elected, though an unclean election is allowed");
}

/// KIP-279: after fast failovers the histories of two replicas part at an epoch that only one of them knows. A follower that is
/// told no more than where the leader's next epoch begins truncates too little, and its log stays another one for ever. It has to
/// go back to the largest epoch that both share. (Rules 2 and 4. What an unclean election loses is lost as configured.)
fn divergent_tails(cluster: &mut Cluster<'_>) {
    create_assigned(cluster, TOPIC, &[1, 2], UNCLEAN);
    let watcher = Watcher::start(cluster, TOPIC);
    for _ in 0..2 {
        let first = watcher.until_in_sync(cluster, 2).leader;
        let second = others([1, 2], &[first])[0];
        send(cluster, TOPIC, -1, 3);
        for _ in 0..2 {
            cluster.part(&broker(first), &broker(second));
            send_some(cluster);
            cluster.kill(&broker(first), Crash::Process);
            have_lead(cluster, &watcher, second);
            cluster.heal(&broker(first), &broker(second));
            send_some(cluster);
            cluster.kill(&broker(second), Crash::Process);
            cluster.restart(&broker(first));
            have_lead(cluster, &watcher, first);
            send_some(cluster);
            if cluster.rng.below(2) == 0 {
                cluster.restart(&broker(second));
                watcher.until_in_sync(cluster, 2);
            } else {
                // It leads again before it has followed.
                cluster.kill(&broker(first), Crash::Process);
                cluster.restart(&broker(second));
                have_lead(cluster, &watcher, second);
                send_some(cluster);
                cluster.restart(&broker(first));
                watcher.until_in_sync(cluster, 2);
                cluster.kill(&broker(second), Crash::Process);
                watcher.until_led_by(cluster, first);
                cluster.restart(&broker(second));
                watcher.until_in_sync(cluster, 2);
            }
        }
        send(cluster, TOPIC, -1, 3);
    }
    until_alike(cluster);
    stop(cluster);
}

fn until_alike(cluster: &mut Cluster<'_>) {
    let holds = |cluster: &Cluster<'_>, id| cluster.log_bytes(&broker(id), TOPIC, 0);
    cluster.run_until_so("rule 2: both replicas hold the same", |cluster| holds(cluster, 1) == holds(cluster, 2));
}

fn stop(cluster: &mut Cluster<'_>) {
    cluster.history.stop.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// What a reader is answered that read up to `offset` in `last_epoch`.
async fn fetch(client: &mut Client, from: i32, epoch: i32, offset: i64, last_epoch: i32) -> PartitionData {
    let asked = FetchPartition {
        partition: 0,
        current_leader_epoch: epoch,
        fetch_offset: offset,
        last_fetched_epoch: last_epoch,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic = FetchTopic { topic: Str::from(TOPIC), partitions: vec![asked], ..Default::default() };
    let request = FetchRequest {
        max_wait_ms: 10,
        min_bytes: 1,
        max_bytes: 8 << 20,
        topics: vec![topic],
        session_id: 0,
        session_epoch: -1,
        ..Default::default()
    };
    let answer = client.ask(from, 12, &request).await.expect("the broker answers");
    assert_eq!(answer.error_code, 0);
    answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next()).expect("its partition")
}

/// KIP-320: (1) a leader that was deposed and has not heard of it shows no more than was committed. (2) Whoever names an old epoch
/// is fenced, and a leader that has not heard of a new one says so. (3) A reader whose position lies in a tail that an unclean
/// election has dropped is told where its history parts from the leader's, and given no records: not even when the new leader has
/// others at those offsets by then. (Rules 3 and 4.)
fn stale_readers(cluster: &mut Cluster<'_>) {
    let (one, two) = (broker(1), broker(2));
    create_assigned(cluster, TOPIC, &[1, 2], UNCLEAN);
    let watcher = Watcher::start(cluster, TOPIC);
    watcher.until_in_sync(cluster, 2);
    elect(cluster, TOPIC, false);
    let old = watcher.until_led_by(cluster, 1);
    let committed = *send(cluster, TOPIC, -1, 5).last().expect("five") + 1;
    cluster.part(&one, &two);
    for controller in cluster.node_names("controller-") {
        cluster.part(&one, &controller);
    }
    let tail = *send(cluster, TOPIC, 1, 4).last().expect("four") + 1;
    let hosts = vec![(one.clone(), 9092)];
    let epoch = old.epoch;
    let (shown, newer) = ask(cluster, "the old leader answers", move |world: World| async move {
        let mut client = Client::new(world, hosts);
        client.views(TOPIC).await.expect("it knows");
        let shown = fetch(&mut client, 1, epoch, committed, epoch).await;
        (shown, fetch(&mut client, 1, epoch + 1, committed, epoch).await)
    });
    assert_eq!(shown.error_code, 0);
    assert_eq!(shown.high_watermark, committed, "rule 3: what one replica of two has is not committed");
    assert!(
        shown.records.and_then(Records::into_bytes).is_none_or(|records| records.is_empty()),
        "rule 3: a tail is shown"
    );
    assert_eq!(ErrorCode::from_code(newer.error_code), ErrorCode::UnknownLeaderEpoch, "rule 4");
    cluster.kill(&one, Crash::Process);
    have_lead(cluster, &watcher, 2);
    for controller in cluster.node_names("controller-") {
        cluster.heal(&one, &controller);
    }
    cluster.heal(&one, &two);
    let new = watcher.view().expect("it is led");
    send(cluster, TOPIC, 1, (tail - committed + 3) as usize);
    let hosts = vec![(two.clone(), 9092)];
    let (fenced, diverging, ends) = ask(cluster, "the new leader answers", move |world: World| async move {
        let mut client = Client::new(world, hosts);
        client.views(TOPIC).await.expect("it knows");
        let fenced = fetch(&mut client, 2, epoch, tail, epoch).await;
        let diverging = fetch(&mut client, 2, new.epoch, tail, epoch).await;
        let asked = OffsetForLeaderPartition {
            partition: 0,
            current_leader_epoch: new.epoch,
            leader_epoch: epoch,
            ..Default::default()
        };
        let topic = OffsetForLeaderTopic { topic: Str::from(TOPIC), partitions: vec![asked], ..Default::default() };
        let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let ends = client.ask(2, 4, &request).await.expect("the broker answers");
        let ends = ends.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        (fenced, diverging, ends.expect("its partition"))
    });
    assert_eq!(ErrorCode::from_code(fenced.error_code), ErrorCode::FencedLeaderEpoch, "rule 4");
    assert_eq!(diverging.error_code, 0);
    assert!(
        diverging.records.and_then(Records::into_bytes).is_none_or(|records| records.is_empty()),
        "rule 4: a reader goes on in another history"
    );
    let told = (diverging.diverging_epoch.epoch, diverging.diverging_epoch.end_offset);
    assert_eq!(told, (epoch, committed), "rule 4: where the histories part");
    assert_eq!((ends.error_code, ends.leader_epoch, ends.end_offset), (0, epoch, committed), "rule 4: where they part");
    // And the follower that was the leader gives its tail up.
    cluster.restart(&one);
    watcher.until_in_sync(cluster, 2);
    send(cluster, TOPIC, -1, 2);
    until_alike(cluster);
    stop(cluster);
}

/// KIP-966: the last replica in sync is not enough to acknowledge, and is not the only one that may lead: when it has lost what it
/// had not synced, those that left the ISR before it, and have everything that was acknowledged, lead. (Rules 1, 3 and 5.)
fn last_replica(cluster: &mut Cluster<'_>) {
    let topic = Topic { name: TOPIC, partitions: 1, replicas: 3, acks: -1, configs: &[("min.insync.replicas", "2")] };
    let load = Load::start(cluster, topic, 3);
    let watcher = Watcher::start(cluster, TOPIC);
    let last = watcher.until_in_sync(cluster, 3).leader;
    let rest = others(1..=3, &[last]);
    load.until_acknowledged(cluster, 60);
    let mut cut = Vec::new();
    for id in &rest {
        cut.extend(cluster.node_names("controller-").into_iter().map(|controller| (broker(*id), controller)));
        cut.push((broker(*id), broker(last)));
    }
    cut.iter().for_each(|(a, b)| cluster.part(a, b));
    watcher.until(cluster, "one replica is in sync", |view| view.isr == [last]);
    cluster.run_for(Duration::from_secs(1));
    let before = load.history.acknowledged_count();
    let pause = Duration::from_millis(1_000 + cluster.rng.below(4_000));
    cluster.run_for(pause);
    let after = load.history.acknowledged_count();
    assert_eq!(before, after, "rule 3: acknowledged by one replica, where min.insync.replicas asks for two");
    cluster.kill(&broker(last), Crash::PowerLosesAll);
    cut.iter().for_each(|(a, b)| cluster.heal(a, b));
    watcher.until_led_by_another(cluster, &[last]);
    load.until_acknowledged(cluster, 20);
    cluster.restart(&broker(last));
    watcher.until_in_sync(cluster, 3);
    load.until_acknowledged(cluster, 20);
    load.finish(cluster);
}

/// KAFKA-10706: leaders that wrote nothing leave epochs without records behind, which contradict those of the next leaders. A
/// follower that does not let go of them asks its leader for the same truncation for ever. (Rule 4, and that a replica catches up.)
fn idle_elections(cluster: &mut Cluster<'_>) {
    create_assigned(cluster, TOPIC, &[1, 2, 3], &[]);
    let watcher = Watcher::start(cluster, TOPIC);
    watcher.until_in_sync(cluster, 3);
    send(cluster, TOPIC, -1, 5);
    for round in 0..8 {
        let leader = watcher.until(cluster, "somebody leads", |view| view.leader >= 0).leader;
        cluster.kill(&broker(leader), Crash::Process);
        watcher.until_led_by_another(cluster, &[leader]);
        cluster.restart(&broker(leader));
        if round % 2 == 1 {
            watcher.until_in_sync(cluster, 3);
        } else {
            watcher.until(cluster, "two are in sync", |view| view.isr.len() >= 2);
        }
        let pause = Duration::from_millis(cluster.rng.below(300));
        cluster.run_for(pause);
    }
    send(cluster, TOPIC, -1, 3);
    watcher.until_in_sync(cluster, 3);
    replicas_agree(cluster, TOPIC);
    stop(cluster);
}

/// KAFKA-19012 (of Java's producer: a buffer was given back, and filled anew, while it was being sent, so that records of one topic
/// came into another): no record is in a topic that it was not sent to, whatever becomes of the connections, and a request that
/// breaks off leaves nothing.
fn broken_off(cluster: &mut Cluster<'_>) {
    const OTHER: &str = "other";
    let topic = |name| Topic { name, partitions: 1, replicas: 3, acks: -1, configs: &[] };
    let (load, other) = (Load::start_as(cluster, topic(TOPIC), 0..3), Load::start_as(cluster, topic(OTHER), 10..13));
    let watcher = Watcher::start(cluster, TOPIC);
    watcher.until_in_sync(cluster, 3);
    let other_watcher = Watcher::start(cluster, OTHER);
    other_watcher.until_in_sync(cluster, 3);
    for _ in 0..4 {
        let history = cluster.history.clone();
        cluster.client(move |world| async move {
            while !history.stops() {
                let _ = break_off(&world).await;
                world.sleep(Duration::from_millis(3)).await;
            }
        });
    }
    for _ in 0..3 {
        load.until_acknowledged(cluster, 50);
        other.until_acknowledged(cluster, 50);
        let leader = watcher.view().expect("it is led").leader;
        cluster.kill(&broker(leader), Crash::Process);
        watcher.until_led_by_another(cluster, &[leader]);
        cluster.restart(&broker(leader));
        watcher.until_in_sync(cluster, 3);
        other_watcher.until_in_sync(cluster, 3);
    }
    for (name, senders) in [(TOPIC, 0..3), (OTHER, 10..13)] {
        for (offset, value) in read_all(cluster, name) {
            let text = String::from_utf8_lossy(&value).into_owned();
            let sender = text.split(' ').nth(1).and_then(|number| number.parse::<i32>().ok());
            let is_ours = sender.is_some_and(|sender| senders.contains(&sender));
            assert!(is_ours, "rule 1: {name} has at {offset} what was sent elsewhere: {text}");
        }
    }
    other.finish(cluster);
    cluster.history.stop.store(false, std::sync::atomic::Ordering::Relaxed);
    load.finish(cluster);
}

/// Sends a part of a produce request to some broker, and closes the connection.
async fn break_off(world: &World) -> std::io::Result<()> {
    let mut rng = world.rng();
    let mut batch = RecordBatchBuilder::new();
    for number in 0..20 {
        batch.append(Timestamp(0), None, Some(format!("producer 99 record {number} broken off").as_bytes()));
    }
    let records = batch.build().map_err(|error| std::io::Error::other(error.to_string()))?;
    let data = PartitionProduceData { index: 0, records: Some(Records::Bytes(records)), ..Default::default() };
    let topic = TopicProduceData { name: Str::from(TOPIC), partition_data: vec![data], ..Default::default() };
    let request = ProduceRequest { acks: -1, timeout_ms: 3_000, topic_data: vec![topic], ..Default::default() };
    let parts = encode_request(9, 1, Some(Str::from("sim")), &request)
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    let bytes: Vec<u8> = parts
        .iter()
        .flat_map(|part| match part {
            Part::Bytes(bytes) => bytes.to_vec(),
            Part::Outside(_) => Vec::new(),
        })
        .collect();
    let host = broker(1 + rng.below(3) as i32);
    let mut socket = world.timeout(Duration::from_secs(1), world.net.connect(&host, 9092)).await??;
    let sent = 1 + rng.below(bytes.len() as u64 - 1) as usize;
    send_vectored(&mut *socket.writer, &[bytes.get(..sent).unwrap_or_default()]).await?;
    world.sleep(Duration::from_millis(rng.below(10))).await;
    Ok(())
}

/// Jepsen on NATS 2.12.1: one flipped bit in one replica's files, and what all had acknowledged was gone. Here the replica finds the
/// damage when it starts, drops what comes after it, is not in sync before it has everything from the others, and leads then with all
/// of it. (Rules 1, 2 and 12.)
fn flipped_bit(cluster: &mut Cluster<'_>) {
    let topic = Topic { name: TOPIC, partitions: 1, replicas: 3, acks: -1, configs: &[] };
    let load = Load::start(cluster, topic, 3);
    let watcher = Watcher::start(cluster, TOPIC);
    for _ in 0..3 {
        watcher.until_in_sync(cluster, 3);
        load.until_acknowledged(cluster, 60);
        let victim = 1 + cluster.rng.below(3) as i32;
        cluster.kill(&broker(victim), Crash::Process);
        let path = PathBuf::from(format!("/data/{TOPIC}-0/{:020}.log", 0));
        let disk = cluster.disk(&broker(victim));
        let bits = disk.content(&path).expect("the log is there").len() as u64 * 8;
        let bit = cluster.rng.below(bits);
        flip_bit(cluster, &broker(victim), &path, bit);
        cluster.restart(&broker(victim));
        load.until_acknowledged(cluster, 20);
        watcher.until_in_sync(cluster, 3);
        // It alone is left.
        let rest = others(1..=3, &[victim]);
        rest.iter().for_each(|id| cluster.kill(&broker(*id), Crash::Process));
        watcher.until(cluster, "the replica that was damaged leads", |view| view.leader == victim);
        load.until_acknowledged(cluster, 20);
        rest.iter().for_each(|id| cluster.restart(&broker(*id)));
    }
    watcher.until_in_sync(cluster, 3);
    load.finish(cluster);
}
