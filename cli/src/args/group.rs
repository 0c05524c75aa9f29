//! What can be typed about consumer groups.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Subcommand};

/// The states that groups of any type can be in, as Kafka names them.
const STATES: [&str; 8] =
    ["Stable", "Empty", "PreparingRebalance", "CompletingRebalance", "Dead", "Assigning", "Reconciling", "NotReady"];
const TYPES: [&str; 4] = ["classic", "consumer", "share", "streams"];

#[derive(Debug, Subcommand)]
pub enum Group {
    /// List the groups: their states, and who coordinates them.
    #[command(after_help = "\
Examples:
  odradek group list
  odradek group list --state empty                    groups whose consumers are gone
  odradek group list --state stable,empty --type classic --output json")]
    List(GroupList),
    /// Show how far a group has come in each partition, and how far it lags behind; or its last rebalances.
    #[command(after_help = "\
Examples:
  odradek group describe readers
  odradek group describe readers payments --output json      a line each
  odradek group describe --all-groups
  odradek group describe readers --history                     why it rebalanced, how long, what moved

LAG is what the group has still to read: the log end less what it has committed. - stands for what is not there: nothing
is committed, or nobody has the partition. A lag that grows, with members that have all partitions, wants more consumers
(up to one a partition); partitions that nobody has want any. SECONDS is for how long the oldest of these records has been
there, by its timestamp: 0.0 when all is read, - when it has none.

The history is that of the group's coordinator, since it took the group over.")]
    Describe(GroupDescribe),
    /// Show a group's members and the partitions that each has.
    #[command(after_help = "\
Example:
  odradek group members readers")]
    Members { group: String },
    /// Show, or with --execute set, where a group goes on reading.
    #[command(after_help = "\
Examples:
  odradek group reset-offsets readers --all-topics --to-earliest                 what would be done
  odradek group reset-offsets readers --all-topics --to-earliest --execute       does it
  odradek group reset-offsets readers --topic orders:0,1 --shift-by -100         read the last hundred again
  odradek group reset-offsets readers --topic orders --topic payments --to-datetime 2026-01-31T12:00:00
  odradek group reset-offsets readers --topic orders --by-duration PT1H30M       back to ninety minutes ago
  odradek group reset-offsets readers --all-topics --to-current --export > offsets.csv
  odradek group reset-offsets readers --from-file offsets.csv --execute
  odradek group reset-offsets --all-groups --all-topics --to-current --export > every-offset.csv

The group must have no active members: stop its consumers first. A new offset that is out of a partition's range becomes
the nearest that is not, with a warning. When one partition cannot be reset, none is. The files are those of Kafka's tool:
TOPIC,PARTITION,OFFSET on each line, or with several groups GROUP,TOPIC,PARTITION,OFFSET. Of several groups those that can
be reset are, though others cannot.")]
    ResetOffsets(ResetOffsets),
    /// Delete groups and all that they have committed.
    #[command(after_help = "\
Example:
  odradek group delete readers old-readers

A group with active members is not deleted: stop its consumers first.")]
    Delete {
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
    /// Forget what a group has committed in some topics.
    #[command(after_help = "\
Examples:
  odradek group delete-offsets readers --topic orders
  odradek group delete-offsets readers --topic orders:0,1 --topic payments

Topics that active members of the group read are refused.")]
    DeleteOffsets {
        group: String,
        /// A topic, or some of its partitions; may be given several times.
        #[arg(long, value_name = "TOPIC[:N,...]", value_parser = selection, required = true)]
        topic: Vec<Selection>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct GroupList {
    /// Only groups in these states.
    #[arg(long, value_name = "STATE,...", value_delimiter = ',', ignore_case = true,
          value_parser = PossibleValuesParser::new(STATES).map(|state| state.to_lowercase()))]
    pub state: Vec<String>,
    /// Only groups of these types.
    #[arg(long = "type", value_name = "TYPE,...", value_delimiter = ',', ignore_case = true,
          value_parser = PossibleValuesParser::new(TYPES).map(|kind| kind.to_lowercase()))]
    pub kind: Vec<String>,
}

/// Which groups are meant.
#[derive(Debug, Default, ClapArgs)]
pub struct Groups {
    #[arg(value_name = "GROUP", required_unless_present = "all_groups", conflicts_with = "all_groups")]
    pub groups: Vec<String>,
    /// Every group of the cluster.
    #[arg(long)]
    pub all_groups: bool,
}

