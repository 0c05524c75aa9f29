//! How often the heap is asked for memory, and for how much, by each batch that is produced, fetched and replicated: brokers
//! over real sockets, an allocator that counts, and a client that allocates nothing. A binary of its own, since every
//! allocation of the process counts.
//!
//! The bounds are what `docs/ARCHITECTURE.md` states, with room for what runs beside (heartbeats, timers): a change that
//! raises them says so there.

// A global allocator cannot be written without.
#![allow(unsafe_code)]

#[allow(dead_code)]
mod node;
mod solo;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use node::{CLUSTER, Node, PATIENCE, create_topic, metadata};
use odradek_common::Uuid;
use odradek_common::time::Timestamp;
use odradek_node::{Connection, World};
use odradek_records::RecordBatchBuilder;
use odradek_wire::fetch_request::{FetchPartition, FetchTopic};
use odradek_wire::frame::{ResponseFrame, encode_request};
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{ApiKey, FetchRequest, FetchResponse, Part, ProduceRequest, ProduceResponse, Records, Request};
use solo::Solo;

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; only calls are counted. What grows is allocated anew, and counted so.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 17;
const RECORD_BYTES: usize = 1_000;
const RECORDS: usize = 65;
/// Of the batch that these make.
const BATCH_BYTES: usize = 65_647;
/// Before anything counts: buffers grow to what they need.
const WARM_UP: usize = 200;
/// Of several windows the least counts: what runs beside is in some of them, and the work itself in all.
const WINDOWS: usize = 12;
const BATCHES: usize = 50;

/// Allocations, and bytes of them, for each batch. Produce has one buffer for the request, which is received into it and
/// written from it; fetch has none of the records' size, as they never come into this process's memory; a follower has one
/// again, for the answer.
const PRODUCE_MAX: (f64, f64) = (24.0, BATCH_BYTES as f64 + 8_192.0);
const FETCH_MAX: (f64, f64) = (36.0, 16_384.0);
const REPLICATE_MAX: (f64, f64) = (80.0, BATCH_BYTES as f64 + 32_768.0);

/// A connection that owns its buffers.
struct Raw {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Raw {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { stream, answer: vec![0; 1 << 20] }
    }

    /// The answer without its length.
    fn call(&mut self, frame: &[u8]) -> &[u8] {
        self.stream.write_all(frame).expect("sent");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("answered");
        let answer = &mut self.answer[..u32::from_be_bytes(length) as usize];
        self.stream.read_exact(answer).expect("answered");
        answer
    }
}

/// A whole frame.
fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    let mut out = Vec::new();
    for part in encode_request(version, 1, Some("allocations".into()), request).expect("encoded") {
        match part {
            Part::Bytes(bytes) => out.extend_from_slice(&bytes),
            Part::Outside(_) => unreachable!("requests carry their records"),
        }
    }
    out
}

fn answer<R: Request>(key: ApiKey, version: i16, bytes: &[u8]) -> R::Response {
    let frame = ResponseFrame::parse(Bytes::copy_from_slice(bytes), key, version).expect("a frame");
    frame.decode(version).expect("an answer")
}

fn batch() -> Bytes {
    let mut builder = RecordBatchBuilder::new();
    for _ in 0..RECORDS {
        builder.append(Timestamp(1_700_000_000_000), None, Some(&[7; RECORD_BYTES]));
    }
    let batch = builder.build().expect("a batch");
    assert_eq!(batch.len(), BATCH_BYTES);
    batch
}

fn produce(topic: &str, topic_id: Uuid, acks: i16) -> Vec<u8> {
    let data =
        PartitionProduceData { index: 0, records: Some(Records::Bytes(batch())), ..PartitionProduceData::default() };
    let topic =
        TopicProduceData { name: topic.into(), topic_id, partition_data: vec![data], ..TopicProduceData::default() };
    let request = ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..ProduceRequest::default() };
    frame(PRODUCE_VERSION, &request)
}

/// A fetch of the one batch at an offset.
fn fetch(topic_id: Uuid, fetch_offset: i64) -> Vec<u8> {
    let partition =
        FetchPartition { fetch_offset, partition_max_bytes: 1, current_leader_epoch: -1, ..FetchPartition::default() };
    let topic = FetchTopic { topic_id, partitions: vec![partition], ..FetchTopic::default() };
    let request = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..FetchRequest::default()
    };
    frame(FETCH_VERSION, &request)
}

