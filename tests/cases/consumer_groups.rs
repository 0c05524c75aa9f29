//! Consumer groups of the newer protocol (KIP-848) through librdkafka: members share partitions under both assignors, come
//! and go, name topics by an expression, are static, and outlive their coordinator.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::values;

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "shared";
const PARTITIONS: i32 = 4;
const EACH: i64 = 10;

struct Member {
    consumer: BaseConsumer,
    read: BTreeSet<(String, i32, i64)>,
}

impl Member {
    fn join(cluster: &Cluster, group: &str, topic: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut config = real::config(cluster.bootstrap());
        config.set("group.id", group).set("group.protocol", "consumer").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "50");
        settings.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[topic])?;
        Ok(Self { consumer, read: BTreeSet::new() })
    }

    fn poll(&mut self) {
        // Of a broker that was killed the client tells as of an error; it goes on by itself.
        if let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(10)) {
            self.read.insert((message.topic().to_owned(), message.partition(), message.offset()));
        }
    }

    fn partitions(&self) -> anyhow::Result<BTreeSet<(String, i32)>> {
        let assignment = self.consumer.assignment()?;
        Ok(assignment.elements().iter().map(|part| (part.topic().to_owned(), part.partition())).collect())
    }

    /// Commits an offset for all that it has.
    fn commit(&self, offset: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in self.partitions()? {
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
        }
        Ok(self.consumer.commit(&list, CommitMode::Sync)?)
    }
}

fn spec() -> Spec {
    Spec::new(1, 3)
        .set("offsets.topic.num.partitions", 1)
        .set("offsets.topic.replication.factor", 3)
        .set("group.consumer.min.heartbeat.interval.ms", 100)
        .set("group.consumer.heartbeat.interval.ms", 200)
}

fn filled(cluster: &Cluster, topic: &str) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new(topic, PARTITIONS, 3))?;
    for partition in 0..PARTITIONS {
        client.produce(topic, partition, &values("record", EACH as usize, 20))?;
    }
    Ok(())
}

/// Polls all members until it holds; at no time do two of them have a partition.
fn until(
    what: &str,
    members: &mut [&mut Member],
    mut holds: impl FnMut(&[&mut Member]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    wait_for(what, LIMIT, || {
        let mut owned = BTreeSet::new();
        for member in members.iter_mut() {
            member.poll();
            for partition in member.partitions()? {
                ensure!(owned.insert(partition.clone()), "{what}: {partition:?} has two owners");
            }
        }
        Ok(holds(members)?.then_some(()))
    })
}

/// Everything is shared evenly.
fn is_split(members: &[&mut Member]) -> anyhow::Result<bool> {
    let shares = members.iter().map(|member| Ok(member.partitions()?.len())).collect::<anyhow::Result<Vec<_>>>()?;
    let (least, most) = (shares.iter().min().context("members")?, shares.iter().max().context("members")?);
    Ok(shares.iter().sum::<usize>() == PARTITIONS as usize && most - least <= 1)
}

#[test]
fn members_share_under_both_assignors_and_outlive_their_coordinator() {
    spec().run(|cluster| {
        filled(cluster, TOPIC)?;
        for assignor in ["uniform", "range"] {
            come_and_go(cluster, assignor).context(assignor)?;
        }
        outlive(cluster)
    });
}

fn come_and_go(cluster: &Cluster, assignor: &str) -> anyhow::Result<()> {
    let join = || Member::join(cluster, assignor, TOPIC, &[("group.remote.assignor", assignor)]);
    let mut first = join()?;
    until("all is the first member's", &mut [&mut first], is_split)?;
    let mut second = join()?;
    until("each has a half", &mut [&mut first, &mut second], is_split)?;
    let mut third = join()?;
    until("each has a third", &mut [&mut first, &mut second, &mut third], is_split)?;
    until("all is read", &mut [&mut first, &mut second, &mut third], |members| {
        let read: BTreeSet<_> = members.iter().flat_map(|member| &member.read).collect();
        Ok(read.len() as i64 == EACH * i64::from(PARTITIONS))
    })?;
    for member in [&first, &second, &third] {
        member.commit(7)?;
    }
    // They say goodbye: nobody waits for their sessions to end.
    drop(first);
    until("two have taken over", &mut [&mut second, &mut third], is_split)?;
    drop((second, third));
    let mut last = join()?;
    let rest = (0..PARTITIONS).flat_map(|p| (7..EACH).map(move |offset| (TOPIC.to_owned(), p, offset)));
    let rest: BTreeSet<_> = rest.collect();
    until("the last reads what is left", &mut [&mut last], |members| Ok(members[0].read.len() >= rest.len()))?;
    ensure!(last.read == rest, "it resumed with {:?}", last.read);
    Ok(())
}

fn outlive(cluster: &Cluster) -> anyhow::Result<()> {
    let mut first = Member::join(cluster, "outliving", TOPIC, &[])?;
    let mut second = Member::join(cluster, "outliving", TOPIC, &[])?;
    until("each has a half", &mut [&mut first, &mut second], is_split)?;
    let share = first.partitions()?;
    if cluster.is_attached() {
        return Ok(());
    }
    let mut client = cluster.client();
    client.wait_isr("__consumer_offsets", 0, &[1, 2, 3])?;
    let (coordinator, _) = client.leader("__consumer_offsets", 0)?;
    cluster.broker(coordinator).kill()?;
    wait_for("another coordinator", LIMIT, || {
        Ok((client.leader("__consumer_offsets", 0)?.0 != coordinator).then_some(()))
    })?;
    // They are members still, in the same epoch.
    until("both commit", &mut [&mut first, &mut second], |members| {
        Ok(members.iter().all(|member| member.commit(3).is_ok()))
    })?;
    ensure!(first.partitions()? == share, "the kill of their coordinator has moved partitions");
    cluster.broker(coordinator).start()?;
    let mut third = Member::join(cluster, "outliving", TOPIC, &[])?;
    until("each has a third", &mut [&mut first, &mut second, &mut third], is_split)
}

#[test]
fn topics_are_named_by_expressions_and_members_are_static() {
    spec().run(|cluster| {
        filled(cluster, TOPIC)?;
        let names = |members: &[&mut Member]| -> anyhow::Result<BTreeSet<String>> {
            Ok(members[0].partitions()?.into_iter().map(|(topic, _)| topic).collect())
        };
        let mut reader = Member::join(cluster, "expressions", "^s.*d[0-9]*", &[])?;
        until("what is there", &mut [&mut reader], |members| Ok(names(members)?.len() == 1))?;
        filled(cluster, "shared2")?;
        until("what has come", &mut [&mut reader], |members| Ok(names(members)?.len() == 2))?;
        drop(reader);

        let join = |instance| Member::join(cluster, "static", TOPIC, &[("group.instance.id", instance)]);
        let mut one = join("one")?;
        until("all is the first member's", &mut [&mut one], is_split)?;
        let mut two = join("two")?;
        until("each has a half", &mut [&mut one, &mut two], is_split)?;
        let (share, other) = (one.partitions()?, two.partitions()?);
        // A static member does not leave when it ends.
        drop(one);
        let mut one = join("one")?;
        until("it has its half again", &mut [&mut one, &mut two], |members| Ok(members[0].partitions()? == share))?;
        ensure!(two.partitions()? == other, "the other member's partitions have moved");
        Ok(())
    });
}
