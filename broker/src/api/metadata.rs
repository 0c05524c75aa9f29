//! Metadata: topics by name or id, the brokers as the asked listener reaches them, and the creation of missing topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use odradek_common::time::Instant;
use odradek_common::{BrokerId, ErrorCode, PartitionIndex, Uuid};
use odradek_metadata::{BrokerRegistration, Image, PartitionRegistration, Topic};
use odradek_wire::Str;
use odradek_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use odradek_wire::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};

use super::authorizer::authorized_operations;
use super::dispatch::Asked;
use super::{Api, Operation, Outcome, RequestContext, Resource, topic_name};

/// What of the image a client gets to see, depending on its version and listener.
struct View<'a> {
    image: &'a Image,
    listener: &'a str,
    /// Version 0 left out replicas that cannot be reached.
    only_reachable: bool,
    /// Since version 6 a leader without the listener is told apart from no leader.
    tells_listener: bool,
}

impl Api {
    pub(super) fn metadata(self: &Arc<Self>, asked: Asked<MetadataRequest>) -> Outcome<MetadataResponse> {
        if self.election_is_near().is_none() {
            return Outcome::Done(self.metadata_now(asked));
        }
        let api = self.clone();
        Outcome::waiting(async move {
            let mut published = api.cache.subscribe_published();
            while let Some(until) = api.election_is_near() {
                tokio::select! {
                    biased;
                    changed = published.changed() => if changed.is_err() { break },
                    () = api.world.clock.sleep_until(until) => {}
                }
            }
            api.metadata_now(asked)
        })
    }

    /// Until when an answer waits because a leader has just died.
    fn election_is_near(&self) -> Option<Instant> {
        self.replicas.lost_leaders().awaited(&self.cache.image(), self.world.instant())
    }

    fn metadata_now(self: &Arc<Self>, asked: Asked<MetadataRequest>) -> MetadataResponse {
        let Asked { context, version, body: request, .. } = asked;
        let image = self.cache.image();
        let view = View {
            image: &image,
            listener: &context.listener,
            only_reachable: version == 0,
            tells_listener: version >= 6,
        };
        // Ids were written in versions 10 and 11, but meant nothing before 12: the whole request is refused.
        if version < 12
            && let Some(topics) = &request.topics
            && topics.iter().any(|topic| topic.name.is_none() || !topic.topic_id.is_zero())
        {
            let refused = |topic: &MetadataRequestTopic| {
                failed(ErrorCode::InvalidRequest, topic.name.clone().or(Some(Str::default())), topic.topic_id)
            };
            return MetadataResponse {
                topics: topics.iter().map(refused).collect(),
                cluster_id: None,
                controller_id: -1,
                ..MetadataResponse::default()
            };
        }
        let mut topics = match &request.topics {
            Some(topics) if version >= 1 || !topics.is_empty() => self.asked_topics(&context, &request, &view),
            _ => self.all_topics(&context, &view),
        };
        if request.include_topic_authorized_operations {
            // As in Kafka, of a topic that does not exist as well, if only its name may be known.
            let is_hidden =
                |topic: &MetadataResponseTopic| topic.error_code == ErrorCode::TopicAuthorizationFailed.code();
            for topic in topics.iter_mut().filter(|topic| !is_hidden(topic)) {
                let Some(name) = topic.name.as_deref() else { continue };
                topic.topic_authorized_operations =
                    authorized_operations(&*self.authorizer, &context, Resource::Topic(name));
            }
        }
        let mut response = MetadataResponse {
            brokers: view.brokers(&self.replicas.lost_leaders().listed(&image, self.world.instant())),
            cluster_id: Some(self.cluster_id.clone()),
            controller_id: self.some_alive_broker(&image),
            topics,
            ..MetadataResponse::default()
        };
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations =
                authorized_operations(&*self.authorizer, &context, Resource::Cluster);
        }
        response
    }

    fn all_topics(&self, context: &RequestContext, view: &View<'_>) -> Vec<MetadataResponseTopic> {
        let topics = view.image.topics_by_name();
        let visible = topics.filter(|topic| self.allows(context, Operation::Describe, Resource::Topic(&topic.name)));
        visible.map(|topic| view.topic(topic)).collect()
    }

    fn asked_topics(
        self: &Arc<Self>,
        context: &Arc<RequestContext>,
        request: &MetadataRequest,
        view: &View<'_>,
    ) -> Vec<MetadataResponseTopic> {
        let topics = request.topics.as_deref().unwrap_or_default();
        // Each topic once, however often it is asked for. With one id among them, names count for nothing.
        let ids: BTreeSet<Uuid> = topics.iter().map(|topic| topic.topic_id).filter(|id| !id.is_zero()).collect();
        if !ids.is_empty() {
            return ids.into_iter().map(|id| self.by_id(context, id, view)).collect();
        }
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        let mut found = Vec::with_capacity(topics.len());
        for name in topics.iter().filter_map(|topic| topic.name.as_ref()).filter(|name| seen.insert(name.as_str())) {
            if !self.allows(context, Operation::Describe, Resource::Topic(name)) {
                found.push(failed(ErrorCode::TopicAuthorizationFailed, Some(name.clone()), Uuid::ZERO));
            } else if let Some(topic) = view.image.topic_by_name(name) {
                found.push(view.topic(topic));
            } else if !topic_name::is_valid(name) {
                found.push(failed(ErrorCode::InvalidTopicException, Some(name.clone()), Uuid::ZERO));
            } else {
                missing.push(name);
            }
        }
        let create = request.allow_auto_topic_creation && self.config.topic_creation.auto_create_enable;
        for name in missing {
            let mut error = ErrorCode::UnknownTopicOrPartition;
            if create {
                let may_create = self.allows(context, Operation::Create, Resource::Cluster)
                    || self.allows(context, Operation::Create, Resource::Topic(name));
                if may_create {
                    self.create_automatically(context, name);
                } else {
                    error = ErrorCode::TopicAuthorizationFailed;
                }
            }
            let mut topic = failed(error, Some(name.clone()), Uuid::ZERO);
            topic.is_internal = is_internal(name);
            found.push(topic);
        }
        found
    }

    fn by_id(&self, context: &RequestContext, id: Uuid, view: &View<'_>) -> MetadataResponseTopic {
        match view.image.topic(id) {
            None => failed(ErrorCode::UnknownTopicId, None, id),
            // Without the right to see the topic, not even its name is told.
            Some(topic) if !self.allows(context, Operation::Describe, Resource::Topic(&topic.name)) => {
                failed(ErrorCode::TopicAuthorizationFailed, None, id)
            }
            Some(topic) => view.topic(topic),
        }
    }
}

