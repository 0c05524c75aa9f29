//! A leader's view of its partition: who replicates how far, who is in sync, and up to where records are committed.
//!
//! It follows Kafka's `Partition` and `Replica` with KIP-497 (ISR changes by compare-and-set), KIP-841 and KIP-903 (who
//! may join), KIP-966 (the high watermark stands still below the minimum ISR) and KIP-207 (offsets are not available
//! until a new leader's high watermark has passed its start).
//!
//! The shell calls it under the partition's lock, with every append, every follower's fetch, every change of metadata,
//! every answer of the controller, and a tick. It never touches the log: it is told its end.

use std::time::Duration;

use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::time::Instant;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionEpoch};
use odradek_metadata::{PartitionRegistration, Replicas};

use super::isr::{IsrCommitted, IsrMember, IsrProposal};
use crate::Brokers;

/// After the controller refused a change of the ISR, the next one is proposed no sooner than this. Without it a follower
/// that is not eligible would have its leader ask again with each of its fetches, thousands of times a second.
const PROPOSAL_PAUSE: Duration = Duration::from_millis(200);

/// Where a log ends and up to where it is known to be committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnds {
    pub log_end: Offset,
    pub high_watermark: Offset,
}

/// What the shell has to do after an input.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// The high watermark moved here: complete who waited for it.
    pub high_watermark: Option<Offset>,
    /// Propose this to the controller.
    pub proposal: Option<IsrProposal>,
}

/// What became of a proposal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct IsrOutcome {
    pub effects: Effects,
    /// The same proposal is to be sent again, after a pause.
    pub retry: bool,
}

/// A follower's fetch of this partition, after the leader epoch was checked and the read found no divergence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerFetch {
    pub replica: BrokerId,
    /// The follower's own broker epoch; -1 when it did not say.
    pub broker_epoch: BrokerEpoch,
    /// The follower has everything before this offset.
    pub fetch_offset: Offset,
    pub log_start: Offset,
    /// The leader's log end before the read.
    pub leader_log_end: Offset,
}

/// Too few replicas are in sync for an append with acks=all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{in_sync} replicas are in sync, min.insync.replicas asks for {required}: the record was not appended")]
pub struct NotEnoughReplicas {
    pub in_sync: usize,
    pub required: usize,
}

/// The ISR shrank below the minimum after the append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{in_sync} replicas are in sync, min.insync.replicas asks for {required}: the record was appended nevertheless"
)]
pub struct NotEnoughReplicasAfterAppend {
    pub in_sync: usize,
    pub required: usize,
}

/// Why a follower's fetch does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FollowerFetchError {
    #[error("broker {0} is no replica of this partition as far as this leader knows")]
    NotAReplica(BrokerId),
    #[error("broker {replica} has registered anew with epoch {current} since this fetch of epoch {fetched}")]
    StaleBrokerEpoch { replica: BrokerId, fetched: BrokerEpoch, current: BrokerEpoch },
}

/// A request names another leader epoch than this replica's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EpochCheckError {
    #[error("leader epoch {requested} is older than {current}")]
    Fenced { requested: LeaderEpoch, current: LeaderEpoch },
    #[error("leader epoch {requested} is newer than {current}, which this broker knows")]
    Unknown { requested: LeaderEpoch, current: LeaderEpoch },
}

impl EpochCheckError {
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Fenced { .. } => ErrorCode::FencedLeaderEpoch,
            Self::Unknown { .. } => ErrorCode::UnknownLeaderEpoch,
        }
    }
}

/// Fences a request by the leader epoch it names (KIP-320); [`LeaderEpoch::NONE`] is not checked.
pub fn check_leader_epoch(requested: LeaderEpoch, current: LeaderEpoch) -> Result<(), EpochCheckError> {
    match requested {
        LeaderEpoch::NONE => Ok(()),
        _ if requested < current => Err(EpochCheckError::Fenced { requested, current }),
        _ if requested > current => Err(EpochCheckError::Unknown { requested, current }),
        _ => Ok(()),
    }
}

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Client(Isolation),
    Follower,
}

/// Kafka's `isolation.level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    #[default]
    ReadUncommitted,
    ReadCommitted,
}

