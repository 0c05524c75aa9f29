//! `odradek_node::World` for one simulated node: turmoil's sockets, the host's paused clock, seeded randomness, tasks on
//! the host's runtime, disk work after a while, and a file system in memory that outlives a crash.
//!
//! A node can be paused ([`Gate`]): its tasks, its disk work and its sockets stand still, and its timers fire late. What
//! libraries spawn for themselves (openraft's tasks, hyper's connections) is not stopped, but cut off: it sees time pass
//! and reaches no socket, no disk and no task of the node until the node goes on.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use odradek_common::fs::{File, Fs};
use odradek_common::rng::{Rng, SplitMix64};
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_node::world::{
    BoxFuture, Clock, DiskPool, Entropy, Listener, Net, Socket, SocketWriter, Spawn, TaskHandle, World,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

/// 2026-01-01T00:00:00Z, when every simulation begins.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// Where everything of a paused node waits.
#[derive(Default)]
pub struct Gate {
    is_shut: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.is_shut.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("no holder panics"));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready when the node is not paused; whoever asks is woken when it goes on.
    fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_shut.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock().expect("no holder panics");
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The future, of which nothing happens while the node is paused.
    pub async fn pass<T>(self: Arc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match self.poll_open(cx) {
            Poll::Ready(()) => future.as_mut().poll(cx),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

/// What of a node outlives its crash, and what the faults turn.
pub struct NodeWorld {
    pub fs: Arc<dyn Fs>,
    /// Added to the node's wall clock.
    pub wall_skew_ms: AtomicI64,
    /// By how many millionths the node's clocks are too fast, from its next start on.
    pub drift_ppm: AtomicI64,
    /// Disk work takes between so long and twice so long more than usual, in microseconds.
    pub disk_delay_micros: AtomicU64,
    pub gate: Arc<Gate>,
    seed: u64,
    boots: AtomicU64,
    /// The first panic of any task of any node: the simulation has failed.
    failure: Arc<Mutex<Option<String>>>,
}

impl NodeWorld {
    pub fn new(fs: Arc<dyn Fs>, seed: u64, failure: Arc<Mutex<Option<String>>>) -> Arc<Self> {
        Arc::new(Self {
            fs,
            wall_skew_ms: AtomicI64::new(0),
            drift_ppm: AtomicI64::new(0),
            disk_delay_micros: AtomicU64::new(0),
            gate: Arc::default(),
            seed,
            boots: AtomicU64::new(0),
            failure,
        })
    }

    /// The world of one life of the node. Called inside its host.
    pub fn boot(self: &Arc<Self>) -> World {
        let boot = self.boots.fetch_add(1, Ordering::Relaxed);
        let rng = SplitMix64::new(self.seed ^ (boot + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let disk_rng = SplitMix64::new(self.seed ^ (boot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let gate = self.gate.clone();
        let drift_ppm = self.drift_ppm.load(Ordering::Relaxed);
        World {
            net: Arc::new(SimNet { gate: gate.clone() }),
            clock: Arc::new(SimClock { start: tokio::time::Instant::now(), drift_ppm, node: self.clone() }),
            entropy: Arc::new(SimEntropy(Mutex::new(rng))),
            tasks: Arc::new(SimSpawn { failure: self.failure.clone(), gate: gate.clone() }),
            disk: Arc::new(SimDiskPool {
                tasks: SimSpawn { failure: self.failure.clone(), gate },
                rng: Mutex::new(disk_rng),
                node: self.clone(),
            }),
            fs: self.fs.clone(),
        }
    }
}

struct SimNet {
    gate: Arc<Gate>,
}

struct SimListener {
    listener: TcpListener,
    gate: Arc<Gate>,
}

impl Net for SimNet {
    fn bind(&self, _host: &str, port: u16) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let gate = self.gate.clone();
        Box::pin(async move {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            Ok(Box::new(SimListener { listener, gate }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, host: &str, port: u16) -> BoxFuture<io::Result<Socket>> {
        let (host, gate) = (host.to_owned(), self.gate.clone());
        Box::pin(async move {
            let stream = gate.clone().pass(TcpStream::connect((host.as_str(), port))).await?;
            socket(stream, gate)
        })
    }
}

impl Listener for SimListener {
    fn accept(&self) -> Pin<Box<dyn Future<Output = io::Result<Socket>> + Send + '_>> {
        Box::pin(async move {
            let (stream, _) = self.gate.clone().pass(self.listener.accept()).await?;
            socket(stream, self.gate.clone())
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn socket(stream: TcpStream, gate: Arc<Gate>) -> io::Result<Socket> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let (reader, writer) = stream.into_split();
    Ok(Socket {
        reader: Box::new(SimReader { half: reader, gate: gate.clone() }),
        writer: Box::new(SimWriter { half: writer, chunk: Vec::new(), gate }),
        peer,
        local,
    })
}

struct SimReader {
    half: OwnedReadHalf,
    gate: Arc<Gate>,
}

impl AsyncRead for SimReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.half).poll_read(cx, buffer)
    }
}

struct SimWriter {
    half: OwnedWriteHalf,
    chunk: Vec<u8>,
    gate: Arc<Gate>,
}

impl AsyncWrite for SimWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(crate::stall::poll(self.half.local_addr()?.ip(), self.half.peer_addr()?.ip(), cx));
        std::task::ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.half).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll_open(cx));
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll_open(cx));
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
        std::task::ready!(self.gate.poll_open(cx));
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
    /// Fixed for a life of the node, so that no timer that runs already has to move.
    drift_ppm: i64,
    node: Arc<NodeWorld>,
}

const MILLION: i128 = 1_000_000;

impl SimClock {
    /// What this clock shows for so many nanoseconds of true time.
    fn shown(&self, nanos: u128) -> u64 {
        (nanos as i128 * (MILLION + i128::from(self.drift_ppm)) / MILLION) as u64
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        let since_start = tokio::time::Instant::now() - self.start;
        let since_epoch = turmoil::sim_elapsed().unwrap_or_default();
        let drift_ms = (self.shown(since_start.as_nanos()) as i64 - since_start.as_nanos() as i64) / 1_000_000;
        let skew_ms = self.node.wall_skew_ms.load(Ordering::Relaxed) + drift_ms;
        let wall = EPOCH_MS + since_epoch.as_millis() as i64 + skew_ms;
        Now { instant: Instant(self.shown(since_start.as_nanos())), wall: Timestamp(wall) }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        let nanos = deadline.0.min(100 * 365 * 86_400 * 1_000_000_000);
        let rate = MILLION + i128::from(self.drift_ppm);
        // Rounded up: a timer never fires before its time.
        let nanos = (i128::from(nanos) * MILLION + rate - 1) / rate;
        Box::pin(tokio::time::sleep_until(self.start + Duration::from_nanos(nanos as u64)))
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
    gate: Arc<Gate>,
}

impl Spawn for SimSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let failure = self.failure.clone();
        let task = self.gate.clone().pass(task);
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
    node: Arc<NodeWorld>,
}

const DISK_MICROS_MAX: u64 = 2_000;

impl DiskPool for SimDiskPool {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        let delay = self.node.disk_delay_micros.load(Ordering::Relaxed);
        let most = if delay > 0 { delay } else { DISK_MICROS_MAX };
        let took = Duration::from_micros(delay + self.rng.lock().expect("no holder panics").below(most));
        self.tasks.spawn(
            "disk work",
            Box::pin(async move {
                tokio::time::sleep(took).await;
                work();
            }),
        );
    }
}
