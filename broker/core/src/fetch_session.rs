//! Incremental fetch sessions (KIP-227): a client names its partitions once and then only what has changed, and the
//! broker answers only with what has changed.
//!
//! [`FetchSessionCache`] is the broker's side, with Kafka's limits and order of eviction (`FetchSession.scala`);
//! [`FetchSessionClient`] in [`client`] is the side of a follower. Epochs are strict: a request out of turn is refused,
//! and the client starts over. **Invariant:** what a session remembers of a partition's last answer (high watermark, log
//! start) changes only when an answer with it is made.
//!
//! A fetch costs by what it names and by what has news, not by the size of its session. So a session has a *watch*, made
//! by the shell, that knows which of its partitions have news; this module says only which are to be looked at whatever
//! the watch says: those that the request names, those whose last answer was an error (what they are has to be found out
//! anew), and all of them after an answer that was never made, for news may have been lost with it. [`Agenda`] is the
//! order in which a watch has its partitions read.

mod agenda;
mod client;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use odradek_common::rng::Rng;
use odradek_common::time::Instant;
use odradek_common::{ErrorCode, LeaderEpoch, Offset, Uuid};

pub use agenda::{Agenda, Slot};
pub use client::{ClientPartition, ClientRequest, FetchSessionClient};

/// "No session", in requests and answers.
pub const SESSION_NONE: i32 = 0;
/// The epoch of a request that asks for a new session.
pub const EPOCH_INITIAL: i32 = 0;
/// The epoch of a request that wants none, and closes the one it names.
pub const EPOCH_FINAL: i32 = -1;

/// Kafka's `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`: a session younger or more recently used than this is only
/// evicted by one that is worth more.
pub const EVICTION_AGE: Duration = Duration::from_secs(120);

/// The epoch after this one; it wraps to 1, since 0 asks for a new session.
pub fn next_epoch(epoch: i32) -> i32 {
    match epoch {
        i32::MAX => 1,
        epoch if epoch < 0 => EPOCH_FINAL,
        epoch => epoch + 1,
    }
}

/// A topic as a fetch request names it: by id from version 13, by name before.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TopicKey {
    Id(Uuid),
    Name(Arc<str>),
}

/// A partition of a session.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionKey {
    pub topic: TopicKey,
    pub partition: i32,
}

/// What a fetch request says of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestedPartition {
    pub key: PartitionKey,
    pub fetch_offset: Offset,
    /// The follower's log start; -1 from a client.
    pub log_start: Offset,
    pub current_leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
    pub bytes_max: i32,
}

/// The session part of a fetch request.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    pub session_id: i32,
    pub session_epoch: i32,
    /// Version 13 or later.
    pub uses_topic_ids: bool,
    /// A follower's session is privileged: clients cannot evict it while it is young.
    pub is_follower: bool,
    pub partitions: Vec<RequestedPartition>,
    pub forgotten: Vec<PartitionKey>,
}

/// What decides whether a partition must stand in an incremental answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerFacts {
    pub error: ErrorCode,
    pub has_records: bool,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub has_diverging_epoch: bool,
    pub has_preferred_replica: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Sessionless,
    /// Wants a session, which is made with the answer.
    Full {
        uses_topic_ids: bool,
        is_follower: bool,
    },
    Incremental {
        session_id: i32,
        /// The epoch that the session went on to with this request.
        epoch: i32,
    },
}

/// What a fetch request comes to.
#[derive(Clone, Debug)]
pub struct FetchContext<W> {
    kind: Kind,
    /// In the order in which they are to be read: all of them without a session; with one, those to look at whatever its
    /// watch says.
    pub partitions: Vec<(Slot, RequestedPartition)>,
    /// Are no longer in the session.
    pub forgotten: Vec<Slot>,
    /// Of the session, if there is one already.
    pub watch: Option<W>,
}

/// How to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionAnswer {
    /// Of the whole answer; with an error it holds no partitions.
    pub error: ErrorCode,
    pub session_id: i32,
    /// Which of the partitions that were read stand in the answer, as places among the facts.
    pub include: Vec<(usize, PartitionKey)>,
}

#[derive(Clone, Debug)]
struct CachedPartition {
    requested: RequestedPartition,
    high_watermark: Offset,
    log_start: Offset,
}

#[derive(Debug)]
struct Session<W> {
    is_privileged: bool,
    uses_topic_ids: bool,
    created: Instant,
    last_used: Instant,
    epoch: i32,
    /// The number of partitions under which it stands in the eviction order.
    size_cached: usize,
    partitions: BTreeMap<Slot, CachedPartition>,
    slots: HashMap<PartitionKey, Slot>,
    slot_next: u64,
    /// Their last answer was an error.
    failed: BTreeSet<Slot>,
    /// Whether every request of the session so far was answered, and the watch knows all partitions.
    is_watched: bool,
    watch: W,
}

impl<W> Session<W> {
    fn put(&mut self, partition: CachedPartition) -> Slot {
        let slot = Slot(self.slot_next);
        self.slot_next += 1;
        self.slots.insert(partition.requested.key.clone(), slot);
        self.partitions.insert(slot, partition);
        slot
    }

