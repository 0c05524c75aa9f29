//! Topics that are made because a client asked for their metadata (`auto.create.topics.enable`). The client is told that
//! the topic is unknown, asks again, and finds it, as with Kafka.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_core::group::OFFSETS_TOPIC;
use odradek_broker_core::transaction::TRANSACTIONS_TOPIC;
use odradek_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use odradek_wire::create_topics_response::CreateTopicsResponse;
use odradek_wire::{Decoder, Encoder, Message, Request, Str};

use super::{Api, RequestContext};

/// Topics that are being made at one time; what goes beyond is made when its client asks again.
const IN_FLIGHT_MAX: usize = 1000;

/// How long the controller is given; the client asks again meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

const VERSION: i16 = CreateTopicsRequest::MAX_VERSION;

/// The names that are being made, so that many clients asking for one topic make one request.
#[derive(Default)]
pub struct AutomaticTopics(Mutex<BTreeSet<String>>);

impl AutomaticTopics {
    fn begin(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < IN_FLIGHT_MAX && names.insert(name.to_owned())
    }

    fn end(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl Api {
    /// Asks the controller for a topic with the defaults of this broker, unless that is under way.
    pub(super) fn create_automatically(self: &Arc<Self>, context: &Arc<RequestContext>, name: &Str) {
        if !self.automatic_topics.begin(name) {
            return;
        }
        let (api, context, name) = (self.clone(), context.clone(), name.detached());
        self.world.spawn("create topic", async move {
            if let Err(error) = api.create_topic(&context, &name).await {
                tracing::info!(topic = %name, error, "a topic was not created automatically");
            }
            api.automatic_topics.end(&name);
        });
    }

    /// `__consumer_offsets`, as `offsets.topic.*` has it.
    fn offsets_topic(&self) -> CreatableTopic {
        let offsets = &self.config.offsets;
        CreatableTopic {
            name: Str::from_static(OFFSETS_TOPIC),
            num_partitions: offsets.topic_partitions,
            replication_factor: offsets.topic_replication_factor,
            configs: vec![
                config("cleanup.policy", "compact".to_owned()),
                config("compression.type", "producer".to_owned()),
                config("segment.bytes", offsets.topic_segment_bytes.to_string()),
            ],
            ..CreatableTopic::default()
        }
    }

    /// `__transaction_state`, as `transaction.state.log.*` has it: what it loses is lost to transactions, so only a replica
    /// that has all of it may lead.
    fn transactions_topic(&self) -> CreatableTopic {
        let transactions = &self.config.transactions;
        CreatableTopic {
            name: Str::from_static(TRANSACTIONS_TOPIC),
            num_partitions: transactions.topic_partitions,
            replication_factor: transactions.topic_replication_factor,
            configs: vec![
                config("cleanup.policy", "compact".to_owned()),
                config("compression.type", "uncompressed".to_owned()),
                config("min.insync.replicas", transactions.topic_insync_replicas_min.to_string()),
                config("segment.bytes", transactions.topic_segment_bytes.to_string()),
                config("unclean.leader.election.enable", "false".to_owned()),
            ],
            ..CreatableTopic::default()
        }
    }

    async fn create_topic(&self, context: &RequestContext, name: &Str) -> Result<(), String> {
        let defaults = &self.config.topic_creation;
        let topic = match name.as_str() {
            OFFSETS_TOPIC => self.offsets_topic(),
            TRANSACTIONS_TOPIC => self.transactions_topic(),
            _ => CreatableTopic {
                name: name.clone(),
                num_partitions: defaults.partitions_default,
                replication_factor: defaults.replication_factor_default,
                ..CreatableTopic::default()
            },
        };
        let timeout_ms = i32::try_from(PATIENCE.as_millis()).unwrap_or(i32::MAX);
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms, ..CreateTopicsRequest::default() };
        let mut body = Encoder::new();
        request.encode(&mut body, VERSION).map_err(|error| error.to_string())?;
        let body = body.into_bytes().unwrap_or_default();
        let forwarded = self
            .forward(context, CreateTopicsRequest::API_KEY, VERSION, body, PATIENCE)
            .await
            .map_err(|error| error.to_string())?;
        let response = CreateTopicsResponse::decode(&mut Decoder::new(forwarded.body), VERSION);
        let response = response.map_err(|error| error.to_string())?;
        match response.topics.first() {
            Some(topic) if topic.error_code != 0 => {
                let code = odradek_common::ErrorCode::from_code(topic.error_code);
                Err(format!("{code}: {}", topic.error_message.as_deref().unwrap_or_default()))
            }
            _ => Ok(()),
        }
    }
}

fn config(name: &'static str, value: String) -> CreatableTopicConfig {
    CreatableTopicConfig { name: Str::from_static(name), value: Some(value.into()), ..CreatableTopicConfig::default() }
}
