//! Which replicas' replication is held to a rate, and at which (KIP-73): `leader.` and
//! `follower.replication.throttled.replicas` of topics, `leader.` and `follower.replication.throttled.rate` of brokers,
//! all from the metadata.
//!
//! A leader leaves throttled records out of the answers to followers that are not in sync; a follower that lags does not
//! ask for throttled partitions until what it took is paid back. Members of an ISR are never held back.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use odradek_broker_core::replication_quota::ReplicationQuota;
use odradek_common::BrokerId;
use odradek_common::time::Instant;
use odradek_metadata::Image;

/// A side of replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Leader,
    Follower,
}

impl Side {
    fn replicas_config(self) -> &'static str {
        match self {
            Self::Leader => "leader.replication.throttled.replicas",
            Self::Follower => "follower.replication.throttled.replicas",
        }
    }

    fn rate_config(self) -> &'static str {
        match self {
            Self::Leader => "leader.replication.throttled.rate",
            Self::Follower => "follower.replication.throttled.rate",
        }
    }
}

/// Which partitions of a topic one broker throttles on one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Throttled {
    #[default]
    None,
    All,
    Some(BTreeSet<i32>),
}

impl Throttled {
    /// From a topic's config: `*`, or `PARTITION:BROKER,...`. What is not valid there throttles nothing.
    pub fn of(topic: &str, side: Side, local: BrokerId, image: &Image) -> Self {
        Self::parse(image.topic_config(topic, side.replicas_config()).unwrap_or_default(), local)
    }

    fn parse(text: &str, local: BrokerId) -> Self {
        if text.trim() == "*" {
            return Self::All;
        }
        let own = |entry: &str| {
            let (partition, broker) = entry.trim().split_once(':')?;
            (broker.parse() == Ok(local.0)).then(|| partition.parse().ok()).flatten()
        };
        let partitions: BTreeSet<i32> = text.split(',').filter_map(own).collect();
        if partitions.is_empty() { Self::None } else { Self::Some(partitions) }
    }

    pub fn contains(&self, partition: i32) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(partitions) => partitions.contains(&partition),
        }
    }
}

/// The quotas of a broker.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    leader: Mutex<ReplicationQuota>,
    follower: Mutex<ReplicationQuota>,
    moves: Mutex<ReplicationQuota>,
}

/// Of copies between log directories (KIP-113).
const MOVES_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";

impl Quotas {
    pub fn lock(&self, side: Side) -> MutexGuard<'_, ReplicationQuota> {
        let quota = match side {
            Side::Leader => &self.leader,
            Side::Follower => &self.follower,
        };
        quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn moves(&self) -> MutexGuard<'_, ReplicationQuota> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the rates that metadata gives this broker.
    pub fn publish(&self, local: BrokerId, image: &Image, now: Instant) {
        let rate = |name: &str| {
            let rate = image.broker_config(local, name).and_then(|text| text.trim().parse::<u64>().ok());
            // Kafka's default is the largest number there is.
            rate.filter(|rate| *rate < i64::MAX as u64)
        };
        for side in [Side::Leader, Side::Follower] {
            self.lock(side).set_rate(rate(side.rate_config()), now);
        }
        self.moves().set_rate(rate(MOVES_RATE), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_a_topic_are_read() {
        let check = |text: &str, expected: &[i32]| {
            let throttled = Throttled::parse(text, BrokerId(2));
            let found: Vec<i32> = (0..4).filter(|partition| throttled.contains(*partition)).collect();
            assert_eq!(found, expected, "`{text}`");
        };
        check("", &[]);
        check("none", &[]);
        check("*", &[0, 1, 2, 3]);
        check("0:1,0:2,1:3,3:2", &[0, 3]);
        check("0:22,x:2,3", &[]);
    }
}
