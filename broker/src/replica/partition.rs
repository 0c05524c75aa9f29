//! One partition of this broker: its log, whether it leads or follows, and who waits on it, behind one lock.
//!
//! **Invariant:** the lock is never held across an await, and no other partition's lock is taken under it. Everything
//! that changes the log or the role goes through here, so there is one writer at a time; appends happen in place, on the
//! task that brought the records. Decisions are the core's ([`LeaderState`], [`follower`]); whoever is to be woken is
//! handed out as a [`Wake`], fired after the lock is released.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_broker_core::partition::follower::{self, Divergence};
use odradek_broker_core::partition::{
    Effects, EpochEnd, FollowerFetch, FollowerFetchError, Isolation, IsrCommitted, IsrProposal, LeaderState, LogEnds,
    Reader, check_leader_epoch,
};
use odradek_broker_core::purgatory::{ByteWaiters, OffsetWaiters};
use odradek_broker_storage::{
    ActiveProducer, AppendOrigin, CheckpointOffsets, EpochEndOffset, FlushJob, Found, Log, LogConfig, LogDir, LogError,
    PartitionCheckpoint, ReadSlice, Room, StorageError,
};
use odradek_common::seeded_bugs::{Bug, active};
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, TopicIdPartition, TopicPartition};
use odradek_metadata::{Image, PartitionRegistration};
use tokio::sync::{Notify, watch};

use super::cold_readers::{self, ColdReaders, ColdStream};
use super::deletion::{DELETIONS_WAITING_MAX, DeleteWaiter};
use super::flushes::FlushState;
use super::session::Watching;
use super::throttle::Throttled;
use super::types::{
    AppendResult, CurrentLeader, DeletedRecords, FetchEntry, FetchParams, FetchResult, FileRange, ListedOffset,
    PartitionError, ReplicaDescription, timestamp,
};
use super::waiting::{
    FETCHES_WAITING_MAX, FetchRow, FetchWait, LazyJoin, PRODUCES_WAITING_MAX, ProduceWaiter, ProduceWaiterId, Wake,
};
use super::watchers::{News, Watchers};

mod checkpoints;
mod cleaning;
mod coordinated;
mod flushing;
mod following;
mod lookups;
mod moving;
mod reading;
mod unread;

use flushing::flush_within;
pub(super) use moving::{CopyError, Swap};
pub use unread::OldestUnread;

/// What an operation needs of the rest of the broker.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub local: BrokerId,
    pub local_epoch: BrokerEpoch,
    pub image: &'a Image,
    pub now: Now,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
}

/// What a topic's configs say to its partitions.
#[derive(Clone, Debug)]
pub(super) struct PartitionConfig {
    pub log: Arc<LogConfig>,
    pub min_insync_replicas: usize,
    pub leader_throttled: Throttled,
    pub follower_throttled: Throttled,
}

enum Role {
    /// The log is being opened; what metadata says is applied when it is.
    Opening,
    Leader(Box<LeaderState>),
    Follower {
        leader: BrokerId,
        epoch: LeaderEpoch,
    },
    /// The log cannot be used: its directory is offline or was full when it was to be opened, or it is damaged.
    Offline(String),
    /// Deleted, or no longer assigned to this broker.
    Gone,
}

struct Inner {
    log: Option<Log>,
    role: Role,
    registration: Arc<PartitionRegistration>,
    config: PartitionConfig,
    /// Produces with acks=all, which wait for the high watermark.
    produces: OffsetWaiters<ProduceWaiter>,
    /// Produces with acks=1 in a durable topic, which wait for this replica's flushed end.
    flushes: OffsetWaiters<ProduceWaiter>,
    deletions: OffsetWaiters<DeleteWaiter>,
    followers: ByteWaiters<Arc<FetchWait>>,
    clients: ByteWaiters<Arc<FetchWait>>,
    watchers: Watchers,
    /// Who reads far behind the log's end; made when the first does.
    cold_readers: Option<Box<ColdReaders>>,
    /// Bytes appended since the start of the process: what fetches count by.
    appended_bytes: u64,
    /// Tells the coordinator of this partition of the high watermark, while this replica leads.
    commits: Option<watch::Sender<Offset>>,
    /// The disk was full when a truncation wanted the recovery points written: nothing is appended before they are.
    checkpoint_owed: bool,
}

