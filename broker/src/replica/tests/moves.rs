//! Logs that move from one log directory to another while they are written to, read and followed.

use std::path::PathBuf;

use odradek_common::mem_fs::{MemFs, Operation};
use odradek_common::{ErrorCode, TopicId, TopicIdPartition, TopicPartition};

use super::cluster::{Cluster, batch, entry, idempotent_batch, read, tp};

async fn one(fs: &MemFs, brokers: i32) -> (Cluster, TopicId) {
    let mut cluster = Cluster::start_in_memory(fs, brokers, "").await;
    let replicas: Vec<i32> = (1..=brokers).collect();
    let topic =
        cluster.create_topic("t", &[&replicas], &[("file.delete.delay.ms", "0"), ("internal.segment.bytes", "600")]);
    cluster.until_leads(1, tp(topic, 0)).await;
    (cluster, topic)
}

fn dir(cluster: &Cluster, broker: i32, partition: TopicIdPartition) -> String {
    cluster.manager(broker).describe_partition(partition).expect("open").log_dir.display().to_string()
}

fn other(dir: &str) -> String {
    dir.strip_suffix("/a").map_or_else(|| dir.replace("/b", "/a"), |root| format!("{root}/b"))
}

/// As many batches of one record.
async fn fill(cluster: &Cluster, partition: TopicIdPartition, count: usize) {
    for _ in 0..count {
        assert_eq!(cluster.produced(1, partition, batch(&["some value"]), -1).await.error, ErrorCode::None);
    }
}

