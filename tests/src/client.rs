//! A small blocking Kafka client on the raw wire, for what real clients hide: error codes, epochs, offsets, the order of
//! answers on one connection.
//!
//! `Connection` is one socket with one call at a time (or several, by `send` and `receive`). `Client` finds leaders
//! through any node of the bootstrap list and repeats what a client should repeat, up to a time limit.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::wire::{Batch, Reader, StoredRecord, Writer, batches, error};

/// A connection that does not open in this time is given up. A full accept queue drops the first packet, and the kernel
/// repeats it after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An answer that takes longer counts as none. Longer than any wait that the tests ask a broker for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// An answer claimed to be larger than this is an error of the broker.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// One TCP connection to one broker.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let to: SocketAddr = address.to_socket_addrs()?.next().context("an address")?;
        let stream =
            TcpStream::connect_timeout(&to, CONNECT_TIMEOUT).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, correlation: 0 })
    }

    pub fn set_answer_timeout(&mut self, limit: Duration) -> anyhow::Result<()> {
        Ok(self.stream.set_read_timeout(Some(limit))?)
    }

    /// A request whose correlation id is the connection's next.
    pub fn request(&mut self, api_key: i16, version: i16) -> Writer {
        self.correlation += 1;
        Writer::request(api_key, version, self.correlation)
    }

    pub fn send(&mut self, request: Writer) -> anyhow::Result<()> {
        self.send_raw(&request.frame())
    }

    /// Any bytes at all.
    pub fn send_raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next answer: its correlation id and the rest (a flexible answer's header tags still in it).
    pub fn receive(&mut self) -> anyhow::Result<(i32, Vec<u8>)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("wait for an answer")?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!((4..=ANSWER_BYTES_MAX).contains(&length), "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).context("read an answer")?;
        let correlation = Reader(&body).i32()?;
        body.drain(..4);
        Ok((correlation, body))
    }

    /// Sends, and reads the answer, which must be to this request.
    pub fn call(&mut self, request: Writer) -> anyhow::Result<Vec<u8>> {
        let expected = self.correlation;
        self.send(request)?;
        let (correlation, body) = self.receive()?;
        ensure!(correlation == expected, "answer {correlation} to request {expected}");
        Ok(body)
    }

    /// Reads until the broker closes; the bytes that came before. An error when it stays open for `limit`.
    pub fn read_to_close(&mut self, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let (deadline, mut all, mut part) = (Instant::now() + limit, Vec::new(), [0; 4096]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the connection was still open after {limit:?}");
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(all),
                Ok(count) => all.extend_from_slice(&part[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(all),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// ApiVersions v0: (key, least version, greatest version) of each API.
    pub fn api_versions(&mut self) -> anyhow::Result<Vec<(i16, i16, i16)>> {
        let request = self.request(18, 0);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        expect_none("ApiVersions", answer.i16()?)?;
        answer.list(|one| Ok((one.i16()?, one.i16()?, one.i16()?)))
    }

    /// Metadata v7; `None` asks for all topics.
    pub fn metadata(&mut self, topics: Option<&[&str]>, auto_create: bool) -> anyhow::Result<Metadata> {
        let mut request = self.request(3, 7);
        match topics {
            None => {
                request.i32(-1);
            }
            Some(topics) => {
                request.i32(topics.len() as i32);
                for topic in topics {
                    request.string(topic);
                }
            }
        }
        request.i8(i8::from(auto_create));
        let body = self.call(request)?;
        Metadata::read(&mut Reader(&body))
    }

    pub fn send_produce(&mut self, topic: &str, partition: i32, batch: &[u8], acks: i16) -> anyhow::Result<()> {
        let mut request = self.request(0, 8);
        request.i16(-1).i16(acks).i32(5_000).i32(1).string(topic).i32(1).i32(partition).bytes(batch);
        self.send(request)
    }

    pub fn receive_produced(&mut self) -> anyhow::Result<Produced> {
        let (_, body) = self.receive()?;
        let mut answer = Reader(&body);
        ensure!(answer.i32()? == 1, "one topic asked, one answered");
        answer.string()?;
        ensure!(answer.i32()? == 1, "one partition asked, one answered");
        answer.i32()?;
        Ok(Produced { error: answer.i16()?, base_offset: answer.i64()? })
    }

    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8], acks: i16) -> anyhow::Result<Produced> {
        self.send_produce(topic, partition, batch, acks)?;
        self.receive_produced()
    }

    /// Fetch v11, without a session, of one partition.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        options: FetchOptions,
    ) -> anyhow::Result<Fetched> {
        let mut request = self.request(1, 11);
        request.i32(-1).i32(options.wait_ms).i32(options.min_bytes).i32(options.max_bytes).i8(0).i32(0).i32(-1);
        request.i32(1).string(topic).i32(1);
        request.i32(partition).i32(options.leader_epoch).i64(offset).i64(-1).i32(options.max_bytes);
        request.i32(0).string("");
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        expect_none("Fetch", answer.i16()?)?;
        answer.i32()?;
        let mut found = answer.list(|topic| {
            topic.string()?;
            topic.list(Fetched::read)
        })?;
        found.pop().and_then(|mut partitions| partitions.pop()).context("the partition is answered")
    }

    /// ListOffsets v5: (error, timestamp, offset, leader epoch).
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> anyhow::Result<(i16, i64, i64, i32)> {
        self.list_offset_for(0, topic, partition, timestamp)
    }

    /// As `list_offset`, for a reader of isolation level 0 (read_uncommitted) or 1 (read_committed).
    pub fn list_offset_for(
        &mut self,
        isolation: i8,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> anyhow::Result<(i16, i64, i64, i32)> {
        let mut request = self.request(2, 5);
        request.i32(-1).i8(isolation).i32(1).string(topic).i32(1).i32(partition).i32(-1).i64(timestamp);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        ensure!(answer.i32()? == 1, "one topic");
        answer.string()?;
        ensure!(answer.i32()? == 1, "one partition");
        answer.i32()?;
        Ok((answer.i16()?, answer.i64()?, answer.i64()?, answer.i32()?))
    }

    /// OffsetForLeaderEpoch v3: (error, epoch, end offset).
    pub fn epoch_end(&mut self, topic: &str, partition: i32, epoch: i32) -> anyhow::Result<(i16, i32, i64)> {
        let mut request = self.request(23, 3);
        request.i32(-2).i32(1).string(topic).i32(1).i32(partition).i32(-1).i32(epoch);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        ensure!(answer.i32()? == 1, "one topic");
        answer.string()?;
        ensure!(answer.i32()? == 1, "one partition");
        let error = answer.i16()?;
        answer.i32()?;
        Ok((error, answer.i32()?, answer.i64()?))
    }

    /// InitProducerId v1, not transactional: (error, id, epoch).
    pub fn init_producer_id(&mut self) -> anyhow::Result<(i16, i64, i16)> {
        let mut request = self.request(22, 1);
        request.i16(-1).i32(60_000);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        Ok((answer.i16()?, answer.i64()?, answer.i16()?))
    }

    /// CreateTopics v3: the error code and Kafka's message.
    pub fn create_topic(&mut self, topic: &NewTopic) -> anyhow::Result<(i16, String)> {
        let mut request = self.request(19, 3);
        request.i32(1).string(&topic.name).i32(topic.partitions).i16(topic.replication);
        request.i32(topic.assignments.len() as i32);
        for (partition, brokers) in topic.assignments.iter().enumerate() {
            request.i32(partition as i32).i32(brokers.len() as i32);
            for broker in brokers {
                request.i32(*broker);
            }
        }
        request.i32(topic.configs.len() as i32);
        for (name, value) in &topic.configs {
            request.string(name).string(value);
        }
        request.i32(10_000).i8(0);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        ensure!(answer.i32()? == 1, "one topic");
        answer.string()?;
        Ok((answer.i16()?, answer.string()?))
    }

    /// DeleteTopics v3: the error code.
    pub fn delete_topic(&mut self, topic: &str) -> anyhow::Result<i16> {
        let mut request = self.request(20, 3);
        request.i32(1).string(topic).i32(10_000);
        let body = self.call(request)?;
        let mut answer = Reader(&body);
        answer.i32()?;
        ensure!(answer.i32()? == 1, "one topic");
        answer.string()?;
        answer.i16()
    }
}

fn expect_none(what: &str, code: i16) -> anyhow::Result<()> {
    if code != error::NONE {
        bail!("{what}: error {code}");
    }
    Ok(())
}

/// The answer to a Produce of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Produced {
    pub error: i16,
    pub base_offset: i64,
}

/// How a fetch waits and how much it takes.
#[derive(Clone, Copy, Debug)]
pub struct FetchOptions {
    pub wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// -1: not checked.
    pub leader_epoch: i32,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { wait_ms: 500, min_bytes: 1, max_bytes: 1 << 20, leader_epoch: -1 }
    }
}

