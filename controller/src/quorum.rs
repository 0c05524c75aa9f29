//! Gathers how far each controller is with the metadata log, and each broker with following it.
//!
//! The active controller knows of the others by the answers to its appends, and of the brokers by what they say on their
//! liveness streams. When one that is behind was last caught up is read from the log: until the first entry that it
//! lacks was made.

use odradek_common::ControllerId;
use odradek_common::time::Instant;
use odradek_controller_core::queries::BrokerProgress;
use odradek_controller_core::quorum::{Controller, Follower, Observer, Quorum};
use odradek_metadata::batch;
use odradek_node::World;

use crate::raft::RaftNode;
use crate::raft::types::{NodeId, RaftInstant as _, WatchReceiver};
use crate::raft::view::Next;

/// The first entry that somebody lacks is looked for within so many bytes of the recent ones.
const LOOK_BYTES_MAX: usize = 64 * 1024;

/// `brokers` comes from the decider of the active controller; empty elsewhere.
pub fn describe(world: &World, node: &RaftNode, brokers: Vec<BrokerProgress>) -> Quorum {
    let metrics = node.raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
    let last = metrics.last_log_index.map_or(-1, |index| i64::try_from(index).unwrap_or(i64::MAX));
    let now = world.timestamp().0;
    let controllers = membership.nodes().map(|(id, peer)| {
        let matched = metrics.replication.as_ref().and_then(|progress| progress.get(id));
        let follower = if *id == metrics.id {
            Follower { offset: last, last_fetch: now, last_caught_up: now }
        } else if let Some(matched) = matched {
            let offset = matched.as_ref().map_or(-1, |log_id| i64::try_from(log_id.index).unwrap_or(i64::MAX));
            let acked = metrics.heartbeat.as_ref().and_then(|acks| *acks.get(id)?);
            let last_fetch = acked.map_or(-1, |acked| now - millis(acked.elapsed()));
            follower(node, offset, last_fetch)
        } else {
            Follower::UNKNOWN
        };
        Controller {
            id: number(*id),
            host: peer.host.clone(),
            port: peer.port,
            is_voter: voters.contains(id),
            follower,
        }
    });
    let at: Instant = world.instant();
    let observers = brokers.into_iter().map(|broker| {
        let last_fetch = now - millis(at.saturating_since(broker.last_heard));
        let follower = follower(node, broker.metadata_offset, last_fetch);
        Observer { id: broker.broker, directory: broker.directory, follower }
    });
    Quorum {
        leader: metrics.current_leader.map(number),
        term: metrics.current_term,
        committed: node.view.progress().offset,
        controllers: controllers.collect(),
        observers: observers.collect(),
    }
}

fn number(id: NodeId) -> ControllerId {
    ControllerId(i32::try_from(id).unwrap_or(-1))
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Somebody who had `offset` when it was last heard.
fn follower(node: &RaftNode, offset: i64, last_fetch: i64) -> Follower {
    if offset < 0 {
        return Follower { last_fetch, ..Follower::UNKNOWN };
    }
    let last_caught_up = match node.view.next(offset + 1, LOOK_BYTES_MAX) {
        Next::Entries(entries) => {
            let made = entries.iter().find_map(|entry| batch::decode(entry.batch.as_ref()?).ok());
            // What was made after the last word of it does not mean that it is behind.
            made.map_or(last_fetch, |batch| batch.timestamp_ms.min(last_fetch))
        }
        Next::Snapshot(_) => -1,
    };
    Follower { offset, last_fetch, last_caught_up }
}