fn failed(error: ErrorCode, name: Option<Str>, topic_id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic { error_code: error.code(), name, topic_id, ..MetadataResponseTopic::default() }
}

/// Kafka's internal topics, whether they exist or not.
pub(super) fn is_internal(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

impl View<'_> {
    /// The brokers that are alive, and those that died `lately`.
    fn brokers(&self, lately: &[&BrokerRegistration]) -> Vec<MetadataResponseBroker> {
        let alive = self.image.alive_brokers().map(AsRef::as_ref);
        let brokers = alive.chain(lately.iter().copied());
        let brokers = brokers.filter_map(|broker| Some((broker, broker.endpoint(self.listener)?)));
        let brokers = brokers.map(|(broker, endpoint)| MetadataResponseBroker {
            node_id: broker.id.0,
            host: endpoint.host.as_str().into(),
            port: endpoint.port.into(),
            rack: broker.rack.as_deref().map(Into::into),
            ..MetadataResponseBroker::default()
        });
        brokers.collect()
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        MetadataResponseTopic {
            name: Some(Str::from(&*topic.name)),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions: topic.partitions().map(|(index, partition)| self.partition(index, partition)).collect(),
            ..MetadataResponseTopic::default()
        }
    }

    fn partition(&self, index: PartitionIndex, partition: &PartitionRegistration) -> MetadataResponsePartition {
        let replicas = self.seen(&partition.replicas);
        let isr = self.seen(&partition.isr);
        let reachable = self.image.endpoint(partition.leader, self.listener).is_some();
        let error = if reachable {
            let hidden = replicas.len() < partition.replicas.len() || isr.len() < partition.isr.len();
            if hidden { ErrorCode::ReplicaNotAvailable } else { ErrorCode::None }
        } else if self.tells_listener && self.image.broker(partition.leader).is_some() {
            ErrorCode::ListenerNotFound
        } else {
            ErrorCode::LeaderNotAvailable
        };
        MetadataResponsePartition {
            error_code: error.code(),
            partition_index: index.0,
            leader_id: if reachable { partition.leader.0 } else { -1 },
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: replicas,
            isr_nodes: isr,
            offline_replicas: offline_replicas(self.image, partition, self.listener),
            ..MetadataResponsePartition::default()
        }
    }

    fn seen(&self, brokers: &[BrokerId]) -> Vec<i32> {
        let reachable = |id: &&BrokerId| !self.only_reachable || self.image.endpoint(**id, self.listener).is_some();
        brokers.iter().filter(reachable).map(|id| id.0).collect()
    }
}

/// The replicas that cannot be reached over the listener, or whose directory is lost.
pub(super) fn offline_replicas(image: &Image, partition: &PartitionRegistration, listener: &str) -> Vec<i32> {
    let online = |id: BrokerId| {
        image.broker(id).is_some_and(|broker| {
            !broker.fenced
                && broker.endpoint(listener).is_some()
                && partition.directory(id).is_none_or(|directory| broker.has_online_directory(directory))
        })
    };
    partition.replicas.iter().filter(|id| !online(**id)).map(|id| id.0).collect()
}
