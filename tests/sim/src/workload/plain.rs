//! Producers without identity, of every `acks`. What they are promised is less: a record may be there more than once, and
//! without acks=all an acknowledged one may be gone. What holds all the same: nothing is there that nobody sent, what acks=all
//! acknowledged stays where it was, and what a reader has seen below the high watermark is what every later reader sees.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use super::{Job, Part, Place, Topic, held, leading_number};
use crate::client::{Outgoing, ReadFrom, Sending};
use crate::oracle::visible::Visible;

/// One producer a partition.
pub struct Plain {
    pub topic: Topic,
    pub pace: Duration,
    visible: Visible,
    sent: Mutex<BTreeSet<(i32, u64)>>,
    /// By partition and offset. Of acks=all only.
    acknowledged: Mutex<BTreeMap<(i32, i64), u64>>,
}

impl Plain {
    pub fn new(topic: Topic, pace: Duration) -> Rc<Self> {
        let visible = Visible::new(topic.name, false);
        Rc::new(Self { topic, pace, visible, sent: Mutex::default(), acknowledged: Mutex::default() })
    }

    async fn produce(self: Rc<Self>, place: Place, partition: i32) {
        let mut client = place.client();
        let (acks, name) = (self.topic.acks, self.topic.name);
        let mut number = 0u64;
        while !place.history.stops() {
            let records = vec![Outgoing::of_value(format!("{number} {}", "x".repeat((number % 40) as usize)))];
            held(&self.sent).insert((partition, number));
            match client.send(name, partition, &Sending { acks, records, ..Default::default() }).await {
                Ok(offset) => {
                    place.history.count_work(&format!("batch of acks={acks} without identity"));
                    if acks == -1 {
                        held(&self.acknowledged).insert((partition, offset), number);
                    }
                    number += 1;
                }
                // Sent again under the same number or, as nobody waits for it, given up.
                Err(_) => {
                    number += number % 2;
                    place.pause().await;
                    let _ = client.refresh(name).await;
                }
            }
            place.world.sleep(self.pace).await;
        }
    }

    async fn check(self: Rc<Self>, place: Place) {
        let (mut client, name, history) = (place.client(), self.topic.name, &place.history);
        for partition in 0..self.topic.partitions {
            let read = place.read_in_the_end(&mut client, name, partition, ReadFrom::offset(0)).await;
            let Some(records) = read else { return };
            self.visible.compare(partition, &records, history);
            let mut found = BTreeMap::new();
            for record in &records {
                let number = leading_number(record.value.as_deref());
                match number.filter(|number| held(&self.sent).contains(&(partition, *number))) {
                    Some(number) => drop(found.insert(record.offset, number)),
                    None => history.broken(format!("rule 1: {name}-{partition}/{}: nobody sent this", record.offset)),
                }
            }
            for ((_, offset), number) in held(&self.acknowledged).iter().filter(|((of, _), _)| *of == partition) {
                history.count_checked(1);
                if found.get(offset) != Some(number) {
                    history.broken(format!(
                        "rule 1: {name}-{partition}: record {number} was acknowledged at {offset}, where there is {:?}",
                        found.get(offset)
                    ));
                }
            }
        }
    }
}

impl Part for Plain {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::new();
        for partition in 0..self.topic.partitions {
            jobs.push(Box::pin(self.clone().produce(place.clone(), partition)));
            let (this, place) = (self.clone(), place.clone());
            jobs.push(Box::pin(async move { this.visible.follow(place, partition).await }));
        }
        jobs
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
