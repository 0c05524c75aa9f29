//! Collects records in batches, writes them to the leaders of their partitions, several requests to each under way, and
//! repeats what failed.
//!
//! With acks=all the producer is idempotent (KIP-98): it asks for a producer id and numbers each partition's records, so
//! that a batch sent again after a lost answer is stored once. After a failure a partition waits until all that it has
//! under way is answered, and then sends the same batches again in the same order; at most five of them, as many as a
//! broker remembers. With other acks, and without a producer id, such a repetition may write a record twice or change
//! the order, as with Kafka's own clients.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use odradek_common::time::{Instant, Timestamp};
use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};
use odradek_records::{Codec, RecordBatchBuilder};
use odradek_wire::init_producer_id_request::InitProducerIdRequest;
use odradek_wire::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek_wire::produce_response::PartitionProduceResponse;
use odradek_wire::{ApiKey, Records, Str};
use tokio::sync::mpsc;

use super::link::{Event, Leader, Link};
use super::{Cluster, PAUSE, Trouble, no_partition};
use crate::error::CliError;

const INIT_PRODUCER_ID: (i16, i16) = (0, 4);
/// Batches of a partition that may be under way with a producer id: a broker remembers as many.
pub const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;
/// All that is not acknowledged, of all partitions (`buffer.memory` of Kafka's producer).
const BUFFER_BYTES_MAX: usize = 32 << 20;
/// One request, unless a single batch is larger (`max.request.size`).
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub key: Option<Bytes>,
    /// `None`: a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// `None`: now.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// What its text takes in a batch, without lengths.
    pub fn size(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + len(value)).sum();
        len(&self.key) + len(&self.value) + headers
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// -1: all.
    pub acks: i16,
    pub codec: Codec,
    /// Of a batch, before compression.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// Requests under way to each broker.
    pub in_flight: usize,
    /// How long a partition may make no progress.
    pub timeout: Duration,
}

/// A batch that is acknowledged, or was sent with acks=0.
#[derive(Clone, Debug)]
pub struct Written {
    pub partition: i32,
    pub records: i64,
    /// -1: unknown, with acks=0.
    pub base_offset: i64,
    /// Of keys, values and headers.
    pub bytes: usize,
    pub acknowledged: Instant,
    /// When each record was handed in.
    pub appended: Vec<Instant>,
}

pub struct Producer {
    cluster: Cluster,
    settings: Settings,
    /// With acks=all: our id and epoch.
    identity: Option<(i64, i16)>,
    lanes: BTreeMap<i32, Lane>,
    /// By the leader's id.
    links: HashMap<i32, Link>,
    links_opened: u64,
    turn: usize,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    written: Vec<Written>,
    /// Bytes of all that is not acknowledged.
    buffered: usize,
    /// When to ask who leads now.
    refresh_at: Option<Instant>,
}

/// A partition's records on their way: open, queued, in flight, and back among the queued if that fails.
#[derive(Default)]
struct Lane {
    open: Option<Open>,
    queue: VecDeque<Batch>,
    in_flight: VecDeque<Batch>,
    /// The link that those were sent on.
    link: u64,
    /// In their order; queued again when none is in flight and the leaders were asked for.
    failed: VecDeque<Batch>,
    trouble: Option<Trouble>,
    /// Until when something has to be acknowledged.
    deadline: Instant,
    next_sequence: i32,
    /// Something was acknowledged, so the leader knows our producer id.
    is_known: bool,
}

struct Open {
    builder: RecordBatchBuilder,
    content_bytes: usize,
    since: Instant,
    appended: Vec<Instant>,
}

struct Batch {
    bytes: Bytes,
    content_bytes: usize,
    appended: Vec<Instant>,
    /// Its part of `buffered`.
    buffered: usize,
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.open.is_none() && self.queue.is_empty() && self.in_flight.is_empty() && self.failed.is_empty()
    }

    /// How many batches may be under way. A broker that knows nothing of a producer takes whichever number comes first: were
    /// the first batch refused, as by a broker that has not heard of a new topic yet, and the second one taken, the first
    /// could never follow.
    fn in_flight_max(&self, is_idempotent: bool, configured: usize) -> usize {
        if is_idempotent && !self.is_known { 1 } else { configured }
    }

    /// Whether there is a batch to send now.
    fn is_due(&self, now: Instant, linger: Duration) -> bool {
        !self.queue.is_empty() || self.open.as_ref().is_some_and(|open| open.since + linger <= now)
    }
}

