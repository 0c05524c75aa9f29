//! What can be typed about transactions.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Subcommand};

/// As Kafka names them.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

#[derive(Debug, Subcommand)]
pub enum Txn {
    /// List the transactional ids: their producers, how far their transactions are, and who coordinates them.
    #[command(after_help = "\
Examples:
  odradek txn list
  odradek txn list --state ongoing --longer-than 5m      what has been open for longer than that
  odradek txn list --pattern 'payments-.*' --output json")]
    List(TxnList),
    /// Show transactions: their state, timeout, age, and the partitions that they write to.
    #[command(after_help = "\
Example:
  odradek txn describe payments-1 payments-2")]
    Describe {
        #[arg(value_name = "TRANSACTIONAL-ID", required = true)]
        ids: Vec<String>,
    },
    /// Look for transactions that are open in a partition and unknown to their coordinator: nobody will end them.
    #[command(after_help = "\
Examples:
  odradek txn find-hanging                                  in all topics
  odradek txn find-hanging --topic orders --longer-than 1h

Only what has been silent for longer than any transaction may take is looked at. A transaction that hangs keeps
read-committed consumers, and compaction, from going on behind it; `odradek txn abort` ends it.")]
    FindHanging(TxnFindHanging),
    /// Abort a transaction in one partition, whatever its coordinator knows of it.
    #[command(after_help = "\
Examples:
  odradek txn abort orders 3 --start-offset 1711             the one that is open from there
  odradek txn abort orders 3 --producer-id 7 --producer-epoch 2 --coordinator-epoch 5

For a transaction that hangs. One that its producer is still working on is torn in two: its records in this partition are
aborted, and those in others are not.")]
    Abort(TxnAbort),
}

#[derive(Debug, ClapArgs)]
pub struct TxnList {
    /// Only in these states.
    #[arg(long, value_name = "STATE,...", value_delimiter = ',', ignore_case = true,
        value_parser = PossibleValuesParser::new(STATES).map(canonical))]
    pub state: Vec<String>,
    /// Only of these producer ids.
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub producer_id: Vec<i64>,
    /// Only those that began longer ago: 30s, 5m, 2h.
    #[arg(long, value_name = "DURATION", value_parser = super::group::duration)]
    pub longer_than: Option<Duration>,
    /// Only ids that this regular expression matches as a whole.
    #[arg(long, value_name = "REGEX")]
    pub pattern: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct TxnFindHanging {
    /// Only in this topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// Only in this partition of the topic.
    #[arg(long, value_name = "N", requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Longer than any transaction may take (transaction.max.timeout.ms).
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = super::group::duration)]
    pub longer_than: Duration,
}

#[derive(Debug, ClapArgs)]
pub struct TxnAbort {
    pub topic: String,
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Where the transaction begins in the partition.
    #[arg(long, value_name = "OFFSET", required_unless_present = "producer_id", conflicts_with = "producer_id")]
    pub start_offset: Option<i64>,
    /// Whose transaction it is.
    #[arg(long, value_name = "ID", requires = "producer_epoch")]
    pub producer_id: Option<i64>,
    #[arg(long, value_name = "EPOCH", requires = "producer_id")]
    pub producer_epoch: Option<i16>,
    /// Of the coordinator that knew it last; without it, the first.
    #[arg(long, value_name = "EPOCH", requires = "producer_id")]
    pub coordinator_epoch: Option<i32>,
}

/// As Kafka writes it, whatever the case that was typed.
fn canonical(typed: String) -> String {
    STATES.iter().find(|state| state.eq_ignore_ascii_case(&typed)).map_or(typed, |state| (*state).to_owned())
}
