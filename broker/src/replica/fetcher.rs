//! Follows leaders: one task for each leader broker and fetcher index, with one connection and one fetch session; and one
//! more like it for the replicas that are not in sync (`catch_up`).
//!
//! The loop: tell the session what has changed, send a Fetch that the leader holds until it has records (a long poll),
//! append what came in place on this task, and go on. A lost connection, the first sign of a leader's death, ends the
//! poll at once. Partitions come and go with metadata through [`Fetchers::refetch`]; one that comes while a poll is out
//! breaks it off, or its first record would wait for up to `replica.fetch.wait.max.ms`.
//!
//! In a durable topic a partition is asked for again when what it has is on disk: its fetch position is its flushed end
//! (rule 3 of the architecture). What one answer brought for several partitions is synced together.
//!
//! Truncation goes by the diverging epochs in the answers (KIP-595). Answers are used only for the leader epoch and
//! offset that were asked for.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use odradek_broker_core::fetch_session::{ClientPartition, ClientRequest, FetchSessionClient};
use odradek_broker_core::partition::follower::{self, OutOfRange};
use odradek_broker_core::partition::{EpochEnd, FetchStep};
use odradek_broker_storage::LogDir;
use odradek_common::time::Instant;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionIndex, TopicIdPartition, Uuid};
use odradek_node::Connection;
use odradek_wire::Str;
use odradek_wire::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic, ReplicaState};
use odradek_wire::fetch_response::{FetchResponse, PartitionData};
use odradek_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use tokio::sync::Notify;

use super::ReplicaManager;
use super::catch_up::{self, Rest};
use super::partition::{After, Asked, FetchPosition, FollowError, Following, MovedBack, Partition};
use super::throttle::Side;
use super::types::timestamp;

/// Topic ids, and the replica's broker epoch.
const FETCH_VERSION: i16 = 17;
const LIST_OFFSETS_VERSION: i16 = 7;

/// The first pause after an error; it doubles up to `replica.fetch.backoff.ms`. Short, because a follower often hears of
/// a new leader before that leader does.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// A poll that is out gets this long to end by itself before it is broken off for a new partition.
const BREAK_OFF_AFTER: Duration = Duration::from_millis(3);

/// Connecting, and requests that the leader answers at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fetcher's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct FetcherId {
    leader: BrokerId,
    /// Of `num.replica.fetchers`.
    index: usize,
    /// For replicas that are not in sync.
    is_catching_up: bool,
}

/// All fetchers of a broker. A fetcher that has nothing to do waits, without a connection.
#[derive(Debug)]
pub(super) struct Fetchers {
    /// `num.replica.fetchers`
    count: AtomicUsize,
    map: Mutex<FetcherMap>,
}

#[derive(Debug, Default)]
struct FetcherMap {
    fetchers: HashMap<FetcherId, Arc<Fetcher>>,
    assigned: HashMap<TopicIdPartition, FetcherId>,
    is_stopped: bool,
}

impl Fetchers {
    pub fn new(count: usize) -> Self {
        Self { count: AtomicUsize::new(count.max(1)), map: Mutex::default() }
    }

