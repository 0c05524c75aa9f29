//! Each program has the name of its target.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let target = odradek_fuzz::find(env!("CARGO_BIN_NAME")).expect("a program bears the name of a target");
    (target.run)(data);
});
