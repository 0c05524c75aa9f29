//! The one place where the metadata is decided on: by the active controller, one decision at a time.
//!
//! A decision reads the overlay (the committed image plus every decision of this term that is still on its way through
//! Raft), writes records into a [`Draft`] of it, and becomes the next overlay at once, so that proposals are pipelined
//! and each one sees those before it. The shell proposes the records as one Raft entry and answers when
//! [`Decision::offset`] has been applied. A lost leadership drops the overlay with everything that only it knew.
//!
//! Who calls: the controller's decider task alone. The operations are in the modules named after them, as further
//! `impl Decider` blocks.

use std::fmt;

use odradek_common::rng::Rng;
use odradek_common::time::{Instant, Now};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, PartitionIndex};
use odradek_metadata::Image;
use odradek_metadata::proto::{Record, record::Kind};

use crate::elections::UNCLEAN_ELECTION_INTERVAL;
use crate::error::ApiError;
use crate::liveness::{FenceReason, Liveness};
use crate::settings::Settings;

/// A request that would write more records than this is refused, as one Raft entry must stay within some MiB. A topic of
/// 10,000 partitions fits, with its configs.
pub const RECORDS_PER_REQUEST_MAX: usize = 10_240;

/// What a decision is handed beside its input.
pub struct Context<'a> {
    pub now: Now,
    /// The metadata offset that the next proposal will have: the index of its Raft entry. Proposals of one term are
    /// serial, so the shell knows it; it checks that the entry got it, and gives up its leadership if not.
    pub next_offset: i64,
    pub rng: &'a mut dyn Rng,
}

/// What comes of one input.
#[derive(Debug)]
#[must_use = "the records have to be proposed: the overlay holds them already"]
pub struct Decision<R> {
    /// To be proposed as one entry. Empty: nothing changes.
    pub records: Vec<Record>,
    pub response: R,
    /// The response may be given once this offset has been applied. Without records, that is the last proposal's: the
    /// decision may rest on it.
    pub offset: i64,
    /// For the log and the metrics.
    pub events: Vec<Event>,
}

impl<R> Decision<R> {
    pub fn map<T>(self, f: impl FnOnce(R) -> T) -> Decision<T> {
        Decision { records: self.records, response: f(self.response), offset: self.offset, events: self.events }
    }
}

/// Something that happened in a decision and that an operator may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    BrokerRegistered {
        broker: BrokerId,
        epoch: BrokerEpoch,
        unclean: bool,
    },
    BrokerUnfenced {
        broker: BrokerId,
    },
    BrokerFenced {
        broker: BrokerId,
        reason: FenceReason,
    },
    /// An operator lets it back in.
    FencingLifted {
        broker: BrokerId,
    },
    ControlledShutdown {
        broker: BrokerId,
    },
    /// Data may have been lost. An error.
    UncleanElection {
        topic: String,
        partition: PartitionIndex,
        leader: BrokerId,
    },
    /// The last known leader of a partition without ISR and ELR leads again.
    LastKnownLeaderElected {
        topic: String,
        partition: PartitionIndex,
        leader: BrokerId,
    },
    PartitionOffline {
        topic: String,
        partition: PartitionIndex,
    },
    /// Its last replica has moved away, and it is unregistered.
    BrokerDecommissioned {
        broker: BrokerId,
    },
    /// This controller did not run for so long; the clocks of all brokers were set forward by as much.
    ControllerStalled {
        millis: u64,
    },
}

