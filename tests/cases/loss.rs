//! The loss test: idempotent acks=all producers at full speed while brokers and controllers are killed -9 and started
//! again at random, and at last all of them together. Every acknowledged record must be there once, in order, and the
//! replicas must be equal byte for byte.
//!
//! `ODRADEK_LOSS_SECONDS` sets how long nodes die (one minute when unset, ten with `ODRADEK_LONG`); `ODRADEK_LOSS_SEED` replays which ones and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::Node;
use odradek_tests::history::{Ledger, compare_replicas, value};
use odradek_tests::{Cluster, Spec, is_long, real, seconds_from_env, wait_for};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};

const PARTITIONS: i32 = 6;
const PRODUCERS: u32 = 3;
const RECORD_BYTES: usize = 200;
/// After the last fault everything is well again within this.
const HEAL_LIMIT: Duration = Duration::from_secs(60);
/// A request whose answer died with a broker is sent again after librdkafka's `socket.timeout.ms` of a minute.
const FLUSH_LIMIT: Duration = Duration::from_secs(150);

// ---------------------------------------------------------------- writers

/// Tells the ledger of every acknowledgement.
struct Acknowledgements {
    producer: u32,
    ledger: Arc<Ledger>,
    failed: AtomicU64,
}

impl ClientContext for Acknowledgements {}

impl ProducerContext for Acknowledgements {
    /// The sequence of the record among those of its producer to its partition.
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, sequence: Box<u64>) {
        match result {
            Ok(message) => self.ledger.acknowledge(message.partition(), self.producer, *sequence, message.offset()),
            // Not acknowledged, so nothing was promised.
            Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// An idempotent librdkafka producer that writes as fast as it can to all partitions of a topic.
pub struct Writer {
    producer: BaseProducer<Acknowledgements>,
    id: u32,
    partitions: i32,
    topic: String,
}

impl Writer {
    pub fn new(bootstrap: &str, id: u32, partitions: i32, topic: &str, ledger: &Arc<Ledger>) -> anyhow::Result<Self> {
        let mut config = real::config(bootstrap);
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "2");
        config.set("queue.buffering.max.messages", "20000");
        let context = Acknowledgements { producer: id, ledger: ledger.clone(), failed: AtomicU64::new(0) };
        let producer = config.create_with_context(context)?;
        Ok(Self { producer, id, partitions, topic: topic.to_owned() })
    }

    /// Writes until `stop`, then waits for what is under way.
    pub fn run(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut sequences = vec![0u64; self.partitions as usize];
        while !stop.load(Ordering::Relaxed) {
            for (partition, sequence) in sequences.iter_mut().enumerate() {
                let payload = value(self.id, *sequence, RECORD_BYTES);
                let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, Box::new(*sequence))
                    .partition(partition as i32)
                    .payload(&payload);
                match self.producer.send(record) {
                    Ok(()) => *sequence += 1,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                        self.producer.poll(Duration::from_millis(5));
                    }
                    Err((error, _)) => return Err(error).context("a producer stopped"),
                }
            }
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(FLUSH_LIMIT).context("what was under way is answered")?;
        let failed = self.producer.context().failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} records of producer {} could not be delivered", self.id);
        Ok(())
    }
}

// ---------------------------------------------------------------- faults

/// Kills one or two nodes, waits, starts them again, waits, until `until`. How many were killed.
fn kill_at_random(cluster: &Cluster, seed: u64, until: Instant) -> anyhow::Result<u32> {
    let mut random = SmallRng::seed_from_u64(seed);
    let all: Vec<&Node> = cluster.nodes().iter().collect();
    let mut killed = 0;
    while Instant::now() < until {
        let count = if random.random_bool(0.25) { 2 } else { 1 };
        let victims: Vec<&Node> = all.choose_multiple(&mut random, count).copied().collect();
        for node in &victims {
            node.kill()?;
            killed += 1;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..2_500)));
        for node in &victims {
            node.start()?;
        }
        std::thread::sleep(Duration::from_millis(random.random_range(100..3_000)));
        for node in &all {
            ensure!(node.is_running(), "{} ended by itself", node.name);
        }
    }
    Ok(killed)
}

#[test]
fn nothing_acknowledged_is_lost_while_nodes_are_killed() {
    let seed = std::env::var("ODRADEK_LOSS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| odradek_tests::wire::now_ms() as u64);
    let during = seconds_from_env("ODRADEK_LOSS_SECONDS", if is_long() { 600 } else { 60 });
    eprintln!("ODRADEK_LOSS_SEED={seed}, {during:?}");
    Spec::new(3, 3).run(|cluster| {
        let mut client = cluster.client();
        client.limit = HEAL_LIMIT;
        client.create_topic(&NewTopic::new("loss", PARTITIONS, 3).config("min.insync.replicas", 2))?;
        let (ledger, stop) = (Arc::new(Ledger::default()), AtomicBool::new(false));
        let killed = std::thread::scope(|scope| -> anyhow::Result<u32> {
            let writers: Vec<_> = (0..PRODUCERS)
                .map(|id| {
                    let (ledger, stop) = (ledger.clone(), &stop);
                    scope.spawn(move || Writer::new(cluster.bootstrap(), id, PARTITIONS, "loss", &ledger)?.run(stop))
                })
                .collect();
            let outcome = break_it(cluster, &ledger, seed, during);
            stop.store(true, Ordering::Relaxed);
            let stopped = Instant::now();
            for writer in writers {
                writer.join().expect("a producer does not panic")?;
            }
            eprintln!("what was under way took {:?}", stopped.elapsed());
            outcome
        })?;
        for partition in 0..PARTITIONS {
            client.wait_isr("loss", partition, &[1, 2, 3])?;
        }
        let seen = ledger.check(&mut client, "loss", PARTITIONS)?;
        let compared = compare_replicas(cluster, &mut client, "loss", PARTITIONS)?;
        eprintln!(
            "{killed} kills; {} records acknowledged, {} stored, each once and in order; {compared} batches equal on 3 replicas",
            seen.acknowledged, seen.records
        );
        Ok(())
    });
}

fn break_it(cluster: &Cluster, ledger: &Ledger, seed: u64, during: Duration) -> anyhow::Result<u32> {
    let progress = |what: &str| {
        let from = ledger.count();
        wait_for(&format!("acknowledgements {what}"), HEAL_LIMIT, || Ok((ledger.count() >= from + 1_000).then_some(())))
    };
    progress("at the start")?;
    let killed = kill_at_random(cluster, seed, Instant::now() + during)?;
    progress("after the kills")?;
    cluster.kill_all()?;
    cluster.start_all()?;
    progress("after all were killed together")?;
    Ok(killed + cluster.nodes().len() as u32)
}
