//! A Kafka client inside the controller, for the time of one operator's question: it asks the brokers at their registered
//! endpoints, and asks again, while there is time, what another moment or another broker may answer.
//!
//! It holds the image alone and never speaks to the decider, so that a broker that is slow to answer delays nobody but
//! the one who asked.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures::future::join_all;
use odradek_common::config::SecurityProtocol;
use odradek_common::time::Instant;
use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicPartition};
use odradek_controller_core::ApiError;
use odradek_metadata::Image;
use odradek_node::{Connection, World};
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use odradek_wire::{FindCoordinatorRequest, ListOffsetsRequest, Request, Str, own};

use crate::raft::view::MetadataView;

const CLIENT_ID: &str = "odradek-controller";
/// For everything that one question takes. Shorter than the command line waits for one controller, so that it hears which
/// broker is to blame.
const PATIENCE: Duration = Duration::from_secs(4);
/// A broker that takes no connection, or gives no answer, within these is passed over for now.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The versions that are spoken: each has all that is wanted, and brokers keep serving it.
const FIND_COORDINATOR: i16 = 4;
const LIST_OFFSETS: i16 = 7;

/// Instead of a time, in ListOffsets.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// A broker and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: BrokerId,
    pub host: String,
    pub port: u16,
}

impl Peer {
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A broker that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub broker: BrokerId,
    pub message: String,
    /// It may have heard the question, and have done what was asked.
    pub is_in_doubt: bool,
}

/// What a coordinator said.
pub struct Answer<T> {
    pub coordinator: Peer,
    pub response: T,
    /// Whether an earlier attempt may have been carried out without our knowing.
    pub in_doubt: bool,
}

/// What is asked of a partition's leader.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// The offset at a time; [`LATEST`] and [`EARLIEST`] are times, too.
    timestamp: i64,
    /// And when the first record at or above an offset was written.
    unread_from: Option<i64>,
}

/// What it answers.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub offset: i64,
    /// As [`own::OLDEST_UNREAD`] has it.
    pub oldest_unread: Option<i64>,
}

/// Why an offset of a partition is not known.
#[derive(Clone, Debug)]
pub struct UnknownOffset {
    pub code: ErrorCode,
    pub message: String,
    /// Where it is a broker's silence.
    pub unanswered: Option<Unanswered>,
    /// Another moment, or another leader, may know it.
    is_passing: bool,
}

/// One operator's question, and the time it has.
pub struct Relay<'a> {
    world: &'a World,
    view: &'a MetadataView,
    deadline: Instant,
}

impl<'a> Relay<'a> {
    pub fn new(world: &'a World, view: &'a MetadataView) -> Self {
        Self { world, view, deadline: world.instant() + PATIENCE }
    }

    pub fn image(&self) -> Image {
        self.view.image()
    }

    /// Milliseconds since 1970 UTC.
    pub fn now_ms(&self) -> i64 {
        self.world.timestamp().0
    }

    /// Whether there is time for another attempt.
    pub fn has_time(&self) -> bool {
        !self.left().is_zero()
    }

    pub async fn pause(&self) {
        self.world.sleep(PAUSE.min(self.left())).await;
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_since(self.world.instant())
    }

    /// The brokers that serve, ascending.
    pub fn brokers(&self) -> Vec<Peer> {
        self.image().alive_brokers().filter_map(|broker| peer(broker)).collect()
    }

    /// Asks one broker, once.
    pub async fn ask<R: Request>(&self, peer: &Peer, version: i16, request: &R) -> Result<R::Response, Unanswered> {
        let unanswered = |error: io::Error, is_in_doubt| Unanswered {
            broker: peer.id,
            message: format!(
                "broker {} at {} does not answer ({error}); is it running, and can this controller reach it?",
                peer.id,
                peer.address()
            ),
            is_in_doubt,
        };
        let patience = CONNECT_MAX.min(self.left());
        let opened = Connection::open(self.world, &peer.host, peer.port, CLIENT_ID, patience).await;
        let mut connection = opened.map_err(|error| unanswered(error, false))?;
        let answer = self.world.timeout(ANSWER_MAX.min(self.left()), connection.call(version, request)).await;
        answer.map_err(io::Error::from).flatten().map_err(|error| unanswered(error, true))
    }

