//! Producer ids that nobody has used: the rest of a block that the controller gave this broker (KIP-730).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::{ErrorCode, ProducerId};
use odradek_node::World;
use odradek_node::world::BoxFuture;

/// A client is told to ask again when no block came in this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the controller for the next block.
pub trait ProducerIdBlocks: Send + Sync {
    fn allocate(&self, patience: Duration) -> BoxFuture<Result<Range<i64>, String>>;
}

/// The rest of the block at hand. The lock is held while the next block is fetched, so that one request fetches it for
/// all who wait.
pub struct ProducerIds {
    world: World,
    blocks: Arc<dyn ProducerIdBlocks>,
    block: tokio::sync::Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(world: World, blocks: Arc<dyn ProducerIdBlocks>) -> Self {
        Self { world, blocks, block: tokio::sync::Mutex::new(0..0) }
    }

    /// An id, if one is at hand.
    pub fn try_next(&self) -> Option<ProducerId> {
        self.block.try_lock().ok()?.next().map(ProducerId)
    }

    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS, as Kafka has it: the client asks again.
    pub async fn next(&self) -> Result<ProducerId, ErrorCode> {
        let fetched = async {
            let mut block = self.block.lock().await;
            if block.is_empty() {
                *block = self
                    .blocks
                    .allocate(PATIENCE)
                    .await
                    .inspect_err(|error| {
                        tracing::warn!(error, "no producer ids");
                    })
                    .map_err(|_| ErrorCode::CoordinatorLoadInProgress)?;
            }
            block.next().map(ProducerId).ok_or(ErrorCode::CoordinatorLoadInProgress)
        };
        self.world.timeout(PATIENCE, fetched).await.unwrap_or(Err(ErrorCode::CoordinatorLoadInProgress))
    }
}
