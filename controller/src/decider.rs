//! The one task that decides, on whichever controller leads.
//!
//! 1. Raft makes this node the leader of a term. It waits until the first entry of that term is applied here: then every
//!    entry of former leaders is, too.
//! 2. It builds a `Decider` on that image, writes what is to be written first (the cluster's name and features, where
//!    the controllers are), and serves.
//! 3. Decisions are taken one after another, each on the overlay that the ones before it left; their records are proposed
//!    at once, for this term only, and answered when they are applied. So proposals are pipelined, and no answer is given
//!    for what may still be lost.
//! 4. When it no longer leads, or a majority has not been heard for too long, the overlay is dropped and whoever waits is
//!    told NOT_CONTROLLER. The brokers' liveness goes with it: it is soft state.
//!
//! The offset of each proposal is known in advance, for nobody else proposes in this term, and is in the entry: one that
//! gets another offset is void wherever it is applied. That can be when Raft refuses a proposal, as it does while a majority
//! has not been heard for a while though the term goes on, and accepts the next one. So after a refusal the overlay is
//! dropped, and decisions begin anew, in the same term too, when it is known of each proposal what became of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{FuturesOrdered, SelectAll};
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerId, ControllerId};
use odradek_controller_core::{Context, Decider, Decision, Event, Settings, StreamId, TICK_INTERVAL};
use odradek_metadata::{ControllerRegistration, batch};
use odradek_node::{Shutdown, World};
use openraft::async_runtime::WatchReceiver;
use openraft::impls::ProgressResponder;
use openraft::{Instant as _, ServerState};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::raft::types::{CommittedLeaderId, EncodedBatch, NodeId, Peer, TypeConfig};
use crate::raft::{Raft, RaftNode};

/// Requests that may wait for the decider; a sender waits when there are more.
const INPUTS_MAX: usize = 1024;
/// Decisions that may wait for the quorum. Beyond that the decider takes no new ones; liveness goes on.
const PENDING_MAX: usize = 4096;
/// Names the active controller in the trailers of a refusal: `ID@HOST:PORT`.
pub const LEADER_TRAILER: &str = "odradek-leader";

/// This controller is not the active one, or was until just now: whether the request took effect is then unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotActive {
    /// The one that is, as far as is known here.
    pub leader: Option<(NodeId, Peer)>,
}

impl fmt::Display for NotActive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some((id, peer)) => write!(f, "this is not the active controller; that is {id}@{peer}"),
            None => write!(f, "this is not the active controller, and none is known here at the moment"),
        }
    }
}

impl std::error::Error for NotActive {}

impl From<NotActive> for Status {
    fn from(error: NotActive) -> Self {
        let mut status = Status::failed_precondition(error.to_string());
        if let Some((id, peer)) = error.leader
            && let Ok(leader) = MetadataValue::try_from(format!("{id}@{peer}"))
        {
            status.metadata_mut().insert(LEADER_TRAILER, leader);
        }
        status
    }
}

/// Tells the one who asked: the offset at which the answer holds, or that this controller does not lead.
type Answer = Box<dyn FnOnce(Result<i64, NotActive>) + Send>;

/// A decision without its type.
struct Decided {
    records: Vec<odradek_metadata::proto::Record>,
    offset: i64,
    events: Vec<Event>,
    answer: Answer,
}