/// One follower as its leader sees it.
#[derive(Clone, Debug)]
struct Follower {
    id: BrokerId,
    /// `None` until its first fetch in this leadership.
    log_end: Option<Offset>,
    log_start: Offset,
    /// The largest time at which its log reached the leader's end of that time; `None`: never seen so.
    last_caught_up: Option<Instant>,
    last_fetch: Option<Instant>,
    /// The leader's log end at its last fetch.
    leader_end_at_last_fetch: Offset,
    broker_epoch: Option<BrokerEpoch>,
}

impl Follower {
    fn new(id: BrokerId) -> Self {
        Self {
            id,
            log_end: None,
            log_start: Offset::NONE,
            last_caught_up: None,
            last_fetch: None,
            leader_end_at_last_fetch: Offset::NONE,
            broker_epoch: None,
        }
    }

    fn is_caught_up(&self, leader_end: Offset, now: Instant, lag_max: Duration) -> bool {
        self.log_end == Some(leader_end)
            || self.last_caught_up.is_some_and(|caught_up| now.saturating_since(caught_up) <= lag_max)
    }

    /// Whether the controller would admit it: known, active, and seen in its present incarnation.
    fn is_eligible(&self, brokers: &dyn Brokers) -> bool {
        match (self.broker_epoch, brokers.active_epoch(self.id)) {
            (Some(BrokerEpoch::NONE), Some(_)) => true,
            (Some(seen), Some(current)) => seen == current,
            _ => false,
        }
    }

    fn record(&mut self, fetch: &FollowerFetch, now: Instant) {
        if fetch.fetch_offset >= fetch.leader_log_end {
            self.last_caught_up = self.last_caught_up.max(Some(now));
        } else if fetch.fetch_offset >= self.leader_end_at_last_fetch {
            self.last_caught_up = self.last_caught_up.max(self.last_fetch);
        }
        self.log_end = Some(fetch.fetch_offset);
        self.log_start = fetch.log_start;
        self.leader_end_at_last_fetch = self.leader_end_at_last_fetch.max(fetch.leader_log_end);
        self.last_fetch = Some(now);
        self.broker_epoch = Some(fetch.broker_epoch);
    }
}

/// Why the ISR is to change; both wait for the same answer but count differently until then.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Pending {
    /// Counts as a member at once: if it was admitted before the answer is here, the high watermark has respected it.
    Expand { added: BrokerId, proposal: IsrProposal },
    /// Changes nothing until committed: those who leave may still be in the controller's ISR.
    Shrink { proposal: IsrProposal },
}

impl Pending {
    fn proposal(&self) -> &IsrProposal {
        match self {
            Self::Expand { proposal, .. } | Self::Shrink { proposal } => proposal,
        }
    }
}

/// The state of a leadership. It ends (the value is dropped) when another broker leads.
#[derive(Clone, Debug)]
pub struct LeaderState {
    local: BrokerId,
    local_broker_epoch: BrokerEpoch,
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
    /// The committed ISR. Invariant: holds `local` (the controller sees to it).
    isr: Replicas,
    pending: Option<Pending>,
    propose_after: Instant,
    /// On the heap: most partitions of a large broker have none, or do nothing.
    followers: Vec<Follower>,
    log_end: Offset,
    /// Invariant: never falls, and never passes the log end of a member of the maximal ISR.
    high_watermark: Offset,
    /// Where this leader epoch began.
    epoch_start: Offset,
    min_insync_replicas: usize,
    lag_max: Duration,
}

impl LeaderState {
    /// Begins a leadership that the controller gave to `local`. `lag_max` is `replica.lag.time.max.ms`.
    pub fn new(
        local: BrokerId,
        local_broker_epoch: BrokerEpoch,
        registration: &PartitionRegistration,
        log: LogEnds,
        min_insync_replicas: usize,
        lag_max: Duration,
        now: Instant,
    ) -> Self {
        let mut state = Self {
            local,
            local_broker_epoch,
            leader_epoch: registration.leader_epoch,
            partition_epoch: registration.partition_epoch,
            isr: registration.isr.clone(),
            pending: None,
            propose_after: Instant(0),
            followers: Vec::new(),
            log_end: log.log_end,
            high_watermark: log.high_watermark.min(log.log_end),
            epoch_start: log.log_end,
            min_insync_replicas,
            lag_max,
        };
        state.assign(registration);
        for follower in &mut state.followers {
            follower.last_caught_up = state.isr.contains(&follower.id).then_some(now);
        }
        state
    }

    /// The first look at the high watermark of a new leadership: alone in the ISR, everything is committed.
    pub fn start(&mut self, brokers: &dyn Brokers, now: Instant) -> Effects {
        self.effects(brokers, now)
    }

