//! Groups: what is answered before there is a coordinator, FindCoordinator, and what stands on its own of JoinGroup,
//! SyncGroup, Heartbeat and LeaveGroup. [`Group`] is what the files beside this one ask groups with.

use std::time::Duration;

use odradek_common::{ErrorCode, Uuid};
use odradek_tests::differential::{Pair, Side, Waiting};
use odradek_tests::wait_for;
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use odradek_wire::sync_group_request::SyncGroupRequestAssignment;
use odradek_wire::{
    ConsumerProtocolSubscription, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest,
    FindCoordinatorResponse, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, Request, Str, SyncGroupRequest,
    encode_versioned,
};

use super::{prepare, topic};

/// The topic that groups of these files read.
pub const TOPIC: &str = "grouped";

/// The first versions that know a static member (KIP-345).
pub const STATIC_JOIN: i16 = 5;
pub const STATIC_SYNC: i16 = 3;
pub const STATIC_HEARTBEAT: i16 = 3;
pub const STATIC_COMMIT: i16 = 7;

/// The first version of JoinGroup that hands out an id first (KIP-394).
pub const KNOWN_MEMBER_ID: i16 = 4;

/// The first version of JoinGroup whose rebalance timeout is apart from the session's (KIP-62).
pub const REBALANCE_TIMEOUT: i16 = 1;

/// The first version of SyncGroup that names the protocol, and of OffsetCommit and OffsetFetch that names topics by id.
pub const NAMED_PROTOCOL: i16 = 5;
pub const TOPIC_IDS: i16 = 10;

/// The first version of FindCoordinator and of OffsetFetch that ask for many.
const MANY_KEYS: i16 = 4;
pub const MANY_GROUPS: i16 = 8;

/// The first version of LeaveGroup for many members.
const MANY_MEMBERS: i16 = 3;

/// Both take sessions of this length, and groups of this size.
pub const SESSION_MS_MIN: i32 = 100;
pub const SIZE_MAX: usize = 3;

/// Long beside what the cases take.
const TIMEOUT_MS: i32 = 60_000;

const STATE_LIMIT: Duration = Duration::from_secs(60);

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic(TOPIC, 3, 1)])?;
    without_coordinator(pair)?;
    find_coordinators(pair)?;
    of_no_group(pair)
}

// ---------------------------------------------------------------- requests

/// The protocol metadata of a consumer, told apart by its name.
pub fn subscription(topics: &[&str], name: &str) -> Vec<u8> {
    let subscription = ConsumerProtocolSubscription {
        topics: topics.iter().map(|topic| Str::from(*topic)).collect(),
        user_data: Some(name.as_bytes().to_vec().into()),
        ..Default::default()
    };
    encode_versioned(&subscription, 0).expect("version 0 has all of it").into()
}

/// A JoinGroup, in the names of a case.
#[derive(Clone, Copy)]
pub struct Join<'a> {
    pub member: &'a str,
    pub instance: Option<&'a str>,
    pub protocol_type: &'a str,
    pub protocols: &'a [&'a str],
    /// What tells its metadata from others'.
    pub metadata: &'a str,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
}

impl Default for Join<'_> {
    fn default() -> Self {
        Self {
            member: "",
            instance: None,
            protocol_type: "consumer",
            protocols: &["range"],
            metadata: "",
            session_timeout_ms: TIMEOUT_MS,
            rebalance_timeout_ms: TIMEOUT_MS,
        }
    }
}

impl<'a> Join<'a> {
    pub fn again(member: &'a str) -> Self {
        Self { member, metadata: member, ..Self::default() }
    }

    pub fn request(&self, group: &str, side: &Side) -> JoinGroupRequest {
        let protocols = self.protocols.iter().map(|name| JoinGroupRequestProtocol {
            name: Str::from(*name),
            metadata: subscription(&[TOPIC], self.metadata).into(),
            ..Default::default()
        });
        JoinGroupRequest {
            group_id: group.into(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            member_id: side.own(self.member),
            group_instance_id: self.instance.map(Str::from),
            protocol_type: self.protocol_type.into(),
            protocols: protocols.collect(),
            reason: Some("to compare".into()),
            ..Default::default()
        }
    }
}

/// A SyncGroup.
#[derive(Clone, Copy)]
pub struct Sync<'a> {
    pub member: &'a str,
    pub instance: Option<&'a str>,
    pub generation: i32,
    pub protocol: (&'a str, &'a str),
    /// By member.
    pub assignments: &'a [(&'a str, &'a str)],
}

