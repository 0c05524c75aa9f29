//! ApiVersions (KIP-35, KIP-511, KIP-584): what this broker serves, and which features are finalized.

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_metadata::Image;
use odradek_wire::api_versions_request::ApiVersionsRequest;
use odradek_wire::api_versions_response::{ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey};
use odradek_wire::{Str, api_versions_entries, unsupported_api_versions_version};

use super::dispatch::Asked;
use super::{Api, Client};
use crate::life::supported_features;

impl Api {
    /// A client names its software here, for all its later requests.
    pub(super) fn api_versions(&self, client: &mut Client, asked: Asked<ApiVersionsRequest>) -> ApiVersionsResponse {
        let request = &asked.body;
        if asked.version >= 3 {
            if !is_software_name(&request.client_software_name) || !is_software_name(&request.client_software_version) {
                return error(ErrorCode::InvalidRequest);
            }
            let context = Arc::make_mut(&mut client.context);
            context.software_name = Some(request.client_software_name.detached());
            context.software_version = Some(request.client_software_version.detached());
        }
        // From version 5 on a client may say whom it believes to have reached (KIP-1242).
        let other_cluster = request.cluster_id.as_ref().is_some_and(|id| *id != self.cluster_id);
        let other_node = request.node_id >= 0 && request.node_id != self.broker_id.0;
        if other_cluster || other_node {
            return error(ErrorCode::RebootstrapRequired);
        }
        self.served(&self.cache.image())
    }

    /// To be encoded at version 0.
    pub(super) fn unsupported_version(&self) -> ApiVersionsResponse {
        unsupported_api_versions_version(api_versions_entries(self.apis()))
    }

    fn served(&self, image: &Image) -> ApiVersionsResponse {
        let supported = supported_features().into_iter().map(|feature| SupportedFeatureKey {
            // Level 0 of `metadata.version` does not exist; other features can be off.
            min_version: feature.min_level as i16,
            max_version: feature.max_level as i16,
            name: feature.name.into(),
            ..SupportedFeatureKey::default()
        });
        let finalized =
            image.features().iter().filter(|(_, level)| **level > 0).map(|(name, level)| FinalizedFeatureKey {
                name: Str::from(name.as_str()),
                max_version_level: *level,
                min_version_level: *level,
                ..FinalizedFeatureKey::default()
            });
        ApiVersionsResponse {
            api_keys: api_versions_entries(self.apis()),
            supported_features: supported.collect(),
            // Kafka's epoch is the metadata offset up to which the features are known.
            finalized_features_epoch: image.offset(),
            finalized_features: finalized.collect(),
            ..ApiVersionsResponse::default()
        }
    }
}

fn error(error: ErrorCode) -> ApiVersionsResponse {
    ApiVersionsResponse { error_code: error.code(), ..ApiVersionsResponse::default() }
}

/// KIP-511: letters, digits, dots and dashes, and neither of these at an end.
fn is_software_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    name.bytes().all(inner)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::is_software_name;

    #[test]
    fn software_names() {
        for (name, valid) in [
            ("apache-kafka-java", true),
            ("4.3.1", true),
            ("x", true),
            ("", false),
            ("-x", false),
            ("x.", false),
            ("a b", false),
        ] {
            assert_eq!(is_software_name(name), valid, "{name}");
        }
    }
}
