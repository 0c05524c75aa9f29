//! What a broker says on its liveness stream, and what follows from it or from its absence (Kafka's
//! `BrokerHeartbeatManager` and `processBrokerHeartbeat`, KIP-631, KIP-866).
//!
//! A broker is fenced, unfenced, or in controlled shutdown. It is unfenced once it has caught up with its own
//! registration. A broker that wants to shut down first loses its leaders and its place in every ISR in one decision;
//! when every active broker has seen that, it is fenced and told to go. What an operator has fenced stays so
//! ([`crate::fencing`]).

use std::time::Duration;

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::time::{Instant, Now};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, Uuid};
use odradek_metadata::proto::{self, record::Kind};
use odradek_metadata::{BrokerRegistration, DirectoryId};

use crate::decider::{Context, Decider, Decision, Draft, Event};
use crate::elections::{is_last_in_some_isr, leads_any};
use crate::error::ApiError;
use crate::liveness::{FenceReason, StreamId, TICK_INTERVAL, TICK_INTERVAL_MAX, Verdict};
use crate::settings::Settings;

/// One message of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub incarnation: Uuid,
    /// The last metadata offset that the broker has published to its parts.
    pub metadata_offset: i64,
    pub want_fence: bool,
    pub want_shutdown: bool,
    pub offline_log_dirs: Vec<DirectoryId>,
}

/// What the broker is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub is_caught_up: bool,
    pub is_fenced: bool,
    pub should_shut_down: bool,
}

impl Decider {
    /// A message on a liveness stream.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH: the broker is not registered, or has registered again as another incarnation since. The shell
    /// answers with it and ends the stream.
    pub fn heartbeat(
        &mut self,
        context: &mut Context<'_>,
        stream: StreamId,
        message: &Heartbeat,
    ) -> Decision<Result<HeartbeatReply, ApiError>> {
        let (id, now) = (message.broker_id, context.now.instant);
        let broker = match self.check_incarnation(message) {
            Ok(broker) => broker,
            Err(error) => return self.answer(Err(error)),
        };
        let caught_up = message.metadata_offset >= broker.epoch.0;
        let pulse = self.liveness.pulse(id, broker.epoch, now);
        pulse.heard(stream, message.metadata_offset, now);
        let shutdown_offset = pulse.shutdown_offset;

        let mut draft = self.draft(context);
        draft.take_log_dirs_offline(&broker, &message.offline_log_dirs, &self.settings);
        let mut reply = HeartbeatReply { is_caught_up: caught_up, ..HeartbeatReply::default() };
        if broker.fenced {
            let log_dir_online = message.offline_log_dirs.is_empty() || !broker.log_dirs.is_empty();
            if message.want_shutdown {
                reply.should_shut_down = true;
            } else if !message.want_fence && !broker.fenced_by_operator && caught_up && log_dir_online {
                draft.unfence(&broker, &self.settings);
                self.decommission_on(&mut draft);
            }
        } else if draft.image.broker(id).is_some_and(|broker| broker.fenced) {
            // Its last directory went offline.
        } else if broker.in_controlled_shutdown {
            let others = draft.image.brokers().filter(|other| other.is_active()).map(|other| other.id);
            let lowest = self.liveness.lowest_offset(others);
            // Unknown after a change of controller: whoever has reached this entry has seen the one that is meant.
            let moved_at = shutdown_offset.unwrap_or(self.overlay.offset());
            self.liveness.pulse(id, broker.epoch, now).shutdown_offset = Some(moved_at);
            if !leads_any(&draft.image, id) && moved_at <= lowest {
                draft.fence(&broker, FenceReason::ShutDown, &self.settings);
                reply.should_shut_down = true;
            }
        } else if message.want_fence {
            let reason = if message.want_shutdown { FenceReason::ShutDown } else { FenceReason::Asked };
            draft.fence(&broker, reason, &self.settings);
            reply.should_shut_down = message.want_shutdown;
        } else if message.want_shutdown {
            if leads_any(&draft.image, id) {
                draft.begin_controlled_shutdown(&broker, &self.settings);
                self.liveness.pulse(id, broker.epoch, now).shutdown_offset = Some(draft.offset);
            } else {
                draft.fence(&broker, FenceReason::ShutDown, &self.settings);
                reply.should_shut_down = true;
            }
        }
        reply.is_fenced = draft.image.broker(id).is_none_or(|broker| broker.fenced);
        self.decide(draft, Ok(reply))
    }

    /// A liveness stream ended. What follows is decided by a later [`Decider::tick`].
    pub fn stream_closed(&mut self, broker: BrokerId, stream: StreamId, now: Now) {
        self.liveness.closed(broker, stream, now.instant);
    }

