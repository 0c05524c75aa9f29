//! Bytes from the network may be anything: decoding answers with a value or an error, and never allocates more than a
//! constant times the frame.

use bytes::Bytes;
use odradek_common::rng::{Rng, SplitMix64};

use super::allocations;
use crate::decoder::{MEMORY_ANYWAY, MEMORY_PER_FRAME_BYTE};
use crate::filler::{MESSAGES, MessageInfo, STRUCTS};
use crate::{DecodeErrorKind, Decoder, FetchRequest, Message, MetadataRequest, ProduceRequest, RawTaggedField, Str};

/// How deep the arrays of the schema nest, tagged fields included.
const NESTED_ARRAYS_MAX: usize = 5;

/// What decoding may hold at once, for a frame of this length.
fn bound(message: &MessageInfo, frame: usize) -> usize {
    let budget = frame * MEMORY_PER_FRAME_BYTE + MEMORY_ANYWAY;
    // Each element's memory is paid for by its least bytes, a raw tagged field's by two. An array inside an array may
    // claim the same bytes again before the frame turns out to be too short.
    let paid = frame * NESTED_ARRAYS_MAX * ratio(message).max(size_of::<RawTaggedField>() / 2);
    // Sharing the frame takes a small allocation.
    budget.min(paid) + 64
}

/// The most bytes of memory per byte on the wire among the parts of a message.
fn ratio(message: &MessageInfo) -> usize {
    let ratio = |(_, size, least): &(&str, usize, usize)| size.div_ceil((*least).max(1));
    let inside = format!("::{}", message.name);
    let path = STRUCTS.iter().find(|(path, ..)| path.ends_with(&inside)).expect("a struct of the message").0;
    let module = path.strip_suffix(message.name).expect("ends so");
    let parts = STRUCTS.iter().filter(|(path, ..)| path.starts_with(module));
    parts.map(ratio).max().unwrap_or(0).max(size_of::<Str>())
}

fn for_each_version(mut check: impl FnMut(&MessageInfo, i16)) {
    for message in MESSAGES {
        for version in message.min_version..=message.max_version {
            check(message, version);
        }
    }
}

/// Whether the frame is such a message; what decoding held at once is checked.
fn decode_within_bounds(message: &MessageInfo, version: i16, frame: &[u8]) -> bool {
    let frame = Bytes::copy_from_slice(frame);
    let length = frame.len();
    let (decodes, peak) = allocations::peak_of(|| (message.decodes)(frame, version).is_ok());
    assert!(
        peak <= bound(message, length),
        "{} v{version}: {peak} bytes allocated for a frame of {length}",
        message.name,
    );
    decodes
}

#[test]
fn a_frame_cut_short_anywhere_is_an_error() {
    for_each_version(|message, version| {
        for seed in 1..3 {
            let whole = (message.encode_filled)(seed, version).expect("encodes");
            for cut in 0..whole.len() {
                let decodes = decode_within_bounds(message, version, &whole[..cut]);
                assert!(!decodes, "{} v{version} decodes from {cut} of {} bytes", message.name, whole.len());
            }
        }
    });
}

#[test]
fn flipped_bits_never_panic_nor_exhaust_memory() {
    let mut rng = SplitMix64::new(3);
    for_each_version(|message, version| {
        for seed in 1..5 {
            let whole = (message.encode_filled)(seed, version).expect("encodes");
            for _ in 0..40 {
                let mut bent = whole.to_vec();
                for _ in 0..=rng.below(4) {
                    if !bent.is_empty() {
                        let at = rng.below(bent.len() as u64) as usize;
                        bent[at] ^= 1 << rng.below(8);
                    }
                }
                if decode_within_bounds(message, version, &bent) {
                    // What decodes can be said again at the same version: nothing was read that cannot be written.
                    let _ = (message.recode)(Bytes::from(bent), version).expect("decoded before");
                }
            }
        }
    });
}

