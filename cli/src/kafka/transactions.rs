//! What coordinators know of transactions, and what partitions know of those that write to them (KIP-664).

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::ErrorCode;
use odradek_wire::describe_transactions_response::TransactionState;
use odradek_wire::list_transactions_response::TransactionState as Listed;
use odradek_wire::metadata_request::MetadataRequest;
use odradek_wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use odradek_wire::{
    DescribeTransactionsRequest, FindCoordinatorRequest, ListTransactionsRequest, Str, WriteTxnMarkersRequest,
};

use super::{Cluster, PAUSE, Trouble};
use crate::error::{CliError, Exit};

/// A transactional id, as FindCoordinator numbers kinds of keys.
const TRANSACTIONAL_ID: i8 = 1;

/// Which transactions are wanted; each empty: all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub states: Vec<String>,
    pub producers: Vec<i64>,
    /// Milliseconds.
    pub longer_than: Option<i64>,
    /// A regular expression for the whole id.
    pub pattern: Option<String>,
}

/// Who has an open transaction in a partition.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
}

impl Cluster {
    /// All that any broker coordinates, with that broker.
    pub async fn transactions(&mut self, wanted: &Wanted) -> Result<Vec<(i32, Listed)>, CliError> {
        let request = ListTransactionsRequest {
            state_filters: wanted.states.iter().map(Str::from).collect(),
            producer_id_filters: wanted.producers.clone(),
            duration_filter: wanted.longer_than.unwrap_or(-1),
            transactional_id_pattern: wanted.pattern.as_ref().map(Str::from),
            ..ListTransactionsRequest::default()
        };
        let least = match wanted {
            Wanted { pattern: Some(_), .. } => 2,
            Wanted { longer_than: Some(_), .. } => 1,
            _ => 0,
        };
        let mut found = Vec::new();
        for broker in self.broker_ids() {
            let answer = self.ask_until(broker, (least, 2), &request, |answer| answer.error_code).await?;
            found.extend(answer.transaction_states.into_iter().map(|state| (broker, state)));
        }
        found.sort_by(|a, b| a.1.transactional_id.cmp(&b.1.transactional_id));
        Ok(found)
    }

    /// What its coordinator knows of a transactional id; `None`: nothing.
    pub async fn transaction(&mut self, id: &str) -> Result<Option<(i32, TransactionState)>, CliError> {
        let request = DescribeTransactionsRequest { transactional_ids: vec![Str::from(id)], ..Default::default() };
        let deadline = self.deadline();
        loop {
            let asked = match self.coordinator(id).await {
                Ok(coordinator) => {
                    let answer = self.ask(coordinator, self.timeout, (0, 0), &request).await;
                    answer.map(|answer| (coordinator, answer))
                }
                Err(trouble) => Err(trouble),
            };
            let trouble = match asked {
                Err(trouble) => trouble,
                Ok((coordinator, answer)) => {
                    let Some(state) = answer.transaction_states.into_iter().next() else {
                        return Err(CliError::failed(format!("broker {coordinator} says nothing of {id}")));
                    };
                    match ErrorCode::from_code(state.error_code) {
                        ErrorCode::None => return Ok(Some((coordinator, state))),
                        ErrorCode::TransactionalIdNotFound => return Ok(None),
                        code => Trouble::Topic(code),
                    }
                }
            };
            self.pause_or_give_up(id, deadline, trouble).await?;
        }
    }

    async fn coordinator(&mut self, id: &str) -> Result<i32, Trouble> {
        let request = FindCoordinatorRequest {
            key_type: TRANSACTIONAL_ID,
            coordinator_keys: vec![Str::from(id)],
            ..FindCoordinatorRequest::default()
        };
        let answer = self.ask_any(4, 6, &request).await?;
        let found = answer.coordinators.first().ok_or(Trouble::Topic(ErrorCode::CoordinatorNotAvailable))?;
        match ErrorCode::from_code(found.error_code) {
            ErrorCode::None => Ok(found.node_id),
            code => Err(Trouble::Topic(code)),
        }
    }

