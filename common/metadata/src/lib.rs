//! The metadata of a cluster as both sides hold it: controllers decide on it, brokers serve from it.
//!
//! An [`Image`] is what the records of the metadata log add up to. It is an immutable map underneath, so a clone costs a
//! few pointers and readers keep the one they have while the next is built. [`Image::replay`] is the only way to change
//! one. [`DeltaTracker`] replays and remembers what was touched, for whoever publishes the difference. [`snapshot`]
//! writes an image as the shortest list of records that rebuilds it, and [`batch`] is the encoding of one entry of the
//! Raft log.
//!
//! [`bootstrap`] is the file that a cluster begins with which was something else before.
//!
//! Nothing here decides or reads a clock. Records that do not fit the image (from a damaged disk or a
//! wrong peer) are an error and leave the image as it was.

pub mod batch;
pub mod bootstrap;
pub mod delta;
mod image;
mod records;
mod replay;
pub mod snapshot;
mod types;

pub use delta::{Delta, DeltaTracker, TopicDelta};
pub use image::{Configs, Image};
pub use odradek_common::config::SecurityProtocol;
pub use odradek_proto::metadata as proto;
pub use records::{partition_record, register_broker_record};
pub use replay::ReplayError;
pub use types::{
    BrokerRegistration, ConfigResource, ControllerRegistration, DirectoryId, Endpoint, FeatureRange,
    LeaderRecoveryState, PartitionRegistration, Replicas, ResourceType, Topic, directory,
};
