//! What can be typed about partitions: elections, reassignments, deletions of records, brokers that are retired.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

/// A topic, or one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub topic: String,
    pub partition: Option<i32>,
}

/// One partition with the brokers that are to keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assign {
    pub topic: String,
    pub partition: i32,
    pub replicas: Vec<i32>,
}

#[derive(Debug, Subcommand)]
pub enum Elect {
    /// Let the preferred replica of each partition lead, the first in its list.
    #[command(after_help = "\
Examples:
  odradek elect preferred --all
  odradek elect preferred orders:0 orders:3 payments")]
    Preferred(ElectTargets),
    /// Give partitions a leader that have none, though acknowledged records may be lost.
    #[command(after_help = "\
Example, for a partition whose in-sync replicas will not come back:
  odradek elect unclean orders:3")]
    Unclean(ElectTargets),
}

#[derive(Debug, ClapArgs)]
pub struct ElectTargets {
    /// Topics, or single partitions as TOPIC:PARTITION.
    #[arg(value_name = "TOPIC[:PARTITION]", value_parser = target, required_unless_present = "all", conflicts_with = "all")]
    pub targets: Vec<Target>,
    /// Every partition of the cluster.
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub enum Reassign {
    /// Show which replicas would have to move, and how many bytes; changes nothing.
    #[command(after_help = "\
Examples:
  odradek reassign plan                                     even replicas out over all brokers
  odradek reassign plan --topic orders --brokers 2,3,4
  odradek reassign plan --topic orders --replication-factor 3
  odradek reassign plan --brokers 2,3,4 --output json > plan.json && odradek reassign run --plan plan.json --watch")]
    Plan(ReassignPlan),
    /// Begin to move partitions.
    #[command(after_help = "\
Examples:
  odradek reassign run --plan plan.json --watch
  odradek reassign run orders:0=2,3,4 orders:1=3,4,2

A plan is what `reassign plan --output json` prints, which is the format of Kafka's own tool.

To spare clients, bound what new replicas fetch, in bytes a second:
  odradek config set brokers leader.replication.throttled.rate=20000000 follower.replication.throttled.rate=20000000
  odradek config set topic/orders 'leader.replication.throttled.replicas=*' 'follower.replication.throttled.replicas=*'")]
    Run(ReassignRun),
    /// Show how far the moves are until all are done.
    Watch {
        /// Only partitions of these topics.
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
    },
    /// Undo moves that are under way.
    #[command(after_help = "\
Examples:
  odradek reassign cancel orders:0
  odradek reassign cancel --plan plan.json
  odradek reassign cancel --all")]
    Cancel(ReassignCancel),
    /// List the moves that are under way.
    List {
        /// Only partitions of these topics.
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct ReassignPlan {
    /// Plan for this topic only; may be given several times.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Vec<String>,
    /// Who shall keep the replicas; without it, all brokers that serve.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    pub brokers: Vec<i32>,
    /// How many replicas each partition shall have; without it, as many as it has.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=32767))]
    pub replication_factor: Option<i32>,
}

#[derive(Debug, ClapArgs)]
pub struct ReassignRun {
    /// Single moves, the preferred leader first.
    #[arg(value_name = "TOPIC:PARTITION=ID,...", value_parser = assign, required_unless_present = "plan")]
    pub moves: Vec<Assign>,
    /// A plan in a file; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "moves")]
    pub plan: Option<PathBuf>,
    /// Refuse what would change how many replicas a partition has.
    #[arg(long)]
    pub keep_replication_factor: bool,
    /// Show how far it is until all is done.
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ReassignCancel {
    /// Partitions, as TOPIC:PARTITION, or whole topics.
    #[arg(value_name = "TOPIC[:PARTITION]", value_parser = target, required_unless_present_any = ["plan", "all"])]
    pub targets: Vec<Target>,
    /// The partitions of a plan; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["targets", "all"])]
    pub plan: Option<PathBuf>,
    /// Everything that is under way.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub enum Records {
    /// Delete the oldest records of partitions, for good.
    #[command(after_help = "\
Examples:
  odradek records delete orders --before latest                 all that is there now
  odradek records delete orders --partition 3 --before 1200     offsets 0 to 1199 of partition 3")]
    Delete(RecordsDelete),
}

#[derive(Debug, ClapArgs)]
pub struct RecordsDelete {
    pub topic: String,
    /// The first offset that stays, or latest.
    #[arg(long, value_name = "OFFSET", value_parser = before)]
    pub before: Before,
    /// Only this partition; may be given several times. Without it, all of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Vec<i32>,
}

/// Where a deletion ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    Latest,
    Offset(i64),
}

impl Before {
    /// As a DeleteRecords request has it.
    pub fn offset(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Offset(offset) => offset,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub struct Decommission {
    /// Which broker is to go.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i32).range(0..))]
    pub id: i32,
    /// Only show what is on it, and whether there is room for it elsewhere.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait until it is done; asked again without this, the command shows how far it is.
    #[arg(long, conflicts_with = "dry_run")]
    pub no_wait: bool,
}

fn target(text: &str) -> Result<Target, String> {
    let wrong = || "it takes TOPIC, or TOPIC:PARTITION with a number from 0".to_owned();
    match text.rsplit_once(':') {
        _ if text.is_empty() => Err(wrong()),
        None => Ok(Target { topic: text.to_owned(), partition: None }),
        Some((topic, partition)) => match partition.parse() {
            Ok(partition @ 0..) if !topic.is_empty() => {
                Ok(Target { topic: topic.to_owned(), partition: Some(partition) })
            }
            _ => Err(wrong()),
        },
    }
}

fn assign(text: &str) -> Result<Assign, String> {
    let wrong = || "it takes TOPIC:PARTITION=ID,ID,... with the preferred leader first".to_owned();
    let (partition, replicas) = text.split_once('=').ok_or_else(wrong)?;
    let Ok(Target { topic, partition: Some(partition) }) = target(partition) else { return Err(wrong()) };
    let replicas: Option<Vec<i32>> =
        replicas.split(',').map(|id| id.trim().parse().ok().filter(|id| *id >= 0)).collect();
    Ok(Assign { topic, partition, replicas: replicas.ok_or_else(wrong)? })
}

fn before(text: &str) -> Result<Before, String> {
    match text {
        "latest" | "end" => Ok(Before::Latest),
        text => match text.parse() {
            Ok(offset @ 0..) => Ok(Before::Offset(offset)),
            _ => Err("it takes latest, or an offset from 0".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_moves_are_read() {
        let of = |topic: &str, partition| Ok(Target { topic: topic.to_owned(), partition });
        assert_eq!(target("orders"), of("orders", None));
        assert_eq!(target("orders:3"), of("orders", Some(3)));
        assert!(target("").is_err() && target("orders:").is_err() && target(":3").is_err() && target("o:-1").is_err());
        assert_eq!(
            assign("orders:1=3,4"),
            Ok(Assign { topic: "orders".to_owned(), partition: 1, replicas: vec![3, 4] })
        );
        assert!(assign("orders=3").is_err() && assign("orders:1=").is_err() && assign("orders:1=3,x").is_err());
        assert_eq!((before("latest"), before("7")), (Ok(Before::Latest), Ok(Before::Offset(7))));
        assert!(before("-1").is_err());
    }
}
