//! Every decision of a broker, without any I/O.
//!
//! - [`partition`]: what a leader and a follower of a partition do (ISR, high watermark, truncation).
//! - [`purgatory`]: who waits for what, and is completed once.
//! - [`cleaning`]: which compacted log is cleaned next.
//! - [`cold_reader`]: what a reader far behind a log's end does to the page cache.
//! - [`replication_quota`]: how fast replicas that are moved may be fetched.
//! - [`fetch_session`]: incremental fetch sessions (KIP-227), both the server's cache and the follower's end.
//! - [`coordinator`]: what every coordinator is: a state machine over a replicated log.
//! - [`group`]: the group coordinator: classic groups and committed offsets.
//! - [`transaction`]: the transaction coordinator.
//!
//! **Invariant:** nothing here reads a clock, opens a file or socket, awaits, locks, or draws its own random numbers.
//! Time comes in as [`odradek_common::time::Instant`], randomness as [`odradek_common::rng::Rng`], the state of the
//! cluster as [`Brokers`]; what is to be done goes out as values that the shell carries out.

mod brokers;
pub mod cleaning;
pub mod cold_reader;
pub mod coordinator;
pub mod fetch_session;
pub mod group;
pub mod lag;
pub mod partition;
pub mod purgatory;
pub mod replication_quota;
pub mod transaction;

pub use brokers::Brokers;
