//! Flush policies: who waits for the disk, by how many syncs, and what a failure, a change of role or config, or a power
//! cut beside a round does.

use std::io::Error;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::mem_fs::{Crash, MemFs, Operation};
use odradek_common::rng::SplitMix64;
use odradek_common::{ErrorCode, Offset, TopicIdPartition};

use super::super::{AppendResult, Outcome};
use super::cluster::{Cluster, LIMIT, batch, entry, idempotent_batch, tp};
use super::gate::GateFs;

const DURABLE: &[(&str, &str)] = &[("flush.messages", "1")];

/// Brokers of one log directory each that counts: all replicas of a topic `t` are in the same of the two, or not.
async fn cluster(
    replicas: &[&[i32]],
    configs: &[(&str, &str)],
    config: &str,
) -> (Cluster, MemFs, GateFs, Vec<TopicIdPartition>) {
    let fs = MemFs::new();
    let gate = GateFs::new(&fs);
    let brokers = replicas.iter().flat_map(|of| of.iter().copied()).max().unwrap_or(1);
    let mut cluster = Cluster::start_on(Arc::new(gate.clone()), brokers, config).await;
    let topic = cluster.create_topic("t", replicas, configs);
    let all: Vec<_> = (0..replicas.len()).map(|index| tp(topic, index as i32)).collect();
    for (partition, of) in all.iter().zip(replicas) {
        cluster.until_leads(of[0], *partition).await;
    }
    (cluster, fs, gate, all)
}

fn in_background(outcome: Outcome<Vec<AppendResult>>) -> tokio::task::JoinHandle<Vec<AppendResult>> {
    assert!(!outcome.is_done(), "it waits for the disk");
    tokio::spawn(outcome.wait())
}

async fn end(cluster: &Cluster, waiting: tokio::task::JoinHandle<Vec<AppendResult>>) -> AppendResult {
    cluster.world.timeout(LIMIT, waiting).await.expect("answered").expect("no panic").remove(0)
}

