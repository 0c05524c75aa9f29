//! Records to topics that others delete and make again meanwhile. Each record is sent to a topic's id and says which: so a
//! record in a topic that it was not sent to shows, and what was acknowledged is in the topic of that id as long as it lives.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use odradek_common::{ErrorCode, Uuid};

use super::{Job, Part, Place, held};
use crate::client::{Failure, Outgoing, ReadFrom, Sending};

/// A producer for each topic, to its first partition.
pub struct Recreated {
    topics: &'static [&'static str],
    /// By topic and offset: the record's number.
    acknowledged: Mutex<BTreeMap<(Uuid, i64), u64>>,
}

const PACE: Duration = Duration::from_millis(60);

impl Recreated {
    pub fn new(topics: &'static [&'static str]) -> Rc<Self> {
        Rc::new(Self { topics, acknowledged: Mutex::default() })
    }

    async fn produce(self: Rc<Self>, place: Place, name: &'static str) {
        let mut client = place.client();
        let mut number = 0u64;
        while !place.history.stops() {
            number += 1;
            let id = client.topic_id;
            let sending = Sending {
                acks: -1,
                topic_id: Some(id),
                records: vec![Outgoing::of_value(format!("{id} {number}"))],
                ..Default::default()
            };
            if let Ok(offset) = client.send(name, 0, &sending).await {
                place.history.count_work("record to a topic that comes and goes");
                if held(&self.acknowledged).insert((id, offset), number).is_some() {
                    place.history.broken(format!("rule 1: {name} ({id}): offset {offset} was given twice"));
                }
            } else {
                place.pause().await;
                client.forget_leaders();
                let _ = client.refresh(name).await;
            }
            place.world.sleep(PACE).await;
        }
    }

    async fn check(self: Rc<Self>, place: Place) {
        for name in self.topics {
            let mut client = place.client();
            let limit = place.world.instant() + Duration::from_secs(30);
            let there = loop {
                match client.refresh(name).await {
                    Ok(()) => break true,
                    Err(Failure::Kafka(ErrorCode::UnknownTopicOrPartition)) => break false,
                    Err(_) if place.world.instant() > limit => {
                        return place.history.broken(format!("liveness: no broker says what {name} is"));
                    }
                    Err(_) => place.pause().await,
                }
            };
            if !there {
                continue;
            }
            let id = client.topic_id;
            let from = ReadFrom { topic_id: Some(id), ..ReadFrom::offset(0) };
            let Some(records) = place.read_in_the_end(&mut client, name, 0, from).await else { return };
            let mut found = BTreeMap::new();
            for record in records {
                let text =
                    record.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
                match text.split_once(' ').filter(|(of, _)| *of == id.to_string()) {
                    Some((_, number)) => drop(found.insert(record.offset, number.parse().unwrap_or(0))),
                    None => {
                        place.history.broken(format!("{name} ({id}) has `{text}`, which was sent to another topic"))
                    }
                }
            }
            for ((_, offset), number) in held(&self.acknowledged).range((id, 0)..=(id, i64::MAX)) {
                place.history.count_checked(1);
                if found.get(offset) != Some(number) {
                    place.history.broken(format!(
                        "rule 1: {name} ({id}): record {number} was acknowledged at {offset}, where there is {:?}",
                        found.get(offset)
                    ));
                }
            }
        }
    }
}

impl Part for Recreated {
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job> {
        self.topics.iter().map(|name| Box::pin(self.clone().produce(place.clone(), name)) as Job).collect()
    }

    fn verdict(self: Rc<Self>, place: Place) -> Job {
        Box::pin(self.check(place))
    }
}
