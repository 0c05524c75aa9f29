//! Which replicas to move, when brokers come or go or a topic is to have more or fewer replicas: as few as will do.
//!
//! A replica whose broker may keep it stays where it is, at its place in the list. Those that are missing go to the
//! broker with the fewest replicas, on another rack than their partition's others if there is one. Only then are
//! replicas moved for balance, and only between brokers that differ by more than one; last, lists are put in another
//! order, which moves nothing, so that each broker is the preferred leader of as many partitions as others.

use std::collections::{BTreeMap, BTreeSet};

use odradek_common::{BrokerId, ErrorCode, TopicPartition};
use odradek_metadata::Image;

use crate::error::ApiError;
use crate::reassignment::target_replicas;

/// What is to be planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanRequest {
    /// Empty: all.
    pub topics: Vec<String>,
    /// Who shall keep replicas of them. Empty: every broker that serves and is not being decommissioned.
    pub brokers: Vec<BrokerId>,
    /// `None`: as many as each partition has.
    pub replication_factor: Option<usize>,
}

/// One partition that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    pub partition: TopicPartition,
    pub current: Vec<BrokerId>,
    pub target: Vec<BrokerId>,
}

impl PlannedMove {
    /// Who has to fetch the partition.
    pub fn adding(&self) -> impl Iterator<Item = BrokerId> {
        self.target.iter().copied().filter(|id| !self.current.contains(id))
    }
}

#[derive(Clone, Debug, Default)]
struct Load<'a> {
    rack: Option<&'a str>,
    replicas: usize,
    /// As preferred replica.
    leaders: usize,
}

/// How much each broker that may take replicas has.
#[derive(Clone, Debug)]
pub(crate) struct Loads<'a>(BTreeMap<BrokerId, Load<'a>>);

impl<'a> Loads<'a> {
    /// `may_take` are counted as they will be when every reassignment under way is done.
    pub(crate) fn of(image: &'a Image, may_take: impl Fn(BrokerId) -> bool) -> Self {
        let brokers = image.brokers().filter(|broker| may_take(broker.id));
        let loads = brokers.map(|broker| (broker.id, Load { rack: broker.rack.as_deref(), ..Load::default() }));
        let mut loads = Self(loads.collect());
        for (_, _, partition) in image.partitions() {
            loads.count(&target_replicas(partition), 1);
        }
        loads
    }

    fn count(&mut self, replicas: &[BrokerId], change: isize) {
        for (position, id) in replicas.iter().enumerate() {
            if let Some(load) = self.0.get_mut(id) {
                load.replicas = load.replicas.saturating_add_signed(change);
                if position == 0 {
                    load.leaders = load.leaders.saturating_add_signed(change);
                }
            }
        }
    }

    /// Whether another of `replicas` than the one at `position` is on this broker's rack.
    fn shares_rack(&self, id: BrokerId, replicas: &[BrokerId], position: usize) -> bool {
        let rack = |id: &BrokerId| self.0.get(id).and_then(|load| load.rack);
        let own = rack(&id);
        own.is_some() && replicas.iter().enumerate().any(|(other, replica)| other != position && rack(replica) == own)
    }