    /// New metadata that still names this broker as the leader. What is older than the state is ignored, and so is the
    /// same partition epoch again: it must not drop a pending change whose fate is open.
    pub fn on_metadata(
        &mut self,
        registration: &PartitionRegistration,
        brokers: &dyn Brokers,
        now: Instant,
    ) -> Effects {
        if registration.partition_epoch <= self.partition_epoch {
            return Effects::default();
        }
        self.partition_epoch = registration.partition_epoch;
        self.isr = registration.isr.clone();
        // The compare-and-set of a pending change has failed, or this is its success.
        self.pending = None;
        self.assign(registration);
        if registration.leader_epoch > self.leader_epoch {
            self.leader_epoch = registration.leader_epoch;
            self.epoch_start = self.log_end;
            for follower in &mut self.followers {
                let in_sync = self.isr.contains(&follower.id).then_some(now);
                follower.last_caught_up = in_sync;
                follower.last_fetch = in_sync;
                follower.leader_end_at_last_fetch = self.log_end;
            }
        }
        self.effects(brokers, now)
    }

    /// A broker was fenced, came back or is leaving: who holds the high watermark back may be another.
    pub fn on_brokers_changed(&mut self, brokers: &dyn Brokers, now: Instant) -> Effects {
        self.effects(brokers, now)
    }

    /// This broker registered again; its own epoch goes into each proposal.
    pub fn set_local_broker_epoch(&mut self, epoch: BrokerEpoch) {
        self.local_broker_epoch = epoch;
    }

    /// `min.insync.replicas` of the topic has changed.
    pub fn set_min_insync_replicas(&mut self, replicas: usize, brokers: &dyn Brokers, now: Instant) -> Effects {
        self.min_insync_replicas = replicas;
        self.effects(brokers, now)
    }

    /// Whether an append may be made. Only acks=all (-1) asks for a full ISR.
    pub fn check_append(&self, acks: i16) -> Result<(), NotEnoughReplicas> {
        let (in_sync, required) = (self.isr.len(), self.min_isr());
        if acks == -1 && in_sync < required { Err(NotEnoughReplicas { in_sync, required }) } else { Ok(()) }
    }

    /// Where this leader epoch begins. Under a flush policy what counts of the log may end before that, and a follower is
    /// not in sync before it has all of it.
    pub fn set_epoch_start(&mut self, offset: Offset) {
        self.epoch_start = self.epoch_start.max(offset);
    }

    /// The log (under a flush policy: what is flushed of it) now ends at `log_end`.
    pub fn on_appended(&mut self, log_end: Offset, brokers: &dyn Brokers, now: Instant) -> Effects {
        if log_end > self.log_end {
            // A fetch session passes over partitions without news, so a member of the ISR that has everything need not
            // have been seen for a long time: until this moment it was caught up. Who is no member is never passed over.
            for at in 0..self.followers.len() {
                let follower = &self.followers[at];
                if follower.log_end.is_some_and(|end| end >= self.log_end) && self.isr.contains(&follower.id) {
                    let follower = &mut self.followers[at];
                    follower.last_caught_up = follower.last_caught_up.max(Some(now));
                }
            }
        }
        self.log_end = self.log_end.max(log_end);
        self.effects(brokers, now)
    }

    /// A follower has fetched. Its position counts, it may join the ISR, and the high watermark may move.
    ///
    /// # Errors
    /// Nothing changes when the follower is no replica or an older incarnation of it.
    pub fn on_follower_fetch(
        &mut self,
        fetch: &FollowerFetch,
        brokers: &dyn Brokers,
        now: Instant,
    ) -> Result<Effects, FollowerFetchError> {
        let position = self.check_follower(fetch.replica, fetch.broker_epoch, brokers)?;
        let follower = &mut self.followers[position];
        let moved = follower.log_end != Some(fetch.fetch_offset);
        follower.record(fetch, now);
        let proposal = self.propose_expand(position, brokers, now);
        // Only a new position can move the high watermark, and most fetches of an idle partition bring none.
        let high_watermark = if moved || proposal.is_some() { self.advance(brokers, now) } else { None };
        Ok(Effects { high_watermark, proposal })
    }

