//! The codecs of a record batch: none, gzip, snappy (in the framing of `snappy-java`, which Kafka uses; a bare snappy
//! block is read too), lz4 (frame format), zstd (KIP-110).
//!
//! Decompression is a stream with a bound on its output. What a decoder itself may allocate is bounded by the formats:
//! 4 MiB for an lz4 block, 128 MiB (of which only what is written becomes resident) for a zstd window, and for snappy
//! what a block of its size can hold.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, Read, Write};

/// A codec, by the number in a batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    pub fn id(self) -> u8 {
        self as u8
    }

    /// The name in configurations, as `none`, `gzip`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// By name; `uncompressed` is what `compression.type` calls `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "uncompressed" {
            return Some(Self::None);
        }
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// A codec and its level (KIP-390). `None` takes the codec's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    pub codec: Codec,
    /// gzip 1 to 9, zstd as the library has them. snappy has no levels, and lz4 here has only the fast one.
    pub level: Option<i32>,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        Self { codec, level: None }
    }
}

/// The records of a batch could not be (de)compressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    #[error("the record batch names the unknown compression codec {0}")]
    UnknownCodec(u8),
    #[error("the {codec} data of the record batch are damaged: {message}")]
    Damaged { codec: &'static str, message: String },
    #[error("the record batch decompresses to more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("the records could not be compressed with {codec}: {message}")]
    Compress { codec: &'static str, message: String },
}

/// What the xerial framing of `snappy-java` opens with: its magic, version 1, least compatible version 1.
const XERIAL_HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const XERIAL_MAGIC_BYTES: usize = 8;
/// Uncompressed bytes in one xerial block, as `snappy-java` cuts them by default.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// No snappy element makes more than 64 bytes of 3, so a block that claims more than this per byte lies.
const SNAPPY_RATIO_MAX: usize = 64;

/// Compresses `bytes`, appending to `out`.
pub fn compress(compression: Compression, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let codec = compression.codec;
    let result: io::Result<()> = match codec {
        Codec::None => out.write_all(bytes),
        Codec::Gzip => {
            let level = match compression.level {
                Some(level @ 1..=9) => flate2::Compression::new(level as u32),
                _ => flate2::Compression::default(),
            };
            let mut encoder = flate2::write::GzEncoder::new(&mut *out, level);
            encoder.write_all(bytes).and_then(|()| encoder.finish().map(drop))
        }
        Codec::Snappy => compress_xerial(bytes, out),
        Codec::Lz4 => {
            // As Kafka's own writer: independent blocks of 64 KiB, no checksums. The Java client refuses linked blocks.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut *out);
            encoder.write_all(bytes).and_then(|()| encoder.finish().map(drop).map_err(io::Error::other))
        }
        Codec::Zstd => zstd::stream::write::Encoder::new(&mut *out, compression.level.unwrap_or(3))
            .and_then(|mut encoder| encoder.write_all(bytes).and_then(|()| encoder.finish().map(drop))),
    };
    result.map_err(|error| CompressionError::Compress { codec: codec.name(), message: error.to_string() })
}

fn compress_xerial(bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = snap::raw::Encoder::new();
    out.extend_from_slice(&XERIAL_HEADER);
    for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        out.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

/// Decompresses all of `bytes`, at most `bytes_max` of output.
pub fn decompress(codec: Codec, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    reader(codec, bytes)?.take(bytes_max as u64 + 1).read_to_end(&mut out).map_err(|error| damaged(codec, &error))?;
    if out.len() > bytes_max { Err(CompressionError::TooLarge { bytes_max }) } else { Ok(out) }
}

pub(crate) fn damaged(codec: Codec, error: &io::Error) -> CompressionError {
    CompressionError::Damaged { codec: codec.name(), message: error.to_string() }
}

/// A stream of the decompressed bytes. It has no bound of its own.
pub(crate) fn reader(codec: Codec, bytes: &[u8]) -> Result<Box<dyn Read + '_>, CompressionError> {
    Ok(match codec {
        Codec::None => Box::new(bytes),
        Codec::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(bytes)),
        Codec::Snappy => Box::new(SnappyReader::new(bytes)),
        Codec::Lz4 if has_linked_blocks(bytes) => {
            let message = "its frame has blocks that depend on each other, which Kafka's clients cannot read: write \
                           independent blocks";
            return Err(CompressionError::Damaged { codec: codec.name(), message: message.to_owned() });
        }
        Codec::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(bytes)),
        Codec::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| damaged(codec, &error))?)
        }
    })
}

