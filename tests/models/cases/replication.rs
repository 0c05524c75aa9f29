//! Orders of events in a small cluster, one after the other: two or three replicas of one partition and a controller, with the
//! decisions of the real cores (`LeaderState`, `follower`, the controller's `Decider`) and everything around them that may go
//! wrong: messages that are lost, late and come twice, metadata that is heard late, brokers that are fenced while they live, that
//! die, and that lose their disk's last writes with their power.
//!
//! A breadth-first search over states, of which there are as many as its `Scope` allows. Two replicas are searched through to the
//! end: within the scope there is no order that is not tried. Of three, those orders are tried that are shortest, up to a number of
//! states. What must hold, after each step:
//!
//! 1. what was committed is in the log of whoever is elected, unless all that were in sync lost it (rule 1);
//! 2. replicas agree below their high watermarks (rule 2);
//! 3. a high watermark never falls while a broker leads, and never passes the log of a member of the controller's ISR (rule 3);
//! 4. no two brokers lead in one epoch, and nobody truncates what is committed (rule 4).
//!
//! `ODRADEK_LONG` has a larger scope.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use odradek_broker_core::partition::follower::{self, Divergence};
use odradek_broker_core::partition::{
    Effects, EpochEnd, FollowerFetch, IsrCommitted, IsrProposal, LeaderState, LogEnds, check_leader_epoch,
};
use odradek_common::config::{ControllerConfig, SecurityProtocol};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicId, Uuid};
use odradek_controller_core::alter_partition::{AlterPartition, IsrChange};
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::heartbeat::Heartbeat;
use odradek_controller_core::topics::NewTopic;
use odradek_controller_core::{Context, Decider, Decision, Settings, features};
use odradek_metadata::{Endpoint, Image, LeaderRecoveryState, PartitionRegistration};
use odradek_models::{Model, is_long};

const REPLICAS_MAX: usize = 3;
const PARTITION: PartitionIndex = PartitionIndex(0);
const LAG_MAX: Duration = Duration::from_secs(30);
/// All happens at this time, but for a look at who lags, which comes when everybody may lag.
const NOW: Instant = Instant(1_000_000_000_000);
const LATE: Instant = Instant(1_000_000_000_000 + 60_000_000_000);
/// The broker of a model has its number plus one as its id.
fn id(at: usize) -> BrokerId {
    BrokerId(at as i32 + 1)
}

/// How much of everything there is.
#[derive(Clone, Copy)]
struct Scope {
    replicas: usize,
    min_insync_replicas: usize,
    records: u8,
    /// Brokers that die; of them, with their power.
    crashes: u8,
    power_cuts: u8,
    /// Brokers that are fenced while they live.
    suspicions: u8,
    /// ISR changes that are asked for.
    proposals: u8,
    /// Messages that come twice.
    duplicates: u8,
    states_max: usize,
}

/// The epoch that wrote it, and its number.
type Record = (i32, u8);

/// From a leader to a follower. It is lost when another one takes its place.
#[derive(Clone, Debug)]
struct Answer {
    incarnation: i64,
    leader_epoch: i32,
    fetch_offset: usize,
    last_epoch: i32,
    diverging: Option<(i32, i64)>,
    records: Vec<Record>,
    high_watermark: usize,
}

#[derive(Clone)]
struct Broker {
    is_up: bool,
    /// Lost what it had, and has not registered since.
    lost_power: bool,
    incarnation: u8,
    epoch: i64,
    log: Vec<Record>,
    /// Epochs and where they begin.
    epochs: Vec<(i32, usize)>,
    high_watermark: usize,
    /// What it knows of the metadata.
    image: Image,
    leader: Option<LeaderState>,
    answer: Option<Answer>,
}

#[derive(Clone)]
struct State {
    image: Image,
    topic: TopicId,
    brokers: Vec<Broker>,
    proposals: Vec<(usize, i64, IsrProposal)>,
    committed: Vec<Record>,
    /// Everybody who was in sync has lost what was committed: nothing can bring it back.
    is_lost: bool,
    used: Used,
}

