//! The Raft log on sled.
//!
//! ```text
//! key                                  value
//! 'e' index u64 BE  chunk u16 BE       a piece of the encoded entry, at most 4 KiB; chunk 0 opens with the number of
//!                                      chunks (u16 BE) and the CRC-32C of the whole entry (u32 BE)
//! 's' "format"                         the version of this layout, u32 BE
//! 's' "vote" | "purged" | "committed"  an encoded `raft.v1.Vote` or `raft.v1.LogId`
//! ```
//!
//! All in one tree, so that a group is one atomic batch. sled's own flush ends in `sync_file_range`, which leaves file
//! sizes and disk caches to luck; so each group is flushed by sled and then made durable by `fdatasync` through a
//! descriptor of our own. sled writes leaves of up to some twenty values as one message, and moves a message of more than
//! 128 KiB to `blobs/`, which it never syncs: hence the small pieces, and that folder is checked to be empty.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_common::fs::{File, Fs, OpenMode};
use odradek_proto::raft as proto;
use prost::Message;

use super::convert;
use super::log_store::{Change, LogStore, Recovered};
use super::types::{Entry, LogId};

/// The only layout so far. Another one is refused.
const FORMAT_VERSION: u32 = 1;
const CHUNK_BYTES_MAX: usize = 4 * 1024;
/// An empty file that says that all of sled's files are durable.
const COMPLETE: &str = "complete";
const HEAD_BYTES: usize = 6;

/// See the module.
pub struct SledStore {
    db: sled::Db,
    /// sled's only data file, through a descriptor of our own.
    file: Arc<dyn File>,
    fs: Arc<dyn Fs>,
    blobs: PathBuf,
}

fn entry_key(index: u64, chunk: u16) -> [u8; 11] {
    let mut key = [b'e'; 11];
    let (head, tail) = key.split_at_mut(9);
    head.iter_mut().skip(1).zip(index.to_be_bytes()).for_each(|(to, from)| *to = from);
    tail.iter_mut().zip(chunk.to_be_bytes()).for_each(|(to, from)| *to = from);
    key
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key.get(1..9).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| damaged("a key of an entry is too short"))
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the Raft log is damaged: {what}"))
}

impl SledStore {
    /// Opens the database in `dir`, or makes an empty one. `cache_bytes` is for sled's page cache; the tail of the log is in
    /// memory already.
    ///
    /// # Errors
    /// `InvalidData` when what is there is damaged or of another format.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, cache_bytes: u64) -> io::Result<(Self, Recovered)> {
        let complete = dir.join(COMPLETE);
        if !fs.exists(&complete)? && fs.exists(dir)? {
            // The power went while sled made its files. It cannot open what that may have left, and nothing is in there.
            fs.remove_dir_all(dir)?;
        }
        fs.create_dir_all(dir)?;
        // sled takes the file of a snapshot that it was still writing when the power went for the newest one, and refuses
        // to open. What such a file would say is in the log.
        for entry in fs.read_dir(dir)? {
            if entry.name.starts_with("snap.") && entry.name.ends_with(".generating") {
                fs.remove_file(&dir.join(&entry.name))?;
            }
        }
        let db = sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .open()
            .map_err(io::Error::from)?;
        let file = fs.open(&dir.join("db"), OpenMode::ReadWrite)?;
        let store = Self { db, file, fs, blobs: dir.join("blobs") };
        match store.db.get(b"sformat")? {
            Some(found) if *found == FORMAT_VERSION.to_be_bytes() => {}
            Some(found) => {
                let message = format!("the Raft log in {} has format {found:?}, this version reads 1", dir.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            None => {
                store.db.insert(b"sformat", &FORMAT_VERSION.to_be_bytes())?;
                store.make_durable()?;
            }
        }
        // sled syncs neither its `conf`, nor any name.
        store.fs.open(&dir.join("conf"), OpenMode::ReadWrite)?.sync_data()?;
        store.fs.sync_dir(dir)?;
        if let Some(parent) = dir.parent() {
            store.fs.sync_dir(parent)?;
        }
        if !store.fs.exists(&complete)? {
            store.fs.open(&complete, OpenMode::Create)?.sync_data()?;
            store.fs.sync_dir(dir)?;
        }
        let recovered = store.recover()?;
        Ok((store, recovered))
    }

    fn recover(&self) -> io::Result<Recovered> {
        let vote = match self.db.get(b"svote")? {
            Some(bytes) => {
                let vote = proto::Vote::decode(&*bytes).map_err(damaged)?;
                Some(convert::vote_from_proto(Some(&vote)).map_err(damaged)?)
            }
            None => None,
        };
        let purged = self.log_id(b"spurged")?;
        let committed = self.log_id(b"scommitted")?;
        let first = match self.db.scan_prefix(b"e").next() {
            Some(first) => Some(index_of(&first?.0)?),
            None => None,
        };
        let last = match self.db.scan_prefix(b"e").next_back() {
            Some(last) => {
                let index = index_of(&last?.0)?;
                self.read(index..index + 1)?.pop().map(|entry| entry.log_id)
            }
            None => purged,
        };
        Ok(Recovered { vote, committed, purged, first, last })
    }

    fn log_id(&self, key: &[u8]) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.db.get(key)? else { return Ok(None) };
        let id = proto::LogId::decode(&*bytes).map_err(damaged)?;
        Ok(Some(convert::log_id_from_proto(&id)))
    }

