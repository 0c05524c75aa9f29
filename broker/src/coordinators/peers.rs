//! Requests to other brokers, over one connection each. Requests to one broker do not wait for each other's answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use odradek_common::BrokerId;
use odradek_metadata::Endpoint;
use odradek_node::connection::{Answers, Requests, decode_answer};
use odradek_node::{Connection, World};
use odradek_wire::Request;
use tokio::sync::{mpsc, oneshot};

use crate::metadata::MetadataCache;

/// The brokers of the cluster, as clients of their inter-broker listener. A connection is made when it is first of use.
pub struct Peers {
    world: World,
    cache: MetadataCache,
    listener: String,
    client_id: String,
    peers: Mutex<BTreeMap<BrokerId, Arc<Peer>>>,
}

#[derive(Default)]
struct Peer {
    /// Held while a connection is made or a request is sent.
    link: tokio::sync::Mutex<Option<Link>>,
}

/// An open connection.
struct Link {
    endpoint: Endpoint,
    requests: Requests,
    /// Who waits, in the order of the requests.
    waiting: mpsc::UnboundedSender<oneshot::Sender<io::Result<Bytes>>>,
    has_ended: Arc<AtomicBool>,
}

impl Peers {
    pub fn new(world: World, cache: MetadataCache, listener: String, local: BrokerId) -> Self {
        let client_id = format!("broker-{local}-coordinators");
        Self { world, cache, listener, client_id, peers: Mutex::default() }
    }

    /// Sends a request and waits for its answer, for at most `patience` in all.
    pub async fn call<R: Request>(
        &self,
        broker: BrokerId,
        version: i16,
        request: &R,
        patience: Duration,
    ) -> io::Result<R::Response> {
        let peer = {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.entry(broker).or_default().clone()
        };
        let mut ended = None;
        let call = async {
            let (correlation_id, answer) = {
                let mut slot = peer.link.lock().await;
                // Taken out while it is used: whoever is dropped meanwhile leaves no half of a request in it.
                let mut link = self.link(slot.take(), broker, patience).await?;
                ended = Some(link.has_ended.clone());
                let (sender, receiver) = oneshot::channel();
                let correlation_id = link.requests.send(version, request).await?;
                if link.waiting.send(sender).is_err() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                *slot = Some(link);
                (correlation_id, receiver)
            };
            let frame = answer.await.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))?;
            decode_answer::<R>(frame, version, correlation_id)
        };
        let answered = self.world.timeout(patience, call).await;
        answered.unwrap_or_else(|_| {
            // What came too late once is not waited for by the next.
            if let Some(ended) = ended {
                ended.store(true, Ordering::Relaxed);
            }
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    /// A connection to where the broker is now: the one at hand, or a new one.
    async fn link(&self, link: Option<Link>, broker: BrokerId, patience: Duration) -> io::Result<Link> {
        let image = self.cache.image();
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("broker {broker} is not alive"));
        let endpoint = image.endpoint(broker, &self.listener).cloned().ok_or_else(unknown)?;
        let is_usable = |link: &Link| !link.has_ended.load(Ordering::Relaxed) && link.endpoint == endpoint;
        if let Some(link) = link.filter(is_usable) {
            return Ok(link);
        }
        let connection =
            Connection::open(&self.world, &endpoint.host, endpoint.port, &self.client_id, patience).await?;
        let (requests, answers) = connection.split();
        let (waiting, to_answer) = mpsc::unbounded_channel();
        let has_ended = Arc::new(AtomicBool::new(false));
        self.world.spawn("answers of a broker", receive(answers, to_answer, has_ended.clone()));
        Ok(Link { endpoint, requests, waiting, has_ended })
    }
}

/// Hands answers to those who wait, until the link is dropped or the connection ends.
async fn receive(
    mut answers: Answers,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<io::Result<Bytes>>>,
    has_ended: Arc<AtomicBool>,
) {
    while let Some(next) = waiting.recv().await {
        let answer = answers.receive_frame().await;
        let is_over = answer.is_err();
        // Whoever has gone does not care.
        let _ = next.send(answer);
        if is_over {
            break;
        }
    }
    has_ended.store(true, Ordering::Relaxed);
}
