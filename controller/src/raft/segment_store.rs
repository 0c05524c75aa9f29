//! The Raft log on files of our own, through `Fs`: for simulation, and wherever sled is not wanted.
//!
//! ```text
//! <dir>/<number, 20 digits>.raftlog
//! file   := "ODRKRAFT" version u32, frame*            all numbers big-endian
//! frame  := 0xF4A3E001, length u32, crc u32, payload  crc: CRC-32C over length and payload
//! payload:= record*                                   one group of changes: all of it counts, or none
//! record := 1 length u32, raft.v1.Vote
//!           2 length u32, raft.v1.Entry
//!           3 index u64                               truncated: this index and all behind it are gone
//!           4 length u32, raft.v1.LogId               purged up to here
//!           5 length u32, raft.v1.LogId               committed up to here
//! ```
//!
//! A group is appended as one frame and synced. The state is what all frames say, one after another. Each file opens with
//! a frame that repeats vote, purge and commit, so that files whose entries are all purged can be removed.
//!
//! A frame of which a part is missing at the very end of the last file was never acknowledged, and is cut off. A wrong
//! frame that is all there, or has a valid one behind it, is damage: its vote or entries may have been acknowledged, so the
//! store refuses to open and names file and position.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odradek_common::fs::{File, Fs, OpenMode};
use odradek_common::seeded_bugs::{Bug, active};
use odradek_proto::raft as proto;
use prost::Message;

use super::convert;
use super::log_store::{Change, LogStore, Recovered};
use super::types::{Entry, LogId, Vote};

const MAGIC: &[u8; 8] = b"ODRKRAFT";
/// The only version so far. Another one is refused.
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: u64 = 12;
const FRAME_MAGIC: u32 = 0xF4A3_E001;
const FRAME_HEAD_BYTES: usize = 12;
/// A disk writes whole sectors of this size, or of a multiple of it.
const SECTOR_BYTES: usize = 512;
/// A new file is begun when the last one has grown to this.
const FILE_BYTES_TARGET: u64 = 4 * 1024 * 1024;
/// What is read into memory when a file is opened; far above what a file grows to.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const VOTE: u8 = 1;
const ENTRY: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const COMMITTED: u8 = 5;

/// Where an entry's encoding is.
#[derive(Clone)]
struct Place {
    file: Arc<dyn File>,
    number: u64,
    offset: u64,
    length: u32,
    log_id: LogId,
}

struct Segment {
    number: u64,
    file: Arc<dyn File>,
    length: u64,
}

#[derive(Default)]
struct Inner {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Place>,
    /// Ascending; the last one is written to.
    segments: Vec<Segment>,
}

/// See the module.
pub struct SegmentStore {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the Raft log is damaged: {what}"))
}

fn file_name(number: u64) -> String {
    format!("{number:020}.raftlog")
}

