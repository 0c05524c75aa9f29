//! What the answer to ApiVersions needs (KIP-35, KIP-511).

use std::ops::RangeInclusive;

use odradek_common::ErrorCode;

use crate::api_versions_response::{ApiVersion, ApiVersionsResponse};
use crate::{ApiKey, Message};

/// The entries for what a node serves, ascending by key.
///
/// Produce is advertised from version 0 although 3 is the least that anyone can speak: librdkafka takes a higher
/// minimum for a broker that does not know its compression codecs (KAFKA-18659).
pub fn api_versions_entries(served: impl IntoIterator<Item = (ApiKey, RangeInclusive<i16>)>) -> Vec<ApiVersion> {
    let mut entries: Vec<ApiVersion> = served
        .into_iter()
        .filter(|(_, versions)| !versions.is_empty())
        .map(|(key, versions)| ApiVersion {
            api_key: key.code(),
            min_version: if key == ApiKey::Produce { 0 } else { *versions.start() },
            max_version: *versions.end(),
            ..ApiVersion::default()
        })
        .collect();
    entries.sort_by_key(|entry| entry.api_key);
    entries
}

/// The answer to an ApiVersions request of a version that is not served: to be encoded at version 0, whatever was asked,
/// so that the client can read from it which versions to ask for.
pub fn unsupported_api_versions_version(entries: Vec<ApiVersion>) -> ApiVersionsResponse {
    debug_assert_eq!(ApiVersionsResponse::MIN_VERSION, 0);
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: entries,
        ..ApiVersionsResponse::default()
    }
}
