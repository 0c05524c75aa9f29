//! What can be typed. The texts here are the manual.

pub mod log;
mod partitions;
mod perf;
mod records;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use self::log::{Decoders, Log, LogDump, LogVerify};
pub use self::partitions::{
    Decommission, Elect, Reassign, ReassignCancel, ReassignPlan, ReassignRun, Records, RecordsDelete, Target,
};
pub use self::perf::{Perf, PerfConsume, PerfE2e, PerfProduce};
pub use self::records::{Acks, Codec, Consume, Produce, ProduceFormat, Start};
use crate::output::Format;

pub mod adopt;
pub mod config;
mod group;
mod transactions;

pub use adopt::Adopt;
pub use config::{Config, ConfigEdit, Configured, ConfiguredKind};
pub use group::{Group, GroupDescribe, GroupList, Groups, ResetOffsets, Selection, Whereto};
pub use transactions::{Txn, TxnAbort, TxnFindHanging, TxnList};

/// Operates an Odradek cluster: topics, brokers, the quorum; produces to it and consumes from it.
#[derive(Debug, Parser)]
#[command(
    name = "odradek",
    version,
    disable_help_subcommand = true,
    after_help = "\
Where the cluster is: --admin and --bootstrap, else ADMIN and BOOTSTRAP in the environment, else the file .odradek/env that
`deploy/cluster up` writes, in this directory or one above.

Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 nobody answers; 4 no such topic, partition, group or broker; 5 the
topic exists already.

