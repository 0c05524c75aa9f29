//! Messages with a version before them: the records of internal topics, and what consumers put into a group's metadata.

use bytes::Bytes;

use crate::{DecodeError, Decoder, EncodeError, Encoder, Message};

/// A record of a KRaft cluster's metadata, opened: frame version, record type and version, each as an unsigned varint, then
/// the message (Kafka's `AbstractApiMessageSerde`).
#[derive(Debug)]
pub struct MetadataFrame {
    /// Which record it is: [`crate::TypedRecord::RECORD_TYPE`].
    pub kind: i16,
    pub version: i16,
    message: Decoder,
}

impl MetadataFrame {
    /// The only frame version there is.
    const FRAME_VERSION: u32 = 1;

    pub fn open(value: Bytes) -> Result<Self, DecodeError> {
        let mut message = Decoder::new(value);
        message.begin_message("MetadataFrame", 0, true);
        let frame = message.uvarint()?;
        if frame != Self::FRAME_VERSION {
            message.begin_message("MetadataFrame", i16::try_from(frame).unwrap_or(i16::MAX), true);
            return Err(message.unsupported_version());
        }
        // What is no 16-bit number is no known record either.
        let kind = i16::try_from(message.uvarint()?).unwrap_or(-1);
        let version = i16::try_from(message.uvarint()?).unwrap_or(-1);
        Ok(Self { kind, version, message })
    }

    /// The message, if it is of this kind, after which nothing may follow.
    pub fn decode<M: Message>(mut self) -> Result<M, DecodeError> {
        let message = M::decode(&mut self.message, self.version)?;
        self.message.finish()?;
        Ok(message)
    }
}

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