type Decide = Box<dyn FnOnce(&mut Decider, &mut Context<'_>) -> Decided + Send>;

struct Request {
    decide: Decide,
    /// For when this controller does not lead.
    refuse: oneshot::Sender<NotActive>,
}

/// A broker's liveness stream has ended; after that, its port refused a connection.
enum Lost {
    Stream(BrokerId, StreamId),
    Process(BrokerId, StreamId),
}

/// Asks the decider of this node. Cheap to clone.
#[derive(Clone)]
pub struct DeciderHandle {
    requests: mpsc::Sender<Request>,
    lost: mpsc::UnboundedSender<Lost>,
    raft: Raft,
}

impl DeciderHandle {
    /// Takes a decision, waits until it is applied here, and answers.
    ///
    /// # Errors
    /// [`NotActive`]; if the leadership ended meanwhile, the decision may have been taken all the same.
    pub async fn decide<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R> + Send + 'static,
    ) -> Result<R, NotActive> {
        self.decide_at(decide).await.map(|(response, _)| response)
    }

    /// As [`DeciderHandle::decide`], with the metadata offset at which the answer holds.
    ///
    /// # Errors
    /// As there.
    pub async fn decide_at<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R> + Send + 'static,
    ) -> Result<(R, i64), NotActive> {
        let (sender, answer) = oneshot::channel();
        let (refuse, refused) = oneshot::channel();
        let decide: Decide = Box::new(move |decider, context| {
            let Decision { records, response, offset, events } = decide(decider, context);
            let answer: Answer = Box::new(move |applied| drop(sender.send(applied.map(|offset| (response, offset)))));
            Decided { records, offset, events, answer }
        });
        if self.requests.send(Request { decide, refuse }).await.is_err() {
            return Err(self.not_active());
        }
        // Either the request was decided on, and its answer follows, or it was refused.
        match answer.await {
            Ok(answered) => answered,
            Err(_) => Err(refused.await.unwrap_or_else(|_| self.not_active())),
        }
    }

    /// A broker's liveness stream has ended. Never waits, so that it can be told while the stream is dropped; there are
    /// no more of these than there were streams.
    pub fn stream_closed(&self, broker: BrokerId, stream: StreamId) {
        let _ = self.lost.send(Lost::Stream(broker, stream));
    }

    /// After the end of that stream the broker's port refused a connection.
    pub fn process_gone(&self, broker: BrokerId, stream: StreamId) {
        let _ = self.lost.send(Lost::Process(broker, stream));
    }

    /// The answer of a node that does not lead.
    pub fn not_active(&self) -> NotActive {
        not_active(&self.raft)
    }
}

fn not_active(raft: &Raft) -> NotActive {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id);
    let peer = leader.and_then(|id| Some((id, metrics.membership_config.membership().get_node(&id)?.clone())));
    NotActive { leader: peer }
}

/// What the decider has to know of its node.
#[derive(Clone, Debug)]
pub struct DeciderOptions {
    pub settings: Settings,
    pub cluster_id: Arc<str>,
    pub controllers: Vec<ControllerRegistration>,
    /// What a new cluster begins with.
    pub bootstrap: Option<odradek_metadata::Image>,
    /// A leader that has not heard a majority for this long does not decide any more.
    pub quorum_silence_max: Duration,
}

impl DeciderOptions {
    /// The voters as the metadata names them.
    pub fn controllers(voters: &std::collections::BTreeMap<NodeId, Peer>) -> Vec<ControllerRegistration> {
        let registered = voters.iter().filter_map(|(id, peer)| {
            let id = ControllerId(i32::try_from(*id).ok()?);
            Some(ControllerRegistration { id, host: peer.host.clone(), port: peer.port })
        });
        registered.collect()
    }
}

/// Why this controller cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    WrongCluster(#[from] odradek_controller_core::bootstrap::WrongCluster),
    #[error(
        "the entry that was decided as metadata offset {expected} got {found}; this controller's decisions are void"
    )]
    OffsetMismatch { expected: i64, found: i64 },
    #[error("Raft has stopped: {0}")]
    Raft(String),
}

/// The task's half.
pub struct DeciderTask {
    world: World,
    node: RaftNode,
    options: DeciderOptions,
    requests: mpsc::Receiver<Request>,
    lost: mpsc::UnboundedReceiver<Lost>,
    rng: SplitMix64,
    /// Proposals of leaderships that are over, of which it is not known yet what becomes of them.
    unsettled: SelectAll<FuturesOrdered<Proposed>>,
}

/// A decider for `node`, and the handle to ask it.
pub fn decider(world: World, node: RaftNode, options: DeciderOptions) -> (DeciderHandle, DeciderTask) {
    let (requests, queue) = mpsc::channel(INPUTS_MAX);
    let (lost, losses) = mpsc::unbounded_channel();
    let handle = DeciderHandle { requests, lost, raft: node.raft.clone() };
    let rng = world.rng();
    (handle, DeciderTask { world, node, options, requests: queue, lost: losses, rng, unsettled: SelectAll::new() })
}

/// The offset at which a proposal was applied; an error when it was refused or discarded.
type Proposed = futures::future::BoxFuture<'static, Result<i64, ()>>;

/// The state of one leadership.
struct Active {
    term: u64,
    decider: Decider,
    next_offset: i64,
    /// The highest offset of ours that is applied.
    applied: i64,
    /// Ascending by offset.
    pending: VecDeque<(i64, Answer)>,
    proposed: FuturesOrdered<Proposed>,
}

impl Active {
    /// Everything that is applied by now can be answered.
    fn answer_applied(&mut self) {
        while self.pending.front().is_some_and(|(offset, _)| *offset <= self.applied) {
            if let Some((_, answer)) = self.pending.pop_front() {
                answer(Ok(self.applied));
            }
        }
    }

