//! What a partition's leader has to know of the other brokers.

use odradek_common::{BrokerEpoch, BrokerId};
use odradek_metadata::Image;

/// The brokers of the cluster as this broker's metadata has them.
pub trait Brokers {
    /// The epoch of the broker's present registration, fenced or not; `None` when there is none.
    fn epoch(&self, broker: BrokerId) -> Option<BrokerEpoch>;

    /// As [`Brokers::epoch`], but only if the broker may be in an ISR: neither fenced nor shutting down (KIP-841).
    fn active_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch>;
}

impl Brokers for Image {
    fn epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.broker(broker).map(|registration| registration.epoch)
    }

    fn active_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.broker(broker).filter(|registration| registration.is_active()).map(|registration| registration.epoch)
    }
}
