//! The stream that tells the active controller that this process lives (KIP-631's heartbeats, pushed).
//!
//! It runs on a thread of its own that touches no disk, so that a broker under load is not taken for a dead one. Its end
//! is how a controller learns of a crash at once, so it is opened again at once when it breaks, at whichever controller
//! is active by then.

use std::sync::Arc;
use std::time::Duration;

use odradek_common::config::HostPort;
use odradek_common::rng::Rng;
use odradek_common::time::Instant;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, Uuid};
use odradek_node::world::TaskHandle;
use odradek_node::{World, grpc};
use odradek_proto::broker::broker_service_client::BrokerServiceClient;
use odradek_proto::broker::{LivenessRequest, LivenessResponse};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::metadata::{ActiveController, MetadataCache};

/// The pace of messages, if `broker.heartbeat.interval.ms` is not shorter.
const INTERVAL_MAX: Duration = Duration::from_millis(400);

/// News (a metadata offset that was reached, the wish to shut down) goes out no sooner after the last message than this.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// A controller that answers nothing for so long is left for another.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A stream that does not open in this time is tried elsewhere.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two attempts while no controller is active; doubled up to the second value, with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Messages that wait for the stream; a slow stream only delays the next one.
const OUTBOX: usize = 2;

/// What the active controller thinks of this broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LifeStatus {
    pub is_caught_up: bool,
    pub is_fenced: bool,
    pub should_shut_down: bool,
    /// Set once: this incarnation must end.
    pub replaced: Option<String>,
}

impl Default for LifeStatus {
    fn default() -> Self {
        Self { is_caught_up: false, is_fenced: true, should_shut_down: false, replaced: None }
    }
}

/// The running stream.
pub struct Liveness {
    status: watch::Receiver<LifeStatus>,
    wish: Arc<watch::Sender<Wish>>,
    task: TaskHandle,
}

/// What the broker asks for with its next message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wish {
    shutdown: bool,
    offline_log_dirs: Vec<Uuid>,
}

/// Who lives.
#[derive(Clone, Copy, Debug)]
pub struct Incarnation {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub incarnation: Uuid,
}

impl Liveness {
    /// `stale` is notified when the active controller fell silent: whoever listens to it otherwise should look elsewhere.
    pub fn start(
        world: &World,
        active: ActiveController,
        incarnation: Incarnation,
        heartbeat_interval: Duration,
        cache: &MetadataCache,
        stale: Arc<Notify>,
    ) -> Self {
        let (status_sender, status) = watch::channel(LifeStatus::default());
        let wish = Arc::new(watch::Sender::new(Wish::default()));
        let stream = Stream {
            world: world.clone(),
            active,
            incarnation,
            interval: heartbeat_interval.min(INTERVAL_MAX),
            published: cache.subscribe_published(),
            wish: wish.subscribe(),
            status: status_sender,
            stale,
        };
        let task = world.spawn_isolated("liveness", stream.run());
        Self { status, wish, task }
    }

    pub fn status(&self) -> watch::Receiver<LifeStatus> {
        self.status.clone()
    }

    /// From now on the controller is asked to move leaders away and to let this broker go.
    pub fn ask_for_shutdown(&self) {
        self.wish.send_modify(|wish| wish.shutdown = true);
    }

    pub fn set_offline_log_dirs(&self, directories: Vec<Uuid>) {
        self.wish.send_if_modified(|wish| {
            let changed = wish.offline_log_dirs != directories;
            wish.offline_log_dirs = directories;
            changed
        });
    }

    /// Ends the stream: the controller sees this broker go.
    pub fn stop(&self) {
        self.task.abort();
    }
}

struct Stream {
    world: World,
    active: ActiveController,
    incarnation: Incarnation,
    interval: Duration,
    published: watch::Receiver<i64>,
    wish: watch::Receiver<Wish>,
    status: watch::Sender<LifeStatus>,
    stale: Arc<Notify>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("{0}")]
    Status(#[from] Status),
    #[error("the controller closed the stream")]
    Closed,
    #[error("no stream within {OPEN_TIMEOUT:?}")]
    NotOpened,
    #[error("nothing was heard for {SILENCE_MAX:?}")]
    Silent,
    #[error("{code}: {message}")]
    Refused { code: ErrorCode, message: String },
}

