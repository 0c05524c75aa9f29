//! Every decoder of bytes that come from the network or from a disk, as a function that may be called with anything: it answers
//! or refuses, and never panics, hangs or takes memory without a bound (rule 12 of the architecture).
//!
//! Two programs call them: `fuzz` here changes good inputs at random, from a seed, and needs nothing but this compiler;
//! `libfuzzer/` has a program of cargo-fuzz for each, which finds its way by coverage and needs a nightly one. A target that is
//! added to `TARGETS` belongs there too; a test sees to it.

mod controller;
mod coordinators;
pub mod driver;
mod files;
mod texts;
mod wire;

/// A decoder, and inputs that it accepts.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

pub const TARGETS: &[Target] = &[
    // From clients and other brokers.
    target("messages", wire::messages, wire::messages_seeds),
    target("request_frame", wire::request_frame, wire::request_frame_seeds),
    target("response_frame", wire::response_frame, wire::response_frame_seeds),
    target("record_batches", wire::record_batches, wire::record_batches_seeds),
    target("compressed", wire::compressed, wire::compressed_seeds),
    // From the disks of brokers.
    target("broker_files", files::broker_files, files::broker_files_seeds),
    target("log", files::log, files::log_seeds),
    target("group_records", coordinators::group_records, coordinators::group_records_seeds),
    target("transaction_records", coordinators::transaction_records, coordinators::transaction_records_seeds),
    // From the disks of controllers, and between controllers and brokers.
    target("raft_log", controller::raft_log, controller::raft_log_seeds),
    target("raft_snapshot", controller::raft_snapshot, controller::raft_snapshot_seeds),
    target("raft_messages", controller::raft_messages, controller::raft_messages_seeds),
    target("metadata_batch", controller::metadata_batch, controller::metadata_batch_seeds),
    target("metadata_snapshot", controller::metadata_snapshot, controller::metadata_snapshot_seeds),
    // Written by people.
    target("properties", texts::properties, texts::properties_seeds),
    target("meta_properties", texts::meta_properties, texts::meta_properties_seeds),
];

pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_seeds_and_a_thousand_changes_of_them() {
        for target in TARGETS {
            let inputs = driver::Inputs::new(target, 1);
            assert!(!(target.seeds)().is_empty(), "{} has seeds", target.name);
            for input in inputs.take(1_000) {
                (target.run)(&input);
            }
        }
    }

    #[test]
    fn every_target_has_a_program_for_libfuzzer() {
        let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/Cargo.toml");
        let text = std::fs::read_to_string(place).expect("libfuzzer/Cargo.toml");
        for target in TARGETS {
            assert!(text.contains(&format!("name = \"{}\"", target.name)), "{} is missing there", target.name);
        }
    }
}
