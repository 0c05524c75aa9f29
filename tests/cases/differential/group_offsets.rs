//! OffsetCommit, OffsetFetch and OffsetDelete, mostly of groups without members.

use odradek_common::{ErrorCode, Uuid};
use odradek_tests::differential::Pair;
use odradek_wire::offset_commit_request::OffsetCommitRequestTopic;
use odradek_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use odradek_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use odradek_wire::{
    DeleteTopicsRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetFetchRequest,
    OffsetFetchResponse,
};

use super::groups::{Group, Join, MANY_GROUPS, STATIC_COMMIT, Sync, TOPIC, TOPIC_IDS, commit_of, fetch_request};
use super::{prepare, topic};

/// The first versions of OffsetFetch that ask for all topics, for stable offsets, and as a member.
const ALL_TOPICS: i16 = 2;
const STABLE: i16 = 7;
const MEMBER_EPOCH: i16 = 9;

/// As much metadata as `offset.metadata.max.bytes` allows by default.
const METADATA_MAX: usize = 4096;

/// The ids of a topic: Apache Kafka's, and ours.
type Ids = (Uuid, Uuid);

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    let ids = pair.topic_ids(TOPIC)?;
    commits(pair, ids)?;
    fetches(pair, ids)?;
    fetches_of_many(pair, ids)?;
    after_topics(pair)?;
    deletes(pair)
}

// ---------------------------------------------------------------- commit

/// A commit of nobody's, in a group of its version.
fn commit(group: &str, version: i16, topics: Vec<OffsetCommitRequestTopic>) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: format!("{group}-{version}").as_str().into(),
        generation_id_or_member_epoch: -1,
        topics,
        ..Default::default()
    }
}

/// At every version; `topics` is told the version and the topic's id.
fn same_commit(
    pair: &mut Pair,
    case: &str,
    ids: Ids,
    request: impl Fn(i16, Uuid) -> OffsetCommitRequest,
    level: impl Fn(&mut OffsetCommitResponse),
) -> anyhow::Result<()> {
    for version in pair.versions::<OffsetCommitRequest>()? {
        pair.same_at(case, version, &request(version, ids.0), &request(version, ids.1), &level)?;
    }
    Ok(())
}

/// The order of topics, and that of partitions, is that of a hash table where some are refused before others.
fn level_commit(answer: &mut OffsetCommitResponse) {
    answer.topics.sort_by_key(|topic| (topic.name.clone(), topic.partitions.first().map(|one| one.error_code)));
    answer.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|partition| partition.partition_index));
}

