//! Which brokers live: soft state of the active controller, never written to the log (only its consequences are).
//!
//! A broker holds one stream to the active controller and speaks on it at its own pace. Two things end its life here:
//! - **The connection is gone** (reset, EOF). A process that dies takes its sockets with it, so this is the fast and
//!   the usual sign. The same incarnation has half a second to be back, for a network may drop one connection; unless
//!   the port that answered before refuses connections now: then there is no process to wait for.
//! - **Silence.** The bound adapts to the pace at which this broker is heard, between 3 s and
//!   `broker.session.timeout.ms`: a machine under load stretches everybody's pace, and that must not cost a fencing.
//!   Whoever is the last member of an ISR gets the whole session timeout, because nobody else could take over.
//!
//! When the controller itself did not run, it heard nobody: every clock is set forward by that time. A new leader starts
//! all clocks anew and waits the whole session timeout for brokers that it has never heard.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use odradek_common::time::Instant;
use odradek_common::{BrokerEpoch, BrokerId};
use odradek_metadata::Image;

use crate::settings::Settings;

/// How often the clock is looked at while a broker is in doubt: its stream is gone, or half of the silence that ends its
/// life has passed.
pub const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// How often while nobody is. A stall that falls in between goes unnoticed and harms nobody: at most half a bound is lost
/// by it, and what the brokers said meanwhile is read before the other half is over.
pub(crate) const TICK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// A tick that is later than this shows that the controller did not run.
const TICK_LATE: Duration = Duration::from_millis(150);
/// So many messages have to be missing, at the slowest pace that was usual, before silence means something.
const MISSED_MESSAGES: u32 = 4;

/// Names one stream between a broker and this controller; later streams have greater numbers.
pub type StreamId = u64;

/// Why a broker was fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceReason {
    ConnectionLost,
    /// Its connection is gone, and its port refuses new ones.
    ProcessGone,
    Silent {
        millis: u64,
    },
    Asked,
    Operator,
    ShutDown,
    /// All of its log directories are offline.
    NoLogDirs,
}

impl fmt::Display for FenceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionLost => write!(f, "its connection broke and it did not come back"),
            Self::ProcessGone => write!(f, "its connection broke and its port refuses new ones"),
            Self::Silent { millis } => write!(f, "nothing was heard of it for {millis} ms"),
            Self::Asked => write!(f, "it asked for it"),
            Self::Operator => write!(f, "an operator asked for it, and it stays so until `odradek broker unfence`"),
            Self::ShutDown => write!(f, "it has shut down"),
            Self::NoLogDirs => write!(f, "none of its log directories is online"),
        }
    }
}

/// What is known of one registered broker beside its registration.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    pub(crate) epoch: BrokerEpoch,
    pub(crate) stream: Option<StreamId>,
    /// When and which, while a stream that was there is not.
    lost: Option<(Instant, StreamId)>,
    /// Since then its port has refused a connection.
    refused: bool,
    pub(crate) last_heard: Instant,
    /// Whether this leader has heard it at all.
    pub(crate) heard: bool,
    /// Mean time between two messages and its mean deviation, as TCP estimates round trips (RFC 6298).
    gap_mean: Duration,
    gap_deviation: Duration,
    pub(crate) metadata_offset: i64,
    /// Where the metadata stood when its leaders were moved away.
    pub(crate) shutdown_offset: Option<i64>,
}

impl Pulse {
    fn new(epoch: BrokerEpoch, now: Instant) -> Self {
        Self {
            epoch,
            stream: None,
            lost: None,
            refused: false,
            last_heard: now,
            heard: false,
            gap_mean: Duration::ZERO,
            gap_deviation: Duration::ZERO,
            metadata_offset: -1,
            shutdown_offset: None,
        }
    }

    /// A message came on `stream`.
    pub(crate) fn heard(&mut self, stream: StreamId, metadata_offset: i64, now: Instant) {
        if self.heard && self.stream == Some(stream) {
            let gap = now.saturating_since(self.last_heard);
            if self.gap_mean.is_zero() {
                (self.gap_mean, self.gap_deviation) = (gap, gap / 2);
            } else {
                let deviation = gap.abs_diff(self.gap_mean);
                self.gap_deviation = (self.gap_deviation * 3 + deviation) / 4;
                self.gap_mean = (self.gap_mean * 7 + gap) / 8;
            }
        }
        // A message that was under way on an older stream does not bring that one back.
        self.stream = self.stream.max(Some(stream));
        self.lost = None;
        self.refused = false;
        self.last_heard = self.last_heard.max(now);
        self.heard = true;
        self.metadata_offset = metadata_offset;
    }

    /// The silence that is too long, if nothing speaks for more patience.
    fn silence_max(&self, bounds: &Bounds) -> Duration {
        if self.gap_mean.is_zero() {
            return bounds.session_timeout;
        }
        let pace = self.gap_mean.saturating_add(self.gap_deviation.saturating_mul(4));
        pace.saturating_mul(MISSED_MESSAGES).clamp(bounds.silence_min, bounds.session_timeout)
    }
}