async fn alter(cluster: &Cluster, broker: i32, topic: &str, index: i32, to: &str) -> ErrorCode {
    let manager = cluster.manager(broker);
    let wish = (TopicPartition::new(topic, index), PathBuf::from(to));
    let results = cluster.world.on_disk(move || manager.alter_log_dirs(vec![wish])).await;
    results.into_iter().next().expect("one").map_or_else(|error| error.code, |()| ErrorCode::None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_moves_while_records_are_acknowledged_and_followed() {
    let fs = MemFs::new();
    let (cluster, topic) = one(&fs, 2).await;
    let partition = tp(topic, 0);
    let mut produced = 0;
    for _ in 0..200 {
        let result = cluster.produced(1, partition, idempotent_batch("before", 7, produced), -1).await;
        assert_eq!(result.error, ErrorCode::None);
        produced += 1;
    }
    let (leader_to, follower_to) = (other(&dir(&cluster, 1, partition)), other(&dir(&cluster, 2, partition)));
    let leader_from = other(&leader_to);
    assert_eq!(alter(&cluster, 1, "t", 0, &leader_to).await, ErrorCode::None);
    assert_eq!(alter(&cluster, 2, "t", 0, &follower_to).await, ErrorCode::None);
    while dir(&cluster, 1, partition) != leader_to || dir(&cluster, 2, partition) != follower_to {
        assert!(produced < 100_000, "the copies catch up");
        let result = cluster.produced(1, partition, idempotent_batch("during", 7, produced), -1).await;
        assert_eq!(result.error, ErrorCode::None, "{result:?}");
        produced += 1;
    }
    // The producer's state has moved along: the last batch again is a duplicate.
    let again = cluster.produced(1, partition, idempotent_batch("during", 7, produced - 1), -1).await;
    assert_eq!((again.error, again.base_offset.0), (ErrorCode::None, i64::from(produced - 1)));
    let result = cluster.produced(1, partition, idempotent_batch("after", 7, produced), -1).await;
    assert_eq!(result.error, ErrorCode::None);
    cluster.until_equal(&[1, 2], partition, i64::from(produced + 1)).await;
    cluster
        .until("the old log is gone", || {
            !fs.files().iter().any(|file| file.starts_with(&leader_from) && file.to_string_lossy().contains("t-0"))
        })
        .await;
    assert!(cluster.manager(1).describe_log_dirs().iter().all(|dir| dir.futures.is_empty()));
    assert_eq!(cluster.isr(partition), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_log_is_found_again_and_an_unfinished_move_goes_on() {
    let fs = MemFs::new();
    let (mut cluster, topic) = one(&fs, 1).await;
    let partition = tp(topic, 0);
    fill(&cluster, partition, 100).await;
    let to = other(&dir(&cluster, 1, partition));
    // So slow that it cannot be done before the end.
    cluster.set_broker_config(1, "replica.alter.log.dirs.io.max.bytes.per.second", "1");
    assert_eq!(alter(&cluster, 1, "t", 0, &to).await, ErrorCode::None);
    let lag = |cluster: &Cluster| {
        let dirs = cluster.manager(1).describe_log_dirs();
        let futures: Vec<_> = dirs.into_iter().filter(|dir| dir.path.display().to_string() == to).collect();
        futures[0].futures.first().map(|future| future.offset_lag)
    };
    assert_eq!(alter(&cluster, 1, "t", 0, &to).await, ErrorCode::None, "asked again");
    cluster.until("a first piece is copied", || lag(&cluster).is_some_and(|lag| lag < 100)).await;
    assert!(dir(&cluster, 1, partition) != to && lag(&cluster).is_some_and(|lag| lag > 0), "{:?}", lag(&cluster));
    cluster.stop_broker(1, false).await;
    cluster.start_broker(1).await;
    cluster.until_leads(1, partition).await;
    cluster.until("the move is taken up again", || lag(&cluster).is_some()).await;
    cluster.set_broker_config(1, "replica.alter.log.dirs.io.max.bytes.per.second", "1000000000");
    cluster.until("the log has moved", || dir(&cluster, 1, partition) == to).await;
    cluster.stop_broker(1, false).await;
    cluster.start_broker(1).await;
    cluster.until_leads(1, partition).await;
    assert_eq!(dir(&cluster, 1, partition), to);
    let found = cluster.manager(1).describe_partition(partition).expect("open");
    assert_eq!(found.log_end.0, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_given_up_for_another_wish_a_deletion_or_a_failure() {
    let fs = MemFs::new();
    let (mut cluster, topic) = one(&fs, 1).await;
    let partition = tp(topic, 0);
    fill(&cluster, partition, 50).await;
    cluster.set_broker_config(1, "replica.alter.log.dirs.io.max.bytes.per.second", "1");
    let from = dir(&cluster, 1, partition);
    let to = other(&from);
    let copies = || fs.files().iter().filter(|file| file.to_string_lossy().contains("-future")).count();
    assert_eq!(alter(&cluster, 1, "t", 0, &to).await, ErrorCode::None);
    assert!(copies() > 0);
    // Back to where it is.
    assert_eq!(alter(&cluster, 1, "t", 0, &from).await, ErrorCode::None);
    cluster.until("the copy is gone", || copies() == 0).await;
    assert_eq!(dir(&cluster, 1, partition), from);
    assert_eq!(alter(&cluster, 1, "t", 0, &to).await, ErrorCode::None);
    cluster.delete_topic(topic);
    cluster
        .until("the log and its copy are gone", || {
            !fs.files().iter().any(|file| file.to_string_lossy().contains("/t-0"))
        })
        .await;

    let topic = cluster.create_topic("u", &[&[1]], &[]);
    let partition = tp(topic, 0);
    cluster.until_leads(1, partition).await;
    assert_eq!(cluster.produced(1, partition, batch(&["x"]), -1).await.error, ErrorCode::None);
    let from = dir(&cluster, 1, partition);
    let to = other(&from);
    let bad = to.clone();
    fs.set_fault(Some(Box::new(move |operation, path| {
        let is_write = matches!(operation, Operation::Write { .. });
        (is_write && path.starts_with(&bad) && path.to_string_lossy().ends_with(".log"))
            .then(|| std::io::Error::other("the disk is dying"))
    })));
    cluster.set_broker_config(1, "replica.alter.log.dirs.io.max.bytes.per.second", "1000000000");
    assert_eq!(alter(&cluster, 1, "u", 0, &to).await, ErrorCode::None);
    cluster
        .until("the directory is offline", || {
            cluster
                .manager(1)
                .describe_log_dirs()
                .iter()
                .any(|dir| dir.path.display().to_string() == to && dir.space.is_none())
        })
        .await;
    assert_eq!(alter(&cluster, 1, "u", 0, &to).await, ErrorCode::KafkaStorageError);
    assert_eq!(cluster.produced(1, partition, batch(&["y"]), -1).await.error, ErrorCode::None, "it serves on");
    assert_eq!(dir(&cluster, 1, partition), from);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_not_here_yet_is_made_where_it_was_wanted() {
    let fs = MemFs::new();
    let mut cluster = Cluster::start_in_memory(&fs, 2, "").await;
    assert_eq!(alter(&cluster, 1, "t", 0, "/1/c").await, ErrorCode::LogDirNotFound);
    assert_eq!(alter(&cluster, 1, &"x".repeat(249), 0, "/1/a").await, ErrorCode::InvalidTopicException);
    for index in 0..3 {
        assert_eq!(alter(&cluster, 1, "t", index, "/1/b").await, ErrorCode::UnknownTopicOrPartition);
    }
    let topic = cluster.create_topic("t", &[&[1], &[1], &[1], &[2]], &[]);
    for index in 0..3 {
        cluster.until_leads(1, tp(topic, index)).await;
        assert_eq!(dir(&cluster, 1, tp(topic, index)), "/1/b");
    }
    assert_eq!(alter(&cluster, 1, "t", 3, "/1/b").await, ErrorCode::ReplicaNotAvailable);
    cluster.assign(tp(topic, 3), &[2, 1], &[2]);
    cluster.until("it is made", || cluster.manager(1).describe_partition(tp(topic, 3)).is_some()).await;
    assert_eq!(dir(&cluster, 1, tp(topic, 3)), "/1/b");
    assert!(read(&cluster.fetch(1, vec![entry(tp(topic, 0), 0)], 0, 1).wait().await[0]).is_empty());
}