/// One partition of a Fetch answer.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub partition: i32,
    pub error: i16,
    pub high_watermark: i64,
    pub log_start: i64,
    pub data: Vec<u8>,
}

impl Fetched {
    fn read(from: &mut Reader<'_>) -> anyhow::Result<Self> {
        let (partition, error, high_watermark) = (from.i32()?, from.i16()?, from.i64()?);
        let (_last_stable, log_start) = (from.i64()?, from.i64()?);
        from.list(|aborted| Ok((aborted.i64()?, aborted.i64()?)))?;
        from.i32()?;
        Ok(Self { partition, error, high_watermark, log_start, data: from.bytes()?.to_vec() })
    }

    /// The records from `offset` on; those before it in the first batch are left out.
    pub fn records(&self, offset: i64) -> anyhow::Result<Vec<StoredRecord>> {
        let mut out = Vec::new();
        for batch in batches(&self.data)?.iter().filter(|batch| !batch.is_control()) {
            out.extend(batch.records()?.into_iter().filter(|record| record.offset >= offset));
        }
        Ok(out)
    }
}

/// A topic to be created. `assignments` overrides the two counts, which are then -1.
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub replication: i16,
    pub assignments: Vec<Vec<i32>>,
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    pub fn new(name: &str, partitions: i32, replication: i16) -> Self {
        Self { name: name.to_owned(), partitions, replication, assignments: Vec::new(), configs: Vec::new() }
    }

    /// Partition i on `brokers[i]`, the preferred leader first.
    pub fn assigned(name: &str, brokers: &[&[i32]]) -> Self {
        let assignments = brokers.iter().map(|replicas| replicas.to_vec()).collect();
        Self { assignments, ..Self::new(name, -1, -1) }
    }

    pub fn config(mut self, name: &str, value: impl ToString) -> Self {
        self.configs.push((name.to_owned(), value.to_string()));
        self
    }
}

