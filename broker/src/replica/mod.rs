//! The partitions of this broker: appends, reads, replication and what waits for them.
//!
//! - [`ReplicaManager`] is all that others call: produce, fetch, lookups, new metadata, start and end.
//! - `partition` is one log with its role behind one lock; `waiting` is who waits on it.
//! - `session` is what an incremental fetch session reads: what it names and what has news.
//! - `cold_readers` looks after those who read far behind a log's end.
//! - `fetcher` follows leaders over the Kafka protocol; `isr` and `directories` tell the controller.
//! - `cleaner` compacts logs; `deletion` is DeleteRecords; `publish` takes metadata in; `tasks` is what happens by the clock;
//!   `throttle` bounds how fast replicas that are moved are fetched.
//! - `flushes` syncs what was written, in rounds over all that waits in a log directory.
//! - `disks` copes with log directories that fail or fill up; `moves` moves a log from one of them to another.
//! - `metrics` is what all of it is in numbers.
//!
//! Every decision is made in `odradek-broker-core`; here are the locks, tasks, sockets and files around it.
//! **Invariant:** no lock is held across an await, and none of another partition is taken under a partition's.

mod catch_up;
mod cleaner;
mod cold_readers;
mod config;
mod coordinated;
mod deletion;
mod directories;
mod disks;
mod fetcher;
mod flushes;
mod isr;
mod lost_leaders;
mod manager;
mod metrics;
mod moves;
mod partition;
mod publish;
mod session;
mod tasks;
mod throttle;
mod types;
mod waiting;
mod watchers;

pub use cold_readers::ColdStream;
pub use deletion::{FutureDescription, LogDirDescription};
pub use isr::{ControllerClient, IsrChange, IsrChangeResult};
pub use lost_leaders::LostLeaders;
pub use manager::ReplicaManager;
pub use odradek_broker_core::partition::{EpochEnd, Isolation, IsrCommitted, IsrMember, IsrProposal, Reader};
pub use odradek_broker_storage::{ActiveProducer, AppendOrigin, Unverified};
pub use session::{SessionResult, SessionWatch};
pub use types::{
    AppendEntry, AppendResult, CurrentLeader, DeletedRecords, FetchEntry, FetchParams, FetchResult, FileRange,
    ListedOffset, Outcome, PartitionError, ReplicaDescription, timestamp,
};

#[cfg(test)]
mod tests;