    /// Whether a fetch by `replica` counts, before anything is read for it.
    ///
    /// # Errors
    /// As [`LeaderState::on_follower_fetch`].
    pub fn check_follower(
        &self,
        replica: BrokerId,
        broker_epoch: BrokerEpoch,
        brokers: &dyn Brokers,
    ) -> Result<usize, FollowerFetchError> {
        let position = self.followers.iter().position(|follower| follower.id == replica);
        let position = position.ok_or(FollowerFetchError::NotAReplica(replica))?;
        match brokers.epoch(replica) {
            Some(current) if broker_epoch != BrokerEpoch::NONE && current > broker_epoch => {
                Err(FollowerFetchError::StaleBrokerEpoch { replica, fetched: broker_epoch, current })
            }
            _ => Ok(position),
        }
    }

    /// Looks for members of the ISR that have not caught up for `replica.lag.time.max.ms`, and lets go of the high
    /// watermark what waited for a follower that has stopped.
    pub fn on_tick(&mut self, brokers: &dyn Brokers, now: Instant) -> Effects {
        let high_watermark = self.advance(brokers, now);
        Effects { high_watermark, proposal: self.propose_shrink(now) }
    }

    fn propose_shrink(&mut self, now: Instant) -> Option<IsrProposal> {
        if self.pending.is_some() || now < self.propose_after {
            return None;
        }
        let lags = |id: &BrokerId| {
            let follower = self.followers.iter().find(|follower| follower.id == *id);
            follower.is_none_or(|follower| !follower.is_caught_up(self.log_end, now, self.lag_max))
        };
        let stay: Replicas = self.isr.iter().copied().filter(|id| *id == self.local || !lags(id)).collect();
        if stay.len() == self.isr.len() {
            return None;
        }
        let proposal = self.proposal(&stay);
        self.pending = Some(Pending::Shrink { proposal: proposal.clone() });
        Some(proposal)
    }

    /// The controller has answered `proposal`, or could not be asked (a retriable error).
    pub fn on_alter_partition(
        &mut self,
        proposal: &IsrProposal,
        result: Result<&IsrCommitted, ErrorCode>,
        brokers: &dyn Brokers,
        now: Instant,
    ) -> IsrOutcome {
        if self.pending.as_ref().is_none_or(|pending| pending.proposal() != proposal) {
            return IsrOutcome::default();
        }
        match result {
            Ok(committed) => self.on_committed(committed, brokers, now),
            // The controller says that the partition epoch is right and that the change was not made: nobody can have
            // made it. Every other refusal leaves that open, and the state stays pending until metadata decides it.
            Err(ErrorCode::OperationNotAttempted | ErrorCode::IneligibleReplica) => {
                self.pending = None;
                self.propose_after = now + PROPOSAL_PAUSE;
                IsrOutcome { effects: self.effects(brokers, now), retry: false }
            }
            Err(
                ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::InvalidUpdateVersion
                | ErrorCode::InvalidRequest
                | ErrorCode::NewLeaderElected,
            ) => IsrOutcome::default(),
            Err(_) => IsrOutcome { effects: Effects::default(), retry: true },
        }
    }

    fn on_committed(&mut self, committed: &IsrCommitted, brokers: &dyn Brokers, now: Instant) -> IsrOutcome {
        if committed.leader_epoch != self.leader_epoch || committed.partition_epoch < self.partition_epoch {
            return IsrOutcome::default();
        }
        self.isr = committed.isr.clone();
        self.partition_epoch = committed.partition_epoch;
        self.pending = None;
        IsrOutcome { effects: self.effects(brokers, now), retry: false }
    }

    /// Whether a produce with acks=all that needs everything before `required` is done, and how.
    pub fn acknowledged(&self, required: Offset) -> Option<Result<(), NotEnoughReplicasAfterAppend>> {
        if self.high_watermark < required {
            return None;
        }
        let (in_sync, required) = (self.maximal_isr_len(), self.min_isr());
        Some(if in_sync < required { Err(NotEnoughReplicasAfterAppend { in_sync, required }) } else { Ok(()) })
    }

    /// The offset before which `reader` may read. `last_stable` is the log's (<= high watermark).
    pub fn read_bound(&self, reader: Reader, last_stable: Offset) -> Offset {
        match reader {
            Reader::Follower => self.log_end,
            Reader::Client(Isolation::ReadUncommitted) => self.high_watermark,
            Reader::Client(Isolation::ReadCommitted) => last_stable.min(self.high_watermark),
        }
    }

