//! Tells partitions of the ends of their transactions, wherever their leaders are, until each has taken its marker.
//!
//! Markers are queued by leader. A queue has a few requests under way and gathers what comes meanwhile, so that there are
//! many markers in a request when there is much to do and no delay when there is little. The same path writes to leaders
//! here, without a network. What fails is sent again, to whoever leads by then, for as long as its coordinator lives. Each marker
//! says which decision it is of and which leadership it is for, so that a copy which comes late is known ([`own`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use odradek_broker_core::transaction::{Markers, NamedPartition, TransactionRequest, TransactionShard};
use odradek_common::{BrokerId, ErrorCode, LeaderEpoch, PartitionIndex};
use odradek_node::World;
use odradek_wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use odradek_wire::write_txn_markers_response::WritableTxnMarkerResult;
use odradek_wire::{Str, WriteTxnMarkersRequest, own};
use tokio::sync::watch;

use super::driver::Driver;
use super::marker_writer::MarkerWriter;
use super::peers::Peers;
use crate::metadata::MetadataCache;
use crate::replica::Outcome;

const VERSION: i16 = 2;

/// Markers in one request.
const REQUEST_MARKERS_MAX: usize = 500;

/// Requests to one broker that are under way.
const IN_FLIGHT_MAX: usize = 4;

/// Before markers are sent again; it doubles up to the second value.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whoever leads answers when its followers have the marker; it gives up itself after `request.timeout.ms`.
const PATIENCE_BEYOND_TIMEOUT: Duration = Duration::from_secs(5);

/// One transaction's markers for partitions of one leader, or all of them.
#[derive(Clone)]
struct Task {
    coordinator: Weak<Driver<TransactionShard>>,
    epoch: LeaderEpoch,
    markers: Markers,
    partitions: Vec<NamedPartition>,
    /// Of each of them, as soon as it is known who leads it.
    leader_epochs: Vec<LeaderEpoch>,
    pause: Duration,
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    in_flight: usize,
}

/// Sends what [`TransactionCoordinators`](super::TransactionCoordinators) decide.
pub struct MarkerSender {
    world: World,
    local: BrokerId,
    cache: MetadataCache,
    writer: Arc<MarkerWriter>,
    peers: Arc<Peers>,
    /// `request.timeout.ms`.
    timeout: Duration,
    queues: Mutex<BTreeMap<BrokerId, Queue>>,
    has_stopped: watch::Sender<bool>,
}

/// Where a partition is.
enum Place {
    Led(BrokerId, LeaderEpoch),
    /// Nobody leads it at the moment, or can be reached.
    Nowhere,
    /// Deleted: there is nobody to tell.
    Gone,
}