impl<'a> Sync<'a> {
    pub fn of(member: &'a str, generation: i32) -> Self {
        Self { member, instance: None, generation, protocol: ("consumer", "range"), assignments: &[] }
    }

    fn request(&self, group: &str, side: &Side, version: i16) -> SyncGroupRequest {
        let assignments = self.assignments.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
            member_id: side.own(member),
            assignment: assignment.as_bytes().to_vec().into(),
            ..Default::default()
        });
        SyncGroupRequest {
            group_id: group.into(),
            generation_id: self.generation,
            member_id: side.own(self.member),
            group_instance_id: self.instance.map(Str::from),
            protocol_type: (version >= NAMED_PROTOCOL).then(|| self.protocol.0.into()),
            protocol_name: (version >= NAMED_PROTOCOL).then(|| self.protocol.1.into()),
            assignments: assignments.collect(),
            ..Default::default()
        }
    }
}

/// A LeaveGroup of these, each by id and instance. Older versions have room for one id.
fn leave_request(group: &str, version: i16, members: Vec<(Str, Option<Str>)>) -> LeaveGroupRequest {
    if version < MANY_MEMBERS {
        let member_id = members.into_iter().next().map(|(id, _)| id).unwrap_or_default();
        return LeaveGroupRequest { group_id: group.into(), member_id, ..Default::default() };
    }
    let members = members.into_iter().map(|(member_id, group_instance_id)| MemberIdentity {
        member_id,
        group_instance_id,
        reason: Some("to compare".into()),
        ..Default::default()
    });
    LeaveGroupRequest { group_id: group.into(), members: members.collect(), ..Default::default() }
}

/// An OffsetFetch of some partitions of a topic, in the form of its version.
pub fn fetch_request(group: &str, version: i16, name: &str, topic_id: Uuid, partitions: &[i32]) -> OffsetFetchRequest {
    let partition_indexes = partitions.to_vec();
    if version < MANY_GROUPS {
        let topic = OffsetFetchRequestTopic { name: name.into(), partition_indexes, ..Default::default() };
        return OffsetFetchRequest { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() };
    }
    let topic = OffsetFetchRequestTopics { name: name.into(), topic_id, partition_indexes, ..Default::default() };
    let group = OffsetFetchRequestGroup { group_id: group.into(), topics: Some(vec![topic]), ..Default::default() };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

/// Members have ids that end in a random part, which counts as a name from here on.
fn name_member(side: &mut Side, id: &str, name: &str) {
    let alias = member_alias(id, name);
    side.rename(id, name, &alias);
}

/// The leader, and whoever describes the group, sees ids of members that have not been answered yet.
fn learn_others<'a>(side: &mut Side, ids: impl Iterator<Item = &'a Str>) {
    for id in ids {
        if !side.has_alias(id) {
            side.alias(id.as_str(), &member_alias(id, "not answered yet"));
        }
    }
}

/// As Kafka writes its own: in base 64, for 128 bits.
pub(super) fn is_short_uuid(text: &str) -> bool {
    text.len() == 22 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn member_alias(id: &str, name: &str) -> String {
    let is_random = |text: &str| {
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
    };
    match id.len().checked_sub(37).and_then(|at| id.split_at_checked(at)) {
        Some((prefix, random)) if random.starts_with('-') && is_random(&random[1..]) => format!("{prefix}-<{name}>"),
        _ if is_short_uuid(id) => format!("<{name}, a UUID alone>"),
        _ => format!("{id}, which does not end in a UUID"),
    }
}

/// Apache Kafka's order of members is that of a hash table.
fn level_join(answer: &mut JoinGroupResponse) {
    answer.members.sort_by(|a, b| a.metadata.cmp(&b.metadata));
}

// ---------------------------------------------------------------- a group

/// A group on both sides, asked at one version of JoinGroup and at as near a one of the other APIs.
pub struct Group<'a> {
    pub pair: &'a mut Pair,
    pub id: String,
    pub version: i16,
}

impl<'a> Group<'a> {
    pub fn new(pair: &'a mut Pair, what: &str, version: i16) -> Self {
        Self { pair, id: format!("{what}-{version}"), version }
    }