/// Done outside the lock after a change.
#[derive(Default)]
#[must_use]
pub(super) struct After {
    pub wake: Wake,
    pub proposal: Option<IsrProposal>,
    /// A flush is due, or a segment was closed.
    pub flush: bool,
    /// A flush is due after so long, by `flush.ms`.
    pub flush_within: Option<Duration>,
}

/// What a follower's fetcher has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FetchPosition {
    pub log_start: Offset,
    pub log_end: Offset,
    /// Of the last record; -1 in an empty log.
    pub last_epoch: LeaderEpoch,
    /// Whether it may be told to the leader: in a durable topic, all of it is on disk.
    pub is_flushed: bool,
}

/// The end of a follower's log when it asked. An answer is used only while that is its end: an offset alone could have
/// been reached again, with other records, after a truncation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub fetch_offset: Offset,
    pub last_epoch: LeaderEpoch,
}

impl Asked {
    fn is_current(self, log: &Log) -> bool {
        let position = position(log, false);
        position.log_end == self.fetch_offset && position.last_epoch == self.last_epoch
    }
}

/// What a truncation has moved back: it must be on disk before anything is appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MovedBack {
    pub recovery_point: bool,
    pub cleaned_to: bool,
}

/// Whom to fetch from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Following {
    pub leader: BrokerId,
    pub epoch: LeaderEpoch,
}

/// What came of the wish to wait for more to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Registered {
    /// Take it back with [`Partition::forget_fetch`].
    Waiting(u64),
    /// There is more already, or no leader: read again.
    Moved,
    /// As many wait as may.
    NoRoom,
}

/// Why fetched records were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The partition leads, follows another leader epoch, or is gone: the answer is out of date.
    #[error("the partition does not follow this leader epoch any more")]
    Superseded,
    #[error(transparent)]
    Append(#[from] odradek_broker_storage::AppendError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl FollowError {
    /// Nothing is wrong but that the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Append(odradek_broker_storage::AppendError::Log(error)) | Self::Log(error) => error.is_full(),
            Self::Storage(error) => error.is_full(),
            Self::Superseded | Self::Append(_) => false,
        }
    }
}

/// The disk is too full for these records.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log directory {} has too little room; records are taken again when there is more (odradek.disk.free.*)",
    dir.display()
)]
pub(super) struct NoRoom {
    dir: std::path::PathBuf,
}

/// Records that are refused from this state of their directory on. `is_owed`: [`Inner::checkpoint_owed`].
fn check_room(log: &Log, is_owed: bool, refused_from: Room) -> Result<(), NoRoom> {
    if log.log_dir().room() >= refused_from || is_owed {
        return Err(NoRoom { dir: log.log_dir().path.clone() });
    }
    Ok(())
}

/// A partition that this broker is a replica of.
pub(super) struct Partition {
    pub id: TopicIdPartition,
    pub name: TopicPartition,
    inner: Mutex<Inner>,
    /// The copy that is on its way into another log directory. Taken after `inner`.
    future: Mutex<Option<Box<Log>>>,
    /// What the log directory's checkpoints are to say of it, kept apart so that they can be written while some
    /// partition is locked. Taken after `inner`.
    saved: Mutex<Option<(Arc<LogDir>, CheckpointOffsets)>>,
    pub flushing: FlushState,
    /// Whether any throttle is configured here, so that others need not look.
    is_throttled: AtomicBool,
}

/// A follower's fetch counts for the leader's quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeaderThrottle {
    /// Such a follower is never held back.
    pub is_in_sync: bool,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partition {} ({})", self.name, self.id.topic_id)
    }
}

