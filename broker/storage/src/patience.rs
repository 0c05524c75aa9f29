//! Whether a look-up may wait for the disk. One on a thread that serves others, and with its partition locked, may not: what
//! it needs and does not find in memory comes back as a [`ColdRange`], which a thread of the disk pool warms before the
//! look-up is made again.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

use odradek_common::fs::File;

/// Around what was missed in a log file, so much is read: the batches up to the next index entry and some more.
const WARM_BYTES: u64 = 128 * 1024;
/// An index is searched all over, so it is warmed whole up to this size: that of `segment.index.bytes` by default.
const INDEX_BYTES_MAX: u64 = 10 << 20;
const READ_BYTES: usize = 64 * 1024;

/// A part of a file that is needed, and was not in memory.
#[derive(Clone, Debug)]
pub struct ColdRange {
    file: Arc<dyn File>,
    offset: u64,
    len: u64,
}

impl ColdRange {
    /// Reads it, waiting for the disk. A failure is told again to whoever reads it next.
    pub fn warm(&self) {
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(self.len).unwrap_or(READ_BYTES))];
        let mut at = self.offset;
        while at < self.offset + self.len {
            match self.file.read_at(&mut buffer, at) {
                Ok(0) | Err(_) => return,
                Ok(read) => at += read as u64,
            }
        }
    }
}

/// Whether a look-up waits.
#[derive(Clone, Copy)]
pub(crate) enum Patience<'a> {
    Waits,
    /// It fails with `WouldBlock` in place of a wait, and leaves here what it missed.
    Refuses(&'a Mutex<Option<ColdRange>>),
}

impl<'a> Patience<'a> {
    /// The file as a look-up with this patience reads it.
    pub fn reader(self, file: &'a Arc<dyn File>, kind: Kind) -> Reader<'a> {
        Reader { file, kind, patience: self }
    }
}

/// What is read there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Log,
    Index,
}

pub(crate) struct Reader<'a> {
    file: &'a Arc<dyn File>,
    kind: Kind,
    patience: Patience<'a>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl Reader<'_> {
    fn missing(&self, offset: u64) -> ColdRange {
        let (file, page) = (self.file.clone(), offset & !0xfff);
        match self.kind {
            Kind::Log => ColdRange { file, offset: page, len: WARM_BYTES },
            Kind::Index => match self.file.len() {
                Ok(len) if len <= INDEX_BYTES_MAX => ColdRange { file, offset: 0, len },
                _ => ColdRange { file, offset: page, len: WARM_BYTES },
            },
        }
    }
}

impl File for Reader<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Patience::Refuses(missed) = self.patience else { return self.file.read_at(buffer, offset) };
        self.file.read_at_now(buffer, offset).inspect_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                *missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.missing(offset));
            }
        })
    }

    fn write_all_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
