//! Consumers that do at random all that consumers do, and lose answers, memory and coordinators on the way: at no time is a
//! partition with two of them, and when nothing happens any more the group comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::Ticket;
use odradek_broker_core::group::{GroupClient, GroupRequest, GroupResponse};
use odradek_common::rng::{Rng as _, SplitMix64};
use odradek_common::{ErrorCode, TopicId};
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, Str};

use super::Bench;

/// A consumer as a client of the protocol is: it has partitions until it gives them up, and tells what it has.
#[derive(Clone, Debug)]
struct Consumer {
    id: String,
    /// 0: it is to join.
    epoch: i32,
    instance: Option<String>,
    topics: Vec<&'static str>,
    owned: BTreeSet<(TopicId, i32)>,
    /// What it was told to have, until it has done so.
    told: Option<BTreeSet<(TopicId, i32)>>,
    /// An answer was lost: it says all again, so that it is told all again.
    has_missed: bool,
}

impl Consumer {
    fn request(&self, tells_owned: bool, leaves: bool) -> ConsumerGroupHeartbeatRequest {
        let joins = self.epoch == 0;
        let tells_all = joins || self.has_missed;
        let mut owned: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        self.owned.iter().for_each(|(topic, partition)| owned.entry(*topic).or_default().push(*partition));
        let owned = owned.into_iter();
        let owned = owned.map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions, ..Default::default() });
        ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.as_str().into(),
            member_epoch: if leaves { -1 } else { self.epoch },
            instance_id: self.instance.as_deref().map(Str::from),
            rebalance_timeout_ms: if tells_all { 30_000 } else { -1 },
            subscribed_topic_names: tells_all.then(|| self.topics.iter().map(|topic| Str::from(*topic)).collect()),
            // While it is about to take something up, what it has says nothing of that.
            topic_partitions: (tells_owned && self.told.is_none() || tells_all).then(|| owned.collect()),
            ..Default::default()
        }
    }

    fn forget(&mut self) {
        self.epoch = 0;
        self.owned.clear();
        self.told = None;
    }
}

impl Bench {
    fn heartbeat(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let client = GroupClient { client_id: "app".into(), host: "/127.0.0.1".into(), api_version: 1 };
        let request = GroupRequest::ConsumerHeartbeat(client, Arc::new(self.image.clone()), request);
        let mut done = self.runtime.request(ticket, request, self.now, &mut self.rng, &mut self.log);
        done.extend(self.commit());
        match done.into_iter().find(|(of, _)| *of == ticket) {
            Some((_, Ok(GroupResponse::ConsumerHeartbeat(response)))) => response,
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.instant + Duration::from_millis(ms);
        while let Some(deadline) = self.runtime.next_deadline().filter(|deadline| *deadline <= end) {
            self.set_time(deadline.max(self.now.instant));
            self.runtime.on_time(self.now, &mut self.rng, &mut self.log);
            self.commit();
        }
        self.set_time(end);
    }

    /// One consumer sends a heartbeat, whose answer it may never see.
    fn live(&mut self, consumer: &mut Consumer, tells_owned: bool, is_lost: bool) {
        let response = self.heartbeat(consumer.request(tells_owned, false));
        consumer.has_missed = is_lost;
        if is_lost {
            // What it was told before may not be true any more.
            consumer.told = None;
            return;
        }
        match ErrorCode::from_code(response.error_code) {
            ErrorCode::None => {
                consumer.epoch = response.member_epoch;
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.iter();
                    consumer.told = Some(topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect());
                }
            }
            // It lost the group, and begins anew with nothing.
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => consumer.forget(),
            ErrorCode::GroupMaxSizeReached | ErrorCode::UnreleasedInstanceId => {}
            other => panic!("{other} {:?}", response.error_message),
        }
    }
}

