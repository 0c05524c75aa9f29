//! AddOffsetsToTxn: the partition of `__consumer_offsets` that a group belongs to becomes part of a transaction.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::group::OFFSETS_TOPIC;
use odradek_broker_core::transaction::{Producer, TransactionVersion};
use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};
use odradek_wire::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

use super::add_partitions_to_txn::PRODUCER_FENCED;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn add_offsets_to_txn(
        self: &Arc<Self>,
        asked: Asked<AddOffsetsToTxnRequest>,
    ) -> Outcome<AddOffsetsToTxnResponse> {
        let Asked { context, version, body: request, .. } = asked;
        if !self.allows(&context, Operation::Write, Resource::TransactionalId(&request.transactional_id)) {
            return Outcome::Done(answer(ErrorCode::TransactionalIdAuthorizationFailed));
        }
        if !self.allows(&context, Operation::Read, Resource::Group(&request.group_id)) {
            return Outcome::Done(answer(ErrorCode::GroupAuthorizationFailed));
        }
        if request.transactional_id.is_empty() {
            return Outcome::Done(answer(ErrorCode::InvalidRequest));
        }
        let producer = Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) };
        let partition = (Arc::from(OFFSETS_TOPIC), self.groups.partition_for(&request.group_id).0);
        let added: Outcome<_> = self
            .transactions
            .add_partitions(
                &request.transactional_id,
                producer,
                vec![partition],
                TransactionVersion::V0,
                Duration::ZERO,
            )
            .into();
        added.map(move |added| match added {
            Ok(()) => answer(ErrorCode::None),
            Err(ErrorCode::ProducerFenced) if version < PRODUCER_FENCED => answer(ErrorCode::InvalidProducerEpoch),
            Err(error) => answer(error),
        })
    }
}

fn answer(error: ErrorCode) -> AddOffsetsToTxnResponse {
    AddOffsetsToTxnResponse { error_code: error.code(), ..AddOffsetsToTxnResponse::default() }
}
