//! Retiring a broker: its replicas are moved to others, some at a time, and then it is unregistered.
//!
//! That a broker is being decommissioned is in its registration, so it outlives the controller that was asked and the
//! broker's own restarts. Each move is a reassignment like any other: visible, bound by the same throttles, and undone
//! by a recommission. The next ones begin in the decision that completes those before them.

use odradek_common::{BrokerId, ErrorCode, PartitionIndex, TopicPartition};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{BrokerRegistration, Image, PartitionRegistration, Topic};

use crate::decider::{Context, Decider, Decision, Draft, Event};
use crate::error::ApiError;
use crate::heartbeat::change_of;
use crate::plan::Loads;
use crate::reassignment::target_replicas;
use crate::settings::Settings;

/// Partitions that are moved away from a broker at a time: enough to keep disks and network busy, few enough that
/// clients do not starve.
pub const MOVES_AT_ONCE: usize = 20;

/// What is left to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub is_decommissioning: bool,
    pub left: Vec<PartitionLeft>,
}

/// A partition that the broker still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLeft {
    pub partition: TopicPartition,
    pub is_moving: bool,
    /// Who is to have it instead, once it moves, and has not caught up yet.
    pub waits_for: Vec<BrokerId>,
}

/// How far a decommission is.
///
/// # Errors
/// BROKER_ID_NOT_REGISTERED: never registered, or done.
pub fn progress(image: &Image, id: BrokerId) -> Result<Progress, ApiError> {
    let broker = registered(image, id)?;
    let left = held(image, id).map(|(topic, index, partition)| PartitionLeft {
        partition: TopicPartition::new(&*topic.name, index.0),
        is_moving: partition.removing.contains(&id),
        waits_for: partition.adding.iter().copied().filter(|id| !partition.isr.contains(id)).collect(),
    });
    Ok(Progress { is_decommissioning: broker.decommissioning, left: left.collect() })
}

fn registered(image: &Image, id: BrokerId) -> Result<&BrokerRegistration, ApiError> {
    image.broker(id).map(|broker| &**broker).ok_or_else(|| {
        ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("Broker ID {id} is not currently registered"))
    })
}

fn held(image: &Image, id: BrokerId) -> impl Iterator<Item = (&Topic, PartitionIndex, &PartitionRegistration)> {
    let held = image.partitions().filter(move |(_, _, partition)| partition.replicas.contains(&id));
    held.map(|(topic, index, partition)| (&**topic, index, &**partition))
}

/// Those that replicas can be moved to.
fn takers(image: &Image) -> Loads<'_> {
    Loads::of(image, |id| image.broker(id).is_some_and(|broker| broker.is_active() && !broker.decommissioning))
}

impl Decider {
    /// Begins to move everything away from a broker. Asked again, it goes on.
    ///
    /// # Errors
    /// BROKER_ID_NOT_REGISTERED; INVALID_REPLICATION_FACTOR when some partition could not have as many replicas without
    /// this broker; INVALID_REQUEST when no other broker serves.
    pub fn decommission_broker(
        &mut self,
        context: &mut Context<'_>,
        id: BrokerId,
        validate_only: bool,
    ) -> Decision<Result<Progress, ApiError>> {
        let broker = match registered(&self.overlay, id) {
            Ok(broker) => broker.clone(),
            Err(error) => return self.answer(Err(error)),
        };
        let mut draft = self.draft(context);
        if !broker.decommissioning {
            draft.set_decommissioning(&broker, true);
        }
        if let Err(error) = check_room(&draft.image, id) {
            return self.answer(Err(error));
        }
        if validate_only {
            let progress = progress(&self.overlay, id);
            return self.answer(progress);
        }
        self.decommission_on(&mut draft);
        // Nothing was on it: it is unregistered already.
        let progress = progress(&draft.image, id).unwrap_or(Progress { is_decommissioning: true, left: Vec::new() });
        self.decide(draft, Ok(progress))
    }

