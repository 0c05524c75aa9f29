//! librdkafka as a producer whose acknowledgements a ledger remembers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};

use crate::history::{Ledger, value};
use crate::real;

const RECORD_BYTES: usize = 200;
/// A request whose answer died with a broker is sent again after librdkafka's `socket.timeout.ms` of a minute.
const FLUSH_LIMIT: Duration = Duration::from_secs(150);

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

/// An idempotent librdkafka producer that writes to all partitions of a topic, as fast as it can or as it is told.
pub struct Writer {
    producer: BaseProducer<Acknowledgements>,
    id: u32,
    partitions: i32,
    topic: String,
    /// Between a record to each partition and the next one to each.
    pub pause: Duration,
}

impl Writer {
    pub fn new(bootstrap: &str, id: u32, partitions: i32, topic: &str, ledger: &Arc<Ledger>) -> anyhow::Result<Self> {
        let mut config = real::config(bootstrap);
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "2");
        config.set("queue.buffering.max.messages", "20000");
        let context = Acknowledgements { producer: id, ledger: ledger.clone(), failed: AtomicU64::new(0) };
        let producer = config.create_with_context(context)?;
        Ok(Self { producer, id, partitions, topic: topic.to_owned(), pause: Duration::ZERO })
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
            let next = Instant::now() + self.pause;
            self.producer.poll(self.pause);
            // A poll ends with the first thing that it has to tell.
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        self.producer.flush(FLUSH_LIMIT).context("what was under way is answered")?;
        let failed = self.producer.context().failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} records of producer {} could not be delivered", self.id);
        Ok(())
    }
}
