//! Consumers that read far behind a log's end: no thread that serves others waits for the disk, what they bring in is
//! dropped behind them, and what others have in memory stays.

use bytes::Bytes;
use odradek_common::time::Timestamp;
use odradek_common::{ErrorCode, Uuid};
use odradek_node::{Connection, World};
use odradek_records::{Batches, RecordBatchBuilder};

use crate::cases::{fetch, produce};
use crate::node::{CLUSTER, Node, PATIENCE, create_topic};
use crate::page_cache::PageCache;
use crate::solo::Solo;

const BATCHES: i64 = 60;
const BATCH_BYTES: usize = 1_000_000;
/// What a reader may hold of the page cache besides: read ahead, and its last answers.
const IN_HAND_BYTES: u64 = 10 << 20;
/// As far from the log's end as is left alone.
const TAIL_BYTES: u64 = 16 << 20;

struct Filled {
    cache: PageCache,
    world: World,
    solo: Solo,
    node: Node,
    topic: Uuid,
}

/// One partition with 60 MB in four segments.
async fn filled() -> Filled {
    let cache = PageCache::default();
    let world = cache.world();
    let solo = Solo::start(&world, CLUSTER).await;
    let node = Node::start(&world, &solo, 1, "log.segment.bytes=16000000").await;
    let mut connection = node.connect().await;
    let topic = create_topic(&mut connection, "t", 1, 1).await;
    for n in 0..BATCHES {
        let mut builder = RecordBatchBuilder::new();
        builder.append(Timestamp(1_000 + n), None, Some(&vec![n as u8; BATCH_BYTES]));
        let answer = produce(&mut connection, 12, "t", topic, 1, builder.build().expect("a batch")).await;
        assert_eq!((ErrorCode::from_code(answer.error_code), answer.base_offset), (ErrorCode::None, n));
    }
    Filled { cache, world, solo, node, topic }
}

/// Fetches once, checks what came, and answers with the offset to go on from.
async fn read_on(connection: &mut Connection, topic: Uuid, offset: i64) -> i64 {
    let data = fetch(connection, 12, "t", topic, offset).await;
    assert_eq!(ErrorCode::from_code(data.error_code), ErrorCode::None);
    let bytes: Bytes = data.records.as_ref().and_then(|records| records.as_bytes()).cloned().unwrap_or_default();
    let mut next = offset;
    for batch in Batches::new(bytes) {
        let Ok(batch) = batch else { break };
        batch.check_crc().expect("as it was written");
        assert_eq!(batch.header.base_offset.0, next);
        next = batch.header.next_offset().0;
    }
    assert!(next > offset, "records at {offset}");
    next
}

async fn read_all(connection: &mut Connection, topic: Uuid) {
    let mut offset = 0;
    while offset < BATCHES {
        offset = read_on(connection, topic, offset).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_reader_passes_through_the_page_cache_and_nobody_waits_for_its_disk() {
    let Filled { cache, world, solo, node, topic } = filled().await;
    let all = cache.cached_bytes(".log");
    assert!(all > BATCHES as u64 * BATCH_BYTES as u64);
    cache.drop_all();
    let mut connection = node.connect().await;
    read_all(&mut connection, topic).await;
    assert_eq!(cache.waits(), [], "reads that waited for the disk where others are served");
    assert!(cache.fetched_bytes() < all + all / 10, "once each: {} of {all}", cache.fetched_bytes());
    // The last of its work is done beside its last answer.
    let settled = async {
        while cache.cached_bytes(".log") > TAIL_BYTES + IN_HAND_BYTES {
            world.sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(world.timeout(PATIENCE, settled).await.is_ok(), "{} bytes stay", cache.cached_bytes(".log"));
    drop((node, solo));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_advice_is_not_taken_nobody_waits_either() {
    let Filled { cache, node, topic, .. } = filled().await;
    let all = cache.cached_bytes(".log");
    cache.drop_all();
    cache.be_deaf();
    let mut connection = node.connect().await;
    read_all(&mut connection, topic).await;
    assert_eq!(cache.waits(), []);
    assert!(cache.fetched_bytes() >= BATCHES as u64 * BATCH_BYTES as u64, "all of it: {}", cache.fetched_bytes());
    assert!(cache.fetched_bytes() < all + all / 10, "once each: {} of {all}", cache.fetched_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_memory_before_a_reader_came_stays() {
    let Filled { cache, node, topic, .. } = filled().await;
    let before = cache.cached_bytes(".log");
    let mut connection = node.connect().await;
    read_all(&mut connection, topic).await;
    assert_eq!((cache.cached_bytes(".log"), cache.dropped_bytes()), (before, 0));
    assert_eq!(cache.waits(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_little_behind_reads_from_memory() {
    let Filled { cache, node, topic, .. } = filled().await;
    let all = cache.cached_bytes(".log");
    cache.drop_all();
    let (mut first, mut second) = (node.connect().await, node.connect().await);
    let mut offsets = (0, 0);
    while offsets.1 < BATCHES {
        if offsets.0 < BATCHES {
            offsets.0 = read_on(&mut first, topic, offsets.0).await;
        }
        if offsets.0 >= BATCHES || offsets.1 + 4 < offsets.0 {
            offsets.1 = read_on(&mut second, topic, offsets.1).await;
        }
    }
    assert_eq!(cache.waits(), []);
    assert!(cache.fetched_bytes() < all + all / 10, "for both together: {} of {all}", cache.fetched_bytes());
    assert!(cache.dropped_bytes() > all / 3, "behind both: {}", cache.dropped_bytes());
}