#[derive(Debug, ClapArgs)]
pub struct GroupDescribe {
    #[command(flatten)]
    pub groups: Groups,
    /// The rebalances that the coordinator remembers, in place of the offsets.
    #[arg(long)]
    pub history: bool,
}

#[derive(Debug, ClapArgs)]
pub struct ResetOffsets {
    #[command(flatten)]
    pub groups: Groups,
    /// A topic, or some of its partitions; may be given several times.
    #[arg(long, value_name = "TOPIC[:N,...]", value_parser = selection,
          required_unless_present_any = ["all_topics", "from_file"], conflicts_with_all = ["all_topics", "from_file"])]
    pub topic: Vec<Selection>,
    /// Every partition that the group has committed an offset of.
    #[arg(long, conflicts_with = "from_file")]
    pub all_topics: bool,
    #[command(flatten)]
    pub to: Whereto,
    /// Do it; without this, the plan is only shown.
    #[arg(long)]
    pub execute: bool,
    /// Only show the plan, as without --execute.
    #[arg(long, conflicts_with = "execute")]
    pub dry_run: bool,
    /// Print the new offsets as CSV, for --from-file here or in Kafka's tool.
    #[arg(long)]
    pub export: bool,
}

/// Exactly one of them is given.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Whereto {
    /// The first record that is there.
    #[arg(long)]
    pub to_earliest: bool,
    /// Behind the last record: only what comes is read.
    #[arg(long)]
    pub to_latest: bool,
    /// Where the group is; the end where it has committed nothing.
    #[arg(long)]
    pub to_current: bool,
    /// This offset, in every partition that is named.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// So many records forward, or back when it is negative.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub shift_by: Option<i64>,
    /// The first record of that time or later, as 2026-01-31T12:00:00, with Z, +01:00 or nothing (UTC) after it.
    #[arg(long, value_name = "TIME", value_parser = datetime)]
    pub to_datetime: Option<i64>,
    /// The first record that is no older than this, as P1DT2H, PT90M, or 2d, 36h, 90m, 30s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub by_duration: Option<Duration>,
    /// The offsets of a CSV file, as --export writes it; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,
}

/// A topic, with the partitions that are meant; none: all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub topic: String,
    pub partitions: Vec<i32>,
}

fn selection(text: &str) -> Result<Selection, String> {
    let wrong = || "it takes TOPIC, or TOPIC:N,N,... with partitions from 0".to_owned();
    let (topic, partitions) = match text.split_once(':') {
        None => (text, Vec::new()),
        Some((topic, partitions)) => {
            let partitions = partitions.split(',').map(|index| index.trim().parse().ok().filter(|index| *index >= 0));
            (topic, partitions.collect::<Option<Vec<i32>>>().ok_or_else(wrong)?)
        }
    };
    if topic.is_empty() { Err(wrong()) } else { Ok(Selection { topic: topic.to_owned(), partitions }) }
}

/// Milliseconds since 1970 UTC. Kafka's tool takes a time without zone for UTC.
fn datetime(text: &str) -> Result<i64, String> {
    let wrong = || "it takes a time such as 2026-01-31T12:00:00.000, with Z or +01:00 for a zone".to_owned();
    let plain = |text: &str| crate::time::parse(text).or_else(|| crate::time::parse(&format!("{text}Z")));
    if let Some(milliseconds) = plain(text) {
        return Ok(milliseconds);
    }
    let at = text.len().checked_sub("+01:00".len()).ok_or_else(wrong)?;
    let (Some(local), Some(zone)) = (text.get(..at), text.get(at..)) else { return Err(wrong()) };
    let sign = match zone.get(..1) {
        Some("+") => 1,
        Some("-") => -1,
        _ => return Err(wrong()),
    };
    let two_digits =
        |text: Option<&str>| text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok();
    let (hours, minutes): (i64, i64) = two_digits(zone.get(1..3)).zip(two_digits(zone.get(4..))).ok_or_else(wrong)?;
    if zone.get(3..4) != Some(":") || hours > 18 || minutes > 59 || !local.contains('T') {
        return Err(wrong());
    }
    plain(local).map(|milliseconds| milliseconds - sign * (hours * 60 + minutes) * 60_000).ok_or_else(wrong)
}