#[derive(Clone, Debug)]
pub struct Metadata {
    /// Broker id to `host:port`.
    pub brokers: BTreeMap<i32, String>,
    pub cluster_id: String,
    pub topics: BTreeMap<String, TopicMetadata>,
}

#[derive(Clone, Debug)]
pub struct TopicMetadata {
    pub error: i16,
    pub partitions: BTreeMap<i32, PartitionMetadata>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionMetadata {
    pub error: i16,
    /// -1: none.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
}

impl Metadata {
    fn read(from: &mut Reader<'_>) -> anyhow::Result<Self> {
        from.i32()?;
        let brokers = from.list(|broker| {
            let (id, host, port) = (broker.i32()?, broker.string()?, broker.i32()?);
            broker.string()?;
            Ok((id, format!("{host}:{port}")))
        })?;
        let cluster_id = from.string()?;
        from.i32()?;
        let topics = from.list(|topic| {
            let (error, name, _internal) = (topic.i16()?, topic.string()?, topic.i8()?);
            let partitions = topic.list(|partition| {
                let (error, index, leader) = (partition.i16()?, partition.i32()?, partition.i32()?);
                let leader_epoch = partition.i32()?;
                let replicas = partition.list(Reader::i32)?;
                let mut isr = partition.list(Reader::i32)?;
                isr.sort_unstable();
                partition.list(Reader::i32)?;
                Ok((index, PartitionMetadata { error, leader, leader_epoch, replicas, isr }))
            })?;
            Ok((name, TopicMetadata { error, partitions: partitions.into_iter().collect() }))
        })?;
        let (brokers, topics) = (brokers.into_iter().collect(), topics.into_iter().collect());
        Ok(Self { brokers, cluster_id, topics })
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionMetadata> {
        self.topics.get(topic)?.partitions.get(&partition)
    }
}

/// Whether a client repeats a request that got this answer.
fn is_retriable(code: i16) -> bool {
    use error::*;
    matches!(
        code,
        UNKNOWN_TOPIC_OR_PARTITION
            | LEADER_NOT_AVAILABLE
            | NOT_LEADER_OR_FOLLOWER
            | REQUEST_TIMED_OUT
            | COORDINATOR_LOAD_IN_PROGRESS
            | COORDINATOR_NOT_AVAILABLE
            | NOT_COORDINATOR
            | NOT_ENOUGH_REPLICAS
            | 20 // NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | 13 // NETWORK_EXCEPTION
            | 56 // KAFKA_STORAGE_ERROR
            | 78 // OFFSET_NOT_AVAILABLE
            | 100 // UNKNOWN_TOPIC_ID, of a leader that has not heard of the topic yet
            | FENCED_LEADER_EPOCH
            | UNKNOWN_LEADER_EPOCH
    )
}

/// Finds leaders and repeats.
#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<String>,
    connections: BTreeMap<String, Connection>,
    /// How long one operation is repeated before it counts as failed.
    pub limit: Duration,
}

impl Client {
    pub fn new(bootstrap: &str) -> Self {
        let bootstrap = bootstrap.split(',').map(str::to_owned).collect();
        Self { bootstrap, connections: BTreeMap::new(), limit: Duration::from_secs(20) }
    }

