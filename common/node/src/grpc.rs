//! gRPC over the world's sockets: a channel that connects through `Net`, and the stream of accepted connections that a
//! tonic server reads.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::world::{Listener, Socket, World};

/// A connection that does not come up in this time is given up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A peer that froze, or a path that swallows packets, shows after both of these: then the connection is closed, and a
/// stream that only listens ends instead of waiting for ever. A connection without any call is left in peace.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// A channel to `host:port` that connects on first use and again after each failure.
pub fn channel(world: &World, host: &str, port: u16) -> Channel {
    let world = world.clone();
    let (host, authority) = (host.to_owned(), format!("http://{}:{port}", bracketed(host)));
    let endpoint = Endpoint::from_shared(authority).unwrap_or_else(|_| Endpoint::from_static("http://invalid"));
    let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE_INTERVAL).keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (world, host) = (world.clone(), host.clone());
        async move {
            let socket = world.timeout(CONNECT_TIMEOUT, world.net.connect(&host, port)).await??;
            Ok::<_, io::Error>(TokioIo::new(socket))
        }
    }))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// The accepted connections of a listener, for `serve_with_incoming_shutdown`.
pub fn incoming(world: World, listener: Arc<dyn Listener>) -> impl futures::Stream<Item = io::Result<ServerSocket>> {
    futures::stream::unfold((world, listener), |(world, listener)| async move {
        loop {
            match listener.accept().await {
                Ok(socket) => return Some((Ok(ServerSocket(socket)), (world, listener))),
                Err(error) => {
                    // Out of descriptors, or a peer that was gone at once: wait a little instead of spinning.
                    tracing::warn!(%error, "a connection could not be accepted");
                    world.sleep(Duration::from_millis(20)).await;
                }
            }
        }
    })
}

/// An accepted connection.
pub struct ServerSocket(Socket);

impl Connected for ServerSocket {
    type ConnectInfo = std::net::SocketAddr;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.peer
    }
}

impl AsyncRead for ServerSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ServerSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