impl Partition {
    /// A partition whose log is yet to be opened.
    pub fn new(
        id: TopicIdPartition,
        name: TopicPartition,
        registration: Arc<PartitionRegistration>,
        config: PartitionConfig,
    ) -> Self {
        let is_throttled = AtomicBool::new(config.has_throttle());
        let inner = Inner {
            log: None,
            role: Role::Opening,
            registration,
            config,
            produces: OffsetWaiters::new(PRODUCES_WAITING_MAX),
            flushes: OffsetWaiters::new(PRODUCES_WAITING_MAX),
            deletions: OffsetWaiters::new(DELETIONS_WAITING_MAX),
            followers: ByteWaiters::new(FETCHES_WAITING_MAX),
            clients: ByteWaiters::new(FETCHES_WAITING_MAX),
            watchers: Watchers::default(),
            cold_readers: None,
            appended_bytes: 0,
            commits: None,
            checkpoint_owed: false,
        };
        Self {
            id,
            name,
            inner: Mutex::new(inner),
            future: Mutex::new(None),
            saved: Mutex::new(None),
            flushing: FlushState::default(),
            is_throttled,
        }
    }

    /// A poisoned lock means that a task panicked, and then the process is about to end.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- life ----

    /// The log is open: it takes up the role that metadata gave it meanwhile. A partition that is gone meanwhile hands
    /// the log back.
    pub fn opened(&self, mut log: Log, context: Context<'_>) -> Result<After, Box<Log>> {
        let mut inner = self.lock();
        if matches!(inner.role, Role::Gone) {
            return Err(Box::new(log));
        }
        log.set_config(inner.config.log.clone());
        self.save(&log);
        inner.log = Some(log);
        inner.checkpoint_owed = false;
        Ok(inner.assume_role(&self.name, context))
    }

    /// The log cannot be used. `None`: the partition is gone.
    pub fn failed(&self, reason: String) -> Option<After> {
        let mut inner = self.lock();
        match inner.role {
            Role::Gone => None,
            _ => Some(inner.go_offline(reason)),
        }
    }

    /// A log that could not be opened for want of room is to be opened again.
    pub fn try_again(&self) -> bool {
        let mut inner = self.lock();
        let again = inner.log.is_none() && matches!(inner.role, Role::Offline(_));
        if again {
            inner.role = Role::Opening;
        }
        again
    }

    pub fn is_offline(&self) -> bool {
        matches!(self.lock().role, Role::Offline(_))
    }

    pub fn log_config(&self) -> Arc<LogConfig> {
        self.lock().config.log.clone()
    }

