//! Reads partitions from their leaders, all leaders at once, and follows them when they move.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use odradek_common::ErrorCode;
use odradek_common::time::Instant;
use odradek_records::{Batches, DECOMPRESSED_BYTES_MAX, Record};
use odradek_wire::Str;
use odradek_wire::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use odradek_wire::fetch_response::{FetchResponse, PartitionData};

use super::leaders::{EARLIEST, LATEST};
use super::{Broker, Cluster, PAUSE, Trouble};
use crate::args::Start;
use crate::error::CliError;

/// The versions that name topics.
const FETCH: (i16, i16) = (4, 12);

/// How long a leader keeps a fetch that finds nothing.
const WAIT: Duration = Duration::from_millis(500);
/// What one fetch brings at most.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// All partitions of a leader together.
    pub bytes_max: i32,
    pub partition_bytes_max: i32,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self { bytes_max: 8 << 20, partition_bytes_max: 1 << 20 }
    }
}

type Answer = (i32, Broker, io::Result<FetchResponse>);
type Fetch = Pin<Box<dyn Future<Output = Answer> + Send>>;

pub struct Consumer {
    cluster: Cluster,
    timeout: Duration,
    limits: FetchLimits,
    /// The next offset of each partition that is read.
    positions: BTreeMap<i32, i64>,
    /// Where reading ends, unless it follows.
    ends: Option<BTreeMap<i32, i64>>,
    fetches: FuturesUnordered<Fetch>,
    /// Leaders with a fetch under way.
    busy: BTreeSet<i32>,
    /// Until when an answer has to come, counted from the last one.
    deadline: Instant,
}

impl Consumer {
    /// Finds where to begin, and where to end if `exit_at_end`. No partition at all means all of them.
    pub async fn new(
        cluster: Cluster,
        partitions: &[i32],
        start: Start,
        exit_at_end: bool,
        timeout: Duration,
    ) -> Result<Self, CliError> {
        let chosen = cluster.chosen(partitions)?;
        let deadline = cluster.deadline();
        let mut consumer = Self {
            cluster,
            timeout,
            limits: FetchLimits::default(),
            positions: BTreeMap::new(),
            ends: None,
            fetches: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            deadline,
        };
        let latest = match exit_at_end || !matches!(start, Start::Earliest) {
            true => consumer.cluster.offsets(&chosen, LATEST).await?,
            false => BTreeMap::new(),
        };
        let end_of = |partition: i32| latest.get(&partition).copied().unwrap_or(0);
        consumer.positions = match start {
            Start::Latest => latest.clone(),
            Start::Earliest => consumer.cluster.offsets(&chosen, EARLIEST).await?,
            Start::Offset(offset) => chosen.iter().map(|partition| (*partition, offset)).collect(),
            // Nothing is that new: begin with what comes.
            Start::Time(time) => {
                let found = consumer.cluster.offsets(&chosen, time).await?;
                found.into_iter().map(|(at, offset)| (at, if offset < 0 { end_of(at) } else { offset })).collect()
            }
        };
        if let Start::Offset(offset) = start {
            consumer.check_offset(offset, &chosen, &latest).await?;
        }
        consumer.ends = exit_at_end.then_some(latest);
        consumer.forget_finished();
        Ok(consumer)
    }

    pub fn limit(&mut self, limits: FetchLimits) {
        self.limits = limits;
    }

