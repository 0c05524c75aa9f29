//! Follows the metadata log over a stream from any controller: a snapshot when it is far behind, then deltas, resumed at
//! the next offset from another controller when one is lost.
//!
//! Nothing is published before the metadata holds this broker's own registration. Controllers that have just started know
//! only an early part of their log, if anything, as committed, and tell that part to whoever asks: a broker that acted on
//! it would take its own logs for strays of topics that are gone.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use odradek_common::config::HostPort;
use odradek_common::rng::Rng;
use odradek_common::{BrokerEpoch, BrokerId};
use odradek_metadata::{Delta, DeltaTracker, Image, ReplayError};
use odradek_node::World;
use odradek_proto::broker::metadata_update::Kind;
use odradek_proto::broker::{MetadataRequest, MetadataUpdate};
use odradek_proto::metadata::Record;
use tokio::sync::Notify;
use tonic::{Code, Status, Streaming};

use super::{ControllerClient, Publisher};

/// A controller that does not open the stream in this time is passed over.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after a stream that failed, with jitter; the next attempt is at another controller.
const PAUSE: Duration = Duration::from_millis(40);

/// Deltas that lie ready are published together, up to this many: a broker that catches up does not walk through every
/// old state.
const COALESCE_MAX: usize = 1000;

/// Runs for the life of the process.
pub struct Follower {
    world: World,
    client: ControllerClient,
    publisher: Arc<Publisher>,
    broker_id: BrokerId,
    cluster_id: String,
    tracker: DeltaTracker,
    /// The offset of this broker's registration, until metadata that reaches it was published.
    held_until: Option<i64>,
    /// The snapshot that is arriving.
    snapshot: Option<Image>,
    /// What was replayed cannot be built upon: ask for a snapshot.
    start_over: bool,
    /// Notified by whoever learns that this broker lags though its stream is open.
    stale: Arc<Notify>,
}