    /// The version of an API that is next to that of JoinGroup, and one of `range`.
    fn at<R: Request>(&self, range: std::ops::RangeInclusive<i16>) -> anyhow::Result<i16> {
        let common = self.pair.versions::<R>()?;
        Ok(self.version.clamp(*common.start().max(range.start()), *common.end().min(range.end())))
    }

    /// A case is there for its answer: notes when Apache Kafka's is another.
    fn expect(&mut self, case: &str, theirs: i16, expected: ErrorCode) {
        if theirs != expected.code() {
            let told = ErrorCode::from_code(theirs).name();
            let error = anyhow::anyhow!("Apache Kafka answers {told} where the case has {}", expected.name());
            self.pair.fail(&format!("{}: {case}", self.id), &error);
        }
    }

    /// Waits until the group has this state on both sides.
    pub fn reach(&mut self, state: &str, members: usize) -> anyhow::Result<()> {
        let request = DescribeGroupsRequest { groups: vec![self.id.as_str().into()], ..Default::default() };
        wait_for(&format!("{} is {state} with {members} members", self.id), STATE_LIMIT, || {
            let (theirs, ours) = self.pair.both(5, &request)?;
            let mut groups = theirs.groups.iter().chain(&ours.groups);
            Ok(groups.all(|group| group.group_state == *state && group.members.len() == members).then_some(()))
        })
    }

    pub fn describe(&mut self, case: &str) -> anyhow::Result<()> {
        let version = self.at::<DescribeGroupsRequest>(0..=i16::MAX)?;
        let request = DescribeGroupsRequest { groups: vec![self.id.as_str().into()], ..Default::default() };
        let level = |answer: &mut odradek_wire::DescribeGroupsResponse| {
            for group in &mut answer.groups {
                let key = |member: &odradek_wire::describe_groups_response::DescribedGroupMember| {
                    (member.member_metadata.clone(), member.group_instance_id.clone(), member.member_assignment.clone())
                };
                group.members.sort_by_key(key);
            }
        };
        let learn = |side: &mut Side, answer: &odradek_wire::DescribeGroupsResponse| {
            let members = answer.groups.iter().flat_map(|group| &group.members);
            learn_others(side, members.map(|member| &member.member_id));
        };
        self.pair.same_in_own_names(case, version, |_| request.clone(), learn, level)?;
        Ok(())
    }

    /// Asks, and names the member that the answer is about.
    pub fn join(&mut self, case: &str, name: &str, join: Join<'_>, expected: ErrorCode) -> anyhow::Result<()> {
        let id = self.id.clone();
        let learn = |side: &mut Side, answer: &JoinGroupResponse| learn_member(side, answer, name);
        let request = |side: &Side| join.request(&id, side);
        let (theirs, _) = self.pair.same_in_own_names(case, self.version, request, learn, level_join)?;
        self.expect(case, theirs.error_code, expected);
        Ok(())
    }

    /// A JoinGroup that has to wait for others.
    pub fn begin_join(&mut self, join: Join<'_>) -> Waiting<JoinGroupRequest> {
        let id = self.id.clone();
        self.pair.begin(self.version, |side| join.request(&id, side))
    }

    pub fn joined(
        &mut self,
        case: &str,
        name: &str,
        waiting: Waiting<JoinGroupRequest>,
        expected: ErrorCode,
    ) -> anyhow::Result<i32> {
        let learn = |side: &mut Side, answer: &JoinGroupResponse| learn_member(side, answer, name);
        let (theirs, _) = self.pair.end(case, waiting, learn, level_join)?;
        self.expect(case, theirs.error_code, expected);
        Ok(theirs.generation_id)
    }

    /// A new member on its way in: with an id first, where that is the way.
    pub fn enter(&mut self, name: &str, join: Join<'_>) -> anyhow::Result<Waiting<JoinGroupRequest>> {
        let join = Join { metadata: name, ..join };
        if self.version < KNOWN_MEMBER_ID || join.instance.is_some() {
            return Ok(self.begin_join(join));
        }
        self.join(&format!("an id for the {name} member"), name, join, ErrorCode::MemberIdRequired)?;
        Ok(self.begin_join(Join { member: name, ..join }))
    }

    pub fn sync(&mut self, case: &str, sync: Sync<'_>, expected: ErrorCode) -> anyhow::Result<()> {
        let waiting = self.begin_sync(sync)?;
        self.synced(case, waiting, expected)
    }

