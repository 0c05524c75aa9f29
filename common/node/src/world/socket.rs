//! A connected stream socket in two halves, with `sendfile` where the world has it.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use odradek_common::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The receiving half.
pub trait SocketReader: AsyncRead + Send + Sync + Unpin {}

impl<T: AsyncRead + Send + Sync + Unpin> SocketReader for T {}

/// The sending half.
pub trait SocketWriter: AsyncWrite + Send + Sync + Unpin {
    /// Sends at most `len` bytes of `file` from `offset`, without copying them through this process where the world
    /// can. Answers the number of bytes sent; 0 when the file ends before `offset`.
    fn poll_send_file(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        file: &dyn File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>>;

    /// While it is held together, only whole segments leave; the rest leaves when it is not any more. For an answer of
    /// several writes: none of them has an end of its own on the wire then. A world may do nothing.
    fn hold_together(&self, _held: bool) {}
}

/// A connection. Split by taking its fields.
pub struct Socket {
    pub reader: Box<dyn SocketReader>,
    pub writer: Box<dyn SocketWriter>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket {} -> {}", self.local, self.peer)
    }
}

/// Sends a whole range of a file. Fails with `UnexpectedEof` when the file is shorter.
pub async fn send_file(
    writer: &mut dyn SocketWriter,
    file: &dyn File,
    mut offset: u64,
    mut len: usize,
) -> io::Result<()> {
    while len > 0 {
        let sent = std::future::poll_fn(|cx| Pin::new(&mut *writer).poll_send_file(cx, file, offset, len)).await?;
        if sent == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends inside the range to send"));
        }
        offset += sent as u64;
        len -= sent;
    }
    Ok(())
}

/// Sends all buffers by vectored writes.
pub async fn send_vectored(writer: &mut dyn SocketWriter, buffers: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
    let mut left = slices.as_mut_slice();
    // Empty buffers at the front would look like a closed socket.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let sent = std::future::poll_fn(|cx| Pin::new(&mut *writer).poll_write_vectored(cx, left)).await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, sent);
    }
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.writer).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.writer).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.writer).poll_shutdown(cx)
    }
}