    /// `min.insync.replicas`
    pub fn min_insync_replicas(&self) -> usize {
        self.lock().config.min_insync_replicas
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.lock().role, Role::Opening)
    }

    /// Metadata has changed the partition.
    pub fn on_metadata(&self, registration: &Arc<PartitionRegistration>, context: Context<'_>) -> After {
        let mut inner = self.lock();
        if registration.partition_epoch < inner.registration.partition_epoch {
            return After::default();
        }
        inner.registration = registration.clone();
        match inner.role {
            Role::Leader(_) | Role::Follower { .. } => {
                let mut after = inner.assume_role(&self.name, context);
                // A replica that held a deletion back may have been removed.
                inner.complete_deletions(context, &mut after);
                inner.tell_quietly();
                after
            }
            Role::Opening | Role::Offline(_) | Role::Gone => After::default(),
        }
    }

    pub fn set_config(&self, config: PartitionConfig, context: Context<'_>) -> After {
        let mut inner = self.lock();
        let min_insync_replicas = config.min_insync_replicas;
        if let Some(log) = &mut inner.log {
            log.set_config(config.log.clone());
        }
        self.is_throttled.store(config.has_throttle(), Ordering::Relaxed);
        let was_durable = inner.config.is_durable();
        inner.config = config;
        let is_durable = inner.config.is_durable();
        let ends = inner.log.as_ref().map(|log| (log.recovery_point(), log.log_end()));
        // What is not on disk counts from now on.
        let counted = ends.filter(|_| was_durable && !is_durable).map(|(_, log_end)| log_end);
        let mut after = inner.lead(|leader| {
            let now = context.now.instant;
            let mut effects = leader.set_min_insync_replicas(min_insync_replicas, context.image, now);
            if let Some(log_end) = counted {
                let more = leader.on_appended(log_end, context.image, now);
                effects.high_watermark = more.high_watermark.or(effects.high_watermark);
            }
            effects
        });
        if counted.is_some() {
            let waiting = inner.flushes.drain();
            after.wake.produces.extend(waiting.into_iter().map(|waiter| (waiter, ErrorCode::None)));
        }
        after.flush = is_durable && ends.is_some_and(|(flushed, log_end)| flushed < log_end);
        after
    }

    /// Deleted, or moved away. Hands out the log, if it was open; the bool: it is being opened at this moment.
    pub fn close(&self) -> (Option<Log>, bool, Wake) {
        let mut inner = self.lock();
        let was_opening = matches!(inner.role, Role::Opening);
        inner.role = Role::Gone;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let wake = inner.drain(ErrorCode::UnknownTopicOrPartition);
        (inner.log.take(), was_opening, wake)
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.lock().role, Role::Gone)
    }

    /// Whom it follows; `None` when it leads, has no leader, or has no open log.
    pub fn following(&self, local: BrokerId) -> Option<(Following, FetchPosition)> {
        let inner = self.lock();
        let Role::Follower { leader, epoch } = inner.role else { return None };
        let log = inner.log.as_ref()?;
        let following = Following { leader, epoch };
        (leader != BrokerId::NONE && leader != local).then(|| (following, position(log, inner.config.is_durable())))
    }

    /// Whether metadata counts this replica among those in sync.
    pub fn is_in_sync(&self, local: BrokerId) -> bool {
        self.lock().registration.isr.contains(&local)
    }

    // ---- produce ----

    /// Appends one batch as the leader. With acks=all the result may have to wait for the high watermark, with acks=1 in a
    /// durable topic for the disk: then a waiter of `join` is registered, under the same lock as the append, and its id
    /// comes back in place of the result.
    pub fn append(
        &self,
        acks: i16,
        records: &[u8],
        origin: AppendOrigin,
        part: usize,
        join: &mut LazyJoin,
        context: Context<'_>,
    ) -> (Result<AppendResult, ProduceWaiterId>, After) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (Role::Leader(leader), Some(log)) = (&mut inner.role, &mut inner.log) else {
            return (Ok(inner.append_refused()), After::default());
        };
        if let Err(error) = leader.check_append(acks) {
            let message = Some(error.to_string());
            return (
                Ok(AppendResult { message, ..AppendResult::failed(ErrorCode::NotEnoughReplicas) }),
                After::default(),
            );
        }
        let refused_from = if origin.is_client() { Room::Little } else { Room::None };
        if let Err(full) = check_room(log, inner.checkpoint_owed, refused_from) {
            let message = Some(full.to_string());
            return (
                Ok(AppendResult { message, ..AppendResult::failed(ErrorCode::KafkaStorageError) }),
                After::default(),
            );
        }
        let info = match log.append_as_leader(records, leader.leader_epoch(), origin, context.now.wall) {
            Ok(info) => info,
            Err(error) => {
                let result = AppendResult {
                    message: Some(error.to_string()),
                    record_errors: error
                        .faults()
                        .iter()
                        .map(|fault| (fault.batch_index, fault.message.clone()))
                        .collect(),
                    log_start: if error.is_of_single_records() { log.log_start() } else { Offset::NONE },
                    ..AppendResult::failed(error.code())
                };
                let after = if log.log_dir().failure().is_some() {
                    inner.go_offline(error.to_string())
                } else {
                    After::default()
                };
                return (Ok(result), after);
            }
        };
        let result = AppendResult {
            error: ErrorCode::None,
            message: None,
            base_offset: info.first_offset,
            next_offset: info.last_offset.plus(1),
            log_append_time: info.log_append_time,
            log_start: info.log_start,
            record_errors: Vec::new(),
            current_leader: None,
        };
        inner.appended_bytes += info.bytes as u64;
        let is_durable = inner.config.is_durable();
        let flushed = log.recovery_point();
        let flush_within = flush_within(log, context.now.wall);
        let effects =
            leader.on_appended(if is_durable { flushed } else { info.log_end }, context.image, context.now.instant);
        let acknowledged = match acks {
            -1 => leader.acknowledged(result.next_offset),
            1 if is_durable && flushed < result.next_offset => None,
            _ => Some(Ok(())),
        };
        let mut after = inner.take_effects(effects);
        // A duplicate of what is not flushed yet, too.
        after.flush = info.rolled || info.flush_due || (is_durable && flushed < info.log_end);
        after.flush_within = flush_within;
        if info.bytes > 0 {
            after.wake.fetches.extend(inner.wake_followers());
            after.wake.sessions.extend(inner.tell(News::Appended));
        }
        let result = match acknowledged {
            Some(Ok(())) => Ok(result),
            Some(Err(error)) => {
                let message = Some(error.to_string());
                Ok(AppendResult { message, ..AppendResult::failed(ErrorCode::NotEnoughReplicasAfterAppend) })
            }
            None => {
                let required = result.next_offset;
                let waiter = ProduceWaiter { join: join.get(), part, result };
                let registered = match acks {
                    -1 => inner.produces.register(required, waiter).map(ProduceWaiterId::Commit),
                    _ => inner.flushes.register(required, waiter).map(ProduceWaiterId::Flush),
                };
                match registered {
                    Ok(id) => Err(id),
                    // It is appended, and there is no room to wait: the same to the client as a timeout.
                    Err(full) => {
                        let message = Some(full.to_string());
                        Ok(AppendResult { message, ..AppendResult::failed(ErrorCode::RequestTimedOut) })
                    }
                }
            }
        };
        (result, after)
    }

    pub fn forget_produce(&self, id: ProduceWaiterId) {
        let mut inner = self.lock();
        let taken = match id {
            ProduceWaiterId::Commit(id) => inner.produces.remove(id),
            ProduceWaiterId::Flush(id) => inner.flushes.remove(id),
        };
        drop(inner);
        drop(taken);
    }

    // ---- throttles ----

    /// Whether what `replica` fetches counts for the leader's quota.
    pub fn leader_throttle(&self, replica: BrokerId) -> Option<LeaderThrottle> {
        if !self.is_throttled.load(Ordering::Relaxed) {
            return None;
        }
        let inner = self.lock();
        let Role::Leader(leader) = &inner.role else { return None };
        let is_throttled = inner.config.leader_throttled.contains(self.name.partition.0);
        is_throttled.then(|| LeaderThrottle { is_in_sync: leader.isr().contains(&replica) })
    }

    /// Whether what this follower fetches counts for its quota.
    pub fn is_follower_throttled(&self) -> bool {
        self.is_throttled.load(Ordering::Relaxed)
            && self.lock().config.follower_throttled.contains(self.name.partition.0)
    }

    // ---- upkeep ----

    /// Whether members of the ISR lag behind.
    pub fn tick(&self, context: Context<'_>) -> After {
        self.lock().lead(|leader| leader.on_tick(context.image, context.now.instant))
    }

    pub fn on_brokers_changed(&self, context: Context<'_>) -> After {
        let mut inner = self.lock();
        let mut after = inner.lead(|leader| {
            leader.set_local_broker_epoch(context.local_epoch);
            leader.on_brokers_changed(context.image, context.now.instant)
        });
        inner.complete_deletions(context, &mut after);
        inner.tell_quietly();
        after
    }

    /// The controller has answered a proposal. The bool: send it again.
    pub fn on_alter_partition(
        &self,
        proposal: &IsrProposal,
        result: Result<&IsrCommitted, ErrorCode>,
        context: Context<'_>,
    ) -> (After, bool) {
        let mut retry = false;
        let mut inner = self.lock();
        let after = inner.lead(|leader| {
            let outcome = leader.on_alter_partition(proposal, result, context.image, context.now.instant);
            retry = outcome.retry;
            outcome.effects
        });
        inner.tell_quietly();
        (after, retry)
    }

    /// Runs an upkeep operation on the open log. A storage error takes the partition offline.
    pub fn with_log<T>(&self, work: impl FnOnce(&mut Log) -> Result<T, LogError>) -> Option<T> {
        let mut guard = self.lock();
        let log = guard.log.as_mut()?;
        let log_start = log.log_start();
        match work(log) {
            Ok(value) => {
                self.save(log);
                if log.log_start() != log_start {
                    guard.tell_quietly();
                }
                Some(value)
            }
            Err(error) => {
                if log.log_dir().failure().is_some() {
                    let after = guard.go_offline(error.to_string());
                    drop(guard);
                    after.wake.fire();
                } else {
                    tracing::error!(partition = %self.name, %error, "upkeep of a log failed");
                }
                None
            }
        }
    }

    /// Closes the log for a clean shutdown. What is still to be synced then is handed out; `flushed` takes it in.
    pub fn shut_down(&self, now: Now) -> Result<Option<FlushJob>, LogError> {
        let mut inner = self.lock();
        let result = match &mut inner.log {
            Some(log) => {
                let result = log.begin_close(now.wall);
                self.save(log);
                result
            }
            None => Ok(None),
        };
        let wake = inner.drain(ErrorCode::NotLeaderOrFollower);
        inner.role = Role::Offline("the broker is shutting down".to_owned());
        drop(inner);
        wake.fire();
        result
    }
}

