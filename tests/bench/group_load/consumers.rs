//! Members of the newer protocol (KIP-848), as the Java client is one: each has a connection to its coordinator, says that it is
//! there when the coordinator wants to hear of it, gives up what it is told to give up and says so at once, and takes what it
//! is given. They read nothing and commit nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use odradek_common::{ErrorCode, Uuid};
use odradek_wire::ConsumerGroupHeartbeatRequest;
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::consumer_group_heartbeat_response::Assignment;

use crate::{BACKOFF, Coordinator, TOPIC, say};

const CONSUMER_GROUP_HEARTBEAT: i16 = 1;
/// `max.poll.interval.ms` of the Java client.
const REBALANCE_TIMEOUT_MS: i32 = 300_000;
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at all members.
const LOOK: Duration = Duration::from_millis(20);

/// One member as it sees itself.
#[derive(Clone, Default)]
struct Seen {
    epoch: i32,
    owned: BTreeSet<i32>,
}

/// What all members know and did, by the number of each.
#[derive(Default)]
struct Log {
    members: Vec<Seen>,
    heartbeats: u64,
    /// Heartbeats that were answered with an error, or not.
    errors: HashMap<String, u64>,
    /// What each member had to give up and what it was given, one for each partition.
    revoked: u64,
    assigned: u64,
    interval: Duration,
    longest: Duration,
}

struct Member {
    at: Coordinator,
    number: usize,
    id: String,
    epoch: i32,
    topic_id: Uuid,
    owned: BTreeSet<i32>,
    log: Rc<RefCell<Log>>,
}

impl Member {
    fn spawn(bootstrap: &Rc<Vec<String>>, group: String, number: usize, log: &Rc<RefCell<Log>>) {
        log.borrow_mut().members.push(Seen::default());
        let member = Self {
            at: Coordinator::new(bootstrap, group),
            number,
            id: format!("member-{number}"),
            epoch: 0,
            topic_id: Uuid::default(),
            owned: BTreeSet::new(),
            log: log.clone(),
        };
        tokio::task::spawn_local(member.live());
    }

    async fn live(mut self) {
        let mut tells_all = true;
        loop {
            let begun = Instant::now();
            match self.beat(tells_all).await {
                // What has changed is told at once.
                Ok(true) => {
                    tells_all = true;
                    continue;
                }
                Ok(false) => tells_all = false,
                Err(error) => {
                    *self.log.borrow_mut().errors.entry(error.to_string()).or_default() += 1;
                    tells_all = true;
                    tokio::time::sleep(BACKOFF).await;
                    continue;
                }
            }
            let interval = {
                let mut log = self.log.borrow_mut();
                log.longest = log.longest.max(begun.elapsed());
                log.interval
            };
            tokio::time::sleep(interval).await;
        }
    }

    /// One heartbeat; whether the answer has changed what the member has.
    async fn beat(&mut self, tells_all: bool) -> anyhow::Result<bool> {
        let owned = TopicPartitions {
            topic_id: self.topic_id,
            partitions: self.owned.iter().copied().collect(),
            ..Default::default()
        };
        let mut request = ConsumerGroupHeartbeatRequest {
            group_id: self.at.group.as_str().into(),
            member_id: self.id.as_str().into(),
            member_epoch: self.epoch,
            ..Default::default()
        };
        if tells_all {
            request.rebalance_timeout_ms = REBALANCE_TIMEOUT_MS;
            request.subscribed_topic_names = Some(vec![TOPIC.into()]);
            request.topic_partitions = Some(if self.owned.is_empty() { Vec::new() } else { vec![owned] });
        }
        let answer = self.at.call(CONSUMER_GROUP_HEARTBEAT, &request).await?;
        self.at.moved(answer.error_code);
        match ErrorCode::from_code(answer.error_code) {
            ErrorCode::None => {}
            code @ (ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch) => {
                (self.epoch, self.owned) = (0, BTreeSet::new());
                self.note();
                bail!("lost: {code:?}");
            }
            code => bail!("{code:?}"),
        }
        self.epoch = answer.member_epoch;
        {
            let mut log = self.log.borrow_mut();
            log.heartbeats += 1;
            log.interval = Duration::from_millis(u64::try_from(answer.heartbeat_interval_ms)?);
        }
        let changed = answer.assignment.is_some_and(|assignment| self.reconcile(&assignment));
        self.note();
        Ok(changed)
    }

    /// Becomes what it is told; whether that is something else.
    fn reconcile(&mut self, assignment: &Assignment) -> bool {
        let given: BTreeSet<i32> =
            assignment.topic_partitions.iter().flat_map(|topic| topic.partitions.iter().copied()).collect();
        if let Some(topic) = assignment.topic_partitions.first() {
            self.topic_id = topic.topic_id;
        }
        let mut log = self.log.borrow_mut();
        log.revoked += self.owned.difference(&given).count() as u64;
        log.assigned += given.difference(&self.owned).count() as u64;
        let changed = self.owned != given;
        self.owned = given;
        changed
    }

    fn note(&self) {
        let seen = Seen { epoch: self.epoch, owned: self.owned.clone() };
        if let Some(place) = self.log.borrow_mut().members.get_mut(self.number) {
            *place = seen;
        }
    }
}

