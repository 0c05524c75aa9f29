//! Frames: four bytes of length, a header, a body.
//!
//! A broker reads the length with `check_length`, then the rest as one `Bytes`, and hands it to `RequestFrame::parse`.
//! Clients of our own use `encode_request` and `ResponseFrame::parse`.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use thiserror::Error;

use crate::{
    ApiKey, DecodeError, Decoder, EncodeError, EncodeErrorKind, Encoder, Message, Part, RawTaggedField, Request,
    RequestHeader, ResponseHeader, Str,
};

/// Bytes of the length before each frame.
pub const LENGTH_BYTES: usize = 4;

/// What makes a connection unusable: Kafka closes it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes; `socket.request.max.bytes` allows {max}")]
    Length { length: i32, max: usize },
    #[error("unknown API key {code}")]
    UnknownApiKey { code: i16 },
    #[error("bad header: {0}")]
    Header(#[from] DecodeError),
}

/// The length of the frame that follows these four bytes, if it is within `socket.request.max.bytes`.
pub fn check_length(prefix: [u8; LENGTH_BYTES], max: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(length) if length <= max => Ok(length),
        _ => Err(FrameError::Length { length, max }),
    }
}

/// A request whose header has been read.
#[derive(Clone, Debug)]
pub struct RequestFrame {
    pub api_key: ApiKey,
    /// As it was sent: it may be a version that nobody knows.
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Str>,
    pub header_tagged_fields: Vec<RawTaggedField>,
    /// Stands at the first byte of the body.
    pub body: Decoder,
}

impl RequestFrame {
    /// Reads the header of a frame (without its length).
    ///
    /// The header's version follows from key and version alone, so the header of a version that is not known is read as
    /// well: that is how a too new ApiVersions request finds its answer.
    pub fn parse(frame: Bytes) -> Result<Self, FrameError> {
        let mut body = Decoder::new(frame);
        let mut start = body.clone();
        let code = start.i16()?;
        let version = start.i16()?;
        let api_key = ApiKey::from_code(code).ok_or(FrameError::UnknownApiKey { code })?;
        let header = RequestHeader::decode(&mut body, api_key.request_header_version(version))?;
        Ok(Self {
            api_key,
            api_version: version,
            correlation_id: header.correlation_id,
            client_id: header.client_id,
            header_tagged_fields: header.unknown_tagged_fields,
            body,
        })
    }

    /// Whether the schema has this version. What a node serves is less: it has a table of its own.
    pub fn is_version_known(&self) -> bool {
        self.api_key.versions().contains(&self.api_version)
    }

    /// Reads the body. Bytes that follow it are passed over, as Kafka does: librdkafka asks for all topics with an array
    /// count of four zero bytes, of which a flexible version reads one, and so leaves three.
    pub fn decode<R: Request>(mut self) -> Result<R, DecodeError> {
        debug_assert_eq!(R::API_KEY, self.api_key);
        R::decode(&mut self.body, self.api_version)
    }
}

/// A whole response frame: length, header, body. The parts may have holes, in the order of the records in `body`.
///
/// `api_key` and `version` are the request's, except for the answer to an unknown version of ApiVersions: version 0.
pub fn encode_response<M: Message>(
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &M,
) -> Result<Vec<Part>, EncodeError> {
    let mut out = Encoder::for_frame(CAPACITY_BYTES);
    ResponseHeader { correlation_id, ..ResponseHeader::default() }
        .encode(&mut out, api_key.response_header_version(version))?;
    body.encode(&mut out, version)?;
    finish(out)
}

/// A whole request frame: length, header, body.
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<Str>,
    body: &R,
) -> Result<Vec<Part>, EncodeError> {
    let mut out = Encoder::for_frame(CAPACITY_BYTES);
    RequestHeader {
        request_api_key: R::API_KEY.code(),
        request_api_version: version,
        correlation_id,
        client_id,
        unknown_tagged_fields: Vec::new(),
    }
    .encode(&mut out, R::API_KEY.request_header_version(version))?;
    body.encode(&mut out, version)?;
    finish(out)
}

/// What an encoder starts with: most headers with a small body fit without growing.
const CAPACITY_BYTES: usize = 256;

fn finish(out: Encoder) -> Result<Vec<Part>, EncodeError> {
    let length = out.len() - LENGTH_BYTES;
    if length > i32::MAX as usize {
        return Err(out.error(EncodeErrorKind::TooLong { field: "frame", length }));
    }
    Ok(out.into_parts())
}

/// A response whose header has been read.
#[derive(Clone, Debug)]
pub struct ResponseFrame {
    pub correlation_id: i32,
    pub header_tagged_fields: Vec<RawTaggedField>,
    /// Stands at the first byte of the body.
    pub body: Decoder,
}

impl ResponseFrame {
    /// Reads the header of the answer (without its length) to a request of this key and version.
    pub fn parse(frame: Bytes, api_key: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let mut body = Decoder::new(frame);
        let header = ResponseHeader::decode(&mut body, api_key.response_header_version(version))?;
        Ok(Self { correlation_id: header.correlation_id, header_tagged_fields: header.unknown_tagged_fields, body })
    }

    /// Only the correlation id, to find the request that a frame (without its length) answers.
    pub fn peek_correlation_id(frame: &Bytes) -> Option<i32> {
        frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
    }

    /// Reads the body at the version of the request; nothing may follow it.
    pub fn decode<M: Message>(mut self, version: i16) -> Result<M, DecodeError> {
        let response = M::decode(&mut self.body, version)?;
        self.body.finish()?;
        Ok(response)
    }
}
