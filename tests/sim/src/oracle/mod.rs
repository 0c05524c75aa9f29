//! What must be true whatever happens, beyond what each workload knows of its own records.
//!
//! - `visible`: what a reader has seen, every later reader sees.
//! - `metadata`: one leader an epoch, a snapshot and the changes after it are the whole log, and all brokers know it.
//! - `committed`: what a group has committed does not go back, and nothing is skipped.
//! - `linear`: whether a history of admin calls could have happened one after the other.
//! - `replicas`: what the brokers have on their disks.

pub mod committed;
pub mod linear;
pub mod metadata;
pub mod replicas;
pub mod visible;
