//! Every decision of a controller, without a controller: pure, synchronous, deterministic.
//!
//! [`Decider`] holds the metadata as the active controller sees it (committed, and decided but still on its way through
//! Raft) and the soft state of the brokers' liveness. Each operation takes an input and a [`Context`] (time, the next
//! offset, randomness) and gives a [`Decision`]: records for one Raft entry, a response, and events worth telling. The
//! shell proposes, waits, answers.
//!
//! - [`topics`], [`create_partitions`], [`configs`], [`elect_leaders`], [`reassignment`],
//!   [`decommission`], [`fencing`], [`plan`]: what administrators ask
//! - [`brokers`], [`heartbeat`], [`alter_partition`], [`directories`], [`producer_ids`]: what brokers ask
//! - [`placement`], [`partition_change`], [`elections`]: where replicas go and who leads
//! - [`features`], [`bootstrap`], [`update_features`]: what a cluster is born with, and how that changes
//! - [`queries`], [`quorum`]: what operators ask of an image and of the quorum
//! - `api`: clients' requests in Kafka's encoding, as brokers pass them on ([`Decider::forward`])
//!
//! **Invariant:** nothing here reads a clock, draws a random number of its own, or touches a file, a socket or a
//! runtime; `clippy.toml` refuses it. State changes only by replaying the records that were decided.

pub mod alter_partition;
mod api;
pub mod bootstrap;
pub mod brokers;
pub mod configs;
pub mod create_partitions;
mod decider;
pub mod decommission;
pub mod directories;
pub mod effective;
pub mod elect_leaders;
pub mod elections;
mod error;
pub mod features;
pub mod fencing;
pub mod heartbeat;
mod liveness;
pub mod partition_change;
pub mod placement;
pub mod plan;
pub mod producer_ids;
pub mod queries;
pub mod quorum;
pub mod reassignment;
mod settings;
pub mod topic_name;
pub mod topics;
pub mod update_features;

pub use api::{FORWARDED, ForwardError};
pub use decider::{Context, Decider, Decision, Event, RECORDS_PER_REQUEST_MAX};
pub use error::ApiError;
pub use liveness::{FenceReason, StreamId, TICK_INTERVAL};
pub use settings::Settings;
