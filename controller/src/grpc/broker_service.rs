//! What brokers ask: to be registered, to be known alive, to change an ISR, for producer ids, and what their clients ask
//! of the controller. Only translation; the decider decides.
//!
//! A liveness stream that ends, however it ends, is told to the decider at once: that is the fastest sign of a broker's
//! death.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use odradek_common::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, PartitionIndex, TopicIdPartition, Uuid};
use odradek_controller_core::alter_partition::{AlterPartition, IsrChange, IsrResult};
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::directories::AssignDirectories;
use odradek_controller_core::heartbeat::{Heartbeat, HeartbeatReply};
use odradek_controller_core::quorum::{DESCRIBE_QUORUM, answer as answer_describe_quorum};
use odradek_controller_core::{ApiError, ForwardError, StreamId};
use odradek_metadata::{Endpoint, FeatureRange, LeaderRecoveryState, SecurityProtocol};
use odradek_node::World;
use odradek_proto::broker as proto;
use odradek_proto::broker::broker_service_server::{BrokerService, BrokerServiceServer};
use odradek_proto::metadata as metadata_proto;
use tonic::{Request, Response, Status, Streaming};

use super::door::Door;
use super::metadata_stream;
use crate::decider::DeciderHandle;
use crate::quorum;
use crate::raft::RaftNode;

/// A broker that leads very many partitions asks for all of their ISRs in one message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves brokers on one controller.
pub struct Service {
    world: World,
    node: RaftNode,
    decider: DeciderHandle,
    cluster_id: Arc<str>,
    /// The name of the controllers' listener.
    listener: Arc<str>,
    /// Later streams have greater numbers.
    streams: Arc<AtomicU64>,
}