    pub fn begin_sync(&mut self, sync: Sync<'_>) -> anyhow::Result<Waiting<SyncGroupRequest>> {
        let least = if sync.instance.is_some() { STATIC_SYNC } else { 0 };
        let (id, version) = (self.id.clone(), self.at::<SyncGroupRequest>(least..=i16::MAX)?);
        Ok(self.pair.begin(version, |side| sync.request(&id, side, version)))
    }

    pub fn synced(
        &mut self,
        case: &str,
        waiting: Waiting<SyncGroupRequest>,
        expected: ErrorCode,
    ) -> anyhow::Result<()> {
        let (theirs, _) = self.pair.end(case, waiting, |_, _| (), |_| ())?;
        self.expect(case, theirs.error_code, expected);
        Ok(())
    }

    pub fn heartbeat(
        &mut self,
        case: &str,
        (member, instance): (&str, Option<&str>),
        generation: i32,
        expected: ErrorCode,
    ) -> anyhow::Result<()> {
        let version = self.at::<HeartbeatRequest>(if instance.is_some() { STATIC_HEARTBEAT } else { 0 }..=i16::MAX)?;
        let id = self.id.clone();
        let request = |side: &Side| HeartbeatRequest {
            group_id: id.as_str().into(),
            generation_id: generation,
            member_id: side.own(member),
            group_instance_id: instance.map(Str::from),
            ..Default::default()
        };
        let (theirs, _) = self.pair.same_in_own_names(case, version, request, |_, _| (), |_| ())?;
        self.expect(case, theirs.error_code, expected);
        Ok(())
    }

    /// The error that is expected is that of the last of them.
    pub fn leave(&mut self, case: &str, members: &[(&str, Option<&str>)], expected: ErrorCode) -> anyhow::Result<()> {
        let is_new = members.len() != 1 || members[0].1.is_some();
        let version = self.at::<LeaveGroupRequest>(if is_new { MANY_MEMBERS } else { 0 }..=i16::MAX)?;
        let id = self.id.clone();
        let request = |side: &Side| {
            let members = members.iter().map(|(member, instance)| (side.own(member), instance.map(Str::from)));
            leave_request(&id, version, members.collect())
        };
        let (theirs, _) = self.pair.same_in_own_names(case, version, request, |_, _| (), |_| ())?;
        let code = theirs.members.last().map_or(theirs.error_code, |member| member.error_code);
        self.expect(case, code, expected);
        Ok(())
    }

    pub fn commit(
        &mut self,
        case: &str,
        (member, instance): (&str, Option<&str>),
        generation: i32,
        expected: ErrorCode,
    ) -> anyhow::Result<()> {
        let least = if instance.is_some() { STATIC_COMMIT } else { 0 };
        let version = self.at::<OffsetCommitRequest>(least..=TOPIC_IDS - 1)?;
        let id = self.id.clone();
        let request = |side: &Side| OffsetCommitRequest {
            group_id: id.as_str().into(),
            generation_id_or_member_epoch: generation,
            member_id: side.own(member),
            group_instance_id: instance.map(Str::from),
            topics: vec![commit_of(TOPIC, Uuid::ZERO, &[(0, 7, Some("noted"))])],
            ..Default::default()
        };
        let (theirs, _) = self.pair.same_in_own_names(case, version, request, |_, _| (), |_| ())?;
        let code = theirs.topics.first().and_then(|topic| topic.partitions.first()).map_or(-1, |one| one.error_code);
        self.expect(case, code, expected);
        Ok(())
    }

    pub fn delete(&mut self, case: &str, expected: ErrorCode) -> anyhow::Result<()> {
        let version = self.at::<DeleteGroupsRequest>(0..=i16::MAX)?;
        let request = DeleteGroupsRequest { groups_names: vec![self.id.as_str().into()], ..Default::default() };
        let (theirs, _) = self.pair.same_in_own_names(case, version, |_| request.clone(), |_, _| (), |_| ())?;
        self.expect(case, theirs.results.first().map_or(-1, |result| result.error_code), expected);
        Ok(())
    }
}

