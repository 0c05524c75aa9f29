//! The header of any frame.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use odradek_wire::frame::RequestFrame;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = RequestFrame::parse(Bytes::copy_from_slice(data)) {
        assert!(frame.body.remaining() <= data.len());
    }
});