#[derive(Clone, Copy, Default, Debug)]
struct Used {
    records: u8,
    crashes: u8,
    power_cuts: u8,
    suspicions: u8,
    proposals: u8,
    duplicates: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Produce(usize),
    Fetch(usize),
    /// `again`: it comes once more later.
    Deliver {
        to: usize,
        again: bool,
    },
    Hear(usize),
    LookForLaggards(usize),
    /// The controller decides on a proposal; the leader hears of it, or does not.
    Decide {
        proposal: usize,
        is_heard: bool,
        again: bool,
    },
    LoseProposal(usize),
    Crash {
        at: usize,
        loses_power: bool,
    },
    Fence(usize),
    Restart(usize),
    Unfence(usize),
}

impl Broker {
    fn last_epoch(&self) -> i32 {
        self.log.last().map_or(-1, |record| record.0)
    }

    fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        let known = self.epochs.iter().rposition(|(known, _)| *known <= epoch)?;
        let end = self.epochs.get(known + 1).map_or(self.log.len(), |(_, start)| *start);
        Some(EpochEnd { epoch: LeaderEpoch(self.epochs[known].0), end: Offset(end as i64) })
    }

    fn begin_epoch(&mut self, epoch: i32) {
        let start = self.log.len();
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

    fn truncate(&mut self, end: usize) {
        self.log.truncate(end);
        self.epochs.retain(|(_, start)| *start < end);
        self.high_watermark = self.high_watermark.min(end);
    }
}

fn settings(scope: Scope) -> Settings {
    static BY_MIN_ISR: [OnceLock<Settings>; REPLICAS_MAX + 1] = [const { OnceLock::new() }; REPLICAS_MAX + 1];
    BY_MIN_ISR[scope.min_insync_replicas].get_or_init(|| read_settings(scope)).clone()
}

fn read_settings(scope: Scope) -> Settings {
    let text = format!(
        "process.roles=controller\nnode.id=9\ncontroller.quorum.voters=9@localhost:9093\nlog.dirs=d\n\
         min.insync.replicas={}\n",
        scope.min_insync_replicas
    );
    Settings::from(&ControllerConfig::load(&text, "model", &[]).expect("valid settings").0)
}

/// One decision of a controller that knows `image`. Each is made by a controller that has just begun to lead.
fn decide<R>(image: &mut Image, scope: Scope, decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R>) -> R {
    let mut decider = Decider::new(settings(scope), image.clone(), NOW);
    let mut rng = SplitMix64::new(1);
    let mut context =
        Context { now: Now { instant: NOW, wall: Timestamp(0) }, next_offset: image.offset() + 1, rng: &mut rng };
    let decision = decide(&mut decider, &mut context);
    if !decision.records.is_empty() {
        image.apply_records(&decision.records, image.offset() + 1).expect("records that fit");
    }
    decision.response
}

impl State {
    fn new(scope: Scope) -> Self {
        let mut image = Image::new();
        decide(&mut image, scope, |decider, context| decider.begin(context, "model", &[], None))
            .expect("a new cluster");
        let broker = Broker {
            is_up: true,
            lost_power: false,
            incarnation: 1,
            epoch: 0,
            log: Vec::new(),
            epochs: Vec::new(),
            high_watermark: 0,
            image: Image::new(),
            leader: None,
            answer: None,
        };
        let mut state = Self {
            image,
            topic: Uuid::ZERO,
            brokers: vec![broker; scope.replicas],
            proposals: Vec::new(),
            committed: Vec::new(),
            is_lost: false,
            used: Used::default(),
        };
        for at in 0..scope.replicas {
            state.register(at, scope);
            state.unfence(at, scope);
        }
        let topic = NewTopic {
            name: "model".to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments: vec![(PARTITION, (0..scope.replicas).map(id).collect())],
            configs: Vec::new(),
        };
        let created =
            decide(&mut state.image, scope, |decider, context| decider.create_topics(context, &[topic], false));
        state.topic = created.into_iter().next().expect("an outcome").result.expect("created").id;
        for at in 0..scope.replicas {
            state.hear(at, scope).expect("nothing is wrong yet");
        }
        state
    }