impl Event {
    /// Whether someone must look.
    pub fn is_error(&self) -> bool {
        matches!(self, Event::UncleanElection { .. } | Event::PartitionOffline { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokerRegistered { broker, epoch, unclean: false } => {
                write!(f, "broker {broker} registered with epoch {epoch}")
            }
            Self::BrokerRegistered { broker, epoch, unclean: true } => {
                write!(f, "broker {broker} registered with epoch {epoch} after an unclean stop")
            }
            Self::BrokerUnfenced { broker } => write!(f, "broker {broker} has caught up and is unfenced"),
            Self::BrokerFenced { broker, reason } => write!(f, "broker {broker} is fenced: {reason}"),
            Self::FencingLifted { broker } => {
                write!(f, "broker {broker} is no longer fenced by an operator; it is unfenced once it has caught up")
            }
            Self::ControlledShutdown { broker } => write!(f, "broker {broker} shuts down; its leaders are moved away"),
            Self::UncleanElection { topic, partition, leader } => write!(
                f,
                "unclean election: broker {leader} leads {topic}-{partition} though it was not in sync; acknowledged \
                 records may be lost"
            ),
            Self::LastKnownLeaderElected { topic, partition, leader } => {
                write!(f, "the last known leader {leader} leads {topic}-{partition} again")
            }
            Self::PartitionOffline { topic, partition } => {
                write!(f, "{topic}-{partition} has no leader: no replica that is in sync is there")
            }
            Self::BrokerDecommissioned { broker } => {
                write!(f, "broker {broker} is decommissioned: it holds no replica any more and is unregistered")
            }
            Self::ControllerStalled { millis } => {
                write!(f, "this controller did not run for {millis} ms; no broker is fenced for that time")
            }
        }
    }
}

/// All decisions of the active controller, and what they rest on.
pub struct Decider {
    pub(crate) settings: Settings,
    pub(crate) overlay: Image,
    pub(crate) liveness: Liveness,
    pub(crate) balance_due: Instant,
    pub(crate) unclean_due: Instant,
}

impl Decider {
    /// Starts to lead: `image` is what has been applied, an entry of the own term included, and every clock starts anew.
    pub fn new(settings: Settings, image: Image, now: Instant) -> Self {
        let liveness = Liveness::new(&settings, &image, now);
        let balance_due = now + settings.leader_imbalance_check_interval;
        let unclean_due = now + UNCLEAN_ELECTION_INTERVAL;
        Self { settings, overlay: image, liveness, balance_due, unclean_due }
    }

    /// The metadata with every decision of this term, committed or not. Whoever answers from it waits for its offset.
    pub fn image(&self) -> &Image {
        &self.overlay
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// An entry without records went by at `offset`: a leader's blank one or a change of the Raft membership.
    pub fn skip(&mut self, offset: i64) {
        self.overlay.set_offset(offset);
    }

    pub(crate) fn draft(&self, context: &Context<'_>) -> Draft {
        Draft::new(self.overlay.clone(), context.next_offset)
    }

    /// The draft becomes the overlay.
    pub(crate) fn decide<R>(&mut self, draft: Draft, response: R) -> Decision<R> {
        if !draft.records.is_empty() {
            self.overlay = draft.image;
            self.overlay.set_offset(draft.offset);
        }
        Decision { records: draft.records, response, offset: self.overlay.offset(), events: draft.events }
    }

    /// Nothing is written; the answer still waits for the proposals that it may rest on.
    pub(crate) fn answer<R>(&self, response: R) -> Decision<R> {
        Decision { records: Vec::new(), response, offset: self.overlay.offset(), events: Vec::new() }
    }

    /// # Errors
    /// STALE_BROKER_EPOCH when the broker is not registered or has registered again since (Kafka's `checkBrokerEpoch`).
    pub(crate) fn check_broker_epoch(&self, id: BrokerId, epoch: BrokerEpoch) -> Result<(), ApiError> {
        let Some(broker) = self.overlay.broker(id) else {
            let message = format!("Broker {id} is not registered (any more): started again, it registers anew.");
            return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message));
        };
        if broker.epoch != epoch {
            let message = format!("Broker {id} is registered with epoch {}, not {epoch}.", broker.epoch);
            return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message));
        }
        Ok(())
    }
}

/// An image that is being changed: each record takes effect at once, so a decision of many steps sees its own.
pub(crate) struct Draft {
    pub(crate) image: Image,
    pub(crate) records: Vec<Record>,
    pub(crate) events: Vec<Event>,
    /// Of the entry that the records will be.
    pub(crate) offset: i64,
}

impl Draft {
    pub(crate) fn new(image: Image, offset: i64) -> Self {
        Self { image, records: Vec::new(), events: Vec::new(), offset }
    }

    /// # Panics
    /// If the record does not fit the image: a decision that was not validated must never reach the log, where every
    /// controller would stumble over it.
    pub(crate) fn push(&mut self, kind: Kind) {
        let record = Record { kind: Some(kind) };
        if let Err(error) = self.image.replay(&record, self.offset) {
            panic!("a decision wrote a record that does not fit the metadata: {error}: {record:?}");
        }
        self.records.push(record);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }
}
