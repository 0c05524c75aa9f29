//! The transaction coordinators of this broker, one for each partition of `__transaction_state` that it leads.

use std::sync::atomic::{AtomicI16, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use odradek_broker_core::coordinator::RuntimeConfig;
use odradek_broker_core::transaction::{
    NamedPartition, Producer, TRANSACTIONS_TOPIC, TransactionConfig, TransactionEffect, TransactionQuery,
    TransactionRequest, TransactionResponse, TransactionShard, TransactionVersion, TwoPhase,
};
use odradek_common::config::BrokerConfig;
use odradek_common::{ErrorCode, PartitionIndex, ProducerId};
use odradek_metadata::Delta;
use odradek_node::World;
use odradek_records::Compression;

use super::BATCH_BYTES_MAX;
use super::driver::{Answer, Driver, EffectSink};
use super::led::{Leaderships, TopicSettings};
use super::markers::MarkerSender;
use super::producer_ids::ProducerIds;
use crate::replica::{Outcome, ReplicaManager};

/// The feature that says which protocols there are.
const TRANSACTION_VERSION: &str = "transaction.version";

/// Between two attempts to tell a coordinator that is being loaded.
const SET_LEVEL_PAUSE: Duration = Duration::from_millis(50);

/// Finds a transactional id's coordinator. Every method may be called from any task.
pub struct TransactionCoordinators {
    world: World,
    settings: Arc<TransactionConfig>,
    led: Leaderships<TransactionShard>,
    ids: Arc<ProducerIds>,
    markers: Arc<MarkerSender>,
    /// The finalized level of `transaction.version`.
    level: AtomicI16,
    sink: EffectSink<TransactionShard>,
}

impl TransactionCoordinators {
    pub fn new(
        world: World,
        config: &BrokerConfig,
        replicas: Arc<ReplicaManager>,
        ids: Arc<ProducerIds>,
        markers: Arc<MarkerSender>,
    ) -> Arc<Self> {
        let transactions = &config.transactions;
        let settings = TopicSettings {
            topic: TRANSACTIONS_TOPIC,
            partitions_default: transactions.topic_partitions,
            runtime: RuntimeConfig {
                write_timeout: config.network.request_timeout,
                batch_bytes_max: BATCH_BYTES_MAX,
                compression: Compression::default(),
            },
            load_bytes: transactions.load_buffer_bytes,
        };
        Arc::new_cyclic(|own: &Weak<Self>| {
            let own = own.clone();
            Self {
                settings: Arc::new(transaction_config(config)),
                led: Leaderships::new(world.clone(), config.node_id, replicas, settings),
                ids,
                markers,
                level: AtomicI16::new(0),
                sink: Arc::new(move |driver, epoch, effects| {
                    let Some(own) = own.upgrade() else { return };
                    for effect in effects {
                        match effect {
                            TransactionEffect::SendMarkers(markers) => own.markers.send(driver, epoch, markers),
                            TransactionEffect::WantProducerId(id) => own.abort_timed_out(driver.clone(), id),
                        }
                    }
                }),
                world,
            }
        })
    }

    /// The partition of `__transaction_state` that a transactional id belongs to.
    pub fn partition_for(&self, id: &str) -> PartitionIndex {
        self.led.partition_for(id)
    }

    // ---- requests ----

    /// InitProducerId. With the producer comes the one whose open transaction it has taken over.
    pub fn init(
        &self,
        id: &str,
        timeout_ms: i32,
        expected: Option<Producer>,
        two_phase: TwoPhase,
    ) -> Outcome<Result<(Producer, Option<Producer>), ErrorCode>> {
        let name: Arc<str> = id.into();
        let asked = self.ask_with_producer_id(id, move |fresh| TransactionRequest::Init {
            id: name.clone(),
            timeout_ms,
            expected,
            two_phase,
            fresh,
        });
        asked.map(|answer| match answer? {
            TransactionResponse::Producer(producer) => Ok((producer, None)),
            TransactionResponse::TookOver { producer, ongoing } => Ok((producer, Some(ongoing))),
            _ => Err(ErrorCode::UnknownServerError),
        })
    }

    /// EndTxn.
    pub fn end(
        &self,
        id: &str,
        producer: Producer,
        is_commit: bool,
        version: TransactionVersion,
    ) -> Outcome<Result<Producer, ErrorCode>> {
        let name: Arc<str> = id.into();
        let asked = self.ask_with_producer_id(id, move |fresh| TransactionRequest::End {
            id: name.clone(),
            producer,
            is_commit,
            version,
            fresh,
        });
        asked.map(|answer| match answer? {
            TransactionResponse::Producer(producer) => Ok(producer),
            _ => Err(ErrorCode::UnknownServerError),
        })
    }

    /// AddPartitionsToTxn. `patience`: for the end of the transaction before.
    pub fn add_partitions(
        &self,
        id: &str,
        producer: Producer,
        partitions: Vec<NamedPartition>,
        version: TransactionVersion,
        patience: Duration,
    ) -> Outcome<Result<(), ErrorCode>> {
        let request = TransactionRequest::AddPartitions { id: id.into(), producer, partitions, version, patience };
        self.led.request(id, request).map(|answer| answer.map(drop))
    }

    /// Whether partitions are in a transaction: an error for all of them, or one for each.
    pub fn verify(
        &self,
        id: &str,
        producer: Producer,
        partitions: Vec<NamedPartition>,
    ) -> Outcome<Result<Vec<(NamedPartition, ErrorCode)>, ErrorCode>> {
        let request = TransactionRequest::Verify { id: id.into(), producer, partitions };
        self.led.request(id, request).map(|answer| match answer? {
            TransactionResponse::Verified(verified) => Ok(verified),
            _ => Err(ErrorCode::UnknownServerError),
        })
    }

    /// Asks without a producer id, and again with one if it wants one: few requests do.
    fn ask_with_producer_id(
        &self,
        id: &str,
        request: impl Fn(Option<ProducerId>) -> TransactionRequest + Send + 'static,
    ) -> Outcome<Answer<TransactionShard>> {
        let driver = match self.led.driver(id) {
            Ok(driver) => driver,
            Err(error) => return Outcome::Done(Err(error)),
        };
        match driver.request(request(None)) {
            Outcome::Done(Ok(TransactionResponse::WantProducerId)) => {}
            asked => return asked,
        }
        if let Some(fresh) = self.ids.try_next() {
            return driver.request(request(Some(fresh)));
        }
        let ids = self.ids.clone();
        Outcome::Waiting(Box::pin(async move {
            let fresh = ids.next().await?;
            driver.request(request(Some(fresh))).wait().await
        }))
    }

    fn abort_timed_out(&self, driver: Arc<Driver<TransactionShard>>, id: Arc<str>) {
        let ids = self.ids.clone();
        self.world.spawn("abort of a transaction", async move {
            // Without one it is tried again when transactions are looked through the next time.
            if let Ok(fresh) = ids.next().await {
                drop(driver.request(TransactionRequest::AbortTimedOut { id, fresh }));
            }
        });
    }

    /// DescribeTransactions of one id.
    pub fn describe(&self, id: &str) -> Answer<TransactionShard> {
        self.led.driver(id)?.query(TransactionQuery::Describe(vec![id.into()]))
    }

    /// As [`Leaderships::query_all`].
    pub fn query_all(&self, query: &TransactionQuery) -> Result<Vec<TransactionResponse>, ErrorCode> {
        self.led.query_all(query)
    }

    // ---- metadata ----

    /// Takes up and gives up leaderships. Called by the metadata publisher only, after the replicas.
    pub fn publish(&self, delta: &Delta) {
        let level = delta.after.feature_level(TRANSACTION_VERSION);
        let is_new = self.level.swap(level, Ordering::Relaxed) != level;
        let level = TransactionVersion(level);
        let make = || TransactionShard::new(self.settings.clone(), level);
        self.led.publish(delta, &make, &self.sink);
        if is_new {
            for driver in self.led.drivers() {
                self.set_level(driver, level);
            }
        }
    }

    /// A coordinator that is being loaded is told when it is.
    fn set_level(&self, driver: Arc<Driver<TransactionShard>>, level: TransactionVersion) {
        let is_told = move |driver: &Driver<TransactionShard>| {
            let told = driver.request(TransactionRequest::SetLevel(level));
            !matches!(told, Outcome::Done(Err(ErrorCode::CoordinatorLoadInProgress)))
        };
        if is_told(&driver) {
            return;
        }
        let world = self.world.clone();
        self.world.spawn("level of transactions", async move {
            while !is_told(&driver) {
                world.sleep(SET_LEVEL_PAUSE).await;
            }
        });
    }

    /// Ends all of them, at the end of the broker.
    pub fn stop(&self) {
        self.led.stop();
        self.markers.stop();
    }
}

fn transaction_config(config: &BrokerConfig) -> TransactionConfig {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let transactions = &config.transactions;
    TransactionConfig {
        timeout_max_ms: i32::try_from(millis(transactions.timeout_max)).unwrap_or(i32::MAX),
        id_expiration_ms: millis(transactions.id_expiration),
        abort_timed_out_interval: transactions.abort_timed_out_interval,
        remove_expired_interval: transactions.remove_expired_interval,
    }
}
