//! Registration of brokers: one live incarnation per id, of the right cluster, that can work with what is finalized
//! (Kafka's `ClusterControlManager.registerBroker`, KIP-631, KIP-866, KIP-966).

use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, TopicIdPartition, Uuid};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{BrokerRegistration, DirectoryId, Endpoint, FeatureRange, directory, register_broker_record};

use crate::decider::{Context, Decider, Decision, Draft, Event};
use crate::effective::TopicSettings;
use crate::error::ApiError;
use crate::features;
use crate::liveness::Verdict;
use crate::settings::Settings;

/// A broker's wish to join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterBroker {
    pub cluster_id: String,
    pub broker_id: BrokerId,
    /// New at each start of the process.
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: Vec<FeatureRange>,
    pub rack: Option<String>,
    pub log_dirs: Vec<DirectoryId>,
    /// The epoch of the registration before this one if the last stop was clean, else -1 (KIP-966).
    pub previous_broker_epoch: BrokerEpoch,
}

impl Decider {
    /// Registers a broker, fenced; the response is its epoch. The same incarnation may ask again.
    ///
    /// # Errors
    /// - INCONSISTENT_CLUSTER_ID, INVALID_REGISTRATION: the process should not go on.
    /// - DUPLICATE_BROKER_REGISTRATION: another incarnation lives; later it may not, so the broker may try again.
    /// - UNSUPPORTED_VERSION: a finalized feature is beyond the broker.
    pub fn register_broker(
        &mut self,
        context: &mut Context<'_>,
        request: &RegisterBroker,
    ) -> Decision<Result<BrokerEpoch, ApiError>> {
        if let Err(error) = self.check_registration(request, context) {
            return self.answer(Err(error));
        }
        let id = request.broker_id;
        let existing = self.overlay.broker(id).cloned();
        let mut wanted = BrokerRegistration {
            id,
            epoch: BrokerEpoch(context.next_offset),
            incarnation: request.incarnation,
            endpoints: request.endpoints.clone(),
            rack: request.rack.clone(),
            features: request.features.clone(),
            fenced: true,
            in_controlled_shutdown: false,
            decommissioning: existing.as_ref().is_some_and(|existing| existing.decommissioning),
            fenced_by_operator: existing.as_ref().is_some_and(|existing| existing.fenced_by_operator),
            log_dirs: request.log_dirs.clone(),
        };
        wanted.log_dirs.sort_unstable();
        let mut draft = self.draft(context);
        match existing {
            Some(existing) if existing.incarnation == request.incarnation => {
                wanted.epoch = existing.epoch;
                wanted.fenced = existing.fenced;
                wanted.in_controlled_shutdown = existing.in_controlled_shutdown;
                if wanted != *existing {
                    draft.push(Kind::RegisterBroker(register_broker_record(&wanted)));
                }
            }
            existing => {
                let previous = existing.as_ref().map(|existing| existing.epoch);
                let unclean = previous.is_some_and(|epoch| epoch != request.previous_broker_epoch);
                draft.push(Kind::RegisterBroker(register_broker_record(&wanted)));
                draft.event(Event::BrokerRegistered { broker: id, epoch: wanted.epoch, unclean });
                if unclean {
                    draft.leave_after_unclean_shutdown(id, &self.settings);
                } else {
                    draft.leave_isrs(id, &self.settings);
                }
                let had: &[DirectoryId] = existing.as_ref().map_or(&[], |existing| &existing.log_dirs);
                draft.replace_lost_directory(&wanted, had, &self.settings);
                self.liveness.register(id, wanted.epoch, context.now.instant);
            }
        }
        self.decide(draft, Ok(wanted.epoch))
    }