    /// Takes the request in; answers with the slots that it names, in its order, and those that are gone.
    fn update(&mut self, requested: Vec<RequestedPartition>, forgotten: &[PartitionKey]) -> (Vec<Slot>, Vec<Slot>) {
        let mut named = Vec::with_capacity(requested.len());
        for partition in requested {
            let known = self.slots.get(&partition.key).copied();
            named.push(match known.and_then(|slot| Some((slot, self.partitions.get_mut(&slot)?))) {
                Some((slot, cached)) => {
                    cached.requested = partition;
                    slot
                }
                None => self.put(CachedPartition {
                    requested: partition,
                    high_watermark: Offset::NONE,
                    log_start: Offset::NONE,
                }),
            });
        }
        let mut gone = Vec::new();
        for key in forgotten {
            if let Some(slot) = self.slots.remove(key) {
                self.partitions.remove(&slot);
                self.failed.remove(&slot);
                gone.push(slot);
            }
        }
        (named, gone)
    }

    /// The partitions to look at: those that are named first, in their order.
    fn to_read(&self, named: Vec<Slot>) -> Vec<(Slot, RequestedPartition)> {
        let seen: BTreeSet<Slot> = named.iter().copied().collect();
        let more: Vec<Slot> = if self.is_watched {
            self.failed.difference(&seen).copied().collect()
        } else {
            self.partitions.keys().filter(|slot| !seen.contains(slot)).copied().collect()
        };
        let mut once = BTreeSet::new();
        let slots = named.into_iter().chain(more).filter(|slot| once.insert(*slot));
        slots.filter_map(|slot| Some((slot, self.partitions.get(&slot)?.requested.clone()))).collect()
    }

    /// The partition's key if it must be told, remembering what is told.
    fn answer(&mut self, slot: Slot, facts: &AnswerFacts) -> Option<PartitionKey> {
        let cached = self.partitions.get_mut(&slot)?;
        let mut must = facts.has_records || facts.has_preferred_replica || facts.has_diverging_epoch;
        if cached.high_watermark != facts.high_watermark {
            cached.high_watermark = facts.high_watermark;
            must = true;
        }
        if cached.log_start != facts.log_start {
            cached.log_start = facts.log_start;
            must = true;
        }
        if facts.error.is_error() {
            // When the error goes away the partition is told again, even if nothing else has changed.
            cached.high_watermark = Offset::NONE;
            self.failed.insert(slot);
            must = true;
        } else {
            self.failed.remove(&slot);
        }
        must.then(|| cached.requested.key.clone())
    }
}

/// Kafka's order of worth: unprivileged before privileged, small before large.
type EvictionKey = (bool, usize, i32);

/// All sessions of a broker, at most `max.incremental.fetch.session.cache.slots`, each with a watch `W` of the shell.
#[derive(Debug)]
pub struct FetchSessionCache<W> {
    sessions_max: usize,
    sessions: HashMap<i32, Session<W>>,
    by_last_use: BTreeSet<(Instant, i32)>,
    evictable_by_all: BTreeSet<EvictionKey>,
    evictable_by_privileged: BTreeSet<EvictionKey>,
    partition_count: usize,
    evictions: u64,
}

