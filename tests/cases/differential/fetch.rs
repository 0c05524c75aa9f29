//! Fetch.

use odradek_tests::differential::Pair;
use odradek_tests::wire::Batch;
use odradek_wire::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use odradek_wire::{FetchRequest, FetchResponse, Uuid};

use super::{prepare, produce_to, topic};

/// The first version that names topics by id.
const TOPIC_IDS: i16 = 13;
/// The first version with sessions, and the first with leader epochs.
const SESSIONS: i16 = 7;
const LEADER_EPOCHS: i16 = 9;
/// The first version in which a follower says its broker epoch.
const REPLICA_STATE: i16 = 15;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("read", 2, 1), topic("read-too", 1, 1), topic("read-empty", 1, 1)])?;
    for (name, partition, value) in [("read", 0, "a"), ("read", 0, "b"), ("read", 1, "c"), ("read-too", 0, "d")] {
        let values = [value.as_bytes().to_vec(), b"second".to_vec()];
        let written = pair.both(9, &produce_to(name, partition, Batch::of(&values).encode(), -1))?;
        anyhow::ensure!(written.0.responses[0].partition_responses[0].error_code == 0, "{written:?}");
    }
    alone(pair)?;
    sessions(pair)
}

/// Session ids are drawn at random. Apache Kafka puts last what it refused unread.
fn level(answer: &mut FetchResponse) {
    answer.session_id = answer.session_id.signum();
    answer.responses.sort_by_key(|topic| {
        let refused = topic.partitions.iter().all(|partition| partition.error_code != 0);
        (refused, topic.topic.clone())
    });
    for topic in &mut answer.responses {
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
}

fn partition(index: i32, offset: i64) -> FetchPartition {
    FetchPartition { partition: index, fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() }
}

/// Topics with the partitions that are read of each.
type Wanted<'a> = &'a [(&'a str, &'a [FetchPartition])];

/// The whole of one request, the ids in place of names where that is due.
fn request(version: i16, wanted: Wanted<'_>, ids: &[Uuid]) -> FetchRequest {
    let topics = wanted.iter().zip(ids).map(|((name, partitions), id)| FetchTopic {
        topic: if version < TOPIC_IDS { (*name).into() } else { "".into() },
        topic_id: if version < TOPIC_IDS { Uuid::ZERO } else { *id },
        partitions: partitions.to_vec(),
        ..Default::default()
    });
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 1 << 20,
        topics: topics.collect(),
        session_epoch: -1,
        ..base(version)
    }
}

fn base(version: i16) -> FetchRequest {
    let _ = version;
    FetchRequest { replica_id: -1, ..Default::default() }
}

/// The ids of the topics that are named, on each side; of an unknown one the same for both.
fn ids(pair: &mut Pair, wanted: Wanted<'_>) -> anyhow::Result<(Vec<Uuid>, Vec<Uuid>)> {
    let mut both = (Vec::new(), Vec::new());
    for (name, _) in wanted {
        let ids = if name.starts_with("read") { pair.topic_ids(name)? } else { (Uuid([7; 16]), Uuid([7; 16])) };
        both.0.push(ids.0);
        both.1.push(ids.1);
    }
    Ok(both)
}

fn same(
    pair: &mut Pair,
    case: &str,
    from_version: i16,
    wanted: Wanted<'_>,
    change: impl Fn(&mut FetchRequest),
) -> anyhow::Result<()> {
    let (kafka, ours) = ids(pair, wanted)?;
    for version in pair.versions::<FetchRequest>()?.filter(|version| *version >= from_version) {
        let made = |ids: &[Uuid]| {
            let mut made = request(version, wanted, ids);
            change(&mut made);
            made
        };
        pair.same_at(case, version, &made(&kafka), &made(&ours), level)?;
    }
    Ok(())
}

