//! Feature levels: what this version can do, and what the cluster has agreed to do (KIP-584, KIP-1022).
//!
//! A finalized level is a promise to clients: a producer that sees `transaction.version` 2 speaks the second transaction
//! protocol, a consumer that sees `group.version` 1 may use the new groups. So a level is supported here only when all
//! of the server behind it is there, and a cluster is born with the highest levels that are supported. Features that
//! are not listed are at 0.

use std::collections::BTreeMap;

use odradek_common::{BrokerId, ErrorCode};
use odradek_metadata::FeatureRange;

use crate::error::ApiError;

pub const METADATA_VERSION: &str = "metadata.version";
pub const ELIGIBLE_LEADER_REPLICAS: &str = "eligible.leader.replicas.version";
pub const GROUP_VERSION: &str = "group.version";
pub const TRANSACTION_VERSION: &str = "transaction.version";

/// A feature as this version knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    pub name: &'static str,
    pub min_level: i16,
    pub max_level: i16,
}

/// Everything above level 0. `metadata.version` is the number that Kafka 4.3 gives its newest; tools compare it.
/// `share.version` and `streams.version` follow with what they stand for.
pub const SUPPORTED: &[Supported] = &[
    Supported { name: ELIGIBLE_LEADER_REPLICAS, min_level: 0, max_level: 1 },
    Supported { name: GROUP_VERSION, min_level: 0, max_level: 1 },
    Supported { name: METADATA_VERSION, min_level: 30, max_level: 30 },
    Supported { name: TRANSACTION_VERSION, min_level: 0, max_level: 2 },
];

/// What brokers of this version say when they register.
pub fn supported_ranges() -> Vec<FeatureRange> {
    let ranges = SUPPORTED.iter().map(|feature| FeatureRange {
        name: feature.name.to_owned(),
        min_level: feature.min_level,
        max_level: feature.max_level,
    });
    ranges.collect()
}

/// Whether a broker that supports `ranges` can work with the finalized levels. What it does not mention it supports at
/// level 0 only.
///
/// # Errors
/// UNSUPPORTED_VERSION, with the feature and the levels.
pub fn check_broker(
    broker: BrokerId,
    ranges: &[FeatureRange],
    finalized: &BTreeMap<String, i16>,
) -> Result<(), ApiError> {
    let mentioned = ranges.iter().map(|range| (range.name.as_str(), range.min_level, range.max_level));
    let silent = finalized.keys().filter(|name| !ranges.iter().any(|range| range.name == **name));
    let silent = silent.map(|name| (name.as_str(), 0, 0));
    for (name, min_level, max_level) in mentioned.chain(silent) {
        let level = finalized.get(name).copied().unwrap_or(0);
        if level < min_level || level > max_level {
            let message = format!(
                "Unable to register because broker {broker} does not support finalized version {level} of {name}. The \
                 broker wants a version between {min_level} and {max_level}, inclusive."
            );
            return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
        }
    }
    Ok(())
}