    /// The names of all topics.
    pub async fn topics(&mut self) -> Result<Vec<String>, CliError> {
        let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
        let answer = self.ask_any(4, 9, &request).await.map_err(|trouble| self.give_up(&trouble))?;
        let names: BTreeSet<String> =
            answer.topics.into_iter().filter_map(|topic| Some(topic.name?.to_string())).collect();
        Ok(names.into_iter().collect())
    }

    /// Turns to another topic.
    pub async fn turn_to(&mut self, topic: &str) -> Result<(), CliError> {
        self.topic = topic.to_owned();
        let deadline = self.deadline();
        while let Err(trouble) = self.refresh(false).await {
            self.pause_or_give_up(topic, deadline, trouble).await?;
        }
        Ok(())
    }

    /// Aborts an open transaction in a partition of the topic, whatever its coordinator knows.
    pub async fn abort_transaction(&mut self, partition: i32, writer: Writer) -> Result<(), CliError> {
        let request = WriteTxnMarkersRequest {
            markers: vec![WritableTxnMarker {
                producer_id: writer.producer_id,
                producer_epoch: writer.producer_epoch,
                transaction_result: false,
                coordinator_epoch: writer.coordinator_epoch,
                topics: vec![WritableTxnMarkerTopic {
                    name: Str::from(self.topic.as_str()),
                    partition_indexes: vec![partition],
                    ..WritableTxnMarkerTopic::default()
                }],
                ..WritableTxnMarker::default()
            }],
            ..WriteTxnMarkersRequest::default()
        };
        let deadline = self.deadline();
        let name = format!("{}-{partition}", self.topic);
        loop {
            let leader = self.partitions.get(&partition).map_or(-1, |known| known.leader);
            let trouble = match self.ask(leader, self.timeout, (1, 1), &request).await {
                Err(trouble) => trouble,
                Ok(answer) => {
                    let partitions =
                        answer.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
                    match partitions.map(|partition| ErrorCode::from_code(partition.error_code)).next() {
                        Some(ErrorCode::None) => return Ok(()),
                        Some(code) => Trouble::Topic(code),
                        None => return Err(CliError::failed(format!("{name}: the leader says nothing of it"))),
                    }
                }
            };
            self.pause_or_give_up(&name, deadline, trouble).await?;
            let _ = self.refresh(false).await;
        }
    }

    async fn ask_until<R: odradek_wire::Request>(
        &mut self,
        broker: i32,
        versions: (i16, i16),
        request: &R,
        error_code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, CliError> {
        let deadline = self.deadline();
        loop {
            let trouble = match self.ask(broker, self.timeout, versions, request).await {
                Err(trouble) => trouble,
                Ok(answer) => match ErrorCode::from_code(error_code(&answer)) {
                    ErrorCode::None => return Ok(answer),
                    code => Trouble::Topic(code),
                },
            };
            self.pause_or_give_up(&format!("broker {broker}"), deadline, trouble).await?;
        }
    }

    async fn pause_or_give_up(
        &self,
        what: &str,
        deadline: odradek_common::time::Instant,
        trouble: Trouble,
    ) -> Result<(), CliError> {
        match trouble {
            Trouble::Topic(code) if !code.is_retriable() => Err(refused(what, code)),
            Trouble::Topic(code) if self.world.instant() >= deadline => Err(refused(what, code)),
            trouble if self.world.instant() >= deadline => Err(self.give_up(&trouble)),
            _ => {
                self.world.sleep(PAUSE).await;
                Ok(())
            }
        }
    }
}

fn refused(what: &str, code: ErrorCode) -> CliError {
    let exit = match code {
        ErrorCode::UnknownTopicOrPartition => Exit::NotFound,
        _ => Exit::Failed,
    };
    let hint = match code {
        ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced => {
            "; the partition knows a later one: `odradek topic producers TOPIC` shows it"
        }
        ErrorCode::InvalidRegularExpression => "; the pattern is a regular expression for the whole id",
        _ => "",
    };
    CliError::new(exit, format!("{what}: {}{hint}", code.name()))
}

/// Partitions by topic.
pub fn by_topic(state: &TransactionState) -> BTreeMap<&str, Vec<i32>> {
    state.topics.iter().map(|topic| (topic.topic.as_str(), topic.partitions.clone())).collect()
}
