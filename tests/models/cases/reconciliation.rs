//! A consumer group of the newer protocol (KIP-848): its coordinator, which is the real one (`GroupShard` in its `Runtime`), and
//! members as clients are.
//!
//! What may go wrong: heartbeats whose answers nobody hears, members that leave, that are silent for too long, that die and come
//! again under another id, coordinators that die, and topics that grow.
//!
//! 1. No partition is with two members that the group knows, at any time: with whoever was given it, until that has given it up.
//! 2. What the coordinator believes of its members agrees with that: no partition is assigned to two of them.
//! 3. When all is quiet, each partition is with one member, and the group is stable.
//! 4. Of two members that have had a partition, only the one that has it may commit to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordinator::{Append, CoordinatorLog, Runtime, RuntimeConfig, Ticket};
use odradek_broker_core::group::consumer::{Assignor, Bounded, ConsumerConfig, MigrationPolicy};
use odradek_broker_core::group::{GroupClient, GroupConfig, GroupRequest, GroupResponse, GroupShard};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{ErrorCode, Offset, TopicId, Uuid};
use odradek_metadata::Image;
use odradek_metadata::proto::{self, record::Kind};
use odradek_models::{Model, check, is_long};
use odradek_records::Compression;
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, OffsetCommitRequest};

const GROUP: &str = "g";
const TOPIC_NAME: &str = "t";
const TOPIC: TopicId = Uuid([1; 16]);
const RECORDS_BYTES_MAX: usize = 1 << 20;
const SESSION_MS: u64 = 45_000;
const REBALANCE_MS: i32 = 30_000;

/// Members live at times that are far from each other, so that one of them can be silent for too long alone.
fn time(member: usize, after_ms: u64) -> Now {
    let ms = 1_000_000 * (member as u64 + 1) + after_ms;
    Now { instant: Instant::default() + Duration::from_millis(ms), wall: Timestamp(1_000_000) }
}

#[derive(Clone, Copy, Debug)]
struct Scope {
    members: usize,
    partitions: i32,
    unheard: u8,
    leaves: u8,
    /// Members that die and come again.
    deaths: u8,
    /// Members that are silent for too long and live on.
    silences: u8,
    /// Members that take too long to give something up.
    slow: u8,
    coordinators_lost: u8,
    growths: u8,
    states_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    unheard: u8,
    leaves: u8,
    deaths: u8,
    silences: u8,
    slow: u8,
    coordinators_lost: u8,
    growths: u8,
}

#[derive(Clone, Debug, Default)]
struct Log {
    batches: Vec<Bytes>,
    end: i64,
}

impl CoordinatorLog for Log {
    fn append(&mut self, append: Append) -> Result<Offset, ErrorCode> {
        let first = self.end;
        let mut batch = append.batch.to_vec();
        batch[..8].copy_from_slice(&first.to_be_bytes());
        self.batches.push(batch.into());
        self.end += append.records as i64;
        Ok(Offset(first))
    }
}

/// As a client: it has what it was told to have when it has taken that up, and gives all up when it is fenced.
#[derive(Clone, Debug)]
struct Member {
    /// It comes again under another id when it has died.
    life: u8,
    /// 0: it is to join.
    epoch: i32,
    owned: BTreeSet<i32>,
    told: Option<BTreeSet<i32>>,
    /// An answer was lost: it says all again, so that it is told all again.
    has_missed: bool,
    has_left: bool,
}

#[derive(Clone, Debug)]
struct World {
    scope: Scope,
    used: Used,
    image: Image,
    partitions: i32,
    coordinator: Runtime<GroupShard>,
    log: Log,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Beat {
        member: usize,
        is_heard: bool,
    },
    /// It does what it was told.
    TakeUp(usize),
    Leave(usize),
    Die(usize),
    /// Its session ends, and those of the members before it if they are silent, too.
    Expire(usize),
    /// Its time to give partitions up is over.
    Overrun(usize),
    LoseCoordinator,
    Grow,
}

