//! Three brokers that replicate over sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use odradek_common::{ErrorCode, Offset, TopicId, TopicIdPartition};

use super::cluster::{Cluster, LIMIT, batch, entry, idempotent_batch, tp};

/// A follower that lags leaves the ISR soon, yet not because a busy machine let it wait.
const FAST: &str = "replica.lag.time.max.ms=2000\nreplica.fetch.wait.max.ms=200\n";
/// More than the lag that `FAST` allows.
const LONGER_THAN_THE_LAG: Duration = Duration::from_millis(2_300);

async fn three(config: &str, min_insync: &str) -> (Cluster, TopicIdPartition) {
    let mut cluster = Cluster::start(3, config).await;
    let topic = cluster.create_topic("t", &[&[1, 2, 3]], &[("min.insync.replicas", min_insync)]);
    let tp = tp(topic, 0);
    cluster.until_leads(1, tp).await;
    (cluster, tp)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_by_all_is_on_all() {
    let (cluster, tp) = three("", "2").await;
    for n in 0..50 {
        let result = cluster.produced(1, tp, batch(&["value"]), -1).await;
        assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, n), "{:?}", result.message);
    }
    let leader = cluster.manager(1).describe_partition(tp).expect("open");
    assert_eq!(leader.high_watermark.0, 50);
    cluster.until_equal(&[1, 2, 3], tp, 50).await;
    assert_eq!(cluster.isr(tp), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_produces_are_answered_in_order() {
    let (cluster, tp) = three("", "2").await;
    let outcomes: Vec<_> = (0..200).map(|n| cluster.produce(1, tp, idempotent_batch("x", 5, n), -1)).collect();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let result = outcome.wait().await.remove(0);
        assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, n as i64));
    }
    cluster.until_equal(&[1, 2, 3], tp, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_keeps_what_was_acknowledged_and_drops_what_was_not() {
    let (mut cluster, tp) = three(FAST, "1").await;
    for n in 0..10 {
        let result = cluster.produced(1, tp, idempotent_batch("committed", 9, n), -1).await;
        assert_eq!(result.error, ErrorCode::None);
    }
    cluster.until_equal(&[1, 2, 3], tp, 10).await;
    // Broker 1 is cut off from its followers, and appends what nobody else gets.
    cluster.stop_broker(2, false).await;
    cluster.stop_broker(3, false).await;
    for _ in 0..3 {
        let result = cluster.produced(1, tp, batch(&["lost"]), 1).await;
        assert_eq!(result.error, ErrorCode::None);
    }
    cluster.stop_broker(1, false).await;
    cluster.start_broker(2).await;
    cluster.elect(tp, 2, &[2, 3]);
    cluster.start_broker(3).await;
    cluster.until_leads(2, tp).await;
    // A duplicate is known to the new leader.
    let result = cluster.produced(2, tp, idempotent_batch("committed", 9, 9), -1).await;
    assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, 9));
    let result = cluster.produced(2, tp, idempotent_batch("committed", 9, 10), -1).await;
    assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, 10));
    // The old leader comes back, truncates what was lost, and joins.
    cluster.start_broker(1).await;
    cluster.until_equal(&[1, 2, 3], tp, 11).await;
    cluster.until("broker 1 is in sync", || cluster.isr(tp) == [1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successive_leaders_with_records_of_their_own_agree_in_the_end() {
    // KIP-279: each of two brokers has records of epochs that the other has not.
    let (mut cluster, tp) = three(FAST, "1").await;
    cluster.produced(1, tp, batch(&["common"]), -1).await;
    cluster.until_equal(&[1, 2, 3], tp, 1).await;
    cluster.stop_broker(2, false).await;
    cluster.stop_broker(3, false).await;
    for _ in 0..4 {
        cluster.produced(1, tp, batch(&["of 1"]), 1).await;
    }
    cluster.stop_broker(1, false).await;
    // Alone, broker 2 leads in an epoch of its own, and again in another.
    cluster.elect(tp, 2, &[2]);
    cluster.start_broker(2).await;
    cluster.until_leads(2, tp).await;
    for _ in 0..2 {
        cluster.produced(2, tp, batch(&["of 2"]), 1).await;
    }
    cluster.elect(tp, 2, &[2]);
    cluster.produced(2, tp, batch(&["of 2 later"]), 1).await;
    cluster.stop_broker(2, false).await;
    // Broker 1 wins uncleanly, and broker 2 follows it.
    cluster.elect(tp, 1, &[1]);
    cluster.start_broker(1).await;
    cluster.until_leads(1, tp).await;
    cluster.produced(1, tp, batch(&["of 1 at last"]), 1).await;
    cluster.start_broker(2).await;
    cluster.start_broker(3).await;
    cluster.until_equal(&[1, 2, 3], tp, 6).await;
    cluster.until("all are in sync", || cluster.isr(tp) == [1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_isr_shrinks_and_grows_with_its_followers() {
    let (mut cluster, tp) = three(FAST, "2").await;
    cluster.produced(1, tp, batch(&["a"]), -1).await;
    cluster.stop_broker(3, false).await;
    // Committed only once broker 3 has left.
    let result = cluster.produced(1, tp, batch(&["b"]), -1).await;
    assert_eq!(result.error, ErrorCode::None);
    assert_eq!(cluster.isr(tp), [1, 2]);
    cluster.stop_broker(2, false).await;
    // Broker 2 is gone too. Its leaving cannot be told while the controller is away, so nothing more is committed.
    cluster.controller.is_reachable.store(false, Ordering::Release);
    let waits = tokio::spawn(cluster.produce(1, tp, batch(&["c"]), -1).wait());
    cluster.world.sleep(LONGER_THAN_THE_LAG).await;
    assert_eq!(cluster.manager(1).describe_partition(tp).expect("open").high_watermark.0, 2);
    cluster.controller.is_reachable.store(true, Ordering::Release);
    cluster.until("the ISR is the leader alone", || cluster.isr(tp) == [1]).await;
    let refused = cluster.produced(1, tp, batch(&["d"]), -1).await;
    assert_eq!(refused.error, ErrorCode::NotEnoughReplicas);
    // With a follower back, what waited is committed.
    cluster.start_broker(2).await;
    let result = waits.await.expect("no panic").remove(0);
    assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, 2));
    cluster.start_broker(3).await;
    cluster.until("all are in sync", || cluster.isr(tp) == [1, 2, 3]).await;
    cluster.until_equal(&[1, 2, 3], tp, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_records_were_deleted_starts_at_the_leaders_start() {
    let (mut cluster, tp) = three(FAST, "1").await;
    cluster.produced(1, tp, batch(&["a"]), -1).await;
    cluster.until_equal(&[1, 2, 3], tp, 1).await;
    cluster.stop_broker(3, true).await;
    // A member leaves only when there is something that it has not got.
    cluster.produced(1, tp, batch(&["b"]), 1).await;
    cluster.until("the ISR is without broker 3", || cluster.isr(tp) == [1, 2]).await;
    for _ in 0..8 {
        cluster.produced(1, tp, batch(&["b"]), -1).await;
    }
    let impatient = cluster.manager(1).delete_records(vec![(tp, Offset(7))], Duration::from_millis(1)).wait().await;
    assert_eq!(impatient[0].error, ErrorCode::RequestTimedOut, "broker 3 is not fenced, and has not followed");
    let deletion = cluster.manager(1).delete_records(vec![(tp, Offset(8))], Duration::from_secs(20));
    assert!(!deletion.is_done());
    cluster.start_broker(3).await;
    cluster.until("broker 3 is in sync", || cluster.isr(tp) == [1, 2, 3]).await;
    let found = cluster.manager(3).describe_partition(tp).expect("open");
    assert_eq!((found.log_start.0, found.log_end.0), (8, 10));
    let deleted = deletion.wait().await;
    assert_eq!((deleted[0].error, deleted[0].low_watermark.0), (ErrorCode::None, 8));
    cluster
        .until("broker 2 has heard of the deletion", || {
            cluster.manager(2).describe_partition(tp).is_some_and(|found| found.log_start.0 == 8)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_see_only_what_is_committed_and_are_woken_by_it() {
    let (mut cluster, tp) = three("", "1").await;
    cluster.until_equal(&[1, 2, 3], tp, 0).await;
    let wait = tokio::spawn(cluster.fetch(1, vec![entry(tp, 0)], 10_000, 1).wait());
    cluster.produced(1, tp, batch(&["a"]), 1).await;
    let fetched = cluster.world.timeout(LIMIT, wait).await.expect("woken").expect("no panic");
    assert_eq!(fetched[0].high_watermark.0, 1);
    cluster.stop_broker(2, false).await;
    cluster.produced(1, tp, batch(&["b"]), 1).await;
    let fetched = cluster.fetch(1, vec![entry(tp, 1)], 50, 1).wait().await;
    assert!(fetched[0].is_empty(), "broker 2 is in the ISR and has not got it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_while_fetches_wait_is_replicated_at_once() {
    let (mut cluster, first) = three("replica.fetch.wait.max.ms=25000", "2").await;
    cluster.produced(1, first, batch(&["a"]), -1).await;
    // All followers now hold a poll of 25 seconds.
    cluster.until_equal(&[1], first, 1).await;
    let begin = Instant::now();
    let topics: Vec<TopicId> = (0..5)
        .map(|n| cluster.create_topic(&format!("topic-{n}"), &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]], &[]))
        .collect();
    for topic in topics {
        for (partition, leader) in [(0, 1), (1, 2), (2, 3)] {
            cluster.until_leads(leader, tp(topic, partition)).await;
            let result = cluster.produced(leader, tp(topic, partition), batch(&["x"]), -1).await;
            assert_eq!(result.error, ErrorCode::None);
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_topics_replicate_too() {
    let mut cluster = Cluster::start(3, "").await;
    let topic = cluster.create_topic("t", &[&[1, 2, 3]], &[("flush.messages", "1"), ("min.insync.replicas", "3")]);
    let tp = tp(topic, 0);
    cluster.until_leads(1, tp).await;
    for n in 0..20 {
        let result = cluster.produced(1, tp, batch(&["a"]), -1).await;
        assert_eq!((result.error, result.base_offset.0), (ErrorCode::None, n));
    }
    cluster.until_equal(&[1, 2, 3], tp, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leaves_and_comes_back_starts_anew() {
    let (cluster, tp) = three(FAST, "1").await;
    for n in 0..5 {
        assert_eq!(cluster.produced(1, tp, batch(&["a"]), -1).await.base_offset.0, n);
    }
    cluster.until_equal(&[1, 2, 3], tp, 5).await;
    // As fast as metadata comes: the former log may not have been moved out of the way yet.
    for _ in 0..10 {
        cluster.assign(tp, &[1, 2], &[1, 2]);
        cluster.assign(tp, &[1, 2, 3], &[1, 2]);
    }
    cluster.until("broker 3 is in sync again", || cluster.isr(tp) == [1, 2, 3]).await;
    cluster.until_equal(&[1, 2, 3], tp, 5).await;
    assert_eq!(cluster.produced(1, tp, batch(&["b"]), -1).await.base_offset.0, 5);
    cluster.until_equal(&[1, 2, 3], tp, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_replicas_are_fetched_at_the_rate_that_is_set_and_members_of_the_isr_at_any() {
    let mut cluster = Cluster::start(3, "replica.fetch.max.bytes=1024\nreplica.fetch.wait.max.ms=50").await;
    for (side, broker, lists) in [("leader", 1, "0:1"), ("follower", 3, "0:2,0:3")] {
        let replicas = format!("{side}.replication.throttled.replicas");
        let rate = format!("{side}.replication.throttled.rate");
        // At this rate the records below would take twenty times as long as the test waits for them.
        cluster.set_broker_config(broker, &rate, "100");
        let topic = cluster.create_topic(side, &[&[1, 2]], &[(&replicas, lists), ("min.insync.replicas", "2")]);
        let tp = tp(topic, 0);
        cluster.until_leads(1, tp).await;
        let value = "x".repeat(1_000);
        for _ in 0..25 {
            let result = cluster.produced(1, tp, batch(&[&value]), -1).await;
            assert_eq!(result.error, ErrorCode::None, "broker 2 is in sync");
        }
        cluster.set_broker_config(broker, &rate, "10000");
        let begin = Instant::now();
        cluster.assign(tp, &[1, 2, 3], &[1, 2]);
        cluster.until("broker 3 is in sync", || cluster.isr(tp) == [1, 2, 3]).await;
        // Some 26 kB, of which a second's worth may be saved up.
        assert!(begin.elapsed() > Duration::from_millis(1_200), "{side}: {:?}", begin.elapsed());
        cluster.until_equal(&[1, 2, 3], tp, 25).await;
    }
}
