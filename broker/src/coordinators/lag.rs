//! The lag of the groups that are coordinated here, for metrics: in records and in seconds, looked at now and then.
//!
//! A round costs one question about log ends for each leader and a thousand partitions, and then one about timestamps for the
//! partitions that have metrics of their own, which are bounded. Leaders elsewhere are asked by ListOffsets, those here
//! directly. What is told is of the last round.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use odradek_broker_core::group::OffsetKey;
use odradek_broker_core::lag::{self, Chosen, PartitionLag};
use odradek_broker_core::partition::{Isolation, Reader};
use odradek_common::time::Instant;
use odradek_common::{BrokerId, LeaderEpoch, PartitionIndex, TopicIdPartition};
use odradek_metadata::Image;
use odradek_node::World;
use odradek_node::metrics::{Gauge, Labels};
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use odradek_wire::{ListOffsetsRequest, Str, own};

use super::{GroupCoordinators, Peers};
use crate::metadata::MetadataCache;
use crate::replica::ReplicaManager;

const LIST_OFFSETS: i16 = 7;
/// Instead of a time, in ListOffsets.
const LATEST: i64 = -1;
/// Partitions in one request.
const PARTITIONS_MAX: usize = 1_000;
/// For one answer. Who does not answer is told as not known, and asked again in the next round.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found out last, for whoever collects metrics.
#[derive(Clone, Default)]
pub struct LagBoard(Arc<Mutex<Option<Round>>>);

struct Round {
    at: Instant,
    chosen: Chosen,
    /// Of `chosen.listed`, in their order.
    ages_ms: Vec<Option<i64>>,
    unknown: usize,
}

impl LagBoard {
    /// Nothing before the first round.
    pub fn metrics(&self, now: Instant) -> Vec<Gauge> {
        let round = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Round { at, chosen, ages_ms, unknown }) = &*round else { return Vec::new() };
        let labels = |of: &OffsetKey| -> Labels {
            let partition = of.partition.to_string();
            vec![("group", of.group.to_string()), ("topic", of.topic.to_string()), ("partition", partition)]
        };
        let records = chosen.listed.iter().map(|lag| (labels(&lag.of), lag.records as f64));
        let seconds = chosen.listed.iter().zip(ages_ms);
        let seconds = seconds.filter_map(|(lag, age_ms)| Some((labels(&lag.of), (*age_ms)? as f64 / 1_000.0)));
        vec![
            Gauge {
                name: "odradek_group_lag_records",
                help: "Records up to the high watermark that a group has not consumed, of those that lag most.",
                values: records.collect(),
            },
            Gauge {
                name: "odradek_group_lag_seconds",
                help: "For how long the oldest record that a group has not consumed has been there, by its timestamp.",
                values: seconds.collect(),
            },
            Gauge::count(
                "odradek_group_lag_beyond_partitions",
                "Partitions of groups that are beyond odradek.group.lag.metrics.max and have no series.",
                chosen.beyond_partitions,
            ),
            Gauge::of(
                "odradek_group_lag_beyond_records",
                "The lag of all of these in records.",
                chosen.beyond_records as f64,
            ),
            Gauge::count(
                "odradek_group_lag_unknown_partitions",
                "Partitions of groups whose leaders could not be asked.",
                *unknown,
            ),
            Gauge::of(
                "odradek_group_lag_age_seconds",
                "The time since the lag was looked at.",
                now.saturating_since(*at).as_secs_f64(),
            ),
        ]
    }
}

/// Looks at lag.
pub struct LagWatch {
    pub world: World,
    pub local: BrokerId,
    pub cache: MetadataCache,
    pub replicas: Arc<ReplicaManager>,
    pub groups: Arc<GroupCoordinators>,
    pub peers: Arc<Peers>,
    pub board: LagBoard,
    /// `odradek.group.lag.metrics.max`.
    pub series_max: usize,
}

/// A partition as its leader is asked about it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct At {
    topic: Arc<str>,
    index: i32,
    id: TopicIdPartition,
}

/// What is asked of one leader: partitions, each with offsets from which on the oldest record is looked for.
type Asked = BTreeMap<At, Vec<i64>>;

/// The log end, and the answers to the offsets. `None`: the leader has not answered.
type Answered = BTreeMap<At, Option<(i64, Vec<i64>)>>;

impl LagWatch {
    /// Goes on until it is ended.
    pub async fn run(self, interval: Duration) {
        loop {
            self.world.sleep(interval).await;
            let round = self.look().await;
            *self.board.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(round);
        }
    }

    async fn look(&self) -> Round {
        let image = self.cache.image();
        let mut of_partition: BTreeMap<At, Vec<(OffsetKey, i64)>> = BTreeMap::new();
        let mut unknown = 0;
        for (key, committed) in self.groups.committed() {
            // What a group has committed in a topic that is gone is no lag.
            if let Some(at) = place(&image, &key) {
                of_partition.entry(at).or_default().push((key, committed));
            }
        }
        let ends = self.ask(&image, of_partition.keys().map(|at| (at.clone(), Vec::new())).collect()).await;
        let mut lags = Vec::new();
        for (at, groups) in of_partition {
            match ends.get(&at) {
                Some(Some((log_end, _))) => {
                    lags.extend(groups.into_iter().map(|(of, committed)| PartitionLag::new(of, committed, *log_end)));
                }
                _ => unknown += groups.len(),
            }
        }
        let chosen = lag::choose(lags, self.series_max);
        let ages_ms = self.ages(&image, &chosen).await;
        Round { at: self.world.instant(), chosen, ages_ms, unknown }
    }

