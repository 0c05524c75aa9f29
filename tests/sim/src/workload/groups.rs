//! A classic group whose members come, go and vanish. A partition has one owner in a generation; who has been left behind by a
//! newer generation cannot commit; what is committed never goes back by itself; and nothing is skipped: everything
//! acknowledged below a committed offset was handed to some member.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;

use super::{Job, Part, Place, Topic, held};
use crate::client::{Client, Failure, Membership};
use crate::oracle::committed::Committed;

#[derive(Default)]
struct State {
    /// The owner of a partition in a generation.
    owners: BTreeMap<(i32, i32), String>,
    /// The newest generation in which any member has its partitions.
    generation: i32,
}

/// The members of one group, all of one topic.
pub struct Groups {
    pub topic: Topic,
    group: &'static str,
    members: usize,
    state: Mutex<State>,
    committed: Committed,
}

/// Between two rounds of a member.
const ROUND: Duration = Duration::from_millis(150);

impl Groups {
    pub fn new(topic: Topic, group: &'static str, members: usize) -> Rc<Self> {
        Rc::new(Self { topic, group, members, state: Mutex::default(), committed: Committed::new(topic, group) })
    }

    async fn live(self: Rc<Self>, place: Place) {
        let mut client = place.client();
        let mut member = Membership { group: self.group.to_owned(), ..Default::default() };
        while !place.history.stops() {
            match self.be_member(&place, &mut client, &mut member).await {
                // Left, or vanished: the group finds out by the session timeout.
                Ok(()) => {
                    member.member_id.clear();
                    place.world.sleep(Duration::from_millis(500 + place.below(4_000))).await;
                }
                Err(Failure::Kafka(ErrorCode::MemberIdRequired | ErrorCode::RebalanceInProgress)) => {}
                Err(Failure::Kafka(ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId)) => {
                    member.member_id.clear();
                }
                Err(Failure::Kafka(ErrorCode::IllegalGeneration)) => {}
                Err(Failure::Kafka(code)) if !code.is_retriable() => {
                    return place.history.broken(format!("group {}: {code} is final", self.group));
                }
                Err(_) => {
                    client.forget_coordinators();
                    let _ = client.refresh(self.topic.name).await;
                    place.pause().await;
                }
            }
        }
        if !member.member_id.is_empty() {
            let _ = client.leave(&member).await;
        }
    }

    /// One generation of a membership. Ends well when the member is none any more.
    async fn be_member(&self, place: &Place, client: &mut Client, member: &mut Membership) -> Result<(), Failure> {
        let (topic, history) = (self.topic.name, &place.history);
        let joined = client.join(member, topic).await?;
        if !joined.member_id.is_empty() {
            member.member_id = joined.member_id.to_string();
        }
        Failure::check(joined.error_code)?;
        member.generation = joined.generation_id;
        history.note(format_args!("{} joins generation {}", member.member_id, member.generation));
        history.count_work("generation joined");
        let mut plan: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        if joined.leader == *member.member_id.as_str() {
            let ids: Vec<String> = joined.members.iter().map(|member| member.member_id.to_string()).collect();
            plan = ids.iter().map(|id| (id.clone(), Vec::new())).collect();
            for partition in 0..self.topic.partitions {
                let owner = &ids[partition as usize % ids.len()];
                plan.entry(owner.clone()).or_default().push(partition);
            }
        }
        let mine = client.sync(member, topic, &plan).await?;
        self.own(place, member, &mine);
        let mut positions =
            if mine.is_empty() { BTreeMap::new() } else { self.committed.resume(place, client, &mine).await? };
        let mut beaten = place.world.instant();
        while !history.stops() {
            if place.world.instant().saturating_since(beaten) > Duration::from_secs(1) || mine.is_empty() {
                client.heartbeat(member).await?;
                beaten = place.world.instant();
            }
            self.committed.read_on(place, client, &mut positions).await;
            if !positions.is_empty() {
                self.commit(place, client, member, &positions).await?;
            }
            match place.below(80) {
                0 => {
                    history.count_work("member leaves");
                    let _ = client.leave(member).await;
                    return Ok(());
                }
                1 => {
                    history.count_work("member vanishes");
                    return Ok(());
                }
                _ => place.world.sleep(ROUND).await,
            }
        }
        Err(Failure::Kafka(ErrorCode::RebalanceInProgress))
    }

    fn own(&self, place: &Place, member: &Membership, partitions: &[i32]) {
        place.history.note(format_args!("{} generation {} has {partitions:?}", member.member_id, member.generation));
        let mut state = held(&self.state);
        // Only now: a generation is written when its leader hands in the plan. One that was joined and not synced is
        // forgotten with its coordinator, and the next coordinator gives its number again, as Kafka's does.
        state.generation = state.generation.max(member.generation);
        for partition in partitions {
            place.history.count_work("partition handed to a member");
            let owner = state.owners.entry((member.generation, *partition)).or_insert_with(|| member.member_id.clone());
            if *owner != member.member_id {
                place.history.broken(format!(
                    "group {}: partition {partition} belongs to {owner} and to {} in generation {}",
                    self.group, member.member_id, member.generation
                ));
            }
        }
    }

    async fn commit(
        &self,
        place: &Place,
        client: &mut Client,
        member: &Membership,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        let known = held(&self.state).generation;
        let outcome = client.commit(member, self.topic.name, positions).await;
        self.committed.note(&place.history, positions, &outcome);
        if outcome.is_ok() && known > member.generation {
            place.history.broken(format!(
                "group {}: a commit of generation {} was taken after {known} had begun",
                self.group, member.generation
            ));
        }
        outcome
    }
}

impl Part for Groups {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let (this, at) = (self.clone(), place.clone());
        let mut jobs: Vec<Job> = vec![Box::pin(async move { this.committed.observe(&at).await })];
        jobs.extend((0..self.members).map(|_| Box::pin(self.clone().live(place.clone())) as Job));
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(async move { self.committed.check(&place).await })
    }
}
