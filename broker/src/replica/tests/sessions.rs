//! Fetch sessions on the leader: what is read, what wakes, and what is told without waking.

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::AppendKind;
use odradek_broker_core::fetch_session::Slot;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, Offset, TopicId, TopicIdPartition};

use super::super::{FetchEntry, FetchParams, Outcome, Reader, SessionResult, SessionWatch};
use super::cluster::{Cluster, LIMIT, batch, entry, params, tp};

async fn led_by_one(partitions: i32) -> (Cluster, TopicId) {
    let mut cluster = Cluster::start(1, "").await;
    let topic = cluster.create_topic("t", &vec![&[1][..]; partitions as usize], &[]);
    for partition in 0..partitions {
        cluster.until_leads(1, tp(topic, partition)).await;
    }
    (cluster, topic)
}

/// The next request of a session, which names `changed`.
fn next(
    cluster: &Cluster,
    watch: &SessionWatch,
    params: FetchParams,
    changed: Vec<(u64, FetchEntry)>,
) -> Outcome<Vec<SessionResult>> {
    let changed = changed.into_iter().map(|(slot, entry)| (Slot(slot), entry)).collect();
    cluster.manager(1).fetch_session(params, watch.clone(), changed, &[])
}

fn slots(results: &[SessionResult]) -> Vec<u64> {
    results.iter().map(|(slot, _, _)| slot.0).collect()
}

async fn woken(cluster: &Cluster, outcome: Outcome<Vec<SessionResult>>) -> Vec<SessionResult> {
    cluster.world.timeout(LIMIT, outcome.wait()).await.expect("woken long before its time is up")
}