/// The owner of each partition, when all members of a group are in one epoch and have all partitions among them, each one once.
fn owners<'a>(members: impl Iterator<Item = (usize, &'a Seen)>, partitions: usize) -> Option<BTreeMap<i32, usize>> {
    let (mut owners, mut epochs, mut count) = (BTreeMap::new(), BTreeSet::new(), 0);
    for (number, seen) in members {
        epochs.insert(seen.epoch);
        count += seen.owned.len();
        owners.extend(seen.owned.iter().map(|partition| (*partition, number)));
    }
    let settled = epochs.len() == 1 && !epochs.contains(&0);
    (settled && count == partitions && owners.len() == partitions).then_some(owners)
}

/// The number of partitions that have another owner, and how long that took.
async fn settle(log: &Rc<RefCell<Log>>, groups: usize, partitions: usize) -> anyhow::Result<Vec<BTreeMap<i32, usize>>> {
    let begun = Instant::now();
    loop {
        let found: Option<Vec<_>> = {
            let log = log.borrow();
            let of = |group| log.members.iter().enumerate().filter(move |(number, _)| number % groups == group);
            (0..groups).map(|group| owners(of(group), partitions)).collect()
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let errors = format!("{:?}", log.borrow().errors);
        ensure!(begun.elapsed() < PATIENCE, "the groups do not settle; errors: {errors}");
        tokio::time::sleep(LOOK).await;
    }
}

/// `group-load consumers`: stable groups, until standard input ends.
pub async fn consumers(bootstrap: Rc<Vec<String>>, groups: usize, count: usize, parts: usize) -> anyhow::Result<()> {
    let log = Rc::new(RefCell::new(Log::default()));
    for number in 0..count {
        Member::spawn(&bootstrap, format!("consumers-{}", number % groups), number, &log);
        // Not all at once: nor would their heartbeats be.
        if number % 100 == 99 {
            tokio::time::sleep(BACKOFF / 2).await;
        }
    }
    let before = settle(&log, groups, parts).await?;
    {
        let mut log = log.borrow_mut();
        (log.heartbeats, log.revoked, log.assigned, log.longest) = (0, 0, 0, Duration::ZERO);
        log.errors.clear();
    }
    say("STARTED")?;
    let (begun, ended) =
        (Instant::now(), std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())));
    while !ended.is_finished() {
        tokio::time::sleep(BACKOFF).await;
    }
    let (took, log) = (begun.elapsed().as_secs_f64(), log.borrow());
    let errors: u64 = log.errors.values().sum();
    eprintln!("{:?}", log.errors);
    let of = |group| log.members.iter().enumerate().filter(move |(number, _)| number % groups == group);
    let same = (0..groups).all(|group| owners(of(group), parts).as_ref() == before.get(group));
    say(&format!(
        "{{\"run\":\"consumers\",\"groups\":{groups},\"members\":{count},\"heartbeats_s\":{:.0},\"interval_ms\":{},\
         \"errors\":{errors},\"moved\":{},\"same\":{same},\"longest_ms\":{}}}",
        log.heartbeats as f64 / took,
        log.interval.as_millis(),
        log.revoked + log.assigned,
        log.longest.as_millis()
    ))
}

/// `group-load converge`: members join a large group, one after the other.
pub async fn converge(bootstrap: Rc<Vec<String>>, count: usize, partitions: usize) -> anyhow::Result<()> {
    let log = Rc::new(RefCell::new(Log::default()));
    // The last one of `count` must be given something, unless there are fewer partitions; the next one, maybe nothing.
    for number in 0..count.checked_sub(1).context("--members: at least 1")? {
        Member::spawn(&bootstrap, "converge".to_owned(), number, &log);
    }
    let mut before = settle(&log, 1, partitions).await?.remove(0);
    for number in count - 1..=count {
        let had = {
            let mut log = log.borrow_mut();
            (log.revoked, log.assigned) = (0, 0);
            log.errors.clear();
            log.members.iter().map(|seen| seen.owned.len()).collect::<Vec<_>>()
        };
        let begun = Instant::now();
        Member::spawn(&bootstrap, "converge".to_owned(), number, &log);
        let after = settle(&log, 1, partitions).await?.remove(0);
        let took = begun.elapsed();
        let moved = after.iter().filter(|(partition, owner)| before.get(partition) != Some(owner)).count();
        // No share may be larger by two than another: the new member has to be given what the others have beyond that.
        let least = partitions / (had.len() + 1);
        let log = log.borrow();
        let intervals = took.as_secs_f64() / log.interval.as_secs_f64();
        eprintln!("{:?}", log.errors);
        say(&format!(
            "{{\"run\":\"converge\",\"members\":{},\"partitions\":{partitions},\"ms\":{},\"heartbeats\":{intervals:.2},\
             \"moved\":{moved},\"must_move\":{least},\"revoked\":{},\"assigned\":{},\"errors\":{}}}",
            number + 1,
            took.as_millis(),
            log.revoked,
            log.assigned,
            log.errors.values().sum::<u64>()
        ))?;
        before = after;
    }
    Ok(())
}
