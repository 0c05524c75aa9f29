//! EndTxn: commits or aborts a transaction. It is answered when that is decided; partitions hear of it after that.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::transaction::{Producer, TransactionVersion};
use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};
use odradek_wire::{EndTxnRequest, EndTxnResponse};

use super::add_partitions_to_txn::PRODUCER_FENCED;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

/// The first version whose clients speak the second protocol: it is answered with the next epoch.
const BUMPED_EPOCH: i16 = 5;

impl Api {
    pub(super) fn end_txn(self: &Arc<Self>, asked: Asked<EndTxnRequest>) -> Outcome<EndTxnResponse> {
        let Asked { context, version, body: request, .. } = asked;
        if !self.allows(&context, Operation::Write, Resource::TransactionalId(&request.transactional_id)) {
            return Outcome::Done(failed(ErrorCode::TransactionalIdAuthorizationFailed));
        }
        if request.transactional_id.is_empty() {
            return Outcome::Done(failed(ErrorCode::InvalidRequest));
        }
        let producer = Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
        let protocol = if version >= BUMPED_EPOCH { TransactionVersion::V2 } else { TransactionVersion::V0 };
        let ended: Outcome<_> =
            self.transactions.end(&request.transactional_id, producer, request.committed, protocol).into();
        ended.map(move |ended| match ended {
            Ok(producer) => EndTxnResponse {
                producer_id: producer.id.0,
                producer_epoch: producer.epoch.0,
                ..EndTxnResponse::default()
            },
            Err(ErrorCode::ProducerFenced) if version < PRODUCER_FENCED => failed(ErrorCode::InvalidProducerEpoch),
            Err(error) => failed(error),
        })
    }
}

fn failed(error: ErrorCode) -> EndTxnResponse {
    EndTxnResponse { error_code: error.code(), ..EndTxnResponse::default() }
}