    /// The coordinator of a group, by way of any broker.
    async fn coordinator(&self, group: &str) -> Result<Peer, ApiError> {
        let unavailable = |message: String| ApiError::new(ErrorCode::CoordinatorNotAvailable, message);
        let request =
            FindCoordinatorRequest { coordinator_keys: vec![Str::from(group)], ..FindCoordinatorRequest::default() };
        let mut trouble = unavailable("no broker serves; `odradek broker list` shows all".to_owned());
        for peer in self.brokers() {
            let answer = match self.ask(&peer, FIND_COORDINATOR, &request).await {
                Ok(answer) => answer,
                Err(unanswered) => {
                    trouble = unavailable(unanswered.message);
                    continue;
                }
            };
            let Some(found) = answer.coordinators.into_iter().next() else { continue };
            let code = ErrorCode::from_code(found.error_code);
            if code.is_error() {
                let said = found.error_message.map(String::from).unwrap_or_default();
                return Err(ApiError::new(code, format!("the coordinator of group {group} is not known: {said}")));
            }
            let (id, port) = (BrokerId(found.node_id), u16::try_from(found.port).unwrap_or_default());
            return Ok(Peer { id, host: found.host.to_string(), port });
        }
        Err(trouble)
    }

    /// Asks a group's coordinator until it answers with something else than that it is not the one, or not yet; `code`
    /// reads that from a response.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE and its like when there was no such answer in time; the message names the broker.
    pub async fn ask_coordinator<R: Request>(
        &self,
        group: &str,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<Answer<R::Response>, ApiError> {
        let mut in_doubt = false;
        loop {
            let trouble = match self.coordinator(group).await {
                Err(error) if !is_passing(error.code) => return Err(error),
                Err(error) => error,
                Ok(coordinator) => match self.ask(&coordinator, version, request).await {
                    Ok(response) => match code(&response) {
                        code if is_passing(code) => ApiError::new(
                            code,
                            format!(
                                "broker {} at {}, the coordinator of group {group}, is not ready",
                                coordinator.id,
                                coordinator.address()
                            ),
                        ),
                        _ => return Ok(Answer { coordinator, response, in_doubt }),
                    },
                    Err(unanswered) => {
                        in_doubt |= unanswered.is_in_doubt;
                        let message = format!("the coordinator of group {group}: {}", unanswered.message);
                        ApiError::new(ErrorCode::CoordinatorNotAvailable, message)
                    }
                },
            };
            if !self.has_time() {
                return Err(trouble);
            }
            self.pause().await;
        }
    }

    /// Asks the leaders for the offset at a time, of each partition; [`LATEST`] and [`EARLIEST`] are times, too. An offset
    /// of -1: no record is as late.
    pub async fn offsets(
        &self,
        asked: BTreeMap<TopicPartition, i64>,
    ) -> BTreeMap<TopicPartition, Result<i64, UnknownOffset>> {
        let wanted = |timestamp| Wanted { timestamp, unread_from: None };
        let asked = asked.into_iter().map(|(at, timestamp)| (at, wanted(timestamp))).collect();
        let found = self.find(asked).await.into_iter();
        found.map(|(at, found)| (at, found.map(|found| found.offset))).collect()
    }

    /// Asks the leaders for the end of each partition, and for the oldest record from an offset on, where one is given.
    pub async fn ends(
        &self,
        asked: BTreeMap<TopicPartition, Option<i64>>,
    ) -> BTreeMap<TopicPartition, Result<Found, UnknownOffset>> {
        let wanted = |unread_from| Wanted { timestamp: LATEST, unread_from };
        self.find(asked.into_iter().map(|(at, from)| (at, wanted(from))).collect()).await
    }

    async fn find(
        &self,
        asked: BTreeMap<TopicPartition, Wanted>,
    ) -> BTreeMap<TopicPartition, Result<Found, UnknownOffset>> {
        let (mut left, mut known) = (asked, BTreeMap::new());
        loop {
            let mut troubles = BTreeMap::new();
            for (partition, outcome) in self.ask_leaders(&left).await {
                match outcome {
                    Err(unknown) if unknown.is_passing => {
                        troubles.insert(partition, unknown);
                    }
                    outcome => {
                        known.insert(partition, outcome);
                    }
                }
            }
            left.retain(|partition, _| troubles.contains_key(partition));
            if left.is_empty() || !self.has_time() {
                known.extend(troubles.into_iter().map(|(partition, unknown)| (partition, Err(unknown))));
                return known;
            }
            self.pause().await;
        }
    }

    async fn ask_leaders(
        &self,
        asked: &BTreeMap<TopicPartition, Wanted>,
    ) -> Vec<(TopicPartition, Result<Found, UnknownOffset>)> {
        let image = self.image();
        let mut outcomes = Vec::with_capacity(asked.len());
        let mut by_leader: BTreeMap<BrokerId, (Peer, BTreeMap<&str, Vec<ListOffsetsPartition>>)> = BTreeMap::new();
        for (partition, wanted) in asked {
            match leader(&image, partition) {
                Err(unknown) => outcomes.push((partition.clone(), Err(unknown))),
                Ok(leader) => {
                    let (_, topics) = by_leader.entry(leader.id).or_insert_with(|| (leader, BTreeMap::new()));
                    topics.entry(&partition.topic).or_default().push(ListOffsetsPartition {
                        partition_index: partition.partition.0,
                        timestamp: wanted.timestamp,
                        unknown_tagged_fields: wanted
                            .unread_from
                            .map(|offset| own::numbers_field(own::OLDEST_UNREAD, [offset]))
                            .into_iter()
                            .collect(),
                        ..ListOffsetsPartition::default()
                    });
                }
            }
        }
        let asking = by_leader.into_values().map(|(leader, topics)| async move {
            let named = topics.into_iter().map(|(name, partitions)| ListOffsetsTopic {
                name: Str::from(name),
                partitions,
                ..ListOffsetsTopic::default()
            });
            let request =
                ListOffsetsRequest { replica_id: -1, topics: named.collect(), ..ListOffsetsRequest::default() };
            self.ask_leader(&leader, &request).await
        });
        outcomes.extend(join_all(asking).await.into_iter().flatten());
        outcomes
    }

    async fn ask_leader(
        &self,
        leader: &Peer,
        request: &ListOffsetsRequest,
    ) -> Vec<(TopicPartition, Result<Found, UnknownOffset>)> {
        match self.ask(leader, LIST_OFFSETS, request).await {
            Ok(answer) => {
                let answered = answer.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        let at = TopicPartition::new(&*topic.name, partition.partition_index);
                        let code = ErrorCode::from_code(partition.error_code);
                        let outcome = match code.is_error() {
                            false => {
                                let told = own::field(&partition.unknown_tagged_fields, own::OLDEST_UNREAD);
                                let oldest_unread = told.and_then(|told| own::numbers(told).next());
                                Ok(Found { offset: partition.offset, oldest_unread })
                            }
                            true => {
                                let message = format!("broker {} says {code}", leader.id);
                                Err(UnknownOffset { code, message, unanswered: None, is_passing: is_leadership(code) })
                            }
                        };
                        (at, outcome)
                    })
                });
                answered.collect()
            }
            Err(unanswered) => {
                let asked = request.topics.iter().flat_map(|topic| {
                    let name = &*topic.name;
                    topic.partitions.iter().map(move |partition| TopicPartition::new(name, partition.partition_index))
                });
                let unknown = UnknownOffset {
                    code: ErrorCode::LeaderNotAvailable,
                    message: unanswered.message.clone(),
                    unanswered: Some(unanswered),
                    is_passing: true,
                };
                asked.map(|at| (at, Err(unknown.clone()))).collect()
            }
        }
    }
}

