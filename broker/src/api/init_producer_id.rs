//! InitProducerId without a transactional id: the next id of a block that the controller gave this broker (KIP-98,
//! KIP-730).

use std::sync::Arc;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_proto::broker::AllocateProducerIdsRequest;
use odradek_wire::init_producer_id_request::InitProducerIdRequest;
use odradek_wire::init_producer_id_response::InitProducerIdResponse;

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

/// A client is told to ask again when no block came in this time.
const PATIENCE: Duration = Duration::from_secs(5);

const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;

/// The rest of the block at hand. The lock is held while the next block is fetched, so that one request fetches it for
/// all who wait.
#[derive(Default)]
pub struct ProducerIds(tokio::sync::Mutex<std::ops::Range<i64>>);

impl Api {
    pub(super) fn init_producer_id(
        self: &Arc<Self>,
        asked: Asked<InitProducerIdRequest>,
    ) -> Outcome<InitProducerIdResponse> {
        let Asked { context, body: request, .. } = asked;
        let has_id = request.producer_id != NO_PRODUCER_ID;
        let has_epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
        if request.transactional_id.as_ref().is_some_and(|id| id.is_empty()) || has_id != has_epoch {
            return Outcome::Done(failed(ErrorCode::InvalidRequest));
        }
        if request.transactional_id.is_some() {
            // Transactions need a coordinator, and FindCoordinator refuses to name one: no client gets here by itself.
            return Outcome::Done(failed(ErrorCode::UnsupportedVersion));
        }
        let allowed = self.allows(&context, Operation::IdempotentWrite, Resource::Cluster);
        if !allowed {
            return Outcome::Done(failed(ErrorCode::ClusterAuthorizationFailed));
        }
        if let Ok(mut block) = self.producer_ids.0.try_lock()
            && let Some(id) = block.next()
        {
            return Outcome::Done(answer(id));
        }
        let api = self.clone();
        Outcome::waiting(async move {
            match api.world.timeout(PATIENCE, api.next_producer_id()).await {
                Ok(Ok(id)) => answer(id),
                Ok(Err(error)) => failed(error),
                // As Kafka: the client tries again.
                Err(_) => failed(ErrorCode::CoordinatorLoadInProgress),
            }
        })
    }

    async fn next_producer_id(&self) -> Result<i64, ErrorCode> {
        let mut block = self.producer_ids.0.lock().await;
        if let Some(id) = block.next() {
            return Ok(id);
        }
        let request =
            AllocateProducerIdsRequest { broker_id: self.broker_id.0, broker_epoch: self.broker_epoch.get().0 };
        let response = self.controller.allocate_producer_ids(request, PATIENCE).await.map_err(|error| {
            tracing::warn!(%error, "no producer ids");
            ErrorCode::CoordinatorLoadInProgress
        })?;
        let code = i16::try_from(response.error_code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code);
        if code.is_error() || response.count <= 0 || response.first_producer_id < 0 {
            tracing::warn!(error = %code, "the controller gave no producer ids");
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        *block = response.first_producer_id..response.first_producer_id.saturating_add(response.count.into());
        block.next().ok_or(ErrorCode::CoordinatorLoadInProgress)
    }
}

fn answer(producer_id: i64) -> InitProducerIdResponse {
    InitProducerIdResponse { producer_id, producer_epoch: 0, ..InitProducerIdResponse::default() }
}

fn failed(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code: error.code(),
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        ..InitProducerIdResponse::default()
    }
}
