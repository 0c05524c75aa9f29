//! What a transactional producer says to its coordinator, in either version of the protocol (KIP-98, KIP-890).

use std::collections::BTreeMap;
use std::io;

use odradek_wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use odradek_wire::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
use odradek_wire::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, Str,
    TxnOffsetCommitRequest,
};

use super::groups::Kind;
use super::{Client, Failure, Producer};

/// A transaction that stays open for so long is ended by its coordinator.
const TRANSACTION_TIMEOUT_MS: i32 = 20_000;

/// A producer with a transactional id, in one of its lives.
#[derive(Clone, Debug)]
pub struct Transactional {
    pub id: String,
    pub producer: Producer,
    /// Whether it speaks transaction.version 2: partitions join by being produced to, and each transaction has an epoch.
    pub is_second_version: bool,
}

impl Client {
    /// Begins a producer's life: fences those before and ends what they left open.
    pub async fn init_transactional(&mut self, id: &str) -> Result<Producer, Failure> {
        let request = InitProducerIdRequest {
            transactional_id: Some(Str::from(id)),
            transaction_timeout_ms: TRANSACTION_TIMEOUT_MS,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let answer = self.ask_coordinator(Kind::Transaction, id, 4, &request).await?;
        Failure::check(answer.error_code)?;
        Ok(Producer { id: answer.producer_id, epoch: answer.producer_epoch })
    }

    /// Adds partitions, where the protocol's version wants it.
    pub async fn add_partitions(&mut self, who: &Transactional, topic: &str, all: &[i32]) -> Result<(), Failure> {
        if who.is_second_version {
            return Ok(());
        }
        let topic = AddPartitionsToTxnTopic { name: Str::from(topic), partitions: all.to_vec(), ..Default::default() };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: Str::from(&who.id),
            v3_and_below_producer_id: who.producer.id,
            v3_and_below_producer_epoch: who.producer.epoch,
            v3_and_below_topics: vec![topic],
            ..Default::default()
        };
        let answer = self.ask_coordinator(Kind::Transaction, &who.id, 3, &request).await?;
        let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
        results.map(|result| result.partition_error_code).try_for_each(Failure::check)
    }

    /// Makes a group's offsets part of the transaction, as a consumer that was assigned its partitions by hand.
    pub async fn commit_in_transaction(
        &mut self,
        who: &Transactional,
        group: &str,
        topic: &str,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        if !who.is_second_version {
            let request = AddOffsetsToTxnRequest {
                transactional_id: Str::from(&who.id),
                producer_id: who.producer.id,
                producer_epoch: who.producer.epoch,
                group_id: Str::from(group),
                ..Default::default()
            };
            Failure::check(self.ask_coordinator(Kind::Transaction, &who.id, 3, &request).await?.error_code)?;
        }
        let partitions = positions.iter().map(|(partition, offset)| TxnOffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_leader_epoch: -1,
            ..Default::default()
        });
        let topic = TxnOffsetCommitRequestTopic {
            name: Str::from(topic),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let request = TxnOffsetCommitRequest {
            transactional_id: Str::from(&who.id),
            group_id: Str::from(group),
            producer_id: who.producer.id,
            producer_epoch: who.producer.epoch,
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let version = if who.is_second_version { 5 } else { 3 };
        let answer = self.ask_coordinator(Kind::Group, group, version, &request).await?;
        let results = answer.topics.iter().flat_map(|topic| &topic.partitions);
        results.map(|result| result.error_code).try_for_each(Failure::check)
    }

    /// Commits or aborts; answers who the producer is in its next transaction.
    pub async fn end_transaction(&mut self, who: &Transactional, commits: bool) -> Result<Producer, Failure> {
        let request = EndTxnRequest {
            transactional_id: Str::from(&who.id),
            producer_id: who.producer.id,
            producer_epoch: who.producer.epoch,
            committed: commits,
            ..Default::default()
        };
        let version = if who.is_second_version { 5 } else { 3 };
        let answer = self.ask_coordinator(Kind::Transaction, &who.id, version, &request).await?;
        Failure::check(answer.error_code)?;
        if !who.is_second_version {
            return Ok(who.producer);
        }
        if answer.producer_id < 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        Ok(Producer { id: answer.producer_id, epoch: answer.producer_epoch })
    }
}
