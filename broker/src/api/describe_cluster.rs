//! DescribeCluster (KIP-700, KIP-919, KIP-1073).

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_common::rng::Rng;
use odradek_metadata::Image;
use odradek_wire::describe_cluster_request::DescribeClusterRequest;
use odradek_wire::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};

use super::authorizer::authorized_operations;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource};

/// What `endpoint_type` can be.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

impl Api {
    pub(super) fn describe_cluster(
        self: &Arc<Self>,
        asked: Asked<DescribeClusterRequest>,
    ) -> Outcome<DescribeClusterResponse> {
        let Asked { context, body: request, .. } = asked;
        let error = |error: ErrorCode, message: String| DescribeClusterResponse {
            error_code: error.code(),
            error_message: Some(message.into()),
            endpoint_type: BROKERS,
            ..DescribeClusterResponse::default()
        };
        Outcome::Done(match request.endpoint_type {
            BROKERS if self.allows(&context, Operation::Describe, Resource::Cluster) => {
                self.cluster(&context, &request)
            }
            BROKERS => error(ErrorCode::ClusterAuthorizationFailed, "describing the cluster is not allowed".to_owned()),
            CONTROLLERS => error(
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
                    .to_owned(),
            ),
            other => error(ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {other}")),
        })
    }

    fn cluster(&self, context: &RequestContext, request: &DescribeClusterRequest) -> DescribeClusterResponse {
        let image = self.cache.image();
        let brokers = image.brokers().filter(|broker| request.include_fenced_brokers || !broker.fenced);
        let brokers = brokers.filter_map(|broker| {
            let endpoint = broker.endpoint(&context.listener)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host: endpoint.host.as_str().into(),
                port: endpoint.port.into(),
                rack: broker.rack.as_deref().map(Into::into),
                is_fenced: broker.fenced,
                ..DescribeClusterBroker::default()
            })
        });
        let mut response = DescribeClusterResponse {
            endpoint_type: BROKERS,
            cluster_id: self.cluster_id.clone(),
            controller_id: self.some_alive_broker(&image),
            brokers: brokers.collect(),
            ..DescribeClusterResponse::default()
        };
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations =
                authorized_operations(&*self.authorizer, context, Resource::Cluster);
        }
        response
    }

    /// Clients are told of some alive broker where they ask for the controller: it forwards what they send it (as Kafka
    /// does in KRaft mode).
    pub(super) fn some_alive_broker(&self, image: &Image) -> i32 {
        let alive: Vec<i32> = image.alive_brokers().map(|broker| broker.id.0).collect();
        if alive.is_empty() {
            return -1;
        }
        let at = self.world.rng().below(alive.len() as u64);
        usize::try_from(at).ok().and_then(|at| alive.get(at).copied()).unwrap_or(-1)
    }
}