    /// The next records, of one partition each, in order. An empty answer: nothing new for now. `None`: the end.
    pub async fn next(&mut self) -> Result<Option<Vec<(i32, Vec<Record>)>>, CliError> {
        if self.positions.is_empty() {
            return Ok(None);
        }
        self.start_fetches().await?;
        let Some((leader, broker, answer)) = self.fetches.next().await else {
            return Ok(Some(Vec::new()));
        };
        self.busy.remove(&leader);
        let answer = match answer {
            Ok(answer) => {
                self.cluster.give_back(leader, broker);
                answer
            }
            Err(error) => {
                self.recover(Trouble::Nobody(format!("broker {leader}: {error}"))).await?;
                return Ok(Some(Vec::new()));
            }
        };
        if answer.error_code != 0 {
            self.recover(Trouble::Topic(ErrorCode::from_code(answer.error_code))).await?;
            return Ok(Some(Vec::new()));
        }
        let mut found = Vec::new();
        for data in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let partition = data.partition_index;
            let records = self.take(data).await?;
            if !records.is_empty() {
                found.push((partition, records));
            }
        }
        self.forget_finished();
        Ok(Some(found))
    }

    /// A fetch for each leader that has none under way.
    async fn start_fetches(&mut self) -> Result<(), CliError> {
        let mut by_leader: BTreeMap<i32, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, offset) in &self.positions {
            let leader = self.cluster.partitions.get(partition).map_or(-1, |known| known.leader);
            by_leader.entry(leader).or_default().push(FetchPartition {
                partition: *partition,
                fetch_offset: *offset,
                partition_max_bytes: self.limits.partition_bytes_max,
                ..Default::default()
            });
        }
        for (leader, partitions) in by_leader {
            if self.busy.contains(&leader) {
                continue;
            }
            let mut broker = match self.cluster.take(leader).await {
                Ok(broker) => broker,
                Err(trouble) => {
                    self.recover(trouble).await?;
                    continue;
                }
            };
            let topic = FetchTopic { topic: Str::from(self.cluster.topic.as_str()), partitions, ..Default::default() };
            let request = FetchRequest {
                replica_id: -1,
                max_wait_ms: WAIT.as_millis() as i32,
                min_bytes: 1,
                max_bytes: self.limits.bytes_max,
                session_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            };
            let (world, within) = (self.cluster.world.clone(), WAIT + self.timeout);
            self.busy.insert(leader);
            self.fetches.push(Box::pin(async move {
                let answer = broker.call(&world, within, FETCH.0, FETCH.1, &request).await;
                (leader, broker, answer)
            }));
        }
        Ok(())
    }

    /// The records of one partition's answer from our position on.
    async fn take(&mut self, data: PartitionData) -> Result<Vec<Record>, CliError> {
        let partition = data.partition_index;
        let Some(position) = self.positions.get(&partition).copied() else { return Ok(Vec::new()) };
        match ErrorCode::from_code(data.error_code) {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                self.skip_deleted(partition, position).await?;
                return Ok(Vec::new());
            }
            code if code.is_retriable() => {
                self.recover(Trouble::Topic(code)).await?;
                return Ok(Vec::new());
            }
            code => return Err(CliError::kafka(code, &format!("{}-{partition}", self.cluster.topic), None)),
        }
        self.deadline = self.cluster.deadline();
        let bytes = data.records.and_then(odradek_wire::Records::into_bytes).unwrap_or_default();
        let name = format!("{}-{partition}", self.cluster.topic);
        let broken =
            |error: &dyn std::fmt::Display| CliError::failed(format!("{name}, from offset {position}: {error}"));
        let mut records = Vec::new();
        let mut next = position;
        for batch in Batches::new(bytes) {
            let batch = match batch {
                Ok(batch) => batch,
                // The last batch may be cut off; the next fetch brings it whole.
                Err(_) if next > position => break,
                Err(error) => return Err(broken(&error)),
            };
            batch.check_crc().map_err(|error| broken(&error))?;
            next = next.max(batch.header.next_offset().0);
            if batch.header.attributes.is_control() {
                continue;
            }
            for record in batch.records(DECOMPRESSED_BYTES_MAX).map_err(|error| broken(&error))? {
                let record = record.map_err(|error| broken(&error))?;
                let before_end =
                    self.ends.as_ref().and_then(|ends| ends.get(&partition)).is_none_or(|end| record.offset.0 < *end);
                if record.offset.0 >= position && before_end {
                    records.push(record);
                }
            }
        }
        self.positions.insert(partition, next);
        Ok(records)
    }

    /// Looks who leads now; fails when nothing has helped for the whole `--timeout`.
    async fn recover(&mut self, trouble: Trouble) -> Result<(), CliError> {
        if self.cluster.world.instant() >= self.deadline {
            return Err(self.cluster.give_up(&trouble));
        }
        self.cluster.world.sleep(PAUSE).await;
        match self.cluster.refresh(false).await {
            Err(Trouble::Topic(ErrorCode::UnknownTopicOrPartition)) => Err(CliError::no_topic(&self.cluster.topic)),
            _ => Ok(()),
        }
    }

    /// Our position is gone because records were deleted: go on with the first that is there.
    async fn skip_deleted(&mut self, partition: i32, position: i64) -> Result<(), CliError> {
        let earliest = self.cluster.offsets(&[partition], EARLIEST).await?.get(&partition).copied().unwrap_or(0);
        if earliest <= position {
            let latest = self.cluster.offsets(&[partition], LATEST).await?.get(&partition).copied().unwrap_or(0);
            return Err(self.out_of_range(partition, position, earliest, latest));
        }
        eprintln!(
            "odradek: {}-{partition}: offsets {position} to {} are deleted; going on at {earliest}",
            self.cluster.topic,
            earliest - 1
        );
        self.positions.insert(partition, earliest);
        Ok(())
    }

    async fn check_offset(&mut self, offset: i64, chosen: &[i32], latest: &BTreeMap<i32, i64>) -> Result<(), CliError> {
        let earliest = self.cluster.offsets(chosen, EARLIEST).await?;
        for partition in chosen {
            let (first, end) = (earliest.get(partition).copied(), latest.get(partition).copied());
            let (first, end) = (first.unwrap_or(0), end.unwrap_or(0));
            if offset < first || offset > end {
                return Err(self.out_of_range(*partition, offset, first, end));
            }
        }
        Ok(())
    }

    fn out_of_range(&self, partition: i32, offset: i64, first: i64, end: i64) -> CliError {
        CliError::failed(format!(
            "{}-{partition} has no offset {offset}: it begins at {first} and ends before {end}; choose with --from, and \
             the partition with --partition",
            self.cluster.topic
        ))
    }

    fn forget_finished(&mut self) {
        if let Some(ends) = &self.ends {
            self.positions.retain(|partition, position| ends.get(partition).is_some_and(|end| *position < *end));
        }
    }
}
