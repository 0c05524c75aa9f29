//! Turns the facts of Kafka's messages (`schema/*.json`) into Rust: one module per message, the `ApiKey` enum, and the
//! table of all messages that tests iterate.
//!
//! `schema` reads the facts, `names` turns Kafka's names into Rust's, `generate` writes a message, `api_keys` the enum.
//! The generated code is thin: everything that can be a function lives in `src/encoder.rs` and `src/decoder.rs`.

mod api_keys;
mod generate;
mod names;
mod schema;

use std::path::Path;
use std::{env, fs};

const SCHEMAS: [&str; 3] =
    ["schema/messages-4.4.0.json", "schema/internal-topics-4.3.1.json", "schema/metadata-records-4.3.1.json"];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo names the package");
    let out = env::var("OUT_DIR").expect("cargo names the directory");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=schema");

    let mut messages = Vec::new();
    for path in SCHEMAS {
        let text = fs::read_to_string(Path::new(&root).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        messages.extend(schema::parse(&text));
    }
    let write = |name: &str, text: String| {
        fs::write(Path::new(&out).join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    write("messages.rs", generate::messages(&messages));
    write("api_keys.rs", api_keys::enumeration(&messages));
    write("table.rs", generate::table(&messages));
}