    fn make_durable(&self) -> io::Result<()> {
        self.db.flush()?;
        self.file.sync_data()?;
        if self.fs.exists(&self.blobs)? && !self.fs.read_dir(&self.blobs)?.is_empty() {
            return Err(io::Error::other("sled moved a value of the Raft log to `blobs/`, which it does not sync"));
        }
        Ok(())
    }

    fn remove(&self, batch: &mut sled::Batch, from: u64, to: Option<u64>) -> io::Result<()> {
        let start = entry_key(from, 0);
        let keys = match to {
            Some(to) => self.db.range(start..entry_key(to, 0)),
            None => self.db.range(start..[b'f'; 11]),
        };
        for key in keys.keys() {
            batch.remove(key?);
        }
        Ok(())
    }

    fn append(batch: &mut sled::Batch, entry: &Entry) -> io::Result<()> {
        let bytes = convert::entry_to_proto(entry).encode_to_vec();
        let chunks = bytes.len().div_ceil(CHUNK_BYTES_MAX).max(1);
        let count = u16::try_from(chunks).map_err(|_| io::Error::other("an entry is too large for the Raft log"))?;
        let mut head = Vec::with_capacity(HEAD_BYTES + bytes.len().min(CHUNK_BYTES_MAX));
        head.extend_from_slice(&count.to_be_bytes());
        head.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        let mut pieces = bytes.chunks(CHUNK_BYTES_MAX);
        head.extend_from_slice(pieces.next().unwrap_or_default());
        batch.insert(&entry_key(entry.log_id.index, 0), head);
        for (number, piece) in (1..count).zip(pieces) {
            batch.insert(&entry_key(entry.log_id.index, number), piece);
        }
        Ok(())
    }

    fn read_one(&self, index: u64) -> io::Result<Entry> {
        let missing = || damaged(format!("entry {index} is missing"));
        let first = self.db.get(entry_key(index, 0))?.ok_or_else(missing)?;
        let (head, body) = first.split_at_checked(HEAD_BYTES).ok_or_else(missing)?;
        let (count, crc) = head.split_at_checked(2).ok_or_else(missing)?;
        let count = <[u8; 2]>::try_from(count).map(u16::from_be_bytes).map_err(damaged)?;
        let crc = <[u8; 4]>::try_from(crc).map(u32::from_be_bytes).map_err(damaged)?;
        let mut bytes = body.to_vec();
        for chunk in 1..count {
            bytes.extend_from_slice(&self.db.get(entry_key(index, chunk))?.ok_or_else(missing)?);
        }
        if crc32c::crc32c(&bytes) != crc {
            return Err(damaged(format!("entry {index} has a wrong checksum")));
        }
        let entry = proto::Entry::decode(bytes::Bytes::from(bytes)).map_err(damaged)?;
        let entry = convert::entry_from_proto(entry).map_err(damaged)?;
        if entry.log_id.index != index {
            return Err(damaged(format!("entry {index} says that it is {}", entry.log_id.index)));
        }
        Ok(entry)
    }
}

impl LogStore for SledStore {
    fn write(&self, changes: &[Change]) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                Change::Vote(vote) => batch.insert(b"svote", convert::vote_to_proto(vote).encode_to_vec()),
                Change::Append(entries) => {
                    for entry in entries {
                        Self::append(&mut batch, entry)?;
                    }
                }
                Change::Committed(id) => batch.insert(b"scommitted", convert::log_id_to_proto(id).encode_to_vec()),
                // These look at what is stored, so what came before them in the group goes first.
                Change::Truncate { from } => {
                    self.db.apply_batch(std::mem::take(&mut batch))?;
                    self.remove(&mut batch, *from, None)?;
                    self.db.apply_batch(std::mem::take(&mut batch))?;
                }
                Change::Purge { upto } => {
                    self.db.apply_batch(std::mem::take(&mut batch))?;
                    self.remove(&mut batch, 0, Some(upto.index.saturating_add(1)))?;
                    batch.insert(b"spurged", convert::log_id_to_proto(upto).encode_to_vec());
                    self.db.apply_batch(std::mem::take(&mut batch))?;
                }
            }
        }
        self.db.apply_batch(batch)?;
        self.make_durable()
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        range.map(|index| self.read_one(index)).collect()
    }
}