impl MarkerSender {
    pub fn new(
        world: World,
        local: BrokerId,
        cache: MetadataCache,
        writer: Arc<MarkerWriter>,
        peers: Arc<Peers>,
        timeout: Duration,
    ) -> Self {
        Self {
            world,
            local,
            cache,
            writer,
            peers,
            timeout,
            queues: Mutex::default(),
            has_stopped: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all that is under way, at the end of the broker: the next coordinators send it.
    pub fn stop(&self) {
        self.has_stopped.send_replace(true);
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut has_stopped = self.has_stopped.subscribe();
        self.world.spawn("transaction markers", async move {
            tokio::select! {
                biased;
                _ = has_stopped.wait_for(|has_stopped| *has_stopped) => {}
                () = task => {}
            }
        });
    }

    /// Takes over the markers of a decision that the coordinator of `epoch` has committed.
    pub fn send(self: &Arc<Self>, coordinator: &Arc<Driver<TransactionShard>>, epoch: LeaderEpoch, markers: Markers) {
        let partitions: Vec<_> = markers.partitions.iter().cloned().collect();
        let coordinator = Arc::downgrade(coordinator);
        let task = Task { coordinator, epoch, markers, partitions, leader_epochs: Vec::new(), pause: PAUSE_MIN };
        if task.partitions.is_empty() {
            return self.marked(task, Vec::new());
        }
        self.queue(task);
    }

    fn place(&self, (topic, index): &NamedPartition) -> Place {
        let image = self.cache.image();
        let Some(topic) = image.topic_by_name(topic) else { return Place::Gone };
        let Some(registration) = topic.partition(PartitionIndex(*index)) else { return Place::Gone };
        let leader = registration.leader;
        let is_reachable = leader == self.local || image.is_alive(leader);
        if is_reachable { Place::Led(leader, registration.leader_epoch) } else { Place::Nowhere }
    }

    /// Sorts a task's partitions by where they are led.
    fn queue(self: &Arc<Self>, task: Task) {
        let mut by_leader = BTreeMap::<BrokerId, (Vec<_>, Vec<_>)>::new();
        let (mut gone, mut nowhere) = (Vec::new(), Vec::new());
        for partition in &task.partitions {
            match self.place(partition) {
                Place::Led(leader, epoch) => {
                    let (partitions, leader_epochs) = by_leader.entry(leader).or_default();
                    partitions.push(partition.clone());
                    leader_epochs.push(epoch);
                }
                Place::Nowhere => nowhere.push(partition.clone()),
                Place::Gone => gone.push(partition.clone()),
            }
        }
        if !gone.is_empty() {
            tracing::info!(id = &*task.markers.id, ?gone, "partitions of a transaction are gone; they get no marker");
            self.marked(task.clone(), gone);
        }
        if !nowhere.is_empty() {
            self.later(Task { partitions: nowhere, ..task.clone() });
        }
        for (leader, (partitions, leader_epochs)) in by_leader {
            let mut queues = self.lock();
            let queue = queues.entry(leader).or_default();
            queue.tasks.push(Task { partitions, leader_epochs, ..task.clone() });
            if queue.in_flight >= IN_FLIGHT_MAX {
                continue;
            }
            queue.in_flight += 1;
            drop(queues);
            self.run(self.clone().deliver(leader));
        }
    }

    /// Sends again after a pause, if the coordinator is still one.
    fn later(self: &Arc<Self>, task: Task) {
        let sender = self.clone();
        self.run(async move {
            sender.world.sleep(task.pause).await;
            let pause = (task.pause * 2).min(PAUSE_MAX);
            if task.coordinator.upgrade().is_some_and(|coordinator| !coordinator.has_ended()) {
                sender.queue(Task { pause, ..task });
            }
        });
    }

    /// Sends what is queued for a broker, until nothing is.
    async fn deliver(self: Arc<Self>, broker: BrokerId) {
        loop {
            let tasks: Vec<Task> = {
                let mut queues = self.lock();
                let queue = queues.entry(broker).or_default();
                let count = queue.tasks.len().min(REQUEST_MARKERS_MAX);
                if count == 0 {
                    queue.in_flight -= 1;
                    return;
                }
                queue.tasks.drain(..count).collect()
            };
            let markers = tasks.iter().map(wire_marker).collect::<Vec<_>>();
            let results = if broker == self.local {
                self.writer.write(&markers).await
            } else {
                let request = WriteTxnMarkersRequest { markers, ..WriteTxnMarkersRequest::default() };
                let patience = self.timeout + PATIENCE_BEYOND_TIMEOUT;
                match self.peers.call(broker, VERSION, &request, patience).await {
                    Ok(response) => response.markers,
                    Err(error) => {
                        tracing::info!(%broker, %error, "transaction markers are sent again");
                        Vec::new()
                    }
                }
            };
            for (n, task) in tasks.into_iter().enumerate() {
                self.settle(task, results.get(n));
            }
        }
    }

    /// What came of a task: a partition without a result is asked again.
    fn settle(self: &Arc<Self>, task: Task, result: Option<&WritableTxnMarkerResult>) {
        let result = result.filter(|result| result.producer_id == task.markers.producer.id.0);
        let error_of = |(topic, index): &NamedPartition| {
            let mut topics = result?.topics.iter().filter(|result| result.name == **topic);
            let partition = topics.find_map(|topic| topic.partitions.iter().find(|it| it.partition_index == *index))?;
            Some(ErrorCode::from_code(partition.error_code))
        };
        let (mut done, mut again) = (Vec::new(), Vec::new());
        for partition in &task.partitions {
            match error_of(partition) {
                Some(ErrorCode::None | ErrorCode::UnsupportedForMessageFormat) => done.push(partition.clone()),
                Some(error @ ErrorCode::InvalidProducerEpoch) => {
                    // A later epoch writes there already, so this transaction has ended there.
                    let (id, producer) = (&*task.markers.id, task.markers.producer);
                    tracing::warn!(id, ?producer, ?partition, %error, "a partition takes no marker");
                    done.push(partition.clone());
                }
                Some(ErrorCode::TransactionCoordinatorFenced) => {
                    tracing::info!(id = &*task.markers.id, ?partition, "another coordinator has taken over");
                }
                Some(error) => {
                    tracing::debug!(id = &*task.markers.id, ?partition, %error, "a marker is sent again");
                    again.push(partition.clone());
                }
                None => again.push(partition.clone()),
            }
        }
        if !again.is_empty() {
            self.later(Task { partitions: again, ..task.clone() });
        }
        if !done.is_empty() {
            self.marked(task, done);
        }
    }

    /// Tells the coordinator. What it could not write down is told again.
    fn marked(self: &Arc<Self>, task: Task, partitions: Vec<NamedPartition>) {
        let Some(coordinator) = task.coordinator.upgrade() else { return };
        let (id, producer) = (task.markers.id.clone(), task.markers.producer);
        let request = TransactionRequest::Marked { id, producer, partitions };
        match coordinator.request(request) {
            Outcome::Done(Err(ErrorCode::NotCoordinator)) => {}
            Outcome::Done(Err(error)) => {
                tracing::warn!(id = &*task.markers.id, %error, "the end of a transaction is written later");
                let sender = self.clone();
                self.run(async move {
                    sender.world.sleep(task.pause).await;
                    let pause = (task.pause * 2).min(PAUSE_MAX);
                    sender.marked(Task { pause, ..task }, Vec::new());
                });
            }
            // It is in the log; whether it is committed is the matter of whoever leads by then.
            Outcome::Done(Ok(_)) | Outcome::Waiting(_) => {}
        }
    }
}

fn wire_marker(task: &Task) -> WritableTxnMarker {
    let partitions: Vec<_> = task.partitions.iter().zip(&task.leader_epochs).collect();
    // They are in order of their topics.
    let topics = partitions.chunk_by(|((topic, _), _), ((next, _), _)| topic == next).filter_map(|partitions| {
        let ((topic, _), _) = partitions.first()?;
        let epochs = partitions.iter().map(|(_, epoch)| i64::from(epoch.0));
        Some(WritableTxnMarkerTopic {
            name: Str::from(&**topic),
            partition_indexes: partitions.iter().map(|((_, index), _)| *index).collect(),
            unknown_tagged_fields: vec![own::numbers_field(own::MARKER_LEADER_EPOCHS, epochs)],
        })
    });
    let topics = topics.collect();
    let markers = &task.markers;
    WritableTxnMarker {
        producer_id: markers.producer.id.0,
        producer_epoch: markers.producer.epoch.0,
        transaction_result: markers.is_commit,
        topics,
        coordinator_epoch: task.epoch.0,
        transaction_version: i8::try_from(markers.version.0).unwrap_or(i8::MAX),
        unknown_tagged_fields: vec![own::numbers_field(own::MARKER_DECISION, [markers.decided.0])],
    }
}