/// No partition is with two consumers that the group knows, whatever they do: as clients see it, not as the group has it.
fn no_two_have_one(bench: &Bench, consumers: &[Consumer], what: &str) {
    let Some(group) = bench.runtime.shard().consumer_group("g") else { return };
    let mut owners = BTreeMap::new();
    for consumer in consumers.iter().filter(|consumer| group.member(&consumer.id).is_some()) {
        for partition in &consumer.owned {
            if let Some(other) = owners.insert(*partition, &consumer.id) {
                panic!("{what}: {partition:?} is with {other} and {}", consumer.id);
            }
        }
    }
}

#[test]
fn a_partition_never_has_two_owners_and_groups_come_to_rest() {
    for seed in 0..150 {
        let mut rng = SplitMix64::new(seed);
        let mut bench = Bench::new();
        bench.config.size_max = 6;
        bench.config.consumer.size_max = 6;
        bench.config.consumer.assignment_interval.value_ms = [0, 1_000][rng.below(2) as usize];
        bench.load();
        for (topic, partitions) in [("t", 4), ("u", 3)] {
            bench.run(&format!("topic {topic} {partitions}"));
        }
        let subscriptions: [&[&str]; 3] = [&["t"], &["u"], &["t", "u"]];
        let mut consumers: Vec<Consumer> = (0..4)
            .map(|n| Consumer {
                id: format!("c{n}"),
                epoch: 0,
                instance: (n == 3).then(|| "i".to_owned()),
                topics: subscriptions[rng.below(3) as usize].to_vec(),
                owned: BTreeSet::new(),
                told: None,
                has_missed: false,
            })
            .collect();
        let mut partitions = 4;
        for step in 0..200 {
            let n = rng.below(consumers.len() as u64) as usize;
            let what = rng.below(40);
            match what {
                0 => {
                    bench.heartbeat(consumers[n].request(false, true));
                    consumers[n].forget();
                }
                1 => {
                    partitions += 1;
                    bench.run(&format!("grow t {partitions}"));
                }
                2 => bench.load(),
                3 => bench.pass(20_000),
                4 => consumers[n].topics = subscriptions[rng.below(3) as usize].to_vec(),
                5 => {
                    // A consumer that has lost its memory: what it had is not read by anybody for the time being.
                    consumers[n].forget();
                    consumers[n].id = format!("{}x", consumers[n].id);
                    consumers[n].instance = None;
                }
                6..15 => {
                    if let Some(told) = consumers[n].told.take() {
                        consumers[n].owned = told;
                    }
                }
                15..20 => bench.live(&mut consumers[n], true, true),
                20..25 => bench.live(&mut consumers[n], false, false),
                _ => bench.live(&mut consumers[n], true, false),
            }
            bench.pass(10);
            no_two_have_one(&bench, &consumers, &format!("seed {seed}, step {step}, {what}"));
            if step % 40 == 0 {
                bench.check();
            }
        }
        // When nothing happens any more, everything is given to somebody, and everybody has what is meant for it.
        for _ in 0..30 {
            bench.pass(2_000);
            for consumer in &mut consumers {
                bench.live(consumer, true, false);
                if let Some(told) = consumer.told.take() {
                    consumer.owned = told;
                }
            }
            no_two_have_one(&bench, &consumers, &format!("seed {seed}, at rest"));
        }
        bench.check();
        let group = bench.runtime.shard().consumer_group("g").expect("the group");
        let members = consumers.iter().filter(|consumer| group.member(&consumer.id).is_some());
        // As the group knows it: a consumer tells of another subscription when it joins.
        let read: BTreeSet<&str> = group.members().flat_map(|member| member.info.topics.iter().map(|t| &**t)).collect();
        let owned: usize = members.clone().map(|consumer| consumer.owned.len()).sum();
        let all = read.iter().map(|topic| if *topic == "t" { partitions as usize } else { 3 }).sum::<usize>();
        // Those that were forgotten may hold some until their sessions end.
        if members.count() == group.member_count() {
            assert_eq!(group.state().name(), "Stable", "seed {seed}");
            assert_eq!(owned, all, "seed {seed}: all is read");
        }
    }
}
