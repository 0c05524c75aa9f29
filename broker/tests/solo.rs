//! A controller without a quorum: the real decisions over gRPC, with a log in memory. It lets a broker be tested alone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::Stream;
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch, PartitionIndex, Uuid};
use odradek_controller_core::alter_partition::{AlterPartition, IsrChange};
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::heartbeat::Heartbeat;
use odradek_controller_core::topics::{NewTopic, TopicRef};
use odradek_controller_core::{Context, Decider, Decision, Settings, TICK_INTERVAL};
use odradek_metadata::{Endpoint, FeatureRange, Image, LeaderRecoveryState};
use odradek_node::{Shutdown, World, grpc};
use odradek_proto::broker::broker_service_server::{BrokerService, BrokerServiceServer};
use odradek_proto::broker::*;
use odradek_proto::metadata::Record;
use odradek_wire::create_topics_request::CreateTopicsRequest;
use odradek_wire::create_topics_response::{CreatableTopicResult, CreateTopicsResponse};
use odradek_wire::delete_topics_request::DeleteTopicsRequest;
use odradek_wire::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use odradek_wire::{ApiKey, Decoder, Encoder, Message};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct Solo {
    pub port: u16,
    service: Service,
    stop: Shutdown,
}

struct Inner {
    world: World,
    state: Mutex<State>,
    committed: watch::Sender<i64>,
}

struct State {
    decider: Decider,
    log: Vec<Vec<Record>>,
    rng: SplitMix64,
    streams: u64,
}

#[derive(Clone)]
struct Service(Arc<Inner>);

impl Solo {
    pub async fn start(world: &World, cluster_id: &str) -> Self {
        let decider = Decider::new(Settings::default(), Image::new(), world.instant());
        let state = State { decider, log: Vec::new(), rng: world.rng(), streams: 0 };
        let inner = Inner { world: world.clone(), state: Mutex::new(state), committed: watch::Sender::new(-1) };
        let service = Service(Arc::new(inner));
        service.decide(|decider, context| decider.begin(context, cluster_id, &[], None)).expect("its own cluster");
        let listener = world.net.bind("127.0.0.1", 0).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let stop = Shutdown::new();
        let (stopped, ticking, own) = (stop.clone(), service.clone(), service.clone());
        let incoming = grpc::incoming(world.clone(), Arc::from(listener));
        world.spawn("solo", async move {
            let server = tonic::transport::Server::builder().add_service(BrokerServiceServer::new(service));
            server.serve_with_incoming_shutdown(incoming, async move { stopped.wait().await }).await.expect("served");
        });
        let ticker = stop.clone();
        let clock = world.clone();
        world.spawn("solo ticks", async move {
            while !ticker.is_triggered() {
                clock.sleep(TICK_INTERVAL).await;
                ticking.decide(|decider, context| decider.tick(context));
            }
        });
        Self { port, service: own, stop }
    }

    /// Waits until the broker is unfenced; its port.
    pub async fn alive(&self, id: BrokerId) -> u16 {
        let mut committed = self.service.0.committed.subscribe();
        loop {
            committed.borrow_and_update();
            let port = {
                let state = self.service.state();
                state.decider.image().endpoint(id, "PLAINTEXT").map(|endpoint| endpoint.port)
            };
            match port {
                Some(port) => return port,
                None => committed.changed().await.expect("the controller lives"),
            }
        }
    }
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic before")
    }

    fn decide<R>(&self, decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R>) -> R {
        let mut state = self.state();
        let State { decider, log, rng, .. } = &mut *state;
        let mut context = Context { now: self.0.world.now(), next_offset: log.len() as i64, rng };
        let decision = decide(decider, &mut context);
        if !decision.records.is_empty() {
            log.push(decision.records);
            self.0.committed.send_replace(log.len() as i64 - 1);
        }
        decision.response
    }

    fn offset(&self) -> i64 {
        *self.0.committed.borrow()
    }
}

fn uuid(bytes: &[u8]) -> Uuid {
    Uuid(bytes.try_into().expect("16 bytes"))
}

#[tonic::async_trait]
impl BrokerService for Service {
    type LivenessStream = Streamed<LivenessResponse>;
    type MetadataStream = Streamed<MetadataUpdate>;

