//! Coordinators: state machines over a replicated log, for groups, transactions and share groups alike.
//!
//! A [`Shard`] decides; the [`Runtime`] around it is the contract (Kafka's `CoordinatorRuntime`, KIP-848):
//! 1. A request, or a timer, becomes records, replies and timers: [`Shard::handle`] fills a [`Turn`].
//! 2. The records are appended as one batch by whoever holds the [`CoordinatorLog`].
//! 3. Only what was appended is [replayed](Shard::replay), and replicated state changes only there. A failed append thus has
//!    nothing to take back, and the state is at all times what a new leader would load.
//! 4. Replies wait until the high watermark has passed the turn's records, and the [`Shard::Pending`] of the turn is then
//!    handed back to the shard. A failed or late append answers with an error instead.
//! 5. [Queries](Shard::query) see committed state alone; [`TimelineMap`] keeps both versions.
//!
//! A shard is made anew when its broker becomes the leader of its partition and dropped when it resigns: the coordinator's
//! epoch is the leader epoch, and the log fences appends by it. What a shard keeps outside of records (members who join,
//! sessions, timers) is soft: it ends with the leadership.

mod partition;
mod runtime;
mod shard;
mod survey;
mod timeline;
mod timers;

pub use partition::{java_hash, partition_for};
pub use runtime::{Completion, LoadError, Runtime, RuntimeConfig, TransactionEnd};
pub use shard::{
    Append, AppendKind, CoordinatorLog, EncodedRecord, InTransaction, Origin, Shard, Ticket, Turn, response_error,
};
pub use timeline::TimelineMap;
pub use timers::Timers;

#[cfg(test)]
pub(crate) mod memory_log;
#[cfg(test)]
mod tests;