impl PartitionConfig {
    /// With `flush.messages=1` nothing counts before it is on disk, as the flush in Kafka's append has it.
    pub fn is_durable(&self) -> bool {
        self.log.flush_messages <= 1
    }

    fn has_throttle(&self) -> bool {
        self.leader_throttled != Throttled::None || self.follower_throttled != Throttled::None
    }
}

impl Inner {
    /// Leads or follows as the registration says.
    fn assume_role(&mut self, name: &TopicPartition, context: Context<'_>) -> After {
        let registration = self.registration.clone();
        if registration.leader != context.local {
            let wake = if matches!(self.role, Role::Leader(_)) {
                self.drain(ErrorCode::NotLeaderOrFollower)
            } else {
                Wake::default()
            };
            if let (true, Some(log)) = (active(Bug::TruncationToHighWatermark), &mut self.log) {
                let _ = log.truncate_to(log.high_watermark(), context.now.wall);
            }
            self.role = Role::Follower { leader: registration.leader, epoch: registration.leader_epoch };
            return After { wake, ..After::default() };
        }
        let Some(log) = &mut self.log else { return After::default() };
        let now = context.now.instant;
        let (effects, is_new_epoch) = match &mut self.role {
            Role::Leader(leader) => {
                let before = leader.leader_epoch();
                let effects = leader.on_metadata(&registration, context.image, now);
                (effects, leader.leader_epoch() > before)
            }
            _ => {
                let log_end = if self.config.is_durable() { log.recovery_point() } else { log.log_end() };
                let ends = LogEnds { log_end: log.log_end(), high_watermark: log.high_watermark() };
                let mut leader = LeaderState::new(
                    context.local,
                    context.local_epoch,
                    &registration,
                    LogEnds { log_end, ..ends },
                    self.config.min_insync_replicas,
                    context.lag_max,
                    now,
                );
                let effects = leader.start(context.image, now);
                self.role = Role::Leader(Box::new(leader));
                (effects, true)
            }
        };
        if is_new_epoch {
            let (epoch, start) = (registration.leader_epoch, log.log_end());
            if let Role::Leader(leader) = &mut self.role {
                leader.set_epoch_start(start);
            }
            tracing::debug!(partition = %name, %epoch, %start, "leading");
            log.assign_epoch_start(epoch, start);
        }
        // What a durable topic's follower had not synced yet would hold the high watermark until the next append.
        let flush = self.config.is_durable() && log.recovery_point() < log.log_end();
        let mut after = After { flush, ..self.take_effects(effects) };
        if is_new_epoch {
            after.wake.sessions.extend(self.tell(News::Role));
        }
        after
    }

