//! One partition's coordinator: a core runtime, its log, its clock, and who waits for its answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use odradek_broker_core::coordinator::{
    Append, Completion, CoordinatorLog, Runtime, RuntimeConfig, Shard, Ticket, TransactionEnd,
};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now};
use odradek_common::{ErrorCode, LeaderEpoch, Offset, TopicIdPartition};
use odradek_node::World;
use odradek_node::world::TaskHandle;
use tokio::sync::{Notify, oneshot};

use super::loader;
use crate::replica::{Outcome, ReplicaManager};

/// A shard that its driver may carry from thread to thread.
pub trait DrivenShard:
    Shard<Timer: Send, Pending: Send, Response: Send, Effect: Send> + Send + Sized + 'static
{
}

impl<S> DrivenShard for S where
    S: Shard<Timer: Send, Pending: Send, Response: Send, Effect: Send> + Send + Sized + 'static
{
}

/// Takes what a shard asks the rest of the broker to do, with the coordinator's epoch. Called without any lock.
pub type EffectSink<S> = Arc<dyn Fn(&Arc<Driver<S>>, LeaderEpoch, Vec<<S as Shard>::Effect>) + Send + Sync>;

/// What a request comes to.
pub type Answer<S> = Result<<S as Shard>::Response, ErrorCode>;

/// The partition, and what its log is written and read by.
#[derive(Clone, Debug)]
pub struct Place {
    /// As `__consumer_offsets-7`.
    pub name: String,
    pub partition: TopicIdPartition,
    pub runtime: RuntimeConfig,
    /// `offsets.load.buffer.size`, or its like.
    pub load_bytes: usize,
}

/// A coordinator for one leadership.
pub struct Driver<S: Shard> {
    own: Weak<Self>,
    pub(super) world: World,
    pub(super) replicas: Arc<ReplicaManager>,
    pub(super) place: Place,
    sink: EffectSink<S>,
    state: Mutex<State<S>>,
    /// A timer was set that is due before what the task sleeps for.
    sooner: Notify,
    task: Mutex<Option<TaskHandle>>,
}

struct State<S: Shard> {
    phase: Phase<S>,
    epoch: LeaderEpoch,
    rng: SplitMix64,
    next_ticket: u64,
    /// Requests whose answers come later.
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer<S>>>,
    sleeps_until: Option<Instant>,
}

enum Phase<S: Shard> {
    Loading,
    Active(Box<Runtime<S>>),
    /// The leadership is over, or the log could not be read.
    Ended,
}

/// The partition's log for one step.
struct Log<'a> {
    replicas: &'a Arc<ReplicaManager>,
    place: &'a Place,
    epoch: LeaderEpoch,
}

impl CoordinatorLog for Log<'_> {
    fn append(&mut self, append: Append) -> Result<Offset, ErrorCode> {
        let appended =
            self.replicas.append_as_coordinator(self.place.partition, self.epoch, &append.batch, append.kind);
        appended.map_err(|error| {
            tracing::warn!(partition = self.place.name, %error, "a coordinator could not append");
            error.code
        })
    }
}

impl<S: DrivenShard> Driver<S> {
    /// Takes up a leadership: `shard` is loaded from the log, and requests are told to come back until it is.
    pub fn start(
        world: World,
        replicas: Arc<ReplicaManager>,
        place: Place,
        epoch: LeaderEpoch,
        shard: S,
        sink: EffectSink<S>,
    ) -> Arc<Self> {
        let state = State {
            phase: Phase::Loading,
            epoch,
            rng: world.rng(),
            next_ticket: 0,
            waiting: BTreeMap::new(),
            sleeps_until: None,
        };
        let driver = Arc::new_cyclic(|own| Self {
            own: own.clone(),
            world: world.clone(),
            replicas,
            place,
            sink,
            state: Mutex::new(state),
            sooner: Notify::new(),
            task: Mutex::new(None),
        });
        let task = world.spawn("coordinator", driver.clone().run(epoch, shard));
        *driver.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        driver
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.lock().epoch
    }

    /// The same broker leads on in a new epoch. False when it has to be loaded anew: it is not active, or the log has
    /// another end than what is known here.
    pub fn carry_on(&self, epoch: LeaderEpoch) -> bool {
        let mut state = self.lock();
        let Phase::Active(runtime) = &state.phase else { return false };
        let described = self.replicas.describe_partition(self.place.partition);
        let is_same = described.is_some_and(|replica| replica.is_leader && replica.log_end == runtime.written());
        if is_same {
            state.epoch = epoch;
        }
        is_same
    }

