//! A leader, its followers and a controller under random schedules: answers are lost or late, metadata lags, brokers
//! crash and come back, ISR changes are made without the leader hearing of it. The rules are checked after every step:
//!
//! 1. what was committed once stays where it is, and every leader has all of it;
//! 2. replicas agree below their high watermarks;
//! 3. a high watermark never falls within a leadership, and never passes the log of a member of the controller's ISR;
//! 4. followers truncate by epoch, and end with what the leader has.

use std::collections::BTreeMap;

use odradek_common::PartitionEpoch;
use odradek_common::rng::{Rng, SplitMix64};

use super::*;
use crate::partition::follower::{self, Divergence};
use crate::partition::{EpochEnd, IsrCommitted};

const REPLICAS: i32 = 3;
const LAG_MAX: Duration = Duration::from_secs(30);
/// Records in one answer: few, so that followers lag.
const FETCH_MAX: usize = 3;

/// The epoch that wrote it, and a number of its own.
type Record = (i32, u64);

#[derive(Clone, Default)]
struct Registrations(BTreeMap<i32, (i64, bool)>);

impl Brokers for Registrations {
    fn epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.0.get(&broker.0).map(|(epoch, _)| BrokerEpoch(*epoch))
    }

    fn active_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.0.get(&broker.0).filter(|(_, active)| *active).map(|(epoch, _)| BrokerEpoch(*epoch))
    }
}

#[derive(Clone)]
struct Metadata {
    partition: PartitionRegistration,
    brokers: Registrations,
}

struct Broker {
    id: i32,
    epoch: i64,
    is_up: bool,
    log: Vec<Record>,
    /// Epochs and where they begin.
    epochs: Vec<(i32, i64)>,
    high_watermark: i64,
    /// How much of the controller's history it has heard.
    heard: usize,
    leader: Option<LeaderState>,
}

impl Broker {
    fn log_end(&self) -> i64 {
        self.log.len() as i64
    }

    fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        let known = self.epochs.iter().rposition(|(known, _)| *known <= epoch)?;
        let end = self.epochs.get(known + 1).map_or(self.log_end(), |(_, start)| *start);
        Some(EpochEnd { epoch: LeaderEpoch(self.epochs[known].0), end: Offset(end) })
    }

    fn begin_epoch(&mut self, epoch: i32) {
        let start = self.log_end();
        if self.epochs.last().is_some_and(|(last, _)| *last == epoch) {
            return;
        }
        self.epochs.retain(|(known, begin)| *known < epoch && *begin < start);
        self.epochs.push((epoch, start));
    }

    fn append(&mut self, record: Record) {
        self.begin_epoch(record.0);
        self.log.push(record);
    }

    fn truncate(&mut self, end: i64) {
        self.log.truncate(end as usize);
        self.epochs.retain(|(_, start)| *start < end);
        self.high_watermark = self.high_watermark.min(end);
    }

    fn last_epoch(&self) -> i32 {
        self.log.last().map_or(-1, |record| record.0)
    }
}

/// On its way from a leader to a follower.
struct Answer {
    to: i32,
    incarnation: i64,
    leader_epoch: i32,
    fetch_offset: i64,
    last_epoch: i32,
    diverging: Option<EpochEnd>,
    records: Vec<Record>,
    high_watermark: i64,
}