/// The least number of allocations for each batch, and of bytes allocated, over the windows.
fn least(mut each: impl FnMut(usize)) -> (f64, f64) {
    (0..WARM_UP).for_each(&mut each);
    let windows = (0..WINDOWS).map(|window| {
        let before = (COUNT.load(Relaxed), BYTES.load(Relaxed));
        (0..BATCHES).for_each(|number| each(WARM_UP + window * BATCHES + number));
        ((COUNT.load(Relaxed) - before.0) as f64, (BYTES.load(Relaxed) - before.1) as f64)
    });
    let least = windows.fold((f64::MAX, f64::MAX), |least, one| (least.0.min(one.0), least.1.min(one.1)));
    (least.0 / BATCHES as f64, least.1 / BATCHES as f64)
}

const TOTAL: i64 = (WARM_UP + WINDOWS * BATCHES) as i64;

fn outcome(bytes: &[u8]) -> (i16, i64) {
    let ProduceResponse { responses, .. } = answer::<ProduceRequest>(ApiKey::Produce, PRODUCE_VERSION, bytes);
    let result = &responses[0].partition_responses[0];
    (result.error_code, result.base_offset)
}

/// Produces the windows, one batch after the other, and checks that all of them are in the log.
fn produced(connection: &mut Raw, topic: &str, topic_id: Uuid, acks: i16) -> (f64, f64) {
    let frame = produce(topic, topic_id, acks);
    let begun = Instant::now();
    // A new log is still being made.
    while outcome(connection.call(&frame)) != (0, 0) {
        assert!(begun.elapsed() < PATIENCE, "no leader");
    }
    let found = least(|_| {
        connection.call(&frame);
    });
    assert_eq!(outcome(connection.call(&frame)), (0, (1 + TOTAL) * RECORDS as i64));
    found
}

/// Fetches the windows, a batch at a time.
fn fetched(connection: &mut Raw, topic_id: Uuid) -> (f64, f64) {
    let frames: Vec<Vec<u8>> = (0..TOTAL).map(|number| fetch(topic_id, number * RECORDS as i64)).collect();
    let found = least(|number| {
        let length = connection.call(&frames[number]).len();
        assert!((BATCH_BYTES..BATCH_BYTES + 200).contains(&length), "{length} bytes instead of one batch");
    });
    let last = connection.call(frames.last().expect("some"));
    let FetchResponse { error_code, responses, .. } = answer::<FetchRequest>(ApiKey::Fetch, FETCH_VERSION, last);
    let data = &responses[0].partitions[0];
    assert_eq!((error_code, data.error_code), (0, 0));
    let records = data.records.as_ref().and_then(Records::as_bytes).expect("records");
    assert_eq!(&records[21..], &batch()[21..], "what comes out is what went in");
    found
}

/// The leader's port.
async fn leader_of(admin: &mut Connection, topic: &str, nodes: &[Node]) -> u16 {
    let topics = metadata(admin, topic).await.topics;
    let leader = topics[0].partitions[0].leader_id;
    nodes[usize::try_from(leader).expect("led") - 1].port
}

fn check(what: &str, (count, bytes): (f64, f64), (count_max, bytes_max): (f64, f64)) {
    eprintln!("{what}: {count:.1} allocations, {bytes:.0} bytes for each batch of {BATCH_BYTES} bytes");
    assert!(count > 0.0, "{what}: nothing was counted");
    assert!(count <= count_max, "{what}: {count} allocations for each batch, at most {count_max}");
    assert!(bytes <= bytes_max, "{what}: {bytes} bytes allocated for each batch, at most {bytes_max}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_costs_few_allocations_and_its_bytes_are_not_copied() {
    let world = World::real();
    let solo = Solo::start(&world, CLUSTER).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start(&world, &solo, id, "").await);
    }
    let mut admin = nodes[0].connect().await;
    let alone = create_topic(&mut admin, "alone", 1, 1).await;
    let copied = create_topic(&mut admin, "copied", 1, 3).await;

    let mut connection = Raw::open(leader_of(&mut admin, "alone", &nodes).await);
    let produce = produced(&mut connection, "alone", alone, -1);
    let fetch = fetched(&mut connection, alone);
    let mut connection = Raw::open(leader_of(&mut admin, "copied", &nodes).await);
    let copies = produced(&mut connection, "copied", copied, -1);
    // What is beyond a batch without copies was for two followers, and for the wait for them.
    let replicate = ((copies.0 - produce.0) / 2.0, (copies.1 - produce.1) / 2.0);

    check("produce", produce, PRODUCE_MAX);
    check("fetch", fetch, FETCH_MAX);
    check("replicate to one follower", replicate, REPLICATE_MAX);
    for node in nodes {
        node.stop().await;
    }
}
