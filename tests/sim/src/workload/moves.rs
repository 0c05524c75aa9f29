//! Partitions are moved, moved back before they arrived, and led by their preferred replicas, while they are produced to.
//! Brokers are decommissioned and kept after all; in the end, in some runs, one really goes. Unclean elections are asked for only of a topic that nobody relies on.

use std::rc::Rc;
use std::time::Duration;

use tonic::Code;

use super::{Job, Part, Place, Topic, held};
use crate::client::Client;

/// An operator of some topics.
pub struct Moves {
    pub topics: Vec<Topic>,
    /// A topic whose records may be lost.
    pub expendable: Option<Topic>,
    /// Brokers 1 to this.
    pub brokers: i32,
    pub pace: Duration,
    pub controllers: usize,
    /// Whether the last broker goes in the end.
    pub retires: bool,
}

/// How long a decommission may take when nothing is wrong.
const RETIREMENT_MAX: Duration = Duration::from_secs(90);

impl Moves {
    async fn operate(self: Rc<Self>, place: Place) {
        let mut client = place.client();
        while !place.history.stops() {
            place.world.sleep(self.pace).await;
            let topic = self.topics[place.below(self.topics.len() as u64) as usize];
            let partition = place.below(topic.partitions as u64) as i32;
            let (what, outcome) = match place.below(7) {
                0..=2 => {
                    let mut brokers: Vec<i32> = (1..=self.brokers).collect();
                    while brokers.len() > topic.replicas as usize {
                        brokers.remove(place.below(brokers.len() as u64) as usize);
                    }
                    let turn = place.below(brokers.len() as u64) as usize;
                    brokers.rotate_left(turn);
                    ("reassignment", client.reassign(topic.name, partition, Some(brokers)).await)
                }
                3 => ("reassignment cancelled", client.reassign(topic.name, partition, None).await),
                4 => ("preferred election", client.elect(topic.name, partition, false).await),
                5 => {
                    self.threaten(&place, &mut client).await;
                    continue;
                }
                _ => {
                    let Some(topic) = self.expendable else { continue };
                    let partition = place.below(topic.partitions as u64) as i32;
                    ("unclean election", client.elect(topic.name, partition, true).await)
                }
            };
            place.history.note(format_args!("{what} of {}-{partition}: {outcome:?}", topic.name));
            if outcome.is_ok() {
                place.history.count_work(what);
            }
        }
    }

    /// Decommissions the last broker and keeps it after all, unless it is gone before.
    async fn threaten(&self, place: &Place, client: &mut Client) {
        let broker = self.brokers;
        self.say_that_it_leaves(place);
        let outcome = client.decommission(self.controllers, broker).await.map_err(|status| status.code());
        place.history.note(format_args!("decommission of {broker}: {outcome:?}"));
        place.history.count_work(if outcome.is_ok() { "decommission begun" } else { "decommission refused" });
        place.world.sleep(Duration::from_millis(place.below(600))).await;
        // It must not be left half gone, however often it has to be said.
        let kept = loop {
            match client.recommission(self.controllers, broker).await.map_err(|status| status.code()) {
                Err(Code::Unavailable | Code::DeadlineExceeded | Code::FailedPrecondition) => place.pause().await,
                answer => break answer,
            }
        };
        place.history.note(format_args!("{broker} is kept: {kept:?}"));
    }

    /// From the first request on: one without an answer may be carried out at any time.
    fn say_that_it_leaves(&self, place: &Place) {
        held(&place.history.leaving).insert(format!("broker-{}", self.brokers));
    }

    /// The last broker goes: its replicas move, and it is unregistered.
    async fn retire(self: Rc<Self>, place: Place) {
        if !self.retires {
            return;
        }
        self.say_that_it_leaves(&place);
        let (mut client, limit) = (place.client(), place.world.instant() + RETIREMENT_MAX);
        let mut begun = Ok(());
        while place.world.instant() < limit {
            if client.is_decommissioned(self.controllers, self.brokers).await.unwrap_or(false) {
                place.history.count_work("broker decommissioned");
                return;
            }
            begun = client.decommission(self.controllers, self.brokers).await;
            place.world.sleep(Duration::from_millis(500)).await;
        }
        place.history.broken(format!("liveness: broker {} is not decommissioned: {begun:?}", self.brokers));
    }
}

impl Part for Moves {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        vec![Box::pin(self.operate(place.clone()))]
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.retire(place))
    }
}
