//! The cleaner at work on replicas: what it takes up, what it leaves alone and for how long, and what it writes down.

use std::sync::Arc;

use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_common::{Offset, TopicId, TopicIdPartition};
use odradek_records::{Batches, RecordBatchBuilder};

use super::cluster::{Cluster, entry, read, tp};

const CLEANER: &str = "log.cleaner.backoff.ms=10\n";

/// Every batch has a segment of its own, being so much later than the one before.
const STEP_MS: i64 = 1000;
const COMPACTED: &[(&str, &str)] =
    &[("cleanup.policy", "compact"), ("segment.ms", "500"), ("min.cleanable.dirty.ratio", "0")];

fn keyed(step: i64, key: &str, value: &str) -> Bytes {
    let mut builder = RecordBatchBuilder::new();
    let time = Timestamp(1_700_000_000_000 + step * STEP_MS);
    builder.append(time, Some(key.as_bytes()), Some(value.as_bytes()));
    builder.build().expect("a small batch")
}

async fn one(config: &str, configs: &[(&str, &str)]) -> (Cluster, TopicId) {
    let mut cluster = Cluster::start(1, &format!("{CLEANER}{config}")).await;
    let topic = cluster.create_topic("t", &[&[1]], configs);
    cluster.until_leads(1, tp(topic, 0)).await;
    (cluster, topic)
}

/// Appends `count` values of one key, from `step` on.
async fn overwrite(cluster: &Cluster, partition: TopicIdPartition, step: i64, count: i64) {
    for step in step..step + count {
        let result = cluster.produced(1, partition, keyed(step, "k", &format!("{step}")), -1).await;
        assert!(!result.error.is_error(), "{result:?}");
    }
}

/// The offsets that a consumer finds.
fn offsets(cluster: &Cluster, partition: TopicIdPartition) -> Vec<i64> {
    let manager = cluster.manager(1);
    let end = manager.describe_partition(partition).expect("open").log_end.0;
    let (mut found, mut next) = (Vec::new(), 0);
    while next < end {
        let super::super::Outcome::Done(mut results) = cluster.fetch(1, vec![entry(partition, next)], 0, 1) else {
            panic!("the answer was to be here at once");
        };
        let before = next;
        for batch in Batches::new(read(&results.remove(0)).into()).map_while(Result::ok) {
            for record in batch.records(1 << 20).expect("readable") {
                found.push(record.expect("readable").offset.0);
            }
            next = batch.header.next_offset().0;
        }
        assert!(next > before, "nothing at {before}");
    }
    found
}

async fn until_offsets(cluster: &Cluster, partition: TopicIdPartition, expected: &[i64]) {
    cluster.until(&format!("{expected:?} stay"), || offsets(cluster, partition) == expected).await;
}

