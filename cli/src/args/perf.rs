//! What can be typed after `odradek perf`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

use super::records::start;
use super::{Acks, Codec, Start, seconds};

#[derive(Debug, Subcommand)]
pub enum Perf {
    /// Write records as fast as they are taken, or at a steady rate, and show throughput and latency.
    #[command(after_help = "\
Examples:
  odradek perf produce load --records 1000000 --record-bytes 100
  odradek perf produce load --records 100000 --record-bytes 1000 --throughput 5000 --acks 1
  odradek perf produce load --records 50000 --payload-file lines.txt --compression zstd --batch-bytes 65536 --linger-ms 10

Progress goes to standard error, the summary to standard output. A record's latency is from its being handed in to its
acknowledgement, so with --throughput -1 most of it is waiting for those before it. The defaults are those of
kafka-producer-perf-test.")]
    Produce(PerfProduce),
    /// Read records as fast as they come and show the throughput.
    #[command(after_help = "\
Examples:
  odradek perf consume load                         all that is there now
  odradek perf consume load --records 1000000       so many, waiting for those that are not there yet")]
    Consume(PerfConsume),
    /// Write one record after the other, each when the one before it has been consumed, and show how long each took.
    #[command(after_help = "\
Example:
  odradek perf e2e load --records 10000 --record-bytes 100 --acks all")]
    E2e(PerfE2e),
}

#[derive(Debug, ClapArgs)]
pub struct PerfProduce {
    pub topic: String,
    /// How many records to write.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// The size of each value, of random letters.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=104_857_600), conflicts_with = "payload_file", required_unless_present = "payload_file")]
    pub record_bytes: Option<u32>,
    /// Take values from the lines of this file, one after the other, over and over.
    #[arg(long, value_name = "FILE")]
    pub payload_file: Option<PathBuf>,
    /// Records a second; -1 for as many as are taken.
    #[arg(long, value_name = "N", default_value = "-1", allow_hyphen_values = true, value_parser = throughput)]
    pub throughput: Throughput,
    /// Who must have a record before it counts: all in-sync replicas, the leader alone (1), nobody (0).
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    #[arg(long, value_enum, default_value = "none")]
    pub compression: Codec,
    /// How large a batch may become, before compression.
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=104_857_600))]
    pub batch_bytes: u32,
    /// How long a batch waits for more records when it is not full.
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    pub linger_ms: u64,
    /// Requests under way to each broker; with --acks all five at most.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub in_flight: u16,
    /// Write to this partition only; without it, to all of them in turn, a batch each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Seconds between two lines of progress.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub report_interval: Duration,
}

/// Records a second; `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput(pub Option<f64>);

#[derive(Debug, ClapArgs)]
pub struct PerfConsume {
    pub topic: String,
    /// How many records to read, those that are still to come included; without it, all that are there now.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// Where to begin, as with `odradek consume`.
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = start)]
    pub from: Start,
    /// Read this partition only; may be given several times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
    /// What one fetch brings at most, all partitions of a broker together.
    #[arg(long, value_name = "BYTES", default_value_t = 52_428_800, value_parser = clap::value_parser!(i32).range(1..))]
    pub fetch_bytes: i32,
    /// What one fetch brings at most of each partition.
    #[arg(long, value_name = "BYTES", default_value_t = 1_048_576, value_parser = clap::value_parser!(i32).range(1..))]
    pub partition_bytes: i32,
    /// Seconds between two lines of progress.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub report_interval: Duration,
}

#[derive(Debug, ClapArgs)]
pub struct PerfE2e {
    pub topic: String,
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// The size of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(16..=104_857_600))]
    pub record_bytes: u32,
    /// Who must have a record before it counts.
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    /// Records a second at most; without it, each as soon as the one before it has come.
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Write to this partition; without it, to the first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Seconds between two lines of progress.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub report_interval: Duration,
}

fn throughput(text: &str) -> Result<Throughput, String> {
    match text {
        "-1" => Ok(Throughput(None)),
        text => {
            rate(text).map(|rate| Throughput(Some(rate))).map_err(|problem| format!("{problem}, or -1 for no limit"))
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "it takes records a second, from 0.001 to 1000000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(throughput("-1"), Ok(Throughput(None)));
        assert_eq!(throughput("2.5"), Ok(Throughput(Some(2.5))));
        assert!(throughput("0").is_err() && throughput("-2").is_err() && throughput("fast").is_err());
    }
}