    /// Tells whether it is another number than before; then every partition wants a [`Fetchers::refetch`]. Fetchers that
    /// have nothing left to follow wait without a connection.
    pub fn set_count(&self, count: usize) -> bool {
        self.count.swap(count.max(1), Ordering::Relaxed) != count.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, FetcherMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the fetching of a partition in line with its role. The role is read under this lock, so the last one to
    /// call has seen the last role.
    pub fn refetch(&self, manager: &Arc<ReplicaManager>, partition: &Arc<Partition>) {
        let mut map = self.lock();
        let followed = partition.following(manager.local());
        let wanted = followed.map(|(following, _)| FetcherId {
            leader: following.leader,
            index: self.index(partition.id),
            is_catching_up: !partition.is_in_sync(manager.local()),
        });
        if let Some(old) = map.assigned.get(&partition.id).copied()
            && Some(old) != wanted
        {
            map.assigned.remove(&partition.id);
            if let Some(fetcher) = map.fetchers.get(&old) {
                fetcher.remove(partition.id);
            }
        }
        let (Some(id), Some((following, position))) = (wanted, followed) else { return };
        if map.is_stopped {
            return;
        }
        map.assigned.insert(partition.id, id);
        let fetcher = map.fetchers.entry(id).or_insert_with(|| {
            let fetcher = Arc::new(Fetcher::new(id));
            let task = manager.world.spawn("replica fetcher", run(fetcher.clone(), manager.clone()));
            manager.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
            fetcher
        });
        fetcher.add(manager, partition, following, position);
    }

    /// The partition is gone.
    pub fn remove(&self, id: TopicIdPartition) {
        let mut map = self.lock();
        if let Some(fetcher) = map.assigned.remove(&id)
            && let Some(fetcher) = map.fetchers.get(&fetcher)
        {
            fetcher.remove(id);
        }
    }

    /// A broker has registered or come back: try it at once.
    pub fn on_broker_changed(&self, broker: BrokerId) {
        for (id, fetcher) in &self.lock().fetchers {
            if id.leader == broker {
                fetcher.changed.notify_one();
            }
        }
    }

    pub fn wake_all(&self) {
        for fetcher in self.lock().fetchers.values() {
            fetcher.changed.notify_one();
        }
    }

    /// No more partitions are taken; the tasks are ended by the manager.
    pub fn stop(&self) {
        let mut map = self.lock();
        map.is_stopped = true;
        map.assigned.clear();
        map.fetchers.clear();
    }

    fn index(&self, id: TopicIdPartition) -> usize {
        let [.., a, b] = id.topic_id.0;
        (usize::from(a) + usize::from(b) * 31 + id.partition.0 as usize) % self.count.load(Ordering::Relaxed)
    }
}

/// One partition in a fetcher.
#[derive(Debug)]
struct Followed {
    partition: Arc<Partition>,
    following: Following,
    position: FetchPosition,
    /// The leader's, as it last told; -1: not yet.
    high_watermark: Offset,
    state: State,
    pause: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fetching,
    /// In a durable topic: asks on when what it has is on disk, as the next fetch says that this replica has it.
    Syncing,
    /// After an error; asks again then.
    Paused(Instant),
    /// Until metadata says something new.
    Waiting,
}

#[derive(Debug)]
struct Fetcher {
    id: FetcherId,
    shared: Mutex<Shared>,
    /// Something was added, or the leader may be back.
    changed: Notify,
}

#[derive(Debug)]
struct Shared {
    followed: BTreeMap<TopicIdPartition, Followed>,
    session: FetchSessionClient,
    bytes_max: i32,
}

impl Shared {
    fn want(&mut self, id: TopicIdPartition) {
        let Some(followed) = self.followed.get_mut(&id) else { return };
        if !followed.position.is_flushed {
            followed.state = State::Syncing;
            self.session.remove(id);
            return;
        }
        followed.state = State::Fetching;
        let partition = ClientPartition {
            fetch_offset: followed.position.log_end,
            log_start: followed.position.log_start,
            current_leader_epoch: followed.following.epoch,
            last_fetched_epoch: followed.position.last_epoch,
            bytes_max: self.bytes_max,
        };
        self.session.set(id, partition);
    }

    fn pause(&mut self, id: TopicIdPartition, now: Instant, pause_max: Duration) {
        let Some(followed) = self.followed.get_mut(&id) else { return };
        followed.state = State::Paused(now + followed.pause);
        followed.pause = (followed.pause * 2).min(pause_max.max(PAUSE_MIN));
        self.session.remove(id);
    }

    /// Until its quota allows more.
    fn hold(&mut self, id: TopicIdPartition, until: Instant) {
        if let Some(followed) = self.followed.get_mut(&id)
            && matches!(followed.state, State::Fetching | State::Syncing)
        {
            followed.state = State::Paused(until);
            self.session.remove(id);
        }
    }

    fn give_up(&mut self, id: TopicIdPartition) {
        if let Some(followed) = self.followed.get_mut(&id) {
            followed.state = State::Waiting;
            self.session.remove(id);
        }
    }

