//! Between openraft's values and `raft.proto`, which is the encoding on the wire and on disk alike.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use odradek_proto::raft as proto;
use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;

use super::types::{EncodedBatch, Entry, LogId, Membership, Peer, SnapshotMeta, StoredMembership, Vote, log_id};

/// Bytes that say something else than this version expects.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
    #[error("the message has an invalid `{0}`")]
    Invalid(&'static str),
}

pub fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, index: id.index }
}

pub fn log_id_from_proto(id: &proto::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub fn vote_to_proto(vote: &Vote) -> proto::Vote {
    proto::Vote { term: vote.leader_id.term, node_id: Some(*vote.leader_id.node_id()), committed: vote.committed }
}

pub fn vote_from_proto(vote: Option<&proto::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed::Missing("vote"))?;
    let node_id = vote.node_id.ok_or(Malformed::Missing("vote.node_id"))?;
    Ok(if vote.committed { Vote::new_committed(vote.term, node_id) } else { Vote::new(vote.term, node_id) })
}

pub fn membership_to_proto(membership: &Membership) -> proto::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes();
    proto::Membership {
        configs: configs.map(|ids| proto::NodeIds { ids: ids.iter().copied().collect() }).collect(),
        nodes: nodes
            .map(|(id, peer)| proto::Node { node_id: *id, host: peer.host.clone(), port: u32::from(peer.port) })
            .collect(),
    }
}

pub fn membership_from_proto(membership: Option<&proto::Membership>) -> Result<Membership, Malformed> {
    let membership = membership.ok_or(Malformed::Missing("membership"))?;
    let mut nodes = BTreeMap::new();
    for node in &membership.nodes {
        let port = u16::try_from(node.port).map_err(|_| Malformed::Invalid("node.port"))?;
        nodes.insert(node.node_id, Peer { host: node.host.clone(), port });
    }
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|config| config.ids.iter().copied().collect()).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    // Every voter must have an address; openraft says so too, but its message cannot name our field.
    Membership::new(configs, nodes).map_err(|_| Malformed::Invalid("membership"))
}

pub fn entry_to_proto(entry: &Entry) -> proto::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => proto::entry::Payload::Blank(proto::Blank {}),
        EntryPayload::Normal(batch) => proto::entry::Payload::Batch(batch.0.clone()),
        EntryPayload::Membership(membership) => proto::entry::Payload::Membership(membership_to_proto(membership)),
    };
    proto::Entry { log_id: Some(log_id_to_proto(&entry.log_id)), payload: Some(payload) }
}

pub fn entry_from_proto(entry: proto::Entry) -> Result<Entry, Malformed> {
    let log_id = log_id_from_proto(entry.log_id.as_ref().ok_or(Malformed::Missing("entry.log_id"))?);
    let payload = match entry.payload.ok_or(Malformed::Missing("entry.payload"))? {
        proto::entry::Payload::Blank(_) => EntryPayload::Blank,
        proto::entry::Payload::Batch(bytes) => EntryPayload::Normal(EncodedBatch(bytes)),
        proto::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_proto(Some(&membership))?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub fn meta_to_proto(meta: &SnapshotMeta) -> proto::SnapshotMeta {
    proto::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(meta.last_membership.membership())),
    }
}

pub fn meta_from_proto(meta: &proto::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    let membership = membership_from_proto(meta.membership.as_ref())?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_from_proto),
        last_membership: StoredMembership::new(meta.membership_log_id.as_ref().map(log_id_from_proto), membership),
    })
}
