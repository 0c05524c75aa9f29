//! What can be typed about records: `odradek produce` and `consume`.

use clap::{Args as ClapArgs, ValueEnum};

use super::pair;
use crate::format::template::{Field, Template};

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  echo hello | odradek produce greetings
  odradek produce orders --key-separator : --acks all --compression zstd < orders.txt
  odradek produce orders --header source=import --partition 3 < part3.txt
  odradek produce orders --key-separator : --null-value NULL <<< alice:NULL        a tombstone
  odradek consume orders --exit-at-end --output json | odradek produce copy --format json

A line of --format json is an object: value (required; null is a tombstone), key, headers ({\"name\": \"text\"}, or a list of
{\"name\", \"value\"}), partition, timestamp (milliseconds or 2026-01-31T12:00:00Z). What is not text stands in key_hex and
value_hex as hexadecimal digits.

Keys choose partitions as Kafka's clients do. With --acks all records are written once, in order, though brokers fail.")]
pub struct Produce {
    pub topic: String,
    /// What a line of standard input is.
    #[arg(long, value_enum, default_value = "lines")]
    pub format: ProduceFormat,
    /// What stands between key and value on each line; without it, records have no key.
    #[arg(long, value_name = "TEXT")]
    pub key_separator: Option<String>,
    /// A key or value that is this text is null; a record without a value is a tombstone, which deletes its key from a
    /// compacted topic.
    #[arg(long, value_name = "TEXT")]
    pub null_value: Option<String>,
    /// Who must have a record before it counts: all in-sync replicas, the leader alone (1), nobody (0).
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
    #[arg(long, value_enum, default_value = "none")]
    pub compression: Codec,
    /// Write to this partition only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// A header of every record, as source=import; may be given several times.
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    pub header: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProduceFormat {
    /// A value, or a key and a value.
    Lines,
    /// A JSON object.
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Acks {
    All,
    #[value(name = "1")]
    Leader,
    #[value(name = "0")]
    None,
}

impl Acks {
    /// As a Produce request has it.
    pub fn code(self) -> i16 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
            Self::None => 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  odradek consume orders                                      new records, until it is interrupted
  odradek consume orders --from earliest --exit-at-end        all that is there now
  odradek consume orders --from 1200 --partition 3 --max-messages 10
  odradek consume orders --from @2026-01-31T12:00:00Z --output json
  odradek consume orders --print timestamp,offset,headers,key,value
  odradek consume orders --format '%p %o %k: %v\\n'")]
pub struct Consume {
    pub topic: String,
    /// Where to begin: earliest, latest, an offset (1200), or a time (@2026-01-31T12:00:00Z, @MILLISECONDS). Without it,
    /// latest when records are followed, and earliest with --exit-at-end.
    #[arg(long, value_name = "WHERE", value_parser = start)]
    pub from: Option<Start>,
    /// Read this partition only; may be given several times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
    /// End after so many records.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_messages: Option<u64>,
    /// Wait for new records for ever (the default).
    #[arg(long, short, conflicts_with = "exit_at_end")]
    pub follow: bool,
    /// End where the partitions ended when the command began.
    #[arg(long, short = 'e')]
    pub exit_at_end: bool,
    /// Print the key and this text before each value; with --print, this text between fields in place of a tab.
    #[arg(long, value_name = "TEXT")]
    pub key_separator: Option<String>,
    /// What to print of each record, on a line, in the order timestamp, partition, offset, headers, key, value.
    #[arg(long, value_enum, value_name = "FIELD,...", value_delimiter = ',')]
    pub print: Vec<Field>,
    /// Print each record by this template, and nothing else, so it should end with \n: %t topic, %p partition, %o offset,
    /// %k key, %v value, %h headers, %T timestamp in milliseconds, %D as date, %K and %V sizes of key and value, %%; \n,
    /// \t, \0, \xNN.
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, conflicts_with_all = ["print", "key_separator"])]
    pub format: Option<Template>,
    /// What is printed for a key or value that is null, except as JSON.
    #[arg(long, value_name = "TEXT", default_value = "null")]
    pub null_value: String,
}

/// Where consuming begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    Earliest,
    Latest,
    Offset(i64),
    /// Milliseconds since 1970 UTC: the first record at or after it.
    Time(i64),
}

pub(super) fn start(text: &str) -> Result<Start, String> {
    let wrong =
        || "it takes earliest, latest, an offset such as 1200, or a time such as @2026-01-31T12:00:00Z".to_owned();
    match text {
        "earliest" | "beginning" => Ok(Start::Earliest),
        "latest" | "end" => Ok(Start::Latest),
        text => match text.strip_prefix('@') {
            Some(time) => crate::time::parse(time).map(Start::Time).ok_or_else(wrong),
            None => text.parse().ok().filter(|offset| *offset >= 0).map(Start::Offset).ok_or_else(wrong),
        },
    }
}

/// A point in time, for which each partition has its own offset.
pub(super) fn when(text: &str) -> Result<Start, String> {
    let found = start(text).ok().filter(|found| !matches!(found, Start::Offset(_)));
    found.ok_or_else(|| "it takes earliest, latest, or a time such as @2026-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheres_are_read() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("1200"), Ok(Start::Offset(1200)));
        assert_eq!(start("@1970-01-01"), Ok(Start::Time(0)));
        assert!(start("-1").is_err() && start("@soon").is_err() && start("soon").is_err());
        assert_eq!(when("latest"), Ok(Start::Latest));
        assert!(when("5").is_err());
    }
}
