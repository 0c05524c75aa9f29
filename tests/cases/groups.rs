//! Consumer groups through librdkafka: members share partitions under each of its assignors, leave, come back, and outlive
//! their coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::{Cluster, Spec, real, wait_for};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};

use crate::values;

const LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "shared";
const PARTITIONS: i32 = 4;
const EACH: i64 = 10;

/// Counts how often partitions were given to, or taken from, a member, and how many were taken.
#[derive(Clone, Default)]
struct Rebalances {
    count: Arc<AtomicUsize>,
    revoked: Arc<AtomicUsize>,
}

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            self.revoked.fetch_add(partitions.count(), Ordering::Relaxed);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

struct Member {
    consumer: BaseConsumer<Rebalances>,
    rebalances: Rebalances,
    /// Partition and offset of what it has read.
    read: BTreeSet<(i32, i64)>,
}

impl Member {
    /// With librdkafka's defaults but for `settings`.
    fn join(cluster: &Cluster, group: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut config = real::config(cluster.bootstrap());
        config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        // Long beside what the test waits for: nobody is waited out.
        config.set("session.timeout.ms", "20000").set("heartbeat.interval.ms", "200").set("fetch.wait.max.ms", "50");
        settings.iter().for_each(|(name, value)| _ = config.set(*name, *value));
        let rebalances = Rebalances::default();
        let consumer: BaseConsumer<Rebalances> = config.create_with_context(rebalances.clone())?;
        consumer.subscribe(&[TOPIC])?;
        Ok(Self { consumer, rebalances, read: BTreeSet::new() })
    }

    /// One round: whatever is there, and what the coordinator has to say.
    fn poll(&mut self) {
        // Of a broker that was killed the client tells as of an error; it goes on by itself.
        if let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(10)) {
            self.read.insert((message.partition(), message.offset()));
        }
    }

    fn partitions(&self) -> anyhow::Result<BTreeSet<i32>> {
        Ok(self.consumer.assignment()?.elements().iter().map(|element| element.partition()).collect())
    }

    fn rebalances(&self) -> usize {
        self.rebalances.count.load(Ordering::Relaxed)
    }

    /// What the group has committed, by partition.
    fn committed(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut asked = TopicPartitionList::new();
        (0..PARTITIONS).for_each(|partition| _ = asked.add_partition(TOPIC, partition));
        let told = self.consumer.committed_offsets(asked, LIMIT)?;
        Ok(told.elements().iter().filter_map(|each| Some((each.partition(), each.offset().to_raw()?))).collect())
    }

    fn commit(&self, partitions: impl IntoIterator<Item = i32>, offset: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(TOPIC, partition, Offset::Offset(offset))?;
        }
        Ok(self.consumer.commit(&list, CommitMode::Sync)?)
    }
}

/// Polls all members until it holds.
fn until(
    what: &str,
    members: &mut [&mut Member],
    mut holds: impl FnMut(&[&mut Member]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds(members)? {
        let shares: Vec<_> = members.iter().map(|member| member.partitions()).collect();
        ensure!(Instant::now() < deadline, "{what}: not within {LIMIT:?}; the members have {shares:?}");
        members.iter_mut().for_each(|member| member.poll());
    }
    Ok(())
}

fn is_split(members: &[&mut Member]) -> anyhow::Result<bool> {
    let shares = members.iter().map(|member| member.partitions()).collect::<anyhow::Result<Vec<_>>>()?;
    let all: BTreeSet<i32> = shares.iter().flatten().copied().collect();
    Ok(all.len() == PARTITIONS as usize && shares.iter().all(|share| share.len() * shares.len() == all.len()))
}

/// With one partition of `__consumer_offsets`, whose leader is the coordinator of every group.
fn spec() -> Spec {
    let spec = Spec::new(1, 3).set("offsets.topic.num.partitions", 1).set("offsets.topic.replication.factor", 3);
    spec.set("group.initial.rebalance.delay.ms", 100)
}

fn filled(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new(TOPIC, PARTITIONS, 3))?;
    for partition in 0..PARTITIONS {
        client.produce(TOPIC, partition, &values("record", EACH as usize, 20))?;
    }
    Ok(())
}

