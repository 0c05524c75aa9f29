//! Blocks of producer ids from the active controller.

use std::ops::Range;
use std::time::Duration;

use odradek_common::{BrokerId, ErrorCode};
use odradek_node::world::BoxFuture;
use odradek_proto::broker::AllocateProducerIdsRequest;

use super::ControllerClient;
use crate::coordinators;
use crate::life::CurrentBrokerEpoch;

/// Asks with this broker's id and epoch.
pub struct ProducerIdBlocks {
    client: ControllerClient,
    broker_id: BrokerId,
    broker_epoch: CurrentBrokerEpoch,
}

impl ProducerIdBlocks {
    pub fn new(client: ControllerClient, broker_id: BrokerId, broker_epoch: CurrentBrokerEpoch) -> Self {
        Self { client, broker_id, broker_epoch }
    }
}

impl coordinators::ProducerIdBlocks for ProducerIdBlocks {
    fn allocate(&self, patience: Duration) -> BoxFuture<Result<Range<i64>, String>> {
        let request =
            AllocateProducerIdsRequest { broker_id: self.broker_id.0, broker_epoch: self.broker_epoch.get().0 };
        let client = self.client.clone();
        Box::pin(async move {
            let response = client.allocate_producer_ids(request, patience).await.map_err(|error| error.to_string())?;
            let code = i16::try_from(response.error_code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code);
            if code.is_error() || response.count <= 0 || response.first_producer_id < 0 {
                return Err(format!("the controller gave none: {code}"));
            }
            Ok(response.first_producer_id..response.first_producer_id.saturating_add(response.count.into()))
        })
    }
}
