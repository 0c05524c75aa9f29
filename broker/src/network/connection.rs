//! One client connection, one task.
//!
//! A request is handled as far as it goes at once (a Produce until it has appended); what then remains to be awaited
//! waits in `queue`, in the order of the requests, while the next request starts. Answers leave from the front of the
//! queue as they become complete, several in one write.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use odradek_common::fs::{Advice, File};
use odradek_common::time::Instant;
use odradek_node::World;
use odradek_node::world::{BoxFuture, Socket, SocketReader, SocketWriter, send_file, send_vectored};
use odradek_wire::ApiKey;

use super::frame_reader::{Frame, FrameReader, ReadError};
use super::limits::Active;
use crate::api::{Api, Client, FilePart, Outcome, Part, Reply, Response};
use crate::memory::{AnswerMemory, RequestMemory};
use crate::replica::ColdStream;

/// Requests of one connection that were started and are not answered. A client that sends more waits; librdkafka and
/// the Java client have five in flight unless told otherwise.
const IN_FLIGHT_MAX: usize = 32;

/// A file range is sent in pieces of this size. Before each it is looked for in the page cache, so that `sendfile` seldom
/// waits for a disk; between them others of this thread have their turn.
const PIECE_BYTES: usize = 1024 * 1024;

/// What is not in the page cache is brought there by the disk pool, so much at once. A reader that needs that is sent no more
/// at once: it is behind, and others of this thread are not to wait for it.
const WARM_BYTES: usize = 256 * 1024;

/// Pages so near to each other are read together.
const READ_STEP_BYTES: usize = 64 * 1024;

/// A peer that takes nothing of an answer for so long is closed, when `connections.max.idle.ms` does not say.
const WRITE_PATIENCE: Duration = Duration::from_secs(600);

/// The same for an answer that holds memory, while all of them together hold more than they may.
const PRESSED_PATIENCE: Duration = Duration::from_secs(2);

/// After a large request the next one, if all of it is there, is handled before the answer to the first leaves, up to so many bytes
/// of requests: answers that leave together cost one call, and wake their client once. Small ones are received together anyway;
/// to look for more of them saved nothing and made each wait.
const TOGETHER_BYTES_MAX: usize = 256 * 1024;

/// While answers of so many bytes wait to be sent, the connection's next request is not started. The last one may be as large
/// as it is.
const READY_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Connection {
    world: World,
    api: Arc<Api>,
    client: Client,
    reader: Box<dyn SocketReader>,
    writer: Box<dyn SocketWriter>,
    frames: FrameReader,
    memory: RequestMemory,
    answers: AnswerMemory,
    /// Waits until answers hold less memory.
    held_back: Option<Frame>,
    relief: Option<BoxFuture<()>>,
    queue: VecDeque<Entry>,
    /// In the answers of the queue that were complete at once.
    ready_bytes: usize,
    /// Of the requests that were started since answers were sent.
    together_bytes: usize,
    /// Why no more requests come, while there are answers to be sent.
    ended: Option<ReadError>,
    idle_max: Option<Duration>,
    idle_timer: Option<BoxFuture<()>>,
    last_request: Instant,
    /// As `last_request`, for those who count connections.
    active: Active,
    /// A throttled client's requests are not read until then.
    muted: Option<BoxFuture<()>>,
}

enum Entry {
    Ready(Reply),
    Waiting(BoxFuture<Reply>),
    /// No later request starts before it is done.
    Ordered(BoxFuture<Outcome<Reply>>),
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("an answer could not be sent: {0}")]
    Write(#[from] io::Error),
    #[error("idle for longer than connections.max.idle.ms")]
    Idle,
    /// As Kafka does for what it cannot answer.
    #[error("the last request has no answer but this")]
    Refused,
}

enum Event {
    Frame(Frame),
    Answer,
}

impl Connection {
    pub fn new(
        world: World,
        api: Arc<Api>,
        (memory, answers): (RequestMemory, AnswerMemory),
        client: Client,
        active: Active,
        socket: Socket,
    ) -> Self {
        let network = &api.config.network;
        Self {
            frames: FrameReader::new(network.request_bytes_max),
            idle_max: network.connection_idle_max,
            last_request: world.instant(),
            reader: socket.reader,
            writer: socket.writer,
            queue: VecDeque::new(),
            ready_bytes: 0,
            together_bytes: 0,
            ended: None,
            held_back: None,
            relief: None,
            answers,
            idle_timer: None,
            muted: None,
            active,
            world,
            api,
            client,
            memory,
        }
    }

