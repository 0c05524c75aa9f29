//! Reads messages out of one frame without copying, and without believing any length in it.
//!
//! An array reserves memory for its claimed elements only after the claim has been held against two bounds: the bytes
//! that are left (each element takes at least `Element::LEAST_BYTES`), and what the arrays of one frame may weigh in
//! memory, which is a constant times its length. Schemas do not recurse, which bounds the depth.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use odradek_common::Uuid;

use crate::message::{Element, RawTaggedField};
use crate::records::Records;
use crate::string::Str;
use crate::{DecodeError, DecodeErrorKind};

/// What all arrays of a frame may take in memory, per byte of the frame. The values of real clients stay below ten; an
/// array of empty strings is at sixteen (32 bytes for two).
pub(crate) const MEMORY_PER_FRAME_BYTE: usize = 32;
/// What they may take anyway, so that a small frame of many short elements is not refused.
pub(crate) const MEMORY_ANYWAY: usize = 1 << 20;

/// A place in a frame. Invariant: position <= end <= frame.len().
#[derive(Clone, Debug)]
pub struct Decoder {
    frame: Bytes,
    position: usize,
    /// Where reading must stop: the frame's end, or that of the tagged field at hand.
    end: usize,
    /// What further arrays of this frame may take in memory.
    memory_left: usize,
    message: &'static str,
    version: i16,
    flexible: bool,
}

