//! Snapshots as ordinary files (never in the log store).
//!
//! ```text
//! <dir>/<last index, 20 digits>-<term>.snapshot
//! file := "ODRKSNAP" version u32, length u32, crc u32, raft.v1.SnapshotMeta     big-endian; crc: CRC-32C of the meta
//!         metadata snapshot                                                     see `odradek_metadata::snapshot`
//! ```
//!
//! Written under another name, synced, renamed, directory synced; the older ones are removed after that. One that is
//! received from the leader is written the same way. The calls block and run on the disk pool.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, BufReader, BufWriter, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_common::fs::{File, Fs, OpenMode};
use odradek_metadata::{Image, snapshot};
use odradek_proto::raft as proto;
use prost::Message;

use super::convert;
use super::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"ODRKSNAP";
/// The only version so far. Another one is refused.
const FORMAT_VERSION: u32 = 1;
/// A membership of five controllers has a few hundred bytes.
const META_BYTES_MAX: u32 = 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;
const SUFFIX: &str = ".snapshot";
const UNFINISHED_SUFFIX: &str = ".tmp";

/// A snapshot that is whole on disk. The open file stays readable when a newer one replaces it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub length: u64,
}

/// A snapshot with what it says of itself.
#[derive(Clone, Debug)]
pub struct Stored {
    pub meta: SnapshotMeta,
    pub snapshot: SnapshotFile,
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {} cannot be used: {what}", path.display()))
}

struct FileWriter {
    file: Arc<dyn File>,
    position: u64,
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(&[IoSlice::new(bytes)], self.position)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FileReader {
    file: Arc<dyn File>,
    position: u64,
}

impl Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

fn file_name(meta: &SnapshotMeta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term}{SUFFIX}")
}

/// Writes the image durably and removes the older snapshots.
pub fn write(fs: &dyn Fs, dir: &Path, meta: &SnapshotMeta, image: &Image, timestamp_ms: i64) -> io::Result<Stored> {
    let name = file_name(meta);
    let unfinished = dir.join(format!("{name}{UNFINISHED_SUFFIX}"));
    let file = fs.open(&unfinished, OpenMode::Create)?;
    file.set_len(0)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, FileWriter { file: file.clone(), position: 0 });
    let encoded = convert::meta_to_proto(meta).encode_to_vec();
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT_VERSION.to_be_bytes())?;
    out.write_all(&u32::try_from(encoded.len()).map_err(io::Error::other)?.to_be_bytes())?;
    out.write_all(&crc32c::crc32c(&encoded).to_be_bytes())?;
    out.write_all(&encoded)?;
    let last = meta.last_log_id;
    let position = snapshot::Position {
        last_offset: last.map_or(-1, |id| id.index as i64),
        last_term: last.map_or(0, |id| id.leader_id.term as i64),
        timestamp_ms,
    };
    snapshot::write(image, position, &mut out)?;
    out.flush()?;
    drop(out);
    finish(fs, dir, meta, &unfinished, file)
}

/// Gives a complete file its name, durably, and removes the older snapshots.
pub fn finish(
    fs: &dyn Fs,
    dir: &Path,
    meta: &SnapshotMeta,
    unfinished: &Path,
    file: Arc<dyn File>,
) -> io::Result<Stored> {
    file.sync_data()?;
    let name = file_name(meta);
    let path = dir.join(&name);
    fs.rename(unfinished, &path)?;
    fs.sync_dir(dir)?;
    for entry in fs.read_dir(dir)? {
        // Names sort as indexes do, so a newer one that another task has finished since stays.
        if entry.name.ends_with(SUFFIX) && entry.name < name {
            fs.remove_file(&dir.join(&entry.name))?;
        }
    }
    let length = file.len()?;
    Ok(Stored { meta: meta.clone(), snapshot: SnapshotFile { path, file, length } })
}

/// Copies a snapshot from elsewhere into a new unfinished file of `dir`.
pub fn copy(fs: &dyn Fs, dir: &Path, meta: &SnapshotMeta, from: &SnapshotFile) -> io::Result<Stored> {
    let (file, path) = begin(fs, dir, &file_name(meta))?;
    let mut reader = FileReader { file: from.file.clone(), position: 0 };
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, FileWriter { file: file.clone(), position: 0 });
    io::copy(&mut reader, &mut writer)?;
    writer.flush()?;
    drop(writer);
    finish(fs, dir, meta, &path, file)
}

/// An empty file to receive a snapshot into; what an earlier attempt left is overwritten.
pub fn begin(fs: &dyn Fs, dir: &Path, name: &str) -> io::Result<(Arc<dyn File>, PathBuf)> {
    let path = dir.join(format!("{name}{UNFINISHED_SUFFIX}"));
    let file = fs.open(&path, OpenMode::Create)?;
    file.set_len(0)?;
    Ok((file, path))
}

/// Reads a snapshot whole.
///
/// # Errors
/// `InvalidData` with the file's name when it is damaged, cut short or of an unknown format.
pub fn read(file: &SnapshotFile) -> io::Result<(SnapshotMeta, snapshot::Position, Image)> {
    let path = &file.path;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, FileReader { file: file.file.clone(), position: 0 });
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(|error| damaged(path, error))?;
    if magic != *MAGIC {
        return Err(damaged(path, "it is no snapshot"));
    }
    let mut number = || -> io::Result<u32> {
        let mut bytes = [0; 4];
        input.read_exact(&mut bytes).map_err(|error| damaged(path, error))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let (version, length, crc) = (number()?, number()?, number()?);
    if version != FORMAT_VERSION {
        return Err(damaged(path, format!("it has format {version}, this version reads {FORMAT_VERSION}")));
    }
    if length > META_BYTES_MAX {
        return Err(damaged(path, "its head has an impossible length"));
    }
    let mut encoded = vec![0; length as usize];
    input.read_exact(&mut encoded).map_err(|error| damaged(path, error))?;
    if crc32c::crc32c(&encoded) != crc {
        return Err(damaged(path, "its head has a wrong checksum"));
    }
    let meta = proto::SnapshotMeta::decode(&*encoded).map_err(|error| damaged(path, error))?;
    let meta = convert::meta_from_proto(&meta).map_err(|error| damaged(path, error))?;
    let (position, image) = snapshot::read(&mut input).map_err(|error| damaged(path, error))?;
    if position.last_offset != meta.last_log_id.map_or(-1, |id| id.index as i64) {
        return Err(damaged(path, "its two halves are of different offsets"));
    }
    Ok((meta, position, image))
}

/// The newest snapshot of a directory. Unfinished ones are removed.
pub fn newest(fs: &dyn Fs, dir: &Path) -> io::Result<Option<SnapshotFile>> {
    fs.create_dir_all(dir)?;
    let mut newest = None;
    for entry in fs.read_dir(dir)? {
        if entry.name.ends_with(UNFINISHED_SUFFIX) {
            fs.remove_file(&dir.join(&entry.name))?;
        } else if entry.name.ends_with(SUFFIX) {
            newest = Some(dir.join(&entry.name));
        }
    }
    let Some(path) = newest else { return Ok(None) };
    let file = fs.open(&path, OpenMode::Read)?;
    let length = file.len()?;
    Ok(Some(SnapshotFile { path, file, length }))
}
