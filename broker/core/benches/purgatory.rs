//! What it costs to wait: produces for a high watermark, fetches for bytes, and the join of a request over many partitions.
//!
//! `cargo bench -p odradek-broker-core`. The sketch it is held against: a waiter is one entry of a small tree, so a
//! registration and its completion together stay under 200 ns, and a high watermark that moves past nobody costs a look at the
//! first entry.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use odradek_broker_core::purgatory::{ByteWaiters, Gather, OffsetWaiters};
use odradek_common::Offset;

const WAITING: i64 = 1_000;

fn offsets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offset waiters");
    for waiting in [0, WAITING] {
        let mut waiters = OffsetWaiters::new(usize::MAX);
        for number in 0..waiting {
            waiters.register(Offset(i64::MAX - number), number).expect("fits");
        }
        let mut next = 0;
        group.bench_function(format!("register and complete, {waiting} others wait"), |bencher| {
            bencher.iter(|| {
                next += 1;
                waiters.register(Offset(next), next).expect("fits");
                waiters.reached(Offset(next))
            });
        });
        group.bench_function(format!("a watermark that nobody waits for, {waiting} others wait"), |bencher| {
            bencher.iter(|| waiters.reached(Offset(next)));
        });
    }
    group.finish();
}

fn bytes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("byte waiters");
    for waiting in [1, 100] {
        let mut waiters = ByteWaiters::new(usize::MAX);
        let mut total = 0;
        for number in 0..waiting {
            waiters.register(total, number).expect("fits");
        }
        group.bench_function(format!("{waiting} fetches are told of new bytes"), |bencher| {
            bencher.iter(|| {
                total += 100;
                waiters.grown(total, |_, bytes| bytes > 1_000)
            });
        });
    }
    group.finish();
}

fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gather");
    for parts in [1, 100] {
        group.bench_function(format!("{parts} parts"), |bencher| {
            bencher.iter_batched(
                || Gather::new(vec![0u64; parts]),
                |mut gather| (0..parts).find_map(|part| gather.settle(part, |value| *value = 1)).expect("complete"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, offsets, bytes, gather);
criterion_main!(benches);
