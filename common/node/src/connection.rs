//! A client's connection to a Kafka broker over the world's sockets: one request at a time, or, split into its halves,
//! several; answered in order. Followers, the command line and the tests speak through it.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use odradek_wire::frame::{LENGTH_BYTES, ResponseFrame, check_length, encode_request};
use odradek_wire::{Part, Request, Str};
use tokio::io::AsyncReadExt;

use crate::world::{Socket, SocketReader, SocketWriter, World, send_vectored};

/// Responses over this size are refused: the largest that `fetch.max.bytes` lets a broker send by default is 55 MiB.
pub const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// A connected client. After an error it is of no use: an answer may still be on its way.
pub struct Connection {
    requests: Requests,
    answers: Answers,
}

/// The half that sends.
pub struct Requests {
    writer: Box<dyn SocketWriter>,
    client_id: Str,
    correlation_id: i32,
}

/// The half that receives.
pub struct Answers {
    reader: Box<dyn SocketReader>,
}

impl Connection {
    /// Connects within `patience`.
    pub async fn open(world: &World, host: &str, port: u16, client_id: &str, patience: Duration) -> io::Result<Self> {
        let Socket { reader, writer, .. } = world.timeout(patience, world.net.connect(host, port)).await??;
        let requests = Requests { writer, client_id: Str::from(client_id), correlation_id: 0 };
        Ok(Self { requests, answers: Answers { reader } })
    }

    /// Sends a request and waits for its answer, without a time limit: wrap it in `World::timeout`.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let correlation_id = self.requests.send(version, request).await?;
        self.answers.receive::<R>(version, correlation_id).await
    }

    /// Sends a request that has no answer, as a produce with `acks=0`.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.requests.send(version, request).await.map(drop)
    }

    /// For several requests under way at a time.
    pub fn split(self) -> (Requests, Answers) {
        (self.requests, self.answers)
    }
}

impl Requests {
    /// Sends a request; its correlation id is what [`Answers::receive`] has to be told.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let parts = encode_request(version, self.correlation_id, Some(self.client_id.clone()), request)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut buffers = Vec::with_capacity(parts.len());
        for part in &parts {
            match part {
                Part::Bytes(bytes) => buffers.push(bytes.as_ref()),
                Part::Outside(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "records without bytes")),
            }
        }
        send_vectored(&mut *self.writer, &buffers).await?;
        Ok(self.correlation_id)
    }
}

impl Answers {
    /// The next answer, which has to be the one to this request: a broker answers in order.
    pub async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> io::Result<R::Response> {
        decode_answer::<R>(self.receive_frame().await?, version, correlation_id)
    }

    /// The next answer, for [`decode_answer`].
    pub async fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut prefix = [0; LENGTH_BYTES];
        self.reader.read_exact(&mut prefix).await?;
        let len = check_length(prefix, RESPONSE_BYTES_MAX).map_err(invalid)?;
        // The buffer grows with what arrives, not with what the length claims.
        let mut frame = BytesMut::with_capacity(len.min(1 << 20));
        while frame.len() < len {
            let missing = len - frame.len();
            if (&mut self.reader).take(missing as u64).read_buf(&mut frame).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(frame.freeze())
    }
}

/// Reads an answer, which has to be the one to this request.
pub fn decode_answer<R: Request>(frame: Bytes, version: i16, correlation_id: i32) -> io::Result<R::Response> {
    let response = ResponseFrame::parse(frame, R::API_KEY, version).map_err(invalid)?;
    if response.correlation_id != correlation_id {
        let text = format!("answer {} came where {correlation_id} was due", response.correlation_id);
        return Err(invalid(text));
    }
    response.decode(version).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