    /// Takes paused partitions up again whose time has come; the time of the next one.
    fn resume(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for (id, followed) in &self.followed {
            match followed.state {
                State::Paused(until) if until <= now => due.push(*id),
                State::Paused(until) => next = Some(next.map_or(until, |next| next.min(until))),
                State::Fetching | State::Syncing | State::Waiting => {}
            }
        }
        for id in due {
            self.want(id);
        }
        next
    }

    fn syncing(&self) -> Vec<(Arc<Partition>, Following)> {
        let syncing = self.followed.values().filter(|followed| followed.state == State::Syncing);
        syncing.map(|followed| (followed.partition.clone(), followed.following)).collect()
    }

    /// The log is where `position` says. Whether that can be told to the leader.
    fn synced(&mut self, id: TopicIdPartition, following: Following, position: FetchPosition) -> bool {
        let Some(followed) = self.followed.get_mut(&id) else { return true };
        if followed.state != State::Syncing || followed.following != following {
            return true;
        }
        followed.position = position;
        self.want(id);
        position.is_flushed
    }
}

impl Fetcher {
    fn new(id: FetcherId) -> Self {
        let shared = Shared { followed: BTreeMap::new(), session: FetchSessionClient::new(), bytes_max: 0 };
        Self { id, shared: Mutex::new(shared), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, manager: &ReplicaManager, partition: &Arc<Partition>, following: Following, position: FetchPosition) {
        let mut shared = self.lock();
        shared.bytes_max = i32::try_from(manager.config.replication.fetch_partition_bytes_max).unwrap_or(i32::MAX);
        // At another position it is told anew, or the leader would send what the log does not continue with.
        let is_same = |old: &Followed| old.following == following && old.position == position;
        if shared.followed.get(&partition.id).is_some_and(is_same) {
            return;
        }
        let followed = Followed {
            partition: partition.clone(),
            following,
            position,
            high_watermark: Offset::NONE,
            state: State::Fetching,
            pause: PAUSE_MIN,
        };
        shared.followed.insert(partition.id, followed);
        shared.want(partition.id);
        drop(shared);
        self.changed.notify_one();
    }

    fn remove(&self, id: TopicIdPartition) {
        let mut shared = self.lock();
        shared.followed.remove(&id);
        shared.session.remove(id);
    }
}

/// Runs for as long as the broker.
async fn run(fetcher: Arc<Fetcher>, manager: Arc<ReplicaManager>) {
    let rest = fetcher.id.is_catching_up.then(|| Rest::new(manager.world.instant()));
    let mut fetching = Fetching { fetcher, manager, connection: None, pause: PAUSE_MIN, rest };
    loop {
        fetching.step().await;
    }
}

struct Fetching {
    fetcher: Arc<Fetcher>,
    manager: Arc<ReplicaManager>,
    connection: Option<Connection>,
    /// After the next failure to reach the leader.
    pause: Duration,
    /// Of a fetcher for replicas that catch up.
    rest: Option<Rest>,
}

impl Fetching {
    async fn step(&mut self) {
        let now = self.manager.world.instant();
        let (next, is_idle, syncing) = {
            let mut shared = self.fetcher.lock();
            let next = shared.resume(now);
            (next, shared.session.wants_nothing(), shared.syncing())
        };
        if !syncing.is_empty() {
            return self.sync(syncing).await;
        }
        if self.manager.local_epoch() == BrokerEpoch::NONE {
            self.fetcher.changed.notified().await;
            return;
        }
        if is_idle {
            self.connection = None;
            self.fetcher.lock().session.on_disconnect();
            self.wait_for_change(next).await;
            return;
        }
        match self.poll(next, now).await {
            Ok(response) => {
                self.pause = PAUSE_MIN;
                let bytes = self.take(response).await;
                self.rest_after(bytes, now).await;
            }
            Err(error) => {
                if error.is_loss() && self.connection.is_some() {
                    self.manager.lost_leaders.note(self.fetcher.id.leader, self.manager.world.instant());
                }
                self.connection = None;
                self.fetcher.lock().session.on_disconnect();
                if !matches!(error, PollError::BrokenOff) {
                    self.on_failure(&error).await;
                }
            }
        }
    }

