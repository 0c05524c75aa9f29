//! The log of the tests of coordinators. Tests outside of this crate include the file, so it names the contract by `super`.

use bytes::Bytes;
use odradek_common::{ErrorCode, Offset};

use super::{Append, CoordinatorLog};

/// A log in memory that refuses when told to.
#[derive(Default)]
pub struct MemoryLog {
    pub batches: Vec<Bytes>,
    pub end: i64,
    pub refuse: Option<ErrorCode>,
    /// The next batch was appended before, at this offset.
    pub repeated: Option<Offset>,
}

impl CoordinatorLog for MemoryLog {
    fn append(&mut self, append: Append) -> Result<Offset, ErrorCode> {
        if let Some(error) = self.refuse {
            return Err(error);
        }
        if let Some(before) = self.repeated.take() {
            return Ok(before);
        }
        let first = Offset(self.end);
        let mut batch = append.batch.to_vec();
        batch[..8].copy_from_slice(&first.0.to_be_bytes());
        self.batches.push(batch.into());
        self.end += append.records as i64;
        Ok(first)
    }
}