fn dir_of(cluster: &Cluster, broker: i32, partition: TopicIdPartition) -> String {
    cluster.manager(broker).describe_partition(partition).expect("open").log_dir.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_acks_it_is_answered_when_it_is_on_disk_and_many_share_a_sync() {
    let (cluster, _, gate, all) = cluster(&[&[1]], DURABLE, "").await;
    let partition = all[0];
    assert_eq!(cluster.produced(1, partition, batch(&["first"]), 1).await.error, ErrorCode::None);
    gate.take_synced(".log");
    gate.close("/1");
    let mut waiting = vec![in_background(cluster.produce(1, partition, batch(&["a"]), 1))];
    cluster.until("a sync waits", || gate.waiting() == 1).await;
    waiting.extend(
        (0..49).map(|n| in_background(cluster.produce(1, partition, batch(&["b"]), if n % 2 == 0 { 1 } else { -1 }))),
    );
    let Outcome::Done(read) = cluster.fetch(1, vec![entry(partition, 0)], 0, 1) else { panic!("at once") };
    assert_eq!(read[0].high_watermark, Offset(1), "nothing counts before it is on disk");
    assert!(waiting.iter().all(|task| !task.is_finished()));
    gate.open_gate();
    for (at, waiting) in waiting.into_iter().enumerate() {
        let result = end(&cluster, waiting).await;
        assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(at as i64 + 1)));
    }
    assert_eq!(gate.take_synced(".log").len(), 2, "one for the first, one for all that came meanwhile");
    // A duplicate of what is on disk does not wait.
    let record = idempotent_batch("x", 7, 0);
    assert_eq!(cluster.produced(1, partition, record.clone(), 1).await.base_offset, Offset(51));
    let Outcome::Done(again) = cluster.produce(1, partition, record, 1) else { panic!("it is on disk") };
    assert_eq!(again[0].base_offset, Offset(51));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_syncs_each_log_of_its_directory_once() {
    let (cluster, _, gate, all) = cluster(&[&[1][..]; 8], DURABLE, "").await;
    for partition in &all {
        assert_eq!(cluster.produced(1, *partition, batch(&["first"]), 1).await.error, ErrorCode::None);
    }
    let (here, there): (Vec<_>, Vec<_>) = all.iter().copied().partition(|id| dir_of(&cluster, 1, *id) == "/1/a");
    assert_eq!((here.len(), there.len()), (4, 4));
    gate.take_synced(".log");
    gate.close("/1/a");
    let mut waiting = vec![in_background(cluster.produce(1, here[0], batch(&["a"]), -1))];
    cluster.until("a sync waits", || gate.waiting() == 1).await;
    for _ in 0..5 {
        waiting.extend(here.iter().map(|id| in_background(cluster.produce(1, *id, batch(&["b"]), -1))));
    }
    // The other directory has rounds of its own.
    for id in &there {
        assert_eq!(cluster.produced(1, *id, batch(&["c"]), -1).await.error, ErrorCode::None);
    }
    gate.take_synced(".log");
    gate.open_gate();
    for waiting in waiting {
        assert_eq!(end(&cluster, waiting).await.error, ErrorCode::None);
    }
    assert_eq!(gate.take_synced(".log").len(), 1 + 4, "the first one, and a round of all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_takes_its_directory_offline_and_is_told_to_all_that_wait() {
    let (cluster, fs, gate, all) = cluster(&[&[1][..]; 4], DURABLE, "").await;
    for partition in &all {
        assert_eq!(cluster.produced(1, *partition, batch(&["first"]), 1).await.error, ErrorCode::None);
    }
    let (bad, good): (Vec<_>, Vec<_>) = all.iter().copied().partition(|id| dir_of(&cluster, 1, *id) == "/1/a");
    gate.close("/1/a");
    let waiting: Vec<_> = bad
        .iter()
        .flat_map(|id| [1, -1].map(|acks| in_background(cluster.produce(1, *id, batch(&["lost"]), acks))))
        .collect();
    fs.set_fault(Some(Box::new(|operation, path| {
        (operation == Operation::Sync && path.starts_with("/1/a")).then(|| Error::other("the disk is dying"))
    })));
    gate.open_gate();
    for waiting in waiting {
        assert_eq!(end(&cluster, waiting).await.error, ErrorCode::KafkaStorageError);
    }
    for id in &bad {
        assert_eq!(cluster.produced(1, *id, batch(&["x"]), 1).await.error, ErrorCode::KafkaStorageError);
    }
    for id in &good {
        assert_eq!(cluster.produced(1, *id, batch(&["on"]), 1).await.error, ErrorCode::None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_config_leader_or_end_of_the_topic_beside_a_round() {
    let (mut cluster, _, gate, all) = cluster(&[&[1], &[1, 2], &[1]], DURABLE, "replica.fetch.wait.max.ms=50\n").await;
    for partition in &all {
        assert_eq!(cluster.produced(1, *partition, batch(&["first"]), 1).await.error, ErrorCode::None);
    }
    gate.close("/1");
    let waiting: Vec<_> = all
        .iter()
        .flat_map(|id| [1, -1].map(|acks| in_background(cluster.produce(1, *id, batch(&["x"]), acks))))
        .collect();
    cluster.until("syncs wait", || gate.waiting() > 0).await;
    // Another leader for one of them.
    cluster.elect(all[1], 2, &[1, 2]);
    let mut waiting = waiting.into_iter();
    let mut of_partition = || [waiting.next().expect("two each"), waiting.next().expect("two each")];
    let (first, moved, last) = (of_partition(), of_partition(), of_partition());
    for waiting in moved {
        assert_eq!(end(&cluster, waiting).await.error, ErrorCode::NotLeaderOrFollower);
    }
    // No policy any more: nothing waits for the disk.
    cluster.set_topic_config("t", "flush.messages", None);
    for (waiting, offset) in first.into_iter().zip([1, 2]) {
        let result = end(&cluster, waiting).await;
        assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(offset)));
    }
    last[0].abort();
    let Outcome::Done(results) = cluster.produce(1, all[0], batch(&["y"]), -1) else { panic!("no policy") };
    assert_eq!(results[0].error, ErrorCode::None);
    // And a policy again: what was written without it is flushed, and then counts as all else.
    cluster.set_topic_config("t", "flush.messages", Some("1"));
    let waiting = in_background(cluster.produce(1, all[2], batch(&["z"]), 1));
    cluster.delete_topic(all[0].topic_id);
    assert_eq!(end(&cluster, waiting).await.error, ErrorCode::UnknownTopicOrPartition);
    gate.open_gate();
    let again = cluster.create_topic("t", &[&[1]], DURABLE);
    cluster.until_leads(1, tp(again, 0)).await;
    let result = cluster.produced(1, tp(again, 0), batch(&["again"]), 1).await;
    assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_says_that_it_has_what_it_has_flushed() {
    let (cluster, fs, gate, all) = cluster(&[&[1, 2]], DURABLE, "replica.fetch.wait.max.ms=50\n").await;
    let partition = all[0];
    assert_eq!(cluster.produced(1, partition, batch(&["first"]), -1).await.error, ErrorCode::None);
    gate.close("/2");
    let waiting = in_background(cluster.produce(1, partition, batch(&["second"]), -1));
    let follower = cluster.manager(2);
    cluster
        .until("the follower has it", || {
            follower.describe_partition(partition).is_some_and(|found| found.log_end.0 == 2)
        })
        .await;
    // The leader alone is enough for acks=1, and does not wait for the follower's disk.
    assert_eq!(cluster.produced(1, partition, batch(&["third"]), 1).await.error, ErrorCode::None);
    let leader = cluster.manager(1).describe_partition(partition).expect("open");
    assert_eq!(leader.high_watermark, Offset(1));
    assert!(!waiting.is_finished());
    gate.open_gate();
    assert_eq!(end(&cluster, waiting).await.error, ErrorCode::None);
    cluster.until_equal(&[1, 2], partition, 3).await;
    // One whose disk fails says nothing.
    fs.set_fault(Some(Box::new(|operation, path| {
        (operation == Operation::Sync && path.starts_with("/2")).then(|| Error::other("the disk is dying"))
    })));
    let outcome = cluster.manager(1).append(
        vec![super::super::AppendEntry::new(partition, batch(&["fourth"]))],
        -1,
        Duration::from_millis(500),
    );
    assert_eq!(outcome.wait().await[0].error, ErrorCode::RequestTimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lose_power_and_nothing_acknowledged_is_lost() {
    let (mut cluster, fs, _, all) = cluster(&[&[1, 2, 3], &[1]], DURABLE, "replica.fetch.wait.max.ms=50\n").await;
    for (round, crash) in [Crash::PowerLosesAll, Crash::PowerTears].into_iter().enumerate() {
        let before = round as i64 * 10;
        for n in 0..10 {
            for (partition, acks) in all.iter().zip([-1, 1]) {
                let result = cluster.produced(1, *partition, batch(&["kept"]), acks).await;
                assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(before + n)));
            }
        }
        for broker in 1..=3 {
            cluster.stop_broker(broker, false).await;
        }
        fs.crash(crash, &mut SplitMix64::new(7));
        for broker in 1..=3 {
            cluster.start_broker(broker).await;
        }
        for partition in &all {
            cluster.until_leads(1, *partition).await;
            let found = cluster.manager(1).describe_partition(*partition).expect("open");
            assert_eq!(found.log_end, Offset(before + 10), "{crash:?}");
        }
        cluster.until_equal(&[1, 2, 3], all[0], before + 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_ms_alone_flushes_in_time_and_nobody_waits_for_it() {
    let (cluster, _, gate, all) = cluster(&[&[1]], &[("flush.ms", "40")], "").await;
    gate.take_synced(".log");
    for _ in 0..3 {
        let Outcome::Done(results) = cluster.produce(1, all[0], batch(&["a"]), -1) else { panic!("by the page cache") };
        assert_eq!(results[0].error, ErrorCode::None);
        cluster.until("it is flushed", || gate.take_synced(".log").len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_so_many_messages_are_flushed_and_nobody_waits_for_it() {
    let (cluster, _, gate, all) = cluster(&[&[1]], &[("flush.messages", "3")], "").await;
    gate.take_synced(".log");
    for _ in 0..2 {
        let Outcome::Done(_) = cluster.produce(1, all[0], batch(&["a"]), -1) else { panic!("by the page cache") };
    }
    assert!(gate.take_synced(".log").is_empty());
    let Outcome::Done(_) = cluster.produce(1, all[0], batch(&["a"]), 1) else { panic!("by the page cache") };
    cluster.until("three are flushed", || gate.take_synced(".log").len() == 1).await;
}
