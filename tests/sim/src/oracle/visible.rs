//! What a reader was shown is what every later reader is shown: no offset changes, vanishes or comes in between. For committed
//! readers too, so that nothing of an aborted transaction is ever seen, not even for a moment.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use odradek_common::ErrorCode;

use crate::client::{Failure, ReadFrom, Seen};
use crate::workload::{History, Place, held};

/// An offset and the value that was read there.
type Shown = (i64, Option<Bytes>);

/// The readers of one topic, from its start on.
pub struct Visible {
    topic: &'static str,
    committed_only: bool,
    seen: Mutex<BTreeMap<i32, Vec<Shown>>>,
}

impl Visible {
    pub fn new(topic: &'static str, committed_only: bool) -> Self {
        Self { topic, committed_only, seen: Mutex::default() }
    }

    /// Reads one partition until the history says stop.
    pub async fn follow(&self, place: Place, partition: i32) {
        let mut client = place.client();
        let mut from = ReadFrom { committed_only: self.committed_only, ..ReadFrom::offset(0) };
        while !place.history.stops() {
            match client.read(self.topic, partition, from).await {
                Ok(reading) => {
                    from.offset = reading.next_offset;
                    if reading.last_stable > reading.high_watermark {
                        place.history.broken(format!(
                            "rule 7: {}-{partition}: the last stable offset {} is above the high watermark {}",
                            self.topic, reading.last_stable, reading.high_watermark
                        ));
                    }
                    let records = reading.records.into_iter().map(|record| (record.offset, record.value));
                    held(&self.seen).entry(partition).or_default().extend(records);
                }
                Err(Failure::Kafka(ErrorCode::OffsetOutOfRange)) => {
                    let at = from.offset;
                    place.history.broken(format!("rule 1: {}-{partition}: {at} was visible and is gone", self.topic));
                    return;
                }
                Err(_) => {
                    place.pause().await;
                    let _ = client.refresh(self.topic).await;
                }
            }
        }
    }

    /// Compares with what is read in the end.
    pub fn compare(&self, partition: i32, records: &[Seen], history: &History) {
        let seen = held(&self.seen);
        let Some(seen) = seen.get(&partition) else { return };
        history.count_checked(seen.len() as u64);
        let pairs = seen.iter().zip(records.iter().map(Some).chain(std::iter::repeat(None)));
        for ((offset, value), record) in pairs {
            if record.is_none_or(|record| record.offset != *offset || record.value != *value) {
                return history.broken(format!(
                    "rule 1: {}-{partition}: {value:?} was read at {offset}, and then there is {record:?}",
                    self.topic
                ));
            }
        }
    }
}