    /// Serves until either side ends the connection.
    pub async fn run(mut self) -> Ended {
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        match std::future::poll_fn(|cx| self.poll_event(cx)).await? {
            Event::Answer => return self.send_answers().await,
            Event::Frame(frame) => self.start_or_hold_back(frame),
        }
        // What was received together is handled together, so that its answers leave together.
        while self.is_open_for_requests() {
            match self.frames.next_received() {
                Ok(Some(frame)) => self.start_or_hold_back(frame),
                Ok(None) => break,
                Err(ended) => self.ended = Some(ended),
            }
        }
        Ok(())
    }

    fn start_or_hold_back(&mut self, frame: Frame) {
        if self.answers.is_pressed() && may_have_a_large_answer(&frame.bytes) {
            self.held_back = Some(frame);
        } else {
            self.start(frame);
        }
    }

    fn is_open_for_requests(&self) -> bool {
        let is_ordered = matches!(self.queue.back(), Some(Entry::Ordered(_)));
        self.queue.len() < IN_FLIGHT_MAX
            && self.ready_bytes < READY_BYTES_MAX
            && self.muted.is_none()
            && self.held_back.is_none()
            && self.ended.is_none()
            && !is_ordered
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        for entry in &mut self.queue {
            entry.poll(cx);
        }
        if matches!(self.queue.front(), Some(Entry::Ready(_))) {
            return Poll::Ready(Ok(self.next_received(cx).map_or(Event::Answer, Event::Frame)));
        }
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(Err(ended.into()));
        }
        if let Some(muted) = &mut self.muted
            && muted.as_mut().poll(cx).is_ready()
        {
            self.muted = None;
        }
        if self.held_back.is_some() && self.poll_relief(cx).is_ready() {
            return Poll::Ready(self.held_back.take().map(Event::Frame).ok_or(Ended::Refused));
        }
        if self.is_open_for_requests()
            && let Poll::Ready(frame) = self.frames.poll_next(cx, &mut *self.reader, &self.memory, &self.world)
        {
            return Poll::Ready(Ok(Event::Frame(frame?)));
        }
        self.poll_idle(cx)
    }

    /// The next request, if all of it is there and its answer can leave together with those that are complete.
    fn next_received(&mut self, cx: &mut Context<'_>) -> Option<Frame> {
        let is_wanted = self.frames.last_was_large() && self.together_bytes < TOGETHER_BYTES_MAX;
        if !is_wanted || !self.is_open_for_requests() {
            return None;
        }
        match self.frames.poll_next(cx, &mut *self.reader, &self.memory, &self.world) {
            Poll::Ready(Ok(frame)) => Some(frame),
            Poll::Ready(Err(ended)) => {
                self.ended = Some(ended);
                None
            }
            Poll::Pending => None,
        }
    }

    fn poll_relief(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let relief = self.relief.get_or_insert_with(|| {
            let mut pressure = self.answers.pressure();
            Box::pin(async move { _ = pressure.wait_for(|pressed| !pressed).await })
        });
        std::task::ready!(relief.as_mut().poll(cx));
        self.relief = None;
        Poll::Ready(())
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Ended>> {
        let Some(idle_max) = self.idle_max else { return Poll::Pending };
        loop {
            // One timer outlives many requests: when it fires, it is set to what the last of them allows.
            let timer =
                self.idle_timer.get_or_insert_with(|| self.world.clock.sleep_until(self.last_request + idle_max));
            std::task::ready!(timer.as_mut().poll(cx));
            let now = self.world.instant();
            if self.queue.is_empty() && now >= self.last_request + idle_max {
                return Poll::Ready(Err(Ended::Idle));
            }
            let from = if self.queue.is_empty() { self.last_request } else { now };
            self.idle_timer = Some(self.world.clock.sleep_until(from + idle_max));
        }
    }

    fn start(&mut self, frame: Frame) {
        self.last_request = self.world.instant();
        self.active.at(self.last_request);
        self.together_bytes += frame.bytes.len();
        let entry = match self.api.handle(&mut self.client, frame.bytes, frame.permit) {
            Outcome::Done(reply) => {
                self.ready_bytes += reply.bytes();
                Entry::Ready(reply)
            }
            Outcome::Waiting(future) => Entry::Waiting(future),
            Outcome::Ordered(future) => Entry::Ordered(future),
        };
        self.queue.push_back(entry);
    }

    /// Sends the answers at the front of the queue that are complete.
    async fn send_answers(&mut self) -> Result<(), Ended> {
        let mut parts: Vec<Part> = Vec::new();
        let mut refused = false;
        self.ready_bytes = 0;
        self.together_bytes = 0;
        while let Some(Entry::Ready(_)) = self.queue.front() {
            let Some(Entry::Ready(reply)) = self.queue.pop_front() else { break };
            match reply {
                Reply::Nothing => {}
                Reply::Close => {
                    refused = true;
                    break;
                }
                Reply::Send(Response { parts: more, throttle }) => {
                    if parts.is_empty() {
                        parts = more;
                    } else {
                        parts.extend(more);
                    }
                    if !throttle.is_zero() {
                        self.muted = Some(self.world.clock.sleep_until(self.world.instant() + throttle));
                    }
                }
            }
        }
        self.send(&parts).await?;
        if refused { Err(Ended::Refused) } else { Ok(()) }
    }

    async fn send(&mut self, mut parts: &[Part]) -> Result<(), Ended> {
        let Self { world, writer, answers, idle_max, .. } = self;
        let held = parts.iter().filter_map(Part::as_bytes).map(Bytes::len).sum();
        let patience = Patience { world, longest: idle_max.unwrap_or(WRITE_PATIENCE), answers, held };
        // Heads and ranges are then cut into segments as one stream.
        let is_held = parts.iter().any(|part| matches!(part, Part::File(_)));
        if is_held {
            writer.hold_together(true);
        }
        while let Some(first) = parts.first() {
            match first {
                Part::File(range) => {
                    parts = parts.split_first().map_or(&[], |(_, rest)| rest);
                    patience.with(send_range(world, &mut **writer, range)).await?;
                }
                Part::Bytes(_) => {
                    let count = parts.iter().take_while(|part| matches!(part, Part::Bytes(_))).count();
                    let (bytes, rest) = parts.split_at_checked(count).unwrap_or((parts, &[]));
                    parts = rest;
                    patience.with(send_bytes(&mut **writer, bytes)).await?;
                }
            }
        }
        if is_held {
            writer.hold_together(false);
        }
        Ok(())
    }
}