    /// Forgets a broker for good: it leaves every ISR and ELR, though it stays in the replicas it was assigned.
    ///
    /// # Errors
    /// BROKER_ID_NOT_REGISTERED.
    pub fn unregister_broker(&mut self, context: &mut Context<'_>, id: BrokerId) -> Decision<Result<(), ApiError>> {
        let Some(broker) = self.overlay.broker(id).cloned() else {
            let message = format!("Broker ID {id} is not currently registered");
            return self.answer(Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, message)));
        };
        let mut draft = self.draft(context);
        draft.unregister(&broker, &self.settings);
        self.liveness.remove(id);
        self.decide(draft, Ok(()))
    }

    fn check_registration(&self, request: &RegisterBroker, context: &Context<'_>) -> Result<(), ApiError> {
        let id = request.broker_id;
        if request.cluster_id != self.overlay.cluster_id() {
            return Err(ApiError::new(
                ErrorCode::InconsistentClusterId,
                format!(
                    "Expected cluster ID {}, but got cluster ID {}. The broker's directories belong to another cluster, \
                     or it is sent to the wrong controllers.",
                    self.overlay.cluster_id(),
                    request.cluster_id
                ),
            ));
        }
        check_shape(request).map_err(|message| ApiError::new(ErrorCode::InvalidRegistration, message))?;
        for other in self.overlay.brokers().filter(|other| other.id != id) {
            if let Some(shared) = other.log_dirs.iter().find(|dir| request.log_dirs.contains(dir)) {
                let message = format!("Broker {} is already registered with directory {shared}", other.id);
                return Err(ApiError::new(ErrorCode::InvalidRegistration, message));
            }
        }
        features::check_broker(id, &request.features, self.overlay.features())?;
        if let Some(existing) = self.overlay.broker(id)
            && existing.incarnation != request.incarnation
            && self.is_living(existing, request, context)
        {
            let message = format!(
                "Another broker is registered with id {id} and is alive. Give this one another node.id, or stop the \
                 other."
            );
            return Err(ApiError::new(ErrorCode::DuplicateBrokerRegistration, message));
        }
        Ok(())
    }

    /// Whether the registered incarnation may still be running.
    fn is_living(&self, existing: &BrokerRegistration, request: &RegisterBroker, context: &Context<'_>) -> bool {
        let now = context.now.instant;
        if self.liveness.is_connected(existing.id, now) {
            return true;
        }
        // A running broker holds the lock of its log directories. Whoever has one of them now took it from a process
        // that is gone, so there is no need to wait until the old session is over.
        let has_its_directory = existing.log_dirs.iter().any(|dir| request.log_dirs.contains(dir));
        if existing.fenced || has_its_directory {
            return false;
        }
        matches!(self.liveness.verdict(existing.id, now), Verdict::Alive | Verdict::Silent(_))
    }
}

fn check_shape(request: &RegisterBroker) -> Result<(), String> {
    if request.broker_id.0 < 0 {
        return Err(format!("Invalid broker id {}: it must not be negative", request.broker_id));
    }
    if request.incarnation.is_zero() {
        return Err("No incarnation id specified in request".to_owned());
    }
    if request.endpoints.is_empty() {
        return Err("No listeners specified in request".to_owned());
    }
    for (position, endpoint) in request.endpoints.iter().enumerate() {
        if request.endpoints.iter().take(position).any(|earlier| earlier.listener == endpoint.listener) {
            return Err(format!("Duplicate listener {} in request", endpoint.listener));
        }
        if endpoint.host.is_empty() || endpoint.port == 0 {
            return Err(format!("Listener {} names no host or port to connect to", endpoint.listener));
        }
    }
    if request.log_dirs.is_empty() {
        return Err("No directories specified in request".to_owned());
    }
    if request.log_dirs.iter().any(|id| directory::is_reserved(*id)) {
        return Err("Reserved directory ID in request".to_owned());
    }
    let mut sorted = request.log_dirs.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err("Duplicate directory ID in request".to_owned());
    }
    Ok(())
}

impl Draft {
    pub(crate) fn unregister(&mut self, broker: &BrokerRegistration, settings: &Settings) {
        self.push(Kind::UnregisterBroker(proto::UnregisterBrokerRecord {
            broker_id: broker.id.0,
            broker_epoch: broker.epoch.0,
        }));
        self.leave_after_unclean_shutdown(broker.id, settings);
    }

    /// A broker whose only directory is a new one (a disk was replaced): its partitions are in that one from now on.
    /// They would otherwise count as offline for ever. One that it had before is what is left of several, and the others
    /// may come back with what they hold.
    fn replace_lost_directory(&mut self, broker: &BrokerRegistration, had: &[DirectoryId], settings: &Settings) {
        let [only] = broker.log_dirs.as_slice() else { return };
        if had.contains(only) {
            return;
        }
        let elsewhere = self.image.partitions().filter(|(_, _, partition)| {
            partition.directory(broker.id).is_some_and(|id| id != *only && !directory::is_reserved(id))
        });
        let elsewhere: Vec<_> =
            elsewhere.map(|(topic, index, _)| TopicIdPartition { topic_id: topic.id, partition: index }).collect();
        for at in elsewhere {
            let Some(topic) = self.image.topic(at.topic_id) else { continue };
            let topic_settings = TopicSettings::of(topic, &self.image, settings);
            self.change_partition(at, topic_settings, |change| change.directory(broker.id, *only));
        }
    }
}
