//! InitProducerId: an unused id for an idempotent producer (KIP-98), or, from its coordinator, the next epoch of a
//! transactional one, whose older namesakes are fenced (KIP-360). From version 6 on, which is served where two-phase commit
//! is enabled, it may take over their open transaction (KIP-939).

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_broker_core::transaction::{Producer, TwoPhase};
use odradek_common::{ErrorCode, ProducerEpoch, ProducerId};
use odradek_wire::init_producer_id_request::InitProducerIdRequest;
use odradek_wire::init_producer_id_response::InitProducerIdResponse;

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;

/// The first version whose clients know PRODUCER_FENCED.
const PRODUCER_FENCED: i16 = 4;

impl Api {
    pub(super) fn init_producer_id(
        self: &Arc<Self>,
        asked: Asked<InitProducerIdRequest>,
    ) -> Outcome<InitProducerIdResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let resource = request.transactional_id.as_ref().map(|id| Resource::TransactionalId(id));
        let (operation, refused) = match resource {
            Some(_) => (Operation::Write, ErrorCode::TransactionalIdAuthorizationFailed),
            None => (Operation::IdempotentWrite, ErrorCode::ClusterAuthorizationFailed),
        };
        if !self.allows(&context, operation, resource.unwrap_or(Resource::Cluster)) {
            return Outcome::Done(failed(refused));
        }
        let two_phase = TwoPhase { enable: request.enable2_pc, keep_prepared: request.keep_prepared_txn };
        if two_phase != TwoPhase::default()
            && resource.is_some_and(|resource| !self.allows(&context, Operation::TwoPhaseCommit, resource))
        {
            return Outcome::Done(failed(refused));
        }
        let has_id = request.producer_id != NO_PRODUCER_ID;
        let has_epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
        if request.transactional_id.as_ref().is_some_and(|id| id.is_empty()) || has_id != has_epoch {
            return Outcome::Done(failed(ErrorCode::InvalidRequest));
        }
        let Some(id) = request.transactional_id else { return self.next_producer_id() };
        let expected = has_id
            .then_some(Producer { id: ProducerId(request.producer_id), epoch: ProducerEpoch(request.producer_epoch) });
        let initialised: Outcome<_> =
            self.transactions.init(&id, request.transaction_timeout_ms, expected, two_phase).into();
        initialised.map(move |initialised| match initialised {
            Ok((producer, ongoing)) => answer(producer, ongoing),
            Err(ErrorCode::ProducerFenced) if version < PRODUCER_FENCED => failed(ErrorCode::InvalidProducerEpoch),
            Err(error) => failed(error),
        })
    }

    fn next_producer_id(&self) -> Outcome<InitProducerIdResponse> {
        let fresh = |id| answer(Producer { id, epoch: ProducerEpoch(0) }, None);
        if let Some(id) = self.producer_ids.try_next() {
            return Outcome::Done(fresh(id));
        }
        let ids = self.producer_ids.clone();
        Outcome::waiting(async move { ids.next().await.map_or_else(failed, fresh) })
    }
}

fn answer(producer: Producer, ongoing: Option<Producer>) -> InitProducerIdResponse {
    InitProducerIdResponse {
        producer_id: producer.id.0,
        producer_epoch: producer.epoch.0,
        ongoing_txn_producer_id: ongoing.map_or(NO_PRODUCER_ID, |ongoing| ongoing.id.0),
        ongoing_txn_producer_epoch: ongoing.map_or(NO_PRODUCER_EPOCH, |ongoing| ongoing.epoch.0),
        ..InitProducerIdResponse::default()
    }
}

fn failed(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code: error.code(),
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        ..InitProducerIdResponse::default()
    }
}