/// Requests whose answer is small whatever they ask, or holds no memory; they are what replication and producers live by.
fn may_have_a_large_answer(request: &[u8]) -> bool {
    const SMALL: [ApiKey; 6] = [
        ApiKey::Produce,
        ApiKey::Fetch,
        ApiKey::Heartbeat,
        ApiKey::ApiVersions,
        ApiKey::OffsetForLeaderEpoch,
        ApiKey::WriteTxnMarkers,
    ];
    let key = request.first_chunk().map(|key| i16::from_be_bytes(*key));
    !SMALL.iter().any(|small| Some(small.code()) == key)
}

impl Entry {
    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Self::Ordered(future) = self
            && let Poll::Ready(outcome) = future.as_mut().poll(cx)
        {
            *self = match outcome {
                Outcome::Done(reply) => Self::Ready(reply),
                Outcome::Waiting(future) => Self::Waiting(future),
                Outcome::Ordered(future) => Self::Ordered(future),
            };
        }
        if let Self::Waiting(future) = self
            && let Poll::Ready(reply) = future.as_mut().poll(cx)
        {
            *self = Self::Ready(reply);
        }
    }
}

async fn send_bytes(writer: &mut dyn SocketWriter, parts: &[Part]) -> io::Result<()> {
    let slices: Vec<&[u8]> = parts.iter().filter_map(Part::as_bytes).map(Bytes::as_ref).collect();
    send_vectored(writer, &slices).await
}