    /// After the end of that stream the broker's port refused a connection: its process is gone, and the next
    /// [`Decider::tick`], which is due now, fences it.
    pub fn process_gone(&mut self, broker: BrokerId, stream: StreamId, now: Now) {
        self.liveness.refused(broker, stream, now.instant);
    }

    /// When [`Decider::tick`] is to be called next. Any other input may bring it forward.
    pub fn tick_due(&self) -> Instant {
        self.liveness.tick_due
    }

    /// Time passes: fences who is gone, and elects what is due. Called at [`Decider::tick_due`], before any other input
    /// that has been waiting as long, so that a stall of this process is noticed before it is held against brokers.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Decision<()> {
        let now = context.now.instant;
        let mut draft = self.draft(context);
        if let Some(stalled) = self.liveness.tick(now) {
            draft.event(Event::ControllerStalled { millis: millis(stalled) });
        }
        let unfenced: Vec<_> = self.overlay.alive_brokers().cloned().collect();
        for broker in unfenced {
            let reason = match self.liveness.verdict(broker.id, now) {
                Verdict::Alive => continue,
                Verdict::ConnectionLost => FenceReason::ConnectionLost,
                Verdict::ProcessGone => FenceReason::ProcessGone,
                Verdict::Dead(silence) => FenceReason::Silent { millis: millis(silence) },
                Verdict::Silent(_) if is_last_in_some_isr(&draft.image, broker.id) => continue,
                Verdict::Silent(silence) => FenceReason::Silent { millis: millis(silence) },
            };
            draft.fence(&broker, reason, &self.settings);
        }
        self.elect_by_time(context, &mut draft);
        self.decommission_on(&mut draft);
        let looks = draft.image.alive_brokers().map(|broker| self.liveness.next_look(broker.id, now));
        let look = looks.min().unwrap_or(now + TICK_INTERVAL_MAX).min(now + TICK_INTERVAL_MAX);
        self.liveness.tick_due = look.min(self.elections_due().max(now + TICK_INTERVAL));
        self.decide(draft, ())
    }

    fn check_incarnation(&self, message: &Heartbeat) -> Result<std::sync::Arc<BrokerRegistration>, ApiError> {
        if let (true, Some(broker)) = (active(Bug::StaleHeartbeatAccepted), self.overlay.broker(message.broker_id)) {
            return Ok(broker.clone());
        }
        self.check_broker_epoch(message.broker_id, message.broker_epoch)?;
        match self.overlay.broker(message.broker_id) {
            Some(broker) if broker.incarnation == message.incarnation => Ok(broker.clone()),
            _ => {
                let message = format!("Broker {} is registered as another incarnation.", message.broker_id);
                Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message))
            }
        }
    }
}

impl Draft {
    pub(crate) fn fence(&mut self, broker: &BrokerRegistration, reason: FenceReason, settings: &Settings) {
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            fenced: Some(true),
            ..change_of(broker)
        }));
        self.event(Event::BrokerFenced { broker: broker.id, reason });
        self.leave_isrs(broker.id, settings);
    }

    fn unfence(&mut self, broker: &BrokerRegistration, settings: &Settings) {
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            fenced: Some(false),
            ..change_of(broker)
        }));
        self.event(Event::BrokerUnfenced { broker: broker.id });
        self.elect_for_leaderless(settings);
    }

    fn begin_controlled_shutdown(&mut self, broker: &BrokerRegistration, settings: &Settings) {
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            in_controlled_shutdown: Some(true),
            ..change_of(broker)
        }));
        self.event(Event::ControlledShutdown { broker: broker.id });
        self.leave_isrs(broker.id, settings);
    }

    /// Directories that were online and are not any more: their partitions leave the ISRs (KIP-858). A broker without
    /// any directory is of no use, and is fenced.
    fn take_log_dirs_offline(&mut self, broker: &BrokerRegistration, offline: &[DirectoryId], settings: &Settings) {
        let lost: Vec<DirectoryId> = broker.log_dirs.iter().filter(|id| offline.contains(id)).copied().collect();
        if lost.is_empty() {
            return;
        }
        let remaining = broker.log_dirs.iter().filter(|id| !lost.contains(id)).map(|id| id.0.to_vec()).collect();
        self.push(Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
            log_dirs: Some(proto::Directories { ids: remaining }),
            ..change_of(broker)
        }));
        if lost.len() < broker.log_dirs.len() {
            self.leave_isrs_in(broker.id, &lost, settings);
        } else if !broker.fenced {
            self.fence(broker, FenceReason::NoLogDirs, settings);
        }
    }
}

pub(crate) fn change_of(broker: &BrokerRegistration) -> proto::BrokerRegistrationChangeRecord {
    proto::BrokerRegistrationChangeRecord {
        broker_id: broker.id.0,
        broker_epoch: broker.epoch.0,
        ..proto::BrokerRegistrationChangeRecord::default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
