//! What every message has in common.

use bytes::Bytes;
use odradek_common::Uuid;

use crate::records::Records;
use crate::string::Str;
use crate::{ApiKey, DecodeError, Decoder, EncodeError, Encoder};

#[cfg(any(test, feature = "arbitrary"))]
use crate::filler::Filler;

/// A top-level message of the protocol. Implemented by generated types only.
pub trait Message: Element + Default + Clone + PartialEq + std::fmt::Debug {
    /// As Kafka spells it, `ProduceRequest`.
    const NAME: &'static str;
    const MIN_VERSION: i16;
    const MAX_VERSION: i16;

    /// Whether this version uses compact lengths and tagged fields (KIP-482).
    fn is_flexible(version: i16) -> bool;

    /// Appends the message as this version has it.
    ///
    /// A field that the version lacks is dropped when the schema calls it ignorable or when it holds its default; else
    /// the message cannot be said in this version and an error names the field.
    fn encode(&self, out: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        out.begin_message(Self::NAME, version, Self::is_flexible(version));
        if !(Self::MIN_VERSION..=Self::MAX_VERSION).contains(&version) {
            return Err(out.unsupported_version());
        }
        self.write(out, version)
    }

    /// Reads one message and leaves the decoder behind it. Call `Decoder::finish` when nothing may follow.
    fn decode(input: &mut Decoder, version: i16) -> Result<Self, DecodeError> {
        input.begin_message(Self::NAME, version, Self::is_flexible(version));
        if !(Self::MIN_VERSION..=Self::MAX_VERSION).contains(&version) {
            return Err(input.unsupported_version());
        }
        Self::read(input, version)
    }
}

/// A request, with the key that travels in its header and the type of its answer.
pub trait Request: Message {
    const API_KEY: ApiKey;
    type Response: Message;
}

/// A key or value of an internal topic. Keys of the group, share and transaction topics open with the record type where
/// other messages have their version.
pub trait TypedRecord: Message {
    const RECORD_TYPE: i16;
}

/// A tagged field that the schema does not know (KIP-482). It is kept and written again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawTaggedField {
    pub tag: u32,
    pub data: Bytes,
}

/// Something that can stand in an array.
#[doc(hidden)]
pub trait Element: Sized {
    /// The fewest bytes that a value takes on the wire: bounds what a claimed count may allocate.
    const LEAST_BYTES: usize;
    fn write(&self, e: &mut Encoder, v: i16) -> Result<(), EncodeError>;
    fn read(d: &mut Decoder, v: i16) -> Result<Self, DecodeError>;
    #[cfg(any(test, feature = "arbitrary"))]
    fn fill(r: &mut Filler, v: i16) -> Self;
}

macro_rules! element {
    ($($ty:ty, $method:ident, $least:literal;)*) => {$(
        impl Element for $ty {
            const LEAST_BYTES: usize = $least;

            fn write(&self, e: &mut Encoder, _v: i16) -> Result<(), EncodeError> {
                e.$method(*self);
                Ok(())
            }

            fn read(d: &mut Decoder, _v: i16) -> Result<Self, DecodeError> {
                d.$method()
            }

            #[cfg(any(test, feature = "arbitrary"))]
            fn fill(r: &mut Filler, _v: i16) -> Self {
                r.$method()
            }
        }
    )*};
}

element! {
    bool, bool, 1;
    i8, i8, 1;
    i16, i16, 2;
    u16, u16, 2;
    i32, i32, 4;
    u32, u32, 4;
    i64, i64, 8;
    f64, f64, 8;
    Uuid, uuid, 16;
}

impl Element for Str {
    const LEAST_BYTES: usize = 1;

    fn write(&self, e: &mut Encoder, _v: i16) -> Result<(), EncodeError> {
        e.string(self, "element")
    }

    fn read(d: &mut Decoder, _v: i16) -> Result<Self, DecodeError> {
        d.string("element")
    }

    #[cfg(any(test, feature = "arbitrary"))]
    fn fill(r: &mut Filler, _v: i16) -> Self {
        r.string()
    }
}

impl Element for Bytes {
    const LEAST_BYTES: usize = 1;

    fn write(&self, e: &mut Encoder, _v: i16) -> Result<(), EncodeError> {
        e.bytes(self, "element")
    }

    fn read(d: &mut Decoder, _v: i16) -> Result<Self, DecodeError> {
        d.bytes("element")
    }

    #[cfg(any(test, feature = "arbitrary"))]
    fn fill(r: &mut Filler, _v: i16) -> Self {
        r.bytes()
    }
}

impl Element for Records {
    const LEAST_BYTES: usize = 1;

    fn write(&self, e: &mut Encoder, _v: i16) -> Result<(), EncodeError> {
        e.records(self, "element")
    }

    fn read(d: &mut Decoder, _v: i16) -> Result<Self, DecodeError> {
        d.records("element")
    }

    #[cfg(any(test, feature = "arbitrary"))]
    fn fill(r: &mut Filler, _v: i16) -> Self {
        Records::Bytes(r.bytes())
    }
}

/// Only tests need this: the generated `fill` treats every field alike.
#[cfg(any(test, feature = "arbitrary"))]
impl<T: Element> Element for Vec<T> {
    const LEAST_BYTES: usize = 1;

    fn write(&self, e: &mut Encoder, v: i16) -> Result<(), EncodeError> {
        e.array(self, "element", v)
    }

    fn read(d: &mut Decoder, v: i16) -> Result<Self, DecodeError> {
        d.array("element", v)
    }

    fn fill(r: &mut Filler, v: i16) -> Self {
        r.array(v)
    }
}