fn coordinator(image: &Image) -> Runtime<GroupShard> {
    let session_ms = SESSION_MS as i32;
    let config = GroupConfig {
        initial_rebalance_delay_ms: 0,
        session_timeout_min_ms: 1_000,
        session_timeout_max_ms: 60_000,
        size_max: 10,
        metadata_max: 100,
        retention_ms: i64::MAX / 2,
        retention_check_interval: Duration::from_secs(1 << 30),
        journal_entries_max: 10,
        journal_bytes_max: 10_000,
        consumer: ConsumerConfig {
            assignors: Assignor::ALL.to_vec(),
            session_timeout: Bounded { value_ms: session_ms, min_ms: 40_000, max_ms: 60_000 },
            heartbeat_interval: Bounded { value_ms: 5_000, min_ms: 5_000, max_ms: 15_000 },
            assignment_interval: Bounded { value_ms: 0, min_ms: 0, max_ms: 15_000 },
            size_max: 10,
            migration: MigrationPolicy::Disabled,
            regex_refresh_interval_ms: 600_000,
        },
    };
    let runtime = RuntimeConfig {
        write_timeout: Duration::from_secs(1 << 30),
        batch_bytes_max: 1 << 20,
        compression: Compression::default(),
    };
    Runtime::new(GroupShard::new(Arc::new(config), 1_000_000, Arc::new(image.clone())), runtime)
}

impl World {
    fn new(scope: Scope) -> Self {
        let mut image = Image::new();
        let topic = Kind::Topic(proto::TopicRecord { name: TOPIC_NAME.to_owned(), topic_id: TOPIC.0.to_vec() });
        apply(&mut image, vec![topic]);
        let member =
            Member { life: 0, epoch: 0, owned: BTreeSet::new(), told: None, has_missed: false, has_left: false };
        let mut world = Self {
            scope,
            used: Used::default(),
            coordinator: coordinator(&image),
            image,
            partitions: 0,
            log: Log::default(),
            members: vec![member; scope.members],
        };
        world.load();
        for _ in 0..scope.partitions {
            world.grow();
        }
        world
    }

    fn load(&mut self) {
        self.coordinator = coordinator(&self.image);
        for batch in self.log.batches.clone() {
            self.coordinator.load(batch, RECORDS_BYTES_MAX).expect("a good log");
        }
        let end = Offset(self.log.end);
        self.coordinator.loaded(end, end, time(0, 0), &mut SplitMix64::new(1), &mut self.log);
        self.commit(time(0, 0));
    }

    fn commit(&mut self, now: Now) -> Vec<(Ticket, Result<GroupResponse, ErrorCode>)> {
        self.coordinator.take_notes();
        let end = Offset(self.log.end);
        self.coordinator.on_high_watermark(end, now, &mut SplitMix64::new(1), &mut self.log)
    }

    fn request(&mut self, now: Now, request: GroupRequest) -> Result<GroupResponse, ErrorCode> {
        let ticket = Ticket(0);
        let mut done = self.coordinator.request(ticket, request, now, &mut SplitMix64::new(1), &mut self.log);
        done.extend(self.commit(now));
        let (_, answer) = done.into_iter().next().expect("what is committed is answered");
        answer
    }

    fn pass(&mut self, now: Now) {
        self.coordinator.on_time(now, &mut SplitMix64::new(1), &mut self.log);
        self.commit(now);
    }

    fn grow(&mut self) {
        let record = Kind::Partition(proto::PartitionRecord {
            topic_id: TOPIC.0.to_vec(),
            partition: self.partitions,
            replicas: vec![1],
            isr: vec![1],
            leader: 1,
            ..Default::default()
        });
        self.partitions += 1;
        apply(&mut self.image, vec![record]);
        let names = Arc::new(BTreeSet::<Arc<str>>::from([TOPIC_NAME.into()]));
        let changed = GroupRequest::TopicsChanged { image: Arc::new(self.image.clone()), names, has_new: false };
        let _ = self.request(time(0, 0), changed);
    }

    fn id(&self, member: usize) -> String {
        format!("m{member}.{}", self.members[member].life)
    }

    fn is_known(&self, member: usize) -> bool {
        let group = self.coordinator.shard().consumer_group(GROUP);
        group.is_some_and(|group| group.member(&self.id(member)).is_some())
    }

