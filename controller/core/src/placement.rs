//! On which brokers the replicas of new partitions go (after Kafka's `StripedReplicaPlacer`, with its goals).
//!
//! In this order it wants: replicas of a partition on different racks; replicas of many partitions spread evenly over
//! brokers, without the same brokers always together; unfenced brokers rather than fenced ones. It insists on: no broker
//! twice in a partition, and an unfenced first replica, for that one leads. An uneven cluster (few brokers in one rack)
//! pays with more replicas on those few, because racks come first.
//!
//! Racks are visited round robin, one step further for each partition. Inside a rack the brokers form a ring: the first
//! rack of a partition starts its ring one step further each time it is the first again, the next rack one step beyond
//! that, and so on. Where all begins is random. After as many partitions as there are unfenced brokers the order is
//! shuffled, since otherwise the same groups of brokers would recur.
//!
//! Kafka moves every ring by one for each partition. With as many brokers in a rack as there are racks the same one of
//! each rack then leads again and again (of nine brokers in three racks, three lead a topic of nine partitions), which
//! is why the steps differ here.

use std::collections::BTreeMap;

use odradek_common::rng::Rng;
use odradek_common::{BrokerId, ErrorCode};
use odradek_metadata::Replicas;

use crate::error::ApiError;

/// A broker that can be given replicas.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub id: BrokerId,
    pub rack: Option<&'a str>,
    pub fenced: bool,
}

/// Places `partitions` partitions of `replication_factor` replicas each.
///
/// # Errors
/// INVALID_REPLICATION_FACTOR when there are fewer brokers than replicas, or none that is unfenced.
pub fn place<'a>(
    brokers: impl Iterator<Item = Candidate<'a>>,
    partitions: usize,
    replication_factor: i16,
    rng: &mut dyn Rng,
) -> Result<Vec<Replicas>, ApiError> {
    let replicas = usize::try_from(replication_factor).unwrap_or(0);
    let mut cluster = Cluster::new(brokers, rng);
    let refused = if replicas == 0 {
        format!("Invalid replication factor {replication_factor}: the replication factor must be positive.")
    } else if cluster.unfenced == 0 {
        "All brokers are currently fenced.".to_owned()
    } else if replicas > cluster.total {
        format!(
            "The target replication factor of {replication_factor} cannot be reached because only {} broker(s) are \
             registered.",
            cluster.total
        )
    } else {
        return Ok((0..partitions).map(|_| cluster.place(replicas, rng)).collect());
    };
    let message = format!("Unable to replicate the partition {replication_factor} time(s): {refused}");
    Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message))
}

/// Brokers that are handed out in a ring, each at most once a round.
#[derive(Default)]
struct Ring {
    brokers: Vec<BrokerId>,
    /// How many were handed out in this round.
    taken: usize,
    /// Where the first round began.
    first: usize,
    /// Where this one began.
    start: usize,
}

impl Ring {
    /// Starts `step` beyond the ring's own beginning.
    fn begin_round(&mut self, step: usize) {
        self.taken = 0;
        self.start = if self.brokers.is_empty() { 0 } else { (self.first + step) % self.brokers.len() };
    }

    fn next(&mut self) -> Option<BrokerId> {
        if self.taken == self.brokers.len() {
            return None;
        }
        self.taken += 1;
        Some(self.brokers[(self.start + self.taken - 1) % self.brokers.len()])
    }
}

#[derive(Default)]
struct Rack {
    unfenced: Ring,
    fenced: Ring,
}

impl Rack {
    fn next(&mut self) -> Option<BrokerId> {
        self.unfenced.next().or_else(|| self.fenced.next())
    }
}

struct Cluster {
    racks: Vec<Rack>,
    total: usize,
    unfenced: usize,
    first_rack: usize,
    rounds: usize,
}

impl Cluster {
    fn new<'a>(brokers: impl Iterator<Item = Candidate<'a>>, rng: &mut dyn Rng) -> Self {
        let mut racks = BTreeMap::<Option<&str>, Rack>::new();
        let (mut total, mut unfenced) = (0, 0);
        for broker in brokers {
            let rack = racks.entry(broker.rack).or_default();
            let ring = if broker.fenced { &mut rack.fenced } else { &mut rack.unfenced };
            ring.brokers.push(broker.id);
            total += 1;
            unfenced += usize::from(!broker.fenced);
        }
        let mut racks: Vec<Rack> = racks.into_values().collect();
        for ring in racks.iter_mut().flat_map(|rack| [&mut rack.unfenced, &mut rack.fenced]) {
            ring.brokers.sort_unstable();
            ring.first = random_index(ring.brokers.len(), rng);
        }
        let first_rack = random_index(racks.len(), rng);
        Self { racks, total, unfenced, first_rack, rounds: 0 }
    }

    /// One partition. There are at least `replicas` brokers, one of them unfenced.
    fn place(&mut self, replicas: usize, rng: &mut dyn Rng) -> Replicas {
        self.begin_round(rng);
        let racks = self.racks.len();
        let mut chosen = Replicas::with_capacity(replicas);
        let mut leaders_rack = self.first_rack;
        let leader = loop {
            if let Some(leader) = self.racks[leaders_rack].unfenced.next() {
                break leader;
            }
            leaders_rack = (leaders_rack + 1) % racks;
        };
        chosen.push(leader);
        let mut rack = self.first_rack;
        // The leader's rack has had its turn in the first circle.
        let mut passed = false;
        while chosen.len() < replicas {
            if rack == leaders_rack && !passed {
                passed = true;
            } else if let Some(broker) = self.racks[rack].next() {
                chosen.push(broker);
            }
            rack = (rack + 1) % racks;
        }
        self.first_rack = (self.first_rack + 1) % racks;
        chosen
    }

    fn begin_round(&mut self, rng: &mut dyn Rng) {
        if self.rounds == self.unfenced && self.unfenced > 1 {
            self.rounds = 0;
            shuffle(&mut self.racks, rng);
            for rack in &mut self.racks {
                shuffle(&mut rack.unfenced.brokers, rng);
                shuffle(&mut rack.fenced.brokers, rng);
            }
        }
        let racks = self.racks.len();
        let circles = self.rounds / racks;
        for (position, rack) in self.racks.iter_mut().enumerate() {
            let distance = (position + racks - self.first_rack) % racks;
            rack.unfenced.begin_round(circles + distance);
            rack.fenced.begin_round(circles + distance);
        }
        self.rounds += 1;
    }
}

fn random_index(len: usize, rng: &mut dyn Rng) -> usize {
    if len == 0 { 0 } else { rng.below(len as u64) as usize }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], rng: &mut dyn Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, random_index(last + 1, rng));
    }
}
