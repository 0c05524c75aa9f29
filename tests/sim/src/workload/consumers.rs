//! A group of the newer protocol (KIP-848) whose members come, go and vanish. A partition has one owner at a time: whoever was
//! told to have it, until it has given it up or has been silent for so long that it may be fenced. Who has given a partition up
//! cannot commit to it in its older epoch; what is committed never goes back by itself; nothing is skipped; and when nothing
//! happens any more, each partition is with somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_common::time::Instant;

use super::{Job, Part, Place, Topic, held};
use crate::client::{Client, Failure, Membership};
use crate::oracle::committed::Committed;

#[derive(Default)]
struct State {
    /// Who has a partition, as its owner knows.
    owners: BTreeMap<i32, String>,
    /// When a member has sent the last heartbeat that was answered.
    answered: BTreeMap<String, Instant>,
}

/// The members of one group, all of one topic.
pub struct Consumers {
    pub topic: Topic,
    group: &'static str,
    members: usize,
    state: Mutex<State>,
    committed: Committed,
}

/// A partition that was given up, and in which epoch the member had it.
struct GivenUp {
    partition: i32,
    epoch: i32,
    position: i64,
}

struct Member {
    who: Membership,
    client: Client,
    /// What it has and how far it is.
    positions: BTreeMap<i32, i64>,
    /// What it is to take up: who comes before has given it up.
    to_take_up: BTreeSet<i32>,
    given_up: Vec<GivenUp>,
    /// It has not heard the last answer.
    has_missed: bool,
    /// Something is to be told at once.
    has_news: bool,
    beaten: Instant,
}

/// Between two rounds of a member.
const ROUND: Duration = Duration::from_millis(150);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Whoever was answered within it is not fenced by any clock: half of the session timeout, which is less than the time to give
/// partitions up.
const SURELY_ALIVE: Duration = Duration::from_secs(3);
/// In which a group comes to rest: sessions end, and coordinators are loaded.
const REST_MAX: Duration = Duration::from_secs(90);

impl Consumers {
    pub fn new(topic: Topic, group: &'static str, members: usize) -> Rc<Self> {
        Rc::new(Self { topic, group, members, state: Mutex::default(), committed: Committed::new(topic, group) })
    }

    async fn live(self: Rc<Self>, place: Place, number: usize) {
        let mut life = 0;
        while !place.history.stops() {
            let mut member = self.member(&place, format!("consumer-{number}-{life}"));
            life += 1;
            self.be_member(&place, &mut member).await;
            place.world.sleep(Duration::from_millis(500 + place.below(4_000))).await;
        }
    }

    fn member(&self, place: &Place, member_id: String) -> Member {
        let group = self.group.to_owned();
        Member {
            who: Membership { group, member_id, generation: 0, is_consumer: true },
            client: place.client(),
            positions: BTreeMap::new(),
            to_take_up: BTreeSet::new(),
            given_up: Vec::new(),
            has_missed: false,
            has_news: true,
            beaten: place.world.instant(),
        }
    }

    /// Until it leaves or vanishes, or the run is over.
    async fn be_member(&self, place: &Place, member: &mut Member) {
        while !place.history.stops() {
            self.beat_if_due(place, member).await;
            self.take_up(place, member).await;
            self.try_late_commits(place, member).await;
            self.committed.read_on(place, &mut member.client, &mut member.positions).await;
            self.commit(place, member).await;
            match place.below(100) {
                0 => {
                    place.history.count_work("consumer leaves");
                    break;
                }
                1 => {
                    place.history.count_work("consumer vanishes");
                    return self.release_all(member);
                }
                _ => place.world.sleep(ROUND).await,
            }
        }
        self.release_all(member);
        let _ = member.client.consumer_leave(&member.who).await;
    }

    async fn beat_if_due(&self, place: &Place, member: &mut Member) {
        let sent = place.world.instant();
        if !member.has_news && sent.saturating_since(member.beaten) < HEARTBEAT_INTERVAL {
            return;
        }
        let topic = self.topic.name;
        let owned: Vec<i32> = member.positions.keys().copied().collect();
        let is_full = member.who.generation == 0 || member.has_missed;
        // While it is about to take something up, that is not what it has.
        let answer = member.client.consumer_heartbeat(&member.who, topic, &owned, is_full).await;
        member.beaten = sent;
        match answer {
            Ok(beat) => {
                (member.has_missed, member.has_news) = (false, false);
                held(&self.state).answered.insert(member.who.member_id.clone(), sent);
                let before = std::mem::replace(&mut member.who.generation, beat.epoch);
                if before != beat.epoch {
                    place.history.note(format_args!("{} enters epoch {}", member.who.member_id, beat.epoch));
                }
                if let Some(assigned) = beat.assigned {
                    self.reconcile(place, member, before, assigned.into_iter().collect());
                }
            }
            Err(Failure::Kafka(ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId)) => {
                place.history.count_work("consumer is fenced");
                self.release_all(member);
                (member.who.generation, member.has_news) = (0, true);
            }
            Err(Failure::Kafka(code)) if !code.is_retriable() && code != ErrorCode::GroupIdNotFound => {
                place.history.broken(format!("group {}: {code} is final", self.group));
            }
            Err(_) => {
                (member.has_missed, member.has_news) = (true, true);
                member.client.forget_coordinators();
                let _ = member.client.refresh(topic).await;
                place.pause().await;
            }
        }
    }