    fn heartbeat(&mut self, at: usize, leaves: bool) -> ConsumerGroupHeartbeatResponse {
        let member = &self.members[at];
        let tells_all = member.epoch == 0 || member.has_missed;
        let owned = match member.owned.is_empty() {
            true => Vec::new(),
            false => {
                let partitions = member.owned.iter().copied().collect();
                vec![TopicPartitions { topic_id: TOPIC, partitions, ..Default::default() }]
            }
        };
        let request = ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: self.id(at).as_str().into(),
            member_epoch: if leaves { -1 } else { member.epoch },
            rebalance_timeout_ms: if tells_all { REBALANCE_MS } else { -1 },
            subscribed_topic_names: tells_all.then(|| vec![TOPIC_NAME.into()]),
            // While it is about to take something up, what it has says nothing of that.
            topic_partitions: (tells_all || member.told.is_none()).then_some(owned),
            ..Default::default()
        };
        let image = Arc::new(self.image.clone());
        match self.request(time(at, 0), GroupRequest::ConsumerHeartbeat(client(), image, request)) {
            Ok(GroupResponse::ConsumerHeartbeat(response)) => response,
            other => unreachable!("{other:?}"),
        }
    }

    fn beat(&mut self, at: usize, is_heard: bool) -> Result<(), String> {
        let response = self.heartbeat(at, false);
        let member = &mut self.members[at];
        member.has_missed = !is_heard;
        if !is_heard {
            // What it was told before may not be true any more.
            member.told = None;
            return Ok(());
        }
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::None => {
                member.epoch = response.member_epoch;
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.into_iter();
                    let told = topics.flat_map(|topic| topic.partitions).collect();
                    member.told = (told != member.owned).then_some(told);
                }
                Ok(())
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => {
                member.forget();
                Ok(())
            }
            other => Err(format!("a heartbeat is refused: {other}")),
        }
    }

    /// Whether the member may commit to a partition.
    fn may_commit(&self, at: usize, partition: i32) -> bool {
        // A question, not an event.
        let mut world = self.clone();
        let partition = OffsetCommitRequestPartition { partition_index: partition, ..Default::default() };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: self.members[at].epoch,
            member_id: self.id(at).as_str().into(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC_NAME.into(),
                topic_id: TOPIC,
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        match world.request(time(at, 0), GroupRequest::Commit(client(), request)) {
            Ok(GroupResponse::Commit(response)) => response.topics[0].partitions[0].error_code == 0,
            Err(_) => false,
            other => unreachable!("{other:?}"),
        }
    }

    fn act(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Beat { member, is_heard } => {
                self.used.unheard += u8::from(!is_heard);
                self.beat(member, is_heard)?;
            }
            Step::TakeUp(at) => {
                let member = &mut self.members[at];
                if let Some(told) = member.told.take() {
                    member.owned = told;
                }
            }
            Step::Leave(at) => {
                self.used.leaves += 1;
                self.heartbeat(at, true);
                self.members[at].forget();
                self.members[at].has_left = true;
            }
            Step::Die(at) => {
                self.used.deaths += 1;
                self.members[at].forget();
                self.members[at].life += 1;
            }
            Step::Expire(at) => {
                self.used.silences += 1;
                self.pass(time(at, SESSION_MS + 1));
            }
            Step::Overrun(at) => {
                self.used.slow += 1;
                self.pass(time(at, REBALANCE_MS as u64 + 1));
            }
            Step::LoseCoordinator => {
                self.used.coordinators_lost += 1;
                self.load();
            }
            Step::Grow => {
                self.used.growths += 1;
                self.grow();
            }
        }
        self.check()
    }

    // ---- rules ----

    fn check(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (partition, at) in self.owners() {
            if let Some(other) = owners.insert(partition, at) {
                return Err(format!("rule 1: partition {partition} is with members {other} and {at}"));
            }
        }
        let Some(group) = self.coordinator.shard().consumer_group(GROUP) else { return Ok(()) };
        let mut held = BTreeMap::new();
        for member in group.members() {
            for (_, partition) in member.current.held() {
                if let Some(other) = held.insert(partition, &member.id) {
                    return Err(format!("rule 2: partition {partition} is assigned to {other} and {}", member.id));
                }
            }
        }
        Ok(())
    }

    /// In the newest epoch a member may commit to all, as with Kafka; in an older one to what it was given by then.
    fn check_commits(&self) -> Result<(), String> {
        for (at, member) in self.members.iter().enumerate() {
            let is_older = member.epoch > 0 && self.epoch_of(at) != Some(member.epoch);
            for (partition, _) in self.owners().into_iter().filter(|(_, owner)| is_older && *owner != at) {
                if self.may_commit(at, partition) {
                    return Err(format!("rule 4: member {at} may commit to partition {partition}"));
                }
            }
        }
        Ok(())
    }

    fn owners(&self) -> Vec<(i32, usize)> {
        let known = self.members.iter().enumerate().filter(|(at, _)| self.is_known(*at));
        known.flat_map(|(at, member)| member.owned.iter().map(move |partition| (*partition, at))).collect()
    }

    fn epoch_of(&self, at: usize) -> Option<i32> {
        let group = self.coordinator.shard().consumer_group(GROUP)?;
        group.member(&self.id(at)).map(|member| member.current.epoch)
    }

    fn check_quiet(&self) -> Result<(), String> {
        let live: Vec<&Member> = self.members.iter().filter(|member| !member.has_left).collect();
        if live.is_empty() {
            return Ok(());
        }
        for partition in 0..self.partitions {
            let owners = live.iter().filter(|member| member.owned.contains(&partition)).count();
            if owners != 1 {
                return Err(format!("rule 3: partition {partition} is with {owners} members"));
            }
        }
        let state = self.coordinator.shard().consumer_group(GROUP).map(|group| group.state().name());
        if state != Some("Stable") {
            return Err(format!("rule 3: the group is {state:?}"));
        }
        Ok(())
    }
}

