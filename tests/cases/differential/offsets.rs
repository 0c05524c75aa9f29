//! ListOffsets and OffsetForLeaderEpoch.

use odradek_tests::differential::Pair;
use odradek_tests::wire::{Batch, now_ms};
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use odradek_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use odradek_wire::{ListOffsetsRequest, OffsetForLeaderEpochRequest};

use super::{prepare, produce_to, topic};

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("listed", 2, 1)])?;
    let start = now_ms() - 100_000;
    for at in 0..3 {
        let values = [b"one".to_vec(), b"two".to_vec()];
        let batch = Batch { timestamp_ms: start + at * 1000, ..Batch::of(&values) };
        pair.both(9, &produce_to("listed", 0, batch.encode(), -1))?;
    }
    list_offsets(pair, start)?;
    offsets_for_epochs(pair)
}

/// The versions that have leader epochs, and those that have isolation levels.
const LEADER_EPOCHS: i16 = 4;
const ISOLATION: i16 = 2;

fn list_offsets(pair: &mut Pair, start: i64) -> anyhow::Result<()> {
    let ask = |topic: &'static str, partitions: Vec<(i32, i32, i64)>, isolation_level: i8| {
        move |v: i16| {
            let partitions = partitions.iter().map(|(partition_index, epoch, timestamp)| ListOffsetsPartition {
                partition_index: *partition_index,
                current_leader_epoch: if v >= LEADER_EPOCHS { *epoch } else { -1 },
                timestamp: *timestamp,
                ..Default::default()
            });
            ListOffsetsRequest {
                replica_id: -1,
                isolation_level: if v >= ISOLATION { isolation_level } else { 0 },
                topics: vec![ListOffsetsTopic {
                    name: topic.into(),
                    partitions: partitions.collect(),
                    ..Default::default()
                }],
                ..Default::default()
            }
        }
    };
    for special in -8..0 {
        pair.same(&format!("timestamp {special}"), ask("listed", vec![(0, -1, special)], 0), |_| ())?;
        pair.same(&format!("timestamp {special}, empty"), ask("listed", vec![(1, -1, special)], 0), |_| ())?;
        pair.same(&format!("timestamp {special}, committed"), ask("listed", vec![(0, -1, special)], 1), |_| ())?;
    }
    for ahead in [-5, 0, 1, 2, 500, 1000, 2001, 2002, 1_000_000] {
        pair.same(&format!("a time, {ahead} ms on"), ask("listed", vec![(0, -1, start + ahead)], 0), |_| ())?;
    }
    pair.same("time 0", ask("listed", vec![(0, -1, 0)], 1), |_| ())?;
    pair.same("no topics", |_| ListOffsetsRequest { replica_id: -1, ..Default::default() }, |_| ())?;
    pair.same("several", ask("listed", vec![(0, -1, -1), (1, -1, -2), (9, -1, -1)], 0), |answer| {
        answer.topics.iter_mut().for_each(|topic| topic.partitions.sort_by_key(|partition| partition.partition_index));
    })?;
    pair.same("a partition twice", ask("listed", vec![(0, -1, -1), (0, -1, -2)], 0), |_| ())?;
    pair.same("a partition that is not there", ask("listed", vec![(9, -1, -1)], 0), |_| ())?;
    pair.same("a negative partition", ask("listed", vec![(-1, -1, -1)], 0), |_| ())?;
    pair.same("an unknown topic", ask("never-listed", vec![(0, -1, -1)], 0), |_| ())?;
    pair.same("a wrong name", ask("wrong/name", vec![(0, -1, -1)], 0), |_| ())?;
    pair.same("the leader's epoch", ask("listed", vec![(0, 0, -1)], 0), |_| ())?;
    pair.same("a later epoch", ask("listed", vec![(0, 5, -1)], 0), |_| ())?;
    let from = |replica_id: i32| {
        let ask = ask("listed", vec![(0, -1, -1)], 0);
        move |v| ListOffsetsRequest { replica_id, ..ask(v) }
    };
    pair.same("a follower", from(7), |_| ())?;
    pair.same("a debugging consumer", from(-2), |_| ())
}

fn offsets_for_epochs(pair: &mut Pair) -> anyhow::Result<()> {
    let ask = |topic: &'static str, partition: i32, current_leader_epoch: i32, leader_epoch: i32| {
        move |v: i16| {
            let partition =
                OffsetForLeaderPartition { partition, current_leader_epoch, leader_epoch, ..Default::default() };
            OffsetForLeaderEpochRequest {
                replica_id: if v >= 3 { -1 } else { -2 },
                topics: vec![OffsetForLeaderTopic {
                    topic: topic.into(),
                    partitions: vec![partition],
                    ..Default::default()
                }],
                ..Default::default()
            }
        }
    };
    pair.same("an epoch", ask("listed", 0, -1, 0), |_| ())?;
    pair.same("an epoch, known leader", ask("listed", 0, 0, 0), |_| ())?;
    pair.same("a later epoch", ask("listed", 0, -1, 5), |_| ())?;
    pair.same("an earlier epoch", ask("listed", 0, -1, -1), |_| ())?;
    pair.same("an epoch of nothing", ask("listed", 1, -1, 0), |_| ())?;
    pair.same("a later leader", ask("listed", 0, 5, 0), |_| ())?;
    pair.same("a partition that is not there", ask("listed", 9, -1, 0), |_| ())?;
    pair.same("an unknown topic", ask("never-listed", 0, -1, 0), |_| ())?;
    pair.same("no topics", |_| OffsetForLeaderEpochRequest::default(), |_| ())
}