/// Requests without a session.
fn alone(pair: &mut Pair) -> anyhow::Result<()> {
    let nothing = |_: &mut FetchRequest| ();
    same(pair, "a partition", 0, &[("read", &[partition(0, 0)])], nothing)?;
    same(pair, "from the middle of a batch", 0, &[("read", &[partition(0, 3)])], nothing)?;
    same(pair, "from the end", 0, &[("read", &[partition(0, 4)])], nothing)?;
    same(pair, "an empty partition", 0, &[("read-empty", &[partition(0, 0)])], nothing)?;
    let all: Wanted<'_> = &[("read", &[partition(0, 0), partition(1, 0)]), ("read-too", &[partition(0, 0)])];
    same(pair, "several", 0, all, nothing)?;
    same(pair, "committed", 0, &[("read", &[partition(0, 0)])], |request| request.isolation_level = 1)?;
    same(pair, "beyond the end", 0, &[("read", &[partition(0, 5)])], nothing)?;
    same(pair, "before the start", 0, &[("read", &[partition(0, -1)])], nothing)?;
    same(pair, "a partition that is not there", 0, &[("read", &[partition(9, 0), partition(1, 0)])], nothing)?;
    same(pair, "an unknown topic", 0, &[("never", &[partition(0, 0)])], nothing)?;
    same(
        pair,
        "an unknown one among others",
        0,
        &[("never", &[partition(0, 0)]), ("read", &[partition(1, 0)])],
        nothing,
    )?;
    // Of a partition that is there twice Apache Kafka answers the last; here both are answered.
    same(pair, "no topics", 0, &[], nothing)?;
    same(pair, "few bytes of a partition", 0, &[("read", &[small(0), small(1)])], nothing)?;
    same(pair, "few bytes in all", 0, all, |request| request.max_bytes = 1)?;
    same(pair, "no bytes", 0, all, |request| request.max_bytes = 0)?;
    // Less than none at all is an unknown server error in Apache Kafka.
    let epoch = |epoch| FetchPartition { current_leader_epoch: epoch, ..partition(0, 0) };
    same(pair, "the leader's epoch", LEADER_EPOCHS, &[("read", &[epoch(0)])], nothing)?;
    same(pair, "a later epoch", LEADER_EPOCHS, &[("read", &[epoch(5)])], nothing)?;
    let diverging = FetchPartition { last_fetched_epoch: 5, ..partition(0, 0) };
    same(pair, "a diverging epoch", 12, &[("read", &[diverging])], nothing)?;
    let agreeing = FetchPartition { last_fetched_epoch: 0, ..partition(0, 2) };
    same(pair, "an epoch that agrees", 12, &[("read", &[agreeing])], nothing)?;
    let beyond = FetchPartition { last_fetched_epoch: 0, ..partition(0, 9) };
    same(pair, "beyond an epoch's end", 12, &[("read", &[beyond])], nothing)?;
    same(pair, "a follower that keeps no replica", 0, &[("read", &[partition(0, 0)])], |request| {
        // Which field it is depends on the version; the other one must be as it is by default.
        request.replica_id = 7;
    })?;
    same(pair, "a follower with a broker epoch", REPLICA_STATE, &[("read", &[partition(0, 0)])], |request| {
        request.replica_id = -1;
        request.replica_state = ReplicaState { replica_id: 7, replica_epoch: 3, ..Default::default() };
    })?;
    Ok(())
}

fn small(index: i32) -> FetchPartition {
    FetchPartition { partition_max_bytes: 1, ..partition(index, 0) }
}

fn sessions(pair: &mut Pair) -> anyhow::Result<()> {
    let read: Wanted<'_> = &[("read", &[partition(0, 0)])];
    same(pair, "an unknown session", SESSIONS, read, |request| {
        (request.session_id, request.session_epoch) = (123_456, 1);
    })?;
    same(pair, "an unknown session that is closed", SESSIONS, read, |request| {
        (request.session_id, request.session_epoch) = (123_456, -1);
    })?;
    same(pair, "an epoch without a session", SESSIONS, read, |request| {
        (request.session_id, request.session_epoch) = (0, 5);
    })?;
    let wanted: Wanted<'_> = &[("read", &[partition(0, 4), partition(1, 0)]), ("read-empty", &[partition(0, 0)])];
    let (kafka_ids, our_ids) = ids(pair, wanted)?;
    for version in pair.versions::<FetchRequest>()?.filter(|version| *version >= SESSIONS) {
        let full = |ids: &[Uuid]| FetchRequest { session_id: 0, session_epoch: 0, ..request(version, wanted, ids) };
        let (kafka, ours) = pair.both_of(version, &full(&kafka_ids), &full(&our_ids))?;
        let sessions = (kafka.session_id, ours.session_id);
        let mut next = |case: &str, epoch: i32, wanted: Wanted<'_>, forgotten: &[(usize, i32)]| {
            let made = |session_id: i32, ids: &[Uuid]| {
                let forgotten = forgotten.iter().map(|(at, partition)| ForgottenTopic {
                    topic: if version < TOPIC_IDS { ["read", "read-empty"][*at].into() } else { "".into() },
                    topic_id: if version < TOPIC_IDS { Uuid::ZERO } else { ids[*at] },
                    partitions: vec![*partition],
                    ..Default::default()
                });
                FetchRequest {
                    session_id,
                    session_epoch: epoch,
                    forgotten_topics_data: forgotten.collect(),
                    ..request(version, wanted, ids)
                }
            };
            pair.same_at(case, version, &made(sessions.0, &kafka_ids), &made(sessions.1, &our_ids), level)
        };
        next("what is new in a session", 1, &[], &[])?;
        next("an epoch again", 1, &[], &[])?;
        next("an epoch too far", 7, &[], &[])?;
        next("a partition is read on", 2, &[("read", &[partition(1, 2)])], &[])?;
        next("a partition is forgotten", 3, &[], &[(0, 0)])?;
        next("an unknown partition is added", 4, &[("read", &[partition(9, 0)])], &[])?;
        next("and asked again", 5, &[], &[])?;
        next("out of range", 6, &[("read", &[partition(1, 99)])], &[])?;
        next("a session is closed", -1, &[], &[])?;
        next("and asked again, being closed", 1, &[], &[])?;
    }
    // A session that was opened by names goes on by ids, and the other way round.
    for (opened, continued) in [(12, 13), (13, 12)] {
        let full = |ids: &[Uuid]| FetchRequest { session_id: 0, session_epoch: 0, ..request(opened, wanted, ids) };
        let (kafka, ours) = pair.both_of(opened, &full(&kafka_ids), &full(&our_ids))?;
        let on = |session_id: i32, ids: &[Uuid]| FetchRequest {
            session_id,
            session_epoch: 1,
            ..request(continued, read, ids)
        };
        let (kafka, ours) = (on(kafka.session_id, &kafka_ids), on(ours.session_id, &our_ids));
        pair.same_at(&format!("a session of version {opened}"), continued, &kafka, &ours, level)?;
    }
    Ok(())
}