impl SegmentStore {
    /// Opens the files in `dir`, or makes the first.
    ///
    /// # Errors
    /// `InvalidData` when what is there is damaged or of another format.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> io::Result<(Self, Recovered)> {
        fs.create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            fs.sync_dir(parent)?;
        }
        let names = fs.read_dir(dir)?;
        let numbers = names.iter().filter_map(|entry| entry.name.strip_suffix(".raftlog")?.parse::<u64>().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        let mut inner = Inner::default();
        for (position, number) in numbers.iter().enumerate() {
            inner.load(&*fs, dir, *number, position + 1 == numbers.len())?;
        }
        let store = Self { fs, dir: dir.to_owned(), inner: Mutex::new(inner) };
        {
            let mut inner = store.lock();
            if inner.segments.is_empty() {
                store.begin_file(&mut inner, numbers.last().map_or(0, |last| last + 1))?;
            }
        }
        let recovered = store.lock().recovered();
        Ok((store, recovered))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_file(&self, inner: &mut Inner, number: u64) -> io::Result<()> {
        let file = self.fs.open(&self.dir.join(file_name(number)), OpenMode::CreateNew)?;
        let mut payload = BytesMut::new();
        if let Some(vote) = &inner.vote {
            put_message(&mut payload, VOTE, &convert::vote_to_proto(vote))?;
        }
        if let Some(purged) = &inner.purged {
            put_message(&mut payload, PURGE, &convert::log_id_to_proto(purged))?;
        }
        if let Some(committed) = &inner.committed {
            put_message(&mut payload, COMMITTED, &convert::log_id_to_proto(committed))?;
        }
        let mut bytes = BytesMut::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32(FORMAT_VERSION);
        put_frame(&mut bytes, &payload)?;
        file.write_all_at(&[IoSlice::new(&bytes)], 0)?;
        file.sync_data()?;
        self.fs.sync_dir(&self.dir)?;
        inner.segments.push(Segment { number, file, length: bytes.len() as u64 });
        Ok(())
    }

    /// Removes the files that hold nothing but purged entries. Their state is repeated in the next file.
    fn drop_purged_files(&self, inner: &mut Inner) -> io::Result<()> {
        let needed = inner.entries.values().map(|place| place.number).min();
        let mut removed = false;
        while inner.segments.len() > 1
            && inner.segments.first().is_some_and(|first| needed.is_none_or(|needed| first.number < needed))
        {
            let first = inner.segments.remove(0);
            self.fs.remove_file(&self.dir.join(file_name(first.number)))?;
            removed = true;
        }
        if removed { self.fs.sync_dir(&self.dir) } else { Ok(()) }
    }
}

fn put_message(out: &mut BytesMut, kind: u8, message: &impl Message) -> io::Result<(usize, u32)> {
    let length = u32::try_from(message.encoded_len()).map_err(|_| io::Error::other("an entry is too large"))?;
    out.put_u8(kind);
    out.put_u32(length);
    let at = out.len();
    message.encode(out).map_err(io::Error::other)?;
    Ok((at, length))
}

fn put_frame(out: &mut BytesMut, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::Error::other("a group of changes is too large"))?;
    out.put_u32(FRAME_MAGIC);
    out.put_u32(length);
    out.put_u32(frame_crc(length, payload));
    out.put_slice(payload);
    Ok(())
}

fn frame_crc(length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_be_bytes()), payload)
}

/// The payload of the frame at the start of `bytes`, if a valid one is there.
fn frame(bytes: &Bytes) -> Option<Bytes> {
    frame_with_head(bytes, bytes.get(..FRAME_HEAD_BYTES)?)
}

/// As `frame`, with `head` in place of the first bytes.
fn frame_with_head(bytes: &Bytes, mut head: &[u8]) -> Option<Bytes> {
    if head.get_u32() != FRAME_MAGIC {
        return None;
    }
    let (length, crc) = (head.get_u32(), head.get_u32());
    let end = FRAME_HEAD_BYTES.checked_add(length as usize)?;
    let payload = bytes.get(FRAME_HEAD_BYTES..end)?;
    (frame_crc(length, payload) == crc).then(|| bytes.slice(FRAME_HEAD_BYTES..end))
}

/// Whether a valid frame begins anywhere in `bytes`.
fn holds_a_frame(bytes: &Bytes) -> bool {
    let magic = FRAME_MAGIC.to_be_bytes();
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.windows(4).position(|window| window == magic)) {
        if frame(&bytes.slice(at + found..)).is_some() {
            return true;
        }
        at += found + 1;
    }
    false
}

