//! The Kafka protocol without any I/O: every request, response, header, record of the internal topics and record of a
//! KRaft cluster's metadata, at every version of Kafka 4.4, as Rust types with `encode` and `decode`.
//!
//! The types are written by `build/` from the facts in `schema/`: module `produce_request` holds `ProduceRequest` and its
//! parts, and so on; every top-level message is also found here. `Decoder` reads from one frame and never copies: strings
//! and bytes are slices of the frame. `Encoder` gathers parts: large records are referenced, or left as a hole that the
//! shell fills from a file. `frame` knows lengths and headers, `own` what Odradek's nodes ask each other beside.
//!
//! Whatever bytes come in, decoding yields a value or an error, never a panic, and allocates at most a constant times
//! the frame's length.

mod api_key;
mod api_versions;
mod decoder;
mod encoder;
mod error;
#[cfg(any(test, feature = "arbitrary"))]
pub mod filler;
pub mod frame;
#[cfg(feature = "json")]
mod json;
mod message;
pub mod own;
mod records;
mod string;
mod versioned;

#[allow(clippy::all, unused_imports, unused_mut, unused_variables, unused_parens)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

/// What the generated code stands on.
#[doc(hidden)]
pub mod support {
    pub use crate::decoder::Decoder;
    pub use crate::encoder::Encoder;
    pub use crate::error::{DecodeError, EncodeError};
    #[cfg(any(test, feature = "arbitrary"))]
    pub use crate::filler::Filler;
    #[cfg(feature = "json")]
    pub use crate::json::{Map as JsonMap, ToJson, Value as JsonValue};
    pub use crate::message::{Element, RawTaggedField};
    pub use crate::records::Records;
    pub use crate::string::Str;
    pub use bytes::Bytes;
    pub use odradek_common::Uuid;
}

pub use api_key::ApiKey;
pub use api_versions::{api_versions_entries, unsupported_api_versions_version};
pub use decoder::Decoder;
pub use encoder::{Encoder, Part};
pub use error::{DecodeError, DecodeErrorKind, EncodeError, EncodeErrorKind};
pub use generated::*;
#[cfg(feature = "json")]
pub use json::ToJson;
pub use message::{Message, RawTaggedField, Request, TypedRecord};
pub use odradek_common::Uuid;
pub use records::Records;
pub use string::Str;
pub use versioned::{MetadataFrame, decode_versioned, decode_versioned_up_to, encode_versioned, encode_with_prefix};

#[cfg(test)]
mod tests;