/// What the clock says of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    ConnectionLost,
    ProcessGone,
    /// Too long for the usual bound, though not yet for the session timeout.
    Silent(Duration),
    /// Too long for any.
    Dead(Duration),
}

/// The limits of patience.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    disconnect_grace: Duration,
    /// Invariant: at most `session_timeout`.
    silence_min: Duration,
    session_timeout: Duration,
}

/// The pulses of all registered brokers.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    bounds: Bounds,
    pub(crate) pulses: BTreeMap<BrokerId, Pulse>,
    /// When the clock is to be looked at next.
    pub(crate) tick_due: Instant,
}

impl Liveness {
    pub(crate) fn new(settings: &Settings, image: &Image, now: Instant) -> Self {
        let pulses = image.brokers().map(|broker| (broker.id, Pulse::new(broker.epoch, now))).collect();
        let bounds = Bounds {
            disconnect_grace: settings.disconnect_grace,
            silence_min: settings.silence_min.min(settings.session_timeout),
            session_timeout: settings.session_timeout,
        };
        Self { bounds, pulses, tick_due: now }
    }

    /// A new registration: whatever was known of an older incarnation is void.
    pub(crate) fn register(&mut self, id: BrokerId, epoch: BrokerEpoch, now: Instant) {
        self.pulses.insert(id, Pulse::new(epoch, now));
    }

    pub(crate) fn remove(&mut self, id: BrokerId) {
        self.pulses.remove(&id);
    }

    pub(crate) fn pulse(&mut self, id: BrokerId, epoch: BrokerEpoch, now: Instant) -> &mut Pulse {
        let pulse = self.pulses.entry(id).or_insert_with(|| Pulse::new(epoch, now));
        if pulse.epoch != epoch {
            *pulse = Pulse::new(epoch, now);
        }
        pulse
    }

    /// The stream ended. Only the one that is in use means something: a broker that reconnects may be seen on its new
    /// stream before the old one's end.
    pub(crate) fn closed(&mut self, id: BrokerId, stream: StreamId, now: Instant) {
        if let Some(pulse) = self.pulses.get_mut(&id)
            && pulse.stream == Some(stream)
        {
            pulse.stream = None;
            pulse.lost = Some((now, stream));
            self.tick_due = self.tick_due.min(now + TICK_INTERVAL);
        }
    }

    /// After the end of `stream` the broker's port refused a connection, though it had accepted one before. Void if the
    /// broker has been heard since.
    pub(crate) fn refused(&mut self, id: BrokerId, stream: StreamId, now: Instant) {
        if let Some(pulse) = self.pulses.get_mut(&id)
            && pulse.lost.is_some_and(|(_, lost)| lost == stream)
        {
            pulse.refused = true;
            self.tick_due = self.tick_due.min(now);
        }
    }

    /// Advances the clock. Time in which this process did not run is given to every broker; returns it if it was much.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Duration> {
        let stalled = now.saturating_since(self.tick_due);
        if stalled <= TICK_LATE {
            return None;
        }
        for pulse in self.pulses.values_mut() {
            pulse.last_heard = (pulse.last_heard + stalled).min(now);
            pulse.lost = pulse.lost.map(|(at, stream)| ((at + stalled).min(now), stream));
        }
        Some(stalled)
    }

    /// When the clock has to be looked at again, as far as this broker goes.
    pub(crate) fn next_look(&self, id: BrokerId, now: Instant) -> Instant {
        let Some(pulse) = self.pulses.get(&id) else { return now + TICK_INTERVAL_MAX };
        let doubtful = pulse.last_heard + pulse.silence_max(&self.bounds) / 2;
        if pulse.lost.is_some() || doubtful <= now { now + TICK_INTERVAL } else { doubtful }
    }

    pub(crate) fn verdict(&self, id: BrokerId, now: Instant) -> Verdict {
        let Some(pulse) = self.pulses.get(&id) else { return Verdict::Alive };
        if pulse.refused {
            return Verdict::ProcessGone;
        }
        if pulse.lost.is_some_and(|(at, _)| now.saturating_since(at) >= self.bounds.disconnect_grace) {
            return Verdict::ConnectionLost;
        }
        let silence = now.saturating_since(pulse.last_heard);
        if silence > self.bounds.session_timeout {
            Verdict::Dead(silence)
        } else if silence > pulse.silence_max(&self.bounds) {
            Verdict::Silent(silence)
        } else {
            Verdict::Alive
        }
    }

    /// Whether the broker's process is known to be there: it holds its stream and is not silent.
    pub(crate) fn is_connected(&self, id: BrokerId, now: Instant) -> bool {
        self.pulses.get(&id).is_some_and(|pulse| pulse.stream.is_some()) && self.verdict(id, now) == Verdict::Alive
    }

    /// The metadata offset that every one of `brokers` has reached; `i64::MAX` of none.
    pub(crate) fn lowest_offset(&self, brokers: impl Iterator<Item = BrokerId>) -> i64 {
        let offsets = brokers.map(|id| self.pulses.get(&id).map_or(-1, |pulse| pulse.metadata_offset));
        offsets.min().unwrap_or(i64::MAX)
    }
}
