//! What a partition costs in which nothing happens: bytes of memory on the heap, by an allocator that counts, and open
//! files. A binary of its own, since every allocation of the process counts.

// A global allocator cannot be written without.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use odradek_broker::replica::{AppendEntry, ControllerClient, IsrChange, IsrChangeResult, ReplicaManager};
use odradek_broker_storage::{LogDirs, LogDirsConfig};
use odradek_common::config::BrokerConfig;
use odradek_common::meta_properties::format_all;
use odradek_common::time::Timestamp;
use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicId, TopicIdPartition, Uuid};
use odradek_metadata::{Delta, DeltaTracker, Image, proto};
use odradek_node::World;
use odradek_node::world::BoxFuture;
use odradek_records::RecordBatchBuilder;
use proto::record::Kind;

/// The bound that the architecture names.
const BYTES_MAX: isize = 2048;
const PARTITIONS: i32 = 2_000;
const OPEN_FILES_MAX: usize = 50;
const LIMIT: Duration = Duration::from_secs(60);

struct Counting;

static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: everything is the system allocator's; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Nobody;

impl ControllerClient for Nobody {
    fn alter_partition(&self, _: Vec<IsrChange>) -> BoxFuture<Result<Vec<IsrChangeResult>, ErrorCode>> {
        Box::pin(std::future::pending())
    }

    fn assign_directories(
        &self,
        replicas: Vec<(TopicIdPartition, Uuid)>,
    ) -> BoxFuture<Result<Vec<ErrorCode>, ErrorCode>> {
        Box::pin(async move { Ok(vec![ErrorCode::None; replicas.len()]) })
    }
}

const TOPIC: TopicId = Uuid([9; 16]);

fn image(partitions: i32) -> Image {
    let topic = proto::TopicRecord { name: "a-topic-of-usual-length".to_owned(), topic_id: TOPIC.0.to_vec() };
    let mut kinds = vec![Kind::Topic(topic)];
    kinds.extend((0..partitions).map(|partition| {
        Kind::Partition(proto::PartitionRecord {
            topic_id: TOPIC.0.to_vec(),
            partition,
            replicas: vec![1],
            directories: vec![vec![0; 16]],
            isr: vec![1],
            leader: 1,
            ..proto::PartitionRecord::default()
        })
    }));
    let records: Vec<_> = kinds.into_iter().map(|kind| proto::Record { kind: Some(kind) }).collect();
    let mut tracker = DeltaTracker::new(Image::new());
    tracker.apply_records(&records, 1).expect("the records fit");
    tracker.publish().after.clone()
}

async fn start(world: &World, dir: &std::path::Path) -> Arc<ReplicaManager> {
    let text = format!(
        "node.id=1\nlog.dirs={}\nlisteners=PLAINTEXT://127.0.0.1:0\ncontroller.quorum.bootstrap.servers=127.0.0.1:1\n",
        dir.display()
    );
    let (config, _) = BrokerConfig::load(&text, "test", &[]).expect("a valid config");
    let wanted = LogDirsConfig {
        dirs: config.log_dirs.clone(),
        node_id: BrokerId(1),
        cluster_id: None,
        open_files_max: OPEN_FILES_MAX,
    };
    let dirs = LogDirs::open(world.fs.clone(), &wanted, &mut world.rng()).expect("opened");
    ReplicaManager::start(world.clone(), Arc::new(config), Arc::new(dirs), Arc::new(Nobody)).await
}

async fn publish(world: &World, manager: &Arc<ReplicaManager>, image: &Arc<Image>) {
    manager.publish(image, &Delta::between(&Image::new(), image));
    let opened = async {
        while manager.is_opening() {
            world.sleep(Duration::from_millis(2)).await;
        }
    };
    world.timeout(LIMIT, opened).await.expect("the logs are opened");
    assert_eq!(manager.leader_count(), PARTITIONS as usize);
}

/// The log files that this process has open.
fn open_files(dir: &std::path::Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("listed").filter_map(Result::ok);
    let paths = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    paths.filter(|path| path.starts_with(dir) && path.parent() != Some(dir) && path != dir).count()
}

fn check(what: &str, before: isize) {
    let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) / PARTITIONS as isize;
    assert!((200..=BYTES_MAX).contains(&each), "{what}: {each} bytes for each partition");
    eprintln!("{what}: {each} bytes for each partition");
}

#[tokio::test]
async fn an_idle_partition_costs_less_than_two_kib_and_no_descriptor() {
    let world = World::real();
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("logs");
    format_all(&*world.fs, std::slice::from_ref(&dir), "cluster", 1, false, &mut world.rng()).expect("formatted");
    let image = Arc::new(image(PARTITIONS));

    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let manager = start(&world, &dir).await;
    publish(&world, &manager, &image).await;
    check("made", before);
    assert_eq!(open_files(&dir), 0);

    let mut batch = RecordBatchBuilder::new();
    batch.append(Timestamp(1_700_000_000_000), None, Some(b"a record"));
    let batch = batch.build().expect("a batch");
    for partition in 0..PARTITIONS {
        let partition = TopicIdPartition { topic_id: TOPIC, partition: PartitionIndex(partition) };
        let entry = AppendEntry::new(partition, batch.clone());
        let results = manager.append(vec![entry], 1, LIMIT).wait().await;
        assert_eq!(results[0].error, ErrorCode::None, "{:?}", results[0].message);
        assert!(open_files(&dir) <= OPEN_FILES_MAX);
    }
    manager.shut_down(None).await;
    drop(manager);

    // As a broker finds them that was started anew.
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let manager = start(&world, &dir).await;
    publish(&world, &manager, &image).await;
    check("opened", before);
    assert_eq!(open_files(&dir), 0);
    manager.shut_down(None).await;
}