    fn register(&mut self, at: usize, scope: Scope) {
        let request = RegisterBroker {
            cluster_id: "model".to_owned(),
            broker_id: id(at),
            incarnation: Uuid([self.brokers[at].incarnation * 10 + at as u8; 16]),
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "localhost".to_owned(),
                port: 9092,
                security_protocol: SecurityProtocol::Plaintext,
            }],
            features: features::supported_ranges(),
            rack: None,
            log_dirs: vec![Uuid([100 + at as u8; 16])],
            previous_broker_epoch: BrokerEpoch::NONE,
        };
        let epoch = decide(&mut self.image, scope, |decider, context| decider.register_broker(context, &request));
        self.brokers[at].epoch = epoch.expect("registered").0;
    }

    fn heartbeat(&mut self, at: usize, want_fence: bool, scope: Scope) {
        let registered = self.image.broker(id(at)).expect("registered").clone();
        let message = Heartbeat {
            broker_id: id(at),
            broker_epoch: registered.epoch,
            incarnation: registered.incarnation,
            metadata_offset: self.image.offset(),
            want_fence,
            ..Heartbeat::default()
        };
        let reply = decide(&mut self.image, scope, |decider, context| decider.heartbeat(context, 1, &message));
        reply.expect("it is registered so");
    }

    fn unfence(&mut self, at: usize, scope: Scope) {
        self.heartbeat(at, false, scope);
    }

    fn partition(&self) -> Option<&PartitionRegistration> {
        self.image.partition(self.topic, PARTITION).map(|partition| &**partition)
    }

    /// The broker learns the newest metadata.
    fn hear(&mut self, at: usize, scope: Scope) -> Result<(), String> {
        self.brokers[at].image = self.image.clone();
        let Some(partition) = self.partition().cloned() else { return Ok(()) };
        let broker = &mut self.brokers[at];
        if partition.leader != id(at) {
            broker.leader = None;
            return Ok(());
        }
        let image = broker.image.clone();
        broker.begin_epoch(partition.leader_epoch.0);
        let effects = match &mut broker.leader {
            Some(leader) => {
                let mut effects = leader.on_metadata(&partition, &image, NOW);
                let more = leader.on_brokers_changed(&image, NOW);
                effects.high_watermark = more.high_watermark.or(effects.high_watermark);
                effects
            }
            None => {
                let ends = LogEnds {
                    log_end: Offset(broker.log.len() as i64),
                    high_watermark: Offset(broker.high_watermark as i64),
                };
                let epoch = BrokerEpoch(broker.epoch);
                let min = scope.min_insync_replicas;
                let mut leader = LeaderState::new(id(at), epoch, &partition, ends, min, LAG_MAX, NOW);
                let effects = leader.start(&image, NOW);
                broker.leader = Some(leader);
                effects
            }
        };
        self.take(at, effects, scope)
    }

    fn take(&mut self, at: usize, effects: Effects, scope: Scope) -> Result<(), String> {
        let epoch = self.brokers[at].epoch;
        if let Some(proposal) = effects.proposal
            && self.used.proposals < scope.proposals
        {
            self.used.proposals += 1;
            self.proposals.push((at, epoch, proposal));
        }
        let Some(mark) = effects.high_watermark else { return Ok(()) };
        let mark = mark.0 as usize;
        let broker = &mut self.brokers[at];
        if mark <= broker.high_watermark || mark > broker.log.len() {
            return Err(format!("rule 3: the high watermark of broker {} goes to {mark}", id(at)));
        }
        broker.high_watermark = mark;
        let log = broker.log[..mark].to_vec();
        if log.len() <= self.committed.len() {
            let is_same = self.committed.starts_with(&log) || self.is_lost;
            return if is_same { Ok(()) } else { Err("rule 1: a committed record was replaced".to_owned()) };
        }
        let isr = self.partition().map(|partition| partition.isr.clone()).unwrap_or_default();
        for member in isr {
            let other = &self.brokers[member.0 as usize - 1];
            if !other.lost_power && !other.log.starts_with(&log) && !self.is_lost {
                return Err(format!("rule 3: broker {member} of the ISR has not what was committed"));
            }
        }
        if !log.starts_with(&self.committed) && !self.is_lost {
            return Err("rule 1: a committed record was replaced".to_owned());
        }
        self.committed = log;
        Ok(())
    }

    /// After each decision of the controller.
    fn check_election(&mut self, before: &PartitionRegistration) -> Result<(), String> {
        let Some(now) = self.partition().cloned() else { return Ok(()) };
        if now.leader_epoch < before.leader_epoch || now.partition_epoch < before.partition_epoch {
            return Err("rule 4: an epoch goes back".to_owned());
        }
        if now.leader == BrokerId::NONE || now.leader_epoch == before.leader_epoch {
            return Ok(());
        }
        let elected = &self.brokers[now.leader.0 as usize - 1];
        if elected.log.starts_with(&self.committed) || self.is_lost {
            return Ok(());
        }
        // The last known leader leads when nobody else is left that is known to have everything. If its power was cut, what it
        // was the last one to have is gone, as is told (an error is logged).
        if now.leader_recovery_state == LeaderRecoveryState::Recovering && self.used.power_cuts > 0 {
            self.is_lost = true;
            return Ok(());
        }
        Err(format!("rule 1: broker {} is elected without what is committed", now.leader))
    }

    /// What can happen now.
    fn steps(&self, scope: Scope) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, broker) in self.brokers.iter().enumerate() {
            let registered = self.image.broker(id(at));
            if !broker.is_up {
                // It registers when the controller holds the former one for dead.
                if registered.is_some_and(|registered| registered.fenced) {
                    steps.push(Step::Restart(at));
                } else {
                    steps.push(Step::Fence(at));
                }
                continue;
            }
            if broker.leader.is_some() && self.used.records < scope.records {
                steps.push(Step::Produce(at));
            }
            if broker.leader.is_some() && self.used.proposals < scope.proposals {
                steps.push(Step::LookForLaggards(at));
            }
            if broker.leader.is_none() {
                steps.push(Step::Fetch(at));
            }
            if broker.answer.is_some() {
                steps.push(Step::Deliver { to: at, again: false });
                if self.used.duplicates < scope.duplicates {
                    steps.push(Step::Deliver { to: at, again: true });
                }
            }
            if broker.image.offset() < self.image.offset() {
                steps.push(Step::Hear(at));
            }
            if self.used.crashes < scope.crashes {
                steps.push(Step::Crash { at, loses_power: false });
                if self.used.power_cuts < scope.power_cuts {
                    steps.push(Step::Crash { at, loses_power: true });
                }
            }
            match registered {
                Some(registered) if registered.fenced => steps.push(Step::Unfence(at)),
                Some(_) if self.used.suspicions < scope.suspicions => steps.push(Step::Fence(at)),
                _ => {}
            }
        }
        for proposal in 0..self.proposals.len() {
            for is_heard in [true, false] {
                steps.push(Step::Decide { proposal, is_heard, again: false });
            }
            steps.push(Step::LoseProposal(proposal));
            if self.used.duplicates < scope.duplicates {
                steps.push(Step::Decide { proposal, is_heard: false, again: true });
            }
        }
        steps
    }

    fn step(&mut self, step: Step, scope: Scope) -> Result<(), String> {
        let before = self.partition().cloned().unwrap_or_default();
        match step {
            Step::Produce(at) => self.produce(at, scope)?,
            Step::Fetch(at) => self.fetch(at, scope)?,
            Step::Deliver { to, again } => self.deliver(to, again)?,
            Step::Hear(at) => self.hear(at, scope)?,
            Step::LookForLaggards(at) => {
                let broker = &mut self.brokers[at];
                let image = broker.image.clone();
                if let Some(leader) = &mut broker.leader {
                    let effects = leader.on_tick(&image, LATE);
                    self.take(at, effects, scope)?;
                }
            }
            Step::Decide { proposal, is_heard, again } => self.decide_isr(proposal, is_heard, again, scope)?,
            Step::LoseProposal(proposal) => {
                let (at, epoch, proposal) = self.proposals.remove(proposal);
                self.answer_proposal(at, epoch, &proposal, Err(ErrorCode::NetworkException), scope)?;
            }
            Step::Crash { at, loses_power } => {
                self.used.crashes += 1;
                self.used.power_cuts += u8::from(loses_power);
                let broker = &mut self.brokers[at];
                (broker.is_up, broker.leader, broker.answer) = (false, None, None);
                // It learns everything anew when it starts.
                broker.image = Image::new();
                if loses_power {
                    // The worst that a disk can do.
                    broker.lost_power = true;
                    (broker.log, broker.epochs, broker.high_watermark) = (Vec::new(), Vec::new(), 0);
                }
            }
            Step::Fence(at) => {
                self.used.suspicions += u8::from(self.brokers[at].is_up);
                self.heartbeat(at, true, scope);
            }
            Step::Restart(at) => {
                let broker = &mut self.brokers[at];
                broker.incarnation += 1;
                (broker.is_up, broker.lost_power) = (true, false);
                self.register(at, scope);
                self.hear(at, scope)?;
            }
            Step::Unfence(at) => {
                self.hear(at, scope)?;
                self.unfence(at, scope);
            }
        }
        self.check_election(&before)?;
        self.forget_stale_answers();
        self.check()
    }

    /// What a follower would never take any more might as well be lost: fewer states to tell apart.
    fn forget_stale_answers(&mut self) {
        for broker in &mut self.brokers {
            let view = broker.image.partition(self.topic, PARTITION).map(|partition| partition.leader_epoch.0);
            let is_stale = |answer: &Answer| answer.incarnation != broker.epoch || Some(answer.leader_epoch) != view;
            if broker.answer.as_ref().is_some_and(is_stale) {
                broker.answer = None;
            }
        }
    }

    fn produce(&mut self, at: usize, scope: Scope) -> Result<(), String> {
        let number = self.used.records;
        let broker = &mut self.brokers[at];
        let image = broker.image.clone();
        let Some(leader) = &mut broker.leader else { return Ok(()) };
        if leader.check_append(-1).is_err() {
            return Ok(());
        }
        self.used.records += 1;
        let epoch = leader.leader_epoch().0;
        let effects = leader.on_appended(Offset(broker.log.len() as i64 + 1), &image, NOW);
        broker.append((epoch, number));
        self.take(at, effects, scope)
    }

    fn fetch(&mut self, at: usize, scope: Scope) -> Result<(), String> {
        let follower = &self.brokers[at];
        let view = follower.image.partition(self.topic, PARTITION).cloned().unwrap_or_default();
        if view.leader == BrokerId::NONE || view.leader == id(at) {
            return Ok(());
        }
        let to = view.leader.0 as usize - 1;
        let (fetch_offset, last_epoch, incarnation) = (follower.log.len(), follower.last_epoch(), follower.epoch);
        let broker = &mut self.brokers[to];
        let image = broker.image.clone();
        let own = broker.epoch_end(last_epoch);
        let Some(leader) = broker.leader.as_mut().filter(|_| broker.is_up) else { return Ok(()) };
        if check_leader_epoch(view.leader_epoch, leader.leader_epoch()).is_err()
            || leader.check_follower(id(at), BrokerEpoch(incarnation), &image).is_err()
        {
            return Ok(());
        }
        let mut answer = Answer {
            incarnation,
            leader_epoch: view.leader_epoch.0,
            fetch_offset,
            last_epoch,
            diverging: None,
            records: Vec::new(),
            high_watermark: leader.high_watermark().0 as usize,
        };
        match follower::divergence(LeaderEpoch(last_epoch), Offset(fetch_offset as i64), own, Offset(0)) {
            Divergence::At(end) => answer.diverging = Some((end.epoch.0, end.end.0)),
            Divergence::OutOfRange => answer.diverging = Some((-1, 0)),
            Divergence::None => {
                let end = broker.log.len();
                answer.records = broker.log[fetch_offset.min(end)..].iter().copied().take(1).collect();
                let fetch = FollowerFetch {
                    replica: id(at),
                    broker_epoch: BrokerEpoch(incarnation),
                    fetch_offset: Offset(fetch_offset as i64),
                    log_start: Offset(0),
                    leader_log_end: Offset(end as i64),
                };
                let effects = leader.on_follower_fetch(&fetch, &image, NOW).expect("it was checked");
                self.take(to, effects, scope)?;
            }
        }
        self.brokers[at].answer = Some(answer);
        Ok(())
    }

    fn deliver(&mut self, to: usize, again: bool) -> Result<(), String> {
        self.used.duplicates += u8::from(again);
        let broker = &mut self.brokers[to];
        let answer = if again { broker.answer.clone() } else { broker.answer.take() };
        let Some(answer) = answer else { return Ok(()) };
        let view = broker.image.partition(self.topic, PARTITION).cloned().unwrap_or_default();
        let is_current = broker.epoch == answer.incarnation
            && view.leader != id(to)
            && view.leader_epoch.0 == answer.leader_epoch
            && broker.log.len() == answer.fetch_offset
            && broker.last_epoch() == answer.last_epoch;
        if !is_current {
            return Ok(());
        }
        if let Some((epoch, end)) = answer.diverging {
            let own = broker.epoch_end(epoch);
            let leader = EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) };
            let end = follower::truncation(leader, own, Offset(broker.log.len() as i64)).0 as usize;
            let agreed = broker.log.iter().zip(&self.committed).take_while(|(a, b)| a == b).count();
            if end < agreed && !self.is_lost {
                return Err(format!("rule 4: broker {} truncates what is committed", id(to)));
            }
            broker.truncate(end);
            return Ok(());
        }
        answer.records.into_iter().for_each(|record| broker.append(record));
        let mark = follower::high_watermark(
            Offset(broker.high_watermark as i64),
            Offset(answer.high_watermark as i64),
            Offset(broker.log.len() as i64),
        );
        broker.high_watermark = mark.0 as usize;
        Ok(())
    }

    fn decide_isr(&mut self, position: usize, is_heard: bool, again: bool, scope: Scope) -> Result<(), String> {
        self.used.duplicates += u8::from(again);
        let (at, epoch, proposal) =
            if again { self.proposals[position].clone() } else { self.proposals.remove(position) };
        let request = AlterPartition {
            broker_id: id(at),
            broker_epoch: BrokerEpoch(epoch),
            partitions: vec![IsrChange {
                topic_id: self.topic,
                partition: PARTITION,
                leader_epoch: proposal.leader_epoch,
                new_isr: proposal.isr.iter().map(|member| (member.broker, member.epoch)).collect(),
                leader_recovery_state: LeaderRecoveryState::Recovered,
                partition_epoch: proposal.partition_epoch,
            }],
        };
        let answer = decide(&mut self.image, scope, |decider, context| decider.alter_partition(context, &request));
        if again {
            return Ok(());
        }
        let result = match answer {
            Ok(results) => results.into_iter().next().expect("one partition").result.map(|state| IsrCommitted {
                leader_epoch: state.leader_epoch,
                partition_epoch: state.partition_epoch,
                isr: state.isr,
            }),
            Err(error) => Err(error.code),
        };
        let result = if is_heard { result } else { Err(ErrorCode::NetworkException) };
        self.answer_proposal(at, epoch, &proposal, result, scope)
    }

    fn answer_proposal(
        &mut self,
        at: usize,
        epoch: i64,
        proposal: &IsrProposal,
        result: Result<IsrCommitted, ErrorCode>,
        scope: Scope,
    ) -> Result<(), String> {
        let broker = &mut self.brokers[at];
        let image = broker.image.clone();
        let Some(leader) = broker.leader.as_mut().filter(|_| broker.epoch == epoch) else { return Ok(()) };
        let outcome = leader.on_alter_partition(proposal, result.as_ref().map_err(|error| *error), &image, NOW);
        if outcome.retry && self.used.proposals < scope.proposals {
            self.used.proposals += 1;
            self.proposals.push((at, epoch, proposal.clone()));
        }
        self.take(at, outcome.effects, scope)
    }

    fn check(&self) -> Result<(), String> {
        let mut epochs = HashSet::new();
        for (at, broker) in self.brokers.iter().enumerate() {
            if let Some(leader) = &broker.leader
                && !epochs.insert(leader.leader_epoch())
            {
                return Err(format!("rule 4: two brokers lead in epoch {}", leader.leader_epoch()));
            }
            let below = broker.log.get(..broker.high_watermark).ok_or("rule 3: the mark is beyond the log")?;
            if !self.committed.starts_with(below) && !self.is_lost {
                return Err(format!("rule 2: broker {} differs below its high watermark", id(at)));
            }
        }
        Ok(())
    }

    /// What makes two states the same. Offsets of the metadata only count decisions, so they are left out.
    fn describe(&self, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{:?}{:?}{}", self.used, self.committed, self.is_lost)?;
        describe_image(&self.image, self.topic, out)?;
        for broker in &self.brokers {
            let Broker { is_up, lost_power, incarnation, epoch, log, epochs, high_watermark, .. } = broker;
            write!(out, "{is_up}{lost_power}{incarnation} {epoch}{log:?}{epochs:?}{high_watermark}")?;
            write!(out, "{:?}{:?}", broker.answer, broker.leader)?;
            describe_image(&broker.image, self.topic, out)?;
        }
        write!(out, "{:?}", self.proposals)
    }
}

