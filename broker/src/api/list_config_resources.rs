//! ListConfigResources (KIP-1142): what there is to configure. Version 0 asks for subscriptions to clients' metrics only,
//! as the API did under its old name ListClientMetricsResources (KIP-1000).

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_metadata::ResourceType;
use odradek_wire::list_config_resources_request::ListConfigResourcesRequest;
use odradek_wire::list_config_resources_response::{ConfigResource, ListConfigResourcesResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;
const ALL: &[i8] = &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

impl Api {
    pub(super) fn list_config_resources(
        self: &Arc<Self>,
        asked: Asked<ListConfigResourcesRequest>,
    ) -> Outcome<ListConfigResourcesResponse> {
        let Asked { context, version, body: request, .. } = asked;
        let failed = |error: ErrorCode| {
            Outcome::Done(ListConfigResourcesResponse {
                error_code: error.code(),
                ..ListConfigResourcesResponse::default()
            })
        };
        if !self.allows(&context, Operation::DescribeConfigs, Resource::Cluster) {
            return failed(ErrorCode::ClusterAuthorizationFailed);
        }
        let wanted: Vec<i8> = match request.resource_types.as_slice() {
            _ if version == 0 => vec![CLIENT_METRICS],
            [] => ALL.to_vec(),
            // A type that is asked for twice is answered once.
            types => ALL.iter().copied().filter(|kind| types.contains(kind)).collect(),
        };
        if request.resource_types.iter().any(|kind| !ALL.contains(kind)) {
            return failed(ErrorCode::UnsupportedVersion);
        }
        let image = self.cache.image();
        let configured = |kind: ResourceType| {
            let resources = image.configs().map(|(resource, _)| resource);
            resources.filter(move |resource| resource.kind == kind).map(|resource| resource.name.to_string())
        };
        let mut config_resources = Vec::new();
        for kind in wanted {
            let names: Vec<String> = match kind {
                TOPIC => image.topics_by_name().map(|topic| topic.name.to_string()).collect(),
                CLIENT_METRICS => configured(ResourceType::ClientMetrics).collect(),
                GROUP => configured(ResourceType::Group).collect(),
                _ => image.alive_brokers().map(|broker| broker.id.to_string()).collect(),
            };
            config_resources.extend(names.into_iter().map(|name| ConfigResource {
                resource_name: name.into(),
                resource_type: kind,
                ..ConfigResource::default()
            }));
        }
        Outcome::Done(ListConfigResourcesResponse { config_resources, ..ListConfigResourcesResponse::default() })
    }
}
