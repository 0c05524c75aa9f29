//! Whether a broker's process is still there once its liveness stream has ended.
//!
//! A lost connection alone does not tell a dead process from a network that dropped one connection, so the broker would
//! be given time to come back. A process that dies takes its listening socket with it, and the system it ran on refuses
//! connections to that port from then on: that tells them apart in a millisecond. It counts only where the same port
//! accepted a connection while the stream was there, for the address that a broker advertises need not be one that
//! controllers can reach.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use odradek_common::BrokerId;
use odradek_controller_core::StreamId;
use odradek_node::World;

use crate::decider::DeciderHandle;
use crate::raft::view::MetadataView;

/// For one connection. A machine that is gone answers nothing.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// Between two attempts after the end of a stream: a process closes its sockets one after the other, and accepts until
/// its turn comes to the listening one. Doubles up to the last pause; then the usual grace has passed.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// One broker's port, for the time of one stream.
pub struct Door {
    world: World,
    view: Arc<MetadataView>,
    accepted: Arc<AtomicBool>,
}

impl Door {
    pub fn new(world: World, view: Arc<MetadataView>) -> Self {
        Self { world, view, accepted: Arc::default() }
    }

    /// Finds out whether this controller can reach the broker's port at all.
    pub fn knock(&self, broker: BrokerId) {
        let Some((host, port)) = self.address(broker) else { return };
        let (world, accepted) = (self.world.clone(), self.accepted.clone());
        self.world.spawn("knock", async move {
            if connect(&world, &host, port).await.is_ok() {
                accepted.store(true, Ordering::Relaxed);
            }
        });
    }

    /// The stream has ended: tells the decider when the port refuses connections.
    pub fn watch(&self, decider: DeciderHandle, broker: BrokerId, stream: StreamId) {
        if !self.accepted.load(Ordering::Relaxed) {
            return;
        }
        let Some((host, port)) = self.address(broker) else { return };
        let world = self.world.clone();
        self.world.spawn("watch a door", async move {
            let mut pause = PAUSE_MIN;
            while pause < PAUSE_MAX {
                if connect(&world, &host, port)
                    .await
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    decider.process_gone(broker, stream);
                    return;
                }
                world.sleep(pause).await;
                pause *= 2;
            }
        });
    }

    fn address(&self, broker: BrokerId) -> Option<(String, u16)> {
        let image = self.view.image();
        let endpoint = image.broker(broker)?.endpoints.first()?;
        Some((endpoint.host.clone(), endpoint.port))
    }
}

async fn connect(world: &World, host: &str, port: u16) -> io::Result<()> {
    world.timeout(CONNECT_PATIENCE, world.net.connect(host, port)).await?.map(drop)
}
