//! Questions that only a partition's leader can answer, asked until each has.

use std::collections::BTreeMap;

use odradek_common::ErrorCode;
use odradek_wire::describe_producers_request::{DescribeProducersRequest, TopicRequest};
use odradek_wire::describe_producers_response::ProducerState;
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek_wire::{Request, Str};

use super::{Cluster, PAUSE, Trouble};
use crate::error::CliError;

/// The versions that name topics.
const LIST_OFFSETS: (i16, i16) = (1, 7);

/// Timestamps that stand for something else in a ListOffsets request.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// What one partition's leader says: the partition, an error code, and the answer.
type Answer<T> = (i32, i16, T);

impl Cluster {
    /// The offsets at a time, milliseconds since 1970 or a special one; -1 where nothing is that new.
    pub async fn offsets(&mut self, partitions: &[i32], timestamp: i64) -> Result<BTreeMap<i32, i64>, CliError> {
        let request = |topic: Str, partitions: &[i32]| {
            let of_partition =
                |partition: &i32| ListOffsetsPartition { partition_index: *partition, timestamp, ..Default::default() };
            let partitions = partitions.iter().map(of_partition).collect();
            let topic = ListOffsetsTopic { name: topic, partitions, ..Default::default() };
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() }
        };
        self.ask_leaders(partitions, LIST_OFFSETS, request, |answer| {
            let answers = answer.topics.into_iter().flat_map(|topic| topic.partitions);
            answers.map(|answer| (answer.partition_index, answer.error_code, answer.offset)).collect()
        })
        .await
    }

    /// The idempotent and transactional producers that each leader remembers.
    pub async fn producers(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, Vec<ProducerState>>, CliError> {
        let request = |name: Str, partitions: &[i32]| {
            let topic = TopicRequest { name, partition_indexes: partitions.to_vec(), ..Default::default() };
            DescribeProducersRequest { topics: vec![topic], ..Default::default() }
        };
        self.ask_leaders(partitions, (0, 0), request, |answer| {
            let answers = answer.topics.into_iter().flat_map(|topic| topic.partitions);
            answers.map(|answer| (answer.partition_index, answer.error_code, answer.active_producers)).collect()
        })
        .await
    }

    async fn ask_leaders<R: Request, T>(
        &mut self,
        partitions: &[i32],
        versions: (i16, i16),
        request: impl Fn(Str, &[i32]) -> R,
        answers: impl Fn(R::Response) -> Vec<Answer<T>>,
    ) -> Result<BTreeMap<i32, T>, CliError> {
        let deadline = self.deadline();
        let mut found = BTreeMap::new();
        loop {
            let trouble = match self.ask_leaders_once(partitions, versions, &request, &answers, &mut found).await? {
                None if partitions.iter().all(|partition| found.contains_key(partition)) => return Ok(found),
                None => {
                    let problem = format!("{}: a broker left a question about it unanswered", self.topic);
                    return Err(CliError::failed(problem));
                }
                Some(trouble) => trouble,
            };
            if self.world.instant() >= deadline {
                return Err(self.give_up(&trouble));
            }
            self.world.sleep(PAUSE).await;
            let _ = self.refresh(false).await;
        }
    }

    /// Asks about those that are not found. Returns what hindered some of them.
    async fn ask_leaders_once<R: Request, T>(
        &mut self,
        partitions: &[i32],
        versions: (i16, i16),
        request: &impl Fn(Str, &[i32]) -> R,
        answers: &impl Fn(R::Response) -> Vec<Answer<T>>,
        found: &mut BTreeMap<i32, T>,
    ) -> Result<Option<Trouble>, CliError> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in partitions.iter().filter(|partition| !found.contains_key(*partition)) {
            let leader = self.partitions.get(partition).map_or(-1, |known| known.leader);
            by_leader.entry(leader).or_default().push(*partition);
        }
        let mut trouble = None;
        for (leader, partitions) in by_leader {
            let request = request(Str::from(self.topic.as_str()), &partitions);
            let answer = match self.ask(leader, self.timeout, versions, &request).await {
                Ok(answer) => answer,
                Err(problem) => {
                    trouble = Some(problem);
                    continue;
                }
            };
            for (partition, code, answer) in answers(answer) {
                match ErrorCode::from_code(code) {
                    ErrorCode::None => drop(found.insert(partition, answer)),
                    code if code.is_retriable() => trouble = Some(Trouble::Topic(code)),
                    code => return Err(CliError::kafka(code, &self.topic, None)),
                }
            }
        }
        Ok(trouble)
    }

    /// These partitions, or all when none is named.
    ///
    /// # Errors
    /// The topic does not have one of them.
    pub fn chosen(&self, partitions: &[i32]) -> Result<Vec<i32>, CliError> {
        if let Some(missing) = partitions.iter().find(|partition| !self.partitions.contains_key(partition)) {
            return Err(super::no_partition(&self.topic, self.partitions.len(), *missing));
        }
        let mut chosen: Vec<i32> = match partitions {
            [] => self.partitions.keys().copied().collect(),
            some => some.to_vec(),
        };
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }
}
