//! A follower's end of a fetch session: what the leader has been told, and what is new since.
//!
//! The follower states changes as they come ([`FetchSessionClient::set`], [`FetchSessionClient::remove`]); a request
//! carries only those, so that a fetch costs by what has changed and not by how many partitions there are.

use std::collections::BTreeMap;

use odradek_common::{ErrorCode, LeaderEpoch, Offset, TopicIdPartition};

use super::{EPOCH_INITIAL, SESSION_NONE, next_epoch};

/// What a follower wants of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientPartition {
    pub fetch_offset: Offset,
    pub log_start: Offset,
    pub current_leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
    pub bytes_max: i32,
}

/// The session part of the next request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientRequest {
    pub session_id: i32,
    pub session_epoch: i32,
    pub partitions: Vec<(TopicIdPartition, ClientPartition)>,
    pub forgotten: Vec<TopicIdPartition>,
}

impl ClientRequest {
    pub fn is_full(&self) -> bool {
        self.session_epoch == EPOCH_INITIAL
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Send(ClientPartition),
    Forget,
}

/// One session with one leader over one connection.
#[derive(Debug)]
pub struct FetchSessionClient {
    session_id: i32,
    epoch: i32,
    /// What the leader knows once the last request is answered.
    sent: BTreeMap<TopicIdPartition, ClientPartition>,
    changes: BTreeMap<TopicIdPartition, Change>,
}

impl Default for FetchSessionClient {
    fn default() -> Self {
        Self::new()
    }
}

impl FetchSessionClient {
    pub fn new() -> Self {
        Self { session_id: SESSION_NONE, epoch: EPOCH_INITIAL, sent: BTreeMap::new(), changes: BTreeMap::new() }
    }

    /// The partition is wanted like this from the next request on. If it was given up since the last one, the leader must
    /// tell all of it again, even if nothing has changed there: what it told last was perhaps not taken (a high watermark
    /// would stay behind until the next record). One request cannot both forget and want a partition, so that takes a full
    /// one.
    pub fn set(&mut self, key: TopicIdPartition, partition: ClientPartition) {
        if matches!(self.changes.get(&key), Some(Change::Forget)) {
            self.epoch = EPOCH_INITIAL;
        }
        if self.sent.get(&key) == Some(&partition) {
            self.changes.remove(&key);
        } else {
            self.changes.insert(key, Change::Send(partition));
        }
    }

    /// The partition is not wanted from the next request on.
    pub fn remove(&mut self, key: TopicIdPartition) {
        if self.sent.contains_key(&key) {
            self.changes.insert(key, Change::Forget);
        } else {
            self.changes.remove(&key);
        }
    }

    /// What the leader was last told of a partition.
    pub fn sent(&self, key: TopicIdPartition) -> Option<&ClientPartition> {
        self.sent.get(&key)
    }

    /// Whether a request would name any partition, in itself or by the session.
    pub fn wants_nothing(&self) -> bool {
        let forgets = self.changes.values().filter(|change| matches!(change, Change::Forget)).count();
        forgets == self.sent.len() && forgets == self.changes.len()
    }

    /// Whether something is wanted that the leader has not been told.
    pub fn has_unsent(&self) -> bool {
        self.changes.values().any(|change| matches!(change, Change::Send(_)))
    }

    /// The next request. It must be answered, or [`FetchSessionClient::on_disconnect`] be called, before another.
    pub fn request(&mut self) -> ClientRequest {
        let (mut partitions, mut forgotten) = (Vec::new(), Vec::new());
        for (key, change) in std::mem::take(&mut self.changes) {
            match change {
                Change::Send(partition) => {
                    self.sent.insert(key, partition);
                    partitions.push((key, partition));
                }
                Change::Forget => {
                    self.sent.remove(&key);
                    forgotten.push(key);
                }
            }
        }
        if self.epoch == EPOCH_INITIAL {
            partitions = self.sent.iter().map(|(key, partition)| (*key, *partition)).collect();
            forgotten.clear();
        }
        ClientRequest { session_id: self.session_id, session_epoch: self.epoch, partitions, forgotten }
    }

    /// Takes the answer's session part. With an error the next request is a full one, which closes what there was.
    pub fn on_answer(&mut self, error: ErrorCode, session_id: i32) {
        match error {
            ErrorCode::None if self.epoch == EPOCH_INITIAL => {
                self.session_id = session_id;
                // A broker without room for another session answers 0: then each request is a full one.
                self.epoch = if session_id == SESSION_NONE { EPOCH_INITIAL } else { next_epoch(EPOCH_INITIAL) };
            }
            ErrorCode::None => self.epoch = next_epoch(self.epoch),
            ErrorCode::FetchSessionIdNotFound => {
                self.session_id = SESSION_NONE;
                self.epoch = EPOCH_INITIAL;
            }
            _ => self.epoch = EPOCH_INITIAL,
        }
    }

    /// The request may or may not have arrived: start over, and close the session that may still be there.
    pub fn on_disconnect(&mut self) {
        self.epoch = EPOCH_INITIAL;
    }
}
