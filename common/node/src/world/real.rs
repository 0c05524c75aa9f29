//! The operating system's world: tokio's sockets and timers, the kernel's clocks and randomness, real files.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use odradek_common::fs::{File, RealFs};
use odradek_common::time::{Instant, Now, Timestamp};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::{BoxFuture, Clock, DiskPool, Entropy, Listener, Net, Socket, SocketWriter, Spawn, TaskHandle, World};

pub(super) fn world() -> World {
    let runtime = tokio::runtime::Handle::current();
    World {
        net: Arc::new(RealNet),
        clock: Arc::new(RealClock { start: std::time::Instant::now() }),
        entropy: Arc::new(RealEntropy),
        tasks: Arc::new(RealSpawn { runtime: runtime.clone() }),
        disk: Arc::new(RealDiskPool { runtime }),
        fs: Arc::new(RealFs),
    }
}

/// As the standard library has it.
const BACKLOG: u32 = 1024;

struct RealNet;

struct RealListener(TcpListener);

impl Net for RealNet {
    fn bind(&self, host: &str, port: u16) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        self.bind_with_backlog(host, port, BACKLOG)
    }

    fn bind_with_backlog(&self, host: &str, port: u16, backlog: u32) -> BoxFuture<io::Result<Box<dyn Listener>>> {
        let host = if host.is_empty() { "0.0.0.0".to_owned() } else { host.to_owned() };
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} is the name of no address"));
            for address in lookup_host((host.as_str(), port)).await? {
                match listen(address, backlog) {
                    Ok(listener) => return Ok(Box::new(RealListener(listener)) as Box<dyn Listener>),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }

    fn resolve(&self, host: &str) -> BoxFuture<io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(lookup_host((host.as_str(), 0)).await?.map(|address| address.ip()).collect()) })
    }

    fn connect(&self, host: &str, port: u16) -> BoxFuture<io::Result<Socket>> {
        let host = host.to_owned();
        Box::pin(async move { socket(TcpStream::connect((host.as_str(), port)).await?) })
    }
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a restarted node gets its port back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

impl Listener for RealListener {
    fn accept(&self) -> Pin<Box<dyn Future<Output = io::Result<Socket>> + Send + '_>> {
        Box::pin(async move { socket(self.0.accept().await?.0) })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn socket(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    let (reader, writer) = stream.into_split();
    Ok(Socket { reader: Box::new(reader), writer: Box::new(RealWriter(writer)), peer, local })
}

struct RealWriter(OwnedWriteHalf);

impl AsyncWrite for RealWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl SocketWriter for RealWriter {
    fn poll_send_file(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        file: &dyn File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(source) = file.descriptor() else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::Unsupported, "the file has no descriptor")));
        };
        let stream: &TcpStream = self.0.as_ref();
        loop {
            // `poll_write_ready` keeps this task's waker with the socket; a spurious readiness ends in `WouldBlock`,
            // which `try_io` turns back into waiting.
            ready!(stream.poll_write_ready(cx))?;
            let sent = stream.try_io(Interest::WRITABLE, || {
                let mut position = offset;
                Ok(rustix::fs::sendfile(stream, source, Some(&mut position), len)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn hold_together(&self, held: bool) {
        // Without it there are more segments, and nothing else.
        let stream: &TcpStream = self.0.as_ref();
        let _ = rustix::net::sockopt::set_tcp_cork(stream, held);
    }
}

struct RealClock {
    start: std::time::Instant,
}

impl Clock for RealClock {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            instant: Instant(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            wall: Timestamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<()> {
        // A century is for ever, and still within what the timer can hold.
        let nanos = deadline.0.min(100 * 365 * 86_400 * 1_000_000_000);
        let deadline = tokio::time::Instant::from_std(self.start + Duration::from_nanos(nanos));
        Box::pin(tokio::time::sleep_until(deadline))
    }
}

struct RealEntropy;

impl Entropy for RealEntropy {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

struct RealSpawn {
    runtime: tokio::runtime::Handle,
}

/// A panic in a task would leave a node that answers but no longer works: stop the process instead, for its supervisor
/// to restart it.
async fn or_abort(name: &'static str, task: BoxFuture<()>) {
    struct AbortOnPanic(&'static str);
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                tracing::error!(task = self.0, "a task panicked; the process stops");
                std::process::abort();
            }
        }
    }
    let _guard = AbortOnPanic(name);
    task.await;
}

impl Spawn for RealSpawn {
    fn spawn(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let handle = self.runtime.spawn(or_abort(name, task)).abort_handle();
        TaskHandle::new(move || handle.abort())
    }

    fn spawn_isolated(&self, name: &'static str, task: BoxFuture<()>) -> TaskHandle {
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the kernel gives a runtime its descriptors at start");
            runtime.block_on(async move {
                tokio::select! {
                    () = or_abort(name, task) => {}
                    () = stopped.notified() => {}
                }
            });
        });
        thread.expect("the kernel gives a thread at start");
        TaskHandle::new(move || stop.notify_one())
    }
}

struct RealDiskPool {
    runtime: tokio::runtime::Handle,
}

impl DiskPool for RealDiskPool {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        // The runtime's blocking threads: at most as many as the process configured with `max_blocking_threads`.
        self.runtime.spawn_blocking(work);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use odradek_common::fs::OpenMode;
    use tokio::io::AsyncReadExt;

    use super::super::{World, send_file, send_vectored};

    #[tokio::test]
    async fn header_and_file_range_arrive_in_order() {
        let world = World::real();
        let listener = world.net.bind("127.0.0.1", 0).await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let dir = tempfile::tempdir().expect("a directory");
        let file = world.fs.open(&dir.path().join("segment"), OpenMode::CreateNew).expect("a file");
        let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        file.write_all_at(&[IoSlice::new(&body)], 5).expect("written");
        let expected = body.clone();
        let len = body.len();
        world.spawn("send", async move {
            let mut socket = listener.accept().await.expect("a connection");
            send_vectored(&mut *socket.writer, &[b"", b"head", b"er"]).await.expect("sent");
            send_file(&mut *socket.writer, &*file, 5, len).await.expect("sent");
            let error = send_file(&mut *socket.writer, &*file, 5, len + 1).await.expect_err("too long");
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        });
        let mut client = world.net.connect("127.0.0.1", port).await.expect("connected");
        let mut got = vec![0; 6 + len];
        client.read_exact(&mut got).await.expect("received");
        assert_eq!(&got[..6], b"header");
        assert!(got[6..] == expected[..]);
    }

    #[tokio::test]
    async fn timeouts_and_disk_work() {
        let world = World::real();
        let limit = std::time::Duration::from_millis(5);
        assert!(world.timeout(limit, std::future::pending::<()>()).await.is_err());
        assert_eq!(world.timeout(limit * 1000, async { 7 }).await, Ok(7));
        assert_eq!(world.on_disk(|| 6 * 7).await, 42);
    }
}
