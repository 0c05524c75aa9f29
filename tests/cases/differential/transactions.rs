//! Transactions: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn, transactional Produce,
//! WriteTxnMarkers, DescribeTransactions, ListTransactions. Each side gives out its own producer ids.

use std::time::Duration;

use odradek_common::{ProducerEpoch, ProducerId};
use odradek_records::RecordBatchBuilder;
use odradek_tests::differential::{Pair, Side};
use odradek_tests::wait_for;
use odradek_wire::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use odradek_wire::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
use odradek_wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use odradek_wire::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest,
    FindCoordinatorRequest, InitProducerIdRequest, ListTransactionsRequest, ProduceRequest, TxnOffsetCommitRequest,
    WriteTxnMarkersRequest,
};

use super::{prepare, produce_to, topic};

const TOPIC: &str = "transacted";

/// The first version of EndTxn that bumps the epoch.
const BUMPED: i16 = 5;

/// The first version of AddPartitionsToTxn that brokers send.
const FROM_BROKERS: i16 = 4;

/// The first version of Produce and of TxnOffsetCommit whose topics have ids instead of names.
const PRODUCE_IDS: i16 = 13;
const COMMIT_IDS: i16 = 6;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic(TOPIC, 3, 1)])?;
    find_coordinators(pair)?;
    inits(pair)?;
    for version in pair.versions::<EndTxnRequest>()? {
        life(pair, version)?;
    }
    from_brokers(pair)?;
    offsets(pair)?;
    produces(pair)?;
    markers(pair)?;
    administration(pair)
}

/// Makes the topics of both coordinators.
fn find_coordinators(pair: &mut Pair) -> anyhow::Result<()> {
    for (key_type, key) in [(0, "transacting"), (1, "transacting")] {
        let request = FindCoordinatorRequest {
            key_type,
            coordinator_keys: vec![key.into()],
            ..FindCoordinatorRequest::default()
        };
        wait_for("coordinators", PATIENCE * 2, || {
            let (theirs, ours) = pair.both(4, &request)?;
            let mut found = theirs.coordinators.iter().chain(&ours.coordinators);
            Ok(found.all(|found| found.error_code == 0).then_some(()))
        })?;
    }
    let request = |v: i16| FindCoordinatorRequest {
        key_type: if v >= 1 { 1 } else { 0 },
        key: if v < 4 { "transacting".into() } else { "".into() },
        coordinator_keys: if v >= 4 { vec!["transacting".into(), "other".into()] } else { Vec::new() },
        ..FindCoordinatorRequest::default()
    };
    pair.same("of a transactional id", request, |_| ())
}

// ---------------------------------------------------------------- what both are asked

/// What a side calls the producer of a transactional id.
fn known(side: &Side, id: &str) -> i64 {
    side.own(id).parse().unwrap_or(-1)
}

fn init_request(id: &str, version: i16, timeout_ms: i32, expected: Option<(i64, i16)>) -> InitProducerIdRequest {
    let (producer_id, producer_epoch) = expected.filter(|_| version >= 3).unwrap_or((-1, -1));
    InitProducerIdRequest {
        transactional_id: Some(id.into()),
        transaction_timeout_ms: timeout_ms,
        producer_id,
        producer_epoch,
        ..InitProducerIdRequest::default()
    }
}

/// Remembers the id that was given. What it is differs from one side to the other.
fn learn(id: &str) -> impl Fn(&mut Side, &odradek_wire::InitProducerIdResponse) {
    move |side, answer| {
        if answer.error_code == 0 {
            side.remember(&answer.producer_id.to_string(), id);
        }
    }
}

fn level_init(answer: &mut odradek_wire::InitProducerIdResponse) {
    answer.producer_id = answer.producer_id.min(0);
}

/// InitProducerId; while a transaction ends, and while the coordinators are loaded, both are asked again.
fn init(pair: &mut Pair, case: &str, id: &str, version: i16, expected: Option<i16>) -> anyhow::Result<i16> {
    settle(pair, id)?;
    let request = |side: &Side| {
        let expected = expected.map(|epoch| (known(side, id), epoch));
        init_request(id, version, 60_000, expected)
    };
    let (_, ours) = pair.same_in_own_names(case, version, request, learn(id), level_init)?;
    Ok(ours.producer_epoch)
}