const LONG_MS: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_thousand_partitions_the_one_with_news_is_read() {
    let (cluster, topic) = led_by_one(5).await;
    let watch = SessionWatch::default();
    // The same four idle partitions again and again: what counts is how many of a session are read.
    let all = (0..5_000).map(|slot| (slot, entry(tp(topic, if slot == 7 { 4 } else { (slot % 4) as i32 }), 0)));
    let all = all.collect();
    assert_eq!(next(&cluster, &watch, params(0, 1), all).wait().await.len(), 5_000);
    assert_eq!(next(&cluster, &watch, params(0, 1), vec![]).wait().await.len(), 0);
    let waiting = next(&cluster, &watch, params(LONG_MS, 1), vec![]);
    assert!(!waiting.is_done());
    let waiting = tokio::spawn(waiting.wait());
    cluster.produced(1, tp(topic, 4), batch(&["a"]), 1).await;
    let read = cluster.world.timeout(LIMIT, waiting).await.expect("woken").expect("no panic");
    assert_eq!(slots(&read), [7]);
    assert!(!read[0].2.is_empty());
    // It has more to tell until the reader moves on; then it is idle, too.
    assert_eq!(slots(&next(&cluster, &watch, params(0, 1), vec![]).wait().await), [7]);
    let moved = vec![(7, entry(tp(topic, 4), 1))];
    assert_eq!(slots(&next(&cluster, &watch, params(0, 1), moved).wait().await), [7]);
    assert_eq!(next(&cluster, &watch, params(0, 1), vec![]).wait().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_got_records_comes_last_when_an_answer_is_full() {
    let (cluster, topic) = led_by_one(3).await;
    let records = batch(&["0123456789"]);
    for partition in 0..3 {
        for _ in 0..3 {
            cluster.produced(1, tp(topic, partition), records.clone(), 1).await;
        }
    }
    let watch = SessionWatch::default();
    let params = FetchParams { bytes_max: records.len(), ..params(0, 1) };
    let mut changed: Vec<_> = (0..3).map(|slot| (slot, entry(tp(topic, slot as i32), 0))).collect();
    let mut offsets = [0; 3];
    let mut order = Vec::new();
    for _ in 0..9 {
        let read = next(&cluster, &watch, params.clone(), std::mem::take(&mut changed)).wait().await;
        let served: Vec<_> = read.iter().filter(|(_, _, result)| !result.is_empty()).collect();
        assert_eq!(served.len(), 1);
        let slot = served[0].0.0;
        offsets[slot as usize] += 1;
        order.push(slot);
        changed.push((slot, entry(tp(topic, slot as i32), offsets[slot as usize])));
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_news_is_told_with_the_next_answer_and_a_lost_partition_at_once() {
    let (cluster, topic) = led_by_one(2).await;
    for _ in 0..4 {
        cluster.produced(1, tp(topic, 0), batch(&["a"]), 1).await;
    }
    let watch = SessionWatch::default();
    let all = vec![(0, entry(tp(topic, 0), 4)), (1, entry(tp(topic, 1), 0))];
    assert_eq!(next(&cluster, &watch, params(0, 1), all).wait().await.len(), 2);
    assert_eq!(next(&cluster, &watch, params(0, 1), vec![]).wait().await.len(), 0);
    let deleted = cluster.manager(1).delete_records(vec![(tp(topic, 0), Offset(3))], Duration::ZERO).wait().await;
    assert_eq!((deleted[0].error, deleted[0].low_watermark), (ErrorCode::None, Offset(3)));
    let read = next(&cluster, &watch, params(0, 1), vec![]).wait().await;
    assert_eq!(read.iter().map(|(slot, _, result)| (slot.0, result.log_start.0)).collect::<Vec<_>>(), [(0, 3)]);
    // Forgotten partitions are silent.
    let manager = cluster.manager(1);
    let waiting = manager.fetch_session(params(LONG_MS, 1), watch.clone(), vec![], &[Slot(0)]);
    cluster.produced(1, tp(topic, 0), batch(&["a"]), 1).await;
    let waiting = tokio::spawn(waiting.wait());
    cluster.delete_topic(topic);
    let read = cluster.world.timeout(LIMIT, waiting).await.expect("woken").expect("no panic");
    assert_eq!(slots(&read), [1]);
    assert_eq!(read[0].2.error, ErrorCode::UnknownTopicOrPartition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_hears_of_the_high_watermark_later_and_of_another_epoch_at_once() {
    let mut cluster = Cluster::start(1, "").await;
    // Broker 2 does not run: this test speaks for it.
    let topic = cluster.create_topic("t", &[&[1, 2]], &[]);
    let tp = tp(topic, 0);
    cluster.until_leads(1, tp).await;
    let params = |wait_ms| FetchParams {
        replica: Some((BrokerId(2), BrokerEpoch::NONE)),
        reader: Reader::Follower,
        ..params(wait_ms, 1)
    };
    let watch = SessionWatch::default();
    let at =
        |offset| vec![(0, FetchEntry { log_start: Offset(0), current_leader_epoch: 0.into(), ..entry(tp, offset) })];
    next(&cluster, &watch, params(0), at(0)).wait().await;
    let waiting = next(&cluster, &watch, params(LONG_MS), vec![]);
    cluster.produced(1, tp, batch(&["a"]), 1).await;
    assert_eq!(woken(&cluster, waiting).await[0].2.high_watermark, Offset(0));
    // Its position moves the high watermark, of which this answer does not know yet.
    let read = next(&cluster, &watch, params(0), at(1)).wait().await;
    assert_eq!(read[0].2.high_watermark, Offset(0));
    let read = next(&cluster, &watch, params(0), vec![]).wait().await;
    assert_eq!(read[0].2.high_watermark, Offset(1));
    assert!(next(&cluster, &watch, params(0), vec![]).wait().await.is_empty());
    // A coordinator's append is as good as a client's.
    let waiting = next(&cluster, &watch, params(LONG_MS), vec![]);
    assert!(!waiting.is_done());
    let appended = cluster.manager(1).append_as_coordinator(tp, 0.into(), &batch(&["b"]), AppendKind::Records);
    assert_eq!(appended, Ok(Offset(1)));
    assert!(!woken(&cluster, waiting).await[0].2.is_empty());
    // Outside of the ISR each of its fetches counts.
    cluster.elect(tp, 1, &[1]);
    let read = next(&cluster, &watch, params(LONG_MS), vec![]);
    assert_eq!(woken(&cluster, read).await[0].2.error, ErrorCode::FencedLeaderEpoch);
    let now = vec![(0, FetchEntry { log_start: Offset(0), current_leader_epoch: 1.into(), ..entry(tp, 1) })];
    for changed in [now, vec![], vec![]] {
        assert_eq!(slots(&next(&cluster, &watch, params(0), changed).wait().await), [0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_append_is_missed() {
    let (cluster, topic) = led_by_one(4).await;
    let (cluster, watch) = (Arc::new(cluster), SessionWatch::default());
    const APPENDS: i64 = 400;
    let producer = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            for number in 0..APPENDS {
                cluster.produced(1, tp(topic, (number % 4) as i32), batch(&["a"]), 1).await;
                if number % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let mut offsets = [0; 4];
    let at = |partition: u64, offset| (partition, entry(tp(topic, partition as i32), offset));
    let mut changed: Vec<_> = (0..4).map(|partition| at(partition, 0)).collect();
    while offsets.iter().sum::<i64>() < APPENDS {
        let outcome = next(&cluster, &watch, params(LONG_MS, 1), std::mem::take(&mut changed));
        for (slot, _, result) in woken(&cluster, outcome).await {
            let slot = slot.0;
            let end = result.high_watermark.0;
            if !result.is_empty() && end > offsets[slot as usize] {
                offsets[slot as usize] = end;
                changed.push(at(slot, end));
            }
        }
    }
    producer.await.expect("no panic");
    assert_eq!(offsets, [APPENDS / 4; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_leaves_nothing_behind() {
    let (cluster, topic) = led_by_one(1).await;
    let tp: TopicIdPartition = tp(topic, 0);
    let partition = cluster.manager(1).partition(tp).expect("open");
    let watch = SessionWatch::default();
    next(&cluster, &watch, params(0, 1), vec![(0, entry(tp, 0))]).wait().await;
    assert_eq!(partition.watcher_count(), 1);
    drop(next(&cluster, &watch, params(LONG_MS, 1), vec![]));
    drop(watch);
    assert_eq!(partition.watcher_count(), 0);
}
