//! Blocks of producer ids: each broker takes one at a time and hands its ids to producers (KIP-730).

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, ProducerId};
use odradek_metadata::proto::{self, record::Kind};

use crate::decider::{Context, Decider, Decision};
use crate::error::ApiError;

/// Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`.
pub const BLOCK_SIZE: i32 = 1000;

/// Ids that no one else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub first: ProducerId,
    pub count: i32,
}

impl Decider {
    /// Hands out the next block.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH; UNKNOWN_SERVER_ERROR when 2^63 ids are used up.
    pub fn allocate_producer_ids(
        &mut self,
        context: &mut Context<'_>,
        broker: BrokerId,
        epoch: BrokerEpoch,
    ) -> Decision<Result<ProducerIdBlock, ApiError>> {
        if let Err(error) = self.check_broker_epoch(broker, epoch) {
            return self.answer(Err(error));
        }
        let first = self.overlay.next_producer_id();
        let Some(next) = first.checked_add(i64::from(BLOCK_SIZE)) else {
            let message = "All producer ids are used up.";
            return self.answer(Err(ApiError::new(ErrorCode::UnknownServerError, message)));
        };
        let mut draft = self.draft(context);
        draft.push(Kind::ProducerIds(proto::ProducerIdsRecord {
            broker_id: broker.0,
            broker_epoch: epoch.0,
            next_producer_id: next,
        }));
        self.decide(draft, Ok(ProducerIdBlock { first: ProducerId(first), count: BLOCK_SIZE }))
    }
}