/// Waits until both have no end of a transaction under way.
fn settle(pair: &mut Pair, id: &str) -> anyhow::Result<()> {
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.into()], ..Default::default() };
    wait_for("no end of a transaction is under way", PATIENCE, || {
        let (theirs, ours) = pair.both(0, &request)?;
        let mut states = theirs.transaction_states.iter().chain(&ours.transaction_states);
        let is_settled = |state: &odradek_wire::describe_transactions_response::TransactionState| {
            state.error_code != 14 && !state.transaction_state.starts_with("Prepare")
        };
        Ok(states.all(is_settled).then_some(()))
    })
}

fn partitions(topics: &[(&str, &[i32])]) -> Vec<AddPartitionsToTxnTopic> {
    let topic = |(name, partitions): &(&str, &[i32])| AddPartitionsToTxnTopic {
        name: (*name).into(),
        partitions: partitions.to_vec(),
        ..AddPartitionsToTxnTopic::default()
    };
    topics.iter().map(topic).collect()
}

/// The order is that of a hash table.
fn level_added(answer: &mut odradek_wire::AddPartitionsToTxnResponse) {
    let of_transactions = answer.results_by_transaction.iter_mut().map(|result| &mut result.topic_results);
    for topics in of_transactions.chain([&mut answer.results_by_topic_v3_and_below]) {
        topics.sort_by_key(|topic| topic.name.clone());
        topics.iter_mut().for_each(|topic| topic.results_by_partition.sort_by_key(|one| one.partition_index));
    }
    answer.results_by_transaction.sort_by_key(|result| result.transactional_id.clone());
}

/// AddPartitionsToTxn of a client.
fn add(
    pair: &mut Pair,
    case: &str,
    version: i16,
    (id, of, epoch): (&str, &str, i16),
    topics: &[(&str, &[i32])],
) -> anyhow::Result<()> {
    let request = |side: &Side| AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: id.into(),
        v3_and_below_producer_id: known(side, of),
        v3_and_below_producer_epoch: epoch,
        v3_and_below_topics: partitions(topics),
        ..AddPartitionsToTxnRequest::default()
    };
    pair.same_in_own_names(case, version.min(3), request, |_, _| (), level_added).map(drop)
}

fn end(
    pair: &mut Pair,
    case: &str,
    version: i16,
    (id, of, epoch): (&str, &str, i16),
    committed: bool,
) -> anyhow::Result<i16> {
    let request = |side: &Side| EndTxnRequest {
        transactional_id: id.into(),
        producer_id: known(side, of),
        producer_epoch: epoch,
        committed,
        ..EndTxnRequest::default()
    };
    let level = |answer: &mut odradek_wire::EndTxnResponse| answer.producer_id = answer.producer_id.min(0);
    let (_, ours) = pair.same_in_own_names(case, version, request, |_, _| (), level)?;
    settle(pair, id)?;
    Ok(if ours.error_code == 0 && version >= BUMPED { ours.producer_epoch } else { epoch })
}

/// When something began and how old it is differs.
fn level_described(answer: &mut odradek_wire::DescribeTransactionsResponse) {
    for state in &mut answer.transaction_states {
        state.transaction_start_time_ms = state.transaction_start_time_ms.min(0);
        state.producer_id = state.producer_id.min(0);
        state.topics.sort_by_key(|topic| topic.topic.clone());
        state.topics.iter_mut().for_each(|topic| topic.partitions.sort_unstable());
    }
}

fn describe(pair: &mut Pair, case: &str, ids: &[&str]) -> anyhow::Result<()> {
    let request = |_: &Side| DescribeTransactionsRequest {
        transactional_ids: ids.iter().map(|id| (*id).into()).collect(),
        ..DescribeTransactionsRequest::default()
    };
    pair.same_in_own_names(case, 0, request, |_, _| (), level_described).map(drop)
}

// ---------------------------------------------------------------- the families of cases