fn learn_member(side: &mut Side, answer: &JoinGroupResponse, name: &str) {
    let is_given = answer.error_code == 0 || answer.error_code == ErrorCode::MemberIdRequired.code();
    if is_given && !name.is_empty() {
        name_member(side, &answer.member_id, name);
    }
    let ids = answer.members.iter().map(|member| &member.member_id).chain([&answer.leader]);
    learn_others(side, ids.filter(|id| !id.is_empty()));
}

/// Offsets to commit: by partition, with their metadata.
pub fn commit_of(topic: &str, id: Uuid, partitions: &[(i32, i64, Option<&str>)]) -> OffsetCommitRequestTopic {
    let partitions = partitions.iter().map(|(index, offset, metadata)| OffsetCommitRequestPartition {
        partition_index: *index,
        committed_offset: *offset,
        committed_leader_epoch: -1,
        committed_metadata: metadata.map(Str::from),
        ..Default::default()
    });
    OffsetCommitRequestTopic {
        name: topic.into(),
        topic_id: id,
        partitions: partitions.collect(),
        ..Default::default()
    }
}

// ---------------------------------------------------------------- without a coordinator

/// What is answered of this group, at every version.
fn ask_all(pair: &mut Pair, what: &str, group: &str) -> anyhow::Result<()> {
    let join = Join::default();
    for version in pair.versions::<JoinGroupRequest>()? {
        pair.same_in_own_names(what, version, |side| join.request(group, side), |_, _| (), |_| ())?;
    }
    pair.same(what, |_| JoinGroupRequest { member_id: "someone".into(), ..plain_join(group) }, |_| ())?;
    for version in pair.versions::<SyncGroupRequest>()? {
        let sync = Sync::of("someone", 1);
        pair.same_in_own_names(what, version, |side| sync.request(group, side, version), |_, _| (), |_| ())?;
    }
    let heartbeat = HeartbeatRequest {
        group_id: group.into(),
        generation_id: 1,
        member_id: "someone".into(),
        ..Default::default()
    };
    pair.same(what, |_| heartbeat.clone(), |_| ())?;
    pair.same(what, |v| leave_request(group, v, vec![("someone".into(), None)]), |_| ())?;
    let commit = |generation: i32, member: &'static str| {
        move |v: i16| OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: generation,
            member_id: member.into(),
            topics: if v < TOPIC_IDS { vec![commit_of(TOPIC, Uuid::ZERO, &[(0, 3, Some(""))])] } else { Vec::new() },
            ..Default::default()
        }
    };
    pair.same(&format!("{what}, of a member"), commit(1, "someone"), |_| ())?;
    pair.same(&format!("{what}, of nobody's generation"), commit(1, ""), |_| ())?;
    let describe = DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
    pair.same(what, |_| describe.clone(), |_| ())?;
    let delete = DeleteGroupsRequest { groups_names: vec![group.into()], ..Default::default() };
    pair.same(what, |_| delete.clone(), |_| ())?;
    pair.same(what, |_| OffsetDeleteRequest { group_id: group.into(), ..Default::default() }, |_| ())?;
    let topic_ids = pair.topic_ids(TOPIC)?;
    for stable in [false, true] {
        let case = format!("{what}{}", if stable { ", stable" } else { "" });
        for version in pair.versions::<OffsetFetchRequest>()? {
            if stable && version < 7 {
                continue;
            }
            let request =
                |id| OffsetFetchRequest { require_stable: stable, ..fetch_request(group, version, TOPIC, id, &[0, 1]) };
            pair.same_at(&case, version, &request(topic_ids.0), &request(topic_ids.1), |_| ())?;
        }
    }
    Ok(())
}

fn plain_join(group: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: TIMEOUT_MS,
        rebalance_timeout_ms: TIMEOUT_MS,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    }
}

/// The topic of groups is not there until a coordinator is looked for.
fn without_coordinator(pair: &mut Pair) -> anyhow::Result<()> {
    ask_all(pair, "without a coordinator", "too-early")?;
    ask_all(pair, "without a coordinator and a group id", "")?;
    refused_anywhere(pair, "without a coordinator")?;
    pair.same("without a coordinator", |_| ListGroupsRequest::default(), |_| ())
}

// ---------------------------------------------------------------- FindCoordinator

const GROUP: i8 = 0;
const SHARE: i8 = 2;

/// The first version that has a key type, and that knows share groups.
const KEY_TYPE: i16 = 1;
const SHARE_KEYS: i16 = 6;

