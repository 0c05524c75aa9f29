//! Calls to the active controller: finds it, follows it when it changes, and gives up only at a deadline.
//!
//! Each known controller is asked in turn. One that is not active names the active one in the trailer
//! `odradek-leader: ID@HOST:PORT`; one that cannot be reached is passed over. Between rounds there is a short pause with
//! jitter, so that an election is neither missed by much nor hammered.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_common::config::{HostPort, Voter};
use odradek_common::rng::Rng;
use odradek_node::{World, grpc};
use odradek_proto::broker as proto;
use odradek_proto::broker::broker_service_client::BrokerServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// One attempt at one controller. A frozen controller is left after this.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts when no active controller is known; grows to the second value, with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A Forward carries a client's whole request or answer, as large as a frame may be.
const MESSAGE_BYTES_MAX: usize = 100 * 1024 * 1024;

/// The trailer in which a controller names the active one.
const LEADER_TRAILER: &str = "odradek-leader";

/// Why a call to the active controller came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    #[error("no active controller answered within {within:?}; the last one said: {last}")]
    TimedOut { within: Duration, last: String },
    #[error("the controller refused the call: {0}")]
    Refused(Status),
}

impl ControllerError {
    /// What a client is told whose request was passed on in vain.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TimedOut { .. } => ErrorCode::RequestTimedOut,
            Self::Refused(_) => ErrorCode::UnknownServerError,
        }
    }
}

/// Which controller is believed to be active, shared by all who talk to it.
#[derive(Clone, Debug)]
pub struct ActiveController {
    inner: Arc<Mutex<Active>>,
    /// How this broker reaches a controller, where its config says so: that goes before what controllers call each other.
    voters: Arc<[Voter]>,
}

#[derive(Debug)]
struct Active {
    /// Configured ones first, then those that trailers have named.
    known: Vec<HostPort>,
    active: Option<HostPort>,
    next: usize,
}

impl ActiveController {
    /// `controllers`: where to ask first. `start` spreads the brokers over them.
    pub fn new(controllers: Vec<HostPort>, voters: &[Voter], start: usize) -> Self {
        let inner = Active { known: controllers, active: None, next: start };
        Self { inner: Arc::new(Mutex::new(inner)), voters: voters.into() }
    }

    /// The active controller, or the next one to ask.
    pub fn candidate(&self) -> HostPort {
        let mut inner = self.lock();
        if let Some(active) = &inner.active {
            return active.clone();
        }
        let at = inner.next % inner.known.len().max(1);
        inner.next = at + 1;
        inner.known.get(at).cloned().unwrap_or_else(|| HostPort { host: "localhost".to_owned(), port: 0 })
    }

    pub fn set(&self, controller: HostPort) {
        let mut inner = self.lock();
        if !inner.known.contains(&controller) {
            inner.known.push(controller.clone());
        }
        inner.active = Some(controller);
    }

    /// `controller` did not answer as the active one: ask others.
    pub fn clear(&self, controller: &HostPort) {
        let mut inner = self.lock();
        if inner.active.as_ref() == Some(controller) {
            inner.active = None;
            inner.next = inner.known.iter().position(|known| known == controller).map_or(0, |at| at + 1);
        }
    }