    async fn register_broker(
        &self,
        request: Request<RegisterBrokerRequest>,
    ) -> Result<Response<RegisterBrokerResponse>, Status> {
        let request = request.into_inner();
        let endpoints = request.endpoints.into_iter().map(|endpoint| Endpoint {
            listener: endpoint.listener,
            host: endpoint.host,
            port: endpoint.port as u16,
            security_protocol: endpoint.security_protocol.parse().expect("known"),
        });
        let features = request.features.into_iter().map(|feature| FeatureRange {
            name: feature.name,
            min_level: feature.min_level as i16,
            max_level: feature.max_level as i16,
        });
        let wanted = RegisterBroker {
            cluster_id: request.cluster_id,
            broker_id: BrokerId(request.broker_id),
            incarnation: uuid(&request.incarnation_id),
            endpoints: endpoints.collect(),
            features: features.collect(),
            rack: request.rack,
            log_dirs: request.log_dirs.iter().map(|id| uuid(id)).collect(),
            previous_broker_epoch: BrokerEpoch(request.previous_broker_epoch),
        };
        Ok(Response::new(match self.decide(|decider, context| decider.register_broker(context, &wanted)) {
            Ok(epoch) => RegisterBrokerResponse { broker_epoch: epoch.0, ..Default::default() },
            Err(error) => RegisterBrokerResponse {
                error_code: error.code.code().into(),
                error_message: error.message.to_string(),
                broker_epoch: -1,
            },
        }))
    }

