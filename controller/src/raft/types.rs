//! The types that openraft is instantiated with.
//!
//! One leader a term at most (`leader_id_std`), so that the term is the controller epoch. An entry's data is one encoded
//! metadata batch, kept as bytes until it is applied; its index is the metadata offset of all its records.

use std::fmt;

use bytes::Bytes;
// What the rest of the controller needs of openraft, so that it need not name it.
pub use openraft::Instant as RaftInstant;
pub use openraft::async_runtime::WatchReceiver;
pub use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::runtime::Runtime;

openraft::declare_raft_types!(
    /// What the quorum agrees with.
    pub TypeConfig:
        D = EncodedBatch,
        R = Applied,
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// An encoded `odradek.metadata.v1.Batch`.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedBatch(pub Bytes);

impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The answer to a proposal: it is applied on this node, and visible at this offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    pub offset: i64,
}

/// Where a controller listens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

pub type NodeId = u64;
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<NodeId, Peer>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type LogState = openraft::LogState<TypeConfig>;
pub type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// An entry's identity.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}