impl Service {
    pub fn new(
        world: World,
        node: RaftNode,
        decider: DeciderHandle,
        cluster_id: Arc<str>,
        listener: &str,
    ) -> BrokerServiceServer<Self> {
        let (listener, streams) = (listener.into(), Arc::new(AtomicU64::new(1)));
        let service = Self { node, decider, cluster_id, world, listener, streams };
        BrokerServiceServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn uuid(bytes: &[u8], field: &str) -> Result<Uuid, Status> {
    let bytes = bytes.try_into().map_err(|_| Status::invalid_argument(format!("{field} must have 16 bytes")))?;
    Ok(Uuid(bytes))
}

fn uuids(all: &[Vec<u8>], field: &str) -> Result<Vec<Uuid>, Status> {
    all.iter().map(|bytes| uuid(bytes, field)).collect()
}

fn endpoint(endpoint: metadata_proto::Endpoint) -> Result<Endpoint, Status> {
    let port =
        u16::try_from(endpoint.port).map_err(|_| Status::invalid_argument("an endpoint's port is above 65535"))?;
    let security_protocol = endpoint
        .security_protocol
        .parse::<SecurityProtocol>()
        .map_err(|_| Status::invalid_argument(format!("unknown protocol {}", endpoint.security_protocol)))?;
    Ok(Endpoint { listener: endpoint.listener, host: endpoint.host, port, security_protocol })
}

fn feature(range: metadata_proto::FeatureRange) -> Result<FeatureRange, Status> {
    let level = |level| i16::try_from(level).map_err(|_| Status::invalid_argument("a feature's level is out of range"));
    Ok(FeatureRange { min_level: level(range.min_level)?, max_level: level(range.max_level)?, name: range.name })
}

fn registration(request: proto::RegisterBrokerRequest) -> Result<RegisterBroker, Status> {
    Ok(RegisterBroker {
        cluster_id: request.cluster_id,
        broker_id: BrokerId(request.broker_id),
        incarnation: uuid(&request.incarnation_id, "incarnation_id")?,
        endpoints: request.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
        features: request.features.into_iter().map(feature).collect::<Result<_, _>>()?,
        rack: request.rack,
        log_dirs: uuids(&request.log_dirs, "log_dirs")?,
        previous_broker_epoch: BrokerEpoch(request.previous_broker_epoch),
    })
}

fn heartbeat(request: &proto::LivenessRequest) -> Result<Heartbeat, Status> {
    Ok(Heartbeat {
        broker_id: BrokerId(request.broker_id),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        incarnation: uuid(&request.incarnation_id, "incarnation_id")?,
        metadata_offset: request.metadata_offset,
        want_fence: request.want_fence,
        want_shutdown: request.want_shutdown,
        offline_log_dirs: uuids(&request.offline_log_dirs, "offline_log_dirs")?,
    })
}

fn liveness_response(reply: Result<HeartbeatReply, ApiError>) -> proto::LivenessResponse {
    match reply {
        Ok(reply) => proto::LivenessResponse {
            error_code: 0,
            error_message: String::new(),
            is_caught_up: reply.is_caught_up,
            is_fenced: reply.is_fenced,
            should_shut_down: reply.should_shut_down,
        },
        Err(error) => proto::LivenessResponse {
            error_code: i32::from(error.code.code()),
            error_message: error.message,
            is_fenced: true,
            ..proto::LivenessResponse::default()
        },
    }
}

fn isr_change(change: proto::PartitionIsrChange) -> Result<IsrChange, Status> {
    let state = LeaderRecoveryState::from_code(change.leader_recovery_state)
        .ok_or_else(|| Status::invalid_argument("unknown leader_recovery_state"))?;
    let members = change.new_isr.iter();
    Ok(IsrChange {
        topic_id: uuid(&change.topic_id, "topic_id")?,
        partition: PartitionIndex(change.partition),
        leader_epoch: LeaderEpoch(change.leader_epoch),
        new_isr: members.map(|member| (BrokerId(member.broker_id), BrokerEpoch(member.broker_epoch))).collect(),
        leader_recovery_state: state,
        partition_epoch: PartitionEpoch(change.partition_epoch),
    })
}

fn isr_result(result: IsrResult) -> proto::PartitionIsrResult {
    let named = proto::PartitionIsrResult {
        topic_id: result.topic_id.0.to_vec(),
        partition: result.partition.0,
        ..proto::PartitionIsrResult::default()
    };
    match result.result {
        Ok(state) => proto::PartitionIsrResult {
            leader: state.leader.0,
            leader_epoch: state.leader_epoch.0,
            isr: state.isr.iter().map(|id| id.0).collect(),
            leader_recovery_state: metadata_proto::LeaderRecoveryState::from(state.leader_recovery_state).into(),
            partition_epoch: state.partition_epoch.0,
            ..named
        },
        Err(error) => proto::PartitionIsrResult { error_code: i32::from(error.code()), leader: -1, ..named },
    }
}

/// One broker's liveness stream. Its end is told when it is dropped, which happens however it ends.
struct Pulse {
    decider: DeciderHandle,
    requests: Streaming<proto::LivenessRequest>,
    stream: StreamId,
    /// Once it has been heard.
    broker: Option<BrokerId>,
    door: Door,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if let Some(broker) = self.broker {
            self.decider.stream_closed(broker, self.stream);
            self.door.watch(self.decider.clone(), broker, self.stream);
        }
    }
}

impl Pulse {
    /// The answer to the next message, and whether the stream goes on; `None` at its end.
    async fn next(&mut self) -> Result<Option<(proto::LivenessResponse, bool)>, Status> {
        let Some(request) = self.requests.message().await? else { return Ok(None) };
        let message = heartbeat(&request)?;
        if self.broker.is_some_and(|broker| broker != message.broker_id) {
            return Err(Status::invalid_argument("a liveness stream belongs to one broker"));
        }
        if self.broker.is_none() {
            self.door.knock(message.broker_id);
        }
        self.broker = Some(message.broker_id);
        let stream = self.stream;
        let reply = self.decider.decide(move |decider, context| decider.heartbeat(context, stream, &message)).await?;
        let goes_on = reply.is_ok();
        Ok(Some((liveness_response(reply), goes_on)))
    }
}

#[tonic::async_trait]
impl BrokerService for Service {
    type LivenessStream = BoxStream<proto::LivenessResponse>;
    type MetadataStream = BoxStream<proto::MetadataUpdate>;

    async fn register_broker(
        &self,
        request: Request<proto::RegisterBrokerRequest>,
    ) -> Result<Response<proto::RegisterBrokerResponse>, Status> {
        let request = registration(request.into_inner())?;
        let epoch = self.decider.decide(move |decider, context| decider.register_broker(context, &request)).await?;
        Ok(Response::new(match epoch {
            Ok(epoch) => {
                proto::RegisterBrokerResponse { error_code: 0, error_message: String::new(), broker_epoch: epoch.0 }
            }
            Err(error) => proto::RegisterBrokerResponse {
                error_code: i32::from(error.code.code()),
                error_message: error.message,
                broker_epoch: -1,
            },
        }))
    }