impl Decoder {
    pub fn new(frame: Bytes) -> Self {
        let end = frame.len();
        let memory_left = end.saturating_mul(MEMORY_PER_FRAME_BYTE).saturating_add(MEMORY_ANYWAY);
        Self { frame, position: 0, end, memory_left, message: "bytes", version: 0, flexible: false }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    /// Bytes read.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Takes everything that is left.
    pub fn take_rest(&mut self) -> Bytes {
        let rest = self.frame.slice(self.position..self.end);
        self.position = self.end;
        rest
    }

    /// Fails when bytes are left.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.error(DecodeErrorKind::TrailingBytes { left })),
        }
    }

    pub(crate) fn begin_message(&mut self, message: &'static str, version: i16, flexible: bool) {
        self.message = message;
        self.version = version;
        self.flexible = flexible;
    }

    #[cold]
    pub(crate) fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { message: self.message, version: self.version, position: self.position, kind }
    }

    #[cold]
    pub(crate) fn unsupported_version(&self) -> DecodeError {
        self.error(DecodeErrorKind::UnsupportedVersion)
    }

    #[cold]
    pub fn tag_not_in_version(&self, tag: u32) -> DecodeError {
        self.error(DecodeErrorKind::UnexpectedTag { tag })
    }

    #[cold]
    fn invalid_length(&self, field: &'static str, length: i64) -> DecodeError {
        self.error(DecodeErrorKind::InvalidLength { field, length })
    }

    #[cold]
    fn unexpected_null(&self, field: &'static str) -> DecodeError {
        self.error(DecodeErrorKind::UnexpectedNull { field })
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let left = self.remaining();
        if left >= N
            && let Some(bytes) = self.frame.get(self.position..).and_then(|rest| rest.first_chunk::<N>())
        {
            self.position += N;
            return Ok(*bytes);
        }
        Err(self.error(DecodeErrorKind::Truncated { wanted: N, left }))
    }

    fn slice(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let left = self.remaining();
        if length > left {
            return Err(self.error(DecodeErrorKind::Truncated { wanted: length, left }));
        }
        let slice = self.frame.slice(self.position..self.position + length);
        self.position += length;
        Ok(slice)
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.fixed::<1>().map(|[byte]| byte != 0)
    }

    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.fixed().map(f64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.fixed().map(Uuid)
    }

    /// An unsigned number in one to five bytes, seven bits each, the lowest first.
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed::<1>()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error(DecodeErrorKind::InvalidVarint))
    }

    /// The length of bytes, records or an array; `None` is null.
    fn length(&mut self, field: &'static str) -> Result<Option<usize>, DecodeError> {
        if self.flexible {
            return self.compact_length(field);
        }
        match self.i32()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| self.invalid_length(field, length.into())),
        }
    }

    fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>, DecodeError> {
        match self.uvarint()? {
            0 => Ok(None),
            more if more > i32::MAX as u32 => Err(self.invalid_length(field, i64::from(more) - 1)),
            more => Ok(Some(more as usize - 1)),
        }
    }

    fn string_length(&mut self, field: &'static str) -> Result<Option<usize>, DecodeError> {
        if self.flexible {
            return match self.compact_length(field)? {
                Some(length) if length > i16::MAX as usize => Err(self.invalid_length(field, length as i64)),
                length => Ok(length),
            };
        }
        match self.i16()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| self.invalid_length(field, length.into())),
        }
    }

    pub fn optional_string(&mut self, nullable: bool, field: &'static str) -> Result<Option<Str>, DecodeError> {
        match self.string_length(field)? {
            Some(length) => {
                let bytes = self.slice(length)?;
                match Str::from_utf8(bytes) {
                    Ok(text) => Ok(Some(text)),
                    Err(_) => Err(self.error(DecodeErrorKind::InvalidUtf8 { field })),
                }
            }
            None if nullable => Ok(None),
            None => Err(self.unexpected_null(field)),
        }
    }

    pub fn string(&mut self, field: &'static str) -> Result<Str, DecodeError> {
        self.optional_string(false, field)?.ok_or_else(|| self.unexpected_null(field))
    }

    /// A string with a 16-bit length, even in a flexible version.
    pub fn legacy_optional_string(&mut self, field: &'static str) -> Result<Option<Str>, DecodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let result = self.optional_string(true, field);
        self.flexible = flexible;
        result
    }

    pub fn optional_bytes(&mut self, nullable: bool, field: &'static str) -> Result<Option<Bytes>, DecodeError> {
        match self.length(field)? {
            Some(length) => self.slice(length).map(Some),
            None if nullable => Ok(None),
            None => Err(self.unexpected_null(field)),
        }
    }

    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        self.optional_bytes(false, field)?.ok_or_else(|| self.unexpected_null(field))
    }

    pub fn optional_records(&mut self, nullable: bool, field: &'static str) -> Result<Option<Records>, DecodeError> {
        Ok(self.optional_bytes(nullable, field)?.map(Records::Bytes))
    }

    pub fn records(&mut self, field: &'static str) -> Result<Records, DecodeError> {
        self.bytes(field).map(Records::Bytes)
    }

    /// Allows an allocation for `claimed` values, each of which takes at least `least` bytes on the wire, or refuses it.
    fn take_memory<T>(&mut self, claimed: usize, least: usize, field: &'static str) -> Result<(), DecodeError> {
        let left = self.remaining();
        let memory = claimed.saturating_mul(size_of::<T>());
        if claimed > left / least || memory > self.memory_left {
            return Err(self.error(DecodeErrorKind::TooManyElements { field, claimed, left }));
        }
        self.memory_left -= memory;
        Ok(())
    }

    pub fn optional_array<T: Element>(
        &mut self,
        nullable: bool,
        field: &'static str,
        v: i16,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(claimed) = self.length(field)? else {
            return if nullable { Ok(None) } else { Err(self.unexpected_null(field)) };
        };
        self.take_memory::<T>(claimed, if T::LEAST_BYTES == 0 { 1 } else { T::LEAST_BYTES }, field)?;
        let mut elements = Vec::with_capacity(claimed);
        for _ in 0..claimed {
            elements.push(T::read(self, v)?);
        }
        Ok(Some(elements))
    }

    pub fn array<T: Element>(&mut self, field: &'static str, v: i16) -> Result<Vec<T>, DecodeError> {
        self.optional_array(false, field, v)?.ok_or_else(|| self.unexpected_null(field))
    }

    /// A struct that may be null: where null is allowed, a byte goes before it that is negative for null.
    pub fn optional_structure<T: Element>(
        &mut self,
        nullable: bool,
        _field: &'static str,
        v: i16,
    ) -> Result<Option<T>, DecodeError> {
        if nullable && self.i8()? < 0 { Ok(None) } else { T::read(self, v).map(Some) }
    }

    /// The same as a tagged field, where the mark is a variable-length number.
    pub fn optional_tagged_structure<T: Element>(&mut self, v: i16) -> Result<Option<T>, DecodeError> {
        if self.uvarint()? == 0 { Ok(None) } else { T::read(self, v).map(Some) }
    }

    /// All tagged fields of a struct whose schema has none.
    pub fn unknown_tags(&mut self) -> Result<Vec<RawTaggedField>, DecodeError> {
        let mut raw = Vec::new();
        let count = self.tag_count()?;
        for _ in 0..count {
            let (tag, end) = self.begin_tag()?;
            self.keep_raw_tag(tag, count, &mut raw);
            self.end_tag(end)?;
        }
        Ok(raw)
    }

    /// How many tagged fields follow; none in a version that is not flexible.
    pub fn tag_count(&mut self) -> Result<usize, DecodeError> {
        if !self.flexible {
            return Ok(0);
        }
        let claimed = self.uvarint()? as usize;
        if claimed > 0 {
            // A tagged field takes two bytes at least.
            self.take_memory::<RawTaggedField>(claimed, 2, "tagged fields")?;
        }
        Ok(claimed)
    }

    /// Opens a tagged field: its tag, and the end to restore when it has been read.
    pub fn begin_tag(&mut self) -> Result<(u32, usize), DecodeError> {
        let tag = self.uvarint()?;
        let length = self.uvarint()? as usize;
        let left = self.remaining();
        if length > left {
            return Err(self.error(DecodeErrorKind::Truncated { wanted: length, left }));
        }
        let end = std::mem::replace(&mut self.end, self.position + length);
        Ok((tag, end))
    }

    pub fn end_tag(&mut self, end: usize) -> Result<(), DecodeError> {
        let left = self.remaining();
        if left > 0 {
            return Err(self.error(DecodeErrorKind::TagTooLong { left }));
        }
        self.end = end;
        Ok(())
    }

    /// Keeps the tagged field at hand, one of `count`, as it is.
    pub fn keep_raw_tag(&mut self, tag: u32, count: usize, raw: &mut Vec<RawTaggedField>) {
        if raw.is_empty() {
            // Exactly what `tag_count` has allowed.
            raw.reserve_exact(count);
        }
        raw.push(RawTaggedField { tag, data: self.take_rest() });
    }
}
