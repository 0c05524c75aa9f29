//! The file in a controller's directory that a new cluster begins with, if it was something else before: a snapshot of the
//! metadata (see [`crate::snapshot`]) that the first leader of the quorum writes into its log.
//!
//! It is made once, by a tool, before the controllers' first start, and the same for each of them. It says nothing to a
//! quorum that has a log already.

use std::io::{self, Cursor};
use std::path::Path;

use odradek_common::fs::{Fs, read_file, write_file_atomically};

use crate::Image;
use crate::snapshot::{self, Position};

/// The file's name in the controller's directory.
pub const FILE_NAME: &str = "bootstrap.metadata";
/// It becomes one entry of the Raft log, and travels as one message, which may have 64 MiB. Half a million partitions fit.
pub const BYTES_MAX: u64 = 48 << 20;

/// Reads a directory's file; `None` when there is none.
///
/// # Errors
/// When it is damaged, of an unknown format, or cannot be read; the text names the file.
pub fn read(fs: &dyn Fs, dir: &Path) -> io::Result<Option<Image>> {
    let path = dir.join(FILE_NAME);
    let bytes = match read_file(fs, &path, BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    match snapshot::read(&mut Cursor::new(bytes)) {
        Ok((_, image)) => Ok(Some(image)),
        Err(error) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} cannot be used: {error}", path.display())))
        }
    }
}

/// The file's bytes.
///
/// # Errors
/// When they are too many for a quorum to agree on at once.
pub fn encode(image: &Image, timestamp_ms: i64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    snapshot::write(image, Position { last_offset: -1, last_term: 0, timestamp_ms }, &mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let message =
            format!("the metadata has {} bytes, more than the {BYTES_MAX} that can be taken over", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

/// Writes a directory's file durably.
///
/// # Errors
/// What the disk returns.
pub fn write(fs: &dyn Fs, dir: &Path, bytes: &[u8]) -> io::Result<()> {
    write_file_atomically(fs, &dir.join(FILE_NAME), bytes)
}