    async fn liveness(
        &self,
        request: Request<Streaming<proto::LivenessRequest>>,
    ) -> Result<Response<Self::LivenessStream>, Status> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let door = Door::new(self.world.clone(), self.node.view.clone());
        let pulse = Pulse { decider: self.decider.clone(), requests: request.into_inner(), stream, broker: None, door };
        let responses = futures::stream::unfold(Some(pulse), |pulse| async move {
            let mut pulse = pulse?;
            match pulse.next().await {
                Ok(None) => None,
                Ok(Some((response, true))) => Some((Ok(response), Some(pulse))),
                Ok(Some((response, false))) => Some((Ok(response), None)),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn metadata(
        &self,
        request: Request<proto::MetadataRequest>,
    ) -> Result<Response<Self::MetadataStream>, Status> {
        let request = request.into_inner();
        if *request.cluster_id != *self.cluster_id {
            let message = format!(
                "this controller belongs to cluster {}, broker {} to cluster {}: check `controller.quorum.voters` and \
                 `log.dirs` there",
                self.cluster_id, request.broker_id, request.cluster_id
            );
            return Err(Status::invalid_argument(message));
        }
        Ok(Response::new(Box::pin(metadata_stream::follow(self.node.view.clone(), request.next_offset))))
    }

    async fn alter_partition(
        &self,
        request: Request<proto::AlterPartitionRequest>,
    ) -> Result<Response<proto::AlterPartitionResponse>, Status> {
        let request = request.into_inner();
        let changes = request.partitions.into_iter().map(isr_change).collect::<Result<_, _>>()?;
        let wanted = AlterPartition {
            broker_id: BrokerId(request.broker_id),
            broker_epoch: BrokerEpoch(request.broker_epoch),
            partitions: changes,
        };
        let results = self.decider.decide(move |decider, context| decider.alter_partition(context, &wanted)).await?;
        Ok(Response::new(match results {
            Ok(results) => proto::AlterPartitionResponse {
                error_code: 0,
                partitions: results.into_iter().map(isr_result).collect(),
            },
            Err(error) => {
                proto::AlterPartitionResponse { error_code: i32::from(error.code.code()), partitions: Vec::new() }
            }
        }))
    }

    async fn assign_directories(
        &self,
        request: Request<proto::AssignDirectoriesRequest>,
    ) -> Result<Response<proto::AssignDirectoriesResponse>, Status> {
        let request = request.into_inner();
        let replica = |replica: &proto::ReplicaDirectory| {
            let topic_id = uuid(&replica.topic_id, "topic_id")?;
            let partition = PartitionIndex(replica.partition);
            Ok((TopicIdPartition { topic_id, partition }, uuid(&replica.directory_id, "directory_id")?))
        };
        let wanted = AssignDirectories {
            broker_id: BrokerId(request.broker_id),
            broker_epoch: BrokerEpoch(request.broker_epoch),
            replicas: request.replicas.iter().map(replica).collect::<Result<_, Status>>()?,
        };
        let decided = self.decider.decide(move |decider, context| decider.assign_directories(context, &wanted)).await?;
        Ok(Response::new(match decided {
            Ok(codes) => proto::AssignDirectoriesResponse {
                error_code: 0,
                error_codes: codes.iter().map(|code| i32::from(code.code())).collect(),
            },
            Err(error) => {
                proto::AssignDirectoriesResponse { error_code: i32::from(error.code.code()), error_codes: Vec::new() }
            }
        }))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<proto::AllocateProducerIdsRequest>,
    ) -> Result<Response<proto::AllocateProducerIdsResponse>, Status> {
        let request = request.into_inner();
        let (broker, epoch) = (BrokerId(request.broker_id), BrokerEpoch(request.broker_epoch));
        let block =
            self.decider.decide(move |decider, context| decider.allocate_producer_ids(context, broker, epoch)).await?;
        Ok(Response::new(match block {
            Ok(block) => proto::AllocateProducerIdsResponse {
                error_code: 0,
                first_producer_id: block.first.0,
                count: block.count,
            },
            Err(error) => proto::AllocateProducerIdsResponse {
                error_code: i32::from(error.code.code()),
                first_producer_id: -1,
                count: 0,
            },
        }))
    }

    async fn forward(
        &self,
        request: Request<proto::ForwardRequest>,
    ) -> Result<Response<proto::ForwardResponse>, Status> {
        let request = request.into_inner();
        let unsupported =
            || Status::invalid_argument(format!("no API {} version {}", request.api_key, request.api_version));
        let api_key = i16::try_from(request.api_key).map_err(|_| unsupported())?;
        let version = i16::try_from(request.api_version).map_err(|_| unsupported())?;
        let body = request.body;
        let (body, metadata_offset) = if api_key == DESCRIBE_QUORUM {
            // Only the active controller knows; and what it knows is no metadata.
            let (brokers, offset) = self.decider.decide_at(|decider, _| decider.broker_progress()).await?;
            let known = quorum::describe(&self.world, &self.node, brokers);
            (answer_describe_quorum(&known, &self.listener, version, body), offset)
        } else {
            self.decider.decide_at(move |decider, context| decider.forward(context, api_key, version, body)).await?
        };
        let body = body.map_err(|error| match error {
            ForwardError::UnknownApi(_) | ForwardError::Decode(_) => Status::invalid_argument(error.to_string()),
            ForwardError::Encode(_) => Status::internal(error.to_string()),
        })?;
        Ok(Response::new(proto::ForwardResponse { body, metadata_offset }))
    }
}