/// Who leads a partition.
fn leader(image: &Image, at: &TopicPartition) -> Result<Peer, UnknownOffset> {
    let refused = |code, message| UnknownOffset { code, message, unanswered: None, is_passing: false };
    let partition = image
        .partition_by_name(&at.topic, at.partition)
        .ok_or_else(|| refused(ErrorCode::UnknownTopicOrPartition, format!("there is no partition {at}")))?;
    let leader = image.broker(partition.leader).and_then(|broker| peer(broker));
    // Nobody is waited for: a partition stays without a leader until a replica is back.
    leader.ok_or_else(|| refused(ErrorCode::LeaderNotAvailable, format!("{at} has no leader")))
}

/// How many partitions a topic has; `None` when it is not there.
pub fn partitions_of(image: &Image, topic: &str) -> Option<impl Iterator<Item = PartitionIndex>> {
    Some((0..image.topic_by_name(topic)?.partition_count()).map(PartitionIndex))
}

/// Where a controller reaches a broker: it is a client without credentials.
fn peer(broker: &odradek_metadata::BrokerRegistration) -> Option<Peer> {
    let plain = broker.endpoints.iter().find(|endpoint| endpoint.security_protocol == SecurityProtocol::Plaintext)?;
    Some(Peer { id: broker.id, host: plain.host.clone(), port: plain.port })
}

/// Said while a group's coordinator moves or loads.
fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CoordinatorNotAvailable | ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator
    )
}

/// Said while leaders move.
fn is_leadership(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::OffsetNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
    )
}