    /// For how long the oldest unread record of each has been there.
    async fn ages(&self, image: &Image, chosen: &Chosen) -> Vec<Option<i64>> {
        let mut asked = Asked::new();
        for lag in chosen.listed.iter().filter(|lag| lag.records > 0) {
            let Some(at) = place(image, &lag.of) else { continue };
            let offsets = asked.entry(at).or_default();
            if offsets.len() < own::OLDEST_UNREAD_OFFSETS_MAX && !offsets.contains(&lag.committed) {
                offsets.push(lag.committed);
            }
        }
        let answered = self.ask(image, asked.clone()).await;
        let now_ms = self.world.timestamp().0;
        let age_of = |lag: &PartitionLag| {
            if lag.records == 0 {
                return Some(0);
            }
            let at = place(image, &lag.of)?;
            let n = asked.get(&at)?.iter().position(|offset| *offset == lag.committed)?;
            own::age_ms(*answered.get(&at)?.as_ref()?.1.get(n)?, now_ms)
        };
        chosen.listed.iter().map(age_of).collect()
    }

    async fn ask(&self, image: &Image, asked: Asked) -> Answered {
        // With the number of offsets in each request.
        let mut by_leader: BTreeMap<BrokerId, Vec<(Asked, usize)>> = BTreeMap::new();
        for (at, offsets) in asked {
            let leader = image.partition(at.id.topic_id, at.id.partition).map_or(BrokerId::NONE, |known| known.leader);
            let (requests, count) = (by_leader.entry(leader).or_default(), offsets.len());
            let has_room = |request: &&mut (Asked, usize)| {
                request.0.len() < PARTITIONS_MAX && request.1 + count <= own::OLDEST_UNREAD_OFFSETS_MAX
            };
            match requests.last_mut().filter(has_room) {
                Some((request, named)) => {
                    request.insert(at, offsets);
                    *named += count;
                }
                None => requests.push((Asked::from([(at, offsets)]), count)),
            }
        }
        let leaders = by_leader.into_iter().map(|(leader, requests)| async move {
            let mut answered = Answered::new();
            for (request, _) in requests {
                answered.extend(match leader == self.local {
                    true => self.ask_here(request).await,
                    false => self.ask_peer(leader, request).await,
                });
            }
            answered
        });
        join_all(leaders).await.into_iter().flatten().collect()
    }

    async fn ask_here(&self, asked: Asked) -> Answered {
        let replicas = self.replicas.clone();
        let answer = move || {
            let told = asked.into_iter().map(|(at, offsets)| {
                let reader = Reader::Client(Isolation::ReadUncommitted);
                let end = replicas.list_offset(at.id, reader, LeaderEpoch::NONE, LATEST).ok();
                let oldest = |offset| replicas.tell_oldest_unread(at.id, LeaderEpoch::NONE, offset);
                let answer = end.map(|end| (end.offset.0, offsets.into_iter().map(oldest).collect()));
                (at, answer)
            });
            told.collect()
        };
        self.world.on_disk(answer).await
    }

    async fn ask_peer(&self, leader: BrokerId, asked: Asked) -> Answered {
        let mut topics: Vec<ListOffsetsTopic> = Vec::new();
        for (at, offsets) in &asked {
            if topics.last().is_none_or(|topic| topic.name != *at.topic) {
                topics.push(ListOffsetsTopic { name: Str::from(&*at.topic), ..ListOffsetsTopic::default() });
            }
            let field = own::numbers_field(own::OLDEST_UNREAD, offsets.iter().copied());
            if let Some(topic) = topics.last_mut() {
                topic.partitions.push(ListOffsetsPartition {
                    partition_index: at.index,
                    timestamp: LATEST,
                    unknown_tagged_fields: if offsets.is_empty() { Vec::new() } else { vec![field] },
                    ..ListOffsetsPartition::default()
                });
            }
        }
        let request = ListOffsetsRequest { replica_id: -1, topics, ..ListOffsetsRequest::default() };
        let response = match self.peers.call(leader, LIST_OFFSETS, &request, PATIENCE).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader was not heard of the lag of groups");
                return asked.into_keys().map(|at| (at, None)).collect();
            }
        };
        let mut told: BTreeMap<(String, i32), (i64, Vec<i64>)> = BTreeMap::new();
        for topic in &response.topics {
            for partition in topic.partitions.iter().filter(|partition| partition.error_code == 0) {
                let oldest = own::field(&partition.unknown_tagged_fields, own::OLDEST_UNREAD);
                let oldest = oldest.map(|field| own::numbers(field).collect()).unwrap_or_default();
                told.insert((topic.name.to_string(), partition.partition_index), (partition.offset, oldest));
            }
        }
        asked
            .into_keys()
            .map(|at| {
                let answer = told.remove(&(at.topic.to_string(), at.index));
                (at, answer)
            })
            .collect()
    }
}

/// Where a group has committed. `None`: there is no such partition.
fn place(image: &Image, key: &OffsetKey) -> Option<At> {
    let topic = image.topic_by_name(&key.topic)?;
    let partition = PartitionIndex(key.partition);
    topic.partition(partition)?;
    let id = TopicIdPartition { topic_id: topic.id, partition };
    Some(At { topic: topic.name.clone(), index: key.partition, id })
}
