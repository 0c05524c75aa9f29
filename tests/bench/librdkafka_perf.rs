//! What an application on librdkafka gets, with that library's default settings, for `compare`.
//!
//!   librdkafka-perf produce BOOTSTRAP TOPIC RECORDS RECORD_BYTES
//!       as fast as the library takes records; latency is from handing one over to its acknowledgement
//!   librdkafka-perf consume BOOTSTRAP TOPIC RECORDS
//!       a group of one that reads so many from the start; seconds count from the first record
//!
//! The topic is there already. One line of JSON, named as the load meter's; the exit status is 1 where there were errors.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Message};

/// Without a record for so long, there is none to come.
const SILENCE: Duration = Duration::from_secs(60);

/// Microseconds of each record that was acknowledged, and how many were not.
#[derive(Default)]
struct Outcomes(Mutex<(Vec<u64>, u64)>);

impl rdkafka::ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, handed_over: Box<Instant>) {
        let mut outcomes = self.0.lock().expect("nobody panics with it");
        match result {
            Ok(_) => outcomes.0.push(handed_over.elapsed().as_micros() as u64),
            Err(_) => outcomes.1 += 1,
        }
    }
}

fn produce(bootstrap: &str, topic: &str, records: u64, record_bytes: usize) -> anyhow::Result<()> {
    let config = ClientConfig::new().set("bootstrap.servers", bootstrap).clone();
    let producer: ThreadedProducer<Outcomes> = config.create_with_context(Outcomes::default())?;
    let payload = vec![b'r'; record_bytes];
    let begun = Instant::now();
    for _ in 0..records {
        let mut record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(Instant::now())).payload(&payload);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error).context("a record was refused");
            }
            record = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(SILENCE)?;
    let seconds = begun.elapsed().as_secs_f64();
    let outcomes = &mut *producer.context().0.lock().expect("nobody panics with it");
    let (latencies, errors) = (&mut outcomes.0, outcomes.1);
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share).ceil() as usize;
        latencies.get(index.saturating_sub(1)).copied().unwrap_or_default()
    };
    let quantiles = format!("\"p50_us\":{},\"p99_us\":{},\"p999_us\":{}", at(0.5), at(0.99), at(0.999));
    report("produce", latencies.len() as u64, record_bytes as u64, seconds, errors, &quantiles)?;
    ensure!(errors == 0, "{errors} records were not acknowledged");
    Ok(())
}

fn consume(bootstrap: &str, topic: &str, records: u64) -> anyhow::Result<()> {
    let group = format!("librdkafka-perf-{}", std::process::id());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    let (mut got, mut bytes, mut begun, mut last) = (0u64, 0u64, None::<Instant>, Instant::now());
    while got < records {
        // It also returns without a record when the group has changed.
        let Some(message) = consumer.poll(Duration::from_secs(1)) else {
            ensure!(last.elapsed() < SILENCE, "{got} of {records} records came");
            continue;
        };
        last = Instant::now();
        begun.get_or_insert(last);
        bytes += message?.payload().map_or(0, <[u8]>::len) as u64;
        got += 1;
    }
    let seconds = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
    report("consume", got, bytes / got.max(1), seconds, 0, "\"group\":true")
}

fn report(run: &str, records: u64, record_bytes: u64, seconds: f64, errors: u64, more: &str) -> anyhow::Result<()> {
    let mib_s = (records * record_bytes) as f64 / f64::from(1 << 20) / seconds;
    let records_s = records as f64 / seconds;
    Ok(writeln!(
        std::io::stdout(),
        "{{\"run\":\"librdkafka-{run}\",\"mib_s\":{mib_s:.1},\"records_s\":{records_s:.0},\"seconds\":{seconds:.2},\
         \"errors\":{errors},{more}}}"
    )?)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse().with_context(|| format!("{text} is not a number"));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["produce", bootstrap, topic, records, bytes] => {
            produce(bootstrap, topic, number(records)?, usize::try_from(number(bytes)?)?)
        }
        ["consume", bootstrap, topic, records] => consume(bootstrap, topic, number(records)?),
        _ => bail!("librdkafka-perf produce BOOTSTRAP TOPIC RECORDS RECORD_BYTES | consume BOOTSTRAP TOPIC RECORDS"),
    }
}