    fn go_offline(&mut self, reason: String) -> After {
        let wake = self.drain(ErrorCode::KafkaStorageError);
        self.role = Role::Offline(reason);
        After { wake, ..After::default() }
    }

    /// Everybody who waits is answered, or reads again and finds out.
    fn drain(&mut self, error: ErrorCode) -> Wake {
        self.commits = None;
        let produces = self.produces.drain().into_iter().chain(self.flushes.drain());
        let produces = produces.map(|waiter| (waiter, error)).collect();
        let mut fetches = self.followers.drain();
        fetches.extend(self.clients.drain());
        let deletions = self.deletions.drain().into_iter();
        let deletions = deletions.map(|waiter| (waiter, DeletedRecords::failed(error))).collect();
        Wake { produces, fetches, deletions, sessions: self.tell(News::Role) }
    }

    fn tell(&mut self, news: News) -> Vec<Arc<Notify>> {
        self.watchers.tell(news, self.appended_bytes)
    }

    /// News that wakes nobody: it neither adds bytes, nor is it told at once.
    fn tell_quietly(&mut self) {
        let woken = self.tell(News::Quiet);
        debug_assert!(woken.is_empty(), "who has enough does not wait");
    }

    fn lead(&mut self, step: impl FnOnce(&mut LeaderState) -> Effects) -> After {
        let Role::Leader(leader) = &mut self.role else { return After::default() };
        let effects = step(leader);
        self.take_effects(effects)
    }