/// The cleaner's checkpoint, behind its version.
fn checkpoint(cluster: &Cluster) -> String {
    let dir = cluster.manager(1).dirs.online().next().expect("a directory").path.clone();
    let bytes = odradek_common::fs::read_file(&*cluster.world.fs, &dir.join("cleaner-offset-checkpoint"), 1000);
    let text = String::from_utf8(bytes.unwrap_or_default()).expect("text");
    text.strip_prefix("0\n").unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_compacted_and_the_checkpoint_goes_with_it() {
    let (mut cluster, topic) = one("", COMPACTED).await;
    let plain = cluster.create_topic("plain", &[&[1]], &[("segment.ms", "500"), ("retention.ms", "-1")]);
    cluster.until_leads(1, tp(plain, 0)).await;
    overwrite(&cluster, tp(topic, 0), 0, 10).await;
    overwrite(&cluster, tp(plain, 0), 0, 10).await;
    // The latest of what is closed, and the active segment's.
    until_offsets(&cluster, tp(topic, 0), &[8, 9]).await;
    cluster.until("the checkpoint is written", || checkpoint(&cluster) == "1\nt 0 9\n").await;
    assert_eq!(offsets(&cluster, tp(plain, 0)).len(), 10, "a topic that is not compacted");
    assert_eq!(cluster.manager(1).uncleanable(), []);
    // A start goes on where the last one ended.
    cluster.stop_broker(1, false).await;
    cluster.start_broker(1).await;
    cluster.until_leads(1, tp(topic, 0)).await;
    assert_eq!((offsets(&cluster, tp(topic, 0)), checkpoint(&cluster).as_str()), (vec![8, 9], "1\nt 0 9\n"));
    overwrite(&cluster, tp(topic, 0), 10, 2).await;
    until_offsets(&cluster, tp(topic, 0), &[10, 11]).await;
    cluster.delete_topic(topic);
    cluster.until("the checkpoint forgets the topic", || checkpoint(&cluster) == "0\n").await;
    cluster.stop_broker(1, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_told_and_tried_again() {
    let (mut cluster, topic) = one("log.cleaner.threads=2", COMPACTED).await;
    let other = cluster.create_topic("other", &[&[1]], COMPACTED);
    cluster.until_leads(1, tp(other, 0)).await;
    let found = cluster.manager(1).describe_partition(tp(topic, 0)).expect("open");
    // Damaged before there is anything to clean.
    overwrite(&cluster, tp(topic, 0), 0, 1).await;
    let file = found.log_dir.join("t-0/00000000000000000000.log");
    let flip = || {
        let file = cluster.world.fs.open(&file, odradek_common::fs::OpenMode::ReadWrite).expect("there");
        let last = file.len().expect("readable") - 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).expect("readable");
        file.write_all_at(&[std::io::IoSlice::new(&[byte[0] ^ 1])], last).expect("written");
    };
    flip();
    overwrite(&cluster, tp(topic, 0), 1, 5).await;
    overwrite(&cluster, tp(other, 0), 0, 5).await;
    let manager = cluster.manager(1);
    cluster.until("the log is uncleanable", || !manager.uncleanable().is_empty()).await;
    let told = manager.uncleanable();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, tp(topic, 0));
    assert!(told[0].1.cause.contains("00000000000000000000.log"), "{:?}", told[0].1);
    assert!(found.log_dir.join("t-0").exists() && !manager.partition(tp(topic, 0)).expect("there").is_offline());
    until_offsets(&cluster, tp(other, 0), &[3, 4]).await;
    cluster.until("it is tried again", || manager.uncleanable()[0].1.failures > 1).await;
    flip();
    cluster.until("it is compacted at last", || manager.uncleanable().is_empty()).await;
    until_offsets(&cluster, tp(topic, 0), &[4, 5]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_threads_and_the_switch_do_what_they_say() {
    // At this rate nothing is ever done.
    let (cluster, topic) = one("log.cleaner.io.max.bytes.per.second=0.001", COMPACTED).await;
    overwrite(&cluster, tp(topic, 0), 0, 6).await;
    let manager = cluster.manager(1);
    let dir = manager.describe_partition(tp(topic, 0)).expect("open").log_dir;
    let set = |threads: &str| {
        let overrides = [("log.cleaner.io.max.bytes.per.second", "1e9"), ("log.cleaner.threads", threads)];
        let overrides = overrides.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (config, problems) = manager.config.with_dynamic(&overrides, &Default::default());
        assert_eq!(problems, Vec::<String>::new());
        manager.set_dynamic_config(&Arc::new(config));
    };
    assert_eq!((offsets(&cluster, tp(topic, 0)).len(), dir.join("cleaner-offset-checkpoint").exists()), (6, false));
    set("1");
    until_offsets(&cluster, tp(topic, 0), &[4, 5]).await;
    // More workers, and fewer again, clean on.
    for (threads, step) in [("2", 6), ("1", 8)] {
        set(threads);
        overwrite(&cluster, tp(topic, 0), step, 2).await;
        until_offsets(&cluster, tp(topic, 0), &[step, step + 1]).await;
    }

    let (cluster, topic) = one("log.cleaner.enable=false", COMPACTED).await;
    overwrite(&cluster, tp(topic, 0), 0, 6).await;
    cluster.world.sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(offsets(&cluster, tp(topic, 0)).len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_takes_the_front_of_a_compacted_log_that_is_deleted_too() {
    let configs = [
        ("cleanup.policy", "compact,delete"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "1"),
        ("retention.ms", "3600000"),
    ];
    let (cluster, topic) = one("", &configs).await;
    overwrite(&cluster, tp(topic, 0), 0, 4).await;
    let step = (cluster.world.timestamp().0 - 1_700_000_000_000) / STEP_MS;
    overwrite(&cluster, tp(topic, 0), step - 10, 3).await;
    let manager = cluster.manager(1);
    let log_start = || manager.describe_partition(tp(topic, 0)).expect("open").log_start;
    cluster.until("old segments go", || log_start() == Offset(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_does_not_fit_the_log_is_set_to_its_start() {
    let configs = [("cleanup.policy", "compact"), ("segment.ms", "500"), ("min.cleanable.dirty.ratio", "1")];
    let (mut cluster, topic) = one("", &configs).await;
    overwrite(&cluster, tp(topic, 0), 0, 4).await;
    let dir = cluster.manager(1).dirs.online().next().expect("a directory").path.clone();
    cluster.stop_broker(1, true).await;
    let path = dir.join("cleaner-offset-checkpoint");
    odradek_common::fs::write_file_atomically(&*cluster.world.fs, &path, b"0\n1\nt 0 77\n").expect("written");
    cluster.start_broker(1).await;
    cluster.until_leads(1, tp(topic, 0)).await;
    cluster.until("it is reset", || checkpoint(&cluster) == "1\nt 0 0\n").await;
}

/// An unclean election makes a follower cut what it had cleaned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_below_what_is_clean_is_written_down() {
    let mut cluster = Cluster::start(2, CLEANER).await;
    let topic = cluster.create_topic("t", &[&[1, 2]], COMPACTED);
    let partition = tp(topic, 0);
    cluster.until_leads(1, partition).await;
    overwrite(&cluster, partition, 0, 3).await;
    cluster.until_equal(&[1], partition, 3).await;
    cluster.stop_broker(2, true).await;
    cluster.elect(partition, 1, &[1]);
    overwrite(&cluster, partition, 3, 5).await;
    cluster.until("clean to the active segment", || checkpoint(&cluster) == "1\nt 0 7\n").await;
    cluster.stop_broker(1, true).await;
    cluster.start_broker(2).await;
    cluster.elect(partition, 2, &[2]);
    cluster.until_leads(2, partition).await;
    cluster.start_broker(1).await;
    let manager = cluster.manager(1);
    let log_end = || manager.describe_partition(partition).map(|found| found.log_end);
    cluster.until("broker 1 cuts its log", || log_end() == Some(Offset(3))).await;
    let clean: i64 = checkpoint(&cluster).trim_end().rsplit(' ').next().expect("a line").parse().expect("an offset");
    assert!(clean <= 3, "clean to {clean}");
}
