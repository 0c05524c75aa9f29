//! The gRPC front of a controller: one port for the other controllers, the brokers and the operators.
//!
//! It runs on a thread and a runtime of its own, together with Raft's tasks, and touches no disk: it speaks to Raft and
//! the decider through their channels.

pub mod admin_service;
pub mod broker_service;
mod door;
mod groups;
pub mod metadata_stream;
mod partitions;
pub mod raft_service;
