//! Metadata and DescribeTopicPartitions.

use odradek_tests::differential::Pair;
use odradek_wire::describe_topic_partitions_request::{Cursor, TopicRequest};
use odradek_wire::metadata_request::MetadataRequestTopic;
use odradek_wire::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, MetadataRequest, MetadataResponse, Uuid,
};

use super::{prepare, topic};

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    prepare(pair, vec![topic("seen-a", 1, 1), topic("seen-b", 3, 1), topic("seen-c", 5, 1)])?;
    for name in ["seen-a", "seen-b", "seen-c"] {
        pair.topic_ids(name)?;
    }
    metadata(pair)?;
    describe_topic_partitions(pair)
}

/// Apache Kafka's order of topics is that of a hash table, and of partitions too.
fn level(answer: &mut MetadataResponse) {
    answer.topics.sort_by_key(|topic| (topic.name.clone(), topic.topic_id.0));
    for topic in &mut answer.topics {
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
}

fn metadata(pair: &mut Pair) -> anyhow::Result<()> {
    let asked = |names: &'static [&'static str]| {
        move |_: i16| {
            let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() };
            MetadataRequest {
                topics: Some(names.iter().map(topic).collect()),
                allow_auto_topic_creation: true,
                ..Default::default()
            }
        }
    };
    // Version 0 has no way to ask for none, and the topics of other families may be of any number there.
    let own = |answer: &mut MetadataResponse| {
        answer.topics.retain(|topic| topic.name.as_deref().is_some_and(|name| name.starts_with("seen-")));
        level(answer);
    };
    pair.same("no topics, or all", asked(&[]), own)?;
    let all = |v: i16| MetadataRequest {
        topics: (v == 0).then(Vec::new),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    pair.same("all topics", all, own)?;
    pair.same("topics", asked(&["seen-c", "seen-a"]), level)?;
    pair.same("a topic twice", asked(&["seen-a", "seen-a"]), level)?;
    pair.same("a wrong name", asked(&["wrong/name"]), level)?;
    pair.same("an empty name", asked(&[""]), level)?;
    let unmade = |names| move |v: i16| MetadataRequest { allow_auto_topic_creation: v < 4, ..asked(names)(v) };
    let versions = pair.versions::<MetadataRequest>()?;
    for version in versions.clone().filter(|version| *version >= 4) {
        let request = unmade(&["no-such-topic", "seen-b", "wrong name"])(version);
        pair.same_at("an unknown topic among others", version, &request, &request, level)?;
        let request = unmade(&["__consumer_offsets"])(version);
        pair.same_at("an internal topic that is not there", version, &request, &request, level)?;
    }
    for version in versions.clone() {
        let topic = MetadataRequestTopic {
            name: Some(format!("made-automatically-{version}").as_str().into()),
            ..Default::default()
        };
        let request =
            MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() };
        pair.same_at("a topic that is made", version, &request, &request, level)?;
    }
    for version in versions.clone().filter(|version| *version >= 8) {
        let request = MetadataRequest {
            include_topic_authorized_operations: true,
            include_cluster_authorized_operations: version <= 10,
            ..asked(&["seen-a", "seen-none"])(version)
        };
        let request = MetadataRequest { allow_auto_topic_creation: false, ..request };
        pair.same_at("operations", version, &request, &request, level)?;
    }
    for version in versions.filter(|version| *version >= 10) {
        let ids = pair.topic_ids("seen-b")?;
        let by = |name: Option<&str>, topic_id| MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { name: name.map(Into::into), topic_id, ..Default::default() }]),
            ..Default::default()
        };
        pair.same_at("by id", version, &by(None, ids.0), &by(None, ids.1), level)?;
        let (kafka, ours) = (by(Some("seen-b"), ids.0), by(Some("seen-b"), ids.1));
        pair.same_at("by name and id", version, &kafka, &ours, level)?;
        let unknown = by(None, Uuid([7; 16]));
        pair.same_at("an unknown id", version, &unknown, &unknown, level)?;
        // From version 12 on Apache Kafka answers this with an unknown server error.
        if version < 12 {
            let neither = by(None, Uuid::ZERO);
            pair.same_at("neither name nor id", version, &neither, &neither, level)?;
        }
        let mixed = |id| {
            let mut request = by(None, id);
            request
                .topics
                .iter_mut()
                .for_each(|topics| topics.extend(by(Some("seen-a"), Uuid::ZERO).topics.unwrap_or_default()));
            request
        };
        pair.same_at("one by id, one by name", version, &mixed(ids.0), &mixed(ids.1), level)?;
    }
    Ok(())
}

fn describe_topic_partitions(pair: &mut Pair) -> anyhow::Result<()> {
    let asked = |names: &'static [&'static str], limit: i32, cursor: Option<(&'static str, i32)>| {
        move |_: i16| DescribeTopicPartitionsRequest {
            topics: names.iter().map(|name| TopicRequest { name: (*name).into(), ..Default::default() }).collect(),
            response_partition_limit: limit,
            cursor: cursor.map(|(topic, partition_index)| Cursor {
                topic_name: topic.into(),
                partition_index,
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let whole = |_: &mut DescribeTopicPartitionsResponse| ();
    pair.same("topics", asked(&["seen-c", "seen-a"], 2000, None), whole)?;
    pair.same("a page", asked(&["seen-a", "seen-b", "seen-c"], 6, None), whole)?;
    pair.same("a page that ends with a topic", asked(&["seen-a", "seen-b", "seen-c"], 4, None), whole)?;
    pair.same("the next page", asked(&["seen-a", "seen-b", "seen-c"], 3, Some(("seen-c", 2))), whole)?;
    pair.same("from a topic on", asked(&["seen-a", "seen-b", "seen-c"], 2000, Some(("seen-b", 0))), whole)?;
    pair.same("from a partition that is not there", asked(&["seen-a", "seen-b"], 2000, Some(("seen-a", 9))), whole)?;
    pair.same("from a topic that is not asked for", asked(&["seen-b"], 2000, Some(("seen-a", 0))), whole)?;
    pair.same("from an unknown topic", asked(&["seen-b", "seen-aa"], 2000, Some(("seen-aa", 0))), whole)?;
    pair.same("from a negative partition", asked(&["seen-b"], 2000, Some(("seen-b", -1))), whole)?;
    pair.same("no room", asked(&["seen-b"], 0, None), whole)?;
    pair.same("less than no room", asked(&["seen-b"], -1, None), whole)?;
    // An empty name is an unknown server error for all topics of the request in Apache Kafka.
    pair.same("unknown and wrong topics", asked(&["seen-none", "wrong/name", "seen-a"], 2000, None), whole)?;
    pair.same("an unknown topic after a full page", asked(&["seen-a", "seen-none"], 1, None), whole)?;
    pair.same("an internal topic that is not there", asked(&["__consumer_offsets"], 1, None), whole)?;
    let own = |answer: &mut DescribeTopicPartitionsResponse| {
        answer.topics.retain(|topic| topic.name.as_deref().is_some_and(|name| name.starts_with("seen-")));
    };
    pair.same("all", asked(&[], 2000, None), own)?;
    pair.same("all from a topic on", asked(&[], 4, Some(("seen-b", 1))), own)
}