impl Producer {
    pub async fn new(cluster: Cluster, settings: Settings) -> Result<Self, CliError> {
        let lanes = cluster.partitions.keys().map(|partition| (*partition, Lane::default())).collect();
        let mut producer = Self {
            cluster,
            settings,
            identity: None,
            lanes,
            links: HashMap::new(),
            links_opened: 0,
            turn: 0,
            events: mpsc::unbounded_channel(),
            written: Vec::new(),
            buffered: 0,
            refresh_at: None,
        };
        if settings.acks == -1 {
            producer.identify().await?;
        }
        Ok(producer)
    }

    /// All partitions of the topic.
    pub fn partitions(&self) -> Vec<i32> {
        self.lanes.keys().copied().collect()
    }

    /// Asks for a producer id. A cluster without that API gets batches without one.
    async fn identify(&mut self) -> Result<(), CliError> {
        let deadline = self.cluster.deadline();
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        loop {
            if self.cluster.any.as_ref().is_some_and(|broker| !broker.serves(ApiKey::InitProducerId)) {
                return Ok(());
            }
            let trouble = match self.cluster.ask_any(INIT_PRODUCER_ID.0, INIT_PRODUCER_ID.1, &request).await {
                Ok(answer) if answer.error_code == 0 => {
                    self.identity = Some((answer.producer_id, answer.producer_epoch));
                    return Ok(());
                }
                Ok(answer) => Trouble::Topic(ErrorCode::from_code(answer.error_code)),
                Err(trouble) => trouble,
            };
            let is_final = matches!(&trouble, Trouble::Topic(code) if !code.is_retriable());
            if is_final || self.cluster.world.instant() >= deadline {
                return Err(self.cluster.give_up(&trouble));
            }
            self.cluster.world.sleep(PAUSE).await;
        }
    }

    /// Whether more should be appended now; if not, `step` first.
    pub fn has_room(&self) -> bool {
        self.buffered < BUFFER_BYTES_MAX
    }

