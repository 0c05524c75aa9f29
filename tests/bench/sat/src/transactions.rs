//! `sat transactions`: how many transactions of one record are committed a second.
//!
//! Each producer has a transactional id, a connection to its coordinator and one to the leader of its partition, and does one
//! transaction after the other. By the second protocol (KIP-890: EndTxn from version 5 on, which bumps the epoch; Produce from
//! version 12 on, which adds the partition itself) that is two requests, by the first one it is three. What is refused because
//! the transaction before is not over yet is sent again after a short pause, and the pause counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::measure::{Histogram, say, usage};
use crate::{Args, Buf, Conn, Cur, Res, create, filler, produce_answer, record_batch, records_in, stamp};

/// Until coordinators are found and have loaded what they need.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the Java client waits when the transaction before is not over. By the first protocol that is so each time.
const BACKOFF: Duration = Duration::from_millis(20);
const CONCURRENT_TRANSACTIONS: i16 = 51;
/// Attributes of a batch: bit 4.
const TRANSACTIONAL: u8 = 1 << 4;

/// What the later versions of requests are made of: lengths are variable and one more, and each structure has tagged fields.
impl Buf {
    fn flexible(api_key: i16, version: i16) -> Self {
        let mut b = Self::request(api_key, version, 0);
        b.i8(0);
        b
    }
    fn length(&mut self, n: usize) -> &mut Self {
        let mut left = n + 1;
        while left >= 0x80 {
            self.0.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
        self
    }
    fn compact(&mut self, s: &[u8]) -> &mut Self {
        self.length(s.len());
        self.0.extend(s);
        self
    }
}

impl Cur<'_> {
    fn length(&mut self) -> usize {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = self.i8() as u8;
            n |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return n.saturating_sub(1);
            }
        }
    }
}

/// Where a transactional id is coordinated, by FindCoordinator v1.
fn coordinator(bootstrap: &str, id: &str) -> Res<String> {
    let begun = Instant::now();
    loop {
        let mut conn = Conn::open(bootstrap.split(',').next().unwrap_or_default())?;
        let mut b = Buf::request(10, 1, 0);
        b.string(id).i8(1);
        let mut c = Cur(conn.call(b.frame())?);
        c.i32();
        let error = c.i16();
        c.string();
        c.i32();
        match error {
            0 => return Ok(format!("{}:{}", c.string(), c.i32())),
            error if begun.elapsed() > PATIENCE => return Err(format!("FindCoordinator: error {error}").into()),
            _ => std::thread::sleep(BACKOFF),
        }
    }
}

struct Producer {
    id: String,
    topic: String,
    partition: i32,
    second: bool,
    coordinator: Conn,
    leader: Conn,
    producer: (i64, i16),
    sequence: i32,
    batch: Vec<u8>,
    /// Times that the transaction before was not over.
    refused: u64,
}

impl Producer {
    fn new(bootstrap: &str, id: String, topic: &str, partition: i32, leader: &str, second: bool) -> Res<Self> {
        let coordinator = Conn::open(&coordinator(bootstrap, &id)?)?;
        let mut batch = record_batch(1, |_| filler(100, 1));
        batch[22] |= TRANSACTIONAL;
        let (topic, leader) = (topic.to_owned(), Conn::open(leader)?);
        let mut new = Self {
            id,
            topic,
            partition,
            second,
            coordinator,
            leader,
            producer: (-1, -1),
            sequence: 0,
            batch,
            refused: 0,
        };
        new.init()?;
        Ok(new)
    }

    /// InitProducerId v1.
    fn init(&mut self) -> Res<()> {
        let begun = Instant::now();
        loop {
            let mut b = Buf::request(22, 1, 0);
            b.string(&self.id).i32(60_000);
            let mut c = Cur(self.coordinator.call(b.frame())?);
            c.i32();
            match c.i16() {
                0 => {
                    self.producer = (c.i64(), c.i16());
                    return Ok(());
                }
                error if begun.elapsed() > PATIENCE => return Err(format!("InitProducerId: error {error}").into()),
                _ => std::thread::sleep(BACKOFF),
            }
        }
    }

    /// One record, and its commit.
    fn transaction(&mut self) -> Res<()> {
        if !self.second {
            self.repeat("AddPartitionsToTxn", Self::add_partition)?;
        }
        stamp(&mut self.batch, self.producer.0, self.producer.1, self.sequence);
        self.repeat("Produce", Self::produce)?;
        self.sequence += 1;
        self.repeat("EndTxn", Self::end)
    }

    /// Sends it until it is not refused for the transaction before.
    fn repeat(&mut self, what: &str, send: impl Fn(&mut Self) -> Res<i16>) -> Res<()> {
        loop {
            match send(self)? {
                0 => return Ok(()),
                CONCURRENT_TRANSACTIONS => {
                    self.refused += 1;
                    std::thread::sleep(BACKOFF);
                }
                error => return Err(format!("{what}: error {error}").into()),
            }
        }
    }

    /// AddPartitionsToTxn v0.
    fn add_partition(&mut self) -> Res<i16> {
        let mut b = Buf::request(24, 0, 0);
        b.string(&self.id).i64(self.producer.0).i16(self.producer.1);
        b.i32(1).string(&self.topic).i32(1).i32(self.partition);
        let mut c = Cur(self.coordinator.call(b.frame())?);
        c.i32();
        c.i32();
        c.string();
        c.i32();
        c.i32();
        Ok(c.i16())
    }