impl<W: Clone + Default> FetchSessionCache<W> {
    pub fn new(sessions_max: usize) -> Self {
        Self {
            sessions_max,
            sessions: HashMap::new(),
            by_last_use: BTreeSet::new(),
            evictable_by_all: BTreeSet::new(),
            evictable_by_privileged: BTreeSet::new(),
            partition_count: 0,
            evictions: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Over all sessions.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Finds out what a request asks for.
    ///
    /// # Errors
    /// FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH or FETCH_SESSION_TOPIC_ID_ERROR, for the whole answer.
    pub fn resolve(&mut self, request: SessionRequest, now: Instant) -> Result<FetchContext<W>, ErrorCode> {
        if request.session_epoch == EPOCH_INITIAL || request.session_epoch == EPOCH_FINAL {
            // A full request closes the session that it names.
            self.remove(request.session_id);
            let kind = match request.session_epoch {
                EPOCH_FINAL => Kind::Sessionless,
                _ => Kind::Full { uses_topic_ids: request.uses_topic_ids, is_follower: request.is_follower },
            };
            let partitions = (0..).map(Slot).zip(request.partitions).collect();
            return Ok(FetchContext { kind, partitions, forgotten: Vec::new(), watch: None });
        }
        let session_id = request.session_id;
        let session = self.sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != request.uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        let (named, forgotten) = session.update(request.partitions, &request.forgotten);
        if session.partitions.is_empty() {
            self.remove(session_id);
            let (kind, partitions) = (Kind::Sessionless, Vec::new());
            return Ok(FetchContext { kind, partitions, forgotten: Vec::new(), watch: None });
        }
        session.epoch = next_epoch(session.epoch);
        let kind = Kind::Incremental { session_id, epoch: session.epoch };
        let partitions = session.to_read(named);
        session.is_watched = false;
        let watch = Some(session.watch.clone());
        self.touch(session_id, now);
        Ok(FetchContext { kind, partitions, forgotten, watch })
    }

    /// Decides what stands in the answer. `facts` are of the partitions that were read: without a session all of the
    /// context's, in their order.
    pub fn answer(
        &mut self,
        context: &FetchContext<W>,
        facts: &[(Slot, AnswerFacts)],
        rng: &mut dyn Rng,
        now: Instant,
    ) -> SessionAnswer {
        let session_id = match &context.kind {
            Kind::Sessionless => SESSION_NONE,
            Kind::Full { uses_topic_ids, is_follower } => {
                self.create(context, facts, *uses_topic_ids, *is_follower, rng, now)
            }
            Kind::Incremental { session_id, epoch } => {
                let session_id = *session_id;
                let Some(session) = self.sessions.get_mut(&session_id).filter(|session| session.epoch == *epoch) else {
                    let error = ErrorCode::InvalidFetchSessionEpoch;
                    return SessionAnswer { error, session_id, include: Vec::new() };
                };
                session.is_watched = true;
                let told = facts.iter().enumerate();
                let include = told.filter_map(|(at, (slot, facts))| Some((at, session.answer(*slot, facts)?)));
                return SessionAnswer { error: ErrorCode::None, session_id, include: include.collect() };
            }
        };
        let all = context.partitions.iter().enumerate().map(|(at, (_, requested))| (at, requested.key.clone()));
        SessionAnswer { error: ErrorCode::None, session_id, include: all.take(facts.len()).collect() }
    }

    fn create(
        &mut self,
        context: &FetchContext<W>,
        facts: &[(Slot, AnswerFacts)],
        uses_topic_ids: bool,
        is_privileged: bool,
        rng: &mut dyn Rng,
        now: Instant,
    ) -> i32 {
        let size = context.partitions.len();
        let has_room = self.sessions.len() < self.sessions_max || self.evict_for((is_privileged, size, 0), now);
        if !has_room {
            return SESSION_NONE;
        }
        let mut session = Session {
            is_privileged,
            uses_topic_ids,
            created: now,
            last_used: now,
            epoch: next_epoch(EPOCH_INITIAL),
            size_cached: 0,
            partitions: BTreeMap::new(),
            slots: HashMap::with_capacity(size),
            slot_next: 0,
            failed: BTreeSet::new(),
            is_watched: false,
            watch: W::default(),
        };
        for ((_, requested), (_, facts)) in context.partitions.iter().zip(facts) {
            // As in an incremental answer: a partition with an error is told again once it is well.
            let high_watermark = if facts.error.is_error() { Offset::NONE } else { facts.high_watermark };
            if !session.slots.contains_key(&requested.key) {
                let requested = requested.clone();
                session.put(CachedPartition { requested, high_watermark, log_start: facts.log_start });
            }
        }
        let id = self.unused_id(rng);
        self.by_last_use.insert((now, id));
        self.sessions.insert(id, session);
        self.touch(id, now);
        id
    }

    fn unused_id(&self, rng: &mut dyn Rng) -> i32 {
        loop {
            let id = 1 + i32::try_from(rng.below(i32::MAX as u64)).unwrap_or(0);
            if id > SESSION_NONE && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Makes room for a session of this worth, if one of less worth, or one long unused, is there.
    fn evict_for(&mut self, newcomer: EvictionKey, now: Instant) -> bool {
        let Some((used, id)) = self.by_last_use.first().copied() else { return false };
        if now.saturating_since(used) > EVICTION_AGE {
            return self.evict(id);
        }
        let order = if newcomer.0 { &self.evictable_by_privileged } else { &self.evictable_by_all };
        match order.first().copied() {
            Some(least) if newcomer >= least => self.evict(least.2),
            _ => false,
        }
    }

    fn evict(&mut self, id: i32) -> bool {
        self.evictions += 1;
        self.remove(id);
        true
    }

    fn remove(&mut self, id: i32) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_last_use.remove(&(session.last_used, id));
        let key = (session.is_privileged, session.size_cached, id);
        self.evictable_by_all.remove(&key);
        self.evictable_by_privileged.remove(&key);
        self.partition_count -= session.size_cached;
    }

    /// Renews the session's places in the orders of eviction.
    fn touch(&mut self, id: i32, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.by_last_use.remove(&(session.last_used, id));
        session.last_used = now;
        self.by_last_use.insert((now, id));

        let old = (session.is_privileged, session.size_cached, id);
        self.evictable_by_all.remove(&old);
        self.evictable_by_privileged.remove(&old);
        self.partition_count -= session.size_cached;
        session.size_cached = session.partitions.len();
        self.partition_count += session.size_cached;

        let new = (session.is_privileged, session.size_cached, id);
        let is_old = now.saturating_since(session.created) > EVICTION_AGE;
        if !session.is_privileged || is_old {
            self.evictable_by_privileged.insert(new);
        }
        if is_old {
            self.evictable_by_all.insert(new);
        }
    }
}

#[cfg(test)]
mod tests;
