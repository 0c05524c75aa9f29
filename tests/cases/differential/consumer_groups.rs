//! Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat and ConsumerGroupDescribe, with what the other APIs say
//! of such groups, at every version of ConsumerGroupHeartbeat.

use std::time::Duration;

use anyhow::ensure;
use odradek_common::{ErrorCode, Uuid};
use odradek_tests::differential::{Pair, Side};
use odradek_tests::wait_for;
use odradek_wire::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use odradek_wire::consumer_group_describe_response::{Assignment, Member};
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use odradek_wire::{
    AlterConfigsRequest, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, Str,
};

use super::groups::is_short_uuid;
use super::groups::{Group, Join, Sync};
use super::{prepare, topic};

use ErrorCode::{
    FencedInstanceId, FencedMemberEpoch, GroupIdNotFound, IllegalGeneration, InconsistentGroupProtocol,
    InvalidRegularExpression, InvalidRequest, MemberIdRequired, NonEmptyGroup, None as Success, RebalanceInProgress,
    StaleMemberEpoch, UnknownMemberId, UnreleasedInstanceId, UnsupportedAssignor, UnsupportedVersion,
};

/// The topics that the groups here read.
const TOPIC: &str = "modern";
const OTHER: &str = "modern-other";
const PARTITIONS: i32 = 4;

/// The first version whose members choose their ids, and that knows regular expressions.
const OWN_IDS: i16 = 1;

const LIMIT: Duration = Duration::from_secs(60);

type Life = fn(&mut Modern<'_>) -> anyhow::Result<()>;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic(TOPIC, PARTITIONS, 1), topic(OTHER, 2, 1)])?;
    let topics = [pair.topic_ids(TOPIC)?, pair.topic_ids(OTHER)?];
    let lives: &[(&str, i16, Life)] = &[
        ("refused", 0, refused),
        ("sharing", 0, sharing),
        ("subscribing", 0, subscribing),
        ("static", 0, static_members),
        ("offsets", 0, offsets),
        ("waiting", 0, waiting),
        ("migrating", 0, migrating),
        ("expressions", OWN_IDS, expressions),
    ];
    for (what, least, life) in lives {
        for version in pair.versions::<ConsumerGroupHeartbeatRequest>()?.filter(|version| version >= least) {
            let group = format!("modern-{what}-{version}");
            if let Err(error) = life(&mut Modern { pair, group, version, topics }) {
                pair.fail(&format!("{what}, version {version}"), &error);
            }
        }
    }
    Ok(())
}

/// A group of one version.
struct Modern<'a> {
    pair: &'a mut Pair,
    group: String,
    version: i16,
    /// Of both topics: Apache Kafka's id, then ours.
    topics: [(Uuid, Uuid); 2],
}

/// What a heartbeat says.
#[derive(Clone, Copy, Default)]
struct Beat<'a> {
    member: &'a str,
    epoch: i32,
    instance: Option<&'a str>,
    rack: Option<&'a str>,
    rebalance: Option<i32>,
    topics: Option<&'a [&'a str]>,
    regex: Option<&'a str>,
    assignor: Option<&'a str>,
    /// The partitions of the first topic, then of the other.
    owned: Option<[&'a [i32]; 2]>,
}

const NOTHING: [&[i32]; 2] = [&[], &[]];

impl<'a> Beat<'a> {
    fn joining(member: &'a str) -> Self {
        Self { member, rebalance: Some(60_000), topics: Some(&[TOPIC]), owned: Some(NOTHING), ..Self::default() }
    }

    fn of(member: &'a str, epoch: i32) -> Self {
        Self { member, epoch, ..Self::default() }
    }

    fn owning(member: &'a str, epoch: i32, owned: &'a [i32]) -> Self {
        Self { member, epoch, owned: Some([owned, &[]]), ..Self::default() }
    }