    /// Produce v12 or v8.
    fn produce(&mut self) -> Res<i16> {
        if !self.second {
            let mut b = Buf::request(0, 8, 0);
            b.string(&self.id)
                .i16(-1)
                .i32(30_000)
                .i32(1)
                .string(&self.topic)
                .i32(1)
                .i32(self.partition)
                .bytes(&self.batch);
            return Ok(produce_answer(self.leader.call(b.frame())?).0);
        }
        let mut b = Buf::flexible(0, 12);
        b.compact(self.id.as_bytes()).i16(-1).i32(30_000).length(1).compact(self.topic.as_bytes());
        b.length(1).i32(self.partition).compact(&self.batch);
        // Of the partition, the topic, and the request.
        b.i8(0).i8(0).i8(0);
        let mut c = Cur(self.leader.call(b.frame())?);
        c.i8();
        c.length();
        let name = c.length();
        c.take(name);
        c.length();
        c.i32();
        Ok(c.i16())
    }

    /// EndTxn v5 or v1.
    fn end(&mut self) -> Res<i16> {
        let (id, epoch) = self.producer;
        if !self.second {
            let mut b = Buf::request(26, 1, 0);
            b.string(&self.id).i64(id).i16(epoch).i8(1);
            let mut c = Cur(self.coordinator.call(b.frame())?);
            c.i32();
            return Ok(c.i16());
        }
        let mut b = Buf::flexible(26, 5);
        b.compact(self.id.as_bytes()).i64(id).i16(epoch).i8(1).i8(0);
        let mut c = Cur(self.coordinator.call(b.frame())?);
        c.i8();
        c.i32();
        let error = c.i16();
        if error == 0 {
            let next = (c.i64(), c.i16());
            // Each epoch has sequences of its own.
            if next != self.producer {
                (self.producer, self.sequence) = (next, 0);
            }
        }
        Ok(error)
    }
}

/// All producers at once, for so many seconds; fails unless each partition has a record and a marker for each transaction.
pub fn transactions(a: &Args) -> Res<()> {
    let mut topic_args = Args(a.0.clone());
    for (name, value) in [("partitions", "1"), ("rf", "3"), ("min-isr", "2")] {
        topic_args.0.entry(name.into()).or_insert(value.into());
    }
    let (topic, bootstrap) = (a.str("topic", "sat-transactions"), a.str("bootstrap", "127.0.0.1:9092"));
    let homes = create(&topic_args, &topic)?;
    let (second, pids) = (a.num("protocol", 2) == 2, a.pids());
    let mut producers = Vec::new();
    for n in 0..usize::try_from(a.num("producers", 16))? {
        let (partition, id) = (n % homes.len(), format!("{topic}-{n}"));
        producers.push(Producer::new(&bootstrap, id, &topic, i32::try_from(partition)?, &homes[partition], second)?);
        // The first one makes the coordinators load, and each costs a first time.
        producers[n].transaction()?;
        producers[n].refused = 0;
    }
    let before = settled(&homes, &topic, 0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (cpu, begun) = (usage(&pids).0, Instant::now());
    let threads: Vec<_> = producers
        .into_iter()
        .map(|mut producer| {
            let stop = stop.clone();
            std::thread::spawn(move || -> Res<(u64, u64, Histogram)> {
                let (mut done, mut h) = (0, Histogram::new());
                while !stop.load(Relaxed) {
                    let begun = Instant::now();
                    producer.transaction()?;
                    h.add(begun.elapsed().as_micros() as u64);
                    done += 1;
                }
                Ok((done, producer.refused, h))
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(a.num("seconds", 10) as u64));
    stop.store(true, Relaxed);
    let (mut done, mut refused, mut h) = (0, 0, Histogram::new());
    for thread in threads {
        let (d, r, part) = thread.join().map_err(|_| "a producer panicked")??;
        (done, refused) = (done + d, refused + r);
        h.merge(&part);
    }
    let (took, cpu) = (begun.elapsed().as_secs_f64(), usage(&pids).0 - cpu);
    let written = settled(&homes, &topic, before + 2 * done)? - before;
    if written != 2 * done {
        return Err(format!("{done} transactions have left {written} records and markers").into());
    }
    let rate = done as f64 / took;
    say(&format!(
        "{{\"run\":\"transactions\",\"transactions_s\":{rate:.0},\"seconds\":{took:.2},\"refused\":{refused},{},\
         \"server_cpu_s\":{cpu:.2},\"cpu_ms_each\":{:.3}}}",
        h.json(),
        cpu * 1e3 / done.max(1) as f64
    ));
    Ok(())
}

/// What is in the logs when their ends move no more, and at least `least`: markers come after the answer.
fn settled(homes: &[String], topic: &str, least: u64) -> Res<u64> {
    let begun = Instant::now();
    let mut last = records_in(homes, topic)?;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = records_in(homes, topic)?;
        if (now == last && now >= least) || begun.elapsed() > PATIENCE {
            return Ok(now);
        }
        last = now;
    }
}
