//! How long the oldest unread record has been there.

use bytes::Bytes;
use odradek_broker_core::partition::{Isolation, Reader};
use odradek_common::time::Timestamp;
use odradek_common::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicIdPartition};
use odradek_records::{Codec, EndTxnMarker, RecordBatchBuilder};

use super::super::partition::OldestUnread;
use super::super::{AppendEntry, AppendOrigin, timestamp};
use super::cluster::{Cluster, LIMIT, tp};

const PRODUCER: ProducerId = ProducerId(7);

async fn append(cluster: &Cluster, to: TopicIdPartition, builder: RecordBatchBuilder, times: &[i64]) {
    write(cluster, to, AppendOrigin::Coordinator, filled(builder, times)).await;
}

fn filled(mut builder: RecordBatchBuilder, times: &[i64]) -> Bytes {
    for time in times {
        builder.append(Timestamp(*time), None, Some(b"value"));
    }
    builder.build().expect("a batch")
}

async fn write(cluster: &Cluster, to: TopicIdPartition, origin: AppendOrigin, batch: Bytes) {
    let entries = vec![AppendEntry::new(to, batch)];
    let written = cluster.manager(1).append_as(origin, entries, 1, LIMIT).wait().await;
    assert_eq!(written[0].error, ErrorCode::None, "{:?}", written[0].message);
}

#[track_caller]
fn check(cluster: &Cluster, at: TopicIdPartition, expected: &[(i64, OldestUnread)]) {
    for (offset, expected) in expected {
        let found = cluster.manager(1).oldest_unread(at, LeaderEpoch::NONE, Offset(*offset));
        assert_eq!(found.expect("told"), *expected, "from {offset}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_record_from_an_offset_on_tells_its_time() {
    let mut cluster = Cluster::start(1, "").await;
    let topic = cluster.create_topic("t", &[&[1], &[1]], &[]);
    let at = tp(topic, 0);
    for index in 0..2 {
        cluster.until_leads(1, tp(topic, index)).await;
    }
    check(&cluster, at, &[(0, OldestUnread::AllRead), (5, OldestUnread::AllRead)]);
    // 0, 1, 2: far apart; 3, 4: within a second; 5: without a time.
    append(&cluster, at, RecordBatchBuilder::new(), &[10_000, 90_000, 50_000]).await;
    append(&cluster, at, RecordBatchBuilder::new().compression(Codec::Zstd), &[60_000, 60_999]).await;
    append(&cluster, at, RecordBatchBuilder::new(), &[-1]).await;
    let told = |time| OldestUnread::At(Timestamp(time));
    let expected = [(-5, 10_000), (0, 10_000), (1, 90_000), (2, 50_000), (3, 60_000), (4, 60_000), (5, -1)];
    check(&cluster, at, &expected.map(|(offset, time)| (offset, told(time))));
    check(&cluster, at, &[(6, OldestUnread::AllRead), (i64::MAX, OldestUnread::AllRead)]);
    let epoch = LeaderEpoch(9);
    let refused = cluster.manager(1).oldest_unread(at, epoch, Offset::ZERO).expect_err("a foreign epoch");
    assert_eq!(refused.code, ErrorCode::UnknownLeaderEpoch);
    let nowhere = cluster.manager(1).oldest_unread(tp(topic, 9), LeaderEpoch::NONE, Offset::ZERO);
    assert_eq!(nowhere.expect_err("no such partition").code, ErrorCode::UnknownTopicOrPartition);

    // What is gone is not unread, and a batch counts from where the log begins.
    let deleted = cluster.manager(1).delete_records(vec![(at, Offset(2))], LIMIT).wait().await;
    assert_eq!(deleted[0].error, ErrorCode::None);
    check(&cluster, at, &[(0, told(50_000))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_are_passed_over_and_an_open_transaction_counts() {
    let mut cluster = Cluster::start(1, "transaction.partition.verification.enable=false").await;
    let topic = cluster.create_topic("t", &[&[1]], &[]);
    let at = tp(topic, 0);
    cluster.until_leads(1, at).await;
    let marker = |is_commit| {
        let marker = EndTxnMarker { is_commit, coordinator_epoch: 0 };
        marker.batch(PRODUCER, ProducerEpoch(0), Timestamp(70_000))
    };
    let transactional = || RecordBatchBuilder::new().producer(PRODUCER, ProducerEpoch(0), -1).transactional(true);
    append(&cluster, at, transactional(), &[20_000]).await;
    for is_commit in [true, false] {
        write(&cluster, at, AppendOrigin::Marker { bumped: false, decision: None }, marker(is_commit)).await;
    }
    check(&cluster, at, &[(0, OldestUnread::At(Timestamp(20_000))), (1, OldestUnread::AllRead)]);
    append(&cluster, at, transactional(), &[80_000]).await;
    check(&cluster, at, &[(1, OldestUnread::At(Timestamp(80_000)))]);
    // The group may read committed records only: it lags all the same.
    let reader = Reader::Client(Isolation::ReadCommitted);
    let stable = cluster.manager(1).list_offset(at, reader, LeaderEpoch::NONE, timestamp::LATEST).expect("told");
    assert_eq!(stable.offset, Offset(3));
}
