//! Administrators who make, grow, configure and delete the same few topics at the same time. What they were told must have
//! happened in some order (`oracle::linear`), and what is there in the end is where that order leads.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::ErrorCode;

use super::{Job, Part, Place, held};
use crate::client::{Client, Failure};
use crate::oracle::linear::{self, Call, Op, Outcome, State, Verdict};

/// Administrators of the topics.
pub struct Admin {
    topics: &'static [&'static str],
    administrators: usize,
    pace: Duration,
    calls: Mutex<BTreeMap<&'static str, Vec<Call>>>,
}

/// The config that is set, to values that nothing else depends on.
const CONFIG: &str = "max.message.bytes";
const VALUE_MIN: u32 = 1_000_000;

impl Admin {
    pub fn new(topics: &'static [&'static str], administrators: usize, pace: Duration) -> Rc<Self> {
        Rc::new(Self { topics, administrators, pace, calls: Mutex::default() })
    }

    async fn administer(self: Rc<Self>, place: Place) {
        let mut client = place.client();
        while !place.history.stops() {
            let topic = self.topics[place.below(self.topics.len() as u64) as usize];
            let op = match place.below(10) {
                0..=3 => Op::Create(1 + place.below(2) as i32),
                4..=5 => Op::Delete,
                6..=7 => Op::Grow(1 + place.below(4) as i32),
                _ => Op::Set(VALUE_MIN + place.below(1_000) as u32),
            };
            let invoked = now();
            let outcome = match op {
                Op::Create(partitions) => client.create(topic, partitions, 3, &[]).await.map(drop),
                Op::Delete => client.delete(topic).await,
                Op::Grow(count) => client.grow(topic, count).await,
                Op::Set(value) => client.set_config(topic, CONFIG, &value.to_string()).await,
                Op::Find(_) => Ok(()),
            };
            place.history.note(format_args!("{topic}: {op:?}: {outcome:?}"));
            if let Some(outcome) = outcome_of(&outcome) {
                place.history.count_work(&format!("{} {outcome:?}", name(op)).to_lowercase());
                let call = Call { op, outcome, invoked, answered: now() };
                held(&self.calls).entry(topic).or_default().push(call);
            }
            place.world.sleep(self.pace).await;
        }
    }

    /// What is there now, by a broker that answers.
    async fn find(client: &mut Client, place: &Place, topic: &str) -> Option<State> {
        let limit = place.world.instant() + Duration::from_secs(30);
        while place.world.instant() < limit {
            client.forget_leaders();
            match client.refresh(topic).await {
                Err(Failure::Kafka(ErrorCode::UnknownTopicOrPartition)) => return Some(None),
                Ok(()) => {
                    let partitions = client.leaders.len() as i32;
                    if let Ok(value) = client.config(topic, CONFIG).await {
                        let value = value.and_then(|value| value.parse().ok());
                        return Some(Some((partitions, value.filter(|value| *value < VALUE_MIN + 1_000))));
                    }
                }
                Err(_) => {}
            }
            place.pause().await;
        }
        None
    }

    async fn check(self: Rc<Self>, place: Place) {
        let mut client = place.client();
        for topic in self.topics {
            // Each broker in turn.
            for _ in 0..place.bootstrap.len() {
                let invoked = now();
                let Some(found) = Self::find(&mut client, &place, topic).await else {
                    return place.history.broken(format!("liveness: no broker says what {topic} is"));
                };
                let answered = now();
                let call = Call { op: Op::Find(found), outcome: Outcome::Done, invoked, answered };
                held(&self.calls).entry(topic).or_default().push(call);
            }
            let calls = held(&self.calls).get(topic).cloned().unwrap_or_default();
            place.history.count_checked(calls.len() as u64);
            match linear::check(&calls) {
                Verdict::Linearizable => place.history.count_work("topic's admin calls put into an order"),
                Verdict::Undecided => place.history.count_work("topic's admin calls without a verdict"),
                Verdict::NotLinearizable => place.history.broken(format!(
                    "the admin calls on {topic} did not happen in any order:\n{}",
                    calls.iter().map(|call| format!("{call:?}")).collect::<Vec<_>>().join("\n")
                )),
            }
        }
    }
}

fn name(op: Op) -> &'static str {
    match op {
        Op::Create(_) => "create topic",
        Op::Delete => "delete topic",
        Op::Grow(_) => "grow topic",
        Op::Set(_) => "set config",
        Op::Find(_) => "find topic",
    }
}

/// Nanoseconds of the whole simulation: each client's own clock begins with it.
fn now() -> u64 {
    turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64
}

/// `None`: certainly nothing was done, for a reason that says nothing of the topic.
fn outcome_of(outcome: &Result<(), Failure>) -> Option<Outcome> {
    match outcome {
        Ok(()) => Some(Outcome::Done),
        Err(Failure::Kafka(ErrorCode::TopicAlreadyExists)) => Some(Outcome::Exists),
        Err(Failure::Kafka(ErrorCode::UnknownTopicOrPartition)) => Some(Outcome::Missing),
        Err(Failure::Kafka(ErrorCode::InvalidPartitions)) => Some(Outcome::NotMore),
        Err(Failure::Kafka(ErrorCode::InvalidReplicationFactor | ErrorCode::BrokerNotAvailable)) => None,
        Err(_) => Some(Outcome::Unknown),
    }
}

impl Part for Admin {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        (0..self.administrators).map(|_| Box::pin(self.clone().administer(place.clone())) as Job).collect()
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
