//! Fencing by hand: an operator takes a broker out of service while its process runs, and lets it back in.
//!
//! Nothing is moved and nothing is forgotten. The broker leaves every ISR and others lead what it led; it goes on to
//! follow, so that it is in sync soon after it is unfenced. That it is fenced by hand is in its registration, so it
//! outlives the controller that was asked and the broker's own restarts. Without that, its next heartbeat would unfence
//! it.

use odradek_common::{BrokerId, ErrorCode};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{BrokerRegistration, Image};

use crate::decider::{Context, Decider, Decision, Draft, Event};
use crate::error::ApiError;
use crate::heartbeat::change_of;
use crate::liveness::FenceReason;

impl Decider {
    /// Fences a broker until [`Decider::unfence_broker`]. Asked again, it changes nothing. A broker that is down can be
    /// fenced, too: it is then not let in when it comes back.
    ///
    /// # Errors
    /// BROKER_ID_NOT_REGISTERED; INVALID_REQUEST when a partition would have no in-sync replica left to lead it, unless
    /// `force`.
    pub fn fence_broker(
        &mut self,
        context: &mut Context<'_>,
        id: BrokerId,
        force: bool,
    ) -> Decision<Result<(), ApiError>> {
        let broker = match registered(&self.overlay, id) {
            Ok(broker) => broker.clone(),
            Err(error) => return self.answer(Err(error)),
        };
        if broker.fenced_by_operator {
            return self.answer(Ok(()));
        }
        if !force && let Err(error) = check_others_lead(&self.overlay, id) {
            return self.answer(Err(error));
        }
        let mut draft = self.draft(context);
        draft.set_fenced_by_operator(&broker, true);
        if !broker.fenced {
            draft.fence(&broker, FenceReason::Operator, &self.settings);
        }
        self.decide(draft, Ok(()))
    }

    /// Lets a broker back in: it is unfenced by its next heartbeat that has caught up, as after a start.
    ///
    /// # Errors
    /// BROKER_ID_NOT_REGISTERED.
    pub fn unfence_broker(&mut self, context: &mut Context<'_>, id: BrokerId) -> Decision<Result<(), ApiError>> {
        let broker = match registered(&self.overlay, id) {
            Ok(broker) => broker.clone(),
            Err(error) => return self.answer(Err(error)),
        };
        if !broker.fenced_by_operator {
            return self.answer(Ok(()));
        }
        let mut draft = self.draft(context);
        draft.set_fenced_by_operator(&broker, false);
        draft.event(Event::FencingLifted { broker: id });
        self.decide(draft, Ok(()))
    }
}

fn registered(image: &Image, id: BrokerId) -> Result<&BrokerRegistration, ApiError> {
    image.broker(id).map(|broker| &**broker).ok_or_else(|| {
        ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("Broker ID {id} is not currently registered"))
    })
}

/// Whether every partition has another in-sync replica than this one.
fn check_others_lead(image: &Image, id: BrokerId) -> Result<(), ApiError> {
    let mut alone = image.partitions().filter(|(_, _, partition)| partition.isr.as_slice() == [id]);
    let Some((topic, index, _)) = alone.next() else { return Ok(()) };
    let others = match alone.count() {
        0 => String::new(),
        count => format!(" and {count} more partitions"),
    };
    let message = format!(
        "Broker {id} cannot be fenced: it is the only in-sync replica of {}-{index}{others}, which would have no leader. \
         Wait for the others to catch up, move those partitions away, or use --force.",
        topic.name
    );
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}

impl Draft {
    fn set_fenced_by_operator(&mut self, broker: &BrokerRegistration, fenced: bool) {
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            fenced_by_operator: Some(fenced),
            ..change_of(broker)
        }));
    }
}