fn inits(pair: &mut Pair) -> anyhow::Result<()> {
    // Whoever was never asked has no ids at first, and coordinators may be being loaded.
    wait_for("ids are given", PATIENCE * 2, || {
        let (theirs, ours) = pair.both(4, &init_request("first-of-all", 4, 60_000, None))?;
        Ok((theirs.error_code == 0 && ours.error_code == 0).then_some(()))
    })?;
    for version in pair.versions::<InitProducerIdRequest>()? {
        let id = format!("init-{version}");
        for (case, timeout_ms) in
            [("no time", 0), ("negative time", -1), ("too much time", 900_001), ("the most", 900_000)]
        {
            let request = |_: &Side| init_request(&format!("timed-{version}"), version, timeout_ms, None);
            pair.same_in_own_names(case, version, request, learn(&format!("timed-{version}")), level_init)?;
        }
        init(pair, "a new id", &id, version, None)?;
        init(pair, "the next epoch", &id, version, None)?;
        if version >= 3 {
            init(pair, "who goes on", &id, version, Some(1))?;
            init(pair, "who asks again", &id, version, Some(1))?;
            init(pair, "who is fenced", &id, version, Some(0))?;
            init(pair, "who comes from the future", &id, version, Some(9))?;
            init(pair, "somebody else", &id, version, None)?;
            init(pair, "who was before", &id, version, Some(2))?;
            let stranger = |_: &Side| init_request(&id, version, 60_000, Some((987_654_321, 3)));
            pair.same_in_own_names("a stranger", version, stranger, |_, _| (), level_init)?;
            let unknown = format!("init-unknown-{version}");
            let request = |_: &Side| init_request(&unknown, version, 60_000, Some((987_654_321, 3)));
            pair.same_in_own_names("of an id that is not known", version, request, learn(&unknown), level_init)?;
        }
        // Whoever comes while a transaction is open aborts it first.
        let open = format!("init-open-{version}");
        let epoch = init(pair, "a new one", &open, version, None)?;
        add(pair, "begins", 3, (&open, &open, epoch), &[(TOPIC, &[0])])?;
        let request = |_: &Side| init_request(&open, version, 60_000, None);
        pair.same_in_own_names("a transaction is open", version, request, |_, _| (), level_init)?;
        settle(pair, &open)?;
        describe(pair, "it is aborted", &[&open])?;
        init(pair, "then it is had", &open, version, None)?;
    }
    Ok(())
}