/// Whether a crash may have left the invalid frame at the start of `bytes`, which is at byte `position` of its file: then
/// sectors of its only write are missing, at the file's end or as zeros within. With all sectors there, or with a head
/// that only one flipped bit makes wrong, the frame was written whole and has changed since.
fn may_be_torn(bytes: &Bytes, position: usize) -> bool {
    let Some(head) = bytes.get(..FRAME_HEAD_BYTES) else { return true };
    let is_one_bit_off = (0..FRAME_HEAD_BYTES * 8).any(|bit| {
        let mut head = head.to_vec();
        if let Some(byte) = head.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        frame_with_head(bytes, &head).is_some()
    });
    if is_one_bit_off {
        return false;
    }
    let mut fields = head;
    let (magic, length) = (fields.get_u32(), fields.get_u32());
    let end = FRAME_HEAD_BYTES.saturating_add(length as usize);
    let Some(whole) = bytes.get(..end).filter(|_| magic == FRAME_MAGIC) else { return true };
    // The part of the frame in each sector; the first one begins where the frame does.
    let first = (SECTOR_BYTES - position % SECTOR_BYTES).min(whole.len());
    let (first, rest) = whole.split_at(first);
    let mut parts = std::iter::once(first).chain(rest.chunks(SECTOR_BYTES));
    parts.any(|part| part.iter().all(|byte| *byte == 0))
}

impl Inner {
    fn recovered(&self) -> Recovered {
        let last = self.entries.values().next_back().map(|place| place.log_id);
        Recovered {
            vote: self.vote,
            committed: self.committed,
            purged: self.purged,
            first: self.entries.keys().next().copied(),
            last: last.or(self.purged),
        }
    }