    /// Lets others go first, after an answer to what was asked at `asked`.
    async fn rest_after(&mut self, bytes: usize, asked: Instant) {
        let now = self.manager.world.instant();
        match &mut self.rest {
            Some(rest) => {
                let pause = rest.after(bytes, now.saturating_since(asked), now, &self.manager.load);
                if !pause.is_zero() {
                    self.manager.world.sleep(pause).await;
                }
            }
            None if bytes > 0 => self.manager.load.note(now),
            None => {}
        }
    }

    async fn wait_for_change(&self, until: Option<Instant>) {
        match until {
            Some(until) => tokio::select! {
                biased;
                () = self.fetcher.changed.notified() => {}
                () = self.manager.world.clock.sleep_until(until) => {}
            },
            None => self.fetcher.changed.notified().await,
        }
    }

    async fn on_failure(&mut self, error: &PollError) {
        if self.pause == PAUSE_MIN {
            tracing::info!(leader = %self.fetcher.id.leader, %error, "cannot fetch from the leader; trying again");
        }
        let until = self.manager.world.instant() + self.pause;
        self.pause = (self.pause * 2).min(self.manager.config.replication.fetch_backoff.max(PAUSE_MIN));
        self.wait_for_change(Some(until)).await;
    }

    /// Sends one fetch and waits for its answer.
    async fn poll(&mut self, next: Option<Instant>, now: Instant) -> Result<FetchResponse, PollError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(PollError::BrokenOff) };
        let replication = &self.manager.config.replication;
        let wait_max = replication.fetch_wait_max;
        let wait_max = next.map_or(wait_max, |next| wait_max.min(next.saturating_since(now)));
        let session = self.fetcher.lock().session.request();
        let answer_max = match &self.rest {
            Some(_) if self.manager.load.is_busy(now) => {
                replication.fetch_response_bytes_max.min(catch_up::PIECE_BYTES)
            }
            _ => replication.fetch_response_bytes_max,
        };
        let request = fetch_request(&self.manager, session, wait_max, answer_max);
        let world = &self.manager.world;
        let answer = world.timeout(replication.socket_timeout, connection.call(FETCH_VERSION, &request));
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer.map_err(io::Error::from)??),
                () = self.fetcher.changed.notified() => {}
            }
            if self.fetcher.lock().session.has_unsent() {
                let answer = world.timeout(BREAK_OFF_AFTER, &mut answer).await;
                return Ok(answer.map_err(|_| PollError::BrokenOff)?.map_err(io::Error::from)??);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, PollError> {
        let image = self.manager.image();
        let FetcherId { leader, index, is_catching_up } = self.fetcher.id;
        let listener = &self.manager.config.inter_broker_listener;
        // A fenced leader too: it may be on its way back, and nobody else has its records.
        let endpoint = image.broker(leader).and_then(|broker| broker.endpoint(listener));
        let endpoint = endpoint.ok_or_else(|| PollError::NoEndpoint(listener.clone()))?;
        let purpose = if is_catching_up { "-catch-up" } else { "" };
        let client_id = format!("broker-{}-fetcher-{index}{purpose}", self.manager.local());
        Ok(Connection::open(&self.manager.world, &endpoint.host, endpoint.port, &client_id, PATIENCE).await?)
    }

    /// Acts on an answer, and tells how many bytes of records were in it.
    async fn take(&mut self, response: FetchResponse) -> usize {
        let error = ErrorCode::from_code(response.error_code);
        self.fetcher.lock().session.on_answer(error, response.session_id);
        if error.is_error() {
            tracing::debug!(leader = %self.fetcher.id.leader, %error, "the fetch session starts over");
            if !matches!(error, ErrorCode::FetchSessionIdNotFound | ErrorCode::InvalidFetchSessionEpoch) {
                self.manager.world.sleep(PAUSE_MIN).await;
            }
            return 0;
        }
        let mut bytes = 0;
        let mut out_of_range = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let id = TopicIdPartition { topic_id: topic.topic_id, partition: PartitionIndex(data.partition_index) };
                bytes +=
                    data.records.as_ref().and_then(|records| records.as_bytes()).map_or(0, |records| records.len());
                match self.take_partition(id, &data) {
                    Taken::Done => {}
                    Taken::OutOfRange(partition, following) => out_of_range.push((partition, following)),
                    Taken::Superseded(partition) => {
                        // If it follows the same leader still, it asks again after a pause and not in a tight loop.
                        self.pause_partition(partition.id);
                        self.manager.fetchers.refetch(&self.manager, &partition);
                    }
                }
            }
        }
        for (partition, following) in out_of_range {
            self.find_offset(&partition, following).await;
        }
        bytes
    }

    /// Waits until what these partitions have is on disk, all of it by one round of each log directory.
    async fn sync(&self, syncing: Vec<(Arc<Partition>, Following)>) {
        let partitions: Vec<_> = syncing.iter().map(|(partition, _)| partition.clone()).collect();
        self.manager.flush_and_wait(&partitions).await;
        for (partition, following) in syncing {
            match partition.following(self.manager.local()) {
                Some((now, position)) if now == following => {
                    let is_told = self.fetcher.lock().synced(partition.id, following, position);
                    if !is_told {
                        // The disk is full.
                        self.pause_partition(partition.id);
                    }
                }
                // It leads, follows another, or is offline. Whoever changed that says so too, yet perhaps only later.
                _ => {
                    self.pause_partition(partition.id);
                    self.manager.fetchers.refetch(&self.manager, &partition);
                }
            }
        }
    }

    fn take_partition(&mut self, id: TopicIdPartition, data: &PartitionData) -> Taken {
        let (partition, following, asked) = {
            let shared = self.fetcher.lock();
            let Some(followed) = shared.followed.get(&id) else { return Taken::Done };
            let Some(asked) = shared.session.sent(id) else { return Taken::Done };
            if asked.current_leader_epoch != followed.following.epoch || followed.state != State::Fetching {
                return Taken::Done;
            }
            let asked = Asked { fetch_offset: asked.fetch_offset, last_epoch: asked.last_fetched_epoch };
            (followed.partition.clone(), followed.following, asked)
        };
        let error = ErrorCode::from_code(data.error_code);
        let diverging = (data.diverging_epoch.epoch >= 0).then_some(EpochEnd {
            epoch: LeaderEpoch(data.diverging_epoch.epoch),
            end: Offset(data.diverging_epoch.end_offset),
        });
        let image = self.manager.image();
        let context = self.manager.context(&image);
        let result = match follower::on_fetched(error, diverging) {
            FetchStep::Append => {
                let records = data.records.as_ref().and_then(|records| records.as_bytes());
                partition.append_as_follower(
                    following,
                    asked,
                    records.map_or(&[], |records| records),
                    Offset(data.high_watermark),
                    Offset(data.log_start_offset),
                    context,
                )
            }
            FetchStep::Truncate(leader) => partition
                .truncate(following, asked, leader, |dir, moved| self.manager.write_truncated(dir, moved), context)
                .map(|position| (position, After::default())),
            FetchStep::AskOffsets => return Taken::OutOfRange(partition, following),
            FetchStep::AwaitMetadata => {
                tracing::info!(partition = %partition.name, %error, "waiting for metadata");
                self.fetcher.lock().give_up(id);
                return Taken::Done;
            }
            FetchStep::RetryLater => {
                tracing::debug!(partition = %partition.name, leader = %self.fetcher.id.leader, %error, "fetching again soon");
                self.pause_partition(id);
                return Taken::Done;
            }
        };
        let appended = match (&result, data.records.as_ref().and_then(|records| records.as_bytes())) {
            (Ok((position, _)), Some(records)) => Some((records.len(), position.log_end.0 < data.high_watermark)),
            _ => None,
        };
        if let (Some(rest), Ok((position, _))) = (&mut self.rest, &result)
            && let Some(followed) = self.fetcher.lock().followed.get_mut(&id)
        {
            let high_watermark = Offset(data.high_watermark);
            let before = std::mem::replace(&mut followed.high_watermark, high_watermark);
            rest.on_appended((asked.fetch_offset, position.log_end), (before, high_watermark));
        }
        let taken = self.settle(&partition, result);
        if let Some((bytes, lags)) = appended {
            self.hold_back(&partition, bytes, lags);
        }
        taken
    }

    /// Goes on from the new position, or copes with an error.
    fn settle(&self, partition: &Arc<Partition>, result: Result<(FetchPosition, After), FollowError>) -> Taken {
        match result {
            Ok((position, after)) => {
                if position.is_flushed {
                    self.manager.finish(partition, after);
                }
                // Else it is flushed with all that this answer brought, before the next fetch.
                self.go_on(partition.id, position);
                Taken::Done
            }
            Err(FollowError::Superseded) => Taken::Superseded(partition.clone()),
            Err(error) if partition.is_offline() => {
                tracing::error!(partition = %partition.name, %error, "a replica is offline");
                self.fetcher.lock().give_up(partition.id);
                Taken::Done
            }
            // It was said when the directory became full.
            Err(error) if error.is_full() => {
                tracing::debug!(partition = %partition.name, %error, "fetched records were not taken");
                self.pause_partition(partition.id);
                Taken::Done
            }
            Err(error) => {
                tracing::error!(partition = %partition.name, leader = %self.fetcher.id.leader, %error,
                    "fetched records were not taken; fetching them again");
                self.pause_partition(partition.id);
                Taken::Done
            }
        }
    }

    /// Counts what a throttled partition took. If it lags still, it asks again when that is paid back.
    fn hold_back(&self, partition: &Partition, bytes: usize, lags: bool) {
        if bytes == 0 || !partition.is_follower_throttled() {
            return;
        }
        let now = self.manager.world.instant();
        let wait = {
            let mut quota = self.manager.quotas.lock(Side::Follower);
            quota.record(bytes as u64, now);
            quota.wait(now)
        };
        if lags && !wait.is_zero() {
            self.fetcher.lock().hold(partition.id, now + wait);
        }
    }

    fn go_on(&self, id: TopicIdPartition, position: FetchPosition) {
        let mut shared = self.fetcher.lock();
        if let Some(followed) = shared.followed.get_mut(&id) {
            followed.position = position;
            followed.pause = PAUSE_MIN;
            shared.want(id);
        }
    }

    fn pause_partition(&self, id: TopicIdPartition) {
        let now = self.manager.world.instant();
        self.fetcher.lock().pause(id, now, self.manager.config.replication.fetch_backoff);
    }

    /// After OFFSET_OUT_OF_RANGE: asks the leader where its log begins and ends.
    async fn find_offset(&mut self, partition: &Arc<Partition>, following: Following) {
        let ends = async {
            let start = self.list_offset(partition, following.epoch, timestamp::EARLIEST).await?;
            let end = self.list_offset(partition, following.epoch, timestamp::LATEST).await?;
            Ok::<_, io::Error>((start, end))
        };
        let (start, end) = match ends.await {
            Ok((Ok(start), Ok(end))) => (start, end),
            Ok((Err(error), _) | (_, Err(error))) => {
                tracing::debug!(partition = %partition.name, %error, "the leader does not tell its offsets");
                self.pause_partition(partition.id);
                return;
            }
            Err(error) => {
                tracing::info!(partition = %partition.name, %error, "cannot ask the leader for its offsets");
                self.connection = None;
                self.fetcher.lock().session.on_disconnect();
                self.pause_partition(partition.id);
                return;
            }
        };
        let Some((_, position)) = partition.following(self.manager.local()) else { return };
        let image = self.manager.image();
        let context = self.manager.context(&image);
        let checkpoint = |dir: &LogDir, moved: MovedBack| self.manager.write_truncated(dir, moved);
        let result = match follower::out_of_range(position.log_end, start, end) {
            OutOfRange::TruncateTo(offset) => partition.truncate_to(following, offset, checkpoint, context),
            OutOfRange::StartAt(offset) => partition.start_at(following, offset, checkpoint, context),
            // The pause keeps a leader that says otherwise each time from being asked without end.
            OutOfRange::Continue => return self.pause_partition(partition.id),
        };
        if let Taken::Superseded(partition) =
            self.settle(partition, result.map(|position| (position, After::default())))
        {
            self.manager.fetchers.refetch(&self.manager, &partition);
        }
    }

    async fn list_offset(
        &mut self,
        partition: &Partition,
        epoch: LeaderEpoch,
        wanted: i64,
    ) -> io::Result<Result<Offset, ErrorCode>> {
        let Some(connection) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        let request = ListOffsetsRequest {
            replica_id: self.manager.local().0,
            topics: vec![ListOffsetsTopic {
                name: Str::from(partition.name.topic.as_str()),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition.name.partition.0,
                    current_leader_epoch: epoch.0,
                    timestamp: wanted,
                    ..ListOffsetsPartition::default()
                }],
                ..ListOffsetsTopic::default()
            }],
            ..ListOffsetsRequest::default()
        };
        let response = self.manager.world.timeout(PATIENCE, connection.call(LIST_OFFSETS_VERSION, &request)).await??;
        let answer = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
        Ok(match answer {
            Some(answer) if answer.error_code == 0 => Ok(Offset(answer.offset)),
            Some(answer) => Err(ErrorCode::from_code(answer.error_code)),
            None => Err(ErrorCode::UnknownServerError),
        })
    }
}