    fn take_effects(&mut self, effects: Effects) -> After {
        let mut after = After { proposal: effects.proposal, ..After::default() };
        let (Some(mark), Role::Leader(leader), Some(log)) = (effects.high_watermark, &self.role, &mut self.log) else {
            return after;
        };
        log.set_high_watermark(mark);
        if let Some(commits) = &self.commits {
            commits.send_replace(mark);
        }
        let error = match leader.acknowledged(mark) {
            Some(Err(_)) => ErrorCode::NotEnoughReplicasAfterAppend,
            _ => ErrorCode::None,
        };
        after.wake.produces.extend(self.produces.reached(mark).into_iter().map(|waiter| (waiter, error)));
        let total = self.appended_bytes;
        after.wake.fetches.extend(self.clients.grown(total, |wait, bytes| wait.count(bytes.max(1))));
        after.wake.sessions.extend(self.tell(News::HighWatermark));
        after
    }

    fn wake_followers(&mut self) -> Vec<Arc<FetchWait>> {
        let total = self.appended_bytes;
        self.followers.grown(total, |wait, bytes| wait.count(bytes))
    }

    fn current_leader(&self) -> CurrentLeader {
        CurrentLeader { leader: self.registration.leader, epoch: self.registration.leader_epoch }
    }

    fn append_refused(&self) -> AppendResult {
        let error = self.refusal();
        AppendResult {
            message: Some(error.message),
            current_leader: error.current_leader,
            ..AppendResult::failed(error.code)
        }
    }

    /// Why this replica does not serve as a leader.
    fn refusal(&self) -> PartitionError {
        match &self.role {
            Role::Offline(reason) => PartitionError::new(ErrorCode::KafkaStorageError, reason.clone()),
            Role::Gone => ErrorCode::UnknownTopicOrPartition.into(),
            Role::Opening => {
                PartitionError::new(ErrorCode::NotLeaderOrFollower, "the partition's log is being opened: try again")
            }
            _ => PartitionError {
                current_leader: Some(self.current_leader()),
                ..PartitionError::new(ErrorCode::NotLeaderOrFollower, "another broker leads this partition")
            },
        }
    }

