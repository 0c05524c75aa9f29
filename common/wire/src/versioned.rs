//! Messages with a version before them: the records of internal topics, and what consumers put into a group's metadata.

use bytes::Bytes;

use crate::{DecodeError, Decoder, EncodeError, Encoder, Message};

/// Two bytes of version, then the message: a value of an internal topic, a consumer's subscription or assignment.
pub fn encode_versioned<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    encode_with_prefix(message, version, version)
}

/// Two bytes of `prefix`, then the message: a key of an internal topic has its record type there.
pub fn encode_with_prefix<M: Message>(message: &M, prefix: i16, version: i16) -> Result<Bytes, EncodeError> {
    let mut out = Encoder::with_capacity(64);
    out.i16(prefix);
    message.encode(&mut out, version)?;
    // Only a hole would make this `None`, and no message of this kind has records.
    Ok(out.into_bytes().unwrap_or_default())
}

/// Reads what `encode_versioned` wrote: the version and the message, after which nothing may follow.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut input = Decoder::new(bytes);
    let version = input.i16()?;
    let message = M::decode(&mut input, version)?;
    input.finish()?;
    Ok((version, message))
}

/// Reads a message whose newer versions only append fields, as the consumer protocol promises: a version above the known
/// ones is read as the highest known one, and what follows is left alone. The version returned is the one on the wire.
pub fn decode_versioned_up_to<M: Message>(bytes: Bytes) -> Result<(i16, M), DecodeError> {
    let mut input = Decoder::new(bytes);
    let version = input.i16()?;
    let message = M::decode(&mut input, version.min(M::MAX_VERSION))?;
    Ok((version, message))
}
