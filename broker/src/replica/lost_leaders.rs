//! Leaders whose connection to this broker's fetchers broke a moment ago.
//!
//! When a leader's process dies, its clients lose their connections in the same moment as its followers, and ask another
//! broker at once who leads now. The controller needs some milliseconds to decide that; an answer before its decision is
//! here would name the dead leader again, and most clients look a second time only after a pause of up to a second. So
//! that answer waits for the decision, for a bounded moment.
//!
//! And for some seconds the answer still lists the dead broker. librdkafka takes down all that it has of a broker which
//! is listed no more; when it learns in the same answer that a partition has moved away from there, the two cross, and the
//! partition's records wait a second longer (its timer's next round). A leader that is named once more as a mere
//! broker costs others a refused connection at most, as it does for the whole session timeout in Kafka.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use odradek_common::BrokerId;
use odradek_common::time::Instant;
use odradek_metadata::{BrokerRegistration, Image};

/// How long after the loss an answer may wait. A controller that saw the process die has decided well before; one that
/// gives the broker time to come back takes longer than a client should be kept waiting.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long clients are told of a fenced broker. Three rounds of librdkafka's timer: what it did not move by then, it
/// had no leader for.
const LISTED: Duration = Duration::from_secs(3);

/// Small: a cluster loses few leaders within [`LISTED`].
#[derive(Debug, Default)]
pub struct LostLeaders {
    lost: Mutex<BTreeMap<BrokerId, Instant>>,
}

impl LostLeaders {
    /// An established connection to this leader has ended.
    pub fn note(&self, leader: BrokerId, now: Instant) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(leader, now);
    }

    /// Until when an answer from `image` should wait; `None` when it knows of every loss, or need not wait any more.
    pub fn awaited(&self, image: &Image, now: Instant) -> Option<Instant> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.retain(|_, at| now.saturating_since(*at) < LISTED);
        let undecided = lost.iter().filter(|(leader, at)| {
            now.saturating_since(**at) < PATIENCE && image.broker(**leader).is_some_and(|broker| !broker.fenced)
        });
        undecided.map(|(_, at)| *at + PATIENCE).max()
    }

    /// Those that died so lately that clients are still told of them, though they are fenced.
    pub fn listed<'a>(&self, image: &'a Image, now: Instant) -> Vec<&'a BrokerRegistration> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = lost.iter().filter(|(_, at)| now.saturating_since(**at) < LISTED);
        lately
            .filter_map(|(leader, _)| image.broker(*leader))
            .filter(|broker| broker.fenced)
            .map(AsRef::as_ref)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use odradek_proto::metadata::record::Kind;
    use odradek_proto::metadata::{Record, RegisterBrokerRecord};

    use super::*;

    fn image(fenced: bool) -> Image {
        let mut image = Image::new();
        let broker = RegisterBrokerRecord {
            broker_id: 1,
            incarnation_id: vec![7; 16],
            fenced,
            ..RegisterBrokerRecord::default()
        };
        image.replay(&Record { kind: Some(Kind::RegisterBroker(broker)) }, 0).expect("it fits");
        image
    }

    #[test]
    fn an_answer_waits_for_the_decision_and_for_no_longer_than_that() {
        let (lost, now) = (LostLeaders::default(), Instant::default());
        assert_eq!(lost.awaited(&image(false), now), None);
        lost.note(BrokerId(1), now);
        lost.note(BrokerId(2), now);
        assert_eq!(
            lost.awaited(&image(false), now),
            Some(now + PATIENCE),
            "a broker that nobody knows is not waited for"
        );
        assert_eq!(lost.awaited(&image(true), now), None, "decided");
        lost.note(BrokerId(1), now);
        assert_eq!(lost.awaited(&image(false), now + PATIENCE), None, "too late");
    }

    #[test]
    fn a_dead_leader_is_listed_for_a_while() {
        let (lost, now) = (LostLeaders::default(), Instant::default());
        lost.note(BrokerId(1), now);
        let listed = |fenced, now| lost.listed(&image(fenced), now).len();
        assert_eq!(listed(true, now + PATIENCE), 1);
        assert_eq!(listed(false, now + PATIENCE), 0, "it is alive, and so among the others");
        assert_eq!(listed(true, now + LISTED), 0);
    }
}
