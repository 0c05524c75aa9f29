//! Walking over the batches in a file, by header, with or without checking the CRC. Memory is one buffer, whatever the
//! file says.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io;

use odradek_common::fs::File;
use odradek_records::header::CRC_START;
use odradek_records::{BatchError, BatchHeader, HEADER_BYTES};

/// Reads by which an offset is looked for: about the distance between two index entries.
pub(crate) const LOOKUP_BUFFER_BYTES: usize = 4096;
/// Reads of a scan over a whole file.
pub(crate) const RECOVERY_BUFFER_BYTES: usize = 256 * 1024;

/// A scan stopped before the end.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    /// At this position there is no sound batch.
    Batch(u64, BatchError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The batches of `file` from `position` up to `end`.
pub(crate) struct Scan<'a> {
    file: &'a dyn File,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where in the file the buffer's bytes come from.
    buffered_from: u64,
    buffered: usize,
}

impl<'a> Scan<'a> {
    pub fn new(file: &'a dyn File, position: u64, end: u64, buffer_bytes: usize) -> Self {
        let buffer = vec![0; buffer_bytes.min(end.saturating_sub(position) as usize).max(HEADER_BYTES)];
        Self { file, position, end, buffer, buffered_from: 0, buffered: 0 }
    }

    /// At least `least` bytes from `position` on, or what is left before the end.
    fn window(&mut self, position: u64, least: usize) -> io::Result<&[u8]> {
        let inside =
            position.checked_sub(self.buffered_from).map(|skip| skip as usize).filter(|skip| *skip <= self.buffered);
        let held = inside.map_or(0, |skip| self.buffered - skip);
        if held < least {
            let want = (self.buffer.len() as u64).min(self.end.saturating_sub(position)) as usize;
            let (target, _) = self.buffer.split_at_mut(want);
            // The file may have fewer bytes than it had when the scan began; what is missing is read as zeros would be:
            // not a batch.
            let mut filled = 0;
            while filled < target.len() {
                match self.file.read_at(target.split_at_mut(filled).1, position + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            (self.buffered_from, self.buffered) = (position, filled);
        }
        let skip = (position - self.buffered_from) as usize;
        Ok(self.buffer.get(skip..self.buffered).unwrap_or_default())
    }

    /// The header of the next batch and its position; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, ScanError> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let left = self.end - position;
        let header = BatchHeader::parse(self.window(position, HEADER_BYTES)?);
        let header = header.map_err(|error| ScanError::Batch(position, error))?;
        if header.size as u64 > left {
            let error = BatchError::Incomplete { have: left as usize, need: header.size };
            return Err(ScanError::Batch(position, error));
        }
        self.position += header.size as u64;
        Ok(Some((position, header)))
    }

    /// The header behind the last one, if it is one, without going on to it.
    pub fn peek(&mut self) -> io::Result<Option<BatchHeader>> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        Ok(BatchHeader::parse(self.window(position, HEADER_BYTES)?).ok())
    }

    /// Reads the whole batch and checks its CRC.
    pub fn check_crc(&mut self, position: u64, header: &BatchHeader) -> Result<(), ScanError> {
        let mut crc = 0;
        let mut at = position + CRC_START as u64;
        let end = position + header.size as u64;
        while at < end {
            let window = self.window(at, 1)?;
            let take = (window.len() as u64).min(end - at) as usize;
            if take == 0 {
                let error = BatchError::Incomplete { have: (at - position) as usize, need: header.size };
                return Err(ScanError::Batch(position, error));
            }
            crc = crc32c::crc32c_append(crc, window.split_at(take).0);
            at += take as u64;
        }
        if crc == header.crc {
            Ok(())
        } else {
            Err(ScanError::Batch(position, BatchError::Crc { stored: header.crc, computed: crc }))
        }
    }
}

/// Whether a file has nothing but zeros from `from` up to `to`: what was preallocated and not written. Fewer bytes than
/// reach behind a batch's length may be the beginning of one that was torn.
pub(crate) fn is_unwritten(file: &dyn File, from: u64, to: u64) -> io::Result<bool> {
    const LENGTH_END: u64 = 12;
    if to.saturating_sub(from) < LENGTH_END {
        return Ok(false);
    }
    let mut buffer = vec![0; RECOVERY_BUFFER_BYTES];
    let mut at = from;
    while let Some(data) = file.next_data(at)?.filter(|data| *data < to) {
        let want = (buffer.len() as u64).min(to - data) as usize;
        let read = match file.read_at(buffer.split_at_mut(want).0, data) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if buffer.split_at(read).0.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        at = data + read as u64;
    }
    Ok(true)
}
