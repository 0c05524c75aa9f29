//! `librdkafka-gap BOOTSTRAP TOPIC SECONDS`: one record at a time, acks=all, to one partition through librdkafka with its
//! default settings; the longest time without an acknowledged record.
//!
//! Prints `LEADER ID HOST:PORT` first, so that a script can kill it, STARTED with the first acknowledgement, and a line
//! of JSON at the end. The topic is created with three replicas when it is not there.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use odradek_tests::client::{Client, NewTopic};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::producer::{DeliveryResult, ProducerContext};

/// Passes each outcome on to the sender.
struct Outcomes(std::sync::mpsc::Sender<bool>);

impl rdkafka::ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let _ = self.0.send(result.is_ok());
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, seconds] = arguments.as_slice() else {
        anyhow::bail!("librdkafka-gap BOOTSTRAP TOPIC SECONDS");
    };
    let duration = Duration::from_secs(seconds.parse().context("SECONDS is a number")?);
    let mut client = Client::new(bootstrap);
    let replicas = client.metadata(None)?.brokers.len().min(3) as i16;
    let new = NewTopic::new(topic, 1, replicas).config("min.insync.replicas", (replicas - 1).max(1));
    client.create_topic(&new)?;
    let (id, address) = client.leader(topic, 0)?;
    say(&format!("LEADER {id} {address}"))?;

    let (outcomes, inbox) = std::sync::mpsc::channel();
    let producer: ThreadedProducer<Outcomes> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create_with_context(Outcomes(outcomes))?;
    let (mut acked, mut errors, mut longest) = (0u64, 0u64, Duration::ZERO);
    let (started, mut last) = (Instant::now(), None);
    while started.elapsed() < duration {
        producer.send(BaseRecord::<(), [u8]>::to(topic).partition(0).payload(b"record")).map_err(|(error, _)| error)?;
        if !inbox.recv()? {
            errors += 1;
            continue;
        }
        acked += 1;
        match last.replace(Instant::now()) {
            Some(before) => longest = longest.max(before.elapsed()),
            None => say("STARTED")?,
        }
    }
    producer.flush(Duration::from_secs(60))?;
    say(&format!(
        "{{\"run\":\"librdkafka\",\"acked\":{acked},\"errors\":{errors},\"longest_ms\":{}}}",
        longest.as_millis()
    ))
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
