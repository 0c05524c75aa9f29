//! Record batches of format version 2 (KIP-98), the form in which records travel and lie on disk.
//!
//! - [`BatchHeader`] reads the 61 bytes in front of a batch, [`slices`] and [`Batches`] walk over many batches without
//!   copying, [`patch`] rewrites the fields a broker assigns.
//! - [`Batch::records`] decompresses (with a bound) and iterates; [`scan_records`] checks the records of a batch
//!   without keeping them.
//! - [`rewrite`] writes a batch anew with some of its records left out.
//! - [`RecordBatchBuilder`] makes batches; [`control`] makes and reads transaction markers.
//!
//! The older formats (magic 0 and 1) are recognised and refused: Kafka 4 does not store them either (KIP-724).
//! Everything here may be fed with hostile bytes: it answers with an error and allocates no more than it was allowed.

pub mod batches;
pub mod builder;
pub mod compression;
pub mod control;
pub mod header;
pub mod patch;
pub mod record;
pub mod rewrite;
pub mod summary;
mod varint;

pub use batches::{Batch, BatchSlice, Batches, slices};
pub use builder::{BuildError, RecordBatchBuilder, TimestampType};
pub use compression::{Codec, Compression, CompressionError};
pub use control::{ControlType, EndTxnMarker};
pub use header::{Attributes, BatchError, BatchHeader, HEADER_BYTES, MAGIC_V2};
pub use record::{
    DECOMPRESSED_BYTES_MAX, Header, RawRecord, Record, RecordError, RecordSummary, Records, payload, raw_records,
    scan_records,
};
pub use summary::{BatchSummary, summarize_records};