    fn load(&mut self, fs: &dyn Fs, dir: &Path, number: u64, is_last: bool) -> io::Result<()> {
        let path = dir.join(file_name(number));
        let file = fs.open(&path, OpenMode::ReadWrite)?;
        let length = file.len()?;
        if length > FILE_BYTES_MAX {
            return Err(damaged(format!("{} has {length} bytes", path.display())));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let bytes = Bytes::from(bytes);
        let header = bytes.get(..HEADER_BYTES as usize);
        let Some(mut header) = header.filter(|header| header.starts_with(MAGIC)) else {
            // A file that was being made when the power went, before anything was in it.
            if is_last && !holds_a_frame(&bytes) {
                drop(file);
                fs.remove_file(&path)?;
                return fs.sync_dir(dir);
            }
            return Err(damaged(format!("{} is not a Raft log file", path.display())));
        };
        header.advance(MAGIC.len());
        let version = header.get_u32();
        if version != FORMAT_VERSION {
            let message = format!("{} has format {version}; this version reads {FORMAT_VERSION}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut position = HEADER_BYTES as usize;
        while position < bytes.len() {
            let rest = bytes.slice(position..);
            let Some(payload) = frame(&rest) else {
                if !is_last || holds_a_frame(&rest.slice(1.min(rest.len())..)) || !may_be_torn(&rest, position) {
                    return Err(damaged(format!("{} at byte {position}", path.display())));
                }
                tracing::warn!(file = %path.display(), position, "cut off a group that was never completed");
                file.set_len(position as u64)?;
                file.sync_data()?;
                break;
            };
            let start = position + FRAME_HEAD_BYTES;
            position = start + payload.len();
            self.replay(payload, &file, number, start as u64)
                .map_err(|error| damaged(format!("{} before byte {position}: {error}", path.display())))?;
        }
        self.segments.push(Segment { number, file, length: position as u64 });
        Ok(())
    }

    fn replay(&mut self, mut payload: Bytes, file: &Arc<dyn File>, number: u64, start: u64) -> io::Result<()> {
        let whole = payload.len();
        while payload.has_remaining() {
            let kind = payload.get_u8();
            if kind == TRUNCATE {
                let from = payload.try_get_u64().map_err(damaged)?;
                self.entries.split_off(&from);
                continue;
            }
            let length = payload.try_get_u32().map_err(damaged)?;
            if length as usize > payload.remaining() {
                return Err(damaged("a record is longer than its group"));
            }
            let offset = start + (whole - payload.remaining()) as u64;
            let message = payload.split_to(length as usize);
            match kind {
                VOTE => {
                    let vote = proto::Vote::decode(message).map_err(damaged)?;
                    self.vote = Some(convert::vote_from_proto(Some(&vote)).map_err(damaged)?);
                }
                ENTRY => {
                    let entry = proto::Entry::decode(message).map_err(damaged)?;
                    let id = entry.log_id.as_ref().ok_or_else(|| damaged("an entry without id"))?;
                    let log_id = convert::log_id_from_proto(id);
                    self.expect_next(log_id.index)?;
                    let place = Place { file: file.clone(), number, offset, length, log_id };
                    self.entries.insert(log_id.index, place);
                }
                PURGE => {
                    let id = proto::LogId::decode(message).map_err(damaged)?;
                    self.purge(convert::log_id_from_proto(&id));
                }
                COMMITTED => {
                    let id = proto::LogId::decode(message).map_err(damaged)?;
                    self.committed = Some(convert::log_id_from_proto(&id));
                }
                other => return Err(damaged(format!("a record of unknown kind {other}"))),
            }
        }
        Ok(())
    }

    fn expect_next(&self, index: u64) -> io::Result<()> {
        let last = self.entries.keys().next_back().copied().or(self.purged.map(|purged| purged.index));
        match last {
            // Older files are removed from the front, so the first entry that is left may stand anywhere.
            None => Ok(()),
            Some(last) if index == last + 1 => Ok(()),
            Some(last) => Err(damaged(format!("entry {index} follows entry {last}"))),
        }
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.entries = self.entries.split_off(&upto.index.saturating_add(1));
    }
}

impl LogStore for SegmentStore {
    fn write(&self, changes: &[Change]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.segments.last().is_some_and(|last| last.length >= FILE_BYTES_TARGET) {
            let number = inner.segments.last().map_or(0, |last| last.number + 1);
            self.begin_file(&mut inner, number)?;
        }
        let mut payload = BytesMut::new();
        for change in changes {
            match change {
                Change::Vote(vote) => drop(put_message(&mut payload, VOTE, &convert::vote_to_proto(vote))?),
                Change::Append(entries) => {
                    for entry in entries {
                        put_message(&mut payload, ENTRY, &convert::entry_to_proto(entry))?;
                    }
                }
                Change::Truncate { from } => {
                    payload.put_u8(TRUNCATE);
                    payload.put_u64(*from);
                }
                Change::Purge { upto } => drop(put_message(&mut payload, PURGE, &convert::log_id_to_proto(upto))?),
                Change::Committed(id) => drop(put_message(&mut payload, COMMITTED, &convert::log_id_to_proto(id))?),
            }
        }
        let mut bytes = BytesMut::with_capacity(FRAME_HEAD_BYTES + payload.len());
        put_frame(&mut bytes, &payload)?;
        let last = inner.segments.last_mut().ok_or_else(|| io::Error::other("the Raft log has no file"))?;
        last.file.write_all_at(&[IoSlice::new(&bytes)], last.length)?;
        let is_vote = |change: &Change| matches!(change, Change::Vote(_));
        if !(active(Bug::VoteNotSynced) && changes.iter().all(is_vote)) {
            last.file.sync_data()?;
        }
        let (file, number) = (last.file.clone(), last.number);
        let start = last.length + FRAME_HEAD_BYTES as u64;
        last.length += bytes.len() as u64;
        inner.replay(payload.freeze(), &file, number, start)?;
        if changes.iter().any(|change| matches!(change, Change::Purge { .. })) {
            self.drop_purged_files(&mut inner)?;
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let places: Vec<Place> = {
            let inner = self.lock();
            let places = range.map(|index| {
                let place = inner.entries.get(&index).cloned();
                place.ok_or_else(|| damaged(format!("entry {index} is missing")))
            });
            places.collect::<io::Result<_>>()?
        };
        let entries = places.into_iter().map(|place| {
            let mut bytes = vec![0; place.length as usize];
            place.file.read_exact_at(&mut bytes, place.offset)?;
            let entry = proto::Entry::decode(Bytes::from(bytes)).map_err(damaged)?;
            let entry = convert::entry_from_proto(entry).map_err(damaged)?;
            if entry.log_id != place.log_id {
                return Err(damaged(format!("entry {} changed on disk", place.log_id)));
            }
            Ok(entry)
        });
        entries.collect()
    }
}