fn find(version: i16, key_type: i8, keys: &[&str]) -> FindCoordinatorRequest {
    if version >= MANY_KEYS {
        let coordinator_keys = keys.iter().map(|key| Str::from(*key)).collect();
        return FindCoordinatorRequest { key_type, coordinator_keys, ..Default::default() };
    }
    let key = keys.first().copied().unwrap_or_default().into();
    FindCoordinatorRequest { key, key_type, ..Default::default() }
}

/// Where Apache Kafka has the general text of an error, ours says what to do.
fn level_texts(answer: &mut FindCoordinatorResponse) {
    let is_error = |code: i16| code != 0;
    if is_error(answer.error_code) {
        answer.error_message = None;
    }
    for coordinator in answer.coordinators.iter_mut().filter(|found| is_error(found.error_code)) {
        coordinator.error_message = None;
    }
}

fn find_coordinators(pair: &mut Pair) -> anyhow::Result<()> {
    // The first question makes the topic.
    pair.same_at("the first", 0, &find(0, GROUP, &["a group"]), &find(0, GROUP, &["a group"]), level_texts)?;
    // Groups of every partition of either side.
    let keys: Vec<String> = (0..500).map(|n| format!("waited-for-{n}")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    wait_for("the groups are coordinated", STATE_LIMIT, || {
        let (theirs, ours) = pair.both(4, &find(4, GROUP, &names))?;
        let mut all = theirs.coordinators.iter().chain(&ours.coordinators);
        Ok(all.all(|found| found.error_code == 0).then_some(()))
    })?;
    wait_for("the coordinators are loaded", STATE_LIMIT, || {
        let groups = keys.iter().map(|key| Str::from(key.as_str())).collect();
        let (theirs, ours) = pair.both(5, &DescribeGroupsRequest { groups, ..Default::default() })?;
        let mut all = theirs.groups.iter().chain(&ours.groups);
        Ok(all.all(|group| group.error_code == 0).then_some(()))
    })?;
    pair.same("a group", |v| find(v, GROUP, &["a group"]), level_texts)?;
    pair.same("an empty name", |v| find(v, GROUP, &[""]), level_texts)?;
    pair.same("a long name", |v| find(v, GROUP, &[&"long".repeat(1000)]), level_texts)?;
    for version in pair.versions::<FindCoordinatorRequest>()?.filter(|version| *version >= MANY_KEYS) {
        for (case, keys) in [("several", vec!["a", "", "b"]), ("one twice", vec!["a", "a"]), ("none", Vec::new())] {
            let request = find(version, GROUP, &keys);
            pair.same_at(case, version, &request, &request, level_texts)?;
        }
    }
    for version in pair.versions::<FindCoordinatorRequest>()?.filter(|version| *version >= KEY_TYPE) {
        for key_type in [3, 100, -1] {
            let request = find(version, key_type, &["a", "b"]);
            pair.same_at(&format!("key type {key_type}"), version, &request, &request, level_texts)?;
        }
        if version < SHARE_KEYS {
            let request = find(version, SHARE, &["a:AAAAAAAAAAAAAAAAAAAAAA:0"]);
            pair.same_at("share groups, too early", version, &request, &request, level_texts)?;
            continue;
        }
        for key in ["", "a", "a:b", "a:b:c", ":AAAAAAAAAAAAAAAAAAAAAA:0", "a:b:c:d", "a:AAAAAAAAAAAAAAAAAAAAAA:x"] {
            let request = find(version, SHARE, &[key]);
            pair.same_at(&format!("the share key {key:?}"), version, &request, &request, level_texts)?;
        }
    }
    Ok(())
}

// ---------------------------------------------------------------- no group

/// Requests to groups that are not there, and such as are refused whatever the group.
fn of_no_group(pair: &mut Pair) -> anyhow::Result<()> {
    refused_anywhere(pair, "with a coordinator")?;
    pair.same("a member of no group", |_| with_member(plain_join("none"), "someone"), |_| ())?;
    for version in pair.versions::<JoinGroupRequest>()?.filter(|version| *version >= STATIC_JOIN) {
        let request = JoinGroupRequest {
            group_instance_id: Some("instance".into()),
            ..with_member(plain_join("none"), "someone")
        };
        pair.same_at("a static member of no group", version, &request, &request, |_| ())?;
        for (n, name) in ["", ".", "..", "with/slash", &"long".repeat(100)].into_iter().enumerate() {
            let group = numbered(&format!("instance-{n}"), version);
            let request = JoinGroupRequest { group_instance_id: Some(name.into()), ..plain_join(&group) };
            let case = format!("the instance {:?}", name.chars().take(20).collect::<String>());
            let join = |_: &Side| request.clone();
            let learn = |side: &mut Side, answer: &JoinGroupResponse| learn_member(side, answer, "member");
            pair.same_in_own_names(&case, version, join, learn, |_| ())?;
        }
    }
    // A group is made for them nevertheless.
    pair.same("no protocols", |v| JoinGroupRequest { protocols: Vec::new(), ..plain_join(&numbered("p", v)) }, |_| ())?;
    pair.same(
        "no protocol type",
        |v| JoinGroupRequest { protocol_type: "".into(), ..plain_join(&numbered("t", v)) },
        |_| (),
    )?;
    for what in ["p", "t"] {
        let groups =
            |v| DescribeGroupsRequest { groups: vec![numbered(what, v).as_str().into()], ..Default::default() };
        pair.same("of nobody", groups, |_| ())?;
    }
    ask_unknown(pair, "an empty group id", "")?;
    ask_unknown(pair, "no group", "none")
}

/// JoinGroups that are not taken, whoever coordinates the group.
fn refused_anywhere(pair: &mut Pair, what: &str) -> anyhow::Result<()> {
    pair.same(&format!("an empty group id, {what}"), |_| plain_join(""), |_| ())?;
    pair.same(&format!("an empty group id, of a member, {what}"), |_| with_member(plain_join(""), "someone"), |_| ())?;
    for (case, session_timeout_ms) in [
        ("a session too short", SESSION_MS_MIN - 1),
        ("no session", 0),
        ("a negative session", -1),
        ("a session too long", 1_800_001),
    ] {
        let request = |_| JoinGroupRequest { session_timeout_ms, ..plain_join("none") };
        pair.same(&format!("{case}, {what}"), request, |_| ())?;
        pair.same(&format!("{case}, of a member, {what}"), |v| with_member(request(v), "someone"), |_| ())?;
    }
    Ok(())
}

/// As [`ask_all`], without what makes a group.
fn ask_unknown(pair: &mut Pair, what: &str, group: &str) -> anyhow::Result<()> {
    for version in pair.versions::<SyncGroupRequest>()? {
        for (case, protocol) in [("", ("consumer", "range")), (", no protocol", ("", ""))] {
            let sync = Sync { protocol, ..Sync::of("someone", 1) };
            let request = |side: &Side| sync.request(group, side, version);
            pair.same_in_own_names(&format!("{what}{case}"), version, request, |_, _| (), |_| ())?;
        }
        let request = SyncGroupRequest { group_id: group.into(), ..Default::default() };
        pair.same_at(&format!("{what}, protocol left out"), version, &request, &request, |_| ())?;
        if version >= STATIC_SYNC {
            let sync = Sync { instance: Some("instance"), ..Sync::of("someone", 1) };
            let request = |side: &Side| sync.request(group, side, version);
            pair.same_in_own_names(&format!("{what}, static"), version, request, |_, _| (), |_| ())?;
        }
    }
    for member in ["", "someone"] {
        let request = |_| HeartbeatRequest {
            group_id: group.into(),
            generation_id: -1,
            member_id: member.into(),
            ..Default::default()
        };
        pair.same(&format!("{what}, member {member:?}"), request, |_| ())?;
        pair.same(
            &format!("{what}, member {member:?}"),
            |v| leave_request(group, v, vec![(member.into(), None)]),
            |_| (),
        )?;
    }
    for version in pair.versions::<LeaveGroupRequest>()?.filter(|version| *version >= MANY_MEMBERS) {
        for (case, members) in [
            ("several", vec![("a".into(), None), ("".into(), Some("b".into())), ("c".into(), Some("d".into()))]),
            ("nobody", Vec::new()),
        ] {
            let request = leave_request(group, version, members);
            pair.same_at(&format!("{what}, {case}"), version, &request, &request, |_| ())?;
        }
    }
    Ok(())
}

fn with_member(request: JoinGroupRequest, member: &str) -> JoinGroupRequest {
    JoinGroupRequest { member_id: member.into(), ..request }
}

fn numbered(what: &str, version: i16) -> String {
    format!("no-{what}-{version}")
}
