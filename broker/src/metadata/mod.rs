//! The broker's view of the cluster: a stream from any controller (`follower`) is replayed into an image, published to
//! the broker's parts in one fixed order (`publisher`), and read by everyone from the cache. Questions and changes go to
//! the active controller (`controller_client`).

mod cache;
mod controller_client;
mod follower;
mod isr_changes;
mod live_config;
mod producer_id_blocks;
mod publisher;

pub use cache::MetadataCache;
pub use controller_client::{ActiveController, ControllerClient, ControllerError};
pub use follower::Follower;
pub use isr_changes::IsrChanges;
pub use live_config::{LiveConfig, overrides};
pub use producer_id_blocks::ProducerIdBlocks;
pub use publisher::Publisher;
