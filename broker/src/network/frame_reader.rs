//! Takes frames off a socket: four bytes of length, then so many bytes.
//!
//! A connection that waits holds no buffer: the first bytes of what comes next are received on the stack. A frame that
//! they hold whole is handed out as it is, with its neighbours in the same allocation. A larger one gets memory of
//! exactly its size, after the budget allowed it, and the rest is received straight into it, so that its records are
//! never copied again.
//!
//! Everything is a `poll` on state that stays, so a caller may wait for other things at the same time and lose nothing.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use odradek_node::World;
use odradek_node::world::{BoxFuture, SocketReader};
use odradek_wire::ApiKey;
use odradek_wire::frame::{FrameError, LENGTH_BYTES, check_length};
use tokio::io::ReadBuf;

use crate::memory::{MemoryClass, MemoryPermit, RequestMemory};

/// Received at once on the stack. Several small requests that were sent together come together.
const CHUNK_BYTES: usize = 16 * 1024;

/// Frames up to this size are received as chunks, with what comes behind them, and copied once; larger ones into memory of
/// their own. So a client that sends many small batches at once costs one call for several of them.
const SMALL_FRAME_BYTES_MAX: usize = CHUNK_BYTES / 2;

/// After a large frame the next is most likely large too: receive only its start, so that little of it is copied.
const CHUNK_BYTES_AFTER_LARGE: usize = 256;

/// A frame holds its share of the memory budget from its first bytes on, so it must go on arriving: this long for any,
/// and a second more for each `BODY_BYTES_PER_SECOND_MIN`.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
const BODY_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// The same while other frames wait for memory: so few slow writers cannot hold up the others for long.
const PRESSED_PATIENCE: Duration = Duration::from_secs(2);
const PRESSED_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
const PRESSED_CHECK: Duration = Duration::from_millis(250);

/// The bytes of the api key that follow the length: they choose the budget.
const API_KEY_BYTES: usize = 2;

/// A request as it came, without its length.
#[derive(Debug)]
pub struct Frame {
    pub bytes: Bytes,
    pub permit: MemoryPermit,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the peer closed the connection")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a request of {bytes} bytes did not arrive in time")]
    Stalled { bytes: usize },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The receiving side of one connection.
pub struct FrameReader {
    /// Received and not yet handed out.
    received: Bytes,
    state: State,
    frame_bytes_max: usize,
    last_was_large: bool,
}

enum State {
    /// `received` holds less than a frame, or whole ones.
    Between,
    /// The length is known, the memory is not there yet.
    Memory { bytes: usize, class: MemoryClass, permit: BoxFuture<MemoryPermit> },
    /// Invariant: `buffer` has capacity for all `bytes`.
    Body { bytes: usize, class: MemoryClass, buffer: BytesMut, permit: MemoryPermit, patience: Option<BoxFuture<()>> },
}

impl FrameReader {
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { received: Bytes::new(), state: State::Between, frame_bytes_max, last_was_large: false }
    }

    /// Whether the frame that was handed out last had memory of its own.
    pub fn last_was_large(&self) -> bool {
        self.last_was_large
    }

    /// The next frame if it was received already.
    pub fn next_received(&mut self) -> Result<Option<Frame>, ReadError> {
        if !matches!(self.state, State::Between) {
            return Ok(None);
        }
        let Some(bytes) = self.next_length()? else { return Ok(None) };
        if self.received.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        let mut frame = self.received.split_to(LENGTH_BYTES + bytes);
        let bytes = frame.split_off(LENGTH_BYTES);
        self.last_was_large = false;
        // What came in one chunk is bounded by the chunk; it needs no permit.
        Ok(Some(Frame { bytes, permit: MemoryPermit::default() }))
    }

    /// The next frame, as soon as it is there.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut dyn SocketReader,
        memory: &RequestMemory,
        world: &World,
    ) -> Poll<Result<Frame, ReadError>> {
        loop {
            match &mut self.state {
                State::Between => {
                    if let Some(frame) = self.next_received()? {
                        return Poll::Ready(Ok(frame));
                    }
                    let is_small = self.next_length()?.is_some_and(|bytes| bytes <= SMALL_FRAME_BYTES_MAX);
                    if is_small && let Poll::Ready(received) = self.poll_chunk(cx, reader) {
                        received?;
                    } else if !self.begin_large(memory)? {
                        // Not even its length and its key: these few bytes need no budget.
                        ready!(self.poll_chunk(cx, reader))?;
                    }
                }
                State::Memory { bytes, class, permit } => {
                    let permit = ready!(permit.as_mut().poll(cx));
                    let (bytes, class) = (*bytes, *class);
                    self.begin_body(bytes, class, permit);
                }
                State::Body { bytes, class, buffer, permit, patience } => {
                    while buffer.len() < *bytes {
                        match poll_into(cx, reader, buffer, *bytes)? {
                            Poll::Ready(()) => {}
                            Poll::Pending => {
                                let patience =
                                    patience.get_or_insert_with(|| body_patience(world, memory, *class, *bytes));
                                ready!(patience.as_mut().poll(cx));
                                return Poll::Ready(Err(ReadError::Stalled { bytes: *bytes }));
                            }
                        }
                    }
                    let frame = Frame { bytes: std::mem::take(buffer).freeze(), permit: std::mem::take(permit) };
                    self.state = State::Between;
                    self.last_was_large = frame.bytes.len() > SMALL_FRAME_BYTES_MAX;
                    return Poll::Ready(Ok(frame));
                }
            }
        }
    }

    /// The length of the frame that `received` begins with, checked.
    fn next_length(&self) -> Result<Option<usize>, ReadError> {
        let Some(prefix) = self.received.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        Ok(Some(check_length(*prefix, self.frame_bytes_max)?))
    }

    /// Leaves `Between` when the frame at hand is incomplete and enough of it is there to choose its budget.
    fn begin_large(&mut self, memory: &RequestMemory) -> Result<bool, ReadError> {
        let Some(bytes) = self.next_length()? else { return Ok(false) };
        let Some(key) = self.received.get(LENGTH_BYTES..).and_then(|body| body.first_chunk::<API_KEY_BYTES>()) else {
            return Ok(false);
        };
        let carries_records = i16::from_be_bytes(*key) == ApiKey::Produce.code();
        let class = MemoryClass::of(carries_records, bytes);
        match memory.try_take(class, bytes) {
            Some(permit) => self.begin_body(bytes, class, permit),
            None => self.state = State::Memory { bytes, class, permit: memory.take(class, bytes) },
        }
        Ok(true)
    }

    fn begin_body(&mut self, bytes: usize, class: MemoryClass, permit: MemoryPermit) {
        let mut buffer = BytesMut::with_capacity(bytes);
        buffer.extend_from_slice(self.received.get(LENGTH_BYTES..).unwrap_or_default());
        self.received = Bytes::new();
        self.state = State::Body { bytes, class, buffer, permit, patience: None };
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, reader: &mut dyn SocketReader) -> Poll<Result<(), ReadError>> {
        let mut stack = [const { MaybeUninit::<u8>::uninit() }; CHUNK_BYTES];
        let room =
            if self.last_was_large { CHUNK_BYTES_AFTER_LARGE } else { CHUNK_BYTES.saturating_sub(self.received.len()) };
        let mut buffer = ReadBuf::uninit(stack.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled();
        if filled.is_empty() {
            return Poll::Ready(Err(ReadError::Closed));
        }
        if self.received.is_empty() {
            self.received = Bytes::copy_from_slice(filled);
        } else {
            // Less than a small frame: `begin_large` takes all else.
            let mut joined = BytesMut::with_capacity(self.received.len() + filled.len());
            joined.extend_from_slice(&self.received);
            joined.extend_from_slice(filled);
            self.received = joined.freeze();
        }
        Poll::Ready(Ok(()))
    }
}