#[test]
fn members_share_partitions_and_outlive_their_coordinator() {
    spec().run(|cluster| {
        filled(cluster)?;
        let mut first = Member::join(cluster, "sharing", &[])?;
        until("all is the first member's", &mut [&mut first], is_split)?;
        let mut second = Member::join(cluster, "sharing", &[])?;
        until("each has a half", &mut [&mut first, &mut second], is_split)?;
        until("all is read", &mut [&mut first, &mut second], |members| {
            let read: BTreeSet<_> = members.iter().flat_map(|member| &member.read).collect();
            Ok(read.len() as i64 == EACH * i64::from(PARTITIONS))
        })?;
        first.commit(first.partitions()?, EACH)?;
        second.commit(second.partitions()?, EACH)?;
        // It says goodbye: nobody waits for its session to end.
        let left = Instant::now();
        drop(second);
        until("the first has taken over", &mut [&mut first], is_split)?;
        ensure!(left.elapsed() < Duration::from_secs(10), "taken over after {:?}", left.elapsed());
        let all: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, EACH)).collect();
        ensure!(first.committed()? == all, "committed: {:?}", first.committed()?);

        let mut client = cluster.client();
        client.wait_isr("__consumer_offsets", 0, &[1, 2, 3])?;
        let (coordinator, _) = client.leader("__consumer_offsets", 0)?;
        let before = first.rebalances();
        cluster.broker(coordinator).kill()?;
        wait_for("another coordinator", LIMIT, || {
            Ok((client.leader("__consumer_offsets", 0)?.0 != coordinator).then_some(()))
        })?;
        // The commits are there, and the member is still one: it commits in the same generation.
        ensure!(first.committed()? == all, "after the kill: {:?}", first.committed()?);
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = first.commit([0], 5) {
            ensure!(Instant::now() < deadline, "no commit any more: {error:#}");
            first.poll();
        }
        ensure!(first.committed()?.get(&0) == Some(&5), "a commit after the kill: {:?}", first.committed()?);
        ensure!(first.rebalances() == before, "the member was thrown out by the kill of its coordinator");
        cluster.broker(coordinator).start()?;
        client.wait_isr("__consumer_offsets", 0, &[1, 2, 3])?;
        Ok(())
    });
}

#[test]
fn members_come_and_go_under_every_assignor_and_resume_from_commits() {
    spec().run(|cluster| {
        filled(cluster)?;
        for (assignor, revoked) in [("range", 4), ("roundrobin", 4), ("cooperative-sticky", 2)] {
            come_and_go(cluster, assignor, revoked).context(assignor)?;
        }
        Ok(())
    });
}

/// `revoked`: how many partitions are taken from a member that has all four when a second one comes.
fn come_and_go(cluster: &Cluster, assignor: &str, revoked: usize) -> anyhow::Result<()> {
    let settings = [("partition.assignment.strategy", assignor)];
    let join = || Member::join(cluster, assignor, &settings);
    let mut first = join()?;
    until("all is the first member's", &mut [&mut first], is_split)?;
    let mut second = join()?;
    until("each has a half", &mut [&mut first, &mut second], is_split)?;
    let taken = first.rebalances.revoked.load(Ordering::Relaxed);
    ensure!(taken == revoked, "{taken} partitions were taken from the first member, not {revoked}");
    until("all is read", &mut [&mut first, &mut second], |members| {
        let read: BTreeSet<_> = members.iter().flat_map(|member| &member.read).collect();
        Ok(read.len() as i64 == EACH * i64::from(PARTITIONS))
    })?;
    // Back and forth within what it has.
    let partition = *second.partitions()?.first().context("a partition")?;
    for offset in [0, EACH - 1] {
        second.read.clear();
        second.consumer.seek(TOPIC, partition, Offset::Offset(offset), LIMIT)?;
        until("it reads from where it was sent", &mut [&mut first, &mut second], |members| {
            // What comes of its other partition may be its first records: the first member has read them, too.
            let read = &members.last().context("two members")?.read;
            let read = read.iter().copied().filter(|(from, _)| *from == partition);
            Ok(read.eq((offset..EACH).map(|offset| (partition, offset))))
        })?;
    }
    first.commit(first.partitions()?, 7)?;
    second.commit(second.partitions()?, 7)?;
    drop(first);
    until("the second has taken over", &mut [&mut second], is_split)?;
    drop(second);
    let mut third = join()?;
    let rest: BTreeSet<_> = (0..PARTITIONS).flat_map(|p| (7..EACH).map(move |offset| (p, offset))).collect();
    until("the third reads what is left", &mut [&mut third], |members| Ok(members[0].read.len() >= rest.len()))?;
    ensure!(third.read == rest, "it resumed with {:?}", third.read);
    Ok(())
}

#[test]
fn a_static_member_restarts_without_a_rebalance() {
    spec().run(|cluster| {
        filled(cluster)?;
        let mut one = Member::join(cluster, "static", &[("group.instance.id", "one")])?;
        let mut two = Member::join(cluster, "static", &[("group.instance.id", "two")])?;
        until("each has a half", &mut [&mut one, &mut two], is_split)?;
        let (share, before) = (one.partitions()?, two.rebalances());
        // A static member does not leave when it ends.
        drop(one);
        let mut one = Member::join(cluster, "static", &[("group.instance.id", "one")])?;
        until("it has its half again", &mut [&mut one, &mut two], |members| {
            let restarted = members.first().context("two members")?;
            Ok(restarted.partitions()? == share)
        })?;
        ensure!(two.rebalances() == before, "the other member did not notice: {} then {before}", two.rebalances());
        ensure!(one.rebalances() == 1, "one assignment: {}", one.rebalances());
        Ok(())
    });
}
