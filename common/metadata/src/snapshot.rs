//! An image as a file: what a controller keeps instead of the log before it, and sends to one that lags.
//!
//! ```text
//! file    := magic frame*                        magic: "ODRADEK-METADATA" (16 bytes), version: u32 BE
//! magic   := 16 bytes, version u32
//! frame   := kind u8, length u32, crc u32, payload      big-endian; crc: CRC-32C over kind, length and payload
//! kind    := 1 header (SnapshotHeader), once, first
//!            2 batch (Batch)
//!            3 end (count of records u64, last offset i64), once, last; nothing follows
//! ```
//!
//! A file that stops anywhere before its end frame is damaged, so a torn write is never taken for a small cluster.
//! It reads and writes through `std::io` traits; opening, fsync and rename belong to whoever owns the file.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, Read, Write};

use odradek_common::seeded_bugs::{Bug, active};
use odradek_proto::metadata::{Record, SnapshotHeader};
use prost::Message;

use crate::batch::{self, BatchError};
use crate::{Image, ReplayError};

/// The only version so far. A reader refuses any other.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"ODRADEK-METADATA";
const HEADER: u8 = 1;
const BATCH: u8 = 2;
const END: u8 = 3;
/// A frame is closed when it has grown to this, so that neither side holds more than a little.
const FRAME_BYTES_TARGET: usize = 64 * 1024;
/// A record is far below the target, so no frame we wrote is near this; a larger length is damage.
const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot could not be read: {0}")]
    Io(#[from] io::Error),
    #[error("this is no metadata snapshot")]
    NotASnapshot,
    #[error("snapshot format {found} is unknown; this version reads {FORMAT_VERSION}: upgrade this node first")]
    UnknownFormat { found: u32 },
    #[error("the snapshot is damaged at byte {position}: {what}")]
    Damaged { position: u64, what: &'static str },
    #[error("the snapshot is damaged before byte {position}: {source}")]
    Batch { position: u64, source: BatchError },
    #[error("the snapshot's records do not fit together before byte {position}: {source}")]
    Replay { position: u64, source: ReplayError },
}

/// Where in the log a snapshot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub last_offset: i64,
    pub last_term: i64,
    pub timestamp_ms: i64,
}

/// Writes the image; `position.last_offset` is what the image will have as its offset when it is read.
///
/// # Errors
/// What `out` returns.
pub fn write(image: &Image, position: Position, out: &mut impl Write) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT_VERSION.to_be_bytes())?;
    let header = SnapshotHeader {
        format_version: FORMAT_VERSION,
        last_offset: position.last_offset,
        last_term: position.last_term,
        timestamp_ms: position.timestamp_ms,
    };
    write_frame(out, HEADER, &header.encode_to_vec())?;
    let (mut records, mut bytes, mut count) = (Vec::new(), 0, 0u64);
    for record in image.to_records() {
        bytes += record.encoded_len();
        count += 1;
        records.push(record);
        if bytes >= FRAME_BYTES_TARGET {
            write_batch(out, std::mem::take(&mut records), position)?;
            bytes = 0;
        }
    }
    if active(Bug::SnapshotMissesRecord) && records.pop().is_some() {
        count -= 1;
    }
    if !records.is_empty() {
        write_batch(out, records, position)?;
    }
    let mut end = count.to_be_bytes().to_vec();
    end.extend_from_slice(&position.last_offset.to_be_bytes());
    write_frame(out, END, &end)
}

fn write_batch(out: &mut impl Write, records: Vec<Record>, position: Position) -> io::Result<()> {
    let batch = batch::new(records, odradek_common::time::Timestamp(position.timestamp_ms));
    write_frame(out, BATCH, &batch.encode_to_vec())
}

fn write_frame(out: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or_else(|| io::Error::other("a metadata record is too large for a snapshot"))?;
    out.write_all(&[kind])?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&frame_crc(kind, length, payload).to_be_bytes())?;
    out.write_all(payload)
}

fn frame_crc(kind: u8, length: u32, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &length.to_be_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// Reads a whole snapshot.
///
/// # Errors
/// [`SnapshotError`]; nothing of a damaged snapshot is returned.
pub fn read(input: &mut impl Read) -> Result<(Position, Image), SnapshotError> {
    let mut reader = Reader { input, position: 0 };
    reader.magic()?;
    let (kind, payload) = reader.frame()?;
    if kind != HEADER {
        return Err(reader.damaged("it does not open with a header"));
    }
    let header = SnapshotHeader::decode(&*payload).map_err(|_| reader.damaged("the header cannot be decoded"))?;
    if header.format_version != FORMAT_VERSION {
        return Err(SnapshotError::UnknownFormat { found: header.format_version });
    }
    let mut image = Image::new();
    let mut count = 0u64;
    loop {
        let (kind, payload) = reader.frame()?;
        match kind {
            BATCH => {
                let batch = batch::decode(&payload)
                    .map_err(|source| SnapshotError::Batch { position: reader.position, source })?;
                for record in &batch.records {
                    image
                        .replay(record, header.last_offset)
                        .map_err(|source| SnapshotError::Replay { position: reader.position, source })?;
                }
                count += batch.records.len() as u64;
            }
            END => {
                let mut expected = count.to_be_bytes().to_vec();
                expected.extend_from_slice(&header.last_offset.to_be_bytes());
                if payload != expected {
                    return Err(reader.damaged("the end does not agree with what came before it"));
                }
                break;
            }
            _ => return Err(reader.damaged("a frame of unknown kind")),
        }
    }
    reader.nothing_more()?;
    image.set_offset(header.last_offset);
    let position =
        Position { last_offset: header.last_offset, last_term: header.last_term, timestamp_ms: header.timestamp_ms };
    Ok((position, image))
}

struct Reader<'a, R> {
    input: &'a mut R,
    position: u64,
}

impl<R: Read> Reader<'_, R> {
    fn magic(&mut self) -> Result<(), SnapshotError> {
        let magic: [u8; 16] = self.array().map_err(not_a_snapshot)?;
        if magic != *MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let found = u32::from_be_bytes(self.array().map_err(not_a_snapshot)?);
        if found != FORMAT_VERSION {
            return Err(SnapshotError::UnknownFormat { found });
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), SnapshotError> {
        let [kind] = self.array()?;
        let length = u32::from_be_bytes(self.array()?);
        let crc = u32::from_be_bytes(self.array()?);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged("a frame's length is absurd"));
        }
        // Grown by what is really there, never by what a damaged length claims.
        let mut payload = Vec::new();
        self.input.by_ref().take(u64::from(length)).read_to_end(&mut payload)?;
        self.position += payload.len() as u64;
        if payload.len() as u64 != u64::from(length) {
            return Err(self.damaged("it ends in the middle of a frame"));
        }
        if frame_crc(kind, length, &payload) != crc {
            return Err(self.damaged("a frame's checksum does not match"));
        }
        Ok((kind, payload))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends before its end frame"),
            _ => SnapshotError::Io(error),
        })?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn nothing_more(&mut self) -> Result<(), SnapshotError> {
        let mut byte = [0];
        match self.input.read(&mut byte)? {
            0 => Ok(()),
            _ => Err(self.damaged("bytes follow its end frame")),
        }
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { position: self.position, what }
    }
}

fn not_a_snapshot(error: SnapshotError) -> SnapshotError {
    match error {
        SnapshotError::Damaged { .. } => SnapshotError::NotASnapshot,
        other => other,
    }
}