fn commits(pair: &mut Pair, ids: Ids) -> anyhow::Result<()> {
    let large = "m".repeat(METADATA_MAX);
    let too_large = "m".repeat(METADATA_MAX + 1);
    let wide = "\u{20ac}".repeat(METADATA_MAX);
    let one = |metadata: Option<&str>| {
        let metadata = metadata.map(str::to_owned);
        move |v, id| commit("committed", v, vec![commit_of(TOPIC, id, &[(0, 11, metadata.as_deref())])])
    };
    same_commit(pair, "an offset", ids, one(Some("noted")), |_| ())?;
    same_commit(pair, "no metadata", ids, one(None), |_| ())?;
    same_commit(pair, "as much metadata as may be", ids, one(Some(&large)), |_| ())?;
    same_commit(pair, "as many wide characters", ids, one(Some(&wide)), |_| ())?;
    same_commit(pair, "more metadata than may be", ids, one(Some(&too_large)), |_| ())?;
    let partitions = |partitions: &'static [(i32, i64, Option<&str>)]| {
        move |v, id| commit("committed", v, vec![commit_of(TOPIC, id, partitions)])
    };
    same_commit(pair, "several", ids, partitions(&[(0, 1, Some("a")), (1, 2, None), (2, 3, Some("b"))]), |_| ())?;
    same_commit(pair, "a partition twice", ids, partitions(&[(0, 4, Some("a")), (0, 5, Some("b"))]), |_| ())?;
    same_commit(pair, "no partitions", ids, partitions(&[]), |_| ())?;
    for (case, offset) in [("offset -1", -1), ("offset -2", -2), ("the last offset", i64::MAX)] {
        let request = move |v, id| commit("committed-ends", v, vec![commit_of(TOPIC, id, &[(1, offset, None)])]);
        same_commit(pair, case, ids, request, |_| ())?;
    }
    let unknown = |partition| move |v, id| commit("refused", v, vec![commit_of(TOPIC, id, &[(partition, 1, None)])]);
    same_commit(pair, "a partition that is not there", ids, unknown(9), |_| ())?;
    same_commit(pair, "a negative partition", ids, unknown(-1), |_| ())?;
    let mixed = partitions(&[(0, 6, Some("a")), (9, 1, None), (1, 7, Some("b"))]);
    same_commit(pair, "some partitions are not there", ids, mixed, level_commit)?;
    let metadata = move |v, id| {
        let parts = [(0, 6, Some("a")), (1, 1, Some(too_large.as_str())), (2, 7, Some("b"))];
        commit("committed", v, vec![commit_of(TOPIC, id, &parts)])
    };
    same_commit(pair, "one has too much metadata", ids, metadata, |_| ())?;
    let stranger = Uuid::from_random([7; 16]);
    for (case, name, id) in [
        ("an unknown topic", "never-grouped", stranger),
        ("no name", "", Uuid::ZERO),
        ("a wrong name", "wrong/name", stranger),
    ] {
        let alone = move |v, _| commit("refused", v, vec![commit_of(name, id, &[(0, 1, None)])]);
        same_commit(pair, case, ids, alone, |_| ())?;
        let beside = move |v, own| {
            let topics = vec![commit_of(name, id, &[(0, 1, None)]), commit_of(TOPIC, own, &[(2, 8, Some("beside"))])];
            commit("committed", v, topics)
        };
        same_commit(pair, &format!("{case}, and another"), ids, beside, level_commit)?;
    }
    let twice = |v, id| {
        let topics = vec![commit_of(TOPIC, id, &[(0, 1, None)]), commit_of(TOPIC, id, &[(1, 2, None)])];
        commit("committed-twice", v, topics)
    };
    same_commit(pair, "a topic twice", ids, twice, |_| ())?;
    same_commit(pair, "no topics", ids, |v, _| commit("committed", v, Vec::new()), |_| ())?;
    same_commit(
        pair,
        "no group id",
        ids,
        |v, id| OffsetCommitRequest {
            group_id: "".into(),
            ..commit("", v, vec![commit_of(TOPIC, id, &[(0, 1, None)])])
        },
        |_| (),
    )?;
    let of = |generation: i32, member: &'static str, group: &'static str| {
        move |v, id| OffsetCommitRequest {
            generation_id_or_member_epoch: generation,
            member_id: member.into(),
            ..commit(group, v, vec![commit_of(TOPIC, id, &[(0, 1, None)])])
        }
    };
    same_commit(pair, "a generation of no group", ids, of(0, "", "refused"), |_| ())?;
    same_commit(pair, "a member of no group", ids, of(3, "someone", "refused"), |_| ())?;
    same_commit(pair, "a member of no group, without a generation", ids, of(-1, "someone", "made-by"), |_| ())?;
    same_commit(pair, "a generation of an empty group", ids, of(0, "", "committed"), |_| ())?;
    same_commit(pair, "a member of an empty group", ids, of(3, "someone", "committed"), |_| ())?;
    same_commit(pair, "a member of an empty group, no generation", ids, of(-1, "someone", "committed"), |_| ())?;
    for version in pair.versions::<OffsetCommitRequest>()?.filter(|version| *version >= STATIC_COMMIT) {
        for (case, generation, group) in [
            ("an instance of no group", 3, "refused"),
            ("an instance of an empty group", 0, "committed"),
            ("an instance without a generation", -1, "committed"),
        ] {
            let request = |id| OffsetCommitRequest {
                group_instance_id: Some("instance".into()),
                ..of(generation, "someone", group)(version, id)
            };
            pair.same_at(case, version, &request(ids.0), &request(ids.1), |_| ())?;
        }
    }
    for retention in [0, 1, 100_000_000, -2] {
        let request = move |v, id| OffsetCommitRequest {
            retention_time_ms: retention,
            ..commit("retained", v, vec![commit_of(TOPIC, id, &[(0, 9, Some("retained"))])])
        };
        same_commit(pair, &format!("kept for {retention} ms"), ids, request, |_| ())?;
    }
    let epoch = |v, id| {
        let mut topic = commit_of(TOPIC, id, &[(1, 12, Some("of an epoch"))]);
        topic.partitions[0].committed_leader_epoch = 5;
        commit("committed", v, vec![topic])
    };
    same_commit(pair, "with a leader epoch", ids, epoch, |_| ())
}

