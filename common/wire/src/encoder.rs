//! Writes messages: one growing buffer, beside which large records are only referenced.
//!
//! The generated code calls one method per field; whether lengths are compact is known here, set by
//! `Message::encode` for the version at hand.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use odradek_common::Uuid;

use crate::message::{Element, RawTaggedField};
use crate::records::Records;
use crate::string::Str;
use crate::{EncodeError, EncodeErrorKind};

/// Records of at least this many bytes are referenced; shorter ones are cheaper to copy than to send as a part of
/// their own.
const REFERENCE_BYTES_MIN: usize = 512;

/// A stretch of the encoded bytes, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Bytes(Bytes),
    /// A hole of this many bytes: the records of the next `Records::Outside`, in the order of the message.
    Outside(usize),
}

impl Part {
    /// The size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Outside(len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Collects encoded messages. Several can follow one another, as a header and a body do.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// What stands between the bytes of the buffer, with the position in the buffer before which it comes; ascending.
    inserts: Vec<(usize, Part)>,
    inserts_bytes: usize,
    /// Whether the buffer opens with four bytes kept free for the frame's length.
    framed: bool,
    message: &'static str,
    version: i16,
    flexible: bool,
}

impl Encoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reserves memory for that many bytes, holes and referenced records not counted.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Keeps room for the four bytes of the length, which are filled in when the parts are taken.
    pub fn for_frame(capacity_bytes: usize) -> Self {
        let mut encoder = Self::with_capacity(capacity_bytes + 4);
        encoder.u32(0);
        encoder.framed = true;
        encoder
    }

    /// Everything written, holes and the frame's length included.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.inserts_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts in order; none is empty. A frame's length counts everything after it, holes included; it must have
    /// been checked to fit 31 bits (`frame` does).
    pub fn into_parts(mut self) -> Vec<Part> {
        self.write_frame_length();
        let mut parts = Vec::with_capacity(2 * self.inserts.len() + 1);
        let mut rest = Bytes::from(self.buffer);
        let mut taken = 0;
        for (position, part) in self.inserts {
            if position > taken {
                parts.push(Part::Bytes(rest.split_to(position - taken)));
                taken = position;
            }
            parts.push(part);
        }
        if !rest.is_empty() {
            parts.push(Part::Bytes(rest));
        }
        parts
    }

    /// All bytes in one piece, or `None` when there is a hole. Referenced records are copied here.
    pub fn into_bytes(mut self) -> Option<Bytes> {
        if self.inserts.is_empty() {
            self.write_frame_length();
            return Some(self.buffer.into());
        }
        let mut whole = Vec::with_capacity(self.len());
        for part in self.into_parts() {
            match part {
                Part::Bytes(bytes) => whole.extend_from_slice(&bytes),
                Part::Outside(_) => return None,
            }
        }
        Some(whole.into())
    }

    fn write_frame_length(&mut self) {
        if self.framed {
            let length = u32::try_from(self.len() - 4).unwrap_or(u32::MAX);
            if let Some(first) = self.buffer.first_chunk_mut() {
                *first = length.to_be_bytes();
            }
        }
    }

    pub(crate) fn begin_message(&mut self, message: &'static str, version: i16, flexible: bool) {
        self.message = message;
        self.version = version;
        self.flexible = flexible;
    }

    pub fn is_flexible(&self) -> bool {
        self.flexible
    }

    #[cold]
    pub(crate) fn error(&self, kind: EncodeErrorKind) -> EncodeError {
        EncodeError { message: self.message, version: self.version, kind }
    }

    #[cold]
    pub(crate) fn unsupported_version(&self) -> EncodeError {
        self.error(EncodeErrorKind::UnsupportedVersion)
    }

    #[cold]
    pub fn not_in_version(&self, field: &'static str) -> EncodeError {
        self.error(EncodeErrorKind::FieldNotInVersion { field })
    }

    pub fn bool(&mut self, value: bool) {
        self.buffer.push(u8::from(value));
    }

    pub fn i8(&mut self, value: i8) {
        self.buffer.push(value as u8);
    }

    pub fn i16(&mut self, value: i16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.buffer.extend_from_slice(&value.0);
    }

    /// An unsigned number in one to five bytes, seven bits each, the lowest first.
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    /// The length of bytes, records or an array: compact (one more than it is) or 32 bits.
    fn length(&mut self, length: usize, field: &'static str) -> Result<(), EncodeError> {
        let Ok(small) = i32::try_from(length) else {
            return Err(self.error(EncodeErrorKind::TooLong { field, length }));
        };
        if self.flexible {
            self.uvarint(small as u32 + 1);
        } else {
            self.i32(small);
        }
        Ok(())
    }

    fn null(&mut self, nullable: bool, field: &'static str) -> Result<(), EncodeError> {
        if !nullable {
            return Err(self.error(EncodeErrorKind::UnexpectedNull { field }));
        }
        if self.flexible {
            self.uvarint(0);
        } else {
            self.i32(-1);
        }
        Ok(())
    }

    pub fn string(&mut self, value: &Str, field: &'static str) -> Result<(), EncodeError> {
        let bytes = value.as_bytes();
        let Ok(length) = i16::try_from(bytes.len()) else {
            return Err(self.error(EncodeErrorKind::TooLong { field, length: bytes.len() }));
        };
        if self.flexible {
            self.uvarint(length as u32 + 1);
        } else {
            self.i16(length);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub fn optional_string(
        &mut self,
        value: &Option<Str>,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.string(value, field),
            None if nullable && !self.flexible => {
                self.i16(-1);
                Ok(())
            }
            None => self.null(nullable, field),
        }
    }

    /// A string with a 16-bit length, even in a flexible version.
    pub fn legacy_optional_string(&mut self, value: &Option<Str>, field: &'static str) -> Result<(), EncodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let result = self.optional_string(value, true, field);
        self.flexible = flexible;
        result
    }

    pub fn bytes(&mut self, value: &Bytes, field: &'static str) -> Result<(), EncodeError> {
        self.length(value.len(), field)?;
        self.buffer.extend_from_slice(value);
        Ok(())
    }

    pub fn optional_bytes(
        &mut self,
        value: &Option<Bytes>,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, field),
            None => self.null(nullable, field),
        }
    }

    pub fn records(&mut self, value: &Records, field: &'static str) -> Result<(), EncodeError> {
        self.length(value.len(), field)?;
        let part = match value {
            Records::Bytes(bytes) if bytes.len() < REFERENCE_BYTES_MIN => {
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            }
            Records::Outside(0) => return Ok(()),
            Records::Bytes(bytes) => Part::Bytes(bytes.clone()),
            Records::Outside(len) => Part::Outside(*len),
        };
        self.inserts_bytes += part.len();
        self.inserts.push((self.buffer.len(), part));
        Ok(())
    }

    pub fn optional_records(
        &mut self,
        value: &Option<Records>,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.records(value, field),
            None => self.null(nullable, field),
        }
    }

    pub fn array<T: Element>(&mut self, value: &[T], field: &'static str, v: i16) -> Result<(), EncodeError> {
        self.length(value.len(), field)?;
        value.iter().try_for_each(|element| element.write(self, v))
    }

    pub fn optional_array<T: Element>(
        &mut self,
        value: &Option<Vec<T>>,
        nullable: bool,
        field: &'static str,
        v: i16,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.array(value, field, v),
            None => self.null(nullable, field),
        }
    }

    /// A struct that may be null: one byte, 1 or -1, goes before it where null is allowed.
    pub fn optional_structure<T: Element>(
        &mut self,
        value: &Option<T>,
        nullable: bool,
        field: &'static str,
        v: i16,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                if nullable {
                    self.i8(1);
                }
                value.write(self, v)
            }
            None if nullable => {
                self.i8(-1);
                Ok(())
            }
            None => Err(self.error(EncodeErrorKind::UnexpectedNull { field })),
        }
    }

    /// The same as a tagged field, where the mark is a variable-length number.
    pub fn optional_tagged_structure<T: Element>(&mut self, value: &Option<T>, v: i16) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                self.uvarint(1);
                value.write(self, v)
            }
            None => {
                self.uvarint(0);
                Ok(())
            }
        }
    }

    /// All tagged fields of a struct whose schema has none.
    pub fn unknown_tags(&mut self, raw: &[RawTaggedField]) -> Result<(), EncodeError> {
        if self.flexible {
            let raw = self.begin_tags(raw, 0)?;
            self.end_tags(raw)
        } else if raw.is_empty() {
            Ok(())
        } else {
            Err(self.not_in_version("unknown_tagged_fields"))
        }
    }

    /// Opens the tagged fields: `known` ones and the raw ones, which are written between them by tag.
    pub fn begin_tags<'a>(&mut self, raw: &'a [RawTaggedField], known: usize) -> Result<RawTags<'a>, EncodeError> {
        let length = raw.len() + known;
        let Ok(count) = u32::try_from(length) else {
            return Err(self.error(EncodeErrorKind::TooLong { field: "unknown_tagged_fields", length }));
        };
        self.uvarint(count);
        Ok(RawTags { rest: raw, next: 0 })
    }

    /// Opens a tagged field and returns where its value starts.
    pub fn begin_tag(&mut self, raw: &mut RawTags<'_>, tag: u32) -> Result<usize, EncodeError> {
        self.raw_tags_below(raw, Some(tag))?;
        if u64::from(tag) < raw.next {
            return Err(self.error(EncodeErrorKind::TagOrder { tag }));
        }
        raw.next = u64::from(tag) + 1;
        self.uvarint(tag);
        Ok(self.len())
    }

    /// Closes a tagged field: puts the length before the value, which has been written from `start` on.
    pub fn end_tag(&mut self, start: usize) -> Result<(), EncodeError> {
        // No tagged field of the protocol carries records, so the value lies whole in the buffer.
        let value_start = start - self.inserts_bytes;
        let length = self.buffer.len() - value_start;
        let Ok(small) = u32::try_from(length) else {
            return Err(self.error(EncodeErrorKind::TooLong { field: "tagged field", length }));
        };
        self.uvarint(small);
        let length_bytes = self.buffer.len() - value_start - length;
        if let Some(tail) = self.buffer.get_mut(value_start..) {
            tail.rotate_right(length_bytes);
        }
        Ok(())
    }

    /// Closes the tagged fields: writes the raw ones that are left.
    pub fn end_tags(&mut self, mut raw: RawTags<'_>) -> Result<(), EncodeError> {
        self.raw_tags_below(&mut raw, None)
    }

    fn raw_tags_below(&mut self, raw: &mut RawTags<'_>, bound: Option<u32>) -> Result<(), EncodeError> {
        while let Some((field, rest)) = raw.rest.split_first() {
            if bound.is_some_and(|bound| field.tag >= bound) {
                break;
            }
            if u64::from(field.tag) < raw.next {
                return Err(self.error(EncodeErrorKind::TagOrder { tag: field.tag }));
            }
            let length = field.data.len();
            let Ok(small) = u32::try_from(length) else {
                return Err(self.error(EncodeErrorKind::TooLong { field: "unknown_tagged_fields", length }));
            };
            self.uvarint(field.tag);
            self.uvarint(small);
            self.buffer.extend_from_slice(&field.data);
            raw.next = u64::from(field.tag) + 1;
            raw.rest = rest;
        }
        Ok(())
    }
}

/// Raw tagged fields that are still to be written.
#[derive(Debug)]
pub struct RawTags<'a> {
    rest: &'a [RawTaggedField],
    /// The least tag that may come next.
    next: u64,
}
