//! `odradek_node::World` for one simulated node: turmoil's sockets, the host's paused clock, seeded randomness, tasks on
//! the host's runtime, disk work after a while, and a file system in memory that outlives a crash.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use odradek_common::fs::{File, Fs};
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_node::world::{
    BoxFuture, Clock, DiskPool, Entropy, Listener, Net, Socket, SocketWriter, Spawn, TaskHandle, World,
};
use tokio::io::AsyncWrite;
use turmoil::net::tcp::OwnedWriteHalf;
use turmoil::net::{TcpListener, TcpStream};

/// 2026-01-01T00:00:00Z, when every simulation begins.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// What of a node outlives its crash, and what the faults turn.
pub struct NodeWorld {
    pub fs: Arc<dyn Fs>,
    /// Added to the node's wall clock.
    pub wall_skew_ms: AtomicI64,
    seed: u64,
    boots: AtomicU64,
    /// The first panic of any task of any node: the simulation has failed.
    failure: Arc<Mutex<Option<String>>>,
}

impl NodeWorld {
    pub fn new(fs: Arc<dyn Fs>, seed: u64, failure: Arc<Mutex<Option<String>>>) -> Arc<Self> {
        Arc::new(Self { fs, wall_skew_ms: AtomicI64::new(0), seed, boots: AtomicU64::new(0), failure })
    }

    /// The world of one life of the node. Called inside its host.
    pub fn boot(self: &Arc<Self>) -> World {
        let boot = self.boots.fetch_add(1, Ordering::Relaxed);
        let rng = SplitMix64::new(self.seed ^ (boot + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let disk_rng = SplitMix64::new(self.seed ^ (boot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        World {
            net: Arc::new(SimNet),
            clock: Arc::new(SimClock { start: tokio::time::Instant::now(), node: self.clone() }),
            entropy: Arc::new(SimEntropy(Mutex::new(rng))),
            tasks: Arc::new(SimSpawn { failure: self.failure.clone() }),
            disk: Arc::new(SimDiskPool {
                tasks: SimSpawn { failure: self.failure.clone() },
                rng: Mutex::new(disk_rng),
            }),
            fs: self.fs.clone(),
        }
    }
}

struct SimNet;

struct SimListener(TcpListener);

impl Net for SimNet {
    fn bind(&self, _host: &str, port: u16) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(&self, host: &str, port: u16) -> BoxFuture<io::Result<Socket>> {
        let host = host.to_owned();
        Box::pin(async move { socket(TcpStream::connect((host.as_str(), port)).await?) })
    }
}

impl Listener for SimListener {
    fn accept(&self) -> Pin<Box<dyn Future<Output = io::Result<Socket>> + Send + '_>> {
        Box::pin(async move { socket(self.0.accept().await?.0) })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn socket(stream: TcpStream) -> io::Result<Socket> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let (reader, writer) = stream.into_split();
    Ok(Socket {
        reader: Box::new(reader),
        writer: Box::new(SimWriter { half: writer, chunk: Vec::new() }),
        peer,
        local,
    })
}

struct SimWriter {
    half: OwnedWriteHalf,
    chunk: Vec<u8>,
}

impl AsyncWrite for SimWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.half).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}

impl SocketWriter for SimWriter {
    fn poll_send_file(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        file: &dyn File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        // The range is read again when the socket was full: files change under a reader only by truncation, and then
        // the shorter answer is the truth.
        let this = &mut *self;
        this.chunk.resize(len.min(64 * 1024), 0);
        let read = match file.read_at(&mut this.chunk, offset) {
            Ok(0) => return Poll::Ready(Ok(0)),
            Ok(read) => read,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let Some(bytes) = this.chunk.get(..read) else { return Poll::Ready(Ok(0)) };
        Pin::new(&mut this.half).poll_write(cx, bytes)
    }
}

struct SimClock {
    start: tokio::time::Instant,
    node: Arc<NodeWorld>,
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        let since_start = tokio::time::Instant::now() - self.start;
        let since_epoch = turmoil::sim_elapsed().unwrap_or_default();
        let wall = EPOCH_MS + since_epoch.as_millis() as i64 + self.node.wall_skew_ms.load(Ordering::Relaxed);
        Now { instant: Instant(since_start.as_nanos() as u64), wall: Timestamp(wall) }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        let nanos = deadline.0.min(100 * 365 * 86_400 * 1_000_000_000);
        Box::pin(tokio::time::sleep_until(self.start + Duration::from_nanos(nanos)))
    }
}

struct SimEntropy(Mutex<SplitMix64>);

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().expect("no holder panics").next_u64()
    }
}

struct SimSpawn {
    failure: Arc<Mutex<Option<String>>>,
}

impl Spawn for SimSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let failure = self.failure.clone();
        let guarded = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                failure.lock().expect("no holder panics").get_or_insert(format!("task `{name}` panicked: {text}"));
            }
        };
        // None: this is said while the host crashes, and nothing runs there any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return TaskHandle::new(|| ()) };
        let handle = runtime.spawn(guarded).abort_handle();
        TaskHandle::new(move || handle.abort())
    }

    fn spawn_isolated(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        self.spawn(name, task)
    }
}

/// Disks take their time, so that a crash comes upon work that has not begun.
struct SimDiskPool {
    tasks: SimSpawn,
    rng: Mutex<SplitMix64>,
}

const DISK_MICROS_MAX: u64 = 2_000;

impl DiskPool for SimDiskPool {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        let took = Duration::from_micros(self.rng.lock().expect("no holder panics").below(DISK_MICROS_MAX));
        self.tasks.spawn(
            "disk work",
            Box::pin(async move {
                tokio::time::sleep(took).await;
                work();
            }),
        );
    }
}