// ---------------------------------------------------------------- fetch

/// At every version, of the group that [`commits`] left at the newest version of OffsetCommit.
fn same_fetch(
    pair: &mut Pair,
    case: &str,
    ids: Ids,
    request: impl Fn(i16, Uuid) -> OffsetFetchRequest,
) -> anyhow::Result<()> {
    for version in pair.versions::<OffsetFetchRequest>()? {
        for stable in [false, true] {
            if stable && version < STABLE {
                continue;
            }
            let case = format!("{case}{}", if stable { ", stable" } else { "" });
            let of = |id| OffsetFetchRequest { require_stable: stable, ..request(version, id) };
            pair.same_at(&case, version, &of(ids.0), &of(ids.1), level_fetch)?;
        }
    }
    Ok(())
}

/// Of all topics, the order of Apache Kafka's is that of a hash table.
fn level_fetch(answer: &mut OffsetFetchResponse) {
    answer.topics.sort_by_key(|topic| topic.name.clone());
    for topic in &mut answer.topics {
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
    for group in &mut answer.groups {
        let first = |topic: &odradek_wire::offset_fetch_response::OffsetFetchResponseTopics| {
            let first = topic.partitions.iter().map(|partition| partition.committed_offset).max();
            (topic.name.clone(), first)
        };
        group.topics.sort_by_key(first);
        for topic in &mut group.topics {
            topic.partitions.sort_by_key(|partition| partition.partition_index);
        }
    }
}

/// Of all topics of a group.
fn all_of(group: &str, version: i16) -> OffsetFetchRequest {
    if version < MANY_GROUPS {
        return OffsetFetchRequest { group_id: group.into(), topics: None, ..Default::default() };
    }
    let group = OffsetFetchRequestGroup { group_id: group.into(), topics: None, ..Default::default() };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

fn fetches(pair: &mut Pair, ids: Ids) -> anyhow::Result<()> {
    let stranger = Uuid::from_random([7; 16]);
    for group in [
        "committed-9",
        "committed-10",
        "committed-2",
        "committed-ends-9",
        "retained-3",
        "made-by-9",
        "none",
        "",
        "refused-9",
    ] {
        let case = |what: &str| format!("{what} of {group:?}");
        same_fetch(pair, &case("some"), ids, |v, id| fetch_request(group, v, TOPIC, id, &[0, 1, 2]))?;
        same_fetch(pair, &case("one, twice"), ids, |v, id| fetch_request(group, v, TOPIC, id, &[1, 1]))?;
        same_fetch(pair, &case("no partitions"), ids, |v, id| fetch_request(group, v, TOPIC, id, &[]))?;
        same_fetch(pair, &case("partitions that are not there"), ids, |v, id| {
            fetch_request(group, v, TOPIC, id, &[0, 9, -1])
        })?;
        same_fetch(pair, &case("an unknown topic"), ids, |v, _| {
            fetch_request(group, v, "never-grouped", stranger, &[0, 1])
        })?;
        same_fetch(pair, &case("no name"), ids, |v, _| fetch_request(group, v, "", Uuid::ZERO, &[0]))?;
        same_fetch(pair, &case("no topics"), ids, |v, _| without_topics(all_of(group, v)))?;
        for version in pair.versions::<OffsetFetchRequest>()?.filter(|version| *version >= ALL_TOPICS) {
            for stable in [false, true] {
                if stable && version < STABLE {
                    continue;
                }
                let request = OffsetFetchRequest { require_stable: stable, ..all_of(group, version) };
                pair.same_at(&case(&format!("all, stable {stable},")), version, &request, &request, level_fetch)?;
            }
        }
    }
    Ok(())
}

fn without_topics(mut request: OffsetFetchRequest) -> OffsetFetchRequest {
    request.topics = request.topics.or(Some(Vec::new()));
    request.groups.iter_mut().for_each(|group| group.topics = Some(Vec::new()));
    request
}

/// What newer versions ask: many groups, and as a member.
fn fetches_of_many(pair: &mut Pair, ids: Ids) -> anyhow::Result<()> {
    for version in pair.versions::<OffsetFetchRequest>()?.filter(|version| *version >= MANY_GROUPS) {
        let some = |group: &str, id| fetch_request(group, version, TOPIC, id, &[0, 1]).groups.remove(0);
        let all = |group: &str| all_of(group, version).groups.remove(0);
        let level = |answer: &mut OffsetFetchResponse| {
            level_fetch(answer);
            answer.groups.sort_by_key(|group| (group.group_id.clone(), group.topics.len()));
        };
        let many = |id| vec![some("committed-9", id), all("committed-8"), some("none", id), all("none"), some("", id)];
        let twice = |id| vec![some("committed-9", id), some("committed-9", id)];
        for stable in [false, true] {
            let request = |groups| OffsetFetchRequest { groups, require_stable: stable, ..Default::default() };
            let case = format!("many groups, stable {stable}");
            pair.same_at(&case, version, &request(many(ids.0)), &request(many(ids.1)), level)?;
            let case = format!("a group twice, stable {stable}");
            pair.same_at(&case, version, &request(twice(ids.0)), &request(twice(ids.1)), level)?;
            let case = format!("no groups, stable {stable}");
            pair.same_at(&case, version, &request(Vec::new()), &request(Vec::new()), level)?;
        }
        if version < MEMBER_EPOCH {
            continue;
        }
        for (member_id, member_epoch) in [(None, 3), (Some("someone"), -1), (Some("someone"), 3), (Some(""), 0)] {
            for group in ["committed-9", "none"] {
                let of = |group: OffsetFetchRequestGroup| OffsetFetchRequest {
                    groups: vec![OffsetFetchRequestGroup {
                        member_id: member_id.map(Into::into),
                        member_epoch,
                        ..group
                    }],
                    ..Default::default()
                };
                let case = format!("of {group} as {member_id:?} in epoch {member_epoch}");
                pair.same_at(&case, version, &of(some(group, ids.0)), &of(some(group, ids.1)), level)?;
                pair.same_at(&format!("all {case}"), version, &of(all(group)), &of(all(group)), level)?;
            }
        }
        let topics = |id| {
            let topic = |name: &str, topic_id, partitions: &[i32]| OffsetFetchRequestTopics {
                name: name.into(),
                topic_id,
                partition_indexes: partitions.to_vec(),
                ..Default::default()
            };
            let stranger = Uuid::from_random([7; 16]);
            let topics = vec![topic("never-grouped", stranger, &[0]), topic(TOPIC, id, &[0, 2])];
            let group =
                OffsetFetchRequestGroup { group_id: "committed-9".into(), topics: Some(topics), ..Default::default() };
            OffsetFetchRequest { groups: vec![group], ..Default::default() }
        };
        pair.same_at("a topic that is there, and one that is not", version, &topics(ids.0), &topics(ids.1), level)?;
    }
    Ok(())
}

/// Offsets go with their topic.
fn after_topics(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("grouped-once", 1, 1)])?;
    let before = pair.topic_ids("grouped-once")?;
    let request = |id| OffsetCommitRequest {
        group_id: "after".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![commit_of("grouped-once", id, &[(0, 5, Some("before"))])],
        ..Default::default()
    };
    pair.same_at("before the topic is deleted", TOPIC_IDS - 1, &request(before.0), &request(before.1), |_| ())?;
    let delete =
        DeleteTopicsRequest { topic_names: vec!["grouped-once".into()], timeout_ms: 10_000, ..Default::default() };
    pair.both(5, &delete)?;
    // Gone from the metadata, and then from the groups.
    let fetch = fetch_request("after", STABLE, "grouped-once", Uuid::ZERO, &[0]);
    odradek_tests::wait_for("the offset goes with its topic", std::time::Duration::from_secs(60), || {
        let (theirs, ours) = pair.both(STABLE, &fetch)?;
        let mut all = theirs.topics.iter().chain(&ours.topics).flat_map(|topic| &topic.partitions);
        Ok(all.all(|partition| partition.committed_offset == -1).then_some(()))
    })?;
    same_fetch(pair, "a deleted topic", before, |v, id| fetch_request("after", v, "grouped-once", id, &[0]))?;
    for version in pair.versions::<OffsetFetchRequest>()?.filter(|version| *version >= ALL_TOPICS) {
        let request = all_of("after", version);
        pair.same_at("all, of a deleted topic", version, &request, &request, level_fetch)?;
    }
    prepare(pair, vec![topic("grouped-once", 1, 1)])?;
    let after = pair.topic_ids("grouped-once")?;
    same_fetch(pair, "the topic's successor", after, |v, id| fetch_request("after", v, "grouped-once", id, &[0]))
}