/// A producer's life by the protocol of a version of EndTxn.
fn life(pair: &mut Pair, version: i16) -> anyhow::Result<()> {
    let (id, other) = (format!("life-{version}"), format!("other-{version}"));
    let mut epoch = init(pair, "a producer", &id, 4, None)?;
    init(pair, "another", &other, 4, None)?;
    let is_bumped = version >= BUMPED;

    end(pair, "an empty transaction is committed", version, (&id, &id, epoch), true)?;
    epoch = end(pair, "an empty transaction is aborted", version, (&id, &id, epoch), false)?;
    let own = (&*id, &*id, epoch);
    let one: &[(&str, &[i32])] = &[(TOPIC, &[0])];
    add(pair, "of a later epoch", version, (&id, &id, epoch + 3), one)?;
    add(pair, "of another producer", version, (&id, &other, epoch), one)?;
    add(pair, "of an unknown id", version, ("nobody", &id, epoch), one)?;
    add(pair, "of no id", version, ("", &id, epoch), one)?;
    add(pair, "an unknown topic", version, own, &[("never-made", &[0])])?;
    add(pair, "an unknown partition", version, own, &[(TOPIC, &[0, 9])])?;
    add(pair, "one of two topics is unknown", version, own, &[(TOPIC, &[1]), ("never-made", &[0, 1])])?;
    add(pair, "an internal topic", version, own, &[("__consumer_offsets", &[0]), (TOPIC, &[1])])?;
    describe(pair, "nothing has begun", &[&id])?;
    add(pair, "two partitions", version, own, &[(TOPIC, &[0, 1])])?;
    add(pair, "one of them again", version, own, one)?;
    add(pair, "and another", version, own, &[(TOPIC, &[2])])?;
    describe(pair, "it is open", &[&id])?;
    let add_offsets = |pair: &mut Pair, case: &str, id: &str, of: &str, epoch: i16| {
        let request = |side: &Side| AddOffsetsToTxnRequest {
            transactional_id: id.into(),
            producer_id: known(side, of),
            producer_epoch: epoch,
            group_id: "transacting".into(),
            ..AddOffsetsToTxnRequest::default()
        };
        pair.same_in_own_names(case, version.min(4), request, |_, _| (), |_| ()).map(drop)
    };
    add_offsets(pair, "of an older epoch", &id, &id, epoch - 1)?;
    add_offsets(pair, "of another producer", &id, &other, epoch)?;
    add_offsets(pair, "of an unknown id", "nobody", &id, epoch)?;
    add_offsets(pair, "of no id", "", &id, epoch)?;
    add_offsets(pair, "offsets", &id, &id, epoch)?;

    end(pair, "of an older epoch", version, (&id, &id, epoch - 1), true)?;
    end(pair, "of a later epoch", version, (&id, &id, epoch + 1), true)?;
    end(pair, "of another producer", version, (&id, &other, epoch), true)?;
    end(pair, "of an unknown id", version, ("nobody", &id, epoch), true)?;
    end(pair, "of no id", version, ("", &id, epoch), true)?;
    let before = epoch;
    epoch = end(pair, "committed", version, (&id, &id, epoch), true)?;
    describe(pair, "it is committed", &[&id])?;
    end(pair, "committed again", version, (&id, &id, before), true)?;
    end(pair, "aborted after that", version, (&id, &id, before), false)?;
    if is_bumped {
        end(pair, "committed in the next epoch", version, (&id, &id, epoch), true)?;
        epoch = end(pair, "aborted in the next epoch", version, (&id, &id, epoch), false)?;
    }
    add(pair, "the next transaction", version, (&id, &id, epoch), one)?;
    let before = epoch;
    epoch = end(pair, "aborted", version, (&id, &id, epoch), false)?;
    describe(pair, "it is aborted", &[&id])?;
    end(pair, "aborted again", version, (&id, &id, before), false)?;
    end(pair, "committed after that", version, (&id, &id, before), true)?;
    if is_bumped {
        end(pair, "long ago", version, (&id, &id, 0), false)?;
    }
    add(pair, "the last transaction", version, (&id, &id, epoch), one)?;
    end(pair, "the last is committed", version, (&id, &id, epoch), true).map(drop)
}

/// A transactional id, whose producer id, in which epoch, only to verify, which partitions.
type Asked<'a> = (&'a str, &'a str, i16, bool, &'a [(&'a str, &'a [i32])]);

/// AddPartitionsToTxn as brokers send it: for several transactions, and to verify.
fn from_brokers(pair: &mut Pair) -> anyhow::Result<()> {
    let versions = pair.versions::<AddPartitionsToTxnRequest>()?;
    for version in FROM_BROKERS..=*versions.end() {
        let (open, empty) = (format!("open-{version}"), format!("empty-{version}"));
        init(pair, "a producer", &open, 4, None)?;
        init(pair, "another", &empty, 4, None)?;
        let ask = |pair: &mut Pair, case: &str, asked: &[Asked<'_>]| {
            let request = |side: &Side| AddPartitionsToTxnRequest {
                transactions: (asked.iter())
                    .map(|(id, of, epoch, verify_only, topics)| AddPartitionsToTxnTransaction {
                        transactional_id: (*id).into(),
                        producer_id: known(side, of),
                        producer_epoch: *epoch,
                        verify_only: *verify_only,
                        topics: partitions(topics),
                        ..AddPartitionsToTxnTransaction::default()
                    })
                    .collect(),
                ..AddPartitionsToTxnRequest::default()
            };
            pair.same_in_own_names(case, version, request, |_, _| (), level_added).map(drop)
        };
        let two: &[(&str, &[i32])] = &[(TOPIC, &[0, 1])];
        ask(pair, "added and verified", &[(&open, &open, 0, false, two), (&empty, &empty, 0, true, two)])?;
        ask(pair, "verified", &[(&open, &open, 0, true, &[(TOPIC, &[0, 1, 2])])])?;
        ask(pair, "of another epoch", &[(&open, &open, 1, true, two), (&empty, &empty, 7, false, two)])?;
        ask(pair, "of another producer", &[(&open, &empty, 0, true, two), (&empty, &open, 0, false, two)])?;
        ask(pair, "of an unknown id", &[("nobody", &empty, 0, true, two), ("no one", &open, 0, false, two)])?;
        ask(pair, "unknown partitions", &[(&open, &open, 0, true, &[(TOPIC, &[0, 9]), ("never-made", &[1])])])?;
        ask(pair, "an internal topic", &[(&open, &open, 0, false, &[("__consumer_offsets", &[0])])])?;
        describe(pair, "what was added", &[&open, &empty])?;
        end(pair, "committed", 5, (&open, &open, 0), true)?;
    }
    Ok(())
}

