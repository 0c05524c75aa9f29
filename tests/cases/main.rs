//! Whole-cluster tests. Each module is one area; `tidy` alone starts no process.
//!
//! Clusters run one at a time (see `Permit`), whatever the number of test threads.

mod adopt;
mod bad_input;
mod cli;
mod compaction;
mod configs;
mod consumer_groups;
mod copies;
mod deploy;
mod differential;
mod disks;
mod edges;
mod failover;
mod flush;
mod frameworks;
mod go;
mod group_cli;
mod group_insight;
mod groups;
mod guide;
mod idempotence;
mod java;
mod kafka_tool_set;
mod kafka_tools;
mod librdkafka;
mod log_files;
mod loss;
mod many;
mod metrics;
mod node;
mod produce_fetch;
mod python;
mod reassignment;
mod refusals;
mod restart;
mod tidy;
mod transactions;

/// `count` values of `bytes` bytes, each different, starting with `prefix`.
fn values(prefix: &str, count: usize, bytes: usize) -> Vec<Vec<u8>> {
    let each = (0..count).map(|index| {
        let mut value = format!("{prefix}-{index}").into_bytes();
        value.resize(value.len().max(bytes), b'.');
        value
    });
    each.collect()
}