async fn send_range(world: &World, writer: &mut dyn SocketWriter, range: &FilePart) -> io::Result<()> {
    // Who reads from the disk is not looked after here, but by the disk pool.
    let is_cold = range.stream.as_ref().is_some_and(|stream| stream.is_cold());
    let piece_max = if is_cold { WARM_BYTES } else { PIECE_BYTES };
    let (mut offset, mut left) = (range.offset, range.len);
    while left > 0 {
        let mut piece = left.min(piece_max);
        if is_cold || !range.file.is_cached(offset, piece) {
            piece = piece.min(WARM_BYTES);
            bring_in(world, range, offset, piece).await?;
        }
        if range.file.descriptor().is_some() {
            send_file(writer, &*range.file, offset, piece).await?;
        } else {
            // A simulated file: copy it.
            let mut buffer = vec![0; piece];
            range.file.read_exact_at(&mut buffer, offset)?;
            send_vectored(writer, &[&buffer]).await?;
        }
        offset += piece as u64;
        left -= piece;
        if left > 0 {
            tokio::task::yield_now().await;
        }
    }
    if let Some(work) = range.stream.as_ref().and_then(ColdStream::next_work) {
        world.disk.execute(Box::new(move || work.run()));
    }
    Ok(())
}

/// Has the disk pool bring a part of the range into the page cache, if it is not there.
async fn bring_in(world: &World, range: &FilePart, offset: u64, len: usize) -> io::Result<()> {
    let file = range.file.clone();
    let brought = world.on_disk(move || {
        // What was missed may lie behind this part. What is there was brought in by somebody else, and for somebody else.
        let is_missing = !file.is_cached(offset, len);
        if is_missing { warm(&*file, offset, len).map(|()| true) } else { Ok(false) }
    });
    if brought.await?
        && let Some(stream) = &range.stream
    {
        stream.on_brought(&range.file, offset, len);
    }
    Ok(())
}

/// Brings a part of a file into the page cache, and waits until it is there. Nothing is copied: it is asked for, and then
/// one byte of each few pages is read.
fn warm(file: &dyn File, offset: u64, len: usize) -> io::Result<()> {
    let _ = file.advise(offset, len as u64, Advice::WillNeed);
    let mut byte = [0u8; 1];
    for at in (0..len).step_by(READ_STEP_BYTES).chain(len.checked_sub(1)) {
        file.read_at(&mut byte, offset + at as u64)?;
    }
    // Advice is not an order.
    if file.is_cached(offset, len) { Ok(()) } else { read_through(file, offset, len) }
}

fn read_through(file: &dyn File, mut offset: u64, mut left: usize) -> io::Result<()> {
    let mut buffer = vec![0; left.min(READ_STEP_BYTES)];
    while left > 0 {
        let room = left.min(buffer.len());
        let read = file.read_at(buffer.get_mut(..room).unwrap_or_default(), offset)?;
        if read == 0 {
            return Ok(());
        }
        offset += read as u64;
        left = left.saturating_sub(read);
    }
    Ok(())
}

/// How long an answer waits for its reader.
struct Patience<'a> {
    world: &'a World,
    longest: Duration,
    answers: &'a AnswerMemory,
    /// Bytes of the answer that are in memory.
    held: usize,
}

impl Patience<'_> {
    /// Fails when the write waits too long in all. What that takes is made only if it waits.
    async fn with(&self, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let mut write = std::pin::pin!(write);
        let mut timer: Option<BoxFuture<()>> = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = write.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            let timer = timer.get_or_insert_with(|| self.end());
            timer.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no bytes")))
        })
        .await
    }

    /// Counts the answer, and comes to its end when patience does.
    fn end(&self) -> BoxFuture<()> {
        let (world, began) = (self.world.clone(), self.world.instant());
        let longest = world.clock.sleep_until(began + self.longest);
        let Some(held) = self.answers.hold(self.held) else { return longest };
        let mut pressure = self.answers.pressure();
        Box::pin(async move {
            let _held = held;
            let pressed = async {
                // The memory outlives its answers, so that this does not end early.
                loop {
                    let _ = pressure.wait_for(|pressed| *pressed).await;
                    let calm = pressure.wait_for(|pressed| !pressed);
                    tokio::select! {
                        biased;
                        _ = calm => {}
                        () = world.clock.sleep_until(began + PRESSED_PATIENCE) => return,
                    }
                }
            };
            tokio::select! {
                biased;
                () = longest => {}
                () = pressed => {}
            }
        })
    }
}