/// Comes to its end when a body may take no longer to arrive.
fn body_patience(world: &World, memory: &RequestMemory, class: MemoryClass, bytes: usize) -> BoxFuture<()> {
    let (world, memory, began) = (world.clone(), memory.clone(), world.instant());
    let longest = BODY_PATIENCE + Duration::from_secs(bytes as u64 / BODY_BYTES_PER_SECOND_MIN);
    let pressed = PRESSED_PATIENCE + Duration::from_secs(bytes as u64 / PRESSED_BYTES_PER_SECOND_MIN);
    Box::pin(async move {
        world.clock.sleep_until(began + pressed).await;
        while !memory.is_waited_for(class) && world.instant() < began + longest {
            world.sleep(PRESSED_CHECK).await;
        }
    })
}

/// Receives into the spare capacity of `buffer`, up to `bytes` in all.
fn poll_into(
    cx: &mut Context<'_>,
    reader: &mut dyn SocketReader,
    buffer: &mut BytesMut,
    bytes: usize,
) -> Result<Poll<()>, ReadError> {
    let mut room = buffer.limit(bytes.saturating_sub(buffer.len()));
    let future = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(reader, &mut room));
    match future.poll(cx) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(Ok(0)) => Err(ReadError::Closed),
        Poll::Ready(Ok(_)) => Ok(Poll::Ready(())),
        Poll::Ready(Err(error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(frames: &mut FrameReader, reader: &mut (dyn SocketReader + 'static)) -> Result<Frame, ReadError> {
        let (memory, world) = (RequestMemory::new(1 << 20), World::real());
        std::future::poll_fn(|cx| frames.poll_next(cx, reader, &memory, &world)).await
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_out_as_they_went_in() {
        let sizes = [2usize, 0, 7, 16_380, 16_381, 70_000, 300_000, 5, 3, 1];
        let mut stream = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            stream.extend_from_slice(&(*size as u32).to_be_bytes());
            stream.extend(std::iter::repeat_n(n as u8, *size));
        }
        for step in [1usize, 3, 1000, 1 << 20] {
            let (mut near, mut far) = tokio::io::duplex(step);
            let stream = stream.clone();
            let writer = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut near, &stream).await.expect("written");
            });
            let mut frames = FrameReader::new(1 << 20);
            for (n, size) in sizes.iter().enumerate() {
                let frame = next(&mut frames, &mut far).await.expect("a frame");
                assert_eq!(frame.bytes.len(), *size);
                assert!(frame.bytes.iter().all(|byte| *byte == n as u8));
            }
            assert!(matches!(next(&mut frames, &mut far).await, Err(ReadError::Closed)));
            writer.await.expect("done");
        }
    }

    #[tokio::test]
    async fn absurd_lengths_are_refused_before_anything_is_allocated() {
        for prefix in [[0xff, 0xff, 0xff, 0xff], [0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0, 1, 0, 0]] {
            let mut stream: &'static [u8] = Box::leak(Box::new(prefix));
            let mut frames = FrameReader::new(1000);
            assert!(matches!(next(&mut frames, &mut stream).await, Err(ReadError::Frame(_))), "{prefix:?}");
        }
    }
}