    /// A connection to this address, kept. After an error, `forget` it.
    pub fn connection(&mut self, address: &str) -> anyhow::Result<&mut Connection> {
        if !self.connections.contains_key(address) {
            let fresh = Connection::open(address)?;
            self.connections.insert(address.to_owned(), fresh);
        }
        self.connections.get_mut(address).context("just inserted")
    }

    pub fn forget(&mut self, address: &str) {
        self.connections.remove(address);
    }

    /// Metadata from the first node that answers.
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> anyhow::Result<Metadata> {
        let mut last = anyhow::anyhow!("no bootstrap address");
        for address in self.bootstrap.clone() {
            match self.connection(&address).and_then(|connection| {
                connection.set_answer_timeout(Duration::from_secs(2))?;
                let answer = connection.metadata(topics, false);
                connection.set_answer_timeout(ANSWER_TIMEOUT)?;
                answer
            }) {
                Ok(metadata) => return Ok(metadata),
                Err(e) => {
                    self.forget(&address);
                    last = e;
                }
            }
        }
        Err(last)
    }

    /// Where the partition is led, waiting until it is: broker id and address, as the first node that answers tells it.
    pub fn leader(&mut self, topic: &str, partition: i32) -> anyhow::Result<(i32, String)> {
        crate::wait_for(&format!("leader of {topic}-{partition}"), self.limit, || {
            let metadata = self.metadata(Some(&[topic]))?;
            let found = metadata.partition(topic, partition);
            Ok(found.and_then(|p| Some((p.leader, metadata.brokers.get(&p.leader)?.clone()))))
        })
    }

    /// Creates a topic and waits until every partition has a leader that serves it.
    pub fn create_topic(&mut self, topic: &NewTopic) -> anyhow::Result<()> {
        let limit = self.limit;
        crate::wait_for(&format!("create {}", topic.name), limit, || {
            let address = self.bootstrap[0].clone();
            let answer = self.connection(&address).and_then(|connection| connection.create_topic(topic));
            match answer {
                Ok((error::NONE | error::TOPIC_ALREADY_EXISTS, _)) => Ok(Some(())),
                Ok((code, message)) => bail!("error {code} {message}"),
                Err(e) => {
                    self.bootstrap.rotate_left(1);
                    self.forget(&address);
                    Err(e)
                }
            }
        })?;
        let count = if topic.assignments.is_empty() { topic.partitions } else { topic.assignments.len() as i32 };
        for partition in 0..count {
            self.end_offset(&topic.name, partition)?;
        }
        Ok(())
    }

