//! Requests that only this checker needs, on the raw wire: offsets of groups, topics that grow, configs.

use anyhow::{Context, ensure};
use odradek_tests::client::Connection;
use odradek_tests::wire::Reader;

/// FindCoordinator v0: where the coordinator of a group is; an error code otherwise.
pub fn coordinator(connection: &mut Connection, group: &str) -> anyhow::Result<(i16, String)> {
    let mut request = connection.request(10, 0);
    request.string(group);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    let (code, _id, host, port) = (answer.i16()?, answer.i32()?, answer.string()?, answer.i32()?);
    Ok((code, format!("{host}:{port}")))
}

/// OffsetCommit v2 of one partition by nobody's member: the error code.
pub fn commit(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> anyhow::Result<i16> {
    let mut request = connection.request(8, 2);
    request.string(group).i32(-1).string("").i64(-1).i32(1).string(topic).i32(1).i32(partition).i64(offset).string("");
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    let mut codes = answer.list(|topic| {
        topic.string()?;
        topic.list(|one| {
            one.i32()?;
            one.i16()
        })
    })?;
    codes.pop().and_then(|mut codes| codes.pop()).context("the partition is answered")
}

/// OffsetFetch v1 of one partition: the error code, and the offset; -1 for none.
pub fn committed(connection: &mut Connection, group: &str, topic: &str, partition: i32) -> anyhow::Result<(i16, i64)> {
    let mut request = connection.request(9, 1);
    request.string(group).i32(1).string(topic).i32(1).i32(partition);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    let mut found = answer.list(|topic| {
        topic.string()?;
        topic.list(|one| {
            one.i32()?;
            let (offset, _metadata, code) = (one.i64()?, one.string()?, one.i16()?);
            Ok((code, offset))
        })
    })?;
    found.pop().and_then(|mut found| found.pop()).context("the partition is answered")
}

/// CreatePartitions v0: the error code.
pub fn grow(connection: &mut Connection, topic: &str, count: i32) -> anyhow::Result<i16> {
    let mut request = connection.request(37, 0);
    request.i32(1).string(topic).i32(count).i32(-1).i32(10_000).i8(0);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    answer.i32()?;
    ensure!(answer.i32()? == 1, "one topic");
    answer.string()?;
    answer.i16()
}

const TOPIC: i8 = 2;
const SET: i8 = 0;

/// IncrementalAlterConfigs v0 of one config of a topic: the error code.
pub fn set_config(connection: &mut Connection, topic: &str, name: &str, value: i64) -> anyhow::Result<i16> {
    let mut request = connection.request(44, 0);
    request.i32(1).i8(TOPIC).string(topic).i32(1).string(name).i8(SET).string(&value.to_string()).i8(0);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    answer.i32()?;
    ensure!(answer.i32()? == 1, "one resource");
    answer.i16()
}

/// DescribeConfigs v1 of one config of a topic: the error code and the value.
pub fn config(connection: &mut Connection, topic: &str, name: &str) -> anyhow::Result<(i16, String)> {
    let mut request = connection.request(32, 1);
    request.i32(1).i8(TOPIC).string(topic).i32(1).string(name).i8(0);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    answer.i32()?;
    ensure!(answer.i32()? == 1, "one resource");
    let code = answer.i16()?;
    answer.string()?;
    answer.i8()?;
    answer.string()?;
    let mut values = answer.list(|one| {
        let (_name, value) = (one.string()?, one.string()?);
        one.take(3)?;
        one.list(|synonym| {
            synonym.string()?;
            synonym.string()?;
            synonym.i8()
        })?;
        Ok(value)
    })?;
    Ok((code, values.pop().unwrap_or_default()))
}

/// ListOffsets, read_committed: the error code, and the last stable offset.
pub fn stable_end(connection: &mut Connection, topic: &str, partition: i32) -> anyhow::Result<(i16, i64)> {
    let (code, _timestamp, offset, _epoch) = connection.list_offset_for(1, topic, partition, -1)?;
    Ok((code, offset))
}