impl Member {
    fn forget(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        (self.told, self.has_missed) = (None, false);
    }
}

fn client() -> GroupClient {
    GroupClient { client_id: "app".into(), host: "/127.0.0.1".into(), api_version: 10 }
}

fn apply(image: &mut Image, kinds: Vec<Kind>) {
    let records: Vec<_> = kinds.into_iter().map(|kind| proto::Record { kind: Some(kind) }).collect();
    let offset = image.offset() + 1;
    image.apply_records(&records, offset).expect("good records");
}

impl Model for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let Self { scope, used, .. } = self;
        let mut steps = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            if !member.has_left {
                steps.push(Step::Beat { member: at, is_heard: true });
                if used.unheard < scope.unheard {
                    steps.push(Step::Beat { member: at, is_heard: false });
                }
                if member.told.is_some() {
                    steps.push(Step::TakeUp(at));
                }
                if used.leaves < scope.leaves && member.epoch > 0 {
                    steps.push(Step::Leave(at));
                }
                if used.deaths < scope.deaths && member.epoch > 0 {
                    steps.push(Step::Die(at));
                }
            }
            if used.silences < scope.silences && self.is_known(at) {
                steps.push(Step::Expire(at));
            }
            if used.slow < scope.slow && self.is_known(at) {
                steps.push(Step::Overrun(at));
            }
        }
        if used.coordinators_lost < scope.coordinators_lost {
            steps.push(Step::LoseCoordinator);
        }
        if used.growths < scope.growths {
            steps.push(Step::Grow);
        }
        steps
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        self.act(step)?;
        self.check_commits()
    }

    /// Whoever has died is found out by its silence; the others do what they are told.
    fn settle(mut self) -> Result<(), String> {
        let count = self.members.len();
        self.act(Step::Expire(count))?;
        for _ in 0..6 {
            for member in (0..count).filter(|at| !self.members[*at].has_left).collect::<Vec<_>>() {
                self.act(Step::Beat { member, is_heard: true })?;
                self.act(Step::TakeUp(member))?;
            }
        }
        self.check_quiet()
    }

    fn describe(&self, out: &mut dyn Write) -> fmt::Result {
        let group = self.coordinator.shard().consumer_group(GROUP);
        write!(out, "{:?}{}{:?}{group:?}", self.used, self.partitions, self.members)
    }
}

const QUIET: Scope = Scope {
    members: 2,
    partitions: 2,
    unheard: 0,
    leaves: 0,
    deaths: 0,
    silences: 0,
    slow: 0,
    coordinators_lost: 0,
    growths: 0,
    states_max: 6_000,
};

fn holds(name: &str, scope: Scope) {
    let scope = if is_long() { Scope { states_max: 50_000, ..scope } } else { scope };
    check(name, World::new(scope), scope.states_max);
}

#[test]
fn heartbeats_that_nobody_hears_give_no_partition_to_two() {
    holds("unheard heartbeats", Scope { unheard: 2, ..QUIET });
    holds("unheard heartbeats, three members", Scope { members: 3, unheard: 1, ..QUIET });
}

#[test]
fn members_that_leave_and_die_give_no_partition_to_two() {
    holds("leaves and deaths", Scope { leaves: 1, deaths: 1, unheard: 1, ..QUIET });
}

#[test]
fn members_that_are_fenced_give_no_partition_to_two() {
    holds("silence", Scope { silences: 2, unheard: 1, ..QUIET });
    holds("slow revocation", Scope { slow: 1, unheard: 1, ..QUIET });
}

#[test]
fn coordinators_that_die_and_topics_that_grow_give_no_partition_to_two() {
    holds("lost coordinators", Scope { coordinators_lost: 1, unheard: 1, ..QUIET });
    holds("a growing topic", Scope { growths: 1, unheard: 1, members: 3, ..QUIET });
}