enum Taken {
    Done,
    OutOfRange(Arc<Partition>, Following),
    /// Its role has changed.
    Superseded(Arc<Partition>),
}

#[derive(Debug, thiserror::Error)]
enum PollError {
    /// On purpose, for a new partition.
    #[error("broken off")]
    BrokenOff,
    #[error("its registration is not known, or has no listener {0}")]
    NoEndpoint(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PollError {
    /// Whether the other side, or the network, has ended the connection.
    fn is_loss(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let Self::Io(error) = self else { return false };
        matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
    }
}

fn fetch_request(
    manager: &ReplicaManager,
    session: ClientRequest,
    wait_max: Duration,
    answer_bytes_max: u32,
) -> FetchRequest {
    let replication = &manager.config.replication;
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let mut topics: Vec<FetchTopic> = Vec::new();
    // In the order of topic ids, so that those of one topic follow one another.
    for (id, wanted) in session.partitions {
        let partition = FetchPartition {
            partition: id.partition.0,
            current_leader_epoch: wanted.current_leader_epoch.0,
            fetch_offset: wanted.fetch_offset.0,
            last_fetched_epoch: wanted.last_fetched_epoch.0,
            log_start_offset: wanted.log_start.0,
            partition_max_bytes: wanted.bytes_max,
            ..FetchPartition::default()
        };
        match topics.last_mut() {
            Some(last) if last.topic_id == id.topic_id => last.partitions.push(partition),
            _ => {
                topics.push(FetchTopic { topic_id: id.topic_id, partitions: vec![partition], ..FetchTopic::default() })
            }
        }
    }
    let mut forgotten: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for id in session.forgotten {
        forgotten.entry(id.topic_id).or_default().push(id.partition.0);
    }
    let forgotten = forgotten.into_iter().map(|(topic_id, partitions)| ForgottenTopic {
        topic_id,
        partitions,
        ..ForgottenTopic::default()
    });
    FetchRequest {
        replica_state: ReplicaState {
            replica_id: manager.local().0,
            replica_epoch: manager.local_epoch().0,
            ..ReplicaState::default()
        },
        max_wait_ms: i32::try_from(wait_max.as_millis()).unwrap_or(i32::MAX),
        min_bytes: number(replication.fetch_bytes_min),
        max_bytes: number(answer_bytes_max),
        session_id: session.session_id,
        session_epoch: session.session_epoch,
        topics,
        forgotten_topics_data: forgotten.collect(),
        ..FetchRequest::default()
    }
}