struct Model {
    rng: SplitMix64,
    now: Instant,
    brokers: Vec<Broker>,
    history: Vec<Metadata>,
    proposals: Vec<(i32, IsrProposal)>,
    answers: Vec<Answer>,
    committed: Vec<Record>,
    next_record: u64,
    next_epoch: i64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let ids = 1..=REPLICAS;
        let partition = PartitionRegistration {
            replicas: ids.clone().map(BrokerId).collect(),
            isr: ids.clone().map(BrokerId).collect(),
            leader: BrokerId(1),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            ..PartitionRegistration::default()
        };
        let brokers = Registrations(ids.clone().map(|id| (id, (i64::from(id), true))).collect());
        let broker = |id| Broker {
            id,
            epoch: i64::from(id),
            is_up: true,
            log: Vec::new(),
            epochs: Vec::new(),
            high_watermark: 0,
            heard: 0,
            leader: None,
        };
        Self {
            rng: SplitMix64::new(seed),
            now: Instant(1_000_000_000_000),
            brokers: ids.map(broker).collect(),
            history: vec![Metadata { partition, brokers }],
            proposals: Vec::new(),
            answers: Vec::new(),
            committed: Vec::new(),
            next_record: 0,
            next_epoch: 100,
        }
    }

    fn pick(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    fn latest(&self) -> &Metadata {
        self.history.last().expect("never empty")
    }

    /// The controller changes its mind: the leader is an active member of the ISR, if there is one.
    fn decide(&mut self, change: impl FnOnce(&mut Metadata)) {
        let mut next = self.latest().clone();
        change(&mut next);
        let is_active = |id: &BrokerId| next.brokers.0.get(&id.0).is_some_and(|(_, active)| *active);
        if next.partition.leader == BrokerId::NONE || !is_active(&next.partition.leader) {
            let elected = next.partition.isr.iter().copied().find(is_active).unwrap_or(BrokerId::NONE);
            if elected != next.partition.leader {
                next.partition.leader = elected;
                next.partition.leader_epoch.0 += 1;
            }
        }
        next.partition.partition_epoch.0 += 1;
        let elected = next.partition.leader;
        if elected != BrokerId::NONE {
            let log = &self.brokers[elected.0 as usize - 1].log;
            assert!(log.starts_with(&self.committed), "rule 1: broker {elected} is elected without what is committed");
        }
        self.history.push(next);
    }

    fn hear(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        let Some(metadata) = self.history.get(broker.heard + 1).filter(|_| broker.is_up) else { return };
        broker.heard += 1;
        if metadata.partition.leader.0 != broker.id {
            broker.leader = None;
            return;
        }
        let epoch = metadata.partition.leader_epoch;
        broker.begin_epoch(epoch.0);
        let effects = match &mut broker.leader {
            Some(leader) => {
                let mut effects = leader.on_metadata(&metadata.partition, &metadata.brokers, self.now);
                let more = leader.on_brokers_changed(&metadata.brokers, self.now);
                effects.high_watermark = more.high_watermark.or(effects.high_watermark);
                effects
            }
            None => {
                let ends = LogEnds { log_end: Offset(broker.log_end()), high_watermark: Offset(broker.high_watermark) };
                let local_epoch = BrokerEpoch(broker.epoch);
                let mut leader =
                    LeaderState::new(BrokerId(broker.id), local_epoch, &metadata.partition, ends, 1, LAG_MAX, self.now);
                let effects = leader.start(&metadata.brokers, self.now);
                broker.leader = Some(leader);
                effects
            }
        };
        self.take(at, effects);
    }

    fn take(&mut self, at: usize, effects: Effects) {
        let broker = &mut self.brokers[at];
        if let Some(proposal) = effects.proposal {
            self.proposals.push((broker.id, proposal));
        }
        let Some(mark) = effects.high_watermark else { return };
        assert!(mark.0 > broker.high_watermark, "rule 3: the mark of broker {} fell to {mark}", broker.id);
        assert!(mark.0 <= broker.log_end(), "rule 3: the mark passed the log's end");
        broker.high_watermark = mark.0;
        let log = broker.log[..mark.0 as usize].to_vec();
        // Whoever might lead next must have it, whether this leader is still the leader or not.
        let isr: Vec<i32> = self.latest().partition.isr.iter().map(|id| id.0).collect();
        if log.len() > self.committed.len() {
            for id in isr {
                let member = &self.brokers[id as usize - 1];
                assert!(member.log.starts_with(&log), "rule 3: broker {id} of the ISR has not what was committed");
            }
            assert!(log.starts_with(&self.committed), "rule 1: a committed record was replaced");
            self.committed = log;
        } else {
            assert!(self.committed.starts_with(&log), "rule 1: a committed record was replaced");
        }
    }

    fn metadata_of(&self, at: usize) -> Metadata {
        self.history[self.brokers[at].heard].clone()
    }

    fn produce(&mut self, at: usize) {
        let metadata = self.metadata_of(at);
        self.next_record += 1;
        let (record, now) = (self.next_record, self.now);
        let broker = &mut self.brokers[at];
        let Some(leader) = &mut broker.leader else { return };
        let epoch = leader.leader_epoch().0;
        let effects = leader.on_appended(Offset(broker.log.len() as i64 + 1), &metadata.brokers, now);
        broker.append((epoch, record));
        self.take(at, effects);
    }

    fn fetch(&mut self, at: usize) {
        let view = self.metadata_of(at).partition;
        let follower = &self.brokers[at];
        if !follower.is_up || view.leader.0 == follower.id || view.leader == BrokerId::NONE {
            return;
        }
        let to = view.leader.0 as usize - 1;
        let (fetch_offset, last_epoch) = (follower.log_end(), follower.last_epoch());
        let (id, incarnation) = (follower.id, follower.epoch);
        let metadata = self.metadata_of(to);
        let now = self.now;
        let broker = &mut self.brokers[to];
        let Some(leader) = broker.leader.as_mut().filter(|_| broker.is_up) else { return };
        if check_leader_epoch(view.leader_epoch, leader.leader_epoch()).is_err() {
            return;
        }
        if leader.check_follower(BrokerId(id), BrokerEpoch(incarnation), &metadata.brokers).is_err() {
            return;
        }
        let mut answer = Answer {
            to: id,
            incarnation,
            leader_epoch: view.leader_epoch.0,
            fetch_offset,
            last_epoch,
            diverging: None,
            records: Vec::new(),
            high_watermark: leader.high_watermark().0,
        };
        let own = {
            let known = broker.epochs.iter().rposition(|(known, _)| *known <= last_epoch);
            known.map(|known| EpochEnd {
                epoch: LeaderEpoch(broker.epochs[known].0),
                end: Offset(broker.epochs.get(known + 1).map_or(broker.log.len() as i64, |(_, start)| *start)),
            })
        };
        match follower::divergence(LeaderEpoch(last_epoch), Offset(fetch_offset), own, Offset(0)) {
            Divergence::At(end) => answer.diverging = Some(end),
            // Epochs older than any that the leader has: from nothing.
            Divergence::OutOfRange => answer.diverging = Some(EpochEnd { epoch: LeaderEpoch(-1), end: Offset(0) }),
            Divergence::None => {
                let from = (fetch_offset as usize).min(broker.log.len());
                answer.records = broker.log[from..].iter().copied().take(FETCH_MAX).collect();
                let fetch = FollowerFetch {
                    replica: BrokerId(id),
                    broker_epoch: BrokerEpoch(incarnation),
                    fetch_offset: Offset(fetch_offset),
                    log_start: Offset(0),
                    leader_log_end: Offset(broker.log.len() as i64),
                };
                let effects = leader.on_follower_fetch(&fetch, &metadata.brokers, now).expect("it was checked");
                self.take(to, effects);
            }
        }
        if !self.chance(20) {
            self.answers.push(answer);
        }
    }

    fn deliver(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let position = self.pick(self.answers.len());
        let answer = self.answers.swap_remove(position);
        let at = answer.to as usize - 1;
        let view = self.metadata_of(at).partition;
        let broker = &mut self.brokers[at];
        let is_current = broker.is_up
            && broker.epoch == answer.incarnation
            && view.leader.0 != broker.id
            && view.leader_epoch.0 == answer.leader_epoch
            // An offset alone could have been reached again with other records.
            && broker.log_end() == answer.fetch_offset
            && broker.last_epoch() == answer.last_epoch;
        if !is_current {
            return;
        }
        if let Some(leader) = answer.diverging {
            let own = broker.epoch_end(leader.epoch.0);
            let end = follower::truncation(leader, own, Offset(broker.log_end()));
            let committed = self.committed.len() as i64;
            let agreed = broker.log.iter().zip(&self.committed).take_while(|(a, b)| a == b).count() as i64;
            assert!(end.0 >= agreed.min(committed), "rule 4: broker {} truncates what is committed", broker.id);
            broker.truncate(end.0);
            return;
        }
        for record in answer.records {
            broker.append(record);
        }
        let mark = Offset(broker.high_watermark);
        broker.high_watermark =
            follower::high_watermark(mark, Offset(answer.high_watermark), Offset(broker.log_end())).0;
    }

    /// The controller takes a proposal, or it is lost on the way, or its answer is.
    fn alter(&mut self) {
        if self.proposals.is_empty() {
            return;
        }
        let position = self.pick(self.proposals.len());
        let (id, proposal) = self.proposals.swap_remove(position);
        let at = id as usize - 1;
        let result = if self.chance(20) { Err(ErrorCode::NetworkException) } else { self.decide_isr(&proposal) };
        let lost = self.chance(20);
        let result = if lost { Err(ErrorCode::NetworkException) } else { result };
        let metadata = self.metadata_of(at);
        let now = self.now;
        let Some(leader) = self.brokers[at].leader.as_mut() else { return };
        let outcome = leader.on_alter_partition(&proposal, result.as_ref().map_err(|e| *e), &metadata.brokers, now);
        if outcome.retry {
            self.proposals.push((id, proposal));
        }
        self.take(at, outcome.effects);
    }

    fn decide_isr(&mut self, proposal: &IsrProposal) -> Result<IsrCommitted, ErrorCode> {
        let latest = self.latest();
        if proposal.leader_epoch != latest.partition.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if proposal.partition_epoch != latest.partition.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        for member in &proposal.isr {
            let current = latest.brokers.active_epoch(member.broker);
            if current.is_none_or(|current| member.epoch != BrokerEpoch::NONE && member.epoch != current) {
                return Err(ErrorCode::IneligibleReplica);
            }
        }
        self.decide(|next| next.partition.isr = proposal.isr.iter().map(|member| member.broker).collect());
        let partition = &self.latest().partition;
        Ok(IsrCommitted {
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: partition.isr.clone(),
        })
    }

    /// The controller notices that a broker is gone: it is fenced and leaves the ISR, unless it is the last one.
    fn crash(&mut self, at: usize) {
        let broker = &mut self.brokers[at];
        if !broker.is_up {
            return;
        }
        broker.is_up = false;
        broker.leader = None;
        let id = broker.id;
        self.decide(|next| {
            if let Some(registration) = next.brokers.0.get_mut(&id) {
                registration.1 = false;
            }
            if next.partition.isr.len() > 1 {
                next.partition.isr.retain(|member| member.0 != id);
            }
        });
    }

    fn restart(&mut self, at: usize) {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let broker = &mut self.brokers[at];
        if broker.is_up {
            return;
        }
        broker.is_up = true;
        broker.epoch = epoch;
        let id = broker.id;
        self.decide(|next| {
            next.brokers.0.insert(id, (epoch, true));
        });
        // It starts from what the controller has now, not from where it was.
        self.brokers[at].heard = self.history.len() - 2;
        self.hear(at);
    }

    fn tick(&mut self, at: usize) {
        let metadata = self.metadata_of(at);
        let now = self.now;
        let Some(leader) = &mut self.brokers[at].leader else { return };
        let effects = leader.on_tick(&metadata.brokers, now);
        self.take(at, effects);
    }

    fn step(&mut self) {
        let at = self.pick(REPLICAS as usize);
        self.now = self.now + Duration::from_millis(self.rng.below(500));
        match self.pick(100) {
            0..20 => self.produce(at),
            20..50 => self.fetch(at),
            50..70 => self.deliver(),
            70..85 => self.hear(at),
            85..90 => self.alter(),
            90..93 => self.tick(at),
            93 => self.crash(at),
            94..98 => self.restart(at),
            98 => self.now = self.now + LAG_MAX,
            _ => self.answers.clear(),
        }
        self.check();
    }

    fn check(&self) {
        for broker in &self.brokers {
            let mark = broker.high_watermark as usize;
            assert!(mark <= broker.log.len());
            assert!(
                self.committed.starts_with(&broker.log[..mark]),
                "rule 2: broker {} differs below its high watermark",
                broker.id
            );
        }
    }

    /// Without faults everything must come together.
    fn heal(&mut self) {
        for at in 0..REPLICAS as usize {
            self.restart(at);
        }
        for _ in 0..4_000 {
            self.now = self.now + Duration::from_millis(50);
            for at in 0..REPLICAS as usize {
                self.hear(at);
                self.fetch(at);
                self.tick(at);
            }
            while !self.answers.is_empty() {
                self.deliver();
            }
            self.alter();
            self.check();
        }
        let leader = self.latest().partition.leader;
        assert_ne!(leader, BrokerId::NONE, "somebody leads");
        let log = &self.brokers[leader.0 as usize - 1].log;
        for broker in &self.brokers {
            assert_eq!(&broker.log, log, "rule 4: broker {} has not what the leader has", broker.id);
        }
        assert_eq!(self.committed.len(), log.len(), "all is committed");
        assert_eq!(self.latest().partition.isr.len(), REPLICAS as usize, "all are in sync");
    }
}

/// `MODEL_SEEDS` asks for a longer run.
fn seeds() -> u64 {
    std::env::var("MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40)
}

#[test]
fn the_rules_hold_under_random_schedules() {
    for seed in 0..seeds() {
        let mut model = Model::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            // Everybody has heard of the beginning; broker 1 leads.
            model.decide(|_| ());
            for at in 0..REPLICAS as usize {
                model.hear(at);
            }
            for _ in 0..1_500 {
                model.step();
            }
            model.heal();
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("the schedule of seed {seed} breaks a rule");
            std::panic::resume_unwind(panic);
        }
    }
}