fn describe_image(image: &Image, topic: TopicId, out: &mut dyn Write) -> fmt::Result {
    if let Some(partition) = image.partition(topic, PARTITION) {
        write!(out, "{partition:?}")?;
    }
    image.brokers().try_for_each(|broker| write!(out, "{} {}{}", broker.id.0, broker.epoch.0, broker.fenced))
}

/// A state with how much of everything there is, for the search.
#[derive(Clone)]
struct InScope {
    scope: Scope,
    state: State,
    seen: Rc<Seen>,
}

/// What came of all steps that were tried.
#[derive(Default)]
struct Seen {
    elections: Cell<usize>,
    truncations: Cell<usize>,
}

impl Model for InScope {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        self.state.steps(self.scope)
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let epoch = |state: &State| state.partition().map(|partition| partition.leader_epoch);
        let ends =
            |state: &State| state.brokers.iter().map(|broker| (broker.is_up, broker.log.len())).collect::<Vec<_>>();
        let before = (epoch(&self.state), ends(&self.state));
        self.state.step(step, self.scope)?;
        let after = (epoch(&self.state), ends(&self.state));
        let is_truncated =
            |((was_up, before), (is_up, now)): (&(bool, usize), &(bool, usize))| *was_up && *is_up && now < before;
        let count = |cell: &Cell<usize>, is_so: bool| cell.set(cell.get() + usize::from(is_so));
        count(&self.seen.elections, before.0 != after.0);
        count(&self.seen.truncations, before.1.iter().zip(&after.1).any(is_truncated));
        Ok(())
    }

    /// The rules are checked after each step; what is under way may stay so.
    fn settle(self) -> Result<(), String> {
        Ok(())
    }

    fn describe(&self, out: &mut dyn Write) -> fmt::Result {
        self.state.describe(out)
    }
}