fn offsets(pair: &mut Pair) -> anyhow::Result<()> {
    let topic_ids = pair.topic_ids(TOPIC)?;
    for version in pair.versions::<TxnOffsetCommitRequest>()? {
        let (id, group) = (format!("offsets-{version}"), format!("transacting-{version}"));
        let epoch = init(pair, "a producer", &id, 4, None)?;
        let commit = |pair: &mut Pair, case: &str, epoch: i16, generation: i32, topics: &[(&str, i32)]| {
            let request = |side: &Side| TxnOffsetCommitRequest {
                transactional_id: (&*id).into(),
                group_id: (&*group).into(),
                producer_id: known(side, &id),
                producer_epoch: epoch,
                generation_id_or_member_epoch: if version >= 3 { generation } else { -1 },
                topics: (topics.iter())
                    .map(|(name, index)| TxnOffsetCommitRequestTopic {
                        name: if version < COMMIT_IDS { (*name).into() } else { "".into() },
                        topic_id: if side.is_kafka() { topic_ids.0 } else { topic_ids.1 },
                        partitions: vec![TxnOffsetCommitRequestPartition {
                            partition_index: *index,
                            committed_offset: 5,
                            committed_metadata: Some("m".into()),
                            ..TxnOffsetCommitRequestPartition::default()
                        }],
                        ..TxnOffsetCommitRequestTopic::default()
                    })
                    .collect(),
                ..TxnOffsetCommitRequest::default()
            };
            pair.same_in_own_names(case, version, request, |_, _| (), |_| ()).map(drop)
        };
        // By the newest versions the broker adds the group's partition itself.
        commit(pair, "of no transaction", epoch, -1, &[(TOPIC, 0)])?;
        commit(pair, "of another epoch", epoch + 5, -1, &[(TOPIC, 0)])?;
        let request = |side: &Side| AddOffsetsToTxnRequest {
            transactional_id: (&*id).into(),
            producer_id: known(side, &id),
            producer_epoch: epoch,
            group_id: (&*group).into(),
            ..AddOffsetsToTxnRequest::default()
        };
        pair.same_in_own_names("offsets", 3, request, |_, _| (), |_| ())?;
        commit(pair, "an offset", epoch, -1, &[(TOPIC, 0)])?;
        commit(pair, "an unknown partition", epoch, -1, &[(TOPIC, 9)])?;
        if version < COMMIT_IDS {
            commit(pair, "an unknown topic", epoch, -1, &[("never-made", 0)])?;
        }
        if version >= 3 {
            commit(pair, "of a generation that never was", epoch, 4, &[(TOPIC, 0)])?;
        }
        commit(pair, "nothing", epoch, -1, &[])?;
        let protocol = if version >= 5 { 5 } else { 4 };
        end(pair, "committed", protocol, (&id, &id, epoch), true)?;
    }
    Ok(())
}

fn transactional_batch(producer: i64, epoch: i16, sequence: i32) -> Vec<u8> {
    let mut builder =
        RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional(true);
    builder.append(odradek_common::time::Timestamp(1_700_000_000_000), None, Some(b"in a transaction"));
    builder.build().unwrap_or_default().to_vec()
}