    /// Keeps a broker after all: what is under way away from it is undone, what has left does not come back. Returns how
    /// many moves were undone.
    ///
    /// # Errors
    /// BROKER_ID_NOT_REGISTERED: it was decommissioned to the end; it is in the cluster again when it is started.
    pub fn recommission_broker(
        &mut self,
        context: &mut Context<'_>,
        id: BrokerId,
    ) -> Decision<Result<usize, ApiError>> {
        let broker = match registered(&self.overlay, id) {
            Ok(broker) => broker.clone(),
            Err(error) => return self.answer(Err(error)),
        };
        if !broker.decommissioning {
            return self.answer(Ok(0));
        }
        let mut draft = self.draft(context);
        draft.set_decommissioning(&broker, false);
        let moving: Vec<TopicPartition> = held(&draft.image, id)
            .filter(|(_, _, partition)| partition.removing.contains(&id))
            .map(|(topic, index, _)| TopicPartition::new(&*topic.name, index.0))
            .collect();
        let undone = moving.iter().filter(|partition| draft.undo(partition, &self.settings).is_ok()).count();
        self.decide(draft, Ok(undone))
    }

    /// Begins the next moves, and unregisters who holds nothing any more.
    pub(crate) fn decommission_on(&mut self, draft: &mut Draft) {
        let leaving = draft.image.brokers().filter(|broker| broker.decommissioning).cloned();
        let leaving: Vec<_> = leaving.collect();
        for broker in leaving {
            if draft.move_away(broker.id, &self.settings) > 0 {
                continue;
            }
            draft.unregister(&broker, &self.settings);
            draft.event(Event::BrokerDecommissioned { broker: broker.id });
            self.liveness.remove(broker.id);
        }
    }
}

/// Whether every partition of the broker finds another place.
fn check_room(image: &Image, id: BrokerId) -> Result<(), ApiError> {
    if !image.brokers().any(|other| other.id != id && other.is_active() && !other.decommissioning) {
        let message = format!("Broker {id} cannot be decommissioned: no other broker serves.");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let mut loads = takers(image);
    for (topic, index, partition) in held(image, id) {
        let target = target_replicas(partition);
        if target.contains(&id) && loads.replace(&target, id).is_none() {
            let message = format!(
                "Broker {id} cannot be decommissioned: {}-{index} has {} replicas, and no further broker could take one. \
                 Add a broker, or lower the replication factor.",
                topic.name,
                target.len()
            );
            return Err(ApiError::new(ErrorCode::InvalidReplicationFactor, message));
        }
    }
    Ok(())
}

impl Draft {
    fn set_decommissioning(&mut self, broker: &BrokerRegistration, decommissioning: bool) {
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            decommissioning: Some(decommissioning),
            ..change_of(broker)
        }));
    }

    /// Begins moves up to [`MOVES_AT_ONCE`]; returns how many partitions the broker still holds. A partition that is being
    /// reassigned to stay here is asked to go all the same; one that finds no place now is tried again later.
    fn move_away(&mut self, id: BrokerId, settings: &Settings) -> usize {
        let image = self.image.clone();
        let (left, moving) = held(&image, id).fold((0, 0), |(left, moving), (_, _, partition)| {
            (left + 1, moving + usize::from(partition.removing.contains(&id)))
        });
        let mut room = MOVES_AT_ONCE.saturating_sub(moving);
        if left == moving || room == 0 {
            return left;
        }
        let mut loads = takers(&image);
        for (topic, index, partition) in held(&image, id).filter(|(_, _, partition)| !partition.removing.contains(&id))
        {
            if room == 0 {
                break;
            }
            if let Some(target) = loads.replace(&target_replicas(partition), id) {
                self.reassign(&TopicPartition::new(&*topic.name, index.0), &target, settings);
                room -= 1;
            }
        }
        held(&self.image, id).count()
    }
}