    fn request(&self, group: &str, side: &Side, topics: [(Uuid, Uuid); 2]) -> ConsumerGroupHeartbeatRequest {
        let ids = topics.map(|(kafka, ours)| if side.is_kafka() { kafka } else { ours });
        let owned = self.owned.map(|owned| {
            let topics = ids.into_iter().zip(owned).filter(|(_, partitions)| !partitions.is_empty());
            let topics = topics.map(|(topic_id, partitions)| TopicPartitions {
                topic_id,
                partitions: partitions.to_vec(),
                ..Default::default()
            });
            topics.collect()
        });
        ConsumerGroupHeartbeatRequest {
            group_id: group.into(),
            member_id: side.own(self.member),
            member_epoch: self.epoch,
            instance_id: self.instance.map(Str::from),
            rack_id: self.rack.map(Str::from),
            rebalance_timeout_ms: self.rebalance.unwrap_or(-1),
            subscribed_topic_names: self.topics.map(|names| names.iter().map(|name| Str::from(*name)).collect()),
            subscribed_topic_regex: self.regex.map(Str::from),
            server_assignor: self.assignor.map(Str::from),
            topic_partitions: owned,
            ..Default::default()
        }
    }
}

fn sorted(assignment: &mut Assignment) {
    for topic in &mut assignment.topic_partitions {
        topic.partitions.sort_unstable();
    }
    assignment.topic_partitions.sort_by_key(|topic| topic.topic_name.clone());
}