/// Batches of transactions: which of them are verified, and which added.
fn produces(pair: &mut Pair) -> anyhow::Result<()> {
    for version in pair.versions::<ProduceRequest>()? {
        let (id, name) = (format!("produces-{version}"), format!("transacted-{version}"));
        prepare(pair, vec![topic(&name, 2, 1)])?;
        let topic_ids = pair.topic_ids(&name)?;
        let epoch = init(pair, "a producer", &id, 4, None)?;
        let produce = |pair: &mut Pair, case: &str, named: Option<&str>, epoch: i16, sequence: i32| {
            let request = |side: &Side| {
                let records = transactional_batch(known(side, &id), epoch, sequence);
                let mut request = produce_to(&name, 0, records, -1);
                request.transactional_id = named.map(Into::into);
                if version >= PRODUCE_IDS {
                    request.topic_data[0].name = "".into();
                    request.topic_data[0].topic_id = if side.is_kafka() { topic_ids.0 } else { topic_ids.1 };
                }
                request
            };
            // What is said beside the code is in words of our own.
            let level = |answer: &mut odradek_wire::ProduceResponse| {
                let partitions = answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses);
                partitions.for_each(|partition| partition.error_message = None);
            };
            pair.same_in_own_names(case, version, request, |_, _| (), level).map(drop)
        };
        produce(pair, "without its transactional id", None, epoch, 0)?;
        produce(pair, "under another transactional id", Some("nobody"), epoch, 0)?;
        produce(pair, "of a later epoch", Some(&id), epoch + 5, 0)?;
        produce(pair, "a partition that was not added", Some(&id), epoch, 0)?;
        let added: &[(&str, &[i32])] = &[(&name, &[0])];
        add(pair, "the partition", 3, (&id, &id, epoch), added)?;
        produce(pair, "a partition that was added", Some(&id), epoch, 0)?;
        produce(pair, "the next batch", Some(&id), epoch, 1)?;
        produce(pair, "the next batch again", Some(&id), epoch, 1)?;
        let protocol = if version >= 12 { 5 } else { 4 };
        end(pair, "committed", protocol, (&id, &id, epoch), true)?;
        produce(pair, "after the end", Some(&id), epoch, 2)?;
    }
    Ok(())
}

/// As an administrator sends them.
fn markers(pair: &mut Pair) -> anyhow::Result<()> {
    for version in pair.versions::<WriteTxnMarkersRequest>()? {
        let id = format!("marked-{version}");
        let epoch = init(pair, "a producer", &id, 4, None)?;
        let mark = |pair: &mut Pair,
                    case: &str,
                    epoch: i16,
                    coordinator_epoch: i32,
                    transaction_version: i8,
                    to: &[(&str, &[i32])]| {
            let request = |side: &Side| WriteTxnMarkersRequest {
                markers: vec![WritableTxnMarker {
                    producer_id: known(side, &id),
                    producer_epoch: epoch,
                    coordinator_epoch,
                    transaction_version: if version >= 2 { transaction_version } else { 0 },
                    topics: (to.iter())
                        .map(|(name, partitions)| WritableTxnMarkerTopic {
                            name: (*name).into(),
                            partition_indexes: partitions.to_vec(),
                            ..WritableTxnMarkerTopic::default()
                        })
                        .collect(),
                    ..WritableTxnMarker::default()
                }],
                ..WriteTxnMarkersRequest::default()
            };
            let level = |answer: &mut odradek_wire::WriteTxnMarkersResponse| {
                for marker in &mut answer.markers {
                    marker.producer_id = 0;
                    marker.topics.sort_by_key(|topic| topic.name.clone());
                    marker.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|one| one.partition_index));
                }
            };
            pair.same_in_own_names(case, version, request, |_, _| (), level).map(drop)
        };
        mark(pair, "nothing is open", epoch, 0, 0, &[(TOPIC, &[0, 1])])?;
        mark(pair, "a later coordinator", epoch, 7, 0, &[(TOPIC, &[0])])?;
        mark(pair, "an older coordinator", epoch, 5, 0, &[(TOPIC, &[0, 1])])?;
        mark(pair, "a later epoch", epoch + 2, 7, 0, &[(TOPIC, &[0])])?;
        mark(pair, "an older epoch", epoch, 7, 0, &[(TOPIC, &[0])])?;
        mark(pair, "the same epoch, by the second protocol", epoch + 2, 7, 2, &[(TOPIC, &[0])])?;
        mark(pair, "an older epoch, by the second protocol", epoch, 7, 2, &[(TOPIC, &[0])])?;
        mark(pair, "unknown partitions", epoch, 7, 0, &[(TOPIC, &[2, 9]), ("never-made", &[0])])?;
        mark(pair, "nowhere", epoch, 7, 0, &[])?;
    }
    let none = |_: i16| WriteTxnMarkersRequest::default();
    pair.same("no markers", none, |_| ())
}

