//! A broker's life: registration, the liveness stream to the active controller, and controlled shutdown.
//!
//! register -> fenced -> caught up -> unfenced -> (controlled shutdown) -> fenced -> gone. One incarnation of a broker id
//! is alive at a time; an older one learns from the controller that it was replaced, and ends.

mod liveness;
mod registration;

pub use liveness::{Incarnation, Liveness};
pub use registration::{register, request};

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use odradek_common::BrokerEpoch;
use odradek_proto::metadata::FeatureRange;

/// The epoch of this broker's registration, set by its life cycle; -1 before the first.
#[derive(Clone, Debug)]
pub struct CurrentBrokerEpoch(Arc<AtomicI64>);

impl Default for CurrentBrokerEpoch {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(BrokerEpoch::NONE.0)))
    }
}

impl CurrentBrokerEpoch {
    pub fn get(&self) -> BrokerEpoch {
        BrokerEpoch(self.0.load(Ordering::Acquire))
    }

    pub fn set(&self, epoch: BrokerEpoch) {
        self.0.store(epoch.0, Ordering::Release);
    }
}

/// The feature levels that this broker can work with. `metadata.version` is the number that Kafka 4.3 gives its newest.
pub fn supported_features() -> Vec<FeatureRange> {
    [
        ("eligible.leader.replicas.version", 0, 1),
        ("group.version", 0, 1),
        ("metadata.version", 30, 30),
        ("transaction.version", 0, 2),
    ]
    .map(|(name, min_level, max_level)| FeatureRange { name: name.to_owned(), min_level, max_level })
    .to_vec()
}
