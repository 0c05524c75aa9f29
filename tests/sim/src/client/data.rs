//! Records: batches of any kind of producer, reads of either isolation level, by name or by topic id, and what brokers say of
//! a partition's ends.

use std::io;

use bytes::Bytes;
use odradek_common::{ErrorCode, Uuid};
use odradek_records::{Batches, RecordBatchBuilder};
use odradek_wire::fetch_request::{FetchPartition, FetchTopic};
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use odradek_wire::produce_request::{PartitionProduceData, TopicProduceData};
use odradek_wire::{FetchRequest, ListOffsetsRequest, ProduceRequest, Records, Str};

use super::{Client, Failure, PATIENCE, Producer};

/// ListOffsets' name of the first offset.
pub const EARLIEST: i64 = -2;
/// ListOffsets' name of the offset behind the last record.
pub const LATEST: i64 = -1;

/// One record that is sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outgoing {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Outgoing {
    pub fn of_value(value: impl Into<Vec<u8>>) -> Self {
        Self { key: None, value: Some(value.into()) }
    }
}

/// What a batch is sent as.
#[derive(Clone, Debug, Default)]
pub struct Sending {
    pub acks: i16,
    /// Without it the batch is of no idempotent producer.
    pub producer: Option<(Producer, i32)>,
    pub transactional_id: Option<String>,
    /// Whether the partition joins the transaction by this batch (transaction.version 2).
    pub joins: bool,
    /// Sends to this topic, whatever has the name now.
    pub topic_id: Option<Uuid>,
    pub records: Vec<Outgoing>,
}

/// One record as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// What one read answered. Records of aborted transactions are left out when committed ones were asked for.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub records: Vec<Seen>,
    pub high_watermark: i64,
    pub last_stable: i64,
    pub log_start: i64,
    pub next_offset: i64,
}

/// Where a read begins and what it may see.
#[derive(Clone, Copy, Debug)]
pub struct ReadFrom {
    pub offset: i64,
    pub committed_only: bool,
    /// Reads this topic, whatever has the name now.
    pub topic_id: Option<Uuid>,
}

impl ReadFrom {
    pub fn offset(offset: i64) -> Self {
        Self { offset, committed_only: false, topic_id: None }
    }

    pub fn committed(offset: i64) -> Self {
        Self { committed_only: true, ..Self::offset(offset) }
    }
}

impl Client {
    /// Sends one batch to the partition's leader and answers its first offset; with acks=0 -1, as soon as it is sent.
    pub async fn send(&mut self, topic: &str, partition: i32, sending: &Sending) -> Result<i64, Failure> {
        let leader = *self.leaders.get(&partition).ok_or(Failure::Kafka(ErrorCode::LeaderNotAvailable))?;
        let mut batch = RecordBatchBuilder::new().transactional(sending.transactional_id.is_some());
        if let Some((producer, sequence)) = sending.producer {
            batch = batch.producer(producer.id.into(), producer.epoch.into(), sequence);
        }
        for record in &sending.records {
            batch.append(self.world.timestamp(), record.key.as_deref(), record.value.as_deref());
        }
        let records = batch.build().map_err(|error| io::Error::other(error.to_string()))?;
        let data =
            PartitionProduceData { index: partition, records: Some(Records::Bytes(records)), ..Default::default() };
        let mut to = TopicProduceData { partition_data: vec![data], ..Default::default() };
        let version = match sending.topic_id {
            Some(id) => {
                to.topic_id = id;
                13
            }
            None => {
                to.name = Str::from(topic);
                if sending.joins { 12 } else { 9 }
            }
        };
        let request = ProduceRequest {
            transactional_id: sending.transactional_id.as_deref().map(Str::from),
            acks: sending.acks,
            timeout_ms: 3_000,
            topic_data: vec![to],
            ..Default::default()
        };
        if sending.acks == 0 {
            let mut connection = self.connection(leader.broker).await?;
            self.world.timeout(PATIENCE, connection.send(version, &request)).await.map_err(io::Error::from)??;
            self.connections.insert(leader.broker, connection);
            return Ok(-1);
        }
        let answer = self.ask(leader.broker, version, &request).await?;
        let result = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let result = result.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(result.error_code)?;
        Ok(result.base_offset)
    }