impl Modern<'_> {
    /// A name for a member of this group alone.
    fn alias(&self, member: &str) -> String {
        format!("{}-{member}", self.group)
    }

    /// A heartbeat that comes to `expected` with both. Answers Kafka's epoch.
    fn beat(&mut self, what: &str, beat: Beat<'_>, expected: ErrorCode) -> anyhow::Result<i32> {
        let (group, topics, version) = (self.group.clone(), self.topics, self.version);
        let name = if beat.member.is_empty() { String::new() } else { self.alias(beat.member) };
        let named = Beat { member: &name, ..beat };
        // In the first version the coordinator names who joins.
        let is_named_by_it = version < OWN_IDS && beat.epoch == 0;
        let learn = |side: &mut Side, answer: &ConsumerGroupHeartbeatResponse| {
            if let Some(id) = answer.member_id.as_deref().filter(|_| is_named_by_it) {
                side.rename(id, &name, &format!("of-{name}"));
            }
        };
        let request = |side: &Side| {
            let mut request = named.request(&group, side, topics);
            if is_named_by_it && side.own(&name) == name.as_str() {
                request.member_id = Str::default();
            }
            request
        };
        let level = |answer: &mut ConsumerGroupHeartbeatResponse| {
            if let Some(assignment) = &mut answer.assignment {
                for topic in &mut assignment.topic_partitions {
                    topic.partitions.sort_unstable();
                }
                assignment.topic_partitions.sort_by_key(|topic| topic.partitions.len());
            }
            // Who was named by the coordinator and not let in is known by this only.
            answer.error_message = answer.error_message.take().map(|message| {
                let words = message.split(' ').map(|word| if is_short_uuid(word) { "<a new one>" } else { word });
                words.collect::<Vec<_>>().join(" ").into()
            });
            // What is wrong with an expression, both say in their own words.
            if answer.error_code == InvalidRegularExpression.code() {
                answer.error_message = None;
            }
        };
        let case = format!("{}: {what}", self.group);
        let (theirs, ours) = self.pair.same_in_own_names(&case, version, request, learn, level)?;
        let found = (ErrorCode::from_code(theirs.error_code), ErrorCode::from_code(ours.error_code));
        ensure!(found == (expected, expected), "{what}: {found:?}, and {expected} was expected of both");
        Ok(theirs.member_epoch)
    }

    fn describe(&mut self, what: &str) -> anyhow::Result<()> {
        let group = self.group.clone();
        let level = |answer: &mut ConsumerGroupDescribeResponse| {
            for group in &mut answer.groups {
                for member in &mut group.members {
                    let Member { assignment, target_assignment, subscribed_topic_names, .. } = member;
                    sorted(assignment);
                    sorted(target_assignment);
                    subscribed_topic_names.sort();
                }
                // By what they were given names in the case for.
                group.members.sort_by_key(|member| {
                    let partitions = member.target_assignment.topic_partitions.first();
                    (partitions.map(|topic| topic.partitions.clone()), member.subscribed_topic_names.len())
                });
            }
        };
        for version in self.pair.versions::<ConsumerGroupDescribeRequest>()? {
            let request = ConsumerGroupDescribeRequest {
                group_ids: vec![Str::from(group.as_str())],
                include_authorized_operations: version == 1,
                ..Default::default()
            };
            self.pair.same_at(&format!("{group}: {what}"), version, &request, &request, level)?;
        }
        Ok(())
    }

    /// What the other APIs say of the group.
    fn seen_by_others(&mut self, what: &str) -> anyhow::Result<()> {
        let group = self.group.clone();
        let list = ListGroupsRequest { types_filter: vec!["consumer".into()], ..Default::default() };
        let level = |answer: &mut ListGroupsResponse| answer.groups.retain(|listed| listed.group_id == group.as_str());
        self.pair.same_at(&format!("{group}: {what}"), 5, &list, &list, level)?;
        for version in self.pair.versions::<DescribeGroupsRequest>()? {
            let request = DescribeGroupsRequest { groups: vec![Str::from(group.as_str())], ..Default::default() };
            self.pair.same_at(&format!("{group}: {what}"), version, &request, &request, |_| {})?;
        }
        Ok(())
    }

    fn delete(&mut self, what: &str, expected: ErrorCode) -> anyhow::Result<()> {
        let group = self.group.clone();
        let request = DeleteGroupsRequest { groups_names: vec![Str::from(group.as_str())], ..Default::default() };
        let (theirs, ours) =
            self.pair.same_in_own_names(&format!("{group}: {what}"), 2, |_| request.clone(), |_, _| {}, |_| {})?;
        let code = |answer: &odradek_wire::DeleteGroupsResponse| answer.results[0].error_code;
        ensure!((code(&theirs), code(&ours)) == (expected.code(), expected.code()), "{what}");
        Ok(())
    }

    fn commit(
        &mut self,
        what: &str,
        member: &str,
        epoch: i32,
        partition: i32,
        version: i16,
        expected: ErrorCode,
    ) -> anyhow::Result<()> {
        let (group, name) = (self.group.clone(), if member.is_empty() { String::new() } else { self.alias(member) });
        let request = |side: &Side| OffsetCommitRequest {
            group_id: group.as_str().into(),
            generation_id_or_member_epoch: epoch,
            member_id: side.own(&name),
            retention_time_ms: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.into(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: partition,
                    committed_offset: 7,
                    committed_leader_epoch: -1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let case = format!("{group}: commit {what}");
        let (theirs, ours) = self.pair.same_in_own_names(&case, version, request, |_, _| {}, |_| {})?;
        let code = |answer: &odradek_wire::OffsetCommitResponse| answer.topics[0].partitions[0].error_code;
        let found = (ErrorCode::from_code(code(&theirs)), ErrorCode::from_code(code(&ours)));
        ensure!(found == (expected, expected), "commit {what}: {found:?}, and {expected} was expected of both");
        Ok(())
    }

    fn fetch(&mut self, what: &str, member: Option<&str>, epoch: i32) -> anyhow::Result<()> {
        let (group, name) = (self.group.clone(), member.map(|member| self.alias(member)));
        for require_stable in [false, true] {
            let request = |side: &Side| OffsetFetchRequest {
                groups: vec![OffsetFetchRequestGroup {
                    group_id: group.as_str().into(),
                    member_id: name.as_deref().map(|name| side.own(name)),
                    member_epoch: epoch,
                    topics: Some(vec![OffsetFetchRequestTopics {
                        name: TOPIC.into(),
                        partition_indexes: (0..PARTITIONS).collect(),
                        ..Default::default()
                    }]),
                    ..Default::default()
                }],
                require_stable,
                ..Default::default()
            };
            self.pair.same_in_own_names(&format!("{group}: fetch {what}"), 9, request, |_, _| {}, |_| {})?;
        }
        Ok(())
    }
}

/// Everything that is refused whatever the group, and what a group that is not there comes to.
fn refused(group: &mut Modern<'_>) -> anyhow::Result<()> {
    let joining = Beat::joining("a");
    let cases: &[(&str, Beat<'_>, ErrorCode)] = &[
        ("without a rebalance timeout", Beat { rebalance: None, ..joining }, InvalidRequest),
        ("without a subscription", Beat { topics: None, ..joining }, InvalidRequest),
        ("without partitions", Beat { owned: None, ..joining }, InvalidRequest),
        ("with partitions", Beat { owned: Some([&[0], &[]]), ..joining }, InvalidRequest),
        ("with an empty instance id", Beat { instance: Some(""), ..joining }, InvalidRequest),
        ("with a blank instance id", Beat { instance: Some(" "), ..joining }, InvalidRequest),
        ("with an empty rack", Beat { rack: Some(""), ..joining }, InvalidRequest),
        ("with an unknown assignor", Beat { assignor: Some("nobodys"), ..joining }, UnsupportedAssignor),
        ("nobody, in an epoch", Beat::of("", 1), InvalidRequest),
        ("nobody leaves", Beat::of("", -1), InvalidRequest),
        ("leaves for a while, not static", Beat::of("a", -2), InvalidRequest),
        ("in an epoch that is none", Beat::of("a", -3), InvalidRequest),
        ("no such group", Beat::of("a", 1), GroupIdNotFound),
        ("leaves no such group", Beat::of("a", -1), GroupIdNotFound),
        ("leaves no such group for a while", Beat { instance: Some("i"), ..Beat::of("a", -2) }, GroupIdNotFound),
    ];
    for (what, beat, expected) in cases {
        group.beat(what, *beat, *expected)?;
    }
    group.describe("not there")?;
    let own = std::mem::take(&mut group.group);
    group.beat("an empty group", joining, InvalidRequest)?;
    group.describe("without a name")?;
    group.group = own;
    Ok(())
}

/// Members come, give partitions up, get them, and go.
fn sharing(group: &mut Modern<'_>) -> anyhow::Result<()> {
    group.beat("the first joins", Beat::joining("a"), Success)?;
    group.describe("of one")?;
    group.seen_by_others("of one")?;
    group.beat("it lives", Beat::of("a", 2), Success)?;
    group.beat("it says what it has", Beat::owning("a", 2, &[0, 1, 2, 3]), Success)?;
    let full = Beat { epoch: 2, owned: Some([&[0, 1, 2, 3], &[]]), ..Beat::joining("a") };
    group.beat("it says all", full, Success)?;
    group.beat("a later epoch", Beat::of("a", 3), FencedMemberEpoch)?;
    group.beat("not a member", Beat::of("nobody", 2), UnknownMemberId)?;
    group.beat("not a member leaves", Beat::of("nobody", -1), UnknownMemberId)?;
    group.beat("an instance that is none", Beat { instance: Some("i"), ..Beat::of("a", 2) }, UnknownMemberId)?;
    group.delete("with a member", NonEmptyGroup)?;

    group.beat("the second joins", Beat::joining("b"), Success)?;
    group.describe("of two, before anything was given up")?;
    group.beat("the second waits", Beat::owning("b", 3, &[]), Success)?;
    group.beat("the first is to give up", Beat::of("a", 2), Success)?;
    group.describe("of two, one of which is to give up")?;
    group.beat("it has not yet", Beat::owning("a", 2, &[0, 1, 2, 3]), Success)?;
    group.beat("it has", Beat::owning("a", 2, &[0, 1]), Success)?;
    group.beat("it missed that", Beat::owning("a", 2, &[0, 1]), Success)?;
    group.beat("it missed that, and has too much", Beat::owning("a", 2, &[0, 3]), FencedMemberEpoch)?;
    group.beat("it missed that, and does not say what it has", Beat::of("a", 2), FencedMemberEpoch)?;
    group.describe("of two, one of which waits")?;
    group.beat("the second gets its part", Beat::owning("b", 3, &[]), Success)?;
    group.beat("the second lives", Beat::owning("b", 3, &[2, 3]), Success)?;
    group.describe("of two, stable")?;
    group.seen_by_others("stable")?;

    group.beat("it joins again", Beat::joining("a"), Success)?;
    group.beat("the second leaves", Beat::of("b", -1), Success)?;
    group.describe("of one again, not assigned")?;
    group.beat("the first gets all", Beat::owning("a", 3, &[0, 1]), Success)?;
    group.describe("of one again")?;
    group.beat("the first leaves", Beat::of("a", -1), Success)?;
    group.describe("empty")?;
    group.seen_by_others("empty")?;
    group.beat("to an empty group", Beat::of("a", 4), UnknownMemberId)?;
    group.beat("one more begins anew", Beat::joining("c"), Success)?;
    group.describe("of one more")?;
    group.beat("it leaves", Beat::of("c", -1), Success)?;
    group.delete("empty", Success)?;
    group.delete("again", GroupIdNotFound)?;
    group.describe("deleted")
}

/// Subscriptions change; a topic is not there.
fn subscribing(group: &mut Modern<'_>) -> anyhow::Result<()> {
    group.beat("joins", Beat { topics: Some(&[TOPIC, "modern-none"]), ..Beat::joining("a") }, Success)?;
    group.describe("of a topic that is not there")?;
    let both = Beat { topics: Some(&[OTHER, TOPIC]), ..Beat::owning("a", 2, &[0, 1, 2, 3]) };
    group.beat("both topics", both, Success)?;
    group.describe("of both topics")?;
    let other = Beat { topics: Some(&[OTHER]), owned: Some([&[0, 1, 2, 3], &[0, 1]]), ..Beat::of("a", 3) };
    group.beat("the other alone", other, Success)?;
    group.describe("of the other alone, not given up")?;
    group.beat("given up", Beat { owned: Some([&[], &[0, 1]]), ..Beat::of("a", 3) }, Success)?;
    group.describe("of the other alone")?;
    let nothing = Beat { topics: Some(&[]), owned: Some([&[], &[0, 1]]), ..Beat::of("a", 4) };
    group.beat("nothing", nothing, Success)?;
    group.beat("nothing, given up", Beat { owned: Some(NOTHING), ..Beat::of("a", 4) }, Success)?;
    group.describe("of nothing")?;
    group.beat("another assignor", Beat { assignor: Some("range"), rack: Some("r"), ..Beat::of("a", 5) }, Success)?;
    group.describe("of another assignor")?;
    group.beat("leaves", Beat::of("a", -1), Success)?;
    Ok(())
}

fn static_members(group: &mut Modern<'_>) -> anyhow::Result<()> {
    let instance = Some("one");
    group.beat("joins", Beat { instance, ..Beat::joining("a") }, Success)?;
    group.describe("static")?;
    group.beat("another under its name", Beat { instance, ..Beat::joining("b") }, UnreleasedInstanceId)?;
    group.beat("another lives under its name", Beat { instance, ..Beat::of("nobody", 2) }, FencedInstanceId)?;
    group.beat("another leaves under its name", Beat { instance, ..Beat::of("nobody", -1) }, FencedInstanceId)?;
    group.beat("another leaves for a while", Beat { instance, ..Beat::of("nobody", -2) }, FencedInstanceId)?;
    group.beat("it leaves for a while", Beat { instance, ..Beat::of("a", -2) }, Success)?;
    group.describe("away")?;
    group.beat("it lives though it has left", Beat { instance, ..Beat::of("a", 2) }, FencedMemberEpoch)?;
    group.beat("it comes back under another id", Beat { instance, ..Beat::joining("c") }, Success)?;
    group.describe("back")?;
    group.beat("under its old id", Beat { instance, ..Beat::of("a", 2) }, FencedInstanceId)?;
    group.beat("it lives", Beat { instance, ..Beat::of("c", 2) }, Success)?;
    group.beat("it leaves for good", Beat { instance, ..Beat::of("c", -1) }, Success)?;
    group.describe("gone")
}

fn offsets(group: &mut Modern<'_>) -> anyhow::Result<()> {
    group.beat("joins", Beat::joining("a"), Success)?;
    group.commit("by the member", "a", 2, 0, 9, Success)?;
    group.commit("in an old version", "a", 2, 0, 8, UnsupportedVersion)?;
    group.commit("in a later epoch", "a", 3, 0, 9, StaleMemberEpoch)?;
    group.commit("in an earlier epoch", "a", 1, 0, 9, StaleMemberEpoch)?;
    group.commit("not a member", "nobody", 2, 0, 9, UnknownMemberId)?;
    group.commit("by no member", "", -1, 0, 9, UnknownMemberId)?;
    group.fetch("by the member", Some("a"), 2)?;
    group.fetch("in another epoch", Some("a"), 3)?;
    group.fetch("not a member", Some("nobody"), 2)?;
    group.fetch("by no member", None, -1)?;
    group.beat("the second joins", Beat::joining("b"), Success)?;
    group.beat("the first gives up", Beat::owning("a", 2, &[0, 1]), Success)?;
    group.beat("the second gets its part", Beat::owning("b", 3, &[]), Success)?;
    // In the epoch in which a partition was assigned and all since (KIP-1251).
    group.commit("what it has kept, in the epoch before", "a", 2, 0, 9, Success)?;
    group.commit("what it has given up", "a", 2, 3, 9, StaleMemberEpoch)?;
    group.commit("what it has got, in the epoch before", "b", 2, 3, 9, StaleMemberEpoch)?;
    group.commit("what it has got", "b", 3, 3, 9, Success)?;
    let delete = |group: &str| OffsetDeleteRequest {
        group_id: group.into(),
        topics: [TOPIC, OTHER]
            .map(|name| odradek_wire::offset_delete_request::OffsetDeleteRequestTopic {
                name: name.into(),
                partitions: vec![Default::default()],
            })
            .to_vec(),
    };
    let request = delete(&group.group);
    group.pair.same(
        &format!("{}: read, and not read", group.group),
        |_| request.clone(),
        |answer| {
            answer.topics.sort_by_key(|topic| topic.name.clone());
        },
    )?;
    group.beat("the first leaves", Beat::of("a", -1), Success)?;
    group.beat("the second leaves", Beat::of("b", -1), Success)?;
    group.commit("to an empty group", "", -1, 1, 9, Success)?;
    group.commit("to an empty group, as a member", "a", 3, 1, 9, UnknownMemberId)?;
    group.fetch("of an empty group", None, -1)
}

/// Assignments that are made once in a while only.
fn waiting(group: &mut Modern<'_>) -> anyhow::Result<()> {
    let resource = AlterConfigsResource {
        resource_type: 32,
        resource_name: group.group.as_str().into(),
        configs: vec![AlterableConfig {
            name: "consumer.assignment.interval.ms".into(),
            value: Some("15000".into()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = AlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let (theirs, ours) = group.pair.both(1, &request)?;
    ensure!(theirs.responses[0].error_code == 0 && ours.responses[0].error_code == 0, "{theirs:?} {ours:?}");
    // Apache Kafka answers before its broker knows of it.
    std::thread::sleep(Duration::from_secs(1));
    group.beat("the first joins", Beat::joining("a"), Success)?;
    group.beat("the second joins", Beat::joining("b"), Success)?;
    group.describe("of two, not assigned")?;
    group.beat("the second waits", Beat::owning("b", 2, &[]), Success)?;
    group.beat("the first has all still", Beat::owning("a", 2, &[0, 1, 2, 3]), Success)?;
    group.describe("of two, still not assigned")?;
    group.beat("the second leaves", Beat::of("b", -1), Success)?;
    group.beat("the first leaves", Beat::of("a", -1), Success)?;
    Ok(())
}

/// Members of both protocols in one group.
fn migrating(group: &mut Modern<'_>) -> anyhow::Result<()> {
    let name = format!("migrating-{}", group.version);
    let join = Join { protocols: &["range"], ..Join::default() };
    let mut classic = Group::new(group.pair, &name, 9);
    let own = classic.id.clone();
    let entering = classic.enter("old", join)?;
    classic.joined("a classic member enters", "old", entering, Success)?;
    group.group = own;
    group.beat("joins a classic group that rebalances", Beat::joining("a"), Success)?;
    group.describe("of both protocols")?;
    group.seen_by_others("of both protocols")?;
    let mut classic = Group::new(group.pair, &name, 9);
    let old = ("old", None);
    classic.heartbeat("of a classic member in a consumer group", old, 1, RebalanceInProgress)?;
    classic.sync("of a classic member that is to join again", Sync::of("old", 1), RebalanceInProgress)?;
    classic.join("a classic member joins a consumer group again", "old", Join::again("old"), Success)?;
    classic.heartbeat("in its former generation", old, 1, IllegalGeneration)?;
    classic.sync("its part in a consumer group", Sync::of("old", 2), Success)?;
    classic.heartbeat("in its new generation", old, 2, Success)?;
    classic.heartbeat("not of its kind", ("nobody", None), 2, UnknownMemberId)?;
    classic.commit("in its new generation", old, 2, Success)?;
    classic.commit("in a later generation", old, 3, IllegalGeneration)?;
    let other = Join { protocols: &["other"], ..Join::default() };
    classic.join("with another protocol", "", other, InconsistentGroupProtocol)?;
    classic.join("one more is given an id", "more", Join { metadata: "more", ..Join::default() }, MemberIdRequired)?;
    classic.leave("a stranger leaves a consumer group", &[("nobody", None)], UnknownMemberId)?;
    group.describe("of both protocols, stable")?;
    group.beat("the new member leaves", Beat::of("a", -1), Success)?;
    group.describe("classic again")?;
    let mut classic = Group::new(group.pair, &name, 9);
    classic.reach("PreparingRebalance", 1)?;
    classic.join("a member of a group that is classic again", "old", Join::again("old"), Success)?;
    classic.leave("the last member leaves", &[old], Success)?;
    classic.describe("empty, and classic again")
}

/// Regular expressions, which Apache Kafka resolves in its own time.
fn expressions(group: &mut Modern<'_>) -> anyhow::Result<()> {
    let regex = Beat { topics: None, regex: Some("modern|nothing"), ..Beat::joining("a") };
    group.beat("an expression that is none", Beat { regex: Some("(modern"), ..regex }, InvalidRegularExpression)?;
    group.describe("not there")?;
    group.beat("joins", regex, Success)?;
    let (name, id, topics) = (group.alias("a"), group.group.clone(), group.topics);
    let pair = &mut *group.pair;
    wait_for("both have resolved it", LIMIT, || {
        let beat = Beat { member: &name, epoch: 0, ..regex };
        let requests = (beat.request(&id, &pair.kafka, topics), beat.request(&id, &pair.ours, topics));
        let (theirs, ours) = pair.both_of(1, &requests.0, &requests.1)?;
        Ok((theirs.member_epoch == 2 && ours.member_epoch == 2).then_some(()))
    })?;
    group.beat("it lives", Beat::owning("a", 2, &[0, 1, 2, 3]), Success)?;
    group.describe("of an expression")?;
    let both = Beat { topics: Some(&[OTHER]), ..Beat::owning("a", 2, &[0, 1, 2, 3]) };
    group.beat("and by name", both, Success)?;
    group.describe("of an expression and a name")?;
    let name = Beat { regex: Some(""), owned: Some([&[0, 1, 2, 3], &[0, 1]]), ..Beat::of("a", 3) };
    group.beat("by name alone", name, Success)?;
    group.beat("given up", Beat { owned: Some([&[], &[0, 1]]), ..Beat::of("a", 3) }, Success)?;
    group.describe("of a name")?;
    group.beat("leaves", Beat::of("a", -1), Success)?;
    Ok(())
}
