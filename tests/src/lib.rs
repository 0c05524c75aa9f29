//! Evidence from real processes: a harness that runs whole clusters on free ports of the loopback interface, breaks
//! them, and checks what their clients were promised.
//!
//! `cluster` starts, kills, pauses and restarts nodes; `client` speaks Kafka's wire protocol byte by byte, with a codec
//! of its own so that an error in the product's codec cannot hide itself; `real` drives librdkafka, `java` and `go`
//! programs in those languages, `scripts` programs in Python and JavaScript, `kafka` Apache Kafka's tools and a node of
//! it, `tool_shell` many of those tools in one virtual machine; `faults` is a network that can be parted;
//! `history` remembers what was acknowledged and compares it with what is stored, `writer` is a producer that tells it;
//! `disk` is a disk that can be filled.
//! The tests themselves are in `cases/`. The harness builds nothing: it takes the binaries from `ODRADEK_BIN_DIR`, or
//! else from `target/release`.

pub mod client;
pub mod cluster;
pub mod differential;
pub mod disk;
pub mod faults;
pub mod go;
pub mod history;
pub mod java;
pub mod kafka;
pub mod process;
pub mod real;
pub mod scripts;
pub mod tool_shell;
pub mod wire;
pub mod writer;

use std::io::Write;
use std::time::{Duration, Instant};

pub use client::Client;
pub use cluster::{Cluster, Spec};

/// How often the harness looks at first whether something that it waits for has come true.
pub const POLL: Duration = Duration::from_millis(5);
/// How often at last, when it takes long.
const POLL_MAX: Duration = Duration::from_millis(100);

/// Calls `attempt` until it yields a value; after `limit`, fails with `what` and the last error.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let last = match attempt() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        let waited = began.elapsed();
        if waited > limit {
            anyhow::bail!("{what}: not within {limit:?}{last}");
        }
        std::thread::sleep((waited / 16).clamp(POLL, POLL_MAX));
    }
}

/// Says loudly, past the capture of the test runner, that something was not tested, and adds it to the file named by
/// `ODRADEK_SKIPS` so that a script can count.
pub fn skip(reason: &str) {
    let line = format!("SKIPPED: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("ODRADEK_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// A number of seconds from the environment, for tests whose length is a matter of patience.
pub fn seconds_from_env(name: &str, default: u64) -> Duration {
    Duration::from_secs(std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default))
}

/// Whether this run has time (`tests/run --long`): tests that search at random then search further.
pub fn is_long() -> bool {
    std::env::var_os("ODRADEK_LONG").is_some()
}

/// Whether this run has time; says past the capture of the test runner what waits for one that has.
pub fn is_long_or_say(what: &str) -> bool {
    if !is_long() {
        let _ = std::io::stderr().write_all(format!("only with tests/run --long: {what}\n").as_bytes());
    }
    is_long()
}