    async fn liveness(
        &self,
        request: Request<Streaming<LivenessRequest>>,
    ) -> Result<Response<Self::LivenessStream>, Status> {
        let mut messages = request.into_inner();
        let service = self.clone();
        let stream = {
            let mut state = self.state();
            state.streams += 1;
            state.streams
        };
        let (answers, receiver) = tokio::sync::mpsc::channel(4);
        self.0.world.spawn("solo liveness", async move {
            let mut broker = None;
            while let Ok(Some(message)) = messages.message().await {
                broker = Some(BrokerId(message.broker_id));
                let heartbeat = Heartbeat {
                    broker_id: BrokerId(message.broker_id),
                    broker_epoch: BrokerEpoch(message.broker_epoch),
                    incarnation: uuid(&message.incarnation_id),
                    metadata_offset: message.metadata_offset,
                    want_fence: message.want_fence,
                    want_shutdown: message.want_shutdown,
                    offline_log_dirs: Vec::new(),
                };
                let reply = service.decide(|decider, context| decider.heartbeat(context, stream, &heartbeat));
                let answer = match reply {
                    Ok(reply) => LivenessResponse {
                        is_caught_up: reply.is_caught_up,
                        is_fenced: reply.is_fenced,
                        should_shut_down: reply.should_shut_down,
                        ..Default::default()
                    },
                    Err(error) => LivenessResponse {
                        error_code: error.code.code().into(),
                        error_message: error.message.to_string(),
                        ..Default::default()
                    },
                };
                if answers.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
            if let Some(broker) = broker {
                let now = service.0.world.now();
                service.state().decider.stream_closed(broker, stream, now);
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn metadata(&self, request: Request<MetadataRequest>) -> Result<Response<Self::MetadataStream>, Status> {
        let service = self.clone();
        let committed = self.0.committed.subscribe();
        let next = request.into_inner().next_offset;
        let updates =
            futures::stream::unfold((service, committed, next), |(service, mut committed, next)| async move {
                committed.wait_for(|offset| *offset >= next).await.ok()?;
                let records = service.state().log.get(next as usize).cloned()?;
                let delta = Delta { offset: next, records };
                let update = MetadataUpdate {
                    kind: Some(metadata_update::Kind::Delta(delta)),
                    committed_offset: service.offset(),
                };
                Some((Ok(update), (service, committed, next + 1)))
            });
        Ok(Response::new(Box::pin(updates)))
    }

    async fn alter_partition(
        &self,
        request: Request<AlterPartitionRequest>,
    ) -> Result<Response<AlterPartitionResponse>, Status> {
        let request = request.into_inner();
        let change = |change: &PartitionIsrChange| IsrChange {
            topic_id: uuid(&change.topic_id),
            partition: PartitionIndex(change.partition),
            leader_epoch: LeaderEpoch(change.leader_epoch),
            new_isr: change.new_isr.iter().map(|m| (BrokerId(m.broker_id), BrokerEpoch(m.broker_epoch))).collect(),
            leader_recovery_state: LeaderRecoveryState::from_code(change.leader_recovery_state).expect("known"),
            partition_epoch: PartitionEpoch(change.partition_epoch),
        };
        let wanted = AlterPartition {
            broker_id: BrokerId(request.broker_id),
            broker_epoch: BrokerEpoch(request.broker_epoch),
            partitions: request.partitions.iter().map(change).collect(),
        };
        let results = match self.decide(|decider, context| decider.alter_partition(context, &wanted)) {
            Ok(results) => results,
            Err(error) => {
                let error_code = error.code.code().into();
                return Ok(Response::new(AlterPartitionResponse { error_code, ..Default::default() }));
            }
        };
        let results = results.into_iter().map(|result| {
            let named = PartitionIsrResult {
                topic_id: result.topic_id.0.to_vec(),
                partition: result.partition.0,
                ..Default::default()
            };
            match result.result {
                Err(error) => PartitionIsrResult { error_code: error.code().into(), ..named },
                Ok(state) => PartitionIsrResult {
                    leader: state.leader.0,
                    leader_epoch: state.leader_epoch.0,
                    isr: state.isr.iter().map(|id| id.0).collect(),
                    partition_epoch: state.partition_epoch.0,
                    ..named
                },
            }
        });
        Ok(Response::new(AlterPartitionResponse { error_code: 0, partitions: results.collect() }))
    }

    async fn assign_directories(
        &self,
        request: Request<AssignDirectoriesRequest>,
    ) -> Result<Response<AssignDirectoriesResponse>, Status> {
        let error_codes = vec![0; request.into_inner().replicas.len()];
        Ok(Response::new(AssignDirectoriesResponse { error_code: 0, error_codes }))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<AllocateProducerIdsRequest>,
    ) -> Result<Response<AllocateProducerIdsResponse>, Status> {
        let request = request.into_inner();
        let (broker, epoch) = (BrokerId(request.broker_id), BrokerEpoch(request.broker_epoch));
        let block = self.decide(|decider, context| decider.allocate_producer_ids(context, broker, epoch));
        let block = block.map_err(|error| Status::internal(error.message.to_string()))?;
        Ok(Response::new(AllocateProducerIdsResponse {
            error_code: 0,
            first_producer_id: block.first.0,
            count: block.count,
        }))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        let request = request.into_inner();
        let version = request.api_version as i16;
        let mut body = Encoder::new();
        match ApiKey::from_code(request.api_key as i16) {
            Some(ApiKey::CreateTopics) => {
                let asked = CreateTopicsRequest::decode(&mut Decoder::new(request.body), version).expect("checked");
                self.create_topics(asked).encode(&mut body, version).expect("encoded");
            }
            Some(ApiKey::DeleteTopics) => {
                let asked = DeleteTopicsRequest::decode(&mut Decoder::new(request.body), version).expect("checked");
                self.delete_topics(asked).encode(&mut body, version).expect("encoded");
            }
            other => return Err(Status::unimplemented(format!("{other:?}"))),
        }
        let body = body.into_bytes().expect("no holes");
        Ok(Response::new(ForwardResponse { body, metadata_offset: self.offset() }))
    }
}

impl Service {
    fn create_topics(&self, asked: CreateTopicsRequest) -> CreateTopicsResponse {
        let topics: Vec<NewTopic> = (asked.topics.iter())
            .map(|topic| NewTopic {
                name: topic.name.to_string(),
                partitions: topic.num_partitions,
                replication_factor: topic.replication_factor,
                assignments: Vec::new(),
                configs: (topic.configs.iter())
                    .map(|config| (config.name.to_string(), config.value.as_ref().map(|value| value.to_string())))
                    .collect(),
            })
            .collect();
        let outcomes = self.decide(|decider, context| decider.create_topics(context, &topics, asked.validate_only));
        let topics = outcomes.into_iter().map(|outcome| match outcome.result {
            Ok(created) => CreatableTopicResult {
                name: outcome.name.into(),
                topic_id: created.id,
                num_partitions: created.partitions,
                replication_factor: created.replication_factor,
                ..Default::default()
            },
            Err(error) => CreatableTopicResult {
                name: outcome.name.into(),
                error_code: error.code.code(),
                error_message: Some(error.message.to_string().into()),
                ..Default::default()
            },
        });
        CreateTopicsResponse { topics: topics.collect(), ..Default::default() }
    }

    fn delete_topics(&self, asked: DeleteTopicsRequest) -> DeleteTopicsResponse {
        let by_name = asked.topic_names.iter().map(|name| TopicRef::Name(name.to_string()));
        let topics: Vec<TopicRef> = by_name
            .chain(asked.topics.iter().map(|topic| match &topic.name {
                Some(name) => TopicRef::Name(name.to_string()),
                None => TopicRef::Id(topic.topic_id),
            }))
            .collect();
        let outcomes = self.decide(|decider, context| decider.delete_topics(context, &topics));
        let responses = outcomes.into_iter().map(|outcome| DeletableTopicResult {
            name: outcome.name.map(Into::into),
            topic_id: outcome.id,
            error_code: outcome.result.map_or_else(|error| error.code, |()| ErrorCode::None).code(),
            ..Default::default()
        });
        DeleteTopicsResponse { responses: responses.collect(), ..Default::default() }
    }
}