/// Whether all states within the scope were seen.
fn check(name: &str, scope: Scope) -> bool {
    let seen = Rc::new(Seen::default());
    let start = InScope { scope, state: State::new(scope), seen: seen.clone() };
    let searched = odradek_models::check(name, start, scope.states_max);
    println!("{name}: {} with an election, {} with a truncation", seen.elections.get(), seen.truncations.get());
    assert!(seen.elections.get() > 0, "nothing was tried");
    searched.is_complete
}

/// Nothing of anything, to be added to.
const NONE: Scope = Scope {
    replicas: 3,
    min_insync_replicas: 2,
    records: 1,
    crashes: 0,
    power_cuts: 0,
    suspicions: 0,
    proposals: 1,
    duplicates: 0,
    states_max: 8_000,
};

/// Some thousands of states, all of which are seen.
const TWO: Scope = Scope { replicas: 2, states_max: 100_000, ..NONE };

/// With `ODRADEK_LONG`, all of it at once, as far as a few minutes reach.
fn large(scope: Scope) -> Scope {
    let large = Scope { records: 2, suspicions: 2, crashes: 2, proposals: 2, duplicates: 1, ..scope };
    Scope { states_max: 1_500_000, ..large }
}

#[test]
fn no_order_breaks_a_rule_when_one_of_two_replicas_loses_its_power() {
    for min_insync_replicas in [1, 2] {
        let scope = Scope { min_insync_replicas, crashes: 1, power_cuts: 1, ..TWO };
        let is_complete = check(&format!("a power cut, {min_insync_replicas} of two"), scope);
        assert!(is_complete, "the scope is larger than was thought");
    }
}

#[test]
fn no_order_breaks_a_rule_when_one_of_two_replicas_is_fenced_and_messages_come_twice() {
    let scope = Scope { min_insync_replicas: 1, suspicions: 1, duplicates: 1, ..TWO };
    assert!(check("a fenced leader, of two", scope), "the scope is larger than was thought");
}

#[test]
fn no_short_order_breaks_a_rule_when_one_of_three_replicas_loses_its_power() {
    let scope = Scope { crashes: 1, power_cuts: 1, ..NONE };
    check("a power cut, of three", if is_long() { large(scope) } else { scope });
}

#[test]
fn no_short_order_breaks_a_rule_when_the_living_leader_of_three_is_fenced() {
    let scope = Scope { suspicions: 1, ..NONE };
    check("a fenced leader, of three", if is_long() { large(scope) } else { scope });
}

#[test]
fn no_short_order_breaks_a_rule_when_one_of_three_replicas_is_enough() {
    let scope = Scope { min_insync_replicas: 1, crashes: 1, ..NONE };
    check("one in-sync replica, of three", if is_long() { large(scope) } else { scope });
}
