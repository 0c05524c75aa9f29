//! `sat` (saturate): a raw-wire load meter for any Kafka-compatible cluster.
//!
//! It sends record batches that it encoded once (a batch's CRC does not cover its base offset, so the same bytes are
//! valid for ever), so on a small shared machine nearly all the work measured is the brokers'. With `--pids` it also
//! reads each server process's CPU time and peak memory, and prints CPU-seconds per GiB: the figure that stays
//! comparable on a noisy machine.
//!
//!   sat produce --bootstrap HOST:PORT --topic T [--partitions 6 --rf 1 --min-isr 1] [--connections 4] [--inflight 5]
//!               [--batch-bytes 65536] [--record-bytes 100] [--acks -1] [--seconds 10] [--bytes N] [--pids 1,2,3]
//!               [--idempotent 1] [--follow 1]   --bytes stops after so many; --idempotent: a producer id per connection,
//!                                  sequences, a fresh CRC for each batch: what the Java client does by default; --follow:
//!                                  NOT_LEADER_OR_FOLLOWER is no error but makes a connection look for the leaders anew, as
//!                                  clients do (not with --idempotent)
//!               [--keys N]         records have keys, drawn from N
//!               [--codec lz4]      batches are packed (gzip, snappy, lz4, zstd): --batch-bytes is their size before that,
//!                                  and the bytes reported are those on the wire. Not with --keys
//!   sat fetch   --bootstrap HOST:PORT --topic T [--connections 4] [--max-bytes 1048576] [--seconds 10] [--once 1]
//!               [--pids …]        over and over, or once to the end
//!   sat e2e     --bootstrap HOST:PORT --topic T [--partitions 6 --rf 1] [--rate 1000] [--record-bytes 1024]
//!               [--seconds 10]    open loop: RATE one-record batches a second, acks=all; latency from the time that
//!                                 each was due to the time that a consumer has it
//!   sat idle    --bootstrap HOST:PORT,… [--connections 1000]   opens so many connections, prints READY, and holds them until
//!               standard input ends; then each of them must answer
//!   sat delete  --bootstrap HOST:PORT --topic T[,T…]   deletes topics
//!   sat first   --bootstrap HOST:PORT [--topic T --rf 1]   creates a topic, one record acked by all, reads it back
//!   sat create  --bootstrap HOST:PORT --topic T --partitions 1000 [--rf 1]     time until every broker in --bootstrap
//!               names a leader for every partition, and each partition acknowledged one record with acks=all
//!   sat ready   --bootstrap HOST:PORT --topic T[,T…] --partitions N [--seconds 60]
//!               waits until all N partitions of each topic are led and answer
//!   sat gap     --bootstrap H:P,H:P,… --topic T [--rf 3 --min-isr 2] [--seconds 20]
//!               one record at a time, acks=all, to one partition; prints `LEADER host:port` first, so that a script can
//!               kill it; then the longest time without an acknowledged record
//!   sat settle  --bootstrap HOST:PORT --topic T [--seconds 60]
//!               waits until every partition of T has a leader and all its replicas in the ISR
//!   sat transactions --bootstrap H:P,H:P,… --topic T [--partitions 1 --rf 3 --min-isr 2] [--producers 16] [--protocol 2]
//!               [--seconds 10] [--pids …]   each producer sends one record and commits, over and over. --protocol 1 says
//!               AddPartitionsToTxn first and keeps its epoch, as clients did before KIP-890
//!   sat limit   [--dir /tmp] [--batch-bytes 65536] [--seconds 5]
//!               what the kernel alone costs a server here: receive from loopback + CRC-32C + write to a file (the floor
//!               for produce with one replica), and file to loopback by sendfile (the floor for fetch), CPU-seconds/GiB
//!
//! One line of JSON on stdout for each run. Latencies are in microseconds. The exit status is 1 where there were errors or
//! nothing was done.

mod connections;
mod gap;
mod limit;
mod measure;
mod packed;
mod transactions;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use measure::{Histogram, report, say, usage};

type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

// ---------------------------------------------------------------- arguments

struct Args(HashMap<String, String>);

impl Args {
    fn parse() -> (String, Self) {
        let mut it = std::env::args().skip(1);
        let verb = it.next().unwrap_or_default();
        let mut map = HashMap::new();
        while let Some(k) = it.next() {
            let v = it.next().unwrap_or_default();
            map.insert(k.trim_start_matches("--").to_string(), v);
        }
        (verb, Self(map))
    }
    fn str(&self, k: &str, default: &str) -> String {
        self.0.get(k).cloned().unwrap_or_else(|| default.to_string())
    }
    fn num(&self, k: &str, default: i64) -> i64 {
        self.0.get(k).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("--{k} takes a number, not {v}")))
    }
    fn pids(&self) -> Vec<u32> {
        self.str("pids", "").split(',').filter_map(|p| p.trim().parse().ok()).collect()
    }
}

