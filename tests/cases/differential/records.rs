//! DeleteRecords and DescribeProducers.

use odradek_common::time::Timestamp;
use odradek_common::{ProducerEpoch, ProducerId};
use odradek_records::RecordBatchBuilder;
use odradek_tests::differential::Pair;
use odradek_tests::wire::now_ms;
use odradek_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use odradek_wire::describe_producers_request::TopicRequest;
use odradek_wire::{DeleteRecordsRequest, DescribeProducersRequest, DescribeProducersResponse};

use super::administration::{level_log_dirs, log_dirs_of};
use super::{prepare, produce_to, topic, with_configs};

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    let compacted = [("cleanup.policy", "compact")];
    let both = [("cleanup.policy", "compact,delete")];
    prepare(
        pair,
        vec![
            topic("kept-cut", 2, 1),
            with_configs(topic("cut-compacted", 1, 1), &compacted),
            with_configs(topic("cut-both", 1, 1), &both),
        ],
    )?;
    delete_records(pair)?;
    describe_producers(pair)
}

/// Writes records of a producer on both sides. One batch.
fn write(pair: &mut Pair, topic: &str, producer: Option<(i64, i16, i32)>, records: usize) -> anyhow::Result<()> {
    let mut builder = match producer {
        Some((id, epoch, sequence)) => {
            RecordBatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence)
        }
        None => RecordBatchBuilder::new(),
    };
    for _ in 0..records {
        builder.append(Timestamp(now_ms()), Some(b"key"), Some(b"value"));
    }
    let records = builder.build()?.to_vec();
    let (theirs, ours) = pair.both(9, &produce_to(topic, 0, records, -1))?;
    for partition in theirs.responses.iter().chain(&ours.responses).flat_map(|topic| &topic.partition_responses) {
        anyhow::ensure!(partition.error_code == 0, "{topic}: {} {:?}", partition.error_code, partition.error_message);
    }
    Ok(())
}

fn delete_records(pair: &mut Pair) -> anyhow::Result<()> {
    for topic in ["kept-cut", "kept-cut", "cut-compacted", "cut-both"] {
        write(pair, topic, None, 10)?;
    }
    let before = |topics: &'static [(&'static str, &'static [(i32, i64)])]| {
        move |_| {
            let partition = |(partition_index, offset): &(i32, i64)| DeleteRecordsPartition {
                partition_index: *partition_index,
                offset: *offset,
                ..Default::default()
            };
            let topic = |(name, partitions): &(&'static str, &'static [(i32, i64)])| DeleteRecordsTopic {
                name: (*name).into(),
                partitions: partitions.iter().map(partition).collect(),
                ..Default::default()
            };
            DeleteRecordsRequest {
                topics: topics.iter().map(topic).collect(),
                timeout_ms: 10_000,
                ..Default::default()
            }
        }
    };
    let level = |answer: &mut odradek_wire::DeleteRecordsResponse| {
        answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
        answer.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|one| one.partition_index));
    };
    pair.same("some", before(&[("kept-cut", &[(0, 5)])]), level)?;
    pair.same("what is gone", before(&[("kept-cut", &[(0, 3)])]), level)?;
    pair.same("none", before(&[("kept-cut", &[(0, 0)])]), level)?;
    pair.same("beyond the end", before(&[("kept-cut", &[(0, 21)])]), level)?;
    pair.same("minus two", before(&[("kept-cut", &[(0, -2)])]), level)?;
    pair.same("an unknown partition", before(&[("kept-cut", &[(2, 0)])]), level)?;
    pair.same("a negative partition", before(&[("kept-cut", &[(-1, 0)])]), level)?;
    pair.same("an unknown topic", before(&[("cut-nowhere", &[(0, 0)])]), level)?;
    pair.same("a wrong name", before(&[("wrong/name", &[(0, 0)])]), level)?;
    pair.same("a compacted topic", before(&[("cut-compacted", &[(0, 5)])]), level)?;
    pair.same("a topic that is compacted and deleted", before(&[("cut-both", &[(0, 5)])]), level)?;
    pair.same("the metadata log", before(&[("__cluster_metadata", &[(0, 0)])]), level)?;
    pair.same("no partitions", before(&[("kept-cut", &[])]), level)?;
    pair.same("no topics", before(&[]), level)?;
    pair.same("two of one topic", before(&[("kept-cut", &[(0, 6), (1, 0)])]), level)?;
    pair.same("a partition twice", before(&[("kept-cut", &[(0, 7), (0, 8)])]), level)?;
    pair.same("some of several", before(&[("kept-cut", &[(0, 7), (1, 1)]), ("cut-compacted", &[(0, 1)])]), level)?;
    pair.same("all", before(&[("kept-cut", &[(0, -1)])]), level)?;
    pair.same("all, again", before(&[("kept-cut", &[(0, -1)])]), level)?;
    pair.same("sizes of logs", log_dirs_of(&[("kept-cut", &[0, 1])]), level_log_dirs)
}

/// Each side's clock.
fn level_producers(answer: &mut DescribeProducersResponse) {
    for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        partition.active_producers.sort_by_key(|producer| producer.producer_id);
        for producer in &mut partition.active_producers {
            producer.last_timestamp = producer.last_timestamp.min(1);
        }
    }
}

fn describe_producers(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("producers", 2, 1)])?;
    let of = |topics: &'static [(&'static str, &'static [i32])]| {
        move |_| {
            let topic = |(name, partitions): &(&'static str, &'static [i32])| TopicRequest {
                name: (*name).into(),
                partition_indexes: partitions.to_vec(),
                ..Default::default()
            };
            DescribeProducersRequest { topics: topics.iter().map(topic).collect(), ..Default::default() }
        }
    };
    pair.same("nobody", of(&[("producers", &[0, 1])]), level_producers)?;
    write(pair, "producers", None, 1)?;
    pair.same("nobody that is known", of(&[("producers", &[0])]), level_producers)?;
    write(pair, "producers", Some((4000, 0, 0)), 3)?;
    write(pair, "producers", Some((4001, 2, 0)), 1)?;
    pair.same("two", of(&[("producers", &[0, 1])]), level_producers)?;
    write(pair, "producers", Some((4000, 0, 3)), 4)?;
    write(pair, "producers", Some((4001, 3, 0)), 1)?;
    pair.same("two that went on", of(&[("producers", &[0])]), level_producers)?;
    pair.same("an unknown partition", of(&[("producers", &[2, 0])]), level_producers)?;
    pair.same("a negative partition", of(&[("producers", &[-1])]), level_producers)?;
    pair.same("an unknown topic", of(&[("producers-none", &[0, 1])]), level_producers)?;
    pair.same("a wrong name", of(&[("wrong/name", &[0])]), level_producers)?;
    pair.same("an empty name", of(&[("", &[0])]), level_producers)?;
    pair.same("no partitions", of(&[("producers", &[])]), level_producers)?;
    pair.same("a topic twice", of(&[("producers", &[0]), ("producers", &[0])]), level_producers)?;
    pair.same("no topics", of(&[]), level_producers)
}
