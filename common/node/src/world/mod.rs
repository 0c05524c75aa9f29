//! The outer world of a shell: network, clocks, randomness, tasks, a pool for blocking disk work, and files.
//!
//! In production it is `World::real()`. In a simulation each part is replaced, so that a whole cluster runs in one
//! thread from one seed. **Invariant:** no other module of a shell names `tokio::net`, `tokio::time`, `tokio::spawn`,
//! `spawn_blocking`, `std::fs`, `std::thread` or a clock. (`tokio::sync` and `tokio::select!` are pure and allowed.)

mod real;
mod socket;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::fs::Fs;
use odradek_common::rng::Rng;
use odradek_common::time::{Instant, Now, Timestamp};

pub use socket::{Socket, SocketReader, SocketWriter, send_file, send_vectored};

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Everything that a shell may touch. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub net: Arc<dyn Net>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub tasks: Arc<dyn Spawn>,
    pub disk: Arc<dyn DiskPool>,
    pub fs: Arc<dyn Fs>,
}

/// Stream sockets.
pub trait Net: Send + Sync {
    /// Listens on `host:port`; port 0 takes a free one.
    fn bind(&self, host: &str, port: u16) -> BoxFuture<io::Result<Box<dyn Listener>>>;
    /// As `bind`, where the system keeps so many connections that were not accepted yet.
    fn bind_with_backlog(&self, host: &str, port: u16, _backlog: u32) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        self.bind(host, port)
    }
    /// The addresses that a host's name stands for. An address stands for itself.
    fn resolve(&self, host: &str) -> BoxFuture<io::Result<Vec<IpAddr>>> {
        let known = host.parse().map(|address| vec![address]);
        Box::pin(async move { known.map_err(|_| io::ErrorKind::NotFound.into()) })
    }
    /// Connects, or fails after the operating system's own patience; wrap it in `World::timeout`.
    fn connect(&self, host: &str, port: u16) -> BoxFuture<io::Result<Socket>>;
}

/// A bound port.
pub trait Listener: Send + Sync {
    fn accept(&self) -> Pin<Box<dyn Future<Output = io::Result<Socket>> + Send + '_>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The clocks and timers of this node.
pub trait Clock: Send + Sync {
    fn now(&self) -> Now;
    /// Completes at or after `deadline`.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()>;
}

/// Random bits for ids, placement and jitter.
pub trait Entropy: Send + Sync {
    fn next_u64(&self) -> u64;
}

/// Tasks. A task that panics takes the process down (in production) or fails the simulation: half a node is worse than
/// none.
pub trait Spawn: Send + Sync {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle;
    /// Runs a task on an OS thread with a runtime of its own, so that no load elsewhere delays it. All that it spawns
    /// through `tokio` stays there. In a simulation: an ordinary task.
    fn spawn_isolated(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle;
}

/// Threads for work that may wait for a disk.
pub trait DiskPool: Send + Sync {
    fn execute(&self, work: Box<dyn FnOnce() + Send>);
}

/// Ends its task when asked to; a dropped handle lets the task run on.
pub struct TaskHandle {
    abort: Box<dyn Fn() + Send + Sync>,
}

impl TaskHandle {
    pub fn new(abort: impl Fn() + Send + Sync + 'static) -> Self {
        Self { abort: Box::new(abort) }
    }

    /// The task's future is dropped at its next wait.
    pub fn abort(&self) {
        (self.abort)();
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskHandle")
    }
}

/// A wait took longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(pub Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.0)
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

impl World {
    /// The operating system's. Must be made inside a tokio runtime, whose workers then run the tasks.
    pub fn real() -> Self {
        real::world()
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    pub fn instant(&self) -> Instant {
        self.clock.now().instant
    }

    pub fn timestamp(&self) -> Timestamp {
        self.clock.now().wall
    }

    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep_until(self.instant() + duration).await;
    }

    /// The future's output, or `Elapsed` when it takes longer than `duration`.
    pub async fn timeout<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        let limit = self.clock.sleep_until(self.instant() + duration);
        tokio::pin!(future);
        tokio::select! {
            biased;
            output = &mut future => Ok(output),
            () = limit => Err(Elapsed(duration)),
        }
    }

    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.tasks.spawn(name, Box::pin(task))
    }

    pub fn spawn_isolated(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.tasks.spawn_isolated(name, Box::pin(task))
    }

    /// Runs blocking work on the disk pool and waits for its result. Panics when the work panicked. Once the process ends,
    /// work that has not begun is dropped; whoever waits for it then waits for ever, as a task that ends with the process.
    pub async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.disk.execute(Box::new(move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        match receiver.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => std::future::pending().await,
        }
    }

    /// A generator seeded from this world's entropy.
    pub fn rng(&self) -> odradek_common::rng::SplitMix64 {
        odradek_common::rng::SplitMix64::new(self.entropy.next_u64())
    }

    /// A new random id.
    pub fn random_uuid(&self) -> odradek_common::Uuid {
        odradek_common::Uuid::from_random(EntropyRng(&*self.entropy).bytes16())
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

struct EntropyRng<'a>(&'a dyn Entropy);

impl Rng for EntropyRng<'_> {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}
