//! `odradek perf`: throughput and latency, seen from a client.

mod consume;
mod e2e;
mod produce;

use std::time::Duration;

use odradek_common::time::Instant;
use odradek_node::World;
use serde::Serialize;

use super::Context;
use crate::args::Perf;
use crate::error::CliError;
use crate::histogram::Histogram;

pub async fn execute(context: &Context, command: Perf) -> Result<(), CliError> {
    match command {
        Perf::Produce(command) => produce::execute(context, command).await,
        Perf::Consume(command) => consume::execute(context, command).await,
        Perf::E2e(command) => e2e::execute(context, command).await,
    }
}

/// Kafka's tools count so, too.
const MEGABYTE: f64 = 1024.0 * 1024.0;

/// How much in how long.
#[derive(Clone, Copy, Default)]
struct Volume {
    records: u64,
    bytes: u64,
}

impl Volume {
    fn add(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
    }

    /// Records and megabytes a second.
    fn rates(self, elapsed: Duration) -> (f64, f64) {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        (self.records as f64 / seconds, self.bytes as f64 / MEGABYTE / seconds)
    }
}

#[derive(Serialize)]
struct Latency {
    avg: f64,
    max: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        let quantile = |share| milliseconds(histogram.quantile(share));
        Self {
            avg: milliseconds(histogram.mean()),
            max: milliseconds(histogram.max()),
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
        }
    }
}

impl Latency {
    fn text(&self) -> String {
        let Self { avg, max, p50, p95, p99, p999 } = self;
        format!("latency in ms: avg {avg:.2}, max {max:.2}, p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}, p99.9 {p999:.2}")
    }
}

/// A line of progress on standard error now and then.
struct Progress {
    interval: Duration,
    since: Instant,
    volume: Volume,
    latencies: Histogram,
}

impl Progress {
    fn new(world: &World, interval: Duration) -> Self {
        Self { interval, since: world.instant(), volume: Volume::default(), latencies: Histogram::new() }
    }

    /// When the next line is due.
    fn due(&self) -> Instant {
        self.since + self.interval
    }

    fn show_if_due(&mut self, now: Instant) {
        if now < self.due() {
            return;
        }
        let (records, megabytes) = self.volume.rates(now.saturating_since(self.since));
        let latency = match self.latencies.count() {
            0 => String::new(),
            _ => format!(
                ", latency in ms: avg {:.2}, max {:.2}",
                milliseconds(self.latencies.mean()),
                milliseconds(self.latencies.max())
            ),
        };
        eprintln!("{} records, {records:.1} records/s, {megabytes:.2} MB/s{latency}", self.volume.records);
        (self.since, self.volume, self.latencies) = (now, Volume::default(), Histogram::new());
    }
}
