//! Sockets: listeners, connections, frames, and the memory that requests may take.
//!
//! It knows nothing of what a request means: a frame goes to `api::Api::handle` and a reply comes back. Bytes that come
//! in may be anything; the worst they can do is to close their own connection.

mod connection;
mod frame_reader;
mod limits;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use odradek_node::World;
use odradek_node::world::{Listener, TaskHandle};

use self::connection::{Connection, Ended};
use self::frame_reader::ReadError;
use self::limits::Connections;

use crate::api::{Api, Client};
use crate::memory::{AnswerMemory, RequestMemory};

/// After a failed accept (out of descriptors, mostly) the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A port that is bound and whose connections wait.
pub struct BoundListener {
    /// The listener's name, as `PLAINTEXT`.
    pub name: Arc<str>,
    pub port: u16,
    listener: Box<dyn Listener>,
}

/// Binds a port. Nothing is accepted before `Network::serve`, so clients wait rather than fail while a broker starts.
pub async fn bind(world: &World, name: &str, host: &str, port: u16, backlog: u32) -> io::Result<BoundListener> {
    let listener = world.net.bind_with_backlog(host, port, backlog).await?;
    let port = listener.local_addr()?.port();
    Ok(BoundListener { name: name.into(), port, listener })
}

/// The open listeners and connections.
pub struct Network {
    tasks: Vec<TaskHandle>,
    connections: Arc<Connections>,
}

impl Network {
    /// Starts to accept and to serve.
    pub fn serve(world: &World, api: &Arc<Api>, listeners: Vec<BoundListener>) -> Self {
        let config = &api.config.network;
        let names: Vec<Arc<str>> = listeners.iter().map(|listener| listener.name.clone()).collect();
        let connections = Connections::new(world.clone(), api.live.clone(), &names);
        let limits = world.spawn("connection limits", connections.clone().follow());
        let requests = RequestMemory::new(config.queued_request_bytes_max.unwrap_or(config.request_memory_bytes));
        let memory = (requests, AnswerMemory::new(config.request_memory_bytes));
        let acceptors = listeners.into_iter().map(|bound| {
            let (world, api) = (world.clone(), api.clone());
            let task = accept(world.clone(), api, memory.clone(), connections.clone(), bound);
            world.spawn("acceptor", task)
        });
        let tasks = acceptors.chain([limits]).collect();
        Self { tasks, connections }
    }

    /// Closes every listener and connection. Answers that were not sent are lost, as when the process ends.
    pub fn stop(&self) {
        self.tasks.iter().for_each(TaskHandle::abort);
        self.connections.stop();
    }
}

async fn accept(
    world: World,
    api: Arc<Api>,
    memory: (RequestMemory, AnswerMemory),
    connections: Arc<Connections>,
    bound: BoundListener,
) {
    loop {
        connections.has_room(&bound.name).await;
        let socket = match bound.listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(listener = %bound.name, %error, "a connection could not be accepted");
                world.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = socket.peer;
        let Some(slot) = connections.open(peer.ip(), &bound.name) else {
            tracing::debug!(%peer, "refused: its address has max.connections.per.ip connections");
            continue;
        };
        let client = Client::new(bound.name.clone(), peer);
        let connection =
            Connection::new(world.clone(), api.clone(), memory.clone(), client, slot.active.clone(), socket);
        let id = slot.id;
        let task = world.spawn("connection", async move {
            let _slot = slot;
            match connection.run().await {
                Ended::Read(ReadError::Frame(error)) => tracing::info!(%peer, %error, "closed a connection"),
                ended => tracing::debug!(%peer, %ended, "a connection ended"),
            }
        });
        connections.set_task(id, task);
    }
}