    /// Takes the hint in a refusal. Whether it named another controller than `asked`, so that there is no need to wait.
    pub fn follow(&self, asked: &HostPort, status: &Status) -> bool {
        let named = status.metadata().get(LEADER_TRAILER).and_then(|value| value.to_str().ok());
        let named = named.and_then(|text| text.parse::<Voter>().ok()).map(|named| {
            let configured = self.voters.iter().find(|voter| voter.id == named.id);
            configured.map_or(named.address, |voter| voter.address.clone())
        });
        match named {
            Some(address) if address != *asked => {
                self.set(address);
                true
            }
            _ => {
                self.clear(asked);
                false
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Active> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct ControllerClient {
    world: World,
    active: ActiveController,
    channels: Arc<Mutex<BTreeMap<HostPort, Channel>>>,
}

impl ControllerClient {
    pub fn new(world: World, active: ActiveController) -> Self {
        Self { world, active, channels: Arc::default() }
    }

    pub async fn register(
        &self,
        request: proto::RegisterBrokerRequest,
        limit: Duration,
    ) -> Result<proto::RegisterBrokerResponse, ControllerError> {
        self.call(limit, |mut client| {
            let request = request.clone();
            async move { client.register_broker(request).await }
        })
        .await
    }

    pub async fn alter_partition(
        &self,
        request: proto::AlterPartitionRequest,
        limit: Duration,
    ) -> Result<proto::AlterPartitionResponse, ControllerError> {
        self.call(limit, |mut client| {
            let request = request.clone();
            async move { client.alter_partition(request).await }
        })
        .await
    }

    pub async fn assign_directories(
        &self,
        request: proto::AssignDirectoriesRequest,
        limit: Duration,
    ) -> Result<proto::AssignDirectoriesResponse, ControllerError> {
        self.call(limit, |mut client| {
            let request = request.clone();
            async move { client.assign_directories(request).await }
        })
        .await
    }

    pub async fn allocate_producer_ids(
        &self,
        request: proto::AllocateProducerIdsRequest,
        limit: Duration,
    ) -> Result<proto::AllocateProducerIdsResponse, ControllerError> {
        self.call(limit, |mut client| async move { client.allocate_producer_ids(request).await }).await
    }

    pub async fn forward(
        &self,
        request: proto::ForwardRequest,
        limit: Duration,
    ) -> Result<proto::ForwardResponse, ControllerError> {
        self.call(limit, |mut client| {
            let request = request.clone();
            async move { client.forward(request).await }
        })
        .await
    }

    /// A client for one controller, over a connection that is kept.
    pub fn client(&self, controller: &HostPort) -> BrokerServiceClient<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channels
            .entry(controller.clone())
            .or_insert_with(|| grpc::channel(&self.world, &controller.host, controller.port));
        BrokerServiceClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn active(&self) -> &ActiveController {
        &self.active
    }

    async fn call<T, F>(
        &self,
        limit: Duration,
        call: impl Fn(BrokerServiceClient<Channel>) -> F,
    ) -> Result<T, ControllerError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.world.instant() + limit;
        let mut pause = PAUSE_MIN;
        loop {
            let left = deadline.saturating_since(self.world.instant());
            let controller = self.active.candidate();
            let attempt = self.world.timeout(left.min(ATTEMPT_TIMEOUT), call(self.client(&controller)));
            let (last, at_once) = match attempt.await {
                Ok(Ok(response)) => {
                    self.active.set(controller);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => match status.code() {
                    Code::FailedPrecondition => (status.to_string(), self.active.follow(&controller, &status)),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Aborted => {
                        self.active.clear(&controller);
                        (format!("{controller}: {status}"), false)
                    }
                    _ => return Err(ControllerError::Refused(status)),
                },
                Err(elapsed) => {
                    self.active.clear(&controller);
                    (format!("{controller}: {elapsed}"), false)
                }
            };
            let now = self.world.instant();
            if now >= deadline {
                return Err(ControllerError::TimedOut { within: limit, last });
            }
            if !at_once {
                let jitter = self.world.rng().below(pause.as_nanos() as u64 / 2 + 1);
                let wait = pause / 2 + Duration::from_nanos(jitter);
                self.world.sleep(wait.min(deadline.saturating_since(now))).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(named: &str) -> Status {
        let mut status = Status::failed_precondition("not active");
        status.metadata_mut().insert(LEADER_TRAILER, named.parse().expect("ASCII"));
        status
    }

    #[test]
    fn a_named_controller_is_asked_at_its_configured_address() {
        let voters: Vec<Voter> = ["1@near:1", "2@near:2"].iter().map(|text| text.parse().expect("a voter")).collect();
        let addresses: Vec<HostPort> = voters.iter().map(|voter| voter.address.clone()).collect();
        let active = ActiveController::new(addresses.clone(), &voters, 0);
        let asked = active.candidate();
        assert_eq!(asked, addresses[0]);
        assert!(active.follow(&asked, &refusal("2@far:9")));
        assert_eq!(active.candidate(), addresses[1], "not what the controllers call each other");
        assert!(active.follow(&addresses[1], &refusal("3@far:3")));
        assert_eq!(active.candidate().to_string(), "far:3", "one that the config does not name");
        assert!(!active.follow(&active.candidate(), &refusal("3@far:3")), "it names itself: wait");
    }
}
