//! Any message at any version from any bytes: what decodes also encodes, and its encoding decodes to the same again.
//!
//! The first three bytes choose the message and the version; the rest is the message.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use odradek_wire::filler::MESSAGES;

fuzz_target!(|data: &[u8]| {
    let [high, low, version, rest @ ..] = data else { return };
    let message = &MESSAGES[usize::from(u16::from_be_bytes([*high, *low])) % MESSAGES.len()];
    let versions = message.max_version - message.min_version + 1;
    let version = message.min_version + i16::from(*version) % versions;
    // Tags may come in any order; written they must be ascending, so encoding may refuse.
    if let Ok(Ok(first)) = (message.recode)(Bytes::copy_from_slice(rest), version) {
        let second = (message.recode)(first.clone(), version).expect("our own bytes decode").expect("and encode");
        assert_eq!(first, second, "{} v{version}", message.name);
    }
});
