//! When Raft looks at the clock.
//!
//! openraft's own tick wakes a node five times in a heartbeat interval, on every node and for ever, though it means
//! something only at two moments: a leader's next heartbeat, and the silence of a leader. So the tick is off while
//! neither can be near. A leader's heartbeats are triggered here, each on time; a follower's tick comes back after half
//! an election timeout without a sign of the leader. The leader's lease alone is longer than that
//! (`election_timeout_max` after the last sign, and then a random time), so no election is later for it.
//!
//! **Invariant:** the tick is off only while this node leads, or follows a leader that was heard less than [`quiet`]
//! ago, and in both cases a sleep is under way that ends with another look.
//!
//! [`quiet`]: Pulse::quiet

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use odradek_common::time::Instant;
use odradek_node::World;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::Raft;

/// When the leader was last heard. Written by the gRPC service, read by [`Pulse`].
#[derive(Debug, Default)]
pub struct LeaderSign(AtomicU64);

impl LeaderSign {
    /// A message of the leader that came at `at` was accepted: Raft has renewed the lease no earlier.
    pub fn heard(&self, at: Instant) {
        self.0.fetch_max(at.0, Ordering::AcqRel);
    }

    /// `None`: never.
    fn last(&self) -> Option<Instant> {
        let at = self.0.load(Ordering::Acquire);
        (at > 0).then_some(Instant(at))
    }
}

/// The task that lets Raft look at the clock. It ends with Raft.
pub(super) struct Pulse {
    pub world: World,
    pub raft: Raft,
    pub sign: Arc<LeaderSign>,
    pub heartbeat_interval: Duration,
    /// Half of the election timeout.
    pub quiet: Duration,
}

impl Pulse {
    pub async fn run(self) {
        let mut state = self.raft.server_metrics();
        let mut heartbeat_due = self.world.instant();
        loop {
            let now = self.world.instant();
            let current = state.borrow_watched().state;
            let wake = match current {
                ServerState::Leader => {
                    self.raft.runtime_config().tick(false);
                    if heartbeat_due <= now {
                        if self.raft.trigger().heartbeat().await.is_err() {
                            return;
                        }
                        heartbeat_due = now + self.heartbeat_interval;
                    }
                    heartbeat_due
                }
                ServerState::Follower => {
                    heartbeat_due = now;
                    let quiet_until = self.sign.last().map_or(now, |heard| heard + self.quiet);
                    self.raft.runtime_config().tick(quiet_until <= now);
                    if quiet_until > now { quiet_until } else { now + self.quiet }
                }
                // A candidate needs the tick; a learner has no use for one, and is none for long.
                _ => {
                    heartbeat_due = now;
                    self.raft.runtime_config().tick(true);
                    now + self.quiet
                }
            };
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return },
                () = self.world.clock.sleep_until(wake) => {}
            }
        }
    }
}