    /// Whether it will never answer again: the log could not be read, or the leadership was lost.
    pub fn has_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Ended)
    }

    /// Whether it answers requests.
    pub fn is_active(&self) -> bool {
        matches!(self.lock().phase, Phase::Active(_))
    }

    /// Decides upon a request; it is appended when this returns.
    pub fn request(&self, request: S::Request) -> Outcome<Answer<S>> {
        self.ask(|runtime, ticket, now, rng, log| runtime.request(ticket, request, now, rng, log))
    }

    /// Appends the end of a transaction; `response` is the answer when that is committed.
    pub fn end_transaction(&self, end: TransactionEnd, response: S::Response) -> Outcome<Answer<S>> {
        self.ask(|runtime, ticket, now, _, log| runtime.end_transaction(ticket, end, response, now, log))
    }

    fn ask(
        &self,
        step: impl FnOnce(&mut Runtime<S>, Ticket, Now, &mut SplitMix64, &mut Log<'_>) -> Vec<Completion<S>>,
    ) -> Outcome<Answer<S>> {
        let now = self.world.now();
        let mut state = self.lock();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        let mut done = match state.step(self, |runtime, rng, log| step(runtime, ticket, now, rng, log)) {
            Ok(done) => done,
            Err(error) => return Outcome::Done(Err(error)),
        };
        let own = done.iter().position(|(completed, _)| *completed == ticket).map(|at| done.swap_remove(at).1);
        let answered = match own {
            Some(answer) => Outcome::Done(answer),
            None => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                Outcome::Waiting(Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::NotCoordinator)) }))
            }
        };
        self.leave(state, done);
        answered
    }

    /// Answers from committed state.
    pub fn query(&self, query: S::Query) -> Answer<S> {
        let now = self.world.now();
        match &self.lock().phase {
            Phase::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Phase::Active(runtime) => Ok(runtime.query(query, now)),
            Phase::Ended => Err(ErrorCode::NotCoordinator),
        }
    }

    /// The leadership is over: whoever waits is told to look for the new coordinator.
    pub fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        self.end();
    }

    fn end(&self) {
        let mut state = self.lock();
        let ended = std::mem::replace(&mut state.phase, Phase::Ended);
        let done = match ended {
            Phase::Active(runtime) => runtime.unload(ErrorCode::NotCoordinator),
            Phase::Loading | Phase::Ended => Vec::new(),
        };
        self.leave(state, done);
    }

    /// Lets go of the lock, and then completes those who waited.
    fn leave(&self, mut state: MutexGuard<'_, State<S>>, done: Vec<Completion<S>>) {
        let woken: Vec<_> =
            done.into_iter().filter_map(|(ticket, answer)| Some((state.waiting.remove(&ticket)?, answer))).collect();
        let (notes, effects) = match &mut state.phase {
            Phase::Active(runtime) => (runtime.take_notes(), runtime.take_effects()),
            Phase::Loading | Phase::Ended => (Vec::new(), Vec::new()),
        };
        let epoch = state.epoch;
        let next = state.next_deadline();
        let is_sooner = next.is_some_and(|next| state.sleeps_until.is_none_or(|until| next < until));
        drop(state);
        if is_sooner {
            self.sooner.notify_one();
        }
        if !effects.is_empty()
            && let Some(own) = self.own.upgrade()
        {
            (self.sink)(&own, epoch, effects);
        }
        for note in notes {
            tracing::info!(partition = self.place.name, "{note}");
        }
        for (waiting, answer) in woken {
            // Whoever has gone does not care.
            let _ = waiting.send(answer);
        }
    }

    // ---- the task ----

    async fn run(self: Arc<Self>, epoch: LeaderEpoch, shard: S) {
        let runtime = Runtime::new(shard, self.place.runtime);
        let loaded = match loader::load(&self, epoch, runtime).await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(partition = self.place.name, %error, "a coordinator could not be loaded");
                return self.end();
            }
        };
        let loader::Loaded { runtime, mut commits, log_end } = loaded;
        let high_watermark = *commits.borrow_and_update();
        self.step_in_task(Some(runtime), |runtime, now, rng, log| {
            runtime.loaded(log_end, high_watermark, now, rng, log)
        });
        loop {
            let until = {
                let mut state = self.lock();
                state.sleeps_until = state.next_deadline();
                state.sleeps_until
            };
            let timer = async {
                match until {
                    Some(until) => self.world.clock.sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                moved = commits.changed() => {
                    if moved.is_err() {
                        // No leader any more; the metadata will say who is.
                        return self.end();
                    }
                    let high_watermark = *commits.borrow_and_update();
                    // And what is due: under a steady stream of commits the branch below has no turn.
                    self.step_in_task(None, |runtime, now, rng, log| {
                        let mut done = runtime.on_high_watermark(high_watermark, now, rng, log);
                        done.extend(runtime.on_time(now, rng, log));
                        done
                    });
                }
                () = timer => self.step_in_task(None, |runtime, now, rng, log| runtime.on_time(now, rng, log)),
                () = self.sooner.notified() => {}
            }
        }
    }

    /// A step that nobody has asked for. `loaded` is the runtime that the driver becomes active with.
    fn step_in_task(
        &self,
        loaded: Option<Box<Runtime<S>>>,
        step: impl FnOnce(&mut Runtime<S>, Now, &mut SplitMix64, &mut Log<'_>) -> Vec<Completion<S>>,
    ) {
        let now = self.world.now();
        let mut state = self.lock();
        if let Some(runtime) = loaded
            && matches!(state.phase, Phase::Loading)
        {
            state.phase = Phase::Active(runtime);
        }
        let done = state.step(self, |runtime, rng, log| step(runtime, now, rng, log)).unwrap_or_default();
        self.leave(state, done);
    }
}

impl<S: Shard> State<S> {
    fn step(
        &mut self,
        driver: &Driver<S>,
        step: impl FnOnce(&mut Runtime<S>, &mut SplitMix64, &mut Log<'_>) -> Vec<Completion<S>>,
    ) -> Result<Vec<Completion<S>>, ErrorCode> {
        let mut log = Log { replicas: &driver.replicas, place: &driver.place, epoch: self.epoch };
        match &mut self.phase {
            Phase::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Phase::Active(runtime) => Ok(step(runtime, &mut self.rng, &mut log)),
            Phase::Ended => Err(ErrorCode::NotCoordinator),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Active(runtime) => runtime.next_deadline(),
            Phase::Loading | Phase::Ended => None,
        }
    }
}