    /// The leader's state and log, fenced by the epoch that a request names.
    fn leader(&self, requested: LeaderEpoch) -> Result<(&LeaderState, &Log), PartitionError> {
        let current = match &self.role {
            Role::Leader(leader) => leader.leader_epoch(),
            Role::Follower { epoch, .. } => *epoch,
            _ => return Err(self.refusal()),
        };
        check_leader_epoch(requested, current).map_err(|error| PartitionError {
            current_leader: Some(self.current_leader()),
            ..PartitionError::new(error.code(), error.to_string())
        })?;
        match (&self.role, &self.log) {
            (Role::Leader(leader), Some(log)) => Ok((leader, log)),
            _ => Err(self.refusal()),
        }
    }

    fn on_follower_fetch(&mut self, fetch: &FollowerFetch, context: Context<'_>) -> After {
        // It was checked before the read, under this lock.
        let step = |leader: &mut LeaderState| leader.on_follower_fetch(fetch, context.image, context.now.instant);
        let mut after = self.lead(|leader| step(leader).unwrap_or_default());
        self.complete_deletions(context, &mut after);
        after
    }

    /// The least log start of the living replicas; `None` when this one does not lead.
    fn low_watermark(&self, context: Context<'_>) -> Option<Offset> {
        let (Role::Leader(leader), Some(log)) = (&self.role, &self.log) else { return None };
        Some(leader.low_watermark(log.log_start(), context.image))
    }

    fn complete_deletions(&mut self, context: Context<'_>, after: &mut After) {
        if self.deletions.is_empty() {
            return;
        }
        let Some(low_watermark) = self.low_watermark(context) else { return };
        let result = DeletedRecords { error: ErrorCode::None, low_watermark };
        after.wake.deletions.extend(self.deletions.reached(low_watermark).into_iter().map(|waiter| (waiter, result)));
    }

    fn follower_log(&mut self, following: Following) -> Result<(&mut Log, LeaderEpoch), FollowError> {
        match (&self.role, &mut self.log) {
            (Role::Follower { leader, epoch }, Some(log))
                if *leader == following.leader && *epoch == following.epoch =>
            {
                Ok((log, *epoch))
            }
            _ => Err(FollowError::Superseded),
        }
    }

    fn on_follow_error(&mut self, error: FollowError) -> FollowError {
        if self.log.as_ref().is_some_and(|log| log.log_dir().failure().is_some()) {
            let after = self.go_offline(error.to_string());
            // A follower has no waiters; whoever waits nevertheless reads again.
            after.wake.fire();
        }
        error
    }
}

fn follower_refusal(error: FollowerFetchError, named_epoch: LeaderEpoch) -> PartitionError {
    let code = match error {
        // With the right leader epoch named, this leader may be behind in its metadata: the follower tries again.
        FollowerFetchError::NotAReplica(_) if named_epoch != LeaderEpoch::NONE => ErrorCode::UnknownLeaderEpoch,
        FollowerFetchError::NotAReplica(_) | FollowerFetchError::StaleBrokerEpoch { .. } => {
            ErrorCode::NotLeaderOrFollower
        }
    };
    PartitionError::new(code, error.to_string())
}

fn position(log: &Log, is_durable: bool) -> FetchPosition {
    let (log_start, log_end) = (log.log_start(), log.log_end());
    // Not the latest epoch that was assigned: this replica may have led without appending.
    let last_epoch = if log_end > log_start { log.epoch_at(log_end.plus(-1)) } else { None };
    let is_flushed = !is_durable || log.recovery_point() >= log_end;
    FetchPosition { log_start, log_end, last_epoch: last_epoch.unwrap_or(LeaderEpoch::NONE), is_flushed }
}