// ---------------------------------------------------------------- the wire

/// A request under construction: big-endian, non-flexible encodings only.
struct Buf(Vec<u8>);

impl Buf {
    /// A frame with request header v1: api key, version, correlation id, client id.
    fn request(api_key: i16, version: i16, correlation: i32) -> Self {
        let mut b = Self(vec![0; 4]);
        b.i16(api_key).i16(version).i32(correlation).string("sat");
        b
    }
    fn i8(&mut self, v: i8) -> &mut Self {
        self.0.push(v as u8);
        self
    }
    fn i16(&mut self, v: i16) -> &mut Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn i32(&mut self, v: i32) -> &mut Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn i64(&mut self, v: i64) -> &mut Self {
        self.0.extend(v.to_be_bytes());
        self
    }
    fn string(&mut self, s: &str) -> &mut Self {
        self.i16(s.len() as i16);
        self.0.extend(s.as_bytes());
        self
    }
    fn bytes(&mut self, s: &[u8]) -> &mut Self {
        self.i32(s.len() as i32);
        self.0.extend(s);
        self
    }
    fn frame(mut self) -> Vec<u8> {
        let n = (self.0.len() - 4) as i32;
        self.0[..4].copy_from_slice(&n.to_be_bytes());
        self.0
    }
}

/// A response being read.
struct Cur<'a>(&'a [u8]);

impl<'a> Cur<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }
    fn i8(&mut self) -> i8 {
        self.take(1)[0] as i8
    }
    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take(8).try_into().unwrap())
    }
    fn string(&mut self) -> String {
        let n = self.i16();
        if n < 0 { String::new() } else { String::from_utf8_lossy(self.take(n as usize)).into_owned() }
    }
    fn bytes(&mut self) -> &'a [u8] {
        let n = self.i32();
        if n < 0 { &[] } else { self.take(n as usize) }
    }
}

struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Conn {
    fn open(addr: &str) -> Res<Self> {
        let to = std::net::ToSocketAddrs::to_socket_addrs(addr)?.next().ok_or("no address")?;
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, buf: Vec::new() })
    }
    fn send(&mut self, frame: &[u8]) -> Res<()> {
        Ok(self.stream.write_all(frame)?)
    }
    /// The next response's body, without its correlation id.
    fn recv(&mut self) -> Res<&[u8]> {
        let mut n = [0; 4];
        self.stream.read_exact(&mut n)?;
        let n = u32::from_be_bytes(n) as usize;
        if self.buf.len() < n {
            self.buf.resize(n, 0);
        }
        self.stream.read_exact(&mut self.buf[..n])?;
        Ok(&self.buf[4..n])
    }
    fn call(&mut self, frame: Vec<u8>) -> Res<&[u8]> {
        self.send(&frame)?;
        self.recv()
    }
}