    /// Reads once, waiting up to half a second for something new.
    pub async fn read(&mut self, topic: &str, partition: i32, from: ReadFrom) -> Result<Reading, Failure> {
        let leader = *self.leaders.get(&partition).ok_or(Failure::Kafka(ErrorCode::LeaderNotAvailable))?;
        let asked = FetchPartition {
            partition,
            current_leader_epoch: leader.epoch,
            fetch_offset: from.offset,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let mut asked = FetchTopic { partitions: vec![asked], ..Default::default() };
        let version = match from.topic_id {
            Some(id) => {
                asked.topic_id = id;
                13
            }
            None => {
                asked.topic = Str::from(topic);
                12
            }
        };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 8 << 20,
            isolation_level: i8::from(from.committed_only),
            topics: vec![asked],
            session_id: 0,
            session_epoch: -1,
            ..Default::default()
        };
        let answer = self.ask(leader.broker, version, &request).await?;
        Failure::check(answer.error_code)?;
        let result = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let result = result.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(result.error_code)?;
        let mut reading = Reading {
            high_watermark: result.high_watermark,
            last_stable: result.last_stable_offset,
            log_start: result.log_start_offset,
            next_offset: from.offset,
            ..Default::default()
        };
        // As Java's client: a producer's records are skipped from where its aborted transaction begins up to its marker.
        let mut aborted: Vec<(i64, i64)> = (result.aborted_transactions.unwrap_or_default().iter())
            .map(|transaction| (transaction.first_offset, transaction.producer_id))
            .collect();
        aborted.sort_unstable();
        let mut skipped = std::collections::BTreeSet::new();
        for batch in Batches::new(result.records.and_then(Records::into_bytes).unwrap_or_default()) {
            // The last batch may be cut by the size limit.
            let Ok(batch) = batch else { break };
            batch.check_crc().map_err(|error| io::Error::other(error.to_string()))?;
            let header = &batch.header;
            // The checksum does not cover the epoch: a damaged one is no news.
            self.know_read_epoch(partition, header.leader_epoch.0.min(leader.epoch));
            reading.next_offset = reading.next_offset.max(header.next_offset().0);
            let until = header.next_offset().0;
            while let Some((_, producer)) = aborted.first().filter(|(first, _)| from.committed_only && *first < until) {
                skipped.insert(*producer);
                aborted.remove(0);
            }
            if header.attributes.is_control() {
                skipped.remove(&header.producer_id.0);
                continue;
            }
            if header.attributes.is_transactional() && skipped.contains(&header.producer_id.0) {
                continue;
            }
            for record in batch.records(1 << 20).map_err(|error| io::Error::other(error.to_string()))? {
                let record = record.map_err(|error| io::Error::other(error.to_string()))?;
                if record.offset.0 >= from.offset {
                    reading.records.push(Seen {
                        offset: record.offset.0,
                        timestamp_ms: record.timestamp.0,
                        key: record.key,
                        value: record.value,
                    });
                }
            }
        }
        Ok(reading)
    }

    /// `EARLIEST` or `LATEST`, as the leader knows it.
    pub async fn offset_of(&mut self, topic: &str, partition: i32, which: i64) -> Result<i64, Failure> {
        let leader = *self.leaders.get(&partition).ok_or(Failure::Kafka(ErrorCode::LeaderNotAvailable))?;
        let asked = ListOffsetsPartition {
            partition_index: partition,
            current_leader_epoch: leader.epoch,
            timestamp: which,
            ..Default::default()
        };
        let asked = ListOffsetsTopic { name: Str::from(topic), partitions: vec![asked], ..Default::default() };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![asked], ..Default::default() };
        let answer = self.ask(leader.broker, 7, &request).await?;
        let result = answer.topics.first().and_then(|topic| topic.partitions.first());
        let result = result.ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        Failure::check(result.error_code)?;
        Ok(result.offset)
    }

    /// All records from the start to the end that readers of this isolation level have; `None` when it is not served
    /// within `patience`.
    pub async fn read_to_end(
        &mut self,
        topic: &str,
        partition: i32,
        mut from: ReadFrom,
        patience: std::time::Duration,
    ) -> Option<Vec<Seen>> {
        let (mut records, limit) = (Vec::new(), self.world.instant() + patience);
        while self.world.instant() < limit {
            match self.read(topic, partition, from).await {
                Ok(reading) => {
                    records.extend(reading.records);
                    from.offset = reading.next_offset;
                    let end = if from.committed_only { reading.last_stable } else { reading.high_watermark };
                    if from.offset >= end {
                        return Some(records);
                    }
                }
                Err(Failure::Kafka(ErrorCode::OffsetOutOfRange)) if records.is_empty() => {
                    if let Ok(start) = self.offset_of(topic, partition, EARLIEST).await {
                        from.offset = start;
                    }
                }
                Err(_) => {
                    self.world.sleep(crate::workload::RETRY_PAUSE).await;
                    let _ = self.refresh(topic).await;
                }
            }
        }
        None
    }
}
