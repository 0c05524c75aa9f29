//! Groups over a log in memory: scripts of requests and time, and what a new leader would know.

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{LeaderEpoch, ProducerEpoch, Uuid};
use odradek_records::{Compression, EndTxnMarker, RecordBatchBuilder};
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use odradek_wire::offset_fetch_request::OffsetFetchRequestTopics;
use odradek_wire::sync_group_request::SyncGroupRequestAssignment;
use odradek_wire::{ConsumerProtocolSubscription, encode_versioned};

use super::*;
use crate::coordinator::memory_log::MemoryLog;
use crate::coordinator::{Runtime, RuntimeConfig, TransactionEnd};

mod consumer;
mod expiry;
mod transactions;

type Answer = Result<GroupResponse, ErrorCode>;

/// A coordinator on one replica: what is appended is committed at once, unless `holds`.
struct Bench {
    runtime: Runtime<GroupShard>,
    log: MemoryLog,
    rng: SplitMix64,
    now: Now,
    next: u64,
    answers: BTreeMap<u64, Answer>,
    holds: bool,
    config: Arc<GroupConfig>,
}

fn config() -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        session_timeout_min_ms: 1_000,
        session_timeout_max_ms: 60_000,
        size_max: 100,
        metadata_max: 10,
        retention_ms: 1_000_000,
        journal_entries_max: 32,
        journal_bytes_max: 16_384,
        retention_check_interval: Duration::from_secs(600),
        consumer: consumer::config(),
    }
}

impl Bench {
    fn new(config: GroupConfig) -> Self {
        Self::over(config, Vec::new(), Now { instant: Instant::default(), wall: Timestamp(1_000_000) })
    }

    /// A new leader of this log.
    fn over(config: GroupConfig, batches: Vec<Bytes>, now: Now) -> Self {
        let config = Arc::new(config);
        let runtime_config = RuntimeConfig {
            write_timeout: Duration::from_secs(5),
            batch_bytes_max: 1 << 20,
            compression: Compression::default(),
        };
        let mut runtime = Runtime::new(GroupShard::new(config.clone(), now.wall.0, Arc::default()), runtime_config);
        for batch in &batches {
            runtime.load(batch.clone(), 1 << 24).expect("a good log");
        }
        let end = runtime.written();
        let mut bench = Self {
            runtime,
            log: MemoryLog { batches, end: end.0, ..MemoryLog::default() },
            rng: SplitMix64::new(7),
            now,
            next: 0,
            answers: BTreeMap::new(),
            holds: false,
            config,
        };
        let done = bench.runtime.loaded(end, end, bench.now, &mut bench.rng, &mut bench.log);
        bench.take(done);
        bench
    }

    fn failover(&self) -> Self {
        Self::over((*self.config).clone(), self.log.batches.clone(), self.now)
    }

    fn take(&mut self, done: Vec<(Ticket, Answer)>) {
        for (ticket, answer) in done {
            assert!(self.answers.insert(ticket.0, answer).is_none(), "{ticket:?} is answered twice");
        }
        if !self.holds && self.log.end > 0 {
            let end = Offset(self.log.end);
            let done = self.runtime.on_high_watermark(end, self.now, &mut self.rng, &mut self.log);
            if !done.is_empty() {
                self.take(done);
            }
        }
    }

    fn send(&mut self, request: GroupRequest) -> u64 {
        let ticket = self.next;
        self.next += 1;
        let done = self.runtime.request(Ticket(ticket), request, self.now, &mut self.rng, &mut self.log);
        self.take(done);
        ticket
    }

    fn ask(&mut self, request: GroupRequest) -> Answer {
        let ticket = self.send(request);
        self.answer(ticket).expect("an answer at once")
    }

    fn answer(&mut self, ticket: u64) -> Option<Answer> {
        self.answers.remove(&ticket)
    }

    /// Lets time pass, firing what is due on the way.
    fn pass(&mut self, ms: u64) {
        let end = self.now.instant + Duration::from_millis(ms);
        while let Some(deadline) = self.runtime.next_deadline().filter(|deadline| *deadline <= end) {
            self.set_time(deadline.max(self.now.instant));
            let done = self.runtime.on_time(self.now, &mut self.rng, &mut self.log);
            self.take(done);
        }
        self.set_time(end);
    }

    /// Lets time pass until there is an answer, and not longer: sessions begin then.
    fn pass_until(&mut self, ticket: u64) {
        let limit = self.now.instant + Duration::from_secs(30);
        while !self.answers.contains_key(&ticket) {
            assert!(self.now.instant < limit, "no answer");
            self.pass(500);
        }
    }

    fn set_time(&mut self, to: Instant) {
        let passed = to.saturating_since(self.now.instant).as_millis() as i64;
        self.now = Now { instant: to, wall: Timestamp(self.now.wall.0 + passed) };
    }

    // ---- members ----

    fn join(&mut self, member: &str, instance: Option<&str>) -> u64 {
        self.join_with(member, instance, &[("range", &["t"])], 9)
    }

