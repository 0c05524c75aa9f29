//! The records of `__transaction_state` in Kafka's format: key version 0, value version 0, or 1 from `transaction.version`
//! 1 on, which has tagged fields.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_wire::transaction_log_value::PartitionsSchema;
use odradek_wire::{
    Decoder, EncodeError, Message, Str, TransactionLogKey, TransactionLogValue, TypedRecord, decode_versioned,
    encode_with_prefix,
};

use super::state::{NO_EPOCH, NO_PRODUCER, State, Transaction, TransactionVersion};
use crate::coordinator::EncodedRecord;

const KEY: i16 = 0;

/// What is said of a transactional id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionRecord {
    pub id: Arc<str>,
    /// `None`: it is forgotten.
    pub transaction: Option<Transaction>,
    /// The version of the value.
    pub format: i16,
}

/// The version that records are written in.
pub(super) fn format(level: TransactionVersion) -> i16 {
    level.0.clamp(0, 1)
}

pub fn encode(record: &TransactionRecord) -> Result<EncodedRecord, EncodeError> {
    let key = TransactionLogKey { transactional_id: Str::from(&*record.id) };
    let key = encode_with_prefix(&key, KEY, KEY)?;
    let value = record.transaction.as_ref().map(|transaction| encode_value(transaction, record.format));
    Ok((key, value.transpose()?))
}

fn encode_value(transaction: &Transaction, format: i16) -> Result<Bytes, EncodeError> {
    let is_empty = transaction.state == State::Empty;
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &*transaction.partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics.into_iter().map(|(topic, partition_ids)| PartitionsSchema {
        topic: Str::from(topic),
        partition_ids,
        ..PartitionsSchema::default()
    });
    // The older form has no room for the newer fields, and then they are never of use.
    let tagged = |id: ProducerId| if format >= 1 { id.0 } else { NO_PRODUCER.0 };
    let next_epoch = if format >= 1 { transaction.next_epoch } else { NO_EPOCH };
    let value = TransactionLogValue {
        producer_id: transaction.producer.0,
        previous_producer_id: tagged(transaction.previous_producer),
        next_producer_id: tagged(transaction.next_producer),
        producer_epoch: transaction.epoch.0,
        next_producer_epoch: next_epoch.0,
        transaction_timeout_ms: transaction.timeout_ms,
        transaction_status: transaction.state.id(),
        transaction_partitions: (!is_empty).then(|| topics.collect()),
        transaction_last_update_timestamp_ms: transaction.updated_ms,
        transaction_start_timestamp_ms: transaction.started_ms,
        client_transaction_version: if format >= 1 { transaction.version.0 } else { 0 },
        ..TransactionLogValue::default()
    };
    encode_with_prefix(&value, format, format)
}

/// An error says why the record is left out.
pub fn decode(key: Option<Bytes>, value: Option<Bytes>) -> Result<TransactionRecord, String> {
    let mut input = Decoder::new(key.ok_or("records without a key")?);
    let kind = input.i16().map_err(|_| "records whose key is too short")?;
    if kind != TransactionLogKey::RECORD_TYPE {
        return Err(format!("records of the unknown type {kind}"));
    }
    let damaged = |error| format!("damaged records: {error}");
    let key = TransactionLogKey::decode(&mut input, KEY).map_err(damaged)?;
    let id: Arc<str> = key.transactional_id.as_str().into();
    let Some(value) = value else { return Ok(TransactionRecord { id, transaction: None, format: KEY }) };
    let (format, value) = decode_versioned::<TransactionLogValue>(value).map_err(damaged)?;
    let state = State::from_id(value.transaction_status)
        .ok_or_else(|| format!("records of the unknown transaction state {}", value.transaction_status))?;
    let topics = value.transaction_partitions.unwrap_or_default();
    let partitions = topics.iter().flat_map(|topic| {
        let name: Arc<str> = topic.topic.as_str().into();
        topic.partition_ids.iter().map(move |index| (name.clone(), *index))
    });
    let transaction = Transaction {
        producer: ProducerId(value.producer_id),
        previous_producer: ProducerId(value.previous_producer_id),
        next_producer: ProducerId(value.next_producer_id),
        next_epoch: ProducerEpoch(value.next_producer_epoch),
        epoch: ProducerEpoch(value.producer_epoch),
        last_epoch: NO_EPOCH,
        timeout_ms: value.transaction_timeout_ms,
        state,
        partitions: Arc::new(if state == State::Empty { Default::default() } else { partitions.collect() }),
        started_ms: value.transaction_start_timestamp_ms,
        updated_ms: value.transaction_last_update_timestamp_ms,
        version: TransactionVersion(value.client_transaction_version),
    };
    Ok(TransactionRecord { id, transaction: Some(transaction), format })
}