fn crc32c(data: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the instruction was just found.
        #[allow(unsafe_code)]
        return unsafe { crc32c_sse42(data) };
    }
    let mut table = [0u32; 256];
    for (i, slot) in table.iter_mut().enumerate() {
        *slot = (0..8).fold(i as u32, |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 });
    }
    !data.iter().fold(!0u32, |c, b| table[((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn crc32c_sse42(data: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let (words, rest) = data.as_chunks::<8>();
    let crc = words.iter().fold(u64::from(!0u32), |c, w| _mm_crc32_u64(c, u64::from_le_bytes(*w)));
    !rest.iter().fold(crc as u32, |c, b| _mm_crc32_u8(c, *b))
}

fn varint(out: &mut Vec<u8>, v: i64) {
    let mut u = ((v << 1) ^ (v >> 63)) as u64;
    while u >= 0x80 {
        out.push(u as u8 | 0x80);
        u >>= 7;
    }
    out.push(u as u8);
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A record batch, magic 2, uncompressed: `count` records, each value `record_bytes` of pseudo-random text.
fn record_batch(count: usize, value: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    record_batch_keyed(count, false, value).0
}

/// As `record_batch`; with keys of eight bytes, all 0, and where in the batch they are.
fn record_batch_keyed(count: usize, keyed: bool, value: impl Fn(usize) -> Vec<u8>) -> (Vec<u8>, Vec<usize>) {
    let mut keys = Vec::new();
    let now = now_ms();
    let mut records = Vec::new();
    for i in 0..count {
        let value = value(i);
        let mut r = vec![0u8]; // attributes
        varint(&mut r, 0); // timestamp delta
        varint(&mut r, i as i64); // offset delta
        let mut key_at = 0;
        if keyed {
            varint(&mut r, 8);
            key_at = r.len();
            r.extend([0u8; 8]);
        } else {
            varint(&mut r, -1); // no key
        }
        varint(&mut r, value.len() as i64);
        r.extend(&value);
        varint(&mut r, 0); // no headers
        varint(&mut records, r.len() as i64);
        if keyed {
            keys.push(61 + records.len() + key_at); // behind the batch's head
        }
        records.extend(r);
    }
    let mut tail = Buf(Vec::new()); // what the CRC covers
    tail.i16(0).i32(count as i32 - 1).i64(now).i64(now).i64(-1).i16(-1).i32(-1).i32(count as i32);
    tail.0.extend(records);
    let mut b = Buf(Vec::new());
    b.i64(0).i32((tail.0.len() + 9) as i32).i32(-1).i8(2).i32(crc32c(&tail.0) as i32);
    b.0.extend(tail.0);
    (b.0, keys)
}

fn filler(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            b' ' + (x % 64) as u8
        })
        .collect()
}

fn produce_frame(topic: &str, partition: i32, batch: &[u8], acks: i16, correlation: i32) -> Vec<u8> {
    let mut b = Buf::request(0, 8, correlation);
    b.i16(-1).i16(acks).i32(30_000).i32(1).string(topic).i32(1).i32(partition).bytes(batch);
    b.frame()
}

/// (error code, base offset) of a Produce v8 answer with one partition.
fn produce_answer(body: &[u8]) -> (i16, i64) {
    let mut c = Cur(body);
    c.i32();
    c.string();
    c.i32();
    c.i32();
    (c.i16(), c.i64())
}

fn fetch_frame(topic: &str, at: &[(i32, i64)], max_bytes: i32, min_bytes: i32, wait_ms: i32) -> Vec<u8> {
    let mut b = Buf::request(1, 11, 0);
    b.i32(-1).i32(wait_ms).i32(min_bytes).i32(max_bytes.saturating_mul(at.len() as i32)).i8(0).i32(0).i32(-1);
    b.i32(1).string(topic).i32(at.len() as i32);
    for (partition, offset) in at {
        b.i32(*partition).i32(-1).i64(*offset).i64(-1).i32(max_bytes);
    }
    b.i32(0).string("");
    b.frame()
}

/// Calls `each(partition, error, batches)` for each partition of a Fetch v11 answer.
fn fetch_answer(body: &[u8], mut each: impl FnMut(i32, i16, &[u8])) -> i16 {
    let mut c = Cur(body);
    c.i32();
    let error = c.i16();
    c.i32();
    for _ in 0..c.i32() {
        c.string();
        for _ in 0..c.i32() {
            let (partition, error) = (c.i32(), c.i16());
            c.i64();
            c.i64();
            c.i64();
            for _ in 0..c.i32() {
                c.i64();
                c.i64();
            }
            c.i32();
            each(partition, error, c.bytes());
        }
    }
    error
}

/// Walks whole batches: calls `each(base offset, record count, batch)`.
fn batches(mut data: &[u8], mut each: impl FnMut(i64, i32, &[u8])) {
    while data.len() >= 61 {
        let len = 12 + i32::from_be_bytes(data[8..12].try_into().unwrap()) as usize;
        if data.len() < len {
            return;
        }
        let base = i64::from_be_bytes(data[..8].try_into().unwrap());
        let last = i32::from_be_bytes(data[23..27].try_into().unwrap());
        each(base, last + 1, &data[..len]);
        data = &data[len..];
    }
}

/// Metadata that takes longer counts as none. Long enough for a loaded broker.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);

/// A partition as Metadata tells it.
#[derive(Clone, Default)]
struct Partition {
    /// Its address; None without one.
    leader: Option<String>,
    replicas: usize,
    in_sync: usize,
}

/// partition → leader's address, from Metadata v1; None for a partition without one.
fn leaders(bootstrap: &str, topic: &str) -> Res<Vec<Option<String>>> {
    Ok(partitions(bootstrap, topic)?.into_iter().map(|partition| partition.leader).collect())
}

fn partitions(bootstrap: &str, topic: &str) -> Res<Vec<Partition>> {
    let mut conn = Conn::open(bootstrap.split(',').next().unwrap())?;
    // A broker that is silent must not hold up who can ask another.
    conn.stream.set_read_timeout(Some(METADATA_TIMEOUT))?;
    let mut b = Buf::request(3, 1, 0);
    b.i32(1).string(topic);
    let mut c = Cur(conn.call(b.frame())?);
    let mut brokers = HashMap::new();
    for _ in 0..c.i32() {
        let (id, host, port) = (c.i32(), c.string(), c.i32());
        c.string();
        brokers.insert(id, format!("{host}:{port}"));
    }
    c.i32();
    let mut out = Vec::new();
    for _ in 0..c.i32() {
        c.i16();
        c.string();
        c.i8();
        for _ in 0..c.i32() {
            let (error, partition, leader) = (c.i16(), c.i32() as usize, c.i32());
            let mut counts = [0; 2];
            for count in &mut counts {
                *count = c.i32() as usize;
                for _ in 0..*count {
                    c.i32();
                }
            }
            if out.len() <= partition {
                out.resize(partition + 1, Partition::default());
            }
            if error == 0 || error == 9 {
                let [replicas, in_sync] = counts;
                out[partition] = Partition { leader: brokers.get(&leader).cloned(), replicas, in_sync };
            }
        }
    }
    Ok(out)
}

/// Waits until every ISR is full, by whichever broker answers.
fn settle(a: &Args) -> Res<()> {
    let (topic, bootstrap) = (a.str("topic", "sat"), a.str("bootstrap", "127.0.0.1:9092"));
    let deadline = Instant::now() + Duration::from_secs(a.num("seconds", 60) as u64);
    loop {
        let found = bootstrap.split(',').find_map(|broker| partitions(broker, &topic).ok()).unwrap_or_default();
        if !found.is_empty() && found.iter().all(|p| p.leader.is_some() && p.in_sync == p.replicas) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let short = found.iter().filter(|p| p.leader.is_none() || p.in_sync < p.replicas).count();
            return Err(format!("{short} of {} partitions lack a leader or replicas in their ISR", found.len()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until each leader named serves its partitions: metadata can run ahead of the brokers.
fn ready(homes: &[String], topic: &str) -> Res<()> {
    let mut brokers = homes.to_vec();
    brokers.sort();
    brokers.dedup();
    let deadline = Instant::now() + Duration::from_secs(120);
    for home in brokers {
        let mine: Vec<i32> = homes.iter().enumerate().filter(|(_, h)| **h == home).map(|(p, _)| p as i32).collect();
        let mut conn = Conn::open(&home)?;
        while let Err(e) = log_ends(&mut conn, topic, &mine) {
            if Instant::now() > deadline {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Creates the topic (no error if it is there) and waits until every partition is led and served.
fn create(a: &Args, topic: &str) -> Res<Vec<String>> {
    let (partitions, rf) = (a.num("partitions", 6) as i32, a.num("rf", 1) as i16);
    let bootstrap = a.str("bootstrap", "127.0.0.1:9092");
    let mut conn = Conn::open(bootstrap.split(',').next().unwrap())?;
    let mut b = Buf::request(19, 3, 0);
    b.i32(1).string(topic).i32(partitions).i16(rf).i32(0);
    let min_isr = a.str("min-isr", "");
    if min_isr.is_empty() {
        b.i32(0);
    } else {
        b.i32(1).string("min.insync.replicas").string(&min_isr);
    }
    b.i32(60_000).i8(0);
    let mut c = Cur(conn.call(b.frame())?);
    c.i32();
    c.i32();
    c.string();
    let error = c.i16();
    if error != 0 && error != 36 {
        return Err(format!("create topic: error {error}").into());
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let found = leaders(&bootstrap, topic).unwrap_or_default();
        if !found.is_empty() && (error == 36 || found.len() == partitions as usize) && found.iter().all(Option::is_some)
        {
            let homes: Vec<String> = found.into_iter().flatten().collect();
            ready(&homes, topic)?;
            return Ok(homes);
        }
        if Instant::now() > deadline {
            return Err("no leader for every partition within 120 s".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

// ---------------------------------------------------------------- the runs

/// A producer id and epoch (InitProducerId v1, not transactional).
fn producer_id(conn: &mut Conn) -> Res<(i64, i16)> {
    loop {
        let mut b = Buf::request(22, 1, 0);
        b.i16(-1).i32(60_000);
        let mut c = Cur(conn.call(b.frame())?);
        c.i32();
        match c.i16() {
            0 => return Ok((c.i64(), c.i16())),
            14..=16 => std::thread::sleep(Duration::from_millis(20)), // the coordinator is loading
            e => return Err(format!("InitProducerId: error {e}").into()),
        }
    }
}

/// Writes producer id, epoch and base sequence into a batch, and its CRC anew.
fn stamp(batch: &mut [u8], id: i64, epoch: i16, sequence: i32) {
    batch[43..51].copy_from_slice(&id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
    seal(batch);
}

/// Writes one of `of` keys, drawn from `seed`, into each record of a batch.
fn draw_keys(batch: &mut [u8], at: &[usize], of: u64, seed: u64) {
    for (n, at) in at.iter().enumerate() {
        let mut x =
            seed.wrapping_mul(1 << 20).wrapping_add(n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 27;
        batch[*at..*at + 8].copy_from_slice(&(x % of).to_be_bytes());
    }
    seal(batch);
}

/// Writes the CRC of a batch.
fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;

/// Batches that need no acknowledgement are sent so far ahead of the broker, at most: buffers of sockets would hold seconds of them.
const UNANSWERED_MAX: u64 = 256;

/// Requests of a connection are served in order: with the answer to Metadata of no topic, all former ones are.
fn catch_up(conn: &mut Conn) -> Res<()> {
    let mut nothing = Buf::request(3, 1, 0);
    nothing.i32(0);
    conn.call(nothing.frame()).map(drop)
}

fn produce(a: &Args) -> Res<()> {
    let topic = a.str("topic", "sat");
    let homes = create(a, &topic)?;
    let (acks, inflight) = (a.num("acks", -1) as i16, a.num("inflight", 5) as usize);
    let (batch_bytes, record_bytes) = (a.num("batch-bytes", 65_536) as usize, a.num("record-bytes", 100) as usize);
    let connections = a.num("connections", 4) as usize;
    let per_batch = (batch_bytes / (record_bytes + 8)).max(1);
    let keys = a.num("keys", 0) as u64;
    let codec = a.str("codec", "none");
    if codec != "none" && keys > 0 {
        return Err("--keys are drawn into batches as they are: leave out --codec".into());
    }
    let (batch, keys_at) = match codec.as_str() {
        "none" => record_batch_keyed(per_batch, keys > 0, |i| filler(record_bytes, i as u64)),
        _ => (packed::batch(&codec, per_batch, record_bytes, now_ms())?, Vec::new()),
    };
    let pids = a.pids();
    let stop = Arc::new(AtomicBool::new(false));
    let left = Arc::new(AtomicU64::new(a.num("bytes", i64::MAX) as u64 / batch.len() as u64));
    let idempotent = a.num("idempotent", 0) == 1;
    let follow = a.num("follow", 0) == 1 && !idempotent;
    let bootstrap = a.str("bootstrap", "127.0.0.1:9092");
    // Nobody answers what needs no acknowledgement: whether it arrived shows at the logs' ends.
    let before = if acks == 0 { Some(records_in(&homes, &topic)?) } else { None };
    let (cpu0, t0) = (usage(&pids).0, Instant::now());
    let threads: Vec<_> = (0..connections)
        .map(|n| {
            let (stop, left, batch, keys_at) = (stop.clone(), left.clone(), batch.clone(), keys_at.clone());
            let (homes, topic, bootstrap) = (homes.clone(), topic.clone(), bootstrap.clone());
            std::thread::spawn(move || -> Res<(u64, u64, Histogram)> {
                // One thread, one leader: it cycles over the partitions that live there.
                let settle_at = |homes: &[String]| {
                    let mut all = homes.to_vec();
                    all.sort();
                    all.dedup();
                    let home = all[n % all.len()].clone();
                    let its_own = homes.iter().enumerate().filter(|(_, h)| **h == home);
                    let frames = its_own.map(|(p, _)| produce_frame(&topic, p as i32, &batch, acks, p as i32));
                    (frames.collect::<Vec<_>>(), home)
                };
                let (batch_len, (mut frames, home)) = (batch.len(), settle_at(&homes));
                let mut conn = Conn::open(&home)?;
                let producer = if idempotent { Some(producer_id(&mut conn)?) } else { None };
                let mut sequences = vec![0i32; frames.len()];
                let (mut done, mut errors, mut h) = (0u64, 0u64, Histogram::new());
                let mut sent = std::collections::VecDeque::new();
                let (mut next, mut refused) = (n, None::<Instant>);
                loop {
                    // What was refused is as late as the search takes.
                    while let Some(since) = refused.filter(|_| sent.is_empty() && !stop.load(Relaxed)) {
                        let found = leaders(&bootstrap, &topic).unwrap_or_default();
                        let found: Vec<_> = found.into_iter().flatten().collect();
                        if found.len() == homes.len() {
                            let (its_own, home) = settle_at(&found);
                            (frames, conn, refused) = (its_own, Conn::open(&home)?, None);
                            h.add(since.elapsed().as_micros() as u64);
                        }
                    }
                    while refused.is_none() && sent.len() < inflight && !stop.load(Relaxed) {
                        if left.fetch_update(Relaxed, Relaxed, |l| l.checked_sub(1)).is_err() {
                            break;
                        }
                        let i = next % frames.len();
                        let frame = &mut frames[i];
                        if keys > 0 {
                            let at = frame.len() - batch_len;
                            draw_keys(&mut frame[at..], &keys_at, keys, ((next - n) * connections + n) as u64);
                        }
                        if let Some((id, epoch)) = producer {
                            let at = frame.len() - batch_len;
                            stamp(&mut frame[at..], id, epoch, sequences[i]);
                            sequences[i] += per_batch as i32;
                        }
                        next += 1;
                        sent.push_back(Instant::now());
                        conn.send(&frames[i])?;
                        if acks == 0 {
                            sent.pop_front();
                            done += 1;
                            if done.is_multiple_of(UNANSWERED_MAX) {
                                catch_up(&mut conn)?;
                            }
                        }
                    }
                    let Some(at) = sent.pop_front() else { break };
                    let (error, _) = produce_answer(conn.recv()?);
                    if error == 0 || !follow {
                        h.add(at.elapsed().as_micros() as u64);
                    }
                    match error {
                        0 => done += 1,
                        // Also where a broker has just heard that it holds the partition no longer.
                        NOT_LEADER_OR_FOLLOWER | UNKNOWN_TOPIC_OR_PARTITION if follow => {
                            refused.get_or_insert(at);
                        }
                        _ => {
                            errors += 1;
                            if errors == 1 {
                                eprintln!("sat: a batch was refused with error {error}");
                            }
                        }
                    }
                }
                if acks == 0 {
                    catch_up(&mut conn)?;
                }
                Ok((done, errors, h))
            })
        })
        .collect();
    let until = t0 + Duration::from_secs(a.num("seconds", 10) as u64);
    while Instant::now() < until && left.load(Relaxed) > 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    stop.store(true, Relaxed);
    let (mut done, mut errors, mut h) = (0, 0, Histogram::new());
    for t in threads {
        let (d, e, part) = t.join().unwrap()?;
        done += d;
        errors += e;
        h.merge(&part);
    }
    let took = t0.elapsed().as_secs_f64();
    let cpu = usage(&pids).0 - cpu0;
    if let Some(before) = before {
        let until = Instant::now() + Duration::from_secs(10);
        let missing = loop {
            let missing = (before + done * per_batch as u64).saturating_sub(records_in(&homes, &topic)?);
            if missing == 0 || Instant::now() > until {
                break missing;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        errors += missing.div_ceil(per_batch as u64);
    }
    report("produce", done * batch.len() as u64, done * per_batch as u64, took, &h, &pids, cpu, errors)
}

fn fetch(a: &Args) -> Res<()> {
    let topic = a.str("topic", "sat");
    let homes: Vec<String> = leaders(&a.str("bootstrap", "127.0.0.1:9092"), &topic)?.into_iter().flatten().collect();
    let connections = a.num("connections", 4) as usize;
    let max_bytes = a.num("max-bytes", 1 << 20) as i32;
    let once = a.num("once", 0) == 1;
    let pids = a.pids();
    let stop = Arc::new(AtomicBool::new(false));
    let (cpu0, t0) = (usage(&pids).0, Instant::now());
    let threads: Vec<_> = (0..connections)
        .map(|n| {
            let mut all = homes.clone();
            all.sort();
            all.dedup();
            let home = all[n % all.len()].clone();
            let mine: Vec<i32> = homes.iter().enumerate().filter(|(_, h)| **h == home).map(|(p, _)| p as i32).collect();
            let (stop, topic) = (stop.clone(), topic.clone());
            std::thread::spawn(move || -> Res<(u64, u64, u64, Histogram)> {
                let mut conn = Conn::open(&home)?;
                let (mut bytes, mut records, mut errors, mut h) = (0u64, 0u64, 0u64, Histogram::new());
                // Each connection reads from the start, over and over: what a new consumer that catches up does.
                let mut at: Vec<(i32, i64)> = mine.iter().map(|p| (*p, 0)).collect();
                while !stop.load(Relaxed) {
                    let started = Instant::now();
                    conn.send(&fetch_frame(&topic, &at, max_bytes, 1, 100))?;
                    let mut got = 0u64;
                    let body = conn.recv()?;
                    let mut next = at.clone();
                    let whole = fetch_answer(body, |p, error, data| {
                        errors += u64::from(error != 0);
                        batches(data, |base, count, batch| {
                            got += batch.len() as u64;
                            records += count as u64;
                            if let Some(slot) = next.iter_mut().find(|(q, _)| *q == p) {
                                slot.1 = base + i64::from(count);
                            }
                        });
                    });
                    errors += u64::from(whole != 0);
                    next.rotate_left(1);
                    at = next;
                    h.add(started.elapsed().as_micros() as u64);
                    bytes += got;
                    if got == 0 {
                        if once {
                            break;
                        }
                        at.iter_mut().for_each(|s| s.1 = 0);
                    }
                }
                Ok((bytes, records, errors, h))
            })
        })
        .collect();
    let until = t0 + Duration::from_secs(a.num("seconds", 10) as u64);
    while Instant::now() < until && !threads.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(Duration::from_millis(10));
    }
    stop.store(true, Relaxed);
    let (mut bytes, mut records, mut errors, mut h) = (0, 0, 0, Histogram::new());
    for t in threads {
        let (b, r, e, part) = t.join().unwrap()?;
        bytes += b;
        records += r;
        errors += e;
        h.merge(&part);
    }
    let took = t0.elapsed().as_secs_f64();
    let cpu = usage(&pids).0 - cpu0;
    report("fetch", bytes, records, took, &h, &pids, cpu, errors)
}

/// The sum of a topic's log ends, or high watermarks where a follower is behind.
fn records_in(homes: &[String], topic: &str) -> Res<u64> {
    let mut brokers = homes.to_vec();
    brokers.sort();
    brokers.dedup();
    let mut sum = 0;
    for home in brokers {
        let mine: Vec<i32> = homes.iter().enumerate().filter(|(_, h)| **h == home).map(|(p, _)| p as i32).collect();
        sum += log_ends(&mut Conn::open(&home)?, topic, &mine)?.iter().map(|(_, end)| *end as u64).sum::<u64>();
    }
    Ok(sum)
}

/// (partition, log end offset) of each, by ListOffsets v1.
fn log_ends(conn: &mut Conn, topic: &str, partitions: &[i32]) -> Res<Vec<(i32, i64)>> {
    let mut b = Buf::request(2, 1, 0);
    b.i32(-1).i32(1).string(topic).i32(partitions.len() as i32);
    for p in partitions {
        b.i32(*p).i64(-1);
    }
    let mut c = Cur(conn.call(b.frame())?);
    c.i32();
    c.string();
    (0..c.i32())
        .map(|_| {
            let (p, error, _, offset) = (c.i32(), c.i16(), c.i64(), c.i64());
            if error == 0 { Ok((p, offset)) } else { Err(format!("ListOffsets: error {error}").into()) }
        })
        .collect()
}

fn e2e(a: &Args) -> Res<()> {
    let topic = a.str("topic", "sat-e2e");
    let homes = create(a, &topic)?;
    let (rate, record_bytes) = (a.num("rate", 1000) as u64, a.num("record-bytes", 1024).max(24) as usize);
    let seconds = a.num("seconds", 10) as u64;
    let pids = a.pids();
    let total = rate * seconds;
    let run = u64::from(std::process::id()).to_be_bytes(); // records of earlier runs do not count
    let epoch = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let mut brokers = homes.clone();
    brokers.sort();
    brokers.dedup();
    let consumers: Vec<_> = brokers
        .iter()
        .map(|home| {
            let mine: Vec<i32> = homes.iter().enumerate().filter(|(_, h)| *h == home).map(|(p, _)| p as i32).collect();
            let (home, topic, stop, received) = (home.clone(), topic.clone(), stop.clone(), received.clone());
            std::thread::spawn(move || -> Res<Histogram> {
                let mut conn = Conn::open(&home)?;
                let mut h = Histogram::new();
                let mut at = log_ends(&mut conn, &topic, &mine)?;
                while !stop.load(Relaxed) {
                    conn.send(&fetch_frame(&topic, &at, 1 << 20, 1, 500))?;
                    let body = conn.recv()?;
                    let now = epoch.elapsed().as_micros() as u64;
                    let mut next = at.clone();
                    fetch_answer(body, |p, _, data| {
                        batches(data, |base, count, batch| {
                            next.iter_mut().filter(|(q, _)| *q == p).for_each(|s| s.1 = base + i64::from(count));
                            // The value starts with a magic word, the run, and the time that it was due.
                            if let Some(i) = batch.windows(16).position(|w| w[..8] == *b"sat-due:" && w[8..] == run) {
                                let due = u64::from_be_bytes(batch[i + 16..i + 24].try_into().unwrap());
                                if due <= now {
                                    h.add(now - due);
                                    received.fetch_add(1, Relaxed);
                                }
                            }
                        });
                    });
                    at = next;
                }
                Ok(h)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let cpu0 = usage(&pids).0;
    let mut producers: HashMap<String, Conn> = HashMap::new();
    for home in &brokers {
        let conn = Conn::open(home)?;
        let mut drain = Conn { stream: conn.stream.try_clone()?, buf: Vec::new() };
        std::thread::spawn(move || while drain.recv().is_ok() {});
        producers.insert(home.clone(), conn);
    }
    let t0 = Instant::now();
    let start = epoch.elapsed().as_micros() as u64;
    for i in 0..total {
        let due = start + i * 1_000_000 / rate;
        let now = epoch.elapsed().as_micros() as u64;
        if due > now {
            std::thread::sleep(Duration::from_micros(due - now));
        }
        let p = (i as usize) % homes.len();
        let batch = record_batch(1, |_| {
            let mut v = b"sat-due:".to_vec();
            v.extend(run);
            v.extend(due.to_be_bytes());
            v.extend(filler(record_bytes - 24, i));
            v
        });
        producers.get_mut(&homes[p]).unwrap().send(&produce_frame(&topic, p as i32, &batch, -1, i as i32))?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while received.load(Relaxed) < total && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Relaxed);
    let took = t0.elapsed().as_secs_f64();
    let mut h = Histogram::new();
    for c in consumers {
        h.merge(&c.join().unwrap()?);
    }
    let got = received.load(Relaxed);
    let cpu = usage(&pids).0 - cpu0;
    report("e2e", got * record_bytes as u64, got, took, &h, &pids, cpu, total.saturating_sub(got))
}

/// One record, acks=all, to each partition.
fn touch(homes: &[String], topic: &str) -> Res<()> {
    let batch = record_batch(1, |_| filler(100, 1));
    let mut conns: HashMap<&str, Conn> = HashMap::new();
    for (p, home) in homes.iter().enumerate() {
        if !conns.contains_key(home.as_str()) {
            conns.insert(home, Conn::open(home)?);
        }
        let conn = conns.get_mut(home.as_str()).unwrap();
        conn.send(&produce_frame(topic, p as i32, &batch, -1, p as i32))?;
    }
    for home in homes {
        let (error, _) = produce_answer(conns.get_mut(home.as_str()).unwrap().recv()?);
        if error != 0 {
            return Err(format!("produce: error {error}").into());
        }
    }
    Ok(())
}

fn create_timed(a: &Args) -> Res<()> {
    let (topic, bootstrap) = (a.str("topic", "sat-create"), a.str("bootstrap", "127.0.0.1:9092"));
    let t0 = Instant::now();
    let homes = create(a, &topic)?;
    for broker in bootstrap.split(',') {
        while !leaders(broker, &topic).is_ok_and(|l| l.len() == homes.len() && l.iter().all(Option::is_some)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let known = t0.elapsed().as_secs_f64();
    touch(&homes, &topic)?;
    let acked = t0.elapsed().as_secs_f64();
    say(&format!(
        "{{\"run\":\"create\",\"partitions\":{},\"known_s\":{known:.3},\"seconds\":{acked:.3}}}",
        homes.len()
    ));
    Ok(())
}

/// Of brokers that may be down still.
fn ready_again(a: &Args) -> Res<()> {
    let (topics, bootstrap) = (a.str("topic", "sat"), a.str("bootstrap", "127.0.0.1:9092"));
    let count = a.num("partitions", 6) as usize;
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(a.num("seconds", 60) as u64);
    for topic in topics.split(',') {
        loop {
            let found = leaders(&bootstrap, topic).unwrap_or_default();
            let homes: Vec<String> = found.into_iter().flatten().collect();
            if homes.len() == count && ready(&homes, topic).is_ok() {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{} of {count} partitions of {topic} are led", homes.len()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    say(&format!("{{\"run\":\"ready\",\"seconds\":{:.3}}}", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn first(a: &Args) -> Res<()> {
    let mut one = Args(a.0.clone());
    one.0.insert("partitions".into(), "1".into());
    let topic = a.str("topic", "sat-first");
    let homes = create(&one, &topic)?;
    touch(&homes, &topic)?;
    let mut conn = Conn::open(&homes[0])?;
    let mut got = 0;
    fetch_answer(conn.call(fetch_frame(&topic, &[(0, 0)], 1 << 20, 1, 5000))?, |_, _, data| {
        batches(data, |_, n, _| got += n)
    });
    if got == 0 { Err("the record was not there".into()) } else { Ok(()) }
}

fn main() {
    let (verb, args) = Args::parse();
    let outcome = match verb.as_str() {
        "produce" => produce(&args),
        "fetch" => fetch(&args),
        "e2e" => e2e(&args),
        "create" => create_timed(&args),
        "gap" => gap::gap(&args),
        "first" => first(&args),
        "idle" => connections::idle(&args),
        "delete" => connections::delete(&args),
        "ready" => ready_again(&args),
        "settle" => settle(&args),
        "transactions" => transactions::transactions(&args),
        "limit" => limit::limit(&args),
        _ => Err("usage: sat produce|fetch|e2e|idle|first|create|delete|ready|gap|settle|transactions|limit --bootstrap HOST:PORT --topic T … (see the top of main.rs)".into()),
    };
    if let Err(e) = outcome {
        eprintln!("sat: {e}");
        std::process::exit(1);
    }
}