    fn join_with(&mut self, member: &str, instance: Option<&str>, offers: &[(&str, &[&str])], version: i16) -> u64 {
        let protocols = offers.iter().map(|(name, topics)| JoinGroupRequestProtocol {
            name: Str::from(*name),
            metadata: subscription(topics),
            ..Default::default()
        });
        let request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            member_id: member.into(),
            group_instance_id: instance.map(Str::from),
            protocol_type: "consumer".into(),
            protocols: protocols.collect(),
            ..Default::default()
        };
        let client = GroupClient { client_id: "app".into(), host: "/127.0.0.1".into(), api_version: version };
        self.send(GroupRequest::Join(client, request))
    }

    /// Gets an id and joins with it.
    fn join_new(&mut self) -> (String, u64) {
        let ticket = self.join("", None);
        let (error, response) = joined(self.answer(ticket));
        assert_eq!(error, ErrorCode::MemberIdRequired);
        let id = response.member_id.to_string();
        let ticket = self.join(&id, None);
        (id, ticket)
    }

    fn sync(&mut self, member: &str, generation: i32, assignments: &[(&str, &str)]) -> u64 {
        let assignments = assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: Str::from(*member),
            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
            ..Default::default()
        });
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect(),
            ..Default::default()
        };
        self.send(GroupRequest::Sync(request))
    }

    fn beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        self.beat_as(member, None, generation)
    }

    fn beat_as(&mut self, member: &str, instance: Option<&str>, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.into(),
            group_instance_id: instance.map(Str::from),
            ..Default::default()
        };
        match self.ask(GroupRequest::Heartbeat(request)) {
            Ok(GroupResponse::Heartbeat(response)) => ErrorCode::from_code(response.error_code),
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let members = members.iter().map(|(member, instance)| MemberIdentity {
            member_id: Str::from(*member),
            group_instance_id: instance.map(Str::from),
            ..Default::default()
        });
        let request = LeaveGroupRequest { group_id: "g".into(), members: members.collect(), ..Default::default() };
        match self.ask(GroupRequest::Leave(request)) {
            Ok(GroupResponse::Leave(response)) => {
                response.members.iter().map(|member| ErrorCode::from_code(member.error_code)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of `count` members: their ids, the leader first.
    fn stable(&mut self, count: usize) -> Vec<String> {
        let joins: Vec<_> = (0..count).map(|_| self.join_new()).collect();
        self.pass_until(joins[0].1);
        let leader = joined(self.answer(joins[0].1)).1.leader.to_string();
        let mut ids: Vec<_> = joins.into_iter().map(|(id, _)| id).collect();
        ids.sort_by_key(|id| *id != leader);
        let generation = self.group().generation;
        self.assign(&ids, generation);
        ids
    }

    fn assign(&mut self, ids: &[String], generation: i32) {
        let parts: Vec<_> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        let syncs: Vec<_> = (ids.iter().enumerate())
            .rev()
            .map(|(n, id)| (id.clone(), self.sync(id, generation, if n == 0 { &parts } else { &[] })))
            .collect();
        for (id, ticket) in syncs {
            let (error, assignment) = synced(self.answer(ticket));
            assert_eq!((error, assignment), (ErrorCode::None, id));
        }
        assert_eq!(self.group().state(), State::Stable);
    }

    fn group(&self) -> &ClassicGroup {
        self.runtime.shard().group("g").expect("the group is there")
    }

    // ---- offsets ----

    fn commit(&mut self, member: &str, generation: i32, offset: i64) -> Result<ErrorCode, ErrorCode> {
        let ticket = self.send(commit_request("g", member, generation, &[("t", 0, offset)]));
        match self.answer(ticket).expect("an answer at once") {
            Ok(GroupResponse::Commit(response)) => {
                Ok(ErrorCode::from_code(response.topics[0].partitions[0].error_code))
            }
            Err(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn committed(&self) -> i64 {
        let GroupResponse::Fetch(fetched) = self.runtime.query(GroupQuery::Fetch(fetch_request("g")), self.now) else {
            panic!("another answer");
        };
        fetched.topics[0].partitions[0].committed_offset
    }

    fn end_transaction(&mut self, producer: ProducerId, is_commit: bool) {
        let marker = EndTxnMarker { is_commit, coordinator_epoch: 1 };
        let ticket = Ticket(u64::MAX);
        let end = TransactionEnd { producer, epoch: ProducerEpoch(0), marker, bumped: false, decision: None };
        let done = self.runtime.end_transaction(ticket, end, GroupResponse::Done, self.now, &mut self.log);
        self.take(done);
        self.answers.remove(&u64::MAX);
    }
}

fn commit_request(group: &str, member: &str, generation: i32, offsets: &[(&str, i32, i64)]) -> GroupRequest {
    let topics = offsets.iter().map(|(topic, partition, offset)| OffsetCommitRequestTopic {
        name: Str::from(*topic),
        partitions: vec![OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_metadata: Some("note".into()),
            ..Default::default()
        }],
        ..Default::default()
    });
    let request = OffsetCommitRequest {
        group_id: group.into(),
        member_id: member.into(),
        generation_id_or_member_epoch: generation,
        topics: topics.collect(),
        ..Default::default()
    };
    GroupRequest::Commit(GroupClient { api_version: 9, ..GroupClient::default() }, request)
}

fn fetch_request(group: &str) -> OffsetFetchRequestGroup {
    OffsetFetchRequestGroup {
        group_id: group.into(),
        topics: Some(vec![OffsetFetchRequestTopics {
            name: "t".into(),
            partition_indexes: vec![0],
            ..Default::default()
        }]),
        ..Default::default()
    }
}

fn subscription(topics: &[&str]) -> Bytes {
    let topics = topics.iter().map(|topic| Str::from(*topic)).collect();
    encode_versioned(&ConsumerProtocolSubscription { topics, ..Default::default() }, 1).expect("encoded")
}

fn joined(answer: Option<Answer>) -> (ErrorCode, JoinGroupResponse) {
    match answer {
        Some(Ok(GroupResponse::Join(response))) => (ErrorCode::from_code(response.error_code), response),
        Some(Err(error)) => (error, JoinGroupResponse::default()),
        other => panic!("{other:?}"),
    }
}

fn synced(answer: Option<Answer>) -> (ErrorCode, String) {
    match answer {
        Some(Ok(GroupResponse::Sync(response))) => {
            (ErrorCode::from_code(response.error_code), String::from_utf8_lossy(&response.assignment).into_owned())
        }
        Some(Err(error)) => (error, String::new()),
        other => panic!("{other:?}"),
    }
}

// ---- rebalances ----

#[test]
fn members_that_join_within_the_delay_are_one_generation() {
    let mut bench = Bench::new(config());
    let (first, first_join) = bench.join_new();
    bench.pass(2_000);
    let (second, second_join) = bench.join_new();
    bench.pass(1_500);
    assert!(bench.answer(first_join).is_none(), "a member has come: the wait grows");
    bench.pass(3_000);
    let (error, leader) = joined(bench.answer(first_join));
    assert_eq!((error, leader.generation_id, leader.members.len()), (ErrorCode::None, 1, 2));
    assert_eq!((leader.leader.as_str(), leader.protocol_name.as_deref()), (first.as_str(), Some("range")));
    let (_, follower) = joined(bench.answer(second_join));
    assert_eq!((follower.members.len(), follower.member_id.as_str()), (0, second.as_str()));
    assert_eq!(bench.group().state(), State::CompletingRebalance);
    bench.assign(&[first, second], 1);
}

#[test]
fn the_first_wait_lasts_no_longer_than_a_rebalance_may() {
    let mut bench = Bench::new(config());
    let (_, first_join) = bench.join_new();
    // Somebody comes all the time: 20 s are the rebalance timeout.
    for _ in 0..9 {
        bench.pass(2_000);
        bench.join_new();
        assert!(bench.answer(first_join).is_none());
    }
    bench.pass(2_500);
    assert_eq!(joined(bench.answer(first_join)).1.members.len(), 10);
}

#[test]
fn an_id_that_was_handed_out_is_waited_for_until_its_session_ends() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(1);
    let pending = bench.join("", None);
    assert_eq!(joined(bench.answer(pending)).0, ErrorCode::MemberIdRequired);
    let again = bench.join(&ids[0], None);
    bench.pass(9_000);
    assert!(bench.answer(again).is_none());
    bench.pass(1_500);
    assert_eq!(joined(bench.answer(again)).1.generation_id, 2);
}

#[test]
fn generations_wrap() {
    let mut bench = Bench::new(config());
    let last = GroupMetadata { protocol_type: "consumer".into(), generation: i32::MAX, ..GroupMetadata::default() };
    let (key, value) = records::encode(&GroupRecord::Group("g".into(), Some(last))).expect("encoded");
    let mut builder = RecordBatchBuilder::new().base_offset(Offset(0)).leader_epoch(LeaderEpoch(0));
    builder.append(Timestamp(1_000_000), Some(&key), value.as_deref());
    bench.log.batches.push(builder.build().expect("small"));
    let mut bench = bench.failover();
    let ids = bench.stable(1);
    assert_eq!(bench.group().generation, i32::MIN);
    assert_eq!(bench.beat(&ids[0], i32::MIN), ErrorCode::None);
    assert_eq!(bench.beat(&ids[0], i32::MAX), ErrorCode::IllegalGeneration);
}

#[test]
fn a_member_that_comes_makes_the_others_join_again() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(2);
    let (third, third_join) = bench.join_new();
    assert_eq!(bench.beat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    let again: Vec<_> = ids.iter().map(|id| bench.join(id, None)).collect();
    assert_eq!(joined(bench.answer(third_join)).1.generation_id, 2, "all are here: no more waiting");
    assert_eq!(joined(bench.answer(again[0])).1.members.len(), 3);
    joined(bench.answer(again[1]));
    assert_eq!(bench.beat(&ids[0], 1), ErrorCode::IllegalGeneration);
    assert_eq!(bench.beat(&ids[0], 2), ErrorCode::None);
    bench.assign(&[ids, vec![third]].concat(), 2);
}

#[test]
fn whoever_does_not_join_again_is_out() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(2);
    let (third, join) = bench.join_new();
    // The follower keeps its session and does not join; the leader is silent.
    for _ in 0..4 {
        bench.pass(4_900);
        assert_eq!(bench.beat(&ids[1], 1), ErrorCode::RebalanceInProgress);
    }
    bench.pass(5_000);
    let (error, response) = joined(bench.answer(join));
    assert_eq!((error, response.leader.as_str()), (ErrorCode::None, third.as_str()), "a new leader");
    assert_eq!(response.members.len(), 1);
    assert_eq!(bench.beat(&ids[1], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_session_ends_without_heartbeats_and_lasts_with_them() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(2);
    for _ in 0..5 {
        bench.pass(6_000);
        if bench.beat(&ids[1], 1) == ErrorCode::RebalanceInProgress {
            let join = bench.join(&ids[1], None);
            assert_eq!(joined(bench.answer(join)).1.members.len(), 1);
            assert_eq!(bench.beat(&ids[0], 1), ErrorCode::UnknownMemberId);
            return;
        }
    }
    panic!("the silent member is still there");
}

#[test]
fn a_member_that_never_asks_for_its_assignment_is_removed() {
    let mut bench = Bench::new(config());
    let (first, join) = bench.join_new();
    let (second, _) = bench.join_new();
    bench.pass_until(join);
    let leader = joined(bench.answer(join)).1.leader.to_string();
    let follower = if leader == first { second } else { first };
    let sync = bench.sync(&follower, 1, &[]);
    for _ in 0..3 {
        bench.pass(6_000);
        assert_eq!(bench.beat(&leader, 1), ErrorCode::None, "it lives, and does not assign");
    }
    bench.pass(3_000);
    assert_eq!(synced(bench.answer(sync)).0, ErrorCode::RebalanceInProgress);
    assert_eq!(bench.beat(&leader, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn the_last_to_leave_leaves_an_empty_group() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(2);
    assert_eq!(bench.leave(&[(&ids[0], None), ("stranger", None)]), [ErrorCode::None, ErrorCode::UnknownMemberId]);
    assert_eq!(bench.beat(&ids[1], 1), ErrorCode::RebalanceInProgress);
    assert_eq!(bench.leave(&[(&ids[1], None)]), [ErrorCode::None]);
    assert_eq!((bench.group().state(), bench.group().generation), (State::Empty, 2));
    assert_eq!(bench.failover().group().state(), State::Empty);
}

#[test]
fn joins_are_refused_for_their_reasons() {
    let mut bench = Bench::new(GroupConfig { size_max: 2, ..config() });
    let ids = bench.stable(2);
    let mut refused = |member: &str, change: &dyn Fn(&mut JoinGroupRequest)| {
        let mut request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            member_id: member.into(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
            ..Default::default()
        };
        change(&mut request);
        let ticket = bench.send(GroupRequest::Join(GroupClient { api_version: 9, ..Default::default() }, request));
        joined(bench.answer(ticket)).0
    };
    assert_eq!(refused("", &|r| r.group_id = "".into()), ErrorCode::InvalidGroupId);
    assert_eq!(refused("", &|r| r.session_timeout_ms = 999), ErrorCode::InvalidSessionTimeout);
    assert_eq!(refused("", &|r| r.session_timeout_ms = 60_001), ErrorCode::InvalidSessionTimeout);
    assert_eq!(refused("x", &|r| r.group_id = "new".into()), ErrorCode::UnknownMemberId);
    assert_eq!(refused("", &|_| ()), ErrorCode::GroupMaxSizeReached);
    assert_eq!(refused(&ids[1], &|r| r.protocol_type = "connect".into()), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(refused(&ids[1], &|r| r.protocols[0].name = "other".into()), ErrorCode::InconsistentGroupProtocol);
    assert_eq!(refused(&ids[1], &|r| r.group_instance_id = Some("i".into())), ErrorCode::UnknownMemberId);
    assert_eq!(
        refused("", &|r| {
            r.group_id = "none".into();
            r.protocols.clear()
        }),
        ErrorCode::InconsistentGroupProtocol
    );
    let sync = bench.sync(&ids[0], 9, &[]);
    assert_eq!(synced(bench.answer(sync)).0, ErrorCode::IllegalGeneration);
    let sync = bench.sync("x", 1, &[]);
    assert_eq!(synced(bench.answer(sync)).0, ErrorCode::UnknownMemberId);
}

#[test]
fn the_protocol_is_what_most_prefer_of_what_all_offer() {
    let mut bench = Bench::new(config());
    let offers: [&[(&str, &[&str])]; 3] = [
        &[("sticky", &[]), ("range", &[])],
        &[("range", &[]), ("roundrobin", &[]), ("sticky", &[])],
        &[("roundrobin", &[]), ("range", &[]), ("sticky", &[])],
    ];
    let joins: Vec<_> = offers.iter().map(|offers| bench.join_with("", None, offers, 3)).collect();
    bench.pass_until(joins[0]);
    let (_, response) = joined(bench.answer(joins[0]));
    assert_eq!(response.protocol_name.as_deref(), Some("range"));
}

#[test]
fn a_waiting_id_is_forgotten_after_its_session_timeout() {
    let mut bench = Bench::new(config());
    let first = bench.join("", None);
    let id = joined(bench.answer(first)).1.member_id.to_string();
    assert!(id.starts_with("app-") && id.len() == "app-".len() + 36, "{id}");
    bench.pass(11_000);
    let late = bench.join(&id, None);
    assert_eq!(joined(bench.answer(late)).0, ErrorCode::UnknownMemberId);
}

// ---- static members ----

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_fences_the_old_one() {
    let mut bench = Bench::new(config());
    let joins = [bench.join("", Some("one")), bench.join("", Some("two"))];
    bench.pass_until(joins[0]);
    let ids = joins.map(|join| joined(bench.answer(join)).1.member_id.to_string());
    let mut ordered = ids.to_vec();
    let leader = bench.group().leader.as_deref().unwrap_or_default().to_owned();
    ordered.sort_by_key(|id| *id != leader);
    bench.assign(&ordered, 1);
    let (instance, old) = if ids[0] == leader { ("one", &ids[0]) } else { ("two", &ids[1]) };

    let back = bench.join("", Some(instance));
    let (error, response) = joined(bench.answer(back));
    let new = response.member_id.to_string();
    assert_eq!((error, response.generation_id, response.skip_assignment), (ErrorCode::None, 1, true));
    assert_eq!((response.leader.as_str(), response.members.len()), (new.as_str(), 2));
    assert_eq!(bench.group().state(), State::Stable);
    let sync = bench.sync(&new, 1, &[]);
    assert_eq!(synced(bench.answer(sync)), (ErrorCode::None, old.clone()), "what its former self had");
    assert_eq!(bench.beat_as(old, Some(instance), 1), ErrorCode::FencedInstanceId);
    assert_eq!(bench.beat_as(&new, Some(instance), 1), ErrorCode::None);

    // So a new leader knows it; an operator removes it by its name.
    let mut other = bench.failover();
    assert_eq!(other.beat_as(&new, Some(instance), 1), ErrorCode::None);
    assert_eq!(
        other.leave(&[("", Some(instance)), ("", Some("three"))]),
        [ErrorCode::None, ErrorCode::UnknownMemberId]
    );
    assert_eq!(other.group().member_count(), 1);
}

#[test]
fn an_old_clients_static_leader_is_not_told_that_it_leads() {
    let mut bench = Bench::new(config());
    let join = bench.join("", Some("one"));
    bench.pass_until(join);
    let id = joined(bench.answer(join)).1.member_id.to_string();
    bench.assign(std::slice::from_ref(&id), 1);
    let back = bench.join_with("", Some("one"), &[("range", &["t"])], 8);
    let (_, response) = joined(bench.answer(back));
    assert_eq!((response.leader.as_str(), response.members.len(), response.skip_assignment), (id.as_str(), 0, false));
}

#[test]
fn a_replacement_that_is_not_stored_is_taken_back() {
    let mut bench = Bench::new(config());
    let join = bench.join("", Some("one"));
    bench.pass_until(join);
    let id = joined(bench.answer(join)).1.member_id.to_string();
    bench.assign(std::slice::from_ref(&id), 1);
    bench.log.refuse = Some(ErrorCode::NotEnoughReplicas);
    let back = bench.join("", Some("one"));
    assert_eq!(joined(bench.answer(back)).0, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(bench.beat_as(&id, Some("one"), 1), ErrorCode::None, "the old one still is the member");
    assert_eq!(bench.group().awaiting_joins(), 0);
}

// ---- failures ----

#[test]
fn an_assignment_that_is_not_stored_is_not_handed_out() {
    let mut bench = Bench::new(config());
    let (id, join) = bench.join_new();
    bench.pass(3_000);
    joined(bench.answer(join));
    bench.log.refuse = Some(ErrorCode::NotLeaderOrFollower);
    let sync = bench.sync(&id, 1, &[(&id, "all")]);
    assert_eq!(synced(bench.answer(sync)), (ErrorCode::NotCoordinator, String::new()));
    assert_eq!(bench.group().state(), State::PreparingRebalance);
    bench.log.refuse = None;
    let join = bench.join(&id, None);
    assert_eq!(joined(bench.answer(join)).1.generation_id, 2);
    bench.assign(&[id], 2);
}

#[test]
fn an_assignment_waits_until_it_is_committed() {
    let mut bench = Bench::new(config());
    let (id, join) = bench.join_new();
    bench.pass(3_000);
    joined(bench.answer(join));
    bench.holds = true;
    let sync = bench.sync(&id, 1, &[(&id, "all")]);
    assert!(bench.answer(sync).is_none());
    assert_eq!(bench.group().state(), State::CompletingRebalance);
    bench.holds = false;
    bench.take(Vec::new());
    assert_eq!(synced(bench.answer(sync)), (ErrorCode::None, "all".to_owned()));
}

#[test]
fn a_group_whose_first_record_fails_is_none() {
    let mut bench = Bench::new(config());
    bench.log.refuse = Some(ErrorCode::NotEnoughReplicas);
    let join = bench.join_with("", None, &[("range", &["t"])], 3);
    assert_eq!(joined(bench.answer(join)).0, ErrorCode::CoordinatorNotAvailable);
    assert!(bench.runtime.shard().group("g").is_none());
}

#[test]
fn members_live_on_under_a_new_leader() {
    let mut bench = Bench::new(config());
    let ids = bench.stable(3);
    let mut other = bench.failover();
    other.pass(9_000);
    for id in &ids {
        assert_eq!(other.beat(id, 1), ErrorCode::None);
    }
    let sync = other.sync(&ids[2], 1, &[]);
    assert_eq!(synced(other.answer(sync)), (ErrorCode::None, ids[2].clone()));
    assert_eq!(other.group().leader.as_deref(), Some(ids[0].as_str()));
    other.pass(30_000);
    assert_eq!(other.group().state(), State::Empty, "silent members are gone after their sessions");
}

#[test]
fn a_group_that_is_too_large_after_a_load_rebalances() {
    let mut bench = Bench::new(config());
    bench.stable(3);
    let smaller = GroupConfig { size_max: 2, ..config() };
    let other = Bench::over(smaller, bench.log.batches.clone(), bench.now);
    assert_eq!(other.group().state(), State::PreparingRebalance);
}

// ---- offsets ----

#[test]
fn commits_are_checked_against_the_group() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.commit("", -1, 5), Ok(ErrorCode::None), "a group that only keeps offsets");
    assert_eq!(bench.committed(), 5);
    let ids = bench.stable(1);
    assert_eq!(bench.commit("", -1, 6), Err(ErrorCode::UnknownMemberId));
    assert_eq!(bench.commit(&ids[0], 2, 6), Err(ErrorCode::IllegalGeneration));
    assert_eq!(bench.commit("stranger", 1, 6), Err(ErrorCode::UnknownMemberId));
    assert_eq!(bench.commit(&ids[0], 1, 6), Ok(ErrorCode::None));
    assert_eq!(bench.committed(), 6);
    let (_, _) = bench.join_new();
    assert_eq!(bench.commit(&ids[0], 1, 7), Ok(ErrorCode::None), "while others join, it may");
    let join = bench.join(&ids[0], None);
    joined(bench.answer(join));
    assert_eq!(bench.commit(&ids[0], 2, 8), Err(ErrorCode::RebalanceInProgress), "before it has its assignment");
    let missing = |version| {
        let GroupRequest::Commit(_, request) = commit_request("none", "m", 1, &[("t", 0, 1)]) else { unreachable!() };
        GroupRequest::Commit(GroupClient { api_version: version, ..Default::default() }, request)
    };
    assert_eq!(bench.ask(missing(9)), Err(ErrorCode::GroupIdNotFound));
    assert_eq!(bench.ask(missing(8)), Err(ErrorCode::IllegalGeneration));
}

#[test]
fn metadata_has_a_limit_in_characters() {
    let mut bench = Bench::new(config());
    for (metadata, expected) in [
        ("1234567890", ErrorCode::None),
        ("12345678901", ErrorCode::OffsetMetadataTooLarge),
        ("ééééééééé", ErrorCode::None),
    ] {
        let GroupRequest::Commit(client, mut request) = commit_request("g", "", -1, &[("t", 0, 1)]) else { continue };
        request.topics[0].partitions[0].committed_metadata = Some(metadata.into());
        let Ok(GroupResponse::Commit(response)) = bench.ask(GroupRequest::Commit(client, request)) else { panic!() };
        assert_eq!(response.topics[0].partitions[0].error_code, expected.code(), "{metadata}");
    }
}

#[test]
fn fetches_see_what_is_committed_and_stable_ones_wait() {
    let mut bench = Bench::new(config());
    bench.commit("", -1, 5).expect("committed");
    bench.holds = true;
    let commit = bench.send(commit_request("g", "", -1, &[("t", 0, 6)]));
    assert_eq!(bench.committed(), 5);
    let stable = bench.send(GroupRequest::FetchStable(fetch_request("g")));
    assert!(bench.answer(commit).is_none() && bench.answer(stable).is_none());
    bench.holds = false;
    bench.take(Vec::new());
    let Some(Ok(GroupResponse::Fetch(fetched))) = bench.answer(stable) else { panic!("no answer") };
    assert_eq!(fetched.topics[0].partitions[0].committed_offset, 6);
    assert_eq!(bench.committed(), 6);
}

#[test]
fn all_offsets_of_a_group_and_of_no_other() {
    let mut bench = Bench::new(config());
    for group in ["g", "g\0", "g2", "f"] {
        bench.ask(commit_request(group, "", -1, &[("t", 1, 1), ("s", 0, 2), ("t", 0, 3)])).expect("committed");
    }
    let all = OffsetFetchRequestGroup { group_id: "g".into(), topics: None, ..Default::default() };
    let GroupResponse::Fetch(fetched) = bench.runtime.query(GroupQuery::Fetch(all), bench.now) else { panic!() };
    let offsets: Vec<_> = (fetched.topics.iter())
        .flat_map(|topic| topic.partitions.iter().map(|p| (topic.name.as_str(), p.partition_index, p.committed_offset)))
        .collect();
    assert_eq!(offsets, [("s", 0, 2), ("t", 0, 3), ("t", 1, 1)]);
}

#[test]
fn an_offset_in_a_deleted_topic_is_not_one_in_its_successor() {
    let mut bench = Bench::new(config());
    let GroupRequest::Commit(client, mut request) = commit_request("g", "", -1, &[("t", 0, 9)]) else { panic!() };
    request.topics[0].topic_id = Uuid([1; 16]);
    bench.ask(GroupRequest::Commit(client, request)).expect("committed");
    let fetch = |id| {
        let mut request = fetch_request("g");
        request.topics.as_mut().expect("named")[0].topic_id = id;
        let GroupResponse::Fetch(fetched) = bench.failover().runtime.query(GroupQuery::Fetch(request), bench.now)
        else {
            panic!("another answer");
        };
        fetched.topics[0].partitions[0].committed_offset
    };
    assert_eq!((fetch(Uuid([1; 16])), fetch(Uuid([2; 16])), fetch(Uuid::ZERO)), (9, -1, 9));
}

#[test]
fn offsets_are_deleted_only_where_nobody_reads() {
    let mut bench = Bench::new(config());
    let delete = |topic: &str| {
        GroupRequest::DeleteOffsets(OffsetDeleteRequest {
            group_id: "g".into(),
            topics: vec![OffsetDeleteRequestTopic {
                name: topic.into(),
                partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
            }],
        })
    };
    let code = |answer: Answer| match answer {
        Ok(GroupResponse::DeleteOffsets(response)) => ErrorCode::from_code(response.topics[0].partitions[0].error_code),
        Err(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(bench.ask(delete("t"))), ErrorCode::GroupIdNotFound);
    bench.ask(commit_request("g", "", -1, &[("t", 0, 1), ("u", 0, 1)])).expect("committed");
    bench.stable(1);
    assert_eq!(code(bench.ask(delete("t"))), ErrorCode::GroupSubscribedToTopic);
    assert_eq!(code(bench.ask(delete("u"))), ErrorCode::None);
    assert!(bench.runtime.shard().committed_offset("g", "u", 0).is_none());
    assert_eq!(bench.committed(), 1);
}

#[test]
fn offsets_of_a_group_without_a_name_are_kept_but_not_taken_back() {
    let mut bench = Bench::new(config());
    bench.ask(commit_request("", "", -1, &[("t", 0, 1)])).expect("committed");
    let Ok(GroupResponse::DeleteOffsets(response)) =
        bench.ask(GroupRequest::DeleteOffsets(OffsetDeleteRequest::default()))
    else {
        panic!("another answer")
    };
    assert_eq!(response.error_code, ErrorCode::InvalidGroupId.code());
    assert!(bench.runtime.shard().committed_offset("", "t", 0).is_some());
}

#[test]
fn groups_are_deleted_with_their_offsets_when_nobody_is_in_them() {
    let mut bench = Bench::new(config());
    bench.commit("", -1, 5).expect("committed");
    let ids = bench.stable(1);
    let codes = |answer: Answer| match answer {
        Ok(GroupResponse::Delete(results)) => {
            results.iter().map(|result| ErrorCode::from_code(result.error_code)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let request = || GroupRequest::Delete(vec!["g".into(), "none".into()]);
    assert_eq!(codes(bench.ask(request())), [ErrorCode::NonEmptyGroup, ErrorCode::GroupIdNotFound]);
    bench.leave(&[(&ids[0], None)]);
    assert_eq!(codes(bench.ask(request())), [ErrorCode::None, ErrorCode::GroupIdNotFound]);
    for bench in [&bench, &bench.failover()] {
        assert_eq!((bench.runtime.shard().group_count(), bench.runtime.shard().offset_count()), (0, 0));
    }
}

#[test]
fn offsets_go_with_their_topic() {
    let mut bench = Bench::new(config());
    bench.ask(commit_request("g", "", -1, &[("t", 0, 1), ("u", 0, 1)])).expect("committed");
    bench.ask(GroupRequest::PartitionsDeleted(vec![("t".into(), 0), ("t".into(), 1)])).expect("done");
    assert!(bench.runtime.shard().committed_offset("g", "t", 0).is_none());
    assert!(bench.runtime.shard().committed_offset("g", "u", 0).is_some());
}

// ---- the view of operators ----

#[test]
fn groups_are_listed_and_described() {
    let mut bench = Bench::new(config());
    bench.ask(commit_request("simple", "", -1, &[("t", 0, 1)])).expect("committed");
    bench.stable(1);
    let list = |states: &[&str], types: &[&str]| {
        let strings = |names: &[&str]| names.iter().map(|name| Str::from(*name)).collect();
        let query = GroupQuery::List { states: strings(states), types: strings(types) };
        let GroupResponse::List(groups) = bench.runtime.query(query, bench.now) else { panic!("another answer") };
        groups.iter().map(|group| format!("{}:{}:{}", group.group_id, group.protocol_type, group.group_state)).collect()
    };
    let all: Vec<String> = list(&[], &[]);
    assert_eq!(all, ["g:consumer:Stable", "simple::Empty"]);
    assert_eq!(list(&["stable", "Dead"], &["Classic"]), ["g:consumer:Stable"]);
    assert_eq!(list(&[], &["consumer"]), [""; 0]);
    let describe = |id: &str, api_version| {
        let query = GroupQuery::Describe { groups: vec![id.into()], api_version };
        let GroupResponse::Describe(groups) = bench.runtime.query(query, bench.now) else { panic!("another answer") };
        groups.into_iter().next().expect("one asked, one answered")
    };
    let group = describe("g", 6);
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("Stable", "range"));
    assert_eq!((group.members[0].client_host.as_str(), group.members[0].client_id.as_str()), ("/127.0.0.1", "app"));
    assert!(!group.members[0].member_metadata.is_empty() && !group.members[0].member_assignment.is_empty());
    assert_eq!((describe("x", 5).error_code, describe("x", 5).group_state.as_str()), (0, "Dead"));
    assert_eq!(describe("x", 6).error_code, ErrorCode::GroupIdNotFound.code());
}

// ---- records ----

#[test]
fn records_of_other_kinds_are_named_and_hostile_ones_refused() {
    let decode = |key: &[u8], value: Option<&[u8]>| {
        records::decode(Some(Bytes::copy_from_slice(key)), value.map(Bytes::copy_from_slice))
    };
    for (kind, name) in [(11i16, "share"), (17, "streams"), (99, "unknown")] {
        let refused = decode(&kind.to_be_bytes(), Some(b"whatever")).expect_err("not kept here");
        assert!(refused.contains(name), "{refused}");
    }
    assert!(records::decode(None, None).is_err());
    let mut bench = Bench::new(config());
    bench.stable(2);
    bench.commit("", -1, 1).expect_err("not empty");
    let group = GroupRecord::Group("g".into(), Some(bench.group().to_record(&BTreeMap::new())));
    let (key, value) = records::encode(&group).expect("encoded");
    let value = value.expect("no tombstone");
    assert_eq!(decode(&key, Some(&value)), Ok(group));
    hostile(&key, &value);
}

/// Damages a record in every way; whatever it then says, it is read or refused.
fn hostile(key: &[u8], value: &[u8]) {
    let mut rng = SplitMix64::new(3);
    for _ in 0..2_000 {
        let (mut key, mut value) = (key.to_vec(), value.to_vec());
        key.truncate(rng.below(key.len() as u64 + 1) as usize);
        value.truncate(rng.below(value.len() as u64 + 1) as usize);
        for bytes in [&mut key, &mut value] {
            if !bytes.is_empty() {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.next_u64() as u8;
            }
        }
        let _ = records::decode(Some(key.into()), Some(value.into()));
    }
}

/// Random members, time and failures: nobody is answered twice, and what was committed a new leader knows.
#[test]
fn whatever_happens_a_new_leader_knows_the_same() {
    for seed in 0..60u64 {
        let mut bench = Bench::new(GroupConfig { size_max: 4, initial_rebalance_delay_ms: 500, ..config() });
        let mut rng = SplitMix64::new(seed);
        let mut ids: Vec<String> = Vec::new();
        for _ in 0..120 {
            let any = |rng: &mut SplitMix64, ids: &[String]| match ids.len() {
                0 => String::new(),
                n => ids[rng.below(n as u64) as usize].clone(),
            };
            let generation = bench.runtime.shard().group("g").map_or(0, |group| group.generation);
            bench.log.refuse = (rng.below(12) == 0).then_some(ErrorCode::NotEnoughReplicas);
            match rng.below(10) {
                0 | 1 => {
                    let ticket = bench.join("", None);
                    if let Some(Ok(GroupResponse::Join(response))) = bench.answer(ticket) {
                        ids.push(response.member_id.to_string());
                    }
                }
                2 | 3 => {
                    let id = any(&mut rng, &ids);
                    bench.join(&id, None);
                }
                4 => {
                    bench.join("", Some("static"));
                }
                5 | 6 => {
                    let members: Vec<String> = match bench.runtime.shard().group("g") {
                        Some(group) => group.members().map(|member| member.id.to_string()).collect(),
                        None => Vec::new(),
                    };
                    for id in &members {
                        let parts: Vec<_> = members.iter().map(|id| (id.as_str(), id.as_str())).collect();
                        bench.sync(id, generation, &parts);
                    }
                }
                7 => {
                    let id = any(&mut rng, &ids);
                    bench.beat(&id, generation);
                    let _ = bench.commit(&id, generation, rng.below(100) as i64);
                }
                8 => {
                    let id = any(&mut rng, &ids);
                    bench.leave(&[(&id, None)]);
                }
                _ => bench.pass(rng.below(9_000)),
            }
            let Some(group) = bench.runtime.shard().group("g") else { continue };
            let awaiting = group.members().filter(|member| member.awaiting_join.is_some()).count();
            assert_eq!(group.awaiting_joins(), awaiting, "seed {seed}");
            assert!(group.leader.as_deref().is_none_or(|leader| group.member(leader).is_some()), "seed {seed}");
            assert_eq!(group.leader.is_some(), group.member_count() > 0, "seed {seed}");
        }
        bench.log.refuse = None;
        let other = bench.failover();
        assert_eq!(other.committed(), bench.committed(), "seed {seed}");
        assert_eq!(other.runtime.shard().offset_count(), bench.runtime.shard().offset_count(), "seed {seed}");
        if let Some(group) = bench.runtime.shard().group("g")
            && group.state() == State::Stable
        {
            let known = other.group();
            let of = |group: &ClassicGroup| -> Vec<_> {
                group.members().map(|member| (member.id.clone(), member.assignment.clone())).collect()
            };
            assert_eq!((known.generation, of(known)), (group.generation, of(group)), "seed {seed}");
            assert_eq!(known.leader, group.leader, "seed {seed}");
        }
        // Left alone, everybody's session ends, and nobody is kept waiting.
        bench.pass(700_000);
        assert_eq!(bench.runtime.open_requests(), 0, "seed {seed}");
    }
}