/// What a message led to.
enum Taken {
    Nothing,
    Replayed,
    StartedOver(Box<Delta>),
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("{0}")]
    Status(#[from] Status),
    #[error("the stream ended")]
    Closed,
    #[error("no stream within {OPEN_TIMEOUT:?}")]
    TimedOut,
    #[error("the records do not fit: {0}")]
    Replay(#[from] ReplayError),
    #[error("a gap: offset {got} came where {expected} was due")]
    Gap { expected: i64, got: i64 },
    #[error("this broker lags behind the active controller although the stream is open")]
    Stale,
}

impl Follower {
    /// `registered` is the epoch of this broker's registration: the metadata offset of the record.
    pub fn new(
        world: World,
        client: ControllerClient,
        publisher: Arc<Publisher>,
        broker_id: BrokerId,
        registered: BrokerEpoch,
        cluster_id: String,
        stale: Arc<Notify>,
    ) -> Self {
        Self {
            world,
            client,
            publisher,
            broker_id,
            cluster_id,
            tracker: DeltaTracker::default(),
            held_until: Some(registered.0),
            snapshot: None,
            start_over: false,
            stale,
        }
    }

    pub async fn run(mut self) {
        let mut last_failed: Option<HostPort> = None;
        loop {
            let mut controller = self.client.active().candidate();
            if last_failed.as_ref() == Some(&controller) {
                // It failed just now; if it is the only one, it comes round again.
                self.client.active().clear(&controller);
                controller = self.client.active().candidate();
            }
            let end = match self.follow(&controller).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            if let StreamEnd::Replay(_) = end {
                // Whatever led here, a snapshot sets it right.
                tracing::error!(%controller, %end, "the metadata stream is unusable; starting over from a snapshot");
                self.start_over = true;
            } else if let StreamEnd::Status(status) = &end
                && status.code() == Code::FailedPrecondition
            {
                tracing::error!(%controller, %end, "a controller refuses its metadata");
            } else {
                tracing::info!(%controller, %end, "the metadata stream ended; trying the next controller");
            }
            self.snapshot = None;
            last_failed = Some(controller);
            let jitter = self.world.rng().below(PAUSE.as_nanos() as u64);
            self.world.sleep(PAUSE / 2 + Duration::from_nanos(jitter)).await;
        }
    }

    async fn follow(&mut self, controller: &HostPort) -> Result<std::convert::Infallible, StreamEnd> {
        let next_offset = if self.start_over { 0 } else { self.tracker.image().offset() + 1 };
        let request = MetadataRequest { broker_id: self.broker_id.0, cluster_id: self.cluster_id.clone(), next_offset };
        let mut client = self.client.client(controller);
        let opened = self.world.timeout(OPEN_TIMEOUT, client.metadata(request)).await;
        let mut stream = opened.map_err(|_| StreamEnd::TimedOut)??.into_inner();
        tracing::debug!(%controller, next_offset, "following the metadata");
        let stale = self.stale.clone();
        loop {
            let mut update = tokio::select! {
                biased;
                update = stream.message() => update?.ok_or(StreamEnd::Closed)?,
                () = stale.notified() => return Err(StreamEnd::Stale),
            };
            let mut replayed = false;
            for _ in 0..COALESCE_MAX {
                match self.take(update)? {
                    Taken::Nothing => {}
                    Taken::Replayed => replayed = true,
                    // The first publication tells all that there is.
                    Taken::StartedOver(_) if self.held_until.is_some() => replayed = true,
                    Taken::StartedOver(delta) => {
                        self.publisher.publish(*delta).await;
                        replayed = false;
                    }
                }
                update = match ready(&mut stream) {
                    Some(update) => update,
                    None => break,
                };
            }
            if replayed && let Some(delta) = self.due() {
                self.publisher.publish(delta).await;
            }
        }
    }

    /// What was replayed and is to be published; nothing while the metadata lacks this broker's registration.
    fn due(&mut self) -> Option<Delta> {
        let Some(registered) = self.held_until else { return Some(self.tracker.publish()) };
        let image = self.tracker.image();
        if image.offset() < registered {
            return None;
        }
        self.held_until = None;
        let delta = Delta::between(&Image::default(), image);
        self.tracker = DeltaTracker::new(delta.after.clone());
        Some(delta)
    }

    /// Replays one message.
    fn take(&mut self, update: MetadataUpdate) -> Result<Taken, StreamEnd> {
        match update.kind {
            None => Ok(Taken::Nothing),
            Some(Kind::Delta(delta)) => {
                let expected = self.tracker.image().offset() + 1;
                if self.start_over || delta.offset > expected {
                    return Err(StreamEnd::Gap { expected, got: delta.offset });
                }
                if delta.offset < expected {
                    return Ok(Taken::Nothing);
                }
                self.tracker.apply_records(&delta.records, delta.offset)?;
                Ok(Taken::Replayed)
            }
            Some(Kind::Snapshot(chunk)) => {
                let mut image = self.snapshot.take().unwrap_or_default();
                replay_all(&mut image, &chunk.records, chunk.last_offset)?;
                if !chunk.is_last {
                    self.snapshot = Some(image);
                    return Ok(Taken::Nothing);
                }
                image.set_offset(chunk.last_offset);
                if !self.start_over && image.offset() < self.tracker.image().offset() {
                    // From a controller that knows less than this broker: it would turn back time.
                    return Ok(Taken::Nothing);
                }
                self.start_over = false;
                Ok(Taken::StartedOver(Box::new(self.tracker.reset(image))))
            }
        }
    }
}

fn replay_all(image: &mut Image, records: &[Record], offset: i64) -> Result<(), ReplayError> {
    records.iter().try_for_each(|record| image.replay(record, offset))
}

/// The next message if it is there already. The end of the stream shows at the next wait.
fn ready(stream: &mut Streaming<MetadataUpdate>) -> Option<MetadataUpdate> {
    stream.message().now_or_never()?.ok()?
}
