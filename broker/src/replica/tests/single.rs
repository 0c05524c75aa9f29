//! One replica manager: appends, waits, lookups, metadata.

use std::sync::Arc;
use std::time::Duration;

use odradek_common::{ErrorCode, LeaderEpoch, Offset, TopicId};

use super::super::{AppendEntry, EpochEnd, FetchEntry, FetchResult, Isolation, Outcome, Reader, timestamp};
use super::cluster::{Cluster, LIMIT, batch, entry, idempotent_batch, params, read, tp};

const CLIENT: Reader = Reader::Client(Isolation::ReadUncommitted);

async fn one(partitions: i32) -> (Cluster, TopicId) {
    let mut cluster = Cluster::start(1, "").await;
    let topic = cluster.create_topic("t", &vec![&[1][..]; partitions as usize], &[]);
    for partition in 0..partitions {
        cluster.until_leads(1, tp(topic, partition)).await;
    }
    (cluster, topic)
}

fn done<T>(outcome: Outcome<Vec<T>>) -> Vec<T> {
    match outcome {
        Outcome::Done(values) => values,
        Outcome::Waiting(_) => panic!("the answer was to be here at once"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_to_one_replica_is_done_at_once_and_can_be_read() {
    let (cluster, topic) = one(2).await;
    let records = batch(&["a", "b"]);
    for acks in [-1, 1, 0] {
        let result = done(cluster.produce(1, tp(topic, 0), records.clone(), acks)).remove(0);
        assert_eq!(result.error, ErrorCode::None, "{:?}", result.message);
    }
    let result = done(cluster.produce(1, tp(topic, 0), records.clone(), -1)).remove(0);
    assert_eq!((result.base_offset, result.next_offset, result.log_start), (Offset(6), Offset(8), Offset(0)));
    let fetched = done(cluster.fetch(1, vec![entry(tp(topic, 0), 0), entry(tp(topic, 1), 0)], 0, 1));
    assert_eq!((fetched[0].high_watermark, fetched[0].last_stable_offset), (Offset(8), Offset(8)));
    assert_eq!(read(&fetched[0]).len(), records.len() * 4);
    assert!(fetched[1].is_empty());
    // From the middle of the third batch: the whole batch comes.
    let fetched = done(cluster.fetch(1, vec![entry(tp(topic, 0), 5)], 0, 1));
    assert_eq!(fetched[0].len(), records.len() * 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_appends_are_refused_one_by_one() {
    let (cluster, topic) = one(1).await;
    let mut corrupt = batch(&["x"]).to_vec();
    *corrupt.last_mut().expect("not empty") ^= 1;
    let entries = vec![
        AppendEntry::new(tp(topic, 0), corrupt.into()),
        AppendEntry::new(tp(topic, 0), batch(&["good"])),
        AppendEntry::new(tp(topic, 7), batch(&["nowhere"])),
        AppendEntry::new(tp(TopicId::from_random([99; 16]), 0), batch(&["nowhere"])),
        AppendEntry::new(tp(topic, 0), bytes::Bytes::from_static(b"short")),
    ];
    let results = done(cluster.manager(1).append(entries.clone(), -1, Duration::from_secs(1)));
    let errors: Vec<_> = results.iter().map(|result| result.error).collect();
    let expected =
        [ErrorCode::CorruptMessage, ErrorCode::None, ErrorCode::UnknownTopicOrPartition, ErrorCode::UnknownTopicId];
    assert_eq!(errors[..4], expected);
    assert!(errors[4].is_error());
    assert_eq!(results[1].base_offset, Offset(0), "nothing of the corrupt batch is stored");
    let results = done(cluster.manager(1).append(entries, 2, Duration::from_secs(1)));
    assert!(results.iter().all(|result| result.error == ErrorCode::InvalidRequiredAcks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_gets_its_first_offset() {
    let (cluster, topic) = one(1).await;
    let tp = tp(topic, 0);
    for (sequence, expected) in [(0, Ok(0)), (1, Ok(1)), (0, Ok(0)), (1, Ok(1)), (5, Err(()))] {
        let result = cluster.produced(1, tp, idempotent_batch("x", 7, sequence), -1).await;
        match expected {
            Ok(offset) => assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(offset))),
            Err(()) => assert_eq!(result.error, ErrorCode::OutOfOrderSequenceNumber),
        }
    }
    assert_eq!(cluster.manager(1).describe_partition(tp).expect("open").log_end, Offset(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_waits_for_enough_bytes_or_its_time() {
    let (cluster, topic) = one(2).await;
    let records = batch(&["0123456789"]);
    let entries = || vec![entry(tp(topic, 0), 0), entry(tp(topic, 1), 0)];
    // Nothing comes: the time runs out.
    let outcome = cluster.fetch(1, entries(), 20, 1);
    assert!(!outcome.is_done());
    assert!(outcome.wait().await.iter().all(FetchResult::is_empty));
    // Enough in sum over two partitions.
    let wait = cluster.fetch(1, entries(), 10_000, records.len() as u64 * 2);
    let wait = tokio::spawn(wait.wait());
    cluster.produced(1, tp(topic, 0), records.clone(), 1).await;
    cluster.produced(1, tp(topic, 1), records.clone(), 1).await;
    let fetched = cluster.world.timeout(LIMIT, wait).await.expect("woken").expect("no panic");
    assert_eq!(fetched.iter().map(FetchResult::len).sum::<usize>(), records.len() * 2);
    // An error is told at once.
    let missing = vec![entry(tp(topic, 0), 1), entry(tp(topic, 9), 0)];
    let fetched = done(cluster.fetch(1, missing, 10_000, 1));
    assert_eq!(fetched[1].error, ErrorCode::UnknownTopicOrPartition);
    let fetched = done(cluster.fetch(1, vec![entry(tp(topic, 0), 99)], 10_000, 1));
    assert_eq!(fetched[0].error, ErrorCode::OffsetOutOfRange);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_ends_waits_and_a_topic_of_the_same_name_starts_empty() {
    let (mut cluster, topic) = one(1).await;
    cluster.produced(1, tp(topic, 0), batch(&["a"]), 1).await;
    let wait = tokio::spawn(cluster.fetch(1, vec![entry(tp(topic, 0), 1)], 60_000, 1).wait());
    tokio::task::yield_now().await;
    cluster.delete_topic(topic);
    let fetched = cluster.world.timeout(LIMIT, wait).await.expect("woken").expect("no panic");
    assert!(fetched[0].error.is_error());
    let again = cluster.create_topic("t", &[&[1]], &[]);
    cluster.until_leads(1, tp(again, 0)).await;
    let found = cluster.manager(1).describe_partition(tp(again, 0)).expect("open");
    assert_eq!(found.log_end, Offset(0));
    assert_eq!(cluster.manager(1).describe_partition(tp(topic, 0)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_are_bounded_and_the_first_batch_always_fits() {
    let (cluster, topic) = one(2).await;
    let records = batch(&["0123456789"]);
    for partition in 0..2 {
        for _ in 0..3 {
            cluster.produced(1, tp(topic, partition), records.clone(), 1).await;
        }
    }
    let sizes = |bytes_max: usize, partition_max: usize, is_bytes_max_hard| {
        let params = super::super::FetchParams { bytes_max, is_bytes_max_hard, ..params(0, 1) };
        let entries =
            (0..2).map(|p| FetchEntry { bytes_max: partition_max, ..entry(tp(topic, p), 0) }).collect::<Vec<_>>();
        let results = done(cluster.manager(1).fetch(params, entries));
        results.iter().map(FetchResult::len).collect::<Vec<_>>()
    };
    let len = records.len();
    assert_eq!(sizes(1 << 20, 1 << 20, false), [len * 3, len * 3]);
    assert_eq!(sizes(1, 1 << 20, false), [len, 0]);
    assert_eq!(sizes(1, 1 << 20, true), [0, 0]);
    assert_eq!(sizes(1 << 20, 1, false), [len, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_found_by_time_and_by_epoch() {
    let (cluster, topic) = one(1).await;
    let tp = tp(topic, 0);
    cluster.produced(1, tp, batch(&["a", "b"]), 1).await;
    let manager = cluster.manager(1);
    let list = |epoch: i32, wanted| {
        let found = manager.list_offset(tp, CLIENT, LeaderEpoch(epoch), wanted);
        found.map(|found| (found.timestamp.0, found.offset.0, found.leader_epoch.0)).map_err(|error| error.code)
    };
    assert_eq!(list(-1, timestamp::LATEST), Ok((-1, 2, 0)));
    assert_eq!(list(-1, timestamp::EARLIEST), Ok((-1, 0, 0)));
    assert_eq!(list(0, timestamp::MAX), Ok((1_700_000_000_000, 0, 0)));
    assert_eq!(list(-1, 1_600_000_000_000), Ok((1_700_000_000_000, 0, 0)));
    assert_eq!(list(-1, 1_800_000_000_000), Ok((-1, -1, -1)));
    assert_eq!(list(-1, timestamp::LATEST_TIERED), Ok((-1, -1, -1)));
    assert_eq!(list(1, timestamp::LATEST), Err(ErrorCode::UnknownLeaderEpoch));
    let end = manager.epoch_end_offset(tp, LeaderEpoch(0), LeaderEpoch(0));
    assert_eq!(end, Ok(EpochEnd { epoch: LeaderEpoch(0), end: Offset(2) }));
    cluster.elect(tp, 1, &[1]);
    assert_eq!(list(0, timestamp::LATEST), Err(ErrorCode::FencedLeaderEpoch));
    let deleted = manager.delete_records(vec![(tp, Offset(1)), (tp, Offset(3)), (tp, Offset(-2))], Duration::ZERO);
    let deleted: Vec<_> = deleted.wait().await.iter().map(|one| (one.error, one.low_watermark.0)).collect();
    let out_of_range = (ErrorCode::OffsetOutOfRange, -1);
    assert_eq!(deleted, [(ErrorCode::None, 1), out_of_range, out_of_range]);
    assert_eq!(list(1, timestamp::EARLIEST), Ok((-1, 1, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_back_after_clean_and_unclean_ends() {
    let (mut cluster, topic) = one(1).await;
    let tp = tp(topic, 0);
    cluster.produced(1, tp, batch(&["a", "b"]), -1).await;
    for clean in [true, false] {
        let before = cluster.log_bytes(1, tp);
        cluster.stop_broker(1, clean).await;
        cluster.start_broker(1).await;
        cluster.until_leads(1, tp).await;
        assert_eq!(cluster.log_bytes(1, tp), before);
        let result = cluster.produced(1, tp, batch(&["c"]), -1).await;
        assert_eq!(result.error, ErrorCode::None);
    }
    let found = cluster.manager(1).describe_partition(tp).expect("open");
    assert_eq!((found.log_end, found.high_watermark), (Offset(4), Offset(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_flush_policy_an_append_counts_when_it_is_on_disk() {
    let mut cluster = Cluster::start(1, "").await;
    let topic = cluster.create_topic("t", &[&[1]], &[("flush.messages", "1")]);
    let tp = tp(topic, 0);
    cluster.until_leads(1, tp).await;
    let outcomes: Vec<_> = (0..20).map(|_| cluster.produce(1, tp, batch(&["a"]), -1)).collect();
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let result = outcome.wait().await.remove(0);
        assert_eq!((result.error, result.base_offset), (ErrorCode::None, Offset(at as i64)));
    }
    let found = cluster.manager(1).describe_partition(tp).expect("open");
    assert_eq!(found.high_watermark, Offset(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_that_cannot_be_committed_times_out() {
    let mut cluster = Cluster::start(1, "").await;
    // Broker 2 does not exist, and yet is in the ISR: nothing is ever committed.
    let topic = cluster.create_topic("t", &[&[1, 2]], &[]);
    let tp = tp(topic, 0);
    cluster.until_leads(1, tp).await;
    let entries = vec![AppendEntry::new(tp, batch(&["a"]))];
    let manager: Arc<_> = cluster.manager(1);
    let outcome = manager.append(entries.clone(), -1, Duration::from_millis(10));
    assert_eq!(outcome.wait().await[0].error, ErrorCode::RequestTimedOut);
    // What waits loses its leader.
    let outcome = tokio::spawn(manager.append(entries, -1, Duration::from_secs(60)).wait());
    tokio::task::yield_now().await;
    cluster.elect(tp, 2, &[1, 2]);
    assert_eq!(outcome.await.expect("no panic")[0].error, ErrorCode::NotLeaderOrFollower);
    let refused = cluster.produced(1, tp, batch(&["b"]), 1).await;
    assert_eq!(refused.current_leader.map(|current| (current.leader.0, current.epoch.0)), Some((2, 1)));
}