/// ISO 8601's `PnDTnHnMnS`, as Java reads it, or one number with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it takes a duration such as P1DT2H, PT90M or PT0.5S; or 2d, 36h, 90m, 30s".to_owned();
    let upper = text.to_ascii_uppercase();
    let (days, time) = match upper.strip_prefix('P') {
        None => return parts(&upper, "DHMS").filter(|(count, _)| *count == 1).map(|(_, all)| all).ok_or_else(wrong),
        Some(rest) => match rest.split_once('T') {
            // A T that nothing follows is a slip.
            Some((_, "")) => return Err(wrong()),
            Some((days, time)) => (days, time),
            None => (rest, ""),
        },
    };
    let (days, time) = parts(days, "D").zip(parts(time, "HMS")).ok_or_else(wrong)?;
    if days.0 + time.0 == 0 { Err(wrong()) } else { days.1.checked_add(time.1).ok_or_else(wrong) }
}

/// How many numbers with a unit, in the order of `units`, and their sum. Seconds alone may have a fraction.
fn parts(text: &str, units: &str) -> Option<(usize, Duration)> {
    let (mut count, mut sum, mut rest, mut units) = (0, Duration::ZERO, text, units);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = (rest.get(..end)?, rest.get(end..=end)?);
        let place = units.find(unit)?;
        let part = match unit {
            "S" => Duration::try_from_secs_f64(number.parse().ok()?).ok()?,
            _ => {
                let seconds = match unit {
                    "D" => 86_400,
                    "H" => 3_600,
                    _ => 60,
                };
                Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?)
            }
        };
        sum = sum.checked_add(part)?;
        count += 1;
        (rest, units) = (rest.get(end + 1..)?, units.get(place + 1..)?);
    }
    Some((count, sum))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    #[test]
    fn topics_times_and_durations_are_read() {
        let of = |topic: &str, partitions: &[i32]| {
            Ok(Selection { topic: topic.to_owned(), partitions: partitions.to_vec() })
        };
        assert_eq!((selection("orders"), selection("orders:0,3")), (of("orders", &[]), of("orders", &[0, 3])));
        for text in ["", ":1", "orders:", "orders:x", "orders:-1", "orders:1,"] {
            assert!(selection(text).is_err(), "{text}");
        }
        let noon = Ok(1_709_208_000_000);
        for text in [
            "2024-02-29T12:00:00",
            "2024-02-29T12:00:00.000",
            "2024-02-29T12:00:00Z",
            "2024-02-29T13:30:00.000+01:30",
            "2024-02-29T07:00:00-05:00",
            "1709208000000",
        ] {
            assert_eq!(datetime(text), noon, "{text}");
        }
        for text in [
            "",
            "soon",
            "2024-02-30T12:00:00",
            "2024-02-29T12:00:00+1",
            "2024-02-29T12:00:00+19:00",
            "+01:00",
            "é+01:00",
        ] {
            assert!(datetime(text).is_err(), "{text}");
        }
        for (text, millis) in [
            ("P1DT2H3M4.5S", 93_784_500),
            ("PT90M", 5_400_000),
            ("pt30s", 30_000),
            ("P0D", 0),
            ("2d", 172_800_000),
            ("36h", 129_600_000),
            ("90m", 5_400_000),
            ("0.5s", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "P", "PT", "P1DT", "P1H", "PT1D", "PT1M1H", "P-1D", "1h30m", "h", "5", "P1.5D", "P999999999999999999D"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reset_has_one_aim_and_says_of_what() {
        let parse = |line: &str| Args::try_parse_from(format!("odradek group {line}").split(' '));
        for line in [
            "reset-offsets g --topic t --to-earliest",
            "reset-offsets g --topic t:0,1 --topic u --shift-by -5 --execute",
            "reset-offsets g --all-topics --by-duration PT1H --dry-run --export",
            "reset-offsets g --from-file -",
            "list --state Empty,stable --type CLASSIC",
            "describe a b",
            "describe --all-groups",
            "reset-offsets a b --topic t --to-latest",
            "reset-offsets --all-groups --from-file f",
            "delete-offsets g --topic t",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
        for line in [
            "reset-offsets g --topic t",
            "reset-offsets g --to-earliest",
            "reset-offsets g --topic t --to-earliest --to-latest",
            "reset-offsets g --topic t --all-topics --to-latest",
            "reset-offsets g --topic t --from-file f",
            "reset-offsets g --all-topics --from-file f",
            "reset-offsets g --topic t --to-offset -1",
            "reset-offsets g --topic t --to-latest --execute --dry-run",
            "reset-offsets --topic t --to-latest",
            "list --state Asleep",
            "list --type old",
            "describe",
            "describe a --all-groups",
            "delete",
            "delete-offsets g",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