    /// Calls `attempt` at the partition's leader until its answer is no longer one that a client repeats.
    pub fn at_leader<T>(
        &mut self,
        topic: &str,
        partition: i32,
        mut attempt: impl FnMut(&mut Connection) -> anyhow::Result<(i16, T)>,
    ) -> anyhow::Result<(i16, T)> {
        let limit = self.limit;
        crate::wait_for(&format!("{topic}-{partition}"), limit, || {
            let (_, address) = self.leader(topic, partition)?;
            match self.connection(&address).and_then(&mut attempt) {
                Ok((code, _)) if is_retriable(code) => bail!("error {code} from {address}"),
                Ok(answer) => Ok(Some(answer)),
                Err(e) => {
                    self.forget(&address);
                    Err(e)
                }
            }
        })
    }

    /// Produces one batch with acks=all; the base offset. Repeats: without a producer id, duplicates are possible.
    pub fn produce(&mut self, topic: &str, partition: i32, values: &[Vec<u8>]) -> anyhow::Result<i64> {
        self.produce_batch(topic, partition, &Batch::of(values).encode())
    }

    pub fn produce_batch(&mut self, topic: &str, partition: i32, batch: &[u8]) -> anyhow::Result<i64> {
        let (code, base_offset) = self.at_leader(topic, partition, |connection| {
            let answer = connection.produce(topic, partition, batch, -1)?;
            Ok((answer.error, answer.base_offset))
        })?;
        expect_none("Produce", code)?;
        Ok(base_offset)
    }

    /// The offset after the last record that consumers may see.
    pub fn end_offset(&mut self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        let (code, offset) = self.at_leader(topic, partition, |connection| {
            let (code, _, offset, _) = connection.list_offset(topic, partition, -1)?;
            Ok((code, offset))
        })?;
        expect_none("ListOffsets", code)?;
        Ok(offset)
    }

    /// Every record from `from` to the end at the time of the call.
    pub fn read_all(&mut self, topic: &str, partition: i32, from: i64) -> anyhow::Result<Vec<StoredRecord>> {
        let mut out = Vec::new();
        self.read_each(topic, partition, from, |record| {
            out.push(record);
            Ok(())
        })?;
        Ok(out)
    }

    /// Calls `each` for every record from `from` to the end at the time of the call.
    pub fn read_each(
        &mut self,
        topic: &str,
        partition: i32,
        from: i64,
        mut each: impl FnMut(StoredRecord) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (end, mut next) = (self.end_offset(topic, partition)?, from);
        while next < end {
            let (code, fetched) = self.at_leader(topic, partition, |connection| {
                let fetched = connection.fetch(topic, partition, next, FetchOptions::default())?;
                Ok((fetched.error, fetched))
            })?;
            ensure!(code == error::NONE, "fetch {topic}-{partition} from {next}: error {code}");
            fetched.records(next)?.into_iter().try_for_each(&mut each)?;
            match batches(&fetched.data)?.last().map(|batch| batch.last_offset) {
                Some(last) => {
                    ensure!(last >= next, "fetch from {next} answered with batches up to {last}");
                    next = last + 1;
                }
                None => ensure!(fetched.high_watermark >= next, "the high watermark went back"),
            }
        }
        Ok(())
    }

    /// Waits until the partition's ISR is exactly `isr`.
    pub fn wait_isr(&mut self, topic: &str, partition: i32, isr: &[i32]) -> anyhow::Result<PartitionMetadata> {
        let mut isr = isr.to_vec();
        isr.sort_unstable();
        crate::wait_for(&format!("ISR of {topic}-{partition} = {isr:?}"), self.limit, || {
            let metadata = self.metadata(Some(&[topic]))?;
            let found = metadata.partition(topic, partition).context("the partition is known")?;
            ensure!(found.isr == isr, "it is {:?}, leader {}", found.isr, found.leader);
            Ok(Some(found.clone()))
        })
    }
}