fn administration(pair: &mut Pair) -> anyhow::Result<()> {
    let (open, done) = ("admin-open", "admin-done");
    for id in [open, done] {
        let epoch = init(pair, "a producer", id, 4, None)?;
        add(pair, "begins", 3, (id, id, epoch), &[(TOPIC, &[0])])?;
    }
    end(pair, "committed", 4, (done, done, 0), true)?;
    describe(pair, "several", &[open, done, "nobody", ""])?;
    describe(pair, "none", &[])?;
    for version in pair.versions::<ListTransactionsRequest>()? {
        let list = |pair: &mut Pair, case: &str, request: &dyn Fn(&Side) -> ListTransactionsRequest| {
            let level = |answer: &mut odradek_wire::ListTransactionsResponse| {
                // Of all that earlier cases have left behind.
                answer.transaction_states.retain(|state| state.transactional_id.starts_with("admin-"));
                answer.transaction_states.sort_by_key(|state| state.transactional_id.clone());
                answer.transaction_states.iter_mut().for_each(|state| state.producer_id = 0);
                answer.unknown_state_filters.sort();
            };
            pair.same_in_own_names(case, version, request, |_, _| (), level).map(drop)
        };
        let of_states = |states: &[&str]| ListTransactionsRequest {
            state_filters: states.iter().map(|state| (*state).into()).collect(),
            ..ListTransactionsRequest::default()
        };
        list(pair, "all", &|_| of_states(&[]))?;
        list(pair, "by state", &|_| of_states(&["Ongoing"]))?;
        list(pair, "by states", &|_| of_states(&["Ongoing", "CompleteCommit", "Empty"]))?;
        list(pair, "by states that nothing rests in", &|_| of_states(&["Dead", "PrepareEpochFence"]))?;
        list(pair, "by an unknown state", &|_| of_states(&["Sleeping"]))?;
        list(pair, "by a known and an unknown state", &|_| of_states(&["Ongoing", "ongoing", "Sleeping"]))?;
        list(pair, "by producer", &|side| ListTransactionsRequest {
            producer_id_filters: vec![known(side, open), 987_654_321],
            ..ListTransactionsRequest::default()
        })?;
        if version >= 1 {
            list(pair, "by a long duration", &|_| ListTransactionsRequest {
                duration_filter: 3_600_000,
                ..ListTransactionsRequest::default()
            })?;
            list(pair, "by any duration", &|_| ListTransactionsRequest {
                duration_filter: 0,
                ..ListTransactionsRequest::default()
            })?;
        }
        if version >= 2 {
            for (case, pattern) in [
                ("by pattern", "admin-.*"),
                ("by a pattern that is a part", "admin"),
                ("by alternatives", "admin-open|nobody"),
                ("by a class", "admin-[[:alpha:]]{4}"),
                ("by no pattern", ""),
                ("by a wrong pattern", "admin-("),
                ("by a pattern that looks ahead", "(?=admin).*"),
            ] {
                list(pair, case, &|_| ListTransactionsRequest {
                    transactional_id_pattern: Some(pattern.into()),
                    ..ListTransactionsRequest::default()
                })?;
            }
        }
    }
    end(pair, "aborted", 4, (open, open, 0), false).map(drop)
}