impl Stream {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let controller = self.active.candidate();
            let opened_at = self.world.instant();
            let end = match self.serve(&controller).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            let at_once = match &end {
                StreamEnd::Refused { code: ErrorCode::StaleBrokerEpoch, message } => {
                    let message = message.clone();
                    self.status.send_modify(|status| status.replaced = Some(message));
                    return;
                }
                StreamEnd::Status(status) if status.code() == tonic::Code::FailedPrecondition => {
                    self.active.follow(&controller, status)
                }
                _ => {
                    self.active.clear(&controller);
                    false
                }
            };
            if matches!(end, StreamEnd::Silent) {
                self.stale.notify_one();
            }
            tracing::debug!(%controller, %end, "the liveness stream ended");
            if self.world.instant().saturating_since(opened_at) > SILENCE_MAX {
                tracing::info!(%controller, %end, "lost the active controller");
                pause = PAUSE_MIN;
            }
            if !at_once {
                let jitter = self.world.rng().below(pause.as_nanos() as u64);
                self.world.sleep(pause / 2 + Duration::from_nanos(jitter)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    async fn serve(&mut self, controller: &HostPort) -> Result<std::convert::Infallible, StreamEnd> {
        // A connection of its own, made on this thread's runtime.
        let channel = grpc::channel(&self.world, &controller.host, controller.port);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let _ = outbox.try_send(self.message());
        let mut client = BrokerServiceClient::new(channel);
        let opened = self.world.timeout(OPEN_TIMEOUT, client.liveness(ReceiverStream::new(messages))).await;
        let answers = opened.map_err(|_| StreamEnd::NotOpened)??.into_inner();
        self.exchange(controller, outbox, answers).await
    }

    async fn exchange(
        &mut self,
        controller: &HostPort,
        outbox: mpsc::Sender<LivenessRequest>,
        mut answers: Streaming<LivenessResponse>,
    ) -> Result<std::convert::Infallible, StreamEnd> {
        let mut sent_at = self.world.instant();
        let mut heard_at = sent_at;
        let mut news = false;
        loop {
            let next = sent_at + if news { INTERVAL_MIN } else { self.interval };
            let wake = self.world.clock.sleep_until(next.min(heard_at + SILENCE_MAX));
            let now: Instant;
            tokio::select! {
                biased;
                answer = answers.message() => {
                    let answer = answer?.ok_or(StreamEnd::Closed)?;
                    heard_at = self.world.instant();
                    self.take(controller, answer)?;
                    continue;
                }
                changed = self.wish.changed(), if !news => {
                    // The sender lives as long as the broker.
                    changed.map_err(|_| StreamEnd::Closed)?;
                    news = true;
                    continue;
                }
                changed = self.published.changed(), if !news => {
                    changed.map_err(|_| StreamEnd::Closed)?;
                    news = true;
                    continue;
                }
                () = wake => now = self.world.instant(),
            }
            if now.saturating_since(heard_at) >= SILENCE_MAX {
                return Err(StreamEnd::Silent);
            }
            if now >= next {
                // A full outbox says the same a little later.
                let _ = outbox.try_send(self.message());
                sent_at = now;
                news = false;
            }
        }
    }

    fn message(&mut self) -> LivenessRequest {
        let Incarnation { broker_id, broker_epoch, incarnation } = self.incarnation;
        let wish = self.wish.borrow_and_update();
        LivenessRequest {
            broker_id: broker_id.0,
            broker_epoch: broker_epoch.0,
            incarnation_id: incarnation.0.to_vec(),
            metadata_offset: *self.published.borrow_and_update(),
            want_fence: false,
            want_shutdown: wish.shutdown,
            offline_log_dirs: wish.offline_log_dirs.iter().map(|id| id.0.to_vec()).collect(),
        }
    }

    fn take(&self, controller: &HostPort, answer: LivenessResponse) -> Result<(), StreamEnd> {
        let code = i16::try_from(answer.error_code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code);
        if code.is_error() {
            return Err(StreamEnd::Refused { code, message: answer.error_message });
        }
        self.active.set(controller.clone());
        self.status.send_if_modified(|status| {
            let next = LifeStatus {
                is_caught_up: answer.is_caught_up,
                is_fenced: answer.is_fenced,
                should_shut_down: status.should_shut_down || answer.should_shut_down,
                replaced: None,
            };
            if *status == next {
                return false;
            }
            if status.is_fenced != next.is_fenced {
                let state = if next.is_fenced { "fenced" } else { "unfenced" };
                tracing::info!("this broker is {state}");
            }
            *status = next;
            true
        });
        Ok(())
    }
}
