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
    /// gzip 1 to 9, zstd as the library has them, lz4 1 to 17 where [`LZ4_LEVEL_FAST`] is the fast way of packing and all
    /// others are the thorough one. snappy has no levels.
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

/// The level of lz4 that Kafka means the fast compressor by, its default; every other one tries harder.
pub const LZ4_LEVEL_FAST: i32 = 9;
/// The levels that the thorough compressor of lz4 tells apart; Kafka's, up to 17, above count as the last.
const LZ4_LEVELS_THOROUGH: (i32, i32) = (2, 12);

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
        // As Kafka's own writer: independent blocks of 64 KiB, no checksums. The Java client refuses linked blocks.
        Codec::Lz4 if compression.level.is_some_and(|level| level != LZ4_LEVEL_FAST) => {
            let (least, most) = LZ4_LEVELS_THOROUGH;
            let level = compression.level.unwrap_or(least).clamp(least, most);
            let encoder = lz4::EncoderBuilder::new()
                .level(level.unsigned_abs())
                .block_mode(lz4::BlockMode::Independent)
                .block_size(lz4::BlockSize::Max64KB)
                .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                .checksum(lz4::ContentChecksum::NoChecksum)
                .build(&mut *out);
            encoder.and_then(|mut encoder| {
                let written = encoder.write_all(bytes);
                let (_, ended) = encoder.finish();
                written.and(ended)
            })
        }
        Codec::Lz4 => {
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
        Codec::Lz4 => {
            check_lz4_frame(bytes)
                .map_err(|message| CompressionError::Damaged { codec: codec.name(), message: message.to_owned() })?;
            Box::new(lz4_flex::frame::FrameDecoder::new(bytes))
        }
        Codec::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| damaged(codec, &error))?)
        }
    })
}

/// What Kafka's reader asks of an lz4 frame and a lenient one does not: no legacy frame, no frame to skip, no block that
/// depends on another, and an end mark. What is behind that, nobody reads.
///
/// ```text
/// magic u32, flags u8, block size u8, (content size u64), header checksum u8
/// blocks: length u32 (highest bit: stored as it is), bytes, (checksum u32)
/// end mark: 0u32
/// ```
fn check_lz4_frame(frame: &[u8]) -> Result<(), &'static str> {
    const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
    const INDEPENDENT_BLOCKS: u8 = 1 << 5;
    const BLOCK_CHECKSUMS: u8 = 1 << 4;
    const CONTENT_SIZE: u8 = 1 << 3;
    const CUT: &str = "its frame is cut off";
    if frame.len() < MAGIC.len() {
        return Err(CUT);
    }
    let frame = frame.strip_prefix(&MAGIC).ok_or("it does not begin with an lz4 frame")?;
    let flags = *frame.first().ok_or(CUT)?;
    if flags & INDEPENDENT_BLOCKS == 0 {
        return Err("its frame has blocks that depend on each other, which Kafka's clients cannot read: write \
                    independent blocks");
    }
    let descriptor_bytes = if flags & CONTENT_SIZE == 0 { 3 } else { 11 };
    let mut rest = frame.get(descriptor_bytes..).ok_or(CUT)?;
    loop {
        let (length, blocks) = rest.split_first_chunk().ok_or(CUT)?;
        let length = (u32::from_le_bytes(*length) & !(1 << 31)) as usize;
        if length == 0 {
            return Ok(());
        }
        let checksum_bytes = if flags & BLOCK_CHECKSUMS == 0 { 0 } else { 4 };
        rest = blocks.get(length + checksum_bytes..).ok_or(CUT)?;
    }
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

    /// Decompresses the next block into `block`, which stays empty where there is none.
    fn next_block(&mut self) -> io::Result<()> {
        self.block.clear();
        self.position = 0;
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let block = if self.framed {
            // One stream may follow another, as `snappy-java` has it.
            if self.rest.starts_with(&XERIAL_HEADER) {
                self.rest = self.rest.get(XERIAL_HEADER.len()..).unwrap_or_default();
                return Ok(());
            }
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
        self.block.resize(length, 0);
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
    fn an_lz4_frame_that_kafka_cannot_read_is_refused() {
        let mut frame = Vec::new();
        let content: Vec<u8> = (0..200_000u32).flat_map(|n| (n.wrapping_mul(n)).to_le_bytes()).collect();
        compress(Codec::Lz4.into(), &content, &mut frame).unwrap();
        // One block of a single literal run.
        let block = [&[6 << 4][..], b"legacy"].concat();
        let legacy = [&0x184C_2102u32.to_le_bytes()[..], &(block.len() as u32).to_le_bytes(), &block].concat();
        let skipped = [&0x184D_2A50u32.to_le_bytes()[..], &4u32.to_le_bytes(), b"skip", &frame].concat();
        for (why, bytes) in [
            ("no end mark", frame[..frame.len() - 4].to_vec()),
            ("half an end mark", frame[..frame.len() - 2].to_vec()),
            ("a legacy frame", legacy),
            ("a frame to skip", skipped),
            ("nothing", Vec::new()),
        ] {
            let error = decompress(Codec::Lz4, &bytes, 1 << 20).expect_err(why);
            assert!(matches!(error, CompressionError::Damaged { codec: "lz4", .. }), "{why}: {error}");
        }
        frame.extend_from_slice(b"behind the end mark");
        assert_eq!(decompress(Codec::Lz4, &frame, 1 << 20).expect("read"), content);
    }

    #[test]
    fn levels_make_other_bytes_of_the_same_frame() {
        let content: Vec<u8> =
            (0..40_000u32).flat_map(|n| format!("{} of {};", n % 977, n / 31).into_bytes()).collect();
        let packed = |codec, level| {
            let mut out = Vec::new();
            compress(Compression { codec, level }, &content, &mut out).expect("compressed");
            assert_eq!(decompress(codec, &out, content.len()).expect("decompressed"), content, "{codec:?} {level:?}");
            out
        };
        for (codec, quick, thorough) in [
            (Codec::Gzip, 1, 9),
            (Codec::Zstd, -5, 19),
            // Kafka's default is the fast way, whatever number it has.
            (Codec::Lz4, LZ4_LEVEL_FAST, 17),
            (Codec::Lz4, LZ4_LEVEL_FAST, 1),
        ] {
            let (quick, thorough) = (packed(codec, Some(quick)), packed(codec, Some(thorough)));
            assert!(thorough.len() < quick.len(), "{codec:?}: {} and {}", thorough.len(), quick.len());
        }
        assert_eq!(packed(Codec::Lz4, None), packed(Codec::Lz4, Some(LZ4_LEVEL_FAST)));
        // Magic, version 1 with independent blocks and nothing else, blocks of at most 64 KiB: what every client reads.
        for level in [None, Some(1), Some(LZ4_LEVEL_FAST), Some(12), Some(17)] {
            assert_eq!(packed(Codec::Lz4, level)[..6], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40], "{level:?}");
        }
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
