//! What the codec costs: nanoseconds, allocations and allocated bytes per message, for the messages of the hot paths.
//!
//! `cargo bench -p odradek-wire`. The sketch it is held against: a Produce of one batch is a handful of fixed-length reads, one UTF-8 check of the topic's
//! name and two slices of the frame, so well under a microsecond and three allocations (two arrays, and the first
//! sharing of the frame); whatever the size of the batch, its bytes are not touched.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use odradek_wire::frame::{RequestFrame, ResponseFrame, encode_request, encode_response};
use odradek_wire::{
    ApiKey, FetchRequest, FetchResponse, Message, MetadataRequest, MetadataResponse, Part, ProduceRequest,
    ProduceResponse, Records, Request, Str, Uuid, fetch_request, fetch_response, metadata_response, produce_request,
    produce_response,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED_BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of which allocations are counted.
const COUNTED: u64 = 64;

fn measure(criterion: &mut Criterion, name: &str, bytes: usize, mut run: impl FnMut()) {
    let before = (ALLOCATIONS.load(Relaxed), ALLOCATED_BYTES.load(Relaxed));
    (0..COUNTED).for_each(|_| run());
    let allocations = (ALLOCATIONS.load(Relaxed) - before.0) / COUNTED;
    let allocated = (ALLOCATED_BYTES.load(Relaxed) - before.1) / COUNTED;
    println!("{name}: {bytes} bytes; {allocations} allocations of {allocated} bytes in all");
    criterion.bench_function(name, |bencher| bencher.iter(&mut run));
}

fn whole(parts: Vec<Part>) -> Bytes {
    parts
        .iter()
        .flat_map(|part| match part {
            Part::Bytes(bytes) => bytes.to_vec(),
            Part::Outside(length) => vec![0; *length],
        })
        .skip(4)
        .collect()
}

fn request<R: Request>(criterion: &mut Criterion, what: &str, version: i16, request: &R) {
    let name = format!("{} v{version}, {what}", R::NAME);
    let encode = || encode_request(version, 1, Some(Str::from_static("bench")), request).expect("encodes");
    let frame = whole(encode());
    measure(criterion, &format!("{name}: encode"), frame.len(), || {
        black_box(encode());
    });
    // A fresh frame each time, as it comes from the network: its first sharing allocates.
    measure(criterion, &format!("{name}: decode"), frame.len(), || {
        let frame = Bytes::from_owner(frame.clone());
        black_box(RequestFrame::parse(frame).expect("parses").decode::<R>().expect("decodes"));
    });
}

fn response<R: Request>(criterion: &mut Criterion, what: &str, version: i16, response: &R::Response) {
    let name = format!("{} v{version}, {what}", <R::Response as Message>::NAME);
    let key: ApiKey = R::API_KEY;
    let encode = || encode_response(key, version, 1, response).expect("encodes");
    let frame = whole(encode());
    measure(criterion, &format!("{name}: encode"), frame.len(), || {
        black_box(encode());
    });
    measure(criterion, &format!("{name}: decode"), frame.len(), || {
        let frame = Bytes::from_owner(frame.clone());
        let parsed = ResponseFrame::parse(frame, key, version).expect("parses");
        black_box(parsed.decode::<R::Response>(version).expect("decodes"));
    });
}

fn produce(criterion: &mut Criterion) {
    for (what, partitions, batch) in
        [("1 batch of 200 B", 1, 200), ("1 batch of 64 KiB", 1, 65_536), ("50 batches of 4 KiB", 50, 4096)]
    {
        let body = ProduceRequest {
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![produce_request::TopicProduceData {
                name: "a-topic-of-some-length".into(),
                partition_data: (0..partitions)
                    .map(|index| produce_request::PartitionProduceData {
                        index,
                        records: Some(Records::Bytes(Bytes::from(vec![1; batch]))),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        request(criterion, what, 12, &body);
    }
    let answer = ProduceResponse {
        responses: vec![produce_response::TopicProduceResponse {
            name: "a-topic-of-some-length".into(),
            partition_responses: vec![produce_response::PartitionProduceResponse::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    response::<ProduceRequest>(criterion, "1 partition", 12, &answer);
}

fn fetch(criterion: &mut Criterion) {
    for (what, partitions) in [("incremental", 0), ("50 partitions", 50)] {
        let mut body = FetchRequest { session_id: 7, session_epoch: 3, ..Default::default() };
        if partitions > 0 {
            body.topics = vec![fetch_request::FetchTopic {
                topic_id: Uuid([7; 16]),
                partitions: (0..partitions)
                    .map(|partition| fetch_request::FetchPartition { partition, fetch_offset: 5, ..Default::default() })
                    .collect(),
                ..Default::default()
            }];
        }
        request(criterion, what, 17, &body);
    }
    for (what, partitions) in [("1 partition of 64 KiB outside", 1), ("50 partitions of 64 KiB outside", 50)] {
        let body = FetchResponse {
            session_id: 7,
            responses: vec![fetch_response::FetchableTopicResponse {
                topic_id: Uuid([7; 16]),
                partitions: (0..partitions)
                    .map(|partition_index| fetch_response::PartitionData {
                        partition_index,
                        high_watermark: 10,
                        records: Some(Records::Outside(65_536)),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        response::<FetchRequest>(criterion, what, 17, &body);
    }
}

fn metadata(criterion: &mut Criterion) {
    request(criterion, "all topics", 12, &MetadataRequest { topics: None, ..Default::default() });
    let body = MetadataResponse {
        brokers: (0..3)
            .map(|node_id| metadata_response::MetadataResponseBroker {
                node_id,
                host: "broker.example".into(),
                port: 9092,
                ..Default::default()
            })
            .collect(),
        cluster_id: Some("cluster".into()),
        topics: (0..100)
            .map(|topic| metadata_response::MetadataResponseTopic {
                name: Some(format!("a-topic-of-some-length-{topic}").into()),
                topic_id: Uuid([7; 16]),
                partitions: (0..10)
                    .map(|partition_index| metadata_response::MetadataResponsePartition {
                        partition_index,
                        leader_id: 1,
                        replica_nodes: vec![1, 2, 3],
                        isr_nodes: vec![1, 2, 3],
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    response::<MetadataRequest>(criterion, "100 topics of 10 partitions", 12, &body);
}

criterion_group!(benches, produce, fetch, metadata);
criterion_main!(benches);