    /// The best broker for the replica at `position`, which none of `replicas` is; `None` when all are.
    fn best(&self, replicas: &[BrokerId], position: usize) -> Option<BrokerId> {
        let candidates = self.0.iter().filter(|(id, _)| !replicas.contains(id));
        let cost = |id: BrokerId, load: &Load<'_>| {
            let leaders = if position == 0 { load.leaders } else { 0 };
            (self.shares_rack(id, replicas, position), load.replicas, leaders, id)
        };
        candidates.map(|(id, load)| cost(*id, load)).min().map(|(_, _, _, id)| id)
    }

    /// Replaces one replica of a partition, at its place. `None`: every other broker has one already.
    pub(crate) fn replace(&mut self, replicas: &[BrokerId], leaving: BrokerId) -> Option<Vec<BrokerId>> {
        let position = replicas.iter().position(|id| *id == leaving)?;
        let best = self.best(replicas, position)?;
        let mut target = replicas.to_vec();
        if let Some(slot) = target.get_mut(position) {
            *slot = best;
        }
        self.count(replicas, -1);
        self.count(&target, 1);
        Some(target)
    }

    /// Fills the places of a list that nobody may keep.
    fn fill(&mut self, slots: &[Option<BrokerId>]) -> Option<Vec<BrokerId>> {
        let mut target: Vec<BrokerId> = slots.iter().map(|slot| slot.unwrap_or(BrokerId::NONE)).collect();
        for position in 0..target.len() {
            if target.get(position) == Some(&BrokerId::NONE) {
                let best = self.best(&target, position)?;
                if let Some(slot) = target.get_mut(position) {
                    *slot = best;
                }
            }
        }
        self.count(&target, 1);
        Some(target)
    }

    /// Moves one replica of the list to a broker that has fewer, if that evens them out.
    fn even_out(&mut self, target: &mut [BrokerId]) {
        for position in 0..target.len() {
            let Some(id) = target.get(position).copied() else { continue };
            let Some(best) = self.best(target, position) else { continue };
            let (Some(from), Some(to)) = (self.0.get(&id), self.0.get(&best)) else { continue };
            let is_worse_rack = self.shares_rack(best, target, position) && !self.shares_rack(id, target, position);
            if from.replicas > to.replicas + 1 && !is_worse_rack {
                self.count(target, -1);
                if let Some(slot) = target.get_mut(position) {
                    *slot = best;
                }
                self.count(target, 1);
            }
        }
    }

    /// Puts the broker first that leads the fewest, if that evens them out.
    fn even_leaders(&mut self, target: &mut [BrokerId]) {
        let leaders = |id: &BrokerId| self.0.get(id).map_or(usize::MAX, |load| load.leaders);
        let Some(first) = target.first().map(leaders) else { return };
        let least = target.iter().enumerate().min_by_key(|(_, id)| leaders(id));
        if let Some((position, id)) = least
            && leaders(id).saturating_add(1) < first
        {
            self.count(target, -1);
            target.swap(0, position);
            self.count(target, 1);
        }
    }
}

/// Plans; nothing is changed. Partitions that stay as they are are left out.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION, BROKER_ID_NOT_REGISTERED, INVALID_REPLICATION_FACTOR.
pub fn plan(image: &Image, request: &PlanRequest) -> Result<Vec<PlannedMove>, ApiError> {
    if let Some(unknown) = request.brokers.iter().find(|id| image.broker(**id).is_none()) {
        let message = format!("Broker {unknown} is not registered.");
        return Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, message));
    }
    if let Some(unknown) = request.topics.iter().find(|name| image.topic_by_name(name).is_none()) {
        let message = format!("There is no topic {unknown}.");
        return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message));
    }
    let may_take = |id: BrokerId| match request.brokers.is_empty() {
        true => image.broker(id).is_some_and(|broker| broker.is_active() && !broker.decommissioning),
        false => request.brokers.contains(&id),
    };
    let mut loads = Loads::of(image, may_take);
    let names: BTreeSet<&str> = request.topics.iter().map(String::as_str).collect();
    let topics = image.topics_by_name().filter(|topic| names.is_empty() || names.contains(&*topic.name));
    let mut moves = Vec::new();
    for topic in topics {
        for (index, partition) in topic.partitions() {
            let current = target_replicas(partition);
            let wanted = request.replication_factor.unwrap_or(current.len());
            if wanted == 0 || wanted > loads.0.len() {
                let message = format!(
                    "{}-{index} is to have {wanted} replica(s), and {} broker(s) may take them.",
                    topic.name,
                    loads.0.len()
                );
                return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message));
            }
            loads.count(&current, -1);
            let mut slots: Vec<Option<BrokerId>> =
                current.iter().map(|id| Some(*id).filter(|id| loads.0.contains_key(id))).collect();
            // Too many: first the places that nobody may keep go, then those at the end.
            while slots.len() > wanted {
                let gone = slots.iter().rposition(Option::is_none).unwrap_or(slots.len() - 1);
                slots.remove(gone);
            }
            slots.resize(wanted, None);
            let target = loads.fill(&slots);
            // There are as many brokers as places.
            let target = target.unwrap_or_else(|| current.to_vec());
            moves.push(PlannedMove {
                partition: TopicPartition::new(&*topic.name, index.0),
                current: current.to_vec(),
                target,
            });
        }
    }
    moves.iter_mut().for_each(|planned| loads.even_out(&mut planned.target));
    moves.iter_mut().for_each(|planned| loads.even_leaders(&mut planned.target));
    moves.retain(|planned| planned.target != planned.current);
    Ok(moves)
}