    /// Ends it. Answers what is still to become of its proposals.
    fn refuse_all(self, raft: &Raft) -> FuturesOrdered<Proposed> {
        for (_, answer) in self.pending {
            answer(Err(not_active(raft)));
        }
        self.proposed
    }
}

impl DeciderTask {
    /// Runs until the node stops.
    ///
    /// # Errors
    /// [`Fatal`]: the process has to end.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Fatal> {
        let mut leadership = self.node.raft.server_metrics();
        let mut progress = self.node.view.subscribe();
        let mut active: Option<Active> = None;
        let mut looked_at = self.world.instant();
        loop {
            let term = self.leading_term();
            if let Some(former) = active.take_if(|active| Some(active.term) != term) {
                tracing::info!(term = former.term, "this controller is no longer the active one");
                self.unsettled.push(former.refuse_all(&self.node.raft));
            }
            if let (None, Some(term)) = (&active, term)
                && self.has_applied_all_of(term)
                && self.has_lease()
            {
                active = self.begin(term).await?;
            }
            // Somebody waits, for an answer or for this node to begin: soon, if the quorum has fallen silent.
            let soon = looked_at + TICK_INTERVAL;
            let due = match &active {
                Some(active) if active.pending.is_empty() => active.decider.tick_due(),
                Some(active) => active.decider.tick_due().min(soon),
                None => soon,
            };
            let accepts = active.as_ref().is_none_or(|active| active.pending.len() < PENDING_MAX);
            let waits_for_offset = active.is_none() && term.is_some();
            tokio::select! {
                // In this order: a tick that is late shows a stall of this process, and must be seen before what
                // queued up during it is held against the brokers.
                biased;
                () = shutdown.wait() => {
                    if let Some(active) = active.take() {
                        drop(active.refuse_all(&self.node.raft));
                    }
                    return Ok(());
                }
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return if shutdown.is_triggered() { Ok(()) } else { Err(self.raft_stopped()) };
                    }
                }
                _ = self.unsettled.next(), if !self.unsettled.is_empty() => {}
                Some(proposed) = next_proposed(&mut active) => self.proposal_done(&mut active, proposed)?,
                () = self.world.clock.sleep_until(due), if active.is_some() || self.node.raft.is_leader() => {
                    looked_at = self.world.instant();
                    if let Some(active) = &mut active {
                        self.tick(active).await?;
                    }
                }
                _ = progress.changed(), if waits_for_offset => {}
                Some(lost) = self.lost.recv() => {
                    if let Some(active) = &mut active {
                        match lost {
                            Lost::Stream(broker, stream) => {
                                active.decider.stream_closed(broker, stream, self.world.now());
                            }
                            Lost::Process(broker, stream) => {
                                active.decider.process_gone(broker, stream, self.world.now());
                            }
                        }
                    }
                }
                Some(request) = self.requests.recv(), if accepts => match &mut active {
                    Some(active) if self.leading_term() == Some(active.term) => {
                        self.decide(active, request.decide).await?;
                    }
                    // It ends above.
                    _ => drop(request.refuse.send(not_active(&self.node.raft))),
                },
            }
        }
    }

    /// The term that this node leads, if a majority has confirmed so lately.
    fn leading_term(&self) -> Option<u64> {
        let metrics = self.node.raft.server_metrics();
        let (term, voters) = {
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader || !metrics.vote.is_committed() {
                return None;
            }
            (metrics.vote.leader_id.term, metrics.membership_config.voter_ids().count())
        };
        (voters <= 1 || self.quorum_silence()? <= self.options.quorum_silence_max).then_some(term)
    }

    /// Since when no majority has been heard; nothing while none had to be, `None` when this node does not lead.
    fn quorum_silence(&self) -> Option<Duration> {
        let leader = self.node.raft.as_leader().ok()?;
        Some(leader.last_quorum_acked().map_or(Duration::ZERO, |acked| acked.elapsed()))
    }

    /// Whether Raft accepts proposals: it does for 0.45 of the election timeout after a majority was heard, and
    /// `quorum_silence_max` is twice that timeout.
    fn has_lease(&self) -> bool {
        let is_alone = self.node.raft.server_metrics().borrow_watched().membership_config.voter_ids().count() <= 1;
        is_alone || self.quorum_silence().is_some_and(|silence| silence <= self.options.quorum_silence_max / 5)
    }

    /// Whether the first entry of the term is applied, and all that this node proposed before it last stopped to decide
    /// is applied or will never be.
    fn has_applied_all_of(&self, term: u64) -> bool {
        self.unsettled.is_empty() && self.node.view.progress().term == term
    }

    fn raft_stopped(&self) -> Fatal {
        let metrics = self.node.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        Fatal::Raft(state.err().map_or_else(|| "for an unknown reason".to_owned(), |error| error.to_string()))
    }

    async fn begin(&mut self, term: u64) -> Result<Option<Active>, Fatal> {
        let image = self.node.view.image();
        let offset = image.offset();
        let decider = Decider::new(self.options.settings.clone(), image, self.world.instant());
        let mut active = Active {
            term,
            decider,
            next_offset: offset + 1,
            applied: offset,
            pending: VecDeque::new(),
            proposed: FuturesOrdered::new(),
        };
        tracing::info!(term, offset, "this is the active controller");
        let (cluster_id, controllers) = (self.options.cluster_id.clone(), self.options.controllers.clone());
        // Once the quorum has a log it says nothing any more, and need not be kept.
        let bootstrap = self.options.bootstrap.take_if(|_| !active.decider.image().cluster_id().is_empty());
        drop(bootstrap);
        let bootstrap = self.options.bootstrap.clone();
        let decision = self.with(&mut active, |decider, context| {
            decider.begin(context, &cluster_id, &controllers, bootstrap.as_ref())
        });
        let Decision { records, response, offset, events } = decision;
        response?;
        self.commit(&mut active, Decided { records, offset, events, answer: Box::new(|_| ()) }).await?;
        Ok(Some(active))
    }

    /// Runs one decision.
    fn with<R>(&mut self, active: &mut Active, decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> R) -> R {
        let mut context = Context { now: self.world.now(), next_offset: active.next_offset, rng: &mut self.rng };
        decide(&mut active.decider, &mut context)
    }

    async fn tick(&mut self, active: &mut Active) -> Result<(), Fatal> {
        let Decision { records, offset, events, .. } = self.with(active, |decider, context| decider.tick(context));
        self.commit(active, Decided { records, offset, events, answer: Box::new(|_| ()) }).await
    }

    async fn decide(&mut self, active: &mut Active, decide: Decide) -> Result<(), Fatal> {
        let decided = self.with(active, decide);
        self.commit(active, decided).await
    }

    /// Proposes what was decided, and remembers whom to tell.
    async fn commit(&mut self, active: &mut Active, decided: Decided) -> Result<(), Fatal> {
        for event in &decided.events {
            if event.is_error() {
                tracing::error!("{event}");
            } else {
                tracing::info!("{event}");
            }
        }
        if !decided.records.is_empty() {
            let mut batch = batch::new(decided.records, self.world.timestamp());
            batch.offset = active.next_offset;
            let bytes = batch::encode(&batch);
            let (responder, result) = ProgressResponder::complete_only();
            let proposal = self.node.raft.write(EncodedBatch(Bytes::from(bytes))).responder(responder);
            if proposal.with_leader(CommittedLeaderId::new(active.term)).await.is_err() {
                (decided.answer)(Err(not_active(&self.node.raft)));
                return Err(self.raft_stopped());
            }
            active.proposed.push_back(Box::pin(async move {
                match result.await {
                    Ok(Ok(written)) => {
                        let written: openraft::raft::ClientWriteResponse<TypeConfig> = written;
                        Ok(written.data.offset)
                    }
                    Ok(Err(_)) | Err(_) => Err(()),
                }
            }));
            active.next_offset += 1;
        }
        active.pending.push_back((decided.offset, decided.answer));
        active.answer_applied();
        Ok(())
    }

    fn proposal_done(&mut self, active: &mut Option<Active>, proposed: Result<i64, ()>) -> Result<(), Fatal> {
        match (active.as_mut(), proposed) {
            (Some(active), Ok(offset)) => {
                let expected = active.applied + 1;
                if offset != expected {
                    return Err(Fatal::OffsetMismatch { expected, found: offset });
                }
                active.applied = offset;
                active.answer_applied();
            }
            // The term has ended, or is about to; or it goes on, and a majority has not been heard for a while.
            (Some(_), Err(())) => {
                if let Some(former) = active.take() {
                    tracing::info!(term = former.term, "this controller is no longer the active one");
                    self.unsettled.push(former.refuse_all(&self.node.raft));
                }
            }
            (None, _) => {}
        }
        Ok(())
    }
}

/// The next proposal that is done; never, when none is under way.
async fn next_proposed(active: &mut Option<Active>) -> Option<Result<i64, ()>> {
    match active {
        Some(active) if !active.proposed.is_empty() => active.proposed.next().await,
        _ => std::future::pending().await,
    }
}
