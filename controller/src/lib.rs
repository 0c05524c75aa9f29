//! The controller's shell: a quorum that agrees on the metadata log by Raft, and the gRPC front through which brokers,
//! operators and the other controllers reach it.
//!
//! What is decided stands in `odradek-controller-core`, what the records mean in `odradek-metadata`; here they meet
//! sockets, disks and clocks, all of them through `odradek_node::World`. `openraft` appears only in [`raft`] and in the
//! decider.

pub mod decider;
pub mod grpc;
mod metrics;
pub mod quorum;
pub mod raft;
pub mod server;

pub use server::{ControllerOptions, run};