    /// Whether clients can be told offsets: a new leader's high watermark may lie behind what its predecessor showed
    /// until it has passed the start of its own epoch (KIP-207).
    pub fn offsets_are_available(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// The least log start of the leader (`own`) and of its active followers: what DeleteRecords waits for.
    pub fn low_watermark(&self, own: Offset, brokers: &dyn Brokers) -> Offset {
        let active = self.followers.iter().filter(|follower| brokers.active_epoch(follower.id).is_some());
        active.map(|follower| follower.log_start).fold(own, Offset::min)
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// The committed ISR.
    pub fn isr(&self) -> &[BrokerId] {
        &self.isr
    }

    pub fn has_pending_change(&self) -> bool {
        self.pending.is_some()
    }

    pub fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }

    pub fn is_under_min_isr(&self) -> bool {
        self.isr.len() < self.min_isr()
    }

    /// Where a follower's log ended when it last fetched.
    pub fn follower_log_end(&self, replica: BrokerId) -> Option<Offset> {
        self.followers.iter().find(|follower| follower.id == replica)?.log_end
    }

    /// Takes over the replicas; what is known of those that stay is kept.
    fn assign(&mut self, registration: &PartitionRegistration) {
        self.followers.retain(|follower| registration.replicas.contains(&follower.id));
        for id in registration.replicas.iter().filter(|id| **id != self.local) {
            if !self.followers.iter().any(|follower| follower.id == *id) {
                self.followers.reserve_exact(1);
                self.followers.push(Follower::new(*id));
            }
        }
    }

    fn effects(&mut self, brokers: &dyn Brokers, now: Instant) -> Effects {
        Effects { high_watermark: self.advance(brokers, now), proposal: None }
    }

    fn min_isr(&self) -> usize {
        self.min_insync_replicas.min(self.followers.len() + 1)
    }

    fn is_in_maximal_isr(&self, id: BrokerId) -> bool {
        self.isr.contains(&id) || matches!(&self.pending, Some(Pending::Expand { added, .. }) if *added == id)
    }

    fn maximal_isr_len(&self) -> usize {
        self.isr.len() + usize::from(matches!(self.pending, Some(Pending::Expand { .. })))
    }

    /// Moves the high watermark to the least log end of the maximal ISR. It also waits for a follower that is caught up
    /// and about to join: with an ISR of one the mark runs with each append, and nobody could ever reach it.
    fn advance(&mut self, brokers: &dyn Brokers, now: Instant) -> Option<Offset> {
        if self.is_under_min_isr() {
            return None;
        }
        let mut least = self.log_end;
        for follower in &self.followers {
            let end = follower.log_end.unwrap_or(Offset::NONE);
            let counts = || {
                self.is_in_maximal_isr(follower.id)
                    || (follower.is_caught_up(self.log_end, now, self.lag_max) && follower.is_eligible(brokers))
            };
            if end < least && counts() {
                least = end;
            }
        }
        if active(Bug::HighWatermarkTooHigh) {
            least = least.plus(1).min(self.log_end);
        }
        if least <= self.high_watermark {
            return None;
        }
        self.high_watermark = least;
        Some(least)
    }

    fn propose_expand(&mut self, position: usize, brokers: &dyn Brokers, now: Instant) -> Option<IsrProposal> {
        let follower = &self.followers[position];
        if self.pending.is_some() || now < self.propose_after || self.isr.contains(&follower.id) {
            return None;
        }
        let is_in_sync = follower.log_end.is_some_and(|end| end >= self.high_watermark && end >= self.epoch_start)
            || active(Bug::IsrAdmittedTooEarly);
        if !is_in_sync || !follower.is_eligible(brokers) {
            return None;
        }
        let added = follower.id;
        let mut isr = self.isr.clone();
        isr.push(added);
        let proposal = self.proposal(&isr);
        self.pending = Some(Pending::Expand { added, proposal: proposal.clone() });
        Some(proposal)
    }

    fn proposal(&self, isr: &[BrokerId]) -> IsrProposal {
        let epoch = |id: BrokerId| {
            if id == self.local {
                return self.local_broker_epoch;
            }
            let follower = self.followers.iter().find(|follower| follower.id == id);
            follower.and_then(|follower| follower.broker_epoch).unwrap_or(BrokerEpoch::NONE)
        };
        IsrProposal {
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: isr.iter().map(|id| IsrMember { broker: *id, epoch: epoch(*id) }).collect(),
        }
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "model_tests.rs"]
mod model;