/// Whether an lz4 frame says that its blocks are not independent. Kafka takes none of these.
fn has_linked_blocks(frame: &[u8]) -> bool {
    const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
    const BLOCK_INDEPENDENCE: u8 = 1 << 5;
    frame.strip_prefix(&MAGIC).and_then(<[u8]>::first).is_some_and(|flags| flags & BLOCK_INDEPENDENCE == 0)
}

/// Reads xerial blocks one at a time, or one bare block.
struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    position: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let framed =
            bytes.len() >= XERIAL_HEADER.len() && bytes.starts_with(XERIAL_HEADER.split_at(XERIAL_MAGIC_BYTES).0);
        let rest = if framed { bytes.split_at(XERIAL_HEADER.len()).1 } else { bytes };
        Self { rest, framed, block: Vec::new(), position: 0 }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let block = if self.framed {
            let (length, rest) = self.rest.split_first_chunk().ok_or_else(|| invalid("a block's length is cut off"))?;
            let length =
                usize::try_from(i32::from_be_bytes(*length)).map_err(|_| invalid("a block's length is negative"))?;
            let (block, rest) = rest.split_at_checked(length).ok_or_else(|| invalid("a block is cut off"))?;
            self.rest = rest;
            block
        } else {
            std::mem::take(&mut self.rest)
        };
        let length = snap::raw::decompress_len(block).map_err(io::Error::other)?;
        if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(invalid("a block claims more bytes than it can hold"));
        }
        self.block.clear();
        self.block.resize(length, 0);
        self.position = 0;
        let written = snap::raw::Decoder::new().decompress(block, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(written);
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let available = self.block.get(self.position..).unwrap_or_default();
        let read = (&mut &*available).read(buffer)?;
        self.position += read;
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_round_trips_and_keeps_its_bound() {
        let bytes: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for codec in Codec::ALL {
            for input in [&bytes[..], &bytes[..1], &[]] {
                let mut out = Vec::new();
                compress(codec.into(), input, &mut out).expect("compressed");
                assert_eq!(decompress(codec, &out, input.len()).expect("decompressed"), input, "{codec:?}");
                if !input.is_empty() {
                    let error = decompress(codec, &out, input.len() - 1).unwrap_err();
                    assert_eq!(error, CompressionError::TooLarge { bytes_max: input.len() - 1 }, "{codec:?}");
                }
            }
        }
    }

    #[test]
    fn an_lz4_frame_of_linked_blocks_is_refused() {
        let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(b"linked").unwrap();
        let error = decompress(Codec::Lz4, &encoder.finish().unwrap(), 100).unwrap_err();
        assert!(error.to_string().contains("independent blocks"), "{error}");
    }

    #[test]
    fn a_bare_snappy_block_is_read() {
        let block = snap::raw::Encoder::new().compress_vec(b"a block without a frame").expect("compressed");
        assert_eq!(decompress(Codec::Snappy, &block, 100).expect("read"), b"a block without a frame");
    }

    #[test]
    fn a_snappy_block_cannot_claim_more_than_it_can_hold() {
        // The length prefix of a raw block says 4 GiB.
        let error = decompress(Codec::Snappy, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0], 1 << 40).unwrap_err();
        assert!(matches!(error, CompressionError::Damaged { codec: "snappy", .. }), "{error}");
    }

    #[test]
    fn damaged_bytes_are_an_error_and_not_a_panic() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut out = Vec::new();
            compress(codec.into(), &bytes, &mut out).expect("compressed");
            for position in 0..out.len() {
                let mut damaged = out.clone();
                damaged[position] ^= 0x41;
                let _ = decompress(codec, &damaged, 10_000);
                let _ = decompress(codec, &out[..position], 10_000);
            }
        }
    }
}