Examples:
  odradek topic create orders --partitions 6 --replication-factor 3 --config retention.ms=86400000
  echo 'key1:hello' | odradek produce orders --key-separator :
  odradek consume orders --from earliest --exit-at-end
  odradek perf produce orders --records 100000 --record-bytes 100
  odradek quorum status --output json"
)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, ClapArgs)]
pub struct Global {
    /// The controllers, as HOST:PORT,HOST:PORT; any of them finds the active one.
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub admin: Option<String>,
    /// The brokers, for what concerns records and disks, as HOST:PORT,HOST:PORT; one is enough to find all.
    #[arg(long, global = true, visible_alias = "bootstrap-server", value_name = "HOST:PORT,...")]
    pub bootstrap: Option<String>,
    /// text for people, json for programs.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Seconds until a command gives up on a cluster that does not answer.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, describe and delete topics.
    #[command(subcommand)]
    Topic(Topic),
    /// Configs of topics, brokers, groups and clients' metrics: show, set, take back.
    #[command(subcommand)]
    Config(Config),
    /// The brokers: who is there, fenced or serving.
    #[command(subcommand)]
    Broker(Broker),
    /// Consumer groups: how far they are, who is in them; reset and delete.
    #[command(subcommand)]
    Group(Group),
    /// Transactions: who has one open, what hangs; abort it.
    #[command(subcommand)]
    Txn(Txn),
    /// Choose leaders: the preferred ones, or any for a partition without one.
    #[command(subcommand)]
    Elect(Elect),
    /// Move partitions to other brokers, or change how many replicas they have.
    #[command(subcommand)]
    Reassign(Reassign),
    /// Delete records.
    #[command(subcommand)]
    Records(Records),
    /// The controllers: who leads, how far the others are.
    #[command(subcommand)]
    Quorum(Quorum),
    /// Directories of nodes: make cluster ids, format.
    #[command(subcommand)]
    Storage(Storage),
    /// Take over the directories of an Apache Kafka cluster: its topics, configs, records and committed offsets.
    Adopt(Adopt),
    /// Look into the files of a log directory: print them, or check them. Needs no cluster.
    #[command(subcommand)]
    Log(Log),
    /// Write the lines of standard input to a topic, a record each.
    Produce(Produce),
    /// Print the records of a topic, a line each.
    Consume(Consume),
    /// Measure how fast a cluster takes and gives records, and how long a record needs.
    #[command(subcommand)]
    Perf(Perf),
    /// Print a script by which a shell completes this command line.
    #[command(after_help = "\
To install it:
  odradek completions bash > ~/.local/share/bash-completion/completions/odradek
  odradek completions zsh > ~/.zfunc/_odradek          with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  odradek completions fish > ~/.config/fish/completions/odradek.fish
Or for this shell alone: source <(odradek completions bash)")]
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// Shells whose completion is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Subcommand)]
pub enum Topic {
    /// Create a topic.
    #[command(after_help = "\
Examples:
  odradek topic create orders
  odradek topic create orders --partitions 12 --replication-factor 3 --config min.insync.replicas=2
  odradek topic create orders --assignment 1:2:3,2:3:1        partition 0 on brokers 1, 2, 3 and partition 1 on 2, 3, 1")]
    Create(TopicCreate),
    /// List all topics.
    List {
        /// With the cluster's own topics, as __consumer_offsets.
        #[arg(long)]
        internal: bool,
    },
    /// Show a topic's partitions, replicas, ISR and configs.
    Describe { topic: String },
    /// Add partitions to a topic. Records that are there stay where they are, so a key's new records may go elsewhere.
    #[command(after_help = "\
Examples:
  odradek topic alter orders --partitions 12
  odradek topic alter orders --partitions 8 --assignment 1:2:3,2:3:1        if there were 6: the brokers of the two new ones

Configs are changed by `odradek config set topic/NAME`, replicas moved by `odradek reassign`.")]
    Alter(TopicAlter),
    /// Show where partitions begin and end, or what their offsets were at some time.
    #[command(after_help = "\
Examples:
  odradek topic offsets orders
  odradek topic offsets orders --at @2026-01-31T12:00:00Z --partition 3")]
    Offsets {
        topic: String,
        /// The first offset at or after this time: earliest, latest, @2026-01-31T12:00:00Z or @MILLISECONDS.
        #[arg(long, value_name = "WHEN", value_parser = records::when)]
        at: Option<Start>,
        /// Only this partition; may be given several times.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Vec<i32>,
    },
    /// Show the idempotent and transactional producers that write to a topic, or did lately.
    Producers {
        topic: String,
        /// Only this partition; may be given several times.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Vec<i32>,
    },
    /// Delete a topic with all its records.
    Delete {
        topic: String,
        /// Succeed when there is no such topic.
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct TopicCreate {
    pub topic: String,
    /// How many partitions; without it, num.partitions of the controllers.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..), conflicts_with = "assignment")]
    pub partitions: Option<i32>,
    /// How many brokers keep each partition; without it, default.replication.factor of the controllers.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=32767), conflicts_with = "assignment")]
    pub replication_factor: Option<i32>,
    /// Which brokers keep which partition, the preferred leader first: 1:2:3,2:3:1.
    #[arg(long, value_name = "ID:ID:...,...", value_parser = assignment)]
    pub assignment: Option<Assignment>,
    /// A config of the topic, as retention.ms=86400000; may be given several times.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,
    /// Succeed when the topic is there already, whatever it looks like.
    #[arg(long)]
    pub if_not_exists: bool,
    /// Only check whether it could be created.
    #[arg(long)]
    pub validate_only: bool,
}

#[derive(Debug, ClapArgs)]
pub struct TopicAlter {
    pub topic: String,
    /// How many partitions it shall have, those that exist included.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// Which brokers keep which new partition, the preferred leader first.
    #[arg(long, value_name = "ID:ID:...,...", value_parser = assignment)]
    pub assignment: Option<Assignment>,
    /// Only check whether they could be added.
    #[arg(long)]
    pub validate_only: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment(pub Vec<Vec<i32>>);

#[derive(Debug, Subcommand)]
pub enum Broker {
    /// List all brokers.
    List,
    /// Show one broker.
    Describe {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
    },
    /// Show the directories of brokers, how full they are, and the replicas in them.
    #[command(after_help = "\
Examples:
  odradek broker log-dirs
  odradek broker log-dirs 1 2 --topic orders        each replica of the topic, with its size and lag")]
    LogDirs {
        /// Only of these brokers; without them, of all that serve.
        #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
        ids: Vec<i32>,
        /// Show the replicas of this topic; may be given several times.
        #[arg(long, value_name = "TOPIC")]
        topic: Vec<String>,
    },
    /// Forget a broker that is gone for good. Its id may be used again; what it kept should have been moved away before.
    Unregister {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
        /// Even when it serves. It will notice, and stop.
        #[arg(long)]
        force: bool,
    },
    /// Take a broker out of service while its process runs: others lead what it leads, and it stays fenced until unfence.
    #[command(after_help = "\
Examples:
  odradek broker fence 3
  odradek broker unfence 3

Nothing is moved: its replicas follow the new leaders, and are in sync again soon after it is unfenced. It stays fenced when
it is started anew, or when the controllers are.")]
    Fence {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
        /// Even when it is the only in-sync replica of some partition, which is then without a leader.
        #[arg(long)]
        force: bool,
    },
    /// Let a broker back in that was fenced by hand.
    Unfence {
        #[arg(value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
    },
    /// Wait until brokers serve; for scripts that start a cluster.
    Wait {
        /// How many brokers must be registered and not fenced.
        #[arg(long, value_name = "N", default_value_t = 1)]
        count: usize,
    },
    /// Move everything that a broker holds to others, then take it out of the cluster.
    #[command(after_help = "\
Examples:
  odradek broker decommission 3 --dry-run
  odradek broker decommission 3

The command may be interrupted: the cluster goes on by itself, and the same command shows how far it is. When all is
moved the broker is unregistered and its process ends. A broker that is started again is in the cluster again, empty.")]
    Decommission(Decommission),
    /// Keep a broker that is being decommissioned: what is moving stays, what has moved does not come back.
    Recommission {
        #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
        id: i32,
    },
}

#[derive(Debug, Subcommand)]
pub enum Quorum {
    /// Show the active controller, the log of each, and how far the brokers follow.
    Status,
    /// Show the features that the cluster has agreed on, or change one.
    #[command(after_help = "\
Examples:
  odradek quorum features
  odradek quorum features --set eligible.leader.replicas.version=0 --downgrade --validate-only")]
    Features {
        /// A feature and the level that it shall have; 0 disables it.
        #[arg(long, value_name = "NAME=LEVEL", value_parser = config::feature_level)]
        set: Option<(String, i32)>,
        /// The level is a lower one.
        #[arg(long, requires = "set")]
        downgrade: bool,
        /// Only check whether it could be changed.
        #[arg(long, requires = "set")]
        validate_only: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Storage {
    /// Print a new cluster id.
    RandomUuid,
    /// Make a node's directories ready for its first start: writes meta.properties into each of them.
    #[command(after_help = "\
Example, for each node of a new cluster with the same id:
  id=$(odradek storage random-uuid)
  odradek storage format --cluster-id $id --config /etc/odradek/broker.properties")]
    Format(StorageFormat),
}

#[derive(Debug, ClapArgs)]
pub struct StorageFormat {
    /// The cluster that the node is to belong to.
    #[arg(long, short = 't', value_name = "ID")]
    pub cluster_id: String,
    /// The node's .properties file; several may be given.
    #[arg(long, short, value_name = "FILE", required = true)]
    pub config: Vec<PathBuf>,
    /// A config in place of what the files say.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Leave directories alone that are formatted for this node and cluster already.
    #[arg(long, short = 'g')]
    pub ignore_formatted: bool,
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it takes NAME=VALUE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    const ALLOWED: RangeInclusive<f64> = 0.001..=86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if ALLOWED.contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it takes seconds, from 0.001 to 86400".to_owned()),
    }
}

fn assignment(text: &str) -> Result<Assignment, String> {
    let replicas =
        |partition: &str| partition.split(':').map(|id| id.trim().parse().ok()).collect::<Option<Vec<i32>>>();
    let partitions: Option<Vec<Vec<i32>>> = text.split(',').map(replicas).collect();
    partitions
        .filter(|all| all.iter().flatten().all(|id| *id >= 0))
        .map(Assignment)
        .ok_or_else(|| "it takes broker ids, as 1:2:3,2:3:1 for two partitions of three replicas".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn assignments_are_read() {
        assert_eq!(assignment("1:2,2:1"), Ok(Assignment(vec![vec![1, 2], vec![2, 1]])));
        assert!(assignment("1:x").is_err() && assignment("").is_err() && assignment("1:-2").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "odradek",
            "odradek topic",
            "odradek topic create",
            "odradek topic create t --partitions 0",
            "odradek topic create t --partitions 1 --assignment 1:2",
            "odradek topic create t --config x",
            "odradek consume t --follow --exit-at-end",
            "odradek produce t --acks 2",
            "odradek topic list --timeout 0",
            "odradek config set topic/t",
            "odradek config unset topic/t",
            "odradek config get t",
            "odradek broker unregister -1",
            "odradek quorum features --downgrade",
            "odradek topic alter t",
            "odradek consume t --format %z",
            "odradek consume t --format %v --print value",
            "odradek perf produce t --records 5",
            "odradek perf produce t --records 5 --record-bytes 1 --throughput 0",
            "odradek perf e2e t --record-bytes 15",
            "odradek completions csh",
            "odradek adopt",
            "odradek log dump",
            "odradek log verify",
            "odradek log dump f --offsets-decoder --transaction-log-decoder",
            "odradek log dump f --from -1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("odradek topic create t -p 3 -r 1 -c a=b --output json").is_ok());
        assert!(parse("odradek perf produce t --records 5 --record-bytes 1 --throughput -1").is_ok());
        assert!(parse("odradek --admin a:1 broker wait --count 3 --timeout 60").is_ok());
    }
}