#[test]
fn noise_and_the_largest_claims_never_exhaust_memory() {
    let mut rng = SplitMix64::new(4);
    for_each_version(|message, version| {
        for length in [1, 7, 64, 300] {
            let noise: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            decode_within_bounds(message, version, &noise);
            // The largest lengths that each encoding can claim, at every place.
            decode_within_bounds(message, version, &vec![0x7f; length]);
            decode_within_bounds(message, version, &vec![0xff; length]);
            decode_within_bounds(message, version, &vec![0x00; length]);
            // As many elements as fit, each as short as can be: the worst ratio of memory to bytes.
            decode_within_bounds(message, version, &vec![0x01; length]);
            decode_within_bounds(message, version, &vec![0x02; length]);
        }
        // A valid start, then a claim that the rest would fit.
        let whole = (message.encode_filled)(1, version).expect("encodes");
        for at in 0..whole.len().min(60) {
            let mut claim = whole[..at].to_vec();
            claim.extend_from_slice(&200u32.to_be_bytes());
            claim.extend_from_slice(&[0; 400]);
            decode_within_bounds(message, version, &claim);
            claim.truncate(at);
            claim.extend_from_slice(&[0xc8, 0x01]);
            claim.extend_from_slice(&[0; 400]);
            decode_within_bounds(message, version, &claim);
        }
    });
}

#[test]
fn a_large_frame_of_the_shortest_elements_stays_within_the_budget() {
    for message in MESSAGES {
        for byte in [0x01, 0x02, 0x00] {
            decode_within_bounds(message, message.max_version, &vec![byte; 100_000]);
        }
    }
    // The budget is what stops it: some message would otherwise take more.
    let worst = MESSAGES.iter().map(ratio).max().expect("messages");
    assert!(worst > MEMORY_PER_FRAME_BYTE, "the worst ratio is {worst}: the budget is not needed");
}

#[test]
fn a_claim_beyond_the_frame_is_refused_before_anything_is_allocated() {
    // MetadataRequest v1: an array of topics with 2^31 - 1 elements, and not a byte more.
    let frame = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]);
    let (error, peak) = allocations::peak_of(|| MetadataRequest::decode(&mut Decoder::new(frame), 1).unwrap_err());
    assert_eq!(error.kind, DecodeErrorKind::TooManyElements { field: "Topics", claimed: 0x7fff_ffff, left: 0 });
    assert_eq!(peak, 0);
}

#[test]
fn errors_name_message_version_place_and_field() {
    let check = |error: crate::DecodeError, expected: &str| assert_eq!(error.to_string(), expected);
    let decode = |bytes: &'static [u8]| Decoder::new(Bytes::from_static(bytes));
    check(
        ProduceRequest::decode(&mut decode(&[0, 3, b'a']), 3).unwrap_err(),
        "ProduceRequest v3, byte 2: 3 bytes are needed, 1 are left",
    );
    check(
        ProduceRequest::decode(&mut decode(&[0, 1, 0xff]), 3).unwrap_err(),
        "ProduceRequest v3, byte 3: TransactionalId: not UTF-8",
    );
    check(
        ProduceRequest::decode(&mut decode(&[0xff, 0xfe]), 3).unwrap_err(),
        "ProduceRequest v3, byte 2: TransactionalId: length -2 is not allowed",
    );
    check(
        ProduceRequest::decode(&mut decode(&[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]), 3).unwrap_err(),
        "ProduceRequest v3, byte 12: TopicData: null is not allowed",
    );
    check(
        ProduceRequest::decode(&mut decode(&[0x80, 0x80, 0x80, 0x80, 0x10]), 9).unwrap_err(),
        "ProduceRequest v9, byte 5: a variable-length number is longer than five bytes",
    );
    check(
        FetchRequest::decode(&mut decode(&[]), 99).unwrap_err(),
        "FetchRequest v99, byte 0: this version does not exist",
    );
    check(
        FetchRequest::decode(&mut decode(&[]), -1).unwrap_err(),
        "FetchRequest v-1, byte 0: this version does not exist",
    );
}
