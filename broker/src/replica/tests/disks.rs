//! Log directories that fail under a broker, and that fill up.

use std::io::Error;
use std::path::Path;

use odradek_common::mem_fs::{MemFs, Operation};
use odradek_common::{ErrorCode, TopicId, TopicIdPartition};

use super::super::AppendOrigin;
use super::cluster::{Cluster, LIMIT, batch, entry, read, tp};

fn dir_of(cluster: &Cluster, broker: i32, partition: TopicIdPartition) -> String {
    let found = cluster.manager(broker).describe_partition(partition).expect("open");
    found.log_dir.display().to_string()
}

async fn with_partitions(fs: &MemFs, brokers: i32, replicas: &[&[i32]], config: &str) -> (Cluster, TopicId) {
    let mut cluster = Cluster::start_in_memory(fs, brokers, config).await;
    let topic = cluster.create_topic("t", replicas, &[]);
    for (index, of) in replicas.iter().enumerate() {
        cluster.until_leads(of[0], tp(topic, index as i32)).await;
    }
    (cluster, topic)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_directory_takes_all_of_its_partitions_and_no_others() {
    let fs = MemFs::new();
    let (cluster, topic) = with_partitions(&fs, 1, &[&[1][..]; 6], "").await;
    let all: Vec<_> = (0..6).map(|index| tp(topic, index)).collect();
    let (bad, good): (Vec<_>, Vec<_>) = all.iter().copied().partition(|id| dir_of(&cluster, 1, *id) == "/1/a");
    assert_eq!((bad.len(), good.len()), (3, 3), "as many here as there");
    for id in &all {
        assert_eq!(cluster.produced(1, *id, batch(&["before"]), -1).await.error, ErrorCode::None);
    }
    fs.set_fault(Some(Box::new(|operation, path| {
        let is_write = matches!(operation, Operation::Write { .. });
        (is_write && path.starts_with("/1/a")).then(|| Error::other("the disk is dying"))
    })));
    let result = cluster.produced(1, bad[0], batch(&["x"]), -1).await;
    assert_eq!(result.error, ErrorCode::KafkaStorageError);
    // Those that nobody has touched since, too.
    for id in &bad {
        cluster
            .until("the partition is offline", || {
                let fetched = match cluster.fetch(1, vec![entry(*id, 0)], 0, 1) {
                    super::super::Outcome::Done(mut results) => results.remove(0),
                    super::super::Outcome::Waiting(_) => panic!("an error is answered at once"),
                };
                fetched.error == ErrorCode::KafkaStorageError
            })
            .await;
        assert_eq!(cluster.produced(1, *id, batch(&["x"]), -1).await.error, ErrorCode::KafkaStorageError);
    }
    for id in &good {
        assert_eq!(cluster.produced(1, *id, batch(&["after"]), -1).await.error, ErrorCode::None);
        let fetched = cluster.fetch(1, vec![entry(*id, 0)], 0, 1).wait().await;
        assert_eq!(read(&fetched[0]).len(), batch(&["before"]).len() + batch(&["after"]).len());
    }
    let described = cluster.manager(1).describe_log_dirs();
    let offline: Vec<_> = described.iter().map(|dir| (dir.path.display().to_string(), dir.space.is_none())).collect();
    assert_eq!(offline, [("/1/a".to_owned(), true), ("/1/b".to_owned(), false)]);
    assert!(cluster.world.timeout(std::time::Duration::from_millis(1), cluster.manager(1).failed()).await.is_err());

    fs.set_fault(Some(Box::new(|operation, _| (operation == Operation::Look).then(|| Error::other("and this one")))));
    let why = cluster.world.timeout(LIMIT, cluster.manager(1).failed()).await.expect("no directory is left");
    assert!(why.contains("/1/a is offline: writing"), "{why}");
    fs.set_fault(None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_a_directory_that_is_down_at_the_start_is_not_made_anew_elsewhere() {
    let fs = MemFs::new();
    let (mut cluster, topic) = with_partitions(&fs, 1, &[&[1][..]; 2], "").await;
    let (lost, kept) = match dir_of(&cluster, 1, tp(topic, 0)).as_str() {
        "/1/a" => (tp(topic, 0), tp(topic, 1)),
        _ => (tp(topic, 1), tp(topic, 0)),
    };
    assert_eq!(cluster.produced(1, lost, batch(&["acknowledged"]), -1).await.error, ErrorCode::None);
    // The controller knows where it is.
    let dirs: Vec<_> = [lost, kept].iter().map(|id| cluster.manager(1).log_dir_id(*id)).collect();
    cluster.set_directory(lost, dirs[0]);
    cluster.set_directory(kept, dirs[1]);
    cluster.stop_broker(1, true).await;
    let is_in_a = |path: &Path| path.starts_with("/1/a");
    fs.set_fault(Some(Box::new(move |_, path| is_in_a(path).then(|| Error::other("the disk is dead")))));
    cluster.start_broker(1).await;
    cluster.until_leads(1, kept).await;
    cluster.until("its log is not opened", || !cluster.manager(1).is_opening()).await;
    assert_eq!(cluster.produced(1, lost, batch(&["x"]), -1).await.error, ErrorCode::KafkaStorageError);
    cluster.stop_broker(1, true).await;
    fs.set_fault(None);
    cluster.start_broker(1).await;
    cluster.until_leads(1, lost).await;
    let fetched = cluster.fetch(1, vec![entry(lost, 0)], 0, 1).wait().await;
    assert_eq!(read(&fetched[0]).len(), batch(&["acknowledged"]).len());
}

fn used(fs: &MemFs) -> u64 {
    fs.files().iter().map(|file| fs.content(file).expect("there").len() as u64).sum()
}

/// So that the marks are 50,000 and 20,000 bytes.
const MARKS: &str = "odradek.disk.free.soft.bytes=50000\nodradek.disk.free.soft.percent=100\n\
                     odradek.disk.free.hard.bytes=20000\nodradek.disk.free.hard.percent=100\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_soft_mark_clients_are_refused_and_below_the_hard_one_everybody() {
    let fs = MemFs::new();
    let (cluster, topic) = with_partitions(&fs, 2, &[&[1, 2], &[1]], MARKS).await;
    let (shared, alone) = (tp(topic, 0), tp(topic, 1));
    let leave = |bytes: u64| {
        fs.set_capacity(Some(used(&fs) + bytes));
        cluster.manager(1).look_at_disks();
        cluster.manager(2).look_at_disks();
    };
    let coordinated = async |partition| {
        let entries = vec![super::super::AppendEntry::new(partition, batch(&["an offset"]))];
        let appended = cluster.manager(1).append_as(AppendOrigin::Coordinator, entries, 1, LIMIT).wait().await;
        appended[0].error
    };
    assert_eq!(cluster.produced(1, shared, batch(&["a"]), -1).await.error, ErrorCode::None);
    leave(40_000);
    let refused = cluster.produced(1, shared, batch(&["b"]), -1).await;
    assert_eq!(refused.error, ErrorCode::KafkaStorageError);
    assert!(refused.message.as_deref().is_some_and(|message| message.contains("too little room")), "{refused:?}");
    // What the broker itself has to write, and its replication, go on.
    assert_eq!(coordinated(shared).await, ErrorCode::None);
    cluster.until_equal(&[1, 2], shared, 2).await;
    leave(10_000);
    assert_eq!(coordinated(shared).await, ErrorCode::KafkaStorageError);
    assert_eq!(coordinated(alone).await, ErrorCode::KafkaStorageError);
    // Reads go on.
    assert!(!cluster.fetch(1, vec![entry(shared, 0)], 0, 1).wait().await[0].is_empty());
    leave(52_000);
    assert_eq!(cluster.produced(1, shared, batch(&["c"]), -1).await.error, ErrorCode::KafkaStorageError, "a margin");
    leave(60_000);
    assert_eq!(cluster.produced(1, shared, batch(&["d"]), -1).await.error, ErrorCode::None);
    cluster.until_equal(&[1, 2], shared, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_room_leaves_the_isr_and_catches_up_later() {
    let fs = MemFs::new();
    let config = format!("{MARKS}replica.lag.time.max.ms=500\nreplica.fetch.wait.max.ms=50\n");
    let (cluster, topic) = with_partitions(&fs, 2, &[&[1, 2]], &config).await;
    let shared = tp(topic, 0);
    assert_eq!(cluster.produced(1, shared, batch(&["a"]), -1).await.error, ErrorCode::None);
    // Only the follower's disks are full: what it writes there fails.
    fs.set_fault(Some(Box::new(|operation, path| {
        let is_write = matches!(operation, Operation::Write { .. });
        (is_write && path.starts_with("/2")).then(|| std::io::ErrorKind::StorageFull.into())
    })));
    assert_eq!(cluster.produced(1, shared, batch(&["b"]), -1).await.error, ErrorCode::None, "without the follower");
    assert_eq!(cluster.isr(shared), [1]);
    let follower = cluster.manager(2).describe_partition(shared).expect("still open");
    assert_eq!(follower.log_end.0, 1);
    fs.set_fault(None);
    cluster.until_equal(&[1, 2], shared, 2).await;
    cluster.until("it is in sync again", || cluster.isr(shared) == [1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_found_no_room_to_be_made_is_made_later() {
    let fs = MemFs::new();
    let mut cluster = Cluster::start_in_memory(&fs, 1, "").await;
    fs.set_fault(Some(Box::new(|operation, _| {
        matches!(operation, Operation::Write { .. }).then(|| std::io::ErrorKind::StorageFull.into())
    })));
    let topic = cluster.create_topic("t", &[&[1]], &[]);
    let partition = tp(topic, 0);
    cluster.until("the log was tried", || !cluster.manager(1).is_opening()).await;
    assert_eq!(cluster.produced(1, partition, batch(&["x"]), 1).await.error, ErrorCode::KafkaStorageError);
    fs.set_fault(None);
    cluster.until_leads(1, partition).await;
    assert_eq!(cluster.produced(1, partition, batch(&["x"]), 1).await.error, ErrorCode::None);
}