// ---------------------------------------------------------------- delete

fn delete(group: &str, topics: &[(&str, &[i32])]) -> OffsetDeleteRequest {
    let topics = topics.iter().map(|(name, partitions)| OffsetDeleteRequestTopic {
        name: (*name).into(),
        partitions: partitions
            .iter()
            .map(|partition_index| OffsetDeleteRequestPartition { partition_index: *partition_index })
            .collect(),
    });
    OffsetDeleteRequest { group_id: group.into(), topics: topics.collect() }
}

fn deletes(pair: &mut Pair) -> anyhow::Result<()> {
    let level = |answer: &mut odradek_wire::OffsetDeleteResponse| {
        answer.topics.sort_by_key(|topic| topic.name.clone());
        answer.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|one| one.partition_index));
    };
    for (case, group, topics) in [
        ("no group id", "", &[(TOPIC, &[0][..])][..]),
        ("no group", "none", &[(TOPIC, &[0])]),
        ("no group, an unknown topic", "none", &[("never-grouped", &[0])]),
        ("an unknown topic", "committed-9", &[("never-grouped", &[0, 1])]),
        ("no name", "committed-9", &[("", &[0])]),
        ("partitions that are not there", "committed-9", &[(TOPIC, &[9, -1])]),
        ("no topics", "committed-9", &[]),
        ("no partitions", "committed-9", &[(TOPIC, &[])]),
        ("some", "committed-9", &[("never-grouped", &[0]), (TOPIC, &[0, 9])]),
        ("again", "committed-9", &[(TOPIC, &[0])]),
        ("one twice", "committed-9", &[(TOPIC, &[1, 1])]),
        ("a topic twice", "committed-8", &[(TOPIC, &[1]), (TOPIC, &[0])]),
        ("all", "committed-8", &[(TOPIC, &[0, 1, 2])]),
    ] {
        pair.same(case, |_| delete(group, topics), level)?;
        pair.same(&format!("left after {case:?}"), |v| all_if(group, v), level_fetch)?;
    }

    // Consumers' groups keep what they read; of others it is not known what they read.
    let consumers = "subscribed-9".to_owned();
    let mut group = Group::new(pair, "subscribed", 9);
    one_member(&mut group, "consumer", "range")?;
    group.commit("a member", ("member", None), 1, ErrorCode::None)?;
    prepare(group.pair, vec![topic("not-read", 1, 1)])?;
    group.pair.same("of topics that a group reads", |_| delete(&consumers, &[(TOPIC, &[0])]), level)?;
    group.pair.same("of a topic that it does not read", |_| delete(&consumers, &[("not-read", &[0])]), level)?;
    let both: &[(&str, &[i32])] = &[(TOPIC, &[0]), ("not-read", &[0])];
    group.pair.same("of both", |_| delete(&consumers, both), level)?;
    let mut group = Group::new(pair, "workers", 9);
    one_member(&mut group, "connect", "compatible")?;
    let workers = "workers-9".to_owned();
    group.pair.same("of workers", |_| delete(&workers, &[(TOPIC, &[0])]), level)?;
    group.pair.same("of workers, an unknown topic", |_| delete(&workers, &[("never-grouped", &[0])]), level)?;
    group.pair.same("of workers, nothing", |_| delete(&workers, &[]), level)?;
    Ok(())
}

/// All topics at the versions that can ask for them, else one.
fn all_if(group: &str, version: i16) -> OffsetFetchRequest {
    if version >= ALL_TOPICS { all_of(group, version) } else { fetch_request(group, version, TOPIC, Uuid::ZERO, &[0]) }
}

/// A stable group of one member, that is called `member`.
pub fn one_member(group: &mut Group<'_>, protocol_type: &str, protocol: &str) -> anyhow::Result<()> {
    let protocols = [protocol];
    let entering = group.enter("member", Join { protocol_type, protocols: &protocols, ..Default::default() })?;
    let generation = group.joined("one member", "member", entering, ErrorCode::None)?;
    let sync = Sync {
        protocol: (protocol_type, protocol),
        assignments: &[("member", "all")],
        ..Sync::of("member", generation)
    };
    group.sync("all of it", sync, ErrorCode::None)?;
    group.reach("Stable", 1)
}