    /// Whether all is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.lanes.values().all(Lane::is_idle)
    }

    /// What was acknowledged since the last call.
    pub fn take_written(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.written)
    }

    /// Puts a record into its partition's batch, which goes out with a later `step`.
    pub fn append(&mut self, partition: i32, record: &Record) -> Result<(), CliError> {
        let now = self.cluster.world.now();
        let (settings, identity) = (self.settings, self.identity);
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return Err(no_partition(&self.cluster.topic, self.lanes.len(), partition));
        };
        if lane.is_idle() {
            lane.deadline = now.instant + settings.timeout;
        }
        let size = record.size();
        if lane.open.as_ref().is_some_and(|open| open.builder.size() + size > settings.batch_bytes) {
            lane.seal(identity)?;
        }
        let open = lane.open.get_or_insert_with(|| Open {
            builder: RecordBatchBuilder::new().compression(settings.codec),
            content_bytes: 0,
            since: now.instant,
            appended: Vec::new(),
        });
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|(name, value)| (name.as_ref(), value.as_deref())).collect();
        let before = open.builder.size();
        let timestamp = record.timestamp.unwrap_or(now.wall);
        open.builder.append_with_headers(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        open.appended.push(now.instant);
        open.content_bytes += size;
        self.buffered += open.builder.size() - if open.appended.len() == 1 { 0 } else { before };
        if open.builder.size() >= settings.batch_bytes {
            lane.seal(identity)?;
        }
        Ok(())
    }

    /// Whether the next `step` asks who leads. That may take seconds when brokers are gone and begins anew when `step` is
    /// dropped, so nothing that comes again and again may interrupt it.
    pub fn is_refresh_due(&self) -> bool {
        self.refresh_at.is_some_and(|at| at <= self.cluster.world.instant())
    }

    /// Sends what is due, then waits until something is answered, has to be sent, or `until` has come. May be dropped
    /// at any point; nothing is lost.
    ///
    /// # Errors
    /// What repetition does not help against, or has not within the time limit.
    pub async fn step(&mut self, until: Option<Instant>) -> Result<(), CliError> {
        if self.is_refresh_due() {
            self.refresh().await;
        }
        let next_due = self.send_due()?;
        let wake = [until, next_due, self.refresh_at].into_iter().flatten().min();
        let clock = self.cluster.world.clock.clone();
        let sleep = async {
            match wake {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.events.1.recv() => if let Some(event) = event { self.take(event)? },
            () = sleep => {}
        }
        while let Ok(event) = self.events.1.try_recv() {
            self.take(event)?;
        }
        let now = self.cluster.world.instant();
        match self.lanes.values().find(|lane| !lane.is_idle() && lane.deadline <= now) {
            Some(Lane { trouble: Some(trouble), .. }) => Err(self.cluster.give_up(trouble)),
            _ => Ok(()),
        }
    }

    /// From now on nothing waits for more.
    pub fn stop_lingering(&mut self) {
        self.settings.linger = Duration::ZERO;
    }

    /// Comes back when all is acknowledged. Without `stop_lingering` what is not full waits its time.
    pub async fn flush(&mut self) -> Result<(), CliError> {
        while !self.is_idle() {
            self.step(None).await?;
        }
        Ok(())
    }

    /// Asks who leads, and lets what failed go again. If nobody can say, the next attempt finds out as well.
    async fn refresh(&mut self) {
        let _ = self.cluster.refresh(true).await;
        self.refresh_at = None;
        let again = self.cluster.world.instant() + PAUSE;
        for lane in self.lanes.values_mut().filter(|lane| !lane.failed.is_empty()) {
            if lane.in_flight.is_empty() {
                while let Some(batch) = lane.failed.pop_back() {
                    lane.queue.push_front(batch);
                }
            } else {
                self.refresh_at = Some(again);
            }
        }
    }

    /// Fills the links to all leaders. Returns when the next batch has lingered long enough.
    fn send_due(&mut self) -> Result<Option<Instant>, CliError> {
        let now = self.cluster.world.instant();
        let linger = self.settings.linger;
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let mut next_due = None;
        for (partition, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.failed.is_empty()) {
            let leader = self.cluster.partitions.get(partition).map_or(-1, |known| known.leader);
            if lane.queue.is_empty() && lane.open.is_none() {
                continue;
            }
            if !self.cluster.addresses.contains_key(&leader) {
                lane.trouble = Some(Trouble::Topic(ErrorCode::LeaderNotAvailable));
                self.refresh_at.get_or_insert(now + PAUSE);
                continue;
            }
            if let Some(at) = lane.open.as_ref().map(|open| open.since + linger).filter(|at| *at > now) {
                next_due = Some(next_due.map_or(at, |next: Instant| next.min(at)));
            }
            by_leader.entry(leader).or_default().push(*partition);
        }
        for (leader, partitions) in by_leader {
            while let Some(request) = self.next_request(leader, &partitions, now, linger)? {
                if let Some(link) = self.links.get_mut(&leader) {
                    link.send(request);
                }
            }
        }
        Ok(next_due)
    }

    /// A batch of each partition, if any is due and the link has room.
    fn next_request(
        &mut self,
        leader: i32,
        partitions: &[i32],
        now: Instant,
        linger: Duration,
    ) -> Result<Option<ProduceRequest>, CliError> {
        let in_flight_max = match self.identity {
            Some(_) => self.settings.in_flight.min(IDEMPOTENT_IN_FLIGHT_MAX),
            None => self.settings.in_flight,
        };
        let link = self.link(leader);
        let (link_id, has_room) = (link.id, link.in_flight < in_flight_max);
        let is_idempotent = self.identity.is_some();
        // What is in flight to another leader comes back first, so that the order stays.
        let may_send = |lane: &Lane| {
            let most = lane.in_flight_max(is_idempotent, in_flight_max);
            lane.failed.is_empty() && (lane.in_flight.is_empty() || lane.link == link_id && lane.in_flight.len() < most)
        };
        let is_due =
            |partition: &i32| self.lanes.get(partition).is_some_and(|lane| may_send(lane) && lane.is_due(now, linger));
        if !has_room || !partitions.iter().any(is_due) {
            return Ok(None);
        }
        let (mut bytes, mut data) = (0, Vec::new());
        // A different one first each time, so that all get their turn when a request is full.
        self.turn = self.turn.wrapping_add(1);
        for partition in partitions.iter().cycle().skip(self.turn % partitions.len()).take(partitions.len()) {
            let Some(lane) = self.lanes.get_mut(partition).filter(|lane| may_send(lane)) else { continue };
            if lane.queue.is_empty() {
                // Not full; but a request is on its way.
                lane.seal(self.identity)?;
            }
            let fits = |batch: &Batch| bytes == 0 || bytes + batch.bytes.len() <= REQUEST_BYTES_MAX;
            if !lane.queue.front().is_some_and(fits) {
                continue;
            }
            if let Some(batch) = lane.queue.pop_front() {
                bytes += batch.bytes.len();
                let records = Some(Records::Bytes(batch.bytes.clone()));
                data.push(PartitionProduceData { index: *partition, records, ..Default::default() });
                lane.link = link_id;
                lane.in_flight.push_back(batch);
            }
        }
        let name = Str::from(self.cluster.topic.as_str());
        let topic = TopicProduceData { name, partition_data: data, ..Default::default() };
        // The broker gives up a little before we do, so that its answer is seen.
        let timeout_ms = i32::try_from((self.request_timeout() * 9 / 10).as_millis()).unwrap_or(i32::MAX);
        Ok(Some(ProduceRequest { acks: self.settings.acks, timeout_ms, topic_data: vec![topic], ..Default::default() }))
    }

    /// Time is left to ask another leader when one does not answer.
    fn request_timeout(&self) -> Duration {
        self.settings.timeout / 2
    }

    fn link(&mut self, leader: i32) -> &mut Link {
        let within = self.request_timeout();
        self.links.entry(leader).or_insert_with(|| {
            self.links_opened += 1;
            let address = self.cluster.addresses.get(&leader).cloned();
            let address = address.expect("only leaders with an address are sent to");
            let leader = Leader { id: leader, address, within };
            Link::open(&self.cluster.world, leader, self.links_opened, self.events.0.clone())
        })
    }

    fn take(&mut self, event: Event) -> Result<(), CliError> {
        match event.outcome {
            Ok(answer) => {
                if let Some(link) = self.links.values_mut().find(|link| link.id == event.link) {
                    link.in_flight -= 1;
                }
                let answers = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
                answers.into_iter().try_for_each(|answer| self.answered(event.link, event.at, &answer))
            }
            Err(reason) => {
                self.links.retain(|_, link| link.id != event.link);
                for lane in self.lanes.values_mut().filter(|lane| lane.link == event.link) {
                    if !lane.in_flight.is_empty() {
                        lane.trouble = Some(Trouble::Nobody(reason.clone()));
                        lane.failed.extend(lane.in_flight.drain(..));
                    }
                }
                self.refresh_at.get_or_insert(self.cluster.world.instant() + PAUSE);
                Ok(())
            }
        }
    }

    /// The oldest batch of the partition that is in flight is acknowledged, or goes again. An error: again would not help.
    fn answered(&mut self, link: u64, at: Instant, answer: &PartitionProduceResponse) -> Result<(), CliError> {
        let Some(lane) = self.lanes.get_mut(&answer.index).filter(|lane| lane.link == link) else { return Ok(()) };
        let Some(batch) = lane.in_flight.pop_front() else { return Ok(()) };
        match ErrorCode::from_code(answer.error_code) {
            // A duplicate is there already: that is what the producer id is for.
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                lane.trouble = None;
                lane.is_known = true;
                lane.deadline = at + self.settings.timeout;
                self.buffered -= batch.buffered;
                self.written.push(Written {
                    partition: answer.index,
                    records: batch.appended.len() as i64,
                    base_offset: answer.base_offset,
                    bytes: batch.content_bytes,
                    acknowledged: at,
                    appended: batch.appended,
                });
            }
            // The one before it failed.
            ErrorCode::OutOfOrderSequenceNumber if !lane.failed.is_empty() => lane.failed.push_back(batch),
            code if code.is_retriable() => {
                lane.trouble = Some(Trouble::Topic(code));
                lane.failed.push_back(batch);
                self.refresh_at.get_or_insert(self.cluster.world.instant() + PAUSE);
            }
            code => {
                let name = format!("{}-{}", self.cluster.topic, answer.index);
                return Err(CliError::kafka(code, &name, answer.error_message.as_deref()));
            }
        }
        Ok(())
    }
}

impl Lane {
    /// Closes the open batch, if there is one, and queues it.
    fn seal(&mut self, identity: Option<(i64, i16)>) -> Result<(), CliError> {
        let Some(Open { mut builder, content_bytes, appended, .. }) = self.open.take() else { return Ok(()) };
        let buffered = builder.size();
        if let Some((id, epoch)) = identity {
            builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), self.next_sequence);
            // Sequences are 31 bits wide and start over.
            self.next_sequence = ((i64::from(self.next_sequence) + appended.len() as i64) % (1 << 31)) as i32;
        }
        let bytes = builder.build().map_err(|error| CliError::failed(error.to_string()))?;
        self.queue.push_back(Batch { bytes, content_bytes, appended, buffered });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_of_a_producer_id_travels_alone() {
        let mut lane = Lane::default();
        assert_eq!((lane.in_flight_max(true, 5), lane.in_flight_max(false, 5)), (1, 5));
        lane.is_known = true;
        assert_eq!(lane.in_flight_max(true, 5), 5);
    }
}
