//! Seeded values of every message, and a table of all messages, for tests and fuzzing.
//!
//! `Filler` walks a message's fields in the order of the schema and draws from SplitMix64. The program that writes the
//! golden files (`tests/golden/java`) draws by the same rules, so both sides build the same values: change the two together.

use bytes::Bytes;
use odradek_common::rng::{Rng, SplitMix64};

use crate::message::Element;
use crate::string::Str;
use crate::{DecodeError, Decoder, EncodeError, Encoder, Message, Uuid};

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// A message with its type erased.
#[derive(Clone, Copy, Debug)]
pub struct MessageInfo {
    pub name: &'static str,
    pub min_version: i16,
    pub max_version: i16,
    /// The bytes of the value that this seed makes.
    pub encode_filled: fn(seed: u64, version: i16) -> Result<Bytes, EncodeError>,
    /// Whether all of the bytes are this message.
    pub decodes: fn(bytes: Bytes, version: i16) -> Result<(), DecodeError>,
    /// Decodes all of the bytes and encodes the value again.
    pub recode: fn(bytes: Bytes, version: i16) -> Result<Result<Bytes, EncodeError>, DecodeError>,
    /// Whether the value of this seed is what decoding its bytes yields.
    pub round_trips: fn(seed: u64, version: i16) -> bool,
    /// The bytes of the default value.
    pub encode_default: fn(version: i16) -> Result<Bytes, EncodeError>,
    /// Whether the default value is what decoding its bytes yields.
    pub default_round_trips: fn(version: i16) -> bool,
    /// Whether these bytes decode to the value of this seed, or else why not.
    pub decodes_to_filled: fn(bytes: Bytes, seed: u64, version: i16) -> Result<bool, DecodeError>,
}

impl MessageInfo {
    const fn of<M: Message>() -> Self {
        Self {
            name: M::NAME,
            min_version: M::MIN_VERSION,
            max_version: M::MAX_VERSION,
            encode_filled: |seed, version| encode(&filled::<M>(seed, version), version),
            decodes: |bytes, version| decode::<M>(bytes, version).map(drop),
            recode: |bytes, version| decode::<M>(bytes, version).map(|message| encode(&message, version)),
            round_trips: |seed, version| round_trips(&filled::<M>(seed, version), version),
            encode_default: |version| encode(&M::default(), version),
            default_round_trips: |version| round_trips(&M::default(), version),
            decodes_to_filled: |bytes, seed, version| {
                decode::<M>(bytes, version).map(|message| message == filled::<M>(seed, version))
            },
        }
    }
}

fn filled<M: Message>(seed: u64, version: i16) -> M {
    M::fill(&mut Filler::new(seed), version)
}

fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut out = Encoder::new();
    message.encode(&mut out, version)?;
    Ok(out.into_bytes().unwrap_or_default())
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> Result<M, DecodeError> {
    let mut input = Decoder::new(bytes);
    let message = M::decode(&mut input, version)?;
    input.finish()?;
    Ok(message)
}

fn round_trips<M: Message>(message: &M, version: i16) -> bool {
    let Ok(bytes) = encode(message, version) else { return false };
    decode(bytes, version).as_ref() == Ok(message)
}

/// Draws the values of fields.
#[derive(Clone, Debug)]
pub struct Filler(SplitMix64);

/// Of one, two, three and four bytes in UTF-8.
const LETTERS: [&str; 8] = ["a", "Z", "7", "-", "é", "ж", "漢", "🧵"];

impl Filler {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn at_most(&mut self, most: u64) -> usize {
        (self.next() % (most + 1)) as usize
    }

    pub fn bool(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn i8(&mut self) -> i8 {
        self.next() as i8
    }

    pub fn i16(&mut self) -> i16 {
        self.next() as i16
    }

    pub fn u16(&mut self) -> u16 {
        self.next() as u16
    }

    pub fn i32(&mut self) -> i32 {
        self.next() as i32
    }

    pub fn u32(&mut self) -> u32 {
        self.next() as u32
    }

    pub fn i64(&mut self) -> i64 {
        self.next() as i64
    }

    /// An eighth of a 32-bit number: exact in binary and in JSON.
    pub fn f64(&mut self) -> f64 {
        f64::from(self.i32()) / 8.0
    }

    pub fn uuid(&mut self) -> Uuid {
        Uuid(self.0.bytes16())
    }

    pub fn string(&mut self) -> Str {
        let letters = self.at_most(9);
        let text: String = (0..letters).map(|_| LETTERS[self.at_most(7)]).collect();
        text.into()
    }

    /// Mostly short; now and then long enough to need two bytes of length and to be referenced as records.
    pub fn bytes(&mut self) -> Bytes {
        let length = if self.at_most(7) == 0 { 600 } else { self.at_most(9) };
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn array<T: Element>(&mut self, v: i16) -> Vec<T> {
        (0..self.at_most(3)).map(|_| T::fill(self, v)).collect()
    }

    /// Null one time in four, where this version allows it.
    pub fn optional<T: Element>(&mut self, nullable: bool, v: i16) -> Option<T> {
        if nullable && self.at_most(3) == 0 { None } else { Some(T::fill(self, v)) }
    }
}
