//! Walking over many batches that lie one after another, without copying them.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;

use crate::header::{BatchError, BatchHeader};
use crate::record::{RecordError, Records};

/// One batch, sharing the buffer it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub header: BatchHeader,
    /// Exactly the batch: `header.size` bytes.
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the batch at the start of `bytes`; what follows it is left out.
    pub fn parse(bytes: &Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        if bytes.len() < header.size {
            return Err(BatchError::Incomplete { have: bytes.len(), need: header.size });
        }
        Ok(Self { header, bytes: bytes.slice(..header.size) })
    }

    pub fn check_crc(&self) -> Result<(), BatchError> {
        self.header.check_crc(&self.bytes)
    }

    /// The records. Those of a compressed batch are decompressed here, at most `decompressed_bytes_max` bytes.
    pub fn records(&self, decompressed_bytes_max: usize) -> Result<Records, RecordError> {
        Records::new(self, decompressed_bytes_max)
    }
}

/// The batches in a buffer. Ends after the first error; a buffer that ends inside a batch gives
/// [`BatchError::Incomplete`] last.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(&self.rest);
        match &batch {
            Ok(batch) => drop(self.rest.split_to(batch.header.size)),
            Err(_) => self.rest.clear(),
        }
        Some(batch)
    }
}

/// One batch, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSlice<'a> {
    pub header: BatchHeader,
    /// Exactly the batch: `header.size` bytes.
    pub bytes: &'a [u8],
}

/// As [`Batches`], over borrowed bytes.
pub fn slices(bytes: &[u8]) -> impl Iterator<Item = Result<BatchSlice<'_>, BatchError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut rest);
        Some(BatchHeader::parse(all).and_then(|header| match all.split_at_checked(header.size) {
            Some((bytes, tail)) => {
                rest = tail;
                Ok(BatchSlice { header, bytes })
            }
            None => Err(BatchError::Incomplete { have: all.len(), need: header.size }),
        }))
    })
}