    /// Gives up at once what it is not to have any more, and looks forward to the rest.
    fn reconcile(&self, place: &Place, member: &mut Member, epoch: i32, assigned: BTreeSet<i32>) {
        let id = &member.who.member_id;
        place.history.note(format_args!("{id} is to have {assigned:?}"));
        let lost: Vec<i32> = member.positions.keys().filter(|owned| !assigned.contains(*owned)).copied().collect();
        for partition in lost {
            place.history.count_work("partition given up");
            let position = member.positions.remove(&partition).unwrap_or(0);
            held(&self.state).owners.remove(&partition);
            member.given_up.push(GivenUp { partition, epoch, position });
            member.has_news = true;
        }
        member.given_up.retain(|given_up| !assigned.contains(&given_up.partition));
        member.to_take_up =
            assigned.into_iter().filter(|partition| !member.positions.contains_key(partition)).collect();
    }

    /// Goes on where the one before was.
    async fn take_up(&self, place: &Place, member: &mut Member) {
        if member.to_take_up.is_empty() {
            return;
        }
        for partition in &member.to_take_up {
            self.own(place, &member.who.member_id, *partition);
        }
        let partitions: Vec<i32> = member.to_take_up.iter().copied().collect();
        match self.committed.resume(place, &mut member.client, &partitions).await {
            Ok(found) => {
                member.positions.extend(found);
                member.to_take_up.clear();
                member.has_news = true;
            }
            Err(_) => {
                member.client.forget_coordinators();
                place.pause().await;
            }
        }
    }

    fn own(&self, place: &Place, id: &str, partition: i32) {
        let mut state = held(&self.state);
        let before = state.owners.insert(partition, id.to_owned()).filter(|before| before != id);
        let Some(before) = before else { return place.history.count_work("partition handed to a consumer") };
        let answered = state.answered.get(&before).copied();
        let silence = answered.map(|answered| place.world.instant().saturating_since(answered));
        if silence.is_some_and(|silence| silence < SURELY_ALIVE) {
            place.history.broken(format!(
                "group {}: partition {partition} is handed to {id}, and {before} has it, which was answered {silence:?} ago",
                self.group
            ));
        }
    }

    fn release_all(&self, member: &mut Member) {
        held(&self.state).owners.retain(|_, owner| *owner != member.who.member_id);
        member.positions.clear();
        member.to_take_up.clear();
        member.given_up.clear();
    }

    /// What was given up, and is known to be, must not be committed to as if it was not.
    async fn try_late_commits(&self, place: &Place, member: &mut Member) {
        if member.has_news || member.has_missed {
            return;
        }
        for GivenUp { partition, epoch, position } in std::mem::take(&mut member.given_up) {
            if epoch <= 0 || epoch >= member.who.generation {
                continue;
            }
            let late = Membership { generation: epoch, ..member.who.clone() };
            let commit = member.client.commit(&late, self.topic.name, &BTreeMap::from([(partition, position)])).await;
            place.history.count_work("commit in an older epoch tried");
            match commit {
                Ok(()) => place.history.broken(format!(
                    "group {}: {} has given partition {partition} up since epoch {epoch}, and may commit to it in that",
                    self.group, late.member_id
                )),
                Err(Failure::Kafka(_)) => {}
                Err(Failure::Io(_)) => member.client.forget_coordinators(),
            }
        }
    }

    async fn commit(&self, place: &Place, member: &mut Member) {
        if member.positions.is_empty() {
            return;
        }
        let outcome = member.client.commit(&member.who, self.topic.name, &member.positions).await;
        self.committed.note(&place.history, &member.positions, &outcome);
        match outcome {
            Ok(()) => {}
            // It hears of it with its next heartbeat.
            Err(Failure::Kafka(ErrorCode::StaleMemberEpoch | ErrorCode::UnknownMemberId)) => member.has_news = true,
            Err(_) => {
                member.client.forget_coordinators();
                place.pause().await;
            }
        }
    }

    /// New members, who stay, until all is with them: liveness.
    async fn come_to_rest(&self, place: &Place) {
        let mut members: Vec<Member> =
            (0..2).map(|number| self.member(place, format!("consumer-last-{number}"))).collect();
        let limit = place.world.instant() + REST_MAX;
        loop {
            for member in &mut members {
                self.beat_if_due(place, member).await;
                self.take_up(place, member).await;
            }
            let owned: usize = members.iter().map(|member| member.positions.len()).sum();
            let epochs: BTreeSet<i32> = members.iter().map(|member| member.who.generation).collect();
            if owned == self.topic.partitions as usize && epochs.len() == 1 {
                place.history.count_work("group came to rest");
                break;
            }
            if place.world.instant() > limit {
                let has = members.iter().map(|member| (&member.who, &member.positions)).collect::<Vec<_>>();
                return place.history.broken(format!("liveness: group {} does not come to rest: {has:?}", self.group));
            }
            place.world.sleep(ROUND).await;
        }
        for member in &mut members {
            self.release_all(member);
            let _ = member.client.consumer_leave(&member.who).await;
        }
    }
}

impl Part for Consumers {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let (this, at) = (self.clone(), place.clone());
        let mut jobs: Vec<Job> = vec![Box::pin(async move { this.committed.observe(&at).await })];
        jobs.extend((0..self.members).map(|number| Box::pin(self.clone().live(place.clone(), number)) as Job));
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(async move {
            self.come_to_rest(&place).await;
            self.committed.check(&place).await;
        })
    }
}
